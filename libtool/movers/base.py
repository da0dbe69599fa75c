"""What every carrier promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

#: A carrier's own memory of one task: a JSON object, kept in the queue item, given back at every call. ``stopped`` is
#: put into it by the archive: why it is about to cancel the task.
Ticket = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Item:
    """One file of a batch: its name, absolute paths here and there, and whether it is a directory taken as one file."""

    source: str
    target: str
    directory: bool
    size: int
    name: str = ""  #: the file's name, with which the target ends


class Stage(Enum):
    """Where a whole task stands."""

    RUNNING = "running"
    DONE = "done"  #: the outcome of every item can be asked for
    LOST = "lost"  #: the carrier does not know the task (any more); nobody can say what it did


class Hitch(Enum):
    """What keeps a running task from going on; the word is also the kind of the notice."""

    PAUSED = "paused"  #: somebody holds it up on purpose
    OFFLINE = "offline"  #: one end is not connected
    PERSON = "person"  #: somebody must log in, consent or permit
    SPACE = "space"  #: the destination is full
    FILE = "file"  #: only a change of files can cure it
    STRANGE = "strange"  #: the carrier says what libtool does not know


class Arrived(Enum):
    """What became of one item."""

    YES = "yes"
    NO = "no"
    SAME = "same"  #: both ends have the same bytes; nothing was carried. Only of a task that compares
    UNKNOWN = "unknown"  #: the carrier cannot tell, now or later: only reading at the destination can


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a task stands."""

    stage: Stage
    hitch: Hitch | None = None
    text: str = ""  #: what the hitch is and what to do about it, for the operator
    still: float = 0.0  #: seconds since anything moved, or since the task was first missed
    report: Mapping[str, Any] = field(default_factory=dict)  #: what the carrier measured
    ticket: Ticket | None = None  #: to be kept in place of the former one


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """What became of one item, and why when it did not arrive."""

    arrived: Arrived
    why: str = ""
    passing: bool = False  #: not the file's fault and likely to pass, so that it does not count as an attempt


class Mover(ABC):
    """A carrier of batches.

    ``prepare`` makes a ticket, which is committed; ``submit`` acts on it and may be repeated with the same ticket after
    a crash or an unclear answer without carrying anything twice. State lies in the ticket alone.

    Each call may raise CarrierUnknown (no clear answer; ask again later) and CarrierBarred (a person must act first).
    """

    kind: ClassVar[str]
    #: Whether a submitted task goes on by itself; only such tasks count against the limit of tasks in flight.
    asynchronous: ClassVar[bool]

    @abstractmethod
    def reaches(self, provider: Mapping[str, Any]) -> str:
        """Why this node cannot bring files to what ``provider`` describes; empty when it can. Asks nobody."""

    def refuses(self, name: str) -> str:
        """Why a file of this name cannot be carried; empty when it can."""
        return ""

    @abstractmethod
    def prepare(self, provider: Mapping[str, Any], label: str) -> Ticket:
        """A ticket for one task; nothing is moved yet. ``label`` lets people, and a node that lost its database, find
        the task again."""

    @abstractmethod
    def submit(self, provider: Mapping[str, Any], ticket: Ticket, items: Sequence[Item]) -> Ticket:
        """Have the items carried; returns the ticket to keep.

        Raises CarrierRefused when surely nothing will be carried, CarrierBusy when it surely was not taken now, and
        CarrierUnknown when that cannot be known.
        """

    def recall(self, ticket: Ticket) -> Ticket | None:
        """The ticket to keep when a task was made with this one, None when surely none was: asks without the items."""
        return None

    @abstractmethod
    def poll(self, ticket: Ticket) -> Progress:
        """Where the task stands."""

    @abstractmethod
    def outcomes(self, ticket: Ticket, items: Sequence[Item]) -> list[ItemOutcome]:
        """What became of each item, in order; only when the task is done."""

    def cancel(self, ticket: Ticket) -> None:
        """Ask the carrier to stop; what has arrived stays. A task that has ended already stays as it is."""
        return

    def tend(self) -> None:
        """Do what must be done now and then although nothing is to be carried, such as keeping a login alive."""
        return

    def find(self, provider: Mapping[str, Any], path: str) -> int | None:
        """The size in bytes of the file that the carrier finds at an absolute path there, None when there is none.

        Raises CarrierRefused, with the reason in words, when it cannot look. A carrier on this host sees what we see.
        """
        return None
