"""Looking at a route's source: what is new, what changed, what kept still, what is gone.

A file is sent when two looks found it the same, with ``settle_seconds`` between them. What is known of a directory is
compared with its listing as a whole, so a look costs what listing costs; only what differs is written. A look that has
no time left remembers where it was. Nothing is concluded from what could not be listed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from peewee import SQL, fn

from libtool import names
from libtool.archive.hands import Budget, Host, portions
from libtool.archive.routes import Mirror
from libtool.errors import CarrierBusy, CarrierUnknown, DirectoryUnreadable, LibtoolError
from libtool.models.base import among, insert_rows, raw_rows, update_many, writing
from libtool.models.tables import Route, RouteDirectory, RouteFile
from libtool.states import MirrorStatus
from libtool.trees.base import ASIDE, Gone, Portion, Seen, Tree, absent
from libtool.units import to_microseconds

#: Rows that are written in one transaction.
ROWS = 5000
#: Told of a look: the word (new, changed, same, gone), the path, the size.
Told = Callable[[str, str, int], None]
_SEEN, _STABLE, _SENDING, _SENT = (int(each) for each in list(MirrorStatus)[:4])
_SECOND = 10**9
#: In microseconds: nothing is left alone for longer.
_LONGEST_WAIT = 2 * 86400 * 10**6
#: Directories about which no clear answer is to be had, before the whole source counts as such.
MOST_UNCLEAR = 3


class Look:
    """One look at a route's source, from where the last one ended."""

    def __init__(self, host: Host, mirror: Mirror, told: Told | None = None) -> None:
        self.mirror = mirror
        self.files = 0  #: that were looked at
        self.unreadable: list[str] = []  #: what could not be looked at, in words
        self.strange: list[str] = []  #: some paths that cannot be mirrored
        self.strangers = 0  #: how many these are
        self._unclear = 0  #: directories about which no clear answer was to be had
        self.begun = host.now()  #: when the look began, perhaps in an earlier run
        self.complete = False
        self._host, self._told = host, told
        self._pen = _Pen(host, mirror) if told is None else None
        self._now = to_microseconds(host.now())
        self._calm = self._now - int(mirror.wanted.settle_seconds * 10**6)

    def go(self, budget: Budget) -> None:
        """Go on until the look is complete or the time is up."""
        row, floors = self.mirror.row, self._begin()
        root = RouteDirectory.get_or_none(RouteDirectory.route == row.id, RouteDirectory.path == "")
        todo: list[tuple[str, int | None]] = [("", root.id if root is not None else None)]
        while todo:
            if not budget.left:
                self._pause(todo[-1][0])
                return
            path, id = todo.pop()
            try:
                below = self._directory(path, id)
            except Gone:
                if not path:  # a source that is not there is no empty source
                    raise absent(self.mirror.tree.path(""), "it is not there") from None
                self._gone(path, id)
                continue
            except DirectoryUnreadable as trouble:
                if not path:
                    raise
                self.unreadable.append(trouble.text)
                continue
            except LibtoolError as trouble:
                if self._only_here(path, trouble):
                    here = DirectoryUnreadable(path=self.mirror.tree.path(path), why=trouble.reason)
                    self.unreadable.append(here.text)
                    continue
                self._pause(path)  # what was found so far is not to be found again
                raise
            floor = floors.get(path, "")
            inside = sorted((name for name in below if name >= floor), reverse=True)
            todo += [(f"{path}/{name}" if path else name, below[name]) for name in inside]
        self._end()
        self.complete = True

    def _only_here(self, path: str, trouble: LibtoolError) -> bool:
        """Whether no clear answer is to be had about this one directory, while the source itself can be listed: it keeps
        nothing else from being looked at. That is asked a few times; then it counts as the source's trouble."""
        if not path or not isinstance(trouble, (CarrierUnknown, CarrierBusy)) or self._unclear >= MOST_UNCLEAR:
            return False
        self._unclear += 1
        try:
            return holds(self.mirror.tree, "") is not None
        except LibtoolError:
            return False

    # -- where it is -----------------------------------------------------------------------------------------------

    def _begin(self) -> dict[str, str]:
        """For each directory above the one at which the last look ended: the name of the first that is left."""
        row: Any = self.mirror.row
        if self._pen is None or row.look_time is None:
            return {}
        self.begun = row.look_time
        parts = json.loads(row.cursor) if row.cursor else []
        return {"/".join(parts[:n]): part for n, part in enumerate(parts)}

    def _pause(self, path: str) -> None:
        if self._pen is not None:
            self._pen.flush()
            cursor = json.dumps(path.split("/") if path else [])
            with writing("look paused"):
                Route.update(look_time=self.begun, cursor=cursor).where(Route.id == self.mirror.row.id).execute()

    def _end(self) -> None:
        if self._pen is not None:
            self._pen.flush()
            row = self.mirror.row
            with writing("look ended"):
                ended: dict[str, Any] = {"looked_time": self.begun, "look_time": None, "cursor": None}
                Route.update(**ended).where(Route.id == row.id).execute()

    # -- one directory -----------------------------------------------------------------------------------------------

    def _directory(self, path: str, id: int | None) -> dict[str, int | None]:
        """Look at one directory; returns the directories in it that belong to the route, with their numbers if they
        have one."""
        below = self._below(id, path)
        listed: dict[str, int | None] = {}
        here: int | str = path if id is None else id
        if id is None and self._pen is not None:
            self._pen.directory(path)
        whole, several, matched = True, False, 0
        found = iter(self.mirror.tree.list(path))
        portion = next(found)
        if not path and not (portion.files or portion.directories or portion.strange):
            believable(self.mirror)
        while True:
            following = next(found, None)
            several = several or following is not None
            rows = self._rows(id, [each.name for each in portion.files] if several else None)
            self._take(portion, path, listed, below)
            matched += self._compare(path, here, portion.files, rows)
            if whole and not portion.whole:
                why = "it has more entries than the service lists, so only those that it shows are mirrored. Put some of them"
                where = self.mirror.tree.path(path)
                self.unreadable.append(DirectoryUnreadable(path=where, why=f"{why} into directories of their own").text)
            whole = whole and portion.whole
            if not several and whole:
                self._missing(path, rows)
            if following is None:
                break
            portion = following
        if several and whole and id is not None:
            self._missing_of_many(path, id, matched)
        if whole:
            for name, number in below.items():
                if name not in listed:
                    self._gone(f"{path}/{name}" if path else name, number)
        return listed

    def _below(self, id: int | None, path: str) -> dict[str, int]:
        """The directories that are known in this one, by name."""
        if id is None:
            return {}
        start = len(path) + 1 if path else 0
        query = RouteDirectory.select(RouteDirectory.path, RouteDirectory.id).where(RouteDirectory.parent == id)
        return {each[start:]: number for each, number in raw_rows(query)}

    def _rows(self, id: int | None, which: list[str] | None) -> dict[str, tuple[Any, ...]]:
        """What is known of the files of a directory (those named so), by name."""
        if id is None:
            return {}
        t = RouteFile
        columns = (t.name, t.size, t.mtime, t.inode, t.ctime, t.id, t.status, t.seen_time, t.not_before, t.doubt)
        query = t.select(*columns).where(t.directory == id)
        if which is not None:
            query = query.where(among(t.name, which))
        return {row[0]: row for row in raw_rows(query)}

    def _take(self, portion: Portion, path: str, listed: dict[str, int | None], below: dict[str, int]) -> None:
        """Take in which directories and strangers a portion has."""
        prefix = f"{path}/" if path else ""
        for name in portion.directories:
            if not self.mirror.ours(prefix + name, True):
                continue
            if "\n" in name or "\r" in name:
                self._stranger(prefix + name)
            else:
                listed[name] = below.get(name)
        for name in portion.strange:
            if self.mirror.ours(prefix + name, False):
                self._stranger(prefix + name)

    def _stranger(self, path: str) -> None:
        self.strangers += 1
        if len(self.strange) < 3:
            self.strange.append(path)

    def _compare(self, path: str, here: int | str, files: list[Seen], rows: dict[str, tuple[Any, ...]]) -> int:
        """Compare files with what is known of them, and take those that are known out of ``rows``; returns how many."""
        prefix, known = f"{path}/" if path else "", 0
        chosen, pen, calm = self.mirror.ours, self._pen, self._calm
        self.files += len(files)
        for seen in files:
            row = rows.pop(seen.name, None)
            if not chosen(prefix + seen.name, False):
                if row is not None:
                    rows[seen.name] = row  # it does not belong to the route any more
                continue
            if row is None:
                if "\n" in seen.name or "\r" in seen.name:
                    self._stranger(prefix + seen.name)
                elif pen is None:
                    self._tell("new", prefix + seen.name, seen.size)
                else:
                    pen.new(here, seen)
                continue
            known += 1
            status = row[6]
            if row[7] > self._now and status < _SENDING:  # by a clock that was ahead: it is seen from now on
                if pen is not None:
                    pen.changed.append((row[5], *seen[1:], _SEEN, bool(row[9]), self._now, 0))
            elif row[:5] == seen:
                if status == _SEEN and self._settled(seen.mtime, row[7], row[8], calm):
                    if pen is not None:
                        pen.stable.append(row[5])
                    status = _STABLE
                if pen is None and status == _STABLE:
                    self._tell("due", prefix + seen.name, seen.size)
            elif status != _SENDING:
                self._differs(prefix, seen, row)
        return known

    def _settled(self, mtime: int, since: int, not_before: int | None, calm: int) -> bool:
        """Whether a file has kept still for long enough. Times in the future are of another clock and say nothing."""
        if since > calm or (not_before is not None and self._now < not_before <= self._now + _LONGEST_WAIT):
            return False  # one that is farther off is of a clock that was ahead
        changed = mtime // 1000
        return changed <= calm or changed > self._now

    def _differs(self, prefix: str, seen: Seen, row: tuple[Any, ...]) -> None:
        """A known file is not as it was."""
        size, mtime, inode, status = row[1], row[2], row[3], row[6]
        same = seen.size == size and seen.mtime == mtime
        if (seen.inode == 0) != (inode == 0) and seen.size == size and seen.mtime // _SECOND == mtime // _SECOND:
            if self._pen is not None:  # the source is looked at in another way than before
                self._pen.respelled.append((row[5], *seen[1:]))
            return
        if self._pen is None:
            self._tell("changed", prefix + seen.name, seen.size)
            return
        doubt = same and (status == _SENT or bool(row[9]))
        self._pen.changed.append((row[5], *seen[1:], _SEEN, doubt, self._now, 0))

    def _tell(self, word: str, path: str, size: int) -> None:
        if self._told is not None:
            self._told(word, path, size)

    def _missing(self, path: str, rows: dict[str, tuple[Any, ...]]) -> None:
        """These files are known, and the complete list of their directory does not have them."""
        if self._pen is not None:
            self._pen.gone += [row[5] for row in rows.values()]

    def _missing_of_many(self, path: str, id: int, matched: int) -> None:
        """The same for a directory that came in portions."""
        if self._pen is None or RouteFile.select().where(RouteFile.directory == id).count() <= matched:
            return
        after = 0
        while True:
            query = RouteFile.select(RouteFile.id, RouteFile.name).where(
                RouteFile.directory == id, RouteFile.id > after
            )
            part = list(raw_rows(query.order_by(RouteFile.id).limit(ROWS)))
            if not part:
                return
            lost = set(self.mirror.tree.lacks(path, [name for _, name in part]))
            self._pen.gone += [number for number, name in part if name in lost]
            after = part[-1][0]

    def _gone(self, path: str, id: int | None) -> None:
        """A directory is not there any more, with all that was in it."""
        if self._pen is not None and id is not None:
            self._pen.flush()
            forget(self.mirror.row, path)


def believable(mirror: Mirror) -> None:
    """SourceAbsent when a source that shows nothing at all has files that are known: what is not mounted looks so.
    What is set aside in it shows that it is."""
    known = RouteFile.select(SQL("1")).where(RouteFile.route == mirror.row.id).limit(1)
    if any(True for _ in raw_rows(known)) and holds(mirror.tree, ASIDE) is None:
        why = "it is empty, and files are known in it. Is it mounted? Mount it, and all goes on. If its files were taken away"
        why += f" on purpose, put any file into it, or run 'libtool reset {mirror.row.name}'"
        raise absent(mirror.tree.path(""), why)


def holds(tree: Tree, directory: str) -> bool | None:
    """Whether anything is in a directory; None when it is not there."""
    try:
        return any(each.files or each.directories or each.strange or not each.whole for each in tree.list(directory))
    except Gone:
        return None


def forget(row: Route, path: str) -> None:
    """Forget a directory with all that is below it, but for what a task has and for directories that are set aside."""
    below = (RouteDirectory.path == path) | ((RouteDirectory.path > f"{path}/") & (RouteDirectory.path < f"{path}0"))
    inside = RouteDirectory.select(RouteDirectory.id).where(RouteDirectory.route == row.id, below)
    ids = [id for (id,) in raw_rows(inside.order_by(RouteDirectory.path.desc()))]
    for part in portions(ids, 500):
        with writing("directory gone"):
            lost = among(RouteFile.directory, part) & (RouteFile.status != MirrorStatus.SENDING)
            RouteFile.delete().where(lost).execute()
            held = RouteFile.select(SQL("1")).where(RouteFile.directory == RouteDirectory.id)
            other = RouteDirectory.alias()
            parents = other.select(SQL("1")).where(other.parent == RouteDirectory.id)
            for id in part:  # the deepest first
                empty = ~fn.EXISTS(held) & ~fn.EXISTS(parents) & RouteDirectory.place.is_null()
                RouteDirectory.delete().where(RouteDirectory.id == id, empty).execute()


class _Pen:
    """What a look has to write down, gathered until it is worth a transaction."""

    def __init__(self, host: Host, mirror: Mirror) -> None:
        self._host, self._row = host, mirror.row
        self._directories: list[str] = []  #: new ones, the outer first
        self._new: list[tuple[int | str, Seen]] = []
        self.stable: list[int] = []
        self.changed: list[tuple[Any, ...]] = []
        self.respelled: list[tuple[Any, ...]] = []
        self.gone: list[int] = []

    def directory(self, path: str) -> None:
        """A directory that is not known yet."""
        self._directories.append(path)
        self._full()

    def new(self, directory: int | str, seen: Seen) -> None:
        """A file that is not known yet, in a directory with this number or this path."""
        self._new.append((directory, seen))
        self._full()

    def _full(self) -> None:
        files = len(self._new) + len(self.stable) + len(self.changed) + len(self.respelled) + len(self.gone)
        if files + len(self._directories) >= ROWS:
            self.flush()

    def flush(self) -> None:
        """Write everything down."""
        if not any((self._directories, self._new, self.stable, self.changed, self.respelled, self.gone)):
            return
        now = to_microseconds(self._host.now())
        with writing("look"):
            numbers = self._numbers()
            rows = [
                (
                    self._row.id,
                    numbers[where] if isinstance(where, str) else where,
                    *seen,
                    _SEEN,
                    False,
                    now,
                    0,
                )
                for where, seen in self._new
            ]
            columns = ["route_id", "directory_id", "name", "size", "mtime", "inode", "ctime", "status", "doubt"]
            insert_rows(RouteFile, [*columns, "seen_time", "attempts"], rows, known=True)
            untouched = f'"route_file"."status" <> {_SENDING}'
            columns = ["id", "size", "mtime", "inode", "ctime"]
            if self.changed:
                more = ["status", "doubt", "seen_time", "attempts"]
                update_many(RouteFile, [*columns, *more], self.changed, only=untouched)
                anew = among(RouteFile.id, [row[0] for row in self.changed]) & (RouteFile.status == MirrorStatus.SEEN)
                failed = RouteFile.not_before.is_null(False) | RouteFile.reason.is_null(False)
                RouteFile.update(not_before=None, reason=None).where(anew, failed).execute()
            if self.respelled:
                update_many(RouteFile, columns, self.respelled, only=untouched)
            for part in portions(self.stable, ROWS):
                RouteFile.update(status=MirrorStatus.STABLE).where(
                    among(RouteFile.id, part), RouteFile.status == MirrorStatus.SEEN
                ).execute()
            for part in portions(self.gone, ROWS):
                lost = among(RouteFile.id, part) & (RouteFile.status != MirrorStatus.SENDING)
                RouteFile.delete().where(lost).execute()
        for lot in (self._directories, self._new, self.stable, self.changed, self.respelled, self.gone):
            lot.clear()

    def _numbers(self) -> dict[str, int]:
        """Write the new directories down, level by level; the numbers of all that are needed, by path."""
        numbers: dict[str, int] = {}
        needed = {where for where, _ in self._new if isinstance(where, str)} | set(self._directories)
        needed |= {path.rpartition("/")[0] for path in self._directories}
        self._learn(numbers, needed)
        levels: dict[int, list[str]] = {}
        for path in self._directories:
            if path not in numbers:
                levels.setdefault(path.count("/") + 1 if path else 0, []).append(path)
        for level in sorted(levels):
            rows = [(self._row.id, numbers[path.rpartition("/")[0]] if path else None, path) for path in levels[level]]
            insert_rows(RouteDirectory, ["route_id", "parent_id", "path"], rows, known=True)
            self._learn(numbers, set(levels[level]))
        return numbers

    def _learn(self, numbers: dict[str, int], paths: set[str]) -> None:
        known = RouteDirectory.select(RouteDirectory.path, RouteDirectory.id).where(
            RouteDirectory.route == self._row.id, among(RouteDirectory.path, sorted(paths))
        )
        numbers.update(raw_rows(known))


def shorten(paths: list[str]) -> str:
    """Some paths for a sentence."""
    return ", ".join(f"'{names.shown(path)}'" for path in paths)
