"""Staging: asking a destination for places, and writing down what it answered to every file.

What got a place is queued; what is there already is recorded; what will never be taken is parked; the rest waits.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from peewee import SQL

from libtool import movers, names
from libtool.archive import attempts, notices, removing
from libtool.archive.hands import Host, Tally, portions
from libtool.errors import PeerRefused
from libtool.models.base import among, raw_rows, serialise, update_many, writing
from libtool.models.tables import Instance, Librarian, OutgoingTransfer, SendQueue, live, owing
from libtool.models.tables import Store as StoreRow
from libtool.peers import features, messages
from libtool.peers.client import Peer
from libtool.states import Owed, TransferStatus

#: How long to leave alone what the destination said is under way there.
BUSY_WAIT = timedelta(minutes=2)
_OUT = OutgoingTransfer


@dataclass
class Wish:
    """How a destination is to be served: the options of ``send-clone``."""

    age_in_days: float | None = None
    preference: str | None = None
    batch: int = 1000


class Offer(NamedTuple):
    """One transfer that waits to be staged, with what the destination must know of its file."""

    id: int
    name: str
    size: int
    checksum: str
    uploader: str
    file: int


def request_for(host: Host, offers: list[Offer]) -> messages.BatchStage:
    """The request for these files."""
    return messages.BatchStage(
        uploads=[
            messages.UploadItem(offer.size, offer.checksum, offer.name, offer.name, offer.uploader, offer.id)
            for offer in offers
        ],
        source=host.settings.name,
        total_size=sum(offer.size for offer in offers),
    )


def stage(host: Host, destination: Librarian, peer: Peer, offers: list[Offer], wish: Wish, tally: Tally) -> bool:
    """Ask a libtool librarian for places and queue what got one; returns whether it has no more room."""
    try:
        answer = peer.ask("libtool/clone/batch_stage", request_for(host, offers), messages.Places)
    except PeerRefused as refusal:
        if refusal.facts["status"] != 413 or len(offers) < 2:
            raise
        half = len(offers) // 2  # it takes smaller requests than ours
        full = stage(host, destination, peer, offers[:half], wish, tally)
        return stage(host, destination, peer, offers[half:], wish, tally) or full
    return take_answer(host, destination, peer, offers, answer, wish, tally)


def take_answer(
    host: Host,
    destination: Librarian,
    peer: Peer,
    offers: list[Offer],
    answer: messages.Places,
    wish: Wish,
    tally: Tally,
) -> bool:
    """Write down what an answer says about every item, and queue what got a place; returns whether room ran out."""
    by_id = {offer.id: offer for offer in offers}
    now = host.now()
    refused = [item for item in answer.refused if item.source_transfer_id in by_id]
    have = [
        (item.source_transfer_id, item.store_id)
        for item in refused
        if item.code == messages.HAVE and item.store_id is not None
    ]
    if have:
        with writing("present"):
            attempts.complete(destination, [(id, store) for id, store in have if store is not None], now)
        tally.done += len(have)
    never = (messages.CONFLICT, messages.NAME)
    park(host, destination, {item.source_transfer_id: item.reason for item in refused if item.code in never}, tally)
    busy = {item.source_transfer_id: item.reason for item in refused if item.code == messages.BUSY}
    room = {item.source_transfer_id: item.reason for item in refused if item.code == messages.ROOM}
    wait(busy, now + BUSY_WAIT)
    wait(room, None)
    for id, reason in (busy | room).items():
        tally.wait(said(by_id[id], destination, reason))
    subject = f"librarian {destination.name}"
    if room:
        notices.trouble(host, tally, subject, "room", f"it has no room for {len(room)} or more files that wait for it")
    elif answer.uploads:
        notices.over(host, tally, subject, "room")
    staged = [item for item in answer.uploads if item.source_transfer_id in by_id]
    settled = {id for id, _ in have} | {item.source_transfer_id for item in staged} | set(busy) | set(room)
    settled |= {item.source_transfer_id for item in refused if item.code in never}
    if peer.can(features.BATCH):  # every file must be answered; what is not waits, and is named
        said_so = {item.source_transfer_id: item.reason for item in refused}
        unclear = {id: said_so.get(id, "it gave no answer about this file") for id in by_id if id not in settled}
        wait(unclear, now + BUSY_WAIT)
        for id, reason in unclear.items():
            tally.wait(said(by_id[id], destination, reason))
    if staged:
        _queue(host, destination, [(by_id[item.source_transfer_id], item) for item in staged], answer, wish, tally)
    return bool(room)


def _queue(
    host: Host,
    destination: Librarian,
    staged: list[tuple[Offer, messages.Place]],
    answer: messages.Places,
    wish: Wish,
    tally: Tally,
) -> None:
    """Queue what got a place, with the first carrier of the answer that this node can use."""
    now = host.now()
    subject = f"librarian {destination.name}"
    kind, provider, why = _carrier(host, answer)
    refused: dict[int, str] = {}
    if kind is not None:
        carrier = host.mover(kind)
        refused = {offer.id: carrier.refuses(offer.name) for offer, _ in staged if carrier is not None}
        refused = {id: reason for id, reason in refused.items() if reason}
    with writing("queue"):
        serialise(removing.COPIES_KEY)  # from here on what is to be read is not let go
        copies = _copies(host, [offer.file for offer, _ in staged], wish.preference)
        unreadable = {offer.id: "no copy of it can be read here now" for offer, _ in staged if offer.file not in copies}
        going = [(offer, item) for offer, item in staged if offer.id not in refused and offer.id not in unreadable]
        update_many(
            _OUT,
            ["id", "status", "remote_id", "staging_location"],
            [
                (offer.id, int(TransferStatus.ONGOING), item.destination_transfer_id, item.staging_location)
                for offer, item in staged
            ],
            only='"outgoing_transfer"."status" = 0',
        )
        by_store: dict[int, list[Offer]] = {}
        for offer, _ in going if kind is not None else ():
            by_store.setdefault(copies[offer.file], []).append(offer)
        for store, offers in by_store.items():  # a store that is not mounted then holds up only its own files
            for part in portions(offers, wish.batch):
                _enqueue(destination, part, kind or "", provider, store, now)
        if unreadable:
            attempts.fail(unreadable, now, tell=True, counts=False, again=now + attempts.FIRST_DELAY)
        if refused:
            attempts.fail(refused, now, tell=True, parked=True)
        if kind is None and going:
            lost = dict.fromkeys((offer.id for offer, _ in going), f"no carrier: {why}")
            attempts.fail(lost, now, tell=True, counts=False, again=now + attempts.FIRST_DELAY)
    for offer, _ in staged:
        if offer.id in refused:
            tally.problem(said(offer, destination, refused[offer.id]))
    tally.postponed += len(unreadable)
    if kind is None and going:
        tally.person = True
        tally.postponed += len(going)
        text = f"nothing here can carry files to it: {why}. Afterwards: 'libtool retry --librarian {destination.name}', or wait."
        notices.trouble(host, tally, subject, "carrier", text, at_once=True)
    elif going:
        tally.done += len(going)
        notices.over(host, tally, subject, "carrier")


def _enqueue(destination: Librarian, offers: list[Offer], kind: str, provider: Any, store: int, now: datetime) -> None:
    """One queue item for files that are read from one store; inside the caller's transaction."""
    queue = SendQueue.create(
        destination=destination.id,
        mover=kind,
        provider=json.dumps(provider),
        create_time=now,
        files=len(offers),
        size=sum(offer.size for offer in offers),
    )
    going = among(_OUT.id, [offer.id for offer in offers]) & live(_OUT)
    _OUT.update(store=store, queue=queue, not_before=None, reason=None).where(going).execute()


def _carrier(host: Host, answer: messages.Places) -> tuple[str | None, Any, str]:
    """``(kind, provider, "")`` of the first usable carrier, or ``(None, None, why none is)``."""
    reasons = []
    for name, provider in answer.async_transfer_providers.items():
        kind = movers.kind_of(provider)
        mover = host.mover(kind) if kind is not None else None
        why = mover.reaches(provider) if mover is not None else f"this node has no carrier '{kind or name}'"
        if not why:
            return kind, provider, ""
        reasons.append(why)
    nothing = "its store lists no carrier, which its operator adds as asynchronous_transfer_manager_data"
    return None, None, "; ".join(reasons) or nothing


def _copies(host: Host, files: list[int], preference: str | None) -> dict[int, int]:
    """For each file the store whose copy is to be read: the preferred one if it has it, else in the configured order."""
    order = {wanted.store_name: n for n, wanted in enumerate(host.settings.add_stores)}
    found: dict[int, tuple[int, int]] = {}
    rows = (
        Instance.select(Instance.file, StoreRow.id, StoreRow.name)
        .join(StoreRow)
        .where(among(Instance.file, files), Instance.available, StoreRow.enabled)
    )
    for file, store, name in raw_rows(rows):
        rank = -1 if name == preference else order.get(name, len(order))
        if file not in found or rank < found[file][0]:
            found[file] = (rank, store)
    return {file: store for file, (_, store) in found.items()}


def park(host: Host, destination: Librarian, reasons: dict[int, str], tally: Tally) -> None:
    """What the destination will never take as it is: told once, shown by status, freed by ``retry``."""
    if not reasons:
        return
    with writing("park"):
        ended = attempts.fail(reasons, host.now(), tell=False, parked=True)
    called = attempts.named(row.id for row in ended)
    for id, name in called.items():
        command = f"libtool retry --librarian {destination.name} {shlex.quote(names.shown(name))}"
        how = f'Settle it there, then run "{command}"; or take it in under another name.'
        tally.problem(f"'{names.shown(name)}' was refused by {destination.name}: {reasons[id]}. {how}")


def wait(reasons: dict[int, str], until: datetime | None) -> None:
    """Let these be asked for again (not before ``until``), and remember why they wait."""
    if not reasons:
        return
    with writing("wait"):
        for reason in set(reasons.values()):
            same = [id for id, why in reasons.items() if why == reason]
            _OUT.update(not_before=until, reason=attempts.brief(reason)).where(
                among(_OUT.id, same), _OUT.status == SQL("0")
            ).execute()


def said(offer: Offer, destination: Librarian, why: str) -> str:
    """The line that names a file, its destination and what is the matter."""
    return f"'{names.shown(offer.name)}' for {destination.name}: {why}"


def tell_failures(host: Host, destination: Librarian, peer: Peer) -> None:
    """Let the destination free what it holds for attempts that are over here."""
    while True:
        rows = list(
            _OUT.select(_OUT.id, _OUT.remote_id)
            .where(_OUT.destination == destination.id, owing(_OUT), _OUT.owed == Owed.FAILURE)
            .order_by(_OUT.id)
            .limit(1000)
        )
        if not rows:
            return
        pairs = [messages.Pair(row.id, row.remote_id) for row in rows if row.remote_id is not None]
        if peer.can(features.COMPARE):  # by both numbers: a restored librarian uses its own anew
            peer.ask("libtool/clone/given_up", messages.Staged(pairs), messages.StagedAnswer)
        else:
            ids = [pair.destination_transfer_id for pair in pairs]
            peer.ask("checkin/update", messages.CheckinUpdate([], ids, TransferStatus.FAILED), messages.CheckinUpdated)
        with writing("failure told"):
            _OUT.update(owed=Owed.NOTHING).where(
                among(_OUT.id, [row.id for row in rows]), _OUT.owed == Owed.FAILURE
            ).execute()
