"""The door: which service a request is for, and everything that can go wrong with HTTP itself."""

from __future__ import annotations

import json
import threading

from tests.globus_service.answers import Answer, Refusal, Request, document, page
from tests.globus_service.auth import Auth
from tests.globus_service.moving import Hands
from tests.globus_service.transfer import Transfer
from tests.globus_service.world import World


class Front:
    """Answers requests, and writes down which there were."""

    def __init__(self, world: World, hands: Hands) -> None:
        self.world = world
        self.services = (Auth(world), Transfer(world, hands))
        self.requests: list[tuple[str, str, int | None]] = []
        self.closing = threading.Event()

    def answer(self, request: Request) -> Answer | None:
        """The answer; None cuts the connection."""
        with self.world.lock:
            about = self._about(request)
            slow = self.world.faults.strike("slow", **about)
        if slow:
            self.closing.wait(slow["seconds"])
        with self.world.lock:
            answer = self._faulty(request, about)
            self.requests.append((request.method, request.url, answer.status if answer else None))
        return answer

    def _faulty(self, request: Request, about: dict[str, object]) -> Answer | None:
        faults = self.world.faults
        if faults.strike("drop_before", **about):
            return None
        answer = self._refusal(request, about)
        if answer is not None:
            return answer
        if fault := faults.strike("say", **about):
            return Answer(fault["status"], fault["body"], fault["kind"])
        answer = next(filter(None, (service.answer(request) for service in self.services)), None)
        if answer is None:
            answer = Refusal(404, "ClientError.NotFound", "No such resource").answer(request.path)
        if faults.strike("drop_after", **about):
            return None
        if faults.strike("truncate", **about):
            return Answer(answer.status, answer.body[: len(answer.body) // 2], answer.kind, answer.headers)
        return answer

    def _refusal(self, request: Request, about: dict[str, object]) -> Answer | None:
        """What a service says that does not even look at the request."""
        faults = self.world.faults
        if fault := faults.strike("http_429", **about):
            return _later(429, "TooManyRequests", "Too many requests", fault["retry_after"], request.path)
        if fault := faults.strike("http_503", **about):
            if fault["html"]:
                return page(503, "<h1>Service Unavailable</h1>")
            return _later(503, "ServiceUnavailable", "The service is down for maintenance", fault["retry_after"], request.path)
        if faults.strike("http_500", **about):
            return Refusal(500, "InternalError", "An internal error occurred").answer(request.path)
        return None

    def _about(self, request: Request) -> dict[str, object]:
        """What faults can match of a request."""
        text = request.url + request.body.decode("utf-8", "replace")
        collections = [name for name in self.world.collections if name in text]
        task = next((t.task_id for t in self.world.tasks if t.task_id in request.url), "")
        about = {"method": request.method, "url": request.url, "collections": collections, "task": task}
        return {**about, "paths": _paths(request)}


def _later(status: int, code: str, message: str, retry_after: float | None, path: str) -> Answer:
    answer = Refusal(status, code, message).answer(path)
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return document(status, json.loads(answer.body), **headers)


def _paths(request: Request) -> list[str]:
    """Every path that a request names."""
    found = [request.query["path"]] if "path" in request.query else []
    if request.body.startswith(b"{"):
        try:
            posted = json.loads(request.body)
        except ValueError:
            return found
        items = posted.get("DATA")
        for one in [posted, *(items if isinstance(items, list) else ())]:
            found += [value for key, value in one.items() if key.endswith("path") and isinstance(value, str)]
    return found
