"""Storages: little-endian bytes, read in order, in pieces. Whatever changes bytes on the way is a storage around another."""

from __future__ import annotations

from formats.core.errors import CorruptCheckpoint
from formats.core.files import PIECE, SourceFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Protocol
else:
    Protocol = object


class Storage(Protocol):
    """A run of ``nbytes`` bytes. ``location`` is the device that the file names for it (``cpu``, ``cuda:0``)."""

    nbytes: int
    location: str

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        """Bytes ``[start, stop)`` in order; each piece is valid until the next is asked for."""


def plain_span(storage: Storage) -> tuple[SourceFile, int] | None:
    """(file, byte offset) where ``storage`` is nothing but a range of a file: such bytes can be moved the fastest way."""
    find = getattr(storage, "plain_span", None)
    span = None if find is None else find()
    return None if span is None else span[0].origin(span[1])


class FileSpan:
    """``nbytes`` bytes of ``file`` from ``offset``."""

    __slots__ = ("file", "location", "nbytes", "offset")

    def __init__(self, file: SourceFile, offset: int, nbytes: int, location: str = "cpu") -> None:
        if offset < 0 or nbytes < 0 or offset + nbytes > file.size:
            raise CorruptCheckpoint(
                f"data at bytes {offset} to {offset + nbytes} lie outside the file of {file.size} bytes", path=file.path
            )
        self.file = file
        self.offset = offset
        self.nbytes = nbytes
        self.location = location

    def plain_span(self) -> tuple[SourceFile, int]:
        return self.file, self.offset

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        return self.file.pieces(self.offset + start, stop - start)


class BytesStorage:
    """Bytes that are in memory already: small literals and values computed on the way."""

    __slots__ = ("data", "location", "nbytes")

    def __init__(self, data: bytes | bytearray | memoryview, location: str = "cpu") -> None:
        self.data = memoryview(data).cast("B")
        self.nbytes = len(self.data)
        self.location = location

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        for at in range(start, stop, PIECE):
            yield self.data[at : min(at + PIECE, stop)]


class Window:
    """Bytes ``[start, start + nbytes)`` of another storage."""

    __slots__ = ("inner", "location", "nbytes", "start")

    def __init__(self, inner: Storage, start: int, nbytes: int) -> None:
        if start < 0 or nbytes < 0 or start + nbytes > inner.nbytes:
            raise CorruptCheckpoint(f"bytes {start} to {start + nbytes} lie outside a storage of {inner.nbytes} bytes")
        self.inner = inner
        self.start = start
        self.nbytes = nbytes
        self.location = inner.location

    def plain_span(self) -> tuple[SourceFile, int] | None:
        span = plain_span(self.inner)
        return None if span is None else (span[0], span[1] + self.start)

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        return self.inner.chunks(self.start + start, self.start + stop)


class Swapped:
    """Big-endian elements of ``width`` bytes, handed out little-endian."""

    __slots__ = ("inner", "location", "nbytes", "width")
    _CODES = {2: "H", 4: "I", 8: "Q"}

    def __init__(self, inner: Storage, width: int) -> None:
        self.inner = inner
        self.width = width
        self.nbytes = inner.nbytes
        self.location = inner.location

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        # Read whole elements around the range, so that a range may begin or end inside one.
        from array import array

        low, high = start - start % self.width, min(stop + -stop % self.width, self.nbytes)
        at, rest = low, b""
        for piece in self.inner.chunks(low, high):
            block = rest + bytes(piece)
            whole = len(block) - len(block) % self.width
            rest = block[whole:]
            values = array(self._CODES[self.width], block[:whole])
            values.byteswap()
            swapped = memoryview(values).cast("B")
            yield swapped[max(start - at, 0) : max(min(stop - at, whole), 0)]
            at += whole


def anywhere(storage: Storage) -> bool:
    """Whether reading a little of it anywhere costs little: a range of a file or of memory, swapped or not."""
    base: Any = storage
    while (inner := getattr(base, "inner", None)) is not None:
        base = inner
    return isinstance(base, BytesStorage) or hasattr(base, "lead") or plain_span(base) is not None


def read_all(storage: Storage, start: int = 0, stop: int | None = None) -> bytes:
    """Bytes ``[start, stop)`` of ``storage`` in memory; for what is known to be small."""
    stop = storage.nbytes if stop is None else stop
    buffer = bytearray(stop - start)
    at = 0
    for piece in storage.chunks(start, stop):
        buffer[at : at + len(piece)] = piece
        at += len(piece)
    if at != len(buffer):
        raise CorruptCheckpoint(f"storage gave {at} bytes where {len(buffer)} were asked for")
    return bytes(buffer)
