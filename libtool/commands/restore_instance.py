"""``restore-instance``: bring a copy back that was let go and is still set aside."""

from __future__ import annotations

import click

from libtool.archive import by_hand
from libtool.archive.hands import Tally
from libtool.commands.tasks.frame import finish
from libtool.commands.words import Frame, dry_run, pass_frame
from libtool.names import shown


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
        said, there = by_hand.restore(node, name, tally, really=not dry_run)
    code = finish(frame, tally)
    if there and dry_run:
        print(shown(said))
    elif there:
        frame.say(said)
    elif not tally.failed:
        frame.tell(said)
    return code if there else max(code, 3)
