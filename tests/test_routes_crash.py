"""A route whose tasks are ended anywhere, whose service lies and breaks, whose users go on: whatever happens, nothing is
gone from the source that the destination has not, no task is submitted twice, and in the end everything is where it belongs.

A seeded part of the seams is tried; ``LIBTOOL_TEST_ALL_SEAMS=1`` tries all, ``LIBTOOL_TEST_SEED`` chooses others.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests.packages  # noqa: F401  these here, before every process that is ended imports them anew
from globus_sdk import (  # noqa: F401
    AuthClient,
    ClientCredentialsAuthorizer,
    ConfidentialAppAuthClient,
    DeleteData,
    TransferClient,
    TransferData,
)

from libtool import tokens  # noqa: F401
from libtool.archive import clearing as _clearing  # noqa: F401
from libtool.archive import mirroring  # noqa: F401
from libtool.models.tables import Fault, RouteFile, RouteRemoval, RouteTask, TaskRun, clearing, open_tasks
from libtool.movers.globus import access, mover  # noqa: F401
from libtool.movers.globus import tree as collection_tree  # noqa: F401
from libtool.states import ClearingStatus
from tests import crash
from tests.globus_service import GlobusService
from tests.globus_service.answers import Answer, Request, document
from tests.globus_service.copying import WholeTask
from tests.globus_service.moving import Hands
from tests.liar import Content, Liar, Trouble
from tests.route_bench import DELETE, FILES, TRANSFER, WHILE, Bench, Clock

SEED = int(os.environ.get("LIBTOOL_TEST_SEED", "1"))
ALL = bool(os.environ.get("LIBTOOL_TEST_ALL_SEAMS"))
#: Seams that are tried of each flow unless all are, and of so many that are tried one gets a second end soon after.
FEW, TWICE = 3, 2
EVERY = {"sqlite": 1, "postgresql": 3}


# -- ended anywhere ---------------------------------------------------------------------------------------------------


class Ends(crash.Counter):
    """Ends a process at a seam, and another one so many seams later."""

    def __init__(self, *fatal: int) -> None:
        super().__init__()
        self.all = {sum(fatal[: n + 1]) for n in range(len(fatal))}
        self.names: list[str] = []

    def watch(self, name: str) -> None:
        """Pass one seam."""
        self.passed += 1
        if self.passed in self.all:
            if self.where != Path(os.devnull):
                with self.where.open("a") as stream:
                    stream.write(f" {name}")
            os._exit(crash.DIED)


class Seams:
    """A flow that is gone through again and again, from the same beginning."""

    def __init__(self, bench: Bench, kept: crash.Snapshot) -> None:
        self.bench, self.kept = bench, kept
        world = bench.globus.world
        self._world = (list(world.tasks), dict(world.submitted), set(world.submission_ids), world.now)

    def again(self) -> None:
        """Go back to the beginning."""
        world = self.bench.globus.world
        self.kept.restore()
        world.tasks, world.submitted, world.submission_ids = [], {}, set()
        world.now = self._world[3]
        self.bench.lying = set(self.bench.versions)

    def flow(self, counter: crash.Counter) -> None:
        """Everything arrives; one copy is bad, one file is written again; everything goes."""
        bench = self.bench
        bench.until(bench.arrived, TRANSFER, counter=counter)
        (bench.target / "deep/d").write_bytes(b"not what was sent, and not as long")
        ruined = bench.target / "e e/g"
        ruined.write_bytes(ruined.read_bytes().swapcase())
        bench.until(bench.gone, TRANSFER, DELETE, counter=counter)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_ended_at_every_seam(
    top: Path, globus: GlobusService, clock: Clock, where: str, database: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    url = request.getfixturevalue("postgres")("route") if database == "postgresql" else None
    bench = Bench(top / "bench", globus, where, url)
    bench.fill()
    from tests.test_crash import copier

    seams = Seams(bench, crash.Snapshot(bench.top, copier([url]) if url else None))
    whole = crash.Counter()
    seams.flow(whole)
    bench.check_end()
    expected, sends = bench.state(), bench.sends()
    numbers = random.Random(SEED)
    fatal = list(range(1, whole.passed + 1, EVERY[database]))
    if not ALL:
        fatal = sorted(numbers.sample(fatal, FEW // EVERY[database]))
    twice, bad = 0, []
    for n, first in enumerate(fatal):
        second = [numbers.randint(1, 40)] if n % TWICE == 0 else []
        counter = Ends(first, *second)
        twice += len(second)
        counter.where = top / "where"
        counter.where.write_text("")
        said = lambda first=first, second=second, counter=counter: f"seam {first} {second}:{counter.where.read_text()}"  # noqa: E731
        seams.again()
        try:
            seams.flow(counter)
            bench.check_end()
        except AssertionError as wrong:
            bad.append(f"{said()}: {wrong}")
            continue
        found = bench.state()
        bad += [f"{said()}: {key}: {found[key]} instead of {expected[key]}" for key in expected if found[key] != expected[key]]
        if bench.sends() != sends:
            bad.append(f"{said()}: {bench.sends()} instead of {sends}")
    with capsys.disabled():
        print(
            f"\nroute, {where}, {database}: {whole.passed} seams, ended at {len(fatal)}"
            f"{'' if ALL else ', a seeded part'}, {twice} of them twice, {len(bad)} wrong"
        )
    assert not bad, "\n".join(bad[:40])


# -- real processes ---------------------------------------------------------------------------------------------------


def test_kill_9_at_random_moments(top: Path, globus: GlobusService, where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs of each command side by side, while files come in."""
    bench = Bench(top / "bench", globus, where)
    bench.fill()
    globus.auto = True
    numbers = random.Random(SEED)
    killed = finished = fed = 0
    while killed < (30 if ALL else 8):
        if fed < 40:
            fed += 1
            bench.write(f"fed/{fed % 5}/{fed}")
        running = []
        for words in (TRANSFER, TRANSFER, DELETE, DELETE):
            process = bench.site.spawn(*words, start_new_session=True)
            running.append((process, time.monotonic() + numbers.choice([numbers.uniform(0.1, 1.5), 10.0])))
        for process, moment in running:
            try:
                _, said = process.communicate(timeout=max(0.0, moment - time.monotonic()))
                assert process.returncode in (0, 3, 75) and b"Traceback" not in said, said
                finished += 1
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                killed += 1
        bench.look()
        bench.once()
    began = globus.now
    monkeypatch.setattr("libtool.node.Node.now", lambda node: max(globus.now, began))
    bench.to_the_end()
    bench.once()
    with capsys.disabled():
        print(f"\nkill -9, {where}: {killed} times, {finished} commands came to their end, {len(bench.versions)} files")


@pytest.mark.parametrize("pairs", [(TRANSFER, TRANSFER), (DELETE, DELETE), (TRANSFER, DELETE)], ids=lambda pair: "-".join(each[0] for each in pair))
def test_two_runs_at_once(top: Path, globus: GlobusService, where: str, pairs: tuple[tuple[str, ...], ...]) -> None:
    """One works, the other is told so and says nothing; of different commands both work."""
    bench = Bench(top / "bench", globus, where)
    bench.fill()
    globus.auto = True
    alone = {TRANSFER, DELETE} - set(pairs)
    codes = []
    for _ in range(12):
        running = [bench.site.spawn(*words) for words in (*pairs, *alone)]
        for process in running:
            out, err = process.communicate(timeout=60)
            assert process.returncode in (0, 3, 75) and out == b"", (out, err)
            assert process.returncode != 75 or err == b""
            codes.append(process.returncode)
        bench.look()
        bench.once()
        if bench.gone():
            break
    assert 0 in codes and 3 not in codes
    assert bench.gone(), bench.open_rows()
    bench.check_end()
    assert sum(len(files) for files in bench.sends()) == len(FILES)


# -- a service that lies or breaks ------------------------------------------------------------------------------------

SUBMIT, TASK, LS, RENAME, MKDIR = "/(transfer|delete)$", "/task/[^/]+$", "/ls", "/rename$", "/mkdir$"
LISTS = "/(successful_transfers|skipped_errors)"


def _drop(content: Content, at: int = 0) -> None:
    """One entry of a list is not shown, and the counts say nothing of it."""
    entries = [each for each in content["DATA"] if each.get("type") in (None, "file")]
    if entries:
        content["DATA"].remove(entries[min(at, len(entries) - 1)])
        for name in ("length", "total"):
            if name in content:
                content[name] -= 1


def _double(content: Content) -> None:
    """One entry of a list comes twice."""
    if content["DATA"]:
        content["DATA"].append(content["DATA"][0])
        for name in ("length", "total"):
            if name in content:
                content[name] += 1


def _said(code: str) -> Callable[[Request], Answer]:
    return lambda request: document(200, {"DATA_TYPE": "result", "code": code, "message": "done", "request_id": "x", "resource": request.path})


def _removes_nothing(trouble: Trouble) -> None:
    trouble.undo.append(lambda true=Hands._remove: setattr(Hands, "_remove", true))
    Hands._remove = lambda self, task, subtask: setattr(subtask, "state", "succeeded")  # type: ignore[method-assign, assignment, return-value]


def _removes_one(trouble: Trouble) -> None:
    """Of each task for deletion one path goes, then the task fails."""
    true, done = Hands._remove, set()

    def remove(self: Hands, task: Any, subtask: Any) -> None:
        if task.task_id in done:
            raise WholeTask("PERMISSION_DENIED", "no more")
        done.add(task.task_id)
        true(self, task, subtask)

    trouble.undo.append(lambda: setattr(Hands, "_remove", true))
    Hands._remove = remove  # type: ignore[method-assign]


def _forget(trouble: Trouble) -> None:
    trouble.each.append(lambda: [trouble.globus.forget(task.task_id) for task in trouble.globus.tasks])


def _taken_path(trouble: Trouble) -> None:
    """Whenever something was set aside, users write a file of the same name; the service replaces what lies at a target."""
    trouble.set(trouble.bench.here, "rename_replaces", True)
    trouble.set(trouble.bench.there, "rename_replaces", True)

    def write() -> None:
        for path in ("a", "deep/er/b"):
            if not (trouble.bench.source / path).exists():
                trouble.bench.write(path)

    trouble.each.append(write)


def _succeeds(trouble: Trouble) -> None:
    """Tasks are said to have ended well, and nothing was done."""
    trouble.fault("task_hang")
    trouble.liar.change.append(("GET", TASK, lambda content: content.update(status="SUCCEEDED")))


def lie(method: str, url: str, alter: Callable[[Content], object]) -> Callable[[Trouble], object]:
    """A trouble: answers are altered."""
    return lambda trouble: trouble.liar.change.append((method, url, alter))


def instead(url: str, code: str) -> Callable[[Trouble], object]:
    """A trouble: what is asked for is said to be done, and is not."""
    return lambda trouble: trouble.liar.instead.append(("POST", url, _said(code)))


def fault(name: str, **about: Any) -> Callable[[Trouble], object]:
    """A trouble: a fault of the service's own."""
    return lambda trouble: trouble.fault(name, **about)


def count(field: str, by: int) -> Callable[[Trouble], object]:
    """A trouble: a counter of each task that has ended is wrong."""
    return lie("GET", TASK, lambda content: content.update({field: content[field] + by}))


def broken(side: str, name: str, value: Any) -> Callable[[Trouble], object]:
    """A trouble: a collection is not as it should be."""
    return lambda trouble: trouble.set(getattr(trouble.bench, side), name, value)


#: What goes wrong; those whose name ends with "*" are only met through a collection.
TROUBLES: dict[str, Callable[[Trouble], object]] = {
    "a list has a page less": lie("GET", LISTS, lambda content: content.update(next_marker=None)),
    "a page comes twice": fault("lie_repeat"),
    "a list lacks an entry": fault("lie_omit", path="*/b"),
    "a list doubles an entry": lie("GET", LISTS, _double),
    "a list is empty": lie("GET", LISTS, lambda content: content.update(DATA=[], next_marker=None)),
    "every size is wrong": lie("GET", LISTS, lambda content: [each.update(size=1) for each in content["DATA"]]),
    "every path is hidden": lie("GET", LISTS, lambda content: [each.update(destination_path=None) for each in content["DATA"]]),
    "a task is forgotten": _forget,
    "a task is not found": fault("say", status=404, body=b'{"code": "ClientError.NotFound", "message": "no"}', url="/task/"),
    "the history is deleted": lambda trouble: trouble.each.append(trouble.globus.close_history),
    "files are skipped": fault("skip", path="*"),
    "one file is skipped": fault("skip", path="*/c"),
    "a file is denied": fault("skip", path="*/d", code="PERMISSION_DENIED"),
    "one too many the same": count("files_skipped", 1),
    "one too few the same": count("files_skipped", -1),
    "one too many carried": count("files_transferred", 1),
    "one too many skipped": count("subtasks_skipped_errors", 1),
    "no counters": lie("GET", TASK, lambda content: [content.pop(name) for name in ("files_skipped", "files_transferred")]),
    "a status nobody knows": fault("unknown_status"),
    "every task fails": fault("task_fail", path="*/target/*"),
    "every task fails anywhere": fault("task_fail"),
    "every task succeeds at once": _succeeds,
    "no task moves": fault("task_hang"),
    "the bytes rot on the way": fault("corrupt"),
    "files grow on the way": fault("grow", content=b"", path="*"),
    "submissions: half an answer": fault("truncate", method="POST", url=SUBMIT),
    "submissions: 500": fault("http_500", method="POST", url=SUBMIT),
    "submissions: lost on the way": fault("drop_before", method="POST", url=SUBMIT),
    "submissions: the answer is lost": fault("drop_after", method="POST", url=SUBMIT),
    "submissions: one answer is lost": fault("drop_after", method="POST", url=SUBMIT, count=2),
    "submissions: identical paths": fault("identical_paths"),
    "submissions: too many pending": fault("max_pending", n=0),
    "submissions: one pending at a time": lambda trouble: trouble.set(trouble.globus, "most_pending", 1),
    "submissions: too large": fault("too_large"),
    "submissions: another id": lie("POST", SUBMIT, lambda content: content.update(task_id="00000000-0000-4000-8000-000000000000")),
    "wait a minute": fault("http_429", retry_after=60, probability=0.3),
    "wait": fault("http_429", probability=0.3),
    "maintenance": fault("http_503", html=True, probability=0.3),
    "every other answer is lost": fault("drop_after", probability=0.4),
    "every other answer is half": fault("truncate", probability=0.4, url="v0.10"),
    "tokens end all the time": lambda trouble: trouble.each.append(trouble.globus.expire_access_tokens),
    "the destination is away": broken("there", "connected", False),
    "the destination is read-only": broken("there", "read_only", True),
    "the destination is paused": broken("there", "paused", "maintenance"),
    "the source is away": broken("here", "connected", False),
    "the destination is full": broken("there", "quota", 50),
    "listings: cut *": lambda trouble: trouble.set(trouble.globus, "most_listed", 1),
    "listings: the first is missing *": lie("GET", LS, _drop),
    "listings: the last is missing *": lie("GET", LS, lambda content: _drop(content, 99)),
    "listings: one missing aside *": lie("GET", f"{LS}.*libtool-aside", _drop),
    "listings: one twice *": lie("GET", LS, _double),
    "listings: nothing aside *": lie("GET", f"{LS}.*libtool-aside", lambda content: content.update(DATA=[], length=0, total=0)),
    "listings: nothing *": lie("GET", LS, lambda content: content.update(DATA=[], length=0, total=0)),
    "listings: not found *": fault("say", status=404, body=b'{"code": "ClientError.NotFound", "message": "no"}', url=LS),
    "listings: not found aside *": fault("say", status=404, body=b'{"code": "ClientError.NotFound", "message": "no"}', url=f"{LS}.*aside"),
    "looks: not found *": fault("say", status=404, body=b'{"code": "NotFound", "message": "no"}', url="/stat"),
    "looks: not found aside *": fault("say", status=404, body=b'{"code": "NotFound", "message": "no"}', url="/stat.*aside"),
    "renames: nothing happens *": instead(RENAME, "FileRenamed"),
    "renames: lost on the way *": fault("drop_before", url=RENAME),
    "renames: the answer is lost *": fault("drop_after", url=RENAME),
    "renames: half an answer *": fault("truncate", url=RENAME),
    "renames: 500 *": fault("http_500", url=RENAME),
    "renames: replace *": _taken_path,
    "renames: not supported *": broken("here", "rename_supported", False),
    "directories: nothing happens *": instead(MKDIR, "DirectoryCreated"),
    "directories: lost on the way *": fault("drop_before", url=MKDIR),
    "directories: the answer is lost *": fault("drop_after", url=MKDIR),
    "the source is read-only *": broken("here", "read_only", True),
    "deletions: nothing is removed *": _removes_nothing,
    "deletions: half-way *": _removes_one,
    "deletions: fail *": fault("task_fail", path="*/.libtool-aside/*"),
}
#: Of these it cannot be counted how often they strike.
UNCOUNTED = ("forgotten", "history", "pending at a time", "tokens end", "destination is", "source is", "cut *", "replace", "supported", "removed", "half-way")
#: Moments at which it begins.
STAGES = 5
_drawn = random.Random(SEED)
CASES = [
    (name, place)
    for name in TROUBLES
    for place in (["remote"] if name.endswith("*") else ["local", "remote"] if ALL else [_drawn.choice(["local", "remote"])])
]


def suffer(bench: Bench, trouble: Trouble, rounds: int, *commands: tuple[str, ...]) -> None:
    """Cron goes on while it lasts."""
    for _ in range(rounds):
        for words in commands:
            bench.run(*words)
            bench.globus.work()
            bench.look("the service")
            for deed in trouble.each:
                deed()
        bench.globus.advance(WHILE)
        bench.look("the service")


#: In CI some of them.
SOME = CASES if ALL else random.Random(SEED).sample(CASES, len(CASES) // 6)


@pytest.mark.parametrize("name,where", SOME, ids=[f"{name}-{place}" for name, place in SOME])
def test_whatever_the_service_says(bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While everything is new, and while everything is to go: before it begins, and when so many runs have worked on it."""
    bench.globus.page = 1
    trouble = Trouble(bench, Liar().take_over(monkeypatch), monkeypatch)
    used = 0
    stages = list(range(STAGES)) if ALL else [0, 1, *random.Random(f"{SEED} {name}").sample(range(2, STAGES), 1)]
    try:
        for stage in stages:
            if stage > 1:
                bench.fill()
                bench.until(bench.arrived, TRANSFER)
                for _ in range(stage - 1):
                    bench.run(*DELETE)
                    bench.globus.work()
            words = (TRANSFER, DELETE) if stage else (TRANSFER,)
            TROUBLES[name](trouble)
            suffer(bench, trouble, 4, *words)
            used += trouble.end()
            bench.globus.advance(WHILE)
            bench.until(bench.gone if stage else bench.arrived, *words, most=40)
            bench.once()
    finally:
        trouble.end()
    bench.check_end()
    assert used or any(word in name for word in UNCOUNTED)


@pytest.mark.parametrize("where", ["remote"])
def test_a_file_that_no_list_shows_is_not_lost_with_its_directory(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who did not ask for it has directories behind a collection removed."""
    (route,) = bench.site.settings["routes"].values()
    del route["remove_empty"]
    bench.site.write()
    bench.until(bench.arrived, TRANSFER)
    for _ in range(3):  # until all is removed, and the directories are not looked at yet
        bench.run(*DELETE)
        bench.globus.work()
        bench.look("the service")
    trouble = Trouble(bench, Liar().take_over(monkeypatch), monkeypatch)
    bench.write("e e/hidden")
    TROUBLES["listings: nothing *"](trouble)
    try:
        suffer(bench, trouble, 4, DELETE)
    finally:
        trouble.end()
    assert (bench.source / "e e/hidden").exists()


# -- answers of every shape -------------------------------------------------------------------------------------------

#: What stands where something else should.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 2**70, 1.5, "", "x", "0", "SUCCEEDED", "FAILED", "ACTIVE", "file", "dir", "..", "a/b", [], {}, [{}], [None], {"DATA": []}
)
_MUTATED = "(/ls|/stat|/rename$|/mkdir$|/task/|/task_list|/submission_id|/(transfer|delete)$)"


def mutate(numbers: random.Random, content: Any) -> Any:
    """Some place of a document has another value, is left out, or comes twice."""
    if isinstance(content, dict) and content and numbers.random() < 0.85:
        name = numbers.choice([*content, *(["DATA"] * 3 if content.get("DATA") else [])])
        if numbers.random() < 0.15:
            return {key: value for key, value in content.items() if key != name}
        return {**content, name: mutate(numbers, content[name])}
    if isinstance(content, list) and content and numbers.random() < 0.9:
        at, chance = numbers.randrange(len(content)), numbers.random()
        if chance < 0.15:
            return content[:at] + content[at + 1 :]
        if chance < 0.3:
            return [*content, content[at]]
        return [*content[:at], mutate(numbers, content[at]), *content[at + 1 :]]
    return numbers.choice(ODD)


@pytest.mark.parametrize("where", ["local", "remote"])
@pytest.mark.parametrize("seed", range(SEED, SEED + (30 if ALL else 2)))
def test_answers_of_every_shape(bench: Bench, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many answers are not what they should be: nothing is deleted without evidence, no run breaks, and in the end all is well."""
    numbers = random.Random(f"{seed} {bench.where}")
    liar = Liar().take_over(monkeypatch)

    def alter(content: Content) -> None:
        if numbers.random() < 0.3:
            odd = mutate(numbers, dict(content))
            content.clear()
            content.update(odd if isinstance(odd, dict) else {"odd": odd})

    before = bench.versions.keys()
    for stage in range(3):
        if stage:
            bench.fill()
        for method in ("GET", "POST"):
            liar.change.append((method, _MUTATED, alter))
        for _ in range(6):
            for words in (TRANSFER, DELETE):
                bench.run(*words)
                bench.globus.work()
                bench.look("the service")
            bench.globus.advance(WHILE)
        liar.end()
        bench.globus.advance(4 * 86400)  # those that cannot be seen are waited for
        bench.to_the_end()
    assert liar.used > 10 and before


# -- a month ----------------------------------------------------------------------------------------------------------


class Month:
    """A route for thirty days: users go on, and everything fails now and then."""

    def __init__(self, bench: Bench, liar: Liar, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bench, self.globus = bench, bench.globus
        self.numbers = random.Random(f"{seed} {bench.where}")
        self.trouble = Trouble(bench, liar, monkeypatch)
        self.names = [f"{d}/{n}" for d in ("one", "two/three", "four five") for n in range(6)] + ["top", "of"]
        self.ends: list[str] = []
        self.notices = 0

    def step(self) -> None:
        """A few hours."""
        numbers, bench = self.numbers, self.bench
        self._users()
        if numbers.random() < 0.25:
            self._outage()
        elif numbers.random() < 0.6:
            self.trouble.end()
            self._mount()
        for words in numbers.sample((TRANSFER, DELETE, TRANSFER, DELETE), 3):
            if numbers.random() < 0.15:
                bench.ended(Ends(numbers.randint(1, 80)), *words)
            else:
                ran = bench.run(*words)
                self.notices += len(ran.err.splitlines())
            if numbers.random() < 0.7:
                self.globus.work()
            if self._mounted():
                bench.look("the service")
            bench.once()
            for deed in self.trouble.each:
                deed()
        self.globus.advance(numbers.choice(STEPS))

    def _users(self) -> None:
        numbers, bench = self.numbers, self.bench
        if not self._mounted():
            return
        for _ in range(numbers.randint(0, 3)):
            bench.write(numbers.choice(self.names), aged=numbers.random() < 0.8, size=numbers.choice((30, 40, 5000)))
        place = bench.source / numbers.choice(self.names)
        if place.is_file() and numbers.random() < 0.4:
            bench.withdrawn.add(place.read_bytes())
            place.unlink()
        place = bench.source / numbers.choice(self.names)
        if place.is_file() and numbers.random() < 0.2:  # by another name, as it is
            self._rename(place, f"{place.name} moved {bench.number()}")

    def _outage(self) -> None:
        name = self.numbers.choice([*TROUBLES, "source", "target", "service"])
        if name == "source" and self._mounted():
            self.bench.source.rename(self.bench.top / "unmounted")
        elif name == "target":
            self.trouble.set(self.bench.there, "connected", False)
        elif name == "service":
            self.trouble.fault("http_503")
        elif name in TROUBLES and name not in UNFIT:
            TROUBLES[name](self.trouble)

    def _mounted(self) -> bool:
        return self.bench.source.exists()

    def _mount(self) -> None:
        if not self._mounted():
            (self.bench.top / "unmounted").rename(self.bench.source)

    def end(self) -> None:
        """All is well again."""
        self.trouble.end()
        self._mount()

    def person(self) -> None:
        """Who is told that a former file cannot come back moves the new one away."""
        bench = self.bench
        bench.globus.advance(4 * 86400)
        for _ in range(8):
            for words in (TRANSFER, DELETE):
                bench.run(*words)
                bench.globus.work()
            bench.globus.advance(WHILE)
        with bench.site.open():
            paths = [row.path for row in RouteRemoval.select().where(clearing(), RouteRemoval.status == ClearingStatus.RETURNING)]
        for path in paths:
            place = bench.source / path
            if place.is_file():
                self._rename(place, f"{place.name} kept {bench.number()}")

    def _rename(self, place: Path, name: str) -> None:
        bench, content, other = self.bench, place.read_bytes(), place.with_name(name)
        place.rename(other)
        bench.former.add((bench.versions[content], content))
        bench.versions[content] = str(other.relative_to(bench.source))


#: They change what users wrote, which the eye would not understand; or they hide files in a directory that was emptied.
HIDING = ("listings: nothing *", "listings: the first is missing *", "listings: the last is missing *")
UNFIT = ("renames: replace *", "files grow on the way", *HIDING)


#: How long nothing happens, in seconds.
STEPS = (60, 600, 3600, 6 * 3600, 12 * 3600) if ALL else (3600, 12 * 3600, 24 * 3600, 36 * 3600)


@pytest.mark.parametrize("seed,where", [(1, "local"), (2, "remote")] if not ALL else [(n, w) for n in range(1, 11) for w in ("local", "remote")])
def test_a_month(bench: Bench, seed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    bench.globus.page = 2
    month = Month(bench, Liar().take_over(monkeypatch), seed, monkeypatch)
    bench.site.write(history_days=10)
    began, steps = bench.globus.now, 0
    while (bench.globus.now - began).days < 30:
        month.step()
        steps += 1
    month.end()
    month.person()
    bench.to_the_end(most=60)
    with bench.site.open():
        rows = {table.__name__: table.select().count() for table in (RouteTask, RouteFile, RouteRemoval, Fault)}
        assert not RouteTask.select().where(open_tasks()).exists() and not RouteRemoval.select().where(clearing()).exists()
        assert rows["Fault"] <= 30, [(f.subject, f.kind) for f in Fault.select()]
        assert TaskRun.select().count() < 3000
    with capsys.disabled():
        print(f"\na month, {bench.where}, seed {seed}: {steps} steps, {len(bench.versions)} files, {len(bench.globus.tasks)} tasks, {month.notices} lines, {rows}")
    assert month.notices < 6 * steps
