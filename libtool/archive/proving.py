"""Proof that copies are there and right: reading our own because somebody asks, and asking those that hold others.

Nobody waits longer than was agreed: what there was no time to read is unknown, and check-integrity reads it first.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, Protocol, TypeVar

from libtool import digest
from libtool.archive import librarians, removing, verifying
from libtool.archive.accounts import Caller
from libtool.archive.deciding import Report
from libtool.archive.hands import Budget, Host, Tally
from libtool.archive.verifying import Copy, Watch
from libtool.errors import LibtoolError, PeerRefused, PeerUnreachable, StoreUnavailable
from libtool.models.base import among, raw_rows, serialise, writing
from libtool.models.tables import File, Instance, Librarian, RemoteInstance
from libtool.models.tables import Store as StoreRow
from libtool.peers import features, messages
from libtool.peers.client import Peer
from libtool.peers.messages import ValidatedCopy
from libtool.states import Condition, Proof
from libtool.stores.base import Reading
from libtool.units import from_microseconds

#: Bytes that are surely read in a second; what would take longer than there is time is not begun.
RATE = 100e6
#: How long a holder may read for one of our requests, and how many files one is about.
ASK_SECONDS, ASK_FILES = 40.0, 500
#: After so many answers in a row that are none, a stock librarian is asked no more.
STUMBLES = 3
#: What was read within so many seconds is not read again because somebody has no time to wait for it.
READ_LATELY = 86400.0
#: The longest that a neighbour may have a copy kept for it.
LONGEST_HOLD = timedelta(days=1)


class Sized(Protocol):
    """What has a size in bytes."""

    @property
    def size(self) -> int:
        """Bytes."""


F = TypeVar("F", bound=Sized)


class Wanted(NamedTuple):
    """A file of which copies are to be proved."""

    id: int
    name: str
    size: int
    checksum: str


class _Here(NamedTuple):
    copy: Copy
    store: int
    verified: int | None


# -- our own ------------------------------------------------------------------------------------------------------


def answer(host: Host, caller: Caller, message: messages.Validate, most: float) -> messages.ValidateAnswer:
    """What our copies of these files are, and with ``depth`` those at our neighbours; None for a file that is unknown.

    At most ``most`` seconds go into it. Only a neighbour's request keeps copies for it or is passed on: who wants copies
    kept and is none is told nothing of them that it could count on.
    """
    neighbour = Librarian.select().where(Librarian.name == caller.name, ~Librarian.removed).exists()
    budget = Budget(min(message.seconds, most), time.monotonic)
    first = budget.share(2) if message.depth else budget
    hold = min(timedelta(seconds=message.hold), LONGEST_HOLD) if neighbour else timedelta(0)
    found = own(host, message.names, message.max_age, first, hold, note=neighbour)
    if message.hold and not neighbour:
        why = f"it is not kept for {caller.name}, which is no librarian that is registered here"
        for copy in (copy for copies in found.values() for copy in copies if copy.good):
            copy.good, copy.why = None, why
    if message.depth and (neighbour or caller.admin):
        known = [Wanted(*row) for row in raw_rows(_files().where(among(File.name, list(found))))]
        ask = messages.Validate([], message.max_age, depth=message.depth - 1)
        ask.asked = [*message.asked, host.settings.name, caller.name][-100:]
        for file, report in _relayed(host, known, ask, budget):
            found[file.name].append(report)
    return messages.ValidateAnswer([found.get(name) for name in message.names])


def _files() -> Any:
    return File.select(File.id, File.name, File.size, File.checksum)


def own(
    host: Host,
    names: Sequence[str],
    max_age: float,
    budget: Budget,
    hold: timedelta = timedelta(0),
    *,
    otherwise: float = 0.0,
    note: bool = True,
) -> dict[str, list[ValidatedCopy]]:
    """What our copies of these files are, by name; files that are not in the catalogue are left out.

    A copy that was read no more than ``max_age`` seconds ago is not read again; others are, as far as time allows. What
    there is no time for counts when it was read no more than ``otherwise`` seconds ago; with ``note`` it is read by
    check-integrity, unless it was within a day.
    """
    found: dict[str, list[ValidatedCopy]] = {
        name: [] for (name,) in raw_rows(File.select(File.name).where(among(File.name, list(names))))
    }
    query = Instance.select(*verifying.COLUMNS, Instance.store, Instance.verified_time).join(File)
    mine = among(File.name, list(found)) & (Instance.available | (Instance.condition > 0))
    by_store: dict[int, list[_Here]] = {}
    for row in raw_rows(query.where(mine).order_by(Instance.id)):
        by_store.setdefault(row[-2], []).append(_Here(Copy(*row[:-2]), row[-2], row[-1]))
    for row in StoreRow.select().where(among(StoreRow.id, list(by_store)), StoreRow.enabled):
        for here, told in _read_store(host, row, by_store[row.id], max_age, otherwise, budget, note):
            found[here.copy.name].append(told)
    _hold(host, [copy for copies in found.values() for copy in copies if copy.good], hold)
    return found


def _read_store(
    host: Host, row: StoreRow, found: list[_Here], max_age: float, otherwise: float, budget: Budget, note: bool
) -> Iterator[tuple[_Here, ValidatedCopy]]:
    """What the copies in one store are."""
    name, now = host.settings.name, host.now()
    watch = Watch(host, row)
    read: list[tuple[Copy, Reading]] = []
    late: list[int] = []
    for here in found:
        copy = here.copy
        told = ValidatedCopy(name, row.id, copy.id, None, copy.size, copy.checksum)
        age = None if here.verified is None else (now - from_microseconds(here.verified)).total_seconds()
        if copy.condition in (Condition.DAMAGED, Condition.MISSING):
            told.good, told.why = False, f"it is {Condition(copy.condition).name.lower()}"
            told.size, told.checksum = 0, ""  # nobody has read what it is now
        elif age is not None and 0 <= age <= max_age and max_age and not copy.condition:
            told.good, told.age = True, age
        elif (slow := copy.size / RATE >= budget.seconds) and age is not None and 0 <= age <= otherwise:
            told.good, told.age = not copy.condition or None, age
        elif slow:
            told.why = "there was no time to read it; check-integrity reads it first"
            if note and (age is None or not 0 <= age < READ_LATELY):
                late.append(copy.id)
        else:
            try:
                reading = verifying.read(host.store(row), copy)
            except (OSError, StoreUnavailable) as trouble:
                told.why = trouble.reason if isinstance(trouble, LibtoolError) else str(trouble.strerror)
            else:
                read.append((copy, reading))
                told.good, told.why = reading.good, reading.why
                if reading.good is False:
                    told.size, told.checksum = reading.size, reading.checksum
        yield here, told
    verifying.record(watch, read, Proof.REQUEST)
    if late:
        with writing("asked to read"):
            Instance.update(asked_time=now).where(among(Instance.id, late), Instance.asked_time.is_null()).execute()


def _hold(host: Host, copies: list[ValidatedCopy], hold: timedelta) -> None:
    """Keep these for a neighbour that is about to count on them; what is being removed meanwhile is not promised."""
    if not hold or not copies:
        return
    until = host.now() + hold
    ids = [copy.instance_id for copy in copies]
    mine = among(Instance.id, ids) & Instance.available & (Instance.condition == Condition.SOUND)
    with writing("held"):
        serialise(removing.COPIES_KEY)  # what is promised now is not let go, and what is let go is not promised
        later = Instance.held_until.is_null() | (Instance.held_until < until)
        Instance.update(held_until=until).where(mine, later).execute()
        kept = {id for (id,) in raw_rows(Instance.select(Instance.id).where(mine))}
    for copy in copies:
        if copy.instance_id not in kept:
            copy.good, copy.why = None, "it is just being removed"


def recorded(name: str) -> tuple[int, str]:
    """Size and checksum of a file as they are recorded."""
    file = File.get(File.name == name)
    return file.size, file.checksum


# -- the neighbours' ----------------------------------------------------------------------------------------------


def holders(files: Iterable[int]) -> dict[int, list[int]]:
    """The neighbours that are thought to have copies of these files: librarian → files."""
    remote = RemoteInstance.select(RemoteInstance.librarian, RemoteInstance.file).join(Librarian)
    found: dict[int, list[int]] = {}
    for librarian, file in raw_rows(
        remote.where(among(RemoteInstance.file, list(files)), ~Librarian.removed).distinct()
    ):
        found.setdefault(librarian, []).append(file)
    return found


def gather(
    host: Host,
    wanted: Sequence[Wanted],
    where: dict[int, list[int]],
    ask: messages.Validate,
    budget: Budget,
    tally: Tally,
) -> dict[int, list[Report]]:
    """What the librarians in ``where`` (librarian → files) say about copies of these files, by file.

    ``ask`` holds the conditions. Who does not answer is told in the tally, and says nothing about any file.
    """
    by_id = {file.id: file for file in wanted}
    found: dict[int, list[Report]] = {file.id: [] for file in wanted}
    asked = librarians.shuffled(Librarian.select().where(among(Librarian.id, list(where))))
    for n, librarian in enumerate(asked):
        files = [by_id[id] for id in where[librarian.id] if id in by_id]
        share = budget.share(len(asked) - n)

        def deed(peer: Peer, files: list[Wanted] = files, share: Budget = share) -> None:
            for file, report in reports(host, peer, files, ask, share):
                found[file.id].append(report)

        librarians.ask(host, librarian, tally, "validation", lambda files=files: len(files), deed)  # type: ignore[misc]
    return found


def reports(
    host: Host, peer: Peer, files: Sequence[Wanted], ask: messages.Validate, budget: Budget
) -> Iterator[tuple[Wanted, Report]]:
    """What one librarian says, as far as time allows; each report with the time of the request that it answers."""
    if peer.can(features.VALIDATE):
        for part in parts(files):
            asked = host.now()
            for file, copy in _asked(peer, part, ask, budget):
                age = copy.age if copy.good else None
                told = (copy.librarian, copy.store, copy.good, copy.size, copy.checksum, age)
                yield file, Report(peer.name, *told, asked)
    else:
        yield from _stock(host, peer, files, budget)


def _asked(
    peer: Peer, files: Sequence[Wanted], ask: messages.Validate, budget: Budget
) -> Iterator[tuple[Wanted, ValidatedCopy]]:
    """Ask a libtool librarian, in requests that it can answer in time."""
    for part in parts(files):
        if not budget.left:
            return
        seconds = min(ASK_SECONDS, budget.seconds)
        names = [file.name for file in part]
        request = messages.Validate(names, ask.max_age, seconds, ask.hold, ask.depth, ask.asked)
        said: messages.ValidateAnswer = peer.ask("libtool/catalogue/validate", request, messages.ValidateAnswer)
        if len(said.files) != len(part):
            raise PeerUnreachable(name=peer.name, why=f"it answered {len(said.files)} times to {len(part)} questions")
        for file, copies in zip(part, said.files):
            for copy in copies or ():
                yield file, copy


def parts(files: Sequence[F]) -> Iterator[list[F]]:
    """What one request is about: some hundred files, and no more bytes than are read in half the time."""
    part: list[F] = []
    size = 0
    for file in files:
        if part and (len(part) >= ASK_FILES or size + file.size > RATE * ASK_SECONDS / 2):
            yield part
            part, size = [], 0
        part.append(file)
        size += file.size
    if part:
        yield part


def _stock(host: Host, peer: Peer, files: Sequence[Wanted], budget: Budget) -> Iterator[tuple[Wanted, Report]]:
    """Ask a stock librarian, file by file. It does not say when it read what it tells of, so it counts as just now, and
    only in this run; what it passes on from others has no date at all."""
    stumbled, trouble = 0, None
    for file in files:
        if not budget.left:
            return
        asked = host.now()
        try:
            told: list[messages.Validation] = peer.ask(
                "validate/file", messages.ValidateFile(file.name), list[messages.Validation]
            )
            stumbled = 0
        except PeerRefused as refusal:
            if refusal.facts["status"] in (400, 404):
                continue  # it knows of no such file
            raise
        except PeerUnreachable as found:
            stumbled, trouble = stumbled + 1, found
            if stumbled >= STUMBLES:
                raise
            continue  # it stumbles over this file, perhaps, and not over the next
        for each in told:
            same = digest.same(each.original_checksum, each.current_checksum) is True
            good = each.computed_same_checksum and same and each.current_size == each.original_size
            age = 0.0 if each.librarian == peer.name else None
            what = (each.librarian, each.store, good, each.current_size, each.current_checksum, age)
            yield file, Report(peer.name, *what, asked)
    if trouble is not None:
        raise trouble


def _relayed(
    host: Host, files: list[Wanted], ask: messages.Validate, budget: Budget
) -> Iterator[tuple[Wanted, ValidatedCopy]]:
    """What our neighbours say, for somebody who asked us; stock ones are not asked, since they would ask on and on."""
    by_id = {file.id: file for file in files}
    where = holders(by_id)
    rows = Librarian.select().where(among(Librarian.id, list(where)), ~(Librarian.name << (ask.asked or [""])))
    chosen = librarians.shuffled(rows)
    for n, librarian in enumerate(chosen):
        share = budget.share(len(chosen) - n)
        if share.seconds < 1:
            return
        try:
            peer = host.peer(librarian, seconds=share.seconds)
        except LibtoolError:
            continue
        try:
            if peer.can(features.VALIDATE):
                yield from _asked(peer, [by_id[id] for id in where[librarian.id]], ask, share)
        except LibtoolError:
            continue  # that says nothing about any copy
        finally:
            peer.close()


def young(max_age: float, hold: float = 0.0, depth: int = 0) -> messages.Validate:
    """The conditions of a question."""
    return messages.Validate([], max_age, hold=hold, depth=depth)
