"""``demo``: two librarians on this machine, and the whole clone between them, with the very commands that cron runs."""

from __future__ import annotations

import os
import random
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import click

from libtool import __version__
from libtool.commands.words import Frame, dry_run, pass_frame
from libtool.errors import Refused
from libtool.names import shown
from libtool.units import show_size

#: The four commands that bring files from a to b, and at whom they run.
ROUND = (
    ("a", "send-clone", "a asks b for staging places and queues the files"),
    ("a", "consume-queue", "a ships the queue into b's staging area"),
    ("a", "check-consumed-queue", "a learns what arrived and tells b"),
    ("b", "recv-clone", "b reads every byte, stores the files and tells a"),
)
#: Rounds until everything must be there; one is enough unless the time budget ends.
ROUNDS = 20
_MARK = "made by libtool demo"


@click.command()
@click.option(
    "--dir",
    "directory",
    default="libtool-demo",
    show_default=True,
    type=click.Path(file_okay=False),
    help="Where the two librarians are made.",
)
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, file_okay=False),
    help="Send every file below this directory; it is only read.",
)
@click.option(
    "--files", default=200, show_default=True, type=click.IntRange(1, 10**7), help="Without --from: make so many."
)
@dry_run
@pass_frame
def demo(frame: Frame, directory: str, source: str | None, files: int, dry_run: bool) -> int:
    """Make two librarians, a and b, in a directory, and clone real files from a to b.

    Nothing but short commands runs, the same ones that cron would start. Then the copies are compared with the
    originals, byte by byte. What it makes is a working pair to play with; repeating it takes in what is new.
    """
    stage = Stage(os.path.abspath(directory))
    if dry_run:
        print(
            f"would make the librarians a and b in {stage.directory}, and clone {source or f'{files} new files'} from a to b"
        )
        return 0
    stage.make()
    given = source is not None
    if source is None:
        source = stage.make_files(files)
    source = os.path.abspath(source)
    print(f"Two librarians in {stage.directory}: a sends, b receives.\n")
    begin = time.monotonic()
    code = stage.step("a", ["ingest", "--recursive", source], f"a takes in {source if given else 'the files it made'}")
    for number in range(ROUNDS):
        for name, command, text in ROUND:
            code = max(code, stage.step(name, [command], text))
        if not stage.pending():
            break
        print(f"   (round {number + 1} is over, more is waiting)")
    print(f"\nAll that in {time.monotonic() - begin:.1f} s. What the two librarians know now:\n")
    for name in ("a", "b"):
        stage.libtool(name, "status")
        print()
    proved = prove(source, stage.place("b", "store"))
    stage.explain()
    return 0 if proved and code == 0 else 3


class Stage:
    """The directory that the two librarians live in."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def place(self, *parts: str) -> str:
        """A path in the directory."""
        return os.path.join(self.directory, *parts)

    def config(self, name: str) -> str:
        """A librarian's configuration."""
        return self.place(name, "config.yaml")

    def libtool(self, name: str, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run one command for one librarian, as a process of its own."""
        sys.stdout.flush()
        command = [sys.executable, "-m", "libtool", "--config", self.config(name), *words]
        done: subprocess.CompletedProcess[str] = subprocess.run(command, text=True, check=False, **options)  # type: ignore[call-overload]
        return done

    def step(self, name: str, words: list[str], text: str) -> int:
        """Run one command and say how it went."""
        begin = time.monotonic()
        done = self.libtool(name, *words)
        took = time.monotonic() - begin
        outcome = "" if done.returncode == 0 else f"  (exit code {done.returncode})"
        print(f"  {took:7.2f} s  {name}: libtool {words[0]:<21}  {text}{outcome}")
        return done.returncode

    def pending(self) -> bool:
        """Whether anything still waits at either librarian."""
        import json

        for name in ("a", "b"):
            found = json.loads(self.libtool(name, "status", "-F", "json", stdout=subprocess.PIPE).stdout)
            live = ("INITIATED", "ONGOING", "STAGED")
            if any(found[side][state] for side in ("outgoing", "incoming") for state in live):
                return True
            if any(row["pending"] for row in found["destinations"]):
                return True
        return False

    def make(self) -> None:
        """Both librarians, with accounts at each other; a pair that is there already is kept."""
        mark = self.place(".libtool-demo")
        if os.path.isdir(self.directory) and os.listdir(self.directory) and not os.path.exists(mark):
            raise Refused(why=f"{self.directory} is not empty and no demo", how="Name another place with --dir.")
        if os.path.exists(self.place("complete")):
            return
        for name in ("a", "b"):
            os.makedirs(self.place(name), exist_ok=True)
        with open(mark, "w", encoding="utf-8") as stream:
            stream.write(f"{_MARK} {__version__}\n")
        self._write(
            "b",
            f"asynchronous_transfer_manager_data: {{local: {{available: true, hostnames: [{_quoted(socket.gethostname())}]}}}}",
        )
        self._write(
            "a",
            "ingestible: true",
            "# what may be written for a peer on this machine",
            f"local_transfer_roots: [{_quoted(self.place('b', 'staging'))}]",
            "commands:",
            "  send-clone: {destination_librarian: b}",
        )
        for name in ("a", "b"):
            self._must(name, "setup")
        for here, there, level in (("a", "b", "READAPPEND"), ("b", "a", "CALLBACK")):
            self._must(there, "delete-user", "--username", here, fine=True)
            password = self._must(there, "create-user", "--username", here, "--auth-level", level).strip()
            self._must(here, "remove-librarian", "--name", there, fine=True)
            words = ("--name", there, "--url", f"exec://{self.config(there)}", "--authenticator", "-")
            self._must(here, "add-librarian", *words, say=f"{here}:{password}\n")
        with open(self.place("complete"), "w", encoding="utf-8") as stream:
            stream.write("both librarians know each other\n")

    def _write(self, name: str, carriers: str, *more: str) -> None:
        lines = [
            f"# Librarian {name}, {_MARK}.",
            f"name: {name}",
            f"displayed_site_name: Demo site {name.upper()}",
            "add_stores:",
            "  - store_name: main",
            "    store_data: {staging_path: staging, store_path: store}",
            f"    {carriers}",
            *more,
        ]
        with open(self.config(name), "w", encoding="utf-8") as stream:
            stream.write("\n".join(lines) + "\n")

    def _must(self, name: str, *words: str, say: str = "", fine: bool = False) -> str:
        """Run a command that has to succeed (unless ``fine``) and return what it printed."""
        done = self.libtool(name, *words, input=say, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode and not fine:
            raise Refused(why=f"'libtool {words[0]}' failed for librarian {name}: {done.stderr.strip()}", how="")
        return str(done.stdout)

    def make_files(self, count: int) -> str:
        """A small night of observations: frames of several sizes, a log, an empty file, names with spaces."""
        top = self.place("data")
        numbers = random.Random(20261121)
        for n in range(count):
            night = f"night {n // 100:03d}"
            name = ("log.txt", "empty", f"frame {n:06d}.fits")[min(n % 100, 2)]
            path = os.path.join(top, night, name)
            if os.path.exists(path):
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            size = 0 if name == "empty" else numbers.choice((100, 4096, 40_000, 300_000))
            with open(path, "wb") as stream:
                stream.write(numbers.randbytes(size))
        return top

    def explain(self) -> None:
        """Where everything lies and what to type next."""
        a, b = (shlex.quote(self.config(name)) for name in ("a", "b"))
        print("Where everything lies")
        print(f"  {self.place('a')}  librarian a: config.yaml, catalogue.db, store/, staging/, run/ (locks)")
        print(f"  {self.place('b')}  librarian b: the same")
        print("\nWhat to type next")
        print(f"  libtool --config {a} ingest README.rst docs/README.rst    # give a another file …")
        for name, command, _ in ROUND:
            print(f"  libtool --config {a if name == 'a' else b} {command}")
        print(f"  libtool --config {b} search-files --max-results 5         # … and find it at b")
        print(f"  libtool --config {a} status")


def _quoted(text: str) -> str:
    """A YAML string."""
    import json

    return json.dumps(text)


def prove(source: str, store: str) -> bool:
    """Compare every file below ``source`` with b's copy, byte by byte, and say what was found."""
    same, size, wrong = 0, 0, []
    for path, name in _files(source):
        copy = os.path.join(store, name)
        try:
            if _equal(path, copy):
                same += 1
                size += os.path.getsize(copy)
                continue
            wrong.append(f"'{shown(name)}' differs")
        except OSError as trouble:
            wrong.append(f"'{shown(name)}': {trouble.strerror}")
    print(f"The proof: {same} files, {show_size(size)}, compared byte by byte with the originals: ", end="")
    print("all the same.\n" if not wrong else f"{len(wrong)} are not at b.")
    for line in wrong[:20]:
        print(f"  {line}")
    if wrong:
        print("  Those were named above with the reason.\n")
    return not wrong


def _files(top: str) -> Iterator[tuple[str, str]]:
    for directory, _, files in os.walk(top):
        for name in files:
            path = os.path.join(directory, name)
            yield path, os.path.relpath(path, top)


def _equal(one: str, other: str) -> bool:
    with open(one, "rb") as first, open(other, "rb") as second:
        while True:
            left, right = first.read(1 << 20), second.read(1 << 20)
            if left != right:
                return False
            if not left:
                return True
