"""``delete``: remove from the source of routes what has arrived at their destinations."""

from __future__ import annotations

import click

from libtool.archive import clearing, routes
from libtool.archive.hands import Budget, Tally
from libtool.commands.tasks import frame as tasks
from libtool.commands.words import Frame, pass_frame


@click.command()
@click.argument("route", nargs=-1, metavar="[ROUTE]...")
@click.option("--put-back", is_flag=True, help="Bring back all that was set aside and is not removed yet, instead.")
@tasks.task_options
@pass_frame
def delete(frame: Frame, route: tuple[str, ...], put_back: bool, soft_timeout: float, dry_run: bool) -> int:
    """Remove from the source of each ROUTE (default: all) what arrived and was kept for keep_seconds: it is set aside,
    compared with the destination byte for byte, and removed when both are the same. What changed stays."""
    with frame.open() as node:
        names = routes.named(node, route)
        if dry_run:
            budget = tasks.budget(soft_timeout)
            for name in names:
                mirror = routes.mirror(node, name, make=False, former=put_back)
                for line in clearing.plan(node, mirror, budget, put_back=put_back) if mirror is not None else ():
                    print(f"{name}: {line}")
            return 0

        def deed(name: str, tally: Tally, budget: Budget) -> None:
            routes.tell_former(node, tally)
            mirror = routes.for_task(node, name, tally, make=False, former=put_back)
            if mirror is not None:
                clearing.Clearing(node, mirror, budget, tally, "delete").run(put_back=put_back)

        return tasks.each(frame, node, "delete", names, soft_timeout, deed)
