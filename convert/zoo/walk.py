"""What is in a local tree: files, folders that are one checkpoint, and indexes with their shards. Links are not followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from convert import naming
from convert.zoo import digest
from convert.zoo.place import Entry
from convert.zoo.store import OWN
from formats import registry
from formats.core.errors import CheckpointError
from formats.core.probe import Probe
from formats.core.protocol import Format, Match


@dataclass(slots=True)
class _Folder:
    """What stands directly in a folder: name → what `os.lstat` says."""

    files: dict[str, os.stat_result] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    trouble: str | None = None
    complete: bool = False  # all that stands in it is here


class LocalTree:
    """The folder ``root``: all of it, or what ``names`` (places below it) name. Nothing in ``apart`` (a destination) belongs to it."""

    def __init__(
        self,
        root: Path | str,
        names: Sequence[str] | None = None,
        apart: Path | None = None,
        own: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self.root = os.fspath(root)
        self.names = names
        self.own = own or {}  # options of single places
        self.apart = apart

    def entries(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Iterator[Entry]:
        """See `convert.zoo.place.Tree`. ``include`` and ``exclude`` are patterns as `wanted` reads them."""
        found: dict[str, _Folder] = {}
        for name in [""] if self.names is None else self.names:
            self._scan(name, found, exclude)
        whole = self._whole(found)
        for name in sorted(found):
            if name in whole or not whole.isdisjoint(folders_above(name)):
                continue
            folder = found[name]
            if folder.trouble is not None:
                yield Entry(name or ".", folder.trouble, 0, 0, "unreadable")
            for below in (below for below in folder.folders if below in whole and wanted(below, include, exclude)):
                yield self._one(below, found)
            yield from self._files(name, folder, include, exclude)

    def _scan(self, name: str, found: dict[str, _Folder], exclude: Sequence[str]) -> None:
        """Take in everything at and below ``name``."""
        path = os.path.join(self.root, name) if name else self.root
        try:
            state = os.stat(path)
        except OSError as error:
            found.setdefault(name, _Folder()).trouble = error.strerror or str(error)
            return
        if not stat.S_ISDIR(state.st_mode):
            above, _, own = name.rpartition("/")
            found.setdefault(above, _Folder()).files[own] = state  # named by somebody, so a link is followed
            return
        waiting = [name]
        while waiting:
            at = waiting.pop()
            folder = found.setdefault(at, _Folder())
            if folder.complete:  # named twice
                continue
            folder.complete = True
            try:
                with os.scandir(os.path.join(self.root, at) if at else self.root) as entries:
                    for entry in entries:
                        below = f"{at}/{entry.name}" if at else entry.name
                        if entry.is_dir(follow_symlinks=False):
                            if entry.name != OWN and not self._is_apart(entry) and not fitting(below, exclude):
                                folder.folders.append(below)
                                waiting.append(below)
                        else:
                            folder.files[entry.name] = entry.stat(follow_symlinks=False)
            except OSError as error:
                folder.trouble = error.strerror or str(error)
            folder.folders.sort()

    def _is_apart(self, entry: os.DirEntry[str]) -> bool:
        return self.apart is not None and naming.same(Path(entry.path), self.apart)

    def _whole(self, found: dict[str, _Folder]) -> set[str]:
        """Folders that are one checkpoint. Where a folder is one because of a folder in it (DeepSpeed's ``latest``), the inner one is."""
        whole: set[str] = set()
        above: set[str] = set()
        for name in sorted(found, key=lambda name: -name.count("/")):
            if name and name not in above and self._is_checkpoint(name):
                whole.add(name)
                above |= set(folders_above(name))
        return whole

    def _is_checkpoint(self, name: str) -> bool:
        path = Path(self.root, name)
        try:
            probe = Probe(path)
            return any(registry.load(row).sniff(probe) == Match.CERTAIN for row in _folder_rows())
        except (CheckpointError, OSError):
            return False

    def _one(self, name: str, found: dict[str, _Folder]) -> Entry:
        size = mtime = 0
        parts: list[tuple[str, int, int]] = []
        for folder in (folder for folder in found if folder == name or folder.startswith(name + "/")):
            for own, state in found[folder].files.items():
                size, mtime = size + state.st_size, max(mtime, state.st_mtime_ns)
                parts.append((f"{folder}/{own}", state.st_size, state.st_mtime_ns))
        return Entry(name, os.path.join(self.root, name), size, mtime, "folder", self.own.get(name), digest.of_listing(parts))

    def _files(self, name: str, folder: _Folder, include: Sequence[str], exclude: Sequence[str]) -> Iterator[Entry]:
        places = {own: f"{name}/{own}" if name else own for own in sorted(folder.files)}
        indexes = {own: self._shards(places[own], folder) for own in places if own.endswith(index_suffixes())}
        taken = {shard for shards in indexes.values() for shard in shards}
        for own, place in places.items():
            if own in taken or not wanted(place, include, exclude):
                continue
            state = folder.files[own]
            entry = Entry(place, os.path.join(self.root, place), state.st_size, state.st_mtime_ns, options=self.own.get(place))
            if not stat.S_ISREG(state.st_mode):
                entry.kind = "link" if stat.S_ISLNK(state.st_mode) else "special"
            elif shards := indexes.get(own):
                states = [state, *(folder.files[shard] for shard in shards)]
                entry.kind = "index"
                entry.listing = digest.of_listing(
                    (o, s.st_size, s.st_mtime_ns) for o, s in zip([own, *shards], states, strict=True)
                )
                entry.size, entry.mtime_ns = sum(s.st_size for s in states), max(s.st_mtime_ns for s in states)
            yield entry

    def _shards(self, index: str, folder: _Folder) -> list[str]:
        """The files beside an index that it speaks of."""
        return sorted(name for name in shards_of(Path(self.root, index)) if name in folder.files)


@cache
def _index_rows() -> tuple[Format, ...]:
    """Rows of files that speak of others beside them: their modules tell which (``members``)."""
    rows = (row for row in registry.readers() if row.nests and row.suffixes)
    return tuple(row for row in rows if hasattr(registry.load(row), "members"))


def shards_of(index: Path) -> set[str]:
    """The names that an index gives its shards."""
    row = next(row for row in _index_rows() if index.name.endswith(row.suffixes))
    return set(registry.load(row).members(index))


@cache
def _folder_rows() -> tuple[Format, ...]:
    """Rows of folders that are one checkpoint. Of an index in a folder the index is the checkpoint."""
    return tuple(row for row in registry.readers() if row.folders and row not in _index_rows())


@cache
def index_suffixes() -> tuple[str, ...]:
    return tuple(suffix for row in _index_rows() for suffix in row.suffixes)


def folders_above(name: str) -> list[str]:
    """The folders that ``name`` lies in."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def fitting(name: str, patterns: Sequence[str]) -> bool:
    """Whether a place fits one of the patterns: with "/" the whole place, else the last part of it. ``*`` also fits "/"."""
    own = name.rpartition("/")[2]
    return any(fnmatchcase(name if "/" in pattern else own, pattern.rstrip("/")) for pattern in patterns)


def wanted(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether a place is to be looked at: it fits ``include``, if there is any, and nothing of ``exclude``."""
    return (not include or fitting(name, include)) and not fitting(name, exclude)
