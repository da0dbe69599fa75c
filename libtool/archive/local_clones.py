"""Second copies here: what lies in one store is copied into another, such as a disk that is to travel.

The way is that of every arrival: an incoming transfer without a source is written down under a claim, the copy is made
in the staging area, proved by reading it against the catalogue, put into its place, recorded. So nothing is taken for a
copy that is none, and a process that dies leaves what the next run, or recv-clone, goes on with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from peewee import SQL, Select, fn

from libtool import digest
from libtool.archive import ingest, intake, notices, places, receiving
from libtool.archive.hands import Budget, Host, Tally
from libtool.archive.rooms import Rooms
from libtool.errors import LibtoolError, LockTaken, StoreUnavailable, Usage
from libtool.models.base import among, raw_rows, serialise, writing
from libtool.models.tables import File, IncomingTransfer, Instance, live
from libtool.models.tables import Store as StoreRow
from libtool.names import shown
from libtool.states import DeletionPolicy, FileKind, Owed, TransferStatus
from libtool.stores.base import Found, Store

#: What the claims of local clones begin with; those of an ingest have another kind.
KIND = "clone"
_IN = IncomingTransfer
Place = tuple[StoreRow, Store]


@dataclass(frozen=True, slots=True)
class Wish:
    """The options of ``create-local-clone``."""

    origin: str
    targets: tuple[str, ...]  #: the first that fits takes a file
    age_in_days: float | None = None
    limit: int = 1024
    disable_full: bool = False
    again: tuple[int, ...] | None = None  #: only these files, whose copies in the targets went bad


class Due(NamedTuple):
    """A copy that is to get a second one."""

    id: int  #: of the instance
    name: str
    size: int
    checksum: str
    uploader: str
    kind: int
    policy: int


class Work(NamedTuple):
    """One copy that is being made: the transfer's number, of what, into which store and staging place."""

    id: int
    due: Due
    store: int
    staging_id: str


def create(host: Host, wish: Wish, budget: Budget, tally: Tally, step: Callable[[int], None] | None = None) -> None:
    """Copy what is due, portion by portion, as far as time, room and the limit allow."""
    origin, targets = stores_of(wish)
    _finish(host, tally)
    if not origin.enabled or not any(row.enabled for row in targets):
        tally.details.append(f"the store {origin.name} or all of {', '.join(wish.targets)} are disabled")
        return
    subject, kind = f"store {origin.name}", "local clones"
    if not next(iter(_due(host, wish, origin, targets, 0, 1)), None):
        notices.over(host, tally, subject, kind)
        return
    try:
        store = host.store(origin)
        store.check_readable()
        usable = _usable(host, targets)
        _create(host, wish, (origin, store), targets, usable, budget, tally, step)
        notices.over(host, tally, subject, kind)
    except StoreUnavailable as trouble:
        tally.postponed += 1
        notices.trouble(host, tally, subject, kind, trouble.text)


def replace(host: Host, row: StoreRow, files: list[int], budget: Budget, tally: Tally) -> None:
    """Give these files, whose copies in a store went bad, new ones from the other stores here that have right ones."""
    for origin in places.in_order(host):
        if origin.id == row.id or not origin.enabled:
            continue
        wish = Wish(origin.name, (row.name,), limit=len(files), again=tuple(files))
        create(host, wish, budget, tally)


def stores_of(wish: Wish) -> tuple[StoreRow, list[StoreRow]]:
    """The stores that are named; UnknownStore, or Usage when a store is to be its own clone."""
    origin, targets = places.get(wish.origin), [places.get(name) for name in dict.fromkeys(wish.targets)]
    if wish.origin in wish.targets:
        raise Usage(why=f"the store {wish.origin} cannot be cloned to itself", command="create-local-clone")
    return origin, targets


def _usable(host: Host, targets: list[StoreRow]) -> list[Place]:
    """The target stores that are enabled and mounted here; StoreUnavailable says why when there is none."""
    usable: list[Place] = []
    why: StoreUnavailable | None = None
    for row in targets:
        if not row.enabled:
            continue
        try:
            store = host.store(row)
            store.check()
            usable.append((row, store))
        except StoreUnavailable as trouble:
            why = why or trouble
    if why is not None and not usable:
        raise why
    return usable


def _create(
    host: Host,
    wish: Wish,
    origin: Place,
    targets: list[StoreRow],
    usable: list[Place],
    budget: Budget,
    tally: Tally,
    step: Callable[[int], None] | None,
) -> None:
    after, left, waits = 0, wish.limit, 0
    with ExitStack() as held:
        claim = ingest.claim_slot(host, held, KIND)
        while budget.left and left > 0 and usable:
            due = _portion(host, wish, origin[0], targets, after, min(ingest.PORTION, left))
            if not due:
                break
            after = due[-1].id
            work, homeless, full = _intend(host, due, targets, usable, claim)
            if homeless:
                waits += homeless
                usable = _switch_off(full, usable, tally) if wish.disable_full else usable
            lost = _copy(host, origin, usable, work, tally)
            usable = [place for place in usable if place[0] not in lost]
            left -= len(work)
            if step is not None:
                step(len(work))
            if homeless and not work:
                break  # nothing of a whole portion fits anywhere
    _tell_room(host, wish, waits, tally)
    for row, _ in usable:
        notices.over(host, tally, f"store {row.name}", "local clones")


def _switch_off(full: list[StoreRow], usable: list[Place], tally: Tally) -> list[Place]:
    """A store without room for the next file is filled no more until a person says so."""
    for row in full:
        places.set_enabled(row.name, False)
        how = f"'libtool set-store-state --store {row.name} --enabled' switches it on again"
        tally.lines.append(f"the store {row.name} has no room for the next file and was switched off; {how}")
    gone = {row.id for row in full}
    return [place for place in usable if place[0].id not in gone]


def _tell_room(host: Host, wish: Wish, waits: int, tally: Tally) -> None:
    subject = f"store {wish.origin}"
    tally.postponed += waits
    if waits and not wish.disable_full:
        text = f"{', '.join(wish.targets)} have no room for {waits} or more files that wait for a second copy"
        notices.trouble(host, tally, subject, "room for clones", text)
    elif not waits:
        notices.over(host, tally, subject, "room for clones")


# -- what is due --------------------------------------------------------------------------------------------------


def _query(host: Host, wish: Wish, origin: StoreRow, targets: list[StoreRow]) -> Select:
    """Sound copies in the first store without any row in a target; one that was removed there was removed on purpose.

    A copy that is to be read by check-integrity first waits for that: it may be bad. The rest is one step through the
    copies of the first store and a look into an index for each: 40 ms for 100,000 that all have theirs.
    """
    other = Instance.alias()
    there = other.select(SQL("1")).where(other.file == Instance.file, other.store << [row.id for row in targets])
    if wish.again is not None:
        there = there.where(other.available)
    sound = Instance.available & (Instance.condition == SQL("0")) & Instance.asked_time.is_null()
    where = (Instance.store == origin.id) & sound & ~fn.EXISTS(there)
    if wish.again is not None:
        where &= among(Instance.file, wish.again)
    if wish.age_in_days is not None:
        where &= Instance.create_time >= host.now() - timedelta(days=wish.age_in_days)
    policy: Any = Instance.deletion_policy
    if wish.again is not None:  # what comes in the stead of a copy may be let go just as that might
        bad = Instance.alias()
        mine = (bad.file == Instance.file) & (bad.store << [row.id for row in targets])
        policy = fn.COALESCE(bad.select(fn.MIN(bad.deletion_policy)).where(mine), policy)
    columns = (File.name, File.size, File.checksum, File.uploader, File.kind, policy)
    return Instance.select(Instance.id, *columns).join(File).where(where)


def _due(host: Host, wish: Wish, origin: StoreRow, targets: list[StoreRow], after: int, limit: int) -> Iterator[Due]:
    """What is due behind the instance ``after``, in order."""
    query = _query(host, wish, origin, targets).where(Instance.id > after).order_by(Instance.id).limit(limit)
    return (Due(*row) for row in raw_rows(query))


def _portion(host: Host, wish: Wish, origin: StoreRow, targets: list[StoreRow], after: int, limit: int) -> list[Due]:
    """The next portion, of bounded number and bytes."""
    found = list(_due(host, wish, origin, targets, after, limit))
    size = 0
    for n, each in enumerate(found):
        size += each.size
        if size > ingest.PORTION_BYTES and n:
            return found[:n]
    return found


def _intend(
    host: Host, due: list[Due], targets: list[StoreRow], usable: list[Place], claim: str
) -> tuple[list[Work], int, list[StoreRow]]:
    """Write down what is about to come in; returns it, how many files had no room, and which stores lacked it.

    A name that somebody else is bringing is passed over. What another run has brought since we looked is seen after
    our rows are in: it was recorded in the transaction that made way for them.
    """
    by_name: dict[str, Due] = {}
    rows = []
    staging: dict[int, str] = {}
    with writing("intend local clones"):
        serialise(receiving.NAMES_KEY)
        rooms = Rooms(usable)
        for each in due:
            place = rooms.take(each.size)
            if place is None:
                continue
            by_name[each.name] = each
            rows.append(
                {
                    "name": each.name,
                    "size": each.size,
                    "checksum": each.checksum,
                    "uploader": each.uploader,
                    "source": "",
                    "status": TransferStatus.INITIATED,
                    "owed": Owed.NOTHING,
                    "store": place[0].id,
                    "staging_id": staging.setdefault(place[0].id, os.urandom(16).hex()),
                    "claim": claim,
                    "deletion_policy": DeletionPolicy(each.policy),
                    "create_time": host.now(),
                }
            )
        if not rows:
            return [], len(due), rooms.full
        _IN.insert_many(rows).on_conflict_ignore().execute()
        mine = (_IN.claim == claim) & live(_IN) & (_IN.staging_id << list(staging.values()))
        there = (Instance.store << [row.id for row in targets]) & Instance.available
        here = Instance.select(SQL("1")).join(File).where(File.name == _IN.name, there)
        _IN.delete().where(mine, fn.EXISTS(here)).execute()
        found = raw_rows(_IN.select(_IN.id, _IN.name, _IN.store, _IN.staging_id).where(mine).order_by(_IN.id))
        work = [Work(id, by_name[name], store, staging_id) for id, name, store, staging_id in found]
    return work, len(due) - len(rows), rooms.full


# -- copying ------------------------------------------------------------------------------------------------------


def _copy(host: Host, origin: Place, usable: list[Place], work: list[Work], tally: Tally) -> list[StoreRow]:
    """Make the copies and take them in; returns the target stores that cannot be used any more. Raises StoreUnavailable
    when it is the first store that cannot be read: then what was begun ends without a verdict."""
    lost = []
    for row, store in usable:
        mine = [each for each in work if each.store == row.id]
        if not mine:
            continue
        try:
            wrong = _bring(host, origin[1], store, mine)
            good = [each for each in mine if each not in wrong]
            with writing("cloned"):
                ids = among(_IN.id, [each.id for each in good])
                _IN.update(status=TransferStatus.STAGED).where(ids, live(_IN)).execute()
            _refuse(host, origin[0], wrong, tally)
            _take_in(host, (row, store), good, tally)
        except StoreUnavailable as trouble:
            _give_up(host, mine)
            try:
                origin[1].check_readable()
            except StoreUnavailable:
                _give_up(host, work)
                for staging_id in {each.staging_id for each in work}:
                    intake.tidy(host, staging_id)
                raise
            lost.append(row)
            tally.postponed += len(mine)
            notices.trouble(host, tally, f"store {row.name}", "local clones", trouble.text)
        intake.tidy(host, mine[0].staging_id)
    return lost


def _give_up(host: Host, work: list[Work]) -> None:
    """What is not staged by now does not come in this run; it is due at the next."""
    changes = {"status": TransferStatus.FAILED, "end_time": host.now(), "claim": None}
    with writing("given up"):
        ids = among(_IN.id, [each.id for each in work])
        _IN.update(**changes, reason="its store could not be used").where(ids, _IN.status < SQL("2")).execute()


def _bring(host: Host, origin: Store, target: Store, work: list[Work]) -> dict[Work, str]:
    """Copy into the staging place; returns why what was read is not what it should be."""
    wrong: dict[Work, str] = {}
    for each in work:
        path = origin.path(each.due.name)
        try:
            why = _differs(target.copy_in(path, each.staging_id, each.due.name), each.due)
        except StoreUnavailable:
            raise
        except (LibtoolError, OSError) as trouble:
            origin.check_readable()  # a store that is not mounted misses no file
            why = trouble.reason if isinstance(trouble, LibtoolError) else f"'{path}': {trouble.strerror}"
        if why:
            wrong[each] = why
    return wrong


def _differs(found: Found, due: Due) -> str:
    """Why what was read is not the catalogued file; empty when it is, or when only reading the new copy can tell."""
    if found.kind != FileKind(due.kind):
        return f"it is no {FileKind(due.kind).name.lower()} any more"
    if found.size != due.size:
        return f"it has {found.size} bytes instead of {due.size}"
    if digest.same(found.checksum, due.checksum) is False:
        return f"its checksum is {found.checksum} instead of {due.checksum}"
    return ""


def _take_in(host: Host, target: Place, work: list[Work], tally: Tally) -> None:
    """Prove the copies, store them, record them; what is not taken may be the fault of what was copied."""
    row, store = target
    ids = [each.id for each in work]
    intake.take_in(host, row, store, intake.staged(ids), tally, DeletionPolicy.DISALLOWED)
    bad = {id for (id,) in raw_rows(_IN.select(_IN.id).where(among(_IN.id, ids), _IN.status == SQL("4")))}
    if bad:
        _suspect(host, [each.due.id for each in work if each.id in bad])


def _refuse(host: Host, origin: StoreRow, wrong: dict[Work, str], tally: Tally) -> None:
    """Name what cannot be cloned, and leave it to check-integrity; what was removed meanwhile is no trouble."""
    if not wrong:
        return
    intake.refuse(host, {each.id: why for each, why in wrong.items()})
    _suspect(host, [each.due.id for each in wrong])
    ids = [each.due.id for each in wrong]
    there = {id for (id,) in raw_rows(Instance.select(Instance.id).where(among(Instance.id, ids), Instance.available))}
    for each, why in wrong.items():
        if each.due.id in there:
            how = "check-integrity reads it first; it is not cloned before that"
            tally.problem(f"'{shown(each.due.name)}' of the store {origin.name} was not cloned: {why}; {how}")


def _suspect(host: Host, instances: list[int]) -> None:
    """Have these read first by check-integrity, and passed over here until then."""
    with writing("suspected"):
        Instance.update(asked_time=host.now()).where(
            among(Instance.id, instances), Instance.available, Instance.asked_time.is_null()
        ).execute()


# -- after a crash, and looking -----------------------------------------------------------------------------------


def _finish(host: Host, tally: Tally) -> None:
    """Local clones whose process died: what was copied is taken in, the rest ends and is due again."""
    dead = _IN.select(_IN.claim).where(_IN.claim.startswith(f"{KIND}-"), live(_IN)).distinct()
    for (claim,) in list(dead.tuples()):
        try:
            with host.lock(claim):
                _finish_one(host, claim, tally)
        except LockTaken:
            continue  # it is alive
    over = (_IN.status >= SQL("3")) & _IN.staging_id.is_null(False) & (_IN.source == "")
    if _IN.select(SQL("1")).where(over).exists():
        with suppress(LockTaken), host.lock("recv-clone"):  # whose work it is, where it runs
            intake.tidy(host)


def _finish_one(host: Host, claim: str, tally: Tally) -> None:
    """One of them, whose lock the caller holds. What waits for its store keeps the claim, so that it is found again."""
    rows = {row.id: row for row in places.in_order(host)}
    mine = _IN.select(_IN.id, _IN.store, _IN.staging_id, _IN.status).where(_IN.claim == claim, live(_IN))
    left = list(raw_rows(mine))
    with writing("settle clones"):
        changes = {"status": TransferStatus.FAILED, "end_time": host.now(), "claim": None}
        _IN.update(**changes, reason="its local clone did not end").where(
            _IN.claim == claim, _IN.status < SQL("2")
        ).execute()
    for number in {store for _, store, _, status in left if status == TransferStatus.STAGED}:
        row = rows.get(number)
        ids = [id for id, store, _, status in left if store == number and status == TransferStatus.STAGED]
        if row is None or not row.enabled:
            continue
        with suppress(StoreUnavailable):
            intake.take_in(host, row, host.store(row), intake.staged(ids), tally, DeletionPolicy.DISALLOWED)
    for staging_id in {place for _, _, place, _ in left}:
        intake.tidy(host, staging_id)


def plan(host: Host, wish: Wish) -> Iterator[str]:
    """What a run would copy, a line each."""
    origin, targets = stores_of(wish)
    if not origin.enabled or not (usable := _usable(host, targets)):
        return
    rooms, after, left = Rooms(usable), 0, wish.limit
    while left > 0 and (due := _portion(host, wish, origin, targets, after, min(ingest.PORTION, left))):
        after = due[-1].id
        left -= len(due)
        for each in due:
            place = rooms.take(each.size)
            into = f"into {place[0].name}" if place is not None else "has no room"
            yield f"{shown(each.name)} ({each.size} bytes) from {origin.name} {into}"
