"""``ping/``, ``ping/logged``, ``ping/admin``: who is here, in words for people."""

from __future__ import annotations

from typing import Any

from libtool.node import Node


def ping(node: Node, caller: Any, message: Any) -> dict[str, str]:
    """The displayed name and description; the level is all that differs between the three."""
    return {
        "name": node.settings.displayed_site_name,
        "description": node.settings.displayed_site_description,
    }
