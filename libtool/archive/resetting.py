"""Forgetting a route, as long as nothing of it lies aside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from libtool.archive.hands import Host
from libtool.errors import Refused
from libtool.models.base import Record, among, raw_rows, writing
from libtool.models.tables import (
    Route,
    RouteDirectory,
    RouteFile,
    RouteRemoval,
    RouteTask,
    clearing,
    open_tasks,
)
from libtool.states import MirrorStatus, QueueStatus
from libtool.units import are, counted

#: Rows that are forgotten in one transaction.
ROWS = 5000


@dataclass(frozen=True)
class State:
    """What would be forgotten; counts."""

    any: bool
    files: int = 0
    arrived: int = 0
    tasks: int = 0
    aside: int = 0


def state(name: str) -> State:
    """What is known of a route."""
    row = Route.get_or_none(Route.name == name)
    if row is None:
        return State(False)
    mine = RouteFile.select().where(RouteFile.route == row.id)
    tasks = RouteTask.select().where(RouteTask.route == row.id, open_tasks(), RouteTask.status > QueueStatus.QUEUED)
    sent = mine.where(RouteFile.status == MirrorStatus.SENT)
    aside = RouteRemoval.select().where(RouteRemoval.route == row.id, clearing())
    return State(True, mine.count(), sent.count(), tasks.count(), aside.count())


def reset(host: Host, name: str) -> None:
    """Forget a route; Refused while something of it lies aside or a task is under way."""
    row = Route.get_or_none(Route.name == name)
    if row is None:
        return
    aside = RouteRemoval.select().where(RouteRemoval.route == row.id, clearing()).count()
    if aside:
        raise Refused(
            why=f"{counted(aside, 'file')} of {name} {are(aside)} set aside at its source, and only the state tells where they belong",
            how=f"Run 'libtool delete {name}' until they are gone, or 'libtool delete --put-back {name}', and try again.",
        )
    flying = (
        RouteTask.select().where(RouteTask.route == row.id, open_tasks(), RouteTask.status > QueueStatus.QUEUED).count()
    )
    if flying:
        raise Refused(
            why=f"{counted(flying, 'task')} of {name} {are(flying)} under way, and may write older content over newer when nobody knows of them",
            how=f"Run 'libtool transfer {name}' and 'libtool delete {name}' until they are over, and try again.",
        )
    for table in (RouteRemoval, RouteFile):
        while _some(table, table.route == row.id):
            pass
    while _some(RouteDirectory, (RouteDirectory.route == row.id) & _leaf()):
        pass
    with writing("route forgotten"):
        RouteTask.delete().where(RouteTask.route == row.id).execute()
        Route.delete().where(Route.id == row.id).execute()


def _leaf() -> Any:
    """A directory without another in it."""
    below = RouteDirectory.alias()
    return RouteDirectory.id.not_in(below.select(below.parent).where(below.parent.is_null(False)))


def _some(table: type[Record], which: Any) -> int:
    """Forget a portion of a table's rows; how many these were."""
    ids = [id for (id,) in raw_rows(table.select(table.id).where(which).limit(ROWS))]
    if ids:
        with writing("route: forget"):
            table.delete().where(among(table.id, ids)).execute()
    return len(ids)
