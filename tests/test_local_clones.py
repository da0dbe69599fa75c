"""create-local-clone: every copy of one store gets a second one in another, once, whatever happens in between."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from libtool.archive import local_clones, places
from libtool.models.base import current
from libtool.models.tables import File, IncomingTransfer, Instance, live
from libtool.models.tables import Store as StoreRow
from libtool.names import shown
from libtool.node import Node
from libtool.states import DeletionPolicy, TransferStatus
from libtool.stores.posix import MARKER, PosixStore
from tests import crash
from tests.crash import Counter, Snapshot
from tests.networks import World
from tests.sites import Site, make_site, tree
from tests.test_crash import copier

Databases = Callable[[str], "str | None"]
CLONE = ("create-local-clone", "--clone-from", "main", "--clone-to", "disk")


def add_store(site: Site, name: str, **data: Any) -> Path:
    """Another store, which incoming files do not go to; where its copies lie."""
    places = {"staging_path": f"{name}/staging", "store_path": f"{name}/store", **data}
    site.write(add_stores=[*site.settings["add_stores"], {"store_name": name, "ingestible": False, "store_data": places}])
    site.run(0, "setup")
    return site.directory / name / "store"


def write_files(top: Path) -> None:
    """Empty, equal, deep, odd; and what is ingested as one."""
    for n, name in enumerate(("empty", "one", "same", "deep/er/two", "two\n'", "ünïcode")):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(b"" if n == 0 else b"same" if n < 3 else b"%d" % n * 1000 * n)


def make(top: Path, database: str | None = None) -> tuple[Site, Path]:
    """A librarian with files in its store, and another store; where that one's copies lie."""
    site = make_site("a", top / "a", database)
    disk = add_store(site, "disk")
    write_files(top / "source")
    site.run(0, "ingest", "--recursive", str(top / "source"))
    site.run(0, "ingest", "--deletion-policy", "disallowed", str(top / "source/deep"), "as one")
    return site, disk


def copies(site: Site, store: str) -> dict[str, tuple[bool, DeletionPolicy]]:
    """What the catalogue says lies in a store."""
    with site.open():
        rows = Instance.select(Instance, File).join(File).switch(Instance).join(StoreRow).where(StoreRow.name == store)
        return {row.file.name: (row.available, row.deletion_policy) for row in rows}


def left(site: Site) -> list[str]:
    """What is live or staged and should not be."""
    with site.open():
        rows = [f"{row.name} {row.status.name}" for row in IncomingTransfer.select().where(live(IncomingTransfer))]
        rows += [row.staging_id for row in IncomingTransfer.select().where(IncomingTransfer.staging_id.is_null(False))]
    return rows + [str(path) for path in (site.directory / "disk/staging").iterdir() if path.name != MARKER]


def check(site: Site, disk: Path, where: str = "") -> None:
    """Every copy has its second one, just once, with its policy; nothing is left over."""
    assert tree(disk) == site.stored(), where
    assert copies(site, "disk") == copies(site, "main"), where
    assert left(site) == [], where
    with site.open():
        assert File.select().count() == 7, where


def test_everything_gets_a_second_copy_once(databases: Databases, tmp_path: Path) -> None:
    site, disk = make(tmp_path, databases("clones"))
    planned = site.run(0, *CLONE, "--dry-run").out
    assert len(planned.splitlines()) == 7 and tree(disk) == {}
    done = site.run(0, "-v", *CLONE)
    assert done.out == "" and "7 done, 0 failed" in done.err
    check(site, disk)
    assert copies(site, "disk")["as one"] == (True, DeletionPolicy.DISALLOWED)
    assert copies(site, "disk")["one"] == (True, DeletionPolicy.ALLOWED)
    idle = site.run(0, "-v", *CLONE)
    assert (idle.out, idle.err) == ("", "")
    with site.open():
        assert IncomingTransfer.select().count() == 14  # seven ingests, seven clones


def test_a_portion_at_a_time_and_so_many_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, disk = make(tmp_path)
    monkeypatch.setattr(local_clones.ingest, "PORTION", 2)
    site.run(0, *CLONE, "--files-per-run", "3")
    assert len(copies(site, "disk")) == 3
    site.run(0, *CLONE)
    check(site, disk)


def test_only_what_came_in_lately(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    monkeypatch.setattr(Node, "now", lambda node: world.now)
    site, disk = make(tmp_path)
    world.now += timedelta(days=3)
    (tmp_path / "late").write_text("late")
    site.run(0, "ingest", str(tmp_path / "late"))
    site.run(0, *CLONE, "--age-in-days", "2")
    assert set(tree(disk)) == {"late"}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_end_of_the_process_at_any_seam(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next run carries on, without recv-clone and with it."""
    url = request.getfixturevalue("postgres")("clones") if kind == "postgresql" else None
    site, disk = make(tmp_path / "top", url)
    snapshot = Snapshot(tmp_path / "top", copier([url]) if url else None)
    whole = Counter()
    assert crash.run(site, CLONE, whole) == 0
    check(site, disk)
    few = 1 if "LIBTOOL_TEST_ALL_SEAMS" in os.environ else 4
    seams = range(1, whole.passed + 1, few if url is None else 3 * few)
    for fatal in seams:
        snapshot.restore()
        counter = Counter(fatal)
        counter.where = tmp_path / "where"
        assert crash.run(site, CLONE, counter) == crash.DIED
        where = f"seam {fatal}: {counter.where.read_text()}"
        if fatal % 2:
            assert crash.run(site, ("recv-clone",), Counter()) == 0, where
        assert crash.run(site, CLONE, Counter()) == 0, where
        check(site, disk, where)
        with site.open():
            done = IncomingTransfer.select().where(IncomingTransfer.status == TransferStatus.COMPLETED)
            assert done.count() == 14, where
    with capsys.disabled():
        print(f"\ncreate-local-clone on {kind}: {len(seams)} of {whole.passed} seams")


def test_runs_side_by_side_do_nothing_twice(databases: Databases, tmp_path: Path) -> None:
    """The same run leaves at once; runs that share a store meet at every file."""
    site = make_site("a", tmp_path / "a", databases("clones"))
    disk, other = add_store(site, "disk"), add_store(site, "other")
    (tmp_path / "source").mkdir()
    for n in range(500):
        (tmp_path / "source" / str(n)).write_bytes(b"%d" % n)
    site.run(0, "ingest", "--recursive", str(tmp_path / "source"))
    kinds = (CLONE, (*CLONE, "--clone-to", "other"), CLONE, (*CLONE[:3], "--clone-to", "other", "--clone-to", "disk"))
    codes = set()
    for _ in range(2):
        running = [site.spawn(*words) for words in kinds]
        for process in running:
            out, err = process.communicate()
            assert (out, err) == (b"", b""), err.decode()
            codes.add(process.returncode)
    assert codes <= {0, 75}
    site.run(0, *CLONE)
    assert tree(disk) == site.stored() and left(site) == []
    with site.open():
        clones = IncomingTransfer.select().where(IncomingTransfer.create_time > 0).count() - 500
        assert clones == len(copies(site, "disk")) + len(copies(site, "other")) == len(tree(disk)) + len(tree(other))


def test_what_another_run_has_just_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen here, and cloned there before it is written down here."""
    site, disk = make(tmp_path)
    add_store(site, "other")
    portion, once = local_clones._portion, []

    def meanwhile(*words: Any) -> Any:
        found = portion(*words)
        if not once:
            once.append(crash.run(site, (*CLONE, "--clone-to", "other"), Counter()))
        return found

    monkeypatch.setattr(local_clones, "_portion", meanwhile)
    site.run(0, *CLONE)
    assert once == [0]
    check(site, disk)
    with site.open():
        assert IncomingTransfer.select().count() == 14


def test_a_name_that_somebody_is_bringing_is_passed_over(tmp_path: Path) -> None:
    site, disk = make(tmp_path)
    with site.open():
        IncomingTransfer.create(name="one", size=4, checksum="x", uploader="u", source="c", source_transfer_id=1, status=1, store=1, create_time=Node.now(None))  # type: ignore[arg-type]
    site.run(0, *CLONE)
    assert set(tree(disk)) == set(site.stored()) - {"one"}


# -- what is not as it should be ----------------------------------------------------------------------------------


def spoil(site: Site) -> dict[str, str]:
    """Three copies that are bad; why each is not cloned."""
    (site.store / "one").write_bytes(b"SAME")
    (site.store / "two\n'").write_bytes(b"short")
    (site.store / "ünïcode").unlink()
    return {"one": "checksum", "two\n'": "has 5 bytes", "ünïcode": "No such file"}


def test_a_bad_copy_is_named_once_and_holds_up_no_other(databases: Databases, tmp_path: Path) -> None:
    site, disk = make(tmp_path, databases("clones"))
    bad = spoil(site)
    said = site.run(3, *CLONE).err
    for name, why in bad.items():
        (line,) = [line for line in said.splitlines() if f"'{shown(name)}' of" in line]
        assert why in line, line
    good = {name: data for name, data in site.stored().items() if name not in bad}
    assert tree(disk) == good and set(copies(site, "disk")) == set(copies(site, "main")) - set(bad)
    again = site.run(0, *CLONE)
    assert (again.out, again.err) == ("", "") and left(site) == []
    with site.open():
        asked = Instance.select(File.name).join(File).where(Instance.asked_time.is_null(False))
        assert {name for (name,) in asked.tuples()} == set(bad)


def test_a_checksum_of_another_kind_is_proved_by_the_new_copy(tmp_path: Path) -> None:
    """The catalogue of an older librarian: the copy that is read tells nothing, the one that was made does."""
    site, disk = make(tmp_path)
    with site.open():
        File.update(checksum="md5:::51037a4a37730f52c8732586d3aaa316").where(File.name == "one").execute()  # of "same"
        File.update(checksum="md5:::" + "0" * 32).where(File.name == "same").execute()
    assert "'same'" in site.run(3, *CLONE).err
    assert set(tree(disk)) == set(site.stored()) - {"same"}
    assert site.run(0, *CLONE).err == "" and left(site) == []


def test_a_store_that_is_not_mounted_says_nothing_about_its_files(tmp_path: Path) -> None:
    site, disk = make(tmp_path)
    for gone in (site.store, disk):
        gone.rename(gone.with_name("away"))
        gone.mkdir()
        assert site.run(3, *CLONE).err == ""  # told when it has lasted
        gone.rmdir()
        gone.with_name("away").rename(gone)
        with site.open():
            assert Instance.select().where(Instance.asked_time.is_null(False)).count() == 0
    site.run(0, *CLONE)
    check(site, disk)


def test_a_store_that_vanishes_meanwhile_says_nothing_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, disk = make(tmp_path)
    copy_in = PosixStore.copy_in

    def vanishing(self: PosixStore, source: str, staging_id: str, name: str) -> Any:
        if name == "one":
            site.store.rename(site.store.with_name("away"))
        return copy_in(self, source, staging_id, name)

    monkeypatch.setattr(PosixStore, "copy_in", vanishing)
    site.run(3, *CLONE)
    site.store.with_name("away").rename(site.store)
    monkeypatch.undo()
    assert left(site) == []
    site.run(0, *CLONE)
    check(site, disk)


def test_the_first_store_that_fits(tmp_path: Path) -> None:
    """Disabled, not mounted, full: the next one of the list takes what comes."""
    site, disk = make(tmp_path)
    add_store(site, "full", report_full_fraction=1e-9)
    gone = add_store(site, "gone")
    add_store(site, "off")
    (gone / MARKER).unlink()
    site.run(0, "set-store-state", "--store", "off", "--disabled")
    site.run(0, *CLONE[:3], *(word for name in ("off", "gone", "full", "disk") for word in ("--clone-to", name)))
    check(site, disk)
    assert site.run(0, *CLONE[:3], "--clone-to", "off").err == ""  # as its operator wishes


def test_a_full_store_is_switched_off_and_told_once(tmp_path: Path) -> None:
    site, _ = make(tmp_path)
    full = add_store(site, "full", report_full_fraction=1e-9)
    words = (*CLONE[:3], "--clone-to", "full")
    assert site.run(3, *words).err == ""
    said = site.run(3, *words, "--disable-store-on-full").err
    assert "full" in said and "switched off" in said and "set-store-state" in said and len(said.splitlines()) == 1
    assert site.run(0, *words, "--disable-store-on-full").err == ""
    assert tree(full) == {} and left(site) == []
    with site.open():
        assert not places.get("full").enabled


def test_what_has_no_room_does_not_hold_up_what_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, disk = make(tmp_path)
    monkeypatch.setattr(PosixStore, "room", lambda self, staged, promised: 3100 - staged - promised - sum(map(len, tree(disk).values())))
    site.run(3, *CLONE)
    assert set(tree(disk)) == {"empty", "one", "same", "deep/er/two"}  # two larger ones come before the last of these
    monkeypatch.undo()
    site.run(0, *CLONE)
    check(site, disk)


def test_a_disk_that_is_full_after_all_ends_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else wrote to it: what was copied is stored or waits, nothing is blamed."""
    site, disk = make(tmp_path)
    copy_file = local_clones.ingest.copying.copy_file

    def full(source: str, target: str, **options: Any) -> Any:
        if os.path.basename(source) == "one":
            raise OSError(28, os.strerror(28))
        return copy_file(source, target, **options)

    monkeypatch.setattr(local_clones.ingest.copying, "copy_file", full)
    site.run(3, *CLONE)
    monkeypatch.undo()
    assert left(site) == []
    site.run(0, *CLONE)
    check(site, disk)


def test_wrong_words(tmp_path: Path) -> None:
    site, _ = make(tmp_path)
    assert "Store nowhere" in site.run(None, *CLONE[:3], "--clone-to", "nowhere").err
    assert "itself" in site.run(2, *CLONE[:3], "--clone-to", "main").err


def test_a_run_without_work_looks_into_indexes_only(tmp_path: Path) -> None:
    """One look for each copy of the first store: 40 ms for 100,000."""
    site, _ = make(tmp_path)
    with site.open() as node:
        wish = local_clones.Wish("main", ("disk",))
        origin, targets = local_clones.stores_of(wish)
        query, parameters = local_clones._query(node, wish, origin, targets).order_by(Instance.id).limit(500).sql()
        plan = [row[3] for row in current().execute_sql(f"EXPLAIN QUERY PLAN {query}", parameters)]
    assert any("COVERING INDEX instance_file_id_store_id" in line for line in plan), plan
    assert not any("SCAN" in line or "TEMP B-TREE" in line for line in plan), plan
