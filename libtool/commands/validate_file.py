"""``validate-file``: have the copies of a file read."""

from __future__ import annotations

import click

from libtool.commands.words import Frame, pass_frame, show, with_format


@click.command()
@click.argument("name", metavar="FILE-NAME")
@click.option("--connection", metavar="NAME", help="Ask another librarian; README, 'Another librarian'.")
@with_format
@pass_frame
def validate_file(frame: Frame, name: str, connection: str | None) -> int:
    """Read every copy of a file that is here and can be read, and show whether it is what was recorded.

    A copy that cannot be read now is left out, since that is no verdict. Exit code 3 when a copy is bad or none could
    be read.
    """
    with frame.desk(connection) as desk:
        rows = desk.validate(name)
    columns = ["librarian", "store", "instance_id", "original_size", "current_size", "current_checksum"]
    show(frame, rows, [*columns, "computed_same_checksum"])
    if not rows:
        frame.tell(f"no copy of '{name}' could be read")
    return 0 if rows and all(row["computed_same_checksum"] for row in rows) else 3
