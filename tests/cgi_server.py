"""A web server that runs CGI programs: real HTTP with keep-alive, one real process per request."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    configs: Mapping[str, str] = {}
    counted: list[str] = []

    def do_POST(self) -> None:
        """``/NAME/api/v2/…`` is answered by the librarian NAME."""
        _, name, rest = self.path.split("/", 2)
        self.counted.append(rest)
        length = int(self.headers.get("Content-Length", 0))
        if name not in self.configs:
            self.rfile.read(length)
            page = b"<html><h1>Not Found</h1></html>"
            self.send_response(404)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)
            return
        environment = {
            "PATH": os.environ["PATH"],
            "GATEWAY_INTERFACE": "CGI/1.1",
            "REQUEST_METHOD": self.command,
            "SCRIPT_NAME": f"/{name}",
            "PATH_INFO": f"/{rest}",
            "CONTENT_LENGTH": str(length),
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "LIBTOOL_CONFIG": self.configs[name],
        }
        if "Authorization" in self.headers:
            environment["HTTP_AUTHORIZATION"] = self.headers["Authorization"]
        done = subprocess.run(
            [sys.executable, "-m", "libtool", "callback"],
            input=self.rfile.read(length),
            capture_output=True,
            env=environment,
            check=False,
        )
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status, _, phrase = lines.pop("Status").partition(" ")
        self.send_response(int(status), phrase)
        for key, value in lines.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        """Silent."""


@contextmanager
def serving(configs: Mapping[str, str]) -> Iterator[tuple[int, list[str]]]:
    """Serve the callbacks of these librarians (name → configuration); yields the port and the list of requests."""
    counted: list[str] = []
    handler = type("Handler", (_Handler,), {"configs": configs, "counted": counted})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_port, counted
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
