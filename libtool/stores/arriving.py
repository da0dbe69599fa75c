"""Taking arrivals into a store: read, sync the data, link into place without replacing anything, sync the directories."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from libtool import copying, digest, names
from libtool.errors import FileChanged, FileUnreadable, StoreUnavailable
from libtool.seams import seam
from libtool.states import FileKind
from libtool.stores.base import Arrival, Fate, Outcome
from libtool.stores.reading import compare, data_of, plain, straight

if TYPE_CHECKING:
    from libtool.stores.posix import PosixStore


class Arriving:
    """Some arrivals that are taken in together."""

    def __init__(self, store: PosixStore, arrivals: Sequence[Arrival]) -> None:
        self._store, self._arrivals = store, arrivals
        self._roads: dict[str, bool] = {}  #: whether a directory of the staging path is one that no link leads to

    def take_in(self) -> list[Outcome]:
        """Read, sync, place, sync; an outcome for each, in their order."""
        arrivals = self._arrivals
        rename = not self._store.own and self._store.one_file_system()
        ready: dict[int, str] = {}
        outcomes = [self._judge(arrival, rename, n, ready) for n, arrival in enumerate(arrivals)]
        placing = {n: path for n, path in ready.items() if outcomes[n].fate is Fate.STORED}
        seam("take in: verified")
        # What was placed before a crash, or lay here already, may not have reached the disk either.
        here = {n: self._store.path(each.name) for n, each in enumerate(arrivals) if n not in ready}
        here = {n: path for n, path in here.items() if outcomes[n].fate is Fate.STORED}
        self._sync(path for n, at in (placing | here).items() for path in data_of(at, outcomes[n].kind))
        seam("take in: data synced")
        changed = {directory for path in here.values() for directory in self._above(path)}
        for n, path in placing.items():
            outcomes[n] = self._place(arrivals[n], path, outcomes[n], changed)
            seam("take in: placed one")
        if self._store.readonly or self._store.group_write:
            for n, outcome in enumerate(outcomes):
                if outcome.fate is Fate.STORED:
                    try:
                        self._store.permit(self._store.path(arrivals[n].name))
                    except OSError as trouble:
                        outcomes[n] = Outcome(Fate.UNKNOWN, f"its mode cannot be set now: {trouble.strerror}")
        self._sync(sorted(changed))
        seam("take in: directories synced")
        return outcomes

    def _above(self, path: str) -> list[str]:
        """The directories that a stored copy lies in, up to the store's own."""
        inside = path[len(self._store.root) + 1 :]
        return [self._store.root, *(f"{self._store.root}/{directory}" for directory in names.above(inside))]

    def _sync(self, paths: Iterable[str]) -> None:
        """What a disk does not confirm says nothing about any one file."""
        try:
            copying.sync(paths)
        except OSError as trouble:
            raise StoreUnavailable(store=self._store.name, why=f"{trouble.strerror}") from trouble

    def _honest(self, staging_id: str, name: str) -> bool:
        """The same as ``straight``, found out once for each directory."""
        directory = self._store.staging_path(staging_id, name).rpartition("/")[0]
        if directory not in self._roads:
            self._roads[directory] = straight(self._store.staging, directory)
        return self._roads[directory]

    def _judge(self, arrival: Arrival, rename: bool, number: int, ready: dict[int, str]) -> Outcome:
        """Read one arrival; STORED here means "may be placed" (then ``ready`` says from where), or "is in place"."""
        staged = self._store.staging_path(arrival.staging_id, arrival.name)
        try:
            try:
                found = os.lstat(staged)
            except (FileNotFoundError, NotADirectoryError):
                return self._judge_placed(arrival)
            if not self._honest(arrival.staging_id, arrival.name):
                return Outcome(Fate.WRONG, "its staging place leads elsewhere through a symbolic link")
            kind, why = plain(staged, found)
            if why:
                return Outcome(Fate.WRONG, why)
            size = found.st_size if kind is FileKind.FILE else digest.size_of(staged)
            if size != arrival.size:
                return Outcome(Fate.WRONG, f"it has {size} bytes instead of {arrival.size}")
            if not rename:
                staged = self._copy_over(arrival, staged, kind)
            ready[number] = staged
            return compare(staged, kind, arrival.checksum)
        except (FileChanged, FileUnreadable) as trouble:
            return Outcome(Fate.UNKNOWN, trouble.reason)
        except OSError as trouble:
            return Outcome(Fate.UNKNOWN, f"it cannot be read now: {trouble.strerror}")

    def _judge_placed(self, arrival: Arrival) -> Outcome:
        """Nothing is staged: it was placed before a crash, or it never came."""
        path = self._store.path(arrival.name)
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            why = "nothing lies in its staging place; if its carrier delivered it, that sees other paths than this host"
            return Outcome(Fate.LOST, f"{why} ('libtool check-endpoint')")
        kind, why = plain(path, found)
        if not why and digest.size_of(path) == arrival.size:
            outcome = compare(path, kind, arrival.checksum)
            if outcome.fate is Fate.STORED:
                return replace(outcome, lay_there=True)
        return Outcome(Fate.LOST, "nothing lies in its staging place, and something else in its final place")

    def _copy_over(self, arrival: Arrival, staged: str, kind: FileKind) -> str:
        """Bring the bytes to the store's file system, as this user's own."""
        part = self._store.part_path(arrival.staging_id, arrival.name)
        if os.path.lexists(part):  # left by a crash
            copying.remove_tree(part) if os.path.isdir(part) else os.unlink(part)
        copying.make_directories(os.path.dirname(part), floor=self._store.root)
        if kind is FileKind.DIRECTORY:
            copying.copy_tree(staged, part)
        else:
            copying.copy_file(staged, part, follow=False)
        return part

    def _place(self, arrival: Arrival, path: str, outcome: Outcome, changed: set[str]) -> Outcome:
        """Put one verified arrival into its final place without replacing anything."""
        target = self._store.path(arrival.name)
        parent = target.rpartition("/")[0]
        try:
            if parent not in changed:
                made = copying.make_directories(parent, self._store.directory_mode, floor=self._store.root)
                changed.update(os.path.dirname(directory) for directory in made)
                changed.add(parent)
            if outcome.kind is FileKind.DIRECTORY:
                if os.path.lexists(target):
                    return self._settle_occupied(arrival, outcome)
                os.rename(path, target)
                return outcome
            try:
                os.link(path, target, follow_symlinks=False)
            except FileExistsError:
                # Not samefile, which would follow what lies there: a link is something else, even a broken one.
                if not os.path.samestat(os.lstat(path), os.lstat(target)):
                    return self._settle_occupied(arrival, outcome)
            except OSError as trouble:
                if trouble.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
                    raise
                if os.path.lexists(target):
                    return self._settle_occupied(arrival, outcome)
                os.rename(path, target)  # a file system without hard links
                return outcome
            seam("take in: linked")
            os.unlink(path)
            return outcome
        except (NotADirectoryError, FileExistsError):
            return Outcome(Fate.OCCUPIED, f"a file lies where the directory {parent} should be")
        except OSError as trouble:
            return Outcome(Fate.UNKNOWN, f"it cannot be stored now: {trouble.strerror}")

    def _settle_occupied(self, arrival: Arrival, outcome: Outcome) -> Outcome:
        """Something lies in the final place: the very same bytes are as good as ours, anything else is left alone."""
        if self._judge_placed(arrival).fate is Fate.STORED:
            return replace(outcome, lay_there=True)
        return Outcome(
            Fate.OCCUPIED,
            f"{self._store.path(arrival.name)} is already there, with other content, and not in the catalogue",
        )
