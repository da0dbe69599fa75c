"""A real sshd for the user who runs the tests."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.components import missing, program

USER = pwd.getpwuid(os.geteuid()).pw_name


@dataclass
class Sshd:
    """Where it listens, and what it wrote down."""

    port: int
    log: Path

    @property
    def url(self) -> str:
        """What a librarian behind it is registered with."""
        return f"ssh://{USER}@127.0.0.1:{self.port}"

    @property
    def logins(self) -> int:
        """How many connections were let in."""
        return self.log.read_text().count("Accepted publickey")


@contextmanager
def sshd(top: Path, authorized: Path) -> Iterator[Sshd]:
    """Let it listen on a free port, with a host key of its own and the given authorized_keys."""
    binary = program("sshd", "sshd")
    program("sshd", "ssh-keygen")
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    top.mkdir()
    key = top / "host.key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = top / "log"
    (top / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {key}\nAuthorizedKeysFile {authorized}\nPidFile none\n"
        "UsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\nLogLevel VERBOSE\nMaxStartups 100\n"
    )
    process = subprocess.Popen([binary, "-D", "-f", top / "config", "-E", log])
    try:
        for _ in range(1000):
            if process.poll() is not None:
                missing("sshd", f"it does not start: {log.read_text()}")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                os.sched_yield()
                subprocess.run(["true"], check=True)
        yield Sshd(port, log)
    finally:
        process.terminate()
        process.wait()
