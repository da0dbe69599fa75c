"""The carrier ``rsync``: the rsync program, between two librarians on one host, for large files on slow mounts."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

from libtool import copying
from libtool.errors import FileUnreadable
from libtool.movers.base import Item
from libtool.movers.direct import DirectMover


class RsyncMover(DirectMover):
    """Calls rsync once per file, without a shell."""

    kind = "rsync"

    def reaches(self, provider: Mapping[str, Any]) -> str:
        """This host must be the destination's ``hostname`` and have the program."""
        if provider.get("hostname") != self.hostname:
            return f"this host is {self.hostname}, and the destination's store is on {provider.get('hostname')}"
        if shutil.which("rsync") is None:
            return "the program rsync is not installed here"
        return self.usable()

    def carry(self, item: Item, part: str) -> None:
        """``--copy-links``, since a link inside a directory is stored as the file that it leads to."""
        source = item.source
        if item.directory:
            copying.inspect(source)
            source += "/"
        command = [
            "rsync",
            "--archive",
            "--copy-links",
            "--no-owner",
            "--no-group",
            "--protect-args",
            "--",
            source,
            part,
        ]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
            raise FileUnreadable(path=item.source, why=f"rsync: {lines[0]}")
        os.rename(part, item.target)
