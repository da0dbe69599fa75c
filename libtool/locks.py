"""Locks that die with the process that holds them, whatever kills it. They are never waited for by mistake."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from libtool.errors import LockTaken, RunDirectoryUnusable


@contextmanager
def held(directory: str, name: str, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold ``flock`` on a file of its own for the time of the block; LockTaken when somebody else has it.

    The file is never removed: unlinking it would let two processes hold "the same" lock.
    """
    path = os.path.join(directory, re.sub(r"[^A-Za-z0-9._-]", "_", name) + ".lock")
    try:
        os.makedirs(directory, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as trouble:
        raise RunDirectoryUnusable(path=path, why=trouble.strerror) from None
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except OSError as trouble:
            if trouble.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise RunDirectoryUnusable(path=path, why=trouble.strerror) from None
            raise LockTaken(lock=name) from None
        yield
    finally:
        os.close(descriptor)
