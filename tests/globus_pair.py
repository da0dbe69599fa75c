"""Two librarians between which Globus carries the files: a real pair of sites, and the service on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.globus_service import GlobusService
from tests.sites import Pair, Ran, Site, make_pair, tree


@dataclass
class GlobusPair(Pair):
    """a sends to b through a collection of each."""

    globus: GlobusService
    here: Any  #: the collection of a
    there: Any  #: the collection of b

    def ingest(self, files: dict[str, bytes], top: Path) -> Path:
        """Write files and take them in at a; returns where they were written."""
        for name, content in files.items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_bytes(content)
        self.a.run(0, "ingest", "--recursive", str(top))
        return top

    def send(self, expect: int | None = 0) -> list[Ran]:
        """Stage and submit."""
        return [self.a.run(expect, "send-clone"), self.a.run(expect, "consume-queue")]

    def learn(self, expect: int | None = 0) -> Ran:
        """Let the service do what it can, and ask it."""
        self.globus.work()
        return self.a.run(expect, "check-consumed-queue")

    def until_quiet(self, most: int = 12) -> int:
        """Rounds with all the service can do in each."""
        for n in range(1, most + 1):
            self.send(None)
            self.learn(None)
            self.b.run(None, "recv-clone")
            if self.quiet():
                return n
        raise AssertionError(f"not quiet after {most} rounds: {self.a.status()} {self.b.status()}")


def make_globus_pair(
    top: Path,
    globus: GlobusService,
    *,
    databases: Any = None,
    person: bool = False,
    entity_type: str = "GCSv5_guest_collection",
    **settings: Any,
) -> GlobusPair:
    """Two librarians; a acts at Globus as a service account, or as a person."""
    here = globus.collection("at a", root="/", entity_type=entity_type)
    there = globus.collection("at b", root="/", entity_type=entity_type)
    pair = make_pair(top, databases)
    carriers = {"globus": {"available": True, "destination_endpoint": there.id}}
    pair.b.settings["add_stores"][0]["asynchronous_transfer_manager_data"] = carriers
    pair.b.write()
    if person:
        application = globus.native_app()
        secret = globus.refresh_token(application, globus.person("alice@example.org"))
    else:
        application = globus.service_account()
        secret = application.secret
    write_secret(pair.a, secret)
    pair.a.write(
        local_transfer_roots=[],
        globus_enable=True,
        globus_client_id=application.id,
        globus_client_native_app=person,
        globus_local_endpoint_id=here.id,
        globus_client_secret_file="globus.secret",
        **settings,
    )
    return GlobusPair(pair.a, pair.b, globus, here, there)


def write_secret(site: Site, secret: str) -> Path:
    """Put the secret where the configuration says."""
    path = site.directory / "globus.secret"
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(secret + "\n")
    return path


def arrived(pair: Pair, source: Path) -> bool:
    """Whether b has just what lies below ``source``."""
    return tree(source) == pair.b.stored()


def carried(globus: GlobusService) -> list[str]:
    """The destination of every file that a task really carried to its end, as often as that happened."""
    return [part.destination for task in globus.tasks for part in task.subtasks if part.arrived]


def items(pair: Pair) -> int:
    """How many queue items a ever made."""
    with pair.a.open():
        from libtool.models.tables import SendQueue

        return int(SendQueue.select().count())
