"""Bytes in motion: the carriers that bring a batch into another librarian's staging area. A mover never sees a row."""

from __future__ import annotations

#: Kind of carrier → module and class; a new one is a row here, a file beside it, and a contract test that it inherits.
KINDS = {
    "local": ("libtool.movers.local", "LocalMover"),
    "rsync": ("libtool.movers.rsync", "RsyncMover"),
    "globus": ("libtool.movers.globus.mover", "GlobusMover"),
}
#: The field of the wire's provider object that tells which kind it is; the first that is present decides.
DECIDING_FIELDS = {"destination_endpoint": "globus", "hostname": "rsync", "hostnames": "local"}


def kind_of(provider: object) -> str | None:
    """Which kind of carrier a provider object of the wire asks for; None when it is none that is known."""
    if isinstance(provider, dict):
        for field, kind in DECIDING_FIELDS.items():
            if field in provider:
                return kind
    return None
