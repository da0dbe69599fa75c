"""The carrier itself: what becomes of a queue item at Globus, from its submission id to the outcome of every file.

Every flag is sent, since the service's defaults are described in three ways. ``sync_level`` is not: each attempt has a
staging place of its own, and only files that were really carried are listed as successful.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from libtool.errors import CarrierBarred, CarrierRefused
from libtool.movers.base import Hitch, Item, ItemOutcome, Mover, Progress, Stage, Ticket
from libtool.movers.globus import codes, outcome
from libtool.names import is_plain_path, shown
from libtool.seams import seam

if TYPE_CHECKING:
    from libtool.movers.globus.access import Access, Definite

#: How long a submission id is relied on.
ID_AGE = timedelta(hours=24)
#: How often a login is used at least; Globus forgets one that is not used for six months.
USED_EVERY = timedelta(days=7)
#: What makes a collection's id.
_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_FLAGS: dict[str, Any] = {
    "encrypt_data": True,
    "verify_checksum": True,
    "preserve_timestamp": True,
    "skip_source_errors": True,
    "fail_on_quota_errors": True,
    "delete_destination_extra": False,
    "notify_on_succeeded": False,
    "notify_on_failed": False,
    "notify_on_inactive": False,
}


@dataclass(frozen=True, slots=True)
class Setup:
    """What the configuration says about Globus."""

    enabled: bool
    client: str | None
    person: bool
    collection: str | None  #: that files are sent from
    roots: tuple[str, ...] = ()  #: where may be written when the destination is that same collection


class GlobusMover(Mover):
    """One Globus task per batch; it goes on without us."""

    kind = "globus"
    asynchronous = True

    def __init__(self, setup: Setup, tokens: Any, now: Callable[[], datetime]) -> None:
        self.setup, self._tokens, self._now = setup, tokens, now
        self._access: Access | None = None

    @property
    def access(self) -> Access:
        """The way to the service; the SDK is imported here."""
        if self._access is None:
            if why := self._unusable():
                raise CarrierBarred(carrier=self.kind, why=why, how="Complete the globus keys of the configuration.")
            from libtool.movers.globus.access import Access

            self._access = Access(str(self.setup.client), self._tokens, lambda: self._now().timestamp())
        return self._access

    def _unusable(self) -> str:
        if not self.setup.client:
            return "globus_client_id is missing"
        if not _ID.fullmatch(self.setup.collection or ""):
            return (
                "globus_local_endpoint_id is missing"
                if not self.setup.collection
                else "globus_local_endpoint_id is no id"
            )
        return ""

    def reaches(self, provider: Mapping[str, Any]) -> str:
        """The configuration must be complete here, and the destination must name a collection."""
        if not self.setup.enabled:
            return "globus_enable is not true here"
        if why := self._unusable():
            return why
        collection = provider.get("destination_endpoint")
        if not isinstance(collection, str) or not _ID.fullmatch(collection):
            return f"its destination_endpoint is no id of a collection: {shown(str(collection))[:100]}"
        if collection == self.setup.collection and not self.setup.roots:
            return "its collection is ours, and local_transfer_roots names no directory that may be written through it"
        return ""

    def refuses(self, name: str) -> str:
        """Globus takes no line breaks in names."""
        return "its name has a line break, which Globus cannot carry" if {"\n", "\r"}.intersection(name) else ""

    # -- submitting ------------------------------------------------------------------------------------------------------

    def prepare(self, provider: Mapping[str, Any], label: str) -> Ticket:
        """Fetch a submission id: whatever is submitted under it becomes one task, however often."""
        from libtool.movers.globus.access import Definite

        try:
            id = str(self.access.call("get_submission_id")["value"])
        except Definite as refusal:
            raise CarrierRefused(carrier=self.kind, why=refusal.why) from None
        return {
            "submission_id": id,
            "label": f"{label_of(label)} {id[:8]}",
            "source": self.setup.collection,
            "destination": provider["destination_endpoint"],
            "made": self._now().isoformat(),
            "as": self._who(),
        }

    def submit(self, provider: Mapping[str, Any], ticket: Ticket, items: Sequence[Item]) -> Ticket:
        """Submit everything as one task; the same ticket never makes a second one."""
        from libtool.movers.globus.access import Definite

        going = [item for item in items if self._fits(ticket, item)]
        ticket = {**ticket, "size": sum(item.size for item in going), "items": len(going)}
        if not going:
            return {**ticket, "task": None}
        if self._now() - datetime.fromisoformat(ticket["made"]) > ID_AGE:
            task = self._find(ticket["label"], live=False)
            if task is None:
                why = "its submission id is older than a day and no task was made with it"
                raise CarrierRefused(carrier=self.kind, why=why)
            return {**ticket, "task": task}
        try:
            seam("globus: submit")
            answer = self.access.call("submit_transfer", self._document(ticket, going))
            seam("globus: submitted")
            return {**ticket, "task": str(answer["task_id"])}
        except Definite as refusal:
            task = self._adopt(ticket, refusal)
            if task is None:
                large = refusal.status == 413 or "too large" in refusal.why.lower()
                raise CarrierRefused(carrier=self.kind, why=refusal.why, too_large=large) from None
            return {**ticket, "task": task}

    def _document(self, ticket: Ticket, items: Sequence[Item]) -> Any:
        import globus_sdk

        data = globus_sdk.TransferData(
            ticket["source"],
            ticket["destination"],
            label=ticket["label"],
            submission_id=ticket["submission_id"],
            additional_fields={"store_base_path_info": False},
            **_FLAGS,
        )
        for item in items:
            data.add_item(item.source, item.target, recursive=item.directory)
        return data

    def _fits(self, ticket: Ticket, item: Item) -> bool:
        """Whether an item's staging place may be written: a destination names these places, and may lie."""
        if not is_plain_path(item.target) or {"\n", "\r"}.intersection(item.target + item.source):
            return False
        if item.name and not item.target.endswith(f"/{item.name}"):
            return False
        if ticket["destination"] != ticket["source"]:
            return True
        parent = os.path.realpath(os.path.dirname(item.target))
        return any(
            parent == root or parent.startswith(root.rstrip("/") + "/")
            for root in map(os.path.realpath, self.setup.roots)
        )

    def _adopt(self, ticket: Ticket, refusal: Definite) -> str | None:
        """The task that has these files already, if it is ours: made with this ticket, or with an older one of this
        item by a database that was restored since."""
        if refusal.status == 409:
            return self._find(ticket["label"].rpartition(" ")[0] + " ", live=True)
        return self._find(ticket["label"], live=False)

    def _find(self, label: str, *, live: bool) -> str | None:
        """The newest task of ours whose label begins so."""
        from libtool.movers.globus.access import Definite

        wanted = {"type": "TRANSFER"} | ({"status": "ACTIVE,INACTIVE"} if live else {})
        try:
            answer = self.access.call("task_list", limit=1000, orderby="request_time DESC", filter=wanted)
            found = [task for task in answer["DATA"] if str(task.get("label") or "").startswith(label)]
        except Definite as refusal:
            raise CarrierRefused(carrier=self.kind, why=refusal.why) from None
        return str(found[0]["task_id"]) if found else None

    # -- learning what became of it ----------------------------------------------------------------------------------------

    def poll(self, ticket: Ticket) -> Progress:
        """Where the task stands, from its document."""
        from libtool.movers.globus.access import Definite

        if ticket["task"] is None:
            return Progress(Stage.DONE, report={"files": 0, "bytes": 0})
        try:
            task = self.access.call("get_task", ticket["task"])
        except Definite as refusal:
            return self._missed(ticket, refusal)
        status = str(task.get("status"))
        if status in ("SUCCEEDED", "FAILED"):
            return Progress(
                Stage.DONE, report=outcome.report_of(task), ticket={**ticket, "end": outcome.end_of(task, ticket)}
            )
        ticket, still = self._movement(ticket, task)
        hitch, text = self._hitch(ticket, task, status)
        ticket = {**ticket, "stuck": text if hitch is Hitch.FILE else None}
        return Progress(Stage.RUNNING, hitch, text, still, ticket=ticket)

    def _who(self) -> str | None:
        """The id of the identity that tasks are submitted as; None when nobody told."""
        if not self.setup.person:
            return self.setup.client
        who = self._tokens.read().get("identity")
        return str(who["id"]) if isinstance(who, dict) and "id" in who else None

    def _missed(self, ticket: Ticket, refusal: Definite) -> Progress:
        """The service does not know the task: gone, or not to be seen by who we are now."""
        if refusal.status != 404:
            return Progress(
                Stage.RUNNING, Hitch.STRANGE, f"Globus does not tell about task {ticket['task']}: {refusal.why}"
            )
        if None not in (then := ticket.get("as"), mine := self._who()) and then != mine:
            text = f"task {ticket['task']} was submitted as identity {then}, and this node is {mine} now"
            return Progress(Stage.RUNNING, Hitch.PERSON, f"{text}. Be the former again until the task has ended.")
        now = self._now()
        since = datetime.fromisoformat(ticket.get("missed") or now.isoformat())
        ticket = {**ticket, "missed": since.isoformat()}
        return Progress(Stage.LOST, still=(now - since).total_seconds(), ticket=ticket)

    def _movement(self, ticket: Ticket, task: Any) -> tuple[Ticket, float]:
        """The ticket with how far the task has come, and for how many seconds that has been so.

        Bytes above the size of the whole batch are those of a file that is sent again and again: no movement.
        """
        sent = min(outcome.number(task, "bytes_transferred"), ticket.get("size", 0))
        moved = [sent, outcome.number(task, "subtasks_succeeded"), outcome.number(task, "subtasks_skipped_errors")]
        now = self._now()
        if ticket.get("moved") != moved or "moved_at" not in ticket:
            ticket = {**ticket, "moved": moved, "moved_at": now.isoformat()}
        ticket = {key: value for key, value in ticket.items() if key != "missed"}
        return ticket, (now - datetime.fromisoformat(ticket["moved_at"])).total_seconds()

    def _hitch(self, ticket: Ticket, task: Any, status: str) -> tuple[Hitch | None, str]:
        """What keeps a task from going on, in words."""
        code = str(task.get("nice_status") or "")
        link = f"[https://app.globus.org/activity/{ticket['task']}]"
        if task.get("is_paused"):
            why = self._pause_message(ticket["task"])
            return (
                Hitch.PAUSED,
                f"a task is paused by the people who run a collection{f': {why}' if why else ''} {link}",
            )
        meant = codes.meaning(code)
        if status == "INACTIVE":
            meant = meant if meant.hitch is Hitch.PERSON else codes.meaning("NO_CREDENTIALS")
            return meant.hitch, f"a task waits: {meant.words} {link}. {meant.how}"
        if status != "ACTIVE":
            return Hitch.STRANGE, f"Globus shows a task with the status {shown(status)[:50]} {link}"
        if meant.hitch is None:
            return None, code
        detail = str(task.get("nice_status_short_description") or "")
        return meant.hitch, f"a task does not go on: {codes.told(code, detail if detail != code else '')} {link}"

    def _pause_message(self, task: str) -> str:
        from libtool.movers.globus.access import Definite

        try:
            info = self.access.call("task_pause_info", task)
        except Definite:
            return ""
        said = [
            info.get(f"{side}_pause_message{kind}") for side in ("source", "destination") for kind in ("", "_share")
        ]
        said += [rule.get("message") for rule in info.get("pause_rules") or [] if isinstance(rule, dict)]
        return "; ".join(str(each) for each in said if each)[:500]

    def outcomes(self, ticket: Ticket, items: Sequence[Item]) -> list[ItemOutcome]:
        """From the lists of the service, file by file; what it cannot tell is unknown."""
        from libtool.movers.globus.access import Definite

        end = ticket.get("end") or {}
        refused = [item for item in items if not self._fits(ticket, item)]
        tally = outcome.Lists(items)
        known = not end.get("history_deleted")
        try:
            if known and ticket["task"] is not None:
                tally.skipped(self.access.pages("task_skipped_errors", ticket["task"]))
                tally.successful(self.access.pages("task_successful_transfers", ticket["task"]))
        except Definite:
            known = False
        return [
            outcome.NO_PLACE if item in refused else tally.of(item, end) if known else outcome.UNKNOWN for item in items
        ]

    def cancel(self, ticket: Ticket) -> None:
        """Ask the service to end the task."""
        from libtool.movers.globus.access import Definite

        if ticket.get("task") is None:
            return
        try:
            self.access.call("cancel_task", ticket["task"])
        except Definite:
            return  # it has ended, or is gone; the next look shows

    # -- beside the tasks --------------------------------------------------------------------------------------------------

    def tend(self) -> None:
        """Use a person's login once a week, for Globus forgets one that is not used for long."""
        if not self.setup.enabled or not self.setup.person or self._unusable():
            return
        kept = self._tokens.read()
        if kept and self._now().timestamp() - kept.get("renewed", 0) > USED_EVERY.total_seconds():
            with self._tokens.lock():
                self._tokens.write(access_token=None, expires_at=None)
            self.access.call("get_submission_id")

    def find(self, provider: Mapping[str, Any], path: str) -> int | None:
        """Look for a file through a collection, by listing the directory that it lies in."""
        from libtool.movers.globus.access import Definite

        directory, _, name = path.rpartition("/")
        try:
            listed = self.access.call(
                "operation_ls", provider["destination_endpoint"], f"{directory}/", show_hidden=True
            )
            found = [each for each in listed["DATA"] if each.get("name") == name and each.get("type") == "file"]
        except Definite as refusal:
            if refusal.status == 404 or "NotFound" in refusal.code:
                return None
            raise CarrierRefused(carrier=self.kind, why=refusal.why) from None
        return outcome.number(found[0], "size") if found else None


def label_of(label: str) -> str:
    """A label in the letters that every version of the service took."""
    return re.sub(r"[^A-Za-z0-9_ -]", "_", label)[:100].strip()
