"""``validate/file``: read our own copies of a file and say what they are."""

from __future__ import annotations

from typing import Any

from libtool.archive.accounts import Caller
from libtool.archive.here import Here
from libtool.node import Node
from libtool.peers import messages


def file(node: Node, caller: Caller, message: messages.ValidateFile) -> list[dict[str, Any]]:
    """One row for every copy that could be read; a copy that could not is left out, since that is no verdict."""
    return Here(node, local=False).validate(message.file_name)
