"""``set-store-state``: switch a store on or off."""

from __future__ import annotations

import click

from libtool.commands.words import Frame, at_connection, dry_run, pass_frame
from libtool.errors import UnknownStore


@click.command()
@click.option("--store", required=True, metavar="STORE", help="Which store.")
@click.option(
    "--enabled/--disabled", "enabled", default=None, required=True, help="Whether it is read from and filled."
)
@at_connection
@dry_run
@pass_frame
def set_store_state(frame: Frame, store: str, enabled: bool, connection: str | None, dry_run: bool) -> None:
    """Switch a store on or off. Nothing is read from or written to a disabled store; what waits for it goes on later."""
    word = "enabled" if enabled else "disabled"
    with frame.desk(connection) as desk:
        if dry_run:
            if store not in {row["name"] for row in desk.stores()}:
                raise UnknownStore(name=store)
            print(f"would set the store {store} to {word}")
            return
        desk.set_store(store, enabled)
        frame.say(f"the store {store} is {word}")
