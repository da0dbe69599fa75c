"""``search-files``: what is known of files, and where their copies are."""

from __future__ import annotations

from typing import Any

import click

from libtool.archive.desk import Terms
from libtool.commands.words import Frame, at_connection, pass_frame, show, with_format
from libtool.errors import Usage
from libtool.units import parse_time


@click.command()
@click.option("-n", "--name", metavar="NAME", help="The file of just this name.")
@click.option("-u", "--uploader", metavar="WHO", help="Only what this one uploaded.")
@click.option("-s", "--source", metavar="LIBRARIAN", help="Only what came from this librarian.")
@click.option("--create-time-start", metavar="TIME", help="Only what came in at this time or later (ISO 8601, UTC).")
@click.option("--create-time-end", metavar="TIME", help="Only what came in at this time or earlier.")
@click.option(
    "--max-results",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="At most so many, the newest first.",
)
@at_connection
@with_format
@pass_frame
def search_files(
    frame: Frame,
    name: str | None,
    uploader: str | None,
    source: str | None,
    create_time_start: str | None,
    create_time_end: str | None,
    max_results: int,
    connection: str | None,
) -> None:
    """Show files and where their copies are, here and at direct neighbours."""
    window = None
    if create_time_start or create_time_end:
        try:
            window = (parse_time(create_time_start or "0001-01-01"), parse_time(create_time_end or "9999-12-31"))
        except (ValueError, OverflowError) as wrong:
            raise Usage(why=f"a time is not ISO 8601: {wrong}", command="search-files") from None
    terms = Terms(name, uploader, source, window, max_results)
    with frame.desk(connection) as desk:
        rows = desk.search(terms)
    flat = [
        row
        | {
            "here": ", ".join(_copy(copy, row.get("removals", [])) for copy in row["instances"]) or None,
            "elsewhere": ", ".join(copy["librarian"] for copy in row["remote_instances"]) or None,
        }
        for row in rows
    ]
    show(frame, flat, ["name", "size", "checksum", "create_time", "here", "elsewhere"], whole=rows)
    if not rows:
        frame.say("no files found")


def _copy(copy: dict[str, Any], removals: list[dict[str, Any]]) -> str:
    """The store of a copy, and what is the matter with it: one that was not let go and is not there travels on a disk."""
    condition = str(copy.get("condition", "SOUND")).lower()
    last = next((each["status"] for each in removals if each["store"] == copy["store"]), "RETURNED")
    away = "away" if last == "RETURNED" else "deleted"
    wrong = condition if condition != "sound" else "" if copy["available"] else away
    return f"{copy['store']} ({wrong})" if wrong else str(copy["store"])
