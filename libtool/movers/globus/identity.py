"""Who this node is at Globus: a service account, or a person who logged in once and left a refresh token.

A service account needs no login, only its secret; logging in then proves that the secret is right. A person consents in
a browser, also to the data of every mapped collection that is named, since no task could ask for that at night.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import globus_sdk

from libtool.errors import CarrierBarred, CarrierRefused, CarrierUnknown, LibtoolError, SecretMissing
from libtool.movers.globus import access
from libtool.movers.globus.access import KIND, Access, Definite
from libtool.units import show_time

_AUTH_SERVER = "auth.globus.org"
#: Asked with an address to visit; answers with the code that is shown there.
Ask = Callable[[str], str]


class Identity:
    """The identity of this node's application."""

    def __init__(self, client: str, tokens: Any, now: Callable[[], float]) -> None:
        self.client, self.tokens, self._now = client, tokens, now

    @property
    def person(self) -> bool:
        """Whether somebody has to log in."""
        return bool(self.tokens.person)

    @property
    def service(self) -> str:
        """The service's address, when it is not the public one."""
        return access.other_service(os.environ)

    def _access(self) -> Access:
        return Access(self.client, self.tokens, self._now)

    # -- login -------------------------------------------------------------------------------------------------------

    def login(self, ask: Ask, collections: Iterable[str], *, label: str, keyring: bool = False) -> list[str]:
        """Have a person log in and consent, store what that gives, and say in lines what was done."""
        access.check_service_urls(os.environ)
        wanted = {*collections, *access.collections_in(self.tokens.read().get("consents", []))}
        before = self.tokens.read()
        try:
            needed = self._mapped(wanted) if before else None
        except LibtoolError:
            needed = None  # the old login is no good, so the collections are looked at with the new one
        lines = self._flow(ask, needed or [], label, keyring)
        if needed is None:
            needed = self._mapped(wanted)
            if needed:
                lines = self._flow(ask, needed, label, keyring)
        lines += [f"consent given for the data of collection {collection}" for collection in needed]
        old, new = before.get("identity") or {}, self.tokens.read().get("identity") or {}
        if old and old.get("id") != new.get("id"):
            lines.append(
                f"before, this was {old.get('username')}: only that identity can follow the tasks it submitted"
            )
        return lines

    def _flow(self, ask: Ask, collections: Iterable[str], label: str, keyring: bool) -> list[str]:
        """One visit to the login page: address out, code in, tokens kept; the former refresh token is revoked."""
        client = self._access().login_client()
        consents = [access.consent_for(each) for each in collections]
        scopes = ["openid", "profile", access.with_consents(consents)]
        client.oauth2_start_flow(requested_scopes=scopes, refresh_tokens=True, prefill_named_grant=label)
        code = ask(client.oauth2_get_authorize_url())
        with _asking():
            answer = client.oauth2_exchange_code_for_tokens(code)
            servers = answer.by_resource_server
            mine = servers[access.TRANSFER_SERVER]
            authorizer = globus_sdk.AccessTokenAuthorizer(servers[_AUTH_SERVER]["access_token"])
            who = globus_sdk.AuthClient(authorizer=authorizer).userinfo()
            identity = {"id": who["sub"], "username": who["preferred_username"]}
        former = self.tokens.read().get("secret")
        with self.tokens.lock():
            where = self.tokens.keep(mine["refresh_token"], keyring=keyring)
            self.tokens.write(
                identity=identity,
                consents=consents or None,
                access_token=mine["access_token"],
                expires_at=int(mine["expires_at_seconds"]),
                renewed=int(self._now()),
                not_before=None,
            )
        if former and former != mine["refresh_token"]:
            self._revoke(client, [former])
        lines = [f"logged in as {identity['username']} ({identity['id']}); the refresh token is in {where}"]
        if keyring and where != "the keyring":
            lines.append("the keyring could not be used")
        used = self.tokens.secret()[1]
        if used != where:
            lines.append(f"but {used} comes first: remove it, or this login is not used")
        return lines

    def prove(self, collections: Iterable[str], secret: str | None = None) -> list[str]:
        """Try out a service account's secret, after keeping it when it is given; say in lines what was found."""
        if secret is not None:
            with self.tokens.lock():
                where = self.tokens.keep(secret)
                self.tokens.write(access_token=None, expires_at=None, not_before=None)
            lines = [f"the secret is in {where}"]
        else:
            with self.tokens.lock():
                if self.tokens.read():
                    self.tokens.write(access_token=None, expires_at=None, not_before=None)
            lines = []
        needed = self._mapped(collections)
        if needed:
            with self.tokens.lock():
                known = self.tokens.read().get("consents", [])
                consents = sorted({*known, *(access.consent_for(each) for each in needed)})
                self.tokens.write(consents=consents, access_token=None, expires_at=None)
            self._call("get_submission_id")
        lines.append(f"a service account: {self.client}@clients.auth.globus.org; its secret works")
        return lines + [f"consent given for the data of collection {collection}" for collection in needed]

    def _mapped(self, collections: Iterable[str]) -> list[str]:
        """Those collections whose data need a consent; all must be there."""
        found = []
        service = self._access()
        service_used = False
        for collection in sorted(set(collections)):
            document = self._call("get_endpoint", collection, service=service)
            service_used = True
            if document.get("entity_type") == "GCSv5_mapped_collection" and not document.get("high_assurance"):
                found.append(collection)
        if not service_used:
            self._call("get_submission_id", service=service)
        return found

    def _call(self, method: str, *arguments: Any, service: Access | None = None, **options: Any) -> Any:
        try:
            return (service or self._access()).call(method, *arguments, **options)
        except Definite as refusal:
            raise CarrierRefused(carrier=KIND, why=refusal.why) from None

    # -- whoami and logout -----------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """Who this node is, proved by asking the service; times in UTC."""
        pending = self._call("task_list", limit=1, filter={"status": "ACTIVE,INACTIVE"})
        kept = self.tokens.read()
        identity = kept.get("identity") or {}
        if not self.person:
            identity = {"id": self.client, "username": f"{self.client}@clients.auth.globus.org"}
        return {
            "kind": "person" if self.person else "service account",
            "username": identity.get("username"),
            "identity": identity.get("id"),
            "client": self.client,
            "secret": self.tokens.secret()[1],
            "access_until": _shown(kept.get("expires_at")),
            "renewed": _shown(kept.get("renewed")),
            "consents": access.collections_in(kept.get("consents", [])),
            "pending_tasks": pending.get("total", len(pending["DATA"])),
        }

    def logout(self) -> list[str]:
        """Revoke what was got and remove it here; when the service cannot be asked, nothing is removed."""
        access.check_service_urls(os.environ)
        kept = self.tokens.read()
        try:
            secret, where = self.tokens.secret()
        except SecretMissing:
            return ["nobody is logged in"]
        tokens = [kept[key] for key in ("access_token",) if kept.get(key)] + ([secret] if self.person else [])
        if tokens:
            with _asking():
                self._revoke(self._access().login_client(secret), tokens, strict=True)
        with self.tokens.lock():
            self.tokens.forget()
        lines = ["logged out: what this node held is revoked at Globus and removed here"]
        if where not in (self.tokens.path, "the keyring"):
            what = "the revoked refresh token" if self.person else "the application's secret, which still works,"
            lines.append(f"{what} stays in {where}: remove it yourself")
        return lines

    @staticmethod
    def _revoke(client: Any, tokens: Iterable[str], *, strict: bool = False) -> None:
        for token in tokens:
            try:
                client.oauth2_revoke_token(token)
            except globus_sdk.GlobusError:
                if strict:
                    raise


@contextmanager
def _asking() -> Iterator[None]:
    """Errors of Globus Auth in a login, made ours."""
    try:
        yield
    except globus_sdk.GlobusAPIError as error:
        body = error.raw_json if isinstance(error.raw_json, dict) else {}
        if error.http_status >= 500 or error.http_status == 429:
            raise CarrierUnknown(carrier=KIND, why=f"Globus Auth answered {error.http_status}") from None
        why = f"Globus Auth refused: {body.get('error') or error.http_status}"
        how = "Run 'libtool login' again; each code is good once and for ten minutes."
        raise CarrierBarred(carrier=KIND, why=why, how=how) from None
    except globus_sdk.NetworkError:
        raise CarrierUnknown(carrier=KIND, why="Globus Auth cannot be reached") from None
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CarrierUnknown(carrier=KIND, why="Globus Auth's answer makes no sense") from None


def _shown(seconds: Any) -> str | None:
    if not isinstance(seconds, (int, float)) or not 0 < seconds < time.time() + 10**10:
        return None
    return show_time(datetime.fromtimestamp(seconds, timezone.utc))
