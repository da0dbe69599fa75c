"""How a task ended, and what became of every file of it: read from the service's documents and lists, asking nobody.

A file has arrived when the list of successful transfers names it with the size that it must have. It has not when the
service says so, or when a task failed without it. All else is unknown: that a task succeeded proves nothing of a file.
Of a task that compares, the files in neither list were the same at both ends if its own counts say so to the last one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from libtool.movers.base import Arrived, Hitch, Item, ItemOutcome, Ticket
from libtool.movers.globus import codes

UNKNOWN = ItemOutcome(Arrived.UNKNOWN)
SAME = ItemOutcome(Arrived.SAME)
NO_PLACE = ItemOutcome(Arrived.NO, "the destination named no place for it that may be written")


class Lists:
    """What the lists of a task say about a batch, file by file and summed up for directories."""

    def __init__(self, items: Sequence[Item], *, comparing: bool = False) -> None:
        self._all, self._comparing = items, comparing
        self._directories = {item.target for item in items if item.directory}
        self._files = {item.target for item in items} - self._directories
        self._sizes: dict[str, int] = {}  #: by target of a file; -1: it arrived, and no size was told
        self._inside: dict[str, dict[str, int]] = {}  #: target of a directory → path below it → size, each once
        self._skipped: dict[str, str] = {}
        self._blind = False  #: an entry tells no path, as to somebody without a role at that end
        self._foreign = False  #: an entry is about none of the batch, or does not tell
        self._proved: bool | None = None  #: what is in neither list is the same at both ends; None: nobody asked yet

    def _owner(self, told: Any) -> str | None:
        """The target of the item that a path on the destination belongs to."""
        path = str(told or "").rstrip("/")
        if path in self._files or path in self._directories:
            return path
        while self._directories and "/" in path:
            path = path.rpartition("/")[0]
            if path in self._directories:
                return path
        return None

    def skipped(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Take in the list of errors that were passed over."""
        for entry in entries:
            target = self._owner(entry.get("destination_path"))
            self._foreign = self._foreign or target is None
            if target is not None:
                self._skipped[target] = codes.told(str(entry.get("error_code")), str(entry.get("error_details") or ""))

    def successful(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Take in the list of successful transfers."""
        for entry in entries:
            target, size = self._owner(entry.get("destination_path")), entry.get("size")
            told = size if isinstance(size, int) else -1
            self._blind = self._blind or not entry.get("destination_path")
            self._foreign = self._foreign or target is None
            if target in self._files:
                self._sizes[target] = told
            elif target is not None:
                self._inside.setdefault(target, {})[str(entry["destination_path"])] = max(told, 0)

    def of(self, item: Item, end: Mapping[str, Any]) -> ItemOutcome:
        """What became of one item of a task that ended so."""
        if item.target in self._skipped:
            return ItemOutcome(Arrived.NO, self._skipped[item.target])
        if item.directory:
            # Neither empty files nor empty directories below it count in bytes, so only the receiver can tell.
            whole = sum(self._inside.get(item.target, {}).values()) == item.size and item.target in self._inside
            return UNKNOWN if whole or self._untold(end) else _unfinished(end)
        size = self._sizes.get(item.target)
        if size is None and self._comparing:
            if self._proved is None:
                self._proved = self._prove(end)
            if self._proved:
                return SAME
            # It may be the same at both ends, whatever became of the task.
            return replace(_unfinished(end), arrived=Arrived.UNKNOWN) if end.get("status") == "FAILED" else UNKNOWN
        if size is None:
            return UNKNOWN if self._untold(end) else _unfinished(end)
        if size in (item.size, -1):
            return ItemOutcome(Arrived.YES)
        why = f"the file changed while it was sent: {size} bytes instead of {item.size}"
        return ItemOutcome(Arrived.NO, f"{why}; it is tried again by itself")

    def _prove(self, end: Mapping[str, Any]) -> bool:
        """Whether the files that are in neither list were compared and found the same: there are nothing but files, each
        is counted just once, no entry is about another, and the task counted like us."""
        if end.get("status") != "SUCCEEDED" or self._foreign or len(self._files) < len(self._all):
            return False
        carried, passed = self._sizes.keys(), self._skipped.keys()
        left = len(self._files) - len(carried) - len(passed)
        counted = [end.get(name) for name in ("carried", "passed_over", "same")]
        return carried.isdisjoint(passed) and counted == [len(carried), len(passed), left]

    def _untold(self, end: Mapping[str, Any]) -> bool:
        """Whether a file that is in no list may have arrived."""
        return self._blind or end.get("status") == "SUCCEEDED"


def _unfinished(end: Mapping[str, Any]) -> ItemOutcome:
    return ItemOutcome(Arrived.NO, end.get("why") or "its task ended without it", bool(end.get("passing")))


def report_of(task: Any) -> dict[str, Any]:
    """What is kept of a task that has ended: sizes in bytes, the rate in bytes per second, times as the service told."""
    return {
        "task": task.get("task_id"),
        "status": task.get("status"),
        "bytes": number(task, "bytes_transferred"),
        "files": number(task, "files_transferred"),
        "skipped": number(task, "subtasks_skipped_errors"),
        "faults": number(task, "faults"),
        "rate": number(task, "effective_bytes_per_second"),
        "requested": task.get("request_time"),
        "completed": task.get("completion_time"),
    }


def end_of(task: Any, ticket: Ticket) -> dict[str, Any]:
    """How a task ended, and why what it did not carry did not arrive."""
    error = task.get("fatal_error")
    code = str(error.get("code")) if isinstance(error, dict) else ""
    said = str(error.get("description") or "") if isinstance(error, dict) else ""
    if task.get("canceled_by_admin"):
        said = f"by the people who run a collection: {task.get('canceled_by_admin_message') or 'no reason given'}"
    why = codes.told(code, said if said.lower() not in (code.lower(), "canceled") else "") if code else ""
    file = codes.meaning(code).hitch is Hitch.FILE
    if code == "CANCELED" and ticket.get("stopped"):  # by us, since what was left would never have come
        why, file = ticket["stopped"], True
    return {
        "status": task.get("status"),
        "history_deleted": bool(task.get("history_deleted")),
        "carried": _count(task, "files_transferred"),
        "passed_over": _count(task, "subtasks_skipped_errors"),
        "same": _count(task, "files_skipped"),
        "why": f"its task ended before it was sent: {why}" if why else "",
        "passing": not file,
    }


def number(document: Any, field: str) -> int:
    """A count from the service, which may leave fields out."""
    value = document.get(field)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _count(document: Any, field: str) -> int | None:
    """A count that proves something: None when it is left out or is none."""
    value = document.get(field)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
