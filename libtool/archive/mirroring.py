"""``transfer``: bringing what is new at a route's source to its destination.

The destination becomes a superset of the source: nothing is ever removed there. Nothing new means no task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from peewee import Expression, fn

from libtool.archive import notices, replacing, routes
from libtool.archive.errands import UNTOLD, Errands, part
from libtool.archive.hands import Budget, Host, Tally
from libtool.archive.hindrances import FRUITLESS, Step
from libtool.archive.leaving import tell_late
from libtool.archive.looking import Look, shorten
from libtool.archive.replacing import Again
from libtool.archive.routes import Mirror
from libtool.models.base import among, raw_rows, writing
from libtool.models.tables import RouteDirectory, RouteFile, RouteTask, open_tasks
from libtool.names import shown
from libtool.states import Deed, MirrorStatus, QueueStatus
from libtool.units import counted

DEEDS = (Deed.SEND, Deed.COMPARE)
#: After so many failed attempts a file is told of as one that will not go.
WILL_NOT_GO = 3
#: Files that are looked up at once.
PORTION = 2000


def transfer(host: Host, mirror: Mirror, budget: Budget, tally: Tally) -> None:
    """Learn what arrived, look at the source, and send what is new and keeps still."""
    errands = Errands(host, mirror, tally, DEEDS, "transfer")
    if mirror.former:
        errands.finish(budget)
        errands.way.settle(False)
        return
    errands.learn(budget)
    errands.redirect()
    errands.ship(budget)  # what an earlier run began
    looked = Look(host, mirror)
    again = Again()
    if not errands.way.closed and errands.way.guarded(Step.LOOK, lambda: looked.go(budget)):
        _send(mirror, budget, errands, again)
    failing = routes.failing(mirror.row)
    if not failing:
        notices.over(host, tally, mirror.subject, f"{FRUITLESS} send")
    errands.way.settle(failing)
    _tell(host, mirror, looked, tally)
    again.tell(host, mirror, tally)
    tell_late(host, mirror, tally)
    _tell_elsewhere(host, mirror, tally)


def _send(mirror: Mirror, budget: Budget, errands: Errands, again: Again) -> None:
    """Make tasks of what kept still, and submit each at once: a task that waits would only grow old."""
    still = (RouteFile.route == mirror.row.id) & (RouteFile.status == MirrorStatus.STABLE)
    fresh, most = RouteFile.not_before.is_null(), int(mirror.wanted.max_files)
    # Of those that were tried before one may keep the others of its task from arriving.
    kinds = (
        (Deed.SEND, still & ~RouteFile.doubt & fresh, True),
        (Deed.COMPARE, still & RouteFile.doubt & fresh, True),
        (Deed.SEND, still & ~RouteFile.doubt & ~fresh, False),
        (Deed.COMPARE, still & RouteFile.doubt & ~fresh, False),
    )
    for deed, stable, first in kinds:
        count = most if first else part(RouteFile.select().where(stable).count(), most)
        if not first and 2 * errands.slots < int(errands.host.settings.max_async_inflight_transfers):
            continue  # many small tasks that may fail again take no room from those that were not tried
        for ids in _ready(mirror, stable, count, again):
            if not budget.left or not errands.way.smooth or errands.slots <= 0:
                return
            _form(errands, deed, stable, ids)
            errands.ship(budget)
    again.complete = True


def _form(errands: Errands, deed: Deed, stable: Expression, ids: list[int]) -> None:
    """Make one task of these files, if they still keep still."""
    with writing("route: task"):
        task = errands.make(deed, len(ids), 0)
        taken = RouteFile.update(status=MirrorStatus.SENDING, task=task.id).where(stable, among(RouteFile.id, ids))
        taken.execute()
        mine = RouteFile.select(fn.COUNT(RouteFile.id), fn.SUM(RouteFile.size)).where(RouteFile.task == task.id)
        count, size = next(iter(raw_rows(mine)))
        RouteTask.update(files=count, size=int(size or 0)).where(RouteTask.id == task.id).execute()


def _ready(mirror: Mirror, stable: Expression, most: int, again: Again) -> Iterator[list[int]]:
    """These files in portions for a task each, but for those whose former content still lies aside: what the destination
    has under their names is its only proof until it is removed, and it would replace them when it comes back. Once it is
    removed, what the destination has may be its only copy."""
    ready, after = list[int](), 0
    query = RouteFile.select(RouteFile.id, RouteDirectory.path, RouteFile.name).join(RouteDirectory)
    while True:
        rows = raw_rows(query.where(stable, RouteFile.id > after).order_by(RouteFile.id).limit(PORTION))
        paths = {id: f"{directory}/{name}".lstrip("/") for id, directory, name in rows}
        if not paths:
            break
        aside = replacing.aside(mirror.row, paths.values())
        held = replacing.held(mirror.wanted, [path for path in paths.values() if path not in aside])
        again.add(held)
        ready += [id for id, path in paths.items() if path not in aside and path not in held]
        after = max(paths)
        while len(ready) >= most:
            yield ready[:most]
            del ready[:most]
    if ready:
        yield ready


def _tell(host: Host, mirror: Mirror, look: Look, tally: Tally) -> None:
    """What a person should know about the source and its files."""
    ledger = notices.Ledger("source")
    if look.unreadable:
        more = f" (and {len(look.unreadable) - 1} more)" if len(look.unreadable) > 1 else ""
        ledger.note(mirror.subject, "unreadable", look.unreadable[0] + more)
        tally.postponed += len(look.unreadable)
    if look.strangers:
        what = "is" if look.strangers == 1 else "are"
        text = (
            f"{look.strangers} {what} not mirrored, since links, special files and names that are no UTF-8 or have line"
        )
        text += f" breaks cannot be: {shorten(look.strange)}. Name them under 'exclude' to be told no more"
        ledger.note(mirror.subject, "strange", text)
    if look.complete:
        ledger.well(mirror.subject)
    # A look that took several runs has met in an earlier one what it did not meet in this.
    lasted = (host.now() - look.begun).total_seconds() + host.settings.notice_after
    ledger.settle(host, tally, lambda about: False, lambda about: lasted)
    count, one = routes.will_not_go(mirror.row, WILL_NOT_GO)
    if one is not None:
        path = f"{one.directory.path}/{one.name}".lstrip("/")
        text = f"{counted(count, 'file')} will not go, such as '{shown(path)}': {one.reason or UNTOLD}"
        text = f"{text.removesuffix('.')}. All are tried again by themselves; 'libtool status --waiting' names them"
        notices.trouble(host, tally, mirror.subject, "files", text, at_once=True)
    else:
        notices.over(host, tally, mirror.subject, "files")


def _tell_elsewhere(host: Host, mirror: Mirror, tally: Tally) -> None:
    """Tell of files that arrived at a former destination of the route: they are neither sent to the present one nor
    removed, until somebody says so."""
    count, where = routes.elsewhere(mirror.row, mirror.wanted)
    if not count:
        notices.over(host, tally, mirror.subject, "elsewhere")
        return
    text = f"{counted(count, 'file')} arrived at the former destination {where}; nothing is sent from there to {mirror.wanted.dst_dir},"
    text += f" and nothing of that removed here. 'libtool reset {mirror.row.name}' has everything sent to {mirror.wanted.dst_dir}. If"
    text += " that is a mistake, correct dst_id and dst_dir"
    notices.trouble(host, tally, mirror.subject, "elsewhere", text)


def plan(host: Host, mirror: Mirror, budget: Budget, tell: Callable[[str], None]) -> None:
    """Look at the source and tell what a run would find there, a line each; nothing is written."""
    for deed in open_tasks_of(mirror):
        tell(deed)
    if mirror.former:
        return
    found: list[tuple[str, str, int]] = []

    def show() -> None:
        paths = {path for _, path, _ in found}
        aside = replacing.aside(mirror.row, paths)
        held = replacing.held(mirror.wanted, paths - aside)
        for word, path, size in found:
            stays = " (stays while a former file of its name lies aside)" if path in aside else ""
            stays = " (stays, since its name is that of a file that was removed here)" if path in held else stays
            tell(f"{word}: {shown(path)}, {size} bytes{stays}")
        found.clear()

    def gather(word: str, path: str, size: int) -> None:
        found.append((word, path, size))
        if len(found) >= PORTION:
            show()

    Look(host, mirror, gather).go(budget)
    show()


def open_tasks_of(mirror: Mirror) -> Iterator[str]:
    """The tasks that are not over, a line each."""
    mine = (RouteTask.route == mirror.row.id) & (RouteTask.deed << DEEDS) & open_tasks()
    for task in RouteTask.select().where(mine).order_by(RouteTask.id):
        what = "submit" if task.status < QueueStatus.IN_FLIGHT else "ask about"
        yield f"{what} task {task.id}: {task.files} files, {task.size} bytes"
