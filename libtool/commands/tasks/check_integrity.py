"""``check-integrity``: re-read copies on a budget, the riskiest first."""

from __future__ import annotations

from datetime import timedelta

import click

from libtool.archive import checking, places
from libtool.archive.hands import Tally
from libtool.commands.tasks import frame as tasks
from libtool.commands.words import Days, Frame, Size, pass_frame, show, with_format


@click.command()
@click.option("--store", "stores", multiple=True, metavar="STORE", help="Only this one; may be repeated.")
@click.option(
    "--age-in-days",
    type=Days(min=0),
    default=30.0,
    show_default=True,
    help="Copies that were not read for so long.",
)
@click.option("--bytes", "most", type=Size(), help="Read no more than this in one run, such as 20T.")
@click.option("--believe", is_flag=True, help="Record what is found even when too much turns bad at once.")
@click.option(
    "--unrecorded", is_flag=True, help="Only list what lies in the stores and is not in the catalogue; nothing is read."
)
@tasks.task_options
@with_format
@pass_frame
def check_integrity(
    frame: Frame,
    stores: tuple[str, ...],
    age_in_days: float,
    most: int | None,
    believe: bool,
    unrecorded: bool,
    soft_timeout: float,
    dry_run: bool,
) -> int:
    """Read copies in the stores and compare them with what was recorded, the riskiest first.

    What neighbours wait for comes first, then files of which few copies are known, then what was read longest ago. A copy
    that is damaged or missing is told once and not counted any more; corruption-fixer gets it anew. When too many of a
    store turn bad at once, none is marked and a person must look (exit code 4).
    """
    wish = checking.Wish(timedelta(days=age_in_days), most, believe)
    with frame.open() as node:
        if unrecorded:
            rows = checking.unrecorded(node, stores)
            show(frame, list(rows), ["store", "name", "why"])
            return 0
        if dry_run:
            for line in checking.plan(node, stores, wish):
                print(line)
            return 0
        for name in stores:
            places.get(name)  # a name that is mistyped is no run
        tally = Tally()
        with (
            tasks.run(frame, node, "check-integrity", ",".join(sorted(stores)), tally),
            tasks.Bar(frame, "reading", None) as bar,
        ):
            checking.check(node, stores, wish, tasks.budget(soft_timeout), tally, bar)
        return tasks.finish(frame, tally)
