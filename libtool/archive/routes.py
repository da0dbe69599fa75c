"""Routes: directory pairs of the configuration, and what of their sources is theirs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from typing import Any

from peewee import SQL, fn

from libtool import names
from libtool.archive import notices, queue, resetting
from libtool.archive.hands import Host, Tally
from libtool.errors import RouteMoved, UnknownRoute
from libtool.models.base import among, raw_rows, writing
from libtool.models.tables import Route, RouteFile, RouteRemoval, RouteTask, clearing, open_tasks
from libtool.states import ClearingStatus, MirrorStatus
from libtool.trees.base import Tree
from libtool.units import are, show_time

#: The states of files that have not arrived: a route has few of them at a time.
UNSENT = [MirrorStatus.SEEN, MirrorStatus.STABLE, MirrorStatus.SENDING]


@dataclass(frozen=True)
class Mirror:
    """A route that is worked on."""

    row: Route
    wanted: Any  #: its entry in the configuration
    tree: Tree  #: its source
    ours: Callable[[str, bool], bool]  #: whether a path (True: a directory) belongs to it, by its patterns

    @property
    def former(self) -> bool:
        """Whether the configuration does not have it any more, or with another source."""
        return isinstance(self.wanted, Former)

    @property
    def subject(self) -> str:
        """What notices about it are about."""
        return f"route {self.row.name}"


@dataclass(frozen=True)
class Former:
    """What is left of a route that the configuration does not have any more: what lies aside can come back."""

    src_id: str
    src_dir: str
    dst_id: str
    dst_dir: str
    settle_seconds: float = 0.0
    keep_seconds: float = 0.0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    remove_empty: bool = False
    replace_removed: bool = False
    max_files: int = 2000
    max_deletions: int = 0


def _former(row: Route) -> Former:
    last = RouteTask.select().where(RouteTask.route == row.id).order_by(RouteTask.id.desc()).first()
    return Former(row.src_id, row.src_dir, last.dst_id if last else "", last.dst_dir if last else "/")


def tell_former(host: Host, tally: Tally) -> None:
    """Tell of routes that the configuration does not have any more, and that have files set aside or tasks under way."""
    lies = RouteRemoval.select(SQL("1")).where(RouteRemoval.route == Route.id, clearing())
    flies = RouteTask.select(SQL("1")).where(RouteTask.route == Route.id, open_tasks())
    found = Route.select().where(fn.EXISTS(lies) | fn.EXISTS(flies))
    lost = {row.name: row for row in found if row.name not in host.settings.routes}
    for name, row in lost.items():
        count = RouteRemoval.select().where(RouteRemoval.route == row.id, clearing()).count()
        tasks = RouteTask.select().where(RouteTask.route == row.id, open_tasks()).count()
        text = "it is not in the configuration any more"
        if tasks:
            text += f"; {tasks} of its tasks {are(tasks)} under way, which 'libtool transfer {name}' and"
            text += f" 'libtool delete {name}' see through"
        if count:
            text += f"; {count} of its files {are(count)} set aside at {row.src_dir}, which 'libtool delete"
            text += f" --put-back {name}' brings back"
        notices.trouble(host, tally, f"route {name}", "former", text, at_once=True)
    for fault in notices.standing():
        name = fault.subject.removeprefix("route ")
        about = fault.subject.startswith("route ") and name not in lost
        if about and (fault.kind == "former" or name not in host.settings.routes):
            notices.over(host, tally, fault.subject, fault.kind)


def named(host: Host, given: Sequence[str]) -> list[str]:
    """The routes that are meant: those that are named, or all of the configuration and those that it does not have any
    more but that have tasks under way. Such ones can be named, too."""
    known = list(host.settings.routes)
    for name in given:
        if Route.select().where(Route.name == name).exists():
            continue
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise UnknownRoute(name=name, guess=f" (did you mean '{close[0]}'?)" if close else "")
    busy = Route.select(Route.name).join(RouteTask, on=RouteTask.route == Route.id).where(open_tasks()).distinct()
    lost = [] if given else sorted(name for (name,) in raw_rows(busy) if name not in known)
    return list(dict.fromkeys(given)) or known + lost


def mirror(host: Host, name: str, *, make: bool = True, former: bool = False) -> Mirror | None:
    """A route with its source; the first time it is written down (without ``make``: None). RouteMoved when the
    configuration gives it another source than it had, unless just that one is wanted (``former``)."""
    row = Route.get_or_none(Route.name == name)
    wanted = host.settings.routes.get(name)
    moved = row is not None and wanted is not None and (row.src_id, row.src_dir) != (wanted.src_id, wanted.src_dir)
    if row is not None and moved and _unused(row):
        if make:
            resetting.reset(host, name)  # nothing ever came of the former source, as when it was a mistake
        row, moved = None, False
    if row is not None and (wanted is None or (moved and former)):
        wanted = _former(row)
    if wanted is not None and row is None:
        if not make:
            return None
        fixed = {"src_id": wanted.src_id, "src_dir": wanted.src_dir, "create_time": host.now()}
        with writing("route"):
            Route.insert(name=name, **fixed).on_conflict_ignore().execute()
        row = Route.get(Route.name == name)
    if row is None or wanted is None:
        return None
    if (row.src_id, row.src_dir) != (wanted.src_id, wanted.src_dir):
        old, new = f"{row.src_id}:{row.src_dir}", f"{wanted.src_id}:{wanted.src_dir}"
        raise RouteMoved(name=name, old=old, new=new)
    return Mirror(row, wanted, host.tree(wanted), chosen(wanted.include, wanted.exclude))


def for_task(host: Host, name: str, tally: Tally, *, make: bool = True, former: bool = False) -> Mirror | None:
    """The same for a task: that the source is another one is told as every trouble is."""
    try:
        found = mirror(host, name, make=make, former=former)
    except RouteMoved as trouble:
        tally.person = True
        notices.trouble(host, tally, f"route {name}", "moved", trouble.text, at_once=True)
        return mirror(host, name, make=make, former=True)  # what is under way is seen through
    if not former:
        notices.over(host, tally, f"route {name}", "moved")
    return found


def _unused(row: Route) -> bool:
    """Whether nothing was ever submitted of a route."""
    mine = RouteTask.route == row.id
    begun = RouteTask.submit_time.is_null(False) | RouteTask.ticket.is_null(False)
    removals = RouteRemoval.select().where(RouteRemoval.route == row.id)
    return not RouteTask.select().where(mine, begun).exists() and not removals.exists()


def unseen(host: Host, name: str) -> Mirror:
    """A route that was never looked at, for who only wants to see what would be done."""
    wanted = host.settings.routes[name]
    row = Route(name=name, src_id=wanted.src_id, src_dir=wanted.src_dir)
    return Mirror(row, wanted, host.tree(wanted), chosen(wanted.include, wanted.exclude))


def chosen(include: Sequence[str], exclude: Sequence[str]) -> Callable[[str, bool], bool]:
    """What the patterns choose. One without a slash is about names anywhere, others are about whole paths; one that ends
    with a slash is about directories and all that is in them. What is excluded stays so."""
    if not include and not exclude:
        return lambda path, directory: True
    taken, left = _pattern([each for each in include if not each.endswith("/")])
    branches = [each.strip("/") + "/" for each in include if each.endswith("/")]
    out, out_below = _pattern([each for each in exclude if not each.endswith("/")])
    barred, barred_below = _pattern([each.rstrip("/") for each in exclude if each.endswith("/")])

    def ours(path: str, directory: bool) -> bool:
        name = path.rpartition("/")[2]
        if out(name) or out_below(path):
            return False
        if directory:
            return not (barred(name) or barred_below(path))
        if not include:
            return True
        return taken(name) or left(path) or any(path.startswith(branch) for branch in branches)

    return ours


def belongs(ours: Callable[[str, bool], bool], path: str) -> bool:
    """Whether patterns choose a file and every directory that it lies in."""
    return ours(path, False) and all(ours(directory, True) for directory in names.above(path))


def _pattern(patterns: Sequence[str]) -> tuple[Callable[[str], bool], Callable[[str], bool]]:
    """Two tests: of names by the patterns without a slash, of whole paths by those with one."""

    def test(which: list[str]) -> Callable[[str], bool]:
        if not which:
            return lambda text: False
        found = re.compile("|".join(translate(each.lstrip("/")) for each in which))
        return lambda text: found.match(text) is not None

    return test([each for each in patterns if "/" not in each]), test([each for each in patterns if "/" in each])


# -- looking --------------------------------------------------------------------------------------------------------


def shown(host: Host) -> list[dict[str, Any]]:
    """Every route with what is known of it, also those that the configuration does not have any more; all counts but
    ``tasks`` are files."""
    rows = {row.name: row for row in Route.select()}
    found = []
    former = {name: _former(row) for name, row in rows.items() if name not in host.settings.routes}
    for name, wanted in {**host.settings.routes, **former}.items():
        row = rows.get(name)
        id = row.id if row is not None else 0
        counts = dict(raw_rows(_by_status(RouteFile, id)))
        leaving = dict(raw_rows(_by_status(RouteRemoval, id).where(clearing())))
        away = elsewhere(row, wanted)[0] if row is not None and name not in former else 0
        flying = RouteTask.select(fn.COUNT(RouteTask.id)).where(RouteTask.route == id, open_tasks()).scalar()
        found.append(
            {
                "name": name,
                "source": f"{wanted.src_id}:{wanted.src_dir}",
                "destination": f"{wanted.dst_id}:{wanted.dst_dir}",
                "waiting": counts.get(MirrorStatus.SEEN, 0) + counts.get(MirrorStatus.STABLE, 0),
                "sending": counts.get(MirrorStatus.SENDING, 0),
                "arrived": counts.get(MirrorStatus.SENT, 0) - away,
                "elsewhere": away,
                "aside": sum(leaving.values()),
                "coming_back": leaving.get(ClearingStatus.RETURNING, 0),
                "tasks": flying or 0,
                "looked": show_time(row.looked_time) if row is not None else None,
            }
        )
    return found


def tasks(limit: int) -> list[dict[str, Any]]:
    """The tasks of routes in the words of the send queue's: those that wait or are under way, then those that ended last."""
    rows = RouteTask.select(RouteTask, Route).join(Route).order_by(~open_tasks(), RouteTask.id.desc()).limit(limit)
    return [queue.task(row, f"route {row.route.name}: {row.deed.name.lower()}", "globus") for row in rows]


def failing(row: Route) -> bool:
    """Whether the last try to send some file failed."""
    again = (RouteFile.route == row.id) & (RouteFile.status << UNSENT) & RouteFile.reason.is_null(False)
    return bool(RouteFile.select(SQL("1")).where(again).exists())


def elsewhere(row: Route, wanted: Any) -> tuple[int, str]:
    """How many files arrived at another destination than the present one, and at which."""
    t = RouteTask
    other = (t.route == row.id) & ((t.dst_id != wanted.dst_id) | (t.dst_dir != wanted.dst_dir))
    ends = dict(raw_rows(t.select(t.id, t.dst_dir).where(other)))
    if not ends:
        return 0, ""
    f = RouteFile
    sent = f.select(f.task, fn.COUNT(f.id)).where(among(f.task, list(ends)), f.status == MirrorStatus.SENT)
    counts = dict(raw_rows(sent.group_by(f.task)))
    return sum(counts.values()), ends[max(counts)] if counts else ""


def _by_status(table: type[RouteFile] | type[RouteRemoval], route: int) -> Any:
    return table.select(table.status, fn.COUNT(table.id)).where(table.route == route).group_by(table.status)


def will_not_go(row: Route, attempts: int) -> tuple[int, RouteFile | None]:
    """How many files have failed that often and not arrived since, and one of them."""
    stuck = (RouteFile.route == row.id) & (RouteFile.status << UNSENT) & (RouteFile.attempts >= attempts)
    count = int(RouteFile.select().where(stuck).count())
    return count, RouteFile.select().where(stuck).order_by(RouteFile.id).first() if count else None
