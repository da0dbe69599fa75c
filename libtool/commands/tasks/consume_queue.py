"""``consume-queue``: ship what is queued."""

from __future__ import annotations

import click

from libtool.archive import queue, shipping
from libtool.archive.hands import Tally
from libtool.commands.tasks import frame as tasks
from libtool.commands.words import Frame, pass_frame


@click.command()
@tasks.task_options
@pass_frame
def consume_queue(frame: Frame, soft_timeout: float, dry_run: bool) -> int:
    """Ship every queue item as one task of its carrier; destinations take turns."""
    with frame.open() as node:
        if dry_run:
            for line in shipping.plan():
                print(line)
            return 0
        tally = Tally()
        with (
            tasks.run(frame, node, "consume-queue", "", tally),
            tasks.Bar(frame, "shipping", queue.queued_files()) as bar,
        ):
            shipping.consume(node, tasks.budget(soft_timeout), tally, bar)
        return tasks.finish(frame, tally)
