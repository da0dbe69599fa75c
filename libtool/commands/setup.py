"""``setup``: everything that a librarian needs before its first file, and after every upgrade."""

from __future__ import annotations

import click

from libtool.archive import places
from libtool.commands.words import Frame, dry_run, pass_frame
from libtool.names import is_uuid


@click.command()
@click.option(
    "--accept-store",
    "accepted",
    multiple=True,
    metavar="STORE",
    help="Set up a known store anew although its directory is empty.",
)
@dry_run
@pass_frame
def setup(frame: Frame, accepted: tuple[str, ...], dry_run: bool) -> None:
    """Create or migrate the database, make the encryption key and the stores' directories.

    Safe to repeat: what is there stays. It waits for running tasks; tasks that start meanwhile leave at once.
    """
    if dry_run:
        _tell(frame)
        return
    with frame.open(setting_up=True) as node:
        made = node.make_key()
        if made:
            frame.say(f"made the encryption key {made}; keep a copy of it apart from the database")
        new = places.register(node, accepted)
        for name in new:
            frame.say(f"made the store {name}")
        frame.say(f"librarian {node.settings.name} is ready, its catalogue is {node.database.database}")
        for each in node.settings.collections:
            if not is_uuid(each):
                frame.say(f"warning: '{each}' is no id of a Globus collection; nothing can be sent with it")
        if node.settings.ignored:
            frame.say(f"ignored in {node.settings.file}: {', '.join(node.settings.ignored)}")


def _tell(frame: Frame) -> None:
    """What would be done, from the configuration alone."""
    from libtool import settings

    found = settings.load(settings.find(frame.config))
    print(f"database {found.database}: create it, or bring it up to date")
    for store in found.add_stores:
        print(
            f"store {store.store_name}: {found.path(store.store_data.staging_path)}, {found.path(store.store_data.store_path)}"
        )
