"""Reading copies where they lie, to know what they are now."""

from __future__ import annotations

from dataclasses import dataclass

from libtool import digest
from libtool.archive.hands import Host
from libtool.errors import LibtoolError
from libtool.models.base import writing
from libtool.models.tables import File, Instance
from libtool.models.tables import Store as StoreRow


@dataclass(frozen=True, slots=True)
class Reading:
    """What one copy turned out to be just now."""

    file: File
    instance: Instance
    size: int
    checksum: str
    good: bool


def read_copies(host: Host, name: str) -> list[Reading] | None:
    """Read every available copy of a file here; None when no file has that name. Unreadable copies are left out."""
    file = File.get_or_none(File.name == name)
    if file is None:
        return None
    readings = []
    copies = Instance.select(Instance, StoreRow).join(StoreRow)
    for instance in copies.where(Instance.file == file.id, Instance.available, StoreRow.enabled):
        reading = read(host, file, instance)
        if reading is not None:
            readings.append(reading)
    return readings


def read(host: Host, file: File, instance: Instance) -> Reading | None:
    """Read one copy and remember when it was found right; None when it cannot be read now, which is no verdict."""
    function, _ = digest.split(file.checksum)
    try:
        store = host.store(instance.store)
        store.check_readable()
        path = store.path(file.name)
        size, checksum = digest.size_of(path), digest.of_path(path, function)
    except (OSError, LibtoolError):
        return None
    good = size == file.size and bool(digest.same(checksum, file.checksum))
    if good:
        with writing("verified"):
            Instance.update(verified_time=host.now()).where(Instance.id == instance.id).execute()
    return Reading(file, instance, size, checksum, good)
