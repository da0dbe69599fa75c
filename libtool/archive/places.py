"""Stores as rows: which exist, which may be read or filled, and where something that comes in has room."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Any

from peewee import fn

from libtool.archive.hands import Host
from libtool.errors import StoreUnavailable, UnknownStore
from libtool.models.base import current, longest_name, writing
from libtool.models.tables import IncomingTransfer, live
from libtool.models.tables import Store as StoreRow
from libtool.states import TransferStatus
from libtool.stores.base import Store


def register(host: Host, accept: tuple[str, ...] = ()) -> list[str]:
    """Give every configured store a row and make its directories; returns the names of new ones. Safe to repeat.

    A store that is switched off may be away, such as a disk that travels: then it is passed over.
    """
    known = {row.name for row in StoreRow.select()}
    off = {row.name for row in StoreRow.select().where(~StoreRow.enabled)} - set(accept)
    new = []
    for wanted in host.settings.add_stores:
        row = StoreRow(name=wanted.store_name, kind=wanted.store_type)
        name = wanted.store_name
        with suppress(StoreUnavailable) if name in off else nullcontext():
            host.store(row).set_up(known=name in known and name not in accept, accepted=name in accept)
        if wanted.store_name not in known:
            with writing("register store"):
                StoreRow.insert(
                    name=wanted.store_name, kind=wanted.store_type, enabled=True
                ).on_conflict_ignore().execute()
            new.append(wanted.store_name)
    return new


def get(name: str) -> StoreRow:
    """The store of this name; UnknownStore when there is none."""
    found = StoreRow.get_or_none(StoreRow.name == name)
    if found is None:
        raise UnknownStore(name=name)
    known: StoreRow = found
    return known


def set_enabled(name: str, enabled: bool) -> None:
    """An operator's switch: nothing is read from or written to a disabled store; what waits for it goes on later."""
    with writing("switch store"):
        if not StoreRow.update(enabled=enabled).where(StoreRow.name == name).execute():
            raise UnknownStore(name=name)


def survey(host: Host) -> list[dict[str, Any]]:
    """Every store: what it is, whether it may be used, whether it can be used on this host now, and its room in bytes
    (-1 when it cannot)."""
    rows = []
    for row in in_order(host):
        wanted = host.settings.store(row.name)
        free = -1
        with suppress(StoreUnavailable):
            store = host.store(row)
            store.check()
            free = max(0, room(row, store))
        rows.append(
            {
                "name": row.name,
                "store_type": row.kind,
                "ingestible": bool(wanted is not None and wanted.ingestible),
                "enabled": bool(row.enabled),
                "available": free >= 0,
                "free_space": free,
            }
        )
    return rows


def in_order(host: Host) -> list[StoreRow]:
    """The rows of all configured stores, in the configuration's order."""
    rows = {row.name: row for row in StoreRow.select()}
    return [rows[wanted.store_name] for wanted in host.settings.add_stores if wanted.store_name in rows]


def ingestible(host: Host) -> list[tuple[StoreRow, Store]]:
    """The stores that may be filled and can be used on this host now, in order."""
    usable = []
    for row in in_order(host):
        wanted = host.settings.store(row.name)
        if not row.enabled or wanted is None or not wanted.ingestible:
            continue
        store = host.store(row)
        try:
            store.check()
        except StoreUnavailable:
            continue
        usable.append((row, store))
    return usable


def room(row: StoreRow, store: Store) -> int:
    """Bytes that may still be promised in a store: what is free less what is promised already."""
    sums = dict(
        IncomingTransfer.select(IncomingTransfer.status, fn.SUM(IncomingTransfer.size))
        .where(live(IncomingTransfer), IncomingTransfer.store == row.id)
        .group_by(IncomingTransfer.status)
        .tuples()
    )
    staged = int(sums.pop(TransferStatus.STAGED, 0) or 0)
    return store.room(staged, int(sum(sums.values()) or 0))


def path_of(host: Host, row: StoreRow, name: str) -> str | None:
    """Where a copy lies; None when its store is not configured any more."""
    return host.store(row).path(name) if host.settings.store(row.name) is not None else None


def name_room(host: Host) -> int:
    """The longest name that fits into every configured store and into the catalogue, in bytes."""
    return min([longest_name(current()), *(host.store(row).name_room() for row in in_order(host))])


def home_of(host: Host, path: str) -> tuple[str | None, str | None]:
    """``(store, name)`` of what lies in a store already, which is registered where it lies (the store itself has an
    empty name: names start there); ``(None, None)`` for what lies elsewhere."""
    for row in in_order(host):
        found = host.store(row).name_of(path)
        if found is not None:
            return row.name, found
    return None, None
