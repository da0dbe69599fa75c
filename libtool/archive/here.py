"""The desk of this librarian: an operator's wishes, done on its own rows."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from libtool import digest
from libtool.archive import accounts, catalogue, librarians, manifests, places, proving
from libtool.archive.deciding import Report
from libtool.archive.desk import Desk, Freight, Newcomer, Terms
from libtool.archive.hands import Budget, Host, Tally
from libtool.errors import LibtoolError, NoSignOfLife, Refused
from libtool.models.tables import File, Librarian
from libtool.peers import messages
from libtool.peers.admin import ManifestEntry
from libtool.peers.client import Peer
from libtool.states import AuthLevel
from libtool.units import show_time

#: Seconds that each neighbour has to give a sign of life, and how many are asked at the same time.
PING_SECONDS, ASKED_AT_ONCE = 15.0, 16
#: Seconds that an operator waits for copies to be read.
VALIDATE_SECONDS = 86400.0


class Here(Desk):
    """``local``: whether the operator sits at this machine, and may name programs of it as librarians."""

    def __init__(self, host: Host, *, local: bool) -> None:
        self.host = host
        self.local = local
        #: Which neighbours did not say anything to the last question, and why.
        self.silent: list[str] = []

    def librarians(self, ping: bool) -> list[dict[str, Any]]:
        """Every neighbour."""
        found = librarians.everybody()
        silent = self._silent(found) if ping else {}
        rows = []
        for row in found:
            shown = {
                "name": row.name,
                "url": row.url,
                "port": row.port,
                "transfers_enabled": row.transfers_enabled,
                "last_seen": show_time(row.last_seen),
                "last_heard": show_time(row.last_heard),
            }
            if ping:
                shown |= {"available": row.name not in silent, "why": silent.get(row.name)}
            rows.append(shown)
        return rows

    def _silent(self, found: list[Librarian]) -> dict[str, str]:
        """Ask all for a sign of life, side by side; why those that gave none did not."""
        silent: dict[str, str] = {}
        peers: dict[str, tuple[Librarian, Peer]] = {}
        for row in found:
            try:
                peers[row.name] = row, self.host.peer(row, seconds=PING_SECONDS)
            except LibtoolError as trouble:
                silent[row.name] = trouble.text
        if not peers:
            return silent
        with ThreadPoolExecutor(min(len(peers), ASKED_AT_ONCE)) as pool:
            asked = {name: pool.submit(librarians.probe, peer) for name, (_, peer) in peers.items()}
        for name, (row, peer) in peers.items():
            try:
                asked[name].result()
            except LibtoolError as trouble:
                silent[name] = trouble.text
            librarians.keep_acquaintance(row, peer, self.host.now())
            peer.close()
        return silent

    def librarian(self, name: str) -> None:
        """Whether it is registered."""
        librarians.get(name)

    def vet(self, newcomer: Newcomer) -> None:
        """Address, name, account; and with ``check`` a sign of life."""
        librarians.check_url(newcomer.url, newcomer.port, local=self.local, allow_plain_http=newcomer.allow_plain_http)
        librarians.check_free(self.host, newcomer.name)
        librarians.check_account(newcomer.url, newcomer.authenticator)

    def add_librarian(self, newcomer: Newcomer) -> None:
        """Register it, after a sign of life that really needs our account there."""
        self.vet(newcomer)
        features = None
        if newcomer.check:
            try:
                features = librarians.try_out(
                    self.host, newcomer.name, newcomer.url, newcomer.port, newcomer.authenticator
                )
            except LibtoolError as trouble:
                raise NoSignOfLife(why=trouble.reason) from None
        librarians.add(self.host, newcomer.name, newcomer.url, newcomer.port, newcomer.authenticator, features)

    def remove_librarian(self, name: str) -> None:
        """What was sent, and what is under way, stays remembered."""
        librarians.remove(name)

    def set_transfers(self, name: str, enabled: bool) -> None:
        """What is in flight is still settled."""
        librarians.set_transfers(name, enabled)

    def create_user(self, username: str, level: AuthLevel, password: str | None) -> str | None:
        """Make an account."""
        return accounts.create(self.host, username, level, password)

    def user(self, username: str) -> AuthLevel:
        """The level of an account."""
        level: AuthLevel = accounts.get(username).auth_level
        return level

    def delete_user(self, username: str) -> None:
        """Remove an account."""
        accounts.delete(username)

    def search(self, terms: Terms) -> list[dict[str, Any]]:
        """Files and their copies."""
        found = catalogue.search(
            name=terms.name, uploader=terms.uploader, source=terms.source, window=terms.window, limit=terms.limit
        )
        copies, remote = catalogue.copies(found), catalogue.remote_copies(found)
        gone = catalogue.removals(found)
        return [
            {
                "name": file.name,
                "size": file.size,
                "checksum": file.checksum,
                "uploader": file.uploader,
                "source": file.source,
                "create_time": show_time(file.create_time),
                "instances": [
                    {
                        "store": copy.store.name,
                        "path": places.path_of(self.host, copy.store, file.name),
                        "available": copy.available,
                        "condition": copy.condition.name,
                        "verified": show_time(copy.verified_time),
                        "verified_how": copy.verified_how.name,
                        "deletion_policy": copy.deletion_policy.name,
                    }
                    for copy in copies.get(file.id, [])
                ],
                "remote_instances": [
                    {
                        "librarian": copy.librarian.name,
                        "store_id": copy.store_id,
                        "copy_time": show_time(copy.copy_time),
                    }
                    for copy in remote.get(file.id, [])
                ],
                "removals": [
                    {
                        "store": removal.store.name,
                        "status": removal.status.name,
                        "actor": removal.actor,
                        "reason": removal.reason,
                        "time": show_time(removal.create_time),
                        "purge": show_time(removal.purge_time),
                        "ended": show_time(removal.end_time),
                    }
                    for removal in gone.get(file.id, [])
                ],
            }
            for file in found
        ]

    def validate(self, name: str, max_age: float = 0.0, depth: int = 1) -> list[dict[str, Any]]:
        """Read our own copies, and have those read that neighbours hold; each copy once, and who tells otherwise, too."""
        file = File.get_or_none(File.name == name)
        if file is None:
            raise Refused(why="This file does not exist in the librarian.", how="Check the file name and try again.")
        wanted = proving.Wanted(file.id, file.name, file.size, file.checksum)
        budget = Budget(VALIDATE_SECONDS, time.monotonic)
        rows = [
            _validated(file, self.host.settings.name, copy)
            for copy in proving.own(self.host, [name], max_age, budget)[name]
        ]
        if depth:
            ask = messages.Validate([], max_age, depth=depth - 1, asked=[self.host.settings.name])
            tally = Tally()
            where = proving.holders([file.id])
            for librarian in Librarian.select().where(Librarian.name == file.source, ~Librarian.removed):
                where.setdefault(librarian.id, [file.id])
            found = proving.gather(self.host, [wanted], where, ask, budget, tally)[file.id]
            rows += [_reported(file, report) for report in _each_once(self.host.settings.name, found)]
            self.silent = tally.details + tally.lines
        return rows

    def stores(self) -> list[dict[str, Any]]:
        """Every store and its room."""
        return places.survey(self.host)

    def set_store(self, name: str, enabled: bool) -> None:
        """What waits for a disabled store goes on when it is enabled."""
        places.set_enabled(name, enabled)

    def manifest(self, store: str, destination: str | None, *, again: bool = False) -> Freight:
        """Page by page; only what was listed is marked."""
        row = places.get(store)
        to = librarians.get(destination) if destination else None
        if to is not None and not again:
            manifests.send(self.host, row, to)
        listed = array("q")

        def entries() -> Iterator[ManifestEntry]:
            for number, entry in manifests.entries(self.host, row, to):
                listed.append(number)
                yield entry

        def mark() -> list[str]:
            manifests.mark(listed.tolist())
            return []

        return Freight(self.host.settings.name, entries(), mark, lambda number: manifests.ended(number, to))


def _validated(file: File, librarian: str, copy: messages.ValidatedCopy) -> dict[str, Any]:
    """One copy as commands show it; what was not read has no current checksum."""
    read = copy.good is not None
    return {
        "librarian": librarian,
        "store": copy.store,
        "instance_id": copy.instance_id,
        "original_checksum": file.checksum,
        "original_size": file.size,
        "current_checksum": copy.checksum if read else None,
        "current_size": copy.size if read else None,
        "computed_same_checksum": copy.good,
        "age": round(copy.age, 3) if copy.good else None,
        "why": copy.why or None,
    }


def _reported(file: File, report: Report) -> dict[str, Any]:
    """One copy elsewhere, as we were told of it."""
    told = messages.ValidatedCopy(report.librarian, report.store, -1, report.good, report.size, report.checksum)
    same = report.size == file.size and digest.same(report.checksum, file.checksum) is not False
    told.good = report.good and same
    told.age = report.age or 0.0
    row = _validated(file, report.librarian, told)
    row["instance_id"] = None
    if report.teller != report.librarian:
        row["why"] = f"{report.teller} says so"
    return row


def _each_once(own: str, reports: list[Report]) -> list[Report]:
    """Each copy as its holder tells of it; what others say of it only where that differs, or nobody else says it."""
    direct = {report.copy: report for report in reports if report.teller == report.librarian}
    others = [report for report in reports if report.teller != report.librarian and report.librarian != own]
    kept = {(report.copy, report.good): report for report in reversed(others)}
    for copy, report in direct.items():
        kept.pop((copy, report.good), None)
    return sorted([*direct.values(), *kept.values()], key=lambda report: (report.copy, report.teller))
