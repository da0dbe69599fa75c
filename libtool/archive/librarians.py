"""Direct neighbours: adding and removing them, switching them, and what we know of their health."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from libtool.archive import notices
from libtool.archive.hands import Host, Tally
from libtool.errors import (
    DatabaseBusy,
    LibrarianExists,
    LibtoolError,
    PeerDeniesUs,
    PeerUnreachable,
    Refused,
    UnknownLibrarian,
)
from libtool.models.base import writing
from libtool.models.tables import Librarian
from libtool.names import is_librarian_name, is_ssh_url, shown
from libtool.peers import messages
from libtool.peers.client import Peer

#: How long what a neighbour said it can do is believed.
FEATURES_AGE = timedelta(days=1)
#: How long a neighbour is waited for while it waits for us to say whether we reach it.
REACH_SECONDS = 20.0
#: How exact "last heard" is; a write per request would cost more than it tells.
_HEARD_STEP = timedelta(minutes=1)


def get(name: str, *, removed: bool = False) -> Librarian:
    """The neighbour of this name; UnknownLibrarian when there is none (or it was removed, unless ``removed``)."""
    found = Librarian.get_or_none(Librarian.name == name)
    if found is None or (found.removed and not removed):
        raise UnknownLibrarian(name=name)
    known: Librarian = found
    return known


def everybody() -> list[Librarian]:
    """All neighbours by name."""
    return list(Librarian.select().where(~Librarian.removed).order_by(Librarian.name))


def shuffled(query: Any) -> list[Librarian]:
    """Librarians in no fixed order, so that none is always the last when time is short."""
    found = list(query)
    random.shuffle(found)
    return found


def check_url(url: str, port: int | None, *, local: bool, allow_plain_http: bool) -> None:
    """Raise Refused unless ``url`` is one that may be registered; ``local``: on this machine's own command line."""
    how = "Give http(s)://host[/path] and a port, ssh://user@host, or exec:///absolute/path/to/config.yaml."
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  it is only looked at here
    except ValueError as wrong:
        raise Refused(why=f"'{url}' is no URL of a Librarian: {wrong}", how=how) from None
    if parts.scheme in ("exec", "ssh") and not local:
        why = f"a Librarian behind {parts.scheme}:// can only be registered on the command line of its neighbour's machine"
        raise Refused(why=why, how=how)
    if parts.scheme == "exec":
        if not parts.path.startswith("/") or parts.netloc or not url.isprintable():
            raise Refused(why=f"'{shown(url)}' names no absolute path", how=how)
        return
    if not url.isascii() or not url.isprintable() or " " in url:
        raise Refused(why=f"'{url}' is no URL of a Librarian: it holds more than printable ASCII", how=how)
    if port is not None and parts.port is not None and port != parts.port:
        raise Refused(why=f"'{url}' holds a port, and --port names another place for it", how=how)
    if parts.scheme == "ssh":
        if not is_ssh_url(url):
            raise Refused(why=f"'{url}' has not the form ssh://user@host", how=how)
        return
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        raise Refused(why=f"'{url}' is no URL of a Librarian", how=how)
    try:
        parts.hostname.encode("idna")
    except UnicodeError:
        raise Refused(why=f"'{url}' is no URL of a Librarian: no host can be called so", how=how) from None
    if parts.path.rstrip("/").endswith("/api/v2"):
        raise Refused(why=f"'{url}' is no URL of a Librarian: /api/v2 comes by itself", how="Leave it out.")
    if parts.scheme == "http" and not allow_plain_http and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        why = f"the Librarian at '{url}' is not reached over an encrypted line: passwords would be readable on the way"
        raise Refused(why=why, how="Use https, or add --allow-plain-http if the network is trusted.")


def check_account(url: str, authenticator: str) -> None:
    """Raise Refused unless this can be our account at a librarian; over ssh the key is the account."""
    if url.startswith("ssh:"):
        if authenticator:
            raise Refused(
                why="no password travels over ssh: the other side's authorized_keys names the account",
                how="Leave --authenticator out.",
            )
        return
    user, colon, password = authenticator.partition(":")
    if not (user and colon and password):
        raise Refused(
            why="the authenticator of a Librarian has the form USER:PASSWORD", how="Give --authenticator USER:PASSWORD."
        )
    if not authenticator.isascii() or not authenticator.isprintable():
        raise Refused(
            why="the authenticator holds more than printable ASCII, which stock librarians refuse", how="Change it."
        )


def check_free(host: Host, name: str) -> None:
    """Raise unless a librarian of this name may be registered."""
    if not is_librarian_name(name):
        raise Refused(why=f"'{shown(name)}' is no name of a Librarian", how="Give its name as in its configuration.")
    if name == host.settings.name:
        raise Refused(why=f"Librarian '{name}' is this one itself", how="Give the other librarian's name.")
    found = Librarian.get_or_none(Librarian.name == name)
    if found is not None and not found.removed:
        raise LibrarianExists(name=name, url=found.url)


def add(
    host: Host,
    name: str,
    url: str,
    port: int | None,
    authenticator: str,
    features: str | None = None,
    *,
    replace: bool = False,
) -> Librarian:
    """Register a neighbour, or bring one back that was removed, or with ``replace`` give one a new address and account;
    ``features``: what it has just said it can do (None: it was not asked)."""
    with writing("add librarian"):
        found = Librarian.get_or_none(Librarian.name == name)
        if not (replace and found is not None):
            check_free(host, name)
        row: dict[str, Any] = {"url": url, "port": port if port is not None else usual_port(url), "removed": False}
        row |= {"authenticator": host.conceal(authenticator) if authenticator else None, "features": features or ""}
        row["features_time"] = row["last_seen"] = host.now() if features is not None else None
        if found is None or found.removed:
            # What is known of an older registration stays, but for how far sending had come: what it lacks is found.
            row |= {"transfers_enabled": True, "sent_upto": 0}
        if found is None:
            Librarian.create(name=name, **row)
        else:
            Librarian.update(**row).where(Librarian.id == found.id).execute()
        return get(name)


def usual_port(url: str) -> int | None:
    """The port that a URL names or means; None for those that have none."""
    parts = urlsplit(url)
    return parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def remove(name: str) -> None:
    """Take a neighbour off the list; what was sent to it, and what is under way, stays remembered."""
    with writing("remove librarian"):
        if (
            not Librarian.update(removed=True, authenticator=None)
            .where(Librarian.name == name, ~Librarian.removed)
            .execute()
        ):
            raise UnknownLibrarian(name=name)


def is_removed(name: str) -> bool:
    """Whether there was a neighbour of this name, and may be again."""
    return bool(Librarian.select().where(Librarian.name == name, Librarian.removed).exists())


def set_transfers(name: str, enabled: bool) -> None:
    """Switch sending to a neighbour on or off; what is in flight is still settled."""
    with writing("switch librarian"):
        if not Librarian.update(transfers_enabled=enabled).where(Librarian.name == name, ~Librarian.removed).execute():
            raise UnknownLibrarian(name=name)


def probe(peer: Peer) -> messages.PingAnswer:
    """Ask for a sign of life that really needs our account; raises what :meth:`Peer.ask` raises."""
    answer: messages.PingAnswer = peer.ask("ping/logged", messages.Nothing(), messages.PingAnswer)
    return answer


def keep_acquaintance(librarian: Librarian, peer: Peer, now: datetime) -> None:
    """Write down, after a run, that the neighbour was seen and what it announced."""
    if not peer.answered:
        return
    with writing("last seen"):
        changes: dict[str, Any] = {"last_seen": now}
        if peer.announced is not None:
            changes |= {"features": peer.announced, "features_time": now}
        Librarian.update(**changes).where(Librarian.id == librarian.id).execute()


def get_acquainted(librarian: Librarian, peer: Peer, now: datetime) -> None:
    """Ask what the neighbour can do unless it told us within the day."""
    if librarian.features_time is None or now - librarian.features_time > FEATURES_AGE:
        probe(peer)


def heard(name: str, now: datetime) -> None:
    """An account made an authenticated call; if it is a neighbour's, that is written down, to the minute."""
    found = Librarian.get_or_none(Librarian.name == name)
    if found is not None and (found.last_heard is None or now - found.last_heard >= _HEARD_STEP):
        try:
            with writing("last heard"):
                Librarian.update(last_heard=now).where(Librarian.id == found.id).execute()
        except LibtoolError:
            pass  # a busy database is no reason to refuse a peer for the sake of a time stamp


def try_out(host: Host, name: str, url: str, port: int | None, authenticator: str | None) -> str | None:
    """Ask a librarian that is not registered (yet) for a sign of life under an account there; returns what it can do."""
    peer = host.stranger(name, url, port, authenticator)
    try:
        probe(peer)
        return peer.announced
    finally:
        peer.close()


def reach(host: Host, name: str) -> str:
    """Why a neighbour cannot be reached from here under our account there; empty when it can. Short: somebody waits."""
    row = Librarian.get_or_none(Librarian.name == name, ~Librarian.removed)
    if row is None:
        return f"no librarian named {name} is registered here"
    try:
        peer = host.peer(row, seconds=REACH_SECONDS)
    except LibtoolError as trouble:
        return trouble.reason
    try:
        probe(peer)
        return ""
    except LibtoolError as trouble:
        return trouble.reason
    finally:
        peer.close()


def ask(
    host: Host,
    librarian: Librarian,
    tally: Tally,
    what: str,
    owed: Callable[[], int],
    deed: Callable[[Peer], None],
) -> None:
    """Do ``deed`` with a neighbour; whatever goes wrong with it is told here, and holds up nobody else.

    ``what`` names the deed in notices, ``owed`` counts what is postponed when it cannot be done.
    """
    subject, peer = f"librarian {librarian.name}", None
    try:
        peer = host.peer(librarian)
        get_acquainted(librarian, peer, host.now())
        deed(peer)
        for kind in ("unreachable", "account", "removed", f"refuses {what}"):
            notices.over(host, tally, subject, kind)
    except DatabaseBusy:
        raise
    except PeerUnreachable as trouble:
        tally.postponed += max(1, owed())
        tally.details.append(f"{subject}: {trouble.text}")
        notices.trouble(host, tally, subject, "unreachable", trouble.text)
    except PeerDeniesUs as trouble:
        tally.postponed += max(1, owed())
        tally.person = True
        notices.trouble(host, tally, subject, "account", trouble.text, at_once=True)
    except LibtoolError as trouble:
        tally.postponed += max(1, owed())
        notices.trouble(host, tally, subject, f"refuses {what}", trouble.text, at_once=True)
    finally:
        if peer is not None:
            keep_acquaintance(librarian, peer, host.now())
            peer.close()
