"""What every carrier promises, tried on ``local`` and ``rsync``; and which carrier a provider object asks for."""

from __future__ import annotations

import json
import os
import random
import socket
from pathlib import Path
from typing import Any

import pytest

from libtool import movers, seams
from libtool.movers.base import Arrived, Item, Mover, Stage
from libtool.movers.direct import DirectMover
from libtool.movers.local import LocalMover
from libtool.movers.rsync import RsyncMover
from tests.components import program
from tests.sites import tree

ODD = [
    "a b",
    "q'\"`$(x)",
    "line\nbreak",
    "-rf",
    "--delete",
    "é" * 125,
    "y" * 250,
    "a:b",
    "*?[x]",
    "~",
    "\\",
    " ",
    "@",
    "#",
    "a/b c/-d/e",
]


class Dies(BaseException):
    """Stands for the end of the process."""


class MoverContract:
    """A carrier that writes on this host passes these."""

    KIND: type[DirectMover]
    #: A provider object that this host fulfils.
    PROVIDER: dict[str, Any]

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """Where the carrier may write."""
        (tmp_path / "root/staging").mkdir(parents=True)
        (tmp_path / "source").mkdir()
        return tmp_path / "root"

    @pytest.fixture
    def mover(self, root: Path) -> Mover:
        """The carrier."""
        return self.KIND([str(root)])

    def item(self, root: Path, name: str, content: bytes | dict[str, bytes] | None, target: str | None = None) -> Item:
        """A file or a directory at the source, to be brought to the staging area under the same name."""
        source = root.parent / "source" / name
        if isinstance(content, bytes):
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_bytes(content)
        elif content is not None:
            for inner, piece in content.items():
                (source / inner).parent.mkdir(parents=True, exist_ok=True)
                (source / inner).write_bytes(piece)
            source.mkdir(parents=True, exist_ok=True)
        size = sum(map(len, content.values())) if isinstance(content, dict) else len(content or b"")
        return Item(
            str(source), f"{root}/staging/{name}" if target is None else target, isinstance(content, dict), size
        )

    def carry(
        self, mover: Mover, items: list[Item], ticket: dict[str, Any] | None = None
    ) -> tuple[list[Any], dict[str, Any]]:
        """Submit, poll, ask; the outcomes, and the ticket as it comes back from the database."""
        assert mover.reaches(self.PROVIDER) == ""
        ticket = mover.prepare(self.PROVIDER, "label") if ticket is None else ticket
        ticket = json.loads(json.dumps(mover.submit(self.PROVIDER, json.loads(json.dumps(ticket)), items)))
        assert mover.poll(ticket).stage is Stage.DONE
        return mover.outcomes(ticket, items), ticket

    def test_files_directories_and_empty_ones_arrive_as_they_are(self, mover: Mover, root: Path) -> None:
        items = [
            self.item(root, "f", b"bytes"),
            self.item(root, "sub/dir/g", b"x" * 3_000_000),
            self.item(root, "empty", b""),
            self.item(root, "d", {"a": b"1", "b/.hidden": b"", "b/c/d": b"3"}),
            self.item(root, "hollow", {}),
        ]
        outcomes, _ = self.carry(mover, items)
        assert [outcome.arrived for outcome in outcomes] == [Arrived.YES] * 5
        assert tree(root / "staging") == tree(root.parent / "source")
        assert (root / "staging/hollow").is_dir()
        assert not [path for path in root.rglob("*") if path.name.startswith(".libtool-")]

    def test_odd_names_arrive_under_exactly_that_name(self, mover: Mover, root: Path) -> None:
        items = [self.item(root, name, name.encode()) for name in ODD]
        items.append(self.item(root, "odd dir", {name: b"x" for name in ODD}))
        outcomes, _ = self.carry(mover, items)
        assert [outcome for outcome in outcomes if outcome.arrived is not Arrived.YES] == []
        assert tree(root / "staging") == tree(root.parent / "source")

    def test_a_link_inside_a_directory_arrives_as_the_file_it_leads_to(self, mover: Mover, root: Path) -> None:
        item = self.item(root, "d", {"a": b"1", "b/c": b"2"})
        os.symlink("b/c", f"{item.source}/link")
        outcomes, _ = self.carry(mover, [item])
        assert outcomes[0].arrived is Arrived.YES
        assert tree(root / "staging/d") == {"a": b"1", "b/c": b"2", "link": b"2"}
        assert not (root / "staging/d/link").is_symlink()

    def test_a_mostly_empty_file_stays_mostly_empty(self, mover: Mover, root: Path) -> None:
        item = self.item(root, "f", b"begin")
        os.truncate(item.source, 64 * 2**20)
        if os.stat(item.source).st_blocks * 512 > 2**20:
            pytest.skip("this file system has no holes")
        outcomes, _ = self.carry(mover, [item])
        assert outcomes[0].arrived is Arrived.YES
        found = os.stat(item.target)
        assert found.st_size == 64 * 2**20 and found.st_blocks * 512 < 8 * 2**20

    def test_the_group_of_the_destination_may_write_what_arrives(self, mover: Mover, root: Path) -> None:
        before = os.umask(0o002)
        try:
            items = [self.item(root, "f", b"x"), self.item(root, "d", {"sub/g": b"y"})]
            for path in ("f", "d/sub/g"):
                (root.parent / "source" / path).chmod(0o400)
            (root.parent / "source/d/sub").chmod(0o555)
            self.carry(mover, items)
        finally:
            os.umask(before)
        modes = {path: os.stat(root / "staging" / path).st_mode & 0o777 for path in ("f", "d", "d/sub", "d/sub/g")}
        assert modes == {"f": 0o664, "d": 0o775, "d/sub": 0o775, "d/sub/g": 0o664}

    def test_submitting_again_with_the_same_ticket_carries_nothing_twice(self, mover: Mover, root: Path) -> None:
        items = [self.item(root, "f", b"bytes"), self.item(root, "d", {"g": b"x"})]
        first, ticket = self.carry(mover, items)
        before = {str(path): path.stat().st_ino for path in root.rglob("*")}
        again, _ = self.carry(mover, items, ticket)
        assert again == first
        assert {str(path): path.stat().st_ino for path in root.rglob("*")} == before

    def test_after_dying_anywhere_the_same_ticket_brings_the_rest(
        self, mover: Mover, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        items = [
            self.item(root, "f", b"bytes"),
            self.item(root, "d", {"g": b"x", "h/i": b"y"}),
            self.item(root, "j", b"z"),
        ]
        ticket = mover.prepare(self.PROVIDER, "label")
        passed = 0
        die_at = 0

        def watch(name: str) -> None:
            nonlocal passed
            passed += 1
            if passed == die_at:
                raise Dies(name)

        monkeypatch.setattr(seams, "watch", watch)
        while True:
            passed, die_at = 0, die_at + 1
            try:
                mover.submit(self.PROVIDER, ticket, items)
                break
            except Dies:
                continue
        assert die_at > 1
        monkeypatch.setattr(seams, "watch", None)
        outcomes, _ = self.carry(mover, items, ticket)
        assert [outcome.arrived for outcome in outcomes] == [Arrived.YES] * 3
        assert tree(root / "staging") == tree(root.parent / "source")

    @pytest.mark.parametrize("directory", [False, True])
    def test_what_was_half_made_is_made_anew(self, mover: Mover, root: Path, directory: bool) -> None:
        item = self.item(root, "x", {"g": b"bytes"} if directory else b"bytes")
        half = DirectMover._part(item.target)
        if directory:
            os.makedirs(f"{half}/old")
        else:
            Path(half).write_bytes(b"by")
        outcomes, _ = self.carry(mover, [item])
        assert outcomes[0].arrived is Arrived.YES
        assert tree(root / "staging") == ({"x/g": b"bytes"} if directory else {"x": b"bytes"})
        assert not os.path.lexists(half)

    def test_one_that_fails_is_named_and_stops_no_other(self, mover: Mover, root: Path) -> None:
        (root / "staging/blocked").write_text("a file where a directory is needed")
        broken = self.item(root, "broken", {"g": b""})
        os.symlink("gone", f"{broken.source}/link")
        os.mkfifo(root.parent / "source/fifo")
        items = [
            self.item(root, "first", b"1"),
            self.item(root, "missing", None),
            broken,
            self.item(root, "blocked/inner", b"2"),
            self.item(root, "fifo", None),
            self.item(root, "last", b"3"),
        ]
        outcomes, ticket = self.carry(mover, items)
        assert [o.arrived for o in outcomes] == [
            Arrived.YES,
            Arrived.NO,
            Arrived.NO,
            Arrived.NO,
            Arrived.NO,
            Arrived.YES,
        ]
        for outcome, item in list(zip(outcomes, items))[1:-1]:
            assert outcome.why and not outcome.passing, item
        assert "missing" in outcomes[1].why and "broken" in outcomes[2].why
        assert (ticket["files"], ticket["bytes"]) == (2, 2)
        assert {name for name in tree(root / "staging")} == {"first", "last", "blocked"}

    def test_nothing_is_written_outside_of_the_roots(self, mover: Mover, root: Path) -> None:
        outside = root.parent / "outside"
        outside.mkdir()
        (root / "staging/link").symlink_to(outside)
        (root.parent / "root-2").mkdir()
        targets = [
            f"{outside}/f",
            f"{root}/../outside/f",
            f"{root}/staging/../../outside/f",
            f"{root}/staging/link/f",
            f"{root}/staging/link/new/f",
            f"{root}-2/f",
            f"{root}",
            "/f",
            "staging/f",
            "",
        ]
        items = [self.item(root, "f", b"bytes", target) for target in targets]
        items.append(self.item(root, "good", b"bytes"))
        outcomes, _ = self.carry(mover, items)
        assert [outcome.arrived for outcome in outcomes] == [Arrived.NO] * len(targets) + [Arrived.YES]
        assert tree(root) == {"staging/good": b"bytes"}
        assert tree(outside) == tree(root.parent / "root-2") == {}

    def test_a_last_part_that_leads_up_is_refused_whatever_came_before_it(self, mover: Mover, root: Path) -> None:
        first, last = self.item(root, "first", b"1"), self.item(root, "last", b"2")
        up = self.item(root, "f", b"bytes", f"{root}/staging/..")
        outcomes, _ = self.carry(mover, [up, first, up, last])
        assert [outcome.arrived for outcome in outcomes] == [Arrived.NO, Arrived.YES, Arrived.NO, Arrived.YES]
        assert tree(root) == {"staging/first": b"1", "staging/last": b"2"}

    def test_a_place_that_no_path_can_be_is_refused_and_stops_no_other(self, mover: Mover, root: Path) -> None:
        targets = [f"{root}/staging/nul\0f", f"{root}/staging/nul\0d/f"]
        items = [self.item(root, "f", b"bytes", target) for target in targets]
        items.append(self.item(root, "good", b"bytes"))
        outcomes, _ = self.carry(mover, items)
        assert [outcome.arrived for outcome in outcomes] == [Arrived.NO, Arrived.NO, Arrived.YES]
        assert tree(root) == {"staging/good": b"bytes"}

    def test_a_root_may_itself_be_reached_through_a_link(self, root: Path) -> None:
        (root.parent / "alias").symlink_to(root)
        mover = self.KIND([str(root.parent / "alias")])
        outcomes, _ = self.carry(
            mover, [self.item(root, "f", b"x"), self.item(root, "g", b"y", f"{root.parent}/alias/staging/g")]
        )
        assert [outcome.arrived for outcome in outcomes] == [Arrived.YES, Arrived.YES]
        assert tree(root / "staging") == {"f": b"x", "g": b"y"}

    def test_without_roots_nothing_is_reached(self) -> None:
        assert "local_transfer_roots" in self.KIND([]).reaches(self.PROVIDER)

    def test_another_host_is_not_reached_and_named(self, mover: Mover) -> None:
        elsewhere = {
            key: ["elsewhere"] if isinstance(value, list) else "elsewhere" for key, value in self.PROVIDER.items()
        }
        assert "elsewhere" in mover.reaches(elsewhere)
        assert mover.reaches({}) and mover.reaches(dict.fromkeys(self.PROVIDER))

    def test_a_stock_servers_provider_is_understood(self, mover: Mover) -> None:
        assert (
            mover.reaches({**self.PROVIDER, "transfer_attempted": False, "transfer_complete": False, "other": 1}) == ""
        )
        assert mover.refuses("line\nbreak") == ""


class TestLocalMover(MoverContract):
    """The carrier ``local``."""

    KIND = LocalMover
    PROVIDER = {"hostnames": ["elsewhere", socket.gethostname()]}

    def test_hostnames_that_are_no_list_are_not_searched_for_a_part_of_ours(self, mover: Mover) -> None:
        assert mover.reaches({"hostnames": f"x{socket.gethostname()}x"}) != ""


class TestRsyncMover(MoverContract):
    """The carrier ``rsync``, with the real program."""

    KIND = RsyncMover
    PROVIDER = {"hostname": socket.gethostname()}

    @pytest.fixture(autouse=True)
    def _program(self) -> None:
        program("rsync", "rsync")

    def test_without_the_program_nothing_is_reached(self, mover: Mover, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        assert "not installed" in mover.reaches(self.PROVIDER)


@pytest.mark.parametrize(
    "provider, kind",
    [
        ({"destination_endpoint": "uuid"}, "globus"),
        ({"destination_endpoint": "u", "native_app": False, "transfer_attempted": False, "task_id": ""}, "globus"),
        ({"hostname": "h"}, "rsync"),
        ({"hostname": "h", "transfer_attempted": False, "transfer_complete": False}, "rsync"),
        ({"hostnames": ["h"]}, "local"),
        ({"hostnames": [], "start_time_transfer": None, "bytes_transfer": None}, "local"),
        ({"destination_endpoint": "u", "hostname": "h", "hostnames": ["h"]}, "globus"),
        ({"hostname": "h", "hostnames": ["h"]}, "rsync"),
        ({"hostnames": ["h"], "unknown": 1}, "local"),
        ({}, None),
        ({"unknown": 1}, None),
        (None, None),
        ("local", None),
        ([], None),
        (1, None),
    ],
)
def test_the_required_field_of_a_provider_decides_its_kind_and_not_its_name(provider: Any, kind: str | None) -> None:
    assert movers.kind_of(provider) == kind
    fields = list(provider.items()) if isinstance(provider, dict) else []
    random.Random(1).shuffle(fields)
    assert not isinstance(provider, dict) or movers.kind_of(dict(fields)) == kind


@pytest.mark.parametrize(
    "provider",
    [{"destination_endpoint": None}, {"hostname": None}, {"hostname": 5}, {"hostnames": "h"}, {"hostnames": [1]}],
)
def test_a_provider_whose_deciding_field_is_of_the_wrong_type_is_none_that_can_be_used(
    provider: dict[str, Any],
) -> None:
    kind = movers.kind_of(provider)
    if kind == "local":
        assert LocalMover(["/"]).reaches(provider)
    elif kind == "rsync":
        assert RsyncMover(["/"]).reaches(provider)


@pytest.mark.parametrize("kind", list(movers.KINDS))
def test_every_carrier_in_the_table_exists_under_its_own_name(kind: str) -> None:
    module, name = movers.KINDS[kind]
    found = getattr(__import__(module, fromlist=[name]), name)
    assert issubclass(found, Mover) and found.kind == kind
