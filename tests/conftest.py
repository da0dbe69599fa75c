"""Fixtures: databases of both kinds, and pairs of librarians on them."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import peewee  # noqa: F401  here, before a command for SQLite imports it without the PostgreSQL driver
import pytest

from libtool.archive import accounts
from libtool.node import Node
from libtool.peers import exec as exec_transport
from tests.components import postgres_server
from tests.forks import forks
from tests.globus_service import GlobusService
from tests.route_bench import Bench
from tests.sites import Pair, make_pair

_count = itertools.count()


@pytest.fixture(scope="session")
def callbacks() -> Iterator[tuple[str, ...]]:
    """The command that answers a request over exec:// to a command in this process."""
    with forks() as command:
        yield command


@pytest.fixture(autouse=True)
def _own_world(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, callbacks: tuple[str, ...]
) -> None:
    """No test sees this user's configuration, secrets or terminal settings."""
    monkeypatch.setattr(exec_transport, "COMMAND", callbacks)
    for name in list(os.environ):
        if name.startswith(("LIBTOOL_", "HTTP_", "XDG_", "REQUEST_", "GLOBUS_")) and not name.startswith("LIBTOOL_TEST"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.getbasetemp()))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(accounts, "GUESS_SECONDS", 0.0)  # in this process; one test shows what it is for


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[str], str]]:
    """Makes an empty PostgreSQL database and returns its URL."""
    with postgres_server() as template:

        def make(name: str) -> str:
            import psycopg2

            name = f"{name}_{os.getpid()}_{next(_count)}"
            host = template.partition("host=")[2]
            connection = psycopg2.connect(dbname="postgres", user="libtool", host=host)
            connection.autocommit = True
            connection.cursor().execute(f'CREATE DATABASE "{name}"')
            connection.close()
            return template.format(name=name)

        yield make


@pytest.fixture(params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest) -> Callable[[str], str | None]:
    """For each kind of database: name → URL (None: the default, SQLite beside the configuration)."""
    if request.param == "sqlite":
        return lambda name: None
    make: Callable[[str], str] = request.getfixturevalue("postgres")
    return make


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """Two librarians on SQLite that know each other."""
    return make_pair(tmp_path)


@pytest.fixture
def any_pair(tmp_path: Path, databases: Callable[[str], str | None]) -> Pair:
    """Two librarians on each kind of database."""
    return make_pair(tmp_path, databases)


@pytest.fixture
def globus(monkeypatch: pytest.MonkeyPatch) -> Iterator[GlobusService]:
    """Globus on this machine, found by the SDK through its own environment variables."""
    with GlobusService() as service:
        for name, value in service.environment().items():
            monkeypatch.setenv(name, value)
        yield service


@pytest.fixture
def clock(globus: GlobusService, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the time of the service and of the librarians in this process by seconds."""
    monkeypatch.setattr(Node, "now", lambda self: globus.now)
    return globus.advance


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is such a thing: a process that ends loses nothing that it wrote, synced or not."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(params=["local", "remote"])
def where(request: pytest.FixtureRequest) -> str:
    """Where the source of a route is: on the node's host, or behind a collection."""
    return str(request.param)


@pytest.fixture
def bench(top: Path, globus: GlobusService, clock: Callable[[float], None], where: str) -> Bench:
    """A route with some files at its source; time stands still but for the test."""
    made = Bench(top / "bench", globus, where)
    made.fill()
    return made
