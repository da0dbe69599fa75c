"""Between neighbours that both are libtool: ``libtool/catalogue/*`` compares what each thinks that the other holds, and
``libtool/ping/back`` tells whether we reach who asks."""

from __future__ import annotations

from typing import Any

from libtool.archive import catalogue, librarians
from libtool.archive.accounts import Caller
from libtool.node import Node
from libtool.peers import messages


def known(node: Node, caller: Caller, message: messages.Known) -> messages.KnownAnswer:
    """What we know of these files, in their order."""
    found = catalogue.known(message.names)
    return messages.KnownAnswer([found.get(name) for name in message.names])


def delivered(node: Node, caller: Caller, message: messages.Delivered) -> messages.DeliveredAnswer:
    """What we think lies at the caller, page by page."""
    return messages.DeliveredAnswer(catalogue.delivered(caller.name, message.after, message.limit))


def ping_back(node: Node, caller: Caller, message: Any) -> messages.PingedBack:
    """Ask the caller for a sign of life, under our account there and at the address that is registered for it."""
    why = librarians.reach(node, caller.name)
    return messages.PingedBack(not why, why, caller.outdated)
