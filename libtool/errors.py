"""Every error that libtool raises on purpose.

A class *is* its message, what it means for the data, the command that comes next, its exit code and its HTTP status.
Nothing else prints a trouble: the root of the command line and the router of the callback are the only two readers.
"""

from __future__ import annotations

from typing import Any

from libtool.troubles import EXIT_CODES as EXIT_CODES
from libtool.troubles import LibtoolError as LibtoolError


class Usage(LibtoolError):
    """The words on the command line do not fit together."""

    remedy = "Run 'libtool {command} --help'."
    exit_code = 2


# -- configuration and secrets ------------------------------------------------------------------------------------


class ConfigurationError(LibtoolError):
    """A key of the configuration is missing, unknown or of the wrong kind."""

    message = "{file}: {key}: {why}"
    meaning = "Nothing was done."
    exit_code = 78
    http_status = 503


class NoConfiguration(LibtoolError):
    """No configuration file was found in any of the usual places."""

    message = "no configuration file: looked at {places}"
    remedy = "Write one (config/libtool.example.yaml shows every key) or name it with --config FILE; 'libtool demo' needs none."
    exit_code = 78
    http_status = 503


class SecretUnsafe(LibtoolError):
    """Somebody else could read a file that holds a secret."""

    message = "{file} holds the secret {name} but others than its owner can read it (or it has another owner)"
    meaning = "It was not read."
    remedy = (
        "If it belongs to you, run 'chmod 600 {file}' and change the secret if it may have been seen; if it does not, run "
        "this as the user whose librarian it is."
    )
    exit_code = 78
    http_status = 503


class SecretMissing(LibtoolError):
    """A secret that is needed is in none of the places that are asked."""

    message = "the secret {name} was not found; asked: {places}"
    remedy = "Put it into one of these places; README, 'Secrets', shows how."
    exit_code = 4
    http_status = 503


# -- database -----------------------------------------------------------------------------------------------------


class DatabaseMissing(LibtoolError):
    """The database does not exist or has no tables yet."""

    message = "the database {database} does not exist or holds no catalogue"
    meaning = "Nothing was done."
    remedy = "If this librarian is new, run 'libtool setup'; if it is not, find out where its database went before anything else."
    exit_code = 78
    http_status = 503


class DatabaseRuined(LibtoolError):
    """What lies in the database's place is none, or is damaged."""

    message = "the database {database} cannot be read: {why}"
    meaning = "Nothing was done."
    remedy = "Check what lies there; if it is damaged, restore it from the backup."
    exit_code = 78
    http_status = 503


class SchemaDiffers(LibtoolError):
    """The database's tables are older or newer than this libtool."""

    message = "the database {database} has schema {found}, this libtool needs {needed}"
    meaning = "Nothing was done."
    remedy = "{how}"
    exit_code = 78
    http_status = 503


class DatabaseBusy(LibtoolError):
    """The database did not answer in time, or is locked by another process."""

    message = "the database {database} cannot be used now: {why}"
    meaning = "What was committed stays; the next run carries on."
    remedy = "If it lasts, look for a process that holds it and for a full or read-only disk."
    http_status = 503


# -- names, files and stores --------------------------------------------------------------------------------------


class NameRefused(LibtoolError):
    """A file cannot have this name."""

    message = "'{name}' cannot be a file's name: {why}"
    meaning = "Nothing was moved."
    remedy = "Give another NAME."
    exit_code = 3
    http_status = 400


class AlreadyKnown(LibtoolError):
    """The catalogue holds another file under this name."""

    message = "the catalogue already holds another file named '{name}' ({why})"
    meaning = "Names are permanent; nothing was moved."
    remedy = "Give this one another NAME; 'libtool search-files --name' shows the one that is known."
    exit_code = 3
    http_status = 409


class FileUnreadable(LibtoolError):
    """A file or directory could not be read, or holds what cannot be archived."""

    message = "'{path}' cannot be taken: {why}"
    meaning = "It stays as it is; the others are not affected."
    remedy = "Mend it and run the same command again."
    exit_code = 3
    http_status = 409


class FileChanged(LibtoolError):
    """A file changed while it was being read."""

    message = "'{path}' changed while it was read"
    meaning = "It was not taken and stays as it is."
    remedy = "Run the same command again when nobody writes to it."
    exit_code = 3
    http_status = 409


class UnknownRoute(LibtoolError):
    """The configuration has no route of this name."""

    message = "there is no route '{name}' in the configuration{guess}"
    meaning = "Nothing was done."
    remedy = "'libtool status' shows those that there are."
    exit_code = 2


class RouteShared(LibtoolError):
    """Another catalogue sets files aside at the same source."""

    message = "another node, with a catalogue of its own, removes files from {path} as well (mark {mark})"
    meaning = "Neither knows what the other has set aside, so nothing more is removed here."
    remedy = "Let one node alone run 'libtool delete' for it. The other one's 'delete --put-back' brings back what it set aside and takes its mark away; where that stays, or that node is no more, remove the empty directory {path}/.libtool-aside/{mark}."
    exit_code = 4


class RouteMoved(LibtoolError):
    """The configuration gives a route another source than it had."""

    message = "the source of route {name} was {old} and is {new} now"
    meaning = "What is known of it is about the former one. Nothing was done."
    remedy = "Give the new pair a name of its own, or run 'libtool reset {name}' to begin anew; what is set aside at the former source must come back first, with 'libtool delete --put-back {name}'."
    exit_code = 4


class DirectoryUnreadable(LibtoolError):
    """One directory or file of a route's source could not be looked at or moved."""

    message = "'{path}' cannot be used: {why}"
    meaning = "It stays as it is; the others are not affected."
    remedy = "Mend its permissions or its disk; the next run tries again."
    exit_code = 3
    http_status = 409


class StoreUnavailable(LibtoolError):
    """A store cannot be used now: not mounted, read-only, disabled, or unknown."""

    message = "the store {store} cannot be used: {why}"
    meaning = "Nothing was changed; what waits for it goes on when it is back."
    remedy = "Check the mount and the directories' owner, then run 'libtool setup'."
    http_status = 503


class NoRoom(LibtoolError):
    """No store has room for what should come in."""

    message = "no store has room for {size} bytes; the fullest usable one has {room}"
    meaning = "Nothing was moved."
    remedy = "Free space, or add a store to add_stores and run 'libtool setup'."
    exit_code = 3
    http_status = 413


class Occupied(LibtoolError):
    """Something that the catalogue does not know lies where a file should go."""

    message = "'{path}' is already there, with other content, and not in the catalogue"
    meaning = "It was left alone, and the file that should lie there was not stored."
    remedy = "Look at it; move it away, or ingest it under another name."
    exit_code = 3
    http_status = 409


# -- librarians, accounts, peers ----------------------------------------------------------------------------------


class UnknownLibrarian(LibtoolError):
    """No librarian of this name is registered."""

    message = "Librarian {name} does not exist"
    remedy = "'libtool get-librarian-list' shows those that do."
    http_status = 400


class LibrarianExists(LibtoolError):
    """A librarian of this name is registered already."""

    message = "a librarian named {name} is registered already, at {url}"
    meaning = "Nothing was changed."
    remedy = "Run 'libtool remove-librarian --name {name}' first if its address or account changed; what was sent is remembered."
    http_status = 400


class NoSignOfLife(LibtoolError):
    """A librarian that was to be registered did not answer, or did not accept the account."""

    message = "{why}"
    meaning = "Nothing was registered."
    remedy = "Mend it, or add --do-not-check-connection to register it all the same."
    http_status = 400


class UnknownStore(LibtoolError):
    """No store of this name is configured and set up."""

    message = "Store {name} does not exist"
    meaning = "Nothing was changed."
    remedy = "'libtool get-store-list' shows those that do."
    http_status = 400


class UnknownConnection(LibtoolError):
    """No connection of this name is in the files that are looked at."""

    message = "there is no connection '{name}' in {places}{guess}"
    meaning = "Nothing was done."
    remedy = "README, 'Another librarian', shows how to write one down."
    exit_code = 78


class AwayDenied(LibtoolError):
    """Another librarian does not accept the account of a connection for what was asked."""

    message = "{name} does not accept the account '{account}' for {endpoint}"
    meaning = "Nothing was changed there."
    remedy = "It must have the level ADMIN there (READONLY to search and to validate); check user and password of the connection."
    exit_code = 4


class UnknownUser(LibtoolError):
    """No account of this name exists."""

    message = "User not found: {name}"
    remedy = "'libtool list-users' shows those that exist."
    http_status = 400


class UserExists(LibtoolError):
    """An account of this name exists already."""

    message = "User already exists: {name}"
    meaning = "Its password and level were left alone."
    remedy = "Run 'libtool create-user --username {name} --renew …' for a new password, or 'libtool delete-user' first."
    http_status = 400


class Refused(LibtoolError):
    """Something was asked for that cannot be done; ``why`` says why and ``how`` what to do."""

    message = "{why}"
    remedy = "{how}"
    http_status = 400


class PeerUnreachable(LibtoolError):
    """A librarian gave no answer that could be understood. That is *unknown*, never a failure."""

    message = "librarian {name} did not answer: {why}"
    meaning = "Nothing was changed; the next run asks again."
    exit_code = 3
    http_status = 504


class PeerDeniesUs(LibtoolError):
    """A librarian does not accept our account."""

    message = "librarian {name} does not accept our account '{account}' for {endpoint}"
    meaning = "Nothing can be sent to or reported to it until that is mended; nothing is lost."
    remedy = (
        "Connect the two again with its operator ('libtool connect' renews the accounts on both sides), or ask for an "
        "account of the level that is needed and run 'libtool remove-librarian --name {name}' and 'libtool add-librarian "
        "--name {name} …' with it."
    )
    exit_code = 4
    http_status = 502


class PeerRefused(LibtoolError):
    """A librarian answered clearly that it will not do what was asked."""

    message = "librarian {name} refused ({status}): {why}"
    remedy = "{how}"
    http_status = 502


class CarrierUnknown(LibtoolError):
    """A carrier could not say what became of a request. ``everywhere``: it is not to do with one item only."""

    message = "the carrier {carrier} gave no clear answer: {why}"
    meaning = "Nothing is assumed; the next run asks again."
    exit_code = 3


class SourceAbsent(CarrierUnknown):
    """The source of a route is not to be seen, as when its disk is not mounted."""

    message = "the source {path} cannot be used: {why}"
    meaning = "Nothing of it is sent or removed until it is back."


class CarrierBusy(LibtoolError):
    """A carrier takes nothing more now; ``everywhere``: not only for this destination."""

    message = "the carrier {carrier} takes nothing more now: {why}"
    meaning = "Nothing is lost; it is submitted by a later run."
    exit_code = 3


class CarrierRefused(LibtoolError):
    """A carrier said clearly that it will not carry this. ``divide``: but perhaps less of it at once; ``astray``: what
    the destination said of itself is wrong; ``stale``: only not under this ticket any more."""

    message = "the carrier {carrier} refused: {why}"
    meaning = "Nothing is lost, and it is tried again by itself; 'libtool status --tasks' shows it."
    exit_code = 3


class CarrierBarred(LibtoolError):
    """A carrier can be used only after a person has acted. ``cause``: a word for what is the matter; ``everywhere``: not
    only for this destination; ``sure``: nothing was ever carried under this ticket."""

    message = "the carrier {carrier} cannot be used: {why}"
    remedy = "{how} Nothing is lost, and all goes on by itself afterwards."
    exit_code = 4


class ServiceUnsafe(LibtoolError):
    """The environment points to a service that everybody on the way could listen to."""

    message = "{variable} names {url}, which is not encrypted and not on this machine"
    meaning = "Nothing was sent there."
    remedy = "Unset {variable}, or give an https address."
    exit_code = 78


class MailFailed(LibtoolError):
    """A message could not be handed over to the mail server or to sendmail."""

    message = "no message could be handed over to {to}: {why}"
    meaning = "Nothing else is affected, and what is to be told waits."
    remedy = "{how}"


# -- running ------------------------------------------------------------------------------------------------------


class LockTaken(LibtoolError):
    """Another run of the same command is at work; silent."""

    message = "another run holds the lock {lock}"
    exit_code = 75
    http_status = 503


class RunDirectoryUnusable(LibtoolError):
    """The directory for locks cannot be written."""

    message = "the lock {path} cannot be taken: {why}"
    meaning = "Nothing was done."
    remedy = "Check the owner of the run directory, or name another with run_dir."
    exit_code = 78
    http_status = 503


class PersonNeeded(LibtoolError):
    """A person must act; ``why`` is one line, ``how`` names the command."""

    message = "{why}"
    remedy = "{how}"
    exit_code = 4


# -- answers to peers ---------------------------------------------------------------------------------------------


class Denied(LibtoolError):
    """The caller has not shown who it is, or may not do this; it is not told which."""

    message = "Incorrect username or password, or not allowed to do this."
    remedy = "Check the account with the operator of this librarian."
    http_status = 401


class Guessing(LibtoolError):
    """A wrong password, while another wrong one is being checked; nothing is learnt from that."""

    message = "another password is being checked"
    remedy = "Ask again later."
    http_status = 503


class NotFound(LibtoolError):
    """There is no such thing, or none that the caller may see."""

    message = "{why}"
    remedy = "{how}"
    http_status = 404


class AlreadyHere(LibtoolError):
    """A stock source is told which of its files are here already, with the same content; it records them itself."""

    message = "File already exists on librarian."
    remedy = "It has the same content as yours: record the remote instance and send the others."
    http_status = 409

    @property
    def extra(self) -> dict[str, Any]:
        """The ids that it is about."""
        return self.facts


class OtherContent(AlreadyHere):
    """Somebody brings a file by hand whose name belongs to another one here. The words are those that let the stock
    command go on with the next."""

    message = "A file with other content already exists on librarian ({why})."
    remedy = "Names are permanent: bring it under another one."

    @property
    def extra(self) -> dict[str, Any]:
        """The ids that it is about."""
        return {key: value for key, value in self.facts.items() if key != "why"}


class UnderWay(AlreadyHere):
    """A stock source is told that all it asked for is under way already."""

    message = "These files are under way already."
    remedy = "Ask again later."
    http_status = 425


class UnknownTransfer(AlreadyHere):
    """There is no such transfer, or none of the caller's."""

    message = "Could not find transfer."
    remedy = "Check the transfer's number and the account that was used."
    http_status = 404


class InstanceKept(AlreadyHere):
    """A copy that was to be deleted stays as it is."""

    message = "{why}"
    remedy = "{how}"
    http_status = 400

    @property
    def extra(self) -> dict[str, Any]:
        """What a stock client expects of a deletion that did not take place."""
        return {"success": False, "instance_id": self.facts.get("instance_id")}


class NotNow(LibtoolError):
    """The state of a thing does not allow what was asked."""

    message = "{why}"
    remedy = "{how}"
    http_status = 406

    @property
    def extra(self) -> dict[str, Any]:
        """The ids that it is about."""
        return {key: value for key, value in self.facts.items() if key not in ("why", "how")}


class BadRequest(LibtoolError):
    """The request could not be understood."""

    message = "The request could not be understood: {why}"
    remedy = "Send the JSON that the protocol describes."
    http_status = 422


class TooLarge(LibtoolError):
    """The request is larger than this librarian takes."""

    message = "The request is too large: {why}"
    remedy = "Send it in smaller parts."
    http_status = 413


class NoSuchTransfer(LibtoolError):
    """Spelled as stock librarians do, since their operators know it."""

    message = "Could not find transfer."
    remedy = "Check the transfer's number, and that the account is named like the destination."
    http_status = 400


class CannotResend(LibtoolError):
    """The file cannot be sent anew now; nothing was changed on either side."""

    message = "The file cannot be sent now: {why}"
    remedy = "Keep what you have and ask again later."
    http_status = 409
