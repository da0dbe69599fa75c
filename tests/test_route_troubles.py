"""What stands in the way of routes: how often it is told, that it is not over before it is, that it holds back nothing else,
and that no clock, no late answer and no change of the configuration makes a removal of what the destination has not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from libtool.models.tables import RouteRemoval, RouteTask, clearing, open_tasks
from libtool.node import Node
from libtool.states import ClearingStatus, Deed
from tests.globus_service import GlobusService
from tests.liar import Liar, Trouble
from tests.route_bench import DELETE, TRANSFER, Bench, Clock, contents

ALL = bool(os.environ.get("LIBTOOL_TEST_ALL_SEAMS"))
HOUR, DAY = 3600.0, 86400.0


@pytest.fixture
def trouble(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Trouble:
    """What goes wrong, for as long as it lasts."""
    return Trouble(bench, Liar().take_over(monkeypatch), monkeypatch)


def rounds(bench: Bench, count: int, *commands: tuple[str, ...], step: float = HOUR, seen: bool = True) -> list[str]:
    """Cron's rounds; every line that was told. ``seen``: the source can be looked at."""
    told: list[str] = []
    for _ in range(count):
        for words in commands or (TRANSFER, DELETE):
            told += (bench.run(*words) if seen else bench.site.run(None, *words)).err.splitlines()
            bench.globus.work()
        bench.globus.advance(step)
    return told


# -- a month of one trouble -------------------------------------------------------------------------------------------


def _denied(bench: Bench, trouble: Trouble) -> None:
    trouble.fault("skip", path="*/a", code="PERMISSION_DENIED")


def _fails(bench: Bench, trouble: Trouble) -> None:
    trouble.fault("task_fail", path="*/target/a")


def _full(bench: Bench, trouble: Trouble) -> None:
    trouble.set(bench.there, "quota", 0)


def _away(bench: Bench, trouble: Trouble) -> None:
    trouble.set(bench.there, "connected", False)


def _login(bench: Bench, trouble: Trouble) -> None:
    secret = bench.site.directory / "secret"
    right = secret.read_text()
    secret.write_text("wrong")
    trouble.undo.append(lambda: secret.write_text(right))


def _service(bench: Bench, trouble: Trouble) -> None:
    trouble.fault("http_503")


def _unmounted(bench: Bench, trouble: Trouble) -> None:
    bench.source.rename(bench.top / "unmounted")
    trouble.undo.append(lambda: (bench.top / "unmounted").rename(bench.source))


def _not_mounted(bench: Bench, trouble: Trouble) -> None:
    _unmounted(bench, trouble)
    bench.source.mkdir()
    trouble.undo.append(bench.source.rmdir)


LASTING: dict[str, Callable[[Bench, Trouble], None]] = {
    "a file is denied": _denied,
    "tasks fail": _fails,
    "the destination is full": _full,
    "the destination is away": _away,
    "the login is refused": _login,
    "the service is away": _service,
    "the source is gone": _unmounted,
    "only its mount point is there": _not_mounted,
}


@pytest.mark.parametrize("what", LASTING)
@pytest.mark.parametrize("first", ["before anything arrived", "when all had arrived"])
def test_a_month_of_one_trouble_is_told_once_a_day_and_is_over_when_it_is(bench: Bench, trouble: Trouble, where: str, what: str, first: str) -> None:
    if where == "remote" and not ALL and what not in ("a file is denied", "the destination is away", "the login is refused"):
        pytest.skip("LIBTOOL_TEST_ALL_SEAMS=1 tries it there, too")
    days = 30 if ALL or (where == "local" and what in ("a file is denied", "the login is refused")) else 4
    if first == "when all had arrived":
        if what in ("a file is denied", "tasks fail", "the destination is full"):
            pytest.skip("it is met while files are sent")
        bench.until(bench.arrived, TRANSFER)
    else:
        rounds(bench, 1, step=60)
    LASTING[what](bench, trouble)
    told = rounds(bench, days * 4, step=6 * HOUR, seen=what != "only its mount point is there")
    subjects = {line.partition(": over")[0] for line in told if "over after" in line}
    assert not subjects, told
    assert days - 1 <= len(told) <= days + 1, told
    trouble.end()
    over = rounds(bench, 12, step=2 * HOUR)
    assert [line for line in over if "over after" in line] and not bench.site.status()["troubles"], over
    bench.to_the_end()


def test_nothing_is_told_twice_of_what_both_commands_meet(bench: Bench, trouble: Trouble, where: str) -> None:
    bench.until(bench.arrived, TRANSFER)
    _unmounted(bench, trouble)
    told = rounds(bench, 10)
    assert len(told) == 1 and ("Nothing of it is sent or removed" in told[0] or where == "remote"), told


# -- what holds nothing else back -------------------------------------------------------------------------------------


def test_a_file_that_makes_its_task_fail_keeps_no_other_from_arriving(top: Path, globus: GlobusService, clock: Clock, where: str) -> None:
    bench = Bench(top / "bench", globus, where, max_files=2000)
    for n in range(25):
        bench.write(f"file{n}")
    globus.fault("task_fail", path="*/target/file7", count=None)
    told = rounds(bench, 40, TRANSFER)
    assert set(contents(bench.target)) == {f"file{n}" for n in range(25) if n != 7}
    assert any("brought nothing" in line for line in told)
    rows = json.loads(bench.site.run(0, "status", "--tasks", "-F", "json").out)
    assert {row["status"] for row in rows if row["reason"]} == {"FAILED"}


@pytest.mark.parametrize("where", ["remote"])
def test_a_directory_without_a_clear_answer_keeps_no_other_from_being_looked_at(bench: Bench, trouble: Trouble) -> None:
    trouble.fault("http_500", url="/ls.*er&")
    told = rounds(bench, 12, TRANSFER)
    assert "e e/g" in contents(bench.target) and not any("er/" in path for path in contents(bench.target))
    assert len(told) == 1 and "deep/er' cannot be used" in told[0]
    trouble.end()
    bench.to_the_end()


@pytest.mark.parametrize("where", ["remote"])
def test_what_a_list_does_not_show_is_told(bench: Bench) -> None:
    bench.globus.most_listed = 3
    for n in range(5):
        bench.write(f"big/{n}")
    told = rounds(bench, 3, TRANSFER)
    assert len(told) == 1 and "more entries than the service lists" in told[0], told
    bench.globus.most_listed = 100_000
    over = rounds(bench, 4, TRANSFER)
    assert len(over) == 1 and "over after" in over[0] and bench.arrived()


def test_a_task_that_cannot_be_asked_about_keeps_nothing_new_from_being_sent(bench: Bench) -> None:
    rounds(bench, 2, TRANSFER, step=60)
    with bench.site.open():
        task = json.loads(RouteTask.select().order_by(RouteTask.id).first().ticket)["task"]
    bench.globus.fault("http_500", url=f"/task/{task}", count=None)
    bench.write("new")
    rounds(bench, 4, TRANSFER)
    assert "new" in contents(bench.target)


# -- time -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ahead(globus: GlobusService, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """How far the node's clock is ahead of the service's, in seconds."""
    off = [0.0]
    monkeypatch.setattr(Node, "now", lambda node: globus.now + timedelta(seconds=off[0]))
    yield off


@pytest.mark.parametrize("when", ["looking", "sending", "removing"])
def test_a_clock_that_was_ahead_keeps_nothing_for_ever(bench: Bench, ahead: list[float], when: str) -> None:
    if when == "removing":
        bench.until(bench.arrived, TRANSFER)
    ahead[0] = 365 * DAY
    for words in {"looking": (TRANSFER,), "sending": (TRANSFER, TRANSFER, TRANSFER), "removing": (DELETE,)}[when]:
        bench.run(*words)
        bench.globus.work()
    ahead[0] = 0
    bench.globus.advance(60)
    bench.to_the_end(most=60)


@pytest.mark.parametrize("days", [2, 10])
def test_what_happens_to_a_copy_after_it_was_compared_is_seen(bench: Bench, days: int) -> None:
    bench.until(bench.arrived, TRANSFER)
    for _ in range(2):
        bench.run("delete")
        bench.globus.work()
    with bench.site.open():
        assert RouteTask.select().where(open_tasks(), RouteTask.deed == Deed.PROVE).exists()
    bench.globus.advance(days * DAY)  # cron did not run
    (bench.target / "a").unlink()
    (bench.target / "deep/d").write_bytes(b"rotten")
    bench.to_the_end(most=60)


# -- the configuration changes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["remote"])
def test_what_was_about_to_be_removed_stays_when_the_destination_is_another_one(bench: Bench, trouble: Trouble, top: Path) -> None:
    bench.until(bench.arrived, TRANSFER)
    trouble.fault("drop_before", method="POST", url="/delete$")
    for _ in range(4):
        bench.run("delete")
        bench.globus.work()
    with bench.site.open():
        assert RouteRemoval.select().where(clearing(), RouteRemoval.status == ClearingStatus.REMOVING).exists()
    trouble.end()
    before = set(contents(bench.source).values())
    _configure(bench, dst_dir=str(top / "other"))
    rounds(bench, 4, DELETE)
    assert set(contents(bench.source).values()) == before and set(contents(bench.source)) >= {"a", "deep/d"}


def _configure(bench: Bench, **changes: Any) -> None:
    bench.site.settings["routes"]["out"].update(changes)
    bench.site.write()


def test_another_destination_is_told_and_shown(bench: Bench, top: Path) -> None:
    bench.until(bench.arrived, TRANSFER)
    former = bench.site.settings["routes"]["out"]["dst_dir"]
    _configure(bench, dst_dir=str(top / "other"))
    told = rounds(bench, 10)
    assert len(told) == 1 and f"6 files arrived at the former destination {former}" in told[0], told
    (route,) = bench.site.status()["routes"]
    assert route["arrived"] == 0 and route["elsewhere"] == 6
    waits = json.loads(bench.site.run(0, "status", "--waiting", "-F", "json").out)
    assert {row["reason"] for row in waits} == {f"it arrived at the former destination {former}"} and len(waits) == 6
    _configure(bench, dst_dir=former)
    assert "over after" in rounds(bench, 1)[0]
    bench.to_the_end()


@pytest.mark.parametrize("how", ["renamed", "moved"])
@pytest.mark.parametrize("commands", [(TRANSFER,), (TRANSFER, DELETE)], ids=["sending", "comparing"])
def test_tasks_of_a_route_that_is_gone_are_seen_through(bench: Bench, top: Path, how: str, commands: tuple[tuple[str, ...], ...]) -> None:
    routes = bench.site.settings["routes"]
    if len(commands) == 2:
        bench.until(bench.arrived, TRANSFER)
    bench.run(*commands[-1])
    bench.globus.advance(60)
    bench.run(*commands[-1])
    with bench.site.open():
        assert RouteTask.select().where(open_tasks()).exists()
    (top / "another").mkdir()
    if how == "renamed":
        routes["new"] = {**routes.pop("out"), "dst_dir": str(top / "new")}
    else:
        routes["out"]["src_dir"] = str(top / "another")
    bench.site.write()
    assert "of out are under way" in bench.site.run(1, "reset", "out", "--yes").err or len(commands) == 2
    told = rounds(bench, 6, *commands)
    assert any(("out" in line and "configuration" in line) or "reset" in line for line in told), told
    with bench.site.open():
        assert not RouteTask.select().join_from(RouteTask, RouteTask.route.rel_model).where(open_tasks(), RouteTask.route.rel_model.name == "out").exists()
    if len(commands) == 2:
        rounds(bench, 3, ("delete", "--put-back", "out"))
    bench.site.run(0, "reset", "out", "--yes")
    assert set(contents(bench.source)) >= {"a", "deep/d", "deep/er/b"}


def test_an_emptied_directory_that_is_the_source_of_another_route_stays(top: Path, globus: GlobusService, clock: Clock, where: str) -> None:
    bench = Bench(top / "bench", globus, where)
    routes = bench.site.settings["routes"]
    routes["inner"] = {**routes["out"], "src_dir": str(bench.source / "deep/er"), "dst_dir": str(top / "inner")}
    bench.site.write()
    bench.write("deep/er/a")
    bench.write("other/b")
    bench.write("deeper/c")
    for _ in range(12):
        for words in (TRANSFER, ("delete", "out")):
            bench.run(*words)
            bench.globus.work()
        bench.globus.advance(HOUR)
    assert (bench.source / "deep/er").is_dir() and not (bench.source / "other").exists() and not (bench.source / "deeper").exists()
    assert not {path for path in contents(bench.source) if not path.endswith(".tmp")}


def test_what_waits_for_another_route_of_its_source_is_told(bench: Bench, top: Path) -> None:
    routes = bench.site.settings["routes"]
    routes["two"] = {**routes["out"], "dst_dir": str(top / "two")}
    bench.site.write()
    told = rounds(bench, 36, ("transfer", "out"), ("delete", "out"))
    assert len(told) in (1, 2) and "until route two has brought all" in told[0] and len(contents(bench.source)) == 7, told
    over = rounds(bench, 20)
    assert any("over after" in line for line in over) and bench.gone(), over


def test_a_dry_run_names_what_is_not_sent(bench: Bench) -> None:
    routes = bench.site.settings["routes"]
    routes["out"]["replace_removed"] = False
    bench.site.write()
    bench.to_the_end()
    bench.write("a")
    bench.write("new")
    lines = bench.site.run(0, "transfer", "--dry-run").out.splitlines()
    assert sorted((line.partition("bytes")[2] for line in lines), reverse=True) == [" (stays, since its name is that of a file that was removed here)", ""]


# -- what is told all the same ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["local"])
def test_what_lies_aside_is_told_whatever_else_is_told(bench: Bench) -> None:
    bench.until(bench.arrived, TRANSFER)
    (bench.source / "link").symlink_to("nowhere")
    rounds(bench, 3, TRANSFER)
    bench.run("delete")
    told = rounds(bench, 12, TRANSFER, step=6 * HOUR)  # delete is not run any more
    assert any("6 files have been set aside for more than a day" in line for line in told), told


def test_a_delete_that_runs_a_little_less_than_daily_comes_to_its_end(bench: Bench) -> None:
    bench.until(bench.arrived, TRANSFER)
    rounds(bench, 8, DELETE, step=1.1 * DAY)
    assert bench.gone()


@pytest.mark.parametrize("where", ["remote"])
def test_deletions_that_are_paused_are_told_once_a_day(bench: Bench, trouble: Trouble) -> None:
    bench.until(bench.arrived, TRANSFER)
    rounds(bench, 3, DELETE, step=1200)
    with bench.site.open():
        assert RouteTask.select().where(open_tasks(), RouteTask.deed == Deed.DELETE).exists()
    trouble.set(bench.here, "paused", "maintenance")
    told = rounds(bench, 60, DELETE, step=1200)
    assert len(told) == 1 and "paused" in told[0], told
    trouble.end()
    bench.to_the_end()


@pytest.mark.parametrize("where", ["local"])
def test_what_is_refused_is_not_over_before_it_is_taken(bench: Bench, trouble: Trouble) -> None:
    trouble.fault("say", method="POST", url="/transfer$", status=400, body=b'{"code":"ClientError.BadRequest","message":"no"}')
    told = rounds(bench, 72, TRANSFER)
    assert told and not any("over after" in line for line in told), told
    trouble.end()
    assert any("over after" in line for line in rounds(bench, 30, TRANSFER)) and not bench.site.status()["troubles"]
    bench.to_the_end()


@pytest.mark.parametrize("where", ["remote"])
def test_a_second_route_does_not_end_what_keeps_the_first_from_sending(bench: Bench, trouble: Trouble, top: Path) -> None:
    for name in ("more", "there"):
        (top / name).mkdir()
    routes = bench.site.settings["routes"]
    routes["two"] = {**routes["out"], "src_dir": str(top / "more"), "dst_dir": str(top / "there")}
    bench.site.write()
    trouble.fault("http_503", method="POST", url="/transfer$")
    told = rounds(bench, 48, TRANSFER)
    assert 2 <= len(told) <= 3 and not any("over after" in line for line in told), told


@pytest.mark.parametrize("where", ["local"])
def test_that_a_person_must_act_is_told_whatever_else_is_told(bench: Bench, trouble: Trouble) -> None:
    rounds(bench, 1, TRANSFER, step=60)
    trouble.fault("task_fail")
    assert any("brought nothing" in line for line in rounds(bench, 10, TRANSFER, step=600))
    trouble.end()
    trouble.fault("inactive")
    assert any("libtool login" in line for line in rounds(bench, 6, TRANSFER))
