"""``libtool callback``, also ``libtool-callback``: answer one request of a peer, as a CGI program.

Words come in the environment, the body on standard input, the answer goes to standard output. It starts without click,
rich, requests, globus_sdk and keyring, because every request is a process of its own.
"""

from __future__ import annotations

import gc
import json
import os
import re
import select
import signal
import sys
import time
from dataclasses import replace
from typing import NoReturn

from libtool import settings
from libtool.endpoints import router
from libtool.errors import BadRequest, DatabaseBusy, LibtoolError, TooLarge
from libtool.node import Node

_USAGE = """usage: libtool [--config FILE] callback [--as ACCOUNT]

Answers one request of another librarian. A web server starts it as a CGI program (see config/ for how), and another
librarian on this machine through an exec:// URL; the request comes in the environment and on standard input.
With --as it is the forced command of a key in authorized_keys ('libtool connect' writes the line): whoever has the
key acts under ACCOUNT, and the request comes as the command that ssh was given.
"""
#: What a librarian may ask for over ssh: the endpoint, and how many bytes follow on standard input.
_OVER_SSH = re.compile(r"libtool-callback POST (/api/v2/[a-z_/]{1,64}) ([0-9]{1,10})", re.ASCII)
_NOT_READY = DatabaseBusy(database="of this librarian", why="it is not ready")
#: A body that nobody reads is taken for so long, in seconds at all and without a byte, and so far.
_PATIENCE, _SILENCE, _MOST = 20.0, 2.0, 64 * 1024**2
#: How long an answer may take to be taken.
_WRITE_SECONDS = 60.0
#: The names of the statuses that are answered.
_PHRASES = {
    200: "OK",
    201: "Created",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    409: "Conflict",
    413: "Content Too Large",
    422: "Unprocessable Content",
    425: "Too Early",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


def main() -> None:
    """Answer the request and end."""
    gc.disable()  # the process ends before garbage matters
    arguments = [] if _from_the_web() else [word for word in sys.argv[1:] if word != "callback"]
    given: dict[str, str] = {}
    while len(arguments) >= 2 and arguments[0] in ("--config", "--as") and arguments[0] not in given:
        given[arguments[0]] = arguments[1]
        arguments = arguments[2:]
    if arguments:
        print(_USAGE, end="", file=sys.stdout if arguments == ["--help"] else sys.stderr)
        raise SystemExit(0 if arguments == ["--help"] else 2)
    if "--as" in given:
        serve_key(given.get("--config"), given["--as"])
    else:
        serve(given.get("--config"))


def _from_the_web() -> bool:
    """Whether a web server started this. It hands a query without "=" over as arguments, so they are a caller's words."""
    return bool(os.environ.get("QUERY_STRING")) or {"GATEWAY_INTERFACE", "REQUEST_METHOD"} <= os.environ.keys()


def serve(config: str | None) -> NoReturn:
    """Answer the request that is in the environment."""
    if "REQUEST_METHOD" not in os.environ:
        print(_USAGE, end="", file=sys.stderr)
        raise SystemExit(2)
    # A client's "Proxy:" header must not choose where our own requests go.
    os.environ.pop("HTTP_PROXY", None)
    method = os.environ.get("REQUEST_METHOD", "")
    path = os.environ.get("SCRIPT_NAME", "") + os.environ.get("PATH_INFO", "")
    asked = router.Request(
        method, path, os.environ.get("HTTP_AUTHORIZATION"), b"", address=os.environ.get("REMOTE_ADDR", "")
    )
    _end(respond(config, asked, os.environ.get("CONTENT_LENGTH", "")))


def serve_key(config: str | None, account: str) -> NoReturn:
    """Answer the request that is in the words that ssh was given, for the account that its key stands for."""
    asked = _OVER_SSH.fullmatch(os.environ.get("SSH_ORIGINAL_COMMAND", ""))
    if asked is None:
        print("libtool-callback: this key is for librarians only; nothing was done", file=sys.stderr)
        raise SystemExit(64)
    address = os.environ.get("SSH_CLIENT", "").partition(" ")[0]
    request = router.Request("POST", asked[1], None, b"", known_as=account, address=address)
    _end(respond(config, request, asked[2]))


def _end(response: router.Response) -> NoReturn:
    # Who does not take the answer must not keep the process.
    signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
    signal.setitimer(signal.ITIMER_REAL, _WRITE_SECONDS)
    write(response)
    sys.stderr.flush()
    os._exit(0)


def respond(config: str | None, asked: router.Request, length: str) -> router.Response:
    """The response to a request whose body, of ``length`` bytes, is on standard input."""
    early = router.refuse_early(asked.method, asked.path)
    if early is not None:
        discard_body(length)
        return early
    try:
        try:
            try:
                limits = settings.load(settings.find(config))
            except LibtoolError:
                discard_body(length)
                raise
            _limit_time(limits.max_request_seconds)
            body = read_body(router.limit(asked.path, limits.max_body_bytes), length)
            # SQLite waits where no signal reaches it.
            with Node.open(config, busy=limits.max_request_seconds) as node:
                return _discreet(router.answer(node, replace(asked, body=body)))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)  # what is answered must get out whole
    except OutOfTime:
        print("libtool-callback: the request took too long and was given up", file=sys.stderr)
        return router.failure(_NOT_READY)
    except LibtoolError as trouble:
        if trouble.http_status != 503:
            print(f"libtool-callback: {trouble.text}", file=sys.stderr)
        return _discreet(router.failure(trouble))
    except Exception as fault:  # neither its text nor its place is the peer's business; values may be secrets
        print(f"libtool-callback: internal error {type(fault).__name__} before the request was read", file=sys.stderr)
        return router.failure(_NOT_READY)


def _discreet(said: router.Response) -> router.Response:
    """What makes us not ready is for the log: configuration, paths and databases are not the peer's business."""
    if said.status != 503:
        return said
    told = json.loads(said.body)
    print(f"libtool-callback: {told['reason']} {told['suggested_remedy']}", file=sys.stderr)
    return router.failure(_NOT_READY)


def read_body(limit: int, announced: str) -> bytes:
    """Exactly as many bytes as announced; to the end when the server passed a chunked body on; never over ``limit``."""
    stream = sys.stdin.buffer
    if announced.isascii() and announced.isdigit():
        # So many digits are too many bytes, and Python refuses to turn thousands of them into a number.
        if len(announced.lstrip("0")) > 18 or int(announced.lstrip("0") or "0") > limit:
            discard_body(announced)
            raise TooLarge(why=f"at most {limit} bytes are read")
        body = stream.read(int(announced))
        if len(body) < int(announced):
            raise BadRequest(why="it was cut off")
        return body
    if os.environ.get("HTTP_TRANSFER_ENCODING", "").lower() != "chunked":
        return b""
    body = stream.read(limit + 1)
    if len(body) > limit:
        discard_body(announced)
        raise TooLarge(why=f"more than {limit} bytes")
    return body


def discard_body(announced: str) -> None:
    """Take what nobody reads: Apache and fcgiwrap lose an answer that comes while they still hand the body over."""
    left = _MOST
    if announced.isascii() and announced.isdigit() and len(announced) < 18:
        left = min(int(announced), _MOST)
    elif os.environ.get("HTTP_TRANSFER_ENCODING", "").lower() != "chunked":
        return
    end = time.monotonic() + _PATIENCE
    while left > 0 and time.monotonic() < end and select.select([0], [], [], _SILENCE)[0]:
        taken = os.read(0, min(left, 1 << 16))
        if not taken:
            return
        left -= len(taken)


class OutOfTime(BaseException):
    """The request took too long. No rule may take it for something that happened to a file or a neighbour."""


def _limit_time(seconds: float) -> None:
    """No request runs for ever, whatever it waits for; its transaction is rolled back."""

    def stop(signum: int, frame: object) -> NoReturn:
        raise OutOfTime

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def write(response: router.Response) -> None:
    """Print the response as CGI wants it; a client that has gone is no trouble of ours."""
    lines = [f"Status: {response.status} {_PHRASES.get(response.status, 'Unknown')}"]
    lines += [f"{name}: {value}" for name, value in router.head(response).items()]
    try:
        sys.stdout.buffer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + response.body)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    main()
