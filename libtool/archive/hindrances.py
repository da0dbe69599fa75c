"""What keeps one run of a route's task from going on: gathered step by step, told at its end.

A step that worked says that what stood in the way of that step is over, and nothing of the others: that the source can be
looked at says nothing of the destination. What ``transfer`` has told ``delete`` does not tell again, nor the other way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from libtool.archive import notices
from libtool.archive.hands import Host, Tally
from libtool.archive.routes import Mirror
from libtool.errors import CarrierBarred, CarrierBusy, CarrierUnknown, LibtoolError, ServiceUnsafe
from libtool.models.tables import RouteTask, SendQueue, open_tasks, waiting
from libtool.states import Deed, QueueStatus

CARRIER = "carrier globus"
#: The kind of trouble that tasks have which end and change nothing.
FRUITLESS = "fruitless"
_SIBLING = {"transfer": "delete", "delete": "transfer"}


class Step(Enum):
    """What a run does at the source or with a task; troubles are kept apart by it."""

    LOOK = "look"  #: at the source; also setting aside, and what else is done there
    SHIP = "ship"  #: submit
    LEARN = "learn"  #: ask what became of a task


class Hindrances:
    """What one run met. ``deeds``: of its tasks."""

    def __init__(self, host: Host, mirror: Mirror, tally: Tally, deeds: Sequence[Deed], word: str) -> None:
        self._host, self._mirror, self._tally, self._deeds = host, mirror, tally, list(deeds)
        other = _SIBLING[word]
        self._notes = notices.Ledger(word)
        #: What hinders tasks that were submitted.
        self.tasks = notices.Ledger(f"{word}-task", f"{other}-task", [FRUITLESS])
        self._steps = {step: notices.Ledger(f"{word}-{step.value}", f"{other}-{step.value}") for step in Step}
        self.closed = False  #: the carrier does not answer, or a person must act first
        self.smooth = True  #: nothing stood in the way of looking and submitting yet

    def guarded(self, step: Step, deed: Callable[[], bool | None]) -> bool:
        """Do something, and note what keeps it from being done; whether it was done. A deed that says False found nothing
        out."""
        try:
            found = deed()
        except (CarrierUnknown, CarrierBusy, CarrierBarred) as trouble:
            self._stands(step)
            self.trouble(step, trouble)
            return False
        except ServiceUnsafe:
            raise  # the configuration's matter
        except LibtoolError as trouble:
            self._stands(step)
            self._tally.postponed += 1
            person = trouble.exit_code == 4
            self._tally.person |= person
            self._steps[step].note(self._mirror.subject, type(trouble).__name__, trouble.text, at_once=person)
            return False
        if found is not False:
            self._well(step)
        return True

    def _stands(self, step: Step) -> None:
        self.smooth = self.smooth and step is Step.LEARN

    def _well(self, step: Step) -> None:
        self._steps[step].well(self._mirror.subject)
        if step is not Step.LOOK or not self._mirror.tree.immediate:
            self._steps[step].well(CARRIER)

    def complete(self) -> None:
        """Nothing kept the run from what it has to do: what it did not meet is not there."""
        self._notes.well(self._mirror.subject)

    def refused(self, text: str) -> None:
        """A submission that was refused for good."""
        self._steps[Step.SHIP].note(self._mirror.subject, "refused", text, at_once=True)

    def trouble(self, step: Step, trouble: CarrierUnknown | CarrierBusy | CarrierBarred) -> None:
        """Note that the carrier, or one end of the route, cannot be used now."""
        everywhere = bool(trouble.facts.get("everywhere", True))
        person = isinstance(trouble, CarrierBarred)
        word = str(trouble.facts.get("cause") or ("busy" if isinstance(trouble, CarrierBusy) else "unknown"))
        text = trouble.text.removeprefix("the carrier ")
        about = f"carrier {trouble.facts['carrier']}" if everywhere else self._mirror.subject
        self.closed = self.closed or everywhere or person
        self._tally.postponed += 1
        self._tally.person |= person
        self._steps[step].note(about, word, text, at_once=person)
        self._tally.details.append(f"{about}: {text}")

    def note(self, word: str, text: str, *, at_once: bool = False) -> None:
        """Something about the route that lasts."""
        self._notes.note(self._mirror.subject, word, text, at_once=at_once)

    def settle(self, failing: bool, lasting: Sequence[str] = ()) -> None:
        """Tell what is new and what is over, but for what the run could not meet (``lasting``). ``failing``: files wait
        for another try."""

        def patience(about: str) -> float:
            return float(self._host.settings.notice_after) if about.startswith("route ") else 0.0

        flying, queued = self._any(QueueStatus.IN_FLIGHT), self._any(QueueStatus.QUEUED, QueueStatus.SUBMITTING)
        idle = not RouteTask.select().where(open_tasks()).exists() and not SendQueue.select().where(waiting()).exists()
        gone = {
            Step.LOOK: lambda about: False,
            Step.SHIP: lambda about: idle if about == CARRIER else not queued and not failing,
            Step.LEARN: lambda about: idle if about == CARRIER else not flying,
        }
        self._notes.settle(self._host, self._tally, lambda about: False, patience, lasting)
        for step, ledger in self._steps.items():
            mine = self._mine(gone[step])
            ledger.settle(self._host, self._tally, mine, patience, lasting)
        self.tasks.settle(self._host, self._tally, self._mine(lambda about: not flying and not failing), patience)

    def _mine(self, gone: Callable[[str], bool]) -> Callable[[str], bool]:
        """Of other routes this run found nothing out."""
        return lambda about: about in (self._mirror.subject, CARRIER) and gone(about)

    def _any(self, *states: QueueStatus) -> bool:
        mine = (RouteTask.route == self._mirror.row.id) & (RouteTask.deed << self._deeds)
        return bool(RouteTask.select().where(open_tasks(), mine, RouteTask.status << list(states)).exists())
