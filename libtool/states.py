"""States and levels that are remembered and spoken, and which state may follow which.

The numbers are those of the wire (hera_librarian) and of the database; they never change.
"""

from __future__ import annotations

from enum import IntEnum


class TransferStatus(IntEnum):
    """How far one attempt to bring one file to one librarian has come; the same words on both sides."""

    INITIATED = 0  #: written down; the destination may or may not have made room yet
    ONGOING = 1  #: queued or under way
    STAGED = 2  #: all bytes lie in the destination's staging area, not yet verified there
    COMPLETED = 3  #: verified, in the destination's store, known on both sides
    FAILED = 4  #: this attempt is over; a new one may follow
    CANCELLED = 5  #: given up on purpose


#: Everything below this number is live: some task still owns the transfer.
FIRST_FINAL = TransferStatus.COMPLETED

_NEXT = {
    TransferStatus.INITIATED: {
        TransferStatus.ONGOING,
        TransferStatus.STAGED,
        TransferStatus.FAILED,
        TransferStatus.CANCELLED,
    },
    TransferStatus.ONGOING: {TransferStatus.STAGED, TransferStatus.FAILED, TransferStatus.CANCELLED},
    TransferStatus.STAGED: {TransferStatus.FAILED, TransferStatus.CANCELLED},
}


def may_follow(old: TransferStatus, new: TransferStatus) -> bool:
    """Whether a *peer* may move a transfer from ``old`` to ``new`` with ``checkin/update``.

    COMPLETED is never set from outside: it follows from an ingest (here) or from its report (there).
    """
    return new in _NEXT.get(old, set())


def earlier(new: TransferStatus) -> list[TransferStatus]:
    """The states from which a peer may move a transfer to ``new``; the condition of a conditional update."""
    return [old for old in TransferStatus if may_follow(old, new)]


class QueueStatus(IntEnum):
    """How far a send-queue item (one batch, one carrier, one destination) has come."""

    QUEUED = 0  #: waiting for a carrier
    SUBMITTING = 1  #: the ticket is written down, the carrier may or may not have it
    IN_FLIGHT = 2  #: the carrier has it
    COMPLETED = 3  #: every file's outcome is known
    FAILED = 4  #: the carrier did not take it


class Owed(IntEnum):
    """What this librarian still has to tell a peer about a transfer; the ordinary tasks pay it."""

    NOTHING = 0
    STAGED = 1  #: source to destination: the bytes have arrived in your staging area
    FAILURE = 2  #: this attempt is over, free what you hold for it
    COMPLETION = 3  #: destination to source: verified and stored


class AuthLevel(IntEnum):
    """What an account may do; a caller passes when its level is at least the one that is required."""

    NONE = 0
    READONLY = 1
    CALLBACK = 2
    READAPPEND = 3
    READWRITE = 4
    ADMIN = 100


class DeletionPolicy(IntEnum):
    """Whether a copy may be deleted once enough others are proved; DISALLOWED is a hold that is always respected."""

    DISALLOWED = 0
    ALLOWED = 1


class FileKind(IntEnum):
    """Whether a catalogued file is a regular file or a directory that is taken as one file."""

    FILE = 0
    DIRECTORY = 1


class Condition(IntEnum):
    """What a copy turned out to be when it was last looked at."""

    SOUND = 0  #: nothing bad is known of it
    DAMAGED = 1  #: it was read, and it is not what was recorded
    MISSING = 2  #: nothing lies in its place
    UNREADABLE = 3  #: it is there and the disk does not give it: no verdict about its bytes


class Proof(IntEnum):
    """How a copy was last found right, always by reading all of it."""

    NONE = 0  #: never yet
    ARRIVAL = 1  #: when it came in
    CHECK = 2  #: by check-integrity or corruption-fixer
    REQUEST = 3  #: because an operator or another librarian asked
    DELETION = 4  #: right before it was to be removed


class Cause(IntEnum):
    """Why a copy was taken out of its place in a store."""

    DELETED = 0  #: enough other copies were proved, or a person wanted it
    DAMAGED = 1  #: a sound one came in its stead


class RemovalStatus(IntEnum):
    """How far the removal of a copy has come; what is below PURGED is not over."""

    DECIDED = 0  #: written down; its bytes may or may not have been set aside yet
    ASIDE = 1  #: its bytes lie aside in the store and can be brought back
    RETURNING = 2  #: they are to come back into their place; they may be there already
    PURGING = 3  #: they are to be removed for good; a part of them may be gone already
    PURGED = 4  #: its bytes are gone
    RETURNED = 5  #: its bytes are back in their place


class MirrorStatus(IntEnum):
    """How far one file of a route's source has come."""

    SEEN = 0  #: new or changed; it is sent when a later look finds it the same
    STABLE = 1  #: found the same in two looks
    SENDING = 2  #: in a task of the route
    SENT = 3  #: it arrived, as the carrier's lists say, just as the row describes it
    LEAVING = 4  #: within one transaction: it becomes a removal


class Deed(IntEnum):
    """What a task of a route is to do."""

    SEND = 0  #: bring files to the destination
    COMPARE = 1  #: compare files with those at the destination, byte for byte, and bring there what differs
    PROVE = 2  #: the same with files that are set aside, so that they may be removed
    DELETE = 3  #: remove files that are set aside behind a collection
    CLEAR = 4  #: remove empty directories there


class ClearingStatus(IntEnum):
    """How far the deletion of one file at a route's source has come."""

    DECIDED = 0  #: it is to be set aside, and may be already
    ASIDE = 1  #: it lies aside, just as it was sent
    PROVING = 2  #: in a task that compares it with the destination's copy
    PROVED = 3  #: both ends have the same bytes
    REMOVING = 4  #: it is to be removed for good, and may be already
    RETURNING = 5  #: it differs: it is to be brought back, and may be already
    REMOVED = 6
    RETURNED = 7
