"""Tasks: what was asked for, how far it has come, and the documents that say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.globus_service.answers import stamp

if TYPE_CHECKING:
    from tests.globus_service.world import Collection

TRANSFER, DELETE = "TRANSFER", "DELETE"
ACTIVE, INACTIVE, SUCCEEDED, FAILED = "ACTIVE", "INACTIVE", "SUCCEEDED", "FAILED"
LIFETIME = timedelta(hours=24)


@dataclass
class Subtask:
    """One file or directory of a task."""

    item: dict[str, Any]
    source: str  #: of a deletion: what is deleted
    destination: str
    recursive: bool | None
    state: str = "pending"  #: also retrying, succeeded, failed, canceled, expired, skipped
    retry_at: datetime | None = None
    begun: tuple[int, int] | None = None  #: size and mtime in ns of the source when its copy began
    offset: int = 0
    size: int = 0
    checksum: str | None = None
    algorithm: str | None = None
    arrived: bool = False  #: belongs into the list of successful transfers
    directory: bool = False
    trouble: tuple[str, str, datetime] | None = None  #: code, details and time of what made it skipped

    @property
    def open(self) -> bool:
        """Whether something is left to do."""
        return self.state in ("pending", "retrying")


@dataclass
class Task:
    """One submitted task."""

    task_id: str
    submission_id: str
    type: str
    owner: str  #: an identity's id
    document: dict[str, Any]  #: as posted
    source: Collection
    destination: Collection | None
    request_time: datetime
    deadline: datetime
    user_deadline: bool = False
    label: str | None = None
    status: str = ACTIVE
    nice_status: str | None = "Queued"
    is_paused: bool = False
    pause_message: str | None = None
    completion_time: datetime | None = None
    fatal_error: dict[str, str] | None = None
    faults: int = 0
    subtasks: list[Subtask] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    bytes_transferred: int = 0
    bytes_checksummed: int = 0
    files_skipped: int = 0
    history_deleted: bool = False
    forgotten: bool = False
    started: bool = False
    resume_at: datetime | None = None  #: nothing is tried before, because of trouble with the whole task
    storm: int = 0  #: how many of the errors of ``faults_then_ok`` it has had
    moved_at: datetime | None = None  #: up to when its share of the bandwidth is used up
    allowance: float = 0.0  #: bytes that may still be moved now
    suspended: bool = False  #: in the middle of a file, for want of bandwidth

    @property
    def items(self) -> list[dict[str, Any]]:
        """The items as posted."""
        found: list[dict[str, Any]] = self.document["DATA"]
        return found

    @property
    def ended(self) -> bool:
        """Whether it succeeded or failed."""
        return self.status in (SUCCEEDED, FAILED)

    @property
    def collections(self) -> list[Collection]:
        """The one or two collections that it works on."""
        return [self.source] if self.destination is None else [self.source, self.destination]

    def wants(self, option: str, default: bool = False) -> bool:
        """Whether an option is on."""
        return bool(self.document.get(option, default))

    def pairs(self) -> Iterator[tuple[str, str, str, str]]:
        """What no second unfinished task may move at the same time."""
        for item in self.items:
            if self.type == DELETE:
                yield self.source.id, "", tidy(item["path"]), ""
            else:
                assert self.destination is not None
                yield self.source.id, self.destination.id, tidy(item["source_path"]), tidy(item["destination_path"])

    def event(self, code: str, now: datetime, description: str, details: str = "", is_error: bool = False) -> None:
        """Write down what happened."""
        self.events.append(
            {
                "DATA_TYPE": "event",
                "code": code,
                "is_error": is_error,
                "description": description,
                "details": details,
                "time": stamp(now),
            }
        )

    def troubled(self, code: str, now: datetime, details: str) -> None:
        """Something went wrong that may pass."""
        self.faults += 1
        self.nice_status = code
        self.event(code, now, code.replace("_", " ").lower(), details, is_error=True)

    def end(self, status: str, now: datetime, fatal: tuple[str, str] | None = None) -> None:
        """Settle the task; what is open becomes canceled, expired or failed with it."""
        left = {"CANCELED": "canceled", "EXPIRED": "expired"}.get(fatal[0] if fatal else "", "failed")
        for subtask in self.subtasks:
            if subtask.open:
                subtask.state = left
        self.status, self.completion_time, self.nice_status = status, now, None
        self.is_paused, self.pause_message = False, None
        if fatal is None:
            self.event("SUCCEEDED", now, "succeeded")
        else:
            self.fatal_error = {"code": fatal[0], "description": fatal[1]}
            self.event(fatal[0], now, fatal[1], is_error=fatal[0] != "CANCELED")

    def described(self, now: datetime, username: str, command: str = "API 0.10") -> dict[str, Any]:
        """The task document."""
        states = Counter(subtask.state for subtask in self.subtasks)
        files = [s for s in self.subtasks if not s.directory]
        seconds = ((self.completion_time or now) - self.request_time).total_seconds()
        posted, transfer = self.document, self.type == TRANSFER
        found: dict[str, Any] = {
            "DATA_TYPE": "task",
            "task_id": self.task_id,
            "type": self.type,
            "status": self.status,
            "fatal_error": self.fatal_error,
            "label": self.label,
            "owner_id": self.owner,
            "username": username,
            "request_time": stamp(self.request_time),
            "completion_time": stamp(self.completion_time),
            "deadline": stamp(self.deadline),
            "command": command,
            "history_deleted": self.history_deleted,
            "is_paused": self.is_paused,
            "is_ok": None if self.ended else self.nice_status in ("OK", "Queued"),
            "nice_status": self.nice_status,
            "nice_status_short_description": self.nice_status and self.nice_status.replace("_", " ").lower(),
            "nice_status_details": None,
            "nice_status_expires_in": None if self.ended else -1,
            "faults": self.faults,
            "files": len(files),
            "directories": len(self.subtasks) - len(files),
            "symlinks": 0,
            "files_skipped": self.files_skipped,
            "files_transferred": sum(s.arrived for s in files),
            "subtasks_total": len(self.subtasks),
            "subtasks_skipped_errors": states["skipped"],
            "bytes_transferred": self.bytes_transferred,
            "bytes_checksummed": self.bytes_checksummed,
            "effective_bytes_per_second": int(self.bytes_transferred / max(1.0, seconds)),
            "total_estimated_bytes": sum(s.size for s in files),
            "canceled_by_admin": None,
            "canceled_by_admin_message": None,
            "source_local_user": posted.get("source_local_user"),
            "destination_local_user": posted.get("destination_local_user"),
            "source_local_user_status": None,
            "destination_local_user_status": None,
            "source_base_path": None,
            "destination_base_path": None,
            "sync_level": posted.get("sync_level"),
            "verify_checksum": self.wants("verify_checksum", transfer),
            "recursive_symlinks": "ignore" if transfer else None,
            "filter_rules": posted.get("filter_rules"),
        }
        for name in ("encrypt_data", "delete_destination_extra", "preserve_timestamp", "skip_source_errors", "fail_on_quota_errors"):
            found[name] = self.wants(name)
        for state in ("pending", "retrying", "succeeded", "failed", "canceled", "expired"):
            found[f"subtasks_{state}"] = states[state]
        for side, collection in (("source", self.source), ("destination", self.destination)):
            found[f"{side}_endpoint"] = collection and f"{collection.owner.partition('@')[0]}#{collection.id}"
            found[f"{side}_endpoint_id"] = collection and collection.id
            found[f"{side}_endpoint_display_name"] = collection and collection.name
        return found


def tidy(path: str) -> str:
    """A path without doubled and trailing slashes, for comparing."""
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
