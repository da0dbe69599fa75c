"""``reconcile``: compare what neighbours hold with what is recorded, and settle what differs."""

from __future__ import annotations

import click

from libtool.archive import librarians, reconciling
from libtool.archive.hands import Tally
from libtool.commands.tasks import frame as tasks
from libtool.commands.words import Frame, pass_frame


@click.command()
@click.option("--librarian", "chosen", multiple=True, metavar="NAME", help="Only with this one; may be repeated.")
@tasks.task_options
@pass_frame
def reconcile(frame: Frame, chosen: tuple[str, ...], soft_timeout: float, dry_run: bool) -> int:
    """Compare with neighbours which files each thinks that the other has.

    What lies here and a neighbour knows of, but not this catalogue, is read and recorded by recv-clone. What a
    neighbour is thought to have and does not know is sent again. That differs after a restore from a backup: run it at
    the restored librarian first, then at its neighbours. Copies are not read; that is for other tasks.
    """
    with frame.open() as node:
        if dry_run:
            for line in reconciling.plan(node, chosen, tasks.budget(soft_timeout)):
                print(line)
            return 0
        for name in chosen:
            librarians.get(name)  # a name that is mistyped is no run
        tally = Tally()
        with (
            tasks.run(frame, node, "reconcile", ",".join(sorted(chosen)), tally),
            tasks.Bar(frame, "comparing", None) as bar,
        ):
            reconciling.reconcile(node, chosen, tasks.budget(soft_timeout), tally, bar)
        return tasks.finish(frame, tally)
