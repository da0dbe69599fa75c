"""Passwords of accounts: how they are made, kept and compared. Nothing here keeps one in clear."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os

#: scrypt: 16 MiB and some 50 ms for each guess.
_SCRYPT = {"n": 2**14, "r": 8, "p": 1}


def make() -> str:
    """A new password of 32 letters and digits, about 190 bits."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    drawn = ""
    while len(drawn) < 32:
        drawn += "".join(letters[byte] for byte in os.urandom(64) if byte < len(letters))
    return drawn[:32]


def fast(password: str, key: bytes) -> str:
    """A keyed digest: useless without the key file, and cheap enough for every request."""
    own = hmac.new(key, b"account digest", hashlib.sha256).digest()
    return hmac.new(own, password.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def slow(password: str, salt: bytes | None = None) -> str:
    """A salted scrypt hash, for passwords that people chose."""
    salt = os.urandom(16) if salt is None else salt
    digest = hashlib.scrypt(password.encode("utf-8", "surrogateescape"), salt=salt, maxmem=2**26, **_SCRYPT)
    return f"scrypt${salt.hex()}${digest.hex()}"


def is_slow(password: str, kept: str) -> bool:
    """Whether the password has this scrypt hash."""
    _, salt, _ = kept.split("$")
    return hmac.compare_digest(slow(password, bytes.fromhex(salt)), kept)


def is_fast(password: str, kept: str, key: bytes) -> bool:
    """Whether the password has this keyed digest."""
    return hmac.compare_digest(fast(password, key), kept)


def from_basic(header: str | None) -> tuple[str, str] | None:
    """``(user, password)`` of an ``Authorization: Basic …`` header; None when it is none. Split at the first colon."""
    if not header or header[:6].lower() != "basic ":
        return None
    try:
        user, colon, password = base64.b64decode(header[6:].strip(), validate=True).decode("utf-8").partition(":")
    except ValueError:
        return None
    return (user, password) if colon and "\0" not in user else None


def to_basic(authenticator: str) -> str:
    """The header for ``user:password``."""
    return "Basic " + base64.b64encode(authenticator.encode("utf-8")).decode("ascii")
