"""The pickle container of `torch.save` before torch 1.6 (0.1.10 to 1.5, and later by option).

Source: ``torch.serialization._legacy_save`` and ``_legacy_load``. Five pickles (magic number, protocol, system, the object, the keys
of its storages), then each storage as an int64 count of elements and its raw little-endian bytes. Nothing is checksummed.

The system pickle says the writer's byte order, but every release wrote the data little-endian whatever the machine
(``THPStorage_writeFileRaw``) and every release reads them so; a big-endian flag is noted and changes nothing.
"""

from __future__ import annotations

import struct

from formats.core.checkpoint import Checkpoint, Global
from formats.core.dtype import UINT8, DType
from formats.core.errors import CorruptCheckpoint
from formats.core.files import SourceFile, opened
from formats.core.pickle_stream import PickleStream
from formats.core.probe import Probe
from formats.core.protocol import Match
from formats.core.rebuild import Rebuilt, TypedStorage, storage_dtype
from formats.core.storage import FileSpan, Window

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
# The pickled magic number as protocol 2 (LONG1) and as protocols 0 and 1 (LONG) have it.
_HEADS = (
    b"\x8a\x0a" + MAGIC.to_bytes(10, "little"),
    b"L" + str(MAGIC).encode(),
)


def sniff(probe: Probe) -> Match:
    """The pickled magic number at the very beginning."""
    return Match.CERTAIN if any(head in probe.head[:32] for head in _HEADS) else Match.NO


def read(path: Path) -> Checkpoint:
    """Structure of the checkpoint at ``path``; storages are ranges of the file."""
    return read_file(opened(path))


def read_file(file: SourceFile) -> Checkpoint:
    """The same from an open file."""
    stream = PickleStream(file, 0, file.size)
    if stream.next("the magic number") != MAGIC:
        raise CorruptCheckpoint(f"magic number is not {MAGIC:#x}")
    protocol = stream.next("the protocol")
    if type(protocol) is not int or protocol != PROTOCOL:
        raise CorruptCheckpoint(f"protocol is {protocol!r:.40}, {PROTOCOL} is known")
    system = stream.next("the system record")
    storages = _Storages(file)
    tree = stream.next("the object", rebuilder=Rebuilt, storages=storages)
    names = stream.globals()
    keys = stream.next("the list of storages")
    storages.place(keys, stream.position, file.size)
    big = isinstance(system, dict) and system.get("little_endian") is False
    metadata = {"container": "legacy pickle", "byte_order": "little"}
    notes = ["written on a big-endian machine; torch stores the data little-endian all the same"] if big else []
    return Checkpoint(file.path, "torch-legacy", tree, names, metadata, notes, [file])


class _Storages:
    """Persistent ids to storages whose place in the file is known only after the object has been evaluated."""

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        self.clear()

    def clear(self) -> None:
        self.roots: dict[str, tuple[FileSpan, DType, int]] = {}  # key → (span, type, numel)
        self.typed: dict[Any, TypedStorage] = {}

    def load(self, pid: Any) -> Any:
        if type(pid) is tuple and len(pid) == 4 and pid[0] == "module" and type(pid[1]) is Global:
            if isinstance(pid[3], str):
                pid[1].source = pid[3]
            return pid[1]
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
            raise CorruptCheckpoint("persistent id is neither ('storage', class, key, location, numel, view) nor ('module', …)")
        _, cls, key, location, numel = pid[:5]
        view = pid[5] if len(pid) == 6 else None
        if type(key) is not str or type(numel) is not int or numel < 0:
            raise CorruptCheckpoint(f"storage {key!r:.60} with {numel!r:.60} elements: a text and a count are needed")
        dtype = storage_dtype(cls)
        root = self.roots.get(key)
        if root is None:
            width = dtype.itemsize if dtype else 1
            if numel * width > self.file.size:
                raise CorruptCheckpoint(f"storage {key!r:.60} of {numel * width} bytes in a file of {self.file.size}")
            span = FileSpan(self.file, 0, 0, location if isinstance(location, str) else "cpu")
            span.nbytes = numel * width  # the offset comes with the list of keys
            root = self.roots[key] = span, dtype or UINT8, numel
        if root[2] != numel:
            raise CorruptCheckpoint(f"storage {key!r:.60} is declared once with {root[2]} elements and once with {numel}")
        if view is None:
            index: Any = (key, cls)
            if index not in self.typed:
                self.typed[index] = TypedStorage(root[0], dtype)
            return self.typed[index]
        if type(view) is not tuple or len(view) != 3 or type(view[0]) is not str or any(type(v) is not int for v in view[1:]):
            raise CorruptCheckpoint(f"view of storage {key!r:.60} is not (key, offset, size)")
        index = (key, cls, *view)
        if index not in self.typed:
            width = root[1].itemsize
            if view[1] == 0 and view[2] == numel:
                self.typed[index] = TypedStorage(root[0], dtype)
            else:
                self.typed[index] = TypedStorage(Window(root[0], view[1] * width, view[2] * width), dtype)
        return self.typed[index]

    def place(self, keys: Any, at: int, stop: int) -> None:
        """Give each storage its offset, from the counts that stand before the data, and compare all of them with the pickle."""
        if not isinstance(keys, list) or any(type(key) is not str for key in keys):
            raise CorruptCheckpoint("list of storages is no list of texts")
        if len(set(keys)) != len(keys):
            raise CorruptCheckpoint(f"list of storages names one of its {len(keys)} keys twice")
        if set(keys) != set(self.roots):
            odd = sorted(set(keys) ^ set(self.roots))[0]
            side = "the pickle names and the list does not" if odd in self.roots else "the list names and the pickle does not"
            raise CorruptCheckpoint(f"list of {len(keys)} storages, pickle with {len(self.roots)}: {side} {odd!r:.60}")
        needed = at + sum(8 + numel * dtype.itemsize for _, dtype, numel in self.roots.values())
        for key in keys:
            span, dtype, numel = self.roots[key]
            if at + 8 > stop:
                raise _cut_off(stop, needed)
            (count,) = struct.unpack("<q", self.file.read(at, 8))
            if count != numel:
                raise CorruptCheckpoint(f"storage {key!r:.60} at byte {at} has {count} elements, the pickle says {numel}")
            at += 8
            if at + numel * dtype.itemsize > stop:
                raise _cut_off(stop, needed)
            span.offset = at
            at += numel * dtype.itemsize
        if at != stop:
            raise CorruptCheckpoint(f"{stop - at} bytes follow the last storage, at byte {at}")


def _cut_off(stop: int, needed: int) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"is cut off: {needed - stop} of {needed} bytes are missing", hint="the download or the copy broke off: fetch it again"
    )
