"""The callback behind real web servers, each as ``config`` sets it up: two sites' traffic, traps, and bad clients."""

from __future__ import annotations

import base64
import configparser
import json
import re
import socket
import ssl
import struct
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from libtool.peers.features import FEATURES, HEADER
from libtool.settings import Settings
from tests.sites import Pair, Site, make_site, tree
from tests.web_servers import CONFIG, SERVERS, Server, make_certificate, read, serving, until

MIB = 1024**2
#: An endpoint that takes as much as the configuration allows.
LARGE = "/api/v2/clone/batch_stage"
#: Answers a request by telling in which environment it came, as late as its body says.
TELLER = f"""#!{sys.executable}
import json, os, sys, time
body = sys.stdin.buffer.read(int(os.environ.get("CONTENT_LENGTH") or 10**9))
time.sleep(json.loads(body)["seconds"] if body else 0)
print("Content-Type: application/json\\r\\n\\r\\n" + json.dumps(dict(os.environ)), end="")
"""


@dataclass
class Door:
    """A librarian b behind a server, and the account a there."""

    kind: str
    server: Server
    site: Site
    password: str

    def head(self, path: str = "/api/v2/ping/logged", *lines: str, method: str = "POST", version: str = "1.1") -> bytes:
        """The head of a request under the right account."""
        return head(path, f"Authorization: {basic('a', self.password)}", *lines, method=method, version=version)

    def works(self) -> bool:
        """Whether the librarian answers, promptly."""
        began = time.monotonic()
        return self.server.ask(self.head() + b"{}").status == 200 and time.monotonic() - began < 5


def basic(user: str, password: str) -> str:
    """The header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def head(path: str, *lines: str, method: str = "POST", version: str = "1.1") -> bytes:
    """The head of a request; ``{}`` is announced as its body unless the lines say how the body comes."""
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in lines):
        lines = (*lines, "Content-Length: 2")
    first = (f"{method} {path} HTTP/{version}", "Host: localhost")
    return "\r\n".join([*first, *lines, "", ""]).encode()


def chunks(body: bytes, size: int) -> bytes:
    """The body in chunks."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that nobody else has signed."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module", params=SERVERS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each server."""
    return str(request.param)


@pytest.fixture(scope="module")
def tls(kind: str, request: pytest.FixtureRequest) -> Path | None:
    """The certificate, but for lighttpd, whose TLS is a package of its own: there something in front is assumed."""
    return None if kind == "lighttpd" else request.getfixturevalue("certificate")


@pytest.fixture(scope="module")
def door(kind: str, tls: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A librarian behind each server, whose state no test relies on."""
    top = tmp_path_factory.mktemp("door")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(top))
        site = make_site("b", top / "b")
        password = site.run(0, "create-user", "--username", "a", "--auth-level", "READAPPEND").out.strip()
    with serving(kind, top / "server", site.config, tls) as server:
        for name in ("libtool-callback.old", "libtool-callback-old", "other"):
            (server.program.parent / name).write_text("#! text that nobody may see\n")
            (server.program.parent / name).chmod(0o755)
        yield Door(kind, server, site, password)


@pytest.fixture
def teller(kind: str, tls: Path | None, tmp_path: Path) -> Iterator[Server]:
    """Each server with a program that tells its environment."""
    with serving(kind, tmp_path / "server", "/the/configuration", tls, TELLER) as server:
        yield server


# -- the traffic of two sites -------------------------------------------------------------------------------------


def write_files(source: Path, prefix: str, count: int) -> Path:
    """Files whose names and bytes tell where they are from."""
    for n in range(count):
        path = source / prefix / f"{n % 7}" / f"file {n}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{prefix} {n} ".encode() * (n % 17))
    return source


def acquaint(here: Site, there: Site, server: Server) -> None:
    """Make an account for ``here`` at ``there``, and register it over its server, which must answer."""
    password = there.run(0, "create-user", "--username", here.name, "--auth-level", "READAPPEND").out.strip()
    words = ["--name", there.name, "--url", server.url, "--port", str(server.port), "--authenticator", "-"]
    here.run(0, "add-librarian", *words, stdin=f"{here.name}:{password}\n")


def both_ways(pair: Pair) -> list[str]:
    """Every background command at both librarians; what they said."""
    commands = ("send-clone", "consume-queue", "check-consumed-queue", "recv-clone", "check-consumed-queue")
    ran = [site.run(0, command) for command in commands for site in (pair.a, pair.b)]
    return [each.out + each.err for each in ran]


def test_500_files_each_way_at_once(
    kind: str, tls: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tls is not None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tls))
    a, b = (
        make_site(
            name,
            tmp_path / name,
            local_transfer_roots=[str(tmp_path / other / "staging")],
            commands={"send-clone": {"destination_librarian": other}},
        )
        for name, other in (("a", "b"), ("b", "a"))
    )
    with ExitStack() as stack:
        doors = [stack.enter_context(serving(kind, tmp_path / f"at-{s.name}", s.config, tls)) for s in (a, b)]
        acquaint(a, b, doors[1])
        acquaint(b, a, doors[0])
        sources = [write_files(tmp_path / f"source-{site.name}", f"from {site.name}", 500) for site in (a, b)]
        for site, source in zip((a, b), sources):
            site.run(0, "ingest", "--recursive", str(source))
        pair = Pair(a, b)
        both_ways(pair)
        assert a.stored() == b.stored() == tree(sources[0]) | tree(sources[1])
        assert len(a.stored()) == 1000
        assert pair.quiet() and a.staged() == b.staged() == []
        assert both_ways(pair) == [""] * 10
        assert not [each.callbacks() for each in doors if each.callbacks()]
    assert "Traceback" not in "".join(each.logs() for each in doors)


# -- what reaches the program, and what does not ------------------------------------------------------------------

#: Ways to ask for something else than an endpoint. None of them may show a file or upset the server.
STRANGE = [
    "/",
    "/api",
    "/api/v2",
    "/api/v2/",
    "/api/v2?",
    "/api/v2?--help",
    "/api/v2/ping",
    "/api/v2/ping/",
    "/api/v2//ping",
    "//api/v2/ping",
    "/api//v2/ping",
    "/./api/v2/./ping",
    "/api/v2/ping/..",
    "/api/v2/../v2/ping",
    "/api/v2/..",
    "/api/v2/../other",
    "/api/v2/../../../../../../etc/passwd",
    "/../../../etc/passwd",
    "/etc/passwd",
    "/api/v2/%2e%2e/other",
    "/api/v2/..%2fother",
    "/api/v2%2f..%2fother",
    "/api/v2%2Fping",
    "/api%2Fv2%2Fping",
    "/api/v2/clone%2Fcomplete",
    "/api/v2/ping%00",
    "/api/v2/ping%0a",
    "/api/v2/ping%zz",
    "/api/v2/ping%252f",
    "/api/v2/\\..\\other",
    "/api/v2.old",
    "/api/v2-old",
    "/api/v2x/ping",
    "/API/V2/ping",
    "/libtool-callback",
    "/bin/libtool-callback",
    "/cgi-bin/libtool-callback",
    "/server-status",
    "http://localhost/api/v2/ping",
    "http://localhost/other",
    "*",
]


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "TRACE"])
def test_nothing_but_answers_of_the_program_comes_out(door: Door, method: str) -> None:
    for path in STRANGE:
        body = b"{}" if method == "POST" else b""
        said = door.server.ask(head(path, f"Content-Length: {len(body)}", method=method) + body)
        if method == "OPTIONS" and said.status == 200:  # nginx and lighttpd answer it themselves
            assert said.body == b"", path
            continue
        # lighttpd does not know every method outside of the program's path.
        assert 400 <= said.status < 500 or (door.kind, said.status) == ("lighttpd", 501), (path, said)
        shown = said.body + repr(said.headers).encode()
        for text in (b"#!", b"import", b"root:", b"nobody may see", b"config.yaml", str(door.site.directory).encode()):
            assert text not in shown, (path, said)
    assert "Traceback" not in door.server.logs()


def test_a_get_of_an_endpoint_starts_the_program(door: Door) -> None:
    for path in ("/api/v2/ping", "/api/v2/ping/"):
        said = door.server.ask(head(path, "Content-Length: 0", method="GET"))
        assert (said.status, said.headers["allow"]) == (405, "POST")
        assert said.headers[HEADER.lower()] == FEATURES and json.loads(said.body)["reason"]
    assert door.server.ask(head("/api/v2", "Content-Length: 0", method="GET")).status == 404


def test_the_account_reaches_the_program(door: Door) -> None:
    ask, path = door.server.ask, "/api/v2/ping/logged"
    good, bad = basic("a", door.password), basic("a", "wrong")
    for raw in (head(path), head(path, f"Authorization: {bad}")):
        refused = ask(raw + b"{}")
        assert refused.status == 401 and refused.headers["www-authenticate"].startswith("Basic")
    said = ask(head(path, f"Authorization: {good}") + b"{}")
    assert (said.status, json.loads(said.body)["name"]) == (200, "Untitled Librarian")
    assert ask(head(path, f"authorization: {good}") + b"{}").status == 200
    assert ask(head(path, f"AUTHORIZATION:{good}") + b"{}").status == 200
    assert ask(head("/api/v2/ping/admin", f"Authorization: {good}") + b"{}").status == 401


def test_a_body_may_come_in_every_way(door: Door) -> None:
    ask = door.server.ask
    assert ask(door.head(version="1.0") + b"{}").status == 200
    assert ask(door.head("/api/v2/ping/logged", "Content-Length: 0")).status == 200
    for body, size in ((b"{}", 1), (b"{" + b" " * 60_000 + b"}", 1000)):
        assert ask(door.head("/api/v2/ping/logged", "Transfer-Encoding: chunked") + chunks(body, size)).status == 200
    broken = door.head("/api/v2/ping/logged", "Transfer-Encoding: chunked") + chunks(b'{"a": 1', 3)
    assert ask(broken).status == 422
    # Not an argument of the program, although CGI hands it over as one.
    assert ask(door.head("/api/v2/ping/logged?--help") + b"{}").status == 200
    assert ask(door.head("/api/v2/ping/logged?--config+/etc/passwd") + b"{}").status == 200


def test_a_connection_serves_several_requests(door: Door) -> None:
    with door.server.connect() as connection:
        for _ in range(3):
            connection.sendall(door.head() + b"{}")
            assert read(connection).status == 200


def test_who_asks_first_may_send_the_body(door: Door) -> None:
    with door.server.connect() as connection:
        connection.sendall(door.head("/api/v2/ping/logged", "Expect: 100-continue"))
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"{}")
        assert read(connection).status == 200


def test_two_lengths_are_no_way_to_smuggle_a_request(door: Door) -> None:
    inner = door.head() + b"{}"
    lengths = ("Content-Length: 5", "Transfer-Encoding: chunked")
    twice = ("Content-Length: 2", f"Content-Length: {len(inner)}")
    for lines, body in ((lengths, b"0\r\n\r\n" + inner), (twice, inner)):
        with door.server.connect() as connection:
            connection.sendall(door.head("/api/v2/ping/logged", *lines) + body)
            said = read(connection)
            # Refused, or read to the end of the chunks and closed; never answered twice.
            assert said.status == 400 or said.headers.get("connection") == "close", (lines, said)
            if said.status != 400:
                with suppress(ConnectionResetError):
                    assert connection.recv(1000) == b""


def test_a_body_may_be_as_large_as_the_callback_reads_and_hardly_larger(door: Door) -> None:
    whole = b"{" + b" " * (32 * MIB - 2) + b"}"
    said = door.server.ask(door.head(LARGE, f"Content-Length: {len(whole)}") + whole)
    assert said.status == 422 and b"missing" in said.body  # it was read to its end and understood
    # The servers refuse it by what is announced, and by what comes.
    assert door.server.ask(door.head(LARGE, f"Content-Length: {34 * MIB}")).status == 413
    assert door.server.ask(door.head(LARGE, f"Content-Length: {10**30}")).status in (400, 413)
    large = chunks(b" " * 34 * MIB, MIB)
    assert door.server.ask(door.head(LARGE, "Transfer-Encoding: chunked") + large).status == 413


@pytest.mark.parametrize(
    ("path", "method", "size", "status"),
    [
        ("/api/v2/nothing", "POST", MIB, 404),
        ("/api/v2/ping/", "PUT", MIB, 405),
        (LARGE, "POST", 32 * MIB + 1, 413),
        (LARGE, "POST", MIB, 422),
    ],
)
def test_an_early_answer_arrives_although_the_body_is_not_read(
    door: Door, path: str, method: str, size: int, status: int
) -> None:
    said = door.server.ask(door.head(path, f"Content-Length: {size}", method=method) + b" " * size)
    assert said.status == status
    assert json.loads(said.body)["reason"]


def test_the_environment_is_the_librarians(teller: Server) -> None:
    lines = ("Proxy: http://evil.example", "LIBTOOL_CONFIG: /evil", "Libtool-Config: /evil", "Path: /evil")
    account = f"Authorization: {basic('a', 'b')}"
    said = json.loads(teller.ask(head("/api/v2/ping/logged", account, *lines, "Content-Length: 0")).body)
    assert said.get("HTTP_PROXY", "") == ""
    assert said["LIBTOOL_CONFIG"] == "/the/configuration"
    assert said["PATH"] == "/usr/local/bin:/usr/bin:/bin"
    assert said["HTTP_AUTHORIZATION"] == basic("a", "b") and "REMOTE_USER" not in said
    assert said["SCRIPT_NAME"] + said["PATH_INFO"] == "/api/v2/ping/logged"
    assert said["GATEWAY_INTERFACE"] == "CGI/1.1" and said["REQUEST_METHOD"] == "POST"
    assert "CANARY" not in said


def test_no_server_tells_its_version(door: Door) -> None:
    asked = [
        head("/", method="GET") + b"{}",
        head("/api/v2/ping", method="GET") + b"{}",
        head("/api/v2/ping%00", method="GET") + b"{}",
        door.head("/api/v2/ping/", f"Content-Length: {34 * MIB}"),
        b"nonsense\r\n\r\n",
    ]
    for raw in asked:
        said = door.server.ask(raw)
        assert said.headers.get("server", "") in ("", "nginx", "Apache")
        assert not re.search(rb"(nginx|apache|lighttpd|openssl)/[0-9]", said.body.lower())


# -- clients that are slow, and clients that go -------------------------------------------------------------------


def half_sent(door: Door, stack: ExitStack, body: bytes) -> socket.socket:
    """A connection over which came a head and the first half of the body."""
    connection = stack.enter_context(door.server.connect())
    connection.sendall(door.head("/api/v2/ping/logged", f"Content-Length: {len(body)}") + body[: len(body) // 2])
    return connection


def test_slow_clients_hold_nobody_up(door: Door) -> None:
    before = set(door.server.processes())
    body = b"{" + b" " * 1000 + b"}"
    with ExitStack() as stack:
        slow = [half_sent(door, stack, body) for _ in range(12)]  # more than fcgiwrap would answer at once
        assert all(door.works() for _ in range(3))
        if door.kind != "apache":  # it cannot wait for the whole body before it starts the program
            until(lambda: door.server.callbacks() == [], "no program waits for a slow client")
        for connection in slow:
            connection.sendall(body[len(body) // 2 :])
            assert read(connection).status == 200
    until(lambda: set(door.server.processes()) <= before, "no callback is left over")


def gone(connection: socket.socket, abruptly: bool) -> None:
    """Close a connection, with what is still under way thrown away or not."""
    if abruptly:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("abruptly", [False, True])
def test_a_client_that_has_gone_leaves_nothing_behind(door: Door, abruptly: bool) -> None:
    before = set(door.server.processes())
    with ExitStack() as stack:
        for _ in range(4):
            gone(half_sent(door, stack, b"{" + b" " * 60_000 + b"}"), abruptly)
            whole = stack.enter_context(door.server.connect())
            whole.sendall(door.head() + b"{}")
            gone(whole, abruptly)
            early = stack.enter_context(door.server.connect())
            early.sendall(door.head()[:50])
            gone(early, abruptly)
        assert door.works()
    until(lambda: set(door.server.processes()) <= before, "no callback is left over")
    assert all(door.works() for _ in range(9))  # every worker of fcgiwrap has survived


def ended(connection: socket.socket, deadline: float) -> bytes:
    """What comes over a connection until the server closes it, which must be in time."""
    came = b""
    with suppress(ConnectionResetError, ssl.SSLEOFError):
        while True:
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            more = connection.recv(10_000)
            if not more:
                break
            came += more
    return came


@contextmanager
def each_server(top: Path, certificate: Path, text: str) -> Iterator[dict[str, Server]]:
    """All servers of this machine at once."""
    found: dict[str, Server] = {}
    with ExitStack() as stack:
        for kind in SERVERS:
            with suppress(pytest.skip.Exception):
                tls = None if kind == "lighttpd" else certificate
                found[kind] = stack.enter_context(serving(kind, top / kind, "/nowhere", tls, text))
        yield found
    if lacking := set(SERVERS) - set(found):
        pytest.skip(f"without {', '.join(sorted(lacking))}")


def test_who_sends_nothing_is_cut_off_and_who_waits_for_the_program_is_not(tmp_path: Path, certificate: Path) -> None:
    """As all wait, they wait together."""
    with each_server(tmp_path, certificate, TELLER) as servers, ExitStack() as stack:
        slow, waiting = [], []
        for server in servers.values():
            for raw in (b"", b"POST /api/v2/pi", head("/api/v2/ping", "Content-Length: 50") + b'{"seconds":'):
                connection = stack.enter_context(server.connect())
                connection.sendall(raw)
                slow.append(connection)
            connection = stack.enter_context(server.connect())
            body = b'{"seconds": 24}'  # longer than a client may be silent
            connection.sendall(head("/api/v2/ping", f"Content-Length: {len(body)}") + body)
            waiting.append(connection)
        deadline = time.monotonic() + 35
        for connection in slow:
            assert b" 200 " not in ended(connection, deadline)
        for connection in waiting:
            assert read(connection).status == 200
        for server in servers.values():
            until(lambda server=server: not server.callbacks(), "no program is left over")  # type: ignore[misc]


# -- TLS ----------------------------------------------------------------------------------------------------------


def test_over_tls_and_only_with_a_certificate_that_is_trusted(
    kind: str, tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (make_site(name, tmp_path / name) for name in ("a", "b"))
    password = b.run(0, "create-user", "--username", "a", "--auth-level", "READAPPEND").out.strip()
    with serving(kind, tmp_path / "server", b.config, certificate) as server:
        words = ["--name", "b", "--url", "https://localhost", "--port", str(server.port), "--authenticator", "-"]
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            monkeypatch.delenv(name, raising=False)
        refused = a.run(None, "add-librarian", *words, stdin=f"a:{password}\n")
        assert refused.code != 0
        assert f"the certificate of https://localhost:{server.port} was not accepted" in refused.err
        assert json.loads(a.run(0, "get-librarian-list", "-F", "json").out) == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        a.run(0, "add-librarian", *words, stdin=f"a:{password}\n")
        (row,) = json.loads(a.run(0, "get-librarian-list", "--ping", "-F", "json").out)
        assert (row["url"], row["port"], row["available"]) == ("https://localhost", server.port, True)
        assert_old_tls_is_refused(server)
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as plain:
            plain.sendall(head("/api/v2/ping/logged") + b"{}")
            assert b" 200 " not in ended(plain, time.monotonic() + 20)


def assert_old_tls_is_refused(server: Server) -> None:
    """A client that knows nothing newer than TLS 1.1 gets no connection."""
    context = ssl.create_default_context(cafile=str(server.certificate))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    with context.wrap_socket(plain, server_hostname="localhost", do_handshake_on_connect=False) as connection:
        with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
            connection.do_handshake()


def test_without_the_lines_for_tls_it_is_plain_http(kind: str, tmp_path: Path) -> None:
    """So it is where something in front speaks TLS."""
    with serving(kind, tmp_path / "server", "/the/configuration", None, TELLER) as server:
        assert server.ask(head("/api/v2/ping", "Content-Length: 0")).status == 200


# -- what the files say -------------------------------------------------------------------------------------------


def default(name: str) -> Any:
    """What a key of the configuration is when it is not given."""
    return Settings.__dataclass_fields__[name].default


def test_limits_are_a_little_above_the_callbacks_and_times_longer_but_bounded() -> None:
    sizes = {"lighttpd": r"^server.max-request-size = (\d+)$", "nginx": r"^ *client_max_body_size (\d+)m;$"}
    sizes["apache"] = r"^LimitRequestBody (\d+)$"
    units = {"lighttpd": 1024, "nginx": MIB, "apache": 1}
    times = {
        "lighttpd": r"(?:read|write)-timeout\" => (\d+)",
        "nginx": r"fastcgi_(?:read|send)_timeout (\d+);",
        "apache": r"^(?:Timeout|CGIDScriptTimeout) (\d+)$",
    }
    for kind in SERVERS:
        text = (CONFIG / f"{kind}.conf").read_text()
        (size,) = re.findall(sizes[kind], text, re.MULTILINE)
        assert default("max_body_bytes") < int(size) * units[kind] <= default("max_body_bytes") + 2 * MIB
        found = [int(each) for each in re.findall(times[kind], text, re.MULTILINE)]
        assert len(found) == 2 and all(default("max_request_seconds") < each < 90 for each in found), kind


def test_fcgiwrap_is_the_librarians_and_listens_where_nginx_asks() -> None:
    units = {}
    for what in ("socket", "service"):
        unit = configparser.ConfigParser(interpolation=None, strict=False)
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read_string((CONFIG / f"libtool-fcgiwrap.{what}").read_text(encoding="utf-8"))
        units[what] = unit
    listens, runs = units["socket"]["Socket"], units["service"]["Service"]
    nginx = (CONFIG / "nginx.conf").read_text()
    assert f"fastcgi_pass unix:{listens['ListenStream']};" in nginx
    assert f"user {listens['SocketGroup']};" in nginx
    assert listens["SocketUser"] == runs["User"] == runs["Group"] == "libtool"
    assert listens["SocketMode"] == "0660"
    for key in ("NoNewPrivileges", "ProtectSystem", "PrivateTmp", "ReadWritePaths", "SystemCallFilter"):
        assert key in runs
    assert re.search(r" -p (\S+)$", runs["ExecStart"])[1] in nginx  # type: ignore[index]
