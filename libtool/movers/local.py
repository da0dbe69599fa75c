"""The carrier ``local``: a copy on this host, between two librarians that share it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from libtool import copying
from libtool.movers.base import Item
from libtool.movers.direct import DIRECTORY_MODE, FILE_MODE, DirectMover


class LocalMover(DirectMover):
    """Copies with the permissions of this user; 664 and 775, as stock librarians do."""

    kind = "local"

    def reaches(self, provider: Mapping[str, Any]) -> str:
        """This host must be among the destination's ``hostnames``."""
        hostnames = provider.get("hostnames")
        if not isinstance(hostnames, list) or self.hostname not in hostnames:
            return f"this host is {self.hostname}, and the destination's store is on {hostnames}"
        return self.usable()

    def carry(self, item: Item, part: str) -> None:
        """Copy, then rename."""
        if item.directory:
            copying.copy_tree(item.source, part, mode=FILE_MODE, directory_mode=DIRECTORY_MODE)
        else:
            copying.copy_file(item.source, part, mode=FILE_MODE)
        os.rename(part, item.target)
