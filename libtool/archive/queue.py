"""The send queue: its items, what a carrier must know of their files, and how an item ends.

An item's ticket is committed before the carrier acts on it (``shipping``); what became of it is learnt from the carrier
(``learning``); the destination is told (``reporting``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from peewee import fn

from libtool.archive import attempts, notices
from libtool.archive.hands import Host, Tally
from libtool.errors import CarrierBarred, CarrierBusy, CarrierUnknown
from libtool.models.base import among, raw_rows, writing
from libtool.models.tables import File, Librarian, OutgoingTransfer, Retry, RouteTask, SendQueue, live, waiting
from libtool.models.tables import Store as StoreRow
from libtool.movers.base import Item
from libtool.states import FileKind, Owed, QueueStatus, TransferStatus
from libtool.units import show_time

#: How long an item waits after its carrier refused it.
REFUSED_WAIT = timedelta(minutes=5)
_OUT = OutgoingTransfer
#: Told how many files were just dealt with.
Step = Callable[[int], None]


class Cargo(NamedTuple):
    """One file of a queue item."""

    id: int
    store: int
    staging_location: str
    name: str
    size: int
    kind: int


def files_of(item: SendQueue, *, ended: bool = False) -> list[Cargo]:
    """The files of an item whose transfers are live (with ``ended``: all of them), in order."""
    columns = (_OUT.id, _OUT.store, _OUT.staging_location, File.name, File.size, File.kind)
    mine = _OUT.queue == item.id
    query = _OUT.select(*columns).join(File).where(mine if ended else mine & live(_OUT)).order_by(_OUT.id)
    return [Cargo(*row) for row in raw_rows(query)]


def cargo(host: Host, files: Sequence[Cargo], *, sources: bool = True) -> list[Item]:
    """What a carrier must know of them; without ``sources`` no store is needed, as when they were sent long ago."""
    wanted = {each.store for each in files} if sources else set()
    stores = {row.id: host.store(row) for row in StoreRow.select().where(among(StoreRow.id, wanted))}
    return [
        Item(
            stores[each.store].path(each.name) if sources else "",
            each.staging_location,
            each.kind == FileKind.DIRECTORY,
            each.size,
            each.name,
        )
        for each in files
    ]


def end(
    host: Host,
    item: SendQueue,
    status: QueueStatus,
    reason: str | None,
    *,
    again: datetime | None = None,
    only: QueueStatus | None = None,
) -> int:
    """Close an item; transfers of it that are still live become failed attempts, or with ``again`` none of theirs, and
    are due then. With ``only`` nothing is done to an item that another run has taken further. Returns how many ended."""
    reason = attempts.brief(reason) if reason else None
    with writing("queue item ended"):
        mine = waiting() if only is None else SendQueue.status == only
        change = SendQueue.update(status=status, end_time=host.now(), reason=reason)
        if not change.where(SendQueue.id == item.id, mine).execute():
            return 0
        left = [
            row.id
            for row in _OUT.select(_OUT.id).where(
                _OUT.queue == item.id, live(_OUT), _OUT.status == TransferStatus.ONGOING, _OUT.owed == Owed.NOTHING
            )
        ]
        if left:
            reasons = dict.fromkeys(left, reason or "its task ended without it")
            attempts.fail(reasons, host.now(), tell=True, counts=again is None, again=again)
    notices.forget(subject(item))
    return len(left)


def _troubled(destination: Librarian, name: str | None, before: datetime | None) -> Any:
    """Items of a destination that wait because of some trouble (with this file in them; made before a time)."""
    held = SendQueue.select().where(
        waiting(),
        SendQueue.destination == destination.id,
        SendQueue.status == QueueStatus.QUEUED,
        SendQueue.reason.is_null(False),
    )
    if name is not None:
        with_it = (
            _OUT.select(_OUT.queue).join(File).where(File.name == name, _OUT.destination == destination.id, live(_OUT))
        )
        held = held.where(SendQueue.id << with_it)
    return held if before is None else held.where(SendQueue.create_time < before)


def release(host: Host, destination: Librarian, *, name: str | None = None, before: datetime | None = None) -> int:
    """End the items of a destination that wait because of some trouble (with this file in them; made before a time):
    their files are staged anew, with what the destination says now. Returns how many files that frees."""
    freed = 0
    for item in list(_troubled(destination, name, before)):
        why = f"it is staged anew: {item.reason}"
        freed += end(host, item, QueueStatus.FAILED, why, again=host.now(), only=QueueStatus.QUEUED)
    return freed


def releasable(destination: Librarian, name: str | None) -> int:
    """How many files :func:`release` would free."""
    return sum(len(files_of(item)) for item in _troubled(destination, name, None))


def remember(item: SendQueue, why: str | None) -> None:
    """Keep why an item waits, for who asks; it is tried after the others then."""
    if item.reason != (why and attempts.brief(why)):
        with writing("reason"):
            SendQueue.update(reason=why and attempts.brief(why)).where(SendQueue.id == item.id, waiting()).execute()


def split(item: SendQueue, now: datetime) -> bool:
    """Make two items of one that is too large for its carrier; False when it is a single file."""
    ids = [each.id for each in files_of(item)]
    if len(ids) < 2:
        return False
    with writing("split"):
        if (
            not SendQueue.update(status=QueueStatus.QUEUED, ticket=None)
            .where(SendQueue.id == item.id, waiting())
            .execute()
        ):
            return False
        other = SendQueue.create(
            destination=item.destination_id, mover=item.mover, provider=item.provider, create_time=now
        )
        _OUT.update(queue=other).where(among(_OUT.id, ids[len(ids) // 2 :]), live(_OUT)).execute()
        for id in (item.id, other.id):
            count, size = next(iter(_sizes(id)))
            SendQueue.update(files=count, size=size or 0).where(SendQueue.id == id).execute()
    return True


def _sizes(id: int) -> Any:
    query = _OUT.select(fn.COUNT(_OUT.id), fn.SUM(File.size)).join(File).where(_OUT.queue == id, live(_OUT))
    return raw_rows(query)


def subject(item: SendQueue) -> str:
    """What notices about one item are about."""
    return f"queue item {item.id}"


#: Troubled items of one destination that one run tries before it leaves that destination alone.
TRIED = 3


class Carriers:
    """Which carriers cannot be used in this run, and to whom: what does not answer at all is asked once."""

    def __init__(self, deed: str, sibling: str) -> None:
        self._deed = deed
        self.ledger = notices.Ledger(deed, sibling)
        self._closed: set[tuple[str, str]] = set()
        self._failed: dict[tuple[str, str], int] = {}
        self._refused: set[tuple[str, int]] = set()

    def open(self, item: SendQueue) -> bool:
        """Whether the item's carrier may be used for what its destination offers."""
        return not {(item.mover, ""), (item.mover, item.provider)} & self._closed

    def first_refusal(self, item: SendQueue) -> bool:
        """Whether this is the first item that the carrier refuses for this destination in this run."""
        key = (item.mover, item.destination_id)
        first = key not in self._refused
        self._refused.add(key)
        return first

    def answered(self, item: SendQueue) -> None:
        """The item's carrier works, for this destination, too."""
        self.ledger.well(f"carrier {item.mover}")
        self.ledger.well(f"librarian {item.destination.name}")

    def trouble(self, item: SendQueue, trouble: CarrierUnknown | CarrierBusy | CarrierBarred, tally: Tally) -> None:
        """Note that the item's carrier cannot be used now."""
        everywhere = trouble.facts.get("everywhere", True)
        key = (item.mover, "" if everywhere else item.provider)
        self._failed[key] = self._failed.get(key, 0) + 1
        if everywhere or self._failed[key] >= TRIED:
            self._closed.add(key)
        person = isinstance(trouble, CarrierBarred)
        word = str(trouble.facts.get("cause") or ("busy" if isinstance(trouble, CarrierBusy) else "unknown"))
        text = trouble.text.removeprefix("the carrier ")
        about = f"carrier {item.mover}" if everywhere else f"librarian {item.destination.name}"
        if everywhere:
            text = text.removeprefix(f"{item.mover} ")
        self.ledger.note(about, word, text, at_once=person)
        tally.person |= person
        tally.details.append(f"{about}: {text}")

    def settle(self, host: Host, tally: Tally, states: Sequence[QueueStatus]) -> None:
        """Tell what is new and what is over; ``states`` are those in which an item is dealt with by this deed."""

        def gone(about: str) -> bool:
            who, _, name = about.partition(" ")
            tried = (SendQueue.status << states) & (
                (SendQueue.status != QueueStatus.QUEUED) | (Librarian.transfers_enabled & ~Librarian.removed)
            )
            left = SendQueue.select().join(Librarian).where(waiting(), tried)
            again = Retry.select().join(Librarian).where(Retry.not_before.is_null(False), ~Librarian.removed)
            if who == "librarian":
                left, again = left.where(Librarian.name == name), again.where(Librarian.name == name)
            else:
                left = left.where(SendQueue.mover == name)
            return not (left.exists() or again.exists())

        def patience(about: str) -> float:
            return float(host.settings.notice_after) if about.startswith("librarian ") else 0.0

        self.ledger.settle(host, tally, gone, patience)


# -- looking ----------------------------------------------------------------------------------------------------------


def queued_files() -> int:
    """Files in items that wait to be shipped."""
    waits = SendQueue.status << [QueueStatus.QUEUED, QueueStatus.SUBMITTING]
    return int(SendQueue.select(fn.COALESCE(fn.SUM(SendQueue.files), 0)).where(waits, waiting()).scalar())


def tasks(limit: int) -> list[dict[str, Any]]:
    """The items that wait or are under way, then those that ended last: one row each with what the carrier measured."""
    rows = SendQueue.select(SendQueue, Librarian).join(Librarian)
    open_first = rows.order_by((SendQueue.status >= QueueStatus.COMPLETED), SendQueue.id.desc()).limit(limit)
    return [task(row, row.destination.name, row.mover) for row in open_first]


def task(row: SendQueue | RouteTask, destination: str, carrier: str) -> dict[str, Any]:
    """One item or task in words; sizes in bytes, the rate in bytes per second."""
    report = json.loads(row.report) if row.report else {}
    ticket = json.loads(row.ticket) if row.ticket else {}
    return {
        "item": row.id,
        "destination": destination,
        "carrier": carrier,
        "status": row.status.name,
        "files": row.files,
        "bytes": row.size,
        "submitted": show_time(row.submit_time),
        "ended": show_time(row.end_time),
        "task": report.get("task") or ticket.get("task"),
        "faults": report.get("faults"),
        "rate": report.get("rate"),
        "reason": row.reason,
    }


def held(limit: int) -> list[dict[str, Any]]:
    """Files in items that wait because of some trouble."""
    rows = (
        _OUT.select(File.name, Librarian.name, SendQueue.reason)
        .join(File)
        .switch(_OUT)
        .join(SendQueue)
        .join(Librarian)
        .where(waiting(), SendQueue.reason.is_null(False), live(_OUT))
        .order_by(_OUT.id)
        .limit(limit)
    )
    return [
        {"name": name, "destination": destination, "attempts": 0, "next": "next run", "reason": reason}
        for name, destination, reason in rows.tuples()
    ]
