"""``remove-librarian``: take a neighbour off the list."""

from __future__ import annotations

import click

from libtool.archive import librarians
from libtool.commands.words import Frame, dry_run, pass_frame


@click.command()
@click.option("--name", required=True, metavar="NAME", help="Which one.")
@dry_run
@pass_frame
def remove_librarian(frame: Frame, name: str, dry_run: bool) -> None:
    """Take a librarian off the list: nothing is sent to or reported to it any more.

    What was sent, and what is under way, stays remembered and is settled when it is added again.
    """
    with frame.open():
        librarians.get(name)
        if dry_run:
            print(f"would remove {name}")
            return
        librarians.remove(name)
        frame.say(f"librarian {name} is removed")
