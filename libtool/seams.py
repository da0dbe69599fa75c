"""Named points between two acts, where a crash must do no harm.

``seam(name)`` stands before and after every commit, every act on a file system and every call to a peer or a
carrier. It does nothing. A test sets ``watch`` and ends the process at the n-th seam, so that "kill it anywhere"
is tried rather than believed.
"""

from __future__ import annotations

from collections.abc import Callable

watch: Callable[[str], None] | None = None


def seam(name: str) -> None:
    """Pass the point ``name``; free of charge unless a test is watching."""
    if watch is not None:
        watch(name)
