"""Copies that go bad, for tests: ways to ruin them, what is known of them, and the rounds in which they are mended."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from libtool import digest
from libtool.models.tables import Fault, File, Instance, Librarian, RemoteInstance, Removal
from libtool.models.tables import Store as StoreRow
from libtool.states import Condition
from tests.networks import Network, World, make_network
from tests.sites import Ran, Site

ASIDE = ".libtool-aside"
#: What brings a file from one librarian to another once the other has a place for it.
CARRY = ("consume-queue", "check-consumed-queue")


def flip(path: Path) -> None:
    """One bit, with the size and the time as they were."""
    found = path.stat()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def shorten(path: Path) -> None:
    """Its last byte is gone."""
    os.truncate(path, path.stat().st_size - 1)


def lengthen(path: Path) -> None:
    """A byte more."""
    with path.open("ab") as stream:
        stream.write(b"!")


def lose(path: Path) -> None:
    """Nothing lies there any more."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def into_directory(path: Path) -> None:
    """A directory lies there."""
    path.unlink()
    path.mkdir()
    (path / "inside").write_bytes(b"?")


def into_link(path: Path) -> None:
    """A link to the very same bytes lies there."""
    other = path.with_name(f"{path.name} elsewhere")
    path.rename(other)
    path.symlink_to(other)


def into_fifo(path: Path) -> None:
    """Who opens it waits for ever."""
    path.unlink()
    os.mkfifo(path)


def inner_change(path: Path) -> None:
    """One file of a directory that is taken as one."""
    flip(path / "one")


def inner_more(path: Path) -> None:
    """One file more in it."""
    (path / "four").write_bytes(b"4")


def inner_less(path: Path) -> None:
    """One file less in it."""
    (path / "one").unlink()


def inner_link(path: Path) -> None:
    """A link in it."""
    (path / "one").rename(path / "was one")
    (path / "one").symlink_to("was one")


@dataclass
class Known:
    """What a librarian thinks of its copy."""

    available: bool
    condition: Condition


def known(site: Site, name: str, store: str = "main") -> Known:
    """What a librarian thinks of its copy."""
    with site.open():
        row = Instance.select().join(File).switch(Instance).join(StoreRow)
        row = row.where(File.name == name, StoreRow.name == store).get()
        return Known(row.available, row.condition)


def conditions(site: Site) -> dict[str, int]:
    """How many copies are in which condition, available ones that are sound left out."""
    with site.open():
        found: dict[str, int] = {}
        for row in Instance.select():
            if not (row.available and row.condition is Condition.SOUND):
                word = f"{row.condition.name}{'' if row.available else ' away'}"
                found[word] = found.get(word, 0) + 1
        return found


def remotes(site: Site) -> set[tuple[str, str]]:
    """Who has what, as far as a librarian knows; each once."""
    with site.open():
        rows = list(RemoteInstance.select(Librarian.name, File.name).join(Librarian).switch(RemoteInstance).join(File).tuples())
        assert len(rows) == len(set(rows))
        return set(rows)


def aside(site: Site, root: str = "store") -> dict[str, bytes]:
    """What is set aside in a store, by name."""
    top = site.directory / root / ASIDE
    return {
        str(path.relative_to(top)).partition("/")[2]: path.read_bytes() if path.is_file() else b""
        for path in sorted(top.rglob("*")) if not path.is_dir() or path.is_symlink()
    } if top.exists() else {}


def removals(site: Site) -> list[tuple[str, str, str]]:
    """Name, cause and status of every removal."""
    with site.open():
        return [(row.file.name, row.cause.name, row.status.name) for row in Removal.select().order_by(Removal.id)]


def faults(site: Site) -> set[tuple[str, str]]:
    """Which troubles stand."""
    with site.open():
        return {(row.subject, row.kind) for row in Fault.select()}


def set_level(site: Site, user: str, level: str) -> None:
    """Give an account another level."""
    from libtool.models.tables import User
    from libtool.states import AuthLevel

    with site.open():
        User.update(auth_level=AuthLevel[level]).where(User.username == user).execute()


def both_ways(network: Network) -> Network:
    """Let every destination bring files back to its source, too, as its operators would."""
    for here, there in network.links:
        source, destination = network[here], network[there]
        set_level(source, there, "READAPPEND")
        roots = destination.settings.get("local_transfer_roots", [])
        destination.write(local_transfer_roots=[*roots, str(source.staging)])
    return network


def make_trees(top: Path, count: int = 6) -> Path:
    """Files, and one directory to be taken as one."""
    source = top / "originals"
    (source / "deep/er").mkdir(parents=True)
    for n in range(count):
        (source / f"deep/er/{n}").write_bytes(b"%03d" % n * (30 + n % 90))
    tree = top / "trees/tree"
    (tree / "in/ner").mkdir(parents=True)
    (tree / "one").write_bytes(b"one")
    (tree / "in/ner/two").write_bytes(b"22")
    (tree / "three").write_bytes(b"")
    return source


def fill(network: Network, site: str, top: Path, count: int = 6) -> None:
    """Take in what :func:`make_trees` wrote and let it get everywhere."""
    source = make_trees(top, count)
    network[site].run(0, "ingest", "--recursive", str(source))
    network[site].run(0, "ingest", str(top / "trees/tree"))
    network.until_quiet()


def mend(network: Network, *names: str, rounds: int = 3, fixers: tuple[str, ...] = ("check-integrity", "corruption-fixer")) -> list[Ran]:
    """Everything that mends, and everything that carries, some times at each."""
    said = []
    for _ in range(rounds):
        network.world.now += network.step
        for name in names or network.sites:
            said += [network[name].run(None, command) for command in fixers]
        for name in network.sites:
            said += [network[name].run(None, command) for command in CARRY]
        for name in network.sites:
            said.append(network[name].run(None, "recv-clone"))
    return said


def unreadable(monkeypatch: pytest.MonkeyPatch, is_bad: Callable[[str], bool], number: int = errno.EIO) -> None:
    """Let the disk not give certain files while the patch holds."""
    whole = digest.of_file

    def of_file(path: str, function: str = digest.DEFAULT, **options: Any) -> str:
        if is_bad(path):
            raise OSError(number, os.strerror(number), path)
        return whole(path, function, **options)

    monkeypatch.setattr(digest, "of_file", of_file)


def pair(top: Path, world: World, databases: Any = lambda name: None) -> Network:
    """a sends to b, and b may bring back."""
    return both_ways(make_network(top, world, (("a", "b"),), databases))
