"""One file of a transfer: from the source straight to its final name, as far as the bandwidth allows."""

from __future__ import annotations

import os
import stat
from fnmatch import fnmatchcase

from tests.globus_service.places import DESTINATION, SOURCE, Trouble, digest, locate, to_text
from tests.globus_service.tasks import Subtask, Task
from tests.globus_service.world import Collection, World

CHUNK = 1 << 16
#: What ``skip_source_errors`` leaves out.
SKIPPABLE = ("FILE_NOT_FOUND", "PERMISSION_DENIED", "AMBIGUOUS_PATH")


class Suspended(Exception):
    """The bandwidth is used up for now."""


class WholeTask(Exception):
    """The whole task fails."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(description)
        self.code, self.description = code, description


class Copy:
    """One attempt at one file or directory; raises Trouble, Suspended or WholeTask."""

    def __init__(self, world: World, task: Task, subtask: Subtask) -> None:
        assert task.destination is not None
        self.world, self.task, self.subtask = world, task, subtask
        self.source, self.destination = task.source, task.destination
        self.about = {
            "paths": (subtask.source, subtask.destination),
            "task": task.task_id,
            "collections": (self.source.id, self.destination.id),
        }

    def run(self) -> None:
        """Do what there is to do."""
        subtask, faults = self.subtask, self.world.faults
        if faults.strike("missing", **self.about):
            raise Trouble("FILE_NOT_FOUND", SOURCE, f"No such file or directory: {subtask.source}")
        for fault in faults.matching("perm", **self.about):
            if fault.strike():
                raise Trouble("PERMISSION_DENIED", fault["side"], "Permission denied")
        here = locate(self.world, self.source, subtask.source, SOURCE)
        if self.destination.read_only:
            raise Trouble("PERMISSION_DENIED", DESTINATION, "The collection is read-only")
        there = locate(self.world, self.destination, subtask.destination, DESTINATION)
        try:
            found = os.stat(here)
            with open(here, "rb") if stat.S_ISREG(found.st_mode) else os.scandir(here):
                pass
        except OSError as error:
            raise Trouble.of(error, SOURCE) from None
        directory = stat.S_ISDIR(found.st_mode)
        if subtask.recursive is not None and subtask.recursive != directory:
            raise Trouble("IS_A_DIRECTORY" if directory else "NOT_A_DIRECTORY", SOURCE, f"Unexpected kind of file: {subtask.source}")
        try:
            if directory:
                self._expand(here, there)
            else:
                self._file(here, there)
        except OSError as error:
            raise Trouble.of(error, DESTINATION) from None
        subtask.state = "succeeded"

    def _expand(self, here: bytes, there: bytes) -> None:
        """Make the directory, and subtasks of all that is in it; links are left out."""
        self.subtask.directory = True
        os.makedirs(there, exist_ok=True)
        for entry in sorted(os.scandir(here), key=lambda entry: entry.name):
            name = to_text(entry.name)
            directory = entry.is_dir(follow_symlinks=False)
            if entry.is_symlink() or not self._chosen(name, "dir" if directory else "file"):
                continue
            source, destination = (f"{path.rstrip('/')}/{name}" for path in (self.subtask.source, self.subtask.destination))
            self.task.subtasks.append(Subtask(self.subtask.item, source, destination, directory, directory=directory))

    def _chosen(self, name: str, kind: str) -> bool:
        for rule in self.task.document.get("filter_rules") or ():
            if rule.get("type") in (None, kind) and fnmatchcase(name, rule["name"]):
                return bool(rule.get("method", "exclude") == "include")
        return True

    def _file(self, here: bytes, there: bytes) -> None:
        subtask = self.subtask
        if subtask.begun is None:
            seen = os.stat(here)
            if os.path.isdir(there):
                raise Trouble("IS_A_DIRECTORY", DESTINATION, f"The destination is a directory: {subtask.destination}")
            if here == there:
                raise WholeTask("ENDPOINT_ERROR", f"source and destination are the same file: {subtask.source}")
            if self._up_to_date(here, there):
                self.task.files_skipped += 1
                return
            os.makedirs(os.path.dirname(there), exist_ok=True)
            if self.destination.quota is not None and os.path.exists(there):
                self.destination.quota += os.path.getsize(there)
            with open(there, "wb"):
                pass
            subtask.begun, subtask.offset, subtask.size = (seen.st_size, seen.st_mtime_ns), 0, seen.st_size
        self._move(here, there)
        self._compare(here, there)
        if self.task.wants("preserve_timestamp"):
            os.utime(there, (subtask.begun[1] // 10**9, subtask.begun[1] // 10**9))
        subtask.arrived = True
        self._afterwards(here)

    def _up_to_date(self, here: bytes, there: bytes) -> bool:
        """Whether sync_level says that there is nothing to do."""
        level = self.task.document.get("sync_level")
        if level is None or not os.path.exists(there):
            return False
        ours, theirs = os.stat(here), os.stat(there)
        if level == 0:
            return True
        if level == 1:
            return ours.st_size == theirs.st_size
        if level == 2:
            return int(ours.st_mtime) <= int(theirs.st_mtime)
        return ours.st_size == theirs.st_size and digest(here) == digest(there)

    def _move(self, here: bytes, there: bytes) -> None:
        subtask, task = self.subtask, self.task
        with open(here, "rb") as source, open(there, "r+b", buffering=0) as destination:
            source.seek(subtask.offset)
            destination.seek(subtask.offset)
            while subtask.offset < subtask.size:
                # A little more, because fractions of bytes do not add up to exactly one.
                most = int(min(CHUNK, subtask.size - subtask.offset, task.allowance + 1e-6))
                if most == 0:
                    raise Suspended
                chunk = source.read(most)
                if not chunk:
                    break
                self._write(destination, self._corrupted(chunk))
                self._grow(here)
        self._grow(here)

    def _write(self, destination: object, chunk: bytes) -> None:
        """Write what fits."""
        code, fits = "", len(chunk)
        quota = self.destination.quota
        if quota is not None and quota < fits:
            code, fits = "QUOTA_EXCEEDED", max(0, quota)
        about = {**self.about, "collections": (self.destination.id,)}
        filling = self.world.faults.matching("nospace", **about)
        for fault in filling:
            if fault.written + fits > fault["after"]:
                fault.strike()
                code, fits = "NO_SPACE_LEFT", max(0, fault["after"] - fault.written)
        written = destination.write(chunk[:fits])  # type: ignore[attr-defined]
        for fault in filling:
            fault.written += written
        if self.destination.quota is not None:
            self.destination.quota -= written
        self.subtask.offset += written
        self.task.bytes_transferred += written
        self.task.allowance -= written
        if code:
            raise Trouble(code, DESTINATION, "The file does not fit")

    def _corrupted(self, chunk: bytes) -> bytes:
        """The chunk as it arrives; only the first of a file can be struck."""
        if self.subtask.offset == 0 and self.world.faults.strike("corrupt", **self.about):
            return bytes([chunk[0] ^ 0xFF]) + chunk[1:]
        return chunk

    def _grow(self, here: bytes) -> None:
        if fault := self.world.faults.strike("grow", **self.about):
            with open(here, "ab") as stream:
                stream.write(fault["content"])

    def _compare(self, here: bytes, there: bytes) -> None:
        """Do what the service does to be sure that the copy is good."""
        subtask, item = self.subtask, self.subtask.item
        if os.stat(here).st_size != subtask.size or subtask.offset != subtask.size:
            raise Trouble("FILE_SIZE_CHANGED", SOURCE, f"The size changed while the file was copied: {subtask.source}")
        expected = item.get("external_checksum")
        unverified = self.source.disable_verify or self.destination.disable_verify
        if not expected and (unverified or not self.task.wants("verify_checksum", True)):
            return
        algorithm = item.get("checksum_algorithm") or "MD5"
        try:
            ours, theirs = digest(here, algorithm), digest(there, algorithm)
        except ValueError:
            raise WholeTask("ENDPOINT_ERROR", f"unsupported checksum algorithm {algorithm}") from None
        self.task.bytes_checksummed += subtask.size
        if expected and (ours != expected.lower() or theirs != expected.lower()):
            raise WholeTask("EXTERNAL_CHECKSUM_MISMATCH", f"the checksum of {subtask.source} is not the one that was given")
        if ours != theirs:
            raise Trouble("VERIFY_CHECKSUM", DESTINATION, f"The checksums differ: {ours} and {theirs}")
        subtask.checksum, subtask.algorithm = theirs, algorithm

    def _afterwards(self, here: bytes) -> None:
        """Change the source behind the service's back."""
        if self.world.faults.strike("replace", **self.about):
            with open(here, "rb") as stream:
                content = stream.read()
            with open(here, "wb") as stream:
                stream.write(bytes(byte ^ 0xFF for byte in content))
        if self.world.faults.strike("touch", **self.about):
            status = os.stat(here)
            os.utime(here, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


def offline(world: World, collection: Collection, task: str = "", **about: object) -> bool:
    """Whether a collection cannot be reached."""
    if not collection.connected:
        return True
    return world.faults.strike("gcp_offline", collections=(collection.id,), task=task, **about) is not None
