"""What the carriers that write on this host have in common: where they may write, and how a batch is recorded.

They copy while they are submitted, so a task is done as soon as it was taken; the ticket lists what did not go.
"""

from __future__ import annotations

import os
import socket
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from libtool.copying import PASSING, make_directories, remove_tree
from libtool.errors import FileChanged, FileUnreadable
from libtool.movers.base import Arrived, Item, ItemOutcome, Mover, Progress, Stage, Ticket
from libtool.names import RESERVED, is_plain_path, shown
from libtool.seams import seam

#: Modes of what is put into a staging area, as stock librarians set them: its owner may be another user of the group.
FILE_MODE, DIRECTORY_MODE = 0o664, 0o775


class DirectMover(Mover):
    """Writes into a staging area that this host can see, and nowhere else than below ``roots``."""

    asynchronous = False

    def __init__(self, roots: Iterable[str], hostname: str | None = None) -> None:
        self.roots = tuple(os.path.realpath(root) for root in roots)
        self.hostname = hostname or socket.gethostname()

    def usable(self) -> str:
        """Why nothing can be carried at all."""
        if not self.roots:
            return f"local_transfer_roots names no directory into which '{self.kind}' may write"
        return ""

    def prepare(self, provider: Mapping[str, Any], label: str) -> Ticket:
        """Nothing to agree on with anybody."""
        return {}

    def submit(self, provider: Mapping[str, Any], ticket: Ticket, items: Sequence[Item]) -> Ticket:
        """Copy what is not there yet; a failed file is recorded and does not stop the others."""
        failed: dict[str, tuple[str, bool]] = {}
        size = 0
        safe: dict[str, bool] = {}
        for item in items:
            trouble = self._try(item, safe)
            if trouble is not None:
                failed[item.target] = trouble
            else:
                size += item.size
            seam(f"{self.kind}: one carried")
        return {**ticket, "failed": failed, "files": len(items) - len(failed), "bytes": size}

    def _try(self, item: Item, safe: dict[str, bool]) -> tuple[str, bool] | None:
        """Carry one item; when it did not go: why, and whether that is likely to pass."""
        if not is_plain_path(item.target):
            return f"'{shown(item.target)}' is no plain absolute path", False
        parent = item.target.rpartition("/")[0]
        if parent not in safe:
            safe[parent] = self._inside(parent)
            if safe[parent]:
                place = item.target.removesuffix(f"/{item.name}") if item.name else parent
                if item.name and not os.path.isdir(place):
                    del safe[parent]
                    return f"the staging place {shown(place)} is not there (is it mounted here?)", True
                try:
                    make_directories(parent, DIRECTORY_MODE)
                except OSError as trouble:
                    del safe[parent]
                    return f"{trouble.filename}: {trouble.strerror}", trouble.errno in PASSING
        if not safe[parent]:
            return f"{item.target} is outside of local_transfer_roots", False
        try:
            if not os.path.lexists(item.target):
                self.carry(item, self._part(item.target))
            return None
        except (FileUnreadable, FileChanged) as trouble:
            return trouble.reason, False
        except OSError as trouble:
            return f"{trouble.filename or item.target}: {trouble.strerror}", trouble.errno in PASSING
        except ValueError as trouble:  # a source that no path can be
            return f"'{shown(item.source)}': {trouble}", False

    @staticmethod
    def _part(target: str) -> str:
        """Where the item is made before it gets its name; no file may be named so. Removes what a crash left there."""
        directory, _, name = target.rpartition("/")
        part = f"{directory}/{RESERVED}{zlib.crc32(os.fsencode(name)):08x}"
        if os.path.lexists(part):
            remove_tree(part) if os.path.isdir(part) else os.unlink(part)
        return part

    def _inside(self, directory: str) -> bool:
        """Whether a directory really lies below an allowed root, links resolved."""
        parent = os.path.realpath(directory)
        return any(parent == root or parent.startswith(root + os.sep) for root in self.roots)

    @abstractmethod
    def carry(self, item: Item, part: str) -> None:
        """Copy one item to ``part`` and rename that to its target, which so appears complete or not at all."""

    def poll(self, ticket: Ticket) -> Progress:
        """Done, since it was submitted."""
        report = {
            "bytes": ticket.get("bytes", 0),
            "files": ticket.get("files", 0),
            "faults": len(ticket.get("failed", {})),
        }
        return Progress(Stage.DONE, report=report)

    def outcomes(self, ticket: Ticket, items: Sequence[Item]) -> list[ItemOutcome]:
        """As the ticket says."""
        failed = ticket["failed"]
        return [
            ItemOutcome(Arrived.NO, *failed[item.target]) if item.target in failed else ItemOutcome(Arrived.YES)
            for item in items
        ]
