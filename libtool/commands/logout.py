"""``logout``: give up this node's identity at Globus."""

from __future__ import annotations

import click

from libtool.commands.words import Frame, dry_run, pass_frame


@click.command()
@dry_run
@pass_frame
def logout(frame: Frame, dry_run: bool) -> None:
    """Revoke at Globus what a login left here, and remove it. Nothing is submitted afterwards; what flies goes on."""
    with frame.open() as node:
        identity = node.identity()
        if dry_run:
            print(f"would revoke and remove what is held for the application {identity.client}")
            return
        for line in identity.logout():
            frame.say(line)
