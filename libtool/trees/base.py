"""What every tree promises: it is listed, and files are set aside in it, brought back, and removed for good."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, NamedTuple

from libtool.errors import SourceAbsent

#: The directory below a tree's root in which files wait to be removed; no listing shows one of this name.
ASIDE = ".libtool-aside"
#: Entries that one portion of a listing has at most, where the tree can be read in portions.
PORTION = 10_000


class Seen(NamedTuple):
    """A regular file as a listing shows it. Where the tree cannot tell them, ``inode`` and ``ctime`` are 0."""

    name: str  #: the last part of its path
    size: int  #: bytes
    mtime: int  #: modification time in nanoseconds since 1970; whole seconds behind a collection
    inode: int
    ctime: int  #: time of the last change of content or metadata, in nanoseconds since 1970


@dataclass(slots=True)
class Portion:
    """A part of what is in one directory."""

    files: list[Seen] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)  #: names; links to directories are none
    strange: list[str] = field(
        default_factory=list
    )  #: names of links, devices, sockets, and what is no UTF-8 (escaped)
    whole: bool = True  #: False: the directory has more than the tree can show


class Gone(Exception):
    """The directory is not there (any more), or is none. Says nothing about the tree as a whole."""


def absent(path: str, why: str) -> SourceAbsent:
    """The error that a tree as a whole is not to be seen: nothing is known of what is in it."""
    return SourceAbsent(carrier="source", path=path, why=why, everywhere=False, cause="source")


class Way(Enum):
    """What became of a wish to move one file within the tree."""

    MOVED = "moved"  #: it lies where it should, because of this call or of an earlier one
    MISSING = "missing"  #: it lies in neither place
    #: Something lies where it should go; nothing was moved. That may be the file itself, moved by an earlier call that
    #: ended before it could tell, when somebody has made another at its former path since: a look at both tells.
    OCCUPIED = "occupied"


class Tree(ABC):
    """A directory with all that is below it. Paths are relative to its root and have no empty, ``.`` or ``..`` parts;
    the root itself is ``""``. Links are never followed below the root.

    Every method may be repeated after a crash at any point of it. Besides what they name, methods raise CarrierUnknown,
    CarrierBusy or CarrierBarred when the tree cannot be used now (``everywhere`` tells, as with carriers, whether that
    is a matter of the service or of this tree), and DirectoryUnreadable when just this directory or file cannot be.
    A root that is not there is a tree that cannot be used; of an empty one nobody can tell whether it is only not mounted.

    Places are written to by one process at a time, which holds a lock, and by nobody else.
    """

    #: Whether removing is done by the tree at once; otherwise it is a task of the carrier.
    immediate: ClassVar[bool]

    @abstractmethod
    def unable(self) -> str:
        """Why files cannot be set aside in this tree, in words; empty when they can."""

    @abstractmethod
    def path(self, path: str) -> str:
        """Where a path of the tree is, absolute, as its carrier names it."""

    @abstractmethod
    def list(self, directory: str) -> Iterator[Portion]:
        """What is in a directory, in portions; at least one. Gone when it is not there.

        Nothing is looked at before the first portion is asked for. Trouble may also come behind some portions: what
        they showed is there, and of the rest nothing is known.

        ``.libtool-aside`` is left out of the root and of every directory.
        """

    @abstractmethod
    def lacks(self, directory: str, names: Sequence[str]) -> Sequence[str]:
        """Those of ``names`` under which the directory surely has nothing; all of them when it is gone."""

    # -- setting aside -------------------------------------------------------------------------------------------

    @abstractmethod
    def make_place(self, place: str) -> None:
        """Make the directory ``.libtool-aside/PLACE``; one that is there stays."""

    @abstractmethod
    def set_aside(self, path: str, place: str, name: str) -> Way:
        """Move what lies at ``path`` to ``.libtool-aside/PLACE/NAME``, whatever it is. Nothing is replaced.

        Raises DirectoryUnreadable when the place was not made. Size, time and inode stay as they were; ``ctime`` does not.
        """

    @abstractmethod
    def bring_back(self, place: str, name: str, path: str) -> Way:
        """Move it back to ``path``, making directories as needed. Nothing is replaced: OCCUPIED, also when something
        that is no directory lies on the way. MOVED when it is not in its place any more and something lies at ``path``."""

    @abstractmethod
    def aside(self, place: str) -> Mapping[str, Seen | None]:
        """Everything that lies in a place, by name; None for what is no regular file. Empty when there is no such place.

        Raises DirectoryUnreadable when that cannot be told completely.
        """

    # -- removing (only of immediate trees) ----------------------------------------------------------------------

    def remove(self, place: str, name: str, seen: Seen) -> str:
        """Remove a file that was set aside, if it is still just as :meth:`aside` showed it there (``seen``; its name does
        not matter) and nobody has it open for writing; returns why it was not removed, in words, or nothing. One that
        is gone counts as removed."""
        raise NotImplementedError

    def remove_empty(self, directory: str) -> bool:
        """Remove a directory if nothing is in it; whether it is gone now."""
        raise NotImplementedError

    def clear_place(self, place: str) -> bool:
        """Remove a place in which nothing is left; whether it is gone now."""
        raise NotImplementedError
