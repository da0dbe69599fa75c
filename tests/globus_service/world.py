"""Everything the service remembers: the clock, collections, who there is, who may do what, tokens and tasks."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from tests.globus_service.faults import Faults
from tests.globus_service.tasks import Task, tidy

MAPPED = "GCSv5_mapped_collection"
HISTORY = timedelta(days=30)


@dataclass
class Collection:
    """A directory that files are moved from and to; tests may change every attribute at any time."""

    name: str
    root: str
    entity_type: str = "GCSv5_guest_collection"
    connected: bool = True
    paused: str | None = None  #: an administrator's message while tasks are paused
    gcp_paused: bool = False
    high_assurance: bool = False
    disable_verify: bool = False
    read_only: bool = False
    rename_supported: bool = True
    rename_replaces: bool = False  #: a file that lies at the target; as some kinds of storage do
    quota: int | None = None  #: bytes that still fit
    bandwidth: float | None = None  #: bytes per virtual second and task
    default_directory: str = "/"
    owner: str = "owner@example.org"
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def personal(self) -> bool:
        """Whether it is a Globus Connect Personal."""
        return self.entity_type.startswith("GCP_")

    @property
    def asks_consent(self) -> bool:
        """Whether tokens need its data_access."""
        return self.entity_type == MAPPED and not self.high_assurance


@dataclass
class Identity:
    """A person, or what a service account acts as."""

    id: str
    username: str


@dataclass
class ServiceAccount:
    """A confidential client."""

    id: str
    secret: str

    @property
    def identity(self) -> str:
        """The identity that it acts as."""
        return self.id

    @property
    def username(self) -> str:
        """The name of that identity."""
        return f"{self.id}@clients.auth.globus.org"


@dataclass
class NativeApp:
    """A client without a secret."""

    id: str


@dataclass
class Token:
    """An access or refresh token."""

    value: str
    client: str
    identity: str
    server: str  #: the resource server
    scope: str
    data_access: frozenset[str]  #: collections
    expires: datetime | None = None  #: None: a refresh token
    alive: bool = True
    family: str = ""  #: common to a refresh token, those that replaced it, and their access tokens


class World:
    """The state; everything is read and changed under ``lock``."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.now = datetime.now(timezone.utc)
        self.faults = Faults()
        self.url = ""
        self.rotate = False
        self.auto = False
        self.page = 100
        self.most_listed = 100_000
        self.most_pending = 100
        self.most_active = 0
        self.retry_every = 60.0
        self.visitor: Identity | None = None
        self.collections: dict[str, Collection] = {}
        self.clients: dict[str, ServiceAccount | NativeApp] = {}
        self.identities: dict[str, Identity] = {}
        self.tokens: dict[str, Token] = {}
        self.consents: dict[str, dict[str, list[str]]] = {}  #: identity → collection → clients
        self.rules: dict[str, list[tuple[str, str, str]]] = {}  #: collection → identity, path, r or rw
        self.submission_ids: set[str] = set()
        self.submitted: dict[str, Task] = {}  #: by submission_id
        self.tasks: list[Task] = []

    def unfinished(self, owner: str | None = None) -> list[Task]:
        """Tasks that have not ended, oldest first."""
        return [t for t in self.tasks if not t.ended and owner in (None, t.owner)]

    def accept(self, task: Task) -> None:
        """Take a task in."""
        self.tasks.append(task)
        self.submitted[task.submission_id] = task
        self.most_active = max(self.most_active, len(self.unfinished()))

    def consent(self, identity: str, collection: str, client: str) -> None:
        """Write down that this client may use an identity's data_access."""
        clients = self.consents.setdefault(identity, {}).setdefault(collection, [])
        if client not in clients:
            clients.append(client)

    def consented(self, token: Token, collection: Collection) -> bool:
        """Whether the token is enough for a collection that asks for consent."""
        if not collection.asks_consent:
            return True
        given = self.consents.get(token.identity, {}).get(collection.id, [])
        return collection.id in token.data_access and token.client in given

    def may(self, identity: str, collection: Collection, path: str, write: bool) -> bool:
        """Whether the rules let an identity use a path."""
        rules = self.rules.get(collection.id)
        if not rules:
            return True
        path = tidy(self.absolute(collection, path))
        return any(
            who == identity and (not write or what == "rw") and (path == where or path.startswith(where.rstrip("/") + "/"))
            for who, where, what in rules
        )

    def absolute(self, collection: Collection, path: str) -> str:
        """A path with ``/~/`` expanded."""
        if path == "/~" or path.startswith("/~/"):
            return collection.default_directory.rstrip("/") + "/" + path[3:]
        return path if path.startswith("/") else collection.default_directory.rstrip("/") + "/" + path

    def live(self, value: str) -> Token | None:
        """A token that is good now."""
        token = self.tokens.get(value)
        if token is None or not token.alive or (token.expires is not None and token.expires <= self.now):
            return None
        return token

    def revoke(self, what: str) -> None:
        """End a token with all that came from it, or every token of an identity."""
        meant = self.tokens.get(what)
        for token in self.tokens.values():
            same = meant is not None and meant.expires is None and token.family == meant.family
            if what in (token.value, token.identity) or same:
                token.alive = False

    def close_history(self, before: datetime | None = None) -> None:
        """Delete the history per file of tasks that ended before."""
        for task in self.tasks:
            if task.completion_time is not None and (before is None or task.completion_time <= before):
                task.history_deleted = True
