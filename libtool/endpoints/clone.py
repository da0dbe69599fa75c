"""``clone/*``: staging, progress and the end of transfers; those under ``libtool/`` in batches."""

from __future__ import annotations

from typing import Any

from libtool.archive import outgoing, receiving
from libtool.archive.accounts import Caller
from libtool.errors import TooLarge, UnknownTransfer
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
    ids = [pair.destination_transfer_id for pair in message.transfers]
    if len(ids) > node.settings.max_batch_items:
        raise TooLarge(why=f"more than {node.settings.max_batch_items} transfers at once")
    receiving.move(ids, TransferStatus.STAGED, caller, node)
    return messages.StagedAnswer(receiving.states(ids, caller))


def fail(node: Node, caller: Caller, message: messages.CloneFail) -> messages.PairDone:
    """The source gives up on one transfer; one that has ended already stays as it is, and that is fine."""
    number = message.destination_transfer_id
    moved = receiving.move([number], TransferStatus.FAILED, caller, node)
    if not moved and receiving.states([number], caller)[number] is None:
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
