"""The hypervisors: old transfers are settled with the other end, and what could not be found out changes nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from libtool.archive import hypervising, manifests, settling
from libtool.archive.hands import Budget, Tally
from libtool.models.base import current, insert_rows
from libtool.models.tables import (
    File,
    IncomingTransfer,
    Instance,
    Librarian,
    OutgoingTransfer,
    RemoteInstance,
    Retry,
    SendQueue,
    live,
)
from libtool.peers.admin import ManifestRequest
from libtool.peers.client import Answer, NoAnswer
from libtool.states import Owed, QueueStatus, TransferStatus
from tests import stock as stocks
from tests.crash import Snapshot
from tests.networks import PAIR, Databases, Network, World, end_at, make_network
from tests.sites import Ran, Site
from tests.stock import StockClient
from tests.test_network import bring, call, dump, forget_copy, known_at, put, quiet, thought_at
from tests.test_stock import Met, meeting

OUT, IN = "outgoing-transfer-hypervisor", "incoming-transfer-hypervisor"
DOUBLE = "duplicate-remote-instance-hypervisor"
#: What a run may write although it settles nothing.
NOTES = {"TaskRun", "Librarian", "Fault"}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World().take_over(monkeypatch)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Network, Snapshot]]:
    """A source and a central librarian that have nothing yet, and the way back to that."""
    monkeypatch = pytest.MonkeyPatch()
    top = tmp_path_factory.mktemp("pair") / "net"
    yield make_network(top, World().take_over(monkeypatch), PAIR), Snapshot(top)
    monkeypatch.undo()


@pytest.fixture
def pair(fresh: tuple[Network, Snapshot], world: World) -> Network:
    network, snapshot = fresh
    snapshot.restore()
    network.world = world
    for site in network.sites.values():
        site.settings = yaml.safe_load(Path(site.config).read_text())
    return network


@pytest.fixture
def any_pair(tmp_path: Path, world: World, databases: Databases) -> Network:
    """The same on each kind of database."""
    return make_network(tmp_path / "net", world, PAIR, databases)


def lose_callback(central: Site) -> None:
    """Let a librarian store everything that is staged there, and tell nobody."""
    end_at(central, "call libtool/clone/report: begin", "recv-clone")
    with central.open():
        IncomingTransfer.update(owed=Owed.NOTHING).where(IncomingTransfer.status == 3).execute()


def forget(central: Site) -> None:
    """Let a librarian forget every transfer to it, and lose what is staged."""
    with central.open():
        IncomingTransfer.delete().execute()
    for place in central.staging.iterdir():
        if place.is_dir():
            shutil.rmtree(place)


def states(site: Site, table: Any) -> list[str]:
    with site.open():
        return [row.status.name for row in table.select().order_by(table.id)]


def unchanged(network: Network, deed: Callable[[], Any], *more: str) -> Any:
    """Do something that may change nothing but notes anywhere."""
    before = {name: dump(site) for name, site in network.sites.items()}
    found = deed()
    for name, site in network.sites.items():
        after = dump(site)
        assert {table for table in after if after[table] != before[name][table]} <= NOTES | set(more), name
    return found


def ask_nobody(network: Network, deed: Callable[[], Ran]) -> Ran:
    asked = len(network.world.asked)
    ran = unchanged(network, deed)
    assert len(network.world.asked) == asked, network.world.asked[asked:]
    return ran


# -- what was sent ------------------------------------------------------------------------------------------------


def settles_a_lost_callback(network: Network) -> None:
    source, central = network["source"], network["central"]
    for n in range(3):
        put(source, f"night/{n}", b"%d" % n)
    bring(network)
    lose_callback(central)
    assert states(source, OutgoingTransfer) == ["STAGED"] * 3
    network.world.wait(hours=23)
    assert quiet(ask_nobody(network, lambda: source.run(0, OUT)))  # too young
    network.world.wait(hours=2)
    assert quiet(source.run(0, OUT))
    assert states(source, OutgoingTransfer) == ["COMPLETED"] * 3
    assert thought_at(source, "central") == [f"night/{n}" for n in range(3)]
    network.until_quiet()
    assert network.pending() == {} and len(network.world.carried) == 3
    assert quiet(ask_nobody(network, lambda: source.run(0, OUT)))


def test_a_lost_callback_ends_as_a_remote_instance(any_pair: Network) -> None:
    settles_a_lost_callback(any_pair)


def test_who_asks_is_told_what_was_settled(pair: Network) -> None:
    put(pair["source"], "file")
    bring(pair)
    lose_callback(pair["central"])
    pair.world.wait(days=2)
    said = unchanged(pair, lambda: pair["source"].run(0, OUT, "--dry-run"))
    assert said.out.splitlines() == ["'file' for central is there already and would be recorded"] and said.err == ""
    assert "1 files are at central already" in pair["source"].run(0, "-v", OUT).err
    assert pair["source"].run(0, OUT, "--dry-run").out == ""


@pytest.mark.parametrize("was", ["queued", "staged"])
def test_a_file_that_is_there_is_adopted_and_not_carried_again(pair: Network, was: str) -> None:
    """The destination forgot the transfer and has the file."""
    source, central = pair["source"], pair["central"]
    put(source, "file")
    bring(pair, "staged")
    lose_callback(central)
    with central.open():
        IncomingTransfer.delete().execute()
    if was == "queued":
        with source.open():
            OutgoingTransfer.update(status=TransferStatus.ONGOING).execute()
    pair.world.wait(days=2)
    source.run(0, OUT)
    pair.until_quiet()
    assert thought_at(source, "central") == ["file"] and pair.pending() == {}
    assert len(pair.world.carried) == 1


def test_a_file_that_came_by_another_way_is_adopted_before_it_is_asked_for(pair: Network) -> None:
    source, central = pair["source"], pair["central"]
    put(source, "file")
    pair.world.unreachable.add(central.config)
    source.run(3, "send-clone")
    pair.world.wait(days=2)
    unchanged(pair, lambda: source.run(3, OUT))
    pair.world.unreachable.clear()
    put(source, "other")
    source.run(0, "set-librarian-transfer", "--name", "central", "--disabled")
    assert states(source, OutgoingTransfer) == ["INITIATED"]
    unchanged(pair, lambda: source.run(0, OUT))  # it lacks it: that is send-clone's matter
    put(central, "file")
    source.run(0, OUT)
    assert thought_at(source, "central") == ["file"] and pair.world.carried == []


def test_what_was_forgotten_there_is_sent_again_exactly_once(pair: Network) -> None:
    source, central = pair["source"], pair["central"]
    put(source, "file")
    bring(pair)
    forget(central)
    pair.world.wait(days=2)
    assert source.run(0, OUT, "--dry-run").out.splitlines() == ["'file' for central is not there and would be sent again"]
    for _ in range(3):
        assert quiet(source.run(0, OUT))
    assert states(source, OutgoingTransfer) == ["FAILED"]
    pair.until_quiet()
    assert known_at(central) == ["file"] == thought_at(source, "central")
    assert states(source, OutgoingTransfer) == ["FAILED", "COMPLETED"] and len(pair.world.carried) == 2
    with source.open():
        assert Retry.select().count() == 0


def test_what_failed_there_counts_as_an_attempt_and_what_was_forgotten_does_not(pair: Network) -> None:
    source, central = pair["source"], pair["central"]
    put(source, "file")
    for attempts, change in enumerate((None, TransferStatus.FAILED)):
        bring(pair)
        if change is None:
            forget(central)
        else:
            with central.open():
                IncomingTransfer.update(status=change).execute()
        pair.world.wait(days=2)
        source.run(0, OUT)
        with source.open():
            (later,) = Retry.select()
            assert later.attempts == attempts and later.not_before <= pair.world.now


def test_what_lies_staged_there_is_left(pair: Network) -> None:
    source, central = pair["source"], pair["central"]
    put(source, "file")
    bring(pair)
    pair.world.wait(days=300)
    for _ in range(2):
        assert quiet(unchanged(pair, lambda: source.run(0, OUT)))
    central.run(0, "recv-clone")
    assert thought_at(source, "central") == ["file"]


@pytest.mark.parametrize("there", [TransferStatus.INITIATED, TransferStatus.ONGOING])
@pytest.mark.parametrize("here", [TransferStatus.ONGOING, TransferStatus.STAGED])
def test_a_staged_report_that_was_lost_is_told_again(pair: Network, here: TransferStatus, there: TransferStatus) -> None:
    source, central = pair["source"], pair["central"]
    put(source, "file")
    bring(pair)
    with central.open():
        IncomingTransfer.update(status=there).execute()
    with source.open():
        OutgoingTransfer.update(status=here).execute()
    pair.world.wait(hours=25)
    assert quiet(source.run(0, OUT))
    source.run(0, "check-consumed-queue")
    assert states(central, IncomingTransfer) == ["STAGED"]
    central.run(0, "recv-clone")
    assert known_at(central) == ["file"] == thought_at(source, "central")
    assert pair.pending() == {} and len(pair.world.carried) == 1


def test_other_content_there_is_parked_and_told_once(pair: Network) -> None:
    source, central = pair["source"], pair["central"]
    put(source, "file")
    bring(pair)
    forget(central)
    put(central, "file", b"other content")
    pair.world.wait(days=2)
    (line,) = source.run(3, OUT).err.splitlines()
    assert "'file'" in line and "other content" in line and "libtool retry --librarian central" in line
    for _ in range(2):
        assert quiet(source.run(0, OUT))
        pair.world.wait(days=1)
    with source.open():
        assert Retry.get().not_before is None
    assert (source.store / "file").read_bytes() == b"content" and len(pair.world.carried) == 1


def test_what_waits_for_its_place_is_parked_where_other_content_is(pair: Network) -> None:
    source, central = pair["source"], pair["central"]
    put(source, "file")
    pair.world.unreachable.add(central.config)
    source.run(3, "send-clone")
    pair.world.unreachable.clear()
    put(central, "file", b"other content")
    pair.world.wait(days=2)
    assert "'file' will not be taken by central" in source.run(3, OUT).err
    assert quiet(source.run(0, OUT))
    with source.open():
        assert Retry.get().not_before is None


def test_of_two_transfers_only_the_older_one_is_settled(pair: Network) -> None:
    source, central = pair["source"], pair["central"]
    put(source, "old")
    bring(pair)
    pair.world.wait(days=3)
    put(source, "young")
    bring(pair)
    lose_callback(central)
    source.run(0, OUT)
    assert thought_at(source, "central") == ["old"]
    for name in ("older", "younger"):
        put(source, name)
        source.run(0, "send-clone")
        pair.world.wait(days=1.5)
    with source.open():
        OutgoingTransfer.delete().where(live(OutgoingTransfer)).execute()
    central.run(0, IN)
    assert states(central, IncomingTransfer) == ["COMPLETED", "COMPLETED", "FAILED", "INITIATED"]


def test_what_was_stored_there_and_deleted_is_sent_again(pair: Network) -> None:
    source, central = pair["source"], pair["central"]
    put(source, "file")
    bring(pair)
    lose_callback(central)
    forget_copy(central, "file")
    pair.world.wait(days=2)
    source.run(0, OUT)
    assert states(source, OutgoingTransfer) == ["FAILED"] and thought_at(source, "central") == []
    pair.until_quiet()
    assert known_at(central) == ["file"] == thought_at(source, "central")


def test_what_is_in_flight_is_left_alone_however_old(pair: Network) -> None:
    source, central = pair["source"], pair["central"]
    put(source, "file")
    bring(pair, "queued")
    forget(central)
    for status in (QueueStatus.QUEUED, QueueStatus.SUBMITTING, QueueStatus.IN_FLIGHT):
        with source.open():
            SendQueue.update(status=status).execute()
        pair.world.wait(days=100)
        assert quiet(ask_nobody(pair, lambda: source.run(0, OUT)))


def test_what_a_destination_must_still_be_told_is_left_alone(pair: Network) -> None:
    put(pair["source"], "file")
    bring(pair, "carried")
    pair.world.unreachable.add(pair["central"].config)
    pair["source"].run(3, "check-consumed-queue")
    pair.world.unreachable.clear()
    pair.world.wait(days=100)
    assert quiet(ask_nobody(pair, lambda: pair["source"].run(0, OUT)))


def test_what_travels_by_hand_is_left_alone_however_old(pair: Network) -> None:
    source = pair["source"]
    put(source, "file")
    with source.open() as node:
        manifests.make(node, ManifestRequest(store_name="main", destination_librarian="central"))
        assert OutgoingTransfer.get().status is TransferStatus.ONGOING
    pair.world.wait(days=300)
    assert quiet(ask_nobody(pair, lambda: source.run(0, OUT)))
    assert quiet(ask_nobody(pair, lambda: source.run(0, OUT, "--librarian", "central")))


def test_a_removed_destination_is_not_asked_and_what_is_for_it_waits(pair: Network) -> None:
    put(pair["source"], "file")
    bring(pair)
    pair["source"].run(0, "remove-librarian", "--name", "central")
    pair.world.wait(days=30)
    assert quiet(ask_nobody(pair, lambda: pair["source"].run(0, OUT)))


def test_only_who_is_named_is_asked(tmp_path: Path, world: World) -> None:
    network = make_network(tmp_path / "net", world, (("source", "one"), ("source", "two")))
    put(network["source"], "file")
    bring(network)
    for name in ("one", "two"):
        lose_callback(network[name])
    world.wait(days=2)
    network["source"].run(0, OUT, "--librarian", "two")
    assert (thought_at(network["source"], "one"), thought_at(network["source"], "two")) == ([], ["file"])
    assert "nobody" in network["source"].run(None, OUT, "--librarian", "nobody").err


def test_one_dead_neighbour_does_not_hold_up_the_others(tmp_path: Path, world: World) -> None:
    network = make_network(tmp_path / "net", world, (("source", "one"), ("source", "two"), ("one", "three"), ("two", "three")))
    put(network["source"], "file")
    for name in ("one", "two"):
        put(network[name], f"of {name}")
    for name in ("source", "one", "two"):
        for command in ("send-clone", "consume-queue", "check-consumed-queue"):
            network[name].run(None, command)
    for name in ("one", "two"):
        lose_callback(network[name])
    with network["three"].open():
        IncomingTransfer.update(status=TransferStatus.ONGOING).execute()
    world.wait(days=3)
    world.unreachable.add(network["one"].config)
    network["source"].run(3, OUT)
    assert (thought_at(network["source"], "one"), thought_at(network["source"], "two")) == ([], ["file"])
    network["three"].run(3, IN)
    with network["three"].open():
        assert {row.source: row.status.name for row in IncomingTransfer.select()} == {"one": "ONGOING", "two": "STAGED"}


# -- what could not be found out ----------------------------------------------------------------------------------


def no_answer(answer: Answer) -> Answer:
    raise NoAnswer("the line broke")


BROKEN: dict[str, Callable[[Answer], Answer]] = {
    "no answer": no_answer,
    "500": lambda it: Answer(500, it.headers, b'{"reason": "Internal Server Error", "suggested_remedy": ""}'),
    "503": lambda it: Answer(503, it.headers, b'{"reason": "busy", "suggested_remedy": ""}'),
    "a page": lambda it: Answer(200, {"content-type": "text/html"} | dict(it.headers), b"<html><body>Login</body></html>"),
    "a page for 404": lambda it: Answer(404, {}, b"<html>Not Found</html>"),
    "truncated": lambda it: Answer(it.status, it.headers, it.body[: len(it.body) // 2]),
    "null": lambda it: Answer(200, it.headers, b"null"),
    "empty": lambda it: Answer(200, it.headers, b"{}"),
    "too few": lambda it: Answer(200, it.headers, b'{"incoming": [], "outgoing": [], "files": []}'),
    "too many": lambda it: Answer(200, it.headers, json.dumps({key: [None] * 9 for key in ("incoming", "outgoing", "files")}).encode()),
    "refused": lambda it: Answer(400, it.headers, b'{"reason": "no", "suggested_remedy": ""}'),
}


@pytest.mark.parametrize("endpoint", ["libtool/clone/states", "libtool/catalogue/known"])
@pytest.mark.parametrize("how", BROKEN)
def test_what_could_not_be_found_out_changes_nothing(pair: Network, how: str, endpoint: str) -> None:
    source, central = pair["source"], pair["central"]
    for name in ("stored", "forgotten"):
        put(source, name)
        bring(pair)
        if name == "stored":
            lose_callback(central)
    with central.open():
        IncomingTransfer.delete().where(IncomingTransfer.name == "forgotten").execute()
    pair.world.wait(days=3)

    def between(config: str, asked: str, answer: Answer) -> Answer:
        return BROKEN[how](answer) if asked == endpoint else answer

    pair.world.between = between
    ran = unchanged(pair, lambda: source.run(None, OUT))
    assert ran.code == 3
    pair.world.between = lambda config, asked, answer: answer
    source.run(None, OUT)
    assert states(source, OutgoingTransfer) == ["COMPLETED", "FAILED"]


@pytest.mark.parametrize("how", BROKEN)
def test_a_source_that_could_not_be_asked_ends_nothing(pair: Network, how: str) -> None:
    source, central = pair["source"], pair["central"]
    put(source, "file")
    bring(pair, "queued")
    with source.open():
        OutgoingTransfer.delete().execute()
    pair.world.wait(days=3)
    pair.world.between = lambda config, asked, answer: BROKEN[how](answer) if asked == "libtool/clone/states" else answer
    assert unchanged(pair, lambda: central.run(None, IN)).code == 3
    pair.world.between = lambda config, asked, answer: answer
    central.run(0, IN)
    assert states(central, IncomingTransfer) == ["FAILED"]


@pytest.mark.parametrize("who, asks", [("central", "source"), ("source", "central")])
def test_a_neighbour_that_is_down_is_told_like_any_other_trouble(pair: Network, who: str, asks: str) -> None:
    put(pair["source"], "file")
    bring(pair, "queued" if asks == "central" else "staged")
    pair.world.unreachable.add(pair[who].config)
    pair.world.wait(days=3)
    command = OUT if asks == "source" else IN
    assert unchanged(pair, lambda: pair[asks].run(3, command)).err == ""
    pair.world.wait(hours=1)
    assert "no route to host" in unchanged(pair, lambda: pair[asks].run(3, command)).err
    pair.world.unreachable.clear()
    assert "over after" in pair[asks].run(0, command).err


def test_what_changes_while_it_is_asked_about_is_left_alone(pair: Network) -> None:
    source, central = pair["source"], pair["central"]
    put(source, "file")
    bring(pair)
    pair.world.wait(days=3)

    def stored(config: str, asked: str, answer: Answer) -> Answer:
        if asked == "libtool/catalogue/known":
            pair.world.between = lambda config, asked, answer: answer
            with source.open():
                OutgoingTransfer.update(status=TransferStatus.COMPLETED).execute()
        return answer

    pair.world.between = stored
    forget(central)
    source.run(0, OUT)
    assert states(source, OutgoingTransfer) == ["COMPLETED"]


def test_what_is_staged_while_its_source_is_asked_is_left_to_recv_clone(pair: Network) -> None:
    source, central = pair["source"], pair["central"]
    put(source, "file")
    bring(pair, "queued")
    with source.open():
        OutgoingTransfer.update(status=TransferStatus.FAILED).execute()
    pair.world.wait(days=3)

    def staged(config: str, asked: str, answer: Answer) -> Answer:
        with central.open():
            IncomingTransfer.update(status=TransferStatus.STAGED).execute()
        return answer

    pair.world.between = staged
    central.run(0, IN)
    assert states(central, IncomingTransfer) == ["STAGED"]


def test_numbers_that_are_used_anew_are_not_taken_for_the_same_transfer(pair: Network) -> None:
    """The destination was restored, and its number belongs to another file's transfer now, which is staged."""
    source, central = pair["source"], pair["central"]
    put(source, "file")
    bring(pair)
    with central.open():
        IncomingTransfer.update(name="another", source_transfer_id=4711).execute()
    pair.world.wait(days=2)
    source.run(0, OUT)
    assert states(source, OutgoingTransfer) == ["FAILED"]


# -- what was to come ---------------------------------------------------------------------------------------------


def lay(site: Site, content: bytes, age: timedelta, world: World) -> None:
    """Put bytes into the staging place of the only transfer, as somebody would who wrote them that long ago."""
    with site.open() as node:
        row = IncomingTransfer.select().where(live(IncomingTransfer)).get()
        path = Path(node.store(row.store).staging_path(row.staging_id, row.name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    then = (world.now - age).timestamp()
    os.utime(path, (then, then))


def promised(site: Site) -> int:
    with site.open():
        return sum(row.size for row in IncomingTransfer.select().where(live(IncomingTransfer)))


@pytest.mark.parametrize("how", ["forgotten", "failed", "removed"])
def test_what_its_source_does_not_bring_any_more_frees_its_room(any_pair: Network, how: str) -> None:
    source, central = any_pair["source"], any_pair["central"]
    put(source, "file")
    bring(any_pair, "queued")
    if how == "removed":
        central.run(0, "remove-librarian", "--name", "source")
    with source.open():
        OutgoingTransfer.update(status=TransferStatus.FAILED).execute()
        if how == "forgotten":
            OutgoingTransfer.delete().execute()
    any_pair.world.wait(hours=47)
    assert quiet(ask_nobody(any_pair, lambda: central.run(0, IN)))
    any_pair.world.wait(hours=2)
    assert central.run(0, IN, "--dry-run").out.splitlines() == ["'file' from source would end, since nobody brings it any more"]
    assert quiet(central.run(0, IN))
    assert states(central, IncomingTransfer) == ["FAILED"] and promised(central) == 0
    central.run(0, "recv-clone")
    assert central.staged() == []
    put(central, "file", b"by somebody else")


def test_a_part_that_nobody_goes_on_with_ends_and_one_that_grows_does_not(pair: Network) -> None:
    source, central = pair["source"], pair["central"]
    put(source, "file")
    bring(pair, "queued")
    central.run(0, "remove-librarian", "--name", "source")
    pair.world.wait(days=5)
    lay(central, b"con", timedelta(hours=47), pair.world)
    assert quiet(unchanged(pair, lambda: central.run(0, IN)))
    pair.world.wait(hours=2)
    central.run(0, IN)
    assert states(central, IncomingTransfer) == ["FAILED"]


@pytest.mark.parametrize("how", ["forgotten", "failed", "removed"])
def test_what_lies_here_whole_is_read_first_since_it_may_be_the_last_copy(pair: Network, how: str) -> None:
    source, central = pair["source"], pair["central"]
    put(source, "file")
    bring(pair, "carried")
    if how == "removed":
        central.run(0, "remove-librarian", "--name", "source")
    with source.open():
        OutgoingTransfer.update(status=TransferStatus.FAILED, owed=Owed.NOTHING).execute()
        if how == "forgotten":
            OutgoingTransfer.delete().execute()
    pair.world.wait(days=3)
    said = central.run(0, IN, "--dry-run").out
    assert "'file' from source seems to lie here and would be read by recv-clone" in said
    assert quiet(central.run(0, IN))
    central.run(None, "recv-clone")
    assert known_at(central) == ["file"]


def test_a_directory_that_lies_here_whole_is_read(pair: Network, tmp_path: Path) -> None:
    source, central = pair["source"], pair["central"]
    for name, content in (("one", b"1"), ("in/two", b"22"), ("empty", b"")):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    source.run(0, "ingest", str(tmp_path / "tree"))
    bring(pair, "carried")
    with source.open():
        OutgoingTransfer.delete().execute()
    pair.world.wait(days=3)
    central.run(0, IN)
    central.run(None, "recv-clone")
    assert known_at(central) == ["tree"]


def test_what_its_source_thinks_has_arrived_is_read_and_the_source_hears_of_it(any_pair: Network) -> None:
    source, central = any_pair["source"], any_pair["central"]
    for name in ("arrived", "vanished"):
        put(source, name, name.encode())
    bring(any_pair)
    with central.open():
        IncomingTransfer.update(status=TransferStatus.INITIATED).execute()
    for path in central.staging.glob("*/vanished"):
        path.unlink()
    any_pair.world.wait(days=3)
    assert quiet(central.run(0, IN))
    central.run(None, "recv-clone")
    assert thought_at(source, "central") == ["arrived"] == known_at(central)
    any_pair.until_quiet()
    assert thought_at(source, "central") == ["arrived", "vanished"] == known_at(central)


def test_what_its_source_goes_on_with_is_left_alone_however_old(pair: Network) -> None:
    put(pair["source"], "file")
    bring(pair, "queued")
    pair.world.wait(days=300)
    assert quiet(unchanged(pair, lambda: pair["central"].run(0, IN)))


def test_what_is_staged_here_is_recv_clones_whatever_its_source_says(pair: Network) -> None:
    put(pair["source"], "file")
    bring(pair)
    with pair["source"].open():
        OutgoingTransfer.delete().execute()
    pair.world.wait(days=30)
    assert quiet(ask_nobody(pair, lambda: pair["central"].run(0, IN)))


def test_a_store_that_is_away_says_nothing_about_what_lies_in_it(pair: Network) -> None:
    source, central = pair["source"], pair["central"]
    put(source, "file")
    bring(pair, "queued")
    with source.open():
        OutgoingTransfer.delete().execute()
    pair.world.wait(days=3)
    central.staging.rename(central.staging.with_name("unmounted"))
    unchanged(pair, lambda: central.run(0, IN))
    central.staging.with_name("unmounted").rename(central.staging)
    central.run(0, "set-store-state", "--store", "main", "--disabled")
    unchanged(pair, lambda: central.run(0, IN))
    central.run(0, "set-store-state", "--store", "main", "--enabled")
    central.run(0, IN)
    assert states(central, IncomingTransfer) == ["FAILED"]


# -- uploads ------------------------------------------------------------------------------------------------------


@pytest.fixture
def upload(pair: Network) -> Network:
    """A person's client has asked the central librarian for a place for one file of seven bytes, and is silent since."""
    from xxhash import xxh3_128

    pair["central"].run(0, "create-user", "--username", "alice", "--auth-level", "READAPPEND")
    body = {"upload_size": 7, "upload_checksum": f"xxh3:::{xxh3_128(b'content').hexdigest()}", "upload_name": "file"}
    status, _ = call(pair["central"], "alice", "upload/stage", **body, destination_location="file", uploader="alice")
    assert status in (200, 201)
    return pair


def test_an_abandoned_upload_ends(upload: Network) -> None:
    central = upload["central"]
    upload.world.wait(hours=47)
    assert quiet(unchanged(upload, lambda: central.run(0, IN)))
    upload.world.wait(hours=2)
    assert quiet(central.run(0, IN))
    assert states(central, IncomingTransfer) == ["FAILED"] and promised(central) == 0
    central.run(0, "recv-clone")
    assert central.staged() == []


def test_a_slow_upload_does_not_end(upload: Network) -> None:
    central = upload["central"]
    for n in range(1, 7):
        upload.world.wait(days=3)
        lay(central, b"content"[:n], timedelta(hours=40), upload.world)
        assert quiet(unchanged(upload, lambda: central.run(0, IN)))
    upload.world.wait(days=3)
    assert quiet(central.run(0, IN))
    assert states(central, IncomingTransfer) == ["FAILED"]


def test_an_upload_that_is_whole_and_was_never_committed_is_taken_in(upload: Network) -> None:
    central = upload["central"]
    upload.world.wait(days=5)
    lay(central, b"content", timedelta(hours=1), upload.world)
    assert quiet(unchanged(upload, lambda: central.run(0, IN)))
    upload.world.wait(days=5)
    assert "1 files from alice seem to lie here" in central.run(0, "-v", IN).err
    central.run(0, "recv-clone")
    assert known_at(central) == ["file"] and upload.pending() == {}


def test_an_upload_that_is_at_work_is_left_alone(upload: Network) -> None:
    with upload["central"].open():
        IncomingTransfer.update(claim="ingest-1").execute()
    upload.world.wait(days=30)
    assert quiet(ask_nobody(upload, lambda: upload["central"].run(0, IN)))


def test_uploads_are_left_out_when_a_librarian_is_named(upload: Network) -> None:
    upload.world.wait(days=30)
    assert quiet(ask_nobody(upload, lambda: upload["central"].run(0, IN, "--librarian", "source")))


# -- what it costs ------------------------------------------------------------------------------------------------


def aged(pair: Network, count: int) -> None:
    """So many transfers of which the callback was lost, and half of them forgotten at the destination."""
    now = 10**15
    columns = ["id", "name", "kind", "size", "checksum", "uploader", "source", "create_time"]
    for name, site in pair.sites.items():
        with site.open():
            insert_rows(File, columns, [(n, f"night/{n}", 0, n, f"xxh3:::{n:032x}", "observer", "source", now) for n in range(1, count + 1)])
            copies = [(n, n, 1, True, 0, now) for n in range(1, count + 1)]
            insert_rows(Instance, ["id", "file_id", "store_id", "available", "deletion_policy", "create_time"], copies)
            if name == "source":
                there = Librarian.get().id
                rows = [(n, n, there, 2, 0, n, now) for n in range(1, count + 1)]
                insert_rows(OutgoingTransfer, ["id", "file_id", "destination_id", "status", "owed", "remote_id", "create_time"], rows)


@pytest.mark.parametrize("transfers", [10_000])
def test_old_transfers_cost_requests_in_proportion_to_batches(pair: Network, transfers: int) -> None:
    aged(pair, transfers)
    assert quiet(pair["source"].run(0, OUT))
    asked = Counter(endpoint for _, endpoint in pair.world.asked)
    batches = transfers // settling.PAGE
    assert asked["libtool/clone/states"] == asked["libtool/catalogue/known"] == batches
    assert sum(asked.values()) <= 2 * batches + 2, asked
    with pair["source"].open():
        assert RemoteInstance.select().count() == transfers
        assert not OutgoingTransfer.select().where(live(OutgoingTransfer)).exists()


def test_a_run_that_is_cut_goes_on_with_the_others(pair: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even when what it meets first can never be settled."""
    monkeypatch.setattr(settling, "PAGE", 3)
    aged(pair, 30)
    with pair["central"].open():  # these stay as they are: they are staged there
        rows = [(n, f"night/{n}", n, "", "observer", "source", n, 2, 0, 1, 10**15) for n in range(1, 16)]
        columns = ["id", "name", "size", "checksum", "uploader", "source", "source_transfer_id", "status", "owed", "store_id", "create_time"]
        insert_rows(IncomingTransfer, columns, rows)
    for _ in range(200):
        tally = Tally()
        with pair["source"].open() as node:
            hypervising.settle_outgoing(node, (), timedelta(days=1), Budget(0, lambda: 1.0), tally)
        assert tally.done <= 3
        if len(thought_at(pair["source"], "central")) == 15:
            return
    raise AssertionError(thought_at(pair["source"], "central"))


def test_what_is_looked_at_is_found_by_indexes_of_what_is_live(any_pair: Network) -> None:
    """However long the history is."""
    if any_pair["source"].settings.get("database"):
        pytest.skip("PostgreSQL chooses its plans by the size of its tables")
    with any_pair["source"].open():
        row = Librarian.get()
        for query in (
            OutgoingTransfer.select(OutgoingTransfer.id).where(settling._idle(row, row.last_seen or any_pair.world.now)),
            IncomingTransfer.select(IncomingTransfer.id).where(settling._coming("x", any_pair.world.now, numbered=True)),
        ):
            sql, parameters = query.sql()
            plan = [line[-1] for line in current().execute_sql(f"EXPLAIN QUERY PLAN {sql}", parameters)]
            assert any(" USING" in line and "INDEX" in line for line in plan[:1]), plan


# -- beside stock librarians --------------------------------------------------------------------------------------


@pytest.fixture
def met(tmp_path: Path, world: World) -> Iterator[Met]:
    """A libtool and a stock librarian that may send to each other."""
    with meeting(tmp_path, "READAPPEND") as found:
        found.world = world  # type: ignore[attr-defined]
        yield found


def later(met: Met, expect: int | None, command: str) -> Ran:
    """Run a hypervisor three days later."""
    met.world.wait(days=3)  # type: ignore[attr-defined]
    return met.a.run(expect, command)


def deaf(met: Met) -> StockClient:
    """Let what the stock librarian says to us get lost; returns the way back."""
    before = met.b.peers["a"]
    met.b.peers["a"] = StockClient("http://127.0.0.1/a/", 1, "b", "x")
    return before


def test_stock_tried_to_call_back_once_and_is_asked(met: Met, tmp_path: Path) -> None:
    files = {f"f/{n}": b"%d" % n for n in range(5)}
    met.ingest(tmp_path / "in", files)
    met.sending()
    deaf(met)
    met.b.receive()
    met.b.asked.clear()
    assert quiet(later(met, 0, OUT))
    met.whole(files)
    assert met.endpoints()["checkin/status"] == 1 and met.endpoints()["search/file"] == 5
    assert met.quiet()
    met.b.asked.clear()
    assert quiet(later(met, 0, OUT)) and not met.b.asked


def test_what_stock_forgot_is_sent_again_exactly_once(met: Met, tmp_path: Path) -> None:
    met.ingest(tmp_path / "in", {"file": b"1"})
    met.sending()
    for row in met.b.incoming.values():
        row.status = stocks.FAILED
        shutil.rmtree(row.staging)
    met.b.incoming.clear()
    for _ in range(3):
        assert quiet(later(met, 0, OUT))
    met.until_quiet()
    met.whole({"file": b"1"})
    assert states(met.a, OutgoingTransfer) == ["FAILED", "COMPLETED"]


@pytest.mark.parametrize("endpoint", ["checkin/status", "search/file"])
@pytest.mark.parametrize("how", ["lose", "500", "html"])
def test_what_stock_could_not_say_changes_nothing(met: Met, tmp_path: Path, endpoint: str, how: str) -> None:
    met.ingest(tmp_path / "in", {f"f/{n}": b"%d" % n for n in range(2)})
    met.sending()
    for row in met.b.incoming.values():
        shutil.rmtree(row.staging)
    met.b.incoming.clear()
    before = dump(met.a)
    met.b.fault(endpoint, how, 99)
    later(met, None, OUT)
    after = dump(met.a)
    assert {table for table in after if after[table] != before[table]} <= NOTES


@pytest.mark.parametrize("body", [b"null", b"[]", b'[{"name": "file"}]', b'{"detail": "Not Found"}'])
def test_what_stock_says_and_is_no_answer_changes_nothing(met: Met, tmp_path: Path, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    met.ingest(tmp_path / "in", {"file": b"1"})
    met.sending()
    shutil.rmtree(next(iter(met.b.incoming.values())).staging)
    met.b.incoming.clear()
    before = dump(met.a)
    status = 404 if b"detail" in body else 200
    monkeypatch.setattr(met.b, "_search_file", lambda *words: stocks.Reply(status, json.loads(body)))
    later(met, None, OUT)
    after = dump(met.a)
    assert {table for table in after if after[table] != before[table]} <= NOTES


def test_one_file_that_stock_chokes_on_does_not_hold_up_the_others(met: Met, tmp_path: Path) -> None:
    files = {f"f/{n}": b"%d" % n for n in range(5)}
    met.ingest(tmp_path / "in", files)
    met.sending()
    deaf(met)
    met.b.receive()
    met.b.fault("search/file", "html", 1)
    later(met, None, OUT)
    assert len(met.remote()) == 4
    later(met, 0, OUT)
    assert len(met.remote()) == 5


def test_a_stock_server_that_refuses_to_say_how_far_it_is_is_searched(met: Met, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    met.ingest(tmp_path / "in", {"stored": b"1", "nowhere": b"2"})
    met.sending()
    deaf(met)
    met.b.receive()
    held = met.b.files.pop("nowhere")
    held.path.unlink()
    monkeypatch.setattr(met.b, "_checkin_status", lambda *words: stocks.Reply(400, {"reason": "no", "suggested_remedy": ""}))
    later(met, 0, OUT)
    assert list(met.remote()) == ["stored"]
    with met.a.open():
        assert OutgoingTransfer.select().where(live(OutgoingTransfer)).count() == 1


def test_a_copy_at_stock_that_is_not_available_or_not_the_same_is_none(met: Met, tmp_path: Path) -> None:
    met.ingest(tmp_path / "in", {"gone": b"1", "other": b"2", "longer": b"3", "kind": b"4"})
    met.sending()
    deaf(met)
    met.b.receive()
    met.b.files["gone"].available = False
    met.b.hold("other", b"5")
    met.b.files["longer"].size += 1
    met.b.files["kind"].checksum = "md5:::a87ff679a2f3e71d9181a67b7542122c"
    ran = later(met, 3, OUT)
    assert not met.remote() and len(ran.err.splitlines()) == 3, ran.err
    assert "another kind" in next(line for line in ran.err.splitlines() if "'kind'" in line)
    with met.a.open():
        parked = {row.file.name for row in Retry.select() if row.not_before is None}
        assert parked == {"other", "longer", "kind"} and Retry.select().count() == 4


def test_what_stock_holds_staged_is_left(met: Met, tmp_path: Path) -> None:
    met.ingest(tmp_path / "in", {"file": b"1"})
    met.sending()
    before = dump(met.a)
    assert quiet(later(met, 0, OUT))
    after = dump(met.a)
    assert {table for table in after if after[table] != before[table]} <= NOTES
    assert met.endpoints()["search/file"] == 0
    met.b.receive()
    met.whole({"file": b"1"})


def test_stock_is_told_again_that_it_is_staged(met: Met, tmp_path: Path) -> None:
    met.ingest(tmp_path / "in", {"file": b"1"})
    met.sending()
    for row in met.b.incoming.values():
        row.status = stocks.ONGOING
    later(met, 0, OUT)
    met.a.run(0, "check-consumed-queue")
    met.b.receive()
    met.whole({"file": b"1"})


def test_a_stock_source_is_asked_about_what_it_was_to_bring(met: Met, tmp_path: Path) -> None:
    for name in ("arrived", "failed", "forgotten", "coming"):
        met.b.hold(name, name.encode())
    met.b.send("a")
    met.b.consume()
    for row in list(met.b.outgoing.values()):
        place = Path(row.location)
        if row.name in ("failed", "forgotten", "coming"):
            place.unlink()
        if row.name == "arrived":
            row.status = stocks.STAGED
        if row.name == "failed":
            row.status = stocks.FAILED
        if row.name == "forgotten":
            del met.b.outgoing[row.id]
    met.b.asked.clear()
    assert quiet(later(met, 0, IN))
    assert met.endpoints()["checkin/status"] == 1
    with met.a.open():
        found = {row.name: row.status.name for row in IncomingTransfer.select()}
    assert found == {"arrived": "STAGED", "failed": "FAILED", "forgotten": "FAILED", "coming": "ONGOING"}
    met.a.run(0, "recv-clone")
    assert known_at(met.a) == ["arrived"]


@pytest.mark.parametrize("how", ["lose", "500", "html", "refuse"])
def test_a_stock_source_that_could_not_be_asked_ends_nothing(met: Met, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    met.b.hold("file", b"1")
    met.b.send("a")
    met.b.outgoing.clear()
    if how == "refuse":
        monkeypatch.setattr(met.b, "_checkin_status", lambda *words: stocks.Reply(400, {"reason": "no", "suggested_remedy": ""}))
    else:
        met.b.fault("checkin/status", how, 99)
    before = dump(met.a)
    later(met, None, IN)
    after = dump(met.a)
    assert {table for table in after if after[table] != before[table]} <= NOTES


# -- records that are there twice ---------------------------------------------------------------------------------

INDEX = "remote_instance_file_id_librarian_id_store_id"


def doubled(site: Site, copies: int) -> None:
    """A catalogue from elsewhere: without the index, and with so many records of each copy, the oldest in the middle."""
    with site.open():
        current().execute_sql(f'DROP INDEX "{INDEX}"')
        there = Librarian.get().id
        for row in list(File.select()):
            rows = [(row.id, there, store, 10**15 + (n - 1) ** 2) for store in (1, 2) for n in range(copies)]
            insert_rows(RemoteInstance, ["file_id", "librarian_id", "store_id", "copy_time"], rows)


@pytest.mark.parametrize("portion", [10_000, 4])
def test_records_that_are_there_twice_are_mended(any_pair: Network, portion: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from libtool.archive import duplicates

    monkeypatch.setattr(duplicates, "PORTION", portion)
    source = any_pair["source"]
    for n in range(4):
        put(source, f"night/{n}")
    assert quiet(unchanged(any_pair, lambda: source.run(0, DOUBLE)))
    doubled(source, 3)
    said = unchanged(any_pair, lambda: source.run(0, DOUBLE, "--dry-run")).out
    assert said.startswith("16 records ")
    assert quiet(source.run(0, DOUBLE))
    with source.open():
        assert duplicates.indexed()
        rows = RemoteInstance.select().order_by(RemoteInstance.file, RemoteInstance.store_id)
        assert [(row.store_id, row.copy_time.microsecond) for row in rows] == [(1, 0), (2, 0)] * 4
    assert quiet(unchanged(any_pair, lambda: source.run(0, DOUBLE)))
    with source.open():
        (index,) = [it for it in current().get_indexes("remote_instance") if it.unique and it.name == INDEX]
        assert index.columns == ["file_id", "librarian_id", "store_id"]


def test_where_the_index_is_there_the_records_are_not_looked_at(pair: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    from libtool.archive import duplicates

    monkeypatch.setattr(duplicates, "_later", lambda: pytest.fail("it looked"))
    assert quiet(pair["source"].run(0, DOUBLE)) and pair["source"].run(0, DOUBLE, "--dry-run").out == ""


# -- the ages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "out, into, warned",
    [(None, None, False), (2, None, True), (None, 1, True), (None, 0.5, True), (1, 1.5, False), (3, 3, True), (3, 4, False)],
)
def test_setup_warns_of_ages_that_do_not_fit(pair: Network, out: float | None, into: float | None, warned: bool) -> None:
    site = pair["source"]
    ages = {name: {"age_in_days": age} for name, age in ((OUT, out), (IN, into)) if age is not None}
    site.write(commands=site.settings["commands"] | ages)
    said = site.run(0, "setup").err
    assert ("incoming transfers are settled" in said) is warned, said
    assert not warned or "carried again" in said


@pytest.mark.parametrize("command", [OUT, IN])
def test_an_age_that_is_none_is_a_usage_error(pair: Network, command: str) -> None:
    for age in ("0", "-1", "x", "1e9"):
        assert pair["source"].run(2, command, "--age-in-days", age).err
