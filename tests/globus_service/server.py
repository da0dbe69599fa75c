"""HTTP: requests in, answers out in one piece, and connections that break on demand."""

from __future__ import annotations

import socket
import struct
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.globus_service.answers import Answer, Request

#: Given a request, the answer; None cuts the connection.
Answering = Callable[[Request], "Answer | None"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = self.server.answering(Request(self.command, self.path, self.headers, body))  # type: ignore[arg-type]
        if answer is None:
            # Without lingering the peer gets a reset, not an orderly end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        phrase = HTTPStatus(answer.status).phrase
        head = {"Content-Type": answer.kind, "Content-Length": str(len(answer.body)), "Date": self.date_time_string(), **answer.headers}
        lines = [f"{self.protocol_version} {answer.status} {phrase}", *(f"{name}: {value}" for name, value in head.items())]
        self.wfile.write("\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body)

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def log_message(self, *words: Any) -> None:
        """Silent."""


class Server(ThreadingHTTPServer):
    """A server in threads of its own, which can be stopped with all its connections."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answering: Answering, port: int = 0) -> None:
        self.answering = answering
        self._open: dict[socket.socket, threading.Thread] = {}
        self._guard = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection, and remember it as long as it is open."""
        with self._guard:
            self._open[request] = threading.current_thread()
        super().process_request_thread(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection; an orderly end first would spoil a reset."""
        with self._guard:
            self._open.pop(request, None)
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def stop(self) -> None:
        """Stop serving and close every connection."""
        self.shutdown()
        self._thread.join()
        self.server_close()
        with self._guard:
            left = dict(self._open)
            for connection in left:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
        for thread in left.values():
            thread.join(timeout=5)
