"""The messages of operators: accounts, neighbours, stores, uploads by hand, looking into the catalogue.

Names and shapes are those of hera_librarian 5, so that its command works here and libtool's works there. They stand
apart from :mod:`libtool.peers.messages`, because the nightly traffic between librarians needs none of them.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, field

from libtool.peers.messages import Int, Short, Text
from libtool.states import AuthLevel

#: A name that is looked for may be anything; one that is given must be a name.
Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")]
#: Printable ASCII without a colon, which ends it in an authenticator.
UserNameText = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"\A[!-9;-~]+\Z")]
Password = Annotated[str, Meta(min_length=8, max_length=1024, pattern=r"\A[^\x00]*\Z")]
Port = Annotated[int, Meta(ge=0, le=65535)]


# -- accounts -----------------------------------------------------------------------------------------------------


class UserCreate(Struct):
    """``users/create``."""

    username: UserNameText
    password: Password
    permission: AuthLevel


class UserUpdate(Struct):
    """``users/update``; what is null stays."""

    username: Short
    password: Password | None = None
    permission: AuthLevel | None = None


class UserName(Struct):
    """``users/delete``, ``users/get``."""

    username: Short


class UserDone(Struct):
    """What became of an account."""

    success: bool
    username: str


class UserFound(Struct):
    """An account and its level."""

    username: str
    permission: AuthLevel


class PasswordUpdate(Struct):
    """``users/password_update``: a new password for the caller."""

    password: Short
    new_password: Password


# -- neighbours ---------------------------------------------------------------------------------------------------


class LibrariansList(Struct):
    """``admin/librarians/list``."""

    ping: bool = True


class LibrarianFound(Struct):
    """One neighbour; ``available`` is null when it was not asked."""

    name: str
    url: str
    port: int
    available: bool | None = None
    enabled: bool = True


class LibrariansFound(Struct):
    """All neighbours."""

    librarians: list[LibrarianFound]


class LibrarianAdd(Struct):
    """``admin/librarians/add``."""

    librarian_name: Name
    url: Text
    port: Port
    authenticator: Short
    check_connection: bool = True


class LibrarianAdded(Struct):
    """What became of it; ``ping_success`` is null when it was not tried."""

    success: bool
    already_exists: bool
    ping_success: bool | None = None
    reason: str = ""  #: why not; for those who read it


class LibrarianRemove(Struct):
    """``admin/librarians/remove``."""

    librarian_name: Short
    remove_outgoing_transfers: bool = False


class LibrarianRemoved(Struct):
    """What became of it."""

    success: bool
    number_of_transfers_removed: int = 0


class TransferStatusChange(Struct):
    """``admin/librarians/transfer_status/change`` and ``…/set``; also the answer."""

    librarian_name: Short
    transfers_enabled: bool


# -- stores -------------------------------------------------------------------------------------------------------


class StoreFound(Struct):
    """One store; ``free_space`` is -1 when it cannot be used now."""

    name: str
    store_type: str
    free_space: Int
    ingestable: bool
    available: bool
    enabled: bool


class StoreState(Struct):
    """``admin/stores/state_change``."""

    store_name: Short
    enabled: bool


class StoreStateChanged(Struct):
    """What became of it."""

    store_name: str
    enabled: bool
    success: bool = True


class ManifestRequest(Struct):
    """``admin/stores/manifest``: everything in a store, to be carried by hand."""

    store_name: Short
    create_outgoing_transfers: bool = False
    destination_librarian: Short = ""
    disable_store: bool = False
    mark_local_instances_as_unavailable: bool = False


class ManifestEntry(Struct):
    """One file in a store."""

    name: str
    create_time: str
    size: Int
    checksum: str
    uploader: str
    source: str
    instance_path: str
    deletion_policy: int
    instance_create_time: str
    instance_available: bool
    outgoing_transfer_id: Int


class Manifest(Struct):
    """All files in a store."""

    librarian_name: str
    store_name: str
    store_files: list[ManifestEntry]


class AddFile(Struct):
    """``admin/add_file``: what lies in a store already is registered where it lies."""

    name: Text
    size: Int
    checksum: Short
    uploader: Text
    source: Text
    path: Text
    store_name: Short
    create_time: Any = None


class FileAdded(Struct):
    """What became of it."""

    already_exists: bool
    file_exists: bool
    success: bool


# -- looking ------------------------------------------------------------------------------------------------------


class SearchInstance(Struct):
    """``search/instance_local``; all given conditions must hold."""

    id: Int | None = None
    path: Text | None = None
    deletion_policy: Short | None = None
    created_time: str | float | None = None
    file_name: Text | None = None
    store_id: Int | None = None
    available: bool | None = None
    max_results: Int = 64


class SearchRemote(Struct):
    """``search/instance_remote``; all given conditions must hold."""

    id: Int | None = None
    file_name: Text | None = None
    store_id: Int | None = None
    librarian_id: Int | None = None
    copy_time: str | float | None = None
    sender: Short | None = None
    max_results: Int = 64


class SearchError(Struct):
    """``search/error``; all given conditions must hold."""

    id: Int | None = None
    category: Short | None = None
    severity: Short | None = None
    create_time_window: list[str | float] | None = None
    include_resolved: bool = False
    max_results: Int = 64


class ErrorFound(Struct):
    """A trouble that lasts."""

    id: Int
    severity: str
    category: str
    message: str
    raised_time: str
    cleared_time: str | None
    cleared: bool
    caller: str | None


class ErrorClear(Struct):
    """``error/clear``."""

    id: Int


# -- copies -------------------------------------------------------------------------------------------------------


class InstanceDelete(Struct):
    """``admin/instance/delete_local`` and ``delete_remote``: forget a copy, or delete it."""

    instance_id: Int
    delete_file: bool | None = False


class InstanceDeleted(Struct):
    """It is forgotten."""

    success: bool
    instance_id: Int


# -- uploads ------------------------------------------------------------------------------------------------------


class UploadStage(Struct):
    """``upload/stage``: somebody wants to bring one file."""

    upload_size: Int
    upload_checksum: Short
    upload_name: Text
    destination_location: Text
    uploader: Text


class UploadStaged(Struct):
    """Where to put it, and how."""

    available_bytes_on_store: Int
    store_name: str
    staging_name: str
    staging_location: str
    upload_name: str
    destination_location: str
    transfer_providers: dict[str, Any]
    transfer_id: Int


class UploadCommit(Struct):
    """``upload/commit``: it lies there now; of what the stock client sends, only this is used."""

    transfer_id: Int
    destination_location: Text = ""
    store_name: Short = ""
    deletion_policy: str | int = field(default="disallowed")
