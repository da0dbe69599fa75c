"""Removing the directories of a route's source that ``delete`` emptied, and the places that it set files aside in.

Only a directory from which libtool removed something, and in which nothing is left, is ever removed; the source itself
never. On this host that is one step that fails if something is in it. Behind a collection there is no such step: what a
wrong list leaves out would go with the directory. So there it is only done for who asks for it, and the directory is set
aside first, so that nobody finds it by its name any more, and is looked at once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from libtool.archive.errands import Errands
from libtool.archive.hands import Budget, Host
from libtool.archive.looking import forget, holds
from libtool.archive.routes import Mirror
from libtool.errors import DirectoryUnreadable
from libtool.models.base import among, birth, raw_rows, writing
from libtool.models.tables import RouteDirectory, RouteRemoval, RouteTask, clearing, open_tasks
from libtool.names import shown
from libtool.states import ClearingStatus, Deed
from libtool.trees.base import ASIDE, Gone, Way

#: What the name of a place begins with that is the mark of a catalogue, and of one that an emptied directory is put into.
OWNER, EMPTY = "owner-", "empty-"


def clear_away(mirror: Mirror, errands: Errands, budget: Budget) -> None:
    """Remove what is empty because of us. What a task is at work on is left to it."""
    if RouteTask.select().where(RouteTask.route == mirror.row.id, open_tasks(), RouteTask.deed == Deed.CLEAR).exists():
        return
    wanted = mirror.wanted.remove_empty
    if wanted or (wanted is None and mirror.tree.immediate):
        _directories(mirror, errands, budget)
    _places(mirror, errands, budget, remove=bool(wanted) or mirror.tree.immediate)


def own_mark() -> str:
    """The name of the place that shows which catalogue sets files aside at a source."""
    return OWNER + birth()


def _empty(mirror: Mirror, directory: str) -> bool | None:
    """Whether a directory is there and has nothing in it; None when it is not there."""
    found = holds(mirror.tree, directory)
    if found is False and not mirror.tree.immediate and not mirror.tree.lacks(directory, [ASIDE]):
        return False  # another route, with its source in here, has set files aside
    return None if found is None else not found


def _configured(host: Host, mirror: Mirror, path: str) -> bool:
    """Whether a directory is an end of another route, or has one in it: that stays, for what comes next."""
    where = f"{mirror.row.src_dir.rstrip('/')}/{path}"
    ends = [
        end
        for route in host.settings.routes.values()
        for id, end in ((route.src_id, route.src_dir), (route.dst_id, route.dst_dir))
        if id == mirror.row.src_id
    ]
    return any(f"{end.rstrip('/')}/".startswith(f"{where}/") for end in ends)


def _emptied(host: Host, mirror: Mirror) -> Iterator[tuple[int, str, str | None, int | None]]:
    """The directories from which something was removed, the deepest first; the source itself is none of them."""
    t = RouteDirectory
    mine = (t.route == mirror.row.id) & t.emptied_time.is_null(False) & (t.path != "")
    query = t.select(t.id, t.path, t.place, t.parent).where(mine)
    for row in sorted(raw_rows(query), key=lambda row: (-row[1].count("/"), row[1])):
        if not _configured(host, mirror, row[1]):
            yield row


def _directories(mirror: Mirror, errands: Errands, budget: Budget) -> None:
    while True:  # a directory may be empty once those in it are gone
        again, paths = False, []
        for id, path, place, parent in list(_emptied(errands.host, mirror)):
            if not budget.left:
                return
            if _expected_back(mirror, path):
                continue
            try:
                if mirror.tree.immediate:
                    empty = _empty(mirror, path)
                    gone = empty is None or (empty and mirror.tree.remove_empty(path))
                    again = _settled(mirror, id, path, parent, gone=gone) or again
                elif (found := _put_away(mirror, errands, id, path, place, parent)) is not None:
                    paths.append(found)
            except DirectoryUnreadable as trouble:  # one that may not be removed keeps nothing else from going on
                errands.way.note("unremovable", trouble.text)
        if paths:
            _hand_over(errands, paths, budget)
        if not again:
            return


def _expected_back(mirror: Mirror, path: str) -> bool:
    """Whether a file that is set aside may come back to a directory."""
    t = RouteRemoval
    below = (t.path > f"{path}/") & (t.path < f"{path}0")
    return bool(t.select().where(t.route == mirror.row.id, clearing(), below).exists())


def _settled(mirror: Mirror, id: int, path: str, parent: int | None, *, gone: bool) -> bool:
    """A directory is gone, and so the one that it was in may be empty now; or it stays, and is looked at no more until
    something is removed from it again. Whether it is gone."""
    if not gone:
        _mark(id, emptied_time=None, place=None)
        return False
    with writing("directory removed"):
        since = RouteDirectory.select(RouteDirectory.emptied_time).where(RouteDirectory.id == id).scalar()
        RouteDirectory.update(emptied_time=since).where(RouteDirectory.id == parent).execute()
        # A task may have a file in it still: then it stays known, and is not looked at again.
        RouteDirectory.update(emptied_time=None, place=None).where(RouteDirectory.id == id).execute()
    forget(mirror.row, path)
    return True


def _mark(id: int, **known: Any) -> None:
    with writing("directory"):
        RouteDirectory.update(**known).where(RouteDirectory.id == id).execute()


def _put_away(
    mirror: Mirror, errands: Errands, id: int, path: str, place: str | None, parent: int | None
) -> str | None:
    """Set an empty directory behind a collection aside; the path there, when it is empty there, too."""
    name = f"d{id}"
    if place is None or _empty(mirror, f"{ASIDE}/{place}/{name}") is None:
        # It is in its place still, or again: somebody may have made it anew since the former was removed.
        empty = _empty(mirror, path)
        if not empty:
            _settled(mirror, id, path, parent, gone=empty is None)
            return None
        place = f"{EMPTY}{id}-{birth()}"
        _mark(id, place=place)
        mirror.tree.make_place(place)
        mirror.tree.set_aside(path, place, name)
    aside = f"{ASIDE}/{place}/{name}"
    found = _empty(mirror, aside)
    if found is None:
        return None
    if found:
        return aside
    if mirror.tree.bring_back(place, name, path) is not Way.OCCUPIED:
        _settled(mirror, id, path, parent, gone=False)
    else:
        text = (
            f"'{shown(path)}' was set aside as an empty directory, something was put into it meanwhile, and something"
        )
        text += f" else lies in its place: its content lies at {mirror.tree.path(aside)}; move one of the two away"
        errands.way.note("occupied", text, at_once=True)
    return None


def _places(mirror: Mirror, errands: Errands, budget: Budget, *, remove: bool) -> None:
    """Remove the places in which nothing is left and nothing will be put; what was taken for gone and lies there comes
    back. Behind a collection only those go in which directories of ours were: this run, or another node, may be about to
    use one for files."""
    try:
        found = [name for portion in mirror.tree.list(ASIDE) for name in portion.directories]
        places = [name for name in found if not name.startswith(OWNER)]
    except Gone:
        return
    t = RouteRemoval
    # Routes with the same source share the directory.
    used = {place for (place,) in raw_rows(t.select(t.place).where(clearing()).distinct())}
    d = RouteDirectory
    used |= {place for (place,) in raw_rows(d.select(d.place).where(d.place.is_null(False)))}
    paths = []
    for place in sorted(set(places) - used):
        if not budget.left:
            return
        if mirror.tree.immediate:
            if not mirror.tree.clear_place(place):
                _stranded(mirror, errands, place)
        elif not _empty(mirror, f"{ASIDE}/{place}"):
            _stranded(mirror, errands, place)
        elif remove and place.startswith(EMPTY) and place.endswith(birth()):
            paths.append(f"{ASIDE}/{place}")
    if paths:
        _hand_over(errands, paths, budget)


def _stranded(mirror: Mirror, errands: Errands, place: str) -> None:
    """What lies in a place and was taken for gone, as when a list did not show it, goes back to where it was."""
    names = list(mirror.tree.aside(place))
    t = RouteRemoval
    mine = among(t.id, [int(name) for name in names if name.isdecimal() and len(name) < 19])
    over = (t.route == mirror.row.id) & (t.place == place) & (t.status >= ClearingStatus.REMOVED)
    with writing("removals reopened"):
        again = {"status": ClearingStatus.RETURNING, "end_time": None, "task": None}
        found = t.update(**again, reason="it was taken for gone and lay aside").where(over, mine).execute()
    if found < len(names):
        where = mirror.tree.path(f"{ASIDE}/{place}")
        errands.way.note(
            "stranded",
            f"{len(names) - found} things lie in {where} that nothing is known of here; they may be another node's",
        )


def _hand_over(errands: Errands, paths: list[str], budget: Budget) -> None:
    """Have empty directories removed by a task; what became of them is seen by looking."""
    with writing("route: task"):
        errands.make(Deed.CLEAR, len(paths), 0, paths)
    errands.ship(budget)
