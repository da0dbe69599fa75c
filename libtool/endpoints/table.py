"""The table of trust: every endpoint, who may call it, whose things it touches, how much it may be sent.

The router obeys the columns ``level`` and ``most``; what ``owner`` says is kept by the conditions of the rules in
``archive``. README, 'Security', shows the same table, and the tests walk it with every kind of caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from libtool.states import AuthLevel

_NONE, _READ, _CALL, _ADD, _ADMIN = (
    AuthLevel.NONE,
    AuthLevel.READONLY,
    AuthLevel.CALLBACK,
    AuthLevel.READAPPEND,
    AuthLevel.ADMIN,
)
#: Bytes of a request that is about one thing; those about many may have as many as the configuration allows.
SMALL = 64 * 1024


class Owner(Enum):
    """Whose things an endpoint touches; an administrator's account is exempt where nothing else is said."""

    NOBODY = "anybody's"
    SOURCE = "the caller's own: source is the caller's name"
    INCOMING = "incoming transfers from the caller"
    OUTGOING = "outgoing transfers to the caller"
    REPORTED = "outgoing transfers to the caller; administrators are not exempt"
    BOTH = "transfers from and to the caller"
    COPIES = "copies at the caller"
    NAMED = "what was sent to the caller, which must be a neighbour; administrators are not exempt"
    UPLOADER = "the caller's uploads; administrators are not exempt"
    SELF = "the caller's account"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a handler is, who may call it, what it is sent and answers."""

    module: str  #: below ``libtool.endpoints``
    function: str
    level: AuthLevel
    message: str | None  #: ``Message`` of peers.messages or ``admin.Message`` of peers.admin; None: an empty object
    owner: Owner = Owner.NOBODY
    status: int = 200
    most: int | None = SMALL  #: bytes of a request; None: ``max_body_bytes``


#: Every endpoint below ``/api/v2/``. What stands under ``libtool/`` is only spoken to those who announced it.
ENDPOINTS = {
    "ping": Endpoint("ping", "ping", _NONE, None),
    "ping/logged": Endpoint("ping", "ping", _READ, None),
    "ping/admin": Endpoint("ping", "ping", _ADMIN, None),
    # A source brings files.
    "clone/stage": Endpoint("clone", "stage_one", _ADD, "StageOne", Owner.SOURCE, 201),
    "clone/batch_stage": Endpoint("clone", "batch_stage", _ADD, "BatchStage", Owner.SOURCE, 201, None),
    "clone/ongoing": Endpoint("clone", "ongoing_one", _ADD, "Pair", Owner.INCOMING),
    "clone/staged": Endpoint("clone", "staged_one", _CALL, "Pair", Owner.INCOMING),
    "clone/fail": Endpoint("clone", "fail", _ADD, "CloneFail", Owner.INCOMING, most=2 * SMALL),
    # A destination tells what became of them.
    "clone/complete": Endpoint("clone", "complete", _CALL, "CloneComplete", Owner.OUTGOING),
    "checkin/update": Endpoint("checkin", "update", _CALL, "CheckinUpdate", Owner.BOTH, most=None),
    "checkin/status": Endpoint("checkin", "status", _CALL, "CheckinStatus", Owner.BOTH, most=None),
    "corrupt/prepare": Endpoint("corrupt", "prepare", _CALL, "Corrupt", Owner.NAMED),
    "corrupt/resend": Endpoint("corrupt", "resend", _CALL, "Corrupt", Owner.NAMED),
    # Looking.
    "search/file": Endpoint("search", "file", _READ, "SearchFile"),
    "search/instance_local": Endpoint("search", "instance_local", _ADMIN, "admin.SearchInstance"),
    "search/instance_remote": Endpoint("search", "instance_remote", _ADMIN, "admin.SearchRemote"),
    "search/error": Endpoint("search", "error", _ADMIN, "admin.SearchError"),
    "error/clear": Endpoint("search", "clear_error", _ADMIN, "admin.ErrorClear"),
    "validate/file": Endpoint("validate", "file", _READ, "ValidateFile"),
    # People and programs bring files by hand.
    "upload/stage": Endpoint("upload", "stage", _ADD, "admin.UploadStage", Owner.UPLOADER, 201),
    "upload/commit": Endpoint("upload", "commit", _ADD, "admin.UploadCommit", Owner.UPLOADER),
    # Operators.
    "users/create": Endpoint("users", "create", _ADMIN, "admin.UserCreate", status=201),
    "users/update": Endpoint("users", "update", _ADMIN, "admin.UserUpdate"),
    "users/delete": Endpoint("users", "delete", _ADMIN, "admin.UserName"),
    "users/get": Endpoint("users", "get", _ADMIN, "admin.UserName"),
    "users/password_update": Endpoint("users", "password_update", _READ, "admin.PasswordUpdate", Owner.SELF),
    "admin/librarians/list": Endpoint("admin", "list_librarians", _ADMIN, "admin.LibrariansList"),
    "admin/librarians/add": Endpoint("admin", "add_librarian", _ADMIN, "admin.LibrarianAdd"),
    "admin/librarians/remove": Endpoint("admin", "remove_librarian", _ADMIN, "admin.LibrarianRemove"),
    "admin/librarians/transfer_status/change": Endpoint("admin", "set_transfers", _ADMIN, "admin.TransferStatusChange"),
    # The stock client's spelling, which the stock server does not know.
    "admin/librarians/transfer_status/set": Endpoint("admin", "set_transfers", _ADMIN, "admin.TransferStatusChange"),
    "admin/stores/list": Endpoint("admin", "list_stores", _ADMIN, None),
    "admin/stores/state_change": Endpoint("admin", "set_store", _ADMIN, "admin.StoreState"),
    "admin/stores/manifest": Endpoint("admin", "manifest", _ADMIN, "admin.ManifestRequest"),
    "admin/instance/delete_local": Endpoint("admin", "delete_local", _ADMIN, "admin.InstanceDelete"),
    "admin/instance/delete_remote": Endpoint("admin", "delete_remote", _ADMIN, "admin.InstanceDelete"),
    "admin/add_file": Endpoint("admin", "add_file", _ADMIN, "admin.AddFile"),
    # Between librarians that both are libtool.
    "libtool/clone/batch_stage": Endpoint("clone", "batch_stage_each", _ADD, "BatchStage", Owner.SOURCE, 201, None),
    "libtool/clone/staged": Endpoint("clone", "staged", _ADD, "Staged", Owner.INCOMING, most=None),
    "libtool/clone/given_up": Endpoint("clone", "given_up", _ADD, "Staged", Owner.INCOMING, most=None),
    "libtool/clone/report": Endpoint("clone", "report", _CALL, "Report", Owner.REPORTED, most=None),
    "libtool/clone/states": Endpoint("clone", "states", _CALL, "States", Owner.BOTH, most=None),
    "libtool/catalogue/known": Endpoint("neighbours", "known", _READ, "Known", most=None),
    "libtool/catalogue/delivered": Endpoint("neighbours", "delivered", _CALL, "Delivered", Owner.COPIES),
    "libtool/catalogue/validate": Endpoint("validate", "many", _CALL, "Validate", most=None),
    "libtool/ping/back": Endpoint("neighbours", "ping_back", _CALL, None, Owner.SELF),
}
