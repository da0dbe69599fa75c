"""The dialogue in which two operators connect their librarians: blocks, levels, names, and a check that authenticates."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libtool.archive.connecting import INVITATION, REPLY, Block, Flow, read
from libtool.errors import Refused
from libtool.states import AuthLevel
from tests.cgi_server import serving as cgi
from tests.sites import Pair, Site, make_site


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    """Two librarians behind a web server that do not know each other."""
    configs: dict[str, str] = {}
    with cgi(configs) as (port, _):
        found = []
        for name, other in (("a", "b"), ("b", "a")):
            url = f"http://127.0.0.1:{port}/{name}"
            options = {"local_transfer_roots": [str(tmp_path)], "callback_url": url}
            site = make_site(name, tmp_path / name, commands={"send-clone": {"destination_librarian": other}}, **options)
            configs[name] = site.config
            found.append(site)
        yield found[0], found[1]


def levels(site: Site) -> dict[str, str]:
    """Every account and its level."""
    rows = json.loads(site.run(0, "list-users", "-F", "json").out)
    return {row["username"]: row["auth_level"] for row in rows}


def handed(site: Site, text: str) -> str:
    """A file with what the other side printed."""
    path = site.directory / "handed"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("flow", "at_a", "at_b"),
    [("send", "CALLBACK", "READAPPEND"), ("receive", "READAPPEND", "CALLBACK"), ("both", "READAPPEND", "READAPPEND")],
)
def test_three_commands_connect_two_librarians(sites: tuple[Site, Site], flow: str, at_a: str, at_b: str) -> None:
    a, b = sites
    invitation = a.run(0, "connect", "--to", "b", "--flow", flow).out
    reply = b.run(0, "connect", "--from", handed(b, invitation)).out
    assert levels(a) == {"b": at_a} and levels(b) == {"a": at_b}
    ended = a.run(0, "connect", "--from", handed(a, reply))
    assert ended.out == "a can call b: yes\nb can call a: yes\n" and ended.err == ""
    (a.directory / "f").write_text("light")
    pair = Pair(a, b) if flow != "receive" else Pair(b, a)
    pair.a.run(0, "ingest", str(a.directory / "f"))
    pair.round()
    assert pair.b.stored() == {"f": b"light"} and pair.quiet()


def test_nothing_but_the_other_name_and_the_flow_is_typed(sites: tuple[Site, Site]) -> None:
    """Everything else comes out of the configurations and the blocks."""
    a, b = sites
    reply = b.run(0, "connect", "--from", "-", stdin=a.run(0, "connect", "--to", "b", "--flow", "send").out).out
    assert "yes" in a.run(0, "connect", "--from", "-", stdin=reply).out


def test_a_block_survives_a_mail_and_nothing_else(sites: tuple[Site, Site]) -> None:
    a, b = sites
    invitation = a.run(0, "connect", "--to", "b", "--flow", "send").out
    mailed = "Dear all,\n\n" + "".join(f"> {line}  \r\n" for line in invitation.splitlines()) + "\n-- \nA.\n"
    lines = invitation.splitlines()
    for broken, words in (
        ("", "there is no block"),
        ("\n".join(lines[1:]), "there is no block"),
        ("\n".join(lines[:-1]), "there is no block"),
        ("\n".join(lines[:4] + lines[5:]), "changed or cut"),
        (invitation.replace("password: ", "password: x"), "changed or cut"),
        (invitation.replace("to: b", "to: c"), "changed or cut"),
    ):
        assert words in b.run(1, "connect", "--from", "-", stdin=broken).err, broken
    assert levels(b) == {} and b.run(0, "get-librarian-list").out.count("\n") <= 1
    b.run(0, "connect", "--from", "-", stdin=mailed)
    assert levels(b) == {"a": "READAPPEND"}


def test_a_block_for_somebody_else_is_refused(sites: tuple[Site, Site], tmp_path: Path) -> None:
    a, b = sites
    block = a.run(0, "connect", "--to", "c", "--flow", "send").out
    trouble = b.run(1, "connect", "--from", "-", stdin=block).err
    assert "the block is for 'c', and this librarian is 'b'" in trouble
    own = a.run(1, "connect", "--to", "a", "--flow", "send").err
    assert "this librarian itself" in own
    assert "no name" in a.run(1, "connect", "--to", "b c", "--flow", "send").err


def test_a_wrong_level_is_refused_before_anything_is_written(sites: tuple[Site, Site]) -> None:
    a, b = sites
    a.run(0, "create-user", "--username", "b", "--auth-level", "ADMIN")
    trouble = a.run(1, "connect", "--to", "b", "--flow", "send").err
    assert "has the level ADMIN" in trouble and "needs CALLBACK" in trouble and "delete-user --username b" in trouble
    a.run(0, "delete-user", "--username", "b")
    invitation = a.run(0, "connect", "--to", "b", "--flow", "send").out
    b.run(0, "create-user", "--username", "a", "--auth-level", "CALLBACK")
    assert "needs READAPPEND" in b.run(1, "connect", "--from", "-", stdin=invitation).err
    assert b.run(0, "get-librarian-list").out.count("a\t") == 0


def test_a_reply_to_nobody_is_refused(sites: tuple[Site, Site]) -> None:
    a, b = sites
    reply = b.run(0, "connect", "--from", "-", stdin=a.run(0, "connect", "--to", "b", "--flow", "send").out).out
    a.run(0, "delete-user", "--username", "b")
    assert "User not found: b" in a.run(1, "connect", "--from", "-", stdin=reply).err
    assert a.run(0, "get-librarian-list").out.count("b\t") == 0


def test_every_step_can_be_repeated_and_passwords_follow_each_other(sites: tuple[Site, Site]) -> None:
    """Also while files are under way: nothing is lost, and nothing has to be tried again."""
    a, b = sites
    for _ in range(2):
        for _ in range(2):
            invitation = a.run(0, "connect", "--to", "b", "--flow", "send").out
        for _ in range(2):
            reply = b.run(0, "connect", "--from", "-", stdin=invitation).out
        for _ in range(2):
            assert a.run(0, "connect", "--from", "-", stdin=reply).out.count("yes") == 2
    (a.directory / "f").write_text("light")
    a.run(0, "ingest", str(a.directory / "f"))
    a.run(0, "send-clone")
    invitation = a.run(0, "connect", "--to", "b", "--flow", "send").out
    a.run(0, "consume-queue")
    reply = b.run(0, "connect", "--from", "-", stdin=invitation).out
    a.run(0, "check-consumed-queue")
    a.run(0, "connect", "--from", "-", stdin=reply)
    b.run(0, "recv-clone")
    assert b.stored() == {"f": b"light"} and Pair(a, b).quiet()
    assert b.run(0, "get-librarian-list", "--ping").out and a.run(0, "get-librarian-list", "--ping").out


def test_an_old_block_is_refused_and_changes_nothing(sites: tuple[Site, Site]) -> None:
    """Also while its password is still good, which would leave the two apart a day later."""
    a, b = sites
    old = a.run(0, "connect", "--to", "b", "--flow", "send").out
    b.run(0, "connect", "--from", "-", stdin=old)
    b.run(0, "connect", "--from", "-", stdin=a.run(0, "connect", "--to", "b", "--flow", "send").out)
    with b.open():
        from libtool.models.tables import Librarian

        before = Librarian.get().authenticator
    assert "made a newer block" in b.run(1, "connect", "--from", "-", stdin=old).err
    with a.open() as node:
        from libtool.models.tables import User

        assert User.get().former_until > node.now()
        User.update(former_until=node.now()).execute()
    trouble = b.run(1, "connect", "--from", "-", stdin=old).err
    assert "does not accept our account" in trouble and "newest block" in trouble
    with b.open():
        assert Librarian.get().authenticator == before
    b.run(0, "get-librarian-list", "--ping")


def test_an_address_that_somebody_else_chose_needs_a_word(sites: tuple[Site, Site]) -> None:
    """One that starts a program here, and one that moves a neighbour that is known."""
    a, b = sites
    program = a.run(0, "connect", "--to", "b", "--flow", "send", "--url", f"exec://{a.config}").out
    assert "--allow-exec" in b.run(1, "connect", "--from", "-", stdin=program).err
    assert levels(b) == {}
    b.run(0, "connect", "--from", "-", "--allow-exec", stdin=program)
    web = a.run(0, "connect", "--to", "b", "--flow", "send").out
    trouble = b.run(1, "connect", "--from", "-", stdin=web).err
    assert "is registered at exec://" in trouble and "--replace" in trouble
    b.run(0, "get-librarian-list", "--ping")
    b.run(0, "connect", "--from", "-", "--replace", stdin=web)
    assert "http://127.0.0.1" in b.run(0, "get-librarian-list").out


def test_a_neighbour_is_moved_by_another_port_or_path_as_well(sites: tuple[Site, Site]) -> None:
    a, b = sites
    b.run(0, "connect", "--from", "-", stdin=a.run(0, "connect", "--to", "b", "--flow", "send").out)
    url = a.settings["callback_url"]
    for other in (f"{url}/deeper", re.sub(r":[0-9]+", ":9", url)):
        block = a.run(0, "connect", "--to", "b", "--flow", "send", "--url", other).out
        assert "--replace" in b.run(1, "connect", "--from", "-", stdin=block).err, other
    b.run(0, "get-librarian-list", "--ping")


def test_a_block_can_be_written_where_nobody_else_reads_it(sites: tuple[Site, Site]) -> None:
    a, b = sites
    path = a.directory / "for_b"
    assert a.run(0, "connect", "--to", "b", "--flow", "send", "--output", str(path)).out == ""
    assert path.stat().st_mode & 0o777 == 0o600
    b.run(0, "connect", "--from", str(path))


def test_a_dry_run_changes_nothing_and_shows_no_password(sites: tuple[Site, Site]) -> None:
    a, b = sites
    assert "BEGIN" not in a.run(0, "connect", "--to", "b", "--flow", "send", "--dry-run").out
    assert levels(a) == {}
    invitation = a.run(0, "connect", "--to", "b", "--flow", "send").out
    said = b.run(0, "connect", "--from", "-", "--dry-run", stdin=invitation).out
    password = re.search("password: (.*)", invitation)
    assert password is not None and password[1] not in said and "READAPPEND" in said
    assert levels(b) == {} and b.run(0, "get-librarian-list").out.count("a\t") == 0


def test_who_cannot_be_reached_is_not_registered(sites: tuple[Site, Site]) -> None:
    a, b = sites
    invitation = a.run(0, "connect", "--to", "b", "--flow", "send", "--url", "http://127.0.0.1:9").out
    trouble = b.run(1, "connect", "--from", "-", stdin=invitation).err
    assert "Connection refused" in trouble and "Nothing was registered" in trouble
    assert levels(b) == {}


def test_a_side_that_cannot_reach_back_is_told_at_the_end(sites: tuple[Site, Site]) -> None:
    a, b = sites
    reply = b.run(0, "connect", "--from", "-", stdin=a.run(0, "connect", "--to", "b", "--flow", "send").out).out
    with b.open():
        from libtool.models.tables import Librarian

        Librarian.update(port=9, url="http://127.0.0.1").execute()
    ended = a.run(3, "connect", "--from", "-", stdin=reply)
    assert ended.out.startswith("a can call b: yes\nb can call a: no: librarian a did not answer")
    assert "take this block again" in ended.err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--to", "b"), 2, "--flow is needed"),
        ((), 2, "--to is needed"),
        (("--to", "b", "--flow", "send", "--url", "http://example.org"), 1, "--allow-plain-http"),
        (("--to", "b", "--flow", "send", "--url", "ftp://example.org"), 1, "no URL"),
        (("--to", "b", "--flow", "send", "--url", "ssh://-oProxyCommand=x@h"), 1, "ssh://user@host"),
        (("--to", "b", "--flow", "send", "--url", "ssh://u@-h"), 1, "ssh://user@host"),
        (("--from", "/nowhere"), 1, "cannot be read"),
        (("--from", "x", "--to", "b"), 2, "for who begins"),
    ],
)
def test_what_a_script_forgot_is_said(sites: tuple[Site, Site], words: tuple[str, ...], code: int, says: str) -> None:
    assert says in sites[0].run(code, "connect", *words).err
    assert levels(sites[0]) == {}


# -- on a terminal ------------------------------------------------------------------------------------------------


class Terminal:
    """A command on a terminal, and somebody who types."""

    def __init__(self, *words: str) -> None:
        self.said = ""
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.execv(sys.executable, [sys.executable, "-m", "libtool", *words])

    def until(self, words: str) -> str:
        """What it says until these words; they must come."""
        end = time.monotonic() + 30
        while words not in self.said:
            ready, _, _ = select.select([self.descriptor], [], [], max(0.0, end - time.monotonic()))
            assert ready, (words, self.said)
            try:
                more = os.read(self.descriptor, 65536)
            except OSError as trouble:
                assert trouble.errno == errno.EIO
                more = b""
            assert more, (words, self.said)
            self.said += more.decode().replace("\r\n", "\n")
        found, _, self.said = self.said.partition(words)
        return found + words

    def type(self, text: str) -> None:
        """Some keys."""
        for line in text.splitlines(keepends=True):
            os.write(self.descriptor, line.encode())

    def end(self) -> int:
        """Its exit code."""
        try:
            while os.read(self.descriptor, 65536):
                pass
        except OSError:
            pass
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_two_operators_at_their_terminals(sites: tuple[Site, Site]) -> None:
    a, b = sites
    end = "-----END LIBTOOL CONNECTION-----"
    one = Terminal("--config", a.config, "connect")
    one.until("press Enter to begin.")
    one.type("\n")
    one.until("Name of the other librarian")
    one.type("b\n")
    one.until("1: a -> b   2: b -> a   3: both")
    one.until("1, 2 or 3")
    one.type("1\n")
    invitation = one.until(end)
    one.until("libtool connect --from FILE")
    assert one.end() == 0
    two = Terminal("--config", b.config, "connect")
    two.until("press Enter to begin.")
    two.type(invitation[invitation.index("-----BEGIN") :] + "\n\ny\n")  # more than the block
    two.until("a is registered here")  # what was typed is shown, too; the reply stands before this line
    assert two.end() == 0
    reply = b.run(0, "connect", "--from", "-", stdin=invitation[invitation.index("-----BEGIN") :]).out
    three = Terminal("--config", a.config, "connect")
    three.until("press Enter to begin.")
    three.type(reply)
    three.until("a can call b: yes\nb can call a: yes")
    three.until("are connected")
    assert three.end() == 0


# -- blocks -------------------------------------------------------------------------------------------------------

NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z")
TEXTS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)


@given(st.data())
def test_what_is_written_is_what_is_read(data: st.DataObject) -> None:
    one, other = data.draw(st.tuples(NAMES, NAMES).filter(lambda pair: pair[0] != pair[1]))
    flow = Flow.of(one, other, data.draw(st.sampled_from(["send", "receive", "both"])))
    kind = data.draw(st.sampled_from([INVITATION, REPLY]))
    optional = st.none() | TEXTS
    block = Block(
        kind,
        one,
        other,
        data.draw(TEXTS),
        flow,
        data.draw(optional),
        data.draw(optional),
        tuple(data.draw(st.lists(TEXTS, max_size=3))),
        data.draw(optional),
    )
    assert read(block.text()) == block
    assert {flow.level(one), flow.level(other)} <= {AuthLevel.CALLBACK, AuthLevel.READAPPEND}
    sends = {sender for sender, _ in flow.sends}
    assert all((flow.level(name) is AuthLevel.READAPPEND) == (name in sends) for name in (one, other))


@given(st.text(max_size=300))
def test_any_text_is_a_block_or_refused(text: str) -> None:
    for given_text in (text, f"-----BEGIN LIBTOOL CONNECTION-----\n{text}\n-----END LIBTOOL CONNECTION-----"):
        with pytest.raises(Refused):
            read(given_text)
