"""``libtool callback``, also ``libtool-callback``: answer one request of a peer, as a CGI program.

Words come in the environment, the body on standard input, the answer goes to standard output. It starts without click,
rich, requests, globus_sdk and keyring, because every request is a process of its own.
"""

from __future__ import annotations

import gc
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
    arguments = [word for word in sys.argv[1:] if word != "callback"]
    config = None
    if arguments[:1] == ["--config"] and len(arguments) == 2:
        config = arguments[1]
    elif arguments:
        print(_USAGE, end="", file=sys.stdout if arguments == ["--help"] else sys.stderr)
        raise SystemExit(0 if arguments == ["--help"] else 2)
    serve(config)


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
        limits = settings.load(settings.find(config))
        body = read_body(limits.max_body_bytes)
        _limit_time(limits.max_request_seconds)
        with Node.open(config) as node:
            request = router.Request(method, path, os.environ.get("HTTP_AUTHORIZATION"), body)
            return router.answer(node, request)
    except LibtoolError as trouble:
        print(f"libtool-callback: {trouble.text}", file=sys.stderr)
        if trouble.http_status == 503:  # configuration, paths and databases are not the peer's business
            trouble = DatabaseBusy(database="of this librarian", why="it is not ready")
        return router.failure(trouble)


def read_body(limit: int) -> bytes:
    """Exactly as many bytes as announced; to the end when the server passed a chunked body on; never over ``limit``."""
    announced = os.environ.get("CONTENT_LENGTH", "")
    stream = sys.stdin.buffer
    if announced.isascii() and announced.isdigit():
        if int(announced) > limit:
            raise TooLarge(why=f"{announced} bytes; at most {limit} are read")
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
