"""The key with which Auth signs who somebody is; only where the library for it is installed."""

from __future__ import annotations

import base64
import json
from functools import lru_cache
from typing import Any


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


class Signer:
    """An RSA key."""

    def __init__(self, key: Any) -> None:
        self._key = key

    @classmethod
    @lru_cache(maxsize=1)
    def make(cls) -> Signer | None:
        """A key, one per process because making it takes time; None without the library."""
        try:
            from cryptography.hazmat.primitives.asymmetric import rsa
        except ImportError:
            return None
        return cls(rsa.generate_private_key(public_exponent=65537, key_size=2048))

    def sign(self, claims: dict[str, Any]) -> str:
        """The claims as a signed token."""
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        head = {"alg": "RS256", "typ": "JWT", "kid": "1"}
        text = ".".join(_encoded(json.dumps(part).encode()) for part in (head, claims))
        return f"{text}.{_encoded(self._key.sign(text.encode(), PKCS1v15(), SHA256()))}"

    def public(self) -> dict[str, str]:
        """The public key as a JWK."""
        numbers = self._key.public_key().public_numbers()
        found = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1"}
        for name in ("n", "e"):
            number = getattr(numbers, name)
            found[name] = _encoded(number.to_bytes((number.bit_length() + 7) // 8, "big"))
        return found
