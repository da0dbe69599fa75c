"""Comparing what is recorded of a neighbour with what it knows, and settling what differs.

Two librarians that did their work agree. They differ when one was restored from an older database, or lost files in a
way that nobody told the other. Both sides look: whoever is thought to have files that it does not know adopts those that
lie in its stores; whoever thinks so sends the others anew, as long as it has them. Nothing that is recorded of a copy
is forgotten before a new one is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

from libtool import digest
from libtool.archive import adopting, librarians, notices, settling
from libtool.archive.hands import Budget, Host, Tally
from libtool.errors import LibtoolError, PeerUnreachable
from libtool.models.base import among, raw_rows, writing
from libtool.models.tables import File, Instance, Librarian, OutgoingTransfer, RemoteInstance, Retry, live
from libtool.names import shown
from libtool.peers import features, messages
from libtool.peers.client import Peer

#: Files in one request.
PAGE = 2000
Step = Callable[[int], None]


class Copy(NamedTuple):
    """A copy that a neighbour is thought to have."""

    id: int
    file: int
    name: str
    size: int
    checksum: str


def reconcile(host: Host, chosen: tuple[str, ...], budget: Budget, tally: Tally, step: Step | None = None) -> None:
    """Compare with the ``chosen`` neighbours, or with all; each gets an equal part of the time that is left."""
    found = _chosen(chosen)
    for n, librarian in enumerate(found):
        share = budget.share(len(found) - n)

        def deed(peer: Peer, librarian: Librarian = librarian, share: Budget = share) -> None:
            if not peer.can(features.COMPARE):
                tally.details.append(f"librarian {librarian.name} cannot compare catalogues")
                return
            settling.settle_incoming(host, librarian.name, peer, tally, share)
            settling.settle_outgoing(host, librarian, peer, tally, share)
            _adopt(host, librarian, peer, share.share(2), tally)
            _compare(host, librarian, peer, share, tally, step)

        librarians.ask(host, librarian, tally, "comparing", lambda: 1, deed)
    settling.remove_forgotten_places(host, tally)


def plan(host: Host, chosen: tuple[str, ...], budget: Budget) -> list[str]:
    """What a run would adopt and send again, a line each; nothing is changed, not even what is known of neighbours."""
    lines: list[str] = []
    for librarian in _chosen(chosen):
        peer = None
        try:
            peer = host.peer(librarian)
            librarians.probe(peer)
            if peer.can(features.COMPARE):
                lines += _planned(host, librarian, peer, budget)
            else:
                lines.append(f"librarian {librarian.name} cannot compare catalogues")
        except LibtoolError as trouble:
            lines.append(f"librarian {librarian.name}: {trouble.text}")
        finally:
            if peer is not None:
                peer.close()
    return lines


def _chosen(names: tuple[str, ...]) -> list[Librarian]:
    return [librarians.get(name) for name in names] or librarians.shuffled(librarians.everybody())


# -- what it thinks that we have ----------------------------------------------------------------------------------


def _delivered(peer: Peer, after: int) -> list[messages.DeliveredFile]:
    """The next page of it, in order; a neighbour that does not count upwards would keep us for ever."""
    limit = PAGE
    answer: messages.DeliveredAnswer = peer.ask(
        "libtool/catalogue/delivered", messages.Delivered(after, limit), messages.DeliveredAnswer
    )
    numbers = [after, *(each.id for each in answer.files)]
    if len(answer.files) > limit or any(one >= other for one, other in itertools.pairwise(numbers)):
        raise PeerUnreachable(name=peer.name, why="its answer to libtool/catalogue/delivered is not in order")
    return answer.files


def _adopt(host: Host, librarian: Librarian, peer: Peer, budget: Budget, tally: Tally) -> None:
    """What lies in a store is written down for recv-clone. Begins where the last run ended."""
    after = librarian.adopted_upto or 0
    adopted = 0
    while budget.left:
        files = _delivered(peer, after)
        after = files[-1].id if files else 0
        adopted += adopting.adopt(host, librarian.name, files)
        with writing("adopted"):
            Librarian.update(adopted_upto=after or None).where(Librarian.id == librarian.id).execute()
        if not files:
            break
    if adopted:
        tally.done += adopted
        text = f"librarian {librarian.name} counts on {adopted} files that lie here and have no copy in the catalogue"
        tally.lines.append(f"{text}; recv-clone reads and records them")


# -- what we think that it has ------------------------------------------------------------------------------------


def _compare(host: Host, librarian: Librarian, peer: Peer, budget: Budget, tally: Tally, step: Step | None) -> None:
    """What it does not know goes again. Begins where the last run ended."""
    after = librarian.compared_upto or 0
    whole, lost = after == 0, False
    while budget.left:
        copies = _page(librarian, after)
        if copies:
            known = settling.known_there(peer, [copy.name for copy in copies])
            lost |= _settle(host, librarian, copies, known, tally)
        after = copies[-1].id if copies else 0
        with writing("compared"):
            Librarian.update(compared_upto=after or None).where(Librarian.id == librarian.id).execute()
        if step is not None:
            step(len(copies))
        if not copies:
            if whole:
                if not lost:
                    notices.over(host, tally, f"librarian {librarian.name}", "lost")
                return
            whole = True  # now the part before the last run's end


def _page(librarian: Librarian, after: int) -> list[Copy]:
    """The next copies that it is thought to have."""
    columns = (RemoteInstance.id, RemoteInstance.file, File.name, File.size, File.checksum)
    mine = (RemoteInstance.librarian == librarian.id) & (RemoteInstance.id > after)
    query = RemoteInstance.select(*columns).join(File).where(mine)
    return [Copy(*row) for row in raw_rows(query.order_by(RemoteInstance.id).limit(PAGE))]


def _differs(copy: Copy, found: messages.KnownFile | None) -> bool:
    """Whether it does not know the file as we do; checksums of different kinds cannot be compared and say nothing."""
    return found is None or found.size != copy.size or digest.same(copy.checksum, found.checksum) is False


def _settle(
    host: Host, librarian: Librarian, copies: list[Copy], known: list[messages.KnownFile | None], tally: Tally
) -> bool:
    """Send anew what can be sent; what cannot is told, since what is recorded is the last that is known of the file.
    Returns whether there is any of that."""
    gone = [copy for copy, found in zip(copies, known) if _differs(copy, found)]
    if not gone:
        return False
    other = {copy.id for copy, found in zip(copies, known) if found is not None}
    readable = _readable(gone)
    again = [copy for copy in gone if copy.file in readable]
    lost = [copy for copy in gone if copy.file not in readable]
    new = _send_again(host, librarian, again)
    tally.done += len(new)
    for copy in new:
        why = "has other content at" if copy.id in other else "is not at"
        tally.details.append(f"'{shown(copy.name)}' {why} {librarian.name} and is sent again")
    if new:
        text = f"librarian {librarian.name} does not know {len(new)} files as it was given them; they are sent again"
        tally.lines.append(text)
    if lost:
        tally.failed += len(lost)
        some = ", ".join(f"'{shown(copy.name)}'" for copy in lost[:3])
        text = _lost(host, len(lost), some, sum(copy.id in other for copy in lost))
        notices.trouble(host, tally, f"librarian {librarian.name}", "lost", text, at_once=True)
    return bool(lost)


def _lost(host: Host, count: int, some: str, other: int) -> str:
    what = "does not know" if not other else "has other content for" if other == count else "does not know as they were"
    how = f"have its operator run 'libtool reconcile --librarian {host.settings.name}'"
    return f"it {what} {count} files of which no copy is here any more, such as {some}; {how}"


def _readable(copies: list[Copy]) -> set[int]:
    """The files of which a copy is here; one in a disabled store is sent when that is enabled."""
    rows = Instance.select(Instance.file).where(
        among(Instance.file, [copy.file for copy in copies]), Instance.available
    )
    return {file for (file,) in raw_rows(rows)}


def _send_again(host: Host, librarian: Librarian, copies: list[Copy]) -> list[Copy]:
    """Let send-clone take the files up at its next run; returns those that were not planned or under way already."""
    files = {copy.file: copy for copy in copies}
    mine = among(Retry.file, list(files)) & (Retry.destination == librarian.id)
    busy = {file for (file,) in raw_rows(Retry.select(Retry.file).where(mine))}
    out = OutgoingTransfer
    sent = out.select(out.file).where(among(out.file, list(files)), out.destination == librarian.id, live(out))
    busy |= {file for (file,) in raw_rows(sent)}
    new = [copy for file, copy in files.items() if file not in busy]
    if not new:
        return []
    row = {"destination": librarian.id, "attempts": 0, "not_before": host.now()}
    reason = "it did not know the file any more"
    with writing("sent again"):
        Retry.insert_many([row | {"file": copy.file, "reason": reason} for copy in new]).on_conflict_ignore().execute()
    return new


# -- looking ------------------------------------------------------------------------------------------------------


def _planned(host: Host, librarian: Librarian, peer: Peer, budget: Budget) -> list[str]:
    lines: list[str] = []
    after, adopted = 0, 0
    while budget.left and (files := _delivered(peer, after)):
        after = files[-1].id
        adopted += len(adopting.adoptable(host, librarian.name, files))
    if adopted:
        text = f"librarian {librarian.name} counts on {adopted} files that lie here and have no copy in the catalogue"
        lines.append(f"{text}; recv-clone would read and record them")
    after = 0
    gone: list[Copy] = []
    while budget.left and (copies := _page(librarian, after)):
        after = copies[-1].id
        known = settling.known_there(peer, [copy.name for copy in copies])
        gone += [copy for copy, found in zip(copies, known) if _differs(copy, found)]
    readable = _readable(gone)
    again = [copy for copy in gone if copy.file in readable]
    if again:
        lines.append(f"librarian {librarian.name} does not know {len(again)} files as it was given them, sent again:")
        lines += [shown(copy.name) for copy in again]
    lines += [
        f"'{shown(copy.name)}' is not at {librarian.name}, and no copy is here"
        for copy in gone
        if copy.file not in readable
    ]
    return lines
