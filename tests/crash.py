"""Ending processes at a seam: commands run in forked children, callbacks in children of those, and the n-th seam that
any of them passes is where that process ends, at once and without cleaning up."""

from __future__ import annotations

import io
import mmap
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from libtool import cli, seams
from libtool.commands import callback
from libtool.peers import exec as exec_transport
from libtool.peers.client import Answer
from libtool.peers.exec import ExecTransport, parse_cgi
from tests.sites import ROUND, Pair, Site

DIED = 99


class Counter:
    """A number that all forked processes share: how many seams were passed."""

    def __init__(self, fatal: int = 0) -> None:
        self._memory = mmap.mmap(-1, 8)
        self.fatal = fatal
        self.passed = 0
        self.where = Path(os.devnull)

    @property
    def passed(self) -> int:
        return int.from_bytes(self._memory[:8], "little")

    @passed.setter
    def passed(self, value: int) -> None:
        self._memory[:8] = value.to_bytes(8, "little")

    def watch(self, name: str) -> None:
        """Pass one seam; end this process if it is the fatal one."""
        self.passed += 1
        if self.passed == self.fatal:
            self.where.write_text(name) if self.where != Path(os.devnull) else None
            os._exit(DIED)


def forked_post(self: ExecTransport, path: str, body: bytes, authorization: str | None) -> Answer:
    """What exec:// does, without starting Python anew: the callback runs in a forked child."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        os.environ.update(
            REQUEST_METHOD="POST", SCRIPT_NAME="", PATH_INFO=path, CONTENT_LENGTH=str(len(body)), LIBTOOL_CONFIG=self.config
        )
        if authorization:
            os.environ["HTTP_AUTHORIZATION"] = authorization
        sys.stdin = io.TextIOWrapper(io.BytesIO(body))
        sys.stdout = os.fdopen(write, "w")
        code = 1
        try:
            callback.serve(None)
            code = 0
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        output = stream.read()
    _, status = os.waitpid(child, 0)
    return parse_cgi(output, os.waitstatus_to_exitcode(status))


def run(site: Site, words: tuple[str, ...], counter: Counter) -> int:
    """Run one command in a forked child under the counter's eye; returns its exit code."""
    child = os.fork()
    if not child:
        code = DIED
        try:
            exec_transport.ExecTransport.post = forked_post  # type: ignore[method-assign]
            seams.watch = counter.watch
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            code = cli.run(["--config", site.config, *words])
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def until_quiet(pair: Pair, counter: Counter, most: int = 10) -> int:
    """Rounds of the four commands, two at least, until no row is live or owed; how many that took."""
    for n in range(1, most + 1):
        for who, command in ROUND:
            run(getattr(pair, who), (command,), counter)
        if n > 1 and pair.quiet():  # a first round that died early looks quiet too
            return n
    raise AssertionError(f"not quiet after {most} rounds: {pair.a.status()} {pair.b.status()}")


class Snapshot:
    """A pair as it was, to go back to; SQLite lies in the directories, PostgreSQL is copied from a template."""

    def __init__(self, top: Path, postgres: Callable[..., None] | None = None) -> None:
        self.top, self.kept = top, top.with_name(f"{top.name}.kept")
        shutil.copytree(top, self.kept, symlinks=True)
        self._postgres = postgres

    def restore(self) -> None:
        """Go back."""
        shutil.rmtree(self.top)
        shutil.copytree(self.kept, self.top, symlinks=True)
        if self._postgres is not None:
            self._postgres()


class Snapshots:
    """Librarians as they were at several moments, to go back to any of them; those on PostgreSQL are copied whole."""

    def __init__(self, top: Path, urls: list[str]) -> None:
        self.top, self.urls, self._taken = top, urls, 0

    def take(self) -> int:
        """Keep everything as it is now; the number to come back by."""
        self._taken += 1
        shutil.copytree(self.top, self._kept(self._taken), symlinks=True)
        self._each('CREATE DATABASE "{name}_{n}" TEMPLATE "{name}"', n=self._taken)
        return self._taken

    def restore(self, number: int) -> None:
        """Go back."""
        shutil.rmtree(self.top)
        shutil.copytree(self._kept(number), self.top, symlinks=True)
        self._each('DROP DATABASE "{name}" WITH (FORCE)', 'CREATE DATABASE "{name}" TEMPLATE "{name}_{n}"', n=number)

    def _kept(self, number: int) -> Path:
        return self.top.with_name(f"{self.top.name}.kept{number}")

    def _each(self, *lines: str, n: int) -> None:
        for url in self.urls:
            parts = urlsplit(url)
            import psycopg2

            connection = psycopg2.connect(dbname="postgres", user="libtool", host=parse_qs(parts.query)["host"][0])
            connection.autocommit = True
            for line in lines:
                connection.cursor().execute(line.format(name=parts.path.lstrip("/"), n=n))
            connection.close()
