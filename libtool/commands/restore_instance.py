"""``restore-instance``: bring a copy back that was let go and is still set aside."""

from __future__ import annotations

import click

from libtool.archive import removing
from libtool.archive.hands import Tally
from libtool.commands.tasks.frame import finish
from libtool.commands.words import Frame, dry_run, pass_frame


@click.command()
@click.argument("name", metavar="FILE-NAME")
@dry_run
@pass_frame
def restore_instance(frame: Frame, name: str, dry_run: bool) -> int:
    """Bring back our copy of a file that was let go, as long as it is set aside; it is read before it counts again.

    From then on its deletion policy is disallowed.
    """
    tally = Tally()
    with frame.open() as node:
        stores = removing.restorable(name)
        if stores and not dry_run and not removing.restore(node, name, tally):
            stores = []
    if not stores and not tally.failed:
        frame.tell(f"no copy of '{name}' is set aside here")
    elif stores:
        frame.say(f"'{name}' {'can be' if dry_run else 'was'} brought back to {stores[0]}")
    return finish(frame, tally) if stores else 3
