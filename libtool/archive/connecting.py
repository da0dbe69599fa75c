"""Connecting two librarians: the blocks that their operators hand each other, and what follows from one.

The first operator makes an *invitation*, the second takes it and makes the *reply*, the first takes that. Each block
holds what the other side needs to call its author: address, account, password or keys. Names come from the two
configurations, levels from the way that files shall flow; what disagrees is refused before anything is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from libtool.archive import accounts, librarians
from libtool.archive.hands import Host
from libtool.errors import LibtoolError, PeerDeniesUs, PeerUnreachable, Refused, UnknownUser
from libtool.names import is_librarian_name, shown
from libtool.peers import features, messages
from libtool.states import AuthLevel

INVITATION, REPLY = "invitation", "reply"
_BEGIN, _END = "-----BEGIN LIBTOOL CONNECTION-----", "-----END LIBTOOL CONNECTION-----"
_NEEDED = ("kind", "from", "to", "url", "files")
_MADE_ANEW = "Have the other side run 'libtool connect' again, and take the whole block."


@dataclass(frozen=True, slots=True)
class Flow:
    """Which way files go between two librarians."""

    sends: frozenset[tuple[str, str]]  #: (from, to), one pair or both

    @classmethod
    def of(cls, here: str, there: str, word: str) -> Flow:
        """``send``, ``receive`` or ``both``, as seen from ``here``."""
        pairs = {"send": {(here, there)}, "receive": {(there, here)}, "both": {(here, there), (there, here)}}
        return cls(frozenset(pairs[word]))

    @classmethod
    def read(cls, text: str) -> Flow:
        """The spelling of a block: ``a -> b`` or ``a <-> b``."""
        words = text.split()
        if len(words) != 3 or words[1] not in ("->", "<->") or words[0] == words[2]:
            raise Refused(why="the block does not say which way files flow", how=_MADE_ANEW)
        one, arrow, other = words
        return cls(frozenset({(one, other), (other, one)} if arrow == "<->" else {(one, other)}))

    def __str__(self) -> str:
        one, other = min(self.sends)
        return f"{one} {'<->' if len(self.sends) == 2 else '->'} {other}"

    def level(self, account: str) -> AuthLevel:
        """What the librarian ``account`` needs at the other one: whoever sends must be able to add."""
        return AuthLevel.READAPPEND if any(sender == account for sender, _ in self.sends) else AuthLevel.CALLBACK


@dataclass(frozen=True, slots=True)
class Block:
    """What one operator hands to the other. It is named like its lines."""

    kind: str
    sender: str
    to: str
    url: str
    flow: Flow
    password: str | None = None  #: of the account ``to`` at ``sender``; None over ssh
    key: str | None = None  #: the sender's public key for ssh
    hosts: tuple[str, ...] = field(default=())  #: the keys by which the sender's sshd shows itself
    reached: str | None = None  #: in a reply: how its author reaches ``to``, as it was invited

    def text(self) -> str:
        """The block, to be pasted into a message."""
        lines = [f"kind: {self.kind}", f"from: {self.sender}", f"to: {self.to}", f"url: {self.url}"]
        lines.append(f"files: {self.flow}")
        lines += [f"password: {self.password}"] if self.password is not None else []
        lines += [f"key: {self.key}"] if self.key is not None else []
        lines += [f"host key: {key}" for key in self.hosts]
        lines += [f"your url: {self.reached}"] if self.reached is not None else []
        return "\n".join([_BEGIN, *lines, f"check: {_check(lines)}", _END])


def _check(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()[:8]


def read(text: str) -> Block:
    """The block in a text that may hold more, such as a mail with ``>`` before its lines."""
    lines = [line.strip().lstrip("> ").strip() for line in text.splitlines()]
    if _BEGIN not in lines or _END not in lines[lines.index(_BEGIN) :]:
        why = "there is no block that begins with -----BEGIN and ends with -----END LIBTOOL CONNECTION-----"
        raise Refused(why=why, how="Take the whole block, with its first and last line.")
    begin = lines.index(_BEGIN)
    inside = [line for line in lines[begin + 1 : lines.index(_END, begin)] if line]
    if not inside or inside[-1] != f"check: {_check(inside[:-1])}":
        raise Refused(why="the block was changed or cut on its way", how=_MADE_ANEW)
    found: dict[str, list[str]] = {}
    for line in inside[:-1]:
        name, _, value = line.partition(": ")
        found.setdefault(name, []).append(value)
    return _block({name: values[0] for name, values in found.items()}, tuple(found.get("host key", ())))


def _block(found: Mapping[str, str], hosts: tuple[str, ...]) -> Block:
    sound = all(name in found for name in _NEEDED) and found["kind"] in (INVITATION, REPLY)
    if not sound or not is_librarian_name(found["from"]) or not is_librarian_name(found["to"]):
        raise Refused(why="the block lacks something, or is of another kind", how=_MADE_ANEW)
    flow = Flow.read(found["files"])
    if {name for pair in flow.sends for name in pair} != {found["from"], found["to"]}:
        raise Refused(why="the block's names do not agree with each other", how=_MADE_ANEW)
    password, key, reached = found.get("password"), found.get("key"), found.get("your url")
    return Block(found["kind"], found["from"], found["to"], found["url"], flow, password, key, hosts, reached)


# -- what follows -------------------------------------------------------------------------------------------------


def check_name(host: Host, name: str) -> None:
    """Raise unless another librarian can have this name."""
    if not is_librarian_name(name) or name == host.settings.name:
        why = (
            f"'{shown(name)}' is {'this librarian itself' if name == host.settings.name else 'no name of a librarian'}"
        )
        raise Refused(why=why, how="Give the other librarian's name, as in its own configuration.")


def check_level(name: str, flow: Flow) -> None:
    """Raise when an account of this name exists with another level than the flow needs."""
    try:
        found = accounts.get(name).auth_level
    except UnknownUser:
        return
    if found is not flow.level(name):
        raise Refused(
            why=f"the account {name} here has the level {found.name}, and for {flow} it needs {flow.level(name).name}",
            how=f"Run 'libtool delete-user --username {name}' and this again, if that is the way files shall flow.",
        )


def check_block(host: Host, block: Block, *, allow_plain_http: bool, allow_exec: bool, replace: bool) -> None:
    """Raise unless a block is for us and fits to what is here; changes nothing. Its address was chosen by somebody else:
    one that would start a program here, or moves a neighbour that is known, needs a word of ours."""
    own = host.settings.name
    if block.to != own:
        raise Refused(
            why=f"the block is for '{block.to}', and this librarian is '{own}'",
            how="Use --config to name the right one, or have the other side run 'libtool connect' with the right name.",
        )
    check_name(host, block.sender)
    check_level(block.sender, block.flow)
    if block.kind == REPLY:
        accounts.get(block.sender)
    librarians.check_url(block.url, None, local=True, allow_plain_http=allow_plain_http)
    librarians.check_account(block.url, _authenticator(block))
    if block.url.startswith("exec:") and not allow_exec:
        why = f"the block would have this machine run a librarian with the configuration {block.url[7:]}"
        raise Refused(why=why, how="If that is a librarian of yours on this machine, add --allow-exec.")
    known = next((row for row in librarians.everybody() if row.name == block.sender), None)
    if known is not None and _place(known.url, known.port) != _place(block.url, None) and not replace:
        why = f"librarian {known.name} is registered at {known.url}, and the block says {block.url}"
        raise Refused(why=why, how="If you know that it moved, add --replace. Nothing was changed.")


def others_at(name: str, url: str) -> list[str]:
    """Other neighbours that are reached through the same sshd."""
    rows = [row for row in librarians.everybody() if row.url.startswith("ssh:") and row.name != name]
    return [row.name for row in rows if _place(row.url, row.port)[2:4] == _place(url, None)[2:4]]


def _place(url: str, port: int | None) -> tuple[str, str | None, str | None, int | None, str]:
    """What makes an address: how, as whom, where, at which port, below which path."""
    parts = urlsplit(url)
    usual = port or librarians.usual_port(url) or (22 if parts.scheme == "ssh" else None)
    return parts.scheme, parts.username, parts.hostname, usual, parts.path.rstrip("/")


def _authenticator(block: Block) -> str:
    return "" if block.password is None else f"{block.to}:{block.password}"


def offer(
    host: Host, to: str, flow: Flow, url: str, key: str | None, hosts: list[str], answer: Block | None = None
) -> Block:
    """Make the account of ``to`` here, or give it a new password, and put all that it needs into a block: an invitation,
    or the reply to one.

    The former password stays good until a day after the new one is used, so that this can be repeated at any time.
    """
    check_level(to, flow)
    by_key = url.startswith("ssh:")
    try:
        accounts.get(to)
        password = None if by_key else accounts.renew(host, to)
    except UnknownUser:
        password = accounts.create(host, to, flow.level(to), "" if by_key else None)
    kind, reached = (INVITATION, None) if answer is None else (REPLY, answer.url)
    return Block(kind, host.settings.name, to, url, flow, password, key, tuple(hosts), reached)


def take(host: Host, block: Block, *, check: bool) -> None:
    """Register the block's author, or give it its new address and account; with ``check`` only if it answers us."""
    announced = _tried(host, block) if check else None
    librarians.add(host, block.sender, block.url, None, _authenticator(block), announced, replace=True)


def _tried(host: Host, block: Block) -> str | None:
    """What the block's author can do, after a sign of life under the account that the block gives us."""
    peer = host.stranger(block.sender, block.url, None, _authenticator(block))
    how = "Nothing was registered. Mend that, and take the same block again."
    try:
        librarians.probe(peer)
        if peer.can(features.PING_BACK):
            said = peer.ask("libtool/ping/back", messages.Nothing(), messages.PingedBack)
            if said.outdated:
                why = f"{block.sender} has made a newer block since, and the password in this one ends soon"
                raise Refused(why=why, how="Nothing was changed. Take the newest block, or begin again.")
        return peer.announced
    except PeerDeniesUs as trouble:
        raise Refused(
            why=trouble.reason, how="Nothing was registered. Take the newest block, or begin again."
        ) from None
    except PeerUnreachable as trouble:
        raise Refused(why=trouble.reason, how=how) from None
    finally:
        peer.close()


def there_and_back(host: Host, name: str) -> tuple[str, str | None]:
    """Why we do not reach a neighbour, and why it does not reach us; empty when all is well, None when it cannot tell."""
    row = librarians.get(name)
    try:
        peer = host.peer(row)
    except LibtoolError as trouble:
        return trouble.reason, None
    try:
        librarians.probe(peer)
        librarians.keep_acquaintance(row, peer, host.now())
        if not peer.can(features.PING_BACK):
            return "", None
        said = peer.ask("libtool/ping/back", messages.Nothing(), messages.PingedBack)
        return "", "" if said.reached else (said.reason or "it did not say why")
    except LibtoolError as trouble:
        return ("", trouble.reason) if peer.answered else (trouble.reason, None)
    finally:
        peer.close()
