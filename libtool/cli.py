"""The table of contents: every command, where it is, what it is for. And the one place where an error gets its exit code.

Commands are imported when they are typed, so that starting one costs only what that one needs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

import click

from libtool import __version__, settings
from libtool.commands.words import Frame
from libtool.errors import ConfigurationError, LibtoolError, LockTaken, NoConfiguration

#: Name → (module below libtool.commands, one line of help). The module's function is named like it.
COMMANDS = {
    "demo": ("demo", "Two librarians on this machine, the whole clone, shown as it happens."),
    "setup": ("setup", "Create or migrate the database, make the stores' directories; safe to repeat."),
    "ingest": ("ingest", "Take in a file, a directory as one file, or every file below a directory."),
    "status": ("status", "What is pending, in flight and stuck, and the last run of every task."),
    "search-files": ("search_files", "Show files and where their copies are."),
    "send-clone": ("tasks.send_clone", "Task: stage and queue what a destination lacks."),
    "consume-queue": ("tasks.consume_queue", "Task: ship what is queued."),
    "check-consumed-queue": ("tasks.check_consumed_queue", "Task: learn what arrived, and tell the destination."),
    "recv-clone": ("tasks.recv_clone", "Task: verify and store what is staged, and tell the source."),
    "create-local-clone": ("tasks.create_local_clone", "Task: give what lies in one store a second copy in another."),
    "reconcile": ("tasks.reconcile", "Task: compare what neighbours hold with what is recorded, and settle it."),
    "outgoing-transfer-hypervisor": (
        "tasks.outgoing_transfer_hypervisor",
        "Task: settle what was sent days ago and has not ended.",
    ),
    "incoming-transfer-hypervisor": (
        "tasks.incoming_transfer_hypervisor",
        "Task: settle what was to come here days ago and did not.",
    ),
    "duplicate-remote-instance-hypervisor": (
        "tasks.duplicate_remote_instance_hypervisor",
        "Task: remove records of copies that an older database held twice.",
    ),
    "check-integrity": ("tasks.check_integrity", "Task: re-read copies on a budget, the riskiest first."),
    "corruption-fixer": ("tasks.corruption_fixer", "Task: get damaged and missing copies anew."),
    "rolling-deletion": ("tasks.rolling_deletion", "Task: let old copies go of which enough others are proved."),
    "transfer": ("tasks.transfer", "Task: bring what is new in the directories of routes to their destinations."),
    "delete": ("tasks.delete", "Task: remove at the source of routes what is proved to have arrived."),
    "reset": ("reset", "Forget what is known of a route, so that everything is sent again."),
    "retry": ("retry", "Try again what was refused or waits for a destination."),
    "connect": ("connect", "Connect this librarian with another, together with its operator."),
    "add-librarian": ("add_librarian", "Register another librarian."),
    "remove-librarian": ("remove_librarian", "Take a librarian off the list; what was sent is remembered."),
    "get-librarian-list": ("get_librarian_list", "Show the librarians that are registered here."),
    "set-librarian-transfer": ("set_librarian_transfer", "Switch sending to a librarian on or off."),
    "change-transfer-status": ("change_transfer_status", "The same, as an older command spells it."),
    "get-store-list": ("get_store_list", "Show the stores and their room."),
    "set-store-state": ("set_store_state", "Switch a store on or off."),
    "get-store-manifest": ("get_store_manifest", "List what lies in a store, to travel with its disk."),
    "ingest-manifest": ("ingest_manifest", "Take in what came on a disk, by its manifest."),
    "set-deletion-policy": ("set_deletion_policy", "Allow or disallow that copies are ever let go."),
    "delete-instance": ("delete_instance", "Take one copy out of a store; it is set aside first."),
    "restore-instance": ("restore_instance", "Bring back a copy that was let go and is set aside."),
    "validate-file": ("validate_file", "Read the copies of a file, and show whether they are right."),
    "login": ("login", "Give this node its identity at Globus."),
    "logout": ("logout", "Give up this node's identity at Globus."),
    "whoami": ("whoami", "Show this node's identity at Globus, and prove it."),
    "check-endpoint": ("check_endpoint", "See whether the Globus collections show the same paths as this host."),
    "create-user": ("create_user", "Make an account for a librarian or a person."),
    "delete-user": ("delete_user", "Remove an account."),
    "list-users": ("list_users", "Show all accounts."),
    "callback": ("callback_command", "Answer one request of a peer (CGI or ssh)."),
}
#: Other spellings.
ALIASES = {"receive-clone": "recv-clone"}
#: Where the context keeps that only help was asked for.
_HELP = "libtool.help"


class TableOfContents(click.Group):
    """A group whose help and completion read the table; only the command that is typed gets imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        if name not in STANDALONE:
            _choose_driver(ctx.params.get("config"), reading=not ctx.meta.get(_HELP))
        module = COMMANDS[name][0]
        command: click.Command = getattr(import_module(f"libtool.commands.{module}"), module.rpartition(".")[2])
        command.name = name
        command.short_help = COMMANDS[name][1]
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Like click's, with a guess when the name is unknown."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS and args[0] not in ALIASES:
            raise click.UsageError(f"No such command '{args[0]}'.{_guess(args[0]).replace('did', 'Did')}", ctx)
        if {"--help", "-h"}.intersection(args[1:]):
            ctx.meta[_HELP] = True
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table as it stands, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Names from the table, without importing anything."""
        from click.shell_completion import CompletionItem

        return [
            CompletionItem(name, help=line) for name, (_, line) in COMMANDS.items() if name.startswith(incomplete)
        ] + click.Command.shell_complete(self, ctx, incomplete)


def _guess(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, [*COMMANDS, *ALIASES], n=1)
    return f" did you mean '{close[0]}'?" if close else " 'libtool --help' shows all."


def _choose_driver(config: str | None, *, reading: bool) -> None:
    """Let peewee, which the command is about to import, see only the driver that the configuration needs."""
    try:
        url = settings.load(settings.find(config)).database if reading else "sqlite:"
    except LibtoolError:
        return  # the command itself says what is wrong
    from libtool.models import drivers

    drivers.import_peewee_for(url)


class Defaults(dict[str, Any]):
    """Default options from the configuration's ``commands``, read when the first one is asked for (never for --help)."""

    def __init__(self, config: str | None, command: str | None = None) -> None:
        super().__init__()
        self._config, self._command, self._read = config, command, False

    def get(self, key: str, default: Any = None) -> Any:
        """For the group: the defaults of the command ``key``. For a command: one default."""
        if self._command is None:
            name = ALIASES.get(key, key)
            return None if name in STANDALONE else Defaults(self._config, name)
        self._load()
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self._load()
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self._load()
        return super().__getitem__(key)

    def _load(self) -> None:
        if self._read or self._command is None:
            return
        self._read = True
        try:
            configuration = settings.load(settings.find(self._config))
        except NoConfiguration:
            return  # the command itself says so, if it needs one
        given = self._given(configuration)
        options = {}
        for parameter in parameters(self._command):
            for spelled in (*parameter.opts, *parameter.secondary_opts):
                options[spelled.lstrip("-").replace("-", "_")] = parameter
        for key, value in given.items():
            meant = options.get(key.replace("-", "_"))
            if meant is None or meant.name is None:
                why = f"{self._command} has no such option; it has {', '.join(sorted(options))}"
                raise ConfigurationError(file=configuration.file, key=f"commands.{self._command}.{key}", why=why)
            value = [value] if getattr(meant, "multiple", False) and not isinstance(value, list) else value
            self[meant.name] = self._checked(meant, value, configuration.file, key)

    def _given(self, configuration: settings.Settings) -> dict[str, Any]:
        """What the configuration gives to this command, under any of its names; every name must be a command's."""
        given: dict[str, Any] = {}
        for spelled, options in configuration.commands.items():
            name = ALIASES.get(spelled, spelled)
            if name not in COMMANDS:
                why = f"no such command;{_guess(spelled)}"
                raise ConfigurationError(file=configuration.file, key=f"commands.{spelled}", why=why)
            if name == self._command:
                given |= options or {}
        return given

    def _checked(self, parameter: click.Parameter, value: Any, file: str, key: str) -> Any:
        """The value, when the option takes it; what is wrong with it is the file's fault and not the command line's."""
        context = click.Context(click.Command(str(self._command)))
        try:
            parameter.type_cast_value(context, value)
        except (click.ClickException, ValueError, TypeError) as wrong:
            why = wrong.format_message() if isinstance(wrong, click.ClickException) else str(wrong)
            raise ConfigurationError(file=file, key=f"commands.{self._command}.{key}", why=why) from None
        return value


#: Commands that need no configuration, whatever one may say.
STANDALONE = {"demo"}


@click.group(cls=TableOfContents, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config", metavar="FILE", help="The configuration; default $LIBTOOL_CONFIG, then the user's, then the system's."
)
@click.option("-v", "--verbose", count=True, help="Say more; twice for tracebacks.")
@click.option("-q", "--quiet", count=True, help="Say less.")
@click.version_option(__version__, prog_name="libtool")
@click.pass_context
def root(ctx: click.Context, config: str | None, verbose: int, quiet: int) -> None:
    """Librarians that move files between sites, prove that they arrived, and remember where the copies are."""
    ctx.obj = Frame(config, verbose - quiet)
    # Help is also for those whose configuration is missing or broken.
    ctx.default_map = None if ctx.meta.get(_HELP) else Defaults(config)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and end with its exit code."""
    code = run(sys.argv[1:] if arguments is None else arguments)
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    # Everything that matters is committed and closed; taking the interpreter apart would cost milliseconds.
    os._exit(code)


def run(arguments: list[str]) -> int:
    """Run one command line; every error is turned into a line and an exit code here."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        code = root.main(args=arguments, prog_name="libtool", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as wrong:
        wrong.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 130
    except Terminated:
        return 143
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except LockTaken as taken:
        if "-v" in arguments or "-vv" in arguments:
            print(f"libtool: {taken.text}", file=sys.stderr)
        return taken.exit_code
    except LibtoolError as trouble:
        _show(trouble, arguments)
        return trouble.exit_code
    except Exception as trouble:
        return _unexpected(trouble, arguments)


class Terminated(BaseException):
    """SIGTERM: transactions roll back, locks go, and the next run carries on."""


def _terminated(signum: int, frame: object) -> NoReturn:
    raise Terminated


def _show(trouble: LibtoolError, arguments: list[str]) -> None:
    if ("json" in arguments and ("-F" in arguments or "--format" in arguments)) or "--format=json" in arguments:
        print(
            json.dumps({"error": trouble.reason, "remedy": trouble.advice, "exit_code": trouble.exit_code}),
            file=sys.stderr,
        )
    else:
        print(f"libtool: {trouble.text}", file=sys.stderr)
    if "-vv" in arguments:
        _traceback(trouble)


def _unexpected(trouble: Exception, arguments: list[str]) -> int:
    """Busy databases and full disks come from below under many names; everything else is a fault of libtool's."""
    if type(trouble).__module__ == "peewee" and _is_passing(trouble):
        lines = str(trouble).strip().splitlines() or [""]
        print(
            f"libtool: the database cannot be used now: {lines[0]}. What was committed stays; the next run carries on.",
            file=sys.stderr,
        )
    elif isinstance(trouble, OSError):
        where = f"'{trouble.filename}': " if trouble.filename else ""
        print(
            f"libtool: {where}{trouble.strerror or trouble}. What was recorded stays; the next run carries on.",
            file=sys.stderr,
        )
    else:
        print(
            f"libtool: internal error ({type(trouble).__name__}). Nothing that was recorded is lost. "
            "Run the command with -vv and report what it prints.",
            file=sys.stderr,
        )
    if "-vv" in arguments:
        _traceback(trouble)
    return 1


def _is_passing(trouble: Exception) -> bool:
    from libtool.models.base import is_passing

    return is_passing(trouble)


def _traceback(trouble: BaseException) -> None:
    import traceback

    traceback.print_exception(type(trouble), trouble, trouble.__traceback__)


def parameters(name: str) -> list[click.Parameter]:
    """The parameters of a command."""
    command = root.get_command(click.Context(root), name)
    return list(command.params) if command is not None else []
