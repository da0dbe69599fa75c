"""The configuration: one YAML (or JSON) file per librarian, checked, frozen, explained.

What keys there are stands in ``keys``; ``config/libtool.example.yaml`` and the README's table are made from that. Reading
it imports nothing heavy, because every callback does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from libtool import names, parsed
from libtool.errors import ConfigurationError, NoConfiguration
from libtool.keys import (
    At,
    EmailSettings,
    RouteSettings,
    SmtpSettings,
    StoreData,
    StoreSettings,
    mapping,
    nested,
)
from libtool.keys import Settings as Settings

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
    "password": "put it into a file only you can read and name that with password_file",
    "smtp_password": "put it into a file only you can read and name that with password_file of email.smtp",
}


#: Keys that hold keys of their own.
_SECTIONS: dict[str, type[Any]] = {"store_data": StoreData, "email": EmailSettings, "smtp": SmtpSettings}


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
            given = mapping(given)
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
        if item.name in _SECTIONS:
            try:
                return self.section(_SECTIONS[item.name], value, where)
            except At as wrong:
                raise self.fail(f"{where}.{wrong.key}", str(wrong)) from None
        if item.name == "add_stores":
            if not isinstance(value, list):
                raise self.fail(where, "expected a list of stores, each beginning with '- store_name: …'")
            stores = tuple(self.section(StoreSettings, entry, f"{where}[{n}]") for n, entry in enumerate(value))
            names = [store.store_name for store in stores]
            if len(set(names)) < len(names):
                raise self.fail(where, "two stores have the same store_name")
            check_places(self.file, stores, os.path.normpath)
            return stores
        if item.name == "routes":
            return self.routes(value, where)
        try:
            return item.metadata["check"](value)
        except At as wrong:
            raise self.fail(f"{where}.{wrong.key}", str(wrong)) from None
        except (ValueError, TypeError, OverflowError) as wrong:
            # A database's URL may hold a password.
            found = "" if item.name == "database" else f", found {_brief(value)}"
            raise self.fail(where, f"{wrong}{found}") from None

    def routes(self, value: Any, where: str) -> dict[str, RouteSettings]:
        """The directory pairs, by name."""
        try:
            given = mapping(value)
        except ValueError as wrong:
            raise self.fail(where, str(wrong)) from None
        found: dict[str, RouteSettings] = {}
        for name, entry in given.items():
            here = f"{where}.{name}"
            if not names.is_librarian_name(name):
                raise self.fail(here, "expected a route's name of letters, digits, dots, dashes and underscores")
            route: RouteSettings = self.section(RouteSettings, entry, here)
            if route.src_id == route.dst_id and nested(route.src_dir, route.dst_dir):
                raise self.fail(f"{here}.dst_dir", "source and destination lie in each other")
            for known, other in found.items():
                if route.collides(other):
                    why = f"routes {known} and {name} go to one place ({other.dst_dir}, {route.dst_dir})"
                    how = "there one would replace what the other brought; give each a destination of its own"
                    raise self.fail(f"{here}.dst_dir", f"{why}: {how}")
            found[name] = route
        return found

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


def check_places(file: str, stores: tuple[StoreSettings, ...], spelled: Callable[[str], str]) -> None:
    """ConfigurationError when a staging or store path of any store is another one, or lies in it: what is removed from a
    staging area must not be an archive. ``spelled`` gives each its one spelling."""
    beside = os.path.dirname(os.path.abspath(file))
    known: list[tuple[str, str]] = []
    for n, store in enumerate(stores):
        for name in ("staging_path", "store_path"):
            key = f"add_stores[{n}].store_data.{name}"
            path = spelled(os.path.join(beside, getattr(store.store_data, name)))
            for other, taken in known:
                if nested(path, taken):
                    why = f"expected a directory of its own; {path} and {taken} ({other}) are one or lie in each other"
                    raise ConfigurationError(file=file, key=key, why=why)
            known.append((key, path))


def check_ends(settings: Settings, spelled: Callable[[str], str]) -> None:
    """ConfigurationError when an end of a route on this host has something of this node's own in it, or lies in a store:
    it would be carried off and deleted, or written over. ``spelled`` gives each path its one spelling."""
    ours = (settings.globus_local_endpoint_id or "").lower()
    for name, route in settings.routes.items():
        for end, id, top in (("src_dir", route.src_id, route.src_dir), ("dst_dir", route.dst_id, route.dst_dir)):
            for what, path in _own(settings) if id == ours else ():
                if nested(spelled(top), spelled(path)):
                    why = f"expected a directory apart from this node's own; {spelled(path)} ({what}) lies there"
                    if len(spelled(path)) < len(spelled(top)):
                        why = f"expected a directory apart from this node's own; it lies in {spelled(path)} ({what})"
                    raise ConfigurationError(file=settings.file, key=f"routes.{name}.{end}", why=why)


def _own(settings: Settings) -> list[tuple[str, str]]:
    """What this node lives on: the key of each thing with its path."""
    from urllib.parse import unquote

    found = [("this file", settings.file)]
    if settings.database.startswith("sqlite:"):  # as models.base reads it, which is too heavy for this place
        path = unquote(settings.database.removeprefix("sqlite:").removeprefix("//").removeprefix("/"))
        found.append(("database", os.path.normpath(os.path.join(settings.directory, path))))
    state = os.path.dirname(found[-1][1])
    found.append(("run_dir", settings.path(settings.run_dir or os.path.join(state, "run"))))
    found.append(("encryption_key_file", settings.path(settings.encryption_key_file)))
    for name in ("globus_client_secret_file", "database_password_file"):
        if (secret := getattr(settings, name)) is not None:
            found.append((name, settings.path(secret)))
    if settings.email and settings.email.smtp and settings.email.smtp.password_file:
        found.append(("email.smtp.password_file", settings.path(settings.email.smtp.password_file)))
    for n, store in enumerate(settings.add_stores):
        for name in ("staging_path", "store_path"):
            found.append((f"add_stores[{n}].store_data.{name}", settings.path(getattr(store.store_data, name))))
    return found


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
    if not settings.name:
        if settings.add_stores or not settings.routes:
            raise reader.fail("name", "is missing; for example 'name: site_a'")
        # It is part of the labels of tasks and of the names of locks.
        object.__setattr__(
            settings, "name", re.sub(r"[^A-Za-z0-9._-]", "-", os.uname().nodename).lstrip("._-") or "node"
        )
    check_ends(settings, os.path.normpath)
    if reader.ignored:
        object.__setattr__(settings, "ignored", tuple(reader.ignored))
    if not known:
        parsed.keep(file, given)
    return settings


def _parse(file: str) -> Any:
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """One that takes no key twice: the first of two routes of one name would just be gone."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = set()
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                    continue
                if key.value in keys:
                    why = f"the key '{key.value}' is there twice"
                    raise yaml.constructor.ConstructorError(None, None, why, key.start_mark)
                keys.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        with open(file, "rb") as stream:
            return yaml.load(stream, Loader=Loader)
    except OSError as trouble:
        raise ConfigurationError(file=file, key="the whole file", why=f"cannot be read: {trouble.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as trouble:
        mark = getattr(trouble, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else "the whole file"
        why = str(getattr(trouble, "problem", trouble))
        raise ConfigurationError(file=file, key=where, why=f"is no YAML: {why}") from None
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
        if item.name == "name":
            lines[-1] = lines[-1].removeprefix("# ")
        if item.name == "routes":
            lines[-1] = "# routes:"
            lines.append("#   outbox:")
            for part in fields(RouteSettings):
                lines += [f"#     {line}" for line in _explained(part, "")]
        if item.name == "email":
            lines[-1] = "# email:"
            for part in fields(EmailSettings):
                lines += [f"#   {line}" for line in _explained(part, "")]
            lines[-1] = "#   smtp:"
            lines += [f"#     {line}" for part in fields(SmtpSettings) for line in _explained(part, "")]
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
