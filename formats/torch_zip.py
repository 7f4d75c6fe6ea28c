"""The ZIP container of `torch.save` (torch 1.6 to today, and 1.4 by option).

Source: ``torch.serialization._save`` and ``_load``. One root folder of any name with ``data.pkl``, the storages under ``data/<key>``
(``tensors/<key>`` in torch 1.4), ``version``, and since 2.1 ``byteorder``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from formats.core.checkpoint import Checkpoint
from formats.core.errors import CorruptCheckpoint
from formats.core.files import SourceFile
from formats.core.inert import LIMITS
from formats.core.probe import Probe
from formats.core.protocol import Match
from formats.core.rebuild import Rebuilt, TypedStorage, storage_dtype
from formats.core.storage import BytesStorage, Storage, Swapped
from formats.core.unpickle import unpickle
from formats.core.zip import ZipDirectory


def sniff(probe: Probe) -> Match:
    archive = probe.zip
    if archive is None:
        return Match.NO
    root = find_root(archive)
    if root is None or f"{root}constants.pkl" in archive.members:
        return Match.NO
    return Match.CERTAIN if f"{root}version" in archive.members or f"{root}.data/version" not in archive.members else Match.NO


def find_root(archive: ZipDirectory) -> str | None:
    """The folder that ``data.pkl`` is in, with its slash; None where no member has that name or two do."""
    found = [name[: -len("data.pkl")] for name in archive.members if name == "data.pkl" or name.endswith("/data.pkl")]
    return found[0] if len(found) == 1 else None


def read(path: Path) -> Checkpoint:
    """Structure of the checkpoint at ``path``; storages are members of the archive, read when asked for."""
    return read_file(SourceFile(path))


def read_file(file: SourceFile) -> Checkpoint:
    """The same from an open file."""
    archive = ZipDirectory(file)
    root = find_root(archive)
    if root is None:
        pickles = [name for name in archive.members if name.endswith("data.pkl")]
        raise CorruptCheckpoint(f"ZIP archive has {len(pickles)} members data.pkl where torch writes one", path=file.path)
    return read_archive(archive, root, "data.pkl", file.path)


def read_archive(archive: ZipDirectory, root: str, pickle_name: str, path: Path) -> Checkpoint:
    """The pickle ``root + pickle_name`` with the storages beside it."""
    big = byte_order(archive, root) == "big"
    storages = Storages(archive, root, big)
    data = archive.read(root + pickle_name, LIMITS.pickle_bytes)
    found = unpickle(data, rebuilder=Rebuilt, persistent_load=storages.load)
    if found.end != len(data):
        raise CorruptCheckpoint(f"{len(data) - found.end} bytes follow the pickle in {root + pickle_name!r:.100}", path=path)
    metadata: dict[str, Any] = {"container": "zip", "root": root.rstrip("/"), "byte_order": "big" if big else "little"}
    if f"{root}version" in archive.members:
        metadata["version"] = archive.read(f"{root}version", 64).decode("latin-1").strip()
    notes = storages.notes()
    return Checkpoint(path, "torch-zip", found.value, found.globals(), metadata, notes, [archive.file])


def byte_order(archive: ZipDirectory, root: str) -> str:
    """``little`` or ``big``, from the record of that name; files before torch 2.1 lack it and are little-endian."""
    name = f"{root}byteorder"
    if name not in archive.members:
        return "little"
    order = archive.read(name, 64)
    if order not in (b"little", b"big"):
        raise CorruptCheckpoint(f"byte order is {order!r:.40}, neither little nor big")
    return order.decode()


class Storages:
    """Persistent ids ``('storage', class, key, location, numel)`` to members of the archive, one storage a key."""

    def __init__(self, archive: ZipDirectory, root: str, big: bool) -> None:
        self.archive = archive
        self.big = big
        folders = [f for f in ("data/", "tensors/") if any(n.startswith(root + f) for n in archive.members)]
        if len(folders) == 2:
            raise CorruptCheckpoint(f"ZIP archive has storages under both {root}data/ and {root}tensors/", path=archive.file.path)
        self.folder = root + (folders[0] if folders else "data/")
        self._typed: dict[str, TypedStorage] = {}
        self._other: dict[tuple[str, Any], TypedStorage] = {}  # a key under a second storage class

    def load(self, pid: Any) -> TypedStorage:
        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage":
            raise CorruptCheckpoint(f"persistent id {_shown(pid)} is not ('storage', class, key, location, numel)")
        _, cls, key, location, numel = pid
        if type(key) is not str or type(numel) is not int or numel < 0:
            raise CorruptCheckpoint(f"storage {key!r:.60} with {_shown(numel)} elements: a text and a count are needed")
        typed = self._typed.get(key)
        if typed is None:
            dtype = storage_dtype(cls)
            nbytes = numel * dtype.itemsize if dtype else numel
            storage = self._open(key, nbytes, location if isinstance(location, str) else "cpu", dtype.swap if dtype else 1)
            typed = self._typed[key] = TypedStorage(storage, dtype, cls)
        elif typed.cls is not cls:
            if (key, cls) not in self._other:
                if self.big:
                    raise CorruptCheckpoint(f"big-endian storage {key!r:.60} is of two types: which one is swapped is not said")
                self._other[key, cls] = TypedStorage(typed.storage, storage_dtype(cls), cls)
            typed = self._other[key, cls]
        nbytes = numel * typed.dtype.itemsize if typed.dtype else numel
        if typed.storage.nbytes != nbytes:
            raise CorruptCheckpoint(f"storage {key!r:.60} is declared with {nbytes} bytes, its record has {typed.storage.nbytes}")
        return typed

    def _open(self, key: str, nbytes: int, location: str, swap: int) -> Storage:
        name = self.folder + key
        if not nbytes and name not in self.archive.members:
            return BytesStorage(b"", location)
        storage = self.archive.storage(name, location)
        return Swapped(storage, swap) if self.big and swap > 1 else storage

    def notes(self) -> list[str]:
        """What the archive holds and the pickle does not speak of."""
        used = {self.folder + key for key in self._typed}
        extra = [n for n in self.archive.members if n.startswith(self.folder) and n not in used and n != self.folder]
        return [f"{len(extra)} storages in the archive belong to no tensor"] if extra else []


def _shown(value: Any) -> str:
    return f"{value!r:.60}" if isinstance(value, (str, int, float, bytes, type(None))) else f"a {type(value).__name__}"
