"""Asking the other end about transfers that are older than they should be, and settling them.

What each of them needs is decided by ``machine`` and done by ``settling``, as for ``reconcile``; here is only who is
asked about what. Nobody is asked when nothing is old, and one who does not answer holds up no other.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import NamedTuple

from peewee import SQL

from libtool.archive import librarians, settling
from libtool.archive.hands import Budget, Host, Tally
from libtool.archive.machine import Step
from libtool.archive.settling import Verdict
from libtool.errors import LibtoolError
from libtool.models.tables import IncomingTransfer, Librarian, OutgoingTransfer, live
from libtool.names import shown
from libtool.peers.client import Peer

_IN, _OUT = IncomingTransfer, OutgoingTransfer
#: What a dry run says of each step.
_WOULD = {
    Step.RECORD: "is there already and would be recorded",
    Step.AGAIN: "is not there and would be sent again",
    Step.TELL: "would be told once more that it is staged",
    Step.PARK: "would be parked, since other content is there",
    Step.LOOK: "seems to lie here and would be read by recv-clone",
    Step.END: "would end, since nobody brings it any more",
}


class Source(NamedTuple):
    """Who brings something here."""

    name: str
    numbered: bool  #: whether it gave its transfers numbers that it can be asked about
    librarian: Librarian | None  #: None: there is nobody to ask


# -- what is sent -----------------------------------------------------------------------------------------------------


def settle_outgoing(host: Host, chosen: Collection[str], age: timedelta, budget: Budget, tally: Tally) -> None:
    """Settle what is sent and older than ``age``, with the ``chosen`` destinations or with all."""
    before = host.now() - age
    destinations = _destinations(chosen, before)
    for n, destination in enumerate(destinations):
        share = budget.share(len(destinations) - n)

        def deed(peer: Peer, destination: Librarian = destination, share: Budget = share) -> None:
            settling.settle_outgoing(host, destination, peer, tally, share, before)

        def owed(destination: Librarian = destination) -> int:
            return settling.count_outgoing(destination, before)

        librarians.ask(host, destination, tally, "settling", owed, deed)


def _destinations(chosen: Collection[str], before: datetime) -> list[Librarian]:
    """Those with something old; who was removed cannot be asked, and what is for it waits for its return."""
    wanted = [librarians.get(name) for name in chosen]
    old = {
        id for (id,) in _OUT.select(_OUT.destination).where(live(_OUT), _OUT.create_time < before).distinct().tuples()
    }
    mine = wanted or list(Librarian.select().where(Librarian.id << list(old), ~Librarian.removed))
    found = [row for row in mine if row.id in old and settling.count_outgoing(row, before)]
    random.shuffle(found)  # so that none is always the last when time is short
    return found


def plan_outgoing(host: Host, chosen: Collection[str], age: timedelta, budget: Budget) -> Iterator[str]:
    """What a run would do, a line each; the destinations are asked, and nothing is changed."""
    before = host.now() - age
    for destination in _destinations(chosen, before):
        try:
            with _asking(host, destination) as peer:
                for page in settling.within(budget, settling.outgoing(destination, peer, before)):
                    yield from _would(page, f"for {destination.name}")
        except LibtoolError as trouble:
            yield f"librarian {destination.name}: {trouble.text}"


# -- what comes here --------------------------------------------------------------------------------------------------


def settle_incoming(host: Host, chosen: Collection[str], age: timedelta, budget: Budget, tally: Tally) -> None:
    """Settle what comes here and is older than ``age``, from the ``chosen`` sources or from all.

    Of sources that are gone, and of uploads, only those end in whose staging places nothing has changed for that time.
    """
    before = host.now() - age
    sources = _sources(chosen, before)
    for n, source in enumerate(sources):
        share = budget.share(len(sources) - n)
        if source.librarian is None:
            settling.settle_incoming(host, source.name, None, tally, share, before, numbered=source.numbered)
            continue

        def deed(peer: Peer, name: str = source.name, share: Budget = share) -> None:
            settling.settle_incoming(host, name, peer, tally, share, before)

        def owed(name: str = source.name) -> int:
            return settling.count_incoming(name, before)

        librarians.ask(host, source.librarian, tally, "settling", owed, deed)


def _sources(chosen: Collection[str], before: datetime) -> list[Source]:
    """Those of which something is old."""
    for name in chosen:
        librarians.get(name, removed=True)
    numbered = _IN.source_transfer_id >= 0
    old = _IN.select(_IN.source, numbered).where(
        live(_IN), _IN.status < SQL("2"), _IN.create_time < before, _IN.claim.is_null(), numbered.is_null(False)
    )
    known = {row.name: row for row in librarians.everybody()}
    found = [
        Source(name, bool(has), known.get(name) if has else None)
        for name, has in old.distinct().tuples()
        if not chosen or (name in chosen and has)
    ]
    random.shuffle(found)
    return found


def plan_incoming(host: Host, chosen: Collection[str], age: timedelta, budget: Budget) -> Iterator[str]:
    """What a run would do, a line each; the sources are asked, and nothing is changed."""
    before = host.now() - age
    for source in _sources(chosen, before):
        try:
            if source.librarian is None:
                pages = settling.incoming(host, source.name, None, before, numbered=source.numbered)
                for page in settling.within(budget, pages):
                    yield from _would(page, f"from {source.name}")
                continue
            with _asking(host, source.librarian) as peer:
                for page in settling.within(budget, settling.incoming(host, source.name, peer, before)):
                    yield from _would(page, f"from {source.name}")
        except LibtoolError as trouble:
            yield f"librarian {source.name}: {trouble.text}"


@contextmanager
def _asking(host: Host, librarian: Librarian) -> Iterator[Peer]:
    """A neighbour that has just said what it can do; nothing is written down of that."""
    peer = host.peer(librarian)
    try:
        librarians.probe(peer)
        yield peer
    finally:
        peer.close()


def _would(verdicts: list[Verdict], whose: str) -> Iterator[str]:
    for it in verdicts:
        if it.rule.step is not Step.LEAVE:
            yield f"'{shown(it.row.name)}' {whose} {_WOULD[it.rule.step]}"
