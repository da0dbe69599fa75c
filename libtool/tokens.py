"""What this node holds to act at Globus: the application's secret or a person's refresh token, and the access token.

An access token lasts two days, so it is kept between runs, and what renews it is asked for then only. All of that lies
in one owner-only file; it changes under a lock, since a refresh token may be good for one renewal only.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from libtool import credentials, locks
from libtool.errors import LockTaken, SecretMissing, SecretUnsafe

#: The file below the state directory.
FILE = "globus.tokens"
#: How long another process may hold the lock, in seconds: a renewal asks the service twice at most.
PATIENCE = 90.0


class Tokens:
    """The secrets of one application (``client``), and what was got with them."""

    def __init__(self, directory: str, client: str, *, person: bool, file: str | None) -> None:
        self.client, self.person = client, person
        self.path = os.path.join(directory, FILE)
        self._key = f"{'person' if person else 'service'} {client}"
        self._file = file
        self._asked: tuple[str, str] | SecretMissing | None = None
        #: The secret's name in every place where secrets are looked for.
        self.name = "globus_refresh_token" if person else "globus_client_secret"

    @staticmethod
    def mark(secret: str) -> str:
        """What tells whether a secret is still the same, without holding it."""
        return _mark(secret)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Nobody else renews or stores meanwhile; LockTaken when that lasts longer than anybody should need."""
        end = time.monotonic() + PATIENCE
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(locks.held(os.path.dirname(self.path), FILE))
                    break
                except LockTaken:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.05)
            yield

    # -- what was got --------------------------------------------------------------------------------------------

    def _all(self, *, mend: bool) -> dict[str, Any]:
        """The whole file, which holds what was got for every application that was ever configured here."""
        try:
            found = json.loads(credentials.read_file(self.path, self.name))
        except (SecretMissing, ValueError):
            return {}
        except SecretUnsafe:
            if mend:
                return {}
            raise
        return found if isinstance(found, dict) else {}

    def read(self, *, mend: bool = False) -> dict[str, Any]:
        """What is kept for this application; empty when nothing is.

        Raises SecretUnsafe when others could read it; with ``mend`` it counts as empty then, and is written anew.
        """
        found = self._all(mend=mend).get(self._key)
        return found if isinstance(found, dict) else {}

    def mend(self) -> None:
        """Empty a file that others could read, so that a login can begin anew."""
        with self.lock():
            try:
                self._all(mend=False)
            except SecretUnsafe:
                self.write()

    def write(self, **changes: Any) -> None:
        """Keep these; None removes one. The caller holds the lock."""
        self._put({key: value for key, value in (self.read(mend=True) | changes).items() if value is not None})

    def _put(self, kept: dict[str, Any]) -> None:
        credentials.write_file(self.path, json.dumps(self._all(mend=True) | {self._key: kept}), replace=True)

    def present(self) -> bool:
        """Whether there is a secret, without asking the slow keyring unless it was put there by a login."""
        kept = self.read()
        if kept.get("logged_out"):
            return False
        if kept.get("secret") or kept.get("in_keyring"):
            return True
        try:
            return bool(credentials.find(self.name, self._file, keyring=False))
        except SecretMissing:
            return False

    def held(self) -> list[str]:
        """Every token that was got here, for revoking them. The caller holds the lock."""
        found = [self.read(mend=True).get("access_token"), *self.former()]
        if self.person:
            with suppress(SecretMissing, SecretUnsafe):
                found.append(self.secret()[0])
        return [token for token in dict.fromkeys(found) if token]

    def former(self) -> list[str]:
        """The refresh tokens that earlier logins left here. The caller holds the lock."""
        kept = self.read(mend=True)
        there = credentials.from_keyring("libtool", self.name) if kept.get("in_keyring") else None
        return [token for token in (kept.get("secret"), there) if token and self.person]

    def forget(self) -> None:
        """Remove everything that was got here, the keyring's entry included, and remember that nobody is logged in, so
        that a secret which is found elsewhere is not used before the next login. The caller holds the lock."""
        if self.read(mend=True).get("in_keyring"):
            credentials.to_keyring(self.name, None)
        self._put({"logged_out": True})

    def current(self) -> dict[str, Any]:
        """What was got with the secret that is used now: access token, its end, who that is; empty when it was another."""
        kept = self.read()
        return kept if kept and kept.get("of") == _mark(self.secret()[0]) else {}

    # -- the secret that renews it ---------------------------------------------------------------------------------

    def secret(self, *, fresh: bool = False) -> tuple[str, str]:
        """``(secret, where it was found)``; SecretMissing when it is nowhere, or somebody logged out. The keyring is asked
        once, unless it must be ``fresh``.

        What a login or a renewal left here counts as newer than what it found elsewhere, until that changes.
        """
        kept = self.read()
        mine = kept.get("secret")
        if kept.get("logged_out"):
            raise SecretMissing(name=self.name, places=f"{self.path}, which says that somebody logged out")
        try:
            found, where = self._elsewhere(keyring=mine is None, fresh=fresh)
        except SecretMissing as missing:
            if mine is None:
                raise SecretMissing(name=self.name, places=f"{self.path}, {missing.facts['places']}") from None
            return mine, self.path
        return (mine, self.path) if mine is not None and kept.get("instead_of") == _mark(found) else (found, where)

    def elsewhere(self) -> str:
        """The secret that somebody put where secrets are looked for; a logout does not hide it."""
        return credentials.find(self.name, self._file)[0]

    def _elsewhere(self, *, keyring: bool, fresh: bool) -> tuple[str, str]:
        """What the usual places hold; an answer of the slow keyring is remembered."""
        if fresh or not keyring or self._asked is None:
            try:
                found = credentials.find(self.name, self._file, keyring=keyring)
            except SecretMissing as missing:
                self._asked = missing if keyring else None
                raise
            self._asked = found if found[1] == "the keyring" else None
            return found
        if isinstance(self._asked, SecretMissing):
            raise self._asked
        return self._asked

    def keep(self, secret: str, *, keyring: bool = False) -> str:
        """Keep what a login gave; returns where. The caller holds the lock."""
        if keyring and credentials.to_keyring(self.name, secret):
            self.write(secret=None, instead_of=None, in_keyring=True, logged_out=None)
            return "the keyring"
        try:
            other = _mark(credentials.find(self.name, self._file, keyring=False)[0])
        except (SecretMissing, SecretUnsafe):
            other = None
        self.write(secret=secret, instead_of=other, logged_out=None)
        return self.path

    def rotate(self, secret: str) -> None:
        """A renewal gave a new refresh token: it goes where the old one was, else here. The caller holds the lock."""
        _, where = self.secret(fresh=True)
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
    return hashlib.sha256(secret.encode()).hexdigest()


def _given_by_systemd(path: str) -> bool:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(directory) and os.path.dirname(path) == str(directory).rstrip("/")
