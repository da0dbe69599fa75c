"""``delete``: removing from a route's source what has arrived at its destination.

A file that arrived, has not changed since, and was kept for long enough is set aside within the source. There it is
compared with the destination's copy, byte for byte, at both ends. Only then is it removed, if it is still just as it was
set aside. Whatever differs is brought back and sent again. Each step is written down before it is taken, and can be
repeated; what could not be found out changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from libtool.archive import attempts, errands, leaving, notices, replacing
from libtool.archive.emptying import OWNER, clear_away, own_mark
from libtool.archive.errands import Errands
from libtool.archive.hands import Budget, Host, Tally, portions
from libtool.archive.hindrances import FRUITLESS, Step
from libtool.archive.leaving import ARRIVED
from libtool.archive.looking import believable, holds
from libtool.archive.routes import UNSENT, Mirror
from libtool.errors import DirectoryUnreadable, RouteShared
from libtool.models.base import among, birth, insert_rows, raw_rows, update_many, writing
from libtool.models.tables import Route, RouteDirectory, RouteFile, RouteRemoval, RouteTask, clearing
from libtool.names import shown
from libtool.states import ClearingStatus, Deed, MirrorStatus
from libtool.trees.base import ASIDE, Gone, Seen, Tree, Way, absent
from libtool.units import counted, to_microseconds

DEEDS = (Deed.PROVE, Deed.DELETE, Deed.CLEAR)
#: Removals that are decided in one transaction and share a place; they are moved before the next are decided.
PIECE = 2000
#: Files in one place beyond which another is begun.
MOST_IN_PLACE = 20_000
#: How long a comparison counts, and how long one that proved nothing is not repeated.
PROOF_AGE, PROOF_WAIT = timedelta(hours=36), timedelta(hours=1)
#: That copies differ is over when no more were found for so long.
DIFFERED = timedelta(days=1)


class Clearing:
    """One run of ``delete`` for one route."""

    def __init__(self, host: Host, mirror: Mirror, budget: Budget, tally: Tally, actor: str) -> None:
        self.host, self.mirror, self.budget, self.tally = host, mirror, budget, tally
        self.errands = Errands(host, mirror, tally, DEEDS, "delete")
        self._actor = actor
        self._cut = False  #: whether not all that may leave was looked at
        self._row: Route = mirror.row
        self._tree: Tree = mirror.tree

    def run(self, *, put_back: bool = False) -> None:
        """Take everything one step further, and set aside what may go; with ``put_back`` bring back all that lies aside
        instead."""
        mirror = self.mirror
        if mirror.former and not put_back:
            self.errands.finish(self.budget)
            self.errands.way.settle(False)
            return
        self.errands.learn(self.budget)
        self.errands.look_anew(self.budget)
        begin: list[Callable[[], None]] = [self._expect] if put_back else [self._expect, self._alone]
        removing = self._keep if put_back else self._finish_removing
        go_on = [lambda: self.errands.ship(self.budget), self._finish_moving, removing]
        if put_back:
            more = [self._put_back, self._finish_moving, self._release]
        else:
            more = [self._remove, lambda: clear_away(mirror, self.errands, self.budget), self._prove, self._choose]
        for step in [*begin, *go_on, *more]:
            if self.errands.way.closed or not self.budget.left or not self.errands.way.guarded(Step.LOOK, step):
                break
        else:
            self.errands.way.complete()
        self._tell()
        failing = leaving.unanswered(mirror)
        if not failing:
            notices.over(self.host, self.tally, mirror.subject, f"{FRUITLESS} prove")
        # Of RouteShared putting back finds out nothing, and of what stays who did not look at everything.
        stays = ["alike", *(f"awaited {name}" for name in self.host.settings.routes)] if self._cut else []
        self.errands.way.settle(failing, lasting=["RouteShared", *stays] if put_back else stays)

    # -- what is under way -----------------------------------------------------------------------------------------

    def _rows(self, *states: ClearingStatus) -> Iterator[list[RouteRemoval]]:
        """The removals in these states that no task has, place by place."""
        mine = (RouteRemoval.route == self._row.id) & clearing() & (RouteRemoval.status << list(states))
        mine &= RouteRemoval.task.is_null()
        places = RouteRemoval.select(RouteRemoval.place).where(mine).distinct().order_by(RouteRemoval.place)
        for (place,) in list(raw_rows(places)):
            yield list(RouteRemoval.select().where(mine, RouteRemoval.place == place).order_by(RouteRemoval.id))

    def _change(self, rows: Iterable[RouteRemoval], status: ClearingStatus, **more: Any) -> None:
        """Write a new state down."""
        ids = [row.id for row in rows]
        if not ids:
            return
        if status >= ClearingStatus.REMOVED:
            more["end_time"] = self.host.now()
        with writing("removals"):
            RouteRemoval.update(status=status, **more).where(among(RouteRemoval.id, ids), clearing()).execute()
            if status is ClearingStatus.REMOVED:
                self._emptied(rows)
                replacing.remember(self.host, self.mirror, rows)

    def _emptied(self, rows: Iterable[RouteRemoval]) -> None:
        """Their directories may be empty now, because of us."""
        above = sorted({row.path.rpartition("/")[0] for row in rows})
        mine = (RouteDirectory.route == self._row.id) & among(RouteDirectory.path, above)
        RouteDirectory.update(emptied_time=self.host.now()).where(mine).execute()

    def _expect(self) -> None:
        """SourceAbsent when what is known or lies aside is not to be seen: a source that is not mounted looks so."""
        mine = (RouteRemoval.route == self._row.id) & clearing()
        if not holds(self._tree, ""):
            believable(self.mirror)
        if not RouteRemoval.select().where(mine).exists() or holds(self._tree, ASIDE) is not None:
            return
        moved = RouteRemoval.select().where(mine, RouteRemoval.status > ClearingStatus.DECIDED).exists()
        if moved or not holds(self._tree, ""):
            why = f"{ASIDE} is not there, and files that were set aside should be in it. Is the source mounted?"
            why += " If somebody removed that directory, make it anew, and they count as removed"
            raise absent(self._tree.path(""), why)

    def _alone(self) -> None:
        """RouteShared when another catalogue has its mark in the place for what is set aside; ours is there."""
        mine = (RouteRemoval.route == self._row.id) & clearing()
        if RouteRemoval.select().where(mine).exists():
            self._mark()

    def _look_for_others(self) -> None:
        try:
            found = [name for portion in self._tree.list(ASIDE) for name in portion.directories]
        except Gone:
            return
        for name in found:
            if name.startswith(OWNER) and name != own_mark():
                raise RouteShared(path=self._tree.path(""), mark=name)

    def _mark(self) -> None:
        """Leave our mark before anything is set aside, unless another catalogue has: who began stays the only one, until
        it brings everything back. Of two that begin at once, one sees the other's mark, too."""
        self._look_for_others()
        self._tree.make_place(own_mark())
        self._look_for_others()

    def _release(self) -> None:
        """Take our mark away when nothing of ours lies aside, so that another node may remove files from this source. Behind
        a collection nothing can remove just an empty directory: a person does."""
        same = Route.select(Route.id).where(Route.src_id == self._row.src_id, Route.src_dir == self._row.src_dir)
        if self._tree.immediate and not RouteRemoval.select().where(RouteRemoval.route << same, clearing()).exists():
            self._tree.clear_place(own_mark())

    def _finish_moving(self) -> None:
        """Carry out what was decided: set aside, look at it there, bring back."""
        for rows in self._rows(ClearingStatus.DECIDED):
            self._set_aside(rows)
        there = f" to {self.mirror.wanted.dst_id}:{self.mirror.wanted.dst_dir}"
        for rows in self._rows(ClearingStatus.ASIDE, ClearingStatus.PROVED, ClearingStatus.REMOVING):
            if rows := [row for row in rows if not row.evidence.endswith(there)]:
                found = self._tree.aside(rows[0].place)
                gone = [row for row in rows if row.status is ClearingStatus.REMOVING and str(row.id) not in found]
                self._removed(gone)
                over = {row.id for row in gone}
                self._differ([row for row in rows if row.id not in over], "it arrived at a former destination")
        for rows in self._rows(ClearingStatus.RETURNING):
            self._bring_back(rows)

    def _set_aside(self, rows: Sequence[RouteRemoval]) -> None:
        """Move the files of one place aside, then look at them there."""
        place = rows[0].place
        self._tree.make_place(place)
        missing, tried = [], []
        stuck: dict[str, list[RouteRemoval]] = {}
        for row in rows:
            if not self.budget.left:
                break
            try:
                way = self._tree.set_aside(row.path, place, str(row.id))
            except DirectoryUnreadable as trouble:
                stuck.setdefault(trouble.text, []).append(row)
                continue
            tried.append(row)
            if way is Way.MISSING:
                missing.append(row)
        self._stay(stuck)
        found = self._tree.aside(place) if tried else {}
        # Behind a connection that broke, a file may be on its way aside although it seemed to be missing.
        missing = [row for row in missing if str(row.id) not in found]
        self._change(missing, ClearingStatus.RETURNED, reason="it was not there any more")
        moved = [row for row in tried if str(row.id) in found]
        as_sent = [row for row in moved if _same(found[str(row.id)], row, moved=True)]
        for row in as_sent:
            seen = found[str(row.id)]
            row.ctime = seen.ctime if seen else 0
        now = to_microseconds(self.host.now())
        with writing("set aside"):
            values = [(row.id, row.ctime, now) for row in as_sent]
            update_many(RouteRemoval, ["id", "ctime", "aside_time"], values)
        self._change(as_sent, ClearingStatus.ASIDE)
        self.tally.done += len(as_sent)
        same = {row.id for row in as_sent}
        self._differ(row for row in moved if row.id not in same)

    def _stay(self, stuck: Mapping[str, Sequence[RouteRemoval]]) -> None:
        """These could not be set aside: they stay, as files that arrived just now, and are chosen again later."""
        for why, rows in stuck.items():
            self._known_again(rows, MirrorStatus.SENT)
            self._change(rows, ClearingStatus.RETURNED, reason=attempts.brief(why))
            more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
            self.errands.way.note("unmovable", f"{why}{more}", at_once=True)
            self.tally.postponed += len(rows)

    def _known_again(self, rows: Sequence[RouteRemoval], status: MirrorStatus) -> None:
        """Files that are, or are about to be, in their places again are known again: as they were sent, or in doubt, so
        that both ends are compared."""
        above = sorted({row.path.rpartition("/")[0] for row in rows})
        query = RouteDirectory.select(RouteDirectory.path, RouteDirectory.id)
        ids = dict(raw_rows(query.where(RouteDirectory.route == self._row.id, among(RouteDirectory.path, above))))
        now, values = to_microseconds(self.host.now()), []
        tasks = RouteTask.select(RouteTask.id).where(among(RouteTask.id, [row.sent for row in rows]))
        kept = {id for (id,) in raw_rows(tasks)} if status is MirrorStatus.SENT else set()
        for row in rows:
            directory, _, name = row.path.rpartition("/")
            if directory in ids:
                key = (row.size, row.mtime, row.inode, row.ctime)
                sent = row.sent in kept  # else the task is forgotten, and only comparing can tell
                ends = (row.sent, now) if sent else (None, None)
                said = MirrorStatus.SENT if sent else MirrorStatus.SEEN
                values.append((self._row.id, ids[directory], name, *key, int(said), not sent, now, 0, *ends))
        columns = ["route_id", "directory_id", "name", "size", "mtime", "inode", "ctime", "status", "doubt"]
        with writing("known again"):
            insert_rows(RouteFile, [*columns, "seen_time", "attempts", "task_id", "arrived_time"], values, known=True)
            self._doubted(values)

    def _doubted(self, values: Sequence[tuple[Any, ...]]) -> None:
        """A look may have met some of these meanwhile, and taken them for new: they are to be compared all the same."""
        t, ids, by = RouteFile, list[int](), dict[int, dict[str, tuple[int, int]]]()
        for _, directory, name, size, mtime, *_ in values:
            by.setdefault(directory, {})[name] = (size, mtime)
        unsure = (t.status < MirrorStatus.SENDING) & ~t.doubt
        for directory, wanted in by.items():
            met = t.select(t.id, t.name, t.size, t.mtime).where(
                t.directory == directory, among(t.name, list(wanted)), unsure
            )
            ids += [id for id, name, *key in raw_rows(met) if tuple(key) == wanted[name]]
        t.update(doubt=True).where(among(t.id, ids), t.status < MirrorStatus.SENDING).execute()

    def _differ(self, rows: Iterable[RouteRemoval], why: str = "it changed since it was sent") -> None:
        """These are not what was sent: they go back to where they were."""
        rows = list(rows)
        self._change(rows, ClearingStatus.RETURNING, reason=why, task=None)
        self._bring_back(rows)

    def _bring_back(self, rows: Sequence[RouteRemoval]) -> None:
        """Move files back to where they were. They are known there before, since a look that met one first would have it
        sent anew; it forgets those that are not there."""
        self._known_again(rows, MirrorStatus.SEEN)
        back: list[RouteRemoval] = []
        lost: list[RouteRemoval] = []
        kept: list[RouteRemoval] = []
        for row in rows:
            try:
                way = self._tree.bring_back(row.place, str(row.id), row.path)
            except DirectoryUnreadable as trouble:
                self.tally.postponed += 1
                self.errands.way.note("unmovable", trouble.text)
                continue
            {Way.MOVED: back, Way.MISSING: lost, Way.OCCUPIED: kept}[way].append(row)
        self._change(back, ClearingStatus.RETURNED)
        self._change(lost, ClearingStatus.RETURNED, reason="it was in neither place any more")
        for row in back:
            self.tally.details.append(f"'{shown(row.path)}' was put back: {row.reason}")
        self.tally.postponed += len(kept)
        if kept:
            first, more = kept[0], f" (and {len(kept) - 1} more)" if len(kept) > 1 else ""
            where = self._tree.path(f".libtool-aside/{first.place}/{first.id}")
            text = f"'{shown(first.path)}' cannot be put back, since something else lies in its place{more}. Its former"
            self.errands.way.note("occupied", f"{text} content lies at {where}; move one of the two away", at_once=True)

    # -- removing --------------------------------------------------------------------------------------------------

    def _finish_removing(self) -> None:
        """What was to be removed: gone, or still there because the run ended or the task failed."""
        for rows in self._rows(ClearingStatus.REMOVING):
            found = self._tree.aside(rows[0].place)
            self._removed(row for row in rows if str(row.id) not in found)
            rows = [row for row in rows if str(row.id) in found]
            self._remove_rows(self._proved(rows), found)

    def _keep(self) -> None:
        """What was to be removed and is still there stays aside."""
        for rows in self._rows(ClearingStatus.REMOVING):
            found = self._tree.aside(rows[0].place)
            self._removed(row for row in rows if str(row.id) not in found)
            self._change([row for row in rows if str(row.id) in found], ClearingStatus.ASIDE)

    def _removed(self, rows: Iterable[RouteRemoval]) -> None:
        rows = list(rows)
        self._change(rows, ClearingStatus.REMOVED, task=None)
        self.tally.done += len(rows)

    def _remove(self) -> None:
        """Remove what was proved to be the same at both ends."""
        for rows in self._rows(ClearingStatus.PROVED):
            if fresh := self._proved(rows):
                self._remove_rows(fresh, self._tree.aside(fresh[0].place))

    def _proved(self, rows: Sequence[RouteRemoval]) -> list[RouteRemoval]:
        """Those whose comparison still counts; the others are to be compared again."""
        now = self.host.now()  # a time to come is one of a clock that was ahead
        good = [row for row in rows if now - PROOF_AGE <= row.proved_time <= now]
        kept = {row.id for row in good}
        old, why = [row for row in rows if row.id not in kept], "it was compared too long before 'delete' ran again"
        self._change(old, ClearingStatus.ASIDE, proved_time=None, reason=why)
        return good

    def _remove_rows(self, rows: Sequence[RouteRemoval], found: Mapping[str, Seen | None]) -> None:
        """Remove files of one place that are still as they were set aside."""
        self._vanished(row for row in rows if str(row.id) not in found)
        rows = [row for row in rows if str(row.id) in found]
        same = self._unchanged(rows, found)
        if not same:
            return
        if not self._tree.immediate:
            for part in portions(same, self.mirror.wanted.max_files):
                if self.errands.way.closed or self.errands.slots <= 0:
                    return  # they are looked at again right before a task can take them
                self._hand_over(Deed.DELETE, part, ClearingStatus.REMOVING)
            return
        self._change(same, ClearingStatus.REMOVING)
        gone: list[RouteRemoval] = []
        left: list[RouteRemoval] = []
        for row in same:
            seen = found[str(row.id)]
            try:
                why = self._tree.remove(row.place, str(row.id), seen) if seen else "it is no regular file"
            except DirectoryUnreadable as trouble:
                why = trouble.text
            (left if why else gone).append(row)
            row.reason = why or row.reason
        self._removed(gone)
        for row in left:
            self._change([row], ClearingStatus.PROVED, reason=attempts.brief(row.reason))
            self.tally.wait(f"'{shown(row.path)}' stays aside: {row.reason}")

    def _unchanged(self, rows: Sequence[RouteRemoval], found: Mapping[str, Seen | None]) -> list[RouteRemoval]:
        """Those that are still as they were set aside; the others go back."""
        same = [row for row in rows if _same(found[str(row.id)], row)]
        good = {row.id for row in same}
        self._differ(row for row in rows if row.id not in good)
        return same

    def _vanished(self, rows: Iterable[RouteRemoval]) -> None:
        """Somebody else took them away from where they were set aside."""
        rows = list(rows)
        self._change(rows, ClearingStatus.REMOVED, reason="somebody else took it away from where it was set aside")

    def _hand_over(self, deed: Deed, rows: Sequence[RouteRemoval], status: ClearingStatus) -> None:
        """Make a task of removals, and submit it."""
        with writing("route: task"):
            task = self.errands.make(deed, len(rows), sum(row.size for row in rows))
            ids = among(RouteRemoval.id, [row.id for row in rows])
            RouteRemoval.update(status=status, task=task.id).where(ids, RouteRemoval.task.is_null()).execute()
        self.errands.ship(self.budget)

    # -- proving ---------------------------------------------------------------------------------------------------

    def _prove(self) -> None:
        """Have compared with the destination what has lain aside for long enough."""
        now = self.host.now()
        calm = now - timedelta(seconds=self.mirror.wanted.settle_seconds)
        for rows in self._rows(ClearingStatus.ASIDE):
            ahead = [row for row in rows if row.aside_time > now]  # by a clock that was
            self._change(ahead, ClearingStatus.ASIDE, aside_time=now)
            rows = [row for row in rows if row.aside_time <= calm and _rested(row.proved_time, self.host.now())]
            if not rows:
                continue
            found = self._tree.aside(rows[0].place)
            self._vanished(row for row in rows if str(row.id) not in found)
            rows = [row for row in rows if str(row.id) in found]
            same = self._unchanged(rows, found)
            most, again = self.mirror.wanted.max_files, [row for row in same if row.proved_time]
            first = portions([row for row in same if not row.proved_time], most)
            for part in (*first, *portions(again, errands.part(len(again), most))):
                if self.errands.way.closed or self.errands.slots <= 0:
                    return
                self._hand_over(Deed.PROVE, part, ClearingStatus.PROVING)

    # -- choosing --------------------------------------------------------------------------------------------------

    def _choose(self) -> None:
        """Set aside what may go, directory by directory."""
        if why := self._tree.unable():
            self.errands.way.note("unable", f"nothing can be removed at the source: {why}")
            return
        leaving.since_now(self.host, self.mirror)
        left = int(self.mirror.wanted.max_deletions)
        going: list[tuple[RouteFile, str]] = []
        kept = leaving.Kept()
        for rows in leaving.eligible(self.host, self.mirror, self.budget, kept):
            going += rows[:left]
            left -= len(rows[:left])
            while len(going) >= PIECE:
                self._mark()
                self._decide(going[:PIECE])
                del going[:PIECE]
            if not left or not self.budget.left:
                self._cut = True
                break
        if going:
            self._mark()
            self._decide(going)
        if alike := kept.alike:
            text = f"{len(alike)} files or directories stay, since others differ from them in capital letters or accents alone,"
            self.errands.way.note("alike", f"{text} such as '{shown(alike[0])}': the destination may take both for one")
        for other, paths in kept.awaited.items():
            if paths:
                text = f"{counted(len(paths), 'file')} {'stays' if len(paths) == 1 else 'stay'}, such as '{shown(paths[0])}', until route {other} has brought all to"
                text += f" its destination, too. Run 'libtool transfer {other}', or take that route out of the configuration"
                self.errands.way.note(f"awaited {other}", text)

    def _decide(self, files: Sequence[tuple[RouteFile, str]]) -> None:
        """Write down that files are to go, then set them aside."""
        now, paths = self.host.now(), {file.id: path for file, path in files}
        sent = (RouteFile.status == MirrorStatus.SENT) & among(RouteFile.id, list(paths))
        leaving = (RouteFile.status == MirrorStatus.LEAVING) & among(RouteFile.id, list(paths))
        with writing("removals decided"):
            # What another run has found changed meanwhile is not SENT any more.
            RouteFile.update(status=MirrorStatus.LEAVING).where(sent).execute()
            going = list(RouteFile.select(RouteFile, RouteTask).join(RouteTask).where(leaving))
            if not going:
                return
            place = self._place(now)
            columns = ["route_id", "path", "size", "mtime", "inode", "ctime", "status", "place", "sent"]
            rows = [
                (
                    self._row.id,
                    paths[file.id],
                    file.size,
                    file.mtime,
                    file.inode,
                    file.ctime,
                    int(ClearingStatus.DECIDED),
                    place,
                    file.task_id,
                    _evidence(file.task),
                    self._actor,
                    ARRIVED,
                    to_microseconds(now),
                )
                for file in going
            ]
            insert_rows(RouteRemoval, [*columns, "evidence", "actor", "reason", "create_time"], rows)
            RouteFile.delete().where(leaving).execute()
        mine = (RouteRemoval.route == self._row.id) & (RouteRemoval.status == ClearingStatus.DECIDED)
        mine &= clearing() & (RouteRemoval.place == place)
        self._set_aside(list(RouteRemoval.select().where(mine).order_by(RouteRemoval.id)))

    def _place(self, now: datetime) -> str:
        """Where files are set aside now: one place a day, as long as it can be listed at once. Its name is no other
        catalogue's."""
        place = f"{now:%Y%m%d}-{self._row.id}-{birth()}"
        lies = (RouteRemoval.route == self._row.id) & clearing() & (RouteRemoval.place == place)
        return place if RouteRemoval.select().where(lies).count() <= MOST_IN_PLACE else f"{place}-{now:%H%M%S}"

    def _put_back(self) -> None:
        """Everything that lies aside, and that no task has, is to come back."""
        for rows in self._rows(ClearingStatus.ASIDE, ClearingStatus.PROVED):
            self._change(rows, ClearingStatus.RETURNING, reason="somebody wanted it back")

    def _tell(self) -> None:
        """What waits aside for a reason, and whether what differed has arrived again."""
        if any(each.kind == errands.DIFFER and each.subject == self.mirror.subject for each in notices.standing()):
            unsure = RouteFile.doubt & (RouteFile.status << UNSENT) & (RouteFile.route == self._row.id)
            back = (RouteRemoval.route == self._row.id) & clearing() & (RouteRemoval.status == ClearingStatus.RETURNING)
            open_ = RouteFile.select().where(unsure).exists() or RouteRemoval.select().where(back).exists()
            if not open_ and not notices.met(self.host, self.mirror.subject, errands.DIFFER, DIFFERED):
                notices.over(self.host, self.tally, self.mirror.subject, errands.DIFFER)
        leaving.tell_late(self.host, self.mirror, self.tally)


def _rested(compared: datetime | None, now: datetime) -> bool:
    """Whether the last comparison, which proved nothing, was some time ago: each reads everything at both ends."""
    return compared is None or not now - PROOF_WAIT < compared <= now


def _same(seen: Seen | None, row: RouteRemoval, *, moved: bool = False) -> bool:
    """Whether a file is as it was; renaming it changes its ctime."""
    if seen is None or (seen.size, seen.mtime, seen.inode) != (row.size, row.mtime, row.inode):
        return False
    return moved or seen.ctime == row.ctime


def _evidence(task: RouteTask) -> str:
    """With which task a file arrived, and where."""
    ticket = json.loads(task.ticket) if task.ticket else {}
    return f"task {ticket.get('task')} to {task.dst_id}:{task.dst_dir}"


def plan(host: Host, mirror: Mirror, budget: Budget, *, put_back: bool = False) -> Iterator[str]:
    """What a run would do, a line for each file; it looks at the source and changes nothing."""
    if mirror.former and not put_back:
        return  # what is under way is seen through, and nothing else
    doing = {
        ClearingStatus.DECIDED: "set aside",
        ClearingStatus.ASIDE: "put back" if put_back else "compare and remove",
        ClearingStatus.PROVING: "compare and remove",
        ClearingStatus.PROVED: "put back" if put_back else "remove",
        ClearingStatus.REMOVING: "remove",
        ClearingStatus.RETURNING: "put back",
    }
    t = RouteRemoval
    query = t.select(t.status, t.path, t.size).where(t.route == mirror.row.id, clearing()).order_by(t.id)
    for status, path, size in raw_rows(query):
        yield f"{doing[ClearingStatus(status)]}: {shown(path)}, {size} bytes"
    left = 0 if put_back else int(mirror.wanted.max_deletions)
    for rows in leaving.eligible(host, mirror, budget) if left else ():
        for file, path in rows[:left]:
            yield f"set aside: {shown(path)}, {file.size} bytes"
        left -= len(rows[:left])
        if not left:
            return
