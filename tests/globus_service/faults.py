"""Faults: what a test may have go wrong, when, and how often."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

#: Of these the default is to strike once.
ONCE = {
    "token_expired",
    "refresh_revoked",
    "consent_required",
    "session_required",
    "http_429",
    "http_503",
    "http_500",
    "say",
    "slow",
    "drop_before",
    "drop_after",
    "truncate",
    "max_pending",
    "identical_paths",
    "too_large",
    "unknown_status",
    "task_fail",
    "faults_then_ok",
    "grow",
    "replace",
    "touch",
    "corrupt",
}
#: Of these it is to last until ``end()``.
LASTING = {
    "task_hang",
    "pause",
    "inactive",
    "skip",
    "missing",
    "perm",
    "nospace",
    "gcp_offline",
    "lie_omit",
    "lie_repeat",
    "lie_count",
}
#: What each fault can be told beside what it matches, with the default.
PARAMETERS: dict[str, dict[str, Any]] = {
    "task_fail": {"code": "INTERNAL_ERROR"},
    "faults_then_ok": {"n": 3, "code": "CONNECTION_RESET", "every": None},
    "pause": {"message": "Paused by the administrator"},
    "inactive": {"code": "NO_CREDENTIALS"},
    "session_required": {"domain": "example.org"},
    "http_429": {"retry_after": None},
    "http_503": {"retry_after": None, "html": False},
    "say": {"status": 200, "body": b"{}", "kind": "application/json"},
    "slow": {"seconds": 0.1},
    "max_pending": {"n": 0},
    "skip": {"code": "FILE_NOT_FOUND"},
    "grow": {"content": b"grown"},
    "perm": {"side": "source"},
    "nospace": {"after": 0},
    "lie_count": {"field": "files_skipped", "by": 1},
}
MATCHING = ("path", "method", "url", "task", "collection", "count", "after", "probability")


class Fault:
    """One armed fault."""

    def __init__(self, name: str, given: dict[str, Any]) -> None:
        if name not in ONCE | LASTING:
            raise ValueError(f"no fault is called {name!r}")
        unknown = set(given) - set(MATCHING) - set(PARAMETERS.get(name, {}))
        if unknown:
            raise TypeError(f"the fault {name} has no {', '.join(sorted(unknown))}")
        self.name = name
        self.used = 0
        self.ended = False
        self.parameters = {**PARAMETERS.get(name, {}), **given}
        self.count: int | None = given.get("count", 1 if name in ONCE else None)
        # Of a disk that fills up, ``after`` is a number of bytes.
        self._leave = 0 if name == "nospace" else given.get("after", 0)
        self._chance = random.Random(0)
        self._bound: set[str] = set()
        self.written = 0  #: by ``nospace``: bytes that went to the collection since

    def __getitem__(self, name: str) -> Any:
        return self.parameters[name]

    def end(self) -> None:
        """Let it strike no more."""
        self.ended = True

    def matches(
        self, paths: Iterable[str] = (), method: str = "", url: str = "", task: str = "", collections: Iterable[str] = ()
    ) -> bool:
        """Whether it is about this."""
        if self.ended:
            return False
        wanted = self.parameters
        if "path" in wanted:
            name = wanted["path"]
            if not any(path == name or fnmatchcase(path, name) or fnmatchcase(path.rpartition("/")[2], name) for path in paths):
                return False
        if "method" in wanted and wanted["method"].upper() != method:
            return False
        if "url" in wanted and not re.search(wanted["url"], url):
            return False
        if "task" in wanted and wanted["task"] != task:
            return False
        collection = wanted.get("collection")
        return collection is None or getattr(collection, "id", collection) in collections

    def strike(self) -> bool:
        """Whether it strikes at this match."""
        if self.count is not None and self.used >= self.count:
            return False
        if self._leave > 0:
            self._leave -= 1
            return False
        if self._chance.random() >= self.parameters.get("probability", 1.0):
            return False
        self.used += 1
        return True

    def holds(self, task: str) -> bool:
        """Whether it strikes a task; once it did, it does so until it ends."""
        if task not in self._bound:
            if not self.strike():
                return False
            self._bound.add(task)
        return True


class Faults:
    """All armed faults, in the order in which they were armed."""

    def __init__(self) -> None:
        self.armed: list[Fault] = []

    def arm(self, name: str, given: dict[str, Any]) -> Fault:
        """Have something go wrong from now on."""
        fault = Fault(name, given)
        self.armed.append(fault)
        return fault

    def strike(self, name: str, **about: Any) -> Fault | None:
        """The fault of this name that strikes now."""
        for fault in self.armed:
            if fault.name == name and fault.matches(**about) and fault.strike():
                return fault
        return None

    def holding(self, name: str, task: str, **about: Any) -> Fault | None:
        """The fault of this name that has hold of a task."""
        for fault in self.armed:
            if fault.name == name and fault.matches(task=task, **about) and fault.holds(task):
                return fault
        return None

    def matching(self, name: str, **about: Any) -> list[Fault]:
        """Those of this name that are about this, whether or not they strike."""
        return [fault for fault in self.armed if fault.name == name and fault.matches(**about)]
