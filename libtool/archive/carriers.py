"""The carriers, our stores and routes: whether collections show the paths that we see, and those that routes name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from libtool.archive.hands import Host
from libtool.errors import CarrierBarred, CarrierBusy, CarrierRefused, CarrierUnknown, LibtoolError, ServiceUnsafe
from libtool.models.tables import Store as StoreRow
from libtool.names import shown
from libtool.trees.base import Gone, Tree

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


def check_routes(host: Host) -> Iterator[dict[str, Any]]:
    """See whether both ends of every route can be looked at, and whether its source lets files be set aside."""
    for name, wanted in host.settings.routes.items():
        ends = (("source", wanted.src_id, wanted.src_dir), ("destination", wanted.dst_id, wanted.dst_dir))
        for what, collection, path in ends:
            same, why = _look_at(partial(_end_of, host, wanted, what == "source"))
            yield _row(f"route {name}", what, collection, path, same, why)


def _end_of(host: Host, wanted: Any, source: bool) -> str:
    """What is to be said of one end of a route that can be looked at."""
    if not source:
        return _destination(host, wanted)
    tree = host.tree(wanted)
    try:
        next(tree.list(""))
    except Gone:
        raise CarrierRefused(carrier=_KIND, why="there is no such directory") from None
    if tree.immediate:
        _shown(host, wanted, tree)
    return f"'delete' cannot be used: {why}" if (why := tree.unable()) else ""


def _shown(host: Host, wanted: Any, tree: Tree) -> None:
    """CarrierRefused when the collection does not show what lies in a source on this host."""
    portion = next(tree.list(""))
    names = [*portion.directories[:1], *(each.name for each in portion.files[:1])]
    through = host.far_tree(replace(wanted, dst_id=wanted.src_id, dst_dir=wanted.src_dir))
    try:
        lacking = through.lacks("", names)
    except CarrierUnknown as trouble:
        if not trouble.facts.get("absent"):
            raise
        lacking = [wanted.src_dir]
    if lacking:
        why = f"the collection does not show '{shown(lacking[0])}', which is here. It must show the same absolute paths as"
        raise CarrierRefused(carrier=_KIND, why=f"{why} this host: give it a root above that directory, or none")


def _destination(host: Host, wanted: Any) -> str:
    """What is to be said of a destination. A collection says of a root that is not there only that it does not show it:
    whether it may be made is seen from the nearest directory above that is shown and lacks the next one."""
    try:
        next(host.far_tree(wanted).list(""))
        return "it can be looked at; whether it may be written the first transfer shows"
    except CarrierUnknown as trouble:
        path, unseen = wanted.dst_dir, trouble
    while path != "/" and not unseen.facts.get("everywhere", True):
        path, name = os.path.split(path)
        try:
            if host.far_tree(replace(wanted, dst_dir=path)).lacks("", [name]):
                return "it is not there yet; the first transfer makes it"
            break
        except CarrierUnknown as trouble:
            unseen = trouble
    raise unseen


def _look_at(look: Callable[[], str]) -> tuple[str, str]:
    """The answer, and what is to be said about it."""
    try:
        return "yes", look()
    except (CarrierUnknown, CarrierBusy) as trouble:
        return "unknown", trouble.reason
    except CarrierBarred as trouble:
        return "barred", f"{trouble.facts['why']}. {trouble.facts['how']}"
    except ServiceUnsafe:
        raise
    except LibtoolError as trouble:
        return "no", trouble.reason


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
