"""``search/*``: what is known of files, where their copies are, and which troubles last."""

from __future__ import annotations

from datetime import datetime

from libtool.archive import catalogue, notices, places
from libtool.archive.accounts import Caller
from libtool.errors import BadRequest, NotFound, Refused
from libtool.models.tables import File, Instance, RemoteInstance
from libtool.node import Node
from libtool.peers import admin, messages
from libtool.states import DeletionPolicy
from libtool.units import parse_time, stock_time


def file(node: Node, caller: Caller, message: messages.SearchFile) -> list[messages.FoundFile]:
    """Files that fulfil every given condition, the newest first."""
    found = catalogue.search(
        name=message.name,
        uploader=message.uploader,
        source=message.source,
        window=_window(message.create_time_window),
        limit=_limit(node, message.max_results),
    )
    if not found:
        raise NotFound(why="No files found.", how="Check that you are searching for the correct file.")
    copies, remote = catalogue.copies(found), catalogue.remote_copies(found)
    return [shown(node, each, copies.get(each.id, []), remote.get(each.id, [])) for each in found]


def _limit(node: Node, wanted: int) -> int:
    return max(0, min(wanted, node.settings.max_search_results))


def _window(given: list[str | float] | None) -> tuple[datetime, datetime] | None:
    if given is None:
        return None
    try:
        begin, end = (parse_time(each) for each in given)
        return begin, end
    except (ValueError, OverflowError, OSError):
        raise BadRequest(why="create_time_window is not two times") from None


def _moment(given: str | float | None) -> datetime | None:
    if given is None:
        return None
    try:
        return parse_time(given)
    except (ValueError, OverflowError, OSError):
        raise BadRequest(why="a time cannot be read") from None


def instance_local(node: Node, caller: Caller, message: admin.SearchInstance) -> list[messages.FoundInstance]:
    """Our copies that fulfil every given condition."""
    policy = None
    if message.deletion_policy is not None:
        try:
            policy = DeletionPolicy[message.deletion_policy.upper()]
        except KeyError:
            raise BadRequest(why="deletion_policy is neither DISALLOWED nor ALLOWED") from None
    store, name = places.home_of(node, message.path) if message.path is not None else (None, message.file_name)
    if message.path is not None and (store is None or message.file_name not in (None, name)):
        raise _no_instances()
    found = catalogue.instances(
        _limit(node, message.max_results),
        id=message.id,
        name=name,
        store_id=message.store_id,
        store=store,
        available=message.available,
        policy=policy,
        created=_moment(message.created_time),
    )
    if not found:
        raise _no_instances()
    return [_instance(node, each, each.file.name) for each in found]


def instance_remote(node: Node, caller: Caller, message: admin.SearchRemote) -> list[messages.FoundRemoteInstance]:
    """Neighbours' copies that fulfil every given condition; all were sent from here."""
    own = node.settings.name
    found = catalogue.remote_instances(
        _limit(node, message.max_results) if message.sender in (None, own) else 0,
        id=message.id,
        name=message.file_name,
        store_id=message.store_id,
        librarian=message.librarian_id,
        copied=_moment(message.copy_time),
    )
    if not found:
        raise _no_instances()
    return [
        messages.FoundRemoteInstance(
            each.librarian.name, stock_time(each.copy_time), each.id, each.file.name, each.store_id, own
        )
        for each in found
    ]


def _no_instances() -> NotFound:
    return NotFound(why="No instances found.", how="Check that you are searching for the correct instance.")


def error(node: Node, caller: Caller, message: admin.SearchError) -> list[admin.ErrorFound]:
    """The troubles that last; they are over by themselves, so there are no resolved ones."""
    window = _window(message.create_time_window)
    found = [
        admin.ErrorFound(each.id, "warning", "transfer", each.text, stock_time(each.first_time), None, False, None)
        for each in notices.standing()
        if message.id in (None, each.id)
        and message.severity in (None, "warning")
        and message.category in (None, "transfer")
        and (window is None or window[0] <= each.first_time <= window[1])
    ]
    if not found:
        raise NotFound(why="No errors found.", how="All is well.")
    return found[: _limit(node, message.max_results)]


def clear_error(node: Node, caller: Caller, message: admin.ErrorClear) -> dict[str, object]:
    """A trouble cannot be cleared away: it is over when it is over."""
    if any(each.id == message.id for each in notices.standing()):
        why = f"Error with ID {message.id} is still there"
        raise Refused(why=why, how="Mend what it says; it clears itself when that is done.")
    raise NotFound(why=f"No error found with ID {message.id} to clear.", how="Search for errors first.")


def shown(node: Node, each: File, copies: list[Instance], remote: list[RemoteInstance]) -> messages.FoundFile:
    """One file in the shape of the wire."""
    return messages.FoundFile(
        name=each.name,
        create_time=stock_time(each.create_time),
        size=each.size,
        checksum=each.checksum,
        uploader=each.uploader,
        source=each.source,
        instances=[_instance(node, copy, None) for copy in copies],
        remote_instances=[
            messages.FoundRemoteInstance(copy.librarian.name, stock_time(copy.copy_time), store_id=copy.store_id)
            for copy in remote
        ],
    )


def _instance(node: Node, copy: Instance, name: str | None) -> messages.FoundInstance:
    """One copy; with its number when it was asked for by itself."""
    called = copy.file.name
    return messages.FoundInstance(
        path=places.path_of(node, copy.store, called) or "",
        deletion_policy=int(copy.deletion_policy),
        created_time=stock_time(copy.create_time),
        available=copy.available,
        id=copy.id if name is not None else None,
        file_name=name,
        store_id=copy.store_id,
    )
