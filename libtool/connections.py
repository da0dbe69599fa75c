"""Connections: other librarians that an operator acts at with ``--connection NAME``, and under which account.

They stand in ``~/.config/libtool/connections.yaml``, or in the file of the reference's own command. Who has no
librarian can use them, too.
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from libtool import credentials
from libtool.errors import ConfigurationError, SecretUnsafe, UnknownConnection
from libtool.names import is_ssh_url

_KEYS = frozenset(["url", "host", "port", "user", "password", "allow_plain_http"])


@dataclass(frozen=True, slots=True)
class Connection:
    """Where a librarian is, and our account there."""

    name: str
    url: str
    port: int | None
    authenticator: str | None  #: ``user:password``; None over ssh, where the key is the account


def places() -> list[str]:
    """The files that are looked at, in order."""
    named = os.environ.get("HL_CLIENT_CONFIG")
    reference = [named] if named else ["~/.hl_client.cfg", "~/.hl_client.json"]
    return [os.path.expanduser(place) for place in ("~/.config/libtool/connections.yaml", *reference)]


def find(name: str) -> Connection:
    """The connection of this name; the first file that has it counts."""
    known: list[str] = []
    for file, connections in _files():
        if name in connections:
            return _checked(file, name, connections[name])
        known += connections
    close = difflib.get_close_matches(name, known, n=1)
    guess = f"; did you mean '{close[0]}'?" if close else ""
    raise UnknownConnection(name=name, places=", ".join(places()), guess=guess)


def _files() -> Iterator[tuple[str, dict[str, Any]]]:
    import yaml

    for file in places():
        try:
            with open(file, "rb") as stream:
                found = yaml.safe_load(stream)
        except FileNotFoundError:
            continue
        except OSError as trouble:
            raise _wrong(file, "the whole file", f"cannot be read: {trouble.strerror}") from None
        except (yaml.YAMLError, ValueError, RecursionError):
            raise _wrong(file, "the whole file", "is neither YAML nor JSON") from None
        connections = found.get("connections") if isinstance(found, dict) else None
        if not isinstance(connections, dict):
            raise _wrong(file, "connections", "expected a mapping: a name and below it url, port, user, password")
        yield file, connections


def _wrong(file: str, key: str, why: str) -> ConfigurationError:
    return ConfigurationError(file=file, key=key, why=why)


def _checked(file: str, name: str, given: Any) -> Connection:
    key = f"connections.{name}"
    if not isinstance(given, dict):
        raise _wrong(file, key, "expected url, port, user, password")
    if strange := sorted(map(str, set(given) - _KEYS)):
        raise _wrong(file, f"{key}.{strange[0]}", f"there is no such key; there are {', '.join(sorted(_KEYS))}")
    url, port, user = given.get("url") or given.get("host"), given.get("port"), given.get("user")
    if not isinstance(url, str) or urlsplit(url).scheme not in ("http", "https", "ssh", "exec"):
        raise _wrong(file, f"{key}.url", "expected http(s)://host[/path], ssh://user@host or exec:///path/config.yaml")
    if port is not None and (isinstance(port, bool) or not str(port).isdigit() or not 0 < int(port) < 65536):
        raise _wrong(file, f"{key}.port", "expected a number from 1 to 65535")
    parts = urlsplit(url)
    if parts.scheme == "ssh":
        if not is_ssh_url(url):
            raise _wrong(file, f"{key}.url", "expected ssh://user@host[:port]")
        return Connection(name, url, int(port) if port else None, None)
    near = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme == "http" and not near and given.get("allow_plain_http") is not True:
        why = "the password would be readable on the way; use https, or write allow_plain_http: true beside it"
        raise _wrong(file, f"{key}.url", why)
    if not isinstance(user, str) or not isinstance(given.get("password"), str):
        raise _wrong(file, key, "expected user and password; a password may be a reference such as file:PATH")
    secret, literal = credentials.resolve(given["password"], "password of a connection")
    if literal:
        mode = os.stat(file)
        if stat.S_IMODE(mode.st_mode) & 0o077 or mode.st_uid != os.geteuid():
            raise SecretUnsafe(file=file, name=f"password of {name}")
    return Connection(name, url, int(port) if port else None, f"{user}:{secret}")
