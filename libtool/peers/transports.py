"""Which transport carries requests to a librarian: its URL decides."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit, urlunsplit

from libtool.peers import client


@dataclass(frozen=True, slots=True)
class Own:
    """What a librarian has of its own to call others with."""

    key: str | None = None  #: its private key for ssh; None, or a file that is not there: the user's keys
    hosts: str | None = None  #: the host keys that it trusts, beside the user's
    run: str | None = None  #: a directory for the sockets of shared connections
    authority: str | None = None  #: certificates that https librarians are signed with; None: the usual ones


def connect(url: str, port: int | None, own: Own | None = None, seconds: float | None = None) -> client.Transport:
    """A transport for a librarian's URL: ``http(s)://host[/path]`` with its port, ``ssh://user@host[:port]``, or
    ``exec:///path/to/config.yaml``. ``seconds``: how long an answer is waited for, when it is less than usual."""
    own = own or Own()
    timeout = min(seconds or client.ANSWER_SECONDS, client.ANSWER_SECONDS)
    scheme = urlsplit(url).scheme
    if scheme == "exec":
        from libtool.peers.exec import ExecTransport

        return ExecTransport(unquote(urlsplit(url).path), timeout)
    if scheme == "ssh":
        from libtool.peers.ssh import SshTransport

        return SshTransport(url, port, own, timeout)
    from libtool.peers.http import HttpTransport

    return HttpTransport(with_port(url, port), timeout, own.authority)


def with_port(url: str, port: int | None) -> str:
    """``scheme://host:PORT`` and the path without a slash at its end, as stock clients build it."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname or ""
    place = f"{host}:{port}" if port else parts.netloc
    return urlunsplit((parts.scheme, place, parts.path.rstrip("/"), "", ""))
