"""Settling live transfers with the other end: what it says, what lies on disk, and then what ``machine`` decides.

The other end is asked about both numbers of each, since a restored librarian uses its numbers anew; a stock librarian
about the only one that it understands. What it says is definite: it wrote its row down before it ever answered. No
answer changes nothing. ``reconcile`` looks at all transfers, the hypervisors at those that are older than some time.
"""

from __future__ import annotations

import random
import shlex
from array import array
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from peewee import SQL, Expression

from libtool.archive import attempts, lying, machine, places, receiving, stocktaking
from libtool.archive.hands import Budget, Host, Tally
from libtool.archive.lying import Coming
from libtool.archive.machine import Disk, Hold, Rule, Step, There
from libtool.errors import PeerRefused, PeerUnreachable, StoreUnavailable
from libtool.models.base import among, raw_rows, writing
from libtool.models.tables import File, IncomingTransfer, Librarian, OutgoingTransfer, SendQueue, live, waiting
from libtool.names import shown
from libtool.peers import features, messages
from libtool.peers.client import Peer
from libtool.states import Owed, TransferStatus

#: Transfers in one request.
PAGE = 2000
_IN, _OUT = IncomingTransfer, OutgoingTransfer
T = TypeVar("T")
R = TypeVar("R")


class Sent(NamedTuple):
    """A transfer to a neighbour, and what it brings."""

    id: int
    name: str
    size: int
    checksum: str
    remote_id: int | None
    status: int


_SENT = (_OUT.id, File.name, File.size, File.checksum, _OUT.remote_id, _OUT.status)


class Found(NamedTuple):
    """What a neighbour has under a name, and in which of its stores when that is the same."""

    disk: Disk
    store: int | None = None
    why: str = ""


class Verdict(NamedTuple):
    """What becomes of one transfer."""

    row: Any
    there: There
    rule: Rule
    found: Found = Found(Disk.UNKNOWN)


# -- asking -----------------------------------------------------------------------------------------------------------


def ask_each(peer: Peer, items: list[T], question: Callable[[list[T]], list[R]]) -> list[R]:
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


def _states(peer: Peer, pairs: list[messages.Pair], *, incoming: bool) -> list[There]:
    """How far transfers are at a neighbour: its incoming ones, or its outgoing ones."""

    def question(part: list[messages.Pair]) -> list[TransferStatus | None]:
        asked = messages.States(incoming=part) if incoming else messages.States(outgoing=part)
        answer: messages.StatesAnswer = peer.ask("libtool/clone/states", asked, messages.StatesAnswer)
        return answer.incoming if incoming else answer.outgoing

    if peer.can(features.COMPARE):
        return [There.of(state) for state in ask_each(peer, pairs, question)]
    return ask_each(peer, pairs, lambda part: stocktaking.states(peer, part, incoming=incoming))


def _found(peer: Peer, sent: list[Sent]) -> list[Found]:
    """What a destination has under the names of files."""
    if not sent:
        return []
    if peer.can(features.COMPARE):
        known = known_there(peer, [it.name for it in sent])
        return [Found(*stocktaking.compare(it.size, it.checksum, each)) for it, each in zip(sent, known)]
    return [Found(*each) for each in stocktaking.search(peer, [(it.name, it.size, it.checksum) for it in sent])]


# -- what comes here --------------------------------------------------------------------------------------------------


def _coming(source: str, before: datetime | None, *, numbered: bool) -> Expression:
    """Live transfers of a source that nobody here has in hand; all others the machine leaves alone."""
    mine = (_IN.source == source) & live(_IN) & _IN.claim.is_null() & (_IN.status < SQL("2"))
    mine &= (_IN.source_transfer_id >= 0) if numbered else (_IN.source_transfer_id < 0)
    return mine if before is None else mine & (_IN.create_time < before)


def incoming(
    host: Host, source: str, peer: Peer | None, before: datetime | None = None, *, numbered: bool = True
) -> Iterator[list[Verdict]]:
    """What becomes of transfers that a source brings here, page by page. Without ``peer`` there is nobody to ask.

    ``before``: only of those that are older, and what changed since then is still being brought.
    """
    which = _coming(source, before, numbered=numbered)
    for page in _pages(_IN.select(_IN.id).where(which)):
        rows = [Coming(*row) for row in raw_rows(_IN.select(*lying.COMING).where(among(_IN.id, page), which))]
        said = [There.NOBODY] * len(rows)
        if peer is not None and rows:
            said = _states(peer, [messages.Pair(row.theirs or 0, row.id) for row in rows], incoming=False)
        here = lying.look(host, rows, before)
        yield [
            Verdict(row, there, machine.incoming(TransferStatus(row.status), Hold.IDLE, there, here[row.id]))
            for row, there in zip(rows, said)
        ]


def count_incoming(source: str, before: datetime) -> int:
    """How many transfers that a librarian brings here are older than that."""
    return int(_IN.select().where(_coming(source, before, numbered=True)).count())


def settle_incoming(
    host: Host,
    source: str,
    peer: Peer | None,
    tally: Tally,
    budget: Budget,
    before: datetime | None = None,
    *,
    numbered: bool = True,
) -> None:
    """Do what the machine says about what a source brings here."""
    for verdicts in within(budget, incoming(host, source, peer, before, numbered=numbered)):
        _act_incoming(host, source, verdicts, tally)


def _act_incoming(host: Host, source: str, verdicts: list[Verdict], tally: Tally) -> None:
    was = {it.row.id: it.row.status for it in verdicts}
    with writing("settled incoming"):
        # Meanwhile its source may have said more, or recv-clone may have it.
        same = {id for id, status in raw_rows(_still(list(was))) if was[id] == status}
        by_step = _by_step(verdicts, same)
        ending: dict[str, list[int]] = {}
        for it in by_step.get(Step.END, []):
            ending.setdefault(why(source, it.there), []).append(it.row.id)
        for reason, ids in ending.items():
            receiving.end(ids, TransferStatus.FAILED, host, reason)
        looked = [it.row.id for it in by_step.get(Step.LOOK, [])]
        changes = {"status": TransferStatus.STAGED}
        _IN.update(**changes).where(among(_IN.id, looked), _IN.status < TransferStatus.STAGED).execute()
    for reason, ids in ending.items():
        tally.done += len(ids)
        tally.details.append(f"{len(ids)} transfers from {source} are over, since {reason}")
    if looked:
        tally.done += len(looked)
        tally.details.append(f"{len(looked)} files from {source} seem to lie here; recv-clone reads them")
    _remark(tally, source, verdicts)


def _still(ids: list[int]) -> Any:
    return _IN.select(_IN.id, _IN.status).where(among(_IN.id, ids), live(_IN), _IN.claim.is_null())


# -- what is sent -----------------------------------------------------------------------------------------------------


def _idle(destination: Librarian, before: datetime | None) -> Expression:
    """Live transfers that nothing carries, that owe no word and do not travel by hand; all others the machine leaves
    alone."""
    carried = SendQueue.select(SendQueue.id).where(waiting())
    mine = (_OUT.destination == destination.id) & live(_OUT) & (_OUT.owed == Owed.NOTHING)
    mine &= _OUT.queue.is_null() | ~(_OUT.queue << carried)
    mine &= ~attempts.by_hand(destination, None)
    return mine if before is None else mine & (_OUT.create_time < before)


def outgoing(destination: Librarian, peer: Peer, before: datetime | None = None) -> Iterator[list[Verdict]]:
    """What becomes of idle transfers to a destination, page by page; with ``before`` only of those that are older."""
    which = _idle(destination, before)
    if not peer.can(features.COMPARE):
        # Whatever waits for its place is asked for by send-clone; one search for each would cost more than that.
        which &= _OUT.status > SQL("0")
    for page in _pages(_OUT.select(_OUT.id).where(which)):
        query = _OUT.select(*_SENT).join(File).where(among(_OUT.id, page), which)
        rows = [Sent(*row) for row in raw_rows(query)]
        asked = [row for row in rows if row.remote_id is not None]
        said = dict.fromkeys((row.id for row in rows), There.FORGOTTEN)  # it never had a number there
        if asked:
            pairs = [messages.Pair(row.id, row.remote_id or 0) for row in asked]
            said |= {row.id: there for row, there in zip(asked, _states(peer, pairs, incoming=True))}
        open = [row for row in rows if machine.matters(TransferStatus(row.status), Hold.IDLE, said[row.id])]
        found = {row.id: each for row, each in zip(open, _found(peer, open))}
        yield [_verdict(row, said[row.id], found.get(row.id, Found(Disk.UNKNOWN))) for row in rows]


def _verdict(row: Sent, there: There, found: Found) -> Verdict:
    rule = machine.outgoing(TransferStatus(row.status), Hold.IDLE, there, found.disk)
    return Verdict(row, there, rule, found)


def count_outgoing(destination: Librarian, before: datetime) -> int:
    """How many transfers to a destination are older than that, and nothing is done about them."""
    return int(_OUT.select().where(_idle(destination, before)).count())


def settle_outgoing(
    host: Host, destination: Librarian, peer: Peer, tally: Tally, budget: Budget, before: datetime | None = None
) -> None:
    """Do what the machine says about what is sent to a destination."""
    for verdicts in within(budget, outgoing(destination, peer, before)):
        _act_outgoing(host, destination, verdicts, tally)


def _act_outgoing(host: Host, destination: Librarian, verdicts: list[Verdict], tally: Tally) -> None:
    now, name = host.now(), destination.name
    was = {it.row.id: (it.row.status, it.row.remote_id) for it in verdicts}
    with writing("settled outgoing"):
        # Meanwhile the destination may have said more, or send-clone may have got a place for it.
        columns = (_OUT.id, _OUT.status, _OUT.remote_id)
        rows = raw_rows(_OUT.select(*columns).where(among(_OUT.id, list(was)), _idle(destination, None)))
        by_step = _by_step(verdicts, {id for id, *now_is in rows if was[id] == tuple(now_is)})
        recorded = [(it.row.id, it.found.store or 0) for it in by_step.get(Step.RECORD, [])]
        attempts.complete(destination, recorded, now)
        told = [it.row.id for it in by_step.get(Step.TELL, [])]
        _OUT.update(owed=Owed.STAGED).where(among(_OUT.id, told)).execute()
        again = by_step.get(Step.AGAIN, [])
        # What it has lost or forgotten is no fault of the file; what failed there may be.
        for counts in (False, True):
            mine = {it.row.id: why(name, it.there) for it in again if counts == (it.there in _FAILED)}
            attempts.fail(mine, now, tell=False, counts=counts)
        parked = {it.row.id: it.found.why for it in by_step.get(Step.PARK, [])}
        attempts.fail(parked, now, tell=False, parked=True)
    tally.done += len(recorded) + len(told) + len(again)
    for count, text in (
        (len(recorded), f"files are at {name} already"),
        (len(again), f"transfers to {name} begin anew, since it lost them"),
        (len(told), f"files lie in the staging area of {name}, which is told once more"),
    ):
        if count:
            tally.details.append(f"{count} {text}")
    for it in by_step.get(Step.PARK, []):
        file = shlex.quote(shown(it.row.name))
        how = f"Settle it there, then run 'libtool retry --librarian {name} {file}'."
        tally.problem(f"'{shown(it.row.name)}' will not be taken by {name}: {it.found.why}. {how}")
    _remark(tally, name, verdicts)


def record_stored(host: Host, destination: Librarian, peer: Peer, ids: list[int]) -> None:
    """These are stored there already: it told us so once, and then one of us was restored. So it is asked where."""
    if not ids:
        return
    sent = [Sent(*row) for row in raw_rows(_OUT.select(*_SENT).join(File).where(among(_OUT.id, ids)))]
    stored = [(it.id, each.store) for it, each in zip(sent, _found(peer, sent)) if each.disk is Disk.SAME]
    with writing("recorded there"):
        attempts.complete(destination, [(id, store) for id, store in stored if store is not None], host.now())


# -- in common --------------------------------------------------------------------------------------------------------

_FAILED = (There.FAILED, There.CANCELLED)


def why(name: str, there: There) -> str:
    """What the other end says, as the reason for an end."""
    if there is There.NOBODY:
        return "nobody brings them any more"
    if there in _FAILED:
        return f"{name} says that it is {there.name}"
    if there is There.COMPLETED:
        return f"{name} says that it was stored, and has no copy of it"
    return f"{name} knows of no such transfer any more"


def _by_step(verdicts: list[Verdict], same: set[int]) -> dict[Step, list[Verdict]]:
    found: dict[Step, list[Verdict]] = {}
    for it in verdicts:
        if it.row.id in same:
            found.setdefault(it.rule.step, []).append(it)
    return found


def _remark(tally: Tally, name: str, verdicts: list[Verdict]) -> None:
    """What could not be found out stays as it is; who asks is told."""
    unknown = sum(it.rule.step is Step.LEAVE and it.there is There.UNKNOWN for it in verdicts)
    if unknown:
        tally.details.append(f"{name} did not say how far {unknown} transfers are; it is asked again")


def _pages(query: Any) -> Iterator[list[int]]:
    """The ids of a query in pages, in order, beginning anywhere: a run that is cut begins elsewhere than the last one, and
    what is left alone for long is not in the way of the rest."""
    ids = array("q", (id for (id,) in raw_rows(query)))
    ids = array("q", sorted(ids))
    begin = random.randrange(len(ids)) if len(ids) > PAGE else 0
    ids = ids[begin:] + ids[:begin]
    for n in range(0, len(ids), PAGE):
        yield ids[n : n + PAGE].tolist()


def within(budget: Budget, pages: Iterator[T]) -> Iterator[T]:
    """Pages as long as there is time; one at least."""
    for page in pages:
        yield page
        if not budget.left:
            return


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
