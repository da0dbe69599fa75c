"""The Globus of the tests, seen through the real SDK: what other tests rely on is true."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.globus_service import Collection, GlobusService, ServiceAccount

globus_sdk = pytest.importorskip("globus_sdk")

DAY = 86400


@dataclass
class World:
    """Two collections, an account, and the SDK's clients."""

    globus: GlobusService
    a: Collection
    b: Collection
    account: ServiceAccount
    client: Any

    @property
    def here(self) -> Path:
        return Path(self.a.root)

    @property
    def there(self) -> Path:
        return Path(self.b.root)

    def document(self, *names: str, **options: Any) -> dict[str, Any]:
        """A document that transfers files, or a directory when its name ends with a slash."""
        options.setdefault("submission_id", self.client.get_submission_id()["value"])
        items = [
            {"DATA_TYPE": "transfer_item", "source_path": f"/{n}", "destination_path": f"/{n}", "recursive": n.endswith("/")}
            for n in names
        ]
        ends = {"source_endpoint": self.a.id, "destination_endpoint": self.b.id}
        return {"DATA_TYPE": "transfer", **ends, "DATA": items, "verify_checksum": True, **options}

    def submit(self, *names: str, **options: Any) -> str:
        """Hand in a task; its id."""
        found: str = self.client.submit_transfer(self.document(*names, **options))["task_id"]
        return found

    def put(self, name: str, content: bytes = b"content") -> Path:
        """Write a file at the source."""
        path = self.here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def moved(self, task: str) -> list[str]:
        """What arrived, by the service's account."""
        return sorted(e["source_path"] for e in self.client.paginated.task_successful_transfers(task).items())

    def codes(self, task: str) -> list[str]:
        """The events of a task, oldest first."""
        return [event["code"] for event in self.client.task_event_list(task, limit=1000)][::-1]


def quick(retries: int = 2) -> Any:
    """Retries that do not wait."""
    return globus_sdk.transport.RetryConfig(max_retries=retries, max_sleep=0)


def transfer_client(account: ServiceAccount, scope: str | None = None, retries: int = 2) -> Any:
    """A client that acts as a service account."""
    auth = globus_sdk.ConfidentialAppAuthClient(account.id, account.secret, retry_config=quick(retries))
    scope = scope or str(globus_sdk.scopes.TransferScopes.all)
    return globus_sdk.TransferClient(
        authorizer=globus_sdk.ClientCredentialsAuthorizer(auth, scope), retry_config=quick(retries)
    )


@pytest.fixture
def world(globus: GlobusService, tmp_path: Path) -> World:
    roots = [tmp_path / "a", tmp_path / "b"]
    for root in roots:
        root.mkdir()
    a, b = (globus.collection(root.name.upper(), str(root)) for root in roots)
    account = globus.service_account()
    return World(globus, a, b, account, transfer_client(account))


def refused(call: Any, *words: Any, **options: Any) -> Any:
    """The error with which the service refuses."""
    with pytest.raises(globus_sdk.GlobusAPIError) as caught:
        call(*words, **options)
    return caught.value


def app_client(globus: GlobusService, app: Any, token: str, kept: list[Any], **more: Any) -> Any:
    """A client that acts for a person by a refresh token."""
    auth = globus_sdk.NativeAppAuthClient(app.id, retry_config=quick())
    authorizer = globus_sdk.RefreshTokenAuthorizer(token, auth, on_refresh=kept.append, **more)
    return globus_sdk.TransferClient(authorizer=authorizer, retry_config=quick())


# -- handing in


def test_a_transfer_moves_bytes_and_says_so(world: World) -> None:
    world.put("one", b"1" * 200_000)
    world.put("deep/er/two", b"")
    os.utime(world.here / "one", ns=(1, 1_600_000_000_900_000_000))
    task = world.submit("one", "deep/er/two", preserve_timestamp=True, label="run 1", encrypt_data=True)
    assert world.client.get_task(task)["nice_status"] == "Queued"
    assert not list(world.there.iterdir())
    world.globus.work()
    found = world.client.get_task(task).data
    assert (found["status"], found["faults"], found["files_transferred"], found["is_ok"]) == ("SUCCEEDED", 0, 2, None)
    assert found["encrypt_data"] is True and found["label"] == "run 1" and found["owner_id"] == world.account.id
    assert (world.there / "one").read_bytes() == b"1" * 200_000
    assert (world.there / "one").stat().st_mtime_ns == 1_600_000_000 * 10**9
    [one, two] = world.client.task_successful_transfers(task)
    assert (one["size"], one["checksum_algorithm"]) == (200_000, "MD5")
    assert (two["size"], two["destination_path"]) == (0, "/deep/er/two")
    assert world.codes(task) == ["STARTED", "PROGRESS", "SUCCEEDED"]
    [seen] = world.globus.tasks
    assert (seen.task_id, seen.status, seen.owner, len(seen.items)) == (task, "SUCCEEDED", world.account.identity, 2)


def test_the_same_submission_is_a_duplicate(world: World) -> None:
    world.put("one")
    document = world.document("one")
    first, again = world.client.submit_transfer(document), world.client.submit_transfer(document)
    assert (first.http_status, first["code"]) == (202, "Accepted")
    assert (again.http_status, again["code"]) == (200, "Duplicate")
    assert first["task_id"] == again["task_id"]
    world.globus.work()
    assert world.client.submit_transfer(document)["code"] == "Duplicate"
    assert len(world.globus.tasks) == 1


def test_what_is_refused_at_submission(world: World) -> None:
    world.put("one")

    def code(*names: str, **options: Any) -> tuple[int, str]:
        error = refused(world.client.submit_transfer, world.document(*names, **options))
        return error.http_status, error.code

    assert code("one", submission_id="made-up") == (400, "ClientError.BadRequest")
    assert code() == (400, "ClientError.BadRequest.NoTransferItems")
    assert code("one", label="x" * 129)[0] == 400
    assert code("one", label="two\nlines")[0] == 400
    assert code("one", source_endpoint="nowhere") == (404, "EndpointNotFound")
    assert code("one", DATA=[{"DATA_TYPE": "transfer_item", "source_path": "/one"}])[0] == 400
    assert not world.globus.tasks
    world.submit("one", label="x" * 128)
    assert code("one") == (409, "Conflict")
    world.globus.work()
    world.submit("one")


def test_too_many_pending_jobs(world: World) -> None:
    world.globus.most_pending = 4
    for n in range(4):
        world.submit(f"f{n}")
    error = refused(world.client.submit_transfer, world.document("f4"))
    assert (error.http_status, error.code) == (409, "ClientError.Conflict.TooManyPendingJobs")
    assert world.globus.most_active == 4
    other = transfer_client(world.globus.service_account())
    sid = other.get_submission_id()["value"]
    assert other.submit_transfer(world.document("f4", submission_id=sid))["code"] == "Accepted"
    assert refused(other.get_task, world.globus.tasks[0].task_id).http_status == 404


def test_three_are_worked_on_at_once(world: World) -> None:
    hang = world.globus.fault("task_hang")
    names = [f"f{n}" for n in range(5)]
    for name in names:
        world.put(name)
    tasks = [world.submit(name) for name in names]
    world.globus.advance(3600)
    assert [world.client.get_task(t)["nice_status"] for t in tasks] == ["OK"] * 3 + ["Queued"] * 2
    assert hang.used == 3
    hang.end()
    world.globus.work()
    assert {t.status for t in world.globus.tasks} == {"SUCCEEDED"}


# -- trouble on the way


def test_a_lost_answer_makes_one_task(world: World) -> None:
    world.put("one")
    cut = world.globus.fault("drop_after", url="/transfer$")
    result = world.client.submit_transfer(world.document("one"))
    assert result["code"] == "Duplicate" and cut.used == 1
    assert len(world.globus.tasks) == 1
    seen = [status for method, url, status in world.globus.requests if url.endswith("/transfer")]
    assert seen == [None, 200]


def test_without_retries_the_connection_breaks(world: World) -> None:
    client = transfer_client(world.account, retries=0)
    for name, tasks in (("drop_before", 0), ("drop_after", 1)):
        document = world.document(name)
        world.globus.fault(name, url="/transfer$")
        with pytest.raises(globus_sdk.NetworkError):
            client.submit_transfer(document)
        assert len(world.globus.tasks) == tasks


def test_a_truncated_answer(world: World) -> None:
    document = world.document("one")
    world.globus.fault("truncate", url="/transfer$")
    result = world.client.submit_transfer(document)
    assert result.http_status == 202 and result.data is None
    assert world.client.submit_transfer(document)["code"] == "Duplicate"


def test_busy_and_broken_services(world: World) -> None:
    for name, options in (("http_429", {"retry_after": 5}), ("http_503", {"html": True}), ("http_500", {}), ("slow", {"seconds": 0.01})):
        fault = world.globus.fault(name, url="submission_id", **options)
        world.client.get_submission_id()
        assert fault.used == 1
    world.globus.fault("http_503", count=None, retry_after=3)
    error = refused(world.client.get_submission_id)
    assert (error.http_status, error.headers["Retry-After"], error.code) == (503, "3", "ServiceUnavailable")


def test_submissions_that_faults_refuse(world: World) -> None:
    expected = {
        "too_large": (413, "ClientError.RequestEntityTooLarge"),
        "identical_paths": (409, "Conflict"),
        "max_pending": (409, "ClientError.Conflict.TooManyPendingJobs"),
        "consent_required": (403, "ConsentRequired"),
        "session_required": (502, "ExternalError.DirListingFailed.LoginFailed"),
    }
    for name, answer in expected.items():
        world.globus.fault(name)
        error = refused(world.client.submit_transfer, world.document("one"))
        assert (error.http_status, error.code) == answer
    assert error.info.authorization_parameters.session_required_single_domain == ["example.org"]
    assert not world.globus.tasks
    world.submit("one")


def test_a_missing_file_is_retried_and_then_found(world: World) -> None:
    world.put("there")
    task = world.submit("missing", "there")
    world.globus.advance(150)
    found = world.client.get_task(task)
    assert (found["status"], found["nice_status"], found["faults"]) == ("ACTIVE", "FILE_NOT_FOUND", 3)
    assert (found["subtasks_retrying"], found["subtasks_succeeded"], found["is_ok"]) == (1, 1, False)
    assert world.moved(task) == ["/there"]
    world.put("missing")
    world.globus.advance(60)
    assert world.client.get_task(task)["status"] == "SUCCEEDED"
    errors = world.client.task_event_list(task, query_params={"filter": "is_error:1"})
    assert [e["code"] for e in errors] == ["FILE_NOT_FOUND"] * 3


def test_skip_source_errors(world: World) -> None:
    for n in range(4):
        world.put(f"f{n}")
    world.globus.fault("perm", path="/f1")
    world.globus.fault("skip", path="/f2", code="AMBIGUOUS_PATH")
    world.globus.fault("perm", path="/f3", side="destination")
    task = world.submit("f0", "f1", "f2", "gone", skip_source_errors=True)
    stuck = world.submit("f3", skip_source_errors=True)
    world.globus.work()
    found = world.client.get_task(task)
    assert (found["status"], found["subtasks_skipped_errors"], found["faults"]) == ("SUCCEEDED", 3, 0)
    skipped = {e["source_path"]: e["error_code"] for e in world.client.paginated.task_skipped_errors(task).items()}
    assert skipped == {"/f1": "PERMISSION_DENIED", "/f2": "AMBIGUOUS_PATH", "/gone": "FILE_NOT_FOUND"}
    assert world.moved(task) == ["/f0"]
    assert world.client.get_task(stuck)["nice_status"] == "PERMISSION_DENIED"


def test_the_deadline(world: World) -> None:
    world.put("there")
    task = world.submit("missing", "there")
    world.globus.retry_every = 3600
    world.globus.advance(DAY - 1)
    assert world.client.get_task(task)["status"] == "ACTIVE"
    world.globus.advance(1)
    found = world.client.get_task(task)
    assert (found["status"], found["fatal_error"]["code"], found["subtasks_expired"]) == ("FAILED", "EXPIRED", 1)
    assert world.moved(task) == ["/there"] and (world.there / "there").exists()


def test_cancel_and_update(world: World) -> None:
    task = world.submit("missing")
    deadline = world.globus.now + timedelta(days=3)
    world.client.update_task(task, {"label": "renamed", "deadline": deadline.isoformat()})
    world.globus.advance(2 * DAY)
    assert world.client.get_task(task)["label"] == "renamed"
    assert world.client.cancel_task(task)["code"] == "Canceled"
    found = world.client.get_task(task)
    assert (found["status"], found["subtasks_canceled"]) == ("FAILED", 1)
    assert found["fatal_error"] == {"code": "CANCELED", "description": "canceled"}
    assert world.client.cancel_task(task)["code"] == "TaskComplete"
    world.submit("missing")


def test_pause(world: World) -> None:
    world.put("one")
    world.b.paused = "Maintenance until Tuesday"
    task = world.submit("one")
    world.globus.advance(2 * DAY)
    found = world.client.get_task(task)
    assert (found["status"], found["is_paused"], found["nice_status"]) == ("ACTIVE", True, "PAUSED")
    info = world.client.task_pause_info(task)
    assert info["destination_pause_message"] == "Maintenance until Tuesday" and len(info["pause_rules"]) == 1
    world.b.paused = None
    world.globus.work()
    assert world.client.get_task(task)["status"] == "SUCCEEDED"
    assert world.codes(task)[:2] == ["PAUSED", "UNPAUSED"]
    fault = world.globus.fault("pause", message="Wait")
    task = world.submit("one")
    world.globus.work()
    assert world.client.task_pause_info(task)["pause_rules"][0]["message"] == "Wait"
    fault.end()
    world.globus.work()
    assert not world.client.get_task(task)["is_paused"]


def test_personal_endpoints_go_offline(world: World) -> None:
    world.put("one")
    world.b.entity_type = "GCP_mapped_collection"
    task = world.submit("one")
    world.b.connected = False
    world.globus.work()
    assert world.client.get_task(task)["nice_status"] == "GC_NOT_CONNECTED"
    assert world.client.get_endpoint(world.b.id)["gcp_connected"] is False
    error = refused(world.client.operation_ls, world.b.id, path="/")
    assert (error.http_status, error.code) == (502, "ExternalError.DirListingFailed.GCDisconnected")
    error = refused(world.client.submit_transfer, world.document("two"))
    assert error.http_status == 409 and error.code.endswith("GCDisconnectedException")
    world.b.connected = True
    world.globus.advance(60)
    assert world.client.get_task(task)["status"] == "SUCCEEDED"


def test_tasks_that_fail_suspend_and_recover(world: World) -> None:
    for name in ("one", "two", "three", "four"):
        world.put(name)
    world.globus.fault("task_fail", path="/one", code="ENDPOINT_ERROR")
    world.globus.fault("faults_then_ok", path="/two", n=4, code="TIMEOUT")
    inactive = world.globus.fault("inactive", path="/three")
    one, two, three = (world.submit(name) for name in ("one", "two", "three"))
    world.globus.work()
    assert world.client.get_task(one)["fatal_error"]["code"] == "ENDPOINT_ERROR"
    found = world.client.get_task(three)
    assert (found["status"], found["nice_status"]) == ("INACTIVE", "NO_CREDENTIALS")
    inactive.end()
    world.globus.advance(240)
    found = world.client.get_task(two)
    assert (found["status"], found["faults"]) == ("SUCCEEDED", 4)
    assert world.client.get_task(three)["status"] == "SUCCEEDED"
    four = world.submit("four")
    world.globus.fault("unknown_status")
    assert world.client.get_task(four)["status"] == "BROKEN_NEW"
    assert world.client.get_task(four)["status"] == "ACTIVE"


def test_full_disks(world: World) -> None:
    for name in ("one", "two", "three"):
        world.put(name, b"x" * 100)
    world.b.quota = 150
    task, at_once = world.submit("one", "two"), world.submit("three", fail_on_quota_errors=True)
    world.globus.work()
    assert world.client.get_task(task)["nice_status"] == "QUOTA_EXCEEDED"
    assert world.client.get_task(at_once)["fatal_error"]["code"] == "QUOTA_EXCEEDED"
    assert world.moved(task) == ["/one"]
    world.b.quota = None
    full = world.globus.fault("nospace", collection=world.b, after=30)
    world.globus.advance(60)
    assert world.client.get_task(task)["nice_status"] == "NO_SPACE_LEFT"
    assert (world.there / "two").stat().st_size == 30
    full.end()
    world.globus.advance(60)
    assert world.client.get_task(task)["status"] == "SUCCEEDED"
    assert (world.there / "two").read_bytes() == b"x" * 100


# -- bytes that go wrong


def test_verification_sends_again(world: World) -> None:
    world.put("one", b"good")
    fault = world.globus.fault("corrupt", path="/one")
    task = world.submit("one")
    world.globus.work()
    assert world.client.get_task(task)["nice_status"] == "VERIFY_CHECKSUM" and fault.used == 1
    world.globus.advance(60)
    found = world.client.get_task(task)
    assert (found["status"], found["faults"]) == ("SUCCEEDED", 1)
    assert (world.there / "one").read_bytes() == b"good"


@pytest.mark.parametrize("asked", [True, False])
def test_without_verification_corruption_arrives(world: World, asked: bool) -> None:
    world.put("one", b"good")
    world.b.disable_verify = asked
    world.globus.fault("corrupt", count=None)
    task = world.submit("one", verify_checksum=asked)
    world.globus.work()
    assert world.client.get_task(task)["status"] == "SUCCEEDED"
    assert (world.there / "one").read_bytes() != b"good"
    assert world.client.task_successful_transfers(task)["DATA"][0]["checksum"] is None


def test_sources_that_change(world: World) -> None:
    for name in ("growing", "replaced", "touched"):
        world.put(name, b"before")
        os.utime(world.here / name, (1_000_000, 1_000_000))
        world.globus.fault({"growing": "grow", "replaced": "replace", "touched": "touch"}[name], path=name)
    task = world.submit("growing", "replaced", "touched")
    world.globus.work()
    assert world.client.get_task(task)["nice_status"] == "FILE_SIZE_CHANGED"
    assert world.moved(task) == ["/replaced", "/touched"]
    assert (world.there / "replaced").read_bytes() == b"before" != (world.here / "replaced").read_bytes()
    assert (world.here / "replaced").stat().st_size == 6
    assert (world.here / "touched").stat().st_mtime == 1_000_001
    world.globus.advance(60)
    assert (world.there / "growing").read_bytes() == b"beforegrown"


def test_external_checksums(world: World) -> None:
    world.put("one", b"good")
    item = {"DATA_TYPE": "transfer_item", "source_path": "/one", "destination_path": "/one", "checksum_algorithm": "SHA256"}
    for checksum, status in (("770e607624d689265ca6c44884d0807d9b054d23c473c106c72be9de08b7376c", "SUCCEEDED"), ("00", "FAILED")):
        task = world.submit(DATA=[{**item, "external_checksum": checksum}])
        world.globus.work()
        assert world.client.get_task(task)["status"] == status
    assert world.client.get_task(task)["fatal_error"]["code"] == "EXTERNAL_CHECKSUM_MISMATCH"


def test_bandwidth_takes_virtual_time(world: World) -> None:
    world.put("one", b"1" * 1000)
    world.put("two", b"2" * 500)
    world.b.bandwidth = 100
    task = world.submit("one", "two")
    world.globus.advance(4)
    assert (world.there / "one").stat().st_size == 400
    assert world.client.get_task(task)["bytes_transferred"] == 400
    world.globus.advance(7)
    assert world.moved(task) == ["/one"] and (world.there / "two").stat().st_size == 100
    world.globus.advance(5)
    found = world.client.get_task(task)
    assert found["status"] == "SUCCEEDED" and found["effective_bytes_per_second"] in (99, 100)
    assert (world.there / "two").read_bytes() == b"2" * 500


# -- names and trees


def test_names_of_all_kinds(world: World) -> None:
    names = ["ä ö", " blank ends ", "日本/語", "star*[x]?", "new\nline", 'quote"\\', "%20+&=#", "\ufffdodd\xff"]
    (world.here / "日本").mkdir()
    for name in names[:-1]:
        world.put(name, name.encode())
    (Path(os.fsdecode(os.fsencode(world.here) + b"/odd\xff"))).write_bytes(b"odd")
    listed = {entry["name"] for entry in world.client.operation_ls(world.a.id, path="/")}
    assert listed == {name.partition("/")[0] for name in names}
    for name in names[:-1]:
        assert world.client.operation_stat(world.a.id, f"/{name}")["size"] == len(name.encode())
    task = world.submit(*names)
    world.globus.work()
    assert world.moved(task) == sorted(f"/{name}" for name in names)
    for name in names[:-1]:
        assert (world.there / name).read_bytes() == name.encode()
    assert Path(os.fsdecode(os.fsencode(world.there) + b"/odd\xff")).read_bytes() == b"odd"


def test_trees_links_and_filters(world: World) -> None:
    for name in ("tree/a", "tree/b.tmp", "tree/sub/c", "other"):
        world.put(name)
    (world.here / "tree/empty").mkdir()
    (world.here / "tree/link").symlink_to("a")
    (world.here / "link").symlink_to("other")
    (world.here / "out").symlink_to("/etc/passwd")
    rule = {"DATA_TYPE": "filter_rule", "method": "exclude", "type": "file", "name": "*.tmp"}
    task = world.submit("tree/", "link", "out", filter_rules=[rule], skip_source_errors=True)
    world.globus.work()
    found = world.client.get_task(task)
    assert (found["status"], found["directories"], found["files_transferred"]) == ("SUCCEEDED", 3, 3)
    assert sorted(str(p.relative_to(world.there)) for p in world.there.rglob("*")) == [
        "link", "tree", "tree/a", "tree/empty", "tree/sub", "tree/sub/c",
    ]  # fmt: skip
    assert not (world.there / "link").is_symlink()
    [skipped] = world.client.task_skipped_errors(task)
    assert skipped["error_code"] == "PERMISSION_DENIED" and "Path not allowed" in skipped["error_details"]


def test_sync_levels(world: World) -> None:
    world.put("one", b"new!")
    (world.there / "one").write_bytes(b"old!")
    os.utime(world.here / "one", (1000, 1000))
    for level, copied in ((0, False), (1, False), (2, False), (3, True), (3, False)):
        task = world.submit("one", sync_level=level)
        world.globus.work()
        found = world.client.get_task(task)
        assert (found["files_transferred"], found["files_skipped"]) == (int(copied), int(not copied)), level
        assert world.moved(task) == (["/one"] if copied else [])


def test_looking_and_renaming(world: World) -> None:
    client, a = world.client, world.a.id
    world.put("file", b"123")
    world.put(".hidden")
    client.operation_mkdir(a, "/dir")
    listing = client.operation_ls(a, path="/", show_hidden=False, orderby="size DESC")
    assert {e["name"]: e["type"] for e in listing} == {"dir": "dir", "file": "file"}
    assert [e["name"] for e in client.operation_ls(a, filter="name:~f*")] == ["file"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00:00", client.operation_stat(a, "/file")["last_modified"])
    assert client.operation_rename(a, "/file", "/dir/moved")["code"] == "FileRenamed"
    assert (world.here / "dir/moved").read_bytes() == b"123"
    for call, words, answer in (
        (client.operation_mkdir, ("/dir",), (502, "ExternalError.MkdirFailed.Exists")),
        (client.operation_rename, ("/file", "/new"), (502, "ExternalError.RenameFailed.NotFound")),
        (client.operation_rename, ("/.hidden", "/dir/moved"), (502, "ExternalError.RenameFailed.Exists")),
        (client.operation_ls, ("/nowhere",), (404, "ClientError.NotFound")),
        (client.operation_ls, ("/dir/moved",), (502, "ExternalError.DirListingFailed.NotDirectory")),
        (client.operation_stat, ("/nowhere",), (404, "NotFound")),
        (client.operation_ls, ("/../",), (403, "EndpointPermissionDenied")),
    ):
        error = refused(call, a, *words)
        assert (error.http_status, error.code) == answer


def test_deletions(world: World) -> None:
    for name in ("one", "two*", "two", "tree/x"):
        world.put(name)

    def delete(*paths: str, **options: Any) -> Any:
        data = globus_sdk.DeleteData(world.a.id, **options)
        for path in paths:
            data.add_item(path)
        task = world.client.submit_delete(data)["task_id"]
        world.globus.work()
        return world.client.get_task(task)

    assert delete("/one", "/two*", "/gone", ignore_missing=True, interpret_globs=False)["status"] == "SUCCEEDED"
    assert sorted(p.name for p in world.here.iterdir()) == ["tree", "two"]
    failed = delete("/gone", "/two")
    assert (failed["status"], failed["fatal_error"]["code"]) == ("FAILED", "FILE_NOT_FOUND")
    assert delete("/tree")["fatal_error"]["code"] == "IS_A_DIRECTORY"
    assert delete("/tree", recursive=True)["type"] == "DELETE"
    assert delete("/t*", interpret_globs=True)["status"] == "SUCCEEDED"
    assert not list(world.here.iterdir())


# -- asking


def test_pages_of_results_and_lies(world: World) -> None:
    world.globus.page = 2
    names = [f"f{n}" for n in range(5)]
    for name in names[:4]:
        world.put(name)
    task = world.submit(*names, skip_source_errors=True)
    world.globus.work()
    first = world.client.task_successful_transfers(task)
    assert (len(first["DATA"]), first["next_marker"]) == (2, 2)
    paths = [f"/{name}" for name in names[:4]]
    assert world.moved(task) == paths
    lie = world.globus.fault("lie_omit", path="/f2")
    assert world.moved(task) == ["/f0", "/f1", "/f3"]
    lie.end()
    world.globus.fault("lie_repeat")
    assert world.moved(task) == ["/f0", "/f1", "/f1", "/f2", "/f3"]


def test_history_goes_and_tasks_are_forgotten(world: World) -> None:
    world.put("one")
    task = world.submit("one")
    world.globus.work()
    world.globus.advance(29 * DAY)
    assert world.moved(task) == ["/one"]
    world.globus.advance(DAY)
    assert world.client.get_task(task)["history_deleted"] and not world.moved(task)
    later = world.submit("one")
    world.globus.work()
    world.globus.close_history()
    assert world.client.get_task(later)["history_deleted"] and not world.moved(later)
    world.globus.forget(task)
    error = refused(world.client.get_task, task)
    assert (error.http_status, error.code) == (404, "ClientError.NotFound")


def test_lists_of_tasks(world: World) -> None:
    tasks = []
    for n in range(4):
        world.put(f"f{n}")
        tasks.append(world.submit(f"f{n}", label=f"run {n}"))
        world.globus.advance(5)
    tasks.append(world.submit("missing", label="stuck one"))
    world.globus.work()
    client = world.client

    def ids(**options: Any) -> list[str]:
        return [t["task_id"] for t in client.task_list(**options)]

    assert ids() == tasks[::-1]
    assert ids(orderby="request_time ASC", limit=2, offset=1) == tasks[1:3]
    assert ids(filter={"status": ["ACTIVE", "INACTIVE"], "type": "TRANSFER"}) == tasks[4:]
    assert ids(filter={"task_id": tasks[1:3]}, orderby="request_time") == tasks[1:3]
    assert ids(filter={"label": "run 3"}) == [tasks[3]]
    assert [t["task_id"] for t in client.paginated.task_list().items()] == tasks[::-1]
    [seen] = client.task_list(filter={"task_id": tasks[0]}, query_params={"fields": "task_id,status"})
    assert seen == {"task_id": tasks[0], "status": "SUCCEEDED"}


def test_restart_keeps_everything(world: World) -> None:
    world.put("one")
    document = world.document("one")
    task = world.client.submit_transfer(document)["task_id"]
    url = world.globus.url
    world.globus.restart()
    assert world.globus.url == url
    assert world.client.submit_transfer(document)["task_id"] == task
    world.globus.auto = True
    assert world.client.get_task(task)["status"] == "SUCCEEDED"
    again = world.submit("one")
    assert world.globus.tasks[-1].task_id == again and world.globus.tasks[-1].status == "SUCCEEDED"


# -- who may


def test_access_tokens_expire_and_are_renewed(world: World) -> None:
    world.client.get_submission_id()
    for end in (world.globus.expire_access_tokens, lambda: world.globus.advance(172800), lambda: world.globus.fault("token_expired")):
        end()
        world.client.get_submission_id()
        assert [status for _, _, status in world.globus.requests[-3:]] == [401, 200, 200]
    error = refused(transfer_client, ServiceAccount(world.account.id, "wrong"))
    assert error.http_status == 401 and error.raw_json == {"error": "invalid_client"}


def test_refresh_tokens(world: World) -> None:
    globus, kept = world.globus, []
    app, alice = globus.native_app(), globus.person("alice@example.org")
    token = globus.refresh_token(app, alice)
    client = app_client(globus, app, token, kept)
    client.get_submission_id()
    assert kept[0]["refresh_token"] == token
    globus.rotate = True
    globus.expire_access_tokens()
    client.get_submission_id()
    newer = kept[1]["refresh_token"]
    error = refused(app_client, globus, app, token, kept)
    assert (error.http_status, error.raw_json, error.code) == (400, {"error": "invalid_grant"}, None)
    client = app_client(globus, app, newer, kept)
    globus.fault("refresh_revoked")
    globus.expire_access_tokens()
    assert refused(client.get_submission_id).raw_json == {"error": "invalid_grant"}
    client.get_submission_id()
    globus.revoke(alice)
    assert refused(client.get_submission_id).raw_json == {"error": "invalid_grant"}


def test_permissions(world: World) -> None:
    globus, client = world.globus, world.client
    world.put("mine/x")
    globus.permit(world.account.identity, world.a, "/mine/", "r")
    globus.permit(world.account, world.b, "/mine", "rw")
    assert [e["name"] for e in client.operation_ls(world.a.id, "/mine")] == ["x"]
    for call in (
        lambda: client.operation_ls(world.a.id, "/"),
        lambda: client.operation_mkdir(world.a.id, "/mine/new"),
        lambda: world.submit("mines"),
    ):
        error = refused(call)
        assert (error.http_status, error.code) == (403, "PermissionDenied")
    world.submit("mine/x")
    globus.work()
    assert (world.there / "mine/x").exists()


def test_a_service_account_consents_by_itself(world: World) -> None:
    world.a.entity_type = world.b.entity_type = "GCSv5_mapped_collection"
    error = refused(world.client.submit_transfer, world.document("one"))
    assert (error.http_status, error.code) == (403, "ConsentRequired")
    assert len(error.info.consent_required.required_scopes) == 2
    config = globus_sdk.GlobusAppConfig(token_storage="memory", auto_redrive_gares=True, token_validation_error_handler=None)
    with globus_sdk.ClientApp("test", client_id=world.account.id, client_secret=world.account.secret, config=config) as app:
        client = globus_sdk.TransferClient(app=app, retry_config=quick())
        assert client.submit_transfer(world.document("one"))["code"] == "Accepted"
    scope = globus_sdk.scopes.GCSCollectionScopes(world.a.id).data_access.with_optional(True)
    whole = str(globus_sdk.scopes.TransferScopes.all.with_dependency(scope))
    asked = transfer_client(world.account, whole)
    assert asked.operation_ls(world.a.id)["DATA"] == []
    world.globus.withdraw_consent(world.account.identity, world.a)
    assert refused(asked.operation_ls, world.a.id).code == "ConsentRequired"
    world.a.high_assurance = True
    assert asked.operation_ls(world.a.id)["DATA"] == []
    assert refused(transfer_client, world.account, whole).raw_json == {"error": "unknown_scope"}


def test_people_consent_and_log_in(world: World) -> None:
    globus = world.globus
    world.a.entity_type = "GCSv5_mapped_collection"
    app, alice = globus.native_app(), globus.person("alice@example.org")
    kept: list[Any] = []
    without = app_client(globus, app, globus.refresh_token(app, alice), kept)
    assert refused(without.operation_ls, world.a.id).code == "ConsentRequired"
    seeded = app_client(globus, app, globus.refresh_token(app, alice, consents=[world.a.id]), kept)
    seeded.operation_ls(world.a.id)

    auth = globus_sdk.NativeAppAuthClient(app.id, retry_config=quick())
    scope = globus_sdk.scopes.GCSCollectionScopes(world.a.id).data_access.with_optional(True)
    whole = [globus_sdk.scopes.TransferScopes.all.with_dependency(scope), "openid", "profile", "email"]
    auth.oauth2_start_flow(requested_scopes=whole, refresh_tokens=True)
    url = auth.oauth2_get_authorize_url()
    with urllib.request.urlopen(url) as answer:
        code = re.search(r"<code>(.+)</code>", answer.read().decode())[1]  # type: ignore[index]
    tokens = auth.oauth2_exchange_code_for_tokens(code)
    transfer = tokens.by_resource_server["transfer.api.globus.org"]
    client = app_client(globus, app, transfer["refresh_token"], kept)
    client.operation_ls(world.a.id)
    globus.withdraw_consent(alice.id, world.a)
    assert refused(client.operation_ls, world.a.id).code == "ConsentRequired"

    userinfo = globus_sdk.AuthClient(
        authorizer=globus_sdk.AccessTokenAuthorizer(tokens.by_resource_server["auth.globus.org"]["access_token"])
    ).userinfo()
    assert (userinfo["sub"], userinfo["preferred_username"]) == (alice.id, "alice@example.org")
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": "application/json"})) as answer:
        code = json.load(answer)["code"]
    assert auth.oauth2_exchange_code_for_tokens(code)["refresh_token"]
    assert refused(auth.oauth2_exchange_code_for_tokens, code).raw_json == {"error": "invalid_grant"}
    auth.oauth2_revoke_token(transfer["refresh_token"])
    assert refused(auth.oauth2_refresh_token, transfer["refresh_token"]).raw_json == {"error": "invalid_grant"}


def test_a_user_app_logs_in(world: World) -> None:
    """The whole of the SDK's own login: PKCE, id_token, keys, consents."""
    pytest.importorskip("cryptography")
    globus = world.globus
    world.a.entity_type = "GCSv5_mapped_collection"
    native, alice = globus.native_app(), globus.person("alice@example.org")

    class Scripted(globus_sdk.login_flows.LoginFlowManager):  # type: ignore[misc, name-defined]
        def run_login_flow(self, auth_parameters: Any) -> Any:
            url = self._get_authorize_url(auth_parameters, f"{globus.url}v2/web/auth-code")
            with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": "application/json"})) as answer:
                return self.login_client.oauth2_exchange_code_for_tokens(json.load(answer)["code"])

    login = globus_sdk.NativeAppAuthClient(native.id, app_name="test")
    config = globus_sdk.GlobusAppConfig(
        token_storage="memory", request_refresh_tokens=True, login_flow_manager=Scripted(login, request_refresh_tokens=True)
    )
    with globus_sdk.UserApp("test", login_client=login, config=config) as app:
        client = globus_sdk.TransferClient(app=app, retry_config=quick()).add_app_data_access_scope(world.a.id)
        app.login()
        assert client.operation_ls(world.a.id)["DATA"] == []
        task = client.submit_transfer(world.document("one", submission_id=client.get_submission_id()["value"]))
    assert globus.tasks[-1].task_id == task["task_id"] and globus.tasks[-1].owner == alice.id


# -- for people, and for those who write tests


def test_faults_are_checked_and_counted(world: World) -> None:
    with pytest.raises(ValueError):
        world.globus.fault("no such fault")
    with pytest.raises(TypeError):
        world.globus.fault("http_500", retry_after=1)
    fault = world.globus.fault("http_500", url="submission_id", method="get", after=1, count=2)
    client = transfer_client(world.account, retries=0)
    for fails in (False, True, True, False):
        if fails:
            assert refused(client.get_submission_id).http_status == 500
        else:
            client.get_submission_id()
    assert fault.used == 2
    rarely = world.globus.fault("http_500", url="submission_id", probability=0.5, count=None)
    for _ in range(20):
        with suppress(globus_sdk.GlobusAPIError):
            client.get_submission_id()
    assert 4 < rarely.used < 16


def test_it_serves_people(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    command = [sys.executable, "-m", "tests.globus_service", "--root", f"A={tmp_path}"]
    top = Path(__file__).parent.parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=top) as served:
        try:
            assert served.stdout is not None
            lines = [served.stdout.readline().split() for _ in range(4)]
            assert [line[0] for line in lines] == ["export", "export", "collection", "service"]
            url = lines[0][1].partition("=")[2]
            *_, name, secret = lines[3]
            auth = globus_sdk.ConfidentialAppAuthClient(name, secret, base_url=url)
            authorizer = globus_sdk.ClientCredentialsAuthorizer(auth, str(globus_sdk.scopes.TransferScopes.all))
            client = globus_sdk.TransferClient(authorizer=authorizer, base_url=url, retry_config=quick())
            assert [e["name"] for e in client.operation_ls(lines[2][2])] == ["file"]
        finally:
            served.send_signal(signal.SIGTERM)
    assert served.returncode == 0
