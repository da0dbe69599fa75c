"""Sending, first half: what a destination lacks, written down as transfers, staged there, and queued.

A run first asks again for what was written down and not answered, then chooses new files, batch after batch. The
source's number of a transfer is its identity: a repeated request gets the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from peewee import SQL, Expression, fn

from libtool import names
from libtool.archive import librarians, staging, stock
from libtool.archive.hands import Budget, Host, Tally
from libtool.archive.staging import Offer, Wish, tell_failures
from libtool.models.base import raw_rows, writing
from libtool.models.tables import (
    File,
    Instance,
    Librarian,
    OutgoingTransfer,
    RemoteInstance,
    Retry,
    live,
    owing,
)
from libtool.models.tables import Store as StoreRow
from libtool.peers import features
from libtool.peers.client import Peer
from libtool.states import Owed
from libtool.units import to_microseconds

#: Files that a run looks at again beyond those it has not considered yet; so all are within some days.
SECOND_LOOK = 5000
#: A file younger than this is looked at by every run: on PostgreSQL a smaller id may be committed after a larger one.
SETTLED = timedelta(minutes=10)
#: Bytes of names in one request.
REQUEST_BYTES = 8 * 1024**2
_OUT = OutgoingTransfer


def send(
    host: Host,
    destination: Librarian,
    wish: Wish,
    budget: Budget,
    tally: Tally,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Stage and queue everything that is due for one destination, as far as time allows."""
    if not _anything(host, destination, wish):
        return

    def deed(peer: Peer) -> None:
        tell_failures(host, destination, peer)
        after, full = 0, False
        while budget.left:
            offers = _offers(destination, after, wish.batch, host.now())
            if not offers and (full or not choose(host, destination, wish)):
                break
            if not offers:
                continue
            after = offers[-1].id
            done = tally.done
            full = stage(host, destination, peer, offers, wish, tally) or full
            offers = []  # before the next ones are read: memory must not hold two requests
            if progress is not None:
                progress(tally.done - done)

    librarians.ask(host, destination, tally, "staging", lambda: waiting(destination), deed)


def _anything(host: Host, destination: Librarian, wish: Wish) -> bool:
    """Whether there is anything to say to a destination; chooses what is due."""
    debts = _OUT.select(SQL("1")).where(_OUT.destination == destination.id, owing(_OUT), _OUT.owed == Owed.FAILURE)
    return bool(_offers(destination, 0, 1, host.now())) or choose(host, destination, wish) > 0 or debts.exists()


def stage(host: Host, destination: Librarian, peer: Peer, offers: list[Offer], wish: Wish, tally: Tally) -> bool:
    """Ask for places, in the way that the destination understands; returns whether it has no more room."""
    ask = staging.stage if peer.can(features.BATCH) else stock.stage
    return ask(host, destination, peer, offers, wish, tally)


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
        limit = wish.batch
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
