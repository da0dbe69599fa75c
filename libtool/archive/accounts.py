"""Accounts: who may talk to this librarian, and what they may do."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import peewee

from libtool.archive.hands import Host
from libtool.errors import Guessing, LockTaken, UnknownUser, UserExists
from libtool.models.base import writing
from libtool.models.tables import User
from libtool.peers import passwords
from libtool.states import AuthLevel

#: How long a password is good after the one that follows it was used.
FORMER = timedelta(days=1)
#: How long a wrong password takes, in seconds, and one at a time.
GUESS_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking: the account's name and level."""

    name: str
    level: AuthLevel
    outdated: bool = False  #: its password was followed by another, and is good for a while only

    @property
    def admin(self) -> bool:
        """Whether it may do everything."""
        return self.level >= AuthLevel.ADMIN


def authenticate(host: Host, credentials: tuple[str, str] | None, *, former: bool = True) -> Caller | None:
    """The caller behind a user name and a password; None when they do not belong together. ``former``: one that was
    followed by another not long ago will do, too.

    The right password is known by its keyed digest, at once. Everything else is a guess: it is checked slowly, one at a
    time, and whoever guesses while another guess is being checked is sent away (Guessing, "ask again"). So guessing is
    slow, however many guess, and never takes more than one process of the web server and a fraction of one processor
    from those who know their passwords.
    """
    if credentials is None:
        return None
    username, password = credentials
    key = host.key()
    user = User.get_or_none(User.username == username)
    if user is not None:
        if user.password_fast and passwords.is_fast(password, user.password_fast, key):
            return Caller(user.username, user.auth_level)
        if user.password_next and passwords.is_fast(password, user.password_next, key):
            _follow(user, host.now())
            return Caller(user.username, user.auth_level)
        young = former and user.former_until is not None and host.now() < user.former_until
        if young and user.password_former and passwords.is_fast(password, user.password_former, key):
            return Caller(user.username, user.auth_level, outdated=True)
    # Costs the same whether the account exists or not.
    kept = user.password_slow if user is not None and user.password_slow else _NOBODY
    begin = time.monotonic()
    try:
        with host.lock("guess"):
            right = passwords.is_slow(password, kept) and kept is not _NOBODY
            if not right:
                time.sleep(max(0.0, GUESS_SECONDS - (time.monotonic() - begin)))
    except LockTaken:
        raise Guessing() from None
    if not right or user is None:
        return None
    with writing("keyed digest"):
        User.update(password_fast=passwords.fast(password, key)).where(
            User.id == user.id, User.password_slow == kept
        ).execute()
    return Caller(user.username, user.auth_level)


def known(username: str) -> Caller | None:
    """The caller behind a name that somebody else has proved, such as sshd with a key; None when there is no such
    account."""
    user = User.get_or_none(User.username == username)
    return None if user is None else Caller(user.username, user.auth_level)


def _follow(user: User, now: datetime) -> None:
    """The new password was used: the one before it is good for a day more, for runs that began with it."""
    with writing("password followed"):
        User.update(
            password_fast=user.password_next,
            password_next=None,
            password_slow=None,
            password_former=user.password_fast,
            former_until=now + FORMER,
        ).where(User.id == user.id, User.password_next == user.password_next).execute()


_NOBODY = "scrypt$" + "00" * 16 + "$" + "00" * 64


def create(host: Host, username: str, level: AuthLevel, password: str | None) -> str | None:
    """Make an account; returns the password when it was made here, so that it can be shown once. ``password=""`` makes
    an account without one, for a caller whom sshd knows by its key."""
    made = passwords.make() if password is None else None
    try:
        with writing("create user"):
            row = {"username": username, "auth_level": level, "create_time": host.now()}
            User.create(**row, **_digests(host, made, password))
    except peewee.IntegrityError:
        raise UserExists(name=username) from None
    return made


def _digests(host: Host, made: str | None, chosen: str | None) -> dict[str, str | None]:
    """What is kept of a password: a keyed digest, and of one that a person chose a slow hash beside it, which is still
    good when the key was lost."""
    password = made or chosen
    fast = passwords.fast(password, host.key()) if password else None
    return {"password_fast": fast, "password_slow": passwords.slow(chosen) if chosen else None}


def renew(host: Host, username: str) -> str:
    """Make a new password for an account and return it. The old one is good until a day after the new one is first
    used, so that whoever uses the account loses nothing in between."""
    made = passwords.make()
    with writing("renew password"):
        digest = passwords.fast(made, host.key())
        if not User.update(password_next=digest).where(User.username == username).execute():
            raise UnknownUser(name=username)
    return made


def update(host: Host, username: str, *, level: AuthLevel | None = None, password: str | None = None) -> None:
    """Change the level or the password of an account, at once."""
    changes: dict[str, Any] = {} if level is None else {"auth_level": level}
    if password is not None:
        changes |= _digests(host, None, password) | {"password_next": None, "password_former": None}
    with writing("update user"):
        found = User.select().where(User.username == username).exists()
        if not found:
            raise UnknownUser(name=username)
        if changes:
            User.update(**changes).where(User.username == username).execute()


def get(username: str) -> User:
    """The account of this name."""
    found = User.get_or_none(User.username == username)
    if found is None:
        raise UnknownUser(name=username)
    known: User = found
    return known


def delete(username: str) -> None:
    """Remove an account; transfers that it began go on."""
    with writing("delete user"):
        if not User.delete().where(User.username == username).execute():
            raise UnknownUser(name=username)


def everybody() -> list[User]:
    """All accounts by name."""
    return list(User.select().order_by(User.username))
