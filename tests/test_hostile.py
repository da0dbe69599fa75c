"""Ten thousand hostile requests, made from the endpoints' own description, and what they must never bring about.

Every request follows from the seed, which is printed (LIBTOOL_TEST_SEED sets another): the same seed makes the same
requests in the same order, so what fails is found again.
"""

from __future__ import annotations

import base64
import gc
import json
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest

from libtool import digest, names
from libtool.archive import accounts
from libtool.endpoints import router
from libtool.errors import NameRefused
from libtool.peers import passwords
from libtool.states import AuthLevel, Owed, TransferStatus
from tests.sites import Site, make_site
from tests.test_callback import EMPTY, basic, batch, item, make_door
from tests.test_trust import ABC, ABC_SUM

SEED = os.environ.get("LIBTOOL_TEST_SEED", "20261121")
MANY, FEW, PROCESSES = 10_000, 1_000, 100
#: What a request may be answered with; 503 is looked at more closely.
STATUSES = {200, 201, 400, 401, 404, 405, 406, 409, 413, 422, 425}
#: No request may take longer, in seconds; the slowest of some thousand usually takes a small part of it.
LONGEST = 10.0
LEVELS = {
    "a": "READAPPEND",
    "c": "READAPPEND",
    "caller": "CALLBACK",
    "reader": "READONLY",
    "writer": "READWRITE",
    "nothing": "NONE",
    "boss": "ADMIN",
    "quiet": "READAPPEND",
}
NEIGHBOURS = ("a", "c", "caller", "quiet")
#: What is brought: bytes, and what is said of them.
CONTENTS = [(b"", EMPTY), (ABC, ABC_SUM)]


# -- JSON that nobody should send ---------------------------------------------------------------------------------


class Raw(str):
    """JSON text that is written as it stands."""


class Doubled(list[tuple[str, Any]]):
    """An object whose keys may come more than once."""


def dump(value: Any) -> str:
    """JSON text, also of what json.dumps refuses."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, (dict, Doubled)):
        members = value.items() if isinstance(value, dict) else value
        return "{" + ",".join(f"{json.dumps(key)}:{dump(each)}" for key, each in members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dump, value)) + "]"
    return json.dumps(value)


ODD_NAMES = [
    *("..", ".", "", "/", "//", "../x", "../../canary", "a/../../x", "a/..", "./x", "x/.", "x//y", "x/", "/x", "//x"),
    *("/etc/passwd", "~", "~root/x", "$HOME/x", "a\\b", "..\\x", "C:\\x", "a\nb", "a\r\nb", "\t", " ", "-rf", "--help"),
    *(".libtool-store", ".libtool-part/x", "a/.libtool-nowhere", ".libtool-check", ".libtool-", "x/.libtool-y/z"),
    *("f1", "f1/x", "f1/x/y", "dir", "dir/f1/x", "dir/sub", "dir0", "dir.x", "canary", "canary/x", "a*b?"),
    *("\x00", "a\x00b", "\x7f", "\x1b[2J", "\u202e", "\ufeff", "\u2028", "\U0001f600", "é" * 127, "é" * 128, "[a]"),
    *("p" * 255, "p" * 256, "/".join(["p" * 255] * 3), "p/" + "q" * 300, "d/" * 40 + "x", "y/" * 200 + "x"),
    *("/".join(["q" * 200] * n) for n in (15, 19, 20, 21)),
]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_DEEP = [text for n in (50, 990, 5000) for text in ("[" * n + "]" * n, '{"a":' * n + "1" + "}" * n)]
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1.5, -0.0, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**30),
    *map(Raw, ("-0", "1e400", "-1e400", "1e308", "1E-400", "NaN", "Infinity", "-Infinity", "00", "+1", "0x10", "1_0")),
    *map(
        Raw, ("9" * 400, "9" * 5000, "1" + "0" * 30 + ".0", "tru", "'x'", '"\\ud800"', '"\\udc00\\ud800x"', '"\\u0000"')
    ),
    *map(Raw, ('"a\x00b"', '"a\nb"', *_DEEP)),
    *("", "x", "1", "-1", "1e3", "NaN", "null", "true", "2026-11-21", "0001-01-01T00:00:00+23:59"),
    *("9999-12-31T23:59:59-23:59", "x" * 257, "x" * 4097, "x" * 30_000, "ü" * 4096),
    *("{why}", "{0}", "%s%n", "'; DROP TABLE file; --", '"}', "<script>"),
    *([], {}, [[]], [None], [1, "1", 1.0], {"": ""}, {"a": {"b": []}}, ["x"] * 50),
]


# -- a librarian among hostile neighbours -------------------------------------------------------------------------


@dataclass(frozen=True)
class Staged:
    """A place that somebody was given."""

    who: str
    number: int
    id: int
    name: str


@dataclass
class World:
    """The librarian, what its callers know, and what is checked."""

    top: Path
    site: Site
    rng: random.Random
    passwords: dict[str, str] = field(default_factory=dict)
    closed: int = 0  #: a port of this machine where nobody listens
    open: int = 0  #: one where a neighbour listens and says what it likes
    staged: deque[Staged] = field(default_factory=lambda: deque(maxlen=60))
    outgoing: list[tuple[int, int]] = field(default_factory=list)  #: our number and theirs
    files: deque[str] = field(default_factory=lambda: deque(maxlen=60))
    lying: list[str] = field(default_factory=list)  #: names of what lies in the store and is not in the catalogue
    earlier: deque[tuple[str, Any]] = field(default_factory=lambda: deque(maxlen=50))
    cautious: bool = False  #: nothing is in between when somebody is to be called
    marked: bool = False  #: an administrator had copies marked as gone

    @property
    def store(self) -> Path:
        return self.top / "area" / "store"

    @property
    def staging(self) -> Path:
        return self.top / "area" / "staging"

    # -- one value ---------------------------------------------------------------------------------------------

    def word(self) -> str:
        """A short plain word."""
        stem = self.rng.choice(["f", "g", "h", "dir/f", "dir/g", "dir/sub/f", "x y", "ä", "n"])
        return f"{stem}{self.rng.randrange(300)}"

    def path(self) -> str:
        """A name that should not be one, or that lies in the way of others."""
        rng, dice = self.rng, self.rng.random()
        if dice < 0.003:
            return "z/" * 1900 + "x"
        if dice < 0.8:
            return rng.choice(ODD_NAMES)
        if dice < 0.9:
            below = rng.choice(["canary", "leads out", "leads out/canary", "x", "", "../canary"])
            return f"{rng.choice([self.site.directory, self.top, self.staging, self.store])}/{below}"
        if dice < 0.97:
            name = rng.choice(self.files)
            near = [f"{name}/x", f"{name}/x/y", f"{name}/", f"./{name}", f"x/../{name}", name.upper(), f"{name} "]
            return rng.choice([*near, f"{name}.x", name.rpartition("/")[0]])
        return "/".join("".join(rng.choices(LETTERS, k=180)) for _ in range(rng.choice([10, 16])))

    def hostile(self) -> Any:
        """A value that hardly any field expects."""
        return self.path() if self.rng.random() < 0.1 else deepcopy(self.rng.choice(ODD_VALUES))

    def number(self) -> int:
        """A number of some transfer, ours or theirs."""
        rng = self.rng
        known = [each.id for each in self.staged] + [each.number for each in self.staged]
        known += [number for pair in rng.sample(self.outgoing, 4) for number in pair]
        return rng.choice([*known[-30:], rng.randrange(200), -1])

    def fitting(self, name: str, kind: Any, caller: str) -> Any:
        """A value that a field expects: by its name as far as that says something, else by its type."""
        rng = self.rng
        file = rng.choice([self.word, lambda: rng.choice(self.files) if self.files else "f1"])
        by_name: dict[str, Callable[[], Any]] = {
            "librarian_name": lambda: rng.choice([caller, caller, *NEIGHBOURS, f"new{rng.randrange(5)}"]),
            "destination_librarian": lambda: rng.choice(["", *NEIGHBOURS]),
            "source": lambda: caller if rng.random() < 0.9 else rng.choice(["", "quiet", "stranger"]),
            "username": lambda: rng.choice([f"user{rng.randrange(6)}"] * 9 + ["writer"]),
            "store_name": lambda: "main",
            "password": lambda: self.passwords.get(caller, "wrong password"),
            "new_password": lambda: f"new password {rng.randrange(10)}",
            "authenticator": lambda: "b:password",
            "url": self.url,
            "port": lambda: 0,
            "ping": lambda: rng.random() < 0.1,
            "check_connection": lambda: rng.random() < 0.2,
            "disable_store": lambda: rng.random() < 0.05,
            "mark_local_instances_as_unavailable": lambda: rng.random() < 0.05,
            "enabled": lambda: rng.random() < 0.8,
            "deletion_policy": lambda: rng.choice(["0", "1", "allowed", "DISALLOWED"]),
            "create_time_window": lambda: rng.choice([["0001-01-01", "9999-12-31"], ["2026-11-21T07:35", 4e9], [0, 1]]),
            "created_time": lambda: rng.choice(["2026-11-21T07:35:32.134333", 1e9]),
            "copy_time": lambda: rng.choice(["2026-11-21T07:35:32Z", 1e9]),
            "max_results": lambda: rng.choice([1, 64, 10**6]),
            "limit": lambda: rng.choice([1, 1000]),
            "total_size": lambda: 0,
            "reason": lambda: "disk broke",
            "checksum": lambda: rng.choice([EMPTY, ABC_SUM]),
        }
        if name in by_name:
            return by_name[name]()
        if name == "file_name" and rng.random() < 0.5:
            return f"sent{rng.randrange(40)}"
        if name.endswith(("transfer_id", "transfer_ids")) or name in ("id", "after"):
            return [self.number() for _ in range(rng.randrange(4))] if name.endswith("ids") else self.number()
        if name.endswith(("name", "names", "location", "path")):
            return [file() for _ in range(rng.randrange(4))] if name.endswith("names") else file()
        return self.by_type(kind, caller)

    def url(self) -> str:
        """Where a librarian might be, or might not."""
        rng, here = self.rng, f"127.0.0.1:{self.closed}"
        if self.cautious or rng.random() < 0.6:
            return f"http://{rng.choice([here, here, f'127.0.0.1:{self.open}'])}"
        odd = [
            *(
                f"http://{here}/x?y",
                f"http://u:p@{here}",
                f"HTTP://{here}/",
                f"http://{here}/\r\nX: y",
                f"https://{here}/%00",
            ),
            *(f"https://{'x' * 70}.example", "https://a..b", "https://.", "http://[::1", "http://127.0.0.1:99999"),
            *("https://[fe80::1%25lo]:1", "https://\u0661.example", "https://%00", f"https://{here}#x", "https://:1"),
            *("exec:///etc/passwd", "ssh://-oProxyCommand=x@h", "file:///etc/passwd", "//127.0.0.1", "https://h:"),
            *("https://host.invalid/" + "x" * 4000, "https://host.invalid", "http://host.invalid"),
        ]
        return rng.choice(odd)

    def by_type(self, kind: Any, caller: str) -> Any:
        """A value of a type as the message describes it."""
        of, rng = msgspec.inspect, self.rng
        if isinstance(kind, of.UnionType):
            return self.by_type(rng.choice(kind.types), caller)
        if isinstance(kind, of.StructType):
            return self.message(kind, caller)
        if isinstance(kind, of.ListType):
            return [self.by_type(kind.item_type, caller) for _ in range(rng.randrange(5))]
        if isinstance(kind, of.EnumType):
            return rng.choice([int(member) for member in kind.cls])
        if isinstance(kind, of.IntType):
            edges = [each for each in (kind.ge, kind.le) if each is not None]
            return rng.choice([0, 1, 2, 3, *edges])
        if isinstance(kind, of.StrType):
            return self.word()
        if isinstance(kind, of.BoolType):
            return rng.random() < 0.5
        if isinstance(kind, of.FloatType):
            return rng.random() * 1e9
        return None

    # -- one message -------------------------------------------------------------------------------------------

    def message(self, kind: Any, caller: str) -> dict[str, Any]:
        """A message that is well-formed and makes sense, field by field from its description."""
        rng = self.rng
        said: dict[str, Any] = {}
        for each in kind.fields:
            if each.required or rng.random() < 0.7:
                said[each.encode_name] = self.fitting(each.encode_name, each.type, caller)
        if "upload_size" in said:
            content, checksum = rng.choice(CONTENTS)
            said |= {"upload_size": len(content), "upload_checksum": checksum}
            said["upload_name"] = said["destination_location"]
            said["source_transfer_id"] = rng.randrange(10_000)
        if "destination_transfer_id" in said and rng.random() < 0.7:
            mine = [(each.number, each.id) for each in self.staged if each.who == caller][-10:]
            pair = rng.choice([*mine, *rng.sample(self.outgoing, 3)])
            said["source_transfer_id"], said["destination_transfer_id"] = pair
        if "transfer_id" in said and rng.random() < 0.8:
            mine = [(each.number, each.id) for each in self.staged if each.who == caller and each.number < 0]
            said["transfer_id"] = rng.choice(mine or [(0, 1)])[1]
        if "size" in said and "path" in said and self.lying and rng.random() < 0.8:
            name = self.lying.pop(0) if rng.random() < 0.3 else rng.choice(self.lying)
            said |= {"name": name, "path": str(self.store / name), "size": 3, "checksum": ABC_SUM}
        return said

    def spoil(self, said: dict[str, Any]) -> Any:
        """The message with something wrong in it."""
        rng = self.rng
        where: Any = said
        while True:  # down to where it is to be spoiled
            members = [each for value in where.values() for each in (value if isinstance(value, list) else [value])]
            inner = [each for each in members if isinstance(each, dict)]
            if not inner or rng.random() < 0.3:
                break
            where = rng.choice(inner)
        keys = list(where)
        how = rng.randrange(10)
        if not keys or how == 0:
            where[rng.choice(["more", "", "__class__", "detail", "a\x00b"])] = self.hostile()
        elif how == 1:
            del where[rng.choice(keys)]
        elif how == 2 and where is said:
            return Doubled([*said.items(), (rng.choice(keys), self.hostile()), *list(said.items())[:2]])
        elif how == 3:
            key = rng.choice(keys)
            old = where[key]
            where[key] = rng.choice([[old], {"x": old}, str(old), [old] * rng.choice([2, 60])])
        elif how <= 6:
            texts = [key for key in keys if isinstance(where[key], str)]
            lists = [key for key in keys if isinstance(where[key], list) and [*map(type, where[key][:1])] == [str]]
            for key in texts or keys:
                if rng.random() < 0.6:
                    where[key] = self.path()
            for key in lists:
                where[key] = [self.path() for _ in where[key]]
            if "upload_name" in where and rng.random() < 0.7:
                where["upload_name"] = where.get("destination_location")
        else:
            where[rng.choice(keys)] = self.hostile()
        return said if rng.random() < 0.7 else self.spoil(said)

    def body(self, endpoint: str, caller: str) -> bytes:
        """What is sent to an endpoint."""
        rng = self.rng
        kind = kind_of(endpoint)
        said: Any = self.message(kind, caller) if kind is not None else {}
        if rng.random() < 0.08 and self.earlier:
            return rng.choice(self.earlier)[1]
        if rng.random() < 0.45:
            said = self.spoil(said)
        text = dump(said)
        if rng.random() < 0.9:
            return text.encode("utf-8", "surrogatepass")
        raw = text.encode("utf-8", "surrogatepass")
        at = rng.randrange(len(raw) + 1)
        return rng.choice(
            [
                lambda: text.encode("utf-16", "surrogatepass"),
                lambda: b"\xef\xbb\xbf" + raw,
                lambda: text.encode("latin-1", "replace"),
                lambda: raw[:at],
                lambda: raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :],
                lambda: raw + raw,
                lambda: b"\x00" + raw,
                lambda: b"",
                lambda: rng.randbytes(rng.choice([1, 30, 3000])),
                lambda: b" " * rng.choice([10, 70_000]) + raw,
                lambda: dump(self.hostile()).encode("utf-8", "surrogatepass"),
                lambda: b"uploads=1&source=a",
            ]
        )()

    # -- one request -------------------------------------------------------------------------------------------

    def request(self) -> tuple[router.Request, str, str]:
        """The next request, with its endpoint and the caller's name."""
        rng = self.rng
        endpoint = rng.choices(ENDPOINTS, WEIGHTS)[0]
        level = router.ENDPOINTS[endpoint].level
        able = [name for name in self.passwords if name != "quiet" and AuthLevel[LEVELS[name]] >= level] or ["boss"]
        caller = rng.choice(able if rng.random() < 0.85 else [name for name in LEVELS if name != "quiet"])
        if level <= AuthLevel.READAPPEND and caller == "boss" and rng.random() < 0.7:
            caller = rng.choice(["a", "c"])
        body = self.body(endpoint, caller)
        header, key = basic(caller, self.passwords.get(caller, "")), None
        dice = rng.random()
        if dice < 0.2:
            header, key = None, caller
        elif dice < 0.25:
            garbled = [
                "",
                "Basic",
                "Basic ",
                "Basic é",
                "Bearer x",
                "Basic " + "A" * 30_000,
                "Basic \udcff",
                "Basic AAA",
            ]
            header = rng.choice([None, *garbled, "Basic " + base64.b64encode(rng.randbytes(9)).decode()])
            header = None if header is not None and b":" in _plain(header) else header
        elif dice < 0.255:
            header = basic(rng.choice(["stranger", "boss", "a'--", "x" * 5000, "ü", ""]), "wrong password")
        elif dice < 0.26:
            header, key = None, rng.choice(["stranger", "", "boss\n", "x" * 5000])
        method, path = "POST", f"/api/v2/{endpoint}"
        if rng.random() < 0.03:
            method = rng.choice(["GET", "PUT", "", "post", "POST ", "x" * 5000, "\udcff", "OPTIONS"])
        if rng.random() < 0.03:
            path = rng.choice(
                [
                    *(f"{path}/", f"/cgi/x.cgi{path}", f"{path}//", f"{path}/../ping", f"{path}?x=1", f"{path}%00"),
                    *(
                        "/api/v2/" * 200,
                        path.upper(),
                        "/api/v1/ping",
                        "",
                        "\udcff/api/v2/ping",
                        f"/api/v2/{'x' * 9000}",
                    ),
                    f"{path}\n",
                    f"/api/v2/{self.path()}",
                ]
            )
        return router.Request(method, path, header, body, known_as=key, address="127.0.0.1"), endpoint, caller

    def learn(self, asked: router.Request, endpoint: str, caller: str, said: router.Response) -> None:
        """What a caller knows after an answer; what it was given a place for, it brings."""
        self.earlier.append((endpoint, asked.body))
        if said.status not in (200, 201) or asked.method != "POST" or router.endpoint_of(asked.path) != endpoint:
            return
        who = asked.known_as or _plain(asked.authorization).partition(b":")[0].decode("utf-8", "replace")
        found = json.loads(said.body) if said.body else {}
        if endpoint == "users/password_update":
            self.passwords[who] = json.loads(asked.body)["new_password"]
        elif endpoint == "admin/stores/manifest":
            self.marked = True
        places = found.get("uploads", []) if "uploads" in found else [found] if "staging_location" in found else []
        for place in places:
            id = place.get("transfer_id") or place.get("destination_transfer_id")
            number = place.get("source_transfer_id", -1)
            self.staged.append(Staged(who, number, id, place["destination_location"]))
            self.files.append(place["destination_location"])
            self.bring(Path(place["staging_location"]))

    def bring(self, place: Path) -> None:
        """Put something into a staging place, as a carrier would, or as somebody would who can write there."""
        rng = self.rng
        dice, content = rng.random(), rng.choice(CONTENTS)[0]
        mine = place.parents[len(place.relative_to(self.staging).parts) - 2]  # the directory of its staging id
        with suppress(OSError):
            if os.path.realpath(place.parent) != str(place.parent):
                return
            if dice < 0.75:
                with open(place, "xb") as stream:
                    stream.write(content)
            elif dice < 0.8:
                place.symlink_to(self.top / "canary")
            elif dice < 0.84:
                os.mkfifo(place)
            elif dice < 0.88:
                place.mkdir()
                (place / "inside").write_bytes(content)
            elif dice < 0.91:
                place.mkdir()
                (place / "link").symlink_to(self.top / "outside")
            elif dice < 0.94 and place.parent.parent.parent == self.staging:
                place.parent.rmdir()
                place.parent.symlink_to(self.top / "outside")
            elif dice < 0.96 and mine.parent == self.staging:
                subprocess.run(["rm", "-rf", str(mine)], check=True)
                mine.symlink_to(self.top / "outside")


def _plain(header: str | None) -> bytes:
    """What stands in an Authorization header, as far as anything does."""
    try:
        return base64.b64decode((header or "")[6:].strip(), validate=True)
    except ValueError:
        return b""


@lru_cache(None)
def kind_of(endpoint: str) -> Any:
    """The description of an endpoint's message; None where it has none."""
    named = router.ENDPOINTS[endpoint].message
    if named is None:
        return None
    room, _, name = named.rpartition(".")
    return msgspec.inspect.type_info(getattr(import_module(f"libtool.peers.{room or 'messages'}"), name))


ENDPOINTS = list(router.ENDPOINTS)
#: What builds up state comes more often; what asks a neighbour, or hides the only store, comes seldom.
WEIGHTS = [
    {
        "clone/stage": 5,
        "clone/batch_stage": 6,
        "libtool/clone/batch_stage": 6,
        "upload/stage": 6,
        "upload/commit": 8,
        "checkin/update": 4,
        "libtool/clone/staged": 3,
        "admin/stores/state_change": 0.3,
        "admin/librarians/list": 0.5,
        "admin/librarians/add": 0.5,
        "libtool/ping/back": 0.3,
        "users/password_update": 0.5,
        "users/create": 0.7,
        "users/update": 0.7,
        "corrupt/prepare": 0.7,
        "corrupt/resend": 0.7,
    }.get(endpoint, 1.5)
    for endpoint in ENDPOINTS
]


# -- a neighbour that listens -------------------------------------------------------------------------------------


@contextmanager
def listening(rng: random.Random) -> Iterator[int]:
    """A neighbour that gives a sign of life and says nonsense to all else; yields its port."""
    sane = json.dumps({"name": "x", "description": "y"}).encode()
    place = {"staging_location": "/etc/cron.d/x", "source_transfer_id": 1, "destination_transfer_id": 2}
    staged = {"uploads": [place, place | {"staging_location": "../x"}]}
    staged |= {"async_transfer_providers": {"local": {"hostnames": []}}}
    nonsense = [
        (200, b"{}"),
        (201, json.dumps(staged).encode()),
        (500, b"<html>"),
        (404, b'{"detail": [1]}'),
        (401, b'{"detail": {"reason": 5}}'),
        (409, b'{"detail": "{\\"reason\\": \\"a\\\\nb\\"}"}'),
        (200, b"[" * 5000),
        (200, b'{"uploads": [], "async_transfer_providers": null}'),
        (302, b""),
        (204, b""),
        (200, b"\xff"),
    ]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, body = (200, sane) if self.path.endswith("ping/logged") else rng.choice(nonsense)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Libtool-Features", rng.choice(["", "clone-batch", "x" * 3000, "\x7f"]))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# -- what is watched ----------------------------------------------------------------------------------------------

#: Which arguments of the interpreter's audit events are paths.
_PATHS = {
    "open": (0,),
    "os.listdir": (0,),
    "os.scandir": (0,),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.rename": (0, 1),
    "os.link": (0, 1),
    "os.symlink": (1,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.truncate": (0,),
    "os.utime": (0,),
    "os.setxattr": (0,),
}
#: Where a link at the path's end is followed.
_FOLLOWED = ("os.listdir", "os.scandir", "os.chmod", "os.chown", "os.truncate", "os.utime")
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork")


#: What any Python program reads.
_SYSTEM = (
    sys.prefix,
    sys.base_prefix,
    os.path.dirname(names.__file__),
    "/usr/",
    "/lib",
    "/proc/",
    "/dev/",
    "/etc/ssl/",
)
_SYSTEM += ("/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/host.conf")


@dataclass
class Watch:
    """What this process does with files, processes and the network, while it is switched on."""

    inside: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    on: bool = False
    deeds: list[str] = field(default_factory=list)  #: what should not have been done
    looking: Any = field(default_factory=threading.local)  #: the watch's own deeds do not count

    def event(self, name: str, args: tuple[Any, ...]) -> None:
        """Called by the interpreter."""
        if not self.on or getattr(self.looking, "now", False):
            return
        if name in _PATHS:
            for n in _PATHS[name]:
                if isinstance(args[n], (str, bytes)):
                    self.look(name, os.fsdecode(args[n]), args)
        elif name in _STARTS:
            self.deeds.append(f"{name} {args!r:.200}")
        elif name == "socket.connect" and args[1] not in [("127.0.0.1", port) for port in self.ports]:
            self.deeds.append(f"{name} {args[1]!r:.200}")
            raise ConnectionRefusedError(111, "Connection refused")
        elif name == "socket.getaddrinfo" and args[0] not in ("127.0.0.1", "localhost", None):
            raise socket.gaierror(-2, "Name or service not known")

    def real(self, path: str) -> str | None:
        """Where a path leads. The kernel knows it faster than os.path.realpath, which asks for every level anew."""
        self.looking.now = True
        try:
            descriptor = os.open(path, os.O_PATH)
            try:
                return os.readlink(f"/proc/self/fd/{descriptor}")
            finally:
                os.close(descriptor)
        except OSError:
            return None
        finally:
            self.looking.now = False

    def look(self, name: str, path: str, args: tuple[Any, ...]) -> None:
        """Whether a path lies where it may."""
        if not path.startswith("/"):  # below a directory that is open; for "open" it is not told which
            if name == "open" or args[-1] < 0:
                return
            path = os.path.join(os.readlink(f"/proc/self/fd/{args[-1]}"), path)
        writes = name not in ("open", "os.listdir", "os.scandir")
        followed = name in _FOLLOWED
        if name == "open":
            flags = args[2] if isinstance(args[2], int) else 0
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            followed = not flags & os.O_NOFOLLOW
        real = self.real(path) if followed and os.path.exists(path) else None
        if real is None:
            directory = self.real(os.path.dirname(path))
            if directory is None:
                return  # it cannot succeed
            real = os.path.join(directory, os.path.basename(path))
        own = any(real == top or real.startswith(f"{top}/") for top in self.inside)
        if not own and (writes or not real.startswith(_SYSTEM)):
            self.deeds.append(f"{name} {path!r:.300} ({'write' if writes else 'read'})")


WATCH = Watch()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written to a relative path lands where it is seen; and chosen passwords cost nothing to check."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(passwords, "_SCRYPT", {"n": 2, "r": 1, "p": 1})


@pytest.fixture(scope="module", autouse=True)
def _watching() -> None:
    """From here on the interpreter tells; it cannot be asked to stop, so the watch is switched off in between."""
    sys.addaudithook(WATCH.event)


@contextmanager
def watched() -> Iterator[None]:
    """The code under test runs."""
    WATCH.on = True
    try:
        yield
    finally:
        WATCH.on = False


def snapshot(top: Path) -> dict[str, Any]:
    """Every path below a directory: its kind and mode, and the content of files."""
    found: dict[str, Any] = {}
    todo = [str(top)]
    while todo:  # some lie deeper than Python lets a function call itself
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                mode = oct(entry.stat(follow_symlinks=False).st_mode)
                if entry.is_symlink():
                    found[entry.path] = (mode, os.readlink(entry.path))
                elif entry.is_dir():
                    found[entry.path] = (mode,)
                    todo.append(entry.path)
                else:
                    found[entry.path] = (mode, Path(entry.path).read_bytes() if entry.is_file() else b"")
    return found


@contextmanager
def hostile_world(top: Path, seed: str, database: str | None = None, **store: Any) -> Iterator[World]:
    """A librarian b with neighbours, accounts, files and transfers both ways, among files that nobody may touch."""
    for place in (top / "area", top / "outside" / "below"):
        place.mkdir(parents=True)
    for place in (top, top / "area", top / "outside", top / "outside" / "below"):
        (place / "canary").write_text("untouched")
    site = make_site("b", top / "site", database)
    data = {"staging_path": "../area/staging", "store_path": "../area/store", **store}
    stores = [site.settings["add_stores"][0] | {"store_data": data}]
    for old in ("staging", "store"):
        (site.directory / old / ".libtool-store").unlink()
        (site.directory / old).rmdir()
    site.write(add_stores=stores, max_batch_items=50)
    site.run(0, "setup", "--accept-store", "main")
    rng = random.Random(seed)
    world = World(top, site, rng)
    with listening(random.Random(f"{seed} neighbour")) as port, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        world.open, world.closed = port, closed.getsockname()[1]
        _populate(world)
        (world.store / "canary").write_text("untouched")
        (world.staging / "canary").write_text("untouched")
        (world.store / "leads out").symlink_to(top / "outside")
        WATCH.inside = tuple(map(os.path.realpath, (world.store, world.staging, site.directory)))
        WATCH.ports = (world.open, world.closed)
        WATCH.deeds.clear()
        try:
            yield world
        finally:  # deeper than what cleans up behind the tests can go
            subprocess.run(["rm", "-rf", str(top)], check=True)


def _populate(world: World) -> None:
    """Accounts, neighbours, stored files, and transfers to and from each neighbour."""
    from libtool.models.tables import File, IncomingTransfer, Librarian, OutgoingTransfer, RemoteInstance

    source = world.top / "source"
    source.mkdir()
    for n in range(40):
        (source / f"sent{n}").write_bytes(CONTENTS[n % 2][0])
    world.site.run(0, "ingest", "--recursive", str(source))
    world.files.extend(f"sent{n}" for n in range(40))
    (world.store / "lying").mkdir()
    for n in range(30):
        (world.store / "lying" / str(n)).write_bytes(ABC)
    world.lying = [f"lying/{n}" for n in range(30)]
    with world.site.open() as node:
        for name, level in LEVELS.items():
            world.passwords[name] = accounts.create(node, name, AuthLevel[level], None) or ""
        for name in NEIGHBOURS:
            url = f"http://127.0.0.1:{world.open if name in ('a', 'quiet') else world.closed}"
            row = Librarian.create(name=name, url=url, authenticator=node.conceal("b:password"))
            now, ours = node.now(), {"owed": Owed.NOTHING, "store": 1, "create_time": node.now()}
            for n, file in enumerate(File.select().order_by(File.id)):
                if n % 4 == 0:
                    RemoteInstance.create(file=file, librarian=row, store_id=1, copy_time=now)
                else:
                    status, remote = TransferStatus(n % 3), 1000 + n
                    sent = OutgoingTransfer.create(file=file, destination=row, status=status, remote_id=remote, **ours)
                    if name != "quiet":
                        world.outgoing.append((sent.id, remote))
            for n in range(3):
                what = {"name": f"from/{name}/{n}", "size": 3, "checksum": ABC_SUM, "uploader": "x", "source": name}
                what |= {"source_transfer_id": n - 1, "staging_id": os.urandom(16).hex()}
                came = IncomingTransfer.create(status=TransferStatus.INITIATED, **what, **ours)
                if name != "quiet":
                    world.staged.append(Staged(name, n - 1, came.id, came.name))


# -- what must hold -----------------------------------------------------------------------------------------------


def check_answer(said: router.Response, endpoint: str | None, err: str) -> None:
    """Holds for every answer: a known status, JSON, flat errors on one line, no inside shown."""
    assert said.status in STATUSES or said.status == 503, said
    assert "internal error" not in err and "Traceback" not in err, err
    assert all(line.startswith("libtool-callback: ") and line.isprintable() for line in err.splitlines()), err
    if not said.body:
        assert (said.status, endpoint) == (200, "upload/commit"), said
        return
    found = json.loads(said.body, parse_constant=_no_constant)
    if said.status >= 400:
        assert isinstance(found, dict) and "detail" not in found, said
        for key in ("reason", "suggested_remedy"):
            assert isinstance(found[key], str) and found[key] and found[key].isprintable(), said
        assert "Traceback" not in found["reason"]


def _no_constant(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


def check_catalogue(world: World) -> Counter[str]:
    """The rows agree with each other and with what lies on the disk; returns how much there is."""
    from libtool.archive import places
    from libtool.models.base import current, is_sqlite
    from libtool.models.tables import File, IncomingTransfer, Instance, live

    with world.site.open() as node:
        if is_sqlite(current()):
            assert current().execute_sql("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert current().execute_sql("PRAGMA foreign_key_check").fetchall() == []
        room = places.name_room(node)
        files = [name for (name,) in File.select(File.name).tuples()]
        under_way = IncomingTransfer.select(IncomingTransfer.name).where(live(IncomingTransfer))
        coming = [name for (name,) in under_way.tuples()]
        assert len(coming) == len(set(coming)) and len(files) == len(set(files))
        for (name,) in IncomingTransfer.select(IncomingTransfer.name).tuples():
            names.check(name, room)
        for name in files:
            names.check(name, room)
        taken = set(files) | set(coming)
        nested = {name: up for name in taken for up in names.above(name) if up in taken}
        assert not nested
        for copy in Instance.select(Instance, File).join(File):
            path = world.store / copy.file.name
            assert copy.available or world.marked
            if copy.available:
                assert digest.size_of(str(path)) == copy.file.size
                assert digest.of_path(str(path), digest.split(copy.file.checksum)[0]) == copy.file.checksum
        return Counter(files=len(files), live=len(coming), incoming=IncomingTransfer.select().count())


def check_ground(world: World, before: dict[str, Any]) -> None:
    """Nothing outside of staging area and store was touched; in the store appeared only what the catalogue knows."""
    after = snapshot(world.top.parent)
    own = tuple(str(world.site.directory / name) for name in (".config.yaml.parsed", "catalogue.db", "run"))
    for path in sorted(before.keys() | after.keys()):
        if path.startswith(own) or before.get(path) == after.get(path):
            continue
        known = path in before
        if path.startswith(f"{world.staging}/"):
            assert not known or "canary" not in path, path
            assert known or path[len(str(world.staging)) + 1 :][:32].isalnum(), path
            continue
        assert path.startswith(f"{world.store}/") and not known, (path, before.get(path), after.get(path))
    with world.site.open():
        from libtool.models.tables import File

        files = {name for (name,) in File.select(File.name).tuples()}
    ours = (
        files | {up for name in files for up in names.above(name)} | {"canary", "leads out", "lying", ".libtool-part"}
    )
    for path in after.keys() - before.keys():
        if path.startswith(f"{world.store}/"):
            name = path[len(str(world.store)) + 1 :]
            inside = any(up in files for up in names.above(name))  # of a directory that is taken as one file
            assert name in ours or inside or name.startswith((".libtool-", "lying/")), path


def of_quiet() -> Any:
    """Everything that belongs to the neighbour that never says anything."""
    from libtool.models.base import current

    found = []
    quiet = "(SELECT id FROM librarian WHERE name = 'quiet')"
    for sql in (
        "SELECT * FROM incoming_transfer WHERE source = 'quiet' AND name LIKE 'from/quiet/%' ORDER BY id",
        f"SELECT * FROM outgoing_transfer WHERE destination_id = {quiet} ORDER BY id",
        f"SELECT * FROM remote_instance WHERE librarian_id = {quiet} ORDER BY id",
        "SELECT * FROM librarian WHERE name = 'quiet'",
        """SELECT * FROM "user" WHERE username = 'quiet'""",
    ):
        found.append(current().execute_sql(sql.replace("%'", "%%'") if current().param == "%s" else sql).fetchall())
    return found


def resident() -> int:
    """Bytes of memory that this process has now; 0 where that is not told."""
    gc.collect()
    if not os.path.exists("/proc/self/statm"):
        return 0
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def knock(world: World, count: int) -> None:
    """So many requests through the router, each looked at; recv-clone runs in between, as it would."""
    from libtool.models.tables import Store, User

    statuses: Counter[int] = Counter()
    slowest: list[tuple[float, str]] = []
    wrong: list[str] = []
    memory = 0
    with world.site.open() as node:
        quiet = of_quiet()
        for n in range(count):
            asked, endpoint, caller = world.request()
            err = StringIO()
            begin = time.monotonic()
            with redirect_stderr(err), watched():
                said = router.answer(node, asked)
            took = time.monotonic() - begin
            what = f"seed {SEED}, request {n}: {endpoint} by {caller}: {asked!r:.3000}"
            slowest = sorted([*slowest, (took, what[:200])], reverse=True)[:3]
            statuses[said.status] += 1
            try:
                check_answer(said, router.endpoint_of(asked.path), err.getvalue())
                assert WATCH.deeds == []
                assert took < LONGEST
                # An administrator may have switched the only store off: then everything waits, and the answer says so.
                assert said.status != 503 or not Store.select().where(Store.enabled).exists(), said
                if caller == "boss":
                    quiet = of_quiet()
                assert of_quiet() == quiet
            except AssertionError as trouble:
                wrong.append(f"{what}\n{said}\n{err.getvalue()}\n{WATCH.deeds}\n{trouble}"[:6000])
                WATCH.deeds.clear()
                quiet = of_quiet()
            world.learn(asked, endpoint, caller, said)
            if n % 50 == 49:  # the store is on again, and who was deleted has come back
                Store.update(enabled=True).execute()
                for name, level in LEVELS.items():
                    if User.get_or_none(User.username == name) is None:
                        world.passwords[name] = accounts.create(node, name, AuthLevel[level], None) or ""
                    else:
                        User.update(auth_level=AuthLevel[level]).where(User.username == name).execute()
                if world.passwords["writer"] and not accounts.authenticate(node, ("writer", world.passwords["writer"])):
                    accounts.update(node, "writer", password="given again")
                    world.passwords["writer"] = "given again"
                quiet = of_quiet()
            if n % (count // 8) == count // 8 - 1:
                with watched():
                    ran = world.site.run(None, "recv-clone")
                assert ran.code in (0, 3, 4) and WATCH.deeds == [], (ran, WATCH.deeds)
                assert (ran.out + ran.err).replace("\n", "").isprintable(), ran
                quiet = of_quiet()
            if n == count // 4:
                memory = resident()
    assert not wrong, f"{len(wrong)} answers are wrong, such as these:\n" + "\n\n".join(wrong[:5])
    grown = (resident() - memory) / 1e6
    print(f"\nseed {SEED}: {count} requests, {dict(sorted(statuses.items()))}, memory grew by {grown:.1f} MB")
    for took, what in slowest:
        print(f"  {took:.3f} s  {what}")
    assert grown < 60
    assert statuses[200] + statuses[201] > count / 5 and statuses[401] > count / 50, statuses


def test_ten_thousand_hostile_requests(tmp_path: Path) -> None:
    with hostile_world(tmp_path / "world", SEED) as world:
        before = snapshot(world.top.parent)
        knock(world, MANY)
        found = check_catalogue(world)
        check_ground(world, before)
        print(f"  {dict(found)}")
        assert found["files"] > 100 and found["incoming"] > 500  # the requests did get somewhere


def test_a_tenth_of_them_on_postgresql(tmp_path: Path, postgres: Callable[[str], str]) -> None:
    # Here what comes in is copied, as where staging area and store are different file systems.
    with hostile_world(tmp_path / "world", f"{SEED} postgresql", postgres("hostile"), own_after_commit=True) as world:
        before = snapshot(world.top.parent)
        knock(world, FEW)
        found = check_catalogue(world)
        check_ground(world, before)
        print(f"  {dict(found)}")
        assert found["incoming"] > 50


# -- the same through real processes ------------------------------------------------------------------------------

#: Kilobytes of address space that one process may have.
SPACE = 800_000


def as_process(world: World, asked: router.Request, rng: random.Random) -> tuple[router.Response, str, float]:
    """One request as a web server or sshd would hand it over, sometimes wrongly."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HTTP_", "LIBTOOL_"))}
    environment["LIBTOOL_CONFIG"] = world.site.config
    words, body = ["callback"], asked.body
    length = str(len(body))
    if rng.random() < 0.1:
        length = rng.choice(["", "-1", "abc", "9" * 30, str(len(body) + 5), str(len(body) // 2), "0", " 5", "1e3"])
    if asked.known_as is not None:
        words += ["--as", asked.known_as]
        environment["SSH_ORIGINAL_COMMAND"] = f"libtool-callback {asked.method} {asked.path} {length}"
    else:
        environment |= {"GATEWAY_INTERFACE": "CGI/1.1", "REQUEST_METHOD": asked.method, "PATH_INFO": asked.path}
        environment |= {"SCRIPT_NAME": rng.choice(["", "/cgi-bin/x"]), "CONTENT_LENGTH": length}
        environment |= {
            "CONTENT_TYPE": rng.choice(["application/json", "", "text/plain", "multipart/form-data", "\udcff"])
        }
        environment["HTTP_PROXY"] = "http://x.invalid"
        if rng.random() < 0.1:
            environment["QUERY_STRING"] = rng.choice(["--config+/etc/passwd", "x=1", "%00"])
        if rng.random() < 0.05:
            environment["HTTP_TRANSFER_ENCODING"] = "chunked"
        if asked.authorization is not None:
            environment["HTTP_AUTHORIZATION"] = asked.authorization
    return run_callback(words, environment, body)


def run_callback(words: list[str], environment: dict[str, str], body: bytes) -> tuple[router.Response, str, float]:
    """One process with limited memory: its answer, what it wrote into the log, and how long it took."""
    command = ["sh", "-c", f'ulimit -v {SPACE}; exec "$@"', "sh", sys.executable, "-m", "libtool", *words]
    begin = time.monotonic()
    done = subprocess.run(command, input=body, capture_output=True, env=environment, timeout=60, check=False)
    took = time.monotonic() - begin
    err = done.stderr.decode("utf-8", "replace")
    if "--as" in words and done.returncode == 64 and not done.stdout:  # no request of a librarian
        return router.Response(404, json.dumps({"reason": "x", "suggested_remedy": "x"}).encode()), err, took
    head, blank, said = done.stdout.partition(b"\r\n\r\n")
    assert blank and done.returncode == 0, (done, words)
    headers = dict(line.split(": ", 1) for line in head.decode("ascii").split("\r\n"))
    assert int(headers["Content-Length"]) == len(said) and ("Content-Type" in headers) == bool(said)
    return router.Response(int(headers["Status"].split()[0]), said, headers), err, took


def test_hostile_requests_through_real_processes(tmp_path: Path) -> None:
    with hostile_world(tmp_path / "world", f"{SEED} processes") as world:
        world.cautious = True
        before = snapshot(world.top.parent)
        knock(world, FEW // 4)
        asked = []
        guesses = 0
        while len(asked) < PROCESSES:
            request, endpoint, caller = world.request()
            words = (request.method, request.path, request.authorization or "", request.known_as or "")
            # No environment holds NUL, no web server a header of megabytes; and a wrong guess takes a second.
            if endpoint in ("users/password_update", "users/delete"):  # who asks later would guess
                continue
            if any("\0" in word or len(word) > 60_000 for word in words) or request.known_as == "":
                continue
            account = _plain(request.authorization)
            if b":" in account and account not in {f"{name}:{word}".encode() for name, word in world.passwords.items()}:
                guesses += 1
                if guesses > 2:
                    continue
            asked.append((request, endpoint, caller, random.Random(f"{SEED} {len(asked)}")))
        with ThreadPoolExecutor(2) as pool:
            running = [pool.submit(as_process, world, request, rng) for request, _, _, rng in asked]
        statuses: Counter[int] = Counter()
        slowest: list[tuple[float, str]] = []
        wrong: list[str] = []
        for n, (request, endpoint, caller, _) in enumerate(asked):
            said, err, took = running[n].result()
            what = f"seed {SEED}, process {n}: {endpoint} by {caller}: {request!r:.3000}"
            statuses[said.status] += 1
            slowest = sorted([*slowest, (took, what[:200])], reverse=True)[:3]
            try:
                check_answer(said, router.endpoint_of(request.path), err)
                # Two guesses at once: the second is sent away. An administrator may have switched the store off.
                assert said.status != 503 or "another password" in err or "the store" in err
                assert took < LONGEST
            except AssertionError as trouble:
                wrong.append(f"{what}\n{said}\n{err}\n{trouble}"[:6000])
        assert not wrong, f"{len(wrong)} answers are wrong, such as these:\n" + "\n\n".join(wrong[:5])
        print(f"\nseed {SEED}: {PROCESSES} processes, {dict(sorted(statuses.items()))}")
        for took, what in slowest:
            print(f"  {took:.3f} s  {what}")
        print(f"  {dict(check_catalogue(world))}")
        check_ground(world, before)
        assert statuses[200] + statuses[201] > PROCESSES / 8, statuses


# -- single blows -------------------------------------------------------------------------------------------------


def test_a_request_cannot_fill_the_staging_area_with_directories(tmp_path: Path) -> None:
    door = make_door(tmp_path)
    try:
        deep = [item(n, f"{n}/" + "d/" * 1900 + "x", upload_name="x") for n in range(10)]
        said = door.ask("libtool/clone/batch_stage", batch("a", item(99, "plain"), *deep))
        made = sum(1 for path in snapshot(door.site.staging) if not path.endswith(".libtool-store"))
        assert [each["source_transfer_id"] for each in said.body["uploads"]][:1] == [99]
        assert made < 1000, f"one small request made {made} directories"
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "b")], check=True)


def test_a_request_of_deep_names_is_answered_in_time_and_memory(tmp_path: Path) -> None:
    door = make_door(tmp_path, max_request_seconds="12s")
    for levels in (1900, 1000, 500, 250, 100, 50, 25):  # as deep as a name may be, and as long
        name = "/".join(["d" * (3800 // levels - 1)] * levels)
        with suppress(NameRefused):
            names.check(name)
            break
    items = [item(n, f"{n}/{name}", 2**50, upload_name="x") for n in range(1000)]  # no room: nothing is made for them
    body = json.dumps(batch("a", *items, total_size=0)).encode()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HTTP_", "LIBTOOL_"))}
    environment |= {"REQUEST_METHOD": "POST", "PATH_INFO": "/api/v2/libtool/clone/batch_stage"}
    environment |= {"CONTENT_LENGTH": str(len(body)), "HTTP_AUTHORIZATION": door.header("a") or ""}
    environment["LIBTOOL_CONFIG"] = door.site.config
    said, err, took = run_callback(["callback"], environment, body)
    assert said.status == 201, f"{len(body)} bytes, {levels} levels: {said.status} after {took:.1f} s: {err}"
    assert {each["code"] for each in json.loads(said.body)["refused"]} == {"room"}


def test_one_long_name_holds_up_no_other_file(tmp_path: Path, databases: Callable[[str], str | None]) -> None:
    rng = random.Random(SEED)
    long = "/".join("".join(rng.choices(LETTERS, k=200)) for _ in range(17))
    door = make_door(tmp_path, database=databases("long"))
    said = door.ask("libtool/clone/batch_stage", batch("a", item(1, "plain"), item(2, long)))
    assert said.status == 201, said
    answered = [each["source_transfer_id"] for each in said.body["uploads"] + said.body["refused"]]
    assert sorted(answered) == [1, 2] and said.body["uploads"][0]["destination_location"] == "plain"


@pytest.mark.parametrize("swapped", ["staging id", "directory in it"])
def test_a_repeated_request_makes_no_directory_behind_a_link(tmp_path: Path, swapped: str) -> None:
    door = make_door(tmp_path)
    asked = batch("a", item(1, "p/q/r/f"))
    (place,) = door.ask("clone/batch_stage", asked).body["uploads"]
    (tmp_path / "outside").mkdir()
    top = door.site.staging / place["staging_name"]
    mine = top if swapped == "staging id" else top / "p"  # whoever brings files there can do so
    shutil.rmtree(mine)
    mine.symlink_to(tmp_path / "outside")
    said = door.ask("clone/batch_stage", asked)
    assert list((tmp_path / "outside").iterdir()) == [], said
    # Whoever tampered with one place gets that place anew: it is no fault of the store.
    assert said.status == 201 and (top / "p/q/r").is_dir() and not mine.is_symlink(), said


@pytest.mark.parametrize("url", [f"https://{'x' * 70}.example", "https://a..b"])
def test_an_address_that_can_be_none_holds_up_nobody(tmp_path: Path, url: str) -> None:
    door = make_door(tmp_path)
    asked = {"librarian_name": "evil", "url": url, "port": 443, "authenticator": "b:password"}
    said = door.ask("admin/librarians/add", asked | {"check_connection": True}, who="boss")
    assert said.status in (200, 400) and said.body.get("success") is not True, said
    said = door.ask("admin/librarians/add", asked | {"check_connection": False}, who="boss")
    if said.status == 400:  # it is seen at once
        return
    listed = door.ask("admin/librarians/list", {"ping": True}, who="boss")
    assert [each["available"] for each in listed.body["librarians"]] == [False]
    for command in (["get-librarian-list", "--ping"], ["send-clone", "--destination-librarian", "evil"], ["reconcile"]):
        ran = door.site.run(None, *command)
        assert "internal error" not in ran.err, ran


def test_a_neighbour_that_wants_a_file_again_and_answers_nonsense_gets_no_fault(tmp_path: Path) -> None:
    with hostile_world(tmp_path / "world", SEED) as world:
        with world.site.open() as node:
            said = []
            for n in range(100):
                message = {"file_name": f"sent{4 * (n % 10)}", "librarian_name": "a"}
                request = router.Request("POST", "/api/v2/corrupt/resend", None, json.dumps(message).encode(), "a")
                said.append(router.answer(node, request))
        assert {each.status for each in said} == {200, 409}, [each for each in said if each.status not in (200, 409)]


def test_an_upload_that_met_a_disabled_store_can_be_committed_when_it_is_enabled(tmp_path: Path) -> None:
    door = make_door(tmp_path)
    wanted = {"upload_size": 3, "upload_checksum": ABC_SUM, "uploader": "x"}
    wanted |= {"upload_name": "f", "destination_location": "f"}
    place = door.ask("upload/stage", wanted).body
    Path(place["staging_location"]).write_bytes(ABC)
    commit = {"transfer_id": place["transfer_id"]}

    def ask() -> int:
        with door.site.open() as node:
            message = json.dumps(commit).encode()
            return router.answer(node, router.Request("POST", "/api/v2/upload/commit", None, message, "a")).status

    door.site.run(0, "set-store-state", "--store", "main", "--disabled")
    assert ask() == 503
    door.site.run(0, "set-store-state", "--store", "main", "--enabled")
    assert ask() == 200
    assert door.site.stored() == {"f": ABC}


def test_many_that_come_in_at_once_open_nothing_beside_the_store(tmp_path: Path) -> None:
    with hostile_world(tmp_path / "world", SEED) as world:
        with world.site.open() as node:
            items = [item(n, f"many{n}/f", 3, ABC_SUM) for n in range(40)]
            asked = json.dumps(batch("a", *items)).encode()
            request = router.Request("POST", "/api/v2/clone/batch_stage", None, asked, "a")
            places = json.loads(router.answer(node, request).body)["uploads"]
        for place in places:
            Path(place["staging_location"]).write_bytes(ABC)
        with world.site.open() as node:
            ids = [place["destination_transfer_id"] for place in places]
            said = {"source_transfer_ids": [], "destination_transfer_ids": ids, "new_status": 2}
            router.answer(node, router.Request("POST", "/api/v2/checkin/update", None, json.dumps(said).encode(), "a"))
        with watched():
            world.site.run(None, "recv-clone")
        assert sum(name.startswith("many") for name in names_stored(world)) == 40
        assert WATCH.deeds == []  # what lies above the store may be readable for others only


def names_stored(world: World) -> list[str]:
    """The names of all files in the store."""
    top = str(world.store) + "/"
    return [path.removeprefix(top) for path, found in snapshot(world.store).items() if len(found) > 1]
