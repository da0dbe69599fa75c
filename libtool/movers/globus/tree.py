"""A tree behind a collection: listed and changed by the service's file operations, which act at once and one at a time.

Of a rename nothing is believed but what both places show afterwards, unless the service says plainly that it was done:
an answer may be lost, and some services replace what lies at the target. So the target is looked at first, and no rename
is sent twice by itself.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

from libtool.errors import CarrierBarred, CarrierUnknown, DirectoryUnreadable
from libtool.movers.globus.access import KIND, Access, Definite, entries
from libtool.names import above, shown
from libtool.trees.base import ASIDE, Gone, Portion, Seen, Tree, Way

#: Entries that the service lists of one directory at most.
MOST_LISTED = 100_000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
#: Databases keep 63 bits.
_MOST = (1 << 63) - 1
#: How the service spells bytes that are no UTF-8.
_NO_TEXT = "\ufffd"
#: What an error of the service ends with when it is about the way to the collection rather than about a path.
_UNCLEAR = ("ConnectFailed", "LoginFailed", "Timeout")
_Trouble = (Definite, CarrierUnknown, CarrierBarred)
T = TypeVar("T")


class CollectionTree(Tree):
    """See the module's text. ``pause``: least seconds between two calls."""

    immediate = False

    def __init__(self, access: Access, collection: str, root: str, pause: float = 0.0) -> None:
        self._access, self.collection, self._pause = access, collection, pause
        self.root = "".join(f"/{part}" for part in root.split("/") if part)
        self._called: float | None = None
        self._straight = {""}  #: directories that were reached through no link
        self._lying: dict[str, set[str]] = {}  #: place → names in it; nobody but us, under a lock, puts anything there

    def _call(self, method: str, *arguments: Any, read: Callable[[Any], T], **options: Any) -> T:
        if self._pause and self._called is not None:
            time.sleep(max(0.0, self._called + self._pause - time.monotonic()))
        self._called = time.monotonic()
        try:
            return self._access.call(method, self.collection, *arguments, read=read, **options)
        except Definite as refusal:
            if not refusal.code:  # half an answer, or one that is not the service's own
                raise CarrierUnknown(carrier=KIND, why=refusal.why, everywhere=False) from None
            raise

    def unable(self) -> str:
        """Some kinds of storage have no renaming."""
        try:
            supported = self._call("operation_ls", self.path(""), limit=1, read=lambda it: it.get("rename_supported"))
        except _Trouble as trouble:
            raise self._meant(trouble, "") from None
        return "the collection cannot rename" if supported is False else ""

    def path(self, path: str) -> str:
        """As the collection shows it."""
        return f"{self.root}/{path}" if path else self.root or "/"

    # -- what troubles mean ------------------------------------------------------------------------------------------

    def _meant(self, trouble: Exception, path: str) -> Exception:
        """What an answer to a question about a path says; Gone only when the root can be seen even so."""
        code, why = _code(trouble), _why(trouble)
        if "EndpointNotFound" in code:
            how = "Compare it with the ids in the Globus web app."
            why = f"there is no collection {self.collection} ({why})"
            return CarrierBarred(carrier=KIND, why=why, how=how, cause="collection", everywhere=False)
        if _is_missing(code):
            if path:
                self._check_root()
                return Gone(path)
            return CarrierUnknown(
                carrier=KIND, why=f"the collection shows no directory {self.path('')}", everywhere=False, absent=True
            )
        if not path:
            return CarrierUnknown(carrier=KIND, why=why, everywhere=False) if isinstance(trouble, Definite) else trouble
        if isinstance(trouble, Definite) or "PermissionDenied" in code:
            return DirectoryUnreadable(path=self.path(path), why=why)
        return trouble

    def _check_root(self) -> None:
        """What lies below a root that is not there says nothing: it may come back."""
        try:
            kind = self._call("operation_stat", self.path(""), read=_kind_of)
        except _Trouble as trouble:
            raise self._meant(trouble, "") from None
        if kind not in ("dir", "link"):
            raise CarrierUnknown(carrier=KIND, why=f"{self.path('')} is no directory there", everywhere=False)

    def _kind(self, path: str) -> str | None:
        """What lies at a path: ``dir``, ``file``, ``link`` or another word; None when nothing does."""
        try:
            return self._call("operation_stat", self.path(path), read=_kind_of)
        except _Trouble as trouble:
            if _is_missing(_code(trouble)):
                return None
            raise self._meant(trouble, path) from None

    def _is_straight(self, directory: str) -> bool:
        """Whether a directory is there, and no part of its path is a link; what was found so is believed for this run."""
        for path in [*above(directory), directory]:
            if path not in self._straight:
                if self._kind(path) != "dir":
                    return False
                self._straight.add(path)
        return True

    # -- looking -----------------------------------------------------------------------------------------------------

    def _list(self, directory: str, read: Callable[[Any], T], cut: T) -> T:
        """Read the list of a directory; ``cut`` when the service says that it is too long to be shown at all."""
        try:
            path = self.path(directory)
            return self._call("operation_ls", path, show_hidden=True, orderby="name", read=read)
        except _Trouble as trouble:
            if "SizeLimit" in _code(trouble):
                return cut
            raise self._meant(trouble, directory) from None

    def list(self, directory: str) -> Iterator[Portion]:
        """All at once: the service has no portions that fit together."""
        if not self._is_straight(directory):
            self._check_root()
            raise Gone(directory)
        portion = self._list(directory, _read_portion, Portion(whole=False))
        if not directory and not self.root and "~" in (*portion.directories, *(seen.name for seen in portion.files)):
            # "/~/" is somebody's home, wherever that is.
            portion.directories = [name for name in portion.directories if name != "~"]
            portion.files = [seen for seen in portion.files if seen.name != "~"]
            portion.strange.append("~")
        self._straight.update(f"{directory}/{name}" if directory else name for name in portion.directories)
        yield portion

    def lacks(self, directory: str, names: Sequence[str]) -> Sequence[str]:
        """One list for all of them."""
        try:
            there = self._list(directory, _read_names, None)
        except Gone:
            return [*names]
        return [name for name in names if name not in there] if there is not None else []

    def aside(self, place: str) -> Mapping[str, Seen | None]:
        """One list."""
        directory = f"{ASIDE}/{place}"
        try:
            portion = self._list(directory, _read_portion, Portion(whole=False))
        except Gone:
            return {}
        if not portion.whole:
            raise DirectoryUnreadable(path=self.path(directory), why="it has more entries than the service lists")
        found: dict[str, Seen | None] = {seen.name: seen for seen in portion.files}
        return found | dict.fromkeys([*portion.directories, *portion.strange])

    # -- moving ------------------------------------------------------------------------------------------------------

    def make_place(self, place: str) -> None:
        """One directory in another."""
        for path in (ASIDE, f"{ASIDE}/{place}"):
            self._mkdir(path)

    def _mkdir(self, path: str) -> None:
        """Make a directory; whatever the service says of it, one that is there is fine."""
        try:
            self._call("operation_mkdir", self.path(path), read=_told("Created"))
            return
        except _Trouble as trouble:
            if isinstance(trouble, CarrierBarred) and trouble.facts["cause"] != "permission":
                raise
            kind, refused = self._kind(path), trouble
        if kind is None:
            self._check_root()
            if isinstance(refused, Definite):
                raise DirectoryUnreadable(path=self.path(path), why=refused.why) from None
            raise refused
        if kind != "dir":
            raise DirectoryUnreadable(path=self.path(path), why=f"something else lies there ({shown(kind)})")

    def set_aside(self, path: str, place: str, name: str) -> Way:
        """One rename, after one list per place and run."""
        directory, aside = path.rpartition("/")[0], f"{ASIDE}/{place}/{name}"
        if self._lies(place, name):
            straight = self._is_straight(directory)
            return Way.OCCUPIED if straight and self._kind(path) is not None else Way.MOVED
        if not self._is_straight(directory):
            self._check_root()
            return Way.MISSING
        lying = self._lying.pop(place, None)
        way = self._rename(path, aside)
        if lying is not None and way is Way.MOVED:  # otherwise the next one looks anew
            lying.add(name)
            self._lying[place] = lying
        return way

    def _lies(self, place: str, name: str) -> bool:
        """Whether something has this name in a place; the place must be there."""
        directory = f"{ASIDE}/{place}"
        if place not in self._lying:
            try:
                there = self._list(directory, _read_names, None)
            except Gone:
                raise DirectoryUnreadable(path=self.path(directory), why="it is not there") from None
            if there is None:
                return self._kind(f"{directory}/{name}") is not None
            self._lying[place] = there
        return name in self._lying[place]

    def bring_back(self, place: str, name: str, path: str) -> Way:
        """One rename, after a look at every directory on the way and at the target."""
        aside = f"{ASIDE}/{place}/{name}"
        self._lying.pop(place, None)
        if self._kind(aside) is None:
            if self._is_straight(path.rpartition("/")[0]) and self._kind(path) is not None:
                return Way.MOVED
            self._check_root()
            return Way.MISSING
        for directory in above(path):
            kind = self._kind(directory)
            if kind is None:
                self._mkdir(directory)
            elif kind != "dir":
                return Way.OCCUPIED
        if self._kind(path) is not None:
            return Way.OCCUPIED
        return self._rename(aside, path)

    def _rename(self, source: str, target: str) -> Way:
        """Rename; what the service does not say plainly is found out by looking."""
        try:
            paths = (self.path(source), self.path(target))
            self._call("operation_rename", *paths, read=_told("Renamed"), once=True)
            return Way.MOVED
        except _Trouble as trouble:
            if isinstance(trouble, CarrierBarred) and trouble.facts["cause"] != "permission":
                raise
            refused: Exception = trouble
        here, there = self._kind(source), self._kind(target)
        if here is None and there is None:
            self._check_root()
            return Way.MISSING
        if here is None:
            return Way.MOVED
        if there is not None:
            return Way.OCCUPIED
        code = _code(refused)
        plain = "RenameFailed." in code and not code.endswith(_UNCLEAR)
        if plain or isinstance(refused, (Definite, CarrierBarred)):
            raise DirectoryUnreadable(path=self.path(source), why=_why(refused))
        raise refused


def _code(trouble: Exception) -> str:
    """The service's word for what is the matter; empty when it said nothing."""
    return trouble.code if isinstance(trouble, Definite) else str(getattr(trouble, "facts", {}).get("code") or "")


def _why(trouble: Exception) -> str:
    return trouble.why if isinstance(trouble, Definite) else str(getattr(trouble, "facts", {}).get("why") or trouble)


def _is_missing(code: str) -> bool:
    """Whether the service says that a path leads to nothing, or to no directory."""
    return ("NotFound" in code and "EndpointNotFound" not in code) or code.endswith("NotDirectory")


def _told(word: str) -> Callable[[Any], None]:
    """Reads the answer of an operation that was done."""

    def read(answer: Any) -> None:
        if word not in str(answer["code"]):
            raise ValueError("it does not say that it was done")

    return read


def _kind_of(answer: Any) -> str:
    """The kind of one file document; the service shows a link as what it leads to."""
    kind = answer["type"]
    if not isinstance(kind, str):
        raise ValueError("no kind of file")
    return "link" if answer.get("link_target") is not None else kind


def _listed(answer: Any) -> tuple[Sequence[Mapping[str, Any]], bool]:
    """The entries of a list, and whether they are all; ValueError when it is none of a directory."""
    found = entries(answer)
    length, total = answer.get("length", len(found)), answer.get("total")
    if length != len(found) or not (total is None or (isinstance(total, int) and total >= length)):
        raise ValueError("its counts do not fit")
    for entry in found:
        name = entry["name"]
        if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
            raise ValueError("no name of a file")
    return found, len(found) < MOST_LISTED and total in (None, len(found))


def _read_names(answer: Any) -> set[str] | None:
    """Every name in a directory; None when the service does not show all."""
    found, whole = _listed(answer)
    return {entry["name"] for entry in found} if whole else None


def _read_portion(answer: Any) -> Portion:
    """What is in a directory. What has no size or time, or shares its name, cannot be followed: it is strange."""
    found, whole = _listed(answer)
    portion, times = Portion(whole=whole), Counter(entry["name"] for entry in found)
    for entry in found:
        name, kind = entry["name"], _kind_of(entry)
        if name == ASIDE:
            continue
        if kind not in ("file", "dir") or times[name] > 1 or name.startswith(_NO_TEXT):
            portion.strange.append(shown(name))
        elif kind == "dir":
            portion.directories.append(name)
        elif (seen := _seen(name, entry)) is not None:
            portion.files.append(seen)
        else:
            portion.strange.append(shown(name))
    return portion


def _seen(name: str, entry: Mapping[str, Any]) -> Seen | None:
    """A file of a list; None when the service tells no size or time of it."""
    size, told = entry.get("size"), entry.get("last_modified")
    if size is None or told is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= _MOST:
        raise ValueError("no size")
    if told[4:5].isdecimal():
        return None  # a year with more digits than Python knows, as some disks have it
    moment = datetime.fromisoformat(told.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    mtime = (moment - _EPOCH) // timedelta(microseconds=1) * 1000
    return Seen(name, size, min(max(mtime, -_MOST), _MOST), 0, 0)
