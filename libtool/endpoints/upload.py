"""``upload/*``: a person or program on a host of this site brings one file, which is stored while it waits."""

from __future__ import annotations

from libtool.archive import single
from libtool.archive.accounts import Caller
from libtool.node import Node
from libtool.peers import admin, messages
from libtool.states import DeletionPolicy


def stage(node: Node, caller: Caller, message: admin.UploadStage) -> admin.UploadStaged:
    """A place for it, and who may copy there by itself."""
    item = messages.UploadItem(
        message.upload_size,
        message.upload_checksum,
        message.upload_name,
        message.destination_location,
        message.uploader,
        single.UNNUMBERED,
    )
    answer = single.stage_upload(node, caller, item)
    place = answer.uploads[0]
    return admin.UploadStaged(
        available_bytes_on_store=answer.available_bytes_on_store,
        store_name=answer.store_name,
        staging_name=place.staging_name,
        staging_location=place.staging_location,
        upload_name=place.upload_name,
        destination_location=place.destination_location,
        transfer_providers=single.providers(node, answer.store_name),
        transfer_id=place.destination_transfer_id,
    )


def commit(node: Node, caller: Caller, message: admin.UploadCommit) -> None:
    """It lies there. The stock client says "allowed" as the number 1 in quotes."""
    allowed = str(message.deletion_policy).lower() in ("1", "allowed")
    policy = DeletionPolicy.ALLOWED if allowed else DeletionPolicy.DISALLOWED
    single.commit(node, caller, message.transfer_id, policy)
