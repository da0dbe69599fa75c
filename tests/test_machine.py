"""The state machine: every combination has exactly one owner, one next step and an age, and unknown ends nothing."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libtool import cli, digest
from libtool.archive import machine, stocktaking
from libtool.archive.machine import (
    COPIES,
    INCOMING,
    ITEMS,
    MACHINES,
    OUTGOING,
    Aside,
    Disk,
    Hold,
    Lying,
    Machine,
    Rule,
    Step,
    There,
)
from libtool.peers.messages import KnownFile
from libtool.states import Cause, Condition, QueueStatus, RemovalStatus, TransferStatus
from tests.test_words import readme, sections

#: What ends a transfer because something is not so; RECORD ends it, too, because something is there.
ENDING = {Step.AGAIN, Step.PARK, Step.END}
#: Owners whose time nobody limits, and why.
PATIENT = {
    "reconcile": "it is over",
    "send-clone": "it is over",
    "check-consumed-queue": "a carrier takes as long as it takes, or it is over",
    "retry": "only a person knows when a disk does not arrive any more",
    "add-librarian": "only a person knows whether a neighbour comes back",
    "corruption-fixer": "nobody knows when a sound copy can be had",
    "recv-clone": "it was removed on purpose",
    "rolling-deletion": "the removal itself says how long its bytes are kept",
}


def combinations(which: Machine) -> list[tuple[Any, ...]]:
    return list(itertools.product(*(values for _, values in which.parts)))


def rules(which: Machine, found: tuple[Any, ...]) -> list[Rule]:
    return [rule for rule in which.rules if rule.fits(found)]


@pytest.mark.parametrize("which", MACHINES, ids=lambda which: which.title)
def test_every_combination_has_exactly_one_rule(which: Machine) -> None:
    wrong = {found: len(rules(which, found)) for found in combinations(which) if len(rules(which, found)) != 1}
    assert wrong == {}


@pytest.mark.parametrize("which", MACHINES, ids=lambda which: which.title)
def test_every_rule_is_about_something_and_its_owner_is_a_command(which: Machine) -> None:
    found = combinations(which)
    for rule in which.rules:
        assert any(rule.fits(each) for each in found), rule
        assert rule.owner in cli.COMMANDS, rule
        assert len(rule.when) == len(which.parts), rule
        for wanted, (word, values) in zip(rule.when, which.parts):
            assert wanted and set(wanted) <= set(values), (word, rule)
        assert rule.why and rule.why[0].islower() and not rule.why.endswith("."), rule


def test_what_is_enumerated_is_all_there_is() -> None:
    assert dict(OUTGOING.parts) == {
        "here": tuple(TransferStatus), "held": (Hold.CARRIED, Hold.OWED, Hold.BY_HAND, Hold.IDLE), "there": tuple(There), "on disk there": tuple(Disk)
    }
    assert dict(INCOMING.parts) == {
        "here": tuple(TransferStatus), "held": (Hold.CLAIMED, Hold.IDLE), "there": tuple(There), "on disk here": tuple(Lying)
    }
    assert dict(COPIES.parts) == {"available": (True, False), "condition": tuple(Condition), "set aside": tuple(Aside)}
    assert dict(ITEMS.parts) == {"status": tuple(QueueStatus)}
    assert {There.of(state) for state in (None, *TransferStatus)} == set(There) - {There.UNKNOWN, There.NOBODY}
    assert {Aside.of(cause, status) for cause in Cause for status in RemovalStatus} == set(Aside)


@pytest.mark.parametrize("which", MACHINES, ids=lambda which: which.title)
def test_what_has_no_age_limit_has_none_for_a_reason(which: Machine) -> None:
    for rule in which.rules:
        if rule.within is None:
            assert rule.owner in PATIENT, rule
        else:
            assert rule.within.total_seconds() > 0


def test_a_live_transfer_has_an_age_limit_unless_a_carrier_or_a_person_has_it() -> None:
    for which in (OUTGOING, INCOMING):
        for found in combinations(which):
            (rule,) = rules(which, found)
            if rule.within is None and found[0] < TransferStatus.COMPLETED:
                assert found[1] in (Hold.CARRIED, Hold.BY_HAND) or found[2] is There.NOBODY, (found, rule)


def test_outgoing_transfers_are_asked_about_first() -> None:
    assert machine.OUTGOING_AGE < machine.INCOMING_AGE
    assert {rule.within for rule in OUTGOING.rules if rule.owner.startswith("outgoing")} == {machine.OUTGOING_AGE}
    assert {rule.within for rule in INCOMING.rules} == {machine.INCOMING_AGE}


# -- what must hold for every combination -------------------------------------------------------------------------



def throughout(which: Machine) -> Callable[[Callable[[tuple[Any, ...]], None]], Callable[[], None]]:
    """Try a test with every combination; they are few enough for none to be left to chance."""

    def whole(test: Callable[[tuple[Any, ...]], None]) -> Callable[[], None]:
        def run() -> None:
            for found in combinations(which):
                test(found)

        run.__name__ = test.__name__
        return run

    return whole


@pytest.mark.parametrize("which", [OUTGOING, INCOMING], ids=lambda which: which.title)
def test_unknown_ends_nothing(which: Machine) -> None:
    for found in combinations(which):
        if {There.UNKNOWN, Disk.UNKNOWN, Lying.UNKNOWN} & set(found[2:]):
            (rule,) = rules(which, found)
            assert rule.step not in ENDING, found
        if There.UNKNOWN in found:
            assert rules(which, found)[0].step is (Step.RECORD if machine_adopts(found) else Step.LEAVE), found


def machine_adopts(found: tuple[Any, ...]) -> bool:
    """Idle, live, and the same content is there: that is known, whatever else is not."""
    return found[0] < TransferStatus.COMPLETED and found[1] is Hold.IDLE and found[3] is Disk.SAME


@throughout(OUTGOING)
def test_what_is_carried_owed_or_travels_by_hand_is_left_alone(found: tuple[Any, ...]) -> None:
    rule = machine.outgoing(*found)
    if found[1] is not Hold.IDLE or found[0] >= TransferStatus.COMPLETED:
        assert rule.step is Step.LEAVE


@throughout(OUTGOING)
def test_what_is_there_is_recorded_and_never_sent_again(found: tuple[Any, ...]) -> None:
    here, _hold, there, disk = found
    step = machine.outgoing(*found).step
    if disk is Disk.SAME:
        assert step in (Step.RECORD, Step.LEAVE)
    else:
        assert step is not Step.RECORD
    if step is Step.AGAIN:
        assert disk in (Disk.NOTHING, Disk.NO_COPY) and there in (There.COMPLETED, There.FAILED, There.CANCELLED, There.FORGOTTEN)
    if step is Step.PARK:
        assert disk is Disk.OTHER
    if there is There.STAGED and here is not TransferStatus.INITIATED:
        assert step is Step.LEAVE


@throughout(OUTGOING)
def test_nobody_waits_for_ever(found: tuple[Any, ...]) -> None:
    """A live transfer that nobody has in hand and of which everything is known moves on, or the other side has it."""
    here, hold, there, disk = found
    known = there not in (There.UNKNOWN, There.NOBODY) and disk is not Disk.UNKNOWN
    if hold is Hold.IDLE and known and TransferStatus.INITIATED < here < TransferStatus.COMPLETED:
        rule = machine.outgoing(*found)
        assert rule.step is not Step.LEAVE or rule.side is machine.Side.THERE


@throughout(INCOMING)
def test_what_may_be_the_last_copy_is_read_before_it_ends(found: tuple[Any, ...]) -> None:
    here, hold, there, lying = found
    step = machine.incoming(*found).step
    if step is Step.END:
        assert lying in (Lying.NOTHING, Lying.PART) and there not in (There.STAGED, There.COMPLETED)
    if lying is Lying.MOVING and there not in (There.STAGED, There.COMPLETED):
        assert step is Step.LEAVE
    if hold is Hold.CLAIMED or here >= TransferStatus.STAGED:
        assert step is Step.LEAVE


@throughout(OUTGOING)
def test_the_disk_is_asked_for_where_it_decides(found: tuple[Any, ...]) -> None:
    here, hold, there, _disk = found
    if not machine.matters(here, hold, there) and hold is not Hold.IDLE:
        assert machine.outgoing(*found) == machine.outgoing(here, hold, there, Disk.UNKNOWN)
    if machine.outgoing(here, hold, there, Disk.NOTHING).step is Step.AGAIN:
        assert machine.matters(here, hold, there)


CHECKSUMS = ["xxh3:::00", "xxh3:::01", "xxh3:::00".upper(), "md5:::00", "00", ""]


@given(st.integers(0, 2), st.sampled_from(CHECKSUMS), st.integers(0, 2), st.sampled_from(CHECKSUMS), st.none() | st.integers(0, 3))
def test_what_is_the_same_is_so_by_size_and_checksum(size: int, checksum: str, theirs: int, other: str, store: int | None) -> None:
    disk, found, why = stocktaking.compare(size, checksum, KnownFile(theirs, other, store))
    equal = size == theirs and digest.same(checksum, other) is True
    assert disk is (Disk.OTHER if not equal else Disk.NO_COPY if store is None else Disk.SAME)
    assert bool(why) is not equal and found == (store if disk is Disk.SAME else None)
    assert stocktaking.compare(size, checksum, None) == (Disk.NOTHING, None, "")


def test_a_bad_copy_is_never_just_forgotten() -> None:
    for available, condition, aside in combinations(COPIES):
        rule = machine.copy(available, condition, aside)
        if aside is Aside.NONE and condition in (Condition.DAMAGED, Condition.MISSING):
            assert (rule.step, rule.owner) == (Step.FETCH, "corruption-fixer")
        if rule.step is Step.PURGE:
            assert aside in (Aside.DELETED, Aside.REPLACED)


def test_items_go_from_the_one_that_ships_to_the_one_that_learns() -> None:
    assert [machine.item(status).owner for status in QueueStatus] == ["consume-queue"] * 2 + ["check-consumed-queue"] * 3


# -- the README ---------------------------------------------------------------------------------------------------


def test_the_table_renders_every_rule_as_rst() -> None:
    text = machine.to_rst()
    lines = text.splitlines()
    edges = [n for n, line in enumerate(lines) if line.startswith("=")]
    assert len(edges) == 3 * len(MACHINES)
    for which, (first, second, third) in zip(MACHINES, zip(*[iter(edges)] * 3)):
        assert lines[first - 2] == f"{which.title}:"
        assert lines[first] == lines[second] == lines[third] and third - second - 1 == len(which.rules)
        columns = [match.span() for match in re.finditer("=+", lines[first])]
        for row, rule in zip(lines[second + 1 : third], which.rules):
            cells = [row[begin:end].strip() for begin, end in columns]
            assert all(cells) and rule.step.name in cells and cells[-1] == rule.why
            assert all(row[end : end + 2].strip() == "" for _, end in columns)


def test_the_readme_has_the_table_as_it_is() -> None:
    parts = sections(readme(), "-")
    assert "The state machine" in parts, "README.rst has no heading 'The state machine'; libtool.archive.machine.to_rst() makes its tables"
    assert machine.to_rst().strip() in readme(), "the tables below 'The state machine' in README.rst are not those of libtool.archive.machine.to_rst()"
