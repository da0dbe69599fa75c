"""What every store promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from libtool.states import Condition, FileKind


class Fate(Enum):
    """What became of one staged file."""

    STORED = "stored"  #: verified by reading, in its final place, durable
    WRONG = "wrong"  #: read, and it is not what was announced
    LOST = "lost"  #: neither staged nor stored
    OCCUPIED = "occupied"  #: something else lies in its final place
    UNKNOWN = "unknown"  #: could not find out; try again later


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file that lies in staging: where, and what it must turn out to be."""

    staging_id: str
    name: str
    size: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an arrival, and why when it is not STORED."""

    fate: Fate
    why: str = ""
    kind: FileKind = FileKind.FILE
    #: It is STORED, but not by us: the very same bytes lay in its final place already.
    lay_there: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Found:
    """What lies somewhere: kind, bytes, checksum."""

    kind: FileKind
    size: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What a stored copy turned out to be, by reading all of it unless that was needless."""

    condition: Condition
    size: int = 0  #: bytes that were found
    checksum: str = ""  #: what was found; empty when it was not read
    why: str = ""  #: what is wrong, in words
    identity: tuple[int, ...] = ()  #: tells whether what lies there later is still the same, untouched

    @property
    def good(self) -> bool | None:
        """Yes, no, or None: could not find out."""
        return None if self.condition is Condition.UNREADABLE else self.condition is Condition.SOUND


class Store(ABC):
    """A place for copies with a staging area in front of it.

    Every method is safe to repeat after a crash at any point of it. Methods raise StoreUnavailable when the store as a
    whole cannot be used now, which says nothing about any file.
    """

    name: str

    @abstractmethod
    def set_up(self, *, known: bool, accepted: bool = False) -> None:
        """Make what the store needs, and mark it as this librarian's.

        With ``known`` it was set up before, and an empty place is a missing mount. StoreUnavailable when a place is marked
        as somebody else's. Neither counts when it was ``accepted`` by a person.
        """

    @abstractmethod
    def check(self) -> None:
        """Raise StoreUnavailable unless this host can read and write the store now."""

    @abstractmethod
    def check_readable(self) -> None:
        """Raise StoreUnavailable unless this host can read the store now."""

    @abstractmethod
    def room(self, staged: int, promised: int) -> int:
        """Bytes that may still be promised, given what is ``promised`` to transfers that have not arrived and how much
        of what has arrived is still ``staged``."""

    @abstractmethod
    def name_room(self) -> int:
        """Longest name that fits behind the store's prefixes, in bytes."""

    @abstractmethod
    def mark(self) -> tuple[str, int]:
        """``(absolute path, size)`` of a file of the store's own that always lies beside the archived ones."""

    @abstractmethod
    def marker(self) -> AbstractContextManager[tuple[str, int]]:
        """``(absolute path, size)`` of a file that lies in the staging directory for the time of the block."""

    @abstractmethod
    def path(self, name: str) -> str:
        """Where the copy of the file ``name`` lies, absolute."""

    @abstractmethod
    def staging_path(self, staging_id: str, name: str) -> str:
        """Where a sender puts ``name``, absolute."""

    @abstractmethod
    def name_of(self, path: str) -> str | None:
        """The name that a file lying at ``path`` would have here; None when it lies elsewhere."""

    @abstractmethod
    def reserve(self, staging_id: str, names: Sequence[str]) -> None:
        """Make the staging place ``staging_id`` and in it the directories that ``names`` lie in, but not the names."""

    @abstractmethod
    def reserved(self) -> list[str]:
        """The ids of all staging places that are there."""

    @abstractmethod
    def take_in(self, arrivals: Sequence[Arrival]) -> list[Outcome]:
        """Verify every arrival by reading it and move the right ones to their final places, durably; in order.

        What was moved before a crash counts as STORED. Nothing that lies in the store is ever replaced.
        """

    @abstractmethod
    def copy_in(self, source: str, staging_id: str, name: str) -> Found:
        """Copy ``source`` into staging as ``name`` and read the copy; raises FileUnreadable or FileChanged."""

    @abstractmethod
    def move_in(self, source: str, name: str, expected: Found) -> bool:
        """Rename ``source`` to its final place if it lies on the same file system; False when it does not."""

    @abstractmethod
    def measure(self, path: str) -> Found:
        """Read what lies at ``path``, here or anywhere on this host; raises FileUnreadable or FileChanged."""

    @abstractmethod
    def look(self, name: str, size: int, kind: FileKind) -> str:
        """Why the copy ``name`` cannot be sent now (missing, other size, unreadable); empty when it can."""

    @abstractmethod
    def discard(self, staging_id: str) -> None:
        """Remove the staging place and everything in it; one that is gone is fine."""

    @abstractmethod
    def discard_one(self, staging_id: str, name: str) -> None:
        """Remove one staged file and leave its siblings."""

    # -- looking after what is stored --------------------------------------------------------------------------

    @abstractmethod
    def read(self, name: str, size: int, checksum: str, kind: FileKind) -> Reading:
        """Read the copy ``name`` and compare it with what was recorded. Raises StoreUnavailable when it is the store
        that cannot be read: a store that is not mounted misses no file."""

    @abstractmethod
    def read_aside(self, name: str, aside_id: str, size: int, checksum: str, kind: FileKind) -> Reading:
        """The same for what was set aside; MISSING when nothing was."""

    @abstractmethod
    def look_aside(self, name: str, aside_id: str, size: int, since: datetime) -> bool | None:
        """Whether what was set aside has kept its size and was not written to after ``since``, without reading it; None
        when nothing lies there."""

    @abstractmethod
    def aside_path(self, aside_id: str, name: str) -> str:
        """Where what was set aside lies, absolute."""

    @abstractmethod
    def set_aside(self, name: str, aside_id: str, identity: tuple[int, ...] = ()) -> bool:
        """Take the copy ``name`` out of its place and keep its bytes under ``aside_id``, durably; repeating is fine.

        Returns whether it lies aside; False when neither place has it. With ``identity`` it is put back, and FileChanged
        raised, when it is not what was read; FileExistsError when something else has come to its place meanwhile.
        """

    @abstractmethod
    def bring_back(self, name: str, aside_id: str) -> bool:
        """Put what was set aside back into its place, durably; returns whether it lies there. FileExistsError when
        something else does; repeating is fine."""

    @abstractmethod
    def purge(self, aside_id: str) -> None:
        """Remove what was set aside for good, all of it or nothing, however it ends; what is gone is fine."""

    @abstractmethod
    def space(self) -> tuple[int, int]:
        """``(all, free)`` bytes of the file system that the copies lie on."""

    @abstractmethod
    def entries(self, directory: str) -> Iterator[tuple[str, bool]]:
        """``(name, whether it is a directory)`` of what lies in a directory of the store, by names relative to the store,
        without the store's own; the empty name is the store itself. Links to directories are no directories."""
