"""The way between two librarians as it can go wrong: each request may be lost, done and not answered, done late, done
twice, done after the next one, or answered by something that is no librarian or says something odd.

A :class:`Wire` carries every request of a :class:`Clone` in this process and upsets the ones that it is told to.
:func:`judge` says what is not as it must be when all is over.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from libtool import cli
from libtool.endpoints import router
from libtool.errors import LibtoolError
from libtool.movers.base import Item
from libtool.movers.local import LocalMover
from libtool.node import Node
from libtool.peers.client import ANSWER_LIMIT, Answer, NoAnswer
from libtool.peers.exec import ExecTransport, parse_cgi
from libtool.peers.http import HttpTransport
from tests import stock as stocks
from tests.networks import World
from tests.sites import Site, introduce, make_site
from tests.stock import READAPPEND, Stock, StockClient, StockCrash, StockHTTPError, StockTimeout

Act = Callable[[], Answer]
_CARRY = LocalMover.carry

# -- what may happen to a request ---------------------------------------------------------------------------------

PAGE = b"<html><head><title>Sorry</title></head><body><h1>Something went wrong</h1></body></html>"
#: Answers that are no answer of the librarian: name → (status, content type, body).
ERRORS: dict[str, tuple[int, str, bytes]] = {
    "500 page": (500, "text/html", PAGE),
    "500 text": (500, "text/plain; charset=utf-8", b"Internal Server Error"),
    "500 json": (500, "application/json", b'{"reason":"boom","suggested_remedy":"none"}'),
    "502 page": (502, "text/html", PAGE),
    "503 page": (503, "text/html", PAGE),
    "504 page": (504, "text/html", PAGE),
    "404 page": (404, "text/html", PAGE),
    "401 once": (401, "application/json", b'{"detail":"Incorrect username or password"}'),
    "403 page": (403, "text/html", PAGE),
    "400 bare": (400, "application/json", b"{}"),
    "400 text": (400, "application/json", b'{"detail":"Bad Request"}'),
    "400 inside": (400, "application/json", b'{"detail":"{\\"reason\\":\\"no\\",\\"suggested_remedy\\":\\"\\"}"}'),
    "400 unsure": (
        400,
        "application/json",
        b'{"reason":"Could not find librarian b in the database.","suggested_remedy":"Add it."}',
    ),
    "406": (406, "application/json", b'{"reason":"not now","suggested_remedy":"","source_transfer_ids":[]}'),
    "409": (409, "application/json", b'{"reason":"there is one","suggested_remedy":"","source_transfer_ids":[]}'),
    "409 object": (409, "application/json", b'{"detail":{"reason":"no","suggested_remedy":"none"}}'),
    "413": (413, "application/json", b'{"reason":"too large","suggested_remedy":""}'),
    "413 page": (413, "text/html", PAGE),
    "422 list": (
        422,
        "application/json",
        b'{"detail":[{"type":"missing","loc":["body","x"],"msg":"Field required","input":null}]}',
    ),
    "425": (425, "application/json", b'{"reason":"ongoing","suggested_remedy":"","source_transfer_ids":[]}'),
    "429 page": (429, "text/html", PAGE),
    "307": (307, "text/html", b""),
    "302 page": (302, "text/html", PAGE),
    "200 empty": (200, "application/json", b""),
    "200 page": (200, "text/html", PAGE),
    "200 {}": (200, "application/json", b"{}"),
    "200 []": (200, "application/json", b"[]"),
    "200 null": (200, "application/json", b"null"),
}
#: How far a foreign number is from one of ours.
FAR = 100_000


def _ids(value: Any, by: int) -> Any:
    """The same with every number of a transfer, and every key that is one, moved away."""
    if isinstance(value, dict):
        return {
            (str(int(key) + by) if key.lstrip("-").isdigit() else key): (
                each + by if key.endswith("transfer_id") and isinstance(each, int) else _ids(each, by)
            )
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [each + by if type(each) is int else _ids(each, by) for each in value]
    return value


def _lists(found: Any, change: Callable[[Any], Any]) -> Any:
    """The same with every list of the first level, and every table by number, changed."""
    if isinstance(found, list):
        return change(found)
    return {
        key: change(each) if isinstance(each, list) or (isinstance(each, dict) and _numbered(each)) else each
        for key, each in found.items()
    }


def _numbered(each: dict[str, Any]) -> bool:
    return bool(each) and all(key.isdigit() for key in each)


def _less(each: Any) -> Any:
    return dict(list(each.items())[1:]) if isinstance(each, dict) else each[1:]


def _more(each: Any) -> Any:
    if isinstance(each, dict):
        return _ids(each, FAR) | each
    return [*_ids(each[:1], FAR), *each, *_ids(each, FAR)]


def _twice(each: Any) -> Any:
    return each if isinstance(each, dict) else [*each, *each[:1]]


#: What a librarian may say that is right but for one thing: name → how the JSON that it said becomes that.
SHAPES: dict[str, Callable[[Any], Any]] = {
    "wrong shape": lambda found: {"items": found} if isinstance(found, list) else [found],
    "null lists": lambda found: _lists(found, lambda each: None),
    "nothing in lists": lambda found: _lists(found, lambda each: type(each)()),
    "items missing": lambda found: _lists(found, _less),
    "items added": lambda found: _lists(found, _more),
    "foreign numbers": lambda found: _ids(found, FAR),
    "an item twice": lambda found: _lists(found, _twice),
    "null items": lambda found: _lists(
        found, lambda each: dict.fromkeys(each) if isinstance(each, dict) else [None] * len(each)
    ),
}
#: When a request that the caller has given up is carried out after all.
LATE = ("after the next", "after the command", "after the next tick", "when all is over", "weeks later")
_HUGE = b" " * (70 * 1024**2)


def _odd(name: str) -> Answer:
    status, kind, body = ERRORS[name]
    if 300 <= status < 400:
        raise NoAnswer("it redirects")  # as the transports say it
    return Answer(status, {"content-type": kind}, body)


def _reshaped(name: str, said: Answer) -> Answer:
    try:
        found = json.loads(said.body)
    except ValueError:
        return said
    return Answer(said.status, said.headers, json.dumps(SHAPES[name](found)).encode())


def _cut(said: Answer) -> Answer:
    return Answer(said.status, said.headers, said.body[: len(said.body) // 2])


def _huge(said: Answer) -> Answer:
    head = b"Status: 200 OK\r\nContent-Length: %d\r\n\r\n" % len(_HUGE)
    assert len(_HUGE) > ANSWER_LIMIT
    return parse_cgi(head + _HUGE, 0)


def kinds() -> dict[str, Callable[[Wire, Act], Answer]]:
    """Every way to upset a request."""

    def lost(wire: Wire, act: Act) -> Answer:
        raise NoAnswer("no route to host")

    def unheard(wire: Wire, act: Act) -> Answer:
        act()
        raise NoAnswer("no answer in time")

    def late(when: str) -> Callable[[Wire, Act], Answer]:
        def deed(wire: Wire, act: Act) -> Answer:
            wire.held.append((when, act))
            raise NoAnswer("no answer in time")

        return deed

    def first(wire: Wire, act: Act) -> Answer:
        said = act()
        act()
        return said

    def second(wire: Wire, act: Act) -> Answer:
        act()
        return act()

    def dripped(wire: Wire, act: Act) -> Answer:
        act()
        raise NoAnswer("no answer in time (it drips)")

    found: dict[str, Callable[[Wire, Act], Answer]] = {"lost": lost, "answer lost": unheard}
    found |= {f"late, {when}": late(when) for when in LATE}
    found |= {"twice, first answer": first, "twice, second answer": second}
    for name in ERRORS:
        found[f"{name} instead"] = lambda wire, act, name=name: _odd(name)  # type: ignore[misc]
        found[f"{name} after"] = lambda wire, act, name=name: (act(), _odd(name))[1]  # type: ignore[misc]
    for name in SHAPES:
        found[name] = lambda wire, act, name=name: _reshaped(name, act())  # type: ignore[misc]
    found |= {"cut off": lambda wire, act: _cut(act()), "70 MB": lambda wire, act: _huge(act()), "drips": dripped}
    return found


KINDS: dict[str, Callable[[Any, Act], Answer]] = kinds()


@dataclass(frozen=True)
class Upset:
    """The n-th request to an endpoint of a librarian, and what happens to it."""

    asked: str
    endpoint: str
    n: int
    kind: str

    def __str__(self) -> str:
        return f"{self.kind!r} at {self.asked}'s {self.endpoint} #{self.n}"


@dataclass
class Wire:
    """The way between two librarians."""

    planned: dict[tuple[str, str, int], Upset] = field(default_factory=dict)
    calls: list[tuple[str, str, int]] = field(default_factory=list)
    held: list[tuple[str, Act]] = field(default_factory=list)
    happened: list[Upset] = field(default_factory=list)
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)

    def carry(self, asked: str, endpoint: str, act: Act) -> Answer:
        """One request; ``act`` has it carried out there."""
        self.seen[asked, endpoint] += 1
        call = (asked, endpoint, self.seen[asked, endpoint])
        self.calls.append(call)
        waiting, self.held = [it for it in self.held if it[0] == LATE[0]], [it for it in self.held if it[0] != LATE[0]]
        try:
            upset = self.planned.get(call)
            if upset is None:
                return act()
            self.happened.append(upset)
            return KINDS[upset.kind](self, act)
        finally:
            for _, late in waiting:
                late()

    def play(self, *when: str) -> int:
        """Carry out what was held until then; how many that were."""
        due, self.held = [it for it in self.held if it[0] in when], [it for it in self.held if it[0] not in when]
        for _, act in due:
            act()
        return len(due)


# -- two librarians -----------------------------------------------------------------------------------------------

#: What travels, in the order in which it is known; four in a batch.
LONG = "long/" + "/".join(["n" * 60] * 5)
FILES = {LONG: b"a name that stock does not keep", "empty": b"", "spoiled": b"spoiled once " * 9, "deep/er/file": b"deep", "late": b"cannot be read at first"}
FILES |= {"taken": b"other content is there", "present": b"it is there already", "plain": b"plain" * 50}
TREE = {"tree/one": b"one", "tree/in/two": b""}
SPOILED, UNREADABLE, TAKEN, PRESENT = "spoiled", "late", "taken", "present"
#: What lies at the destination before anything travels.
THERE = {TAKEN: b"it was here before", PRESENT: FILES[PRESENT]}
#: Waits between two ticks when nothing moves any more.
LONGER = tuple(timedelta(**it) for it in ({"minutes": 12}, {"minutes": 25}, {"hours": 2}, {"days": 1.1}, {"days": 2}))


@dataclass
class Station:
    """How far an undisturbed clone has come before one of the commands of its first tick."""

    top: Path
    command: int
    seen: Counter[tuple[str, str]]
    calls: list[tuple[str, str, int]]
    printed: list[Printed]
    carried: Counter[str]
    spoiled: set[str]
    stock: Any


@dataclass
class Printed:
    """One line that a command printed."""

    when: datetime
    site: str
    command: str
    line: str

    @property
    def plain(self) -> str:
        """The same for two lines about the same trouble."""
        line = re.sub(r"'[^']*'", "'…'", self.line)
        line = re.sub(r"\(for [^)]*\)|over after [^:]*:", "(…)", line)
        return f"{self.site} {self.command}: " + re.sub(r"\d+", "…", line)


@dataclass
class Case:
    """What one clone came to."""

    upsets: tuple[Upset, ...]
    ticks: int = 0
    spent: timedelta = timedelta(0)
    wrongs: list[str] = field(default_factory=list)
    printed: list[Printed] = field(default_factory=list)
    carried: Counter[str] = field(default_factory=Counter)
    calls: list[tuple[str, str, int]] = field(default_factory=list)
    happened: int = 0
    rescued: bool = False  #: whether it needed a long wait, or what settles old things

    def __str__(self) -> str:
        return "; ".join(map(str, self.upsets)) or "undisturbed"


class Clone:
    """``a`` brings its files to ``b``, both libtool; subclasses put a stock librarian at one end."""

    comparing = False  #: whether catalogues are compared at each tick, too
    slow = 1  #: the destination takes in what is staged at every so many ticks
    keeping = False  #: whether stations are being made
    done = 0  #: commands of this tick that are done
    name = "libtool to libtool"
    refused: frozenset[str] = frozenset({TAKEN})

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.top = top / "pair"
        self.patch = monkeypatch
        self.world = World()
        self.wire = Wire()
        self.spoiled: set[str] = set()
        self.carried: Counter[str] = Counter()
        self._take_over()
        self.make()
        self.begun = self.world.now
        self.stations: list[Station] = []
        self.skip = 0
        self.case = Case(())
        self.keep()

    def keep(self) -> None:
        """Remember how far it has come, to begin there what is undisturbed so far."""
        top = self.top.with_name(f"station {len(self.stations)}")
        shutil.copytree(self.top, top / "pair", symlinks=True, dirs_exist_ok=True)
        wire, case = self.wire, self.case
        seen, calls, printed = Counter(wire.seen), list(wire.calls), list(case.printed)
        carried, spoiled = Counter(self.carried), set(self.spoiled)
        self.stations.append(
            Station(top / "pair", self.done, seen, calls, printed, carried, spoiled, self.rows())
        )

    def rows(self) -> Any:
        """What is remembered outside of the directories."""
        return None

    def put_back(self, rows: Any) -> None:
        """Go back to that."""

    def step(self, deed: Callable[[], Any]) -> None:
        """One command of a tick, unless the case begins behind it."""
        if self.done >= self.skip:
            if self.keeping and self.case.ticks == 1 and self.done:
                self.keep()
            deed()
            self.wire.play(LATE[1])
        self.done += 1

    # .. the world ................................................................................................

    def _take_over(self) -> None:
        self.patch.setattr(Node, "now", lambda node: self.world.now)
        self.patch.setattr(ExecTransport, "post", lambda *words: self._exec(*words))
        self.patch.setattr(HttpTransport, "post", lambda *words: self._http(*words))
        self.patch.setattr(LocalMover, "carry", lambda *words: self._carry(*words))
        self.patch.setattr(stocks.requests, "post", lambda url, **words: self._requests(url, **words))

    def _exec(self, transport: ExecTransport, path: str, body: bytes, authorization: str | None) -> Answer:
        config = transport.config
        asked = Path(config).parent.name
        return self.wire.carry(asked, path.removeprefix("/api/v2/"), lambda: ours(config, path, body, authorization))

    def _http(self, transport: HttpTransport, path: str, body: bytes, authorization: str | None) -> Answer:
        raise NoAnswer("nobody is there")

    def _requests(self, url: str, **words: Any) -> Any:
        raise AssertionError("only a stock client calls so")

    def _carry(self, mover: LocalMover, item: Item, part: str) -> None:
        """Count what is carried; one file cannot be read at its first attempt, another does not arrive as it was."""
        if item.name == UNREADABLE and item.name not in self.spoiled:
            self.spoiled.add(item.name)
            raise PermissionError(13, "Permission denied", item.source)
        self.carried[item.name] += 1
        _CARRY(mover, item, part)
        if item.name == SPOILED and item.name not in self.spoiled:
            self.spoiled.add(item.name)
            content = Path(item.target).read_bytes()
            Path(item.target).write_bytes(b"S" + content[1:])

    # .. what there is ............................................................................................

    def make(self) -> None:
        """Both ends, with their files."""
        self.b = make_site("b", self.top / "b")
        self.a = make_site("a", self.top / "a", local_transfer_roots=[str(self.top / "b" / "staging")])
        self.a.write(commands={"send-clone": {"destination_librarian": "b", "send_batch_size": 4}})
        introduce(self.a, self.b)
        self.feed(self.a)
        for name, content in THERE.items():
            put(self.b, name, content)

    def feed(self, site: Site) -> None:
        """Have all files at our end."""
        for name, content in FILES.items():
            put(site, name, content)
        for name, content in TREE.items():
            path = self.top / "originals" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        site.run(0, "ingest", "--uploader", "observer", str(self.top / "originals" / "tree"))

    @property
    def sites(self) -> list[Site]:
        """Those that are libtool."""
        return [self.a, self.b]

    def tick(self, comparing: bool) -> None:
        """Everything once."""
        self.step(lambda: self.run(self.a, "send-clone"))
        self.step(lambda: self.run(self.a, "consume-queue"))
        if comparing:  # while transfers are under way
            self.compare(self.b)
        self.step(lambda: self.run(self.a, "check-consumed-queue"))
        if comparing:
            self.compare(self.a)
        if self.due:
            self.step(lambda: self.run(self.b, "recv-clone"))

    @property
    def due(self) -> bool:
        """Whether the destination takes in now."""
        return self.case.ticks % self.slow == 0

    def compare(self, site: Site) -> None:
        """What settles old things."""
        for command in ("outgoing-transfer-hypervisor", "incoming-transfer-hypervisor"):
            if command in cli.COMMANDS:
                self.step(lambda command=command: self.run(site, command, "--age-in-days", "1"))  # type: ignore[misc]
        self.step(lambda: self.run(site, "reconcile"))

    def run(self, site: Site, *words: str) -> None:
        """One command; what it prints is kept."""
        ran = site.run(None, *words)
        for line in ran.err.splitlines():
            self.case.printed.append(Printed(self.world.now, site.name, words[0], line))
        if ran.code not in (0, 3, 4) or ran.out or "internal error" in ran.err:
            self.case.wrongs.append(f"{site.name} {words[0]} ended with {ran.code}: {ran.out}{ran.err}")

    # .. one case .................................................................................................

    def reset(self, station: Station) -> None:
        """As it was there."""
        shutil.rmtree(self.top)
        shutil.copytree(station.top, self.top, symlinks=True)
        self.wire.seen, self.wire.calls = Counter(station.seen), list(station.calls)
        self.case.printed, self.skip = list(station.printed), station.command
        self.carried, self.spoiled = Counter(station.carried), set(station.spoiled)
        self.put_back(station.stock)

    def undisturbed(self) -> Case:
        """A clone without upsets; makes the stations from which the others begin."""
        self.keeping = True
        self.stations = self.stations[:1]
        case = self.play()
        self.keeping = False
        assert not case.wrongs, case.wrongs
        return case

    def play(self, *upsets: Upset) -> Case:
        """A whole clone with these upsets; ticks of a minute, longer ones when nothing moves."""
        self.wire = Wire({(it.asked, it.endpoint, it.n): it for it in upsets})
        self.case = Case(upsets)
        self.world.now = self.begun
        before = [it for it in self.stations if not self.wire.planned.keys() & set(it.calls)]
        self.reset(before[-1])
        self._until_quiet()
        if self.wire.play(LATE[3]):
            self._until_quiet()
        if any(when == LATE[4] for when, _ in self.wire.held):
            self.world.wait(days=21)
            self.wire.play(LATE[4])
            self._until_quiet()
        self.case.carried = Counter(self.carried)
        self.case.calls = self.wire.calls
        self.case.happened = len(self.wire.happened)
        self.case.spent = self.world.now - self.begun
        self.case.wrongs += self.judge()
        return self.case

    def _until_quiet(self) -> None:
        before, same, waits = None, 0, list(LONGER)
        late = sum(when in LATE[:3] for when, _ in self.wire.held)
        for _ in range(60):
            longer = same >= 3
            if longer and not waits:
                return
            self.world.now += waits.pop(0) if longer else timedelta(minutes=1)
            held = [it for it in self.wire.held if it[0] == LATE[2]]
            self.case.ticks += 1
            self.case.rescued |= longer
            self.done = 0
            self.tick(self.comparing or longer)
            self.skip = 0
            self.wire.held = [it for it in self.wire.held if it not in held]
            for _, act in held:
                act()
            left = self.pending()
            late = sum(when in LATE[:3] for when, _ in self.wire.held)
            if not left and not late:
                return
            same = same + 1 if left == before else 0
            if left != before and not longer:
                waits = list(LONGER)
            before = left

    # .. what is true .............................................................................................

    def pending(self) -> list[str]:
        """What is live, owed, queued or planned."""
        return [f"{site.name}: {row}" for site in self.sites for row in pending(site)]

    def judge(self) -> list[str]:
        """What is not as it must be."""
        wanted = {name: content for name, content in (FILES | TREE).items() if name not in self.refused}
        found = self.pending() + wrong_bytes(self.b, wanted | THERE)
        found += [f"a: {each!r} lies in the staging area" for each in self.a.staged()]
        found += wrong_rows(self.a, self.b, set(FILES) - self.refused | {"tree"}, set(self.refused))
        return found


def ours(config: str, path: str, body: bytes, authorization: str | None) -> Answer:
    """What a libtool librarian answers."""
    try:
        with Node.open(config) as node:
            said = router.answer(node, router.Request("POST", path, authorization, body))
    except LibtoolError as trouble:
        said = router.failure(trouble)
    return Answer(said.status, {name.lower(): value for name, value in router.head(said).items()}, said.body)


def put(site: Site, name: str, content: bytes) -> None:
    """Take in one file."""
    path = site.directory.parent / f"of {site.name}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    site.run(0, "ingest", "--uploader", "observer", str(path), name)


def query(site: Site, sql: str) -> list[tuple[Any, ...]]:
    """Rows, without opening a node for it."""
    with closing(sqlite3.connect(site.directory / "catalogue.db")) as database:
        return database.execute(sql).fetchall()


def pending(site: Site) -> list[str]:
    """What is live, owed, queued or planned at a site; what waits for a person is not."""
    sql = "SELECT 'outgoing', id, status, owed FROM outgoing_transfer WHERE status < 3 OR owed > 0 UNION ALL "
    sql += "SELECT 'incoming', id, status, owed FROM incoming_transfer WHERE status < 3 OR owed > 0 UNION ALL "
    sql += "SELECT 'item', id, status, 0 FROM send_queue WHERE status < 3 UNION ALL "
    sql += "SELECT 'retry', file_id, attempts, not_before FROM retry WHERE not_before IS NOT NULL"
    return [" ".join(map(str, row)) for row in query(site, sql)]


def wrong_bytes(site: Site, wanted: dict[str, bytes]) -> list[str]:
    """What is wrong with a store and its staging area."""
    stored = site.stored()
    found = [f"{site.name}: {each!r} is not stored" for each in wanted.keys() - stored.keys()]
    found += [f"{site.name}: {each!r} is stored and should not" for each in stored.keys() - wanted.keys()]
    found += [f"{site.name}: {each!r} has other bytes" for each in wanted.keys() & stored if wanted[each] != stored[each]]
    return found + [f"{site.name}: staging place {each!r} is left" for each in site.staged() if "/" not in each]


def wrong_rows(a: Site, b: Site | None, wanted: set[str], refused: set[str]) -> list[str]:
    """What is wrong in the catalogues: ``a`` must know of one copy of each at ``b``, ``b`` of one instance of its own."""
    found = []
    there = Counter(name for (name,) in query(a, "SELECT f.name FROM remote_instance r JOIN file f ON f.id = r.file_id"))
    found += [f"a: does not know that {each!r} is there" for each in wanted - there.keys()]
    found += [f"a: thinks that {each!r} is there" for each in there.keys() - wanted]
    found += [f"a: knows {each!r} {count} times" for each, count in there.items() if count > 1]
    parked = {name for (name,) in query(a, "SELECT f.name FROM retry r JOIN file f ON f.id = r.file_id")}
    found += [f"a: gave {each!r} up" for each in parked - refused]
    found += [f"a: did not say that {each!r} is refused" for each in refused - parked]
    if b is not None:
        sql = "SELECT f.name, count(i.id) FROM file f LEFT JOIN instance i ON i.file_id = f.id AND i.available GROUP BY f.name"
        copies = dict(query(b, sql))
        found += [f"b: {each!r} has {copies.get(each, 0)} copies" for each in wanted if copies.get(each) != 1]
        found += [f"b: knows {each!r}" for each in copies.keys() - wanted - refused]
    return found


# -- one of the two is stock --------------------------------------------------------------------------------------


class Reply:
    """What the stock client gets from ``requests``."""

    def __init__(self, answer: Answer) -> None:
        self.status_code, self._body = answer.status, answer.body

    def json(self) -> Any:
        """The body, or ValueError."""
        return json.loads(self._body)


class WithStock(Clone):
    """What both directions have in common; the stock librarian is in this process, too."""

    stock: Stock
    stock_name: str

    def _http(self, transport: HttpTransport, path: str, body: bytes, authorization: str | None) -> Answer:
        headers = {"Authorization": authorization or "", "Content-Type": "application/json", "Host": "127.0.0.1"}

        def act() -> Answer:
            reply = self.stock.answer("POST", path, headers, body)
            assert reply is not None
            said = reply.body.encode() if isinstance(reply.body, str) else json.dumps(reply.body).encode()
            return Answer(reply.status, {key.lower(): value for key, value in reply.headers.items()}, said)

        return self.wire.carry(self.stock_name, path.removeprefix("/api/v2/"), act)

    def _requests(self, url: str, **words: Any) -> Reply:
        site = self.sites[0]
        path = "/api/v2/" + url.partition("/api/v2/")[2]
        user, password = words["auth"]
        header = "Basic " + stocks.base64.b64encode(f"{user}:{password}".encode()).decode()
        try:
            return Reply(
                self.wire.carry(
                    site.name,
                    path.removeprefix("/api/v2/"),
                    lambda: ours(site.config, path, words["data"].encode(), header),
                )
            )
        except NoAnswer as trouble:
            raise stocks.requests.exceptions.ConnectionError(str(trouble)) from None

    def acquaint(self, site: Site, level: str) -> None:
        """Let both know each other."""
        self.stock.accounts[site.name] = ("the-password", READAPPEND)
        password = site.run(0, "create-user", "--username", self.stock_name, "--auth-level", level).out.strip()
        self.stock.peers[site.name] = StockClient("http://127.0.0.1", 1, self.stock_name, password)
        words = ["--name", self.stock_name, "--url", "http://127.0.0.1", "--port", "2", "--authenticator", "-"]
        site.run(0, "add-librarian", *words, "--do-not-check-connection", stdin=f"{site.name}:the-password\n")

    def rows(self) -> Any:
        return copy.deepcopy((self.stock.incoming, self.stock.outgoing, self.stock.files, self.stock.remote))

    def put_back(self, rows: Any) -> None:
        self.stock.incoming, self.stock.outgoing, self.stock.files, self.stock.remote = copy.deepcopy(rows)

    def do(self, deed: Callable[[], Any]) -> None:
        """One task of the stock librarian: what it does not catch ends it, and only it."""

        def guarded() -> None:
            with suppress(StockCrash, StockHTTPError, StockTimeout, KeyError, TypeError, IndexError, AttributeError):
                deed()

        self.step(guarded)


class ToStock(WithStock):
    """``a`` is libtool and brings its files to the stock ``b``."""

    name = "libtool to stock"
    stock_name = "b"
    refused = frozenset({TAKEN, LONG})

    def make(self) -> None:
        self.stock = Stock("b", self.top / "b")
        self.a = make_site("a", self.top / "a", local_transfer_roots=[str(self.top / "b" / "staging")])
        self.a.write(commands={"send-clone": {"destination_librarian": "b", "send_batch_size": 4}})
        self.feed(self.a)
        for name, content in THERE.items():
            self.stock.hold(name, content)
        self.acquaint(self.a, "CALLBACK")

    @property
    def sites(self) -> list[Site]:
        return [self.a]

    def tick(self, comparing: bool) -> None:
        self.step(lambda: self.run(self.a, "send-clone"))
        self.step(lambda: self.run(self.a, "consume-queue"))
        self.step(lambda: self.run(self.a, "check-consumed-queue"))
        if self.due:
            self.do(self.stock.receive)
        if comparing:
            self.do(self.stock.incoming_hypervisor)
            self.compare(self.a)

    def pending(self) -> list[str]:
        live = [row for row in self.stock.incoming.values() if row.status < stocks.COMPLETED]
        return super().pending() + [f"b: {row.id} {row.store_path} {stocks.WORDS[row.status]}" for row in live]

    def judge(self) -> list[str]:
        wanted = {name: content for name, content in (FILES | TREE).items() if name not in self.refused}
        wanted |= THERE
        there = self.stock.content()
        found = self.pending()
        found += [f"b: {each!r} is not right" for each in wanted.keys() | there if wanted.get(each) != there.get(each)]
        found += wrong_rows(self.a, None, set(FILES) - self.refused | {"tree"}, set(self.refused))
        done = Counter(row.store_path for row in self.stock.incoming.values() if row.status == stocks.COMPLETED)
        found += [f"b: {each!r} came {count} times" for each, count in done.items() if count > 1]
        places = {row.staging.name for row in self.stock.incoming.values() if row.status >= stocks.FAILED}  # P22, P23
        return found + [f"b: {it.name} is left" for it in self.stock.staging.iterdir() if it.name not in places]


class FromStock(WithStock):
    """The stock ``a`` brings its files to ``b``, which is libtool."""

    name = "stock to libtool"
    stock_name = "a"
    refused = frozenset({TAKEN, LONG})

    def make(self) -> None:
        self.stock = Stock("a", self.top / "a")
        self.b = make_site("b", self.top / "b")
        for name, content in FILES.items():
            if name != LONG:
                self.stock.hold(name, content)
        for name, content in TREE.items():
            path = self.stock.store / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        path = self.stock.store / "tree"
        self.stock.files["tree"] = stocks.Held("tree", stocks.size_of(path), stocks.checksum_of(path), "admin", "admin", path)
        for name, content in THERE.items():
            put(self.b, name, content)
        self.acquaint(self.b, "READAPPEND")

    @property
    def sites(self) -> list[Site]:
        return [self.b]

    def tick(self, comparing: bool) -> None:
        self.do(lambda: self.stock.send("b", 4))
        self.do(self._consume)
        self.do(self.stock.check)
        if self.due:
            self.step(lambda: self.run(self.b, "recv-clone"))
        if comparing:
            self.do(self.stock.outgoing_hypervisor)
            self.compare(self.b)

    def _consume(self) -> None:
        """Count what is carried; one file does not arrive as it was."""
        before = {row.id for row in self.stock.outgoing.values() if row.shipped}
        with suppress(OSError):  # P38: the head of the queue stays there
            self.stock.consume()
        for row in self.stock.outgoing.values():
            if row.shipped and row.id not in before:
                self.carried[row.name] += 1
                if row.name == SPOILED and SPOILED not in self.spoiled:
                    self.spoiled.add(SPOILED)
                    Path(row.location).write_bytes(b"S" + Path(row.location).read_bytes()[1:])

    def pending(self) -> list[str]:
        live = [row for row in self.stock.outgoing.values() if row.status < stocks.COMPLETED and row.name != TAKEN]
        known = {name for name, _, _ in self.stock.remote}
        found = [f"a: {row.id} {row.name} {stocks.WORDS[row.status]}" for row in live]
        return super().pending() + found + [f"a: {each} is due" for each in self.stock.files.keys() - known - {TAKEN}]

    def judge(self) -> list[str]:
        wanted = {name: content for name, content in (FILES | TREE).items() if name not in self.refused}
        found = self.pending() + wrong_bytes(self.b, wanted | THERE)
        sql = "SELECT f.name, count(i.id) FROM file f LEFT JOIN instance i ON i.file_id = f.id AND i.available GROUP BY f.name"
        copies = dict(query(self.b, sql))
        names = set(FILES) - {LONG} | {"tree"}
        return found + [f"b: {it!r} has {copies.get(it, 0)} copies" for it in names | copies.keys() if copies.get(it) != 1]
