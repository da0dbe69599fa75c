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
from contextlib import suppress
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import globus_sdk
from globus_sdk import transport
from globus_sdk.scopes import TransferScopes

from libtool.errors import (
    CarrierBarred,
    CarrierBusy,
    CarrierUnknown,
    LockTaken,
    SecretMissing,
    SecretUnsafe,
    ServiceUnsafe,
)
from libtool.seams import seam

KIND = "globus"
TRANSFER = str(TransferScopes.all)
TRANSFER_SERVER = "transfer.api.globus.org"
#: Where the SDK finds another service than the public one.
SERVICE_URLS = ("GLOBUS_SDK_SERVICE_URL_AUTH", "GLOBUS_SDK_SERVICE_URL_TRANSFER")
#: Longest silence of the service, in seconds.
TIMEOUT = 30.0
#: Collections whose data one login consents to at most.
MOST_CONSENTS = 100
#: Longest time that the service may ask us to wait, in seconds.
LONGEST_WAIT = 3600.0
_LOGIN = "Run 'libtool login'."
T = TypeVar("T")


class Definite(Exception):
    """The service said no, and what it means is for the caller to say."""

    def __init__(self, status: int, code: str, why: str) -> None:
        super().__init__(why)
        self.status, self.code, self.why = status, code, why

    @property
    def not_found(self) -> bool:
        """Whether the service itself said that there is no such thing; a proxy's error page says nothing."""
        return "NotFound" in self.code


class Access:
    """Globus as this node may use it."""

    def __init__(self, client: str, tokens: Any, now: Callable[[], float] = time.time) -> None:
        check_service_urls(os.environ)
        self.client, self.tokens, self._now = client, tokens, now
        self._transfer: globus_sdk.TransferClient | None = None
        self._trouble: Exception | None = None
        self._once = False

    # -- calls -------------------------------------------------------------------------------------------------------

    def call(self, method: str, *arguments: Any, read: Callable[[Any], T], once: bool = False, **options: Any) -> T:
        """Call a method of the SDK's TransferClient and ``read`` its answer, which may turn out to be no answer.

        ``once``: a request whose answer is lost is not sent again, since it would do something else the second time.
        Raises CarrierUnknown, CarrierBusy, CarrierBarred or Definite; the first and the third with the service's
        ``code`` when it gave one.
        """
        self._once = once
        return self._asking(lambda client: read(_sound(getattr(client, method)(*arguments, **options))))

    def _not_twice(self, context: transport.RetryContext) -> transport.RetryCheckResult:
        """Looks before the SDK's own checks whether a request may be sent again."""
        if self._once and context.exception is not None:
            return transport.RetryCheckResult.do_not_retry
        return transport.RetryCheckResult.no_decision

    def pages(self, method: str, task: str) -> list[Mapping[str, Any]]:
        """All entries of a list about a task, however many pages it has; nothing when one page cannot be had."""

        def collect(client: globus_sdk.TransferClient) -> list[Mapping[str, Any]]:
            found: list[Mapping[str, Any]] = []
            for page in getattr(client.paginated, method)(task):
                found += entries(_sound(page))
            return found

        self._once = False
        return self._asking(collect)

    def _asking(self, deed: Callable[[globus_sdk.TransferClient], T]) -> T:
        for last in (False, True):
            try:
                self._leave_alone()
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
            except (SecretMissing, SecretUnsafe) as trouble:
                self._trouble = self._no_secret(trouble)
                raise self._trouble from None
            except LockTaken:
                why = "another process has been renewing the login for long"
                raise CarrierUnknown(carrier=KIND, why=why) from None
            except OSError as trouble:  # requests' own errors are NetworkErrors by now
                why = f"what it gave cannot be kept: {trouble.strerror or trouble}"
                raise CarrierUnknown(carrier=KIND, why=why) from None
            except (globus_sdk.GlobusError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
                why = f"its answer makes no sense ({type(error).__name__})"
                raise CarrierUnknown(carrier=KIND, why=why, everywhere=False) from None
        raise AssertionError

    def _leave_alone(self) -> None:
        """Respect what the service asked for, in this run or another."""
        waits = self.tokens.read().get("not_before", 0) - self._now()
        if 0 < waits <= LONGEST_WAIT:
            raise CarrierUnknown(carrier=KIND, why=f"it asked to be left alone for {waits:.0f} more seconds")

    def _open(self) -> globus_sdk.TransferClient:
        """The client; a trouble with the secret is looked into once per run."""
        if self._trouble is not None:
            raise self._trouble
        if self._transfer is None:
            authorizer = self.authorizer()
            retries = _retries()
            retries.checks.register_check(self._not_twice)
            self._transfer = globus_sdk.TransferClient(
                authorizer=authorizer, transport=_transport(), retry_config=retries
            )
        return self._transfer

    def _no_secret(self, trouble: SecretMissing | SecretUnsafe) -> CarrierBarred:
        """What is to be done about a secret that is not there, or that others may know."""
        how = _LOGIN if self.tokens.person else "Run 'libtool login --secret -'."
        if isinstance(trouble, SecretUnsafe):
            how = trouble.advice
        return CarrierBarred(carrier=KIND, why=trouble.reason, how=how, cause="secret")

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
        kept = self.tokens.current()
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
        secret = self.tokens.secret()[0]
        same_person = bool(self.tokens.current())
        refresh = token.get("refresh_token")
        if self.tokens.person and refresh and refresh != secret:
            self.tokens.rotate(refresh)
            secret = refresh
        if not same_person:  # whose secret it is has to be found out anew
            self.tokens.write(identity=None)
        self.tokens.write(
            access_token=token["access_token"],
            expires_at=int(token["expires_at_seconds"]),
            of=self.tokens.mark(secret),
            renewed=int(self._now()),
        )

    def _consented(self, error: globus_sdk.GlobusAPIError) -> bool:
        """Note which consent a collection asks for; whether that was all that was needed, as for an application."""
        needed = _consents_of(error)
        if not needed:
            return False
        with self.tokens.lock():
            known = self.tokens.read().get("consents", [])
            self.tokens.write(consents=sorted({*known[-MOST_CONSENTS:], *needed}))
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
            if known:
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
            return _barred("consent", f"consent for {who} is missing", how)
        if error.info.authorization_parameters:
            asked = error.info.authorization_parameters
            domains = ", ".join(asked.session_required_single_domain or [])
            why = f"a collection asks for a fresh login{f' with an identity of {domains}' if domains else ''} ({why})"
            return _barred("session", why, _LOGIN)
        if status == 401:
            return _barred("login", f"Globus does not accept the login ({why})", _LOGIN, everywhere=True)
        if status in (429, 503):
            return self._wait(error)
        if "TooManyPendingJobs" in code:
            return CarrierBusy(carrier=KIND, why="too many tasks of this identity are pending at Globus")
        if "GCDisconnected" in code or "GCPaused" in code:
            return CarrierBusy(carrier=KIND, why=f"a personal endpoint is not connected ({why})", everywhere=False)
        if status >= 500:
            return CarrierUnknown(carrier=KIND, why=why, everywhere=False, code=code)
        if status == 403:
            how = "'libtool whoami' names the identity; let the owners of both collections permit it."
            return _barred("permission", f"permission denied ({why})", how, code=code)
        return Definite(status, code, why)

    def _auth_meant(self, error: globus_sdk.GlobusAPIError, status: int) -> Exception:
        body = error.raw_json if isinstance(error.raw_json, dict) else {}
        said = str(body.get("error") or error.code or "")
        if said == "invalid_grant":
            why = "Globus no longer accepts the stored login (revoked, replaced, or unused for six months)"
            return _barred("login", why, _LOGIN, everywhere=True)
        if said == "invalid_client" or status in (401, 403):
            why = "Globus does not accept globus_client_id with its secret"
            how = "Compare both with the application's page; then run 'libtool login'."
            return _barred("login", why, how, everywhere=True)
        if status in (429, 503):
            return self._wait(error)
        if 400 <= status < 500:
            return _barred("login", f"Globus Auth refused: {said or status}", _LOGIN, everywhere=True)
        return CarrierUnknown(carrier=KIND, why=f"Globus Auth answered {status}")

    def _wait(self, error: globus_sdk.GlobusAPIError) -> Exception:
        """The service has no time now; how long it wants to be left alone holds for other runs, too."""
        asked = str((error.headers or {}).get("Retry-After", ""))
        if asked.isdecimal() and int(asked):
            with suppress(LockTaken, OSError), self.tokens.lock():
                self.tokens.write(not_before=int(self._now() + min(int(asked), LONGEST_WAIT)))
        said = "too many requests" if error.http_status == 429 else "it is not available now"
        return CarrierUnknown(carrier=KIND, why=f"{said} (HTTP {error.http_status})")


def _barred(cause: str, why: str, how: str, *, everywhere: bool = False, code: str = "") -> CarrierBarred:
    return CarrierBarred(carrier=KIND, why=why, how=how, cause=cause, everywhere=everywhere, code=code)


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
            kept = self._tokens.current()
            token = kept.get("access_token")
            if token and token != me.access_token and time.time() <= kept.get("expires_at", 0) - 60:
                me.access_token, me.expires_at = token, kept["expires_at"]
                return
            if self._tokens.person:
                me.refresh_token = self._tokens.secret(fresh=True)[0]
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
    """A network error without the request's content; the address shows a forgotten variable or a proxy."""
    request = getattr(getattr(error, "underlying_exception", None), "request", None)
    host = urlsplit(str(getattr(request, "url", "") or "")).netloc.rpartition("@")[2]
    what = f"{host} " if host else "it "
    return what + ("took too long" if "Timeout" in type(error).__name__ else "cannot be reached")


def entries(answer: Any) -> list[Mapping[str, Any]]:
    """The entries of a list; ValueError when it is none of objects."""
    found = answer["DATA"]
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ValueError("no list of objects")
    return found


def id_in(answer: Any, field: str) -> str:
    """An id in an answer; ValueError when it is none."""
    found = answer[field]
    if not isinstance(found, str) or not re.fullmatch(r"[0-9A-Za-z-]{8,64}", found):
        raise ValueError("no id")
    return found


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
