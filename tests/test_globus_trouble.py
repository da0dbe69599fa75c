"""Globus in trouble: what the operator sees, what happens to the data, and that nothing is sent twice or called failed
that nobody knows. In every test the other files arrive."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.globus_pair import GlobusPair, arrived, carried, items, make_globus_pair, write_secret
from tests.globus_service import GlobusService
from tests.sites import Ran, tree

Clock = Callable[[float], None]
FILES = {f"good/{n}": bytes([n]) * (100 + n) for n in range(5)} | {"bad": b"bad bytes" * 100}


@pytest.fixture
def pair(tmp_path: Path, globus: GlobusService, clock: Clock) -> GlobusPair:
    """Two librarians and six files at a; time stands still but for the test."""
    made = make_globus_pair(tmp_path / "pair", globus)
    made.ingest(FILES, tmp_path / "source")
    return made


def ticks(pair: GlobusPair, count: int, step: float = 60.0) -> list[Ran]:
    """So many minutes of cron at a, and what each command did."""
    ran = []
    for _ in range(count):
        ran += [pair.a.run(None, word) for word in ("send-clone", "consume-queue", "check-consumed-queue")]
        pair.globus.advance(step)
    return ran


def said(ran: list[Ran]) -> list[str]:
    """Every line that was printed."""
    return [line for each in ran for line in (each.out + each.err).splitlines()]


def finish(pair: GlobusPair, files: dict[str, bytes] = FILES, once: bool = True) -> None:
    """Let everything come to an end: all files at b, each carried once."""
    for _ in range(10):
        ticks(pair, 2, step=700)
        pair.b.run(None, "recv-clone")
        if pair.quiet() and pair.b.stored() == files:
            break
    assert pair.b.stored() == files
    assert pair.quiet() and pair.b.staged() == []
    if once:
        names = [Path(path).name for path in carried(pair.globus)]
        assert sorted(names) == sorted(Path(name).name for name in files)


def stored_but(pair: GlobusPair, *missing: str) -> bool:
    """Whether b has all files but these."""
    pair.b.run(0, "recv-clone")
    return pair.b.stored() == {name: content for name, content in FILES.items() if name not in missing}


# -- one file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "code"),
    [({"name": "missing"}, "FILE_NOT_FOUND"), ({"name": "perm", "side": "source"}, "PERMISSION_DENIED")],
)
def test_a_file_that_the_collection_cannot_read(pair: GlobusPair, fault: dict[str, str], code: str) -> None:
    gone = pair.globus.fault(path="bad", **fault)
    pair.send()
    ran = pair.learn(3)
    (line,) = ran.err.splitlines()
    assert line.startswith("'bad' did not arrive: " + code)
    assert "'libtool check-endpoint'" in line if code == "FILE_NOT_FOUND" else "'libtool whoami'" in line
    assert stored_but(pair, "bad")
    gone.end()
    finish(pair)
    assert len(pair.globus.tasks) == items(pair) == 2


def test_a_file_that_cannot_be_written_there_is_given_up_after_a_grace(pair: GlobusPair) -> None:
    """It would keep its task for a day; the task is stopped, and only what is unfinished is tried again."""
    stuck = pair.globus.fault("perm", path="bad", side="destination")
    pair.send()
    assert said(ticks(pair, 9)) == []
    (task,) = pair.globus.tasks
    assert task.status == "ACTIVE"
    lines = said(ticks(pair, 10))
    assert task.fatal_error and task.fatal_error["code"] == "CANCELED"
    assert any("PERMISSION_DENIED" in line and line.startswith("librarian b: ") for line in lines)
    (given_up,) = [line for line in lines if line.startswith("'bad' did not arrive")]
    assert "'libtool whoami'" in given_up
    assert not any(line.startswith("'good") for line in lines)
    assert stored_but(pair, "bad")
    stuck.end()
    finish(pair)


def test_a_file_that_changes_while_it_is_sent(pair: GlobusPair, tmp_path: Path) -> None:
    pair.globus.fault("grow", path="bad")
    pair.send()
    lines = said(ticks(pair, 5))
    (line,) = [line for line in lines if "did not arrive" in line]
    assert line.startswith("'bad' did not arrive: the file changed while it was sent: 905 bytes instead of 900")
    (again,) = [line for line in lines if "was not sent" in line][:1]
    assert "it changed its content: 905 bytes instead of 900. " in again
    assert stored_but(pair, "bad")
    (pair.a.store / "bad").write_bytes(FILES["bad"])
    finish(pair, once=False)


def test_a_file_that_keeps_changing_is_given_up(pair: GlobusPair) -> None:
    pair.globus.fault("grow", path="bad", count=None)
    pair.send()
    lines = said(ticks(pair, 40))
    assert any("did not arrive" in line and "FILE_SIZE_CHANGED" in line for line in lines), lines
    assert stored_but(pair, "bad")


def test_a_file_that_is_replaced_by_another_of_its_size_is_caught_by_the_destination(pair: GlobusPair) -> None:
    original = (pair.a.store / "bad").read_bytes()
    pair.globus.fault("replace", path="bad")
    pair.send()
    pair.learn()
    (pair.a.store / "bad").write_bytes(original)
    pair.b.run(0, "recv-clone")
    finish(pair, once=False)


def test_damage_on_the_way_is_mended_by_the_service(pair: GlobusPair) -> None:
    damage = pair.globus.fault("corrupt", path="bad")
    pair.send()
    assert said(ticks(pair, 3)) == []
    assert damage.used == 1 and pair.globus.tasks[0].faults == 1
    finish(pair)
    assert len(pair.globus.tasks) == 1


def test_damage_that_the_service_does_not_see_is_seen_by_the_destination(pair: GlobusPair) -> None:
    pair.there.disable_verify = True
    damage = pair.globus.fault("corrupt", path="bad")
    pair.send()
    pair.learn()
    assert damage.used == 1
    received = pair.b.run(3, "recv-clone")
    assert "'bad'" in received.err and "checksum" in received.err
    assert pair.b.stored() == {name: content for name, content in FILES.items() if name != "bad"}
    finish(pair, once=False)
    names = [Path(path).name for path in carried(pair.globus)]
    assert names.count("bad") == 2 and len(names) == len(FILES) + 1


# -- one destination ---------------------------------------------------------------------------------------------------


def test_a_full_destination_is_told_once_and_gets_nothing_more_until_there_is_room(
    pair: GlobusPair, tmp_path: Path
) -> None:
    full = pair.globus.fault("nospace", collection=pair.there, after=300)
    pair.send()
    told = [pair.learn(3)]
    pair.ingest({"later": b"later"}, tmp_path / "more")
    lines = said(told + ticks(pair, 60))
    (line,) = lines
    assert line.startswith("librarian b: a task does not go on: NO_SPACE_LEFT: the destination has no space left")
    assert "Free space there" in line
    assert len(pair.globus.tasks) == 1  # the new item is held back
    full.end()
    pair.globus.advance(61)
    assert [line for line in said(ticks(pair, 2)) if "over after" in line]
    finish(pair, FILES | {"later": b"later"})
    assert len(pair.globus.tasks) == 2


def test_a_quota_that_is_used_up_ends_the_task_at_once(pair: GlobusPair) -> None:
    pair.there.quota = 300
    pair.send()
    lines = said(ticks(pair, 20))
    assert any("QUOTA_EXCEEDED" in line and "sent again later" in line for line in lines), lines
    assert not any("did not arrive" in line for line in lines)
    pair.there.quota = None
    finish(pair)


def test_a_paused_collection_is_told_once_with_its_message_and_nothing_is_cancelled(pair: GlobusPair) -> None:
    pair.send()
    pair.there.paused = "maintenance until Monday"
    lines = said(ticks(pair, 60))
    (line,) = lines
    assert "paused by the people who run a collection: maintenance until Monday" in line and "app.globus.org/activity/" in line
    pair.there.paused = None
    finish(pair)
    assert len(pair.globus.tasks) == 1 and pair.globus.tasks[0].status == "SUCCEEDED"


def test_a_personal_endpoint_that_sleeps_is_waited_for(tmp_path: Path, globus: GlobusService, clock: Clock) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus, entity_type="GCP_mapped_collection")
    pair.ingest(FILES, tmp_path / "source")
    pair.there.connected = False
    lines = said(ticks(pair, 15))
    (line,) = lines
    assert "personal endpoint is not connected" in line and line.startswith("librarian b: ")
    assert globus.tasks == []
    pair.there.connected = True
    (back,) = said(pair.send())
    pair.there.connected = False
    (line,) = said(ticks(pair, 30))
    assert "over after" in back and "GC_NOT_CONNECTED" in line and "Start Globus Connect Personal" in line
    pair.there.connected = True
    finish(pair)
    assert len(globus.tasks) == 1


def test_a_collection_that_is_gone_or_not_permitted_does_not_hold_up_another_destination(
    tmp_path: Path, globus: GlobusService, clock: Clock
) -> None:
    from tests.sites import introduce, make_site

    pair = make_globus_pair(tmp_path / "pair", globus)
    c = make_site("c", tmp_path / "c")
    carrier = {"globus": {"destination_endpoint": globus.collection("at c", root="/").id}}
    c.settings["add_stores"][0]["asynchronous_transfer_manager_data"] = carrier
    c.write()
    introduce(pair.a, c)
    pair.a.write(commands={"send-clone": {"destination_librarian": ["b", "c"]}})
    pair.ingest(FILES, tmp_path / "source")
    globus.permit("somebody-else", pair.there, "/", "rw")
    pair.a.run(0, "send-clone")
    ran = pair.a.run(4, "consume-queue")
    (line,) = ran.err.splitlines()
    assert line.startswith("librarian b: ") and "permission denied" in line and "'libtool whoami'" in line
    assert pair.a.run(4, "consume-queue").err == ""
    assert len(globus.tasks) == 1
    pair.learn()
    c.run(0, "recv-clone")
    assert c.stored() == FILES and pair.b.stored() == {}
    globus.permit(pair.a.settings["globus_client_id"], pair.there, "/", "rw")
    assert any("over after" in line for line in said([pair.a.run(0, "consume-queue")]))
    pair.learn()
    pair.b.run(0, "recv-clone")
    assert pair.b.stored() == FILES


# -- the service and the login --------------------------------------------------------------------------------------------


def test_a_revoked_login_is_told_once_and_a_new_one_goes_on(
    tmp_path: Path, globus: GlobusService, clock: Clock
) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus, person=True, commands=None)
    pair.a.write(commands={"send-clone": {"destination_librarian": "b", "send_batch_size": 3}}, max_async_inflight_transfers=1)
    pair.ingest(FILES, tmp_path / "source")
    pair.send()
    alice = globus.visitor
    globus.revoke(alice)
    ran = ticks(pair, 30)
    lines = said(ran)
    (line,) = lines
    assert "Globus no longer accepts the stored login" in line and "Run 'libtool login'." in line
    assert {each.code for each in ran if each.code not in (0,)} == {4}
    assert len(globus.tasks) == 1
    application = next(app for app in globus.world.clients.values() if app.id == pair.a.settings["globus_client_id"])
    write_secret(pair.a, globus.refresh_token(application, alice))
    finish(pair)
    assert len(globus.tasks) == 2


def test_a_consent_that_ran_out_needs_a_person(tmp_path: Path, globus: GlobusService, clock: Clock) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus, person=True, entity_type="GCSv5_mapped_collection")
    pair.ingest(FILES, tmp_path / "source")
    pair.a.run(0, "send-clone")
    ran = pair.a.run(4, "consume-queue")
    (line,) = ran.err.splitlines()
    assert "consent for" in line and pair.there.id in line and "Run 'libtool login'." in line
    assert pair.a.run(4, "consume-queue").err == "" and globus.tasks == []
    login(pair)
    finish(pair)
    assert len(globus.tasks) == 1


def login(pair: GlobusPair) -> None:
    """Log in as the person at the browser would."""
    from tests.test_globus_login import log_in

    log_in(pair)


def test_a_service_account_consents_by_itself(tmp_path: Path, globus: GlobusService, clock: Clock) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus, entity_type="GCSv5_mapped_collection")
    source = pair.ingest(FILES, tmp_path / "source")
    pair.until_quiet()
    assert arrived(pair, source)
    globus.withdraw_consent(pair.a.settings["globus_client_id"], pair.there)
    pair.ingest({"more": b"more"}, tmp_path / "more")
    pair.until_quiet()
    assert pair.b.stored()["more"] == b"more" and len(globus.tasks) == 2


def test_a_session_that_the_collection_wants_renewed(pair: GlobusPair) -> None:
    pair.a.run(0, "send-clone")
    pair.globus.fault("session_required", collection=pair.there, domain="uni.example.edu", count=None)
    ran = pair.a.run(4, "consume-queue")
    (line,) = ran.err.splitlines()
    assert "asks for a fresh login with an identity of uni.example.edu" in line and "'libtool login'" in line
    assert pair.globus.tasks == []


def test_a_login_of_a_collection_that_expires_during_a_task(pair: GlobusPair) -> None:
    pair.send()
    gone = pair.globus.fault("inactive")
    ran = ticks(pair, 20)
    (line,) = said(ran)
    assert "the login for a collection has expired" in line and "Run 'libtool login'." in line
    assert 4 in {each.code for each in ran}
    gone.end()
    finish(pair)


def test_an_access_token_that_is_not_accepted_is_renewed_without_a_word(pair: GlobusPair) -> None:
    pair.send()
    pair.globus.expire_access_tokens()
    assert said([pair.learn(0)]) == []
    finish(pair)


def test_429_with_retry_after_is_obeyed_by_every_run(pair: GlobusPair) -> None:
    pair.a.run(0, "send-clone")
    pair.globus.fault("http_429", retry_after=300)
    assert said([pair.a.run(3, "consume-queue")]) == []
    asked = len(pair.globus.requests)
    ran = ticks(pair, 4)
    assert len(pair.globus.requests) == asked and {each.code for each in ran} == {0, 3} and said(ran) == []
    pair.globus.advance(120)
    finish(pair)
    assert len(pair.globus.tasks) == 1


@pytest.mark.parametrize("fault", [{"name": "http_429"}, {"name": "http_503", "html": True}, {"name": "http_503"}, {"name": "http_500"}])
@pytest.mark.parametrize("url", ["transfer$", "task/"])
def test_a_service_that_is_too_busy_is_asked_again_by_the_next_run(pair: GlobusPair, fault: dict[str, object], url: str) -> None:
    pair.a.run(0, "send-clone")
    pair.globus.fault(url=url, count=2, **fault)
    ran = [pair.a.run(None, word) for word in ("consume-queue", "check-consumed-queue") * 2]
    assert said(ran) == [] and {each.code for each in ran} == {0, 3}
    finish(pair)
    assert len(pair.globus.tasks) == 1 and pair.a.status()["outgoing"]["FAILED"] == 0


def test_a_hundred_tasks_pending_from_elsewhere(pair: GlobusPair) -> None:
    pair.globus.most_pending = 0
    lines = said(ticks(pair, 30))
    (line,) = lines
    assert line.startswith("carrier globus: ") and "too many tasks of this identity are pending" in line
    assert "submitted by a later run" in line
    pair.globus.most_pending = 100
    finish(pair)
    assert len(pair.globus.tasks) == items(pair) == 1


def test_identical_paths_under_way_by_somebody_else(pair: GlobusPair) -> None:
    pair.globus.fault("identical_paths", count=2)
    lines = said(ticks(pair, 3, step=301))
    (line,) = [line for line in lines if "over after" not in line]  # twice refused, once told
    assert line.startswith("librarian b: the carrier globus refused: ") and "identical paths" in line
    assert "'libtool status --tasks'" in line
    finish(pair)
    assert len(pair.globus.tasks) == items(pair) == 1


def test_a_refusal_that_stays_gives_the_files_new_places(pair: GlobusPair) -> None:
    pair.globus.fault("identical_paths", count=4)
    lines = said(ticks(pair, 5, step=301))
    assert any("given up after 4 submissions" in line for line in lines)
    finish(pair)
    assert len(pair.globus.tasks) == 1 and items(pair) == 2


# -- tasks that end otherwise ---------------------------------------------------------------------------------------------


def test_history_that_is_gone_lets_the_destination_decide(pair: GlobusPair) -> None:
    missing = pair.globus.fault("missing", path="bad")
    pair.send()
    pair.globus.work()
    pair.globus.close_history()
    missing.end()
    assert said([pair.a.run(0, "check-consumed-queue")]) == []
    pair.b.run(None, "recv-clone")
    assert pair.b.stored() == {name: content for name, content in FILES.items() if name != "bad"}
    finish(pair)


def test_a_task_that_the_service_does_not_know_lets_the_destination_decide(pair: GlobusPair) -> None:
    pair.send()
    pair.globus.work()
    pair.globus.forget(pair.globus.tasks[0].task_id)
    ran = ticks(pair, 14)
    assert pair.a.status()["outgoing"]["ONGOING"] == len(FILES)
    assert [line for line in said(ran) if "does not know" in line] == said(ran) and len(said(ran)) == 1
    ticks(pair, 3)
    pair.b.run(0, "recv-clone")
    assert pair.b.stored() == FILES and pair.quiet() and len(pair.globus.tasks) == 1


def test_a_task_of_another_identity_is_not_lost(tmp_path: Path, globus: GlobusService, clock: Clock) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus)
    pair.ingest(FILES, tmp_path / "source")
    pair.send()
    before = {key: pair.a.settings[key] for key in ("globus_client_id",)}
    secret = (pair.a.directory / "globus.secret").read_text().strip()
    other = globus.service_account()
    write_secret(pair.a, other.secret)
    pair.a.write(globus_client_id=other.id)
    ran = ticks(pair, 30)
    (line,) = said(ran)
    assert before["globus_client_id"] in line and other.id in line and "Be the former again" in line
    assert pair.a.status()["outgoing"]["ONGOING"] == len(FILES)
    write_secret(pair.a, secret)
    pair.a.write(**before)
    finish(pair)
    assert len(globus.tasks) == 1


def test_a_deadline_that_passes(pair: GlobusPair) -> None:
    hangs = pair.globus.fault("task_hang")
    pair.send()
    pair.globus.advance(60)
    lines = said(ticks(pair, 12, step=3600))
    (line,) = lines
    assert "nothing has moved in a task for" in line and "'libtool status --tasks'" in line
    hangs.end()
    pair.globus.fault("task_hang", task=pair.globus.tasks[0].task_id)
    lines = said(ticks(pair, 14, step=3600))
    assert pair.globus.tasks[0].fatal_error == {"code": "EXPIRED", "description": "the deadline of the task has passed"}
    assert not any("did not arrive" in line for line in lines)
    finish(pair)


@pytest.mark.parametrize("when", ["before", "in the middle"])
def test_a_task_that_somebody_cancels(pair: GlobusPair, when: str) -> None:
    if when == "in the middle":
        pair.there.bandwidth = 10
    pair.send()
    if when == "in the middle":
        pair.globus.advance(105)
        assert 0 < len(carried(pair.globus)) < len(FILES)
    pair.globus.tasks[0].end("FAILED", pair.globus.now, ("CANCELED", "canceled"))
    pair.there.bandwidth = None
    lines = said(ticks(pair, 25))
    assert not any("did not arrive" in line for line in lines)
    assert len([line for line in lines if "CANCELED" in line and "sent again later" in line]) <= 1
    finish(pair)
    assert items(pair) == 2


@pytest.mark.parametrize("code", ["INTERNAL_ERROR", "ENDPOINT_ERROR", "A_NEW_CODE"])
def test_a_task_that_fails_as_a_whole_is_done_again(pair: GlobusPair, code: str) -> None:
    pair.globus.fault("task_fail", code=code)
    lines = said(ticks(pair, 30))
    assert not any("did not arrive" in line for line in lines)
    finish(pair)


def test_many_faults_are_no_failure(pair: GlobusPair) -> None:
    pair.globus.fault("faults_then_ok", n=30)
    assert said(ticks(pair, 40)) == []
    finish(pair)
    assert pair.globus.tasks[0].faults == 30 and len(pair.globus.tasks) == 1


def test_a_status_that_nobody_knows_changes_nothing(pair: GlobusPair) -> None:
    pair.send()
    pair.globus.fault("unknown_status", count=20)
    (line,) = [line for line in said(ticks(pair, 20)) if "over after" not in line]
    assert "status BROKEN_NEW" in line
    finish(pair)
    assert len(pair.globus.tasks) == 1


@pytest.mark.parametrize("lie", ["lie_omit", "lie_repeat"])
def test_lists_that_are_wrong_prove_nothing(pair: GlobusPair, lie: str) -> None:
    pair.globus.page = 2
    pair.globus.fault(lie, path="bad") if lie == "lie_omit" else pair.globus.fault(lie)
    pair.send()
    assert said([pair.learn(0)]) == []
    pair.b.run(0, "recv-clone")
    assert pair.b.stored() == FILES and len(pair.globus.tasks) == 1


def test_a_directory_of_which_a_file_cannot_be_read_fails_alone(tmp_path: Path, pair: GlobusPair) -> None:
    for name in ("a", "deep/b", "deep/c"):
        (tmp_path / "cube" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cube" / name).write_bytes(name.encode())
    pair.a.run(0, "ingest", str(tmp_path / "cube"))
    gone = pair.globus.fault("missing", path="*/deep/b")
    pair.send()
    ran = pair.learn(3)
    assert ran.err.startswith("'cube' did not arrive: FILE_NOT_FOUND")
    assert stored_but(pair)
    gone.end()
    finish(pair, FILES | {f"cube/{name}": content for name, content in tree(tmp_path / "cube").items()}, once=False)


def test_an_hour_of_outage_is_told_once_and_then_all_arrives(pair: GlobusPair, tmp_path: Path) -> None:
    pair.send()
    pair.ingest({"later": b"later"}, tmp_path / "more")
    pair.globus.stop()
    ran = ticks(pair, 60)
    (line,) = said(ran)
    assert line.startswith("carrier globus: gave no clear answer: 127.0.0.1") and "cannot be reached" in line
    assert {each.code for each in ran} == {0, 3}
    status = json.loads(pair.a.run(0, "status", "-F", "json").out)
    assert status["outgoing"]["FAILED"] == 0 and status["outgoing"]["ONGOING"] == len(FILES) + 1
    pair.globus.start()
    (over,) = said(ticks(pair, 1))
    assert over.startswith("carrier globus: over after 1h")
    finish(pair, FILES | {"later": b"later"})
    assert len(pair.globus.tasks) == 2


def test_plain_http_to_another_machine_is_refused(pair: GlobusPair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.a.run(0, "send-clone")
    monkeypatch.setitem(os.environ, "GLOBUS_SDK_SERVICE_URL_TRANSFER", "http://transfer.example.org/")
    ran = pair.a.run(78, "consume-queue")
    assert "not encrypted" in ran.err and pair.globus.tasks == []
    monkeypatch.setitem(os.environ, "GLOBUS_SDK_SERVICE_URL_TRANSFER", pair.globus.url)
    pair.a.run(0, "consume-queue")
    monkeypatch.setitem(os.environ, "GLOBUS_SDK_SERVICE_URL_AUTH", "http://auth.example.org/")
    assert "not encrypted" in pair.a.run(78, "check-consumed-queue").err
