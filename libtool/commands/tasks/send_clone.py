"""``send-clone``: choose what a destination lacks, stage it there, queue it."""

from __future__ import annotations

import click

from libtool.archive import librarians, notices, outbox, sending
from libtool.archive.hands import Tally
from libtool.archive.staging import Wish
from libtool.commands.tasks import frame as tasks
from libtool.commands.words import Days, Frame, pass_frame
from libtool.errors import LockTaken, UnknownLibrarian, Usage
from libtool.node import Node


@click.command()
@click.option(
    "--destination-librarian", "destinations", multiple=True, metavar="NAME", help="To whom; may be repeated."
)
@click.option("--age-in-days", type=Days(min=0, min_open=True), help="Only files that came in less than N days ago.")
@click.option("--store-preference", metavar="STORE", help="Read from this store where it has a copy.")
@click.option(
    "--send-batch-size",
    type=click.IntRange(1, 5000),
    default=1000,
    show_default=True,
    help="Files in one request and one queue item.",
)
@tasks.task_options
@pass_frame
def send_clone(
    frame: Frame,
    destinations: tuple[str, ...],
    age_in_days: float | None,
    store_preference: str | None,
    send_batch_size: int,
    soft_timeout: float,
    dry_run: bool,
) -> int:
    """Choose the files that the named destinations lack, ask for staging places there, and queue them.

    A destination must be named, here or under 'commands: send-clone:' in the configuration. A disabled one is passed
    over. One that does not answer delays no other.
    """
    with frame.open() as node:
        if not destinations:
            raise Usage(why="send-clone needs --destination-librarian NAME", command="send-clone")
        rows, codes = [], []
        for name in dict.fromkeys(destinations):
            try:
                rows.append(librarians.get(name))
            except UnknownLibrarian as trouble:
                if librarians.is_removed(name) and not dry_run:  # it may come back: told like any other trouble
                    codes.append(_gone(frame, node, name))
                    continue
                if len(destinations) == 1:
                    raise
                frame.tell(trouble.text)  # the others are served all the same
                codes.append(3)
        wish = Wish(age_in_days, store_preference, send_batch_size)
        if dry_run:
            for row in (row for row in rows if row.transfers_enabled):
                for line in sending.plan(node, row, wish):
                    print(line)
            return 0
        taken = 0
        total = tasks.budget(soft_timeout)
        for n, row in enumerate(rows):
            if not row.transfers_enabled:
                frame.say(f"{row.name}: transfers are disabled")
                continue
            tally = Tally()
            share = soft_timeout if len(rows) == 1 else max(1.0, soft_timeout / (len(rows) - n))
            try:
                with (
                    tasks.run(frame, node, "send-clone", row.name, tally),
                    tasks.Bar(frame, f"to {row.name}", None) as bar,
                ):
                    if total.left:
                        sending.send(node, row, wish, tasks.budget(share), tally, bar)
            except LockTaken:
                taken += 1
                continue
            codes.append(tasks.finish(frame, tally))
        if rows and taken == len(rows):
            raise LockTaken(lock="send-clone")
        return max(codes, default=0)


def _gone(frame: Frame, node: Node, name: str) -> int:
    tally = Tally(postponed=1)
    text = f"it was removed: take it out of send-clone's destinations, or run 'libtool add-librarian --name {name} …'"
    notices.trouble(node, tally, f"librarian {name}", "removed", text)
    outbox.deliver(node, tally)
    return tasks.finish(frame, tally)
