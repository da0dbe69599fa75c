"""A month at four librarians, seeded: whatever the clock, cron, operators, lines, disks, carriers and power cuts do to them.

Everything runs in this process under a clock of its own. Each step draws from the seed and the step's number alone, so
that a seed replays; what must hold after every step is in ``tests/test_month.py``.

What is not real here, so that a month takes seconds: fsync does nothing (a power cut takes no written byte back), SQLite
does not wait for the disk, and a process that is killed is an exception that no ``except Exception`` sees, after which
that process can neither write a row nor rename, link, make or remove anything.
"""

from __future__ import annotations

import copy
import errno
import os
import random
import shutil
import signal
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from libtool import cli, copying, digest, seams, settings
from libtool.archive import accounts
from libtool.errors import CarrierBusy, CarrierRefused, CarrierUnknown
from libtool.models import base
from libtool.movers.base import Item, Progress, Stage, Ticket
from libtool.movers.local import LocalMover
from libtool.peers.client import Answer, NoAnswer
from libtool.peers.exec import ExecTransport
from libtool.stores.posix import ASIDE, PosixStore
from tests.networks import Backup, Network, World, make_network
from tests.sites import Ran, Site

#: A triangle, so that archive_a is sent every file twice and reported twice.
LINKS = (("origin", "hub"), ("origin", "archive_a"), ("hub", "archive_a"), ("hub", "archive_b"))
SITES = ("origin", "hub", "archive_a", "archive_b")
SOURCES = ("origin", "hub")
STORES = ("main", "spare")
#: Every command that cron starts, as far as this libtool has it: name → how it is called, drawn from a die.
Words = list[str]


class Killed(BaseException):
    """The process ends here."""


class Broken(BaseException):
    """Something is not as it must be; no ``except Exception`` on the way hides it."""


@dataclass
class Process:
    """A command, or the callback that answers one of its requests."""

    site: str
    what: str
    dead: bool = False


@dataclass
class Flight:
    """A task of an asynchronous carrier."""

    mover: LocalMover
    provider: Any
    ticket: Ticket
    items: list[Item]
    due: datetime
    result: Ticket | None = None


@dataclass
class Trouble:
    """Something that lasts until a moment, with a strength or a kind."""

    until: datetime
    kind: str


class Skies(World):
    """The world with weather: lines that fail in every way, requests that come late or twice, callbacks that die."""

    month: Month

    def post(self, transport: ExecTransport, path: str, body: bytes, authorization: str | None) -> Answer:
        """One request."""
        return self.month.request(transport, path, body, authorization)

    def deliver(self, transport: ExecTransport, path: str, body: bytes, authorization: str | None) -> Answer:
        """One request that arrives."""
        return super().post(transport, path, body, authorization)


@dataclass
class Month:
    """The simulation of one seed."""

    top: Path
    seed: int
    count: int  #: files that come in over the month
    monkeypatch: pytest.MonkeyPatch
    steps: int = 100
    network: Network = field(init=False)
    world: Skies = field(init=False)

    def __post_init__(self) -> None:
        self.step = 0
        self.dice = random.Random(f"{self.seed}")
        self.log: deque[str] = deque(maxlen=20)
        self.said: list[tuple[int, datetime, str, str]] = []  #: (step, when, site, line) that tasks printed
        self.stats: Counter[str] = Counter()
        self.processes: list[Process] = []
        self.passed = self.fatal = self.meet = 0
        self.beside: Callable[[], None] | None = None
        self.touched: set[str] = set()
        self.lines: dict[str, Trouble] = {}
        self.cuts: dict[str, datetime] = {}  #: librarians that are unreachable until then
        self.carriers: dict[str, Trouble] = {}
        self.unmounted: dict[tuple[str, str], datetime] = {}
        self.full: dict[tuple[str, str], datetime] = {}
        self.midway: set[tuple[str, str]] = set()  #: unmounted while a command was at work: what it writes then is hidden
        self.late: list[tuple[int, Any, str, bytes, str | None]] = []
        self.flights: dict[int, Flight] = {}
        self.tickets = 0
        self.backups: dict[str, list[tuple[int, Backup, set[str]]]] = {name: [] for name in SITES}
        self.switched: list[tuple[int, tuple[str, ...], tuple[str, ...]]] = []  #: what an operator will undo, and when
        self.unreadable: dict[int, Path] = {}  #: inode → a link that keeps it
        self.crashed: list[str] = []  #: tracebacks
        self.ways = 0
        self.dark: set[tuple[str, str]] = set()  #: what nobody could see when the step began
        #: What ever was to come in: name → content; of a directory its files by relative name.
        self.content: dict[str, bytes | dict[str, bytes]] = {}
        self.waiting: dict[str, set[str]] = {name: set() for name in SOURCES}  #: not taken in yet
        self.moving: set[str] = set()  #: originals that an ingest may have renamed
        self.acknowledged: dict[str, str] = {}  #: name → at which librarian it came in
        self.expendable: set[str] = set()  #: of these the simulation may destroy every copy
        self.start = datetime(2031, 5, 1)
        self._take_over()
        self._found()

    # -- the world -------------------------------------------------------------------------------------------------

    def _take_over(self) -> None:
        patch = self.monkeypatch.setattr
        self.world = Skies()
        self.world.month = self
        self.world.take_over(self.monkeypatch)
        self.start = self.world.now
        random.seed(self.seed)  # libtool shuffles destinations
        ids = random.Random(f"{self.seed} ids")
        patch(os, "urandom", ids.randbytes)
        patch(accounts, "GUESS_SECONDS", 0.0)
        patch(signal, "signal", lambda *words: None)
        patch(seams, "watch", self._watch)
        patch(os, "fsync", lambda descriptor: None)
        patch(copying, "SYNC_EACH_UPTO", 10**9)
        unexpected, opened, load = cli._unexpected, base.open_database, settings.load

        def fault(trouble: Exception, arguments: list[str]) -> int:
            self.crashed.append("".join(traceback.format_exception(trouble))[-1500:])
            return unexpected(trouble, arguments)

        def open_quickly(*words: Any, **options: Any) -> Any:
            database = opened(*words, **options)
            database.execute_sql("PRAGMA synchronous=0")
            return database

        def read(file: str) -> Any:
            self.touched.add(os.path.basename(os.path.dirname(file)))
            return load(file)

        patch(cli, "_unexpected", fault)
        patch(base, "open_database", open_quickly)
        patch(settings, "load", read)
        for name in ("unlink", "rename", "rmdir", "mkdir", "link", "chmod"):
            patch(os, name, self._only_alive(getattr(os, name)))
        self._patch_disks()
        self._patch_carriers()

    def _only_alive(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*words: Any, **options: Any) -> Any:
            if self.processes and self.processes[-1].dead:
                raise Killed
            return act(*words, **options)

        return guarded

    def _patch_disks(self) -> None:
        patch, free, copy_file, of_file = self.monkeypatch.setattr, PosixStore._free, copying.copy_file, digest.of_file

        def room(store: PosixStore, directory: str) -> int:
            return 0 if self._is_full(directory) else free(store, directory)

        def copied(source: str, target: str, **options: Any) -> Any:
            self._readable(source)
            if self._is_full(target):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)
            return copy_file(source, target, **options)

        def summed(path: str, *words: Any, **options: Any) -> str:
            self._readable(path)
            return of_file(path, *words, **options)

        patch(PosixStore, "_free", room)
        patch(copying, "copy_file", copied)
        patch(digest, "of_file", summed)

    def _is_full(self, path: str) -> bool:
        return any(path.startswith(f"{self.top}/{site}/{store}/") for site, store in self.full)

    def _readable(self, path: str) -> None:
        if self.unreadable and os.path.exists(path) and os.stat(path).st_ino in self.unreadable:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    def _found(self) -> None:
        """Four librarians with two stores each."""
        here = {"local": {"available": True, "hostnames": [LocalMover([]).hostname]}}
        stores = [
            {
                "store_name": name,
                "store_data": {"staging_path": f"{name}/staging", "store_path": f"{name}/store"},
                "asynchronous_transfer_manager_data": here,
            }
            for name in STORES
        ]
        for name in SITES:
            for store in STORES:
                (self.top / name / store).mkdir(parents=True)
        self.network = make_network(self.top, self.world, LINKS, add_stores=stores)
        self.passwords: dict[tuple[str, str], str] = {}
        for here_name, site in self.network.sites.items():
            to = [there for one, there in LINKS if one == here_name]
            roots = [str(self.top / there / store / "staging") for there in to for store in STORES]
            if to:
                site.write(local_transfer_roots=roots)
            with site.open() as node:
                from libtool.models.tables import Librarian

                for row in Librarian.select():
                    self.passwords[here_name, row.name] = node.reveal(row.authenticator)

    # -- processes -------------------------------------------------------------------------------------------------

    def _watch(self, name: str) -> None:
        """A seam is passed: the process may end here, or something else may happen meanwhile."""
        if not self.processes:
            return
        process = self.processes[-1]
        if process.dead:
            raise Killed
        self.passed += 1
        if self.passed == self.fatal:
            process.dead = True
            self.stats["ended at seams"] += 1
            self.note(f"ended: {process.what} at {process.site}, at '{name}'")
            raise Killed
        if self.beside is not None and self.passed >= self.meet and not any(each.in_transaction() for each in base._open):
            deed, self.beside = self.beside, None
            kept, self.passed, self.fatal = (self.passed, self.fatal), 0, 0
            self.note(f"meanwhile, at '{name}' of {process.what} at {process.site}:")
            deed()
            self.passed, self.fatal = kept

    def run(self, site: str, *words: str, stdin: str = "") -> Ran | None:
        """Run a command at a librarian; None when it was killed."""
        self.stats["commands"] += 1
        self.touched.add(site)
        process = Process(site, " ".join(words[:2])[:60])
        self.processes.append(process)
        ran: Ran | None = None
        before = len(self.crashed)
        try:
            ran = self.network[site].run(None, *words, stdin=stdin)
        except Killed:
            if not process.dead:
                raise
        finally:
            self.processes.pop()
        self.note(f"{site}: {' '.join(words)} → {'killed' if ran is None else ran.code}")
        if ran is None:
            return None
        lines = ran.err.splitlines()
        for line in lines:
            self.note(f"    {line[:220]}")
            self.said.append((self.step, self.world.now, site, line))
        if len(self.crashed) > before or "internal error" in ran.err or "Traceback" in ran.err:
            raise Broken("\n".join(["internal error", ran.err, *self.crashed[before:]]))
        if ran.code not in (0, 3, 4, 75) and not (ran.code == 1 and (self._broken_here(site) or self._unknown(words, ran))):
            raise Broken(f"{site}: {words} ended with {ran.code}: {ran.err}")
        return ran

    @staticmethod
    def _unknown(words: tuple[str, ...], ran: Ran) -> bool:
        """Whether an operator speaks of a librarian that a restored catalogue has not, or has already."""
        here = {"remove-librarian", "add-librarian", "retry", "set-librarian-transfer"}
        return words[0] in here and ("does not exist" in ran.err or "exists already" in ran.err)

    def _broken_here(self, site: str) -> bool:
        disabled = any(where[0] == site and words[0] == "set-store-state" for _, where, words in self.switched)
        return disabled or any(where == site for where, _ in [*self.unmounted, *self.full])

    def request(self, transport: ExecTransport, path: str, body: bytes, authorization: str | None) -> Answer:
        """One request on its way."""
        site = os.path.basename(os.path.dirname(transport.config))
        caller = self.processes[-1].site if self.processes else "?"
        if site in self.cuts or caller in self.cuts:
            raise NoAnswer("no route to host")
        fault = self._fault(self.lines.get(site), 0.4)
        if fault == "late":
            self.late.append((self.step + self.dice.randint(1, 4), transport, path, body, authorization))
            raise NoAnswer("no answer within 60 s")
        answer = self._arrive(transport, path, body, authorization, site)
        if fault == "twice":
            answer = self._arrive(transport, path, body, authorization, site)
        if fault == "lost":
            raise NoAnswer("connection reset by peer")
        if fault == "cut":
            return Answer(answer.status, answer.headers, answer.body[: len(answer.body) // 2])
        if fault == "proxy":
            return Answer(502, {"content-type": "text/html"}, b"<html>Bad Gateway</html>")
        if fault == "refused":
            raise NoAnswer("connection refused")
        return answer

    def _arrive(self, transport: ExecTransport, path: str, body: bytes, authorization: str | None, site: str) -> Answer:
        process = Process(site, f"callback {path.removeprefix('/api/v2/')}")
        self.processes.append(process)
        try:
            answer = self.world.deliver(transport, path, body, authorization)
        except Killed:
            if not process.dead:
                raise
            raise NoAnswer("its callback ended without an answer") from None
        finally:
            self.processes.pop()
        if answer.status == 500 and b"Internal error" in answer.body:
            raise Broken(f"internal error of the callback of {site} at {path}: {body[:300]!r}")
        return answer

    def _fault(self, trouble: Trouble | None, chance: float) -> str:
        if trouble is None or self.dice.random() > chance:
            return ""
        return trouble.kind if trouble.kind != "any" else self.dice.choice(["late", "twice", "lost", "cut", "proxy"])

    def deliver_late(self, *, everything: bool = False) -> None:
        """Requests that were under way for long arrive."""
        due = [each for each in self.late if everything or each[0] <= self.step]
        self.late = [each for each in self.late if each not in due]
        for _, transport, path, body, authorization in due:
            site = os.path.basename(os.path.dirname(transport.config))
            self.touched.add(site)
            self.note(f"{site}: a late {path}")
            with suppress(NoAnswer):
                self._arrive(transport, path, body, authorization, site)

    # -- carriers --------------------------------------------------------------------------------------------------

    def _patch_carriers(self) -> None:
        """The local carrier stands in for one that works by itself, far away, and fails in every way."""
        patch = self.monkeypatch.setattr
        carry, submit, poll = LocalMover.carry, LocalMover.submit, LocalMover.poll
        self._submit = submit

        def prepared(mover: LocalMover, provider: Any, label: str) -> Ticket:
            self.tickets += 1
            return {"number": self.tickets}

        def carried(mover: LocalMover, item: Item, part: str) -> None:
            self._carry(carry, mover, item, part)

        def submitted(mover: LocalMover, provider: Any, ticket: Ticket, items: Any) -> Ticket:
            number = ticket["number"]
            if number in self.flights:  # the same submission again
                return {**ticket, "flight": number}
            kind = self._submission(items)
            if kind == "unknown":
                raise CarrierUnknown(carrier="local", why="no answer to the submission")
            if kind == "busy":
                raise CarrierBusy(carrier="local", why="it has too many tasks")
            if kind == "no":
                raise CarrierRefused(carrier="local", why="it does not want to")
            if kind in ("slow", "slow and unknown"):
                due = self.world.now + timedelta(minutes=self.dice.randint(1, 600))
                self.flights[number] = Flight(mover, provider, dict(ticket), list(items), due)
                if kind == "slow":
                    return {**ticket, "flight": number}
                raise CarrierUnknown(carrier="local", why="no answer to the submission")
            done = submit(mover, provider, ticket, items)
            if kind == "done and unknown":
                raise CarrierUnknown(carrier="local", why="no answer to the submission")
            return done

        def polled(mover: LocalMover, ticket: Ticket) -> Progress:
            flight = self.flights.get(ticket.get("flight", -1))
            if flight is None:
                return poll(mover, ticket)
            if self.dice.random() < 0.1:
                raise CarrierUnknown(carrier="local", why="no answer to a question")
            if flight.result is None:
                if self.carriers and self.dice.random() < 0.05:
                    return Progress(Stage.LOST, still=3600.0)
                return Progress(Stage.RUNNING)
            return Progress(Stage.DONE, ticket={**ticket, **flight.result})

        def cancelled(mover: LocalMover, ticket: Ticket) -> None:
            flight = self.flights.get(ticket.get("flight", -1))
            if flight is not None and flight.result is None and self.dice.random() < 0.7:
                flight.result = {"failed": {item.target: ("it was cancelled", True) for item in flight.items}}

        for name, new in (("prepare", prepared), ("carry", carried), ("submit", submitted), ("poll", polled), ("cancel", cancelled)):
            patch(LocalMover, name, new)
        patch(LocalMover, "asynchronous", self.seed % 2 == 1)

    def _site_of(self, target: str) -> str:
        return target[len(str(self.top)) + 1 :].partition("/")[0]

    def _submission(self, items: Any) -> str:
        trouble = self.carriers.get(self._site_of(items[0].target)) if items else None
        if trouble is None:
            return "slow" if self.dice.random() < 0.15 else ""
        kinds = ["", "unknown", "busy", "no", "slow", "slow and unknown", "done and unknown"]
        return self.dice.choice(kinds) if self.dice.random() < 0.6 else ""

    def _carry(self, carry: Any, mover: LocalMover, item: Item, part: str) -> None:
        trouble = self.carriers.get(self._site_of(item.target))
        if trouble is None or self.dice.random() > 0.3:
            carry(mover, item, part)
            return
        self.stats["files ill carried"] += 1
        kind = self.dice.choice(["before", "during", "after", "left out", "short", "other"])
        if kind == "before":
            raise OSError(self.dice.choice([errno.EIO, errno.ENOSPC, errno.EACCES]), "the carrier failed", item.target)
        if kind == "left out":
            return
        carry(mover, item, part)
        path = Path(item.target)
        if item.directory and kind != "after":
            path = min(each for each in path.rglob("*") if each.is_file())
        if kind == "during":
            path.rename(path.with_name(f".libtool-{self.tickets:08x}"))
            raise OSError(errno.EIO, "the carrier failed", item.target)
        if kind == "after":
            raise OSError(errno.EIO, "the carrier failed", item.target)
        data = path.read_bytes()
        if data:
            path.write_bytes(data[:-1] if kind == "short" else bytes([data[0] ^ 1]) + data[1:])

    def fly(self, *, everything: bool = False) -> None:
        """What flies arrives when its time has come, whether anybody asks or not."""
        for flight in self.flights.values():
            if flight.result is None and (everything or flight.due <= self.world.now):
                done = self._submit(flight.mover, flight.provider, flight.ticket, flight.items)
                flight.result = {key: done[key] for key in ("failed", "files", "bytes")}
                self.touched |= {self._site_of(item.target) for item in flight.items}

    # -- what happens ----------------------------------------------------------------------------------------------

    def note(self, what: str) -> None:
        """Something happened."""
        self.log.append(f"{self.step:4} {self.world.now:%m-%d %H:%M} {what}")

    def live(self) -> Iterator[int]:
        """The month, step by step; yields after each, when what must hold can be checked."""
        share = self.count
        for step in range(1, self.steps + 1):
            self.step = step
            self.dice = random.Random(f"{self.seed} {self.step}")
            self.touched = set()
            self._pass_time()
            self._end_troubles()
            self.dark = self.unseen()
            left = self.steps - self.step + 1
            if self.step % 4 == 1 and share:
                some = min(share, max(1, round(share / max(1, left / 4) * self.dice.uniform(0.3, 2.5))))
                share -= some
                self._new_files(some)
            self._something()
            yield step

    def unseen(self) -> set[tuple[str, str]]:
        """Stores that nobody else can be told anything about now."""
        return set(self.unmounted) | {(site, store) for site in self.cuts for store in STORES}

    def _pass_time(self) -> None:
        chance = self.dice.random()
        minutes = self.dice.uniform(1, 10) if chance < 0.5 else self.dice.uniform(10, 300) if chance < 0.9 else self.dice.uniform(300, 2000)
        self.world.wait(minutes=round(minutes * 2))  # a month has few steps
        if self.dice.random() < 0.02:
            hours = self.dice.choice([-1, -3, -7, 30, 70])
            self.world.wait(hours=hours)
            self.stats["clock jumps"] += 1
            self.note(f"the clock jumps by {hours} hours")

    def _end_troubles(self) -> None:
        now = self.world.now
        for store in [each for each, until in self.unmounted.items() if until <= now]:
            self.mount(*store)
        for site, until in list(self.cuts.items()):
            if until <= now:
                del self.cuts[site]
                self.note(f"{site} can be reached again")
        for troubles in (self.lines, self.carriers):
            for site in [site for site, trouble in troubles.items() if trouble.until <= now]:
                del troubles[site]
        for store in [each for each, until in self.full.items() if until <= now]:
            del self.full[store]
            self.note(f"{store} has room again")
        self.fly()
        self.deliver_late()
        for each in [each for each in self.switched if each[0] <= self.step]:
            self.switched.remove(each)
            self.run(each[1][0], *each[2], stdin=each[1][1] if len(each[1]) > 1 else "")

    def _something(self) -> None:
        """One random thing."""
        deeds: list[tuple[float, Callable[[], None]]] = [
            (34, self.some_task),
            (10, self.cron_everywhere),
            (8, self.cron_somewhere),
            (5, self.operate),
            (6, self.damage),
            (3, self.cut_off),
            (4, self.spoil_line),
            (4, self.spoil_carrier),
            (3, self.unmount_something),
            (2, self.fill_something),
            (3, self.back_up),
            (1.6, self.restore),
            (1, self.ingest_again),
        ]
        self._draw(deeds)()

    def _draw(self, deeds: list[tuple[float, Callable[[], None]]]) -> Callable[[], None]:
        return self.dice.choices([deed for _, deed in deeds], [weight for weight, _ in deeds])[0]

    def _until(self, least: float, most: float) -> datetime:
        return self.world.now + timedelta(hours=self.dice.uniform(least, most))

    # .. tasks

    def task(self, site: str) -> Words:
        """A command line of a background task that this libtool has, with options that somebody may give it."""
        dice, to = self.dice, [there for here, there in LINKS if here == site]
        lines: list[tuple[float, Words]] = [(3, ["recv-clone"])]
        if dice.random() < 0.5:
            lines[0][1].extend(["--deletion-policy", "allowed"])
        if dice.random() < 0.2:
            lines[0][1].extend(["--files-per-run", str(dice.randint(1, 20))])
        if to:
            send = ["send-clone", "--destination-librarian", dice.choice(to)]
            if dice.random() < 0.3:
                send += ["--send-batch-size", str(dice.randint(1, 30))]
            lines += [(3, send), (3, ["consume-queue"]), (3, ["check-consumed-queue"])]
        lines.append((1, ["reconcile"]))
        lines += [(weight, words) for weight, words in self._later_tasks(site) if words[0] in cli.COMMANDS]
        return dice.choices([words for _, words in lines], [weight for weight, _ in lines])[0]

    def _later_tasks(self, site: str) -> list[tuple[float, Words]]:
        dice = self.dice
        age = f"{dice.choice([0.01, 0.2, 1.0, 5.0])}"
        store = dice.choice(STORES)
        other = "spare" if store == "main" else "main"
        delete = ["rolling-deletion", "--store", store, "--age-in-days", f"{dice.choice([0.5, 3.0])}"]
        delete += ["--number-of-remote-copies", str(dice.choice([1, 2, 2, 3]))]
        delete += ["--keep-days", str(dice.choice([0, 1, 3]))] if dice.random() < 0.7 else []
        delete += ["--no-verify-downstream-checksums"] if dice.random() < 0.1 else []
        delete += ["--remove-rows"] if dice.random() < 0.2 else []
        return [
            (1.5, ["outgoing-transfer-hypervisor", "--age-in-days", age]),
            (1.5, ["incoming-transfer-hypervisor", "--age-in-days", age]),
            (2, ["check-integrity", "--age-in-days", age, *(["--store", store] if dice.random() < 0.5 else [])]),
            (3, ["corruption-fixer"]),
            (3, delete),
            (0.5, ["duplicate-remote-instance-hypervisor"]),
            (1, ["create-local-clone", "--clone-from", store, "--clone-to", other]),
        ]

    def some_task(self) -> None:
        """One task at one librarian; perhaps it is killed, or something happens meanwhile, or it runs twice."""
        site = self.dice.choice(SITES)
        self.started(site, self.task(site))

    def started(self, site: str, words: Words) -> None:
        """Run it, one way or the other."""
        self.stats["tasks"] += 1
        self.passed, self.fatal, self.beside = 0, 0, None
        chance = self.dice.random()
        if chance < 0.3:
            self.fatal = self.dice.randint(1, 12) if self.dice.random() < 0.5 else self.dice.randint(1, 80)
        elif chance < 0.55:
            self.meet = self.dice.randint(1, 40)
            deeds: list[tuple[float, Callable[[], None]]] = [(3, self.another_task), (3, lambda: self.again(site, words)), (1, self.unmount_something), (1, self.cut_off), (1, self.spoil_line)]
            self.beside = self._draw(deeds)
        elif chance < 0.6:
            self.run(site, *words)
        try:
            self.run(site, *words)
        finally:
            self.fatal, self.beside = 0, None

    def again(self, site: str, words: Words) -> None:
        """The same task is started while it runs."""
        self.stats["tasks"] += 1
        self.run(site, *words)

    def another_task(self) -> None:
        """Another task runs in the middle of one."""
        site = self.dice.choice(SITES)
        self.stats["tasks"] += 1
        self.run(site, *self.task(site))

    def cron_somewhere(self) -> None:
        """Everything that cron has at one librarian."""
        site = self.dice.choice(SITES)
        for words in self.round_of(site):
            self.started(site, words)

    def cron_everywhere(self) -> None:
        """A tick everywhere, undisturbed."""
        sites = list(SITES)
        self.dice.shuffle(sites)
        for site in sites:
            for words in self.round_of(site):
                self.stats["tasks"] += 1
                self.run(site, *words)

    def round_of(self, site: str, *, caring: bool = False) -> list[Words]:
        """What cron starts at one librarian; ``caring``: with those that mend, and without those that delete."""
        words: list[Words] = [["recv-clone"]]
        to = [there for here, there in LINKS if here == site]
        if to:
            send = [part for there in to for part in ("--destination-librarian", there)]
            words += [["send-clone", *send], ["consume-queue"], ["check-consumed-queue"]]
        if caring:
            words += [["check-integrity", "--store", store, "--age-in-days", "1", "--believe"] for store in STORES]
            words += [["corruption-fixer"], ["outgoing-transfer-hypervisor", "--age-in-days", "0.5"]]
            words += [["incoming-transfer-hypervisor", "--age-in-days", "0.5"]]
        return [each for each in words if each[0] in cli.COMMANDS]

    # .. files

    def _new_files(self, some: int) -> None:
        """New files, mostly at the origin."""
        site = "origin" if self.dice.random() < 0.8 else "hub"
        for _ in range(some):
            number = len(self.content)
            chance = self.dice.random()
            folder = "/".join(f"d{self.dice.randint(0, 3)}" for _ in range(self.dice.randint(0, 2)))
            name = f"{site}/{folder}/{number}".replace("//", "/")
            if chance < 0.05:
                name = f"{site}/trees/{number}"
                self.content[name] = {"one": self.dice.randbytes(9), "in/two": b"", f"three {number}": self.dice.randbytes(40)}
            elif chance < 0.1:
                self.content[name] = b""
            else:
                self.content[name] = self.dice.randbytes(self.dice.randint(1, 190)) + str(number).encode()
            if self.dice.random() < 0.04:
                self.expendable.add(name)
            self.waiting[site].add(name)
        self.ingest(site)

    def originals(self, site: str) -> Path:
        """Where what is to come in lies."""
        return self.top / f"{site}.originals"

    def ingest(self, site: str) -> None:
        """Take in what waits, perhaps by moving; what is not in the catalogue afterwards waits for the next time."""
        names = sorted(self.waiting[site])
        if not names or any(where == site for where, _ in self.unmounted):
            return
        top = self.originals(site)
        # What lies in the store already, unrecorded, is taken over by copying alone.
        move = ["--move"] if self.dice.random() < 0.3 and not self.acknowledged.keys() & set(names) else []
        for name in names:
            self.lay_down(top, name)
        if move:
            self.moving |= set(names)
        store = ["--store", self.dice.choice(STORES)] if self.dice.random() < 0.2 else []
        self.stats["ingests"] += 1
        ended = self.dice.random() < 0.15 and self.step <= self.steps
        self.passed, self.fatal = 0, self.dice.randint(1, 60) if ended else 0
        alive: Ran | None = Ran(0, "", "")
        plain = [name for name in names if isinstance(self.content[name], bytes)]
        if plain:
            alive = self.run(site, "ingest", *move, *store, "--uploader", "observer", "--recursive", str(top / "plain"))
        for name in names:
            if name not in plain and alive is not None:
                alive = self.run(site, "ingest", *move, *store, "--uploader", "observer", str(top / "trees" / name), name)
        self.fatal = 0

    def lay_down(self, top: Path, name: str) -> None:
        """Write an original, unless an ingest may have moved it away."""
        content = self.content[name]
        if name in self.moving:
            return
        files = {"": content} if isinstance(content, bytes) else content
        for inner, data in files.items():
            path = top / ("plain" if isinstance(content, bytes) else "trees") / name / inner
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_bytes(data)

    def taken(self, site: str, names: set[str]) -> None:
        """These are in the catalogue now."""
        for name in names:
            self.waiting[site].discard(name)
            self.moving.discard(name)
            self.acknowledged.setdefault(name, site)
            content = self.content[name]
            path = self.originals(site) / ("plain" if isinstance(content, bytes) else "trees") / name
            if path.is_dir():
                shutil.rmtree(path)
            elif path.exists():
                path.unlink()

    def ingest_again(self) -> None:
        """The operator repeats what did not end well."""
        for site in SOURCES:
            self.ingest(site)

    # .. troubles

    def cut_off(self) -> None:
        """A librarian is not reachable, and reaches nobody, for hours or days."""
        site = self.dice.choice(SITES)
        self.cuts[site] = self._until(0.1, 48)
        self.stats["outages"] += 1
        self.note(f"{site} is cut off until {self.cuts[site]:%m-%d %H:%M}")

    def spoil_line(self) -> None:
        """Answers of a librarian are lost, cut or late."""
        site = self.dice.choice(SITES)
        self.lines[site] = Trouble(self._until(0.1, 30), self.dice.choice(["any", "lost", "late", "cut", "twice", "refused"]))
        self.stats["outages"] += 1
        self.note(f"the line to {site} is bad: {self.lines[site].kind}")

    def spoil_carrier(self) -> None:
        """The carrier to a librarian fails in every way."""
        site = self.dice.choice(SITES[1:])
        self.carriers[site] = Trouble(self._until(0.1, 30), "any")
        self.stats["outages"] += 1
        self.note(f"the carrier to {site} is bad")

    def unmount_something(self) -> None:
        """A store is not mounted: an empty directory is in its place."""
        site, store = self.dice.choice(SITES), self.dice.choice(STORES)
        if (site, store) in self.unmounted:
            return
        root = self.top / site / store
        self.unmounted[site, store] = self._until(0.1, 40)
        self.midway |= {(site, store)} if self.processes else set()
        self.stats["outages"] += 1
        self.note(f"{site}/{store} is unmounted")
        self._by_hand(os.rename, root, root.with_name(f"{store}.away"))
        self._by_hand(os.mkdir, root)
        if self.dice.random() < 0.5:
            self._by_hand(os.mkdir, root / "store")
            self._by_hand(os.mkdir, root / "staging")

    def mount(self, site: str, store: str) -> None:
        """It is mounted again; nothing may have been put where it was missing."""
        root = self.top / site / store
        there = [str(path.relative_to(root)) for path in root.rglob("*")]
        if any(name not in ("store", "staging") for name in there) and (site, store) not in self.midway:
            raise Broken(f"{site}/{store} was not mounted, and {there} was written there")
        shutil.rmtree(root)
        os.rename(root.with_name(f"{store}.away"), root)
        del self.unmounted[site, store]
        self.midway.discard((site, store))
        self.touched.add(site)
        self.note(f"{site}/{store} is mounted again")

    def fill_something(self) -> None:
        """A disk is full."""
        where = self.dice.choice(SITES), self.dice.choice(STORES)
        self.full[where] = self._until(0.1, 30)
        self.stats["outages"] += 1
        self.note(f"{where} is full")

    def _by_hand(self, act: Callable[..., Any], *words: Any) -> None:
        """Not the process does it that is under way."""
        kept, self.processes = self.processes, []
        try:
            act(*words)
        finally:
            self.processes = kept

    def place(self, site: str, store: str) -> Path:
        """Where a store's directories are now."""
        root = self.top / site / store
        return root.with_name(f"{store}.away") if (site, store) in self.unmounted else root

    def damage(self) -> None:
        """Somebody, or time, ruins copies by hand; replaced by the checks, which know what is good."""

    # .. operators

    def operate(self) -> None:
        """An operator does something, and undoes it some steps later."""
        dice = self.dice
        site, later = dice.choice(SITES), self.step + dice.randint(2, 25)
        to = [there for here, there in LINKS if here == site]
        near = to + [here for here, there in LINKS if there == site]
        kind = dice.choice(["transfer", "store", "remove", "retry", "policy", "delete", "restore"])
        if kind == "transfer" and to:
            other = dice.choice(to)
            self.run(site, "set-librarian-transfer", "--name", other, "--disabled")
            self.switched.append((later, (site,), ("set-librarian-transfer", "--name", other, "--enabled")))
        elif kind == "store":
            store = dice.choice(STORES)
            self.run(site, "set-store-state", "--store", store, "--disabled")
            self.switched.append((later, (site,), ("set-store-state", "--store", store, "--enabled")))
        elif kind == "remove" and not any("add-librarian" in words for _, _, words in self.switched):
            other = dice.choice(near)
            if any(where[0] == site and other in words for _, where, words in self.switched):
                return
            self.run(site, "remove-librarian", "--name", other)
            self.switched.append((later, (site, self._secret(site, other)), self._add(other)))
        elif kind == "retry" and to and not any("add-librarian" in words for _, _, words in self.switched):
            self.run(site, "retry", "--librarian", dice.choice(to))
        elif kind == "policy" and "set-deletion-policy" in cli.COMMANDS:
            some = ["--prefix", ""] if dice.random() < 0.3 else self._some_names(9)
            self.run(site, "set-deletion-policy", *some, "--policy", dice.choice(["allowed", "allowed", "disallowed"]))
        elif kind == "delete" and "delete-instance" in cli.COMMANDS:
            for name in self._some_names(3):
                keep = ["--keep-days", str(dice.choice([0, 2]))]
                copies = ["--number-of-remote-copies", str(dice.choice([1, 2]))]
                self.run(site, "delete-instance", name, "--store", dice.choice(STORES), *keep, *copies, "--reason", "a whim")
        elif kind == "restore" and "restore-instance" in cli.COMMANDS:
            for name in self._some_names(3):
                self.run(site, "restore-instance", name)

    def _some_names(self, most: int) -> Words:
        known = sorted(self.acknowledged)
        return sorted({self.dice.choice(known) for _ in range(self.dice.randint(1, most))}) if known else ["nothing"]

    def _secret(self, site: str, other: str) -> str:
        return f"{self.passwords[site, other]}\n"

    def _add(self, other: str) -> tuple[str, ...]:
        url = f"exec://{self.network[other].config}"
        return ("add-librarian", "--name", other, "--url", url, "--authenticator", "-", "--do-not-check-connection")

    def back_up(self) -> None:
        """A copy of a catalogue."""
        site = self.dice.choice(SITES)
        self.backups[site].append((self.step, Backup(self.network[site]), set(self.acknowledged) - self.waiting.get(site, set())))
        self.note(f"{site}: its catalogue is backed up")

    def restore(self) -> None:
        """A catalogue is lost and an old one is put back; the operator reconciles there and at its neighbours."""
        with_one = [site for site in SITES if self.backups[site]]
        if not with_one or any("add-librarian" in words for _, _, words in self.switched):
            return
        site = self.dice.choice(with_one)
        step, backup, known = self.dice.choice(self.backups[site][-3:])
        self.backups[site] = [each for each in self.backups[site] if each[0] <= step]
        backup.restore()
        self.touched.add(site)
        self.stats["restores"] += 1
        self.note(f"{site}: its catalogue of step {step} is restored")
        self.restored(site)
        if site in SOURCES:  # what came in meanwhile comes again
            self.waiting[site] |= {name for name, where in self.acknowledged.items() if where == site and name not in known}
        near = [there for here, there in LINKS if here == site] + [here for here, there in LINKS if there == site]
        for each in (site, *near):
            self.run(each, "reconcile")

    def restored(self, site: str) -> None:
        """Told to the checks."""

    # -- the end ---------------------------------------------------------------------------------------------------

    def mend(self) -> None:
        """All troubles are over."""
        self.dice = random.Random(f"{self.seed} end")
        self.step += 1
        self.touched = set(SITES)
        for place in list(self.unmounted):
            self.mount(*place)
        for troubles in (self.cuts, self.lines, self.carriers, self.full):
            troubles.clear()
        self.fly(everything=True)
        self.deliver_late(everything=True)
        for _, where, words in self.switched:
            self.run(where[0], *words, stdin=where[1] if len(where) > 1 else "")
        self.switched = []
        for site in SITES:
            for other in sorted({there for here, there in LINKS if here == site} | {here for here, there in LINKS if there == site}):
                if other in self._removed(site):
                    self.run(site, *self._add(other), stdin=self._secret(site, other))
            for other in [there for here, there in LINKS if here == site]:
                self.run(site, "set-librarian-transfer", "--name", other, "--enabled")
            for store in STORES:
                self.run(site, "set-store-state", "--store", store, "--enabled")
        self.clear_away()
        for site in SITES:
            self.run(site, "reconcile")
        for site, other in LINKS:
            self.run(site, "retry", "--librarian", other)
        for site in SOURCES:
            self.ingest(site)
        self.fatal = 0

    def clear_away(self) -> None:
        """An operator takes bad bytes away that lie where a file should be, and that no catalogue knows."""

    def _removed(self, site: str) -> set[str]:
        from libtool.models.tables import Librarian

        with self.network[site].open():
            return {row.name for row in Librarian.select().where(Librarian.removed)}

    def until_quiet(self, left: Callable[[], list[str]], most: int = 40) -> int:
        """Rounds of everything until nothing is left to do; how many. Given up when days change nothing any more."""
        before: list[str] = []
        same = 0
        for n in range(1, most + 1):
            self.step += 1
            self.touched = set()
            self.world.wait(minutes=10 if n < 4 else 100 if n < 5 else 2000)
            for site in SITES:
                for words in self.round_of(site, caring=n % 2 == 0):
                    self.run(site, *words)
                if n % 6 == 5:  # cron runs it daily
                    self.run(site, "reconcile")
            self.fly(everything=True)
            now = left() if n > 3 else ["too early"]
            same = same + 1 if n > 7 and now == before else 0
            before = now
            if not now:
                return n
            if same > 6:
                break
        for site in SITES:
            if "corruption-fixer" in cli.COMMANDS:
                self.run(site, "-v", "corruption-fixer")
        raise Broken("\n".join(["it does not come to rest:", *before[:40]]))


@contextmanager
def month(top: Path, seed: int, count: int, make: type[Month] = Month, **options: Any) -> Iterator[Month]:
    """A month whose machinery is taken away afterwards."""
    monkeypatch = pytest.MonkeyPatch()
    state, level = random.getstate(), copy.copy(os.umask(0o022))
    try:
        yield make(top, seed, count, monkeypatch, **options)
    finally:
        monkeypatch.undo()
        random.setstate(state)
        os.umask(level)


__all__ = ["ASIDE", "Broken", "Month", "Site", "month"]
