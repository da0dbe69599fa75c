"""A mail server that does what it is told: takes mail, refuses it at any stage, hangs, closes, dribbles, tells secrets."""

from __future__ import annotations

import base64
import email
import email.policy
import socketserver
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any


@dataclass
class Got:
    """One message that the server took."""

    sender: str
    recipients: list[str]
    raw: bytes
    user: str | None
    encrypted: bool

    @property
    def message(self) -> EmailMessage:
        """What it says."""
        found = email.message_from_bytes(self.raw, policy=email.policy.default)
        assert isinstance(found, EmailMessage)
        return found

    @property
    def text(self) -> str:
        """Its body."""
        return str(self.message.get_content()).replace("\r\n", "\n")

    @property
    def lines(self) -> list[str]:
        """What it tells, without times."""
        body = self.text.partition("-- \n")[0]
        return [line[22:] if line[:2] == "20" and line[19:22] == "Z  " else line for line in body.splitlines() if line]


class Gone(Exception):
    """The connection is over."""


@dataclass
class Behaviour:
    """What the server does; a stage that is not named goes well.

    The stages: greeting, ehlo, starttls, handshake, auth, mail, rcpt, data, body, quit. What can be done there: ``hang``,
    ``close``, ``dribble``, or an answer.
    """

    acts: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  #: recipients, and what is said to them
    offers: tuple[str, ...] = ()  #: to EHLO, beside the usual
    account: tuple[str, str] | None = None


class MailServer(socketserver.ThreadingTCPServer):
    """Listens on this machine while it is open."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = True

    def __init__(self, certificate: Path | None = None, *, tls: bool = False, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), _Session)
        self.port: int = self.server_address[1]
        self.behaviour = Behaviour()
        self.got: list[Got] = []
        self.said: list[str] = []  #: every command
        self.over = threading.Event()
        self.tls = tls
        self.context: ssl.SSLContext | None = None
        if certificate is not None:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> MailServer:
        self._thread.start()
        return self

    def __exit__(self, *trouble: object) -> None:
        self.over.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever went away early is no fault."""

    def taken(self) -> list[Got]:
        """What came since the last time."""
        found, self.got = self.got, []
        return found


class _Session(socketserver.BaseRequestHandler):
    server: MailServer

    def handle(self) -> None:
        self.sock: Any = self.request
        self.encrypted = False
        self.user: str | None = None
        with suppress(Gone, OSError, ssl.SSLError):
            if self.server.tls:
                self._encrypt()
            self._read_from = self.sock.makefile("rb")
            if self._say("greeting", "220 here"):
                self._talk()
        with suppress(OSError):
            self.sock.close()

    def _say(self, stage: str, usual: str) -> bool:
        """Do what is to be done at a stage; whether that was the usual."""
        act = self.server.behaviour.acts.get(stage)
        if act == "close":
            raise Gone
        if act == "hang":
            self.server.over.wait()
            raise Gone
        if act == "dribble":
            while not self.server.over.wait(0.02):
                self.sock.sendall(b"2")
            raise Gone
        self.sock.sendall(((act or usual).replace("\n", "\r\n") + "\r\n").encode())
        return act is None

    def _encrypt(self) -> None:
        assert self.server.context is not None
        act = self.server.behaviour.acts.get("handshake")
        if act == "hang":
            self.server.over.wait()
        if act is not None:
            raise Gone
        self.sock = self.server.context.wrap_socket(self.sock, server_side=True)
        self.encrypted = True
        self._read_from = self.sock.makefile("rb")

    def _line(self) -> str:
        line = self._read_from.readline()
        if not line:
            raise Gone
        return str(line.decode().rstrip("\r\n"))

    def _talk(self) -> None:
        sender, recipients = "", []
        while True:
            line = self._line()
            self.server.said.append(line)
            word, _, rest = line.partition(" ")
            word = word.upper()
            if word in ("EHLO", "HELO"):
                offers = ["here", "8BITMIME", *self.server.behaviour.offers]
                if self.server.context is not None and not self.encrypted:
                    offers.append("STARTTLS")
                self._say("ehlo", "\n".join(f"250{' ' if n == len(offers) - 1 else '-'}{each}" for n, each in enumerate(offers)))
            elif word == "STARTTLS":
                if self._say("starttls", "220 go on"):
                    self._encrypt()
            elif word == "AUTH":
                self._auth(rest)
            elif word == "MAIL":
                sender = rest.partition("<")[2].partition(">")[0]
                self._say("mail", "250 ok")
            elif word == "RCPT":
                address = rest.partition("<")[2].partition(">")[0]
                if address in self.server.behaviour.refused:
                    self.sock.sendall(self.server.behaviour.refused[address].encode() + b"\r\n")
                elif self._say("rcpt", "250 ok"):
                    recipients.append(address)
            elif word == "DATA":
                if self._say("data", "354 go on"):
                    self._body(sender, recipients)
                sender, recipients = "", []
            elif word == "RSET":
                sender, recipients = "", []
                self.sock.sendall(b"250 ok\r\n")
            elif word == "QUIT":
                self._say("quit", "221 bye")
                raise Gone
            else:
                self.sock.sendall(b"500 what?\r\n")

    def _auth(self, rest: str) -> None:
        how, _, first = rest.partition(" ")
        if how.upper() == "PLAIN":
            _, user, password = base64.b64decode(first).decode().split("\0")
        else:
            user = base64.b64decode(first).decode() if first else self._ask("VXNlcm5hbWU6")
            password = self._ask("UGFzc3dvcmQ6")
        if (user, password) != self.server.behaviour.account:
            self.sock.sendall(f"535 5.7.8 no: {password} {base64.b64encode(password.encode()).decode()}\r\n".encode())
        elif self._say("auth", "235 welcome"):
            self.user = user

    def _ask(self, prompt: str) -> str:
        self.sock.sendall(f"334 {prompt}\r\n".encode())
        return base64.b64decode(self._line()).decode()

    def _body(self, sender: str, recipients: list[str]) -> None:
        lines = []
        while (line := self._read_from.readline()) not in (b".\r\n", b""):
            assert line.endswith(b"\r\n") and len(line) <= 1000, line
            lines.append(line[1:] if line.startswith(b".") else line)
        if not line:
            raise Gone
        act = self.server.behaviour.acts.get("body", "")
        if act in ("", "close", "hang"):  # it took it, whatever becomes of the answer
            self.server.got.append(Got(sender, recipients, b"".join(lines), self.user, self.encrypted))
        self._say("body", "250 taken")
