"""``corruption-fixer``: copies that went bad are got anew, from a store here or from a neighbour that has a right one.

A copy is read once more before anything is done about it. Its bad bytes stay where they are until a right copy has come
and is about to take their place; then they are set aside, and removed once the new one was read where it lies. Nobody
is asked to forget a copy, and nothing is ever taken from a copy that was not read right before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from peewee import SQL, fn

from libtool.archive import librarians, local_clones, notices, places, removing, verifying
from libtool.archive.hands import Budget, Host, Tally, portions
from libtool.archive.verifying import Copy, Watch
from libtool.errors import LockTaken, PeerDeniesUs, PeerRefused, PeerUnreachable, StoreUnavailable
from libtool.models.base import among, raw_rows, writing
from libtool.models.tables import File, IncomingTransfer, Instance, Librarian, RemoteInstance, live
from libtool.models.tables import Store as StoreRow
from libtool.names import shown
from libtool.peers import messages
from libtool.peers.client import Peer
from libtool.states import Condition, Proof, TransferStatus
from libtool.stores.base import Reading, Store

#: Copies that are looked at together.
PORTION = 200
#: A neighbour that refused so many files in a row is asked for no more in this run.
REFUSALS = 20


def repair(host: Host, budget: Budget, tally: Tally, progress: Callable[[int], None] | None = None) -> None:
    """Look at every copy that is known to be bad, and get anew what can be got."""
    for row in places.in_order(host):
        if not row.enabled:
            continue
        watch = Watch(host, row)
        asked = _Asked()
        try:
            store = host.store(row)
            store.check()
            removing.carry_out(host, row, store, tally)
            _clear(host, row, store, tally)
            after = 0
            while budget.left:
                mine = (Instance.store == row.id) & (Instance.condition > SQL("0")) & (Instance.id > after)
                portion = verifying.copies(mine, limit=PORTION)
                if not portion:
                    break
                after = portion[-1].id
                _portion(host, row, store, portion, watch, asked, budget, tally)
                if progress is not None:
                    progress(len(portion))
            asked.settle(host, row, budget, tally)
            notices.over(host, tally, f"store {row.name}", "unavailable")
        except LockTaken:
            tally.wait(f"store {row.name}: somebody else sets aside or brings back copies just now")
        except StoreUnavailable as trouble:
            verifying.unavailable(host, row, tally, trouble)
        verifying.settle(host, watch, tally)


@dataclass
class _Asked:
    """What came of asking for the bad copies of one store."""

    refused: dict[str, str] = field(default_factory=dict)  #: what nobody gives, and what they say: name → words
    unsure: bool = False  #: somebody was not asked, or did not answer

    def settle(self, host: Host, row: StoreRow, budget: Budget, tally: Tally) -> None:
        """A file that nobody gives is told when that lasts: only a person can do something about it."""
        if self.refused:
            name, why = next(iter(self.refused.items()))
            text = f"nobody who was asked gives a right copy of {len(self.refused)} of its files, such as "
            text += f"'{shown(name)}' ({why}). If there is none, 'libtool ingest' the original again under the same "
            text += "name, or put right bytes in its place: corruption-fixer finds them"
            notices.trouble(host, tally, f"store {row.name}", "no right copy", text)
        elif not self.unsure and budget.left:
            notices.over(host, tally, f"store {row.name}", "no right copy")


def _portion(
    host: Host,
    row: StoreRow,
    store: Store,
    portion: Sequence[Copy],
    watch: Watch,
    asked: _Asked,
    budget: Budget,
    tally: Tally,
) -> None:
    """Read once more; what still is bad is got anew."""
    coming = _coming(portion)
    _keep_policy(row, coming)
    for copy in portion:
        if copy.name in coming:
            tally.wait(f"{verifying.subject(row, copy)} is on its way")
    found = [(copy, verifying.read(store, copy)) for copy in portion if copy.name not in coming and budget.left]
    well = sum(reading.good is True for _, reading in found)
    verifying.record(watch, found, Proof.CHECK, tally)
    tally.done += well
    _give_up_unreadable(watch, [copy for copy, reading in found if reading.condition is Condition.UNREADABLE])
    bad = [copy for copy, reading in found if not reading.good]
    bad = [copy for copy in verifying.copies(among(Instance.id, [each.id for each in bad])) if not copy.available]
    bad = _elsewhere(host, row, bad, budget, tally)
    _ask_all(host, row, {copy.file: copy for copy in bad}, asked, budget, tally)
    _keep_policy(row, [copy.name for copy in bad])


def _give_up_unreadable(watch: Watch, copies: Iterable[Copy]) -> None:
    """What could not be read for long is not counted any more, so that it may come anew; unless that is so much that it is
    the disk which cannot be read."""
    mine = among(Instance.id, [copy.id for copy in copies]) & Instance.available
    before = watch.host.now() - verifying.UNREADABLE_FOR
    mine &= (Instance.condition == Condition.UNREADABLE) & (Instance.checked_time < before)
    count = Instance.select().where(mine).count()
    if count and not watch.hopeless(count):
        with writing("unreadable for long"):
            Instance.update(available=False).where(mine).execute()


def _coming(copies: Sequence[Copy]) -> set[str]:
    """Which of these somebody is bringing already. What has only been promised is asked for once more, which does no
    harm: whoever promised it may have died over it."""
    under_way = among(IncomingTransfer.name, [copy.name for copy in copies]) & live(IncomingTransfer)
    under_way &= (IncomingTransfer.status > TransferStatus.INITIATED) | IncomingTransfer.claim.is_null(False)
    return {name for (name,) in raw_rows(IncomingTransfer.select(IncomingTransfer.name).where(under_way))}


def _keep_policy(row: StoreRow, called: Collection[str]) -> None:
    """What comes in the stead of a bad copy may be let go just as that might."""
    coming = IncomingTransfer
    mine = among(coming.name, list(called)) & live(coming) & coming.deletion_policy.is_null()
    if called and coming.select(SQL("1")).where(mine).exists():
        own = Instance.select(Instance.deletion_policy).join(File)
        with writing("policy kept"):
            policy = own.where(File.name == coming.name, Instance.store == row.id)
            coming.update(deletion_policy=policy).where(mine).execute()


def _elsewhere(host: Host, row: StoreRow, bad: list[Copy], budget: Budget, tally: Tally) -> list[Copy]:
    """Those of which no other store here has a right copy. For the others a new one is made from that, so that nobody
    is asked for what is here already."""
    sibling = Instance.alias()
    right = sibling.available & (sibling.condition == SQL("0")) & sibling.asked_time.is_null()
    here = sibling.select(SQL("1")).where(sibling.file == Instance.file, right, sibling.store != row.id)
    have = {
        id
        for (id,) in raw_rows(
            Instance.select(Instance.id).where(among(Instance.id, [copy.id for copy in bad]), fn.EXISTS(here))
        )
    }
    again = [copy for copy in bad if copy.id in have]
    if again:
        local_clones.replace(host, row, [copy.file for copy in again], budget, tally)
    return [copy for copy in bad if copy.id not in have]


# -- from neighbours ----------------------------------------------------------------------------------------------


def _ask_all(host: Host, row: StoreRow, wanted: dict[int, Copy], asked: _Asked, budget: Budget, tally: Tally) -> None:
    """Ask one neighbour after the other for what is still wanted."""
    if not wanted:
        return
    where = _givers(wanted)
    said: dict[int, list[str]] = {file: [] for file in wanted}
    for librarian in librarians.shuffled(Librarian.select().where(among(Librarian.id, list(where)))):
        files = [wanted[file] for file in where[librarian.id] if file in wanted]

        def deed(peer: Peer, librarian: Librarian = librarian, files: list[Copy] = files) -> None:
            refusals = 0
            for copy in files:
                if not budget.left or refusals >= REFUSALS:
                    return
                why = _fetch(host, peer, copy)
                if why:
                    refusals += 1
                    said[copy.file].append(f"{librarian.name}: {why}")
                    continue
                refusals = 0
                tally.done += 1
                tally.details.append(f"{verifying.subject(row, copy)} is sent anew by {librarian.name}")
                del wanted[copy.file]

        if files and budget.left:
            librarians.ask(host, librarian, tally, "sending anew", lambda files=files: len(files), deed)  # type: ignore[misc]
    for file, copy in wanted.items():
        why = "; ".join(said[file]) or "no neighbour that can be asked has it"
        tally.wait(f"{verifying.subject(row, copy)} cannot be got anew now: {why}")
        if len(said[file]) == sum(file in files for files in where.values()):
            asked.refused[copy.name] = why
        else:
            asked.unsure = True


def _givers(wanted: dict[int, Copy]) -> dict[int, list[int]]:
    """Who may have these files: those that brought them or were given them first, then everybody. Librarian → files."""
    found: dict[int, list[int]] = {}
    files = among(File.id, list(wanted))
    brought = File.select(Librarian.id, File.id).join(Librarian, on=(Librarian.name == File.source))
    given = RemoteInstance.select(Librarian.id, RemoteInstance.file).join(Librarian)
    of_given = among(RemoteInstance.file, list(wanted))
    for query in (brought.where(files, ~Librarian.removed), given.where(of_given, ~Librarian.removed)):
        for librarian, file in raw_rows(query):
            if file not in found.setdefault(librarian, []):
                found[librarian].append(file)
    for (librarian,) in raw_rows(Librarian.select(Librarian.id).where(~Librarian.removed)):
        known = found.setdefault(librarian, [])  # anybody may have got it by another way
        known += [file for file in wanted if file not in set(known)]
    return found


def _fetch(host: Host, peer: Peer, copy: Copy) -> str:
    """Have one file sent anew; why that is not possible, empty when it is on its way.

    While we ask, the neighbour asks us for a sign of life and then for a staging place: nothing is held open here.
    """
    message = messages.Corrupt(copy.name, host.settings.name)
    try:
        peer.ask("corrupt/prepare", message, messages.Ready)
        sent: messages.Resent = peer.ask("corrupt/resend", message, messages.Resent)
    except PeerRefused as refusal:
        return str(refusal.facts["why"])
    except PeerDeniesUs:
        return "it does not give it to us"
    except PeerUnreachable as trouble:
        if trouble.facts.get("status") != 500:
            raise
        return trouble.reason  # a stock librarian stumbles over a file of which it has no copy
    return "" if sent.success else "it did not manage to send it"


# -- afterwards ---------------------------------------------------------------------------------------------------


def _clear(host: Host, row: StoreRow, store: Store, tally: Tally) -> None:
    """Remove bad bytes that were set aside and have a right copy in their stead, once that was read where it lies."""
    for portion in portions(removing.replaced(row), PORTION):
        files = [removal.file_id for removal in portion]
        right = set()
        for other in StoreRow.select().where(StoreRow.enabled):
            mine = among(Instance.file, files) & (Instance.store == other.id) & Instance.available
            read: list[tuple[Copy, Reading]] = []
            for copy in verifying.copies(mine):
                try:
                    read.append((copy, verifying.read(host.store(other), copy)))
                except StoreUnavailable:
                    continue
            verifying.record(Watch(host, other), read, Proof.CHECK, tally)
            right |= {copy.file for copy, reading in read if reading.good}
        removing.purge(host, row, store, [each for each in portion if each.file_id in right], tally)
    removing.give_left_back(host, row, store)


def plan(host: Host) -> Iterable[str]:
    """What a run would look at, a line each."""
    for row in places.in_order(host):
        if row.enabled:
            for copy in verifying.copies((Instance.store == row.id) & (Instance.condition > SQL("0"))):
                yield f"'{shown(copy.name)}' in {row.name}: {Condition(copy.condition).name.lower()}"
