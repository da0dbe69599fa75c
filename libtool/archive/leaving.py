"""Which files of a route's source may be set aside: a rule over what is recorded and what lies there now; it changes nothing.

A file must have arrived at the destination of now, have been kept for long enough, be just as it was sent, still be
chosen by the patterns, and no other route with the same source may have to bring it somewhere first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from libtool.archive import notices
from libtool.archive.hands import Budget, Host, Tally
from libtool.archive.replacing import spelled
from libtool.archive.routes import Mirror, belongs, chosen
from libtool.errors import DirectoryUnreadable
from libtool.models.base import raw_rows, writing
from libtool.models.tables import Route, RouteDirectory, RouteFile, RouteRemoval, RouteTask, clearing
from libtool.names import above, shown
from libtool.states import ClearingStatus, MirrorStatus
from libtool.trees.base import Gone
from libtool.units import counted

#: Why a file is removed, as long as nothing is in its way.
ARRIVED = "it arrived"
#: How long another route has for bringing a file to its destination, too, before that is told.
AWAITED = timedelta(days=1)
#: A file's row and its path.
Going = tuple[Any, str]


@dataclass
class Kept:
    """What would be due and stays."""

    #: Paths that differ in nothing but capital letters or the spelling of accents: where the destination does not tell them
    #: apart, one is the copy of both.
    alike: list[str] = field(default_factory=list)
    #: By the name of another route with the same source: paths that it has not brought to its destination for a day.
    awaited: dict[str, list[str]] = field(default_factory=dict)


def eligible(host: Host, mirror: Mirror, budget: Budget, kept: Kept | None = None) -> Iterator[list[Going]]:
    """The files that may go, a directory at a time; what stays although it is due is put into ``kept``. Directories that
    cannot be looked at have none."""
    due, held = _due(host, mirror), kept or Kept()
    query = RouteFile.select(RouteFile.directory, RouteDirectory.path).join(RouteDirectory)
    arrived = query.switch(RouteFile).join(RouteTask).where(due).distinct().order_by(RouteDirectory.path)
    directories = list(raw_rows(arrived))
    twins = _twins(mirror) if directories else set()
    for id, directory in directories:
        if not budget.left:
            return
        if twins and not twins.isdisjoint([directory, *above(directory)]):
            held.alike.append(directory)
            continue
        try:
            found = _in(host, mirror, id, directory, held)
        except (Gone, DirectoryUnreadable):
            continue
        if found:
            yield found


def unanswered(mirror: Mirror) -> bool:
    """Whether files lie aside that were compared, and nobody could tell, or that are still to be removed."""
    asked = RouteRemoval.status << [ClearingStatus.ASIDE, ClearingStatus.PROVING]  # it may be asked once more just now
    waits = (asked & RouteRemoval.proved_time.is_null(False)) | (RouteRemoval.status == ClearingStatus.REMOVING)
    return bool(RouteRemoval.select().where(RouteRemoval.route == mirror.row.id, clearing(), waits).exists())


def tell_late(host: Host, mirror: Mirror, tally: Tally) -> None:
    """Tell of files that have lain aside for more than a day; that is over when there are none. ``transfer`` tells, too:
    what somebody writes under their names waits for them."""
    late = host.now() - timedelta(days=1) - timedelta(seconds=mirror.wanted.settle_seconds)
    t = RouteRemoval
    waits = t.select().where(t.route == mirror.row.id, clearing(), t.aside_time < late)
    count = waits.count()
    if not count:
        notices.over(host, tally, mirror.subject, "late")
        return
    first = waits.order_by(t.id).first()
    why = "they wait for their turn" if first.reason == ARRIVED else first.reason
    text = f"{counted(count, 'file')} {'has' if count == 1 else 'have'} been set aside for more than a day and not been removed,"
    text += f" such as '{shown(first.path)}': {why}. 'libtool delete' goes on with them; 'libtool delete --put-back"
    text += f" {mirror.row.name}' brings them back"
    cause = [
        (mirror.subject, kind) for kind in ("transfer-", "delete-", "fruitless prove", "differ", "former", "moved")
    ]
    cause.append(("carrier globus", ""))
    notices.trouble(host, tally, mirror.subject, "late", text, at_once=True, behind=cause)


def _twins(mirror: Mirror) -> set[str]:
    """The directories of the source that such a destination takes for one."""
    paths = [
        path
        for (path,) in raw_rows(RouteDirectory.select(RouteDirectory.path).where(RouteDirectory.route == mirror.row.id))
    ]
    count = Counter(map(spelled, paths))
    return {path for path in paths if count[spelled(path)] > 1}


def since_now(host: Host, mirror: Mirror) -> None:
    """What arrived at a time to come, by a clock that was ahead, is kept from now on."""
    now, t = host.now(), RouteFile
    ahead = (t.route == mirror.row.id) & (t.status == MirrorStatus.SENT) & (t.arrived_time > now)
    if t.select().where(ahead).exists():
        with writing("arrived by another clock"):
            t.update(arrived_time=now).where(ahead).execute()


def _due(host: Host, mirror: Mirror) -> Any:
    """The condition that a file arrived where the route goes now, long enough ago."""
    wanted = mirror.wanted
    kept: datetime = host.now() - timedelta(seconds=wanted.keep_seconds)
    mine = (RouteFile.route == mirror.row.id) & (RouteFile.status == MirrorStatus.SENT)
    there = (RouteTask.dst_id == wanted.dst_id) & (RouteTask.dst_dir == wanted.dst_dir)
    return mine & (RouteFile.arrived_time <= kept) & there


def _in(host: Host, mirror: Mirror, id: int, directory: str, kept: Kept) -> list[Going]:
    """The files of one directory that may go."""
    query = RouteFile.select(RouteFile, RouteTask).join(RouteTask)
    rows = {row.name: row for row in query.where(_due(host, mirror), RouteFile.directory == id)}
    prefix = f"{directory}/" if directory else ""
    found: list[Going] = []
    count: Counter[str] = Counter()
    for portion in mirror.tree.list(directory):
        count.update(spelled(seen.name) for seen in portion.files)
        for seen in portion.files:
            row = rows.get(seen.name)
            same = row is not None and seen[1:] == (row.size, row.mtime, row.inode, row.ctime)
            if same and belongs(mirror.ours, prefix + seen.name):
                found.append((row, prefix + seen.name))
    kept.alike += [path for row, path in found if count[spelled(row.name)] > 1]
    found = [(row, path) for row, path in found if count[spelled(row.name)] == 1]
    for name, other in host.settings.routes.items():
        if found and name != mirror.row.name and other.overlaps(mirror.wanted):
            going = _not_awaited(name, other, mirror, directory, found)
            stay = {path for _, path in found} - {path for _, path in going}
            late = host.now() - timedelta(seconds=mirror.wanted.keep_seconds) - AWAITED
            kept.awaited.setdefault(name, []).extend(
                path for file, path in found if path in stay and file.arrived_time < late
            )
            found = going
    return found


def _not_awaited(name: str, other: Any, mirror: Mirror, directory: str, found: list[Going]) -> list[Going]:
    """Those that another route with the same source has brought to its destination, too, or does not want."""
    where = f"{mirror.wanted.src_dir.rstrip('/')}/{directory}".rstrip("/") + "/"
    theirs = other.src_dir.rstrip("/") + "/"
    if not where.startswith(theirs):
        return found  # it begins deeper: what lies here is none of its files
    inside = where[len(theirs) :].rstrip("/")
    row = Route.get_or_none(Route.name == name)
    there: set[tuple[Any, ...]] = set()
    if row is not None:
        t = RouteFile
        query = t.select(t.name, t.size, t.mtime, t.inode, t.ctime).join(RouteDirectory)
        mine = (RouteDirectory.route == row.id) & (RouteDirectory.path == inside)
        arrived = (RouteTask.dst_id == other.dst_id) & (RouteTask.dst_dir == other.dst_dir)
        sent = query.switch(RouteFile).join(RouteTask).where(mine, RouteFile.status == MirrorStatus.SENT, arrived)
        there = set(raw_rows(sent))
    wants = chosen(other.include, other.exclude)
    return [
        (file, path)
        for file, path in found
        if (file.name, file.size, file.mtime, file.inode, file.ctime) in there
        or not belongs(wants, f"{inside}/{file.name}".lstrip("/"))
    ]
