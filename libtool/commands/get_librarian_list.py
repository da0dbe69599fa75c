"""``get-librarian-list``: which librarians are registered."""

from __future__ import annotations

import click

from libtool.commands.words import Frame, at_connection, pass_frame, show, with_format


@click.command()
@click.option("--ping", is_flag=True, help="Ask each for a sign of life that needs our account there.")
@at_connection
@with_format
@pass_frame
def get_librarian_list(frame: Frame, ping: bool, connection: str | None) -> int:
    """Show all librarians that are registered here."""
    with frame.desk(connection) as desk:
        rows = desk.librarians(ping)
    for row in rows:
        why = row.pop("why", None)
        if why:
            frame.tell(why if row["name"] in why else f"{row['name']}: {why}")
    columns = ["name", "url", "port", "transfers_enabled", "last_seen", "last_heard"]
    show(frame, rows, [*columns, "available"] if ping else columns)
    return 3 if ping and not all(row["available"] for row in rows) else 0
