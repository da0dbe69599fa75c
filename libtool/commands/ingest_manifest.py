"""``ingest-manifest``: take in what came on a disk, by its manifest."""

from __future__ import annotations

import click

from libtool.archive import carried
from libtool.archive.hands import Tally
from libtool.commands.tasks.frame import Bar, finish
from libtool.commands.words import Frame, dry_run, pass_frame
from libtool.states import DeletionPolicy


@click.command()
@click.option("--manifest", required=True, type=click.Path(), metavar="FILE", help="What get-store-manifest wrote.")
@click.option(
    "--store-root", required=True, type=click.Path(), metavar="DIR", help="Where the disk's files begin: DIR/NAME."
)
@click.option("--store", metavar="STORE", help="Into this store; default: the first with room that may be filled.")
@click.option(
    "--deletion-policy",
    type=click.Choice(["allowed", "disallowed"], case_sensitive=False),
    help="Whether the copies made here may ever be deleted; default: as the manifest says of each.",
)
@click.option("--from-nobody", is_flag=True, help="Tell nobody what arrived; for a librarian that is not known here.")
@dry_run
@pass_frame
def ingest_manifest(
    frame: Frame,
    manifest: str,
    store_root: str,
    store: str | None,
    deletion_policy: str | None,
    from_nobody: bool,
    dry_run: bool,
) -> int:
    """Compare what lies on the disk with its manifest, and copy what is right into staging. recv-clone proves the
    copies, stores them, and tells the librarian that made the manifest.

    It can be repeated: what is here, or staged, is skipped. What is missing on the disk, or is not what the manifest
    says, is named, and the others go on (exit code 3). The disk is only read.
    """
    policy = DeletionPolicy[deletion_policy.upper()] if deletion_policy else None
    delivery = carried.Delivery(manifest, store_root, store, policy, from_nobody)
    with frame.open() as node:
        source, head = carried.sender(node, delivery)
        tally = Tally()
        if dry_run:
            for line in carried.plan(node, delivery, source, tally):
                print(line)
            return finish(frame, tally)
        with Bar(frame, "copying", head.files) as bar:
            came = carried.bring(node, delivery, source, tally, bar)
        frame.say(f"{tally.done} staged, {came.under_way} staged before, {came.known} known already")
        return finish(frame, tally)
