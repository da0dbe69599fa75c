"""Names that are used again: what was removed here may have its only copy at the destination, under the name of a new file.

A rule over what is recorded; it changes nothing. Size and time are no proof that it is the same file once more.
"""

from __future__ import annotations

from collections.abc import Collection

from libtool.archive.hands import portions
from libtool.archive.routes import Mirror
from libtool.models.base import among, raw_rows
from libtool.models.tables import Route, RouteDirectory, RouteFile, RouteRemoval, removed
from libtool.states import MirrorStatus

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


def waiting(mirror: Mirror) -> list[str]:
    """The files that kept still and wait for this alone."""
    if not RouteRemoval.select().join(Route).where(Route.src_id == mirror.row.src_id, removed()).exists():
        return []
    query = RouteFile.select(RouteDirectory.path, RouteFile.name).join(RouteDirectory)
    still = (RouteFile.route == mirror.row.id) & (RouteFile.status == MirrorStatus.STABLE)
    rows = list(raw_rows(query.where(still).order_by(RouteDirectory.path, RouteFile.name)))
    found: list[str] = []
    for part in portions(rows, PORTION):
        found += sorted(held(mirror, [f"{directory}/{name}".lstrip("/") for directory, name in part]))
    return found
