"""The catalogue's tables.

Every field's comment says what it means; every index stands beside the query that needs it. A partial unique index
is how "at most one live …" is kept: by the database, whatever two processes do at once.
"""

from __future__ import annotations

from peewee import (
    SQL,
    BigAutoField,
    BigIntegerField,
    BooleanField,
    DoubleField,
    Expression,
    ForeignKeyField,
    IntegerField,
    SmallIntegerField,
    TextField,
)

from libtool.models.base import EnumField, NameField, Record, TimeField
from libtool.states import (
    AuthLevel,
    Cause,
    ClearingStatus,
    Condition,
    Deed,
    DeletionPolicy,
    FileKind,
    MirrorStatus,
    Owed,
    Proof,
    QueueStatus,
    RemovalStatus,
    TransferStatus,
)


class User(Record):
    """An account that a peer or an operator uses to talk to this librarian."""

    id = BigAutoField()
    username = TextField(unique=True)  #: for a peer: its librarian name
    auth_level = EnumField(AuthLevel)
    password_slow = TextField(null=True)  #: scrypt of a password that a person chose
    password_fast = TextField(null=True)  #: keyed digest; of a made password, or of one that passed the slow check
    create_time = TimeField()
    password_next = TextField(null=True)  #: keyed digest of a new one, which follows when it is first used
    password_former = TextField(null=True)  #: keyed digest of the one before, for who has not heard of the new one yet
    former_until = TimeField(null=True)  #: how long that one is good


class Store(Record):
    """A place for copies. Paths and options are in the configuration; the row gives it a number and a switch."""

    id = BigAutoField()  #: the ``store_id`` of the wire
    name = TextField(unique=True)
    kind = TextField()
    enabled = BooleanField(default=True)  #: an operator's switch: nothing is read from or written to a disabled store


class Librarian(Record):
    """A direct neighbour: where it is, how we log in there, and how far sending to it has come."""

    id = BigAutoField()
    name = TextField(unique=True)  #: also the account that it uses here
    url = TextField()
    port = IntegerField(null=True)
    authenticator = TextField(null=True)  #: ``user:password`` there, encrypted
    transfers_enabled = BooleanField(default=True)
    removed = BooleanField(default=False)  #: the row stays, so that what was sent is not forgotten
    features = TextField(default="")  #: what it said it can do beyond the stock protocol, space-separated
    features_time = TimeField(null=True)  #: when it said so
    last_seen = TimeField(null=True)  #: our last authenticated answer from it
    last_heard = TimeField(null=True)  #: its last authenticated call to us
    sent_upto = BigIntegerField(default=0)  #: every file up to this id was considered for sending here
    sent_again = BigIntegerField(default=0)  #: how far the slow second look at those has come
    sent_age = DoubleField(null=True)  #: the --age-in-days that ``sent_upto`` was reached with
    compared_upto = BigIntegerField(null=True)  #: remote instances up to this id were compared with its catalogue
    adopted_upto = BigIntegerField(null=True)  #: what it delivered here was looked at up to this number of its own


class File(Record):
    """Metadata of one file, or of a directory taken as one; permanent. Bytes are in its instances."""

    id = BigAutoField()
    name = NameField(unique=True)
    kind = EnumField(FileKind)
    size = BigIntegerField()  #: bytes
    checksum = TextField()
    uploader = TextField()
    source = TextField()  #: the librarian it came from; this one's own name when ingested here
    create_time = TimeField(index=True)  #: when it came into this catalogue


class Instance(Record):
    """A copy in one of our stores; it lies at the store's path plus the file's name."""

    id = BigAutoField()
    file = ForeignKeyField(File, index=False)
    store = ForeignKeyField(Store)
    available = BooleanField(default=True)  #: False: removed, or known to be bad; still remembered
    deletion_policy = EnumField(DeletionPolicy)
    create_time = TimeField()
    verified_time = TimeField(null=True)  #: when its bytes were last read and found right
    #: On what occasion that was.
    verified_how = EnumField(Proof, default=Proof.NONE, constraints=[SQL("DEFAULT 0")])
    #: What it was when it was last looked at.
    condition = EnumField(Condition, default=Condition.SOUND, constraints=[SQL("DEFAULT 0")])
    checked_time = TimeField(null=True)  #: when that was, if it was not sound
    asked_time = TimeField(null=True)  #: a neighbour wanted it read then, and there was no time: it is read first
    held_until = TimeField(null=True)  #: a neighbour counts on it for a deletion of its own: it stays so long

    class Meta:
        indexes = ((("file", "store"), True),)


class Removal(Record):
    """A copy that was taken out of its place in a store: by whom, why, and where its bytes are until they are purged."""

    id = BigAutoField()
    file = ForeignKeyField(File)
    store = ForeignKeyField(Store, index=False)
    cause = EnumField(Cause)
    status = EnumField(RemovalStatus, default=RemovalStatus.DECIDED)
    aside_id = TextField()  #: names the place that its bytes are set aside in
    actor = TextField()  #: which command, on whose word
    reason = TextField()  #: what made it possible, such as the copies that were proved
    copies = SmallIntegerField(default=0)  #: how many others must be proved once more before its bytes are purged
    forget = BooleanField(default=False)  #: the copy is not remembered as an unavailable one
    create_time = TimeField()
    purge_time = TimeField(null=True)  #: its bytes are kept until then; None: until a sound copy is here
    end_time = TimeField(null=True)  #: when they were purged or brought back


class RemoteInstance(Record):
    """A copy that a direct neighbour reported."""

    id = BigAutoField()
    file = ForeignKeyField(File, index=False)
    librarian = ForeignKeyField(Librarian, index=False)
    store_id = BigIntegerField()  #: the neighbour's number of its store
    copy_time = TimeField()  #: when we learnt of it

    class Meta:
        indexes = ((("file", "librarian", "store_id"), True),)


class SendQueue(Record):
    """One batch for one destination, shipped by one carrier as one task."""

    id = BigAutoField()
    destination = ForeignKeyField(Librarian, index=False)
    status = EnumField(QueueStatus, default=QueueStatus.QUEUED)
    mover = TextField()  #: which kind of carrier
    provider = TextField()  #: JSON: what the destination told about how to reach it
    ticket = TextField(null=True)  #: JSON: the carrier's own memory of this task
    retries = IntegerField(default=0)  #: submissions that were clearly refused
    not_before = TimeField(null=True)
    create_time = TimeField()
    submit_time = TimeField(null=True)
    end_time = TimeField(null=True)
    files = IntegerField(default=0)
    size = BigIntegerField(default=0)  #: bytes
    report = TextField(null=True)  #: JSON: what the carrier measured
    reason = TextField(null=True)  #: why it failed


class OutgoingTransfer(Record):
    """One attempt to bring one file to one librarian, seen from the source."""

    id = BigAutoField()  #: the ``source_transfer_id`` of the wire
    file = ForeignKeyField(File, index=False)
    destination = ForeignKeyField(Librarian, index=False)
    status = EnumField(TransferStatus)
    owed = EnumField(Owed, default=Owed.NOTHING)  #: what the destination must still be told
    store = ForeignKeyField(Store, null=True, index=False)  #: the copy that is read
    remote_id = BigIntegerField(null=True)  #: the destination's number of this transfer
    staging_location = TextField(null=True)  #: where the destination wants it, absolute, there
    queue = ForeignKeyField(SendQueue, null=True, index=False)
    create_time = TimeField()
    not_before = TimeField(null=True)  #: the destination asked us to wait until then
    end_time = TimeField(null=True)
    reason = TextField(null=True)  #: why it failed


class IncomingTransfer(Record):
    """One attempt to take in one file: from a librarian, or from an operator's ``ingest`` (``source`` empty)."""

    id = BigAutoField()  #: the ``destination_transfer_id`` of the wire
    name = NameField()  #: the file's name here
    size = BigIntegerField()
    checksum = TextField()
    uploader = TextField()
    source = TextField()  #: the librarian to call back; empty for an ingest
    source_transfer_id = BigIntegerField(null=True)  #: its number there
    status = EnumField(TransferStatus)
    owed = EnumField(Owed, default=Owed.NOTHING)  #: what the source must still be told
    store = ForeignKeyField(Store, index=False)
    staging_id = TextField(null=True)  #: directory below the store's staging path; cleared once that is gone
    claim = TextField(null=True)  #: the lock of the ingest that works on it; a free lock means that it died
    deletion_policy = EnumField(DeletionPolicy, null=True)  #: None: as the receiving task says
    file = ForeignKeyField(File, null=True, index=False)
    create_time = TimeField()
    end_time = TimeField(null=True)
    reason = TextField(null=True)  #: why it failed


class Retry(Record):
    """A file that did not get to a destination yet: when the next attempt is due, or that it waits for a person."""

    id = BigAutoField()
    file = ForeignKeyField(File, index=False)
    destination = ForeignKeyField(Librarian, index=False)
    attempts = IntegerField()
    not_before = TimeField(null=True)  #: None: parked until ``libtool retry``
    reason = TextField()

    class Meta:
        indexes = ((("file", "destination"), True), (("destination", "not_before"), False))


class TaskRun(Record):
    """What a background task did; runs without work share one row, so that the table does not grow by the minute."""

    id = BigAutoField()
    command = TextField()
    target = TextField()  #: the destinations or the store that it was for; empty when it has none
    host = TextField()
    started = TimeField()
    ended = TimeField(null=True)
    exit_code = SmallIntegerField(null=True)
    done = IntegerField(default=0)
    failed = IntegerField(default=0)
    postponed = IntegerField(default=0)
    idle_runs = IntegerField(default=0)  #: how many runs without work this row stands for

    class Meta:
        indexes = ((("command", "target", "id"), False), (("ended",), False))


class Fault(Record):
    """A trouble that lasts: told once when it has lasted, once a day while it does, once when it is over."""

    id = BigAutoField()
    subject = TextField()  #: what is in trouble, such as ``librarian b``
    kind = TextField()  #: which trouble
    text = TextField()
    first_time = TimeField()
    last_time = TimeField()
    told_time = TimeField(null=True)
    count = IntegerField(default=1)

    class Meta:
        indexes = ((("subject", "kind"), True),)


class Mail(Record):
    """A line that people are to be told by mail; it stays until a message with it was handed over."""

    id = BigAutoField()
    line = TextField()
    create_time = TimeField()
    tries = IntegerField(default=0)  #: how often a message with it could not be handed over


class Route(Record):
    """A pair of directories of the configuration, as far as its source is known. Its name and source stay; its
    destination is that of each task."""

    id = BigAutoField()
    name = TextField(unique=True)
    src_id = TextField()
    src_dir = TextField()
    create_time = TimeField()
    cursor = TextField(null=True)  #: JSON: the directory at which a look that is not finished goes on
    look_time = TimeField(null=True)  #: when the look that is going on began
    looked_time = TimeField(null=True)  #: when the last finished look began


class RouteDirectory(Record):
    """A directory of a route's source."""

    id = BigAutoField()
    route = ForeignKeyField(Route, index=False)
    parent = ForeignKeyField("self", null=True)
    path = NameField()  #: relative to the source; empty for the source itself
    emptied_time = TimeField(null=True)  #: when libtool removed something from it, if it may be empty since
    place = TextField(null=True)  #: the place below ``.libtool-aside`` that it is set aside in, empty, to be removed

    class Meta:
        indexes = ((("route", "path"), True),)


class RouteTask(Record):
    """One task of a route at its carrier."""

    id = BigAutoField()
    route = ForeignKeyField(Route, index=False)
    deed = EnumField(Deed)
    status = EnumField(QueueStatus, default=QueueStatus.QUEUED)
    dst_id = TextField()
    dst_dir = TextField()
    paths = TextField(null=True)  #: JSON: the directories that it is to clear away
    ticket = TextField(null=True)  #: JSON: the carrier's own memory of this task
    retries = IntegerField(default=0)  #: submissions that were clearly refused
    not_before = TimeField(null=True)
    create_time = TimeField()
    submit_time = TimeField(null=True)
    end_time = TimeField(null=True)
    files = IntegerField(default=0)
    size = BigIntegerField(default=0)  #: bytes
    report = TextField(null=True)  #: JSON: what the carrier measured
    reason = TextField(null=True)  #: why it waits or failed


class RouteFile(Record):
    """A file of a route's source as a look found it. While a task has it the row stays as it was when it was submitted."""

    id = BigAutoField()
    route = ForeignKeyField(Route, index=False)
    directory = ForeignKeyField(RouteDirectory, index=False)
    name = TextField()  #: the last part of its path
    size = BigIntegerField()
    mtime = BigIntegerField()  #: nanoseconds since 1970
    inode = BigIntegerField()  #: 0 behind a collection
    ctime = BigIntegerField()  #: nanoseconds since 1970; 0 behind a collection
    status = EnumField(MirrorStatus, default=MirrorStatus.SEEN)
    doubt = BooleanField(default=False)  #: it was sent, and of all this only inode or ctime differ since
    seen_time = TimeField()  #: when it was first seen just so
    task = ForeignKeyField(RouteTask, null=True)  #: that has it, or with which it arrived
    arrived_time = TimeField(null=True)  #: when that was learnt
    attempts = IntegerField(default=0)
    not_before = TimeField(null=True)
    reason = TextField(null=True)  #: why the last attempt failed

    class Meta:
        indexes = ((("directory", "name"), True), (("route", "status", "arrived_time"), False))


class RouteRemoval(Record):
    """The deletion of one file at a route's source: by whom, why, and where its bytes are until they are removed."""

    id = BigAutoField()
    route = ForeignKeyField(Route, index=False)
    path = TextField()  #: relative to the source
    size = BigIntegerField()
    mtime = BigIntegerField()
    inode = BigIntegerField()
    ctime = BigIntegerField()  #: as it was when it was sent; once it lies aside, as it lies there
    status = EnumField(ClearingStatus, default=ClearingStatus.DECIDED)
    place = TextField()  #: the directory below ``.libtool-aside`` that it is set aside in, under its number
    sent = BigIntegerField()  #: the number of the route's task with which it arrived
    evidence = TextField()  #: that task at its carrier, and where it brought the file
    task = ForeignKeyField(RouteTask, null=True)  #: that has it now
    actor = TextField()
    reason = TextField()
    create_time = TimeField()
    aside_time = TimeField(null=True)
    proved_time = TimeField(null=True)  #: when it was last compared with the destination's
    end_time = TimeField(null=True)


class RouteCopy(Record):
    """A file at a destination of which the original was removed at a route's source: it may be the only one. It is known
    longer than the route."""

    id = BigAutoField()
    dst_id = TextField()
    path = NameField()  #: absolute, as a destination may understand it that does not tell all names apart
    create_time = TimeField()

    class Meta:
        indexes = ((("dst_id", "path"), True),)


TABLES = [
    User,
    Store,
    Librarian,
    File,
    Instance,
    Removal,
    RemoteInstance,
    SendQueue,
    OutgoingTransfer,
    IncomingTransfer,
    Retry,
    TaskRun,
    Fault,
    Mail,
    Route,
    RouteDirectory,
    RouteTask,
    RouteFile,
    RouteRemoval,
    RouteCopy,
]


def live(table: type[OutgoingTransfer] | type[IncomingTransfer]) -> Expression:
    """The condition "some task still owns it", spelled with a literal so that the partial indexes surely apply."""
    return table.status < SQL("3")


def owing(table: type[OutgoingTransfer] | type[IncomingTransfer]) -> Expression:
    """The condition "a peer must still be told"."""
    return table.owed > SQL("0")


def waiting() -> Expression:
    """The condition "queued, being submitted or in flight"."""
    return SendQueue.status < SQL("3")


def unfinished() -> Expression:
    """The condition that a removal is not over: its bytes may lie aside."""
    return Removal.status < SQL("4")


def clearing() -> Expression:
    """The condition that a route's removal is not over."""
    return RouteRemoval.status < SQL("6")


def open_tasks() -> Expression:
    """The condition that a route's task is queued, being submitted or in flight."""
    return RouteTask.status < SQL("3")


_Out, _In = OutgoingTransfer, IncomingTransfer

# One live transfer per file and destination; and: does this file have one?
_Out.add_index(_Out.index(_Out.file, _Out.destination, unique=True, where=live(_Out), name="outgoing_live"))
# send-clone: what waits to be staged at a destination, in order.
_Out.add_index(_Out.index(_Out.destination, _Out.id, where=_Out.status == SQL("0"), name="outgoing_initiated"))
# consume-queue and check-consumed-queue: the files of one queue item.
_Out.add_index(_Out.index(_Out.queue, _Out.id, where=_Out.queue.is_null(False), name="outgoing_queue"))
# What a destination must be told.
_Out.add_index(_Out.index(_Out.destination, _Out.id, where=owing(_Out), name="outgoing_owing"))
# Pruning of history.
_Out.add_index(_Out.index(_Out.end_time, where=_Out.status >= SQL("3"), name="outgoing_ended"))

# One live incoming transfer per name; and: is this name under way?
_In.add_index(_In.index(_In.name, unique=True, where=live(_In), name="incoming_live"))
# recv-clone: what is staged in a store, in order.
_In.add_index(_In.index(_In.store, _In.id, where=_In.status == SQL("2"), name="incoming_staged"))
# Bytes promised in a store.
_In.add_index(_In.index(_In.store, _In.size, where=live(_In), name="incoming_reserved"))
# What a source must be told.
_In.add_index(_In.index(_In.source, _In.id, where=owing(_In), name="incoming_owing"))
# Staging places that may still be there.
_In.add_index(_In.index(_In.staging_id, where=_In.staging_id.is_null(False), name="incoming_staging"))
_In.add_index(_In.index(_In.end_time, where=_In.status >= SQL("3"), name="incoming_ended"))
# Ingests at work, or abandoned by a process that died.
_In.add_index(_In.index(_In.claim, where=(_In.claim.is_null(False)) & live(_In), name="incoming_claimed"))

# The queue, by destination and age.
SendQueue.add_index(SendQueue.index(SendQueue.destination, SendQueue.id, where=waiting(), name="sendqueue_waiting"))
SendQueue.add_index(SendQueue.index(SendQueue.end_time, where=SendQueue.status >= SQL("3"), name="sendqueue_ended"))

# Copies that are not what they should be.
Instance.add_index(
    Instance.index(Instance.store, Instance.id, where=Instance.condition > SQL("0"), name="instance_unsound")
)
# check-integrity: what was read longest ago; and what neighbours wait for.
Instance.add_index(
    Instance.index(Instance.store, Instance.verified_time, where=Instance.available, name="instance_verified")
)
Instance.add_index(
    Instance.index(Instance.store, Instance.id, where=Instance.asked_time.is_null(False), name="instance_asked")
)
# rolling-deletion: what may go, the oldest first.
Instance.add_index(
    Instance.index(
        Instance.store,
        Instance.create_time,
        where=Instance.available & (Instance.deletion_policy == SQL("1")),
        name="instance_deletable",
    )
)
# Removals that are not over.
Removal.add_index(Removal.index(Removal.store, Removal.id, where=unfinished(), name="removal_open"))

# Tasks of routes that are not over, and those that are.
RouteTask.add_index(RouteTask.index(RouteTask.route, RouteTask.id, where=open_tasks(), name="routetask_open"))
RouteTask.add_index(RouteTask.index(RouteTask.end_time, where=RouteTask.status >= SQL("3"), name="routetask_ended"))
# Directories from which something was removed.
RouteDirectory.add_index(
    RouteDirectory.index(
        RouteDirectory.route,
        RouteDirectory.path,
        where=RouteDirectory.emptied_time.is_null(False),
        name="routedirectory_emptied",
    )
)
# Removals that are not over, and those that are.
RouteRemoval.add_index(
    RouteRemoval.index(RouteRemoval.route, RouteRemoval.id, where=clearing(), name="routeremoval_open")
)
RouteRemoval.add_index(
    RouteRemoval.index(RouteRemoval.end_time, where=RouteRemoval.status >= SQL("6"), name="routeremoval_ended")
)
