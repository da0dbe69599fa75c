"""The main job: what is ingested at a is at b, verified, and known on both sides."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from libtool.models.tables import Store
from libtool.peers import exec as exec_transport
from libtool.peers.exec import COMMAND
from libtool.stores.posix import MARKER, PosixStore
from tests.sites import Pair, Site, make_site, tree


def fill(top: Path, count: int = 12) -> Path:
    """A small tree with every kind of harmless oddity in names and sizes."""
    source = top / "source"
    for n in range(count):
        path = source / f"night {n % 3}" / f"f'{n}\"é.dat"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * n * 1000)
    (source / "line\nbreak").write_text("newline")
    (source / ("long" * 60)).write_text("long")
    (source / "a/b/c/d/e/f/g").mkdir(parents=True)
    (source / "a/b/c/d/e/f/g/deep").write_text("deep")
    return source


def test_a_tree_arrives_whole_and_a_second_round_is_silent(any_pair: Pair, tmp_path: Path) -> None:
    source = fill(tmp_path)
    any_pair.a.run(0, "ingest", "--recursive", str(source))
    any_pair.round()
    assert any_pair.b.stored() == tree(source)
    assert any_pair.b.staged() == []
    assert any_pair.a.status()["remote_instances"] == len(tree(source))
    assert any_pair.quiet()
    for ran in any_pair.round():
        assert (ran.out, ran.err) == ("", "")


def test_a_clone_through_callbacks_that_are_started_anew(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixtures put something faster in their place, that forks."""
    monkeypatch.setattr(exec_transport, "COMMAND", COMMAND)
    assert "from libtool.commands.callback import main; main()" in COMMAND
    source = fill(tmp_path)
    pair.a.run(0, "ingest", "--recursive", str(source))
    pair.round()
    assert pair.b.stored() == tree(source) and pair.quiet()


def test_a_directory_travels_as_one_file(any_pair: Pair, tmp_path: Path) -> None:
    source = fill(tmp_path)
    (source / "a/link").symlink_to("b/c/d/e/f/g/deep")
    any_pair.a.run(0, "ingest", str(source), "night one")
    any_pair.round()
    expected = {f"night one/{name}": content for name, content in tree(source).items()}
    assert any_pair.b.stored() == expected
    assert any_pair.a.status()["files"] == any_pair.a.status()["remote_instances"] == 1


# -- which disk is mounted -------------------------------------------------------------------------------------------


def two_disks(top: Path) -> Site:
    """A librarian with a file in one of its two stores."""
    site = make_site("a", top / "a")
    second = json.loads(json.dumps(site.settings["add_stores"][0]))
    second |= {"store_name": "second", "store_data": {"staging_path": "staging2", "store_path": "store2"}}
    site.write(add_stores=[*site.settings["add_stores"], second])
    site.run(0, "setup")
    (top / "one").write_bytes(b"1")
    site.run(0, "ingest", str(top / "one"), "one")
    return site


def swap(site: Site, one: str = "store", other: str = "store2") -> None:
    """Mount two disks in each other's place."""
    directory = site.directory
    (directory / one).rename(directory / "away")
    (directory / other).rename(directory / one)
    (directory / "away").rename(directory / other)


def usable(site: Site) -> list[str]:
    """The stores that can be used here."""
    return [each["name"] for each in json.loads(site.run(0, "get-store-list", "-F", "json").out) if each["available"]]


@pytest.mark.parametrize("marks", ["ours", "of an older libtool"])
def test_disks_that_are_mounted_in_each_others_place_are_no_stores(tmp_path: Path, marks: str) -> None:
    site = two_disks(tmp_path)
    if marks != "ours":
        for directory, name in (("store", "main"), ("staging", "main"), ("store2", "second"), ("staging2", "second")):
            (site.directory / directory / MARKER).write_text(f"{name}\n")
    assert usable(site) == ["main", "second"]
    swap(site)
    assert usable(site) == []
    site.run(None, "create-local-clone", "--clone-from", "main", "--clone-to", "second")
    site.run(None, "delete-instance", "one", "--store", "main", "--force", "--yes")
    site.run(None, "check-integrity", "--age-in-days", "0")
    assert "marked as" in site.run(1, "setup").err
    assert tree(site.directory / "store2") == {"one": b"1"} and tree(site.directory / "store") == {}
    swap(site)
    site.run(0, "setup")
    assert usable(site) == ["main", "second"]
    site.run(0, "create-local-clone", "--clone-from", "main", "--clone-to", "second")
    assert tree(site.directory / "store2") == {"one": b"1"}
    if marks != "ours":
        assert (site.directory / "store2" / MARKER).read_text() == "a/second\n"


def test_two_librarians_do_not_get_one_directory(tmp_path: Path) -> None:
    first = make_site("a", tmp_path / "a")
    second = Site("b", tmp_path / "b", json.loads(json.dumps(first.settings)) | {"name": "b"})
    second.settings["add_stores"][0]["store_data"]["store_path"] = str(first.store)
    second.write()
    ran = second.run(1, "setup")
    assert "marked as 'a/main', not as 'b/main'" in ran.err and "--accept-store main" in ran.err
    with second.open():
        assert not Store.select().exists()
    first.run(0, "setup")
    assert usable(first) == ["main"]
    second.run(0, "setup", "--accept-store", "main")  # the first one is gone for good, says its operator
    assert usable(second) == ["main"] and usable(first) == []


# -- what is moved in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True])
def test_a_file_that_lies_in_the_store_is_not_removed_as_the_original_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """Another mount shows the store, which no path tells; the link stands for it."""
    site = make_site("a", tmp_path / "a")
    site.settings["add_stores"][0]["store_data"] |= {"own_after_commit": True}
    site.write()
    (site.store / "d").mkdir()
    (site.store / "d/f").write_bytes(b"the only one")
    (tmp_path / "elsewhere").symlink_to(site.store)
    real = PosixStore.name_of

    def unseen(store: PosixStore, path: str) -> Any:
        return None if path.startswith(str(tmp_path / "elsewhere")) else real(store, path)

    monkeypatch.setattr(PosixStore, "name_of", unseen)
    name = "d" if whole else "d/f"
    ran = site.run(3, "ingest", "--move", os.path.join(tmp_path, "elsewhere", name), name)
    assert "was kept" in ran.err and site.stored() == {"d/f": b"the only one"}
    found = json.loads(site.run(0, "search-files", "--name", name, "-F", "json").out)
    assert found[0]["instances"][0]["available"]
    (tmp_path / "other").write_bytes(b"moved")
    site.run(0, "ingest", "--move", str(tmp_path / "other"), "other")
    assert not (tmp_path / "other").exists() and site.stored()["other"] == b"moved"
