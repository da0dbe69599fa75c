"""``users/*``: accounts, for administrators; and a new password for oneself."""

from __future__ import annotations

from libtool.archive import accounts
from libtool.archive.accounts import Caller
from libtool.errors import Denied
from libtool.node import Node
from libtool.peers import admin


def create(node: Node, caller: Caller, message: admin.UserCreate) -> admin.UserDone:
    """Make an account."""
    accounts.create(node, message.username, message.permission, message.password)
    return admin.UserDone(True, message.username)


def update(node: Node, caller: Caller, message: admin.UserUpdate) -> admin.UserDone:
    """Change what is given."""
    accounts.update(node, message.username, level=message.permission, password=message.password)
    return admin.UserDone(True, message.username)


def delete(node: Node, caller: Caller, message: admin.UserName) -> admin.UserDone:
    """Remove an account."""
    accounts.delete(message.username)
    return admin.UserDone(True, message.username)


def get(node: Node, caller: Caller, message: admin.UserName) -> admin.UserFound:
    """The level of an account."""
    return admin.UserFound(message.username, accounts.get(message.username).auth_level)


def password_update(node: Node, caller: Caller, message: admin.PasswordUpdate) -> admin.UserDone:
    """A new password for the caller, who must know the present one."""
    if accounts.authenticate(node, (caller.name, message.password), former=False) is None:
        raise Denied()
    accounts.update(node, caller.name, password=message.new_password)
    return admin.UserDone(True, caller.name)
