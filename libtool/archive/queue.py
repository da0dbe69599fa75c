"""Sending, second half: shipping queue items, learning what became of them, and telling the destinations.

An item's ticket is committed before the carrier acts on it, so a run that finds an item "submitting" repeats the same
submission under the same ticket. Destinations take turns; a slow or dead one costs the others nothing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from peewee import fn

from libtool import names
from libtool.archive import attempts, librarians, notices, staging
from libtool.archive.hands import Budget, Host, Tally
from libtool.errors import (
    CarrierRefused,
    CarrierUnknown,
    LibtoolError,
    PeerRefused,
    StoreUnavailable,
)
from libtool.models.base import among, raw_rows, writing
from libtool.models.tables import File, Librarian, OutgoingTransfer, SendQueue, live, owing, waiting
from libtool.models.tables import Store as StoreRow
from libtool.movers.base import Arrived, Item, Mover, Stage
from libtool.peers import features, messages
from libtool.peers.client import Peer
from libtool.states import FileKind, Owed, QueueStatus, TransferStatus

#: Transfers in one report to a destination.
REPORT = 4000
#: How long an item waits after its carrier refused it.
REFUSED_WAIT = timedelta(minutes=5)
_OUT = OutgoingTransfer
Progress = Callable[[int], None]


# -- shipping -----------------------------------------------------------------------------------------------------


def consume(host: Host, budget: Budget, tally: Tally, progress: Progress | None = None) -> None:
    """Ship what is queued: one item of each destination in turn, at most M asynchronous tasks in flight."""
    for item in _in_turn(host, budget):
        mover = host.mover(item.mover)
        if mover is None:
            tally.postponed += 1
            text = f"queue item {item.id} needs the carrier '{item.mover}', which this node does not have (any more)"
            notices.trouble(host, tally, f"queue item {item.id}", "carrier", text, at_once=True)
            continue
        if (
            mover.asynchronous
            and item.status is QueueStatus.QUEUED
            and _in_flight(host) >= host.settings.max_async_inflight_transfers
        ):
            continue
        shipped = ship(host, item, mover, tally)
        if progress is not None:
            progress(shipped)


def _in_turn(host: Host, budget: Budget) -> Iterator[SendQueue]:
    """Items to ship, taking destinations in turn; each item at most once in a run."""
    seen: dict[int, int] = {}
    destinations = _shuffled(Librarian.select())
    while budget.left:
        heads = []
        for destination in destinations:
            condition = (
                (SendQueue.destination == destination.id)
                & (SendQueue.id > seen.get(destination.id, 0))
                & waiting()
                & (SendQueue.not_before.is_null() | (SendQueue.not_before <= host.now()))
            )
            # What is being submitted must be carried through; new items only go to enabled destinations.
            allowed = [QueueStatus.SUBMITTING]
            if destination.transfers_enabled and not destination.removed:
                allowed.append(QueueStatus.QUEUED)
            head = SendQueue.select().where(condition, SendQueue.status << allowed).order_by(SendQueue.id).first()
            if head is not None:
                seen[destination.id] = head.id
                heads.append(head)
        if not heads:
            return
        for head in heads:
            if budget.left:
                yield head


def _in_flight(host: Host) -> int:
    """Asynchronous tasks that were submitted (perhaps) and are not final."""
    kinds = [kind for kind in ("globus",) if (mover := host.mover(kind)) is not None and mover.asynchronous]
    return int(
        SendQueue.select(fn.COUNT(SendQueue.id))
        .where(SendQueue.status << [QueueStatus.SUBMITTING, QueueStatus.IN_FLIGHT], SendQueue.mover << kinds, waiting())
        .scalar()
    )


def ship(host: Host, item: SendQueue, mover: Mover, tally: Tally) -> int:
    """Ship one item; returns how many of its files are on their way."""
    provider = json.loads(item.provider)
    try:
        files = _files(item)
        if item.status is QueueStatus.QUEUED:
            files = _sort_out_unreadable(host, files, tally)
        if not files:
            _end(host, item, QueueStatus.COMPLETED, "nothing is left of it")
            return 0
        if item.status is QueueStatus.QUEUED:
            ticket = mover.prepare(provider, f"libtool {host.settings.name} {item.id}")
            if not _claim(host, item, ticket):
                return 0
        else:
            ticket = json.loads(item.ticket)
        ticket = mover.submit(provider, ticket, _items(host, files))
    except StoreUnavailable as trouble:
        tally.postponed += item.files
        notices.trouble(host, tally, "the queue", "store", trouble.text)
        return 0
    except CarrierUnknown as trouble:
        tally.postponed += item.files
        notices.trouble(host, tally, f"carrier {mover.kind}", "unknown", trouble.text)
        return 0
    except CarrierRefused as trouble:
        _refused(host, item, trouble, tally)
        return 0
    with writing("shipped"):
        SendQueue.update(status=QueueStatus.IN_FLIGHT, ticket=json.dumps(ticket), submit_time=host.now()).where(
            SendQueue.id == item.id, SendQueue.status == QueueStatus.SUBMITTING
        ).execute()
    notices.over(host, tally, f"carrier {mover.kind}", "unknown")
    notices.over(host, tally, "the queue", "store")
    tally.done += len(files)
    return len(files)


class Cargo(NamedTuple):
    """One file of a queue item."""

    id: int
    store: int
    staging_location: str
    name: str
    size: int
    kind: int


def _files(item: SendQueue) -> list[Cargo]:
    """The files of an item whose transfers are live, in order."""
    columns = (_OUT.id, _OUT.store, _OUT.staging_location, File.name, File.size, File.kind)
    query = _OUT.select(*columns).join(File).where(_OUT.queue == item.id, live(_OUT)).order_by(_OUT.id)
    return [Cargo(*row) for row in raw_rows(query)]


def _items(host: Host, files: Sequence[Cargo]) -> list[Item]:
    """What a carrier must know of them."""
    stores = {
        row.id: host.store(row) for row in StoreRow.select().where(among(StoreRow.id, {each.store for each in files}))
    }
    return [
        Item(
            stores[each.store].path(each.name),
            each.staging_location,
            each.kind == FileKind.DIRECTORY,
            each.size,
            each.name,
        )
        for each in files
    ]


def _sort_out_unreadable(host: Host, files: list[Cargo], tally: Tally) -> list[Cargo]:
    """Files that are missing, changed or unreadable fail alone, by name, before anything is submitted; the others stay."""
    bad: dict[int, str] = {}
    called: dict[int, str] = {}
    stores = {row.id: row for row in StoreRow.select()}
    checked: set[int] = set()
    for each in files:
        store = host.store(stores[each.store])
        if each.store not in checked:
            store.check_readable()
            checked.add(each.store)
        why = store.look(each.name, each.size, FileKind(each.kind))
        if why:
            bad[each.id], called[each.id] = why, each.name
    if bad:
        with writing("unreadable"):
            attempts.fail(bad, host.now(), tell=True)
        for id, why in bad.items():
            tally.problem(f"'{names.shown(called[id])}' was not sent: {why}. Restore it; it is tried again by itself.")
    return [each for each in files if each.id not in bad]


def _claim(host: Host, item: SendQueue, ticket: object) -> bool:
    """Write the ticket down; False when another run was faster."""
    with writing("ticket"):
        return bool(
            SendQueue.update(status=QueueStatus.SUBMITTING, ticket=json.dumps(ticket))
            .where(SendQueue.id == item.id, SendQueue.status == QueueStatus.QUEUED)
            .execute()
        )


def _refused(host: Host, item: SendQueue, trouble: CarrierRefused, tally: Tally) -> None:
    """A submission that surely did not happen: tried again a few times, then its files get new attempts."""
    item = SendQueue.get_by_id(item.id)
    if item.retries < host.settings.max_async_send_retries:
        with writing("refused"):
            SendQueue.update(
                status=QueueStatus.QUEUED,
                retries=item.retries + 1,
                not_before=host.now() + REFUSED_WAIT,
                reason=trouble.reason,
            ).where(SendQueue.id == item.id, waiting()).execute()
        tally.postponed += item.files
        tally.lines.append(f"queue item {item.id}: {trouble.text}")
        return
    _end(host, item, QueueStatus.FAILED, trouble.reason)
    tally.problem(f"queue item {item.id} was given up after {item.retries + 1} submissions: {trouble.text}", item.files)


def _end(host: Host, item: SendQueue, status: QueueStatus, reason: str | None, report: str | None = None) -> None:
    """Close an item; transfers of it that are still live become failed attempts."""
    with writing("queue item ended"):
        left = [
            row.id
            for row in _OUT.select(_OUT.id).where(
                _OUT.queue == item.id, live(_OUT), _OUT.status == TransferStatus.ONGOING, _OUT.owed == Owed.NOTHING
            )
        ]
        if left:
            attempts.fail(dict.fromkeys(left, reason or "its task ended without it"), host.now(), tell=True)
        SendQueue.update(status=status, end_time=host.now(), reason=reason, report=report).where(
            SendQueue.id == item.id, waiting()
        ).execute()
    notices.forget(f"queue item {item.id}")


# -- learning what became of them ---------------------------------------------------------------------------------


def check(host: Host, budget: Budget, tally: Tally, progress: Progress | None = None) -> None:
    """Ask the carriers about everything in flight, then tell every destination what has arrived there."""
    flying = SendQueue.select(SendQueue.id).where(waiting(), SendQueue.status == QueueStatus.IN_FLIGHT)
    for id in sorted(row.id for row in flying):
        if not budget.left:
            break
        item = SendQueue.get_by_id(id)
        mover = host.mover(item.mover)
        if mover is None:
            tally.postponed += 1
            continue
        try:
            learn(host, item, mover, tally)
        except LibtoolError as trouble:  # one bad item does not end the sweep
            tally.postponed += item.files
            notices.trouble(host, tally, f"queue item {item.id}", "check", trouble.text)
    report(host, budget, tally, progress)


def learn(host: Host, item: SendQueue, mover: Mover, tally: Tally) -> None:
    """Ask about one item; when its task is done, record what became of every file."""
    ticket = json.loads(item.ticket)
    progress = mover.poll(ticket)
    subject = f"queue item {item.id}"
    if progress.notice:
        notices.trouble(host, tally, subject, "task", progress.notice)
    if progress.stage is not Stage.DONE:
        tally.postponed += item.files if progress.stage is Stage.UNKNOWN else 0
        return
    files = _files(item)
    outcomes = mover.outcomes(ticket, _items(host, files))
    arrived: list[int] = []
    failed: dict[int, str] = {}
    passing: dict[int, str] = {}
    for each, outcome in zip(files, outcomes):
        if outcome.arrived is Arrived.YES:
            arrived.append(each.id)
        elif outcome.arrived is Arrived.NO:
            (passing if outcome.passing else failed)[each.id] = outcome.why
    if any(outcome.arrived is Arrived.UNKNOWN for outcome in outcomes):
        tally.postponed += item.files
        return
    with writing("learnt"):
        now = host.now()
        _OUT.update(owed=Owed.STAGED).where(among(_OUT.id, arrived), _OUT.status == TransferStatus.ONGOING).execute()
        attempts.fail(failed, now, tell=True)
        attempts.fail(passing, now, tell=True, counts=False, again=now + attempts.FIRST_DELAY)
        SendQueue.update(status=QueueStatus.COMPLETED, end_time=now, report=json.dumps(dict(progress.report))).where(
            SendQueue.id == item.id, waiting()
        ).execute()
    notices.forget(subject)
    called = {each.id: each.name for each in files}
    for id, why in failed.items():
        tally.problem(f"'{names.shown(called[id])}' did not arrive: {why}")
    if passing:
        tally.postponed += len(passing)
        notices.trouble(host, tally, f"librarian {item.destination.name}", "arrival", next(iter(passing.values())))
    else:
        notices.over(host, tally, f"librarian {item.destination.name}", "arrival")


# -- telling the destinations -------------------------------------------------------------------------------------


def report(host: Host, budget: Budget, tally: Tally, progress: Progress | None = None) -> None:
    """Tell every destination what lies in its staging area, and what was given up."""
    owed = _OUT.select(_OUT.destination).where(owing(_OUT)).distinct()
    destinations = _shuffled(Librarian.select().where(Librarian.id << owed))
    for n, destination in enumerate(destinations):
        waits = _OUT.select().where(_OUT.destination == destination.id, owing(_OUT))
        if destination.removed or destination.authenticator is None:
            tally.postponed += waits.count()
            continue
        part = budget.share(len(destinations) - n)
        deed = partial(_settle_with, host, destination, part, tally, progress)
        librarians.ask(host, destination, tally, "reports", waits.count, deed)


def _settle_with(
    host: Host, destination: Librarian, budget: Budget, tally: Tally, progress: Progress | None, peer: Peer
) -> None:
    _report_staged(host, destination, peer, budget, tally, progress)
    staging.tell_failures(host, destination, peer)


def _shuffled(query: Any) -> list[Librarian]:
    """Librarians in no fixed order, so that none is always the last when time is short."""
    found = list(query)
    random.shuffle(found)
    return found


def _report_staged(
    host: Host, destination: Librarian, peer: Peer, budget: Budget, tally: Tally, progress: Progress | None
) -> None:
    """Report what has arrived, in as few requests as possible, and believe what the destination says to each."""
    after = 0
    while True:  # one page at least, however little time is left
        query = _OUT.select(_OUT.id, _OUT.remote_id).where(
            _OUT.destination == destination.id, owing(_OUT), _OUT.owed == Owed.STAGED, _OUT.id > after
        )
        remote = {number: id for id, number in raw_rows(query.order_by(_OUT.id).limit(REPORT))}
        if not remote:
            return
        after = max(remote.values())
        if peer.can(features.BATCH):
            states = _batch_states(peer, [messages.Pair(id, number) for number, id in remote.items()])
        else:
            states = _stock_states(peer, list(remote))
        taken: list[int] = []
        unsure: list[int] = []
        lost: dict[int, str] = {}
        for number, id in remote.items():
            state = states.get(number)
            if state in (TransferStatus.STAGED, TransferStatus.COMPLETED):
                taken.append(id)
            elif state in (TransferStatus.INITIATED, TransferStatus.ONGOING):
                unsure.append(id)  # it would not take our word now; it is told again
            else:
                lost[id] = _lost(state)
        with writing("reported staged"):
            _OUT.update(status=TransferStatus.STAGED).where(
                among(_OUT.id, taken), _OUT.status == TransferStatus.ONGOING
            ).execute()
            _OUT.update(owed=Owed.NOTHING).where(among(_OUT.id, taken)).execute()
            ended = attempts.fail(lost, host.now(), tell=False)
            _OUT.update(owed=Owed.NOTHING).where(among(_OUT.id, list(lost)), _OUT.owed == Owed.STAGED).execute()
        called = attempts.named(row.id for row in ended)
        for id, name in called.items():
            tally.problem(f"'{names.shown(name)}' for {destination.name}: {lost[id]}")
        tally.postponed += len(unsure)
        tally.done += len(taken)
        if progress is not None:
            progress(len(taken))
        if not budget.left:
            return


def _lost(state: TransferStatus | None) -> str:
    if state is None:
        return "the destination knows of no such transfer (any more); it will be sent anew"
    return f"the destination says that it is {state.name}; it will be sent anew"


def _batch_states(peer: Peer, pairs: list[messages.Pair]) -> dict[int, TransferStatus | None]:
    """Report to a libtool librarian and hear how far each one is there."""
    try:
        answer: messages.StagedAnswer = peer.ask("libtool/clone/staged", messages.Staged(pairs), messages.StagedAnswer)
        return answer.states
    except PeerRefused as refusal:
        if refusal.facts["status"] != 413 or len(pairs) < 2:
            raise
        half = len(pairs) // 2  # it takes smaller requests than ours
        return _batch_states(peer, pairs[:half]) | _batch_states(peer, pairs[half:])


def _stock_states(peer: Peer, ids: list[int]) -> dict[int, TransferStatus | None]:
    """Mark as STAGED at a stock librarian, then ask about those that it would not move."""
    answer = peer.ask("checkin/update", messages.CheckinUpdate([], ids, TransferStatus.STAGED), messages.CheckinUpdated)
    states: dict[int, TransferStatus | None] = dict.fromkeys(
        answer.modified_destination_transfer_ids, TransferStatus.STAGED
    )
    rest = [id for id in ids if id not in states]
    if rest:
        found = peer.ask("checkin/status", messages.CheckinStatus([], rest), messages.CheckinStatuses)
        states.update(found.destination_transfer_status)
    return states


# -- looking ------------------------------------------------------------------------------------------------------


def queued_files() -> int:
    """Files in items that wait to be shipped."""
    waits = SendQueue.status << [QueueStatus.QUEUED, QueueStatus.SUBMITTING]
    return int(SendQueue.select(fn.COALESCE(fn.SUM(SendQueue.files), 0)).where(waits, waiting()).scalar())


def plan_consume() -> Iterator[str]:
    """What a run would ship, a line each."""
    rows = SendQueue.select(SendQueue, Librarian).join(Librarian)
    for row in rows.where(waiting(), SendQueue.status < QueueStatus.IN_FLIGHT).order_by(SendQueue.id):
        yield f"item {row.id}: {row.files} files, {row.size} bytes → {row.destination.name} by {row.mover}"


def plan_check() -> Iterator[str]:
    """What a run would ask about and report, a line each."""
    flying = SendQueue.select(SendQueue, Librarian).join(Librarian)
    for row in flying.where(waiting(), SendQueue.status == QueueStatus.IN_FLIGHT).order_by(SendQueue.id):
        yield f"item {row.id}: ask {row.mover} about {row.files} files to {row.destination.name}"
    owed = _OUT.select(Librarian.name, fn.COUNT(_OUT.id)).join(Librarian).where(owing(_OUT))
    for name, count in owed.group_by(Librarian.name).tuples():
        yield f"tell {name} about {count} transfers"
