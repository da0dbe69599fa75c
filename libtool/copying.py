"""Copying bytes between paths: whole, without following links, holes kept, and told apart by what went wrong.

Ground under stores and movers alike; knows neither.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any

from libtool.errors import FileChanged, FileUnreadable
from libtool.seams import seam

_BLOCK = 1 << 20
#: Above this many files one sync of the file system is cheaper than one per file.
SYNC_EACH_UPTO = 16
#: What says "not now", as opposed to "never": room, the disk, the mount, the descriptor table.
PASSING = frozenset(
    getattr(errno, name)
    for name in [
        "ENOSPC",
        "EDQUOT",
        "EROFS",
        "EIO",
        "ESTALE",
        "ENODEV",
        "ENXIO",
        "ETIMEDOUT",
        "EMFILE",
        "ENFILE",
        "EBUSY",
        "EAGAIN",
        "ENOMEM",
    ]
)


def identity(found: os.stat_result) -> tuple[int, int, int, int]:
    """What must stay the same for a file to count as unchanged: device, inode, size and modification time."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def identity_of(path: str) -> tuple[int, ...]:
    """What stays the same when a file or a directory is renamed, and not when it is written to; of a directory everything
    in it. Only good for comparing within one process."""
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        return identity(found)
    inside = sorted((here, *identity(os.lstat(os.path.join(path, here)))) for here, below in walk(path) if not below)
    return (found.st_dev, found.st_ino, hash(tuple(inside)))


def rename(path: str, target: str, *, new: bool = False) -> None:
    """Rename a file or a directory; a directory that may not be written to is made so for that moment.

    With ``new`` nothing is replaced: FileExistsError when something lies at the target. Where the system cannot promise
    that, only what comes in the very moment can be replaced.
    """
    found = os.lstat(path)
    locked = stat.S_ISDIR(found.st_mode) and not found.st_mode & stat.S_IWUSR
    if locked:
        os.chmod(path, stat.S_IMODE(found.st_mode) | stat.S_IWUSR)
    try:
        if not (new and rename_new(path, _HERE, target, _HERE)):
            if new and os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
            os.rename(path, target)
        path = target
    finally:
        if locked:
            with suppress(FileNotFoundError):
                os.chmod(path, stat.S_IMODE(found.st_mode))


def copy_file(source: str, target: str, *, follow: bool = True, mode: int | None = None) -> os.stat_result:
    """Copy one regular file to a path that does not exist yet; times are kept, and ``mode`` is set whatever the
    umask. Returns what was read.

    Raises FileChanged when the source changed meanwhile, FileUnreadable when it is no regular file; other troubles are
    OSErrors. A target that was begun is removed again unless the process dies.
    """
    seam("copy: begin")
    try:
        reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    except OSError as trouble:
        if trouble.errno == errno.ENXIO:  # a socket, or a device without its hardware
            raise FileUnreadable(path=source, why="it is no regular file") from None
        raise
    try:
        before = os.fstat(reading)
        if not stat.S_ISREG(before.st_mode):
            raise FileUnreadable(path=source, why="it is no regular file")
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            _pour(reading, writing, before)
            if identity(os.fstat(reading)) != identity(before):
                raise FileChanged(path=source)
            if mode is not None:
                os.fchmod(writing, mode)
            os.utime(writing, ns=(before.st_atime_ns, before.st_mtime_ns))
        except BaseException:
            with suppress(OSError):
                os.unlink(target)
            raise
        finally:
            os.close(writing)
    finally:
        os.close(reading)
    seam("copy: done")
    return before


def _pour(reading: int, writing: int, found: os.stat_result) -> None:
    if found.st_size < _BLOCK:
        block = os.read(reading, found.st_size + 1)
        view = memoryview(block)
        while view:
            view = view[os.write(writing, view) :]
        if len(block) == found.st_size:
            return
    elif found.st_blocks * 512 < found.st_size:
        _pour_sparse(reading, writing, found.st_size)
        return
    while block := os.read(reading, _BLOCK):
        view = memoryview(block)
        while view:
            view = view[os.write(writing, view) :]


def _pour_sparse(reading: int, writing: int, size: int) -> None:
    """Copy only what is not a hole, so that a mostly empty file stays small."""
    os.ftruncate(writing, size)
    at = 0
    while at < size:
        try:
            begin = os.lseek(reading, at, os.SEEK_DATA)
        except OSError as trouble:
            if trouble.errno == errno.ENXIO:  # nothing but a hole to the end
                return
            raise
        at = os.lseek(reading, begin, os.SEEK_HOLE)
        os.lseek(reading, begin, os.SEEK_SET)
        os.lseek(writing, begin, os.SEEK_SET)
        left = at - begin
        while left:
            block = os.read(reading, min(left, _BLOCK))
            if not block:
                return
            view = memoryview(block)
            while view:
                view = view[os.write(writing, view) :]
            left -= len(block)


def walk(path: str) -> Iterator[tuple[str, bool]]:
    """``(relative path, is a directory)`` of everything in the directory ``path``, a directory before what is in it."""
    todo = [""]
    while todo:
        at = todo.pop()
        with os.scandir(os.path.join(path, at)) as entries:
            for entry in entries:
                here = f"{at}/{entry.name}" if at else entry.name
                if entry.is_dir(follow_symlinks=False):
                    yield here, True
                    todo.append(here)
                else:
                    yield here, False


def inspect(path: str) -> None:
    """Raise FileUnreadable unless the directory ``path`` can be archived as one file.

    Links to files inside it are fine (they are copied as files); links that leave it, links to directories, broken
    links and special files are not, because the copy would not be what it looks like.
    """
    top = os.path.realpath(path)
    for here, directory in walk(path):
        if directory:
            continue
        full = os.path.join(path, here)
        found = os.lstat(full)
        if stat.S_ISREG(found.st_mode):
            continue
        if not stat.S_ISLNK(found.st_mode):
            raise FileUnreadable(path=full, why="it is neither a file nor a directory")
        aim = os.path.realpath(full)
        if not aim.startswith(top + os.sep):
            raise FileUnreadable(path=full, why="it is a link that leads out of the directory")
        if not os.path.isfile(aim):
            raise FileUnreadable(path=full, why="it is a broken link, or one to a directory")


def make_directories(directory: str, mode: int | None = None, floor: str | None = None) -> list[str]:
    """Make a directory and those above it, with just this mode whatever the umask; returns those that were made.

    ``floor`` has to be there: it is never made, for where it is missing something is not mounted.
    """
    made: list[str] = []
    todo = [directory]  # a name may have more levels than Python lets a function call itself
    while todo:
        if todo[-1] == floor and not os.path.isdir(floor):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), floor)
        try:
            os.mkdir(todo[-1])
        except FileExistsError:
            todo.pop()
            continue
        except FileNotFoundError:
            if os.path.dirname(todo[-1]) in ("", todo[-1]):
                raise
            todo.append(os.path.dirname(todo[-1]))
            continue
        if mode is not None:
            os.chmod(todo[-1], mode)
        made.append(todo.pop())
    return made


def copy_tree(source: str, target: str, *, mode: int | None = None, directory_mode: int | None = None) -> None:
    """Copy a directory to a path that does not exist yet; links inside become files. See :func:`inspect`."""
    inspect(source)
    seam("copy tree: begin")
    make_directories(target, directory_mode)
    for here, directory in walk(source):
        goal = os.path.join(target, here)
        if directory:
            make_directories(goal, directory_mode)
        else:
            copy_file(os.path.join(source, here), goal, mode=mode)
    seam("copy tree: done")


def sync(paths: Iterable[str]) -> None:
    """Force the given files and directories to disk: each by itself, or with one call when there are many."""
    known = list(dict.fromkeys(paths))
    if len(known) > SYNC_EACH_UPTO and _sync_file_systems(known):
        return
    for path in known:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sync_file_systems(paths: list[str]) -> bool:
    """``syncfs`` for every file system that the paths lie on; False where the C library has no such call."""
    syncfs = _c_function("syncfs")
    if syncfs is None:
        return False
    done: set[int] = set()
    above = {os.path.dirname(path) for path in paths}
    # A directory that others lie in is opened itself: what lies above it may not be ours to open.
    for path in {path if path in above else os.path.dirname(path) for path in paths}:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            device = os.fstat(descriptor).st_dev
            if device not in done:
                done.add(device)
                if syncfs(descriptor):
                    raise OSError(ctypes.get_errno(), "syncfs", path)
        finally:
            os.close(descriptor)
    return True


@lru_cache
def _c_function(name: str) -> Any:
    """A function of the C library that Python does not have; None where that has none either."""
    try:
        return getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None


#: Of renameat2: fail rather than replace; and instead of an open directory: paths as they stand.
_NOREPLACE, _HERE = 1, -100


def rename_new(name: str, at: int, new: str, to: int) -> bool:
    """Rename ``name`` in the open directory ``at`` to ``new`` in ``to``; FileExistsError when something lies there.

    Nothing can come in between. False, with nothing done, where system or file system cannot promise that.
    """
    renameat2 = _c_function("renameat2")
    if renameat2 is None:
        return False
    if renameat2(at, os.fsencode(name), to, os.fsencode(new), _NOREPLACE):
        number = ctypes.get_errno()
        if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            return False
        raise OSError(number, os.strerror(number), name)
    return True


def remove_tree(path: str) -> None:
    """Remove a directory and everything in it, also what is read-only; what is not there is fine; no link is followed.

    Raises OSError when something stays. It goes down and up by descriptors, one at a time, so that neither a link that
    somebody puts in between nor a path longer than the system's leads it astray.
    """
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        at = _enter(path, None)
    except FileNotFoundError:
        return
    try:
        here = _empty(at)
        road: list[tuple[str, tuple[int, int], list[str]]] = []
        while here or road:
            if here:
                name = here.pop()
                try:
                    below = _enter(name, at)
                except FileNotFoundError:
                    continue
                road.append((name, _place(at), here))
                os.close(at)
                at = below
                here = _empty(at)
            else:
                name, parent, here = road.pop()
                above = os.open("..", _DIRECTORY, dir_fd=at)
                os.close(at)
                at = above
                if _place(at) != parent:
                    raise OSError(errno.EBUSY, "it was moved while it was being removed", path)
                os.rmdir(name, dir_fd=at)
    finally:
        os.close(at)
    os.rmdir(path)


_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _place(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _enter(name: str, parent: int | None) -> int:
    """A descriptor of a directory that is about to be emptied, opened up for its owner."""
    try:
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:
        handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        finally:
            os.close(handle)
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    mode = os.fstat(descriptor).st_mode
    if mode & 0o700 != 0o700:
        with suppress(PermissionError):
            os.fchmod(descriptor, stat.S_IMODE(mode) | 0o700)
    return descriptor


def _empty(directory: int) -> list[str]:
    """Remove all but the directories from one; returns their names."""
    kept: list[str] = []
    with os.scandir(directory) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                kept.append(entry.name)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(entry.name, dir_fd=directory)
    return kept
