"""How an outgoing transfer ends, and when the next attempt is due.

A transfer is one attempt. What did not arrive gets a new one: twice at the next tick, then after ten minutes,
doubling to a day, for ever. What only people can settle is parked. These are the only functions that end one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from peewee import SQL, Expression, fn

from libtool import names
from libtool.models.base import among, writing
from libtool.models.tables import File, Librarian, OutgoingTransfer, RemoteInstance, Retry, live
from libtool.states import Owed, TransferStatus
from libtool.units import to_microseconds

#: Attempts that follow at the next tick.
AT_ONCE = 2
FIRST_DELAY, LONGEST_DELAY = timedelta(minutes=10), timedelta(days=1)


def delay(attempts: int) -> timedelta:
    """How long to wait after this many attempts failed."""
    if attempts <= AT_ONCE:
        return timedelta(0)
    return min(FIRST_DELAY * 2 ** min(attempts - AT_ONCE - 1, 20), LONGEST_DELAY)


def fail(
    reasons: Mapping[int, str],
    now: datetime,
    *,
    tell: bool,
    parked: bool = False,
    counts: bool = True,
    again: datetime | None = None,
) -> list[OutgoingTransfer]:
    """End these transfers (id → reason) and plan what comes next; inside the caller's transaction.

    ``tell``: the destination holds something for them and must be told. ``parked``: only a person frees them.
    ``counts=False``: the file is not to blame, so this was no attempt. ``again``: not before this time.
    Returns those that were live; the others had ended before and are left alone.
    """
    table = OutgoingTransfer
    ids = list(reasons)
    rows = list(
        table.select(table.id, table.file, table.destination, table.remote_id).where(among(table.id, ids), live(table))
    )
    if not rows:
        return []
    by_reason: dict[str, list[int]] = {}
    for row in rows:
        by_reason.setdefault(reasons[row.id], []).append(row.id)
    for reason, same in by_reason.items():
        table.update(status=TransferStatus.FAILED, end_time=now, reason=brief(reason), owed=Owed.NOTHING).where(
            among(table.id, same), live(table)
        ).execute()
    if tell:
        table.update(owed=Owed.FAILURE).where(
            among(table.id, [row.id for row in rows if row.remote_id is not None])
        ).execute()
    pairs = {(row.file_id, row.destination_id): reasons[row.id] for row in rows}
    known = {
        (retry.file_id, retry.destination_id): retry.attempts
        for retry in Retry.select().where(among(Retry.file, [file for file, _ in pairs]))
    }
    for (file, destination), reason in pairs.items():
        attempts = known.get((file, destination), 0) + (1 if counts else 0)
        not_before = None if parked else max(now + delay(attempts), again or now)
        Retry.insert(
            file=file, destination=destination, attempts=attempts, not_before=not_before, reason=brief(reason)
        ).on_conflict(
            conflict_target=[Retry.file, Retry.destination],
            update={"attempts": attempts, "not_before": not_before, "reason": brief(reason)},
        ).execute()
    return rows


def complete(destination: Librarian, stored: Iterable[tuple[int, int]], now: datetime) -> None:
    """These transfers, as ``(id, the destination's store)``, are verified and stored there; inside the caller's
    transaction. Repeating it changes nothing. One that had ended otherwise still yields its remote instance: the
    copy is there, whatever we thought.
    """
    by_store: dict[int, list[int]] = {}
    for transfer, store in stored:
        by_store.setdefault(store, []).append(transfer)
    table = OutgoingTransfer
    for store, ids in by_store.items():
        mine = (among(table.id, ids)) & (table.destination == destination.id)
        # A librarian takes a file only when it has no copy of it: what was known of another store is over.
        RemoteInstance.delete().where(
            RemoteInstance.librarian == destination.id,
            RemoteInstance.store_id != store,
            RemoteInstance.copy_time < now,
            RemoteInstance.file << table.select(table.file).where(mine),
        ).execute()
        RemoteInstance.insert_from(
            table.select(table.file, table.destination, SQL(str(int(store))), SQL(str(to_microseconds(now)))).where(
                mine
            ),
            [RemoteInstance.file, RemoteInstance.librarian, RemoteInstance.store_id, RemoteInstance.copy_time],
        ).on_conflict_ignore().execute()
        Retry.delete().where(
            Retry.destination == destination.id, Retry.file << table.select(table.file).where(mine)
        ).execute()
        table.update(status=TransferStatus.COMPLETED, end_time=now, owed=Owed.NOTHING).where(
            mine, live(table)
        ).execute()


def brief(reason: str) -> str:
    """Somebody's words as a row may keep them: on one line, printable, bounded."""
    return names.shown(reason)[:1000]


def named(ids: Iterable[int]) -> dict[int, str]:
    """The file names of outgoing transfers, by id."""
    table = OutgoingTransfer
    return dict(table.select(table.id, File.name).join(File).where(among(table.id, list(ids))).tuples())


def _waiting(table: type[Retry] | type[OutgoingTransfer], destination: Librarian, name: str | None) -> Expression:
    """The condition for what is parked or waits for a destination, or for one file of that."""
    condition = table.destination == destination.id
    if table is OutgoingTransfer:
        condition &= (OutgoingTransfer.status == SQL("0")) & OutgoingTransfer.not_before.is_null(False)
    if name is not None:
        condition &= table.file << File.select(File.id).where(File.name == name)
    return condition


def held(destination: Librarian, name: str | None) -> int:
    """How many files are parked or wait for their next attempt, or for the destination to be done with them."""
    tables: list[type[Retry] | type[OutgoingTransfer]] = [Retry, OutgoingTransfer]
    return sum(int(t.select(fn.COUNT(t.id)).where(_waiting(t, destination, name)).scalar()) for t in tables)


def by_hand(destination: Librarian, name: str | None) -> Expression:
    """The condition for transfers of a manifest, which no carrier has: their files travel on a disk."""
    table = OutgoingTransfer
    condition = (table.destination == destination.id) & live(table) & table.queue.is_null() & table.remote_id.is_null()
    condition &= table.status > SQL("0")
    if name is not None:
        condition &= table.file << File.select(File.id).where(File.name == name)
    return condition


def give_up_by_hand(destination: Librarian, name: str | None, now: datetime) -> int:
    """Send what was to travel on a disk by itself after all; should the disk arrive, that is fine, too."""
    table = OutgoingTransfer
    with writing("by hand no more"):
        ids = [row.id for row in table.select(table.id).where(by_hand(destination, name))]
        return len(fail(dict.fromkeys(ids, "it did not travel by hand"), now, tell=False, counts=False))


def free(destination: Librarian, name: str | None, now: datetime) -> int:
    """Let what is parked or waiting for a destination be tried at the next tick (all of it, or one file)."""
    with writing("free"):
        busy = _waiting(OutgoingTransfer, destination, name)
        freed = int(OutgoingTransfer.update(not_before=None).where(busy).execute())
        later = _waiting(Retry, destination, name)
        return freed + int(Retry.update(not_before=now, attempts=0).where(later).execute())
