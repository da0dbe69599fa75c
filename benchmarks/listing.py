"""What a look at a route's source costs: ``transfer`` of N files that are all known and have not changed, and of N that are
all new, beside a bare walk with ``os.scandir`` that asks for the size and time of each. All are real processes. See
README.rst.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys

import pair

GOAL, MEMORY_GOAL = 4.0, 1.5
SOURCE, DESTINATION = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
#: Walks a tree as plainly as Python can; prints how many files it saw and how many bytes these have.
BARE = """
import os, sys
files = size = 0
todo = [sys.argv[1]]
while todo:
    with os.scandir(todo.pop()) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                todo.append(entry.path)
            else:
                found = entry.stat(follow_symlinks=False)
                files, size = files + 1, size + found.st_size + bool(found.st_mtime_ns)
print(files, size)
"""


def grow(top: str, files: int, width: int) -> None:
    """Make ``files`` empty files, ``width`` to a directory, the directories in a tree of three levels."""
    for n in range(0, files, width):
        number = n // width
        place = os.path.join(top, f"{number // 1000:03d}", f"{number // 30:05d}", f"{number:06d}")
        os.makedirs(place)
        for k in range(n, min(n + width, files)):
            os.close(os.open(os.path.join(place, f"file-{k:07d}.dat"), os.O_CREAT | os.O_WRONLY))


def node(top: str, env: dict[str, str], source: str) -> pair.Librarian:
    """A node that has one route and no stores. What keeps still for less than a month is not sent: nobody is asked."""
    made = pair.Librarian("node", top, env)
    os.makedirs(top)
    route = {"src_id": SOURCE, "src_dir": source, "dst_id": DESTINATION, "dst_dir": "/nowhere", "settle_seconds": "30d"}
    settings = {"globus_client_id": SOURCE, "globus_local_endpoint_id": SOURCE, "routes": {"out": route}}
    with open(made.config, "w", encoding="utf-8") as stream:
        json.dump(settings, stream)
    made.run("setup")
    return made


def look(site: pair.Librarian) -> pair.Ran:
    """One run of ``transfer``; long enough for a look at everything. Without a login it ends with 0 all the same."""
    return site.run("transfer", "--soft-timeout", "1h")


def measure(top: str, env: dict[str, str], files: int, width: int, runs: int) -> tuple[float, int]:
    """The figures for a tree of ``files``; returns the ratio of an idle look to the bare walk, and its peak memory."""
    source = os.path.join(top, f"source-{files}")
    grow(source, files, width)
    site = node(os.path.join(top, f"node-{files}"), env, source)
    first = look(site)
    bare, again = [], []
    for _ in range(runs):
        bare.append(pair.run([sys.executable, "-c", BARE, source], env))
        again.append(look(site))
    assert bare[0].out.split()[0] == str(files)
    walk, idle = (statistics.median(ran.seconds for ran in each) for each in (bare, again))
    peak = max(ran.peak for ran in again)
    print(f"{files:,} files, {width} to a directory")
    for name, seconds in (("os.scandir and stat", walk), ("all known, nothing new", idle), ("all new", first.seconds)):
        print(f"  {name:<24} {seconds:8.2f} s {files / seconds:12,.0f} files/s {seconds / walk:6.2f} times")
    print(f"  peak memory {peak / 2**20:.0f} MiB, of the first look {first.peak / 2**20:.0f} MiB\n", flush=True)
    return idle / walk, peak


def main() -> int:
    """Read the options, run, and end with 0 when the goals are met, else 1."""
    parser = argparse.ArgumentParser(description="What a look at a route's source costs.")
    parser.add_argument("--files", type=int, default=1_000_000, help="files of the large tree (default: %(default)s)")
    parser.add_argument("--width", type=int, default=100, help="files in a directory (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each contender (default: %(default)s)")
    parser.add_argument("--dir", help="where to work (default: /dev/shm if there is one)")
    given = parser.parse_args()
    with pair.directory(given.dir) as top:
        env = pair.environment(top)
        print(f"{pair.machine(top)}, {given.runs} runs of each\n", flush=True)
        _, little = measure(top, env, max(given.files // 100, 1), given.width, given.runs)
        ratio, much = measure(top, env, given.files, given.width, given.runs)
        print(f"a look with nothing new: {ratio:.2f} times the bare walk ({pair.verdict(ratio, GOAL)})")
        growth = much / little
        print(f"peak memory, times that of a hundredth of the files: {growth:.2f} ({pair.verdict(growth, MEMORY_GOAL)})")
    return 0 if ratio <= GOAL and growth <= MEMORY_GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
