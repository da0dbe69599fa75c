"""``checkin/*``: moving transfers on, and asking how far they have come, for both sides."""

from __future__ import annotations

from libtool.archive import outgoing, receiving
from libtool.archive.accounts import Caller
from libtool.node import Node
from libtool.peers.messages import CheckinStatus, CheckinStatuses, CheckinUpdate, CheckinUpdated


def update(node: Node, caller: Caller, message: CheckinUpdate) -> CheckinUpdated:
    """Move what is the caller's and may be moved; each id comes back in exactly one list."""
    sources = list(dict.fromkeys(message.source_transfer_ids))
    destinations = list(dict.fromkeys(message.destination_transfer_ids))
    moved_sources = set(outgoing.move(sources, message.new_status, caller, node))
    moved_destinations = set(receiving.move(destinations, message.new_status, caller, node))
    unmoved = len(moved_sources) + len(moved_destinations) < len(sources) + len(destinations)
    why = f"Some transfers are unknown, are not yours, or cannot become {message.new_status.name} from where they are."
    return CheckinUpdated(
        modified_source_transfer_ids=[id for id in sources if id in moved_sources],
        modified_destination_transfer_ids=[id for id in destinations if id in moved_destinations],
        unmodified_source_transfer_ids=[id for id in sources if id not in moved_sources],
        unmodified_destination_transfer_ids=[id for id in destinations if id not in moved_destinations],
        reasons=[why] if unmoved else [],
    )


def status(node: Node, caller: Caller, message: CheckinStatus) -> CheckinStatuses:
    """How far the caller's transfers have come."""
    return CheckinStatuses(
        source_transfer_status=outgoing.states(message.source_transfer_ids, caller),
        destination_transfer_status=receiving.states(message.destination_transfer_ids, caller),
    )
