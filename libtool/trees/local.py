"""A tree on this host: read with one scan and one stat per entry, changed by descriptors.

Every directory below the root is opened by its name in the one above it and never through a link, so that a directory
that is exchanged for one meanwhile leads nowhere. What was changed is forced to disk before a method returns.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice

from libtool import copying
from libtool.errors import CarrierUnknown, DirectoryUnreadable
from libtool.names import above, shown
from libtool.seams import seam
from libtool.trees.base import ASIDE, PORTION, Gone, Portion, Seen, Tree, Way, absent

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: On the way to a directory it is enough to pass.
_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KIND, _REGULAR, _FOLDER = 0o170000, stat.S_IFREG, stat.S_IFDIR
#: Databases keep 63 bits.
_MOST = (1 << 63) - 1
#: What is said of a name under which there is nothing, or on whose way there is no directory.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


class LocalTree(Tree):
    """See the module's text."""

    immediate = True

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")

    def unable(self) -> str:
        """The place for what is set aside must be writable, or one must be to be made."""
        with self._opened("") as top:
            place = ASIDE if _lies(ASIDE, top) else "."
            if os.access(place, os.W_OK | os.X_OK, dir_fd=top):
                return ""
            return f"{self.path('' if place == '.' else ASIDE)} is read-only or belongs to somebody else"

    def path(self, path: str) -> str:
        """As every program on this host would write it."""
        return f"{self.root}/{path}" if path else self.root or "/"

    # -- descriptors -----------------------------------------------------------------------------------------------

    def _open(self, directory: str) -> int:
        """A descriptor of a directory; Gone when it is not there, or only behind a link."""
        parts = directory.split("/") if directory else []
        try:  # the root itself may be a link: the operator wrote it
            at = os.open(self.root or "/", (_STEP if parts else _DIRECTORY) & ~os.O_NOFOLLOW)
        except OSError as trouble:
            why = f"it cannot be opened ({trouble.strerror}). Is it mounted?"
            raise absent(self.path(""), why) from None
        for left, part in enumerate(parts, 1 - len(parts)):
            try:
                below = os.open(part, _STEP if left else _DIRECTORY, dir_fd=at)
            except OSError as trouble:
                raise self._meant(trouble, directory) from None
            finally:
                os.close(at)
            at = below
        return at

    @contextmanager
    def _opened(self, directory: str) -> Iterator[int]:
        at = self._open(directory)
        try:
            yield at
        except OSError as trouble:
            raise self._meant(trouble, directory) from None
        finally:
            os.close(at)

    def _meant(self, trouble: OSError, path: str) -> Exception:
        """A trouble with one path, or with the disk as a whole."""
        if trouble.errno in _ABSENT:
            return Gone(path)
        if trouble.errno in copying.PASSING and trouble.errno not in (errno.EIO, errno.EBUSY):
            why = f"{self.path(path)}: {trouble.strerror}"
            return CarrierUnknown(carrier="local", why=why, everywhere=False)
        why = str(trouble.strerror)
        if trouble.errno == errno.EXDEV:
            why = f"it lies on another file system than {self.path(ASIDE)}"
        return DirectoryUnreadable(path=self.path(path), why=why)

    # -- looking ---------------------------------------------------------------------------------------------------

    def list(self, directory: str) -> Iterator[Portion]:
        """In the order in which the file system gives them."""
        with self._opened(directory) as at, os.scandir(at) as entries:
            while True:
                batch = [*islice(entries, PORTION)]
                yield _portion(batch)
                if len(batch) < PORTION:
                    return

    def lacks(self, directory: str, names: Sequence[str]) -> Sequence[str]:
        """One stat per name."""
        try:
            with self._opened(directory) as at:
                return [name for name in names if not _lies(name, at)]
        except Gone:
            return [*names]

    def aside(self, place: str) -> Mapping[str, Seen | None]:
        """As a listing shows it."""
        found: dict[str, Seen | None] = {}
        with suppress(Gone):
            for portion in self.list(f"{ASIDE}/{place}"):
                found.update((seen.name, seen) for seen in portion.files)
                found.update(dict.fromkeys([*portion.directories, *portion.strange]))
        return found

    # -- moving ----------------------------------------------------------------------------------------------------

    def make_place(self, place: str) -> None:
        """One directory in another, made as the umask says."""
        self._make(f"{ASIDE}/{place}")

    def _make(self, directory: str) -> None:
        """Make a directory and those above it, and force to disk that they are there, whoever made them."""
        try:
            for path in [*above(directory), directory] if directory else ():
                parent, _, name = path.rpartition("/")
                with self._opened(parent) as at:
                    with suppress(FileExistsError):
                        seam("tree: make a directory")
                        os.mkdir(name, dir_fd=at)
                        seam("tree: made a directory")
                    os.fsync(at)
            with self._opened(directory):
                return
        except Gone:
            why = "something else lies there, or in place of a directory on the way"
            raise DirectoryUnreadable(path=self.path(directory), why=why) from None

    def set_aside(self, path: str, place: str, name: str) -> Way:
        """Rename within the file system."""
        directory, _, last = path.rpartition("/")
        try:
            to = self._open(f"{ASIDE}/{place}")
        except Gone:
            raise DirectoryUnreadable(path=self.path(f"{ASIDE}/{place}"), why="it is not there") from None
        try:
            with self._opened(directory) as at:
                return self._move_aside(last, at, name, to)
        except Gone:
            return Way.MOVED if _lies(name, to) else Way.MISSING
        finally:
            os.close(to)

    @staticmethod
    def _move_aside(last: str, at: int, name: str, to: int) -> Way:
        seam("tree: set aside")
        try:
            if not copying.rename_new(last, at, name, to):
                # A look is enough here: nobody but us, under a lock, puts anything into a place.
                if _lies(name, to):
                    raise FileExistsError
                os.rename(last, name, src_dir_fd=at, dst_dir_fd=to)
        except (FileNotFoundError, FileExistsError):
            if not _lies(name, to):
                return Way.MISSING
            if _lies(last, at):
                return Way.OCCUPIED
        seam("tree: set aside, not on disk yet")
        os.fsync(to)
        os.fsync(at)
        return Way.MOVED

    def bring_back(self, place: str, name: str, path: str) -> Way:
        """Rename within the file system, or link where that might replace something."""
        directory, _, last = path.rpartition("/")
        try:
            with self._opened(f"{ASIDE}/{place}") as aside:
                if not _lies(name, aside):
                    raise Gone
                try:
                    self._make(directory)
                    at = self._open(directory)
                except (DirectoryUnreadable, Gone):  # which a place for it would not be
                    if self._blocked(directory):
                        return Way.OCCUPIED
                    raise
                try:
                    return self._move_back(name, aside, last, at)
                finally:
                    os.close(at)
        except Gone:
            return self._brought(directory, last)

    def _blocked(self, directory: str) -> bool:
        """Whether something that is no directory lies where one should be."""
        for path in [*above(directory), directory]:
            parent, _, name = path.rpartition("/")
            try:
                with self._opened(parent) as at:
                    if _lies(name, at) and not stat.S_ISDIR(os.lstat(name, dir_fd=at).st_mode):
                        return True
            except (Gone, DirectoryUnreadable):
                return False
        return False

    def _brought(self, directory: str, last: str) -> Way:
        """What became of a file that does not lie in its place any more."""
        try:
            with self._opened(directory) as at:
                if _lies(last, at):
                    os.fsync(at)  # an earlier call may have ended before it did
                    return Way.MOVED
        except Gone:
            pass
        return Way.MISSING

    @staticmethod
    def _move_back(name: str, aside: int, last: str, at: int) -> Way:
        seam("tree: bring back")
        try:
            if not copying.rename_new(name, aside, last, at):
                _link_back(name, aside, last, at)
        except FileExistsError:
            if not os.path.samestat(os.lstat(name, dir_fd=aside), os.lstat(last, dir_fd=at)):
                return Way.OCCUPIED
            os.unlink(name, dir_fd=aside)  # the very same file, linked by an earlier call
        seam("tree: brought back, not on disk yet")
        os.fsync(at)
        os.fsync(aside)
        return Way.MOVED

    # -- removing --------------------------------------------------------------------------------------------------

    def remove(self, place: str, name: str, seen: Seen) -> str:
        """The descriptor that is looked at holds a lease, so that nobody begins to write meanwhile."""
        try:
            with self._opened(f"{ASIDE}/{place}") as at:
                if not _lies(name, at):
                    os.fsync(at)  # an earlier call may have ended before it did
                    return ""
                try:
                    file = os.open(name, _FILE, dir_fd=at)
                except OSError as trouble:
                    return f"it cannot be opened: {trouble.strerror}"
                try:
                    if why := _doubt(file, name, at, seen):
                        return why
                    seam("tree: remove")
                    os.unlink(name, dir_fd=at)
                    seam("tree: removed, not on disk yet")
                finally:
                    os.close(file)
                os.fsync(at)
                return ""
        except Gone:
            return ""

    def remove_empty(self, directory: str) -> bool:
        """The system refuses when anything is in it."""
        parent, _, name = directory.rpartition("/")
        try:
            with self._opened(parent) as at:
                try:
                    seam("tree: remove a directory")
                    os.rmdir(name, dir_fd=at)
                    seam("tree: removed a directory")
                except OSError as trouble:
                    if trouble.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                        return False
                    if trouble.errno not in _ABSENT:
                        raise
                os.fsync(at)
                return bool(directory)
        except Gone:
            return True

    def clear_place(self, place: str) -> bool:
        """With the last place goes the directory that they all lie in."""
        gone = self.remove_empty(f"{ASIDE}/{place}")
        if gone:
            self.remove_empty(ASIDE)
        return gone


def _seen(name: str, found: os.stat_result) -> Seen:
    """A file as a listing shows it; what 63 bits cannot hold is cut, always alike."""
    mtime, ctime = (min(max(each, -_MOST), _MOST) for each in (found.st_mtime_ns, found.st_ctime_ns))
    return Seen(name, found.st_size, mtime, found.st_ino & _MOST, ctime)


def _portion(batch: Sequence[os.DirEntry[str]]) -> Portion:
    """What some entries are. Nothing is called per file but its stat: there may be millions."""
    portion, new = Portion(), tuple.__new__
    add = portion.files.append
    odd: list[str] = []
    for entry in batch:
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:  # it went since the directory was read
            continue
        kind = found.st_mode & _KIND
        if kind == _REGULAR:
            mtime, inode, ctime = found.st_mtime_ns, found.st_ino, found.st_ctime_ns
            if (mtime | inode | ctime) >> 63:
                add(_seen(entry.name, found))
            else:
                add(new(Seen, (entry.name, found.st_size, mtime, inode, ctime)))
        elif kind == _FOLDER:
            portion.directories.append(entry.name)
        else:
            odd.append(entry.name)
    names = [seen[0] for seen in portion.files]
    if not _is_text("".join(names)) or not _is_text("".join(portion.directories)):
        odd += [name for name in [*names, *portion.directories] if not _is_text(name)]
        portion.files = [seen for seen in portion.files if _is_text(seen.name)]
        portion.directories = [name for name in portion.directories if _is_text(name)]
    if ASIDE in names or ASIDE in portion.directories or ASIDE in odd:
        portion.files = [seen for seen in portion.files if seen.name != ASIDE]
        portion.directories = [name for name in portion.directories if name != ASIDE]
        odd = [name for name in odd if name != ASIDE]
    portion.strange = [shown(name) for name in odd]
    return portion


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lies(name: str, at: int) -> bool:
    """Whether anything has this name in an open directory; OSError when that cannot be told."""
    try:
        os.lstat(name, dir_fd=at)
    except OSError as trouble:
        if trouble.errno in _ABSENT:
            return False
        raise
    return True


def _link_back(name: str, aside: int, last: str, at: int) -> None:
    """Bring back on a file system that has no other way to replace nothing; FileExistsError when something lies there."""
    if stat.S_ISDIR(os.lstat(name, dir_fd=aside).st_mode):
        if _lies(last, at):
            raise FileExistsError
        os.rename(name, last, src_dir_fd=aside, dst_dir_fd=at)  # a directory replaces an empty one at most
        return
    os.link(name, last, src_dir_fd=aside, dst_dir_fd=at, follow_symlinks=False)
    seam("tree: linked back")
    os.unlink(name, dir_fd=aside)


def _doubt(file: int, name: str, at: int, seen: Seen) -> str:
    """Why an open file that was set aside should not be removed; afterwards nobody can open it for writing until it is
    closed, where the file system has leases."""
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        return "it is no regular file any more"
    try:
        # A lease that is broken sends a signal; this one is ignored unless somebody asked for it.
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as trouble:
        if trouble.errno == errno.EAGAIN:
            return "a process has it open for writing"
    found = os.fstat(file)
    if _seen(name, found)[1:] != seen[1:]:
        return "it changed since it was looked at"
    return "" if os.path.samestat(found, os.lstat(name, dir_fd=at)) else "something else took its place"
