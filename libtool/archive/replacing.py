"""Names that are used again: what was removed here may have its only copy at the destination, under the name of a new file.

A rule over what is recorded; it changes nothing. Size and time are no proof that it is the same file once more.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from libtool.archive import notices
from libtool.archive.hands import Host, Tally
from libtool.archive.routes import Mirror
from libtool.models.base import among, raw_rows
from libtool.models.tables import Route, RouteRemoval, removed
from libtool.names import shown

#: Files that are looked up at once.
PORTION = 2000


def held(mirror: Mirror, files: Collection[str]) -> set[str]:
    """Those of these paths under which the destination may have the only copy of something else."""
    if mirror.wanted.replace_removed or not files:
        return set()
    row, wanted = mirror.row, mirror.wanted
    there = f" to {wanted.dst_id}:{wanted.dst_dir}"
    top, found = row.src_dir.rstrip("/") + "/", set()
    for other in Route.select().where(Route.src_id == row.src_id):
        # What another route of the same source removed, this one had brought to its own destination, too.
        theirs = other.src_dir.rstrip("/") + "/"
        paths = {(top + path)[len(theirs) :]: path for path in files if (top + path).startswith(theirs)}
        t = RouteRemoval
        gone = t.select(t.path, t.evidence).where(t.route == other.id, removed(), among(t.path, list(paths)))
        for path, evidence in raw_rows(gone) if paths else ():
            if other.id != row.id or evidence.endswith(there):
                found.add(paths[path])
    return found


@dataclass
class Again:
    """The files that a run did not send for this."""

    paths: set[str]
    complete: bool = False  #: whether the run met all that there are

    def tell(self, host: Host, mirror: Mirror, tally: Tally) -> None:
        """Tell of them; when there are none any more, that it is over."""
        tally.postponed += len(self.paths)
        if self.paths:
            text = f"{len(self.paths)} files stay here, such as '{shown(min(self.paths))}': their names are those of files that"
            text += " were removed here, and they would replace what may be the only copies of these at the destination. Rename"
            text += " them, or set 'replace_removed: true' for the route to have the copies replaced"
            notices.trouble(host, tally, mirror.subject, "again", text, at_once=True)
        elif self.complete:
            notices.over(host, tally, mirror.subject, "again")
