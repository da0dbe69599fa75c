"""``whoami``: who this node is at Globus."""

from __future__ import annotations

import json

import click

from libtool.commands.login import announce
from libtool.commands.words import Frame, pass_frame, with_format


@click.command()
@with_format
@pass_frame
def whoami(frame: Frame) -> None:
    """Show which identity this node has at Globus and where its secret was found, and prove it by asking there."""
    with frame.open() as node:
        identity = node.identity()
        announce(frame, node)
        found = identity.facts()
    if frame.format == "json":
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for word, value in found.items():
        if isinstance(value, list):
            value = ", ".join(value)
        print(f"{word.replace('_', ' ')}: {value if value not in (None, '') else '-'}")
