"""Taking in files of this machine: the same staging, judging and recording as for what a peer brings.

An ingest writes an incoming transfer without a source before it touches anything, and holds a lock whose name stands in
the row (its claim); who finds a claim with a free lock knows that the process died and settles what it left.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from libtool import copying, digest, names
from libtool.archive import intake, places, receiving
from libtool.archive.hands import Host, Tally
from libtool.errors import (
    AlreadyKnown,
    FileUnreadable,
    LibtoolError,
    LockTaken,
    NameRefused,
    NoRoom,
    StoreUnavailable,
)
from libtool.models.base import among, serialise, update_many, writing
from libtool.models.tables import File, IncomingTransfer, Instance, live
from libtool.models.tables import Store as StoreRow
from libtool.states import DeletionPolicy, Owed, TransferStatus
from libtool.stores.base import Found, Store

#: Files and bytes that are copied before they are judged and recorded together.
PORTION, PORTION_BYTES = 500, 10**10
#: Ingests that may run side by side.
SLOTS = 64
_IN = IncomingTransfer


@dataclass(frozen=True, slots=True)
class Wanted:
    """One thing to take in: where it lies, the name it shall have."""

    path: str
    name: str


@dataclass
class Order:
    """How an ingest is to be done."""

    move: bool = False
    uploader: str = ""
    policy: DeletionPolicy = DeletionPolicy.ALLOWED
    store: str | None = None


def survey(path: str, name: str | None, recursive: bool) -> Iterator[Wanted]:
    """What an ``ingest`` of ``path`` is about: the path itself, or every file below it."""
    if not recursive:
        yield Wanted(path, name if name is not None else os.path.basename(os.path.normpath(path)))
        return
    prefix = f"{name}/" if name else ""
    for here, directory in sorted_walk(path):
        if not directory:
            yield Wanted(os.path.join(path, here), prefix + here)


def sorted_walk(path: str) -> Iterator[tuple[str, bool]]:
    """Like :func:`copying.walk`, in the order of names, one directory in memory at a time."""
    todo = [""]
    while todo:
        at = todo.pop()
        with os.scandir(os.path.join(path, at)) as entries:
            found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        below = []
        for entry, directory in found:
            if entry.startswith(names.RESERVED):
                continue
            here = f"{at}/{entry}" if at else entry
            yield here, directory
            if directory:
                below.append(here)
        todo += reversed(below)


def ingest(
    host: Host, wanted: Iterator[Wanted], order: Order, tally: Tally, progress: Callable[[int], None] | None = None
) -> int:
    """Take in everything that is ``wanted``; returns how many were known already with the same content.

    One that cannot be taken is named in the tally and does not stop the others.
    """
    with ExitStack() as held:
        claim = claim_slot(host, held)
        intake.settle(host, claim, tally)
        row, store = _store(host, order)
        limit = places.name_room(host)
        known = 0
        portion: list[Wanted] = []
        size = 0
        for each in wanted:
            portion.append(each)
            with suppress(OSError):
                size += os.lstat(each.path).st_size
            if len(portion) >= PORTION or size >= PORTION_BYTES:
                known += _portion(host, row, store, portion, order, claim, limit, tally)
                if progress is not None:
                    progress(len(portion))
                portion, size = [], 0
        if portion:
            known += _portion(host, row, store, portion, order, claim, limit, tally)
            if progress is not None:
                progress(len(portion))
        return known


def claim_slot(host: Host, held: ExitStack, kind: str = "ingest") -> str:
    """The first free slot; its lock is held as long as ``held``, and what bears its name belongs to this process."""
    for slot in range(SLOTS):
        with suppress(LockTaken):
            held.enter_context(host.lock(f"{kind}-{slot}"))
            return f"{kind}-{slot}"
    raise LockTaken(lock=kind)


def _store(host: Host, order: Order) -> tuple[StoreRow, Store]:
    """The store that was asked for, or the first that may be filled."""
    if order.store is not None:
        row = StoreRow.get_or_none(StoreRow.name == order.store)
        if row is None or not row.enabled:
            why = "it is disabled" if row else "it is not in add_stores, or 'libtool setup' has not run since"
            raise StoreUnavailable(store=order.store, why=why)
        store = host.store(row)
        store.check()
        return row, store
    usable = places.ingestible(host)
    if not usable:
        for row in places.in_order(host):
            host.store(row).check()
        raise StoreUnavailable(store="for new files", why="no enabled, ingestible store is configured")
    return usable[0]


def _portion(
    host: Host,
    row: StoreRow,
    store: Store,
    portion: list[Wanted],
    order: Order,
    claim: str,
    limit: int,
    tally: Tally,
) -> int:
    """Take in some hundred files: sort out, write the intent, copy, judge, record. Returns how many were known."""
    accepted, known = _sort(host, portion, limit, tally)
    busy = intake.make_way(host, row, store, [wanted.name for wanted in accepted], tally)
    accepted = [wanted for wanted in accepted if wanted.name not in busy]
    if not accepted:
        return known
    adopted = {wanted.name for wanted in accepted if store.name_of(wanted.path) == wanted.name}
    for wanted in list(accepted):
        elsewhere = store.name_of(wanted.path)
        if elsewhere is not None and wanted.name not in adopted:
            why = (
                f"it lies in the store itself, where its name is '{names.shown(elsewhere)}'; names follow places there"
            )
            tally.problem(FileUnreadable(path=wanted.path, why=why).text)
            accepted.remove(wanted)
    staging_id = os.urandom(16).hex()
    transfers = _intend(host, row, store, accepted, staging_id, adopted, order, claim, tally)
    failed: dict[int, str] = {}
    moved: dict[int, str] = {}
    found: list[tuple[IncomingTransfer, Found]] = []
    for wanted in accepted:
        transfer = transfers.get(wanted.name)
        if transfer is None:
            continue
        try:
            if wanted.name in adopted:
                found.append((transfer, store.measure(store.path(wanted.name))))
            elif order.move and _movable(wanted.path):
                found.append((transfer, store.measure(wanted.path)))
                moved[transfer.id] = wanted.path
            else:
                found.append((transfer, store.copy_in(wanted.path, staging_id, wanted.name)))
        except (LibtoolError, OSError) as trouble:
            if isinstance(trouble, StoreUnavailable):
                intake.refuse(host, {each.id: trouble.reason for each in transfers.values()})
                raise
            text = trouble.text if isinstance(trouble, LibtoolError) else f"'{wanted.path}': {trouble.strerror}."
            failed[transfer.id] = text
            tally.problem(text)
    _staged(found)
    for transfer, what in found:
        if transfer.id in moved:
            _move(store, transfer, moved, staging_id, what, failed, tally)
    if failed:
        intake.refuse(host, failed)
    rows = intake.staged([transfer.id for transfer, _ in found if transfer.id not in failed])
    lay_there = intake.take_in(host, row, store, rows, tally, order.policy)
    intake.tidy(host, staging_id)
    if order.move:
        _settle_originals(store, rows, accepted, moved, adopted, lay_there, tally)
    return known


def _sort(host: Host, portion: list[Wanted], limit: int, tally: Tally) -> tuple[list[Wanted], int]:
    """What is new; the rest is named, or counted when it is known with the same content."""
    checked: dict[str, Wanted] = {}
    for wanted in portion:
        try:
            names.check(wanted.name, limit)
            if not os.path.lexists(wanted.path):
                raise FileUnreadable(path=wanted.path, why="it does not exist")
            if os.path.islink(wanted.path) and not os.path.exists(wanted.path):
                raise FileUnreadable(path=wanted.path, why="it is a broken link")
            if os.path.islink(wanted.path) and os.path.isdir(wanted.path):
                raise FileUnreadable(path=wanted.path, why="it is a link to a directory; ingest the directory itself")
            checked[wanted.name] = wanted
        except (NameRefused, FileUnreadable) as trouble:
            tally.problem(trouble.text)
    known = 0
    here = {
        file
        for (file,) in Instance.select(File.name)
        .join(File)
        .where(among(File.name, list(checked)), Instance.available)
        .tuples()
    }
    for file in File.select().where(among(File.name, list(checked))):
        wanted = checked[file.name]
        try:
            why = _differs(wanted.path, file)
            if why:
                raise AlreadyKnown(name=file.name, why=why)
            if file.name in here:
                known += 1
                del checked[file.name]
        except (LibtoolError, OSError) as trouble:
            tally.problem(
                trouble.text if isinstance(trouble, LibtoolError) else f"'{wanted.path}': {trouble.strerror}."
            )
            del checked[file.name]
    for name in receiving.clashing(checked):
        del checked[name]
        why = "a directory of that name holds other files, or a part of it is a file itself"
        tally.problem(AlreadyKnown(name=name, why=why).text)
    return list(checked.values()), known


def _differs(path: str, file: File) -> str:
    """Why what lies at ``path`` is not the catalogued file; empty when it is."""
    size = digest.size_of(path)
    if size != file.size:
        return f"it has {file.size} bytes, this has {size}"
    function, _ = digest.split(file.checksum)
    if not digest.same(digest.of_path(path, function), file.checksum):
        return "it has the same size and other content"
    return ""


def _intend(
    host: Host,
    row: StoreRow,
    store: Store,
    accepted: list[Wanted],
    staging_id: str,
    adopted: set[str],
    order: Order,
    claim: str,
    tally: Tally,
) -> dict[str, IncomingTransfer]:
    """Write down what is about to come in; returns the transfers by name, without those that somebody else brings."""
    sizes = {wanted.name: 0 if wanted.name in adopted else _size(wanted.path) for wanted in accepted}
    needed, room = sum(sizes.values()), places.room(row, store)
    if needed and needed >= room and not order.move:
        raise NoRoom(size=needed, room=room)
    own = host.settings.name
    with writing("intend"):
        serialise(receiving.NAMES_KEY)
        busy = {name for (name,) in _IN.select(_IN.name).where(among(_IN.name, list(sizes)), live(_IN)).tuples()} | set(
            receiving.clashing(sizes)
        )
        for name in busy:
            tally.problem(AlreadyKnown(name=name, why="it is just being brought in; try again when that is done").text)
        fresh = [wanted for wanted in accepted if wanted.name not in busy]
        if fresh:
            _IN.insert_many(
                [
                    {
                        "name": wanted.name,
                        "size": sizes[wanted.name],
                        "checksum": "",
                        "uploader": order.uploader or own,
                        "source": "",
                        "status": TransferStatus.INITIATED,
                        "owed": Owed.NOTHING,
                        "store": row.id,
                        "staging_id": None if wanted.name in adopted else staging_id,
                        "claim": claim,
                        "deletion_policy": order.policy,
                        "create_time": host.now(),
                    }
                    for wanted in fresh
                ]
            ).execute()
        wanted_names = [wanted.name for wanted in fresh]
        return {
            each.name: each for each in _IN.select().where(among(_IN.name, wanted_names), _IN.claim == claim, live(_IN))
        }


def _size(path: str) -> int:
    try:
        return digest.size_of(path)
    except OSError:
        return 0


def _movable(path: str) -> bool:
    """Whether renaming it moves what it is: links are copied, never moved."""
    if os.path.islink(path):
        return False
    return not os.path.isdir(path) or not any(
        os.path.islink(os.path.join(path, here)) for here, _ in copying.walk(path)
    )


def _staged(found: list[tuple[IncomingTransfer, Found]]) -> None:
    """From here on the transfers can be finished by anyone: size and checksum are written down."""
    with writing("staged here"):
        update_many(
            _IN,
            ["id", "size", "checksum", "status"],
            [(transfer.id, what.size, what.checksum, int(TransferStatus.STAGED)) for transfer, what in found],
        )


def _move(
    store: Store,
    transfer: IncomingTransfer,
    moved: dict[int, str],
    staging_id: str,
    what: Found,
    failed: dict[int, str],
    tally: Tally,
) -> None:
    """Rename one original into the store, or copy it when that is another file system."""
    path = moved[transfer.id]
    try:
        if not store.move_in(path, transfer.name, what):
            del moved[transfer.id]
            if store.copy_in(path, staging_id, transfer.name) != what:
                raise FileUnreadable(path=path, why="it changed while it was copied")
    except FileExistsError:
        failed[transfer.id] = f"'{store.path(transfer.name)}' is already there and not in the catalogue"
        tally.problem(failed[transfer.id])
        moved.pop(transfer.id, None)
    except (LibtoolError, OSError) as trouble:
        failed[transfer.id] = trouble.text if isinstance(trouble, LibtoolError) else f"'{path}': {trouble.strerror}"
        tally.problem(failed[transfer.id])
        moved.pop(transfer.id, None)


def _settle_originals(
    store: Store,
    rows: list[intake.Staged],
    accepted: list[Wanted],
    moved: dict[int, str],
    adopted: set[str],
    lay_there: set[int],
    tally: Tally,
) -> None:
    """After a move: an original that was copied goes once it is stored, recorded and still what was read; one that was
    renamed and not taken is put back. What lay in the store already may be the original itself, seen by another path."""
    paths = {wanted.name: wanted.path for wanted in accepted}
    status = dict(_IN.select(_IN.id, _IN.status).where(among(_IN.id, [row.id for row in rows])).tuples())
    for row in rows:
        path = paths[row.name]
        if row.name in adopted:
            continue
        try:
            if row.id in moved:
                if status[row.id] is TransferStatus.FAILED and not os.path.lexists(path):
                    copying.rename(store.path(row.name), path, new=True)
            elif status[row.id] is TransferStatus.COMPLETED:
                if row.id in lay_there:
                    tally.problem(
                        f"'{path}' was kept: the same bytes lay in {store.name} already, and it may be that very file"
                    )
                elif digest.of_path(path) != row.checksum:
                    tally.problem(f"'{path}' changed after it was copied; it was kept.")
                elif os.path.isdir(path) and not os.path.islink(path):
                    copying.remove_tree(path)
                else:
                    os.unlink(path)
        except OSError as trouble:
            tally.problem(f"'{path}' could not be removed or put back: {trouble.strerror}.")
