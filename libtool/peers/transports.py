"""Which transport carries requests to a librarian: its URL decides."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit, urlunsplit

from libtool.peers import client


def connect(url: str, port: int | None) -> client.Transport:
    """A transport for a librarian's URL: ``http(s)://host[/path]`` with its port, or ``exec:///path/to/config.yaml``."""
    scheme = urlsplit(url).scheme
    if scheme == "exec":
        from libtool.peers.exec import ExecTransport

        return ExecTransport(unquote(urlsplit(url).path), client.ANSWER_SECONDS)
    from libtool.peers.http import HttpTransport

    return HttpTransport(with_port(url, port), client.ANSWER_SECONDS)


def with_port(url: str, port: int | None) -> str:
    """``scheme://host:PORT`` and the path without a slash at its end, as stock clients build it."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname or ""
    place = f"{host}:{port}" if port else parts.netloc
    return urlunsplit((parts.scheme, place, parts.path.rstrip("/"), "", ""))
