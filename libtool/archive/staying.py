"""Which files of routes have not got to their destinations yet, or lie aside unproved, and why: for who asks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peewee import Expression

from libtool.archive import replacing
from libtool.archive.hands import Host
from libtool.archive.leaving import ARRIVED
from libtool.models.tables import Route, RouteDirectory, RouteFile, RouteRemoval, RouteTask, clearing, open_tasks
from libtool.names import shown
from libtool.states import ClearingStatus, MirrorStatus, QueueStatus
from libtool.units import show_time

_ONLY = "it would replace what may be the only copy of a file that was removed here"
_ASIDE = {
    ClearingStatus.DECIDED: "is about to be set aside",
    ClearingStatus.ASIDE: "lies aside, to be compared",
    ClearingStatus.PROVING: "lies aside, is being compared",
    ClearingStatus.PROVED: "lies aside, to be removed",
    ClearingStatus.REMOVING: "lies aside, is being removed",
    ClearingStatus.RETURNING: "is brought back",
}


def staying(host: Host, limit: int) -> list[dict[str, Any]]:
    """Those that failed first, then what lies aside for a reason, then those that are held or wait for their turn."""
    if limit <= 0 or not Route.select().exists():
        return []
    rows = [
        _row(_path(file), file.route, file.attempts, show_time(file.not_before), str(file.reason))
        for file in _files(RouteFile.reason.is_null(False), limit)
    ]
    rows += _aside(limit - len(rows))
    still = _files(RouteFile.reason.is_null(), limit - len(rows))
    held = _held(host, still)
    for file in still:
        why = held.get(file.id)
        rows.append(_row(_path(file), file.route, 0, "a person" if why == _ONLY else None, why or _why(file)))
    return rows + _elsewhere(host, limit - len(rows))


def _aside(limit: int) -> list[dict[str, Any]]:
    """What lies aside; what comes back, or was compared without proof, before the others."""
    if limit <= 0:
        return []
    t, rows = RouteRemoval, []
    lying = t.select(t, Route).join(Route).where(clearing())
    back = t.status == ClearingStatus.RETURNING
    for removal in lying.order_by(~back, t.proved_time.is_null(), t.id).limit(limit):
        what, why = _ASIDE[removal.status], f": {removal.reason}"
        if removal.status is ClearingStatus.ASIDE and removal.proved_time is not None:
            what = "lies aside, was compared, and nobody could tell"
        elif removal.reason == ARRIVED:
            why = ""
        rows.append(_row(removal.path, removal.route, 0, None, f"{what}{why}"))
    return rows


def _elsewhere(host: Host, limit: int) -> list[dict[str, Any]]:
    """What arrived at a former destination of its route."""
    rows: list[dict[str, Any]] = []
    t = RouteFile
    for name, wanted in host.settings.routes.items():
        query = t.select(t, RouteDirectory, Route, RouteTask).join(RouteDirectory).switch(t).join(Route).switch(t)
        other = (RouteTask.dst_id != wanted.dst_id) | (RouteTask.dst_dir != wanted.dst_dir)
        mine = (Route.name == name) & (t.status == MirrorStatus.SENT)
        if limit > len(rows):
            for file in query.join(RouteTask).where(mine, other).order_by(t.id).limit(limit - len(rows)):
                why = f"it arrived at the former destination {file.task.dst_dir}"
                rows.append(_row(_path(file), file.route, 0, "a person", why))
    return rows


def _row(path: str, route: Route, attempts: int, following: str | None, reason: str) -> dict[str, Any]:
    return {
        "name": shown(path),
        "destination": f"route {route.name}",
        "attempts": attempts,
        "next": following or "next run",
        "reason": reason,
    }


def _path(file: RouteFile) -> str:
    return f"{file.directory.path}/{file.name}".lstrip("/")


def _files(which: Expression, limit: int) -> list[RouteFile]:
    """Files that no task carries now: those that keep still before the others."""
    t = RouteFile
    unsent = RouteTask.select(RouteTask.id).where(open_tasks(), RouteTask.status < QueueStatus.IN_FLIGHT)
    query = t.select(t, RouteDirectory, Route).join(RouteDirectory).switch(t).join(Route)
    waits = (t.status < MirrorStatus.SENDING) | ((t.status == MirrorStatus.SENDING) & (t.task << unsent))
    return list(query.where(which, waits).order_by(t.status.desc(), t.id).limit(limit)) if limit > 0 else []


def _why(file: RouteFile) -> str:
    if file.status is MirrorStatus.SENDING:
        return str(file.task.reason or "its task could not be submitted yet")
    if file.status is MirrorStatus.STABLE:
        return "it will be compared with the destination's" if file.doubt else "no task has had room for it yet"
    return "it must be found the same in one more look"


def _held(host: Host, files: Iterable[RouteFile]) -> dict[int, str]:
    """Why files that keep still are not sent because of their names, by number."""
    found: dict[int, str] = {}
    for row in {file.route_id: file.route for file in files}.values():
        paths = {
            _path(each): each.id for each in files if each.route_id == row.id and each.status is MirrorStatus.STABLE
        }
        for path in replacing.aside(row, paths):
            found[paths[path]] = "a former file of its name lies aside, to be removed"
        if wanted := host.settings.routes.get(row.name):
            for path in replacing.held(wanted, [path for path in paths if paths[path] not in found]):
                found[paths[path]] = _ONLY
    return found
