"""What commands have in common at the terminal: showing rows, the node that they open, parameters of several kinds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from libtool import units
from libtool.names import shown

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from libtool.archive.desk import Desk
    from libtool.node import Node

F = TypeVar("F", bound=Callable[..., Any])


class Frame:
    """What stands before the command: which configuration, how much to say. click hands it to every command."""

    def __init__(self, config: str | None, verbosity: int) -> None:
        self.config = config
        self.verbosity = verbosity
        self.format = "table"

    def open(self, **options: bool) -> AbstractContextManager[Node]:
        """The node that the command works for."""
        from libtool.node import Node

        return Node.open(self.config, **options)

    @contextmanager
    def desk(self, connection: str | None) -> Iterator[Desk]:
        """The desk of this librarian, or of the one behind a connection."""
        if connection is None:
            from libtool.archive.here import Here

            with self.open() as node:
                yield Here(node, local=True)
            return
        from libtool import connections
        from libtool.archive.away import Away
        from libtool.node import visiting

        with visiting(connections.find(connection)) as peer:
            yield Away(peer)

    def say(self, text: str) -> None:
        """A remark for people; only on a terminal or with -v, so that cron has nothing to mail."""
        if self.verbosity > 0 or (self.verbosity == 0 and sys.stderr.isatty()):
            print(shown(text)[:8000], file=sys.stderr)

    def tell(self, text: str) -> None:
        """What a person must know, also under cron; not with -q -q."""
        if self.verbosity > -2:
            print(shown(text)[:8000], file=sys.stderr)  # a peer's words may be in it


pass_frame = click.make_pass_decorator(Frame)


class Span(click.ParamType):
    """A span of time such as 90s, 10m or 7d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        try:
            return units.parse_span(value)
        except ValueError as wrong:
            self.fail(str(wrong), param, ctx)


class Days(click.FloatRange):
    """A number of days, fractions allowed."""

    name = "days"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """A number that can be counted with."""
        days: float = super().convert(value, param, ctx)
        if not days < 100_000:  # which nan is not, either
            self.fail(f"{value} is no number of days", param, ctx)
        return days


class Size(click.ParamType):
    """A number of bytes such as 500G or 20TiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes."""
        try:
            return units.parse_size(value)
        except ValueError as wrong:
            self.fail(str(wrong), param, ctx)


class Percent(click.ParamType):
    """A share such as 10%."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The share, between 0 and 1."""
        if isinstance(value, float) and 0 <= value <= 1:
            return value
        try:
            share = float(str(value).strip().removesuffix("%")) / 100
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            self.fail("expected a share between 0% and 100%, such as 10%", param, ctx)
        return share


def with_format(command: F) -> F:
    """The option that every command has that shows something."""

    def keep(ctx: click.Context, param: click.Parameter, value: str) -> str:
        ctx.find_object(Frame).format = value  # type: ignore[union-attr]
        return value

    return click.option(
        "-F",
        "--format",
        type=click.Choice(["table", "json"]),
        default="table",
        callback=keep,
        expose_value=False,
        is_eager=True,
        help="How to show it.",
    )(command)


def at_connection(command: Callable[..., Any]) -> Any:
    """``--connection NAME``, also as a bare NAME: the command acts at another librarian."""

    @click.argument("place", metavar="[CONNECTION]", required=False)
    @click.option("--connection", metavar="NAME", help="Do it at another librarian; README, 'Another librarian'.")
    @wraps(command)
    def placed(*words: Any, connection: str | None, place: str | None, **options: Any) -> Any:
        if connection is not None and place is not None and connection != place:
            raise click.UsageError(f"Both '{place}' and --connection {connection} are given.")
        return command(*words, connection=connection or place, **options)

    return placed


def dry_run(command: F) -> F:
    """The option that every command has that changes or sends something."""
    return click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")(command)


def show(frame: Frame, rows: Sequence[dict[str, Any]], columns: Sequence[str], whole: Any = None) -> None:
    """Rows as a table with the given columns, or as JSON (``whole`` if given, else the rows)."""
    if frame.format == "json":
        print(json.dumps(rows if whole is None else whole, indent=2, ensure_ascii=False))
        return
    if not rows:
        return
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        heads = [column.replace("_", " ") for column in columns]
        console = Console(highlight=False)
        widths = [max(map(len, column)) + 1 for column in zip(heads, *cells)]
        if sum(widths) > console.width:  # ids and paths are to be copied, so nothing is cut
            _blocks(heads, cells)
            return
        table = Table(*heads, box=None, pad_edge=False)
        for line in cells:
            table.add_row(*line)
        console.print(table)
        return
    print("\t".join(columns))
    for line in cells:
        print("\t".join(line))


def _blocks(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Rows that are too wide for the terminal, each as a block of lines; what is empty is left out."""
    width = max(map(len, heads))
    for n, line in enumerate(cells):
        if n:
            print()
        for head, cell in zip(heads, line):
            if cell not in ("", "-"):
                print(f"{head:<{width}}  {cell}")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return shown(str(value))
