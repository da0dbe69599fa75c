"""Troubles that last: told when they have lasted, once a day while they do, and once when they are over."""

from __future__ import annotations

from datetime import timedelta

from libtool.archive.hands import Host, Tally
from libtool.models.base import writing
from libtool.models.tables import Fault
from libtool.names import shown
from libtool.units import show_span

#: How often a trouble that stays is told again.
REMINDER = timedelta(days=1)


def trouble(host: Host, tally: Tally, subject: str, kind: str, text: str, *, at_once: bool = False) -> None:
    """Note that ``subject`` has the trouble ``kind`` now; a line goes into the tally when it is time to tell."""
    now = host.now()
    text = shown(text)[:2000]  # a peer's words may be in it
    with writing("fault"):
        fault = Fault.get_or_none(subject=subject, kind=kind)
        if fault is None:
            fault = Fault.create(subject=subject, kind=kind, text=text, first_time=now, last_time=now)
        lasted = (now - fault.first_time).total_seconds()
        due = at_once or lasted >= host.settings.notice_after
        tell = due if fault.told_time is None else now - fault.told_time >= REMINDER
        Fault.update(text=text, last_time=now, count=Fault.count + 1, told_time=now if tell else fault.told_time).where(
            Fault.id == fault.id
        ).execute()
    if tell:
        since = f" (for {show_span(lasted)})" if lasted >= 1 else ""
        tally.lines.append(f"{subject}: {text}{since}")


def over(host: Host, tally: Tally, subject: str, kind: str) -> None:
    """Note that ``subject`` does not have this trouble; that is told if the trouble was."""
    fault = Fault.get_or_none(subject=subject, kind=kind)
    if fault is None:
        return
    with writing("fault over"):
        gone = Fault.delete().where(Fault.id == fault.id).execute()
    if gone and fault.told_time is not None:
        lasted = show_span((host.now() - fault.first_time).total_seconds())
        tally.lines.append(f"{subject}: over after {lasted}: {fault.text}")


def forget(subject: str) -> None:
    """What the troubles of ``subject`` were about is gone, with or without success."""
    if Fault.select().where(Fault.subject == subject).exists():
        with writing("faults forgotten"):
            Fault.delete().where(Fault.subject == subject).execute()


def stands(subject: str, kind: str) -> bool:
    """Whether ``subject`` has this trouble now."""
    return bool(Fault.select().where(Fault.subject == subject, Fault.kind == kind).exists())


def standing() -> list[Fault]:
    """All troubles that have not ended, the oldest first."""
    return list(Fault.select().order_by(Fault.first_time))
