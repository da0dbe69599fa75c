"""Asking another librarian.

One :class:`Peer` per librarian and run. It turns every answer into one of three: a typed message, a definite refusal
(PeerRefused, PeerDeniesUs), or "could not find out" (PeerUnreachable). It never repeats by itself a request that may
have reached the other side: the next tick does, since every request is safe to repeat.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from libtool.errors import PeerDeniesUs, PeerRefused, PeerUnreachable
from libtool.peers import features, messages, passwords
from libtool.seams import seam

#: Seconds to get a connection, and to get an answer over it.
CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 90.0
#: Longest answer that is read, in bytes.
ANSWER_LIMIT = 64 * 1024**2
#: What is asked for a sign of life.
PROBE = "ping/logged"
#: Answers that say "not now" rather than "no".
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: status, headers with lower-case names, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NoAnswer(Exception):
    """A transport got nothing that it could make an Answer of; the text says why."""


class Transport(ABC):
    """One way to carry a request; kept open for as many as a run has."""

    @abstractmethod
    def post(self, path: str, body: bytes, authorization: str | None) -> Answer:
        """Send ``body`` to ``path`` (``/api/v2/…``); raises NoAnswer."""

    def close(self) -> None:
        """Let the connection go."""
        return


@dataclass
class Peer:
    """Another librarian, as seen by one run of one command."""

    name: str
    transport: Transport
    authenticator: str | None
    features: frozenset[str] = frozenset()
    #: What it announced in its last answer, None before the first; the caller keeps it.
    announced: str | None = None
    #: Whether it has accepted our account in this run.
    answered: bool = False
    calls: int = field(default=0)

    def can(self, feature: str) -> bool:
        """Whether it announced a feature beyond the stock protocol."""
        return feature in self.features

    def ask(self, endpoint: str, message: Any, kind: Any) -> Any:
        """POST ``message`` to ``/api/v2/<endpoint>`` and decode the answer as ``kind``."""
        answer = self.post(endpoint, message)
        del message  # thousands of files; the answer to them is read next
        if not 200 <= answer.status < 300:
            raise self.refusal(endpoint, answer)
        try:
            found = messages.decode(kind, answer.body)
        except ValueError as wrong:
            raise PeerUnreachable(name=self.name, why=f"its answer to {endpoint} cannot be read: {wrong}") from None
        if endpoint == PROBE and features.HEADER.lower() not in answer.headers:
            self.announced, self.features = "", frozenset()  # it is a stock librarian, or has become one
        return found

    def post(self, endpoint: str, message: Any) -> Answer:
        """POST and return whatever was answered; PeerUnreachable when nothing was, or "not now"."""
        header = passwords.to_basic(self.authenticator) if self.authenticator else None
        self.calls += 1
        seam(f"call {endpoint}: begin")
        try:
            answer = self.transport.post(f"/api/v2/{endpoint}", messages.encode(message), header)
        except NoAnswer as trouble:
            raise PeerUnreachable(name=self.name, why=str(trouble)) from None
        seam(f"call {endpoint}: answered")
        if features.HEADER.lower() in answer.headers:
            self.announced = answer.headers[features.HEADER.lower()]
            self.features = frozenset(self.announced.split())
        elif answer.status == 404 and endpoint.startswith("libtool/") and read_error(answer.body)[2]:
            self.announced, self.features = "", frozenset()  # it has become a stock librarian
        if answer.status != 401 and endpoint != "ping/":  # a stock server takes any password at ping/
            self.answered = self.answered or answer.status < 500
        return answer

    def refusal(self, endpoint: str, answer: Answer) -> PeerRefused | PeerDeniesUs | PeerUnreachable:
        """The error that a status outside of 2xx means."""
        why, how, found = read_error(answer.body)
        if answer.status in (401, 403):
            account = (self.authenticator or "of our key").partition(":")[0]
            return PeerDeniesUs(name=self.name, account=account, endpoint=endpoint)
        # Without JSON it was not the librarian who spoke, but something in front of it.
        if answer.status in _PASSING or not 400 <= answer.status < 500 or not found:
            said = f"{endpoint} answered {answer.status}: {why or 'no reason given'}"
            return PeerUnreachable(name=self.name, why=said, status=answer.status)
        return PeerRefused(name=self.name, status=answer.status, why=why or "no reason given", how=how)

    def close(self) -> None:
        """Let the connection go."""
        self.transport.close()


def read_error(body: bytes) -> tuple[str, str, dict[str, Any]]:
    """``(reason, remedy, the whole object)`` from any of the shapes that librarians use: flat, JSON text inside
    ``detail``, an object in ``detail``, the framework's text or list there, or no JSON at all."""
    try:
        found: Any = messages.decode(dict[str, Any], body)
    except ValueError:
        text = body[:200].decode("utf-8", "replace").strip()
        return ("it sent a web page instead of an answer" if text.startswith("<") else text), "", {}
    detail = found.get("detail")
    if isinstance(detail, str):
        try:
            found = messages.decode(dict[str, Any], detail.encode("utf-8"))
        except ValueError:
            return detail, "", found
    elif isinstance(detail, dict):
        found = detail
    elif isinstance(detail, list):
        return "; ".join([_complaint(each) for each in detail if isinstance(each, dict)][:5]), "", found
    return str(found.get("reason") or ""), str(found.get("suggested_remedy") or ""), found


def _complaint(each: dict[str, Any]) -> str:
    """One of a framework's complaints: the field, when it names one, and what is wrong with it."""
    place, said = each.get("loc"), str(each.get("msg") or "no reason given")
    return f"{'.'.join(map(str, place))}: {said}" if isinstance(place, list) else said
