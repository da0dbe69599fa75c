"""Which files of routes have not got to their destinations yet, or lie aside unproved, and why: for who asks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peewee import Expression

from libtool.archive import replacing
from libtool.archive.hands import Host
from libtool.models.tables import Route, RouteDirectory, RouteFile, RouteRemoval, clearing
from libtool.names import shown
from libtool.states import ClearingStatus, MirrorStatus
from libtool.units import show_time


def staying(host: Host, limit: int) -> list[dict[str, Any]]:
    """Those that failed first, then what lies aside for a reason, then those that are held or wait for their turn."""
    if limit <= 0 or not Route.select().exists():
        return []
    rows = [
        _row(_path(file), file.route, file.attempts, show_time(file.not_before), str(file.reason))
        for file in _files(RouteFile.reason.is_null(False), limit)
    ]
    t = RouteRemoval
    back = t.status == ClearingStatus.RETURNING
    unproved = (t.status == ClearingStatus.ASIDE) & t.proved_time.is_null(False)
    lying = t.select(t, Route).join(Route).where(clearing(), back | unproved).order_by(t.id)
    for removal in lying.limit(limit - len(rows)):
        what = "is brought back" if removal.status is ClearingStatus.RETURNING else "lies aside, compared without proof"
        rows.append(_row(removal.path, removal.route, 0, None, f"{what}: {removal.reason}"))
    still = _files(RouteFile.reason.is_null(), limit - len(rows))
    held = _held(host, still)
    return rows + [_row(_path(file), file.route, 0, None, held.get(file.id) or _why(file)) for file in still]


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
    """Files that are not sent: those that keep still before the others."""
    t = RouteFile
    query = t.select(t, RouteDirectory, Route).join(RouteDirectory).switch(t).join(Route)
    waits = t.status << [MirrorStatus.SEEN, MirrorStatus.STABLE]
    return list(query.where(which, waits).order_by(t.status.desc(), t.id).limit(limit)) if limit > 0 else []


def _why(file: RouteFile) -> str:
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
                found[paths[path]] = "it would replace what may be the only copy of a file that was removed here"
    return found
