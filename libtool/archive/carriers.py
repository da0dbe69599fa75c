"""The carriers and our stores: whether collections show the paths that we see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from libtool.archive.hands import Host
from libtool.errors import CarrierBarred, CarrierBusy, CarrierRefused, CarrierUnknown, LibtoolError, ServiceUnsafe
from libtool.models.tables import Store as StoreRow

_KIND = "globus"


def check(host: Host) -> Iterator[dict[str, Any]]:
    """Compare, store by store, what a collection shows with what lies on this host: a row for each look.

    Into the staging directory a marker is put, and taken away again; in the store its own mark is looked for.
    """
    mover = host.mover(_KIND)
    local = host.settings.globus_local_endpoint_id
    for row in StoreRow.select().order_by(StoreRow.id):
        wanted = host.settings.store(row.name)
        if wanted is None or mover is None:
            continue
        options = wanted.asynchronous_transfer_manager_data.get(_KIND, {})
        there = options.get("destination_endpoint") if options.get("available", True) else None
        try:
            store = host.store(row)
            store.check()
            if there:
                with store.marker() as (path, size):
                    yield _look(mover, row.name, "staging", there, path, size)
            if local:
                yield _look(mover, row.name, "store", local, *store.mark())
        except ServiceUnsafe:
            raise
        except LibtoolError as trouble:
            yield _row(row.name, "store", "", "", "no", trouble.text)


def _look(mover: Any, store: str, what: str, collection: str, path: str, size: int) -> dict[str, Any]:
    """One look through a collection for a file that surely lies here."""
    how = "The collection must show the same absolute paths as this host"
    try:
        found = mover.find({"destination_endpoint": collection}, path)
    except CarrierRefused as refusal:
        why = f"{refusal.facts['why']}. {how}: give it a root above that directory, or none."
        return _row(store, what, collection, path, "no", why)
    except (CarrierUnknown, CarrierBusy) as trouble:
        return _row(store, what, collection, path, "unknown", trouble.text)
    except CarrierBarred as trouble:
        return _row(store, what, collection, path, "barred", f"{trouble.facts['why']}. {trouble.facts['how']}")
    if found is None:
        why = f"the file is here, and the collection does not show it. {how}: it has a root of its own, perhaps."
        return _row(store, what, collection, path, "no", why)
    if found != size:
        why = f"the collection shows another file there ({found} bytes instead of {size}). {how}."
        return _row(store, what, collection, path, "no", why)
    return _row(store, what, collection, path, "yes", "")


def _row(store: str, what: str, collection: str, path: str, same: str, why: str) -> dict[str, Any]:
    return {"store": store, "what": what, "collection": collection, "path": path, "same": same, "why": why}
