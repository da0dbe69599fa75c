"""``check-integrity``: re-reading copies on a budget, the riskiest first, and seeing what lies in a store unrecorded.

A copy of which no other is known comes before those with others, what was read longest ago before what was read lately,
what a neighbour waits for before all, and a store in which copies turned bad before its fellows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from peewee import SQL, Expression, fn

from libtool.archive import notices, places, verifying
from libtool.archive.hands import Budget, Host, Tally, portions
from libtool.archive.verifying import Copy, Watch
from libtool.errors import FileUnreadable, StoreUnavailable
from libtool.models.base import among, raw_rows
from libtool.models.tables import File, IncomingTransfer, Instance, RemoteInstance, Removal, live
from libtool.models.tables import Store as StoreRow
from libtool.names import shown
from libtool.states import Proof, RemovalStatus
from libtool.stores.base import Reading

#: Copies that are read before what they are is written down together, and how many bytes of them at most.
PORTION, PORTION_BYTES = 100, 10**10
#: Copies whose order is worked out at once.
WINDOW = 20_000


@dataclass
class Wish:
    """The options of ``check-integrity``."""

    age: timedelta  #: what was read no longer ago is not read again
    most: int | None = None  #: bytes that a run may read
    believe: bool = False  #: record what is found even when too much turns bad at once


def check(
    host: Host,
    chosen: tuple[str, ...],
    wish: Wish,
    budget: Budget,
    tally: Tally,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Read what is due in the ``chosen`` stores, or in all; one that cannot be read holds up no other."""
    left, begun = wish.most, False
    rows = _riskiest([places.get(name) for name in chosen] or places.in_order(host))
    for n, row in enumerate(rows):
        if not row.enabled:
            continue
        watch = Watch(host, row, believe=wish.believe)
        try:
            store = host.store(row)
            share = budget.share(len(rows) - n)
            for portion in _portions(row, _before(host, row, wish), host.now(), share):
                found: list[tuple[Copy, Reading]] = []
                for copy in portion:
                    if left is not None and left < copy.size and begun:
                        break
                    begun = True
                    found.append((copy, verifying.read(store, copy)))
                    left = left - copy.size if left is not None else None
                withheld = verifying.record(watch, found, Proof.CHECK, tally)
                tally.done += sum(reading.good is True for _, reading in found)
                if progress is not None:
                    progress(len(found))
                if withheld or len(found) < len(portion) or not share.left:
                    break
            else:
                watch.whole = share.left
            notices.over(host, tally, f"store {row.name}", "unavailable")
        except StoreUnavailable as trouble:
            verifying.unavailable(host, row, tally, trouble)
        verifying.settle(host, watch, tally)


def _before(host: Host, row: StoreRow, wish: Wish) -> datetime:
    """What was read later than this is not read again. Who believes what made a store the suspect gets all of it read
    that was not read since: what the run that found it left out, too."""
    since = verifying.suspected(row) if wish.believe else None
    old = host.now() - wish.age
    return old if since is None else max(old, since)


def _riskiest(rows: list[StoreRow]) -> list[StoreRow]:
    """Stores with bad copies first."""
    bad = Instance.select(Instance.store, fn.COUNT(Instance.id)).where(Instance.condition > SQL("0"))
    counts = dict(raw_rows(bad.group_by(Instance.store)))
    return sorted(rows, key=lambda row: -counts.get(row.id, 0))


def _portions(row: StoreRow, before: datetime, now: datetime, budget: Budget) -> Iterator[list[Copy]]:
    """What is due in a store, in the order of its risk, as long as there is time."""
    seen: set[int] = set()
    while budget.left:
        ids = [id for id in _due(row, before, now) if id not in seen]
        if not ids:
            return
        seen.update(ids)
        for piece in portions(ids, PORTION):
            by_id = {copy.id: copy for copy in verifying.copies(among(Instance.id, piece))}
            portion: list[Copy] = []
            size = 0
            for copy in (by_id[id] for id in piece if id in by_id):
                if portion and size + copy.size > PORTION_BYTES:
                    yield portion
                    portion, size = [], 0
                portion.append(copy)
                size += copy.size
            if portion:
                yield portion


def _due(row: StoreRow, before: datetime, now: datetime) -> list[int]:
    """The copies to read next: what neighbours wait for, then by how few others there are, then by when they were read."""
    asked = (Instance.store == row.id) & Instance.asked_time.is_null(False) & Instance.available
    ids = [id for (id,) in raw_rows(Instance.select(Instance.id).where(asked).order_by(Instance.id).limit(WINDOW))]
    # A clock that was ahead says nothing about when a copy was read.
    ahead = Instance.verified_time > now
    old = Instance.verified_time.is_null() | (Instance.verified_time <= before) | ahead
    due = (Instance.store == row.id) & Instance.available & old & Instance.asked_time.is_null()
    order = (Instance.condition, _others(), Instance.verified_time, Instance.id)  # what cannot be read comes last
    query = Instance.select(Instance.id).where(due).order_by(*order)
    return ids + [id for (id,) in raw_rows(query.limit(WINDOW))]


def _others() -> Expression:
    """How many other copies of the file are known of."""
    sibling = Instance.alias()
    here = sibling.select(fn.COUNT(sibling.id)).where(sibling.file == Instance.file, sibling.available)
    there = RemoteInstance.select(fn.COUNT(RemoteInstance.id)).where(RemoteInstance.file == Instance.file)
    both: Expression = fn.COALESCE(here, 0) + fn.COALESCE(there, 0)
    return both


def plan(host: Host, chosen: tuple[str, ...], wish: Wish) -> Iterator[str]:
    """What a run would read, a line each; nothing is read."""
    for row in _riskiest([places.get(name) for name in chosen] or places.in_order(host)):
        if row.enabled:
            for piece in portions(_due(row, _before(host, row, wish), host.now()), 1000):
                by_id = {copy.id: copy for copy in verifying.copies(among(Instance.id, piece))}
                for copy in (by_id[id] for id in piece if id in by_id):
                    yield f"{shown(copy.name)} ({copy.size} bytes) in {row.name}"


# -- what is not in the catalogue ---------------------------------------------------------------------------------


def unrecorded(host: Host, chosen: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """What lies in the stores and belongs to no file of the catalogue; nothing is changed.

    What came in while the disk was looked at is no stranger: the catalogue is asked after the disk.
    """
    for row in [places.get(name) for name in chosen] or places.in_order(host):
        if not row.enabled:
            continue
        try:
            store = host.store(row)
            store.check_readable()
        except StoreUnavailable as trouble:
            yield {"store": row.name, "name": "", "why": trouble.reason}
            continue
        todo = [""]
        while todo:
            directory = todo.pop()
            try:
                there = list(store.entries(directory))
            except FileUnreadable as trouble:
                yield {"store": row.name, "name": directory, "why": trouble.reason}
                continue
            for piece in portions(there, 2000):
                known = _known(row, [name for name, _ in piece])
                for name, below in piece:
                    if known.get(name):
                        continue
                    if below and name not in known:
                        todo.append(name)
                    else:
                        why = "its copy here counts as removed" if name in known else "no such file is in the catalogue"
                        yield {"store": row.name, "name": name, "why": why}


def _known(row: StoreRow, names: list[str]) -> dict[str, bool]:
    """Which of these are files of the catalogue, and whether a copy of them belongs here."""
    belongs = Instance.available | (Instance.condition > SQL("0"))
    copy = Instance.select(SQL("1")).where(Instance.file == File.id, Instance.store == row.id, belongs)
    going = Removal.select(SQL("1")).where(
        Removal.file == File.id, Removal.store == row.id, Removal.status == RemovalStatus.DECIDED
    )
    asked = [name for name in names if _is_utf8(name)]  # a catalogue has no others
    rows = raw_rows(File.select(File.name, fn.EXISTS(copy), fn.EXISTS(going)).where(among(File.name, asked)))
    found = {name: bool(here or decided) for name, here, decided in rows}
    coming = among(IncomingTransfer.name, asked) & (IncomingTransfer.store == row.id) & live(IncomingTransfer)
    return found | {name: True for (name,) in raw_rows(IncomingTransfer.select(IncomingTransfer.name).where(coming))}


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
