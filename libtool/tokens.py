"""What this node holds to act at Globus: the application's secret or a person's refresh token, and the access token.

An access token lasts two days, so it is kept between runs, and what renews it is asked for then only. All of that lies
in one owner-only file; it changes under a lock, since a refresh token may be good for one renewal only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from libtool import credentials, locks
from libtool.errors import SecretMissing

#: The file below the state directory.
FILE = "globus.tokens"


class Tokens:
    """The secrets of one application (``client``), and what was got with them."""

    def __init__(self, directory: str, locks_directory: str, client: str, *, person: bool, file: str | None) -> None:
        self.client, self.person = client, person
        self.path = os.path.join(directory, FILE)
        self._locks = locks_directory
        self._file = file
        #: The secret's name in every place where secrets are looked for.
        self.name = "globus_refresh_token" if person else "globus_client_secret"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Nobody else renews or stores meanwhile."""
        with locks.held(self._locks, "globus-tokens", wait=True):
            yield

    # -- what was got --------------------------------------------------------------------------------------------

    def read(self) -> dict[str, Any]:
        """What is kept for this application; empty when nothing is, or only something for another one."""
        try:
            found = json.loads(credentials.read_file(self.path, self.name))
        except (SecretMissing, ValueError):
            return {}
        mine = isinstance(found, dict) and (found.get("client"), found.get("person")) == (self.client, self.person)
        return found if mine else {}

    def write(self, **changes: Any) -> None:
        """Keep these; None removes one. The caller holds the lock."""
        kept = self.read() | {"client": self.client, "person": self.person} | changes
        kept = {key: value for key, value in kept.items() if value is not None}
        credentials.write_file(self.path, json.dumps(kept), replace=True)

    def forget(self) -> None:
        """Remove everything that was got here, the keyring's entry included. The caller holds the lock."""
        if self.read().get("in_keyring"):
            credentials.to_keyring(self.name, None)
        if os.path.exists(self.path):
            os.unlink(self.path)

    # -- the secret that renews it ---------------------------------------------------------------------------------

    def secret(self) -> tuple[str, str]:
        """``(secret, where it was found)``; SecretMissing when it is nowhere.

        What a login or a renewal left here counts as newer than what it found elsewhere, until that changes.
        """
        kept = self.read()
        mine = kept.get("secret")
        try:
            found, where = credentials.find(self.name, self._file, keyring=mine is None)
        except SecretMissing:
            if mine is None:
                raise
            return mine, self.path
        return (mine, self.path) if mine is not None and kept.get("instead_of") == _mark(found) else (found, where)

    def keep(self, secret: str, *, keyring: bool = False) -> str:
        """Keep what a login gave; returns where. The caller holds the lock."""
        if keyring and credentials.to_keyring(self.name, secret):
            self.write(secret=None, instead_of=None, in_keyring=True)
            return "the keyring"
        try:
            other = _mark(credentials.find(self.name, self._file, keyring=False)[0])
        except SecretMissing:
            other = None
        self.write(secret=secret, instead_of=other)
        return self.path

    def rotate(self, secret: str) -> None:
        """A renewal gave a new refresh token: it goes where the old one was, else here. The caller holds the lock."""
        _, where = self.secret()
        if where == "the keyring" and credentials.to_keyring(self.name, secret):
            return
        if os.path.isabs(where) and where != self.path and not _given_by_systemd(where):
            try:
                credentials.write_file(where, secret, replace=True)
                return
            except OSError:
                pass  # its directory is not ours to write; then it is kept here, as the newer one
        self.keep(secret)


def _mark(secret: str) -> str:
    """What tells whether a secret is still the same, without holding it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _given_by_systemd(path: str) -> bool:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(directory) and os.path.dirname(path) == str(directory).rstrip("/")
