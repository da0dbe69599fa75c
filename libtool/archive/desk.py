"""The desk: what an operator may do to a librarian, at this one or at another.

Commands and the peers' door of administrators speak to a desk; :mod:`libtool.archive.here` works on this librarian's
own rows, :mod:`libtool.archive.away` asks another librarian under an administrator's account there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libtool.peers.admin import ManifestEntry
from libtool.states import AuthLevel


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A librarian that is to be registered."""

    name: str
    url: str
    port: int | None
    authenticator: str
    check: bool = True  #: ask it for a sign of life first
    allow_plain_http: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """What is searched for; all that is given must hold."""

    name: str | None = None
    uploader: str | None = None
    source: str | None = None
    window: tuple[datetime, datetime] | None = None  #: when it came in, both ends included
    limit: int = 64


@dataclass(frozen=True, slots=True)
class Freight:
    """What lies in a store: to be listed first, and then, when the list is safe, marked as gone."""

    librarian: str  #: whose store it is
    entries: Iterator[ManifestEntry]
    mark: Callable[[], list[str]]  #: returns the names that were marked and not listed, which should be none
    #: Whether a transfer to its destination is over, so that it is not listed any more.
    ended: Callable[[int], bool] = lambda number: False


class Desk(ABC):
    """Everything an operator may ask of a librarian. Rows are dictionaries in the shape that commands show as JSON."""

    #: Who did not answer the last question, and why.
    silent: list[str]

    @abstractmethod
    def librarians(self, ping: bool) -> list[dict[str, Any]]:
        """Every neighbour; with ``ping`` whether it answers, and why not."""

    @abstractmethod
    def librarian(self, name: str) -> None:
        """Raise UnknownLibrarian unless it is registered."""

    @abstractmethod
    def vet(self, newcomer: Newcomer) -> None:
        """Raise unless it may be registered; changes nothing."""

    @abstractmethod
    def add_librarian(self, newcomer: Newcomer) -> None:
        """Register it; raises when that is not possible, and then nothing is registered."""

    @abstractmethod
    def remove_librarian(self, name: str) -> None:
        """Take it off the list."""

    @abstractmethod
    def set_transfers(self, name: str, enabled: bool) -> None:
        """Switch sending to it on or off."""

    @abstractmethod
    def create_user(self, username: str, level: AuthLevel, password: str | None) -> str | None:
        """Make an account; without a password one is made and returned."""

    @abstractmethod
    def user(self, username: str) -> AuthLevel:
        """The level of an account; UnknownUser when there is none."""

    @abstractmethod
    def delete_user(self, username: str) -> None:
        """Remove an account."""

    @abstractmethod
    def search(self, terms: Terms) -> list[dict[str, Any]]:
        """Files and where their copies are, the newest first."""

    @abstractmethod
    def validate(self, name: str, max_age: float = 0.0, depth: int = 1) -> list[dict[str, Any]]:
        """Have every copy of a file read, unless that was done within ``max_age`` seconds, and say what it is. ``depth``:
        how many librarians further copies are asked for."""

    @abstractmethod
    def stores(self) -> list[dict[str, Any]]:
        """Every store and its room."""

    @abstractmethod
    def set_store(self, name: str, enabled: bool) -> None:
        """Switch a store on or off."""

    @abstractmethod
    def manifest(self, store: str, destination: str | None, *, again: bool = False) -> Freight:
        """What lies in a store. With a destination, transfers by hand are written down for what it has not got;
        ``again``: that was done before, so nothing is written."""
