"""``change-transfer-status``: the older spelling of ``set-librarian-transfer``."""

from __future__ import annotations

import click

from libtool.commands.set_librarian_transfer import switch
from libtool.commands.words import Frame, dry_run, pass_frame


@click.command()
@click.option("--librarian", required=True, metavar="NAME", help="Which librarian.")
@click.option("--enable/--disable", "enabled", default=None, required=True, help="Whether files may be sent to it.")
@dry_run
@pass_frame
def change_transfer_status(frame: Frame, librarian: str, enabled: bool, dry_run: bool) -> None:
    """Switch sending to a librarian on or off; the same as set-librarian-transfer."""
    switch(frame, librarian, enabled, None, dry_run)
