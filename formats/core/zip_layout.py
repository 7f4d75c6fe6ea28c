"""An archive of stored records, laid out before a byte is written: the ZIP that `torch.save` makes and `torch.load` maps.

Source: PKWARE APPNOTE 6.3.10; ``caffe2/serialize/inline_container.cc`` (root folder, the ``FB`` extra field that aligns a record's bytes
to 64). Local headers carry sizes and CRC-32 themselves, so no data descriptors follow; nothing in the file depends on the time, the
machine or the output's name.
"""

from __future__ import annotations

import struct
import zlib

from formats.core.layout import Data, Late, Layout, Literal
from formats.core.pickling import pickle_tree
from formats.core.storage import Storage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ROOT = "archive"
ALIGNMENT = 64  # bytes, of each record's data: torch.load(mmap=True) hands them out in place
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END64 = struct.Struct("<4sQ2H2L4Q")
_END64_PLACE = struct.Struct("<4sLQL")
_END = struct.Struct("<4s4H2LH")
_DATE = 0x21  # 1980-01-01, the first that ZIP has
_UTF8 = 0x800
_LIMIT32, _LIMIT16 = 0xFFFFFFFF, 0xFFFF


class _Record:
    """A record's name and place. As the maker of its own local header it takes the CRC-32 of all data segments; ``index`` is its own."""

    __slots__ = ("crc", "header", "index", "name", "size")

    def __init__(self, name: bytes, header: int, size: int, crc: int | None, index: int) -> None:
        self.name = name
        self.header = header
        self.size = size
        self.crc = crc
        self.index = index

    def __call__(self, crcs: list[int]) -> bytes:
        return _local(self.name, self.size, self.extra(), crcs[self.index] if self.crc is None else self.crc)

    def extra(self) -> bytes:
        return _extra(self.header, len(self.name), self.size)


class ZipLayout:
    """Records one after the other; `layout` closes the archive."""

    def __init__(self, root: str = ROOT) -> None:
        self.root = root
        self.at = 0
        self.data: list[Data] = []
        self.literals: list[Literal] = []
        self.late: list[Late] = []
        self.records: list[_Record] = []

    def add(self, name: str, content: bytes | Storage, *, called: str | None = None) -> None:
        """A record ``root/name``; ``called`` is what an error in a storage's bytes names."""
        raw = (f"{self.root}/{name}" if self.root else name).encode()
        size = len(content) if isinstance(content, bytes) else content.nbytes
        record = _Record(raw, self.at, size, zlib.crc32(content) if isinstance(content, bytes) else None, len(self.data))
        length = _LOCAL.size + len(raw) + len(record.extra())
        if isinstance(content, bytes):
            self.literals.append(Literal(self.at, record([]) + content))
        else:
            self.late.append(Late(self.at, length, record))
            self.data.append(Data(self.at + length, content, called or name))
        self.records.append(record)
        self.at += length + size

    def layout(self) -> Layout:
        start = self.at
        size = sum(_CENTRAL.size + len(record.name) + _central_extra(record.header, record.size) for record in self.records)
        end = _end(len(self.records), size, start)
        self.late.append(Late(start, size, self._directory))
        return Layout(start + size + len(end), [*self.literals, Literal(start + size, end)], self.data, self.late)

    def _directory(self, crcs: list[int]) -> bytes:
        return b"".join(
            _central(record.name, record.header, record.size, crcs[record.index] if record.crc is None else record.crc)
            for record in self.records
        )


def _extra(header: int, name_length: int, size: int) -> bytes:
    """ZIP64 sizes where they are needed, then the padding that aligns the data."""
    sizes = struct.pack("<HHQQ", 1, 16, size, size) if size >= _LIMIT32 else b""
    at = header + _LOCAL.size + name_length + len(sizes) + 4
    padding = -at % ALIGNMENT
    return sizes + b"FB" + padding.to_bytes(2, "little") + b"Z" * padding


def _local(name: bytes, size: int, extra: bytes, crc: int) -> bytes:
    big = size >= _LIMIT32
    shown = _LIMIT32 if big else size
    return _LOCAL.pack(b"PK\3\4", 45 if big else 20, _UTF8, 0, 0, _DATE, crc, shown, shown, len(name), len(extra)) + name + extra


def _central_extra(header: int, size: int) -> int:
    fields = (2 if size >= _LIMIT32 else 0) + (1 if header >= _LIMIT32 else 0)
    return 4 + 8 * fields if fields else 0


def _central(name: bytes, header: int, size: int, crc: int) -> bytes:
    values = ([size, size] if size >= _LIMIT32 else []) + ([header] if header >= _LIMIT32 else [])
    extra = struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values) if values else b""
    shown = min(size, _LIMIT32)
    version = 45 if values else 20
    return (
        _CENTRAL.pack(
            b"PK\1\2",
            version,
            version,
            _UTF8,
            0,
            0,
            _DATE,
            crc,
            shown,
            shown,
            len(name),
            len(extra),
            0,
            0,
            0,
            0,
            min(header, _LIMIT32),
        )
        + name
        + extra
    )


def _end(count: int, size: int, start: int) -> bytes:
    end = b""
    if count >= _LIMIT16 or size >= _LIMIT32 or start >= _LIMIT32:
        end = _END64.pack(b"PK\6\6", _END64.size - 12, 45, 45, 0, 0, count, count, size, start)
        end += _END64_PLACE.pack(b"PK\6\7", 0, start + size, 1)
    shown = min(count, _LIMIT16)
    return end + _END.pack(b"PK\5\6", 0, 0, shown, shown, min(size, _LIMIT32), min(start, _LIMIT32), 0)


def torch_archive(tree: Any, *, locations: bool = False, notes: list[str] | None = None) -> Layout:
    """The archive that ``torch.save(tree)`` makes, readable by ``torch.load(weights_only=True)`` of torch 1.6 to today.

    What had to be written otherwise is appended to ``notes``. The records ``.format_version`` and ``.storage_alignment`` are left out:
    they promise data descriptors (``torch.utils.serialization.config.load.calculate_storage_offsets``), which this archive does not need.
    """
    pickled = pickle_tree(tree, locations=locations)
    archive = ZipLayout()
    archive.add("data.pkl", pickled.data)
    archive.add("byteorder", b"little")
    for slot in pickled.storages:
        archive.add(f"data/{slot.key}", slot.record())
    archive.add("version", b"3\n")
    if notes is not None:
        notes += pickled.notes
    return archive.layout()
