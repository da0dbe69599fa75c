"""Globus carries the bytes: each queue item is one task, whatever happens around its submission."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests import crash
from tests.crash import Counter, Snapshot
from tests.globus_pair import arrived, carried, items, make_globus_pair
from tests.globus_service import GlobusService
from tests.sites import tree


def many(count: int) -> dict[str, bytes]:
    """Small files in a few directories, of different sizes, some empty."""
    chance = random.Random(count)
    return {f"night {n % 7}/é{n}.fits": chance.randbytes(chance.choice([0, 1, 100, 5000])) for n in range(count)}


@pytest.mark.parametrize("limit", [1, 3, 100] if "LIBTOOL_TEST_ALL_SEAMS" in os.environ else [3, 100])
def test_a_thousand_files_and_twenty_directories_are_one_task_per_item(
    tmp_path: Path, globus: GlobusService, limit: int
) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus, max_async_inflight_transfers=limit)
    source = pair.ingest(many(1000), tmp_path / "source")
    expected = tree(source)
    for n in range(20):
        parts = {f"{m}/part": bytes([n, m]) * m for m in range(4)} | {"empty": b""}
        for name, content in parts.items():
            (tmp_path / f"as one/{n}" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / f"as one/{n}" / name).write_bytes(content)
            expected[f"cube {n}/{name}"] = content
        pair.a.run(0, "ingest", str(tmp_path / f"as one/{n}"), f"cube {n}")
    pair.a.write(commands={"send-clone": {"destination_librarian": "b", "send_batch_size": 51}})
    rounds = pair.until_quiet(most=30)
    assert pair.b.stored() == expected
    assert len(globus.tasks) == items(pair) == 20
    assert globus.most_active == min(limit, 20)
    assert rounds == -(-20 // limit)
    assert sorted(carried(globus)) == sorted(set(carried(globus)))
    assert pair.a.status()["remote_instances"] == 1020
    assert pair.b.staged() == []


def test_every_flag_is_sent_and_nobody_gets_mail(tmp_path: Path, globus: GlobusService) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus)
    pair.ingest({"f": b"x"}, tmp_path / "source")
    (tmp_path / "d/inner").mkdir(parents=True)
    (tmp_path / "d/inner/file").write_bytes(b"y")
    pair.a.run(0, "ingest", str(tmp_path / "d"), "cube")
    pair.send()
    (task,) = globus.tasks
    posted = dict(task.document)
    assert posted.pop("submission_id") and "sync_level" not in posted
    assert {name: value for name, value in posted.items() if isinstance(value, bool)} == {
        "encrypt_data": True,
        "verify_checksum": True,
        "preserve_timestamp": True,
        "skip_source_errors": True,
        "fail_on_quota_errors": True,
        "delete_destination_extra": False,
        "notify_on_succeeded": False,
        "notify_on_failed": False,
        "notify_on_inactive": False,
        "store_base_path_info": False,
    }
    assert posted["label"].startswith("libtool a 1 ")
    assert (posted["source_endpoint"], posted["destination_endpoint"]) == (pair.here.id, pair.there.id)
    recursive = {Path(item["source_path"]).name: item["recursive"] for item in posted["DATA"]}
    assert recursive == {"f": False, "cube": True}


def test_times_are_kept(tmp_path: Path, globus: GlobusService) -> None:
    import os

    pair = make_globus_pair(tmp_path / "pair", globus)
    pair.ingest({"f": b"x"}, tmp_path / "source")
    os.utime(pair.a.store / "f", (10**9, 10**9))
    pair.until_quiet()
    assert (pair.b.store / "f").stat().st_mtime == 10**9


def test_a_name_with_a_line_break_is_refused_alone(tmp_path: Path, globus: GlobusService) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus)
    pair.ingest({"good": b"1", "bad\nname": b"2", "also good": b"3"}, tmp_path / "source")
    ran = pair.a.run(3, "send-clone")
    assert "bad\\nname" in ran.err and "line break" in ran.err
    pair.until_quiet()
    assert pair.b.stored() == {"good": b"1", "also good": b"3"}
    assert pair.a.status()["destinations"][0]["parked"] == 1


def test_the_report_of_every_task_is_kept(tmp_path: Path, globus: GlobusService) -> None:
    import json

    pair = make_globus_pair(tmp_path / "pair", globus)
    pair.ingest({"f": b"x" * 1000, "g": b"y"}, tmp_path / "source")
    globus.fault("faults_then_ok", n=4, every=0)
    pair.send()
    pair.learn()
    with pair.a.open():
        from libtool.models.tables import SendQueue

        report = json.loads(SendQueue.get().report)
    (task,) = globus.tasks
    assert report["task"] == task.task_id and report["status"] == "SUCCEEDED"
    assert (report["bytes"], report["files"], report["faults"]) == (1001, 2, 4)
    assert report["requested"] and report["completed"] and report["rate"] > 0
    (row,) = json.loads(pair.a.run(0, "status", "--tasks", "-F", "json").out)
    assert (row["status"], row["carrier"], row["files"], row["task"], row["faults"]) == ("COMPLETED", "globus", 2, task.task_id, 4)


# -- exactly once ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        {"name": "drop_before", "method": "POST", "url": "/transfer"},
        {"name": "drop_after", "method": "POST", "url": "/transfer"},
        {"name": "truncate", "method": "POST", "url": "/transfer"},
        {"name": "http_503", "method": "POST", "url": "/transfer", "html": True},
        {"name": "http_500", "method": "POST", "url": "/transfer"},
        {"name": "drop_before", "url": "submission_id"},
        {"name": "truncate", "url": "submission_id"},
        {"name": "drop_before", "url": "/task/"},
        {"name": "drop_after", "url": "/task/"},
        {"name": "truncate", "url": "/task/"},
        {"name": "drop_before", "url": "successful_transfers"},
        {"name": "http_500", "url": "successful_transfers"},
        {"name": "drop_before", "url": "oauth2/token"},
        {"name": "drop_after", "url": "oauth2/token"},
        {"name": "http_503", "url": "oauth2/token", "html": True},
    ],
    ids=lambda fault: f"{fault['name']} {fault['url']}",
)
def test_a_connection_that_is_cut_makes_no_second_task(
    tmp_path: Path, globus: GlobusService, fault: dict[str, str]
) -> None:
    """Three times: the SDK tries twice within a run, so the same submission is made by two runs."""
    pair = make_globus_pair(tmp_path / "pair", globus)
    source = pair.ingest(many(12), tmp_path / "source")
    pair.a.write(commands={"send-clone": {"destination_librarian": "b", "send_batch_size": 4}})
    armed = globus.fault(**fault, count=3)
    pair.until_quiet()
    assert armed.used == 3
    assert arrived(pair, source)
    assert len(globus.tasks) == items(pair) == 3
    assert pair.a.status()["outgoing"]["FAILED"] == 0


def test_the_service_restarts_between_and_during_our_calls(tmp_path: Path, globus: GlobusService) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus)
    source = pair.ingest(many(5), tmp_path / "source")
    pair.send()
    globus.restart()
    pair.until_quiet()
    assert arrived(pair, source) and len(globus.tasks) == 1


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_one_task_per_item_wherever_the_process_ends(
    tmp_path: Path, globus: GlobusService, kind: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of consume-queue, and one of check-consumed-queue, is ended at each of its seams."""
    from tests.test_crash import copier

    urls: list[str] = []
    make = request.getfixturevalue("postgres") if kind == "postgresql" else None

    def databases(name: str) -> str | None:
        urls.append(make(f"globus_{name}")) if make else None
        return urls[-1] if make else None

    pair = make_globus_pair(tmp_path / "pair", globus, databases=databases)
    source = pair.ingest(many(4), tmp_path / "source")
    pair.a.write(commands={"send-clone": {"destination_librarian": "b", "send_batch_size": 2}})
    pair.a.run(0, "send-clone")
    snapshot = Snapshot(tmp_path / "pair", copier(urls) if urls else None)
    died, fatal = 0, 1
    while True:
        before, where = len(globus.tasks), []
        for command in ("consume-queue", "check-consumed-queue"):
            counter = Counter(fatal)
            counter.where = tmp_path / "where"
            counter.where.write_text("")
            crash.run(pair.a, (command,), counter)
            where.append(f"{command}: seam {fatal} {counter.where.read_text()}")
            died += bool(counter.where.read_text())
            pair.a.run(0, command) if command == "consume-queue" else None
            globus.work()
        pair.until_quiet()
        assert len(globus.tasks) - before == items(pair) == 2, where
        assert arrived(pair, source), where
        assert pair.a.status()["outgoing"]["FAILED"] == 0, where
        snapshot.restore()
        if all(line.endswith(" ") for line in where):
            break
        fatal += 1 if "LIBTOOL_TEST_ALL_SEAMS" in os.environ else 6
    with capsys.disabled():
        print(f"\nglobus: ended at {died} seams around submissions, every time one task per item")
    assert died > 8


def test_an_answer_lost_for_longer_than_an_id_lives_is_found_by_its_label(
    tmp_path: Path, globus: GlobusService, clock: object
) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus)
    source = pair.ingest(many(3), tmp_path / "source")
    pair.a.run(0, "send-clone")
    lost = globus.fault("drop_after", method="POST", url="/transfer", count=2)
    pair.a.run(3, "consume-queue")
    assert lost.used == 2 and len(globus.tasks) == 1
    globus.advance(25 * 3600)
    pair.until_quiet()
    assert arrived(pair, source) and len(globus.tasks) == 1


def test_an_id_that_was_never_used_and_is_old_is_replaced(tmp_path: Path, globus: GlobusService, clock: object) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus)
    source = pair.ingest(many(3), tmp_path / "source")
    pair.a.run(0, "send-clone")
    globus.fault("drop_before", method="POST", url="/transfer", count=2)
    pair.a.run(3, "consume-queue")
    assert globus.tasks == []
    globus.advance(25 * 3600)
    assert pair.a.run(3, "consume-queue").err == ""  # nobody needs to know
    for _ in range(3):
        globus.advance(600)
        pair.until_quiet()
    assert arrived(pair, source) and len(globus.tasks) == 1


def test_a_restored_database_finds_the_task_that_is_under_way(tmp_path: Path, globus: GlobusService) -> None:
    """From a backup the item is queued again, with the same staging places, while its task is still at work."""
    pair = make_globus_pair(tmp_path / "pair", globus)
    source = pair.ingest(many(3), tmp_path / "source")
    pair.a.run(0, "send-clone")
    snapshot = Snapshot(tmp_path / "pair")
    pair.a.run(0, "consume-queue")
    snapshot.restore()
    pair.a.run(0, "consume-queue")
    assert len(globus.tasks) == 1
    pair.until_quiet()
    assert arrived(pair, source) and len(globus.tasks) == 1


def test_a_batch_that_is_too_large_is_halved(tmp_path: Path, globus: GlobusService) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus)
    source = pair.ingest(many(9), tmp_path / "source")
    globus.fault("too_large", count=2)
    pair.until_quiet()
    assert arrived(pair, source)
    assert len(globus.tasks) == items(pair) == 3
    assert sorted(len(task.items) for task in globus.tasks) == [2, 2, 5]


# -- what a destination may not do ----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/etc/../etc/passwd", "relative/f", "/somewhere/else", "/a/f\nb"])
def test_a_destination_names_a_place_that_is_none(tmp_path: Path, globus: GlobusService, target: str) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus)
    pair.ingest({"f": b"1", "g": b"2"}, tmp_path / "source")
    pair.a.run(0, "send-clone")
    with pair.a.open():
        from libtool.models.tables import File, OutgoingTransfer

        row = OutgoingTransfer.select().join(File).where(File.name == "f").get()
        OutgoingTransfer.update(staging_location=target).where(OutgoingTransfer.id == row.id).execute()
    pair.a.run(0, "consume-queue")
    assert [Path(item["source_path"]).name for item in globus.tasks[0].items] == ["g"]
    ran = pair.learn(3)
    assert "named no place for it that may be written" in ran.err


def test_a_destination_that_names_our_own_collection_may_write_below_the_roots_only(
    tmp_path: Path, globus: GlobusService
) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus)
    pair.ingest({"f": b"1"}, tmp_path / "source")
    options = pair.b.settings["add_stores"][0]["asynchronous_transfer_manager_data"]["globus"]
    options["destination_endpoint"] = pair.here.id
    pair.b.write()
    ran = pair.a.run(4, "send-clone")
    assert "local_transfer_roots" in ran.err and globus.tasks == []


def test_calls_grow_with_batches_and_not_with_files(tmp_path: Path, globus: GlobusService) -> None:
    globus.page = 10**6
    counts = {}
    for count in (3, 300):
        pair = make_globus_pair(tmp_path / f"pair {count}", globus)
        pair.ingest(many(count), tmp_path / f"source {count}")
        before = len(globus.requests)
        pair.send()
        pair.learn()
        counts[count] = [path.partition("?")[0].rpartition("/")[2] for _, path, _ in globus.requests[before:]]
    assert len(counts[3]) == len(counts[300]) == 6
    assert counts[3][:3] == ["token", "submission_id", "transfer"]
