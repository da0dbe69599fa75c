"""Sending: shipping queue items, each as one task of its carrier.

An item's ticket is committed before the carrier acts on it, so a run that finds an item "submitting" repeats the same
submission under the same ticket. Destinations take turns; a slow or dead one costs the others nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from peewee import fn

from libtool import names
from libtool.archive import attempts, librarians, notices
from libtool.archive.hands import Budget, Host, Tally
from libtool.archive.queue import REFUSED_WAIT, Cargo, Carriers, Step, cargo, end, files_of, kind_of, split, subject
from libtool.errors import CarrierBarred, CarrierBusy, CarrierRefused, CarrierUnknown, StoreUnavailable
from libtool.models.base import writing
from libtool.models.tables import Librarian, SendQueue, waiting
from libtool.models.tables import Store as StoreRow
from libtool.movers.base import Hitch, Mover
from libtool.states import FileKind, QueueStatus


def consume(host: Host, budget: Budget, tally: Tally, step: Step | None = None) -> None:
    """Ship what is queued: one item of each destination in turn, at most M asynchronous tasks in flight."""
    carriers = Carriers(host, tally)
    for item in _in_turn(host, budget):
        mover = host.mover(item.mover)
        if mover is None:
            tally.postponed += 1
            text = f"queue item {item.id} needs the carrier '{item.mover}', which this node does not have (any more)"
            notices.trouble(host, tally, subject(item), "carrier", text, at_once=True)
            continue
        if not carriers.open(item) or (item.status is QueueStatus.QUEUED and _held(host, item, mover)):
            tally.postponed += item.files
            continue
        if mover.asynchronous and item.status is QueueStatus.QUEUED and _full(host):
            continue
        shipped = ship(host, item, mover, carriers, tally)
        if step is not None:
            step(shipped)


def _in_turn(host: Host, budget: Budget) -> Iterator[SendQueue]:
    """Items to ship, taking destinations in turn; each item at most once in a run."""
    seen: dict[int, int] = {}
    destinations = librarians.shuffled(Librarian.select())
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


def _full(host: Host) -> bool:
    """Whether as many asynchronous tasks were submitted (perhaps) and are not final as may be."""
    flying = (
        SendQueue.select(SendQueue.mover, fn.COUNT(SendQueue.id))
        .where(SendQueue.status << [QueueStatus.SUBMITTING, QueueStatus.IN_FLIGHT], waiting())
        .group_by(SendQueue.mover)
    )
    count = sum(n for kind, n in flying.tuples() if (mover := host.mover(kind)) is None or mover.asynchronous)
    return bool(count >= host.settings.max_async_inflight_transfers)


def _held(host: Host, item: SendQueue, mover: Mover) -> bool:
    """Whether a task to the same destination has found no space there: then nothing new is sent to it."""
    return mover.asynchronous and notices.stands(
        f"librarian {item.destination.name}", kind_of(mover.kind, Hitch.SPACE.value)
    )


def ship(host: Host, item: SendQueue, mover: Mover, carriers: Carriers, tally: Tally) -> int:
    """Ship one item; returns how many of its files are on their way."""
    provider = json.loads(item.provider)
    fresh = item.status is QueueStatus.QUEUED
    try:
        files = files_of(item)
        if fresh:
            files = _sort_out_unreadable(host, files, tally)
        if not files and fresh:
            end(host, item, QueueStatus.COMPLETED, "nothing is left of it")
            return 0
        if fresh:
            ticket = mover.prepare(provider, f"libtool {host.settings.name} {item.id}")
            if not _claim(host, item, ticket):
                return 0
        else:
            ticket = json.loads(item.ticket)
        ticket = mover.submit(provider, ticket, cargo(host, files))
    except StoreUnavailable as trouble:
        tally.postponed += item.files
        notices.trouble(host, tally, "the queue", "store", trouble.text)
        return 0
    except CarrierUnknown as trouble:
        tally.postponed += item.files
        carriers.trouble(item, trouble)
        return 0
    except (CarrierBusy, CarrierBarred) as trouble:
        tally.postponed += item.files
        carriers.trouble(item, trouble)
        if fresh:  # an item that was tried before may have been taken then: it keeps its ticket
            _unclaim(item)
        return 0
    except CarrierRefused as trouble:
        _refused(host, item, trouble, tally)
        return 0
    with writing("shipped"):
        SendQueue.update(status=QueueStatus.IN_FLIGHT, ticket=json.dumps(ticket), submit_time=host.now()).where(
            SendQueue.id == item.id, SendQueue.status == QueueStatus.SUBMITTING
        ).execute()
    carriers.answered(item)
    notices.over(host, tally, "the queue", "store")
    tally.done += len(files)
    return len(files)


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


def _unclaim(item: SendQueue) -> None:
    """Its carrier surely did not take it: the item waits as before."""
    with writing("ticket withdrawn"):
        SendQueue.update(status=QueueStatus.QUEUED, ticket=None).where(
            SendQueue.id == item.id, SendQueue.status == QueueStatus.SUBMITTING
        ).execute()


def _refused(host: Host, item: SendQueue, trouble: CarrierRefused, tally: Tally) -> None:
    """A submission that surely did not happen: tried again a few times, then its files get new attempts."""
    if trouble.facts.get("too_large") and split(item, host.now()):
        tally.postponed += item.files
        return
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
    end(host, item, QueueStatus.FAILED, trouble.reason)
    tally.problem(f"queue item {item.id} was given up after {item.retries + 1} submissions: {trouble.text}", item.files)


def plan() -> Iterator[str]:
    """What a run would ship, a line each."""
    rows = SendQueue.select(SendQueue, Librarian).join(Librarian)
    for row in rows.where(waiting(), SendQueue.status < QueueStatus.IN_FLIGHT).order_by(SendQueue.id):
        yield f"item {row.id}: {row.files} files, {row.size} bytes → {row.destination.name} by {row.mover}"
