"""Taking copies out of a store: decided and written down, set aside at once, purged later, brought back until then.

The row of a removal is written before anything is touched, and says by whom and why. Whoever holds the store's lock
carries out what stands written, so that it does not matter who decided it or died since.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from peewee import SQL, Expression, fn

from libtool.archive import notices, verifying
from libtool.archive.hands import Host, Tally, portions
from libtool.archive.verifying import Copy
from libtool.errors import FileChanged, LibtoolError, StoreUnavailable
from libtool.models.base import among, insert_rows, raw_rows, serialise, writing
from libtool.models.tables import (
    File,
    IncomingTransfer,
    Instance,
    OutgoingTransfer,
    Removal,
    Retry,
    live,
    unfinished,
)
from libtool.models.tables import Store as StoreRow
from libtool.names import shown
from libtool.states import Cause, Condition, DeletionPolicy, Proof, RemovalStatus
from libtool.stores.base import Store
from libtool.units import to_microseconds

#: PostgreSQL advisory key under which it is settled which copies are read or promised and which are let go.
COPIES_KEY = 0x636F70696573
#: Removals that are carried out under one hold of the lock.
PORTION = 200
#: Seconds that may pass between asking the holders of other copies and deciding on the strength of what they say.
SLACK = 600.0
#: What was written to so long before it was set aside is not taken for written to since: clocks differ.
CLOCKS = timedelta(hours=1)
#: The trouble of bytes that are set aside and were written to there.
CHANGED = "changed aside"
_COLUMNS = ["file_id", "store_id", "cause", "status", "aside_id", "actor", "reason", "copies", "forget", "create_time"]
_COLUMNS += ["purge_time"]
#: What whoever holds the lock goes on with.
_BEGUN = (RemovalStatus.DECIDED, RemovalStatus.RETURNING, RemovalStatus.PURGING)


@dataclass(frozen=True, slots=True)
class Warrant:
    """On whose word copies go, and what must hold."""

    actor: str  #: which command, run by whom
    copies: int  #: how many others must be proved once more before the bytes are purged
    keep: timedelta  #: how long the bytes stay aside
    forget: bool = False  #: do not remember the copy as an unavailable one
    forced: bool = False  #: whatever the deletion policy, and whether or not the copy is right


class Order(NamedTuple):
    """One copy that is to go, why, and what it was when it was read."""

    copy: Copy
    reason: str
    identity: tuple[int, ...]
    asked: datetime | None = None  #: when the holders of others were asked; None: nobody was


def actor(command: str) -> str:
    """Who is at work, for the record."""
    try:
        who = getpass.getuser()
    except (KeyError, OSError):
        who = str(os.getuid())
    return f"{command} by {who} on {os.uname().nodename}"


def subject(row: StoreRow, removal: Removal) -> str:
    """What notices call a copy."""
    return f"copy '{shown(removal.file.name)}' in {row.name}"


def lock(row: StoreRow) -> str:
    """The lock under which bytes of a store are set aside, brought back and purged."""
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
    because somebody needs them since they were looked at, or what was said of others is too old by now, and why."""
    by_id = {order.copy.id: order for order in orders}
    with writing("removal decided"):
        serialise(COPIES_KEY)
        now = host.now()
        old = [id for id, order in by_id.items() if too_old(order.asked, now)]
        stays = dict.fromkeys(old, "what its holders said is too old by now") | needed(host, list(by_id))
        going = among(Instance.id, [id for id in by_id if id not in stays]) & Instance.available
        if not warrant.forced:
            going &= (Instance.deletion_policy == DeletionPolicy.ALLOWED) & (Instance.condition == Condition.SOUND)
        gone = raw_rows(Instance.update(available=False).where(going).returning(Instance.id))
        taken = [by_id[id] for (id,) in gone]
        ends = (warrant.copies, warrant.forget, to_microseconds(now), to_microseconds(now + warrant.keep))
        insert_rows(Removal, _COLUMNS, [(*_row(order, row, Cause.DELETED, warrant.actor), *ends) for order in taken])
    done = {order.copy.id for order in taken}
    return stays | {id: "it changed meanwhile" for id in by_id if id not in done and id not in stays}


def too_old(asked: datetime | None, now: datetime) -> bool:
    """Whether what holders said, when they were asked then, is no ground for a deletion any more."""
    return asked is not None and not timedelta(0) <= now - asked <= timedelta(seconds=SLACK)


def _row(order: Order, row: StoreRow, cause: Cause, who: str) -> tuple[object, ...]:
    status = int(RemovalStatus.DECIDED)
    return (order.copy.file, row.id, int(cause), status, os.urandom(16).hex(), who, shown(order.reason)[:4000])


# -- carrying out -------------------------------------------------------------------------------------------------


def carry_out(
    host: Host,
    row: StoreRow,
    store: Store,
    tally: Tally,
    orders: Sequence[Order] = (),
    files: Sequence[int] | None = None,
) -> set[int]:
    """Do what stands written for a store (or for these ``files`` of it): set aside, bring back, end a purge; returns of
    which files a copy is set aside now. LockTaken when somebody else is at it.

    A copy that is not what ``orders`` say was read, or of which nobody knows what was read, is read first: what is not
    as recorded stays and is told. What somebody else was to purge, and has not begun to, is kept aside and decided on
    anew: the others may have gone since.
    """
    identities = {order.copy.file: order.identity for order in orders}
    mine = _begun(row)
    if files is not None:
        mine &= among(Removal.file, files)
    if not Removal.select(SQL("1")).where(mine).exists():
        return set()

    def step(removal: Removal) -> RemovalStatus:
        if removal.status is RemovalStatus.RETURNING:
            return _return(host, row, store, removal, tally)
        if removal.status is RemovalStatus.PURGING:
            return _abandoned(store, removal)
        return _set_aside(host, row, store, removal, identities.get(removal.file_id), tally)

    with host.lock(lock(row)):
        aside = _each(host, row, mine, step, tally).get(RemovalStatus.ASIDE, ())
        return {removal.file_id for removal in aside if removal.status is RemovalStatus.DECIDED}


def _begun(row: StoreRow) -> Expression:
    return (Removal.store == row.id) & unfinished() & (Removal.status << list(_BEGUN))


def _each(
    host: Host, row: StoreRow, mine: Expression, step: Callable[[Removal], RemovalStatus], tally: Tally
) -> dict[RemovalStatus, list[Removal]]:
    """Take a step with each of these removals and write down how far it came; by what has changed. Under the lock."""
    changed: dict[RemovalStatus, list[Removal]] = {}
    for portion in portions(list(Removal.select(Removal, File).join(File).where(mine).order_by(Removal.id)), PORTION):
        done: dict[RemovalStatus, list[Removal]] = {}
        for removal in portion:
            try:
                found = step(removal)
            except OSError as trouble:
                name, why = shown(removal.file.name), trouble.strerror
                tally.wait(f"the copy of '{name}' in {row.name} cannot be moved now: {why}")
                continue
            if found is not removal.status:
                done.setdefault(found, []).append(removal)
        _write_down(host, row, done)
        for status, removals in done.items():
            changed.setdefault(status, []).extend(removals)
    return changed


def _abandoned(store: Store, removal: Removal) -> RemovalStatus:
    """Whoever was to purge this has died, or could not: what is whole stays, and the rest of what is not goes."""
    if store.look_aside(removal.file.name, removal.aside_id, removal.file.size, removal.create_time) is not None:
        return RemovalStatus.ASIDE
    store.purge(removal.aside_id)
    return RemovalStatus.PURGED


def _write_down(host: Host, row: StoreRow, done: dict[RemovalStatus, list[Removal]]) -> None:
    with writing("set aside"):
        for status, removals in done.items():
            over = {"end_time": host.now()} if status >= RemovalStatus.PURGED else {}
            ids = among(Removal.id, [removal.id for removal in removals])
            Removal.update(status=status, **over).where(ids).execute()
            if status is RemovalStatus.ASIDE:
                files = [removal.file_id for removal in removals if removal.forget]
                gone = among(Instance.file, files) & (Instance.store == row.id) & ~Instance.available
                Instance.delete().where(gone, Instance.condition == Condition.SOUND).execute()


def _set_aside(
    host: Host, row: StoreRow, store: Store, removal: Removal, identity: tuple[int, ...] | None, tally: Tally
) -> RemovalStatus:
    """Set one copy aside; the status that its removal has then."""
    file = removal.file
    (copy,) = verifying.copies((Instance.file == file.id) & (Instance.store == row.id)) or (None,)
    if copy is not None and copy.available:
        return RemovalStatus.RETURNED  # it came in anew meanwhile: what lies there is not what was to go
    if removal.cause is Cause.DELETED and identity is None:  # somebody else decided it, and died since
        aside = store.read_aside(file.name, removal.aside_id, file.size, file.checksum, file.kind)
        reading = aside
        if aside.condition is Condition.MISSING:
            reading = store.read(file.name, file.size, file.checksum, file.kind)
        if reading.condition is Condition.UNREADABLE:
            return RemovalStatus.DECIDED  # that is no verdict; it is looked at again
        if reading.condition is Condition.DAMAGED:
            if aside.condition is not Condition.MISSING:
                store.bring_back(file.name, removal.aside_id)
            return _keep(host, row, removal, reading.why, tally)
        identity = () if aside.good else reading.identity
    if removal.cause is Cause.DAMAGED:
        found = store.read(file.name, file.size, file.checksum, file.kind)
        if found.condition is Condition.SOUND:
            return RemovalStatus.RETURNED  # a right one has come meanwhile, or it is well again
    try:
        there = store.set_aside(file.name, removal.aside_id, identity or ())
        return RemovalStatus.ASIDE if there else RemovalStatus.PURGED
    except FileChanged:
        return _keep(host, row, removal, "it changed after it was read", tally)


def _keep(host: Host, row: StoreRow, removal: Removal, why: str, tally: Tally) -> RemovalStatus:
    """What lies there is not what was to go: it stays, and is looked at by check-integrity and corruption-fixer."""
    with writing("kept"):
        changes = {"condition": Condition.DAMAGED, "checked_time": host.now()}
        mine = (Instance.file == removal.file_id) & (Instance.store == row.id) & ~Instance.available
        Instance.update(**changes).where(mine).execute()
    where = f"copy '{shown(removal.file.name)}' in {row.name}"
    tally.problem(f"{where} was to go and stays: {why}. Run 'libtool validate-file' on it")
    return RemovalStatus.RETURNED


# -- making way for what comes anew -------------------------------------------------------------------------------


def make_way(host: Host, row: StoreRow, store: Store, files: Sequence[int], tally: Tally) -> None:
    """Before copies of these files come into a store: what is to go goes, and bad bytes of former copies are set aside
    until the new ones are proved. LockTaken when somebody else is at it.

    What is in the way is read first: a right copy that lies there is as good as the one that comes.
    """
    carry_out(host, row, store, tally, files=files)
    bad = (Instance.store == row.id) & among(Instance.file, files) & (Instance.condition > SQL("0"))
    orders = []
    for copy in verifying.copies(bad & ~Instance.available):
        reading = verifying.read(store, copy)
        if reading.condition not in (Condition.SOUND, Condition.MISSING):
            orders.append(Order(copy, reading.why, ()))
    if not orders:
        return
    ends = (0, False, to_microseconds(host.now()), None)
    with writing("way decided"):
        who = actor("a new copy")
        insert_rows(Removal, _COLUMNS, [(*_row(order, row, Cause.DAMAGED, who), *ends) for order in orders])
    carry_out(host, row, store, tally, files=[order.copy.file for order in orders])


def give_way_back(host: Host, row: StoreRow, store: Store, files: Sequence[int]) -> None:
    """Put bad bytes of these files back into their places, unless something else lies there."""
    _give_back(host, row, store, _made_way(row) & among(Removal.file, files))


def give_left_back(host: Host, row: StoreRow, store: Store) -> None:
    """Put bad bytes back that made way for what has not come and does not come any more."""
    bad = ~Instance.available & (Instance.condition > SQL("0"))
    here = Instance.select(SQL("1")).where(Instance.file == Removal.file, Instance.store == Removal.store, bad)
    name = File.select(File.name).where(File.id == Removal.file)
    coming = IncomingTransfer.select(SQL("1")).where(IncomingTransfer.name == name, live(IncomingTransfer))
    _give_back(host, row, store, _made_way(row) & fn.EXISTS(here) & ~fn.EXISTS(coming))


def _made_way(row: StoreRow) -> Expression:
    mine = (Removal.store == row.id) & (Removal.cause == Cause.DAMAGED)
    return mine & unfinished() & (Removal.status == RemovalStatus.ASIDE)


def _give_back(host: Host, row: StoreRow, store: Store, mine: Expression) -> None:
    if not Removal.select(SQL("1")).where(mine).exists():
        return
    with host.lock(lock(row)):
        back = []
        for removal in Removal.select(Removal, File).join(File).where(mine):
            try:
                if store.bring_back(removal.file.name, removal.aside_id):
                    back.append(removal)
            except FileExistsError:
                continue
        _write_down(host, row, {RemovalStatus.RETURNED: back})


# -- the end ------------------------------------------------------------------------------------------------------


def replaced(row: StoreRow) -> list[Removal]:
    """Bad bytes that are set aside, and of whose file a copy was read and found right since."""
    sound = Instance.select(SQL("1")).where(
        Instance.file == Removal.file,
        Instance.condition == Condition.SOUND,
        Instance.verified_time >= Removal.create_time,
    )
    mine = (Removal.store == row.id) & (Removal.cause == Cause.DAMAGED) & (Removal.status == RemovalStatus.ASIDE)
    return list(Removal.select().where(mine, unfinished(), fn.EXISTS(sound)))


def due(host: Host, row: StoreRow, after: int, limit: int) -> list[Removal]:
    """Copies that are set aside and have been kept for long enough."""
    mine = (Removal.store == row.id) & (Removal.cause == Cause.DELETED) & (Removal.status == RemovalStatus.ASIDE)
    old = mine & unfinished() & (Removal.purge_time <= host.now()) & (Removal.id > after)
    return list(Removal.select(Removal, File).join(File).where(old).order_by(Removal.id).limit(limit))


def purge(
    host: Host,
    row: StoreRow,
    store: Store,
    removals: Sequence[Removal],
    tally: Tally,
    asked: Mapping[int, datetime] | None = None,
) -> set[int]:
    """Remove what is set aside for good; returns of which removals. LockTaken when somebody else is at it.

    ``asked`` says when the holders of others were asked, by removal: where that is too long ago by now, it stays.
    """
    if not removals:
        return set()
    with host.lock(lock(row)):
        with writing("purge decided"):
            now, known = host.now(), asked or {}
            ids = [removal.id for removal in removals if not too_old(known.get(removal.id), now)]
            aside = among(Removal.id, ids) & (Removal.status == RemovalStatus.ASIDE)
            Removal.update(status=RemovalStatus.PURGING).where(aside).execute()

        def step(removal: Removal) -> RemovalStatus:
            if changed(store, removal):
                return RemovalStatus.ASIDE
            store.purge(removal.aside_id)
            return RemovalStatus.PURGED

        mine = _begun(row) & among(Removal.id, ids) & (Removal.status == RemovalStatus.PURGING)
        return {removal.id for removal in _each(host, row, mine, step, tally).get(RemovalStatus.PURGED, ())}


def changed(store: Store, removal: Removal) -> str:
    """Why what is set aside is not what was: somebody went on writing there, and that may lie nowhere else. Empty when it
    is the same, and when it need not be: bad bytes, or what a person wanted to go whatever it is. It is only read when it
    seems to have changed."""
    whatever = removal.cause is not Cause.DELETED or not removal.copies
    file = removal.file
    begun: datetime = removal.create_time
    if whatever or store.look_aside(file.name, removal.aside_id, file.size, begun - CLOCKS) is not False:
        return ""
    reading = store.read_aside(file.name, removal.aside_id, file.size, file.checksum, file.kind)
    return "" if reading.good else reading.why


def bytes_aside(row: StoreRow) -> int:
    """Bytes of the store that will be free once what is set aside there is purged."""
    mine = (Removal.store == row.id) & unfinished()
    return int(Removal.select(fn.SUM(File.size)).join(File).where(mine).scalar() or 0)


# -- coming back --------------------------------------------------------------------------------------------------


def bring_back(host: Host, row: StoreRow, store: Store, file: File, tally: Tally) -> bool:
    """Put a deleted copy of a file that is still set aside back into its place, read it, and count it again; whether it is
    there and right. LockTaken when somebody else is at it, StoreUnavailable when it cannot be moved now."""
    mine = (Removal.file == file.id) & (Removal.store == row.id) & (Removal.cause == Cause.DELETED)
    store.check()
    with host.lock(lock(row)):
        removal = Removal.select().where(mine, unfinished()).order_by(Removal.id.desc()).first()
        if removal is None:
            return False
        with writing("return decided"):
            Removal.update(status=RemovalStatus.RETURNING).where(Removal.id == removal.id).execute()
        removal.file = file
        try:
            found = _return(host, row, store, removal, tally)
        except OSError as trouble:
            raise StoreUnavailable(store=row.name, why=f"'{shown(file.name)}': {trouble.strerror}") from None
        if found is not RemovalStatus.RETURNING:
            _write_down(host, row, {found: [removal]})
    here = (Instance.file == file.id) & (Instance.store == row.id) & Instance.available
    return found is RemovalStatus.RETURNED and bool(Instance.select().where(here).exists())


def _return(host: Host, row: StoreRow, store: Store, removal: Removal, tally: Tally) -> RemovalStatus:
    """Bring one copy back; the status that its removal has then."""
    file = removal.file
    try:
        if not store.bring_back(file.name, removal.aside_id):
            return RemovalStatus.PURGED  # neither place has it
    except FileExistsError:
        what = "something else lies in its place"
        tally.wait(f"'{shown(file.name)}' stays set aside in {row.name}: {what}, {store.path(file.name)}")
        return RemovalStatus.ASIDE
    reading = store.read(file.name, file.size, file.checksum, file.kind)
    notices.over(host, tally, subject(row, removal), CHANGED)
    with writing("brought back"):
        # Somebody wanted it back: it is not let go again unless somebody allows that.
        known: dict[str, Any] = {"file": file.id, "store": row.id, "create_time": host.now(), "available": False}
        Instance.insert(**known, deletion_policy=DeletionPolicy.DISALLOWED).on_conflict_ignore().execute()
        found: dict[str, Any] = {"condition": reading.condition, "deletion_policy": DeletionPolicy.DISALLOWED}
        found["checked_time"] = None if reading.good else host.now()
        if reading.good:
            found |= {"available": True, "verified_time": host.now(), "verified_how": Proof.CHECK}
        Instance.update(**found).where(Instance.file == file.id, Instance.store == row.id).execute()
    if not reading.good:
        tally.problem(f"'{shown(file.name)}' was brought back to {row.name} and does not count: {reading.why}")
    return RemovalStatus.RETURNED


def homes(file: File) -> list[StoreRow]:
    """The stores in which a deleted copy of a file is still set aside, and no other has come to its place; and those to
    which one was coming back when the process ended."""
    mine = (Removal.file == file.id) & (Removal.cause == Cause.DELETED) & unfinished()
    stores = Removal.select(Removal.store).where(mine)
    anew = Instance.select(Instance.store).where(Instance.file == file.id, Instance.available)
    coming = Removal.select(Removal.store).where(mine, Removal.status == RemovalStatus.RETURNING)
    usable = StoreRow.enabled & (~(StoreRow.id << anew) | (StoreRow.id << coming))
    return list(StoreRow.select().where(StoreRow.id << stores, usable).order_by(StoreRow.id))


def recover(host: Host, file: File, tally: Tally) -> str | None:
    """Bring back the first deleted copy of a file that is still there and right, wherever it is set aside; the name of its
    store. Raises what stood in the way when none could be looked at, None when none is right."""
    trouble: LibtoolError | None = None
    for row in homes(file):
        try:
            if bring_back(host, row, host.store(row), file, tally):
                return str(row.name)
        except LibtoolError as found:
            trouble = trouble or found
    if trouble is not None:
        raise trouble
    return None
