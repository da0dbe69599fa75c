"""The walls of the house: who may import whom. The plan is the table below; README, 'How the code is laid out', says why."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest

import libtool

TOP = Path(libtool.__file__).parent
GROUND = ("troubles", "errors", "states", "units", "digest", "names", "copying", "seams", "locks")
WINGS = ("models", "stores", "movers", "trees", "peers")
#: Libraries that only these rooms may use. ``libtool.node`` imports peewee through ``models.drivers`` alone.
OUTSIDE = {
    "peewee": ("models", "archive"),
    "playhouse": ("models",),
    "psycopg2": ("models",),
    "sqlite3": ("models",),
    "click": ("commands", "cli"),
    "rich": ("commands",),
    "requests": ("peers.http",),
    "globus_sdk": ("movers.globus",),
    "keyring": (),  # asked in a process of its own
    "msgspec": ("peers.messages", "peers.admin"),
    "yaml": ("settings", "connections"),
    "cryptography": ("node",),
    "xxhash": ("digest",),
    "smtplib": ("post",),
    "email": ("post",),
}
#: Room → the modules and rooms of libtool that it may import. A room is a prefix of the module's name; the longest
#: one that is listed counts. ``""`` is the package itself, which holds the version.
PLAN: dict[str, tuple[str, ...]] = {
    # On the ground lie words and measures; within it, only what is below.
    "": (),
    "troubles": (),
    "errors": ("troubles",),
    "states": (),
    "seams": (),
    "units": (),
    "names": ("errors",),
    "locks": ("errors",),
    "digest": ("errors",),
    "copying": ("errors", "names", "digest", "seams"),
    # Beside it, what knows the configuration and secrets.
    "parsed": (),
    "keys": GROUND,
    "settings": ("keys", "parsed", *GROUND),
    "credentials": GROUND,
    "tokens": ("credentials", *GROUND),
    "connections": ("credentials", *GROUND),
    "sshkeys": ("credentials", *GROUND),
    "post": ("keys", "credentials", *GROUND),
    # The wings do not know each other.
    "models": ("models", *GROUND),
    "stores": ("stores", *GROUND),
    "movers": ("movers", *GROUND),
    "trees": ("trees", *GROUND),
    "peers": ("peers", *GROUND),
    # But for promises: a collection is a tree, too.
    "movers.globus.tree": ("movers", "trees.base", *GROUND),
    # The archive: every rule. Of the wings it sees rows, promises and words, never a concrete store or carrier.
    "archive": (
        "archive",
        "models.base",
        "models.tables",
        "stores.base",
        "movers.base",
        "trees.base",
        "peers.messages",
        "peers.admin",
        "peers.features",
        "peers.client",
        "peers.passwords",
        *GROUND,
    ),
    # For the one decision "which of the offered carriers": the table of kinds in movers/__init__.py, no carrier.
    "archive.staging": ("archive", "models.base", "models.tables", "movers", "peers.messages", "peers.features", "peers.client", *GROUND),
    # The only one that wires.
    "node": ("settings", "keys", "credentials", "tokens", "connections", "post", *WINGS, *GROUND),
    # The peers' door.
    "endpoints": ("endpoints", "archive", "node", "peers.messages", "peers.admin", *GROUND),
    "endpoints.table": GROUND,
    # The same; it asks models.base which database errors pass, to answer "busy" rather than "internal error".
    "endpoints.router": ("endpoints.table", "archive", "node", "models.base", "peers.messages", "peers.features", "peers.passwords", *GROUND),
    # The same, and for types alone the rows that it turns into messages.
    "endpoints.search": ("endpoints", "archive", "node", "peers.messages", "peers.admin", "models.tables", *GROUND),
    # The doors of people and of the clock: archive and node, never rows, stores, carriers or peers.
    "commands": ("commands", "archive", "node", "settings", "credentials", "sshkeys", "", *GROUND),
    "commands.callback": ("endpoints", "node", "settings", *GROUND),
    "commands.callback_command": ("commands.callback", "commands.words", *GROUND),
    # It opens the desk that a command works at: this librarian's, or another's behind a connection.
    "commands.words": ("archive.desk", "archive.here", "archive.away", "connections", "node", *GROUND),
    "commands.tasks": ("commands.tasks.frame", "commands.words", "archive", "node", *GROUND),
    # The chimney. It turns a database error into an exit code and asks models.base which kind it is, and it chooses the
    # database driver before a command imports peewee.
    "cli": ("commands.words", "settings", "errors", "models.base", "models.drivers", ""),
    "__main__": ("cli", "commands.callback"),
}
#: Rooms that one would not guess from the plan, with what they must never import even so.
NEVER = {
    "archive": ("settings", "stores.posix", "movers.local", "movers.rsync", "movers.direct", "movers.globus", "trees.local", "tokens", "peers.http", "peers.exec", "peers.ssh", "peers.transports", "connections", "sshkeys"),
    "commands.tasks": ("commands.demo", "endpoints"),
}
LONGEST = 600


@dataclass(frozen=True)
class Import:
    """One module of libtool imports something."""

    who: str  #: without ``libtool.``
    what: str  #: the whole name
    line: int
    typing: bool  #: only while types are checked

    @property
    def ours(self) -> str | None:
        """Without ``libtool.``; None when it is none of ours."""
        if self.what == "libtool":
            return ""
        return self.what.removeprefix("libtool.") if self.what.startswith("libtool.") else None

    def __str__(self) -> str:
        return f"libtool/{self.who.replace('.', '/')}:{self.line} imports {self.what}"


def name_of(path: Path) -> str:
    """The module's name below ``libtool``."""
    parts = path.relative_to(TOP).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@lru_cache
def modules() -> dict[str, Path]:
    """Every module."""
    return {name_of(path): path for path in sorted(TOP.rglob("*.py"))}


@lru_cache
def tree(name: str) -> ast.Module:
    """A module, parsed."""
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


def imports(name: str, known: frozenset[str], top: ast.Module | None = None) -> Iterator[Import]:
    """Every import of a module, also those inside functions, and those of ``import_module`` with a plain name."""

    def walk(node: ast.AST, typing: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, node.lineno, typing)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: imports are written with their whole names"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = whole.removeprefix("libtool.") in known and whole.startswith("libtool.")
                yield Import(name, whole if is_module else str(node.module), node.lineno, typing)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            # Where it is no plain name, it comes from a table of kinds or of contents.
            names = [each.value for each in node.args[:1] if isinstance(each, ast.Constant)]
            yield from (Import(name, str(each), node.lineno, typing) for each in names)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from walk(child, True)
            for child in node.orelse:
                yield from walk(child, typing)
            return
        for child in ast.iter_child_nodes(node):
            yield from walk(child, typing)

    yield from walk(top if top is not None else tree(name), False)


def all_imports() -> list[Import]:
    """All imports of all modules."""
    known = frozenset(modules())
    return [found for name in modules() for found in imports(name, known)]


def within(module: str, room: str) -> bool:
    """Whether a module lies in a room; the package itself is a room of its own."""
    return module == room if room == "" else module == room or module.startswith(f"{room}.")


def room_of(module: str) -> str:
    """The room of the plan that a module lies in."""
    found = [room for room in PLAN if within(module, room)]
    assert found, f"libtool/{module.replace('.', '/')} lies in no room: give it one in PLAN, and say so in the README"
    return max(found, key=len)


def trespasses(found: list[Import]) -> list[str]:
    """What is imported against the plan."""
    wrong = []
    for each in found:
        what = each.ours
        if what is not None:
            allowed = any(within(what, room) for room in PLAN[room_of(each.who)])
            barred = any(within(each.who, room) and any(within(what, name) for name in names) for room, names in NEVER.items())
            if not allowed or barred:
                wrong.append(f"{each}, which {room_of(each.who) or 'the package'} may not")
            continue
        library = each.what.partition(".")[0]
        if library in OUTSIDE and not any(within(each.who, room) for room in OUTSIDE[library]):
            wrong.append(f"{each}, which belongs to {', '.join(OUTSIDE[library]) or 'nobody'} alone")
    return wrong


def circles(found: list[Import]) -> list[list[str]]:
    """Modules that import each other in a circle; what is imported for types alone does not count."""
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for each in found:
        if each.ours is not None and not each.typing and each.ours in graph and each.ours != each.who:
            graph[each.who].add(each.ours)
    state: dict[str, int] = {}
    path: list[str] = []
    result: list[list[str]] = []

    def visit(name: str) -> None:
        state[name] = 1
        path.append(name)
        for other in sorted(graph[name]):
            if state.get(other) == 1:
                result.append([*path[path.index(other) :], other])
            elif other not in state:
                visit(other)
        path.pop()
        state[name] = 2

    for name in graph:
        if name not in state:
            visit(name)
    return result


def test_every_module_has_a_room() -> None:
    for name in modules():
        room_of(name)


def test_nothing_is_imported_against_the_plan() -> None:
    assert trespasses(all_imports()) == []


def test_there_are_no_circles() -> None:
    assert circles(all_imports()) == []


def test_every_room_of_the_plan_is_there() -> None:
    named = {room for room in PLAN if room} | {room for rooms in PLAN.values() for room in rooms if room}
    assert sorted(room for room in named if not any(within(name, room) for name in modules())) == []


def test_ground_knows_nothing_but_ground() -> None:
    for name in GROUND:
        assert set(PLAN[name]) <= set(GROUND)


def test_no_task_imports_another_task() -> None:
    tasks = {name for name in modules() if name.startswith("commands.tasks.")} - {"commands.tasks.frame"}
    assert tasks
    assert [str(each) for each in all_imports() if each.who in tasks and each.ours in tasks - {each.who}] == []


@pytest.mark.parametrize(
    ("who", "code"),
    [
        ("archive.sending", "from libtool import settings"),
        ("archive.sending", "def f():\n    from libtool.stores.posix import PosixStore"),
        ("archive.queue", "import requests"),
        ("archive.learning", "import globus_sdk"),
        ("movers.globus.mover", "from libtool import credentials"),
        ("commands.login", "import globus_sdk"),
        ("archive.queue", "from click import echo"),
        ("stores.posix", "from libtool.models.tables import File"),
        ("models.tables", "from libtool.archive import queue"),
        ("archive.learning", "from libtool.trees.local import LocalTree"),
        ("archive.outbox", "from libtool import post"),
        ("archive.outbox", "import smtplib"),
        ("commands.status", "from libtool import post"),
        ("trees.local", "from libtool.movers import base"),
        ("movers.globus.tree", "from libtool.trees import local"),
        ("movers.globus.mover", "from libtool.trees.base import Tree"),
        ("errors", "from libtool import settings"),
        ("peers.client", "from libtool.stores import base"),
        ("commands.tasks.send_clone", "from libtool.commands.tasks import recv_clone"),
        ("commands.ingest", "from libtool.models.tables import File"),
        ("commands.ingest", "import peewee"),
        ("commands.ingest", "from importlib import import_module\nimport_module('libtool.endpoints.clone')"),
        ("endpoints.clone", "import click"),
        ("endpoints.router", "import peewee"),
        ("endpoints.clone", "from libtool.models.tables import File"),
        ("node", "import peewee"),
        ("node", "from libtool.archive import queue"),
        ("movers.local", "import typing\nif typing.TYPE_CHECKING:\n    from libtool.models import tables"),
    ],
)
def test_the_walls_hold(who: str, code: str) -> None:
    """Each of these lines would be found."""
    assert trespasses(list(imports(who, frozenset(modules()), ast.parse(code))))


def test_a_circle_would_be_found() -> None:
    more = [Import("errors", "libtool.units", 1, False), Import("units", "libtool.errors", 1, False)]
    assert circles(more) == [["errors", "units", "errors"]]
    typing = [Import("errors", "libtool.units", 1, True), Import("units", "libtool.errors", 1, False)]
    assert circles(typing) == []


def _public(body: list[ast.stmt], above: str) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_") and node.name != "Meta":
            yield f"{above}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from _public(node.body, f"{above}{node.name}.")


def test_everything_public_says_what_it_is_for() -> None:
    silent = []
    for name in modules():
        if ast.get_docstring(tree(name)) is None:
            silent.append(name)
        silent += [f"{name}: {whole}" for whole, node in _public(tree(name).body, "") if ast.get_docstring(node) is None]
    assert silent == []


def test_no_file_is_too_long() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}
