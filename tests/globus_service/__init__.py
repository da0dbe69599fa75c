"""Globus for tests: Auth and Transfer on loopback, on a clock that the test moves, with real bytes in real directories.

``service`` is what tests hold; ``world`` is everything it remembers. ``auth``, ``transfer`` and ``operations`` answer
requests, ``moving`` works on tasks, ``faults`` makes things go wrong, and ``server`` speaks HTTP.
"""

from __future__ import annotations

from tests.globus_service.faults import Fault
from tests.globus_service.service import GlobusService
from tests.globus_service.tasks import Subtask, Task
from tests.globus_service.world import Collection, Identity, ServiceAccount

__all__ = ["Collection", "Fault", "GlobusService", "Identity", "ServiceAccount", "Subtask", "Task"]
