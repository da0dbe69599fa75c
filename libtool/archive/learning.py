"""Learning what became of queue items from their carriers, file by file.

A running task is left alone, whatever its faults; one that only a change of files could bring to an end is stopped
after a grace. What a carrier cannot tell, the destination finds out by reading: it is reported there like what has
arrived, and what is not right comes back as an attempt that failed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from peewee import fn

from libtool import names
from libtool.archive import attempts, notices, reporting
from libtool.archive.hands import Budget, Host, Tally
from libtool.archive.queue import Cargo, Carriers, Step, cargo, files_of, subject
from libtool.errors import CarrierBarred, CarrierBusy, CarrierUnknown, LibtoolError, ServiceUnsafe
from libtool.models.base import among, writing
from libtool.models.tables import Librarian, OutgoingTransfer, Retry, SendQueue, live, owing, waiting
from libtool.movers.base import Arrived, Hitch, ItemOutcome, Mover, Progress, Stage, Ticket
from libtool.states import Owed, QueueStatus, TransferStatus

#: How long a task may stand still without a reason before that is told, in seconds.
STALLED = 4 * 3600.0
#: Hitches that are told at once: they do not pass by themselves.
_AT_ONCE = {Hitch.PAUSED, Hitch.PERSON, Hitch.SPACE}
_OUT = OutgoingTransfer
_IN_FLIGHT = SendQueue.status == QueueStatus.IN_FLIGHT


class Sweep:
    """One look at everything in flight: which carriers answer, and what stands in the way of tasks."""

    def __init__(self) -> None:
        self.carriers = Carriers("asking", "submitting")
        self.tasks = notices.Ledger("task")
        self.arrivals = notices.Ledger("arrival")

    def note(self, item: SendQueue, word: str, text: str, *, at_once: bool = False) -> None:
        """A task has this trouble."""
        self.tasks.note(f"librarian {item.destination.name}", f"{item.mover} {word}", text, at_once=at_once)

    def settle(self, host: Host, tally: Tally) -> None:
        """Tell what is new, and what is over."""
        flying = {
            f"librarian {row.name}"
            for row in Librarian.select(Librarian.name).join(SendQueue).where(waiting(), _IN_FLIGHT).distinct()
        }
        due = {
            f"librarian {row.name}"
            for row in Librarian.select(Librarian.name).join(Retry).where(Retry.not_before.is_null(False)).distinct()
        }

        def patience(about: str) -> float:
            return float(host.settings.notice_after)

        self.tasks.settle(host, tally, lambda about: about not in flying, patience)
        # The next attempt follows after FIRST_DELAY, so only after more than that is it known to be over.
        longer = 2 * attempts.FIRST_DELAY.total_seconds()
        self.arrivals.settle(host, tally, lambda about: about not in flying | due, lambda about: longer)
        self.carriers.settle(host, tally, [QueueStatus.IN_FLIGHT])


def check(host: Host, budget: Budget, tally: Tally, step: Step | None = None) -> None:
    """Ask the carriers about everything in flight, then tell every destination what has arrived there."""
    sweep = Sweep()
    flying = [row.id for row in SendQueue.select(SendQueue.id).where(waiting(), _IN_FLIGHT)]
    random.shuffle(flying)  # so that none is always the last when time is short or some are in trouble
    for id in flying:
        item = SendQueue.get_by_id(id)
        mover = host.mover(item.mover)
        if not budget.left:
            break
        if mover is None or not sweep.carriers.open(item):
            tally.postponed += item.files
        else:
            _look_at(host, item, mover, sweep, tally)
    sweep.settle(host, tally)
    tend(host, tally)
    reporting.report(host, budget, tally, step)


def _look_at(host: Host, item: SendQueue, mover: Mover, sweep: Sweep, tally: Tally) -> None:
    """Learn about one item; whatever is the matter with it, the sweep goes on."""
    try:
        learn(host, item, mover, sweep, tally)
        sweep.carriers.answered(item)
        sweep.tasks.well(f"librarian {item.destination.name}")
        sweep.arrivals.well(f"librarian {item.destination.name}")
        notices.over(host, tally, subject(item), "check")
        return
    except (CarrierUnknown, CarrierBusy, CarrierBarred) as trouble:
        sweep.carriers.trouble(item, trouble, tally)
    except ServiceUnsafe:
        raise  # the configuration's matter, not the item's
    except LibtoolError as trouble:
        notices.trouble(host, tally, subject(item), "check", trouble.text)
    tally.postponed += item.files


def tend(host: Host, tally: Tally) -> None:
    """Let the carriers do what is due now and then; it is no matter of any transfer when that does not work."""
    for mover in host.carriers():
        try:
            mover.tend()
            notices.over(host, tally, f"carrier {mover.kind}", "tending")
        except LibtoolError as trouble:
            person = isinstance(trouble, CarrierBarred)
            tally.person |= person
            notices.trouble(host, tally, f"carrier {mover.kind}", "tending", trouble.text, at_once=person)


def learn(host: Host, item: SendQueue, mover: Mover, sweep: Sweep, tally: Tally) -> None:
    """Ask about one item; when its task is done, record what became of every file."""
    ticket = json.loads(item.ticket)
    progress = mover.poll(ticket)
    if progress.ticket is not None:
        ticket = _keep(item, ticket, progress.ticket)
    if progress.stage is Stage.RUNNING:
        _look_after(host, item, mover, ticket, progress, sweep, tally)
        return
    files = files_of(item)
    if progress.stage is Stage.LOST:
        if progress.still < host.settings.globus_stuck_after:
            sweep.note(item, "lost", f"{mover.kind} does not know the task of {subject(item)}")
            tally.postponed += item.files
            return
        mover.cancel(ticket)  # in case it is there all the same
        outcomes = [ItemOutcome(Arrived.UNKNOWN)] * len(files)
    else:
        outcomes = mover.outcomes(ticket, cargo(host, files, sources=False))
    _record(host, item, files, outcomes, progress, sweep, tally)


def _keep(item: SendQueue, old: Ticket, new: Ticket) -> Ticket:
    """Keep the ticket as the carrier wants it, when it changed."""
    if new != old:
        with writing("ticket kept"):
            SendQueue.update(ticket=json.dumps(new)).where(SendQueue.id == item.id, _IN_FLIGHT).execute()
    return new


def _look_after(
    host: Host, item: SendQueue, mover: Mover, ticket: Ticket, progress: Progress, sweep: Sweep, tally: Tally
) -> None:
    """Tell what keeps a running task from going on, and stop it when it never will."""
    hitch = progress.hitch
    if hitch is not None:
        sweep.note(item, hitch.value, progress.text, at_once=hitch in _AT_ONCE)
        tally.postponed += item.files
        tally.person |= hitch is Hitch.PERSON
    elif progress.still >= STALLED:
        hours = progress.still / 3600
        text = f"nothing has moved in a task for {hours:.0f} hours{f' ({progress.text})' if progress.text else ''}"
        sweep.note(item, "stalled", f"{text}. 'libtool status --tasks' names it", at_once=True)
        tally.postponed += item.files
    never = hitch is Hitch.FILE and progress.still >= host.settings.globus_stuck_after
    unwanted = not _OUT.select(_OUT.id).where(_OUT.queue == item.id, live(_OUT)).exists()
    if never:
        ticket = _keep(item, ticket, {**ticket, "stopped": progress.text})
    if unwanted or "stopped" in ticket:
        mover.cancel(ticket)  # its end is learnt like any other


def _record(
    host: Host,
    item: SendQueue,
    files: list[Cargo],
    outcomes: list[ItemOutcome],
    progress: Progress,
    sweep: Sweep,
    tally: Tally,
) -> None:
    """Write down what became of every file of an item whose task is over."""
    arrived: list[int] = []
    failed: dict[int, str] = {}
    passing: dict[int, str] = {}
    for each, outcome in zip(files, outcomes):
        if outcome.arrived is Arrived.NO:
            (passing if outcome.passing else failed)[each.id] = outcome.why
        else:
            arrived.append(each.id)
    with writing("learnt"):
        now = host.now()
        _OUT.update(owed=Owed.STAGED).where(among(_OUT.id, arrived), _OUT.status == TransferStatus.ONGOING).execute()
        attempts.fail(failed, now, tell=True)
        attempts.fail(passing, now, tell=True, counts=False, again=now + attempts.FIRST_DELAY)
        SendQueue.update(status=QueueStatus.COMPLETED, end_time=now, report=json.dumps(dict(progress.report))).where(
            SendQueue.id == item.id, waiting()
        ).execute()
    notices.forget(subject(item))
    called = {each.id: each.name for each in files}
    for id, why in failed.items():
        tally.problem(f"'{names.shown(called[id])}' did not arrive: {why}")
    if passing:
        tally.postponed += len(passing)
        text = f"{len(passing)} files of {subject(item)} are sent again later: {next(iter(passing.values()))}"
        sweep.arrivals.note(f"librarian {item.destination.name}", item.mover, text)


def plan() -> Iterator[str]:
    """What a run would ask about and report, a line each."""
    flying = SendQueue.select(SendQueue, Librarian).join(Librarian)
    for row in flying.where(waiting(), _IN_FLIGHT).order_by(SendQueue.id):
        yield f"item {row.id}: ask {row.mover} about {row.files} files to {row.destination.name}"
    owed = _OUT.select(Librarian.name, fn.COUNT(_OUT.id)).join(Librarian).where(owing(_OUT))
    for name, count in owed.group_by(Librarian.name).tuples():
        yield f"tell {name} about {count} transfers"
