"""One never holds up the others: bad files, refusing, dead, slow, disabled and full destinations, broken nodes."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from libtool.models import base
from libtool.models.tables import OutgoingTransfer, Retry
from libtool.node import Node
from libtool.peers import client
from tests.sites import Pair, Site, introduce, make_pair, make_site, tree


def put(top: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return top


def test_of_128_files_20_are_refused_by_name_and_108_arrive_in_the_same_round(tmp_path: Path) -> None:
    # b's store lies deep, so that names fit at a which do not fit at b.
    deep = tmp_path / "/".join("d" * 200 for _ in range(4))
    pair = make_pair(tmp_path)
    data = {"staging_path": str(deep / "staging"), "store_path": str(deep / "store")}
    pair.b.settings["add_stores"][0]["store_data"] = data
    pair.b.write()
    pair.b.run(0, "setup", "--accept-store", "main")
    pair.a.write(local_transfer_roots=[str(deep)])
    source = tmp_path / "source"
    good = {f"good/{n}": b"%d" % n for n in range(108)}
    conflict = {f"conflict/{n}": b"a%d" % n for n in range(8)}
    nested = {f"nested/{n}/inside": b"a" for n in range(4)}
    long = {"/".join([f"{n}" * 200] * 17): b"long" for n in range(3)}
    put(source, good | conflict | nested)
    busy = {f"busy/{n}": b"busy%d" % n for n in range(3)}
    put(source, busy)
    for name, content in long.items():
        put(tmp_path / "long", {"file": content})
        pair.a.run(0, "ingest", str(tmp_path / "long/file"), name)
    pair.a.run(0, "ingest", "--recursive", str(source))
    huge = tmp_path / "huge"
    with open(huge, "wb") as stream:
        stream.truncate(3 * 2**30)
    for n in range(2):
        pair.a.run(0, "ingest", str(huge), f"huge/{n}")
    # What b has already, or what somebody else is just bringing there.
    put(tmp_path / "at b", {f"conflict/{n}": b"b" for n in range(8)} | {f"nested/{n}": b"file" for n in range(4)})
    pair.b.run(0, "ingest", "--recursive", str(tmp_path / "at b"))
    other = make_site("c", tmp_path / "c", commands={"send-clone": {"destination_librarian": "b"}})
    introduce(other, pair.b)
    put(tmp_path / "at c", busy)
    other.run(0, "ingest", "--recursive", str(tmp_path / "at c"))
    other.run(4, "send-clone")  # staged at b; c has no carrier to b, so it goes no further
    _promise_nearly_everything(pair.b)

    sent = pair.a.run(3, "-v", "send-clone")
    for who, command in (("a", "consume-queue"), ("a", "check-consumed-queue"), ("b", "recv-clone")):
        getattr(pair, who).run(0, command)
    stored = tree(deep / "store")
    assert {name: stored.get(name) for name in good} == good
    assert pair.a.status()["remote_instances"] == 108
    waits = json.loads(pair.a.run(0, "status", "--waiting", "-F", "json").out)
    reasons = {row["name"]: row["reason"] for row in waits}
    assert set(reasons) == set(conflict) | set(nested) | set(long) | set(busy) | {"huge/0", "huge/1"}
    assert len(reasons) == 20
    said = sent.out + sent.err
    for names, words in (
        (conflict, "other content"),
        (nested, "in the way"),
        (long, "leave room for"),
        (busy, "somebody else is just bringing"),
        ({"huge/0": b"", "huge/1": b""}, "no store has room"),
    ):
        for name in names:
            assert words in reasons[name], (name, reasons[name])
            assert any(name in line and words in line for line in said.splitlines()), (name, said)


def _promise_nearly_everything(site: Site) -> None:
    """Another librarian is promised all room but two gigabytes."""
    from libtool.archive import places, receiving
    from libtool.archive.accounts import Caller
    from libtool.peers.messages import BatchStage, UploadItem
    from libtool.states import AuthLevel

    with site.open() as node:
        row, store = places.ingestible(node)[0]
        size = places.room(row, store) - 2 * 2**30
        item = UploadItem(size, "xxh3:::00", "promised", "promised", "d", 1)
        answer = receiving.stage(node, Caller("d", AuthLevel.READAPPEND), BatchStage([item], "d", size), stock=False)
        assert len(answer.uploads) == 1


def fan(tmp_path: Path) -> tuple[Site, Site, Site, Path]:
    """a, which sends to b and c, with two files."""
    pair = make_pair(tmp_path)
    c = make_site("c", tmp_path / "c")
    introduce(pair.a, c)
    pair.a.write(local_transfer_roots=[str(tmp_path)], commands={"send-clone": {"destination_librarian": ["b", "c"]}})
    source = put(tmp_path / "source", {"one": b"1", "two": b"2"})
    pair.a.run(0, "ingest", "--recursive", str(source))
    return pair.a, pair.b, c, source


@pytest.mark.parametrize("trouble", ["dead", "slow", "disabled", "unmounted", "no account", "garbage"])
def test_a_destination_in_trouble_does_not_delay_another(
    tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c, source = fan(tmp_path)
    expected = 3
    if trouble == "dead":
        shutil.move(b.config, b.config + ".away")
    elif trouble == "slow":
        monkeypatch.setattr(client, "ANSWER_SECONDS", 1.0)
        os.mkfifo(b.config + ".fifo")
        os.replace(b.config + ".fifo", b.config)  # its callback waits for a configuration that nobody writes
    elif trouble == "disabled":
        a.run(0, "set-librarian-transfer", "--name", "b", "--disabled")
        expected = 0
    elif trouble == "unmounted":
        (b.store / ".libtool-store").unlink()
    elif trouble == "no account":
        b.run(0, "delete-user", "--username", "a")
        expected = 4
    else:
        Path(b.config).write_text("name: b\nno_such_key: 1\n")
    assert a.run(None, "send-clone").code == expected
    a.run(0, "consume-queue")
    a.run(None, "check-consumed-queue")
    c.run(0, "recv-clone")
    assert c.stored() == tree(source)
    assert a.status()["outgoing"]["COMPLETED"] == 2
    if trouble != "disabled":
        with a.open():
            assert OutgoingTransfer.select().where(OutgoingTransfer.status == 0).count() == 2  # nothing was given up


def test_what_flies_to_a_disabled_destination_is_still_settled(pair: Pair, tmp_path: Path) -> None:
    source = put(tmp_path / "source", {"one": b"1"})
    pair.a.run(0, "ingest", "--recursive", str(source))
    pair.a.run(0, "send-clone")
    pair.a.run(0, "consume-queue")
    pair.a.run(0, "change-transfer-status", "--librarian", "b", "--disable")
    pair.a.run(0, "check-consumed-queue")
    pair.b.run(0, "recv-clone")
    assert pair.b.stored() == tree(source) and pair.quiet()


def test_what_is_queued_for_a_disabled_destination_waits(pair: Pair, tmp_path: Path) -> None:
    pair.a.run(0, "ingest", "--recursive", str(put(tmp_path / "source", {"one": b"1"})))
    pair.a.run(0, "send-clone")
    pair.a.run(0, "set-librarian-transfer", "--name", "b", "--disabled")
    pair.a.run(0, "consume-queue")
    assert pair.a.status()["send_queue"] == {"queued": 1, "in_flight": 0, "completed": 0, "failed": 0}
    pair.a.run(0, "set-librarian-transfer", "--name", "b", "--enabled")
    pair.round()
    assert pair.a.status()["remote_instances"] == 1


def test_files_that_went_bad_at_the_source_fail_alone_and_by_name(pair: Pair, tmp_path: Path) -> None:
    files = {"good": b"1", "gone": b"2", "longer": b"3", "other": b"4444", "folder": b"5"}
    pair.a.run(0, "ingest", "--recursive", str(put(tmp_path / "source", files)))
    (pair.a.store / "gone").unlink()
    (pair.a.store / "longer").write_bytes(b"3+")
    (pair.a.store / "other").write_bytes(b"zzzz")
    (pair.a.store / "folder").unlink()
    (pair.a.store / "folder").mkdir()
    pair.a.run(0, "send-clone")
    shipped = pair.a.run(3, "consume-queue").err
    assert "'gone' was not sent: it is missing" in shipped
    assert "'longer' was not sent: it changed its content: 2 bytes instead of 1" in shipped
    assert "'folder' was not sent: it changed its kind" in shipped
    pair.a.run(0, "check-consumed-queue")
    received = pair.b.run(3, "recv-clone").err
    assert "'other' from a was not stored: its checksum is" in received
    assert pair.b.stored() == {"good": b"1"}
    with pair.a.open():
        reasons = {row.file.name: row.reason for row in Retry.select()}
    assert set(reasons) == {"gone", "longer", "other", "folder"}
    assert "its checksum is" in reasons["other"]  # b's words arrived at a
    shutil.copyfile(tmp_path / "source/gone", pair.a.store / "gone")
    pair.round(None)
    pair.b.run(None, "recv-clone")
    assert pair.b.stored() == {"good": b"1", "gone": b"2"}


def test_attempts_come_at_once_twice_and_then_more_and_more_slowly(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [datetime(2026, 11, 21, tzinfo=timezone.utc)]
    monkeypatch.setattr(Node, "now", lambda self: clock[0])
    pair.a.run(0, "ingest", "--recursive", str(put(tmp_path / "source", {"bad": b"1"})))
    (pair.a.store / "bad").unlink()
    attempts = []
    for minute in [*range(0, 180, 5), *range(180, 4 * 24 * 60, 60)]:
        clock[0] = datetime(2026, 11, 21, tzinfo=timezone.utc) + timedelta(minutes=minute)
        pair.a.run(None, "send-clone")
        if "was not sent" in pair.a.run(None, "consume-queue").err:
            attempts.append(minute)
    gaps = [later - earlier for earlier, later in zip(attempts, attempts[1:])]
    assert gaps[:5] == [5, 5, 10, 20, 40]
    assert max(gaps) <= 25 * 60 and len(attempts) > 8


def test_an_hour_without_the_peer_is_told_once_and_its_end_once(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = datetime(2026, 11, 21, tzinfo=timezone.utc)
    clock = [start]
    monkeypatch.setattr(Node, "now", lambda self: clock[0])
    pair.a.run(0, "ingest", "--recursive", str(put(tmp_path / "source", {"one": b"1"})))
    shutil.move(pair.b.config, pair.b.config + ".away")
    said = []
    for minute in range(60):
        clock[0] = start + timedelta(minutes=minute)
        said.append(pair.a.run(3, "send-clone").err)
    assert [bool(text) for text in said] == [minute == 10 for minute in range(60)]
    assert "librarian b" in said[10] and "did not answer" in said[10]
    shutil.move(pair.b.config + ".away", pair.b.config)
    clock[0] = start + timedelta(minutes=60)
    assert "over after" in pair.a.run(0, "send-clone").err
    assert pair.a.run(0, "send-clone").err == ""


def test_parked_files_wait_for_retry(pair: Pair, tmp_path: Path) -> None:
    pair.a.run(0, "ingest", "--recursive", str(put(tmp_path / "source", {"one": b"a", "two": b"2"})))
    pair.b.run(0, "ingest", "--recursive", str(put(tmp_path / "at b", {"one": b"b"})))
    refused = pair.a.run(3, "send-clone").err
    assert "'one' was refused by b" in refused and '"libtool retry --librarian b one"' in refused
    for ran in pair.round():
        assert ran.err == ""  # told once
    assert pair.a.status()["destinations"][0]["parked"] == 1
    assert pair.a.run(3, "status", "--check").code == 3
    pair.a.run(0, "retry", "--librarian", "b", "one")
    assert "'one' was refused by b" in pair.a.run(3, "send-clone").err
    pair.a.run(1, "retry", "--librarian", "b", "two")


def test_what_waits_for_a_place_is_listed_with_what_is_in_its_way(pair: Pair, tmp_path: Path) -> None:
    """A whole request was refused: nothing is known of any one file."""
    (tmp_path / "in").mkdir()
    for n in range(3):
        (tmp_path / f"in/{n}").write_text(str(n))
    pair.a.run(0, "ingest", "--recursive", str(tmp_path / "in"))
    pair.b.run(0, "set-store-state", "--store", "main", "--disabled")
    pair.a.run(3, "send-clone")
    pending = pair.a.status()["destinations"][0]["pending"]
    rows = json.loads(pair.a.run(0, "status", "--waiting", "-F", "json").out)
    assert pending == 3 and {row["name"] for row in rows} == {"0", "1", "2"}
    (trouble,) = pair.a.status()["troubles"]
    assert all((row["reason"], row["destination"]) == (trouble["text"], "b") for row in rows)
    pair.a.run(0, "set-librarian-transfer", "--name", "b", "--disabled")
    rows = json.loads(pair.a.run(0, "status", "--waiting", "-F", "json").out)
    assert {row["reason"] for row in rows} == {"transfers to it are switched off"}


def test_a_name_that_is_mistyped_is_no_run(pair: Pair) -> None:
    """It would stay in the last runs of every task."""
    for words in (
        "check-integrity --store nope", "create-local-clone --clone-from main --clone-to nope", "reconcile --librarian nope",
        "incoming-transfer-hypervisor --librarian nope", "outgoing-transfer-hypervisor --librarian nope",
    ):  # fmt: skip
        assert "nope" in pair.a.run(1, *words.split()).err
    assert pair.a.status()["runs"] == []


def test_a_hold_that_finds_nothing_is_said_and_one_that_does_is_shown(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("light")
    pair.a.run(0, "ingest", str(tmp_path / "f"))

    def policy() -> str:
        (row,) = json.loads(pair.a.run(0, "search-files", "-F", "json").out)
        found: str = row["instances"][0]["deletion_policy"]
        return found

    hold = ("set-deletion-policy", "--policy", "disallowed")
    for words in (("--prefix", "zzz"), ("--prefix", "zzz", "--dry-run"), ("zzz",)):
        assert "zzz" in pair.a.run(3, *hold, *words).err
    assert policy() == "ALLOWED"
    assert pair.a.run(0, *hold, "--prefix", "f", "--dry-run").out == "1 copies would be disallowed\n"
    assert policy() == "ALLOWED"
    pair.a.run(0, *hold, "--prefix", "")
    assert policy() == "DISALLOWED"


def test_names_that_cannot_be_are_refused_before_anything_moves(pair: Pair, tmp_path: Path) -> None:
    path = put(tmp_path, {"file": b"1"}) / "file"
    pair.a.run(0, "ingest", str(path), "known")
    other = put(tmp_path, {"other": b"2"}) / "other"
    for name, words in (
        ("/absolute", "absolute"),
        ("../up", "'..'"),
        ("a/../../b", "'..'"),
        ("a//b", "empty"),
        ("", "empty"),
        ("x" * 256, "longer than 255 bytes"),
        ("y/" * 2100 + "z", "bytes"),
        (".libtool-x", "libtool keeps"),
        ("known", "already holds"),
        ("known/below", "directory"),
        (os.fsdecode(b"\xff\xfe"), "UTF-8"),
    ):
        ran = pair.a.run(3, "ingest", str(other), name)
        assert words in ran.err and "Traceback" not in ran.err, (name, ran)
    assert pair.a.stored() == {"known": b"1"} and pair.a.staged() == []
    assert pair.a.run(0, "ingest", str(path), "known").err == ""  # the same content again is fine
    bad = tmp_path / "bytes"
    bad.mkdir()
    (bad / "fine").write_bytes(b"1")
    Path(os.fsdecode(os.fsencode(bad) + b"/\xff")).write_bytes(b"1")
    os.mkfifo(bad / "pipe")
    (bad / "broken").symlink_to("nowhere")
    ran = pair.a.run(3, "ingest", "--recursive", str(bad), "tree")
    assert all(words in ran.err for words in ("UTF-8", "regular file", "broken link"))
    assert pair.a.stored() == {"known": b"1", "tree/fine": b"1"}


@pytest.mark.skipif("LIBTOOL_TEST_ALL_SEAMS" not in os.environ, reason="it takes long: LIBTOOL_TEST_ALL_SEAMS=1 does it")
def test_a_file_over_4_gib_and_a_directory_of_thousands(pair: Pair, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with open(big, "wb") as stream:
        stream.write(b"head")
        stream.seek(4 * 2**30 + 5)
        stream.write(b"tail")
    pair.a.run(0, "ingest", "--move", str(big), "big")
    many = put(tmp_path / "many", {f"{n}": b"%d" % n for n in range(3000)})
    pair.a.run(0, "ingest", str(many), "many")
    pair.round()
    copy = pair.b.store / "big"
    assert copy.stat().st_size == 4 * 2**30 + 9 and copy.stat().st_blocks * 512 < 2**20
    assert tree(pair.b.store / "many") == tree(many)


def test_a_locked_database_is_said_and_harms_nothing(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.a.run(0, "ingest", "--recursive", str(put(tmp_path / "source", {"one": b"1"})))
    monkeypatch.setattr(base, "BUSY_SECONDS", 0.1)
    holder = sqlite3.connect(pair.a.directory / "catalogue.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    ran = pair.a.run(1, "send-clone")
    assert "locked" in ran.err and "Traceback" not in ran.err and len(ran.err.splitlines()) == 1
    holder.execute("ROLLBACK")
    holder.close()
    pair.round()
    assert pair.b.stored() == {"one": b"1"}


def test_a_broken_node_answers_clearly(tmp_path: Path) -> None:
    site = Site("a", tmp_path / "a", {"name": "a"})
    site.write()
    for code, words in ((78, "libtool setup"),):
        for command in ("status", "send-clone", "recv-clone", "ingest"):
            extra = [str(tmp_path)] if command == "ingest" else []
            ran = site.run(code, command, *extra)
            assert words in ran.err and not (site.directory / "catalogue.db").exists()
    site.write(nmae="b")
    assert "did you mean 'name'" in site.run(78, "status").err


def test_a_read_only_or_missing_store_waits(pair: Pair, tmp_path: Path) -> None:
    pair.a.run(0, "ingest", "--recursive", str(put(tmp_path / "source", {"one": b"1"})))
    for command in ("send-clone", "consume-queue", "check-consumed-queue"):
        pair.a.run(0, command)
    mark = pair.b.store / ".libtool-store"
    mark.unlink()
    ran = pair.b.run(3, "recv-clone")
    assert ran.err == "" and pair.b.status()["incoming"]["STAGED"] == 1
    assert pair.b.run(1, "ingest", str(tmp_path / "source/one"), "x").err.count("not mounted") == 1
    mark.write_text("main\n")
    pair.b.run(0, "recv-clone")
    assert pair.b.stored() == {"one": b"1"}


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/proc/mounts"), reason="mounting a small disk needs root")
def test_a_full_disk_at_the_destination_loses_nothing(tmp_path: Path) -> None:
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        pair = make_pair(tmp_path)
        pair.b.settings["add_stores"][0]["store_data"] = {
            "staging_path": str(disk / "staging"),
            "store_path": str(disk / "store"),
        }
        pair.b.write()
        pair.b.run(0, "setup", "--accept-store", "main")
        pair.a.write(local_transfer_roots=[str(disk)])
        files = {f"{n}": bytes([n]) * 400_000 for n in range(6)}
        pair.a.run(0, "ingest", "--recursive", str(put(tmp_path / "source", files)))
        pair.a.run(0, "send-clone")
        (disk / "filler").write_bytes(b"x" * 2_000_000)  # somebody else fills the disk meanwhile
        pair.a.run(None, "consume-queue")
        pair.a.run(None, "check-consumed-queue")
        pair.b.run(None, "recv-clone")
        assert len(tree(disk / "store")) < 6
        (disk / "filler").unlink()
        clock = datetime.now(timezone.utc) + timedelta(days=2)
        original, Node.now = Node.now, lambda self: clock  # type: ignore[method-assign]
        try:
            pair.until_quiet()
        finally:
            Node.now = original  # type: ignore[method-assign]
        assert tree(disk / "store") == files
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_web_page_in_front_of_a_source_settles_nothing(tmp_path: Path) -> None:
    """A server that answers 404 with HTML for a while must not make b forget what it owes to a."""
    from tests.cgi_server import serving

    configs: dict[str, str] = {}
    with serving(configs) as (port, _):
        configs |= {name: str(tmp_path / name / "config.yaml") for name in ("a", "b")}
        pair = make_pair(tmp_path, None, lambda site: (f"http://127.0.0.1/{site.name}", port))
        pair.a.run(0, "ingest", "--recursive", str(put(tmp_path / "source", {"one": b"1", "two": b"2"})))
        for command in ("send-clone", "consume-queue", "check-consumed-queue"):
            pair.a.run(0, command)
        pair.b.run(0, "get-librarian-list", "--ping")  # b knows what a can do, so it reports at once
        away = configs.pop("a")  # the server answers with its own page now
        for _ in range(3):
            assert pair.b.run(3, "recv-clone").code == 3
        assert not pair.quiet()
        configs["a"] = away
        pair.b.run(0, "recv-clone")
        assert pair.a.status()["remote_instances"] == 2 and pair.quiet()


def test_a_broken_account_of_one_librarian_does_not_stop_the_others(tmp_path: Path) -> None:
    a, _, c, source = fan(tmp_path)
    with a.open():
        from libtool.models.tables import Librarian

        Librarian.update(authenticator="not encrypted with this key").where(Librarian.name == "b").execute()
    assert "encryption key" in a.run(3, "send-clone").err
    a.run(0, "consume-queue")
    a.run(None, "check-consumed-queue")
    c.run(0, "recv-clone")
    assert c.stored() == tree(source)


def test_an_unmounted_staging_area_gets_nothing_written_under_it(pair: Pair, tmp_path: Path) -> None:
    pair.a.run(0, "ingest", "--recursive", str(put(tmp_path / "source", {"deep/one": b"1"})))
    pair.a.run(0, "send-clone")
    shutil.move(pair.b.staging, tmp_path / "mounted elsewhere")
    pair.b.staging.mkdir()  # the empty mount point
    pair.a.run(0, "consume-queue")
    assert pair.a.run(3, "check-consumed-queue").code == 3
    assert list(pair.b.staging.iterdir()) == []


def test_what_was_in_trouble_and_arrived_is_in_trouble_no_more(pair: Pair, tmp_path: Path) -> None:
    pair.a.run(0, "ingest", "--recursive", str(put(tmp_path / "source", {"one": b"1"})))
    pair.a.run(0, "send-clone")
    mark = pair.a.store / ".libtool-store"
    mark.rename(tmp_path / "mark")
    pair.a.run(3, "consume-queue")
    assert pair.a.status()["troubles"]
    (tmp_path / "mark").rename(mark)
    pair.round()
    assert pair.a.status()["troubles"] == [] and pair.b.stored() == {"one": b"1"}
