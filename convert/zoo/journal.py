"""What became of every source: SQLite in the destination, ``.ckpt-convert/journal.sqlite``.

Two levels, because what a killed process has written is there still, and what a dead machine has written may not be:

- ``recent-0.jsonl`` and ``recent-1.jsonl``, in turns, take each outcome as a line the moment it is known. They survive kill -9, and are
  believed on the next run only where the outputs' digests agree.
- The database takes outcomes in groups, after one `Store.sync` has made the group's outputs durable: what it calls done is on the disk.
  Then the group's lines are dropped.

The database keeps SQLite's rollback journal and ``synchronous=FULL``. WAL would need memory shared between processes, which NFS has not,
and gains nothing here: there is one writer (`lock`), and a commit a second. Readers may look in at any time.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from convert.zoo import digest
from convert.zoo.store import OWN
from formats.core.errors import OutputError, SystemIOError

SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (run INTEGER PRIMARY KEY, tool TEXT, settings TEXT, started TEXT, ended TEXT);
CREATE TABLE IF NOT EXISTS sources (
    name TEXT PRIMARY KEY, root TEXT, kind TEXT, size INTEGER, mtime_ns INTEGER, digest TEXT, format TEXT, title TEXT,
    architecture TEXT, ignored TEXT, run INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS conversions (
    name TEXT, target TEXT, settings TEXT, stem TEXT, status TEXT, outputs TEXT, dropped TEXT, notes TEXT, error TEXT, copy_of TEXT,
    attempts INTEGER, seconds REAL, tool TEXT, run INTEGER, PRIMARY KEY (name, target)) WITHOUT ROWID;
"""
VERSION = 1
NAME = "journal.sqlite"
RECENT = ("recent-0.jsonl", "recent-1.jsonl")
_SOURCE = ("root", "kind", "size", "mtime_ns", "digest", "format", "title", "architecture", "ignored", "run")
_CONVERSION = (
    "settings", "stem", "status", "outputs", "dropped", "notes", "error", "copy_of", "attempts", "seconds", "tool", "run",
)  # fmt: skip
_DOCUMENTS = ("outputs", "dropped", "notes", "error")
_NAMES = ("name", "root", "stem", "copy_of")
_TEXT = "CAST(? AS TEXT)"  # of a name of the file system: its bytes, which need not be UTF-8
CLAIMED = "claimed"  # its outputs are ours to replace: it was to be converted, and nobody knows how far that went


class Journal:
    """The journal of ``destination``, in ``home`` where that is another folder. `sources` and `conversions` hold what it knew when it was
    opened, by name and by target."""

    def __init__(self, destination: str, *, home: str | None = None, write: bool = True) -> None:
        self.destination = destination
        self.folder = Path(home or destination) / OWN
        self.path = self.folder / NAME
        self.sources: dict[str, dict[str, Any]] = {}
        self.conversions: dict[str, dict[str, dict[str, Any]]] = {}
        self.run = 0
        self.clean = True  # the last run ended by itself
        self._recent: list[int] = []
        self._turn = 0
        self._base: sqlite3.Connection | None = None
        with self._errors():
            if write:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._base = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
            elif self.path.exists():
                self._base = sqlite3.connect(
                    f"{self.path.resolve().as_uri()}?mode=ro", uri=True, timeout=30, isolation_level=None
                )
            if self._base is not None:
                self._base.text_factory = os.fsdecode
                self._open(write)

    def _open(self, write: bool) -> None:
        assert self._base is not None
        version = self._base.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise OutputError(
                f"is a journal of version {version}, this program writes {VERSION}", path=self.path, hint="another destination"
            )
        if write:
            self._base.execute("PRAGMA journal_mode=TRUNCATE")
            self._base.execute("PRAGMA synchronous=FULL")
            if not version:
                self._base.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version={VERSION};COMMIT;")
            flags = os.O_CREAT | os.O_RDWR | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
            self._recent = [os.open(self.folder / name, flags, 0o666) for name in RECENT]
        elif not version:
            return
        self.load()

    def load(self) -> None:
        """Read what the database holds."""
        assert self._base is not None
        for name, *values in self._base.execute(f"SELECT name, {', '.join(_SOURCE)} FROM sources"):
            self.sources[name] = dict(zip(_SOURCE, values, strict=True))
        for name, target, *values in self._base.execute(f"SELECT name, target, {', '.join(_CONVERSION)} FROM conversions"):
            row = dict(zip(_CONVERSION, values, strict=True))
            row |= {column: json.loads(row[column]) for column in _DOCUMENTS if row[column] is not None}
            self.conversions.setdefault(name, {})[target] = row
        last = self._base.execute("SELECT ended FROM runs ORDER BY run DESC LIMIT 1").fetchone()
        self.clean = last is None or last[0] is not None

    def begin(self, tool: str, settings: dict[str, Any], started: str) -> None:
        """A run begins."""
        assert self._base is not None
        with self._errors():
            values = (tool, json.dumps(settings, sort_keys=True), started)
            self.run = int(
                self._base.execute("INSERT INTO runs (tool, settings, started) VALUES (?, ?, ?)", values).lastrowid or 0
            )

    def left_over(self) -> list[dict[str, Any]]:
        """The outcomes that a killed run wrote down and could not make durable, those whose outputs are as they should be."""
        found: list[dict[str, Any]] = []
        for name in RECENT:
            with suppress(OSError):
                for line in (self.folder / name).read_bytes().splitlines():
                    try:
                        noted = json.loads(line)
                        if all(
                            digest.matches(os.path.join(self.destination, one["path"]), one["digest"]) for one in _files(noted)
                        ):
                            found.append(noted)
                    except Exception:  # the line or an output is not whole: it is done again
                        continue
        return found

    def claim(self, rows: Iterable[tuple[str, str, str, str]]) -> None:
        """Say durably, before anything is written, whose outputs will be: (name, target, settings, stem) of each conversion."""
        assert self._base is not None
        with self._errors(), self._transaction():
            self._base.executemany(
                f"INSERT INTO conversions (name, target, settings, stem, status, run) VALUES ({_TEXT}, ?, ?, {_TEXT}, ?, ?) "
                "ON CONFLICT (name, target) DO UPDATE "
                "SET settings=excluded.settings, stem=excluded.stem, status=excluded.status, run=excluded.run",
                [
                    (os.fsencode(name), target, settings, os.fsencode(stem), CLAIMED, self.run)
                    for name, target, settings, stem in rows
                ],
            )

    def note(self, noted: dict[str, Any]) -> None:
        """An outcome is known; it is not durable yet. ``noted`` holds ``name``, ``source`` (columns) and ``conversions`` by target."""
        with self._errors():
            os.write(self._recent[self._turn], json.dumps(noted, separators=(",", ":")).encode() + b"\n")

    def commit(self, group: list[dict[str, Any]]) -> None:
        """Take in a group of noted outcomes, whose outputs are durable by now. ``released`` are targets whose claim came to nothing."""
        assert self._base is not None
        sources, conversions, gone = [], [], []
        for noted in group:
            name = os.fsencode(noted["name"])
            gone += [(name, target) for target in noted.get("released", ())]
            sources.append((name, *(_stored(column, noted["source"].get(column)) for column in _SOURCE)))
            for target, row in noted["conversions"].items():
                conversions.append((name, target, *(_stored(column, row.get(column)) for column in _CONVERSION)))
        with self._errors(), self._transaction():
            self._base.executemany(f"DELETE FROM conversions WHERE name={_TEXT} AND target=?", gone)
            marks = ", ".join(_TEXT if column in _NAMES else "?" for column in ("name", *_SOURCE))
            self._base.executemany(f"INSERT OR REPLACE INTO sources (name, {', '.join(_SOURCE)}) VALUES ({marks})", sources)
            marks = ", ".join(_TEXT if column in _NAMES else "?" for column in ("name", "target", *_CONVERSION))
            self._base.executemany(
                f"INSERT OR REPLACE INTO conversions (name, target, {', '.join(_CONVERSION)}) VALUES ({marks})", conversions
            )

    def turn(self) -> int:
        """From now on notes go to the other file; the number of the one that is complete."""
        self._turn = 1 - self._turn
        return 1 - self._turn

    def drop(self, number: int) -> None:
        """Everything in that file is committed."""
        with self._errors():
            os.ftruncate(self._recent[number], 0)

    def end(self, ended: str) -> None:
        assert self._base is not None
        with self._errors():
            self._base.execute("UPDATE runs SET ended=? WHERE run=?", (ended, self.run))

    def close(self) -> None:
        if self._base is not None:
            self._base.close()
        while self._recent:
            os.close(self._recent.pop())

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        assert self._base is not None
        self._base.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with suppress(sqlite3.Error):  # a full disk has rolled it back already
                self._base.execute("ROLLBACK")
            raise
        self._base.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            damaged = "malformed" in str(error) or "not a database" in str(error)
            hint = "move it away: then everything is converted again, with --force" if damaged else None
            raise SystemIOError(f"the journal cannot be used: {error}", path=self.path, hint=hint) from error
        except OSError as error:
            raise SystemIOError(f"the journal cannot be used: {error.strerror}", path=error.filename or self.path) from error


def _stored(column: str, value: Any) -> Any:
    """``value`` as the database takes it."""
    if value is None:
        return None
    return json.dumps(value) if column in _DOCUMENTS else os.fsencode(value) if column in _NAMES else value


def _files(noted: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for row in noted["conversions"].values():
        for output in row.get("outputs") or ():
            yield from output["files"]


@contextmanager
def lock(destination: str) -> Iterator[None]:
    """Be the only migration into ``destination``; the system takes the lock back from a killed one."""
    folder = Path(destination) / OWN
    folder.mkdir(parents=True, exist_ok=True)
    fd = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        try:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows
            pass
        except BlockingIOError:
            raise OutputError("another migration into this folder is at work", path=destination) from None
        yield
    finally:
        os.close(fd)
