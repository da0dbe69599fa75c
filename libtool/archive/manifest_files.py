"""The file that a manifest travels in: JSON as the reference writes it, with an indent of two.

It is written and read entry by entry, since a disk may hold more files than a list in memory should. What is read came
with a disk from elsewhere: nothing in it is believed, and no entry may be longer than LONGEST.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, TextIO

from libtool import copying
from libtool.errors import FileUnreadable, LockTaken, Refused
from libtool.names import RESERVED
from libtool.peers import messages
from libtool.peers.admin import ManifestEntry
from libtool.seams import seam

#: Characters of the longest entry, and of what is read at once.
LONGEST, BLOCK = 1 << 20, 1 << 18
_FILES = "store_files"
#: The line of an entry's transfer, and that of an entry without one.
_NUMBER = re.compile(rb' *"outgoing_transfer_id": (\d{1,18})\n')
_OVER = b'      "outgoing_transfer_id": -1\n'


def lines(
    librarian: str,
    store: str,
    entries: Iterable[ManifestEntry],
    *,
    as_source: bool = False,
    step: Callable[[int], None] | None = None,
) -> Iterator[str]:
    """The text, entry by entry. ``as_source``: the librarian is named as the source of every file."""
    yield "{\n"
    yield f'  "librarian_name": {_text(librarian)},\n  "store_name": {_text(store)},\n  "{_FILES}": ['
    n = 0
    for n, entry in enumerate(entries, 1):
        if as_source:
            entry.source = librarian
        if step is not None:
            step(1)
        body = json.dumps(messages.plain(entry), indent=2, ensure_ascii=False).replace("\n", "\n    ")
        yield f"{',' if n > 1 else ''}\n    {body}"
    yield "\n  ]\n}\n" if n else "]\n}\n"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def write(path: str, text: Iterable[str], ended: Callable[[int], bool] = lambda number: False) -> None:
    """Write all of it or nothing, durably. A file that is there already is never replaced; one that says the very same
    is as good as a new one. So is one with numbers of transfers that have ``ended`` since."""
    directory, name = os.path.split(os.path.abspath(path))
    part = os.path.join(directory, f"{RESERVED}part.{name}")
    try:
        with _alone(part) as stream:
            stream.writelines(text)
            stream.flush()
            os.fsync(stream.fileno())
            seam("manifest: written")
            _publish(part, path, ended)
            seam("manifest: in place")
            with suppress(FileNotFoundError):
                os.unlink(part)
        copying.sync([directory])
    except OSError as trouble:
        raise FileUnreadable(path=path, why=f"it cannot be written: {trouble.strerror}") from None


@contextmanager
def _alone(part: str) -> Iterator[TextIO]:
    """The file, empty, for one process at a time; it is a fixed one, so that a crash leaves no more than one."""
    with suppress(FileNotFoundError):
        if os.stat(part).st_nlink > 1:  # a run died when it had just published this: what has its name now is good
            os.unlink(part)
    with open(part, "a", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockTaken(lock=part) from None
        held = os.fstat(stream.fileno())
        if held.st_nlink != 1 or not os.path.exists(part) or not os.path.samestat(held, os.stat(part)):
            raise LockTaken(lock=part)  # the one who had it has just ended
        stream.truncate(0)
        yield stream


def _publish(part: str, path: str, ended: Callable[[int], bool]) -> None:
    """Give it its name without replacing anything."""
    try:
        try:
            os.link(part, path)
            return
        except OSError as trouble:
            if trouble.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
        if not os.path.lexists(path):  # a file system without hard links, such as that of many a stick
            os.rename(part, path)
            return
    except FileExistsError:
        pass
    if not _equal(part, path, ended):
        os.unlink(part)
        why = f"'{path}' is there already, and it is not this manifest"
        raise Refused(why=why, how="Name another file, or move that one away.")


def _equal(new: str, old: str, ended: Callable[[int], bool]) -> bool:
    """Whether they say the same, line by line."""
    with open(new, "rb") as here, open(old, "rb") as there:
        one, other = (iter(partial(stream.readline, LONGEST), b"") for stream in (here, there))
        for line, was in itertools.zip_longest(one, other):
            if line != was:
                number = _NUMBER.fullmatch(was or b"") if line == _OVER else None
                if number is None or not ended(int(number[1])):
                    return False
    return True


class Head(NamedTuple):
    """What a manifest says of itself."""

    librarian: str
    store: str
    files: int


def head(path: str) -> Head:
    """Read all of it once: whose it is, and how many files it lists. Raises FileUnreadable unless it is a manifest."""
    librarian = store = None
    count = 0
    for key, value in _members(path):
        if key == "librarian_name":
            librarian = value
        elif key == "store_name":
            store = value
        elif key == _FILES:
            count += 1
    if not isinstance(librarian, str) or not isinstance(store, str):
        raise FileUnreadable(path=path, why="it is no manifest: it does not say of which librarian and store")
    return Head(librarian, store, count)


def entries(path: str) -> Iterator[ManifestEntry | str]:
    """Every entry in order; of one that is none, what is wrong with it."""
    for key, value in _members(path):
        if key == _FILES:
            try:
                entry: ManifestEntry = messages.decode(ManifestEntry, value.encode())
                wrong = next((each for each in _texts(entry) if "\0" in each or len(each) > 4096), None)
                yield entry if wrong is None else "one of its texts is too long or holds a NUL character"
            except ValueError as wrong_entry:
                yield str(wrong_entry)


def _texts(entry: ManifestEntry) -> tuple[str, ...]:
    return (entry.checksum, entry.uploader, entry.source)


def _members(path: str) -> Iterator[tuple[str, Any]]:
    """``(key, value)`` of the object in the file; of ``store_files`` one for each entry, as text."""
    try:
        with open(path, encoding="utf-8-sig") as stream:
            text = _Reader(stream)
            text.expect("{")
            while text.peek() != "}":
                key = text.value()[0]
                text.expect(":")
                if key == _FILES:
                    text.expect("[")
                    while text.peek() != "]":
                        yield _FILES, text.value()[1]
                        text.comma("]")
                    text.expect("]")
                else:
                    yield key, text.value()[0]
                text.comma("}")
            text.expect("}")
            if text.peek():
                raise ValueError("something follows its end")
    except OSError as trouble:
        raise FileUnreadable(path=path, why=str(trouble.strerror)) from None
    except (ValueError, RecursionError) as wrong:
        why = "it is nested too deeply" if isinstance(wrong, RecursionError) else f"it is no manifest: {wrong}"
        raise FileUnreadable(path=path, why=why) from None


class _Reader:
    """JSON values one after the other, with no more of the text in memory than the one at hand."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._buffer, self._at, self._end = stream, "", 0, False
        self._decode = json.JSONDecoder().raw_decode

    def _more(self) -> bool:
        """Read on; False at the end of the file."""
        block = self._stream.read(BLOCK)
        self._buffer, self._at = self._buffer[self._at :] + block, 0
        self._end = self._end or not block
        return bool(block)

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            while self._at < len(self._buffer):
                if self._buffer[self._at] not in " \t\r\n":
                    return self._buffer[self._at]
                self._at += 1
            if not self._more():
                return ""

    def expect(self, sign: str) -> None:
        """The next character must be this one."""
        found = self.peek()
        if found != sign:
            raise ValueError(f"expected '{sign}' and found {found!r}" if found else "it ends too early")
        self._at += 1

    def comma(self, closing: str) -> None:
        """Another member, or the end."""
        if self.peek() != closing:
            self.expect(",")
            if self.peek() == closing:
                raise ValueError("a comma stands before its end")

    def value(self) -> tuple[Any, str]:
        """The next value and its text."""
        self.peek()
        while not self._end and len(self._buffer) - self._at <= LONGEST:
            self._more()
        begin = self._at
        try:
            found, self._at = self._decode(self._buffer, begin)
        except json.JSONDecodeError as wrong:
            raise ValueError(wrong.msg) from None
        if self._at - begin > LONGEST:
            raise ValueError(f"a part of it is longer than {LONGEST} characters")
        return found, self._buffer[begin : self._at]
