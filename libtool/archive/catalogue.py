"""Looking things up: which files are known, where their copies are, and the state of the whole node."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from peewee import SQL, fn

from libtool.archive import notices, outbox, places, queue, routes, runs
from libtool.archive.hands import Host, portions
from libtool.archive.staying import staying
from libtool.models.base import among, raw_rows, writing
from libtool.models.tables import (
    Fault,
    File,
    IncomingTransfer,
    Instance,
    Librarian,
    OutgoingTransfer,
    RemoteInstance,
    Removal,
    Retry,
    SendQueue,
    live,
    unfinished,
)
from libtool.models.tables import Store as StoreRow
from libtool.peers.messages import DeliveredFile, KnownFile
from libtool.states import Cause, Condition, DeletionPolicy, QueueStatus, TransferStatus
from libtool.units import show_time

#: A live transfer older than this is stuck: every task has had its chance, day and night.
STUCK = timedelta(days=1)


def search(
    *,
    name: str | None = None,
    uploader: str | None = None,
    source: str | None = None,
    window: tuple[datetime, datetime] | None = None,
    limit: int = 64,
) -> list[File]:
    """Files that fulfil all given conditions, the newest first; at most ``limit``."""
    query = File.select()
    if name is not None:
        query = query.where(File.name == name)
    if uploader is not None:
        query = query.where(File.uploader == uploader)
    if source is not None:
        query = query.where(File.source == source)
    if window is not None:
        query = query.where(File.create_time >= window[0], File.create_time <= window[1])
    return list(query.order_by(File.create_time.desc(), File.id.desc()).limit(max(0, limit)))


def copies(files: Iterable[File]) -> dict[int, list[Instance]]:
    """Our copies of these files, each with its store, by file."""
    found: dict[int, list[Instance]] = {}
    ids = [file.id for file in files]
    query = Instance.select(Instance, StoreRow, File).join(StoreRow).switch(Instance).join(File)
    for instance in query.where(among(Instance.file, ids)).order_by(Instance.id):
        found.setdefault(instance.file_id, []).append(instance)
    return found


def remote_copies(files: Iterable[File]) -> dict[int, list[RemoteInstance]]:
    """The neighbours' copies of these files, each with its librarian, by file."""
    found: dict[int, list[RemoteInstance]] = {}
    ids = [file.id for file in files]
    rows = RemoteInstance.select(RemoteInstance, Librarian).join(Librarian).where(among(RemoteInstance.file, ids))
    for remote in rows.order_by(RemoteInstance.id):
        found.setdefault(remote.file_id, []).append(remote)
    return found


def removals(files: Iterable[File]) -> dict[int, list[Removal]]:
    """How copies of these files were let go, each with its store, by file, the last one first."""
    found: dict[int, list[Removal]] = {}
    ids = [file.id for file in files]
    mine = among(Removal.file, ids) & (Removal.cause == Cause.DELETED)
    for row in Removal.select(Removal, StoreRow).join(StoreRow).where(mine).order_by(Removal.id.desc()):
        found.setdefault(row.file_id, []).append(row)
    return found


def known(wanted: list[str]) -> dict[str, KnownFile]:
    """What is known of the files of these names, and in which store a copy of each is."""
    found = {}
    for piece in portions(wanted, 5000):
        store = Instance.select(fn.MIN(Instance.store)).where(Instance.file == File.id, Instance.available)
        rows = File.select(File.name, File.size, File.checksum, store).where(among(File.name, piece))
        for name, size, checksum, home in raw_rows(rows):
            found[name] = KnownFile(size, checksum, home)
    return found


def delivered(librarian: str, after: int, limit: int) -> list[DeliveredFile]:
    """The next files of which a neighbour is thought to have a copy."""
    columns = (RemoteInstance.id, File.name, File.size, File.checksum, File.uploader)
    rows = RemoteInstance.select(*columns).join(File).switch(RemoteInstance).join(Librarian)
    rows = rows.where(Librarian.name == librarian, RemoteInstance.id > after)
    return [DeliveredFile(*row) for row in raw_rows(rows.order_by(RemoteInstance.id).limit(limit))]


def instances(
    limit: int,
    *,
    id: int | None = None,
    name: str | None = None,
    store_id: int | None = None,
    store: str | None = None,
    available: bool | None = None,
    policy: DeletionPolicy | None = None,
    created: datetime | None = None,
) -> list[Instance]:
    """Copies here that fulfil all given conditions, each with its file and store."""
    given: list[tuple[Any, Any]] = [
        (Instance.id, id),
        (File.name, name),
        (Instance.store, store_id),
        (StoreRow.name, store),
    ]
    given += [(Instance.available, available), (Instance.deletion_policy, policy), (Instance.create_time, created)]
    query = Instance.select(Instance, File, StoreRow).join(File).switch(Instance).join(StoreRow)
    return list(_all_given(query, given).order_by(Instance.id).limit(limit))


def remote_instances(
    limit: int,
    *,
    id: int | None = None,
    name: str | None = None,
    store_id: int | None = None,
    librarian: int | None = None,
    copied: datetime | None = None,
) -> list[RemoteInstance]:
    """Copies at neighbours that fulfil all given conditions, each with its file and librarian."""
    given: list[tuple[Any, Any]] = [(RemoteInstance.id, id), (File.name, name), (RemoteInstance.store_id, store_id)]
    given += [(RemoteInstance.librarian, librarian), (RemoteInstance.copy_time, copied)]
    query = RemoteInstance.select(RemoteInstance, File, Librarian).join(File).switch(RemoteInstance).join(Librarian)
    return list(_all_given(query, given).order_by(RemoteInstance.id).limit(limit))


def _all_given(query: Any, conditions: list[tuple[Any, Any]]) -> Any:
    for field, value in conditions:
        if value is not None:
            query = query.where(field == value)
    return query


def set_policy(
    host: Host,
    wanted: Iterable[str],
    prefix: str | None,
    store: str | None,
    policy: DeletionPolicy,
    *,
    change: bool = True,
) -> tuple[int, list[str]]:
    """Set the deletion policy of our copies of these files, or of all whose names begin with ``prefix``; how many copies
    that are, and the names of which no copy is here."""
    mine = Instance.store << StoreRow.select(StoreRow.id).where(
        StoreRow.name == places.get(store).name if store is not None else StoreRow.id > 0
    )
    called = list(wanted)
    if prefix is not None:
        files = File.select(File.id).where(fn.SUBSTR(File.name, 1, len(prefix)) == prefix)
    else:
        files = File.select(File.id).where(among(File.name, called))
    condition = mine & (Instance.file << files)
    query = Instance.select(File.name).join(File).where(mine, among(File.name, called))
    missing = set(called) - {name for (name,) in raw_rows(query)}
    if not change:
        return _count(Instance, condition), sorted(missing)
    with writing("deletion policy"):
        return int(Instance.update(deletion_policy=policy).where(condition).execute()), sorted(missing)


def status(host: Host) -> dict[str, Any]:
    """What is known, pending, in flight and stuck, and the last run of everything; all counts are integers."""
    now = host.now()
    return {
        "librarian": host.settings.name,
        "files": _count(File),
        "instances": _count(Instance, Instance.available),
        "remote_instances": _count(RemoteInstance),
        "copies": _looked_after(),
        "outgoing": _by_status(OutgoingTransfer),
        "incoming": _by_status(IncomingTransfer, IncomingTransfer.source != ""),
        "send_queue": _queue(),
        "destinations": _destinations(now),
        "troubles": [
            {"subject": fault.subject, "text": fault.text, "since": show_time(fault.first_time)}
            for fault in notices.standing()
        ],
        "routes": routes.shown(host),
        "mail": outbox.waiting(),
        "runs": [
            {
                "command": run.command,
                "target": run.target,
                "started": show_time(run.started),
                "ended": show_time(run.ended),
                "exit_code": run.exit_code,
                "done": run.done,
                "failed": run.failed,
                "postponed": run.postponed,
            }
            for run in runs.latest()
        ],
    }


def waiting(host: Host, limit: int) -> list[dict[str, Any]]:
    """Files that did not get to a destination yet and why: parked ones first, then those that are tried again, then those
    that wait for their place there, then those of routes."""
    rows = []
    later = Retry.select(Retry, File.name, Librarian.name).join(File).switch(Retry).join(Librarian)
    for row in later.order_by(Retry.not_before.is_null(False), Retry.not_before, Retry.id).limit(limit):
        rows.append(
            {
                "name": row.file.name,
                "destination": row.destination.name,
                "attempts": row.attempts,
                "next": show_time(row.not_before) or "parked: 'libtool retry'",
                "reason": row.reason,
            }
        )
    out = OutgoingTransfer
    asked = out.select(out, File.name, Librarian).join(File).switch(out).join(Librarian)
    troubles = {fault.subject: fault.text for fault in reversed(notices.standing())}
    for row in asked.where(out.status == SQL("0")).order_by(out.id).limit(limit - len(rows)):
        to = row.destination
        why = None if to.transfers_enabled and not to.removed else "transfers to it are switched off"
        why = why or troubles.get(f"librarian {to.name}") or "no place for it has been asked for yet"
        rows.append(
            {
                "name": row.file.name,
                "destination": to.name,
                "attempts": 0,
                "next": show_time(row.not_before) or "next run",
                "reason": row.reason or why,
            }
        )
    if len(rows) < limit:
        rows += queue.held(limit - len(rows))
    return rows + staying(host, limit - len(rows))


def stuck(host: Host) -> int:
    """How many live transfers are older than a day, in either direction."""
    before = host.now() - STUCK
    return sum(
        _count(table, live(table) & (table.create_time < before)) for table in (OutgoingTransfer, IncomingTransfer)
    )


def failing() -> int:
    """How many files wait for a person, plus troubles that have been told."""
    return _count(Retry, Retry.not_before.is_null()) + _count(Fault, Fault.told_time.is_null(False))


def _count(table: Any, condition: Any = None) -> int:
    query = table.select(fn.COUNT(table.id))
    return int((query if condition is None else query.where(condition)).scalar())


def _by_status(table: Any, condition: Any = None) -> dict[str, int]:
    query = table.select(table.status, fn.COUNT(table.id)).group_by(table.status)
    found = dict((query if condition is None else query.where(condition)).tuples())
    return {status.name: int(found.get(status, 0)) for status in TransferStatus}


def _looked_after() -> dict[str, Any]:
    """How many of our copies are not what they should be, how many are set aside, how many are to be read first, and when
    the one was read that was read longest ago."""
    bad = Instance.select(Instance.condition, fn.COUNT(Instance.id)).where(Instance.condition > SQL("0"))
    counts = dict(raw_rows(bad.group_by(Instance.condition)))
    oldest = [
        found
        for row in StoreRow.select()
        if (
            found := Instance.select(Instance.verified_time)
            .where(Instance.store == row.id, Instance.available, Instance.verified_time.is_null(False))
            .order_by(Instance.verified_time)
            .limit(1)
            .scalar()
        )
    ]
    return {
        "damaged": int(counts.get(Condition.DAMAGED, 0)),
        "missing": int(counts.get(Condition.MISSING, 0)),
        "unreadable": int(counts.get(Condition.UNREADABLE, 0)),
        "set_aside": _count(Removal, unfinished()),
        "asked_for": _count(Instance, Instance.asked_time.is_null(False)),
        "oldest_verified": show_time(min(oldest, default=None)),
    }


def _queue() -> dict[str, int]:
    found = dict(SendQueue.select(SendQueue.status, fn.COUNT(SendQueue.id)).group_by(SendQueue.status).tuples())
    return {
        "queued": int(found.get(QueueStatus.QUEUED, 0)),
        "in_flight": int(found.get(QueueStatus.SUBMITTING, 0)) + int(found.get(QueueStatus.IN_FLIGHT, 0)),
        "completed": int(found.get(QueueStatus.COMPLETED, 0)),
        "failed": int(found.get(QueueStatus.FAILED, 0)),
    }


def _destinations(now: datetime) -> list[dict[str, Any]]:
    """Every librarian that something was ever sent to, or that still is a neighbour."""
    out = OutgoingTransfer
    rows = []
    for librarian in Librarian.select().order_by(Librarian.name):
        mine = (out.destination == librarian.id) & live(out)
        oldest = out.select(fn.MIN(out.create_time)).where(mine).scalar(as_tuple=False)
        pending = _count(out, mine & (out.status == SQL("0")))
        waiting = _count(Retry, (Retry.destination == librarian.id) & Retry.not_before.is_null(False))
        parked = _count(Retry, (Retry.destination == librarian.id) & Retry.not_before.is_null())
        in_flight = _count(out, mine & (out.status > SQL("0")))
        if librarian.removed and not (pending or in_flight or parked or waiting):
            continue
        rows.append(
            {
                "name": librarian.name,
                "transfers_enabled": bool(librarian.transfers_enabled and not librarian.removed),
                "pending": pending + waiting,
                "in_flight": in_flight,
                "parked": parked,
                "stuck": _count(out, mine & (out.create_time < now - STUCK)),
                "last_seen": show_time(librarian.last_seen),
                "oldest_pending": show_time(oldest),
            }
        )
    return rows
