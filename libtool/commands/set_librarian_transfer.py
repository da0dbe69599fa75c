"""``set-librarian-transfer``: switch sending to a librarian."""

from __future__ import annotations

import click

from libtool.commands.words import Frame, at_connection, dry_run, pass_frame


@click.command()
@click.option("--name", required=True, metavar="NAME", help="Which librarian.")
@click.option("--enabled/--disabled", "enabled", default=None, required=True, help="Whether files may be sent to it.")
@at_connection
@dry_run
@pass_frame
def set_librarian_transfer(frame: Frame, name: str, enabled: bool, connection: str | None, dry_run: bool) -> None:
    """Switch sending to a librarian on or off; what is in flight is still settled."""
    switch(frame, name, enabled, connection, dry_run)


def switch(frame: Frame, name: str, enabled: bool, connection: str | None, dry_run: bool) -> None:
    """The deed behind both spellings."""
    word = "enabled" if enabled else "disabled"
    with frame.desk(connection) as desk:
        desk.librarian(name)
        if dry_run:
            print(f"would set transfers to {name} to {word}")
            return
        desk.set_transfers(name, enabled)
        frame.say(f"transfers to {name} are {word}")
