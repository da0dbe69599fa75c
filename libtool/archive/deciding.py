"""May this copy go? One pure function says so, from what was found out; it reads no row, no byte and asks nobody.

Everything speaks for keeping a copy: what could not be found out, what is too old, what anybody found to be different.
Only copies that were read and found right count, each once, and only as told by the librarian that holds them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from libtool import digest
from libtool.states import Condition, DeletionPolicy


@dataclass(frozen=True, slots=True)
class Report:
    """What somebody says about one copy."""

    teller: str  #: the librarian that we asked
    librarian: str  #: the one that holds the copy
    store: int  #: its number of the store
    good: bool | None  #: whether it was read and is what was recorded there; None: could not find out
    size: int
    checksum: str
    age: float | None  #: seconds since it was read, when we asked; None: nobody knows
    asked: datetime | None = None  #: when we asked

    @property
    def copy(self) -> tuple[str, int]:
        """Which copy it is about, whoever tells."""
        return self.librarian, self.store


@dataclass(frozen=True, slots=True)
class Own:
    """The copy that may go, and what it is needed for."""

    librarian: str
    size: int  #: as recorded
    checksum: str
    policy: DeletionPolicy
    age: float  #: seconds since it came in
    condition: Condition | None  #: what it was when it was read last; None: never read
    needed: str = ""  #: who needs it here, in words: a transfer that reads it, a neighbour that counts on it


@dataclass(frozen=True, slots=True)
class Terms:
    """What an operator demands."""

    copies: int  #: other copies that must be proved
    max_age: float  #: seconds since those were read
    min_age: float = 0.0  #: seconds since ours came in
    held: bool = True  #: whether a deletion policy of DISALLOWED is respected


@dataclass(frozen=True, slots=True)
class Decision:
    """Why a copy stays; when nothing speaks for that it may go, on the strength of ``counted``."""

    reasons: tuple[str, ...]
    counted: tuple[tuple[str, int], ...]

    @property
    def may_go(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reasons


def decide(own: Own, reports: Iterable[Report], terms: Terms) -> Decision:
    """Whether ``own`` may go; every reason against it is given, the first is the weightiest."""
    found = list(reports)
    reasons = _contradictions(own, found)
    counted = _proved(own, found, terms)
    if own.condition is None:
        reasons.append("our own copy was not read")
    elif own.condition is not Condition.SOUND:
        reasons.append(f"our own copy is {own.condition.name.lower()}")
    if own.policy is not DeletionPolicy.ALLOWED and terms.held:
        reasons.append("its deletion policy is DISALLOWED")
    if own.age < terms.min_age:
        reasons.append("it is too young")
    if own.needed:
        reasons.append(own.needed)
    if terms.copies < 1:
        reasons.append("at least one other copy must be demanded")
    if len(counted) < terms.copies:
        known = ", ".join(f"{librarian} (store {store})" for librarian, store in counted) or "none"
        reasons.append(f"{len(counted)} of {terms.copies} other copies are proved: {known}")
    return Decision(tuple(reasons), tuple(counted))


def _contradictions(own: Own, reports: list[Report]) -> list[str]:
    """Who holds or tells of something else: then nobody knows which is right, and everything stays."""
    wrong = []
    for report in reports:
        differs = report.good is not None and (
            report.size != own.size or digest.same(report.checksum, own.checksum) is False
        )
        if report.good is False or (report.good and differs):
            wrong.append(
                f"the copy at {report.librarian} (store {report.store}) is not the same, as {report.teller} says"
            )
    return list(dict.fromkeys(wrong))


def _proved(own: Own, reports: list[Report], terms: Terms) -> list[tuple[str, int]]:
    """The other copies that surely are there and right, each once."""
    return sorted({report.copy for report in reports if _proves(own, report, terms)})


def _proves(own: Own, report: Report, terms: Terms) -> bool:
    return (
        report.good is True
        and report.librarian != own.librarian
        and report.teller == report.librarian
        and report.age is not None
        and 0 <= report.age <= terms.max_age
        and report.size == own.size
        and digest.same(report.checksum, own.checksum) is True
    )
