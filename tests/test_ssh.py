"""Librarians without a web server: the callback as a forced command, behind a real sshd."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from libtool.peers.exec import parse_cgi
from libtool.sshkeys import authorize, line_for, plain, trusted, trusting
from tests.sites import Pair, Ran, Site, make_site, tree
from tests.sshd import USER, Sshd, sshd


@dataclass
class Reached:
    """Two librarians that reach each other over ssh, each with a key of its own."""

    pair: Pair
    server: Sshd
    home: Path

    def ssh(self, site: Site, *command: str, body: bytes = b"{}", options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[bytes]:
        """ssh with the key of a site."""
        known = ["-o", f"UserKnownHostsFile={site.directory}/ssh.known_hosts", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]
        words = ["ssh", "-T", *known, "-i", str(site.directory / "ssh.key"), "-p", str(self.server.port), *options]
        return subprocess.run([*words, f"{USER}@127.0.0.1", *command], input=body, capture_output=True, check=False, timeout=60)


@pytest.fixture
def reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reached]:
    """They are connected as their operators would do it, both ways."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    with sshd(tmp_path / "sshd", home / ".ssh" / "authorized_keys") as server:
        a, b = (
            make_site(
                name,
                tmp_path / name,
                local_transfer_roots=[str(tmp_path)],
                commands={"send-clone": {"destination_librarian": other}},
                callback_url=server.url,
            )
            for name, other in (("a", "b"), ("b", "a"))
        )
        assert connect(a, b, tmp_path).out == "a can call b: yes\nb can call a: yes\n"
        yield Reached(Pair(a, b), server, home)


def connect(a: Site, b: Site, top: Path) -> Ran:
    """The dialogue without questions; the last word of it."""
    (top / "invitation").write_text(a.run(0, "connect", "--to", b.name, "--flow", "both").out)
    (top / "reply").write_text(b.run(0, "connect", "--from", str(top / "invitation"), "--install-key").out)
    return a.run(0, "connect", "--from", str(top / "reply"), "--install-key")


def write_files(top: Path, count: int) -> Path:
    """Small files in a few directories."""
    for n in range(count):
        path = top / f"{top.name} {n % 7}" / f"{n}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{top.name} {n}".encode() * (n % 50))
    return top


def test_500_files_each_way_and_a_run_costs_one_connection(reached: Reached, tmp_path: Path) -> None:
    a, b = reached.pair.a, reached.pair.b
    sources = {site.name: write_files(tmp_path / f"of {site.name}", 500) for site in (a, b)}
    for site in (a, b):
        site.run(0, "ingest", "--recursive", str(sources[site.name]))
    before = reached.server.logins
    runs = 0
    for command in ("send-clone", "consume-queue", "check-consumed-queue", "recv-clone"):
        for site in (a, b):
            ran = site.run(0, command, *(["--send-batch-size", "100"] if command == "send-clone" else []))
            assert (ran.out, ran.err) == ("", "")
            runs += 1
    whole = tree(sources["a"]) | tree(sources["b"])
    assert len(whole) == 1000 and a.stored() == b.stored() == whole
    assert reached.pair.quiet()
    assert reached.server.logins - before <= runs - 2  # consume-queue asks nobody
    left = [path for site in (a, b) for path in (site.directory / "run").iterdir() if path.name.startswith("ssh-")]
    assert left == []
    for site in (a, b):  # what came from a neighbour is offered to it once, and it says that it has it
        site.run(0, "send-clone")
    before = reached.server.logins
    assert all((ran.out, ran.err) == ("", "") for ran in reached.pair.round())
    assert reached.server.logins == before


def test_no_password_is_anywhere(reached: Reached, tmp_path: Path) -> None:
    for name in ("invitation", "reply"):
        assert "password" not in (tmp_path / name).read_text()
    with reached.pair.a.open():
        from libtool.models.tables import Librarian, User

        assert Librarian.get().authenticator is None
        assert (User.get().password_fast, User.get().password_slow) == (None, None)


COMMANDS = [
    "",
    "sh",
    "libtool-callback",
    "libtool-callback POST /api/v2/ping/logged",
    "libtool-callback POST /api/v2/ping/logged 2; touch HERE",
    "libtool-callback POST /api/v2/ping/logged 2\ntouch HERE",
    "libtool-callback POST /api/v2/$(touch HERE) 2",
    "libtool-callback POST /api/v2/../../etc/passwd 2",
    "libtool-callback GET /api/v2/ping/logged 2",
    "libtool-callback POST /api/v2/ping/logged 2 --as boss",
    "libtool-callback POST /api/v2/ping/logged -2",
    "libtool-callback POST /api/v2/ping/logged 99999999999",
    " libtool-callback POST /api/v2/ping/logged 2",
    "libtool-callback --as boss",
    "LIBTOOL_CONFIG=/x libtool-callback POST /api/v2/ping/logged 2",
    "scp -t HERE",
    "internal-sftp",
]


def test_a_key_is_good_for_nothing_but_requests(reached: Reached) -> None:
    here = reached.home / "here"
    for command in COMMANDS:
        done = reached.ssh(reached.pair.a, *([command.replace("HERE", str(here))] if command else []))
        assert done.returncode == 64 and done.stdout == b"" and b"nothing was done" in done.stderr, command
        assert not here.exists()


def test_a_key_forwards_nothing_and_sets_nothing(reached: Reached) -> None:
    request = "libtool-callback POST /api/v2/ping/logged 2"
    forwarding = reached.ssh(reached.pair.a, request, options=("-R", "0:127.0.0.1:1", "-o", "ExitOnForwardFailure=yes"))
    assert forwarding.returncode == 255
    for variable in ("LIBTOOL_CONFIG=/etc/passwd", "SSH_ORIGINAL_COMMAND=x", "PYTHONPATH=/tmp"):
        said = parse_cgi(reached.ssh(reached.pair.a, request, options=("-o", f"SetEnv={variable}")).stdout, 0)
        assert said.status == 200


REQUESTS = [
    ("/api/v2/ping/logged 2", b"{}", 200),
    ("/api/v2/ping/admin 2", b"{}", 401),  # the key is the account, and its level counts
    ("/api/v2/nothing 2", b"{}", 404),
    ("/api/v2/ping/logged 9", b"{}", 422),  # cut off
    ("/api/v2/ping/logged 2", b"{}more", 200),
    ("/api/v2/ping/logged 70000", b" " * 70000, 413),
    ("/api/v2/search/file 2", b"[]", 422),
]


def test_requests_are_checked_as_over_http(reached: Reached) -> None:
    for request, body, status in REQUESTS:
        done = reached.ssh(reached.pair.a, f"libtool-callback POST {request}", body=body)
        assert parse_cgi(done.stdout, done.returncode).status == status, (request, done)
        assert b"Traceback" not in done.stderr


def test_who_has_no_account_any_more_is_denied_whatever_its_key(reached: Reached) -> None:
    reached.pair.b.run(0, "delete-user", "--username", "a")
    done = reached.ssh(reached.pair.a, "libtool-callback POST /api/v2/ping/logged 2")
    assert parse_cgi(done.stdout, 0).status == 401
    (reached.home / "f").write_text("light")
    reached.pair.a.run(0, "ingest", str(reached.home / "f"))
    assert "does not accept our account" in reached.pair.a.run(4, "send-clone").err


def test_what_goes_wrong_is_said_in_plain_words_and_nothing_is_lost(reached: Reached) -> None:
    a, keys = reached.pair.a, reached.home / ".ssh" / "authorized_keys"
    (reached.home / "f").write_text("light")
    a.run(0, "ingest", str(reached.home / "f"))
    kept, hosts = keys.read_text(), (a.directory / "ssh.known_hosts").read_text()

    def trouble() -> str:
        assert a.run(3, "send-clone").err == ""  # it may pass: told when it has lasted
        (row,) = a.status()["troubles"]
        return str(row["text"])

    keys.write_text("")
    assert "does not accept our key" in trouble()
    keys.write_text(kept)
    (a.directory / "ssh.known_hosts").write_text(hosts.replace("AAAA", "AAAB", 1))
    assert "host key" in trouble()
    (a.directory / "ssh.known_hosts").unlink()
    assert "host key" in trouble()
    (a.directory / "ssh.known_hosts").write_text(hosts)
    keys.write_text(kept.replace("libtool-callback --config", "false --config").replace("libtool.commands.callback --config", "libtool.x --config"))
    assert "did not start its callback" in trouble()
    keys.write_text(kept)
    reached.pair.until_quiet()
    assert reached.pair.b.stored() == {"f": b"light"} and a.status()["troubles"] == []


def test_connecting_again_replaces_the_line_of_the_key(reached: Reached, tmp_path: Path) -> None:
    keys = reached.home / ".ssh" / "authorized_keys"
    keys.write_text("# mine\n" + keys.read_text() + "ssh-ed25519 AAAA me@home\n")
    before = keys.read_text().splitlines()
    connect(reached.pair.a, reached.pair.b, tmp_path)
    assert sorted(keys.read_text().splitlines()) == sorted(before)
    assert keys.stat().st_mode & 0o077 == 0


def test_one_side_over_ssh_the_other_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    a, b = make_site("a", tmp_path / "a"), make_site("b", tmp_path / "b")
    with sshd(tmp_path / "sshd", home / ".ssh" / "authorized_keys") as server:
        (tmp_path / "one").write_text(a.run(0, "connect", "--to", "b", "--flow", "send", "--url", f"exec://{a.config}").out)
        ran = b.run(0, "connect", "--from", str(tmp_path / "one"), "--url", server.url, "--no-install-key", "--allow-exec")
        line = next(line for line in ran.err.splitlines() if line.startswith("restrict,command="))
        (home / ".ssh" / "authorized_keys").write_text(line + "\n")
        (tmp_path / "two").write_text(ran.out)
        assert a.run(0, "connect", "--from", str(tmp_path / "two")).out == "a can call b: yes\nb can call a: yes\n"


def test_odd_run_directories_work_and_what_killed_runs_left_there_goes(reached: Reached) -> None:
    with tempfile.TemporaryDirectory(prefix="run%h ", dir="/tmp") as run:  # short: sockets lie there
        reached.pair.a.write(run_dir=run)
        left = Path(run) / "ssh-left"
        left.mkdir()
        os.utime(left, (0, 0))
        reached.pair.a.run(0, "get-librarian-list", "--ping")
        assert not left.exists()


def test_an_answer_or_a_complaint_without_end_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in the place of ssh, which says as much as it can."""
    from libtool.peers import ssh
    from libtool.peers.client import NoAnswer
    from libtool.peers.transports import Own

    monkeypatch.setattr(ssh, "ANSWER_LIMIT", 10**6)
    fake = tmp_path / "bin" / "ssh"
    fake.parent.mkdir()
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    for shout, words in (("yes", "does not end"), ("head -c 30000000 /dev/zero >&2; exit 5", "did not start its callback")):
        fake.write_text(f"#!/bin/sh\ncase \"$*\" in *-fNTM*) exit 0;; *-O*) exit 0;; esac\n{shout}\n")
        fake.chmod(0o755)
        transport = ssh.SshTransport("ssh://u@h", None, Own(run=str(tmp_path / "run")), 30.0)
        with pytest.raises(NoAnswer, match=words) as said:
            transport.post("/api/v2/ping/logged", b"{}", None)
        assert len(str(said.value)) < 2000
        transport.close()


# -- keys ---------------------------------------------------------------------------------------------------------

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHu6J2hTSCHShwCrOZ4suNUfIBseD7LJNn9yUPrVc9P2"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (KEY, KEY),
        (f" {KEY} me@home\n", KEY),
        (f'command="sh" {KEY}', None),
        (f"{KEY}\nssh-rsa AAAA", KEY),
        ("ssh-ed25519 short", None),
        ("", None),
        ('ssh-ed25519 AAAA" extra' + "A" * 50, None),
    ],
)
def test_a_public_key_is_taken_without_anything_beside_it(text: str, found: str | None) -> None:
    assert plain(text) == found


def test_a_path_with_quotes_and_blanks_stays_one_word(tmp_path: Path) -> None:
    """The line is read by sshd, then by a shell."""
    odd = tmp_path / "it's \"odd\" \\ $HOME.yaml"
    line = line_for("site_a", KEY, str(odd))
    assert "\n" not in line and line.endswith(f"{KEY} libtool:site_a")
    inside = line.removeprefix('restrict,command="').removesuffix(f'" {KEY} libtool:site_a')
    command = inside.replace('\\"', '"').replace("\\\\", "\\")
    shown = subprocess.run(["sh", "-c", f"set -- {command}; printf '%s\\n' \"$@\""], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-4:] == ["--config", str(odd), "--as", "site_a"]


def test_authorizing_replaces_only_the_same_account_of_the_same_librarian(tmp_path: Path) -> None:
    path = str(tmp_path / ".ssh" / "authorized_keys")
    lines = {name: line_for(name, KEY, "/etc/b.yaml") for name in ("a", "c")} | {"other": line_for("a", KEY, "/etc/x.yaml")}
    for line in (*lines.values(), line_for("a", KEY.replace("Hu6", "Hu7"), "/etc/b.yaml")):
        authorize(path, line)
    found = Path(path).read_text().splitlines()
    assert len(found) == 3 and lines["c"] in found and lines["other"] in found and lines["a"] not in found
    assert os.stat(path).st_mode & 0o777 == 0o600


def trust(path: str, url: str, keys: list[str]) -> None:
    """For good."""
    with trusting(path, url, keys):
        pass


def test_trusting_a_host_forgets_its_older_keys_and_no_others(tmp_path: Path) -> None:
    path = str(tmp_path / "known")
    trust(path, "ssh://u@h:2200", [KEY])
    trust(path, "ssh://u@h", [KEY])
    newer = KEY.replace("Hu6", "Hu7")
    trust(path, "ssh://u@h:2200", [newer, "h2 @revoked x"])
    assert sorted(Path(path).read_text().split("\n")[:-1]) == sorted([f"h {KEY}", f"[h]:2200 {newer}"])
    assert trusted(path, "ssh://x@h:2200") == [newer] and trusted(path, "ssh://u@other") == []


def test_a_trust_that_comes_to_nothing_is_taken_back(tmp_path: Path) -> None:
    path = str(tmp_path / "known")
    trust(path, "ssh://u@h", [KEY])
    before = Path(path).read_text()
    with pytest.raises(ValueError), trusting(path, "ssh://u@h", [KEY.replace("Hu6", "Hu7")]):
        raise ValueError
    assert Path(path).read_text() == before


def test_lines_that_others_wrote_stay_as_they_are(tmp_path: Path) -> None:
    """Bytes that are no text, odd line ends, and a link instead of the file."""
    real, path = tmp_path / "real", tmp_path / ".ssh" / "authorized_keys"
    path.parent.mkdir()
    mine = b"# m\xe9 \x0b and \x85 \xe2\x80\xa8 too\nssh-ed25519 AAAA me@home\n"
    real.write_bytes(mine)
    path.symlink_to(real)
    authorize(str(path), line_for("a", KEY, "/etc/b.yaml"))
    assert path.is_symlink() and real.read_bytes().startswith(mine) and real.read_bytes().count(b"\n") == 3


def test_a_block_that_comes_to_nothing_changes_no_host_key(reached: Reached, tmp_path: Path) -> None:
    """Nor does one that names the place of another neighbour."""
    a, b = reached.pair.a, reached.pair.b
    known = (b.directory / "ssh.known_hosts").read_bytes()
    evil = make_site("evil", tmp_path / "evil")
    invitation = evil.run(0, "connect", "--to", "b", "--flow", "send", "--url", reached.server.url).out
    from libtool.archive.connecting import read

    block = read(invitation)
    other = replace(block, hosts=(KEY,)).text()
    assert "place of a" in b.run(1, "connect", "--from", "-", "--install-key", stdin=other).err
    assert (b.directory / "ssh.known_hosts").read_bytes() == known
    a.run(0, "get-librarian-list", "--ping")
    b.run(0, "get-librarian-list", "--ping")


def test_a_key_has_no_place_in_the_words_of_a_web_request(tmp_path: Path) -> None:
    """Somebody appends a query that looks like the options of the forced command."""
    site: Any = make_site("b", tmp_path / "b")
    site.run(0, "create-user", "--username", "boss", "--auth-level", "ADMIN")
    import sys

    environment = {
        "PATH": os.environ["PATH"],
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/api/v2/ping/admin",
        "CONTENT_LENGTH": "2",
        "LIBTOOL_CONFIG": site.config,
        "SSH_ORIGINAL_COMMAND": "libtool-callback POST /api/v2/ping/admin 2",
        "HTTP_SSH_ORIGINAL_COMMAND": "libtool-callback POST /api/v2/ping/admin 2",
    }
    for query in ("", "--as+boss"):
        words = [sys.executable, "-m", "libtool", "callback", "--as", "boss"]
        done = subprocess.run(words, input=b"{}", capture_output=True, env=environment | {"QUERY_STRING": query}, check=False)
        assert parse_cgi(done.stdout, 0).status == 401
