"""``outgoing-transfer-hypervisor``: settle what was sent and did not come to an end."""

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
    default=machine.OUTGOING_AGE / timedelta(days=1),
    show_default=True,
    help="Only those that began longer ago.",
)
@click.option("--librarian", "chosen", multiple=True, metavar="NAME", help="Only with this one; may be repeated.")
@tasks.task_options
@pass_frame
def outgoing_transfer_hypervisor(
    frame: Frame, age_in_days: float, chosen: tuple[str, ...], soft_timeout: float, dry_run: bool
) -> int:
    """Settle transfers to other librarians that have not ended for days, with their destinations.

    A file that is there is recorded; one that the destination neither has nor expects is sent again; one of which it was
    not told is told again; where it has other content it is parked. What is under way, what lies staged there and what
    travels by hand is left alone, and so is everything of which could not be found out how far it is.
    """
    age = timedelta(days=age_in_days)
    with frame.open() as node:
        if dry_run:
            for line in hypervising.plan_outgoing(node, chosen, age, tasks.budget(soft_timeout)):
                print(line)
            return 0
        for name in chosen:
            librarians.get(name)  # a name that is mistyped is no run
        tally = Tally()
        with tasks.run(frame, node, "outgoing-transfer-hypervisor", ",".join(sorted(chosen)), tally):
            hypervising.settle_outgoing(node, chosen, age, tasks.budget(soft_timeout), tally)
        return tasks.finish(frame, tally)
