"""``validate/file`` and ``libtool/catalogue/validate``: read our own copies of files and say what they are."""

from __future__ import annotations

from typing import Any

from libtool.archive import proving
from libtool.archive.accounts import Caller
from libtool.errors import Refused
from libtool.node import Node
from libtool.peers import messages

#: Seconds of a request that are kept for everything but reading.
SPARE = 15.0


def file(node: Node, caller: Caller, message: messages.ValidateFile) -> list[messages.Validation]:
    """One row for every copy of ours that was read. One that could not be is left out, since that is no verdict, and so is
    one that is not there: stock librarians count rows. Nobody else is asked: they would count what they say twice."""
    wanted = messages.Validate([message.file_name], seconds=node.settings.max_request_seconds)
    (copies,) = proving.answer(node, caller, wanted, _most(node)).files
    if copies is None:
        raise Refused(why="This file does not exist in the librarian.", how="Check the file name and try again.")
    size, checksum = proving.recorded(message.file_name)
    return [
        messages.Validation(
            librarian=copy.librarian,
            store=copy.store,
            instance_id=copy.instance_id,
            original_checksum=checksum,
            original_size=size,
            current_checksum=copy.checksum,
            current_size=copy.size,
            computed_same_checksum=copy.good,
        )
        for copy in copies
        if copy.good is not None and (copy.checksum or copy.size)
    ]


def many(node: Node, caller: Caller, message: messages.Validate) -> messages.ValidateAnswer:
    """What our copies of these files are; what there was no time to read is unknown."""
    return proving.answer(node, caller, message, _most(node))


def _most(node: Any) -> float:
    return float(max(1.0, node.settings.max_request_seconds - SPARE))
