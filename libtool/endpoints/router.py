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

from libtool.endpoints.table import ENDPOINTS, Endpoint
from libtool.errors import BadRequest, DatabaseBusy, Denied, LibtoolError, NotFound, TooLarge
from libtool.node import Node
from libtool.peers import features, passwords
from libtool.states import AuthLevel

_PREFIX = "/api/v2/"


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as the web server handed it over."""

    method: str
    path: str
    authorization: str | None
    body: bytes
    known_as: str | None = None  #: the account that sshd has proved; then there is no password
    address: str = ""  #: where it came from, for the log


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


def limit(path: str, most: int) -> int:
    """How many bytes a request to an endpoint may have, where ``most`` is what the configuration allows at all."""
    return min(most, ENDPOINTS[endpoint_of(path) or ""].most or most)


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
        caller = _caller(node, request, endpoint)
        handler = getattr(import_module(f"libtool.endpoints.{endpoint.module}"), endpoint.function)
        said = handler(node, caller, _message(endpoint, request.body, node))
        if said is None:
            return Response(endpoint.status, b"")
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


def _caller(node: Node, request: Request, endpoint: Endpoint) -> Any:
    """Who is asking; raises Denied unless it may. Where no account is needed, any will do."""
    credentials = passwords.from_basic(request.authorization)
    if credentials is None and request.known_as is None:
        raise Denied()
    if endpoint.level <= AuthLevel.NONE:
        return None
    from libtool.archive import accounts, librarians

    if request.known_as is not None:
        caller, name = accounts.known(request.known_as), request.known_as
    else:
        caller, name = accounts.authenticate(node, credentials), (credentials or ("",))[0]
    if caller is None or caller.level < endpoint.level:
        what = "is not known under this password" if caller is None else f"has only the level {caller.level.name}"
        asked = endpoint_of(request.path)
        print(f"libtool-callback: denied {asked}: {ascii(name)[:80]} {what}, from {request.address}", file=sys.stderr)
        raise Denied()
    librarians.heard(caller.name, node.now())
    return caller


def _message(endpoint: Endpoint, body: bytes, node: Node) -> Any:
    if endpoint.most is not None and len(body) > endpoint.most:
        raise TooLarge(why=f"at most {endpoint.most} bytes are read here")
    if endpoint.message is None:
        try:
            found = json.loads(body) if body else {}
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise BadRequest(why="the body is no JSON object")
        return found
    room, _, name = endpoint.message.rpartition(".")
    kinds: Any = import_module(f"libtool.peers.{room or 'messages'}")
    from libtool.peers import messages

    try:
        found = messages.decode(getattr(kinds, name), body)
    except ValueError as wrong:
        raise BadRequest(why=str(wrong)) from None
    most = node.settings.max_batch_items
    for field_name in found.__struct_fields__:
        given = getattr(found, field_name)
        if isinstance(given, list) and len(given) > most:
            raise TooLarge(why=f"{len(given)} {field_name} at once; at most {most} are taken")
    return found


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
    said = {"Content-Type": "application/json"} if response.body else {}
    return {
        **said,
        "Content-Length": str(len(response.body)),
        features.HEADER: features.FEATURES,
        **response.headers,
    }
