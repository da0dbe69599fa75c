"""Room in several stores at once: which of them takes the next file."""

from __future__ import annotations

from libtool.archive import places
from libtool.models.tables import Store as StoreRow
from libtool.stores.base import Store


class Rooms:
    """What stores have room for, in the order in which they are to be filled, while files are given out among them.

    Look and promise in one transaction: what others write down in between is not seen.
    """

    def __init__(self, stores: list[tuple[StoreRow, Store]]) -> None:
        self._stores = stores
        self._free = [places.room(row, store) for row, store in stores]
        self.full: list[StoreRow] = []  #: had no room for a file that they were asked for

    def take(self, size: int) -> tuple[StoreRow, Store] | None:
        """The first store that has room for a file of this size, which is promised to it; None when no one has."""
        for n, (row, store) in enumerate(self._stores):
            if size < self._free[n]:
                self._free[n] -= size
                return row, store
            if row not in self.full:
                self.full.append(row)
        return None
