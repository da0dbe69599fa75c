"""``admin/*``: neighbours and stores, for administrators. The desk does it; here is only the shape of the wire."""

from __future__ import annotations

from libtool.archive import adopting, by_hand, manifests
from libtool.archive.accounts import Caller
from libtool.archive.desk import Newcomer
from libtool.archive.here import Here
from libtool.errors import LibrarianExists, NoSignOfLife
from libtool.node import Node
from libtool.peers import admin


def _desk(node: Node) -> Here:
    return Here(node, local=False)


def list_librarians(node: Node, caller: Caller, message: admin.LibrariansList) -> admin.LibrariansFound:
    """All neighbours; one that does not answer is not available, and that is all."""
    return admin.LibrariansFound(
        [
            admin.LibrarianFound(
                row["name"], row["url"], row["port"] or 0, row.get("available"), row["transfers_enabled"]
            )
            for row in _desk(node).librarians(message.ping)
        ]
    )


def add_librarian(node: Node, caller: Caller, message: admin.LibrarianAdd) -> admin.LibrarianAdded:
    """Register a neighbour; one that does not answer is not registered, and that is no error on the wire."""
    checked = message.check_connection
    newcomer = Newcomer(message.librarian_name, message.url, message.port or None, message.authenticator, checked)
    try:
        _desk(node).add_librarian(newcomer)
    except LibrarianExists:
        return admin.LibrarianAdded(False, True, False)
    except NoSignOfLife as silence:
        return admin.LibrarianAdded(False, False, False, silence.reason)
    return admin.LibrarianAdded(True, False, True if checked else None)


def remove_librarian(node: Node, caller: Caller, message: admin.LibrarianRemove) -> admin.LibrarianRemoved:
    """Take it off the list. Its transfers stay, whatever is asked: they are settled when it comes back."""
    _desk(node).remove_librarian(message.librarian_name)
    return admin.LibrarianRemoved(True, 0)


def set_transfers(node: Node, caller: Caller, message: admin.TransferStatusChange) -> admin.TransferStatusChange:
    """Switch sending to it on or off."""
    _desk(node).set_transfers(message.librarian_name, message.transfers_enabled)
    return message


def list_stores(node: Node, caller: Caller, message: object) -> list[admin.StoreFound]:
    """All stores."""
    return [
        admin.StoreFound(
            row["name"], row["store_type"], row["free_space"], row["ingestible"], row["available"], row["enabled"]
        )
        for row in _desk(node).stores()
    ]


def set_store(node: Node, caller: Caller, message: admin.StoreState) -> admin.StoreStateChanged:
    """Switch a store on or off."""
    _desk(node).set_store(message.store_name, message.enabled)
    return admin.StoreStateChanged(message.store_name, message.enabled)


def manifest(node: Node, caller: Caller, message: admin.ManifestRequest) -> admin.Manifest:
    """Everything in a store, to travel with its disk."""
    return manifests.make(node, message)


def add_file(node: Node, caller: Caller, message: admin.AddFile) -> admin.FileAdded:
    """Register what lies in a store, after reading it."""
    new = adopting.adopt_one(node, message)
    return admin.FileAdded(already_exists=not new, file_exists=True, success=True)


def delete_local(node: Node, caller: Caller, message: admin.InstanceDelete) -> admin.InstanceDeleted:
    """Forget one of our copies; its bytes stay where they are. To delete them takes proof of others, for which nobody can
    wait here."""
    by_hand.forget_local(node, message.instance_id, bytes_too=bool(message.delete_file))
    return admin.InstanceDeleted(True, message.instance_id)


def delete_remote(node: Node, caller: Caller, message: admin.InstanceDelete) -> admin.InstanceDeleted:
    """Forget that a neighbour has a copy; it is sent there again if it is one of send-clone's destinations."""
    by_hand.forget_remote(message.instance_id)
    return admin.InstanceDeleted(True, message.instance_id)
