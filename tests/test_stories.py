"""Every story of how files were lost elsewhere has its tests, and they are there."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent


def named() -> list[tuple[str, str]]:
    """``(file, test)`` of everything that the stories name."""
    text = (HERE / "stories.rst").read_text(encoding="utf-8")
    return [(file, test) for file, test in re.findall(r"\| (test_\w+)\.(\w+)", text)]


def test_every_test_that_a_story_names_is_there() -> None:
    gone = [
        f"{file}.{test}"
        for file, test in named()
        if not (HERE / f"{file}.py").exists() or not re.search(rf"^ *(def {test}\(|class {test}\b)", (HERE / f"{file}.py").read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert gone == []


def test_every_story_names_a_test() -> None:
    text = (HERE / "stories.rst").read_text(encoding="utf-8")
    stories = [line for line in text.splitlines() if re.match(r"[A-Z].{30,}  \S", line)]
    assert len(stories) > 30
    assert [line for line in stories if "| test_" not in line] == []
