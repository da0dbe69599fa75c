"""One word, spelled the same everywhere: code, help, README, crontab, units, timers, example configuration."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from libtool import cli, errors, settings
from libtool.endpoints.table import ENDPOINTS
from libtool.keys import EmailSettings, RouteSettings, SmtpSettings, StoreData, StoreSettings
from tests.components import program

TOP = Path(__file__).parent.parent
TASKS = sorted(name for name, (module, _) in cli.COMMANDS.items() if module.startswith("tasks."))
#: Commands that show rows or a state, so that scripts want them as JSON.
SHOWING = [
    "check-endpoint",
    "check-integrity",
    "get-librarian-list",
    "get-store-list",
    "list-users",
    "search-files",
    "status",
    "validate-file",
    "whoami",
]
#: Commands that change or send nothing, and the one that only works in a directory of its own.
HARMLESS = {*SHOWING, "callback", "demo"} - {"check-integrity"}


def readme() -> str:
    """The README."""
    return (TOP / "README.rst").read_text(encoding="utf-8")


def sections(text: str, line: str) -> dict[str, str]:
    """Heading → text below it, up to the next heading of any kind; ``line`` is what headings are underlined with."""
    heads = list(re.finditer(r"^(\S.*)\n([-=~])\2+$", text, re.MULTILINE))
    return {
        head[1]: text[head.end() : after.start() if after else len(text)]
        for head, after in zip(heads, [*heads[1:], None])
        if head[2] == line
    }


def options(name: str) -> set[str]:
    """Every spelling of a command's options."""
    found = cli.parameters(name)
    return {word for each in found if isinstance(each, click.Option) for word in (*each.opts, *each.secondary_opts)}


def described(text: str) -> set[str]:
    """The options that a part of the README describes: those that begin a definition."""
    terms = [line for line in text.splitlines() if line.startswith("``-")]
    return {word for term in terms for word in re.findall(r"``(--?[A-Za-z][a-z-]*)", term)}


# -- the README ---------------------------------------------------------------------------------------------------


def test_every_command_has_a_heading_and_no_other_has() -> None:
    assert set(sections(readme(), "~")) == set(cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_readme_describes_just_the_options_that_there_are(name: str) -> None:
    found = described(sections(readme(), "~")[name])
    if name in TASKS:
        found |= described(sections(readme(), "-")["The background tasks"])
    assert found == options(name)


def test_the_readme_names_no_option_that_does_not_exist() -> None:
    known = {word for name in cli.COMMANDS for word in options(name)}
    known |= {word for each in cli.root.params for word in (*each.opts, *each.secondary_opts)} | {"--help", "--version"}
    # What is typed to other programs stands on lines of its own.
    lines = [line for line in readme().splitlines() if "python -m tests." not in line]
    strange = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", "\n".join(lines))) - known
    assert strange == set()


def test_other_spellings_are_mentioned() -> None:
    for other, name in cli.ALIASES.items():
        assert f"``{other}``" in sections(readme(), "~")[name]


def test_exit_codes_agree() -> None:
    table = re.findall(r"^(\d+) +(\S.*)$", sections(readme(), "-")["Exit codes"], re.MULTILINE)
    assert {int(code): text for code, text in table} == errors.EXIT_CODES
    assert [int(code) for code, _ in table] == list(errors.EXIT_CODES)


def test_every_error_has_an_exit_code_of_the_table() -> None:
    def below(kind: type[errors.LibtoolError]) -> set[type[errors.LibtoolError]]:
        return {kind}.union(*(below(each) for each in kind.__subclasses__()))

    assert {kind.exit_code for kind in below(errors.LibtoolError)} <= set(errors.EXIT_CODES)


#: Keys that hold others, and how the README spells the way to these.
NESTED: dict[str, tuple[Any, str]] = {
    "add_stores": (StoreSettings, "[]."),
    "store_data": (StoreData, "."),
    "routes": (RouteSettings, ".NAME."),
    "email": (EmailSettings, "."),
    "smtp": (SmtpSettings, "."),
}


def keys() -> dict[str, str]:
    """Every key of the configuration with its text, nested ones with their path."""
    found: dict[str, str] = {}

    def add(kind: Any, prefix: str) -> None:
        for item in fields(kind):
            if item.metadata:
                found[f"{prefix}{item.name}"] = item.metadata["text"]
                below = NESTED.get(item.name)
                if below is not None:
                    add(below[0], f"{prefix}{item.name}{below[1]}")

    add(settings.Settings, "")
    return found


def test_every_key_of_the_configuration_is_in_the_readme() -> None:
    text = sections(readme(), "-")["Configuration"]
    table = dict(re.findall(r"^   \* - ``([^`]+)``\n     -.*\n     - (.+)$", text, re.MULTILINE))
    assert table == keys()


def test_commands_that_the_readme_and_the_errors_name_exist() -> None:
    """A remedy that names a command which is not there helps nobody."""
    known = {*cli.COMMANDS, *cli.ALIASES}
    wrong = []
    places = [TOP / "README.rst", TOP / "CHANGELOG.rst", TOP / "crontab.example", *sorted((TOP / "libtool").rglob("*.py"))]
    for place in places:
        for line, text in enumerate(place.read_text(encoding="utf-8").splitlines(), 1):
            # 'libtool word' in quotes of any kind, after options that stand before the command.
            for word in re.findall(r"['`]libtool (?:--config \S+ |-v+ |-q+ )*([a-z][a-z-]+)", text):
                if word not in known:
                    wrong.append(f"{place.relative_to(TOP)}:{line}: libtool {word}")
    assert wrong == []


# -- help ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*cli.COMMANDS, *cli.ALIASES])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Usage: libtool ")
    command = cli.root.get_command(click.Context(cli.root), name)  # type: ignore[attr-defined]
    assert command.help and len(command.help) > 20
    silent = [each.name for each in command.params if isinstance(each, click.Option) and not each.help]
    assert silent == []


def test_the_help_lists_every_command_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for name, (_, line) in cli.COMMANDS.items():
        assert f" {name} {line}" in out


def test_help_works_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "libtool", "callback", "--help"], capture_output=True, check=False)
    assert done.returncode == 0 and b"usage: libtool" in done.stdout


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_the_options_of_tasks(name: str) -> None:
    assert {"--soft-timeout", "--dry-run"} <= options(name)


@pytest.mark.parametrize("name", SHOWING)
def test_every_command_that_shows_rows_can_show_json(name: str) -> None:
    assert {"-F", "--format"} <= options(name)


def test_only_what_shows_rows_asks_how() -> None:
    assert [name for name in cli.COMMANDS if "--format" in options(name) and name not in SHOWING] == []


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name not in HARMLESS])
def test_every_command_that_changes_something_has_a_dry_run(name: str) -> None:
    assert "--dry-run" in options(name)


def test_modules_are_named_like_their_commands() -> None:
    for name, (module, _) in cli.COMMANDS.items():
        assert module.removeprefix("tasks.").removesuffix("_command") == name.replace("-", "_")
    files = {path.stem for path in (TOP / "libtool/commands/tasks").glob("*.py")} - {"__init__", "frame"}
    assert files == {name.replace("-", "_") for name in TASKS}


# -- cron ---------------------------------------------------------------------------------------------------------


def crontab() -> list[tuple[list[str], list[str]]]:
    """``(five times, words)`` of each line, also of those that are switched off."""
    lines = (TOP / "crontab.example").read_text(encoding="utf-8").splitlines()
    lines = [line.removeprefix("# ") if re.match(r"# [\d*]\S* [\d*]", line) else line for line in lines]
    found = [line.split() for line in lines if line and not line.startswith("#") and not re.match(r"\w+=", line)]
    return [(words[:5], words[5:]) for words in found]


def test_the_crontab_runs_every_task() -> None:
    jobs = crontab()
    assert sorted(words[1] for _, words in jobs) == TASKS
    for times, words in jobs:
        assert all(re.fullmatch(r"[\d*/,-]+", each) for each in times)
        assert words[0].startswith("/")
        assert not {"flock", ">", "2>&1", "%"} & set(words)
        assert {word for word in words[2:] if word.startswith("--")} <= options(words[1])
    assert "--destination-librarian" in next(words for _, words in jobs if words[1] == "send-clone")


def test_the_crontab_says_where_mail_goes_and_where_programs_are() -> None:
    text = (TOP / "crontab.example").read_text(encoding="utf-8")
    assert re.search(r"^MAILTO=\S+@\S+$", text, re.MULTILINE)
    path = re.search(r"^PATH=(\S+)$", text, re.MULTILINE)
    assert path and all(each.startswith("/") for each in path[1].split(":"))
    assert text.endswith("\n")  # cron ignores a last line without


def test_cron_takes_the_crontab() -> None:
    done = subprocess.run([program("cron", "crontab"), "-n", TOP / "crontab.example"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done


def test_cron_would_refuse_a_bad_one(tmp_path: Path) -> None:
    bad = tmp_path / "crontab"
    bad.write_text("61 * * * * /bin/true\n")
    done = subprocess.run([program("cron", "crontab"), "-n", bad], capture_output=True, text=True, check=False)
    assert done.returncode != 0, done


# -- systemd ------------------------------------------------------------------------------------------------------


def unit(path: Path) -> configparser.ConfigParser:
    """A unit file."""
    found = configparser.ConfigParser(interpolation=None, strict=True)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read_string(path.read_text(encoding="utf-8"))
    return found


def test_every_task_has_a_service_and_a_timer_and_nothing_else_has() -> None:
    there = {path.name for path in (TOP / "config/systemd").iterdir()}
    assert there == {f"libtool-{name}.{kind}" for name in TASKS for kind in ("service", "timer")}


@pytest.mark.parametrize("name", TASKS)
def test_services_fit_their_tasks(name: str) -> None:
    service = unit(TOP / f"config/systemd/libtool-{name}.service")["Service"]
    words = service["ExecStart"].split()
    assert words[0].startswith("/") and words[1] == name
    assert {word for word in words[2:] if word.startswith("--")} <= options(name)
    assert words[1:] == next(words[1:] for _, words in crontab() if words[1] == name)
    assert service["Type"] == "oneshot"
    assert service["SuccessExitStatus"] == "75"
    assert service["User"] not in ("root", "nobody")
    for key in ("TimeoutStartSec", "NoNewPrivileges", "ProtectSystem", "PrivateTmp", "ReadWritePaths", "SystemCallFilter"):
        assert key in service


@pytest.mark.parametrize("name", TASKS)
def test_timers_spread_and_catch_up(name: str) -> None:
    timer = unit(TOP / f"config/systemd/libtool-{name}.timer")
    assert timer["Timer"]["OnCalendar"]
    assert timer["Timer"]["RandomizedDelaySec"]
    assert timer["Timer"]["FixedRandomDelay"] == timer["Timer"]["Persistent"] == "yes"
    assert timer["Install"]["WantedBy"] == "timers.target"
    assert "Unit" not in timer["Timer"]  # so the service is the one of the same name


# -- the example configuration ------------------------------------------------------------------------------------


def test_the_example_is_made_from_the_settings() -> None:
    assert (TOP / "config/libtool.example.yaml").read_text(encoding="utf-8") == settings.example()


def test_the_example_loads_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(settings.example())
    found = settings.load(str(path))
    assert found.name and found.add_stores and not found.ignored


def test_the_example_loads_with_every_key_given(tmp_path: Path) -> None:
    """The samples behind ``#`` are right, too."""
    names = "|".join(key.rpartition(".")[2] for key in keys())
    text = re.sub(r"^# (  .*)$", r"\1", settings.example(), flags=re.MULTILINE)  # what lies below a key
    text = re.sub(rf"^( *)# ((?:{names}):.*)$", r"\1\2", text, flags=re.MULTILINE)
    given = yaml.safe_load(text)
    assert set(given) == {item.name for item in fields(settings.Settings) if item.metadata}
    for found, kind in (
        (given["add_stores"][0], StoreSettings),
        (given["add_stores"][0]["store_data"], StoreData),
        (given["routes"]["outbox"], RouteSettings),
        (given["email"], EmailSettings),
        (given["email"]["smtp"], SmtpSettings),
    ):
        assert set(found) == {item.name for item in fields(kind)}
    path = tmp_path / "config.yaml"
    path.write_text(text)
    settings.load(str(path))


def test_the_example_loads_as_json(tmp_path: Path) -> None:
    import json

    path = tmp_path / "config.json"
    path.write_text(json.dumps(yaml.safe_load(settings.example())))
    assert settings.load(str(path)).name


# -- the table of trust -------------------------------------------------------------------------------------------


def trust() -> str:
    """README's table of all endpoints, as the code has it."""
    rows = [("endpoint", "level", "whose", "at most")]
    for name, each in ENDPOINTS.items():
        most = "max_body_bytes" if each.most is None else f"{each.most // 1024} KiB"
        rows.append((f"``{name}``", each.level.name, each.owner.value, most))
    widths = [max(map(len, column)) for column in zip(*rows)]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def test_the_readme_shows_the_table_of_trust() -> None:
    assert trust() in readme()
