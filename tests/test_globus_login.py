"""Who a node is at Globus: logging in, renewing, logging out, running under cron, and keeping every secret."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from libtool import credentials
from tests.globus_pair import GlobusPair, arrived, make_globus_pair, write_secret
from tests.globus_service import GlobusService
from tests.sites import Pair, Ran, Site

MAPPED = "GCSv5_mapped_collection"


def visit(address: str) -> str:
    """What a person does in the browser: log in, agree, and copy the code."""
    request = urllib.request.Request(address, headers={"Accept": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return str(json.load(answer)["code"])


def log_in(pair: Pair, *words: str, expect: int = 0) -> Ran:
    """``libtool login`` as a process, with a person at its standard input."""
    command = [sys.executable, "-m", "libtool", "-v", "--config", pair.a.config, "login", "--code", "-", *words]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdin and process.stdout and process.stderr
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("http"):
                process.stdin.write(visit(line.strip()) + "\n")
                process.stdin.flush()
        out = process.stdout.read()
    ran = Ran(process.returncode, out, "".join(said))
    assert ran.code == expect, ran
    return ran


def tokens(site: Site) -> Path:
    """Where a login is kept."""
    return site.directory / "globus.tokens"


def kept(site: Site) -> dict[str, Any]:
    """What is in there for the application that is configured."""
    found = json.loads(tokens(site).read_text())
    whose = "person" if site.settings["globus_client_native_app"] else "service"
    return dict(found[f"{whose} {site.settings['globus_client_id']}"])


def new_person(tmp_path: Path, globus: GlobusService, entity_type: str = "GCSv5_guest_collection") -> GlobusPair:
    """A pair of which a has nothing yet but an application."""
    pair = make_globus_pair(tmp_path / "pair", globus, person=True, entity_type=entity_type)
    (pair.a.directory / "globus.secret").unlink()
    return pair


# -- a person ------------------------------------------------------------------------------------------------------


def test_a_person_logs_in_once_and_the_tasks_run(tmp_path: Path, globus: GlobusService) -> None:
    pair = new_person(tmp_path, globus)
    source = pair.ingest({"f": b"x"}, tmp_path / "source")
    ran = log_in(pair)
    assert f"logged in as alice@example.org ({globus.visitor.id})" in ran.err and str(tokens(pair.a)) in ran.err
    assert stat.S_IMODE(tokens(pair.a).stat().st_mode) == 0o600
    found = json.loads(pair.a.run(0, "whoami", "-F", "json").out)
    assert (found["kind"], found["username"], found["identity"]) == ("person", "alice@example.org", globus.visitor.id)
    assert found["secret_in"] == str(tokens(pair.a)) and found["renewed"] and found["pending_tasks"] == 0
    pair.until_quiet()
    assert arrived(pair, source)
    assert {task.owner for task in globus.tasks} == {globus.visitor.id}


def test_login_asks_for_the_consent_of_every_mapped_collection(tmp_path: Path, globus: GlobusService) -> None:
    pair = new_person(tmp_path, globus, entity_type=MAPPED)
    source = pair.ingest({"f": b"x"}, tmp_path / "source")
    ran = log_in(pair, "--collection", pair.there.id)
    for collection in (pair.here, pair.there):
        assert f"consent given for the data of collection {collection.id}" in ran.err
    pair.until_quiet()
    assert arrived(pair, source)


def test_a_consent_that_a_task_found_missing_is_asked_for_by_the_next_login(tmp_path: Path, globus: GlobusService) -> None:
    pair = new_person(tmp_path, globus, entity_type=MAPPED)
    source = pair.ingest({"f": b"x"}, tmp_path / "source")
    log_in(pair)  # it knows nothing of the destination's collection
    pair.a.run(0, "send-clone")
    assert pair.there.id in pair.a.run(4, "consume-queue").err
    assert f"consent given for the data of collection {pair.there.id}" in log_in(pair).err
    pair.until_quiet()
    assert arrived(pair, source)


def test_a_second_login_revokes_the_first(tmp_path: Path, globus: GlobusService) -> None:
    pair = new_person(tmp_path, globus)
    log_in(pair)
    first = kept(pair.a)["secret"]
    log_in(pair)
    second = kept(pair.a)["secret"]
    assert first != second
    assert not globus.world.tokens[first].alive and globus.world.tokens[second].alive


def test_login_without_a_terminal_says_what_to_do_and_asks_nothing(tmp_path: Path, globus: GlobusService) -> None:
    pair = new_person(tmp_path, globus)
    ran = pair.a.run(4, "login")
    assert len(ran.err.splitlines()) == 1
    assert "logging in needs a terminal" in ran.err and "--code -" in ran.err


def test_a_wrong_code_changes_nothing(tmp_path: Path, globus: GlobusService) -> None:
    pair = new_person(tmp_path, globus)
    log_in(pair)
    before = tokens(pair.a).read_bytes()
    ran = pair.a.run(4, "login", "--code", "-", stdin="wrong\n")
    assert "Globus does not know this code" in ran.err and "good once" in ran.err
    assert tokens(pair.a).read_bytes() == before


def test_another_person_is_told_what_that_means(tmp_path: Path, globus: GlobusService) -> None:
    pair = new_person(tmp_path, globus)
    log_in(pair)
    globus.person("bob@example.org")
    ran = log_in(pair)
    assert "logged in as bob@example.org" in ran.err and "before, this was alice@example.org" in ran.err


def test_a_refresh_token_from_elsewhere_works_from_its_file(tmp_path: Path, globus: GlobusService) -> None:
    """The way of the reference: the file that the configuration names holds a token that somebody got before."""
    pair = make_globus_pair(tmp_path / "pair", globus, person=True)
    source = pair.ingest({"f": b"x"}, tmp_path / "source")
    pair.until_quiet()
    assert arrived(pair, source)
    found = json.loads(pair.a.run(0, "whoami", "-F", "json").out)
    assert found["secret_in"] == str(pair.a.directory / "globus.secret")


@pytest.mark.parametrize("place", ["file", "environment", "login"])
def test_a_refresh_token_that_changes_with_every_use_is_kept(
    tmp_path: Path, globus: GlobusService, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus, person=True)
    globus.rotate = True
    file = pair.a.directory / "globus.secret"
    first = file.read_text().strip()
    if place != "file":
        file.unlink()
    if place == "environment":
        monkeypatch.setenv("LIBTOOL_SECRET_GLOBUS_REFRESH_TOKEN", first)
    if place == "login":
        log_in(pair)
    for _ in range(3):
        globus.expire_access_tokens()
        pair.a.run(0, "whoami")
    if place == "file":
        assert file.read_text().strip() != first and stat.S_IMODE(file.stat().st_mode) == 0o600
        assert "secret" not in kept(pair.a)
    else:
        assert kept(pair.a)["secret"] != first


def test_a_new_token_in_the_file_is_newer_than_a_login(tmp_path: Path, globus: GlobusService) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus, person=True)
    log_in(pair)
    assert json.loads(pair.a.run(0, "whoami", "-F", "json").out)["secret_in"] == str(tokens(pair.a))
    application = globus.world.clients[pair.a.settings["globus_client_id"]]
    write_secret(pair.a, globus.refresh_token(application, globus.visitor))
    assert json.loads(pair.a.run(0, "whoami", "-F", "json").out)["secret_in"] == str(pair.a.directory / "globus.secret")


def test_two_processes_renew_a_token_that_is_good_once(tmp_path: Path, globus: GlobusService) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus, person=True)
    globus.rotate = True
    for _ in range(3):
        globus.expire_access_tokens()
        processes = [pair.a.spawn("whoami") for _ in range(4)]
        outcomes = [(process.communicate(), process.returncode) for process in processes]
        assert [code for _, code in outcomes] == [0] * 4, outcomes


def test_a_login_is_used_once_a_week_even_if_nothing_is_sent(
    tmp_path: Path, globus: GlobusService, clock: object
) -> None:
    pair = new_person(tmp_path, globus)
    log_in(pair)
    asked = len(globus.requests)
    pair.a.run(0, "check-consumed-queue")
    assert len(globus.requests) == asked
    globus.advance(8 * 86400)
    pair.a.run(0, "check-consumed-queue")
    assert [path for _, path, _ in globus.requests[asked:]].count("/v2/oauth2/token") == 1
    asked = len(globus.requests)
    pair.a.run(0, "check-consumed-queue")
    assert len(globus.requests) == asked


def test_logout_revokes_and_removes(tmp_path: Path, globus: GlobusService) -> None:
    pair = new_person(tmp_path, globus)
    pair.ingest({"f": b"x"}, tmp_path / "source")
    log_in(pair)
    before = kept(pair.a)
    pair.a.run(0, "logout", "--dry-run")
    assert kept(pair.a) == before
    pair.a.run(0, "logout")
    assert kept(pair.a) == {"logged_out": True}
    assert not any(globus.world.tokens[before[key]].alive for key in ("secret", "access_token"))
    assert "'libtool login'" in pair.a.run(4, "whoami").err
    pair.a.run(0, "send-clone")
    assert "'libtool login'" in pair.a.run(4, "consume-queue").err


def test_logout_that_cannot_revoke_removes_nothing(tmp_path: Path, globus: GlobusService) -> None:
    pair = new_person(tmp_path, globus)
    log_in(pair)
    globus.stop()
    assert "cannot be reached" in pair.a.run(3, "logout").err
    assert tokens(pair.a).exists()
    globus.start()
    pair.a.run(0, "whoami")


# -- a service account ----------------------------------------------------------------------------------------------------


def test_a_service_account_is_given_its_secret(tmp_path: Path, globus: GlobusService) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus)
    file = pair.a.directory / "globus.secret"
    secret = file.read_text()
    file.unlink()
    assert "'libtool login --secret -'" in pair.a.run(4, "login").err
    pair.a.run(0, "login", "--secret", "-", stdin=secret)
    assert stat.S_IMODE(tokens(pair.a).stat().st_mode) == 0o600
    found = json.loads(pair.a.run(0, "whoami", "-F", "json").out)
    assert found["username"] == f"{pair.a.settings['globus_client_id']}@clients.auth.globus.org"
    source = pair.ingest({"f": b"x"}, tmp_path / "source")
    pair.until_quiet()
    assert arrived(pair, source)


def test_a_wrong_secret_is_one_line(tmp_path: Path, globus: GlobusService) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus)
    write_secret(pair.a, "wrong")
    for command in ("whoami", "login"):
        line = pair.a.run(4, command).err.splitlines()[-1]
        assert "does not accept globus_client_id with its secret" in line


def test_an_access_token_serves_many_runs(tmp_path: Path, globus: GlobusService) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus)
    for _ in range(3):
        pair.a.run(0, "whoami")
    assert [path for _, path, _ in globus.requests].count("/v2/oauth2/token") == 1


def test_an_application_without_an_id_is_told_so(tmp_path: Path, globus: GlobusService) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus)
    pair.a.write(globus_client_id=None)
    for command in ("whoami", "login", "logout", "check-endpoint"):
        assert "globus_client_id" in pair.a.run(78, command).err


# -- the same paths -----------------------------------------------------------------------------------------------------


def looks(ran: Ran) -> dict[str, tuple[str, str]]:
    """What was looked at → whether it is the same, and why not."""
    return {row["what"]: (row["same"], row["why"]) for row in json.loads(ran.out)}


@pytest.fixture
def both_ends(tmp_path: Path, globus: GlobusService) -> GlobusPair:
    """a, which also takes files in through a collection of its own."""
    pair = make_globus_pair(tmp_path / "pair", globus)
    carrier = {"globus": {"destination_endpoint": pair.there.id}}
    pair.a.settings["add_stores"][0]["asynchronous_transfer_manager_data"] = carrier
    pair.a.write()
    return pair


def check(pair: GlobusPair, expect: int) -> dict[str, tuple[str, str]]:
    """``check-endpoint``, which leaves nothing behind."""
    before = sorted(path.name for path in pair.a.staging.iterdir())
    found = looks(pair.a.run(expect, "check-endpoint", "-F", "json"))
    assert sorted(path.name for path in pair.a.staging.iterdir()) == before
    return found


def test_collections_that_show_the_same_paths(both_ends: GlobusPair) -> None:
    assert check(both_ends, 0) == {"staging": ("yes", ""), "store": ("yes", "")}


def test_a_collection_with_a_root_of_its_own(both_ends: GlobusPair) -> None:
    both_ends.there.root = str(both_ends.a.directory)
    same, why = check(both_ends, 3)["staging"]
    assert same == "no" and "does not show it" in why and "a root of its own" in why


def test_a_collection_that_shows_another_file_there(both_ends: GlobusPair, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / str(both_ends.a.store).lstrip("/")).mkdir(parents=True)
    (other / str(both_ends.a.store).lstrip("/") / ".libtool-store").write_bytes(b"another store's mark")
    both_ends.here.root = str(other)
    same, why = check(both_ends, 3)["store"]
    assert same == "no" and "another file there (20 bytes instead of 7)" in why


def test_a_missing_permission(both_ends: GlobusPair, globus: GlobusService) -> None:
    globus.permit("somebody-else", both_ends.there, "/", "rw")
    found = check(both_ends, 4)
    assert found["store"][0] == "yes"
    assert found["staging"][0] == "barred" and "permission denied" in found["staging"][1] and "'libtool whoami'" in found["staging"][1]


@pytest.mark.parametrize("trouble", ["gcp_paused", "connected"])
def test_a_personal_endpoint_that_is_paused_or_off(both_ends: GlobusPair, trouble: str) -> None:
    both_ends.there.entity_type = "GCP_mapped_collection"
    setattr(both_ends.there, trouble, trouble == "gcp_paused")
    same, why = check(both_ends, 3)["staging"]
    assert same == "unknown" and "personal endpoint" in why


def test_a_missing_consent(tmp_path: Path, globus: GlobusService) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus, person=True, entity_type=MAPPED)
    same, why = check(pair, 4)["store"]
    assert same == "barred" and f"consent for {pair.here.id}" in why and "Run 'libtool login'" in why


def test_a_collection_that_does_not_exist(both_ends: GlobusPair) -> None:
    both_ends.a.write(globus_local_endpoint_id="00000000-0000-4000-8000-000000000000")
    same, why = check(both_ends, 4)["store"]
    assert same == "barred" and "no such collection" in why


def test_a_marker_that_a_crash_left_is_replaced(both_ends: GlobusPair) -> None:
    (both_ends.a.staging / ".libtool-check").write_bytes(b"old")
    assert looks(both_ends.a.run(0, "check-endpoint", "-F", "json"))["staging"] == ("yes", "")
    assert not (both_ends.a.staging / ".libtool-check").exists()


# -- under cron ----------------------------------------------------------------------------------------------------------


def bare(site: Site, globus: GlobusService, *words: str, **more: str) -> tuple[Ran, float]:
    """Run a command without HOME, D-Bus, PATH or terminal, as the poorest cron would; and for how many seconds."""
    environment = globus.environment() | {"LIBTOOL_CONFIG": site.config} | more
    assignments = [f"{name}={value}" for name, value in environment.items()]
    command = ["/usr/bin/env", "-i", *assignments, sys.executable, "-m", "libtool", *words]
    began = time.monotonic()
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd="/", timeout=60, start_new_session=True, check=False
    )
    return Ran(done.returncode, done.stdout, done.stderr), time.monotonic() - began


def test_the_tasks_run_without_any_environment(tmp_path: Path, globus: GlobusService) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus)
    source = pair.ingest({"f": b"x"}, tmp_path / "source")
    globus.auto = True
    for site, word in ((pair.a, "send-clone"), (pair.a, "consume-queue"), (pair.a, "check-consumed-queue"), (pair.b, "recv-clone")):
        assert bare(site, globus, word)[0] == Ran(0, "", "")
    assert arrived(pair, source)


@pytest.mark.parametrize("command", ["consume-queue", "check-consumed-queue"])
@pytest.mark.parametrize("keyring", ["none", "hanging"])
def test_without_a_secret_they_stop_soon_with_one_line(
    tmp_path: Path, globus: GlobusService, command: str, keyring: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus)
    pair.ingest({"f": b"x"}, tmp_path / "source")
    pair.a.run(0, "send-clone")
    if command == "check-consumed-queue":
        pair.a.run(0, "consume-queue")
        tokens(pair.a).unlink()
    (pair.a.directory / "globus.secret").unlink()
    more = {}
    if keyring == "hanging":
        module = "import time, keyring.backend\nclass Hanging(keyring.backend.KeyringBackend):\n    priority = 9\n"
        methods = "    def get_password(self, *_): time.sleep(1000)\n    set_password = delete_password = get_password\n"
        (tmp_path / "hanging.py").write_text(module + methods)
        more = {"PYTHONPATH": str(tmp_path), "PYTHON_KEYRING_BACKEND": "hanging.Hanging"}
    ran, seconds = bare(pair.a, globus, command, **more)
    assert ran.code == 4 and len(ran.err.splitlines()) == 1 and ran.out == ""
    assert "globus_client_secret" in ran.err and "'libtool login --secret -'" in ran.err
    again, _ = bare(pair.a, globus, command, **more)
    assert again == Ran(4, "", "")  # told once
    with capsys.disabled():
        print(f"\n{command} without a secret, keyring {keyring}: exit code 4 after {seconds:.1f} s")
    # The keyring takes nearly all of that, and is asked once; the rest is the start of a process.
    assert credentials.KEYRING_SECONDS <= 3


# -- secrets ---------------------------------------------------------------------------------------------------------------


def command_lines() -> bytes:
    """The words of every process that this user can see."""
    found = b""
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += each.read_bytes() + b"\n"
        except OSError:
            continue
    return found


@pytest.mark.parametrize("person", [True, False])
def test_no_secret_is_ever_shown_or_left_anywhere(tmp_path: Path, globus: GlobusService, person: bool) -> None:
    """Every token and secret that there ever was is looked for in all that was printed, and in all files."""
    pair = make_globus_pair(tmp_path / "pair", globus, person=person, entity_type=MAPPED)
    file = pair.a.directory / "globus.secret"
    secrets = {file.read_text().strip()}
    pair.ingest({"f": b"x", "g": b"y"}, tmp_path / "source")
    pair.a.write(commands={"send-clone": {"destination_librarian": "b", "send_batch_size": 1}})
    seen = ""

    def run(*words: str) -> None:
        nonlocal seen
        ran = pair.a.run(None, "-vv", *words)
        seen += ran.out + ran.err

    def everything() -> None:
        for words in ("send-clone", "consume-queue", "check-consumed-queue", "whoami", "check-endpoint", "status", "status --tasks -F json"):
            run(*words.split())

    everything()
    if person:
        ran = log_in(pair, "--collection", pair.there.id)
        seen += "".join(line for line in ran.err.splitlines(True) if not line.startswith("http"))
    globus.work()
    for fault in ("http_500", "http_503", "truncate", "drop_before", "refresh_revoked", "token_expired"):
        globus.fault(fault, count=2)
        globus.expire_access_tokens()
        everything()
    globus.rotate = True
    globus.expire_access_tokens()
    slow = globus.fault("slow", url="task_list", seconds=0.5)
    process = pair.a.spawn("-vv", "whoami")
    lines = b""
    while process.poll() is None:
        lines += command_lines()
    seen += "".join(part.decode() for part in process.communicate())
    assert slow.used and b"whoami" in lines
    secrets |= set(globus.world.tokens)
    run("logout")
    write_secret(pair.a, "a-secret-that-is-wrong-0123456789")
    secrets.add("a-secret-that-is-wrong-0123456789")
    everything()
    assert len(secrets) > 4 and all(len(secret) > 20 for secret in secrets)
    owned = {file, tokens(pair.a)}
    for path in tmp_path.rglob("*"):
        if path.is_file() and path not in owned:
            content = path.read_bytes()
            assert [secret for secret in secrets if secret.encode() in content] == [], path
    assert [secret for secret in secrets if secret in seen] == []
    assert [secret for secret in secrets if secret.encode() in lines] == []
    assert "Traceback" in seen  # -vv really showed some
    for path in owned:
        assert not path.exists() or stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_search_for_secrets_would_find_one(tmp_path: Path) -> None:
    """A process that is told a secret on its command line is caught."""
    with subprocess.Popen([sys.executable, "-c", "input()", "needle-in-a-command-line"], stdin=subprocess.PIPE):
        while b"-c\0input()" not in command_lines():
            os.sched_yield()
        assert b"needle-in-a-command-line" in command_lines()


def test_a_secret_that_others_can_read_is_not_used(tmp_path: Path, globus: GlobusService) -> None:
    pair = make_globus_pair(tmp_path / "pair", globus)
    (pair.a.directory / "globus.secret").chmod(0o644)
    ran = pair.a.run(4, "whoami")
    assert "others than its owner can read it" in ran.err and "chmod 600" in ran.err
