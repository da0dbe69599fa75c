"""Manifests: the list of all files in a store, that travels with its disk to a librarian that takes them in by hand."""

from __future__ import annotations

from peewee import SQL, fn

from libtool.archive import librarians, places
from libtool.archive.hands import Host, portions
from libtool.errors import TooLarge
from libtool.models.base import among, raw_rows, writing
from libtool.models.tables import File, Instance, Librarian, OutgoingTransfer, RemoteInstance, live
from libtool.models.tables import Store as StoreRow
from libtool.peers.admin import Manifest, ManifestEntry, ManifestRequest
from libtool.states import Owed, TransferStatus
from libtool.units import stock_time, to_microseconds

#: Files in one manifest that is sent as one answer.
MOST = 200_000
_OUT = OutgoingTransfer


def make(host: Host, wanted: ManifestRequest) -> Manifest:
    """The manifest of a store; everything that is asked for beside it is done together with it or not at all.

    Transfers to ``destination_librarian`` are written down for what it has not got yet; a file that is on its way there
    already keeps its transfer. The entry of a file without a transfer has the number -1.
    """
    row = places.get(wanted.store_name)
    sending = bool(wanted.destination_librarian) or wanted.create_outgoing_transfers
    destination = librarians.get(wanted.destination_librarian) if sending else None
    here = (Instance.store == row.id) & Instance.available
    store = host.store(row)
    with writing("manifest"):
        count = Instance.select().where(here).count()
        if count > MOST:
            raise TooLarge(why=f"the store holds {count} files, and one answer at most {MOST}")
        rows = list(Instance.select(Instance, File).join(File).where(here).order_by(Instance.id))
        numbers = _send(host, row, destination) if destination is not None else {}
        if wanted.disable_store:
            StoreRow.update(enabled=False).where(StoreRow.id == row.id).execute()
        if wanted.mark_local_instances_as_unavailable:
            for piece in portions([each.id for each in rows], 5000):
                Instance.update(available=False).where(among(Instance.id, piece)).execute()
    return Manifest(
        librarian_name=host.settings.name,
        store_name=row.name,
        store_files=[
            ManifestEntry(
                name=each.file.name,
                create_time=stock_time(each.file.create_time),
                size=each.file.size,
                checksum=each.file.checksum,
                uploader=each.file.uploader,
                source=each.file.source,
                instance_path=store.path(each.file.name),
                deletion_policy=int(each.deletion_policy),
                instance_create_time=stock_time(each.create_time),
                instance_available=True,
                outgoing_transfer_id=numbers.get(each.file_id, -1),
            )
            for each in rows
        ],
    )


def _send(host: Host, row: StoreRow, destination: Librarian) -> dict[int, int]:
    """Write the transfers down; returns their numbers by file. Inside the caller's transaction."""
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
    _OUT.insert_from(files, columns).on_conflict_ignore().execute()
    mine = Instance.select(Instance.file).where(Instance.store == row.id, Instance.available)
    found = _OUT.select(_OUT.file, _OUT.id).where(_OUT.destination == destination.id, live(_OUT), _OUT.file << mine)
    return dict(raw_rows(found))
