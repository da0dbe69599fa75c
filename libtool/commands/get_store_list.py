"""``get-store-list``: which stores there are."""

from __future__ import annotations

import click

from libtool.commands.words import Frame, at_connection, pass_frame, show, with_format


@click.command()
@at_connection
@with_format
@pass_frame
def get_store_list(frame: Frame, connection: str | None) -> None:
    """Show all stores: whether they may be filled, may be used, can be used on this host now, and their room in bytes
    (-1 when it cannot be told)."""
    with frame.desk(connection) as desk:
        rows = desk.stores()
    show(frame, rows, ["name", "store_type", "ingestible", "enabled", "available", "free_space"])
