"""What the holders of some files say of their copies, and how old that has become since they said it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from libtool.archive import proving
from libtool.archive.deciding import Decision, Report
from libtool.archive.hands import Budget, Host, Tally
from libtool.archive.removing import SLACK
from libtool.archive.verifying import Copy

#: How long holders are asked to keep what we count on: until our copy is set aside, and somewhat longer.
HOLD = timedelta(hours=1)


class Evidence:
    """What the holders of some files say, each report as old as it has become since."""

    def __init__(self, host: Host, max_age: float, budget: Budget, tally: Tally) -> None:
        self._host, self._max_age, self._budget, self._tally = host, max_age, budget, tally
        self._reports: dict[int, list[Report]] = {}

    def ask(self, copies: Sequence[Copy]) -> None:
        """Ask about these files; the holders are asked to keep what we may count on."""
        wanted = [proving.Wanted(copy.file, copy.name, copy.size, copy.checksum) for copy in copies]
        ask = proving.young(self._max_age, HOLD.total_seconds())
        where = proving.holders([copy.file for copy in copies])
        self._reports |= proving.gather(self._host, wanted, where, ask, self._budget, self._tally)

    def asked(self, copy: Copy) -> datetime:
        """When the first of the holders of a file was asked that said anything."""
        return min((each.asked for each in self._reports.get(copy.file, []) if each.asked), default=self._host.now())

    def of(self, copy: Copy) -> list[Report]:
        """What they say of one file."""
        return [self._today(report) for report in self._reports.get(copy.file, [])]

    def _today(self, report: Report) -> Report:
        if report.age is None or report.asked is None:
            return report
        return replace(report, age=report.age + _seconds(self._host, report.asked))

    def fresh(self, copy: Copy) -> list[Report]:
        """The same, after something that may have taken long: then they are asked about this file once more."""
        if _seconds(self._host, self.asked(copy)) > SLACK / 2:
            self.ask([copy])
        return self.of(copy)


def ripe(host: Host, asked: Iterable[datetime | None], size: int = 0) -> bool:
    """Whether what may go must go now, before something of this size is read and what the holders said is too old."""
    return any(since and _seconds(host, since) + size / proving.RATE > SLACK / 2 for since in asked)


def words(decision: Decision) -> str:
    """On the strength of what a copy goes."""
    return "proved at " + ", ".join(f"{librarian} (store {store})" for librarian, store in decision.counted)


def _seconds(host: Host, since: datetime) -> float:
    return (host.now() - since).total_seconds()
