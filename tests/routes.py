"""A node that has only routes, over the service for tests: real directories at both ends, real commands, a clock that the
test moves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from libtool.models.base import current
from libtool.models.tables import (
    TABLES,
    Fault,
    RouteDirectory,
    RouteFile,
    RouteRemoval,
    RouteTask,
    clearing,
    open_tasks,
)
from libtool.states import Deed, MirrorStatus
from libtool.trees.base import ASIDE
from tests.globus_pair import write_secret
from tests.globus_service import GlobusService
from tests.sites import Ran, Site

#: Where the source of a route is: on the node's own host, or behind a collection.
KINDS = ["local", "collection"]
#: Modification times of files that were written long ago.
OLD = 1_600_000_000
#: Between two rounds: longer than what failed for a passing reason is left alone.
TICK = 700.0
Clock = Callable[[float], None]


def put(path: Path, content: bytes = b"content", mtime: float = OLD) -> Path:
    """Write a file that has this modification time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (mtime, mtime))
    return path


def files(top: Path, *, aside: bool = True) -> dict[str, bytes]:
    """Every regular file below a directory, by its path; with what is set aside, unless it is not wanted."""
    found = {}
    for directory, inside, names in os.walk(top):
        if not aside and ASIDE in inside:
            inside.remove(ASIDE)
        for name in names:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as stream:
                    found[os.path.relpath(path, top)] = stream.read()
    return found


def everything(top: Path) -> dict[str, tuple[Any, ...]]:
    """All that a directory tree shows, times and inodes, too."""
    found = {}
    for path in sorted(top.rglob("*")):
        s = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        found[str(path)] = (s.st_ino, s.st_size, s.st_mtime_ns, s.st_mode, content)
    return found


class Routed:
    """A site with routes. Every route has a source and a destination below ``top`` of its own, unless it names others."""

    def __init__(
        self,
        top: Path,
        globus: GlobusService,
        kind: str = "local",
        *,
        database: str | None = None,
        routes: dict[str, dict[str, Any]] | None = None,
        person: bool = False,
        **settings: Any,
    ) -> None:
        self.top, self.globus, self.kind = top, globus, kind
        self.here, self.there = globus.collection("here"), globus.collection("there")
        application = globus.native_app() if person else globus.service_account()
        whole: dict[str, Any] = {
            "globus_client_id": application.id,
            "globus_client_native_app": person,
            "globus_client_secret_file": "globus.secret",
        }
        if kind == "local":
            whole["globus_local_endpoint_id"] = self.here.id
        if database is not None:
            whole["database"] = database
        whole["routes"] = {name: self.route(name, **given) for name, given in (routes or {"out": {}}).items()}
        self.site = Site("node", top / "node", {**whole, **settings})
        self.site.write()
        if not person:
            write_secret(self.site, application.secret)
        self.site.run(0, "setup")

    def route(self, name: str = "out", **given: Any) -> dict[str, Any]:
        """The entry of a route in the configuration; its directories are made."""
        source, target = self.top / f"{name}-source", self.top / f"{name}-target"
        whole = {"src_id": self.here.id, "src_dir": str(source), "dst_id": self.there.id, "dst_dir": str(target)}
        whole |= {"settle_seconds": 10, "keep_seconds": 0, "remove_empty": True, **given}
        for key in ("src_dir", "dst_dir"):
            Path(whole[key]).mkdir(parents=True, exist_ok=True)
        return whole

    def change(self, name: str = "out", **given: Any) -> None:
        """Write the configuration with keys of a route changed."""
        routes = {**self.site.settings["routes"]}
        routes[name] = {**routes[name], **given}
        self.site.write(routes=routes)

    @property
    def source(self) -> Path:
        """The source of the route 'out'."""
        return Path(self.site.settings["routes"]["out"]["src_dir"])

    @property
    def target(self) -> Path:
        """Its destination."""
        return Path(self.site.settings["routes"]["out"]["dst_dir"])

    # -- runs --------------------------------------------------------------------------------------------------------

    def run(self, expect: int | None, *words: str, stdin: str = "") -> Ran:
        """Run a command; whatever it ends with, it must not be an error that nobody foresaw."""
        ran = self.site.run(expect, *words, stdin=stdin)
        assert "Traceback" not in ran.err and ran.code in (0, 1, 2, 3, 4, 75, 130), (words, ran)
        return ran

    def tick(self, seconds: float = TICK) -> None:
        """Let time pass, with all that the service does in it."""
        self.globus.advance(seconds)

    def round(self, *words: tuple[str, ...], expect: int | None = None) -> list[Ran]:
        """What cron does, once, and time."""
        ran = []
        for each in words or (("transfer",), ("delete",)):
            ran.append(self.run(expect, *each))
            self.globus.work()
        self.tick()
        return ran

    def sent(self, most: int = 8) -> Routed:
        """Rounds of transfer until everything has arrived."""
        for _ in range(most):
            self.round(("transfer",))
            if self.status() and set(self.status().values()) == {"SENT"}:
                return self
        raise AssertionError(f"not sent after {most} rounds: {self.status()} {self.run(None, '-v', 'transfer')}")

    def gone(self, most: int = 8) -> Routed:
        """Rounds of delete until nothing is under way."""
        for n in range(most):
            self.round(("delete",))
            if n and not self.busy():
                return self
        raise AssertionError(f"not gone after {most} rounds: {self.removals()} {self.run(None, '-v', 'delete')}")

    def bare(self) -> bool:
        """Whether the source is empty but for the node's mark; behind a collection places for what is set aside stay, too."""
        inside = {path.name for path in self.source.iterdir()}
        aside = {path.name for path in (self.source / ASIDE).iterdir()} if inside else set()
        marks = {name for name in aside if name.startswith("owner-")}
        return inside <= {ASIDE} and (self.kind == "collection" or aside == marks) and not files(self.source)

    # -- looking -----------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, str]:
        """How far every known file has come, by path."""
        with self.site.open():
            found = {}
            for row in RouteFile.select(RouteFile, RouteDirectory).join(RouteDirectory):
                found[f"{row.directory.path}/{row.name}".lstrip("/")] = MirrorStatus(row.status).name
            return found

    def removals(self) -> list[tuple[str, str, str]]:
        """Path, status and reason of every removal."""
        with self.site.open():
            return [(row.path, row.status.name, row.reason) for row in RouteRemoval.select().order_by(RouteRemoval.id)]

    def busy(self) -> bool:
        """Whether a task is open, something lies aside, or a directory may be empty now."""
        with self.site.open():
            d = RouteDirectory
            emptied = d.emptied_time.is_null(False) & (d.path != "")
            kept = any(each.get("remove_empty") is False for each in self.site.settings["routes"].values())
            placed = d.select().where(d.place.is_null(False) if kept else d.place.is_null(False) | emptied).exists()
            flying = RouteTask.select().where(open_tasks()).exists()
            return bool(placed or flying or RouteRemoval.select().where(clearing()).exists())

    def deeds(self) -> list[str]:
        """What the tasks were to do, in order."""
        with self.site.open():
            return [Deed(row.deed).name for row in RouteTask.select().order_by(RouteTask.id)]

    def dump(self, without: Iterable[str] = ()) -> dict[str, list[Any]]:
        """Every row of every table."""
        with self.site.open():
            found = {}
            for table in TABLES:
                name = table._meta.table_name
                if name not in without:
                    found[name] = sorted(map(repr, current().execute_sql(f'SELECT * FROM "{name}"').fetchall()))
            return found

    def troubles(self) -> dict[str, str]:
        """What is in trouble now: kind → text."""
        with self.site.open():
            return {f"{row.subject}: {row.kind}": row.text for row in Fault.select()}
