"""May this copy go? The decision against an oracle that was written from the promises, and against mutants of itself.

``LIBTOOL_TEST_EXAMPLES=n`` tries that many examples, other ones each time.
"""

from __future__ import annotations

import ast
import copy
import importlib.util
import itertools
import os
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libtool.archive import deciding
from libtool.archive.deciding import Own, Report, Terms
from libtool.states import Condition, DeletionPolicy

BY_HAND = os.environ.get("LIBTOOL_TEST_EXAMPLES")
EXAMPLES = int(BY_HAND or ("3000" if os.environ.get("LIBTOOL_TEST_ALL_SEAMS") else "1200"))
CORPUS = 400
MANY = settings(
    max_examples=EXAMPLES,
    derandomize=BY_HAND is None,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
Case = tuple[Own, list[Report], Terms]
GOOD, OTHER = "xxh3:::aa", "xxh3:::bb"
#: Other spellings of what is the same or cannot be compared: an md5 with its word and without, another function.
CHECKSUMS = (GOOD, OTHER, "md5:::aa", "aa", "sha256:::aa", "xxh3:::AA", "")


# -- cases: near a yes, since that is where a mistake costs a copy ---------------------------------------------------


@st.composite
def reports_about(draw: st.DrawFn, max_age: float, names: tuple[str, ...]) -> Report:
    """A report that would count, with none, one or a few things changed in it."""
    librarian = draw(st.sampled_from(names[1:]))
    told = Report(librarian, librarian, draw(st.integers(1, 2)), True, 10, GOOD, draw(st.sampled_from((0.0, max_age))))
    changes: dict[str, st.SearchStrategy[Any]] = {
        "teller": st.sampled_from(names),
        "librarian": st.sampled_from(names),
        "store": st.integers(0, 3),
        "good": st.sampled_from((None, False, True)),
        "size": st.sampled_from((0, 9, 11, 10)),
        "checksum": st.sampled_from(CHECKSUMS),
        "age": st.sampled_from(
            (None, -1.0, -1e-9, max_age, max_age + 1e-6, max_age + 1, 1e12, float("inf"), float("nan"))
        ),
    }
    for key in draw(st.lists(st.sampled_from(sorted(changes)), max_size=2, unique=True)):
        told = replace(told, **{key: draw(changes[key])})
    return told


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Our copy, what is said of others, and what is demanded."""
    max_age = draw(st.sampled_from((0.0, 1.0, 600.0)))
    found = draw(st.lists(reports_about(max_age, ("us", "a", "b", "c")), max_size=6))
    if found and draw(st.booleans()):
        found.append(draw(st.sampled_from(found)))  # the same again
    min_age = draw(st.sampled_from((0.0, 5.0)))
    own = Own("us", 10, GOOD, DeletionPolicy.ALLOWED, draw(st.sampled_from((min_age, min_age + 1))), Condition.SOUND)
    odd: dict[str, st.SearchStrategy[Any]] = {
        "policy": st.just(DeletionPolicy.DISALLOWED),
        "age": st.sampled_from((min_age - 1e-6, -1.0)),
        "condition": st.sampled_from((None, *Condition)),
        "needed": st.just("a transfer that has not ended reads it"),
        "checksum": st.sampled_from((OTHER, "md5:::aa")),
        "size": st.sampled_from((0, 11)),
    }
    for key in draw(st.lists(st.sampled_from(sorted(odd)), max_size=1)) if draw(st.integers(0, 2)) == 0 else []:
        own = replace(own, **{key: draw(odd[key])})
    copies = draw(st.sampled_from((1, 1, 2, 2, 3, 0, -1)))
    return own, found, Terms(copies, max_age, min_age, draw(st.sampled_from((True, True, False))))


def one_thing_wrong() -> list[Case]:
    """A plain yes, and that with just one thing changed."""
    own = Own("us", 10, GOOD, DeletionPolicy.ALLOWED, 5.0, Condition.SOUND)
    found = [Report(name, name, 1, True, 10, GOOD, 60.0) for name in "ab"]
    terms = Terms(2, 60.0, 5.0)
    owns: list[dict[str, Any]] = [{"condition": each} for each in (None, *Condition)]
    owns += [{"policy": DeletionPolicy.DISALLOWED}, {"age": 4.9}, {"needed": "it"}, {"size": 11}, {"checksum": OTHER}]
    told: list[dict[str, Any]] = [{"good": False}, {"good": None}, {"age": None}, {"age": 60.1}, {"age": -0.1}, {"age": 0.0}]
    told += [{"size": 9}, *({"checksum": each} for each in CHECKSUMS), {"teller": "c"}, {"librarian": "us"}, {"librarian": "b"}]
    made = [(own, found, terms), (own, found, replace(terms, copies=3)), (own, found, replace(terms, copies=0))]
    made += [(replace(own, **each), found, terms) for each in owns]
    made += [(replace(own, **each), found, replace(terms, held=False)) for each in owns]
    return made + [(own, [replace(found[0], **each), found[1]], terms) for each in told]


# -- the oracle: promise 5, read aloud -------------------------------------------------------------------------------

FUNCTIONS = ("xxh3", "sha256", "sha1", "sha512", "md5")


def spelled(checksum: str) -> tuple[str, str]:
    """Function and digits; without a word in front it is an md5, as stock writes it."""
    word, mark, digits = checksum.partition(":::")
    return (word, digits) if mark and word in FUNCTIONS else ("md5", checksum)


def is_other(told: Report, own: Own) -> bool:
    """Whether a report surely speaks of other bytes."""
    (kind, digits), (own_kind, own_digits) = spelled(told.checksum), spelled(own.checksum)
    return told.size != own.size or (kind == own_kind and digits != own_digits)


def expected(own: Own, found: list[Report], terms: Terms) -> tuple[set[str], set[tuple[str, int]]]:
    """The words that must be among the reasons, one for each that speaks against it; and the copies that count."""
    against: set[str] = set()
    proved: set[tuple[str, int]] = set()
    for told in found:
        if told.good is False:  # a mismatch denies, whoever tells it and of whomever
            against.add(f"{told.librarian} (store {told.store}) is not the same, as {told.teller} says")
        if told.good is True and is_other(told, own):
            against.add(f"{told.librarian} (store {told.store}) is not the same, as {told.teller} says")
        if told.good is not True or told.teller != told.librarian or told.librarian == own.librarian:
            continue
        fresh = told.age is not None and told.age >= 0 and told.age <= terms.max_age
        if fresh and told.size == own.size and spelled(told.checksum) == spelled(own.checksum):
            proved.add((told.librarian, told.store))
    if own.condition is None:
        against.add("our own copy was not read")
    elif own.condition != Condition.SOUND:
        against.add(f"our own copy is {own.condition.name.lower()}")
    if own.policy == DeletionPolicy.DISALLOWED and terms.held:
        against.add("DISALLOWED")
    if own.age < terms.min_age:
        against.add("too young")
    if own.needed:
        against.add(own.needed)
    if terms.copies <= 0:
        against.add("at least one other copy must be demanded")
    if terms.copies > len(proved):
        against.add(f"{len(proved)} of {terms.copies} other copies are proved")
    return against, proved


# -- the properties, of whatever module is handed in -----------------------------------------------------------------


def says_what_the_promises_say(module: Any, case: Case) -> None:
    """Yes, no, every reason and what is counted, as the oracle has it."""
    own, found, terms = case
    decision = module.decide(own, iter(found), terms)
    against, proved = expected(own, found, terms)
    assert decision.may_go is (not against), (decision, against)
    assert len(decision.reasons) == len(against)
    assert all(sum(words in reason for reason in decision.reasons) >= 1 for words in against)
    assert len(decision.counted) == len(proved) and set(decision.counted) == proved
    assert isinstance(decision.reasons, tuple) and isinstance(decision.counted, tuple)
    if any("is not the same" in words for words in against):
        assert "is not the same" in decision.reasons[0]  # the weightiest
    short = [reason for reason in decision.reasons if "other copies are proved" in reason]
    if short:
        names = ", ".join(f"{librarian} (store {store})" for librarian, store in sorted(proved)) or "none"
        assert short[0].endswith(f": {names}") and short[0] == decision.reasons[-1]


def counts_only_distinct_copies_that_their_holder_told_of(module: Any, case: Case) -> None:
    """Each once, each by a direct report, none of ours."""
    own, found, terms = case
    counted = module.decide(own, found, terms).counted
    assert len(set(counted)) == len(counted)
    assert own.librarian not in {librarian for librarian, _ in counted}
    for each in counted:
        direct = [one for one in found if (one.librarian, one.store) == each and one.teller == one.librarian]
        assert any(one.good is True and one.age is not None and 0 <= one.age <= terms.max_age for one in direct)


def does_not_care_for_the_order(module: Any, case: Case) -> None:
    """The same words in any order, but for who contradicts first."""
    own, found, terms = case
    first = module.decide(own, found, terms)
    for other in (found[::-1], found[1:] + found[:1]):
        again = module.decide(own, other, terms)
        assert again.may_go == first.may_go and again.counted == first.counted
        assert sorted(again.reasons) == sorted(first.reasons)


def learns_nothing_from_what_is_unknown_relayed_doubled_or_ours(module: Any, case: Case) -> None:
    """None of these ever lets a copy go, nor is counted."""
    own, found, terms = case
    before = module.decide(own, found, terms)
    for idle in (
        [Report("a", "a", 9, None, 10, GOOD, 0.0)],
        [Report("a", "a", 9, True, 10, GOOD, None)],
        [Report("a", "a", 9, True, 10, GOOD, -1.0)],
        [Report("a", "a", 9, True, 10, GOOD, terms.max_age + 1)],
        [Report("a", "b", 9, True, 10, GOOD, 0.0)],
        [Report("us", "us", 9, True, 10, GOOD, 0.0)],
        [Report("b", "us", 9, True, 10, GOOD, 0.0)],
        [Report("a", "a", 9, True, 10, "sha512:::aa", 0.0)],
        found,
    ):
        after = module.decide(own, [*found, *idle], terms)
        assert not (after.may_go and not before.may_go)
        assert after.counted == before.counted


def denies_what_anybody_contradicts(module: Any, case: Case) -> None:
    """One report of other bytes is enough, from whomever and about whichever copy."""
    own, found, terms = case
    for teller, holder in itertools.product(("us", "a", "b"), repeat=2):
        for changes in ({"good": False}, {"size": own.size + 1}, {"checksum": "xxh3:::cc"}, {"good": False, "age": None}):
            bad = replace(Report(teller, holder, 1, True, own.size, own.checksum, 0.0), **changes)  # type: ignore[arg-type]
            if spelled(own.checksum)[0] != "xxh3" and "checksum" in changes:
                continue
            assert not module.decide(own, [*found, bad], terms).may_go


def is_monotone(module: Any, case: Case) -> None:
    """Asking for less never turns a yes into a no, asking for more never a no into a yes."""
    own, found, terms = case
    here = module.decide(own, found, terms).may_go
    easier = [replace(terms, max_age=terms.max_age + 100), replace(terms, min_age=terms.min_age - 1), replace(terms, held=False)]
    easier += [replace(terms, copies=terms.copies - 1)] if terms.copies > 1 else []
    harder = [replace(terms, max_age=terms.max_age - 1), replace(terms, min_age=terms.min_age + 1), replace(terms, held=True)]
    harder += [replace(terms, copies=0), *([replace(terms, copies=terms.copies + 1)] if terms.copies > 0 else [])]
    assert not here or all(module.decide(own, found, each).may_go for each in easier)
    assert here or not any(module.decide(own, found, each).may_go for each in harder)


PROPERTIES: tuple[Callable[[Any, Case], None], ...] = (
    says_what_the_promises_say,
    counts_only_distinct_copies_that_their_holder_told_of,
    does_not_care_for_the_order,
    learns_nothing_from_what_is_unknown_relayed_doubled_or_ours,
    denies_what_anybody_contradicts,
    is_monotone,
)


def test_the_decision_is_what_the_promises_say(capsys: pytest.CaptureFixture[str]) -> None:
    seen = {True: 0, False: 0}

    @MANY
    @given(cases())
    def every(case: Case) -> None:
        for holds in PROPERTIES:
            holds(deciding, case)
        seen[deciding.decide(*case).may_go] += 1

    for case in one_thing_wrong():
        for holds in PROPERTIES:
            holds(deciding, case)
    every()
    with capsys.disabled():
        print(f"\ndeciding: {sum(seen.values())} examples, {seen[True]} may go, {seen[False]} stay")
    assert sum(seen.values()) >= EXAMPLES and min(seen.values()) > EXAMPLES // 100


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_one_copy_told_of_by_everybody_counts_once(copies: int) -> None:
    """The story of the two answers that were one copy: A to B, A to C, B to C."""
    own = Own("us", 10, GOOD, DeletionPolicy.ALLOWED, 9.0, Condition.SOUND)
    told = [Report(teller, "c", 7, True, 10, GOOD, 0.0) for teller in ("c", "b", "c", "d", "us")]
    decision = deciding.decide(own, told, Terms(copies, 60.0))
    assert decision.may_go is (copies == 1) and decision.counted == (("c", 7),)


def test_a_mismatch_beside_enough_good_copies_denies() -> None:
    """The story of the ``continue`` in the inner loop."""
    own = Own("us", 10, GOOD, DeletionPolicy.ALLOWED, 9.0, Condition.SOUND)
    good = [Report(name, name, 1, True, 10, GOOD, 0.0) for name in "abc"]
    assert deciding.decide(own, good, Terms(3, 0.0)).may_go
    decision = deciding.decide(own, [*good, Report("d", "d", 1, False, 10, OTHER, None)], Terms(3, 0.0))
    assert not decision.may_go and decision.reasons == ("the copy at d (store 1) is not the same, as d says",)


# -- mutants ---------------------------------------------------------------------------------------------------------

FUNCTIONS_OF = ("may_go", "copy", "decide", "_contradictions", "_proved", "_proves")
_FLIPS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
#: What changes nothing that anybody could see, and why.
_GUARD = "report.good is not None and (report.size != own.size or digest.same(report.checksum, own.checksum) is False)"
EQUIVALENT = {
    f"_contradictions: operand 1 of '{_GUARD}' dropped": "'differs' matters only where 'report.good' is true",
    "_contradictions: 'report.good is not None' is true": "the same",
    "_contradictions: operand 1 of 'report.good and differs' dropped": (
        "what is not good speaks against it already, and what is unknown never differs"
    ),
    "_proves: 'report.librarian' becomes report.teller": (
        "'report.teller == report.librarian' is demanded right beside 'report.librarian != own.librarian'"
    ),
}


def mutations() -> Iterator[tuple[str, ast.Module]]:
    """Every mutant, with what was done to it."""
    source = Path(deciding.__file__).read_text(encoding="utf-8")
    tree = ast.parse(source)
    functions = [each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef) and each.name in FUNCTIONS_OF]
    assert {each.name for each in functions} == set(FUNCTIONS_OF)
    for function in functions:
        for number, node in enumerate(ast.walk(function)):
            for words, change in _changes(node):
                mutant = copy.deepcopy(tree)
                where = next(
                    each for each in ast.walk(mutant) if isinstance(each, ast.FunctionDef) and each.name == function.name
                )
                spot = next(itertools.islice(ast.walk(where), number, None))
                new = change(spot)
                if new is not spot:
                    _put(where, spot, new)
                yield f"{function.name}: {words}", ast.fix_missing_locations(mutant)


def _put(top: ast.AST, old: ast.AST, new: ast.AST | None) -> None:
    """Put another node (or none) in the place of one."""

    class Swap(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> Any:
            return new if node is old else self.generic_visit(node)

    Swap().visit(top)


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    text = ast.unparse(node) if isinstance(node, (ast.expr, ast.stmt)) else ""
    constant = {True: ast.Constant(True), False: ast.Constant(False)}
    if isinstance(node, ast.BoolOp):
        for n in range(len(node.values)):
            yield f"operand {n + 1} of '{text}' dropped", lambda spot, n=n: _without(spot, n)
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield f"'and' and 'or' exchanged in '{text}'", lambda spot: _with(spot, op=other)
    if isinstance(node, ast.Compare):
        for value in (True, False):
            yield f"'{text}' is {str(value).lower()}", lambda spot, value=value: constant[value]
        for n, operator in enumerate(node.ops):
            for flip in _FLIPS.get(type(operator), ()):
                yield f"{type(operator).__name__} {n + 1} in '{text}' becomes {flip.__name__}", lambda spot, n=n, flip=flip: (
                    _with(spot, ops=[*spot.ops[:n], flip(), *spot.ops[n + 1 :]])
                )
        if len(node.ops) > 1:
            yield f"the first half of '{text}' dropped", lambda spot: ast.Compare(
                spot.comparators[0], spot.ops[1:], spot.comparators[1:]
            )
            yield f"the second half of '{text}' dropped", lambda spot: ast.Compare(
                spot.left, spot.ops[:1], spot.comparators[:1]
            )
    if isinstance(node, ast.If):
        for value in (True, False):
            yield f"'if {ast.unparse(node.test)}' is always {value}", lambda spot, value=value: _with(spot, test=constant[value])
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield f"'{text}' left out", lambda spot: ast.Pass()
    if isinstance(node, ast.SetComp):
        yield f"'{text}' becomes a list", lambda spot: ast.ListComp(spot.elt, spot.generators)
        for n, _ in enumerate(node.generators[0].ifs):
            yield f"condition {n + 1} of '{text}' dropped", lambda spot: _with(
                spot, generators=[_with(spot.generators[0], ifs=[])]
            )
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "sorted":
        yield f"'{text}' in the order of a list", lambda spot: ast.Call(ast.Name("list", ast.Load()), spot.args, [])
        yield f"'{text}' backwards", lambda spot: _with(spot, keywords=[ast.keyword("reverse", ast.Constant(True))])
    if isinstance(node, ast.Call) and text == "list(dict.fromkeys(wrong))":
        yield f"'{text}' keeps doubles", lambda spot: ast.Name("wrong", ast.Load())
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield f"'{text}' without not", lambda spot: spot.operand
    if isinstance(node, ast.Constant) and type(node.value) is int:
        for step in (1, -1):
            yield f"{node.value} becomes {node.value + step}", lambda spot, step=step: ast.Constant(spot.value + step)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} becomes {not node.value}", lambda spot: ast.Constant(not spot.value)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "report":
        for other_field in {"teller": ("librarian",), "librarian": ("teller",), "store": ("size",)}.get(node.attr, ()):
            yield f"'{text}' becomes report.{other_field}", lambda spot, field=other_field: _with(spot, attr=field)
    if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
        for n in range(len(node.value.elts)):
            yield f"'{text}' without part {n + 1}", lambda spot, n=n: _with(
                spot, value=ast.Tuple([*spot.value.elts[:n], *spot.value.elts[n + 1 :]], ast.Load())
            )


def _with(node: Any, **changes: Any) -> Any:
    """The node, with other parts."""
    for key, value in changes.items():
        setattr(node, key, value)
    return node


def _without(node: ast.BoolOp, n: int) -> ast.AST:
    left = [*node.values[:n], *node.values[n + 1 :]]
    return left[0] if len(left) == 1 else _with(node, values=left)


def load(tree: ast.Module) -> types.ModuleType:
    """A mutant as a module. What it knows of reports and terms are its own classes of the same shape."""
    name = "libtool.archive._mutant_of_deciding"
    spec = importlib.util.spec_from_loader(name, loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        exec(compile(tree, name, "exec"), module.__dict__)
    finally:
        del sys.modules[name]
    return module


def as_its_own(module: Any, case: Case) -> Case:
    """A case in a mutant's own classes, so that a mutated property of a report is one."""
    own, found, terms = case
    made = [module.Report(*(getattr(each, slot) for slot in Report.__slots__)) for each in found]
    return own, made, terms


def kills(module: Any, corpus: list[Case]) -> str:
    """Which property a mutant breaks; empty when it breaks none."""
    for case in corpus:
        for holds in PROPERTIES:
            try:
                own, found, terms = case
                holds(_Own(module), (own, found, terms))
            except Exception:  # a mutant may do anything
                return holds.__name__
    return ""


class _Own:
    """A mutant that is handed its own reports."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def decide(self, own: Own, found: Any, terms: Terms) -> Any:
        """What the mutant says."""
        return self._module.decide(*as_its_own(self._module, (own, list(found), terms)))


def test_every_mutant_of_the_decision_is_killed(capsys: pytest.CaptureFixture[str]) -> None:
    corpus: list[Case] = one_thing_wrong()

    @settings(MANY, max_examples=CORPUS, derandomize=True)
    @given(cases())
    def collect(case: Case) -> None:
        corpus.append(case)

    collect()
    source = ast.parse(Path(deciding.__file__).read_text(encoding="utf-8"))
    assert kills(load(source), corpus) == "", "the unchanged decision must pass"
    killed, survived = [], []
    for words, tree in mutations():
        by = kills(load(tree), corpus)
        (killed if by else survived).append(words)
    explained = [words for words in survived if EQUIVALENT.get(words)]
    with capsys.disabled():
        print(f"\ndeciding: {len(killed) + len(survived)} mutants, {len(killed)} killed, {len(explained)} equivalent")
    assert len(killed) > 80
    assert sorted(survived) == sorted(explained), [words for words in survived if words not in explained]
