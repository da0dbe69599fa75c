"""``reset``: forget what is known of a route."""

from __future__ import annotations

import sys

import click

from libtool.archive import resetting, routes
from libtool.commands.words import Frame, dry_run, pass_frame
from libtool.errors import Usage


@click.command()
@click.argument("route")
@click.option("--yes", is_flag=True, help="Do not ask.")
@dry_run
@pass_frame
def reset(frame: Frame, route: str, yes: bool, dry_run: bool) -> int:
    """Forget what is known of ROUTE: the next 'transfer' takes every file of its source for new. No file is touched."""
    with frame.open() as node:
        (name,) = routes.named(node, [route])
        found = resetting.state(name)
        print(
            f"{name}: {found.files} files are known, {found.arrived} of them as arrived; {found.aside} are set aside;"
            f" {found.tasks} tasks are under way"
        )
        if dry_run or not found.any:
            return 0
        if not yes:
            if not sys.stdin.isatty():
                raise Usage(why="reset asks, and nobody is there to answer; add --yes", command="reset")
            click.confirm("Forget all this, so that everything is sent again?", abort=True, err=True)
        with node.lock(f"transfer-{name}"), node.lock(f"delete-{name}"):
            resetting.reset(node, name)
        frame.say(f"{name} is as new")
        return 0
