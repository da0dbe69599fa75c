"""A stock hera_librarian 5 for tests: both of its ends over real HTTP, its bugs included, its rows in memory.

As a destination it answers requests (:class:`Stock` behind :func:`serving`) and takes in what was staged
(:meth:`Stock.receive`). As a source it makes the requests of the stock client in the order of the stock tasks
(:meth:`Stock.send`, :meth:`Stock.consume`, :meth:`Stock.check`). Nothing of libtool is used here on purpose: what
both would get wrong in the same way would never be found.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests
import xxhash

INITIATED, ONGOING, STAGED, COMPLETED, FAILED, CANCELLED = range(6)
WORDS = ("INITIATED", "ONGOING", "STAGED", "COMPLETED", "FAILED", "CANCELLED")
NONE, READONLY, CALLBACK, READAPPEND, READWRITE, ADMIN = 0, 1, 2, 3, 4, 100
#: Which state checkin/update may set from which.
ALLOWED = {INITIATED: {1, 2, 4, 5}, ONGOING: {2, 4, 5}, STAGED: {4, 5}}
LONGEST_NAME = 256
STORE_ID = 7


def now() -> str:
    """Naive UTC, as stock servers write it."""
    return datetime.now(timezone.utc).replace(tzinfo=None).isoformat()


def checksum_of(path: Path, function: str = "xxh3") -> str:
    """``function:::hex`` of a file, or of a directory taken as one."""

    def fresh() -> Any:
        return xxhash.xxh3_128() if function == "xxh3" else hashlib.new(function)

    def of_file(each: Path) -> str:
        state = fresh()
        state.update(each.read_bytes())
        return str(state.hexdigest())

    if not path.is_dir():
        return f"{function}:::{of_file(path)}"
    state = fresh()
    for digits in sorted(of_file(each) for each in path.rglob("*") if not each.is_dir()):
        state.update(digits.encode())
    return f"{function}:::{state.hexdigest()}"


def size_of(path: Path) -> int:
    """Bytes of a file, or of everything in a directory."""
    return (
        sum(each.stat().st_size for each in path.rglob("*") if not each.is_dir())
        if path.is_dir()
        else path.stat().st_size
    )


# -- the client: how stock librarians call others -----------------------------------------------------------------


class StockHTTPError(Exception):
    """LibrarianHTTPError."""

    def __init__(self, status: int, reason: str, remedy: str, whole: Any) -> None:
        super().__init__(f"{status} {reason}")
        self.status, self.reason, self.remedy, self.whole = status, reason, remedy, whole


class StockTimeout(Exception):
    """LibrarianTimeoutError: no connection."""


class StockCrash(Exception):
    """What nothing in stock catches: its ValidationError of an answer, its TypeError of a list or object in detail."""


@dataclass
class StockClient:
    """The stock client: requests, no time-out, no retry, redirects followed."""

    host: str
    port: int
    user: str
    password: str
    #: Every answer that came back: endpoint, status, body.
    heard: list[tuple[str, int, Any]] = field(default_factory=list)

    def url(self, endpoint: str) -> str:
        """``scheme://netloc:PORT/path/api/v2/endpoint``."""
        parts = urlsplit(self.host)
        assert parts.scheme and ":" not in parts.netloc, "the stock client raises"
        path = parts.path.removesuffix("/") + "/api/v2/" + endpoint
        return urlunsplit((parts.scheme, f"{parts.netloc}:{self.port}", path, parts.query, ""))

    def post(self, endpoint: str, body: dict[str, Any], check: Callable[[Any], bool]) -> Any:
        """POST the model's compact JSON and read the answer as the stock client reads it."""
        try:
            reply = requests.post(
                self.url(endpoint),
                data=json.dumps(body, separators=(",", ":")),
                headers={"Content-Type": "application/json"},
                auth=(self.user, self.password),
            )
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as trouble:
            raise StockTimeout(str(trouble)) from None
        try:
            found = reply.json()
        except ValueError:
            found = {}
        self.heard.append((endpoint, reply.status_code, found))
        if str(reply.status_code)[0] == "2":
            try:
                good = check(found)
            except (KeyError, TypeError, ValueError) as wrong:
                raise StockCrash(f"{endpoint}: {wrong!r} in {found}") from None
            if not good:
                raise StockCrash(f"{endpoint}: the answer is not of its model: {found}")
            return found
        if "detail" in found:
            if not isinstance(found["detail"], str):
                raise StockCrash(f"{endpoint}: TypeError, detail is {type(found['detail']).__name__}")
            try:
                found = json.loads(found["detail"])
            except ValueError:
                found = {}
        reason = found.get("reason", "<no reason provided>")
        raise StockHTTPError(
            reply.status_code, reason, found.get("suggested_remedy", "<no suggested remedy provided>"), found
        )


def whole(value: Any) -> bool:
    """A JSON integer and nothing that only looks like one."""
    return type(value) is int


def naive(text: Any) -> bool:
    """A time without an offset, with microseconds or none."""
    return datetime.fromisoformat(text).tzinfo is None and len(text) in (19, 26)


def is_ping(body: Any) -> bool:
    """PingResponse."""
    return isinstance(body["name"], str) and isinstance(body["description"], str)


def is_provider(provider: Any) -> bool:
    """One of the three models that the smart union knows."""
    return (
        isinstance(provider.get("destination_endpoint"), str)
        or isinstance(provider.get("hostname"), str)
        or (
            isinstance(provider.get("hostnames"), list) and all(isinstance(each, str) for each in provider["hostnames"])
        )
    )


def is_batch_staged(body: Any) -> bool:
    """CloneBatchInitiationResponse."""
    texts = ("staging_name", "staging_location", "upload_name", "destination_location")
    return (
        whole(body["available_bytes_on_store"])
        and isinstance(body["store_name"], str)
        and all(is_provider(each) for each in body["async_transfer_providers"].values())
        and all(
            all(isinstance(item[key], str) for key in texts)
            and whole(item["source_transfer_id"])
            and whole(item["destination_transfer_id"])
            for item in body["uploads"]
        )
    )


def is_updated(body: Any) -> bool:
    """CheckinUpdateResponse."""
    keys = [f"{how}_{side}_transfer_ids" for how in ("modified", "unmodified") for side in ("source", "destination")]
    return all(all(whole(id) for id in body[key]) for key in keys) and all(
        isinstance(each, str) for each in body["reasons"]
    )


def is_statuses(body: Any) -> bool:
    """CheckinStatusResponse."""
    return all(
        int(id) >= 0 and (status is None or (whole(status) and 0 <= status <= 5))
        for side in ("source", "destination")
        for id, status in body[f"{side}_transfer_status"].items()
    )


def is_pair(body: Any) -> bool:
    """CloneCompleteResponse."""
    return whole(body["source_transfer_id"]) and whole(body["destination_transfer_id"])


def is_done(body: Any) -> bool:
    """CloneFailResponse."""
    return is_pair(body) and body["success"] in (True, False)


def is_found(body: Any) -> bool:
    """FileSearchResponses; each list key is required."""
    for each in body:
        assert whole(each["size"]) and naive(each["create_time"])
        assert all(isinstance(each[key], str) for key in ("name", "checksum", "uploader", "source"))
        for copy in each["instances"]:
            assert whole(copy["deletion_policy"]) and naive(copy["created_time"]) and copy["available"] in (True, False)
            assert isinstance(copy["path"], str) and (copy["store_id"] is None or whole(copy["store_id"]))
        for copy in each["remote_instances"]:
            assert isinstance(copy["librarian_name"], str) and naive(copy["copy_time"])
    return isinstance(body, list)


def is_validated(body: Any) -> bool:
    """FileValidationResponse."""
    texts, numbers = (
        ("librarian", "original_checksum", "current_checksum"),
        ("store", "instance_id", "original_size", "current_size"),
    )
    return all(
        all(isinstance(each[key], str) for key in texts)
        and all(whole(each[key]) for key in numbers)
        and each["computed_same_checksum"] in (True, False)
        for each in body
    )


def is_ready(body: Any) -> bool:
    """CorruptionPreparationResponse."""
    return body["ready"] in (True, False)


def is_resent(body: Any) -> bool:
    """CorruptionResendResponse."""
    return body["success"] in (True, False) and whole(body["destination_transfer_id"])


# -- rows ---------------------------------------------------------------------------------------------------------


@dataclass
class Incoming:
    """IncomingTransfer."""

    id: int
    uploader: str
    source: str
    name: str
    size: int
    checksum: str
    source_id: int
    staging: Path
    store_path: str
    status: int = INITIATED

    @property
    def location(self) -> Path:
        """Where the source shall put it."""
        return self.staging / self.name


@dataclass
class Outgoing:
    """OutgoingTransfer."""

    id: int
    name: str
    destination: str
    status: int = INITIATED
    remote_id: int | None = None
    location: str = ""
    queued: bool = False
    shipped: bool = False


@dataclass
class Held:
    """File with its one instance."""

    name: str
    size: int
    checksum: str
    uploader: str
    source: str
    path: Path
    create_time: str = field(default_factory=now)
    available: bool = True


@dataclass
class Reply:
    """What the server says."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """Something that goes wrong at an endpoint, ``left`` times.

    ``lose``: act, then break the connection; ``500``: break before acting; ``omit``: act, then leave the first item (or
    the first modified id) out; ``provider``: a carrier nobody has; ``null``: a provider that is null; ``html``: a page.
    """

    endpoint: str
    kind: str
    left: int = 1


class _Said(Exception):
    """An answer that ends the handling of a request."""

    def __init__(self, status: int, body: Any, **headers: str) -> None:
        super().__init__(str(status))
        self.reply = Reply(status, body, {key.replace("_", "-"): value for key, value in headers.items()})


def _flat(status: int, reason: str, remedy: str = "See the log.", **extra: Any) -> _Said:
    return _Said(status, {"reason": reason, "suggested_remedy": remedy, **extra})


def _inside(status: int, reason: str) -> _Said:
    """Shape 2: JSON text inside ``detail``."""
    inner = {"reason": reason, "suggested_remedy": "", "source_transfer_id": -1, "destination_transfer_id": -1}
    return _Said(status, {"detail": json.dumps(inner, separators=(",", ":"))})


# -- the librarian ------------------------------------------------------------------------------------------------


class Stock:
    """One stock librarian."""

    def __init__(self, name: str, top: Path, free: int = 10**12) -> None:
        self.name = name
        self.store, self.staging = top / "store", top / "staging"
        self.store.mkdir(parents=True)
        self.staging.mkdir()
        self.free = free
        self.accounts: dict[str, tuple[str, int]] = {}
        self.incoming: dict[int, Incoming] = {}
        self.outgoing: dict[int, Outgoing] = {}
        self.files: dict[str, Held] = {}
        self.remote: list[tuple[str, str, int]] = []  #: file, librarian, store id there; stock keeps duplicates
        self.faults: list[Fault] = []
        self.asked: list[tuple[str, Any, int]] = []  #: endpoint, body, status (0: no answer was sent)
        self.peers: dict[str, StockClient] = {}
        self.hostnames = [socket.gethostname()]
        #: A name that makes the whole request a 500, as a row does that stock itself doubled.
        self.poison: str | None = None
        self.lock = threading.RLock()

    # .. as a server ..............................................................................................

    ENDPOINTS = {
        "ping/": NONE,
        "ping/logged": READONLY,
        "ping/admin": ADMIN,
        "clone/batch_stage": READAPPEND,
        "clone/complete": CALLBACK,
        "clone/fail": READAPPEND,
        "checkin/update": CALLBACK,
        "checkin/status": CALLBACK,
        "search/file": READONLY,
        "validate/file": READONLY,
        "corrupt/prepare": CALLBACK,
        "corrupt/resend": CALLBACK,
    }

    def fault(self, endpoint: str, kind: str, times: int = 1) -> None:
        """Switch a fault on."""
        self.faults.append(Fault(endpoint, kind, times))

    def _take_fault(self, endpoint: str, *kinds: str) -> str | None:
        for fault in self.faults:
            if fault.endpoint == endpoint and fault.kind in kinds and fault.left:
                fault.left -= 1
                return fault.kind
        return None

    def answer(self, method: str, path: str, headers: Any, raw: bytes) -> Reply | None:
        """The answer to one request; None when the connection shall break."""
        with self.lock:
            endpoint = path.partition("/api/v2/")[2]
            try:
                reply = self._answer(method, endpoint, headers, raw)
            except _Said as said:
                reply = said.reply
            try:
                body = json.loads(raw)
            except ValueError:
                body = raw
            kind = self._take_fault(endpoint, "lose", "omit", "provider", "null", "html")
            self.asked.append((endpoint, body, 0 if kind == "lose" else reply.status))
            if kind == "lose":
                return None
            if kind == "html":
                return Reply(502, "<html><body>Bad Gateway</body></html>", {"Content-Type": "text/html"})
            if kind == "omit":
                for key in ("uploads", "modified_destination_transfer_ids"):
                    if key in reply.body:
                        del reply.body[key][:1]
            if kind == "provider":
                reply.body["async_transfer_providers"] = {"local": {"hostnames": ["elsewhere.example.org"]}}
            if kind == "null":
                reply.body["async_transfer_providers"] = {"local": None}
            return reply

    def _answer(self, method: str, endpoint: str, headers: Any, raw: bytes) -> Reply:
        if endpoint not in self.ENDPOINTS:
            other = endpoint.removesuffix("/") if endpoint.endswith("/") else endpoint + "/"
            if other in self.ENDPOINTS:
                raise _Said(307, "", Location=f"http://{headers['Host']}/api/v2/{other}")
            raise _Said(404, {"detail": "Not Found"})
        if method != "POST":
            raise _Said(405, {"detail": "Method Not Allowed"}, Allow="POST")
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            self._invalid("json_invalid", 1)
        user, level = self._authenticate(headers.get("Authorization"))
        if level < self.ENDPOINTS[endpoint]:
            raise _Said(401, {"detail": "Incorrect username or password"}, WWW_Authenticate="Basic")
        if not headers.get("Content-Type", "").startswith("application/json") or not isinstance(body, dict):
            self._invalid("missing")
        if self._take_fault(endpoint, "500"):
            raise _Said(500, "Internal Server Error", Content_Type="text/plain; charset=utf-8")
        handler = getattr(self, "_" + endpoint.strip("/").replace("/", "_"))
        reply: Reply = handler(user, level >= ADMIN, body)
        return reply

    @staticmethod
    def _invalid(kind: str, *where: Any) -> None:
        raise _Said(
            422, {"detail": [{"type": kind, "loc": ["body", *where], "msg": "Input should be valid", "input": None}]}
        )

    def _authenticate(self, header: str | None) -> tuple[str, int]:
        try:
            scheme, _, rest = (header or "").partition(" ")
            user, colon, password = base64.b64decode(rest, validate=True).decode("ascii").partition(":")
        except ValueError:
            scheme, colon = "", ""
        if scheme.lower() != "basic" or not colon:
            raise _Said(401, {"detail": "Not authenticated"}, WWW_Authenticate="Basic")
        known = self.accounts.get(user)
        return user, known[1] if known is not None and known[0] == password else NONE

    def _number(self, body: Any, key: str) -> int:
        value = body.get(key)
        if type(value) is not int:
            self._invalid("int_type", key)
        return int(value)

    def _numbers(self, body: Any, key: str) -> list[int]:
        if not isinstance(body.get(key), list) or any(type(each) is not int for each in body[key]):
            self._invalid("int_type", key)
        return list(body[key])

    def _text(self, body: Any, key: str) -> str:
        if not isinstance(body.get(key), str):
            self._invalid("string_type", key)
        return str(body[key])

    def _ping(self, user: str, admin: bool, body: Any) -> Reply:
        return Reply(200, {"name": f"Stock {self.name}", "description": "as it is"})

    _ping_logged = _ping_admin = _ping

    def _clone_batch_stage(self, user: str, admin: bool, body: Any) -> Reply:
        """Whole batches are refused, 425 before 409 before 406; what is 406 is destroyed in any case."""
        items = body.get("uploads")
        if not isinstance(items, list):
            self._invalid("missing", "uploads")
        source, total = self._text(body, "source"), self._number(body, "total_size")
        for item in items:
            for key in ("upload_size", "source_transfer_id"):
                self._number(item, key)
            for key in ("upload_checksum", "upload_name", "destination_location", "uploader"):
                self._text(item, key)
        if total < 0:
            raise _inside(400, "Upload size must be positive.")
        if not self.free > total:
            raise _inside(413, "No stores available for upload. Your upload is too large.")
        if any(item["destination_location"] == self.poison for item in items):
            raise _Said(500, "Internal Server Error", Content_Type="text/plain; charset=utf-8")
        bad: dict[int, list[int]] = {425: [], 409: [], 406: []}
        for item in items:
            path = str(PurePosixPath(item["destination_location"]))
            alike = [
                row
                for row in self.incoming.values()
                if row.checksum == item["upload_checksum"] and row.store_path == path and row.status < COMPLETED
            ]
            if len(alike) > 1:  # MultipleResultsFound
                raise _Said(500, "Internal Server Error", Content_Type="text/plain; charset=utf-8")
            if path in self.files:
                bad[409].append(item["source_transfer_id"])
            elif alike and alike[0].status == ONGOING:
                bad[425].append(item["source_transfer_id"])
            elif alike:
                alike[0].status = FAILED
                shutil.rmtree(alike[0].staging, ignore_errors=True)
                bad[406].append(item["source_transfer_id"])
        reasons = {
            425: "Transfer is ongoing.",
            409: "File already exists on librarian.",
            406: "Transfer was already initiated or staged.",
        }
        for status, ids in bad.items():
            if ids:
                raise _flat(status, reasons[status], source_transfer_ids=ids, destination_transfer_ids=[-1] * len(ids))
        uploads = []
        for item in items:
            path = str(PurePosixPath(item["destination_location"]))
            assert max(len(path), len(item["upload_name"]), len(item["uploader"])) <= LONGEST_NAME, (
                "a column is too short"
            )
            number = len(self.incoming) + 1
            row = Incoming(
                number,
                user,
                source,
                str(PurePosixPath(item["upload_name"])),
                item["upload_size"],
                item["upload_checksum"],
                item["source_transfer_id"],
                self.staging / str(uuid.uuid4()),
                path,
            )
            row.staging.mkdir()
            self.incoming[number] = row
            uploads.append(
                {
                    "staging_name": row.staging.name,
                    "staging_location": str(row.location),
                    "upload_name": row.name,
                    "destination_location": row.store_path,
                    "source_transfer_id": row.source_id,
                    "destination_transfer_id": number,
                }
            )
        state = {
            "transfer_attempted": False,
            "transfer_complete": False,
            "start_time_transfer": None,
            "bytes_transfer": None,
        }
        answer = {"available_bytes_on_store": self.free, "store_name": "store", "uploads": uploads}
        return Reply(201, answer | {"async_transfer_providers": {"local": {"hostnames": self.hostnames} | state}})

    def _clone_fail(self, user: str, admin: bool, body: Any) -> Reply:
        """From any state, COMPLETED too; the staged data stay."""
        ids = {key: self._number(body, key) for key in ("source_transfer_id", "destination_transfer_id")}
        self._text(body, "reason")
        row = self.incoming.get(ids["destination_transfer_id"])
        if row is None or (not admin and row.uploader != user):
            raise _flat(404, f"Could not find transfer with ID {ids['destination_transfer_id']}.", **ids)
        row.status = FAILED
        return Reply(200, ids | {"success": True})

    def _clone_complete(self, user: str, admin: bool, body: Any) -> Reply:
        ids = {key: self._number(body, key) for key in ("source_transfer_id", "destination_transfer_id")}
        store = self._number(body, "store_id")
        row = self.outgoing.get(ids["source_transfer_id"])
        if row is None or (not admin and row.destination != user):
            raise _flat(400, "Could not find transfer.", **ids)
        if row.status not in (ONGOING, STAGED):
            raise _flat(406, "Transfer is not in ONGOING or STAGED status.", **ids)
        row.status = COMPLETED
        self.remote.append((row.name, row.destination, store))
        return Reply(200, ids)

    def _checkin_update(self, user: str, admin: bool, body: Any) -> Reply:
        sides = {side: self._numbers(body, f"{side}_transfer_ids") for side in ("source", "destination")}
        new = self._number(body, "new_status")
        if not 0 <= new <= 5:
            self._invalid("enum", "new_status")
        answer: dict[str, Any] = {
            f"{how}_{side}_transfer_ids": [] for how in ("modified", "unmodified") for side in ("source", "destination")
        }
        reasons = set()
        for side, ids in sides.items():
            for id in ids:
                row: Any = (self.outgoing if side == "source" else self.incoming).get(id)
                if row is None:
                    reasons.add(f"No {side} transfer with the appropriate ID was found.")
                elif not admin and user not in self._owners(row):
                    reasons.add("You are not authorized to modify the transfer.")
                elif new not in ALLOWED.get(row.status, set()):
                    old = WORDS[row.status]
                    reasons.add(
                        f"Transition from TransferStatus.{old} to TransferStatus.{WORDS[new]} is not permitted."
                    )
                else:
                    row.status = new
                    answer[f"modified_{side}_transfer_ids"].append(id)
                    continue
                answer[f"unmodified_{side}_transfer_ids"].append(id)
        return Reply(200, answer | {"reasons": sorted(reasons)})

    @staticmethod
    def _owners(row: Any) -> set[str]:
        return {row.destination} if isinstance(row, Outgoing) else {row.source, row.uploader}

    def _checkin_status(self, user: str, admin: bool, body: Any) -> Reply:
        answer = {}
        for side, table in (("source", self.outgoing), ("destination", self.incoming)):
            rows: Any = table
            answer[f"{side}_transfer_status"] = {
                str(id): rows[id].status if id in rows and (admin or user in self._owners(rows[id])) else None
                for id in self._numbers(body, f"{side}_transfer_ids")
            }
        return Reply(200, answer)

    def _search_file(self, user: str, admin: bool, body: Any) -> Reply:
        found = [each for each in self.files.values() if body.get("name") in (None, each.name)]
        if not found:
            raise _flat(404, "No files found.", "Check that you are searching for the correct file.")
        return Reply(
            200,
            [
                {
                    "name": each.name,
                    "create_time": each.create_time,
                    "size": each.size,
                    "checksum": each.checksum,
                    "uploader": each.uploader,
                    "source": each.source,
                    "instances": [
                        {
                            "path": str(each.path),
                            "deletion_policy": 0,
                            "created_time": each.create_time,
                            "available": each.available,
                            "id": None,
                            "file_name": None,
                            "store_id": STORE_ID,
                        }
                    ],
                    "remote_instances": [],
                }
                for each in found[: body.get("max_results", 64)]
            ],
        )

    def _validate_file(self, user: str, admin: bool, body: Any) -> Reply:
        """Remote results first, without any guard against being asked in a circle; what is not on the disk is left out."""
        name = self._text(body, "file_name")
        found = self.files.get(name)
        if found is None:
            raise _flat(400, "This file does not exist in the librarian.", "Check the file name and try again.")
        rows: list[dict[str, Any]] = []
        for peer in dict.fromkeys(librarian for file, librarian, _ in self.remote if file == name):
            try:
                self.peers[peer].post("ping/", {}, is_ping)
                rows += self.peers[peer].post("validate/file", {"file_name": name}, is_validated)
            except (KeyError, StockHTTPError, StockTimeout):
                continue
        if found.available and found.path.exists():
            current = checksum_of(found.path, found.checksum.split(":::")[0])
            row = {"librarian": self.name, "store": STORE_ID, "instance_id": 1, "original_checksum": found.checksum}
            row |= {"original_size": found.size, "current_checksum": current, "current_size": size_of(found.path)}
            rows.append(row | {"computed_same_checksum": current == found.checksum})
        return Reply(200, rows)

    def _corrupt_prepare(self, user: str, admin: bool, body: Any) -> Reply:
        self._may_resend(user, self._text(body, "file_name"), self._text(body, "librarian_name"))
        return Reply(200, {"ready": True})

    def _may_resend(self, user: str, name: str, librarian: str) -> None:
        """Unknown files and those without a copy are a 500; while the other waits, it is asked for a sign of life."""
        if librarian not in self.peers or librarian != user:
            raise _Said(401, {"detail": {"reason": "Librarian is not the caller.", "suggested_remedy": ""}})
        found = self.files.get(name)
        if found is None or not found.available or not found.path.exists():
            raise _Said(500, "Internal Server Error", Content_Type="text/plain; charset=utf-8")
        if checksum_of(found.path, found.checksum.split(":::")[0]) != found.checksum:
            raise _Said(409, {"detail": {"reason": "Our own copy is corrupt.", "suggested_remedy": ""}})
        try:
            self.peers[librarian].post("ping/logged", {}, is_ping)
        except (StockHTTPError, StockTimeout) as trouble:
            raise _Said(409, {"detail": {"reason": str(trouble), "suggested_remedy": ""}}) from None

    def _corrupt_resend(self, user: str, admin: bool, body: Any) -> Reply:
        """The push of one file inside the request, and then it forgets where the file was."""
        name, librarian = self._text(body, "file_name"), self._text(body, "librarian_name")
        self._may_resend(user, name, librarian)
        before = len(self.outgoing)
        self._send_batch(librarian, self.peers[librarian], [self.files[name]])
        row = self.outgoing[before + 1]
        if row.remote_id is None or row.status == FAILED:
            raise _Said(409, {"detail": {"reason": "It could not be staged.", "suggested_remedy": ""}})
        self.remote = [each for each in self.remote if each[:2] != (name, librarian)]
        return Reply(200, {"success": True, "destination_transfer_id": row.remote_id})

    # .. its files ................................................................................................

    def hold(self, name: str, content: bytes, uploader: str = "admin") -> None:
        """Have a file."""
        path = self.store / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.files[name] = Held(name, len(content), checksum_of(path), uploader, uploader, path)

    def content(self) -> dict[str, bytes]:
        """Every file in the store, by name."""
        return {
            str(each.relative_to(self.store)): each.read_bytes() for each in self.store.rglob("*") if each.is_file()
        }

    # .. as a destination .........................................................................................

    def receive(self, spoil: Callable[[Incoming], bool] = lambda row: False) -> list[str]:
        """recieve_clone: verify, move, then one callback for each and no second. Returns what could not be told.

        ``spoil``: what the ingest of a row finds wrong although the bytes are right (a disabled store and the like).
        """
        untold = []
        for row in [row for row in self.incoming.values() if row.status == STAGED]:
            target = self.store / row.store_path
            path = row.location
            good = (
                not spoil(row)
                and path.exists()
                and size_of(path) == row.size
                and checksum_of(path, row.checksum.split(":::")[0]) == row.checksum
                and not target.exists()
            )
            if good:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.rename(path, target)
                assert row.store_path not in self.files
                self.files[row.store_path] = Held(
                    row.store_path, row.size, row.checksum, row.uploader, row.source, target
                )
            row.status = COMPLETED if good else FAILED
            shutil.rmtree(row.staging, ignore_errors=True)
            try:
                if good:
                    message = {
                        "source_transfer_id": row.source_id,
                        "destination_transfer_id": row.id,
                        "store_id": STORE_ID,
                    }
                    self.peers[row.source].post("clone/complete", message, is_pair)
                else:
                    self._tell(row.source, "source", [row.source_id], FAILED)
            except (StockHTTPError, StockTimeout) as trouble:
                untold.append(f"{row.store_path}: {trouble}")
        return untold

    def fix(self, name: str) -> int:
        """corruption_fixer for one file: ping, prepare, forget all of it, resend. Returns the number it was told."""
        found = self.files[name]
        client = self.peers[found.source]
        message = {"file_name": name, "librarian_name": self.name}
        client.post("ping/", {}, is_ping)
        client.post("corrupt/prepare", message, is_ready)
        found.path.unlink(missing_ok=True)
        del self.files[name]
        self.remote = [each for each in self.remote if each[0] != name]
        return int(client.post("corrupt/resend", message, is_resent)["destination_transfer_id"])

    def _tell(self, peer: str, side: str, ids: list[int], status: int) -> Any:
        message: dict[str, Any] = {"source_transfer_ids": [], "destination_transfer_ids": [], "new_status": status}
        message[f"{side}_transfer_ids"] = ids
        return self.peers[peer].post("checkin/update", message, is_updated)

    def incoming_hypervisor(self) -> None:
        """Ask the source about everything live; any error or null fails the transfer."""
        for row in [row for row in self.incoming.values() if row.status < COMPLETED]:
            client = self.peers[row.source]
            try:
                client.post("ping/", {}, is_ping)
            except (StockHTTPError, StockTimeout):
                continue
            message = {"source_transfer_ids": [row.source_id], "destination_transfer_ids": []}
            try:
                there = client.post("checkin/status", message, is_statuses)["source_transfer_status"][
                    str(row.source_id)
                ]
            except Exception:
                there = None
            if there is None or there >= COMPLETED or (row.status, there) == (ONGOING, INITIATED):
                row.status = FAILED
                shutil.rmtree(row.staging, ignore_errors=True)
                self._tell(row.source, "source", [row.source_id], FAILED)
            elif there > row.status:
                row.status = there

    # .. as a source ..............................................................................................

    def send(self, peer: str, batch: int = 128) -> list[str]:
        """send_clone, one cycle: ping, rows, batch_stage, queue, checkin/update 1. Returns what it logged."""
        client, log = self.peers[peer], []
        there = {name for name, librarian, _ in self.remote if librarian == peer}
        live = {row.name for row in self.outgoing.values() if row.destination == peer and row.status < COMPLETED}
        due = [each for each in self.files.values() if each.name not in there | live]
        for begin in range(0, len(due), batch):
            try:
                client.post("ping/", {}, is_ping)
            except (StockHTTPError, StockTimeout) as trouble:
                return [*log, f"ping: {trouble}"]
            log += self._send_batch(peer, client, due[begin : begin + batch])
        return log

    def _send_batch(self, peer: str, client: StockClient, files: list[Held]) -> list[str]:
        rows = {}
        for each in files:
            number = len(self.outgoing) + 1
            self.outgoing[number] = rows[number] = Outgoing(number, each.name, peer)
        message = {
            "uploads": [
                {
                    "upload_size": self.files[row.name].size,
                    "upload_checksum": self.files[row.name].checksum,
                    "upload_name": row.name,
                    "destination_location": row.name,
                    "uploader": self.files[row.name].uploader,
                    "source_transfer_id": row.id,
                }
                for row in rows.values()
            ],
            "source": self.name,
            "total_size": sum(self.files[row.name].size for row in rows.values()),
        }
        try:
            answer = client.post("clone/batch_stage", message, is_batch_staged)
        except StockTimeout as trouble:
            self._fail(rows.values())
            return [str(trouble)]
        except StockHTTPError as refusal:
            log = [str(refusal)]
            if refusal.status == 409:
                for id in refusal.whole["source_transfer_ids"]:
                    log += self._settle(peer, client, rows[id])
            self._fail(rows.values())  # P10: the settled ones too
            return log
        given = {item["source_transfer_id"]: item for item in answer["uploads"]}
        missing = [row for id, row in rows.items() if id not in given]
        self._fail(missing)
        log = [f"left out: {row.name}" for row in missing]
        taken = [row for id, row in rows.items() if id in given]
        if not answer["async_transfer_providers"]:
            self._fail(taken)
            return [*log, "no provider"]
        next(iter(answer["async_transfer_providers"].values()))  # P15: the first, usable or not
        for row in taken:
            row.remote_id, row.location = given[row.id]["destination_transfer_id"], given[row.id]["staging_location"]
            row.queued = True
        try:
            self._tell(peer, "destination", [row.remote_id or 0 for row in taken], ONGOING)
        except (StockHTTPError, StockTimeout) as trouble:
            return [*log, str(trouble)]  # P18: and goes on
        for row in taken:
            row.status = ONGOING
        return log

    def _settle(self, peer: str, client: StockClient, row: Outgoing) -> list[str]:
        """What a 409 is about: look what the other one has."""
        message = {"name": row.name, "create_time_window": None, "uploader": None, "source": None, "max_results": 64}
        try:
            client.post("ping/", {}, is_ping)
            found = client.post("search/file", message, is_found)
        except (StockHTTPError, StockTimeout) as trouble:
            return [str(trouble)]
        if {each["checksum"] for each in found} != {self.files[row.name].checksum}:
            return [f"differs: {row.name}"]
        store = found[0]["instances"][0]["store_id"]  # no instance: a crash
        if not whole(store):
            raise StockCrash("store_id is null")
        self.remote.append((row.name, peer, store))
        return []

    def _fail(self, rows: Any) -> None:
        for row in rows:
            row.status = FAILED
            if row.remote_id is not None:
                ids = {"source_transfer_id": row.id, "destination_transfer_id": row.remote_id}
                self.peers[row.destination].post("clone/fail", ids | {"reason": "failed here"}, is_done)

    def consume(self) -> None:
        """consume_queue with the stock local copier: it makes one missing directory level, never two."""
        for row in self.outgoing.values():
            if row.queued and not row.shipped and row.status <= ONGOING:
                goal, origin = Path(row.location), self.files[row.name].path
                if not goal.parent.exists():
                    os.mkdir(goal.parent, 0o775)
                if origin.is_dir():
                    shutil.copytree(origin, goal)  # the leaf must not exist
                else:
                    shutil.copyfile(origin, goal)
                    os.chmod(goal, 0o664)
                row.shipped = True

    def check(self) -> list[str]:
        """check_consumed_queue: tell STAGED, and believe in it whatever the answer's lists say (P19)."""
        log = []
        for peer in {row.destination for row in self.outgoing.values()}:
            rows = [row for row in self.outgoing.values() if row.destination == peer and row.queued and row.shipped]
            if not rows:
                continue
            try:
                self._tell(peer, "destination", [row.remote_id or 0 for row in rows], STAGED)
            except (StockHTTPError, StockTimeout) as trouble:
                log.append(str(trouble))
                continue
            for row in rows:
                row.status, row.queued = STAGED, False
        return log

    def cycle(self, peer: str, batch: int = 128) -> list[str]:
        """The three tasks of a source, once each."""
        log = self.send(peer, batch)
        self.consume()
        return log + self.check()

    def outgoing_hypervisor(self) -> None:
        """Look at the destination for everything live."""
        for row in [row for row in self.outgoing.values() if row.status < COMPLETED]:
            client = self.peers[row.destination]
            message = {
                "name": row.name,
                "create_time_window": None,
                "uploader": None,
                "source": None,
                "max_results": 64,
            }
            try:
                client.post("ping/", {}, is_ping)
                found = client.post("search/file", message, is_found)
            except StockTimeout:
                continue
            except StockHTTPError as refusal:
                found = []
                if refusal.reason != "No files found.":
                    continue
            if {each["checksum"] for each in found} == {self.files[row.name].checksum}:
                self.remote.append((row.name, row.destination, found[0]["instances"][0]["store_id"]))
                row.status = COMPLETED
            else:
                self._fail([row])


# -- over HTTP ----------------------------------------------------------------------------------------------------


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    stock: Stock

    def do_POST(self) -> None:
        """One request."""
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        reply = self.stock.answer(self.command, self.path, self.headers, raw)
        if reply is None:
            self.close_connection = True
            return
        plain = isinstance(reply.body, str)
        body = reply.body.encode() if plain else json.dumps(reply.body, separators=(",", ":")).encode()
        self.send_response(reply.status)
        for key, value in ({} if plain else {"Content-Type": "application/json"}).items() | reply.headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, *words: Any) -> None:
        """Silent."""


@contextmanager
def serving(stock: Stock, port: int = 0) -> Iterator[int]:
    """Let it answer on a port; which one is yielded."""
    handler = type("Handler", (_Handler,), {"stock": stock})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
