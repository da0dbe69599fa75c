"""Checksums of files and of directories taken as one file, in the spelling that all librarians share.

A checksum is ``<function>:::<lower-case hex>``. A directory's is the digest of the sorted hex digests of everything
in it, so neither names nor empty directories count; the source of the rule is the hera_librarian protocol.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any

import xxhash

#: What new checksums are made with.
DEFAULT = "xxh3"
FUNCTIONS = ("xxh3", "md5", "sha1", "sha256", "sha512")
#: Bytes of the first read and of the others: a large buffer costs more than a small file.
_FIRST, _BLOCK = 1 << 16, 1 << 20


def split(checksum: str) -> tuple[str, str]:
    """``(function, hex)`` of a checksum; one without a known function is an md5, as at stock librarians."""
    for function in FUNCTIONS:
        if checksum.startswith(f"{function}:::"):
            return function, checksum.replace(f"{function}:::", "")
    return "md5", checksum


def same(one: str, other: str) -> bool | None:
    """Whether two checksums agree; None when they were made with different functions and cannot be compared."""
    (function, digits), (other_function, other_digits) = split(one), split(other)
    return digits == other_digits if function == other_function else None


def hasher(function: str = DEFAULT) -> Any:
    """A fresh hash object of ``function`` with ``update`` and ``hexdigest``."""
    if function == "xxh3":
        return xxhash.xxh3_128()
    import hashlib

    return hashlib.new(function, usedforsecurity=False)


def of_file(path: str, function: str = DEFAULT, *, follow: bool = True) -> str:
    """Hex digest of a regular file's bytes. With ``follow=False`` a symbolic link is an OSError, not a detour."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW | os.O_NONBLOCK))
    try:
        return of_descriptor(descriptor, function)
    finally:
        os.close(descriptor)


def of_descriptor(descriptor: int, function: str = DEFAULT) -> str:
    """Hex digest of everything from the descriptor's position to its end."""
    state = hasher(function)
    size = _FIRST
    while block := os.read(descriptor, size):
        state.update(block)
        size = _BLOCK
    return str(state.hexdigest())


def files_below(path: str) -> Iterator[str]:
    """Every entry below ``path`` that is no directory; symbolic links to directories are neither entered nor given."""
    todo = [path]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                elif not entry.is_dir():
                    yield entry.path


def of_tree(path: str, function: str = DEFAULT) -> str:
    """Hex digest of a directory taken as one file."""
    digests = sorted(of_file(name, function) for name in files_below(path))
    state = hasher(function)
    for digest in digests:
        state.update(digest.encode("ascii"))
    return str(state.hexdigest())


def of_path(path: str, function: str = DEFAULT) -> str:
    """The checksum text ``function:::hex`` of a file or of a directory taken as one file."""
    kind = os.stat(path)
    digits = of_tree(path, function) if stat.S_ISDIR(kind.st_mode) else of_file(path, function)
    return f"{function}:::{digits}"


def size_of(path: str) -> int:
    """Bytes of a file, or the sum over everything in a directory; directories themselves count nothing."""
    found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        return found.st_size
    return sum(os.stat(name).st_size for name in files_below(path))
