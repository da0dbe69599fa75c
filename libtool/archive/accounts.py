"""Accounts: who may talk to this librarian, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import peewee

from libtool.errors import UnknownUser, UserExists
from libtool.models.base import writing
from libtool.models.tables import User
from libtool.peers import passwords
from libtool.states import AuthLevel


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking: the account's name and level."""

    name: str
    level: AuthLevel

    @property
    def admin(self) -> bool:
        """Whether it may do everything."""
        return self.level >= AuthLevel.ADMIN


def authenticate(credentials: tuple[str, str] | None, key: bytes) -> Caller | None:
    """The caller behind a user name and a password; None when they do not belong together.

    A chosen password is checked slowly once; a keyed digest that is kept then serves all later requests.
    """
    if credentials is None:
        return None
    username, password = credentials
    user = User.get_or_none(User.username == username)
    if user is not None and user.password_fast and passwords.is_fast(password, user.password_fast, key):
        return Caller(user.username, user.auth_level)
    # A wrong guess costs the same whether the account exists or not.
    kept = user.password_slow if user is not None and user.password_slow else _NOBODY
    if not passwords.is_slow(password, kept) or user is None or kept is _NOBODY:
        return None
    with writing("keyed digest"):
        User.update(password_fast=passwords.fast(password, key)).where(
            User.id == user.id, User.password_slow == kept
        ).execute()
    return Caller(user.username, user.auth_level)


_NOBODY = "scrypt$" + "00" * 16 + "$" + "00" * 64


def create(username: str, level: AuthLevel, password: str | None, key: bytes, now: datetime) -> str | None:
    """Make an account; returns the password when it was made here, so that it can be shown once."""
    made = None if password is not None else passwords.make()
    row = {"username": username, "auth_level": level, "create_time": now}
    if made is not None:
        row["password_fast"] = passwords.fast(made, key)
    else:
        row["password_slow"] = passwords.slow(password or "")
    try:
        with writing("create user"):
            User.create(**row)
    except peewee.IntegrityError:
        raise UserExists(name=username) from None
    return made


def delete(username: str) -> None:
    """Remove an account; transfers that it began go on."""
    with writing("delete user"):
        if not User.delete().where(User.username == username).execute():
            raise UnknownUser(name=username)


def everybody() -> list[User]:
    """All accounts by name."""
    return list(User.select().order_by(User.username))
