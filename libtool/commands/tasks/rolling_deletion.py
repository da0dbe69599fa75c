"""``rolling-deletion``: let copies go of which enough others are proved."""

from __future__ import annotations

from datetime import timedelta
from itertools import chain

import click

from libtool.archive import deleting, places, removing
from libtool.archive.hands import Tally
from libtool.commands.tasks import frame as tasks
from libtool.commands.words import Days, Frame, Percent, Size, Span, pass_frame
from libtool.errors import Usage

#: How old what holders found may be when they are not to read anew.
RECORDED = 30 * 86400.0


@click.command()
@click.option("--store", metavar="STORE", required=True, help="From which store.")
@click.option("--age-in-days", type=Days(min=0), required=True, help="Only copies that came in longer ago.")
@click.option(
    "--number-of-remote-copies",
    "copies",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    help="Other copies that must be proved, each in another store of a neighbour.",
)
@click.option(
    "--verify-downstream-checksums/--no-verify-downstream-checksums",
    "verify",
    default=True,
    show_default=True,
    help="Have the holders read their copies now; without it what they read within --max-age counts.",
)
@click.option(
    "--max-age",
    type=Span(),
    help="Believe what a holder has read no longer ago; default: nothing, or 30 days with --no-verify-….",
)
@click.option(
    "--mark-unavailable/--remove-rows",
    "remember",
    default=True,
    show_default=True,
    help="Remember the copy as one that is gone, or only its removal.",
)
@click.option(
    "--keep-days",
    type=Days(min=0),
    default=7.0,
    show_default=True,
    help="How long its bytes stay set aside, where restore-instance finds them.",
)
@click.option("--start-below", type=Percent(), help="Only when less than this is free in the store, such as 10%.")
@click.option("--stop-above", type=Percent(), help="Then only until this will be free; default: as --start-below.")
@click.option(
    "--max-files", type=click.IntRange(min=1), default=100_000, show_default=True, help="No more files in one run."
)
@click.option("--max-bytes", type=Size(), help="No more bytes in one run, such as 20T.")
@tasks.task_options
@pass_frame
def rolling_deletion(
    frame: Frame,
    store: str,
    age_in_days: float,
    copies: int,
    verify: bool,
    max_age: float | None,
    remember: bool,
    keep_days: float,
    start_below: float | None,
    stop_above: float | None,
    max_files: int,
    max_bytes: int | None,
    soft_timeout: float,
    dry_run: bool,
) -> int:
    """Let copies in a store go that are old enough, and of which enough other copies were read and found right.

    Only what a copy's holder itself says counts, each copy once; whatever is unknown, too old or different keeps ours. A
    copy that a transfer reads stays, and one whose deletion policy is disallowed. What goes is set aside first and
    purged after --keep-days, when the other copies were proved once more.
    """
    if stop_above is not None and (start_below is None or stop_above < start_below):
        raise Usage(why="--stop-above needs a smaller --start-below", command="rolling-deletion")
    wish = deleting.Wish(
        age=timedelta(days=age_in_days),
        copies=copies,
        max_age=max_age if max_age is not None else 0.0 if verify else RECORDED,
        forget=not remember,
        keep=timedelta(days=keep_days),
        start=start_below,
        stop=stop_above,
        most_files=max_files,
        most_bytes=max_bytes,
    )
    with frame.open() as node:
        row = places.get(store)
        if not row.enabled:
            frame.say(f"the store {store} is disabled")
            return 0
        if dry_run:
            for line in chain(deleting.plan(node, row, wish), deleting.staying(node, row, wish)):
                print(line)
            return 0
        tally = Tally()
        with (
            tasks.run(frame, node, "rolling-deletion", store, tally),
            tasks.Bar(frame, "deciding", None) as bar,
        ):
            warrant = removing.Warrant(removing.actor("rolling-deletion"), copies, wish.keep, wish.forget)
            deleting.delete(node, row, wish, warrant, tasks.budget(soft_timeout), tally, bar)
            if frame.verbosity > 0 and not tally.postponed:  # else the store may be away
                tally.details += deleting.staying(node, row, wish)
        return tasks.finish(frame, tally)
