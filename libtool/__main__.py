"""``python -m libtool``: the same as the script ``libtool``; a callback starts without click."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run a command; ``callback`` goes straight to its own door, since it is started for every request of a peer."""
    # Nothing that is imported becomes garbage; collecting while importing costs some milliseconds of every start.
    gc.disable()
    if sys.argv[1:2] == ["callback"] or (sys.argv[1:2] == ["--config"] and sys.argv[3:4] == ["callback"]):
        from libtool.commands.callback import main as callback

        callback()
        return
    from libtool.cli import main as cli

    gc.freeze()
    gc.enable()
    cli()


if __name__ == "__main__":
    main()
