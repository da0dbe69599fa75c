"""What is to be told by mail: put together into one message at the end of a run, and handed over.

A line leaves the outbox only after a message with it was handed over: who dies between the two sends the message twice,
under the same Message-ID, and loses nothing. That mail cannot be handed over is a trouble like others, but that it is
told where everything is told that is not mailed; no task fails for it.
"""

from __future__ import annotations

from datetime import timedelta

from peewee import fn

from libtool.archive import notices
from libtool.archive.hands import Host, Tally
from libtool.errors import LibtoolError, LockTaken, MailFailed
from libtool.models.base import Busy, among, is_passing, raw_rows, writing
from libtool.models.tables import Fault, Mail
from libtool.seams import seam
from libtool.units import show_time

#: Lines of one message; of more it is said how many there are.
MOST = 200
#: What waits for longer is dropped, but for the newest MOST.
KEEP = timedelta(days=7)
#: How long after a failure the next attempt is made: doubling from the first to the last, so that a server that hangs
#: does not hold up every run.
FIRST_PAUSE, LAST_PAUSE = timedelta(minutes=1), timedelta(minutes=10)
#: Whose trouble it is that one of the recipients is refused.
RECIPIENT = "recipient"


def deliver(host: Host, tally: Tally) -> None:
    """Hand over what is in the outbox. No run fails for it: what could not be done now is done at the end of another."""
    try:
        if not Mail.select().exists():
            tally.mailed |= tally.posted  # by another run
        elif host.settings.email is None:
            _print(tally)
        else:
            _deliver(host, tally)
    except Busy as trouble:
        if not is_passing(trouble):
            raise
    except LibtoolError:
        return  # the database or the lock cannot be used now: that is for the next run to find, and to tell


def _deliver(host: Host, tally: Tally) -> None:
    try:
        with host.lock("mail"):
            _hand_over(host, tally)
    except LockTaken:
        # Another run is at it, and will tell if it cannot; what it does not take is taken by the next one.
        if not _trouble():
            tally.mailed |= tally.posted


def waiting() -> dict[str, int]:
    """How many lines wait, and how often the one that was tried most could not be handed over."""
    count, tries = Mail.select(fn.COUNT(Mail.id), fn.MAX(Mail.tries)).scalar(as_tuple=True)
    return {"waiting": count, "tries": tries or 0}


def _trouble() -> Fault | None:
    return Fault.get_or_none(subject=notices.MAIL, kind=notices.MAIL)


def _hand_over(host: Host, tally: Tally) -> None:
    ids = [id for (id,) in raw_rows(Mail.select(Mail.id).order_by(Mail.id))]
    rows = list(Mail.select().where(among(Mail.id, ids[-MOST:])).order_by(Mail.id))
    trouble = _trouble()
    if trouble is not None and abs(host.now() - trouble.last_time) < _pause(trouble.count):
        return  # "abs": the clock may have been set back
    if not ids:
        tally.mailed |= tally.posted
        return
    lines = [f"{show_time(row.create_time.replace(microsecond=0))}  {row.line}" for row in rows]
    # The same for the same lines, so that a message that was handed over twice is recognised.
    key = "\n".join(f"{row.id} {line}" for row, line in zip(rows, lines))
    if trouble is not None:
        lines.append(f"No message could be handed over since {show_time(trouble.first_time.replace(microsecond=0))}.")
    try:
        seam("mail: before it is handed over")
        refused = host.post(key, lines, len(ids) - len(rows))
        seam("mail: handed over")
    except MailFailed as failure:
        _keep(host, ids)
        notices.trouble(host, tally, notices.MAIL, notices.MAIL, failure.text, at_once=True)
        return
    notices.over(host, tally, notices.MAIL, notices.MAIL)
    with writing("mail"):
        Mail.delete().where(among(Mail.id, ids)).execute()
    said = {row.line for row in rows}
    tally.mailed |= {line for line in tally.posted if line in said or len(ids) == len(rows)}
    _refused(host, tally, refused)


def _pause(count: int) -> timedelta:
    return min(LAST_PAUSE, FIRST_PAUSE * 2 ** max(0, min(count - 2, 10)))  # the first failure counts as two


def _keep(host: Host, ids: list[int]) -> None:
    """It waits on, but not without end."""
    with writing("mail kept"):
        Mail.update(tries=Mail.tries + 1).where(among(Mail.id, ids)).execute()
        old = (Mail.create_time < host.now() - KEEP) & (Mail.id < ids[-MOST:][0])
        Mail.delete().where(old).execute()


def _refused(host: Host, tally: Tally, refused: list[str]) -> None:
    """The others have the message; that somebody gets none is told to them."""
    found = {entry.partition(": ")[0]: entry.partition(": ")[2] for entry in refused}
    for address, why in found.items():
        text = f"the mail server takes nothing for this address: {why}. Check it in the configuration, under email.recipients."
        notices.trouble(host, tally, f"mail to {address}", RECIPIENT, text, at_once=True)
    for fault in Fault.select().where(Fault.kind == RECIPIENT):
        if fault.subject.removeprefix("mail to ") not in found:
            notices.over(host, tally, fault.subject, fault.kind)


def _print(tally: Tally) -> None:
    """Nobody is told by mail any more: what was not told elsewhere either is printed by this run."""
    with writing("mail given up"):
        rows = list(Mail.select().order_by(Mail.id))
        Mail.delete().where(among(Mail.id, [row.id for row in rows])).execute()
    known = set(tally.lines)
    tally.lines += [row.line for row in rows if not row.tries and row.line not in known]
    notices.forget(notices.MAIL)
