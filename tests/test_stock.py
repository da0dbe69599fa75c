"""Compatible with stock hera_librarian 5: libtool sends to it, receives from it, and stands its recorded exchanges."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from libtool.endpoints import router
from libtool.models.tables import (
    File,
    IncomingTransfer,
    Librarian,
    OutgoingTransfer,
    RemoteInstance,
    Retry,
    live,
    owing,
)
from libtool.states import TransferStatus
from tests import stock as stocks
from tests.cgi_server import serving as cgi
from tests.sites import Ran, Site, make_site, tree
from tests.stock import READAPPEND, STORE_ID, Stock, StockClient, StockHTTPError

SENDING = ("send-clone", "consume-queue", "check-consumed-queue")


class _Door(BaseHTTPRequestHandler):
    """Our callback over real HTTP without a process for each request; the CGI programs have tests of their own."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    site: Site

    def do_POST(self) -> None:
        """One request below ``/a/``."""
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.site.open() as node:
            said = router.answer(node, router.Request(self.command, self.path, self.headers.get("Authorization"), raw))
        self.send_response(said.status)
        for key, value in router.head(said).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(said.body)

    def log_message(self, *words: Any) -> None:
        """Silent."""


@contextmanager
def door(site: Site) -> Iterator[int]:
    """Serve a site's callback in this process; yields the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Door", (_Door,), {"site": site}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def cgi_door(site: Site) -> Iterator[int]:
    """The same through CGI, as it is in the field."""
    with cgi({"a": site.config}) as (port, _):
        yield port


@dataclass
class Met:
    """A libtool librarian ``a`` and a stock one ``b`` that know each other."""

    a: Site
    b: Stock
    client: StockClient
    b_port: int = 0
    may_be_taken_for_libtool: bool = False

    def sending(self, expect: int | None = 0) -> list[Ran]:
        """The three commands of a source, once each."""
        return [self.a.run(expect, command) for command in SENDING]

    def round(self, expect: int | None = 0) -> list[Ran]:
        """The same, and the stock ingest."""
        ran = self.sending(expect)
        self.b.receive()
        return ran

    def until_quiet(self, most: int = 10) -> int:
        """Rounds until nothing is live or owed at our side; what waits is freed before each."""
        for n in range(1, most + 1):
            self.a.run(None, "retry", "--librarian", "b")
            self.round(None)
            self.a.run(None, "recv-clone")
            if self.quiet():
                return n
        raise AssertionError(f"not quiet after {most} rounds: {self.a.status()}")

    def quiet(self) -> bool:
        """Whether nothing is live or owed here."""
        with self.a.open():
            return not any(
                table.select().where(live(table) | owing(table)).exists()
                for table in (OutgoingTransfer, IncomingTransfer)
            )

    def ingest(self, top: Path, files: dict[str, bytes]) -> None:
        """Have these files at our side."""
        for name, content in files.items():
            path = top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.a.run(0, "ingest", "--recursive", str(top))

    def remote(self) -> Counter[str]:
        """The names of which our side knows a copy at the stock one, and how many."""
        with self.a.open():
            rows = RemoteInstance.select(File.name, RemoteInstance.store_id).join(File).tuples()
            assert all(store == STORE_ID for _, store in rows)
            return Counter(name for name, _ in rows)

    def whole(self, files: dict[str, bytes]) -> None:
        """All of these lie at the stock side, each once, and are known at ours, each once; nothing is left."""
        assert self.b.content() == files
        assert self.remote() == dict.fromkeys(files, 1)
        done = Counter(row.store_path for row in self.b.incoming.values() if row.status == stocks.COMPLETED)
        assert set(done.values()) <= {1}
        assert list(self.b.staging.iterdir()) == []
        assert self.quiet()
        asked = len(self.b.asked)
        for ran in self.sending():
            assert (ran.out, ran.err) == ("", "")
        assert len(self.b.asked) == asked

    def endpoints(self) -> Counter[str]:
        """What the stock side was asked, and how often."""
        return Counter(endpoint for endpoint, _, _ in self.b.asked)


@contextmanager
def meeting(top: Path, level: str = "CALLBACK", register: bool = True, served: Any = door) -> Iterator[Met]:
    """Both, serving."""
    stock = Stock("b", top / "b")
    stock.accounts["a"] = ("the-password", READAPPEND)
    a = make_site(
        "a",
        top / "a",
        local_transfer_roots=[str(top / "b")],
        commands={"send-clone": {"destination_librarian": "b", "send_batch_size": 25}},
    )
    password = a.run(0, "create-user", "--username", "b", "--auth-level", level).out.strip()
    with stocks.serving(stock) as b_port, served(a) as a_port:
        client = StockClient("http://127.0.0.1/a/", a_port, "b", password)
        stock.peers["a"] = client
        met = Met(a, stock, client, b_port)
        if register:
            introduce(met)
        yield met
    ours = [endpoint for endpoint, _, _ in stock.asked if endpoint.startswith("libtool/")]
    assert met.may_be_taken_for_libtool or not ours, "only spoken to who announced it"


def introduce(met: Met, password: str = "the-password", port: int | None = None) -> None:
    """Register the stock librarian at ours."""
    words = ["--name", "b", "--url", "http://127.0.0.1", "--port", str(port or met.b_port), "--authenticator", "-"]
    met.a.run(0, "add-librarian", *words, "--do-not-check-connection", stdin=f"a:{password}\n")


@pytest.fixture
def met(tmp_path: Path) -> Iterator[Met]:
    """A libtool source and a stock destination."""
    with meeting(tmp_path) as found:
        yield found


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[Met]:
    """The same, and the stock one may send."""
    with meeting(tmp_path, "READAPPEND") as found:
        yield found


def some(count: int, prefix: str = "f") -> dict[str, bytes]:
    return {f"{prefix}/{n % 3}/{n}": b"%d" % n * (n + 1) for n in range(count)}


ODD = {
    "a b/c'd\"e": b"quotes",
    "line\nbreak": b"newline",
    "tab\t\\back": b"\\",
    "ünï/çødé/日本": b"unicode",
    "empty": b"",
    "also empty": b"",
    "deep/" + "/".join("abcdefghijk") + "/leaf": b"deep",
    "%2e%2e/..x/.hidden": b"dots",
    "l" * 250: b"nearly too long",
    "-rf": b"an option",
}


# -- libtool → stock ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("served", [cgi_door, door])
def test_a_clone_to_stock_in_several_batches(tmp_path: Path, served: Any) -> None:
    with meeting(tmp_path, served=served) as met:
        clone_in_batches(met, tmp_path)


def clone_in_batches(met: Met, tmp_path: Path) -> None:
    files = some(50) | ODD
    met.ingest(tmp_path / "source", files)
    met.round()
    met.whole(files)
    asked = met.endpoints()
    assert asked["clone/batch_stage"] == 3  # 60 files, 25 in each
    assert asked["ping/logged"] == 1 and asked["ping/"] == 0  # ping/ says yes to any password
    assert asked["checkin/update"] <= 4
    # Shapes: every field there, numbers as integers, both names whole.
    for endpoint, body, status in met.b.asked:
        assert status in (200, 201)
        if endpoint == "clone/batch_stage":
            assert set(body) == {"uploads", "source", "total_size"} and body["source"] == "a"
            assert body["total_size"] == sum(item["upload_size"] for item in body["uploads"])
            for item in body["uploads"]:
                assert item["upload_name"] == item["destination_location"] in files
                keys = "upload_size upload_checksum upload_name destination_location uploader source_transfer_id"
                assert set(item) == set(keys.split())
        if endpoint == "checkin/update":
            assert (
                body["new_status"] in (1, 2) and type(body["new_status"]) is int and body["source_transfer_ids"] == []
            )


def test_a_directory_travels_to_stock_as_one_file(met: Met, tmp_path: Path) -> None:
    for name, content in {"T/a": b"A", "T/b/x": b"BB", "T/b/c/y": b""}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    met.a.run(0, "ingest", str(tmp_path / "T"), "night/T")
    met.round()
    assert met.b.files["night/T"].checksum == "xxh3:::552ecda94f9329fccab801f46e7b5f8a"
    assert tree(met.b.store / "night/T") == {"a": b"A", "b/x": b"BB", "b/c/y": b""}
    assert met.remote() == {"night/T": 1}


def test_what_is_copied_into_a_stock_staging_area_has_the_modes_that_its_owner_needs(met: Met, tmp_path: Path) -> None:
    met.ingest(tmp_path / "source", {"one/two/three": b"3"})
    old = os.umask(0o027)
    try:
        met.sending()
    finally:
        os.umask(old)
    row = met.b.incoming[1]
    modes = {str(path.relative_to(row.staging)): oct(path.stat().st_mode & 0o777) for path in row.staging.rglob("*")}
    # As the stock copier leaves them: the other account may move the file out and remove the directories.
    assert modes == {"one": "0o775", "one/two": "0o775", "one/two/three": "0o664"}


def test_names_too_long_for_stock_are_parked_by_name_before_anything_is_sent(met: Met, tmp_path: Path) -> None:
    long = "/".join(["n" * 100] * 3)
    assert len(long) > stocks.LONGEST_NAME
    fits = "é" * 120 + "/" + "x" * 135
    assert len(fits) == stocks.LONGEST_NAME
    met.ingest(tmp_path / "source", {long: b"long", fits: b"fits", "short": b"short"})
    ran = met.a.run(3, "send-clone")
    assert long in ran.err and "256" in ran.err
    assert not any(long in json.dumps(body) for _, body, _ in met.b.asked if isinstance(body, dict))
    for command in SENDING[1:]:
        met.a.run(0, command)
    met.b.receive()
    assert met.b.content() == {fits: b"fits", "short": b"short"}
    asked = len(met.b.asked)
    assert met.a.run(0, "send-clone").err == "" and len(met.b.asked) == asked  # told once, tried never again
    met.a.run(0, "retry", "--librarian", "b", long)
    assert long in met.a.run(3, "send-clone").err
    assert len([1 for endpoint, _, _ in met.b.asked if endpoint == "clone/batch_stage"]) == 1


def test_what_stock_has_already_is_registered_and_the_rest_goes_in_the_same_run(met: Met, tmp_path: Path) -> None:
    files = some(20)
    there, other = list(files)[:6], list(files)[6:9]
    for name in there:
        met.b.hold(name, files[name])
    for name in other:
        met.b.hold(name, b"something else")
    met.ingest(tmp_path / "source", files)
    ran = met.a.run(3, "send-clone")
    for name in other:
        assert f"'{name}' was refused by b" in ran.err
    assert met.remote() == dict.fromkeys(there, 1)
    for command in SENDING[1:]:
        met.a.run(0, command)
    met.b.receive()
    expected = files | dict.fromkeys(other, b"something else")
    assert met.b.content() == expected
    assert met.remote() == dict.fromkeys(set(files) - set(other), 1)
    for ran in met.sending():
        assert ran.err == ""
    with met.a.open():
        assert {row.file.name for row in Retry.select() if row.not_before is None} == set(other)


def test_the_same_name_with_another_kind_of_checksum_at_stock_is_parked_and_says_so(met: Met, tmp_path: Path) -> None:
    met.b.hold("x", b"same")
    met.b.files["x"].checksum = stocks.checksum_of(met.b.files["x"].path, "md5")
    met.ingest(tmp_path / "source", {"x": b"same", "y": b"y"})
    ran = met.a.run(3, "send-clone")
    assert "'x' was refused by b" in ran.err
    assert "kind" in ran.err and "other content" not in ran.err, "nobody knows whether the content differs"


def test_stock_lost_our_answer_and_says_406_so_it_is_sent_again(met: Met, tmp_path: Path) -> None:
    files = some(10)
    met.ingest(tmp_path / "source", files)
    met.b.fault("clone/batch_stage", "lose")
    assert met.a.run(3, "send-clone").out == ""
    assert len(met.b.incoming) == 10
    met.round()
    assert [status for endpoint, _, status in met.b.asked if endpoint == "clone/batch_stage"] == [0, 406, 201]
    met.whole(files)


def test_all_refusals_of_stock_at_once_in_one_run(met: Met, tmp_path: Path) -> None:
    files = some(12)
    names = list(files)
    met.b.hold(names[0], files[names[0]])
    met.b.hold(names[1], b"other")
    met.b.accounts["c"] = ("c-password", READAPPEND)
    for status, name in ((stocks.ONGOING, names[2]), (stocks.INITIATED, names[3])):
        stage_from_elsewhere(met.b, name, files[name], status)
    met.ingest(tmp_path / "source", files)
    ran = met.a.run(3, "send-clone")
    assert f"'{names[1]}' was refused by b" in ran.err
    said = [status for endpoint, _, status in met.b.asked if endpoint == "clone/batch_stage"]
    assert said == [425, 409, 201]  # 406 was among them: that one is destroyed by the first request already
    for command in SENDING[1:]:
        met.a.run(0, command)
    met.b.receive()
    assert set(met.remote()) == set(files) - {names[1], names[2]}
    # The other source gives up; what was busy comes as soon as it is asked for again, and not before.
    met.b.incoming[1].status = stocks.FAILED
    asked = met.endpoints()["clone/batch_stage"]
    met.sending(None)
    assert met.endpoints()["clone/batch_stage"] == asked
    met.until_quiet()
    assert set(met.remote()) == set(files) - {names[1]}


def test_what_is_busy_at_stock_can_be_asked_for_again_by_name(met: Met, tmp_path: Path) -> None:
    met.ingest(tmp_path / "source", {"x": b"x", "y": b"y"})
    stage_from_elsewhere(met.b, "x", b"x", stocks.ONGOING)
    stage_from_elsewhere(met.b, "y", b"y", stocks.ONGOING)
    met.a.run(3, "send-clone")
    for row in met.b.incoming.values():
        row.status = stocks.FAILED
    met.a.run(0, "retry", "--librarian", "b", "x")
    met.round(None)
    assert met.remote() == {"x": 1}, "that one, and not all that waits"


def stage_from_elsewhere(stock: Stock, name: str, content: bytes, status: int) -> None:
    """A third librarian is just bringing a file there."""
    place = stock.staging.parent / "other"
    place.mkdir(exist_ok=True)
    path = place / "content"
    path.write_bytes(content)
    number = len(stock.incoming) + 1
    row = stocks.Incoming(
        number, "c", "c", name, len(content), stocks.checksum_of(path), 1, stock.staging / f"c{number}", name, status
    )
    row.staging.mkdir()
    stock.incoming[number] = row


def test_a_full_stock_librarian_is_told_of_and_gets_all_when_it_has_room(met: Met, tmp_path: Path) -> None:
    files = some(8)
    met.ingest(tmp_path / "source", files)
    met.a.write(notice_after="0s")
    met.b.free = 0
    ran = met.a.run(3, "send-clone")
    assert "no room" in ran.err
    assert met.a.run(3, "send-clone").err == ""
    assert met.b.incoming == {}
    met.b.free = 10**9
    met.round()
    met.whole(files)


def test_a_file_that_is_too_large_for_stock_does_not_hold_up_the_others(met: Met, tmp_path: Path) -> None:
    files = some(8)
    met.ingest(tmp_path / "source", files | {"huge": b"h" * 5000})
    met.b.free = 4000
    met.sending(None)
    met.b.receive()
    assert set(met.remote()) == set(files), "one 413 for a batch says nothing about its smaller files"


def test_a_file_that_stock_chokes_on_does_not_hold_up_the_others(met: Met, tmp_path: Path) -> None:
    files = some(8)
    met.ingest(tmp_path / "source", files)
    met.b.poison = list(files)[3]
    for _ in range(3):
        met.sending(None)
        met.b.receive()
    assert set(met.remote()) == set(files) - {met.b.poison}, "one row that stock itself broke is a 500 for every batch"


def test_a_wrong_password_at_stock_is_exit_4_and_told_once(tmp_path: Path) -> None:
    files = some(3)
    with meeting(tmp_path, register=False) as met:
        introduce(met, "not-the-password")
        met.ingest(tmp_path / "source", files)
        ran = met.a.run(4, "send-clone")
        assert "does not accept our account 'a'" in ran.err
        assert met.a.run(4, "send-clone").err == ""
        assert met.b.incoming == {}
        assert set(met.endpoints()) == {"ping/logged"}
        met.a.run(0, "remove-librarian", "--name", "b")
        introduce(met)
        met.until_quiet()
        met.whole(files)


def test_an_account_that_stock_takes_away_later_is_exit_4(met: Met, tmp_path: Path) -> None:
    files = some(3)
    met.ingest(tmp_path / "source", files)
    met.a.run(0, "send-clone")
    met.a.run(0, "consume-queue")
    met.b.accounts["a"] = ("the-password", stocks.READONLY)
    ran = met.a.run(4, "check-consumed-queue")
    assert "does not accept our account" in ran.err
    met.b.accounts["a"] = ("the-password", READAPPEND)
    met.a.run(0, "check-consumed-queue")
    met.b.receive()
    met.whole(files)


@pytest.mark.parametrize("endpoint", ["ping/logged", "clone/batch_stage", "checkin/update"])
@pytest.mark.parametrize("kind", ["lose", "500", "html"])
def test_one_failure_at_any_call_converges_with_nothing_twice(
    met: Met, tmp_path: Path, endpoint: str, kind: str
) -> None:
    files = some(30)  # two batches, so that the fault also hits between others
    met.ingest(tmp_path / "source", files)
    met.b.fault(endpoint, kind, 2)
    codes = [ran.code for ran in met.round(None)]
    assert set(codes) <= {0, 3}
    met.until_quiet()
    met.whole(files)
    assert all(fault.left == 0 for fault in met.b.faults)


def test_a_lost_answer_to_staged_does_not_send_anything_again(met: Met, tmp_path: Path) -> None:
    files = some(5)
    met.ingest(tmp_path / "source", files)
    met.a.run(0, "send-clone")
    met.a.run(0, "consume-queue")
    met.b.fault("checkin/update", "lose")
    met.a.run(3, "check-consumed-queue")
    assert {row.status for row in met.b.incoming.values()} == {stocks.STAGED}
    met.a.run(0, "check-consumed-queue")
    met.b.receive()
    met.whole(files)
    assert len(met.b.incoming) == 5
    assert met.endpoints()["checkin/status"] == 1  # the second update moved nothing, so it was asked


def test_stock_completes_before_our_lost_answer_is_asked_for_again(met: Met, tmp_path: Path) -> None:
    files = some(5)
    met.ingest(tmp_path / "source", files)
    met.a.run(0, "send-clone")
    met.a.run(0, "consume-queue")
    met.b.fault("checkin/update", "lose")
    met.a.run(3, "check-consumed-queue")
    assert met.b.receive() == []
    met.a.run(0, "check-consumed-queue")
    met.whole(files)


def test_items_left_out_of_the_answer_come_in_a_later_round(met: Met, tmp_path: Path) -> None:
    files = some(6)
    met.ingest(tmp_path / "source", files)
    met.b.fault("clone/batch_stage", "omit")
    ran = met.a.run(3, "send-clone")
    assert "left this file out" in ran.err
    met.until_quiet()
    met.whole(files)


def test_an_update_that_says_less_than_was_asked_is_looked_up(met: Met, tmp_path: Path) -> None:
    files = some(4)
    met.ingest(tmp_path / "source", files)
    met.a.run(0, "send-clone")
    met.a.run(0, "consume-queue")
    met.b.fault("checkin/update", "omit")
    met.a.run(0, "check-consumed-queue")
    met.b.receive()
    met.whole(files)


def test_transfers_that_stock_gave_up_meanwhile_are_sent_anew(met: Met, tmp_path: Path) -> None:
    files = some(6)
    met.ingest(tmp_path / "source", files)
    met.a.run(0, "send-clone")
    met.a.run(0, "consume-queue")
    for id in (1, 2):
        met.b.incoming[id].status = stocks.CANCELLED if id == 1 else stocks.FAILED
    ran = met.a.run(3, "check-consumed-queue")
    assert "FAILED" in ran.err and "CANCELLED" in ran.err
    met.b.receive()
    met.until_quiet()
    for row in met.b.incoming.values():
        if row.status >= stocks.FAILED:  # stock leaves those places behind (P23)
            shutil.rmtree(row.staging, ignore_errors=True)
    met.whole(files)


@pytest.mark.parametrize("kind", ["provider", "null"])
def test_a_carrier_that_we_do_not_have_is_exit_4_and_nothing_is_left_there(met: Met, tmp_path: Path, kind: str) -> None:
    files = some(4)
    met.ingest(tmp_path / "source", files)
    met.b.fault("clone/batch_stage", kind)
    ran = met.a.run(4, "send-clone")
    assert "nothing here can carry files to it" in ran.err
    met.a.run(None, "check-consumed-queue")
    assert {row.status for row in met.b.incoming.values()} == {stocks.FAILED}
    met.until_quiet()
    assert met.b.content() == files and met.remote() == dict.fromkeys(files, 1)


@pytest.mark.parametrize("kind", ["lose", "500", "html"])
def test_a_failure_while_looking_at_what_stock_has_converges(met: Met, tmp_path: Path, kind: str) -> None:
    files = some(12)
    for name in list(files)[:5]:
        met.b.hold(name, files[name])
    met.ingest(tmp_path / "source", files)
    met.b.fault("search/file", kind)
    met.a.run(3, "send-clone")
    met.until_quiet()
    met.whole(files)


def test_a_failed_ingest_at_stock_is_a_new_attempt(met: Met, tmp_path: Path) -> None:
    files = some(6)
    met.ingest(tmp_path / "source", files)
    bad = list(files)[:2]
    met.sending()
    assert met.b.receive(lambda row: row.store_path in bad) == []
    with met.a.open():
        failed = OutgoingTransfer.select().where(OutgoingTransfer.status == TransferStatus.FAILED)
        assert {row.file.name for row in failed} == set(bad)
        assert Retry.select().count() == 2
    assert set(met.remote()) == set(files) - set(bad)
    met.round()
    met.whole(files)
    with met.a.open():
        assert Retry.select().count() == 0


def test_bytes_that_change_on_the_way_are_found_by_stock_and_sent_again(met: Met, tmp_path: Path) -> None:
    files = some(3)
    met.ingest(tmp_path / "source", files)
    met.sending()
    met.b.incoming[2].location.write_bytes(b"spoilt")
    met.b.receive()
    met.round()
    met.whole(files)


def test_stock_cannot_tell_us_so_nothing_is_claimed_and_nothing_is_sent_again(met: Met, tmp_path: Path) -> None:
    files = some(4)
    met.ingest(tmp_path / "source", files)
    met.sending()
    bad = next(iter(files))
    port, met.client.port = met.client.port, 9
    assert len(met.b.receive(lambda row: row.store_path == bad)) == 4  # its one attempt each (P20)
    met.client.port = port
    asked = len(met.b.asked)
    for ran in met.round():
        assert ran.err == ""
    assert met.remote() == {} and len(met.b.asked) == asked
    # It is STAGED here until somebody asks; what stock then says by itself still counts.
    for row in met.b.incoming.values():
        if row.status == stocks.COMPLETED:
            message = {"source_transfer_id": row.source_id, "destination_transfer_id": row.id, "store_id": STORE_ID}
            met.client.post("clone/complete", message, stocks.is_pair)
        else:
            met.b._tell("a", "source", [row.source_id], stocks.FAILED)
    met.round()
    met.whole(files)


def test_complete_is_replayable_and_only_for_the_destination(met: Met, tmp_path: Path) -> None:
    files = some(2)
    met.ingest(tmp_path / "source", files)
    met.round()
    message = {"source_transfer_id": 1, "destination_transfer_id": 1, "store_id": STORE_ID}
    assert met.client.post("clone/complete", message, stocks.is_pair) == {
        "source_transfer_id": 1,
        "destination_transfer_id": 1,
    }
    assert met.remote() == dict.fromkeys(files, 1)
    with pytest.raises(StockHTTPError, match="400 Could not find transfer"):
        met.client.post("clone/complete", message | {"source_transfer_id": 999}, stocks.is_pair)
    password = met.a.run(0, "create-user", "--username", "c", "--auth-level", "CALLBACK").out.strip()
    other = StockClient(met.client.host, met.client.port, "c", password)
    with pytest.raises(StockHTTPError, match="400"):
        other.post("clone/complete", message, stocks.is_pair)


def test_the_hypervisor_of_stock_reads_our_status(met: Met, tmp_path: Path) -> None:
    files = some(3)
    met.ingest(tmp_path / "source", files)
    met.b.fault("checkin/update", "500")
    met.a.run(None, "send-clone")
    assert {row.status for row in met.b.incoming.values()} == {stocks.INITIATED}
    met.b.incoming_hypervisor()
    assert {row.status for row in met.b.incoming.values()} == {stocks.ONGOING}  # caught up, not failed
    met.a.run(0, "consume-queue")
    met.a.run(0, "check-consumed-queue")
    met.b.incoming_hypervisor()
    met.b.receive()
    met.whole(files)
    body = {"source_transfer_ids": [1, 999], "destination_transfer_ids": [1]}
    said = met.client.post("checkin/status", body, stocks.is_statuses)
    assert said == {"source_transfer_status": {"1": 3, "999": None}, "destination_transfer_status": {"1": None}}
    body = {"source_transfer_ids": [1, 999], "destination_transfer_ids": [], "new_status": 4}
    said = met.client.post("checkin/update", body, stocks.is_updated)
    assert (
        said["unmodified_source_transfer_ids"] == [1, 999]
        and said["modified_source_transfer_ids"] == []
        and said["reasons"]
    )


def test_a_wrong_slash_at_stock_is_never_followed_with_the_password(met: Met, tmp_path: Path) -> None:
    met.ingest(tmp_path / "source", {"x": b"x"})
    met.round()
    assert {status for _, _, status in met.b.asked} <= {200, 201}


def test_stock_asks_for_a_file_again_because_its_copy_went_bad(met: Met, tmp_path: Path) -> None:
    files = some(3)
    met.ingest(tmp_path / "source", files)
    met.round()
    name = next(iter(files))
    message = {"file_name": name, "librarian_name": "b"}
    assert met.client.post("corrupt/prepare", message, lambda body: body["ready"] is True)
    # It still has its row: our answer must be an error that its fixer can read.
    with pytest.raises(StockHTTPError, match="409"):
        met.client.post("corrupt/resend", message, lambda body: body["success"])
    met.b.files.pop(name).path.unlink()
    said = met.client.post("corrupt/resend", message, lambda body: body["success"] is True)
    row = met.b.incoming[said["destination_transfer_id"]]
    assert (row.name, row.status) == (name, stocks.ONGOING)
    for command in SENDING[1:]:
        met.a.run(0, command)
    met.b.receive()
    assert met.b.content() == files and met.remote() == dict.fromkeys(files, 1)
    for wrong in ({"file_name": "nope"}, {"librarian_name": "c"}):
        with pytest.raises(StockHTTPError):
            met.client.post("corrupt/prepare", message | wrong, lambda body: True)


def test_a_librarian_that_goes_back_to_stock_is_not_spoken_to_as_libtool(met: Met, tmp_path: Path) -> None:
    met.may_be_taken_for_libtool = True
    with met.a.open() as node:
        Librarian.update(features="clone-batch", features_time=node.now()).where(Librarian.name == "b").execute()
    files = some(3)
    met.ingest(tmp_path / "source", files)
    met.until_quiet()
    ours = [endpoint for endpoint, _, _ in met.b.asked if endpoint.startswith("libtool/")]
    assert len(ours) <= 1, "one 404 without our header is enough to know"
    met.whole(files)


# -- stock → libtool ----------------------------------------------------------------------------------------------


def took(met: Met) -> dict[str, bytes]:
    """One cycle of stock, our ingest, and what lies in our store then."""
    met.b.cycle("a")
    met.a.run(None, "recv-clone")
    return met.a.stored()


def test_a_clone_from_stock_through_cgi(tmp_path: Path) -> None:
    with meeting(tmp_path, "READAPPEND", served=cgi_door) as fed:
        test_a_clone_from_stock(fed)


def test_a_clone_from_stock(fed: Met) -> None:
    files = some(20) | ODD
    for name, content in files.items():
        fed.b.hold(name, content)
    (fed.b.store / "dir/in").mkdir(parents=True)
    (fed.b.store / "dir/in/x").write_bytes(b"BB")
    path = fed.b.store / "dir"
    fed.b.files["dir"] = stocks.Held("dir", 2, stocks.checksum_of(path), "u", "u", path)
    assert fed.b.cycle("a", batch=16) == []
    fed.a.run(0, "recv-clone")
    assert fed.a.stored() == files | {"dir/in/x": b"BB"}
    assert Counter(fed.b.remote) == {(name, "a", 1): 1 for name in fed.b.files}
    assert {row.status for row in fed.b.outgoing.values()} == {stocks.COMPLETED}
    assert fed.a.staged() == []
    complete = [body for endpoint, body, _ in fed.b.asked if endpoint == "clone/complete"]
    assert len(complete) == len(fed.b.files)
    for body in complete:
        assert set(body) == {"source_transfer_id", "destination_transfer_id", "store_id"}
        assert all(type(value) is int for value in body.values())
    asked = len(fed.b.asked)
    assert fed.b.cycle("a") == []
    ran = fed.a.run(0, "recv-clone")
    assert (ran.out, ran.err) == ("", "") and len(fed.b.asked) == asked


def test_the_parents_of_every_staging_location_are_there_and_the_leaf_is_not(fed: Met) -> None:
    for name in ("a/b/c/d/leaf", "top", "a/b/other"):
        fed.b.hold(name, name.encode())
    fed.b.send("a")
    for row in fed.b.outgoing.values():
        location = Path(row.location)
        assert location.is_absolute() and location.parent.is_dir() and not location.exists()
        assert location.is_relative_to(fed.a.staging)


def test_all_identical_files_are_told_at_once_and_the_rest_comes_next(fed: Met, tmp_path: Path) -> None:
    files = some(10)
    there = dict(list(files.items())[:4])
    fed.ingest(tmp_path / "source", there)
    for name, content in files.items():
        fed.b.hold(name, content)
    log = fed.b.send("a")
    assert log == ["409 File already exists on librarian."]
    refusal = next(body for endpoint, status, body in fed.client.heard if status == 409)
    assert len(refusal["source_transfer_ids"]) == 4 and refusal["destination_transfer_ids"] == [-1] * 4
    assert Counter(name for name, _, _ in fed.b.remote) == dict.fromkeys(there, 1)
    assert took(fed) == files
    assert Counter(name for name, _, _ in fed.b.remote) == dict.fromkeys(files, 1)


def test_what_cannot_come_is_left_out_and_the_rest_comes(fed: Met, tmp_path: Path) -> None:
    files = some(6)
    other = {next(iter(files)): b"other content here"}
    fed.ingest(tmp_path / "source", other)
    for name, content in files.items():
        fed.b.hold(name, content)
    # Names that stock can send and nobody may have, and a file inside another one.
    for bad in ("../escape", "/etc/absolute", f"{list(files)[1]}/inside"):
        path = fed.b.files[list(files)[2]].path
        fed.b.files[bad] = stocks.Held(bad, path.stat().st_size, stocks.checksum_of(path), "u", "u", path)
    log = fed.b.cycle("a")
    out = {line.removeprefix("left out: ") for line in log}
    assert {"../escape", "/etc/absolute", next(iter(files))} <= out and len(out) == 4
    fed.a.run(0, "recv-clone")
    stored = fed.a.stored()
    assert stored == files | other or f"{list(files)[1]}/inside" in stored
    assert not (tmp_path / "escape").exists()
    before = len(fed.a.staged())
    fed.b.cycle("a")  # again under new numbers, again left out, nothing piles up
    fed.a.run(0, "recv-clone")
    assert len(fed.a.staged()) == before == 0


def test_a_batch_of_which_nothing_can_come_is_an_answer_that_stock_can_read(fed: Met, tmp_path: Path) -> None:
    fed.ingest(tmp_path / "source", {"x": b"mine"})
    fed.b.hold("x", b"theirs")
    assert fed.b.send("a") == ["left out: x"]


def test_stock_asks_again_because_it_lost_our_answer(fed: Met) -> None:
    """It fails its rows and comes with new numbers; places that nobody fills any more are given back."""
    files = some(5)
    for name, content in files.items():
        fed.b.hold(name, content)
    real = fed.client.post

    def lose(endpoint: str, body: Any, check: Callable[[Any], bool]) -> Any:
        real(endpoint, body, check)
        if endpoint == "clone/batch_stage":
            raise stocks.StockTimeout("lost")

    fed.client.post = lose  # type: ignore[method-assign]
    assert fed.b.send("a") == ["lost"]
    fed.client.post = real  # type: ignore[method-assign]
    assert took(fed) == files
    assert fed.a.staged() == []
    assert Counter(name for name, _, _ in fed.b.remote) == dict.fromkeys(files, 1)
    with fed.a.open():
        states = Counter(row.status.name for row in IncomingTransfer.select())
    assert states == {"COMPLETED": 5, "FAILED": 5}


def test_a_checkin_that_stock_lost_the_answer_of_does_no_harm(fed: Met) -> None:
    files = some(3)
    for name, content in files.items():
        fed.b.hold(name, content)
    fed.b.send("a")
    ids = [row.remote_id for row in fed.b.outgoing.values()]
    body = {"source_transfer_ids": [], "destination_transfer_ids": [*ids, 999], "new_status": 1}
    said = fed.client.post("checkin/update", body, stocks.is_updated)
    assert said["modified_destination_transfer_ids"] == [] and said["reasons"]
    assert said["unmodified_destination_transfer_ids"] == [*ids, 999]
    fed.b.consume()
    body["new_status"] = 2
    said = fed.client.post("checkin/update", body, stocks.is_updated)
    assert said["modified_destination_transfer_ids"] == ids and said["unmodified_destination_transfer_ids"] == [999]
    fed.b.check()
    fed.a.run(0, "recv-clone")
    assert fed.a.stored() == files
    said = fed.client.post("checkin/update", body | {"new_status": 4}, stocks.is_updated)
    assert said["modified_destination_transfer_ids"] == []  # what is stored stays so
    said = fed.client.post(
        "checkin/status", {"source_transfer_ids": [], "destination_transfer_ids": [*ids, 999]}, stocks.is_statuses
    )
    assert said["destination_transfer_status"] == {str(id): 3 for id in ids} | {"999": None}


def test_stock_is_down_when_we_report_and_is_told_later(fed: Met, tmp_path: Path) -> None:
    files = some(4)
    for name, content in files.items():
        fed.b.hold(name, content)
    fed.b.cycle("a")
    fed.b.fault("clone/complete", "500", 1)
    fed.a.run(3, "recv-clone")
    fed.b.fault("clone/complete", "lose", 1)
    fed.a.run(3, "recv-clone")
    assert fed.a.stored() == files
    # The lost one was taken; what it says to the repetition, 406, settles it.
    fed.a.run(0, "recv-clone")
    assert 406 in {status for endpoint, _, status in fed.b.asked if endpoint == "clone/complete"}
    assert Counter(fed.b.remote) == {(name, "a", 1): 1 for name in files}
    assert fed.quiet() and fed.a.run(0, "recv-clone").err == ""


def test_stock_has_no_server_when_we_report(fed: Met) -> None:
    fed.b.hold("x", b"x")
    fed.b.cycle("a")
    with fed.a.open():
        Librarian.update(port=9).where(Librarian.name == "b").execute()
    fed.a.run(3, "recv-clone")
    assert fed.a.stored() == {"x": b"x"} and fed.b.remote == []
    with fed.a.open():
        Librarian.update(port=fed.b_port).where(Librarian.name == "b").execute()
    fed.a.run(0, "recv-clone")
    assert fed.b.remote == [("x", "a", 1)]


def test_we_report_before_stock_has_written_down_that_it_is_staged(fed: Met) -> None:
    """Its checkin/update is answered, its own row still says INITIATED (P18): 406 now, and STAGED a moment later."""
    fed.b.hold("x", b"x")
    fed.b.send("a")
    fed.b.consume()
    row = fed.b.outgoing[1]
    row.status = stocks.INITIATED
    body = {"source_transfer_ids": [], "destination_transfer_ids": [row.remote_id], "new_status": 2}
    fed.client.post("checkin/update", body, stocks.is_updated)
    fed.a.run(None, "recv-clone")
    row.status, row.queued = stocks.STAGED, False
    fed.a.run(None, "recv-clone")
    assert fed.b.remote == [("x", "a", 1)], "406 settles only what checkin/status says has ended there"


def test_a_bad_arrival_from_stock_is_told_and_sent_again(fed: Met) -> None:
    fed.b.hold("x", b"right")
    fed.b.hold("y", b"y")
    fed.b.send("a")
    fed.b.consume()
    Path(fed.b.outgoing[1].location).write_bytes(b"wrong")
    fed.b.check()
    ran = fed.a.run(3, "recv-clone")
    assert "'x' from b was not stored" in ran.err
    assert fed.b.outgoing[1].status == stocks.FAILED and fed.b.outgoing[2].status == stocks.COMPLETED
    assert took(fed) == {"x": b"right", "y": b"y"}
    assert fed.a.staged() == []


def test_stock_fails_a_transfer_and_its_place_is_given_back(fed: Met) -> None:
    fed.b.hold("x", b"x")
    fed.b.send("a")
    fed.b.consume()
    fed.b._fail([fed.b.outgoing[1]])  # clone/fail, which must be answered with its model
    fed.a.run(0, "recv-clone")
    assert fed.a.staged() == [] and fed.a.stored() == {}
    ids = {"source_transfer_id": 1, "destination_transfer_id": 999, "reason": "x"}
    with pytest.raises(StockHTTPError, match="404") as refusal:
        fed.client.post("clone/fail", ids, stocks.is_done)
    assert refusal.value.whole["destination_transfer_id"] == 999
    assert took(fed) == {"x": b"x"}
    done = {"source_transfer_id": 2, "destination_transfer_id": fed.b.outgoing[2].remote_id, "reason": "late"}
    fed.client.post("clone/fail", done, stocks.is_done)
    with fed.a.open():
        assert IncomingTransfer.get_by_id(done["destination_transfer_id"]).status is TransferStatus.COMPLETED


def test_the_outgoing_hypervisor_of_stock_reads_our_search(fed: Met) -> None:
    fed.b.hold("x", b"x")
    fed.b.hold("never came", b"y")
    fed.b.send("a")
    fed.b.consume()
    ids = [fed.b.outgoing[1].remote_id]
    fed.client.post(
        "checkin/update",
        {"source_transfer_ids": [], "destination_transfer_ids": ids, "new_status": 2},
        stocks.is_updated,
    )
    fed.b.fault("clone/complete", "500")
    fed.a.run(3, "recv-clone")
    fed.b.outgoing_hypervisor()
    assert fed.b.remote == [("x", "a", 1)]
    assert fed.b.outgoing[1].status == stocks.COMPLETED and fed.b.outgoing[2].status == stocks.FAILED
    with fed.a.open():
        assert IncomingTransfer.get(IncomingTransfer.name == "never came").status is TransferStatus.FAILED
    fed.a.run(0, "recv-clone")  # 406: it knows already
    assert fed.b.remote == [("x", "a", 1)] and fed.quiet()


def test_times_numbers_and_unknown_names_as_stock_reads_them(fed: Met, tmp_path: Path) -> None:
    fed.ingest(tmp_path / "source", {"x": b"x"})
    message = {"name": "x", "create_time_window": None, "uploader": None, "source": None, "max_results": 64}
    found = fed.client.post("search/file", message, stocks.is_found)
    assert len(found[0]["create_time"]) == 26  # naive, microseconds
    assert [type(copy["store_id"]) for copy in found[0]["instances"]] == [int]
    with pytest.raises(StockHTTPError) as refusal:
        fed.client.post("search/file", message | {"name": "nope"}, stocks.is_found)
    assert (refusal.value.status, refusal.value.reason) == (404, "No files found.")
    good = fed.client.post("validate/file", {"file_name": "x"}, stocks.is_validated)
    assert good[0]["librarian"] == "a" and good[0]["computed_same_checksum"] is True
    with pytest.raises(StockHTTPError, match="400"):
        fed.client.post("validate/file", {"file_name": "nope"}, stocks.is_validated)


def test_stock_comes_as_somebody_else_or_with_too_little(fed: Met) -> None:
    body = {"uploads": [], "source": "somebody", "total_size": 0}
    with pytest.raises(StockHTTPError, match="401 Incorrect username or password"):
        fed.client.post("clone/batch_stage", body, stocks.is_batch_staged)
    with pytest.raises(StockHTTPError, match="400"):
        fed.client.post("clone/batch_stage", body | {"source": "b", "total_size": -1}, stocks.is_batch_staged)
    with pytest.raises(StockHTTPError, match="422"):
        fed.client.post("clone/batch_stage", {"uploads": [{}], "source": "b"}, stocks.is_batch_staged)
    fed.client.post("clone/batch_stage", body | {"source": "b"}, stocks.is_batch_staged)
    item = {
        "upload_size": 2**62,
        "upload_checksum": "xxh3:::" + "0" * 32,
        "upload_name": "x",
        "destination_location": "x",
    }
    big = {"uploads": [item | {"uploader": "u", "source_transfer_id": 1}], "source": "b", "total_size": 2**62}
    with pytest.raises(StockHTTPError, match="413"):
        fed.client.post("clone/batch_stage", big, stocks.is_batch_staged)


def test_every_error_that_a_stock_client_may_get_is_flat(fed: Met) -> None:
    """The parser of stock crashes on anything else, which would leave its transfers INITIATED for ever."""
    wrong = StockClient(fed.client.host, fed.client.port, "b", "wrong")
    for endpoint in router.ENDPOINTS:
        for client, body in (
            (wrong, {}),
            (fed.client, {"source_transfer_ids": "x", "uploads": 3, "max_results": "many"}),
        ):
            try:
                client.post(endpoint, body, lambda found: True)
            except StockHTTPError as refusal:
                assert (
                    refusal.reason != "<no reason provided>" and refusal.remedy != "<no suggested remedy provided>"
                ), endpoint
    with pytest.raises(StockHTTPError, match="404 There is no such endpoint"):
        fed.client.post("nope", {}, lambda found: True)


def test_the_stock_client_here_crashes_where_the_real_one_does(met: Met) -> None:
    """So that the tests above would notice."""
    client = StockClient("http://127.0.0.1", met.b_port, "a", "the-password")
    with pytest.raises(stocks.StockCrash):
        client.post("clone/complete", {"source_transfer_id": "x"}, stocks.is_pair)
    with pytest.raises(StockHTTPError, match="401"):
        StockClient("http://127.0.0.1", met.b_port, "a", "x").post("ping/logged", {}, stocks.is_ping)
    assert StockClient("http://127.0.0.1", met.b_port, "a", "x").post("ping/", {}, stocks.is_ping)["name"] == "Stock b"
    assert client.post("ping", {}, stocks.is_ping)  # 307, followed
