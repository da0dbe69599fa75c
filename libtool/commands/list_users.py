"""``list-users``: all accounts."""

from __future__ import annotations

import click

from libtool.archive import accounts
from libtool.commands.words import Frame, pass_frame, show, with_format
from libtool.units import show_time


@click.command()
@with_format
@pass_frame
def list_users(frame: Frame) -> None:
    """Show all accounts and their levels; passwords are not kept and cannot be shown."""
    with frame.open():
        rows = [
            {"username": user.username, "auth_level": user.auth_level.name, "create_time": show_time(user.create_time)}
            for user in accounts.everybody()
        ]
    show(frame, rows, ["username", "auth_level", "create_time"])
