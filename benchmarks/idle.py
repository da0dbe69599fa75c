"""What libtool costs while there is nothing to do.

First ``send-clone`` on a catalogue of N files that are all cloned, beside the same on an empty catalogue. Then
``libtool-callback`` answering ``ping/``, beside a bare process that imports peewee and opens the same database. All are
real processes, taking turns; medians are compared. See README.rst.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import os
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable

import pair

SEND_GOAL, PING_GOAL = 1.2, 1.5
#: Drivers that peewee imports when it finds them.
DRIVERS = ("psycopg", "psycopg2", "psycopg2cffi", "pymysql", "MySQLdb")
#: The bare process: import, open, look.
BARE = """
{}import peewee
database = peewee.SqliteDatabase({!r})
database.connect()
database.execute_sql("SELECT max(version) FROM schema_version").fetchone()
database.close()
"""
#: N cloned files: their rows as the four commands leave them, spread over the last year. One transfer in one batch of 1000.
FILL = """
INSERT INTO file (id, name, kind, size, checksum, uploader, source, create_time)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :files)
SELECT i, printf('%03d/%05d/file-%07d.dat', i / 10000, i / 100, i), :kind, 4096,
       printf('xxh3:::%016x%016x', i * 2654435761, i * 40503), 'somebody', 'a',
       :begin + (:now - :begin) / :files * i FROM n;
INSERT INTO instance (id, file_id, store_id, available, deletion_policy, create_time, verified_time)
SELECT id, id, (SELECT min(id) FROM store), 1, 1, create_time, create_time FROM file;
INSERT INTO send_queue (id, destination_id, status, mover, provider, ticket, retries, create_time, submit_time, end_time,
       files, size, report)
SELECT id / 1000, (SELECT min(id) FROM librarian), 3, 'local', '{}', '{}', 0, create_time, create_time, create_time,
       1000, 4096000, '{}' FROM file WHERE id % 1000 = 0;
INSERT INTO outgoing_transfer (id, file_id, destination_id, status, owed, store_id, remote_id, staging_location, queue_id,
       create_time, end_time)
SELECT id, id, (SELECT min(id) FROM librarian), :completed, 0, (SELECT min(id) FROM store), id,
       printf('/staging/%032x/%s', id / 1000, name), (SELECT q.id FROM send_queue q WHERE q.id = file.id / 1000),
       create_time, create_time FROM file;
INSERT INTO remote_instance (id, file_id, librarian_id, store_id, copy_time)
SELECT id, id, (SELECT min(id) FROM librarian), 1, create_time FROM file;
"""


def fill(site: pair.Librarian, files: int) -> None:
    """Give a librarian's catalogue ``files`` files that are all at its destination."""
    now = int(time.time() * 1_000_000)
    values = {"files": files, "now": now, "begin": now - 365 * 86400 * 1_000_000, "kind": 0, "completed": 3}
    database = sqlite3.connect(site.catalogue)
    database.execute("PRAGMA synchronous = 0")
    database.execute("PRAGMA cache_size = -400000")
    for statement in filter(str.strip, FILL.split(";\n")):
        used = {name: value for name, value in values.items() if f":{name}" in statement}
        database.execute(statement, used)
    database.commit()
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def alternate(runs: int, contenders: dict[str, Callable[[], pair.Ran]]) -> dict[str, list[float]]:
    """Seconds of every contender, each once per turn, the order reversed from turn to turn; two more turns warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-2, runs):
        for name in sorted(contenders, reverse=turn % 2 == 0):
            ran = contenders[name]()
            if turn >= 0:
                seconds[name].append(ran.seconds)
    return seconds


def table(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Print what each took; returns the medians."""
    medians = {}
    print(f"{'':<52}{'median ms':>10}{'least':>8}{'most':>8}")
    for name, found in seconds.items():
        medians[name] = statistics.median(found)
        print(f"{name:<52}{medians[name] * 1000:>10.1f}{min(found) * 1000:>8.1f}{max(found) * 1000:>8.1f}")
    return medians


def silent(site: pair.Librarian) -> pair.Ran:
    """One ``send-clone`` that has nothing to do, and says nothing."""
    ran = site.run("send-clone")
    if ran.out:
        raise SystemExit(f"send-clone said:\n{ran.out}")
    return ran


def sending(top: str, env: dict[str, str], files: int, runs: int) -> bool:
    """``send-clone`` on a full and on an empty catalogue; whether the goal is met."""
    full, _ = pair.pair(os.path.join(top, "full"), env)
    empty, _ = pair.pair(os.path.join(top, "empty"), env)
    fill(full, files)
    size = os.path.getsize(full.catalogue) / 1024**2
    first = silent(full).seconds
    names = f"send-clone, {files:,} cloned files", "send-clone, empty catalogue"
    medians = table(alternate(runs, {names[0]: lambda: silent(full), names[1]: lambda: silent(empty)}))
    ratio = medians[names[0]] / medians[names[1]]
    print(f"catalogue of {size:.0f} MiB; its very first run, which considers every file once, took {first:.2f} s")
    print(f"nothing to do: {ratio:.3f} times ({pair.verdict(ratio, SEND_GOAL)})\n", flush=True)
    return ratio <= SEND_GOAL


def pinging(top: str, env: dict[str, str], runs: int) -> bool:
    """``ping/`` beside peewee alone, with its drivers and without; whether the goal is met with those installed here."""
    site, _ = pair.pair(os.path.join(top, "ping"), env)
    account = base64.b64encode(b"anybody:anything").decode("ascii")
    body = "{}"
    request = env | {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/api/v2/ping/",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_AUTHORIZATION": f"Basic {account}",
        "LIBTOOL_CONFIG": site.config,
    }
    script = os.path.join(os.path.dirname(sys.executable), "libtool-callback")
    command = [script] if os.path.exists(script) else [sys.executable, "-m", "libtool", "callback"]

    def ping() -> pair.Ran:
        ran = pair.run(command, request, body)
        if not ran.out.startswith("Status: 200"):
            raise SystemExit(f"ping/ was answered with:\n{ran.out}")
        return ran

    def bare(hidden: bool) -> pair.Ran:
        # Python takes None in sys.modules for "cannot be imported", as if it were not installed.
        hide = f"import sys; sys.modules.update(dict.fromkeys({DRIVERS!r}))\n" if hidden else ""
        return pair.run([sys.executable, "-c", BARE.format(hide, site.catalogue)], env)

    installed = [name for name in DRIVERS if importlib.util.find_spec(name) is not None]
    contenders = {
        f"{os.path.basename(command[0])}, ping/": ping,
        f"bare peewee, drivers here: {', '.join(installed) or 'none'}": lambda: bare(False),
        "bare peewee, every driver hidden": lambda: bare(True),
        "python -c pass": lambda: pair.run([sys.executable, "-c", "pass"], env),
    }
    medians = list(table(alternate(runs, contenders)).values())
    installed_here, hidden = medians[0] / medians[1], medians[0] / medians[2]
    print(f"ping/ beside bare peewee as installed: {installed_here:.3f} times ({pair.verdict(installed_here, PING_GOAL)})")
    print(f"ping/ beside bare peewee without drivers: {hidden:.3f} times ({pair.verdict(hidden, PING_GOAL)})")
    return installed_here <= PING_GOAL


def main() -> int:
    """Read the options, run, and end with 0 when both goals are met, else 1."""
    parser = argparse.ArgumentParser(description="What commands and callbacks cost while there is nothing to do.")
    parser.add_argument("--files", type=int, default=1_000_000, help="how many cloned files (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=21, help="runs of each contender (default: %(default)s)")
    parser.add_argument("--dir", help="where to work (default: /dev/shm if there is one)")
    given = parser.parse_args()
    with pair.directory(given.dir) as top:
        env = pair.environment(top)
        print(f"{pair.machine(top)}, {given.runs} runs of each\n", flush=True)
        kept = sending(top, env, given.files, given.runs)
        kept = pinging(top, env, given.runs) and kept
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
