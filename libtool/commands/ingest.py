"""``ingest``: bring files of this machine into the archive."""

from __future__ import annotations

import os

import click

from libtool.archive import ingest as archive
from libtool.archive import places
from libtool.archive.hands import Tally
from libtool.commands.tasks.frame import Bar, finish
from libtool.commands.words import Frame, dry_run, pass_frame
from libtool.errors import FileUnreadable, Usage
from libtool.names import shown
from libtool.states import DeletionPolicy


@click.command()
@click.argument("path", type=click.Path())
@click.argument("name", required=False)
@click.option(
    "--recursive", is_flag=True, help="Every file below PATH becomes a file of its own, named relative to PATH."
)
@click.option("--move/--copy", "move", default=False, help="Take the original away once it is stored; default: copy.")
@click.option("--store", metavar="STORE", help="Into this store; default: the first that may be filled.")
@click.option("--uploader", metavar="WHO", help="Who is remembered as its uploader; default: the login name.")
@click.option(
    "--deletion-policy",
    type=click.Choice(["allowed", "disallowed"], case_sensitive=False),
    default="allowed",
    show_default=True,
    help="Whether this copy may ever be deleted.",
)
@dry_run
@pass_frame
def ingest(
    frame: Frame,
    path: str,
    name: str | None,
    recursive: bool,
    move: bool,
    store: str | None,
    uploader: str | None,
    deletion_policy: str,
    dry_run: bool,
) -> int:
    """Take in PATH as the file NAME (default: its last part); a directory becomes one file.

    What is known already with the same content is skipped, so that it can be repeated. What lies in a store already is
    registered where it lies. Names are relative, unique and permanent.
    """
    if recursive and not os.path.isdir(path):
        raise Usage(why=f"--recursive needs a directory, and '{shown(path)}' is none", command="ingest")
    if not os.path.lexists(path):
        raise FileUnreadable(path=path, why="it does not exist")
    with frame.open() as node:
        home, lies_as = places.home_of(node, path)
        name = name if name is not None else lies_as
        wanted = archive.survey(path, name, recursive)
        if dry_run:
            for each in wanted:
                print(f"{shown(each.path)} → {shown(each.name)}")
            return 0
        tally = Tally()
        order = archive.Order(move, uploader or _login(), DeletionPolicy[deletion_policy.upper()], store or home)
        with Bar(frame, "taking in", None) as bar:
            known = archive.ingest(node, wanted, order, tally, bar)
        frame.say(f"{tally.done} taken in, {known} known already")
        return finish(frame, tally)


def _login() -> str:
    """Who is at work, also where the user has no name."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
