"""The service as tests hold it: who and what there is, the clock, and what goes wrong."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable
from datetime import datetime
from types import TracebackType
from typing import Any

from tests.globus_service.auth import TRANSFER, TRANSFER_SCOPE
from tests.globus_service.faults import Fault
from tests.globus_service.front import Front
from tests.globus_service.moving import Hands
from tests.globus_service.server import Server
from tests.globus_service.tasks import Task, tidy
from tests.globus_service.world import Collection, Identity, NativeApp, ServiceAccount, Token, World

Named = str | Collection | Identity | ServiceAccount


def _setting(name: str, meaning: str) -> Any:
    """An attribute that the world holds."""

    def fetch(self: GlobusService) -> Any:
        return getattr(self.world, name)

    def store(self: GlobusService, value: Any) -> None:
        setattr(self.world, name, value)

    return property(fetch, store, doc=meaning)


class GlobusService:
    """Globus Auth and Transfer on loopback; serves from when it is entered, or ``start``, until it is left, or ``stop``."""

    auto = _setting("auto", "Whether accepted tasks are worked on at once.")
    rotate = _setting("rotate", "Whether refresh tokens are replaced when they are used.")
    page = _setting("page", "The length of a page of results.")
    most_listed = _setting("most_listed", "How many entries of a directory are listed.")
    most_pending = _setting("most_pending", "How many unfinished tasks an identity may have.")
    retry_every = _setting("retry_every", "After how many virtual seconds trouble is tried again.")
    visitor = _setting("visitor", "Who is at the login page.")

    def __init__(self) -> None:
        self.world = World()
        self._hands = Hands(self.world)
        self._front = Front(self.world, self._hands)
        self._server: Server | None = None
        self._port = 0

    # -- serving

    def start(self) -> GlobusService:
        """Begin to serve."""
        self._front.closing.clear()
        self._server = Server(self._front.answer, self._port)
        self._port = self._server.server_port
        self.world.url = self.url
        return self

    def stop(self) -> None:
        """Serve no more; everything is remembered."""
        if self._server is not None:
            self._front.closing.set()
            self._server.stop()
            self._server = None

    def restart(self) -> None:
        """Break all connections, and serve again under the same address."""
        self.stop()
        self.start()

    def __enter__(self) -> GlobusService:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self._port}/"

    def environment(self) -> dict[str, str]:
        """What makes the SDK talk to it."""
        names = ("GLOBUS_SDK_SERVICE_URL_AUTH", "GLOBUS_SDK_SERVICE_URL_TRANSFER")
        return {**dict.fromkeys(names, self.url), "NO_PROXY": "127.0.0.1,localhost"}

    # -- who and what there is

    def collection(self, name: str, root: str = "/", entity_type: str = "GCSv5_guest_collection", **attributes: Any) -> Collection:
        """Make a collection of a directory."""
        made = Collection(name, str(root), entity_type, **attributes)
        with self.world.lock:
            self.world.collections[made.id] = made
        return made

    def service_account(self) -> ServiceAccount:
        """Make a confidential client that acts as itself."""
        made = ServiceAccount(str(uuid.uuid4()), secrets.token_urlsafe(30))
        with self.world.lock:
            self.world.clients[made.id] = made
            self.world.identities[made.id] = Identity(made.id, made.username)
        return made

    def native_app(self) -> NativeApp:
        """Make a client with which people log in."""
        made = NativeApp(str(uuid.uuid4()))
        with self.world.lock:
            self.world.clients[made.id] = made
        return made

    def person(self, username: str) -> Identity:
        """Make a person, who is the next to visit the login page."""
        made = Identity(str(uuid.uuid4()), username)
        with self.world.lock:
            self.world.identities[made.id] = made
            self.world.visitor = made
        return made

    def refresh_token(self, app: NativeApp | ServiceAccount, person: Named, consents: Iterable[Named] = ()) -> str:
        """A refresh token for Transfer, as if the person had logged in before."""
        given = frozenset(_id(collection) for collection in consents)
        value = "Rg" + secrets.token_urlsafe(30)
        with self.world.lock:
            family = secrets.token_hex(8)
            self.world.tokens[value] = Token(value, app.id, _id(person), TRANSFER, TRANSFER_SCOPE, given, family=family)
            for collection in given:
                self.world.consent(_id(person), collection, app.id)
        return value

    def permit(self, identity: Named, collection: Named, path: str, what: str) -> None:
        """Let an identity read ("r") or read and write ("rw") what is at and below a path; all without a rule are out."""
        if what not in ("r", "rw"):
            raise ValueError(f"a permission is r or rw, not {what!r}")
        with self.world.lock:
            self.world.rules.setdefault(_id(collection), []).append((_id(identity), tidy(path), what))

    # -- time and work

    @property
    def now(self) -> datetime:
        """What the clock shows."""
        return self.world.now

    def advance(self, seconds: float) -> None:
        """Move the clock, doing on the way all that becomes due."""
        self._hands.advance(seconds)

    def work(self) -> None:
        """Do all that can be done without moving the clock."""
        self._hands.work()

    # -- what there was

    @property
    def tasks(self) -> list[Task]:
        """Every accepted task, oldest first."""
        with self.world.lock:
            return list(self.world.tasks)

    @property
    def requests(self) -> list[tuple[str, str, int | None]]:
        """Method, path with query and status of every request; None when the connection was cut."""
        with self.world.lock:
            return list(self._front.requests)

    @property
    def most_active(self) -> int:
        """The most tasks that were ever unfinished at once."""
        return self.world.most_active

    # -- what goes wrong

    def fault(self, name: str, **match_and_parameters: Any) -> Fault:
        """Have something go wrong from now on; ``faults`` says what there is."""
        with self.world.lock:
            return self.world.faults.arm(name, match_and_parameters)

    def revoke(self, token_or_identity: Named) -> None:
        """End a login: its refresh token is refused, and so are its access tokens."""
        with self.world.lock:
            self.world.revoke(_id(token_or_identity))

    def expire_access_tokens(self) -> None:
        """End every access token; refresh tokens stay good."""
        with self.world.lock:
            for token in self.world.tokens.values():
                if token.expires is not None:
                    token.alive = False

    def withdraw_consent(self, identity: Named, collection: Named) -> None:
        """Take a consent back, for all clients."""
        with self.world.lock:
            self.world.consents.get(_id(identity), {}).pop(_id(collection), None)

    def close_history(self) -> None:
        """Delete the history per file of all tasks that have ended."""
        with self.world.lock:
            self.world.close_history()

    def forget(self, task_id: str) -> None:
        """Have a task not be found any more."""
        with self.world.lock:
            for task in self.world.tasks:
                if task.task_id == task_id:
                    task.forgotten = True


def _id(named: Named) -> str:
    return named if isinstance(named, str) else named.id
