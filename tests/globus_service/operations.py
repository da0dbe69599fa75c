"""Looking at collections and changing their names and directories, at once and without a task."""

from __future__ import annotations

import os
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from tests.globus_service.access import Access
from tests.globus_service.answers import Answer, Refusal, Request, document, told
from tests.globus_service.places import DESTINATION, Trouble, described, locate, to_text
from tests.globus_service.world import Collection, Token, World


class Operations:
    """The endpoints below ``/operation`` and ``/endpoint``."""

    def __init__(self, world: World, access: Access) -> None:
        self.world, self.access = world, access

    def endpoint(self, request: Request, token: Token, name: str) -> Answer:
        """What a collection is."""
        collection = self.access.collection(name)
        gcp = collection.personal
        server = {"DATA_TYPE": "server", "hostname": "localhost", "port": 443, "is_paused": collection.gcp_paused}
        return document(
            200,
            {
                "DATA_TYPE": "endpoint",
                "id": collection.id,
                "name": collection.id,
                "display_name": collection.name,
                "entity_type": collection.entity_type,
                "owner_id": collection.owner,
                "owner_string": collection.owner,
                "high_assurance": collection.high_assurance,
                "authentication_timeout_mins": 30 if collection.high_assurance else None,
                "gcp_connected": collection.connected if gcp else None,
                "gcp_paused": collection.gcp_paused if gcp else None,
                "is_globus_connect": gcp,
                "default_directory": collection.default_directory,
                "host_path": None,
                "mapped_collection_id": None,
                "non_functional": False,
                "disable_verify": collection.disable_verify,
                "force_verify": False,
                "force_encryption": False,
                "acl_available": "guest" in collection.entity_type,
                "my_effective_roles": [],
                "subscription_id": None,
                "public": True,
                "gcs_manager_url": None,
                "gcs_version": None if gcp else "5.4.80",
                "DATA": [{**server, "is_connected": collection.connected}],
            },
        )

    def ls(self, request: Request, token: Token, name: str) -> Answer:
        """What is in a directory."""
        collection, asked = self._ready(request, token, name, "DirListing"), request.query
        path = asked.get("path") or collection.default_directory
        self.access.permit(token, collection, path, write=False)
        real = self._locate(collection, path)
        try:
            names = os.listdir(real)
        except NotADirectoryError:
            raise Refusal(502, "ExternalError.DirListingFailed.NotDirectory", f"Not a directory: {path}") from None
        except FileNotFoundError:
            raise Refusal(404, "ClientError.NotFound", f"Directory '{path}' not found on {collection.name}") from None
        except OSError as error:
            raise _refused(error, "DirListing", path) from None
        found = []
        for one in names:
            try:
                found.append(described(os.path.join(real, one), to_text(one)))
            except FileNotFoundError:
                continue  # it went while the directory was read
        if asked.get("show_hidden", "1").lower() in ("0", "false"):
            found = [entry for entry in found if not entry["name"].startswith(".")]
        for condition in request.all("filter"):
            found = [entry for entry in found if all(_fits(entry, part) for part in condition.split("/") if part)]
        for key in reversed((asked.get("orderby") or "name").split(",")):
            field, _, direction = key.partition(" ")
            if field not in ("name", "type", "size", "last_modified", "user", "group", "permissions"):
                raise Refusal(400, "ClientError.BadRequest", f"No ordering by {field}")
            found.sort(key=lambda entry, field=field: entry[field], reverse=direction.upper() == "DESC")  # type: ignore[misc]
        most = self.world.most_listed
        offset, limit = int(asked.get("offset", 0)), min(int(asked.get("limit", most)), most)
        part = found[offset : offset + limit]
        shown = path if path.endswith("/") else path + "/"
        about: dict[str, Any] = {"DATA_TYPE": "file_list", "endpoint": collection.id, "path": shown, **told(request.path)}
        about |= {"absolute_path": None, "rename_supported": collection.rename_supported, "symlink_supported": False}
        return document(200, {**about, "length": len(part), "total": len(found), "DATA": part})

    def stat(self, request: Request, token: Token, name: str) -> Answer:
        """What one file or directory is."""
        collection, path = self._ready(request, token, name, "DirListing"), request.query.get("path", "")
        self.access.permit(token, collection, path, write=False)
        real = self._locate(collection, path, follow=False)
        try:
            return document(200, described(real, path.rstrip("/").rpartition("/")[2] or "/"))
        except (FileNotFoundError, NotADirectoryError):
            raise Refusal(404, "NotFound", f"Path not found, Error (list)\nMessage: No such file or directory: {path}") from None
        except OSError as error:
            raise _refused(error, "DirListing", path) from None

    def mkdir(self, request: Request, token: Token, name: str) -> Answer:
        """Make a directory; its parent must be there."""
        path = str(request.document().get("path", ""))
        collection = self._writable(request, token, name, "Mkdir", path)
        self._do(lambda: os.mkdir(self._locate(collection, path)), "Mkdir", path)
        result = {"DATA_TYPE": "mkdir_result", "code": "DirectoryCreated", "message": "The directory was created successfully"}
        return document(202, {**result, **told(request.path)})

    def rename(self, request: Request, token: Token, name: str) -> Answer:
        """Rename a file or directory; nothing is replaced, unless the collection does that with files."""
        posted = request.document()
        old, new = str(posted.get("old_path", "")), str(posted.get("new_path", ""))
        collection = self._writable(request, token, name, "Rename", old, new)
        source, target = (self._locate(collection, path, follow=False) for path in (old, new))
        if not collection.rename_supported:
            raise Refusal(400, "NotSupported", f"{collection.name} cannot rename")
        replacing = collection.rename_replaces and not os.path.isdir(target)
        if os.path.lexists(target) and os.path.lexists(source) and not replacing:
            raise Refusal(502, "ExternalError.RenameFailed.Exists", f"Path already exists: {new}")
        self._do(lambda: os.rename(source, target), "Rename", old)
        result = {"DATA_TYPE": "result", "code": "FileRenamed", "message": "File or directory renamed successfully"}
        return document(200, {**result, **told(request.path)})

    def _ready(self, request: Request, token: Token, name: str, operation: str) -> Collection:
        collection = self.access.collection(name)
        self.access.need(request, token, [collection])
        if self.access.offline(request, collection):
            why = "GCDisconnected" if collection.personal else "ConnectFailed"
            raise Refusal(502, f"ExternalError.{operation}Failed.{why}", f"{collection.name} cannot be reached")
        if collection.gcp_paused:
            raise Refusal(502, f"ExternalError.{operation}Failed.GCPaused", f"{collection.name} is paused by its owner")
        return collection

    def _writable(self, request: Request, token: Token, name: str, operation: str, *paths: str) -> Collection:
        collection = self._ready(request, token, name, operation)
        for path in paths:
            self.access.permit(token, collection, path, write=True)
        if collection.read_only:
            raise Refusal(403, "EndpointPermissionDenied", f"{collection.name} is read-only")
        return collection

    def _locate(self, collection: Collection, path: str, follow: bool = True) -> bytes:
        try:
            return locate(self.world, collection, path, DESTINATION, follow)
        except Trouble as trouble:
            if trouble.code == "PERMISSION_DENIED":
                raise Refusal(403, "EndpointPermissionDenied", f"Denied by endpoint\nDetails: {trouble.details}") from None
            raise Refusal(400, "ClientError.BadRequest.InvalidPath", trouble.details) from None

    def _do(self, action: Callable[[], None], operation: str, path: str) -> None:
        try:
            action()
        except OSError as error:
            raise _refused(error, operation, path) from None


def _refused(error: OSError, operation: str, path: str) -> Refusal:
    """What the file system said, as the service puts it."""
    code = Trouble.of(error, DESTINATION).code
    if code == "PERMISSION_DENIED":
        return Refusal(403, "EndpointPermissionDenied", f"Denied by endpoint: {path}")
    why = {"EXISTS": "Exists", "FILE_NOT_FOUND": "NotFound", "NOT_A_DIRECTORY": "NotDirectory"}.get(code, "Unknown")
    return Refusal(502, f"ExternalError.{operation}Failed.{why}", f"{error.strerror}: {path}")


def _fits(entry: dict[str, Any], condition: str) -> bool:
    """Whether an entry fits ``name:=x``, ``name:~pattern``, ``name:!~pattern`` or ``type:file,dir``."""
    field, _, wanted = condition.partition(":")
    value = str(entry.get(field, ""))
    refused, wanted = wanted.startswith("!"), wanted.removeprefix("!")
    if wanted.startswith("~"):
        fits = fnmatchcase(value, wanted[1:])
    else:
        fits = value in wanted.removeprefix("=").split(",")
    return fits != refused
