"""The way to Globus: one authorised client per run, and every error made one of ours.

An answer means something only if the service gave it: 401 is a person's matter, 4xx is definite, and everything else
(time-outs, 429, 5xx, half an answer) is unknown. The run is repeated by cron, so nothing is waited for in here; what
the service asks to wait is kept and respected by every later run.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import globus_sdk
from globus_sdk import transport
from globus_sdk.scopes import TransferScopes

from libtool.errors import CarrierBarred, CarrierBusy, CarrierUnknown, SecretMissing, SecretUnsafe, ServiceUnsafe
from libtool.seams import seam

KIND = "globus"
TRANSFER = str(TransferScopes.all)
TRANSFER_SERVER = "transfer.api.globus.org"
#: Where the SDK finds another service than the public one.
SERVICE_URLS = ("GLOBUS_SDK_SERVICE_URL_AUTH", "GLOBUS_SDK_SERVICE_URL_TRANSFER")
#: Longest silence of the service, in seconds.
TIMEOUT = 30.0
#: Longest time that the service may ask us to wait, in seconds.
LONGEST_WAIT = 3600.0
_LOGIN = "Run 'libtool login'."


class Definite(Exception):
    """The service said no, and what it means is for the caller to say."""

    def __init__(self, status: int, code: str, why: str) -> None:
        super().__init__(why)
        self.status, self.code, self.why = status, code, why


class Access:
    """Globus as this node may use it."""

    def __init__(self, client: str, tokens: Any, now: Callable[[], float] = time.time) -> None:
        check_service_urls(os.environ)
        self.client, self.tokens, self._now = client, tokens, now
        self._transfer: globus_sdk.TransferClient | None = None
        self._trouble: Exception | None = None

    # -- calls -------------------------------------------------------------------------------------------------------

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the SDK's TransferClient; raises CarrierUnknown, CarrierBusy, CarrierBarred or Definite."""
        return self._asking(lambda client: _sound(getattr(client, method)(*arguments, **options)))

    def pages(self, method: str, task: str) -> Iterable[Mapping[str, Any]]:
        """All entries of a list about a task, however many pages it has; nothing when one page cannot be had."""

        def collect(client: globus_sdk.TransferClient) -> list[Any]:
            found: list[Any] = []
            for page in getattr(client.paginated, method)(task):
                found += _sound(page)["DATA"]
            return found

        return cast("list[Mapping[str, Any]]", self._asking(collect))

    def _asking(self, deed: Callable[[globus_sdk.TransferClient], Any]) -> Any:
        waits = self.tokens.read().get("not_before", 0) - self._now()
        if 0 < waits <= LONGEST_WAIT:
            raise CarrierUnknown(carrier=KIND, why=f"it asked to be left alone for {waits:.0f} more seconds")
        for last in (False, True):
            try:
                seam("globus: call")
                answer = deed(self._open())
                seam("globus: answer")
                return answer
            except globus_sdk.GlobusAPIError as error:
                if not last and (self._consented(error) or self._without_consents(error)):
                    continue
                raise self._meant(error) from None
            except globus_sdk.NetworkError as error:
                raise CarrierUnknown(carrier=KIND, why=_brief(error)) from None
            except (globus_sdk.GlobusError, ValueError, TypeError, KeyError, AttributeError) as error:
                why = f"its answer makes no sense ({type(error).__name__})"
                raise CarrierUnknown(carrier=KIND, why=why) from None
        raise AssertionError

    def _open(self) -> globus_sdk.TransferClient:
        """The client; a trouble with the secret is looked into once per run."""
        if self._trouble is not None:
            raise self._trouble
        if self._transfer is None:
            try:
                authorizer = self.authorizer()
            except (SecretMissing, SecretUnsafe) as trouble:
                self._trouble = CarrierBarred(
                    carrier=KIND,
                    why=trouble.reason,
                    how=_LOGIN if isinstance(trouble, SecretMissing) else trouble.advice,
                )
                raise self._trouble from None
            self._transfer = globus_sdk.TransferClient(
                authorizer=authorizer, transport=_transport(), retry_config=_retries()
            )
        return self._transfer

    # -- tokens --------------------------------------------------------------------------------------------------------

    def login_client(self, secret: str | None = None) -> Any:
        """The SDK's client of this application at Globus Auth."""
        options: dict[str, Any] = {"transport": _transport(), "retry_config": _retries()}
        if self.tokens.person:
            return globus_sdk.NativeAppAuthClient(self.client, **options)
        return globus_sdk.ConfidentialAppAuthClient(self.client, secret or self.tokens.secret()[0], **options)

    def authorizer(self) -> Any:
        """What renews the access token: with the kept one at first, under the node's lock when that has ended."""
        secret, _ = self.tokens.secret()
        kept = self.tokens.read()
        client = self.login_client(secret)
        # An access token that was never good makes the SDK get one when it is needed, and not before.
        first = {"access_token": kept.get("access_token", "none"), "expires_at": int(kept.get("expires_at", 0))}
        if self.tokens.person:
            return _Person(self.tokens, secret, client, on_refresh=self._renewed, **first)
        return _Application(self.tokens, client, self._scopes(), on_refresh=self._renewed, **first)

    def _scopes(self) -> str:
        """What the application asks for: Transfer, with the consents that collections were found to need."""
        return with_consents(self.tokens.read().get("consents", []))

    def _renewed(self, answer: Any) -> None:
        """Keep what a renewal gave; the lock is held."""
        (token,) = answer.by_resource_server.values()
        refresh = token.get("refresh_token")
        if self.tokens.person and refresh and refresh != self.tokens.secret()[0]:
            self.tokens.rotate(refresh)
        self.tokens.write(
            access_token=token["access_token"],
            expires_at=int(token["expires_at_seconds"]),
            scope=token.get("scope"),
            renewed=int(self._now()),
        )

    def _consented(self, error: globus_sdk.GlobusAPIError) -> bool:
        """Note which consent a collection asks for; whether that was all that was needed, as for an application."""
        needed = _consents_of(error)
        if not needed:
            return False
        with self.tokens.lock():
            known = self.tokens.read().get("consents", [])
            self.tokens.write(consents=sorted({*known, *needed}))
            if self.tokens.person:
                return False
            self.tokens.write(access_token=None, expires_at=None)
        self._transfer = None  # the next one asks for the consents, too
        return True

    def _without_consents(self, error: globus_sdk.GlobusAPIError) -> bool:
        """Forget the consents when Globus Auth does not know one of them (its collection is gone, perhaps)."""
        if not isinstance(error, globus_sdk.AuthAPIError) or self.tokens.person or error.http_status != 400:
            return False
        with self.tokens.lock():
            known = self.tokens.read().get("consents")
            self.tokens.write(consents=None)
        self._transfer = None
        return bool(known)

    # -- what errors mean ------------------------------------------------------------------------------------------------

    def _meant(self, error: globus_sdk.GlobusAPIError) -> Exception:
        status, code, why = error.http_status, str(error.code or ""), _words(error)
        if isinstance(error, globus_sdk.AuthAPIError):
            return self._auth_meant(error, status)
        if needed := _consents_of(error):
            who = ", ".join(collections_in(needed)) or "a collection"
            how = _LOGIN if self.tokens.person else "Let its owner permit this application, then run 'libtool login'."
            return CarrierBarred(carrier=KIND, why=f"consent for {who} is missing", how=how, everywhere=False)
        if error.info.authorization_parameters:
            asked = error.info.authorization_parameters
            domains = ", ".join(asked.session_required_single_domain or [])
            why = f"a collection asks for a fresh login{f' with an identity of {domains}' if domains else ''} ({why})"
            return CarrierBarred(carrier=KIND, why=why, how=_LOGIN, everywhere=False)
        if status == 401:
            return CarrierBarred(carrier=KIND, why=f"Globus does not accept the login ({why})", how=_LOGIN)
        if status in (429, 503):
            return self._wait(error)
        if "TooManyPendingJobs" in code:
            return CarrierBusy(
                carrier=KIND, why="too many tasks of this identity are pending at Globus", everywhere=True
            )
        if "GCDisconnected" in code or "GCPaused" in code:
            return CarrierBusy(carrier=KIND, why=f"a personal endpoint is not connected ({why})", everywhere=False)
        if status >= 500:
            return CarrierUnknown(carrier=KIND, why=why)
        if status == 403:
            how = "'libtool whoami' names the identity; let the owners of both collections permit it."
            return CarrierBarred(carrier=KIND, why=f"permission denied ({why})", how=how, everywhere=False)
        if "EndpointNotFound" in code:
            how = "Compare globus_local_endpoint_id here and destination_endpoint there with the ids in the Globus web app."
            return CarrierBarred(carrier=KIND, why=f"there is no such collection ({why})", how=how, everywhere=False)
        return Definite(status, code, why)

    def _auth_meant(self, error: globus_sdk.GlobusAPIError, status: int) -> Exception:
        body = error.raw_json if isinstance(error.raw_json, dict) else {}
        said = str(body.get("error") or error.code or "")
        if said == "invalid_grant":
            why = "Globus no longer accepts the stored login (revoked, replaced, or unused for six months)"
            return CarrierBarred(carrier=KIND, why=why, how=_LOGIN)
        if said == "invalid_client" or status in (401, 403):
            why = "Globus does not accept globus_client_id with its secret"
            return CarrierBarred(
                carrier=KIND, why=why, how="Compare both with the application's page; then run 'libtool login'."
            )
        if status in (429, 503):
            return self._wait(error)
        if 400 <= status < 500:
            return CarrierBarred(carrier=KIND, why=f"Globus Auth refused: {said or status}", how=_LOGIN)
        return CarrierUnknown(carrier=KIND, why=f"Globus Auth answered {status}")

    def _wait(self, error: globus_sdk.GlobusAPIError) -> Exception:
        """The service has no time now; how long it wants to be left alone holds for other runs, too."""
        asked = str((error.headers or {}).get("Retry-After", ""))
        if asked.isdecimal() and int(asked):
            with self.tokens.lock():
                self.tokens.write(not_before=int(self._now() + min(int(asked), LONGEST_WAIT)))
        said = "too many requests" if error.http_status == 429 else "it is not available now"
        return CarrierUnknown(carrier=KIND, why=f"{said} (HTTP {error.http_status})")


class _Locked:
    """Renews under the node's lock, and first looks whether another process has just done so."""

    def __init__(self, tokens: Any, *arguments: Any, **options: Any) -> None:
        self._tokens = tokens
        super().__init__(*arguments, **options)

    def ensure_valid_token(self) -> None:
        """Take over what another process renewed, else renew."""
        me = cast(Any, self)
        if me.expires_at is not None and time.time() <= me.expires_at - 60:
            return
        with self._tokens.lock():
            kept = self._tokens.read()
            token = kept.get("access_token")
            if token and token != me.access_token and time.time() <= kept.get("expires_at", 0) - 60:
                me.access_token, me.expires_at = token, kept["expires_at"]
                return
            if self._tokens.person:
                me.refresh_token = self._tokens.secret()[0]
            super().ensure_valid_token()  # type: ignore[misc]


class _Person(_Locked, globus_sdk.RefreshTokenAuthorizer):
    """A person's refresh token."""


class _Application(_Locked, globus_sdk.ClientCredentialsAuthorizer):
    """A service account."""


def check_service_urls(environment: Mapping[str, str]) -> None:
    """Raise ServiceUnsafe when the SDK would talk over plain http to anything but this machine."""
    for variable in SERVICE_URLS:
        parts = urlsplit(environment.get(variable, ""))
        if parts.scheme == "http" and not _loopback(parts.hostname):
            raise ServiceUnsafe(variable=variable, url=environment[variable])


def other_service(environment: Mapping[str, str]) -> str:
    """The address of the service, when it is not the public one."""
    return next((environment[name] for name in SERVICE_URLS if environment.get(name)), "")


def _loopback(host: str | None) -> bool:
    return host in ("localhost", "::1") or bool(re.fullmatch(r"127(\.\d{1,3}){3}", host or ""))


def with_consents(needed: Iterable[str]) -> str:
    """The Transfer scope with these scopes as dependencies; ``needed`` as ConsentRequired names them."""
    scopes = sorted(set(needed))
    inner = re.findall(r"\[(.*)\]", " ".join(scopes))
    parts = sorted({part for each in inner for part in each.split()})
    return f"{TRANSFER}[{' '.join(parts)}]" if parts else TRANSFER


def consent_for(collection: str) -> str:
    """The scope that consents to the data of a mapped collection."""
    return f"{TRANSFER}[*https://auth.globus.org/scopes/{collection}/data_access]"


def _consents_of(error: globus_sdk.GlobusAPIError) -> list[str]:
    """The scopes that an error asks consent for; only those that one can be for."""
    if not error.info.consent_required:
        return []
    asked = error.info.consent_required.required_scopes or []
    return [scope for scope in asked if isinstance(scope, str) and collections_in([scope]) and len(scope) < 1000][:20]


def collections_in(scopes: Iterable[str]) -> list[str]:
    """The collections whose data some scopes consent to."""
    return sorted({found for scope in scopes for found in re.findall(r"/scopes/([0-9a-fA-F-]{36})/data_access", scope)})


def _words(error: globus_sdk.GlobusAPIError) -> str:
    """What the service said, with what its support asks for."""
    said = " ".join(str(error.message or error.http_reason or error.http_status).split())[:300]
    request = f", request {error.request_id}" if error.request_id else ""
    return f"{said} [HTTP {error.http_status}{f' {error.code}' if error.code else ''}{request}]"


def _brief(error: Exception) -> str:
    """A network error without the request's content."""
    return "it took too long" if "Timeout" in type(error).__name__ else "it cannot be reached"


def _sound(answer: Any) -> Any:
    """The answer, when it is the JSON object that it should be."""
    if not isinstance(answer.data, dict):
        raise ValueError("no JSON object")
    return answer


def _transport() -> transport.RequestsTransport:
    return transport.RequestsTransport(http_timeout=TIMEOUT)


def _retries() -> transport.RetryConfig:
    """A connection that broke is tried once more, since it may only have grown old; the rest is cron's matter."""
    return transport.RetryConfig(
        max_retries=1, backoff=lambda context: 0.1, retry_after_status_codes=(), transient_error_status_codes=()
    )
