"""The operator's side of a stock hera_librarian 5 for tests: its admin endpoints with their bugs, and its AdminClient.

As in :mod:`tests.stock`, nothing of libtool is used here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.stock import ADMIN, Reply, Stock, StockClient, _flat, _Said, is_ping, whole

LEVELS = {0, 1, 2, 3, 4, 100}


def _internal() -> _Said:
    return _Said(500, "Internal Server Error", Content_Type="text/plain; charset=utf-8")


class StockOffice(Stock):
    """A stock librarian with accounts, neighbours and stores that an administrator may change."""

    ENDPOINTS = Stock.ENDPOINTS | {
        "users/create": ADMIN,
        "users/update": ADMIN,
        "users/get": ADMIN,
        "users/delete": ADMIN,
        "admin/librarians/list": ADMIN,
        "admin/librarians/add": ADMIN,
        "admin/librarians/remove": ADMIN,
        "admin/librarians/transfer_status/change": ADMIN,
        "admin/stores/list": ADMIN,
        "admin/stores/state_change": ADMIN,
    }

    def __init__(self, name: str, top: Path, free: int = 10**12) -> None:
        super().__init__(name, top, free)
        self.neighbours: dict[str, dict[str, Any]] = {}
        self.reachable: set[str] = set()  #: neighbours that answer a ping
        self.enabled = True  #: its one store, called ``store``

    def _users_create(self, user: str, admin: bool, body: Any) -> Reply:
        name, password, level = self._text(body, "username"), self._text(body, "password"), body.get("permission")
        if level not in LEVELS:
            self._invalid("enum", "permission")
        if name in self.accounts:
            return Reply(400, {"success": False, "username": name})
        self.accounts[name] = (password, int(level))
        return Reply(201, {"success": True, "username": name})

    def _users_get(self, user: str, admin: bool, body: Any) -> Reply:
        name = self._text(body, "username")
        if name not in self.accounts:
            return Reply(400, {"username": name, "permission": 0})
        return Reply(200, {"username": name, "permission": self.accounts[name][1]})

    def _users_update(self, user: str, admin: bool, body: Any) -> Reply:
        """An unknown account is no error."""
        name = self._text(body, "username")
        if name not in self.accounts:
            return Reply(200, {"success": False, "username": name})
        password, level = self.accounts[name]
        self.accounts[name] = (body.get("password") or password, body.get("permission") or level)
        return Reply(200, {"success": True, "username": name})

    def _users_delete(self, user: str, admin: bool, body: Any) -> Reply:
        name = self._text(body, "username")
        found = self.accounts.pop(name, None) is not None
        return Reply(200 if found else 400, {"success": found, "username": name})

    def _admin_librarians_list(self, user: str, admin: bool, body: Any) -> Reply:
        """One neighbour that does not answer a ping is an internal error."""
        ping = body.get("ping", True)
        if ping and self.neighbours.keys() - self.reachable:
            raise _internal()
        rows = [
            {"name": name, "url": row["url"], "port": row["port"], "available": ping or None, "enabled": row["enabled"]}
            for name, row in self.neighbours.items()
        ]
        return Reply(200, {"librarians": rows})

    def _admin_librarians_add(self, user: str, admin: bool, body: Any) -> Reply:
        """The ping that it tries needs no account."""
        name, check = self._text(body, "librarian_name"), body.get("check_connection", True)
        row = {"url": self._text(body, "url"), "port": self._number(body, "port"), "enabled": True}
        row["authenticator"] = self._text(body, "authenticator")
        if name in self.neighbours:
            return Reply(200, {"success": False, "already_exists": True, "ping_success": False})
        if check and name not in self.reachable:
            raise _internal()
        self.neighbours[name] = row
        return Reply(200, {"success": True, "already_exists": False, "ping_success": check or None})

    def _admin_librarians_remove(self, user: str, admin: bool, body: Any) -> Reply:
        name = self._text(body, "librarian_name")
        if name not in self.neighbours:
            raise _flat(400, f"Librarian {name} does not exist.", "You do not need to remove it.")
        del self.neighbours[name]
        return Reply(200, {"success": True, "number_of_transfers_removed": 0})

    def _admin_librarians_transfer_status_change(self, user: str, admin: bool, body: Any) -> Reply:
        name = self._text(body, "librarian_name")
        if name not in self.neighbours:
            raise _internal()
        self.neighbours[name]["enabled"] = bool(body["transfers_enabled"])
        return Reply(200, {"librarian_name": name, "transfers_enabled": self.neighbours[name]["enabled"]})

    def _admin_stores_list(self, user: str, admin: bool, body: Any) -> Reply:
        row = {"name": "store", "store_type": "local", "free_space": self.free, "ingestable": True}
        return Reply(200, [row | {"available": True, "enabled": self.enabled}])

    def _admin_stores_state_change(self, user: str, admin: bool, body: Any) -> Reply:
        name = self._text(body, "store_name")
        if name != "store":
            raise _flat(400, f"Store {name} does not exist.")
        self.enabled = bool(body["enabled"])
        return Reply(200, {"store_name": name, "enabled": self.enabled, "success": True})


def _truths(*names: str) -> Any:
    return lambda body: all(body[name] in (True, False, None) for name in names)


def _is_store(body: Any) -> bool:
    return all(
        isinstance(each["name"], str)
        and each["store_type"] == "local"
        and whole(each["free_space"])
        and all(each[key] in (True, False) for key in ("ingestable", "available", "enabled"))
        for each in body
    )


def _is_neighbours(body: Any) -> bool:
    return all(
        isinstance(each["name"], str)
        and isinstance(each["url"], str)
        and whole(each["port"])
        and each["available"] in (True, False, None)
        and each["enabled"] in (True, False)
        for each in body["librarians"]
    )


def _is_manifest(body: Any) -> bool:
    texts = ("name", "create_time", "checksum", "uploader", "source", "instance_path", "instance_create_time")
    return all(
        all(isinstance(each[key], str) for key in texts)
        and all(whole(each[key]) for key in ("size", "deletion_policy", "outgoing_transfer_id"))
        and each["instance_available"] is True
        for each in body["store_files"]
    ) and all(isinstance(body[key], str) for key in ("librarian_name", "store_name"))


def _is_place(body: Any) -> bool:
    texts = ("store_name", "staging_name", "staging_location", "upload_name", "destination_location")
    providers = all(isinstance(each["hostnames"], list) for each in body["transfer_providers"].values())
    return whole(body["available_bytes_on_store"]) and all(isinstance(body[key], str) for key in texts) and providers


@dataclass
class StockAdminClient(StockClient):
    """AdminClient, as the stock command and operators' scripts use it."""

    def ping(self) -> Any:
        """``ping/``: any password will do."""
        return self.post("ping/", {}, is_ping)

    def create_user(self, name: str, password: str, level: int) -> Any:
        """``users/create``."""
        body = {"username": name, "password": password, "permission": level}
        return self.post("users/create", body, _truths("success"))

    def delete_user(self, name: str) -> Any:
        """``users/delete``."""
        return self.post("users/delete", {"username": name}, _truths("success"))

    def librarians(self, ping: bool = False) -> list[dict[str, Any]]:
        """``admin/librarians/list``."""
        found: list[dict[str, Any]] = self.post("admin/librarians/list", {"ping": ping}, _is_neighbours)["librarians"]
        return found

    def add_librarian(self, name: str, host: str, port: int, authenticator: str, check_connection: bool) -> Any:
        """``admin/librarians/add``."""
        body = {"librarian_name": name, "url": host, "port": port, "authenticator": authenticator}
        truths = _truths("success", "already_exists", "ping_success")
        return self.post("admin/librarians/add", body | {"check_connection": check_connection}, truths)

    def remove_librarian(self, name: str, transfers: bool = False) -> Any:
        """``admin/librarians/remove``."""
        body = {"librarian_name": name, "remove_outgoing_transfers": transfers}
        return self.post("admin/librarians/remove", body, lambda said: whole(said["number_of_transfers_removed"]))

    def set_transfers(self, name: str, enabled: bool) -> Any:
        """``admin/librarians/transfer_status/set``, which the stock server itself does not know."""
        body = {"librarian_name": name, "transfers_enabled": enabled}
        return self.post("admin/librarians/transfer_status/set", body, _truths("transfers_enabled"))

    def stores(self) -> list[dict[str, Any]]:
        """``admin/stores/list``, without a body."""
        found: list[dict[str, Any]] = self.post("admin/stores/list", {}, _is_store)
        return found

    def set_store(self, name: str, enabled: bool) -> Any:
        """``admin/stores/state_change``."""
        return self.post("admin/stores/state_change", {"store_name": name, "enabled": enabled}, _truths("success"))

    def manifest(self, store: str, destination: str = "", *, disable: bool = False, mark: bool = False) -> Any:
        """``admin/stores/manifest``, as ``get-store-manifest`` asks for it."""
        body = {
            "store_name": store,
            "create_outgoing_transfers": bool(destination),
            "destination_librarian": destination,
            "disable_store": disable,
            "mark_local_instances_as_unavailable": mark,
        }
        return self.post("admin/stores/manifest", body, _is_manifest)

    def bring(self, entry: dict[str, Any], librarian: str, disk: Path) -> bool:
        """One entry of a manifest, as ``ingest-manifest`` brings it; False when it was there already."""
        from tests.stock import StockHTTPError

        name = entry["name"]
        body = {
            "upload_size": entry["size"],
            "upload_checksum": entry["checksum"],
            "upload_name": Path(name).name,
            "destination_location": name,
            "uploader": librarian,
            "source": entry["source"],
            "source_transfer_id": entry["outgoing_transfer_id"],
        }
        try:
            place = self.post("clone/stage", body, _is_place)
        except StockHTTPError as refusal:
            if refusal.status == 409 and "already exists on librarian" in refusal.reason:
                return False
            raise
        ids = {key: place[key] for key in ("source_transfer_id", "destination_transfer_id")}
        self.post("clone/ongoing", ids, lambda said: whole(said["source_transfer_id"]))
        Path(place["staging_location"]).write_bytes((disk / name).read_bytes())
        self.post("clone/staged", ids, _truths("success"))
        return True
