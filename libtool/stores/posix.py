"""A store that is a directory tree: ``store_path/NAME`` at rest, ``staging_path/<id>/NAME`` on arrival.

Commit is durable and atomic: read, sync the data, link into place without replacing anything, sync the directories;
with one sync of the whole file system instead of one per file when there are many.
"""

from __future__ import annotations

import errno
import os
import random
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime

from libtool import copying, digest, names
from libtool.errors import FileChanged, FileUnreadable, StoreUnavailable
from libtool.seams import seam
from libtool.states import Condition, FileKind
from libtool.stores.arriving import Arriving
from libtool.stores.base import Arrival, Fate, Found, Outcome, Reading, Store
from libtool.stores.marks import MARKER, Marks
from libtool.stores.reading import compare, data_of, plain, straight

#: Lies in the staging directory while somebody looks whether it can be seen from elsewhere.
CHECK = ".libtool-check"
#: Where copies are made whole when staging and store are different file systems; inside the store.
PARTS = ".libtool-part"
#: Where copies lie that were taken out of their places; inside the store.
ASIDE = ".libtool-aside"
#: What follows the id of such a place once it is being removed.
GONE = ".gone"
#: Length of a staging id and its slash, in bytes; and how one is spelled.
_ID_LENGTH = 33
_ID = re.compile("[0-9a-f]{32}")


class PosixStore(Store):
    """See the module's text."""

    def __init__(
        self,
        name: str,
        *,
        staging: str,
        root: str,
        owner: str = "",
        full_fraction: float = 1.0,
        group_write: bool = False,
        own: bool = False,
        readonly: bool = False,
    ) -> None:
        self.name = name
        self.staging = staging
        self.root = root
        self.full_fraction = full_fraction
        self.group_write = group_write
        self.own = own
        self.readonly = readonly
        self._marks = Marks(name, owner)

    # -- the place as a whole ----------------------------------------------------------------------------------

    def set_up(self, *, known: bool, accepted: bool = False) -> None:
        """Make both directories and their marks."""
        self._marks.set_up((self.staging, self.root), known=known, accepted=accepted)

    def check_readable(self) -> None:
        """The store must be there and marked as this one."""
        self._marks.check(self.root)

    def check(self) -> None:
        """Both directories must be there, marked and writable."""
        for directory in (self.staging, self.root):
            self._marks.check(directory)
            if not os.access(directory, os.W_OK | os.X_OK):
                raise StoreUnavailable(store=self.name, why=f"{directory} is read-only or belongs to somebody else")
            if os.statvfs(directory).f_flag & os.ST_RDONLY:
                raise StoreUnavailable(store=self.name, why=f"{directory} is mounted read-only")
        if os.path.samefile(self.staging, self.root):  # by a mount, which no path tells
            why = f"{self.staging} and {self.root} are one directory, and what is removed there would be the archive"
            raise StoreUnavailable(store=self.name, why=why)

    def room(self, staged: int, promised: int) -> int:
        """The smaller of what both file systems have left, less what is promised on each."""
        at_staging = self._free(self.staging) - promised
        if self.one_file_system() and not self.own:
            return max(0, at_staging)
        return max(0, min(at_staging, self._free(self.root) - promised - staged))

    def _free(self, directory: str) -> int:
        try:
            found = os.statvfs(directory)
        except OSError as trouble:
            raise StoreUnavailable(store=self.name, why=f"{directory}: {trouble.strerror}") from None
        kept = found.f_blocks * found.f_frsize * (1 - self.full_fraction)
        return int(found.f_bavail * found.f_frsize - kept)

    def one_file_system(self) -> bool:
        """Whether renaming is enough to bring something from staging into the store."""
        return os.stat(self.staging).st_dev == os.stat(self.root).st_dev

    def name_room(self) -> int:
        """What the longest prefix leaves: copies are staged, and may be set aside one day."""
        aside = len(os.fsencode(self.root)) + len(ASIDE) + 2 + _ID_LENGTH
        prefixes = (aside, len(os.fsencode(self.staging)) + 1 + _ID_LENGTH)
        return names.PATH_MAX - max(prefixes)

    def mark(self) -> tuple[str, int]:
        """``.libtool-store``, which ``setup`` left."""
        path = os.path.join(self.root, MARKER)
        return path, os.stat(path).st_size

    @contextmanager
    def marker(self) -> Iterator[tuple[str, int]]:
        """Of a size that no other file is likely to have; one that a crash left behind is removed first."""
        path, size = os.path.join(self.staging, CHECK), random.randrange(1000, 5000)
        with suppress(FileNotFoundError):
            os.unlink(path)
        try:
            with open(path, "xb") as stream:
                stream.write(b"libtool is looking whether this can be seen through a collection\n".ljust(size, b"."))
            seam("marker: made")
            yield path, size
        except OSError as trouble:
            raise StoreUnavailable(store=self.name, why=f"{self.staging}: {trouble.strerror}") from None
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)

    # -- places ------------------------------------------------------------------------------------------------

    def path(self, name: str) -> str:
        """``store_path/NAME``."""
        return f"{self.root}/{name}"

    def staging_path(self, staging_id: str, name: str) -> str:
        """``staging_path/<id>/NAME``."""
        return f"{self.staging}/{staging_id}/{name}"

    def part_path(self, staging_id: str, name: str) -> str:
        """Where an arrival is made whole when staging and store are different file systems."""
        return f"{self.root}/{PARTS}/{staging_id}/{name}"

    def name_of(self, path: str) -> str | None:
        """What is behind ``store_path/``, also where another mount shows the store under a path of its own."""
        full, root = os.path.realpath(path), os.path.realpath(self.root)
        if full == root or full.startswith(root + os.sep):
            return full[len(root) + 1 :]
        above = full
        with suppress(OSError):
            home = os.stat(root)
            while (above := os.path.dirname(above)) not in ("", os.sep):
                if os.path.samestat(os.stat(above), home):
                    return full[len(above) + 1 :]
        return None

    def reserve(self, staging_id: str, names: Sequence[str]) -> None:
        """One directory per id, and the parents of every name below it."""
        place = f"{self.staging}/{staging_id}"
        try:
            seam("reserve: begin")
            for directory in sorted({os.path.dirname(name) for name in names} | {""}):
                self._take_links_away(f"{staging_id}/{directory}".rstrip("/"))
                copying.make_directories(f"{place}/{directory}".rstrip("/"), self.directory_mode, floor=self.staging)
            seam("reserve: done")
        except OSError as trouble:
            raise StoreUnavailable(store=self.name, why=f"{self.staging}: {trouble.strerror}") from trouble

    def _take_links_away(self, place: str) -> None:
        """Somebody who can write below a staging place may have put a link there, which may lead anywhere."""
        for directory in [*names.above(place), place]:
            if os.path.islink(path := f"{self.staging}/{directory}"):
                os.unlink(path)

    def reserved(self) -> list[str]:
        """Directories that are named as ids are; what somebody else put there is none of ours."""
        self.check()
        try:
            with os.scandir(self.staging) as entries:
                return [it.name for it in entries if _ID.fullmatch(it.name) and it.is_dir(follow_symlinks=False)]
        except OSError as trouble:
            raise StoreUnavailable(store=self.name, why=f"{self.staging}: {trouble.strerror}") from trouble

    @property
    def directory_mode(self) -> int | None:
        """The mode of directories that are made; None: as the umask says."""
        return 0o2775 if self.group_write else None

    def permit(self, path: str) -> None:
        """Apply ``readonly_after_commit`` and ``group_write_after_stage`` to a stored copy."""
        inside = [os.path.join(path, here) for here, _ in copying.walk(path)] if os.path.isdir(path) else []
        for each in [*inside, path]:
            mode = stat.S_IMODE(os.lstat(each).st_mode)
            wanted = mode & ~0o222 if self.readonly else mode | 0o060
            if wanted != mode:
                os.chmod(each, wanted)

    def discard(self, staging_id: str) -> None:
        """Remove the id's directory, and what was being copied from it."""
        seam("discard: begin")
        copying.remove_tree(f"{self.staging}/{staging_id}")
        if os.path.isdir(parts := self.part_path(staging_id, "").rstrip("/")):
            copying.remove_tree(parts)
        seam("discard: done")

    def discard_one(self, staging_id: str, name: str) -> None:
        """Remove one leaf."""
        path = self.staging_path(staging_id, name)
        if straight(self.staging, path.rpartition("/")[0]):
            if os.path.isdir(path) and not os.path.islink(path):
                copying.remove_tree(path)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(path)

    # -- coming in ---------------------------------------------------------------------------------------------

    def take_in(self, arrivals: Sequence[Arrival]) -> list[Outcome]:
        """Read, sync, place, sync; see the base class."""
        self.check()
        return Arriving(self, arrivals).take_in()

    def copy_in(self, source: str, staging_id: str, name: str) -> Found:
        """Copy into staging; the checksum is the source's own, so that :meth:`take_in` proves the copy."""
        target = self.staging_path(staging_id, name)
        self._marks.check(self.staging)  # it may have been unmounted since the last file
        try:
            copying.make_directories(os.path.dirname(target), floor=self.staging)
            if os.path.isdir(source):
                copying.copy_tree(source, target)
                return Found(FileKind.DIRECTORY, digest.size_of(target), digest.of_path(source))
            before = copying.copy_file(source, target)
            checksum = digest.of_path(source)
            if copying.identity(os.stat(source)) != copying.identity(before):
                raise FileChanged(path=source)
            return Found(FileKind.FILE, before.st_size, checksum)
        except OSError as trouble:
            raise _as_error(source, trouble, self.name) from None

    def move_in(self, source: str, name: str, expected: Found) -> bool:
        """Rename; FileExistsError when the place is taken."""
        target = self.path(name)
        if os.lstat(source).st_dev != os.stat(self.root).st_dev or self.own:
            return False
        made = copying.make_directories(os.path.dirname(target), self.directory_mode, floor=self.root)
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "already there", target)
        copying.sync(data_of(source, expected.kind))
        seam("move in: begin")
        try:
            os.rename(source, target)
        except OSError as trouble:
            if trouble.errno == errno.EXDEV:
                return False
            raise
        seam("move in: renamed")
        if self.readonly or self.group_write:
            with suppress(OSError):
                self.permit(target)
        copying.sync([os.path.dirname(target), os.path.dirname(source) or ".", *map(os.path.dirname, made)])
        return True

    def measure(self, path: str) -> Found:
        """Kind, size and checksum of what lies at ``path``, unchanged while it was read."""
        try:
            before = os.stat(path)
            if stat.S_ISDIR(before.st_mode):
                copying.inspect(path)
                return Found(FileKind.DIRECTORY, digest.size_of(path), digest.of_path(path))
            if not stat.S_ISREG(before.st_mode):
                raise FileUnreadable(path=path, why="it is neither a file nor a directory")
            checksum = digest.of_path(path)
            if copying.identity(os.stat(path)) != copying.identity(before):
                raise FileChanged(path=path)
            return Found(FileKind.FILE, before.st_size, checksum)
        except OSError as trouble:
            raise _as_error(path, trouble, self.name) from None

    def look(self, name: str, size: int, kind: FileKind) -> str:
        """A stat and, for a file, an access check; contents are not read."""
        path = self.path(name)
        try:
            found = os.stat(path)
            if stat.S_ISDIR(found.st_mode) != (kind is FileKind.DIRECTORY):
                return "it changed its kind since it was ingested"
            there = found.st_size if kind is FileKind.FILE else digest.size_of(path)
        except (FileNotFoundError, NotADirectoryError):
            return "it is missing from the store"
        except OSError as trouble:
            return f"it cannot be read: {trouble.strerror}"
        if there != size:
            return f"it changed its content: {there} bytes instead of {size}"
        return "" if os.access(path, os.R_OK) else "it cannot be read: permission denied"

    # -- looking after what is stored --------------------------------------------------------------------------

    def read(self, name: str, size: int, checksum: str, kind: FileKind) -> Reading:
        """Nothing is read twice: what is missing, of another kind or of another size needs no checksum."""
        return self._read(self.path(name), size, checksum, kind)

    def read_aside(self, name: str, aside_id: str, size: int, checksum: str, kind: FileKind) -> Reading:
        """Where :meth:`set_aside` puts it."""
        return self._read(self.aside_path(aside_id, name), size, checksum, kind)

    def look_aside(self, name: str, aside_id: str, size: int, since: datetime) -> bool | None:
        """Sizes and modification times; of a directory of everything in it."""
        path = self.aside_path(aside_id, name)
        self.check_readable()
        try:
            found = os.lstat(path)
            times = [found.st_mtime]
            if stat.S_ISDIR(found.st_mode):
                times += [os.lstat(os.path.join(path, here)).st_mtime for here, _ in copying.walk(path)]
            there = digest.size_of(path) if stat.S_ISDIR(found.st_mode) else found.st_size
            return there == size and max(times) <= since.timestamp()
        except (FileNotFoundError, NotADirectoryError):
            self.check_readable()  # it may have been unmounted just now
            return None if not os.path.lexists(path) else False

    def _read(self, path: str, size: int, checksum: str, kind: FileKind) -> Reading:
        self.check_readable()
        try:
            before = os.lstat(path)
            found_kind, why = plain(path, before)
            if why or found_kind is not kind:
                return Reading(Condition.DAMAGED, why=why or f"it is no {kind.name.lower()} any more")
            identity = copying.identity_of(path)
            there = before.st_size if kind is FileKind.FILE else digest.size_of(path)
            if there != size:
                return Reading(Condition.DAMAGED, there, why=f"it has {there} bytes instead of {size}")
            outcome = compare(path, kind, checksum)
            if copying.identity_of(path) != identity:
                return Reading(Condition.UNREADABLE, there, why="it changed while it was read")
            if outcome.fate is Fate.STORED:
                return Reading(Condition.SOUND, there, checksum, identity=identity)
            function, _ = digest.split(checksum)
            found = outcome.why.partition(f"{function}:::")[2].partition(" ")[0]
            return Reading(Condition.DAMAGED, there, f"{function}:::{found}", outcome.why, identity)
        except (FileNotFoundError, NotADirectoryError):
            self.check_readable()  # it may have been unmounted just now
            return Reading(Condition.MISSING, why="nothing lies in its place")
        except OSError as trouble:
            return Reading(Condition.UNREADABLE, why=f"it cannot be read: {trouble.strerror}")

    def aside_path(self, aside_id: str, name: str) -> str:
        """``store_path/.libtool-aside/<id>/NAME``."""
        return f"{self.root}/{ASIDE}/{aside_id}/{name}"

    def set_aside(self, name: str, aside_id: str, identity: tuple[int, ...] = ()) -> bool:
        """Rename; the directories that it leaves empty go with it."""
        path, aside = self.path(name), self.aside_path(aside_id, name)
        self.check_readable()
        if not os.path.lexists(aside):  # a former run did not get so far
            if not os.path.lexists(path):
                return False
            copying.make_directories(os.path.dirname(aside), floor=self.root)
            seam("set aside: begin")
            copying.rename(path, aside)
            seam("set aside: renamed")
            if identity and copying.identity_of(aside) != identity:
                copying.rename(aside, path, new=True)
                self.purge(aside_id)
                raise FileChanged(path=path)
        copying.sync([os.path.dirname(aside), *filter(os.path.isdir, [os.path.dirname(path)])])
        for directory in reversed(names.above(name)):
            try:
                os.rmdir(f"{self.root}/{directory}")
            except FileNotFoundError:
                continue
            except OSError:
                break  # others lie in it
        return True

    def bring_back(self, name: str, aside_id: str) -> bool:
        """Rename back, if nothing lies there."""
        path, aside = self.path(name), self.aside_path(aside_id, name)
        self.check()
        if not os.path.lexists(aside):
            self.purge(aside_id)  # a former run brought it back
            return os.path.lexists(path)
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "something else lies there", path)
        made = copying.make_directories(os.path.dirname(path), self.directory_mode, floor=self.root)
        seam("bring back: begin")
        copying.rename(aside, path, new=True)
        seam("bring back: renamed")
        copying.sync([os.path.dirname(path), os.path.dirname(aside), *map(os.path.dirname, made)])
        self.purge(aside_id)
        return True

    def purge(self, aside_id: str) -> None:
        """Rename the place, then remove it: what lies under its own name is whole."""
        self.check_readable()
        if not _ID.fullmatch(aside_id):
            raise ValueError(aside_id)
        place = f"{self.root}/{ASIDE}/{aside_id}"
        copying.remove_tree(place + GONE)  # left by a crash
        seam("purge: begin")
        with suppress(FileNotFoundError):
            os.rename(place, place + GONE)
            seam("purge: renamed")
            copying.remove_tree(place + GONE)

    def space(self) -> tuple[int, int]:
        """As a user who is not root sees it, without what ``report_full_fraction`` keeps free."""
        self.check_readable()
        found = os.statvfs(self.root)
        return found.f_blocks * found.f_frsize, max(0, self._free(self.root))

    def entries(self, directory: str) -> Iterator[tuple[str, bool]]:
        """In the order of their names."""
        prefix = f"{directory}/" if directory else ""
        try:
            with os.scandir(f"{self.root}/{directory}") as found:
                there = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in found)
        except OSError as trouble:
            raise FileUnreadable(path=f"{self.root}/{directory}", why=str(trouble.strerror)) from None
        for name, below in there:
            if directory or not name.startswith(names.RESERVED):
                yield prefix + name, below


def _as_error(path: str, trouble: OSError, store: str) -> Exception:
    """A file's trouble names the file; a full or vanished disk is the store's."""
    if trouble.errno in copying.PASSING and trouble.errno != errno.EIO and store:
        return StoreUnavailable(store=store, why=f"{trouble.strerror}")
    return FileUnreadable(path=trouble.filename or path, why=str(trouble.strerror))
