"""The main job: what is ingested at a is at b, verified, and known on both sides."""

from __future__ import annotations

from pathlib import Path

from tests.sites import Pair, tree


def fill(top: Path, count: int = 12) -> Path:
    """A small tree with every kind of harmless oddity in names and sizes."""
    source = top / "source"
    for n in range(count):
        path = source / f"night {n % 3}" / f"f'{n}\"é.dat"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * n * 1000)
    (source / "line\nbreak").write_text("newline")
    (source / ("long" * 60)).write_text("long")
    (source / "a/b/c/d/e/f/g").mkdir(parents=True)
    (source / "a/b/c/d/e/f/g/deep").write_text("deep")
    return source


def test_a_tree_arrives_whole_and_a_second_round_is_silent(any_pair: Pair, tmp_path: Path) -> None:
    source = fill(tmp_path)
    any_pair.a.run(0, "ingest", "--recursive", str(source))
    any_pair.round()
    assert any_pair.b.stored() == tree(source)
    assert any_pair.b.staged() == []
    assert any_pair.a.status()["remote_instances"] == len(tree(source))
    assert any_pair.quiet()
    for ran in any_pair.round():
        assert (ran.out, ran.err) == ("", "")


def test_a_directory_travels_as_one_file(any_pair: Pair, tmp_path: Path) -> None:
    source = fill(tmp_path)
    (source / "a/link").symlink_to("b/c/d/e/f/g/deep")
    any_pair.a.run(0, "ingest", str(source), "night one")
    any_pair.round()
    expected = {f"night one/{name}": content for name, content in tree(source).items()}
    assert any_pair.b.stored() == expected
    assert any_pair.a.status()["files"] == any_pair.a.status()["remote_instances"] == 1
