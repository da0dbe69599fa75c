"""What every store promises, tried on the POSIX store with each of its options and on two file systems."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from libtool import copying, digest, seams
from libtool.errors import FileChanged, FileUnreadable, StoreUnavailable
from libtool.states import FileKind
from libtool.stores.base import Arrival, Fate, Outcome, Store
from libtool.stores.posix import MARKER, PosixStore
from tests.sites import tree


class Dies(BaseException):
    """Stands for the end of the process."""


def put(path: str, content: bytes) -> None:
    """What a sender does: a file, its directories made for it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(path).write_bytes(content)


def stage(store: Store, name: str, content: bytes | dict[str, bytes], **wrong: Any) -> Arrival:
    """Reserve a place and deliver a file, or a directory of files; ``wrong`` announces something else than that."""
    staging_id = uuid.uuid4().hex
    store.reserve(staging_id, [name])
    target = store.staging_path(staging_id, name)
    if isinstance(content, bytes):
        put(target, content)
    else:
        os.mkdir(target)
        for inner, piece in content.items():
            put(f"{target}/{inner}", piece)
    told = {"size": digest.size_of(target), "checksum": digest.of_path(target)} | wrong
    return Arrival(staging_id, name, **told)


def seams_of(act: Any, monkeypatch: pytest.MonkeyPatch, die_at: int | None = None) -> int:
    """Run ``act``, ending it at the n-th seam; how many seams it passed."""
    passed = 0

    def watch(name: str) -> None:
        nonlocal passed
        passed += 1
        if passed == die_at:
            raise Dies(name)

    monkeypatch.setattr(seams, "watch", watch)
    try:
        act()
    except Dies:
        pass
    finally:
        monkeypatch.setattr(seams, "watch", None)
    return passed


class StoreContract:
    """A store of any kind passes these; a subclass makes one with the fixture ``store``."""

    def stored(self, store: Store) -> dict[str, bytes]:
        """Everything that lies in the store, without the store's own marks."""
        return tree(Path(store.path("x")).parent)

    def one(self, store: Store, arrival: Arrival) -> Outcome:
        """Take in one."""
        (outcome,) = store.take_in([arrival])
        return outcome

    def test_what_arrived_whole_is_stored_and_nothing_else_is(self, store: Store) -> None:
        good = stage(store, "night/a b", b"right")
        assert self.one(store, good) == Outcome(Fate.STORED)
        assert self.stored(store) == {"night/a b": b"right"}
        assert Path(store.path("night/a b")).read_bytes() == b"right"

    @pytest.mark.parametrize(
        "wrong",
        [
            {"size": 4},
            {"size": 6},
            {"checksum": "xxh3:::99aa06d3014798d86001c324468d497f"},
            {"checksum": "md5:::" + "0" * 32},
            {"checksum": "XXH3:::9b0498cbe3839becd0d496e05c553485"},
        ],
    )
    def test_what_is_not_what_was_announced_is_wrong_and_stays_out(self, store: Store, wrong: dict[str, Any]) -> None:
        outcome = self.one(store, stage(store, "f", b"bytes", **wrong))
        assert outcome.fate is Fate.WRONG and outcome.why
        assert self.stored(store) == {}

    @pytest.mark.parametrize("function", ["md5", "sha1", "sha256", "sha512"])
    def test_every_kind_of_checksum_is_read_with_its_own_function(self, store: Store, function: str) -> None:
        right = hashlib.new(function, b"bytes").hexdigest()
        good = stage(store, "good", b"bytes", checksum=f"{function}:::{right}")
        bad = stage(store, "bad", b"bytez", checksum=f"{function}:::{right}")
        assert [outcome.fate for outcome in store.take_in([good, bad])] == [Fate.STORED, Fate.WRONG]

    def test_a_bare_md5_is_taken_as_one(self, store: Store) -> None:
        arrival = stage(store, "f", b"bytes", checksum=hashlib.md5(b"bytes").hexdigest())
        assert self.one(store, arrival).fate is Fate.STORED

    def test_a_directory_comes_in_whole_and_an_empty_one_too(self, store: Store) -> None:
        whole = stage(store, "n/dir", {"a": b"1", "b/c": b"", "b/d/e": b"3"})
        empty = stage(store, "empty", {})
        assert store.take_in([whole, empty]) == [Outcome(Fate.STORED, kind=FileKind.DIRECTORY)] * 2
        assert self.stored(store) == {"n/dir/a": b"1", "n/dir/b/c": b"", "n/dir/b/d/e": b"3"}
        assert os.path.isdir(store.path("empty"))

    def test_an_empty_file_is_a_file(self, store: Store) -> None:
        assert self.one(store, stage(store, "empty", b"")) == Outcome(Fate.STORED)
        assert self.stored(store) == {"empty": b""}

    @pytest.mark.parametrize("name", ["line\nbreak", "-rf", "q'\"uote", "x" * 250, "é" * 120, "/".join("d" * 200)])
    def test_odd_names_come_in_under_exactly_that_name(self, store: Store, name: str) -> None:
        assert self.one(store, stage(store, name, b"x")).fate is Fate.STORED
        assert self.stored(store) == {name: b"x"}

    def test_many_come_in_at_once_each_with_its_own_outcome_in_order(self, store: Store) -> None:
        arrivals = [
            stage(store, f"d{n % 5}/f{n}", b"x" * n, **({"size": 10**6} if n % 7 == 3 else {})) for n in range(40)
        ]
        outcomes = store.take_in(arrivals)
        assert [outcome.fate for outcome in outcomes] == [Fate.WRONG if n % 7 == 3 else Fate.STORED for n in range(40)]
        assert self.stored(store) == {f"d{n % 5}/f{n}": b"x" * n for n in range(40) if n % 7 != 3}

    def test_what_never_came_is_lost(self, store: Store) -> None:
        staging_id = uuid.uuid4().hex
        store.reserve(staging_id, ["d/f"])
        gone = Arrival(uuid.uuid4().hex, "f", 1, "xxh3:::00")
        assert [o.fate for o in store.take_in([Arrival(staging_id, "d/f", 1, "xxh3:::00"), gone])] == [Fate.LOST] * 2

    def test_what_was_placed_before_is_stored_and_taking_in_can_be_repeated(self, store: Store) -> None:
        arrivals = [stage(store, "f", b"x"), stage(store, "d", {"g": b"y"})]
        first = store.take_in(arrivals)
        for arrival in arrivals:
            store.discard(arrival.staging_id)
        assert store.take_in(arrivals) == first
        assert self.stored(store) == {"f": b"x", "d/g": b"y"}

    def test_what_was_placed_before_but_differs_is_no_copy(self, store: Store) -> None:
        put(store.path("f"), b"other")
        arrival = stage(store, "f", b"bytes")
        store.discard(arrival.staging_id)
        assert self.one(store, arrival).fate is Fate.LOST
        assert self.stored(store) == {"f": b"other"}

    @pytest.mark.parametrize("content", [b"bytes", {"a": b"1"}], ids=["file", "directory"])
    def test_nothing_is_ever_replaced(self, store: Store, content: Any) -> None:
        put(store.path("file"), b"keep me")
        put(store.path("dir") + "/inner", b"keep me too")
        os.mkdir(store.path("hollow"))
        os.symlink("nowhere", store.path("link"))
        before = self.stored_all(store)
        for name in ("file", "dir", "hollow", "link"):
            outcome = self.one(store, stage(store, name, content))
            assert outcome.fate is Fate.OCCUPIED and name in outcome.why, name
        assert self.stored_all(store) == before

    def stored_all(self, store: Store) -> dict[str, str]:
        """Every entry of the store with its kind, mode and content."""
        top = Path(store.path("x")).parent
        entries = [path for path in top.rglob("*") if ".libtool-" not in str(path)]
        return {
            f"{path} {os.lstat(path).st_mode:o}": (
                os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else "directory"
            )
            for path in entries
        }

    def test_the_same_content_in_the_final_place_is_as_good_as_ours(self, store: Store) -> None:
        put(store.path("n/f"), b"bytes")
        put(store.path("n/d") + "/g", b"piece")
        arrivals = [stage(store, "n/f", b"bytes"), stage(store, "n/d", {"g": b"piece"})]
        assert [outcome.fate for outcome in store.take_in(arrivals)] == [Fate.STORED, Fate.STORED]
        assert self.stored(store) == {"n/f": b"bytes", "n/d/g": b"piece"}

    def test_a_file_where_a_directory_is_needed_occupies_it_and_the_others_go_on(self, store: Store) -> None:
        put(store.path("f"), b"keep me")
        arrivals = [stage(store, "f/inner/deep", b"x"), stage(store, "f/inner", b"x"), stage(store, "g", b"y")]
        assert [o.fate for o in store.take_in(arrivals)] == [Fate.OCCUPIED, Fate.OCCUPIED, Fate.STORED]
        assert self.stored(store) == {"f": b"keep me", "g": b"y"}

    @pytest.mark.parametrize("inside", [False, True], ids=["itself", "in a directory"])
    @pytest.mark.parametrize("kind", ["link to a file", "link to a directory", "broken link", "fifo"])
    def test_links_and_special_files_of_a_sender_are_never_taken(
        self, store: Store, tmp_path: Path, kind: str, inside: bool
    ) -> None:
        (tmp_path / "secret").write_bytes(b"bytes")
        arrival = stage(store, "f", {"real": b""} if inside else b"bytes", **({"size": 5} if inside else {}))
        path = store.staging_path(arrival.staging_id, "f") + ("/odd" if inside else "")
        if not inside:
            os.unlink(path)
        if kind == "fifo":
            os.mkfifo(path)
        else:
            aims = {"link to a file": "secret", "link to a directory": ".", "broken link": "gone"}
            os.symlink(tmp_path / aims[kind], path)
        assert self.one(store, arrival).fate is Fate.WRONG
        assert self.stored(store) == {}
        assert (tmp_path / "secret").read_bytes() == b"bytes"

    def test_a_linked_directory_on_the_way_is_neither_read_nor_written_nor_emptied(
        self, store: Store, tmp_path: Path
    ) -> None:
        arrival = stage(store, "d/e/f", b"bytes")
        place = Path(store.staging_path(arrival.staging_id, ""))
        shutil.rmtree(place / "d")
        (tmp_path / "elsewhere/e").mkdir(parents=True)
        (tmp_path / "elsewhere/e/f").write_bytes(b"bytes")
        (place / "d").symlink_to(tmp_path / "elsewhere")
        assert self.one(store, arrival).fate is Fate.WRONG
        store.discard_one(arrival.staging_id, "d/e/f")
        store.discard(arrival.staging_id)
        assert self.stored(store) == {}
        assert tree(tmp_path / "elsewhere") == {"e/f": b"bytes"}
        assert not os.path.lexists(place)

    def test_a_staging_place_that_is_itself_a_link_is_not_followed(self, store: Store, tmp_path: Path) -> None:
        arrival = stage(store, "f", b"bytes")
        place = store.staging_path(arrival.staging_id, "").rstrip("/")
        shutil.move(place, tmp_path / "mine")
        os.symlink(tmp_path / "mine", place)
        assert self.one(store, arrival).fate is Fate.WRONG
        store.discard(arrival.staging_id)
        assert tree(tmp_path / "mine") == {"f": b"bytes"}

    def test_a_tree_too_deep_to_be_read_harms_nobody_else(self, store: Store) -> None:
        deep = stage(store, "deep", {})
        good = stage(store, "good", b"x")
        path = store.staging_path(deep.staging_id, "deep")
        for _ in range(1500):
            path += "/a"
            os.mkdir(path)
        put(path + "/f", b"")
        place = store.staging_path(deep.staging_id, "")
        try:
            outcomes = store.take_in([deep, good])
            assert outcomes[1].fate is Fate.STORED
            store.discard(deep.staging_id)
            assert not os.path.exists(place)
        finally:
            for leftover in (place, store.path("deep"), store.path(".libtool-part")):
                subprocess.run(["rm", "-rf", leftover], check=True)

    def test_dying_at_any_seam_and_repeating_ends_with_one_copy(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def deliver(n: int) -> list[Arrival]:
            put(store.path(f"{n}/taken"), b"other")
            return [
                stage(store, f"{n}/f", b"x"),
                stage(store, f"{n}/new/d", {"g": b"y", "h/i": b""}),
                stage(store, f"{n}/wrong", b"y", size=2),
                stage(store, f"{n}/taken", b"z"),
                stage(store, f"{n}/empty", b""),
            ]

        def whole(n: int) -> dict[str, bytes]:
            return {
                f"{n}/f": b"x",
                f"{n}/new/d/g": b"y",
                f"{n}/new/d/h/i": b"",
                f"{n}/taken": b"other",
                f"{n}/empty": b"",
            }

        fates = [Fate.STORED, Fate.STORED, Fate.WRONG, Fate.OCCUPIED, Fate.STORED]
        first = deliver(0)
        count = seams_of(lambda: store.take_in(first), monkeypatch)
        assert count >= 7
        expected = whole(0)
        for n in range(1, count + 1):
            arrivals = deliver(n)
            seams_of(lambda arrivals=arrivals: store.take_in(arrivals), monkeypatch, die_at=n)
            assert [outcome.fate for outcome in store.take_in(arrivals)] == fates, n
            for arrival in arrivals:
                died = seams_of(lambda a=arrival: store.discard(a.staging_id), monkeypatch, die_at=1 + n % 2)
                assert died
                store.discard(arrival.staging_id)
            expected |= whole(n)
            assert self.stored(store) == expected, n
        for arrival in first:
            store.discard(arrival.staging_id)
        assert os.listdir(store.staging_path("", "").rstrip("/")) == [MARKER]
        parts = store.path(".libtool-part")
        assert not os.path.exists(parts) or os.listdir(parts) == []

    def test_reserving_makes_the_parents_but_not_the_names_and_can_be_repeated(self, store: Store) -> None:
        for _ in range(2):
            store.reserve("id", ["a", "b/c/d", "b/e"])
        assert os.path.isdir(store.staging_path("id", "b/c"))
        assert not any(os.path.lexists(store.staging_path("id", name)) for name in ("a", "b/c/d", "b/e"))

    def test_discarding_takes_the_whole_place_or_one_file_and_can_be_repeated(self, store: Store) -> None:
        store.reserve("id", ["a", "d/b", "c"])
        for name in ("a", "d/b", "c/inner"):
            put(store.staging_path("id", name), b"x")
        for _ in range(2):
            store.discard_one("id", "a")
            store.discard_one("id", "c")
        assert tree(Path(store.staging_path("id", ""))) == {"d/b": b"x"}
        for _ in range(2):
            store.discard("id")
        assert not os.path.exists(store.staging_path("id", ""))

    def test_what_an_operator_copies_in_is_measured_at_its_source(self, store: Store, tmp_path: Path) -> None:
        source = tmp_path / "source"
        put(str(source / "x/y"), b"bytes")
        for name, path in (("file", source / "x/y"), ("dir", source)):
            found = store.copy_in(str(path), f"id-{name}", f"new/{name}")
            assert (found.size, found.checksum) == (5, digest.of_path(str(path)))
            arrival = Arrival(f"id-{name}", f"new/{name}", found.size, found.checksum)
            assert self.one(store, arrival) == Outcome(Fate.STORED, kind=found.kind)
        assert self.stored(store) == {"new/file": b"bytes", "new/dir/x/y": b"bytes"}

    def test_a_source_that_changes_after_its_copy_is_refused(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"before")

        def watch(name: str) -> None:
            if name == "copy: done":
                source.write_bytes(b"after!")

        monkeypatch.setattr(seams, "watch", watch)
        with pytest.raises(FileChanged, match="source"):
            store.copy_in(str(source), "id", "f")

    @pytest.mark.parametrize("kind", ["missing", "fifo", "socket"])
    def test_a_source_that_cannot_be_taken_is_the_files_trouble_and_not_the_stores(
        self, store: Store, tmp_path: Path, kind: str
    ) -> None:
        if kind == "fifo":
            os.mkfifo(tmp_path / "s")
        elif kind == "socket":
            code = "import socket; socket.socket(socket.AF_UNIX).bind('s')"
            subprocess.run(["python3", "-c", code], cwd=tmp_path, check=True)
        with pytest.raises(FileUnreadable):
            store.copy_in(str(tmp_path / "s"), "id", "f")
        with pytest.raises(FileUnreadable):
            store.measure(str(tmp_path / "s"))

    def test_a_copy_is_looked_at_before_it_is_sent(self, store: Store) -> None:
        self.one(store, stage(store, "f", b"bytes"))
        self.one(store, stage(store, "d", {"g": b"piece"}))
        assert store.look("f", 5, FileKind.FILE) == store.look("d", 5, FileKind.DIRECTORY) == ""
        assert "size" in store.look("f", 6, FileKind.FILE) or "content" in store.look("f", 6, FileKind.FILE)
        assert "kind" in store.look("d", 5, FileKind.FILE)
        assert "missing" in store.look("f/x", 1, FileKind.FILE) and "missing" in store.look("gone", 1, FileKind.FILE)

    def test_room_shrinks_by_what_is_promised_and_is_never_negative(self, store: Store) -> None:
        free = store.room(0, 0)
        assert free > 0
        assert abs(free - 10**6 - store.room(0, 10**6)) < 10**6
        assert store.room(0, 10**18) == 0

    def test_a_name_that_fills_the_room_can_be_stored_and_reserved(self, store: Store) -> None:
        room = store.name_room()
        name = ("d" * 200 + "/") * (room // 201)
        name += "f" * (room - len(name)) if room > len(name) else ""
        name = name.rstrip("/")
        store.reserve("0" * 32, [name])
        assert os.path.isdir(os.path.dirname(store.staging_path("0" * 32, name)))
        assert len(os.fsencode(store.staging_path("0" * 32, name))) <= 4095
        assert len(os.fsencode(store.path(name))) <= 4095

    def test_a_name_follows_from_a_place_in_the_store_only(self, store: Store, tmp_path: Path) -> None:
        assert store.name_of(store.path("a/b")) == "a/b"
        assert store.name_of(store.path("a/../../x")) is None
        assert store.name_of(str(tmp_path)) is None
        assert store.name_of(store.path("x")[:-2] + "-other/f") is None

    def test_a_store_whose_mark_is_gone_is_not_there_and_is_left_alone(self, store: Store) -> None:
        arrival = stage(store, "f", b"x")
        for directory in (store.path("x")[:-2], store.staging_path("", "").rstrip("/")):
            os.rename(f"{directory}/{MARKER}", f"{directory}/hidden")
            for act in (store.check, lambda: store.take_in([arrival])):
                with pytest.raises(StoreUnavailable, match="not mounted"):
                    act()
            os.rename(f"{directory}/hidden", f"{directory}/{MARKER}")
        assert self.stored(store) == {}
        assert self.one(store, arrival).fate is Fate.STORED

    def test_an_empty_place_of_a_known_store_is_a_missing_mount_and_a_new_one_is_made(self, store: Store) -> None:
        store.set_up(known=True)
        os.unlink(store.path(MARKER))
        with pytest.raises(StoreUnavailable, match="not mounted"):
            store.set_up(known=True)
        assert not os.path.exists(store.path(MARKER))
        store.set_up(known=False)
        store.check()
        store.check_readable()

    def aside_again(self, store: Store, name: str, aside: str) -> str:
        """Another copy, set aside."""
        store.purge(aside)
        self.one(store, stage(store, name, {"a": b"1", "b": b"2"}))
        assert store.set_aside(name, aside)
        return aside

    def test_what_is_purged_is_whole_or_gone_wherever_that_ends(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        for fatal in range(1, 4):
            name, aside = f"d{fatal}", uuid.uuid4().hex
            self.one(store, stage(store, name, {"a": b"1", "b": b"2"}))
            store.set_aside(name, aside)
            seams_of(lambda aside=aside: store.purge(aside), monkeypatch, fatal)
            long_ago, one_day = datetime.fromtimestamp(1e9, timezone.utc), datetime.fromtimestamp(4e9, timezone.utc)
            whole = store.look_aside(name, aside, 2, one_day)
            assert whole is (True if fatal == 1 else None)
            if whole:
                assert store.look_aside(name, aside, 3, one_day) is store.look_aside(name, aside, 2, long_ago) is False
            if fatal == 3:
                aside = self.aside_again(store, name, aside)

                def busy(*words: Any, **more: Any) -> None:
                    raise OSError(16, "Device or resource busy")

                with monkeypatch.context() as patch, pytest.raises(OSError, match="busy"):
                    patch.setattr(os, "rmdir", busy)
                    store.purge(aside)
                assert store.look_aside(name, aside, 2, one_day) is None, "a part of it is gone"
            store.purge(aside)
            assert store.look_aside(name, aside, 2, one_day) is None
            assert not os.listdir(os.path.dirname(os.path.dirname(store.aside_path(aside, name))))

    @pytest.mark.parametrize("content", [b"ours", {"a": b"ours"}])
    @pytest.mark.parametrize("act", ["bring back", "put back"])
    def test_nothing_is_replaced_that_comes_in_the_moment_of_putting_back(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, content: Any, act: str
    ) -> None:
        self.one(store, stage(store, "f", content))
        aside = uuid.uuid4().hex
        if act == "bring back":
            store.set_aside("f", aside)
        real = copying.rename_new

        def meanwhile(*words: Any) -> bool:
            put(store.path("f"), b"somebody else's")
            return real(*words)

        monkeypatch.setattr(copying, "rename_new", meanwhile)
        with pytest.raises(FileExistsError):
            store.bring_back("f", aside) if act == "bring back" else store.set_aside("f", aside, (1, 2, 3))
        assert Path(store.path("f")).read_bytes() == b"somebody else's"
        assert os.path.exists(store.aside_path(aside, "f"))
        monkeypatch.undo()
        os.unlink(store.path("f"))
        assert store.bring_back("f", aside)


class TestPosixStore(StoreContract):
    """Staging and store on one file system: a commit is a link."""

    OPTIONS: dict[str, Any] = {}

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[PosixStore]:
        store = PosixStore("main", staging=f"{tmp_path}/staging", root=f"{tmp_path}/store", **self.OPTIONS)
        store.set_up(known=False)
        yield store

    def test_nothing_is_copied_on_one_file_system(self, store: PosixStore) -> None:
        if store.own or not store.one_file_system():
            pytest.skip("this one copies")
        arrival = stage(store, "f", b"x")
        before = os.stat(store.staging_path(arrival.staging_id, "f")).st_ino
        self.one(store, arrival)
        assert os.stat(store.path("f")).st_ino == before

    def another(self, store: PosixStore, name: str = "main", owner: str = "", **places: str) -> PosixStore:
        """The same directories, in another configuration."""
        return PosixStore(name, owner=owner, **{"staging": store.staging, "root": store.root, **places}, **self.OPTIONS)

    def marks(self, store: PosixStore) -> set[str]:
        """What both marks say."""
        return {Path(directory, MARKER).read_text() for directory in (store.root, store.staging)}

    def test_the_mark_of_an_older_libtool_does_and_is_renewed(self, store: PosixStore) -> None:
        ours = self.another(store, owner="a")
        ours.check()
        assert self.marks(store) == {"main\n"}
        ours.set_up(known=True)
        ours.check()
        assert self.marks(store) == {"a/main\n"}
        with pytest.raises(StoreUnavailable, match="marked as 'a/main'"):
            self.another(store, owner="b").check()

    def test_a_directory_that_somebody_else_marked_is_refused_until_a_person_accepts_it(
        self, store: PosixStore, tmp_path: Path
    ) -> None:
        first, second = (self.another(store, owner=owner) for owner in ("a", "b"))
        with pytest.raises(StoreUnavailable, match="setup --accept-store main"):
            second.set_up(known=False)  # nobody knows whose it is
        first.set_up(known=True)
        for known in (True, False):
            for other in (second, self.another(second, "other", "a"), self.another(second, owner="b", root=f"{tmp_path}/x")):
                with pytest.raises(StoreUnavailable, match="--accept-store"):
                    other.set_up(known=known)
        first.set_up(known=False)  # its catalogue was lost
        assert self.marks(store) == {"a/main\n"} and not (tmp_path / "x").exists()
        second.set_up(known=False, accepted=True)
        second.check()
        with pytest.raises(StoreUnavailable, match="marked as 'b/main'"):
            first.check_readable()

    def test_another_disk_that_is_mounted_while_a_command_runs_is_seen(self, store: PosixStore, tmp_path: Path) -> None:
        self.one(store, stage(store, "f", b"x"))
        reading = store.read("f", 1, digest.of_path(store.path("f")), FileKind.FILE)
        other = self.another(store, "other", staging=f"{tmp_path}/s2", root=f"{store.root}-other")
        other.set_up(known=False)
        os.rename(store.root, f"{store.root}-away")
        os.rename(other.root, store.root)
        for act in (
            lambda: store.read("f", 1, reading.checksum, FileKind.FILE),
            lambda: store.purge("0" * 32),
            lambda: store.set_aside("f", "0" * 32),
            store.check,
        ):
            with pytest.raises(StoreUnavailable, match="marked as 'other'"):
                act()

    def test_a_staging_area_that_is_the_archive_is_none(self, store: PosixStore, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(store.root)  # as a mount would show it
        one = self.another(store, staging=f"{tmp_path}/link")
        for act in (one.check, one.reserved):
            with pytest.raises(StoreUnavailable, match="are one directory"):
                act()

    def test_a_place_in_the_store_is_known_by_another_mount_of_it(
        self, store: PosixStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "link").symlink_to(store.root)
        monkeypatch.setattr(os.path, "realpath", os.path.abspath)  # no path tells a mount
        assert store.name_of(f"{tmp_path}/link/b") == "b" and store.name_of(f"{tmp_path}/a/b") is None

    def test_a_mark_is_whole_or_not_there(self, store: PosixStore, monkeypatch: pytest.MonkeyPatch) -> None:
        ours = self.another(store, owner="a")
        for fatal in range(1, 4):
            seams_of(lambda: ours.set_up(known=True), monkeypatch, fatal)
            assert self.marks(store) <= {"main\n", "a/main\n"}
            ours.check()
        ours.set_up(known=True)
        assert self.marks(store) == {"a/main\n"}
        Path(store.root, MARKER).write_text("")  # cut short by an older one
        ours.check()

    def test_moving_in_renames_without_replacing(self, store: PosixStore, tmp_path: Path) -> None:
        source = Path(store.root).parent / "outside"
        source.write_bytes(b"bytes")
        found = store.measure(str(source))
        if store.own:
            assert store.move_in(str(source), "n/f", found) is False and source.exists()
            return
        assert store.move_in(str(source), "n/f", found) is True
        assert self.stored(store) == {"n/f": b"bytes"} and not source.exists()
        source.write_bytes(b"other")
        with pytest.raises(FileExistsError):
            store.move_in(str(source), "n/f", found)
        assert self.stored(store) == {"n/f": b"bytes"} and source.exists()

    def test_one_file_whose_mode_cannot_be_changed_does_not_stop_the_others(
        self, store: PosixStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arrivals = [stage(store, "theirs", b"x"), stage(store, "ours", b"y")]
        real = os.chmod

        def chmod(path: Any, mode: int, **options: Any) -> None:
            if str(path).endswith("theirs"):  # a file of another user, as a transfer service leaves it
                raise PermissionError(1, "Operation not permitted", path)
            real(path, mode, **options)

        monkeypatch.setattr(os, "chmod", chmod)
        assert store.take_in(arrivals)[1].fate is Fate.STORED

    def test_a_fraction_of_the_disk_is_kept_free(self, store: PosixStore) -> None:
        store.full_fraction = 0.000001
        assert store.room(0, 0) == 0
        for fraction in (0.999, 1.0):
            store.full_fraction = fraction
            both = [os.statvfs(directory) for directory in (store.root, store.staging)]
            expected = min((each.f_bavail - each.f_blocks * (1 - fraction)) * each.f_frsize for each in both)
            assert abs(store.room(0, 0) - max(0, expected)) < 10**7, fraction

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_read_only_directory_makes_the_store_unavailable(self, store: PosixStore) -> None:
        os.chmod(store.root, 0o555)
        try:
            with pytest.raises(StoreUnavailable, match="read-only"):
                store.take_in([])
        finally:
            os.chmod(store.root, 0o755)


class TestPosixStoreOwning(TestPosixStore):
    """``own_after_commit``: what is stored is a copy of our own."""

    OPTIONS = {"own": True}

    def test_a_sender_that_keeps_its_file_open_cannot_change_what_is_stored(self, store: PosixStore) -> None:
        arrival = stage(store, "f", b"bytes")
        with open(store.staging_path(arrival.staging_id, "f"), "r+b") as kept:
            assert self.one(store, arrival).fate is Fate.STORED
            kept.write(b"evil!")
        assert self.stored(store) == {"f": b"bytes"}


class TestPosixStoreReadOnly(TestPosixStore):
    """``readonly_after_commit``: nobody may write to what is stored."""

    OPTIONS = {"readonly": True}

    def test_what_is_stored_has_no_write_bit_also_after_a_crash(
        self, store: PosixStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        count = seams_of(lambda: store.take_in([stage(store, "0", b"x"), stage(store, "0d", {"g": b""})]), monkeypatch)
        for n in range(1, count + 1):
            arrivals = [stage(store, f"{n}", b"x"), stage(store, f"{n}d", {"g": b""})]
            seams_of(lambda arrivals=arrivals: store.take_in(arrivals), monkeypatch, die_at=n)
            store.take_in(arrivals)
            for path in (f"{n}", f"{n}d", f"{n}d/g"):
                assert os.stat(store.path(path)).st_mode & 0o222 == 0, (n, path)


class TestPosixStoreGroup(TestPosixStore):
    """``group_write_after_stage``: the group may write to staging places whatever the umask."""

    OPTIONS = {"group_write": True}

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[PosixStore]:
        before = os.umask(0o077)
        store = PosixStore("main", staging=f"{tmp_path}/staging", root=f"{tmp_path}/store", group_write=True)
        store.set_up(known=False)
        yield store
        os.umask(before)

    def test_the_group_may_write_in_staging_and_on_what_is_stored(self, store: PosixStore) -> None:
        arrival = stage(store, "d/f", b"x")
        for path in ("", "d"):
            assert os.stat(store.staging_path(arrival.staging_id, path)).st_mode & 0o2070 == 0o2070
        self.one(store, arrival)
        assert os.stat(store.path("d/f")).st_mode & 0o060 == 0o060


def other_file_system(tmp_path: Path) -> bool:
    """Whether /dev/shm can serve as the other one."""
    return os.access("/dev/shm", os.W_OK) and os.stat("/dev/shm").st_dev != os.stat(tmp_path).st_dev


class TestPosixStoreAcrossFileSystems(TestPosixStore):
    """Staging in memory, the store on disk: a commit is a copy that is read again."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[PosixStore]:
        if not other_file_system(tmp_path):
            pytest.skip("/dev/shm is not another file system here")
        with tempfile.TemporaryDirectory(dir="/dev/shm") as staging:
            store = PosixStore("main", staging=f"{staging}/staging", root=f"{tmp_path}/store")
            store.set_up(known=False)
            yield store

    def test_room_counts_what_is_staged_on_the_stores_own_file_system(self, store: PosixStore) -> None:
        found = os.statvfs(store.root)
        free = found.f_bavail * found.f_frsize
        store.full_fraction = 1.0
        assert store.room(free + 10**9, 0) == 0


def mount_tiny(place: Path, size: str) -> bool:
    """Mount a tiny memory file system, in whose place nothing else is."""
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    return not libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, f"size={size}".encode())


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    if os.geteuid() != 0 or not mount_tiny(tmp_path / "tiny", "256k"):
        pytest.skip("only root may mount a small file system")
    yield tmp_path / "tiny"
    ctypes.CDLL(None).umount2(os.fsencode(tmp_path / "tiny"), 2)


def test_a_full_disk_says_nothing_about_the_file_and_leaves_it_staged(tiny: Path, tmp_path: Path) -> None:
    store = PosixStore("main", staging=f"{tmp_path}/staging", root=f"{tiny}/store")
    store.set_up(known=False)
    filler = tiny / "filler"
    filler.write_bytes(b"x" * 200_000)
    big, small = stage(store, "big", b"y" * 150_000), stage(store, "small", b"z")
    assert [outcome.fate for outcome in store.take_in([big, small])] == [Fate.UNKNOWN, Fate.STORED]
    assert tree(tiny / "store") == {"small": b"z"}
    assert store.room(0, 0) < 150_000
    filler.unlink()
    assert [outcome.fate for outcome in store.take_in([big, small])] == [Fate.STORED, Fate.STORED]
    assert tree(tiny / "store") == {"big": b"y" * 150_000, "small": b"z"}


def test_a_full_staging_area_is_the_stores_trouble(tiny: Path, tmp_path: Path) -> None:
    store = PosixStore("main", staging=f"{tiny}/staging", root=f"{tiny}/store")
    store.set_up(known=False)
    (tmp_path / "big").write_bytes(b"x" * 400_000)
    with pytest.raises(StoreUnavailable, match="No space"):
        store.copy_in(str(tmp_path / "big"), "id", "f")
    assert tree(tiny / "store") == {}


def test_a_file_system_that_is_mounted_read_only_makes_the_store_unavailable(tiny: Path) -> None:
    store = PosixStore("main", staging=f"{tiny}/staging", root=f"{tiny}/store")
    store.set_up(known=False)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"tmpfs", os.fsencode(tiny), b"tmpfs", 1 | 32, None) == 0  # MS_RDONLY | MS_REMOUNT
    with pytest.raises(StoreUnavailable, match="read-only"):
        store.take_in([])
    store.check_readable()
