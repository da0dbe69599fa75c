"""``get-librarian-list``: which librarians are registered here."""

from __future__ import annotations

import click

from libtool.archive import librarians
from libtool.commands.words import Frame, pass_frame, show, with_format
from libtool.errors import LibtoolError
from libtool.units import show_time


@click.command()
@click.option("--ping", is_flag=True, help="Ask each for a sign of life that needs our account there.")
@with_format
@pass_frame
def get_librarian_list(frame: Frame, ping: bool) -> int:
    """Show all librarians that are registered here."""
    rows, silent = [], 0
    with frame.open() as node:
        for row in librarians.everybody():
            shown = {
                "name": row.name,
                "url": row.url,
                "port": row.port,
                "transfers_enabled": row.transfers_enabled,
                "last_seen": show_time(row.last_seen),
                "last_heard": show_time(row.last_heard),
            }
            if ping:
                try:
                    peer = node.peer(row)
                    librarians.probe(peer)
                    librarians.keep_acquaintance(row, peer, node.now())
                    shown["available"] = True
                except LibtoolError as trouble:
                    frame.tell(trouble.text)
                    shown["available"] = False
                    silent += 1
            rows.append(shown)
    columns = ["name", "url", "port", "transfers_enabled", "last_seen", "last_heard"]
    show(frame, rows, [*columns, "available"] if ping else columns)
    return 3 if silent else 0
