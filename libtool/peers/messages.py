"""The messages of the wire, typed and bounded: what a peer may say and what it is answered.

Names, numbers and shapes are those of hera_librarian 5; what stands under ``libtool/`` is ours and only spoken to
those who announced it. Decoding checks types, lengths and ranges, so that nothing unchecked gets further in.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from libtool.states import TransferStatus

#: 64-bit ids and sizes; stock servers keep no larger ones either.
Int = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
#: One line or a path; PostgreSQL cannot store NUL, so nobody may.
Text = Annotated[str, Meta(max_length=4096, pattern=r"\A[^\x00]*\Z")]
Short = Annotated[str, Meta(max_length=256, pattern=r"\A[^\x00]*\Z")]
Reason = Annotated[str, Meta(max_length=65536, pattern=r"\A[^\x00]*\Z")]


class Nothing(Struct):
    """``{}``: a request without content."""


class PingAnswer(Struct):
    """Who answers, in words for people."""

    name: str
    description: str


# -- staging ------------------------------------------------------------------------------------------------------


class UploadItem(Struct):
    """One file that a source wants to bring."""

    upload_size: Int
    upload_checksum: Short
    upload_name: Text
    destination_location: Text
    uploader: Text
    source_transfer_id: Int


class BatchStage(Struct):
    """``clone/batch_stage``: make room for these."""

    uploads: list[UploadItem]
    source: Short
    total_size: Int = 0


class StageOne(UploadItem, kw_only=True):
    """``clone/stage``: make room for this one, which somebody brings by hand."""

    source: Short


class StagedOne(Struct):
    """The answer 201 to it."""

    available_bytes_on_store: Int
    store_name: str
    staging_name: Text
    staging_location: Text
    upload_name: Text
    destination_location: Text
    transfer_providers: dict[str, Any]
    source_transfer_id: Int
    destination_transfer_id: Int


class StagedItem(Struct):
    """Where one of them may be put."""

    staging_name: Text
    staging_location: Text
    upload_name: Text
    destination_location: Text
    source_transfer_id: Int
    destination_transfer_id: Int


class RefusedItem(Struct):
    """Why one of them may not come; only to libtool callers."""

    source_transfer_id: Int
    code: str
    reason: str
    store_id: Int | None = None  #: with code "have": the store in which the same content lies already


class BatchStaged(Struct):
    """The answer 201."""

    available_bytes_on_store: Int
    store_name: str
    uploads: list[StagedItem]
    async_transfer_providers: dict[str, Any]
    refused: list[RefusedItem] = field(default_factory=list)


class Place(Struct):
    """What a source needs of a :class:`StagedItem`; the rest of it is not kept while an answer is read."""

    staging_location: Text
    source_transfer_id: Int
    destination_transfer_id: Int


class Places(Struct):
    """What a source needs of :class:`BatchStaged`."""

    uploads: list[Place]
    async_transfer_providers: dict[str, Any]
    available_bytes_on_store: Int = 0
    refused: list[RefusedItem] = field(default_factory=list)


#: Codes of a RefusedItem.
HAVE = "have"  #: the same content lies here already, verified: record it
CONFLICT = "conflict"  #: other content has that name here: only people can settle that
NAME = "name"  #: no file may have that name here
BUSY = "busy"  #: it is under way here already: ask again later
ROOM = "room"  #: no room for it now: ask again later


# -- progress -----------------------------------------------------------------------------------------------------


class CheckinUpdate(Struct):
    """``checkin/update``: these transfers have come so far. ``source_…`` are outgoing at the one who is asked."""

    source_transfer_ids: list[Int]
    destination_transfer_ids: list[Int]
    new_status: TransferStatus


class CheckinUpdated(Struct):
    """Each id stands in exactly one list."""

    modified_source_transfer_ids: list[Int] = field(default_factory=list)
    modified_destination_transfer_ids: list[Int] = field(default_factory=list)
    unmodified_source_transfer_ids: list[Int] = field(default_factory=list)
    unmodified_destination_transfer_ids: list[Int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


class CheckinStatus(Struct):
    """``checkin/status``: how far have these come?"""

    source_transfer_ids: list[Int] = field(default_factory=list)
    destination_transfer_ids: list[Int] = field(default_factory=list)


class CheckinStatuses(Struct):
    """By id; null: unknown, or not the caller's."""

    source_transfer_status: dict[Int, TransferStatus | None] = field(default_factory=dict)
    destination_transfer_status: dict[Int, TransferStatus | None] = field(default_factory=dict)


class Pair(Struct):
    """One transfer by its number on either side."""

    source_transfer_id: Int
    destination_transfer_id: Int


class CloneFail(Struct):
    """``clone/fail``: the source gives up on this one."""

    source_transfer_id: Int
    destination_transfer_id: Int
    reason: Reason = ""


class PairDone(Struct):
    """The answer to ``clone/fail`` and ``clone/staged``."""

    source_transfer_id: Int
    destination_transfer_id: Int
    success: bool = True


class CloneComplete(Struct):
    """``clone/complete``: it is verified and stored here, in my store of this number."""

    source_transfer_id: Int
    destination_transfer_id: Int
    store_id: Int


class Staged(Struct):
    """``libtool/clone/staged``: these lie in your staging area now."""

    transfers: list[Pair]


class StagedAnswer(Struct):
    """How far each one has come at the destination, by its number there; null: it knows of no such transfer."""

    states: dict[Int, TransferStatus | None]


class Completed(Struct):
    """One file that is verified and stored, and what it turned out to be."""

    source_transfer_id: Int
    destination_transfer_id: Int
    store_id: Int
    checksum: Short
    name: Text = ""  #: numbers may be used anew by a librarian that was restored; names never are


class Failed(Struct):
    """One attempt that ended without a copy, and why."""

    source_transfer_id: Int
    destination_transfer_id: Int
    reason: Reason


class Report(Struct):
    """``libtool/clone/report``: what became of these, from the destination to the source."""

    completed: list[Completed] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)


class ReportAnswer(Struct):
    """By the source's number: whether it took it over. false: it knows of no such transfer of the caller's."""

    accepted: dict[Int, bool]


# -- comparing catalogues -----------------------------------------------------------------------------------------


class Known(Struct):
    """``libtool/catalogue/known``: which of these files do you know?"""

    names: list[Text]


class KnownFile(Struct):
    """What the one who answers knows of a file, and in which of its stores it has a copy (null: in none)."""

    size: Int
    checksum: str
    store_id: Int | None


class KnownAnswer(Struct):
    """In the order of the question; null: it knows no such file."""

    files: list[KnownFile | None]


class Delivered(Struct):
    """``libtool/catalogue/delivered``: which files do you think lie here with me? Page by page, from ``after`` on."""

    after: Int = 0
    limit: Annotated[int, Meta(ge=1, le=5000)] = 1000


class DeliveredFile(Struct):
    """One of them."""

    id: Int  #: where the next page begins
    name: Text
    size: Int
    checksum: Short
    uploader: Text


class DeliveredAnswer(Struct):
    """One page; an empty one is the last."""

    files: list[DeliveredFile]


class States(Struct):
    """``libtool/clone/states``: how far have these come? ``outgoing`` and ``incoming`` at the one who is asked."""

    outgoing: list[Pair] = field(default_factory=list)
    incoming: list[Pair] = field(default_factory=list)


class StatesAnswer(Struct):
    """In the order of the question; null: it knows no such transfer of the caller's with these two numbers."""

    outgoing: list[TransferStatus | None] = field(default_factory=list)
    incoming: list[TransferStatus | None] = field(default_factory=list)


class PingedBack(Struct):
    """``libtool/ping/back``: whether the one who was asked can reach the caller, and why not."""

    reached: bool
    reason: str = ""
    outdated: bool = False  #: the caller came with a password that was followed by another


# -- looking ------------------------------------------------------------------------------------------------------


class SearchFile(Struct):
    """``search/file``; all given conditions must hold."""

    name: Text | None = None
    create_time_window: list[str | float] | None = None
    uploader: Text | None = None
    source: Text | None = None
    max_results: Int = 64


class FoundInstance(Struct):
    """A copy at the one who answers."""

    path: str
    deletion_policy: int
    created_time: str
    available: bool
    id: Int | None = None
    file_name: str | None = None
    store_id: Int | None = None


class FoundRemoteInstance(Struct):
    """A copy at a neighbour of the one who answers."""

    librarian_name: str
    copy_time: str
    id: Int | None = None
    file_name: str | None = None
    store_id: Int | None = None
    sender: str | None = None


class FoundFile(Struct):
    """One file and its copies."""

    name: str
    create_time: str
    size: Int
    checksum: str
    uploader: str
    source: str
    instances: list[FoundInstance] = field(default_factory=list)
    remote_instances: list[FoundRemoteInstance] = field(default_factory=list)


class ValidateFile(Struct):
    """``validate/file``: read your copies of it."""

    file_name: Text


class Validation(Struct):
    """What one copy turned out to be."""

    librarian: str
    store: Int
    instance_id: Int
    original_checksum: str
    original_size: Int
    current_checksum: str
    current_size: Int
    computed_same_checksum: bool


#: A span of time in seconds.
Seconds = Annotated[float, Meta(ge=0, le=10**9)]


class Validate(Struct):
    """``libtool/catalogue/validate``: say what your copies of these are; read those that you have not just read."""

    names: list[Text]
    max_age: Seconds = 0.0  #: a copy that was read and found right no longer ago need not be read again
    seconds: Seconds = 0.0  #: how long may be spent on reading; what was not read then is unknown
    hold: Seconds = 0.0  #: I am about to delete mine because of yours: keep what you find good for so long
    depth: Annotated[int, Meta(ge=0, le=3)] = 0  #: how many librarians further may be asked
    asked: list[Short] = field(default_factory=list)  #: who need not be asked again


class ValidatedCopy(Struct):
    """What one copy is."""

    librarian: Short  #: that holds it
    store: Int
    instance_id: Int
    good: bool | None  #: whether it was read and is what was recorded; None: it was not read, which is no verdict
    size: Int = 0  #: bytes, as recorded; what was found when it is not good
    checksum: Short = ""  #: the same
    age: Seconds = 0.0  #: seconds since it was read, by the clock of the one who read it
    why: Reason = ""  #: why it is not good, or was not read


class ValidateAnswer(Struct):
    """An entry for each name, in the order of the request; None: no such file is known."""

    files: list[list[ValidatedCopy] | None] = field(default_factory=list)


class Corrupt(Struct):
    """``corrupt/prepare`` and ``corrupt/resend``: my copy is bad; ``librarian_name`` is the one who asks."""

    file_name: Text
    librarian_name: Short


class Ready(Struct):
    """Whether it could be sent."""

    ready: bool


class Resent(Struct):
    """It is on its way, as this incoming transfer of yours."""

    success: bool
    destination_transfer_id: Int


def encode(message: Any) -> bytes:
    """Compact JSON."""
    return msgspec.json.encode(message)


def plain(message: Any) -> Any:
    """A message as dictionaries and lists."""
    return msgspec.to_builtins(message)


def decode(kind: Any, body: bytes) -> Any:
    """A message of the given type; ValueError says which field is wrong. Numbers may come as strings, as at stock servers."""
    try:
        return msgspec.json.decode(body, type=kind, strict=False)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeError) as wrong:
        raise ValueError(str(wrong)) from None
