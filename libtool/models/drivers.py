"""Which database drivers peewee gets to see.

peewee imports every driver that it can find, 25 to 110 ms each, also for a SQLite catalogue; a callback is a process
of its own and answers in less than that. So the drivers that a catalogue does not need are hidden from peewee while
it is imported for the first time, and from nobody else. This is the only place that knows of it.
"""

from __future__ import annotations

import sys


def import_peewee_for(url: str) -> None:
    """Import peewee with just the driver that ``url`` needs; without effect when peewee is imported already."""
    if "peewee" in sys.modules:
        return
    unneeded = ["psycopg", "psycopg2cffi", "pymysql", "MySQLdb"]
    if url.startswith("sqlite:"):
        unneeded.append("psycopg2")
    hidden = [name for name in unneeded if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        import peewee  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
