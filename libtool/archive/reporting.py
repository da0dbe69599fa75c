"""Telling the destinations: what lies in their staging areas, and what was given up; and believing what they answer."""

from __future__ import annotations

from functools import partial

from libtool import names
from libtool.archive import attempts, librarians, notices, settling, staging
from libtool.archive.hands import Budget, Host, Tally
from libtool.archive.queue import Step
from libtool.errors import PeerRefused
from libtool.models.base import among, raw_rows, writing
from libtool.models.tables import Librarian, OutgoingTransfer, owing
from libtool.peers import features, messages
from libtool.peers.client import Peer
from libtool.states import Owed, TransferStatus

#: Transfers in one report to a destination.
REPORT = 4000
_OUT = OutgoingTransfer


def report(host: Host, budget: Budget, tally: Tally, step: Step | None = None) -> None:
    """Tell every destination what lies in its staging area, and what was given up."""
    owed = _OUT.select(_OUT.destination).where(owing(_OUT)).distinct()
    destinations = librarians.shuffled(Librarian.select().where(Librarian.id << owed))
    for n, destination in enumerate(destinations):
        waits = _OUT.select().where(_OUT.destination == destination.id, owing(_OUT))
        subject = f"librarian {destination.name}"
        if destination.removed:
            tally.postponed += waits.count()
            text = f"it cannot be told what lies in its staging area: run 'libtool add-librarian --name {destination.name} …'"
            notices.trouble(host, tally, subject, "unknown", text)
            continue
        notices.over(host, tally, subject, "unknown")
        part = budget.share(len(destinations) - n)
        deed = partial(_settle_with, host, destination, part, tally, step)
        librarians.ask(host, destination, tally, "reports", waits.count, deed)


def _settle_with(
    host: Host, destination: Librarian, budget: Budget, tally: Tally, step: Step | None, peer: Peer
) -> None:
    _report_staged(host, destination, peer, budget, tally, step)
    staging.tell_failures(host, destination, peer)


def _report_staged(
    host: Host, destination: Librarian, peer: Peer, budget: Budget, tally: Tally, step: Step | None
) -> None:
    """Report what has arrived, in as few requests as possible, and believe what the destination says to each."""
    after = 0
    while True:  # one page at least, however little time is left
        query = _OUT.select(_OUT.id, _OUT.remote_id).where(
            _OUT.destination == destination.id, owing(_OUT), _OUT.owed == Owed.STAGED, _OUT.id > after
        )
        remote = {number: id for id, number in raw_rows(query.order_by(_OUT.id).limit(REPORT))}
        if not remote:
            return
        after = max(remote.values())
        if peer.can(features.BATCH):
            states = _batch_states(peer, [messages.Pair(id, number) for number, id in remote.items()])
        else:
            states = _stock_states(peer, list(remote))
        taken: list[int] = []
        unsure: list[int] = []
        lost: dict[int, str] = {}
        for number, id in remote.items():
            state = states.get(number)
            if state in (TransferStatus.STAGED, TransferStatus.COMPLETED):
                taken.append(id)
            elif number not in states or state in (TransferStatus.INITIATED, TransferStatus.ONGOING):
                unsure.append(id)  # it said nothing of it, or would not take our word now; it is told again
            else:
                lost[id] = _lost(state)
        with writing("reported staged"):
            _OUT.update(status=TransferStatus.STAGED).where(
                among(_OUT.id, taken), _OUT.status == TransferStatus.ONGOING
            ).execute()
            _OUT.update(owed=Owed.NOTHING).where(among(_OUT.id, taken)).execute()
            ended = attempts.fail(lost, host.now(), tell=False)
            _OUT.update(owed=Owed.NOTHING).where(among(_OUT.id, list(lost)), _OUT.owed == Owed.STAGED).execute()
        if peer.can(features.COMPARE):
            there = [id for n, id in remote.items() if states.get(n) is TransferStatus.COMPLETED]
            settling.record_stored(host, destination, peer, there)
        called = attempts.named(row.id for row in ended)
        for id, name in called.items():
            tally.problem(f"'{names.shown(name)}' for {destination.name}: {lost[id]}")
        tally.postponed += len(unsure)
        tally.done += len(taken)
        if step is not None:
            step(len(taken))
        if not budget.left:
            return


def _lost(state: TransferStatus | None) -> str:
    if state is None:
        return "the destination knows of no such transfer (any more); it will be sent anew"
    return f"the destination says that it is {state.name}; it will be sent anew"


def _batch_states(peer: Peer, pairs: list[messages.Pair]) -> dict[int, TransferStatus | None]:
    """Report to a libtool librarian and hear how far each one is there."""
    try:
        answer: messages.StagedAnswer = peer.ask("libtool/clone/staged", messages.Staged(pairs), messages.StagedAnswer)
        return answer.states
    except PeerRefused as refusal:
        if refusal.facts["status"] != 413 or len(pairs) < 2:
            raise
        half = len(pairs) // 2  # it takes smaller requests than ours
        return _batch_states(peer, pairs[:half]) | _batch_states(peer, pairs[half:])


def _stock_states(peer: Peer, ids: list[int]) -> dict[int, TransferStatus | None]:
    """Mark as STAGED at a stock librarian, then ask about those that it would not move."""
    answer = peer.ask("checkin/update", messages.CheckinUpdate([], ids, TransferStatus.STAGED), messages.CheckinUpdated)
    states: dict[int, TransferStatus | None] = dict.fromkeys(
        answer.modified_destination_transfer_ids, TransferStatus.STAGED
    )
    rest = [id for id in ids if id not in states]
    if rest:
        found = peer.ask("checkin/status", messages.CheckinStatus([], rest), messages.CheckinStatuses)
        states.update(found.destination_transfer_status)
    return states
