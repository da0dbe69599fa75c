"""``delete-user``: remove an account."""

from __future__ import annotations

import click

from libtool.commands.words import Frame, at_connection, dry_run, pass_frame


@click.command()
@click.option("--username", required=True, metavar="U", help="Which one.")
@at_connection
@dry_run
@pass_frame
def delete_user(frame: Frame, username: str, connection: str | None, dry_run: bool) -> None:
    """Remove an account; what it brought stays."""
    with frame.desk(connection) as desk:
        if dry_run:
            desk.user(username)
            print(f"would delete {username}")
            return
        desk.delete_user(username)
        frame.say(f"account {username} is deleted")
