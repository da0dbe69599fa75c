"""Callbacks over exec:// without starting Python anew: a process that has imported what they need forks for each request.

What it forks is a process of its own with the environment, the directory and the standard streams that a new one would
have. Starting Python and importing is most of what a callback costs, and the tests start thousands; those that are about
processes, and all that another process calls, start the real one.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: Stands in for the new process: hands over what it was given, ends like the process that was forked, and with it.
CLIENT = """
import _socket, os, sys
there = _socket.socket(_socket.AF_UNIX)
there.connect(sys.argv[1])
world = b"\\0".join([os.getcwdb()] + [name + b"=" + value for name, value in os.environb.items()])
streams = b"".join(each.to_bytes(4, sys.byteorder) for each in (0, 1, 2))
whole = len(world).to_bytes(4, "big") + world
sent = there.sendmsg([whole], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
while sent < len(whole):
    sent += there.send(whole[sent:])
os._exit((there.recv(1) or b"\\1")[0])
"""
#: What a callback may import, sooner or later.
ROOMS = ("libtool.archive", "libtool.endpoints", "libtool.models", "libtool.stores", "libtool.peers")


@contextmanager
def forks() -> Iterator[tuple[str, ...]]:
    """The command that answers one request; the process behind it ends with this block, or with this process."""
    with tempfile.TemporaryDirectory(prefix="libtool-forks-", dir="/tmp") as top:  # a socket's path must be short
        address = os.path.join(top, "socket")
        words = [sys.executable, "-m", "tests.forks", address]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as served:
            assert served.stdin is not None and served.stdout is not None
            assert served.stdout.read(1), "the process that forks did not start"
            yield (sys.executable, "-I", "-S", "-c", CLIENT, address)
            served.stdin.close()


def serve(address: str) -> None:
    """Fork for every connection until standard input ends."""
    import peewee  # noqa: F401  before a room imports it without the PostgreSQL driver

    from libtool.commands import callback  # noqa: F401

    for room in ROOMS:
        for each in pkgutil.walk_packages(importlib.import_module(room).__path__, f"{room}."):
            importlib.import_module(each.name)
    importlib.import_module("cryptography.fernet")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    os.write(1, b".")
    children: dict[int, tuple[int, int]] = {}  #: a connection → the process that answers there, and what tells its end
    with selectors.DefaultSelector() as waiting:
        waiting.register(0, selectors.EVENT_READ)
        waiting.register(listener, selectors.EVENT_READ)
        connections: dict[int, socket.socket] = {}
        while True:
            for key, _ in waiting.select():
                if key.fd == 0:
                    return
                if key.fileobj is listener:
                    connection = listener.accept()[0]
                    child = fork(connection)
                    if not child:  # who asked was ended before it had
                        connection.close()
                        continue
                    ended = os.pidfd_open(child)
                    connections[connection.fileno()] = connection
                    children[connection.fileno()] = child, ended
                    waiting.register(connection, selectors.EVENT_READ, connection.fileno())
                    waiting.register(ended, selectors.EVENT_READ, connection.fileno())
                elif key.data in connections:  # one of the two ended: so does the other
                    connection = connections.pop(key.data)
                    child, ended = children.pop(key.data)
                    waiting.unregister(connection)
                    waiting.unregister(ended)
                    if key.fd != ended:
                        os.kill(child, signal.SIGKILL)
                    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                    os.close(ended)
                    with connection, suppress(OSError):  # who asked may be gone, too
                        if key.fd == ended:
                            connection.send(bytes([code & 255]))


def fork(connection: socket.socket) -> int:
    """Start a process for what comes over a connection; 0 when that is not whole."""
    head, streams, _, _ = socket.recv_fds(connection, 4, 3)
    length = int.from_bytes(head, "big")
    parts: list[bytes] = []
    while length and (part := connection.recv(length)):
        parts.append(part)
        length -= len(part)
    if length or len(streams) != 3:
        for each in streams:
            os.close(each)
        return 0
    directory, *environment = b"".join(parts).split(b"\0")
    child = os.fork()
    if child:
        for each in streams:
            os.close(each)
        return child
    code = 1
    try:
        for number, each in enumerate(streams):
            os.dup2(each, number)
        os.closerange(3, 1024)
        os.environb.clear()
        os.environb.update(each.split(b"=", 1) for each in environment)
        time.tzset()
        os.chdir(directory)
        sys.argv[1:] = []
        from libtool.commands import callback

        callback.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
