"""The recorded exchanges of two stock hera_librarian servers, played against our callback.

Status and shape are what a stock client needs. Where we answer otherwise on purpose stands in :data:`DIFFERENT` and
:data:`OTHERWISE`, each with its reason, and nowhere else.
"""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from libtool import digest
from libtool.endpoints import router
from libtool.models.tables import File, IncomingTransfer, Instance, Librarian, OutgoingTransfer
from libtool.states import Owed, TransferStatus
from tests import stock as stocks
from tests.cgi_server import serving
from tests.sites import Site, make_site

DATA = Path(__file__).parent / "data" / "stock-exchanges.jsonl"

#: Where we answer with another status than the stock server did, and why. Everything else must agree.
DIFFERENT = {
    "ping.no_trailing_slash": (200, "both spellings are answered; a redirect costs a request and loses the body"),
    "422.empty_body": (200, "an empty body is an empty object: some endpoints of stock are called without one"),
    "422.no_content_type": (200, "the body is JSON whatever the header says"),
    "422.text_plain": (200, "the body is JSON whatever the header says"),
    "enum_as_numeric_string": (200, "'2' is a number as it is in the other fields"),
    "batch_stage.409_one_exists_of_two": (
        201,
        "the one that exists has other content: left out, since a 409 for it would come for ever",
    ),
    "batch_stage.406_in_flight_initiated": (201, "a repeated request gets its places again; nothing is destroyed"),
    "batch_stage.425_ongoing": (201, "the same"),
    "batch_stage.lying_total_size": (400, "a negative size is refused at once, not when the file is stored"),
    "batch_stage.then_retry_of_doubled_file": (201, "a doubled item is left out, so there are no two rows to choke on"),
    "stage.406_single": (201, "a repeated request gets its place again; nothing is destroyed"),
    "clone.complete.406_already_complete": (200, "a repeated report is fine: its first answer may have been lost"),
    "corrupt.prepare.unknown_file": (409, "an unknown file is an answer, not an internal error"),
    "admin.librarians.add.unreachable": (200, "success is false: a neighbour that does not answer is no fault of ours"),
    "admin.librarians.list.ping_with_dead_peer": (200, "the dead one is not available, the others are shown"),
    "admin.librarians.transfer_status.unknown": (400, "an unknown name is an answer, not an internal error"),
    "admin.librarians.remove.tmpB2": (400, "it was not registered, since its password is wrong"),
    "users.update.unknown": (400, "an unknown account is no success"),
}
#: Where values, lists or numbers in the answer differ, and why.
OTHERWISE = {
    "clone.complete.400_unknown": "the numbers that were asked about are not repeated; no stock client looks for them",
    "batch_stage.409_one_exists_of_two": "left out",
    "batch_stage.same_file_twice_in_batch": "the second of two equal items is left out",
    "batch_stage.lying_total_size": "refused",
    "checkin.update.backwards_refused": "reasons are one sentence for all",
    "checkin.update.completed_refused": "reasons are one sentence for all",
    "admin.librarians.add.wrong_password_passes_ping": "the account is tried out where it is needed, not at ping/",
}
#: Passwords that were shorter than we take.
LONGER = {"pw": "pw-and-more", "pw2": "pw2-and-more"}
#: The answers of an operator's commands, whose truth values are compared, too.
OPERATORS = ("/api/v2/admin/", "/api/v2/users/")


@dataclass
class Replay:
    """Two libtool librarians in the places of the recorded ones."""

    sites: dict[str, Site]
    port: int  #: where both are served
    ids: dict[int, int] = field(default_factory=dict)  #: recorded incoming number → ours
    uploads: dict[int, int] = field(default_factory=dict)  #: recorded number of an upload → ours
    sums: dict[str, str] = field(default_factory=dict)  #: recorded checksum → ours

    def ask(self, exchange: dict[str, Any]) -> router.Response:
        """Send a recorded request."""
        body = exchange["request_body"]
        raw = body.encode() if isinstance(body, str) else json.dumps(self._translated(body)).encode()
        authorization = exchange["authorization"]
        if authorization == "Basic Ym9iOnB3":  # bob:pw
            authorization = "Basic Ym9iOnB3LWFuZC1tb3Jl"
        with self.sites[exchange["to"]].open() as node:
            return router.answer(node, router.Request(exchange["method"], exchange["path"], authorization, raw))

    def _translated(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._value(key, each, value) for key, each in value.items()}
        if isinstance(value, list):
            return [self._translated(each) for each in value]
        return self.sums.get(value, value) if isinstance(value, str) else value

    def _value(self, key: str, each: Any, whole: dict[str, Any]) -> Any:
        """One field with our numbers, names and places in it."""
        if key == "destination_transfer_ids":
            return [self.ids.get(id, id) for id in each]
        if key == "destination_transfer_id":
            return self.ids.get(each, each)
        if key == "transfer_id":
            return self.uploads.get(each, each)
        if key in ("password", "new_password"):
            return LONGER.get(each, each)
        if key == "store_name":
            return "main"
        if key == "port" and each != 9:
            return self.port
        if key == "url" and whole["port"] != 9:
            return "http://127.0.0.1/B"
        return self._translated(each)

    def expected(self, value: Any) -> Any:
        """A recorded answer with our numbers of incoming transfers."""
        if isinstance(value, dict):
            return {
                key: [self.ids.get(id, id) for id in each]
                if key.endswith("_destination_transfer_ids")
                else {str(self.ids.get(int(id), int(id))): status for id, status in each.items()}
                if key == "destination_transfer_status"
                else each
                for key, each in value.items()
            }
        return value


def shape(recorded: Any, ours: Any, where: str, *, truths: bool = False) -> None:
    """Every key that was recorded is there with the same JSON type; in lists, of every element. ``truths``: true and
    false are compared, too."""
    if recorded is None or ours is None:
        return
    assert type(recorded) is type(ours), (where, recorded, ours)
    if isinstance(recorded, dict):
        for key in recorded:
            assert key in ours, (where, key)
            shape(recorded[key], ours[key], f"{where}.{key}", truths=truths)
    elif isinstance(recorded, list) and recorded:
        assert ours, where
        for each in ours:
            shape(recorded[0], each, f"{where}[]", truths=truths)
    elif truths and isinstance(recorded, bool):
        assert recorded is ours, where


def recorded() -> list[dict[str, Any]]:
    """All exchanges, in their order."""
    return [json.loads(line) for line in DATA.read_text().splitlines()]


@contextmanager
def replaying(top: Path) -> Iterator[Replay]:
    """Accounts, neighbours and files as they were when it was recorded."""
    roots = [str(top / "B")]
    sites = {"A": make_site("liba", top / "A", local_transfer_roots=roots), "B": make_site("libb", top / "B")}
    accounts = [
        ("A", "libb", "CALLBACK", "bpass"),
        ("A", "admin", "ADMIN", "password"),
        ("B", "liba", "READAPPEND", "apass"),
        ("B", "admin", "ADMIN", "password"),
    ]
    for at, name, level, password in accounts:
        # The recorded passwords are shorter than the command line takes.
        from libtool.archive import accounts as rows
        from libtool.states import AuthLevel

        with sites[at].open() as node:
            rows.create(node, name, AuthLevel[level], password)
    with serving({name: site.config for name, site in sites.items()}) as (port, _):
        words = ["--port", str(port), "--authenticator", "-", "--do-not-check-connection"]
        for at, name, there, account in (("A", "libb", "B", "liba:apass"), ("B", "liba", "A", "libb:bpass")):
            url = f"http://127.0.0.1/{there}"
            sites[at].run(0, "add-librarian", "--name", name, "--url", url, *words, stdin=f"{account}\n")
        yield fill(Replay(sites, port), top)


def batch() -> list[dict[str, Any]]:
    """What A sent to B in one batch."""
    stage = next(it for it in recorded() if it["name"] == "pipeline.send_clone" and "uploads" in it["request_body"])
    uploads: list[dict[str, Any]] = stage["request_body"]["uploads"]
    return uploads


def fill(replay: Replay, top: Path) -> Replay:
    """The files that A had, with content of ours; one of them it gets only by the recorded upload."""
    uploaded = next(it for it in recorded() if it["path"] == "/api/v2/upload/stage")["request_body"]
    for item in batch():
        by_upload = item["upload_name"] == uploaded["destination_location"]
        path = top / ("later" if by_upload else "source") / item["upload_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((item["upload_name"].encode() * 400)[: item["upload_size"]])
        replay.sums[item["upload_checksum"]] = digest.of_path(str(path))
    replay.sites["A"].run(0, "ingest", "--recursive", str(top / "source"))
    return replay


def send(site: Site) -> None:
    """What A had written down before it sent them."""
    with site.open() as node:
        File.update(create_time=datetime(2026, 11, 21, 7, 58, 8, 114367, tzinfo=timezone.utc)).execute()
        libb = Librarian.get(Librarian.name == "libb").id
        for item in batch():
            OutgoingTransfer.create(
                id=item["source_transfer_id"],
                file=File.get(File.name == item["upload_name"]).id,
                destination=libb,
                status=TransferStatus.STAGED,
                owed=Owed.NOTHING,
                remote_id=item["source_transfer_id"],
                create_time=node.now(),
            )


def test_recorded_exchanges_of_stock_are_answered_alike(tmp_path: Path) -> None:
    with replaying(tmp_path) as replay:
        played = play(replay, tmp_path)
    assert played.keys() >= DIFFERENT.keys() and played.keys() >= OTHERWISE.keys(), "a difference that is not recorded"
    print(f"{sum(played.values())} of {len(recorded())} exchanges played, {len(DIFFERENT)} with another status")
    assert sum(played.values()) > 125


def play(replay: Replay, top: Path) -> Counter[str]:
    """Send every request that was recorded and compare the answers; returns which were sent."""
    played: Counter[str] = Counter()
    for exchange in recorded():
        name = exchange["name"]
        if name.startswith("corrupt.") and "/corrupt/" not in exchange["path"]:
            continue  # what the source asked back: ours does so itself, in its own words
        if name == "pipeline.send_clone" and name not in played:
            send(replay.sites["A"])
        if name == "corrupt.resend.200":
            forget(replay.sites["B"], exchange["request_body"]["file_name"])
        said = replay.ask(exchange)
        status, _ = DIFFERENT.get(name, (exchange["status"], ""))
        body = json.loads(said.body or b'""')
        assert said.status == status, (name, said.status, body)
        played[name] += 1
        if said.status >= 400:
            check_error(exchange, said, body)
        else:
            check_answer(replay, exchange, body)
            follow(replay, exchange, body, top)
    return played


def forget(site: Site, name: str) -> None:
    """What the requester of a resend did before it asked: it forgot its copy."""
    with site.open():
        file = File.get(File.name == name)
        IncomingTransfer.update(file=None).where(IncomingTransfer.file == file.id).execute()
        Instance.delete().where(Instance.file == file.id).execute()
        file.delete_instance()
    (site.store / name).unlink()


def check_error(exchange: dict[str, Any], said: router.Response, body: dict[str, Any]) -> None:
    """Flat, always: a stock client crashes on a list or an object in ``detail``, and loses what it holds of text."""
    name = exchange["name"]
    assert "detail" not in body, name
    assert isinstance(body["reason"], str) and isinstance(body["suggested_remedy"], str), name
    extra = exchange["response_body"] if isinstance(exchange["response_body"], dict) else {}
    if "detail" in extra and isinstance(extra["detail"], str) and extra["detail"].startswith("{"):
        extra = json.loads(extra["detail"])
    if name not in OTHERWISE and exchange["status"] == said.status:
        for key in extra.keys() & {"source_transfer_ids", "destination_transfer_ids", "source_transfer_id"}:
            if extra[key] != -1:  # which stands for no transfer at all
                assert body.get(key) == extra[key], (name, key)
    if exchange["status"] == 401 == said.status and not exchange["path"].startswith("/api/v2/corrupt"):
        assert said.headers["WWW-Authenticate"].startswith("Basic")
    if exchange["status"] == 405:
        assert said.headers["Allow"] == "POST"


def check_answer(replay: Replay, exchange: dict[str, Any], body: Any) -> None:
    """The shape that was recorded, the same progress of the same transfers, the same truths."""
    name = exchange["name"]
    if exchange["status"] < 300:
        truths = exchange["path"].startswith(OPERATORS) and name not in OTHERWISE
        shape(replay.expected(exchange["response_body"]), body, name, truths=truths)
    if "/checkin/" in exchange["path"] and exchange["status"] == 200 and name != "enum_as_numeric_string":
        wanted = replay.expected(exchange["response_body"])
        if name in OTHERWISE:
            assert bool(body.pop("reasons")) == bool(wanted.pop("reasons"))
        without = [{key: value for key, value in each.items() if key != "reasons"} for each in (body, wanted)]
        assert without[0] == without[1], name


def follow(replay: Replay, exchange: dict[str, Any], body: Any, top: Path) -> None:
    """What happened at the two sites between the recorded requests: numbers were remembered, bytes were carried."""
    name = exchange["name"]
    if "async_transfer_providers" in body:
        assert stocks.is_batch_staged(body)
        if exchange["status"] < 300:
            kept = exchange["response_body"]["uploads"]
            theirs = {item["source_transfer_id"]: item["destination_transfer_id"] for item in kept}
            ours = {item["source_transfer_id"]: item["destination_transfer_id"] for item in body["uploads"]}
            assert name in OTHERWISE or theirs.keys() == ours.keys(), name
            replay.ids |= {id: ours[number] for number, id in theirs.items() if number in ours}
        provider = next(iter(body["async_transfer_providers"].values()))
        assert provider["hostnames"] == [socket.gethostname()] and provider["transfer_complete"] is False
    if "transfer_providers" in body:
        assert body["transfer_providers"] == {"local": {"hostnames": [socket.gethostname()]}}
    if exchange["path"].endswith("/upload/stage"):
        replay.uploads[exchange["response_body"]["transfer_id"]] = body["transfer_id"]
        Path(body["staging_location"]).write_bytes((top / "later" / body["destination_location"]).read_bytes())
    if name == "corrupt.resend.200":
        replay.ids[exchange["response_body"]["destination_transfer_id"]] = body["destination_transfer_id"]
    if name == "pipeline.send_clone" and "uploads" in body:
        for item in body["uploads"]:
            (path,) = top.glob(f"[ls][ao]*/{item['upload_name']}")
            Path(item["staging_location"]).write_bytes(path.read_bytes())
    if name == "pipeline.check_consumed":
        replay.sites["B"].run(None, "recv-clone")
