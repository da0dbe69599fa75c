"""The work on tasks: who has a slot, what is due, what goes wrong, and when it is tried again."""

from __future__ import annotations

import glob
import json
import os
import shutil
from datetime import datetime, timedelta

from tests.globus_service.copying import SKIPPABLE, Copy, Suspended, WholeTask, offline
from tests.globus_service.faults import Fault
from tests.globus_service.places import DESTINATION, SOURCE, Trouble, locate, to_bytes, to_text
from tests.globus_service.tasks import ACTIVE, DELETE, FAILED, INACTIVE, LIFETIME, SUCCEEDED, TRANSFER, Subtask, Task
from tests.globus_service.world import HISTORY, World

SLOTS = 3
PAUSED_LIFETIME = timedelta(days=90)
_AT_ONCE = float("inf")


class Hands:
    """Works on the tasks of a world."""

    def __init__(self, world: World) -> None:
        self.world = world

    def work(self) -> None:
        """Do all that can be done at this instant."""
        with self.world.lock:
            self.world.close_history(self.world.now - HISTORY)
            while self._round():
                pass

    def advance(self, seconds: float) -> None:
        """Move the clock from one instant at which something is due to the next, and work at each."""
        end = self.world.now + timedelta(seconds=seconds)
        while True:
            with self.world.lock:
                self.work()
                if self.world.now >= end:
                    return
                self.world.now = min([end, *self._due()])

    def _due(self) -> list[datetime]:
        """The instants to come at which there is something to do."""
        world, found = self.world, []
        for task in world.unfinished():
            found += [task.deadline, task.resume_at]
            found += [s.retry_at for s in task.subtasks if s.open]
            if task.suspended:
                left = min(s.size - s.offset for s in task.subtasks if s.begun and s.open) - task.allowance
                found.append(world.now + timedelta(seconds=max(left, 0) / (self._bandwidth(task) or 1), microseconds=1))
        return [moment for moment in found if moment is not None and moment > world.now]

    def _round(self) -> bool:
        """Work once on every task that has a slot; whether another round can do more."""
        again = False
        for task in self.world.unfinished():
            self._expire(task)
            self._pause(task)
        for kind in (TRANSFER, DELETE):
            ready = [t for t in self.world.unfinished() if t.type == kind and t.status == ACTIVE and not t.is_paused]
            for task in ready[SLOTS:]:
                task.nice_status = "Queued"
                if not task.user_deadline:
                    task.deadline = self.world.now + LIFETIME
            for task in ready[:SLOTS]:
                self._begin(task)
                self._work_on(task)
                again = again or task.ended
        return again

    def _begin(self, task: Task) -> None:
        if not task.started:
            task.started, task.nice_status = True, "OK"
            task.event("STARTED", self.world.now, "started")

    def take(self, task: Task) -> None:
        """Accept a task: it waits for a slot."""
        self.world.accept(task)
        for item in task.items:
            if task.type == TRANSFER:
                task.subtasks.append(Subtask(item, item["source_path"], item["destination_path"], item.get("recursive")))
            else:
                task.subtasks += [Subtask(item, path, "", None) for path in self._globbed(task, item["path"])]

    def _globbed(self, task: Task, path: str) -> list[str]:
        if not task.wants("interpret_globs") or not glob.has_magic(path):
            return [path]
        root = os.path.realpath(os.fsencode(task.source.root)).rstrip(b"/")
        pattern = glob.escape(root) + b"/" + to_bytes(self.world.absolute(task.source, path)).lstrip(b"/")
        return [to_text(found[len(root) :]) for found in sorted(glob.glob(pattern))] or [path]

    def _expire(self, task: Task) -> None:
        if self.world.now >= task.deadline:
            task.end(FAILED, self.world.now, ("EXPIRED", "the deadline of the task has passed"))

    def _pause(self, task: Task) -> None:
        """Pause, resume, suspend and revive the task as its collections and the faults have it."""
        if task.ended:
            return
        now = self.world.now
        message = next((c.paused for c in task.collections if c.paused is not None), None)
        nice = "PAUSED"
        if message is None and any(c.gcp_paused for c in task.collections):
            message, nice = "The personal endpoint is paused by its owner", "GC_PAUSED"
        if message is None and (fault := self._holding("pause", task)):
            message = fault["message"]
        if message is not None and not task.is_paused:
            task.event(nice, now, "paused", message)
            if not task.user_deadline:
                task.deadline = now + PAUSED_LIFETIME
        elif message is None and task.is_paused:
            task.event("UNPAUSED", now, "unpaused")
            task.nice_status = "OK" if task.started else "Queued"
            if not task.user_deadline:
                task.deadline = now + LIFETIME
        task.is_paused, task.pause_message = message is not None, message
        if task.is_paused:
            task.nice_status = nice
        fault = self._holding("inactive", task)
        if fault and task.status == ACTIVE:
            task.status = INACTIVE
            task.troubled(fault["code"], now, "The credentials have expired")
        elif not fault and task.status == INACTIVE:
            task.status, task.nice_status = ACTIVE, "OK"

    def _holding(self, name: str, task: Task) -> Fault | None:
        if not any(fault.name == name for fault in self.world.faults.armed):
            return None
        paths = [path for item in task.items for key, path in item.items() if key in ("path", "source_path", "destination_path")]
        about = {"paths": paths, "collections": [c.id for c in task.collections]}
        return self.world.faults.holding(name, task.task_id, **about)

    def _bandwidth(self, task: Task) -> float | None:
        return min((c.bandwidth for c in task.collections if c.bandwidth is not None), default=None)

    def _work_on(self, task: Task) -> None:
        now = self.world.now
        if fault := self._holding("task_fail", task):
            task.end(FAILED, now, (fault["code"], fault["code"].replace("_", " ").lower()))
            return
        if self._holding("task_hang", task):
            return
        if task.resume_at is not None and now < task.resume_at:
            return
        task.resume_at = None
        if self._stormy(task) or self._offline(task):
            return
        try:
            if task.type == DELETE:
                self._delete(task)
            else:
                self._transfer(task)
        except WholeTask as failure:
            task.end(FAILED, now, (failure.code, failure.description))
            return
        if any(s.state == "retrying" for s in task.subtasks):
            return
        task.nice_status = "OK"
        if not any(s.open for s in task.subtasks):
            self._complete(task)

    def _stormy(self, task: Task) -> bool:
        """Whether ``faults_then_ok`` has another error for the task."""
        fault = self._holding("faults_then_ok", task)
        while fault and task.storm < fault["n"]:
            task.storm += 1
            task.troubled(fault["code"], self.world.now, "This will pass")
            every = self.world.retry_every if fault["every"] is None else fault["every"]
            if every > 0:
                task.resume_at = self.world.now + timedelta(seconds=every)
                return True
        return False

    def _offline(self, task: Task) -> bool:
        for collection in task.collections:
            if offline(self.world, collection, task.task_id):
                code = "GC_NOT_CONNECTED" if collection.personal else "CONNECT_FAILED"
                task.troubled(code, self.world.now, f"{collection.name} cannot be reached")
                task.resume_at = self.world.now + timedelta(seconds=self.world.retry_every)
                return True
        return False

    def _complete(self, task: Task) -> None:
        if any(s.state == "skipped" for s in task.subtasks):
            task.event("SKIPPED_ERRORS", self.world.now, "some source errors were skipped", is_error=True)
        task.end(SUCCEEDED, self.world.now)

    def _transfer(self, task: Task) -> None:
        now, bandwidth = self.world.now, self._bandwidth(task)
        before = task.bytes_transferred
        if bandwidth is None:
            task.allowance = _AT_ONCE
        else:
            passed = (now - (task.moved_at or now)).total_seconds()
            task.allowance = task.allowance + passed * bandwidth if task.suspended else 0.0
        task.moved_at, task.suspended = now, False
        # Directories put further subtasks at the end of the list while it is worked off.
        for subtask in task.subtasks:
            if not subtask.open or (subtask.retry_at is not None and now < subtask.retry_at):
                continue
            try:
                self._attempt(task, subtask)
            except Suspended:
                task.suspended = True
                break
        if task.bytes_transferred > before:
            task.event("PROGRESS", now, "progress", json.dumps({"bytes_transferred": task.bytes_transferred}))

    def _attempt(self, task: Task, subtask: Subtask) -> None:
        now = self.world.now
        try:
            about = {"paths": (subtask.source, subtask.destination), "task": task.task_id}
            if fault := self.world.faults.strike("skip", collections=[c.id for c in task.collections], **about):
                subtask.state, subtask.trouble = "skipped", (fault["code"], f"The source could not be read: {subtask.source}", now)
                return
            Copy(self.world, task, subtask).run()
        except Trouble as trouble:
            if trouble.side == SOURCE and trouble.code in SKIPPABLE and task.wants("skip_source_errors"):
                subtask.state, subtask.trouble = "skipped", (trouble.code, trouble.details, now)
                return
            if trouble.code == "QUOTA_EXCEEDED" and task.wants("fail_on_quota_errors"):
                raise WholeTask(trouble.code, trouble.details) from None
            self._retry(task, subtask, trouble)

    def _retry(self, task: Task, subtask: Subtask, trouble: Trouble) -> None:
        subtask.state, subtask.begun, subtask.offset = "retrying", None, 0
        subtask.retry_at = self.world.now + timedelta(seconds=self.world.retry_every)
        context = [{"operation": "File Transfer" if task.type == TRANSFER else "Delete", "path": subtask.source}]
        task.troubled(trouble.code, self.world.now, json.dumps({"context": context, "error": {"body": trouble.details}}))

    def _delete(self, task: Task) -> None:
        now = self.world.now
        for subtask in task.subtasks:
            if not subtask.open or (subtask.retry_at is not None and now < subtask.retry_at):
                continue
            try:
                self._remove(task, subtask)
            except Trouble as trouble:
                if trouble.code in ("FILE_NOT_FOUND", "NOT_A_DIRECTORY", "IS_A_DIRECTORY"):
                    subtask.state = "failed"
                    raise WholeTask(trouble.code, trouble.details) from None
                self._retry(task, subtask, trouble)

    def _remove(self, task: Task, subtask: Subtask) -> None:
        about = {"paths": (subtask.source,), "task": task.task_id, "collections": (task.source.id,)}
        path = locate(self.world, task.source, subtask.source, DESTINATION, follow=False)
        if task.source.read_only or self.world.faults.strike("perm", **about):
            raise Trouble("PERMISSION_DENIED", DESTINATION, f"Permission denied: {subtask.source}")
        missing = self.world.faults.strike("missing", **about) is not None
        if missing or not os.path.lexists(path):
            if not task.wants("ignore_missing"):
                raise Trouble("FILE_NOT_FOUND", DESTINATION, f"No such file or directory: {subtask.source}")
            subtask.state = "succeeded"
            return
        directory = os.path.isdir(path) and not os.path.islink(path)
        if directory and not task.wants("recursive"):
            raise Trouble("IS_A_DIRECTORY", DESTINATION, f"A directory, and recursive is not set: {subtask.source}")
        try:
            if task.source.quota is not None and not directory:
                task.source.quota += os.lstat(path).st_size
            shutil.rmtree(path) if directory else os.unlink(path)
        except OSError as error:
            raise Trouble.of(error, DESTINATION) from None
        subtask.state, subtask.directory = "succeeded", directory
