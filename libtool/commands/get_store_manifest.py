"""``get-store-manifest``: list what lies in a store, so that its disk can travel."""

from __future__ import annotations

import os
import sys

import click

from libtool.archive import manifest_files
from libtool.archive.desk import Desk
from libtool.commands.tasks.frame import Bar
from libtool.commands.words import Frame, at_connection, dry_run, pass_frame
from libtool.errors import UnknownStore, Usage
from libtool.names import shown


@click.command()
@click.option("--store", required=True, metavar="STORE", help="Which store.")
@click.option(
    "--destination-librarian",
    metavar="NAME",
    help="Where the disk goes: what it has not got is written down as a transfer by hand, and is not sent.",
)
@click.option("--disable-store", is_flag=True, help="Switch the store off first, so that nothing comes in or goes out.")
@click.option(
    "--mark-instances-as-unavailable",
    "mark",
    is_flag=True,
    help="Remember that the copies listed are not here any more; needs --output.",
)
@click.option(
    "--stock-destination",
    is_flag=True,
    help="For a destination with the stock server: name this librarian as the source of every file, since that is whom it calls back.",
)
@click.option("--output", type=click.Path(), metavar="FILE", help="Write it there; default: standard output.")
@at_connection
@dry_run
@pass_frame
def get_store_manifest(
    frame: Frame,
    store: str,
    destination_librarian: str | None,
    disable_store: bool,
    mark: bool,
    stock_destination: bool,
    output: str | None,
    connection: str | None,
    dry_run: bool,
) -> int:
    """List everything in a store as JSON, to travel with its disk; 'libtool ingest-manifest' takes it in elsewhere.

    It can be repeated: transfers keep their numbers, and what travels is listed again. Copies are marked only after
    the list is safe on disk. FILE is never replaced.
    """
    if mark and output is None:
        why = "--mark-instances-as-unavailable needs --output, so that the list is safe before the copies are given up"
        raise Usage(why=why, command="get-store-manifest")
    if mark and connection is not None and not disable_store:
        why = "at another librarian, --mark-instances-as-unavailable needs --disable-store: nothing may come in between"
        raise Usage(why=why, command="get-store-manifest")
    with frame.desk(connection) as desk, Bar(frame, "listing", None) as bar:
        _check(desk, store, destination_librarian)
        if dry_run:
            count = sum(1 for _ in desk.manifest(store, None).entries)
            print(f"would list {count} files of the store {store}")
            return 0
        again = output is not None and os.path.lexists(output)
        if again and mark and destination_librarian is None and _done(desk, store, str(output)):
            return 0
        if disable_store and not again:
            desk.set_store(store, False)
        freight = desk.manifest(store, destination_librarian, again=again)
        text = manifest_files.lines(freight.librarian, store, freight.entries, as_source=stock_destination, step=bar)
        if output is None:
            sys.stdout.writelines(text)
            return 0
        manifest_files.write(output, text, freight.ended)
        if disable_store and again:
            desk.set_store(store, False)
        late = freight.mark() if mark else []
        for name in late:
            frame.tell(f"'{shown(name)}' came in meanwhile: it is marked as unavailable, and the manifest lacks it")
        return 3 if late else 0


def _done(desk: Desk, store: str, output: str) -> bool:
    """Whether a former run wrote this manifest and marked all that it lists, and only died over saying so."""
    freight = desk.manifest(store, None)
    written = manifest_files.head(output)
    mine = (written.librarian, written.store) == (freight.librarian, store)
    return mine and next(iter(freight.entries), None) is None


def _check(desk: Desk, store: str, destination: str | None) -> None:
    """Both must be known before anything is changed."""
    if store not in {row["name"] for row in desk.stores()}:
        raise UnknownStore(name=store)
    if destination is not None:
        desk.librarian(destination)
