"""The state machine: who settles what, in every combination of what is recorded here, said there, and lies on disk.

Every combination has exactly one rule: one command that owns it, one next step, and how long that may take. What could
not be found out ends nothing; what a carrier has or what travels by hand is left alone, however old; a file that is there
is recorded and not sent again. Pure data and lookups: ``settling`` asks and acts, this decides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, IntEnum
from functools import cache
from typing import Any

from libtool.states import Cause, Condition, QueueStatus, RemovalStatus, TransferStatus

INITIATED, ONGOING, STAGED, COMPLETED, FAILED, CANCELLED = TransferStatus


class Step(Enum):
    """What happens next; the text is what the README says of it."""

    LEAVE = "nothing: it goes on by itself, or waits for its owner"
    RECORD = "the copy there is recorded, and the transfer is completed"
    AGAIN = "the transfer ends, and its file is sent anew"
    TELL = "the destination is told once more that it is staged"
    PARK = "the transfer ends, and its file waits for a person"
    LOOK = "it counts as staged, so that recv-clone reads what lies here"
    END = "the transfer ends, and its room is free"
    READ = "it is read"
    FETCH = "a sound copy is fetched, and this one is kept until then"
    ASIDE = "it is set aside"
    PURGE = "what is set aside is removed when its time has come"
    SHIP = "a carrier gets it"
    LEARN = "its carrier is asked"


class Hold(Enum):
    """Who has a live transfer in hand here; what nobody has is IDLE."""

    CARRIED = "carried"  #: its queue item waits or flies
    OWED = "owed"  #: the destination must still be told
    BY_HAND = "by hand"  #: a manifest's: its file travels on a disk
    CLAIMED = "claimed"  #: an ingest or an upload is at work on it
    IDLE = "idle"


class There(Enum):
    """What the other end says of it."""

    INITIATED = "INITIATED"
    ONGOING = "ONGOING"
    STAGED = "STAGED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    FORGOTTEN = "forgotten"  #: it knows of no such transfer
    UNKNOWN = "unknown"  #: could not find out
    NOBODY = "nobody"  #: there is nobody to ask: it was removed, or it was no librarian

    @staticmethod
    def of(state: TransferStatus | None) -> There:
        """What a definite answer says; None: it knows of no such transfer."""
        return There.FORGOTTEN if state is None else There[state.name]


class Disk(Enum):
    """What the destination has under the file's name."""

    SAME = "same"  #: a copy with the same content
    OTHER = "other"  #: other content, or such as cannot be compared
    NO_COPY = "no copy"  #: the file is known, and no copy is there
    NOTHING = "nothing"
    UNKNOWN = "unknown"  #: could not find out


class Lying(Enum):
    """What lies here of a file that is on its way here."""

    NOTHING = "nothing"
    MOVING = "moving"  #: something changed not long ago: somebody is still bringing it
    PART = "part"  #: not of the announced size
    WHOLE = "whole"  #: of the announced size
    STORED = "stored"  #: a copy with this content is in a store
    UNKNOWN = "unknown"  #: could not find out


class Side(Enum):
    """Whose command it is: this librarian's, or the one's at the other end."""

    HERE = "here"
    THERE = "there"


@dataclass(frozen=True)
class Rule:
    """What becomes of some combinations: those of which every part is in the collection for it."""

    when: tuple[Collection[Any], ...]
    step: Step
    owner: str  #: the command that settles it
    within: (
        timedelta | None
    )  #: older than that it is asked about, or it is stuck; None: it may take as long as it takes
    why: str
    side: Side = Side.HERE

    def fits(self, found: tuple[Any, ...]) -> bool:
        """Whether it is about this combination."""
        return all(each in wanted for each, wanted in zip(found, self.when))


@dataclass(frozen=True)
class Machine:
    """All rules about one kind of thing."""

    title: str
    parts: tuple[tuple[str, tuple[Any, ...]], ...]  #: what a combination is made of: word, all values
    rules: tuple[Rule, ...]


#: After these the hypervisors ask, unless they are told otherwise; outgoing first, since a source can send anew what it
#: ends, while a destination that ends it first throws away room and bytes that the source still counts on.
OUTGOING_AGE, INCOMING_AGE = timedelta(days=1), timedelta(days=2)
_OUTGOING, _INCOMING = "outgoing-transfer-hypervisor", "incoming-transfer-hypervisor"
#: Copies are read again at least so often.
READ_AGE = timedelta(days=30)

_LIVE, _STARTED = (INITIATED, ONGOING, STAGED), (ONGOING, STAGED)
_COMING, _OVER = (There.INITIATED, There.ONGOING), (There.FAILED, There.CANCELLED, There.FORGOTTEN)
_ENDED = (There.COMPLETED, *_OVER)
_ASKED = tuple(it for it in There if it is not There.NOBODY)
_LACKING = (Disk.NO_COPY, Disk.NOTHING)
_ANY_THERE, _ANY_DISK, _ANY_LYING = tuple(There), tuple(Disk), tuple(Lying)
_OUT_HOLDS, _IN_HOLDS = (Hold.CARRIED, Hold.OWED, Hold.BY_HAND, Hold.IDLE), (Hold.CLAIMED, Hold.IDLE)
_IDLE = (Hold.IDLE,)


def _but(values: Collection[Any], *others: Any) -> tuple[Any, ...]:
    return tuple(value for value in values if value not in others)


OUTGOING = Machine(
    "Transfers to another librarian, at their source",
    (("here", tuple(TransferStatus)), ("held", _OUT_HOLDS), ("there", _ANY_THERE), ("on disk there", _ANY_DISK)),
    (
        Rule(
            ((COMPLETED,), _OUT_HOLDS, _ANY_THERE, _ANY_DISK),
            Step.LEAVE,
            "reconcile",
            None,
            "it arrived; what is recorded of the copy is compared",
        ),
        Rule(
            ((FAILED, CANCELLED), _OUT_HOLDS, _ANY_THERE, _ANY_DISK),
            Step.LEAVE,
            "send-clone",
            None,
            "it is over; the next attempt is a transfer of its own, unless its file is parked",
        ),
        Rule(
            (_LIVE, (Hold.CARRIED,), _ANY_THERE, _ANY_DISK),
            Step.LEAVE,
            "check-consumed-queue",
            None,
            "its queue item waits or flies, however long that takes",
        ),
        Rule(
            (_LIVE, (Hold.OWED,), _ANY_THERE, _ANY_DISK),
            Step.LEAVE,
            "check-consumed-queue",
            OUTGOING_AGE,
            "the destination is told first, and its answer counts",
        ),
        Rule(
            (_LIVE, (Hold.BY_HAND,), _ANY_THERE, _ANY_DISK),
            Step.LEAVE,
            "retry",
            None,
            "its file travels on a disk; only a person knows that it does not arrive ('retry --by-hand')",
        ),
        Rule(
            (_LIVE, _IDLE, (There.NOBODY,), _ANY_DISK),
            Step.LEAVE,
            "add-librarian",
            None,
            "the destination was removed, and may come back",
        ),
        Rule(
            ((INITIATED,), _IDLE, _ASKED, (Disk.SAME,)),
            Step.RECORD,
            _OUTGOING,
            OUTGOING_AGE,
            "it is there, whoever brought it",
        ),
        Rule(
            ((INITIATED,), _IDLE, _but(_ASKED, There.UNKNOWN), (Disk.OTHER,)),
            Step.PARK,
            _OUTGOING,
            OUTGOING_AGE,
            "the destination will never take it",
        ),
        Rule(
            ((INITIATED,), _IDLE, (There.UNKNOWN,), (Disk.OTHER,)),
            Step.LEAVE,
            "send-clone",
            OUTGOING_AGE,
            "it is asked for again, and the answer says so",
        ),
        Rule(
            ((INITIATED,), _IDLE, _ASKED, (*_LACKING, Disk.UNKNOWN)),
            Step.LEAVE,
            "send-clone",
            OUTGOING_AGE,
            "it is asked for again; a request that is repeated gets the same place",
        ),
        Rule(
            (_STARTED, _IDLE, (*_COMING, *_ENDED, There.UNKNOWN), (Disk.SAME,)),
            Step.RECORD,
            _OUTGOING,
            OUTGOING_AGE,
            "it is there, and the report of it was lost",
        ),
        Rule(
            (_STARTED, _IDLE, _COMING, _but(_ANY_DISK, Disk.SAME)),
            Step.TELL,
            _OUTGOING,
            OUTGOING_AGE,
            "nothing carries it any more, so the report was lost; the destination reads what lies there",
        ),
        Rule(
            (_STARTED, _IDLE, (There.STAGED,), _ANY_DISK),
            Step.LEAVE,
            "recv-clone",
            INCOMING_AGE,
            "it is staged there and not yet taken in, so nothing is lost",
            Side.THERE,
        ),
        Rule(
            (_STARTED, _IDLE, _ENDED, _LACKING),
            Step.AGAIN,
            _OUTGOING,
            OUTGOING_AGE,
            "it is neither there nor on its way",
        ),
        Rule(
            (_STARTED, _IDLE, _ENDED, (Disk.OTHER,)),
            Step.PARK,
            _OUTGOING,
            OUTGOING_AGE,
            "other content is there under its name",
        ),
        Rule(
            (_STARTED, _IDLE, _ENDED, (Disk.UNKNOWN,)),
            Step.LEAVE,
            _OUTGOING,
            OUTGOING_AGE,
            "what is there could not be found out; it is asked again",
        ),
        Rule(
            (_STARTED, _IDLE, (There.UNKNOWN,), _but(_ANY_DISK, Disk.SAME)),
            Step.LEAVE,
            _OUTGOING,
            OUTGOING_AGE,
            "how far it is could not be found out; it is asked again",
        ),
    ),
)

_WAITING = (INITIATED, ONGOING)

INCOMING = Machine(
    "Transfers from another librarian or a client, at their destination",
    (("here", tuple(TransferStatus)), ("held", _IN_HOLDS), ("there", _ANY_THERE), ("on disk here", _ANY_LYING)),
    (
        Rule(
            ((COMPLETED, FAILED, CANCELLED), _IN_HOLDS, _ANY_THERE, _ANY_LYING),
            Step.LEAVE,
            "recv-clone",
            INCOMING_AGE,
            "it is over; its source is told and its staging place removed",
        ),
        Rule(
            (_LIVE, (Hold.CLAIMED,), _ANY_THERE, _ANY_LYING),
            Step.LEAVE,
            "recv-clone",
            INCOMING_AGE,
            "an ingest or upload is at work, or died, which its lock tells",
        ),
        Rule(
            ((STAGED,), _IDLE, _ANY_THERE, _ANY_LYING),
            Step.LEAVE,
            "recv-clone",
            INCOMING_AGE,
            "it is read, whatever its source says meanwhile: it may be the last copy",
        ),
        Rule(
            (_WAITING, _IDLE, _COMING, _ANY_LYING),
            Step.LEAVE,
            _OUTGOING,
            INCOMING_AGE,
            "its source goes on with it, or settles it",
            Side.THERE,
        ),
        Rule(
            (_WAITING, _IDLE, (There.STAGED, There.COMPLETED), _ANY_LYING),
            Step.LOOK,
            _INCOMING,
            INCOMING_AGE,
            "its source thinks that it lies here; reading tells, and the source hears of it",
        ),
        Rule(
            (_WAITING, _IDLE, (*_OVER, There.NOBODY), (Lying.WHOLE, Lying.STORED)),
            Step.LOOK,
            _INCOMING,
            INCOMING_AGE,
            "nobody brings it any more, but it seems to be here; it may be the last copy",
        ),
        Rule(
            (_WAITING, _IDLE, (*_OVER, There.NOBODY), (Lying.NOTHING, Lying.PART)),
            Step.END,
            _INCOMING,
            INCOMING_AGE,
            "nobody brings it any more",
        ),
        Rule(
            (_WAITING, _IDLE, (*_OVER, There.NOBODY), (Lying.MOVING,)),
            Step.LEAVE,
            _INCOMING,
            INCOMING_AGE,
            "somebody still writes in its staging place; slow is not abandoned",
        ),
        Rule(
            (_WAITING, _IDLE, (*_OVER, There.NOBODY), (Lying.UNKNOWN,)),
            Step.LEAVE,
            _INCOMING,
            INCOMING_AGE,
            "what lies here could not be found out; it is looked at again",
        ),
        Rule(
            (_WAITING, _IDLE, (There.UNKNOWN,), _ANY_LYING),
            Step.LEAVE,
            _INCOMING,
            INCOMING_AGE,
            "its source could not be asked; it is asked again",
        ),
    ),
)


class Aside(Enum):
    """What a removal that is not over says of a copy."""

    NONE = "nothing"
    DELETING = "to be deleted"  #: decided, and its bytes may or may not have been set aside
    DELETED = "deleted"  #: its bytes lie aside and can be brought back
    REPLACING = "to be replaced"  #: a sound copy comes in its stead
    REPLACED = "replaced"  #: its bad bytes lie aside

    @staticmethod
    def of(cause: Cause, status: RemovalStatus) -> Aside:
        """What a removal says."""
        if status >= RemovalStatus.PURGED:
            return Aside.NONE
        decided, done = _ASIDE[cause]
        return decided if status is RemovalStatus.DECIDED else done


_ASIDE = {
    Cause.DELETED: (Aside.DELETING, Aside.DELETED),
    Cause.DAMAGED: (Aside.REPLACING, Aside.REPLACED),
}
_YES_NO, _ANY_CONDITION = (True, False), tuple(Condition)
_BAD = (Condition.DAMAGED, Condition.MISSING)
_DAY = timedelta(days=1)

COPIES = Machine(
    "Copies in the stores here",
    (("available", _YES_NO), ("condition", _ANY_CONDITION), ("set aside", tuple(Aside))),
    (
        Rule(
            ((True,), (Condition.SOUND,), (Aside.NONE,)),
            Step.READ,
            "check-integrity",
            READ_AGE,
            "nothing bad is known of it, which must be found out now and then",
        ),
        Rule(
            (_YES_NO, (Condition.UNREADABLE,), (Aside.NONE,)),
            Step.READ,
            "corruption-fixer",
            _DAY,
            "the disk did not give it, which says nothing about its bytes; after a day it is got anew all the same",
        ),
        Rule(
            (_YES_NO, _BAD, (Aside.NONE,)),
            Step.FETCH,
            "corruption-fixer",
            None,
            "it is not what was recorded; it goes only when a sound one comes",
        ),
        Rule(
            ((False,), (Condition.SOUND,), (Aside.NONE,)),
            Step.LEAVE,
            "recv-clone",
            None,
            "it was removed on purpose; should it come again, it is recorded again",
        ),
        Rule(
            (_YES_NO, _ANY_CONDITION, (Aside.DELETING,)),
            Step.ASIDE,
            "rolling-deletion",
            _DAY,
            "its removal was decided and is not done yet",
        ),
        Rule(
            (_YES_NO, _ANY_CONDITION, (Aside.DELETED,)),
            Step.PURGE,
            "rolling-deletion",
            None,
            "its bytes are kept for a while, and can be brought back until then",
        ),
        Rule(
            (_YES_NO, _ANY_CONDITION, (Aside.REPLACING,)),
            Step.ASIDE,
            "corruption-fixer",
            _DAY,
            "a sound one is about to take its place",
        ),
        Rule(
            (_YES_NO, _ANY_CONDITION, (Aside.REPLACED,)),
            Step.PURGE,
            "corruption-fixer",
            None,
            "its bad bytes are kept until the sound copy was read where it lies",
        ),
    ),
)

ITEMS = Machine(
    "Items of the send queue",
    (("status", tuple(QueueStatus)),),
    (
        Rule(
            ((QueueStatus.QUEUED, QueueStatus.SUBMITTING),),
            Step.SHIP,
            "consume-queue",
            _DAY,
            "what was begun is gone on with under the same ticket; after a day it is staged anew",
        ),
        Rule(
            ((QueueStatus.IN_FLIGHT,),),
            Step.LEARN,
            "check-consumed-queue",
            None,
            "a running task is left alone, whatever its faults",
        ),
        Rule(
            ((QueueStatus.COMPLETED, QueueStatus.FAILED),),
            Step.LEAVE,
            "check-consumed-queue",
            None,
            "it is over, and kept as history for a while",
        ),
    ),
)

MACHINES = (OUTGOING, INCOMING, COPIES, ITEMS)


def outgoing(here: TransferStatus, hold: Hold, there: There, disk: Disk) -> Rule:
    """What becomes of a transfer to another librarian."""
    return _find(0, (here, hold, there, disk))


def incoming(here: TransferStatus, hold: Hold, there: There, lying: Lying) -> Rule:
    """What becomes of a transfer that brings something here."""
    return _find(1, (here, hold, there, lying))


def copy(available: bool, condition: Condition, aside: Aside) -> Rule:
    """Who looks after a copy."""
    return _find(2, (available, condition, aside))


def item(status: QueueStatus) -> Rule:
    """Who has an item of the send queue."""
    return _find(3, (status,))


@cache
def _find(machine: int, found: tuple[Any, ...]) -> Rule:
    (rule,) = [rule for rule in MACHINES[machine].rules if rule.fits(found)]
    return rule


def matters(here: TransferStatus, hold: Hold, there: There) -> bool:
    """Whether what the destination has on disk makes a difference, so that it must be asked for."""
    if hold is Hold.IDLE and here in _STARTED and there in _COMING:
        return False  # it is told again; its answer to that says the rest
    return len({outgoing(here, hold, there, disk).step for disk in Disk}) > 1


# -- for people -------------------------------------------------------------------------------------------------------


def to_rst() -> str:
    """All rules as tables for the README."""
    return "\n".join(line for machine in MACHINES for line in _table(machine))


def _table(machine: Machine) -> Iterator[str]:
    heads = [*(word for word, _ in machine.parts), "next", "whose", "within", "because"]
    rows = []
    for rule in machine.rules:
        cells = [_values(wanted, values) for wanted, (_, values) in zip(rule.when, machine.parts)]
        owner = f"``{rule.owner}``" + (" there" if rule.side is Side.THERE else "")
        rows.append([*cells, rule.step.name, owner, _span(rule.within), rule.why])
    widths = [max(len(row[n]) for row in [heads, *rows]) for n in range(len(heads))]
    edge = "  ".join("=" * width for width in widths)
    yield from (f"{machine.title}:", "", edge, _line(heads, widths), edge)
    yield from (_line(row, widths) for row in rows)
    yield from (edge, "")


def _line(cells: list[str], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip()


def _values(wanted: Collection[Any], values: tuple[Any, ...]) -> str:
    """The values that a rule is about; those that it is not about, when that is shorter."""
    if set(wanted) == set(values):
        return "any"
    others = [value for value in values if value not in wanted]
    if len(others) < len(wanted) and len(others) <= 2:
        return f"not {' or '.join(map(_word, others))}"
    return ", ".join(map(_word, wanted))


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value.name if isinstance(value, IntEnum) else str(value.value)


def _span(span: timedelta | None) -> str:
    return "-" if span is None else f"{span.days} d"
