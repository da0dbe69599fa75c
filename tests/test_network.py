"""Networks: chains by configuration alone, librarians that are restored or go away, and ``reconcile``."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from libtool.archive import reconciling
from libtool.commands.tasks import frame
from libtool.models.base import insert_rows
from libtool.models.tables import (
    TABLES,
    Fault,
    File,
    IncomingTransfer,
    Instance,
    Librarian,
    OutgoingTransfer,
    RemoteInstance,
    Removal,
    Retry,
    User,
    live,
)
from libtool.peers.client import Answer
from libtool.states import Cause, RemovalStatus
from tests import crash, networks
from tests.crash import Snapshot
from tests.networks import PAIR, Backup, History, Network, World, end_at, kinds, make_network, wrongs
from tests.sites import Site
from tests.stock import Stock, serving
from tests.test_crash import copier


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """One process, one clock."""
    return World().take_over(monkeypatch)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Network, Snapshot, World]]:
    """A source and a central librarian that have nothing yet, and the way back to that."""
    monkeypatch = pytest.MonkeyPatch()
    world = World().take_over(monkeypatch)
    top = tmp_path_factory.mktemp("pair") / "net"
    yield make_network(top, world, PAIR), Snapshot(top), world
    monkeypatch.undo()


@pytest.fixture
def pair(fresh: tuple[Network, Snapshot, World], monkeypatch: pytest.MonkeyPatch) -> Network:
    """A source and a central librarian."""
    network, snapshot, _ = fresh
    snapshot.restore()
    network.world = World().take_over(monkeypatch)
    network.step = timedelta(minutes=1)
    for site in network.sites.values():
        site.settings = yaml.safe_load(Path(site.config).read_text())
    return network


def put(site: Site, name: str, content: bytes = b"content", code: int = 0) -> None:
    """Take in one file under a name."""
    path = site.directory.parent / "originals" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    site.run(code, "ingest", "--uploader", "observer", str(path), name)


def forget_copy(site: Site, *names: str) -> None:
    """Take the copies of files away and remember that, as those do that let copies go."""
    with site.open() as node:
        for name in names:
            file = File.get(File.name == name)
            assert Instance.update(available=False).where(Instance.file == file.id).execute() == 1
            words = {"aside_id": f"{file.id:032}", "actor": "somebody", "reason": "no reason", "create_time": node.now()}
            Removal.create(file=file, store=1, cause=Cause.DELETED, status=RemovalStatus.PURGED, end_time=node.now(), **words)
    for name in names:
        (site.store / name).unlink()


def bring(network: Network, to: str = "staged") -> None:
    """Take everything from the source ``to`` staged, carried or queued at the central librarian."""
    commands = ("send-clone", "consume-queue", "check-consumed-queue")
    for command in commands[: ("queued", "carried", "staged").index(to) + 1]:
        network["source"].run(None, command)


def known_at(site: Site) -> list[str]:
    """Names of the files with a copy here."""
    with site.open():
        rows = Instance.select(File.name).join(File).where(Instance.available).order_by(File.name)
        return [name for (name,) in rows.tuples()]


def thought_at(site: Site, there: str) -> list[str]:
    """Names of the files of which a neighbour is thought to have a copy."""
    with site.open():
        rows = RemoteInstance.select(File.name).join(File).switch(RemoteInstance).join(Librarian)
        return [name for (name,) in rows.where(Librarian.name == there).order_by(File.name).tuples()]


def dump(site: Site) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of a catalogue, by table."""
    with site.open():
        return {table.__name__: sorted(table.select().tuples(), key=repr) for table in TABLES}


# -- chains -------------------------------------------------------------------------------------------------------


def test_a_chain_is_configuration_alone_and_nobody_knows_more_than_its_neighbours(tmp_path: Path, world: World) -> None:
    links = (("telescope", "centre"), ("centre", "north"), ("centre", "south"))
    neighbours = {
        "telescope": {"centre"},
        "centre": {"telescope", "north", "south"},
        "north": {"centre"},
        "south": {"centre"},
    }
    said: dict[str, bytes] = {}

    def listen(config: str, endpoint: str, answer: Answer) -> Answer:
        name = Path(config).parent.name
        said[name] = said.get(name, b"") + answer.body
        return answer

    world.between = listen
    network = make_network(tmp_path / "n", world, links)
    contents = {"night/1": b"light", "night/2": b"", "odd 'name'": b"dark" * 99}
    for name, content in contents.items():
        put(network["telescope"], name, content)
    assert network.until_quiet() < 8
    network.reconcile()
    for name, site in network.sites.items():
        assert site.stored() == contents, name
        strangers = set(neighbours) - {name} - neighbours[name]
        with site.open():
            assert (
                {row.name for row in Librarian.select()} == {row.username for row in User.select()} == neighbours[name]
            )
        kept = {(table, str(value)) for table, rows in dump(site).items() for row in rows for value in row}
        assert not [each for each in kept for stranger in strangers if stranger in each[1]], name
        assert not [stranger for stranger in strangers if stranger.encode() in said.get(name, b"")], name
    with network["north"].open():
        assert {row.source for row in File.select()} == {"centre"}
    assert {there: thought_at(network["centre"], there) for there in ("north", "south", "telescope")} == {
        "north": sorted(contents),
        "south": sorted(contents),
        "telescope": [],
    }


def test_a_file_whose_local_copy_is_gone_is_shown_and_neither_sent_nor_failed(tmp_path: Path, world: World) -> None:
    network = make_network(tmp_path, world, (("source", "central"), ("source", "newcomer")))
    source = network["source"]
    source.write(commands={"send-clone": {"destination_librarian": "central"}})
    put(source, "gone", b"1")
    put(source, "here", b"2")
    network.until_quiet()
    forget_copy(source, "gone")
    source.write(commands={"send-clone": {"destination_librarian": ["central", "newcomer"]}})
    for _ in range(3):
        for ran in network.round(0):
            assert (ran.out, ran.err) == ("", "")
    assert known_at(network["newcomer"]) == ["here"]
    (row,) = json.loads(source.run(0, "search-files", "-n", "gone", "-F", "json").out)
    assert [copy["available"] for copy in row["instances"]] == [False]
    assert [copy["librarian"] for copy in row["remote_instances"]] == ["central"]
    assert source.run(0, "search-files", "-n", "gone").out.splitlines()[1].split("\t")[-2:] == [
        "main (deleted)",
        "central",
    ]
    source.run(0, "reconcile")
    assert thought_at(source, "central") == ["gone", "here"]
    source.run(0, "status", "--check")


# -- restored from a backup ---------------------------------------------------------------------------------------


def settle(history: History, *first: str, passes: int = 2, between: bool = False) -> dict[str, Any]:
    """Rounds, and ``reconcile`` at these and then at all others, until all is as it must be; what that took."""
    network, rounds = history.network, 0
    since, missing = len(network.world.carried), history.missing()
    left, done = ["all"], 0
    while left and done < passes:
        done += 1
        for name in [*first, *(name for name in network.sites if name not in first)]:
            network.reconcile(name)
            rounds += network.until_quiet() if between else 0
        rounds += network.until_quiet()
        left = wrongs(network, history.originals)
    carried = network.world.carried[since:]
    lay = sum(lay for _, _, lay in carried)
    return {
        "wrong": kinds(left),
        "passes": done,
        "rounds": rounds,
        "again": len(carried) - missing,
        "of them lay there": lay,
    }


def say(capsys: pytest.CaptureFixture[str], *words: object) -> None:
    """A line on the terminal."""
    with capsys.disabled():
        print("\n" + " ".join(map(str, words)))


def make_history(top: Path, world: World, per_feed: int) -> History:
    history = History(make_network(top / "net", world), top / "originals", per_feed)
    history.happen()
    return history


def test_1000_files_survive_the_restore_of_the_central_librarian(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = time.monotonic()
    history = make_history(tmp_path, world, 27)
    history.feed(1000 - history.made)
    history.network["source"].run(None, "send-clone")
    delivered = set(thought_at(history.network["source"], "central"))
    with history.network["central"].open():
        known = {row.name for row in File.select()}
    history.restore("central")
    with history.network["central"].open():
        lost = len(known) - File.select().count()
    took = settle(history, "central")
    say(
        capsys, f"{history.made} files, the central librarian forgot {lost}:", took, f"{time.monotonic() - begin:.0f} s"
    )
    assert lost > 300
    assert took["wrong"] == {}
    assert took["passes"] == 1
    again = {name for site, name, lay in world.carried if lay and site.endswith("/central")}
    assert not again & delivered, "what the source knew to be there was carried again"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[History, Snapshot, World]]:
    """A history of some hundred files, and the way back to its last moment."""
    monkeypatch = pytest.MonkeyPatch()
    world = World().take_over(monkeypatch)
    top = tmp_path_factory.mktemp("history")
    history = make_history(top, world, 2)
    yield history, Snapshot(top / "net"), world
    monkeypatch.undo()


@pytest.fixture
def history(shared: tuple[History, Snapshot, World], monkeypatch: pytest.MonkeyPatch) -> History:
    """That history, at its last moment."""
    whole, snapshot, world = shared
    snapshot.restore()
    world.take_over(monkeypatch)
    whole.network.step = timedelta(minutes=3)
    return whole


def test_without_a_restore_two_storms_pass(history: History) -> None:
    assert history.network.until_quiet() < 8
    assert wrongs(history.network, history.originals) == []


@pytest.mark.parametrize(
    "restored, first",
    [
        ("source", "source"),
        ("destination_a", "destination_a"),
        ("central source", "central source"),
        ("source central destination_a destination_b", "source"),
        ("central", "source destination_b destination_a"),  # the neighbours before the restored one
    ],
)
def test_any_librarian_may_be_restored(
    history: History, restored: str, first: str, capsys: pytest.CaptureFixture[str]
) -> None:
    history.restore(*restored.split())
    if "source" in restored:
        networks.ingest(history.network["source"], history.originals)  # what nobody else had seen yet
    took = settle(history, *first.split(), between=True)
    say(capsys, f"restored {restored}, reconcile first at {first}:", took)
    # Where a file came from is forgotten with both who brought it and who took it in.
    assert not {line for line in took["wrong"] if " " not in restored or "came from" not in line}


def test_a_librarian_may_be_restored_twice(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    network = history.network
    history.restore("central")
    network["central"].run(None, "reconcile")
    for _ in range(3):
        network.round()
    network["source"].run(None, "reconcile")
    history.restore("central")
    took = settle(history, "central")
    say(capsys, "restored twice:", took)
    assert took["wrong"] == {}


def test_without_reconcile_a_restore_loses_no_byte_and_reconcile_settles_it_weeks_later(
    history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    network = history.network
    before = {name: site.stored() for name, site in network.sites.items()}
    history.restore("central")
    network.until_quiet(20)
    left = wrongs(network, history.originals)
    for name, site in network.sites.items():
        assert before[name].items() <= site.stored().items(), name
    network.world.wait(days=20)
    took = settle(history, "central")
    say(capsys, "ordinary tasks alone leave:", kinds(left), "and reconcile then:", took)
    assert took["wrong"] == {}


def test_what_the_source_has_given_up_is_known_again_at_a_restored_librarian(history: History) -> None:
    network = history.network
    source, central = network["source"], network["central"]
    with source.open():
        rows = RemoteInstance.select(File.name).join(File).where(File.kind == 0)
        gone = [name for (name,) in rows.tuples()]
    forget_copy(source, *gone)
    assert len(gone) > 50
    history.restore("central")
    network.reconcile("central", "source")
    network.until_quiet()
    network.reconcile("central", "source")
    network.until_quiet()
    assert sorted(set(gone) - set(known_at(central))) == []
    assert set(gone) <= set(thought_at(source, "central"))
    assert set(gone) <= set(known_at(network["destination_b"]))


def small_past(network: Network) -> tuple[Path, Backup]:
    """What a source brought is at its central librarian in all ways, and a backup of that from before most of it."""
    source, central = network["source"], network["central"]
    put(source, "early", b"early")
    network.until_quiet()
    put(source, "half/way", b"half")
    bring(network, "queued")
    backup = Backup(central)
    network.until_quiet()
    put(source, "late", b"late")
    put(source, "empty", b"")
    network.until_quiet()
    put(source, "stored", b"stored")
    bring(network)
    end_at(central, "call libtool/clone/report: begin", "recv-clone")
    put(source, "staged", b"staged")
    bring(network)
    put(source, "queued", b"")
    bring(network, "queued")
    return network["source"].directory.parent / "originals", backup


def test_reconcile_may_end_at_any_seam_and_be_repeated(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    network = make_network(tmp_path / "net", world, PAIR)
    network.step = timedelta(minutes=11)
    top, backup = small_past(network)
    backup.restore()
    snapshot = Snapshot(tmp_path / "net")
    died = 0
    for names in (("central",), ("central", "source"), ("source",)):
        whole = crash.Counter()
        for name in names:
            crash.run(network[name], ("reconcile",), whole)
        begin = 1 if len(names) == 1 else whole.passed // 2
        for fatal in range(begin, whole.passed + 1, 6 if "LIBTOOL_TEST_ALL_SEAMS" in os.environ else 12):
            snapshot.restore()
            counter = crash.Counter(fatal)
            counter.where = tmp_path / "where"
            for name in names:
                crash.run(network[name], ("reconcile",), counter)
            died += 1
            left = ["all"]
            for _ in range(2):
                network.reconcile("central", "source")
                network.until_quiet()
                left = left and wrongs(network, top)
            assert left == [], (names, fatal, counter.where.read_text())
        snapshot.restore()
    say(capsys, f"reconcile: ended at {died} seams, every time the same final state")
    assert died > 7


def test_a_catalogue_on_postgresql_is_restored_and_reconciled(
    tmp_path: Path, world: World, postgres: Callable[[str], str]
) -> None:
    urls = {name: postgres(f"network_{name}") for name in ("source", "central")}
    network = make_network(tmp_path / "net", world, PAIR, urls.__getitem__)
    put(network["source"], "early", b"early")
    bring(network)
    restore = copier([urls["central"]])
    network.until_quiet()
    for name in ("late", "empty", "tree"):
        put(network["source"], name, b"" if name == "empty" else b"1")
    network.until_quiet()
    put(network["source"], "staged")
    bring(network)
    restore()
    network.reconcile("central", "source")
    network.until_quiet()
    assert wrongs(network, network["source"].directory.parent / "originals") == []


# -- each way in which a restore can leave two librarians ---------------------------------------------------------


@pytest.mark.parametrize("stored", [False, True])
def test_what_was_staged_at_a_librarian_that_forgot_it_arrives(pair: Network, stored: bool) -> None:
    source, central = pair["source"], pair["central"]
    backup = Backup(central)
    put(source, "file")
    bring(pair)
    if stored:
        end_at(central, "call libtool/clone/report: begin", "recv-clone")
    backup.restore()
    pair.reconcile("central", "source")
    pair.until_quiet()
    assert known_at(central) == ["file"] == thought_at(source, "central")
    assert pair.pending() == {}


@pytest.mark.parametrize("was", ["carried", "staged"])
def test_a_restored_source_learns_that_what_it_staged_has_been_stored(pair: Network, was: str) -> None:
    source, central = pair["source"], pair["central"]
    put(source, "file")
    bring(pair, was)
    backup = Backup(source)
    pair.until_quiet()
    assert thought_at(source, "central") == ["file"]
    backup.restore()
    pair.reconcile("source", "central")
    pair.until_quiet()
    assert thought_at(source, "central") == ["file"] == known_at(central)
    assert pair.pending() == {}


@pytest.mark.parametrize("was", ["queued", "staged"])
def test_what_was_under_way_at_the_backup_is_adopted_though_the_source_has_no_copy_any_more(
    pair: Network, was: str
) -> None:
    source, central = pair["source"], pair["central"]
    put(source, "file")
    bring(pair, was)
    backup = Backup(central)
    pair.until_quiet()
    forget_copy(source, "file")
    backup.restore()
    pair.reconcile("central")
    pair.until_quiet()
    assert known_at(central) == ["file"]
    pair.reconcile("source")
    assert thought_at(source, "central") == ["file"]
    assert pair.pending() == {}


def test_what_a_restored_source_does_not_know_any_more_does_not_hold_its_name_for_ever(pair: Network) -> None:
    source, central = pair["source"], pair["central"]
    backup = Backup(source)
    put(source, "file")
    bring(pair, "queued")
    backup.restore()
    pair.reconcile("source", "central")
    pair.until_quiet()
    pair.world.wait(days=2)
    assert pair.pending() == {}
    put(central, "file", b"by somebody else")
    central.run(0, "status", "--check")


def test_what_is_staged_and_forgotten_by_its_restored_source_is_taken_in_and_not_thrown_away(pair: Network) -> None:
    source, central = pair["source"], pair["central"]
    backup = Backup(source)
    put(source, "file")
    bring(pair)
    backup.restore()
    pair.reconcile("central")
    pair.until_quiet()
    assert known_at(central) == ["file"]
    assert pair.pending() == {}


def test_staging_places_that_nobody_knows_of_go_in_the_end(pair: Network) -> None:
    backup = Backup(pair["central"])
    put(pair["source"], "file")
    bring(pair)
    backup.restore()
    pair.reconcile("central", "source")
    pair.until_quiet()
    pair.world.wait(days=8)
    pair.reconcile("central", "source")
    pair.until_quiet()
    assert [place for place in pair["central"].staged() if "/" not in place] == []
    assert pair["source"].stored() == {"file": b"content"}


def test_a_copy_that_cannot_be_read_is_no_reason_to_forget_the_neighbours(pair: Network) -> None:
    source, central = pair["source"], pair["central"]
    backup = Backup(central)
    put(source, "file")
    pair.until_quiet()
    (source.store / "file").unlink()  # a disk broke, and the catalogue does not know it yet
    backup.restore()
    pair.reconcile("source", "central")
    pair.until_quiet(6)
    pair.reconcile("source", "central")
    pair.until_quiet(6)
    assert known_at(central) == ["file"] == thought_at(source, "central")


def test_a_copy_that_was_away_at_the_backup_and_lies_here_now_is_adopted(pair: Network) -> None:
    source, central = pair["source"], pair["central"]
    put(source, "file")
    pair.until_quiet()
    forget_copy(central, "file")
    backup = Backup(central)
    put(central, "file")
    assert known_at(central) == ["file"]
    backup.restore()
    pair.reconcile("central", "source")
    pair.until_quiet()
    assert known_at(central) == ["file"]


# -- numbers that are used anew -----------------------------------------------------------------------------------

CONTENTS = [(b"", b""), (b"the same", b"the same"), (b"one", b"other")]


def outgoing(site: Site) -> list[tuple[int, str, str, int | None]]:
    """Number, name, state and the destination's number of every transfer."""
    with site.open():
        rows = OutgoingTransfer.select().order_by(OutgoingTransfer.id)
        return [(row.id, row.file.name, row.status.name, row.remote_id) for row in rows]


def call(site: Site, account: str, endpoint: str, **body: Any) -> tuple[int, Any]:
    """One request of a neighbour, as sent by hand: status and answer."""
    from libtool.endpoints import router

    with site.open() as node:
        said = router.answer(
            node, router.Request("POST", f"/api/v2/{endpoint}", None, json.dumps(body).encode(), known_as=account)
        )
    return said.status, json.loads(said.body or b"null")


@pytest.mark.parametrize("one, other", CONTENTS)
def test_a_failure_is_not_told_of_another_file_of_the_same_number_at_the_destination(
    pair: Network, one: bytes, other: bytes
) -> None:
    source, central = pair["source"], pair["central"]
    backup = Backup(central)
    put(source, "first", one)
    bring(pair, "queued")
    backup.restore()
    put(source, "second", other)
    bring(pair, "queued")
    assert outgoing(source) == [(1, "first", "ONGOING", 1), (2, "second", "ONGOING", 1)]
    (source.store / "first").rename(source.store / "away")
    for command in ("consume-queue", "check-consumed-queue"):  # the first one fails, and the destination is told
        source.run(None, command)
    (source.store / "away").rename(source.store / "first")
    central.run(0, "recv-clone")
    assert known_at(central) == ["second"]
    pair.until_quiet()
    assert known_at(central) == ["first", "second"] == thought_at(source, "central")


@pytest.mark.parametrize("one, other", CONTENTS)
@pytest.mark.parametrize("first, second", [("stored", "stored"), ("stored", "bad"), ("bad", "stored"), ("bad", "bad")])
def test_reports_about_two_files_of_the_same_number_are_told_apart(
    pair: Network, one: bytes, other: bytes, first: str, second: str
) -> None:
    source, central = pair["source"], pair["central"]
    backup = Backup(source)
    put(source, "first", one)
    bring(pair)
    _spoil(central, first)
    pair.world.unreachable.add(source.config)
    central.run(3, "recv-clone")
    backup.restore()
    put(source, "second", other)
    bring(pair)
    assert [row[:3] for row in outgoing(source)] == [(1, "second", "STAGED")]
    _spoil(central, second)
    pair.world.unreachable.clear()
    central.run(None, "recv-clone")
    assert [row[:3] for row in outgoing(source)] == [(1, "second", "COMPLETED" if second == "stored" else "FAILED")]
    assert thought_at(source, "central") == (["second"] if second == "stored" else [])
    pair.until_quiet()
    assert thought_at(source, "central") == ["second"]
    assert pair.pending() == {}


def _spoil(site: Site, how: str) -> None:
    for path in site.staging.glob("*/*"):
        if how == "bad":
            path.write_bytes(b"something else")


@pytest.mark.parametrize("one, other", CONTENTS)
@pytest.mark.parametrize("first", ["stored", "bad"])
def test_no_report_is_about_a_transfer_that_has_no_place_yet(
    pair: Network, one: bytes, other: bytes, first: str
) -> None:
    source, central = pair["source"], pair["central"]
    backup = Backup(source)
    put(source, "first", one)
    bring(pair)
    _spoil(central, first)
    pair.world.unreachable.add(source.config)
    central.run(3, "recv-clone")
    backup.restore()
    put(source, "second", other)
    pair.world.unreachable = {central.config}
    source.run(3, "send-clone")
    assert outgoing(source) == [(1, "second", "INITIATED", None)]
    central.run(0, "recv-clone")
    assert outgoing(source) == [(1, "second", "INITIATED", None)]
    assert thought_at(source, "central") == []
    pair.world.unreachable.clear()
    pair.until_quiet()
    assert thought_at(source, "central") == ["second"]


def test_requests_with_a_pair_of_numbers_that_do_not_belong_together_change_nothing(pair: Network) -> None:
    source, central = pair["source"], pair["central"]
    for name in ("first", "second"):
        put(source, name, b"")
    bring(pair, "queued")
    assert [row[::3] for row in outgoing(source)] == [(1, 1), (2, 2)]
    before = dump(central)["IncomingTransfer"], dump(source)["OutgoingTransfer"]
    crossed = {"source_transfer_id": 1, "destination_transfer_id": 2}
    assert call(source, "central", "clone/complete", **crossed, store_id=1)[0] == 400
    assert call(central, "source", "libtool/clone/staged", transfers=[crossed]) == (200, {"states": {"2": None}})
    for endpoint in ("clone/fail", "clone/staged", "clone/ongoing"):
        assert call(central, "source", endpoint, **crossed)[0] >= 400, endpoint
    failed = [crossed | {"reason": "bad"}]
    assert call(source, "central", "libtool/clone/report", completed=[], failed=failed) == (
        200,
        {"accepted": {"1": False}},
    )
    assert (dump(central)["IncomingTransfer"], dump(source)["OutgoingTransfer"]) == before


# -- going away ---------------------------------------------------------------------------------------------------


def test_a_disabled_destination_gets_nothing_new_what_flies_is_settled_and_all_arrives_later(pair: Network) -> None:
    source, central = pair["source"], pair["central"]
    for name, how in (("flying", "carried"), ("queued", "queued")):
        put(source, name)
        bring(pair, how)
    source.run(0, "set-librarian-transfer", "--name", "central", "--disabled")
    put(source, "new")
    asked = len(pair.world.asked)
    for _ in range(4):
        assert all((ran.code, ran.out, ran.err) == (0, "", "") for ran in pair.round())
    assert known_at(central) == ["flying"] == thought_at(source, "central")
    assert [row[1:3] for row in outgoing(source)] == [("flying", "COMPLETED"), ("queued", "ONGOING")]
    assert not [endpoint for _, endpoint in pair.world.asked[asked:] if "stage" in endpoint.split("/")[-1]][1:]
    source.run(0, "set-librarian-transfer", "--name", "central", "--enabled")
    pair.until_quiet()
    assert known_at(central) == ["flying", "new", "queued"] == thought_at(source, "central")


@pytest.mark.parametrize("gone, tells", [("central", "source"), ("source", "central")])
def test_weeks_without_an_answer_are_told_once_a_day_and_lose_nothing(
    pair: Network, gone: str, tells: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, central = pair["source"], pair["central"]
    for name, how in (("known", "staged"), ("carried", "carried"), ("queued", "queued")):
        put(source, name)
        if name == "known":
            bring(pair)
            pair.until_quiet()
        else:
            bring(pair, how)
    put(source, "staged")
    if gone == "source":
        bring(pair)
    pair.world.unreachable.add(pair[gone].config)
    put(source, "new")
    lines: list[tuple[timedelta, str]] = []
    begin = pair.world.now
    for minutes in [1] * 15 + [480] * 3 * 14:
        pair.world.wait(minutes=minutes - 1)
        for ran in pair.round(skip=[gone]):
            lines += [(pair.world.now - begin, line) for line in ran.err.splitlines()]
            assert ran.out == ""
    days = (pair.world.now - begin).days
    assert {line.partition(":")[0] for _, line in lines} == {f"librarian {gone}"}, lines[:6]
    assert timedelta(minutes=10) <= lines[0][0] <= timedelta(minutes=13)
    assert days - 1 <= len(lines) <= days + 1, lines
    pair.world.unreachable.clear()
    told: list[str] = []
    for _ in range(15):
        for ran in pair.round():
            told += [line for line in ran.err.splitlines() if "over after" in line]
    say(capsys, f"{gone} gone for {days} days: {len(lines)} notices, {len(told)} when it was over")
    assert len(told) == 1 and told[0].startswith(f"librarian {gone}: over after ")
    assert known_at(central) == ["carried", "known", "new", "queued", "staged"] == thought_at(source, "central")
    assert wrongs(pair, source.directory.parent / "originals") == []
    assert not [each for each in pair.world.carried if each[2]]


def new_password(site: Site, account: str, *renew: str) -> str:
    """A password that the operator of a librarian makes for another one."""
    with site.open():
        level = User.get(User.username == account).auth_level.name if renew else "READAPPEND"
    return site.run(0, "create-user", "--username", account, "--auth-level", level, *renew).out.strip()


def add_again(network: Network, here: str, there: str, password: str) -> None:
    """What the operator types."""
    words = ("add-librarian", "--name", there, "--url", f"exec://{network[there].config}", "--authenticator", "-")
    network[here].run(0, *words, stdin=f"{here}:{password}\n")


def connect(network: Network, here: str, there: str) -> None:
    """The dialogue of two operators."""
    one, other = network[here], network[there]
    block = one.run(0, "connect", "--to", there, "--flow", "send", "--url", f"exec://{one.config}").out
    reply = other.run(0, "connect", "--from", "-", "--allow-exec", "--url", f"exec://{other.config}", stdin=block).out
    one.run(0, "connect", "--from", "-", "--allow-exec", stdin=reply)


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[History, Snapshot]]:
    """Two librarians with transfers in every state between them, and the way back to that."""
    monkeypatch = pytest.MonkeyPatch()
    top = tmp_path_factory.mktemp("storm") / "net"
    history = History(make_network(top, World().take_over(monkeypatch), PAIR), top.with_name("night"), 2)
    networks.spread(history.network, "source", "central", history.feed)
    yield history, Snapshot(top)
    monkeypatch.undo()


@pytest.fixture
def stormy(storm: tuple[History, Snapshot], monkeypatch: pytest.MonkeyPatch) -> History:
    """That storm."""
    history, snapshot = storm
    snapshot.restore()
    history.network.world.take_over(monkeypatch).carried.clear()
    return history


@pytest.mark.parametrize("how", ["add-librarian", "connect"])
def test_librarians_that_were_removed_and_added_again_lose_nothing(stormy: History, how: str) -> None:
    network = stormy.network
    source, central = network["source"], network["central"]
    with central.open():
        owed = [row.name for row in IncomingTransfer.select().where(IncomingTransfer.owed > 0)]
    assert owed
    source.run(0, "remove-librarian", "--name", "central")
    central.run(0, "remove-librarian", "--name", "source")
    for _ in range(30):
        network.round()
    assert thought_at(source, "central") == []
    if how == "connect":
        connect(network, "source", "central")
    else:
        add_again(network, "source", "central", new_password(central, "source", "--renew"))
        add_again(network, "central", "source", new_password(source, "central", "--renew"))
    network.until_quiet()
    assert wrongs(network, stormy.originals) == []
    assert not [name for _, name, lay in network.world.carried if lay]
    names = [name for _, name, _ in network.world.carried]
    assert len(names) == len(set(names))


def test_what_is_owed_to_a_librarian_that_was_removed_is_told_like_any_other_trouble(stormy: History) -> None:
    source = stormy.network["source"]
    source.run(0, "remove-librarian", "--name", "central")
    runs = []
    for _ in range(20):
        runs.append(source.run(None, "check-consumed-queue"))
        stormy.network.world.wait(minutes=1)
    lines = [line for ran in runs for line in ran.err.splitlines()]
    assert {ran.code for ran in runs} == {0} or (
        len(lines) == 1 and "central" in lines[0] and "add-librarian" in lines[0]
    )


@pytest.mark.parametrize("how", ["create-user --renew", "connect"])
def test_an_account_that_is_renewed_in_the_middle_of_a_clone_loses_nothing(stormy: History, how: str) -> None:
    network = stormy.network
    if how == "connect":
        connect(network, "source", "central")
    else:
        for here, there in (("central", "source"), ("source", "central")):
            new_password(network[here], there, "--renew")
    for ran in network.round():
        assert "account" not in ran.err and ran.code != 4, ran
    network.until_quiet()
    assert wrongs(network, stormy.originals) == []


def test_an_account_that_is_deleted_is_told_at_once_and_goes_on_when_it_is_made_anew(stormy: History) -> None:
    network = stormy.network
    source, central = network["source"], network["central"]
    central.run(0, "delete-user", "--username", "source")
    told = []
    for _ in range(12):
        for command in ("send-clone", "consume-queue", "check-consumed-queue"):
            ran = source.run(None, command)
            told += ran.err.splitlines()
            assert command == "consume-queue" or ran.code == 4
        network.world.wait(minutes=1)
    accounts = [line for line in told if line.startswith("librarian central: ")]
    assert len(accounts) == 1 and "account" in accounts[0], told
    password = new_password(central, "source")
    source.run(0, "remove-librarian", "--name", "central")
    add_again(network, "source", "central", password)
    over = [line for ran in network.round() for line in ran.err.splitlines() if "over after" in line]
    assert len(over) == 1
    network.until_quiet()
    assert wrongs(network, stormy.originals) == []


# -- reconcile itself ---------------------------------------------------------------------------------------------


@pytest.fixture
def agreed(pair: Network) -> Network:
    """Two librarians that agree about some files."""
    for n in range(5):
        put(pair["source"], f"night/{n}", b"%d" % n)
    pair.until_quiet()
    return pair


ALL = [f"night/{n}" for n in range(5)]


def quiet(ran: Any) -> bool:
    return (ran.code, ran.out, ran.err) == (0, "", "")


def lose(site: Site, *names: str) -> None:
    """Let a librarian know and hold nothing of these any more, in a way that nobody told the others."""
    with site.open():
        for name in names:
            file = File.get(File.name == name)
            Instance.delete().where(Instance.file == file.id).execute()
            IncomingTransfer.update(file=None).where(IncomingTransfer.file == file.id).execute()
            File.delete().where(File.id == file.id).execute()
            (site.store / name).unlink()


def test_reconcile_is_silent_where_all_agree_and_changes_nothing(agreed: Network) -> None:
    before = {name: dump(site) for name, site in agreed.sites.items()}
    for ran in agreed.reconcile().values():
        assert quiet(ran), ran
    for name, site in agreed.sites.items():
        after = dump(site)
        changed = {table for table in after if after[table] != before[name][table]}
        assert changed <= {"TaskRun", "Librarian"}, changed
        assert site.run(0, "reconcile", "-h").code == 0


def test_what_a_neighbour_has_lost_is_sent_again_and_what_has_no_copy_here_is_told_once(agreed: Network) -> None:
    source, central = agreed["source"], agreed["central"]
    lose(central, "night/1", "night/2", "night/3")
    forget_copy(source, "night/2", "night/3")
    first = source.run(3, "reconcile")
    assert len(first.err.splitlines()) == 2, first.err
    assert "sent again" in first.err and "2 files" in first.err and "libtool reconcile --librarian source" in first.err
    for _ in range(3):
        agreed.world.wait(hours=1)
        agreed.round(0)
        assert source.run(3, "reconcile").err == ""
    assert known_at(central) == ["night/0", "night/1", "night/4"]
    assert thought_at(source, "central") == ALL
    put(central, "night/2", b"2")
    put(central, "night/3", b"3")
    assert "over after" in source.run(0, "reconcile").err
    assert quiet(source.run(0, "reconcile"))


def test_other_content_under_a_name_is_parked_and_told(agreed: Network) -> None:
    source, central = agreed["source"], agreed["central"]
    lose(central, "night/1")
    put(central, "night/1", b"other content")
    source.run(0, "reconcile")
    lines = [line for ran in agreed.round() + agreed.round() for line in ran.err.splitlines()]
    assert len(lines) == 1 and "night/1" in lines[0] and "other content" in lines[0] and "retry" in lines[0]
    assert (central.store / "night/1").read_bytes() == b"other content"
    assert (source.store / "night/1").read_bytes() == b"1"
    source.run(3, "status", "--check")


def test_other_content_where_no_copy_is_here_is_called_so(agreed: Network) -> None:
    source, central = agreed["source"], agreed["central"]
    lose(central, "night/1")
    put(central, "night/1", b"other content")
    forget_copy(source, "night/1")
    said = source.run(3, "reconcile").err
    assert "night/1" in said and "other content" in said
    assert thought_at(source, "central") == ALL


def test_a_neighbour_that_deleted_its_copies_and_knows_the_file_is_left_alone(agreed: Network) -> None:
    forget_copy(agreed["central"], "night/1", "night/2")
    for _ in range(2):
        assert quiet(agreed["source"].run(0, "reconcile"))
        assert quiet(agreed["central"].run(0, "reconcile"))
        agreed.round(0)
    assert thought_at(agreed["source"], "central") == ALL
    assert known_at(agreed["central"]) == ["night/0", "night/3", "night/4"]


def test_a_stock_neighbour_is_passed_over(agreed: Network, tmp_path: Path) -> None:
    stock = Stock("stock", tmp_path / "stock")
    stock.accounts["source"] = ("secret-enough", 3)
    with serving(stock) as port:
        words = ("add-librarian", "--name", "stock", "--url", "http://127.0.0.1", "--port", str(port))
        agreed["source"].run(0, *words, "--authenticator", "-", stdin="source:secret-enough\n")
        assert quiet(agreed["source"].run(0, "reconcile"))
        assert "librarian stock cannot compare" in agreed["source"].run(0, "-v", "reconcile").err
        agreed.world.unreachable.add(agreed["central"].config)
        assert quiet(agreed["source"].run(0, "reconcile", "--librarian", "stock"))


def test_reconcile_names_only_librarians_that_are_known(agreed: Network) -> None:
    assert "nobody" in agreed["source"].run(None, "reconcile", "--librarian", "nobody").err


def lying(world: World, endpoint: str, says: Callable[[], Any]) -> None:
    """Let every librarian answer this at ``endpoint``."""

    def change(config: str, asked: str, answer: Answer) -> Answer:
        body = json.dumps(says()).encode() if asked == endpoint else answer.body
        return Answer(answer.status, answer.headers, body)

    world.between = change


def claim(id: int, name: str, content: bytes, **other: Any) -> dict[str, Any]:
    """What a neighbour says that it delivered."""
    from xxhash import xxh3_128

    checksum = f"xxh3:::{xxh3_128(content).hexdigest()}"
    return {"id": id, "name": name, "size": len(content), "checksum": checksum, "uploader": "liar"} | other


def believe(network: Network, *claims: dict[str, Any]) -> list[str]:
    """What the central librarian knows after its neighbour claimed this, page after page the same."""
    asked = len(network.world.asked)
    lying(network.world, "libtool/catalogue/delivered", lambda: {"files": list(claims)})
    network["central"].run(None, "reconcile", "--soft-timeout", "20s")
    del network.world.between
    assert len(network.world.asked) - asked < 6
    network["central"].run(None, "recv-clone")
    return [name for name in known_at(network["central"]) if name not in ALL]


def test_a_neighbour_whose_numbers_do_not_grow_or_never_end_cannot_hang_it(agreed: Network) -> None:
    begin = time.monotonic()
    assert believe(agreed, claim(7, "x", b"1"), claim(3, "y", b"2")) == []
    numbers = iter(range(1, 10**9))
    lying(agreed.world, "libtool/catalogue/delivered", lambda: {"files": [claim(next(numbers), "z", b"")]})
    agreed["central"].run(0, "reconcile", "--soft-timeout", "1s")
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    "files", [[], [None] * 4, [None] * 6, [{"size": 1, "checksum": "", "store_id": 1, "available": True}] * 9]
)
def test_an_answer_of_the_wrong_length_changes_nothing(agreed: Network, files: list[Any]) -> None:
    before = dump(agreed["source"])
    lying(agreed.world, "libtool/catalogue/known", lambda: {"files": files})
    agreed["source"].run(None, "reconcile")
    after = dump(agreed["source"])
    assert {table for table in after if after[table] != before[table]} <= {"TaskRun", "Librarian", "Fault"}


@pytest.mark.parametrize("states", [[], [None] * 2, [3, 3, 3]])
def test_states_of_the_wrong_number_change_nothing(agreed: Network, states: list[Any]) -> None:
    put(agreed["source"], "staged")
    bring(agreed)
    before = {name: dump(site) for name, site in agreed.sites.items()}
    lying(agreed.world, "libtool/clone/states", lambda: {"outgoing": states, "incoming": states})
    agreed.reconcile()
    for name, site in agreed.sites.items():
        after = dump(site)
        changed = {table for table in after if after[table] != before[name][table]}
        assert changed <= {"TaskRun", "Librarian", "Fault"}, (name, changed)


def test_false_claims_register_nothing_and_true_ones_beside_them_are_taken(agreed: Network, tmp_path: Path) -> None:
    central = agreed["central"]
    (tmp_path / "outside").mkdir()
    for place in (
        tmp_path / "outside/secret",
        central.store / "true",
        central.store / "changed",
        central.staging / "staged",
    ):
        place.write_bytes(b"secret")
    (central.store / "link").symlink_to(tmp_path / "outside/secret")
    names = [
        "../staging/staged",
        "night/../true",
        "/etc/hostname",
        str(central.store / "true"),
        "",
        ".",
        "true/",
        "link",
    ]
    names += [
        "./true",
        "night//../true",
        ".libtool-store",
        "nothing",
        "night",
        "true/below",
        "x" * 4000,
    ]
    claims = [claim(n, name, b"secret") for n, name in enumerate(names, 1)]
    claims.append(claim(90, "changed", b"SECRET"))
    claims.append(claim(91, "night/1", b"other"))
    claims.append(claim(92, ".libtool-store", (central.store / ".libtool-store").read_bytes()))
    claims.append(claim(93, "true", b"secret"))
    assert believe(agreed, *claims) == ["true"]
    assert (central.store / "changed").read_bytes() == b"secret"
    with central.open():
        assert not IncomingTransfer.select().where(live(IncomingTransfer)).exists()


def test_a_claim_that_leads_out_of_the_store_through_a_linked_directory_is_not_taken(
    agreed: Network, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"secret")
    (agreed["central"].store / "linked").symlink_to(tmp_path / "outside")
    assert believe(agreed, claim(1, "linked/secret", b"secret")) == []


def test_of_claims_that_lie_inside_each_other_at_most_one_is_taken(agreed: Network) -> None:
    (agreed["central"].store / "tree").mkdir()
    (agreed["central"].store / "tree/leaf").write_bytes(b"leaf")
    from xxhash import xxh3_128

    leaf = claim(2, "tree/leaf", b"leaf")
    whole = xxh3_128(xxh3_128(b"leaf").hexdigest().encode()).hexdigest()
    tree = claim(1, "tree", b"leaf", checksum=f"xxh3:::{whole}")
    assert len(believe(agreed, tree, leaf)) <= 1


def test_a_file_that_is_claimed_twice_is_adopted_once(agreed: Network) -> None:
    (agreed["central"].store / "lost").write_bytes(b"lost")
    assert believe(agreed, claim(1, "lost", b"lost"), claim(2, "lost", b"lost")) == ["lost"]


def test_a_file_that_is_thought_to_be_in_two_stores_of_a_restored_librarian_is_adopted(agreed: Network) -> None:
    source, central = agreed["source"], agreed["central"]
    with source.open():
        row = RemoteInstance.get()
        RemoteInstance.create(file=row.file, librarian=row.librarian, store_id=77, copy_time=agreed.world.now)
    with central.open():
        name = ALL[0]
        file = File.get(File.name == name)
        Instance.delete().where(Instance.file == file.id).execute()
        IncomingTransfer.update(file=None).execute()
        file.delete_instance()
    central.run(0, "reconcile")
    agreed.until_quiet()
    assert known_at(central) == ALL


def test_a_claim_that_is_never_true_is_not_told_at_every_run(agreed: Network) -> None:
    (agreed["central"].store / "changed").write_bytes(b"changed")
    told = []
    for _ in range(4):
        agreed.world.wait(hours=6)
        lying(agreed.world, "libtool/catalogue/delivered", lambda: {"files": [claim(1, "changed", b"CHANGED")]})
        told += agreed["central"].run(None, "reconcile").err.splitlines()
        del agreed.world.between
        told += agreed["central"].run(None, "recv-clone").err.splitlines()
    assert len(told) <= 2, told


def test_a_dry_run_says_what_would_be_done_and_does_nothing(agreed: Network) -> None:
    source, central = agreed["source"], agreed["central"]
    with central.open():
        IncomingTransfer.update(file=None).execute()
        for table in (Instance, File):
            table.delete().execute()
    lines = {}
    for site in (central, source):
        before, stored = {name: dump(each) for name, each in agreed.sites.items()}, central.stored()
        ran = site.run(0, "reconcile", "--dry-run")
        lines[site.name] = ran.out.splitlines()
        assert ran.err == ""
        for name, each in agreed.sites.items():
            after = dump(each)
            assert {table for table in after if after[table] != before[name][table]} <= {"Librarian"}
        assert central.stored() == stored
    assert "counts on 5 files" in lines["central"][0]
    assert "does not know 5 files" in lines["source"][0] and len(lines["source"]) == 6
    assert thought_at(source, "central") == ALL


def test_a_dry_run_takes_no_notice_away(agreed: Network) -> None:
    agreed.world.unreachable.add(agreed["central"].config)
    for _ in range(2):
        agreed["source"].run(0, "reconcile", "--dry-run")
        agreed.world.wait(minutes=11)
    with agreed["source"].open():
        assert [fault.kind for fault in Fault.select()] == []
    agreed["source"].run(3, "reconcile")
    agreed.world.wait(minutes=11)
    assert "no route to host" in agreed["source"].run(3, "reconcile").err


@pytest.fixture
def one_page(agreed: Network, monkeypatch: pytest.MonkeyPatch) -> Callable[[Site, str], list[str]]:
    """Runs ``reconcile`` with pages of two files; its time is over after one request to an endpoint. Returns what it
    printed."""
    monkeypatch.setattr(reconciling, "PAGE", 2)

    def run(site: Site, endpoint: str) -> list[str]:
        begin = len(agreed.world.asked)

        class Short:
            left = property(lambda self: not any(endpoint in asked for _, asked in agreed.world.asked[begin:]))

            def share(self, among: int) -> Short:
                return self

        with monkeypatch.context() as short:
            short.setattr(frame, "budget", lambda seconds: Short())
            lines: list[str] = site.run(None, "reconcile").err.splitlines()
        return lines

    return run


def test_comparing_goes_on_where_the_last_run_ended(
    agreed: Network, one_page: Callable[[Site, str], list[str]]
) -> None:
    source, central = agreed["source"], agreed["central"]
    lose(central, *ALL)
    planned = []
    for _ in range(3):
        one_page(source, "known")
        planned.append(len(agreed.pending()["source"]))
    assert planned == [2, 4, 5]
    agreed.until_quiet()
    assert known_at(central) == ALL == thought_at(source, "central")


def test_adopting_goes_on_where_the_last_run_ended(agreed: Network, one_page: Callable[[Site, str], list[str]]) -> None:
    central = agreed["central"]
    with central.open():
        IncomingTransfer.update(file=None).execute()
        for table in (Instance, File):
            table.delete().execute()
    for _ in range(6):
        one_page(central, "delivered")
        central.run(0, "recv-clone")
    assert known_at(central) == ALL


def test_a_run_that_ends_by_time_does_not_call_over_what_it_did_not_look_at(
    agreed: Network, one_page: Callable[[Site, str], list[str]]
) -> None:
    source, central = agreed["source"], agreed["central"]
    lose(central, ALL[4])
    forget_copy(source, ALL[4])
    assert "night/4" in source.run(3, "reconcile").err
    told = []
    for _ in range(6):
        agreed.world.wait(hours=1)
        told += one_page(source, "known")
    assert told == []


def test_a_neighbour_that_takes_smaller_requests_is_compared_all_the_same(agreed: Network) -> None:
    agreed["central"].write(max_batch_items=2)
    assert quiet(agreed["source"].run(0, "reconcile"))
    lose(agreed["central"], "night/1")
    agreed["source"].run(0, "reconcile")
    agreed.until_quiet()
    assert known_at(agreed["central"]) == ALL


def test_one_neighbour_that_cannot_be_compared_delays_no_other(tmp_path: Path, world: World) -> None:
    network = make_network(tmp_path / "net", world, (("source", "central"), ("source", "other")))
    put(network["source"], "file")
    network.until_quiet()
    lose(network["other"], "file")
    world.unreachable.add(network["central"].config)
    network["source"].run(3, "reconcile")
    network.until_quiet(3)
    assert known_at(network["other"]) == ["file"]


def test_what_comparing_10_000_files_costs(pair: Network, capsys: pytest.CaptureFixture[str]) -> None:
    now = 10**15
    for name, site in pair.sites.items():
        with site.open():
            rows = [(n, f"night/{n}", 0, n, f"xxh3:::{n:032x}", "observer", "source", now) for n in range(1, 10_001)]
            insert_rows(File, ["id", "name", "kind", "size", "checksum", "uploader", "source", "create_time"], rows)
            copies = [(n, n, 1, True, 0, now) for n in range(1, 10_001)]
            insert_rows(Instance, ["id", "file_id", "store_id", "available", "deletion_policy", "create_time"], copies)
            if name == "source":
                there = [(n, Librarian.get().id, 1, now) for n in range(1, 10_001)]
                insert_rows(RemoteInstance, ["file_id", "librarian_id", "store_id", "copy_time"], there)
    begin, requests = time.monotonic(), []
    for name in ("source", "central"):
        asked = len(pair.world.asked)
        assert quiet(pair[name].run(0, "reconcile"))
        requests.append(len(pair.world.asked) - asked)
    took = time.monotonic() - begin
    say(capsys, f"10 000 files: {requests[0]} requests at the source, {requests[1]} at the destination, {took:.1f} s")
    assert max(requests) <= 20 and took < 15


def test_a_removed_destination_is_told_like_any_other_trouble_and_is_over_when_it_comes_back(agreed: Network) -> None:
    source, central = agreed["source"], agreed["central"]
    source.run(0, "remove-librarian", "--name", "central")
    put(source, "more")
    told = []
    for _ in range(30):
        told += source.run(3, "send-clone", "--destination-librarian", "central").err.splitlines()
        agreed.world.wait(minutes=1)
    assert len(told) == 1 and "it was removed" in told[0] and "add-librarian --name central" in told[0]
    add_again(agreed, "source", "central", new_password(central, "source", "--renew"))
    assert "over after" in source.run(0, "send-clone").err
    agreed.until_quiet()
    assert "more" in known_at(central)


def test_a_transfer_that_failed_there_is_told_as_that_and_waits_longer_each_time(pair: Network) -> None:
    source, central = pair["source"], pair["central"]
    put(source, "file")
    bring(pair)
    for path in central.staging.glob("*/file"):
        path.write_bytes(b"spoiled")
    pair.world.unreachable.add(source.config)
    central.run(3, "recv-clone")  # it found out, and could not say so
    pair.world.unreachable.clear()
    source.run(0, "reconcile")
    with source.open():
        (later,) = Retry.select()
        assert later.attempts == 1 and "says that it is FAILED" in later.reason
    pair.until_quiet()
    assert known_at(central) == ["file"] == thought_at(source, "central")


def test_a_copy_in_a_disabled_store_is_not_lost(agreed: Network) -> None:
    source, central = agreed["source"], agreed["central"]
    lose(central, "night/1")
    source.run(0, "set-store-state", "--store", "main", "--disabled")
    said = source.run(0, "reconcile").err
    assert "sent again" in said and "no copy" not in said
    source.run(0, "set-store-state", "--store", "main", "--enabled")
    agreed.until_quiet()
    assert known_at(central) == ALL


def test_a_copy_that_came_anew_into_another_store_is_the_only_one_that_is_recorded(agreed: Network) -> None:
    source, central = agreed["source"], agreed["central"]
    with source.open():
        night = File.get(File.name == "night/1").id
        RemoteInstance.update(store_id=77).where(RemoteInstance.file == night).execute()
    lose(central, "night/1")
    source.run(0, "reconcile")
    agreed.until_quiet()
    with source.open():
        assert [row.store_id for row in RemoteInstance.select().where(RemoteInstance.file == night)] == [1]
