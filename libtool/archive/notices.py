"""Troubles that last: told when they have lasted, once a day while they do, and once when they are over.

What is told is put into the outbox, too, where mail is configured, in the transaction that marks it as told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

from libtool.archive.hands import Host, Tally
from libtool.models.base import writing
from libtool.models.tables import Fault, Mail
from libtool.names import shown
from libtool.units import about

#: How often a trouble that stays is told again.
REMINDER = timedelta(days=1)
#: A trouble that was not met for so long is over: some tasks run once a week.
OUTLIVED = timedelta(days=10)
#: A trouble that was not met for so long, and never told, begins anew when it is met: tasks run once a day at least.
STALE = timedelta(days=2)
#: What is in trouble when no message can be handed over; that is never told by mail.
MAIL = "mail"
#: Characters of a line.
LONGEST = 2000


#: Troubles, by subject and the beginning of their kind.
Which = Sequence[tuple[str, str]]


def trouble(
    host: Host, tally: Tally, subject: str, kind: str, text: str, *, at_once: bool = False, behind: Which = ()
) -> None:
    """Note that ``subject`` has the trouble ``kind`` now; a line goes into the tally when it is time to tell: not while one
    of those that it comes ``behind`` is told, which are likely to be its cause."""
    now = host.now()
    text = shown(text)[:2000]  # a peer's words may be in it
    with writing("fault"):
        fault = Fault.get_or_none(subject=subject, kind=kind)
        if fault is None:
            fault = Fault.create(subject=subject, kind=kind, text=text, first_time=now, last_time=now)
        if (fault.told_time is None and now - fault.last_time > STALE) or fault.first_time > now:
            fault.first_time = now  # what was met once, long ago, has not lasted since; nor by a clock that was ahead
        lasted = (now - fault.first_time).total_seconds()
        due = at_once or lasted >= host.settings.notice_after
        before = fault.told_time
        tell = due if before is None else now - before >= REMINDER or before > now + REMINDER
        tell = tell and not (behind and _told_of_late(now, fault, behind))
        changes = {"text": text, "first_time": fault.first_time, "last_time": now, "count": Fault.count + 1}
        same = Fault.told_time.is_null() if fault.told_time is None else Fault.told_time == fault.told_time
        changed = Fault.update(**changes, told_time=now if tell else fault.told_time).where(Fault.id == fault.id, same)
        told = changed.execute() and tell  # or somebody else told it meanwhile
        since = f" (for {about(lasted)})" if lasted >= 1 else ""
        line = shown(f"{subject}: {text}{since}")[:LONGEST]
        if told:
            _post(host, tally, subject, line)
    if told:
        tally.lines.append(line)


def _told_of_late(now: datetime, but: Fault, which: Which) -> bool:
    """Whether one of these was told within a day, or is about to be told again."""
    lately = (Fault.told_time > now - 1.5 * REMINDER) & (Fault.told_time <= now)
    query = Fault.select(Fault.subject, Fault.kind).where(lately, Fault.id != but.id)
    return any(
        subject == about and kind.startswith(beginning)
        for subject, kind in query.tuples()
        for about, beginning in which
    )


def _post(host: Host, tally: Tally, subject: str, line: str) -> None:
    """Put a line into the outbox if it is to be mailed."""
    if host.settings.email is not None and subject != MAIL:
        Mail.create(line=line, create_time=host.now())
        tally.posted.add(line)


def over(host: Host, tally: Tally, subject: str, kind: str) -> None:
    """Note that ``subject`` does not have this trouble; that is told if the trouble was."""
    if Fault.get_or_none(subject=subject, kind=kind) is None:
        return
    line = ""
    with writing("fault over"):
        fault = Fault.get_or_none(subject=subject, kind=kind)  # somebody may have told it just now, or ended it
        if fault is None:
            return
        gone = Fault.delete().where(Fault.id == fault.id).execute()
        if gone and fault.told_time is not None:
            lasted = about((host.now() - fault.first_time).total_seconds())
            what = fault.text.partition(". ")[0]  # what to do about it is of no use any more
            line = shown(f"{subject}: over after {lasted}: {what}")[:LONGEST]
            _post(host, tally, subject, line)
    if line:
        tally.lines.append(line)


def outlived(host: Host, tally: Tally) -> None:
    """Troubles that nobody has met for so long that every task has run since are over: the end of a process may have kept
    that from being noted."""
    for fault in Fault.select().where(Fault.last_time < host.now() - OUTLIVED):
        over(host, tally, fault.subject, fault.kind)


def forget(subject: str) -> None:
    """What the troubles of ``subject`` were about is gone, with or without success."""
    if Fault.select().where(Fault.subject == subject).exists():
        with writing("faults forgotten"):
            Fault.delete().where(Fault.subject == subject).execute()


def recent(host: Host, subject: str, kind: str, *, told: bool = False, span: float | None = None) -> bool:
    """Whether ``subject`` has this trouble (and it was told), and it was met not long ago: within ``span`` seconds."""
    fault = Fault.get_or_none(subject=subject, kind=kind)
    if fault is None or (told and fault.told_time is None):
        return False
    longest = 2 * host.settings.notice_after if span is None else span
    return bool(0 <= (host.now() - fault.last_time).total_seconds() <= longest)


def met(host: Host, subject: str, kind: str, span: timedelta) -> bool:
    """Whether ``subject`` had this trouble within so long."""
    fault = Fault.get_or_none(subject=subject, kind=kind)
    return fault is not None and timedelta(0) <= host.now() - fault.last_time < span


def lasts(host: Host, subject: str, kind: str, span: timedelta) -> bool:
    """Whether ``subject`` has had this trouble for so long."""
    fault = Fault.get_or_none(subject=subject, kind=kind)
    return fault is not None and host.now() - fault.first_time > span


def standing() -> list[Fault]:
    """All troubles that have not ended, the oldest first."""
    return list(Fault.select().order_by(Fault.first_time))


class Ledger:
    """What stood in the way of one run, told at its end: once per subject and kind, however many items it is about.

    The kinds of one ledger begin with its ``mark``. A trouble is over when the run found its subject well, or nothing is
    left that it could be about (``gone``), and it was not met for ``patience`` seconds: some come and go by the minute.
    """

    def __init__(self, mark: str, sibling: str = "", behind: Sequence[str] = ()) -> None:
        self._mark, self._sibling = f"{mark} ", f"{sibling} " if sibling else ""
        self._behind = behind  #: the beginnings of kinds that its troubles come behind, of the same subject
        self._found: dict[tuple[str, str], tuple[str, int, bool]] = {}
        self._well: set[str] = set()

    def note(self, subject: str, word: str, text: str, *, at_once: bool = False) -> None:
        """One item of this subject has this trouble."""
        first, count, _ = self._found.get((subject, word), (text, 0, at_once))
        self._found[subject, word] = (first, count + 1, at_once)

    def well(self, subject: str) -> None:
        """Something worked."""
        self._well.add(subject)

    def settle(
        self,
        host: Host,
        tally: Tally,
        gone: Callable[[str], bool],
        patience: Callable[[str], float] = lambda subject: 0.0,
        lasting: Collection[str] = (),
    ) -> None:
        """Tell what is new and what is over, but for the words in ``lasting``, of which this run found out nothing. What the
        sibling of this ledger has told already is not told again."""
        for (subject, word), (text, count, at_once) in self._found.items():
            day = REMINDER.total_seconds()
            if self._sibling and recent(host, subject, self._sibling + word, told=True, span=day):
                continue
            more = f" (and {count - 1} more)" if count > 1 else ""
            behind = [(subject, each) for each in self._behind]
            first = () if at_once else behind  # a person must act whatever else there is
            trouble(host, tally, subject, self._mark + word, text + more, at_once=at_once, behind=first)
        for fault in standing():
            word = fault.kind.removeprefix(self._mark)
            if word == fault.kind or word in lasting or (fault.subject, word) in self._found:
                continue
            silent = (host.now() - fault.last_time).total_seconds()
            calm = silent < 0 or silent >= patience(fault.subject)  # met at a time to come: by a clock that was ahead
            if gone(fault.subject) or (fault.subject in self._well and calm):
                over(host, tally, fault.subject, fault.kind)
