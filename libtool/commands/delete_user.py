"""``delete-user``: remove an account."""

from __future__ import annotations

import click

from libtool.archive import accounts
from libtool.commands.words import Frame, dry_run, pass_frame
from libtool.errors import UnknownUser


@click.command()
@click.option("--username", required=True, metavar="U", help="Which one.")
@dry_run
@pass_frame
def delete_user(frame: Frame, username: str, dry_run: bool) -> None:
    """Remove an account; what it brought stays."""
    with frame.open():
        if dry_run:
            if username not in {user.username for user in accounts.everybody()}:
                raise UnknownUser(name=username)
            print(f"would delete {username}")
            return
        accounts.delete(username)
        frame.say(f"account {username} is deleted")
