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

from libtool.errors import (
    CarrierBarred,
    CarrierRefused,
    CarrierUnknown,
    LibtoolError,
    PersonNeeded,
    SecretMissing,
    SecretUnsafe,
)
from libtool.movers.globus import access
from libtool.movers.globus.access import KIND, Access, Definite
from libtool.units import show_time

_AUTH_SERVER = "auth.globus.org"
#: Asked with an address to visit and why it is visited again; answers with the code that is shown there.
Ask = Callable[[str, str], str]


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
        before = self.tokens.read(mend=True)
        wanted = {*collections, *access.collections_in(before.get("consents", []))}
        try:
            needed, gone = self._mapped(wanted) if self.tokens.current() else (None, [])
        except LibtoolError:
            needed, gone = None, []  # the old login is no good, so the collections are looked at with the new one
        lines = self._flow(ask, needed or [], label, keyring)
        if needed is None:
            needed, gone = self._mapped(wanted)
            if needed:
                lines = self._flow(ask, needed, label, keyring, again=True)
        with self.tokens.lock():
            self.tokens.write(consents=[access.consent_for(each) for each in needed])
        lines += [f"consent given for the data of collection {collection}" for collection in needed]
        lines += [
            f"collection {collection} is not there (any more), so no consent was asked for it" for collection in gone
        ]
        old, new = before.get("identity") or {}, self.tokens.read().get("identity") or {}
        if old and old.get("id") != new.get("id"):
            lines.append(
                f"before, this was {old.get('username')}: only that identity can follow the tasks it submitted"
            )
        return lines

    def _flow(
        self, ask: Ask, collections: Iterable[str], label: str, keyring: bool, *, again: bool = False
    ) -> list[str]:
        """One visit to the login page: address out, code in, tokens kept; the former refresh token is revoked."""
        client = self._access().login_client()
        named = list(collections)
        consents = [access.consent_for(each) for each in named]
        scopes = ["openid", "profile", access.with_consents(consents)]
        client.oauth2_start_flow(requested_scopes=scopes, refresh_tokens=True, prefill_named_grant=label)
        why = f"Once more, to consent to the data of collection {', '.join(named)}. " if again else ""
        code = ask(client.oauth2_get_authorize_url(), why)
        with _asking():
            answer = client.oauth2_exchange_code_for_tokens(code)
            servers = answer.by_resource_server
            mine = servers[access.TRANSFER_SERVER]
            authorizer = globus_sdk.AccessTokenAuthorizer(servers[_AUTH_SERVER]["access_token"])
            who = globus_sdk.AuthClient(authorizer=authorizer).userinfo()
            identity = {"id": str(who["sub"]), "username": str(who["preferred_username"])}
            refresh, token, ends = (
                str(mine["refresh_token"]),
                str(mine["access_token"]),
                int(mine["expires_at_seconds"]),
            )
        with self.tokens.lock():
            former = [token for token in self.tokens.former() if token != refresh]
            where = self.tokens.keep(refresh, keyring=keyring)
            self.tokens.write(
                identity=identity,
                access_token=token,
                expires_at=ends,
                of=self.tokens.mark(refresh),
                renewed=int(self._now()),
                not_before=None,
            )
        self._revoke(client, former)
        lines = [f"logged in as {identity['username']} ({identity['id']}); the refresh token is in {where}"]
        if keyring and where != "the keyring":
            lines.append("the keyring could not be used")
        used = self.tokens.secret(fresh=True)[1]
        if used != where:
            lines.append(f"but {used} comes first: remove it, or this login is not used")
        return lines

    def prove(self, collections: Iterable[str], secret: str | None = None) -> list[str]:
        """Try out a service account's secret, keep it when it is given and good, and say in lines what was found."""
        access.check_service_urls(os.environ)
        if secret is not None or self.tokens.read(mend=True).get("logged_out"):
            tried = secret if secret is not None else self.tokens.elsewhere()
            with _asking():
                self._access().login_client(tried).oauth2_client_credentials_tokens(requested_scopes=access.TRANSFER)
        lines = []
        with self.tokens.lock():
            self.tokens.write(access_token=None, expires_at=None, not_before=None, logged_out=None)
            if secret is not None:
                lines = [f"the secret is good, and is kept in {self.tokens.keep(secret)}"]
        needed, gone = self._mapped(collections)
        if needed:
            with self.tokens.lock():
                known = self.tokens.read().get("consents", [])
                consents = sorted({*known, *(access.consent_for(each) for each in needed)})
                self.tokens.write(consents=consents, access_token=None, expires_at=None)
            self._call("get_submission_id")
        lines.append(f"a service account: {self.client}@clients.auth.globus.org; its secret works")
        lines += [f"consent given for the data of collection {collection}" for collection in needed]
        return lines + [f"collection {collection} is not there, as far as this identity can see" for collection in gone]

    def _mapped(self, collections: Iterable[str]) -> tuple[list[str], list[str]]:
        """Those collections whose data need a consent, and those that are not there."""
        found, gone = [], []
        service = self._access()
        self._call("get_submission_id", service=service)
        for collection in sorted({each.lower() for each in collections}):
            try:
                document = service.call("get_endpoint", collection, read=lambda answer: dict(answer.data))
            except Definite:
                gone.append(collection)
                continue
            except CarrierBarred as barred:
                if barred.facts.get("everywhere", True):
                    raise
                gone.append(collection)  # it cannot be seen, so it cannot be asked about
                continue
            if document.get("entity_type") == "GCSv5_mapped_collection" and not document.get("high_assurance"):
                found.append(collection)
        return found, gone

    def _call(self, method: str, *arguments: Any, service: Access | None = None, **options: Any) -> Any:
        try:
            return (service or self._access()).call(method, *arguments, read=lambda answer: answer.data, **options)
        except Definite as refusal:
            raise CarrierRefused(carrier=KIND, why=refusal.why) from None

    # -- whoami and logout -----------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """Who this node is, proved by asking the service; times in UTC."""
        pending = self._call("task_list", limit=1, filter={"status": "ACTIVE,INACTIVE"})
        kept = self.tokens.current()
        identity = kept.get("identity") or {}
        if not self.person:
            identity = {"id": self.client, "username": f"{self.client}@clients.auth.globus.org"}
        return {
            "kind": "person" if self.person else "service account",
            "username": identity.get("username"),
            "identity": identity.get("id"),
            "client": self.client,
            "secret_in": self.tokens.secret()[1],
            "access_until": _shown(kept.get("expires_at")),
            "renewed": _shown(kept.get("renewed")),
            "consents": access.collections_in(kept.get("consents", [])),
            "pending_tasks": pending.get("total"),
        }

    def logout(self) -> list[str]:
        """Revoke what was got and remove it here; when the service cannot be asked, nothing is removed."""
        access.check_service_urls(os.environ)
        with self.tokens.lock():
            tokens = self.tokens.held()
        try:
            secret, where = self.tokens.secret()
        except (SecretMissing, SecretUnsafe):
            secret, where = "", self.tokens.path
        if not tokens and not secret:
            with self.tokens.lock():
                self.tokens.forget()
            return ["nobody was logged in, as far as can be seen from here; nothing is submitted before the next login"]
        unrevoked = bool(tokens) and not (self.person or secret)
        if tokens and not unrevoked:
            self._revoke(self._access().login_client(secret or None), tokens, strict=True)
        with self.tokens.lock():
            self.tokens.forget()
        if self.person:
            lines = ["logged out: the login is revoked at Globus and removed here"]
            if where not in (self.tokens.path, "the keyring"):
                lines.append(f"the revoked refresh token stays in {where}: remove it yourself")
            return lines
        if unrevoked:
            return [
                "logged out: nothing is submitted before the next 'libtool login'",
                "without the client secret the access token could not be revoked; it ends by itself within two days",
            ]
        kept = f" and stays in {where}" if where != self.tokens.path else ""
        return [
            "logged out: nothing is submitted before the next 'libtool login'",
            f"the client secret itself still works at Globus{kept}: delete it on the application's page if it was seen",
        ]

    @staticmethod
    def _revoke(client: Any, tokens: Iterable[str], *, strict: bool = False) -> None:
        """Revoke tokens; one that Globus does not take any more is as good as revoked."""
        for token in tokens:
            try:
                client.oauth2_revoke_token(token)
            except globus_sdk.GlobusAPIError as error:
                if strict and (error.http_status >= 500 or error.http_status == 429):
                    raise CarrierUnknown(carrier=KIND, why=f"Globus Auth answered {error.http_status}") from None
            except globus_sdk.NetworkError:
                if strict:
                    raise CarrierUnknown(carrier=KIND, why="Globus Auth cannot be reached") from None


@contextmanager
def _asking() -> Iterator[None]:
    """Errors of Globus Auth in a login, made ours."""
    try:
        yield
    except globus_sdk.GlobusAPIError as error:
        body = error.raw_json if isinstance(error.raw_json, dict) else {}
        said = body.get("error") or error.http_status
        if error.http_status >= 500 or error.http_status == 429:
            raise CarrierUnknown(carrier=KIND, why=f"Globus Auth answered {error.http_status}") from None
        if said == "invalid_client":
            why = "Globus does not accept globus_client_id with this secret, and what was kept is unchanged"
            how = "Compare both with the application's page."
        else:
            why = "Globus does not know this code" if said == "invalid_grant" else f"Globus Auth refused: {said}"
            how = "Run 'libtool login' again; each code belongs to one address, and is good once and for ten minutes."
        raise PersonNeeded(why=why, how=how) from None
    except globus_sdk.NetworkError:
        raise CarrierUnknown(carrier=KIND, why="Globus Auth cannot be reached") from None
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CarrierUnknown(carrier=KIND, why="Globus Auth's answer makes no sense") from None


def _shown(seconds: Any) -> str | None:
    if not isinstance(seconds, (int, float)) or not 0 < seconds < time.time() + 10**10:
        return None
    return show_time(datetime.fromtimestamp(seconds, timezone.utc))
