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
from libtool.models.tables import File, Librarian, OutgoingTransfer, SendQueue, live, waiting
from libtool.models.tables import Store as StoreRow
from libtool.movers.base import Item
from libtool.states import FileKind, Owed, QueueStatus, TransferStatus
from libtool.units import show_time

#: How long an item waits after its carrier refused it.
REFUSED_WAIT = timedelta(minutes=5)
#: What the kinds of notices about running tasks have in common.
TASK = " task "
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


def files_of(item: SendQueue) -> list[Cargo]:
    """The files of an item whose transfers are live, in order."""
    columns = (_OUT.id, _OUT.store, _OUT.staging_location, File.name, File.size, File.kind)
    query = _OUT.select(*columns).join(File).where(_OUT.queue == item.id, live(_OUT)).order_by(_OUT.id)
    return [Cargo(*row) for row in raw_rows(query)]


def cargo(host: Host, files: Sequence[Cargo]) -> list[Item]:
    """What a carrier must know of them."""
    stores = {
        row.id: host.store(row) for row in StoreRow.select().where(among(StoreRow.id, {each.store for each in files}))
    }
    return [
        Item(
            stores[each.store].path(each.name),
            each.staging_location,
            each.kind == FileKind.DIRECTORY,
            each.size,
            each.name,
        )
        for each in files
    ]


def end(host: Host, item: SendQueue, status: QueueStatus, reason: str | None) -> None:
    """Close an item; transfers of it that are still live become failed attempts."""
    with writing("queue item ended"):
        left = [
            row.id
            for row in _OUT.select(_OUT.id).where(
                _OUT.queue == item.id, live(_OUT), _OUT.status == TransferStatus.ONGOING, _OUT.owed == Owed.NOTHING
            )
        ]
        if left:
            attempts.fail(dict.fromkeys(left, reason or "its task ended without it"), host.now(), tell=True)
        SendQueue.update(status=status, end_time=host.now(), reason=reason).where(
            SendQueue.id == item.id, waiting()
        ).execute()
    notices.forget(subject(item))


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


def kind_of(mover: str, word: str) -> str:
    """The kind of a notice about tasks that are under way to one destination."""
    return f"{mover}{TASK}{word}"


class Carriers:
    """Which carriers cannot be used in this run, and to whom: one that does not answer is asked once."""

    def __init__(self, host: Host, tally: Tally) -> None:
        self._host, self._tally = host, tally
        self._closed: set[tuple[str, int | None]] = set()
        self._well: set[tuple[str, int]] = set()

    def open(self, item: SendQueue) -> bool:
        """Whether the item's carrier may be used for its destination."""
        return not {(item.mover, None), (item.mover, item.destination_id)} & self._closed

    def answered(self, item: SendQueue) -> None:
        """The item's carrier works, for this destination, too."""
        if (item.mover, item.destination_id) in self._well:
            return
        self._well.add((item.mover, item.destination_id))
        for word in ("unknown", "busy", "person"):
            notices.over(self._host, self._tally, f"carrier {item.mover}", word)
            notices.over(self._host, self._tally, f"librarian {item.destination.name}", f"{item.mover} {word}")

    def trouble(self, item: SendQueue, trouble: CarrierUnknown | CarrierBusy | CarrierBarred) -> None:
        """Note that the item's carrier cannot be used, and do not ask it again in this run."""
        everywhere = trouble.facts.get("everywhere", True)
        self._closed.add((item.mover, None if everywhere else item.destination_id))
        person = isinstance(trouble, CarrierBarred)
        word = "person" if person else "busy" if isinstance(trouble, CarrierBusy) else "unknown"
        about = f"carrier {item.mover}" if everywhere else f"librarian {item.destination.name}"
        kind = word if everywhere else f"{item.mover} {word}"
        notices.trouble(self._host, self._tally, about, kind, trouble.text, at_once=person)
        self._tally.person |= person


# -- looking ----------------------------------------------------------------------------------------------------------


def queued_files() -> int:
    """Files in items that wait to be shipped."""
    waits = SendQueue.status << [QueueStatus.QUEUED, QueueStatus.SUBMITTING]
    return int(SendQueue.select(fn.COALESCE(fn.SUM(SendQueue.files), 0)).where(waits, waiting()).scalar())


def tasks(limit: int) -> list[dict[str, Any]]:
    """The items that wait or are under way, then those that ended last: one row each with what the carrier measured."""
    rows = SendQueue.select(SendQueue, Librarian).join(Librarian)
    open_first = rows.order_by((SendQueue.status >= QueueStatus.COMPLETED), SendQueue.id.desc()).limit(limit)
    found = []
    for row in open_first:
        report = json.loads(row.report) if row.report else {}
        ticket = json.loads(row.ticket) if row.ticket else {}
        found.append(
            {
                "item": row.id,
                "destination": row.destination.name,
                "carrier": row.mover,
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
        )
    return found
