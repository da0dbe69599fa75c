"""The carrier itself: what becomes of a queue item at Globus, from its submission id to the end of its task.

Every flag is sent, since the service's defaults are described in three ways. ``sync_level`` is not when files are sent:
each attempt has a place of its own, and only files that were really carried are listed as successful. A mover may be
made for another deed: to compare, carrying only what differs in its bytes, or to delete at the source.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from libtool.errors import CarrierBarred, CarrierRefused, CarrierUnknown, SecretMissing, SecretUnsafe
from libtool.movers.base import Hitch, Item, ItemOutcome, Mover, Progress, Stage, Ticket
from libtool.movers.globus import codes, outcome
from libtool.names import is_plain_path, is_uuid, shown
from libtool.seams import seam

if TYPE_CHECKING:
    from libtool.movers.globus.access import Access, Definite

#: How long a submission id is relied on.
ID_AGE = timedelta(hours=24)
#: A task that deletes ends after so long, done or not.
DELETED_WITHIN = timedelta(hours=1)
#: How often a login is used at least; Globus forgets one that is not used for six months.
USED_EVERY = timedelta(days=7)
#: Tasks that one look for a label reads: as many as the service lists at once.
LISTED = 1000
#: How long a task is waited for that the identity of now cannot see, when it is not known whose the task was.
UNSEEN = timedelta(days=3)
_SILENT: dict[str, Any] = {
    "notify_on_succeeded": False,
    "notify_on_failed": False,
    "notify_on_inactive": False,
}
_FLAGS: dict[str, Any] = {
    "encrypt_data": True,
    "verify_checksum": True,
    "preserve_timestamp": True,
    "skip_source_errors": True,
    "fail_on_quota_errors": True,
    "delete_destination_extra": False,
    **_SILENT,
}
#: Globus's number for "carry what has another checksum at the destination".
_BY_CHECKSUM = 3


@dataclass(frozen=True, slots=True)
class Setup:
    """What the configuration says about Globus."""

    enabled: bool
    client: str | None
    person: bool
    collection: str | None  #: that files are sent from
    ours: tuple[str, ...] = ()  #: every collection that the configuration names: they show this host's disks
    roots: tuple[str, ...] = ()  #: where may be written through one of ours
    deed: str = "send"  #: what its tasks do; also "compare" and "delete"
    source_key: str = "globus_local_endpoint_id"  #: the key of the configuration that names ``collection``
    target_key: str = ""  #: the one that names the destination, when no neighbour does


class GlobusMover(Mover):
    """One Globus task per batch; it goes on without us."""

    kind = "globus"
    asynchronous = True

    def __init__(self, setup: Setup, tokens: Any, now: Callable[[], datetime]) -> None:
        self.setup, self._tokens, self._now = setup, tokens, now
        self._access: Access | None = None
        self._ours = {each.lower() for each in (*setup.ours, setup.collection or "")}

    @property
    def access(self) -> Access:
        """The way to the service; the SDK is imported here."""
        if self._access is None:
            if not self.setup.client:
                raise self._incomplete("globus_client_id is missing")
            from libtool.movers.globus.access import Access

            self._access = Access(self.setup.client, self._tokens, lambda: self._now().timestamp())
        return self._access

    def _incomplete(self, why: str) -> CarrierBarred:
        how = "Complete the globus keys of the configuration."
        return CarrierBarred(carrier=self.kind, why=why, how=how, cause="configuration")

    def _unusable(self) -> str:
        """Why nothing can be submitted with this configuration."""
        if not self.setup.enabled:
            return "globus_enable is not true here"
        if not self.setup.client:
            return "globus_client_id is missing here"
        if not self.setup.collection:
            return f"{self.setup.source_key} is missing here"
        if not is_uuid(self.setup.collection):
            return f"{self.setup.source_key} here is no id of a collection"
        return ""

    def reaches(self, provider: Mapping[str, Any]) -> str:
        """The configuration must be complete here, and the destination must name a collection."""
        if why := self._unusable():
            return why
        collection = provider.get("destination_endpoint")
        if not isinstance(collection, str) or not is_uuid(collection):
            return f"its destination_endpoint is no id of a collection: {shown(str(collection))[:100]}"
        if collection.lower() in self._ours and not self.setup.roots:
            return "its collection is one of ours, and local_transfer_roots names no directory that may be written"
        return ""

    def refuses(self, name: str) -> str:
        """Globus takes no line breaks in names."""
        return "its name has a line break, which Globus cannot carry" if {"\n", "\r"}.intersection(name) else ""

    # -- submitting ------------------------------------------------------------------------------------------------------

    def prepare(self, provider: Mapping[str, Any], label: str) -> Ticket:
        """Fetch a submission id: whatever is submitted under it becomes one task, however often."""
        from libtool.movers.globus.access import Definite, id_in

        if why := self._unusable():
            raise self._incomplete(why)
        try:
            id = self.access.call("get_submission_id", read=lambda answer: id_in(answer, "value"))
        except Definite as refusal:
            raise CarrierRefused(carrier=self.kind, why=refusal.why) from None
        deed = self.setup.deed
        label = label_of(label if deed == "send" else f"{deed} {label}")
        return {
            "submission_id": id,
            "label": f"{label} {id[:8]}",
            "deed": deed,
            "source": self.setup.collection,
            "destination": str(provider["destination_endpoint"]).lower(),
            "made": self._now().isoformat(),
            "as": self._who(),
        }

    def submit(self, provider: Mapping[str, Any], ticket: Ticket, items: Sequence[Item]) -> Ticket:
        """Submit everything as one task; the same ticket never makes a second one."""
        from libtool.movers.globus.access import Definite, id_in

        self._be(ticket)
        if ticket.get("deed", "send") != self.setup.deed:
            raise ValueError(f"a ticket to {ticket.get('deed', 'send')} is not one to {self.setup.deed}")
        fits = [self._fits(ticket, item) for item in items]
        left_out = [item.target for item, fit in zip(items, fits) if not fit]
        going = [item for item, fit in zip(items, fits) if fit]
        ticket = {**ticket, "size": sum(item.size for item in going), "left_out": left_out}
        if not going:  # an earlier try may have found places for them that may be written no more
            return {**ticket, "task": self._find(ticket, ticket["label"])}
        if self._now() - datetime.fromisoformat(ticket["made"]) > ID_AGE:
            if task := self._find(ticket, ticket["label"]):
                return {**ticket, "task": task}
            why = "its submission id is older than a day and no task was made with it"
            raise CarrierRefused(carrier=self.kind, why=why, stale=True)
        try:
            seam("globus: submit")
            deleting = self.setup.deed == "delete"
            method = "submit_delete" if deleting else "submit_transfer"
            document = self._deletion(ticket, going) if deleting else self._document(ticket, going)
            task = self.access.call(method, document, read=lambda answer: id_in(answer, "task_id"))
            seam("globus: submitted")
            return {**ticket, "task": task}
        except Definite as refusal:
            if found := self._adopt(ticket, refusal):
                return {**ticket, "task": found}
            raise self._refusal(ticket, refusal) from None

    def recall(self, ticket: Ticket) -> Ticket | None:
        """Look for the task by its label."""
        self._be(ticket)
        task = self._find(ticket, ticket["label"])
        return {**ticket, "task": task} if task else None

    def _document(self, ticket: Ticket, items: Sequence[Item]) -> Any:
        import globus_sdk

        sync = {"sync_level": _BY_CHECKSUM} if self.setup.deed == "compare" else {}
        data = globus_sdk.TransferData(
            ticket["source"],
            ticket["destination"],
            label=ticket["label"],
            submission_id=ticket["submission_id"],
            additional_fields={"store_base_path_info": False, **sync},
            **_FLAGS,
        )
        for item in items:
            data.add_item(item.source, item.target, recursive=item.directory)
        return data

    def _deletion(self, ticket: Ticket, items: Sequence[Item]) -> Any:
        """Just these paths. What is gone already is fine, so that a repeated task is; a directory among files makes the
        service refuse rather than delete what is in it. A task that waits ends soon: what was looked at before it was
        submitted may have changed."""
        import globus_sdk

        data = globus_sdk.DeleteData(
            ticket["source"],
            label=ticket["label"],
            submission_id=ticket["submission_id"],
            recursive=all(item.directory for item in items),
            ignore_missing=True,
            interpret_globs=False,
            deadline=(self._now() + DELETED_WITHIN).replace(microsecond=0).isoformat(),
            **_SILENT,
        )
        for item in items:
            data.add_item(item.source)
        return data

    def _fits(self, ticket: Ticket, item: Item) -> bool:
        """Whether an item's staging place may be written: a destination names these places, and may lie."""
        if self.setup.deed == "delete":
            return is_plain_path(item.source) and not {"\n", "\r"}.intersection(item.source)
        if not is_plain_path(item.target) or {"\n", "\r"}.intersection(item.target + item.source):
            return False
        if item.name and not item.target.endswith(f"/{item.name}"):
            return False
        if str(ticket["destination"]).lower() not in self._ours:
            return True
        parent = os.path.realpath(os.path.dirname(item.target))
        roots = [os.path.realpath(root).rstrip("/") for root in self.setup.roots]
        return any(parent == root or parent.startswith(f"{root}/") for root in roots)

    def _refusal(self, ticket: Ticket, refusal: Definite) -> Exception:
        """A submission that surely made no task."""
        if "EndpointNotFound" in refusal.code:
            if str(ticket["source"]).lower() in refusal.why.lower():
                return self._no_collection(self.setup.source_key, refusal)
            if self.setup.target_key:
                return self._no_collection(self.setup.target_key, refusal)
            why = f"its destination_endpoint {ticket['destination']} is no collection at Globus; its operator must correct it"
            return CarrierRefused(carrier=self.kind, why=why, astray=True)
        return CarrierRefused(carrier=self.kind, why=refusal.why, divide=refusal.status in (400, 413))

    def _no_collection(self, key: str, refusal: Definite) -> CarrierBarred:
        """A key of our own configuration names no collection."""
        how = f"Compare {key} with the ids in the Globus web app."
        why = f"{key} names no collection ({refusal.why})"
        return CarrierBarred(
            carrier=self.kind, why=why, how=how, cause="collection", sure=True, everywhere=not self.setup.target_key
        )

    def _adopt(self, ticket: Ticket, refusal: Definite) -> str | None:
        """The task that has these files already, if it is ours: made with this ticket, or with an older one of this
        item by a database that was restored since. A task that compares or deletes must be the very one: what it does
        not list would be taken for done."""
        found = self._find(ticket, ticket["label"])
        if found is None and refusal.status == 409 and self.setup.deed == "send":
            found = self._find(ticket, ticket["label"].rpartition(" ")[0] + " ", live=True)
        return found

    def _find(self, ticket: Ticket, label: str, *, live: bool = False) -> str | None:
        """The newest task of ours whose label begins so; CarrierUnknown when there are too many tasks to be sure."""
        from libtool.movers.globus.access import Definite, entries, id_in

        def read(answer: Any) -> str | None:
            tasks = entries(answer)
            found = [task for task in tasks if str(task.get("label") or "").startswith(label)]
            for task in tasks[:1]:
                self._learn_identity(task)
            if not found and len(tasks) >= LISTED and str(tasks[-1].get("request_time")) > str(ticket["made"]):
                why = "so many tasks were made since that this one cannot be found by its label"
                raise CarrierUnknown(carrier=self.kind, why=why, everywhere=False)
            return id_in(found[0], "task_id") if found else None

        kind = "DELETE" if self.setup.deed == "delete" else "TRANSFER"
        wanted = {"type": kind} | ({"status": "ACTIVE,INACTIVE"} if live else {})
        try:
            return self.access.call("task_list", limit=LISTED, orderby="request_time DESC", filter=wanted, read=read)
        except Definite as refusal:
            raise CarrierUnknown(carrier=self.kind, why=refusal.why, everywhere=False) from None

    # -- who we are --------------------------------------------------------------------------------------------------------

    def _who(self) -> str | None:
        """The id of the identity that the service knows us as; None when nobody told yet."""
        if not self.setup.person:
            return (self.setup.client or "").lower()
        try:
            who = self._tokens.current().get("identity")
        except (SecretMissing, SecretUnsafe):
            return None  # the next call tells
        return str(who["id"]) if isinstance(who, dict) and "id" in who else None

    def _be(self, ticket: Ticket) -> None:
        """Raise CarrierBarred unless this is who the ticket was made as, if that was known: nobody else can see its
        task."""
        then = ticket.get("as")
        if not then:
            return
        if self._who() is None:
            self._ask_identity()
        mine = self._who()
        if then != mine:
            why = f"it was submitted as identity {then}, and this node is {mine or 'perhaps another'} now"
            how = "Be the former again until its tasks have ended."
            raise CarrierBarred(carrier=self.kind, why=why, how=how, cause="identity", everywhere=False)

    def _ask_identity(self) -> None:
        """Find out who we are from any task of ours."""
        from libtool.movers.globus.access import Definite, entries

        try:
            self.access.call(
                "task_list", limit=1, read=lambda answer: [self._learn_identity(t) for t in entries(answer)]
            )
        except Definite as refusal:
            raise CarrierUnknown(carrier=self.kind, why=refusal.why, everywhere=False) from None

    def _learn_identity(self, task: Any) -> str | None:
        """Whose a task is that we can see: it is ours, so this is who we are. A service account is its client."""
        owner = task.get("owner_id")
        if not self.setup.person or not isinstance(owner, str):
            return None
        if self._who() is None:
            with self._tokens.lock():
                self._tokens.write(identity={"id": owner, "username": str(task.get("username") or owner)})
        return owner

    # -- learning what became of it ----------------------------------------------------------------------------------------

    def poll(self, ticket: Ticket) -> Progress:
        """Where the task stands, from its document."""
        from libtool.movers.globus.access import Definite

        if ticket["task"] is None:
            return Progress(Stage.DONE, report={"files": 0, "bytes": 0})
        try:
            return self.access.call("get_task", ticket["task"], read=lambda task: self._standing(ticket, task))
        except Definite as refusal:
            if not refusal.not_found:
                raise CarrierUnknown(carrier=self.kind, why=refusal.why, everywhere=False) from None
        return self._missed(ticket)

    def _standing(self, ticket: Ticket, task: Any) -> Progress:
        """What a task's document says."""
        ticket = {**ticket, "as": self._learn_identity(task) or ticket.get("as")}
        status = str(task.get("status"))
        if status in ("SUCCEEDED", "FAILED"):
            end = outcome.end_of(task, ticket)
            return Progress(Stage.DONE, report=outcome.report_of(task), ticket={**ticket, "end": end})
        ticket, still = self._movement(ticket, task)
        hitch, text = self._hitch(ticket, task, status)
        return Progress(Stage.RUNNING, hitch, text, still, ticket=ticket)

    def _missed(self, ticket: Ticket) -> Progress:
        """The service does not know the task: gone, or not to be seen by who we are now."""
        self._be(ticket)
        if found := self._find(ticket, ticket["label"]):
            if found != ticket["task"]:  # another id was told when it was submitted
                return Progress(Stage.RUNNING, ticket={**ticket, "task": found})
            raise CarrierUnknown(carrier=self.kind, why="it does not show a task that it lists", everywhere=False)
        now = self._now()
        since = datetime.fromisoformat(ticket.get("missed") or now.isoformat())
        ticket = {**ticket, "missed": since.isoformat()}
        known = ticket.get("as") and ticket["as"] == self._who()
        if not known and now - since < UNSEEN:
            text = f"task {ticket['task']} cannot be seen; if somebody else is logged in now, be the former again"
            return Progress(Stage.RUNNING, Hitch.STRANGE, text, ticket=ticket)
        return Progress(Stage.LOST, still=(now - since).total_seconds(), ticket=ticket)

    def _movement(self, ticket: Ticket, task: Any) -> tuple[Ticket, float]:
        """The ticket with how far the task has come, and for how many seconds that has been so.

        Bytes far above the size of the batch are those of a file that is sent again and again: no movement.
        """
        sent = min(outcome.number(task, "bytes_transferred"), 3 * ticket["size"])
        if self.setup.deed == "compare":  # reading is what it does most of all, at both ends
            sent += min(outcome.number(task, "bytes_checksummed"), 6 * ticket["size"])
        done = [outcome.number(task, f"subtasks_{word}") for word in ("succeeded", "skipped_errors")]
        now = self._now()
        if ticket.get("moved") != [sent, *done] or "moved_at" not in ticket:
            ticket = {**ticket, "moved": [sent, *done], "moved_at": now.isoformat()}
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

        def read(info: Any) -> str:
            said = [
                info.get(f"{side}_pause_message{kind}") for side in ("source", "destination") for kind in ("", "_share")
            ]
            said += [rule.get("message") for rule in info.get("pause_rules") or [] if isinstance(rule, dict)]
            return "; ".join(str(each) for each in said if each)[:500]

        try:
            return self.access.call("task_pause_info", task, read=read)
        except (Definite, CarrierUnknown):
            return ""

    def outcomes(self, ticket: Ticket, items: Sequence[Item]) -> list[ItemOutcome]:
        """From the lists of the service, file by file; what it cannot tell is unknown."""
        from libtool.movers.globus.access import Definite

        if self.setup.deed == "delete":  # there are no lists of what was deleted
            return [outcome.UNKNOWN] * len(items)
        end = ticket.get("end") or {}
        left_out = set(ticket.get("left_out") or ())
        comparing = self.setup.deed == "compare"
        lists = outcome.Lists([item for item in items if item.target not in left_out], comparing=comparing)
        known = not end.get("history_deleted")
        try:
            if known and ticket["task"] is not None:
                lists.skipped(self.access.pages("task_skipped_errors", ticket["task"]))
                lists.successful(self.access.pages("task_successful_transfers", ticket["task"]))
        except Definite:
            known = False
        found = []
        for item in items:
            if item.target in left_out:
                found.append(outcome.NO_PLACE)
            else:
                found.append(lists.of(item, end) if known else outcome.UNKNOWN)
        return found

    def cancel(self, ticket: Ticket) -> None:
        """Ask the service to end the task."""
        from libtool.movers.globus.access import Definite

        if ticket.get("task") is None:
            return
        try:
            self.access.call("cancel_task", ticket["task"], read=lambda answer: None)
        except Definite:
            return  # it has ended, or is gone; the next look shows

    # -- beside the tasks --------------------------------------------------------------------------------------------------

    def tend(self) -> None:
        """Use a person's login once a week, for Globus forgets one that is not used for long."""
        if not self.setup.person or self._unusable():
            return
        try:
            if not self._tokens.present():
                return
            kept = self._tokens.current()
        except (SecretMissing, SecretUnsafe):
            return  # whoever needs it is told
        if self._now().timestamp() - kept.get("renewed", 0) > USED_EVERY.total_seconds():
            with self._tokens.lock():
                self._tokens.write(access_token=None, expires_at=None)
            self.access.call("get_submission_id", read=lambda answer: None)

    def find(self, provider: Mapping[str, Any], path: str) -> int | None:
        """Look for a file through a collection."""
        from libtool.movers.globus.access import Definite

        def read(found: Any) -> int | None:
            return outcome.number(found, "size") if found.get("type") == "file" else None

        try:
            return self.access.call("operation_stat", provider["destination_endpoint"], path, read=read)
        except Definite as refusal:
            if refusal.not_found and "Endpoint" not in refusal.code:
                return None
            if "EndpointNotFound" in refusal.code:
                how = "Compare it with the ids in the Globus web app."
                why = f"there is no such collection ({refusal.why})"
                raise CarrierBarred(carrier=self.kind, why=why, how=how, cause="collection") from None
            raise CarrierRefused(carrier=self.kind, why=refusal.why) from None


def label_of(label: str) -> str:
    """A label in the letters that every version of the service took; its last word, the item's number, stays whole."""
    name, _, number = re.sub(r"[^A-Za-z0-9_ -]", "_", label).rpartition(" ")
    return f"{name[:80].strip()} {number}"
