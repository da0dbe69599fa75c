"""What is told by mail: once when it begins, once a day, once when it is over; and mail that cannot be handed over."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from libtool import post, settings
from libtool.archive import notices, outbox
from libtool.archive.hands import Tally
from libtool.commands.tasks import frame as tasks
from libtool.commands.words import Frame
from libtool.errors import ConfigurationError, LibtoolError, PersonNeeded
from libtool.models.tables import Mail
from libtool.node import Node
from tests import crash
from tests.mail_server import Got, MailServer
from tests.networks import World
from tests.sites import Ran, Site, make_pair, make_site
from tests.test_startup import imported, loaded
from tests.web_servers import make_certificate

SECRET = "hunter2-is-no-password"
Body = Callable[[Node, Tally], None]
#: How many runs a month has, and how far they are apart.
STEPS, STEP = 30 * 24 * 6, timedelta(minutes=10)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """The time."""
    return World().take_over(monkeypatch)


@pytest.fixture
def server() -> Iterator[MailServer]:
    """A mail server that asks for nothing."""
    with MailServer() as server:
        yield server


def mailed(server: MailServer, security: str = "none", **more: Any) -> dict[str, Any]:
    """The key ``email`` for a server."""
    smtp = {"host": "localhost", "port": server.port, "security": security, **more}
    return {"sender": "libtool@site-a.org", "recipients": ["one@example.org", "two@example.org"], "smtp": smtp}


def make(tmp_path: Path, server: MailServer, database: str | None = None, **more: Any) -> Site:
    """A librarian that mails."""
    return make_site("a", tmp_path / "a", database, email=mailed(server, **more))


def work(site: Site, body: Body | None = None, *, verbosity: int = 0, command: str = "recv-clone") -> Ran:
    """One run of a task that does this."""
    err = io.StringIO()
    frame, tally = Frame(site.config, verbosity), Tally()
    with redirect_stderr(err), site.open() as node:
        try:
            with tasks.run(frame, node, command, "", tally):
                if body is not None:
                    body(node, tally)
            code = tasks.finish(frame, tally)
        except LibtoolError as trouble:
            code = trouble.exit_code
    return Ran(code, "", err.getvalue())


def bad(text: str = "it cannot be reached. Mend it.", subject: str = "librarian b", at_once: bool = True) -> Body:
    """A run that meets a trouble."""

    def body(node: Node, tally: Tally) -> None:
        tally.postponed += 1
        notices.trouble(node, tally, subject, "kind", text, at_once=at_once)

    return body


def good(subject: str = "librarian b") -> Body:
    """A run that does not meet it any more."""
    return lambda node, tally: notices.over(node, tally, subject, "kind")


def waits(site: Site) -> list[tuple[str, int]]:
    """What is in the outbox."""
    with site.open():
        return [(row.line, row.tries) for row in Mail.select().order_by(Mail.id)]


# -- one when it begins, one a day, one when it is over -----------------------------------------------------------


def test_one_when_it_begins_one_a_day_and_one_when_it_is_over(
    tmp_path: Path, world: World, server: MailServer, databases: Callable[[str], str | None]
) -> None:
    site = make(tmp_path, server, databases("a"))
    sent = []
    for n in range(3 * 24 * 6):
        ran = work(site, bad(at_once=False))
        assert (ran.code, ran.err) == (3, ""), n
        sent += [(n, got) for got in server.taken()]
        world.wait(minutes=10)
    assert work(site, good()).code == 0
    (last,) = server.taken()
    assert [n for n, _ in sent] == [1, 145, 289]
    first = sent[0][1]
    assert (first.sender, first.recipients) == ("libtool@site-a.org", ["one@example.org", "two@example.org"])
    assert first.lines == ["librarian b: it cannot be reached. Mend it. (for 10m)"]
    assert last.lines == ["librarian b: over after 3d: it cannot be reached"]
    assert first.message["Subject"] == "libtool a: librarian b: it cannot be reached. Mend it. (for 10m)"
    assert first.message["From"] == "libtool@site-a.org" and first.message["Auto-Submitted"] == "auto-generated"
    assert first.message["To"] == "one@example.org, two@example.org"
    assert parsedate_to_datetime(first.message["Date"]) == datetime(2031, 5, 1, 0, 10, tzinfo=timezone.utc)
    assert len({got.message["Message-ID"] for got in [*(got for _, got in sent), last]}) == 4
    assert waits(site) == []


def test_a_run_that_has_nothing_to_do_sends_what_waits(tmp_path: Path, world: World, server: MailServer) -> None:
    site = make(tmp_path, server)
    with site.open() as node:
        notices.trouble(node, Tally(), "store main", "kind", "it is not mounted", at_once=True)  # and it was killed there
    ran = site.run(0, "recv-clone")
    assert (ran.out, ran.err) == ("", "")
    assert [got.lines for got in server.taken()] == [["store main: it is not mounted"]]
    site.run(0, "recv-clone")
    assert server.taken() == [] and waits(site) == []


def test_a_librarian_that_does_not_answer_is_mailed_by_the_task_that_finds_it(
    tmp_path: Path, world: World, server: MailServer
) -> None:
    pair = make_pair(tmp_path, email=mailed(server))
    (tmp_path / "one").write_bytes(b"1")
    pair.a.run(0, "ingest", str(tmp_path / "one"))
    world.unreachable.add(pair.b.config)
    for _ in range(40):
        ran = pair.a.run(3, "send-clone")
        assert ran.err == ""
        world.wait(minutes=1)
    (got,) = server.taken()
    assert got.lines[0].startswith("librarian b: librarian b did not answer: no route to host")
    world.unreachable.clear()
    assert pair.a.run(0, "send-clone").err == ""
    (got,) = server.taken()
    assert got.lines[0].startswith("librarian b: over after 40m: librarian b did not answer")


def test_a_task_that_fails_mails_as_well_and_fails_as_before(tmp_path: Path, world: World, server: MailServer) -> None:
    site = make(tmp_path, server)

    def body(node: Node, tally: Tally) -> None:
        bad("the login expired")(node, tally)
        raise PersonNeeded(why="x", how="y")

    assert work(site, body).code == 4
    assert [got.lines for got in server.taken()] == [["librarian b: the login expired"]]


def test_a_task_that_fails_is_not_hidden_by_its_mail(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, server: MailServer) -> None:
    site = make(tmp_path, server)

    def broken(node: Node, key: str, lines: list[str], more: int = 0) -> list[str]:
        raise RuntimeError

    monkeypatch.setattr(Node, "post", broken)

    def body(node: Node, tally: Tally) -> None:
        bad()(node, tally)
        raise PersonNeeded(why="x", how="y")

    assert work(site, body).code == 4
    assert waits(site) == [("librarian b: it cannot be reached. Mend it.", 0)]


def test_several_troubles_are_one_message(tmp_path: Path, world: World, server: MailServer) -> None:
    site = make(tmp_path, server)

    def body(node: Node, tally: Tally) -> None:
        for n in range(5):
            notices.trouble(node, tally, f"file {n}", "kind", "it will not go", at_once=True)

    work(site, body)
    (got,) = server.taken()
    assert got.lines == [f"file {n}: it will not go" for n in range(5)]
    assert got.message["Subject"] == "libtool a: file 0: it will not go (and 4 more)"


def test_of_many_lines_the_newest_are_said_and_all_are_done(tmp_path: Path, world: World, server: MailServer) -> None:
    site = make(tmp_path, server)

    def body(node: Node, tally: Tally) -> None:
        for n in range(300):
            notices.trouble(node, tally, f"file {n}", "kind", "ä" * 5000, at_once=True)

    ran = work(site, body)
    (got,) = server.taken()
    assert [line[:9].rstrip(":") for line in got.lines[:200]] == [f"file {n}" for n in range(100, 300)]
    assert got.lines[200] == "And 100 more before these." and max(map(len, got.lines)) == 2000
    assert "(and 299 more)" in got.message["Subject"]
    assert waits(site) == []
    assert "file 99: " not in "\n".join(got.lines) and ran.err.startswith("file 0: ")  # what was not said is printed


@pytest.mark.parametrize(
    "text",
    [
        "ünïcode 日本 𝄞",
        ". alone",
        "x" * 1990,
        "From here",
        "two\r\nBcc: other@example.org\r\n\r\nlines",
        "\x00\x1b[31m\u202e\udcff",
        "=?utf-8?q?x?= %41 \\ \"quoted\"",
    ],
)
def test_any_text_comes_through_as_it_is_shown(tmp_path: Path, world: World, server: MailServer, text: str) -> None:
    site = make(tmp_path, server)
    work(site, bad(text, subject="s"))
    (got,) = server.taken()
    assert got.lines == [notices.shown(f"s: {text}")]
    assert got.recipients == ["one@example.org", "two@example.org"]
    assert set(got.message.keys()) <= {
        "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "Content-Type", "Content-Transfer-Encoding", "MIME-Version"
    }  # fmt: skip
    assert got.message["Subject"].startswith(f"libtool a: s: {notices.shown(text)[:30].replace('=?', '= ?')}")


# -- what is printed ----------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A standard error that people look at."""

    def isatty(self) -> bool:
        return True


def test_what_was_mailed_is_not_printed_for_cron_too(tmp_path: Path, world: World, server: MailServer) -> None:
    site = make(tmp_path, server)

    def body(node: Node, tally: Tally) -> None:
        bad(subject=f"librarian {len(server.got)}")(node, tally)
        tally.problem("file x: it is refused")

    assert work(site, body).err == "file x: it is refused\n"
    assert "librarian 1: it cannot be reached" in work(site, body, verbosity=1).err
    terminal = Terminal()
    with site.open() as node, redirect_stderr(terminal):
        tally = Tally()
        with tasks.run(Frame(None, 0), node, "recv-clone", "", tally):
            body(node, tally)
        tasks.finish(Frame(None, 0), tally)
    assert "librarian 2: it cannot be reached" in terminal.getvalue()
    assert len(server.taken()) == 3


def test_without_mail_all_is_printed_and_nothing_waits(tmp_path: Path, world: World) -> None:
    site = make_site("a", tmp_path / "a")
    assert work(site, bad()).err == "librarian b: it cannot be reached. Mend it.\n"
    assert waits(site) == []


def test_while_another_run_hands_over_nothing_is_printed_and_nothing_lost(
    tmp_path: Path, world: World, server: MailServer
) -> None:
    site = make(tmp_path, server)
    with site.open() as node, node.lock("mail"):
        ran = work(site, bad())
    assert (ran.code, ran.err) == (3, "")
    assert len(waits(site)) == 1 and server.taken() == []
    assert work(site).err == ""
    assert len(server.taken()) == 1 and waits(site) == []


def test_runs_that_end_at_once_send_one_message(tmp_path: Path, server: MailServer, databases: Callable[[str], str | None]) -> None:
    site = make(tmp_path, server, databases("a"))
    for n in range(3):
        with site.open() as node:
            notices.trouble(node, Tally(), f"store {n}", "kind", "it is not mounted", at_once=True)
        commands = ["recv-clone", "consume-queue", "check-consumed-queue", "reconcile", "corruption-fixer"]
        for process in [site.spawn(command) for command in commands]:
            out, err = process.communicate()
            assert (process.returncode, out, err) == (0, b"", b"")
        assert [got.lines for got in server.taken()] == [[f"store {n}: it is not mounted"]]


# -- mail that cannot be handed over ------------------------------------------------------------------------------

REFUSALS = {
    "greeting": "554 5.3.2 not you",
    "ehlo": "502 never heard",
    "mail": "553 5.7.1 sender refused",
    "rcpt": "550 5.1.1 no such user",
    "data": "451 4.3.0 later",
    "body": "554 5.6.0 spam",
}


def failing(site: Site, server: MailServer, world: World, words: str) -> None:
    """A run that cannot mail: it is told, once, and nothing is lost; and what follows when it can be mailed again."""
    ran = work(site, bad())
    first, second = ran.err.splitlines()
    assert ran.code == 3
    assert first == "librarian b: it cannot be reached. Mend it."
    assert second.startswith("mail: no message could be handed over to ") and words in second, second
    assert waits(site) == [("librarian b: it cannot be reached. Mend it.", 1)]
    shown = json.loads(site.run(0, "status", "-F", "json").out)
    assert shown["mail"] == {"waiting": 1, "tries": 1}
    assert "mail: 1 waiting to be handed over, which failed 1 times" in site.run(0, "status").out
    for _ in range(3):
        world.wait(minutes=20)
        assert work(site, bad()).err == ""
    assert waits(site) == [("librarian b: it cannot be reached. Mend it.", 4)]
    server.taken()


def mended(site: Site, server: MailServer, world: World) -> Got:
    """All is well again."""
    world.wait(minutes=20)
    ran = work(site)
    assert (ran.code, ran.err.count("\n")) == (0, 1) and ran.err.startswith("mail: over after ")
    (got,) = server.taken()
    assert got.lines[0] == "librarian b: it cannot be reached. Mend it."
    assert got.lines[1].startswith("No message could be handed over since 2031-05-01T00:00:00Z.")
    assert waits(site) == [] and site.status()["mail"] == {"waiting": 0, "tries": 0}
    assert site.status()["troubles"] == [{"subject": "librarian b", "text": "it cannot be reached. Mend it.", "since": "2031-05-01T00:00:00Z"}]
    return got


@pytest.mark.parametrize("stage", REFUSALS)
def test_a_refusal_at_any_stage_is_told_once_and_nothing_is_lost(
    tmp_path: Path, world: World, server: MailServer, stage: str
) -> None:
    site = make(tmp_path, server)
    server.behaviour.acts[stage] = REFUSALS[stage]
    if stage == "ehlo":  # it falls back to HELO, which has the same answer
        failing(site, server, world, "502")
    else:
        failing(site, server, world, REFUSALS[stage])
    server.behaviour.acts.clear()
    mended(site, server, world)


@pytest.mark.parametrize("act", ["close", "hang", "dribble"])
@pytest.mark.parametrize("stage", ["greeting", "ehlo", "mail", "rcpt", "data", "body"])
def test_a_server_that_hangs_or_goes_away_at_any_stage(
    tmp_path: Path, world: World, server: MailServer, monkeypatch: pytest.MonkeyPatch, stage: str, act: str
) -> None:
    monkeypatch.setattr(post, "ANSWER_SECONDS" if act == "hang" else "LONGEST", 0.3 if act != "close" else 60.0)
    site = make(tmp_path, server)
    server.behaviour.acts[stage] = act
    failing(site, server, world, {"close": "closed the connection", "hang": "no answer within", "dribble": "it took longer"}[act])
    server.behaviour.acts.clear()
    monkeypatch.setattr(post, "ANSWER_SECONDS", 20.0)
    monkeypatch.setattr(post, "LONGEST", 60.0)
    mended(site, server, world)


@pytest.mark.parametrize("act", ["close", "450 4.0.0 no"])
def test_whatever_it_says_at_the_end_what_it_took_it_has(tmp_path: Path, world: World, server: MailServer, act: str) -> None:
    site = make(tmp_path, server)
    server.behaviour.acts["quit"] = act
    assert work(site, bad()).err == ""
    assert len(server.taken()) == 1 and waits(site) == []


def test_an_answer_that_was_lost_makes_the_same_message_twice(tmp_path: Path, world: World, server: MailServer) -> None:
    site = make(tmp_path, server)
    server.behaviour.acts["body"] = "close"
    work(site, bad())
    (one,) = server.taken()
    server.behaviour.acts.clear()
    world.wait(minutes=20)
    work(site)
    (two,) = server.taken()
    assert one.message["Message-ID"] == two.message["Message-ID"]


def test_nobody_listens_and_nobody_knows_the_host(tmp_path: Path, world: World, server: MailServer) -> None:
    site = make(tmp_path, server)
    with MailServer() as other:
        port = other.port
    site.write(email=mailed(server) | {"smtp": {"host": "127.0.0.1", "port": port, "security": "none"}})
    failing(site, server, world, f"127.0.0.1:{port}: Connection refused")
    site.write(email=mailed(server) | {"smtp": {"host": "nowhere.invalid", "security": "none"}})
    world.wait(days=1)
    assert "nowhere.invalid:25: " in work(site).err
    site.write(email=mailed(server))
    world.wait(minutes=20)
    assert "over" in work(site).err and len(server.taken()) == 1


def test_mail_that_fails_is_tried_ever_more_rarely(tmp_path: Path, world: World, server: MailServer) -> None:
    """A server that hangs must not hold up every run of every task."""
    site = make(tmp_path, server)
    server.behaviour.acts["greeting"] = "421 busy"
    tried = []
    for minute in range(60):
        before = waits(site)
        work(site, bad())
        if waits(site) != before:
            tried.append(minute)
        world.wait(minutes=1)
    assert tried == [0, 1, 3, 7, 15, 25, 35, 45, 55]
    world.now -= timedelta(days=400)  # the clock was wrong
    work(site)
    assert waits(site)[0][1] == 10


def test_it_is_told_once_a_day_while_mail_fails_and_never_by_mail(tmp_path: Path, world: World, server: MailServer) -> None:
    site = make(tmp_path, server)
    server.behaviour.acts["mail"] = "451 later"
    told = []
    for hour in range(3 * 24):
        ran = work(site, bad())
        told += [(hour, line) for line in ran.err.splitlines() if line.startswith("mail: ")]
        world.wait(hours=1)
    assert [hour for hour, _ in told] == [0, 24, 48]
    server.behaviour.acts.clear()
    work(site)
    (got,) = server.taken()
    assert [line.partition(":")[0] for line in got.lines] == ["librarian b"] * 3 + ["No message could be handed over since 2031-05-01T00"]


def test_what_waits_for_too_long_is_dropped_but_for_the_newest(
    tmp_path: Path, world: World, server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "OUTLIVED", timedelta(days=100))
    site = make(tmp_path, server)
    server.behaviour.acts["mail"] = "451 later"

    def body(first: int) -> Body:
        def met(node: Node, tally: Tally) -> None:
            for n in range(first, first + 150):
                notices.trouble(node, tally, f"file {n}", "kind", "x", at_once=True)

        return met

    for first in (0, 150, 300):
        work(site, body(first))
        world.wait(days=6)
    # When the third hundred and fifty came, the first had waited for 12 days, the second for 6.
    assert [line for line, _ in waits(site)] == [f"file {n}: x" for n in range(150, 450)]
    world.wait(days=10)
    work(site)
    assert [line for line, _ in waits(site)] == [f"file {n}: x" for n in range(250, 450)]


def test_one_recipient_that_is_refused_is_told_to_the_others(tmp_path: Path, world: World, server: MailServer) -> None:
    site = make(tmp_path, server)
    server.behaviour.refused["two@example.org"] = "550 5.1.1 no such user"
    for _ in range(6):
        assert work(site, bad()).code == 3
        world.wait(minutes=10)
    one, other = server.taken()
    assert one.recipients == other.recipients == ["one@example.org"]
    assert other.lines[0].startswith("mail to two@example.org: the mail server takes nothing for this address: 550 5.1.1 no such user.")
    server.behaviour.refused.clear()
    work(site, good())
    work(site)
    one, other = server.taken()
    assert one.recipients == ["one@example.org", "two@example.org"]
    assert other.lines[0].startswith("mail to two@example.org: over after 1h")


def test_who_takes_email_out_of_the_configuration_is_told_what_waited(tmp_path: Path, world: World, server: MailServer) -> None:
    site = make(tmp_path, server)
    server.behaviour.acts["mail"] = "451 later"
    work(site, bad())
    with site.open() as node:
        notices.trouble(node, Tally(), "store main", "kind", "it is not mounted", at_once=True)
    del site.settings["email"]
    site.write()
    assert work(site).err == "store main: it is not mounted\n"  # the other one was printed before
    assert waits(site) == []
    assert [trouble["subject"] for trouble in site.status()["troubles"]] == ["librarian b", "store main"]


# -- TLS and accounts ---------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A certificate that this machine trusts."""
    path = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return path


@contextmanager
def encrypted(certificate: Path, security: str, how: str = "PLAIN", host: str = "127.0.0.1") -> Iterator[MailServer]:
    """A server that wants an account."""
    with MailServer(certificate, tls=security == "tls", host=host) as server:
        server.behaviour.account = ("someone", SECRET)
        server.behaviour.offers = (f"AUTH {how}",)
        yield server


def secret_file(tmp_path: Path, secret: str = SECRET) -> str:
    """An owner-only file."""
    path = tmp_path / "smtp.secret"
    path.touch(mode=0o600)
    path.write_text(secret + "\n")
    return str(path)


def hidden(site: Site, *texts: str) -> None:
    """The secret is in none of these, nor anywhere in what the librarian keeps."""
    spelled = [SECRET, *(base64.b64encode(each.encode()).decode() for each in (SECRET, f"\0someone\0{SECRET}"))]
    kept = [path.read_bytes() for path in site.directory.rglob("*") if path.is_file()]
    for each in spelled:
        assert not any(each in text for text in texts)
        assert not any(each.encode() in content for content in kept)


@pytest.mark.parametrize("security", ["starttls", "tls"])
@pytest.mark.parametrize("how", ["PLAIN", "LOGIN", "LOGIN PLAIN"])
def test_an_account_over_tls(tmp_path: Path, world: World, certificate: Path, security: str, how: str) -> None:
    with encrypted(certificate, security, how) as server:
        site = make(tmp_path, server, security=security, user="someone", password_file=secret_file(tmp_path))
        assert work(site, bad()).err == ""
        (got,) = server.taken()
        assert (got.user, got.encrypted) == ("someone", True)
        hidden(site)


def test_the_password_may_come_from_where_secrets_are_looked_for(
    tmp_path: Path, world: World, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with encrypted(certificate, "tls") as server:
        site = make(tmp_path, server, security="tls", user="someone")
        monkeypatch.setenv("LIBTOOL_SECRET_SMTP_PASSWORD", SECRET)
        assert work(site, bad()).err == "" and len(server.taken()) == 1


def test_a_server_that_does_not_offer_starttls_gets_nothing(tmp_path: Path, world: World) -> None:
    with MailServer() as server:
        server.behaviour.offers = ("AUTH PLAIN",)
        site = make(tmp_path, server, security="starttls", user="someone", password_file=secret_file(tmp_path))
        failing(site, server, world, "it does not offer STARTTLS")
        assert {line.partition(" ")[0].upper() for line in server.said} <= {"EHLO", "HELO", "QUIT"}


def test_a_certificate_that_is_not_trusted_or_not_its_own(
    tmp_path: Path, world: World, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n, security in enumerate(("starttls", "tls")):
        for host, trusted, words in (("127.0.0.1", "/dev/null", "self"), ("127.0.0.2", str(certificate), "IP address mismatch")):
            with encrypted(certificate, security, host=host) as server:
                monkeypatch.setenv("SSL_CERT_FILE", trusted)
                options = {"security": security, "user": "someone", "password_file": secret_file(tmp_path)}
                site = make(tmp_path / f"{n}{host}", server, **options, host=host)
                failing(site, server, world, f"its certificate is not trusted: {words}")
                assert not any("AUTH" in line or "MAIL" in line for line in server.said)
                world.now = World().now


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ({"starttls": "454 4.7.0 not now"}, "it refuses STARTTLS: 454 4.7.0 not now"),
        ({"starttls": "close"}, "it closed the connection"),
        ({"starttls": "hang"}, "no answer within"),
        ({"handshake": "close"}, ""),
        ({"handshake": "hang"}, "no answer within"),
        ({"auth": f"535 5.7.8 you said {SECRET}"}, "it does not accept the account someone (535 5.7.8)"),
        ({"auth": "454 try later"}, "it does not accept the account someone (454)"),
        ({"auth": "close"}, "it closed the connection at the login of someone"),
        ({"mail": f"550 {SECRET} is a nice password"}, "550 (and what it was told in secret)"),
        ({"rcpt": "550 " + base64.b64encode(f"\0someone\0{SECRET}".encode()).decode()}, "550 (and what it was told in secret)"),
        ({"body": "550 " + base64.b64encode(SECRET.encode()).decode()}, "550 (and what it was told in secret)"),
    ],
)
def test_no_failure_shows_the_password(
    tmp_path: Path, world: World, certificate: Path, monkeypatch: pytest.MonkeyPatch, act: dict[str, str], words: str
) -> None:
    monkeypatch.setattr(post, "ANSWER_SECONDS", 0.3)
    with encrypted(certificate, "starttls") as server:
        server.behaviour.acts = dict(act)
        site = make(tmp_path, server, security="starttls", user="someone", password_file=secret_file(tmp_path))
        ran = work(site, bad())
        assert ran.code == 3 and words in ran.err and "mail: " in ran.err, ran.err
        tried = site.run(1, "-vv", "status", "--try-mail")
        hidden(site, ran.err, ran.out, tried.err, tried.out, site.run(0, "status", "-F", "json").out)


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        ("wrong", "it does not accept the account someone (535 5.7.8)"),
        ("pässword", "not ASCII"),
        ("", ""),
    ],
)
def test_a_password_that_is_wrong(tmp_path: Path, world: World, certificate: Path, secret: str, words: str) -> None:
    with encrypted(certificate, "tls") as server:
        site = make(tmp_path, server, security="tls", user="someone", password_file=secret_file(tmp_path, secret))
        ran = work(site, bad())
        assert ran.code == 3 and words in ran.err and "mail: no message" in ran.err
        assert not secret or secret not in ran.err.replace("password", "")


def test_a_password_that_is_missing_or_lies_open(tmp_path: Path, world: World, certificate: Path) -> None:
    with encrypted(certificate, "tls") as server:
        site = make(tmp_path, server, security="tls", user="someone", password_file=str(tmp_path / "smtp.secret"))
        ran = work(site, bad())
        assert ran.code == 3 and "the secret smtp_password was not found; asked: " in ran.err
        (tmp_path / "smtp.secret").write_text(SECRET)
        (tmp_path / "smtp.secret").chmod(0o644)
        world.wait(days=2)
        assert "smtp.secret" in work(site).err and server.said == []


def test_a_server_that_offers_no_login(tmp_path: Path, world: World, certificate: Path) -> None:
    for n, (offers, words) in enumerate([((), "it offers no login on this connection"), (("AUTH XOAUTH2",), "no login that is known here")]):
        with encrypted(certificate, "tls") as server:
            server.behaviour.offers = offers
            site = make(tmp_path / str(n), server, security="tls", user="someone", password_file=secret_file(tmp_path))
            failing(site, server, world, words)


# -- sendmail -----------------------------------------------------------------------------------------------------

SENDMAIL = """#!/bin/sh
for each in "$@"; do printf '%s\\n' "$each"; done > {0}/arguments.$$
cat > {0}/part.$$
[ -e {0}/hang ] && sleep 30
[ -e {0}/fail ] && {{ echo 'the queue is full' >&2; exit 75; }}
[ -e {0}/leaves ] && sleep 30 &
mv {0}/part.$$ {0}/$(date +%s%N).mail
"""


@pytest.fixture
def sendmail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that keeps what it is given in this directory."""
    place = tmp_path / "mail"
    place.mkdir()
    program = place / "sendmail"
    program.write_text(SENDMAIL.format(place))
    program.chmod(0o755)
    monkeypatch.setattr(post, "SENDMAILS", (str(place / "none"), str(program)))
    return place


def kept(place: Path) -> list[Got]:
    """What sendmail was given, the oldest first."""
    return [Got("", [], path.read_bytes(), None, False) for path in sorted(place.glob("*.mail"))]


LOCAL = {"sender": "libtool@site-a.org", "recipients": ["one@example.org", "two@example.org"]}


def test_without_a_server_sendmail_gets_it(tmp_path: Path, world: World, sendmail: Path) -> None:
    site = make_site("a", tmp_path / "a", email=LOCAL)
    assert work(site, bad(".\r\nBcc: x@example.org ä")).err == ""
    (got,) = kept(sendmail)
    (arguments,) = sendmail.glob("arguments.*")
    assert arguments.read_text().split() == ["-oi", "-f", "libtool@site-a.org", "--", "one@example.org", "two@example.org"]
    assert got.lines == ["librarian b: .\\r\\nBcc: x@example.org ä"] and b"\r" not in got.raw
    assert got.message["To"] == "one@example.org, two@example.org"


def test_sendmail_that_leaves_something_running_is_not_waited_for(
    tmp_path: Path, world: World, sendmail: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post, "LONGEST", 30.0)  # half of which is less than what it leaves takes
    site = make_site("a", tmp_path / "a", email=LOCAL)
    (sendmail / "leaves").touch()
    assert work(site, bad()).err == "" and len(kept(sendmail)) == 1


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("fail", "it ended with 75 and said: the queue is full"),
        ("hang", "it did not come to an end"),
        ("none", "there is none at "),
        ("not to be run", "there is none at "),
        ("no program", "handed over to sendmail: "),
    ],
)
def test_sendmail_that_fails(
    tmp_path: Path, world: World, sendmail: Path, monkeypatch: pytest.MonkeyPatch, server: MailServer, how: str, words: str
) -> None:
    site = make_site("a", tmp_path / "a", email=LOCAL)
    (sendmail / how).touch()
    if how == "hang":
        monkeypatch.setattr(post, "LONGEST", 2.0)
    elif how == "none":
        (sendmail / "sendmail").unlink()
    elif how == "not to be run":
        (sendmail / "sendmail").unlink()
        (sendmail / "sendmail").touch(mode=0o644)
    elif how == "no program":
        (sendmail / "sendmail").write_bytes(b"\x00\x01")
    failing(site, server, world, words)
    (sendmail / how).unlink()
    (sendmail / "sendmail").write_text(SENDMAIL.format(sendmail))
    (sendmail / "sendmail").chmod(0o755)
    monkeypatch.setattr(post, "LONGEST", 60.0)
    world.wait(minutes=20)
    assert work(site).err.startswith("mail: over after")
    assert [got.lines[0] for got in kept(sendmail)] == ["librarian b: it cannot be reached. Mend it."]


# -- ends at any point --------------------------------------------------------------------------------------------


def test_a_run_that_ends_anywhere_loses_no_line(tmp_path: Path, sendmail: Path) -> None:
    """At every seam of a run that finds a trouble; a line may come twice, and then in the same message."""
    pair = make_pair(tmp_path / "pair", email=LOCAL)
    (tmp_path / "one").write_bytes(b"1")
    pair.a.run(0, "ingest", str(tmp_path / "one"))
    pair.b.run(0, "delete-user", "--username", "a")
    before = crash.Snapshot(tmp_path / "pair")
    twice = 0
    for n in range(1, 200, 1 if os.environ.get("LIBTOOL_TEST_ALL_SEAMS") else 2):
        counter = crash.Counter(n)
        code = crash.run(pair.a, ("send-clone",), counter)
        again = crash.run(pair.a, ("send-clone",), crash.Counter())
        crash.run(pair.a, ("send-clone",), crash.Counter())
        assert again == 4
        found = kept(sendmail)
        ids = {got.message["Message-ID"] for got in found}
        assert len(ids) == 1 and 1 <= len(found) <= 2, (n, [got.lines for got in found])
        assert found[0].lines[0].startswith("librarian b: librarian b does not accept our account 'a'")
        twice += len(found) == 2
        assert waits(pair.a) == []
        for path in sendmail.glob("*.mail"):
            path.unlink()
        before.restore()
        if code != crash.DIED:
            break
    assert code == 4 and n > 10
    assert 1 <= twice <= 3  # between it was handed over and the row's deletion was committed


@pytest.mark.parametrize("when", ["mail fails", "mail works again"])
def test_a_run_that_ends_anywhere_while_mail_is_in_trouble(tmp_path: Path, world: World, sendmail: Path, when: str) -> None:
    site = make_site("a", tmp_path / "site", email=LOCAL)
    with site.open() as node:
        notices.trouble(node, Tally(), "store main", "kind", "it is not mounted", at_once=True)
    if when == "mail works again":
        (sendmail / "fail").touch()
        assert crash.run(site, ("recv-clone",), crash.Counter()) == 0
        (sendmail / "fail").unlink()
    before, now = crash.Snapshot(tmp_path / "site"), world.now
    for n in range(1, 100):
        if when == "mail fails":
            (sendmail / "fail").touch()
        world.now = now + timedelta(hours=1)
        code = crash.run(site, ("recv-clone",), crash.Counter(n))
        (sendmail / "fail").unlink(missing_ok=True)
        world.now += timedelta(hours=1)
        assert crash.run(site, ("recv-clone",), crash.Counter()) == 0
        found = kept(sendmail)
        assert {got.lines[0] for got in found} == {"store main: it is not mounted"} and len(found) <= 2
        assert len({got.message["Message-ID"] for got in found}) == 1
        assert waits(site) == []
        assert [trouble["subject"] for trouble in site.status()["troubles"]] == ["store main"]
        for path in sendmail.glob("*.mail"):
            path.unlink()
        before.restore()
        if code != crash.DIED:
            break
    assert code == 0 and n > 8


# -- what it costs ------------------------------------------------------------------------------------------------


def test_a_run_that_has_nothing_to_mail_imports_nothing_for_it(tmp_path: Path, server: MailServer) -> None:
    site = make(tmp_path, server)
    names, done = imported(site.directory, "libtool", "--config", site.config, "recv-clone")
    assert done.returncode == 0
    assert loaded(names, {"smtplib", "libtool.post", "email.message"}) == set()


def test_a_run_that_has_nothing_to_mail_asks_once(tmp_path: Path, server: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make(tmp_path, server)
    asked: list[str] = []
    with site.open() as node:
        execute = node.database.execute_sql

        def watched(sql: str, *words: Any) -> Any:
            asked.append(sql)
            return execute(sql, *words)

        monkeypatch.setattr(node.database, "execute_sql", watched)
        outbox.deliver(node, Tally())
    assert len(asked) == 1


# -- the configuration and the test message -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        ({"sender": "x"}, "email.sender", "expected a mail address"),
        ({"sender": "a@b.org\nBcc: c@d.org"}, "email.sender", "expected a mail address"),
        ({"sender": "-X/tmp/log@b.org"}, "email.sender", "expected a mail address"),
        ({"sender": None}, "email.sender", "expected a mail address"),
        ({"recipients": []}, "email.recipients", "expected a list"),
        ({"recipients": "a@b.org"}, "email.recipients", "expected a list"),
        ({"recipients": ["a@b.org, c@d.org"]}, "email.recipients", "expected a mail address"),
        ({"recipients": ["a@b.org", "ä@b.org"]}, "email.recipients", "expected a mail address"),
        ({"recipient": ["a@b.org"]}, "email.recipient", "did you mean 'recipients'?"),
        ({"smtp": "smtp.example.org"}, "email.smtp", "expected a mapping"),
        ({"smtp": {}}, "email.smtp.host", "is missing"),
        ({"smtp": {"host": "a:25"}}, "email.smtp.host", "expected a host"),
        ({"smtp": {"host": "-a"}}, "email.smtp.host", "expected a host"),
        ({"smtp": {"host": "a", "port": 0}}, "email.smtp.port", "expected a whole number"),
        ({"smtp": {"host": "a", "security": "ssl"}}, "email.smtp.security", "expected one of none, starttls, tls"),
        ({"smtp": {"host": "a", "security": False}}, "email.smtp.security", "expected one of none, starttls, tls"),
        ({"smtp": {"host": "a", "security": []}}, "email.smtp.security", "expected one of none, starttls, tls"),
        ({"smtp": {"host": "a", "user": "x\ny"}}, "email.smtp.user", "expected text on one line"),
        ({"smtp": {"host": "a", "user": "x", "security": "none"}}, "email.smtp.security", "readable on the way"),
        ({"smtp": {"host": "a", "password_file": "x"}}, "email.smtp.user", "is missing"),
        ({"smtp": {"host": "a", "user": "x", "password": SECRET}}, "email.smtp.password", "password_file"),
        ({"smtp": {"host": "a", "user": "x", "smtp_password": SECRET}}, "email.smtp.smtp_password", "password_file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, Any], key: str, words: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"name": "a", "email": LOCAL | change}))
    with pytest.raises(ConfigurationError) as refusal:
        settings.load(str(file))
    said = refusal.value.text
    assert f"{file}: {key}: " in said and words in said and SECRET not in said


@pytest.mark.parametrize(
    ("smtp", "port", "security"),
    [
        ({}, 587, "starttls"),
        ({"security": "none"}, 25, "none"),
        ({"security": "tls"}, 465, "tls"),
        ({"security": "tls", "port": 2465}, 2465, "tls"),
        ({"port": None, "security": None}, 587, "starttls"),
    ],
)
def test_ports_follow_the_security(tmp_path: Path, smtp: dict[str, Any], port: int, security: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"name": "a", "email": LOCAL | {"smtp": {"host": "smtp.example.org", **smtp}}}))
    found = settings.load(str(file)).email
    assert found is not None and found.smtp is not None
    assert (found.smtp.port, found.smtp.security) == (port, security)


def test_the_example_loads_when_it_is_used(tmp_path: Path) -> None:
    text = settings.example()
    begin = text.index("# email:")
    part = text[begin : text.find("\n\n", begin)]
    file = tmp_path / "config.yaml"
    file.write_text("name: a\n" + re.sub(r"^# ( *)(?:# (?=[a-z_]+: ))?", r"\1", part, flags=re.MULTILINE))
    found = settings.load(str(file)).email
    assert found is not None and found.smtp is not None and found.smtp.password_file == "smtp.secret"


def test_mail_can_be_tried(tmp_path: Path, server: MailServer) -> None:
    site = make(tmp_path, server)
    assert site.run(0, "status", "--try-mail").out == "One message was handed over to one@example.org, two@example.org.\n"
    (got,) = server.taken()
    assert got.lines == ["This is a test: mail from this librarian arrives."]
    server.behaviour.refused["two@example.org"] = "550 no such user"
    ran = site.run(1, "status", "--try-mail")
    assert ran.out == "One message was handed over to one@example.org.\n" and "two@example.org: 550 no such user" in ran.err
    shown = json.loads(site.run(1, "status", "--try-mail", "-F", "json").out)
    assert shown == {"handed_over_to": ["one@example.org"], "refused": ["two@example.org: 550 no such user"]}
    server.behaviour.acts["greeting"] = "554 not you"
    ran = site.run(1, "status", "--try-mail")
    assert ran.err == (
        f"libtool: no message could be handed over to localhost:{server.port}: it takes no mail now: 554 not you. Nothing else is affected, "
        "and what is to be told waits. Check host, port and security under email.smtp, and that this machine may connect to there.\n"
    )
    del site.settings["email"]
    site.write()
    assert "email: is missing" in site.run(78, "status", "--try-mail").err


# -- a month ------------------------------------------------------------------------------------------------------

#: Subject → whether it is told at once, and how many runs long its outages and the times between are, on average.
TROUBLES = {
    "carrier globus": (False, 30, 300),
    "librarian b": (False, 60, 600),
    "librarian c": (True, 200, 900),
    "store main": (False, 5, 250),
    "files of outbox": (True, 3, 80),
}


def outages(dice: random.Random) -> dict[str, list[bool]]:
    """For every subject and run: whether it is in trouble."""
    found = {}
    for subject, (_, long, apart) in TROUBLES.items():
        steps: list[bool] = []
        while len(steps) < STEPS:
            steps += [False] * (1 + int(dice.expovariate(1 / apart))) + [True] * (1 + int(dice.expovariate(1 / long)))
        found[subject] = [*steps[:STEPS], False]  # in the end all is well
    return found


def expected(steps: list[bool], at_once: bool) -> dict[int, str]:
    """When a trouble is to be told: run → what."""
    found: dict[int, str] = {}
    first = told = None
    for n, bad_now in enumerate(steps):
        if bad_now:
            first = n if first is None else first
            if told is None and (at_once or (n - first) * STEP >= timedelta(minutes=10)):
                found[n], told = "begins", n
            elif told is not None and (n - told) * STEP >= timedelta(days=1):
                found[n], told = "lasts", n
        else:
            if told is not None:
                found[n] = "over"
            first = told = None
    return found


@pytest.mark.parametrize("seed", [1, 2] if os.environ.get("LIBTOOL_TEST_ALL_SEAMS") else [1])
def test_a_month_of_failures(tmp_path: Path, world: World, server: MailServer, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    site = make(tmp_path, server)
    dice = random.Random(seed)
    steps = outages(dice)
    wanted = {subject: expected(steps[subject], TROUBLES[subject][0]) for subject in TROUBLES}
    begin, end = STEPS * 2 // 5, STEPS * 2 // 5 + 3 * 144 + 5  # mail itself fails for three days
    begin = next(n for n in range(begin, STEPS) if any(n in each for each in wanted.values()))
    begin, end = begin, end + begin - STEPS * 2 // 5
    mails: list[tuple[int, Got]] = []
    printed: list[tuple[int, str]] = []

    def body(n: int) -> Body:
        def met(node: Node, tally: Tally) -> None:
            ledger = notices.Ledger("carrying")
            for subject, (at_once, _, _) in TROUBLES.items():
                for k in range(1 + n % 3 if steps[subject][n] else 0):
                    ledger.note(subject, "kind", f"no {k} today. Mend it.", at_once=at_once)
                if not steps[subject][n]:
                    ledger.well(subject)
                tally.postponed += steps[subject][n]
            ledger.settle(node, tally, lambda subject: False)

        return met

    with site.open() as node:
        for n in range(STEPS + 1):
            server.behaviour.acts = {"greeting": "421 busy"} if begin <= n < end else {}
            err, tally, frame = io.StringIO(), Tally(), Frame(None, 0)
            with redirect_stderr(err):
                with tasks.run(frame, node, "send-clone", "", tally):
                    body(n)(node, tally)
                code = tasks.finish(frame, tally)
            assert code == (3 if any(each[n] for each in steps.values()) else 0)
            printed += [(n, line) for line in err.getvalue().splitlines()]
            mails += [(n, got) for got in server.taken()]
            world.now += STEP

    told = {subject: [(n, line) for n, got in mails for line in got.lines if line.startswith(f"{subject}: ")] for subject in TROUBLES}
    for subject, found in told.items():  # each line once, and in time unless mail failed
        due = [max(n, end) if begin <= n < end else n for n in wanted[subject]]
        assert [n for n, _ in found] == due, subject
        assert [": over after " in line for _, line in found] == [word == "over" for word in wanted[subject].values()]
    # No mail when nothing changed, and one for all that changed at once.
    changed = {n for each in wanted.values() for n in each}
    while_failing = {n for n in changed if begin <= n < end}
    assert [n for n, _ in mails] == sorted((changed - while_failing) | {end})
    incidents = sum(list(each.values()).count("begins") for each in wanted.values())
    reminders = sum(list(each.values()).count("lasts") for each in wanted.values())
    assert len(mails) <= 2 * incidents + reminders + 1
    # That mail fails is printed, once a day and once when it is over; and what could not be mailed.
    own = [n for n, line in printed if line.startswith("mail: ")]
    assert own == [begin, begin + 144, begin + 288, begin + 432, end]
    assert {n for n, line in printed if not line.startswith("mail: ")} == while_failing
    with capsys.disabled():
        met = sum(sum(each) for each in steps.values())
        print(
            f"\na month of {STEPS} runs, {met} of which met a trouble: {incidents} incidents that were told, {reminders} reminders, "
            f"{len(mails)} mails; mail itself failed for {(end - begin) * STEP}, {len(while_failing)} runs had something to tell meanwhile"
        )
