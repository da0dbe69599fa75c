"""Real components that a test may need and a machine may lack: used where they are, skipped loudly where not.

``LIBTOOL_TEST_REQUIRE=postgres,rsync,…`` names those that must be there: one that is named and missing fails.
"""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

REQUIRED = set(filter(None, os.environ.get("LIBTOOL_TEST_REQUIRE", "").split(",")))


def missing(component: str, why: str) -> None:
    """Skip the test, or fail it when the component is required."""
    if component in REQUIRED:
        pytest.fail(f"LIBTOOL_TEST_REQUIRE names {component}, but {why}", pytrace=False)
    pytest.skip(f"{component}: {why}")


def program(component: str, *names: str) -> str:
    """The path of a program, also where only root's PATH has it."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    for name in names:
        found = shutil.which(name, path=path)
        if found:
            return found
    missing(component, f"none of {', '.join(names)} is installed")
    raise AssertionError


@contextmanager
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server of our own on a Unix socket; yields the URL up to the database's name."""
    places = sorted(glob.glob("/usr/lib/postgresql/*/bin") + glob.glob("/usr/local/pgsql/bin"))
    binaries = places[-1] if places else os.path.dirname(shutil.which("initdb") or "")
    if not binaries:
        missing("postgres", "no initdb was found")
    try:
        import psycopg2  # noqa: F401
    except ImportError:
        missing("postgres", "its driver is not installed: pip install -e '.[postgres]'")
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    options = {"user": user} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="libtool-postgres-", dir="/tmp") as top:
        if options:
            shutil.chown(top, user)
        data = os.path.join(top, "data")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": top}
        initdb = [f"{binaries}/initdb", "-D", data, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N", "-U", "libtool"]
        subprocess.run(initdb, check=True, **options, **quiet)
        flags = f"-k {top} -c listen_addresses='' -c fsync=off -c max_connections=200"
        control = [f"{binaries}/pg_ctl", "-D", data, "-w", "-o", flags, "-l", os.path.join(top, "log")]
        subprocess.run([*control, "start"], check=True, **options, **quiet)
        try:
            yield f"postgresql://libtool@/{{name}}?host={top}"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=False, **options, **quiet)
