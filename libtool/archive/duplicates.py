"""Copies at neighbours that are recorded twice, in a catalogue that came from elsewhere without the index that forbids it.

Of each group the one that was recorded first stays. The index is made in the same transaction in which the last ones go,
so that none can come in between.
"""

from __future__ import annotations

from typing import Any

from peewee import fn

from libtool.archive.hands import Budget, Tally
from libtool.models.base import among, current, is_sqlite, raw_rows, writing
from libtool.models.tables import RemoteInstance

#: Rows that are removed in one transaction.
PORTION = 10_000
_COPY = (RemoteInstance.file, RemoteInstance.librarian, RemoteInstance.store_id)


def indexed() -> bool:
    """Whether the database itself forbids duplicates."""
    wanted = {field.column_name for field in _COPY}
    found = current().get_indexes(RemoteInstance._meta.table_name)
    return any(index.unique and set(index.columns) == wanted for index in found)


def count() -> int:
    """How many rows say what an older one says."""
    return int(_later().count()) if not indexed() else 0


def _later() -> Any:
    """The ids of all but the oldest row of each group."""
    row = fn.ROW_NUMBER().over(partition_by=list(_COPY), order_by=[RemoteInstance.copy_time, RemoteInstance.id])
    numbered = RemoteInstance.select(RemoteInstance.id, row.alias("n")).alias("numbered")
    return RemoteInstance.select(numbered.c.id).from_(numbered).where(numbered.c.n > 1)


def mend(budget: Budget, tally: Tally) -> None:
    """Remove what is recorded twice, and make the index again; one look at the schema when it is there."""
    if indexed():
        return
    removed = 0
    while True:
        with writing("duplicates removed"):
            if not is_sqlite(current()):
                current().execute_sql('LOCK TABLE "remote_instance" IN SHARE ROW EXCLUSIVE MODE')
            ids = [id for (id,) in raw_rows(_later().limit(PORTION))]
            RemoteInstance.delete().where(among(RemoteInstance.id, ids)).execute()
            removed += len(ids)
            last = len(ids) < PORTION
            if last and not indexed():
                _make_index()
        if last or not budget.left:
            break
    tally.done += removed
    if removed:
        tally.details.append(f"{removed} copies at neighbours were recorded twice; the first record of each is kept")
    if last:
        tally.details.append("the index that forbids such duplicates is made again")


def _make_index() -> None:
    columns = ", ".join(f'"{field.column_name}"' for field in _COPY)
    current().execute_sql(
        f'CREATE UNIQUE INDEX "remote_instance_file_id_librarian_id_store_id" ON "remote_instance" ({columns})'
    )
