"""The carrier ``rsync``: the rsync program, between two librarians on one host, for large files on slow mounts."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Mapping
from typing import Any

from libtool import copying
from libtool.errors import FileUnreadable
from libtool.movers.base import Item
from libtool.movers.direct import DirectMover
from libtool.seams import seam

#: What rsync says in words when the destination's disk, not the file, is the trouble.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)
#: rsync's exit code for trouble with reading or writing files as such.
_IO_TROUBLE = 11


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
        elif not stat.S_ISREG(os.stat(source).st_mode):
            raise FileUnreadable(path=source, why="it is no regular file")
        command = [
            "rsync",
            "--archive",
            "--copy-links",
            "--sparse",
            "--no-specials",
            "--no-devices",
            "--no-perms",
            "--chmod=D775,F664",
            "--no-owner",
            "--no-group",
            "--protect-args",
            "--",
            source,
            part,
        ]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env={**os.environ, "LC_ALL": "C"}, check=False
        )
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
            for code in _DISK:
                if any(os.strerror(code) in line for line in lines):
                    raise OSError(code, os.strerror(code), part)
            if done.returncode == _IO_TROUBLE:
                raise OSError(errno.EIO, f"rsync: {lines[0]}", part)
            raise FileUnreadable(path=item.source, why=f"rsync: {lines[0]}")
        seam("rsync: made")
        os.rename(part, item.target)
