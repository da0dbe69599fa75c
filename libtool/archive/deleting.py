"""``rolling-deletion``: let copies go that are old enough and of which enough others are proved.

Every copy is decided on by itself, from what was found out in this run. What could not be found out keeps it. Its bytes
are set aside; ``purging`` removes them for good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import NamedTuple

from peewee import SQL, Expression, fn

from libtool.archive import notices, proving, purging, removing, verifying
from libtool.archive.deciding import Decision, Own, Terms, decide
from libtool.archive.evidence import Evidence, ripe, words
from libtool.archive.hands import Budget, Host, Tally, portions
from libtool.archive.removing import SLACK, Order, Warrant
from libtool.archive.verifying import COLUMNS, Copy, Watch
from libtool.errors import LockTaken, StoreUnavailable
from libtool.models.base import raw_rows
from libtool.models.tables import File, Instance, Librarian, RemoteInstance
from libtool.models.tables import Store as StoreRow
from libtool.names import shown
from libtool.states import Condition, DeletionPolicy, Proof
from libtool.stores.base import Reading, Store
from libtool.units import from_microseconds

#: Copies that are decided on together.
PORTION = 200


@dataclass
class Wish:
    """The options of ``rolling-deletion``."""

    age: timedelta  #: only copies that came in longer ago
    copies: int = 3  #: other copies that must be proved
    max_age: float = 0.0  #: seconds since those were read; 0: they are read now
    forget: bool = False  #: remove the rows, too
    keep: timedelta = timedelta(days=7)  #: how long what was let go can be brought back
    start: float | None = None  #: only when less than this share of the file system is free
    stop: float | None = None  #: and only until this share will be
    most_files: int = 100_000
    most_bytes: int | None = None


class Candidate(NamedTuple):
    """A copy that may be old enough, and how it is looked after."""

    copy: Copy
    policy: int
    created: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.copy.size


@dataclass
class _Left:
    """How much may still go in this run."""

    files: int
    most: float  #: bytes that must not be exceeded
    wanted: float = float("inf")  #: bytes after which enough has gone

    @property
    def any(self) -> bool:
        """Whether anything may still go."""
        return self.files > 0 and self.wanted > 0 and self.most > 0

    def take(self, copy: Copy) -> bool:
        """Count one more; False when that is too much."""
        if not self.any or copy.size > self.most:
            return False
        self.files -= 1
        self.most -= copy.size
        self.wanted -= copy.size
        return True


def delete(
    host: Host,
    row: StoreRow,
    wish: Wish,
    warrant: Warrant,
    budget: Budget,
    tally: Tally,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Let go what may go in one store. First what a former run decided is carried out, and what is due is purged."""
    try:
        store = host.store(row)
        store.check()
        removing.carry_out(host, row, store, tally)
        purging.purge_due(host, row, store, wish.copies, wish.max_age, budget.share(2), tally)
        left = _allowance(row, store, wish)
        after = (0, 0)
        watch = Watch(host, row)
        while budget.left and left.any and not watch.suspect:
            portion = _candidates(host, row, wish, after, min(PORTION, left.files))
            if not portion:
                break
            after = (portion[-1].created, portion[-1].copy.id)
            _portion(host, row, store, portion, wish, warrant, left, watch, budget, tally)
            if progress is not None:
                progress(len(portion))
        verifying.settle(host, watch, tally)
        notices.over(host, tally, f"store {row.name}", "unavailable")
    except LockTaken:
        tally.wait(f"store {row.name}: somebody else sets aside or brings back copies just now")
    except StoreUnavailable as trouble:
        tally.postponed += 1
        notices.trouble(host, tally, f"store {row.name}", "unavailable", trouble.text)


def _allowance(row: StoreRow, store: Store, wish: Wish) -> _Left:
    """What may go at all in this run: everything, or what the watermarks ask for."""
    left = _Left(wish.most_files, float("inf") if wish.most_bytes is None else float(wish.most_bytes))
    if wish.start is not None:
        total, free = store.space()
        free += removing.bytes_aside(row)  # what is set aside will be free without anything more
        low, high = wish.start * total, (wish.start if wish.stop is None else wish.stop) * total
        left.wanted = 0.0 if free >= low else high - free
    return left


def eligible(host: Host, row: StoreRow, wish: Wish) -> Expression:
    """The condition for copies that are worth asking about: as far as is known, there are enough others."""
    old = Instance.create_time <= host.now() - wish.age
    mine = (Instance.store == row.id) & Instance.available & (Instance.deletion_policy == SQL("1")) & old
    others = RemoteInstance.select(fn.COUNT(RemoteInstance.id)).join(Librarian)
    enough = others.where(RemoteInstance.file == Instance.file, ~Librarian.removed) >= wish.copies
    return mine & (Instance.condition == SQL("0")) & enough


def _candidates(host: Host, row: StoreRow, wish: Wish, after: tuple[int, int], limit: int = PORTION) -> list[Candidate]:
    """The next copies, the oldest first."""
    created, id = after
    later = (Instance.create_time > from_microseconds(created)) | (
        (Instance.create_time == from_microseconds(created)) & (Instance.id > id)
    )
    query = Instance.select(*COLUMNS, Instance.deletion_policy, Instance.create_time).join(File)
    query = query.where(eligible(host, row, wish), later).order_by(Instance.create_time, Instance.id).limit(limit)
    return [Candidate(Copy(*found[:-2]), found[-2], found[-1]) for found in raw_rows(query)]


def _portion(
    host: Host,
    row: StoreRow,
    store: Store,
    portion: Sequence[Candidate],
    wish: Wish,
    warrant: Warrant,
    left: _Left,
    watch: Watch,
    budget: Budget,
    tally: Tally,
) -> None:
    """Ask about some copies, read those that may go, and let them go."""
    needed = removing.needed(host, [each.copy.id for each in portion])
    evidence = Evidence(host, wish.max_age, budget, tally)
    terms = Terms(wish.copies, wish.max_age + SLACK, wish.age.total_seconds())
    orders: list[Order] = []
    read: list[tuple[Copy, Reading]] = []

    def more() -> bool:
        return left.any and budget.left

    def settle() -> bool:
        """Let those go that may; False when the store is suspected: then nothing in it is let go."""
        if not (withheld := verifying.record(watch, read, Proof.DELETION, tally)):
            let_go(host, row, store, orders, warrant, tally)
        orders.clear()
        read.clear()
        return not withheld

    for part in proving.parts(portion):
        if not more():
            break
        evidence.ask([each.copy for each in part if each.copy.id not in needed])
        for each in part:
            copy = each.copy
            if not more():
                break
            if ripe(host, [order.asked for order in orders], copy.size) and not settle():
                return
            own = _own(host, each, needed.get(copy.id, ""))
            decision = decide(own, evidence.of(copy), terms)
            if decision.may_go:  # worth reading it ourselves
                reading = verifying.read(store, copy)
                read.append((copy, reading))
                own = replace(own, condition=reading.condition)
                decision = decide(own, evidence.fresh(copy), terms)
            if not decision.may_go:
                _tell(row, copy, decision, tally)
            elif left.take(copy):
                orders.append(Order(copy, words(decision), reading.identity, evidence.asked(copy)))
    settle()


def _own(host: Host, each: Candidate, needed: str) -> Own:
    """A copy as it was when it was last looked at."""
    copy = each.copy
    age = (host.now() - from_microseconds(each.created)).total_seconds()
    policy, condition = DeletionPolicy(each.policy), Condition(copy.condition)
    return Own(host.settings.name, copy.size, copy.checksum, policy, age, condition, needed)


def let_go(
    host: Host, row: StoreRow, store: Store, orders: Sequence[Order], warrant: Warrant, tally: Tally
) -> dict[int, str]:
    """Decide on and set aside copies that were read and may go; returns which of them stay after all, and why."""
    if not orders:
        return {}
    stays = removing.decide(host, row, orders, warrant)
    going = [order for order in orders if order.copy.id not in stays]
    aside = removing.carry_out(host, row, store, tally, going, files=[order.copy.file for order in going])
    for order in going:
        if order.copy.file in aside:
            tally.done += 1
            tally.details.append(f"'{shown(order.copy.name)}' was let go from {row.name}: {order.reason}")
        else:
            stays[order.copy.id] = "its bytes were not set aside"
    for order in orders:
        if order.copy.id in stays:
            tally.details.append(f"'{shown(order.copy.name)}' stays in {row.name}: {stays[order.copy.id]}")
    return stays


def _tell(row: StoreRow, copy: Copy, decision: Decision, tally: Tally) -> None:
    tally.details.append(f"'{shown(copy.name)}' stays in {row.name}: {'; '.join(decision.reasons)}")


def plan(host: Host, row: StoreRow, wish: Wish) -> Iterator[str]:
    """What a run would ask about, a line each: nobody is asked and nothing is read."""
    left = _allowance(row, host.store(row), wish)
    after = (0, 0)
    while portion := _candidates(host, row, wish, after):
        after = (portion[-1].created, portion[-1].copy.id)
        needed = removing.needed(host, [each.copy.id for each in portion])
        for each in portion:
            if each.copy.id in needed:
                yield f"{shown(each.copy.name)} in {row.name} stays: {needed[each.copy.id]}"
            elif left.take(each.copy):
                yield f"{shown(each.copy.name)} in {row.name} may go, if its other copies are proved"
            else:
                return
    for piece in portions(removing.due(host, row, 0, 100_000), 1000):
        for removal in piece:
            yield f"{shown(removal.file.name)}: what is set aside may be purged, if its other copies are proved"


def staying(host: Host, row: StoreRow, wish: Wish) -> Iterator[str]:
    """Why copies that are old enough are not even asked about, a line for each reason. That looks at every copy."""
    if not _allowance(row, host.store(row), wish).any:
        yield f"nothing has to go from {row.name}: enough is free"
    old = Instance.create_time <= host.now() - wish.age
    mine = (Instance.store == row.id) & Instance.available & old
    free = mine & (Instance.deletion_policy == SQL("1"))
    sound = free & (Instance.condition == SQL("0"))
    others = RemoteInstance.select(fn.COUNT(RemoteInstance.id)).join(Librarian)
    known = others.where(RemoteInstance.file == Instance.file, ~Librarian.removed)
    few = Instance.select(known.alias("known"), fn.COUNT(Instance.id)).where(sound, known < wish.copies)
    held = Instance.select().where(mine, Instance.deletion_policy == SQL("0"))
    unread = Instance.select().where(free, Instance.condition > SQL("0"))
    found = [
        (held.count(), "their deletion policy is DISALLOWED"),
        (unread.count(), "they could not be read when that was last tried"),
    ]
    for number, count in raw_rows(few.group_by(SQL("known")).order_by(SQL("known"))):
        found.append((count, f"{number} of the {wish.copies} other copies that must be proved are known"))
    yield from (f"{count} copies in {row.name} stay: {why}" for count, why in found if count)
