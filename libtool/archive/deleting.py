"""``rolling-deletion``: let copies go that are old enough and of which enough others are proved; and purge what was let go.

Every copy is decided on by itself, from what was found out in this run. What could not be found out keeps it. Its bytes
are set aside first; before they are purged, the other copies are proved once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from peewee import SQL, Expression, fn

from libtool.archive import notices, places, proving, removing, verifying
from libtool.archive.deciding import Decision, Own, Report, Terms, decide
from libtool.archive.hands import Budget, Host, Tally, portions
from libtool.archive.removing import SLACK, Order, Warrant
from libtool.archive.verifying import COLUMNS, Copy, Watch
from libtool.errors import InstanceKept, LockTaken, StoreUnavailable
from libtool.models.base import raw_rows, writing
from libtool.models.tables import File, Instance, Librarian, RemoteInstance, Removal, unfinished
from libtool.models.tables import Store as StoreRow
from libtool.names import shown
from libtool.states import Cause, Condition, DeletionPolicy, Proof
from libtool.stores.base import Reading, Store
from libtool.units import from_microseconds

#: Copies that are decided on together.
PORTION = 200
#: How long holders are asked to keep what we count on: until our copy is set aside, and somewhat longer.
HOLD = timedelta(hours=1)


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
        _purge(host, row, store, wish, budget.share(2), tally)
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
                orders.append(Order(copy, _words(decision), reading.identity, evidence.asked(copy)))
    settle()


def ripe(host: Host, asked: Iterable[datetime | None], size: int = 0) -> bool:
    """Whether what may go must go now, before something of this size is read and what the holders said is too old."""
    return any(since and _seconds(host, since) + size / proving.RATE > SLACK / 2 for since in asked)


class Evidence:
    """What the holders of some files say, each report as old as it has become since."""

    def __init__(self, host: Host, max_age: float, budget: Budget, tally: Tally) -> None:
        self._host, self._max_age, self._budget, self._tally = host, max_age, budget, tally
        self._reports: dict[int, list[Report]] = {}

    def ask(self, copies: Sequence[Copy]) -> None:
        """Ask about these files; the holders are asked to keep what we may count on."""
        wanted = [proving.Wanted(copy.file, copy.name, copy.size, copy.checksum) for copy in copies]
        ask = proving.young(self._max_age, HOLD.total_seconds())
        where = proving.holders([copy.file for copy in copies])
        self._reports |= proving.gather(self._host, wanted, where, ask, self._budget, self._tally)

    def asked(self, copy: Copy) -> datetime:
        """When the first of the holders of a file was asked that said anything."""
        return min((each.asked for each in self._reports.get(copy.file, []) if each.asked), default=self._host.now())

    def of(self, copy: Copy) -> list[Report]:
        """What they say of one file."""
        return [self._today(report) for report in self._reports.get(copy.file, [])]

    def _today(self, report: Report) -> Report:
        if report.age is None or report.asked is None:
            return report
        return replace(report, age=report.age + _seconds(self._host, report.asked))

    def fresh(self, copy: Copy) -> list[Report]:
        """The same, after something that may have taken long: then they are asked about this file once more."""
        if _seconds(self._host, self.asked(copy)) > SLACK / 2:
            self.ask([copy])
        return self.of(copy)


def _seconds(host: Host, since: datetime) -> float:
    return (host.now() - since).total_seconds()


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


def _words(decision: Decision) -> str:
    """On the strength of what a copy goes."""
    return "proved at " + ", ".join(f"{librarian} (store {store})" for librarian, store in decision.counted)


def _tell(row: StoreRow, copy: Copy, decision: Decision, tally: Tally) -> None:
    tally.details.append(f"'{shown(copy.name)}' stays in {row.name}: {'; '.join(decision.reasons)}")


def delete_one(
    host: Host,
    name: str,
    store_name: str,
    warrant: Warrant,
    max_age: float,
    reason: str,
    budget: Budget,
    tally: Tally,
    *,
    really: bool = True,
) -> tuple[str, ...]:
    """Let one copy go, on a person's word; returns why it stays, which is nothing when it went (or may go).

    A warrant for which no other copies need be proved lets it go all the same, unless somebody just needs it.
    """
    row = places.get(store_name)
    if not row.enabled:
        raise StoreUnavailable(store=row.name, why="it is disabled")
    store = host.store(row)
    store.check()
    file = File.get_or_none(File.name == name)
    mine = (Instance.file == file) & (Instance.store == row.id) & Instance.available
    copies = verifying.copies(mine) if file is not None else []
    if not copies:
        return _gone(host, row, store, file, tally, really)
    (copy,) = copies
    instance = Instance.get_by_id(copy.id)
    age = (host.now() - instance.create_time).total_seconds()
    needed = removing.needed(host, [copy.id]).get(copy.id, "")
    condition = Condition(copy.condition)
    own = Own(host.settings.name, copy.size, copy.checksum, instance.deletion_policy, age, condition, needed)
    if not really:
        return _foreseen(own, warrant, len(proving.holders([copy.file])))
    if warrant.forced:
        reading = verifying.read(store, copy)
        if needed:
            return (needed,)
        order = Order(copy, reason or "forced", reading.identity)
        return tuple(let_go(host, row, store, [order], warrant, tally).values())
    evidence = Evidence(host, max_age, budget, tally)
    evidence.ask([copy])
    reading = verifying.read(store, copy)
    verifying.record(Watch(host, row), [(copy, reading)], Proof.DELETION, tally)
    own = replace(own, condition=reading.condition)
    decision = decide(own, evidence.fresh(copy), Terms(warrant.copies, max_age + SLACK))
    if not decision.may_go:
        return decision.reasons
    words = f"{_words(decision)}: {reason}" if reason else _words(decision)
    order = Order(copy, words, reading.identity, evidence.asked(copy))
    return tuple(let_go(host, row, store, [order], warrant, tally).values())


def _gone(host: Host, row: StoreRow, store: Store, file: File | None, tally: Tally, really: bool) -> tuple[str, ...]:
    """What there is to say of a copy that is not there: nothing when it was let go already."""
    aside = (Removal.file == file) & (Removal.store == row.id) & (Removal.cause == Cause.DELETED) & unfinished()
    if file is None or not Removal.select().where(aside).exists():
        return ("no available copy of it is there",)
    if really:
        removing.carry_out(host, row, store, tally, files=[file.id])
    return ()


def _foreseen(own: Own, warrant: Warrant, holders: int) -> tuple[str, ...]:
    """Why a copy would stay, as far as that is known without asking anybody or reading anything."""
    if warrant.forced:
        return (own.needed,) if own.needed else ()
    reasons = [own.needed] if own.needed else []
    if own.policy is not DeletionPolicy.ALLOWED:
        reasons.append("its deletion policy is DISALLOWED")
    if holders < warrant.copies:
        reasons.append(f"{holders} librarians are known to have it, and {warrant.copies} copies must be proved")
    return tuple(reasons)


def restore(host: Host, name: str, tally: Tally, *, really: bool) -> tuple[str, bool]:
    """Bring a copy back that was let go; what there is to say, and whether a copy is here (or could be)."""
    file = File.get_or_none(File.name == name)
    stores = removing.homes(file) if file is not None else []
    if stores and not really:
        return f"'{shown(name)}' can be brought back to {stores[0].name}", True
    waits = len(tally.details)
    store = removing.recover(host, file, tally) if stores and file is not None else None
    if store is not None:
        return f"'{shown(name)}' was brought back to {store}", True
    if file is not None and Instance.select().where(Instance.file == file, Instance.available).exists():
        return f"a copy of '{shown(name)}' is in its place", True
    if len(tally.details) > waits:
        return tally.details.pop(), False  # why not, which who asks for it must know
    return f"no copy of '{shown(name)}' is set aside here", False


def cautions(host: Host, name: str, store: str, keep: timedelta) -> list[str]:
    """What a person should know before a copy is let go by force; nobody is asked."""
    mine = (File.name == name) & Instance.available & (StoreRow.name == store)
    found = Instance.select(Instance, File).join(File).switch(Instance).join(StoreRow).where(mine).first()
    if found is None:
        return []
    sibling = (Instance.file == found.file) & Instance.available & (Instance.id != found.id)
    others = [f"{each.name} here" for each in StoreRow.select(StoreRow.name).join(Instance).where(sibling)]
    others += [each.name for each in Librarian.select().where(Librarian.id << list(proving.holders([found.file_id])))]
    lines = [
        f"other copies are said to be at: {', '.join(sorted(others))}; nobody is asked whether they are"
        if others
        else "no other copy of it is known: this is the last one"
    ]
    if found.deletion_policy is not DeletionPolicy.ALLOWED:
        lines.append("its deletion policy is DISALLOWED: it was to be kept")
    days = keep / timedelta(days=1)
    lines.append(f"for {days:g} days it can be brought back; then it is purged, and nobody is asked")
    return lines


def forget_local(host: Host, instance: int, *, bytes_too: bool) -> None:
    """Forget one of our copies and leave its bytes; InstanceKept when there is none, somebody needs it, or its bytes shall
    go, too."""
    found = Instance.select(Instance, File, StoreRow).join(File).switch(Instance).join(StoreRow)
    row = found.where(Instance.id == instance).first()
    if row is None:
        raise InstanceKept(instance_id=instance, why="Instance does not exist.", how="Search for it first.")
    if bytes_too:
        how = f"At this librarian run 'libtool delete-instance {shown(row.file.name)} --store {row.store.name}'."
        raise InstanceKept(instance_id=instance, why="A copy is only deleted when others are proved.", how=how)
    with writing("instance forgotten"):
        needed = removing.needed(host, [instance])
        going = (Removal.file == row.file_id) & (Removal.store == row.store_id) & unfinished()
        if Removal.select().where(going).exists():
            needed[instance] = "its bytes are set aside"
        gone = 0 if needed else Instance.delete().where(Instance.id == instance).execute()
    if not gone:
        why = needed.get(instance, "Instance does not exist")
        raise InstanceKept(instance_id=instance, why=f"The copy stays: {why}.", how="Ask again later.")


def forget_remote(instance: int) -> None:
    """Forget a copy at a neighbour; InstanceKept when none is known under this number."""
    with writing("remote instance forgotten"):
        if not RemoteInstance.delete().where(RemoteInstance.id == instance).execute():
            raise InstanceKept(instance_id=instance, why="Instance does not exist.", how="Search for it first.")


# -- purging ------------------------------------------------------------------------------------------------------


def _purge(host: Host, row: StoreRow, store: Store, wish: Wish, budget: Budget, tally: Tally) -> None:
    """Remove for good what has been kept long enough, if the other copies still are proved; the rest stays aside."""
    after = 0
    while budget.left:
        found = removing.due(host, row, after, PORTION)
        if not found:
            return
        after = found[-1].id
        purge(host, row, store, found, wish.copies, wish.max_age, budget, tally)


def purge(
    host: Host,
    row: StoreRow,
    store: Store,
    found: Sequence[Removal],
    copies: int,
    max_age: float,
    budget: Budget,
    tally: Tally,
) -> None:
    """Purge those of these removals for which enough other copies are proved once more."""
    # The others must have been read since ours was set aside, however old a reading may be that lets a copy go.
    max_age = max(0.0, min([max_age, *((host.now() - each.create_time).total_seconds() for each in found)]))
    evidence = Evidence(host, max_age, budget, tally)
    going: dict[int, tuple[Removal, datetime | None, str]] = {}

    def settle() -> None:
        asked = {id: since for id, (_, since, _) in going.items() if since is not None}
        purged = removing.purge(host, row, store, [each for each, _, _ in going.values()], tally, asked)
        tally.done += len(purged)
        for each, _, why in (going[id] for id in sorted(purged)):
            tally.details.append(f"what was set aside of '{shown(each.file.name)}' in {row.name} was purged: {why}")
        going.clear()

    whole = _unchanged(host, row, store, found, tally)
    going |= {each.id: (each, None, f"forced, {each.reason}") for each in whole if not each.copies}
    by_id = {each.id: each for each in whole if each.copies}
    for part in proving.parts([_copy(each) for each in by_id.values()]):
        if not budget.left:
            break
        evidence.ask(part)
        for copy in part:
            if ripe(host, (since for _, since, _ in going.values())):
                settle()
            own = Own(host.settings.name, copy.size, copy.checksum, DeletionPolicy.ALLOWED, 0.0, Condition.SOUND)
            terms = Terms(max(copies, by_id[copy.id].copies), max_age + SLACK)
            decision = decide(own, evidence.of(copy), terms)
            if decision.may_go:
                going[copy.id] = by_id[copy.id], evidence.asked(copy), _words(decision)
            else:
                why = "; ".join(decision.reasons)
                tally.details.append(f"what is set aside of '{shown(copy.name)}' in {row.name} is kept: {why}")
    settle()


def _unchanged(host: Host, row: StoreRow, store: Store, found: Sequence[Removal], tally: Tally) -> list[Removal]:
    """Those of which the bytes are what was set aside; the others are kept and told."""
    troubled = {fault.subject for fault in notices.standing() if fault.kind == removing.CHANGED}
    whole = []
    for each in found:
        subject = removing.subject(row, each)
        try:
            why = removing.changed(store, each)
        except OSError as trouble:
            tally.wait(f"{subject} cannot be looked at where it is set aside: {trouble.strerror}")
            continue
        if why:
            place = store.aside_path(each.aside_id, each.file.name)
            text = f"it was let go, and what lies set aside has changed there since: {why}. It is kept; look at "
            text += f"{place}, which restore-instance brings back"
            tally.postponed += 1
            notices.trouble(host, tally, subject, removing.CHANGED, text, at_once=True)
            continue
        if subject in troubled:
            notices.over(host, tally, subject, removing.CHANGED)
        whole.append(each)
    return whole


def _copy(removal: Removal) -> Copy:
    file = removal.file
    return Copy(removal.id, file.id, file.name, file.size, file.checksum, int(file.kind), False, 0)


# -- looking ------------------------------------------------------------------------------------------------------


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
