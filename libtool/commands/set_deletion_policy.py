"""``set-deletion-policy``: whether copies may ever be let go."""

from __future__ import annotations

import click

from libtool.archive import catalogue
from libtool.commands.words import Frame, dry_run, pass_frame
from libtool.errors import Usage
from libtool.states import DeletionPolicy


@click.command()
@click.argument("names", metavar="[FILE-NAME]...", nargs=-1)
@click.option(
    "--policy",
    type=click.Choice(["allowed", "disallowed"], case_sensitive=False),
    required=True,
    help="Whether they may be let go.",
)
@click.option("--store", metavar="STORE", help="Only the copies in this store.")
@click.option("--prefix", metavar="NAME", help="All files whose names begin so; '' means every file.")
@dry_run
@pass_frame
def set_deletion_policy(
    frame: Frame, names: tuple[str, ...], policy: str, store: str | None, prefix: str | None, dry_run: bool
) -> int:
    """Allow or disallow that our copies of files are ever let go. Disallowed is a hold that is always respected."""
    if bool(names) == (prefix is not None):
        raise Usage(why="give file names, or --prefix", command="set-deletion-policy")
    with frame.open() as node:
        wanted = DeletionPolicy[policy.upper()]
        count, unknown = catalogue.set_policy(node, names, prefix, store, wanted, change=not dry_run)
    for name in unknown:
        frame.tell(f"no copy of '{name}' is here")
    if prefix is not None and not count:
        where = f" in the store {store}" if store is not None else ""
        frame.tell(f"no copy of a file whose name begins with '{prefix}' is here{where}: nothing was changed")
    if dry_run:
        print(f"{count} copies would be {policy.lower()}")
    else:
        frame.say(f"{count} copies are {policy.lower()}")
    return 3 if unknown or not count else 0
