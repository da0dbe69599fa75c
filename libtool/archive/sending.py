"""Sending, first half: what a destination lacks, written down as transfers, staged there, and queued.

A run first asks again for what was written down and not answered, then chooses new files, batch after batch. The
source's number of a transfer is its identity: a repeated request gets the same answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from peewee import SQL, Expression, fn

from libtool import digest, movers, names
from libtool.archive import attempts, librarians, notices
from libtool.archive.hands import Budget, Host, Tally, portions
from libtool.errors import PeerDeniesUs, PeerRefused, PeerUnreachable
from libtool.models.base import among, raw_rows, update_many, writing
from libtool.models.tables import (
    File,
    Instance,
    Librarian,
    OutgoingTransfer,
    RemoteInstance,
    Retry,
    SendQueue,
    live,
    owing,
)
from libtool.models.tables import Store as StoreRow
from libtool.peers import features, messages
from libtool.peers.client import Answer, Peer, read_error
from libtool.states import Owed, TransferStatus
from libtool.units import to_microseconds

#: Files that a run looks at again beyond those it has not considered yet; so all are within some days.
SECOND_LOOK = 5000
#: A file younger than this is looked at by every run: on PostgreSQL a smaller id may be committed after a larger one.
SETTLED = timedelta(minutes=10)
#: Longest name that stock librarians keep.
STOCK_NAME = 256
#: Queue items that one request may be for, and files in it then.
REQUEST_ITEMS, REQUEST_FILES = 2, 2000
#: Bytes of names in one request.
REQUEST_BYTES = 8 * 1024**2
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


def send(
    host: Host,
    destination: Librarian,
    wish: Wish,
    budget: Budget,
    tally: Tally,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Stage and queue everything that is due for one destination, as far as time allows."""
    subject = f"librarian {destination.name}"
    peer: Peer | None = None
    after, full = 0, False
    try:
        while budget.left:
            offers = _offers(destination, after, _request_size(destination, wish), host.now())
            if not offers and (full or not choose(host, destination, wish)):
                break
            if not offers:
                continue
            if peer is None:
                peer = host.peer(destination)
                librarians.get_acquainted(destination, peer, host.now())
                tell_failures(host, destination, peer)
            after = offers[-1].id
            done = tally.done
            full = stage(host, destination, peer, offers, wish, tally) or full
            if progress is not None:
                progress(tally.done - done)
        if (
            peer is None
            and _OUT.select().where(_OUT.destination == destination.id, owing(_OUT), _OUT.owed == Owed.FAILURE).exists()
        ):
            peer = host.peer(destination)
            tell_failures(host, destination, peer)
        if peer is not None:
            for kind in ("unreachable", "account", "refuses"):
                notices.over(host, tally, subject, kind)
    except PeerUnreachable as trouble:
        tally.postponed += waiting(destination)
        notices.trouble(host, tally, subject, "unreachable", trouble.text)
    except PeerDeniesUs as trouble:
        tally.postponed += waiting(destination)
        tally.person = True
        notices.trouble(host, tally, subject, "account", trouble.text, at_once=True)
    except PeerRefused as trouble:
        tally.postponed += waiting(destination)
        notices.trouble(host, tally, subject, "refuses", trouble.text, at_once=True)
    finally:
        if peer is not None:
            librarians.keep_acquaintance(destination, peer, host.now())
            peer.close()


def _request_size(destination: Librarian, wish: Wish) -> int:
    """Files in one request: two queue items' worth, for a request costs more than a file; stock librarians, which
    answer for a request as a whole, get one."""
    if features.BATCH not in destination.features.split():
        return wish.batch
    return max(wish.batch, min(REQUEST_ITEMS * wish.batch, REQUEST_FILES))


def waiting(destination: Librarian) -> int:
    """How many transfers are written down and not staged at a destination."""
    return int(
        _OUT.select(fn.COUNT(_OUT.id)).where(_OUT.destination == destination.id, _OUT.status == SQL("0")).scalar()
    )


# -- choosing -----------------------------------------------------------------------------------------------------


def choose(host: Host, destination: Librarian, wish: Wish) -> int:
    """Write down transfers for up to a batch of files that the destination lacks; returns how many.

    Considered are: what failed and is due again; every file that was not considered yet; and a window of those that
    were, so that nothing is missed for long whatever happened to the database. The cost follows what is pending.
    """
    now = host.now()
    row = Librarian.get_by_id(destination.id)
    upto = row.sent_upto if row.sent_age == wish.age_in_days else 0
    with writing("choose"):
        limit = _request_size(destination, wish)
        chosen = _insert(_due_again(destination, now), limit, destination, now)
        if chosen < limit:
            fresh = File.id > upto
            chosen += _insert(_lacking(destination, wish, now) & fresh, limit - chosen, destination, now)
        if chosen < limit:
            again = row.sent_again if row.sent_again < upto else 0
            end = min(again + SECOND_LOOK, upto)
            window = (File.id > again) & (File.id <= end)
            chosen += _insert(_lacking(destination, wish, now) & window, limit - chosen, destination, now)
            if chosen < limit:
                _considered(row, _settled_upto(upto, now), end, wish)
    return chosen


def _due_again(destination: Librarian, now: datetime) -> Expression:
    """Files whose next attempt is due."""
    due = Retry.select(Retry.file).where(Retry.destination == destination.id, Retry.not_before <= now)
    return (File.id << due) & _readable() & _not_live(destination)


def _lacking(destination: Librarian, wish: Wish, now: datetime) -> Expression:
    """Files that the destination has not, is not getting, and that do not wait for anything."""
    there = RemoteInstance.select(SQL("1")).where(
        RemoteInstance.file == File.id, RemoteInstance.librarian == destination.id
    )
    later = Retry.select(SQL("1")).where(Retry.file == File.id, Retry.destination == destination.id)
    lacking = ~fn.EXISTS(there) & ~fn.EXISTS(later) & _not_live(destination) & _readable()
    if wish.age_in_days is not None:
        lacking &= File.create_time >= now - timedelta(days=wish.age_in_days)
    return lacking


def _not_live(destination: Librarian) -> Expression:
    return ~fn.EXISTS(_OUT.select(SQL("1")).where(_OUT.file == File.id, _OUT.destination == destination.id, live(_OUT)))


def _readable() -> Expression:
    """An available copy in an enabled store."""
    return fn.EXISTS(
        Instance.select(SQL("1")).join(StoreRow).where(Instance.file == File.id, Instance.available, StoreRow.enabled)
    )


def _insert(condition: Expression, limit: int, destination: Librarian, now: datetime) -> int:
    chosen = (
        File.select(File.id, SQL(str(destination.id)), SQL("0"), SQL("0"), SQL(str(to_microseconds(now))))
        .where(condition)
        .order_by(File.id)
        .limit(limit)
    )
    columns = [_OUT.file, _OUT.destination, _OUT.status, _OUT.owed, _OUT.create_time]
    inserted = _OUT.insert_from(chosen, columns).on_conflict_ignore()
    return int(inserted.as_rowcount().execute())


def _settled_upto(upto: int, now: datetime) -> int:
    """The last id of which surely no smaller one can still appear."""
    young = (
        File.select(File.id).where(File.id > upto, File.create_time > now - SETTLED).order_by(File.id).limit(1).scalar()
    )
    return int(young) - 1 if young is not None else int(File.select(fn.MAX(File.id)).scalar() or 0)


def _considered(row: Librarian, upto: int, again: int, wish: Wish) -> None:
    """Remember how far this got; nothing is written when that is where it was."""
    if (row.sent_upto, row.sent_again, row.sent_age) != (upto, again, wish.age_in_days):
        Librarian.update(sent_upto=upto, sent_again=again, sent_age=wish.age_in_days).where(
            Librarian.id == row.id
        ).execute()


def _offers(destination: Librarian, after: int, limit: int, now: datetime) -> list[Offer]:
    """The next transfers that wait to be staged, bounded in number and in bytes of names."""
    rows = (
        _OUT.select(_OUT.id, File.name, File.size, File.checksum, File.uploader, File.id)
        .join(File)
        .where(
            _OUT.destination == destination.id,
            _OUT.status == SQL("0"),
            _OUT.id > after,
            _OUT.not_before.is_null() | (_OUT.not_before <= now),
        )
        .order_by(_OUT.id)
        .limit(limit)
    )
    offers: list[Offer] = []
    size = 0
    for row in raw_rows(rows):
        size += 2 * len(row[1]) + 300
        if size > REQUEST_BYTES and offers:
            break
        offers.append(Offer(*row))
    return offers


# -- staging ------------------------------------------------------------------------------------------------------


def stage(host: Host, destination: Librarian, peer: Peer, offers: list[Offer], wish: Wish, tally: Tally) -> bool:
    """Ask for places for one batch and queue what got one; returns whether the destination has no more room."""
    request = messages.BatchStage(
        uploads=[
            messages.UploadItem(offer.size, offer.checksum, offer.name, offer.name, offer.uploader, offer.id)
            for offer in offers
        ],
        source=host.settings.name,
        total_size=sum(offer.size for offer in offers),
    )
    if peer.can(features.BATCH):
        try:
            answer = peer.ask("libtool/clone/batch_stage", request, messages.BatchStaged)
        except PeerRefused as refusal:
            if refusal.facts["status"] != 413 or len(offers) < 2:
                raise
            half = len(offers) // 2  # it takes smaller requests than ours
            full = stage(host, destination, peer, offers[:half], wish, tally)
            return stage(host, destination, peer, offers[half:], wish, tally) or full
        return _take_answer(host, destination, peer, offers, answer, wish, tally)
    return _stage_stock(host, destination, peer, offers, request, wish, tally)


def _stage_stock(
    host: Host,
    destination: Librarian,
    peer: Peer,
    offers: list[Offer],
    request: messages.BatchStage,
    wish: Wish,
    tally: Tally,
) -> bool:
    """The same with a stock librarian, which answers for a whole batch: take out what it objects to and ask again."""
    long = {
        offer.id: "stock librarians keep names of at most 256 characters"
        for offer in offers
        if len(offer.name) > STOCK_NAME
    }
    _park(host, destination, long, tally)
    left = {offer.id: offer for offer in offers if offer.id not in long}
    for _ in range(4):
        if not left:
            return False
        request.uploads = [item for item in request.uploads if item.source_transfer_id in left]
        request.total_size = sum(item.upload_size for item in request.uploads)
        answer = peer.post("clone/batch_stage", request)
        if answer.status == 406:
            # It just removed what an earlier request of ours, whose answer was lost, had staged. Asking anew works.
            continue
        objected = _objected(answer, left)
        if answer.status == 409 and objected:
            _settle_present(host, destination, peer, [left[id] for id in objected], tally)
        elif answer.status == 425 and objected:
            _wait(dict.fromkeys(objected, "it is under way there already"), host.now() + BUSY_WAIT)
            for id in objected:
                tally.wait(_said(left[id], destination, "it is under way there already"))
        elif answer.status == 413:
            tally.postponed += len(left)
            notices.trouble(
                host, tally, f"librarian {destination.name}", "room", "it has no room for what waits for it"
            )
            return True
        elif 200 <= answer.status < 300:
            notices.over(host, tally, f"librarian {destination.name}", "room")
            return _take_stock_answer(host, destination, peer, list(left.values()), answer, wish, tally)
        else:
            raise peer.refusal("clone/batch_stage", answer)
        for id in objected:
            del left[id]
    return False


def _objected(answer: Answer, left: dict[int, Offer]) -> list[int]:
    """Which of our transfers an error of a stock librarian is about."""
    _, _, found = read_error(answer.body) if answer.status >= 400 else ("", "", {})
    ids = found.get("source_transfer_ids")
    return [id for id in ids if isinstance(id, int) and id in left] if isinstance(ids, list) else []


def _take_stock_answer(
    host: Host,
    destination: Librarian,
    peer: Peer,
    offers: list[Offer],
    answer: Answer,
    wish: Wish,
    tally: Tally,
) -> bool:
    try:
        staged = messages.decode(messages.BatchStaged, answer.body)
    except ValueError as wrong:
        raise PeerUnreachable(name=peer.name, why=f"its answer to clone/batch_stage cannot be read: {wrong}") from None
    given = {item.source_transfer_id for item in staged.uploads}
    left_out = [offer for offer in offers if offer.id not in given]
    full = _take_answer(host, destination, peer, offers, staged, wish, tally)
    if left_out:
        with writing("left out"):
            attempts.fail(
                dict.fromkeys((offer.id for offer in left_out), "it was left out of the answer"), host.now(), tell=False
            )
        for offer in left_out:
            tally.problem(_said(offer, destination, "it left this file out of its answer without a reason"))
    ours = [item.destination_transfer_id for item in staged.uploads]
    if ours:
        peer.ask("checkin/update", messages.CheckinUpdate([], ours, TransferStatus.ONGOING), messages.CheckinUpdated)
    return full


def _settle_present(host: Host, destination: Librarian, peer: Peer, offers: list[Offer], tally: Tally) -> None:
    """A stock librarian says that it has these: look what it has, and record it if that is the same."""
    present: list[tuple[int, int]] = []
    different: dict[int, str] = {}
    for offer in offers:
        try:
            found = peer.ask("search/file", messages.SearchFile(name=offer.name), list[messages.FoundFile])
        except PeerRefused:
            found = []
        copies = [
            (file, copy)
            for file in found
            for copy in file.instances
            if file.name == offer.name and copy.available and copy.store_id is not None
        ]
        if not copies:
            different[offer.id] = "it says that it has a file of that name, but shows no copy of it"
        elif all(digest.same(file.checksum, offer.checksum) and file.size == offer.size for file, _ in copies):
            present.append((offer.id, copies[0][1].store_id or 0))
        else:
            different[offer.id] = "it has other content under that name"
    with writing("present"):
        attempts.complete(destination, present, host.now())
    tally.done += len(present)
    _park(host, destination, different, tally)


def _take_answer(
    host: Host,
    destination: Librarian,
    peer: Peer,
    offers: list[Offer],
    answer: messages.BatchStaged,
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
    said = {item.source_transfer_id: item.reason for item in refused if item.code in (messages.CONFLICT, messages.NAME)}
    _park(host, destination, said, tally)
    busy = {item.source_transfer_id: item.reason for item in refused if item.code == messages.BUSY}
    room = {item.source_transfer_id: item.reason for item in refused if item.code == messages.ROOM}
    _wait(busy, now + BUSY_WAIT)
    _wait(room, None)
    for id, reason in (busy | room).items():
        tally.wait(_said(by_id[id], destination, reason))
    subject = f"librarian {destination.name}"
    if room:
        notices.trouble(host, tally, subject, "room", f"it has no room for {len(room)} or more files that wait for it")
    elif answer.uploads:
        notices.over(host, tally, subject, "room")
    staged = [item for item in answer.uploads if item.source_transfer_id in by_id]
    if staged:
        _queue(host, destination, [(by_id[item.source_transfer_id], item) for item in staged], answer, wish, tally)
    return bool(room)


def _queue(
    host: Host,
    destination: Librarian,
    staged: list[tuple[Offer, messages.StagedItem]],
    answer: messages.BatchStaged,
    wish: Wish,
    tally: Tally,
) -> None:
    """Queue what got a place, with the first carrier of the answer that this node can use."""
    now = host.now()
    subject = f"librarian {destination.name}"
    kind, provider, why = _carrier(host, answer)
    copies = _copies(host, [offer.file for offer, _ in staged], wish.preference)
    refused: dict[int, str] = {}
    if kind is not None:
        carrier = host.mover(kind)
        refused = {offer.id: carrier.refuses(offer.name) for offer, _ in staged if carrier is not None}
        refused = {id: reason for id, reason in refused.items() if reason}
    unreadable = {offer.id: "no copy of it can be read here now" for offer, _ in staged if offer.file not in copies}
    with writing("queue"):
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
        for part in portions(going, wish.batch) if kind is not None else ():
            _enqueue(destination, [offer for offer, _ in part], kind, provider, copies, now)
        if unreadable:
            attempts.fail(unreadable, now, tell=True, counts=False, again=now + attempts.FIRST_DELAY)
        if refused:
            attempts.fail(refused, now, tell=True, parked=True)
        if kind is None and going:
            lost = dict.fromkeys((offer.id for offer, _ in going), f"no carrier: {why}")
            attempts.fail(lost, now, tell=True, counts=False, again=now + attempts.FIRST_DELAY)
    for offer, _ in staged:
        if offer.id in refused:
            tally.problem(_said(offer, destination, refused[offer.id]))
    tally.postponed += len(unreadable)
    if kind is None and going:
        tally.person = True
        tally.postponed += len(going)
        text = f"nothing here can carry files to it ({why}). Check local_transfer_roots or the globus keys here, and its store's carriers."
        notices.trouble(host, tally, subject, "carrier", text, at_once=True)
    elif going:
        tally.done += len(going)
        notices.over(host, tally, subject, "carrier")


def _enqueue(
    destination: Librarian, offers: list[Offer], kind: str, provider: Any, copies: dict[int, int], now: datetime
) -> None:
    """One queue item for these; inside the caller's transaction."""
    queue = SendQueue.create(
        destination=destination.id,
        mover=kind,
        provider=json.dumps(provider),
        create_time=now,
        files=len(offers),
        size=sum(offer.size for offer in offers),
    )
    by_store: dict[int, list[int]] = {}
    for offer in offers:
        by_store.setdefault(copies[offer.file], []).append(offer.id)
    for store, ids in by_store.items():
        going = among(_OUT.id, ids) & live(_OUT)
        _OUT.update(store=store, queue=queue, not_before=None, reason=None).where(going).execute()


def _carrier(host: Host, answer: messages.BatchStaged) -> tuple[str | None, Any, str]:
    """``(kind, provider, "")`` of the first usable carrier, or ``(None, None, why none is)``."""
    reasons = []
    for name, provider in answer.async_transfer_providers.items():
        kind = movers.kind_of(provider)
        mover = host.mover(kind) if kind is not None else None
        why = mover.reaches(provider) if mover is not None else f"this node has no carrier '{kind or name}'"
        if not why:
            return kind, provider, ""
        reasons.append(why)
    return None, None, "; ".join(reasons) or "it offers none"


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


def _park(host: Host, destination: Librarian, reasons: dict[int, str], tally: Tally) -> None:
    """What the destination will never take as it is: told once, shown by status, freed by ``retry``."""
    if not reasons:
        return
    with writing("park"):
        ended = attempts.fail(reasons, host.now(), tell=False, parked=True)
    called = attempts.named(row.id for row in ended)
    for id, name in called.items():
        how = f"Settle it there, then run 'libtool retry --librarian {destination.name}'."
        tally.problem(f"'{names.shown(name)}' was refused by {destination.name}: {reasons[id]}. {how}")


def _wait(reasons: dict[int, str], until: datetime | None) -> None:
    """Let these be asked for again (not before ``until``), and remember why they wait."""
    if not reasons:
        return
    with writing("wait"):
        for reason in set(reasons.values()):
            same = [id for id, why in reasons.items() if why == reason]
            _OUT.update(not_before=until, reason=reason[:1000]).where(
                among(_OUT.id, same), _OUT.status == SQL("0")
            ).execute()


def _said(offer: Offer, destination: Librarian, why: str) -> str:
    return f"'{names.shown(offer.name)}' for {destination.name}: {why}"


# -- telling what was given up ------------------------------------------------------------------------------------


def tell_failures(host: Host, destination: Librarian, peer: Peer) -> None:
    """Let the destination free what it holds for attempts that are over here."""
    while True:
        rows = list(
            _OUT.select(_OUT.id, _OUT.remote_id)
            .where(_OUT.destination == destination.id, owing(_OUT), _OUT.owed == Owed.FAILURE)
            .order_by(_OUT.id)
            .limit(5000)
        )
        if not rows:
            return
        ids = [row.remote_id for row in rows if row.remote_id is not None]
        peer.ask("checkin/update", messages.CheckinUpdate([], ids, TransferStatus.FAILED), messages.CheckinUpdated)
        with writing("failure told"):
            _OUT.update(owed=Owed.NOTHING).where(
                among(_OUT.id, [row.id for row in rows]), _OUT.owed == Owed.FAILURE
            ).execute()


def plan(host: Host, destination: Librarian, wish: Wish) -> Iterator[str]:
    """What a run would stage, a line each; nothing is changed and nobody is asked."""
    now = host.now()
    written = File.select(File.name).join(_OUT, on=(_OUT.file == File.id))
    written = written.where(_OUT.destination == destination.id, _OUT.status == SQL("0")).order_by(_OUT.id)
    chosen = [
        File.select(File.name).where(which).order_by(File.id)
        for which in (_due_again(destination, now), _lacking(destination, wish, now))
    ]
    for query in (written, *chosen):
        for (name,) in query.tuples().iterator():
            yield f"{names.shown(name)} → {destination.name}"
