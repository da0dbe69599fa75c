"""The peers' door: one request in, one answer out, as a process under CGI and through the router."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from libtool import digest
from libtool.endpoints import router
from libtool.node import SCHEMA_LOCK
from libtool.peers.features import FEATURES, HEADER
from tests.sites import Pair, Site, introduce, make_pair, make_site

EMPTY = "xxh3:::99aa06d3014798d86001c324468d497f"
WRONG = "xxh3:::00000000000000000000000000000000"


def basic(user: str, password: str) -> str:
    """The header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@dataclass
class Said:
    """One answer."""

    status: int
    headers: dict[str, str]
    raw: bytes
    err: str = ""

    @property
    def body(self) -> Any:
        """The JSON."""
        return json.loads(self.raw)

    def check(self) -> Said:
        """What holds for every answer: JSON, flat errors, no inside shown."""
        assert {name.lower(): value for name, value in self.headers.items()}[HEADER.lower()] == FEATURES
        body = self.body
        if self.status >= 400:
            assert body["reason"] and body["suggested_remedy"] and "detail" not in body
            assert all("\n" not in body[key] for key in ("reason", "suggested_remedy"))
        assert "Traceback" not in self.err and "Traceback" not in self.raw.decode()
        return self


@dataclass
class Door:
    """A librarian's door and the accounts that knock at it."""

    site: Site
    passwords: dict[str, str] = field(default_factory=dict)

    def account(self, name: str, level: str) -> None:
        """Make an account."""
        self.passwords[name] = self.site.run(0, "create-user", "--username", name, "--auth-level", level).out.strip()

    def header(self, who: str | None) -> str | None:
        """The Authorization header of an account."""
        return None if who is None else basic(who, self.passwords.get(who, "wrong"))

    def ask(self, endpoint: str, body: Any = None, who: str | None = "a", method: str = "POST") -> Said:
        """One request through the router, in this process."""
        raw = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        with self.site.open() as node:
            found = router.answer(node, router.Request(method, f"/api/v2/{endpoint}", self.header(who), raw))
        return Said(found.status, router.head(found), found.body).check()

    def cgi(
        self,
        endpoint: str,
        body: bytes = b"{}",
        who: str | None = None,
        args: tuple[str, ...] = (),
        seconds: float = 30.0,
        **environment: Any,
    ) -> Said:
        """One request as a process, in the environment that a web server makes."""
        words = {
            "REQUEST_METHOD": "POST",
            "SCRIPT_NAME": "/cgi-bin/librarian",
            "PATH_INFO": f"/api/v2/{endpoint}",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(body)),
            "LIBTOOL_CONFIG": self.site.config,
            "HTTP_AUTHORIZATION": self.header(who),
            **environment,
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HTTP_", "LIBTOOL_"))}
        done = subprocess.run(
            [sys.executable, "-m", "libtool", "callback", *args],
            input=body,
            capture_output=True,
            env=kept | {name: value for name, value in words.items() if value is not None},
            timeout=seconds,
            check=False,
        )
        return parsed(done.stdout, done.stderr.decode())


def parsed(out: bytes, err: str) -> Said:
    """A CGI answer."""
    assert "Traceback" not in err, err
    head, blank, body = out.partition(b"\r\n\r\n")
    assert blank, (out, err)
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
    assert int(headers["Content-Length"]) == len(body) and headers["Content-Type"] == "application/json"
    return Said(int(headers.pop("Status").split()[0]), headers, body, err).check()


LEVELS = {
    "reader": "READONLY",
    "caller": "CALLBACK",
    "a": "READAPPEND",
    "c": "READAPPEND",
    "boss": "ADMIN",
    "nobody": "NONE",
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Door:
    """A librarian b whose state no test relies on."""
    os.environ["HOME"] = str(tmp_path_factory.getbasetemp())
    return make_door(tmp_path_factory.mktemp("shared"))


def make_door(top: Path, **settings: Any) -> Door:
    """A librarian b with an account of every level."""
    door = Door(make_site("b", top / "b", **settings))
    for name, level in LEVELS.items():
        door.account(name, level)
    return door


@pytest.fixture
def door(tmp_path: Path) -> Door:
    """A fresh librarian b."""
    return make_door(tmp_path)


# -- method, path, account ----------------------------------------------------------------------------------------


def test_ping_is_answered_as_a_process_with_and_without_its_slash(shared: Door) -> None:
    for path in ("ping/", "ping"):
        said = shared.cgi(path, who="a")
        assert (said.status, said.body) == (200, {"name": "Untitled Librarian", "description": "No description set."})
        assert said.err == ""


def test_the_script_may_be_named_in_the_url_in_any_way(shared: Door) -> None:
    assert shared.cgi("x", who="a", SCRIPT_NAME="/api/v2", PATH_INFO="/ping/").status == 200
    assert shared.cgi("x", who="a", SCRIPT_NAME="", PATH_INFO="/deep/below/api/v2/ping/").status == 200


def test_ping_takes_any_account_but_not_none_and_its_siblings_check_it(shared: Door) -> None:
    assert shared.ask("ping/", who="stranger").status == 200
    assert shared.ask("ping/", who=None).status == 401
    assert [shared.ask("ping/logged", who=who).status for who in ("stranger", "nobody", "reader")] == [401, 401, 200]
    assert [shared.ask("ping/admin", who=who).status for who in ("a", "boss")] == [401, 200]


@pytest.mark.parametrize("path", ["nothing", "clone/stages", "ping/x", "", "../ping", "clone"])
def test_an_unknown_endpoint_is_404_for_everybody(shared: Door, path: str) -> None:
    assert shared.ask(path, who=None).status == shared.ask(path, who="boss").status == 404


def test_a_path_without_the_base_is_404(shared: Door) -> None:
    assert shared.cgi("x", who="boss", PATH_INFO="/ping/").status == 404
    assert shared.cgi("x", who="boss", PATH_INFO=None).status == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "DELETE", "OPTIONS"])
def test_another_method_is_405_and_told_which_is_allowed(shared: Door, method: str) -> None:
    said = shared.ask("clone/complete", method=method)
    assert (said.status, said.headers["Allow"]) == (405, "POST")


def test_405_and_404_need_no_configuration(shared: Door) -> None:
    assert shared.cgi("ping/", REQUEST_METHOD="GET", LIBTOOL_CONFIG="/nowhere").status == 405
    assert shared.cgi("nothing", LIBTOOL_CONFIG="/nowhere").status == 404


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "Basic !!!",
        "Bearer abc",
        "Digest username=a",
        "Basic " + base64.b64encode(b"no colon").decode(),
        "Basic " + base64.b64encode(b"\xff\xfe:x").decode(),
        "Basic \xe9\xe9",
    ],
)
def test_who_shows_no_account_gets_401_and_is_asked_for_one(shared: Door, header: str | None) -> None:
    for endpoint in ("ping/", "search/file"):
        with shared.site.open() as node:
            request = router.Request("POST", f"/api/v2/{endpoint}", header, b"{}")
            response = router.answer(node, request)
        said = Said(response.status, router.head(response), response.body).check()
        assert said.status == 401 and said.headers["WWW-Authenticate"].startswith("Basic")


def test_an_unknown_user_a_wrong_password_and_too_low_a_level_are_told_the_same(shared: Door) -> None:
    wrong = Door(shared.site, {"boss": "wrong", "a": shared.passwords["boss"]})
    answers = [
        shared.ask("ping/admin", who="stranger"),
        wrong.ask("ping/admin", who="boss"),
        shared.ask("ping/admin", who="a"),
    ]
    answers.append(wrong.ask("ping/admin", who="a"))
    assert {answer.status for answer in answers} == {401}
    assert len({answer.raw for answer in answers}) == 1
    assert all("WWW-Authenticate" in answer.headers for answer in answers)


def test_a_chosen_password_works_more_than_once_and_a_wrong_one_never(door: Door) -> None:
    door.site.run(
        0,
        "create-user",
        "--username",
        "person",
        "--auth-level",
        "READONLY",
        "--password",
        "-",
        stdin="chosen:by hand\n",
    )
    for password, status in (
        ("wrong one", 401),
        ("chosen:by hand", 200),
        ("chosen:by hand", 200),
        ("wrong one", 401),
        ("chosen", 401),
    ):
        door.passwords["person"] = password
        assert door.ask("ping/logged", who="person").status == status


def test_nothing_is_parsed_before_the_account_is_known(shared: Door) -> None:
    for body in (b"no json", b'{"file_name": 5}', b"[" * 100_000):
        assert shared.ask("validate/file", body, who="stranger").status == 401
        assert shared.ask("validate/file", body, who="nobody").status == 401


# -- bodies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[]",
        b"null",
        b"{}",
        b'{"file_name": "x"',
        b'{"file_name": 5}',
        b'{"file_name": null}',
        b'{"file_name": "a\\u0000b"}',
        b'{"file_name": "\\ud800"}',
        b'{"file_name": "\xff"}',
        b'{"file_name": "' + b"x" * 5000 + b'"}',
        b'{"file_name": "x", "more": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_a_body_that_is_not_the_message_is_422_and_flat(shared: Door, body: bytes) -> None:
    assert shared.ask("validate/file", body).status == 422


def test_ping_needs_an_object_and_takes_an_empty_body(shared: Door) -> None:
    assert shared.ask("ping/", b"").status == 200
    assert [shared.ask("ping/", body).status for body in (b"[]", b"x", b"[" * 60_000)] == [422] * 3


def test_every_endpoint_answers_nonsense_flat_and_without_a_fault(shared: Door) -> None:
    for endpoint in router.ENDPOINTS:
        for body in (
            b"\xff",
            b"[1]",
            b'{"a": 1e999}',
            b'{"uploads": {}, "transfers": 1, "source_transfer_ids": [1e30]}',
        ):
            said = shared.ask(endpoint, body, who="boss")
            assert said.status in (200, 400, 404, 422), (endpoint, body, said)


def test_numbers_may_come_as_strings_and_whole_floats(shared: Door) -> None:
    said = shared.ask("checkin/status", {"source_transfer_ids": ["7"], "destination_transfer_ids": [8.0]})
    assert said.body == {"source_transfer_status": {"7": None}, "destination_transfer_status": {"8": None}}
    assert shared.ask("checkin/status", b'{"source_transfer_ids": [%d]}' % 2**64).status == 422


def test_a_body_of_a_hundred_megabytes_is_refused_without_being_read(shared: Door) -> None:
    read, write = os.pipe()  # nothing ever comes: whoever reads it waits for ever
    environment = dict(os.environ) | {"REQUEST_METHOD": "POST", "PATH_INFO": "/api/v2/clone/batch_stage"}
    environment |= {"CONTENT_LENGTH": str(10**8), "LIBTOOL_CONFIG": shared.site.config}
    environment["HTTP_AUTHORIZATION"] = shared.header("a") or ""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "libtool", "callback"],
            stdin=read,
            capture_output=True,
            env=environment,
            timeout=20,
            check=False,
        )
    finally:
        os.close(read)
        os.close(write)
    assert parsed(done.stdout, done.stderr.decode()).status == 413


def test_a_body_that_never_ends_is_not_waited_for(door: Door) -> None:
    door.site.write(max_request_seconds="1s")
    read, write = os.pipe()
    environment = dict(os.environ) | {"REQUEST_METHOD": "POST", "PATH_INFO": "/api/v2/ping/", "CONTENT_LENGTH": "10"}
    environment |= {"LIBTOOL_CONFIG": door.site.config, "HTTP_AUTHORIZATION": door.header("a") or ""}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "libtool", "callback"],
            stdin=read,
            capture_output=True,
            env=environment,
            timeout=5,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.fail("it waited longer than max_request_seconds", pytrace=False)
    finally:
        os.close(read)
        os.close(write)
    assert parsed(done.stdout, done.stderr.decode()).status in (408, 422, 503)


def test_a_chunked_body_is_read_to_its_end_and_bounded(door: Door) -> None:
    body = json.dumps({"name": "none such"}).encode()
    chunked = {"CONTENT_LENGTH": None, "HTTP_TRANSFER_ENCODING": "chunked"}
    assert door.cgi("search/file", body, who="a", **chunked).body["reason"] == "No files found."
    door.site.write(max_body_bytes="1kB")
    assert door.cgi("search/file", body + b" " * 2000, who="a", **chunked).status == 413


@pytest.mark.parametrize("length", ["", "abc", "-5", "1e3", "٣", "9" * 5000])
def test_a_length_that_is_none_is_answered_and_no_fault(shared: Door, length: str) -> None:
    assert shared.cgi("search/file", b"{}", who="a", CONTENT_LENGTH=length).status in (400, 411, 413, 422)


def test_a_body_shorter_than_announced_is_422(shared: Door) -> None:
    assert shared.cgi("search/file", b'{"name": "x"', who="a", CONTENT_LENGTH="500").status == 422


def test_words_of_the_query_never_become_options(shared: Door, tmp_path: Path) -> None:
    # A web server gives a query without "=" to a CGI program as arguments.
    evil = make_site("evil", tmp_path / "evil", displayed_site_name="EVIL")
    said = shared.cgi("ping/", who="a", args=("--config", evil.config), QUERY_STRING=f"--config+{evil.config}")
    assert said.status >= 400 or said.body["name"] != "EVIL"


# -- a librarian that cannot answer -------------------------------------------------------------------------------


def check_unavailable(said: Said, door: Door) -> None:
    """503 that shows nothing of the inside."""
    assert said.status == 503 and int(said.headers["Retry-After"]) > 0
    assert str(door.site.directory) not in said.raw.decode() and "/" not in said.body["reason"]
    assert said.err.strip()


@pytest.mark.parametrize(
    "text",
    [
        "name: [",
        "name: b\nno_such_key: 1",
        "",
        "- a",
        "name: 2024-13-45",
        "name: b\nnotice_after: [1]",
        "\0",
        "name: b\ndatabase: sqlite:///elsewhere/none.db",
        "name: b\nencryption_key_file: .",
    ],
)
def test_a_wrong_configuration_is_503_and_keeps_its_details_for_the_log(door: Door, text: str) -> None:
    Path(door.site.config).write_text(text)
    check_unavailable(door.cgi("search/file", b"{}", who="a"), door)


def test_no_configuration_is_503(door: Door) -> None:
    os.unlink(door.site.config)
    check_unavailable(door.cgi("ping/", who="a"), door)


def test_a_missing_or_ruined_database_is_503_and_is_not_made_anew(door: Door) -> None:
    for path in door.site.directory.glob("catalogue.db*"):
        path.unlink()
    check_unavailable(door.cgi("ping/logged", who="a"), door)
    assert not (door.site.directory / "catalogue.db").exists()
    (door.site.directory / "catalogue.db").write_bytes(b"this is no database, whatever its name says" * 100)
    check_unavailable(door.cgi("ping/logged", who="a"), door)
    (door.site.directory / "catalogue.db").write_bytes(b"")
    check_unavailable(door.cgi("ping/logged", who="a"), door)


def test_while_setup_changes_the_tables_callers_are_asked_to_come_again(door: Door) -> None:
    (lock,) = (door.site.directory / "run").glob(f"{SCHEMA_LOCK}.lock")
    with open(lock) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        check_unavailable(door.cgi("ping/logged", who="a"), door)
    assert door.cgi("ping/logged", who="a").status == 200


def test_an_older_or_newer_schema_is_503(door: Door) -> None:
    with sqlite3.connect(door.site.directory / "catalogue.db") as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        (versions,) = [name for name in tables if "schema" in name or "migration" in name or "version" in name]
        (column,) = [
            row[1] for row in database.execute(f"PRAGMA table_info({versions})") if row[2].upper().startswith("INT")
        ][:1]
        database.execute(f"UPDATE {versions} SET {column} = {column} + 1000")
    database.close()
    check_unavailable(door.cgi("ping/logged", who="a"), door)


def test_a_database_that_somebody_holds_is_503_within_the_time_of_a_request(door: Door) -> None:
    door.site.write(max_request_seconds="1s")
    holder = sqlite3.connect(door.site.directory / "catalogue.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        said = door.cgi("clone/batch_stage", json.dumps(batch("a", item(1, "f"))).encode(), who="a", seconds=6.0)
    except subprocess.TimeoutExpired:
        pytest.fail("it waited longer than max_request_seconds", pytrace=False)
    finally:
        holder.close()
    check_unavailable(said, door)
    assert door.ask("clone/batch_stage", batch("a", item(1, "f"))).status == 201


def test_a_run_directory_that_cannot_be_used_is_503(door: Door) -> None:
    (door.site.directory / "blocker").write_text("")
    door.site.write(run_dir="blocker/run")
    check_unavailable(door.cgi("ping/logged", who="a"), door)


# -- staging ------------------------------------------------------------------------------------------------------


def item(number: int, name: str, size: int = 0, checksum: str = EMPTY, **changes: Any) -> dict[str, Any]:
    """One file of a batch, as a stock source says it."""
    return {
        "upload_size": size,
        "upload_checksum": checksum,
        "upload_name": name,
        "destination_location": name,
        "uploader": "somebody",
        "source_transfer_id": number,
    } | changes


def batch(source: str, *uploads: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A whole request."""
    return {
        "uploads": list(uploads),
        "source": source,
        "total_size": sum(each["upload_size"] for each in uploads),
    } | changes


def staged(door: Door, *uploads: dict[str, Any], who: str = "a") -> dict[int, dict[str, Any]]:
    """Stage for a source; the answer's items by the source's number."""
    said = door.ask("clone/batch_stage", batch(who, *uploads), who=who)
    assert said.status == 201, said
    return {each["source_transfer_id"]: each for each in said.body["uploads"]}


def deliver(door: Door, *uploads: dict[str, Any], who: str = "a", content: bytes = b"") -> dict[int, dict[str, Any]]:
    """Stage, bring the bytes, say so, and have them taken in."""
    places = staged(door, *uploads, who=who)
    for place in places.values():
        Path(place["staging_location"]).write_bytes(content)
    ids = [place["destination_transfer_id"] for place in places.values()]
    assert door.ask("checkin/update", update(2, destination=ids), who=who).status == 200
    door.site.run(None, "recv-clone")
    return places


def update(status: int, source: list[int] | None = None, destination: list[int] | None = None) -> dict[str, Any]:
    """A ``checkin/update``."""
    return {"source_transfer_ids": source or [], "destination_transfer_ids": destination or [], "new_status": status}


def states_of(door: Door, ids: list[int], who: str = "boss") -> list[int | None]:
    """How far b's incoming transfers are."""
    body = door.ask("checkin/status", {"source_transfer_ids": [], "destination_transfer_ids": ids}, who=who).body
    return [body["destination_transfer_status"][str(id)] for id in ids]


def test_a_batch_gets_places_in_the_shape_that_stock_sources_read(door: Door) -> None:
    said = door.ask("clone/batch_stage", batch("a", item(7, "night/f", 5), item(8, "night/deep/g", 0)))
    assert said.status == 201
    body = said.body
    assert set(body) == {"available_bytes_on_store", "store_name", "uploads", "async_transfer_providers"}
    assert body["store_name"] == "main" and body["available_bytes_on_store"] > 0
    provider = body["async_transfer_providers"]["local"]
    assert set(provider) == {
        "hostnames",
        "transfer_attempted",
        "transfer_complete",
        "start_time_transfer",
        "bytes_transfer",
    }
    assert provider["transfer_attempted"] is provider["transfer_complete"] is False
    assert [each["source_transfer_id"] for each in body["uploads"]] == [7, 8]
    for each in body["uploads"]:
        place = Path(each["staging_location"])
        assert place == door.site.staging / each["staging_name"] / each["destination_location"]
        assert place.parent.is_dir() and not place.exists()
        assert re.fullmatch(r"[0-9a-f]{32}", each["staging_name"])
    assert states_of(door, [each["destination_transfer_id"] for each in body["uploads"]]) == [0, 0]


def test_an_empty_batch_is_fine(door: Door) -> None:
    said = door.ask("clone/batch_stage", batch("a"))
    assert (said.status, said.body["uploads"]) == (201, [])


def test_repeating_a_request_gives_the_same_places_even_for_a_part_of_it(door: Door) -> None:
    first = staged(door, item(1, "f"), item(2, "d/g"))
    assert staged(door, item(1, "f"), item(2, "d/g")) == first
    again = staged(door, item(2, "d/g"), item(3, "h"))
    assert again[2] == first[2] and again[3]["staging_name"] != first[2]["staging_name"]
    assert len(list(door.site.staging.iterdir())) == 3  # two places and the mark


@pytest.mark.parametrize("change", [{"upload_size": 9}, {"upload_checksum": WRONG}, {"source_transfer_id": 99}])
def test_asking_anew_for_something_else_replaces_what_was_asked_before(door: Door, change: dict[str, Any]) -> None:
    first = staged(door, item(1, "f"))[1]
    (second,) = staged(door, item(1, "f", **change)).values()
    assert second["destination_transfer_id"] != first["destination_transfer_id"]
    assert second["staging_name"] != first["staging_name"]
    assert states_of(door, [first["destination_transfer_id"], second["destination_transfer_id"]]) == [4, 0]


def test_a_number_that_a_restored_source_uses_again_is_a_new_transfer(door: Door) -> None:
    first = staged(door, item(1, "f"))[1]
    second = staged(door, item(1, "g"))[1]
    assert second["destination_transfer_id"] != first["destination_transfer_id"]
    assert states_of(door, [first["destination_transfer_id"], second["destination_transfer_id"]]) == [0, 0]


def test_a_stock_source_is_told_all_identical_ones_at_once_and_nothing_is_staged(door: Door) -> None:
    deliver(door, item(1, "f"), item(2, "g"))
    assert door.site.stored() == {"f": b"", "g": b""}
    said = door.ask("clone/batch_stage", batch("a", item(11, "f"), item(12, "new"), item(13, "g")))
    assert said.status == 409 and "already exists on librarian" in said.body["reason"]
    assert said.body["source_transfer_ids"] == [11, 13] and said.body["destination_transfer_ids"] == [-1, -1]
    assert door.site.status()["incoming"]["INITIATED"] == 0
    assert set(staged(door, item(12, "new"))) == {12}


def test_a_stock_source_gets_the_rest_when_some_are_here_with_other_content(door: Door) -> None:
    deliver(door, item(1, "f"))
    assert set(staged(door, item(11, "f", 9, WRONG), item(12, "new"), item(13, "f/inside"))) == {12}


def test_what_another_source_is_bringing_is_busy(door: Door) -> None:
    staged(door, item(1, "f"))
    assert set(staged(door, item(5, "f"), item(6, "g"), who="c")) == {6}
    said = door.ask("clone/batch_stage", batch("c", item(5, "f")), who="c")
    assert said.status == 425 and said.body["source_transfer_ids"] == [5]


def test_a_libtool_source_is_told_the_reason_of_each_that_is_refused(door: Door) -> None:
    deliver(door, item(1, "here"), item(2, "other"))
    staged(door, item(3, "busy"), who="c")
    asked = batch(
        "a",
        item(10, "good"),
        item(11, "here"),
        item(12, "other", 9, WRONG),
        item(13, "busy"),
        item(14, "../up"),
        item(15, "good"),
        item(10, "same number"),
        item(16, "good/inside"),
        item(17, "here/inside"),
        item(18, "huge", 2**62),
        item(19, "here", 0, "md5:::d41d8cd98f00b204e9800998ecf8427e"),
        total_size=0,
    )
    said = door.ask("libtool/clone/batch_stage", asked)
    assert said.status == 201
    assert [each["source_transfer_id"] for each in said.body["uploads"]] == [10]
    refused = [(each["source_transfer_id"], each["code"]) for each in said.body["refused"]]
    assert sorted(refused) == [
        (10, "busy"),
        (11, "have"),
        (12, "conflict"),
        (13, "busy"),
        (14, "name"),
        (15, "busy"),
        (16, "conflict"),
        (17, "conflict"),
        (18, "room"),
        (19, "busy"),
    ]
    assert all(each["reason"] for each in said.body["refused"])
    (have,) = [each for each in said.body["refused"] if each["code"] == "have"]
    assert isinstance(have["store_id"], int)


def test_the_same_content_under_another_kind_of_checksum_is_told_as_such(door: Door) -> None:
    deliver(door, item(1, "here"))
    said = door.ask(
        "libtool/clone/batch_stage", batch("a", item(19, "here", 0, "md5:::d41d8cd98f00b204e9800998ecf8427e"))
    )
    (refused,) = said.body["refused"]
    assert refused["code"] == "conflict" and "another kind" in refused["reason"]


TRICKS = [
    "/etc/x",
    "../x",
    "a/../../x",
    "a//b",
    "./x",
    "a/.",
    "",
    ".",
    "x/",
    "\ud7ff/..",
    ".libtool-store",
    "y" * 256,
    "d/" * 2100 + "f",
]


@pytest.mark.parametrize("key", ["destination_location", "upload_name"])
def test_no_name_leads_out_of_the_staging_area(door: Door, key: str) -> None:
    asked = [item(n, f"good{n}", **{key: trick}) for n, trick in enumerate(TRICKS)]
    said = door.ask("libtool/clone/batch_stage", batch("a", *asked, item(100, "fine")))
    if said.status == 422:  # one is longer than any message may hold: then nothing is staged
        asked = asked[:-1]
        said = door.ask("libtool/clone/batch_stage", batch("a", *asked, item(100, "fine")))
    assert [each["source_transfer_id"] for each in said.body["uploads"]] == [100]
    assert {each["code"] for each in said.body["refused"]} == {"name"}
    assert len(said.body["refused"]) == len(asked)
    assert sorted(path.name for path in door.site.directory.iterdir() if path.is_dir()) == ["run", "staging", "store"]


def test_a_name_with_nul_is_no_message(door: Door) -> None:
    assert door.ask("clone/batch_stage", batch("a", item(1, "a\0b"))).status == 422


@pytest.mark.parametrize("asked", [batch("a", item(1, "f", -1)), batch("a", item(1, "f"), total_size=-1)])
def test_a_negative_size_is_400(door: Door, asked: dict[str, Any]) -> None:
    assert door.ask("clone/batch_stage", asked).status == 400
    assert door.ask("libtool/clone/batch_stage", asked).status == 400


def test_what_has_no_room_is_413_and_nothing_is_kept_of_it(tmp_path: Path) -> None:
    top = tmp_path / "b"
    data = {"staging_path": "staging", "store_path": "store", "report_full_fraction": 1e-9}
    door = make_door(tmp_path, add_stores=[{"store_name": "main", "store_data": data}])
    assert door.ask("clone/batch_stage", batch("a", item(1, "f", 5))).status == 413
    said = door.ask("libtool/clone/batch_stage", batch("a", item(1, "f", 5)))
    assert (said.status, said.body["uploads"], said.body["refused"][0]["code"]) == (201, [], "room")
    assert [path.name for path in (top / "staging").iterdir()] == [".libtool-store"]


def test_room_is_promised_once(door: Door) -> None:
    free = door.ask("clone/batch_stage", batch("a")).body["available_bytes_on_store"]
    third = free // 3 + 2**30
    said = door.ask("libtool/clone/batch_stage", batch("a", *(item(n, f"f{n}", third) for n in range(3))))
    assert [each["code"] for each in said.body["refused"]] == ["room"]
    said = door.ask("libtool/clone/batch_stage", batch("a", item(9, "more", third)))
    assert [each["code"] for each in said.body["refused"]] == ["room"]


def test_more_items_than_the_limit_are_413(door: Door) -> None:
    door.site.write(max_batch_items=3)
    for endpoint in ("clone/batch_stage", "libtool/clone/batch_stage"):
        assert door.ask(endpoint, batch("a", *(item(n, f"f{n}") for n in range(4)))).status == 413
        assert door.ask(endpoint, batch("a", *(item(n, f"f{n}") for n in range(3)))).status == 201


def test_only_an_admin_may_stage_in_anothers_name(door: Door) -> None:
    assert door.ask("clone/batch_stage", batch("c", item(1, "f")), who="a").status == 401
    assert door.ask("clone/batch_stage", batch("c", item(1, "f")), who="boss").status == 201


def test_a_store_that_is_not_mounted_is_503_and_its_place_is_not_told(door: Door) -> None:
    (door.site.store / ".libtool-store").unlink()
    said = door.ask("clone/batch_stage", batch("a", item(1, "f")))
    assert said.status == 503 and "Retry-After" in said.headers
    assert str(door.site.directory) not in said.raw.decode()


# -- progress and the end of incoming transfers -------------------------------------------------------------------


def test_a_source_moves_its_transfers_on_and_each_id_comes_back_once(door: Door) -> None:
    ids = {n: each["destination_transfer_id"] for n, each in staged(door, item(1, "f"), item(2, "g")).items()}
    others = staged(door, item(1, "h"), who="c")[1]["destination_transfer_id"]
    said = door.ask("checkin/update", update(1, [77], [ids[1], others, 99999, ids[1]])).body
    assert said["modified_destination_transfer_ids"] == [ids[1]]
    assert said["unmodified_destination_transfer_ids"] == [others, 99999]
    assert said["unmodified_source_transfer_ids"] == [77] and said["modified_source_transfer_ids"] == []
    assert said["reasons"]
    assert states_of(door, [ids[1], ids[2], others]) == [1, 0, 0]
    again = door.ask("checkin/update", update(1, [], [ids[1]])).body
    assert again["unmodified_destination_transfer_ids"] == [ids[1]]


def test_a_peer_can_make_exactly_the_moves_of_the_wire(door: Door) -> None:
    allowed = {0: {1, 2, 4, 5}, 1: {2, 4, 5}, 2: {4, 5}, 4: set(), 5: set()}
    number = 0
    for old, following in allowed.items():
        for new in range(6):
            number += 1
            id = staged(door, item(number, f"f{number}"))[number]["destination_transfer_id"]
            if old:
                assert door.ask("checkin/update", update(old, [], [id])).body["modified_destination_transfer_ids"] == [
                    id
                ]
            moved = door.ask("checkin/update", update(new, [], [id])).body["modified_destination_transfer_ids"]
            assert moved == ([id] if new in following else []), (old, new)
            assert states_of(door, [id]) == [new if new in following else old]


def test_completed_is_never_set_or_undone_from_outside(door: Door) -> None:
    id = deliver(door, item(1, "f"))[1]["destination_transfer_id"]
    assert states_of(door, [id]) == [3]
    for new in range(6):
        assert door.ask("checkin/update", update(new, [], [id])).body["modified_destination_transfer_ids"] == []
    assert door.ask("clone/fail", {"source_transfer_id": 1, "destination_transfer_id": id, "reason": "x"}).status == 200
    assert states_of(door, [id]) == [3] and door.site.stored() == {"f": b""}


@pytest.mark.parametrize("status", [6, -1, "STAGED", None, 1.5])
def test_a_status_that_does_not_exist_is_422(shared: Door, status: Any) -> None:
    assert shared.ask("checkin/update", update(status, [], [1])).status == 422


def test_states_are_told_to_the_owner_and_to_admins_only(door: Door) -> None:
    id = staged(door, item(1, "f"))[1]["destination_transfer_id"]
    assert [states_of(door, [id, 4711], who) for who in ("a", "boss", "c", "caller")] == [
        [0, None],
        [0, None],
        [None, None],
        [None, None],
    ]


def test_failing_a_transfer_frees_its_place_and_can_be_repeated(door: Door) -> None:
    place = staged(door, item(1, "f"))[1]
    message = {"source_transfer_id": 1, "destination_transfer_id": place["destination_transfer_id"], "reason": "lost"}
    for _ in range(2):
        said = door.ask("clone/fail", message)
        assert (said.status, said.body["success"]) == (200, True)
        assert said.body["destination_transfer_id"] == place["destination_transfer_id"]
    assert states_of(door, [place["destination_transfer_id"]]) == [4]
    door.site.run(0, "recv-clone")
    assert not (door.site.staging / place["staging_name"]).exists()
    assert set(staged(door, item(2, "f"))) == {2}


def test_failing_what_is_not_yours_looks_like_failing_what_is_not_there(door: Door) -> None:
    id = staged(door, item(1, "f"))[1]["destination_transfer_id"]
    answers = [
        door.ask("clone/fail", {"source_transfer_id": 1, "destination_transfer_id": number, "reason": "x"}, who="c")
        for number in (id, 4711)
    ]
    assert [answer.status for answer in answers] == [404, 404]
    assert answers[0].body["reason"] == answers[1].body["reason"]
    assert states_of(door, [id]) == [0]


def test_staged_in_batches_tells_how_far_each_one_is(door: Door) -> None:
    done = deliver(door, item(1, "done"))[1]["destination_transfer_id"]
    live = staged(door, item(2, "f"))[2]["destination_transfer_id"]
    others = staged(door, item(1, "g"), who="c")[1]["destination_transfer_id"]
    kept = staged(door, item(3, "kept"))[3]["destination_transfer_id"]
    numbers = ((1, done), (2, live), (1, others), (4, 4711), (2, kept))  # the last with another transfer's number
    pairs = [{"source_transfer_id": theirs, "destination_transfer_id": id} for theirs, id in numbers]
    said = door.ask("libtool/clone/staged", {"transfers": pairs})
    assert said.body == {"states": {str(done): 3, str(live): 2, str(others): None, "4711": None, str(kept): None}}
    assert states_of(door, [others, kept]) == [0, 0]


# -- what destinations say about our outgoing transfers -----------------------------------------------------------


@dataclass
class Sending:
    """a has sent ``files`` to b and they are under way; b and x talk to a."""

    door: Door
    pair: Pair
    ids: dict[str, int]  #: by name: a's number
    remote: dict[str, int]  #: by name: b's number


@pytest.fixture
def sending(tmp_path: Path) -> Sending:
    """Three files staged at b and carried there; b has not reported yet. x is another destination of a, unused."""
    pair = make_pair(tmp_path)
    x = make_site("x", tmp_path / "x")
    introduce(pair.a, x)
    door = Door(pair.a)
    for name in ("b", "x"):  # their passwords are with them: make accounts anew that this test knows
        pair.a.run(0, "delete-user", "--username", name)
        door.account(name, "CALLBACK")
    door.account("boss", "ADMIN")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("f", "g", "h"):
        (source / name).write_text(name)
    pair.a.run(0, "ingest", "--recursive", str(source))
    pair.a.run(0, "send-clone")
    with pair.a.open():
        from libtool.models.tables import File, OutgoingTransfer

        rows = list(OutgoingTransfer.select(File.name, OutgoingTransfer.id, OutgoingTransfer.remote_id).join(File).tuples())
    return Sending(door, pair, {name: id for name, id, _ in rows}, {name: remote for name, _, remote in rows})


def outgoing(sending: Sending) -> dict[str, int]:
    """How far a's transfers are."""
    body = sending.door.ask("checkin/status", {"source_transfer_ids": list(sending.ids.values())}, who="boss").body
    return {name: body["source_transfer_status"][str(id)] for name, id in sending.ids.items()}


def complete(sending: Sending, name: str, who: str = "b") -> Said:
    """A stock destination reports one."""
    message = {"source_transfer_id": sending.ids[name], "destination_transfer_id": sending.remote[name], "store_id": 3}
    return sending.door.ask("clone/complete", message, who=who)


def test_completion_can_be_repeated_and_records_one_remote_instance(sending: Sending) -> None:
    for _ in range(2):
        said = complete(sending, "f")
        assert (said.status, said.body) == (200, {"source_transfer_id": sending.ids["f"], "destination_transfer_id": sending.remote["f"]})
    assert outgoing(sending)["f"] == 3
    assert sending.pair.a.status()["remote_instances"] == 1


def test_completion_of_what_is_not_the_callers_is_400_and_changes_nothing(sending: Sending) -> None:
    unknown = sending.door.ask(
        "clone/complete", {"source_transfer_id": 4711, "destination_transfer_id": 5, "store_id": 3}, who="b"
    )
    others = complete(sending, "f", who="x")
    assert (unknown.status, others.status) == (400, 400) and unknown.raw == others.raw
    assert unknown.body["reason"] == "Could not find transfer."
    assert sending.pair.a.status()["remote_instances"] == 0 and outgoing(sending)["f"] in (0, 1)


def test_an_admin_may_complete_for_a_destination(sending: Sending) -> None:
    assert complete(sending, "f", who="boss").status == 200
    (found,) = json.loads(sending.pair.a.run(0, "search-files", "--name", "f", "-F", "json").out)
    assert [remote["librarian"] for remote in found["remote_instances"]] == ["b"]


def test_a_report_in_batches_takes_what_is_right_and_fails_what_is_not(sending: Sending) -> None:
    right = f"xxh3:::{digest.of_file(str(sending.pair.a.store / 'f'))}"
    ids, b = sending.ids, sending.remote
    message = {
        "completed": [
            {"source_transfer_id": ids["f"], "destination_transfer_id": b["f"], "store_id": 3, "checksum": right},
            {"source_transfer_id": ids["g"], "destination_transfer_id": b["g"], "store_id": 3, "checksum": right},
            {"source_transfer_id": 4711, "destination_transfer_id": 4, "store_id": 3, "checksum": right},
        ],
        "failed": [{"source_transfer_id": ids["h"], "destination_transfer_id": b["h"], "reason": "disk\nbroke"}],
    }
    strange = sending.door.ask("libtool/clone/report", message, who="x").body["accepted"]
    assert strange == dict.fromkeys(map(str, [ids["f"], ids["g"], 4711, ids["h"]]), False)
    assert sending.pair.a.status()["remote_instances"] == 0
    for _ in range(2):
        said = sending.door.ask("libtool/clone/report", message, who="b")
        assert said.body["accepted"] == {str(ids["f"]): True, str(ids["g"]): True, "4711": False, str(ids["h"]): True}
        assert outgoing(sending) == {"f": 3, "g": 4, "h": 4}
        assert sending.pair.a.status()["remote_instances"] == 1


def test_a_destination_gives_up_its_own_transfers_and_no_others(sending: Sending) -> None:
    ids = list(sending.ids.values())
    assert sending.door.ask("checkin/update", update(4, ids), who="x").body["modified_source_transfer_ids"] == []
    assert sending.door.ask("checkin/update", update(2, ids), who="b").body["modified_source_transfer_ids"] == []
    assert (
        sending.door.ask("checkin/update", update(4, ids[:1]), who="b").body["modified_source_transfer_ids"] == ids[:1]
    )
    assert (
        sending.door.ask("checkin/update", update(5, ids[1:2]), who="b").body["modified_source_transfer_ids"]
        == ids[1:2]
    )
    assert sending.door.ask("checkin/update", update(4, ids[:2]), who="b").body["modified_source_transfer_ids"] == []
    assert sorted(outgoing(sending).values())[-2:] == [4, 4] or sorted(outgoing(sending).values())[-2:] == [4, 5]
    asked = {"source_transfer_ids": ids}
    assert set(sending.door.ask("checkin/status", asked, who="x").body["source_transfer_status"].values()) == {None}


# -- looking ------------------------------------------------------------------------------------------------------


def test_a_search_answers_in_the_shape_that_stock_sources_read(door: Door) -> None:
    deliver(door, item(1, "n/f", 5, f"md5:::{hashlib.md5(b'bytes').hexdigest()}"), content=b"bytes")
    (found,) = door.ask("search/file", {"name": "n/f"}, who="reader").body
    assert {key: found[key] for key in ("name", "size", "uploader", "source")} == {
        "name": "n/f",
        "size": 5,
        "uploader": "somebody",
        "source": "a",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}", found["create_time"])
    (copy,) = found["instances"]
    assert copy["path"] == str(door.site.store / "n/f") and copy["available"] is True
    assert isinstance(copy["store_id"], int) and copy["deletion_policy"] == 0
    assert found["remote_instances"] == []


def test_a_search_honours_all_conditions_and_its_limits(door: Door) -> None:
    deliver(door, *(item(n, f"f{n}") for n in range(5)))
    everything = {"create_time_window": ["0001-01-01T00:00:00", "9999-12-31T23:59:59.999999"]}
    assert len(door.ask("search/file", everything).body) == 5
    assert len(door.ask("search/file", {**everything, "max_results": 2}).body) == 2
    assert (
        len(
            door.ask(
                "search/file", {"create_time_window": [0, 99999999999], "uploader": "somebody", "source": "a"}
            ).body
        )
        == 5
    )
    door.site.write(max_search_results=3)
    assert len(door.ask("search/file", {"max_results": 1000}, who="boss").body) == 3
    for none in (
        {"name": "f"},
        {"source": "c"},
        {"create_time_window": [0, 1]},
        {"max_results": -1},
        {"name": "f1", "uploader": "x"},
    ):
        said = door.ask("search/file", none)
        assert (said.status, said.body["reason"]) == (404, "No files found.")


@pytest.mark.parametrize(
    "window", [["yesterday", "today"], [1], [1, 2, 3], [], [1e300, 1e300], ["", ""], ["9999-12-31T23:59:59-12:00", 1]]
)
def test_a_window_that_is_none_is_422(shared: Door, window: list[Any]) -> None:
    assert shared.ask("search/file", {"create_time_window": window}).status == 422


def test_validation_reads_the_copy_now(door: Door) -> None:
    deliver(door, item(1, "f"))
    (good,) = door.ask("validate/file", {"file_name": "f"}, who="reader").body
    assert good["librarian"] == "b" and good["computed_same_checksum"] is True
    assert (good["original_checksum"], good["current_checksum"], good["current_size"]) == (EMPTY, EMPTY, 0)
    (door.site.store / "f").write_text("rotten")
    (bad,) = door.ask("validate/file", {"file_name": "f"}, who="reader").body
    assert bad["computed_same_checksum"] is False and (bad["original_size"], bad["current_size"]) == (0, 6)
    (door.site.store / "f").unlink()
    assert door.ask("validate/file", {"file_name": "f"}, who="reader").body == []
    assert door.ask("validate/file", {"file_name": "gone"}, who="reader").status == 400


def test_only_the_named_neighbour_may_ask_for_a_file_again_and_only_for_what_it_was_sent(sending: Sending) -> None:
    for endpoint in ("corrupt/prepare", "corrupt/resend"):
        for who, named in (("x", "b"), ("boss", "b"), ("boss", "boss")):
            assert sending.door.ask(endpoint, {"file_name": "f", "librarian_name": named}, who=who).status == 401
        never_sent = sending.door.ask(endpoint, {"file_name": "f", "librarian_name": "x"}, who="x")
        no_such = sending.door.ask(endpoint, {"file_name": "none", "librarian_name": "x"}, who="x")
        assert never_sent.status == no_such.status == 409 and never_sent.raw == no_such.raw


def test_a_file_is_not_sent_again_from_a_copy_that_is_bad(sending: Sending) -> None:
    (sending.pair.a.store / "f").write_text("rotten")
    asked = {"file_name": "f", "librarian_name": "b"}
    assert sending.door.ask("corrupt/prepare", asked, who="b").status == 409
    sending.pair.a.run(0, "set-librarian-transfer", "--name", "b", "--disabled")
    assert sending.door.ask("corrupt/prepare", {**asked, "file_name": "g"}, who="b").status == 409


@pytest.fixture(autouse=True)
def _one_process_is_enough() -> Iterator[None]:
    """No test leaves an alarm or a child behind."""
    yield
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_what_is_no_file_any_more_is_not_waited_for(door: Door, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 10)
    door.site.run(0, "ingest", str(tmp_path / "f"))
    door.site.write(max_request_seconds="1s")
    copy = door.site.store / "f"
    copy.unlink()
    os.mkfifo(copy)  # whoever reads it waits
    said = door.cgi("validate/file", b'{"file_name": "f"}', who="a")
    assert said.status == 200 and said.raw == b"[]"


def test_who_does_not_take_the_answer_does_not_keep_the_process(door: Door) -> None:
    door.site.write(displayed_site_description="x" * 500_000)  # more than a pipe holds
    code = "from libtool.commands import callback; callback._WRITE_SECONDS = 0.5; callback.main()"
    words = {"REQUEST_METHOD": "POST", "PATH_INFO": "/api/v2/ping/", "HTTP_AUTHORIZATION": basic("a", "x")}
    environment = os.environ | words | {"LIBTOOL_CONFIG": door.site.config}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) as process:
        try:
            assert process.wait(timeout=20) == 1
        finally:
            process.kill()
