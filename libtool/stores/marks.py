"""The marks of a store: whose a directory is, so that nothing is missed in, put into or removed from somebody else's.

A directory without its mark is not mounted; one with another mark is another disk, or belongs to another librarian.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn

from libtool import copying
from libtool.errors import StoreUnavailable
from libtool.names import shown
from libtool.seams import seam

#: Lies in both directories of a store that is mounted, and says whose they are.
MARKER = ".libtool-store"


class Marks:
    """Those of one store of one librarian: ``LIBRARIAN/STORE``; without ``owner`` the store alone."""

    def __init__(self, store: str, owner: str) -> None:
        self._store = store
        self._sign = f"{owner}/{store}" if owner else store
        self._seen: dict[str, tuple[int, ...]] = {}

    def set_up(self, directories: Sequence[str], *, known: bool, accepted: bool) -> None:
        """Make the directories and mark them; marks of an older libtool, which named the store alone, are renewed. See
        :meth:`libtool.stores.base.Store.set_up`; nothing is made before all of them were looked at."""
        marks = {directory: self._read(directory) for directory in directories}
        for directory, mark in marks.items():
            if accepted or mark == self._sign or (known and mark is not None and self._older(mark)):
                continue
            if mark is not None:
                self._refuse(directory, mark)
            if known:
                why = "it was used before and has lost its mark, so it is probably not mounted; if it is really to "
                why += f"begin anew, run 'libtool setup --accept-store {self._store}'"
                raise StoreUnavailable(store=self._store, why=why)
        for directory, mark in marks.items():
            try:
                os.makedirs(directory, exist_ok=True)
                if mark != self._sign:
                    self._write(directory)
            except OSError as trouble:
                raise StoreUnavailable(store=self._store, why=f"{directory}: {trouble.strerror}") from None

    def check(self, directory: str) -> None:
        """StoreUnavailable unless it is marked as this store's. The mark is read once, and again when it is not the same
        file any more: this is asked before every copy."""
        try:
            found = copying.identity(os.stat(os.path.join(directory, MARKER)))
        except OSError:
            why = f"{directory} lacks its mark {MARKER}: it is not mounted here, or not set up"
            raise StoreUnavailable(store=self._store, why=why) from None
        if self._seen.get(directory) != found:
            mark = self._read(directory) or ""
            if mark != self._sign and not self._older(mark):
                self._refuse(directory, mark)
            self._seen[directory] = found

    def _write(self, directory: str) -> None:
        """Whole and durable, or not at all."""
        path = os.path.join(directory, MARKER)
        with open(f"{path}.new", "w", encoding="utf-8") as marker:
            marker.write(f"{self._sign}\n")
            marker.flush()
            os.fsync(marker.fileno())
        seam("mark: made")
        os.replace(f"{path}.new", path)
        copying.sync([directory])

    def _read(self, directory: str) -> str | None:
        """What the mark of a directory says; None when there is none."""
        try:
            with open(os.path.join(directory, MARKER), "rb") as marker:
                return marker.read(1000).decode("utf-8", "replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as trouble:
            why = f"{directory}: its mark {MARKER} cannot be read: {trouble.strerror}"
            raise StoreUnavailable(store=self._store, why=why) from None

    def _older(self, mark: str) -> bool:
        """Whether a mark may be ours, from before marks named the librarian; one that was cut short is empty."""
        return mark in (self._store, "")

    def _refuse(self, directory: str, mark: str) -> NoReturn:
        why = f"{directory} is marked as '{shown(mark)}', not as '{self._sign}': another disk is mounted there, or the "
        why += (
            "directory belongs to another store or librarian. Mount the right one, or give each store directories of "
        )
        why += f"its own; if it really is to be this store's, run 'libtool setup --accept-store {self._store}'"
        raise StoreUnavailable(store=self._store, why=why)
