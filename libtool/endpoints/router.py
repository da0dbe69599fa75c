"""From one HTTP request to one answer: which endpoint, who is asking, may it, what does it say.

The order is fixed: length, method, path, account, level, then the body's meaning; so nobody without an account gets
anything parsed. Every error is flat JSON, the one shape that all stock clients read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from libtool.errors import BadRequest, DatabaseBusy, Denied, LibtoolError, NotFound
from libtool.node import Node
from libtool.peers import features, passwords
from libtool.states import AuthLevel


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a handler is, who may call it, what it is sent, and with which status it answers."""

    module: str
    function: str
    level: AuthLevel
    message: str | None  #: name of the message in peers.messages; None: an empty object
    status: int = 200


#: Every endpoint, its level, its message. Ownership is checked by the handlers; a test walks the table.
ENDPOINTS = {
    "ping": Endpoint("ping", "ping", AuthLevel.NONE, None),
    "ping/logged": Endpoint("ping", "ping", AuthLevel.READONLY, None),
    "ping/admin": Endpoint("ping", "ping", AuthLevel.ADMIN, None),
    "clone/batch_stage": Endpoint("clone", "batch_stage", AuthLevel.READAPPEND, "BatchStage", 201),
    "clone/fail": Endpoint("clone", "fail", AuthLevel.READAPPEND, "CloneFail"),
    "clone/complete": Endpoint("clone", "complete", AuthLevel.CALLBACK, "CloneComplete"),
    "checkin/update": Endpoint("checkin", "update", AuthLevel.CALLBACK, "CheckinUpdate"),
    "checkin/status": Endpoint("checkin", "status", AuthLevel.CALLBACK, "CheckinStatus"),
    "search/file": Endpoint("search", "file", AuthLevel.READONLY, "SearchFile"),
    "validate/file": Endpoint("validate", "file", AuthLevel.READONLY, "ValidateFile"),
    "corrupt/prepare": Endpoint("corrupt", "prepare", AuthLevel.CALLBACK, "Corrupt"),
    "corrupt/resend": Endpoint("corrupt", "resend", AuthLevel.CALLBACK, "Corrupt"),
    "libtool/clone/batch_stage": Endpoint("clone", "batch_stage_each", AuthLevel.READAPPEND, "BatchStage", 201),
    "libtool/clone/staged": Endpoint("clone", "staged", AuthLevel.READAPPEND, "Staged"),
    "libtool/clone/report": Endpoint("clone", "report", AuthLevel.CALLBACK, "Report"),
}
_PREFIX = "/api/v2/"


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as the web server handed it over."""

    method: str
    path: str
    authorization: str | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """Status, body and what belongs into the head beside their lengths."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def endpoint_of(path: str) -> str | None:
    """The part behind ``/api/v2/``, with or without a slash at its end; None when it is none of ours."""
    _, found, rest = path.partition(_PREFIX)
    return rest.rstrip("/") if found else None


def refuse_early(method: str, path: str) -> Response | None:
    """The answer to what needs neither database nor body: a wrong method, an unknown endpoint."""
    if endpoint_of(path) not in ENDPOINTS:
        return failure(NotFound(why="There is no such endpoint", how="Check the URL."))
    if method != "POST":
        body = {"reason": "Only POST is answered here.", "suggested_remedy": "Use POST."}
        return Response(405, json.dumps(body).encode(), {"Allow": "POST"})
    return None


def answer(node: Node, request: Request) -> Response:
    """The answer to one request; never raises."""
    try:
        early = refuse_early(request.method, request.path)
        if early is not None:
            return early
        endpoint = ENDPOINTS[endpoint_of(request.path) or ""]
        credentials = passwords.from_basic(request.authorization)
        if credentials is None:
            raise Denied()
        caller = None
        if endpoint.level > AuthLevel.NONE:
            from libtool.archive import accounts, librarians

            caller = accounts.authenticate(credentials, node.key())
            if caller is None or caller.level < endpoint.level:
                raise Denied()
            librarians.heard(caller.name, node.now())
        handler = getattr(import_module(f"libtool.endpoints.{endpoint.module}"), endpoint.function)
        said = handler(node, caller, _message(endpoint, request.body))
        if isinstance(said, dict):
            return Response(endpoint.status, json.dumps(said, separators=(",", ":")).encode())
        from libtool.peers import messages

        return Response(endpoint.status, messages.encode(said))
    except LibtoolError as trouble:
        return failure(trouble)
    except Exception as trouble:
        from libtool.models.base import is_passing

        if is_passing(trouble):
            print(f"libtool-callback: database: {(str(trouble).strip().splitlines() or [''])[0]}", file=sys.stderr)
            return failure(DatabaseBusy(database="of this librarian", why="it is busy or not available"))
        # A fault of ours must not show its inside to a peer.
        place = trouble.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
        print(f"libtool-callback: internal error {type(trouble).__name__} at {where}", file=sys.stderr)
        body = {"reason": "Internal error.", "suggested_remedy": "Tell the operator of this librarian."}
        return Response(500, json.dumps(body).encode())


def _message(endpoint: Endpoint, body: bytes) -> Any:
    if endpoint.message is None:
        try:
            found = json.loads(body) if body else {}
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise BadRequest(why="the body is no JSON object")
        return found
    from libtool.peers import messages

    try:
        return messages.decode(getattr(messages, endpoint.message), body)
    except ValueError as wrong:
        raise BadRequest(why=str(wrong)) from None


def failure(trouble: LibtoolError) -> Response:
    """The flat body that says what happened, and what to do."""
    reason = trouble.reason if trouble.reason.endswith(".") else f"{trouble.reason}."
    body = {"reason": reason, "suggested_remedy": trouble.advice or "Try again later.", **trouble.extra}
    headers = {}
    if trouble.http_status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="libtool"'
    if trouble.http_status == 503:
        headers["Retry-After"] = "60"
    return Response(trouble.http_status, json.dumps(body).encode(), headers)


def head(response: Response) -> dict[str, str]:
    """All headers of a response."""
    return {
        "Content-Type": "application/json",
        "Content-Length": str(len(response.body)),
        features.HEADER: features.FEATURES,
        **response.headers,
    }
