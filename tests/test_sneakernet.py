"""A disk that travels with a manifest: what is on it comes in, is proved, and its source learns of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from libtool.archive import ingest, librarians, manifest_files, manifests, places, removing, verifying
from libtool.models.base import current
from libtool.models.tables import File, IncomingTransfer, Instance, OutgoingTransfer, RemoteInstance, live, owing
from libtool.models.tables import Store as StoreRow
from libtool.names import shown
from libtool.states import DeletionPolicy, TransferStatus
from tests import crash
from tests.crash import Counter, Snapshot
from tests.damage import both_ways
from tests.networks import Network, World, make_network
from tests.sites import Pair, Ran, Site, make_site, tree
from tests.test_crash import copier
from tests.test_local_clones import CLONE, add_store, write_files

Databases = Callable[[str], "str | None"]
LIST = ("get-store-manifest", "--store", "disk", "--destination-librarian", "b", "--disable-store", "--mark-instances-as-unavailable")


@dataclass
class Journey:
    """a, b, the disk's files at a and where the disk is mounted at b."""

    network: Network
    disk: Path
    there: Path

    @property
    def a(self) -> Site:
        return self.network["a"]

    @property
    def b(self) -> Site:
        return self.network["b"]

    @property
    def paper(self) -> Path:
        """The manifest."""
        return self.disk.parent.parent.parent / "manifest.json"

    def load(self, expect: int | None = 0) -> Ran:
        """Fill the disk, list it."""
        self.a.run(0, *CLONE)
        return self.a.run(expect, *LIST, "--output", str(self.paper))

    def travel(self) -> None:
        """The disk is taken out here and mounted there."""
        self.disk.rename(self.there)

    def bring(self, expect: int | None = 0, *words: str) -> Ran:
        """What the operator at b types."""
        return self.b.run(expect, "ingest-manifest", "--manifest", str(self.paper), "--store-root", str(self.there), *words)

    def rewrite(self, **changes: Any) -> None:
        """Change every entry of the manifest."""
        whole = json.loads(self.paper.read_text())
        whole["store_files"] = [entry | changes for entry in whole["store_files"]]
        self.paper.write_text(json.dumps(whole))

    def transfers(self) -> dict[str, TransferStatus]:
        """How far a thinks that each file is."""
        with self.a.open():
            return {row.file.name: row.status for row in OutgoingTransfer.select(OutgoingTransfer, File).join(File)}

    def check(self, where: str = "") -> None:
        """Everything is at b once and proved, a knows it, nothing is left over, nothing went by network."""
        assert self.b.stored() == self.a.stored() == tree(self.there), where
        assert Pair(self.a, self.b).quiet(), where
        assert self.b.staged() == [], where
        assert set(self.transfers().values()) == {TransferStatus.COMPLETED}, where
        with self.a.open():
            assert OutgoingTransfer.select().count() == RemoteInstance.select().count() == File.select().count() == 7, where
            policies = dict(Instance.select(File.name, Instance.deletion_policy).join(File).tuples())
            known = {(row.name, row.size, row.checksum, row.uploader) for row in File.select()}
            gone = Instance.select().join(StoreRow).where(StoreRow.name == "disk", ~Instance.available).count()
            assert gone == 7 and not StoreRow.get(StoreRow.name == "disk").enabled, where
        with self.b.open():
            assert dict(Instance.select(File.name, Instance.deletion_policy).join(File).tuples()) == policies, where
            assert {(row.name, row.size, row.checksum, row.uploader) for row in File.select()} == known, where
            assert {row.source for row in File.select()} == {"a"}, where
            assert not Instance.select().where(Instance.verified_time.is_null()).exists(), where


def set_out(top: Path, world: World, databases: Databases = lambda name: None) -> Journey:
    """a has files and a store that will travel, and would send everything to b by itself."""
    network = make_network(top, world, (("a", "b"),), databases)
    disk = add_store(network["a"], "disk")
    write_files(top / "source")
    network["a"].run(0, "ingest", "--recursive", str(top / "source"))
    network["a"].run(0, "ingest", "--deletion-policy", "disallowed", str(top / "source/deep"), "as one")
    return Journey(network, disk, top / "mounted")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World().take_over(monkeypatch)


@pytest.fixture
def journey(tmp_path: Path, world: World) -> Journey:
    """Ready to be brought in at b."""
    journey = set_out(tmp_path, world)
    journey.load()
    journey.travel()
    return journey


def test_a_disk_travels(tmp_path: Path, world: World, databases: Databases) -> None:
    journey = set_out(tmp_path, world, databases)
    assert journey.a.run(0, *LIST[:5], "--dry-run").out == "would list 0 files of the store disk\n"
    journey.load()
    assert set(journey.transfers().values()) == {TransferStatus.ONGOING}
    journey.network.round(0)  # while it travels nothing is sent by itself
    journey.travel()
    assert len(journey.bring(0, "--dry-run").out.splitlines()) == 7 and journey.b.stored() == {}
    assert "7 staged" in journey.b.run(0, "-v", "ingest-manifest", "--manifest", str(journey.paper), "--store-root", str(journey.there)).err
    journey.network.round(0)
    journey.check()
    assert world.carried == []
    asked = len(world.asked)
    again = journey.bring()
    assert (again.out, again.err) == ("", "")
    journey.network.round(0)
    journey.network.round(0)
    journey.check("repeated")
    assert world.carried == []
    reports = [endpoint for _, endpoint in world.asked[asked:] if endpoint == "libtool/clone/report"]
    assert len(reports) == 1


def test_the_file_is_the_references(journey: Journey) -> None:
    """JSON with an indent of two, every key of it; one that is asked for without a file is the same."""
    text = journey.paper.read_text()
    whole = json.loads(text)
    assert text == json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
    assert list(whole) == ["librarian_name", "store_name", "store_files"] and whole["librarian_name"] == "a"
    keys = "name create_time size checksum uploader source instance_path deletion_policy instance_create_time instance_available outgoing_transfer_id"
    assert all(" ".join(entry) == keys for entry in whole["store_files"]) and len(whole["store_files"]) == 7
    assert journey.a.run(0, *LIST[:5]).out == text
    none = json.loads(journey.a.run(0, *LIST[:3]).out)
    assert none == {"librarian_name": "a", "store_name": "disk", "store_files": []}


def test_a_manifest_can_be_asked_for_again(journey: Journey, tmp_path: Path) -> None:
    """The same file again, another file, and no file that says something else."""
    text = journey.paper.read_text()
    journey.a.run(0, *LIST, "--output", str(journey.paper))
    journey.a.run(0, *LIST, "--output", str(tmp_path / "second"))
    assert journey.paper.read_text() == (tmp_path / "second").read_text() == text
    (tmp_path / "second").write_text("something else")
    journey.a.run(0, "set-store-state", "--store", "disk", "--enabled")
    assert "is there already" in journey.a.run(1, *LIST, "--output", str(tmp_path / "second")).err
    assert (tmp_path / "second").read_text() == "something else"
    with journey.a.open():
        assert StoreRow.get(StoreRow.name == "disk").enabled  # nothing was done
        assert OutgoingTransfer.select().count() == 7
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_is_at_the_destination_already_is_listed_again_too(tmp_path: Path, world: World) -> None:
    """It lies on the disk as well; and a transfer that ends afterwards makes it no other manifest."""
    journey = set_out(tmp_path, world)
    journey.network.until_quiet()
    (tmp_path / "more").mkdir()
    (tmp_path / "more/late").write_text("late")
    journey.a.run(0, "ingest", "--recursive", str(tmp_path / "more"))
    journey.load()
    whole = json.loads(journey.paper.read_text())["store_files"]
    assert len(whole) == 8 and sum(entry["outgoing_transfer_id"] == -1 for entry in whole) == 7
    journey.a.run(0, *LIST, "--output", str(journey.paper))
    again = journey.a.run(0, *LIST, "--output", str(tmp_path / "second"))
    assert (again.out, again.err) == ("", "") and (tmp_path / "second").read_text() == journey.paper.read_text()
    shutil.copytree(journey.disk, journey.there)
    journey.bring()
    journey.network.round(0)
    journey.a.run(0, *LIST, "--output", str(journey.paper))
    assert len(json.loads(journey.a.run(0, *LIST[:5]).out)["store_files"]) == 8
    journey.a.run(0, "add-librarian", "--name", "c", "--url", f"exec://{journey.b.config}", "--authenticator", "a:x", "--do-not-check-connection")
    other = [word if word != "b" else "c" for word in LIST]
    assert "it is not this manifest" in journey.a.run(1, *other, "--output", str(journey.paper)).err


def test_a_disk_that_is_mounted_again_where_it_left_stays_given_up(journey: Journey) -> None:
    """The destination counts on these files; but a's own are those in its other store, and later in none."""
    a, b = journey.a, journey.b
    both_ways(journey.network)
    journey.bring()
    journey.network.round(0)
    b.run(0, "send-clone", "--destination-librarian", "a")
    with b.open():
        assert RemoteInstance.select().count() == 7
    a.run(0, "set-deletion-policy", "--prefix", "", "--policy", "allowed")
    a.run(0, "rolling-deletion", "--store", "main", "--age-in-days", "0", "--number-of-remote-copies", "1")
    shutil.copytree(journey.there, journey.disk)
    a.run(0, "set-store-state", "--store", "disk", "--enabled")
    assert "here" not in a.run(0, "reconcile", "--dry-run").out
    ran = a.run(0, "reconcile")
    a.run(0, "recv-clone")
    assert (ran.out, ran.err) == ("", "")
    with a.open():
        assert not Instance.select().where(Instance.available).exists()
        assert not IncomingTransfer.select().where(IncomingTransfer.source == "b").exists()
    found = json.loads(a.run(0, "search-files", "-F", "json").out)
    assert {row["removals"][0]["status"] for row in found} == {"ASIDE"} and len(found) == 7
    assert all(row["removals"][0]["reason"].startswith("proved at b") and row["removals"][0]["purge"] for row in found)
    assert a.run(0, "search-files", "--name", "one").out.splitlines()[1].split("\t")[4] == "main (deleted), disk (away)"


def test_setup_does_not_miss_a_disk_that_travels(journey: Journey) -> None:
    shutil.rmtree(journey.disk.parent)
    journey.a.run(0, "setup")
    assert not journey.disk.exists()
    journey.a.run(0, "set-store-state", "--store", "disk", "--enabled")
    assert "has lost its mark" in journey.a.run(1, "setup").err


def test_ones_own_manifest_belongs_elsewhere(journey: Journey) -> None:
    ran = journey.a.run(1, "ingest-manifest", "--manifest", str(journey.paper), "--store-root", str(journey.there))
    assert "made by this librarian itself" in ran.err and "--from-nobody" in ran.err and "add-librarian" not in ran.err


def test_what_a_manifest_gets_a_transfer_for_is_not_let_go_beside_it(
    tmp_path: Path, world: World, postgres: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PostgreSQL another session may write between two statements of a transaction."""
    journey = set_out(tmp_path, world, lambda name: postgres(f"travel_{name}"))
    journey.a.run(0, *CLONE)
    real, children, sent = removing.needed, list[int](), tmp_path / "sent"

    def needed(host: Any, ids: list[int]) -> dict[int, str]:
        found = real(host, ids)
        if not children and current().in_transaction():
            children.append(child := os.fork())
            if not child:  # an operator at another terminal, who either is first or waits
                try:
                    with journey.a.open() as node:
                        manifests.send(node, places.get("disk"), librarians.get("b"))
                        sent.write_text("")
                finally:
                    os._exit(0)
            end = time.monotonic() + 5
            while time.monotonic() < end and not sent.exists():
                time.sleep(0.05)
        return found

    monkeypatch.setattr(removing, "needed", needed)
    with journey.a.open() as node:
        (copy,) = verifying.copies((File.name == "one") & (Instance.store == places.get("disk").id))
        warrant = removing.Warrant("a test", 0, timedelta(0), forced=True)
        stays = removing.decide(node, places.get("disk"), [removing.Order(copy, "", ())], warrant)
    os.waitpid(children[0], 0)
    with journey.a.open():
        reading = (OutgoingTransfer.file == copy.file) & (OutgoingTransfer.store == places.get("disk").id)
        assert bool(stays) == OutgoingTransfer.select().where(reading).exists(), "let go, and still to be sent"


def test_what_was_found_bad_is_not_listed_again(journey: Journey) -> None:
    with journey.a.open():
        bad = Instance.select(Instance.id).join(StoreRow).switch(Instance).join(File).where(StoreRow.name == "disk", File.name == "one")
        Instance.update(condition=1).where(Instance.id << bad).execute()
    found = json.loads(journey.a.run(0, *LIST[:5]).out)["store_files"]
    assert len(found) == 6 and "one" not in {entry["name"] for entry in found}


def test_words_that_do_not_fit(journey: Journey) -> None:
    a = journey.a
    assert "needs --output" in a.run(2, *LIST).err
    assert "Store nowhere" in a.run(1, "get-store-manifest", "--store", "nowhere").err
    assert "Librarian nobody" in a.run(1, "get-store-manifest", "--store", "main", "--destination-librarian", "nobody", "--disable-store").err
    with a.open():
        assert StoreRow.get(StoreRow.name == "main").enabled
    assert "cannot be written" in a.run(None, *LIST[:3], "--output", "/nowhere/at/all").err


def test_a_stock_destination_calls_back_whom_the_entries_name(journey: Journey) -> None:
    with journey.a.open():
        File.update(source="instrument").execute()
    plain, stock = (json.loads(journey.a.run(0, *LIST[:5], *more).out)["store_files"] for more in ((), ("--stock-destination",)))
    assert {entry["source"] for entry in plain} == {"instrument"} and {entry["source"] for entry in stock} == {"a"}
    journey.rewrite(source="somebody")  # a stock librarian's manifest names an account; it is the head that counts here
    journey.bring()
    journey.network.round(0)
    journey.check()


# -- the end of a process anywhere --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_end_of_any_command_at_any_seam(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    urls: list[str] = []

    def databases(name: str) -> str | None:
        urls.append(request.getfixturevalue("postgres")(f"sneaker_{name}") if kind == "postgresql" else "")
        return urls[-1] or None

    journey = set_out(tmp_path / "top", world, databases)
    journey.a.run(0, *CLONE)
    bring = ("ingest-manifest", "--manifest", str(journey.paper), "--store-root", str(journey.there))
    steps: list[tuple[Site, tuple[str, ...]]] = [
        (journey.a, (*LIST, "--output", str(journey.paper))),
        (journey.b, bring),
        (journey.b, ("recv-clone",)),
    ]
    counts = []
    for site, words in steps:
        if words is bring:
            journey.travel()
        snapshot = Snapshot(tmp_path / "top", copier(urls) if kind == "postgresql" else None)
        whole = Counter()
        assert crash.run(site, words, whole) == 0
        after = unnumbered(journey.paper)
        few = 1 if "LIBTOOL_TEST_ALL_SEAMS" in os.environ else 8
        seams = range(1, whole.passed + 1, few if kind == "sqlite" else 3 * few)
        counts.append((words[0], len(seams), whole.passed))
        for fatal in seams:
            snapshot.restore()
            counter = Counter(fatal)
            counter.where = tmp_path / "where"
            assert crash.run(site, words, counter) in (crash.DIED, 3)  # 3: it was a's callback that ended
            where = f"{words[0]}, seam {fatal}: {counter.where.read_text()}"
            if words[0] == "get-store-manifest" and not journey.paper.exists():
                with site.open():
                    assert not Instance.select().where(~Instance.available).exists(), where
            for other, command in steps:
                if command is bring and not journey.there.exists():
                    journey.travel()
                if steps.index((other, command)) >= steps.index((site, words)):
                    assert crash.run(other, command, Counter()) == 0, where
            if words is bring:  # what a process left whose claim nobody looked at before
                assert crash.run(*steps[1], Counter()) == 0, where
            for _ in range(2):
                assert crash.run(journey.b, ("recv-clone",), Counter()) == 0, where
            assert unnumbered(journey.paper) == after, where
            journey.check(where)
            assert [path.name for path in journey.paper.parent.iterdir() if path.name.startswith(".")] == [], where
        snapshot.restore()
        assert crash.run(site, words, Counter()) == 0
        shutil.rmtree(snapshot.kept)
        if kind == "postgresql":
            drop_kept(urls)
    journey.check()
    assert world.carried == []
    with capsys.disabled():
        print(f"\nsneakernet on {kind}: " + ", ".join(f"{name} {tried} of {seams} seams" for name, tried, seams in counts))


def unnumbered(paper: Path) -> str:
    """A manifest without the numbers, of which PostgreSQL leaves out those of a transaction that did not end."""
    return re.sub('"outgoing_transfer_id": [0-9]+', "", paper.read_text())


def drop_kept(urls: list[str]) -> None:
    """The copies of this step's databases make way for those of the next."""
    import psycopg2

    from tests.test_crash import template

    options, _ = template(urls[0])
    connection = psycopg2.connect(dbname="postgres", **options)
    connection.autocommit = True
    for url in urls:
        connection.cursor().execute(f'DROP DATABASE "{template(url)[1]}_kept" WITH (FORCE)')
    connection.close()


# -- disks and manifests that are not as they should be -----------------------------------------------------------


def test_what_is_wrong_on_the_disk_is_named_and_holds_up_no_other(tmp_path: Path, world: World, databases: Databases) -> None:
    journey = set_out(tmp_path, world, databases)
    journey.load()
    journey.travel()
    (journey.there / "one").write_bytes(b"SAME")
    (journey.there / "two\n'").write_bytes(b"short")
    (journey.there / "ünïcode").unlink()
    (journey.there / "deep/er/two").unlink()
    (journey.there / "deep/er/two").symlink_to(journey.there / "same")
    (journey.there / "as one/er/two").unlink()
    os.mkfifo(journey.there / "as one/er/two")
    (journey.there / "not listed").write_text("stays where it is")
    whys = {"one": "checksum", "two\n'": "5 bytes", "ünïcode": "missing", "deep/er/two": "symbolic link", "as one": "bytes"}
    for _ in range(2):
        said = journey.bring(3).err.splitlines()
        for name, why in whys.items():
            (line,) = [line for line in said if f"'{shown(name)}'" in line]
            assert why in line
        assert len(said) == 5
        journey.network.round(0)
        assert set(journey.b.stored()) == {"empty", "same"} and journey.b.staged() == []
    states = journey.transfers()
    assert {name for name in states if states[name] is TransferStatus.ONGOING} == set(whys)  # nobody says that it failed
    assert world.carried == []
    journey.a.run(0, "retry", "--librarian", "b", "--by-hand")
    journey.network.until_quiet()
    assert journey.b.stored() == journey.a.stored()
    assert {name for _, name, _ in world.carried} == set(whys)


def test_a_directory_of_the_disk_that_is_a_link_leads_nowhere(journey: Journey, tmp_path: Path) -> None:
    (journey.there / "deep").rename(tmp_path / "elsewhere")
    (journey.there / "deep").symlink_to(tmp_path / "elsewhere")
    assert "symbolic link" in journey.bring(3).err


def test_a_disk_that_is_not_mounted_or_vanishes(journey: Journey, monkeypatch: pytest.MonkeyPatch) -> None:
    away = journey.there.with_name("away")
    journey.there.rename(away)
    assert "not mounted" in journey.bring(3).err
    away.rename(journey.there)
    monkeypatch.setattr(ingest, "PORTION", 2)
    entries = manifest_files.entries

    def vanishing(path: str) -> Any:
        for n, entry in enumerate(entries(path)):
            if n == 4:
                journey.there.rename(away)
            yield entry

    monkeypatch.setattr(manifest_files, "entries", vanishing)
    said = journey.bring(3).err
    assert "not mounted there any more" in said and len(said.splitlines()) <= 3
    monkeypatch.undo()
    away.rename(journey.there)
    World().take_over(monkeypatch)
    journey.bring()
    journey.network.round(0)
    journey.check()


def entry(name: Any, **changes: Any) -> dict[str, Any]:
    """One of a manifest, of a file of five bytes."""
    return {
        "name": name,
        "create_time": "2026-11-21T07:39:40.139297",
        "size": 5,
        "checksum": "md5:::5d41402abc4b2a76b9719d911017c592",
        "uploader": "inst",
        "source": "inst",
        "instance_path": "/abs/path",
        "deletion_policy": 0,
        "instance_create_time": "2026-11-21T07:39:43.186133",
        "instance_available": True,
        "outgoing_transfer_id": -1,
        **changes,
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        '{"librarian_name": "a"}',
        '{"librarian_name": "a", "store_name": 5, "store_files": []}',
        '{"librarian_name": "a", "store_name": "s", "store_files": [}',
        '{"librarian_name": "a", "store_name": "s", "store_files": [{},]}',
        '{"librarian_name": "a", "store_name": "s", "store_files": []} x',
        '{"librarian_name": "a", "store_name": "s", "store_files": ' + "[" * 100_000,
        '{"librarian_name": "a", "store_name": "s", "store_files": ["' + "x" * 3_000_000 + '"]}',
        '{"librarian_name": "a", "store_name": "s", "store_files": [' + "9" * 10_000 + "]}",
        '{"librarian_name": "a", "store_name": "s", "store_files": {"a": 1}}',
        "\x00",
        "\udcff",
    ],
    ids=lambda text: repr(text[:60]),
)
def test_what_is_no_manifest_does_nothing(journey: Journey, text: str) -> None:
    journey.paper.write_bytes(text.encode("utf-8", "surrogateescape"))
    said = journey.bring(None)
    assert said.code in (1, 3) and "manifest" in said.err and "Traceback" not in said.err and "internal" not in said.err
    assert len(said.err) < 1000
    with journey.b.open():
        assert IncomingTransfer.select().count() == 0


def test_hostile_entries_are_named_and_the_others_go_on(journey: Journey, tmp_path: Path) -> None:
    hello = b"hello"
    shutil.rmtree(journey.there)
    journey.there.mkdir()
    (tmp_path / "secret").write_bytes(hello)
    (journey.there / "good").write_bytes(hello)
    (journey.there / "twice").write_bytes(hello)
    (journey.there / "a").write_bytes(hello)
    (journey.there / "huge").write_bytes(b"")
    os.truncate(journey.there / "huge", 1 << 40)
    os.mkfifo(journey.there / "pipe")
    bad: list[Any] = [
        entry("../secret"),
        entry(str(tmp_path / "secret")),
        entry("a/../../secret"),
        entry(""),
        entry("a//b"),
        entry("x\x00y"),
        entry(".libtool-store"),
        entry("n" * 300),
        entry("/".join("d" * 100)),
        entry("\ud800"),
        entry("pipe"),
        entry("huge"),
        entry("good", size=-1),
        entry("good", size=2**63),
        entry("good", size="many"),
        entry("good", size=None),
        entry("good", uploader="u\x00"),
        entry("good", uploader="\ud800"),
        entry("good", checksum=5),
        entry("good", checksum="c" * 5000),
        entry("good", outgoing_transfer_id=2**64),
        entry(["good"]),
        {"name": "good"},
        "good",
        None,
        7,
        entry("a/b"),
    ]
    good = [entry("good"), entry("a"), entry("twice"), entry("twice")]
    journey.paper.write_text(json.dumps({"store_files": [*bad, *good], "librarian_name": "a", "more": {"x": [1]}, "store_name": "s"}))
    said = journey.bring(3)
    assert "Traceback" not in said.err and "internal" not in said.err, said.err
    assert len(said.err.splitlines()) == len(bad) + 1, said.err
    journey.b.run(0, "recv-clone")
    assert journey.b.stored() == {"good": hello, "a": hello, "twice": hello} and journey.b.staged() == []
    assert (tmp_path / "secret").read_bytes() == hello
    with journey.b.open():
        assert not IncomingTransfer.select().where(live(IncomingTransfer) | owing(IncomingTransfer)).exists()  # -1: nobody waits


def test_other_content_under_a_known_name_is_named(journey: Journey, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"SAME")
    journey.b.run(0, "ingest", str(tmp_path / "other"), "one")
    journey.b.run(0, "ingest", str(journey.there / "same"))
    (line,) = journey.bring(3).err.splitlines()
    assert "'one'" in line and "is here" in line
    journey.network.round(0)
    states = journey.transfers()
    assert states["one"] is TransferStatus.ONGOING  # and 'same', which was here already, is told
    assert {state for name, state in states.items() if name != "one"} == {TransferStatus.COMPLETED}
    assert journey.b.stored()["one"] == b"SAME"


def test_what_is_on_its_way_by_network_is_left_to_it(tmp_path: Path, world: World) -> None:
    """Staged for the carrier, then also listed: the disk does not meddle, and can be brought again later."""
    journey = set_out(tmp_path, world)
    journey.a.run(0, "send-clone")
    journey.load()
    journey.travel()
    journey.bring(3)
    journey.network.until_quiet()
    assert len(world.carried) == 7
    journey.bring(0)
    journey.network.round(0)
    assert journey.b.stored() == journey.a.stored() and Pair(journey.a, journey.b).quiet()
    assert set(journey.transfers().values()) == {TransferStatus.COMPLETED}


def test_a_librarian_that_is_not_known(tmp_path: Path, world: World, journey: Journey) -> None:
    c = make_site("c", tmp_path / "c")
    words = ("ingest-manifest", "--manifest", str(journey.paper), "--store-root", str(journey.there))
    assert "--from-nobody" in c.run(1, *words).err and "add-librarian" in c.run(1, *words, "--dry-run").err
    assert c.stored() == {}
    c.run(0, *words, "--from-nobody", "--deletion-policy", "disallowed")
    for _ in range(2):
        c.run(0, "recv-clone")
        assert c.stored() == tree(journey.there) and c.staged() == []
        c.run(0, *words, "--from-nobody")
    with c.open():
        assert {row.deletion_policy for row in Instance.select()} == {DeletionPolicy.DISALLOWED}
        assert IncomingTransfer.select().count() == 7 and {row.source for row in File.select()} == {"a"}
    a = journey.a
    assert "itself" in a.run(1, *words).err
    a.run(0, *words, "--from-nobody")


def test_the_store_that_is_asked_for(journey: Journey) -> None:
    other = add_store(journey.b, "other")
    journey.b.run(0, "set-store-state", "--store", "other", "--disabled")
    assert "disabled" in journey.bring(None, "--store", "other").err
    journey.b.run(0, "set-store-state", "--store", "other", "--enabled")
    journey.bring(0, "--store", "other", "--deletion-policy", "allowed")
    journey.network.round(0)
    assert tree(other) == tree(journey.there) and journey.b.stored() == {}
    with journey.b.open():
        assert {row.deletion_policy for row in Instance.select()} == {DeletionPolicy.ALLOWED}


def test_a_store_without_room_takes_what_it_can(journey: Journey, monkeypatch: pytest.MonkeyPatch) -> None:
    from libtool.stores.posix import PosixStore

    with monkeypatch.context() as patch:
        patch.setattr(PosixStore, "room", lambda self, staged, promised: 3100 - staged - promised)
        (line,) = journey.bring(3).err.splitlines()
        assert "no room" in line
    journey.bring(0)
    journey.network.round(0)
    journey.check()


def test_two_at_once_bring_everything_once(journey: Journey, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("ingest-manifest", "--manifest", str(journey.paper), "--store-root", str(journey.there))
    running = [journey.b.spawn(*words) for _ in range(3)]
    for process in running:
        process.communicate()
        assert process.returncode in (0, 3)  # 3: some were just being brought by another
    journey.bring()
    journey.network.round(0)
    journey.check()
    with journey.b.open():
        taken = IncomingTransfer.select().where(IncomingTransfer.status == TransferStatus.COMPLETED, IncomingTransfer.deletion_policy.is_null(False))
        assert taken.count() == 7


def test_a_long_manifest_is_read_piece_by_piece(tmp_path: Path) -> None:
    """Entries that span the pieces, and no more of them in memory than needed."""
    import tracemalloc

    from libtool.peers.admin import ManifestEntry

    def many() -> Any:
        for n in range(20_000):
            yield ManifestEntry(**entry(f"night/{n} ü", outgoing_transfer_id=n))

    path = str(tmp_path / "long.json")
    manifest_files.write(path, manifest_files.lines("a", "s", many()))
    tracemalloc.start()
    assert manifest_files.head(path) == ("a", "s", 20_000)
    for n, found in enumerate(manifest_files.entries(path)):
        assert isinstance(found, ManifestEntry) and (found.name, found.outgoing_transfer_id) == (f"night/{n} ü", n)
    assert n == 19_999
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert os.path.getsize(path) > 6_000_000 and peak < 16_000_000, peak


def test_at_another_librarian(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same manifest by its door of administrators; copies are marked after the list is safe here."""
    journey = set_out(tmp_path, world)
    journey.a.run(0, *CLONE)
    password = journey.a.run(0, "create-user", "--username", "boss", "--auth-level", "ADMIN").out.strip()
    monkeypatch.setenv("HOME", str(tmp_path))
    place = tmp_path / ".config" / "libtool" / "connections.yaml"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({"connections": {"far": {"url": f"exec://{journey.a.config}", "user": "boss", "password": password}}}))
    place.chmod(0o600)
    far = (*LIST, "--connection", "far", "--output", str(journey.paper))
    assert "needs --disable-store" in journey.b.run(2, *(word for word in far if word != "--disable-store")).err
    assert "would list 7 files" in journey.b.run(0, *far, "--dry-run").out
    assert set(journey.transfers()) == set()
    journey.b.run(0, *far)
    assert journey.a.run(0, *LIST[:5]).out == journey.paper.read_text()
    assert "Name another file" in journey.b.run(1, *far).err
    journey.travel()
    journey.bring()
    journey.network.round(0)
    journey.check()


def test_a_disk_may_travel_for_months(tmp_path: Path, world: World) -> None:
    """No task that settles what is old takes a transfer by hand for one that was lost."""
    journey = set_out(tmp_path, world)
    journey.load()
    for _ in range(3):
        world.wait(days=40)
        journey.a.run(None, "outgoing-transfer-hypervisor", "--age-in-days", "1")
        journey.b.run(None, "incoming-transfer-hypervisor", "--age-in-days", "2")
        journey.network.reconcile()
        journey.network.round()
    assert set(journey.transfers().values()) == {TransferStatus.ONGOING} and world.carried == []
    journey.travel()
    journey.bring()
    journey.network.reconcile()
    journey.network.round(0)
    journey.check()
    assert world.carried == []
