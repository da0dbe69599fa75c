"""What goes in and out: a request as the service sees it, an answer, and the refusals of the Transfer service."""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

JSON = "application/json"
HTML = "text/html; charset=utf-8"


@dataclass(frozen=True)
class Request:
    """One HTTP request."""

    method: str
    url: str  #: path and query as sent
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        """The path without the query."""
        return urlsplit(self.url).path

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters; the last of each name counts."""
        found = parse_qs(urlsplit(self.url).query, keep_blank_values=True)
        return {name: values[-1] for name, values in found.items()}

    def all(self, name: str) -> list[str]:
        """Every value of one of the query's parameters."""
        return parse_qs(urlsplit(self.url).query, keep_blank_values=True).get(name, [])

    def form(self) -> dict[str, str]:
        """The fields of a posted form."""
        return {k: v[-1] for k, v in parse_qs(self.body.decode(), keep_blank_values=True).items()}

    def document(self) -> dict[str, Any]:
        """The posted JSON object."""
        try:
            found = json.loads(self.body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Refusal(400, "ClientError.BadRequest", "The body is not a JSON object")
        return found


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    body: bytes
    kind: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """The Transfer service says no."""

    def __init__(self, status: int, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.more = status, code, message, more

    def answer(self, resource: str) -> Answer:
        """The answer that says so."""
        return document(self.status, {"code": self.code, "message": self.message, **told(resource), **self.more})


def document(status: int, content: Mapping[str, Any], **headers: str) -> Answer:
    """A JSON answer."""
    return Answer(status, json.dumps(content).encode(), JSON, headers)


def page(status: int, text: str, **headers: str) -> Answer:
    """An HTML answer."""
    return Answer(status, f"<!doctype html><html><body>{text}</body></html>".encode(), HTML, headers)


def told(resource: str) -> dict[str, str]:
    """What every document of the Transfer service says about the request."""
    request_id = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))
    return {"request_id": request_id, "resource": resource}


def stamp(moment: datetime | None) -> str | None:
    """A time as the service writes it."""
    return moment.isoformat(timespec="seconds") if moment is not None else None
