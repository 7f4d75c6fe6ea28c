"""Whether what is on disk is what was handed out, and whether what was handed out is what the source's checksums say."""

from __future__ import annotations

from formats.core.buffers import ALLOCATED, PAGE, borrow, give_back
from formats.core.crc import crc32_for
from formats.core.errors import CorruptCheckpoint, ParityFailed
from formats.core.layout import Layout
from formats.core.positioned import read_at
from formats.core.storage import Storage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Bytes read or written at once: what is written, read back and summed meets in the processor's cache. A little less than 1 MiB: writes of
# just that, at multiples of it, get page cache in runs of 1 MiB, which now and then take the system three times as long.
PIECE = 960 << 10
BACK = 192 << 10  # … and read back at once: what a processor's cache holds beside the piece
LEAD = 4 << 10  # bytes of a buffer beyond a piece, for what stands before the data in the source

Part = tuple[int, int]  # (index of a data segment, how many of its bytes)
NO_DATA = -1  # index of what stands between data segments


class ReadBack:
    """Reads pieces back, compares them with what was written from its `buffer`, and sums them into ``crcs``, one a data segment.

    ``read_back`` is a descriptor of the output, or −1: then only sums are made, where the layout has late segments that need them.
    """

    def __init__(self, layout: Layout, read_back: int, crcs: list[int]) -> None:
        self.layout = layout
        self.read_back = read_back
        self.crcs = crcs
        self.wanted = read_back >= 0 or bool(layout.late)
        self.buffer = borrow(min(PIECE, layout.size) + LEAD)
        self._own = bytearray(min(BACK, layout.size) + PAGE if read_back >= 0 else 0)
        self._crc32 = crc32_for(layout.size)

    def piece(self, offset: int, length: int, parts: list[Part], begin: int) -> None:
        """``length`` bytes of the buffer from ``begin`` stand at ``offset`` now, and are ``parts`` one after the other."""
        if not self.wanted:
            return
        view = self.buffer.view[begin : begin + length]
        if self.read_back >= 0:
            self._compare(offset, view, parts[0][0])
        at, crc32, crcs = 0, self._crc32, self.crcs
        for index, count in parts:
            if index != NO_DATA:
                crcs[index] = crc32(view[at : at + count], crcs[index])
            at += count

    def _compare(self, offset: int, view: memoryview, first: int) -> None:
        own = memoryview(self._own)
        for at in range(0, len(view), BACK):
            some = view[at : at + BACK]
            place = (offset + at - ALLOCATED) % PAGE
            read_at(self.read_back, own[place : place + len(some)], offset + at)
            if not self._own.startswith(some, place):  # compares like memcmp, without a copy
                name, stop = self.layout.data[first].name, offset + len(view)
                raise ParityFailed(f"bytes {offset} to {stop} on disk (tensor {name!r:.200}) are not what was written")

    def close(self) -> None:
        """Nothing more is to be checked."""
        give_back(self.buffer)


def compare_stored(layout: Layout, crcs: list[int]) -> None:
    """Compare the sums with the checksums that the source holds: `CorruptCheckpoint` where the source contradicts its own."""
    partial: list[tuple[Any, str, int | None]] = []
    for data, crc in zip(layout.data, crcs, strict=True):
        storage: Any = data.storage
        find = getattr(storage, "stored_crc", None)
        stored = None if find is None else find()
        if stored is not None:
            if crc != stored:
                _refuse(storage, data.name, stored)
        elif (inner := getattr(storage, "inner", None)) is not None:
            partial.append((inner, data.name, getattr(storage, "inner_crc", None)))
    if not partial:
        return
    # Of storages that only parts were taken of, the whole has to be read once more to know whether it is sound.
    proved = {id(data.storage) for data in layout.data if _stored_crc(data.storage) is not None}
    for base, name, found in partial:
        stored = _stored_crc(base)
        while stored is None and (inner := getattr(base, "inner", None)) is not None:
            base, stored, found = inner, _stored_crc(inner), None
        if stored is not None and id(base) not in proved:
            proved.add(id(base))
            if (_crc(base) if found is None else found) != stored:
                _refuse(base, name, stored)


def _stored_crc(storage: Any) -> int | None:
    find = getattr(storage, "stored_crc", None)
    return None if find is None else find()


def _crc(storage: Storage) -> int:
    crc, crc32 = 0, crc32_for(storage.nbytes)
    for piece in storage.chunks(0, storage.nbytes):
        crc = crc32(piece, crc)
    return crc


def _refuse(storage: Storage, name: str, stored: int) -> None:
    """The file does not have the checksum that the source gives: is it the source that is wrong?"""
    found = _crc(storage)
    if found != stored:
        raise CorruptCheckpoint(f"tensor {name!r:.200} has CRC-32 {found:08x} in the source, expected {stored:08x}")
    raise ParityFailed(f"tensor {name!r:.200} on disk does not have the CRC-32 {stored:08x} of the source")
