"""Networks of librarians for tests: who sends to whom, rounds of all tasks, backups of catalogues, and what must be
true in the end."""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from libtool import digest
from libtool.endpoints import router
from libtool.errors import LibtoolError
from libtool.models.tables import (
    File,
    IncomingTransfer,
    Instance,
    Librarian,
    OutgoingTransfer,
    RemoteInstance,
    Retry,
    SendQueue,
    live,
    owing,
    waiting,
)
from libtool.movers.base import Item
from libtool.movers.local import LocalMover
from libtool.node import Node
from libtool.peers.client import Answer, NoAnswer
from libtool.peers.exec import ExecTransport
from libtool.states import FileKind
from tests import crash
from tests.sites import Ran, Site, introduce, make_site, tree

Databases = Callable[[str], "str | None"]
#: The network that everybody draws.
FORK = (("source", "central"), ("central", "destination_a"), ("central", "destination_b"))
PAIR = (("source", "central"),)
_CARRY = LocalMover.carry


@dataclass
class World:
    """The time and the way between the librarians of this process: no request needs a process of its own."""

    now: datetime = field(default_factory=lambda: datetime(2031, 5, 1, tzinfo=timezone.utc))
    asked: list[tuple[str, str]] = field(default_factory=list)  #: (configuration, endpoint) of every request
    unreachable: set[str] = field(default_factory=set)  #: configurations of librarians that do not answer
    #: Every file that was carried: the directory of the site to which, its name, whether it lay in the store there.
    carried: list[tuple[str, str, bool]] = field(default_factory=list)
    #: Sees every answer before it is taken: (configuration, endpoint, answer) → answer.
    between: Callable[[str, str, Answer], Answer] = lambda config, endpoint, answer: answer

    def wait(self, **span: float) -> None:
        """Let time pass."""
        self.now += timedelta(**span)

    def post(self, transport: ExecTransport, path: str, body: bytes, authorization: str | None) -> Answer:
        """What exec:// does, in this process."""
        if transport.config in self.unreachable:
            raise NoAnswer("no route to host")
        endpoint = path.removeprefix("/api/v2/")
        self.asked.append((transport.config, endpoint))
        try:
            with Node.open(transport.config) as node:
                said = router.answer(node, router.Request("POST", path, authorization, body))
        except LibtoolError as trouble:
            said = router.failure(trouble)
        headers = {name.lower(): value for name, value in router.head(said).items()}
        return self.between(transport.config, endpoint, Answer(said.status, headers, said.body))

    def take_over(self, monkeypatch: pytest.MonkeyPatch) -> World:
        """Let all librarians of this process live in this world."""
        monkeypatch.setattr(Node, "now", lambda node: self.now)
        monkeypatch.setattr(ExecTransport, "post", lambda *words: self.post(*words))

        def seen(mover: LocalMover, item: Item, part: str) -> None:
            site = Path(item.target.removesuffix(f"/{item.name}")).parent.parent
            self.carried.append((str(site), item.name, os.path.lexists(site / "store" / item.name)))
            _CARRY(mover, item, part)

        monkeypatch.setattr(LocalMover, "carry", seen)
        return self


@dataclass
class Network:
    """Librarians, and who sends to whom."""

    sites: dict[str, Site]
    links: tuple[tuple[str, str], ...]
    world: World
    step: timedelta = timedelta(minutes=1)  #: how often cron starts everything

    def __getitem__(self, name: str) -> Site:
        return self.sites[name]

    def tasks(self, name: str) -> list[str]:
        """What cron starts at one librarian, in the order in which a file meets it."""
        sends = any(one == name for one, _ in self.links)
        return ["recv-clone", *(["send-clone", "consume-queue", "check-consumed-queue"] if sends else [])]

    def round(self, expect: int | None = None, *, skip: Iterable[str] = ()) -> list[Ran]:
        """Some time passes, and cron starts everything everywhere once."""
        self.world.now += self.step
        left = [name for name in self.sites if name not in skip]
        return [self[name].run(expect, command) for name in left for command in self.tasks(name)]

    def pending(self) -> dict[str, list[str]]:
        """What is live, owed, queued or planned, for each librarian where something is."""
        found: dict[str, list[str]] = {}
        for name, site in self.sites.items():
            with site.open():
                rows = [
                    f"{table.__name__} {row.id} {row.status.name} {row.owed.name}"
                    for table in (OutgoingTransfer, IncomingTransfer)
                    for row in table.select().where(live(table) | owing(table))
                ]
                rows += [f"SendQueue {row.id} {row.status.name}" for row in SendQueue.select().where(waiting())]
                later = Retry.select(File.name, Retry.reason).join(File)
                rows += [f"Retry {name!r}: {reason}" for name, reason in later.tuples()]
            if rows:
                found[name] = rows
        return found

    def until_quiet(self, most: int = 30) -> int:
        """Rounds, two at least, until nothing is live, owed, queued or planned, or it stays as it is for too long to be
        waiting for its next attempt; how many, at most ``most``."""
        before, same = None, 0
        for n in range(1, most + 1):
            self.round()
            left = self.pending()
            same = same + 1 if left == before else 0
            if (n > 1 and not left) or same > 12:
                return n
            before = left
        return most

    def reconcile(self, *names: str) -> dict[str, Ran]:
        """Run it once at each, in this order."""
        return {name: self[name].run(None, "reconcile") for name in names or self.sites}


def make_network(
    top: Path,
    world: World,
    links: tuple[tuple[str, str], ...] = FORK,
    databases: Databases = lambda name: None,
    **settings: Any,
) -> Network:
    """Librarians that know their direct neighbours, each by its own configuration alone."""
    names = list(dict.fromkeys(name for link in links for name in link))
    sites = {}
    for name in names:
        to = [there for here, there in links if here == name]
        own: dict[str, Any] = dict(settings)
        if to:
            own["local_transfer_roots"] = [str(top / there / "staging") for there in to]
            own["commands"] = {"send-clone": {"destination_librarian": to}}
        sites[name] = make_site(name, top / name, databases(name), **own)
    for here, there in links:
        introduce(sites[here], sites[there])
    return Network(sites, links, world)


# -- files --------------------------------------------------------------------------------------------------------

#: Parts of names that somebody will use some day.
ODD = (
    "new\nline",
    "-F",
    "quo'te\"",
    "$(touch x)",
    "sp ace ",
    "ünïcode",
    "日本",
    "back\\slash",
    "%41",
    "a;b|c",
    "ß" * 120,
    "*",
)


def write_originals(top: Path, first: int, count: int, seed: int = 7) -> None:
    """Files ``first`` to ``first + count`` below ``top``: empty, equal, deep, oddly named; every 25th is a directory
    that is to be taken as one file and so lies in ``top.trees``."""
    numbers = random.Random(seed)
    for n in range(first, first + count):
        content = b"" if n % 9 == 0 else b"the same\n" * 40 if n % 7 == 0 else numbers.randbytes(200 + 13 * (n % 60))
        content += b"" if n % 9 == 0 or n % 7 == 0 else str(n).encode()
        if n % 25 == 3:
            for inner, data in (("one", content), ("in/ner/two", b""), (f"three {n}", content * 2)):
                path = top.with_name(f"{top.name}.trees") / f"tree {n}" / inner
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            continue
        odd = f"{ODD[n % len(ODD)]}" if n % 5 == 0 else "plain"
        deep = "/".join(f"level{k}" for k in range(n % 12 if n % 11 == 0 else n % 3))
        path = top / f"night{n % 4}" / deep / f"{n} {odd}"[:120]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def ingest(site: Site, top: Path) -> None:
    """Take in everything that was written; what is known is skipped."""
    if top.exists():
        site.run(0, "ingest", "--uploader", "observer", "--recursive", str(top))
    trees = top.with_name(f"{top.name}.trees")
    known = {row["name"] for row in names_of(site)}
    for each in sorted(trees.iterdir()) if trees.exists() else ():
        if each.name not in known:
            site.run(0, "ingest", "--uploader", "observer", str(each))


def names_of(site: Site) -> list[dict[str, Any]]:
    """Name and kind of every file that a librarian knows."""
    with site.open():
        return [{"name": row.name, "kind": row.kind} for row in File.select()]


def originals(top: Path) -> dict[str, bytes]:
    """What must lie in every store in the end."""
    return tree(top) | tree(top.with_name(f"{top.name}.trees"))


def catalogued(top: Path) -> dict[str, tuple[FileKind, int, str]]:
    """What every catalogue must say of it: name → kind, size, checksum."""
    trees = top.with_name(f"{top.name}.trees")
    paths = {name: (FileKind.FILE, str(top / name)) for name in tree(top)}
    if trees.exists():
        paths |= {each.name: (FileKind.DIRECTORY, str(each)) for each in trees.iterdir()}
    return {name: (kind, digest.size_of(path), digest.of_path(path)) for name, (kind, path) in paths.items()}


# -- what must be true in the end ---------------------------------------------------------------------------------


def wrongs(network: Network, top: Path) -> list[str]:
    """Everything that is not as it must be when all is over, one line each."""
    found: list[str] = []
    content, wanted = originals(top), catalogued(top)
    origin = {there: here for here, there in network.links}
    for name, site in network.sites.items():
        lines = _wrong_bytes(site, content)
        with site.open():
            known = {row.name: (row.kind, row.size, row.checksum) for row in File.select()}
            lines += [f"{each!r} is not known" for each in wanted.keys() - known.keys()]
            lines += [f"{each!r} is known and should not" for each in known.keys() - wanted.keys()]
            lines += [f"{each!r} is {known[each]}" for each in wanted.keys() & known if known[each] != wanted[each]]
            lines += [
                f"{row.name!r} came from {row.source}, uploaded by {row.uploader}"
                for row in File.select()
                if (row.source, row.uploader) != (origin.get(name, name), "observer")
            ]
            copies = Counter(
                each for (each,) in Instance.select(File.name).join(File).where(Instance.available).tuples()
            )
            lines += [f"{each!r} has {copies[each]} instances" for each in known if copies[each] != 1]
            rows = RemoteInstance.select(Librarian.name, File.name).join(Librarian).switch(RemoteInstance).join(File)
            there = Counter(rows.tuples())
            should = {(to, each) for here, to in network.links if here == name for each in wanted}
            lines += [f"does not know that {each!r} is at {to}" for to, each in should - there.keys()]
            lines += [f"thinks that {each!r} is at {to}" for to, each in there.keys() - should]
            lines += [f"knows twice that {each!r} is at {to}" for (to, each), count in there.items() if count > 1]
        found += [f"{name}: {line}" for line in sorted(lines)]
    return found + [f"{name}: pending {row}" for name, rows in network.pending().items() for row in rows]


def _wrong_bytes(site: Site, content: dict[str, bytes]) -> list[str]:
    """What is wrong with a store and its staging area."""
    stored = site.stored()
    found = [f"{each!r} is missing from the store" for each in content.keys() - stored.keys()]
    found += [f"{each!r} lies in the store and should not" for each in stored.keys() - content.keys()]
    found += [f"{each!r} has other bytes" for each in content.keys() & stored if content[each] != stored[each]]
    return found + [f"staging place {each!r} is left over" for each in site.staged() if "/" not in each]


def kinds(lines: Iterable[str]) -> dict[str, int]:
    """How many there are of each kind of line."""
    return dict(Counter(re.sub(r"'.*'|\".*\"|\d+", "…", line) for line in lines))


# -- backups ------------------------------------------------------------------------------------------------------


class Backup:
    """A copy of a librarian's catalogue as its operator makes one, and the way back to it."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.file = site.directory.with_name(
            f"{site.name}.backup{len(list(site.directory.parent.glob('*.backup*')))}.db"
        )
        _copy(site.directory / "catalogue.db", self.file)

    def restore(self) -> None:
        """Put it back: only the catalogue, no directory."""
        live = self.site.directory / "catalogue.db"
        for ending in ("", "-wal", "-shm"):
            live.with_name(live.name + ending).unlink(missing_ok=True)
        shutil.copy(self.file, live)


def _copy(origin: Path, target: Path) -> None:
    with sqlite3.connect(origin) as one, sqlite3.connect(target) as other:
        one.backup(other)
    one.close()
    other.close()


# -- ends at a seam -----------------------------------------------------------------------------------------------


class EndAt(crash.Counter):
    """Ends the process that passes the seam of this name for the n-th time."""

    def __init__(self, name: str, n: int = 1) -> None:
        super().__init__(n)
        self.name = name

    def watch(self, name: str) -> None:
        """Count only the one that matters."""
        if name == self.name:
            super().watch(name)


def end_at(site: Site, seam: str, *words: str, n: int = 1) -> None:
    """Run a command that ends where it passes a seam."""
    assert crash.run(site, words, EndAt(seam, n)) == crash.DIED, (words, seam)


# -- histories ----------------------------------------------------------------------------------------------------

#: What :func:`spread` leaves on a link, at its sending and at its receiving end.
SENDING = {
    "transfer INITIATED NOTHING",
    "transfer ONGOING NOTHING",
    "transfer ONGOING STAGED",
    "transfer STAGED NOTHING",
    "transfer COMPLETED NOTHING",
    "transfer FAILED FAILURE",
    "item QUEUED",
    "item SUBMITTING",
    "item IN_FLIGHT",
    "item COMPLETED",
}
RECEIVING = {
    "transfer INITIATED NOTHING",
    "transfer STAGED NOTHING",
    "transfer COMPLETED NOTHING",
    "transfer COMPLETED COMPLETION",
    "transfer FAILED FAILURE",
}


def states(network: Network, here: str, there: str) -> tuple[set[str], set[str]]:
    """In which states transfers are at both ends of a link."""
    with network[here].open():
        to = Librarian.get(Librarian.name == there).id
        rows = OutgoingTransfer.select().where(OutgoingTransfer.destination == to)
        out = {f"transfer {row.status.name} {row.owed.name}" for row in rows}
        out |= {f"item {row.status.name}" for row in SendQueue.select().where(SendQueue.destination == to)}
    with network[there].open():
        rows = IncomingTransfer.select().where(IncomingTransfer.source == here)
        return out, {f"transfer {row.status.name} {row.owed.name}" for row in rows}


def spread(network: Network, here: str, there: str, feed: Callable[[], None]) -> None:
    """Leave transfers from ``here`` to ``there`` in every state that there is; ``feed`` lets a few new files be known
    ``here``, and nothing else is under way on this link."""
    one, other = network[here], network[there]
    send = ("send-clone", "--destination-librarian", there)
    for end in ("stored", "staged"):
        feed()
        one.run(None, *send)
        one.run(None, "consume-queue")
        if end == "stored":
            _spoil(other)
        one.run(None, "check-consumed-queue")
        if end == "stored":
            end_at(other, "call libtool/clone/report: begin", "recv-clone")
    for seam in ("call libtool/clone/staged: answered", "call libtool/clone/staged: begin"):
        feed()
        one.run(None, *send)
        one.run(None, "consume-queue")
        end_at(one, seam, "check-consumed-queue")
    feed()
    one.run(None, *send)
    one.run(None, "consume-queue")
    feed()
    one.run(None, *send)
    unreadable = _queued(one)
    feed()
    one.run(None, *send)
    for seam in ("call libtool/clone/batch_stage: answered", "call libtool/clone/batch_stage: begin"):
        feed()
        end_at(one, seam, *send)
    path = one.store / unreadable
    path.rename(path.with_name("elsewhere"))
    end_at(one, "ticket: committed", "consume-queue")
    path.with_name("elsewhere").rename(path)


def _spoil(site: Site) -> None:
    """Change one byte of one file in the staging area: only reading tells."""
    path = max((path for path in site.staging.glob("*/**/*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


def _queued(site: Site) -> str:
    """The name of a file that waits in the queue."""
    with site.open():
        rows = OutgoingTransfer.select().join(SendQueue).where(waiting(), SendQueue.status == 0, live(OutgoingTransfer))
        return str(max(row.file.name for row in rows if row.file.kind is FileKind.FILE))


@dataclass
class History:
    """A network with a past: backups from the middle of one storm, and the moment in the middle of a later one."""

    network: Network
    originals: Path
    per_feed: int
    made: int = 0
    backups: dict[str, Backup] = field(default_factory=dict)

    def feed(self, count: int | None = None) -> None:
        """New files at the source."""
        write_originals(self.originals, self.made, count or self.per_feed)
        self.made += count or self.per_feed
        ingest(self.network["source"], self.originals)

    def feed_through(self) -> None:
        """New files at the central librarian, which the source knows to be there."""
        self.feed()
        for command in ("send-clone", "consume-queue", "check-consumed-queue"):
            self.network["source"].run(None, command)
        self.network["central"].run(None, "recv-clone")

    def storm(self) -> list[set[str]]:
        """Transfers in every state on both links; returns which."""
        spread(self.network, "central", "destination_a", self.feed_through)
        spread(self.network, "source", "central", self.feed)
        found = []
        for link in (("central", "destination_a"), ("source", "central")):
            found += states(self.network, *link)
        return found

    def happen(self) -> None:
        """A storm, backups in the middle of it, its end, and another storm."""
        self.feed(3 * self.per_feed)
        self.network.until_quiet()
        first = self.storm()
        self.backups = {name: Backup(site) for name, site in self.network.sites.items()}
        self.network.until_quiet()
        second = self.storm()
        for found in (first, second):
            for n, wanted in enumerate((SENDING, RECEIVING) * 2):
                assert wanted <= found[n], (n, wanted - found[n])

    def restore(self, *names: str) -> None:
        """Put back the catalogues of these."""
        for name in names:
            self.backups[name].restore()

    def missing(self) -> int:
        """How many files are still to be carried: they lie neither in the store nor in the staging area of where to."""
        names, count = catalogued(self.originals), 0
        for there in {there for _, there in self.network.links}:
            site = self.network[there]
            tops = [site.store, *site.staging.iterdir()]
            count += sum(not any(os.path.lexists(top / name) for top in tops) for name in names)
        return count
