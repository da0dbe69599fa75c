"""Globus Auth: logging in, tokens, consents."""

from __future__ import annotations

import base64
import binascii
import hashlib
import html
import json
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from tests.globus_service.answers import JSON, Answer, Request, document, page, stamp
from tests.globus_service.signing import Signer
from tests.globus_service.world import Identity, ServiceAccount, Token, World

TRANSFER = "transfer.api.globus.org"
TRANSFER_SCOPE = f"urn:globus:auth:scope:{TRANSFER}:all"
LIFETIME = 172800
_AUTH = "auth.globus.org"
_DATA_ACCESS = re.compile(r"https://auth\.globus\.org/scopes/([^/]+)/data_access")
_PLAIN = ("openid", "profile", "email", "offline_access")


class Denied(Exception):
    """The service says no in the manner of OAuth."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.answer = document(status, {"error": error})


@dataclass
class Grant:
    """What was allowed to a client, for one resource server."""

    server: str
    scopes: list[str] = field(default_factory=list)
    data_access: set[str] = field(default_factory=set)


@dataclass
class Code:
    """An authorization code that was not exchanged yet."""

    client: str
    identity: str
    redirect: str
    scope: str
    offline: bool
    challenge: str | None
    state: str | None


def data_access(collection: str) -> str:
    """The scope to ask for, so that Transfer may use this collection."""
    return f"{TRANSFER_SCOPE}[*https://auth.globus.org/scopes/{collection}/data_access]"


class Auth:
    """The endpoints of Globus Auth."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.codes: dict[str, Code] = {}

    @property
    def signer(self) -> Signer | None:
        """What signs id_tokens."""
        return Signer.make()

    def answer(self, request: Request) -> Answer | None:
        """Answer a request; None when it is not for this service."""
        routes: dict[tuple[str, str], Callable[[Request], Answer]] = {
            ("POST", "/v2/oauth2/token"): self._token,
            ("POST", "/v2/oauth2/token/revoke"): self._revoke,
            ("GET", "/v2/oauth2/userinfo"): self._userinfo,
            ("GET", "/v2/oauth2/authorize"): self._authorize,
            ("GET", "/v2/web/auth-code"): self._show_code,
            ("GET", "/.well-known/openid-configuration"): self._configuration,
            ("GET", "/jwk.json"): self._keys,
        }
        known = routes.get((request.method, request.path))
        consents = re.fullmatch(r"/v2/api/identities/([^/]+)/consents", request.path)
        try:
            if consents and request.method == "GET":
                return self._consents(request, consents[1])
            return known(request) if known else None
        except Denied as denied:
            return denied.answer

    # -- tokens

    def grants(self, scope: str) -> list[Grant]:
        """The scopes that were asked for, by resource server, Transfer first if it is among them."""
        found: dict[str, Grant] = {}
        depth = 0
        for word in re.findall(r"\[|\]|[^\s\[\]]+", scope):
            if word in "[]":
                depth += 1 if word == "[" else -1
            elif access := _DATA_ACCESS.fullmatch(word.lstrip("*")):
                collection = self.world.collections.get(access[1])
                if collection is None or not collection.asks_consent:
                    raise Denied(400, "unknown_scope")
                server = TRANSFER if depth else collection.id
                grant = found.setdefault(server, Grant(server))
                grant.data_access.add(collection.id)
                if not depth:
                    grant.scopes.append(word)
            else:
                named = re.fullmatch(r"urn:globus:auth:scope:([^:]+):\w+", word)
                if not named and word not in _PLAIN:
                    raise Denied(400, "unknown_scope")
                server = named[1] if named else _AUTH
                found.setdefault(server, Grant(server)).scopes.append(word)
        return sorted(found.values(), key=lambda grant: grant.server != TRANSFER)

    def issue(self, client: str, identity: str, grant: Grant, offline: bool, family: str = "") -> dict[str, Any]:
        """Make an access token, and a refresh token when it is to last."""
        common = (client, identity, grant.server, " ".join(grant.scopes), frozenset(grant.data_access))
        family = family or secrets.token_hex(8)
        expires = self.world.now + timedelta(seconds=LIFETIME)
        access = Token("Ag" + secrets.token_urlsafe(30), *common, expires=expires, family=family)
        found = {
            "access_token": access.value,
            "scope": access.scope,
            "expires_in": LIFETIME,
            "token_type": "Bearer",
            "resource_server": grant.server,
        }
        self.world.tokens[access.value] = access
        for collection in grant.data_access:
            self.world.consent(identity, collection, client)
        if offline:
            refresh = Token("Rg" + secrets.token_urlsafe(30), *common, family=family)
            self.world.tokens[refresh.value] = refresh
            found["refresh_token"] = refresh.value
        return found

    def _client(self, request: Request) -> str:
        """Who asks; confidential clients prove it."""
        form = request.form()
        name, secret = form.get("client_id", ""), form.get("client_secret")
        kind, _, basic = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "basic":
            try:
                name, _, secret = base64.b64decode(basic).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                raise Denied(401, "invalid_client") from None
        client = self.world.clients.get(name)
        if client is None or (isinstance(client, ServiceAccount) and client.secret != secret):
            raise Denied(401, "invalid_client")
        return client.id

    def _token(self, request: Request) -> Answer:
        client, form = self._client(request), request.form()
        kinds = {"client_credentials": self._as_itself, "refresh_token": self._refresh, "authorization_code": self._exchange}
        kind = kinds.get(form.get("grant_type", ""))
        if kind is None:
            raise Denied(400, "unsupported_grant_type")
        first, *others = kind(client, form)
        return document(200, {**first, "other_tokens": others}, **{"Cache-Control": "no-store"})

    def _as_itself(self, client: str, form: dict[str, str]) -> list[dict[str, Any]]:
        if not isinstance(self.world.clients[client], ServiceAccount):
            raise Denied(401, "invalid_client")
        grants = self.grants(form.get("scope", ""))
        if not grants:
            raise Denied(400, "unknown_scope")
        return self._answered(client, client, grants, False)

    def _refresh(self, client: str, form: dict[str, str]) -> list[dict[str, Any]]:
        token = self.world.live(form.get("refresh_token", ""))
        if self.world.faults.strike("refresh_revoked", method="POST", url="/v2/oauth2/token"):
            raise Denied(400, "invalid_grant")
        if token is None or token.expires is not None or token.client != client:
            raise Denied(400, "invalid_grant")
        grant = Grant(token.server, token.scope.split(), set(token.data_access))
        # A withdrawn consent does not come back by refreshing.
        given = self.world.consents.get(token.identity, {})
        grant.data_access = {c for c in grant.data_access if client in given.get(c, [])}
        found = self.issue(client, token.identity, grant, self.world.rotate, token.family)
        if self.world.rotate:
            token.alive = False
        # An answer without one would make the SDK forget the refresh token that it has.
        found.setdefault("refresh_token", token.value)
        return [found]

    def _exchange(self, client: str, form: dict[str, str]) -> list[dict[str, Any]]:
        code = self.codes.pop(form.get("code", ""), None)
        if code is None or code.client != client or code.redirect != form.get("redirect_uri"):
            raise Denied(400, "invalid_grant")
        if code.challenge is not None:
            hashed = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
            if base64.urlsafe_b64encode(hashed).decode().rstrip("=") != code.challenge:
                raise Denied(400, "invalid_grant")
        first, *others = self._answered(client, code.identity, self.grants(code.scope), code.offline)
        if code.state is not None:
            first["state"] = code.state
        return [first, *others]

    def _answered(self, client: str, identity: str, grants: list[Grant], offline: bool) -> list[dict[str, Any]]:
        found = [self.issue(client, identity, grant, offline) for grant in grants]
        if any("openid" in grant.scopes for grant in grants) and self.signer:
            person = self.world.identities[identity]
            # Clients compare this with their own clock, not with the one of the tests.
            claims = {"iss": self.world.url.rstrip("/"), "iat": int(time.time()), "exp": int(time.time()) + LIFETIME}
            claims |= {"sub": identity, "aud": client, "preferred_username": person.username}
            found[0]["id_token"] = self.signer.sign(claims)
        return found

    def _revoke(self, request: Request) -> Answer:
        client, token = self._client(request), self.world.tokens.get(request.form().get("token", ""))
        if token is not None and token.client == client:
            self.world.revoke(token.value)
        return document(200, {"active": False})

    # -- people

    def _authorize(self, request: Request) -> Answer:
        asked = request.query
        visitor, client = self.world.visitor, self.world.clients.get(asked.get("client_id", ""))
        if client is None or visitor is None or asked.get("response_type") != "code":
            return page(400, "<h1>Invalid request</h1>")
        self.grants(asked.get("scope", ""))
        code = secrets.token_urlsafe(20)
        redirect = asked.get("redirect_uri", "")
        offline = asked.get("access_type") == "offline"
        self.codes[code] = Code(
            client.id, visitor.id, redirect, asked.get("scope", ""), offline, asked.get("code_challenge"), asked.get("state")
        )
        if request.headers.get("Accept", "").startswith(JSON):
            return document(200, {"code": code, "state": asked.get("state")})
        if re.match(r"http://(localhost|127\.0\.0\.1)[:/]", redirect) and not redirect.endswith("/v2/web/auth-code"):
            query = urlencode({"code": code, "state": asked.get("state", "")})
            return Answer(302, b"", headers={"Location": f"{redirect}?{query}"})
        return self._code_page(code)

    def _show_code(self, request: Request) -> Answer:
        return self._code_page(request.query.get("code", ""))

    def _code_page(self, code: str) -> Answer:
        return page(200, f"<p>Authorization code:</p><p><code>{html.escape(code)}</code></p>")

    def _bearer(self, request: Request) -> tuple[Token, Identity]:
        token = self.world.live(request.headers.get("Authorization", "").partition(" ")[2])
        if token is None or token.server != _AUTH:
            error = {"status": "401", "id": secrets.token_hex(8), "code": "UNAUTHORIZED", "title": "Unauthorized"}
            denied = Denied(401, "unauthorized")
            body = {"errors": [{**error, "detail": "Call must be authenticated"}], "error": "unauthorized"}
            denied.answer = document(401, {**body, "error_description": "Unauthorized"})
            raise denied
        return token, self.world.identities[token.identity]

    def _userinfo(self, request: Request) -> Answer:
        _, person = self._bearer(request)
        found = {"sub": person.id, "preferred_username": person.username, "name": person.username.partition("@")[0]}
        return document(200, {**found, "email": person.username, "organization": None})

    def _consents(self, request: Request, identity: str) -> Answer:
        token, person = self._bearer(request)
        if person.id != identity:
            raise Denied(403, "forbidden")
        found: list[dict[str, Any]] = []
        given = self.world.consents.get(identity, {})
        chosen = [c for c, clients in given.items() if token.client in clients]
        for number, name in enumerate([TRANSFER_SCOPE, *(f"https://auth.globus.org/scopes/{c}/data_access" for c in chosen)], 1):
            found.append(
                {
                    "id": number,
                    "client": token.client,
                    "scope": secrets.token_hex(16),
                    "scope_name": name,
                    "effective_identity": identity,
                    "dependency_path": [1] if number == 1 else [1, number],
                    "created": stamp(self.world.now),
                    "updated": stamp(self.world.now),
                    "last_used": stamp(self.world.now),
                    "status": "approved",
                    "allows_refresh": True,
                    "auto_approved": False,
                    "atomically_revocable": number > 1,
                }
            )
        return document(200, {"consents": found})

    # -- keys

    def _configuration(self, request: Request) -> Answer:
        base = self.world.url
        if self.signer is None:
            raise Denied(404, "not_found")
        return document(
            200,
            {
                "issuer": base.rstrip("/"),
                "authorization_endpoint": f"{base}v2/oauth2/authorize",
                "token_endpoint": f"{base}v2/oauth2/token",
                "userinfo_endpoint": f"{base}v2/oauth2/userinfo",
                "revocation_endpoint": f"{base}v2/oauth2/token/revoke",
                "jwks_uri": f"{base}jwk.json",
                "id_token_signing_alg_values_supported": ["RS512", "RS256"],
                "response_types_supported": ["code", "token"],
                "subject_types_supported": ["public"],
            },
        )

    def _keys(self, request: Request) -> Answer:
        if self.signer is None:
            raise Denied(404, "not_found")
        return Answer(200, json.dumps({"keys": [self.signer.public()]}).encode())
