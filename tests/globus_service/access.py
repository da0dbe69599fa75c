"""Who may use which collection: tokens, consents, sessions, permissions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.globus_service.answers import Refusal, Request
from tests.globus_service.auth import TRANSFER, data_access
from tests.globus_service.copying import offline
from tests.globus_service.world import Collection, Token, World


class Access:
    """The checks before the Transfer service does anything."""

    def __init__(self, world: World) -> None:
        self.world = world

    def token(self, request: Request) -> Token:
        """The token of a request, if it is good here."""
        kind, _, value = request.headers.get("Authorization", "").partition(" ")
        if kind != "Bearer":
            raise Refusal(401, "AuthenticationFailed", "No credentials supplied")
        token = self.world.live(value)
        if token is not None and self.world.faults.strike("token_expired", method=request.method, url=request.url):
            token.alive = False
        if token is None or not token.alive or token.expires is None or token.server != TRANSFER:
            raise Refusal(401, "AuthenticationFailed", "Token is not active")
        return token

    def collection(self, name: Any) -> Collection:
        """The collection of this id."""
        found = self.world.collections.get(name) if isinstance(name, str) else None
        if found is None:
            raise Refusal(404, "EndpointNotFound", f"No such endpoint '{name}'")
        return found

    def need(self, request: Request, token: Token, collections: Iterable[Collection]) -> None:
        """Refuse where a consent or a session is missing."""
        wanted, missing = list(collections), []
        for collection in wanted:
            about = {"method": request.method, "url": request.url, "collections": (collection.id,)}
            if self.world.faults.strike("consent_required", **about) or not self.world.consented(token, collection):
                missing.append(data_access(collection.id))
        if missing:
            raise Refusal(403, "ConsentRequired", "Missing required data_access consent", required_scopes=missing)
        for collection in wanted:
            about = {"method": request.method, "url": request.url, "collections": (collection.id,)}
            if fault := self.world.faults.strike("session_required", **about):
                asked = {"session_message": "Session reauthentication required"}
                raise Refusal(
                    502,
                    "ExternalError.DirListingFailed.LoginFailed",
                    f"Login failed on {collection.name}\nDetails: 530-Login incorrect. : GlobusError: v=1 c=LOGIN_DENIED\n"
                    f"530-GlobusError: not_from_allowed_domain: {fault['domain']}",
                    authorization_parameters={**asked, "session_required_single_domain": [fault["domain"]]},
                )

    def permit(self, token: Token, collection: Collection, path: str, write: bool) -> None:
        """Refuse where no permission fits."""
        if not self.world.may(token.identity, collection, path, write):
            what = "write to" if write else "read"
            raise Refusal(403, "PermissionDenied", f"No permission to {what} {path} on {collection.name}")

    def offline(self, request: Request, collection: Collection) -> bool:
        """Whether a collection cannot be reached now."""
        return offline(self.world, collection, method=request.method, url=request.url)
