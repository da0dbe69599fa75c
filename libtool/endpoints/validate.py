"""``validate/file``: read our own copies of a file and say what they are."""

from __future__ import annotations

from libtool.archive import verifying
from libtool.archive.accounts import Caller
from libtool.errors import Refused
from libtool.node import Node
from libtool.peers import messages


def file(node: Node, caller: Caller, message: messages.ValidateFile) -> list[messages.Validation]:
    """One row for every copy that could be read; a copy that could not is left out, since that is no verdict."""
    found = verifying.read_copies(node, message.file_name)
    if found is None:
        raise Refused(why="This file does not exist in the librarian.", how="Check the file name and try again.")
    return [
        messages.Validation(
            librarian=node.settings.name,
            store=copy.instance.store_id,
            instance_id=copy.instance.id,
            original_checksum=copy.file.checksum,
            original_size=copy.file.size,
            current_checksum=copy.checksum,
            current_size=copy.size,
            computed_same_checksum=copy.good,
        )
        for copy in found
    ]
