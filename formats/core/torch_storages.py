"""Storages that torch keeps as records beside a pickle: members of a ZIP, or files of a folder that once was one.

Source: ``torch.serialization._save`` and ``_load``, ``torch.package.PackageExporter``, ``torch/csrc/jit/serialization/pickler.cpp``.
"""

from __future__ import annotations

from formats.core.dtype import DType
from formats.core.errors import CorruptCheckpoint
from formats.core.inert import LIMITS
from formats.core.rebuild import Rebuilt, TypedStorage, storage_dtype
from formats.core.storage import BytesStorage, Storage, Swapped
from formats.core.unpickle import Unpickled, unpickle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path
    from typing import Any, Protocol

    from formats.core.tensor_runs import Described
else:
    Protocol = object


class Records(Protocol):
    """What `ZipDirectory` offers, and whatever else keeps records by name."""

    @property
    def path(self) -> Path: ...

    @property
    def members(self) -> Collection[str]: ...

    def storage(self, name: str, location: str = "cpu") -> Storage:
        """The bytes of one record; nothing is read until they are asked for."""

    def read(self, name: str, limit: int) -> bytes:
        """All bytes of a small record. Raises `LimitExceeded` over ``limit`` bytes."""


def read_pickle(records: Records, name: str, storages: Storages) -> Unpickled:
    """The one pickle that record ``name`` is, with its storages."""
    data = records.read(name, LIMITS.pickle_bytes)
    found = unpickle(data, rebuilder=Rebuilt, persistent_load=storages.load, where=(records.path, name, 0))
    if found.end != len(data):
        raise CorruptCheckpoint(f"{len(data) - found.end} bytes follow the pickle in {name!r:.100}")
    return found


def file_version(records: Records, root: str) -> dict[str, str]:
    """``{"version": …}`` as the record of that name has it, or nothing."""
    name = f"{root}version"
    return {"version": records.read(name, 64).decode("latin-1").strip()} if name in records.members else {}


def byte_order(records: Records, root: str) -> str:
    """``little`` or ``big``, from the record of that name; files before torch 2.1 lack it and are little-endian."""
    name = f"{root}byteorder"
    if name not in records.members:
        return "little"
    order = records.read(name, 64)
    if order not in (b"little", b"big"):
        raise CorruptCheckpoint(f"byte order is {order!r:.40}, neither little nor big")
    return order.decode()


def storage_folder(records: Records, root: str) -> str:
    """``data/``, or ``tensors/`` in the files of torch 1.4, under ``root``."""
    folders = [f for f in ("data/", "tensors/") if any(n.startswith(root + f) for n in records.members)]
    if len(folders) == 2:
        raise CorruptCheckpoint(f"has storages under both {root + 'data/'!r:.100} and {root + 'tensors/'!r:.100}")
    return root + (folders[0] if folders else "data/")


class Storages:
    """Persistent ids ``('storage', class, key, location, numel)`` to records ``folder + key + suffix``, one storage a key."""

    def __init__(self, records: Records, folder: str, big: bool, suffix: str = "") -> None:
        self.records = records
        self.folder = folder
        self.big = big
        self.suffix = suffix
        _refuse_twins(records.members, folder)
        self._typed: dict[str, TypedStorage] = {}
        self._several: dict[str, Storage] = {}  # those of `several`; their class is this one, or stands in `_classes`
        self._class: Any = None
        self._classes: dict[str, Any] = {}
        self._absent = 0  # empty storages that have no record
        self._cls: Any = None  # the storage class met last, and its
        self._dtype: DType | None = None
        self._other: dict[tuple[str, Any], TypedStorage] = {}  # a key under a second storage class

    def load(self, pid: Any) -> TypedStorage:
        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage":
            raise CorruptCheckpoint(f"persistent id {_shown(pid)} is not ('storage', class, key, location, numel)")
        _, cls, key, location, numel = pid
        if type(key) is not str or type(numel) is not int or numel < 0:
            raise CorruptCheckpoint(f"storage {key!r:.60} with {_shown(numel)} elements: a text and a count are needed")
        typed = self._typed.get(key)
        if typed is None and key in self._several:
            own = self._classes.get(key, self._class)
            typed = self._typed[key] = TypedStorage(self._several[key], storage_dtype(own), own)
        if typed is None:
            if cls is not self._cls:  # most files have one or two of them
                self._dtype, self._cls = storage_dtype(cls), cls
            dtype = self._dtype
            nbytes = numel * dtype.itemsize if dtype else numel
            name = f"{self.folder}{key}{self.suffix}"
            if type(location) is not str:
                location = "cpu"
            if not nbytes and name not in self.records.members:
                storage: Storage = BytesStorage(b"", location)
                self._absent += 1
            else:
                storage = self.records.storage(name, location)
                if self.big and dtype and dtype.swap > 1:
                    storage = Swapped(storage, dtype.swap)
            typed = self._typed[key] = TypedStorage(storage, dtype, cls)
        else:
            if typed.cls is not cls:
                typed = self._of_another_class(typed, key, cls)
            nbytes = numel * typed.dtype.itemsize if typed.dtype else numel
        if typed.storage.nbytes != nbytes:
            raise CorruptCheckpoint(f"storage {key!r:.60} is declared with {nbytes} bytes, its record has {typed.storage.nbytes}")
        return typed

    def several(self, ids: list[Described], keys: list[Any]) -> list[Storage] | None:
        """What `load` gives for ``("storage", class, key, location, numel)`` of each of ``ids`` with its key, less the type.

        None where any of them is met before, missing or in any way unusual: `load` looks at them one by one, and says what is wrong.
        """
        find = getattr(self.records, "stored", None)
        if find is None or self.big or any(type(key) is not str for key in keys):
            return None
        others = False
        for one in set(ids):
            dtype = storage_dtype(one.cls)
            if dtype is None or type(one.location) is not str or one.more:
                return None
            one.nbytes = one.numel * dtype.itemsize
            if self._class is None:
                self._class = one.cls
            others |= one.cls is not self._class
        if len(set(keys)) < len(keys) or not (self._typed.keys().isdisjoint(keys) and self._several.keys().isdisjoint(keys)):
            return None
        folder, suffix = self.folder, self.suffix
        found: list[Storage] | None = find([f"{folder}{key}{suffix}" for key in keys], [one.location for one in ids])
        if found is None or [storage.nbytes for storage in found] != [one.nbytes for one in ids]:
            return None
        self._several.update(zip(keys, found, strict=True))
        if others:
            self._classes.update((key, one.cls) for key, one in zip(keys, ids, strict=True))
        return found

    def _of_another_class(self, typed: TypedStorage, key: str, cls: Any) -> TypedStorage:
        dtype = storage_dtype(cls)  # before it is hashed: what is no name may nest deeper than C code recurses
        if (key, cls) not in self._other:
            if self.big:
                raise CorruptCheckpoint(f"big-endian storage {key!r:.60} is of two types: which one is swapped is not said")
            self._other[key, cls] = TypedStorage(typed.storage, dtype, cls)
        return self._other[key, cls]

    def notes(self) -> list[str]:
        """What the archive holds and the pickle does not speak of."""
        folder, members = self.folder, self.records.members
        used = self._several.keys() | self._typed.keys()
        held = len(used) - self._absent
        if ("\n" + "\n".join(members)).count("\n" + folder) == held:  # at least as many as there are
            return []
        names = {folder + key + self.suffix for key in used}
        extra = [n for n in members if n.startswith(folder) and n not in names and n != folder]
        return [f"{len(extra)} storages in the archive belong to no tensor"] if extra else []


def _refuse_twins(members: Collection[str], folder: str) -> None:
    """Names that differ only by the case of ASCII letters: torch's ZIP library (miniz) takes either of them for the other."""
    root = folder[: folder.find("/") + 1]
    together = ("\n" + "\n".join(members)).replace("\n" + root, "\n")
    if together == together.lower():  # the usual case: no capital below the root, hence no twin
        return
    lower = folder.encode("utf-8", "surrogatepass").lower()
    seen: dict[bytes, str] = {}
    for name in members:
        folded = name.encode("utf-8", "surrogatepass").lower()
        first = seen.setdefault(folded, name)
        if first is not name and (folded.startswith(lower) or folded.endswith((b".pkl", b"/byteorder", b"/version"))):
            raise CorruptCheckpoint(f"has records {first!r:.100} and {name!r:.100}, which torch does not tell apart")


def _shown(value: Any) -> str:
    return f"{value!r:.60}" if isinstance(value, (str, int, float, bytes, type(None))) else f"a {type(value).__name__}"
