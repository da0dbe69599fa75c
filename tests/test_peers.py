"""Words between librarians: messages, passwords, and the client against servers that answer in every way they can."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libtool.errors import LibtoolError, PeerDeniesUs, PeerRefused, PeerUnreachable
from libtool.peers import client, features, messages, passwords, transports
from libtool.peers.client import Peer
from libtool.peers.messages import CheckinStatuses, CloneComplete, Corrupt, Nothing, Pair, PingAnswer, SearchFile
from libtool.states import TransferStatus
from tests.sites import make_site

SECRET = "s3cret:with:colons"

# -- messages -----------------------------------------------------------------------------------------------------


def test_numbers_may_be_strings_or_whole_floats_and_unknown_fields_are_ignored() -> None:
    body = b'{"source_transfer_id": "1", "destination_transfer_id": 2.0, "store_id": 3, "news": [1]}'
    assert messages.decode(CloneComplete, body) == CloneComplete(1, 2, 3)


@pytest.mark.parametrize(
    "kind, body",
    [
        (CloneComplete, '{"source_transfer_id": 1, "destination_transfer_id": 2}'),
        (CloneComplete, '{"source_transfer_id": 1.5, "destination_transfer_id": 2, "store_id": 3}'),
        (CloneComplete, '{"source_transfer_id": null, "destination_transfer_id": 2, "store_id": 3}'),
        (CloneComplete, '{"source_transfer_id": %d, "destination_transfer_id": 2, "store_id": 3}' % 2**63),
        (CloneComplete, '{"source_transfer_id": "%d", "destination_transfer_id": 2, "store_id": 3}' % 10**30),
        (CloneComplete, '{"source_transfer_id": %s, "destination_transfer_id": 2, "store_id": 3}' % ("9" * 5000)),
        (CloneComplete, '{"source_transfer_id": 1e400, "destination_transfer_id": 2, "store_id": 3}'),
        (Corrupt, '{"file_name": "a\\u0000", "librarian_name": "b"}'),
        (Corrupt, '{"file_name": "\\ud800", "librarian_name": "b"}'),
        (Corrupt, '{"file_name": "a", "librarian_name": "%s"}' % ("b" * 257)),
        (Corrupt, '{"file_name": "%s", "librarian_name": "b"}' % ("a" * 4097)),
        (SearchFile, '{"x": %s1%s}' % ("[" * 100_000, "]" * 100_000)),
        (SearchFile, "[]"),
        (SearchFile, "NaN"),
        (SearchFile, ""),
        (SearchFile, '{"name": "x"} trailing'),
        (CheckinStatuses, '{"source_transfer_status": {"1": 9}}'),
        (CheckinStatuses, '{"source_transfer_status": {"x": 1}}'),
    ],
)
def test_what_is_not_the_message_is_a_value_error(kind: Any, body: str) -> None:
    with pytest.raises(ValueError):
        messages.decode(kind, body.encode())


def test_bytes_that_are_not_utf8_are_a_value_error() -> None:
    with pytest.raises(ValueError):
        messages.decode(Corrupt, b'{"file_name": "\xff", "librarian_name": "b"}')


@given(st.binary(max_size=200))
def test_no_bytes_at_all_raise_anything_but_a_value_error(body: bytes) -> None:
    for kind in (SearchFile, CloneComplete, dict[str, Any]):
        try:
            messages.decode(kind, body)
        except ValueError as wrong:
            str(wrong).encode()


@given(st.dictionaries(st.integers(-(2**63), 2**63 - 1), st.sampled_from([None, *TransferStatus]), max_size=5))
def test_what_is_sent_is_what_is_read_and_states_are_numbers(states: dict[int, Any]) -> None:
    body = messages.encode(CheckinStatuses(states, {}))
    assert messages.decode(CheckinStatuses, body) == CheckinStatuses(states, {})
    known = {str(id): None if state is None else int(state) for id, state in states.items()}
    assert json.loads(body) == {"source_transfer_status": known, "destination_transfer_status": {}}


def test_the_stock_servers_answer_to_a_batch_is_read() -> None:
    body = {
        "available_bytes_on_store": 5,
        "store_name": "s",
        "async_transfer_providers": {"globus": {"destination_endpoint": "x"}},
        "uploads": [
            {
                "staging_name": "id",
                "staging_location": "/s/id/n",
                "upload_name": "n",
                "destination_location": "n",
                "source_transfer_id": 1,
                "destination_transfer_id": 2,
            }
        ],
    }
    found = messages.decode(messages.BatchStaged, json.dumps(body).encode())
    assert (found.uploads[0].destination_transfer_id, found.refused) == (2, [])


# -- passwords ----------------------------------------------------------------------------------------------------

NO_COLON = st.text(st.characters(codec="utf-8", exclude_characters=":\0"), max_size=20)


@given(NO_COLON, st.text(st.characters(codec="utf-8"), max_size=20))
def test_user_and_password_are_split_at_the_first_colon(user: str, password: str) -> None:
    assert passwords.from_basic(passwords.to_basic(f"{user}:{password}")) == (user, password)


@given(
    st.one_of(
        st.none(),
        st.text(max_size=60),
        st.binary(max_size=30).map(lambda raw: "Basic " + base64.b64encode(raw).decode()),
    )
)
def test_any_header_is_an_account_or_none_and_never_a_fault(header: str | None) -> None:
    found = passwords.from_basic(header)
    assert found is None or ("\0" not in found[0] and ":" not in found[0])


@pytest.mark.parametrize("header", ["", "Basic", "Bearer YTpi", "Basic YTpi!", "Basic Y", "basic:YTpi", "Basic é"])
def test_garbage_is_no_account(header: str) -> None:
    assert passwords.from_basic(header) is None


def test_the_scheme_is_read_in_any_case() -> None:
    assert passwords.from_basic("bAsIc YTpi") == ("a", "b")


@given(st.text(max_size=20), st.text(max_size=20))
def test_the_keyed_digest_knows_its_password_only_with_its_key(one: str, other: str) -> None:
    kept = passwords.fast(one, b"key") if not any("\ud800" <= c <= "\udfff" for c in one + other) else None
    if kept is not None:
        assert passwords.is_fast(one, kept, b"key") and not passwords.is_fast(one, kept, b"other")
        assert passwords.is_fast(other, kept, b"key") is (one == other)
        assert one not in kept or len(one) < 4


def test_the_slow_hash_is_salted_and_knows_its_password() -> None:
    kept = passwords.slow("p:ä")
    assert passwords.is_slow("p:ä", kept) and not passwords.is_slow("p:a", kept) and not passwords.is_slow("", kept)
    assert kept != passwords.slow("p:ä") and "p:ä" not in kept


def test_made_passwords_are_long_plain_and_never_the_same() -> None:
    made = {passwords.make() for _ in range(200)}
    assert len(made) == 200
    assert all(len(each) == 32 and each.isalnum() and each.isascii() for each in made)
    assert len(set("".join(made))) == 62


# -- the client over http -----------------------------------------------------------------------------------------


def transport_to(url: str, port: int | None, seconds: float) -> client.Transport:
    """A transport that waits no longer than this for an answer."""
    transport = transports.connect(url, port)
    transport.timeout = seconds  # type: ignore[attr-defined]
    return transport


@dataclass
class Server:
    """A server that does what a test tells it, and remembers what it was asked."""

    port: int
    act: Callable[[BaseHTTPRequestHandler, bytes], None] | None = None
    seen: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)

    def says(self, status: int, body: bytes | Any, **headers: str) -> None:
        """Answer everything so."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()

        def act(handler: BaseHTTPRequestHandler, request: bytes) -> None:
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.send_header("Content-Length", str(len(raw)))
            handler.end_headers()
            handler.wfile.write(raw)

        self.act = act

    def sends(self, raw: bytes, then: Callable[[], None] = lambda: None) -> None:
        """Answer everything with these bytes, whatever they are, and close."""

        def act(handler: BaseHTTPRequestHandler, request: bytes) -> None:
            handler.wfile.write(raw)
            handler.wfile.flush()
            handler.close_connection = True
            then()

        self.act = act

    def peer(self, timeout: float = 5.0, path: str = "") -> Peer:
        """A client for it."""
        transport = transport_to(f"http://127.0.0.1{path}", self.port, timeout)
        return Peer("b", transport, f"a:{SECRET}")

    def ask(self, timeout: float = 5.0) -> Any:
        """One question."""
        peer = self.peer(timeout)
        try:
            return peer.ask("ping/", Nothing(), PingAnswer)
        finally:
            peer.close()

    def trouble(self, timeout: float = 5.0) -> LibtoolError:
        """One question that goes wrong, and how; the password is in no text of it."""
        with pytest.raises(LibtoolError) as raised:
            self.ask(timeout)
        texts = [raised.value.text, repr(raised.value), str(raised.value.facts), repr(raised.value.__cause__)]
        encoded = base64.b64encode(f"a:{SECRET}".encode()).decode()
        assert not [text for text in texts if SECRET in text or encoded in text]
        assert "\n" not in raised.value.text
        return raised.value


@pytest.fixture
def server() -> Iterator[Server]:
    """A local server in a thread."""
    made = Server(0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 0

        def do_POST(self) -> None:  # noqa: N802
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            made.seen.append((self.path, dict(self.headers), body))
            made.connections.add(self.client_address)
            assert made.act is not None
            try:
                made.act(self, body)
            except OSError:
                self.close_connection = True

        do_GET = do_POST  # noqa: N815

        def log_message(self, *words: Any) -> None:
            return None

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *words: Any) -> None:
            return None

    with Quiet(("127.0.0.1", 0), Handler) as http:
        made.port = http.server_port
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield made
        http.shutdown()
        thread.join()


GOOD = {"name": "B", "description": "d", "unknown": 1}


def test_a_good_answer_is_a_typed_message_and_the_request_is_as_stock_servers_want_it(server: Server) -> None:
    server.says(200, GOOD)
    assert server.ask() == PingAnswer("B", "d")
    ((path, headers, body),) = server.seen
    assert (path, body) == ("/api/v2/ping/", b"{}")
    assert headers["Content-Type"] == "application/json" and headers["Content-Length"] == "2"
    assert passwords.from_basic(headers["Authorization"]) == ("a", SECRET)
    assert "Transfer-Encoding" not in headers


FLAT = {"reason": "no such thing", "suggested_remedy": "look again"}


@pytest.mark.parametrize(
    "body, why, how",
    [
        (FLAT, "no such thing", "look again"),
        ({"detail": json.dumps(FLAT)}, "no such thing", "look again"),
        ({"detail": FLAT}, "no such thing", "look again"),
        ({"detail": "Not Found"}, "Not Found", ""),
        (
            {"detail": [{"type": "missing", "loc": ["body", "size"], "msg": "Field required"}]},
            "body.size: Field required",
            "",
        ),
        ({"detail": [{"loc": None, "msg": "strange"}]}, "strange", ""),
        ({"detail": [{"loc": 5}, "text", None]}, "", ""),
        ({"detail": None}, "no reason given", ""),
        ({"detail": 5}, "no reason given", ""),
        ({"reason": {"a": [1]}, "suggested_remedy": 5}, "a", "5"),
        (b'{"reason": "two\\nlines"}', "two\\nlines", ""),
    ],
)
def test_every_shape_of_error_is_a_refusal_in_the_peers_words(server: Server, body: Any, why: str, how: str) -> None:
    server.says(409, body)
    trouble = server.trouble()
    assert isinstance(trouble, PeerRefused)
    assert why in trouble.reason and "409" in trouble.reason and how in trouble.advice


@pytest.mark.parametrize(
    "body, why",
    [
        (b"<!DOCTYPE html><html><body>Not here</body></html>", "web page"),
        (b"plain words", "plain words"),
        (b"", "no reason given"),
        (b"\xff\xfe\x00", ""),
        (b"[1, 2]", "[1, 2]"),
    ],
)
@pytest.mark.parametrize("status", [400, 404, 409])
def test_what_is_no_json_object_was_not_said_by_a_librarian_and_settles_nothing(
    server: Server, status: int, body: bytes, why: str
) -> None:
    server.says(status, body)
    trouble = server.trouble()
    assert isinstance(trouble, PeerUnreachable)
    assert why in trouble.reason and str(status) in trouble.reason


@pytest.mark.parametrize(
    "status, kind",
    [
        (400, PeerRefused),
        (404, PeerRefused),
        (406, PeerRefused),
        (413, PeerRefused),
        (422, PeerRefused),
        (401, PeerDeniesUs),
        (403, PeerDeniesUs),
        (408, PeerUnreachable),
        (425, PeerUnreachable),
        (429, PeerUnreachable),
        (500, PeerUnreachable),
        (502, PeerUnreachable),
        (503, PeerUnreachable),
        (504, PeerUnreachable),
        (599, PeerUnreachable),
    ],
)
def test_a_status_is_no_or_not_now_or_not_you(server: Server, status: int, kind: type[LibtoolError]) -> None:
    server.says(status, FLAT)
    trouble = server.trouble()
    assert type(trouble) is kind
    if kind is PeerDeniesUs:
        assert "'a'" in trouble.reason and trouble.exit_code == 4
    else:
        assert "no such thing" in trouble.reason and str(status) in trouble.reason


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_no_answer_is_not_followed_and_is_told(server: Server, status: int) -> None:
    server.says(status, b"", Location="https://elsewhere.example/api/v2/ping/")
    trouble = server.trouble()
    assert isinstance(trouble, PeerUnreachable) and "https://elsewhere.example" in trouble.reason
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"null", b"[]", b'{"name": "B"}', b'{"name": 5, "description": "d"}', b'{"name": "B", "descr'],
)
def test_a_success_that_cannot_be_read_is_unknown_and_not_a_failure(server: Server, body: bytes) -> None:
    server.says(200, body)
    assert isinstance(server.trouble(), PeerUnreachable)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n" + json.dumps(GOOD).encode(),
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"nam',
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 twohundred OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"x" * 100_000 + b"\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
    ],
)
def test_an_answer_that_breaks_off_or_is_no_http_is_unknown(server: Server, raw: bytes) -> None:
    server.sends(raw)
    assert isinstance(server.trouble(), PeerUnreachable)


def test_a_peer_that_does_not_answer_in_time_is_unknown(server: Server) -> None:
    over = threading.Event()
    server.sends(b"", then=lambda: None)
    server.act = lambda handler, body: over.wait(5) and None
    began = time.monotonic()
    trouble = server.trouble(timeout=0.2)
    over.set()
    assert isinstance(trouble, PeerUnreachable) and "in time" in trouble.reason
    assert time.monotonic() - began < 3


def test_a_peer_that_drips_its_answer_does_not_hold_us_for_ever(server: Server) -> None:
    over = threading.Event()

    def act(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(60):
            handler.wfile.write(b" ")
            if over.wait(0.1):
                break
        handler.close_connection = True

    server.act = act
    began = time.monotonic()
    assert isinstance(server.trouble(timeout=0.4), PeerUnreachable)
    over.set()
    assert time.monotonic() - began < 3


def test_an_answer_that_never_ends_is_not_kept(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from libtool.peers import http

    monkeypatch.setattr(http, "ANSWER_LIMIT", 10**6)

    def act(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        handler.close_connection = True
        while True:
            handler.wfile.write(b" " * 65536)

    server.act = act
    trouble = server.trouble()
    assert isinstance(trouble, PeerUnreachable) and "does not end" in trouble.reason


def test_nobody_listening_and_no_such_host_are_unknown_and_said_in_plain_words() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for host in ("127.0.0.1", "no-such-host.invalid"):
        peer = Peer("b", transport_to(f"http://{host}", port, 2.0), f"a:{SECRET}")
        with pytest.raises(PeerUnreachable) as raised:
            peer.ask("ping/", Nothing(), PingAnswer)
        assert "object at 0x" not in raised.value.text and "Pool" not in raised.value.text and host in raised.value.text


def test_https_to_a_server_that_has_none_is_unknown(server: Server) -> None:
    server.says(200, GOOD)
    peer = Peer("b", transport_to("https://127.0.0.1", server.port, 2.0), None)
    with pytest.raises(PeerUnreachable):
        peer.ask("ping/", Nothing(), PingAnswer)


def test_one_connection_serves_all_requests_of_a_run(server: Server) -> None:
    server.says(200, GOOD)
    peer = server.peer()
    for _ in range(5):
        peer.ask("ping/", Nothing(), PingAnswer)
    server.says(409, FLAT)
    with pytest.raises(PeerRefused):
        peer.ask("ping/", Nothing(), PingAnswer)
    peer.close()
    assert (len(server.seen), len(server.connections), peer.calls) == (6, 1, 6)


def test_a_request_that_was_heard_is_never_sent_twice(server: Server) -> None:
    server.sends(b"")
    server.trouble()
    assert len(server.seen) == 1


def test_a_netrc_file_does_not_replace_the_account(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text(
        "machine 127.0.0.1 login other password stolen\ndefault login other password stolen\n"
    )
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    server.says(200, GOOD)
    server.ask()
    nobody = Peer("b", transports.connect("http://127.0.0.1", server.port), None)
    nobody.ask("ping/", Nothing(), PingAnswer)
    assert passwords.from_basic(server.seen[0][1]["Authorization"]) == ("a", SECRET)
    assert "Authorization" not in server.seen[1][1]


def test_what_a_peer_can_do_is_taken_from_its_header_and_a_stock_one_can_nothing_more(server: Server) -> None:
    peer = server.peer()
    server.says(200, GOOD)
    peer.ask("ping/logged", Nothing(), PingAnswer)
    assert (peer.announced, peer.can(features.BATCH), peer.answered) == ("", False, True)
    server.says(200, GOOD, **{features.HEADER: f"{features.BATCH} and-more"})
    peer.ask("ping/logged", Nothing(), PingAnswer)
    assert peer.can(features.BATCH) and peer.can("and-more")
    peer.close()


def test_only_an_answer_that_needed_our_account_proves_that_it_is_accepted(server: Server) -> None:
    peer = server.peer()
    for endpoint, status, proved in (
        ("ping/", 200, False),
        ("ping/logged", 401, False),
        ("ping/logged", 503, False),
        ("ping/logged", 404, True),
    ):
        server.says(status, GOOD)
        peer.post(endpoint, Nothing())
        assert peer.answered is proved, (endpoint, status)
    peer.close()


@pytest.mark.parametrize(
    "url, port, expected",
    [
        ("https://h.org/cgi-bin/lib.cgi", 443, "https://h.org:443/cgi-bin/lib.cgi"),
        ("http://h.org", 8080, "http://h.org:8080"),
        ("http://h.org/", 8080, "http://h.org:8080"),
        ("http://h.org/a/", 80, "http://h.org:80/a"),
        ("https://h.org", None, "https://h.org"),
        ("https://h.org:8443/x", None, "https://h.org:8443/x"),
        ("http://[::1]", 8080, "http://[::1]:8080"),
        ("http://[::1]:81/x/", None, "http://[::1]:81/x"),
    ],
)
def test_urls_are_built_as_stock_clients_build_them(url: str, port: int | None, expected: str) -> None:
    assert transports.with_port(url, port) == expected


def test_a_path_in_the_url_stands_before_the_endpoint(server: Server) -> None:
    server.says(200, GOOD)
    peer = server.peer(path="/cgi-bin/lib.cgi/")
    peer.ask("clone/complete", Pair(1, 2), PingAnswer)
    assert server.seen[0][0] == "/cgi-bin/lib.cgi/api/v2/clone/complete"
    assert server.seen[0][2] == b'{"source_transfer_id":1,"destination_transfer_id":2}'
    peer.close()


# -- the client over exec -----------------------------------------------------------------------------------------


def exec_peer(config: Path | str, timeout: float = 20.0) -> Peer:
    """A client for a librarian on this machine."""
    return Peer("b", transport_to(f"exec://{config}", None, timeout), f"a:{SECRET}")


def test_a_librarian_on_this_machine_answers_and_announces_itself(tmp_path: Path) -> None:
    site = make_site("b", tmp_path / "b dir", displayed_site_name="Sité B")
    peer = exec_peer(site.config)
    assert peer.ask("ping/", Nothing(), PingAnswer).name == "Sité B"
    assert peer.can(features.BATCH)
    with pytest.raises(PeerDeniesUs):
        peer.ask("ping/logged", Nothing(), PingAnswer)
    with pytest.raises(PeerRefused, match="404"):
        peer.ask("no/such", Nothing(), PingAnswer)


def test_a_configuration_that_does_not_exist_is_unknown_and_named(tmp_path: Path) -> None:
    with pytest.raises(PeerUnreachable, match="none.yaml does not exist"):
        exec_peer(tmp_path / "none.yaml").ask("ping/", Nothing(), PingAnswer)


def test_a_configuration_that_is_broken_is_not_now(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: [")
    with pytest.raises(PeerUnreachable, match="503"):
        exec_peer(tmp_path / "config.yaml").ask("ping/", Nothing(), PingAnswer)


DYING = [
    ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "without an answer"),
    ("raise SystemExit('no')", "without an answer"),
    ("print('hello')", "without an answer"),
    (r"import sys; sys.stdout.write('Status: 200 OK\r\nContent-Length: 9\r\n\r\n{}')", "cut off"),
    (r"import sys; sys.stdout.write('Status: x\r\nContent-Length: 2\r\n\r\n{}')", "no readable answer"),
    (r"import sys; sys.stdout.write('Content-Length: 2\r\n\r\n{}')", "no readable answer"),
    ("import time; time.sleep(30)", "within"),
]


@pytest.mark.parametrize("code, why", DYING)
def test_a_callback_that_dies_or_breaks_off_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, why: str
) -> None:
    import sys

    from libtool.peers import exec as transport

    (tmp_path / "config.yaml").write_text("")
    monkeypatch.setattr(transport, "COMMAND", (sys.executable, "-c", code))
    with pytest.raises(PeerUnreachable, match=why) as raised:
        exec_peer(tmp_path / "config.yaml", timeout=1.0 if "sleep" in code else 20.0).ask(
            "ping/", Nothing(), PingAnswer
        )
    assert SECRET not in raised.value.text


def test_a_callback_that_cannot_be_started_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from libtool.peers import exec as transport

    (tmp_path / "config.yaml").write_text("")
    monkeypatch.setattr(transport, "COMMAND", (str(tmp_path / "no program"),))
    with pytest.raises(PeerUnreachable, match="cannot be started"):
        exec_peer(tmp_path / "config.yaml").ask("ping/", Nothing(), PingAnswer)


def test_the_other_librarian_sees_no_words_of_ours_and_the_password_is_no_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from libtool.peers import exec as transport

    code = (
        "import os, sys, json; body = json.dumps({'name': json.dumps(dict(os.environ)), 'description': str(sys.argv)});"
        r"sys.stdout.write(f'Status: 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}')"
    )
    (tmp_path / "config.yaml").write_text("")
    monkeypatch.setattr(transport, "COMMAND", (sys.executable, "-c", code))
    monkeypatch.setenv("LIBTOOL_SECRET_ENCRYPTION_KEY", "ours")
    monkeypatch.setenv("HTTP_COOKIE", "ours")
    said = exec_peer(tmp_path / "config.yaml").ask("ping/", Nothing(), PingAnswer)
    environment = json.loads(said.name)
    assert "LIBTOOL_SECRET_ENCRYPTION_KEY" not in environment and "HTTP_COOKIE" not in environment
    assert (
        environment["LIBTOOL_CONFIG"] == str(tmp_path / "config.yaml") and environment["PATH_INFO"] == "/api/v2/ping/"
    )
    assert passwords.from_basic(environment["HTTP_AUTHORIZATION"]) == ("a", SECRET)
    assert SECRET not in said.description
    assert os.environ.get("HTTP_AUTHORIZATION") is None
