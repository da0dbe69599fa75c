"""Tasks of routes: submitted exactly once, asked about, and what became of each of their files.

The ticket is committed before the carrier acts on it, as with the send queue; a run that finds a task "submitting"
repeats the same submission under the same ticket.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from libtool.archive import attempts, notices, replacing
from libtool.archive.hands import Budget, Host, Tally
from libtool.archive.hindrances import FRUITLESS, Hindrances, Step
from libtool.archive.learning import STALLED
from libtool.archive.queue import REFUSED_WAIT
from libtool.archive.routes import Mirror
from libtool.errors import CarrierBarred, CarrierBusy, CarrierRefused, CarrierUnknown
from libtool.models.base import among, raw_rows, writing
from libtool.models.tables import RouteDirectory, RouteFile, RouteRemoval, RouteTask, SendQueue, open_tasks, waiting
from libtool.movers.base import Arrived, Hitch, Item, ItemOutcome, Mover, Progress, Stage, Ticket
from libtool.states import ClearingStatus, Deed, MirrorStatus, QueueStatus
from libtool.trees.base import ASIDE
from libtool.units import UTC, counted

#: How long what a task could not do for a passing reason is left alone.
PASSING_WAIT = timedelta(minutes=10)
#: Hitches that are told at once: they do not pass by themselves.
_AT_ONCE = {Hitch.PAUSED, Hitch.PERSON, Hitch.SPACE}
#: Nothing waits for longer: a time that is farther off is of a clock that was ahead.
FARTHEST = timedelta(days=2)
#: Into so many tasks goes what was compared without an answer: a file that keeps a task from its end keeps ever fewer.
_PARTS = 10
#: The trouble of files that had arrived and were not as they were sent when both ends were compared.
DIFFER = "differ"
_KIND = {Deed.PROVE: "prove"}
UNTOLD = "Globus cannot tell whether it arrived"
_FLYING = [QueueStatus.SUBMITTING, QueueStatus.IN_FLIGHT]


class Load(NamedTuple):
    """One file of a task: the number of its row, and where it is and goes, relative to source and destination."""

    id: int
    here: str
    there: str
    size: int


def load(task: RouteTask) -> list[Load]:
    """The files that a task has, in order."""
    if task.deed in (Deed.SEND, Deed.COMPARE):
        mine = RouteFile.select(RouteFile.id, RouteDirectory.path, RouteFile.name, RouteFile.size).join(RouteDirectory)
        rows = raw_rows(
            mine.where(RouteFile.task == task.id, RouteFile.status == MirrorStatus.SENDING).order_by(RouteFile.id)
        )
        return [Load(id, where, where, size) for id, where, size in ((i, _join(d, n), s) for i, d, n, s in rows)]
    if task.deed is Deed.CLEAR:
        return [Load(n, path, path, 0) for n, path in enumerate(json.loads(task.paths or "[]"))]
    t = RouteRemoval
    rows = raw_rows(t.select(t.id, t.place, t.path, t.size).where(t.task == task.id).order_by(t.id))
    return [Load(id, f"{ASIDE}/{place}/{id}", path, size) for id, place, path, size in rows]


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def part(files: int, most: int) -> int:
    """How many of these files, which were compared without an answer, are compared again in one task."""
    return max(1, min(most, -(-files // _PARTS)))


def most_in_flight(host: Host) -> int:
    """How many more tasks may be in flight."""
    taken = RouteTask.select().where(open_tasks(), RouteTask.status << _FLYING).count()
    taken += SendQueue.select().where(waiting(), SendQueue.status << _FLYING).count()
    return int(host.settings.max_async_inflight_transfers) - taken


class Errands:
    """The tasks of one route with some deeds, for the time of one run."""

    def __init__(self, host: Host, mirror: Mirror, tally: Tally, deeds: Sequence[Deed], word: str) -> None:
        self.host, self.mirror, self.tally = host, mirror, tally
        self._deeds = list(deeds)
        self.way = Hindrances(host, mirror, tally, deeds, word)
        self._couriers: dict[tuple[Deed, str], Mover] = {}
        self.slots = most_in_flight(host)

    def courier(self, task: RouteTask) -> Mover:
        """What carries a task."""
        key = (task.deed, task.dst_dir)
        if key not in self._couriers:
            self._couriers[key] = self.host.courier(self.mirror.row.src_id, task.dst_dir, task.deed)
        return self._couriers[key]

    def open(self, *states: QueueStatus) -> Iterator[RouteTask]:
        """The tasks that are in one of these states and due, the oldest first."""
        now = self.host.now()
        due = RouteTask.not_before.is_null() | (RouteTask.not_before <= now) | (RouteTask.not_before > now + FARTHEST)
        mine = (RouteTask.route == self.mirror.row.id) & (RouteTask.deed << self._deeds)
        ids = raw_rows(
            RouteTask.select(RouteTask.id)
            .where(open_tasks(), mine, RouteTask.status << list(states), due)
            .order_by(RouteTask.id)
        )
        for (id,) in list(ids):
            yield RouteTask.get_by_id(id)

    # -- submitting ------------------------------------------------------------------------------------------------

    def make(self, deed: Deed, files: int, size: int, paths: list[str] | None = None) -> RouteTask:
        """A new task, inside the caller's transaction."""
        wanted = self.mirror.wanted
        return RouteTask.create(
            route=self.mirror.row.id,
            deed=deed,
            dst_id=wanted.dst_id,
            dst_dir=wanted.dst_dir,
            paths=None if paths is None else json.dumps(paths),
            create_time=self.host.now(),
            files=files,
            size=size,
        )

    def look_anew(self, budget: Budget) -> None:
        """Withdraw the removals that an earlier run did not submit: since it looked at the files, time has passed, and
        they are looked at again. One that may have been submitted is looked for first."""
        for task in self.open(QueueStatus.SUBMITTING, QueueStatus.QUEUED):
            if task.deed in (Deed.DELETE, Deed.CLEAR) and budget.left and not self.way.closed:
                self.way.guarded(Step.SHIP, lambda task=task: self._withdraw(task))  # type: ignore[misc]

    def finish(self, budget: Budget) -> None:
        """See the tasks of a route through that the configuration does not have any more, and withdraw those that were
        never submitted."""
        self.learn(budget)
        for task in self.open(QueueStatus.SUBMITTING, QueueStatus.QUEUED):
            if budget.left and not self.way.closed:
                self.way.guarded(Step.SHIP, lambda task=task: self._withdraw(task))  # type: ignore[misc]

    def _withdraw(self, task: RouteTask) -> None:
        if task.status is QueueStatus.SUBMITTING:
            found = self.courier(task).recall(json.loads(task.ticket))
            if found is not None:
                self._shipped(task, found)
                return
        why = "it was not submitted, and is decided anew"
        untold = [] if task.deed is Deed.CLEAR else [(each, ItemOutcome(Arrived.UNKNOWN, why)) for each in load(task)]
        record(self.host, task, untold, QueueStatus.COMPLETED, self.tally, why)

    def redirect(self) -> None:
        """End the tasks that were never submitted and are for a former destination: their files are new again."""
        wanted = self.mirror.wanted
        for task in list(self.open(QueueStatus.QUEUED)):
            if task.deed in (Deed.SEND, Deed.COMPARE) and (task.dst_id, task.dst_dir) != (
                wanted.dst_id,
                wanted.dst_dir,
            ):
                with writing("route: redirected"):
                    mine = (RouteFile.task == task.id) & (RouteFile.status == MirrorStatus.SENDING)
                    if _close(self.host, task, QueueStatus.FAILED, "the destination was changed", None):
                        RouteFile.update(status=MirrorStatus.SEEN, task=None).where(mine).execute()

    def ship(self, budget: Budget) -> None:
        """Submit what waits, as far as there is room."""
        for task in self.open(QueueStatus.SUBMITTING, QueueStatus.QUEUED):
            if self.way.closed or not budget.left:
                return
            if task.status is QueueStatus.QUEUED and self.slots <= 0:
                continue
            self.way.guarded(Step.SHIP, lambda task=task: self._ship(task))  # type: ignore[misc]

    def _items(self, files: Sequence[Load], task: RouteTask) -> list[Item]:
        root = task.dst_dir.rstrip("/")
        directory = task.deed is Deed.CLEAR
        return [Item(self.mirror.tree.path(f.here), f"{root}/{f.there}", directory, f.size) for f in files]

    def _ship(self, task: RouteTask) -> bool:
        """Submit one task; whether it is submitted now."""
        mover, provider = self.courier(task), {"destination_endpoint": task.dst_id}
        files = load(task)
        try:
            if task.status is QueueStatus.QUEUED:
                if not files:
                    end(self.host, task, QueueStatus.COMPLETED, "nothing is left of it")
                    return False
                name = f"libtool {self.host.settings.name} {self.mirror.row.name} {task.id}"
                ticket = mover.prepare(provider, name)
                if not self._claim(task, ticket):
                    return False
                self.slots -= 1
            else:
                ticket = json.loads(task.ticket)
            ticket = mover.submit(provider, ticket, self._items(files, task))
        except (CarrierUnknown, CarrierBusy, CarrierBarred) as trouble:
            if trouble.facts.get("sure"):
                self._unclaim(task, trouble.reason)
            raise
        except CarrierRefused as trouble:
            self.tally.postponed += task.files
            if trouble.facts.get("stale"):
                self._unclaim(task, trouble.reason)
            else:
                self._refused(task, trouble)
            return False
        self._shipped(task, ticket)
        self.tally.done += len(files)
        return True

    def _shipped(self, task: RouteTask, ticket: Ticket) -> None:
        with writing("route: shipped"):
            RouteTask.update(
                status=QueueStatus.IN_FLIGHT, ticket=json.dumps(ticket), submit_time=self.host.now(), reason=None
            ).where(RouteTask.id == task.id, RouteTask.status == QueueStatus.SUBMITTING).execute()

    def _claim(self, task: RouteTask, ticket: Ticket) -> bool:
        fresh = RouteTask.status == QueueStatus.QUEUED
        with writing("route: ticket"):
            change = RouteTask.update(status=QueueStatus.SUBMITTING, ticket=json.dumps(ticket))
            return bool(change.where(RouteTask.id == task.id, fresh).execute())

    def _unclaim(self, task: RouteTask, why: str) -> None:
        """Nothing was ever done under the task's ticket: it waits for a new one."""
        with writing("route: ticket withdrawn"):
            RouteTask.update(status=QueueStatus.QUEUED, ticket=None, reason=attempts.brief(why)).where(
                RouteTask.id == task.id, RouteTask.status == QueueStatus.SUBMITTING
            ).execute()

    def _refused(self, task: RouteTask, trouble: CarrierRefused) -> None:
        """A submission that surely did not happen: in two parts if it is too large, else again later, a few times."""
        if trouble.facts.get("divide") and _split(task):
            return
        self.way.refused(trouble.text)
        if task.retries < self.host.settings.max_async_send_retries:
            with writing("route: refused"):
                RouteTask.update(
                    status=QueueStatus.QUEUED,
                    ticket=None,
                    retries=task.retries + 1,
                    not_before=self.host.now() + REFUSED_WAIT,
                    reason=attempts.brief(trouble.reason),
                ).where(RouteTask.id == task.id, open_tasks()).execute()
            return
        outcome = ItemOutcome(Arrived.NO, trouble.reason)
        record(
            self.host, task, [(each, outcome) for each in load(task)], QueueStatus.FAILED, self.tally, trouble.reason
        )

    # -- learning ----------------------------------------------------------------------------------------------------

    def learn(self, budget: Budget) -> None:
        """Ask about everything in flight."""
        for task in self.open(QueueStatus.IN_FLIGHT):
            if self.way.closed or not budget.left:
                return
            self.way.guarded(Step.LEARN, lambda task=task: self._learn(task))  # type: ignore[misc]

    def _learn(self, task: RouteTask) -> None:
        mover, ticket = self.courier(task), json.loads(task.ticket)
        progress = mover.poll(ticket)
        if progress.ticket is not None:
            ticket = _keep(task, ticket, progress.ticket)
        if progress.stage is Stage.RUNNING:
            self._look_after(task, mover, ticket, progress)
            return
        files = load(task)
        if progress.stage is Stage.LOST:
            if progress.still < self.host.settings.globus_stuck_after:
                self.way.tasks.note(self.mirror.subject, "lost", "Globus does not know a task of this route")
                self.tally.postponed += task.files
                return
            mover.cancel(ticket)  # in case it is there all the same
            outcomes = [ItemOutcome(Arrived.UNKNOWN)] * len(files)
        elif task.deed in (Deed.DELETE, Deed.CLEAR):
            outcomes = [ItemOutcome(Arrived.UNKNOWN)] * len(files)  # the place itself tells
        else:
            outcomes = mover.outcomes(ticket, self._items(files, task))
        report = json.dumps(dict(progress.report))
        found = list(zip(files, outcomes))
        why = fruitless(task, found)
        if task.deed in (Deed.DELETE, Deed.CLEAR) and progress.report.get("status", "SUCCEEDED") != "SUCCEEDED":
            why = f"the task that was to remove it ended as {progress.report['status']}"
        if not why:
            self.way.tasks.well(self.mirror.subject)
        status = QueueStatus.FAILED if why else QueueStatus.COMPLETED
        record(self.host, task, found, status, self.tally, why or None, report)

    def _look_after(self, task: RouteTask, mover: Mover, ticket: Ticket, progress: Progress) -> None:
        """Tell what keeps a running task from going on, and stop it when it never will."""
        hitch = progress.hitch
        if hitch is not None:
            self.way.tasks.note(self.mirror.subject, hitch.value, progress.text, at_once=hitch in _AT_ONCE)
            self.tally.postponed += task.files
            self.tally.person |= hitch is Hitch.PERSON
        elif progress.still >= STALLED:
            text = f"nothing has moved in a task for {progress.still / 3600:.0f} hours"
            self.way.tasks.note(self.mirror.subject, "stalled", text, at_once=True)
            self.tally.postponed += task.files
        if hitch is Hitch.FILE and progress.still >= self.host.settings.globus_stuck_after:
            ticket = _keep(task, ticket, {**ticket, "stopped": progress.text})
        if "stopped" in ticket:
            mover.cancel(ticket)  # its end is learnt like any other


def _keep(task: RouteTask, old: Ticket, new: Ticket) -> Ticket:
    """Keep the ticket as the carrier wants it, when it changed."""
    if new != old:
        flying = RouteTask.status == QueueStatus.IN_FLIGHT
        with writing("route: ticket kept"):
            RouteTask.update(ticket=json.dumps(new)).where(RouteTask.id == task.id, flying).execute()
    return new


def _split(task: RouteTask) -> bool:
    """Make two tasks of one that is too large for its carrier; False when it is a single file."""
    files = load(task)
    if len(files) < 2:
        return False
    half = files[len(files) // 2 :]
    with writing("route: split"):
        first = files[: len(files) // 2]
        paths = None if task.paths is None else json.dumps([each.here for each in first])
        sizes = {"files": len(first), "size": sum(each.size for each in first), "paths": paths}
        mine = (RouteTask.id == task.id) & open_tasks()
        if not RouteTask.update(status=QueueStatus.QUEUED, ticket=None, **sizes).where(mine).execute():
            return False
        other = RouteTask.create(
            route=task.route_id,
            deed=task.deed,
            dst_id=task.dst_id,
            dst_dir=task.dst_dir,
            paths=None if task.paths is None else json.dumps([each.here for each in half]),
            create_time=task.create_time,
            files=len(half),
            size=sum(each.size for each in half),
        )
        ids = [each.id for each in half]
        if task.deed in (Deed.SEND, Deed.COMPARE):
            RouteFile.update(task=other).where(among(RouteFile.id, ids), RouteFile.task == task.id).execute()
        elif task.deed is not Deed.CLEAR:
            RouteRemoval.update(task=other).where(among(RouteRemoval.id, ids), RouteRemoval.task == task.id).execute()
    return True


# -- the end of a task ------------------------------------------------------------------------------------------------


def end(host: Host, task: RouteTask, status: QueueStatus, reason: str | None, report: str | None = None) -> None:
    """Close a task that has no files left."""
    with writing("route: task ended"):
        _close(host, task, status, reason, report)


def _close(host: Host, task: RouteTask, status: QueueStatus, reason: str | None, report: str | None) -> bool:
    ends = {"status": status, "end_time": host.now(), "reason": reason and attempts.brief(reason), "report": report}
    return bool(RouteTask.update(**ends).where(RouteTask.id == task.id, open_tasks()).execute())


def fruitless(task: RouteTask, found: Sequence[tuple[Load, ItemOutcome]]) -> str:
    """Why a task that is over changed nothing: no file of it has arrived, or is known to be the same; empty when some
    have, or it was to remove something: that is seen at the source."""
    told = {Arrived.YES} if task.deed is Deed.SEND else {Arrived.YES, Arrived.SAME}
    if task.deed in (Deed.DELETE, Deed.CLEAR) or any(outcome.arrived in told for _, outcome in found):
        return ""
    return next((outcome.why for _, outcome in found if outcome.why), UNTOLD) if found else ""


def record(
    host: Host,
    task: RouteTask,
    found: list[tuple[Load, ItemOutcome]],
    status: QueueStatus,
    tally: Tally,
    reason: str | None,
    report: str | None = None,
) -> None:
    """Write down what became of every file of a task that is over."""
    other = [each.there for each, outcome in found if task.deed is Deed.PROVE and outcome.arrived is Arrived.YES]
    if other:  # told first: once it is written down nobody learns it again
        named = ", ".join(f"'{name}'" for name in other[:5]) + (f" and {len(other) - 5} more" if len(other) > 5 else "")
        was = "was" if len(other) == 1 else "were"
        text = f"{counted(len(other), 'file')} that had arrived differed or {was} missing at the destination when compared: {named}"
        text += ". The source's content was kept and is put back, and the destination is given it again in place of what it has"
        text += " now; find out what changed it"
        notices.trouble(host, tally, f"route {task.route.name}", DIFFER, text, at_once=True)
    why = fruitless(task, found) if status is QueueStatus.FAILED else ""
    if any(outcome.arrived is Arrived.NO and not outcome.passing for _, outcome in found):
        why = ""  # these count as attempts, and are told as files that will not go
    with writing("route: learnt"):
        if not _close(host, task, status, reason, report):
            return
        if task.deed in (Deed.SEND, Deed.COMPARE):
            _arrivals(host, task, found)
        elif task.deed is Deed.PROVE:
            _proofs(host, found, _compared(host, task, report))
        elif task.deed is Deed.DELETE:
            said = {"reason": reason} if status is QueueStatus.FAILED else {}
            RouteRemoval.update(task=None, **said).where(RouteRemoval.task == task.id).execute()
    if why:
        what = "compared nothing" if task.deed is Deed.PROVE else "brought nothing"
        count = "one file" if task.files == 1 else f"{task.files} files"
        text = f"its last task, of {count}, {what}: {why.removesuffix('.')}. All stays here, and is tried again"
        about, kind = f"route {task.route.name}", f"{FRUITLESS} {_KIND.get(task.deed, 'send')}"
        behind = [(about, each) for each in ("transfer-task", "delete-task", FRUITLESS)]
        notices.trouble(host, tally, about, kind, text, behind=behind)
    if task.deed in (Deed.SEND, Deed.COMPARE):
        for each, outcome in found:
            if outcome.arrived is Arrived.NO and not outcome.passing:
                tally.failed += 1  # who is told by and by of those that will not go
                tally.details.append(f"'{each.there}' did not arrive: {outcome.why}")
            elif outcome.arrived not in (Arrived.YES, Arrived.SAME):
                tally.wait(f"'{each.there}' is tried again: {outcome.why or UNTOLD}")
            else:
                tally.done += 1


def _arrivals(host: Host, task: RouteTask, found: list[tuple[Load, ItemOutcome]]) -> None:
    """Files of a task that brought them, or found them there."""
    now = host.now()
    mine = (RouteFile.task == task.id) & (RouteFile.status == MirrorStatus.SENDING)
    there = {Arrived.YES} if task.deed is Deed.SEND else {Arrived.YES, Arrived.SAME}
    good = [each.id for each, outcome in found if outcome.arrived in there]
    known: dict[str, Any] = {"arrived_time": now, "attempts": 0, "not_before": None, "reason": None, "doubt": False}
    RouteFile.update(status=MirrorStatus.SENT, **known).where(mine, among(RouteFile.id, good)).execute()
    arrived = [each.there for each, outcome in found if outcome.arrived in there]
    replacing.replaced(task.dst_id, task.dst_dir, arrived)
    why: dict[tuple[str, bool, bool], list[int]] = {}
    for each, outcome in found:
        if outcome.arrived not in there:
            untold = outcome.arrived is not Arrived.NO
            said = outcome.why or UNTOLD
            why.setdefault((said, outcome.passing or untold, untold), []).append(each.id)
    for (said, passing, untold), ids in why.items():
        rows = RouteFile.select(RouteFile.id, RouteFile.attempts).where(mine, among(RouteFile.id, ids))
        by_count: dict[int, list[int]] = {}
        for id, count in list(raw_rows(rows)):
            by_count.setdefault(count, []).append(id)
        for count, same in by_count.items():
            wait = PASSING_WAIT if passing else attempts.delay(count + 1)
            again: dict[str, Any] = {"not_before": now + wait, "reason": attempts.brief(said), "task": None}
            if untold:
                again["doubt"] = True  # it may be there: both ends are compared, and only what differs is carried
            RouteFile.update(status=MirrorStatus.SEEN, attempts=count if passing else count + 1, **again).where(
                mine, among(RouteFile.id, same)
            ).execute()


def _compared(host: Host, task: RouteTask, report: str | None) -> datetime:
    """When a comparison ended, as the carrier told: what happened to a copy since, it has not seen. Where it told nothing
    sensible, when the task was submitted."""
    began = task.submit_time or task.create_time
    told = json.loads(report or "{}").get("completed")
    try:
        ended = datetime.fromisoformat(str(told).replace("Z", "+00:00"))
        ended = ended if ended.tzinfo else ended.replace(tzinfo=UTC)
    except ValueError:
        ended = began
    return min(max(ended, began), host.now())


def _proofs(host: Host, found: list[tuple[Load, ItemOutcome]], compared: datetime) -> None:
    """Files that are set aside and were compared with the destination's."""
    by: dict[tuple[ClearingStatus, str], list[int]] = {}
    for each, outcome in found:
        if outcome.arrived is Arrived.SAME:
            key = (ClearingStatus.PROVED, "")
        elif outcome.arrived is Arrived.YES:
            key = (ClearingStatus.RETURNING, "it was not the same as at the destination")
        else:  # nobody knows, or it could not be read: it is compared again, some time later
            key = (ClearingStatus.ASIDE, outcome.why or "Globus cannot tell whether both ends are the same")
        by.setdefault(key, []).append(each.id)
    for (status, why), ids in by.items():
        said: dict[str, Any] = {"reason": attempts.brief(why)} if why else {}
        if status is not ClearingStatus.RETURNING:
            said["proved_time"] = compared if status is ClearingStatus.PROVED else host.now()
        proving = among(RouteRemoval.id, ids) & (RouteRemoval.status == ClearingStatus.PROVING)
        RouteRemoval.update(status=status, task=None, **said).where(proving).execute()
