"""Globus at its oddest: answers of every shape, logins that go in the middle, items that spoil a run, destinations that
reach for what is not theirs. Nothing is sent twice, nothing holds up the others, and each trouble is told once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from libtool.movers.globus.mover import GlobusMover, Setup, label_of
from tests.globus_pair import GlobusPair, carried, items, make_globus_pair, write_secret
from tests.globus_service import GlobusService
from tests.sites import Site, introduce, make_site
from tests.test_globus_login import log_in, tokens
from tests.test_globus_trouble import FILES, finish, said, ticks

Clock = Callable[[float], None]
#: A number of ids that no collection has.
NOBODY = "00000000-0000-4000-8000-0000000000"


@pytest.fixture
def pair(tmp_path: Path, globus: GlobusService, clock: Clock) -> GlobusPair:
    """Two librarians and six files at a, in items of two; time stands still but for the test."""
    made = make_globus_pair(tmp_path / "pair", globus)
    made.a.write(commands={"send-clone": {"destination_librarian": "b", "send_batch_size": 2}})
    made.ingest(FILES, tmp_path / "source")
    return made


def third(pair: GlobusPair, top: Path) -> Site:
    """A second destination."""
    c = make_site("c", top / "c")
    carrier = {"globus": {"destination_endpoint": pair.globus.collection("at c", root="/").id}}
    c.settings["add_stores"][0]["asynchronous_transfer_manager_data"] = carrier
    c.write()
    introduce(pair.a, c)
    pair.a.write(commands={"send-clone": {"destination_librarian": ["b", "c"], "send_batch_size": 2}})
    return c


def files_once(pair: GlobusPair) -> bool:
    """Whether every file was carried just once."""
    return len(carried(pair.globus)) == len(set(carried(pair.globus))) == len(FILES)


# -- exactly once --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["consent_required", "refresh_revoked", "max_pending", "identical_paths", "http_500"])
def test_an_answer_that_is_lost_and_then_something_else_makes_no_second_task(pair: GlobusPair, trouble: str) -> None:
    """The first try was taken, and the repeat within the same run is refused for another reason."""
    pair.a.write(max_async_inflight_transfers=1)
    pair.a.run(0, "send-clone")
    pair.globus.fault("drop_after", method="POST", url="/transfer$")
    pair.globus.fault(trouble, method="POST", url="/transfer$" if trouble != "refresh_revoked" else "token", after=trouble != "refresh_revoked")
    if trouble == "refresh_revoked":
        pair.globus.fault("token_expired", method="POST", url="/transfer$", after=1)
    pair.a.run(None, "consume-queue")
    assert len(pair.globus.tasks) == 1
    finish(pair)
    assert len(pair.globus.tasks) == items(pair) == 3 and files_once(pair)


def test_a_repeat_that_is_refused_finds_the_task_that_has_ended(pair: GlobusPair) -> None:
    pair.a.run(0, "send-clone")
    pair.globus.fault("drop_after", method="POST", url="/transfer$", count=2)
    pair.a.write(max_async_inflight_transfers=1)
    pair.a.run(3, "consume-queue")
    pair.globus.work()
    assert pair.globus.tasks[0].status == "SUCCEEDED"
    pair.globus.fault("identical_paths")
    pair.a.run(0, "consume-queue")
    finish(pair)
    assert len(pair.globus.tasks) == 3 and files_once(pair)


def test_a_submission_in_doubt_is_not_repeated_as_somebody_else(pair: GlobusPair) -> None:
    pair.a.write(max_async_inflight_transfers=1)
    pair.a.run(0, "send-clone")
    pair.globus.fault("drop_after", method="POST", url="/transfer$", count=2)
    pair.a.run(3, "consume-queue")
    before, secret = pair.a.settings["globus_client_id"], (pair.a.directory / "globus.secret").read_text().strip()
    other = pair.globus.service_account()
    write_secret(pair.a, other.secret)
    pair.a.write(globus_client_id=other.id)
    pair.globus.advance(26 * 3600)
    lines = said(ticks(pair, 5))
    assert [line for line in lines if "Be the former again" in line and before in line] == lines and len(lines) == 1
    assert len(pair.globus.tasks) == 1
    write_secret(pair.a, secret)
    pair.a.write(globus_client_id=before)
    finish(pair)
    assert len(pair.globus.tasks) == 3


def test_a_task_that_nobody_waits_for_any_more_is_cancelled(pair: GlobusPair) -> None:
    """The destination gave the transfers up while it was not known whether the submission had been taken."""
    pair.a.write(commands={"send-clone": {"destination_librarian": "b"}})
    hang = pair.globus.fault("task_hang")
    pair.a.run(0, "send-clone")
    pair.globus.fault("drop_after", method="POST", url="/transfer$", count=2)
    pair.a.run(3, "consume-queue")
    with pair.a.open() as node:
        from libtool.archive import attempts
        from libtool.models.tables import OutgoingTransfer

        attempts.fail({row.id: "given up there" for row in OutgoingTransfer.select()}, node.now(), tell=False)
    pair.a.run(0, "consume-queue")
    assert len(pair.globus.tasks) == 1
    pair.globus.work()
    pair.a.run(0, "check-consumed-queue")
    assert pair.globus.tasks[0].fatal_error == {"code": "CANCELED", "description": "canceled"}
    pair.a.run(0, "check-consumed-queue")
    hang.end()
    finish(pair)


@pytest.mark.parametrize("name", ["a" * 128, "site-a.example", "é"])
def test_labels_keep_the_number_of_the_item(name: str) -> None:
    one, two = label_of(f"libtool {name} 1"), label_of(f"libtool {name} 12")
    assert one.endswith(" 1") and two.endswith(" 12") and one != two and len(two) + 9 <= 128


# -- one never holds up the others -----------------------------------------------------------------------------------------


def test_a_task_that_cannot_be_asked_about_holds_up_no_other(pair: GlobusPair, tmp_path: Path) -> None:
    c = third(pair, tmp_path)
    pair.send()
    sick = pair.globus.tasks[0].task_id
    pair.globus.fault("http_500", url=f"/task/{sick}", count=None)
    lines = said(ticks(pair, 30))
    (line,) = lines
    assert "gave no clear answer" in line and line.startswith("librarian ")
    c.run(0, "recv-clone")
    pair.b.run(0, "recv-clone")
    assert len(c.stored()) + len(pair.b.stored()) == 2 * len(FILES) - 2


@pytest.mark.parametrize("status", [500, 403])
def test_an_item_that_is_not_taken_holds_up_no_other(pair: GlobusPair, status: int) -> None:
    pair.a.run(0, "send-clone")
    body = json.dumps({"code": "PermissionDenied" if status == 403 else "InternalError", "message": "no"}).encode()
    pair.globus.fault("say", status=status, body=body, method="POST", path="*/bad", count=None)
    lines = said(ticks(pair, 15))
    assert len(lines) == 1 and lines[0].startswith("librarian b: ")
    pair.b.run(0, "recv-clone")
    assert len(pair.b.stored()) == len(FILES) - 2


def test_a_file_for_which_the_service_refuses_a_whole_batch_is_found(pair: GlobusPair) -> None:
    pair.a.write(commands={"send-clone": {"destination_librarian": "b"}})
    body = json.dumps({"code": "ClientError.BadRequest", "message": "bad path"}).encode()
    pair.globus.fault("say", status=400, body=body, method="POST", path="*/bad", count=None)
    lines = said(ticks(pair, 40))
    pair.b.run(0, "recv-clone")
    assert pair.b.stored() == {name: content for name, content in FILES.items() if name != "bad"}
    assert any(line.startswith("librarian b: 'bad' was given up after 4 submissions") for line in lines)
    assert len(lines) <= 4


def test_a_destination_whose_tasks_stand_still_does_not_take_all_slots(pair: GlobusPair, tmp_path: Path) -> None:
    c = third(pair, tmp_path)
    pair.a.write(
        commands={"send-clone": {"destination_librarian": ["b", "c"], "send_batch_size": 1}}, max_async_inflight_transfers=4
    )
    pair.there.paused = "for ever"
    for _ in range(5):
        ticks(pair, 3)
        c.run(0, "recv-clone")
    assert c.stored() == FILES and pair.globus.most_active == 4


def test_a_wrong_collection_at_the_destination_heals_when_it_is_corrected(pair: GlobusPair) -> None:
    right = pair.there.id
    carrier = pair.b.settings["add_stores"][0]["asynchronous_transfer_manager_data"]["globus"]
    carrier["destination_endpoint"] = NOBODY + "0b"
    pair.b.write()
    lines = said(ticks(pair, 5))
    (line,) = lines
    assert f"its destination_endpoint {NOBODY}0b is no collection at Globus; its operator must correct it" in line
    carrier["destination_endpoint"] = right
    pair.b.write()
    finish(pair)
    assert len(pair.globus.tasks) == 3 and files_once(pair)


def test_a_collection_that_moves_is_taken_up_within_a_day(pair: GlobusPair) -> None:
    """What was staged for the old one, to which we have no access any more, is staged anew."""
    pair.globus.permit("somebody-else", pair.there, "/", "rw")
    ticks(pair, 2)
    new = pair.globus.collection("the new one at b", root="/")
    pair.b.settings["add_stores"][0]["asynchronous_transfer_manager_data"]["globus"]["destination_endpoint"] = new.id
    pair.b.write()
    waiting = json.loads(pair.a.run(0, "status", "--waiting", "-F", "json").out)
    assert {row["name"] for row in waiting} == set(FILES)
    assert all("permission denied" in row["reason"] for row in waiting)
    pair.globus.advance(25 * 3600)
    finish(pair)
    assert {task.destination.id for task in pair.globus.tasks if task.destination} == {new.id} and files_once(pair)


def test_a_store_that_is_taken_out_of_the_configuration_does_not_keep_its_tasks(pair: GlobusPair) -> None:
    pair.send()
    stores = pair.a.settings["add_stores"]
    pair.a.write(add_stores=[])
    pair.learn(0)
    pair.b.run(0, "recv-clone")
    assert pair.b.stored() == FILES
    pair.a.write(add_stores=stores)


# -- told once ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"name": "say", "status": 403, "body": b'{"code": "PermissionDenied", "message": "no"}'}, "permission denied"),
        ({"name": "say", "status": 409, "body": b'{"code": "ClientError.Conflict.TooManyPendingJobs", "message": "no"}'}, "pending"),
        ({"name": "http_500"}, "gave no clear answer"),
        ({"name": "http_503"}, "not available now"),
    ],
)
def test_a_trouble_of_submitting_is_told_once_while_another_task_flies(
    pair: GlobusPair, fault: dict[str, Any], words: str
) -> None:
    pair.a.write(max_async_inflight_transfers=2)
    pair.globus.fault("task_hang")
    pair.a.run(0, "send-clone")
    pair.a.write(max_async_inflight_transfers=1)
    pair.a.run(0, "consume-queue")
    pair.a.write(max_async_inflight_transfers=3)
    armed = pair.globus.fault(method="POST", url="/transfer$", count=None, **fault)
    lines = said(ticks(pair, 60))
    assert len([line for line in lines if words in line]) == 1 and len(lines) == 1, lines
    armed.end()
    pair.a.run(0, "consume-queue")
    assert len(pair.globus.tasks) == 3


def test_a_hitch_that_comes_and_goes_is_told_once(pair: GlobusPair) -> None:
    pair.a.write(commands={"send-clone": {"destination_librarian": "b"}})
    pair.globus.fault("task_hang")
    pair.send()
    pair.globus.work()
    lines = []
    for n in range(40):
        pair.globus.tasks[0].nice_status = "NO_SPACE_LEFT" if n % 2 else "Queued"
        lines += said([pair.a.run(None, "check-consumed-queue")])
        pair.globus.advance(60)
    assert len(lines) == 1 and "no space left" in lines[0]


def test_a_second_cause_is_told_too(pair: GlobusPair) -> None:
    pair.a.run(0, "send-clone")
    first = pair.globus.fault("say", status=403, body=b'{"code": "PermissionDenied", "message": "no"}', url="/transfer$", count=None)
    assert len(said(ticks(pair, 3))) == 1
    first.end()
    pair.globus.fault("session_required", collection=pair.there, domain="uni.example.edu", count=None)
    lines = said(ticks(pair, 3))
    assert any("fresh login" in line for line in lines)


def test_why_a_task_was_stopped_is_remembered_though_stopping_takes_time(pair: GlobusPair) -> None:
    pair.a.write(commands={"send-clone": {"destination_librarian": "b"}})
    pair.globus.fault("perm", path="bad", side="destination")
    pair.send()
    answer = json.dumps({"DATA_TYPE": "result", "code": "CancelAccepted", "message": "soon"}).encode()
    slow = pair.globus.fault("say", status=202, body=answer, method="POST", url="/cancel$", count=None)
    ticks(pair, 20)
    assert slow.used and pair.globus.tasks[0].status == "ACTIVE"
    pair.globus.tasks[0].nice_status = "OK"
    pair.a.run(None, "check-consumed-queue")
    slow.end()
    lines = said(ticks(pair, 3))
    (line,) = [line for line in lines if "did not arrive" in line]
    assert line.startswith("'bad' did not arrive") and "PERMISSION_DENIED" in line


# -- answers of every shape ----------------------------------------------------------------------------------------------


SHAPES = [b"{}", b"[]", b"null", b"3", b'"text"', b'{"DATA": 3}', b'{"DATA": [1, null]}', b'{"DATA": null, "next_marker": 7}']
SHAPES += [b'{"value": null}', b'{"value": {}}', b'{"task_id": null, "code": "Accepted"}', b'{"task_id": "../../x"}', b'{"status": 5}']
SHAPES += [b'{"status": "SUCCEEDED", "fatal_error": 3, "bytes_transferred": "many", "files_transferred": -1}']
SHAPES += [b'{"status": "ACTIVE", "is_paused": true, "nice_status": [1]}', b"<html>welcome</html>", b"\xff\xfe", b"{" * 100]


URLS = ["/transfer$", r"/task/[^/]*$", "successful_transfers", "submission_id", "skipped_errors", "pause_info"]


@pytest.mark.parametrize("url", URLS if "LIBTOOL_TEST_ALL_SEAMS" in os.environ else URLS[:3])
def test_an_answer_of_any_shape_changes_nothing_that_is_not_known(pair: GlobusPair, url: str) -> None:
    """Each is given once; afterwards the service is itself again, and all files arrive, none of them twice."""
    pair.a.write(commands={"send-clone": {"destination_librarian": "b", "send_batch_size": 2}}, max_async_inflight_transfers=1)
    if url == "pause_info":
        pair.there.paused = "a while"
    else:
        pair.globus.auto = True
    pair.send(None)
    odd = [pair.globus.fault("say", body=shape, url=url) for shape in SHAPES]
    ran = ticks(pair, 4 * len(SHAPES))
    assert {each.code for each in ran} <= {0, 3}, [each for each in ran if each.code not in (0, 3)]
    assert not any("internal error" in line or "did not arrive" in line for line in said(ran))
    assert sum(each.used for each in odd) > 2
    for each in odd:
        each.end()
    pair.there.paused = None
    finish(pair)
    assert files_once(pair)


@pytest.mark.parametrize("body", [b"<html>not here</html>", b'{"code": "Nothing", "message": "no"}', b""])
def test_a_404_that_the_service_did_not_say_loses_no_task(pair: GlobusPair, body: bytes) -> None:
    pair.globus.fault("task_hang")
    pair.send()
    wrong = pair.globus.fault("say", status=404, body=body, kind="text/html", url="/task/", count=None)
    ticks(pair, 40)
    assert pair.a.status()["outgoing"]["ONGOING"] == len(FILES)
    wrong.end()
    assert pair.a.status()["outgoing"]["FAILED"] == 0 and len(pair.globus.tasks) == 3


# -- who we are --------------------------------------------------------------------------------------------------------------


def test_a_new_token_of_somebody_else_is_used_at_once_and_hides_no_task(tmp_path: Path, globus: GlobusService, clock: Clock) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus, person=True)
    pair.ingest(FILES, tmp_path / "source")
    alice = globus.visitor
    first = (pair.a.directory / "globus.secret").read_text().strip()
    globus.fault("task_hang")
    pair.send()
    pair.learn(None)
    assert json.loads(pair.a.run(0, "whoami", "-F", "json").out)["username"] == "alice@example.org"
    application = globus.world.clients[pair.a.settings["globus_client_id"]]
    write_secret(pair.a, globus.refresh_token(application, globus.person("bob@example.org")))
    assert json.loads(pair.a.run(0, "whoami", "-F", "json").out)["username"] is None
    ticks(pair, 60)
    assert pair.a.status()["outgoing"]["ONGOING"] == len(FILES) and len(globus.tasks) == 1
    write_secret(pair.a, first)
    for fault in globus.world.faults.armed:
        fault.end()
    finish(pair)
    assert {task.owner for task in globus.tasks} == {alice.id} and len(globus.tasks) == 1


def test_globus_that_is_switched_off_gets_nothing_new_and_is_still_asked(pair: GlobusPair) -> None:
    pair.a.write(max_async_inflight_transfers=1)
    pair.send()
    pair.a.write(globus_enable=False, max_async_inflight_transfers=3)
    pair.globus.work()
    lines = said(ticks(pair, 5))
    assert len(lines) == 1 and "globus_enable is not true here" in lines[0]
    assert len(pair.globus.tasks) == 1
    pair.b.run(0, "recv-clone")
    assert len(pair.b.stored()) == 2
    pair.a.write(globus_enable=True)
    finish(pair)


def test_tokens_that_others_can_read_are_told_once_and_mended_by_a_login(pair: GlobusPair) -> None:
    pair.send()
    tokens(pair.a).chmod(0o644)
    ran = ticks(pair, 20)
    lines = said(ran)
    assert len(lines) == 1 and "chmod 600" in lines[0] and {each.code for each in ran} == {0, 4}
    pair.a.run(0, "login")
    assert tokens(pair.a).stat().st_mode & 0o777 == 0o600
    finish(pair)


@pytest.mark.parametrize("given", ["a-wrong-secret\n", "\n", ""])
def test_a_wrong_secret_does_not_replace_a_good_one(pair: GlobusPair, given: str) -> None:
    ran = pair.a.run(4, "login", "--secret", "-", stdin=given)
    assert "unchanged" in ran.err
    pair.a.run(0, "whoami")


def test_a_service_account_that_logged_out_submits_nothing_until_it_logs_in(pair: GlobusPair) -> None:
    pair.a.run(0, "login")
    pair.a.run(0, "logout")
    lines = said(ticks(pair, 3))
    assert len(lines) == 1 and "somebody logged out" in lines[0] and pair.globus.tasks == []
    pair.a.run(0, "login")
    finish(pair)


def test_a_login_passes_over_a_collection_that_is_gone(tmp_path: Path, globus: GlobusService) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus, person=True, entity_type="GCSv5_mapped_collection")
    gone = globus.collection("gone", root="/", entity_type="GCSv5_mapped_collection")
    log_in(pair, "--collection", gone.id)
    del globus.world.collections[gone.id]
    ran = log_in(pair)
    assert f"collection {gone.id} is not there" in ran.err and f"consent given for the data of collection {pair.here.id}" in ran.err
    assert f"collection {gone.id}" not in log_in(pair).err


# -- what a destination may reach ---------------------------------------------------------------------------------------------


def test_no_collection_of_ours_is_written_but_below_the_roots(tmp_path: Path, globus: GlobusService) -> None:
    """Whatever its id is called: that which brings files to us shows the same disk as that which we send from."""
    pair = make_globus_pair(tmp_path / "pair", globus)
    inbound = globus.collection("inbound at a", root="/")
    carrier = {"globus": {"destination_endpoint": inbound.id}}
    pair.a.settings["add_stores"][0]["asynchronous_transfer_manager_data"] = carrier
    pair.a.write(local_transfer_roots=[str(tmp_path / "allowed")])
    pair.ingest({".ssh/authorized_keys": b"evil", "good": b"good"}, tmp_path / "source")
    (tmp_path / "allowed").mkdir()
    options = pair.b.settings["add_stores"][0]["asynchronous_transfer_manager_data"]["globus"]
    for id in (inbound.id, inbound.id.upper(), pair.here.id.upper()):
        options["destination_endpoint"] = id
        pair.b.write()
        pair.a.run(0, "send-clone")
        with pair.a.open():
            from libtool.models.tables import File, OutgoingTransfer

            bad = OutgoingTransfer.select(OutgoingTransfer.id).join(File).where(File.name == ".ssh/authorized_keys")
            OutgoingTransfer.update(staging_location=f"{tmp_path}/home/.ssh/authorized_keys").where(
                OutgoingTransfer.id << bad, OutgoingTransfer.status == 1
            ).execute()
        pair.a.run(None, "consume-queue")
        pair.learn(None)
        assert not (tmp_path / "home").exists() and globus.tasks == []
        pair.a.run(0, "retry", "--librarian", "b")


def test_below_the_roots_our_own_collection_may_be_written(tmp_path: Path, globus: GlobusService) -> None:
    """Two librarians of one site that share a collection."""
    pair = make_globus_pair(tmp_path / "pair", globus)
    pair.a.write(local_transfer_roots=[str(pair.b.directory)])
    pair.b.settings["add_stores"][0]["asynchronous_transfer_manager_data"]["globus"]["destination_endpoint"] = pair.here.id
    pair.b.write()
    source = pair.ingest(FILES, tmp_path / "source")
    pair.until_quiet()
    assert pair.b.stored() == FILES and source.exists()


def test_ids_are_compared_without_case() -> None:
    ours = "6C54cade-bde5-45c1-bdea-f4bd71dba2cc"
    mover = GlobusMover(Setup(True, ours, False, ours.lower()), None, lambda: None)  # type: ignore[arg-type,return-value]
    assert "one of ours" in mover.reaches({"destination_endpoint": ours.upper()})


# -- found by a second reader ------------------------------------------------------------------------------------------------


def test_retry_leaves_alone_what_a_run_has_just_submitted(pair: GlobusPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The item is claimed between the look and the deed of ``retry``."""
    from libtool.archive import queue

    pair.a.write(commands={"send-clone": {"destination_librarian": "b"}})
    pair.globus.fault("task_hang")
    no = pair.globus.fault("say", status=403, body=b'{"code": "PermissionDenied", "message": "no"}', url="submission_id", count=None)
    pair.a.run(0, "send-clone")
    pair.a.run(4, "consume-queue")
    no.end()
    really = queue.end

    def late(*words: Any, **more: Any) -> int:
        monkeypatch.setattr(queue, "end", really)
        pair.a.run(0, "consume-queue")
        return really(*words, **more)

    monkeypatch.setattr(queue, "end", late)
    pair.a.run(0, "retry", "--librarian", "b")
    assert len(pair.globus.tasks) == 1 and pair.a.status()["outgoing"]["ONGOING"] == len(FILES)
    pair.globus.world.faults.armed.clear()
    finish(pair)
    assert len(pair.globus.tasks) == items(pair) == 1


def test_retry_frees_one_file_of_an_item_in_trouble(pair: GlobusPair) -> None:
    pair.globus.fault("say", status=403, body=b'{"code": "PermissionDenied", "message": "no"}', url="submission_id", count=None)
    pair.a.run(0, "send-clone")
    pair.a.run(4, "consume-queue")
    assert "2 files" in pair.a.run(0, "retry", "--librarian", "b", "bad", "--dry-run").out
    pair.a.run(0, "retry", "--librarian", "b", "bad")
    assert pair.a.status()["send_queue"]["failed"] == 1


def test_a_doubtful_submission_is_not_repeated_with_a_bare_token_of_somebody_else(
    tmp_path: Path, globus: GlobusService, clock: Clock
) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus, person=True)
    pair.ingest(FILES, tmp_path / "source")
    alice = globus.visitor
    log_in(pair)
    pair.a.run(0, "send-clone")
    globus.fault("drop_after", method="POST", url="/transfer$", count=2)
    pair.a.run(3, "consume-queue")
    application = globus.world.clients[pair.a.settings["globus_client_id"]]
    write_secret(pair.a, globus.refresh_token(application, globus.person("bob@example.org")))
    ticks(pair, 5)
    globus.advance(26 * 3600)
    ticks(pair, 5)
    assert {task.owner for task in globus.tasks} == {alice.id} and len(globus.tasks) == 1
    write_secret(pair.a, globus.refresh_token(application, alice))
    finish(pair)
    assert len(globus.tasks) == 1


def test_a_corrected_local_collection_lets_everything_go(pair: GlobusPair) -> None:
    right = pair.here.id
    pair.a.write(globus_local_endpoint_id=NOBODY + "0a")
    lines = said(ticks(pair, 3))
    assert len(lines) == 1 and "globus_local_endpoint_id names no collection" in lines[0]
    pair.a.write(globus_local_endpoint_id=right)
    finish(pair)
    assert len(pair.globus.tasks) == 3 and files_once(pair)


def test_space_that_came_back_is_seen_beside_a_task_that_cannot_be_asked(pair: GlobusPair) -> None:
    full = pair.globus.fault("nospace", collection=pair.there, after=100)
    pair.a.write(max_async_inflight_transfers=2)
    pair.send()
    pair.learn(None)
    sick = next(task for task in pair.globus.tasks if task.status == "SUCCEEDED" or task is pair.globus.tasks[0])
    pair.globus.fault("http_500", url=f"/task/{sick.task_id}", count=None)
    ticks(pair, 5)
    full.end()
    pair.a.write(max_async_inflight_transfers=3)
    ticks(pair, 30)
    assert len(pair.globus.tasks) == 3


def test_a_second_outage_is_told_although_the_first_left_something_waiting(pair: GlobusPair) -> None:
    pair.a.write(max_async_inflight_transfers=1)
    pair.globus.fault("task_hang")
    pair.a.run(0, "send-clone")
    pair.a.run(0, "consume-queue")
    pair.a.write(max_async_inflight_transfers=3)
    pair.globus.stop()
    assert len(said(ticks(pair, 20))) == 1
    pair.a.run(0, "set-librarian-transfer", "--name", "b", "--disabled")
    pair.globus.start()
    ticks(pair, 20)
    pair.globus.stop()
    assert len([line for line in said(ticks(pair, 60)) if "cannot be reached" in line and "over" not in line]) == 1
    pair.globus.start()


def test_a_long_outage_is_not_over_because_an_item_is_staged_anew(pair: GlobusPair) -> None:
    pair.a.run(0, "send-clone")
    pair.globus.fault("http_503", url="submission_id", count=None)
    lines = said(ticks(pair, 26, step=3600))
    assert not any("over after" in line for line in lines), lines


def test_roots_that_change_meanwhile_do_not_call_delivered_files_failed(tmp_path: Path, globus: GlobusService, clock: Clock) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus)
    pair.a.write(local_transfer_roots=[str(pair.b.directory)])
    pair.b.settings["add_stores"][0]["asynchronous_transfer_manager_data"]["globus"]["destination_endpoint"] = pair.here.id
    pair.b.write()
    pair.ingest(FILES, tmp_path / "source")
    pair.send()
    pair.a.write(local_transfer_roots=[])
    assert pair.learn(0).err == ""
    pair.b.run(0, "recv-clone")
    assert pair.b.stored() == FILES


def test_logging_out_holds_wherever_the_secret_comes_from(pair: GlobusPair, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = (pair.a.directory / "globus.secret").read_text().strip()
    (pair.a.directory / "globus.secret").unlink()
    pair.a.run(0, "logout")
    monkeypatch.setenv("LIBTOOL_SECRET_GLOBUS_CLIENT_SECRET", secret)
    assert any("logged out" in line for line in said(ticks(pair, 2))) and pair.globus.tasks == []
    pair.a.run(0, "login")
    finish(pair)


def test_a_submission_in_doubt_whose_store_is_gone_is_found(pair: GlobusPair) -> None:
    pair.a.write(commands={"send-clone": {"destination_librarian": "b"}})
    pair.a.run(0, "send-clone")
    pair.globus.fault("drop_after", method="POST", url="/transfer$", count=2)
    pair.a.run(3, "consume-queue")
    stores = pair.a.settings["add_stores"]
    pair.a.write(add_stores=[])
    pair.a.run(0, "consume-queue")
    pair.learn(0)
    pair.b.run(0, "recv-clone")
    assert pair.b.stored() == FILES
    pair.a.write(add_stores=stores)


def test_a_service_that_refuses_every_submission_does_not_flood(pair: GlobusPair) -> None:
    pair.a.write(commands={"send-clone": {"destination_librarian": "b"}})
    body = json.dumps({"code": "ClientError.BadRequest", "message": "not today"}).encode()
    pair.globus.fault("say", status=400, body=body, url="/transfer$", count=None)
    lines = said(ticks(pair, 60))
    assert 1 <= len(lines) <= 4, lines


def test_two_applications_keep_their_secrets_apart(pair: GlobusPair) -> None:
    secret = (pair.a.directory / "globus.secret").read_text()
    (pair.a.directory / "globus.secret").unlink()
    pair.a.run(0, "login", "--secret", "-", stdin=secret)
    first, other = pair.a.settings["globus_client_id"], pair.globus.service_account()
    pair.a.write(globus_client_id=other.id)
    pair.a.run(4, "whoami")
    pair.a.run(0, "login", "--secret", "-", stdin=other.secret + "\n")
    pair.a.write(globus_client_id=first)
    pair.a.run(0, "whoami")


def test_check_endpoint_that_can_look_at_nothing_says_so(pair: GlobusPair) -> None:
    pair.a.settings["add_stores"][0]["asynchronous_transfer_manager_data"] = {
        "globus": {"available": False, "destination_endpoint": pair.there.id}
    }
    pair.a.write(globus_local_endpoint_id=None)
    assert "no store has a carrier" in pair.a.run(4, "check-endpoint").err
