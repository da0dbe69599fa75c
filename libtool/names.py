"""Which names a file may have: one rule for what is ingested here and for what a peer proposes.

A name is a relative POSIX path in UTF-8 that has exactly one spelling, so that it can never lead out of a store or
point at another file's place.
"""

from __future__ import annotations

import re

from libtool.errors import NameRefused

#: Longest path that Linux takes, in bytes, without the closing NUL.
PATH_MAX = 4095
#: Longest part of a path, in bytes.
PART_MAX = 255
#: Most parts of a name: each but the last is a directory that has to be made.
LEVELS = 64
#: What the parts of no name begin with: stores and carriers keep their own marks and half-made copies so.
RESERVED = ".libtool-"


def check(name: str, room: int = PATH_MAX) -> str:
    """Return ``name`` if it may be a file's name, else raise :class:`NameRefused` saying why.

    ``room`` is what the longest prefix that a store puts before a name leaves over, in bytes.
    """
    try:
        length = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        raise NameRefused(name=name, why="it is not UTF-8") from None
    if not name:
        raise NameRefused(name=name, why="it is empty")
    if "\0" in name:
        raise NameRefused(name=name, why="it holds a NUL character")
    if name.startswith("/"):
        raise NameRefused(name=name, why="it is absolute; names are relative to the store")
    if length > room:
        raise NameRefused(name=name, why=f"it has {length} bytes, and the stores leave room for {room}")
    if name.count("/") >= LEVELS:
        raise NameRefused(name=name, why=f"it has more than {LEVELS} levels")
    for part in name.split("/"):
        if part in ("", ".", ".."):
            raise NameRefused(name=name, why="it has an empty, '.' or '..' part")
        if part.startswith(RESERVED):
            raise NameRefused(name=name, why=f"a part of it begins with {RESERVED}, which libtool keeps for itself")
        if len(part) > PART_MAX // 4 and len(part.encode("utf-8")) > PART_MAX:
            raise NameRefused(name=name, why=f"a part of it is longer than {PART_MAX} bytes")
    return name


def shown(name: str) -> str:
    """``name`` on one printable line: control characters, quotes' enemies and non-UTF-8 bytes are escaped."""
    text = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def above(name: str) -> list[str]:
    """The names of all directories that ``name`` lies in, nearest last: ``a/b/c`` → ``["a", "a/b"]``."""
    parts = name.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def is_plain_path(path: str) -> bool:
    """Whether a place that a peer names is absolute and leads nowhere up."""
    return path.startswith("/") and "\0" not in path and not {"", ".", ".."}.intersection(path[1:].split("/"))


def is_uuid(text: object) -> bool:
    """Whether this is an id as Globus gives them to collections and applications, in either case."""
    return isinstance(text, str) and bool(re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text))


def is_librarian_name(text: object) -> bool:
    """Whether this may be a librarian's name, which is also the name of its account at its neighbours."""
    return isinstance(text, str) and bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", text))


def is_ssh_url(url: str) -> bool:
    """Whether this is ``ssh://user@host[:port]``. Both become words of a command line: none may look like an option."""
    place = r"[A-Za-z0-9_][A-Za-z0-9._-]*@([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?/?"
    return bool(re.fullmatch(f"ssh://{place}", url))
