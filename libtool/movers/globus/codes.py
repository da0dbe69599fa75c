"""What Globus's words mean: event codes, states of trouble, and what an operator does about each.

Codes are those of task events and of ``nice_status``, as Globus staff listed them; one that is not listed is waited for.
"""

from __future__ import annotations

from typing import NamedTuple

from libtool.movers.base import Hitch


class Meaning(NamedTuple):
    """One code in words."""

    hitch: Hitch | None  #: None: it passes by itself, or the service goes on trying
    words: str
    how: str = ""


_PATHS = "Run 'libtool check-endpoint': it shows whether the collection has the same paths."
_LOGIN = "Run 'libtool login'."
_ROOM = "Free space there; it goes on by itself."

_MEANINGS = {
    "FILE_NOT_FOUND": Meaning(Hitch.FILE, "the collection has no such file", _PATHS),
    "PERMISSION_DENIED": Meaning(
        Hitch.FILE,
        "the collection does not let this identity at it",
        "'libtool whoami' names the identity; give it read access at the source and write access at the destination.",
    ),
    "FILE_SIZE_CHANGED": Meaning(Hitch.FILE, "the file changed while it was sent", "Find out what writes to it."),
    "INVALID_PATH_NAME": Meaning(Hitch.FILE, "the collection does not take its name", _PATHS),
    "AMBIGUOUS_PATH": Meaning(Hitch.FILE, "the collection finds its name ambiguous", _PATHS),
    "IS_A_DIRECTORY": Meaning(Hitch.FILE, "a directory is in the way at the destination", _PATHS),
    "IS_A_FILE": Meaning(Hitch.FILE, "a file is in the way at the destination", _PATHS),
    "NOT_A_DIRECTORY": Meaning(Hitch.FILE, "a file is where a directory should be", _PATHS),
    "EXISTS": Meaning(Hitch.FILE, "something else is in the way at the destination", _PATHS),
    "NOT_A_FILE": Meaning(Hitch.FILE, "it is no regular file", _PATHS),
    "INVALID_SYMLINK": Meaning(Hitch.FILE, "it is a broken link", _PATHS),
    "NO_SPACE_LEFT": Meaning(Hitch.SPACE, "the destination has no space left", _ROOM),
    "QUOTA_EXCEEDED": Meaning(Hitch.SPACE, "the destination's quota is used up", _ROOM),
    "LIMIT_EXCEEDED": Meaning(Hitch.SPACE, "a limit of the destination is reached", _ROOM),
    "AUTH": Meaning(Hitch.PERSON, "a collection does not accept the login", _LOGIN),
    "NO_CREDENTIALS": Meaning(Hitch.PERSON, "the login for a collection has expired", _LOGIN),
    "INVALID_SERVICE_CREDENTIAL": Meaning(
        Hitch.PERSON, "a collection's own credentials are invalid", "Tell the people who run it."
    ),
    "GC_NOT_CONNECTED": Meaning(
        Hitch.OFFLINE, "a personal endpoint is not connected", "Start Globus Connect Personal on its machine."
    ),
    "GC_PAUSED": Meaning(Hitch.PAUSED, "a personal endpoint is paused", "Resume Globus Connect Personal there."),
    "PAUSED": Meaning(Hitch.PAUSED, "it is paused", "Ask the people who run the collection."),
    "VERIFY_CHECKSUM": Meaning(None, "what arrived was damaged and is sent again"),
    "CONNECT_FAILED": Meaning(None, "a collection cannot be reached"),
    "ENDPOINT_TOO_BUSY": Meaning(None, "a collection is too busy"),
    "EXPIRED": Meaning(None, "it was not done by its deadline"),
    "CANCELED": Meaning(None, "it was cancelled"),
}


def meaning(code: str | None) -> Meaning:
    """What a code means; ``OK``, ``Queued``, None and codes that are not listed mean waiting."""
    return _MEANINGS.get(code or "", Meaning(None, ""))


def told(code: str, detail: str = "") -> str:
    """A code in words, for the line about one file or one task."""
    known = meaning(code)
    detail = " ".join(detail.split())[:300]
    text = f"{code}: {known.words}" if known.words else code
    if detail:
        text += f" ({detail})"
    return f"{text}. {known.how}" if known.how else text
