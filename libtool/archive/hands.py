"""What the rules are handed: the Host that they work for, the time they have, and where they put what they did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from libtool.models.tables import Librarian
    from libtool.models.tables import Store as StoreRow
    from libtool.movers.base import Mover
    from libtool.peers.client import Peer
    from libtool.states import Deed
    from libtool.stores.base import Store
    from libtool.trees.base import Tree


class Host(Protocol):
    """A librarian's node, as far as the rules need it."""

    @property
    def settings(self) -> Any:
        """The configuration."""

    def now(self) -> datetime:
        """The time; tests control it."""

    def store(self, row: StoreRow) -> Store:
        """The store of a row; StoreUnavailable when the configuration does not have it."""

    def mover(self, kind: str) -> Mover | None:
        """The carrier of a kind, None when this node has none."""

    def carriers(self) -> Iterable[Mover]:
        """The carriers that need looking after although nothing is to be carried."""

    def tree(self, route: Any) -> Tree:
        """The source of a route of the configuration."""

    def far_tree(self, route: Any) -> Tree:
        """The destination of a route, for looking at it."""

    def courier(self, src_id: str, dst_dir: str, deed: Deed) -> Mover:
        """What carries, compares or removes the files of a route."""

    def peer(self, librarian: Librarian, *, seconds: float | None = None) -> Peer:
        """A neighbour that can be asked; ``seconds``: how long an answer is waited for, when it is less than usual."""

    def stranger(
        self, name: str, url: str, port: int | None, authenticator: str | None, *, seconds: float | None = None
    ) -> Peer:
        """A librarian that is not registered here."""

    def key(self) -> bytes:
        """The encryption key."""

    def post(self, key: str, lines: list[str], more: int = 0) -> list[str]:
        """Hand over one message with these lines, which leaves ``more`` unsaid; returns who was refused, and why.
        MailFailed when nobody gets it."""

    def conceal(self, secret: str) -> str:
        """A secret as the database may keep it."""

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Hold the lock ``name`` for the time of the block; LockTaken when somebody else has it."""


@dataclass
class Tally:
    """What one run did: counts for the run record, and lines for the operator."""

    done: int = 0
    failed: int = 0
    postponed: int = 0
    #: One line each for what a person must know now; printed even when quiet.
    lines: list[str] = field(default_factory=list)
    #: Those of them that are in the outbox, and those of these that mail has taken care of.
    posted: set[str] = field(default_factory=set)
    mailed: set[str] = field(default_factory=set)
    #: One line each for what waits and will be tried again by itself; only for who asks.
    details: list[str] = field(default_factory=list)
    #: A person must act before this goes on.
    person: bool = False

    def problem(self, line: str, count: int = 1) -> None:
        """One item failed; it is named."""
        self.failed += count
        self.lines.append(line)

    def wait(self, line: str) -> None:
        """One item is postponed; it is named for who asks."""
        self.postponed += 1
        self.details.append(line)

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do at all."""
        return not (self.done or self.failed or self.postponed)

    @property
    def exit_code(self) -> int:
        """4 beats 3 beats 0."""
        return 4 if self.person else 3 if self.failed or self.postponed else 0


class Budget:
    """How long a run may go on; asked between two steps, so that a step is never cut."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._end = clock() + seconds

    def share(self, among: int) -> Budget:
        """An equal part of what is left for one of ``among`` that take turns."""
        return Budget(max(0.0, self._end - self._clock()) / max(1, among), self._clock)

    @property
    def left(self) -> bool:
        """Whether another step may begin."""
        return self._clock() < self._end

    @property
    def seconds(self) -> float:
        """How much is left."""
        return max(0.0, self._end - self._clock())


def portions(rows: list[Any], size: int) -> Iterator[list[Any]]:
    """``rows`` in pieces of at most ``size``."""
    for n in range(0, len(rows), size):
        yield rows[n : n + size]
