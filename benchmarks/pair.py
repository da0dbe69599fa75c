"""What both benchmarks need: librarians in a directory of their own, and commands as processes that are timed.

Nothing of libtool is imported here. The kernel counts what a parent occupied as the peak of the child that it starts,
so this process has to stay smaller than what it measures.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

#: Where files of the benchmark lie unless --dir says otherwise: in memory, so that no disk is measured.
MEMORY = "/dev/shm"
#: The four commands that bring files from a to b, and at whom.
ROUND = (("a", "send-clone"), ("a", "consume-queue"), ("a", "check-consumed-queue"), ("b", "recv-clone"))


@dataclass(frozen=True)
class Ran:
    """What one process cost and said."""

    seconds: float
    busy: float  #: processor seconds of it and of every process that it waited for
    peak: int  #: bytes; of the process, or of a process that it waited for if that was larger
    code: int
    out: str


@contextmanager
def directory(given: str | None, keep: bool = False) -> Iterator[str]:
    """A fresh directory for the time of the block."""
    parent = given or (MEMORY if os.path.isdir(MEMORY) else tempfile.gettempdir())
    made = tempfile.mkdtemp(prefix="libtool-benchmark-", dir=parent)
    try:
        yield made
    finally:
        if not keep:
            shutil.rmtree(made)


def environment(top: str) -> dict[str, str]:
    """The environment of every measured process: no setting of ours, and compiled modules as on a used machine.

    They are kept below ``top``, so that a source tree stays as it is; the first process that is run makes them.
    """
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LIBTOOL_", "HTTP_"))}
    return mine | {"PYTHONPYCACHEPREFIX": os.path.join(top, "compiled")}


def run(command: Sequence[str], env: dict[str, str], stdin: str = "", expect: int | None = 0) -> Ran:
    """Run one process and measure it from its start to its end; its output goes through a file, not through a pipe."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as given:
        given.write(stdin)
        given.seek(0)
        begun = time.perf_counter()
        child = subprocess.Popen(command, env=env, stdin=given, stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begun
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        ran = Ran(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, child.returncode, out.read())
    if expect is not None and ran.code != expect:
        raise SystemExit(f"{' '.join(command)} ended with {ran.code}:\n{ran.out}")
    return ran


def libtool(config: str, *words: str) -> list[str]:
    """The command line of one command."""
    return [sys.executable, "-m", "libtool", "--config", config, *words]


@dataclass(frozen=True)
class Librarian:
    """One librarian in a directory, set up, with one store."""

    name: str
    top: str
    env: dict[str, str]

    @property
    def config(self) -> str:
        """Its configuration file."""
        return os.path.join(self.top, "config.yaml")

    @property
    def catalogue(self) -> str:
        """Its SQLite file."""
        return os.path.join(self.top, "catalogue.db")

    @property
    def store(self) -> str:
        """Where its copies lie."""
        return os.path.join(self.top, "store")

    @property
    def staging(self) -> str:
        """Where arriving files wait."""
        return os.path.join(self.top, "staging")

    def run(self, *words: str, stdin: str = "", expect: int | None = 0) -> Ran:
        """Run one command as a process."""
        return run(libtool(self.config, *words), self.env, stdin, expect)


def librarian(name: str, top: str, env: dict[str, str], **settings: object) -> Librarian:
    """Make a librarian with SQLite and the carrier ``local``. JSON is YAML, so no YAML library is needed here."""
    made = Librarian(name, top, env)
    os.makedirs(top)
    store = {
        "store_name": "main",
        "store_data": {"staging_path": "staging", "store_path": "store"},
        "asynchronous_transfer_manager_data": {"local": {"available": True, "hostnames": [socket.gethostname()]}},
    }
    with open(made.config, "w", encoding="utf-8") as stream:
        json.dump({"name": name, "add_stores": [store], **settings}, stream)
    made.run("setup")
    return made


def pair(top: str, env: dict[str, str]) -> tuple[Librarian, Librarian]:
    """Two librarians that know each other; a sends to b through exec://."""
    b = librarian("b", os.path.join(top, "b"), env)
    commands = {"send-clone": {"destination_librarian": "b"}}
    a = librarian("a", os.path.join(top, "a"), env, local_transfer_roots=[b.top], commands=commands)
    for here, there, level in ((a, b, "READAPPEND"), (b, a, "CALLBACK")):
        password = there.run("create-user", "--username", here.name, "--auth-level", level).out.strip()
        words = ["--name", there.name, "--url", f"exec://{there.config}", "--authenticator", "-"]
        here.run("add-librarian", *words, stdin=f"{here.name}:{password}\n")
    return a, b


def machine(top: str) -> str:
    """Where this was measured, in one line."""
    found = "unknown"
    with open("/proc/mounts", encoding="utf-8") as mounts:
        best = ""
        for line in mounts:
            _, place, kind = line.split()[:3]
            if os.path.join(os.path.realpath(top), "").startswith(os.path.join(place, "")) and len(place) >= len(best):
                best, found = place, kind
    system = f"{platform.system()} {platform.release()}"
    return f"Python {platform.python_version()}, {system}, {os.cpu_count()} processors, files on {found}"


def verdict(value: float, goal: float, most: float | None = None) -> str:
    """How a figure stands to its goal."""
    if value <= goal:
        return f"goal {goal:g}: met"
    if most is not None and value <= most:
        return f"goal {goal:g}: missed; the limit {most:g} is kept"
    return f"goal {goal:g}: NOT MET"
