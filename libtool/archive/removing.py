"""Taking copies out of a store: decided and written down, set aside at once, purged later, brought back until then.

The row of a removal is written before anything is touched, and says by whom and why. Whoever holds the store's lock
carries out what stands written, so that it does not matter who decided it or died since.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from peewee import SQL, Expression, fn

from libtool.archive import verifying
from libtool.archive.hands import Host, Tally, portions
from libtool.archive.verifying import Copy
from libtool.errors import FileChanged, LibtoolError, StoreUnavailable
from libtool.models.base import among, insert_rows, raw_rows, serialise, writing
from libtool.models.tables import File, Instance, OutgoingTransfer, Removal, Retry, live
from libtool.models.tables import Store as StoreRow
from libtool.names import shown
from libtool.states import Cause, Condition, DeletionPolicy, Proof, RemovalStatus
from libtool.stores.base import Store
from libtool.units import to_microseconds

#: PostgreSQL advisory key under which it is settled which copies are read and which are let go.
COPIES_KEY = 0x636F70696573
#: Removals that are carried out under one hold of the lock.
PORTION = 200
_OPEN = Removal.status < SQL("2")
_COLUMNS = [
    "file_id",
    "store_id",
    "cause",
    "status",
    "aside_id",
    "actor",
    "reason",
    "copies",
    "create_time",
    "purge_time",
]


@dataclass(frozen=True, slots=True)
class Warrant:
    """On whose word copies go, and what must hold."""

    actor: str  #: which command, run by whom
    copies: int  #: how many others must be proved once more before the bytes are purged
    keep: timedelta  #: how long the bytes stay aside
    forget: bool = False  #: do not remember the copy as an unavailable one
    held: bool = True  #: a deletion policy of DISALLOWED is respected


class Order(NamedTuple):
    """One copy that is to go, why, and what it was when it was read."""

    copy: Copy
    reason: str
    identity: tuple[int, ...]


def actor(command: str) -> str:
    """Who is at work, for the record."""
    try:
        who = getpass.getuser()
    except (KeyError, OSError):
        who = str(os.getuid())
    return f"{command} by {who} on {os.uname().nodename}"


def lock(row: StoreRow) -> str:
    """The lock under which bytes of a store are set aside and brought back."""
    return f"aside-{row.name}"


def needed(host: Host, ids: list[int]) -> dict[int, str]:
    """Which of these copies somebody needs just now, and who: a transfer that reads it or may, a file that is to be sent
    again and has no other copy here, a neighbour that counts on it."""
    out = OutgoingTransfer
    mine = among(Instance.id, ids)
    reading = out.select(SQL("1")).where(
        out.file == Instance.file, live(out), out.store.is_null() | (out.store == Instance.store)
    )
    found = dict.fromkeys(_which(mine & fn.EXISTS(reading)), "a transfer that has not ended reads it")
    other = Instance.alias()
    sibling = other.select(SQL("1")).where(other.file == Instance.file, other.available, other.id != Instance.id)
    again = Retry.select(SQL("1")).where(Retry.file == Instance.file, Retry.not_before.is_null(False))
    found |= dict.fromkeys(_which(mine & fn.EXISTS(again) & ~fn.EXISTS(sibling)), "it is to be sent again")
    held = Instance.held_until.is_null(False) & (Instance.held_until > host.now())
    return found | dict.fromkeys(_which(mine & held), "a neighbour counts on it")


def _which(condition: Expression) -> list[int]:
    return [id for (id,) in raw_rows(Instance.select(Instance.id).where(condition))]


def decide(host: Host, row: StoreRow, orders: Sequence[Order], warrant: Warrant) -> dict[int, str]:
    """Write the removals down, and make the copies unavailable, in one transaction; returns which copies stay after all,
    because somebody needs them since they were looked at, and why."""
    now = host.now()
    by_id = {order.copy.id: order for order in orders}
    with writing("removal decided"):
        serialise(COPIES_KEY)
        stays = needed(host, list(by_id))
        going = among(Instance.id, [id for id in by_id if id not in stays]) & Instance.available
        going &= Instance.condition == Condition.SOUND
        if warrant.held:
            going &= Instance.deletion_policy == DeletionPolicy.ALLOWED
        gone = raw_rows(Instance.update(available=False).where(going).returning(Instance.id))
        taken = [by_id[id] for (id,) in gone]
        purge = to_microseconds(now + warrant.keep)
        ends = (warrant.copies, to_microseconds(now), purge)
        insert_rows(Removal, _COLUMNS, [(*_row(order, row, Cause.DELETED, warrant.actor), *ends) for order in taken])
    done = {order.copy.id for order in taken}
    return stays | {id: "it changed meanwhile" for id in by_id if id not in done and id not in stays}


def _row(order: Order, row: StoreRow, cause: Cause, who: str) -> tuple[object, ...]:
    status = int(RemovalStatus.DECIDED)
    return (order.copy.file, row.id, int(cause), status, os.urandom(16).hex(), who, shown(order.reason)[:4000])


def carry_out(
    host: Host,
    row: StoreRow,
    store: Store,
    tally: Tally,
    orders: Sequence[Order] = (),
    files: Sequence[int] | None = None,
) -> None:
    """Set aside what stands written for a store (or for these ``files`` of it). LockTaken when somebody else is at it.

    A copy that is not what ``orders`` say was read, or of which nobody knows what was read, is read first: what is not
    as recorded stays and is told.
    """
    identities = {order.copy.file: order.identity for order in orders}
    mine = (Removal.store == row.id) & (Removal.status == RemovalStatus.DECIDED) & _OPEN
    if files is not None:
        mine &= among(Removal.file, files)
    if not Removal.select(SQL("1")).where(mine).exists():
        return
    with host.lock(lock(row)):
        todo = list(Removal.select(Removal, File).join(File).where(mine).order_by(Removal.id))
        for portion in portions(todo, PORTION):
            done: dict[RemovalStatus, list[int]] = {}
            for removal in portion:
                found = _set_aside(host, row, store, removal, identities.get(removal.file_id), tally)
                done.setdefault(found, []).append(removal.id)
            with writing("set aside"):
                for status, ids in done.items():
                    over = {"end_time": host.now()} if status > RemovalStatus.ASIDE else {}
                    Removal.update(status=status, **over).where(among(Removal.id, ids)).execute()


def _set_aside(
    host: Host, row: StoreRow, store: Store, removal: Removal, identity: tuple[int, ...] | None, tally: Tally
) -> RemovalStatus:
    """Carry out one removal; the status that it has then."""
    file = removal.file
    (copy,) = verifying.copies((Instance.file == file.id) & (Instance.store == row.id)) or (None,)
    if copy is not None and copy.available:
        return RemovalStatus.RETURNED  # it came in anew meanwhile: what lies there is not what was to go
    try:
        if removal.cause is Cause.DELETED and identity is None and copy is not None:
            reading = verifying.read(store, copy)
            if reading.condition not in (Condition.SOUND, Condition.MISSING):
                return _keep(host, row, copy, reading.condition, reading.why, tally)
            identity = reading.identity
        if store.set_aside(file.name, removal.aside_id, identity or ()):
            return RemovalStatus.ASIDE
        return RemovalStatus.PURGED
    except FileChanged:
        why = "it changed after it was read"
        return _keep(host, row, copy, Condition.DAMAGED, why, tally) if copy else RemovalStatus.RETURNED
    except OSError as trouble:
        tally.wait(f"'{shown(file.name)}' cannot be set aside in {row.name}: {trouble.strerror}")
        return RemovalStatus.DECIDED


def _keep(host: Host, row: StoreRow, copy: Copy, what: Condition, why: str, tally: Tally) -> RemovalStatus:
    """What lies there is not what was to go: it stays, and is looked at by check-integrity and corruption-fixer."""
    with writing("kept"):
        changes = {"condition": what, "checked_time": host.now()}
        Instance.update(**changes).where(Instance.id == copy.id, ~Instance.available).execute()
    tally.problem(f"{verifying.subject(row, copy)} was to go and stays: {why}. Run 'libtool validate-file' on it")
    return RemovalStatus.RETURNED


def forget(host: Host, row: StoreRow, files: Sequence[int]) -> None:
    """Remove the rows of copies that are set aside or gone; their removals stay on record."""
    with writing("forgotten"):
        open_ = Removal.select(SQL("1")).where(
            Removal.file == Instance.file, Removal.store == row.id, Removal.status == RemovalStatus.DECIDED
        )
        gone = among(Instance.file, list(files)) & (Instance.store == row.id) & ~Instance.available
        Instance.delete().where(gone, ~fn.EXISTS(open_)).execute()


# -- making way for what comes anew -------------------------------------------------------------------------------


def make_way(host: Host, row: StoreRow, store: Store, files: Sequence[int], tally: Tally) -> None:
    """Before copies of these files come into a store: what is to go goes, and bad bytes of former copies are set aside
    until the new ones are proved. LockTaken when somebody else is at it."""
    carry_out(host, row, store, tally, files=files)
    bad = (Instance.store == row.id) & among(Instance.file, files) & (Instance.condition > SQL("0"))
    waiting = Removal.select(SQL("1")).where(
        Removal.file == Instance.file, Removal.store == row.id, Removal.cause == Cause.DAMAGED, _OPEN
    )
    condemned = verifying.copies(bad & ~Instance.available & ~fn.EXISTS(waiting))
    if not condemned:
        return
    now = to_microseconds(host.now())
    orders = [Order(copy, f"it was {Condition(copy.condition).name.lower()}", ()) for copy in condemned]
    with writing("way decided"):
        who = actor("a new copy")
        insert_rows(Removal, _COLUMNS, [(*_row(order, row, Cause.DAMAGED, who), 0, now, None) for order in orders])
    carry_out(host, row, store, tally, files=[copy.file for copy in condemned])


# -- the end ------------------------------------------------------------------------------------------------------


def replaced(row: StoreRow) -> list[Removal]:
    """Bad bytes that are set aside, and of whose file a copy was read and found right since."""
    sound = Instance.select(SQL("1")).where(
        Instance.file == Removal.file,
        Instance.available,
        Instance.condition == Condition.SOUND,
        Instance.verified_time >= Removal.create_time,
    )
    mine = (Removal.store == row.id) & (Removal.cause == Cause.DAMAGED) & (Removal.status == RemovalStatus.ASIDE)
    return list(Removal.select().where(mine, _OPEN, fn.EXISTS(sound)))


def due(host: Host, row: StoreRow, after: int, limit: int) -> list[Removal]:
    """Copies that are set aside and have been kept for long enough."""
    mine = (Removal.store == row.id) & (Removal.cause == Cause.DELETED) & (Removal.status == RemovalStatus.ASIDE)
    old = mine & _OPEN & (Removal.purge_time <= host.now()) & (Removal.id > after)
    return list(Removal.select(Removal, File).join(File).where(old).order_by(Removal.id).limit(limit))


def purge(host: Host, row: StoreRow, store: Store, removals: Sequence[Removal], tally: Tally) -> int:
    """Remove what is set aside for good; returns how many. LockTaken when somebody else is at it."""
    if not removals:
        return 0
    done = []
    with host.lock(lock(row)):
        still = {id for (id,) in raw_rows(Removal.select(Removal.id).where(_OPEN, _aside(removals)))}
        for removal in removals:
            if removal.id not in still:
                continue  # it was brought back meanwhile
            try:
                store.purge(removal.aside_id)
                done.append(removal.id)
            except OSError as trouble:
                tally.wait(f"what is set aside in {row.name} cannot be removed: {trouble.strerror}")
        with writing("purged"):
            Removal.update(status=RemovalStatus.PURGED, end_time=host.now()).where(among(Removal.id, done)).execute()
    return len(done)


def _aside(removals: Sequence[Removal]) -> Expression:
    return among(Removal.id, [each.id for each in removals]) & (Removal.status == RemovalStatus.ASIDE)


def bytes_aside(row: StoreRow) -> int:
    """Bytes of the store that will be free once what is set aside there is purged."""
    mine = (Removal.store == row.id) & _OPEN
    return int(Removal.select(fn.SUM(File.size)).join(File).where(mine).scalar() or 0)


def bring_back(host: Host, row: StoreRow, store: Store, file: File, tally: Tally) -> bool:
    """Put a deleted copy of a file that is still set aside back into its place, read it, and count it again; whether
    there was one that is right. LockTaken when somebody else is at it."""
    mine = (Removal.file == file.id) & (Removal.store == row.id) & (Removal.cause == Cause.DELETED) & _OPEN
    with host.lock(lock(row)):
        removal = Removal.select().where(mine).order_by(Removal.id.desc()).first()
        if removal is None:
            return False
        try:
            if not store.bring_back(file.name, removal.aside_id):
                return False
        except OSError as trouble:
            raise StoreUnavailable(store=row.name, why=f"'{shown(file.name)}': {trouble.strerror}") from None
        reading = store.read(file.name, file.size, file.checksum, file.kind)
        with writing("brought back"):
            Removal.update(status=RemovalStatus.RETURNED, end_time=host.now()).where(Removal.id == removal.id).execute()
            known: dict[str, Any] = {"file": file.id, "store": row.id, "create_time": host.now(), "available": False}
            known["deletion_policy"] = DeletionPolicy.DISALLOWED  # somebody wanted it back
            Instance.insert(**known).on_conflict_ignore().execute()
            found: dict[str, Any] = {"condition": reading.condition, "deletion_policy": DeletionPolicy.DISALLOWED}
            if reading.good:
                found |= {"available": True, "verified_time": host.now(), "verified_how": Proof.CHECK}
                found |= {"checked_time": None}
            else:
                found |= {"checked_time": host.now()}
            Instance.update(**found).where(Instance.file == file.id, Instance.store == row.id).execute()
    if not reading.good:
        tally.problem(f"'{shown(file.name)}' was brought back to {row.name} and is bad: {reading.why}")
    return bool(reading.good)


def homes(file: File) -> list[StoreRow]:
    """The stores in which a deleted copy of a file is still set aside."""
    mine = (Removal.file == file.id) & (Removal.cause == Cause.DELETED) & _OPEN
    stores = Removal.select(Removal.store).where(mine)
    return list(StoreRow.select().where(StoreRow.id << stores, StoreRow.enabled).order_by(StoreRow.id))


def recover(host: Host, file: File, tally: Tally) -> bool:
    """Bring back the first deleted copy of a file that is still there and right, wherever it is set aside."""
    for row in homes(file):
        try:
            if bring_back(host, row, host.store(row), file, tally):
                return True
        except LibtoolError:
            continue
    return False


def restorable(name: str) -> list[str]:
    """The stores in which a copy of this file is set aside."""
    file = File.get_or_none(File.name == name)
    return [row.name for row in homes(file)] if file is not None else []


def restore(host: Host, name: str, tally: Tally) -> bool:
    """Bring back a copy of this file; whether one is right."""
    return recover(host, File.get(File.name == name), tally)
