"""The frame that makes a command a background task.

Lock, time budget, run record, silence, exit codes, ``--dry-run``: everything that is the same for all of them, so that
a task is nothing but its options and one call into the archive.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import click

from libtool.archive import notices, outbox, runs
from libtool.archive.hands import Budget, Tally
from libtool.commands.words import Frame, Span, dry_run
from libtool.errors import LibtoolError, LockTaken
from libtool.node import Node

F = TypeVar("F", bound=Callable[..., Any])
#: Lines that one run prints; the rest is in ``libtool status``.
LINES = 40


def task_options(command: F) -> F:
    """The options that every task has."""
    budget = click.option(
        "--soft-timeout",
        type=Span(),
        default="10m",
        show_default=True,
        help="Begin nothing new after this time; the next run goes on.",
    )
    return budget(dry_run(command))


@contextmanager
def run(frame: Frame, node: Node, command: str, target: str, tally: Tally) -> Iterator[None]:
    """Hold the task's lock for ``target`` and record the run; LockTaken when another run is at it.

    Afterwards, with and without success, mail is handed over that waits.
    """
    try:
        with (
            node.lock(f"{command}-{target}" if target else command),
            runs.recorded(node, command, target, tally, exit_code),
        ):
            yield
            notices.outlived(node, tally)
            runs.prune(node)
    except LockTaken:
        raise
    except Exception:
        with suppress(Exception):  # what was wrong before is what counts
            outbox.deliver(node, tally)
        raise
    outbox.deliver(node, tally)


def each(
    frame: Frame,
    node: Node,
    command: str,
    targets: Sequence[str],
    seconds: float,
    deed: Callable[[str, Tally, Budget], None],
) -> int:
    """Do the same for several targets, each under its own lock and with its own record; what is wrong with one delays
    no other. LockTaken when all of them are being worked on by other runs."""
    codes, taken, total = [0], 0, budget(seconds)
    for n, target in enumerate(targets):
        tally = Tally()
        try:
            with run(frame, node, command, target, tally):
                deed(target, tally, total.share(len(targets) - n))
        except LockTaken:
            taken += 1
            continue
        except LibtoolError as trouble:
            if len(targets) == 1:
                raise
            frame.tell(f"{target}: {trouble.text}")
            codes.append(trouble.exit_code)
            continue
        codes.append(finish(frame, tally))
    if targets and taken == len(targets):
        raise LockTaken(lock=command)
    return max(codes)


def exit_code(trouble: BaseException) -> int:
    """The exit code that an exception will become."""
    if isinstance(trouble, LibtoolError):
        return trouble.exit_code
    return 130 if isinstance(trouble, KeyboardInterrupt) else 143 if not isinstance(trouble, Exception) else 1


def budget(seconds: float) -> Budget:
    """The time that a run has."""
    return Budget(seconds, time.monotonic)


def finish(frame: Frame, tally: Tally) -> int:
    """Say what a person must know, and return the exit code."""
    # Cron would mail a second time what was mailed.
    told = frozenset[str]() if frame.verbosity > 0 or sys.stderr.isatty() else tally.mailed
    lines = [line for line in tally.lines if line not in told]
    for line in lines[:LINES]:
        frame.tell(line)
    if len(lines) > LINES:
        frame.tell(f"and {len(lines) - LINES} more; 'libtool status' shows what waits")
    for line in tally.details[:LINES]:
        frame.say(line)
    if not tally.idle:
        frame.say(f"{tally.done} done, {tally.failed} failed, {tally.postponed} postponed")
    return tally.exit_code


class Bar:
    """A progress bar on a terminal, nothing anywhere else."""

    def __init__(self, frame: Frame, title: str, total: int | None) -> None:
        self._frame, self._title, self._total = frame, title, total
        self._bar: Any = None

    def __enter__(self) -> Bar:
        if sys.stderr.isatty() and self._frame.verbosity >= 0:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total)
        return self

    def __call__(self, done: int) -> None:
        if self._bar is not None:
            self._bar.advance(self._task, done)

    def __exit__(self, *trouble: object) -> None:
        if self._bar is not None:
            self._bar.stop()
