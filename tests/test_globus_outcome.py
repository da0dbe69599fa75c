"""What became of every file: rules over the service's lists, tried with lists of all kinds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libtool.movers.base import Arrived, Hitch, Item
from libtool.movers.globus import codes, outcome

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
