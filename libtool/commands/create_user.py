"""``create-user``: make an account."""

from __future__ import annotations

import click

from libtool import credentials
from libtool.archive import accounts
from libtool.commands.words import Frame, dry_run, pass_frame
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
@dry_run
@pass_frame
def create_user(frame: Frame, username: str, auth_level: str, password: str | None, dry_run: bool) -> None:
    """Make an account on this librarian. Without --password one is made and printed once, on standard output."""
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
    with frame.open() as node:
        if dry_run:
            print(f"would create {username} with level {auth_level.upper()}")
            return
        made = accounts.create(username, AuthLevel[auth_level.upper()], chosen, node.key(), node.now())
    frame.say(f"account {username} is made, level {auth_level.upper()}")
    if made is not None:
        frame.say("its password, shown only now:")
        print(made)
