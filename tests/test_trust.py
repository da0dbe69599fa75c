"""Who may do what: every endpoint with its level, its owner and its limit in a table, walked with every kind of caller.

The table is this test's own, after the protocol's description, and knows nothing of the one that the code obeys. Here
is also what guards the door itself: sizes, guessing, and passwords that follow each other.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest

from libtool.archive import accounts
from libtool.commands import callback
from libtool.endpoints import router
from libtool.node import Node
from libtool.peers import passwords
from libtool.states import AuthLevel, Owed, TransferStatus
from tests.sites import Pair, Site, make_site
from tests.test_callback import basic

ABC = b"abc"
ABC_SUM = "xxh3:::06b05ab6733a618578af5f94892f3950"
PASSWORD = "the right one"
FAULT = 750001
ONE, MANY = 64 * 1024, None  # bytes of a request about one thing; those about many have what the configuration allows


# -- the table ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Things:
    """What belongs to a neighbour and can be named in a request, or what belongs to nobody."""

    who: str
    incoming: int  #: a transfer from it to us
    number: int  #: the same, as it counts
    outgoing: int  #: a transfer from us to it
    remote: int  #: the same, as it counts
    upload: int  #: what it uploads, lying there whole
    held: str  #: a file of which it has a copy from us
    store: str  #: where our store lies

    @property
    def pair(self) -> dict[str, int]:
        """The incoming transfer by both its numbers."""
        return {"source_transfer_id": self.number, "destination_transfer_id": self.incoming}

    @property
    def item(self) -> dict[str, Any]:
        """A file that it wants to bring."""
        wanted = {"upload_size": 3, "upload_checksum": ABC_SUM, "uploader": "somebody", "source_transfer_id": 77}
        return wanted | {"upload_name": f"new/{self.who}", "destination_location": f"new/{self.who}"}


@dataclass(frozen=True)
class Look:
    """The librarian after a request, to see what that did."""

    site: Site
    things: Things
    body: Any

    def one(self, sql: str, *values: Any) -> Any:
        """The only value of the only row, or None."""
        with closing(sqlite3.connect(f"file:{self.site.directory / 'catalogue.db'}?mode=ro", uri=True)) as database:
            row = database.execute(sql, values).fetchone()
        return None if row is None else row[0]

    def incoming(self) -> int:
        """How far the incoming transfer has come."""
        return int(self.one("SELECT status FROM incoming_transfer WHERE id = ?", self.things.incoming))

    def outgoing(self) -> int:
        """How far the outgoing transfer has come."""
        return int(self.one("SELECT status FROM outgoing_transfer WHERE id = ?", self.things.outgoing))

    def staged(self, number: int) -> bool:
        """Whether its new file may come, as something of its own."""
        row = "SELECT count(*) FROM incoming_transfer WHERE name = ? AND source = ? AND source_transfer_id = ?"
        return self.one(row, f"new/{self.things.who}", self.things.who, number) == 1

    def stored(self) -> bool:
        """Whether its upload is in the store and in the catalogue."""
        lies = self.site.stored().get(f"up/{self.things.who}") == ABC
        return lies and self.one("SELECT count(*) FROM file WHERE name = ?", f"up/{self.things.who}") == 1

    def level(self, name: str) -> int | None:
        """The level of an account."""
        found: int | None = self.one("SELECT auth_level FROM user WHERE username = ?", name)
        return found


@dataclass(frozen=True)
class Rule:
    """One line of the table."""

    level: str
    message: Callable[[Things], Any] = lambda it: {}
    answer: int = 200  #: to those who may
    effect: Callable[[Look], bool] | None = None
    strange: int | None = None  #: the answer when it is about others' things; None: others' things cannot be named
    exempt: bool = True  #: an administrator may touch others' things
    most: int | None = ONE
    changes: bool = True  #: whether it may change anything at all


_SENT_TO = "SELECT count(*) FROM outgoing_transfer o JOIN librarian l ON l.id = o.destination_id WHERE l.name = ?"
_HELD = "file_id = (SELECT id FROM file WHERE name = ?)"


def _report(it: Things) -> dict[str, Any]:
    done = {"source_transfer_id": it.outgoing, "destination_transfer_id": it.remote, "store_id": 3}
    return {"completed": [done | {"checksum": ABC_SUM}], "failed": []}


RULES: dict[str, Rule] = {
    "ping/": Rule("NONE", changes=False),
    "ping/logged": Rule("READONLY", changes=False),
    "ping/admin": Rule("ADMIN", changes=False),
    "clone/stage": Rule(
        "READAPPEND", lambda it: {**it.item, "source": it.who}, 201, lambda see: see.staged(77), strange=401
    ),
    "clone/batch_stage": Rule(
        "READAPPEND",
        lambda it: {"uploads": [it.item], "source": it.who, "total_size": 3},
        201,
        lambda see: see.staged(77),
        strange=401,
        most=MANY,
    ),
    "clone/ongoing": Rule("READAPPEND", lambda it: it.pair, 200, lambda see: see.incoming() == 1, strange=404),
    "clone/staged": Rule("CALLBACK", lambda it: it.pair, 200, lambda see: see.incoming() == 2, strange=404),
    "clone/complete": Rule(
        "CALLBACK",
        lambda it: {"source_transfer_id": it.outgoing, "destination_transfer_id": it.remote, "store_id": 3},
        200,
        lambda see: see.outgoing() == 3,
        strange=400,
    ),
    "clone/fail": Rule(
        "READAPPEND",
        lambda it: {**it.pair, "reason": "disk broke"},
        200,
        lambda see: see.incoming() == 4,
        strange=404,
        most=2 * ONE,
    ),
    "checkin/update": Rule(
        "CALLBACK",
        lambda it: {"source_transfer_ids": [it.outgoing], "destination_transfer_ids": [it.incoming], "new_status": 4},
        200,
        lambda see: (see.incoming(), see.outgoing()) == (4, 4),
        strange=200,
        most=MANY,
    ),
    "checkin/status": Rule(
        "CALLBACK",
        lambda it: {"source_transfer_ids": [it.outgoing], "destination_transfer_ids": [it.incoming]},
        200,
        lambda see: [list(each.values()) for each in see.body.values()] == [[1], [0]],
        strange=200,
        most=MANY,
        changes=False,
    ),
    "corrupt/prepare": Rule(
        "CALLBACK",
        lambda it: {"file_name": it.held, "librarian_name": it.who},
        200,
        lambda see: see.body == {"ready": True},
        strange=401,
        exempt=False,
    ),
    "corrupt/resend": Rule(
        "CALLBACK",
        lambda it: {"file_name": it.held, "librarian_name": it.who},
        200,
        lambda see: (
            see.body["success"] is True
            and see.one(f"SELECT count(*) FROM outgoing_transfer WHERE status = 1 AND {_HELD}", see.things.held) == 1
            and see.one(f"SELECT count(*) FROM remote_instance WHERE {_HELD}", see.things.held) == 0
        ),
        strange=401,
        exempt=False,
    ),
    "search/file": Rule("READONLY", lambda it: {"name": it.held}, changes=False),
    "search/instance_local": Rule("ADMIN", lambda it: {"file_name": it.held}, changes=False),
    "search/instance_remote": Rule("ADMIN", lambda it: {"file_name": it.held}, changes=False),
    "search/error": Rule("ADMIN", changes=False),
    "validate/file": Rule("READONLY", lambda it: {"file_name": it.held}),
    "upload/stage": Rule("READAPPEND", lambda it: it.item, 201, lambda see: see.staged(-1)),
    "upload/commit": Rule(
        "READAPPEND",
        lambda it: {"transfer_id": it.upload},
        200,
        lambda see: see.stored(),
        strange=401,
        exempt=False,
    ),
    "users/password_update": Rule(
        "READONLY",
        lambda it: {"password": PASSWORD, "new_password": "another one"},
        200,
        lambda see: see.body == {"success": True, "username": see.things.who},
    ),
    "users/create": Rule(
        "ADMIN",
        lambda it: {"username": "newcomer", "password": "long enough", "permission": 1},
        201,
        lambda see: see.level("newcomer") == 1,
    ),
    "users/update": Rule(
        "ADMIN", lambda it: {"username": "spare", "permission": 2}, 200, lambda see: see.level("spare") == 2
    ),
    "users/delete": Rule("ADMIN", lambda it: {"username": "spare"}, 200, lambda see: see.level("spare") is None),
    "users/get": Rule("ADMIN", lambda it: {"username": "spare"}, changes=False),
    # A trouble that lasts cannot be cleared away: 400 says so.
    "error/clear": Rule("ADMIN", lambda it: {"id": FAULT}, 400, changes=False),
    "admin/add_file": Rule(
        "ADMIN",
        lambda it: {
            "name": "lies here",
            "create_time": "2026-11-21T07:35:32.134333",
            "size": 3,
            "checksum": ABC_SUM,
            "uploader": "somebody",
            "source": "elsewhere",
            "path": f"{it.store}/lies here",
            "store_name": "main",
        },
        200,
        lambda see: see.one("SELECT count(*) FROM file WHERE name = 'lies here'") == 1,
    ),
    "admin/instance/delete_local": Rule("ADMIN", lambda it: {"instance_id": 1, "delete_file": True}, 400, changes=False),
    "admin/instance/delete_remote": Rule(
        "ADMIN",
        lambda it: {"instance_id": 1},
        200,
        lambda see: see.one("SELECT count(*) FROM remote_instance WHERE id = 1") == 0,
    ),
    "admin/stores/list": Rule("ADMIN", changes=False),
    "admin/stores/state_change": Rule(
        "ADMIN",
        lambda it: {"store_name": "main", "enabled": False},
        200,
        lambda see: see.one("SELECT enabled FROM store") == 0,
    ),
    "admin/stores/manifest": Rule(
        "ADMIN",
        lambda it: {"store_name": "main", "destination_librarian": "other"},
        200,
        lambda see: see.one(_SENT_TO, "other") > 1,
    ),
    "admin/librarians/list": Rule("ADMIN", lambda it: {"ping": False}, changes=False),
    "admin/librarians/add": Rule(
        "ADMIN",
        lambda it: {
            "librarian_name": "newcomer",
            "url": "https://newcomer.example",
            "port": 443,
            "authenticator": "b:password",
            "check_connection": False,
        },
        200,
        lambda see: see.one("SELECT count(*) FROM librarian WHERE name = 'newcomer'") == 1,
    ),
    "admin/librarians/remove": Rule(
        "ADMIN",
        lambda it: {"librarian_name": "other"},
        200,
        lambda see: see.one("SELECT removed FROM librarian WHERE name = 'other'") == 1,
    ),
    "admin/librarians/transfer_status/change": Rule(
        "ADMIN",
        lambda it: {"librarian_name": "other", "transfers_enabled": False},
        200,
        lambda see: see.one("SELECT transfers_enabled FROM librarian WHERE name = 'other'") == 0,
    ),
    "admin/librarians/transfer_status/set": Rule(
        "ADMIN",
        lambda it: {"librarian_name": "other", "transfers_enabled": False},
        200,
        lambda see: see.one("SELECT transfers_enabled FROM librarian WHERE name = 'other'") == 0,
    ),
    # libtool's own. They follow the rules of their elder siblings; a report names no destination but its sender.
    "libtool/clone/batch_stage": Rule(
        "READAPPEND",
        lambda it: {"uploads": [it.item], "source": it.who, "total_size": 3},
        201,
        lambda see: see.staged(77),
        strange=401,
        most=MANY,
    ),
    "libtool/clone/staged": Rule(
        "READAPPEND", lambda it: {"transfers": [it.pair]}, 200, lambda see: see.incoming() == 2, strange=200, most=MANY
    ),
    "libtool/clone/given_up": Rule(
        "READAPPEND", lambda it: {"transfers": [it.pair]}, 200, lambda see: see.incoming() == 4, strange=200, most=MANY
    ),
    "libtool/clone/report": Rule(
        "CALLBACK", _report, 200, lambda see: see.outgoing() == 3, strange=200, exempt=False, most=MANY
    ),
    "libtool/clone/states": Rule(
        "CALLBACK",
        lambda it: {
            "outgoing": [{"source_transfer_id": it.outgoing, "destination_transfer_id": it.remote}],
            "incoming": [it.pair],
        },
        200,
        lambda see: see.body == {"outgoing": [1], "incoming": [0]},
        strange=200,
        most=MANY,
        changes=False,
    ),
    "libtool/catalogue/known": Rule("READONLY", lambda it: {"names": [it.held]}, most=MANY, changes=False),
    "libtool/catalogue/delivered": Rule(
        "CALLBACK",
        lambda it: {},
        200,
        lambda see: [each["name"] for each in see.body["files"]] == [see.things.held],
        changes=False,
    ),
    "libtool/catalogue/validate": Rule(
        "CALLBACK",
        lambda it: {"names": [it.held], "seconds": 5, "hold": 60, "asked": ["somebody"]},
        200,
        lambda see: (
            see.body["files"][0][0]["good"] is True
            and see.one(f"SELECT count(*) FROM instance WHERE held_until IS NOT NULL AND {_HELD}", see.things.held) == 1
        ),
        most=MANY,
    ),
    "libtool/ping/back": Rule("CALLBACK", lambda it: {}, 200, lambda see: see.body == {"reached": True, "reason": "", "outdated": False}),
}


# -- the callers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Caller:
    """Somebody at the door."""

    kind: str
    header: str | None = None
    key: str | None = None  #: the account that sshd has proved
    name: str = ""
    level: AuthLevel | None = None  #: None: nobody that we know

    def may(self, rule: Rule) -> bool:
        """Whether its level is enough. Where none is needed, any account will do, even one that nobody has checked."""
        if rule.level == "NONE":
            return self.kind not in ("no account", "a garbled account")
        return self.level is not None and self.level >= AuthLevel[rule.level]


#: Accounts, all of them registered neighbours with things of their own. The last is the one whose things others want.
ACCOUNTS = {
    "nothing": "NONE",
    "reader": "READONLY",
    "caller": "CALLBACK",
    "adder": "READAPPEND",
    "writer": "READWRITE",
    "boss": "ADMIN",
    "other": "READAPPEND",
}
NOBODY = [
    Caller("no account"),
    Caller("a garbled account", "Basic %%%"),
    Caller("an unknown user", basic("stranger", PASSWORD)),
    Caller("a wrong password", basic("boss", "the wrong one")),
    Caller("a key for nobody", key="stranger"),
]
SOMEBODY = [
    Caller(f"{level} by {way}", basic(name, PASSWORD) if way == "password" else None, key, name, AuthLevel[level])
    for name, level in ACCOUNTS.items()
    for way, key in (("password", None), ("key", name))
    if name != "other"
]


def pairs() -> Iterator[tuple[str, Caller, str]]:
    """Every endpoint, every caller, and whose things it asks for: its own, or those of the other neighbour."""
    for endpoint, rule in RULES.items():
        for caller in NOBODY:
            yield endpoint, caller, "other"
        for caller in SOMEBODY:
            yield endpoint, caller, caller.name
            if rule.strange is not None:
                yield endpoint, caller, "other"


@dataclass
class World:
    """A librarian with something of everything, which can be put back into its first state."""

    site: Site
    things: dict[str, Things]
    pristine: Path
    first: Any = None

    def keep(self) -> None:
        """This is the first state."""
        for part in ("store", "staging"):
            shutil.copytree(self.site.directory / part, self.pristine / part)
        shutil.copy(self.site.directory / "catalogue.db", self.pristine)
        self.first = self.state()

    def restore(self) -> None:
        """Back to it."""
        if self.state() == self.first:
            return
        for part in ("store", "staging"):
            shutil.rmtree(self.site.directory / part)
            shutil.copytree(self.pristine / part, self.site.directory / part)
        for old in self.site.directory.glob("catalogue.db*"):
            old.unlink()
        shutil.copy(self.pristine / "catalogue.db", self.site.directory)

    def state(self) -> Any:
        """All rows but when somebody was last heard of, and all that lies in store and staging area."""
        rows: dict[str, Any] = {}
        with closing(sqlite3.connect(f"file:{self.site.directory / 'catalogue.db'}?mode=ro", uri=True)) as database:
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                columns = [f'"{row[1]}"' for row in database.execute(f'PRAGMA table_info("{table}")')]
                wanted = ", ".join(column for column in columns if column != '"last_heard"')
                rows[table] = database.execute(f'SELECT {wanted} FROM "{table}"').fetchall()
        lies = []
        for part in (self.site.store, self.site.staging):
            for directory, below, files in os.walk(part):
                lies += [(directory, sorted(below))]
                lies += [(f"{directory}/{name}", Path(directory, name).read_bytes()) for name in sorted(files)]
        return rows, sorted(lies)

    def ask(self, endpoint: str, message: Any, caller: Caller, **changes: Any) -> router.Response:
        """One request; ``changes`` are those of the configuration."""
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        asked = router.Request("POST", f"/api/v2/{endpoint}", caller.header, body, known_as=caller.key)
        with self.site.open() as node:
            if changes:
                node.settings = replace(node.settings, **changes)
            return router.answer(node, asked)

    def look(self, said: router.Response, whose: str) -> Look:
        """The state after an answer."""
        return Look(self.site, self.things[whose], json.loads(said.body) if said.body else None)


@pytest.fixture
def world(furnished: World) -> Iterator[World]:
    """The librarian in its first state."""
    yield furnished
    furnished.restore()


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """b with seven neighbours, who all live in one other librarian; it can be reached."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.getbasetemp()))
        top = tmp_path_factory.mktemp("trust")
        far = make_site("far", top / "far")
        account = far.run(0, "create-user", "--username", "b", "--auth-level", "READAPPEND").out.strip()
        site = make_site("b", top / "b", local_transfer_roots=[str(top / "far")])
        (top / "source").mkdir()
        for name in ACCOUNTS:
            for part in ("held", "out"):
                (top / "source" / part).mkdir(exist_ok=True)
                (top / "source" / part / name).write_bytes(ABC)
        site.run(0, "ingest", "--recursive", str(top / "source"))
        (site.store / "lies here").write_bytes(ABC)
        found = World(site, {}, top / "pristine")
        found.pristine.mkdir()
        with site.open() as node:
            for name, level in (ACCOUNTS | {"spare": "READONLY"}).items():
                accounts.create(node, name, AuthLevel[level], PASSWORD)
            for n, name in enumerate(ACCOUNTS):
                found.things[name] = _furnish(node, site, n, name, f"exec://{far.config}", f"b:{account}")
            nobody = Things("nobody", 719999, 749999, 729999, 739999, 718999, "held/nobody", str(site.store))
            found.things["nobody"] = nobody
            _trouble(node)
        found.keep()
        yield found


def _furnish(node: Any, site: Site, n: int, name: str, url: str, account: str) -> Things:
    """Register a neighbour and give it one thing of each kind."""
    from libtool.models.tables import File, IncomingTransfer, Librarian, OutgoingTransfer, RemoteInstance

    now = node.now()
    row = Librarian.create(name=name, url=url, authenticator=node.conceal(account))
    it = Things(name, 710000 + n, 740000 + n, 720000 + n, 730000 + n, 711000 + n, f"held/{name}", str(site.store))
    coming = {"size": 3, "checksum": ABC_SUM, "uploader": "somebody", "source": name, "create_time": now, "store": 1}
    coming |= {"status": TransferStatus.INITIATED, "owed": Owed.NOTHING}
    for id, number, called, staging_id in (
        (it.incoming, it.number, f"in/{name}", f"{n:032x}"),
        (it.upload, -1, f"up/{name}", f"{n + 100:032x}"),
    ):
        IncomingTransfer.create(id=id, name=called, source_transfer_id=number, staging_id=staging_id, **coming)
        place = site.staging / staging_id / called
        place.parent.mkdir(parents=True)
        if number < 0:
            place.write_bytes(ABC)
    sent = File.get(File.name == f"out/{name}")
    going = {"status": TransferStatus.ONGOING, "owed": Owed.NOTHING, "store": 1, "create_time": now}
    OutgoingTransfer.create(id=it.outgoing, file=sent, destination=row, remote_id=it.remote, **going)
    RemoteInstance.create(file=File.get(File.name == it.held), librarian=row, store_id=1, copy_time=now)
    return it


def _trouble(node: Any) -> None:
    from libtool.models.tables import Fault

    when = {"first_time": node.now(), "last_time": node.now(), "told_time": node.now()}
    Fault.create(id=FAULT, subject="librarian other", kind="unreachable", text="it does not answer", **when)


# -- the walk -----------------------------------------------------------------------------------------------------


def test_the_table_holds_every_endpoint() -> None:
    assert {endpoint.rstrip("/") for endpoint in RULES} == set(router.ENDPOINTS)


def test_the_table_that_the_code_obeys_says_of_administrators_what_this_one_says() -> None:
    named = [endpoint for endpoint, rule in RULES.items() if rule.strange is not None]
    said = {name: "not exempt" not in router.ENDPOINTS[name].owner.value for name in named}
    assert said == {name: RULES[name].exempt for name in named}


def test_how_many_pairs_are_walked() -> None:
    found = list(pairs())
    assert len(set(found)) == len(found) > 800
    print(f"\n{len(RULES)} endpoints, {len(NOBODY) + len(SOMEBODY)} kinds of callers, {len(found)} pairs")


@pytest.mark.parametrize("endpoint", RULES)
def test_everybody_may_just_what_the_table_says(world: World, endpoint: str) -> None:
    rule = RULES[endpoint]
    refusal = world.ask("ping/admin", {}, NOBODY[0])
    assert (refusal.status, "WWW-Authenticate" in refusal.headers) == (401, True)
    for _, caller, whose in (pair for pair in pairs() if pair[0] == endpoint):
        where = f"{endpoint}, {caller.kind}, things of {whose}"
        said = world.ask(endpoint, rule.message(world.things[whose]), caller)
        changed = world.state() != world.first
        own = whose == caller.name or (rule.exempt and caller.level == AuthLevel.ADMIN) or rule.strange is None
        if not caller.may(rule) or (not own and rule.strange == 401):
            assert said == refusal, where
            assert not changed, where
        elif own:
            assert said.status == rule.answer, (where, said)
            assert rule.effect is None or rule.effect(world.look(said, whose)), (where, said)
            assert rule.changes or not changed, where
        else:
            assert said.status == rule.strange, (where, said)
            assert not changed, where
            none = world.ask(endpoint, rule.message(world.things["nobody"]), caller)
            assert _without_numbers(none) == _without_numbers(said), where
        if changed:
            world.restore()


def _without_numbers(said: router.Response) -> Any:
    """An answer without the numbers that the caller named."""
    return said.status, re.sub(rb"\b7[1-4]\d{4}\b", b"N", said.body)


def test_who_names_itself_learns_nothing_of_a_file_that_another_was_sent(world: World) -> None:
    caller = next(each for each in SOMEBODY if each.name == "caller")
    for endpoint in ("corrupt/prepare", "corrupt/resend"):
        said = [
            world.ask(endpoint, {"file_name": world.things[whose].held, "librarian_name": caller.name}, caller)
            for whose in ("other", "nobody")
        ]
        assert said[0] == said[1] and said[0].status == 409


@pytest.mark.parametrize("endpoint", ["clone/stage", "clone/batch_stage", "libtool/clone/batch_stage", "upload/stage"])
def test_who_wants_a_name_that_another_is_just_bringing_is_not_told_who(world: World, endpoint: str) -> None:
    caller = next(each for each in SOMEBODY if each.name == "adder")
    item = world.things["adder"].item | {"upload_name": "in/other", "destination_location": "in/other"}
    single = {"clone/stage": item | {"source": "adder"}, "upload/stage": item}
    said = world.ask(endpoint, single.get(endpoint, {"uploads": [item], "source": "adder", "total_size": 3}), caller)
    assert said.status in (201, 425) and b"other" not in said.body.replace(b"in/other", b""), said
    assert world.state() == world.first


def test_a_new_password_needs_the_present_one(world: World) -> None:
    wrong = {"password": "the wrong one", "new_password": "another one"}
    refusal = world.ask("ping/admin", {}, NOBODY[0])
    for caller in SOMEBODY:
        assert world.ask("users/password_update", wrong, caller) == refusal
    assert world.state() == world.first


def test_a_transfer_that_is_not_known_has_no_state_whatever_numbers_it_is_given(world: World) -> None:
    for number in (719999, 0, -1, -(2**63), 2**63 - 1):
        pairs = [{"source_transfer_id": number, "destination_transfer_id": other} for other in (5, 0, -1)]
        said = world.ask("libtool/clone/states", {"outgoing": pairs, "incoming": pairs}, BOSS)
        assert json.loads(said.body) == {"outgoing": [None] * 3, "incoming": [None] * 3}, number
        status = {"source_transfer_ids": [number], "destination_transfer_ids": [number]}
        said = world.ask("checkin/status", status, BOSS)
        assert [list(each.values()) for each in json.loads(said.body).values()] == [[None], [None]], number


# -- limits -------------------------------------------------------------------------------------------------------

#: Every list that a request may hold, by endpoint.
LISTS = {
    "clone/batch_stage": ["uploads"],
    "libtool/clone/batch_stage": ["uploads"],
    "checkin/update": ["source_transfer_ids", "destination_transfer_ids"],
    "checkin/status": ["source_transfer_ids", "destination_transfer_ids"],
    "libtool/clone/staged": ["transfers"],
    "libtool/clone/report": ["completed", "failed"],
    "libtool/clone/states": ["outgoing", "incoming"],
    "libtool/clone/given_up": ["transfers"],
    "libtool/catalogue/known": ["names"],
    "libtool/catalogue/validate": ["names", "asked"],
}
BOSS = Caller("ADMIN by key", key="boss", name="boss", level=AuthLevel.ADMIN)


@pytest.mark.parametrize("endpoint", [name for name, rule in RULES.items() if rule.most is not MANY])
def test_a_request_about_one_thing_is_not_parsed_when_it_is_too_long(world: World, endpoint: str) -> None:
    most = RULES[endpoint].most or 0
    assert world.ask(endpoint, b"x" * most, BOSS).status == 422
    assert world.ask(endpoint, b"x" * (most + 1), BOSS).status == 413
    long = json.dumps(RULES[endpoint].message(world.things["boss"])).encode()
    assert world.ask(endpoint, long + b" " * (most + 1 - len(long)), BOSS).status == 413
    assert world.state() == world.first
    assert world.ask(endpoint, long + b" " * (most - len(long)), BOSS).status == RULES[endpoint].answer


@pytest.mark.parametrize("endpoint, name", [(endpoint, name) for endpoint, names in LISTS.items() for name in names])
def test_a_request_about_too_many_things_changes_nothing(world: World, endpoint: str, name: str) -> None:
    things = world.things["boss"]
    message = RULES[endpoint].message(things)
    sample = message[name] or [{"source_transfer_id": things.outgoing, "destination_transfer_id": 5, "reason": "x"}]
    assert world.ask(endpoint, message | {name: sample * 4}, BOSS, max_batch_items=3).status == 413
    assert world.state() == world.first
    assert world.ask(endpoint, message | {name: sample * 3}, BOSS, max_batch_items=3).status == RULES[endpoint].answer


def test_every_list_of_every_message_is_among_those_that_are_counted() -> None:
    for endpoint, known in router.ENDPOINTS.items():
        if known.message is None:
            continue
        room, _, name = known.message.rpartition(".")
        kind = getattr(import_module(f"libtool.peers.{room or 'messages'}"), name)
        lists = [f.name for f in msgspec.inspect.type_info(kind).fields if isinstance(f.type, msgspec.inspect.ListType)]
        assert lists == LISTS.get(endpoint, []), endpoint


class Stream:
    """What a peer sends without end; counts what is taken of it."""

    def __init__(self) -> None:
        self.buffer = self
        self.taken = 0
        self.reads = 0

    def read(self, count: int = -1) -> bytes:
        """As many bytes as are wanted."""
        assert count >= 0, "it was read to an end that it does not have"
        self.reads += 1
        self.taken += count
        return b"x" * count


@pytest.mark.parametrize("endpoint", RULES)
def test_what_is_announced_as_too_long_is_not_read(
    world: World, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = RULES[endpoint].most or 32 * 1024**2
    for caller in (BOSS, NOBODY[0], NOBODY[1]):
        asked = router.Request("POST", f"/api/v2/{endpoint}", caller.header, b"", known_as=caller.key)
        for length in (most + 1, 10**12, int("9" * 30)):
            stream = Stream()
            monkeypatch.setattr(sys, "stdin", stream)
            assert callback.respond(world.site.config, asked, str(length)).status == 413
            assert stream.reads == 0
    stream = Stream()
    monkeypatch.setattr(sys, "stdin", stream)
    asked = router.Request("POST", f"/api/v2/{endpoint}", None, b"")
    assert callback.respond(world.site.config, asked, str(most)).status == 401
    assert stream.taken == most


@pytest.mark.parametrize("endpoint", ["ping/", "clone/fail", "clone/batch_stage"])
def test_a_chunked_body_without_end_is_read_to_the_limit_only(
    world: World, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = RULES[endpoint].most or 32 * 1024**2
    stream = Stream()
    monkeypatch.setattr(sys, "stdin", stream)
    monkeypatch.setenv("HTTP_TRANSFER_ENCODING", "chunked")
    asked = router.Request("POST", f"/api/v2/{endpoint}", None, b"", known_as="boss")
    assert callback.respond(world.site.config, asked, "").status == 413
    assert stream.taken <= most + 1


def test_what_the_configuration_allows_counts_where_it_is_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site("b", tmp_path / "b", max_body_bytes="1kB")
    for endpoint in RULES:
        stream = Stream()
        monkeypatch.setattr(sys, "stdin", stream)
        asked = router.Request("POST", f"/api/v2/{endpoint}", None, b"", known_as="boss")
        assert callback.respond(site.config, asked, "1001").status == 413
        assert stream.reads == 0


# -- guessing -----------------------------------------------------------------------------------------------------

GUESS = 0.3


@dataclass
class Guarded:
    """A librarian with accounts of each kind, and what is asked of it."""

    site: Site
    right: dict[str, str]

    def ask(self, name: str, password: str, endpoint: str = "ping/logged", message: Any = None) -> int:
        """The status of one request."""
        body = json.dumps(message or {}).encode()
        with self.site.open() as node:
            asked = router.Request("POST", f"/api/v2/{endpoint}", basic(name, password), body)
            return router.answer(node, asked).status

    def process(self, name: str, password: str) -> subprocess.Popen[bytes]:
        """The same as a process of its own, where a wrong password takes its full time."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HTTP_", "LIBTOOL_"))}
        environment |= {"REQUEST_METHOD": "POST", "PATH_INFO": "/api/v2/ping/logged", "CONTENT_LENGTH": "0"}
        environment |= {"LIBTOOL_CONFIG": self.site.config, "HTTP_AUTHORIZATION": basic(name, password)}
        command = [sys.executable, "-m", "libtool", "callback"]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, env=environment, **pipes)


def status_of(process: subprocess.Popen[bytes]) -> int:
    """What a process answered."""
    out, _ = process.communicate(timeout=60)
    return int(out.split()[1])


@pytest.fixture
def guarded(tmp_path: Path) -> Guarded:
    """Accounts with a made password, with a chosen one that was never used, with none but a key."""
    site = make_site("b", tmp_path / "b")
    right = {"made": site.run(0, "create-user", "--username", "made", "--auth-level", "READONLY").out.strip()}
    chosen = ["--username", "chosen", "--auth-level", "READONLY", "--password", "-"]
    site.run(0, "create-user", *chosen, stdin=f"{PASSWORD}\n")
    with site.open() as node:
        accounts.create(node, "keyed", AuthLevel.READONLY, "")
    return Guarded(site, right | {"chosen": PASSWORD})


@dataclass
class Guess:
    """A guess that is being checked until it is told to end."""

    checking: threading.Event
    end: threading.Event
    statuses: list[int]


@pytest.fixture
def guess(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guess]:
    """Somebody guesses, and the check of that lasts as long as the test."""
    found = Guess(threading.Event(), threading.Event(), [])
    check = passwords.is_slow

    def lasting(password: str, kept: str) -> bool:
        found.checking.set()
        assert found.end.wait(60)
        return check(password, kept)

    monkeypatch.setattr(passwords, "is_slow", lasting)
    guesser = threading.Thread(target=lambda: found.statuses.append(guarded.ask("made", "a guess")))
    guesser.start()
    assert found.checking.wait(60)
    yield found
    found.end.set()
    guesser.join(60)
    assert found.statuses == [401]


def test_while_a_guess_is_checked_other_guesses_are_sent_away(guarded: Guarded, guess: Guess) -> None:
    for name in ("made", "chosen", "keyed", "stranger"):
        for password in ("a guess", ""):
            assert guarded.ask(name, password) == 503
    # Had any of them waited for its turn, the first guess would have had to end before.
    assert not guess.end.is_set() and guess.statuses == []


def test_while_a_guess_is_checked_right_passwords_are_answered(guarded: Guarded, guess: Guess) -> None:
    changed = {"password": guarded.right["chosen"], "new_password": "chosen by oneself"}
    assert guarded.ask("made", guarded.right["made"]) == 200
    assert guarded.ask("chosen", guarded.right["chosen"]) == 200  # its first use
    assert guarded.ask("chosen", guarded.right["chosen"], "users/password_update", changed) == 200
    assert guarded.ask("chosen", "chosen by oneself") == 200
    with guarded.site.open() as node:
        accounts.update(node, "made", password="given by an administrator")
        assert accounts.renew(node, "chosen")
    assert guarded.ask("made", "given by an administrator") == 200
    assert guarded.ask("chosen", "chosen by oneself") == 200
    assert guarded.ask("nobody knows", "ping needs none", "ping/") == 200
    assert guess.statuses == []


def test_a_guess_takes_its_time_whether_the_account_exists_or_not(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "GUESS_SECONDS", GUESS)
    checks: list[str] = []
    check = passwords.slow
    monkeypatch.setattr(passwords, "slow", lambda password, salt: checks.append(password) or check(password, salt))
    taken: dict[tuple[str, str], float] = {}
    for name, password in (("made", "x"), ("chosen", "x"), ("keyed", ""), ("keyed", "x"), ("stranger", "x")):
        best = 60.0
        for _ in range(2):
            checks.clear()
            begin = time.monotonic()
            assert guarded.ask(name, password) == 401
            best = min(best, time.monotonic() - begin)
            assert checks == [password]  # the same work, for each
        taken[name, password] = best
    assert min(taken.values()) >= GUESS
    assert max(taken.values()) - min(taken.values()) < GUESS / 2, taken


def test_many_who_guess_at_once_get_no_further_than_one(guarded: Guarded) -> None:
    begin = time.monotonic()
    guessing = [guarded.process(name, f"guess {n}") for n, name in enumerate(["made", "chosen", "stranger"] * 3)]
    knowing = [guarded.process(name, password) for name, password in guarded.right.items()]
    assert [status_of(each) for each in knowing] == [200, 200]
    statuses = [status_of(each) for each in guessing]
    took = time.monotonic() - begin
    assert set(statuses) <= {401, 503} and 401 in statuses
    assert statuses.count(401) <= took / guess_seconds()  # one after the other, each its full time


def guess_seconds() -> float:
    """What a guess costs in a process that nobody prepared for tests."""
    words = [sys.executable, "-c", "from libtool.archive import accounts; print(accounts.GUESS_SECONDS)"]
    return float(subprocess.run(words, capture_output=True, check=True).stdout)


# -- passwords that follow ----------------------------------------------------------------------------------------


def renewed(site: Site, name: str, level: str) -> str:
    """A new password, as an operator has it made."""
    return site.run(0, "create-user", "--username", name, "--auth-level", level, "--renew").out.strip()


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Lets time go by for the librarians in this process."""
    gone = [timedelta(0)]
    now = Node.now
    monkeypatch.setattr(Node, "now", lambda self: now(self) + gone[0])

    def go(span: timedelta) -> None:
        gone[0] += span

    return go


@pytest.mark.parametrize("name", ["made", "chosen"])
def test_the_old_password_is_good_until_a_day_after_the_new_one_is_used(
    guarded: Guarded, later: Callable[[timedelta], None], name: str
) -> None:
    old = guarded.right[name]
    never_used = renewed(guarded.site, name, "READONLY")
    new = renewed(guarded.site, name, "READONLY")
    later(timedelta(days=400))
    assert len({old, new, never_used}) == 3
    assert [guarded.ask(name, password) for password in (old, never_used, old)] == [200, 401, 200]
    assert guarded.ask(name, new) == 200
    later(timedelta(hours=23))
    assert [guarded.ask(name, password) for password in (old, new, never_used)] == [200, 200, 401]
    later(timedelta(hours=2))  # its use did not make it last
    assert [guarded.ask(name, password) for password in (old, new, old)] == [401, 200, 401]


def test_only_the_last_but_one_password_is_still_good(guarded: Guarded) -> None:
    old = guarded.right["made"]
    new = renewed(guarded.site, "made", "READONLY")
    assert guarded.ask("made", new) == 200
    newest = renewed(guarded.site, "made", "READONLY")
    assert [guarded.ask("made", password) for password in (newest, new, old)] == [200, 200, 401]


def test_a_new_password_that_an_administrator_gives_ends_all_others(guarded: Guarded) -> None:
    new = renewed(guarded.site, "made", "READONLY")
    assert guarded.ask("made", new) == 200
    following = renewed(guarded.site, "made", "READONLY")
    with guarded.site.open() as node:
        accounts.update(node, "made", password="given at once")
    others = (following, new, guarded.right["made"])
    assert [guarded.ask("made", password) for password in ("given at once", *others)] == [200, 401, 401, 401]


def test_nothing_follows_for_an_account_that_is_not_there_or_has_another_level(guarded: Guarded) -> None:
    for name, level in (("stranger", "READONLY"), ("made", "ADMIN")):
        assert guarded.site.run(1, "create-user", "--username", name, "--auth-level", level, "--renew").out == ""
    assert guarded.ask("made", guarded.right["made"]) == 200


def test_two_first_uses_at_once_are_both_good(guarded: Guarded, later: Callable[[timedelta], None]) -> None:
    new = renewed(guarded.site, "made", "READONLY")
    assert [status_of(each) for each in [guarded.process("made", new) for _ in range(4)]] == [200] * 4
    later(timedelta(days=2))
    assert [guarded.ask("made", password) for password in (new, guarded.right["made"])] == [200, 401]


def test_a_clone_goes_on_while_both_accounts_get_new_passwords(pair: Pair, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    order = [("a", "send-clone"), ("a", "consume-queue"), ("a", "check-consumed-queue"), ("b", "recv-clone")]
    for turn in range(2 * len(order)):
        (source / f"f{turn}").write_text(f"{turn}")
        pair.a.run(0, "ingest", str(source / f"f{turn}"), f"f{turn}")
    for turn in range(2 * len(order)):
        here, there, level = [(pair.a, pair.b, "READAPPEND"), (pair.b, pair.a, "CALLBACK")][turn % 2]
        who, command = order[turn % len(order)]
        new = renewed(there, here.name, level)
        getattr(pair, who).run(0, command)  # with the old one
        here.run(0, "remove-librarian", "--name", there.name)
        words = ["--name", there.name, "--url", f"exec://{there.config}", "--authenticator", "-"]
        here.run(0, "add-librarian", *words, stdin=f"{here.name}:{new}\n")
        (source / f"late{turn}").write_text(f"late {turn}")
        pair.a.run(0, "ingest", str(source / f"late{turn}"), f"late{turn}")
        renewed(there, here.name, level)  # one that nobody ever takes up does no harm
        getattr(pair, who).run(0, command)  # with the new one
    pair.until_quiet()
    assert pair.b.stored() == pair.a.stored() and len(pair.b.stored()) == 16
    sent, came = pair.a.status(), pair.b.status()
    assert sent["outgoing"]["COMPLETED"] == came["incoming"]["COMPLETED"] == 16
    assert sent["outgoing"]["FAILED"] == came["incoming"]["FAILED"] == 0
