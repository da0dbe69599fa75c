"""What every carrier promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

#: A carrier's own memory of one task: a JSON object, kept in the queue item, given back at every call.
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
    UNKNOWN = "unknown"  #: the carrier cannot be asked now


class Arrived(Enum):
    """What became of one item."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a task stands; ``notice`` is for the operator, ``report`` what the carrier measured."""

    stage: Stage
    notice: str = ""
    report: Mapping[str, Any] = field(default_factory=dict)


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
    """

    kind: ClassVar[str]
    #: Whether a submitted task goes on by itself; only such tasks count against the limit of tasks in flight.
    asynchronous: ClassVar[bool]

    @abstractmethod
    def reaches(self, provider: Mapping[str, Any]) -> str:
        """Why this node cannot bring files to what ``provider`` describes; empty when it can."""

    def refuses(self, name: str) -> str:
        """Why a file of this name cannot be carried; empty when it can."""
        return ""

    @abstractmethod
    def prepare(self, provider: Mapping[str, Any], label: str) -> Ticket:
        """A ticket for one task; nothing is moved yet."""

    @abstractmethod
    def submit(self, provider: Mapping[str, Any], ticket: Ticket, items: Sequence[Item]) -> Ticket:
        """Have the items carried; returns the ticket to keep.

        Raises CarrierRefused when surely nothing will be carried, CarrierUnknown when that cannot be known.
        """

    @abstractmethod
    def poll(self, ticket: Ticket) -> Progress:
        """Where the task stands."""

    @abstractmethod
    def outcomes(self, ticket: Ticket, items: Sequence[Item]) -> list[ItemOutcome]:
        """What became of each item, in order; only when the task is done."""

    def cancel(self, ticket: Ticket) -> None:
        """Ask the carrier to stop; what has arrived stays."""
        return
