"""The catalogue's tables: what the migrations make is what the models say, and the queries of each minute use an index."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import peewee
import pytest

from libtool.archive import intake, sending
from libtool.errors import SchemaDiffers
from libtool.models import base, migrations
from libtool.models.tables import TABLES, IncomingTransfer, Librarian, OutgoingTransfer, Store, live, owing
from libtool.states import Owed
from tests.sites import Pair, Site, make_site

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
#: Peewee gives SQLite columns the names of its own types; all of these are kept as SQLite keeps integers.
INTEGERS = {"BIGINT", "SMALLINT", "BOOLEAN", "INTEGER"}


@pytest.fixture
def empty(tmp_path: Path, databases: Callable[[str], str | None]) -> Iterator[Callable[[str], peewee.Database]]:
    """Makes empty databases of each kind."""
    made = []

    def make(name: str) -> peewee.Database:
        url = databases(name) or f"sqlite:///{name}.db"
        database = base.open_database(url, str(tmp_path), create=True)
        made.append(database)
        return database

    yield make
    for database in made:
        if not database.is_closed():
            database.close()


def described(database: peewee.Database) -> dict[str, Any]:
    """Every table with its columns, foreign keys and indexes, spelled in one way."""
    found = {}
    for table in sorted(set(database.get_tables()) - {"schema_version"}):
        found[table] = {
            "columns": _columns(database, table),
            "keys": sorted((key.column, key.dest_table, key.dest_column) for key in database.get_foreign_keys(table)),
            "indexes": _indexes(database, table),
        }
    return found


def _columns(database: peewee.Database, table: str) -> list[Any]:
    """``(name, type, null, default, primary key, collation)`` in the table's order."""
    if base.is_sqlite(database):
        rows = database.execute_sql(f'PRAGMA table_info("{table}")').fetchall()
        return [(name, "INTEGER" if kind in INTEGERS else kind, not required, default, bool(key), None) for _, name, kind, required, default, key in rows]
    sql = """
        SELECT a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
               EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY (i.indkey)),
               (SELECT collname FROM pg_collation c WHERE c.oid = a.attcollation)
        FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
    """
    return [tuple(row) for row in database.execute_sql(sql, (f'"{table}"',)).fetchall()]


def _indexes(database: peewee.Database, table: str) -> list[str]:
    """The definitions of all indexes but the primary key's."""
    if base.is_sqlite(database):
        rows = database.execute_sql("SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL", (table,))
    else:
        rows = database.execute_sql("SELECT indexdef FROM pg_indexes WHERE tablename = %s AND indexname NOT LIKE '%%_pkey'", (table,))
    return sorted(_spelled(sql) for (sql,) in rows.fetchall())


def _spelled(sql: str) -> str:
    """An index's definition without the freedoms of spelling: quotes, the table's own name, spaces, doubled brackets."""
    sql = sql.replace('"', "").replace("IF NOT EXISTS ", "")
    table = re.search(r" ON (\S+)", sql)
    if table is not None:
        sql = sql.replace(f"{table[1]}.", "").replace("main.", "")
    head, _, where = " ".join(sql.split()).partition(" WHERE ")
    return f"{head} WHERE {re.sub(r'[()]', '', where)}" if where else head


def made_by_migrations(database: peewee.Database) -> dict[str, Any]:
    """What the numbered steps make."""
    assert migrations.migrate(database, NOW) == migrations.NEEDED
    return described(database)


def made_by_models(database: peewee.Database) -> dict[str, Any]:
    """What peewee would make from the models."""
    with database.bind_ctx(TABLES, bind_refs=False, bind_backrefs=False):
        database.create_tables(TABLES)
        return described(database)


def test_migrations_make_what_the_models_say(empty: Callable[[str], peewee.Database]) -> None:
    one, other = empty("one"), empty("other")
    migrated, modelled = made_by_migrations(one), made_by_models(other)
    names = {(table._meta.table_name, field.column_name) for table in TABLES for field in table._meta.sorted_fields if isinstance(field, base.NameField)}
    assert names == {("file", "name"), ("incoming_transfer", "name"), ("route_copy", "path"), ("route_directory", "path")}
    if not base.is_sqlite(one):
        # The one thing that peewee cannot say: these columns are compared byte by byte.
        for table, column in names:
            columns = modelled[table]["columns"]
            columns[:] = [(*each[:5], "C") if each[0] == column else each for each in columns]
    assert migrated.keys() == modelled.keys()
    for table in modelled:
        assert migrated[table] == modelled[table], table


def test_what_the_models_need_from_the_database_is_there(empty: Callable[[str], peewee.Database]) -> None:
    """The constraints that the promises stand on, spelled out once more, so that models and migrations cannot forget them together."""
    found = made_by_migrations(empty("one"))
    unique = {line for table in found.values() for line in table["indexes"] if line.startswith("CREATE UNIQUE INDEX")}
    text = "\n".join(sorted(re.sub(r"public\.| USING btree", "", line) for line in unique))
    for wanted in (
        "ON file (name)",
        "ON remote_instance (file_id, librarian_id, store_id)",
        "ON instance (file_id, store_id)",
        "ON outgoing_transfer (file_id, destination_id) WHERE status < 3",
        "ON incoming_transfer (name) WHERE status < 3",
    ):
        assert wanted in text, text


def test_migrating_twice_does_nothing(empty: Callable[[str], peewee.Database]) -> None:
    database = empty("one")
    first = made_by_migrations(database)
    assert migrations.migrate(database, NOW) == 0
    assert described(database) == first
    assert database.execute_sql("SELECT count(*) FROM schema_version").fetchone()[0] == migrations.NEEDED


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_needed_schema_is_the_newest_step(kind: str) -> None:
    numbers = [number for number, _ in migrations.steps(kind)]
    assert numbers == list(range(1, migrations.NEEDED + 1))


def test_both_kinds_have_the_same_steps() -> None:
    one, other = ([Path(path).name.partition(".")[0] for _, path in migrations.steps(kind)] for kind in ("sqlite", "postgresql"))
    assert one == other


@pytest.mark.parametrize(("step", "words"), [(1, "newer"), (-1, "libtool setup")])
def test_another_schema_is_refused(
    tmp_path: Path, databases: Callable[[str], str | None], monkeypatch: pytest.MonkeyPatch, step: int, words: str
) -> None:
    site = make_site("a", tmp_path / "a", databases("a"))
    if step > 0:
        _set_version(site, migrations.NEEDED + 1)
    else:
        # An older one can only be had by needing a newer one, as long as there is just one step.
        monkeypatch.setattr(migrations, "NEEDED", migrations.NEEDED + 1)
    for command in (["status"], ["recv-clone"], ["search-files"]):
        ran = site.run(78, *command)
        assert words in ran.err and "schema" in ran.err and "Traceback" not in ran.err
        assert ran.out == ""
    if step > 0:
        assert "newer" in site.run(78, "setup").err


def _set_version(site: Site, number: int) -> None:
    with site.open() as node:
        node.database.execute_sql(f"INSERT INTO schema_version VALUES ({number}, 0)")


def test_a_differing_schema_says_so(empty: Callable[[str], peewee.Database]) -> None:
    database = empty("one")
    migrations.migrate(database, NOW)
    database.execute_sql(f"INSERT INTO schema_version VALUES ({migrations.NEEDED + 7}, 0)")
    with pytest.raises(SchemaDiffers) as trouble:
        migrations.check(database)
    assert trouble.value.exit_code == 78 and trouble.value.http_status == 503
    assert str(migrations.NEEDED + 7) in trouble.value.text


def test_a_database_without_tables_is_missing_not_empty(tmp_path: Path) -> None:
    """A catalogue that went away must never look like one with nothing in it."""
    site = make_site("a", tmp_path / "a")
    catalogue = site.directory / "catalogue.db"
    for path in site.directory.glob("catalogue.db*"):
        path.unlink()
    assert "find out where its database went" in site.run(78, "status").err
    assert not catalogue.exists()
    sqlite3.connect(catalogue).close()
    shutil.copy(catalogue, tmp_path / "kept")
    assert "find out where its database went" in site.run(78, "send-clone", "--destination-librarian", "b").err


# -- the queries of each minute -----------------------------------------------------------------------------------


class Watched:
    """Keeps every query that is executed on a database."""

    def __init__(self, database: peewee.Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queries: list[tuple[str, Any]] = []
        self.database = database
        execute = database.execute_sql

        def keep(sql: str, params: Any = None, *rest: Any, **more: Any) -> Any:
            self.queries.append((sql, params))
            return execute(sql, params, *rest, **more)

        monkeypatch.setattr(database, "execute_sql", keep)

    def plans(self) -> list[tuple[str, str]]:
        """``(query, plan)`` of each SELECT, UPDATE and DELETE on a table of the catalogue."""
        found = []
        for sql, params in list(self.queries):
            if re.match(r"(SELECT|UPDATE|DELETE|INSERT .*SELECT|WITH)\b", sql, re.DOTALL):
                cursor = self.database.connection().cursor()
                rows = cursor.execute(f"EXPLAIN QUERY PLAN {sql}", params or ()).fetchall()
                found.append((sql, "\n".join(row[3] for row in rows)))
        return found


#: Tables that are small at every librarian: they grow with neighbours, stores, accounts and troubles, not with files.
SMALL = {"librarian", "store", "user", "fault", "schema_version", "given"}
#: Indexes that hold only what is pending (``_ended`` ones hold history, and are never walked whole).
PARTIAL = {
    *("outgoing_live", "outgoing_initiated", "outgoing_owing"),
    *("incoming_live", "incoming_staged", "incoming_reserved", "incoming_owing", "incoming_staging", "incoming_claimed"),
    "sendqueue_waiting",
}


def scans(sql: str, plan: str) -> list[str]:
    """Steps of a plan that read a whole table of those that grow."""
    tables = {alias: table for table, alias in re.findall(r'"(\w+)" AS "(\w+)"', sql)}
    found = []
    for line in plan.splitlines():
        scanned = re.match(r"SCAN (\S+)(.*)", line)
        ranged = re.match(r"SEARCH (\S+) USING INTEGER PRIMARY KEY \(rowid[<>]", line)
        # A range of numbers is the whole table, but for files, where it starts behind those that were considered.
        if ranged is not None and tables.get(ranged[1], ranged[1]) not in SMALL | {"file"}:
            found.append(line)
        if scanned is None or scanned[1] == "CONSTANT" or tables.get(scanned[1], scanned[1]) in SMALL:
            continue
        index = re.search(r"USING (?:COVERING )?INDEX (\w+)", scanned[2])
        # A partial index holds only what is pending; walking all of it is what is wanted.
        if index is None or index[1] not in PARTIAL:
            found.append(line)
    return found


def plan_of(query: Any) -> tuple[str, str]:
    """A query's text, and how SQLite would answer it."""
    sql, params = query.sql()
    rows = base.current().execute_sql(f"EXPLAIN QUERY PLAN {sql}", params).fetchall()
    return sql, "\n".join(row[3] for row in rows)


OUT, IN = OutgoingTransfer, IncomingTransfer
#: What each minute asks → the index that must answer it.
HOT: dict[str, tuple[Callable[[], Any], str]] = {
    "what waits to be staged": (
        lambda: OUT.select().where(OUT.destination == 1, OUT.status == peewee.SQL("0"), OUT.id > 0).order_by(OUT.id).limit(9),
        "outgoing_initiated",
    ),
    "what is staged": (
        lambda: IN.select().where(IN.store == 1, IN.status == peewee.SQL("2"), IN.id > 0, IN.claim.is_null()).order_by(IN.id).limit(9),
        "incoming_staged",
    ),
    "what a destination must be told": (
        lambda: OUT.select(OUT.id).where(OUT.destination == 1, owing(OUT), OUT.owed == Owed.STAGED).order_by(OUT.id).limit(9),
        "outgoing_owing",
    ),
    "whom one must tell": (lambda: OUT.select(OUT.destination).where(owing(OUT)).distinct(), "outgoing_owing"),
    "what a source must be told": (
        lambda: IN.select().where(owing(IN), IN.source == "a", IN.id > 0).order_by(IN.id).limit(9),
        "incoming_owing",
    ),
    "whether a name is under way": (lambda: IN.select().where(IN.name == "x", live(IN)), "incoming_live"),
    "which of these names are under way": (lambda: IN.select().where(IN.name << ["x", "y"], live(IN)), "incoming_live"),
    "whether a file is under way": (lambda: OUT.select().where(OUT.file == 1, OUT.destination == 1, live(OUT)), "outgoing_live"),
    "the files of a queue item": (lambda: OUT.select().where(OUT.queue == 1, live(OUT)).order_by(OUT.id), "outgoing_queue"),
}


@pytest.mark.parametrize("what", HOT)
def test_a_query_of_each_minute_uses_its_index(pair: Pair, what: str) -> None:
    query, index = HOT[what]
    with pair.a.open():
        sql, plan = plan_of(query())
    assert re.search(rf"INDEX {index}\b", plan) and not scans(sql, plan), plan
    assert "TEMP B-TREE FOR ORDER" not in plan, plan


def test_the_tasks_with_nothing_to_do_read_no_whole_table(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every statement that an idle round executes, as the code really spells it."""
    from libtool.archive import learning, shipping
    from libtool.archive.hands import Budget, Tally

    def budget() -> Budget:
        return Budget(60, lambda: 0.0)

    wrong = []
    for site in (pair.a, pair.b):
        with site.open() as node, monkeypatch.context() as patch:
            watched = Watched(node.database, patch)
            tally = Tally()
            if site is pair.a:
                sending.send(node, Librarian.get(Librarian.name == "b"), sending.Wish(), budget(), tally)
                shipping.consume(node, budget(), tally)
                learning.check(node, budget(), tally)
            intake.receive(node, budget(), tally)
            assert tally.idle
            assert len(watched.queries) > 3
            wrong += [(sql, plan) for sql, plan in watched.plans() if scans(sql, plan)]
    assert wrong == []


def test_a_scan_would_be_found(pair: Pair) -> None:
    with pair.a.open():
        assert scans(*plan_of(OUT.select().where(OUT.reason == "x")))
        assert scans(*plan_of(OUT.select().where(OUT.id > 5).order_by(OUT.id)))
        assert not scans(*plan_of(Store.select()))
