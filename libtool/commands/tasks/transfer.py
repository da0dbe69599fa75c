"""``transfer``: bring what is new at the source of routes to their destinations."""

from __future__ import annotations

from functools import partial

import click

from libtool.archive import learning, mirroring, routes
from libtool.archive.hands import Budget, Tally
from libtool.commands.tasks import frame as tasks
from libtool.commands.words import Frame, pass_frame


@click.command()
@click.argument("route", nargs=-1, metavar="[ROUTE]...")
@tasks.task_options
@pass_frame
def transfer(frame: Frame, route: tuple[str, ...], soft_timeout: float, dry_run: bool) -> int:
    """Mirror the source of each ROUTE (default: all of the configuration) to its destination: new and changed files that
    keep still, each proved to have arrived. Nothing is removed anywhere."""
    with frame.open() as node:
        names = routes.named(node, route)
        if dry_run:
            for name in names:
                mirror = routes.mirror(node, name, make=False) or routes.unseen(node, name)
                mirroring.plan(node, mirror, tasks.budget(soft_timeout), partial(print, f"{name}:"))
            return 0

        def deed(name: str, tally: Tally, budget: Budget) -> None:
            routes.tell_former(node, tally)
            mirror = routes.for_task(node, name, tally)
            if mirror is not None:
                mirroring.transfer(node, mirror, budget, tally)
            learning.tend(node, tally)

        return tasks.each(frame, node, "transfer", names, soft_timeout, deed)
