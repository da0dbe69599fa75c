"""The last good copy is never deleted: copies go when others were read and found right, and whatever is not known keeps them.

``LIBTOOL_TEST_SEED=n`` walks another way through deletions, damage, restores and purges.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from libtool import digest
from libtool.archive import deleting, evidence, proving, removing, verifying
from libtool.models.tables import File, Instance, Librarian, OutgoingTransfer, RemoteInstance, Removal, Retry, Store
from libtool.peers.client import Answer
from libtool.states import Condition, Owed, Proof, RemovalStatus, TransferStatus
from libtool.stores import posix
from libtool.stores.posix import PosixStore
from tests import crash, test_stock
from tests.crash import Counter, Snapshot
from tests.deletion import (
    ASIDE,
    DELETE,
    DISALLOWED,
    VALIDATE,
    Held,
    aside,
    available,
    change,
    flip,
    instance,
    lying_aside,
    make_held,
    removals,
    state,
)
from tests.networks import World, end_at
from tests.sites import Ran, Site
from tests.stock import Stock

FILES = {"n/one": b"1" * 100, "n/two": b"2" * 100, "three": b"3" * 60, "d/a": b"a" * 30, "d/in/b": b"b" * 31}
NAMES = ["d", "n/one", "n/two", "three"]
CLOCK = World().now


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """One process, one clock."""
    return World().take_over(monkeypatch)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Held, Snapshot, Any]:
    """Three librarians that have everything, and the way back to that."""
    top = tmp_path_factory.mktemp("held")
    with pytest.MonkeyPatch.context() as monkeypatch:
        world = World().take_over(monkeypatch)
        made = make_held(top, world, FILES, trees=("d",))
        return made, Snapshot(top / "net"), world.now


@pytest.fixture
def held(once: tuple[Held, Snapshot, Any], world: World) -> Held:
    """The same, as it was in the beginning: each copy forty days old and allowed to go."""
    made, snapshot, now = once
    snapshot.restore()
    world.now = now
    made.world = made.network.world = world
    return made


def stays(held: Held, *names: str, who: str = "origin") -> bool:
    """Whether these still are where they were, and count."""
    site = held[who]
    return all(name in available(site) and held.good(name)[who] for name in names) and not set(names) & {
        name for name, _, status in removals(site) if status != "RETURNED"
    }


#: A line of three, or the same closed.
CIRCLE = (("a", "b"), ("b", "c"), ("c", "a"))


def everybody_knows(held: Held) -> None:
    """Who sends and who was sent to know of each other's copies, as after a catalogue was compared."""
    for site in held.network.sites.values():
        with site.open() as node:
            for librarian, file in itertools.product(list(Librarian.select()), list(File.select())):
                row = {"librarian": librarian, "file": file, "store_id": 1, "copy_time": node.now()}
                RemoteInstance.insert(row).on_conflict_ignore().execute()


# -- going -----------------------------------------------------------------------------------------------------------


def test_copies_go_when_all_others_were_read_in_this_run(held: Held) -> None:
    assert held.delete("origin").code == 0
    origin = held["origin"]
    assert removals(origin) == [(name, "DELETED", "ASIDE") for name in ("d", "n/one", "n/two", "three")] or sorted(
        removals(origin)
    ) == [(name, "DELETED", "ASIDE") for name in NAMES]
    assert available(origin) == [] and origin.stored() == {} and lying_aside(origin) == FILES
    assert not (origin.store / "n").exists() and (origin.store / ".libtool-store").exists()
    for name in ("hub", "archive"):
        for file in NAMES:
            row = instance(held[name], file)
            assert row.verified_time == held.world.now and row.verified_how is Proof.REQUEST
            assert row.held_until == held.world.now + evidence.HOLD
    with origin.open():
        for row in Removal.select():
            assert row.actor.startswith("rolling-deletion by ") and row.create_time == held.world.now
            assert row.reason == "proved at archive (store 1), hub (store 1)" and row.copies == 2
            assert row.purge_time == held.world.now + timedelta(days=7)
    found = json.loads(origin.run(0, "search-files", "--name", "three", "-F", "json").out)
    assert [each["available"] for each in found[0]["instances"]] in ([], [False])


def test_what_went_is_purged_when_its_time_is_over_and_the_others_are_proved_once_more(held: Held) -> None:
    held.delete("origin")
    held.world.wait(days=7, seconds=-1)
    held.delete("origin", expect=0)
    assert lying_aside(held["origin"]) == FILES
    held.world.wait(seconds=1)
    asked = len(held.world.asked)
    held.delete("origin", expect=0)
    assert len(held.world.asked) > asked
    assert aside(held["origin"]) == [] and {status for _, _, status in removals(held["origin"])} == {"PURGED"}
    assert all(held.good(name) == {"hub": 1, "archive": 1} for name in NAMES if name != "d")


def test_too_few_librarians_keep_everything_and_nobody_is_asked(held: Held) -> None:
    held.delete("origin", copies=3, expect=0)
    assert stays(held, *NAMES) and held.world.asked == []
    held.delete("hub", copies=2, expect=0)
    assert stays(held, *NAMES, who="hub")


def test_what_is_not_even_asked_about_is_counted_for_who_asks(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = held["origin"]
    with origin.open():
        for name, changes in (("three", {"deletion_policy": 0}), ("d", {"condition": Condition.UNREADABLE})):
            Instance.update(**changes).where(Instance.file == File.get(File.name == name)).execute()
    few = [*DELETE, "--number-of-remote-copies", "3"]
    lines = [
        "1 copies in main stay: their deletion policy is DISALLOWED",
        "1 copies in main stay: they could not be read when that was last tried",
        "2 copies in main stay: 2 of the 3 other copies that must be proved are known",
    ]
    assert origin.run(0, *few, "--dry-run").out.splitlines() == lines
    assert origin.run(0, "-v", *few).err.splitlines() == lines
    ran = origin.run(0, *few)
    assert (ran.out, ran.err) == ("", "")
    monkeypatch.setattr(PosixStore, "space", lambda store: (100, 50))
    assert "nothing has to go from main: enough is free" in origin.run(0, *few, "--dry-run", "--start-below", "10%").out


def test_silence_under_cron(held: Held) -> None:
    ran = held["origin"].run(0, *DELETE, "--number-of-remote-copies", "2")
    assert (ran.out, ran.err) == ("", "")
    ran = held["origin"].run(0, *DELETE, "--number-of-remote-copies", "2")
    assert (ran.out, ran.err) == ("", "")


# -- staying ---------------------------------------------------------------------------------------------------------


def spoil(held: Held, how: str, name: str) -> None:
    """Something is wrong with the copy of ``three`` at one holder, and with no other."""
    site = held[name]
    path = site.store / "three"
    if how == "a bit flipped":
        flip(path)
    elif how == "shorter":
        path.write_bytes(b"3" * 59)
    elif how == "gone":
        path.unlink()
    elif how == "a link":
        path.unlink()
        path.symlink_to("n/one")
    elif how == "a directory":
        path.unlink()
        path.mkdir()
    elif how == "unreadable":
        path.unlink()
        os.mkfifo(path)
    elif how == "known to be damaged":
        change(site, "three", condition=Condition.DAMAGED, available=False)
    elif how == "removed there":
        change(site, "three", available=False)


@pytest.mark.parametrize(
    "how",
    ["a bit flipped", "shorter", "gone", "a link", "a directory", "unreadable", "known to be damaged", "removed there"],
)
@pytest.mark.parametrize("copies", [1, 2])
def test_a_bad_copy_at_a_holder_keeps_ours(held: Held, how: str, copies: int) -> None:
    spoil(held, how, "hub")
    held.delete("origin", copies=copies)
    if how == "removed there" and copies == 1:
        assert "three" not in available(held["origin"])  # nothing speaks against the one that is there
    else:
        assert stays(held, "three")
    assert available(held["origin"]) == [name for name in NAMES if name == "three" and stays(held, "three")]


def test_an_unmounted_store_of_a_holder_says_nothing_and_keeps_everything(held: Held) -> None:
    (held["hub"].store / ".libtool-store").rename(held["hub"].directory / "mark")
    held.delete("origin")
    assert stays(held, *NAMES)
    assert len(available(held["hub"])) == 4  # and nothing there counts as missing
    (held["hub"].directory / "mark").rename(held["hub"].store / ".libtool-store")
    held.delete("origin")
    assert available(held["origin"]) == []


def test_a_disabled_store_of_a_holder_does_not_count(held: Held) -> None:
    held["hub"].run(0, "set-store-state", "--store", "main", "--disabled")
    held.delete("origin", expect=0)
    assert stays(held, *NAMES)


def test_an_unreachable_holder_keeps_everything_it_counts_for(held: Held) -> None:
    held.world.unreachable = {held["hub"].config}
    ran = held["origin"].run(3, *DELETE, "--number-of-remote-copies", "2")
    assert (ran.out, ran.err) == ("", "") and stays(held, *NAMES)
    held.world.unreachable = set()
    held.delete("origin", expect=0)
    assert available(held["origin"]) == []


def test_one_dead_neighbour_does_not_hold_up_what_the_others_prove(held: Held) -> None:
    held.world.unreachable = {held["hub"].config}
    held.delete("origin", copies=1, expect=3)
    assert available(held["origin"]) == []


@pytest.mark.parametrize("kind", ["half", "html", "500", "too few", "none", "401", "400"])
def test_an_answer_that_says_nothing_keeps_everything(held: Held, kind: str) -> None:
    def between(config: str, endpoint: str, answer: Answer) -> Answer:
        if endpoint != VALIDATE or config != held["hub"].config:
            return answer
        body = json.loads(answer.body)
        said = {"half": answer.body[:-9], "html": b"<html>", "too few": json.dumps({"files": body["files"][:-1]}).encode()}
        said |= {"none": json.dumps({"files": [None] * len(body["files"])}).encode()}
        status = {"500": 500, "html": 502, "401": 401, "400": 400}.get(kind, 200)
        return Answer(status, answer.headers, said.get(kind, answer.body))

    held.world.between = between
    held.delete("origin")
    assert stays(held, *NAMES)


@pytest.mark.parametrize(
    "field, value",
    [
        ("librarian", "archive"),
        ("librarian", "origin"),
        ("good", None),
        ("good", False),
        ("age", 1e6),
        ("size", 1),
        ("checksum", "xxh3:::00"),
        ("checksum", "md5:::00"),
    ],
)
def test_what_a_holder_says_of_something_else_does_not_count(held: Held, field: str, value: Any) -> None:
    def between(config: str, endpoint: str, answer: Answer) -> Answer:
        if endpoint != VALIDATE or config != held["hub"].config:
            return answer
        body = json.loads(answer.body)
        for copies in body["files"]:
            for each in copies:
                each[field] = value
        return Answer(answer.status, answer.headers, json.dumps(body).encode())

    held.world.between = between
    held.delete("origin")
    assert stays(held, *NAMES)


def test_the_same_copy_told_twice_counts_once(held: Held) -> None:
    def between(config: str, endpoint: str, answer: Answer) -> Answer:
        if endpoint != VALIDATE:
            return answer
        body = json.loads(answer.body)
        if config == held["hub"].config:
            body["files"] = [[*copies, *copies] for copies in body["files"]]
        else:
            body["files"] = [[] for _ in body["files"]]
        return Answer(answer.status, answer.headers, json.dumps(body).encode())

    held.world.between = between
    held.delete("origin")
    assert stays(held, *NAMES)


def test_what_there_was_no_time_to_read_is_read_first_by_check_integrity_and_then_counts_with_an_age(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proving, "RATE", 1.0)  # a byte takes a second
    held.delete("origin")
    assert stays(held, *NAMES)
    hub = held["hub"]
    assert instance(hub, "n/one").asked_time == held.world.now
    order = hub.run(0, "check-integrity", "--dry-run", "--age-in-days", "9999").out.splitlines()
    assert len(order) == 4 and all("main" in line for line in order)
    for name in ("hub", "archive"):
        held[name].run(0, "check-integrity", "--age-in-days", "9999")
        assert instance(held[name], "n/one").asked_time is None
    held.world.wait(seconds=1)
    held.delete("origin")
    assert stays(held, *NAMES)  # asked to read now, they again have no time
    held.world.wait(minutes=30)
    held.delete("origin", "--max-age", "10m")
    assert stays(held, *NAMES)
    held.delete("origin", "--max-age", "1h", expect=0)
    assert available(held["origin"]) == []


def test_without_verification_what_was_read_within_thirty_days_counts(held: Held) -> None:
    held.delete("origin", "--no-verify-downstream-checksums")  # forty days ago: read anew
    assert available(held["origin"]) == []
    assert instance(held["hub"], "three").verified_how is Proof.REQUEST


def test_without_verification_nothing_is_read_that_was_read_lately(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hub", "archive"):
        held[name].run(0, "check-integrity", "--age-in-days", "1")
    held.world.wait(days=29)
    flip(held["hub"].store / "three")  # nobody has seen it
    held.delete("origin", "--no-verify-downstream-checksums", expect=0)
    assert available(held["origin"]) == [] and instance(held["hub"], "three").verified_how is Proof.CHECK
    held.world.wait(days=8)
    held.delete("origin")  # purging reads
    assert lying_aside(held["origin"]) == {"three": FILES["three"]}


# -- what needs it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", list(TransferStatus))
@pytest.mark.parametrize("which", ["this copy", "any copy"])
def test_a_copy_that_a_live_transfer_reads_stays(held: Held, status: TransferStatus, which: str) -> None:
    origin = held["origin"]
    with origin.open() as node:
        file, hub = File.get(File.name == "three"), Librarian.get(Librarian.name == "hub")
        store = Store.get() if which == "this copy" else None
        OutgoingTransfer.create(
            file=file, destination=hub, status=status, owed=Owed.NOTHING, store=store, create_time=node.now()
        )
    held.delete("origin")
    live = status < TransferStatus.COMPLETED
    assert available(origin) == (["three"] if live else [])
    assert not live or stays(held, "three")
    if live:
        ran = origin.run(3, "delete-instance", "three", "--store", "main", "--force", "--yes")
        assert "transfer" in ran.err and stays(held, "three")


def test_a_file_that_is_to_be_sent_again_keeps_its_only_copy_here(held: Held) -> None:
    origin = held["origin"]
    with origin.open() as node:
        file, hub = File.get(File.name == "three"), Librarian.get(Librarian.name == "hub")
        Retry.create(file=file, destination=hub, attempts=1, not_before=node.now() + timedelta(days=1), reason="x")
    held.delete("origin")
    assert available(origin) == ["three"] and stays(held, "three")


def test_a_transfer_that_begins_while_a_copy_is_read_keeps_it(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    real = verifying.read

    def begins(store: Any, copy: Any) -> Any:
        if store.root == str(held["origin"].store) and not OutgoingTransfer.select().where(OutgoingTransfer.status == 0).exists():
            hub = Librarian.get(Librarian.name == "hub")
            OutgoingTransfer.create(file=copy.file, destination=hub, status=TransferStatus.INITIATED, create_time=held.world.now)
        return real(store, copy)

    monkeypatch.setattr(verifying, "read", begins)
    ran = held.delete("origin")
    assert len(available(held["origin"])) == 1 and "a transfer that has not ended reads it" in ran.err


def test_a_deletion_policy_is_a_hold(held: Held) -> None:
    held["origin"].run(0, "set-deletion-policy", "--policy", "disallowed", "three")
    held.delete("origin", expect=0)
    assert available(held["origin"]) == ["three"] and stays(held, "three")
    ran = held["origin"].run(3, "delete-instance", "three", "--store", "main")
    assert "DISALLOWED" in ran.err and stays(held, "three")


def test_a_policy_that_is_set_while_a_copy_is_read_holds_it(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    real = deleting.let_go

    def just_now(*words: Any, **more: Any) -> Any:
        Instance.update(deletion_policy=DISALLOWED).execute()
        return real(*words, **more)

    monkeypatch.setattr(deleting, "let_go", just_now)
    held.delete("origin")
    assert stays(held, *NAMES)


def test_a_copy_that_a_neighbour_counts_on_stays_until_that_is_over(held: Held) -> None:
    held.delete("origin", expect=0)  # asks the others to keep theirs
    everybody_knows(held)
    ran = held.delete("hub", copies=1)
    assert stays(held, *NAMES, who="hub") and "a neighbour counts on it" in ran.err
    ran = held["hub"].run(3, "delete-instance", "three", "--store", "main", "--force", "--yes")
    assert "a neighbour counts on it" in ran.err and stays(held, "three", who="hub")
    held.world.wait(hours=1)
    held.delete("hub", copies=1)
    assert "three" not in available(held["hub"])


def test_a_copy_that_turns_out_bad_between_reading_and_deciding_stays(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else reads it, too: unreadable says nothing about its bytes, and it is not let go."""
    between_reading_and_renaming(monkeypatch, lambda: Instance.update(condition=Condition.UNREADABLE).execute())
    held.delete("origin")
    assert stays(held, *NAMES)


@pytest.mark.parametrize("days, goes", [("39.99", True), ("40", True), ("41", False), ("0", True), ("40.5", False)])
def test_age_by_the_clock_and_in_fractions(held: Held, days: str, goes: bool) -> None:
    came = instance(held["origin"], "three").create_time
    held.world.now = came + timedelta(days=40)
    held["origin"].run(0, "rolling-deletion", "--store", "main", "--age-in-days", days, "--number-of-remote-copies", "2")
    assert ("three" not in available(held["origin"])) is goes


# -- caps and watermarks ---------------------------------------------------------------------------------------------


def test_no_more_files_than_asked_for_the_oldest_first(held: Held) -> None:
    change(held["origin"], "three", create_time=CLOCK - timedelta(days=9))
    change(held["origin"], "n/two", create_time=CLOCK - timedelta(days=8))
    held.delete("origin", "--max-files", "2")
    assert available(held["origin"]) == ["d", "n/one"]


@pytest.mark.parametrize("most", [1, 60, 100, 160, 200, 260, 10**6])
def test_no_more_bytes_than_asked_for(held: Held, most: int) -> None:
    held.delete("origin", "--max-bytes", str(most))
    assert sum(map(len, lying_aside(held["origin"]).values())) <= most


def space(monkeypatch: pytest.MonkeyPatch, held: Held, free: float, total: int = 10_000) -> None:
    """The file system of origin's store has just so much room; what is purged there comes on top."""

    def there(store: PosixStore) -> tuple[int, int]:
        left = sum(len(data) for data in {**held["origin"].stored(), **lying_aside(held["origin"])}.values())
        return total, int(free * total) + 321 - left

    monkeypatch.setattr(PosixStore, "space", there)


def test_above_the_mark_nothing_goes_and_nobody_is_asked(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    space(monkeypatch, held, 0.10)
    held.delete("origin", "--start-below", "10%", expect=0)
    assert stays(held, *NAMES) and held.world.asked == []
    held.delete("origin", "--start-below", "10%", "--stop-above", "50%", expect=0)  # between the marks nothing begins
    assert stays(held, *NAMES) and held.world.asked == []


def test_below_the_mark_copies_go_until_the_other_one_and_no_further(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    space(monkeypatch, held, 0.0990)
    for n, name in enumerate(["three", "n/one", "n/two", "d"]):
        change(held["origin"], name, create_time=CLOCK - timedelta(days=9 - n))
    held.delete("origin", "--start-below", "10%", "--stop-above", "10.5%", expect=0)
    assert available(held["origin"]) == ["d", "n/one", "n/two"]  # sixty bytes are what is wanting
    held.delete("origin", "--start-below", "10%", "--stop-above", "10.5%", expect=0)
    assert available(held["origin"]) == ["d", "n/one", "n/two"]  # what lies aside will be free
    held.delete("origin", "--start-below", "11%", "--stop-above", "12%", "--max-files", "3", expect=0)
    assert available(held["origin"]) == ["d"]  # a hundred and fifty are: the file that crosses the mark is the last


def test_a_stop_below_the_start_is_wrong_usage(held: Held) -> None:
    assert held["origin"].run(2, *DELETE, "--start-below", "10%", "--stop-above", "5%").code == 2
    assert held["origin"].run(2, *DELETE, "--stop-above", "5%").code == 2


@pytest.mark.parametrize("words", [("--age-in-days", "1e9"), ("--age-in-days", "nan"), ("--keep-days", "1e9"), ("--keep-days", "nan")])
def test_odd_numbers_are_wrong_usage_or_fine(held: Held, words: tuple[str, str]) -> None:
    more = [] if words[0] == "--age-in-days" else ["--age-in-days", "1"]
    assert held["origin"].run(None, "rolling-deletion", "--store", "main", *more, *words).code in (0, 2)


# -- our own copy ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["other bytes", "other bytes, same time", "gone", "a link"])
def test_our_own_copy_is_read_right_before(held: Held, how: str) -> None:
    path = held["origin"].store / "three"
    if how == "other bytes, same time":
        flip(path)
    elif how == "other bytes":
        path.write_bytes(b"4" * 60)
    else:
        path.unlink()
        if how == "a link":
            path.symlink_to("d/a")
            change(held["origin"], "d", deletion_policy=DISALLOWED)
    before = path.exists() and path.read_bytes()
    ran = held.delete("origin", expect=3)
    assert "three" in ran.err and lying_aside(held["origin"]).get("three") is None
    assert (path.exists() and path.read_bytes()) == before
    assert instance(held["origin"], "three").condition is (Condition.MISSING if how == "gone" else Condition.DAMAGED)


def test_a_replaced_file_with_the_same_bytes_may_go(held: Held) -> None:
    path = held["origin"].store / "three"
    path.unlink()
    path.write_bytes(FILES["three"])
    held.delete("origin", expect=0)
    assert lying_aside(held["origin"]) == FILES


def between_reading_and_renaming(monkeypatch: pytest.MonkeyPatch, deed: Callable[[], Any]) -> None:
    """Something happens after our copies were read and before they are set aside."""
    real = deleting.let_go

    def let_go(*words: Any, **more: Any) -> Any:
        deed()
        return real(*words, **more)

    monkeypatch.setattr(deleting, "let_go", let_go)


CHANGES = {
    "written to": lambda store: (store / "three").write_bytes(b"4" * 60),
    "appended to": lambda store: (store / "three").write_bytes(b"3" * 60 + b"4"),
    "replaced": lambda store: ((store / "three").unlink(), (store / "three").write_bytes(b"4" * 60)),
    "another in the directory": lambda store: (store / "d/new").write_bytes(b"4"),
    "one in the directory written to": lambda store: (store / "d/in/b").write_bytes(b"4" * 31),
    "one in the directory gone": lambda store: (store / "d/in/b").unlink(),
}


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("words", [(), ("--remove-rows",)])
def test_what_changes_after_it_was_read_is_put_back_and_told(
    held: Held, monkeypatch: pytest.MonkeyPatch, how: str, words: tuple[str, ...]
) -> None:
    origin = held["origin"]
    name = "d" if "directory" in how else "three"
    between_reading_and_renaming(monkeypatch, lambda: CHANGES[how](origin.store))
    ran = held.delete("origin", *words, expect=3)
    assert f"copy '{name}' in main was to go and stays" in ran.err and "3 done, 1 failed" in ran.err
    stored = origin.stored()
    assert {each.split("/")[0] for each in stored} == {name}
    assert (name, "DELETED", "RETURNED") in removals(origin) and instance(origin, name).condition is Condition.DAMAGED
    assert name not in {each.split("/")[0] for each in lying_aside(origin)}


def test_what_was_put_back_is_not_said_to_be_gone(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = held["origin"]
    with monkeypatch.context() as changing:
        between_reading_and_renaming(changing, lambda: (origin.store / "three").write_bytes(b"4" * 60))
        assert "'three' was let go" not in held.delete("origin", expect=3).err
    origin.run(0, "restore-instance", "n/one")
    origin.run(0, "set-deletion-policy", "--policy", "allowed", "n/one")
    between_reading_and_renaming(monkeypatch, lambda: (origin.store / "n/one").write_bytes(b"4" * 100))
    ran = origin.run(3, "-v", "delete-instance", "n/one", "--store", "main")
    assert "'n/one' was set aside" not in ran.err


def test_a_directory_that_changes_while_it_is_read_stays(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    origin, real = held["origin"], digest.of_tree

    def slowly(path: str, function: str = digest.DEFAULT) -> str:
        found = real(path, function)
        if path == str(origin.store / "d"):
            (origin.store / "d/a").write_bytes(b"A" * 30)  # after it was read, while its fellows are
        return found

    monkeypatch.setattr(digest, "of_tree", slowly)
    held.delete("origin")
    assert "d/a" in origin.stored() and "d/a" not in lying_aside(origin)


@pytest.mark.parametrize("slow", [1, 2])
def test_proofs_and_holds_do_not_outlast_a_long_reading_of_ours(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, slow: int
) -> None:
    """Three in a circle, each counts on the next. The first needs hours to read its own copy: that of the first file, or
    that of the second, while the first is decided on."""
    files = {"one": b"1" * 60, "three": b"3" * 60}
    held = make_held(tmp_path, world, files, links=(("a", "b"), ("b", "c"), ("c", "a")))
    real, begun = verifying.read, []
    mine: list[str] = []

    def slowly(store: Any, copy: Any) -> Any:
        found = real(store, copy)
        if store.root == str(held["a"].store):
            mine.append(copy.name)
        if len(mine) == slow and not begun:
            begun.append(True)
            world.wait(hours=1, minutes=5)
            held.delete("b", copies=1)
            world.wait(hours=1, minutes=5)
            held.delete("c", copies=1)
            world.wait(hours=1, minutes=5)
        return found

    monkeypatch.setattr(verifying, "read", slowly)
    held.delete("a", copies=1)
    assert begun and {each for name in "abc" for each in available(held[name])} == files.keys()


def test_what_was_said_of_the_first_file_is_too_old_when_the_second_is_asked_about_for_hours(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = make_held(tmp_path, world, {"one": b"1" * 60, "two": b"2" * 60}, links=(("origin", "hub"),))
    real, read = verifying.read, {"origin": list[str](), "hub": list[str]()}

    def slowly(store: Any, copy: Any) -> Any:
        found = real(store, copy)
        mine = read["origin" if store.root == str(held["origin"].store) else "hub"]
        mine.append(copy.name)
        if mine is read["origin"] and len(mine) == 2:
            world.wait(seconds=400)  # so that the holder is asked about the second once more
        if mine is read["hub"] and len(mine) == 3:
            world.wait(hours=2)
            (held["hub"].store / read["origin"][0]).unlink()  # which is not held any more
        return found

    monkeypatch.setattr(verifying, "read", slowly)
    ran = held.delete("origin", copies=1)
    assert len(read["hub"]) == 3 and stays(held, read["origin"][0]), ran


def test_files_that_take_long_to_prove_go_all_the_same(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty seconds each at the holder: all of a portion take longer than what is said may be old."""
    held = make_held(tmp_path, world, {f"f{n:02}": bytes([n]) * 60 for n in range(40)}, links=(("origin", "hub"),))
    monkeypatch.setattr(proving, "ASK_FILES", 1)  # as for files that take a request each
    real = verifying.read

    def slowly(store: Any, copy: Any) -> Any:
        if store.root == str(held["hub"].store):
            world.wait(seconds=20)
        return real(store, copy)

    monkeypatch.setattr(verifying, "read", slowly)
    held.delete("origin", "--soft-timeout", "2h", copies=1, expect=0)
    assert available(held["origin"]) == []
    world.wait(days=8)
    held.delete("origin", "--soft-timeout", "2h", copies=1, expect=0)
    assert lying_aside(held["origin"]) == {}


def test_who_is_not_registered_at_a_holder_is_promised_nothing_there(held: Held) -> None:
    for name in ("hub", "archive"):
        with held[name].open():
            Librarian.update(removed=True).where(Librarian.name == "origin").execute()
    ran = held.delete("origin", copies=1, expect=0)
    assert stays(held, *NAMES) and "0 of 1 other copies are proved" in ran.err
    assert instance(held["hub"], "three").held_until is None


def test_a_copy_that_turned_bad_here_is_told_by_delete_instance_and_recorded(held: Held) -> None:
    flip(held["origin"].store / "three")
    ran = held["origin"].run(3, "delete-instance", "three", "--store", "main")
    assert "our own copy is damaged" in ran.err
    assert instance(held["origin"], "three").condition is Condition.DAMAGED


# -- names, modes, directories ---------------------------------------------------------------------------------------


def test_read_only_copies_go_and_keep_their_modes(tmp_path: Path, world: World) -> None:
    content = {"n/one": b"1", "d/a": b"a", "d/in/b": b"b"}
    store = {"staging_path": "staging", "store_path": "store", "readonly_after_commit": True}
    carriers = {"local": {"available": True, "hostnames": [__import__("socket").gethostname()]}}
    stores = [{"store_name": "main", "store_data": store, "asynchronous_transfer_manager_data": carriers}]
    held = make_held(tmp_path, world, content, trees=("d",), add_stores=stores)
    assert (held["origin"].store / "d").stat().st_mode & 0o222 == 0
    held.delete("origin", expect=0)
    (place,) = [each / "d" for each in aside(held["origin"]) if (each / "d").exists()]
    assert place.stat().st_mode & 0o222 == 0 and lying_aside(held["origin"]) == content
    held["origin"].run(0, "restore-instance", "d")
    assert (held["origin"].store / "d").stat().st_mode & 0o222 == 0
    world.wait(days=8)
    held.delete("origin", expect=0)
    assert aside(held["origin"]) == []


def test_names_at_the_limits_and_odd_ones_go_and_come_back(tmp_path: Path, world: World) -> None:
    deep = "/".join("x" * 200 for _ in range(12))
    content = {name: name[-9:].encode() for name in ("new\nline", "-F", "ü" * 127, "y" * 255, f"{deep}/end", "a/b/c", "a/b2")}
    held = make_held(tmp_path, world, content)
    (held["origin"].store / "a/stranger").write_bytes(b"not ours")
    held.delete("origin", expect=0)
    assert lying_aside(held["origin"]) == content and held["origin"].stored() == {"a/stranger": b"not ours"}
    assert sorted(os.listdir(held["origin"].store)) == [ASIDE, ".libtool-store", "a"]
    for name in content:
        held["origin"].run(0, "restore-instance", "--", name)
    assert held["origin"].stored() == content | {"a/stranger": b"not ours"} and aside(held["origin"]) == []
    assert available(held["origin"]) == sorted(content)


# -- several at once -------------------------------------------------------------------------------------------------


def test_two_runs_at_once_take_nothing_twice(
    tmp_path: Path, databases: Callable[[str], str | None], world: World
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        held = make_held(tmp_path, World().take_over(monkeypatch), {f"f{n}": b"%d" % n for n in range(30)}, databases=databases)
    origin = held["origin"]
    words = ("rolling-deletion", "--store", "main", "--age-in-days", "0", "--number-of-remote-copies", "2")
    for site in held.network.sites.values():  # the real clock again
        with site.open():
            Instance.update(create_time=CLOCK - timedelta(days=9999)).execute()
    world.now = datetime.now(timezone.utc)
    runs = [origin.spawn(*words) for _ in range(3)]
    runs += [origin.spawn("delete-instance", f"f{n}", "--store", "main") for n in (3, 9)]
    for process in runs:
        process.communicate()
    assert {process.returncode for process in runs[:3]} <= {0, 75}
    origin.run(0, *words)
    assert sorted(name for name, _, _ in removals(origin)) == sorted(held.content)
    assert lying_aside(origin) == held.content and available(origin) == []


@pytest.mark.parametrize("seed", range(3 if "LIBTOOL_TEST_ALL_SEAMS" in os.environ else 1))
def test_librarians_that_count_on_each_other_never_all_let_go(tmp_path: Path, seed: int) -> None:
    """Real processes, all at once, in a circle of two or three."""
    circle = ("a", "b", "c")[: 2 + seed % 2]
    links = CIRCLE[: len(circle) * 2 - 3]
    with pytest.MonkeyPatch.context() as monkeypatch:
        held = make_held(tmp_path, World().take_over(monkeypatch), {f"f{n}": b"%d" % n for n in range(10)}, links=links)
    everybody_knows(held)
    for site in held.network.sites.values():
        with site.open():
            Instance.update(create_time=CLOCK - timedelta(days=9999)).execute()
    words = ("rolling-deletion", "--store", "main", "--age-in-days", "0", "--number-of-remote-copies", "1")
    runs = [held[name].spawn(*words) for name in circle for _ in range(2)]
    for process in runs:
        process.communicate()
    for name in held.content:
        assert any(name in available(held[each]) for each in circle), name


def test_a_hold_that_comes_between_looking_and_deciding_keeps_the_copy(
    tmp_path: Path, world: World, postgres: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PostgreSQL another session may write between two statements of a transaction."""
    from libtool.models.base import current
    from libtool.peers.messages import ValidatedCopy

    held = make_held(tmp_path, world, {"three": b"3" * 60}, links=(("a", "b"),), databases=lambda name: postgres(f"hold_{name}"))
    real, children, said = removing.needed, [], tmp_path / "said"

    def needed(host: Any, ids: list[int]) -> dict[int, str]:
        found = real(host, ids)
        if not children and current().in_transaction():
            children.append(child := os.fork())
            if not child:  # a callback in a process of its own, which either is first or waits
                try:
                    with held["a"].open() as node:
                        copy = ValidatedCopy("a", 1, ids[0], True, 60, "", 0.0)
                        proving._hold(node, [copy], timedelta(hours=1))
                        said.write_text(str(copy.good))
                finally:
                    os._exit(0)
            end = time.monotonic() + 5
            while time.monotonic() < end and not said.exists():
                time.sleep(0.05)
        return found

    monkeypatch.setattr(removing, "needed", needed)
    held.delete("a", copies=1)
    os.waitpid(children[0], 0)
    assert (said.read_text() == "True") == (available(held["a"]) == ["three"]), "promised to a neighbour, and gone"


# -- the end of a process --------------------------------------------------------------------------------------------


CRASHES = {
    "rolling-deletion": ((*DELETE, "--number-of-remote-copies", "2"), ""),
    "rolling-deletion --remove-rows": ((*DELETE, "--number-of-remote-copies", "2", "--remove-rows"), ""),
    "delete-instance": (("delete-instance", "n/one", "--store", "main"), ""),
    "restore-instance": (("restore-instance", "d"), "aside"),
    "purge": ((*DELETE, "--number-of-remote-copies", "2"), "due"),
}


@pytest.mark.parametrize("what", CRASHES)
def test_the_end_of_a_process_at_any_seam_changes_nothing_in_the_end(
    once: tuple[Held, Snapshot, Any], held: Held, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words, first = CRASHES[what]
    origin = held["origin"]
    if first:
        held.delete("origin", expect=0)
    if first == "due":
        held.world.wait(days=8)
    begin = Snapshot(origin.directory)

    def to_the_end(fatal: int) -> tuple[dict[str, Any], int, str]:
        counter = Counter(fatal)
        counter.where = tmp_path / "where"
        counter.where.write_text("nowhere")
        crash.run(origin, words, counter)
        passed = counter.passed
        crash.run(origin, words, Counter())
        if fatal and what == "delete-instance":  # what it left is carried on by the clock, too
            crash.run(origin, ("corruption-fixer",), Counter())
        return state(origin), passed, counter.where.read_text()

    whole, seams, _ = to_the_end(0)
    wrong = {}
    step = 1 if os.environ.get("LIBTOOL_TEST_ALL_SEAMS") else 20
    tried = range(1 + random.Random(what).randrange(step), seams + 1, step)
    for fatal in tried:
        begin.restore()
        got, _, where = to_the_end(fatal)
        if got != whole:
            wrong[f"{fatal}: {where}"] = {key: (got[key], whole[key]) for key in got if got[key] != whole[key]}
    shutil.rmtree(begin.kept)
    with capsys.disabled():
        print(f"\n{what}: {seams} seams, ended at {len(tried)}, {len(wrong)} times another final state")
    assert wrong == {}


def test_a_change_is_seen_although_the_process_ended_right_after_the_renaming(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = held["origin"]
    with monkeypatch.context() as changing:
        between_reading_and_renaming(changing, lambda: (origin.store / "d/a").write_bytes(b"4" * 30))
        end_at(origin, "set aside: renamed", *DELETE, "--number-of-remote-copies", "2", "--max-files", "1")
    origin.run(None, *DELETE, "--number-of-remote-copies", "2")
    assert origin.stored().get("d/a") == b"4" * 30 and ("d", "DELETED", "RETURNED") in removals(origin)


# -- coming anew -----------------------------------------------------------------------------------------------------


def ingest_again(held: Held, name: str = "three", *words: str, expect: int | None = 0) -> Any:
    path = held["origin"].directory.parent.parent / "originals" / name
    return held["origin"].run(expect, "-v", "ingest", "--uploader", "observer", *words, str(path), name)


@pytest.mark.parametrize("when", ["decided", "aside", "due", "purged"])
@pytest.mark.parametrize("how", [(), ("--move",)])
def test_the_same_name_comes_in_anew(held: Held, tmp_path: Path, when: str, how: tuple[str, ...]) -> None:
    origin = held["origin"]
    if when == "decided":
        end_at(origin, "removal decided: committed", *DELETE, "--number-of-remote-copies", "2")
    else:
        held.delete("origin", expect=0)
    if when in ("due", "purged"):
        held.world.wait(days=8)
    if when == "purged":
        held.delete("origin", expect=0)
    source = tmp_path / "three"
    source.write_bytes(FILES["three"])
    origin.run(None, "ingest", "--uploader", "observer", *how, str(source), "three")
    held.world.wait(hours=2)
    held["origin"].run(0, "set-deletion-policy", "--policy", "disallowed", "three")
    for _ in range(2):
        held.delete("origin")
    assert available(origin) == ["three"] and origin.stored() == {"three": FILES["three"]}
    origin.run(0, "check-integrity", "--age-in-days", "0")
    assert available(origin) == ["three"]


def test_a_copy_that_counts_again_is_not_what_was_to_go(held: Held) -> None:
    origin = held["origin"]
    end_at(origin, "removal decided: committed", *DELETE, "--number-of-remote-copies", "2")
    change(origin, "three", available=True, deletion_policy=DISALLOWED)
    held.delete("origin")
    assert available(origin) == ["three"] and origin.stored() == {"three": FILES["three"]}
    assert ("three", "DELETED", "RETURNED") in removals(origin)


def test_what_came_anew_is_as_young_as_it_is(held: Held) -> None:
    held.delete("origin", expect=0)
    ingest_again(held)
    assert instance(held["origin"], "three").create_time == held.world.now
    held.world.wait(hours=2)
    held.delete("origin", expect=0)
    assert available(held["origin"]) == ["three"]


def test_the_deletion_policy_of_what_came_anew_is_the_one_that_was_asked_for(held: Held) -> None:
    held.delete("origin", expect=0)
    ingest_again(held, "three", "--deletion-policy", "disallowed")
    assert instance(held["origin"], "three").deletion_policy is DISALLOWED


def test_a_copy_that_came_anew_and_was_missing_for_a_moment_counts_again(held: Held) -> None:
    held.delete("origin", expect=0)
    held.world.wait(days=8)
    held.delete("origin", expect=0)
    ingest_again(held)
    origin = held["origin"]
    (origin.store / "three").rename(origin.directory / "kept")
    origin.run(3, "check-integrity", "--age-in-days", "0")
    (origin.directory / "kept").rename(origin.store / "three")
    held.world.unreachable = {held["hub"].config, held["archive"].config}
    origin.run(None, "corruption-fixer")
    assert available(origin) == ["three"] and instance(origin, "three").condition is Condition.SOUND


# -- purging and bringing back ---------------------------------------------------------------------------------------


def test_purging_asks_again_and_keeps_what_a_holder_has_lost_which_then_comes_back(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.delete("origin", expect=0)
    held.world.wait(days=8)
    for name in ("hub", "archive"):
        flip(held[name].store / "three")
    held.delete("origin")
    assert lying_aside(held["origin"]) == {"three": FILES["three"]}
    held["hub"].run(0, "corruption-fixer")  # the request has found it out; the fixer asks for it anew
    for _ in range(4):
        held.network.round()
        held["hub"].run(None, "corruption-fixer")
    assert held.good("three").get("hub") and "three" in available(held["hub"])
    assert available(held["origin"]) == ["three"] and instance(held["origin"], "three").deletion_policy is DISALLOWED
    assert ("three", "DELETED", "RETURNED") in removals(held["origin"])


def due(tmp_path: Path, world: World, content: dict[str, bytes], trees: tuple[str, ...] = ()) -> Held:
    """What was let go at one librarian of two, and may be purged today."""
    held = make_held(tmp_path, world, content, trees=trees, links=(("origin", "hub"),))
    held.delete("origin", copies=1, expect=0)
    assert lying_aside(held["origin"]) == content
    world.wait(days=8)
    return held


THREE = {"three": b"3" * 60}


@pytest.mark.parametrize("how", ["its process ended", "the disk was busy"])
@pytest.mark.parametrize("later", ["rolling-deletion", "corruption-fixer", "restore-instance", "delete-instance"])
def test_a_purge_that_was_decided_and_not_done_is_decided_anew(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, how: str, later: str
) -> None:
    held = due(tmp_path, world, THREE)
    origin = held["origin"]
    if how == "its process ended":
        end_at(origin, "purge decided: committed", *DELETE, "--number-of-remote-copies", "1")
    else:

        def busy(store: PosixStore, aside_id: str) -> None:
            raise OSError(16, "Device or resource busy")

        with monkeypatch.context() as patch:
            patch.setattr(PosixStore, "purge", busy)
            held.delete("origin", copies=1, expect=3)
    assert removals(origin) == [("three", "DELETED", "PURGING")]
    (held["hub"].store / "three").unlink()  # days later the other one is lost
    world.wait(days=3)
    words = {"rolling-deletion": (*DELETE, "--number-of-remote-copies", "1"), "corruption-fixer": ("corruption-fixer",)}
    words |= {"delete-instance": ("delete-instance", "three", "--store", "main"), "restore-instance": ()}
    for _ in range(2 if words[later] else 0):
        origin.run(None, *words[later])
        assert lying_aside(origin) == THREE
    origin.run(0, "restore-instance", "three")
    assert origin.stored() == THREE and available(origin) == ["three"]


def test_a_purge_that_was_begun_is_ended_by_whoever_comes(tmp_path: Path, world: World) -> None:
    held = due(tmp_path, world, {"d/a": b"a" * 30, "d/b": b"b" * 31}, ("d",))
    origin = held["origin"]
    end_at(origin, "purge: renamed", *DELETE, "--number-of-remote-copies", "1")
    world.unreachable = {held["hub"].config}
    assert "no copy of" in origin.run(3, "restore-instance", "d").err
    origin.run(None, "corruption-fixer")
    assert removals(origin) == [("d", "DELETED", "PURGED")] and aside(origin) == []


def test_what_was_said_of_the_first_file_is_too_old_for_a_purge_when_the_second_took_an_hour(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = due(tmp_path, world, {"one": b"1" * 60, "two": b"2" * 60})
    monkeypatch.setattr(proving, "ASK_FILES", 1)
    real, asked = verifying.read, list[str]()

    def slowly(store: Any, copy: Any) -> Any:
        asked.append(copy.name)
        if len(asked) == 2:
            world.wait(hours=1, minutes=5)
            (held["hub"].store / asked[0]).unlink()  # which is not held any more
        return real(store, copy)

    monkeypatch.setattr(verifying, "read", slowly)
    held.delete("origin", copies=1)
    assert asked[0] in lying_aside(held["origin"])
    monkeypatch.setattr(verifying, "read", real)
    held.delete("origin", copies=1)
    assert list(lying_aside(held["origin"])) == [asked[0]]


@pytest.mark.parametrize("how", ["another file", "the same size", "only looked at"])
def test_what_was_written_to_while_it_lay_aside_is_kept_and_told_once(tmp_path: Path, world: World, how: str) -> None:
    held = due(tmp_path, world, {"d/a": b"a" * 30, "d/b": b"b" * 31}, ("d",))
    origin = held["origin"]
    (place,) = aside(origin)
    now = world.now.timestamp()
    if how == "another file":
        (place / "d/new").write_bytes(b"only here")
    else:
        (place / "d/a").write_bytes(b"A" * 30 if how == "the same size" else b"a" * 30)
        os.utime(place / "d/a", (now, now))
    before, asked = lying_aside(origin), len(world.asked)
    ran = origin.run(None, *DELETE, "--number-of-remote-copies", "1")
    if how == "only looked at":
        assert (ran.code, ran.err, lying_aside(origin)) == (0, "", {})
        return
    assert "copy 'd' in main: it was let go, and what lies set aside has changed there" in ran.err and str(place) in ran.err
    again = origin.run(3, *DELETE, "--number-of-remote-copies", "1")
    assert again.err == "" and lying_aside(origin) == before and len(world.asked) == asked, "nobody is asked for nothing"
    origin.run(3, "restore-instance", "d")
    assert set(origin.stored()) == set(before) and removals(origin)[0][2] == "RETURNED"


def test_what_is_written_aside_while_holders_are_asked_is_kept(tmp_path: Path, world: World) -> None:
    held = due(tmp_path, world, {"d/a": b"a" * 30, "d/b": b"b" * 31}, ("d",))
    (place,) = aside(held["origin"])

    def between(config: str, endpoint: str, answer: Answer) -> Answer:
        (place / "d/new").write_bytes(b"only here")
        return answer

    world.between = between
    held.delete("origin", copies=1)
    assert lying_aside(held["origin"])["d/new"] == b"only here"
    assert "has changed there since" in held.delete("origin", copies=1).err


def test_bytes_that_are_set_aside_in_one_store_help_although_a_copy_in_another_is_damaged(tmp_path: Path, world: World) -> None:
    held = make_held(tmp_path, world, {"three": b"3" * 60}, links=(("origin", "hub"),))
    origin, hub = held["origin"], held["hub"]
    second = json.loads(json.dumps(origin.settings["add_stores"][0]))
    second |= {"store_name": "second", "store_data": {"staging_path": "staging2", "store_path": "store2"}}
    origin.write(add_stores=[*origin.settings["add_stores"], second])
    origin.run(0, "setup")
    origin.run(0, "create-local-clone", "--clone-from", "main", "--clone-to", "second")
    origin.run(0, "set-deletion-policy", "--policy", "allowed", "--prefix", "")
    origin.run(0, "delete-instance", "three", "--store", "second")
    for site in (origin, hub):
        flip(site.store / "three")
        site.run(3, "check-integrity", "--age-in-days", "0")
    for _ in range(4):
        hub.run(None, "corruption-fixer")
        held.network.round()
    assert available(hub) == ["three"] and held.good("three")["hub"]


def test_a_copy_is_brought_back_read_and_kept(held: Held) -> None:
    held.delete("origin", expect=0)
    ran = held["origin"].run(0, "-v", "restore-instance", "n/one")
    assert "main" in ran.err and held["origin"].stored() == {"n/one": FILES["n/one"]}
    row = instance(held["origin"], "n/one")
    assert row.available and row.deletion_policy is DISALLOWED and row.verified_time == held.world.now
    held.world.wait(days=9)
    held.delete("origin", expect=0)
    assert available(held["origin"]) == ["n/one"] and held["origin"].stored() == {"n/one": FILES["n/one"]}
    assert held["origin"].run(3, "restore-instance", "three").code == 3  # purged
    assert held["origin"].run(3, "restore-instance", "never heard of").code == 3


def test_a_return_whose_end_was_not_written_down_is_ended_by_the_same_command(held: Held) -> None:
    """The process ended between its last two commits: the copy counts again, the removal is still open."""
    held.delete("origin", expect=0)
    held["origin"].run(0, "restore-instance", "n/one")
    with held["origin"].open():
        mine = Removal.file == File.get(File.name == "n/one").id
        assert Removal.update(status=RemovalStatus.RETURNING, end_time=None).where(mine).execute() == 1
    held["origin"].run(0, "restore-instance", "n/one")
    with held["origin"].open():
        assert Removal.get(mine).status is RemovalStatus.RETURNED


def test_what_is_brought_back_damaged_does_not_count(held: Held) -> None:
    bring_back_damaged(held)


def bring_back_damaged(held: Held) -> Ran:
    """A bit of what was set aside is flipped, and a person wants it back."""
    held.delete("origin", expect=0)
    (place,) = [each / "three" for each in aside(held["origin"]) if (each / "three").exists()]
    flip(place)
    ran = held["origin"].run(3, "restore-instance", "three")
    assert available(held["origin"]) == [] and instance(held["origin"], "three").condition is Condition.DAMAGED
    return ran


def test_what_is_brought_back_damaged_is_told(held: Held) -> None:
    assert "does not count" in bring_back_damaged(held).err


@pytest.mark.parametrize("why", ["something else lies there", "unmounted", "locked"])
def test_a_copy_that_cannot_be_brought_back_now_is_not_said_to_be_gone(held: Held, why: str) -> None:
    held.delete("origin", expect=0)
    origin = held["origin"]
    if why == "something else lies there":
        (origin.store / "three").write_bytes(b"not ours")
    elif why == "unmounted":
        (origin.store / ".libtool-store").rename(origin.directory / "mark")
    with origin.open() as node:
        if why == "locked":
            with node.lock("aside-main"):
                ran = origin.run(None, "restore-instance", "three")
        else:
            ran = origin.run(None, "restore-instance", "three")
    assert ran.code and "no copy of" not in ran.err
    assert "three" in lying_aside(origin)
    assert why != "something else lies there" or origin.stored() == {"three": b"not ours"}


def test_a_right_copy_in_its_place_is_all_that_restoring_asks_for(held: Held) -> None:
    held.delete("origin", expect=0)
    ingest_again(held)
    for words in ((), ("-v",)):
        ran = held["origin"].run(0, *words, "restore-instance", "three")
        assert "stays set aside" not in ran.err and "brought back" not in ran.err
    assert lying_aside(held["origin"])["three"] == FILES["three"]
    held["origin"].run(0, "restore-instance", "n/one")  # nothing lies in its place


def test_who_restores_is_told_why_that_is_not_possible_now(held: Held) -> None:
    held.delete("origin", expect=0)
    (held["origin"].store / "three").write_bytes(b"not ours")
    for words in ((), ("-v",)):
        ran = held["origin"].run(3, *words, "restore-instance", "three")
        (line,) = [line for line in ran.err.splitlines() if "three" in line]
        assert "stays set aside in main: something else lies in its place" in line


# -- delete-instance -------------------------------------------------------------------------------------------------


def test_one_copy_goes_with_proof_and_is_on_record(held: Held) -> None:
    held["origin"].run(0, "delete-instance", "three", "--store", "main", "--reason", "the disk is old")
    assert available(held["origin"]) == ["d", "n/one", "n/two"] and lying_aside(held["origin"]) == {"three": FILES["three"]}
    with held["origin"].open():
        (row,) = Removal.select()
        assert row.actor.startswith("delete-instance by ") and row.reason.endswith(": the disk is old")
        assert row.copies == 1 and "proved at" in row.reason


def test_one_copy_stays_without_proof_and_goes_with_force(held: Held) -> None:
    origin = held["origin"]
    held.world.unreachable = {held["hub"].config, held["archive"].config}
    ran = origin.run(3, "delete-instance", "three", "--store", "main")
    assert "0 of 1 other copies are proved" in ran.err and stays(held, "three")
    assert origin.run(2, "delete-instance", "three", "--store", "main", "--force").code == 2
    assert stays(held, "three")
    asked = len(held.world.asked)
    origin.run(0, "delete-instance", "three", "--store", "main", "--force", "--yes", "--reason", "wrong data")
    assert len(held.world.asked) == asked and "three" in lying_aside(origin)
    origin.run(0, "restore-instance", "three")
    origin.run(0, "delete-instance", "three", "--store", "main", "--force", "--yes")  # policy is disallowed now
    held.world.wait(days=8)
    held.delete("origin")
    assert "three" not in lying_aside(origin)


@pytest.mark.parametrize("answer", ["n", "y"])
def test_force_says_what_it_passes_over_and_what_becomes_of_the_bytes(
    held: Held, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    origin = held["origin"]
    origin.run(0, "set-deletion-policy", "--policy", "disallowed", "three")
    with origin.open():
        RemoteInstance.delete().execute()
    monkeypatch.setattr(io, "StringIO", type("Terminal", (io.StringIO,), {"isatty": lambda stream: True}))
    ran = origin.run(None, "delete-instance", "three", "--store", "main", "--force", stdin=f"{answer}\n")
    assert "this is the last one" in ran.err and "DISALLOWED" in ran.err and "for 7 days it can be brought back" in ran.err
    assert ("three" in lying_aside(origin)) is (answer == "y")
    ran = origin.run(None, "delete-instance", "n/one", "--store", "main", "--force", "--keep-days", "0.5", stdin="n\n")
    assert "DISALLOWED" not in ran.err and "for 0.5 days" in ran.err


def test_a_forced_removal_is_purged_when_its_time_is_over_and_named_then(held: Held) -> None:
    origin = held["origin"]
    held.world.unreachable = {held["hub"].config, held["archive"].config}
    origin.run(0, "delete-instance", "three", "--store", "main", "--force", "--yes", "--reason", "wrong data")
    held.world.wait(days=7, seconds=-1)
    held.delete("origin", "--keep-days", "0", copies=1)
    assert "three" in lying_aside(origin)
    held.world.wait(seconds=1)
    ran = held.delete("origin", copies=1)
    assert lying_aside(origin) == {} and "set aside of 'three' in main was purged: forced, wrong data" in ran.err


def test_what_is_purged_is_named(held: Held) -> None:
    held.delete("origin", expect=0)
    held.world.wait(days=8)
    ran = held.delete("origin", expect=0)
    for name in NAMES:
        assert f"what was set aside of '{name}' in main was purged: proved at archive (store 1), hub" in ran.err


def test_an_unreadable_copy_can_be_forced_to_go(held: Held) -> None:
    change(held["origin"], "three", condition=Condition.UNREADABLE, checked_time=held.world.now)
    held["origin"].run(0, "delete-instance", "three", "--store", "main", "--force", "--yes")
    assert "three" in lying_aside(held["origin"])


def test_delete_instance_leaves_a_disabled_store_alone(held: Held) -> None:
    held["origin"].run(0, "set-store-state", "--store", "main", "--disabled")
    held["origin"].run(None, "delete-instance", "three", "--store", "main")
    assert stays(held, "three")
    held.delete("origin", expect=0)
    assert stays(held, *NAMES)


def test_a_dry_run_changes_nothing_and_asks_nobody(held: Held) -> None:
    before = {name: state(site) for name, site in held.network.sites.items()}
    ran = held["origin"].run(0, *DELETE, "--number-of-remote-copies", "2", "--dry-run")
    assert len(ran.out.splitlines()) == 4 and held.world.asked == []
    held["origin"].run(0, "set-deletion-policy", "--policy", "disallowed", "--prefix", "", "--dry-run")
    assert before == {name: state(site) for name, site in held.network.sites.items()}


def test_a_dry_run_of_delete_instance_changes_nothing_anywhere(held: Held) -> None:
    held["origin"].run(None, "delete-instance", "three", "--store", "main", "--dry-run")
    assert instance(held["hub"], "three").held_until is None and held.world.asked == []


def test_a_store_that_cannot_be_written_is_told_truly(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(path: str, target: str) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as changing:
        changing.setattr(posix.copying, "rename", refuses)
        ran = held.delete("origin", expect=3)
    assert "was let go" not in ran.err and "0 done, 0 failed, 4 postponed" in ran.err
    assert held["origin"].stored() == FILES
    held.delete("origin", expect=0)
    assert lying_aside(held["origin"]) == FILES


# -- cost ------------------------------------------------------------------------------------------------------------


def test_requests_grow_with_batches_and_not_with_files(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    count = int(os.environ.get("LIBTOOL_TEST_FILES", "1000"))
    held = make_held(tmp_path, world, {f"n{n % 10}/f{n}": b"%d" % n for n in range(count)}, links=(("origin", "hub"),))
    held.delete("origin", "--soft-timeout", "1h", copies=1, expect=0)
    asked = [endpoint for _, endpoint in world.asked if endpoint == VALIDATE]
    with capsys.disabled():
        print(f"\ndeletion: {count} files, {len(asked)} requests, {len(world.asked)} calls in all")
    assert available(held["origin"]) == [] and len(asked) == -(-count // deleting.PORTION)
    assert len(world.asked) <= 2 * len(asked) + 2


def test_holders_are_not_asked_about_more_than_may_go(held: Held) -> None:
    held.delete("origin", "--max-files", "1", expect=0)
    read = [file for file in NAMES if instance(held["hub"], file).verified_how is Proof.REQUEST]
    assert len(read) == 1


# -- a stock neighbour -----------------------------------------------------------------------------------------------


@pytest.fixture
def met(tmp_path: Path) -> Iterator[test_stock.Met]:
    """Ours and a stock one that has two of our files."""
    with test_stock.meeting(tmp_path) as met:
        for name, content in (("one", b"1" * 50), ("two", b"2" * 50)):
            (tmp_path / name).write_bytes(content)
            met.a.run(0, "ingest", "--uploader", "observer", str(tmp_path / name), name)
            met.b.hold(name, content)
        with met.a.open() as node:
            b = Librarian.get(Librarian.name == "b")
            for file in File.select():
                RemoteInstance.create(file=file, librarian=b, store_id=7, copy_time=node.now())
        yield met


ROLL = ("rolling-deletion", "--store", "main", "--age-in-days", "0", "--number-of-remote-copies")


def answers(met: test_stock.Met, monkeypatch: pytest.MonkeyPatch, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Let the stock librarian say something else."""
    real = Stock._validate_file

    def says(self: Stock, user: str, admin: bool, body: Any) -> Any:
        reply = real(self, user, admin, body)
        reply.body = change(reply.body)
        return reply

    monkeypatch.setattr(Stock, "_validate_file", says)


def test_a_stock_copy_that_is_read_counts_once(met: test_stock.Met) -> None:
    met.a.run(0, *ROLL, "1")
    assert available(met.a) == []


STOCK = {
    "twice the same": (2, lambda rows: rows * 2),
    "ours, relayed": (2, lambda rows: [*rows, rows[0] | {"librarian": "a"}]),
    "somebody else's, relayed": (2, lambda rows: [*rows, rows[0] | {"librarian": "c"}]),
    "only somebody else's": (1, lambda rows: [rows[0] | {"librarian": "c"}]),
    "a mismatch beside it": (1, lambda rows: [*rows, rows[0] | {"librarian": "c", "computed_same_checksum": False}]),
    "a mismatch": (1, lambda rows: [rows[0] | {"current_checksum": "xxh3:::00", "computed_same_checksum": False}]),
    "a mismatch that is called the same": (1, lambda rows: [rows[0] | {"current_checksum": "xxh3:::00"}]),
    "another size": (1, lambda rows: [rows[0] | {"current_size": 49}]),
    "an md5": (1, lambda rows: [rows[0] | {"current_checksum": "md5:::00", "original_checksum": "md5:::00"}]),
    "nothing": (1, lambda rows: []),
    "no list": (1, lambda rows: {"detail": "x"}),
    "half a row": (1, lambda rows: [{"librarian": "b"}]),
}


@pytest.mark.parametrize("how", STOCK)
def test_the_odd_ways_of_stock_keep_our_copy(met: test_stock.Met, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    copies, change_ = STOCK[how]
    if copies == 2:  # as far as is known there is another
        with met.a.open() as node:
            for file in File.select():
                RemoteInstance.create(file=file, librarian=Librarian.get(), store_id=8, copy_time=node.now())
    answers(met, monkeypatch, change_)
    met.a.run(None, *ROLL, str(copies))
    assert available(met.a) == ["one", "two"]


@pytest.mark.parametrize("kind", ["500", "html", "lose"])
def test_a_failing_stock_librarian_says_nothing_about_a_file_and_holds_up_no_other(met: test_stock.Met, kind: str) -> None:
    met.b.fault("validate/file", kind)
    met.a.run(3, *ROLL, "1")
    assert len(available(met.a)) >= 1
    assert len(available(met.a)) == 1, "the other file was not asked about"


def test_a_file_that_stock_does_not_know_keeps_ours(met: test_stock.Met) -> None:
    del met.b.files["one"]
    met.a.run(0, *ROLL, "1")
    assert available(met.a) == ["one"]


# -- the property that matters most ----------------------------------------------------------------------------------


class Walk:
    """Deletions, damage, restores and purges at three librarians, in any order; what must hold is looked at after each."""

    def __init__(self, held: Held, copies: int, seed: int) -> None:
        self.held, self.copies, self.numbers = held, copies, random.Random(seed)
        self.ruined: set[str] = set()  #: files of which damage destroyed every good copy
        self.done: list[str] = []

    def good_and_counted(self, file: str, but: str) -> int:
        """How many others have a good copy that counts."""
        return sum(
            file in available(site) and self.held.good(file)[name] > 0
            for name, site in self.held.network.sites.items()
            if name != but
        )

    def step(self) -> None:
        """One thing happens somewhere; then everything must be as it must be."""
        who = self.numbers.choice(sorted(self.held.network.sites))
        site, file = self.held[who], self.numbers.choice(sorted(self.held.content))
        what = self.numbers.choices(
            ["delete", "delete one", "damage", "restore", "purge", "heal", "check", "rounds", "dead", "wait"],
            [6, 3, 1, 2, 3, 3, 1, 2, 1, 2],
        )[0]
        self.done.append(f"{what} {file} at {who}")
        before = {name: set(available(each)) for name, each in self.held.network.sites.items()}
        good = {name: self.held.good(name) for name in self.held.content}
        others = {name: self.good_and_counted(name, who) for name in self.held.content}
        getattr(self, "_" + what.replace(" ", "_"))(site, file)
        if what in ("delete", "delete one", "purge"):
            for gone in before[who] - set(available(site)):
                if good[gone][who]:
                    assert others[gone] >= self.copies, (gone, self.done)
            for name in self.held.content:
                if self.held.good(name)[who] < good[name][who] and what == "purge":
                    assert others[name] >= self.copies, (name, self.done)
        for name in self.held.content:
            if what != "damage":
                assert self.held.good(name) or name in self.ruined, (name, self.done)
            elif not self.held.good(name):
                self.ruined.add(name)

    def _delete(self, site: Site, file: str) -> None:
        self.held.delete(site.name, "--max-files", str(self.numbers.randint(1, 4)), copies=self.copies)

    def _delete_one(self, site: Site, file: str) -> None:
        site.run(None, "delete-instance", file, "--store", "main", "--number-of-remote-copies", str(self.copies))

    def _damage(self, site: Site, file: str) -> None:
        if (site.store / file).exists():
            flip(site.store / file) if self.numbers.random() < 0.7 else (site.store / file).unlink()

    def _restore(self, site: Site, file: str) -> None:
        site.run(None, "restore-instance", file)
        site.run(0, "set-deletion-policy", "--policy", "allowed", "--prefix", "")

    def _purge(self, site: Site, file: str) -> None:
        self.held.world.wait(days=8)
        self.held.delete(site.name, copies=self.copies)

    def _heal(self, site: Site, file: str) -> None:
        for _ in range(2):
            site.run(None, "corruption-fixer")
            for command in ("consume-queue", "check-consumed-queue", "recv-clone"):
                for each in self.held.network.sites.values():
                    each.run(None, command)
        for each in self.held.network.sites.values():
            each.run(0, "set-deletion-policy", "--policy", "allowed", "--prefix", "")

    def _check(self, site: Site, file: str) -> None:
        site.run(None, "check-integrity", "--age-in-days", "0", "--believe")

    def _rounds(self, site: Site, file: str) -> None:
        self.held.network.round()

    def _dead(self, site: Site, file: str) -> None:
        self.held.world.unreachable ^= {site.config}

    def _wait(self, site: Site, file: str) -> None:
        self.held.world.wait(hours=self.numbers.choice([1, 2, 50]))


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("seed", range(3 if "LIBTOOL_TEST_ALL_SEAMS" in os.environ else 1))
def test_a_good_copy_is_always_somewhere(tmp_path: Path, world: World, copies: int, seed: int) -> None:
    seed += int(os.environ.get("LIBTOOL_TEST_SEED", "1")) * 100
    held = make_held(tmp_path, world, {f"f{n}": b"%d" % n * 9 for n in range(5)}, links=CIRCLE)
    if copies == 2 or seed % 2:
        everybody_knows(held)
    walk = Walk(held, copies, seed)
    for _ in range(int(os.environ.get("LIBTOOL_TEST_STEPS", "40"))):
        walk.step()
    assert len(walk.ruined) < 5

