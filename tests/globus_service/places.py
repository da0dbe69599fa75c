"""Paths of collections and the real files behind them."""

from __future__ import annotations

import errno
import grp
import hashlib
import os
import pwd
import stat
from datetime import datetime, timezone
from typing import Any

from tests.globus_service.world import Collection, World

SOURCE, DESTINATION = "source", "destination"
_CODES = {
    errno.ENOENT: "FILE_NOT_FOUND",
    errno.EACCES: "PERMISSION_DENIED",
    errno.EPERM: "PERMISSION_DENIED",
    errno.EROFS: "PERMISSION_DENIED",
    errno.ENOSPC: "NO_SPACE_LEFT",
    errno.EDQUOT: "QUOTA_EXCEEDED",
    errno.ENOTDIR: "NOT_A_DIRECTORY",
    errno.EISDIR: "IS_A_DIRECTORY",
    errno.ENAMETOOLONG: "INVALID_PATH_NAME",
    errno.ELOOP: "INVALID_SYMLINK",
    errno.EEXIST: "EXISTS",
    errno.ENOTEMPTY: "EXISTS",
}


class Trouble(Exception):
    """Something about a file or collection went wrong."""

    def __init__(self, code: str, side: str, details: str) -> None:
        super().__init__(f"{code}: {details}")
        self.code, self.side, self.details = code, side, details

    @classmethod
    def of(cls, error: OSError, side: str) -> Trouble:
        """What the operating system said."""
        return cls(_CODES.get(error.errno or 0, "UNKNOWN"), side, str(error))


def to_bytes(path: str) -> bytes:
    """A path of the API as the file system has it; U+FFFD marks a name that was no UTF-8."""
    parts = []
    for part in path.split("/"):
        if part.startswith("\ufffd"):
            parts.append(part[1:].encode("latin-1", "replace"))
        else:
            parts.append(part.encode("utf-8", "surrogateescape"))
    return b"/".join(parts)


def to_text(name: bytes) -> str:
    """The name of a file as the API has it."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return "\ufffd" + name.decode("latin-1")


def locate(world: World, collection: Collection, path: str, side: str, follow: bool = True) -> bytes:
    """The real path; nothing outside the collection's root can be reached, not by links either."""
    try:
        wanted = to_bytes(world.absolute(collection, path)).strip(b"/")
    except UnicodeEncodeError as error:
        raise Trouble("INVALID_PATH_NAME", side, str(error)) from None
    if b"\0" in wanted or b"\r\n" in wanted:
        raise Trouble("INVALID_PATH_NAME", side, "This is no name of a file")
    root = os.path.realpath(os.fsencode(collection.root))
    whole = os.path.join(root, wanted)
    real = os.path.realpath(whole)
    if not follow:
        # The last part is meant itself, even when it is a link.
        real = os.path.join(os.path.realpath(os.path.dirname(whole)), os.path.basename(whole)) if wanted else root
    inside = real == root or real.startswith(root.rstrip(b"/") + b"/")
    if b".." in wanted.split(b"/") or not inside:
        raise Trouble("PERMISSION_DENIED", side, f"Path not allowed: {path}")
    return real


def digest(path: bytes, algorithm: str = "MD5") -> str:
    """The checksum of a file."""
    found = hashlib.new(algorithm.replace("-", "").lower())
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()


def described(path: bytes, name: str) -> dict[str, Any]:
    """The file document; a link is shown as what it leads to."""
    own = os.lstat(path)
    link = stat.S_ISLNK(own.st_mode)
    try:
        seen = os.stat(path)
    except OSError:
        seen = own
    found: dict[str, Any] = {
        "DATA_TYPE": "file",
        "name": name,
        "type": _kind(seen.st_mode),
        "link_target": to_text(os.readlink(path)) if link else None,
    }
    for prefix, status in (("", seen), ("link_", own if link else None)):
        found[f"{prefix}size"] = status and status.st_size
        found[f"{prefix}last_modified"] = status and _moment(status.st_mtime)
        found[f"{prefix}user"] = status and _owner(status.st_uid)
        found[f"{prefix}group"] = status and _group(status.st_gid)
    found["permissions"] = f"{stat.S_IMODE(seen.st_mode):04o}"
    return found


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds // 1), timezone.utc).isoformat(sep=" ")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "dir",
        stat.S_IFREG: "file",
        stat.S_IFLNK: "invalid_symlink",
        stat.S_IFCHR: "chr",
        stat.S_IFBLK: "blk",
        stat.S_IFIFO: "pipe",
    }
    return kinds.get(stat.S_IFMT(mode), "other")


def _owner(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
