"""What looking after copies costs: ``check-integrity`` beside the bare reading of the same files, and the three tasks when
there is nothing to do, on a large catalogue beside an empty one. All are real processes. See README.rst.
"""

from __future__ import annotations

import argparse
import os
import random
import sqlite3
import statistics
import sys
import time

import idle
import pair

READ_GOAL, IDLE_GOAL = 1.5, 1.2
#: Every file below a directory is read and hashed, as plainly as Python can; prints the seconds.
BARE = """
import os, sys, time, xxhash
begin = time.perf_counter()
for here, _, names in os.walk(sys.argv[1]):
    for name in names:
        state = xxhash.xxh3_128()
        descriptor = os.open(os.path.join(here, name), os.O_RDONLY)
        while block := os.read(descriptor, 1 << 20):
            state.update(block)
        os.close(descriptor)
        state.hexdigest()
print(time.perf_counter() - begin)
"""
#: The tasks when nothing is due.
IDLE = {
    "check-integrity": ("check-integrity", "--age-in-days", "400"),
    "corruption-fixer": ("corruption-fixer",),
    "rolling-deletion": ("rolling-deletion", "--store", "{store}", "--age-in-days", "400"),
}


def reading(top: str, env: dict[str, str], files: int, size: int, runs: int) -> bool:
    """``check-integrity`` of everything beside reading it; whether the goal is met."""
    site, _ = pair.pair(os.path.join(top, "read"), env)
    numbers, source = random.Random(5), os.path.join(top, "source")
    for n in range(files):
        place = os.path.join(source, f"{n // 1000:03d}")
        os.makedirs(place, exist_ok=True)
        with open(os.path.join(place, f"file-{n:06d}"), "wb") as stream:
            stream.write(numbers.randbytes(size))
    site.run("ingest", "--recursive", source)
    seconds: dict[str, list[float]] = {"check-integrity --age-in-days 0": [], "bare reading": []}
    for turn in range(-1, runs):
        ran = site.run("check-integrity", "--age-in-days", "0")
        bare = float(pair.run([sys.executable, "-c", BARE, site.store], env).out)
        if turn >= 0:
            seconds["check-integrity --age-in-days 0"].append(ran.seconds)
            seconds["bare reading"].append(bare)
    medians = list(idle.table(seconds).values())
    ratio = medians[0] / medians[1]
    print(f"{files:,} files of {size:,} bytes: {ratio:.2f} times the reading ({pair.verdict(ratio, READ_GOAL)})\n", flush=True)
    return ratio <= READ_GOAL


def nothing(top: str, env: dict[str, str], files: int, runs: int) -> bool:
    """The tasks with nothing to do; whether the goals are met."""
    full, _ = pair.pair(os.path.join(top, "full"), env)
    empty, _ = pair.pair(os.path.join(top, "empty"), env)
    idle.fill(full, files)
    with sqlite3.connect(full.catalogue) as database:
        (store,) = database.execute("SELECT name FROM store").fetchone()
        database.execute("UPDATE instance SET verified_time = ?", (int(time.time() * 1_000_000),))
    kept = True
    for name, words in IDLE.items():
        words = tuple(word.format(store=store) for word in words)
        contenders = {
            f"{name}, {files:,} files": lambda words=words: full.run(*words),
            f"{name}, empty catalogue": lambda words=words: empty.run(*words),
        }
        found = idle.alternate(runs, contenders)
        medians = [statistics.median(each) for each in found.values()]
        idle.table(found)
        ratio = medians[0] / medians[1]
        print(f"{name} with nothing to do: {ratio:.3f} times ({pair.verdict(ratio, IDLE_GOAL)})\n", flush=True)
        kept &= ratio <= IDLE_GOAL
    return kept


def main() -> int:
    """Read the options, run, and end with 0 when all goals are met, else 1."""
    parser = argparse.ArgumentParser(description="What looking after copies costs.")
    parser.add_argument("--files", type=int, default=1_000_000, help="files of the idle catalogue (default: %(default)s)")
    parser.add_argument("--read", type=int, default=2_000, help="how many files are read (default: %(default)s)")
    parser.add_argument("--size", type=int, default=1_000_000, help="bytes of each (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=7, help="runs of each contender (default: %(default)s)")
    parser.add_argument("--dir", help="where to work (default: /dev/shm if there is one)")
    given = parser.parse_args()
    with pair.directory(given.dir) as top:
        env = pair.environment(top)
        print(f"{pair.machine(top)}, {given.runs} runs of each\n", flush=True)
        kept = reading(top, env, given.read, given.size, given.runs)
        kept = nothing(top, env, given.files, given.runs) and kept
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
