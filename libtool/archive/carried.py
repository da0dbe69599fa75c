"""Files that came on a disk, with a manifest: found there, compared, copied into staging, left to recv-clone.

Nothing that stands in the manifest is believed. A file counts as staged only when what lies on the disk was read and is
what the manifest says; recv-clone then proves the copy, stores it and calls the librarian back that made the manifest.
What is missing or other on the disk is named and never reported as failed: it may be the wrong disk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

from libtool import digest, names
from libtool.archive import attempts, ingest, intake, manifest_files, places, receiving
from libtool.archive.hands import Host, Tally
from libtool.archive.rooms import Rooms
from libtool.errors import FileUnreadable, LibtoolError, NameRefused, Refused, StoreUnavailable
from libtool.models.base import among, raw_rows, serialise, update_many, writing
from libtool.models.tables import File, IncomingTransfer, Instance, Librarian, live
from libtool.models.tables import Store as StoreRow
from libtool.names import shown
from libtool.peers.admin import ManifestEntry
from libtool.states import DeletionPolicy, Owed, TransferStatus
from libtool.stores.base import Store

#: The number of a file whose source waits for no report.
UNNUMBERED = -1
_IN = IncomingTransfer
Place = tuple[StoreRow, Store]
Step = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A disk, and how what is on it is to be taken in."""

    manifest: str
    root: str
    store: str | None = None
    policy: DeletionPolicy | None = None  #: None: as the manifest says
    from_nobody: bool = False


@dataclass
class Came:
    """What an ``ingest-manifest`` met beside what it staged."""

    known: int = 0  #: with the same content; the source is told so
    under_way: int = 0  #: staged by a former run


class Work(NamedTuple):
    """One file that is being brought in."""

    id: int
    entry: ManifestEntry
    store: int
    staging_id: str


def sender(host: Host, delivery: Delivery) -> tuple[str, manifest_files.Head]:
    """Who is to be called back, and what the manifest says of itself; empty when nobody is to be. Raises when the
    manifest is none, or its librarian is not known here."""
    head = manifest_files.head(delivery.manifest)
    if not os.path.isdir(delivery.root):
        raise FileUnreadable(path=delivery.root, why="it is no directory, so the disk is not mounted there")
    own = head.librarian == host.settings.name
    known = Librarian.select().where(Librarian.name == head.librarian, ~Librarian.removed).exists()
    if delivery.from_nobody:
        return ("" if own or not names.is_librarian_name(head.librarian) else head.librarian), head
    if own:
        how = "It belongs to where the disk goes. To take in here what lies on the disk, add --from-nobody."
        raise Refused(why="the manifest was made by this librarian itself", how=how)
    if not known:
        who = f"'{shown(head.librarian)[:200]}', which is not registered here"
        how = "Register it first ('libtool add-librarian'), so that it learns what arrived; "
        how += "or add --from-nobody, and nobody is told."
        raise Refused(why=f"the manifest was made by {who}", how=how)
    return head.librarian, head


def bring(host: Host, delivery: Delivery, source: str, tally: Tally, step: Step | None = None) -> Came:
    """Stage everything that is on the disk and new here; one file that cannot be taken does not stop the others."""
    came = Came()
    with ExitStack() as held:
        intake.settle_abandoned(host, tally)
        claim = ingest.claim_slot(host, held)
        limit = places.name_room(host)
        for portion, read in _portions(delivery, limit, tally):
            usable = _usable(host, delivery)
            new = _sort(host, delivery, source, portion, tally, came)
            work = _intend(host, delivery, source, new, usable, claim, tally)
            _copy(host, delivery, usable, work, tally)
            if step is not None:
                step(read)
    return came


def plan(host: Host, delivery: Delivery, source: str, tally: Tally) -> Iterator[str]:
    """What would be taken in, a line each; what could not is named in the tally."""
    for portion, _ in _portions(delivery, places.name_room(host), tally):
        for entry in _sort(host, delivery, source, portion, tally, Came(), dry=True):
            yield f"{shown(entry.name)} ({entry.size} bytes)"


def _usable(host: Host, delivery: Delivery) -> list[Place]:
    """The store that is wished for, or those that may be filled."""
    if delivery.store is None:
        if usable := places.ingestible(host):
            return usable
        raise StoreUnavailable(store="for new files", why="no enabled, ingestible store can be used here now")
    row = places.get(delivery.store)
    if not row.enabled:
        raise StoreUnavailable(store=row.name, why="it is disabled")
    store = host.store(row)
    store.check()
    return [(row, store)]


# -- what the manifest lists, and what lies on the disk -----------------------------------------------------------


def _portions(delivery: Delivery, limit: int, tally: Tally) -> Iterator[tuple[dict[str, ManifestEntry], int]]:
    """Entries that may be looked for on the disk, some hundred at a time, and how many were read for them."""
    portion: dict[str, ManifestEntry] = {}
    size = read = 0
    for n, entry in enumerate(manifest_files.entries(delivery.manifest), 1):
        read += 1
        if isinstance(entry, str):
            tally.problem(f"entry {n} of the manifest was not taken: {entry}")
            continue
        try:
            names.check(entry.name, limit)
        except NameRefused as refusal:
            tally.problem(refusal.text)
            continue
        if entry.size < 0:
            tally.problem(_said(entry, "the manifest gives it a negative size"))
        elif entry.name in portion:
            tally.problem(_said(entry, "it stands twice in the manifest"))
        else:
            portion[entry.name] = entry
            size += entry.size
        if len(portion) >= ingest.PORTION or size >= ingest.PORTION_BYTES:
            yield portion, read
            portion, size, read = {}, 0, 0
    if portion or read:
        yield portion, read


def _said(entry: ManifestEntry, why: str) -> str:
    return f"'{shown(entry.name)}' was not taken: {why}"


def _on_disk(delivery: Delivery, entry: ManifestEntry) -> str:
    """Why what lies on the disk cannot be this file, as far as one sees without reading it."""
    path = os.path.join(delivery.root, entry.name)
    try:
        found = os.lstat(path)
        if os.path.realpath(path) != os.path.join(os.path.realpath(delivery.root), entry.name):
            return "its place on the disk leads elsewhere through a symbolic link"
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            return "what lies on the disk is neither a file nor a directory"
        size = digest.size_of(path)
    except (FileNotFoundError, NotADirectoryError):
        return "it is missing on the disk"
    except OSError as trouble:
        return f"it cannot be read: {trouble.strerror}"
    return "" if size == entry.size else f"it has {size} bytes on the disk instead of {entry.size}"


def _number(entry: ManifestEntry, delivery: Delivery) -> int:
    return UNNUMBERED if delivery.from_nobody or entry.outgoing_transfer_id < 0 else entry.outgoing_transfer_id


def _sort(
    host: Host,
    delivery: Delivery,
    source: str,
    portion: dict[str, ManifestEntry],
    tally: Tally,
    came: Came,
    *,
    dry: bool = False,
) -> list[ManifestEntry]:
    """What is new and can be there; the rest is counted or named. What is here already is owed to its source."""
    wanted = dict(portion)
    have = _known(wanted, tally)
    came.known += len(have)
    if not dry:
        _owe(host, delivery, source, [(portion[name], *where) for name, where in have.items()])
    for name, row_source, number, size, checksum, status in raw_rows(
        _IN.select(_IN.name, _IN.source, _IN.source_transfer_id, _IN.size, _IN.checksum, _IN.status).where(
            among(_IN.name, list(wanted)), live(_IN)
        )
    ):
        entry = wanted.pop(name)
        same = (row_source, size, checksum) == (source, entry.size, entry.checksum)
        if same and status == TransferStatus.STAGED and number == _number(entry, delivery):
            came.under_way += 1
        else:
            tally.wait(_said(entry, "it is just being brought in another way; try again when that is done"))
    for name in receiving.clashing(wanted):
        why = "a directory of that name holds other files, or a part of it is a file itself"
        tally.problem(_said(wanted.pop(name), why))
    for entry in list(wanted.values()):
        if why := _on_disk(delivery, entry):
            tally.problem(_said(wanted.pop(entry.name), why))
    if not os.path.isdir(delivery.root):
        raise FileUnreadable(path=delivery.root, why="the disk is not mounted there any more")
    return list(wanted.values())


def _known(wanted: dict[str, ManifestEntry], tally: Tally) -> dict[str, tuple[int, int]]:
    """Takes out what the catalogue has: file and store of what is here with the same content; other content is named.
    A file of which no copy is left may come again."""
    have: dict[str, tuple[int, int]] = {}
    files = {
        row[1]: row
        for row in raw_rows(
            File.select(File.id, File.name, File.size, File.checksum).where(among(File.name, list(wanted)))
        )
    }
    ids = [row[0] for row in files.values()]
    copies = dict(
        raw_rows(Instance.select(Instance.file, Instance.store).where(among(Instance.file, ids), Instance.available))
    )
    for name, (id, _, size, checksum) in files.items():
        entry = wanted[name]
        same = digest.same(checksum, entry.checksum)
        if size != entry.size or not same:
            why = f"a file of that name is here ({size} bytes, {checksum}), and the manifest says {entry.checksum}"
            tally.problem(_said(wanted.pop(name), why))
        elif id in copies:
            have[name] = (id, copies[id])
            del wanted[name]
    return have


def _owe(host: Host, delivery: Delivery, source: str, have: list[tuple[ManifestEntry, int, int]]) -> None:
    """What is here already is over for its source, too: recv-clone tells it. Telling it twice does no harm."""
    rows = [
        _row(host, delivery, source, entry, store)
        | {"status": TransferStatus.COMPLETED, "owed": Owed.COMPLETION, "file": file, "end_time": host.now()}
        for entry, file, store in have
        if source and _number(entry, delivery) >= 0
    ]
    if rows:
        with writing("here already"):
            _IN.insert_many(rows).execute()


def _row(host: Host, delivery: Delivery, source: str, entry: ManifestEntry, store: int) -> dict[str, object]:
    policy = delivery.policy
    if policy is None:
        policy = DeletionPolicy.ALLOWED if entry.deletion_policy == 1 else DeletionPolicy.DISALLOWED
    return {
        "name": entry.name,
        "size": entry.size,
        "checksum": entry.checksum,
        "uploader": entry.uploader,
        "source": source,
        "source_transfer_id": _number(entry, delivery),
        "store": store,
        "deletion_policy": policy,
        "create_time": host.now(),
    }


# -- copying ------------------------------------------------------------------------------------------------------


def _intend(
    host: Host,
    delivery: Delivery,
    source: str,
    new: list[ManifestEntry],
    usable: list[Place],
    claim: str,
    tally: Tally,
) -> list[Work]:
    """Write down what is about to come in, under our claim; what has no room waits, what somebody else has just begun
    to bring is passed over."""
    by_name = {entry.name: entry for entry in new}
    staging: dict[int, str] = {}
    rows = []
    with writing("intend carried"):
        serialise(receiving.NAMES_KEY)
        rooms = Rooms(usable)
        for name in receiving.clashing(by_name):
            tally.wait(_said(by_name.pop(name), "others of that directory are just being brought in"))
        for entry in by_name.values():
            place = rooms.take(entry.size)
            if place is None:
                tally.postponed += 1
                continue
            rows.append(
                _row(host, delivery, source, entry, place[0].id)
                | {"status": TransferStatus.INITIATED, "owed": Owed.NOTHING, "claim": claim}
                | {"staging_id": staging.setdefault(place[0].id, os.urandom(16).hex())}
            )
        if len(rows) < len(by_name):
            line = "there is no room for some of the files; make room and run the same command again"
            if line not in tally.lines:
                tally.lines.append(line)
        if not rows:
            return []
        _IN.insert_many(rows).on_conflict_ignore().execute()
        mine = (_IN.claim == claim) & live(_IN) & (_IN.staging_id << list(staging.values()))
        found = raw_rows(_IN.select(_IN.id, _IN.name, _IN.store, _IN.staging_id).where(mine).order_by(_IN.id))
        work = [Work(id, by_name[name], store, staging_id) for id, name, store, staging_id in found]
    for _ in range(len(rows) - len(work)):
        tally.wait("a file has just been begun by another process")
    return work


def _copy(host: Host, delivery: Delivery, usable: list[Place], work: list[Work], tally: Tally) -> None:
    """Copy into staging; what is right there is recv-clone's from then on, and what is not ends without a word."""
    wrong: dict[int, str] = {}
    right: list[int] = []
    stores = {row.id: store for row, store in usable}
    lost: LibtoolError | None = None
    for each in work:
        try:
            why = _bring(delivery, stores[each.store], each) if lost is None else lost.reason
        except StoreUnavailable as trouble:
            lost, why = trouble, trouble.reason
        if why:
            wrong[each.id] = why
            if lost is None:
                tally.problem(_said(each.entry, why))
        else:
            right.append(each.id)
    with writing("carried"):
        columns = ["id", "status", "claim"]
        update_many(
            _IN, columns, [(id, int(TransferStatus.STAGED), None) for id in right], '"incoming_transfer"."status" = 0'
        )
        for id, why in wrong.items():
            changes = {"status": TransferStatus.FAILED, "end_time": host.now(), "claim": None}
            _IN.update(**changes, reason=attempts.brief(why)).where(_IN.id == id, live(_IN)).execute()
    tally.done += len(right)
    if wrong:
        for staging_id in {each.staging_id for each in work}:
            intake.tidy(host, staging_id)
    if lost is not None:
        raise lost


def _bring(delivery: Delivery, store: Store, each: Work) -> str:
    """Copy one file; why it is not what the manifest says, or empty."""
    path, entry = os.path.join(delivery.root, each.entry.name), each.entry
    try:
        found = store.copy_in(path, each.staging_id, entry.name)
        if found.size != entry.size:
            return f"it has {found.size} bytes on the disk instead of {entry.size}"
        same = digest.same(found.checksum, entry.checksum)
        read = found.checksum
        if same is None:
            read = digest.of_path(path, digest.split(entry.checksum)[0])
            same = digest.same(read, entry.checksum)
        return "" if same else f"its checksum on the disk is {read} instead of {entry.checksum}"
    except StoreUnavailable:
        raise
    except LibtoolError as trouble:
        return trouble.reason
    except OSError as trouble:
        return f"it cannot be read: {trouble.strerror}"
