"""Run it as often as you like: many processes of each command at once do everything once."""

from __future__ import annotations

from pathlib import Path

from libtool.models.tables import File, IncomingTransfer, Instance, OutgoingTransfer, RemoteInstance, SendQueue
from tests.sites import ROUND, Pair, tree

PROCESSES, FILES = 8, 1000


def test_eight_processes_of_each_command_at_once(any_pair: Pair, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for n in range(FILES):
        path = source / f"{n % 20}" / f"{n}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % n)
    any_pair.a.run(0, "ingest", "--recursive", str(source))
    any_pair.a.write(commands={"send-clone": {"destination_librarian": "b", "send_batch_size": 50}})
    codes: set[int] = set()
    for _ in range(3):
        running = [
            getattr(any_pair, who).spawn(command) for _ in range(PROCESSES) for who, command in ROUND
        ]
        for process in running:
            out, err = process.communicate()
            codes.add(process.returncode)
            assert (out, err) == (b"", b""), err.decode()
    assert codes <= {0, 75}
    any_pair.until_quiet()
    assert any_pair.b.stored() == tree(source)
    assert any_pair.b.staged() == []
    with any_pair.a.open():
        assert RemoteInstance.select().count() == FILES
        assert OutgoingTransfer.select().count() == FILES  # nothing was tried twice
        assert sum(item.files for item in SendQueue.select()) == FILES
    with any_pair.b.open():
        assert (File.select().count(), Instance.select().count()) == (FILES, FILES)
        assert IncomingTransfer.select().count() == FILES


def test_eight_ingests_of_the_same_tree_at_once(any_pair: Pair, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for n in range(200):
        (source / str(n)).write_bytes(b"%d" % n)
    running = [any_pair.a.spawn("ingest", "--recursive", str(source)) for _ in range(PROCESSES)]
    for process in running:
        process.communicate()
        assert process.returncode in (0, 3)  # 3: some were just being brought in by another
    any_pair.a.run(0, "ingest", "--recursive", str(source))
    assert any_pair.a.stored() == tree(source)
    assert any_pair.a.staged() == []
    assert any_pair.a.status()["files"] == any_pair.a.status()["instances"] == 200
