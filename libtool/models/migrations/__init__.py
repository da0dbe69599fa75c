"""Numbered migrations: frozen SQL, one file per step and kind of database, each run in one transaction.

``NNNN_word.sqlite.sql`` and ``NNNN_word.postgresql.sql``; the highest number is the schema that this libtool needs.
A step that has been released is never edited. The tests compare what the steps make with what the models say.
"""

from __future__ import annotations

import os
from datetime import datetime

import peewee

from libtool import units
from libtool.errors import DatabaseMissing, SchemaDiffers
from libtool.models.base import is_sqlite, shown
from libtool.seams import seam

_HERE = os.path.dirname(__file__)
#: The schema that this libtool needs: the number of the newest step. A test compares it with the files.
NEEDED = 5


def steps(kind: str) -> list[tuple[int, str]]:
    """``(number, path)`` of every step for ``sqlite`` or ``postgresql``, in order."""
    names = sorted(name for name in os.listdir(_HERE) if name.endswith(f".{kind}.sql"))
    return [(int(name[:4]), os.path.join(_HERE, name)) for name in names]


def version(database: peewee.Database) -> int:
    """The number of the last step that was applied; 0 for a database without a catalogue."""
    try:
        row = database.execute_sql("SELECT max(version) FROM schema_version").fetchone()
    except (peewee.OperationalError, peewee.ProgrammingError) as trouble:
        if "schema_version" in str(trouble):
            return 0
        raise
    return int(row[0] or 0)


def check(database: peewee.Database) -> None:
    """Raise unless the catalogue has just the schema that this libtool needs."""
    found = version(database)
    if found == NEEDED:
        return
    if not found:
        raise DatabaseMissing(database=shown(database))
    how = (
        "Run 'libtool setup' to bring it up to date."
        if found < NEEDED
        else "Use the newer libtool that wrote it, or restore the older database."
    )
    raise SchemaDiffers(database=shown(database), found=found, needed=NEEDED, how=how)


def migrate(database: peewee.Database, now: datetime) -> int:
    """Apply what is missing and return how many steps that was; safe to repeat, and to end at any point."""
    found, applied = version(database), 0
    if found > NEEDED:
        check(database)
    kind = "sqlite" if is_sqlite(database) else "postgresql"
    with database.atomic("IMMEDIATE") if is_sqlite(database) else database.atomic():
        database.execute_sql(
            "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL PRIMARY KEY, applied BIGINT NOT NULL)"
        )
    for number, path in steps(kind):
        if number <= found:
            continue
        seam(f"migration {number}: begin")
        with database.atomic("IMMEDIATE") if is_sqlite(database) else database.atomic():
            with open(path, encoding="utf-8") as lines:
                text = "".join(line for line in lines if not line.startswith("--"))
            for statement in filter(None, map(str.strip, text.split(";\n"))):
                database.execute_sql(statement.rstrip(";"))
            database.execute_sql(
                f"INSERT INTO schema_version VALUES ({number}, {units.to_microseconds(now)})",
            )
        seam(f"migration {number}: committed")
        applied += 1
    return applied
