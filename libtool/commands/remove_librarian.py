"""``remove-librarian``: take a neighbour off the list."""

from __future__ import annotations

import click

from libtool.commands.words import Frame, at_connection, dry_run, pass_frame


@click.command()
@click.option("--name", required=True, metavar="NAME", help="Which one.")
@at_connection
@dry_run
@pass_frame
def remove_librarian(frame: Frame, name: str, connection: str | None, dry_run: bool) -> None:
    """Take a librarian off the list: nothing is sent to or reported to it any more.

    What was sent, and what is under way, stays remembered and is settled when it is added again.
    """
    with frame.desk(connection) as desk:
        desk.librarian(name)
        if dry_run:
            print(f"would remove {name}")
            return
        desk.remove_librarian(name)
        frame.say(f"librarian {name} is removed")
