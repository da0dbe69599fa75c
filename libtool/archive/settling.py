"""Live transfers of which the other end knows better, because one of the two was restored from an older database.

The other end is asked about both numbers of each, since a restored librarian uses its numbers anew. What it says is
definite: it wrote its row down before it ever answered. No answer changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from libtool import digest
from libtool.archive import attempts, places, receiving
from libtool.archive.hands import Host, Tally, portions
from libtool.errors import PeerRefused, PeerUnreachable, StoreUnavailable
from libtool.models.base import among, raw_rows, writing
from libtool.models.tables import File, IncomingTransfer, Librarian, OutgoingTransfer, SendQueue, live, waiting
from libtool.peers import messages
from libtool.peers.client import Peer
from libtool.states import Owed, TransferStatus

#: Transfers in one request.
PAGE = 2000
_IN, _OUT = IncomingTransfer, OutgoingTransfer
_OVER = (TransferStatus.FAILED, TransferStatus.CANCELLED)
T = TypeVar("T")


class Sent(NamedTuple):
    """A transfer to a neighbour, and what it brings."""

    id: int
    name: str
    size: int
    checksum: str
    remote_id: int | None


_SENT = (_OUT.id, File.name, File.size, File.checksum, _OUT.remote_id)


def ask_each(peer: Peer, items: list[T], question: Callable[[list[T]], list[Any]]) -> list[Any]:
    """One answer for each item, in their order; in smaller requests when the neighbour takes no larger ones."""
    try:
        found = question(items)
    except PeerRefused as refusal:
        if refusal.facts["status"] != 413 or len(items) < 2:
            raise
        half = len(items) // 2
        return ask_each(peer, items[:half], question) + ask_each(peer, items[half:], question)
    if len(found) != len(items):
        raise PeerUnreachable(name=peer.name, why=f"it answered {len(found)} times to {len(items)} questions")
    return found


def known_there(peer: Peer, names: list[str]) -> list[messages.KnownFile | None]:
    """What a neighbour knows of files."""

    def question(part: list[str]) -> list[messages.KnownFile | None]:
        answer: messages.KnownAnswer = peer.ask("libtool/catalogue/known", messages.Known(part), messages.KnownAnswer)
        return answer.files

    return ask_each(peer, names, question)


def settle_incoming(host: Host, source: Librarian, peer: Peer, tally: Tally) -> None:
    """What a source brings here: given up there, it ends here; believed to have arrived, it is looked at by recv-clone.

    What lies here whole, though its source has forgotten it, is taken in; it may be the last copy.
    """

    def question(part: list[tuple[int, int, int]]) -> list[TransferStatus | None]:
        asked = messages.States(outgoing=[messages.Pair(theirs, id) for id, theirs, _ in part])
        answer: messages.StatesAnswer = peer.ask("libtool/clone/states", asked, messages.StatesAnswer)
        return answer.outgoing

    mine = (_IN.source == source.name) & live(_IN) & (_IN.source_transfer_id >= 0) & _IN.claim.is_null()
    rows = list(raw_rows(_IN.select(_IN.id, _IN.source_transfer_id, _IN.status).where(mine).order_by(_IN.id)))
    for page in portions(rows, PAGE):
        over, arrived = [], []
        for (id, _, status), there in zip(page, ask_each(peer, page, question)):
            if (there is None or there in _OVER) and status < TransferStatus.STAGED:
                over.append(id)
            elif there is not None and there not in _OVER and there >= TransferStatus.STAGED > status:
                arrived.append(id)
        with writing("settled incoming"):
            ended = receiving.end(
                over, TransferStatus.FAILED, host, f"{source.name} knows of no such transfer any more"
            )
            changes = {"status": TransferStatus.STAGED}
            looked = _IN.update(**changes).where(among(_IN.id, arrived), _IN.status < TransferStatus.STAGED).execute()
        tally.done += ended + int(looked)
        if ended:
            tally.details.append(f"{ended} transfers from {source.name} are over, since it knows nothing of them")


def settle_outgoing(host: Host, destination: Librarian, peer: Peer, tally: Tally) -> None:
    """What we wait for at a destination, though nothing carries it any more: it has the file, or goes on with it, or knows
    of no such transfer, and then the file is sent anew."""

    def question(part: list[Sent]) -> list[TransferStatus | None]:
        asked = messages.States(incoming=[messages.Pair(it.id, it.remote_id or 0) for it in part])
        answer: messages.StatesAnswer = peer.ask("libtool/clone/states", asked, messages.StatesAnswer)
        return answer.incoming

    carried = SendQueue.select(SendQueue.id).where(waiting())
    idle = _OUT.queue.is_null() | ~(_OUT.queue << carried)
    mine = (_OUT.destination == destination.id) & live(_OUT) & _OUT.remote_id.is_null(False) & idle
    query = _OUT.select(*_SENT).join(File).where(mine, _OUT.owed == Owed.NOTHING).order_by(_OUT.id)
    for page in portions([Sent(*row) for row in raw_rows(query)], PAGE):
        states = ask_each(peer, page, question)
        ended = [it for it, there in zip(page, states) if there is None or there >= TransferStatus.COMPLETED]
        stored = dict(_stored(peer, ended))
        why = f"{destination.name} knows of no such transfer any more"
        with writing("settled outgoing"):
            attempts.complete(destination, stored.items(), host.now())
            bad = {it.id: there for it, there in zip(page, states) if there in _OVER and it.id not in stored}
            lost = dict.fromkeys((it.id for it in ended if it.id not in stored and it.id not in bad), why)
            anew = attempts.fail(lost, host.now(), tell=False, counts=False)
            for state in _OVER:
                said = f"{destination.name} says that it is {state.name}"
                anew += attempts.fail({id: said for id in bad if bad[id] is state}, host.now(), tell=False)
        tally.done += len(ended)
        if stored:
            tally.details.append(f"{len(stored)} files are at {destination.name} already")
        if anew:
            tally.details.append(f"{len(anew)} transfers to {destination.name} begin anew, since it lost them")


def record_stored(host: Host, destination: Librarian, peer: Peer, ids: list[int]) -> None:
    """These are stored there already: it told us so once, and then one of us was restored. So it is asked where."""
    if not ids:
        return
    rows = raw_rows(_OUT.select(*_SENT).join(File).where(among(_OUT.id, ids)))
    stored = _stored(peer, [Sent(*row) for row in rows])
    with writing("recorded there"):
        attempts.complete(destination, stored, host.now())


def _stored(peer: Peer, sent: list[Sent]) -> list[tuple[int, int]]:
    """Those of which the destination has a copy with just this content, and in which of its stores."""
    if not sent:
        return []
    known = known_there(peer, [it.name for it in sent])
    return [
        (it.id, file.store_id)
        for it, file in zip(sent, known)
        if file is not None
        and file.store_id is not None
        and file.size == it.size
        and digest.same(file.checksum, it.checksum)
    ]


def remove_forgotten_places(host: Host, tally: Tally) -> None:
    """Staging places that no row names: whoever made them was forgotten with a newer database. A place is made after
    its row, so that none is taken for one that is just being made."""
    for row in places.in_order(host):
        try:
            store = host.store(row)
            there = store.reserved()
            named = {id for (id,) in raw_rows(_IN.select(_IN.staging_id).where(among(_IN.staging_id, there)))}
            for staging_id in set(there) - named:
                store.discard(staging_id)
                tally.done += 1
        except (OSError, StoreUnavailable):
            continue
