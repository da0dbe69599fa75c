"""What the background tasks did, and how long that and finished transfers are remembered."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from peewee import SQL, fn

from libtool.archive.hands import Host, Tally
from libtool.models.base import among, writing
from libtool.models.tables import (
    IncomingTransfer,
    OutgoingTransfer,
    RouteFile,
    RouteRemoval,
    RouteTask,
    SendQueue,
    TaskRun,
)

#: Rows of history that one run removes at most.
PRUNE = 1000


@contextmanager
def recorded(
    host: Host, command: str, target: str, tally: Tally, code: Callable[[BaseException], int]
) -> Iterator[None]:
    """Record one run of a task, also when it ends with an exception (``code`` tells its exit code).

    A run without work is only counted in the row of the run before it, if that had none either.
    """
    started, exit_code = host.now(), 1
    try:
        yield
        exit_code = tally.exit_code
    except BaseException as trouble:
        exit_code = code(trouble)
        raise
    finally:
        _write(host, command, target, tally, started, exit_code)


def _write(host: Host, command: str, target: str, tally: Tally, started: object, exit_code: int) -> None:
    now = host.now()
    last = (
        TaskRun.select().where(TaskRun.command == command, TaskRun.target == target).order_by(TaskRun.id.desc()).first()
    )
    with writing("run"):
        if tally.idle and exit_code == 0 and last is not None and last.idle_runs:
            TaskRun.update(ended=now, idle_runs=TaskRun.idle_runs + 1).where(TaskRun.id == last.id).execute()
            return
        TaskRun.create(
            command=command,
            target=target,
            host=os.uname().nodename,
            started=started,
            ended=now,
            exit_code=exit_code,
            done=tally.done,
            failed=tally.failed,
            postponed=tally.postponed,
            idle_runs=int(tally.idle and exit_code == 0),
        )


def prune(host: Host) -> None:
    """Forget a small portion of what ended longer ago than ``history_days``; what is known of copies is never touched."""
    before = host.now() - timedelta(days=host.settings.history_days)
    for table in (OutgoingTransfer, IncomingTransfer):
        old = (
            table.select(table.id)
            .where(table.status >= SQL("3"), table.end_time < before, table.owed == 0)
            .limit(PRUNE)
        )
        ids = [row.id for row in old]
        if ids:
            with writing("prune"):
                table.delete().where(among(table.id, ids)).execute()
    used = OutgoingTransfer.select(SQL("1")).where(OutgoingTransfer.queue == SendQueue.id)
    items = [
        row.id
        for row in SendQueue.select(SendQueue.id)
        .where(SendQueue.status >= SQL("3"), SendQueue.end_time < before, ~fn.EXISTS(used))
        .limit(PRUNE)
    ]
    if items:
        with writing("prune"):
            SendQueue.delete().where(among(SendQueue.id, items)).execute()
    for ended, used in (
        (RouteRemoval, None),
        (RouteTask, RouteFile.select(SQL("1")).where(RouteFile.task == RouteTask.id)),
    ):
        over = (ended.status >= SQL("6" if used is None else "3")) & (ended.end_time < before)
        ids = [
            row.id
            for row in ended.select(ended.id).where(over if used is None else over & ~fn.EXISTS(used)).limit(PRUNE)
        ]
        if ids:
            with writing("prune"):
                ended.delete().where(among(ended.id, ids)).execute()
    runs = [row.id for row in TaskRun.select(TaskRun.id).where(TaskRun.ended < before).limit(PRUNE)]
    if runs:
        with writing("prune"):
            TaskRun.delete().where(among(TaskRun.id, runs)).execute()


def latest() -> list[TaskRun]:
    """The last run of every command and target."""
    newest = TaskRun.select(TaskRun.id).order_by(TaskRun.id.desc()).limit(2000)
    seen: dict[tuple[str, str], TaskRun] = {}
    for run in TaskRun.select().where(TaskRun.id << newest).order_by(TaskRun.id.desc()):
        seen.setdefault((run.command, run.target), run)
    return sorted(seen.values(), key=lambda run: (run.command, run.target))
