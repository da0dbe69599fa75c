"""The partition matrix: whatever becomes of a request between two librarians, the clone comes to its end as if nothing
had happened, only later.

Every request of a clone is upset in every way of :data:`tests.partition.KINDS`, between two libtool librarians and
with a stock one at either end. By itself this file takes a seeded part of it; with
``LIBTOOL_TEST_PARTITION=all`` it takes everything (several thousand clones). ``LIBTOOL_TEST_PARTITION_SEED`` takes another part.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from libtool import cli
from tests.partition import ERRORS, KINDS, LATE, LONG, Case, Clone, FromStock, ToStock, Upset, put

WHOLE = os.environ.get("LIBTOOL_TEST_PARTITION") == "all"
SEED = int(os.environ.get("LIBTOOL_TEST_PARTITION_SEED") or 20261121)
#: What every call meets: all that is not just one more page of a web server, or one more refusal.
CORE = [kind for kind in KINDS if kind.rpartition(" ")[0] not in ERRORS]
CORE += ["503 page instead", "500 text after", "404 page instead", "401 once instead", "400 text instead", "406 instead"]
CORE += ["409 object after", "413 instead", "422 list instead", "425 instead", "307 after", "200 page instead", "200 {} instead"]
#: What is met in pairs: one of each sort.
PAIRED = ["lost", "answer lost", *(f"late, {when}" for when in LATE[:4]), "twice, second answer", "503 page after"]
PAIRED += ["200 page instead", "items missing", "foreign numbers", "413 instead"]
#: Whoever meets these could not find out, and has nothing to tell before it has lasted.
SILENT = re.compile(r"lost|late,|twice|50\d |404 page|429|413 page|30\d|200 |wrong shape|null lists|cut off|70 MB|drips|425|items (missing|added)|nothing|an item")


class Known:
    """A defect that is not mended yet: a case that it explains does not fail."""

    def __init__(self, why: str, pair: type[Clone], asked: str, kinds: str, wrong: str) -> None:
        self.why, self.pair, self.wrong = why, pair, re.compile(wrong)
        self._case = re.compile(rf"'(?:{kinds})' at {asked} #")

    def explains(self, clone: Clone, case: Case, wrongs: list[str]) -> bool:
        """Whether this is what is wrong."""
        return self.about(clone, case) and all(self.wrong.search(it) for it in wrongs)

    def about(self, clone: Clone, case: Case) -> bool:
        """Whether it could be met in a case."""
        return isinstance(clone, self.pair) and any(self._case.search(str(it)) for it in case.upsets)


KNOWN: list[Known] = []


# -- what must be true of every case ------------------------------------------------------------------------------


def wrongs(clone: Clone, case: Case, base: Case) -> list[str]:
    """What is not as it must be, beside what the clone itself judges."""
    found = [it.replace(LONG, "LONG") for it in case.wrongs]
    if case.happened != len(case.upsets) and len(case.upsets) == 1:
        found.append("its upset never happened")
    more = Counter(case.carried) - Counter(base.carried)
    found += [f"{name!r} was carried {n} times more" for name, n in more.items() if n > len(case.upsets)]
    lines = Counter(it.plain for it in case.printed) - Counter(it.plain for it in base.printed)
    said = [it.replace(LONG, "LONG") for it in lines]
    if not isinstance(clone, (ToStock, FromStock)) and all(SILENT.search(it.kind) for it in case.upsets):
        found += [f"printed: {it}" for it in said if "will be sent anew" not in it]
    if type(clone) is Clone and case.rescued:
        found.append("rescued: the ordinary tasks did not bring it to its end")
    days = 1 + case.spent.days
    found += [f"printed {n} times: {it}" for it, n in lines.items() if ": librarian " in it and n > days * len(case.upsets)]
    # What a stock librarian takes for a yes it does not ask again.
    own = [it for it in case.upsets if it.asked == "a" and not it.kind.startswith(("late, weeks", "200 {} "))]
    if isinstance(clone, FromStock) and own and case.rescued and len(own) == len(case.upsets):
        found.append("rescued by the stock librarian's hypervisor")
    return found


def sweep(clone: Clone, cases: Iterable[tuple[Upset, ...]], base: Case, title: str) -> None:
    """Play the cases and print how many ticks each row took at worst."""
    ticks: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    failed: list[str] = []
    known: Counter[str] = Counter()
    count, rescued = 0, 0
    for upsets in cases:
        case = clone.play(*upsets)
        count += 1
        rescued += case.rescued
        row = (" + ".join(f"{it.asked} {it.endpoint}" for it in upsets), "")
        column = " + ".join(it.kind for it in upsets)
        ticks[row][column] = max(case.ticks, ticks[row].get(column, 0))
        found = wrongs(clone, case, base)
        if found:
            why = next((each.why for each in KNOWN if each.explains(clone, case, found)), None)
            if why is None:
                failed.append("\n".join([f"{case} ({case.ticks} ticks, {case.spent})", *(f"    {it}" for it in found[:12])]))
            else:
                known[why] += 1
    print(f"\n{title}: {count} clones, {rescued} needed a long wait (seed {SEED})")
    for (endpoint, _), found_ticks in sorted(ticks.items()) if len(ticks) < 40 else ():
        worst = max(found_ticks.values())
        slow = [kind for kind, n in found_ticks.items() if n == worst]
        spread = " ".join(f"{n}:{c}" for n, c in sorted(Counter(found_ticks.values()).items()))
        print(f"  {endpoint:34} {len(found_ticks):3} ways, ticks {spread:28} worst {worst:2}: {', '.join(slow[:3])}")
    for why, n in known.items():
        print(f"  KNOWN, {n} times: {why}")
    assert not failed, f"{len(failed)} of {count}:\n" + "\n".join(failed[:25])


# -- the clones ---------------------------------------------------------------------------------------------------


@pytest.fixture
def top() -> Iterator[Path]:
    """A directory in memory where there is one: thousands of clones."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(dir=memory))
    yield path
    shutil.rmtree(path)


Make = Callable[..., tuple[Clone, Case]]


@pytest.fixture
def make(top: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A pair of librarians, and the clone between them that nothing upsets."""

    def made(kind: type[Clone], **settings: object) -> tuple[Clone, Case]:
        clone = kind(top, monkeypatch)
        for key, value in settings.items():
            setattr(clone, key, value)
        return clone, clone.undisturbed()

    return made


def first_calls(base: Case, where: str = ".") -> list[tuple[str, str, int]]:
    """The first call of each endpoint, in order; all calls when everything is to be tried."""
    calls = [it for it in dict.fromkeys(base.calls) if re.search(where, f"{it[0]} {it[1]}")]
    return calls if WHOLE else [it for it in calls if it[2] == 1]


def part(cases: list[tuple[Upset, ...]], share: float) -> list[tuple[Upset, ...]]:
    """A seeded share of the cases; all of them when everything is to be tried."""
    return cases if WHOLE else random.Random(SEED).sample(cases, max(1, int(len(cases) * share)))


def singles(calls: Iterable[tuple[str, str, int]], kinds: Iterable[str]) -> list[tuple[Upset, ...]]:
    """Each way at each call."""
    return [(Upset(*call, kind),) for call, kind in itertools.product(calls, kinds)]


def settled_by_hypervisor(pair: type[Clone]) -> bool:
    """Whether what a stock librarian fails to tell us is settled by a task that is there."""
    return pair is not ToStock or "outgoing-transfer-hypervisor" in cli.COMMANDS


# -- what went wrong once ------------------------------------------------------------------------------

ONCE = [
    (Clone, 1, [("b", "ping/logged", 1, "200 page instead")]),
    (Clone, 1, [("b", "libtool/clone/batch_stage", 1, "200 page after")]),
    (Clone, 3, [("b", "libtool/clone/staged", 1, "items missing")]),
    (ToStock, 1, [("b", "search/file", 2, "400 text instead")]),
    (ToStock, 1, [("b", "search/file", 2, "200 [] instead")]),
    (ToStock, 1, [("b", "clone/batch_stage", 2, "an item twice")]),
    (ToStock, 4, [("b", "checkin/update", 4, "answer lost"), ("b", "checkin/status", 1, "200 {} instead")]),
    (ToStock, 4, [("b", "checkin/update", 4, "answer lost"), ("b", "checkin/status", 1, "items missing")]),
    (FromStock, 1, [("a", "clone/complete", 1, "200 page instead")]),
    (FromStock, 1, [("a", "clone/complete", 1, "400 unsure instead")]),
    (FromStock, 1, [("a", "clone/complete", 1, "400 text instead")]),
]


@pytest.mark.parametrize(
    "pair, slow, upsets", ONCE, ids=[f"{p.name}: {' + '.join(' '.join(map(str, u)) for u in us)}" for p, _, us in ONCE]
)
def test_half_an_answer_or_one_of_somebody_else_is_no_answer(make: Make, pair: type[Clone], slow: int, upsets: list[tuple[str, str, int, str]]) -> None:
    clone, base = make(pair, slow=slow)
    case = clone.play(*(Upset(*it) for it in upsets))
    assert case.happened == len(upsets)
    anew = [it.line for it in case.printed if "will be sent anew" in it.line]
    assert not wrongs(clone, case, base) + anew and case.carried == base.carried


def test_a_request_that_is_lost_long_after_another_is_no_trouble_that_has_lasted(make: Make) -> None:
    clone, _ = make(Clone)
    clone.play(Upset("b", "libtool/clone/staged", 2, "answer lost"))  # nothing was left to be said afterwards
    clone.world.wait(days=30)
    put(clone.a, "newer", b"newer")
    clone.wire.planned = {("b", "ping/logged", 2): Upset("b", "ping/logged", 2, "lost")}
    clone.case.printed.clear()
    clone.done = 0
    clone.tick(False)
    assert not clone.case.printed


# -- the matrix ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", [1, 3], ids=["at-once", "slow"])
def test_one_upset_between_two_of_libtool(make: Make, slow: int) -> None:
    clone, base = make(Clone, slow=slow)
    calls = first_calls(base)
    cases = part(singles(calls, CORE), 0.25 if slow == 1 else 0.015)
    rest = [kind for kind in KINDS if kind not in CORE]
    others = [it for it in dict.fromkeys(base.calls) if it not in calls]
    cases += part(singles(calls, rest), 0.03) + (part(singles(others, CORE), 0.03) if others else [])
    sweep(clone, cases, base, f"libtool to libtool{' (slow to take in)' * (slow > 1)}")


def test_one_upset_while_catalogues_are_compared(make: Make) -> None:
    clone, base = make(Clone, comparing=True)
    cases = singles(first_calls(base, "states|known|delivered"), KINDS)
    # Null is a definite answer, and the transfers are sent anew: so it must not be said wrongly.
    sweep(clone, part(cases, 0.03), base, "libtool to libtool, comparing")


@pytest.mark.parametrize("pair", [ToStock, FromStock], ids=lambda it: it.name.replace(" ", "-"))
def test_one_upset_with_a_stock_librarian(make: Make, pair: type[Clone]) -> None:
    clone, base = make(pair)
    where = "." if settled_by_hypervisor(pair) else "^b "
    sweep(clone, part(singles(first_calls(base, where), KINDS), 0.03), base, pair.name)


@pytest.mark.parametrize("pair", [Clone, ToStock, FromStock], ids=lambda it: it.name.replace(" ", "-"))
def test_two_upsets(make: Make, pair: type[Clone]) -> None:
    """Pairs of kinds, each at two calls that a seed chooses."""
    clone, base = make(pair)
    where = "." if settled_by_hypervisor(pair) else "^b "
    calls = [it for it in dict.fromkeys(base.calls) if re.search(where, f"{it[0]} {it[1]}")]
    choose = random.Random(SEED)
    cases = []
    for one, other in itertools.product(PAIRED, PAIRED):
        for _ in range(8 if WHOLE else 1):
            here, there = choose.choice(calls), choose.choice(calls)
            if here == there:  # what comes next of the same
                there = (here[0], here[1], here[2] + 1)
            cases.append((Upset(*here, one), Upset(*there, other)))
    sweep(clone, part(cases, 0.06 if pair is Clone else 0.015), base, f"{pair.name}, two upsets")
