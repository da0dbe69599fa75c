"""What lies at a path of a store: which kind of thing it is, whether its bytes are the right ones, and all that is in it."""

from __future__ import annotations

import os
import stat

from libtool import copying, digest, names
from libtool.states import FileKind
from libtool.stores.base import Fate, Outcome


def plain(path: str, found: os.stat_result) -> tuple[FileKind, str]:
    """The kind of what a sender delivered, and why it cannot be taken: links and devices never can."""
    if stat.S_ISREG(found.st_mode):
        return FileKind.FILE, ""
    if not stat.S_ISDIR(found.st_mode):
        return FileKind.FILE, "it is neither a file nor a directory"
    for here, directory in copying.walk(path):
        if not directory and not stat.S_ISREG(os.lstat(os.path.join(path, here)).st_mode):
            return FileKind.DIRECTORY, f"'{names.shown(here)}' in it is a link or a special file"
    return FileKind.DIRECTORY, ""


def compare(path: str, kind: FileKind, checksum: str) -> Outcome:
    """Read the bytes with the function of the announced checksum."""
    function, digits = digest.split(checksum)
    if kind is FileKind.DIRECTORY:
        found = digest.of_tree(path, function)
    else:
        found = digest.of_file(path, function, follow=False)
    if found != digits:
        return Outcome(Fate.WRONG, f"its checksum is {function}:::{found} instead of {function}:::{digits}", kind)
    return Outcome(Fate.STORED, kind=kind)


def data_of(path: str, kind: FileKind) -> list[str]:
    """What must be synced so that ``path`` is durable: the file, or everything in the directory."""
    if kind is FileKind.FILE:
        return [path]
    return [path, *(os.path.join(path, here) for here, _ in copying.walk(path))]


def straight(staging: str, directory: str) -> bool:
    """Whether no directory between the staging path and this one in it is a link that a sender put there."""
    return os.path.realpath(directory) == os.path.join(os.path.realpath(staging), directory[len(staging) + 1 :])
