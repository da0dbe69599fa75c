"""The transport ``exec://``: a librarian on the same machine, answered by a process of its own, as a web server would.

The process gets a CGI request: words in its environment, the body on standard input, nothing secret in its arguments.
"""

from __future__ import annotations

import os
import subprocess
import sys

from libtool.peers.client import ANSWER_LIMIT, Answer, NoAnswer, Transport

#: How the other librarian's callback is started.
COMMAND = (sys.executable, "-c", "from libtool.commands.callback import main; main()")


class ExecTransport(Transport):
    """One short process per request."""

    def __init__(self, config: str, timeout: float) -> None:
        self.config = config
        self.timeout = timeout

    def post(self, path: str, body: bytes, authorization: str | None) -> Answer:
        """Run the callback and read what it says."""
        if not os.path.exists(self.config):
            raise NoAnswer(f"{self.config} does not exist")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HTTP_", "LIBTOOL_"))}
        environment = kept | {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "REQUEST_METHOD": "POST",
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(body)),
            "LIBTOOL_CONFIG": self.config,
        }
        if authorization:
            environment["HTTP_AUTHORIZATION"] = authorization
        try:
            done = subprocess.run(
                COMMAND, input=body, capture_output=True, env=environment, timeout=self.timeout, check=False
            )
        except subprocess.TimeoutExpired:
            raise NoAnswer(f"no answer from {self.config} within {self.timeout:.0f} s") from None
        except OSError as trouble:
            raise NoAnswer(f"its callback cannot be started: {trouble.strerror}") from None
        return parse_cgi(done.stdout, done.returncode)


def parse_cgi(output: bytes, exit_code: int) -> Answer:
    """The Answer in what a CGI program printed; NoAnswer when it is not whole."""
    if len(output) > ANSWER_LIMIT:
        raise NoAnswer("its answer does not end")
    head, blank, body = output.partition(b"\r\n\r\n")
    if not blank:
        raise NoAnswer(f"its callback ended with {exit_code} and without an answer")
    headers: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    try:
        status, length = int(headers["status"].split()[0]), int(headers["content-length"])
    except (KeyError, ValueError, IndexError):
        raise NoAnswer("its callback sent no readable answer") from None
    if length != len(body):
        raise NoAnswer("its answer was cut off")
    return Answer(status, headers, body)
