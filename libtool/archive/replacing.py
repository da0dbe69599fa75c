"""Names that are used again: what was removed here may have its only copy at the destination, under the name of a new file.

So what is removed is remembered by where its copies lie, whichever route brought them there, and longer than the route
itself. Size and time are no proof that it is the same file once more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import normalize

from libtool.archive import notices
from libtool.archive.hands import Host, Tally
from libtool.archive.routes import Mirror, belongs, chosen
from libtool.models.base import among, insert_rows, raw_rows
from libtool.models.tables import Route, RouteCopy, RouteRemoval, clearing
from libtool.names import shown
from libtool.units import counted, to_microseconds


def spelled(name: str) -> str:
    """A name as a destination may understand it that does not tell all of them apart."""
    return normalize("NFC", normalize("NFC", name).casefold())


def _at(directory: str, path: str) -> str:
    return spelled(f"{directory.rstrip('/')}/{path}")


def held(wanted: Any, paths: Collection[str]) -> set[str]:
    """Those of these paths under which the destination may have the only copy of something else."""
    if wanted.replace_removed:
        return set()
    t, places = RouteCopy, {path: _at(wanted.dst_dir, path) for path in paths}
    known = t.select(t.path).where(t.dst_id == wanted.dst_id, among(t.path, list(places.values())))
    there = {place for (place,) in raw_rows(known)}
    return {path for path, place in places.items() if place in there}


def aside(row: Route, paths: Collection[str]) -> set[str]:
    """Those of these paths of which a former file lies aside, whichever route of this source removes it."""
    top, found = row.src_dir.rstrip("/") + "/", set()
    for other in Route.select().where(Route.src_id == row.src_id):
        theirs = other.src_dir.rstrip("/") + "/"
        inside = {(top + path)[len(theirs) :]: path for path in paths if (top + path).startswith(theirs)}
        if inside:
            t = RouteRemoval
            lies = t.select(t.path).where(t.route == other.id, clearing(), among(t.path, list(inside)))
            found |= {inside[path] for (path,) in raw_rows(lies)}
    return found


def remember(host: Host, mirror: Mirror, rows: Iterable[RouteRemoval]) -> None:
    """What is removed now has copies where it arrived, and where the other routes of its source brought it. Inside the
    caller's transaction."""
    rows, now = list(rows), to_microseconds(host.now())
    ends = [(row.evidence.partition(" to ")[2].partition(":"), row.path) for row in rows]
    places = {(id, _at(directory, path)) for (id, _, directory), path in ends}
    top = mirror.row.src_dir.rstrip("/") + "/"
    for name, other in host.settings.routes.items():
        theirs = other.src_dir.rstrip("/") + "/"
        if name == mirror.row.name or other.src_id != mirror.row.src_id:
            continue
        ours = chosen(other.include, other.exclude)
        inside = [(top + row.path)[len(theirs) :] for row in rows if (top + row.path).startswith(theirs)]
        places |= {(other.dst_id, _at(other.dst_dir, path)) for path in inside if belongs(ours, path)}
    insert_rows(RouteCopy, ["dst_id", "path", "create_time"], [(*each, now) for each in sorted(places)], known=True)


def replaced(dst_id: str, dst_dir: str, paths: Sequence[str]) -> None:
    """New files of these names have arrived, since that was allowed: the source has them, too. Inside the caller's
    transaction."""
    t = RouteCopy
    t.delete().where(t.dst_id == dst_id, among(t.path, [_at(dst_dir, path) for path in paths])).execute()


@dataclass
class Again:
    """The files that a run did not send because of their names."""

    count: int = 0
    example: str = ""
    complete: bool = False  #: whether the run met all that there are

    def add(self, paths: Collection[str]) -> None:
        """Some more."""
        self.count += len(paths)
        self.example = self.example or min(paths, default="")

    def tell(self, host: Host, mirror: Mirror, tally: Tally) -> None:
        """Tell of them; when there are none any more, that it is over."""
        tally.postponed += self.count
        if self.count:
            text = f"{counted(self.count, 'file')} stay here, such as '{shown(self.example)}': their names are those of files that were"
            text += (
                " removed here, and they would replace what may be the only copies of these at the destination. Rename"
            )
            text += " them, or set 'replace_removed: true' for the route to have the copies replaced"
            notices.trouble(host, tally, mirror.subject, "again", text, at_once=True)
        elif self.complete:
            notices.over(host, tally, mirror.subject, "again")
