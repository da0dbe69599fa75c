"""Trees keep their promise, on this host and through a collection: what is listed is there, what is moved lies in one place
only whatever happens on the way, nothing is replaced, and no link leads anywhere."""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import signal
import socket
import stat
from collections import Counter as Numbers
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from libtool import copying, seams
from libtool.errors import CarrierBarred, CarrierBusy, CarrierUnknown, DirectoryUnreadable
from libtool.movers.globus import tree as collection_tree
from libtool.movers.globus.access import Access
from libtool.movers.globus.tree import CollectionTree
from libtool.tokens import Tokens
from libtool.trees import local
from libtool.trees.base import ASIDE, PORTION, Gone, Portion, Seen, Tree, Way
from libtool.trees.local import LocalTree
from tests.crash import DIED, Counter
from tests.globus_service import Collection, GlobusService

Make = Callable[[Path], Tree]
NAMES = [
    " blanks around ",
    "it's \"quoted\"",
    "a*b?c[d]{e}",
    "é—日本",
    "e\u0301",
    "-rf",
    "#1",
    "50%",
    "%2F..%2F",
    "~",
    "~root",
    "a+b&c=d;e",
    "back\\slash",
    "tab\there",
    ".hidden",
    ".libtool-else",
    "x" * 255,
    "日" * 85,
]


def put(path: Path, content: bytes = b"content") -> Path:
    """Write a file, and make it old enough for its time to be one that a collection shows whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (10**9, 10**9))
    return path


def everything(tree: Tree, directory: str = "") -> Portion:
    """All portions of a directory as one."""
    found = Portion()
    for portion in tree.list(directory):
        found.files += portion.files
        found.directories += portion.directories
        found.strange += portion.strange
        found.whole = found.whole and portion.whole
    found.files.sort()
    found.directories.sort()
    found.strange.sort()
    return found


def names(portion: Portion) -> list[str]:
    return [seen.name for seen in portion.files]


def below(root: Path) -> dict[str, bytes]:
    """Every file below a directory with its content, by its path."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()}


def in_child(deed: Callable[[], Any], watch: Callable[[str], None] | None = None) -> int:
    """Do something in a forked child; how that ended."""
    child = os.fork()
    if not child:
        code = 1
        try:
            seams.watch = watch
            deed()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ending_anywhere(fresh: Callable[[int], Callable[[], Any]]) -> Iterator[int]:
    """End a child at its first seam, at its second, and so on, each time with a deed of its own; gives the numbers."""
    for fatal in range(1, 200):
        deed = fresh(fatal)
        code = in_child(deed, Counter(fatal).watch)
        yield fatal
        if code != DIED:
            assert code == 0 and fatal > 2
            return
    raise AssertionError("it never ended")


class Contract:
    """What every tree promises."""

    inodes = True

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        top = tmp_path / "root"
        top.mkdir()
        return top

    @pytest.fixture
    def tree(self, make: Make, root: Path) -> Tree:
        return make(root)

    # -- looking

    def test_a_list_shows_files_directories_and_strange_things_apart(self, tree: Tree, root: Path) -> None:
        put(root / "f", b"12345")
        put(root / "empty", b"")
        put(root / "d/inside")
        (root / "link").symlink_to("f")
        (root / "link to d").symlink_to("d")
        (root / "broken").symlink_to("nowhere")
        os.mkfifo(root / "pipe")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(os.path.relpath(root / "socket"))
        (root / ASIDE / "p").mkdir(parents=True)
        found = everything(tree)
        assert [(seen.name, seen.size, seen.mtime) for seen in found.files] == [("empty", 0, 10**18), ("f", 5, 10**18)]
        assert found.directories == ["d"]
        assert found.strange == ["broken", "link", "link to d", "pipe", "socket"]
        assert found.whole
        status = os.stat(root / "f")
        assert found.files[1][3:] == ((status.st_ino, status.st_ctime_ns) if self.inodes else (0, 0))
        assert names(everything(tree, "d")) == ["inside"]

    def test_what_was_set_aside_is_never_listed(self, tree: Tree, root: Path) -> None:
        put(root / ASIDE / "p/f")
        put(root / "d" / ASIDE / "p/f")
        put(root / "file" / ASIDE)
        (root / "link").mkdir()
        (root / "link" / ASIDE).symlink_to("..")
        assert everything(tree) == Portion(directories=["d", "file", "link"])
        assert everything(tree, "d") == everything(tree, "file") == everything(tree, "link") == Portion()

    def test_an_empty_directory_has_one_portion(self, tree: Tree, root: Path) -> None:
        (root / "d").mkdir()
        assert [*tree.list("d")] == [Portion()]

    @pytest.mark.parametrize("name", NAMES)
    def test_hard_names_are_listed_moved_and_brought_back(self, tree: Tree, root: Path, name: str) -> None:
        content = name.encode()
        put(root / name / name, content)
        assert everything(tree).directories == [name]
        assert names(everything(tree, name)) == [name]
        assert tree.lacks(name, [name, "other"]) == ["other"]
        assert tree.path(f"{name}/{name}") == f"{root}/{name}/{name}"
        tree.make_place("p")
        assert tree.set_aside(f"{name}/{name}", "p", name) is Way.MOVED
        assert below(root) == {f"{ASIDE}/p/{name}": content}
        assert [*tree.aside("p")] == [name]
        os.rmdir(root / name)
        assert tree.bring_back("p", name, f"{name}/{name}") is Way.MOVED
        assert below(root) == {f"{name}/{name}": content}

    def test_what_is_no_text_is_strange(self, tree: Tree, root: Path) -> None:
        for kind in (b"f\xff", b"l\xff"):
            put(root / "good")
            os.symlink("good", os.fsencode(root) + b"/" + kind) if kind.startswith(b"l") else put(Path(os.fsdecode(os.fsencode(root) + b"/" + kind)))
        os.mkdir(os.fsencode(root) + b"/d\xff")
        found = everything(tree)
        assert names(found) == ["good"] and found.directories == []
        assert len(found.strange) == 3 and all(each.isprintable() for each in found.strange)

    def test_a_directory_that_is_not_there_is_gone(self, tree: Tree, root: Path) -> None:
        put(root / "file")
        put(root / "d/below/f")
        (root / "link").symlink_to("d")
        for path in ("missing", "missing/below", "file", "file/below", "link", "link/below"):
            with pytest.raises(Gone):
                everything(tree, path)
            assert tree.lacks(path, ["a", "b"]) == ["a", "b"] or path.startswith("link")
        assert tree.aside("p") == {}

    def test_a_root_that_is_not_there_says_nothing(self, make: Make, tmp_path: Path) -> None:
        """It may only not be mounted: neither is it empty nor is anything gone."""
        put(tmp_path / "file")
        for root in (tmp_path / "missing", tmp_path / "file"):
            tree = make(root)
            asked: list[Callable[[], object]] = [
                tree.unable,
                lambda tree=tree: everything(tree),
                lambda tree=tree: everything(tree, "d"),
                lambda tree=tree: tree.lacks("d", ["f"]),
                lambda tree=tree: tree.lacks("", ["f"]),
                lambda tree=tree: tree.aside("p"),
                lambda tree=tree: tree.make_place("p"),
                lambda tree=tree: tree.set_aside("f", "p", "1"),
                lambda tree=tree: tree.bring_back("p", "1", "f"),
            ]
            for ask in asked:
                with pytest.raises(CarrierUnknown) as raised:
                    ask()
                assert raised.value.facts["everywhere"] is False
        assert not (tmp_path / "missing").exists() and (tmp_path / "file").read_bytes() == b"content"

    def test_only_what_is_surely_not_there_lacks(self, tree: Tree, root: Path) -> None:
        put(root / "d/f")
        (root / "d/e").mkdir()
        (root / "d/broken").symlink_to("nowhere")
        assert [*tree.lacks("d", ["f", "g", "e", "broken", "h"])] == ["g", "h"]
        assert tree.lacks("d", []) == []

    # -- setting aside

    def test_a_file_is_set_aside_and_comes_back_as_it_was(self, tree: Tree, root: Path) -> None:
        path = put(root / "d/f", b"12345")
        before = os.stat(path)
        assert tree.unable() == ""
        tree.make_place("p")
        tree.make_place("p")
        assert tree.aside("p") == {}
        assert tree.set_aside("d/f", "p", "1") is Way.MOVED
        assert (root / "d").is_dir()
        (seen,) = tree.aside("p").values()
        assert seen is not None and seen[:3] == ("1", 5, 10**18)
        assert tree.bring_back("p", "1", "d/f") is Way.MOVED
        after = os.stat(path)
        assert (after.st_ino, after.st_mtime_ns, after.st_mode) == (before.st_ino, before.st_mtime_ns, before.st_mode)
        assert tree.aside("p") == {}

    def test_every_move_may_be_repeated(self, make: Make, root: Path) -> None:
        put(root / "d/f")
        make(root).make_place("p")
        for _ in range(3):
            assert make(root).set_aside("d/f", "p", "1") is Way.MOVED
        os.rmdir(root / "d")
        assert make(root).set_aside("d/f", "p", "1") is Way.MOVED
        for _ in range(3):
            assert make(root).bring_back("p", "1", "d/f") is Way.MOVED
        assert below(root) == {"d/f": b"content"}

    def test_what_lies_nowhere_is_missing(self, tree: Tree, root: Path) -> None:
        put(root / "file")
        (root / "d").mkdir()
        tree.make_place("p")
        for path in ("f", "d/f", "gone/f", "file/f"):
            assert tree.set_aside(path, "p", "1") is tree.set_aside(path, "p", "1") is Way.MISSING
            assert tree.bring_back("p", "1", path) is Way.MISSING
            assert tree.bring_back("no such place", "1", path) is Way.MISSING
        assert below(root) == {"file": b"content"} and sorted(os.listdir(root)) == [ASIDE, "d", "file"]

    def test_no_place_is_made_by_itself(self, tree: Tree, root: Path) -> None:
        put(root / "f")
        with pytest.raises(DirectoryUnreadable):
            tree.set_aside("f", "p", "1")
        assert below(root) == {"f": b"content"}

    def test_a_place_is_never_made_through_something_else(self, tree: Tree, root: Path, tmp_path: Path) -> None:
        put(root / "f")
        (tmp_path / "elsewhere").mkdir()
        for obstacle in (lambda: put(root / ASIDE), lambda: (root / ASIDE).symlink_to(tmp_path / "elsewhere")):
            obstacle()
            with pytest.raises(DirectoryUnreadable):
                tree.make_place("p")
            assert os.listdir(tmp_path / "elsewhere") == []
            (root / ASIDE).unlink()

    @pytest.mark.parametrize("replacing", [False, True])
    def test_nothing_is_replaced_in_a_place(self, tree: Tree, root: Path, replacing: bool) -> None:
        put(root / "f", b"new")
        tree.make_place("p")
        put(root / ASIDE / "p/1", b"old")
        assert tree.set_aside("f", "p", "1") is Way.OCCUPIED
        assert below(root) == {"f": b"new", f"{ASIDE}/p/1": b"old"}

    @pytest.mark.parametrize("other", ["file", "directory", "full directory", "link", "broken link"])
    @pytest.mark.parametrize("replacing", [False, True])
    def test_nothing_is_replaced_where_a_file_should_come_back(self, tree: Tree, root: Path, other: str, replacing: bool) -> None:
        put(root / "d/f", b"mine")
        tree.make_place("p")
        tree.set_aside("d/f", "p", "1")
        if other == "file":
            put(root / "d/f", b"theirs")
        elif other == "directory":
            (root / "d/f").mkdir()
        elif other == "full directory":
            put(root / "d/f/g", b"theirs")
        else:
            (root / "d/f").symlink_to(root if other == "link" else "nowhere")
        before = {**below(root)}
        for _ in range(2):
            assert tree.bring_back("p", "1", "d/f") is Way.OCCUPIED
        assert below(root) == before and before[f"{ASIDE}/p/1"] == b"mine"

    def test_what_is_in_the_way_of_a_directory_stays(self, tree: Tree, root: Path, tmp_path: Path) -> None:
        put(root / "a/b/f", b"mine")
        tree.make_place("p")
        tree.set_aside("a/b/f", "p", "1")
        os.rmdir(root / "a/b")
        (tmp_path / "elsewhere").mkdir()
        for obstacle in (lambda: put(root / "a/b", b"theirs"), lambda: (root / "a/b").symlink_to(tmp_path / "elsewhere")):
            obstacle()
            assert tree.bring_back("p", "1", "a/b/f") is Way.OCCUPIED
            assert (root / ASIDE / "p/1").read_bytes() == b"mine" and os.listdir(tmp_path / "elsewhere") == []
            (root / "a/b").unlink()
        os.rmdir(root / "a")
        put(root / "a", b"theirs")
        assert tree.bring_back("p", "1", "a/b/f") is Way.OCCUPIED
        (root / "a").unlink()
        assert tree.bring_back("p", "1", "a/b/f") is Way.MOVED
        assert below(root) == {"a/b/f": b"mine"}

    def test_a_directory_that_became_a_link_leads_nowhere(self, make: Make, root: Path, tmp_path: Path) -> None:
        put(tmp_path / "elsewhere/f", b"not ours")
        put(tmp_path / "elsewhere/below/f", b"not ours either")
        make(root).make_place("p")
        (root / "a").symlink_to(tmp_path / "elsewhere")
        for path in ("a/f", "a/below/f"):
            assert make(root).set_aside(path, "p", "1") is Way.MISSING
            assert make(root).bring_back("p", "1", path) is Way.MISSING
        for path in ("a", "a/below"):
            with pytest.raises(Gone):
                everything(make(root), path)
        assert below(tmp_path / "elsewhere") == {"f": b"not ours", "below/f": b"not ours either"}

    @pytest.mark.parametrize("kind", ["directory", "full directory", "link", "broken link", "pipe"])
    def test_whatever_lies_there_is_moved_as_it_is(self, tree: Tree, root: Path, kind: str) -> None:
        put(root / "target", b"stays")
        if kind == "pipe":
            os.mkfifo(root / "x")
        elif kind.endswith("directory"):
            (root / "x").mkdir()
            if kind.startswith("full"):
                put(root / "x/inside")
        else:
            (root / "x").symlink_to("target" if kind == "link" else "nowhere")
        before = os.lstat(root / "x")
        tree.make_place("p")
        assert tree.set_aside("x", "p", "1") is Way.MOVED
        assert tree.aside("p") == {"1": None}
        assert not os.path.lexists(root / "x") and (root / "target").read_bytes() == b"stays"
        assert tree.bring_back("p", "1", "x") is Way.MOVED
        assert (os.lstat(root / "x").st_ino, os.lstat(root / "x").st_mode) == (before.st_ino, before.st_mode)

    def test_a_directory_replaces_nothing_either(self, tree: Tree, root: Path) -> None:
        put(root / "x/inside", b"mine")
        tree.make_place("p")
        assert tree.set_aside("x", "p", "1") is Way.MOVED
        (root / "x").mkdir()
        before = os.stat(root / "x").st_ino
        assert tree.bring_back("p", "1", "x") is Way.OCCUPIED
        assert os.stat(root / "x").st_ino == before and below(root) == {f"{ASIDE}/p/1/inside": b"mine"}

    @pytest.mark.parametrize("replacing", [False, True])
    def test_many_in_one_place(self, make: Make, root: Path, replacing: bool) -> None:
        tree = make(root)
        for n in range(20):
            put(root / f"d{n % 3}/f{n}", b"%d" % n)
        tree.make_place("p")
        tree.make_place("q")
        for n in range(20):
            assert tree.set_aside(f"d{n % 3}/f{n}", "pq"[n % 2], f"{n}") is Way.MOVED
        sizes = {name: seen.size for name, seen in {**tree.aside("p"), **tree.aside("q")}.items() if seen}
        assert sizes == {f"{n}": len(b"%d" % n) for n in range(20)}
        assert len(tree.aside("p")) == len(tree.aside("q")) == 10
        put(root / "d0/f0", b"again")
        assert tree.set_aside("d0/f0", "p", "0") is Way.OCCUPIED
        assert (root / ASIDE / "p/0").read_bytes() == b"0"
        for n in range(20):
            way = tree.bring_back("pq"[n % 2], f"{n}", f"d{n % 3}/f{n}")
            assert way is (Way.MOVED if n else Way.OCCUPIED)
        assert tree.set_aside("d1/f1", "q", "1") is Way.MOVED
        assert tree.set_aside("d1/f1", "q", "1") is Way.MOVED
        assert [*tree.aside("p")] == ["0"] and [*tree.aside("q")] == ["1"]

    # -- the end of the process

    def test_the_end_of_a_process_while_setting_aside(self, make: Make, root: Path) -> None:
        def fresh(n: int) -> Callable[[], None]:
            put(root / f"{n}/a/f")

            def deed() -> None:
                tree = make(root / f"{n}")
                tree.make_place("p")
                assert tree.set_aside("a/f", "p", "1") is Way.MOVED

            return deed

        for n in ending_anywhere(fresh):
            assert len(below(root / f"{n}")) == 1
            tree = make(root / f"{n}")
            tree.make_place("p")
            assert tree.set_aside("a/f", "p", "1") is Way.MOVED
            assert below(root / f"{n}") == {f"{ASIDE}/p/1": b"content"}

    def test_the_end_of_a_process_while_bringing_back(self, make: Make, root: Path) -> None:
        def fresh(n: int) -> Callable[[], None]:
            put(root / f"{n}" / ASIDE / "p/1")

            def deed() -> None:
                assert make(root / f"{n}").bring_back("p", "1", "a/b/f") is Way.MOVED

            return deed

        for n in ending_anywhere(fresh):
            inodes = {os.stat(root / f"{n}" / path).st_ino for path in below(root / f"{n}")}
            assert len(inodes) == 1
            assert make(root / f"{n}").bring_back("p", "1", "a/b/f") is Way.MOVED
            assert below(root / f"{n}") == {"a/b/f": b"content"}


class TestLocalTree(Contract):
    """On this host, with and without a kernel and file system that rename without replacing."""

    @pytest.fixture(params=["renames", "links"], autouse=True)
    def _file_system(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        if request.param == "links":
            monkeypatch.setattr(copying, "rename_new", lambda *_: False)

    @pytest.fixture
    def make(self) -> Make:
        return lambda root: LocalTree(str(root))

    # -- looking

    def test_line_breaks_are_names_like_others(self, tree: Tree, root: Path) -> None:
        put(root / "a\nb\r")
        tree.make_place("p")
        assert names(everything(tree)) == ["a\nb\r"]
        assert tree.set_aside("a\nb\r", "p", "1") is Way.MOVED

    def test_many_come_in_portions(self, tree: Tree, root: Path) -> None:
        (root / "d").mkdir()
        for n in range(25_000):
            os.close(os.open(root / f"d/{n}", os.O_CREAT | os.O_WRONLY))
        portions = [*tree.list("d")]
        assert [len(portion.files) for portion in portions] == [PORTION, PORTION, 5_000]
        assert sorted(int(seen.name) for portion in portions for seen in portion.files) == [*range(25_000)]

    @pytest.mark.parametrize("count", [PORTION - 1, PORTION, PORTION + 1])
    def test_the_edges_of_portions(self, tree: Tree, root: Path, count: int) -> None:
        for n in range(count):
            os.close(os.open(root / f"{n}", os.O_CREAT | os.O_WRONLY))
        assert len(everything(tree).files) == count
        assert max(len(portion.files) for portion in tree.list("")) <= PORTION

    def test_what_goes_while_it_is_listed_is_left_out(self, tree: Tree, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        put(root / "stays")
        put(root / "goes")
        really = local.islice

        def slow(entries: Any, count: int) -> list[Any]:
            found = [*really(entries, count)]
            (root / "goes").unlink(missing_ok=True)
            return found

        monkeypatch.setattr(local, "islice", slow)
        assert names(everything(tree)) == ["stays"]

    def test_numbers_that_no_database_keeps_are_cut(self) -> None:
        def found(**given: int) -> Seen:
            status = {"st_mode": stat.S_IFREG, "st_size": 1, "st_mtime_ns": 2, "st_ctime_ns": 3, "st_ino": 4, **given}

            class Entry:
                name = "f"

                def stat(self, follow_symlinks: bool = True) -> Any:
                    assert not follow_symlinks
                    return type("Status", (), status)

            (seen,) = local._portion([Entry()]).files  # type: ignore[list-item]
            assert seen == local._seen("f", type("Status", (), status))  # type: ignore[arg-type]
            assert type(seen) is Seen
            return seen

        assert found() == Seen("f", 1, 2, 4, 3)
        assert found(st_ino=1 << 63).inode == 0 and found(st_ino=(1 << 64) - 1).inode == (1 << 63) - 1
        assert found(st_mtime_ns=1 << 70).mtime == (1 << 63) - 1 and found(st_mtime_ns=-(1 << 70)).mtime == -(1 << 63) + 1
        assert found(st_mtime_ns=-5).mtime == -5 and found(st_ctime_ns=1 << 63).ctime == (1 << 63) - 1

    @pytest.mark.parametrize("what", ["open", "scandir"])
    @pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
    def test_a_trouble_is_one_with_the_directory_or_with_the_disk(
        self, tree: Tree, root: Path, monkeypatch: pytest.MonkeyPatch, what: str, number: int
    ) -> None:
        put(root / "d/f")
        really = getattr(os, what)

        def fails(path: Any, *arguments: Any, **options: Any) -> Any:
            if path == "d" or what == "scandir":
                raise OSError(number, os.strerror(number))
            return really(path, *arguments, **options)

        monkeypatch.setattr(os, what, fails)
        for ask in (lambda: everything(tree, "d"), lambda: tree.aside("p") if what == "scandir" else tree.lacks("d", ["g"])):
            (root / ASIDE / "p").mkdir(parents=True, exist_ok=True)
            with pytest.raises(DirectoryUnreadable if number in (errno.EACCES, errno.EIO) else CarrierUnknown) as raised:
                ask()
            assert f"{root}/" in raised.value.reason

    def test_one_that_cannot_be_told_spoils_the_list(self, tree: Tree, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A list that left it out would say that it is gone."""
        put(root / "d/f")
        monkeypatch.setattr(local, "_portion", lambda batch: (_ for _ in ()).throw(PermissionError(errno.EACCES, "no")))
        with pytest.raises(DirectoryUnreadable):
            everything(tree, "d")

    def test_a_root_that_is_a_link_is_what_it_leads_to(self, root: Path, tmp_path: Path) -> None:
        put(root / "d/f")
        (tmp_path / "link").symlink_to(root)
        tree = LocalTree(f"{tmp_path}/link/")
        assert names(everything(tree, "d")) == ["f"] and tree.path("d") == f"{tmp_path}/link/d"
        assert LocalTree("/").path("etc") == "/etc" and LocalTree("/").path("") == "/"
        assert "etc" in everything(LocalTree("/")).directories

    def test_what_is_not_writable_is_unable(self, tree: Tree, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []
        monkeypatch.setattr(os, "access", lambda path, *_, **__: asked.append(path) or False)
        assert str(root) in tree.unable()
        (root / ASIDE).mkdir()
        assert f"{root}/{ASIDE}" in tree.unable()
        assert asked == [".", ASIDE]

    # -- moving

    def test_another_file_system_below_is_told(self, tree: Tree, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        put(root / "f")
        tree.make_place("p")

        def crosses(*_: Any, **__: Any) -> None:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        monkeypatch.setattr(os, "rename", crosses)
        monkeypatch.setattr(copying, "rename_new", crosses)
        with pytest.raises(DirectoryUnreadable, match="another file system"):
            tree.set_aside("f", "p", "1")

    def test_a_full_or_readonly_disk_is_no_matter_of_one_file(self, tree: Tree, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        put(root / "f")
        tree.make_place("p")
        tree.set_aside("f", "p", "1")

        def full(*_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "mkdir", full)
        for deed in (lambda: tree.bring_back("p", "1", "gone/f"), lambda: tree.make_place("q")):
            with pytest.raises(CarrierUnknown):
                deed()
        assert below(root) == {f"{ASIDE}/p/1": b"content"}

    @pytest.mark.parametrize("repeated", [False, True])
    def test_both_directories_of_a_move_are_forced_to_disk(
        self, make: Make, root: Path, monkeypatch: pytest.MonkeyPatch, repeated: bool
    ) -> None:
        """Also by the call that only finds it done: the one that did it may have died before."""
        put(root / "a/b/f")
        make(root).make_place("p")
        forced: Numbers[int] = Numbers()
        really = os.fsync
        if repeated:
            os.rename(root / "a/b/f", root / ASIDE / "p/1")
        monkeypatch.setattr(os, "fsync", lambda file: forced.update([os.fstat(file).st_ino]) or really(file))
        assert make(root).set_aside("a/b/f", "p", "1") is Way.MOVED
        both = {os.stat(root / path).st_ino for path in ("a/b", f"{ASIDE}/p")}
        assert both <= forced.keys()
        forced.clear()
        if repeated:
            os.rename(root / ASIDE / "p/1", root / "a/b/f")
            both = {os.stat(root / "a/b").st_ino}
        else:
            os.rmdir(root / "a/b")
        assert make(root).bring_back("p", "1", "a/b/f") is Way.MOVED
        assert {os.stat(root / "a/b").st_ino} | both - {0} <= forced.keys() | both
        assert os.stat(root / "a/b").st_ino in forced
        if not repeated:
            assert {os.stat(root / path).st_ino for path in ("", "a", f"{ASIDE}/p")} <= forced.keys()

    def test_a_writer_that_comes_in_between_is_not_replaced(self, tree: Tree, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        put(root / "f", b"mine")
        tree.make_place("p")
        tree.set_aside("f", "p", "1")
        monkeypatch.setattr(seams, "watch", lambda name: put(root / "f", b"theirs") if name == "tree: bring back" else None)
        assert tree.bring_back("p", "1", "f") is Way.OCCUPIED
        assert below(root) == {"f": b"theirs", f"{ASIDE}/p/1": b"mine"}

    # -- removing

    @pytest.fixture
    def lying(self, tree: Tree, root: Path) -> Seen:
        """A file that was set aside."""
        put(root / "d/f", b"12345")
        tree.make_place("p")
        tree.set_aside("d/f", "p", "1")
        seen = tree.aside("p")["1"]
        assert seen is not None
        return seen

    def test_a_file_is_removed(self, tree: Tree, root: Path, lying: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
        forced: Numbers[int] = Numbers()
        monkeypatch.setattr(os, "fsync", lambda file: forced.update([os.fstat(file).st_ino]))
        for _ in range(2):
            assert tree.remove("p", "1", lying) == ""
            assert below(root) == {}
        assert forced == {os.stat(root / ASIDE / "p").st_ino: 2}
        assert tree.clear_place("p") and tree.remove("p", "1", lying) == ""
        assert tree.clear_place("p") and os.listdir(root) == ["d"]

    @pytest.mark.parametrize(
        "change",
        [
            lambda path: path.write_bytes(b"54321"),
            lambda path: os.utime(path, (10**9 + 1, 10**9 + 1)),
            lambda path: os.chmod(path, 0o600),
            lambda path: os.truncate(path, 4),
            lambda path: (path.unlink(), put(path, b"12345")),
            lambda path: (path.unlink(), path.symlink_to("nowhere")),
            lambda path: (path.unlink(), path.mkdir()),
            lambda path: (path.unlink(), os.mkfifo(path)),
        ],
    )
    def test_what_is_not_as_it_was_seen_stays(self, tree: Tree, root: Path, lying: Seen, change: Callable[[Path], Any]) -> None:
        path = root / ASIDE / "p/1"
        change(path)
        assert tree.remove("p", "1", lying)
        assert os.path.lexists(path)
        assert not tree.clear_place("p")

    @pytest.mark.parametrize("field", ["size", "mtime", "inode", "ctime"])
    def test_every_property_counts(self, tree: Tree, root: Path, lying: Seen, field: str) -> None:
        assert tree.remove("p", "1", lying._replace(**{field: getattr(lying, field) + 1}))
        assert (root / ASIDE / "p/1").exists()
        assert tree.remove("p", "1", lying._replace(name="f")) == ""

    def test_what_is_open_for_writing_stays(self, tree: Tree, root: Path, lying: Seen) -> None:
        path = root / ASIDE / "p/1"
        for mode in (os.O_WRONLY, os.O_RDWR):
            file = os.open(path, mode)
            assert tree.remove("p", "1", lying) == "a process has it open for writing"
            os.close(file)
        file = os.open(path, os.O_RDWR)
        mapped = mmap.mmap(file, 5)
        os.close(file)
        assert tree.remove("p", "1", lying) == "a process has it open for writing"
        mapped.close()
        reading = os.open(path, os.O_RDONLY)
        assert tree.remove("p", "1", lying) == ""
        os.close(reading)

    def test_nobody_begins_to_write_while_it_is_removed(self, tree: Tree, root: Path, lying: Seen) -> None:
        """Who tries is told that it is busy, and the signal that this gives us does no harm."""
        path, refused = root / ASIDE / "p/1", root / "refused"

        def write() -> None:
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            except BlockingIOError:
                refused.touch()

        def watch(name: str) -> None:
            if name == "tree: remove":
                assert in_child(write) == 0

        def deed() -> None:
            signal.signal(signal.SIGIO, signal.SIG_DFL)
            assert tree.remove("p", "1", lying) == ""

        assert in_child(deed, watch) == 0
        assert refused.exists() and not path.exists()

    @pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES, errno.ENOLCK])
    def test_where_there_are_no_leases_it_goes_on(
        self, tree: Tree, root: Path, lying: Seen, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        def none(file: int, command: int, *_: Any) -> int:
            if command == fcntl.F_SETLEASE:
                raise OSError(number, os.strerror(number))
            return 0

        monkeypatch.setattr(fcntl, "fcntl", none)
        assert tree.remove("p", "1", lying._replace(size=4)) == "it changed since it was looked at"
        assert tree.remove("p", "1", lying) == "" and below(root) == {}

    def test_the_end_of_a_process_while_removing(self, make: Make, root: Path) -> None:
        def fresh(n: int) -> Callable[[], None]:
            put(root / f"{n}" / ASIDE / "p/1")
            seen = make(root / f"{n}").aside("p")["1"]
            assert seen is not None

            def deed() -> None:
                tree = make(root / f"{n}")
                assert tree.remove("p", "1", seen) == "" and tree.clear_place("p")

            again.append(deed)
            return deed

        again: list[Callable[[], None]] = []
        for n in ending_anywhere(fresh):
            again.pop()()
            assert os.listdir(root / f"{n}") == []

    def test_only_what_is_empty_is_removed(self, tree: Tree, root: Path) -> None:
        put(root / "full/f")
        (root / "full/empty").mkdir()
        (root / "link").symlink_to("full/empty")
        put(root / "file")
        assert tree.remove_empty("full/empty") and tree.remove_empty("full/empty")
        assert not tree.remove_empty("full") and not tree.remove_empty("")
        assert tree.remove_empty("link") and tree.remove_empty("file") and tree.remove_empty("gone/below")
        assert sorted(os.listdir(root)) == ["file", "full", "link"]
        assert root.is_dir()

    def test_a_directory_behind_a_link_is_not_removed(self, tree: Tree, root: Path, tmp_path: Path) -> None:
        (tmp_path / "elsewhere/empty").mkdir(parents=True)
        (root / "a").symlink_to(tmp_path / "elsewhere")
        assert tree.remove_empty("a/empty")
        assert (tmp_path / "elsewhere/empty").is_dir()

    def test_a_place_goes_when_it_is_empty_and_the_last_takes_their_directory_along(self, tree: Tree, root: Path) -> None:
        tree.make_place("p")
        tree.make_place("q")
        put(root / ASIDE / "p/1")
        assert not tree.clear_place("p") and tree.clear_place("q")
        (root / ASIDE / "p/1").unlink()
        assert tree.clear_place("p") and os.listdir(root) == []

    def test_without_links_and_renaming_nothing_is_risked(self, tree: Tree, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        put(root / "f")
        tree.make_place("p")
        tree.set_aside("f", "p", "1")

        def refuses(*_: Any, **__: Any) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(copying, "rename_new", lambda *_: False)
        monkeypatch.setattr(os, "link", refuses)
        with pytest.raises(DirectoryUnreadable):
            tree.bring_back("p", "1", "f")
        assert below(root) == {f"{ASIDE}/p/1": b"content"}


LS, STAT, MKDIR, RENAME = "/ls", "/stat", "/mkdir$", "/rename$"


class TestCollectionTree(Contract):
    """Through a collection, with real bytes behind it."""

    inodes = False

    @pytest.fixture
    def collection(self, globus: GlobusService, request: pytest.FixtureRequest) -> Collection:
        parameters = getattr(getattr(request.node, "callspec", None), "params", {})
        return globus.collection("source", root="/", rename_replaces=parameters.get("replacing", False))

    @pytest.fixture
    def access(self, globus: GlobusService, tmp_path: Path) -> Callable[[], Access]:
        account = globus.service_account()
        secret = tmp_path / "secret"
        secret.touch(mode=0o600)
        secret.write_text(account.secret)
        (tmp_path / "state").mkdir()
        self.account = account
        return lambda: Access(account.id, Tokens(str(tmp_path / "state"), account.id, person=False, file=str(secret)))

    @pytest.fixture
    def make(self, access: Callable[[], Access], collection: Collection) -> Make:
        return lambda root: CollectionTree(access(), collection.id, str(root))

    @staticmethod
    def asked(globus: GlobusService, what: str) -> int:
        """How often something was asked of the service."""
        return sum(url.partition("?")[0].endswith(what.rstrip("$")) for _, url, _ in globus.requests)

    # -- looking

    def test_a_directory_is_one_call(self, globus: GlobusService, make: Make, root: Path) -> None:
        put(root / "a/b/c/f")
        tree = make(root)
        assert everything(tree).directories == ["a"]
        assert everything(tree, "a").directories == ["b"]
        assert everything(tree, "a/b").directories == ["c"]
        assert (self.asked(globus, LS), self.asked(globus, STAT)) == (3, 0)
        assert names(everything(make(root), "a/b/c")) == ["f"]
        assert (self.asked(globus, LS), self.asked(globus, STAT)) == (4, 3)

    @pytest.mark.parametrize("total", [True, False])
    def test_a_list_that_is_cut_is_not_whole(
        self, globus: GlobusService, tree: Tree, root: Path, total: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for n in range(5):
            put(root / f"d/{n}")
            put(root / ASIDE / f"p/{n}")
        if total:
            globus.most_listed = 4
        else:
            monkeypatch.setattr(collection_tree, "MOST_LISTED", 5)
        found = everything(tree, "d")
        assert not found.whole and names(found) == ["0", "1", "2", "3", "4"][: 4 if total else 5]
        assert tree.lacks("d", ["9"]) == []
        with pytest.raises(DirectoryUnreadable):
            tree.aside("p")
        put(root / "f")
        assert tree.set_aside("f", "p", "4") is Way.OCCUPIED
        assert tree.set_aside("f", "p", "new") is Way.MOVED

    def test_a_list_that_is_too_long_to_be_shown_is_not_whole(self, globus: GlobusService, tree: Tree, root: Path) -> None:
        (root / "d").mkdir()
        body = {"code": "ExternalError.DirListingFailed.SizeLimit", "message": "Directory limit of 100000 reached"}
        globus.fault("say", url=LS, status=502, body=json.dumps(body).encode(), count=3)
        assert everything(tree) == Portion(whole=False)
        assert tree.lacks("", ["f"]) == []
        with pytest.raises(DirectoryUnreadable):
            tree.aside("p")

    FILE = {"name": "f", "type": "file", "size": 1, "last_modified": "2023-12-18 16:52:50+00:00", "link_target": None}

    @pytest.mark.parametrize(
        "answer",
        [
            {},
            {"DATA": {}},
            {"DATA": ["f"]},
            {"DATA": [{**FILE, "name": ""}]},
            {"DATA": [{**FILE, "name": "."}]},
            {"DATA": [{**FILE, "name": ".."}]},
            {"DATA": [{**FILE, "name": "a/b"}]},
            {"DATA": [{**FILE, "name": "a\0"}]},
            {"DATA": [{**FILE, "name": 5}]},
            {"DATA": [{"type": "file", "size": 1}]},
            {"DATA": [{**FILE, "size": -1}]},
            {"DATA": [{**FILE, "size": "1"}]},
            {"DATA": [{**FILE, "size": True}]},
            {"DATA": [{**FILE, "size": 1 << 63}]},
            {"DATA": [{**FILE, "last_modified": "yesterday"}]},
            {"DATA": [{**FILE, "last_modified": 5}]},
            {"DATA": [{**FILE, "type": None}]},
            {"DATA": [FILE], "length": 2, "total": 2},
            {"DATA": [FILE], "length": 1, "total": 0},
            {"DATA": [FILE], "length": 1, "total": "1"},
        ],
    )
    def test_an_answer_that_makes_no_sense_is_none(self, globus: GlobusService, tree: Tree, answer: Any) -> None:
        globus.fault("say", url=LS, body=json.dumps(answer).encode(), count=3)
        with pytest.raises(CarrierUnknown):
            everything(tree)
        with pytest.raises(CarrierUnknown):
            tree.aside("p")

    def test_what_cannot_be_followed_is_strange(self, globus: GlobusService, tree: Tree) -> None:
        twice, bare, timeless = ({**self.FILE, "name": name} for name in ("twice", "bare", "timeless"))
        del bare["size"]
        timeless["last_modified"] = None
        others = [{**self.FILE, "name": "zulu", "last_modified": "1970-01-01T00:00:01Z"}, {**self.FILE, "name": "local", "last_modified": "1970-01-01 00:00:02"}]
        far = {**self.FILE, "name": "far", "last_modified": "9999-01-01 00:00:00+00:00"}
        globus.fault("say", url=LS, body=json.dumps({"DATA": [twice, {**twice, "type": "dir"}, bare, timeless, *others, far]}).encode())
        found = everything(tree)
        assert found.files == [Seen("far", 1, (1 << 63) - 1, 0, 0), Seen("local", 1, 2 * 10**9, 0, 0), Seen("zulu", 1, 10**9, 0, 0)]
        assert found.strange == ["bare", "timeless", "twice", "twice"] and not found.directories

    def test_a_name_that_means_a_home_is_strange_where_it_would(self, globus: GlobusService, access: Callable[[], Access], root: Path) -> None:
        for name in ("~", "~x", "d/~"):
            put(root / name / "f")
        at_top = CollectionTree(access(), globus.collection("own", root=str(root)).id, "/")
        assert (everything(at_top).directories, everything(at_top).strange) == (["d", "~x"], ["~"])
        assert everything(at_top, "d").directories == ["~"]
        assert names(everything(at_top, "d/~")) == ["f"] and at_top.path("d") == "/d" and at_top.path("") == "/"

    def test_what_one_directory_does_not_permit_is_a_matter_of_it(self, globus: GlobusService, make: Make, root: Path, collection: Collection) -> None:
        put(root / "open/f")
        put(root / "closed/f")
        put(root / "look/f")
        tree = make(root)
        tree.make_place("p")
        globus.permit(self.account, collection, "/", "r")
        globus.permit(self.account, collection, str(root / "open"), "rw")
        globus.permit(self.account, collection, str(root / ASIDE), "rw")
        assert tree.set_aside("open/f", "p", "1") is Way.MOVED
        with pytest.raises(DirectoryUnreadable):
            tree.set_aside("look/f", "p", "2")
        assert tree.lacks("look", ["f"]) == []
        globus.world.rules.clear()
        globus.permit(self.account, collection, str(root / "open"), "rw")
        for deed in (lambda: everything(tree, "closed"), lambda: tree.lacks("closed", ["g"])):
            with pytest.raises(DirectoryUnreadable):
                deed()
        with pytest.raises(CarrierBarred) as raised:
            everything(tree)
        assert raised.value.facts["cause"] == "permission"
        with pytest.raises((CarrierBarred, DirectoryUnreadable)):
            tree.make_place("q")

    @pytest.mark.parametrize("fault", ["gcp_offline", "http_429", "http_503", "http_500", "truncate", "drop_before", "consent", "login", "paused", "unknown"])
    def test_a_trouble_with_the_service_or_the_collection_says_nothing_of_a_file(
        self, globus: GlobusService, make: Make, root: Path, collection: Collection, access: Callable[[], Access], fault: str
    ) -> None:
        put(root / "f")
        tree = make(root)
        tree.make_place("p")
        before = below(root)
        if fault == "consent":
            collection.entity_type = "GCSv5_mapped_collection"
            globus.fault("consent_required", count=99)
        elif fault == "login":
            globus.expire_access_tokens()
            globus.world.clients.clear()
        elif fault == "paused":
            collection.gcp_paused = True
        elif fault == "unknown":
            del globus.world.collections[collection.id]
        else:
            globus.fault(fault, count=99)
        deeds = [
            lambda tree: everything(tree),
            lambda tree: everything(tree, "d"),
            lambda tree: tree.unable(),
            lambda tree: tree.lacks("", ["x"]),
            lambda tree: tree.lacks("d", ["x"]),
            lambda tree: tree.aside("p"),
            lambda tree: tree.make_place("q"),
            lambda tree: tree.set_aside("f", "p", "1"),
            lambda tree: tree.bring_back("p", "1", "f"),
        ]
        for deed in deeds:
            with pytest.raises((CarrierUnknown, CarrierBusy, CarrierBarred)):
                deed(make(root))
        assert below(root) == before

    def test_a_collection_that_cannot_rename_is_unable(self, tree: Tree, collection: Collection, root: Path) -> None:
        put(root / "f")
        tree.make_place("p")
        collection.rename_supported = False
        assert tree.unable() == "the collection cannot rename"
        with pytest.raises(DirectoryUnreadable):
            tree.set_aside("f", "p", "1")

    # -- answers that are lost

    @pytest.mark.parametrize("fault", ["drop_before", "drop_after", "truncate", "http_500"])
    @pytest.mark.parametrize("url", [LS, STAT, MKDIR, RENAME])
    @pytest.mark.parametrize("replacing", [False, True])
    @pytest.mark.parametrize("count", [1, 2])
    def test_lost_answers_lose_nothing(self, globus: GlobusService, make: Make, root: Path, fault: str, url: str, count: int, replacing: bool) -> None:
        for after in range(4):
            top = root / f"{after}"
            put(top / "a/f")
            armed = globus.fault(fault, url=url, count=count, after=after)
            for deed in (
                lambda top=top: make(top).make_place("p"),
                lambda top=top: make(top).set_aside("a/f", "p", "1"),
                lambda top=top: make(top).bring_back("p", "1", "a/f"),
            ):
                for _ in range(4):
                    try:
                        way = deed()
                    except CarrierUnknown:
                        assert len(below(top)) == 1
                        continue
                    assert way in (None, Way.MOVED) and len(below(top)) == 1
                    break
                else:
                    raise AssertionError("it never became clear")
            armed.end()
            assert below(top) == {"a/f": b"content"}

    @pytest.mark.parametrize("replacing", [False, True])
    def test_a_lost_rename_is_not_sent_again(self, globus: GlobusService, make: Make, root: Path, replacing: bool) -> None:
        """The second would move the file that a writer has made since over the first."""
        put(root / "f", b"old")
        tree = make(root)
        tree.make_place("p")
        assert tree.aside("p") == {}
        globus.fault("drop_after", url=RENAME)
        really = globus.world.faults.strike

        def strike(name: str, **about: Any) -> Any:
            found = really(name, **about)
            if found and name == "drop_after":
                put(root / "f", b"new")
            return found

        globus.world.faults.strike = strike  # type: ignore[method-assign]
        way = tree.set_aside("f", "p", "1")
        assert below(root) == {"f": b"new", f"{ASIDE}/p/1": b"old"}
        assert way is Way.OCCUPIED  # a look into the place tells
        assert self.asked(globus, RENAME) == 1
        assert tree.set_aside("f", "p", "1") is Way.OCCUPIED
        assert below(root) == {"f": b"new", f"{ASIDE}/p/1": b"old"}

    def test_a_rename_that_may_still_be_done_is_not_guessed(self, globus: GlobusService, tree: Tree, root: Path) -> None:
        put(root / "f")
        tree.make_place("p")
        globus.fault("drop_before", url=RENAME)
        with pytest.raises(CarrierUnknown):
            tree.set_aside("f", "p", "1")
        assert self.asked(globus, RENAME) == 1
        os.rename(root / "f", root / ASIDE / "p/1")  # it was only slow
        put(root / "f", b"new")
        assert tree.set_aside("f", "p", "1") is Way.OCCUPIED
        assert below(root) == {"f": b"new", f"{ASIDE}/p/1": b"content"}

    def test_a_refusal_that_names_the_file_is_a_matter_of_it(self, globus: GlobusService, tree: Tree, root: Path) -> None:
        put(root / "f")
        tree.make_place("p")
        for status, code, kind in (
            (502, "ExternalError.RenameFailed.Unknown", DirectoryUnreadable),
            (400, "ClientError.BadRequest", DirectoryUnreadable),
            (403, "EndpointPermissionDenied", DirectoryUnreadable),
            (502, "ExternalError.RenameFailed.ConnectFailed", CarrierUnknown),
            (502, "EndpointError", CarrierUnknown),
            (200, "Perhaps", CarrierUnknown),
        ):
            globus.fault("say", url=RENAME, status=status, body=json.dumps({"code": code, "message": "no"}).encode())
            with pytest.raises(kind):
                tree.set_aside("f", "p", "1")
        assert tree.set_aside("f", "p", "1") is Way.MOVED

    def test_an_expired_token_is_renewed_on_the_way(self, globus: GlobusService, tree: Tree, root: Path) -> None:
        put(root / "f")
        tree.make_place("p")
        globus.fault("token_expired", url=RENAME)
        assert tree.set_aside("f", "p", "1") is Way.MOVED

    def test_a_set_of_files_is_one_list_and_a_rename_each(self, globus: GlobusService, make: Make, root: Path) -> None:
        for n in range(10):
            put(root / f"a/b/{n}")
        make(root).make_place("p")
        tree, before = make(root), len(globus.requests)
        for n in range(10):
            assert tree.set_aside(f"a/b/{n}", "p", f"{n}") is Way.MOVED
        assert len(globus.requests) - before == 1 + 2 + 10

    def test_calls_keep_their_distance(self, access: Callable[[], Access], collection: Collection, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        clock, slept = [100.0], []
        monkeypatch.setattr(collection_tree.time, "monotonic", lambda: clock[0])
        monkeypatch.setattr(collection_tree.time, "sleep", lambda seconds: (slept.append(seconds), clock.__setitem__(0, clock[0] + seconds)))
        tree = CollectionTree(access(), collection.id, str(root), pause=0.5)
        everything(tree)
        assert slept == []
        everything(tree)
        clock[0] += 0.25
        everything(tree)
        clock[0] += 7
        everything(tree)
        assert slept == [0.5, 0.25, 0.0]
