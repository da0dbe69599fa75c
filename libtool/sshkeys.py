"""Keys for ssh: the one that this librarian calls others with, those that may call it, and the hosts that it trusts."""

from __future__ import annotations

import fcntl
import glob
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from libtool import credentials
from libtool.errors import Refused

#: A public key: its kind and itself, as ssh-keygen writes them. What stands behind is a remark.
_KEY = re.compile(r"((?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]{2,60}) ([A-Za-z0-9+/]{40,4000}={0,3})", re.ASCII)
#: How long sshd is waited for.
_SECONDS = 10


def plain(text: str) -> str | None:
    """``kind key`` of a public key without its remark; None when it is none."""
    found = _KEY.match(text.strip())
    return f"{found[1]} {found[2]}" if found else None


def own(path: str) -> str | None:
    """This librarian's public key, which is made when there is none; None where there is no ssh."""
    if not os.path.exists(path):
        if shutil.which("ssh-keygen") is None:
            return None
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "libtool", "-f", path]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode != 0:
            why = done.stderr.decode("utf-8", "replace").strip() or "ssh-keygen failed"
            raise Refused(why=f"the key {path} cannot be made: {why}", how="Check the directory's owner.")
    try:
        with open(f"{path}.pub", encoding="ascii") as stream:
            return plain(stream.read())
    except (OSError, ValueError):
        raise Refused(
            why=f"the key {path} has no readable {path}.pub beside it",
            how=f"Run 'ssh-keygen -y -f {path} > {path}.pub'.",
        ) from None


def of_host(url: str) -> tuple[list[str], bool]:
    """The keys by which the sshd at ``ssh://user@host[:port]`` shows itself, and whether it answered; if not, they are
    those of this machine."""
    host, port = _place(url)
    if shutil.which("ssh-keyscan") is not None:
        words = ["ssh-keyscan", "-T", str(_SECONDS), "-p", str(port), host]
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, timeout=3 * _SECONDS, check=False
            )
            lines = done.stdout.decode("utf-8", "replace").splitlines()
        except (OSError, subprocess.TimeoutExpired):
            lines = []
        found = [key for line in lines if not line.startswith("#") and (key := plain(line.partition(" ")[2]))]
        if found:
            return sorted(found), True
    found = []
    for path in sorted(glob.glob("/etc/ssh/ssh_host_*_key.pub")):
        with open(path, encoding="utf-8", errors="replace") as stream:
            if key := plain(stream.read()):
                found.append(key)
    return found, False


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 22


def _called(url: str) -> str:
    """How ssh calls the place of a URL in known_hosts."""
    host, port = _place(url)
    return host if port == 22 else f"[{host}]:{port}"


def trusted(path: str, url: str) -> list[str]:
    """The keys by which the host of a URL is believed."""
    called = _called(url)
    return sorted(key for line in _lines(path) if line.split(" ")[0] == called and (key := plain(line[len(called) :])))


@contextmanager
def trusting(path: str, url: str, keys: list[str]) -> Iterator[None]:
    """Believe the host of a URL by these keys and by no others, from now on; but only if the block ends well."""
    called, before = _called(url), _lines(path)
    sound = [key for each in keys if (key := plain(each))]
    kept = [line for line in before if line.split(" ")[0] != called]
    credentials.write_file(path, "\n".join([*kept, *(f"{called} {key}" for key in sound)]), replace=True)
    try:
        yield
    except BaseException:
        credentials.write_file(path, "\n".join(before), replace=True)
        raise


def _lines(path: str) -> list[str]:
    """The lines of a file that others may have written; none when it is not there."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
            return stream.read().removesuffix("\n").split("\n")
    except FileNotFoundError:
        return []


def line_for(account: str, key: str, config: str) -> str:
    """The line of authorized_keys that lets a key do nothing but call this librarian, as ``account``."""
    beside = os.path.join(os.path.dirname(sys.executable), "libtool-callback")
    program = [beside] if os.access(beside, os.X_OK) else [sys.executable, "-m", "libtool.commands.callback"]
    command = shlex.join([*program, "--config", config, "--as", account])
    escaped = command.replace("\\", "\\\\").replace('"', '\\"')
    return f'restrict,command="{escaped}" {key} libtool:{account}'


def authorize(path: str, line: str) -> None:
    """Put the line into an authorized_keys file, instead of an older one for the same account of this librarian."""
    path = os.path.realpath(path)  # the file itself, should it be a link
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    mark = line.split(" --config ", 1)[-1].split('" ', 1)[0]  # the configuration and the account
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        lines = [each for each in _lines(path) if f' --config {mark}" ' not in each]
        credentials.write_file(path, "\n".join([*lines, line]), replace=True)
    finally:
        os.close(descriptor)
