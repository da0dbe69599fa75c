"""Kill it anywhere: whatever ends a command, the next runs come to the same final state."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from libtool.models.tables import File, IncomingTransfer, Instance, OutgoingTransfer, RemoteInstance
from tests import crash
from tests.crash import Counter, Snapshot
from tests.sites import ROUND, Pair, make_pair, make_site, tree

Databases = Callable[[str], "str | None"]


def write_source(top: Path) -> dict[str, bytes]:
    """A few files: empty, deep, odd, and more than one batch of two."""
    source = top / "source"
    (source / "deep/er").mkdir(parents=True)
    (source / "empty").write_bytes(b"")
    (source / "deep/er/one").write_bytes(b"1" * 5000)
    (source / "two\n'").write_bytes(b"2")
    return tree(source)


def template(site_url: str) -> tuple[dict[str, Any], str]:
    parts = urlsplit(site_url)
    return {"host": parse_qs(parts.query)["host"][0], "user": "libtool"}, parts.path.lstrip("/")


def copier(urls: list[str]) -> Callable[[], None]:
    """Keeps a copy of each PostgreSQL database and returns what goes back to it."""
    import psycopg2

    def statements(*lines: str) -> None:
        options, _ = template(urls[0])
        connection = psycopg2.connect(dbname="postgres", **options)
        connection.autocommit = True
        for line in lines:
            connection.cursor().execute(line)
        connection.close()

    databases = [template(url)[1] for url in urls]
    for name in databases:
        statements(f'CREATE DATABASE "{name}_kept" TEMPLATE "{name}"')

    def restore() -> None:
        for name in databases:
            statements(f'DROP DATABASE "{name}" WITH (FORCE)', f'CREATE DATABASE "{name}" TEMPLATE "{name}_kept"')

    return restore


#: One of so many seams is tried; all of them with LIBTOOL_TEST_ALL_SEAMS=1, and in test_crash_matrix.
FEW = 1 if "LIBTOOL_TEST_ALL_SEAMS" in os.environ else 7


def check(pair: Pair, expected: dict[str, bytes], where: str) -> None:
    """Every file exactly once at b, one remote instance at a, nothing staged, nothing live."""
    assert pair.b.stored() == expected, where
    assert pair.a.staged() == pair.b.staged() == [], where
    assert pair.quiet(), where
    with pair.b.open():
        assert sorted(row.name for row in File.select()) == sorted(row.file.name for row in Instance.select()), where
        files = File.select().count()
    with pair.a.open():
        assert RemoteInstance.select().count() == RemoteInstance.select(RemoteInstance.file).distinct().count() == files, where


@pytest.fixture(params=["sqlite", "postgresql"])
def crash_pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Pair, Snapshot, dict[str, bytes], int]]:
    """A pair with files at a, the way back to it, what must be at b in the end, and every how many seams to die at."""
    top = tmp_path / "pair"
    urls: list[str] = []
    databases: Databases = lambda name: None  # noqa: E731
    if request.param == "postgresql":
        make = request.getfixturevalue("postgres")

        def databases(name: str) -> str:
            urls.append(make(f"crash_{name}"))
            return urls[-1]

    pair = make_pair(top, databases)
    expected = write_source(tmp_path)
    pair.a.run(0, "ingest", "--recursive", str(tmp_path / "source"))
    pair.a.run(0, "ingest", str(tmp_path / "source/deep"), "as one")
    expected |= {"as one/er/one": expected["deep/er/one"]}
    pair.a.write(commands={"send-clone": {"destination_librarian": "b", "send_batch_size": 2}})
    yield pair, Snapshot(top, copier(urls) if urls else None), expected, FEW if request.param == "sqlite" else 3 * FEW


def test_a_clone_survives_the_end_of_any_process_at_any_seam(
    crash_pair: tuple[Pair, Snapshot, dict[str, bytes], int], capsys: pytest.CaptureFixture[str]
) -> None:
    pair, snapshot, expected, step = crash_pair
    whole = Counter()
    crash.until_quiet(pair, whole)
    check(pair, expected, "without a crash")
    died = 0
    for fatal in range(1, whole.passed + 1, step):
        snapshot.restore()
        counter = Counter(fatal)
        counter.where = snapshot.kept / "where"
        rounds = crash.until_quiet(pair, counter)
        where = f"seam {fatal}: {counter.where.read_text()}, {rounds} rounds"
        check(pair, expected, where)
        died += 1
    with capsys.disabled():
        print(f"\nclone: ended at {died} of {whole.passed} seams, every time the same final state")
    assert whole.passed > 60


def test_an_ingest_survives_its_end_at_any_seam(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = write_source(tmp_path)
    died = 0
    for words in (("ingest", "--recursive"), ("ingest", "--move", "--recursive")):
        fatal = 0
        while True:
            fatal += 1 if FEW == 1 else 2
            source = tmp_path / f"{len(words)}-{fatal}" / "source"
            write_source(source.parent)
            site = make_site("a", source.parent / "a")
            counter = Counter(fatal)
            code = crash.run(site, (*words, str(source)), counter)
            if code != crash.DIED:
                assert code == 0
                break
            died += 1
            site.run(None, "recv-clone")
            site.run(0, *words, str(source))
            site.run(0, "recv-clone")
            where = f"{words} at seam {fatal}"
            assert site.stored() == expected, where
            assert site.staged() == [], where
            assert tree(source) == ({} if "--move" in words else expected), where
            with site.open():
                assert sorted(row.name for row in File.select()) == sorted(expected), where
                assert not IncomingTransfer.select().where(IncomingTransfer.status < 3).exists(), where
    with capsys.disabled():
        print(f"\ningest: ended at {died} seams, every time the same final state")
    assert died > 5


def test_setup_survives_its_end_at_any_seam(tmp_path: Path) -> None:
    fatal = 0
    while True:
        fatal += 1
        site = make_site("a", tmp_path / str(fatal))
        (tmp_path / str(fatal) / "catalogue.db").unlink()
        if crash.run(site, ("setup",), Counter(fatal)) != crash.DIED:
            break
        site.run(0, "setup")
        assert site.status()["files"] == 0
    assert fatal > 2


def test_a_failing_file_survives_the_end_of_any_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    top = tmp_path / "pair"
    pair = make_pair(top)
    expected = write_source(tmp_path)
    pair.a.run(0, "ingest", "--recursive", str(tmp_path / "source"))
    (pair.a.store / "deep/er/one").write_bytes(b"9" * 5000)  # the same size, other content: only b's reading tells
    (pair.a.store / "empty").unlink()
    del expected["deep/er/one"], expected["empty"]
    snapshot = Snapshot(top)

    def settle(counter: Counter) -> None:
        for _ in range(4):
            for who, command in ROUND:
                crash.run(getattr(pair, who), (command,), counter)

    whole = Counter()
    settle(whole)
    died = 0
    for fatal in range(1, whole.passed + 1, 8 * FEW):  # four rounds each
        snapshot.restore()
        settle(Counter(fatal))
        died += 1
        assert pair.b.stored() == expected, fatal
        with pair.a.open():
            assert RemoteInstance.select().count() == len(expected), fatal
            live = [row.file.name for row in OutgoingTransfer.select().where(OutgoingTransfer.status < 3)]
        assert set(live) <= {"deep/er/one", "empty"}, fatal
    with capsys.disabled():
        print(f"\nfailing files: ended at {died} of {whole.passed} seams")


#: Ends by kill -9; thirty of them by hand, and in CI over everything (test_crash_matrix).
KILLED = 30 if FEW == 1 else 10


def test_kill_9_at_random_moments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = make_pair(tmp_path / "pair")
    pair.a.write(commands={"send-clone": {"destination_librarian": "b", "send_batch_size": 20}})
    source = tmp_path / "source"
    numbers = random.Random(int(os.environ.get("LIBTOOL_TEST_SEED", "1")))
    killed = finished = 0
    while killed < KILLED:
        if pair.quiet():  # nothing left to disturb: more files
            for n in range(60):
                path = source / f"{finished}" / f"{n % 7}" / f"{n}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(bytes([n]) * (n * 137))
            pair.a.run(0, "ingest", "--recursive", str(source / f"{finished}"), f"{finished}")
            pair.a.run(0, "send-clone")
        who, command = numbers.choice(ROUND)
        process = getattr(pair, who).spawn(command, start_new_session=True)
        try:
            process.communicate(timeout=numbers.uniform(0.1, 0.6))
            finished += 1
        except subprocess.TimeoutExpired:
            # Half of the time the callbacks that it started die with it, half of the time they outlive it.
            os.killpg(process.pid, signal.SIGKILL) if numbers.random() < 0.5 else process.kill()
            process.communicate()
            killed += 1
    expected = tree(source)
    deadline = time.monotonic() + 60
    while not pair.quiet() or pair.a.status()["remote_instances"] < len(expected):
        assert time.monotonic() < deadline, (pair.a.status(), pair.b.status())
        pair.round(None)
    check(pair, expected, "after kill -9")
    with capsys.disabled():
        print(f"\nkill -9: {killed} times at random moments, {finished} commands came to their end, {len(expected)} files")
