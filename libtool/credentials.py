"""A secret by reference: from a systemd credential, the environment, an owner-only file or the keyring.

Values leave this module only as return values; no message, no log and no traceback names one.
"""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress

from libtool.errors import SecretMissing, SecretUnsafe

#: How long the keyring may think before it counts as empty, in seconds.
KEYRING_SECONDS = 3.0


def read_file(path: str, name: str, *, trusted: bool = False) -> str:
    """The secret in ``path`` without its line end; SecretUnsafe when anyone but this user could read or change it."""
    try:
        # Nobody may make us wait at a named pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as trouble:
        raise SecretMissing(name=name, places=f"{path} ({trouble.strerror})") from None
    except ValueError:
        raise SecretMissing(name=name, places=f"{path} (no path can be spelled so)") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise SecretMissing(name=name, places=f"{path} (it is no regular file)")
        if not trusted and (stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid != os.geteuid()):
            raise SecretUnsafe(file=path, name=name)
        with open(descriptor, encoding="utf-8", closefd=False) as stream:
            return stream.read().strip()
    except OSError as trouble:
        raise SecretMissing(name=name, places=f"{path} ({trouble.strerror})") from None
    except UnicodeDecodeError:
        raise SecretMissing(name=name, places=f"{path} (it is no text in UTF-8)") from None
    finally:
        os.close(descriptor)


def write_file(path: str, secret: str, *, replace: bool = False) -> None:
    """Keep ``secret`` in an owner-only file; complete or not at all, and only with ``replace`` instead of another."""
    part = f"{path}.{os.getpid()}"
    with suppress(FileNotFoundError):
        os.unlink(part)  # whoever left it there may have left it readable
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(secret + "\n")
            stream.flush()
            os.fsync(descriptor)
        if replace:
            os.replace(part, path)
            directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
            try:
                os.fsync(directory)  # what it replaced may be good for nothing any more
            finally:
                os.close(directory)
        else:
            os.link(part, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(part)


def resolve(reference: str, name: str) -> tuple[str, bool]:
    """``(secret, literal)`` for what an option or a key holds.

    ``-`` reads standard input; ``file:PATH``, ``systemd:NAME``, ``env:VAR`` and ``keyring:SERVICE/USER`` are looked up;
    anything else is the secret itself, which the caller should warn about.
    """
    kind, _, rest = reference.partition(":")
    if reference == "-":
        if sys.stdin.isatty():
            import getpass

            return getpass.getpass(f"{name.replace('_', ' ')} (not shown): "), False
        return sys.stdin.readline().rstrip("\n"), False
    if kind == "file":
        return read_file(os.path.expanduser(rest), name), False
    if kind == "systemd":
        return read_file(os.path.join(os.environ.get("CREDENTIALS_DIRECTORY", ""), rest), name, trusted=True), False
    if kind == "env":
        if rest not in os.environ:
            raise SecretMissing(name=name, places=f"${rest}")
        return os.environ[rest], False
    if kind == "keyring":
        service, _, user = rest.partition("/")
        found = from_keyring(service, user)
        if found is None:
            raise SecretMissing(name=name, places=f"keyring {rest}")
        return found, False
    return reference, True


def find(name: str, file: str | None = None, *, keyring: bool = True) -> tuple[str, str]:
    """``(secret, where it was found)``; asks, in this order, the file of the configuration, ``$CREDENTIALS_DIRECTORY``,
    ``LIBTOOL_SECRET_<NAME>_FILE``, ``LIBTOOL_SECRET_<NAME>``, ``~/.config/libtool/secrets/`` and the keyring.
    """
    asked: list[str] = []
    if file is not None:
        asked.append(file)
        if os.path.exists(file):
            return read_file(file, name), file
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory:
        path = os.path.join(directory, name)
        asked.append(path)
        if os.path.exists(path):
            return read_file(path, name, trusted=True), path
    variable = f"LIBTOOL_SECRET_{name.upper()}"
    asked += [f"${variable}_FILE", f"${variable}"]
    if named := os.environ.get(f"{variable}_FILE"):
        return read_file(named, name), f"${variable}_FILE"
    if variable in os.environ:
        return os.environ[variable], f"${variable}"
    if os.environ.get("HOME"):
        path = os.path.expanduser(f"~/.config/libtool/secrets/{name}")
        asked.append(path)
        if os.path.exists(path):
            return read_file(path, name), path
    if keyring:
        asked.append("the keyring")
        found = from_keyring("libtool", name)
        if found is not None:
            return found, "the keyring"
    raise SecretMissing(name=name, places=", ".join(asked))


def to_keyring(name: str, secret: str | None) -> bool:
    """Keep a secret in the keyring, or with None remove it; whether that was done."""
    if secret is None:
        return _ask_keyring("keyring.delete_password(*sys.argv[1:])", "libtool", name) is not None
    code = "keyring.set_password(*sys.argv[1:], sys.stdin.read())"
    return _ask_keyring(code, "libtool", name, told=secret) is not None


def from_keyring(service: str, user: str) -> str | None:
    """What the keyring has, if it can be asked."""
    code = "sys.stdout.write(keyring.get_password(*sys.argv[1:]) or '')"
    return _ask_keyring(code, service, user) or None


def _ask_keyring(code: str, service: str, user: str, told: str = "") -> str | None:
    """Use the keyring in a process of its own: without a desktop session it may hang, prompt, or raise anything."""
    import subprocess

    try:
        answer = subprocess.run(
            [sys.executable, "-c", f"import sys, keyring; {code}", service, user],
            input=told.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=KEYRING_SECONDS,
            check=False,
            start_new_session=True,  # so that no backend finds a terminal to prompt at
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.decode("utf-8") if answer.returncode == 0 else None
