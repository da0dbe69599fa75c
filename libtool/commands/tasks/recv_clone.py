"""``recv-clone``: verify what is staged, store it, tell the source."""

from __future__ import annotations

import click

from libtool.archive import intake
from libtool.archive.hands import Tally
from libtool.commands.tasks import frame as tasks
from libtool.commands.words import Frame, pass_frame
from libtool.states import DeletionPolicy


@click.command()
@click.option(
    "--files-per-run", type=click.IntRange(min=1), help="Take in at most so many; default: all that is staged."
)
@click.option(
    "--deletion-policy",
    type=click.Choice(["allowed", "disallowed"], case_sensitive=False),
    default="disallowed",
    show_default=True,
    help="Whether the copies made here may ever be deleted.",
)
@tasks.task_options
@pass_frame
def recv_clone(
    frame: Frame, files_per_run: int | None, deletion_policy: str, soft_timeout: float, dry_run: bool
) -> int:
    """Read every staged file, move the right ones into their store, record them, and tell their sources."""
    with frame.open() as node:
        if dry_run:
            for line in intake.plan(node):
                print(line)
            return 0
        tally = Tally()
        policy = DeletionPolicy[deletion_policy.upper()]
        with (
            tasks.run(frame, node, "recv-clone", "", tally),
            tasks.Bar(frame, "taking in", intake.staged_files()) as bar,
        ):
            intake.receive(node, tasks.budget(soft_timeout), tally, limit=files_per_run, policy=policy, progress=bar)
        return tasks.finish(frame, tally)
