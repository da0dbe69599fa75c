"""Routes: what is new arrives, what is proved leaves, and whatever users do in between, no content of theirs is lost.

The matrix changes files in every way at every moment, on this host and through a collection. ``LIBTOOL_TEST_ALL_SEAMS=1``
tries each case alone, too, and on PostgreSQL.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from libtool.archive import clearing as clearing_module
from libtool.archive import emptying
from libtool.archive import errands as errands_module
from libtool.archive.hands import Budget
from libtool.archive.routes import Mirror
from libtool.archive.shipping import Slots
from libtool.commands.tasks import frame
from libtool.errors import DirectoryUnreadable
from libtool.models.tables import Librarian, RouteRemoval, RouteTask, SendQueue
from libtool.movers.globus.mover import GlobusMover
from libtool.movers.globus.tree import CollectionTree
from libtool.states import ClearingStatus, Deed, QueueStatus
from libtool.trees.base import ASIDE
from libtool.trees.local import LocalTree
from tests.globus_service import GlobusService
from tests.globus_service.copying import Copy
from tests.routes import KINDS, OLD, Clock, Routed, everything, files, put

ALL = bool(os.environ.get("LIBTOOL_TEST_ALL_SEAMS"))
Databases = Callable[[str], "str | None"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Where the source is."""
    return str(request.param)


@pytest.fixture
def routed(top: Path, globus: GlobusService, clock: Clock, kind: str) -> Routed:
    """A route whose source is empty yet."""
    return Routed(top, globus, kind)


@pytest.fixture
def local(top: Path, globus: GlobusService, clock: Clock) -> Routed:
    """The same with its source on this host."""
    return Routed(top, globus)


# -- the matrix: every way × every moment × both kinds of source ----------------------------------------------------


@dataclass
class Case:
    """One file that one user changes in one way at one moment."""

    way: str
    top: Path  #: of the source
    target: Path  #: of the destination
    must: set[bytes] = field(default_factory=set)  #: contents that may not be lost
    handle: int = -1  #: leads to the file wherever it lies, and does not keep it open for writing
    writer: int = -1  #: of a process that has the file open all the time
    done: bool = False

    @property
    def path(self) -> str:
        return f"{self.way}/below/file"

    @property
    def here(self) -> Path:
        return self.top / self.path

    @property
    def there(self) -> Path:
        return self.target / self.path

    def begin(self) -> None:
        """Write the file."""
        content = (self.way.encode() + b" ") * 40
        put(self.here, content)
        self.must = {content}
        self.handle = os.open(self.here, os.O_PATH)
        if self.way.startswith("kept open"):
            self.writer = os.open(self.here, os.O_RDWR)

    def go(self) -> None:
        """Change it, once."""
        if not self.done:
            self.done = True
            WAYS[self.way](self)

    def end(self) -> None:
        """The process with the file open ends."""
        for descriptor in (self.handle, self.writer):
            with suppress(OSError):
                os.close(descriptor)
        self.handle = self.writer = -1

    # -- what ways are made of

    @property
    def inode(self) -> str:
        """A path that leads to the file as a process knows it that opened it before."""
        return f"/proc/self/fd/{self.handle}"

    def alive(self) -> bool:
        """Whether the file is still somewhere."""
        return os.stat(self.inode).st_nlink > 0

    def write(self, change: Callable[[bytes], bytes], *, same_time: bool = False) -> None:
        """Its owner writes other content into it, wherever it lies; what is gone nobody can write into."""
        if not self.alive():
            return
        before = os.stat(self.inode)
        with open(self.inode, "r+b") as stream:
            old = stream.read()
            new = change(old)
            stream.seek(0)
            stream.write(new)
            stream.truncate()
        if same_time:
            os.utime(self.inode, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.must = {new}

    def used_again(self, content: bytes) -> None:
        """The name is about to get other content; what had it may be gone from there, and then nobody gave it up."""
        self.must = {content} | (set() if os.path.lexists(self.here) else self.must)

    def lying(self) -> bool:
        """Whether the file is in its place; its owner forgets what he takes from there."""
        if not os.path.lexists(self.here):
            return False
        self.must = set()
        return True


def _other(content: bytes) -> bytes:
    return bytes(byte ^ 0x20 for byte in content)


def _append(case: Case) -> None:
    case.write(lambda old: old + b"more")


def _append_to_the_descriptor(case: Case) -> None:
    if case.alive():
        os.pwrite(case.writer, b"more", os.fstat(case.writer).st_size)
        case.must = {os.pread(case.writer, 10**6, 0)}


def _replace(case: Case) -> None:
    """Another file of the same size and time takes the name."""
    content = (b"replaced! " * 400)[: len(case.way.encode() + b" ") * 40]
    case.used_again(content)
    put(case.here.with_name("new"), content)
    os.replace(case.here.with_name("new"), case.here)


def _away(case: Case) -> None:
    """The owner takes the file out of the tree."""
    if case.lying():
        outside = case.top.parent / f"outside {case.way}"
        os.replace(case.here, outside)


def _directory_instead(case: Case) -> None:
    _away(case)
    put(case.here / "inner", b"in a directory of that name")
    case.must |= {b"in a directory of that name"}


def _link_instead(to: str) -> Callable[[Case], None]:
    def change(case: Case) -> None:
        _away(case)
        others = case.top.parent / "others"
        put(others / "file", b"of somebody else")
        case.here.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(others / to, case.here)

    return change


def _link_on_the_way(case: Case) -> None:
    """Its directory moves away, and a link to it takes the name."""
    moved = case.top.parent / f"moved {case.way}"
    if os.path.lexists(case.here):
        case.must = set()
    with suppress(FileNotFoundError):
        os.rename(case.here.parent, moved)
    moved.mkdir(exist_ok=True)
    put(moved / "file", b"behind a link")
    case.here.parent.parent.mkdir(exist_ok=True)
    os.symlink(moved, case.here.parent)


def _truncate(case: Case) -> None:
    case.write(lambda old: old[:10])


def _shrink_to_nothing(case: Case) -> None:
    case.write(lambda old: b"")


def _chmod(case: Case) -> None:
    if case.alive():
        os.chmod(case.inode, 0o640)


def _touch(case: Case) -> None:
    if case.alive():
        os.utime(case.inode, (OLD + 5000, OLD + 5000))


def _rename(case: Case) -> None:
    if os.path.lexists(case.here):
        os.replace(case.here, case.here.with_name("renamed"))


def _rename_its_directory(case: Case) -> None:
    with suppress(FileNotFoundError):
        os.replace(case.here.parent, case.here.parent.with_name("renamed"))


def _anew(case: Case) -> None:
    """It is removed and made anew; while the former lies aside, the name is just free."""
    case.used_again(b"made anew")
    case.here.unlink(missing_ok=True)
    put(case.here, b"made anew", OLD + 100)


def _at_the_destination(content: bytes | None, mtime: float = OLD) -> Callable[[Case], None]:
    def change(case: Case) -> None:
        if content is None:
            case.there.unlink(missing_ok=True)
        else:
            put(case.there, content, mtime)

    return change


def _damage(case: Case) -> None:
    """Bits of the copy flip; nothing else shows it."""
    if case.there.is_file():
        put(case.there, _other(case.there.read_bytes()), case.there.stat().st_mtime)


#: What owners of files, and people at the destination, do.
WAYS: dict[str, Callable[[Case], None]] = {
    "left alone": lambda case: None,
    "other content, same size and time": lambda case: case.write(_other, same_time=True),
    "replaced": _replace,
    "a directory instead": _directory_instead,
    "a link to a file instead": _link_instead("file"),
    "a link to a directory instead": _link_instead(""),
    "a dangling link instead": _link_instead("nothing"),
    "a link on the way": _link_on_the_way,
    "appended": _append,
    "kept open and appended": _append_to_the_descriptor,
    "truncated": _truncate,
    "emptied": _shrink_to_nothing,
    "chmod": _chmod,
    "touched": _touch,
    "renamed": _rename,
    "its directory renamed": _rename_its_directory,
    "removed": _away,
    "made anew": _anew,
    "copy damaged": _damage,
    "copy removed": _at_the_destination(None),
    "copy replaced": _at_the_destination(b"something else there"),
    "copy newer": _at_the_destination(b"something newer there", OLD + 10**6),
}
#: They change what is in the file itself, wherever it lies.
INSIDE = {"other content, same size and time", "appended", "kept open and appended", "truncated", "emptied"}
SAME = "other content, same size and time"
#: The moments, in the order in which they come.
MOMENTS = [
    "before the first look",
    "between two looks",
    "before its task is submitted",
    "before it is copied",
    "while it is copied",
    "when it is copied",
    "when it has arrived",
    "when that is known",
    "before it is set aside",
    "when it is set aside",
    "while it lies aside",
    "before its comparison is submitted",
    "before it is compared",
    "while it is compared",
    "when it is compared",
    "when its comparison is over",
    "when it is proved",
    "right before it is removed",
    "while its removal waits",
    "when it is removed",
]
#: Where the last look at a file behind a collection is older than the change, and no later one would show it: nobody can
#: tell the service "only if it is still so". Only a process that had the file open before it was set aside can do this.
BLIND: dict[str, set[str]] = {
    "when it is compared": {SAME},
    "when its comparison is over": {SAME},
    "when it is proved": {SAME},
    "right before it is removed": INSIDE,
    "while its removal waits": INSIDE,
}
#: What happens to a copy after it was compared is not the source's matter any more.
#: It cannot go: the former file of that name lies at the destination, where nothing is ever removed.
BLOCKED = "a directory instead/below/file/inner"
COPIES = {way for way in WAYS if way.startswith("copy ")}
LATER = set(MOMENTS[MOMENTS.index("when it is compared") :])


class Watch:
    """Has the files of some cases changed when their moment comes."""

    def __init__(self, routed: Routed, monkeypatch: pytest.MonkeyPatch, cases: list[Case], moment: str) -> None:
        self.routed, self.cases, self.moment = routed, cases, moment
        self._patch(monkeypatch)

    def at(self, moment: str, path: str | None = None) -> None:
        """The moment has come, for one file or for all."""
        if moment == self.moment:
            for case in self.cases:
                if path is None or path == case.path:
                    case.go()

    def _patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        at, top = self.at, f"{self.routed.target}/"
        tree = LocalTree if self.routed.kind == "local" else CollectionTree
        set_aside, submit, remove = tree.set_aside, GlobusMover.submit, LocalTree.remove
        compare, settled, afterwards = Copy._compare, Copy._up_to_date, Copy._afterwards
        take_away = clearing_module.Clearing._remove
        paths: dict[str, str] = {}

        def watched_set_aside(self: Any, path: str, place: str, name: str) -> Any:
            paths[f"{place}/{name}"] = path
            at("before it is set aside", path)
            way = set_aside(self, path, place, name)
            at("when it is set aside", path)
            return way

        def watched_submit(self: GlobusMover, provider: Any, ticket: Any, items: Any) -> Any:
            deed = {"send": "its task is submitted", "compare": "its comparison is submitted", "delete": ""}[self.setup.deed]
            at(f"before {deed}" if deed else "right before it is removed")
            return submit(self, provider, ticket, items)

        def watched_remove(self: LocalTree, place: str, name: str, seen: Any) -> str:
            at("right before it is removed", paths.get(f"{place}/{name}"))
            return remove(self, place, name, seen)

        def watched_compare(self: Copy, here: bytes, there: bytes) -> None:
            at("while it is copied", self.subtask.destination.removeprefix(top))
            compare(self, here, there)

        def watched_settled(self: Copy, here: bytes, there: bytes) -> bool:
            proving = self.task.document.get("sync_level") is not None
            path = self.subtask.destination.removeprefix(top)
            if proving:
                at("while it is compared", path)
            same = settled(self, here, there)
            if proving:
                at("when it is compared", path)
            return same

        def watched_afterwards(self: Copy, here: bytes) -> None:
            at("when it is copied", self.subtask.destination.removeprefix(top))
            afterwards(self, here)

        def watched_take_away(self: Any) -> None:
            if any(True for _ in self._rows(clearing_module.ClearingStatus.PROVED)):
                at("when it is proved")
            take_away(self)

        monkeypatch.setattr(tree, "set_aside", watched_set_aside)
        monkeypatch.setattr(GlobusMover, "submit", watched_submit)
        monkeypatch.setattr(LocalTree, "remove", watched_remove)
        monkeypatch.setattr(Copy, "_compare", watched_compare)
        monkeypatch.setattr(Copy, "_up_to_date", watched_settled)
        monkeypatch.setattr(Copy, "_afterwards", watched_afterwards)
        monkeypatch.setattr(clearing_module.Clearing, "_remove", watched_take_away)

    def run(self) -> None:
        """One route from the first look to the end of its files, and the moments between two commands."""
        routed, at = self.routed, self.at
        at("before the first look")
        routed.run(None, "transfer")
        routed.tick()
        at("between two looks")
        for _ in range(3):
            routed.run(None, "transfer")
            at("before it is copied")
            routed.tick()
            at("when it has arrived")
        routed.run(None, "transfer")
        at("when that is known")
        routed.run(None, "delete")
        at("while it lies aside")
        routed.tick()
        routed.run(None, "delete")
        at("before it is compared")
        routed.tick()
        at("when its comparison is over")
        routed.run(None, "delete")
        at("while its removal waits")
        routed.tick()
        routed.run(None, "delete")
        at("when it is removed")
        assert all(case.done for case in self.cases), [case.way for case in self.cases if not case.done]

    def finish(self, most: int = 14) -> None:
        """Cron's rounds until nothing is left at the source that can go."""
        for n in range(most):
            self.routed.round()
            if n == 3:  # what can never come is waited for till the day is over
                self.routed.tick(86400)
                for case in self.cases:
                    case.end()
            if n > 3 and not files(self.routed.source).keys() - stays(self.routed):
                break
        for case in self.cases:
            case.end()


def stays(routed: Routed) -> set[str]:
    """What cannot go: under its name the destination has something else, which is nowhere else any more."""
    there = files(routed.target)
    return {BLOCKED} | {path for path, status, _ in routed.removals() if status == "REMOVED" and path in there}


def check(watch: Watch) -> None:
    """Nothing is lost, and what can go is gone."""
    routed = watch.routed
    left, there = files(routed.source), files(routed.target)
    kept = set(left.values()) | set(there.values())
    blind = BLIND.get(watch.moment, set()) if routed.kind == "collection" else set()
    for case in watch.cases:
        if case.way in blind or (case.way in COPIES and watch.moment in LATER):
            continue
        lost = case.must - kept
        assert not lost, (watch.moment, case.way, lost, sorted(left), routed.removals())
        mine = {path: content for path, content in there.items() if path.startswith(f"{case.way}/")}
        assert case.must <= set(mine.values()) | set(left.values()), (watch.moment, case.way)
    stuck = left.keys() - stays(routed)
    if (routed.kind, watch.moment) == ("collection", "before it is set aside") and len(stuck) == 1:
        # The service follows a link that somebody put there this very moment. What it fetched is kept, and told.
        assert "a link on the way" in routed.troubles()["route out: delete occupied"]
        stuck = set()
    assert not stuck, (watch.moment, stuck, routed.run(None, "-v", "transfer"), routed.troubles())
    outside = watch.routed.source.parent / "others/file"
    assert not outside.exists() or outside.read_bytes() == b"of somebody else"


def play(routed: Routed, monkeypatch: pytest.MonkeyPatch, ways: list[str], moment: str) -> None:
    """One moment, and a file for every way."""
    cases = [Case(way, routed.source, routed.target) for way in ways]
    for case in cases:
        case.begin()
    try:
        watch = Watch(routed, monkeypatch, cases, moment)
        watch.run()
        watch.finish()
        check(watch)
    finally:
        for case in cases:
            case.end()


def moments(kind: str) -> list[str]:
    """Behind a collection removing is a task, too."""
    return [each for each in MOMENTS if kind == "collection" or each != "while its removal waits"]


MATRIX = [(kind, moment) for kind in KINDS for moment in moments(kind)]
#: One of so many moments is tried in CI.
FEW = {"local": 4, "collection": 10}
TRY = [(kind, moment) for kind, moment in MATRIX if ALL or MOMENTS.index(moment) % FEW[kind] == FEW[kind] // 2]


@pytest.mark.parametrize(("kind", "moment"), TRY, ids=lambda each: str(each).replace(" ", "-"))
def test_no_content_is_lost_in_whatever_way_a_file_changes(
    top: Path, globus: GlobusService, clock: Clock, monkeypatch: pytest.MonkeyPatch, kind: str, moment: str
) -> None:
    play(Routed(top, globus, kind), monkeypatch, list(WAYS), moment)


@pytest.mark.parametrize(
    ("kind", "moment", "way"), [(*each, way) for each in MATRIX for way in WAYS] if ALL else [], ids=lambda each: str(each).replace(" ", "-")
)
def test_no_content_is_lost_of_a_file_that_is_alone(
    top: Path, globus: GlobusService, clock: Clock, monkeypatch: pytest.MonkeyPatch, kind: str, moment: str, way: str
) -> None:
    play(Routed(top, globus, kind), monkeypatch, [way], moment)


@pytest.mark.parametrize(("kind", "moment"), MATRIX if ALL else [], ids=lambda each: str(each).replace(" ", "-"))
def test_no_content_is_lost_with_postgresql(
    top: Path, globus: GlobusService, clock: Clock, monkeypatch: pytest.MonkeyPatch, postgres: Callable[[str], str], kind: str, moment: str
) -> None:
    play(Routed(top, globus, kind, database=postgres("routes")), monkeypatch, list(WAYS), moment)


def test_the_matrix_is_counted() -> None:
    """pytest -s shows it."""
    print(f"\n{len(WAYS)} ways at {len(MOMENTS)} moments: {len(MATRIX) * len(WAYS)} cases, of which {len(TRY) * len(WAYS)} are tried")
    assert len(MATRIX) * len(WAYS) >= 800


@pytest.mark.parametrize("fault", ["grow", "replace", "touch", "corrupt"])
def test_a_file_that_changes_while_the_service_copies_it_arrives_as_it_is_in_the_end(routed: Routed, globus: GlobusService, fault: str) -> None:
    put(routed.source / "d/file", b"x" * 1000)
    globus.fault(fault, path=f"{routed.source}/d/file")
    for _ in range(12):
        content = files(routed.source).get("d/file")
        routed.round()
        if content is not None:
            last = content
        if not files(routed.source):
            break
    assert files(routed.source) == {} and files(routed.target) == {"d/file": last}


# -- what is new arrives, what arrived leaves, and nothing else does -------------------------------------------------


def test_only_what_is_new_or_changed_is_sent_and_only_what_is_proved_leaves(
    top: Path, globus: GlobusService, clock: Clock, kind: str
) -> None:
    routed = Routed(top, globus, kind)
    many = 10_000 if kind == "local" else 1000 if ALL else 300
    width = 100 if kind == "local" else 50
    for n in range(many):
        put(routed.source / f"a{n % width // 10}/b{n % width}/c/file{n}", b"content %d" % n)
    for empty in ("always empty", "a0/b0/c/also empty", "a1/empty"):
        (routed.source / empty).mkdir()
    put(routed.target / "unknown/file", b"of somebody else")
    (routed.target / "nothing in it").mkdir()
    routed.sent()
    assert files(routed.source) == {path: content for path, content in files(routed.target).items() if path != "unknown/file"}
    assert len(globus.tasks) == -(-many // 2000)

    # Nothing is new: no task, and no row but the run's.
    before = routed.dump(without=["task_run", "route"])
    routed.run(0, "transfer")
    routed.tick()
    assert len(globus.tasks) == -(-many // 2000) and routed.dump(without=["task_run", "route"]) == before

    # A changed, a new, a removed and a growing file.
    put(routed.source / "a0/b0/c/file0", b"changed", OLD + 10)
    put(routed.source / "new/er/file", b"new")
    (routed.source / "a1/b11/c/file11").unlink()
    for n in range(3):
        with open(routed.source / "growing", "ab") as stream:
            stream.write(b"more")
        os.utime(routed.source / "growing", (OLD + n, OLD + n))
        routed.round(("transfer",))
    status = routed.status()
    assert status["a0/b0/c/file0"] == status["new/er/file"] == "SENT" and status["growing"] == "SEEN"
    assert "a1/b11/c/file11" not in status
    assert (routed.target / "a0/b0/c/file0").read_bytes() == b"changed" and not (routed.target / "growing").exists()
    assert (routed.target / "a1/b11/c/file11").read_bytes() == b"content 11"  # nothing is removed there

    # What is proved goes, and the directories that this empties.
    there = files(routed.target)
    put(routed.source / "unsent", b"not sent yet")
    with open(routed.source / "growing", "ab") as stream:
        stream.write(b"more")
    routed.gone(12)
    assert set(files(routed.source)) == {"growing", "unsent"}
    left = {str(each.relative_to(routed.source)) for each in routed.source.rglob("*") if each.is_dir() and ASIDE not in str(each)}
    assert left == {"always empty", "a0", "a0/b0", "a0/b0/c", "a0/b0/c/also empty", "a1", "a1/empty"}
    assert files(routed.target) == there and (routed.target / "nothing in it").is_dir()


def test_files_go_all_the_way_on_every_database(top: Path, globus: GlobusService, clock: Clock, databases: Databases, kind: str) -> None:
    routed = Routed(top, globus, kind, database=databases("routes"))
    for n in range(8):
        put(routed.source / f"d{n % 3}/é{n}", b"content %d" % n)
    routed.change(max_files=3)
    routed.sent()
    put(routed.source / "d0/é0", b"changed", OLD + 1)
    os.chmod(routed.source / "d1/é1", 0o600)
    shutil.rmtree(routed.source / "d2")
    for _ in range(10):
        routed.round()
    assert routed.bare() and len(files(routed.target)) == 8 and files(routed.target)["d0/é0"] == b"changed"


def own_mark_of(routed: Routed) -> str:
    """The directory that shows at a source who removes files from it."""
    (mark,) = [each.name for each in (routed.source / ASIDE).iterdir() if each.name.startswith("owner-")]
    return mark


def test_directories_stay_when_the_configuration_says_so(routed: Routed) -> None:
    routed.change(remove_empty=False)
    put(routed.source / "a/b/file")
    routed.sent().gone()
    assert not files(routed.source) and (routed.source / "a/b").is_dir()
    assert routed.kind == "collection" or [each.name for each in (routed.source / ASIDE).iterdir()] == [own_mark_of(routed)]


def test_a_directory_that_may_not_be_removed_keeps_nothing_else_from_leaving(local: Routed, monkeypatch: pytest.MonkeyPatch) -> None:
    put(local.source / "stuck/file")
    put(local.source / "other/file")
    local.sent()
    real = LocalTree.remove_empty

    def remove_empty(self: LocalTree, directory: str) -> bool:
        if directory == "stuck":
            raise DirectoryUnreadable(path=directory, why="Permission denied")
        return real(self, directory)

    monkeypatch.setattr(LocalTree, "remove_empty", remove_empty)
    for _ in range(3):
        local.round(("delete",))
    put(local.source / "later")
    local.sent()
    for _ in range(4):
        local.round(("delete",))
    assert not files(local.source) and {each.name for each in local.source.iterdir()} == {"stuck", ASIDE}


def test_an_empty_directory_that_cannot_come_back_is_told(top: Path, globus: GlobusService, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who is in it writes a file while it is set aside, and somebody else makes it anew."""
    routed = Routed(top, globus, "collection")
    put(routed.source / "d/file")
    routed.sent()
    real = emptying._empty

    def empty(mirror: Mirror, directory: str) -> bool | None:
        if directory.startswith(f"{ASIDE}/empty-") and directory.endswith("/d2") and not (routed.source / directory / "late").exists():
            put(routed.source / directory / "late", b"late")
            put(routed.source / "d/anew", b"anew")
        return real(mirror, directory)

    monkeypatch.setattr(emptying, "_empty", empty)
    told = "".join(each.err for _ in range(12) for each in routed.round(("delete",)))
    (late,) = routed.source.glob(f"{ASIDE}/*/*/late")
    assert late.read_bytes() == b"late" and told.count(f"its content lies at {late.parent}; move one of the two away") == 1
    (routed.source / "d").rename(routed.source / "e")
    routed.round(("delete",))
    assert (routed.source / "d/late").read_bytes() == b"late" and not routed.troubles()


def test_a_directory_that_is_gone_while_a_task_has_a_file_of_it_is_left_behind(local: Routed, globus: GlobusService) -> None:
    put(local.source / "d/first")
    local.sent()
    for _ in range(2):
        local.round(("delete",))  # set aside and compared
    put(local.source / "d/second")
    local.round(("transfer",))
    local.run(0, "transfer")
    assert local.status() == {"d/second": "SENDING"}
    (local.source / "d/second").unlink()
    local.run(0, "delete", "--soft-timeout", "30s")
    assert not (local.source / "d").exists()


# -- patterns, times, names ----------------------------------------------------------------------------------------


def test_patterns_choose(routed: Routed) -> None:
    routed.change(include=["*.fits", "raw/"], exclude=["*.tmp", "scratch/", "deep/no.fits"])
    yes = ["a.fits", "deep/b.fits", "raw/anything", "raw/x/y"]
    no = ["a.txt", "scratch/c.fits", "deep/scratch/d.fits", "raw/e.tmp", "deep/no.fits"]
    for path in yes + no:
        put(routed.source / path)
    routed.sent()
    assert sorted(files(routed.target)) == sorted(yes)
    routed.gone()
    assert sorted(files(routed.source)) == sorted(no)


def test_what_is_excluded_after_it_arrived_stays(routed: Routed) -> None:
    put(routed.source / "keep/a")
    put(routed.source / "b")
    routed.sent()
    routed.change(exclude=["keep/"])
    routed.gone()
    assert set(files(routed.source)) == {"keep/a"}


def test_a_file_is_sent_when_it_kept_still_and_leaves_when_it_was_kept(routed: Routed, globus: GlobusService) -> None:
    routed.change(settle_seconds=600, keep_seconds=3600)
    put(routed.source / "old")
    put(routed.source / "fresh", mtime=globus.now.timestamp() - 60)
    put(routed.source / "from the future", mtime=globus.now.timestamp() + 10**6)
    routed.run(0, "transfer")
    routed.tick(590)
    routed.run(0, "transfer")
    assert not globus.tasks
    routed.tick(15)
    routed.run(0, "transfer")
    assert set(routed.status().values()) == {"SENDING"}
    routed.tick(1)
    routed.run(0, "transfer")
    assert set(routed.status().values()) == {"SENT"}
    routed.tick(3500)
    routed.run(0, "delete")
    assert not routed.removals()
    routed.tick(200)
    routed.run(0, "delete")
    assert len(routed.removals()) == 3
    routed.tick(590)
    routed.run(0, "delete")
    assert routed.deeds() == ["SEND"]  # what lies aside is left alone as long as a file must have kept still
    routed.tick(20)
    routed.gone()
    assert not files(routed.source) and len(files(routed.target)) == 3


HARD = [" blanks ", "it's \"quoted\"", "a*b?c[d]{e}", "é—日本", "-rf", "#1", "50%", "%2F", "back\\slash", ".hidden", "~"]


def test_hard_names_go_like_others(routed: Routed) -> None:
    for name in HARD:
        put(routed.source / "d" / name / name, name.encode())
    routed.sent().gone()
    assert routed.bare()
    assert files(routed.target) == {f"d/{name}/{name}": name.encode() for name in HARD}


def test_what_cannot_be_mirrored_is_told_and_left_alone(routed: Routed) -> None:
    put(routed.source / "fine")
    put(routed.source / "line\nbreak")
    put(routed.source / "dir\nectory/file")
    with open(os.fsencode(routed.source) + b"/no\xfftext", "wb") as stream:
        stream.write(b"content")
    (routed.source / "link").symlink_to("fine")
    (routed.source / "dangling").symlink_to("nowhere")
    os.mkfifo(routed.source / "pipe")
    routed.sent()
    lines = [line for _ in range(3) for line in routed.round(("transfer",))[0].err.splitlines() if "not mirrored" in line]
    before = {path.name for path in routed.source.iterdir()}
    routed.gone()
    assert {path.name for path in routed.source.iterdir()} - {ASIDE} == before - {"fine"}
    assert len(lines) <= 1 and set(files(routed.target)) == {"fine"}
    assert "6 are not mirrored" in routed.troubles()["route out: source strange"]


def test_a_directory_that_cannot_be_read_says_nothing_of_its_files(local: Routed, monkeypatch: pytest.MonkeyPatch) -> None:
    put(local.source / "d/file")
    put(local.source / "other")
    local.sent()
    real = LocalTree.list

    def unreadable(self: LocalTree, directory: str) -> Any:
        if directory == "d":
            raise DirectoryUnreadable(path=directory, why="Permission denied")
        return real(self, directory)

    monkeypatch.setattr(LocalTree, "list", unreadable)
    ran = local.run(3, "-v", "transfer")
    assert local.status() == {"d/file": "SENT", "other": "SENT"} and "1 postponed" in ran.err
    for _ in range(5):
        local.round(("delete",))
    assert set(files(local.source)) == {"d/file"}


@pytest.mark.parametrize("how", ["empty", "missing"])
def test_of_a_source_that_is_not_mounted_nothing_is_concluded(routed: Routed, how: str) -> None:
    for n in range(6):
        put(routed.source / f"d{n}/file")
    routed.change(max_deletions=2)
    routed.sent()
    for n in range(4):  # at every step of removing
        mounted = routed.source.with_name("mounted")
        routed.source.rename(mounted)
        if how == "empty":
            routed.source.mkdir()
        before, known = routed.removals(), routed.status()
        routed.run(None, "transfer")
        ran = routed.run(None, "-v", "delete")
        # A comparison may have found nothing, and is made again; but nothing is over.
        over = [[each[0] for each in rows if each[1] in ("REMOVED", "RETURNED")] for rows in (before, routed.removals())]
        assert over[0] == over[1] and len(before) == len(routed.removals()) and routed.status() == known, (n, ran)
        assert not routed.source.exists() or not any(routed.source.iterdir())
        if how == "empty":
            routed.source.rmdir()
        mounted.rename(routed.source)
        routed.round(("delete",))
    routed.change(max_deletions=100)
    tasks = routed.deeds().count("SEND")
    routed.round(("transfer",))
    routed.gone(12)
    assert not files(routed.source) and len(files(routed.target)) == 6 and routed.deeds().count("SEND") == tasks


# -- limits, dry runs, reset, put back ------------------------------------------------------------------------------


def test_tasks_and_runs_have_limits(routed: Routed, globus: GlobusService) -> None:
    routed.change(max_files=2, max_deletions=3)
    for n in range(5):
        put(routed.source / f"file{n}")
    routed.sent()
    assert [len(task.items) for task in globus.tasks] == [2, 2, 1]
    routed.run(0, "delete")
    assert len(routed.removals()) == 3
    routed.gone(12)
    assert not files(routed.source) and max(len(task.items) for task in globus.tasks) == 2


def test_a_dry_run_tells_what_would_be_done_and_changes_nothing(routed: Routed) -> None:
    put(routed.source / "d/a", b"12345")
    put(routed.source / "b", b"123")

    def dry(*words: str) -> list[str]:
        before = routed.dump(), everything(routed.source), everything(routed.target), len(routed.globus.tasks)
        out = routed.run(0, *words, "--dry-run").out
        assert (routed.dump(), everything(routed.source), everything(routed.target), len(routed.globus.tasks)) == before
        return sorted(out.splitlines())

    assert dry("transfer") == ["out: new: b, 3 bytes", "out: new: d/a, 5 bytes"]
    assert dry("delete") == []
    routed.run(0, "transfer")
    routed.tick(5)
    put(routed.source / "b", b"1234", OLD + 1)
    assert dry("transfer") == ["out: changed: b, 4 bytes"]
    routed.tick()
    assert dry("transfer") == ["out: changed: b, 4 bytes", "out: due: d/a, 5 bytes"]
    routed.sent()
    assert dry("transfer") == []
    assert dry("delete") == ["out: set aside: b, 4 bytes", "out: set aside: d/a, 5 bytes"]
    routed.run(0, "delete")
    assert dry("delete") == ["out: compare and remove: b, 4 bytes", "out: compare and remove: d/a, 5 bytes"]
    assert dry("delete", "--put-back") == ["out: put back: b, 4 bytes", "out: put back: d/a, 5 bytes"]
    (out,) = dry("reset", "out")
    assert out.startswith("out: 0 files are known")


def test_reset_asks_and_then_everything_is_sent_again(routed: Routed, monkeypatch: pytest.MonkeyPatch) -> None:
    put(routed.source / "d/file")
    put(routed.source / "other")
    routed.sent()
    ran = routed.run(2, "reset", "out", stdin="y\n")
    assert "nobody is there to answer; add --yes" in ran.err and len(routed.status()) == 2
    with monkeypatch.context() as terminal:
        terminal.setattr(io, "StringIO", type("Terminal", (io.StringIO,), {"isatty": lambda stream: True}))
        assert "Forget all this" in routed.run(130, "reset", "out", stdin="n\n").err
    assert len(routed.status()) == 2
    routed.run(0, "delete")
    assert "aside" in routed.run(None, "reset", "out", "--yes").err and routed.removals()
    routed.run(0, "delete", "--put-back")
    assert set(files(routed.source)) == {"d/file", "other"}
    routed.sent()
    sends = routed.deeds().count("SEND")
    routed.run(0, "reset", "out", "--yes")
    assert not routed.status() and not routed.removals() and sends == 1
    routed.sent()
    assert routed.deeds() == ["SEND"] and not routed.busy()
    routed.gone()
    assert not files(routed.source)


def test_put_back_brings_everything_home_at_every_step(routed: Routed, globus: GlobusService) -> None:
    for step in range(3):
        put(routed.source / f"d{step}/file", b"content %d" % step)
        routed.sent()
        for _ in range(step):
            routed.run(None, "delete")
            routed.tick()
        before = set(files(routed.source).values())
        for _ in range(3):
            routed.run(None, "delete", "--put-back")
            routed.tick()
        assert not routed.busy() and set(files(routed.source, aside=False).values()) == before
    routed.sent().gone()
    assert not files(routed.source) and len(files(routed.target)) == 3


# -- changed routes, several routes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["dst_dir", "dst_id"])
def test_another_destination_starts_no_transfer_and_nothing_may_leave(routed: Routed, globus: GlobusService, key: str) -> None:
    put(routed.source / "file")
    routed.sent()
    elsewhere = routed.top / "elsewhere"
    elsewhere.mkdir()
    routed.change(**{key: str(elsewhere) if key == "dst_dir" else globus.collection("elsewhere").id})
    tasks = len(globus.tasks)
    for _ in range(3):
        routed.round()
    assert len(globus.tasks) == tasks and set(files(routed.source)) == {"file"}


def test_what_was_proved_at_a_former_destination_does_not_leave(routed: Routed) -> None:
    put(routed.source / "file")
    routed.sent()
    for _ in range(2):
        routed.run(0, "delete")
        routed.tick()
    elsewhere = routed.top / "elsewhere"
    elsewhere.mkdir()
    routed.change(dst_dir=str(elsewhere))
    routed.run(None, "delete")
    routed.tick()
    assert set(files(routed.source, aside=False)) == {"file"}
    routed.sent().gone()
    assert not files(routed.source) and set(files(elsewhere)) == {"file"}


def test_another_source_is_refused(routed: Routed) -> None:
    put(routed.source / "file")
    routed.sent()
    (routed.top / "other").mkdir()
    former = routed.source
    routed.run(0, "delete")
    routed.change(src_dir=str(routed.top / "other"))
    told = routed.run(4, "transfer").err
    assert "libtool reset out" in told and "delete --put-back out" in told and "the source of route out was" in told
    for command in ("delete", "transfer", "delete"):
        assert routed.run(4, command).err == ""  # told once, and kept for status and mail
    assert "the source of route out was" in routed.troubles()["route out: moved"]
    assert "1 are set aside" in routed.run(1, "reset", "out", "--yes").out
    routed.run(0, "delete", "--put-back", "out")
    assert files(former) == {"file": b"content"}
    routed.run(0, "reset", "out", "--yes")
    assert "over after" in routed.run(0, "transfer").err and not routed.troubles()


def test_a_source_that_was_a_mistake_is_forgotten_when_it_is_corrected(routed: Routed) -> None:
    right = routed.source
    put(right / "file")
    (routed.top / "other").mkdir()
    put(routed.top / "other/wrong")
    routed.change(src_dir=str(routed.top / "other"))
    routed.run(0, "transfer")
    assert list(routed.status()) == ["wrong"]
    routed.change(src_dir=str(right))
    routed.run(0, "delete")
    routed.sent()
    assert files(routed.target) == {"file": b"content"} and not routed.troubles()


def test_an_unknown_route_is_guessed(routed: Routed) -> None:
    for command in ("transfer", "delete"):
        assert "did you mean 'out'?" in routed.run(None, command, "oot").err
    assert "did you mean 'out'?" in routed.run(None, "reset", "oot", "--yes").err


def test_a_file_of_two_routes_leaves_when_both_have_it(top: Path, globus: GlobusService, clock: Clock, kind: str) -> None:
    routed = Routed(top, globus, kind)
    routes = routed.site.settings["routes"]
    other = routed.route("other", src_dir=str(routed.source), exclude=["mine"])
    routed.site.write(routes={**routes, "other": other})
    put(routed.source / "d/both", b"both")
    put(routed.source / "mine", b"mine")
    for _ in range(3):
        routed.round(("transfer", "out"))
    for _ in range(6):
        routed.round(("delete",))
    assert files(routed.source) == {"d/both": b"both"} and len(files(routed.target)) == 2
    for _ in range(4):
        routed.round(("transfer", "other"))
    for _ in range(8):
        routed.round(("delete",))
    assert not files(routed.source) and files(top / "other-target") == {"d/both": b"both"}
    for _ in range(4):
        routed.round()
    assert routed.bare()


def test_a_route_in_trouble_delays_no_other(top: Path, globus: GlobusService, clock: Clock, kind: str) -> None:
    routed = Routed(top, globus, kind, routes={"bad": {}, "out": {}})
    put(routed.source / "file")
    put(top / "bad-source/file")
    shutil.rmtree(top / "bad-source")
    routed.run(None, "transfer")
    routed.tick()
    ran = routed.run(3, "transfer")
    routed.tick()
    routed.run(3, "transfer")
    for _ in range(4):
        routed.run(None, "delete")
        routed.tick()
    assert not files(routed.source) and set(files(routed.target)) == {"file"}
    assert "route bad: " in ran.err and "route out: " not in ran.err
    assert {each.partition(":")[0] for each in routed.troubles()} == {"route bad"}


# -- time that is up, tasks in trouble ---------------------------------------------------------------------------------


def test_a_look_without_time_goes_on_where_it_was(routed: Routed, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(6):
        put(routed.source / f"a{n}/b/file{n}")
    steps = {"left": 0}

    class Short(Budget):
        @property
        def left(self) -> bool:
            steps["left"] -= 1
            return steps["left"] >= 0

        def share(self, among: int) -> Budget:
            return self

    whole = frame.budget
    monkeypatch.setattr(frame, "budget", lambda seconds: Short(seconds, lambda: 0.0))
    seen: list[int] = []
    removed = {"a0/b/file0", "a4/b/file4"}
    for n in range(8):
        steps["left"] = 4
        routed.run(None, "transfer")
        routed.tick(20)
        seen.append(len(routed.status()))
        if n == 1:  # one that the look has passed, and one that it has not come to yet
            for path in removed:
                shutil.rmtree((routed.source / path).parent.parent)
        if seen[-1] >= 5 and n > 2:
            break
    assert seen == sorted(seen) and 0 < seen[0] < 5 and len(seen) > 2
    monkeypatch.setattr(frame, "budget", whole)
    routed.sent()
    assert set(files(routed.target)) == set(files(routed.source)) == {f"a{n}/b/file{n}" for n in (1, 2, 3, 5)}
    assert set(routed.status()) == set(files(routed.source))


def test_tasks_of_routes_and_of_the_queue_are_counted_together(local: Routed, globus: GlobusService) -> None:
    local.change(max_files=1)
    local.site.write(max_async_inflight_transfers=3)
    for n in range(6):
        put(local.source / f"file{n}")
    with local.site.open() as node:
        librarian = Librarian.create(name="b", url="exec:///b", authenticator="", transfers_enabled=False)
        SendQueue.create(destination=librarian, mover="globus", status=QueueStatus.IN_FLIGHT, create_time=node.now(), ticket="{}", provider="{}")
    for _ in range(4):
        local.run(None, "transfer")
        globus.advance(20) if not globus.tasks else None
    assert len(globus.world.unfinished()) == 2
    assert globus.most_active == 2
    with local.site.open() as node:
        assert sum(Slots(node).count().values()) == 3  # the queue counts those of routes, too
    local.sent(10)
    assert globus.most_active <= 2


def test_a_missing_login_is_told_with_its_remedy(top: Path, globus: GlobusService, clock: Clock, kind: str) -> None:
    routed = Routed(top, globus, kind, person=True)
    put(routed.source / "file")
    ran = [routed.run(None, "transfer")]
    routed.tick()
    ran.append(routed.run(4, "transfer"))
    assert "libtool login" in "".join(each.err for each in ran)
    assert set(files(routed.source)) == {"file"} and not globus.tasks


def test_a_paused_task_is_told_at_once_and_goes_on_later(routed: Routed, globus: GlobusService) -> None:
    put(routed.source / "file")
    routed.run(None, "transfer")
    routed.there.paused = "Maintenance"
    routed.tick()
    routed.run(0, "transfer")
    routed.tick()
    assert "Maintenance" in routed.run(3, "transfer").err
    routed.there.paused = None
    routed.sent().gone()
    assert not routed.troubles() and not files(routed.source)


def test_a_task_that_is_stuck_on_one_file_is_stopped_and_the_others_arrive(routed: Routed, globus: GlobusService) -> None:
    for n in range(4):
        put(routed.source / f"file{n}")
    put(routed.target / "file2/in the way")  # a directory lies in place of a file
    told = ""
    for _ in range(16):
        told += "".join(each.err for each in routed.round())
    assert set(files(routed.source)) == {"file2"}
    assert "file will not go, such as 'file2'" in told


def test_a_file_whose_directory_is_a_file_there_keeps_no_other_from_arriving(routed: Routed, globus: GlobusService) -> None:
    for name in ("d/file", "other"):
        put(routed.source / name)
    put(routed.target / "d", b"in the way")
    told = ""
    for _ in range(16):
        told += "".join(each.err for each in routed.round())
    assert set(files(routed.source)) == {"d/file"} and set(files(routed.target)) == {"d", "other"}
    assert "file will not go, such as 'd/file'" in told


@pytest.mark.parametrize("when", ["before it leaves", "while nobody knows"])
def test_a_file_that_cannot_be_compared_keeps_no_other_from_leaving(routed: Routed, globus: GlobusService, when: str) -> None:
    """The service tells of a comparison that was not finished nothing about the files that were the same."""
    routed.site.write(globus_stuck_after=1000)
    for n in range(30):
        put(routed.source / f"file{n}")
    if when == "before it leaves":
        routed.sent()
    else:
        for _ in range(2):
            routed.run(None, "transfer")
            routed.tick()
        globus.forget(globus.tasks[-1].task_id)
    (routed.target / "file7").unlink()
    put(routed.target / "file7/in the way")
    for _ in range(40):
        routed.round()
        if len(files(routed.source)) == 1:
            break
    (left,) = files(routed.source)
    assert left == "file7" or left.startswith(ASIDE), (routed.removals(), routed.status())


def test_a_lost_task_and_a_deleted_history_are_found_out_by_comparing(routed: Routed, globus: GlobusService) -> None:
    for case in ("lost", "history"):
        put(routed.source / case, case.encode())
        for _ in range(2):
            routed.run(None, "transfer")
            routed.tick()
        (globus.forget(globus.tasks[-1].task_id) if case == "lost" else globus.close_history())
        routed.sent(12)
        assert routed.deeds()[-1] == "COMPARE"
        for _ in range(3):
            routed.run(None, "delete")
            if case == "history":
                routed.tick()
                globus.close_history()
            else:
                routed.tick()
        assert case == "lost" or set(files(routed.source).values()) == {b"history"}  # nobody could say that it was the same
    routed.gone(12)
    assert not files(routed.source) and set(files(routed.target)) == {"lost", "history"}


def test_a_file_that_will_not_go_is_told_and_is_over_when_it_went(routed: Routed, globus: GlobusService) -> None:
    put(routed.source / "d/file")
    fault = globus.fault("missing", path=f"{routed.source}/d/file")
    told = ""
    for _ in range(8):
        told += routed.round(("transfer",))[0].err
    assert "1 file will not go, such as 'd/file'" in told
    fault.end()
    over = ""
    for _ in range(8):
        over += routed.round(("transfer",))[0].err
    assert routed.status() == {"d/file": "SENT"} and not routed.troubles() and "over after" in over


# -- removals that wait ------------------------------------------------------------------------------------------------


def aside_of(routed: Routed) -> Path:
    """The one file that is set aside."""
    (path,) = [path for path in files(routed.source) if path.startswith(ASIDE)]
    return routed.source / path


def proved(top: Path, globus: GlobusService) -> Routed:
    """A file behind a collection that lies aside and is proved, but nobody knows yet."""
    routed = Routed(top, globus, "collection")
    put(routed.source / "file", b"content")
    routed.sent()
    for _ in range(2):
        routed.run(0, "delete")
        routed.tick()
    return routed


def test_a_removal_that_found_no_room_looks_again_before_it_is_submitted(top: Path, globus: GlobusService, clock: Clock) -> None:
    routed = proved(top, globus)
    fault = globus.fault("max_pending", n=0, url="delete", count=None)
    routed.run(None, "delete")
    with open(aside_of(routed), "ab") as stream:
        stream.write(b" and more")
    fault.end()
    routed.tick()
    for _ in range(6):
        routed.round()
    assert files(routed.target) == {"file": b"content and more"} and not files(routed.source)


def test_a_removal_that_may_have_been_submitted_is_looked_for(top: Path, globus: GlobusService, clock: Clock) -> None:
    routed = proved(top, globus)
    globus.fault("drop_before", url="v0.10/delete", count=20)
    routed.run(None, "delete")
    with open(aside_of(routed), "ab") as stream:
        stream.write(b" and more")
    globus.world.faults.armed.clear()
    routed.tick()
    for _ in range(6):
        routed.round()
    assert files(routed.target) == {"file": b"content and more"} and not files(routed.source)


def test_a_removal_that_fails_for_days_is_proved_anew(top: Path, globus: GlobusService, clock: Clock) -> None:
    routed = proved(top, globus)
    routed.here.read_only = True
    routed.run(None, "delete")
    routed.tick(2 * 86400)
    (routed.target / "file").unlink()
    routed.here.read_only = False
    for _ in range(8):
        routed.round()
    assert files(routed.target) == {"file": b"content"} and not files(routed.source)


def test_status_shows_routes(routed: Routed) -> None:
    put(routed.source / "file")
    routed.sent()
    (shown,) = routed.site.status()["routes"]
    assert shown["name"] == "out" and shown["arrived"] == 1 and shown["waiting"] == shown["sending"] == shown["aside"] == 0
    routed.run(0, "delete")
    (shown,) = routed.site.status()["routes"]
    assert shown["aside"] == 1 and shown["arrived"] == 0
    assert "out" in routed.run(0, "status").out


# -- check-endpoint ----------------------------------------------------------------------------------------------------


def ends(routed: Routed, expect: int) -> dict[str, tuple[str, str]]:
    """What ``check-endpoint`` says of both ends."""
    rows = json.loads(routed.run(expect, "-v", "check-endpoint", "-F", "json").out)
    return {row["what"]: (row["same"], row["why"]) for row in rows}


def test_a_destination_that_is_not_there_yet_is_fine(routed: Routed) -> None:
    (there,) = [why for same, why in [ends(routed, 0)["destination"]] if same == "yes"]
    assert ends(routed, 0)["source"] == ("yes", "") and "the first transfer shows" in there
    there = routed.target
    routed.change(dst_dir=str(there / "not/yet"))
    assert ends(routed, 0)["destination"] == ("yes", "it is not there yet; the first transfer makes it")
    (there / "not").write_bytes(b"a file")
    assert ends(routed, 3)["destination"][0] == "unknown"


def test_a_source_on_this_host_that_its_collection_does_not_show_is_seen(local: Routed, globus: GlobusService) -> None:
    put(local.source / "file")
    other = globus.collection("of another root", root=str(local.top / "node"))
    nobody = "00000000-0000-4000-8000-00000000000a"
    for wrong, code, answer, said in ((other.id, 3, "no", "the same absolute paths"), (nobody, 4, "barred", "there is no collection")):
        local.site.write(globus_local_endpoint_id=wrong)
        local.change(src_id=wrong)
        same, why = ends(local, code)["source"]
        assert same == answer and said in why


def test_a_destination_behind_a_service_that_says_nothing_is_unknown(routed: Routed, globus: GlobusService) -> None:
    routed.change(dst_dir=str(routed.target / "not/yet"))
    globus.fault("drop_before", url=f"endpoint/{routed.there.id}", count=None)
    assert ends(routed, 3)["destination"][0] == "unknown"


def test_a_node_with_routes_is_not_told_that_nothing_uses_globus(routed: Routed) -> None:
    assert "globus_enable" not in routed.run(0, "-v", "check-endpoint").err


# -- others, and names that are one -----------------------------------------------------------------------------------


def beside(first: Routed, top: Path, globus: GlobusService, **given: Any) -> Routed:
    """Another node, with a catalogue of its own, for the same route."""
    first.tick()  # no two catalogues are made at the same moment
    route = dict(first.site.settings["routes"]["out"])
    more = {"globus_local_endpoint_id": first.here.id} if first.kind == "local" else {}
    return Routed(top, globus, first.kind, routes={"out": {**route, **given}}, **more)


def test_a_second_node_does_not_remove_from_the_same_source(routed: Routed, tmp_path: Path, globus: GlobusService) -> None:
    """It would not know what lies aside: its newer content could be written over by a comparison of the older one."""
    other = beside(routed, tmp_path / "other", globus)
    put(routed.source / "file", b"one")
    routed.sent()
    routed.run(0, "delete")
    put(routed.source / "file", b"two")
    other.sent()
    ran = other.run(4, "delete")
    assert "another node" in ran.err and "delete --put-back" in ran.err
    assert files(routed.source, aside=False) == {"file": b"two"}
    for _ in range(6):
        routed.round()
    assert files(routed.source, aside=False) == {"file": b"two"}  # the former one is not the same there any more, and waits


def test_who_removed_first_stays_the_only_one_until_it_brings_everything_back(routed: Routed, tmp_path: Path, globus: GlobusService) -> None:
    other = beside(routed, tmp_path / "other", globus)
    other.change(dst_dir=str(tmp_path / "elsewhere"))
    put(routed.source / "first")
    routed.sent().gone()
    put(routed.source / "second")
    other.sent()
    for _ in range(3):
        ran = other.round(("delete",))[0]
        assert ran.code == 4 and own_mark_of(routed) in (ran.err or other.troubles()["route out: delete-look RouteShared"])
    assert set(files(routed.source)) == {"second"}  # the first node has not brought it to its destination yet
    routed.sent()
    routed.run(0, "delete")
    routed.run(0, "delete", "--put-back")
    if routed.kind == "collection":  # as the message says
        (routed.source / ASIDE / own_mark_of(routed)).rmdir()
    assert set(files(routed.source)) == {"second"}
    told = "".join(each.err for _ in range(6) for each in other.round())
    assert not files(routed.source) and set(files(tmp_path / "elsewhere")) == {"second"} and "over after" in told
    put(routed.source / "third")
    routed.sent()
    assert routed.run(4, "delete").err.count("another node") == 1


def test_what_is_not_the_same_any_more_at_the_destination_is_told(routed: Routed) -> None:
    for name in ("lost", "damaged", "fine"):
        put(routed.source / name, name.encode())
    routed.sent()
    (routed.target / "lost").unlink()
    put(routed.target / "damaged", b"DAMAGED")
    told = "".join(each.err for _ in range(3) for each in routed.round(("delete",)))
    assert told.count("2 files that had arrived differed") == 1 and "'damaged', 'lost'" in told
    for _ in range(8):
        routed.round()
    assert routed.troubles()  # of a copy that goes bad others may follow
    routed.globus.advance(86400)
    over = "".join(each.err for each in routed.round())
    assert "over after" in over and not routed.troubles() and not files(routed.source)
    assert files(routed.target) == {name: name.encode() for name in ("lost", "damaged", "fine")}


def test_tasks_of_routes_are_shown(routed: Routed) -> None:
    put(routed.source / "file")
    routed.sent().gone()
    rows = json.loads(routed.run(0, "status", "--tasks", "-F", "json").out)
    assert {"route out: send", "route out: prove"} <= {row["destination"] for row in rows} and all(row["task"] for row in rows)
    assert routed.globus.tasks[0].task_id in {row["task"] for row in rows}


def test_what_waits_of_routes_is_shown_with_the_reason(routed: Routed, globus: GlobusService) -> None:
    put(routed.source / "d/log", b"the first night")
    routed.sent().gone()
    put(routed.source / "d/log", b"the second night")
    put(routed.source / "fails")
    put(routed.source / "bad")
    globus.fault("skip", path="*/fails", code="PERMISSION_DENIED", count=None)
    for _ in range(3):
        routed.round(("transfer",))
    (routed.target / "bad").write_bytes(b"damaged")
    routed.run(None, "delete")
    put(routed.source / "bad", b"another")
    for _ in range(3):
        routed.round(("delete",))
    routed.run(None, "transfer")
    routed.tick()
    put(routed.source / "fresh")
    routed.run(None, "transfer")  # learns of the failure
    rows = json.loads(routed.run(0, "status", "--waiting", "-F", "json").out)
    found = {row["name"]: row for row in rows}
    assert {row["destination"] for row in rows} == {"route out"} and len(rows) == len(found) + 1  # "bad" twice
    assert rows[0]["name"] == "fails" and rows[0]["attempts"] > 0 and rows[0]["next"].startswith("20")
    assert rows[1]["name"] == "bad" and rows[1]["reason"].startswith("is brought back: ")
    assert "only copy" in found["d/log"]["reason"] and "one more look" in found["fresh"]["reason"]
    assert "a former file of its name lies aside" in found["bad"]["reason"]
    assert len(json.loads(routed.run(0, "status", "--waiting", "--max-results", "2", "-F", "json").out)) == 2


@pytest.mark.parametrize("names", [("a", "A"), ("d/x", "D/x"), ("caf\u00e9", "cafe\u0301")], ids=["case", "directories", "accents"])
def test_files_that_a_destination_may_take_for_one_stay(routed: Routed, names: tuple[str, str]) -> None:
    put(routed.source / "other", b"other")
    for name in names:
        put(routed.source / name, name.encode())
    routed.sent(8)
    told = "".join(each.err for _ in range(8) for each in routed.round())
    assert set(files(routed.source, aside=False)) == set(names)
    assert "may take both for one" in told


def test_what_lies_aside_of_a_former_route_is_told_and_comes_back(routed: Routed) -> None:
    put(routed.source / "file", b"content")
    routed.sent()
    routed.run(0, "delete")
    assert not files(routed.source, aside=False)
    (route,) = routed.site.settings["routes"].values()
    routed.site.write(routes={"new": {**route, "dst_dir": f"{route['dst_dir']}-new"}})
    assert "libtool delete --put-back out" in routed.site.run(None, "transfer").err
    assert routed.site.status()["routes"][1]["name"] == "out" and routed.site.status()["routes"][1]["aside"] == 1
    routed.site.run(0, "delete", "out")
    routed.site.run(0, "delete", "--put-back", "out")
    assert {path.name: path.read_bytes() for path in Path(route["src_dir"]).iterdir() if path.is_file()} == {"file": b"content"}
    routed.site.run(0, "reset", "out", "--yes")
    assert [each["name"] for each in routed.site.status()["routes"]] == ["new"]


def test_a_wrong_destination_is_forgotten_when_it_is_corrected(routed: Routed) -> None:
    right = routed.there.id
    routed.change(dst_id="00000000-0000-4000-8000-00000000dead")
    put(routed.source / "file", b"content")
    for _ in range(3):
        routed.run(None, "transfer")
        routed.tick()
    routed.change(dst_id=right)
    routed.sent(8)
    assert files(routed.target) == {"file": b"content"}


def test_reset_waits_for_tasks_that_are_under_way(routed: Routed, globus: GlobusService) -> None:
    globus.auto = False
    routed.there.paused = "maintenance"
    put(routed.source / "file")
    for _ in range(2):
        routed.run(None, "transfer")
        routed.tick()
    assert globus.tasks
    assert "under way" in routed.run(1, "reset", "out", "--yes").err
    routed.there.paused = None
    routed.sent(8)
    routed.run(0, "reset", "out", "--yes")


def test_a_directory_with_files_that_another_route_set_aside_stays(top: Path, globus: GlobusService, clock: Clock, kind: str) -> None:
    routed = Routed(top, globus, kind, routes={"out": {"include": ["*.fits"], "remove_empty": True}})
    inner = {**routed.site.settings["routes"]["out"], "include": ["*.log"], "remove_empty": True}
    inner |= {"src_dir": str(routed.source / "night"), "dst_dir": str(routed.target / "night")}
    routed.site.write(routes={**routed.site.settings["routes"], "inner": inner})
    put(routed.source / "night/x.fits", b"x")
    put(routed.source / "night/y.log", b"y")
    for _ in range(4):
        routed.run(None, "transfer")
        routed.tick()
    for path in routed.target.rglob("y.log"):
        path.write_bytes(b"damaged")
    routed.run(None, "delete", "inner")
    for _ in range(8):
        routed.run(None, "delete", "out")
        routed.tick()
    assert b"y" in files(routed.source).values()


def test_a_comparison_of_a_clock_that_was_ahead_does_not_count(routed: Routed) -> None:
    put(routed.source / "file", b"content")
    routed.sent()
    for _ in range(2):
        routed.run(0, "delete")
        routed.tick()
    with routed.site.open() as node:  # as if it had been learnt in a year to come
        RouteTask.update(status=QueueStatus.COMPLETED).where(RouteTask.deed == Deed.PROVE).execute()
        proved: dict[str, Any] = {"status": ClearingStatus.PROVED, "task": None, "proved_time": node.now() + timedelta(days=300)}
        assert RouteRemoval.update(**proved).execute() == 1
    (routed.target / "file").unlink()
    for _ in range(8):
        routed.round()
    assert b"content" in {**files(routed.source), **files(routed.target)}.values()


# -- names that are used again -----------------------------------------------------------------------------------------


def test_a_name_that_is_used_again_replaces_no_only_copy(routed: Routed) -> None:
    put(routed.source / "d/log", b"the first night")
    put(routed.source / "other", b"other")
    routed.sent().gone()
    put(routed.source / "d/log", b"the second night")
    put(routed.source / "new", b"new")
    told = ""
    for _ in range(5):
        told += "".join(each.err for each in routed.round())
    assert files(routed.target) == {"d/log": b"the first night", "other": b"other", "new": b"new"}
    assert files(routed.source) == {"d/log": b"the second night"} and told.count("such as 'd/log'") == 1
    assert "1 postponed" in routed.run(3, "-v", "transfer").err
    (routed.source / "d/log").rename(routed.source / "d/log.1")
    over = "".join(each.err for _ in range(6) for each in routed.round())
    assert not files(routed.source) and not routed.troubles() and "over after" in over
    assert files(routed.target)["d/log.1"] == b"the second night"


def test_a_name_that_is_used_again_replaces_the_copy_when_the_configuration_says_so(routed: Routed) -> None:
    put(routed.source / "log", b"the first night")
    routed.sent().gone()
    put(routed.source / "log", b"the second night")
    routed.round()
    routed.round()
    routed.change(replace_removed=True)
    routed.sent().gone()
    assert files(routed.target) == {"log": b"the second night"} and not routed.troubles()
    put(routed.source / "log", b"the third night")
    routed.change(replace_removed=False)
    for _ in range(3):
        routed.round()
    assert files(routed.target) == {"log": b"the second night"}


def test_at_another_destination_a_name_is_new(routed: Routed) -> None:
    put(routed.source / "log", b"the first night")
    routed.sent().gone()
    (routed.top / "elsewhere").mkdir()
    former = routed.target
    routed.change(dst_dir=str(routed.top / "elsewhere"))
    put(routed.source / "log", b"the second night")
    routed.sent().gone()
    assert files(former) == {"log": b"the first night"} and files(routed.target) == {"log": b"the second night"}


@pytest.mark.parametrize("kind", KINDS)
def test_what_one_route_removed_another_does_not_replace(top: Path, globus: GlobusService, clock: Clock, kind: str) -> None:
    routed = Routed(top, globus, kind, routes={"out": {}, "deep": {}})
    routed.change("deep", src_dir=f"{routed.source}/d")
    put(routed.source / "d/log", b"the first night")
    for _ in range(8):
        routed.round()
    assert not files(routed.source)
    put(routed.source / "d/log", b"the second night")
    for _ in range(5):
        routed.round()
    assert files(top / "out-target") == {"d/log": b"the first night"} and files(top / "deep-target") == {"log": b"the first night"}
    assert files(routed.source) == {"d/log": b"the second night"}


def test_what_was_removed_is_remembered_longer_than_history_and_the_route(routed: Routed, globus: GlobusService) -> None:
    put(routed.source / "log", b"the first night")
    routed.sent().gone()
    for _ in range(8):
        globus.advance(86400 * 60)
        routed.run(None, "transfer")
    put(routed.source / "log", b"the second night")
    for _ in range(4):
        routed.round()
    assert files(routed.target) == {"log": b"the first night"}
    routed.run(0, "reset", "out", "--yes")
    for _ in range(4):
        routed.round()
    assert files(routed.target) == {"log": b"the first night"}
    routes, there = routed.site.settings["routes"], routed.target
    former = routed.globus.collection("the same disk, made anew")
    routed.site.settings.pop("globus_local_endpoint_id", None)
    routed.site.write(routes={"another": {**routes["out"], "src_id": former.id}})
    for _ in range(4):
        routed.round(("transfer",))
    assert files(there) == {"log": b"the first night"} and "such as 'log'" in routed.troubles()["route another: again"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_aside_keeps_the_other_routes_of_its_source_from_replacing_it(
    top: Path, globus: GlobusService, clock: Clock, kind: str
) -> None:
    """Both bring the file to the same place."""
    routed = Routed(top, globus, kind, routes={"out": {}, "deep": {}})
    (routed.target / "d").mkdir()
    routed.change("deep", src_dir=f"{routed.source}/d", dst_dir=f"{routed.target}/d")
    put(routed.source / "d/log", b"the first night")
    for _ in range(6):
        routed.round(("transfer",))
    routed.run(None, "delete", "deep")
    assert not (routed.source / "d/log").exists()
    put(routed.source / "d/log", b"the second night")
    routed.tick()
    for command in ("transfer", "delete", "transfer", "delete"):  # seen; compared; not sent over it; removed
        routed.run(None, command, "out" if command == "transfer" else "deep")
        routed.globus.work()
        routed.tick()
    for _ in range(6):
        routed.round()
    assert b"the first night" in files(routed.target).values()
    assert b"the second night" in files(routed.source).values()


def test_a_name_that_the_destination_may_take_for_the_former_one_is_used_again(routed: Routed) -> None:
    put(routed.source / "log", b"the first night")
    routed.sent().gone()
    put(routed.source / "LOG", b"the second night")
    for _ in range(4):
        routed.round()
    assert files(routed.target) == {"log": b"the first night"} and files(routed.source) == {"LOG": b"the second night"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_route_that_came_later_holds_nothing_back(top: Path, globus: GlobusService, clock: Clock, kind: str) -> None:
    routed = Routed(top, globus, kind, routes={"out": {}})
    put(routed.source / "log", b"the first night")
    routed.sent().gone()
    later = routed.route("later", src_dir=str(routed.source))
    routed.site.write(routes={**routed.site.settings["routes"], "later": later})
    put(routed.source / "log", b"the second night")
    for _ in range(4):
        routed.round()
    assert files(top / "later-target") == {"log": b"the second night"} and files(routed.target) == {"log": b"the first night"}


def test_a_file_that_replaced_a_copy_may_change(routed: Routed) -> None:
    put(routed.source / "log", b"the first night")
    routed.sent().gone()
    put(routed.source / "log", b"the second night")
    routed.change(replace_removed=True)
    routed.sent()
    routed.change(replace_removed=False)
    put(routed.source / "log", b"the third night", OLD + 100)
    for _ in range(3):
        routed.round(("transfer",))
    assert files(routed.target) == {"log": b"the third night"}


def test_what_was_found_out_right_before_the_end_of_a_process_is_told(routed: Routed, monkeypatch: pytest.MonkeyPatch) -> None:
    put(routed.source / "file")
    routed.sent()
    (routed.target / "file").unlink()
    for _ in range(2):
        routed.round(("delete",))
    real, told = errands_module._proofs, ""

    def ends(*words: Any) -> None:
        real(*words)
        raise KeyboardInterrupt

    monkeypatch.setattr(errands_module, "_proofs", ends)
    for n in range(4):
        if n == 1:
            monkeypatch.setattr(errands_module, "_proofs", real)
        told += routed.round(("delete",), ("transfer",))[0].err
    assert "differed or was missing" in told + str(routed.troubles())
