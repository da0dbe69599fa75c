"""``duplicate-remote-instance-hypervisor``: for a catalogue that came from elsewhere and records copies twice."""

from __future__ import annotations

import click

from libtool.archive import duplicates
from libtool.archive.hands import Tally
from libtool.commands.tasks import frame as tasks
from libtool.commands.words import Frame, pass_frame


@click.command()
@tasks.task_options
@pass_frame
def duplicate_remote_instance_hypervisor(frame: Frame, soft_timeout: float, dry_run: bool) -> int:
    """Remove what is recorded twice of copies at neighbours, and make the index again that forbids it.

    The oldest record of each copy stays. Where the index is there, nothing can be twice, and nothing is looked for.
    """
    with frame.open() as node:
        if dry_run:
            found = duplicates.count()
            if found:
                print(f"{found} records of copies at neighbours would be removed, since an older one says the same")
            return 0
        tally = Tally()
        with tasks.run(frame, node, "duplicate-remote-instance-hypervisor", "", tally):
            duplicates.mend(tasks.budget(soft_timeout), tally)
        return tasks.finish(frame, tally)
