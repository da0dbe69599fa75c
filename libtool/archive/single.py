"""Files that come one at a time: carried on a disk and staged by an operator, or uploaded by a person or program.

They use the places, rows and rules of every other arrival; only their requests differ. What comes without a number of
its source (negative) is reported to nobody.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, NoReturn

from peewee import SQL

from libtool.archive import ingest, intake, receiving
from libtool.archive.accounts import Caller
from libtool.archive.hands import Host, Tally
from libtool.errors import (
    AlreadyHere,
    Denied,
    NoRoom,
    NotNow,
    OtherContent,
    Refused,
    StoreUnavailable,
    UnderWay,
    UnknownTransfer,
)
from libtool.models.base import writing
from libtool.models.tables import IncomingTransfer, Librarian, live
from libtool.models.tables import Store as StoreRow
from libtool.peers.admin import UploadStage, UploadStaged
from libtool.peers.messages import (
    BUSY,
    CONFLICT,
    HAVE,
    NAME,
    BatchStage,
    BatchStaged,
    Pair,
    RefusedItem,
    StagedOne,
    StageOne,
    UploadItem,
)
from libtool.states import DeletionPolicy, TransferStatus

_IN = IncomingTransfer
#: The number of a file whose source waits for no report.
UNNUMBERED = -1


def stage(host: Host, caller: Caller, message: StageOne) -> StagedOne:
    """A place for one file that is carried by hand."""
    source = message.source
    if caller.admin and Librarian.select().where(Librarian.name == message.uploader, ~Librarian.removed).exists():
        # The stock command names as source where the file came from at first, and as uploader who made the manifest;
        # that one has the transfer and waits to be called back.
        source = message.uploader
    answer = _stage(host, caller, message, source)
    place = answer.uploads[0]
    return StagedOne(
        **_place(host, answer),
        source_transfer_id=place.source_transfer_id,
        destination_transfer_id=place.destination_transfer_id,
    )


def stage_upload(host: Host, caller: Caller, message: UploadStage) -> UploadStaged:
    """A place for one file that somebody uploads."""
    item = UploadItem(
        message.upload_size,
        message.upload_checksum,
        message.upload_name,
        message.destination_location,
        message.uploader,
        UNNUMBERED,
    )
    answer = _stage(host, caller, item, caller.name)
    return UploadStaged(**_place(host, answer), transfer_id=answer.uploads[0].destination_transfer_id)


def _place(host: Host, answer: BatchStaged) -> dict[str, Any]:
    """What both answers say of the place, and who may copy there by itself."""
    place = answer.uploads[0]
    return {
        "available_bytes_on_store": answer.available_bytes_on_store,
        "store_name": answer.store_name,
        "staging_name": place.staging_name,
        "staging_location": place.staging_location,
        "upload_name": place.upload_name,
        "destination_location": place.destination_location,
        "transfer_providers": _providers(host, answer.store_name),
    }


def _stage(host: Host, caller: Caller, item: UploadItem, source: str) -> BatchStaged:
    plain = UploadItem(
        item.upload_size,
        item.upload_checksum,
        item.upload_name,
        item.destination_location,
        item.uploader,
        item.source_transfer_id,
    )
    answer = receiving.stage(host, caller, BatchStage([plain], source, plain.upload_size), stock=False)
    for refused in answer.refused:
        _refuse(refused, plain, answer)
    return answer


def _refuse(refused: RefusedItem, item: UploadItem, answer: BatchStaged) -> NoReturn:
    """The error that stock clients expect for one file."""
    ids = {"source_transfer_id": item.source_transfer_id, "destination_transfer_id": -1}
    if refused.code == HAVE:
        raise AlreadyHere(**ids)
    if refused.code == CONFLICT:
        raise OtherContent(**ids, why=refused.reason)
    if refused.code == BUSY:
        raise UnderWay(**ids)
    if refused.code == NAME:
        raise Refused(why=f"no file can have this name here: {refused.reason}", how="Choose another name.")
    raise NoRoom(size=item.upload_size, room=answer.available_bytes_on_store)


def _providers(host: Host, store: str) -> dict[str, Any]:
    """Who may copy into a store's staging area by itself: the hosts of its carrier ``local``."""
    wanted = host.settings.store(store)
    local = wanted.asynchronous_transfer_manager_data.get("local") if wanted is not None else None
    if not local or not local.get("available", True):
        return {}
    return {"local": {"hostnames": local["hostnames"]}}


def advance(host: Host, caller: Caller, pair: Pair, new: TransferStatus) -> None:
    """Move one transfer of the caller on; one that is there already may be told so again."""
    number = pair.destination_transfer_id
    known = receiving.paired([(pair.source_transfer_id, number)], caller)
    if receiving.move(known, new, caller, host):
        return
    state = receiving.states(known, caller).get(number)
    ids = {"source_transfer_id": pair.source_transfer_id, "destination_transfer_id": number}
    if state is None:
        raise UnknownTransfer(**ids)
    if state is not new:
        raise NotNow(why=f"The transfer is {state.name}", how=f"It cannot become {new.name} from there.", **ids)


def commit(host: Host, caller: Caller, number: int, policy: DeletionPolicy) -> None:
    """An upload lies in its place: read it, store it, record it, now. It can be repeated."""
    mine = (_IN.id == number) & (_IN.source == caller.name) & (_IN.source_transfer_id == UNNUMBERED)
    transfer = _IN.get_or_none(mine)
    if transfer is None:
        raise Denied()
    with ExitStack() as held:
        if transfer.status < TransferStatus.COMPLETED:
            row = StoreRow.get_by_id(transfer.store_id)
            if not row.enabled:
                raise StoreUnavailable(store=row.name, why="it is disabled")
            claim = ingest.claim_slot(host, held)
            intake.settle(host, claim, Tally())  # what a process that died left under it
            with writing("commit upload"):
                changes = {"status": TransferStatus.STAGED, "claim": claim, "deletion_policy": policy}
                # One that is STAGED already is recv-clone's: two must never take in the same file.
                taken = _IN.update(**changes).where(mine, _IN.status < SQL("2"), _IN.claim.is_null()).execute()
            if taken:
                _take_in(host, transfer, row, policy)
        transfer = _IN.get_by_id(number)
    if transfer.status is TransferStatus.STAGED:
        raise UnderWay(transfer_id=number)  # recv-clone goes on with it, and looks again at what cannot be read now
    if transfer.status is not TransferStatus.COMPLETED:
        raise NotNow(why=f"The upload was not taken: {transfer.reason}", how="Stage it again.")


def _take_in(host: Host, transfer: IncomingTransfer, row: StoreRow, policy: DeletionPolicy) -> None:
    try:
        intake.take_in(host, row, host.store(row), intake.staged([transfer.id]), Tally(), policy)
    finally:
        with writing("upload unclaimed"):  # what could not be read now is recv-clone's
            _IN.update(claim=None).where(_IN.id == transfer.id, live(_IN)).execute()
    if transfer.staging_id:
        intake.tidy(host, transfer.staging_id)
