"""``libtool callback``, also ``libtool-callback``: answer one request of a peer, as a CGI program.

Words come in the environment, the body on standard input, the answer goes to standard output. It starts without click,
rich, requests, globus_sdk and keyring, because every request is a process of its own.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from typing import NoReturn

from libtool import settings
from libtool.endpoints import router
from libtool.errors import DatabaseBusy, LibtoolError, TooLarge
from libtool.node import Node

_USAGE = """usage: libtool [--config FILE] callback

Answers one request of another librarian. A web server starts it as a CGI program (see config/ for how), and another
librarian on this machine through an exec:// URL; the request comes in the environment and on standard input.
"""
_NOT_READY = DatabaseBusy(database="of this librarian", why="it is not ready")
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
    config = None
    if arguments[:1] == ["--config"] and len(arguments) == 2:
        config = arguments[1]
    elif arguments:
        print(_USAGE, end="", file=sys.stdout if arguments == ["--help"] else sys.stderr)
        raise SystemExit(0 if arguments == ["--help"] else 2)
    serve(config)


def _from_the_web() -> bool:
    """Whether a web server started this. It hands a query without "=" over as arguments, so they are a caller's words."""
    return bool(os.environ.get("QUERY_STRING")) or {"GATEWAY_INTERFACE", "REQUEST_METHOD"} <= os.environ.keys()


def serve(config: str | None) -> None:
    """Answer the request that is in the environment."""
    if "REQUEST_METHOD" not in os.environ:
        print(_USAGE, end="", file=sys.stderr)
        raise SystemExit(2)
    # A client's "Proxy:" header must not choose where our own requests go.
    os.environ.pop("HTTP_PROXY", None)
    write(respond(config))
    sys.stderr.flush()
    os._exit(0)


def respond(config: str | None) -> router.Response:
    """The response to the request in the environment and on standard input."""
    method = os.environ.get("REQUEST_METHOD", "")
    path = os.environ.get("SCRIPT_NAME", "") + os.environ.get("PATH_INFO", "")
    early = router.refuse_early(method, path)
    if early is not None:
        return early
    try:
        try:
            limits = settings.load(settings.find(config))
            _limit_time(limits.max_request_seconds)
            body = read_body(limits.max_body_bytes)
            # SQLite waits where no signal reaches it.
            with Node.open(config, busy=limits.max_request_seconds) as node:
                request = router.Request(method, path, os.environ.get("HTTP_AUTHORIZATION"), body)
                return _discreet(router.answer(node, request))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)  # what is answered must get out whole
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


def read_body(limit: int) -> bytes:
    """Exactly as many bytes as announced; to the end when the server passed a chunked body on; never over ``limit``."""
    announced = os.environ.get("CONTENT_LENGTH", "")
    stream = sys.stdin.buffer
    if announced.isascii() and announced.isdigit():
        # So many digits are too many bytes, and Python refuses to turn thousands of them into a number.
        if len(announced.lstrip("0")) > 18 or int(announced.lstrip("0") or "0") > limit:
            raise TooLarge(why=f"at most {limit} bytes are read")
        return stream.read(int(announced))
    if os.environ.get("HTTP_TRANSFER_ENCODING", "").lower() != "chunked":
        return b""
    body = stream.read(limit + 1)
    if len(body) > limit:
        raise TooLarge(why=f"more than {limit} bytes")
    return body


def _limit_time(seconds: float) -> None:
    """No request runs for ever, whatever it waits for; its transaction is rolled back."""

    def stop(signum: int, frame: object) -> NoReturn:
        raise DatabaseBusy(database="of this librarian", why="the request took too long")

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
