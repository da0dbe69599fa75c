"""The ground: checksums, names, units, states, errors, locks, copies and secrets."""

from __future__ import annotations

import ast
import hashlib
import os
import pickle
import re
import signal
import socket
import string
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libtool import copying, credentials, digest, errors, locks, names, seams, states, units
from libtool.errors import (
    FileChanged,
    FileUnreadable,
    LibtoolError,
    LockTaken,
    NameRefused,
    RunDirectoryUnusable,
    SecretMissing,
    SecretUnsafe,
)
from libtool.states import TransferStatus

# -- checksums ----------------------------------------------------------------------------------------------------


def tree_t(top: Path) -> Path:
    """The tree T of the protocol's vectors."""
    (top / "b/c").mkdir(parents=True)
    (top / "d").mkdir()
    (top / "a").write_text("A")
    (top / "b/x").write_text("BB")
    (top / "b/c/y").write_text("")
    return top


@pytest.mark.parametrize(
    "content, checksum",
    [
        ("", "xxh3:::99aa06d3014798d86001c324468d497f"),
        ("A", "xxh3:::9b0498cbe3839becd0d496e05c553485"),
        ("A", "md5:::7fc56270e7a70fa81a5935b72eacbe29"),
        ("BB", "xxh3:::af015d241bf366c951d4dfa8f64279d3"),
        ("BB", "md5:::9d3d9048db16a7eee539e93e3618cbe7"),
    ],
)
def test_a_file_has_the_checksum_that_all_librarians_give_it(tmp_path: Path, content: str, checksum: str) -> None:
    (tmp_path / "f").write_text(content)
    assert digest.of_path(str(tmp_path / "f"), checksum.split(":")[0]) == checksum


@pytest.mark.parametrize(
    "checksum",
    [
        "xxh3:::552ecda94f9329fccab801f46e7b5f8a",
        "md5:::eadb813650f9c557c981e7ca0775baff",
        "sha1:::71d04718ebd9be595974e1b9828a3116bab21b89",
        "sha256:::d198d2d7b5b1740fa2d05c9f5ad169299edbb137fe687bd0da38ffe345667834",
    ],
)
def test_a_tree_has_the_checksum_that_all_librarians_give_it(tmp_path: Path, checksum: str) -> None:
    top = tree_t(tmp_path / "T")
    assert digest.of_path(str(top), checksum.split(":")[0]) == checksum
    assert digest.size_of(str(top)) == 3


def test_a_directory_of_one_file_and_an_empty_one_have_the_known_checksums(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one/any name").write_text("A")
    (tmp_path / "none").mkdir()
    assert digest.of_path(str(tmp_path / "one")) == "xxh3:::996617d6381a2594df1c6518cce5ae5f"
    assert digest.of_path(str(tmp_path / "one"), "md5") == "md5:::4cbd6d53280de25e04712c7434a70642"
    assert digest.of_path(str(tmp_path / "none")) == "xxh3:::99aa06d3014798d86001c324468d497f"
    assert digest.size_of(str(tmp_path / "none")) == 0


def test_sha512_is_the_usual_one(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 3_000_000)
    expected = hashlib.sha512(b"x" * 3_000_000).hexdigest()
    assert digest.of_path(str(tmp_path / "f"), "sha512") == f"sha512:::{expected}"


def test_names_and_places_inside_a_tree_do_not_count_but_doubles_do(tmp_path: Path) -> None:
    before = digest.of_path(str(tree_t(tmp_path / "T")))
    os.rename(tmp_path / "T/b/x", tmp_path / "T/d/.hidden")
    assert digest.of_path(str(tmp_path / "T")) == before
    (tmp_path / "T/again").write_text("A")
    assert digest.of_path(str(tmp_path / "T")) != before


def test_a_link_to_a_file_counts_as_the_file_and_a_link_to_a_directory_as_nothing(tmp_path: Path) -> None:
    top = tree_t(tmp_path / "T")
    before = digest.of_path(str(top))
    (top / "d/loop").symlink_to("..")
    assert digest.of_path(str(top)) == before
    (top / "d/link").symlink_to("../b/x")
    (tmp_path / "U").mkdir()
    tree_t(tmp_path / "U/T")
    (tmp_path / "U/T/d/copy").write_text("BB")
    assert digest.of_path(str(top)) == digest.of_path(str(tmp_path / "U/T"))
    assert digest.size_of(str(top)) == 5


def test_a_file_that_must_not_be_a_link_is_not_read_through_one(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("A")
    (tmp_path / "link").symlink_to("f")
    with pytest.raises(OSError):
        digest.of_file(str(tmp_path / "link"), follow=False)


def test_a_tree_of_the_deepest_legal_names_has_a_checksum(tmp_path: Path) -> None:
    path = tmp_path / "T"
    path.mkdir()
    for _ in range(1500):
        path = path / "a"
        os.mkdir(path)
    (path / "f").write_text("A")
    try:
        assert digest.of_path(str(tmp_path / "T")) == "xxh3:::996617d6381a2594df1c6518cce5ae5f"
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "T")], check=True)


@pytest.mark.parametrize(
    "one, other, agree",
    [
        ("abc", "md5:::abc", True),
        ("md5:::ABC", "md5:::abc", False),
        ("xxh3:::abc", "xxh3:::abc", True),
        ("xxh3:::abc", "md5:::abc", None),
        ("xxh3:::abc", "abc", None),
        ("XXH3:::abc", "xxh3:::abc", None),
        ("sha1:::sha1:::abc", "sha1:::abc", True),
    ],
)
def test_checksums_are_compared_as_stock_librarians_do(one: str, other: str, agree: bool | None) -> None:
    assert digest.same(one, other) is agree
    assert digest.same(other, one) is agree


# -- names --------------------------------------------------------------------------------------------------------

ANY_TEXT = st.text(st.characters(codec=None), max_size=40)
PATHLIKE = st.lists(
    st.sampled_from(["a", "é", ".", "..", "", " ", "\n", "\0", ".libtool-x", "...", "~", "\ud800", "a" * 256])
)


@given(st.one_of(ANY_TEXT, PATHLIKE.map("/".join)))
def test_a_name_that_is_accepted_stays_inside_and_has_one_spelling(name: str) -> None:
    try:
        names.check(name)
    except NameRefused as refusal:
        assert "\n" not in refusal.text
        return
    joined = os.path.join("/root", name)
    assert os.path.normpath(joined) == joined
    assert joined.startswith("/root/")
    assert os.fsencode(name).decode("utf-8") == name
    assert all(len(os.fsencode(part)) <= 255 and not part.startswith(".libtool-") for part in name.split("/"))


@pytest.mark.parametrize(
    "name",
    [
        "/a",
        "..",
        "a/../b",
        ".",
        "a/./b",
        "",
        "a//b",
        "a/",
        "a\0b",
        "\udcff",
        "a/\ud800",
        "é" * 128,
        ".libtool-store",
        "a/.libtool-x",
        "x/" * 64 + "y",
    ],
)
def test_a_name_that_could_lead_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(NameRefused):
        names.check(name)


@pytest.mark.parametrize(
    "name", ["a b", "-rf", "~", "a\nb", "'\"$(x)`", "...", "a" * 255, "é" * 127 + "a", "x/" * 63 + "y", ".libtool"]
)
def test_an_odd_but_harmless_name_is_accepted(name: str, tmp_path: Path) -> None:
    assert names.check(name) == name
    if len(name) < 300:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("can be made")


def test_a_name_is_as_long_as_the_stores_leave_room_counted_in_bytes() -> None:
    assert names.check("é" * 5, 10)
    with pytest.raises(NameRefused, match="11 bytes"):
        names.check("é" * 5 + "a", 10)


@given(ANY_TEXT)
def test_a_name_is_shown_on_one_printable_line_that_any_stream_takes(name: str) -> None:
    shown = names.shown(name)
    assert shown.isprintable()
    shown.encode("utf-8")
    if name.isprintable():
        assert shown == name


@given(st.lists(st.text("ab", min_size=1), min_size=1, max_size=6))
def test_above_are_the_directories_that_a_name_lies_in(parts: list[str]) -> None:
    name = "/".join(parts)
    expected = [str(up) for up in reversed(Path(name).parents) if str(up) != "."]
    assert names.above(name) == expected


# -- units --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**10 - 1))
def test_a_span_that_is_shown_can_be_read_again(seconds: int) -> None:
    assert units.parse_span(units.show_span(seconds)) == seconds


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("90", 90),
        ("90s", 90),
        ("10m", 600),
        ("1.5h", 5400),
        ("7d", 604800),
        ("2w", 1209600),
        ("1h30m", 5400),
        ("1 h 30 m", 5400),
        ("00:10:00", 600),
        ("25:00:01", 90001),
        (2.5, 2.5),
        ("0", 0),
    ],
)
def test_spans_are_read_as_people_write_them(text: str | float, seconds: float) -> None:
    assert units.parse_span(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "soon", "10x", "-5", "-5s", "1h-", float("nan"), float("inf"), -1, 10**11, True, "m", "1..5h"]
)
def test_what_is_no_span_is_a_value_error_that_says_what_was_expected(text: Any) -> None:
    with pytest.raises(ValueError, match="expected a span"):
        units.parse_span(text)


@given(st.integers(0, 2**63 - 1))
def test_a_size_in_digits_is_exact(size: int) -> None:
    assert units.parse_size(str(size)) == size


@pytest.mark.parametrize(
    "text, size",
    [
        ("100", 100),
        ("20T", 20 * 10**12),
        ("1.5GiB", 3 * 2**29),
        ("1 kB", 1000),
        ("2KiB", 2048),
        ("7b", 7),
        (12, 12),
        ("1PB", 10**15),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str | int, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "big", "-1", "1EB", "iB", "1 2", "i", "5i", True, None])
def test_what_is_no_size_is_a_value_error(text: Any) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        units.parse_size(text)


@given(st.integers(0, 2**63 - 1))
def test_a_size_is_shown_with_at_most_a_tenth_of_a_unit_of_error(size: int) -> None:
    number, unit = units.show_size(size).split()
    factor = {"B": 1, **{f"{prefix}B": 1000**n for n, prefix in enumerate("kMGTPE", 1)}}[unit]
    assert abs(float(number) * factor - size) <= 0.0501 * factor
    assert float(number) < 1000


@given(
    st.datetimes(
        datetime(1, 1, 2),
        datetime(9999, 12, 30),
        timezones=st.sampled_from([timezone.utc, timezone(timedelta(hours=5))]),
    )
)
def test_a_time_survives_the_database_our_json_and_the_wire(time: datetime) -> None:
    assert units.from_microseconds(units.to_microseconds(time)) == time
    assert units.parse_time(units.show_time(time) or "") == time
    assert units.parse_time(units.stock_time(time)) == time
    assert (units.show_time(time) or "").endswith("Z")
    assert "+" not in units.stock_time(time) and "." in units.stock_time(time)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-21T07:35:32",
        "2026-11-21T07:35:32Z",
        "2026-11-21 07:35:32",
        "2026-11-21T08:35:32+01:00",
        "2026-11-21T07:35:32.000",
        1795246532,
    ],
)
def test_every_spelling_of_a_time_on_the_wire_is_understood(text: str | int) -> None:
    assert units.parse_time(text) == datetime(2026, 11, 21, 7, 35, 32, tzinfo=timezone.utc)


def test_a_naive_time_is_never_stored() -> None:
    with pytest.raises(ValueError):
        units.to_microseconds(datetime(2026, 1, 1))


# -- states -------------------------------------------------------------------------------------------------------


def test_a_peer_may_move_transfers_exactly_as_the_wire_says() -> None:
    table = {0: {1, 2, 4, 5}, 1: {2, 4, 5}, 2: {4, 5}, 3: set(), 4: set(), 5: set()}
    for old in TransferStatus:
        assert {int(new) for new in TransferStatus if states.may_follow(old, new)} == table[old]
    for new in TransferStatus:
        assert {int(old) for old in states.earlier(new)} == {
            old for old, following in table.items() if new in following
        }


def test_numbers_of_the_wire_do_not_change() -> None:
    assert [status.name for status in TransferStatus] == "INITIATED ONGOING STAGED COMPLETED FAILED CANCELLED".split()
    assert {level.name: int(level) for level in states.AuthLevel} == {
        "NONE": 0,
        "READONLY": 1,
        "CALLBACK": 2,
        "READAPPEND": 3,
        "READWRITE": 4,
        "ADMIN": 100,
    }
    assert (int(states.DeletionPolicy.DISALLOWED), int(states.DeletionPolicy.ALLOWED)) == (0, 1)


# -- errors -------------------------------------------------------------------------------------------------------

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LibtoolError)]


def placeholders(kind: type[LibtoolError]) -> set[str]:
    """What the templates of an error need."""
    texts = (kind.message, kind.meaning, kind.remedy)
    return {field for text in texts for _, field, _, _ in string.Formatter().parse(text) if field}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_is_one_line_with_a_known_exit_code_and_survives_a_process(kind: type[LibtoolError]) -> None:
    nasty = "x\nlibtool: all is well\x1b[2J\udcff{size}"
    trouble = kind(**{name: nasty for name in placeholders(kind)})
    for said in (trouble.text, trouble.reason, trouble.advice):
        assert "\n" not in said and "\x1b" not in said
        said.encode("utf-8")
    assert str(trouble) == trouble.reason
    assert kind.exit_code in errors.EXIT_CODES
    assert 400 <= kind.http_status < 600
    again = pickle.loads(pickle.dumps(trouble))
    assert (type(again), again.text, again.extra) == (kind, trouble.text, trouble.extra)


def test_every_place_that_raises_an_error_fills_all_of_its_placeholders() -> None:
    kinds = {kind.__name__: kind for kind in CLASSES}
    seen = 0
    for path in Path(errors.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in kinds:
                given_words = {word.arg for word in call.keywords}
                if None not in given_words:
                    seen += 1
                    assert placeholders(kinds[call.func.id]) <= given_words, (path.name, call.lineno, call.func.id)
    assert seen > 50


# -- locks --------------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from libtool import locks
with locks.held(sys.argv[1], "task", shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    time.sleep(60)
"""


class Holder:
    """Another process that holds the lock ``task``."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", HOLD, str(directory), kind], stdout=subprocess.PIPE)
        assert self.process.stdout is not None and self.process.stdout.readline() == b"held\n"

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *what: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_a_lock_keeps_a_second_process_out_and_dies_with_its_holder(tmp_path: Path) -> None:
    with Holder(tmp_path / "run", "exclusive") as holder:
        with pytest.raises(LockTaken) as taken, locks.held(str(tmp_path / "run"), "task"):
            pass
        assert taken.value.exit_code == 75
        with locks.held(str(tmp_path / "run"), "another"):
            pass
        os.kill(holder.process.pid, signal.SIGKILL)
        holder.process.wait()
        with locks.held(str(tmp_path / "run"), "task"):
            pass


def test_shared_holders_stand_beside_each_other_but_not_beside_an_exclusive_one(tmp_path: Path) -> None:
    with Holder(tmp_path, "shared"):
        with locks.held(str(tmp_path), "task", shared=True):
            pass
        with pytest.raises(LockTaken), locks.held(str(tmp_path), "task"):
            pass


def test_a_lock_is_free_again_after_its_block_and_its_file_stays(tmp_path: Path) -> None:
    for _ in range(2):
        with locks.held(str(tmp_path), "a b/../c"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["a_b_.._c.lock"]


def test_a_run_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryUnusable, match="file"), locks.held(str(tmp_path / "file/run"), "task"):
        pass


# -- copies -------------------------------------------------------------------------------------------------------


def test_a_sparse_file_over_four_gigabytes_stays_sparse_and_whole(tmp_path: Path) -> None:
    size = 5 * 1024**3
    with open(tmp_path / "big", "wb") as stream:
        stream.write(b"begin")
        stream.seek(size // 2)
        stream.write(b"middle")
        stream.truncate(size)
    if os.stat(tmp_path / "big").st_blocks * 512 > size // 2:
        pytest.skip("this file system has no holes")
    began = time.monotonic()
    copying.copy_file(str(tmp_path / "big"), str(tmp_path / "copy"))
    assert time.monotonic() - began < 5
    found = os.stat(tmp_path / "copy")
    assert found.st_size == size and found.st_blocks * 512 < 1024**2
    with open(tmp_path / "copy", "rb") as stream:
        assert stream.read(6) == b"begin\0"
        stream.seek(size // 2 - 1)
        assert stream.read(8) == b"\0middle\0"


@given(size=st.sampled_from([0, 1, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20]))
def test_a_copy_has_the_same_bytes_and_time_whatever_its_size(
    tmp_path_factory: pytest.TempPathFactory, size: int
) -> None:
    top = tmp_path_factory.mktemp("copy")
    (top / "a").write_bytes(os.urandom(size))
    os.utime(top / "a", ns=(10**18, 10**18 + 7))
    copying.copy_file(str(top / "a"), str(top / "b"))
    assert (top / "b").read_bytes() == (top / "a").read_bytes()
    assert os.stat(top / "b").st_mtime_ns == 10**18 + 7


def test_a_file_that_changes_while_it_is_copied_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("before")
    pour = copying._pour

    def meanwhile(reading: int, writing: int, found: os.stat_result) -> None:
        pour(reading, writing, found)
        with open(tmp_path / "a", "a") as stream:
            stream.write("after")

    monkeypatch.setattr(copying, "_pour", meanwhile)
    with pytest.raises(FileChanged, match=re.escape(str(tmp_path / "a"))):
        copying.copy_file(str(tmp_path / "a"), str(tmp_path / "b"))
    assert not (tmp_path / "b").exists()


def test_a_copy_never_replaces_and_never_follows_a_link_at_its_target(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    (tmp_path / "link").symlink_to("nowhere")
    for target in ("b", "link"):
        with pytest.raises(FileExistsError):
            copying.copy_file(str(tmp_path / "a"), str(tmp_path / target))
    assert (tmp_path / "b").read_text() == "old"
    assert not (tmp_path / "nowhere").exists()


def special(path: Path, kind: str) -> Path:
    """Something that is neither file nor directory."""
    if kind == "fifo":
        os.mkfifo(path)
    else:
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's path must be short
        try:
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(path.name)
        finally:
            os.chdir(here)
    return path


@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_a_special_file_is_refused_without_waiting_for_it(tmp_path: Path, kind: str) -> None:
    source = special(tmp_path / "s", kind)
    with pytest.raises(FileUnreadable):
        copying.copy_file(str(source), str(tmp_path / "copy"))
    (tmp_path / "d").mkdir()
    special(tmp_path / "d/s", kind)
    with pytest.raises(FileUnreadable, match="neither a file nor a directory"):
        copying.inspect(str(tmp_path / "d"))
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    "aim, wrong",
    [
        ("b/x", None),
        ("../outside", "out of"),
        ("/etc/passwd", "out of"),
        ("gone", "broken"),
        ("b", "to a directory"),
        ("l", "broken"),
    ],
)
def test_links_in_a_directory_are_taken_only_when_they_stay_inside_and_lead_to_a_file(
    tmp_path: Path, aim: str, wrong: str | None
) -> None:
    top = tree_t(tmp_path / "T")
    (tmp_path / "outside").write_text("secret")
    (top / "l").symlink_to(aim)
    if wrong is None:
        copying.copy_tree(str(top), str(tmp_path / "copy"))
        assert (tmp_path / "copy/l").read_text() == "BB" and not (tmp_path / "copy/l").is_symlink()
        assert digest.of_path(str(tmp_path / "copy")) == digest.of_path(str(top))
    else:
        with pytest.raises(FileUnreadable, match=wrong):
            copying.copy_tree(str(top), str(tmp_path / "copy"))
        assert not (tmp_path / "copy").exists()


def test_a_tree_is_removed_also_when_it_is_read_only_and_without_following_links(tmp_path: Path) -> None:
    top = tree_t(tmp_path / "T")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/f").write_text("kept")
    (top / "out").symlink_to("../kept")
    for directory in (top / "b/c", top / "b", top):
        directory.chmod(0o555)
    copying.remove_tree(str(top))
    assert not top.exists()
    (tmp_path / "link").symlink_to("kept")
    copying.remove_tree(str(tmp_path / "link"))
    copying.remove_tree(str(tmp_path / "never was"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"] and (tmp_path / "kept/f").exists()


def test_many_files_are_synced_with_one_call_and_few_with_one_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(tmp_path / str(n)) for n in range(40)]
    for path in paths:
        Path(path).write_text("x")
    calls: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append(descriptor), real(descriptor))[1])
    copying.sync(paths[:3] + paths[:3])
    assert len(calls) == 3
    copying.sync(paths)
    assert len(calls) == 3 or sys.platform == "darwin"
    with pytest.raises(OSError):
        copying.sync([str(tmp_path / "gone")])


def test_a_seam_is_passed_by_name_only_while_somebody_watches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[str] = []
    (tmp_path / "a").write_text("x")
    monkeypatch.setattr(seams, "watch", passed.append)
    copying.copy_file(str(tmp_path / "a"), str(tmp_path / "b"))
    assert passed == ["copy: begin", "copy: done"]


# -- secrets ------------------------------------------------------------------------------------------------------


def secret_file(path: Path, text: str, mode: int = 0o600) -> Path:
    """A file that holds a secret."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    path.chmod(mode)
    return path


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without secrets, and a keyring that has none."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    stub_keyring(tmp_path, monkeypatch, "return None")
    return tmp_path


def stub_keyring(top: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Put another module ``keyring`` before the real one, for child processes."""
    (top / "stub").mkdir(exist_ok=True)
    (top / "stub/keyring.py").write_text(f"def get_password(service, user):\n    {body}\n")
    monkeypatch.setenv("PYTHONPATH", str(top / "stub"))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o660, 0o601])
def test_a_secret_that_others_can_reach_is_not_read(alone: Path, mode: int) -> None:
    path = secret_file(alone / "s", "hunter2", mode)
    with pytest.raises(SecretUnsafe) as unsafe:
        credentials.resolve(f"file:{path}", "password")
    assert "chmod 600" in unsafe.value.text and "hunter2" not in unsafe.value.text
    path.chmod(0o400)
    assert credentials.resolve(f"file:{path}", "password") == ("hunter2", False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_secret_of_another_owner_is_not_read(alone: Path) -> None:
    path = secret_file(alone / "s", "hunter2")
    os.chown(path, 65534, -1)
    with pytest.raises(SecretUnsafe):
        credentials.read_file(str(path), "password")


def test_a_secret_is_looked_for_in_the_promised_order(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub_keyring(alone, monkeypatch, "return 'keyring ' + service + ' ' + user")
    assert credentials.find("smtp_password") == ("keyring libtool smtp_password", "the keyring")
    home = secret_file(alone / "home/.config/libtool/secrets/smtp_password", "home")
    assert credentials.find("smtp_password") == ("home", str(home))
    monkeypatch.setenv("LIBTOOL_SECRET_SMTP_PASSWORD", "variable")
    assert credentials.find("smtp_password") == ("variable", "$LIBTOOL_SECRET_SMTP_PASSWORD")
    monkeypatch.setenv("LIBTOOL_SECRET_SMTP_PASSWORD_FILE", str(secret_file(alone / "named", "named")))
    assert credentials.find("smtp_password") == ("named", "$LIBTOOL_SECRET_SMTP_PASSWORD_FILE")
    given_to_unit = secret_file(alone / "unit/smtp_password", "systemd", 0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(alone / "unit"))
    assert credentials.find("smtp_password") == ("systemd", str(given_to_unit))
    configured = secret_file(alone / "configured", "file")
    assert credentials.find("smtp_password", str(configured)) == ("file", str(configured))


def test_a_missing_secret_names_every_place_that_was_asked(alone: Path) -> None:
    with pytest.raises(SecretMissing) as missing:
        credentials.find("smtp_password", str(alone / "configured"))
    for place in (str(alone / "configured"), "$LIBTOOL_SECRET_SMTP_PASSWORD_FILE", "secrets/smtp_password", "keyring"):
        assert place in missing.value.text
    assert missing.value.exit_code == 4


def test_references_are_looked_up_and_anything_else_is_the_secret_itself(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_WORD", "from env")
    secret_file(alone / "unit/name", "from systemd")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(alone / "unit"))
    assert credentials.resolve("env:SOME_WORD", "p") == ("from env", False)
    assert credentials.resolve("systemd:name", "p") == ("from systemd", False)
    assert credentials.resolve("user:secret", "p") == ("user:secret", True)
    stub_keyring(alone, monkeypatch, "return service + '|' + user")
    assert credentials.resolve("keyring:svc/me@x", "p") == ("svc|me@x", False)
    for missing in ("env:NO_SUCH_WORD", "file:/no/such/file", "systemd:gone"):
        with pytest.raises(SecretMissing):
            credentials.resolve(missing, "p")


@pytest.mark.parametrize(
    "body", ["import time; time.sleep(60)", "raise RuntimeError('no desktop')", "import os; os._exit(3)"]
)
def test_a_keyring_that_hangs_or_breaks_counts_as_empty(
    alone: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    stub_keyring(alone, monkeypatch, body)
    monkeypatch.setattr(credentials, "KEYRING_SECONDS", 1.0)
    began = time.monotonic()
    with pytest.raises(SecretMissing):
        credentials.resolve("keyring:a/b", "p")
    assert time.monotonic() - began < 10


def test_a_secret_that_is_a_directory_or_no_text_is_a_clear_error_and_not_a_fault(alone: Path) -> None:
    (alone / "d").mkdir(mode=0o700)
    (alone / "binary").write_bytes(b"\xff\xfe\x00")
    (alone / "binary").chmod(0o600)
    for name in ("d", "binary"):
        with pytest.raises(LibtoolError):
            credentials.resolve(f"file:{alone / name}", "password")


def test_a_secret_is_written_for_its_owner_alone_and_never_over_another(alone: Path) -> None:
    path = alone / "key"
    before = os.umask(0)
    try:
        credentials.write_file(str(path), "first")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        credentials.write_file(str(path), "second")
    assert credentials.read_file(str(path), "key") == "first"
    assert sorted(p.name for p in alone.iterdir()) == ["key", "stub"]
