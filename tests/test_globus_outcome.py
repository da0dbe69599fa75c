"""What became of every file: rules over the service's lists, tried with lists of all kinds, and of tasks that compare or
delete with those of a service that may lie."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libtool.errors import CarrierRefused, CarrierUnknown
from libtool.movers.base import Arrived, Hitch, Item, ItemOutcome, Stage, Ticket
from libtool.movers.globus import codes, outcome
from libtool.movers.globus.mover import GlobusMover, Setup
from libtool.tokens import Tokens
from tests.globus_service import Collection, GlobusService

NAMES = ["f", "g", "d", "d/inner", "d/deep/er", "other", "", "/"]
SIZES = st.sampled_from([0, 1, 5, 7])


def item(name: str, size: int, directory: bool) -> Item:
    return Item(f"/store/{name}", f"/staging/{name}", directory, size, name)


ITEMS = st.tuples(SIZES, SIZES, SIZES).map(
    lambda sizes: [item("f", sizes[0], False), item("g", sizes[1], False), item("d", sizes[2], True)]
)
ENTRIES = st.lists(
    st.fixed_dictionaries(
        {"destination_path": st.one_of(st.none(), st.sampled_from([f"/staging/{name}" for name in NAMES] + ["f", "x/staging/f"]))},
        optional={"size": st.one_of(SIZES, st.none(), st.sampled_from(["", "5"])), "error_code": st.sampled_from(["FILE_NOT_FOUND", "NEW"])},
    ),
    max_size=8,
)
ENDS = st.builds(
    lambda status, code, stuck: outcome.end_of(
        {"status": status, "fatal_error": {"code": code, "description": "d"} if status == "FAILED" else None},
        {"stopped": stuck},
    ),
    st.sampled_from(["SUCCEEDED", "FAILED"]),
    st.sampled_from(["CANCELED", "EXPIRED", "FILE_NOT_FOUND", "NEW"]),
    st.sampled_from([None, "why it was stuck"]),
)


@given(ITEMS, ENTRIES, ENTRIES, ENDS)
def test_yes_and_no_each_have_their_evidence(
    items: list[Item], skipped: list[dict[str, Any]], successful: list[dict[str, Any]], end: dict[str, Any]
) -> None:
    lists = outcome.Lists(items)
    lists.skipped(skipped)
    lists.successful(successful)
    for each in items:
        found = lists.of(each, end)
        passed_over = [e for e in skipped if str(e["destination_path"] or "").rstrip("/").startswith(each.target)]
        named = [e for e in successful if e["destination_path"] == each.target]
        if found.arrived is Arrived.YES:
            assert not each.directory and not passed_over and named
            assert named[-1].get("size") == each.size or not isinstance(named[-1].get("size"), int)
        elif found.arrived is Arrived.NO:
            assert found.why
            assert passed_over or end["status"] == "FAILED" or named[-1]["size"] != each.size
        else:  # of a failed task only what may be whole, or when the service does not tell which files came
            blind = any(not e["destination_path"] for e in successful)
            assert not passed_over and (end["status"] == "SUCCEEDED" or each.directory or blind)


@given(ITEMS, ENTRIES, ENDS, st.randoms())
def test_repeated_entries_and_another_order_change_nothing(
    items: list[Item], successful: list[dict[str, Any]], end: dict[str, Any], chance: Any
) -> None:
    seen: dict[Any, dict[str, Any]] = {}
    for entry in successful:
        seen.setdefault(entry["destination_path"], entry)
    once = list(seen.values())
    again = [*once, *once]
    chance.shuffle(again)
    answers = []
    for entries in (once, again):
        lists = outcome.Lists(items)
        lists.successful(entries)
        answers.append([lists.of(each, end) for each in items])
    assert answers[0] == answers[1]


def test_a_directory_whose_bytes_all_came_is_left_to_the_receiver_also_after_a_failure() -> None:
    cube = item("d", 7, True)
    failed = {"status": "FAILED", "why": "w", "passing": True}
    lists = outcome.Lists([cube])
    lists.successful([{"destination_path": "/staging/d/a", "size": 5}])
    assert lists.of(cube, failed).arrived is Arrived.NO
    lists.successful([{"destination_path": "/staging/d/b", "size": 2}])
    assert lists.of(cube, failed) == outcome.UNKNOWN


@pytest.mark.parametrize(
    ("code", "hitch"),
    [
        ("OK", None),
        ("Queued", None),
        ("CONNECTION_RESET", None),
        ("VERIFY_CHECKSUM", None),
        ("A_CODE_OF_NEXT_YEAR", None),
        (None, None),
        ("FILE_NOT_FOUND", Hitch.FILE),
        ("PERMISSION_DENIED", Hitch.FILE),
        ("NO_SPACE_LEFT", Hitch.SPACE),
        ("QUOTA_EXCEEDED", Hitch.SPACE),
        ("NO_CREDENTIALS", Hitch.PERSON),
        ("GC_PAUSED", Hitch.PAUSED),
        ("GC_NOT_CONNECTED", Hitch.OFFLINE),
    ],
)
def test_codes_mean_what_they_mean(code: str | None, hitch: Hitch | None) -> None:
    assert codes.meaning(code).hitch is hitch


@given(st.dictionaries(st.sampled_from(["bytes_transferred", "files_transferred", "faults", "fatal_error", "status"]), st.one_of(st.none(), st.integers(), st.sampled_from(["", "x", "7"]), st.booleans(), st.lists(st.integers(), max_size=1))))
def test_a_document_of_any_shape_is_survived(document: dict[str, Any]) -> None:
    report = outcome.report_of(document)
    assert report["bytes"] >= 0 and report["faults"] >= 0
    assert isinstance(outcome.end_of(document, {})["passing"], bool)


# -- comparing -----------------------------------------------------------------------------------------------------------

FATES = ["same", "carried", "passed over"]


def told(fates: list[str], lies: list[tuple[str, int]], counts: tuple[int, int, int], status: str) -> tuple[list[ItemOutcome], dict[str, Any]]:
    """The outcomes of a batch whose files had these fates, as a service tells it that lies."""
    items = [item(f"f{n}", 5, False) for n in range(len(fates))]
    lists: dict[str, list[dict[str, Any]]] = {fate: [] for fate in FATES}
    for n, fate in enumerate(fates):
        lists[fate].append({"destination_path": f"/staging/f{n}", "size": 5, "error_code": "FILE_NOT_FOUND"})
    for lie, n in lies:
        part = lists[FATES[1 + n % 2]]
        if lie == "foreign":
            part.append({"destination_path": "/elsewhere", "size": 5})
        elif part and lie == "omit":
            part.pop(n % len(part))
        elif part and lie == "repeat":
            part.append(part[n % len(part)])
        elif part and lie == "blind":
            part[n % len(part)] = {**part[n % len(part)], "destination_path": None}
    names = ["files_skipped", "files_transferred", "subtasks_skipped_errors"]
    numbers = {name: fates.count(fate) + more for name, fate, more in zip(names, FATES, counts)}
    end = outcome.end_of({"status": status, **numbers}, {})
    found = outcome.Lists(items, comparing=True)
    found.skipped(lists["passed over"])
    found.successful(lists["carried"])
    return [found.of(each, end) for each in items], end


LIES = st.lists(st.tuples(st.sampled_from(["omit", "repeat", "blind", "foreign"]), st.integers(0, 9)), max_size=2)
OFF = st.sampled_from([0, 0, 0, -1, 1])


@given(st.lists(st.sampled_from(FATES), min_size=1, max_size=6), LIES, st.tuples(OFF, OFF, OFF), st.sampled_from(["SUCCEEDED", "SUCCEEDED", "FAILED"]))
def test_only_what_the_task_counted_to_the_last_file_is_the_same(
    fates: list[str], lies: list[tuple[str, int]], counts: tuple[int, int, int], status: str
) -> None:
    found, _ = told(fates, lies, counts, status)
    honest = not lies and counts == (0, 0, 0)
    for fate, each in zip(fates, found):
        if honest and status == "SUCCEEDED":
            assert each.arrived is {"same": Arrived.SAME, "carried": Arrived.YES, "passed over": Arrived.NO}[fate]
        if each.arrived is Arrived.YES:
            assert fate == "carried"
        if each.arrived is Arrived.SAME:
            assert status == "SUCCEEDED" and counts[0] == 0
            # One lie is always found; that two of them, in a list and in a count, fit each other would be a plot.
            assert fate == "same" or len(lies) + sum(map(abs, counts)) > 1
        if fate == "same":
            assert each.arrived in (Arrived.SAME, Arrived.UNKNOWN)


@pytest.mark.parametrize("missing", ["files_skipped", "files_transferred", "subtasks_skipped_errors"])
@pytest.mark.parametrize("value", [None, "1", True])
def test_a_count_that_is_none_proves_nothing(missing: str, value: Any) -> None:
    task = {"status": "SUCCEEDED", "files_skipped": 1, "files_transferred": 0, "subtasks_skipped_errors": 0}
    for document, expected in ((task, Arrived.SAME), ({**task, missing: value}, Arrived.UNKNOWN)):
        lists = outcome.Lists([item("f", 5, False)], comparing=True)
        assert lists.of(item("f", 5, False), outcome.end_of(document, {})).arrived is expected


@pytest.mark.parametrize("others", [[item("d", 5, True)], [item("f", 5, False)]])
def test_a_batch_that_cannot_be_counted_proves_nothing(others: list[Item]) -> None:
    """A directory counts as many, and a file that is in it twice perhaps as one."""
    for more in ([], others):
        items = [item("f", 5, False), *more]
        for count in (1, 2):
            lists = outcome.Lists(items, comparing=True)
            end = {"status": "SUCCEEDED", "same": count, "carried": 0, "passed_over": 0}
            expected = Arrived.SAME if not more and count == 1 else Arrived.UNKNOWN
            assert {lists.of(each, end).arrived for each in items} == {expected}


@pytest.mark.parametrize("path", ["/elsewhere", None, ""])
def test_an_entry_about_another_file_spoils_the_count(path: str | None) -> None:
    """It is perhaps another task's list, or one of ours under a name that is not told."""
    for into in (outcome.Lists.skipped, outcome.Lists.successful):
        lists = outcome.Lists([item("f", 5, False)], comparing=True)
        into(lists, [{"destination_path": path, "size": 5}])
        assert lists.of(item("f", 5, False), {"status": "SUCCEEDED", "same": 1, "carried": 0, "passed_over": 0}) == outcome.UNKNOWN


def test_a_task_that_sends_proves_no_sameness() -> None:
    end = {"status": "SUCCEEDED", "same": 1, "carried": 0, "passed_over": 0}
    assert outcome.Lists([item("f", 5, False)]).of(item("f", 5, False), end) == outcome.UNKNOWN


def test_a_task_that_failed_to_compare_says_why_and_nothing_else() -> None:
    end = {"status": "FAILED", "why": "w", "passing": True, "same": 1, "carried": 0, "passed_over": 0}
    lists = outcome.Lists([item("f", 5, False)], comparing=True)
    assert lists.of(item("f", 5, False), end) == ItemOutcome(Arrived.UNKNOWN, "w", True)


# -- tasks that compare and delete -----------------------------------------------------------------------------------------


class Deeds:
    """Two collections with real bytes behind them, and movers between them."""

    def __init__(self, globus: GlobusService, top: Path) -> None:
        self.globus, self.top = globus, top
        for name in ("here", "there", "state"):
            (top / name).mkdir()
        self.account = globus.service_account()
        (top / "secret").touch(mode=0o600)
        (top / "secret").write_text(self.account.secret)
        self.here: Collection = globus.collection("here", root="/")
        self.there: Collection = globus.collection("there", root="/")
        self.provider = {"destination_endpoint": self.there.id}

    def mover(self, deed: str) -> GlobusMover:
        """A mover for one kind of task, as a new run has it."""
        tokens = Tokens(str(self.top / "state"), self.account.id, person=False, file=str(self.top / "secret"))
        return GlobusMover(Setup(True, self.account.id, False, self.here.id, deed=deed), tokens, lambda: self.globus.now)

    def put(self, name: str, here: bytes | None, there: bytes | None = None) -> Item:
        """A file at the source and perhaps at the destination."""
        for side, content in (("here", here), ("there", there)):
            if content is not None:
                (self.top / side / name).parent.mkdir(parents=True, exist_ok=True)
                (self.top / side / name).write_bytes(content)
        return Item(f"{self.top}/here/{name}", f"{self.top}/there/{name}", False, len(here or b""), name)

    def submit(self, deed: str, items: list[Item]) -> Ticket:
        """Hand a task in."""
        mover = self.mover(deed)
        return mover.submit(self.provider, mover.prepare(self.provider, "libtool r 7"), items)

    def end(self, deed: str, ticket: Ticket) -> Ticket:
        """The ticket of a task that has ended."""
        progress = self.mover(deed).poll(ticket)
        assert progress.stage is Stage.DONE
        return progress.ticket or ticket

    def done(self, deed: str, items: list[Item]) -> list[Arrived]:
        """What became of each."""
        ticket = self.submit(deed, items)
        self.globus.work()
        return [each.arrived for each in self.mover(deed).outcomes(self.end(deed, ticket), items)]


@pytest.fixture
def deeds(globus: GlobusService, tmp_path: Path) -> Deeds:
    return Deeds(globus, tmp_path)


def some(deeds: Deeds) -> list[Item]:
    """Files of every fate: two that are the same, two that differ, two that are not there yet, and one that is nowhere."""
    return [
        deeds.put("same", b"12345", b"12345"),
        deeds.put("empty", b"", b""),
        deeds.put("other", b"12345", b"54321"),
        deeds.put("longer", b"12345", b"123456"),
        deeds.put("new a", b"12345"),
        deeds.put("new b", b"12345"),
        deeds.put("nowhere", None),
    ]


FOUND = [Arrived.SAME] * 2 + [Arrived.YES] * 4 + [Arrived.NO]


@pytest.mark.parametrize("page", [1, 2, 100])
def test_what_differs_is_carried_and_the_rest_is_the_same(deeds: Deeds, page: int) -> None:
    deeds.globus.page = page
    assert deeds.done("compare", some(deeds)) == FOUND
    for name in ("same", "other", "longer", "new a", "new b"):
        assert (deeds.top / "there" / name).read_bytes() == b"12345"
    assert deeds.done("compare", some(deeds)[:4]) == [Arrived.SAME] * 2 + [Arrived.YES] * 2


def test_a_task_that_compares_differs_in_nothing_else(deeds: Deeds) -> None:
    items = some(deeds)
    sent = deeds.submit("send", items)
    deeds.globus.work()
    compared = deeds.submit("compare", items)
    first, second = ({**task.document} for task in deeds.globus.tasks)
    own = ("submission_id", "label")
    assert {key: value for key, value in second.items() if key not in own} == {
        **{key: value for key, value in first.items() if key not in own},
        "sync_level": 3,
    }
    assert sent["label"].startswith("libtool r 7 ") and compared["label"].startswith("compare libtool r 7 ")


@pytest.mark.parametrize(
    "lie",
    [
        lambda globus: globus.fault("lie_omit", path="new a"),
        lambda globus: globus.fault("lie_omit", path="other"),
        lambda globus: globus.fault("lie_repeat"),
        lambda globus: (globus.fault("lie_repeat"), globus.fault("lie_omit", path="new b")),
        lambda globus: globus.fault("lie_count", by=1),
        lambda globus: globus.fault("lie_count", by=-1),
        lambda globus: globus.fault("lie_count", field="files_transferred", by=1),
        lambda globus: globus.fault("lie_count", field="files_transferred", by=-1),
        lambda globus: globus.fault("lie_count", field="subtasks_skipped_errors", by=1),
        lambda globus: globus.fault("lie_count", field="subtasks_skipped_errors", by=-1),
    ],
)
@pytest.mark.parametrize("page", [2, 100])
def test_lies_never_make_two_files_the_same(deeds: Deeds, page: int, lie: Callable[[GlobusService], Any]) -> None:
    deeds.globus.page = page
    lie(deeds.globus)
    items = some(deeds)
    found = deeds.done("compare", items)
    for arrived, honest in zip(found, FOUND):
        assert arrived in ((honest, Arrived.UNKNOWN) if honest is not Arrived.SAME else (Arrived.SAME, Arrived.UNKNOWN))
    repeats = len(deeds.globus.world.faults.armed) == 1 and deeds.globus.world.faults.armed[0].name == "lie_repeat"
    if not repeats:  # a repetition alone hides nothing
        assert Arrived.SAME not in found


def test_a_list_that_cannot_be_read_proves_nothing(deeds: Deeds) -> None:
    items = some(deeds)
    ticket = deeds.submit("compare", items)
    deeds.globus.work()
    ticket = deeds.end("compare", ticket)
    for url in ("successful_transfers", "skipped_errors"):
        armed = deeds.globus.fault("http_500", url=url, count=99)
        with pytest.raises(CarrierUnknown):
            deeds.mover("compare").outcomes(ticket, items)
        armed.end()
    deeds.globus.close_history()
    late = deeds.end("compare", ticket)
    assert {each.arrived for each in deeds.mover("compare").outcomes(late, items)} == {Arrived.UNKNOWN}


@pytest.mark.parametrize("code", ["INTERNAL_ERROR", "EXPIRED"])
def test_a_comparison_that_failed_proves_nothing(deeds: Deeds, code: str) -> None:
    deeds.globus.fault("task_fail", code=code)
    assert deeds.done("compare", some(deeds)) == [Arrived.UNKNOWN] * 7


def test_a_comparison_that_was_cancelled_halfway_proves_what_was_carried(deeds: Deeds) -> None:
    items = [deeds.put("same", b"12345", b"12345"), deeds.put("new", b"12345"), deeds.put("stuck", b"12345")]
    deeds.globus.fault("perm", path="stuck", side="destination")
    ticket = deeds.submit("compare", items)
    deeds.globus.work()
    deeds.mover("compare").cancel(ticket)
    found = deeds.mover("compare").outcomes(deeds.end("compare", ticket), items)
    assert [each.arrived for each in found] == [Arrived.UNKNOWN, Arrived.YES, Arrived.UNKNOWN]


def test_what_was_left_out_is_not_counted(deeds: Deeds) -> None:
    items = [deeds.put("same", b"12345", b"12345"), Item("/a", "/../b", False, 1)]
    assert deeds.done("compare", items) == [Arrived.SAME, Arrived.NO]


def test_a_comparison_that_only_reads_is_not_still(deeds: Deeds) -> None:
    items = [deeds.put(f"f{n}", bytes([n]) * 100) for n in range(3)]
    ticket = deeds.submit("compare", items)
    mover, (task,) = deeds.mover("compare"), deeds.globus.tasks
    first = mover.poll(ticket)
    for passed, checksummed, still in ((60, 0, 60.0), (60, 100, 0.0), (60, 100, 60.0), (60, 600, 0.0)):
        deeds.globus.fault("task_hang")
        deeds.globus.advance(passed)
        task.bytes_checksummed = checksummed
        first = mover.poll(first.ticket or ticket)
        assert first.still == still


def test_other_files_are_never_adopted_by_a_comparison(deeds: Deeds) -> None:
    """A task with the label of another database may compare others: what it does not list is not the same."""
    old = [deeds.put("a", b"1", b"1"), deeds.put("b", b"1", b"1")]
    new = [deeds.put("a", b"1", b"1"), deeds.put("c", b"1", b"2")]
    first = deeds.submit("compare", old)
    mover = deeds.mover("compare")
    ticket = mover.prepare(deeds.provider, "libtool r 7")
    with pytest.raises(CarrierRefused):  # "a" is in both
        mover.submit(deeds.provider, ticket, new)
    assert mover.recall(first) == first | {"task": deeds.globus.tasks[0].task_id} and mover.recall(ticket) is None
    deeds.globus.work()
    assert mover.submit(deeds.provider, ticket, new)["task"] == deeds.globus.tasks[1].task_id


def test_a_lost_answer_makes_no_second_task_of_any_deed(deeds: Deeds) -> None:
    for n, deed in enumerate(("send", "compare", "delete")):
        items = [deeds.put(f"{n}", b"1")]
        mover = deeds.mover(deed)
        ticket = mover.prepare(deeds.provider, "libtool r 7")
        deeds.globus.fault("drop_after", method="POST", url="/(transfer|delete)$", count=2)
        with pytest.raises(CarrierUnknown):
            mover.submit(deeds.provider, ticket, items)
        assert len(deeds.globus.tasks) == n + 1
        found = deeds.mover(deed).recall(ticket)
        again = deeds.mover(deed).submit(deeds.provider, ticket, items)
        assert found and found["task"] == again["task"] == deeds.globus.tasks[-1].task_id and len(deeds.globus.tasks) == n + 1


def test_a_ticket_is_good_for_its_own_deed_only(deeds: Deeds) -> None:
    items = [deeds.put("f", b"1")]
    for made in ("send", "compare", "delete"):
        ticket = deeds.mover(made).prepare(deeds.provider, "libtool r 7")
        for other in {"send", "compare", "delete"} - {made}:
            with pytest.raises(ValueError, match=other):
                deeds.mover(other).submit(deeds.provider, ticket, items)
    del ticket["deed"]  # as before there were others than sending
    with pytest.raises(ValueError, match="delete"):
        deeds.mover("delete").submit(deeds.provider, ticket, items)
    assert deeds.globus.tasks == [] and (deeds.top / "here/f").exists()


def test_just_these_files_are_deleted_and_no_mail_is_sent(deeds: Deeds) -> None:
    items = [deeds.put(name, b"1") for name in ("f", "*", "a[bc]", "é?", " ")]
    for name in ("ab", "other", "éx"):
        deeds.put(name, b"stays")
    gone = deeds.put("gone", None)
    assert deeds.done("delete", [*items, gone]) == [Arrived.UNKNOWN] * 6
    assert sorted(os.listdir(deeds.top / "here")) == ["ab", "other", "éx"]
    (task,) = deeds.globus.tasks
    posted = {**task.document}
    assert posted.pop("submission_id") and posted.pop("label").startswith("delete libtool r 7 ")
    assert posted.pop("DATA") == [{"DATA_TYPE": "delete_item", "path": item.source} for item in [*items, gone]]
    assert timedelta(0) < datetime.fromisoformat(posted.pop("deadline")) - deeds.globus.now <= timedelta(hours=1)
    assert posted == {
        "DATA_TYPE": "delete",
        "endpoint": deeds.here.id,
        "recursive": False,
        "ignore_missing": True,
        "interpret_globs": False,
        "notify_on_succeeded": False,
        "notify_on_failed": False,
        "notify_on_inactive": False,
    }
    assert (task.type, task.status) == ("DELETE", "SUCCEEDED")


def test_a_directory_among_files_keeps_what_is_in_it(deeds: Deeds) -> None:
    file, inside = deeds.put("f", b"1"), deeds.put("d/inside", b"2")
    directory = Item(f"{deeds.top}/here/d", "", True, 0)
    for items in ([Item(directory.source, "", False, 0)], [directory, file], [file, directory]):
        ticket = deeds.submit("delete", items)
        deeds.globus.work()
        assert deeds.end("delete", ticket)["end"]["status"] == "FAILED"
        assert Path(inside.source).read_bytes() == b"2"
    assert deeds.done("delete", [directory]) == [Arrived.UNKNOWN]
    assert os.listdir(deeds.top / "here") == []


@pytest.mark.parametrize("path", ["relative", "/a/../b", "/a//b", "/a/", "/", "/a\nb", "/a\rb", "/a\0b", ""])
def test_a_path_that_may_mean_another_is_never_deleted(deeds: Deeds, path: str) -> None:
    good = deeds.put("good", b"1")
    ticket = deeds.submit("delete", [Item(path, "", False, 1), good])
    assert [item["path"] for item in deeds.globus.tasks[0].items] == [good.source]
    deeds.globus.work()
    assert not Path(good.source).exists()
    alone = deeds.submit("delete", [Item(path, "", False, 1)])
    assert alone["task"] is None and len(deeds.globus.tasks) == 1 and ticket["size"] == 1


def test_a_deletion_that_is_stuck_is_still(deeds: Deeds) -> None:
    items = [deeds.put("f", b"1" * 100), deeds.put("g", b"1")]
    fault = deeds.globus.fault("perm", path="g")
    ticket = deeds.submit("delete", items)
    deeds.globus.work()
    mover = deeds.mover("delete")
    progress = mover.poll(ticket)
    assert (progress.stage, progress.hitch, progress.still) == (Stage.RUNNING, Hitch.FILE, 0.0)
    deeds.globus.advance(300)
    progress = mover.poll(progress.ticket or ticket)
    assert progress.still == 300.0
    fault.end()
    deeds.globus.advance(60)
    assert mover.poll(ticket).stage is Stage.DONE and os.listdir(deeds.top / "here") == []
