"""``clone/*``: staging, progress and the end of transfers; those under ``libtool/`` in batches."""

from __future__ import annotations

from typing import Any

from libtool.archive import outgoing, receiving, single
from libtool.archive.accounts import Caller
from libtool.errors import UnknownTransfer
from libtool.node import Node
from libtool.peers import messages
from libtool.states import TransferStatus


def batch_stage(node: Node, caller: Caller, message: messages.BatchStage) -> Any:
    """A stock source asks for staging places."""
    answer = receiving.stage(node, caller, message, stock=True)
    whole: dict[str, Any] = messages.plain(answer)
    del whole["refused"]
    return whole


def batch_stage_each(node: Node, caller: Caller, message: messages.BatchStage) -> messages.BatchStaged:
    """A libtool source asks; every file that is refused is named with its reason."""
    return receiving.stage(node, caller, message, stock=False)


def staged(node: Node, caller: Caller, message: messages.Staged) -> messages.StagedAnswer:
    """The source says that these have arrived; it is told how far each one is."""
    return _moved(node, caller, message, TransferStatus.STAGED)


def given_up(node: Node, caller: Caller, message: messages.Staged) -> messages.StagedAnswer:
    """The source gave these up; it is told how far each one is."""
    return _moved(node, caller, message, TransferStatus.FAILED)


def _moved(node: Node, caller: Caller, message: messages.Staged, new: TransferStatus) -> messages.StagedAnswer:
    known = receiving.paired([(it.source_transfer_id, it.destination_transfer_id) for it in message.transfers], caller)
    receiving.move(known, new, caller, node)
    asked = dict.fromkeys(pair.destination_transfer_id for pair in message.transfers)
    return messages.StagedAnswer(asked | receiving.states(known, caller))


def stage_one(node: Node, caller: Caller, message: messages.StageOne) -> messages.StagedOne:
    """Somebody brings one file by hand."""
    return single.stage(node, caller, message)


def ongoing_one(node: Node, caller: Caller, message: messages.Pair) -> messages.Pair:
    """It is being copied; repeating that is fine."""
    single.advance(node, caller, message, TransferStatus.ONGOING)
    return message


def staged_one(node: Node, caller: Caller, message: messages.Pair) -> messages.PairDone:
    """It lies there; repeating that is fine."""
    single.advance(node, caller, message, TransferStatus.STAGED)
    return messages.PairDone(message.source_transfer_id, message.destination_transfer_id)


def fail(node: Node, caller: Caller, message: messages.CloneFail) -> messages.PairDone:
    """The source gives up on one transfer; one that has ended already stays as it is, and that is fine."""
    known = receiving.paired([(message.source_transfer_id, message.destination_transfer_id)], caller)
    receiving.move(known, TransferStatus.FAILED, caller, node)
    if not known:
        raise UnknownTransfer(
            source_transfer_id=message.source_transfer_id, destination_transfer_id=message.destination_transfer_id
        )
    return messages.PairDone(message.source_transfer_id, message.destination_transfer_id)


def complete(node: Node, caller: Caller, message: messages.CloneComplete) -> messages.Pair:
    """A stock destination has stored one file; repeating it is fine."""
    outgoing.completed(node, caller, message)
    return messages.Pair(message.source_transfer_id, message.destination_transfer_id)


def report(node: Node, caller: Caller, message: messages.Report) -> messages.ReportAnswer:
    """A libtool destination says what became of many."""
    return messages.ReportAnswer(outgoing.reported(node, caller, message))


def states(node: Node, caller: Caller, message: messages.States) -> messages.StatesAnswer:
    """How far transfers to and from the caller are, by the numbers of both sides."""
    incoming = [(pair.source_transfer_id, pair.destination_transfer_id) for pair in message.incoming]
    ours = receiving.states(receiving.paired(incoming, caller), caller)
    outgoing_pairs = [(pair.source_transfer_id, pair.destination_transfer_id) for pair in message.outgoing]
    sent = outgoing.paired_states(outgoing_pairs, caller)
    return messages.StatesAnswer([sent.get(pair) for pair in outgoing_pairs], [ours.get(id) for _, id in incoming])
