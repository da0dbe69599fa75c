"""What peers may do to us: ask for staging places, say how far a transfer has come, give one up.

Everything here belongs to one request: one short transaction, conditional updates, ownership in the condition.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from peewee import Expression

from libtool import digest, names
from libtool.archive import places
from libtool.archive.accounts import Caller
from libtool.archive.hands import Host, portions
from libtool.errors import (
    AlreadyHere,
    Denied,
    NameRefused,
    NoRoom,
    Refused,
    StoreUnavailable,
    UnderWay,
)
from libtool.models.base import among, current, insert_rows, raw_rows, serialise, writing
from libtool.models.tables import File, IncomingTransfer, Instance, live
from libtool.models.tables import Store as StoreRow
from libtool.peers.messages import (
    BUSY,
    CONFLICT,
    HAVE,
    NAME,
    ROOM,
    BatchStage,
    BatchStaged,
    RefusedItem,
    StagedItem,
    UploadItem,
)
from libtool.states import Owed, TransferStatus, earlier
from libtool.units import to_microseconds

#: PostgreSQL advisory key under which names are given out, so that "a" and "a/b" cannot be promised side by side.
NAMES_KEY = 0x6C6962746F6F6C
_IN = IncomingTransfer
_STATUS = {int(status): status for status in TransferStatus}
#: Parameters in one IN (…).
_PIECE = 5000


class Place(NamedTuple):
    """Where a staged file may be put: what the answer to a request is made of."""

    id: int
    source_id: int
    name: str
    store: int
    staging_id: str


_PLACE_COLUMNS = (_IN.id, _IN.source_transfer_id, _IN.name, _IN.store, _IN.staging_id)
_UPLOAD_COLUMNS = ("name", "size", "checksum", "uploader", "source_transfer_id")


@dataclass
class _Sorting:
    """What will happen to each item of a request."""

    replayed: dict[int, Place] = field(default_factory=dict)  #: source id → the row that answers it
    superseded: list[int] = field(default_factory=list)  #: our ids of what the source gave up by asking anew
    fresh: list[UploadItem] = field(default_factory=list)
    refused: list[RefusedItem] = field(default_factory=list)

    def refuse(self, item: UploadItem, code: str, reason: str, store_id: int | None = None) -> None:
        self.refused.append(RefusedItem(item.source_transfer_id, code, reason, store_id))


def stage(host: Host, caller: Caller, request: BatchStage, *, stock: bool) -> BatchStaged:
    """Make room for a batch and answer every item of it.

    ``stock``: the caller speaks the plain protocol, so what it cannot be told item by item is told as stock servers do.
    A request that is repeated gets the same places again, as long as name, size and checksum agree.
    """
    if request.source != caller.name and not caller.admin:
        raise Denied()
    if request.total_size < 0 or any(item.upload_size < 0 for item in request.uploads):
        raise Refused(why="a file cannot have a negative size", how="Check the sizes.")
    usable = places.ingestible(host)
    if not usable and request.uploads:
        raise StoreUnavailable(store="for incoming files", why="no enabled, ingestible store is available here")
    limit = places.name_room(host)
    with writing("stage"):
        serialise(NAMES_KEY)
        sorting = _sort(request, limit)
        have = [item.source_transfer_id for item in sorting.refused if item.code == HAVE]
        if stock and have:
            raise AlreadyHere(source_transfer_ids=have, destination_transfer_ids=[-1] * len(have))
        if sorting.superseded:
            end(sorting.superseded, TransferStatus.FAILED, host, "the source asked for it anew")
        row, store, fitting = _place(usable, sorting)
        staging_id = os.urandom(16).hex()
        now = host.now()
        if fitting and row is not None:
            insert_rows(
                _IN,
                [*_UPLOAD_COLUMNS, "source", "status", "owed", "store_id", "staging_id", "create_time"],
                [
                    (
                        item.destination_location,
                        item.upload_size,
                        item.upload_checksum,
                        item.uploader,
                        item.source_transfer_id,
                        request.source,
                        int(TransferStatus.INITIATED),
                        int(Owed.NOTHING),
                        row.id,
                        staging_id,
                        to_microseconds(now),
                    )
                    for item in fitting
                ],
            )
            for each in raw_rows(_IN.select(*_PLACE_COLUMNS).where(_IN.staging_id == staging_id)):
                place = Place(*each)
                sorting.replayed[place.source_id] = place
    return _answer(host, request, sorting, row, store, stock)


def _answer(
    host: Host, request: BatchStage, sorting: _Sorting, row: StoreRow | None, store: Any, stock: bool
) -> BatchStaged:
    """Make the directories that the rows promise, and say where they are."""
    if stock and request.uploads and not sorting.replayed:
        codes = {item.code for item in sorting.refused}
        if ROOM in codes:
            raise NoRoom(size=request.total_size, room=store.room(0, 0) if store else 0)
        if BUSY in codes:
            raise UnderWay(
                source_transfer_ids=[item.source_transfer_id for item in sorting.refused if item.code == BUSY],
                destination_transfer_ids=[-1] * sum(item.code == BUSY for item in sorting.refused),
            )
    rows = {each.id: each for each in StoreRow.select()}
    by_place: dict[tuple[int, str], list[str]] = {}
    for each in sorting.replayed.values():
        by_place.setdefault((each.store, each.staging_id), []).append(each.name)
    if len({store_id for store_id, _ in by_place}) > 1:
        # A replay that spans stores: one answer names one store, so the smaller part comes with the next request.
        best = max(by_place, key=lambda place: len(by_place[place]))[0]
        for source_id, each in list(sorting.replayed.items()):
            if each.store != best:
                del sorting.replayed[source_id]
                sorting.refused.append(RefusedItem(source_id, BUSY, "it is staged in another store; ask for it again"))
        by_place = {place: found for place, found in by_place.items() if place[0] == best}
    if by_place:
        row = rows[next(iter(by_place))[0]]
        store = host.store(row)
        for (_, staging_id), found in by_place.items():
            store.reserve(staging_id, found)
    uploads = []
    for item in request.uploads:
        given = sorting.replayed.pop(item.source_transfer_id, None)
        if given is not None:
            uploads.append(
                StagedItem(
                    staging_name=given.staging_id,
                    staging_location=store.staging_path(given.staging_id, given.name),
                    upload_name=item.upload_name,
                    destination_location=given.name,
                    source_transfer_id=item.source_transfer_id,
                    destination_transfer_id=given.id,
                )
            )
    return BatchStaged(
        available_bytes_on_store=places.room(row, store) if row is not None else 0,
        store_name=row.name if row is not None else "",
        uploads=uploads,
        async_transfer_providers=_providers(host, row) if row is not None else {},
        refused=[] if stock else sorting.refused,
    )


def _providers(host: Host, row: StoreRow) -> dict[str, Any]:
    """What can carry files into a store, in the configuration's order, in the shape of the wire."""
    wanted = host.settings.store(row.name)
    providers: dict[str, Any] = {}
    for kind, options in wanted.asynchronous_transfer_manager_data.items():
        if options.get("available", True):
            state: dict[str, Any] = {"transfer_attempted": False, "transfer_complete": False}
            if kind == "globus":
                state |= {"native_app": host.settings.globus_client_native_app, "task_id": ""}
            if kind == "local":
                state |= {"start_time_transfer": None, "bytes_transfer": None}
            providers[kind] = {key: value for key, value in options.items() if key != "available"} | state
    return providers


# -- sorting a request --------------------------------------------------------------------------------------------


def _sort(request: BatchStage, limit: int) -> _Sorting:
    """Decide on every item but for room; inside the transaction."""
    sorting = _Sorting()
    wanted: dict[str, UploadItem] = {}
    ids: set[int] = set()
    for item in request.uploads:
        try:
            names.check(item.destination_location, limit)
            if item.upload_name != item.destination_location:
                names.check(item.upload_name)
        except NameRefused as refusal:
            sorting.refuse(item, NAME, str(refusal.facts["why"]))
            continue
        if item.destination_location in wanted or item.source_transfer_id in ids:
            sorting.refuse(item, BUSY, "it stands twice in this request")
            continue
        wanted[item.destination_location] = item
        ids.add(item.source_transfer_id)
    _sort_out_nested(wanted, sorting)
    _sort_out_known(wanted, sorting)
    _sort_out_live(request.source, wanted, sorting)
    for name in clashing(wanted):
        item = wanted.pop(name)
        sorting.refuse(
            item, CONFLICT, f"'{names.shown(name)}' is a directory in the way of other files, or lies in a file"
        )
    sorting.fresh = list(wanted.values())
    return sorting


def _sort_out_nested(wanted: dict[str, UploadItem], sorting: _Sorting) -> None:
    """Of two items of which one would lie inside the other, the inner one cannot come."""
    for name in [name for name in wanted if any(up in wanted for up in names.above(name))]:
        sorting.refuse(wanted.pop(name), CONFLICT, "it would lie inside another file of this request")


def _sort_out_known(wanted: dict[str, UploadItem], sorting: _Sorting) -> None:
    """What the catalogue holds already: the same content with a copy is HAVE, without one it may come again."""
    for piece in portions(list(wanted), _PIECE):
        known = {file.name: file for file in File.select().where(among(File.name, piece))}
        if not known:
            continue
        copies = dict(
            Instance.select(Instance.file, Instance.store)
            .join(StoreRow)
            .where(among(Instance.file, [file.id for file in known.values()]), Instance.available)
            .tuples()
        )
        for name, file in known.items():
            item = wanted[name]
            same = digest.same(file.checksum, item.upload_checksum)
            if same is None:
                why = f"a file of that name is here with a checksum of another kind ({file.checksum.split(':')[0]})"
                sorting.refuse(wanted.pop(name), CONFLICT, why)
            elif not same or file.size != item.upload_size:
                why = f"a file of that name with other content is here ({file.size} bytes, {file.checksum})"
                sorting.refuse(wanted.pop(name), CONFLICT, why)
            elif file.id in copies:
                sorting.refuse(wanted.pop(name), HAVE, "the same content is here already", copies[file.id])


def _sort_out_live(source: str, wanted: dict[str, UploadItem], sorting: _Sorting) -> None:
    """What is under way: a repeated request, one that replaces an older one of the same source, or somebody else's."""
    for piece in portions(list(wanted), _PIECE):
        for row in _IN.select().where(among(_IN.name, piece), live(_IN)):
            item = wanted[row.name]
            equal = row.size == item.upload_size and digest.same(row.checksum, item.upload_checksum)
            if row.source == source and row.source_transfer_id == item.source_transfer_id and equal:
                sorting.replayed[item.source_transfer_id] = Place(
                    row.id, row.source_transfer_id, row.name, row.store_id, row.staging_id
                )
                wanted.pop(row.name)
            elif row.source == source and (row.status < TransferStatus.STAGED or not equal):
                sorting.superseded.append(row.id)
            else:
                # Who that is, is not the caller's business.
                sorting.refuse(wanted.pop(row.name), BUSY, "somebody else is just bringing a file of that name")


def clashing(wanted: Iterable[str]) -> list[str]:
    """Names that would be a file where others have a directory, or the other way round, here or under way."""
    asked = list(wanted)
    clashing: list[str] = []
    database = current()
    for piece in portions(asked, 2000):
        given = "WITH given(name) AS (VALUES " + ", ".join([f"({database.param})"] * len(piece)) + ") "
        for table, condition in (("file", ""), ("incoming_transfer", " AND t.status < 3")):
            clashing += [
                name
                for (name,) in database.execute_sql(
                    f"{given}SELECT given.name FROM given WHERE EXISTS (SELECT 1 FROM {table} t "
                    f"WHERE t.name > given.name || '/' AND t.name < given.name || '0'{condition})",
                    piece,
                )
            ]
    ups: dict[str, list[str]] = {}
    for name in asked:
        for up in names.above(name):
            ups.setdefault(up, []).append(name)
    for piece in portions(list(ups), _PIECE):
        for query in (
            File.select(File.name).where(among(File.name, piece)),
            _IN.select(_IN.name).where(among(_IN.name, piece), live(_IN)),
        ):
            for (up,) in query.tuples():
                clashing += ups[up]
    return list(dict.fromkeys(clashing))


def _place(usable: list[tuple[StoreRow, Any]], sorting: _Sorting) -> tuple[StoreRow | None, Any, list[UploadItem]]:
    """The first store that takes the whole rest, else the one that takes most of it; what does not fit is refused."""
    if not usable:
        return None, None, []
    size = sum(item.upload_size for item in sorting.fresh)
    rooms = [(row, store, places.room(row, store)) for row, store in usable]
    row, store, free = next((each for each in rooms if each[2] > size), max(rooms, key=lambda each: each[2]))
    fitting = []
    for item in sorting.fresh:
        if item.upload_size < free:
            free -= item.upload_size
            fitting.append(item)
        else:
            sorting.refuse(item, ROOM, f"no store has room for its {item.upload_size} bytes now")
    return row, store, fitting


# -- how far transfers have come ----------------------------------------------------------------------------------


def owned(caller: Caller) -> Expression:
    """The condition that an incoming transfer belongs to the caller."""
    return (_IN.source == caller.name) if not caller.admin else (_IN.id > 0)


def move(ids: list[int], new: TransferStatus, caller: Caller, host: Host) -> list[int]:
    """Let the caller move its own incoming transfers to ``new``; returns those that were moved."""
    moved: list[int] = []
    for piece in portions(ids, _PIECE):
        mine = (among(_IN.id, piece)) & (_IN.status << earlier(new)) & owned(caller)
        changes: dict[str, Any] = {"status": new}
        if new > TransferStatus.STAGED:
            changes |= {"end_time": host.now(), "owed": Owed.NOTHING, "reason": "the source gave it up"}
        with writing("moved by its source"):
            moved += [id for (id,) in raw_rows(_IN.update(**changes).where(mine).returning(_IN.id))]
    return moved


def end(ids: list[int], status: TransferStatus, host: Host, reason: str) -> int:
    """End live incoming transfers without telling anybody; their staging places are removed by recv-clone."""
    return int(
        _IN.update(status=status, end_time=host.now(), owed=Owed.NOTHING, reason=reason)
        .where(among(_IN.id, ids), live(_IN))
        .execute()
    )


def paired(pairs: list[tuple[int, int]], caller: Caller) -> list[int]:
    """Our numbers of those ``(source's number, ours)`` that belong together: one of us may have been restored and use
    its numbers anew."""
    found: list[int] = []
    for piece in portions(pairs, _PIECE):
        wanted = {ours: theirs for theirs, ours in piece}
        rows = raw_rows(_IN.select(_IN.id, _IN.source_transfer_id).where(among(_IN.id, list(wanted)), owned(caller)))
        found += [id for id, source_id in rows if wanted[id] == source_id]
    return found


def states(ids: list[int], caller: Caller) -> dict[int, TransferStatus | None]:
    """How far the caller's incoming transfers have come; None: unknown, or not the caller's."""
    found: dict[int, TransferStatus | None] = dict.fromkeys(ids)
    for piece in portions(ids, _PIECE):
        rows = raw_rows(_IN.select(_IN.id, _IN.status).where(among(_IN.id, piece), owned(caller)))
        found.update({id: _STATUS[status] for id, status in rows})
    return found
