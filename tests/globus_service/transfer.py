"""Globus Transfer: handing in tasks, and asking about them."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from typing import Any

from tests.globus_service.access import Access
from tests.globus_service.answers import Answer, Refusal, Request, document, told
from tests.globus_service.moving import Hands
from tests.globus_service.operations import Operations
from tests.globus_service.tasks import ACTIVE, DELETE, FAILED, INACTIVE, LIFETIME, TRANSFER, Task
from tests.globus_service.world import Token, World

_BASE = "/v0.10"
_ID = r"([^/]+)"


class Transfer:
    """The endpoints of Globus Transfer."""

    def __init__(self, world: World, hands: Hands) -> None:
        self.world, self.hands = world, hands
        self.access = Access(world)
        operations = Operations(world, self.access)
        self.routes: list[tuple[str, str, Callable[..., Answer]]] = [
            ("GET", "/submission_id", self._submission_id),
            ("POST", "/(transfer)", self._submit),
            ("POST", "/(delete)", self._submit),
            ("GET", "/task_list", self._task_list),
            ("GET", f"/task/{_ID}", self._get_task),
            ("PUT", f"/task/{_ID}", self._update),
            ("POST", f"/task/{_ID}/cancel", self._cancel),
            ("GET", f"/task/{_ID}/pause_info", self._pause_info),
            ("GET", f"/task/{_ID}/event_list", self._events),
            ("GET", f"/task/{_ID}/(successful_transfers|skipped_errors)", self._results),
            ("GET", f"/endpoint/{_ID}", operations.endpoint),
            ("GET", f"/operation/endpoint/{_ID}/ls", operations.ls),
            ("GET", f"/operation/endpoint/{_ID}/stat", operations.stat),
            ("POST", f"/operation/endpoint/{_ID}/mkdir", operations.mkdir),
            ("POST", f"/operation/endpoint/{_ID}/rename", operations.rename),
        ]

    def answer(self, request: Request) -> Answer | None:
        """Answer a request; None when it is not for this service."""
        if not request.path.startswith(_BASE + "/"):
            return None
        try:
            token = self.access.token(request)
            if self.world.auto and request.path.startswith(_BASE + "/task"):
                self.hands.work()
            for method, pattern, action in self.routes:
                found = re.fullmatch(_BASE + pattern, request.path)
                if found and method == request.method:
                    return action(request, token, *found.groups())
            raise Refusal(404, "ClientError.NotFound", f"No such resource: {request.path}")
        except Refusal as refusal:
            return refusal.answer(request.path)

    # -- handing in

    def _submission_id(self, request: Request, token: Token) -> Answer:
        value = str(uuid.uuid4())
        self.world.submission_ids.add(value)
        return document(200, {"DATA_TYPE": "submission_id", "value": value})

    def _submit(self, request: Request, token: Token, kind: str) -> Answer:
        if self.world.faults.strike("too_large", method=request.method, url=request.url):
            raise Refusal(413, "ClientError.RequestEntityTooLarge", "The submission is too large")
        posted = request.document()
        if posted.get("DATA_TYPE") != kind:
            raise Refusal(400, "ClientError.BadRequest", f"DATA_TYPE must be {kind}")
        if posted.get("submission_id") not in self.world.submission_ids:
            raise Refusal(400, "ClientError.BadRequest", "Invalid submission_id")
        known = self.world.submitted.get(posted["submission_id"])
        if known is not None and known.owner == token.identity:  # another's submission ids are not known to us
            return self._accepted(request, known, kind, 200, "Duplicate", "A task with this submission_id has been accepted before")
        task = self._task(posted, token, kind)
        self._check(request, task, token)
        self.hands.take(task)
        if self.world.auto:
            self.hands.work()
        return self._accepted(request, task, kind, 202, "Accepted", "The task has been accepted and queued for execution")

    def _accepted(self, request: Request, task: Task, kind: str, status: int, code: str, message: str) -> Answer:
        link = {"DATA_TYPE": "link", "href": f"task/{task.task_id}?format=json", "rel": "related"}
        found = {"DATA_TYPE": f"{kind}_result", "code": code, "message": message, **told(request.path)}
        found |= {"task_id": task.task_id, "submission_id": task.submission_id}
        return document(status, {**found, "task_link": {**link, "resource": "task", "title": "related task"}})

    def _task(self, posted: dict[str, Any], token: Token, kind: str) -> Task:
        """The task that a document describes, once it is in order."""
        items = posted.get("DATA")
        if not isinstance(items, list) or not items:
            raise Refusal(400, f"ClientError.BadRequest.No{kind.capitalize()}Items", "There is nothing to do")
        names = ("path",) if kind == "delete" else ("source_path", "destination_path")
        for item in items:
            given = [item.get(name) for name in names] if isinstance(item, dict) else []
            paths = [path for path in given if isinstance(path, str) and path]
            if len(paths) < len(names) or item.get("DATA_TYPE") != f"{kind}_item":
                raise Refusal(400, "ClientError.BadRequest", f"Not a {kind}_item: {item}")
            if any("\r\n" in path for path in paths):
                raise Refusal(400, "ClientError.BadRequest.InvalidPath", "A path must not contain CR LF")
            if item.get("recursive") is False and paths[-1].endswith("/"):
                raise Refusal(400, "ClientError.BadRequest", f"The destination of a file is a directory: {paths[-1]}")
        if posted.get("delete_destination_extra"):
            raise Refusal(400, "NotSupported", "delete_destination_extra is not offered here")
        ends = ("endpoint",) if kind == "delete" else ("source_endpoint", "destination_endpoint")
        source, *others = [self.access.collection(posted.get(end, "")) for end in ends]
        now, deadline = self.world.now, posted.get("deadline")
        return Task(
            task_id=str(uuid.uuid4()),
            submission_id=posted["submission_id"],
            type=kind.upper(),
            owner=token.identity,
            document=posted,
            source=source,
            destination=others[0] if others else None,
            request_time=now,
            deadline=_moment(deadline) if deadline else now + LIFETIME,
            user_deadline=bool(deadline),
            label=_label(posted.get("label")),
        )

    def _check(self, request: Request, task: Task, token: Token) -> None:
        """Everything that can keep a task that is in order from being accepted."""
        self.access.need(request, token, task.collections)
        for item in task.items:
            if task.type == DELETE:
                self.access.permit(token, task.source, item["path"], write=True)
            else:
                assert task.destination is not None
                self.access.permit(token, task.source, item["source_path"], write=False)
                self.access.permit(token, task.destination, item["destination_path"], write=True)
        for collection in task.collections:
            if collection.personal and self.access.offline(request, collection):
                raise Refusal(409, "ClientError.Conflict.GCDisconnectedException", f"{collection.name} is not connected")
        unfinished = self.world.unfinished(task.owner)
        about = {"method": request.method, "url": request.url, "collections": [c.id for c in task.collections]}
        most = self.world.most_pending
        for fault in self.world.faults.matching("max_pending", **about):
            if len(unfinished) >= fault["n"] and fault.strike():
                most = fault["n"]
        if len(unfinished) >= most:
            raise Refusal(409, "ClientError.Conflict.TooManyPendingJobs", f"There are {len(unfinished)} pending jobs already")
        taken = {pair for other in unfinished if other.type == task.type for pair in other.pairs()}
        if not taken.isdisjoint(task.pairs()) or self.world.faults.strike("identical_paths", **about):
            raise Refusal(409, "Conflict", "A transfer with identical paths has not yet completed")

    # -- asking

    def _find(self, token: Token, task_id: str) -> Task:
        for task in self.world.tasks:
            if task.task_id == task_id and task.owner == token.identity and not task.forgotten:
                return task
        raise Refusal(404, "ClientError.NotFound", f"No task found with id {task_id}")

    def _described(self, request: Request, task: Task) -> dict[str, Any]:
        owner = self.world.identities[task.owner]
        found = task.described(self.world.now, owner.username)
        if self.world.faults.strike("unknown_status", task=task.task_id, method=request.method, url=request.url):
            found["status"] = "BROKEN_NEW"
        if fault := self.world.faults.strike("lie_count", task=task.task_id, method=request.method, url=request.url):
            found[fault["field"]] += fault["by"]
        if "fields" in request.query:
            wanted = request.query["fields"].split(",")
            found = {name: value for name, value in found.items() if name in wanted}
        return found

    def _get_task(self, request: Request, token: Token, task_id: str) -> Answer:
        return document(200, self._described(request, self._find(token, task_id)))

    def _task_list(self, request: Request, token: Token) -> Answer:
        found = [t for t in self.world.tasks if t.owner == token.identity and not t.forgotten]
        for condition in filter(None, request.query.get("filter", "").split("/")):
            name, _, wanted = condition.partition(":")
            found = [t for t in found if _fits(t, name, wanted)]
        field, _, direction = request.query.get("orderby", "request_time DESC").partition(",")[0].partition(" ")
        if field != "request_time":
            raise Refusal(400, "ClientError.BadRequest", "Tasks are ordered by request_time here")
        # They are in that order already; of equal times the later accepted one is the later.
        ordered = found if direction.upper() != "DESC" else found[::-1]
        return _envelope(request, "task_list", ordered, lambda t: self._described(request, t), 10)

    def _events(self, request: Request, token: Token, task_id: str) -> Answer:
        task = self._find(token, task_id)
        only_errors = "is_error:1" in request.query.get("filter", "")
        found = [] if task.history_deleted else [e for e in reversed(task.events) if e["is_error"] or not only_errors]
        return _envelope(request, "event_list", found, lambda event: event, 10)

    def _results(self, request: Request, token: Token, task_id: str, kind: str) -> Answer:
        task = self._find(token, task_id)
        about = {"method": request.method, "url": request.url, "task": task.task_id}
        if kind == "skipped_errors":
            found = [_skipped(s) for s in task.subtasks if s.trouble is not None]
        else:
            lied = self.world.faults
            found = [
                _successful(s)
                for s in task.subtasks
                if s.arrived and not lied.strike("lie_omit", **about, paths=(s.source, s.destination))
            ]
        if task.history_deleted:
            found = []
        try:
            marker = int(request.query.get("marker", "0"))
        except ValueError:
            raise Refusal(400, "ClientError.BadRequest", "Invalid marker") from None
        part = found[marker : marker + self.world.page]
        after = marker + self.world.page if marker + self.world.page < len(found) else None
        if part and (marker or after is None) and self.world.faults.strike("lie_repeat", **about):
            # What the page before ended with, or of a lone page what it ends with itself.
            part.append(found[marker - 1])
        return document(200, {"DATA_TYPE": kind, "marker": marker, "next_marker": after, "DATA": part})

    def _pause_info(self, request: Request, token: Token, task_id: str) -> Answer:
        task = self._find(token, task_id)
        found: dict[str, Any] = {"DATA_TYPE": "pause_info_limited", "pause_rules": []}
        if task.is_paused:
            rule = {"DATA_TYPE": "pause_rule_limited", "id": str(uuid.uuid4()), "message": task.pause_message}
            for collection in task.collections:
                if collection.paused is not None or len(task.collections) == 1 or all(c.paused is None for c in task.collections):
                    found["pause_rules"].append({**rule, "endpoint_id": collection.id, "endpoint_display_name": collection.name})
        for side in ("source", "destination"):
            collection_of = getattr(task, side)
            found[f"{side}_pause_message"] = collection_of and collection_of.paused
            found[f"{side}_pause_message_share"] = None
        return document(200, found)

    # -- changing

    def _update(self, request: Request, token: Token, task_id: str) -> Answer:
        task, posted = self._find(token, task_id), request.document()
        if task.ended:
            raise Refusal(409, "ClientError.Conflict", "The task has ended")
        if "label" in posted:
            task.label = _label(posted["label"])
        if posted.get("deadline"):
            task.deadline, task.user_deadline = _moment(posted["deadline"]), True
        return _result(request, "Updated", "The task has been updated")

    def _cancel(self, request: Request, token: Token, task_id: str) -> Answer:
        task = self._find(token, task_id)
        if task.ended:
            return _result(request, "TaskComplete", "The task completed before it could be cancelled")
        task.end(FAILED, self.world.now, ("CANCELED", "canceled"))
        return _result(request, "Canceled", "The task has been cancelled")


def _result(request: Request, code: str, message: str) -> Answer:
    return document(200, {"DATA_TYPE": "result", "code": code, "message": message, **told(request.path)})


def _envelope(request: Request, kind: str, found: list[Any], described: Callable[[Any], Any], limit: int) -> Answer:
    """A page of a list that is paged by offset."""
    try:
        limit = min(int(request.query.get("limit", limit)), 1000)
        offset = int(request.query.get("offset", 0))
    except ValueError:
        raise Refusal(400, "ClientError.BadRequest", "limit and offset are numbers") from None
    part = [described(one) for one in found[offset : offset + limit]]
    envelope = {"DATA_TYPE": kind, "length": len(part), "limit": limit, "offset": offset, "total": len(found)}
    return document(200, {**envelope, "DATA": part})


def _fits(task: Task, name: str, wanted: str) -> bool:
    """Whether a task fits one condition of a filter."""
    if name == "label":
        return fnmatchcase(task.label or "", wanted[1:]) if wanted.startswith("~") else task.label in wanted.split(",")
    if name == "request_time":
        low, _, high = wanted.partition(",")
        return (not low or _moment(low) <= task.request_time) and (not high or task.request_time <= _moment(high))
    known = {"status": (ACTIVE, INACTIVE, "SUCCEEDED", FAILED), "type": (TRANSFER, DELETE), "task_id": None}
    if name not in known:
        raise Refusal(400, "ClientError.BadRequest", f"Tasks are not filtered by {name} here")
    return getattr(task, name) in wanted.split(",")


def _successful(subtask: Any) -> dict[str, Any]:
    found = {"DATA_TYPE": "successful_transfer", "source_path": subtask.source, "destination_path": subtask.destination}
    checked = {"checksum": subtask.checksum, "checksum_algorithm": subtask.algorithm}
    return {**found, "size": subtask.size, **checked, "dynamic": False}


def _skipped(subtask: Any) -> dict[str, Any]:
    code, details, moment = subtask.trouble
    return {
        "DATA_TYPE": "skipped_error",
        "source_path": subtask.source,
        "destination_path": subtask.destination,
        "error_code": code,
        "error_details": details,
        "error_time": moment.isoformat(timespec="seconds"),
        "is_directory": subtask.directory,
        "is_symlink": False,
        "is_delete_destination_extra": False,
        "external_checksum": subtask.item.get("external_checksum"),
        "checksum_algorithm": subtask.item.get("checksum_algorithm"),
    }


def _label(label: Any) -> str | None:
    if label is None:
        return None
    if not isinstance(label, str) or len(label) > 128 or "\r" in label or "\n" in label:
        raise Refusal(400, "ClientError.BadRequest.InvalidLabel", "A label has at most 128 characters and no line ends")
    return label.strip()


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except (AttributeError, ValueError):
        raise Refusal(400, "ClientError.BadRequest", f"Not a time: {text}") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)
