"""``upload/*``: a person or program on a host of this site brings one file, which is stored while it waits."""

from __future__ import annotations

from libtool.archive import single
from libtool.archive.accounts import Caller
from libtool.node import Node
from libtool.peers import admin
from libtool.states import DeletionPolicy


def stage(node: Node, caller: Caller, message: admin.UploadStage) -> admin.UploadStaged:
    """A place for it, and who may copy there by itself."""
    return single.stage_upload(node, caller, message)


def commit(node: Node, caller: Caller, message: admin.UploadCommit) -> None:
    """It lies there. The stock client says "allowed" as the number 1 in quotes."""
    allowed = str(message.deletion_policy).lower() in ("1", "allowed")
    policy = DeletionPolicy.ALLOWED if allowed else DeletionPolicy.DISALLOWED
    single.commit(node, caller, message.transfer_id, policy)
