"""What was let go is removed for good: after the time that it was to be kept, if enough other copies are proved once more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from libtool.archive import notices, proving, removing
from libtool.archive.deciding import Own, Terms, decide
from libtool.archive.evidence import Evidence, ripe, words
from libtool.archive.hands import Budget, Host, Tally
from libtool.archive.removing import SLACK
from libtool.archive.verifying import Copy
from libtool.models.tables import Removal
from libtool.models.tables import Store as StoreRow
from libtool.names import shown
from libtool.states import Condition, DeletionPolicy
from libtool.stores.base import Store

#: What was let go that is decided on together.
PORTION = 200


def purge_due(
    host: Host, row: StoreRow, store: Store, copies: int, max_age: float, budget: Budget, tally: Tally
) -> None:
    """Remove for good what has been kept long enough, if the other copies still are proved; the rest stays aside."""
    after = 0
    while budget.left:
        found = removing.due(host, row, after, PORTION)
        if not found:
            return
        after = found[-1].id
        purge(host, row, store, found, copies, max_age, budget, tally)


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
                going[copy.id] = by_id[copy.id], evidence.asked(copy), words(decision)
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
