"""``incoming-transfer-hypervisor``: settle what was to come here and did not come to an end."""

from __future__ import annotations

from datetime import timedelta

import click

from libtool.archive import hypervising, librarians, machine
from libtool.archive.hands import Tally
from libtool.commands.tasks import frame as tasks
from libtool.commands.words import Days, Frame, pass_frame


@click.command()
@click.option(
    "--age-in-days",
    type=Days(min=0, max=36500, min_open=True),
    default=machine.INCOMING_AGE / timedelta(days=1),
    show_default=True,
    help="Only those that began longer ago.",
)
@click.option("--librarian", "chosen", multiple=True, metavar="NAME", help="Only with this one; may be repeated.")
@tasks.task_options
@pass_frame
def incoming_transfer_hypervisor(
    frame: Frame, age_in_days: float, chosen: tuple[str, ...], soft_timeout: float, dry_run: bool
) -> int:
    """Settle transfers from other librarians and clients that have not ended for days, with their sources.

    What its source thinks has arrived is read by recv-clone; what its source has given up or forgotten ends, so that its
    room is free, and so does an upload that nobody goes on with. What lies here whole is read first, since it may be the
    last copy. What the source could not be asked about is left alone.
    """
    age = timedelta(days=age_in_days)
    with frame.open() as node:
        if dry_run:
            for line in hypervising.plan_incoming(node, chosen, age, tasks.budget(soft_timeout)):
                print(line)
            return 0
        for name in chosen:
            librarians.get(name, removed=True)  # a name that is mistyped is no run
        tally = Tally()
        with tasks.run(frame, node, "incoming-transfer-hypervisor", ",".join(sorted(chosen)), tally):
            hypervising.settle_incoming(node, chosen, age, tasks.budget(soft_timeout), tally)
        return tasks.finish(frame, tally)
