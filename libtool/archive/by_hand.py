"""What a person does with one copy: let it go or bring it back, and forget a row of which nothing is true any more."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from libtool.archive import deleting, places, proving, removing, verifying
from libtool.archive.deciding import Own, Terms, decide
from libtool.archive.evidence import Evidence, words
from libtool.archive.hands import Budget, Host, Tally
from libtool.archive.removing import SLACK, Order, Warrant
from libtool.archive.verifying import Watch
from libtool.errors import InstanceKept, StoreUnavailable
from libtool.models.base import writing
from libtool.models.tables import File, Instance, Librarian, RemoteInstance, Removal, unfinished
from libtool.models.tables import Store as StoreRow
from libtool.names import shown
from libtool.states import Cause, Condition, DeletionPolicy, Proof
from libtool.stores.base import Store


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
        return tuple(deleting.let_go(host, row, store, [order], warrant, tally).values())
    evidence = Evidence(host, max_age, budget, tally)
    evidence.ask([copy])
    reading = verifying.read(store, copy)
    verifying.record(Watch(host, row), [(copy, reading)], Proof.DELETION, tally)
    own = replace(own, condition=reading.condition)
    decision = decide(own, evidence.fresh(copy), Terms(warrant.copies, max_age + SLACK))
    if not decision.may_go:
        return decision.reasons
    why = f"{words(decision)}: {reason}" if reason else words(decision)
    order = Order(copy, why, reading.identity, evidence.asked(copy))
    return tuple(deleting.let_go(host, row, store, [order], warrant, tally).values())


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
