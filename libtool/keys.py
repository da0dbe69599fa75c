"""The keys of the configuration: each once, with its check, its default, its text and an example.

A check takes the value as it was written and returns it as it is used, or raises ValueError saying what was expected.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any

from libtool import names, units

Check = Callable[[Any], Any]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("expected text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def _whole(low: int, high: int) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return value

    return check


def _fraction(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ValueError("expected a number above 0 and up to 1")
    return float(value)


def _size(value: Any) -> int:
    return units.parse_size(value)


def mapping(value: Any) -> dict[str, Any]:
    """A mapping with text for keys."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError("expected a mapping, that is lines of 'key: value' one level deeper")
    return dict(value)


def _absolute(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError("expected an absolute path")
    return os.path.normpath(value)


def _absolutes(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("expected a list of absolute paths")
    return tuple(_absolute(item) for item in value)


def _librarian_name(value: Any) -> str:
    if not names.is_librarian_name(value):
        raise ValueError("expected a name of letters, digits, dots, dashes and underscores, such as site_a")
    return str(value)


def _database(value: Any) -> str:
    if not isinstance(value, str) or not re.match(r"sqlite:///?.+|postgres(ql)?://.+", value):
        raise ValueError("expected a URL such as sqlite:///catalogue.db or postgresql://user@host:5432/name")
    # Whatever is quoted wrongly in it: a colon before the last "@" begins a password.
    if re.match(r"postgres(ql)?://([^@]*:.*@|.*[?&]\s*(ssl)?pass(word)?\s*=)", value, re.DOTALL | re.IGNORECASE):
        raise ValueError("holds a password; put it into ~/.pgpass or into a file named by database_password_file")
    return value


def _store_type(value: Any) -> str:
    if value not in ("local",):
        raise ValueError("expected a kind of store; there is local")
    return str(value)


def _defaults(value: Any) -> dict[str, Any]:
    commands = mapping(value)
    for command, options in commands.items():
        if options is not None:
            try:
                mapping(options)
            except ValueError as wrong:
                raise At(command, str(wrong)) from None
    return commands


class At(ValueError):
    """What is wrong lies one level deeper, at a key of its own."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(why)
        self.key = key


#: What the reference keeps beside a carrier's keys.
_CARRIERS_STATE = {
    "native_app",
    "task_id",
    "transfer_attempted",
    "transfer_complete",
    "start_time_transfer",
    "bytes_transfer",
}


def _carriers(value: Any) -> dict[str, Any]:
    carriers = mapping(value)
    for kind, options in carriers.items():
        if kind not in ("globus", "local", "rsync"):
            raise ValueError(f"'{kind}' is no way to carry files; there are globus, local and rsync")
        needs = {"globus": "destination_endpoint", "local": "hostnames", "rsync": "hostname"}[kind]
        _flag(mapping(options).get("available", True))
        if needs not in options:
            raise ValueError(f"{kind} needs {needs}")
        if strange := sorted(set(options) - {needs, "available"} - _CARRIERS_STATE):
            raise ValueError(f"{kind} has no key {strange[0]}; it has {needs} and available")
    return carriers


def _collection(value: Any) -> str:
    if not names.is_uuid(value):
        raise ValueError("expected the id of a Globus collection, such as 6c54cade-bde5-45c1-bdea-f4bd71dba2cc")
    return str(value).lower()


def _place(value: Any) -> str:
    path = _absolute(value)
    if ".." in value.split("/"):  # past a link it leads elsewhere than it reads
        raise ValueError("expected an absolute path without '..'")
    if path.startswith(("//", "/~")) or {"\n", "\r"}.intersection(path):
        raise ValueError("expected an absolute path, without '~' and line breaks")
    return path


def _patterns(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip("/") for item in value):
        raise ValueError("expected a list of patterns such as ['*.tmp', 'scratch/']")
    return tuple(value)


def _address(value: Any) -> str:
    # Nothing that could be read as an option, a second address or another line of a message.
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_][!#-'*+./0-9=?A-Z^-~-]*@[A-Za-z0-9.-]+", value):
        raise ValueError("expected a mail address such as you@example.org")
    return value


def _addresses(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("expected a list of mail addresses such as [you@example.org]")
    return tuple(dict.fromkeys(_address(item) for item in value))


def _mail_host(value: Any) -> str:
    pattern = r"[A-Za-z0-9][A-Za-z0-9.-]*|[0-9A-Fa-f]*:[0-9A-Fa-f:]*:[0-9A-Fa-f.]*"
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise ValueError("expected a host such as smtp.example.org; the port is a key of its own")
    return value


def _mail_user(value: Any) -> str:
    if not _text(value).isprintable():
        raise ValueError("expected text on one line")
    return str(value)


def _security(value: Any) -> str:
    if not isinstance(value, str) or value not in MAIL_PORTS:
        raise ValueError(f"expected one of {', '.join(MAIL_PORTS)}")
    return value


#: How the way to a mail server may be protected, and the port that goes with each.
MAIL_PORTS = {"none": 25, "starttls": 587, "tls": 465}


def key(text: str, check: Check, example: str, default: Any = MISSING) -> Any:
    """One key of the configuration; without ``default`` it must be given."""
    options: dict[str, Any] = {"metadata": {"text": text, "check": check, "example": example}}
    if default is not MISSING:
        options["default_factory" if callable(default) else "default"] = default
    return field(**options)


# -- the keys -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoreData:
    """Where a store lies and how it treats what comes in (``store_data``)."""

    staging_path: str = key("Where arriving files wait until they are verified.", _text, "/data/staging")
    store_path: str = key("Where they lie afterwards: this path plus the file's name.", _text, "/data/store")
    report_full_fraction: float = key(
        "The part of the file system that may be filled; the rest counts as no room.", _fraction, "0.95", 1.0
    )
    group_write_after_stage: bool = key("Give the group write access to staging places.", _flag, "false", False)
    own_after_commit: bool = key("Copy on commit, so that this user owns what is stored.", _flag, "false", False)
    readonly_after_commit: bool = key("Take all write access from what is stored.", _flag, "false", False)


@dataclass(frozen=True)
class StoreSettings:
    """One entry of ``add_stores``."""

    store_name: str = key("The store's name, unique here and permanent.", _librarian_name, "main")
    store_data: StoreData = key("Where it lies.", lambda value: value, "")
    store_type: str = key("The kind of store; 'local' is a directory tree.", _store_type, "local", "local")
    ingestible: bool = key("Whether new files may come in.", _flag, "true", True)
    asynchronous_transfer_manager_data: Mapping[str, Any] = key(
        "What can bring files into its staging directory, told to the sender in this order.",
        _carriers,
        "{local: {available: true, hostnames: [dtn.example.org]}}",
        dict,
    )


@dataclass(frozen=True)
class RouteSettings:
    """One entry of ``routes``: a directory pair."""

    src_id: str = key("The collection that files come from.", _collection, "6c54cade-bde5-45c1-bdea-f4bd71dba2cc")
    src_dir: str = key("The directory there; its content is mirrored.", _place, "/data/outbox")
    dst_id: str = key("The collection that they go to.", _collection, "31ce9ba0-176d-45a5-add3-f37d233ba47d")
    dst_dir: str = key("The directory there, with the name that it is to have.", _place, "/archive/outbox")
    settle_seconds: float = key("How long a file must have kept still before it is sent.", units.parse_span, "5m", 60.0)
    keep_seconds: float = key("How long 'delete' keeps what has arrived.", units.parse_span, "7d", 86400.0)
    include: tuple[str, ...] = key("Patterns of the files to mirror; none means all.", _patterns, "['*.fits']", tuple)
    exclude: tuple[str, ...] = key(
        "Patterns of what is left alone; a directory's ends with '/'.", _patterns, "['*.tmp', 'scratch/']", tuple
    )
    remove_empty: bool | None = key(
        "Whether 'delete' removes the directories that it emptied; default: only where the source is on this host.",
        _flag,
        "false",
        None,
    )
    replace_removed: bool = key(
        "Whether a new file may replace the copy of one of its name that 'delete' removed here.", _flag, "false", False
    )
    max_files: int = key("Most files in one Globus task.", _whole(1, 100_000), "2000", 2000)
    max_deletions: int = key("Most files that one run of 'delete' sets aside.", _whole(1, 10**9), "100000", 100_000)

    def overlaps(self, other: RouteSettings) -> bool:
        """Whether the sources of two routes have files in common."""
        return self.src_id == other.src_id and nested(self.src_dir, other.src_dir)

    def collides(self, other: RouteSettings) -> bool:
        """Whether two routes may bring different files to one place; not when what they share comes from one place."""
        if self.dst_id != other.dst_id or not nested(self.dst_dir, other.dst_dir):
            return False
        alike = os.path.relpath(self.src_dir, other.src_dir) == os.path.relpath(self.dst_dir, other.dst_dir)
        return self.src_id != other.src_id or not alike


def nested(one: str, other: str) -> bool:
    """Whether one of two directories lies in the other, or is it."""
    one, other = one.rstrip("/") + "/", other.rstrip("/") + "/"
    return one.startswith(other) or other.startswith(one)


@dataclass(frozen=True)
class SmtpSettings:
    """The mail server (``email.smtp``)."""

    host: str = key("The mail server.", _mail_host, "smtp.example.org")
    port: int = key("Its port; default by security: 25, 587, 465.", _whole(1, 65535), "587", 0)
    security: str = key("How the way there is protected: none, starttls or tls.", _security, "starttls", "starttls")
    user: str | None = key("The account there; none: it takes mail without one.", _mail_user, "you@example.org", None)
    password_file: str | None = key("An owner-only file with the account's password.", _text, "smtp.secret", None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "port", self.port or MAIL_PORTS[self.security])
        if self.user and self.security == "none" and self.host not in ("localhost", "127.0.0.1", "::1"):
            raise At("security", "the password would be readable on the way; use starttls or tls")
        if self.password_file and not self.user:
            raise At("user", "is missing; the password is whose?")


@dataclass(frozen=True)
class EmailSettings:
    """Who is told by mail, and how (``email``)."""

    sender: str = key("The address that mail comes from.", _address, "libtool@example.org")
    recipients: tuple[str, ...] = key("Whom it goes to.", _addresses, "[you@example.org]")
    smtp: SmtpSettings | None = key("The mail server; without it this host's sendmail.", lambda value: value, "", None)


@dataclass(frozen=True)
class Settings:
    """The whole configuration of one librarian."""

    file: str = field(metadata={})  #: the file it was read from; no key

    name: str = key(
        "This librarian's name, and the account name that it uses at its peers. A node that has only routes needs none.",
        _librarian_name,
        "site_a",
        "",
    )
    displayed_site_name: str = key("What people call the site.", _text, "Site A", "Untitled Librarian")
    displayed_site_description: str = key(
        "One line about the site.", _text, "Raw data of telescope A", "No description set."
    )
    callback_url: str | None = key(
        "Where other librarians reach this one; 'connect' tells it to them.", _text, "https://dtn.site-a.org", None
    )
    ca_file: str | None = key(
        "Certificates (PEM) of the authority of https neighbours, when it is one of your own.", _text, "ca.pem", None
    )
    database: str = key(
        "The catalogue, as a URL. Several hosts need PostgreSQL.",
        _database,
        "sqlite:///catalogue.db",
        "sqlite:///catalogue.db",
    )
    database_password_file: str | None = key("An owner-only file with its password.", _text, "pg.secret", None)
    add_stores: tuple[StoreSettings, ...] = key("The stores, in the order in which they are filled.", list, "", tuple)
    encryption_key_file: str = key(
        "Key for what the database keeps encrypted; made by 'setup'.", _text, "encryption.key", "encryption.key"
    )
    run_dir: str | None = key(
        "Where locks lie, on a local disk. Default: run/ beside the database or this file.", _text, "run", None
    )
    local_transfer_roots: tuple[str, ...] = key(
        "Directories into which 'local' and 'rsync' may write for a peer; none means they may not be used to send.",
        _absolutes,
        "[/data/b/staging]",
        tuple,
    )
    max_async_inflight_transfers: int = key("Globus tasks in flight at once.", _whole(1, 100), "64", 64)
    max_async_send_retries: int = key("Submissions tried per queue item before it fails.", _whole(0, 100), "3", 3)
    history_days: float = key("How long finished transfers are remembered, in days.", _whole(1, 36500), "400", 400)
    notice_after: float = key("How long a trouble lasts before it is told.", units.parse_span, "10m", 600.0)
    commands: Mapping[str, Any] = key(
        "Default options per command; the command line wins.",
        _defaults,
        "{send-clone: {destination_librarian: b}}",
        dict,
    )
    max_body_bytes: int = key("Largest request that a callback reads.", _size, "32MiB", 32 * 1024**2)
    max_batch_items: int = key("Most files in one request.", _whole(1, 10**6), "5000", 5000)
    max_request_seconds: float = key("Longest time one request may take.", units.parse_span, "60s", 60.0)
    max_search_results: int = key("Most rows that one search answers with.", _whole(1, 10**6), "64", 64)
    globus_enable: bool = key("Whether Globus carries files.", _flag, "false", False)
    globus_client_id: str | None = key(
        "The Globus application's id.", _text, "00000000-0000-4000-8000-000000000000", None
    )
    globus_client_native_app: bool = key(
        "true: a person's refresh token; false: the application's own secret.", _flag, "true", False
    )
    globus_local_endpoint_id: str | None = key(
        "The collection that files are sent from.", _text, "6c54cade-bde5-45c1-bdea-f4bd71dba2cc", None
    )
    globus_client_secret_file: str | None = key(
        "An owner-only file with secret or token.", _text, "globus.secret", None
    )
    globus_stuck_after: float = key(
        "How long a Globus task may stand still on a file that will never come.", units.parse_span, "15m", 900.0
    )
    routes: Mapping[str, RouteSettings] = key("The directory pairs of 'transfer' and 'delete'.", dict, "", dict)
    email: EmailSettings | None = key("Who is told of troubles by mail, and how.", lambda value: value, "", None)

    ignored: tuple[str, ...] = field(default=(), metadata={})  #: keys of the reference that mean nothing here

    @property
    def directory(self) -> str:
        """Where the file lies; relative paths in it start there."""
        return os.path.dirname(self.file)

    def path(self, value: str) -> str:
        """A path of the configuration, absolute."""
        return os.path.normpath(os.path.join(self.directory, os.path.expanduser(value)))

    @property
    def collections(self) -> tuple[str, ...]:
        """Every Globus collection that is named: that files are sent from, that bring them to our stores, of routes."""
        found: set[Any] = {self.globus_local_endpoint_id}
        for store in self.add_stores:
            found.add(store.asynchronous_transfer_manager_data.get("globus", {}).get("destination_endpoint"))
        for route in self.routes.values():
            found |= {route.src_id, route.dst_id}
        return tuple(sorted(each for each in found if isinstance(each, str) and each))

    def store(self, name: str) -> StoreSettings | None:
        """The entry of ``add_stores`` with this name."""
        return next((store for store in self.add_stores if store.store_name == name), None)
