"""Sending: shipping queue items, each as one task of its carrier.

An item's ticket is committed before the carrier acts on it, so a run that finds an item "submitting" repeats the same
submission under the same ticket. Destinations take turns; a slow or dead one costs the others nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from peewee import fn

from libtool import names
from libtool.archive import attempts, librarians, notices
from libtool.archive.hands import Budget, Host, Tally
from libtool.archive.queue import (
    REFUSED_WAIT,
    Cargo,
    Carriers,
    Step,
    cargo,
    end,
    files_of,
    release,
    remember,
    split,
    subject,
)
from libtool.errors import CarrierBarred, CarrierBusy, CarrierRefused, CarrierUnknown, StoreUnavailable
from libtool.models.base import raw_rows, writing
from libtool.models.tables import Librarian, OutgoingTransfer, RouteTask, SendQueue, live, open_tasks, waiting
from libtool.models.tables import Store as StoreRow
from libtool.movers.base import Hitch, Mover, Ticket
from libtool.states import FileKind, QueueStatus

#: After this time an item that waits because of some trouble is staged anew: what its destination said may be outdated.
TOO_LONG = timedelta(days=1)


def consume(host: Host, budget: Budget, tally: Tally, step: Step | None = None) -> None:
    """Ship what is queued: one item of each destination in turn, at most M asynchronous tasks in flight."""
    carriers, slots = Carriers("submitting", "asking"), Slots(host)
    for destination in Librarian.select():
        release(host, destination, before=host.now() - TOO_LONG)
    for item in _in_turn(host, budget, slots):
        mover = host.mover(item.mover)
        fresh = item.status is QueueStatus.QUEUED
        if mover is None:
            tally.postponed += 1
            text = f"queue item {item.id} needs the carrier '{item.mover}', which this node does not have (any more)"
            notices.trouble(host, tally, subject(item), "carrier", text, at_once=True)
        elif not carriers.open(item) or (fresh and _held(host, item, mover)):
            tally.postponed += item.files
        elif not (mover.asynchronous and fresh and slots.full(item)):
            shipped = ship(host, item, mover, carriers, tally)
            if mover.asynchronous:
                slots.count()
            if step is not None:
                step(shipped)
    carriers.settle(host, tally, [QueueStatus.QUEUED, QueueStatus.SUBMITTING])


def _in_turn(host: Host, budget: Budget, slots: Slots) -> Iterator[SendQueue]:
    """Items to ship, taking destinations in turn; each item at most once in a run, those in trouble last. New items of
    a destination for which no slot is free are passed over all at once."""
    lines: list[list[tuple[int, bool]]] = []
    for destination in librarians.shuffled(Librarian.select()):
        # What is being submitted must be carried through; new items only go to enabled destinations.
        allowed = [QueueStatus.SUBMITTING]
        if destination.transfers_enabled and not destination.removed:
            allowed.append(QueueStatus.QUEUED)
        due = SendQueue.not_before.is_null() | (SendQueue.not_before <= host.now())
        query = SendQueue.select(SendQueue.id, SendQueue.status, SendQueue.reason).where(
            SendQueue.destination == destination.id, waiting(), SendQueue.status << allowed, due
        )
        order = (SendQueue.reason.is_null(False), SendQueue.status.desc(), SendQueue.id)
        found = [
            (id, status == QueueStatus.QUEUED and reason is None)
            for id, status, reason in raw_rows(query.order_by(*order))
        ]
        lines.append(found[::-1])
    while lines := [line for line in lines if line]:
        for line in lines:
            if not budget.left:
                return
            id, fresh = line.pop()
            item = SendQueue.get_or_none(SendQueue.id == id)
            if item is None or item.status >= QueueStatus.IN_FLIGHT:
                continue
            yield item
            if fresh and item.mover in slots.kinds and slots.full(item):
                line[:] = [(id, fresh) for id, fresh in line if not fresh]


class Slots:
    """The asynchronous tasks that may be in flight: at most M, and one destination never has them all when there are
    others, so that one which is paused does not hold them up."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._most = int(host.settings.max_async_inflight_transfers)
        self._share: int | None = None
        self._taken: dict[int, int] | None = None
        self.kinds: set[str] = set()  #: of carriers that were found to be asynchronous

    def count(self) -> dict[int, int]:
        """Count what was submitted (perhaps) and is not final, by destination."""
        flying = (
            SendQueue.select(SendQueue.mover, SendQueue.destination, fn.COUNT(SendQueue.id))
            .where(SendQueue.status << [QueueStatus.SUBMITTING, QueueStatus.IN_FLIGHT], waiting())
            .group_by(SendQueue.mover, SendQueue.destination)
        )
        self._taken = {}
        for kind, destination, count in flying.tuples():
            mover = self._host.mover(kind)
            if mover is None or mover.asynchronous:
                self._taken[destination] = self._taken.get(destination, 0) + count
        # Those of routes go to no librarian; the service counts all of them together.
        routes = RouteTask.select().where(
            open_tasks(), RouteTask.status << [QueueStatus.SUBMITTING, QueueStatus.IN_FLIGHT]
        )
        self._taken[0] = routes.count()
        return self._taken

    def full(self, item: SendQueue) -> bool:
        """Whether no further task may go to the item's destination."""
        self.kinds.add(item.mover)
        if self._share is None:
            several = Librarian.select().where(Librarian.transfers_enabled, ~Librarian.removed).count() > 1
            self._share = self._most - max(1, self._most // 4) if several and self._most > 1 else self._most
        taken = self.count() if self._taken is None else self._taken
        return sum(taken.values()) >= self._most or taken.get(item.destination_id, 0) >= self._share


def _held(host: Host, item: SendQueue, mover: Mover) -> bool:
    """Whether a task to the same destination has just found no space there: then nothing new is sent to it."""
    return mover.asynchronous and notices.recent(
        host, f"librarian {item.destination.name}", f"task {mover.kind} {Hitch.SPACE.value}"
    )


def ship(host: Host, item: SendQueue, mover: Mover, carriers: Carriers, tally: Tally) -> int:
    """Ship one item; returns how many of its files are on their way."""
    provider = json.loads(item.provider)
    fresh = item.status is QueueStatus.QUEUED
    try:
        if fresh:
            files = _sort_out_unreadable(host, files_of(item), tally)
            if not files:
                end(host, item, QueueStatus.COMPLETED, "nothing is left of it")
                return 0
            ticket = mover.prepare(provider, f"libtool {host.settings.name} {item.id}")
            if not _claim(item, ticket):
                return 0
            ticket = mover.submit(provider, ticket, cargo(host, files))
        else:
            # It may have been taken before: the very same is submitted again, whatever ended of it meanwhile.
            files = files_of(item, ended=True)
            ticket = _again(host, provider, item, mover, files)
    except StoreUnavailable as trouble:
        tally.postponed += item.files
        notices.trouble(host, tally, "the queue", "store", trouble.text)
        return 0
    except (CarrierUnknown, CarrierBusy, CarrierBarred) as trouble:
        # With a ticket it keeps it: no answer proves that an earlier try of the same submission was not taken.
        tally.postponed += item.files
        carriers.trouble(item, trouble, tally)
        remember(item, trouble.reason)
        if trouble.facts.get("sure"):
            _unclaim(item, trouble.reason)
        return 0
    except CarrierRefused as trouble:
        if trouble.facts.get("stale"):
            tally.postponed += item.files
            _unclaim(item, item.reason or trouble.reason)
        else:
            _refused(host, item, trouble, carriers, tally)
        return 0
    with writing("shipped"):
        SendQueue.update(
            status=QueueStatus.IN_FLIGHT, ticket=json.dumps(ticket), submit_time=host.now(), reason=None
        ).where(SendQueue.id == item.id, SendQueue.status == QueueStatus.SUBMITTING).execute()
    carriers.answered(item)
    notices.over(host, tally, "the queue", "store")
    tally.done += len(files)
    return len(files)


def _again(host: Host, provider: Any, item: SendQueue, mover: Mover, files: list[Cargo]) -> Ticket:
    """Repeat a submission that may have been taken; without its store, find out at least whether it was."""
    ticket: Ticket = json.loads(item.ticket)
    try:
        items = cargo(host, files)
    except StoreUnavailable:
        found = mover.recall(ticket)
        if found is None:
            _unclaim(item, "its store is not available")
            raise
        return found
    return mover.submit(provider, ticket, items)


def _unclaim(item: SendQueue, why: str) -> None:
    """Nothing was ever carried under the item's ticket: it waits for a new one."""
    with writing("ticket withdrawn"):
        SendQueue.update(status=QueueStatus.QUEUED, ticket=None, reason=attempts.brief(why)).where(
            SendQueue.id == item.id, SendQueue.status == QueueStatus.SUBMITTING
        ).execute()


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
        how = "'libtool validate-file' reads it and marks it, and corruption-fixer gets it anew; it is tried again by itself."
        for id, why in bad.items():
            tally.problem(f"'{names.shown(called[id])}' was not sent: {why}. {how}")
    return [each for each in files if each.id not in bad]


def _claim(item: SendQueue, ticket: object) -> bool:
    """Write the ticket down, and from now on the item is just its live files; False when another run was faster."""
    with writing("ticket"):
        claimed = (
            SendQueue.update(status=QueueStatus.SUBMITTING, ticket=json.dumps(ticket))
            .where(SendQueue.id == item.id, SendQueue.status == QueueStatus.QUEUED)
            .execute()
        )
        if claimed:
            OutgoingTransfer.update(queue=None).where(
                OutgoingTransfer.queue == item.id, ~live(OutgoingTransfer)
            ).execute()
    return bool(claimed)


def _refused(host: Host, item: SendQueue, trouble: CarrierRefused, carriers: Carriers, tally: Tally) -> None:
    """A submission that surely did not happen: tried again a few times, then its files get new attempts."""
    tally.postponed += item.files
    # A second refusal in the same run is no matter of one file.
    if trouble.facts.get("divide") and carriers.first_refusal(item) and split(item, host.now()):
        return
    about = f"librarian {item.destination.name}"
    carriers.ledger.note(about, "astray" if trouble.facts.get("astray") else "refused", trouble.text, at_once=True)
    if trouble.facts.get("astray"):
        end(host, item, QueueStatus.FAILED, trouble.reason, again=host.now() + attempts.FIRST_DELAY)
        return
    item = SendQueue.get_by_id(item.id)
    if item.retries < host.settings.max_async_send_retries:
        with writing("refused"):
            SendQueue.update(
                status=QueueStatus.QUEUED,
                ticket=None,
                retries=item.retries + 1,
                not_before=host.now() + REFUSED_WAIT,
                reason=attempts.brief(trouble.reason),
            ).where(SendQueue.id == item.id, waiting()).execute()
        return
    called = [names.shown(each.name) for each in files_of(item)]
    end(host, item, QueueStatus.FAILED, trouble.reason)
    what = f"'{called[0]}' was" if len(called) == 1 else f"{len(called)} files were"
    text = f"{what} given up after {item.retries + 1} submissions: {trouble.text} 'libtool status --waiting' names all."
    carriers.ledger.note(about, "given up", text, at_once=True)
    tally.postponed -= item.files
    tally.failed += item.files


def plan() -> Iterator[str]:
    """What a run would ship, a line each."""
    rows = SendQueue.select(SendQueue, Librarian).join(Librarian)
    for row in rows.where(waiting(), SendQueue.status < QueueStatus.IN_FLIGHT).order_by(SendQueue.id):
        yield f"item {row.id}: {row.files} files, {row.size} bytes → {row.destination.name} by {row.mover}"
