"""Adopting what lies in a store already and is not in the catalogue, because somebody says what it is.

It is written down as staged, and then judged like everything that arrives: read, compared, recorded where it lies.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from peewee import Expression

from libtool import digest, names
from libtool.archive import ingest, manifests, places, receiving
from libtool.archive.hands import Host, Tally, portions
from libtool.errors import AlreadyKnown, LibtoolError, NameRefused, NotNow, Refused
from libtool.models.base import among, insert_rows, serialise, writing
from libtool.models.tables import File, IncomingTransfer, Instance, live
from libtool.models.tables import Store as StoreRow
from libtool.names import shown
from libtool.peers.admin import AddFile
from libtool.peers.messages import DeliveredFile
from libtool.states import DeletionPolicy, FileKind, Owed, TransferStatus
from libtool.units import to_microseconds

_IN = IncomingTransfer
_COLUMNS = ["name", "size", "checksum", "uploader", "source", "status", "owed", "store_id", "create_time"]


def adopt(host: Host, source: str, claims: Sequence[DeliveredFile]) -> int:
    """Write down those of these files that lie in one of our stores and have no copy in the catalogue; recv-clone then
    reads and records them. Returns how many there are."""
    found: dict[int, list[DeliveredFile]] = {}
    for each, home in adoptable(host, source, claims):
        found.setdefault(home, []).append(each)
    rows = {row.id: row for row in places.in_order(host)}
    return sum(_write_down(host, source, rows[store_id], files) for store_id, files in found.items())


def adoptable(host: Host, source: str, claims: Sequence[DeliveredFile]) -> list[tuple[DeliveredFile, int]]:
    """Those of which something of the right size lies under their name in a store, and in which.

    What a neighbour claims and nobody sees here is left out: the neighbour finds that out when it compares. So is what
    was read once and was not what it claims, and what lies on a disk with which it was given up: that will travel again.
    """
    wanted = {each.name: each for each in claims}
    for piece in portions(list(wanted), 2000):
        here = Instance.available | (Instance.condition > 0)  # what went bad is mended, not adopted
        copies = Instance.select(File.name).join(File).where(among(File.name, piece), here)
        busy = _IN.select(_IN.name).where(among(_IN.name, piece), live(_IN))
        for (name,) in [*copies.tuples(), *busy.tuples()]:
            wanted.pop(name, None)
        other = File.select(File.name, File.size, File.checksum).where(among(File.name, piece))
        wrong = _IN.select(_IN.name, _IN.size, _IN.checksum).where(
            among(_IN.name, piece), _IN.status == TransferStatus.FAILED, _IN.source == source, _untouched()
        )
        for name, size, checksum in other.tuples():
            if name in wanted and (wanted[name].size, wanted[name].checksum) != (size, checksum):
                del wanted[name]
        for name, size, checksum in wrong.tuples():
            if name in wanted and (wanted[name].size, wanted[name].checksum) == (size, checksum):
                del wanted[name]
    for name in [name for name in wanted if any(up in wanted for up in names.above(name))]:
        del wanted[name]
    for name in receiving.clashing(wanted) if wanted else ():
        wanted.pop(name, None)
    rows = [row for row in places.in_order(host) if row.enabled]
    given_up = {(name, row.id) for row in rows for name in manifests.given_up(row, list(wanted))}
    found = []
    for each in wanted.values():
        home = _home(host, [row for row in rows if (each.name, row.id) not in given_up], each)
        if home is not None:
            found.append((each, home))
    return found


def _untouched() -> Expression:
    """The condition that nothing was staged for a transfer: it was to be adopted."""
    return _IN.source_transfer_id.is_null()


def _home(host: Host, rows: list[StoreRow], claim: DeliveredFile) -> int | None:
    """The store in which something of this name and size lies."""
    try:
        names.check(claim.name, places.name_room(host))
    except NameRefused:
        return None
    for row in rows:
        try:
            store = host.store(row)
            store.check()
            # Not through a link that somebody made in the store.
            if store.name_of(store.path(claim.name)) != claim.name:
                continue
            if any(not store.look(claim.name, claim.size, kind) for kind in FileKind):
                return int(row.id)
        except LibtoolError:
            continue
    return None


def _write_down(host: Host, source: str, row: StoreRow, files: list[DeliveredFile]) -> int:
    """One staged transfer for each that nobody else is bringing."""
    now = to_microseconds(host.now())
    with writing("adopt"):
        serialise(receiving.NAMES_KEY)
        called = [each.name for each in files]
        busy = {name for (name,) in _IN.select(_IN.name).where(among(_IN.name, called), live(_IN)).tuples()}
        busy |= set(receiving.clashing(called))
        fresh = [each for each in files if each.name not in busy]
        ending = (source, int(TransferStatus.STAGED), int(Owed.NOTHING), row.id, now)
        insert_rows(_IN, _COLUMNS, [(each.name, each.size, each.checksum, each.uploader, *ending) for each in fresh])
    return len(fresh)


def adopt_one(host: Host, wanted: AddFile) -> bool:
    """Register one file that lies in a store, for an administrator; False when it was known, with this content."""
    row = places.get(wanted.store_name)
    name = host.store(row).name_of(wanted.path)
    if name != wanted.name:
        raise Refused(
            why=f"File {shown(wanted.path)} does not exist, or does not lie in the Store {row.name} where its name says",
            how="A file lies at the store's path plus its name.",
        )
    function, _ = digest.split(wanted.checksum)
    try:
        if stat.S_IFMT(os.stat(wanted.path).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise OSError
        size, checksum = digest.size_of(wanted.path), digest.of_path(wanted.path, function)
    except OSError:
        raise Refused(why=f"File {shown(wanted.path)} does not exist.", how="Create the file first.") from None
    if size != wanted.size or not digest.same(checksum, wanted.checksum):
        why = f"File {shown(wanted.path)} has {size} bytes and the checksum {checksum}, not what was said"
        raise Refused(why=why, how="Find out which is right.")
    copies = Instance.select().join(File).where(File.name == name, Instance.store == row.id, Instance.available)
    if copies.exists():
        return False
    tally = Tally()
    order = ingest.Order(uploader=wanted.uploader, policy=DeletionPolicy.DISALLOWED, store=row.name)
    ingest.ingest(host, iter([ingest.Wanted(wanted.path, name)]), order, tally)
    if tally.failed:
        raise NotNow(why=f"File {shown(name)} was not taken: {tally.lines[0]}", how="Mend it and ask again.")
    if not copies.exists():
        raise AlreadyKnown(name=name, why="it is just being brought in")
    with writing("source of an adopted file"):
        File.update(source=wanted.source or host.settings.name).where(File.name == name).execute()
    return True
