"""``corruption-fixer``: get damaged and missing copies anew."""

from __future__ import annotations

import click

from libtool.archive import repairing
from libtool.archive.hands import Tally
from libtool.commands.tasks import frame as tasks
from libtool.commands.words import Frame, pass_frame


@click.command()
@tasks.task_options
@pass_frame
def corruption_fixer(frame: Frame, soft_timeout: float, dry_run: bool) -> int:
    """Get copies anew that were found damaged, missing or unreadable.

    Each is read once more first. Another store here is asked before a neighbour is; a neighbour reads its own copy before
    it sends it. The bad bytes are kept until the new copy was read where it lies.
    """
    with frame.open() as node:
        if dry_run:
            for line in repairing.plan(node):
                print(line)
            return 0
        tally = Tally()
        with (
            tasks.run(frame, node, "corruption-fixer", "", tally),
            tasks.Bar(frame, "mending", None) as bar,
        ):
            repairing.repair(node, tasks.budget(soft_timeout), tally, bar)
        return tasks.finish(frame, tally)
