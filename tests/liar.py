"""Stands between a route and its service: a liar in the door, and a list of what goes wrong, with how to undo it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.globus_service.answers import Answer, Request, document
from tests.globus_service.front import Front
from tests.route_bench import Bench

Content = dict[str, Any]


class Liar:
    """Stands in the door of the service. ``change``: alters the JSON of answers to requests whose method and path with
    query fit; ``instead``: answers them, and nothing is done."""

    def __init__(self) -> None:
        self.change: list[tuple[str, str, Callable[[Content], object]]] = []
        self.instead: list[tuple[str, str, Callable[[Request], Answer]]] = []
        self.used = 0
        self._true = Front._faulty

    def take_over(self, monkeypatch: pytest.MonkeyPatch) -> Liar:
        """Answer for the service from now on."""
        monkeypatch.setattr(Front, "_faulty", lambda front, request, about: self._answer(front, request, about))
        return self

    def end(self) -> None:
        """Lie no more."""
        self.change, self.instead = [], []

    def _answer(self, front: Front, request: Request, about: dict[str, object]) -> Answer | None:
        for method, url, told in self.instead:
            if request.method == method and re.search(url, request.url):
                self.used += 1
                return told(request)
        answer = self._true(front, request, about)
        for method, url, alter in self.change:
            if answer is not None and request.method == method and re.search(url, request.url) and answer.status < 300:
                try:
                    content = json.loads(answer.body)
                except ValueError:  # another trouble cut it off
                    continue
                before = json.dumps(content)
                alter(content)
                if json.dumps(content) != before:
                    self.used += 1
                    answer = document(answer.status, content, **answer.headers)
        return answer


class Trouble:
    """What a test may have go wrong, for as long as it lasts."""

    def __init__(self, bench: Bench, liar: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bench, self.globus, self.liar, self.monkeypatch = bench, bench.globus, liar, monkeypatch
        self.faults: list[Any] = []
        self.each: list[Callable[[], object]] = []  #: done after every command
        self.undo: list[Callable[[], object]] = []

    def fault(self, name: str, **about: Any) -> None:
        """A fault of the service's own that lasts, unless it is told how often it strikes."""
        self.faults.append(self.globus.fault(name, **{"count": None, **about}))

    def set(self, thing: Any, name: str, value: Any) -> None:
        """An attribute that has another value meanwhile."""
        before = getattr(thing, name)
        setattr(thing, name, value)
        self.undo.append(lambda: setattr(thing, name, before))

    def end(self) -> int:
        """All is well again; how often something struck, as far as that can be counted."""
        used = sum(fault.used for fault in self.faults) + self.liar.used
        for fault in self.faults:
            fault.end()
        self.liar.end()
        for deed in reversed(self.undo):  # the same may have been set twice
            deed()
        self.each, self.undo, self.faults = [], [], []
        return used
