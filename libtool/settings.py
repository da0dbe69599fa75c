"""The configuration: one YAML (or JSON) file per librarian, checked, frozen, explained.

Every key stands here once, with its check, its default, its text and an example; ``config/libtool.example.yaml`` and
the README's table are made from that. Reading it imports nothing heavy, because every callback does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from libtool import names, parsed, units
from libtool.errors import ConfigurationError, NoConfiguration

Check = Callable[[Any], Any]


# -- checks: each returns the value it took, or raises ValueError saying what was expected ------------------------


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


def _mapping(value: Any) -> dict[str, Any]:
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
    commands = _mapping(value)
    for command, options in commands.items():
        if options is not None:
            try:
                _mapping(options)
            except ValueError as wrong:
                raise _At(command, str(wrong)) from None
    return commands


class _At(ValueError):
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
    carriers = _mapping(value)
    for kind, options in carriers.items():
        if kind not in ("globus", "local", "rsync"):
            raise ValueError(f"'{kind}' is no way to carry files; there are globus, local and rsync")
        needs = {"globus": "destination_endpoint", "local": "hostnames", "rsync": "hostname"}[kind]
        _flag(_mapping(options).get("available", True))
        if needs not in options:
            raise ValueError(f"{kind} needs {needs}")
        if strange := sorted(set(options) - {needs, "available"} - _CARRIERS_STATE):
            raise ValueError(f"{kind} has no key {strange[0]}; it has {needs} and available")
    return carriers


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
class Settings:
    """The whole configuration of one librarian."""

    file: str = field(metadata={})  #: the file it was read from; no key

    name: str = key("This librarian's name, and the account name that it uses at its peers.", _librarian_name, "site_a")
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
    routes: Mapping[str, Any] = key("The directory pairs of 'transfer' and 'delete'.", _mapping, "", dict)
    email: Mapping[str, Any] = key("Who is told by mail, and how.", _mapping, "", dict)

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
            found |= {route.get("src_id"), route.get("dst_id")} if isinstance(route, dict) else set()
        return tuple(sorted(each for each in found if isinstance(each, str) and each))

    def store(self, name: str) -> StoreSettings | None:
        """The entry of ``add_stores`` with this name."""
        return next((store for store in self.add_stores if store.store_name == name), None)


#: Other spellings that the seeds and the reference use.
_ALIASES = {"ingestable": "ingestible", "async_transfer_manager_data": "asynchronous_transfer_manager_data"}
#: Keys of the reference that mean nothing here.
_IGNORED = frozenset(
    [
        "host",
        "port",
        "log_level",
        "log_settings",
        "debug",
        "alembic_config_path",
        "alembic_path",
        "database_driver",
        "database_user",
        "database_host",
        "database_port",
        "maximal_upload_size_bytes",
        "checksum_threads",
        "checksum_timeout",
        "globus_encrypt_transfers",
        "max_copy_retries",
        "transfer_manager_data",
    ]
)
#: Keys of the reference that would hold a secret in the file itself, and where it belongs instead.
_INLINE_SECRETS = {
    "encryption_key": "put it into a file only you can read and name that with encryption_key_file",
    "globus_client_secret": "put it into a file only you can read and name that with globus_client_secret_file",
    "database_password": "put it into ~/.pgpass, or into an owner-only file named by database_password_file",
}


class _Reader:
    """Turns the parsed YAML into :class:`Settings`; knows which file and which key it is at."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.ignored: list[str] = []

    def fail(self, where: str, why: str) -> ConfigurationError:
        return ConfigurationError(file=self.file, key=where or "the whole file", why=why)

    def section(self, kind: type[Any], given: Any, where: str, **known: Any) -> Any:
        """An instance of the dataclass ``kind`` from a mapping."""
        try:
            given = _mapping(given)
        except ValueError as wrong:
            raise self.fail(where, str(wrong)) from None
        keys = {item.name: item for item in fields(kind) if item.metadata}
        values: dict[str, Any] = dict(known)
        for spelled, value in given.items():
            here = f"{where}.{spelled}".lstrip(".")
            name = _ALIASES.get(spelled, spelled)
            if name in keys:
                needed = keys[name].default is MISSING and keys[name].default_factory is MISSING
                if value is not None or needed:
                    values[name] = self.value(keys[name], value, here)
            elif spelled in _INLINE_SECRETS:
                raise self.fail(here, f"a secret does not belong into this file: {_INLINE_SECRETS[spelled]}")
            elif spelled == "globus_local_root":
                if value is not None:
                    raise self.fail(here, "collection roots are not supported: the collection must show the same paths")
            elif spelled in _IGNORED:
                self.ignored.append(here)
            else:
                raise self.fail(here, f"no such key{self.meant(spelled, keys)}")
        for name, item in keys.items():
            if name not in values and item.default is MISSING and item.default_factory is MISSING:
                raise self.fail(
                    f"{where}.{name}".lstrip("."), f"is missing; for example '{name}: {item.metadata['example']}'"
                )
        return kind(**values)

    def value(self, item: Field[Any], value: Any, where: str) -> Any:
        if item.name == "store_data":
            return self.section(StoreData, value, where)
        if item.name == "add_stores":
            if not isinstance(value, list):
                raise self.fail(where, "expected a list of stores, each beginning with '- store_name: …'")
            stores = tuple(self.section(StoreSettings, entry, f"{where}[{n}]") for n, entry in enumerate(value))
            names = [store.store_name for store in stores]
            if len(set(names)) < len(names):
                raise self.fail(where, "two stores have the same store_name")
            return stores
        try:
            return item.metadata["check"](value)
        except _At as wrong:
            raise self.fail(f"{where}.{wrong.key}", str(wrong)) from None
        except (ValueError, TypeError, OverflowError) as wrong:
            # A database's URL may hold a password.
            found = "" if item.name == "database" else f", found {_brief(value)}"
            raise self.fail(where, f"{wrong}{found}") from None

    @staticmethod
    def meant(spelled: str, keys: Mapping[str, Any]) -> str:
        import difflib

        close = difflib.get_close_matches(str(spelled), [*keys, *_ALIASES], n=1)
        return f"; did you mean '{close[0]}'?" if close else f"; known here: {', '.join(sorted(keys))}"


def _brief(value: Any) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or a number of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def find(given: str | None = None) -> str:
    """The configuration file: as given, else ``$LIBTOOL_CONFIG``, else the user's, else the system's."""
    for named in (given, os.environ.get("LIBTOOL_CONFIG")):
        if named:
            if not os.path.isfile(named):
                raise NoConfiguration(places=named)
            return os.path.abspath(named)
    home = os.environ.get("XDG_CONFIG_HOME") or (os.path.expanduser("~/.config") if os.environ.get("HOME") else "")
    places = [os.path.join(home, "libtool", "config.yaml")] if home else []
    places.append("/etc/libtool/config.yaml")
    for place in places:
        if os.path.isfile(place):
            return place
    raise NoConfiguration(places=", ".join(["--config", "$LIBTOOL_CONFIG", *places]))


def load(file: str) -> Settings:
    """Read and check the configuration in ``file``; ConfigurationError names the file, the key and what was expected.

    A command asks several times; it is read once as long as the file stays the same.
    """
    try:
        found = os.stat(file)
        version = (found.st_mtime_ns, found.st_size, found.st_ino)
    except OSError:
        version = (0, 0, 0)
    if file not in _loaded or _loaded[file][0] != version:
        _loaded[file] = (version, _load(file))
    return _loaded[file][1]


_loaded: dict[str, tuple[tuple[int, int, int], Settings]] = {}


def _load(file: str) -> Settings:
    given = parsed.recall(file)
    known = given is not None
    if not known:
        given = _parse(file)
    reader = _Reader(file)
    settings: Settings = reader.section(Settings, given, "", file=os.path.abspath(file))
    if reader.ignored:
        object.__setattr__(settings, "ignored", tuple(reader.ignored))
    if not known:
        parsed.keep(file, given)
    return settings


def _parse(file: str) -> Any:
    import yaml

    try:
        with open(file, "rb") as stream:
            return yaml.load(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as trouble:
        raise ConfigurationError(file=file, key="the whole file", why=f"cannot be read: {trouble.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as trouble:
        mark = getattr(trouble, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else "the whole file"
        raise ConfigurationError(
            file=file, key=where, why=f"is no YAML: {getattr(trouble, 'problem', trouble)}"
        ) from None
    except (ValueError, OverflowError, RecursionError) as trouble:  # such as a thirteenth month, or no end of brackets
        why = "it is nested too deeply" if isinstance(trouble, RecursionError) else str(trouble)
        raise ConfigurationError(file=file, key="the whole file", why=f"cannot be understood: {why}") from None


def example() -> str:
    """The text of ``config/libtool.example.yaml``: every key with its meaning, its default and an example."""
    lines = [
        "# Every key of a librarian's configuration. Those without a leading '#' must be given.",
        "# Relative paths start at this file's directory. Secrets do not belong here: see README, 'Secrets'.",
        "",
    ]
    for item in fields(Settings):
        if not item.metadata:
            continue
        lines += _explained(item, "")
        if item.name == "add_stores":
            lines[-1] = "add_stores:"
            for n, part in enumerate(fields(StoreSettings)):
                indent = "    "
                block = _explained(part, indent)
                if part.name == "store_data":
                    block[-1] = f"{indent}store_data:"
                    for inner in fields(StoreData):
                        block += _explained(inner, indent + "  ")
                if n == 0:
                    block[-1] = "  - " + block[-1].strip()
                lines += block
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _explained(item: Field[Any], indent: str) -> list[str]:
    needed = item.default is MISSING and item.default_factory is MISSING
    lines = [f"{indent}# {item.metadata['text']}"]
    sample = f"{item.name}: {item.metadata['example']}".rstrip()
    lines.append(f"{indent}{sample}" if needed else f"{indent}# {sample}")
    return lines
