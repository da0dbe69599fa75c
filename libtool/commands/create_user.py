"""``create-user``: make an account."""

from __future__ import annotations

import click

from libtool import credentials
from libtool.archive import accounts
from libtool.commands.words import Frame, at_connection, dry_run, pass_frame
from libtool.errors import Refused
from libtool.states import AuthLevel


@click.command()
@click.option("--username", required=True, metavar="U", help="For a librarian: its name.")
@click.option(
    "--auth-level",
    required=True,
    type=click.Choice([level.name for level in AuthLevel], case_sensitive=False),
    help="READAPPEND for one that sends here, CALLBACK for one that receives from here.",
)
@click.option(
    "--password",
    metavar="REFERENCE",
    help="'-' reads it from standard input, file:PATH, env:VAR and so on look it up; default: one is made and printed once.",
)
@click.option(
    "--renew",
    is_flag=True,
    help="The account exists and has this level: make a new password. The old one is good until a day after that is used.",
)
@at_connection
@dry_run
@pass_frame
def create_user(
    frame: Frame,
    username: str,
    auth_level: str,
    password: str | None,
    renew: bool,
    connection: str | None,
    dry_run: bool,
) -> None:
    """Make an account. Without --password one is made and printed once, on standard output."""
    if not username.isascii() or not username.isprintable() or ":" in username or not username:
        raise Refused(
            why="a user name is printable ASCII without a colon", how="Choose another; for a librarian, its own name."
        )
    chosen = None
    if password is not None:
        chosen, literal = credentials.resolve(password, "password")
        if literal:
            frame.tell(
                "warning: the password is in the shell's history and was in the process list; better give '-' or file:PATH"
            )
        if len(chosen) < 8:
            raise Refused(
                why="the password has fewer than 8 characters", how="Choose a longer one, or none to have one made."
            )
    level = AuthLevel[auth_level.upper()]
    if renew:
        if connection is not None or password is not None:
            why = "--renew makes the password itself, and on this librarian only"
            raise Refused(why=why, how="Leave the other option out.")
        _renew(frame, username, level, dry_run)
        return
    with frame.desk(connection) as desk:
        if dry_run:
            print(f"would create {username} with level {level.name}")
            return
        made = desk.create_user(username, level, chosen)
    _show(frame, f"account {username} is made, level {level.name}", made)


def _renew(frame: Frame, username: str, level: AuthLevel, dry_run: bool) -> None:
    with frame.open() as node:
        found = accounts.get(username).auth_level
        if found is not level:
            why = f"the account {username} has the level {found.name}"
            raise Refused(why=why, how="Give that one; 'libtool delete-user' first to change it.")
        if dry_run:
            print(f"would make a new password for {username}")
            return
        made = accounts.renew(node, username)
    _show(frame, f"account {username} has a new password; the old one is good until a day after this one is used", made)


def _show(frame: Frame, said: str, made: str | None) -> None:
    frame.say(said)
    if made is not None:
        frame.say("the password, shown only now:")
        print(made)
