"""Reading copies where they lie, and writing down what they turned out to be.

A copy that is not what was recorded is unavailable from then on: it is neither sent nor counted, and may come again.
Its bytes stay where they are. When too many of a store turn bad at once, none of them is marked: then the disk is the
suspect and not the files, and a person must look. What was found so is read first from then on, and the store is the
suspect until all of that was read again, and turned out to be right or was marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from peewee import SQL, fn

from libtool.archive import notices
from libtool.archive.hands import Host, Tally
from libtool.errors import StoreUnavailable
from libtool.models.base import among, raw_rows, writing
from libtool.models.tables import Fault, File, Instance, Removal, unfinished
from libtool.models.tables import Store as StoreRow
from libtool.names import shown
from libtool.states import Cause, Condition, FileKind, Proof
from libtool.stores.base import Reading, Store

#: A store is suspected when so many copies at least are bad, and they are more than one in so many of those read in
#: this run, or more than one in so many of all in the store within a day.
BAD_LEAST, BAD_OF_READ, BAD_OF_ALL = 10, 10, 20
BAD_WITHIN = timedelta(days=1)
#: A copy that could not be read for so long is given up, and got anew like a damaged one; its bytes are kept as those are.
UNREADABLE_FOR = timedelta(days=1)


class Copy(NamedTuple):
    """A copy, as far as reading it needs it."""

    id: int
    file: int
    name: str
    size: int
    checksum: str
    kind: int
    available: bool
    condition: int


COLUMNS = (
    Instance.id,
    Instance.file,
    File.name,
    File.size,
    File.checksum,
    File.kind,
    Instance.available,
    Instance.condition,
)


def copies(condition: Any, order: Sequence[Any] = (Instance.id,), limit: int | None = None) -> list[Copy]:
    """The copies that fulfil a condition on instances and files, in order."""
    query = Instance.select(*COLUMNS).join(File).where(condition).order_by(*order)
    return [Copy(*row) for row in raw_rows(query.limit(limit) if limit is not None else query)]


def read(store: Store, copy: Copy) -> Reading:
    """Read one copy; nothing is written down. Raises StoreUnavailable."""
    return store.read(copy.name, copy.size, copy.checksum, FileKind(copy.kind))


class Watch:
    """What one run has read of one store, to see when too much of it turns bad."""

    def __init__(self, host: Host, row: StoreRow, *, believe: bool = False) -> None:
        self.host, self.row, self.believe = host, row, believe
        self.read = self.bad = 0
        self.suspect = ""  #: why the store is suspected; empty while it is not
        self.whole = False  #: whether all that was due was read

    def too_many(self, new: Sequence[tuple[Copy, Reading]]) -> bool:
        """Count these; whether the store is the suspect now. What was known to be bad is no news."""
        fresh = sum(copy.available and reading.good is False for copy, reading in new)
        self.read += len(new)
        self.bad += fresh
        if not fresh or self.believe:
            return False
        lately = self._lately() + fresh
        of_all = Instance.select(fn.COUNT(Instance.id)).where(Instance.store == self.row.id).scalar()
        if self.bad >= BAD_LEAST and self.bad * BAD_OF_READ > self.read:
            self.suspect = f"{self.bad} of {self.read} copies that were read are damaged or missing"
        elif lately >= BAD_LEAST and lately * BAD_OF_ALL > of_all:
            self.suspect = f"{lately} of its {of_all} copies turned out to be damaged or missing within a day"
        elif lately >= BAD_LEAST and lately * BAD_OF_READ > (well := self._well_lately()) + lately:
            self.suspect = f"within a day {lately} copies turned out to be damaged or missing, and {well} to be right"
        return bool(self.suspect)

    def hopeless(self, count: int) -> bool:
        """Whether so many copies that nothing can read make the store the suspect."""
        if count < BAD_LEAST:
            return bool(self.suspect)
        of_all = Instance.select(fn.COUNT(Instance.id)).where(Instance.store == self.row.id).scalar()
        if count * BAD_OF_ALL > of_all and not self.believe:
            self.suspect = f"{count} of its {of_all} copies could not be read for a day"
        return bool(self.suspect)

    def _lately(self) -> int:
        mine = (Instance.store == self.row.id) & (Instance.condition > SQL("0"))
        young = Instance.checked_time >= self.host.now() - BAD_WITHIN
        return int(Instance.select(fn.COUNT(Instance.id)).where(mine, young).scalar())

    def _well_lately(self) -> int:
        mine = (Instance.store == self.row.id) & Instance.available
        young = Instance.verified_time >= self.host.now() - BAD_WITHIN
        return int(Instance.select(fn.COUNT(Instance.id)).where(mine, young).scalar())


def record(
    watch: Watch, found: Sequence[tuple[Copy, Reading]], proof: Proof, tally: Tally | None = None
) -> list[tuple[Copy, Reading]]:
    """Write down what copies turned out to be; returns those of which that was withheld, since the store is suspected.

    ``tally`` gets a line for each that turned bad, and for what is well again.
    """
    now = watch.host.now()
    withheld = watch.too_many(found)
    sound = [copy for copy, reading in found if reading.good]
    others = [(copy, reading) for copy, reading in found if not reading.good]
    with writing("verified"):
        good = {"verified_time": now, "verified_how": proof, "condition": Condition.SOUND, "checked_time": None}
        good |= {"asked_time": None}
        ids = [copy.id for copy in sound if copy.available]
        Instance.update(**good).where(among(Instance.id, ids), Instance.available).execute()
        back = [copy for copy in sound if not copy.available]
        if back:  # what was bad and is well again: mended by hand, or a disk's bad moment
            mine = among(Instance.id, [copy.id for copy in back]) & (Instance.condition > SQL("0")) & ~_removed()
            Instance.update(**good, available=True).where(mine).execute()
        marked = [] if withheld else [(copy, reading) for copy, reading in others if _mark(copy, reading, now)]
        if withheld:  # these are read first, however lately they were found right, until it is known what they are
            again = [copy.id for copy, reading in others if copy.available and reading.good is False]
            mine = among(Instance.id, again) & Instance.available & Instance.asked_time.is_null()
            Instance.update(asked_time=now).where(mine).execute()
    if tally is not None:
        tally.failed += len(marked)
        tally.lines += [_line(watch.row, copy, reading) for copy, reading in marked]
        tally.details += [f"{subject(watch.row, copy)} is well again" for copy in sound if copy.condition]
    if not withheld:
        return []
    return [(copy, reading) for copy, reading in others if reading.condition is not Condition.UNREADABLE]


def _removed() -> Any:
    """The condition that a copy was let go and is set aside, or about to be."""
    mine = (Removal.file == Instance.file) & (Removal.store == Instance.store) & (Removal.cause == Cause.DELETED)
    return fn.EXISTS(Removal.select(SQL("1")).where(mine, unfinished()))


def _mark(copy: Copy, reading: Reading, now: object) -> bool:
    """Mark one copy as bad, unless it was replaced or removed meanwhile; whether that is news."""
    changes: dict[str, object] = {"condition": reading.condition, "asked_time": None}
    if reading.condition is not Condition.UNREADABLE:
        changes["available"] = False
    same = (Instance.id == copy.id) & (Instance.available == copy.available) & (Instance.condition == copy.condition)
    bad = (Condition.DAMAGED, Condition.MISSING)
    if copy.condition == reading.condition or (copy.condition in bad and reading.condition in bad):
        Instance.update(**changes).where(same).execute()
        return False
    return bool(Instance.update(**changes, checked_time=now).where(same).execute())


def _line(row: StoreRow, copy: Copy, reading: Reading) -> str:
    """What an operator is told once of a copy that turned bad."""
    if reading.condition is Condition.UNREADABLE:
        return f"{subject(row, copy)}: {reading.why}. Nothing is known about its bytes; it is tried again"
    what = f"{reading.condition.name.lower()}: {reading.why}"
    return f"{subject(row, copy)} is {what}. It is not counted any more; corruption-fixer gets it anew"


def subject(row: StoreRow, copy: Copy) -> str:
    """What notices call a copy."""
    return f"copy '{shown(copy.name)}' in {row.name}"


def suspected(row: StoreRow) -> datetime | None:
    """Since when a store has been the suspect; None when it is not."""
    fault = _suspicion(row)
    return None if fault is None else fault.first_time


def _suspicion(row: StoreRow) -> Fault | None:
    found: Fault | None = Fault.get_or_none(subject=f"store {row.name}", kind="suspect")
    return found


def _cleared(watch: Watch, fault: Fault) -> bool:
    """Whether nothing speaks against a suspected store any more: all that was found bad was read again, and is right or
    was marked, and it does not hold too much that nothing can read."""
    mine = (Instance.store == watch.row.id) & Instance.available
    if Instance.select().where(mine, Instance.asked_time <= fault.last_time).exists():
        return False
    if watch.believe:
        return watch.whole
    long = mine & (Instance.condition == Condition.UNREADABLE)
    long &= Instance.checked_time < watch.host.now() - UNREADABLE_FOR
    return watch.read > watch.bad and not watch.hopeless(Instance.select().where(long).count())


def unavailable(host: Host, row: StoreRow, tally: Tally, trouble: StoreUnavailable) -> None:
    """A store cannot be used now: that is told when it lasts, and at once to who asks."""
    tally.postponed += 1
    told = len(tally.lines)
    notices.trouble(host, tally, f"store {row.name}", "unavailable", trouble.text)
    if len(tally.lines) == told:
        tally.details.append(f"store {row.name}: {trouble.text}")


def settle(host: Host, watch: Watch, tally: Tally) -> None:
    """After a run: tell whether the store is suspected, and how many of its copies wait to be mended."""
    where = f"store {watch.row.name}"
    if watch.suspect:
        tally.person = True
        text = f"{watch.suspect}: the disk is the suspect and not the files, so none of them was marked. Look at the disk; "
        text += f"if the files really are bad, run 'libtool check-integrity --store {watch.row.name} --believe'"
        notices.trouble(host, tally, where, "suspect", text, at_once=True)
    elif (fault := _suspicion(watch.row)) is not None:
        if _cleared(watch, fault):
            notices.over(host, tally, where, "suspect")
            fault = None
        elif watch.believe:
            text = "not all that is due was read, so the trouble stands; the same command goes on where this one ended"
            tally.lines.append(f"{where}: {text}")
        if fault is not None:  # it stands, although nothing new was met: else it would be over when it is old
            notices.trouble(host, tally, where, "suspect", fault.text, at_once=True)
    unsound = Instance.select(Instance.condition, fn.COUNT(Instance.id)).where(
        Instance.store == watch.row.id, Instance.condition > SQL("0")
    )
    counts: dict[Condition, int] = {
        Condition(kind): int(count) for kind, count in raw_rows(unsound.group_by(Instance.condition))
    }
    if counts:
        many = ", ".join(f"{count} {kind.name.lower()}" for kind, count in sorted(counts.items()))
        mine = (Instance.store == watch.row.id) & (Instance.condition > SQL("0"))
        some = ", ".join(f"'{shown(copy.name)}'" for copy in copies(mine, limit=3))
        text = (
            f"copies in it are not what they should be: {many}, such as {some}. corruption-fixer gets them anew where "
        )
        text += "it can"
        notices.trouble(host, tally, where, "bad", text)
    else:
        notices.over(host, tally, where, "bad")
