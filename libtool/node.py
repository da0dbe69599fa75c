"""The node: one librarian on this machine. The only file that wires settings, database, stores, carriers and peers.

It is passed, never imported by the rules, so that two librarians can live in one process.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from libtool import credentials, locks, settings
from libtool.errors import ConfigurationError, DatabaseMissing, LockTaken, Refused, SecretMissing, StoreUnavailable
from libtool.models import drivers

if TYPE_CHECKING:
    from libtool.connections import Connection
    from libtool.keys import RouteSettings
    from libtool.models.tables import Librarian
    from libtool.models.tables import Store as StoreRow
    from libtool.movers.base import Mover
    from libtool.movers.globus.mover import GlobusMover
    from libtool.peers.client import Peer
    from libtool.peers.transports import Own
    from libtool.states import Deed
    from libtool.stores.base import Store
    from libtool.trees.base import Tree

#: Least seconds between two looks at a collection: the service takes about twenty calls a second from everybody.
CALLS_APART = 0.1
#: The lock that everything shares, and that ``setup`` holds alone while it changes tables.
SCHEMA_LOCK = "schema"


class Node:
    """An open librarian; make one with :meth:`open`."""

    def __init__(self, configuration: settings.Settings, database: Any) -> None:
        self.settings = configuration
        self.database = database
        self._stores: dict[str, Store] = {}
        self._movers: dict[str, Mover | None] = {}
        self._key: bytes | None = None

    @classmethod
    @contextmanager
    def open(cls, config: str | None = None, *, setting_up: bool = False, busy: float | None = None) -> Iterator[Node]:
        """The librarian of a configuration file, its tables bound to its database for the time of the block.

        ``setting_up``: the database may be missing or older, and nobody else may use it meanwhile.
        ``busy``: how long another writer is waited for, in seconds, when it is less than usual.
        """
        configuration = settings.load(settings.find(config))
        drivers.import_peewee_for(configuration.database)
        from libtool.models import base, migrations, tables

        with ExitStack() as stack:
            directory = run_directory(configuration)
            if setting_up:
                stack.enter_context(locks.held(directory, SCHEMA_LOCK, wait=True))
            else:
                if (path := base.sqlite_path(configuration.database, configuration.directory)) and not os.path.exists(
                    path
                ):
                    raise DatabaseMissing(database=path)
                stack.enter_context(locks.held(directory, SCHEMA_LOCK, shared=True))
            password = _database_password(configuration)
            with base.sound(configuration.database, configuration.directory):
                database = base.open_database(
                    configuration.database, configuration.directory, password, create=setting_up, busy=busy
                )
            stack.enter_context(base.bound(database, tables.TABLES))
            node = cls(configuration, database)
            if setting_up:
                stack.enter_context(node._advisory(SCHEMA_LOCK, wait=True))
                with base.sound(configuration.database, configuration.directory):
                    migrations.migrate(database, node.now())
            else:
                stack.enter_context(node._advisory(SCHEMA_LOCK, shared=True))
                with base.sound(configuration.database, configuration.directory):
                    migrations.check(database)
            yield node

    # -- what the rules are handed -----------------------------------------------------------------------------

    def now(self) -> datetime:
        """The time."""
        return datetime.now(timezone.utc)

    def store(self, row: StoreRow) -> Store:
        """The store of a row, with the paths and options of the configuration."""
        if row.name not in self._stores:
            from libtool import stores

            wanted = self.settings.store(row.name)
            if wanted is None:
                raise StoreUnavailable(store=row.name, why="it is not in add_stores (any more)")
            if wanted.store_type not in stores.KINDS:
                raise StoreUnavailable(store=row.name, why=f"there is no store_type '{wanted.store_type}'")
            data = wanted.store_data
            self._stores[row.name] = stores.make(
                wanted.store_type,
                wanted.store_name,
                staging=self.settings.path(data.staging_path),
                root=self.settings.path(data.store_path),
                owner=self.settings.name,
                full_fraction=data.report_full_fraction,
                group_write=data.group_write_after_stage,
                own=data.own_after_commit,
                readonly=data.readonly_after_commit,
            )
        return self._stores[row.name]

    def mover(self, kind: str) -> Mover | None:
        """The carrier of a kind."""
        if kind not in self._movers:
            from importlib import import_module

            from libtool import movers

            found = None
            if kind in movers.KINDS:
                module, name = movers.KINDS[kind]
                found = getattr(import_module(module), name)(*self._for_mover(kind))
            self._movers[kind] = found
        return self._movers[kind]

    def _for_mover(self, kind: str) -> tuple[Any, ...]:
        """What a carrier of a kind is made of."""
        if kind != "globus":
            return (self.settings.local_transfer_roots,)
        from libtool.movers.globus.mover import Setup

        wanted = self.settings
        setup = Setup(
            wanted.globus_enable,
            wanted.globus_client_id,
            wanted.globus_client_native_app,
            wanted.globus_local_endpoint_id,
            wanted.collections,
            wanted.local_transfer_roots,
        )
        return setup, self.tokens(), lambda: self.now()

    def carriers(self) -> list[Mover]:
        """The carriers that need looking after although nothing is to be carried."""
        if route := next(iter(self.settings.routes.values()), None):
            return [self._globus(route.src_id, route.dst_dir)]  # complete, whatever else the configuration lacks
        mover = self.mover("globus") if self.settings.globus_enable else None
        return [mover] if mover is not None else []

    def tree(self, route: RouteSettings) -> Tree:
        """The source of a route: on this host when its collection is our own, else behind it."""
        if route.src_id == (self.settings.globus_local_endpoint_id or "").lower():
            from libtool.trees.local import LocalTree

            return LocalTree(route.src_dir)
        return self._collection(route.src_id, route.src_dir)

    def far_tree(self, route: RouteSettings) -> Tree:
        """The destination of a route, for looking at it."""
        return self._collection(route.dst_id, route.dst_dir)

    def _collection(self, id: str, directory: str) -> Tree:
        from libtool.movers.globus.access import other_service
        from libtool.movers.globus.tree import CollectionTree

        pause = 0.0 if other_service(os.environ) else CALLS_APART
        return CollectionTree(self._globus(id, directory).access, id, directory, pause)

    def courier(self, src_id: str, dst_dir: str, deed: Deed) -> Mover:
        """What carries, compares or removes the files of a route."""
        from libtool.states import Deed

        words = {Deed.SEND: "send", Deed.COMPARE: "compare", Deed.PROVE: "compare"}
        return self._globus(src_id, dst_dir, words.get(deed, "delete"))

    def _globus(self, source: str, directory: str, deed: str = "send") -> GlobusMover:
        """Globus for a route. Its places are the configuration's: no peer has named any of them."""
        from libtool.movers.globus.mover import GlobusMover, Setup

        wanted = self.settings
        client, person = wanted.globus_client_id, wanted.globus_client_native_app
        setup = Setup(True, client, person, source, (), (directory,), deed, "src_id", "dst_id")
        return GlobusMover(setup, self.tokens(), lambda: self.now())

    def peer(self, librarian: Librarian, *, seconds: float | None = None) -> Peer:
        """A neighbour that can be asked, with our account there."""
        account = self.reveal(librarian.authenticator) if librarian.authenticator else None
        peer = self.stranger(librarian.name, librarian.url, librarian.port, account, seconds=seconds)
        peer.features = frozenset(librarian.features.split())
        return peer

    def stranger(
        self, name: str, url: str, port: int | None, authenticator: str | None, *, seconds: float | None = None
    ) -> Peer:
        """A librarian that is not registered here."""
        from libtool.peers import client, transports

        return client.Peer(name, transports.connect(url, port, self.own(), seconds), authenticator or None)

    def own(self) -> Own:
        """Our key for ssh, the host keys that we trust, and where its sockets may lie."""
        from libtool.peers.transports import Own

        state = state_directory(self.settings)
        file = self.settings.ca_file
        return Own(
            os.path.join(state, "ssh.key"),
            os.path.join(state, "ssh.known_hosts"),
            run_directory(self.settings),
            self.settings.path(file) if file else None,
        )

    def post(self, key: str, lines: list[str], more: int = 0) -> list[str]:
        """Hand over one message to the people of ``email``; returns who was refused. The same ``key`` makes the same
        Message-ID."""
        from libtool import post

        wanted = self.settings.email
        if wanted is None:
            why = "is missing; README, 'Mail', shows what belongs there"
            raise ConfigurationError(file=self.settings.file, key="email", why=why)
        file = wanted.smtp.password_file if wanted.smtp else None
        letter = post.Letter(self.settings.name, key, tuple(lines), more, self.now())
        return post.hand_over(letter, wanted, self.settings.path(file) if file else None)

    # -- secrets -----------------------------------------------------------------------------------------------

    def key(self) -> bytes:
        """The encryption key: from its file, else from where secrets are looked for."""
        if self._key is None:
            path = self.settings.path(self.settings.encryption_key_file)
            self._key = credentials.find("encryption_key", path)[0].encode("ascii")
        return self._key

    def tokens(self) -> Any:
        """What this node holds to act at Globus."""
        from libtool.tokens import Tokens

        wanted = self.settings
        return Tokens(
            state_directory(wanted),
            wanted.globus_client_id or "",
            person=wanted.globus_client_native_app,
            file=wanted.path(wanted.globus_client_secret_file) if wanted.globus_client_secret_file else None,
        )

    def identity(self) -> Any:
        """Who this node is at Globus: login, logout, whoami."""
        from libtool.movers.globus.identity import Identity

        wanted = self.settings
        if not wanted.globus_client_id:
            why = "it is missing; README, 'Two sites with Globus', step 2, says where it comes from"
            raise ConfigurationError(file=wanted.file, key="globus_client_id", why=why)
        return Identity(wanted.globus_client_id, self.tokens(), lambda: self.now().timestamp())

    def make_key(self) -> str | None:
        """Make the key's file unless there is a key; returns its path when it was made."""
        from cryptography.fernet import Fernet

        try:
            self.key()
            return None
        except SecretMissing:
            path = self.settings.path(self.settings.encryption_key_file)
            credentials.write_file(path, Fernet.generate_key().decode("ascii"))
            return path

    def conceal(self, secret: str) -> str:
        """A secret as the database may keep it."""
        from cryptography.fernet import Fernet

        return Fernet(self.key()).encrypt(secret.encode("utf-8")).decode("ascii")

    def reveal(self, concealed: str) -> str:
        """What :meth:`conceal` hid."""
        from cryptography.fernet import Fernet, InvalidToken

        try:
            return Fernet(self.key()).decrypt(concealed.encode("ascii")).decode("utf-8")
        except (InvalidToken, ValueError):
            raise Refused(
                why="the encryption key does not fit what the database holds",
                how="Restore the key's file from the backup, or add the librarians again.",
            ) from None

    # -- locks -------------------------------------------------------------------------------------------------

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a lock on this host and, on PostgreSQL, on all hosts that share the database."""
        with locks.held(run_directory(self.settings), f"{self.settings.name}-{name}"), self._advisory(name):
            yield

    @contextmanager
    def _advisory(self, name: str, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
        """A lock of the database session: it dies with its connection. SQLite is for one host and needs none."""
        from libtool.models.base import is_sqlite

        if is_sqlite(self.database):
            yield
            return
        key = zlib.crc32(name.encode()) + (0x6C74 << 32)
        kind = "_shared" if shared else ""
        call = f"pg_advisory_lock{kind}" if wait else f"pg_try_advisory_lock{kind}"
        taken = self.database.execute_sql(f"SELECT {call}(%s)", (key,)).fetchone()[0]
        if taken is False:
            raise LockTaken(lock=name)
        try:
            yield
        finally:
            with suppress(Exception):  # a connection that broke has let go of the lock by itself
                self.database.execute_sql(f"SELECT pg_advisory_unlock{kind}(%s)", (key,))


@contextmanager
def visiting(connection: Connection) -> Iterator[Peer]:
    """Another librarian, asked by somebody who needs none of its own."""
    from libtool.peers import client, transports

    transport = transports.connect(connection.url, connection.port)
    peer = client.Peer(connection.name, transport, connection.authenticator)
    try:
        yield peer
    finally:
        peer.close()


def run_directory(configuration: settings.Settings) -> str:
    """Where locks lie: ``run_dir``, else ``run/`` in the state directory."""
    if configuration.run_dir is not None:
        return configuration.path(configuration.run_dir)
    return os.path.join(state_directory(configuration), "run")


def state_directory(configuration: settings.Settings) -> str:
    """Where lies what must outlive a restart of the machine: beside a SQLite database, else beside the configuration."""
    from libtool.models.base import sqlite_path

    database = sqlite_path(configuration.database, configuration.directory)
    return os.path.dirname(database) if database else configuration.directory


def _database_password(configuration: settings.Settings) -> str | None:
    if configuration.database.startswith("sqlite:"):
        return None
    file = configuration.database_password_file
    try:
        # The keyring is not asked: most databases are opened by ~/.pgpass or by the system's user, without any of this.
        return credentials.find("database_password", configuration.path(file) if file else None, keyring=False)[0]
    except SecretMissing:
        if file is not None:
            raise
        return None
