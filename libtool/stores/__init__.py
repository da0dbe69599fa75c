"""Bytes at rest: where copies lie, how they come in safely, how they are read again. A store never sees a row."""

from __future__ import annotations

from libtool.stores.base import Store

#: Kind of store in the configuration (``store_type``) → module and class.
KINDS = {"local": ("libtool.stores.posix", "PosixStore")}


def make(kind: str, name: str, **places: object) -> Store:
    """A store of the given kind; a new kind is a row in ``KINDS``."""
    from importlib import import_module

    module, wanted = KINDS[kind]
    made: Store = getattr(import_module(module), wanted)(name, **places)
    return made
