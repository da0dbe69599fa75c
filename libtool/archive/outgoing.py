"""What destinations may say about our outgoing transfers: stored, failed, how far.

Everything here belongs to one request of a destination, and touches only transfers to that destination.
"""

from __future__ import annotations

from typing import Any

from peewee import Expression

from libtool import digest
from libtool.archive import attempts
from libtool.archive.accounts import Caller
from libtool.archive.hands import Host, portions
from libtool.errors import NoSuchTransfer, TooLarge
from libtool.models.base import among, raw_rows, writing
from libtool.models.tables import File, Librarian, OutgoingTransfer
from libtool.peers.messages import CloneComplete, Report
from libtool.states import TransferStatus

_OUT = OutgoingTransfer
_PIECE = 5000


def _mine(caller: Caller) -> Expression:
    """The condition that a transfer goes to the caller."""
    if caller.admin:
        return _OUT.id > 0
    return _OUT.destination << Librarian.select(Librarian.id).where(Librarian.name == caller.name)


def completed(host: Host, caller: Caller, message: CloneComplete) -> None:
    """One transfer is verified and stored at its destination."""
    row = (
        _OUT.select(_OUT, Librarian).join(Librarian).where(_OUT.id == message.source_transfer_id, _mine(caller)).first()
    )
    if row is None:
        raise NoSuchTransfer()
    with writing("completed"):
        attempts.complete(row.destination, [(row.id, message.store_id)], host.now())


def reported(host: Host, caller: Caller, message: Report) -> dict[int, bool]:
    """What became of many; True where it was taken over, False where we know of no such transfer of the caller's.

    A copy whose checksum is not that of our file is no copy of it: that transfer failed.
    """
    if len(message.completed) + len(message.failed) > host.settings.max_batch_items:
        raise TooLarge(why=f"more than {host.settings.max_batch_items} transfers at once")
    destination = Librarian.get_or_none(Librarian.name == caller.name)
    if destination is None:
        raise NoSuchTransfer()
    asked = [each.source_transfer_id for each in message.completed]
    asked += [each.source_transfer_id for each in message.failed]
    known: dict[int, str] = {}
    for piece in portions(asked, _PIECE):
        rows = (
            _OUT.select(_OUT.id, File.checksum)
            .join(File)
            .where(among(_OUT.id, piece), _OUT.destination == destination.id)
        )
        known.update((id, checksum) for id, checksum in raw_rows(rows))
    stored = []
    failed = {
        each.source_transfer_id: each.reason or "no reason given"
        for each in message.failed
        if each.source_transfer_id in known
    }
    for each in message.completed:
        if each.source_transfer_id in known:
            if digest.same(known[each.source_transfer_id], each.checksum):
                stored.append((each.source_transfer_id, each.store_id))
            else:
                failed[each.source_transfer_id] = f"it stored something with the checksum {each.checksum}"
    with writing("reported"):
        attempts.complete(destination, stored, host.now())
        attempts.fail(failed, host.now(), tell=False)
    return {id: id in known for id in asked}


def move(ids: list[int], new: TransferStatus, caller: Caller, host: Host) -> list[int]:
    """Let a destination end its own live transfers (FAILED or CANCELLED); how far a live one is, the source knows."""
    if new not in (TransferStatus.FAILED, TransferStatus.CANCELLED):
        return []
    moved: list[int] = []
    with writing("moved"):
        for piece in portions(ids, _PIECE):
            rows = [row.id for row in _OUT.select(_OUT.id).where(among(_OUT.id, piece), _mine(caller))]
            ended = attempts.fail(dict.fromkeys(rows, f"{caller.name} gave it up"), host.now(), tell=False)
            moved += [row.id for row in ended]
    return moved


def states(ids: list[int], caller: Caller) -> dict[int, TransferStatus | None]:
    """How far the transfers to the caller have come; None: unknown, or not the caller's."""
    found: dict[int, Any] = dict.fromkeys(ids)
    for piece in portions(ids, _PIECE):
        found.update(_OUT.select(_OUT.id, _OUT.status).where(among(_OUT.id, piece), _mine(caller)).tuples())
    return found
