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
from libtool.errors import NoSuchTransfer
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
    theirs = message.destination_transfer_id  # negative: settled by hand, by an administrator
    if row is None or (theirs >= 0 and not _belong(row.remote_id, row.status, theirs)):
        raise NoSuchTransfer()
    with writing("completed"):
        attempts.complete(row.destination, [(row.id, message.store_id)], host.now())


def reported(host: Host, caller: Caller, message: Report) -> dict[int, bool]:
    """What became of many; True where it was taken over, False where we know of no such transfer of the caller's.

    A copy whose checksum is not that of our file is no copy of it: that transfer failed.
    """
    destination = Librarian.get_or_none(Librarian.name == caller.name)
    if destination is None:
        raise NoSuchTransfer()
    asked = [each.source_transfer_id for each in message.completed]
    asked += [each.source_transfer_id for each in message.failed]
    rows: dict[int, tuple[int | None, int, str, str]] = {}
    for piece in portions(asked, _PIECE):
        columns = (_OUT.id, _OUT.remote_id, _OUT.status, File.name, File.checksum)
        query = _OUT.select(*columns).join(File).where(among(_OUT.id, piece), _OUT.destination == destination.id)
        rows |= {id: (remote, status, name, checksum) for id, remote, status, name, checksum in raw_rows(query)}
    accepted = dict.fromkeys(asked, False)
    stored: list[tuple[int, int]] = []
    failed: dict[int, str] = {}
    for bad in message.failed:
        id = bad.source_transfer_id
        if id in rows and _belong(*rows[id][:2], bad.destination_transfer_id):
            accepted[id] = True
            failed[id] = bad.reason or "no reason given"
    for good in message.completed:
        id = good.source_transfer_id
        if id in rows and _belong(*rows[id][:2], good.destination_transfer_id) and good.name in ("", rows[id][2]):
            accepted[id] = True
            if digest.same(rows[id][3], good.checksum):
                stored.append((id, good.store_id))
            else:
                failed[id] = f"it stored something with the checksum {good.checksum}"
    with writing("reported"):
        attempts.complete(destination, stored, host.now())
        attempts.fail(failed, host.now(), tell=False)
    return accepted


def _belong(ours: int | None, status: int, theirs: int) -> bool:
    """Whether a transfer whose destination called it ``ours`` is the one that it now calls ``theirs``: one of us may have
    been restored, and then uses its numbers for other files. What travels by hand has no number there before it ends."""
    return ours == theirs or (ours is None and status > TransferStatus.INITIATED)


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


def paired_states(pairs: list[tuple[int, int]], caller: Caller) -> dict[tuple[int, int], TransferStatus]:
    """How far the transfers to the caller with these numbers, ``(ours, the caller's)``, have come. One that we have not
    heard of the caller's number of yet may be it."""
    found: dict[tuple[int, int], TransferStatus] = {}
    for piece in portions(pairs, _PIECE):
        rows = _OUT.select(_OUT.id, _OUT.remote_id, _OUT.status).where(
            among(_OUT.id, [n for n, _ in piece]), _mine(caller)
        )
        known = {id: (remote, TransferStatus(status)) for id, remote, status in raw_rows(rows)}
        for ours, theirs in piece:
            if ours in known and known[ours][0] in (None, theirs):
                found[ours, theirs] = known[ours][1]
    return found
