"""Taking in what is staged: verify by reading, store, record, tell the source, tidy up.

Four steps, each committed before the next, each found again from the rows after a crash: STAGED rows are judged; final
rows that owe a report are reported; final rows that still name a staging place have it removed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

import peewee
from peewee import SQL, Case, Value, fn

from libtool import names
from libtool.archive import attempts, librarians, notices, places, removing
from libtool.archive.hands import Budget, Host, Tally, portions
from libtool.errors import LockTaken, PeerRefused, StoreUnavailable
from libtool.models.base import among, raw_rows, writing
from libtool.models.tables import File, IncomingTransfer, Instance, Librarian, Removal, live, owing, unfinished
from libtool.models.tables import Store as StoreRow
from libtool.peers import features, messages
from libtool.peers.client import Peer
from libtool.states import Condition, DeletionPolicy, FileKind, Owed, Proof, TransferStatus
from libtool.stores.base import Arrival, Fate, Store
from libtool.units import to_microseconds

#: Files that are judged and recorded together, and how many bytes of them at most.
PORTION, PORTION_BYTES = 500, 10**11
#: Transfers in one report to a source.
REPORT = 4000
#: Stands for a staging place where there is none: what is taken over where it lies.
NOWHERE = ".libtool-nowhere"
#: What lies staged and could not be read for so long is given up, so that it can come anew.
UNREADABLE_FOR = timedelta(days=1)
_IN = IncomingTransfer
Progress = Callable[[int], None]


def receive(
    host: Host,
    budget: Budget,
    tally: Tally,
    *,
    limit: int | None = None,
    policy: DeletionPolicy = DeletionPolicy.DISALLOWED,
    progress: Progress | None = None,
) -> None:
    """Take in everything that is staged, as far as time and ``limit`` allow; then report and tidy."""
    settle_abandoned(host, tally)
    left = limit
    for row in places.in_order(host):
        if not row.enabled:
            continue
        try:
            store = host.store(row)
            after = 0
            while budget.left and (left is None or left > 0):
                staged = _staged(row, after, min(PORTION, left or PORTION))
                if not staged:
                    break
                after = staged[-1].id
                before = tally.done + tally.failed
                take_in(host, row, store, staged, tally, policy)
                if left is not None:
                    left -= len(staged)
                if progress is not None:
                    progress(tally.done + tally.failed - before)
            notices.over(host, tally, f"store {row.name}", "unavailable")
        except StoreUnavailable as trouble:
            waiting = _IN.select().where(_IN.store == row.id, _IN.status == SQL("2")).count()
            tally.postponed += waiting
            if waiting:
                notices.trouble(host, tally, f"store {row.name}", "unavailable", trouble.text)
    report(host, budget, tally)
    tidy(host)


class Staged(NamedTuple):
    """One staged transfer, as far as taking it in needs it."""

    id: int
    name: str
    size: int
    checksum: str
    source: str
    staging_id: str | None


_STAGED = (_IN.id, _IN.name, _IN.size, _IN.checksum, _IN.source, _IN.staging_id)


def _staged(row: StoreRow, after: int, limit: int) -> list[Staged]:
    """The next staged transfers of a store that no live ingest works on."""
    query = _IN.select(*_STAGED).where(_IN.store == row.id, _IN.status == SQL("2"), _IN.id > after, _IN.claim.is_null())
    found = [Staged(*each) for each in raw_rows(query.order_by(_IN.id).limit(limit))]
    size = 0
    for n, each in enumerate(found):
        size += each.size
        if size > PORTION_BYTES and n:
            return found[:n]
    return found


def staged(ids: list[int]) -> list[Staged]:
    """These transfers, as far as taking them in needs them."""
    return [Staged(*each) for each in raw_rows(_IN.select(*_STAGED).where(among(_IN.id, ids)).order_by(_IN.id))]


def take_in(
    host: Host,
    row: StoreRow,
    store: Store,
    staged: Sequence[Staged],
    tally: Tally,
    policy: DeletionPolicy,
) -> set[int]:
    """Judge one portion: what is right is stored and recorded, what is wrong is ended and named, the rest waits; returns
    which of what was stored lay in its place already."""
    troubled = {fault.subject for fault in notices.standing() if fault.kind == "unreadable"}
    reasons = _known_otherwise(staged)
    judged = [each for each in staged if each.id not in reasons]
    busy = make_way(host, row, store, [each.name for each in judged], tally)
    judged = [each for each in judged if each.name not in busy]
    arrivals = [Arrival(each.staging_id or NOWHERE, each.name, each.size, each.checksum) for each in judged]
    outcomes = store.take_in(arrivals)
    without = [each for each, what in zip(judged, outcomes) if what.fate is not Fate.STORED]
    waits = _without_way(host, row, store, without, tally)
    stored: dict[FileKind, list[Staged]] = {FileKind.FILE: [], FileKind.DIRECTORY: []}
    for each, outcome in zip(judged, outcomes):
        if outcome.fate is Fate.STORED:
            stored[outcome.kind].append(each)
        elif each.id in waits:
            continue
        elif outcome.fate is Fate.UNKNOWN and notices.lasts(host, _subject(each), "unreadable", UNREADABLE_FOR):
            reasons[each.id] = f"it could not be read for long: {outcome.why}"
        elif outcome.fate is Fate.UNKNOWN:
            tally.postponed += 1
            notices.trouble(host, tally, _subject(each), "unreadable", outcome.why)
        else:
            reasons[each.id] = outcome.why
        if troubled and (outcome.fate is not Fate.UNKNOWN or each.id in reasons) and _subject(each) in troubled:
            notices.forget(_subject(each))
    late = _record(host, row, stored, policy)
    lies = (
        f"a file of that name with other content came in meanwhile; this one lies in the store {row.name}, unrecorded"
    )
    reasons.update(dict.fromkeys(late, lies))
    tally.done += len(stored[FileKind.FILE]) + len(stored[FileKind.DIRECTORY]) - len(late)
    if reasons:
        refuse(host, reasons)
        for each in staged:
            if each.id in reasons:
                sender = f"from {each.source}" if each.source else "of an ingest"
                tally.problem(f"'{names.shown(each.name)}' {sender} was not stored: {reasons[each.id]}")
    return {each.id for each, outcome in zip(judged, outcomes) if outcome.lay_there}


def make_way(host: Host, row: StoreRow, store: Store, called: Sequence[str], tally: Tally) -> set[str]:
    """Before files of these names come in: where a former copy was bad, or was to go, its bytes are taken out of the way;
    returns the names that must wait, since somebody is setting aside or bringing back just now."""
    open_ = (Removal.store == row.id) & unfinished()
    unsound = (Instance.store == row.id) & (Instance.condition > SQL("0"))
    if not (Removal.select(SQL("1")).where(open_).exists() or Instance.select(SQL("1")).where(unsound).exists()):
        return set()
    ids = dict(File.select(File.name, File.id).where(among(File.name, list(called))).tuples())
    try:
        removing.make_way(host, row, store, list(ids.values()), tally)
        return set()
    except LockTaken:
        tally.postponed += len(ids)
        return set(ids)


def _without_way(host: Host, row: StoreRow, store: Store, staged: list[Staged], tally: Tally) -> set[int]:
    """What was not stored takes nobody's place: bad bytes that made way for it come back, since they may be all there is.
    Returns which transfers must wait for another run, since somebody is setting aside or bringing back just now; what
    cannot be moved now comes back with corruption-fixer."""
    if staged and Removal.select(SQL("1")).where(Removal.store == row.id, unfinished()).exists():
        called = among(File.name, [each.name for each in staged])
        files = [id for (id,) in raw_rows(File.select(File.id).where(called))]
        try:
            removing.give_way_back(host, row, store, files)
        except LockTaken:
            tally.postponed += len(staged)
            return {each.id for each in staged}
        except OSError as trouble:
            tally.details.append(f"what made way in {row.name} cannot be put back now: {trouble.strerror}")
    return set()


def _subject(each: Staged) -> str:
    return f"file '{names.shown(each.name)}' from {each.source or 'here'}"


def _known_otherwise(staged: Sequence[Staged]) -> dict[int, str]:
    """Which of these the catalogue holds under the same name with other content."""
    ids = [each.id for each in staged]
    clash = (
        _IN.select(_IN.id)
        .join(File, on=(File.name == _IN.name))
        .where(among(_IN.id, ids), (File.checksum != _IN.checksum) | (File.size != _IN.size))
    )
    return {id: "a file of that name with other content is in the catalogue" for (id,) in clash.tuples()}


def _record(host: Host, row: StoreRow, stored: dict[FileKind, list[Staged]], policy: DeletionPolicy) -> list[int]:
    """File, instance and the end of the transfer, in one transaction, by set; returns what could not be recorded.

    Also of those that their source has given up meanwhile: the copy is here and right, so it is known.
    """
    now = host.now()
    late: list[int] = []
    for kind, transfers in stored.items():
        if not transfers:
            continue
        ids = [each.id for each in transfers]
        mine = among(_IN.id, ids)
        # By name, size and checksum: another file of that name may have come in while this one was being read.
        same = (File.name == _IN.name) & (File.checksum == _IN.checksum) & (File.size == _IN.size)
        own = host.settings.name
        with writing("record"):
            File.insert_from(
                _IN.select(
                    _IN.name,
                    Value(int(kind), converter=False),
                    _IN.size,
                    _IN.checksum,
                    _IN.uploader,
                    fn.COALESCE(fn.NULLIF(_IN.source, ""), own),
                    SQL(str(to_microseconds(now))),
                ).where(mine),
                [File.name, File.kind, File.size, File.checksum, File.uploader, File.source, File.create_time],
            ).on_conflict_ignore().execute()
            Instance.insert_from(
                _IN.select(
                    File.id,
                    _IN.store,
                    SQL("true"),
                    fn.COALESCE(_IN.deletion_policy, int(policy)),
                    SQL(str(to_microseconds(now))),
                    SQL(str(to_microseconds(now))),
                    SQL(str(int(Proof.ARRIVAL))),
                )
                .join(File, on=same)
                .where(mine),
                [
                    Instance.file,
                    Instance.store,
                    Instance.available,
                    Instance.deletion_policy,
                    Instance.create_time,
                    Instance.verified_time,
                    Instance.verified_how,
                ],
            ).on_conflict(
                conflict_target=[Instance.file, Instance.store],
                update={
                    # What had gone and came anew is as new as it is, and as free as was asked for.
                    Instance.create_time: _anew(Instance.create_time),
                    Instance.deletion_policy: _anew(Instance.deletion_policy),
                    Instance.available: True,
                    Instance.verified_time: now,
                    Instance.verified_how: Proof.ARRIVAL,
                    Instance.condition: Condition.SOUND,
                    Instance.checked_time: None,
                    Instance.asked_time: None,
                },
            ).execute()
            _IN.update(
                status=TransferStatus.COMPLETED,
                end_time=now,
                claim=None,
                file=File.select(File.id).where(same),
            ).where(mine, fn.EXISTS(File.select(SQL("1")).where(same))).execute()
            done = mine & (_IN.status == TransferStatus.COMPLETED)
            _IN.update(owed=Owed.COMPLETION).where(done, _answerable()).execute()
            late += [id for (id,) in raw_rows(_IN.select(_IN.id).where(mine, _IN.status != TransferStatus.COMPLETED))]
    return late


def _anew(field: Any) -> Any:
    """What a row that was there gets: the new value, unless its copy had been there all the time."""
    return Case(None, [(Instance.available, field)], getattr(peewee.EXCLUDED, field.name))


def refuse(host: Host, reasons: dict[int, str]) -> None:
    """End these with a reason; their sources are told, and what was staged is kept until then."""
    with writing("refuse"):
        for reason in set(reasons.values()):
            ids = [id for id, why in reasons.items() if why == reason]
            _IN.update(
                status=TransferStatus.FAILED, end_time=host.now(), reason=attempts.brief(reason), claim=None
            ).where(among(_IN.id, ids), live(_IN)).execute()
        _IN.update(owed=Owed.FAILURE).where(among(_IN.id, list(reasons)), _answerable()).execute()


def _answerable() -> Any:
    """The condition that somebody waits to hear of it: no ingest, and nothing that was brought without a number."""
    return (_IN.source != "") & (_IN.source_transfer_id >= 0)


# -- telling the sources ------------------------------------------------------------------------------------------


class Debt(NamedTuple):
    """One transfer whose source must be told what became of it."""

    id: int
    source_id: int
    store: int
    checksum: str
    name: str
    owed: int
    reason: str | None


_DEBT = (_IN.id, _IN.source_transfer_id, _IN.store, _IN.checksum, _IN.name, _IN.owed, _IN.reason)


def report(host: Host, budget: Budget, tally: Tally) -> None:
    """Tell every source what became of its transfers; one that does not answer does not delay the others."""
    sources = [name for (name,) in _IN.select(_IN.source).where(owing(_IN)).distinct().tuples()]
    random.shuffle(sources)  # none is always the last when time is short
    for n, name in enumerate(sources):
        librarian = Librarian.get_or_none(Librarian.name == name, ~Librarian.removed)
        owed = _IN.select(*_DEBT).where(owing(_IN), _IN.source == name)
        if librarian is None:
            tally.postponed += owed.count()
            text = f"what arrived from it cannot be reported: run 'libtool add-librarian --name {name} …'"
            notices.trouble(host, tally, f"librarian {name}", "unknown", text)
            continue
        notices.over(host, tally, f"librarian {name}", "unknown")
        deed = partial(_pay, host, owed, budget.share(len(sources) - n), tally)
        librarians.ask(host, librarian, tally, "reports", owed.count, deed)


def _pay(host: Host, owed: Any, budget: Budget, tally: Tally, peer: Peer) -> None:
    """Report to one source, page by page; one page at least, however little time is left."""
    after = 0
    while True:
        rows = [Debt(*row) for row in raw_rows(owed.where(_IN.id > after).order_by(_IN.id).limit(REPORT))]
        if not rows:
            return
        after = rows[-1].id
        if peer.can(features.BATCH):
            _report_batch(host, peer, rows)
        else:
            _report_stock(host, peer, rows, budget, tally)
        if not budget.left:
            return


def _report_batch(host: Host, peer: Peer, rows: list[Debt]) -> None:
    """One request for all. What the source knows nothing of is not owed to it any more."""
    report = messages.Report()
    for row in rows:
        if row.owed == Owed.COMPLETION:
            report.completed.append(messages.Completed(row.source_id, row.id, row.store, row.checksum, row.name))
        else:
            report.failed.append(messages.Failed(row.source_id, row.id, (row.reason or "")[:1000]))
    try:
        answer = peer.ask("libtool/clone/report", report, messages.ReportAnswer)
    except PeerRefused as refusal:
        if refusal.facts["status"] != 413 or len(rows) < 2:
            raise
        for part in portions(rows, (len(rows) + 1) // 2):  # it takes smaller requests than ours
            _report_batch(host, peer, part)
        return
    _paid([row.id for row in rows if row.source_id in answer.accepted])


def _report_stock(host: Host, peer: Peer, rows: list[Debt], budget: Budget, tally: Tally) -> None:
    """``clone/complete`` for each that is stored, one ``checkin/update`` for all that failed."""
    failed = [row for row in rows if row.owed != Owed.COMPLETION]
    if failed:
        peer.ask(
            "checkin/update",
            messages.CheckinUpdate([row.source_id for row in failed], [], TransferStatus.FAILED),
            messages.CheckinUpdated,
        )
        _paid([row.id for row in failed])
    for row in rows:
        if row.owed != Owed.COMPLETION:
            continue
        if not budget.left:
            return
        message = messages.CloneComplete(row.source_id, row.id, row.store)
        try:
            peer.ask("clone/complete", message, messages.PairDone)
        except PeerRefused as refusal:
            if refusal.facts["status"] not in (400, 406):
                raise
            # 400: it knows of no such transfer. 406: it has ended there, usually because our first report arrived and
            # its answer was lost; or it has not written down yet that it is staged, and must be told again. Either may
            # be somebody else's word, so it is asked.
            if _still_live(peer, row.source_id):
                tally.postponed += 1
                continue
        _paid([row.id])


def _still_live(peer: Peer, source_id: int) -> bool:
    """Whether a source says that a transfer has not ended, or does not say that it has."""
    message = messages.CheckinStatus(source_transfer_ids=[source_id])
    answer: messages.CheckinStatuses = peer.ask("checkin/status", message, messages.CheckinStatuses)
    if source_id not in answer.source_transfer_status:
        return True
    state = answer.source_transfer_status[source_id]
    return state is not None and state < TransferStatus.COMPLETED


def _paid(ids: list[int]) -> None:
    with writing("reported"):
        for piece in portions(ids, REPORT):
            _IN.update(owed=Owed.NOTHING).where(among(_IN.id, piece)).execute()


# -- tidying up ---------------------------------------------------------------------------------------------------


def tidy(host: Host, only: str | None = None) -> None:
    """Remove the staging places of transfers that have ended and are told; a place that others still use keeps them.

    For recv-clone, under its lock: what it has just judged must not go. Others name the place of their ``only``.
    """
    ended = (_IN.status >= SQL("3")) & (_IN.staging_id.is_null(False)) & ~(_IN.owed == Owed.FAILURE)
    if only is not None:
        ended &= _IN.staging_id == only
    stores = {row.id: row for row in places.in_order(host)}
    for staging_id, store_id in _IN.select(_IN.staging_id, _IN.store).where(ended).distinct().tuples():
        row = stores.get(store_id)
        if row is None:
            continue
        here = (_IN.staging_id == staging_id) & (_IN.store == store_id)
        try:
            store = host.store(row)
            store.check()
            if _IN.select().where(here, live(_IN) | (_IN.owed == Owed.FAILURE)).exists():
                rows = list(_IN.select().where(here, ended))
                for each in rows:
                    store.discard_one(staging_id, each.name)
                gone = among(_IN.id, [each.id for each in rows])
            else:
                store.discard(staging_id)
                gone = here
            with writing("tidied"):
                _IN.update(staging_id=None).where(gone, _IN.status >= SQL("3")).execute()
        except (OSError, StoreUnavailable):
            continue  # it is tried again at the next run; the row still names the place


def settle_abandoned(host: Host, tally: Tally) -> None:
    """Ingests whose process died: what was complete is stored, the rest ends; the originals were never touched."""
    for (claim,) in _IN.select(_IN.claim).where(_IN.claim.is_null(False), live(_IN)).distinct().tuples():
        try:
            with host.lock(claim):
                settle(host, claim, tally)
        except LockTaken:
            continue


def settle(host: Host, claim: str, tally: Tally) -> None:
    """Settle what a dead ingest left under ``claim``, whose lock the caller holds."""
    with writing("settle"):
        _IN.update(
            status=TransferStatus.FAILED, end_time=host.now(), reason="its ingest did not end", claim=None
        ).where(_IN.claim == claim, _IN.status < SQL("2"), live(_IN)).execute()
        _IN.update(claim=None).where(_IN.claim == claim, live(_IN)).execute()


# -- looking ------------------------------------------------------------------------------------------------------


def staged_files() -> int:
    """How many transfers are staged."""
    return int(_IN.select(fn.COUNT(_IN.id)).where(_IN.status == SQL("2")).scalar())


def plan(host: Host) -> Iterator[str]:
    """What a run would take in and report, a line each."""
    for row in places.in_order(host):
        staged = _IN.select(_IN.name, _IN.size, _IN.source).where(_IN.store == row.id, _IN.status == SQL("2"))
        for name, size, source in staged.order_by(_IN.id).tuples().iterator():
            yield f"{names.shown(name)} ({size} bytes) from {source or 'an ingest'} into {row.name}"
    for source, count in _IN.select(_IN.source, fn.COUNT(_IN.id)).where(owing(_IN)).group_by(_IN.source).tuples():
        yield f"tell {source} about {count} transfers"
