"""``check-consumed-queue``: learn what became of what was shipped, and tell the destinations."""

from __future__ import annotations

import click

from libtool.archive import learning
from libtool.archive.hands import Tally
from libtool.commands.tasks import frame as tasks
from libtool.commands.words import Frame, pass_frame


@click.command()
@tasks.task_options
@pass_frame
def check_consumed_queue(frame: Frame, soft_timeout: float, dry_run: bool) -> int:
    """Ask the carriers what arrived, file by file, and report it to the destinations as STAGED."""
    with frame.open() as node:
        if dry_run:
            for line in learning.plan():
                print(line)
            return 0
        tally = Tally()
        with tasks.run(frame, node, "check-consumed-queue", "", tally), tasks.Bar(frame, "checking", None) as bar:
            learning.check(node, tasks.budget(soft_timeout), tally, bar)
        return tasks.finish(frame, tally)
