"""What a configuration file said when it was last parsed, kept as JSON beside it.

Parsing YAML takes longer than everything else that a callback does before it looks at the database. The copy is only
believed while the file has the same time, size and inode, and only when nobody else could have written it; where it
cannot be written (a read-only directory), every start parses, and nothing else changes.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from typing import Any


def _place(file: str) -> str:
    directory, name = os.path.split(os.path.abspath(file))
    return os.path.join(directory, f".{name}.parsed")


def _version(file: str) -> list[int]:
    found = os.stat(file)
    return [found.st_mtime_ns, found.st_size, found.st_ino]


def recall(file: str) -> Any:
    """What the file says, if that is known without parsing it; else None."""
    try:
        descriptor = os.open(_place(file), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            found = os.fstat(descriptor)
            trusted = found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o022
            kept = json.loads(stream.read()) if trusted else {}
        return kept["given"] if kept.get("version") == _version(file) else None
    except (OSError, ValueError, KeyError, AttributeError):
        return None


def keep(file: str, given: Any) -> None:
    """Keep what the file says; it was checked, so it holds no secret."""
    with suppress(OSError, TypeError, ValueError):
        text = json.dumps({"version": _version(file), "given": given})
        place = _place(file)
        part = f"{place}.{os.getpid()}"
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
        os.replace(part, place)
