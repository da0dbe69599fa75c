"""Staging at a stock librarian, which answers for a whole batch at once.

What it objects to is taken out and the rest is asked for again, so that one file does not hold up the others.
"""

from __future__ import annotations

from datetime import datetime

from libtool import digest
from libtool.archive import attempts, librarians, notices
from libtool.archive.hands import Host, Tally
from libtool.archive.staging import BUSY_WAIT, Offer, Wish, park, request_for, said, take_answer, wait
from libtool.errors import PeerRefused, PeerUnreachable
from libtool.models.base import writing
from libtool.models.tables import Librarian
from libtool.peers import messages
from libtool.peers.client import Answer, Peer, read_error
from libtool.states import TransferStatus

#: Longest name that stock librarians keep.
STOCK_NAME = 256
#: Requests for one batch, each without what the one before was refused for.
ROUNDS = 6


def stage(host: Host, destination: Librarian, peer: Peer, offers: list[Offer], wish: Wish, tally: Tally) -> bool:
    """Ask for places and queue what got one; returns whether the destination has no more room."""
    long = [offer.id for offer in offers if len(offer.name) > STOCK_NAME]
    park(host, destination, dict.fromkeys(long, "stock librarians keep names of at most 256 characters"), tally)
    return _stage(host, destination, peer, [offer for offer in offers if len(offer.name) <= STOCK_NAME], wish, tally)


def _stage(host: Host, destination: Librarian, peer: Peer, offers: list[Offer], wish: Wish, tally: Tally) -> bool:
    left = {offer.id: offer for offer in offers}
    full = False
    for _ in range(ROUNDS):
        if not left:
            return full
        answer = peer.post("clone/batch_stage", request_for(host, list(left.values())))
        objected = _objected(answer, left)
        if 200 <= answer.status < 300:
            return _take_stock_answer(host, destination, peer, list(left.values()), answer, wish, tally) or full
        if answer.status == 406:
            # It just removed what an earlier request of ours, whose answer was lost, had staged. Asking anew works.
            continue
        if answer.status == 409 and objected:
            _settle_present(host, destination, peer, [left[id] for id in objected], tally)
        elif answer.status == 425 and objected:
            _postpone(objected, left, destination, "it is under way there already", host.now() + BUSY_WAIT, tally)
        elif answer.status == 413:
            objected, full = _without_room(host, destination, peer, left), True
            _postpone(objected, left, destination, "it has no room for it now", None, tally)
            notices.trouble(
                host, tally, f"librarian {destination.name}", "room", "it has no room for what waits for it"
            )
        elif answer.status in (400, 422, 500) and _alive(peer):
            return _divide(host, destination, peer, list(left.values()), answer, wish, tally) or full
        else:
            raise peer.refusal("clone/batch_stage", answer)
        for id in objected:
            del left[id]
    _postpone(list(left), left, destination, "it changed its mind too often", host.now() + BUSY_WAIT, tally)
    return full


def _without_room(host: Host, destination: Librarian, peer: Peer, left: dict[int, Offer]) -> list[int]:
    """Which files do not fit: stock refuses a request by its total, so ask for nothing to hear how much room there is."""
    answer = peer.post("clone/batch_stage", request_for(host, []))
    room = 0
    if 200 <= answer.status < 300:
        try:
            room = messages.decode(messages.Places, answer.body).available_bytes_on_store
        except ValueError:
            room = 0
    missing = []
    for offer in left.values():
        if offer.size < room:
            room -= offer.size
        else:
            missing.append(offer.id)
    return missing or list(left)  # it says that there is room and takes nothing: then all of them wait


def _alive(peer: Peer) -> bool:
    """Whether it answers at all: then it is the request that it cannot take, not the moment."""
    try:
        librarians.probe(peer)
        return True
    except PeerUnreachable:
        return False


def _divide(
    host: Host, destination: Librarian, peer: Peer, offers: list[Offer], answer: Answer, wish: Wish, tally: Tally
) -> bool:
    """Something in this request makes it fail: halve it until the one file is found; that waits, by name."""
    if len(offers) > 1:
        half = len(offers) // 2
        full = _stage(host, destination, peer, offers[:half], wish, tally)
        return _stage(host, destination, peer, offers[half:], wish, tally) or full
    why, _, _ = read_error(answer.body)
    reason = f"it cannot take this file ({answer.status}: {why or 'no reason given'})"
    with writing("choked"):
        attempts.fail({offers[0].id: reason}, host.now(), tell=False)
    tally.problem(said(offers[0], destination, reason))
    return False


def _postpone(
    ids: list[int], left: dict[int, Offer], destination: Librarian, why: str, until: datetime | None, tally: Tally
) -> None:
    wait(dict.fromkeys(ids, why), until)
    for id in ids:
        tally.wait(said(left[id], destination, why))


def _objected(answer: Answer, left: dict[int, Offer]) -> list[int]:
    """Which of our transfers an error of a stock librarian is about."""
    _, _, found = read_error(answer.body) if answer.status >= 400 else ("", "", {})
    ids = found.get("source_transfer_ids")
    named = [id for id in ids if isinstance(id, int) and id in left] if isinstance(ids, list) else []
    return list(dict.fromkeys(named))


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
        staged = messages.decode(messages.Places, answer.body)
    except ValueError as wrong:
        raise PeerUnreachable(name=peer.name, why=f"its answer to clone/batch_stage cannot be read: {wrong}") from None
    given = {item.source_transfer_id for item in staged.uploads}
    left_out = [offer for offer in offers if offer.id not in given]
    notices.over(host, tally, f"librarian {destination.name}", "room")
    full = take_answer(host, destination, peer, offers, staged, wish, tally)
    if left_out:
        with writing("left out"):
            attempts.fail(
                dict.fromkeys((offer.id for offer in left_out), "it was left out of the answer"), host.now(), tell=False
            )
        for offer in left_out:
            tally.problem(said(offer, destination, "it left this file out of its answer without a reason"))
    asked = {offer.id for offer in offers}
    ours = [item.destination_transfer_id for item in staged.uploads if item.source_transfer_id in asked]
    if ours:
        peer.ask("checkin/update", messages.CheckinUpdate([], ours, TransferStatus.ONGOING), messages.CheckinUpdated)
    return full


def _settle_present(host: Host, destination: Librarian, peer: Peer, offers: list[Offer], tally: Tally) -> None:
    """A stock librarian says that it has these: look what it has, and record it if that is the same."""
    present: list[tuple[int, int]] = []
    different: dict[int, str] = {}
    unclear: list[int] = []
    for offer in offers:
        try:
            found = peer.ask("search/file", messages.SearchFile(name=offer.name), list[messages.FoundFile])
        except PeerRefused:
            found = []
        files = [file for file in found if file.name == offer.name]
        copies = [
            (file, copy) for file in files for copy in file.instances if copy.available and copy.store_id is not None
        ]
        if not files:
            unclear.append(offer.id)  # it just said that it has it
        elif not copies:
            different[offer.id] = "it says that it has a file of that name, but shows no copy of it"
        elif any(digest.same(file.checksum, offer.checksum) is None for file, _ in copies):
            different[offer.id] = "it has a file of that name with a checksum of another kind, which cannot be compared"
        elif all(digest.same(file.checksum, offer.checksum) and file.size == offer.size for file, _ in copies):
            present.append((offer.id, copies[0][1].store_id or 0))
        else:
            different[offer.id] = "it has other content under that name"
    by_id = {offer.id: offer for offer in offers}
    why = "it says that it has the file, and then that it has not"
    _postpone(unclear, by_id, destination, why, host.now() + BUSY_WAIT, tally)
    with writing("present"):
        attempts.complete(destination, present, host.now())
    tally.done += len(present)
    park(host, destination, different, tally)
