"""The transport ``ssh://user@host``: the other side's sshd starts its callback as the forced command of our key.

One connection is made at the first request and shared by all requests of a run. No password travels: the key's line in
the other side's authorized_keys names the account.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from libtool.names import shown
from libtool.peers.client import ANSWER_LIMIT, CONNECT_SECONDS, Answer, NoAnswer, Transport
from libtool.peers.exec import parse_cgi

if TYPE_CHECKING:
    from libtool.peers.transports import Own

#: Longest path of a Unix socket, less what ssh appends while it makes one.
_SOCKET_MAX = 85
#: What ssh ends with when it was ssh itself that failed.
_FAILED = 255


class SshTransport(Transport):
    """The ssh program, which never asks anything."""

    def __init__(self, url: str, port: int | None, own: Own, timeout: float) -> None:
        parts = urlsplit(url)
        self.place = f"{parts.username}@{parts.hostname}"
        self.timeout = timeout
        port = port or parts.port
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": f"{CONNECT_SECONDS:.0f}",
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "2",
            "StrictHostKeyChecking": "yes",
            "ClearAllForwardings": "yes",
            "ForwardAgent": "no",
            "PermitLocalCommand": "no",
            "LogLevel": "ERROR",
        }
        if own.key is not None and os.path.exists(own.key):
            options |= {"IdentityFile": _quoted(own.key), "IdentitiesOnly": "yes"}
        if own.hosts is not None and os.path.exists(own.hosts):
            options["UserKnownHostsFile"] = f"{_quoted(own.hosts)} ~/.ssh/known_hosts ~/.ssh/known_hosts2"
        self._options = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        self._options += ["-p", str(port)] if port else []
        self._run = own.run
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def post(self, path: str, body: bytes, authorization: str | None) -> Answer:
        """Over the shared connection. The command is data to the other side, which runs nothing but its callback."""
        socket = self._shared()
        command = f"libtool-callback POST {path} {len(body)}"
        words = [
            "ssh",
            "-T",
            *self._options,
            "-o",
            "ControlMaster=no",
            "-S",
            _escaped(socket),
            "--",
            self.place,
            command,
        ]
        code, out, said = self._run_bounded(words, body)
        if b"\r\n\r\n" not in out:
            raise NoAnswer(_in_words(self.place, code, said))
        return parse_cgi(out, code)

    def _run_bounded(self, words: list[str], body: bytes) -> tuple[int, bytes, bytes]:
        """Exit code, answer and the beginning of what ssh says; neither the other side's words nor its silence without
        end."""
        end = time.monotonic() + self.timeout
        with tempfile.TemporaryFile() as told:
            told.write(body)
            told.seek(0)
            try:
                process = subprocess.Popen(words, stdin=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            except OSError as trouble:
                raise NoAnswer(f"ssh cannot be started: {trouble.strerror}") from None
        assert process.stdout is not None and process.stderr is not None
        found: dict[int, bytearray] = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
        answer, said = found.values()
        waiting = list(found)
        try:
            while waiting:
                ready, _, _ = select.select(waiting, [], [], max(0.0, end - time.monotonic()))
                if not ready:
                    raise NoAnswer(f"no answer from {self.place} within {self.timeout:.0f} s")
                for descriptor in ready:
                    block = os.read(descriptor, 1 << 16)
                    if not block:
                        waiting.remove(descriptor)
                    elif found[descriptor] is answer or len(said) < 4000:
                        found[descriptor] += block
                if len(answer) > ANSWER_LIMIT:
                    raise NoAnswer("its answer does not end")
            return process.wait(timeout=10), bytes(answer), bytes(said)
        except subprocess.TimeoutExpired:
            raise NoAnswer(f"ssh to {self.place} does not end") from None
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()

    def _shared(self) -> str:
        """The socket of the shared connection, which is made when there is none."""
        if self._directory is not None:
            socket = os.path.join(self._directory.name, "s")
            if os.path.exists(socket):
                return socket
            self.close()  # the connection has ended meanwhile
        run = self._run if self._run is not None and len(os.fsencode(self._run)) < _SOCKET_MAX - 20 else None
        with suppress(OSError):
            if run is not None:
                os.makedirs(run, exist_ok=True)
                _sweep(run)
        try:
            self._directory = tempfile.TemporaryDirectory(prefix="ssh-", dir=run, ignore_cleanup_errors=True)
        except OSError as trouble:
            raise NoAnswer(f"no place for ssh's socket: {trouble.strerror}") from None
        socket = os.path.join(self._directory.name, "s")
        # It ends by itself, should this process be killed. Its words go into a file: a pipe would stay open with it.
        words = ["ssh", "-fNTM", *self._options, "-o", "ControlPersist=120", "-S", _escaped(socket), "--", self.place]
        with tempfile.TemporaryFile() as said:
            try:
                done = subprocess.run(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    timeout=self.timeout,
                    check=False,
                )
                code = done.returncode
            except subprocess.TimeoutExpired:
                self.close()
                raise NoAnswer(f"no connection to {self.place} within {self.timeout:.0f} s") from None
            except OSError as trouble:
                self.close()
                raise NoAnswer(f"ssh cannot be started: {trouble.strerror}") from None
            said.seek(0)
            words_of_ssh = said.read(4000)
        if code != 0:
            self.close()
            raise NoAnswer(_in_words(self.place, code, words_of_ssh))
        return socket

    def close(self) -> None:
        """End the shared connection."""
        if self._directory is None:
            return
        socket = os.path.join(self._directory.name, "s")
        if os.path.exists(socket):
            with suppress(OSError, subprocess.TimeoutExpired):
                words = ["ssh", "-S", _escaped(socket), "-O", "exit", "--", self.place]
                subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
        self._directory.cleanup()
        self._directory = None


def _quoted(path: str) -> str:
    """A path as a value of ssh's options, where blanks and percent signs mean something."""
    return f'"{_escaped(path)}"'


def _escaped(path: str) -> str:
    """A path where ssh replaces percent signs."""
    return path.replace("%", "%%")


def _sweep(run: str) -> None:
    """Remove what killed runs left; their connections have ended by themselves long ago."""
    for entry in os.scandir(run):
        if entry.name.startswith("ssh-") and time.time() - entry.stat(follow_symlinks=False).st_mtime > 3600:
            shutil.rmtree(entry.path, ignore_errors=True)


def _in_words(place: str, code: int, said: bytes) -> str:
    """What ssh's failure means, and what to look at."""
    text = " ".join(shown(line) for line in said.decode("utf-8", "replace").split("\n") if line.strip())[:500]
    if code != _FAILED:
        return f"{place} did not start its callback ({text or f'exit code {code}'})"
    if "Permission denied" in text:
        return f"{place} does not accept our key; its authorized_keys needs the line that 'libtool connect' makes there"
    if "Host key verification failed" in text or "IDENTIFICATION HAS CHANGED" in text or "host key is known" in text:
        return f"the host key of {place} is not the one that is known here; find out why before you trust it"
    return f"{place}: {text or 'the connection broke'}"
