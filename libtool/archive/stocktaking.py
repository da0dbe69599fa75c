"""What a neighbour has and how far transfers are there, in its own words, taken for one of the machine's.

A stock librarian is asked by the only number that it understands, and for each file by name. What it refuses to say, or
says in a way that cannot be read, is "could not find out".
"""

from __future__ import annotations

from libtool import digest
from libtool.archive.machine import Disk, There
from libtool.errors import PeerRefused, PeerUnreachable
from libtool.peers import messages
from libtool.peers.client import Peer

#: What a stock librarian says, word for word, when it knows no file of a name.
NO_FILES = "No files found."
#: Files about which it fails, one after the other, before it is left alone.
TRIED = 3
_ELSEWHERE = "it has a file of that name with a checksum of another kind, which cannot be compared"
_DIFFERENT = "it has other content under that name"
#: What it has, in which of its stores, and why it is not the same.
Finding = tuple[Disk, int | None, str]


def compare(size: int, checksum: str, known: messages.KnownFile | None) -> Finding:
    """What a libtool librarian knows of a file, against what we know of it."""
    if known is None:
        return Disk.NOTHING, None, ""
    why = _differs(size, checksum, known.size, known.checksum)
    if why:
        return Disk.OTHER, None, why
    return (Disk.SAME, known.store_id, "") if known.store_id is not None else (Disk.NO_COPY, None, "")


def _differs(size: int, checksum: str, size_there: int, checksum_there: str) -> str:
    if size != size_there:
        return _DIFFERENT
    same = digest.same(checksum, checksum_there)
    return _ELSEWHERE if same is None else "" if same else _DIFFERENT


def states(peer: Peer, pairs: list[messages.Pair], *, incoming: bool) -> list[There]:
    """How far transfers are at a stock librarian: its incoming ones, or its outgoing ones."""
    ids = [pair.destination_transfer_id if incoming else pair.source_transfer_id for pair in pairs]
    asked = messages.CheckinStatus([], ids) if incoming else messages.CheckinStatus(ids, [])
    try:
        answer: messages.CheckinStatuses = peer.ask("checkin/status", asked, messages.CheckinStatuses)
    except PeerRefused as refusal:
        if refusal.facts["status"] == 413 and len(pairs) > 1:
            raise  # it is asked in smaller portions
        return [There.UNKNOWN] * len(pairs)
    found = answer.destination_transfer_status if incoming else answer.source_transfer_status
    return [There.of(found[id]) if id in found else There.UNKNOWN for id in ids]


def search(peer: Peer, files: list[tuple[str, int, str]]) -> list[Finding]:
    """What a stock librarian has under each name, given with its size and checksum; one request for each."""
    found: list[Finding] = []
    failed = 0
    for name, size, checksum in files:
        try:
            found.append(_search_one(peer, name, size, checksum))
            failed = 0
        except _Fails as trouble:  # about this one: the next may go well
            failed += 1
            if failed >= TRIED:
                raise trouble.cause from None
            found.append((Disk.UNKNOWN, None, ""))
    return found


class _Fails(Exception):
    """It answered, and it was no answer to the question."""

    def __init__(self, cause: PeerUnreachable) -> None:
        super().__init__()
        self.cause = cause


def _search_one(peer: Peer, name: str, size: int, checksum: str) -> Finding:
    said = peer.post("search/file", messages.SearchFile(name=name))
    if not 200 <= said.status < 300:
        refusal = peer.refusal("search/file", said)
        if isinstance(refusal, PeerUnreachable):
            raise _Fails(refusal)
        if not isinstance(refusal, PeerRefused):
            raise refusal
        none = refusal.facts["status"] == 404 and refusal.facts["why"] == NO_FILES
        return (Disk.NOTHING if none else Disk.UNKNOWN), None, ""
    try:
        answer = messages.decode(list[messages.FoundFile], said.body)
    except ValueError as wrong:
        raise _Fails(
            PeerUnreachable(name=peer.name, why=f"its answer to search/file cannot be read: {wrong}")
        ) from None
    files = [file for file in answer if file.name == name]
    if not files:
        return Disk.UNKNOWN, None, ""  # it says 404 when it knows none
    for file in files:
        why = _differs(size, checksum, file.size, file.checksum)
        if why:
            return Disk.OTHER, None, why
    copies = [copy for file in files for copy in file.instances if copy.available]
    if not copies:
        return Disk.NO_COPY, None, ""
    numbers = [copy.store_id for copy in copies if copy.store_id is not None]
    return (Disk.SAME, numbers[0], "") if numbers else (Disk.UNKNOWN, None, "")
