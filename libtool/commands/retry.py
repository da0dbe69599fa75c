"""``retry``: what was refused or waits for a destination is tried at the next tick."""

from __future__ import annotations

import click

from libtool.archive import attempts, librarians, queue
from libtool.commands.words import Frame, dry_run, pass_frame
from libtool.errors import Refused
from libtool.names import shown


@click.command()
@click.option("--librarian", required=True, metavar="NAME", help="At which destination.")
@click.option(
    "--by-hand", is_flag=True, help="Also what a manifest meant to travel on a disk: it is sent by itself after all."
)
@click.argument("file", required=False)
@dry_run
@pass_frame
def retry(frame: Frame, librarian: str, by_hand: bool, file: str | None, dry_run: bool) -> None:
    """Free FILE (default: everything) that is parked or waits for a destination; send-clone then takes it up."""
    with frame.open() as node:
        destination = librarians.get(librarian)
        if dry_run:
            count = attempts.held(destination, file) + queue.releasable(destination, file)
            print(f"{count} files would be tried again at {librarian}")
            return
        if by_hand:
            attempts.give_up_by_hand(destination, file, node.now())
        freed = queue.release(node, destination, name=file)
        freed += attempts.free(destination, file, node.now())
        if file is not None and not freed:
            raise Refused(
                why=f"'{shown(file)}' does not wait for {librarian}", how="'libtool status' shows how many do."
            )
        frame.say(f"{freed} files will be tried again at {librarian}")
