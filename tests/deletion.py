"""Three librarians that hold the same files, and what a test of deletion looks at: where good bytes are, what stays
and why, who was asked."""

from __future__ import annotations

import collections
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libtool.models.tables import File, Instance, Removal, Store
from libtool.states import DeletionPolicy, RemovalStatus
from tests.networks import Databases, Network, World, make_network
from tests.sites import Ran, Site, tree

TRIANGLE = (("origin", "hub"), ("origin", "archive"), ("hub", "archive"))
ASIDE = ".libtool-aside"
VALIDATE = "libtool/catalogue/validate"
DELETE = ("rolling-deletion", "--store", "main", "--age-in-days", "1")


@dataclass
class Held:
    """A network of which every librarian has a copy of every file, all old enough and allowed to go."""

    network: Network
    world: World
    content: dict[str, bytes]

    def __getitem__(self, name: str) -> Site:
        return self.network[name]

    def delete(self, name: str, *words: str, copies: int = 2, expect: int | None = None) -> Ran:
        """One run of rolling-deletion."""
        return self[name].run(expect, "-v", *DELETE, "--number-of-remote-copies", str(copies), *words)

    def good(self, file: str) -> dict[str, int]:
        """How many good copies of a file each librarian has, in its store or set aside."""
        found: collections.Counter[str] = collections.Counter()
        for name, site in self.network.sites.items():
            places = [site.store / file, *(each / file for each in aside(site))]
            found[name] = sum(is_good(place, self.content, file) for place in places)
        return +found


def is_good(place: Path, content: dict[str, bytes], file: str) -> bool:
    """Whether just the bytes of a file lie there; of a directory all that is in it."""
    if place.is_dir():
        inside = {f"{file}/{name}": data for name, data in tree(place).items()}
        return inside == {name: data for name, data in content.items() if name.startswith(f"{file}/")}
    return place.is_file() and place.read_bytes() == content.get(file)


def aside(site: Site) -> list[Path]:
    """The places of a store in which something is, or was, set aside."""
    top = site.store / ASIDE
    return sorted(top.iterdir()) if top.exists() else []


def lying_aside(site: Site) -> dict[str, bytes]:
    """What is set aside, by name."""
    return {name: data for place in aside(site) for name, data in tree(place).items()}


def make_held(
    top: Path,
    world: World,
    content: dict[str, bytes],
    *,
    trees: tuple[str, ...] = (),
    links: tuple[tuple[str, str], ...] = TRIANGLE,
    databases: Databases = lambda name: None,
    policy: str = "allowed",
    **settings: Any,
) -> Held:
    """Files at the first librarian, cloned to all, forty days old. ``trees`` name directories that are one file each."""
    network = make_network(top / "net", world, links, databases, **settings)
    first = network[links[0][0]]
    for name, data in content.items():
        path = top / "originals" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    singles = [name for name in content if not name.startswith(tuple(f"{each}/" for each in trees) or ("\0",))]
    for name in [*trees] if trees else []:
        first.run(0, "ingest", "--uploader", "observer", str(top / "originals" / name), name)
    if len(singles) > 20 or not trees:
        first.run(0, "ingest", "--uploader", "observer", "--recursive", str(top / "originals"))
    else:
        for name in singles:
            first.run(0, "ingest", "--uploader", "observer", str(top / "originals" / name), name)
    assert network.until_quiet() < 20
    for site in network.sites.values():
        assert site.stored() == content, site.name
        site.run(0, "set-deletion-policy", "--policy", policy, "--prefix", "")
        others = [str(other.staging) for other in network.sites.values() if other is not site]
        site.write(local_transfer_roots=others)  # so that what is damaged can be sent anew by anybody
    world.wait(days=40)
    world.asked.clear()
    return Held(network, world, content)


def removals(site: Site) -> list[tuple[str, str, str]]:
    """Name, cause and status of all removals, the oldest first."""
    with site.open():
        rows = Removal.select(Removal, File).join(File).order_by(Removal.id)
        return [(row.file.name, row.cause.name, row.status.name) for row in rows]


def available(site: Site, store: str | None = None) -> list[str]:
    """Names of the copies that count."""
    with site.open():
        rows = Instance.select(File.name).join(File).switch(Instance).join(Store).where(Instance.available)
        rows = rows.where(Store.name == store) if store else rows
        return sorted(name for (name,) in rows.tuples())


def instance(site: Site, file: str) -> Instance:
    """The row of the one copy of a file."""
    with site.open():
        row: Instance = Instance.select().join(File).where(File.name == file).get()
        return row


def change(site: Site, file: str, **values: Any) -> None:
    """Change the row of a copy."""
    with site.open():
        ids = Instance.select(Instance.id).join(File).where(File.name == file)
        assert Instance.update(**values).where(Instance.id << ids).execute()


def flip(path: Path) -> None:
    """Change one bit, and neither size nor time of a file."""
    found = path.stat()
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def state(site: Site) -> dict[str, Any]:
    """All that must be the same whatever happened on the way: what lies where, what is known of copies and removals."""
    with site.open():
        copies = {
            row.file.name: (row.available, row.condition.name, row.deletion_policy.name)
            for row in Instance.select(Instance, File).join(File)
        }
    places = sorted(str(each.relative_to(site.store)) for each in site.store.rglob("*") if ASIDE not in each.parts)
    return {
        "stored": site.stored(),
        "aside": lying_aside(site),
        "aside places": len(aside(site)),
        "places": places,
        "copies": copies,
        "removals": removals(site),
    }


ALLOWED, DISALLOWED = DeletionPolicy.ALLOWED, DeletionPolicy.DISALLOWED
OVER = {RemovalStatus.PURGED.name, RemovalStatus.RETURNED.name}
Deed = Callable[[], Any]
