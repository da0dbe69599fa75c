"""Operators at other librarians: libtool's commands with --connection, at libtool and at stock servers; and the stock
command and scripts at ours."""

from __future__ import annotations

import io
import json
import secrets
import string
import sys
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from libtool import cli
from tests.cgi_server import serving as cgi
from tests.sites import Pair, Ran, introduce, make_pair, make_site
from tests.stock import ADMIN, CALLBACK, READAPPEND, StockHTTPError
from tests.stock import serving as stock_serving
from tests.stock_admin import StockAdminClient, StockOffice


def libtool(expect: int, *words: str, stdin: str = "") -> Ran:
    """A command of somebody who has no librarian."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.stdin = sys.stdin, io.StringIO(stdin)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = cli.run(list(words))
    finally:
        sys.stdin = before
    assert code == expect, (words, code, out.getvalue(), err.getvalue())
    return Ran(code, out.getvalue(), err.getvalue())


def rows(*words: str) -> Any:
    """What a command shows as JSON."""
    return json.loads(libtool(0, *words, "-F", "json").out)


@dataclass
class Far:
    """Another librarian behind the connection ``far``, with an administrator's account there."""

    kind: str
    store: str
    file: str
    neighbour: tuple[str, str]  #: URL and port of a librarian that it can reach, or thinks it can


@pytest.fixture(params=["libtool", "stock"])
def far(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    """A librarian of each kind; the connection stands in the file of libtool, or in that of the stock command."""
    home = tmp_path / "home"
    (home / ".config" / "libtool").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    with ExitStack() as stack:
        if request.param == "libtool":
            site = make_site("b", tmp_path / "b")
            (tmp_path / "f").write_text("light")
            site.run(0, "ingest", str(tmp_path / "f"))
            site.run(0, "create-user", "--username", "boss", "--auth-level", "ADMIN", "--password", "-", stdin="boss-password\n")
            port, _ = stack.enter_context(cgi({"b": site.config}))
            url, store = "http://127.0.0.1/b", "main"
            (home / "secret").write_text("boss-password\n")
            (home / "secret").chmod(0o600)
            text = f"connections:\n  far: {{url: {url}, port: {port}, user: boss, password: 'file:~/secret'}}\n"
            (home / ".config" / "libtool" / "connections.yaml").write_text(text)
        else:
            office = StockOffice("b", tmp_path / "b")
            office.accounts["boss"] = ("boss-password", ADMIN)
            office.reachable = {"c"}
            path = office.store / "f"
            path.write_text("light")
            from tests.stock import Held, checksum_of

            office.files["f"] = Held("f", 5, checksum_of(path), "boss", "b", path)
            port = stack.enter_context(stock_serving(office))
            url, store = "http://127.0.0.1", "store"
            cfg = home / ".hl_client.cfg"
            cfg.write_text(json.dumps({"connections": {"far": {"user": "boss", "port": port, "host": url, "password": "boss-password"}}}))
            cfg.chmod(0o600)
        yield Far(request.param, store, "f", (url, str(port)))


def test_accounts(far: Far) -> None:
    """Made, refused twice, looked at, removed; the password that is shown is the one that is good."""
    libtool(0, "create-user", "--username", "c", "--auth-level", "CALLBACK", "--dry-run", "far")
    made = libtool(0, "create-user", "--username", "c", "--auth-level", "CALLBACK", "--connection", "far").out.strip()
    assert len(made) == 32
    refused = libtool(1, "create-user", "--username", "c", "--auth-level", "CALLBACK", "far").err
    assert "c" in refused and made not in refused
    assert "would delete" in libtool(0, "delete-user", "--username", "c", "--dry-run", "far").out
    libtool(0, "delete-user", "--username", "c", "far")
    assert "User not found" in libtool(1, "delete-user", "--username", "c", "far").err


def test_neighbours(far: Far) -> None:
    """Registered, refused twice, switched, pinged, removed."""
    libtool(0, "create-user", "--username", "c", "--auth-level", "READONLY", "--password", "-", "far", stdin="c-password\n")
    words = ["--name", "c", "--url", far.neighbour[0], "--port", far.neighbour[1], "--authenticator", "-"]
    account = "c:c-password\n"
    assert "would register" in libtool(0, "add-librarian", *words, "--dry-run", "far", stdin=account).out
    assert rows("get-librarian-list", "far") == []
    libtool(0, "add-librarian", *words, "far", stdin=account)
    assert "registered already" in libtool(1, "add-librarian", *words, "far", stdin=account).err
    (row,) = rows("get-librarian-list", "--connection", "far")
    assert (row["name"], row["transfers_enabled"], row["last_seen"]) == ("c", True, None)
    assert set(row) == {"name", "url", "port", "transfers_enabled", "last_seen", "last_heard"}
    libtool(0, "set-librarian-transfer", "--name", "c", "--disabled", "far")
    (row,) = rows("get-librarian-list", "--ping", "far")
    assert (row["transfers_enabled"], row["available"]) == (False, True)
    assert "does not exist" in libtool(1, "set-librarian-transfer", "--name", "x", "--enabled", "far").err
    libtool(0, "remove-librarian", "--name", "c", "far")
    assert "does not exist" in libtool(1, "remove-librarian", "--name", "c", "far").err
    assert rows("get-librarian-list", "far") == []


def test_a_neighbour_that_does_not_answer_is_not_registered_there(far: Far) -> None:
    words = ["--name", "dead", "--url", "http://127.0.0.1", "--port", "9", "--authenticator", "-"]
    trouble = libtool(1 if far.kind == "libtool" else 3, "add-librarian", *words, "far", stdin="u:some-password\n").err
    assert "Traceback" not in trouble and rows("get-librarian-list", "far") == []
    libtool(0, "add-librarian", *words, "--do-not-check-connection", "far", stdin="u:some-password\n")
    assert [row["name"] for row in rows("get-librarian-list", "far")] == ["dead"]


def test_stores(far: Far) -> None:
    """Shown and switched."""
    (store,) = rows("get-store-list", "far")
    assert (store["name"], store["enabled"], store["available"], store["store_type"]) == (far.store, True, True, "local")
    assert store["free_space"] > 0 and store["ingestible"] is True
    libtool(0, "set-store-state", "--store", far.store, "--disabled", "far")
    assert rows("get-store-list", "far")[0]["enabled"] is False
    libtool(0, "set-store-state", "--store", far.store, "--enabled", "--dry-run", "far")
    assert rows("get-store-list", "far")[0]["enabled"] is False
    for words in (("--dry-run",), ()):
        assert "Store nowhere does not exist" in libtool(1, "set-store-state", "--store", "nowhere", "--enabled", *words, "far").err


def test_files(far: Far) -> None:
    """Searched and read."""
    (found,) = rows("search-files", "--name", "f", "far")
    assert (found["name"], found["size"], found["remote_instances"]) == ("f", 5, [])
    assert found["create_time"].endswith("Z") and found["instances"][0]["available"] is True
    assert rows("search-files", "--name", "none such", "far") == []
    if far.kind == "libtool":  # the stock server for tests does not look at times
        assert rows("search-files", "--create-time-end", "2001-01-01", "far") == []
    (copy,) = rows("validate-file", "f", "--connection", "far")
    assert copy["computed_same_checksum"] is True and copy["current_size"] == 5
    assert "does not exist" in libtool(1, "validate-file", "none such", "--connection", "far").err


def test_a_wrong_account_is_for_a_person(far: Far, tmp_path: Path) -> None:
    home = tmp_path / "home"
    for place in (home / ".config/libtool/connections.yaml", home / ".hl_client.cfg"):
        if place.exists():
            place.write_text(place.read_text().replace("boss", "nobody", 1))
    trouble = libtool(4, "get-store-list", "far").err
    assert "does not accept the account 'nobody'" in trouble and "boss-password" not in trouble


# -- the files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".config" / "libtool").mkdir(parents=True)
    return tmp_path


def write(path: Path, text: str, mode: int = 0o600) -> None:
    """A file with this mode."""
    path.write_text(text)
    path.chmod(mode)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("connections: [", "neither YAML nor JSON"),
        ("a: 1", "connections: expected a mapping"),
        ("connections: {far: 5}", "connections.far: expected url"),
        ("connections: {far: {url: x, user: u, password: p}}", "connections.far.url: expected http"),
        ("connections: {far: {url: 'http://x.org', user: u, password: p}}", "allow_plain_http: true"),
        ("connections: {far: {url: 'https://x.org', port: 0, user: u, password: p}}", "number from 1"),
        ("connections: {far: {url: 'https://x.org', user: u}}", "expected user and password"),
        ("connections: {far: {url: 'https://x.org', pasword: u}}", "far.pasword: there is no such key"),
    ],
)
def test_what_is_wrong_with_a_connection_is_said(home: Path, text: str, words: str) -> None:
    write(home / ".config/libtool/connections.yaml", text)
    assert words in libtool(78, "get-store-list", "far").err


def test_an_unknown_connection_is_guessed_and_the_places_are_named(home: Path) -> None:
    write(home / ".hl_client.cfg", '{"connections": {"archive": {"host": "https://a.org", "port": 443, "user": "u", "password": "p"}}}')
    trouble = libtool(78, "get-store-list", "archve").err
    assert "did you mean 'archive'" in trouble and "connections.yaml" in trouble and ".hl_client.cfg" in trouble


def test_a_file_with_a_password_that_others_can_read_is_refused(home: Path) -> None:
    text = "connections: {far: {url: 'https://x.org', user: u, password: a-password}}"
    write(home / ".config/libtool/connections.yaml", text, 0o644)
    trouble = libtool(78, "get-store-list", "far").err
    assert "chmod 600" in trouble and "a-password" not in trouble


def test_both_spellings_at_once_must_agree(home: Path) -> None:
    assert "Both" in libtool(2, "get-librarian-list", "a", "--connection", "b").err


# -- the stock command and scripts at ours ------------------------------------------------------------------------


@dataclass
class Served:
    """Two libtool librarians behind CGI, and the stock client of an administrator at each."""

    pair: Pair
    port: int
    at_a: StockAdminClient
    at_b: StockAdminClient


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """a and b know each other."""
    configs: dict[str, str] = {}
    with cgi(configs) as (port, _):
        configs |= {name: str(tmp_path / name / "config.yaml") for name in "ab"}
        pair = make_pair(tmp_path, None, lambda site: (f"http://127.0.0.1/{site.name}", port))
        clients = []
        for site in (pair.a, pair.b):
            password = site.run(0, "create-user", "--username", "boss", "--auth-level", "ADMIN").out.strip()
            clients.append(StockAdminClient(f"http://127.0.0.1/{site.name}", port, "boss", password))
        yield Served(pair, port, *clients)


def co_register(client: StockAdminClient, name: str, level: int, register: Any) -> str:
    """What the script of the documentation calls, in its order; returns the authenticator that it prints."""
    client.ping()
    password = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(32))
    client.create_user(name, password, level)
    if register is not None:
        client.add_librarian(**register, check_connection=False)
    return f"{name}:{password}"


def test_the_co_registration_script_works_at_both_sides(tmp_path: Path) -> None:
    configs: dict[str, str] = {}
    with cgi(configs) as (port, _):
        configs |= {name: str(tmp_path / name / "config.yaml") for name in "ab"}
        b = make_site("b", tmp_path / "b")
        a = make_site("a", tmp_path / "a", local_transfer_roots=[str(tmp_path / "b")], commands={"send-clone": {"destination_librarian": "b"}})
        at: dict[str, StockAdminClient] = {}
        for site in (a, b):
            password = site.run(0, "create-user", "--username", "boss", "--auth-level", "ADMIN").out.strip()
            at[site.name] = StockAdminClient(f"http://127.0.0.1/{site.name}", port, "boss", password)
        for_a = co_register(at["b"], "a", READAPPEND, None)
        place = {"port": port}
        for_b = co_register(at["a"], "b", CALLBACK, place | {"name": "b", "host": "http://127.0.0.1/b", "authenticator": for_a})
        at["b"].add_librarian("a", "http://127.0.0.1/a", port, for_b, False)
        (tmp_path / "f").write_text("light")
        a.run(0, "ingest", str(tmp_path / "f"))
        pair = Pair(a, b)
        pair.round()
        assert b.stored() == {"f": b"light"} and pair.quiet()


def test_the_commands_of_the_stock_client(served: Served) -> None:
    """Each once, answered as its models want it; what is refused is refused in the words that it looks for."""
    boss = served.at_a
    (row,) = boss.librarians(ping=True)
    assert (row["name"], row["available"], row["enabled"]) == ("b", True, True)
    boss.set_transfers("b", False)
    assert boss.librarians()[0]["enabled"] is False
    boss.create_user("someone", "some-password", READAPPEND)
    for deed, words in (
        (lambda: boss.create_user("someone", "some-password", READAPPEND), "User already exists"),
        (lambda: boss.delete_user("nobody"), "User not found"),
        (lambda: boss.set_store("nowhere", True), "Store"),
        (lambda: boss.manifest("nowhere"), "Store"),
        (lambda: boss.manifest("main", "nobody"), "Librarian"),
        (lambda: boss.set_transfers("nobody", True), "Librarian"),
        (lambda: boss.remove_librarian("nobody"), "does not exist"),
        (lambda: boss.add_librarian("c", "http://example.org", 80, "c:password", False), "Librarian"),
        (lambda: boss.add_librarian("c", "exec:///etc/passwd", 80, "c:password", False), "Librarian"),
        (lambda: boss.add_librarian("c", "ssh://c@example.org", 22, "c:password", False), "Librarian"),
        (lambda: boss.add_librarian("a", "https://example.org", 443, "c:password", False), "Librarian"),
    ):
        with pytest.raises(StockHTTPError) as refusal:
            deed()
        assert refusal.value.status == 400 and words in refusal.value.reason, (words, refusal.value)
    said = boss.add_librarian("dead", "http://127.0.0.1", 9, "c:password", True)
    assert (said["success"], said["already_exists"]) == (False, False)
    assert boss.add_librarian("b", "http://127.0.0.1", 9, "c:password", True)["already_exists"] is True
    boss.set_store("main", False)
    assert boss.stores()[0]["enabled"] is False
    boss.remove_librarian("b", transfers=True)
    assert boss.librarians() == []


def test_a_disk_travels_with_the_stock_commands(served: Served, tmp_path: Path) -> None:
    """get-store-manifest at a, ingest-manifest at b: b calls a back, although the stock command names as source where
    the files came from at first."""
    disk = tmp_path / "disk"
    for n in range(5):
        (disk / "night" / f"{n}").parent.mkdir(parents=True, exist_ok=True)
        (disk / "night" / f"{n}").write_bytes(b"%d" % n * n)
    a, b = served.pair.a, served.pair.b
    a.run(0, "ingest", "--recursive", str(disk))
    with a.open():
        from libtool.models.tables import File

        File.update(source="instrument").execute()
    manifest = served.at_a.manifest("main", "b", disable=True, mark=True)
    again = served.at_a.manifest("main", "b")
    assert again == manifest  # an answer may be lost on its way
    numbers = [entry["outgoing_transfer_id"] for entry in manifest["store_files"]]
    assert manifest["librarian_name"] == "a" and len(set(numbers)) == 5 and -1 not in numbers
    assert [served.at_b.bring(entry, "a", disk) for entry in manifest["store_files"]] == [True] * 5
    b.run(0, "recv-clone")
    assert set(b.stored()) == {f"night/{n}" for n in range(5)} and served.pair.quiet()
    found = json.loads(a.run(0, "search-files", "-F", "json").out)
    assert [copy["librarian"] for row in found for copy in row["remote_instances"]] == ["b"] * 5
    assert [served.at_b.bring(entry, "a", disk) for entry in manifest["store_files"]] == [False] * 5
    other = dict(manifest["store_files"][1], checksum="xxh3:::" + "0" * 32)
    assert served.at_b.bring(other, "a", disk) is False  # so that the others of the disk come in


def test_an_upload_by_hand(served: Served, tmp_path: Path) -> None:
    """Staged, copied, committed; repeated; wrong bytes; somebody else's."""
    password = served.pair.a.run(0, "create-user", "--username", "pi", "--auth-level", "READAPPEND").out.strip()
    pi = StockAdminClient("http://127.0.0.1/a", served.port, "pi", password)
    body = {"upload_size": 5, "upload_checksum": "md5:::2ac43aa43bf473f9a9c09b4b608619d3", "upload_name": "f", "destination_location": "up/f", "uploader": "pi"}
    place = pi.post("upload/stage", body, lambda said: said["transfer_providers"]["local"]["hostnames"])
    assert pi.post("upload/stage", body, bool)["staging_location"] == place["staging_location"]
    Path(place["staging_location"]).write_bytes(b"light")
    commit = {key: place[key] for key in ("store_name", "destination_location", "transfer_id")} | {"deletion_policy": "1"}
    with pytest.raises(StockHTTPError, match="401"):
        served.at_a.post("upload/commit", commit, lambda said: True)
    for _ in range(2):
        pi.post("upload/commit", commit, lambda said: said == {})
    assert served.pair.a.stored()["up/f"] == b"light"
    with served.pair.a.open():
        from libtool.models.tables import Instance

        assert Instance.get().deletion_policy == 1
    bad = body | {"destination_location": "up/g"}
    place = pi.post("upload/stage", bad, bool)
    Path(place["staging_location"]).write_bytes(b"dark!")
    with pytest.raises(StockHTTPError, match="406"):
        pi.post("upload/commit", {"transfer_id": place["transfer_id"]}, bool)
    assert list(served.pair.a.stored()) == ["up/f"] and served.pair.a.staged() == []
    served.pair.a.run(0, "recv-clone")  # nobody is told: there is nobody who waits


def test_what_recv_clone_may_be_reading_is_not_taken_in_by_a_commit(served: Served) -> None:
    """A commit that ran out of time left it staged; repeating it must not begin beside recv-clone."""
    password = served.pair.a.run(0, "create-user", "--username", "pi", "--auth-level", "READAPPEND").out.strip()
    pi = StockAdminClient("http://127.0.0.1/a", served.port, "pi", password)
    body = {"upload_size": 5, "upload_checksum": "md5:::2ac43aa43bf473f9a9c09b4b608619d3", "upload_name": "f", "destination_location": "f", "uploader": "pi"}
    place = pi.post("upload/stage", body, bool)
    Path(place["staging_location"]).write_bytes(b"light")
    with served.pair.a.open():
        from libtool.models.tables import IncomingTransfer

        IncomingTransfer.update(status=2).where(IncomingTransfer.id == place["transfer_id"]).execute()
    commit = {"transfer_id": place["transfer_id"]}
    with pytest.raises(StockHTTPError, match="425"):
        pi.post("upload/commit", commit, bool)
    assert served.pair.a.stored() == {}
    served.pair.a.run(0, "recv-clone")
    assert served.pair.a.stored() == {"f": b"light"}
    pi.post("upload/commit", commit, lambda said: said == {})


def test_a_file_in_the_store_is_registered_by_an_administrator(served: Served) -> None:
    """Only what lies where its name says, and is what was said."""
    store = served.pair.a.store
    (store / "d").mkdir()
    (store / "d" / "f").write_text("light")
    boss = served.at_a
    body = {"name": "d/f", "create_time": "2026-01-01", "size": 5, "checksum": "md5:::2ac43aa43bf473f9a9c09b4b608619d3", "uploader": "u", "source": "instrument", "path": str(store / "d/f"), "store_name": "main"}
    for change in ({"name": "x"}, {"path": "/etc/hostname", "name": "etc/hostname"}, {"size": 6}, {"checksum": "md5:::0"}, {"store_name": "x"}):
        with pytest.raises(StockHTTPError, match="400 (.*)(Store|File)"):
            boss.post("admin/add_file", body | change, bool)
    assert boss.post("admin/add_file", body, bool) == {"already_exists": False, "file_exists": True, "success": True}
    assert boss.post("admin/add_file", body, bool) == {"already_exists": True, "file_exists": True, "success": True}
    (row,) = json.loads(served.pair.a.run(0, "search-files", "-F", "json").out)
    assert (row["name"], row["source"], row["uploader"]) == ("d/f", "instrument", "u")


def test_instances_and_troubles_are_found(served: Served, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("light")
    served.pair.a.run(0, "ingest", str(tmp_path / "f"))
    served.pair.round()
    boss = served.at_a
    (local,) = boss.post("search/instance_local", {"path": str(served.pair.a.store / "f")}, bool)
    assert (local["file_name"], local["available"]) == ("f", True)
    assert boss.post("search/instance_local", {"id": local["id"], "deletion_policy": "ALLOWED"}, bool) == [local]
    (remote,) = boss.post("search/instance_remote", {"file_name": "f", "sender": "a"}, bool)
    assert (remote["librarian_name"], remote["sender"]) == ("b", "a")
    for endpoint, asked in (
        ("search/instance_local", {"path": "/etc/passwd"}),
        ("search/instance_local", {"available": False}),
        ("search/instance_remote", {"sender": "x"}),
        ("search/instance_remote", {"copy_time": "2001-01-01T00:00:00"}),
        ("search/error", {}),
        ("error/clear", {"id": 5}),
    ):
        with pytest.raises(StockHTTPError, match="404 No "):
            boss.post(endpoint, asked, bool)
    served.pair.b.write(name="elsewhere")  # it does not know itself any more
    Path(served.pair.b.config).unlink()
    served.pair.a.settings["notice_after"] = "1s"
    served.pair.a.write()
    (tmp_path / "g").write_text("dark")
    served.pair.a.run(0, "ingest", str(tmp_path / "g"))
    served.pair.a.run(3, "send-clone")
    (trouble,) = boss.post("search/error", {}, bool)
    assert "did not answer" in trouble["message"] and trouble["cleared"] is False
    with pytest.raises(StockHTTPError, match="400 Error with ID"):
        boss.post("error/clear", {"id": trouble["id"]}, bool)


def test_who_brought_nothing_by_hand_owes_nothing(tmp_path: Path) -> None:
    """A staged file without a number of its source is taken in and reported to nobody."""
    site = make_site("b", tmp_path / "b")
    introduce(make_site("a", tmp_path / "a"), site)
    password = site.run(0, "create-user", "--username", "boss", "--auth-level", "ADMIN").out.strip()
    with cgi({"b": site.config}) as (port, _):
        (tmp_path / "disk").mkdir()
        (tmp_path / "disk" / "f").write_text("light")
        entry = {"name": "f", "size": 5, "checksum": "md5:::2ac43aa43bf473f9a9c09b4b608619d3", "source": "a", "outgoing_transfer_id": -1}
        assert StockAdminClient("http://127.0.0.1/b", port, "boss", password).bring(entry, "a", tmp_path / "disk")
    site.run(0, "recv-clone")
    assert site.stored() == {"f": b"light"}
