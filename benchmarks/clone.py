"""How long a clone takes, beside the bare minimum for the same bytes.

N files of 4 KiB go from one librarian to another through the four commands, each a real process. The bare minimum
copies the same files into a staging directory and from there into a store directory, syncs both, and reads both copies
with the same hash: no catalogue, no peer, no proof of anything else. Rounds of both alternate, each in fresh
directories, and medians are compared. See README.rst.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pair

#: Bytes of one file, and files in one directory.
SIZE, TOGETHER = 4096, 100
GOAL, LIMIT, CALLS, GROWTH = 4.0, 6.0, 4.0, 1.1
MIB = 1024**2

#: How a process knows its own peak: what ``getrusage`` says of a child begins with what its parent occupied.
PEAK = """
def peak():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
"""
#: A callback that notes its peak.
CALLBACK = PEAK + """
import os
from libtool.commands.callback import main
def note():
    with open(os.environ["BENCHMARK_PEAKS"], "a") as notes:
        print(peak(), file=notes)
def leave(code, end=os._exit):
    note()
    end(code)
os._exit = leave
try:
    main()
finally:
    note()
"""
#: One command in a process of its own that counts the requests which it makes, and notes every peak.
COUNTING = PEAK + """
import json, os, sys
from libtool import cli
from libtool.peers import exec
from libtool.peers.client import Peer
calls, post = {}, Peer.post
def counted(self, endpoint, message):
    calls[endpoint] = calls.get(endpoint, 0) + 1
    return post(self, endpoint, message)
Peer.post = counted
exec.COMMAND = (sys.executable, "-c", sys.argv[1])
notes = os.environ["BENCHMARK_PEAKS"]
open(notes, "w").close()
code = cli.run(sys.argv[2:])
print(json.dumps({"calls": calls, "own": peak(), "callbacks": max(map(int, open(notes)), default=0)}))
sys.exit(code)
"""


# -- the bare minimum, run as a process of its own ----------------------------------------------------------------


def bare(source: str, target: str) -> None:
    """Copy to staging, copy to the store, sync, read both copies with a hash; prints the seconds of the work alone."""
    import time

    import xxhash

    begun, busy = time.perf_counter(), time.process_time()
    staging, store = os.path.join(target, "staging"), os.path.join(target, "store")
    expected: dict[str, str] = {}
    copy_tree(source, staging)
    for name in names_below(staging):
        expected[name] = digest(f"{staging}/{name}", xxhash.xxh3_128)
    copy_tree(staging, store)
    sync(staging, store)
    for name, known in expected.items():
        if digest(f"{store}/{name}", xxhash.xxh3_128) != known:
            raise SystemExit(f"{name} differs")
    print(f"{time.perf_counter() - begun:.6f} {time.process_time() - busy:.6f}")


def names_below(top: str, at: str = "") -> Iterator[str]:
    """Every file below ``top``, relative to it."""
    with os.scandir(f"{top}/{at}") as entries:
        for entry in entries:
            name = at + entry.name
            if entry.is_dir():
                yield from names_below(top, f"{name}/")
            else:
                yield name


def copy_tree(source: str, target: str, block: int = 1 << 16) -> None:
    """The same tree once more, with nothing but the calls that this takes."""
    read, write, close = os.read, os.write, os.close
    os.mkdir(target)
    with os.scandir(source) as entries:
        for entry in entries:
            goal = f"{target}/{entry.name}"
            if entry.is_dir():
                copy_tree(entry.path, goal)
                continue
            reading = os.open(entry.path, os.O_RDONLY)
            writing = os.open(goal, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o664)
            while data := read(reading, block):
                write(writing, data)
                if len(data) < block:
                    break
            close(writing)
            close(reading)


def digest(path: str, hasher: Callable[[], Any], block: int = 1 << 16) -> str:
    """The hash of one file."""
    state = hasher()
    reading = os.open(path, os.O_RDONLY)
    while data := os.read(reading, block):
        state.update(data)
        if len(data) < block:
            break
    os.close(reading)
    return str(state.hexdigest())


def sync(*places: str) -> None:
    """One ``syncfs`` for each directory, as libtool does for many files; the whole machine where there is no such call."""
    import ctypes

    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    for place in places:
        descriptor = os.open(place, os.O_RDONLY)
        if syncfs is None:
            os.sync()
        elif syncfs(descriptor):
            raise OSError(ctypes.get_errno(), "syncfs", place)
        os.close(descriptor)


# -- one round of each --------------------------------------------------------------------------------------------


def make_files(top: str, count: int) -> str:
    """A tree of ``count`` files, all different, the same in every run."""
    source = os.path.join(top, f"files-{count}")
    drawn = random.Random(count)
    for n in range(count):
        if n % TOGETHER == 0:
            parent = os.path.join(source, f"{n // TOGETHER // TOGETHER:03d}", f"{n // TOGETHER:05d}")
            os.makedirs(parent)
        with open(os.path.join(parent, f"file-{n:07d}.dat"), "wb") as stream:
            stream.write(drawn.randbytes(SIZE))
    return source


def bare_round(source: str, top: str, env: dict[str, str]) -> tuple[float, float]:
    """``(seconds, processor seconds)`` of the bare minimum, without its interpreter's start."""
    os.mkdir(top)
    ran = pair.run([sys.executable, os.path.abspath(__file__), "--bare", source, top], env)
    shutil.rmtree(top)
    seconds, busy = ran.out.split()[:2]
    return float(seconds), float(busy)


def prepare(source: str, top: str, env: dict[str, str]) -> dict[str, pair.Librarian]:
    """Two new librarians, and the files ingested at the first."""
    a, b = pair.pair(top, env)
    a.run("ingest", source, "--recursive")
    return {"a": a, "b": b}


def options(command: str, batch: int | None) -> list[str]:
    """The options that a command is given beside its configuration."""
    return ["--send-batch-size", str(batch)] if batch and command == "send-clone" else []


def libtool_round(source: str, top: str, env: dict[str, str], batch: int | None) -> dict[str, pair.Ran]:
    """What each of the four commands cost; everything is at b afterwards, byte for byte, or this ends."""
    sites = prepare(source, top, env)
    rans = {}
    for who, command in pair.ROUND:
        rans[command] = sites[who].run(command, *options(command, batch))
        if rans[command].out:
            raise SystemExit(f"{command} said:\n{rans[command].out}")
    prove(source, sites["b"])
    shutil.rmtree(top)
    return rans


def prove(source: str, destination: pair.Librarian) -> None:
    """Every file is in the destination's store with its bytes, none beside them, nothing left in staging."""
    count = 0
    for name in names_below(source):
        with open(f"{source}/{name}", "rb") as one, open(f"{destination.store}/{name}", "rb") as other:
            if one.read() != other.read():
                raise SystemExit(f"{name} differs")
        count += 1
    stored = sum(not name.startswith(".libtool-") for name in names_below(destination.store))
    left = [name for name in names_below(destination.staging) if not name.startswith(".libtool-")]
    if stored != count or left:
        raise SystemExit(f"{stored} of {count} files are stored, {len(left)} are left in staging")


@dataclass(frozen=True)
class Counted:
    """What one command asked of its peer, and the peaks in bytes."""

    calls: dict[str, int]  #: requests by endpoint
    own: int
    callbacks: int  #: of the largest callback; 0 when there was none


def counting_round(source: str, top: str, env: dict[str, str], batch: int | None) -> dict[str, Counted]:
    """Not timed: which requests each command made, its own peak memory and that of its largest callback."""
    sites = prepare(source, top, env)
    found = {}
    for who, command in pair.ROUND:
        words = ["--config", sites[who].config, command, *options(command, batch)]
        noting = env | {"BENCHMARK_PEAKS": f"{top}/peaks"}
        ran = pair.run([sys.executable, "-c", COUNTING, CALLBACK, *words], noting)
        found[command] = Counted(**json.loads(ran.out.splitlines()[-1]))
    prove(source, sites["b"])
    shutil.rmtree(top)
    return found


# -- reports ------------------------------------------------------------------------------------------------------


def speed(top: str, env: dict[str, str], files: int, rounds: int, batch: int | None) -> bool:
    """Alternate, compare, print; whether both limits are kept."""
    source = make_files(top, files)
    bares: list[float] = []
    spent: list[float] = []
    clones: list[dict[str, pair.Ran]] = []
    for n in range(rounds):
        turns = ("bare", "clone") if n % 2 == 0 else ("clone", "bare")
        for turn in turns:
            if turn == "bare":
                seconds, busy = bare_round(source, os.path.join(top, f"bare-{n}"), env)
                bares.append(seconds)
                spent.append(busy)
            else:
                clones.append(libtool_round(source, os.path.join(top, f"clone-{n}"), env, batch))
        whole = sum(ran.seconds for ran in clones[-1].values())
        print(f"round {n + 1}: bare minimum {bares[-1]:.3f} s, four commands {whole:.3f} s", flush=True)
    counted = counting_round(source, os.path.join(top, "counted"), env, batch)
    shutil.rmtree(source)

    minimum = statistics.median(bares)
    whole = statistics.median(sum(ran.seconds for ran in rans.values()) for rans in clones)
    print(f"\n{'command':<24}{'seconds':>9}{'processor':>11}{'times bare':>12}{'peak MiB':>10}{'callback MiB':>14}  requests")
    for _, command in pair.ROUND:
        seconds = statistics.median(rans[command].seconds for rans in clones)
        busy = statistics.median(rans[command].busy for rans in clones)
        found = counted[command]
        said = ", ".join(f"{count} {endpoint}" for endpoint, count in found.calls.items()) or "none"
        own, below = found.own / MIB, found.callbacks / MIB
        print(f"{command:<24}{seconds:>9.3f}{busy:>11.3f}{seconds / minimum:>12.2f}{own:>10.1f}{below:>14.1f}  {said}")
    busy = statistics.median(sum(ran.busy for ran in rans.values()) for rans in clones)
    print(f"{'all four':<24}{whole:>9.3f}{busy:>11.3f}{whole / minimum:>12.2f}")
    print(f"{'bare minimum':<24}{minimum:>9.3f}{statistics.median(spent):>11.3f}{1:>12.2f}")

    ratio = whole / minimum
    calls = sum(sum(found.calls.values()) for found in counted.values())
    asked = counted["send-clone"].calls
    batches = sum(count for endpoint, count in asked.items() if endpoint.endswith("batch_stage"))
    each = calls / batches
    print(f"\n{files} files of {SIZE} bytes, median of {rounds} rounds: {files / whole:.0f} files a second")
    print(f"times the bare minimum: {ratio:.2f} ({pair.verdict(ratio, GOAL, LIMIT)})")
    print(f"requests per batch: {calls} in {batches} batches, {each:.2f} each ({pair.verdict(each, CALLS)})")
    return ratio <= LIMIT and each <= CALLS


def memory(top: str, env: dict[str, str], few: int, many: int, batch: int | None) -> bool:
    """Peak memory of every command for few and for many files; whether it stays within a tenth."""
    found = {}
    for count in (few, many):
        source = make_files(top, count)
        found[count] = counting_round(source, os.path.join(top, f"memory-{count}"), env, batch)
        shutil.rmtree(source)
    print(f"\npeak memory in MiB{few:>16}{many:>10}{'ratio':>8}")
    worst = 0.0
    for _, command in pair.ROUND:
        for whose in ("own", "callbacks"):
            one, other = (getattr(found[count][command], whose) / MIB for count in (few, many))
            if one:
                worst = max(worst, other / one)
                called = command if whose == "own" else "  its callbacks"
                print(f"{called:<24}{one:>10.1f}{other:>10.1f}{other / one:>8.2f}")
    one, other = (max(max(each.own, each.callbacks) for each in found[count].values()) / MIB for count in (few, many))
    print(f"{'the largest process':<24}{one:>10.1f}{other:>10.1f}{other / one:>8.2f}")
    print(f"the largest process grows by {other / one:.2f} ({pair.verdict(other / one, GROWTH)})")
    print(f"the one that grows most by {worst:.2f} ({pair.verdict(worst, GROWTH)})")
    return other / one <= GROWTH


def main() -> int:
    """Read the options, run, and end with 0 when every limit is kept, else 1."""
    parser = argparse.ArgumentParser(description="Clone files between two librarians, beside the bare minimum.")
    parser.add_argument("--files", type=int, default=10_000, help="how many files of 4 KiB (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds of both (default: %(default)s)")
    parser.add_argument("--dir", help="where to work (default: /dev/shm if there is one)")
    parser.add_argument("--batch", type=int, help="files in one batch (default: that of send-clone)")
    parser.add_argument("--memory", action="store_true", help="compare peak memory at 1,000 and 100,000 files as well")
    parser.add_argument("--few", type=int, default=1_000, help=argparse.SUPPRESS)
    parser.add_argument("--many", type=int, default=100_000, help=argparse.SUPPRESS)
    parser.add_argument("--bare", nargs=2, metavar=("SOURCE", "TARGET"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        bare(*given.bare)
        return 0
    with pair.directory(given.dir) as top:
        env = pair.environment(top)
        print(pair.machine(top), flush=True)
        for turn in range(2):  # so that every module is compiled and every program is in memory
            source = make_files(os.path.join(top, f"warm-{turn}"), 20)
            bare_round(source, os.path.join(top, f"warm-bare-{turn}"), env)
            libtool_round(source, os.path.join(top, f"warm-clone-{turn}"), env, given.batch)
        kept = speed(top, env, given.files, max(1, given.rounds), given.batch) if given.files else True
        if given.memory:
            kept = memory(top, env, given.few, given.many, given.batch) and kept
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
