"""What starting a command costs: counted in modules, since times vary and modules do not."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.globus_pair import items, make_globus_pair
from tests.globus_service import GlobusService
from tests.sites import Pair, Site

#: Each of these takes 20 to 120 ms to import; a crontab starts four commands a minute, and a peer one per request.
HEAVY = {"requests", "rich", "keyring", "globus_sdk"}


#: Runs a module as ``python -m`` would, and leaves the names of all that was imported by the end.
_WATCH = """
import atexit, os, runpy, sys
def leave():
    open(os.environ["MODULES"], "w").write("\\n".join(sorted(sys.modules)))
def end(code, really=os._exit):  # how commands end: at once, without atexit
    leave()
    really(code)
atexit.register(leave)
os._exit = end
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def imported(
    modules: Path, module: str, *words: str, **environment: str
) -> tuple[set[str], subprocess.CompletedProcess[bytes]]:
    """Run a module with these words; return every module that was there at its end, and what it did."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    listed = modules / "modules"
    listed.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", _WATCH, module, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env={**kept, "MODULES": str(listed), **environment},
        timeout=120,
    )
    assert listed.exists(), done
    return set(listed.read_text().split()), done


def loaded(names: set[str], wanted: set[str]) -> set[str]:
    """Which of the wanted packages are among the modules."""
    return {name for name in wanted if any(each == name or each.startswith(f"{name}.") for each in names)}


def ping(site: Site, *words: str, path: str = "ping", authorization: str = "x:y") -> set[str]:
    """The modules of one callback that answers a ping."""
    names, done = imported(
        site.directory,
        *words,
        LIBTOOL_CONFIG=site.config,
        REQUEST_METHOD="POST",
        SCRIPT_NAME="/api/v2",
        PATH_INFO=f"/{path}",
        HTTP_AUTHORIZATION="Basic " + base64.b64encode(authorization.encode()).decode(),
    )
    assert done.stdout.startswith(b"Status: 200 OK\r\n"), done
    assert json.loads(done.stdout.partition(b"\r\n\r\n")[2])
    return names


@pytest.mark.parametrize(
    "words",
    [
        ("libtool.commands.callback",),  # what the script libtool-callback starts
        ("libtool", "callback"),
    ],
)
def test_a_callback_starts_light(pair: Pair, words: tuple[str, ...]) -> None:
    names = ping(pair.b, *words)
    assert "peewee" in names  # so the request came as far as the catalogue
    assert loaded(names, HEAVY | {"click", "msgspec", "cryptography"}) == set()


def test_a_callback_that_knows_its_caller_starts_light(pair: Pair) -> None:
    password = pair.b.run(0, "create-user", "--username", "someone", "--auth-level", "READONLY").out.strip()
    names = ping(pair.b, "libtool", "callback", path="ping/logged", authorization=f"someone:{password}")
    assert loaded(names, HEAVY | {"click"}) == set()


def test_help_imports_no_command(tmp_path: Path) -> None:
    names, done = imported(tmp_path, "libtool", "--help")
    assert done.returncode == 0 and b"send-clone" in done.stdout
    assert loaded(names, HEAVY | {"peewee", "yaml", "msgspec", "cryptography", "psycopg2", "libtool.models", "libtool.archive"}) == set()
    assert {name for name in names if name.startswith("libtool.commands.")} == {"libtool.commands.words"}


def test_completion_imports_no_command(tmp_path: Path) -> None:
    names, done = imported(tmp_path, "libtool", _LIBTOOL_COMPLETE="bash_complete", COMP_WORDS="libtool s", COMP_CWORD="1")
    assert {name for name in names if name.startswith("libtool.commands.")} <= {"libtool.commands.words"}, done


@pytest.mark.parametrize("command", ["status", "consume-queue", "check-consumed-queue", "recv-clone", "send-clone"])
def test_a_command_imports_no_more_than_it_needs(pair: Pair, command: str) -> None:
    """With nothing to do there is nobody to ask, so the libraries that talk to others are not needed."""
    names, done = imported(pair.a.directory, "libtool", "--config", pair.a.config, command)
    assert done.returncode == 0
    assert loaded(names, HEAVY) == set()


DRIVERS = {"psycopg2", "psycopg2cffi", "psycopg", "pymysql", "MySQLdb"}


def test_a_callback_on_sqlite_imports_no_other_driver(pair: Pair) -> None:
    """peewee imports all that are installed, 25 to 110 ms each; ``models/drivers.py`` keeps it from doing so."""
    assert loaded(ping(pair.b, "libtool", "callback"), DRIVERS) == set()


def test_a_task_on_sqlite_imports_no_other_driver(pair: Pair) -> None:
    names, _ = imported(pair.a.directory, "libtool", "--config", pair.a.config, "recv-clone")
    assert "peewee" in names
    assert loaded(names, DRIVERS) == set()


@pytest.mark.parametrize("command", ["send-clone", "consume-queue", "check-consumed-queue", "status"])
def test_globus_is_not_imported_when_there_is_nothing_to_ask_it(tmp_path: Path, globus: GlobusService, command: str) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus)
    names, done = imported(pair.a.directory, "libtool", "--config", pair.a.config, command)
    assert done.returncode == 0
    assert loaded(names, HEAVY) == set()


def test_choosing_globus_for_files_does_not_import_it(tmp_path: Path, globus: GlobusService) -> None:
    """What is asked of Globus is asked when the queue is consumed."""
    pair = make_globus_pair(tmp_path / "pair", globus)
    pair.ingest({"f": b"x"}, tmp_path / "source")
    names, done = imported(pair.a.directory, "libtool", "--config", pair.a.config, "send-clone")
    assert done.returncode == 0 and items(pair) == 1
    assert loaded(names, {"globus_sdk", "rich", "keyring"}) == set()
