"""``create-local-clone``: give what lies in one store a second copy in another."""

from __future__ import annotations

import click

from libtool.archive import local_clones
from libtool.archive.hands import Tally
from libtool.commands.tasks import frame as tasks
from libtool.commands.words import Days, Frame, pass_frame


@click.command()
@click.option("--clone-from", required=True, metavar="STORE", help="The store whose copies are read.")
@click.option(
    "--clone-to",
    required=True,
    multiple=True,
    metavar="STORE",
    help="Where the second copies go; may be repeated: the first with room that is enabled and mounted.",
)
@click.option(
    "--age-in-days",
    type=Days(min=0),
    metavar="DAYS",
    help="Only copies that came in less than so many days ago; default: all.",
)
@click.option(
    "--files-per-run", type=click.IntRange(min=1), default=1024, show_default=True, help="Copy at most so many."
)
@click.option("--disable-store-on-full", is_flag=True, help="Switch off a store that has no room for the next file.")
@tasks.task_options
@pass_frame
def create_local_clone(
    frame: Frame,
    clone_from: str,
    clone_to: tuple[str, ...],
    age_in_days: float | None,
    files_per_run: int,
    disable_store_on_full: bool,
    soft_timeout: float,
    dry_run: bool,
) -> int:
    """Copy what lies in one store and in none of the others, prove each copy by reading it, and record it.

    A store that is filled so need not be ingestible: a disk that is to travel is not. A copy that cannot be read, or
    is not what was recorded, is named, and left alone until check-integrity has read it.
    """
    wish = local_clones.Wish(clone_from, clone_to, age_in_days, files_per_run, disable_store_on_full)
    with frame.open() as node:
        if dry_run:
            for line in local_clones.plan(node, wish):
                print(line)
            return 0
        local_clones.stores_of(wish)  # a name that is mistyped is no run
        tally = Tally()
        target = f"{clone_from} to {','.join(clone_to)}"
        with (
            tasks.run(frame, node, "create-local-clone", target, tally),
            tasks.Bar(frame, "copying", None) as bar,
        ):
            local_clones.create(node, wish, tasks.budget(soft_timeout), tally, bar)
        return tasks.finish(frame, tally)
