"""The desk of another librarian, libtool or stock: an operator's wishes, asked for under an administrator's account there."""

from __future__ import annotations

from typing import Any, NoReturn

from libtool.archive.desk import Desk, Freight, Newcomer, Terms
from libtool.errors import (
    AwayDenied,
    LibrarianExists,
    NoSignOfLife,
    PeerDeniesUs,
    PeerRefused,
    Refused,
    UnknownLibrarian,
    UnknownUser,
)
from libtool.peers import admin, messages, passwords
from libtool.peers.client import Peer
from libtool.states import AuthLevel
from libtool.units import parse_time, show_time


class Away(Desk):
    """Asks ``peer``, whose name is that of the connection."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.silent: list[str] = []

    def _ask(self, endpoint: str, message: Any, kind: Any) -> Any:
        try:
            return self.peer.ask(endpoint, message, kind)
        except PeerDeniesUs:
            self._denied(endpoint)

    def _denied(self, endpoint: str) -> NoReturn:
        account = (self.peer.authenticator or "").partition(":")[0] or "of the key"
        raise AwayDenied(name=self.peer.name, account=account, endpoint=endpoint) from None

    def librarians(self, ping: bool) -> list[dict[str, Any]]:
        """Every neighbour that it has; when it saw them it does not tell."""
        asked = admin.LibrariansList(ping=ping)
        found: admin.LibrariansFound = self._ask("admin/librarians/list", asked, admin.LibrariansFound)
        rows = []
        for each in found.librarians:
            row: dict[str, Any] = {
                "name": each.name,
                "url": each.url,
                "port": each.port or None,
                "transfers_enabled": each.enabled,
                "last_seen": None,
                "last_heard": None,
            }
            if ping:
                row |= {"available": bool(each.available), "why": None if each.available else "it gave no sign of life"}
            rows.append(row)
        return rows

    def librarian(self, name: str) -> None:
        """Whether it is registered there."""
        if name not in {row["name"] for row in self.librarians(False)}:
            raise UnknownLibrarian(name=name)

    def vet(self, newcomer: Newcomer) -> None:
        """Whether there is none of that name yet; what else may be wrong only the other side knows."""
        for row in self.librarians(False):
            if row["name"] == newcomer.name:
                raise LibrarianExists(name=newcomer.name, url=row["url"])

    def add_librarian(self, newcomer: Newcomer) -> None:
        """Register a neighbour there; it is the other side that tries the connection."""
        asked = admin.LibrarianAdd(
            newcomer.name, newcomer.url, newcomer.port or 0, newcomer.authenticator, newcomer.check
        )
        said: admin.LibrarianAdded = self._ask("admin/librarians/add", asked, admin.LibrarianAdded)
        if said.already_exists:
            raise LibrarianExists(name=newcomer.name, url=newcomer.url)
        if not said.success:
            why = said.reason or f"{self.peer.name} could not reach it under this account"
            raise NoSignOfLife(why=why)

    def remove_librarian(self, name: str) -> None:
        """Take a neighbour off its list."""
        self._ask("admin/librarians/remove", admin.LibrarianRemove(name), admin.LibrarianRemoved)

    def set_transfers(self, name: str, enabled: bool) -> None:
        """Switch its sending on or off. A stock server answers a name that it does not know with an internal error."""
        self.librarian(name)
        asked = admin.TransferStatusChange(name, enabled)
        self._ask("admin/librarians/transfer_status/change", asked, admin.TransferStatusChange)

    def create_user(self, username: str, level: AuthLevel, password: str | None) -> str | None:
        """Make an account there. A stock server says no more than that it did not succeed."""
        made = passwords.make() if password is None else None
        asked = admin.UserCreate(username, made or password or "", level)
        try:
            said: admin.UserDone = self._ask("users/create", asked, admin.UserDone)
        except PeerRefused as refusal:
            if refusal.facts["status"] == 400 and "no reason" in str(refusal.facts["why"]):
                self._exists(username)
            raise
        if not said.success:
            self._exists(username)
        return made

    def _exists(self, username: str) -> NoReturn:
        raise Refused(
            why=f"{self.peer.name} made no account {username}, most likely because it has one of that name",
            how="Choose another name, or delete that one first.",
        ) from None

    def user(self, username: str) -> AuthLevel:
        """The level of an account there."""
        try:
            found: admin.UserFound = self._ask("users/get", admin.UserName(username), admin.UserFound)
        except PeerRefused:
            raise UnknownUser(name=username) from None
        return found.permission

    def delete_user(self, username: str) -> None:
        """Remove an account there."""
        self.user(username)
        self._ask("users/delete", admin.UserName(username), admin.UserDone)

    def search(self, terms: Terms) -> list[dict[str, Any]]:
        """Files there. Stores have numbers there and no names."""
        window = None if terms.window is None else [time.isoformat() for time in terms.window]
        asked = messages.SearchFile(terms.name, window, terms.uploader, terms.source, terms.limit)  # type: ignore[arg-type]
        try:
            found: list[messages.FoundFile] = self._ask("search/file", asked, list[messages.FoundFile])
        except PeerRefused as refusal:
            if refusal.facts["status"] != 404:
                raise
            return []
        return [
            {
                "name": file.name,
                "size": file.size,
                "checksum": file.checksum,
                "uploader": file.uploader,
                "source": file.source,
                "create_time": _time(file.create_time),
                "instances": [
                    {"store": str(copy.store_id), "path": copy.path, "available": copy.available}
                    for copy in file.instances
                ],
                "remote_instances": [
                    {
                        "librarian": copy.librarian_name,
                        "store_id": copy.store_id,
                        "copy_time": _time(copy.copy_time),
                    }
                    for copy in file.remote_instances
                ],
            }
            for file in found
        ]

    def validate(self, name: str, max_age: float = 0.0, depth: int = 1) -> list[dict[str, Any]]:
        """Have it read its copies; a stock server asks its own neighbours, too, however deep, and may not read anew."""
        found: list[messages.Validation] = self._ask(
            "validate/file", messages.ValidateFile(name), list[messages.Validation]
        )
        return [{**messages.plain(each), "age": None, "why": None} for each in found]

    def stores(self) -> list[dict[str, Any]]:
        """Its stores."""
        found: list[admin.StoreFound] = self._ask("admin/stores/list", messages.Nothing(), list[admin.StoreFound])
        return [
            {
                "name": each.name,
                "store_type": each.store_type,
                "ingestible": each.ingestable,
                "enabled": each.enabled,
                "available": each.available,
                "free_space": each.free_space,
            }
            for each in found
        ]

    def set_store(self, name: str, enabled: bool) -> None:
        """Switch a store there on or off."""
        self._ask("admin/stores/state_change", admin.StoreState(name, enabled), admin.StoreStateChanged)

    def manifest(self, store: str, destination: str | None, *, again: bool = False) -> Freight:
        """In one answer. A stock server makes new transfers each time, so it is asked for them only once."""
        if again:
            why, how = "another librarian cannot be asked whether it made just this manifest", "Name another file."
            raise Refused(why=why, how=how)
        request = admin.ManifestRequest(store, bool(destination), destination or "")
        found: admin.Manifest = self._ask("admin/stores/manifest", request, admin.Manifest)
        names = {entry.name for entry in found.store_files}

        def mark() -> list[str]:
            gone = admin.ManifestRequest(store, mark_local_instances_as_unavailable=True)
            marked: admin.Manifest = self._ask("admin/stores/manifest", gone, admin.Manifest)
            return [entry.name for entry in marked.store_files if entry.name not in names]

        return Freight(found.librarian_name, iter(found.store_files), mark)


def _time(text: str) -> str | None:
    """A stock server's time, which is UTC without saying so, as libtool shows it."""
    try:
        return show_time(parse_time(text))
    except (ValueError, OverflowError):
        return text
