"""``validate-file``: have the copies of a file read, here and at the neighbours."""

from __future__ import annotations

import click

from libtool.commands.words import Frame, Span, pass_frame, show, with_format


@click.command()
@click.argument("name", metavar="FILE-NAME")
@click.option(
    "--max-age", type=Span(), default="0s", show_default=True, help="Believe who has read its copy no longer ago."
)
@click.option(
    "--depth",
    type=click.IntRange(0, 3),
    default=1,
    show_default=True,
    help="0: only our own copies; 1: also the neighbours'; 2: also those of their neighbours.",
)
@click.option("--connection", metavar="NAME", help="Ask another librarian; README, 'Another librarian'.")
@with_format
@pass_frame
def validate_file(frame: Frame, name: str, max_age: float, depth: int, connection: str | None) -> int:
    """Have every known copy of a file read where it lies, and show whether it is what was recorded.

    A copy that could not be read now is shown without a verdict. Exit code 3 when a copy is bad or none could be read.
    """
    with frame.desk(connection) as desk:
        rows = desk.validate(name, max_age, depth)
    columns = ["librarian", "store", "original_size", "current_size", "current_checksum"]
    show(frame, rows, [*columns, "computed_same_checksum", "age", "why"])
    for line in desk.silent:
        frame.tell(line)
    good = {(row["librarian"], row["store"]) for row in rows if row["computed_same_checksum"]}
    bad = [row for row in rows if row["computed_same_checksum"] is False]
    if not good and not bad:
        frame.tell(f"no copy of '{name}' could be read")
    elif frame.format == "table":
        frame.say(f"{len(good)} copies are right, {len(bad)} are not")
    return 0 if good and not bad else 3
