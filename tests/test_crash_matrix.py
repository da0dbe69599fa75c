"""Kill it anywhere, for everything that looks after copies: whatever ends a task or a command, at whatever point, the
next runs come to the state in which an uninterrupted run ends.

A scenario is a list of steps, each with real work. Every step is ended at every seam that it and the callbacks it causes
pass; then it is run again, as cron or its operator would, the steps after it follow, and then everything until nothing
changes any more. Where that takes too long a seeded part of the seams is tried; ``LIBTOOL_TEST_ALL_SEAMS=1`` tries all,
``LIBTOOL_TEST_SEED`` chooses others.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from libtool.archive import manifests
from libtool.models.tables import (
    Fault,
    File,
    IncomingTransfer,
    Instance,
    Librarian,
    OutgoingTransfer,
    RemoteInstance,
    Removal,
    Retry,
    SendQueue,
    TaskRun,
    live,
    owing,
    waiting,
)
from libtool.models.tables import Store as StoreRow
from libtool.states import FileKind, Owed, RemovalStatus, TransferStatus
from libtool.stores.posix import PosixStore
from tests import crash, damage
from tests.networks import Network, World, end_at
from tests.sites import Ran, Site, tree
from tests.test_local_clones import add_store

Databases = Callable[[str], "str | None"]
SEED = int(os.environ.get("LIBTOOL_TEST_SEED", "1"))
ALL = bool(os.environ.get("LIBTOOL_TEST_ALL_SEAMS"))
#: One of so many of the seams that would be tried is, unless all are.
SHARE = 12
#: What is tried on PostgreSQL, too, unless all is.
ALSO = ("check_integrity", "rolling_deletion[postgresql-all]", "making_way")
ASIDE, PARTS = ".libtool-aside", ".libtool-part"
#: Of so many seams one is tried on PostgreSQL, and of so many that are tried one gets a second end right after it.
EVERY, TWICE = 3, 5
CARRY = (("a", "consume-queue"), ("a", "check-consumed-queue"), ("b", "recv-clone"))
BACK = (("b", "consume-queue"), ("b", "check-consumed-queue"), ("a", "recv-clone"))
SEND = (("a", "send-clone"), *CARRY)
FORCED = ("--force", "--yes")


# -- what there is ------------------------------------------------------------------------------------------------


def rows_of(site: Site) -> dict[str, Any]:
    """Everything in a catalogue that must not depend on who was ended where."""
    with site.open():
        files = [(row.name, int(row.kind), row.size, row.checksum, row.source, row.uploader) for row in File.select()]
        copies = Instance.select(Instance, File, StoreRow).join(File).switch(Instance).join(StoreRow)
        there = RemoteInstance.select(Librarian.name, File.name).join(Librarian).switch(RemoteInstance).join(File)
        gone = Removal.select(Removal, File).join(File)
        out = OutgoingTransfer.select(OutgoingTransfer, File, Librarian).join(File).switch(OutgoingTransfer).join(Librarian)
        ended = Counter(row.file.name for row in out.where(OutgoingTransfer.status == TransferStatus.COMPLETED))
        came = IncomingTransfer.select().where(
            IncomingTransfer.status == TransferStatus.COMPLETED, IncomingTransfer.source_transfer_id.is_null(False)
        )
        pending = [f"{row.file.name} {row.status.name} {row.owed.name}" for row in out.where(live(OutgoingTransfer) | owing(OutgoingTransfer))]
        pending += [
            f"{row.name} {row.status.name} {row.owed.name} {row.claim}"
            for row in IncomingTransfer.select().where(live(IncomingTransfer) | owing(IncomingTransfer))
        ]
        pending += [f"queue {row.status.name}" for row in SendQueue.select().where(waiting())]
        pending += [f"retry {row.file.name}: {row.reason}" for row in Retry.select()]
        pending += [f"staged {row.name}" for row in IncomingTransfer.select().where(IncomingTransfer.staging_id.is_null(False))]
        return {
            "files": sorted(files),
            "copies": sorted(
                (row.file.name, row.store.name, row.available, row.condition.name, row.deletion_policy.name) for row in copies
            ),
            "asked": sorted(row.file.name for row in copies.where(Instance.asked_time.is_null(False))),
            "there": sorted(there.tuples()),
            "removals": sorted((row.file.name, row.cause.name, row.status.name) for row in gone),
            "carried": sorted(ended.items()),
            "came": sorted(Counter(row.name for row in came).items()),
            "pending": sorted(pending),
            "stores": sorted((row.name, row.enabled) for row in StoreRow.select()),
            "faults": sorted((row.subject, row.kind) for row in Fault.select()),
        }


def disks_of(site: Site) -> dict[str, Any]:
    """Every byte and every directory of the stores, without the names that are made by chance."""
    found: dict[str, Any] = {}
    for wanted in site.settings["add_stores"]:
        data = wanted["store_data"]
        root, staging = site.directory / data["store_path"], site.directory / data["staging_path"]
        name = wanted["store_name"]
        found[f"{name} bytes"] = tree(root)
        found[f"{name} directories"] = sorted(
            str(path.relative_to(root)) for path in root.rglob("*") if path.is_dir() and ".libtool-" not in str(path.relative_to(root))
        )
        places = [str(path) for path in (root / ASIDE).iterdir()] if (root / ASIDE).exists() else []
        found[f"{name} aside"] = sorted((sorted(tree(Path(place)).items())) for place in places)
        found[f"{name} parts"] = sorted(str(path) for path in (root / PARTS).rglob("*")) if (root / PARTS).exists() else []
        found[f"{name} staging"] = sorted(path.name for path in staging.iterdir() if path.name != ".libtool-store")
    return found


def state_of(site: Site) -> dict[str, Any]:
    """All of it."""
    return rows_of(site) | disks_of(site)


def wrongs(site: Site, travels: str = "") -> list[str]:
    """What may never be in the end, whatever was wished for: bytes or rows that nobody owns, and twos of a kind. The
    store that ``travels`` keeps its bytes."""
    found: list[str] = []
    with site.open():
        stores = {row.id: row.name for row in StoreRow.select()}
        copies = list(Instance.select(Instance, File).join(File))
        known = {(stores[row.store_id], row.file.name): row for row in copies}
        trees = {row.name for row in File.select().where(File.kind == FileKind.DIRECTORY)}
        aside = {(stores[row.store_id], row.aside_id): row for row in Removal.select()}
        files = Counter(row.name for row in File.select())
        there = Counter(RemoteInstance.select(RemoteInstance.file, RemoteInstance.librarian).tuples())
        out = OutgoingTransfer.select(OutgoingTransfer.file, OutgoingTransfer.destination).where(live(OutgoingTransfer))
        twice = Counter(out.tuples()) | Counter((row.name,) for row in IncomingTransfer.select().where(live(IncomingTransfer)))
    found += [f"{name} stands twice in the catalogue" for name, n in files.items() if n > 1]
    found += [f"{pair} is recorded twice" for pair, n in there.items() if n > 1]
    found += [f"{pair} is under way twice" for pair, n in twice.items() if n > 1]
    for wanted in site.settings["add_stores"]:
        store, root = wanted["store_name"], site.directory / wanted["store_data"]["store_path"]
        here = {next((each for each in trees if name.startswith(f"{each}/")), name) for name in tree(root)}
        owned = {name for at, name in known if at == store and (known[at, name].available or known[at, name].condition > 0)}
        found += [f"{name} lies in {store} and counts as gone" for name in here - owned if store != travels]
        found += [
            f"{name} is available in {store} and not there" for name in owned - here if known[store, name].available
        ]
        for place in (root / ASIDE).iterdir() if (root / ASIDE).exists() else ():
            removal = aside.get((store, place.name))
            if removal is None or removal.status is not RemovalStatus.ASIDE:
                status = removal.status.name if removal is not None else "nowhere"
                found.append(f"{sorted(tree(place)) or 'an empty place'} is set aside in {store}, and written down as {status}")
        for (at, _), removal in aside.items():
            if at == store and removal.status is RemovalStatus.ASIDE and not (root / ASIDE / removal.aside_id).exists():
                found.append(f"removal {removal.id} in {store} is ASIDE, and nothing lies there")
            if at == store and removal.status is RemovalStatus.DECIDED:
                found.append(f"removal {removal.id} in {store} is DECIDED")
    return [f"{site.name}: {line}" for line in found]


def empty(site: Site) -> set[tuple[str, str, str]]:
    """What counts as available while nothing lies in its place."""
    roots = {each["store_name"]: site.directory / each["store_data"]["store_path"] for each in site.settings["add_stores"]}
    with site.open():
        rows = Instance.select(Instance, File, StoreRow).join(File).switch(Instance).join(StoreRow).where(Instance.available)
        found = [(site.name, row.store.name, row.file.name) for row in rows]
    return {each for each in found if not os.path.lexists(roots[each[1]] / each[2])}


def difference(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What is not as it should be, a line each."""
    found = []
    for key, value in other.items():
        if one[key] != value:
            if key == "faults":
                # Ended right before it was noted that a neighbour answered, a run leaves that to the next that asks it.
                one = one | {key: [each for each in one[key] if each[1] != "unreachable" or each in value]}
            if isinstance(value, list):
                few, many = Counter(map(str, one[key])), Counter(map(str, value))
                if few != many:
                    found.append(f"{key}: lacks {list((many - few).elements())}, has {list((few - many).elements())}")
            else:
                found.append(f"{key}: {one[key]!r} instead of {value!r}")
    return found


# -- scenarios ----------------------------------------------------------------------------------------------------


@dataclass
class Step:
    """One command at one librarian."""

    who: str
    words: tuple[str, ...]
    codes: tuple[int, ...] = (0, 3)  #: what it may end with when nobody ends it
    again: tuple[int, ...] = (0, 3)  #: what it may end with when it is run again after its end


@dataclass
class Scenario:
    """What is there, what is done, what runs on afterwards."""

    network: Network
    steps: Sequence[Step | Callable[[], None]]
    cron: Sequence[tuple[str, ...]]  #: (site, command, …), run on until nothing changes
    before: Callable[[], None] = lambda: None  #: what the world does before the rest runs on
    ignore: tuple[str, ...] = ()  #: parts of the state that may differ
    travels: str = ""  #: a store that goes elsewhere, with its bytes
    usual: str = "$^"  #: lines that may be said although nobody says them without an end
    part: int = 1  #: one of so many seams is tried unless all are
    seams: int = 0
    tried: int = 0
    twice: int = 0
    bad: list[str] = field(default_factory=list)


def step(who: str, *words: str, codes: tuple[int, ...] = (0, 3), again: tuple[int, ...] = (0, 3)) -> Step:
    """A step in one line."""
    return Step(who, words, codes, again)


def steps(pairs: Sequence[tuple[str, ...]]) -> list[Step]:
    """Steps that are only commands."""
    return [step(who, *words) for who, *words in pairs]


class Matrix:
    """Ends every step of a scenario at its seams, and looks at what comes of it."""

    def __init__(self, scenario: Scenario, kept: crash.Snapshots, every: int) -> None:
        self.it, self.kept = scenario, kept
        self.every = every if ALL else every * scenario.part * SHARE
        self.numbers = random.Random(SEED)
        self.lines: set[str] = set()
        self.wanted: dict[str, dict[str, Any]] = {}

    @property
    def world(self) -> World:
        return self.it.network.world

    def run(self) -> None:
        """The whole matrix."""
        start = self.kept.take(), self.world.now
        said: list[tuple[str, Ran]] = []
        for each in self.it.steps:
            self.do(each, said)
        self.it.before()
        self.on(said)
        self.lines = {_line(line) for _, ran in said for line in ran.err.splitlines()}
        self.wanted = self.state()
        self.wrong([each for site in self.it.network.sites.values() for each in wrongs(site, self.it.travels)], "without an end")
        self.kept.restore(start[0])
        self.world.now = start[1]
        for n, each in enumerate(self.it.steps):
            if not isinstance(each, Step):
                each()
                continue
            here, now = self.kept.take(), self.world.now
            for fatal in range(1, self.count(each) + 1):
                self.it.seams += 1
                if self.numbers.random() * self.every < 1:
                    self.kept.restore(here)
                    self.world.now = now
                    self.end(n, each, fatal)
            self.kept.restore(here)
            self.world.now = now
            self.do(each, [])

    def count(self, each: Step) -> int:
        """How many seams a step passes."""
        counter = crash.Counter()
        code = crash.run(self.it.network[each.who], each.words, counter)
        assert code in each.codes, (each, code)
        return counter.passed

    def end(self, n: int, each: Step, fatal: int) -> None:
        """End one step at one seam, perhaps once more when it goes on, and see what comes of it."""
        self.it.tried += 1
        before = self.empty()
        counter = crash.Counter(fatal)
        counter.where = self.kept.top.with_name("where")
        crash.run(self.it.network[each.who], each.words, counter)
        where = f"{each.who}: {' '.join(each.words)[:60]}, ended at {fatal} '{counter.where.read_text()}'"
        if self.numbers.random() * TWICE < 1:
            self.it.twice += 1
            second = crash.Counter(self.numbers.randrange(1, fatal + 4))
            second.where = counter.where
            counter.where.write_text("nowhere")
            self.world.wait(minutes=1)
            crash.run(self.it.network[each.who], each.words, second)
            where += f" and at '{counter.where.read_text()}'"
        self.wrong([f"{each} counts, and nothing lies there" for each in self.empty() - before], where)
        said: list[tuple[str, Ran]] = []
        try:
            self.do(each, said, each.again)
            for later in self.it.steps[n + 1 :]:
                self.do(later, said)
            self.it.before()
            self.on(said)
        except AssertionError as trouble:
            self.wrong([f"{trouble}"[:500]], where)
            return
        for words, ran in said:
            self.wrong(
                [f"{words} says: {line}" for line in ran.err.splitlines() if self.new(line)], where
            )
        found = self.state()
        self.wrong([f"{name}: {line}" for name in found for line in difference(found[name], self.wanted[name])], where)
        self.wrong([each for site in self.it.network.sites.values() for each in wrongs(site, self.it.travels)], where)

    def new(self, line: str) -> bool:
        """Whether this should not be said."""
        return bool(line) and _line(line) not in self.lines and not re.search(self.it.usual, line)

    def do(self, each: Step | Callable[[], None], said: list[tuple[str, Ran]], codes: tuple[int, ...] | None = None) -> None:
        """One step, in this process."""
        if not isinstance(each, Step):
            each()
            return
        self.world.wait(minutes=1)
        ran = self.it.network[each.who].run(None, *each.words)
        said.append((" ".join((each.who, *each.words)), ran))
        assert ran.code in (codes or each.codes), (each.who, each.words, ran)

    def on(self, said: list[tuple[str, Ran]]) -> None:
        """Everything, until nothing is done any more."""
        for n in range(14):
            self.world.wait(hours=0.5 if n < 4 else 30)  # what neither of the tasks goes on with is the hypervisors'
            idle = True
            for who, *words in self.it.cron:
                ran = self.it.network[who].run(None, *words)
                said.append((" ".join((who, *words)), ran))
                assert ran.code in (0, 3, 4), (who, words, ran)
                idle &= not ran.code and not ran.err
            if n and idle and not any(self.busy(site) for site in self.it.network.sites.values()):
                return
        raise AssertionError(f"not quiet: {said[-len(self.it.cron) :]}")

    def busy(self, site: Site) -> bool:
        """Whether its last runs did anything."""
        with site.open():
            last: dict[tuple[str, str], TaskRun] = {}
            for row in TaskRun.select().order_by(TaskRun.id):
                last[row.command, row.target] = row
            names = {words[1] for words in self.it.cron if words[0] == site.name}
            return any(not row.idle_runs for row in last.values() if row.command in names)

    def empty(self) -> set[tuple[str, str, str]]:
        """What counts as available right now while nothing lies there; an end may add nothing to it."""
        return {each for site in self.it.network.sites.values() for each in empty(site)}

    def state(self) -> dict[str, dict[str, Any]]:
        """What is compared."""
        return {
            name: {key: value for key, value in state_of(site).items() if key not in self.it.ignore}
            for name, site in self.it.network.sites.items()
        }

    def wrong(self, lines: list[str], where: str) -> None:
        """Remember what is wrong."""
        self.it.bad += [f"{where}: {line}" for line in lines]


def _line(line: str) -> str:
    return re.sub(r"\d+", "#", line)


@dataclass
class Bench:
    """What every scenario is made with."""

    top: Path
    network: Network
    kept: crash.Snapshots
    every: int
    capsys: pytest.CaptureFixture[str]
    title: str

    def try_all(self, scenario: Scenario) -> None:
        """Run the matrix; print what was tried; fail with all that is wrong."""
        began = sum(os.times()[:4])
        Matrix(scenario, self.kept, self.every).run()
        seconds = sum(os.times()[:4]) - began
        some = "" if scenario.tried == scenario.seams else ", a seeded part"
        with self.capsys.disabled():
            print(
                f"\n{self.title}: {scenario.seams} seams, ended at {scenario.tried}{some}, "
                f"{scenario.twice} of them twice in a row, {seconds:.0f} s of work, {len(scenario.bad)} wrong"
            )
        assert not scenario.bad, "\n".join(scenario.bad[:60])
        assert scenario.tried or not ALL


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is such a thing: a process that ends loses nothing that it wrote, synced or not."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def bench(
    request: pytest.FixtureRequest, top: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bench:
    """a sends to b, b may bring back; four files of which one is a directory are at both."""
    urls: list[str] = []
    databases: Databases = lambda name: None  # noqa: E731
    if request.param == "postgresql" and not ALL and not any(name in request.node.name for name in ALSO):
        pytest.skip("LIBTOOL_TEST_ALL_SEAMS=1 tries it on PostgreSQL, too")
    if request.param == "postgresql":
        make = request.getfixturevalue("postgres")

        def databases(name: str) -> str:
            urls.append(make(f"matrix_{name}"))
            return urls[-1]

    world = World().take_over(monkeypatch)
    network = damage.both_ways(damage.make_network(top / "pair", world, (("a", "b"),), databases))
    damage.fill(network, "a", top, 3)
    title = request.node.name.removeprefix("test_")
    return Bench(top / "pair", network, crash.Snapshots(top / "pair", urls), 1 if request.param == "sqlite" else EVERY, capsys, title)


# -- what is tried ------------------------------------------------------------------------------------------------


def place(site: Site, n: int | str) -> Path:
    """Where a copy of one of the files lies."""
    return site.store / (f"deep/er/{n}" if isinstance(n, int) else n)


def change(site: Site, deed: Callable[[], object]) -> None:
    """Change rows by hand, as a restored or older database would have them."""
    with site.open():
        deed()


def test_check_integrity(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    b, bad = bench.network["b"], bench.top / "bad"
    damage.flip(place(b, 0))
    damage.lose(place(b, 1))
    bad.write_text("")
    damage.unreadable(monkeypatch, lambda path: path == str(place(b, 2)) and bad.exists())
    change(b, lambda: Instance.update(asked_time=bench.network.world.now).where(Instance.file == 4).execute())
    look = ("b", "check-integrity", "--age-in-days", "0")
    later = lambda: bad.unlink(missing_ok=True)  # noqa: E731
    bench.try_all(Scenario(bench.network, [*steps([look]), later, *steps([look])], [("b", "check-integrity")]))


def test_corruption_fixer_and_the_clone_that_follows(bench: Bench) -> None:
    a, b = bench.network["a"], bench.network["b"]
    damage.flip(place(b, 0))
    damage.inner_change(place(b, "tree"))
    damage.lose(place(a, 1))
    b.run(None, "check-integrity", "--age-in-days", "0")
    a.run(None, "check-integrity", "--age-in-days", "0")
    fix = ("corruption-fixer",)
    there = [("b", *fix), *CARRY, ("b", *fix)]
    back = [("a", *fix), *BACK, ("a", *fix)]
    night = [("b", "outgoing-transfer-hypervisor"), ("a", "outgoing-transfer-hypervisor")]
    night += [("a", "incoming-transfer-hypervisor"), ("b", "incoming-transfer-hypervisor")]
    cron = [*there, *back, ("a", "send-clone"), *night]
    usual = "copies in it are not what they should be"  # which lasts longer then
    bench.try_all(Scenario(bench.network, steps([*there, *back]), cron, usual=usual, part=10))


def narrow(monkeypatch: pytest.MonkeyPatch, total: int) -> None:
    """Let the file system of every store be as small as that, and hold nothing else."""

    def space(store: PosixStore) -> tuple[int, int]:
        store.check_readable()
        return total, total - sum(path.stat().st_size for path in Path(store.root).rglob("*") if path.is_file())

    monkeypatch.setattr(PosixStore, "space", space)


@pytest.mark.parametrize("kind", ["all", "forgotten", "watermarks"])
def test_rolling_deletion(bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    narrow(monkeypatch, 1000)  # of which 308 are used
    bench.network.world.wait(days=3)
    delete = ("a", "rolling-deletion", "--store", "main", "--age-in-days", "1", "--number-of-remote-copies", "1")
    delete += ("--keep-days", "2")
    delete += {"all": (), "forgotten": ("--remove-rows",), "watermarks": ("--start-below", "70%", "--stop-above", "85%")}[kind]

    def wait() -> None:
        bench.network.world.wait(days=3)
        if kind == "all":  # what is set aside of this one must be kept
            place(bench.network["b"], 1).write_bytes(b"ruined")

    bench.try_all(Scenario(bench.network, [*steps([delete]), wait, *steps([delete])], [delete], wait, part=2))


def test_what_a_person_lets_go_and_brings_back(bench: Bench) -> None:
    one, other = "deep/er/0", "tree"
    forced = step("a", "delete-instance", other, "--store", "main", *FORCED)
    work = [
        step("a", "delete-instance", one, "--store", "main"),
        step("a", "restore-instance", one),
        step("a", "set-deletion-policy", one, "--policy", "allowed"),
        forced,
        step("a", "restore-instance", other),
        step("a", "delete-instance", one, "--store", "main", *FORCED),
    ]
    cron = [("a", "corruption-fixer"), ("a", "rolling-deletion", "--store", "main", "--age-in-days", "1000")]
    bench.try_all(Scenario(bench.network, work, cron, ignore=("removals",), usual="no available copy of it is there|is set aside here", part=2))


@pytest.mark.parametrize("command", ["delete-instance", "restore-instance"])
def test_a_person_who_does_not_come_back(bench: Bench, command: str) -> None:
    """Whatever was wished for, nothing lies about that nobody owns, and a month later it is all over."""
    a, name = bench.network["a"], "tree"
    words: tuple[str, ...] = ("delete-instance", name, "--store", "main", *FORCED)
    if command == "restore-instance":
        a.run(0, *words)
        words = (command, name)
    cron = [("corruption-fixer",), ("rolling-deletion", "--store", "main", "--age-in-days", "1000")]
    start, now = bench.kept.take(), bench.network.world.now
    found, fatal = [], 0
    while True:
        fatal += bench.every
        bench.kept.restore(start)
        bench.network.world.now = now
        counter = crash.Counter(fatal)
        counter.where = bench.top.with_name("where")
        if crash.run(a, words, counter) != crash.DIED:
            break
        for _ in range(3):
            for task in cron:
                a.run(None, *task)
            bench.network.world.wait(days=10)
        found += [f"ended at {fatal} '{counter.where.read_text()}': {line}" for line in wrongs(a)]
    with bench.capsys.disabled():
        print(f"\n{bench.title}: {fatal - 1} seams, ended at {fatal // bench.every - 1}, {len(found)} wrong")
    assert not found, "\n".join(found)


def test_making_way_for_what_comes_anew(bench: Bench) -> None:
    a, b = bench.network["a"], bench.network["b"]
    damage.flip(place(b, 0))
    b.run(None, "check-integrity", "--age-in-days", "0")
    for n in (1, "tree"):
        name = str(place(b, n).relative_to(b.store))
        end_at(b, "removal decided: committed", "delete-instance", name, "--store", "main", *FORCED)
    change(a, lambda: (RemoteInstance.delete().execute(), Librarian.update(sent_upto=0).execute()))
    for who, *words in (("a", "send-clone"), *CARRY[:2]):
        bench.network[who].run(None, *words)
    with b.open():
        assert IncomingTransfer.select().where(IncomingTransfer.status == TransferStatus.STAGED).count() == 3  # the fourth is there
    late = lambda: bench.network.world.wait(days=8)  # noqa: E731
    cron = [("b", "recv-clone"), ("b", "corruption-fixer"), ("b", "rolling-deletion", "--store", "main", "--age-in-days", "1000")]
    bench.try_all(Scenario(bench.network, steps([("b", "recv-clone"), ("b", "corruption-fixer")]), [*cron, *SEND], late, part=2))


def test_local_clones_and_their_repair(bench: Bench) -> None:
    a = bench.network["a"]
    disk = add_store(a, "disk")
    clone = ("a", "create-local-clone", "--clone-from", "main", "--clone-to", "disk")

    def ruin() -> None:
        damage.flip(disk / "deep/er/2")
        damage.inner_more(disk / "tree")
        damage.lose(place(a, 1))
        a.run(None, "check-integrity", "--age-in-days", "0")

    fix = ("a", "corruption-fixer")
    work = [*steps([clone]), ruin, *steps([fix, fix])]
    bench.try_all(Scenario(bench.network, work, [clone, fix, ("a", "recv-clone")], part=4))


@pytest.mark.parametrize("kind", ["to b", "to anybody"])
def test_a_disk_that_travels(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(manifests, "PAGE", 2)
    a, b = bench.network["a"], bench.network["b"]
    disk = add_store(a, "disk")
    fresh = tmp_path / "fresh"
    for n in range(3):
        (fresh / "on").mkdir(parents=True, exist_ok=True)
        (fresh / f"on/{n}").write_bytes(b"%d" % n * 300)
    a.run(0, "ingest", "--recursive", "--store", "disk", str(fresh))
    paper = str(bench.top / "manifest.json")
    write = ["a", "get-store-manifest", "--store", "disk", "--mark-instances-as-unavailable", "--disable-store", "--output", paper]
    take = ["b", "ingest-manifest", "--manifest", paper, "--store-root", str(disk)]
    if kind == "to b":
        write += ["--destination-librarian", "b"]
    else:
        take += ["--from-nobody"]
    cron = [("b", "recv-clone"), ("b", "reconcile")]
    work = [step(*write, codes=(0,), again=(0,)), step(*take, codes=(0,), again=(0,)), *steps(cron[:1])]
    bench.try_all(Scenario(bench.network, work, cron, ignore=("disk bytes", "came"), travels="disk"))
    with b.open():
        assert Instance.select().where(Instance.available).count() == 7


def test_reconcile(bench: Bench) -> None:
    b = bench.network["b"]

    def forget(*names: str) -> None:
        for name in names:
            file = File.get(File.name == name)
            IncomingTransfer.delete().where(IncomingTransfer.name == name).execute()
            Instance.delete().where(Instance.file == file).execute()
            file.delete_instance()

    change(b, lambda: forget("deep/er/0", "tree", "deep/er/1"))
    damage.lose(place(b, 1))
    (b.staging / ("0" * 32)).mkdir()
    work = steps([("b", "reconcile"), ("b", "recv-clone"), ("a", "reconcile"), *SEND])
    bench.try_all(Scenario(bench.network, work, [("a", "reconcile"), ("b", "reconcile"), *SEND], ignore=("carried", "came"), part=4))


def test_hypervisors(bench: Bench, tmp_path: Path) -> None:
    a, b = bench.network["a"], bench.network["b"]
    fresh = tmp_path / "fresh"

    def feed(*names: str) -> None:
        for name in names:
            (fresh / name).mkdir(parents=True)
            (fresh / name / "x").write_bytes(name.encode() * 99)
        a.run(0, "ingest", "--recursive", str(fresh))

    def gone(table: Any, name: str) -> None:
        mine = OutgoingTransfer.file << File.select(File.id).where(File.name == name)
        table.delete().where(mine if table is OutgoingTransfer else IncomingTransfer.name == name).execute()

    feed("told not")  # stored at b, and a was never told so
    for who, *words in SEND[:3]:
        bench.network[who].run(0, *words)
    end_at(b, "call libtool/clone/report: begin", "recv-clone")
    change(b, lambda: IncomingTransfer.update(owed=Owed.NOTHING).execute())
    feed("forgotten there")  # STAGED at a, and b knows nothing of it
    for who, *words in SEND[:3]:
        bench.network[who].run(0, *words)
    change(b, lambda: gone(IncomingTransfer, "forgotten there/x"))
    feed("forgotten here", "never sent")  # INITIATED at b, and a knows nothing of it
    a.run(0, "send-clone")
    change(a, lambda: gone(OutgoingTransfer, "forgotten here/x"))
    change(a, lambda: SendQueue.delete().where(waiting(), SendQueue.files == 1).execute())
    bench.network.world.wait(days=4)
    out = ("a", "outgoing-transfer-hypervisor", "--age-in-days", "1")
    into = ("b", "incoming-transfer-hypervisor", "--age-in-days", "2")
    work = steps([out, into, *SEND])
    bench.try_all(Scenario(bench.network, work, [out, into, *SEND, ("b", "reconcile")], ignore=("carried", "came"), part=3))


def test_retry_and_the_pruning_of_history(bench: Bench, tmp_path: Path) -> None:
    a = bench.network["a"]
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    for n in range(3):
        (fresh / f"late {n}").write_bytes(b"%d" % n)
    a.run(0, "ingest", "--recursive", str(fresh))
    a.run(0, "send-clone")

    def stuck() -> None:
        now = bench.network.world.now
        rows = list(OutgoingTransfer.select().where(live(OutgoingTransfer)))
        OutgoingTransfer.update(status=TransferStatus.FAILED, end_time=now, owed=Owed.FAILURE).where(live(OutgoingTransfer)).execute()
        SendQueue.update(status=3, end_time=now).where(waiting()).execute()
        for row in rows:
            Retry.create(file=row.file, destination=row.destination, attempts=9, not_before=None, reason="it was refused")

    change(a, stuck)
    for name in ("a", "b"):
        bench.network[name].write(history_days=20)
    work: list[Any] = [step("a", "retry", "--librarian", "b"), *steps(SEND), lambda: bench.network.world.wait(days=30)]
    work += steps([("a", "check-consumed-queue"), ("b", "recv-clone")])
    bench.try_all(Scenario(bench.network, work, [*SEND, ("b", "check-consumed-queue")], part=4))
    for site in bench.network.sites.values():
        with site.open():
            assert not OutgoingTransfer.select().exists() and not IncomingTransfer.select().exists()
            assert not SendQueue.select().exists()


# -- real processes -----------------------------------------------------------------------------------------------


def test_kill_9_at_30_random_moments_of_everything(top: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two librarians side by side, all that cron runs, files that come in, copies that go bad and copies that go."""
    network = damage.both_ways(damage.make_network(top / "pair", World(), (("a", "b"),)))
    a, b = network["a"], network["b"]
    numbers = random.Random(SEED)
    delete = ("rolling-deletion", "--store", "main", "--age-in-days", "0", "--number-of-remote-copies", "1", "--keep-days", "0")
    look = ("check-integrity", "--age-in-days", "0")
    night: tuple[tuple[str, ...], ...] = (("reconcile",), ("outgoing-transfer-hypervisor",), ("incoming-transfer-hypervisor",))
    day = (look, ("corruption-fixer",), ("consume-queue",), ("check-consumed-queue",), ("recv-clone",))
    cron = {"a": [("send-clone",), delete, *day, *night], "b": [*day, *night]}
    source, hurt = top / "source", 0
    killed = finished = fed = 0
    running: list[tuple[subprocess.Popen[bytes], float]] = []
    while killed < 30:
        if fed <= (killed + finished) // 12:
            fed += 1
            for kind, policy in (("keep", "disallowed"), ("go", "allowed")):
                for n in range(4):
                    path = source / f"{kind}{fed}/{n % 2}/{n}"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(f"{kind} {fed} {n} ".encode() * 50)
                words = ("ingest", "--recursive", "--deletion-policy", policy, str(source / f"{kind}{fed}"), f"{kind}{fed}")
                running.append((a.spawn(*words, start_new_session=True), time.monotonic() + numbers.uniform(0.2, 3)))
        for path in numbers.sample(sorted(b.store.glob("keep*/*/*")), 1) if any(b.store.glob("keep*/*/*")) else []:
            if numbers.random() < 0.2 and path.exists() and path.stat().st_nlink == 1:
                damage.flip(path)
                hurt += 1
        for site in (a, b):
            moment = time.monotonic() + numbers.uniform(0.1, 1.2)
            running.append((site.spawn(*numbers.choice(cron[site.name]), start_new_session=True), moment))
        for process, moment in running:
            try:
                process.communicate(timeout=max(0.0, moment - time.monotonic()))
                finished += 1
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL) if numbers.random() < 0.5 else process.kill()
                process.communicate()
                killed += 1
        running.clear()
    for n in range(1, fed + 1):
        a.run(None, "ingest", "--recursive", "--deletion-policy", "disallowed", str(source / f"keep{n}"), f"keep{n}")
        a.run(None, "ingest", "--recursive", "--deletion-policy", "allowed", str(source / f"go{n}"), f"go{n}")
    world = World(now=datetime.now(timezone.utc)).take_over(monkeypatch)
    kept = {name: content for name, content in tree(source).items() if name.startswith("keep")}
    for _ in range(60):  # its end is what counts, not the way there
        world.wait(hours=7)
        ran = [site.run(None, *words) for site in (a, b) for words in cron[site.name]]
        assert all(each.code in (0, 3, 4) for each in ran), ran
        with a.open():
            over = not Removal.select().where(Removal.status < RemovalStatus.PURGED).exists() and Removal.select().exists()
        if over and all(each.code == 0 for each in ran) and b.stored() == tree(source) and not network.pending():
            break
    assert a.stored() == kept
    assert b.stored() == tree(source)
    assert damage.conditions(b) == {} and network.pending() == {}
    assert wrongs(a) + wrongs(b) == []
    with a.open():
        assert {row.status for row in Removal.select()} <= {RemovalStatus.PURGED, RemovalStatus.RETURNED}
    for site in (a, b):
        assert not [place for place in site.staged() if "/" not in place]
    with capsys.disabled():
        print(f"\nkill -9: {killed} times, {finished} commands came to their end, {len(tree(source))} files, {hurt} copies ruined")
