"""``delete-instance``: take one copy out of a store, by a person's wish."""

from __future__ import annotations

import sys
from datetime import timedelta

import click

from libtool.archive import by_hand, removing
from libtool.archive.hands import Tally
from libtool.commands.tasks.frame import budget, finish
from libtool.commands.words import Days, Frame, Span, dry_run, pass_frame
from libtool.errors import Usage
from libtool.names import shown


@click.command()
@click.argument("name", metavar="FILE-NAME")
@click.option("--store", metavar="STORE", required=True, help="Which copy.")
@click.option("--reason", metavar="TEXT", default="", help="Why; it is kept on record.")
@click.option(
    "--number-of-remote-copies", "copies", type=click.IntRange(1, 100), default=1, show_default=True, help="As there."
)
@click.option("--max-age", type=Span(), default="0s", help="Believe what a holder has read no longer ago.")
@click.option("--keep-days", type=Days(min=0), default=7.0, show_default=True, help="How long it can be brought back.")
@click.option("--force", is_flag=True, help="Even the last copy, whatever its deletion policy; none is proved, ever.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@dry_run
@pass_frame
def delete_instance(
    frame: Frame,
    name: str,
    store: str,
    reason: str,
    copies: int,
    max_age: float,
    keep_days: float,
    force: bool,
    yes: bool,
    dry_run: bool,
) -> int:
    """Take our copy of a file out of a store, if enough other copies were read and found right.

    It is set aside first, and can be brought back with restore-instance; rolling-deletion purges it after --keep-days.
    With --force nobody is asked whether there are others, neither now nor before the purge: that may be the last copy.
    """
    if force and not yes and not dry_run:
        if not sys.stdin.isatty():
            raise Usage(why="--force asks, and nobody is there to answer; add --yes", command="delete-instance")
        with frame.open() as node:
            lines = by_hand.cautions(node, name, store, timedelta(days=keep_days))
        for line in lines:
            frame.tell(f"'{name}' in {store}: {line}")
        click.confirm(f"Delete the copy of '{name}' in {store} all the same?", abort=True, err=True)
    who = removing.actor("delete-instance")
    warrant = removing.Warrant(who, 0 if force else copies, timedelta(days=keep_days), forced=force)
    tally = Tally()
    with frame.open() as node:
        reasons = by_hand.delete_one(
            node, name, store, warrant, max_age, reason, budget(86400), tally, really=not dry_run
        )
    for line in reasons:
        frame.tell(f"'{name}' stays in {store}: {line}")
    if not reasons and dry_run:
        print(f"'{shown(name)}' may go")
    elif not reasons:
        frame.say(f"'{name}' was set aside")
    return max(finish(frame, tally), 3 if reasons else 0)
