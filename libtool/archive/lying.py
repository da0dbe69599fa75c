"""What lies here of files that are on their way: looked at, never read. Reading is for recv-clone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from libtool import names
from libtool.archive.hands import Host
from libtool.archive.machine import Lying
from libtool.errors import StoreUnavailable
from libtool.models.base import among, raw_rows
from libtool.models.tables import File, IncomingTransfer, Instance
from libtool.models.tables import Store as StoreRow
from libtool.stores.base import Store

_IN = IncomingTransfer


class Coming(NamedTuple):
    """A transfer that brings something here, as far as settling it needs it."""

    id: int
    theirs: int | None  #: its source's number
    status: int
    name: str
    size: int
    store: int
    staging_id: str | None


COMING = (_IN.id, _IN.source_transfer_id, _IN.status, _IN.name, _IN.size, _IN.store, _IN.staging_id)


def look(host: Host, rows: list[Coming], since: datetime | None) -> dict[int, Lying]:
    """What lies here of each. Where anything changed in its staging place ``since`` then, it is still being brought."""
    found: dict[int, Lying] = {}
    stored = _stored([row.id for row in rows])
    places: dict[tuple[int, str], list[Coming]] = {}
    for row in rows:
        if row.id in stored:
            found[row.id] = Lying.STORED
        elif row.staging_id is None:
            found[row.id] = Lying.NOTHING
        else:
            places.setdefault((row.store, row.staging_id), []).append(row)
    stores = {row.id: row for row in StoreRow.select()}
    for (number, staging_id), part in places.items():
        try:
            row = stores[number]
            if not row.enabled:
                raise StoreUnavailable(store=row.name, why="it is disabled")
            store = host.store(row)
            store.check()
            found |= _staged(store, staging_id, part, since)
        except (OSError, StoreUnavailable):
            found |= {each.id: Lying.UNKNOWN for each in part}
    return found


def _stored(ids: list[int]) -> set[int]:
    """Those of which the catalogue has a copy with the same content."""
    same = (File.name == _IN.name) & (File.checksum == _IN.checksum) & (File.size == _IN.size)
    copies = _IN.select(_IN.id).join(File, on=same).join(Instance, on=(Instance.file == File.id) & Instance.available)
    return {id for (id,) in raw_rows(copies.where(among(_IN.id, ids)))}


def _staged(store: Store, staging_id: str, rows: list[Coming], since: datetime | None) -> dict[int, Lying]:
    wanted = {row.name for row in rows}
    sizes: dict[str, int] = {}
    newest = 0.0
    top = store.staging_path(staging_id, rows[0].name).removesuffix(f"/{rows[0].name}")
    for relative, entry in _entries(top):
        newest = max(newest, entry.st_mtime, entry.st_ctime)  # a copy may have got the old times of its original
        for name in (relative, *names.above(relative)):
            if name in wanted:
                sizes[name] = sizes.get(name, 0) + (0 if stat.S_ISDIR(entry.st_mode) else entry.st_size)
    if since is not None and newest > since.timestamp():
        return {row.id: Lying.MOVING for row in rows}
    return {row.id: _of(sizes.get(row.name), row.size) for row in rows}


def _of(size: int | None, announced: int) -> Lying:
    if size is None:
        return Lying.NOTHING
    return Lying.WHOLE if size == announced else Lying.PART


def _entries(top: str) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a directory with its relative name; the directory itself is named by the empty one. Links are
    not followed: whoever may write there may have put some."""
    try:
        yield "", os.lstat(top)
    except FileNotFoundError:
        return
    left = [""]
    while left:
        directory = left.pop()
        with os.scandir(f"{top}/{directory}") as entries:
            for entry in entries:
                relative = f"{directory}/{entry.name}".lstrip("/")
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # it was renamed just now, which changed its directory
                yield relative, found
                if entry.is_dir(follow_symlinks=False):
                    left.append(relative)
