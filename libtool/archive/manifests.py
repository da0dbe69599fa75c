"""Manifests: the list of all files in a store, that travels with its disk to a librarian that takes them in by hand.

A manifest can be asked for again: transfers that are under way by hand keep their numbers, and copies that were marked
unavailable because they travel are listed as before, whether or not they are at their destination by another way, so that
no answer that was lost on its way loses a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from peewee import JOIN, SQL, Expression, fn

from libtool.archive import librarians, places
from libtool.archive.hands import Host, portions
from libtool.archive.removing import COPIES_KEY
from libtool.errors import TooLarge
from libtool.models.base import among, raw_rows, serialise, writing
from libtool.models.tables import File, Instance, Librarian, OutgoingTransfer, RemoteInstance, Removal, live
from libtool.models.tables import Store as StoreRow
from libtool.peers.admin import Manifest, ManifestEntry, ManifestRequest
from libtool.states import Owed, RemovalStatus, TransferStatus
from libtool.units import from_microseconds, stock_time, to_microseconds

#: Files in one manifest that is sent as one answer.
MOST = 200_000
#: Files that are looked up, or written down, together.
PAGE = 5000
_OUT = OutgoingTransfer


def make(host: Host, wanted: ManifestRequest) -> Manifest:
    """The manifest of a store; everything that is asked for beside it is done together with it or not at all.

    Transfers to ``destination_librarian`` are written down for what it has not got yet; a file that is on its way there
    already keeps its transfer. The entry of a file without a transfer has the number -1.
    """
    row = places.get(wanted.store_name)
    sending = bool(wanted.destination_librarian) or wanted.create_outgoing_transfers
    destination = librarians.get(wanted.destination_librarian) if sending else None
    with writing("manifest"):
        if destination is not None:
            _send(host, row, destination)
        listed = []
        for each in entries(host, row, destination):
            listed.append(each)
            if len(listed) > MOST:
                raise TooLarge(why=f"the store holds more than {MOST} files, the most that one answer can list")
        if wanted.disable_store:
            StoreRow.update(enabled=False).where(StoreRow.id == row.id).execute()
        if wanted.mark_local_instances_as_unavailable:
            for piece in portions([id for id, _ in listed], PAGE):
                Instance.update(available=False).where(among(Instance.id, piece)).execute()
    return Manifest(host.settings.name, row.name, [entry for _, entry in listed])


def send(host: Host, row: StoreRow, destination: Librarian) -> None:
    """Write down a transfer for everything in the store that ``destination`` has not got and nothing carries there."""
    after = 0
    while True:
        page = Instance.select(Instance.id).where(Instance.store == row.id, Instance.available, Instance.id > after)
        ids = [id for (id,) in raw_rows(page.order_by(Instance.id).limit(PAGE))]
        if not ids:
            return
        with writing("manifest"):
            _send(host, row, destination, (Instance.id > after) & (Instance.id <= ids[-1]))
        after = ids[-1]


def given_up(row: StoreRow, called: list[str]) -> set[str]:
    """Which of these files have a copy in a store that was given up with a manifest."""
    mine = Instance.select(File.name).join(File).where(Instance.store == row.id, _travels(row))
    return {name for piece in portions(called, PAGE) for (name,) in raw_rows(mine.where(among(File.name, piece)))}


def ended(number: int, destination: Librarian | None) -> bool:
    """Whether a transfer to ``destination`` is over: its file arrived by another way, or with the disk."""
    mine = (_OUT.id == number) & ~live(_OUT)
    return destination is not None and _OUT.select().where(mine, _OUT.destination == destination.id).exists()


def mark(ids: list[int]) -> None:
    """These copies travel: they are not here any more."""
    with writing("travelling"):
        Instance.update(available=False).where(among(Instance.id, ids)).execute()


def entries(host: Host, row: StoreRow, destination: Librarian | None) -> Iterator[tuple[int, ManifestEntry]]:
    """The number of each copy and its entry, in order."""
    store = host.store(row)
    after = 0
    while True:
        page = list(raw_rows(_listed(row, destination).where(Instance.id > after).order_by(Instance.id).limit(PAGE)))
        if not page:
            return
        after = page[-1][0]
        for id, name, size, checksum, uploader, source, created, policy, copied, number in page:
            yield (
                id,
                ManifestEntry(
                    name=name,
                    create_time=stock_time(from_microseconds(created)),
                    size=size,
                    checksum=checksum,
                    uploader=uploader,
                    source=source,
                    instance_path=store.path(name),
                    deletion_policy=policy,
                    instance_create_time=stock_time(from_microseconds(copied)),
                    instance_available=True,
                    outgoing_transfer_id=-1 if number is None else number,
                ),
            )


def _listed(row: StoreRow, destination: Librarian | None) -> Any:
    """What lies in the store, with the number of its live transfer to the destination."""
    columns = (File.name, File.size, File.checksum, File.uploader, File.source, File.create_time)
    copies = (Instance.deletion_policy, Instance.create_time)
    here: Expression = Instance.store == row.id
    if destination is None:
        query = Instance.select(Instance.id, *columns, *copies, SQL("NULL")).join(File)
        return query.where(here, Instance.available)
    mine = (_OUT.file == Instance.file) & (_OUT.destination == destination.id) & live(_OUT)
    query = Instance.select(Instance.id, *columns, *copies, _OUT.id).join(File)
    query = query.switch(Instance).join(_OUT, JOIN.LEFT_OUTER, on=mine)
    return query.where(here, Instance.available | _travels(row))


def _travels(row: StoreRow) -> Expression:
    """The condition that a copy is unavailable only because it was given up with a manifest: it was neither found bad nor
    removed since it came."""
    since = (Removal.create_time >= Instance.create_time) & (Removal.status != RemovalStatus.RETURNED)
    removed = Removal.select(SQL("1")).where(Removal.file == Instance.file, Removal.store == row.id, since)
    return ~Instance.available & (Instance.condition == SQL("0")) & ~fn.EXISTS(removed)


def _send(host: Host, row: StoreRow, destination: Librarian, which: Expression | None = None) -> None:
    """Write the transfers down, inside the caller's transaction."""
    serialise(COPIES_KEY)  # what they read is not let go meanwhile
    there = RemoteInstance.select(SQL("1")).where(
        RemoteInstance.file == Instance.file, RemoteInstance.librarian == destination.id
    )
    files = Instance.select(
        Instance.file,
        SQL(str(int(destination.id))),
        SQL(str(int(TransferStatus.ONGOING))),
        SQL(str(int(Owed.NOTHING))),
        Instance.store,
        SQL(str(to_microseconds(host.now()))),
    ).where(Instance.store == row.id, Instance.available, ~fn.EXISTS(there))
    columns = [_OUT.file, _OUT.destination, _OUT.status, _OUT.owed, _OUT.store, _OUT.create_time]
    _OUT.insert_from(files if which is None else files.where(which), columns).on_conflict_ignore().execute()
