"""Librarians for tests: real configurations, real databases, real directories, real commands."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from cryptography.fernet import Fernet

from libtool import cli, credentials
from libtool.node import Node

#: The four commands that bring files from a to b, and at whom.
ROUND = (("a", "send-clone"), ("a", "consume-queue"), ("a", "check-consumed-queue"), ("b", "recv-clone"))


@dataclass
class Ran:
    """What one command did."""

    code: int
    out: str
    err: str


@dataclass
class Site:
    """One librarian in a directory of its own."""

    name: str
    directory: Path
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> str:
        return str(self.directory / "config.yaml")

    @property
    def store(self) -> Path:
        return self.directory / "store"

    @property
    def staging(self) -> Path:
        return self.directory / "staging"

    def write(self, **changes: Any) -> None:
        """Write the configuration with these keys changed."""
        self.settings.update(changes)
        self.directory.mkdir(parents=True, exist_ok=True)
        Path(self.config).write_text(yaml.safe_dump(self.settings))

    def run(self, expect: int | None, *words: str, stdin: str = "") -> Ran:
        """Run a command in this process and check its exit code (None: any)."""
        out, err = io.StringIO(), io.StringIO()
        before = sys.stdin
        sys.stdin = io.StringIO(stdin)
        try:
            with redirect_stdout(out), redirect_stderr(err):
                code = cli.run(["--config", self.config, *words])
        finally:
            sys.stdin = before
        ran = Ran(code, out.getvalue(), err.getvalue())
        assert expect is None or code == expect, (words, ran)
        return ran

    def spawn(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command as a process of its own."""
        command = [sys.executable, "-m", "libtool", "--config", self.config, *words]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)

    def status(self) -> dict[str, Any]:
        """What ``status`` says."""
        found: dict[str, Any] = json.loads(self.run(0, "status", "-F", "json").out)
        return found

    def open(self) -> Any:
        """The node, for looking at rows."""
        return Node.open(self.config)

    def stored(self) -> dict[str, bytes]:
        """Every file in the store, by name."""
        return tree(self.store)

    def staged(self) -> list[str]:
        """What lies in the staging area."""
        return sorted(str(p.relative_to(self.staging)) for p in self.staging.rglob("*") if p.name != ".libtool-store")


def tree(top: Path) -> dict[str, bytes]:
    """The content of every file below a directory, by relative path; libtool's own marks left out."""
    found = {}
    for directory, _, files in os.walk(top):
        for name in files:
            path = os.path.join(directory, name)
            relative = os.path.relpath(path, top)
            if not relative.startswith(".libtool-"):
                with open(path, "rb") as stream:
                    found[relative] = stream.read()
    return found


def make_site(name: str, directory: Path, database: str | None = None, **settings: Any) -> Site:
    """A librarian with one store, set up."""
    store = {"staging_path": "staging", "store_path": "store"}
    carriers = {"local": {"available": True, "hostnames": [socket.gethostname()]}}
    whole: dict[str, Any] = {
        "name": name,
        "add_stores": [
            {"store_name": "main", "store_data": store, "asynchronous_transfer_manager_data": carriers}
        ],
    }
    if database is not None:
        whole["database"] = database
    site = Site(name, directory, whole)
    site.write(**settings)
    # With a key that is there, setup asks no keyring: that is a process, and dear. What it does without is tested apart.
    if not (directory / "encryption.key").exists():
        credentials.write_file(str(directory / "encryption.key"), Fernet.generate_key().decode("ascii"))
    site.run(0, "setup")
    return site


def introduce(source: Site, destination: Site, url_of: Any = None) -> None:
    """Make accounts on both sides and register each with the other, as the operators would."""
    url_of = url_of or (lambda site: (f"exec://{site.config}", None))
    for here, there, level in ((source, destination, "READAPPEND"), (destination, source, "CALLBACK")):
        password = there.run(0, "create-user", "--username", here.name, "--auth-level", level).out.strip()
        url, port = url_of(there)
        words = ["--name", there.name, "--url", url, "--authenticator", "-", "--do-not-check-connection"]
        words += ["--port", str(port)] if port else []
        here.run(0, "add-librarian", *words, stdin=f"{here.name}:{password}\n")


@dataclass
class Pair:
    """Two librarians: a sends to b."""

    a: Site
    b: Site

    def round(self, expect: int | None = 0, *extra: str) -> list[Ran]:
        """The four commands, once each."""
        return [getattr(self, who).run(expect, command, *extra) for who, command in ROUND]

    def until_quiet(self, most: int = 12) -> int:
        """Rounds until nothing is live or owed any more; how many that took."""
        for n in range(1, most + 1):
            self.round(None)
            if self.quiet():
                return n
        raise AssertionError(f"not quiet after {most} rounds: {self.a.status()} {self.b.status()}")

    def quiet(self) -> bool:
        """Whether no row is live or owed on either side."""
        for site in (self.a, self.b):
            with site.open():
                from libtool.models.tables import IncomingTransfer, OutgoingTransfer, SendQueue, live, owing, waiting

                for table in (OutgoingTransfer, IncomingTransfer):
                    if table.select().where(live(table) | owing(table)).exists():
                        return False
                if SendQueue.select().where(waiting()).exists():
                    return False
        return True


def make_pair(top: Path, databases: Any = None, url_of: Any = None, **settings: Any) -> Pair:
    """Two librarians that know each other."""
    url = databases or (lambda name: None)
    b = make_site("b", top / "b", url("b"))
    a = make_site(
        "a",
        top / "a",
        url("a"),
        local_transfer_roots=[str(top / "b")],
        commands={"send-clone": {"destination_librarian": "b"}},
        **settings,
    )
    introduce(a, b, url_of)
    return Pair(a, b)
