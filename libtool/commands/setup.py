"""``setup``: everything that a librarian needs before its first file, and after every upgrade."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import click

from libtool.archive import machine, places
from libtool.commands.words import Frame, dry_run, pass_frame
from libtool.names import is_uuid
from libtool.settings import check_ends, check_places


@click.command()
@click.option(
    "--accept-store",
    "accepted",
    multiple=True,
    metavar="STORE",
    help="Set up a store although its directory is empty or marked as another's.",
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
        # Links and mounts are looked at here and not by every command: one that hangs must not stop all of them.
        check_places(node.settings.file, node.settings.add_stores, os.path.realpath)
        check_ends(node.settings, os.path.realpath)
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
        wrong = _ages(node.settings.commands)
        if wrong:
            frame.tell(f"warning: {wrong}")
        if node.settings.ignored:
            frame.say(f"ignored in {node.settings.file}: {', '.join(node.settings.ignored)}")


def _ages(commands: Mapping[str, Any]) -> str:
    """Why the ages after which the two ends settle old transfers do not fit together; empty when they do."""
    found = []
    for name, usual in (
        ("outgoing-transfer-hypervisor", machine.OUTGOING_AGE),
        ("incoming-transfer-hypervisor", machine.INCOMING_AGE),
    ):
        given = {key.replace("-", "_"): value for key, value in (commands.get(name) or {}).items()}
        age = given.get("age_in_days", usual / timedelta(days=1))
        if isinstance(age, bool) or not isinstance(age, (int, float)):
            return ""  # the command itself says what is wrong with it
        found.append(age)
    if found[0] < found[1]:
        return ""
    return (
        f"commands: incoming transfers are settled after {found[1]:g} days, outgoing ones only after {found[0]:g}. "
        "A destination that settles first ends what its source still counts on, and what was carried is carried again. "
        "Let the age_in_days of outgoing-transfer-hypervisor be the smaller one, at the neighbours, too."
    )


def _tell(frame: Frame) -> None:
    """What would be done, from the configuration alone."""
    from libtool import settings

    found = settings.load(settings.find(frame.config))
    print(f"database {found.database}: create it, or bring it up to date")
    for store in found.add_stores:
        print(
            f"store {store.store_name}: {found.path(store.store_data.staging_path)}, {found.path(store.store_data.store_path)}"
        )
