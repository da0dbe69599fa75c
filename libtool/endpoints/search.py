"""``search/file``: what is known of files, and where their copies are."""

from __future__ import annotations

from libtool.archive import catalogue
from libtool.archive.accounts import Caller
from libtool.errors import BadRequest, NotFound
from libtool.models.tables import File, Instance, RemoteInstance
from libtool.node import Node
from libtool.peers import messages
from libtool.units import parse_time, stock_time


def file(node: Node, caller: Caller, message: messages.SearchFile) -> list[messages.FoundFile]:
    """Files that fulfil every given condition, the newest first."""
    window = None
    if message.create_time_window is not None:
        try:
            begin, end = (parse_time(each) for each in message.create_time_window)
        except (ValueError, OverflowError):
            raise BadRequest(why="create_time_window is not two times") from None
        window = (begin, end)
    found = catalogue.search(
        name=message.name,
        uploader=message.uploader,
        source=message.source,
        window=window,
        limit=min(message.max_results, node.settings.max_search_results),
    )
    if not found:
        raise NotFound(why="No files found.", how="Check that you are searching for the correct file.")
    copies, remote = catalogue.copies(found), catalogue.remote_copies(found)
    return [shown(node, each, copies.get(each.id, []), remote.get(each.id, [])) for each in found]


def shown(node: Node, each: File, copies: list[Instance], remote: list[RemoteInstance]) -> messages.FoundFile:
    """One file in the shape of the wire."""
    return messages.FoundFile(
        name=each.name,
        create_time=stock_time(each.create_time),
        size=each.size,
        checksum=each.checksum,
        uploader=each.uploader,
        source=each.source,
        instances=[
            messages.FoundInstance(
                path=node.store(copy.store).path(each.name) if node.settings.store(copy.store.name) else "",
                deletion_policy=int(copy.deletion_policy),
                created_time=stock_time(copy.create_time),
                available=copy.available,
                store_id=copy.store_id,
            )
            for copy in copies
        ],
        remote_instances=[
            messages.FoundRemoteInstance(copy.librarian.name, stock_time(copy.copy_time), store_id=copy.store_id)
            for copy in remote
        ],
    )
