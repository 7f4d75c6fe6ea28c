"""What is in a remote tree: every file below a URL, and indexes with their shards. A folder checkpoint there is no entry: its files are.

One listing tells sizes, times and ETags; nothing is read of a file before it is converted, but of an index.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from convert.zoo import digest
from convert.zoo.place import Entry
from convert.zoo.store import OWN
from convert.zoo.walk import fitting, folders_above, index_suffixes, shards_of, wanted
from formats.core.errors import UsageError
from formats.core.remote import RemotePath, stamp, told

MOST = 10_000_000  # files of one tree


class RemoteTree:
    """All files below ``root``, or the one file that it is. Nothing below ``apart`` (a destination) belongs to it."""

    def __init__(self, root: RemotePath, apart: RemotePath | None = None) -> None:
        self.place = root
        self.apart = apart
        self.only = root.name if root.is_file() else None
        self.root = str(root.parent if self.only else root)
        if self.only is None and not root.is_dir():
            raise UsageError(root.missing().replace("file", "file or folder"), path=root)

    def entries(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Iterator[Entry]:
        """See `convert.zoo.place.Tree`."""
        found = self._listed()
        indexes = {name: self._shards(name, found) for name in found if name.endswith(index_suffixes())}
        taken = {shard for shards in indexes.values() for shard in shards}
        for name in sorted(found):
            if name in taken or not wanted(name, include, exclude) or any(fitting(at, exclude) for at in folders_above(name)):
                continue
            size, at = found[name]
            entry = Entry(name, f"{self.root}/{name}", size, at)
            if shards := indexes.get(name):
                parts = [name, *shards]
                entry.kind = "index"
                entry.listing = digest.of_listing((part, *found[part]) for part in parts)
                entry.size, entry.mtime_ns = sum(found[part][0] for part in parts), max(found[part][1] for part in parts)
            yield entry

    def _listed(self) -> dict[str, tuple[int, int]]:
        """name below the root → (bytes, time in ns)."""
        if self.only:
            state = self.place.stat()
            return {self.only: (state.st_size, state.st_mtime_ns)}
        fs, top = self.place.place()
        try:
            listed: dict[str, dict[str, Any]] = fs.find(top, detail=True)
        except Exception as error:
            raise told(error, self.place, "cannot be listed") from error
        if len(listed) > MOST:
            raise UsageError(f"holds {len(listed)} files, at most {MOST} are migrated at once", path=self.place)
        top = top.rstrip("/") + "/"
        found = {}
        for path, info in listed.items():
            name = path.removeprefix(top)
            parts = name.split("/")
            # Names that no path can spell (a//b) are nobody's checkpoints here; they cannot be mirrored into folders.
            odd = not all(parts) or "." in parts or ".." in parts
            if path.startswith(top) and not odd and OWN not in parts and not self._is_apart(name):
                found[name] = (int(info.get("size") or 0), stamp(info))
        return found

    def _is_apart(self, name: str) -> bool:
        return self.apart is not None and f"{self.root}/{name}".startswith(f"{self.apart}/")

    def _shards(self, index: str, found: dict[str, tuple[int, int]]) -> list[str]:
        folder, top = index.rpartition("/")[0], self.place.parent if self.only else self.place
        names = (f"{folder}/{shard}" if folder else shard for shard in shards_of(top / index))
        return sorted(name for name in names if name in found)
