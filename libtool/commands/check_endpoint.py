"""``check-endpoint``: whether the Globus collections show the paths that this host has."""

from __future__ import annotations

from contextlib import suppress

import click

from libtool.archive import carriers
from libtool.commands.login import announce
from libtool.commands.words import Frame, dry_run, pass_frame, show, with_format
from libtool.errors import LibtoolError, PersonNeeded


@click.command()
@dry_run
@with_format
@pass_frame
def check_endpoint(frame: Frame, dry_run: bool) -> int:
    """Put a marker into every store's staging directory, look for it through its collection, and take it away; look at
    both ends of every route.

    Globus carries files from and to the paths that the librarians name, so a collection must show just those. Exit
    code 0 when all do, 3 when one does not or could not be asked, 4 when a person must log in or permit something.
    """
    with frame.open() as node:
        named = node.settings.collections
        if not named:
            raise PersonNeeded(
                why="the configuration names no collection",
                how="Set globus_local_endpoint_id, a store's destination_endpoint, or routes.",
            )
        if dry_run:
            for collection in named:
                print(f"would look for markers through collection {collection}")
            return 0
        announce(frame, node)
        rows = [*carriers.check(node), *carriers.check_routes(node)]
        if not rows:
            raise PersonNeeded(
                why="no store has a carrier 'globus' that is available, and globus_local_endpoint_id is not set",
                how="Complete the configuration; then run 'libtool setup'.",
            )
        with suppress(LibtoolError):
            frame.say(f"the secret was found in {node.tokens().secret()[1]}")
    show(frame, rows, ["store", "what", "same", "collection", "path", "why"])
    answers = {row["same"] for row in rows}
    return 4 if "barred" in answers else 3 if answers - {"yes"} else 0
