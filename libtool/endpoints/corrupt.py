"""``corrupt/*``: a neighbour's copy went bad and it asks us for the file again."""

from __future__ import annotations

from libtool.archive import resending
from libtool.archive.accounts import Caller
from libtool.node import Node
from libtool.peers import messages


def prepare(node: Node, caller: Caller, message: messages.Corrupt) -> dict[str, bool]:
    """Whether we could send it: our copy is good, the neighbour can be reached and may be sent to."""
    resending.prepare(node, caller, message.file_name, message.librarian_name)
    return {"ready": True}


def resend(node: Node, caller: Caller, message: messages.Corrupt) -> messages.Resent:
    """Stage it there now; the ordinary tasks carry it."""
    number = resending.resend(node, caller, message.file_name, message.librarian_name)
    return messages.Resent(True, number)
