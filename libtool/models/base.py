"""The database: how it is opened, how a transaction is marked, and the kinds of column that all tables share."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import IntEnum
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import peewee

from libtool import units
from libtool.errors import ConfigurationError, DatabaseBusy, DatabaseMissing, DatabaseRuined
from libtool.seams import seam

#: How long a writer waits for another one before the database counts as busy, in seconds.
BUSY_SECONDS = 30.0

#: Parameters in one statement: SQLite keeps some hundred bytes for each while it parses.
PARAMETERS = 2000

Busy = (peewee.OperationalError, peewee.InterfaceError, peewee.InternalError)


class TimeField(peewee.BigIntegerField):
    """An aware UTC time, kept as microseconds since 1970: exact, sortable, free of zones on every database."""

    def db_value(self, value: datetime | None) -> int | None:
        """Microseconds; a naive time raises ValueError."""
        return units.to_microseconds(value) if isinstance(value, datetime) else value

    def python_value(self, value: int | None) -> datetime | None:
        """An aware time."""
        return None if value is None else units.from_microseconds(value)


E = TypeVar("E", bound=IntEnum)


class EnumField(peewee.SmallIntegerField):
    """A member of an IntEnum, kept as its number."""

    def __init__(self, kind: type[IntEnum], **options: Any) -> None:
        self.kind = kind
        super().__init__(**options)

    def python_value(self, value: int | None) -> IntEnum | None:
        """The member; a number that this libtool does not know stays an error, never a guess."""
        return None if value is None else self.kind(value)


class NameField(peewee.TextField):
    """Text that is compared byte by byte on both databases, so that ``a/`` < name < ``a0`` finds what lies in ``a``.

    SQLite does so by itself; on PostgreSQL the column is made with ``COLLATE "C"`` (see the migrations).
    """


class Record(peewee.Model):
    """A row; which database it lies in is settled by :func:`bound` for the time that a node is open."""

    class Meta:
        legacy_table_names = False


def is_sqlite(database: peewee.Database) -> bool:
    """Whether the catalogue is a SQLite file."""
    return isinstance(database, peewee.SqliteDatabase)


def longest_name(database: peewee.Database) -> int:
    """Bytes of the longest name that an index takes: PostgreSQL's end at a third of a page."""
    return 4095 if is_sqlite(database) else 2600


#: The databases of the nodes that are open, the innermost last.
_open: list[peewee.Database] = []


def current() -> peewee.Database:
    """The database of the node that is open now."""
    return _open[-1]


@contextmanager
def writing(what: str) -> Iterator[None]:
    """One short transaction that writes; ``what`` names it in the seams before and after its commit.

    On SQLite it takes the write lock at once, so that nothing read inside can be stale when it is written.
    """
    database = current()
    seam(f"{what}: begin")
    try:
        with database.atomic("IMMEDIATE") if is_sqlite(database) else database.atomic():
            yield
            seam(f"{what}: before commit")
    except Busy as trouble:
        if not is_passing(trouble):
            raise
        raise DatabaseBusy(database=shown(database), why=_first_line(trouble)) from trouble
    seam(f"{what}: committed")


def birth() -> str:
    """What tells this database from all others, and stays when it is restored: the moment of its making, in letters."""
    (made,) = current().execute_sql("SELECT min(applied) FROM schema_version").fetchone()
    return f"{int(made):x}"


def serialise(key: int) -> None:
    """Let no other transaction that asks for the same ``key`` run beside this one (PostgreSQL; SQLite has one writer)."""
    database = current()
    if not is_sqlite(database):
        database.execute_sql("SELECT pg_advisory_xact_lock(%s)", (key,))


def shown(database: peewee.Database) -> str:
    """The database's name without any secret."""
    return str(database.database)


def is_passing(trouble: BaseException) -> bool:
    """Whether a database error is about the database's state (locked, full, gone) and not about what was asked."""
    text = str(trouble).lower()
    if isinstance(trouble, peewee.OperationalError) and any(
        word in text for word in ("no such", "ambiguous", "syntax")
    ):
        return False
    return isinstance(trouble, Busy)


def _first_line(trouble: BaseException) -> str:
    return (str(trouble).strip().splitlines() or [type(trouble).__name__])[0]


def sqlite_path(url: str, beside: str) -> str | None:
    """The file that a ``sqlite:`` URL names, absolute; None for other URLs."""
    if not url.startswith("sqlite:"):
        return None
    path = unquote(url.removeprefix("sqlite:").removeprefix("//").removeprefix("/"))
    return os.path.normpath(os.path.join(beside, path))


def open_database(
    url: str, beside: str, password: str | None = None, *, create: bool = False, busy: float | None = None
) -> peewee.Database:
    """Connect to the catalogue named by ``url``; relative SQLite paths start at the directory ``beside``. ``busy`` is
    a shorter time than BUSY_SECONDS.

    Raises DatabaseMissing when it is not there (unless ``create``), DatabaseBusy when it cannot be used now.
    """
    path = sqlite_path(url, beside)
    if path is not None:
        if not create and not os.path.exists(path):
            raise DatabaseMissing(database=path)
        database: peewee.Database = peewee.SqliteDatabase(
            path,
            timeout=BUSY_SECONDS if busy is None else min(busy, BUSY_SECONDS),
            # FULL: what is committed before an act must be there after a power cut.
            # A small cache: a run touches what is pending, and memory shall not follow the size of the catalogue.
            pragmas={"journal_mode": "wal", "foreign_keys": 1, "synchronous": 2, "cache_size": -500},
        )
    else:
        database = _postgres(url, password)
    try:
        database.connect()
        return database
    except peewee.ImproperlyConfigured:
        why = "PostgreSQL needs its driver: pip install 'libtool[postgres]'"
        raise ConfigurationError(file="the configuration", key="database", why=why) from None
    except peewee.OperationalError as trouble:
        if "does not exist" in str(trouble):
            raise DatabaseMissing(database=shown(database)) from trouble
        raise DatabaseBusy(database=shown(database), why=_first_line(trouble)) from trouble


@contextmanager
def sound(url: str, beside: str) -> Iterator[None]:
    """Let a file that is no database, or no longer one, be named as such while it is opened."""
    try:
        yield
    except peewee.DatabaseError as trouble:
        if type(trouble) is not peewee.DatabaseError:  # its kinds speak of a state or of a fault, not of damage
            raise
        place = sqlite_path(url, beside) or "of the configuration"
        raise DatabaseRuined(database=place, why=str(trouble)) from trouble


def _postgres(url: str, password: str | None) -> peewee.Database:
    parts = urlsplit(url)
    options: dict[str, Any] = {"user": parts.username and unquote(parts.username)}
    options |= {"host": parts.hostname and unquote(parts.hostname), "port": parts.port, "password": password}
    for pair in filter(None, parts.query.split("&")):
        key, _, value = pair.partition("=")
        options[key] = unquote(value)
    options = {key: value for key, value in options.items() if value is not None}
    name = unquote(parts.path.lstrip("/"))
    return peewee.PostgresqlDatabase(name, connect_timeout=10, application_name="libtool", **options)


@contextmanager
def bound(database: peewee.Database, tables: list[type[Record]]) -> Iterator[peewee.Database]:
    """Let the ``tables`` lie in ``database`` for the time of the block, and close it afterwards."""
    with database.bind_ctx(tables, bind_refs=False, bind_backrefs=False):
        _open.append(database)
        try:
            yield database
        finally:
            _open.remove(database)
            database.close()


def update_many(table: type[Record], columns: list[str], rows: list[tuple[Any, ...]], only: str = "true") -> None:
    """Give each row its own values with one statement: ``columns`` are database names, the first is the key;
    rows for which the SQL condition ``only`` does not hold are left alone.

    ``UPDATE … FROM (VALUES …)``, which both databases have; pieces stay far below SQLite's limit of parameters.
    """
    database = current()
    mark = database.param
    name = table._meta.table_name
    one = "(" + ", ".join([mark] * len(columns)) + ")"
    sets = ", ".join(f'"{column}" = given."{column}"' for column in columns[1:])
    names = ", ".join(f'"{column}"' for column in columns)
    piece = PARAMETERS // len(columns)
    for start in range(0, len(rows), piece):
        part = rows[start : start + piece]
        database.execute_sql(
            f"WITH given ({names}) AS (VALUES {', '.join([one] * len(part))}) "
            f'UPDATE "{name}" SET {sets} FROM given WHERE "{name}"."{columns[0]}" = given."{columns[0]}" AND {only}',
            [value for row in part for value in row],
        )


def insert_rows(table: type[Record], columns: list[str], rows: list[tuple[Any, ...]], *, known: bool = False) -> None:
    """Insert many rows with as few statements as possible; ``columns`` are database names, values are as stored.
    ``known``: some may be there already, and those stay as they are."""
    database = current()
    one = "(" + ", ".join([database.param] * len(columns)) + ")"
    names = ", ".join(f'"{column}"' for column in columns)
    piece = PARAMETERS // len(columns)
    for start in range(0, len(rows), piece):
        part = rows[start : start + piece]
        rest = " ON CONFLICT DO NOTHING" if known else ""
        database.execute_sql(
            f'INSERT INTO "{table._meta.table_name}" ({names}) VALUES {", ".join([one] * len(part))}{rest}',
            [value for row in part for value in row],
        )


def among(field: peewee.Field, values: Iterable[Any]) -> peewee.Expression:
    """The condition that ``field`` is one of ``values``, however many: they travel as one parameter.

    A parameter of its own for each costs several microseconds in Python, which is most of the cost of a batch.
    """
    database = current()
    if is_sqlite(database):
        return field << peewee.SQL("(SELECT value FROM json_each(?))", [json.dumps(list(values))])
    return peewee.Expression(field, "=", peewee.SQL("ANY(%s)", [list(values)]))


def raw_rows(query: peewee.Query) -> Iterator[tuple[Any, ...]]:
    """The rows of a query as the driver gives them: no models, no converters; numbers for enums and times."""
    sql, parameters = query.sql()
    yield from current().execute_sql(sql, parameters)
