"""A route with everything around it for tests that break things: its two directories, the service between them, the
node, and an eye on every byte. What a source has is never gone from it while the destination lacks the same bytes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from libtool.models.tables import (
    Route,
    RouteDirectory,
    RouteFile,
    RouteRemoval,
    RouteTask,
    clearing,
    open_tasks,
)
from libtool.states import MirrorStatus, QueueStatus
from libtool.trees.base import ASIDE
from tests import crash
from tests.globus_service import GlobusService
from tests.sites import Ran, Site

Clock = Callable[[float], None]
TRANSFER, DELETE = ("transfer",), ("delete",)
#: What a background task may end with: done, postponed, a person must act, another run is at it.
FINE = (0, 3, 4, 75)
#: Longer than what a passing trouble is left alone for, in seconds.
WHILE = 700.0
#: When users wrote their files: long ago.
LONG_AGO = 1_700_000_000
FILES = ("a", "deep/er/b", "deep/er/c", "deep/d", "e e/f*?[x]", "e e/g")


def contents(top: Path) -> dict[str, bytes]:
    """Every file below a directory, what is set aside, too, by its path."""
    found: dict[str, bytes] = {}
    for directory, _, names in os.walk(top):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.islink(path):
                continue
            with open(path, "rb") as stream:
                found[os.path.relpath(path, top)] = stream.read()
    return found


class Lost(AssertionError):
    """Bytes are gone from the source that the destination does not have."""


class Bench:
    """``where``: "local" when the source is on the node's own host, else "remote"."""

    def __init__(self, top: Path, globus: GlobusService, where: str, url: str | None = None, **route: Any) -> None:
        self.top, self.globus, self.where = top, globus, where
        self.source, self.target = top / "source", top / "target"
        self.source.mkdir(parents=True)
        self.target.mkdir()
        account = globus.service_account()
        self.here, self.there = globus.collection("here"), globus.collection("there")
        ends = {"src_id": self.here.id, "src_dir": str(self.source), "dst_id": self.there.id, "dst_dir": str(self.target)}
        settings: dict[str, Any] = {
            "globus_client_id": account.id,
            "globus_client_native_app": False,
            "globus_client_secret_file": "secret",
            "routes": {"out": {**ends, "settle_seconds": 0, "keep_seconds": 0, "max_files": 2, "exclude": ["*.tmp"], "remove_empty": True, **route}},
        }
        settings["routes"]["out"].setdefault("replace_removed", True)  # users write the same names again and again
        if where == "local":
            settings["globus_local_endpoint_id"] = self.here.id
        if url is not None:
            settings["database"] = url
        self.site = Site("node", top / "node", settings)
        self.site.write()
        secret = self.site.directory / "secret"
        secret.touch(mode=0o600)
        secret.write_text(account.secret)
        self.site.run(0, "setup")
        self.versions: dict[bytes, str] = {}  #: every content that users wrote → its path; no two are the same
        self.withdrawn: set[bytes] = set()  #: what users removed or wrote over themselves
        self.former: set[tuple[str, bytes]] = set()  #: (path, content) that something else followed, or that got another name
        self.lying: set[bytes] = set()  #: what lay at the source at the last look
        self._serial = 0

    # -- what users do -----------------------------------------------------------------------------------------------

    def write(self, path: str, *, aged: bool = True, size: int = 40) -> bytes:
        """A user writes a file that is unlike all others; a file that was there is replaced."""
        self._serial += 1
        content = f"{self._serial:6} {path} ".encode()
        content += bytes([65 + self._serial % 26]) * max(0, size - len(content))
        place = self.source / path
        self.former |= {(path, old) for old, known in self.versions.items() if known == path}
        if place.exists():
            self.withdrawn.add(place.read_bytes())
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_name(f"{place.name}.tmp")
        new.write_bytes(content)
        if aged:
            os.utime(new, (LONG_AGO + self._serial, LONG_AGO + self._serial))
        new.replace(place)
        self.versions[content] = path
        self.lying.add(content)
        return content

    def number(self) -> int:
        """One that nobody had before."""
        self._serial += 1
        return self._serial

    def fill(self) -> None:
        """Some files, one that does not belong to the route, and a directory that is nobody's."""
        for path in FILES:
            self.write(path)
        (self.source / "deep/mine.tmp").write_bytes(b"not of the route")
        (self.source / "empty").mkdir(exist_ok=True)

    # -- the eye -----------------------------------------------------------------------------------------------------

    def look(self, said: str = "") -> None:
        """Nothing is gone from the source that the destination has not, and everything is in some place whole."""
        if not self.source.exists():
            return  # nobody can tell
        lying = set(contents(self.source).values()) & self.versions.keys()
        for content in self.lying - lying - self.withdrawn:
            path = self.versions[content]
            place = self.target / path
            there = place.read_bytes() if place.is_file() else None
            if there != content:
                raise Lost(f"{path!r} is gone from the source, and the destination has {there!r} ({said})")
        self.lying = lying

    def labels(self) -> list[str]:
        """What the service was asked to do: the label of each task without its submission id."""
        return [str(task.label).rpartition(" ")[0] for task in self.globus.tasks]

    def sends(self) -> list[list[str]]:
        """The files of every task that brought some, sorted."""
        sent = [task.items for task in self.globus.tasks if task.type == "TRANSFER" and task.document.get("sync_level") is None]
        return sorted(sorted(str(item["destination_path"]) for item in items) for items in sent)

    def once(self, said: str = "") -> None:
        """No task of the node's was submitted twice."""
        twice = [label for label, n in Counter(self.labels()).items() if n > 1]
        assert not twice, f"submitted twice: {twice} ({said})"

    # -- runs --------------------------------------------------------------------------------------------------------

    def run(self, *words: str) -> Ran:
        """Run a command in this process, whatever the trouble; it must say no more than what surface.md knows."""
        ran = self.site.run(None, *words)
        assert ran.code in FINE and "Traceback" not in ran.err, (words, ran)
        self.look(" ".join(words))
        return ran

    def ended(self, counter: crash.Counter, *words: str) -> int:
        """Run a command in a process that may end at a seam."""
        code = crash.run(self.site, words, counter)
        assert code in (*FINE, crash.DIED), (words, code)
        self.look(f"{' '.join(words)}: {code}")
        self.once()
        return code

    def open_rows(self) -> list[str]:
        """What is under way or waits, in words."""
        with self.site.open():
            found = [f"task {t.id} {t.deed.name} {t.status.name} {t.reason}" for t in RouteTask.select().where(open_tasks())]
            found += [f"removal {r.path} {r.status.name} {r.reason}" for r in RouteRemoval.select().where(clearing())]
            sent = RouteFile.status == MirrorStatus.SENT
            found += [f"file {f.name} {f.status.name} {f.reason}" for f in RouteFile.select().where(~sent)]
            found += [f"{d.path} is set aside" for d in RouteDirectory.select().where(RouteDirectory.place.is_null(False))]
            found += [f"look since {r.look_time}" for r in Route.select().where(Route.look_time.is_null(False))]
        return found

    def arrived(self) -> bool:
        """Whether everything that the route has is known as arrived, and nothing is under way."""
        with self.site.open():
            sent = {f.name for f in RouteFile.select().where(RouteFile.status == MirrorStatus.SENT)}
        wanted = {path.rpartition("/")[2] for path in contents(self.source) if not path.endswith(".tmp")}
        return not self.open_rows() and sent == wanted

    def gone(self) -> bool:
        """Whether all that belongs to the route is gone from its source, and nothing is under way."""
        left = [path for path in contents(self.source) if not path.endswith(".tmp")]
        # An empty place is removed, too, if need be by the next run: on this host each, through a collection an emptied directory.
        mine = "" if self.where == "local" else "empty-"
        found = (self.source / ASIDE).glob("*")
        places = [path for path in found if any(path.iterdir()) or (path.name.startswith(mine) and not path.name.startswith("owner-"))]
        with self.site.open():
            emptied = RouteDirectory.select().where(RouteDirectory.emptied_time.is_null(False), RouteDirectory.path != "").count()
        return not left and not places and not emptied and not self.open_rows()

    def until(self, over: Callable[[], bool], *words: tuple[str, ...], most: int = 30, counter: crash.Counter | None = None) -> int:
        """Cron's rounds of these commands, with time for the service after each, until it is over; how many."""
        for n in range(1, most + 1):
            for each in words:
                self.ended(counter, *each) if counter is not None else self.run(*each)
                self.globus.work()
                self.look("the service")
            if over():
                return n
            self.globus.advance(WHILE)
        last = self.site.run(None, "-v", *words[-1])
        raise AssertionError(f"not over after {most} rounds: {self.open_rows()} {sorted(contents(self.source))} {last}")

    def to_the_end(self, most: int = 40, counter: crash.Counter | None = None) -> None:
        """Everything to its end, once all is well."""
        self.until(self.gone, ("transfer",), ("delete",), most=most, counter=counter)
        self.check_end()

    # -- the end -----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that must not depend on who was ended where."""
        with self.site.open():
            removals = Counter((r.path, r.status.name) for r in RouteRemoval.select())
            failed = [t.id for t in RouteTask.select() if t.status is not QueueStatus.COMPLETED]
            files = sorted((f.name, f.status.name) for f in RouteFile.select())
            directories = sorted(d.path for d in RouteDirectory.select())
        below = (str(path.relative_to(self.source)) for path in self.source.rglob("*") if path.is_dir())
        return {
            "open": self.open_rows(),
            "source": contents(self.source),
            "places": sorted(below),
            "target": contents(self.target),
            "removals": sorted(removals.items()),
            "failed": failed,
            "known files": files,
            "known directories": directories,
        }

    def check_end(self) -> None:
        """What the source had lies at the destination as it was last, and nothing of it is anywhere else."""
        last: dict[str, bytes] = {path: content for content, path in self.versions.items()}
        there = contents(self.target)
        for path, content in last.items():
            if content not in self.withdrawn and (path, content) not in self.former:
                assert there.get(path) == content, path
        strange = [path for path, content in there.items() if self.versions.get(content) != path and (path, content) not in self.former]
        assert not strange, strange
        with self.site.open():
            owned = {t.id for t in RouteTask.select().where(open_tasks())}
            assert not RouteRemoval.select().where(clearing()).exists()
            rows = [f for f in RouteFile.select() if f.status is MirrorStatus.SENDING and f.task_id not in owned]
        assert not rows
