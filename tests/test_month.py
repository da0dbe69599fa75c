"""A month in a minute: four librarians, a seed, and what must hold after every step and in the end.

``LIBTOOL_TEST_MONTH_SEED=n`` replays one seed, ``LIBTOOL_TEST_MONTH_SEEDS=n`` runs that many, ``LIBTOOL_TEST_MONTH_FILES=n``
lets so many files come in.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from libtool import cli
from tests.simulation import ASIDE, LINKS, SITES, SOURCES, STORES, Broken, Month, Words, month

FILES = int(os.environ.get("LIBTOOL_TEST_MONTH_FILES", "300"))
ONE = os.environ.get("LIBTOOL_TEST_MONTH_SEED")
SEEDS = [int(ONE)] if ONE else list(range(1, 1 + int(os.environ.get("LIBTOOL_TEST_MONTH_SEEDS", "10"))))
#: Which files each neighbour is thought to have.
THERE = """SELECT l.name, f.name FROM remote_instance r JOIN librarian l ON l.id = r.librarian_id JOIN file f ON f.id = r.file_id"""

#: Files whose last attempt failed, and which nobody will try again.
PLANLESS = """SELECT f.name, o.reason FROM outgoing_transfer o JOIN file f ON f.id = o.file_id WHERE o.status = 4
AND NOT EXISTS (SELECT 1 FROM outgoing_transfer n WHERE n.file_id = o.file_id AND n.destination_id = o.destination_id AND n.id > o.id)
AND NOT EXISTS (SELECT 1 FROM retry r WHERE r.file_id = o.file_id AND r.destination_id = o.destination_id)
AND NOT EXISTS (SELECT 1 FROM remote_instance r WHERE r.file_id = o.file_id AND r.librarian_id = o.destination_id)"""


class Place(NamedTuple):
    """Where a copy may lie: in its place in a store, in a staging place or set aside."""

    site: str
    store: str
    kind: str
    id: str
    name: str


class Row(NamedTuple):
    """An instance, as far as it is looked at."""

    available: int
    condition: int
    verified: int | None
    policy: int


class Watched(Month):
    """A month that is looked at after every step."""

    def __post_init__(self) -> None:
        self.scans: dict[str, dict[Place, bool]] = {site: {} for site in SITES}
        self.at: dict[str, dict[Place, bool]] = defaultdict(dict)  #: name → where it lies, and whether it is good there
        self.known_good: dict[tuple[str, Any], bool] = {}
        self.had: dict[str, set[str]] = {site: set() for site in SITES}
        self.hurt: set[tuple[str, str, str]] = set()  #: what the simulation ruined, or a restored catalogue is wrong about
        self.hurt_now: set[tuple[str, str, str]] = set()
        self.rows: dict[str, dict[tuple[str, str], Row]] = {site: {} for site in SITES}
        self.forgotten: dict[str, set[str]] = {site: set() for site in SITES}
        self.required: dict[str, int] = {}  #: who deletes in this step, and how many other copies that takes
        self.ids: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.asks = True  #: whether deletions of this step have the holders read their copies
        self.inodes: dict[Place, int] = {}
        self.told: dict[str, set[tuple[str, str]]] = {site: set() for site in SITES}
        self.lost: dict[str, set[str]] = {site: set() for site in SITES}  #: what restored catalogues do not know
        self.open: dict[str, sqlite3.Connection] = {}
        super().__post_init__()

    # -- what lies where -------------------------------------------------------------------------------------------

    def scan(self, site: str) -> dict[Place, bool]:
        """Every copy at a librarian and whether it is good."""
        found: dict[Place, bool] = {}
        self.ids[site, "aside"], self.ids[site, "staging"] = set(), set()
        for store in STORES:
            root = self.place(site, store)
            self._walk(found, Place(site, store, "store", "", ""), str(root / "store"))
            for kind, top in (("aside", root / "store" / ASIDE), ("staging", root / "staging")):
                for id in sorted(os.listdir(top)) if top.is_dir() else ():
                    if not id.startswith(".libtool-"):
                        self.ids[site, kind].add(id)
                        self._walk(found, Place(site, store, kind, id, ""), str(top / id))
        return found

    def _walk(self, found: dict[Place, bool], top: Place, root: str) -> None:
        todo = [""]
        while todo:
            at = todo.pop()
            with os.scandir(f"{root}/{at}") as entries:
                for entry in entries:
                    if entry.name.startswith(".libtool-"):
                        continue
                    name = f"{at}/{entry.name}" if at else entry.name
                    if name in self.content:
                        place = top._replace(name=name)
                        found[place] = self.is_good(name, entry)
                        if top.kind == "store" and self.inodes.setdefault(place, entry.inode()) != entry.inode():
                            self._replaced(place, entry.inode())
                    elif entry.is_dir(follow_symlinks=False):
                        todo.append(name)
                    else:
                        raise Broken(f"{entry.path} lies there and should not")

    def _replaced(self, place: Place, inode: int) -> None:
        """Something else lies there than before: what was there must have been taken out of its place first."""
        kept, self.inodes[place] = self.inodes[place], inode
        sql = "SELECT 1 FROM removal r JOIN file f ON f.id = r.file_id WHERE f.name = ?"
        if place in self.scans[place.site] and place.name not in self.lost[place.site] and not self.ask(place.site, sql, place.name):
            raise Broken(f"{place} was replaced: {kept} {inode}")

    def is_good(self, name: str, entry: os.DirEntry[str]) -> bool:
        """Whether these are the bytes; read once as long as nothing changes."""
        content = self.content[name]
        signature: Any = _signature(entry)
        if isinstance(content, dict):
            inside = [each for each in _below(entry.path)] if entry.is_dir(follow_symlinks=False) else []
            signature = (signature, tuple(sorted((each.path, _signature(each)) for each in inside)))
            inodes = {each.inode() for each in inside}
        else:
            inodes = {entry.inode()}
        if self.unreadable and inodes & self.unreadable.keys():
            return False
        key = name, signature
        if key not in self.known_good:
            if isinstance(content, dict):
                there = {os.path.relpath(each.path, entry.path): Path(each.path).read_bytes() for each in inside}
                self.known_good[key] = there == content
            else:
                self.known_good[key] = entry.is_file(follow_symlinks=False) and Path(entry.path).read_bytes() == content
        return self.known_good[key]

    def goods(self, name: str, kind: str = "store") -> list[Place]:
        """Where good copies of a file lie."""
        return [place for place, good in self.at[name].items() if good and place.kind == kind]

    def path(self, place: Place) -> Path:
        """Of a copy in its place in a store."""
        return self.place(place.site, place.store) / "store" / place.name

    # -- what the simulation does to copies ------------------------------------------------------------------------

    def damage(self) -> None:
        """A byte, the end, all of a copy; or the disk does not give it any more. Never the last good copy in a store."""
        site = self.dice.choice(SITES)
        copies = sorted(place for place, good in self.scans[site].items() if good and place.kind == "store")
        for _ in range(min(len(copies), self.dice.choice([1, 1, 1, 2, 5, 12]))):
            place = self.dice.choice(copies)
            alive = self.goods(place.name)
            if place in alive and (len(alive) > 1 or place.name in self.expendable):
                self._ruin(place)

    def _ruin(self, place: Place) -> None:
        path = self.path(place)
        kind = self.dice.choice(["flip", "cut", "remove", "unreadable", "grow"])
        if path.is_dir() and kind != "remove":
            path = min(each for each in path.rglob("*") if each.is_file() and each.stat().st_size)
        data = path.read_bytes() if path.is_file() else b""
        before = path.stat()
        if kind == "remove":
            self._by_hand(_remove, path)
        elif kind == "unreadable":
            self.ways += 1
            kept = self.top / f"unreadable.{self.ways}"
            self._by_hand(os.link, path, kept)
            self.unreadable[before.st_ino] = kept
        else:
            new = data + b"!" if kind == "grow" or not data else data[:-1] if kind == "cut" else bytes([data[0] ^ 4]) + data[1:]
            path.write_bytes(new)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.known_good = {key: good for key, good in self.known_good.items() if key[0] != place.name}
        self.touched.add(place.site)
        self.at[place.name][place] = self.scans[place.site][place] = False
        self.hurt.add((place.site, place.store, place.name))
        self.hurt_now.add((place.site, place.store, place.name))
        self.stats["damaged copies"] += 1
        self.note(f"damage: {kind} {place.site}/{place.store} {place.name}")

    def restored(self, site: str) -> None:
        """What the old catalogue says is what the simulation broke."""
        before = {name for _, name in self.rows[site]}
        self.rows[site] = {(store, name): row for store, name, row in self.instances(site)}
        self.lost[site] |= before - {name for _, name in self.rows[site]}
        for (store, name), row in self.rows[site].items():
            if row.available and not self.scans[site].get(Place(site, store, "store", "", name)):
                self.hurt.add((site, store, name))
                self.hurt_now.add((site, store, name))
        for kind in ("aside", "staging"):
            self.forgotten[site] |= self.ids[site, kind]
        self.let_go()

    def run(self, site: str, *words: str, stdin: str = "") -> Any:
        """Remember who deletes."""
        if words[0] in ("rolling-deletion", "delete-instance"):
            wanted = int(words[words.index("--number-of-remote-copies") + 1])
            self.required[site] = min(wanted, self.required.get(site, wanted))
            self.asks &= "--no-verify-downstream-checksums" not in words
        return super().run(site, *words, stdin=stdin)

    # -- rows ------------------------------------------------------------------------------------------------------

    def ask(self, site: str, sql: str, *words: Any) -> list[tuple[Any, ...]]:
        """Rows of a catalogue."""
        if site not in self.open:
            self.open[site] = sqlite3.connect(self.top / site / "catalogue.db")
        return self.open[site].execute(sql, words).fetchall()

    def let_go(self) -> None:
        """Close the catalogues: the next step may replace them."""
        for database in self.open.values():
            database.close()
        self.open = {}

    def instances(self, site: str) -> Iterator[tuple[str, str, Row]]:
        """Every instance: store, name, row."""
        sql = """SELECT s.name, f.name, i.available, i.condition, i.verified_time, i.deletion_policy
                 FROM instance i JOIN file f ON f.id = i.file_id JOIN store s ON s.id = i.store_id"""
        for store, name, *rest in self.ask(site, sql):
            yield store, name, Row(*rest)

    # -- what must hold --------------------------------------------------------------------------------------------

    def check(self) -> None:
        """After a step: look at everybody whom it could have touched."""
        before = {site: self.scans[site] for site in sorted(self.touched & set(SITES))}
        self.moved: list[Place] = []
        self.lay = {name: dict(places) for name, places in self.at.items()} if self.required else {}
        for site, old in before.items():
            new = self.scans[site] = self.scan(site)
            for place in old.keys() - new.keys():
                del self.at[place.name][place]
            for place, good in new.items():
                self.at[place.name][place] = good
                if good and place.kind == "store":
                    self.had[site].add(place.name)
                    self.hurt.discard((site, place.store, place.name))
            self.moved += [place for place, good in sorted(old.items()) if good and place.kind != "staging" and not new.get(place)]
        self._check_moved()
        for site in before:
            self._check_rows(site)
            self._check_places(site)
        self._check_last_copies({place.name for site, old in before.items() for place in old})
        self.let_go()
        self.hurt_now, self.required, self.asks = set(), {}, True

    def _check_moved(self) -> None:
        """What is not any more where it lay and was good."""
        for place in self.moved:
            if (place.site, place.store, place.name) in self.hurt_now:
                continue
            if place.kind == "store" and self.scans[place.site].get(place) is False:
                raise Broken(f"{place} was good and was overwritten")
            sql = "SELECT r.cause FROM removal r JOIN file f ON f.id = r.file_id JOIN store s ON s.id = r.store_id WHERE f.name = ? AND s.name = ?"
            if place.kind == "store" and (0,) not in self.ask(place.site, sql, place.name, place.store):
                raise Broken(f"{place} was good and was taken away by what deletes nothing")
            back = self.scans[place.site].get(Place(place.site, place.store, "store", "", place.name))
            if place.kind == "aside" and not back and place.name not in self.expendable:
                self.stats["copies purged"] += 1
                if len(self.others(place)) < (self.required.get(place.site, 1) if self.asks else 1):
                    raise Broken(f"{place} was purged while only {self.others(place)} were good: {self.at[place.name]}")

    def others(self, place: Place) -> set[tuple[str, str]]:
        """Good copies of the same file in stores of others, as they were before this step or are now; none that nobody
        could have read."""
        there = [*self.lay.get(place.name, {}).items(), *self.at[place.name].items()]
        found = {(each.site, each.store) for each, good in there if good and each.kind == "store" and each.site != place.site}
        return found - (self.dark & self.unseen() if self.asks else set())

    def _check_deleted(self, site: str, rows: dict[tuple[str, str], Row]) -> None:
        """What was made unavailable in this step, and was not bad."""
        for (store, name), old in self.rows[site].items():
            new = rows.get((store, name), old._replace(available=0))
            if not old.available or new.available or new.condition or (site, store, name) in self.hurt:
                continue
            place = Place(site, store, "store", "", name)
            self.stats["copies deleted"] += 1
            if site not in self.required:
                raise Broken(f"{place} was made unavailable by what deletes nothing: {old} {new}")
            # Otherwise what holders had read lately counts, and may have gone bad since: it is set aside, not purged.
            if self.asks and len(self.others(place)) < self.required[site]:
                raise Broken(f"{place} was deleted while only {sorted(self.others(place))} were good")
            if not old.policy and not new.policy:
                raise Broken(f"{place} was deleted and may not be: {old}")

    def _check_last_copies(self, names: set[str]) -> None:
        """A good copy of everything that came in."""
        for name in [*names, *self.acknowledged] if self.step % 20 == 0 else names:
            if name in self.acknowledged and name not in self.expendable and not any(self.at[name].values()):
                raise Broken(f"there is no good copy of {name} any more: {self.at[name]}")
        for site in SOURCES:
            for name in self.waiting[site] & self.moving:
                content = self.content[name]
                kept = self.originals(site) / ("plain" if isinstance(content, bytes) else "trees") / name
                if not kept.exists() and not any(self.at[name].values()):
                    raise Broken(f"{name} was being moved in, and is nowhere")

    def _check_rows(self, site: str) -> None:
        """What a catalogue says."""
        rows = {(store, name): row for store, name, row in self.instances(site)}
        old = self.rows[site]
        for (store, name), row in rows.items():
            place = Place(site, store, "store", "", name)
            good = self.scans[site].get(place, False)
            hurt = (site, store, name) in self.hurt
            former = old.get((store, name))
            if row.available and row.condition == 0 and not good and not hurt:
                raise Broken(f"{place} is registered as sound, and is not good there")
            fresh = former is not None and former.verified != row.verified and row.verified is not None
            if fresh and row.available and row.condition == 0 and not good and (site, store, name) not in self.hurt_now:
                raise Broken(f"{place} was found good, and is not")
            if row.condition != 0 and good and (former is None or former.condition != row.condition):
                raise Broken(f"{place} is good, and is condemned: {row}")
        self._check_deleted(site, rows)
        self.rows[site] = rows
        for name, size, kind in self.ask(site, "SELECT name, size, kind FROM file"):
            content = self.content.get(name)
            if content is None or kind != isinstance(content, dict) or size != _size(content):
                raise Broken(f"{site} knows {name!r} with {size} bytes, kind {kind}")
        there = self.ask(site, THERE)
        for other, name in there:
            if name not in self.had[other]:
                raise Broken(f"{site} thinks that {name} is at {other}, which never had it")
        new = set(there) - self.told[site]
        self.told[site] |= new
        for other in {other for other, _ in new}:
            known = {name for _, name, _ in self.instances(other)} | self.lost[other]
            known |= {name for (name,) in self.ask(other, "SELECT f.name FROM removal r JOIN file f ON f.id = r.file_id")}
            gone = sorted(name for librarian, name in new if librarian == other and name not in known)
            if gone:
                raise Broken(f"{site} was told that {gone} are at {other}, which has not recorded them")
        if site in SOURCES and self.waiting[site]:
            self.taken(site, self.waiting[site] & {name for (_, name), row in rows.items() if row.available})
        for table, key in (("outgoing_transfer", "file_id, destination_id"), ("incoming_transfer", "name")):
            twice = self.ask(site, f"SELECT {key} FROM {table} WHERE status < 3 GROUP BY {key} HAVING COUNT(*) > 1")
            if twice:
                raise Broken(f"{site} has two live rows in {table}: {twice[:5]}")
        twice = self.ask(site, "SELECT file_id, destination_id FROM retry GROUP BY file_id, destination_id HAVING COUNT(*) > 1")
        if twice:
            raise Broken(f"{site} has two retries: {twice[:5]}")
        planless = self.ask(site, PLANLESS)
        if planless:
            raise Broken(f"{site}: attempts failed, and nothing says what comes next: {planless[:5]}")
        self._check_bounds(site)

    def _check_bounds(self, site: str) -> None:
        """Rows that must not grow by the minute."""
        faults = self.ask(site, "SELECT subject, kind FROM fault")
        files = sum(subject.startswith("file ") for subject, _ in faults)
        waits = self.ask(site, "SELECT COUNT(*) FROM incoming_transfer WHERE status < 3")[0][0]
        items = self.ask(site, "SELECT COUNT(*) FROM send_queue WHERE status < 3")[0][0]
        if len(faults) - files > 30 + items or files > waits + 30:
            raise Broken(f"{site} has {len(faults)} faults: {faults[:10]}")
        runs = self.ask(site, "SELECT command, target, idle_runs FROM task_run ORDER BY command, target, id")
        for one, other in zip(runs, runs[1:]):
            if one[:2] == other[:2] and one[2] and other[2]:
                raise Broken(f"{site} has two rows of idle runs one after the other: {one}")

    def _check_places(self, site: str) -> None:
        """No staging place and no place aside that no row names."""
        named = {id for (id,) in self.ask(site, "SELECT staging_id FROM incoming_transfer WHERE staging_id IS NOT NULL")}
        extra = self.ids[site, "staging"] - named - self.forgotten[site]
        if extra:
            raise Broken(f"{site}: staging places that no row names: {sorted(extra)}")
        if self.ids[site, "aside"]:
            named = {id for (id,) in self.ask(site, "SELECT aside_id FROM removal WHERE status < 2")}
            extra = self.ids[site, "aside"] - named - self.forgotten[site]
            if extra:
                raise Broken(f"{site}: set aside, and no row names it: {sorted(extra)}")

    # -- in the end ------------------------------------------------------------------------------------------------

    @property
    def mends(self) -> bool:
        """Whether this libtool can find and mend damage."""
        return "corruption-fixer" in cli.COMMANDS and "check-integrity" in cli.COMMANDS

    def left(self) -> list[str]:
        """What is not over, apart from what nobody can do."""
        self.check()
        found: list[str] = []
        for site in SITES:
            hopeless = self._hopeless(site)
            for table, columns in (("outgoing_transfer", "f.name"), ("incoming_transfer", "t.name")):
                join = "JOIN file f ON f.id = t.file_id" if table.startswith("out") else ""
                sql = f"SELECT {columns}, t.status, t.owed, t.reason FROM {table} t {join} WHERE t.status < 3 OR t.owed > 0"
                found += [f"{site}: {table} {row}" for row in self.ask(site, sql) if row[0] not in hopeless]
            later = "SELECT f.name, l.name, r.attempts, r.reason FROM retry r JOIN file f ON f.id = r.file_id JOIN librarian l ON l.id = r.destination_id"
            found += [f"{site}: retry {row}" for row in self.ask(site, later) if row[0] not in hopeless]
            if not hopeless:
                found += [f"{site}: queue {row}" for row in self.ask(site, "SELECT id, status, reason FROM send_queue WHERE status < 3")]
        found += self.wrongs()
        self.let_go()
        return found

    def _hopeless(self, site: str) -> set[str]:
        """Files of which the copies here are bad: they cannot be sent from here before they are mended."""
        counted = {place.name for place, good in self.scans[site].items() if good and place.kind == "store" and self._counted(place)}
        return {name for where, _, name in self.hurt if where == site and (not self.mends or name not in counted)}

    def wrongs(self) -> list[str]:
        """What should be somewhere and is not."""
        found: list[str] = []
        have = {site: {name for _, name in self.rows[site]} for site in SITES}
        sound = {
            site: {name for (store, name), row in self.rows[site].items() if row.available and self.at[name].get(Place(site, store, "store", "", name))}
            for site in SITES
        }
        for here, there in LINKS:
            told = {name for other, name in self.ask(here, THERE) if other == there}
            deleted = {name for (name,) in self.ask(there, "SELECT f.name FROM removal r JOIN file f ON f.id = r.file_id WHERE r.cause = 0")}
            bad = set() if self.mends else {name for site, _, name in self.hurt if site in (here, there)}
            due = sound[here] - bad
            found += [f"{there} has no good copy of {name}, which {here} has" for name in sorted(due - sound[there] - deleted)]
            found += [f"{here} does not know that {there} has {name}" for name in sorted((due & sound[there]) - told)]
        for name, site in self.acknowledged.items():
            known = name in have[site] or self.ask(site, "SELECT 1 FROM removal r JOIN file f ON f.id = r.file_id WHERE f.name = ?", name)
            if name not in self.expendable and not known:
                found.append(f"{site} has forgotten {name}")
        if self.mends:
            found += [f"damage is not mended: {site}/{store} {name}" for site, store, name in sorted(self.hurt) if self._mendable(site, store, name)]
        for site in SITES:
            for kind in ("staging", "aside"):
                if kind == "staging" and self.ids[site, kind]:
                    found.append(f"{site}: staging places are left over: {sorted(self.ids[site, kind])}")
        return found

    def _mendable(self, site: str, store: str, name: str) -> bool:
        """Whether a bad copy is one that should be got anew, and somebody who may send it has a good one."""
        row = self.rows[site].get((store, name))
        if row is None or not (row.available or row.condition):
            return False
        givers = {site} | {here for here, there in LINKS if there == site}
        return any(place.site in givers and self._counted(place) for place in self.goods(name))

    def _counted(self, place: Place) -> bool:
        row = self.rows[place.site].get((place.store, place.name))
        return row is not None and bool(row.available)

    def clear_away(self) -> None:
        """See there."""
        self.check()
        for site, store, name in sorted(self.hurt):
            path = self.path(Place(site, store, "store", "", name))
            if (store, name) not in self.rows[site] and os.path.lexists(path):
                _remove(path)
                self.note(f"the operator takes {site}/{store} {name} away")

    def repeated(self) -> dict[str, int]:
        """Lines that a librarian printed more than once within a day, how often."""
        last: dict[tuple[str, str], Any] = {}
        found: Counter[str] = Counter()
        for _, when, site, line in self.said:
            key = site, re.sub(r" \(for .*?\)|\(and \d+ more\)|\d+", "#", line)
            if key in last and abs((when - last[key]).total_seconds()) < 86000:
                found[f"{site}: {key[1]}"] += 1
            last[key] = when
        return dict(found.most_common())


def _signature(entry: os.DirEntry[str]) -> tuple[int, ...]:
    found = entry.stat(follow_symlinks=False)
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _below(path: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path)
            else:
                yield entry


def _remove(path: Path) -> None:
    if path.is_dir():
        for each in sorted(path.rglob("*"), reverse=True):
            each.rmdir() if each.is_dir() else each.unlink()
        path.rmdir()
    else:
        path.unlink()


def _size(content: bytes | dict[str, bytes]) -> int:
    return len(content) if isinstance(content, bytes) else sum(map(len, content.values()))


def live_through(top: Path, seed: int, files: int, steps: int = 80) -> Watched:
    """A whole month and its end."""
    with month(top, seed, files, Watched, steps=steps) as each:
        assert isinstance(each, Watched)
        try:
            for _ in each.live():
                each.check()
            each.mend()
            each.check()
            each.stats["rounds to converge"] = each.until_quiet(each.left)
        except (Broken, Exception) as trouble:
            text = "\n".join(each.log)
            where = f"seed {seed}, step {each.step}: {type(trouble).__name__}: {trouble}"
            raise AssertionError(f"{where}\nLIBTOOL_TEST_MONTH_SEED={seed}; the last things that happened:\n{text}") from trouble
        each.stats["simulated days"] = (each.world.now - each.start).days
        each.stats["steps"] = each.step
        return each


@pytest.mark.parametrize("seed", SEEDS)
def test_a_month_in_a_minute(tmp_path: Path, seed: int) -> None:
    each = live_through(tmp_path, seed, FILES)
    print(f"\nseed {seed}: " + ", ".join(f"{each.stats[key]} {key}" for key in sorted(each.stats)))
    assert each.stats["ended at seams"] and each.stats["damaged copies"]


__all__ = ["Words"]
