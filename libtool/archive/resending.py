"""Sending a file anew to a neighbour whose copy went bad, because it asks for it."""

from __future__ import annotations

import time

from libtool.archive import proving, removing, sending
from libtool.archive.accounts import Caller
from libtool.archive.hands import Budget, Host, Tally
from libtool.archive.librarians import probe
from libtool.archive.staging import Offer, Wish
from libtool.errors import CannotResend, DatabaseBusy, Denied, LibtoolError
from libtool.models.base import writing
from libtool.models.tables import File, Librarian, OutgoingTransfer, RemoteInstance, live
from libtool.peers.client import Peer
from libtool.states import Owed, TransferStatus

#: Seconds that a neighbour waits for our copy to be read, for how long it is believed then, and how old a former
#: reading may be when there is no time for that: the neighbour reads what arrives in any case.
READ_SECONDS, JUST_READ, READ_ONCE = 40.0, 600.0, 30 * 86400.0
_OUT = OutgoingTransfer


def prepare(host: Host, caller: Caller, name: str, librarian: str, *, again: bool = False) -> tuple[File, Librarian]:
    """Check everything that a resend needs; asks the neighbour for a sign of life. ``again``: that was just done.

    Only who was sent a file, holds it as far as we know, or brought it here, may have it again. A copy of ours that was
    deleted and is still set aside is brought back for it.
    """
    destination = Librarian.get_or_none(Librarian.name == librarian)
    if caller.name != librarian or destination is None or destination.removed:
        raise Denied()
    file = File.get_or_none(File.name == name)
    if file is None or not _had(file, destination):
        raise CannotResend(why="no such file was sent to you from here, or came from you")
    if not destination.transfers_enabled:
        raise CannotResend(why="transfers to you are disabled here")
    if not _right(host, file, again):
        raise CannotResend(why="no copy here can be read and is right")
    peer = host.peer(destination)
    try:
        probe(peer)
    except LibtoolError as trouble:
        raise CannotResend(why=f"you cannot be reached from here: {trouble.reason}") from None
    finally:
        peer.close()
    return file, destination


def _right(host: Host, file: File, again: bool) -> bool:
    """Whether a copy here was read and is right; one that was let go and is still set aside is brought back."""
    budget = Budget(READ_SECONDS, time.monotonic)
    copies = proving.own(host, [file.name], JUST_READ if again else 0.0, budget, otherwise=READ_ONCE)[file.name]
    if any(copy.good is not False for copy in copies):
        return any(copy.good for copy in copies)
    if file.size / proving.RATE > READ_SECONDS:
        return False
    try:
        return removing.recover(host, file, Tally()) is not None
    except LibtoolError:
        return False


def _had(file: File, destination: Librarian) -> bool:
    """Whether a neighbour ever had a file, as far as is known here."""
    there = (RemoteInstance.file == file.id) & (RemoteInstance.librarian == destination.id)
    sent = (_OUT.file == file.id) & (_OUT.destination == destination.id)
    return (
        file.source == destination.name
        or RemoteInstance.select().where(there).exists()
        or _OUT.select().where(sent).exists()
    )


def resend(host: Host, caller: Caller, name: str, librarian: str) -> int:
    """Stage the file at the neighbour now and queue it; returns the neighbour's number of the transfer."""
    file, destination = prepare(host, caller, name, librarian, again=True)
    mine = (_OUT.file == file.id) & (_OUT.destination == destination.id) & live(_OUT)
    planned = _OUT.select().where(mine).exists()
    with writing("resend"):
        _OUT.insert(
            file=file.id,
            destination=destination.id,
            status=TransferStatus.INITIATED,
            owed=Owed.NOTHING,
            create_time=host.now(),
        ).on_conflict_ignore().execute()
    transfer = _OUT.get(mine)
    if transfer.status is TransferStatus.INITIATED:
        peer = host.peer(destination)
        try:
            _stage(host, destination, peer, transfer, file)
        finally:
            peer.close()
            if not planned:  # nobody else would go on with it
                _give_up(host, transfer.id)
        transfer = _OUT.get_by_id(transfer.id)
    if transfer.remote_id is None or transfer.status > TransferStatus.COMPLETED:
        raise CannotResend(why=transfer.reason or "your librarian did not give it a staging place")
    with writing("resent"):
        RemoteInstance.delete().where(
            RemoteInstance.file == file.id, RemoteInstance.librarian == destination.id
        ).execute()
    return int(transfer.remote_id)


def _give_up(host: Host, transfer: int) -> None:
    """What was not staged now is over: the neighbour asks again. Also when staging it ended with an error."""
    over = {"status": TransferStatus.CANCELLED, "end_time": host.now(), "reason": "it could not be staged at once"}
    with writing("not resent"):
        _OUT.update(**over).where(_OUT.id == transfer, _OUT.status == TransferStatus.INITIATED).execute()


def _stage(host: Host, destination: Librarian, peer: Peer, transfer: OutgoingTransfer, file: File) -> None:
    offer = Offer(transfer.id, file.name, file.size, file.checksum, file.uploader, file.id)
    try:
        sending.stage(host, destination, peer, [offer], Wish(), Tally())
    except DatabaseBusy:
        raise
    except LibtoolError as trouble:
        raise CannotResend(why=trouble.reason) from None
