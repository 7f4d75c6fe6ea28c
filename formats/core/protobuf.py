"""Protocol Buffers' wire format, read from a file through a small window, without a schema compiler and without recursion.

Source: protobuf.dev/programming-guides/encoding. A message is a run of fields; a field is a tag (number and wire type) and a value. Groups
(wire types 3 and 4) are refused: proto3 has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from formats.core.errors import CorruptCheckpoint, LimitExceeded
from formats.core.files import SourceFile

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
WINDOW = 64 << 10  # bytes read at once
MAX_FIELDS = 5_000_000  # in one file; some 100,000 nodes have a million
_TEXT = 1 << 20


class Field(NamedTuple):
    """One field: ``value`` of a varint; the bytes ``[start, stop)`` of the file that its value takes."""

    number: int
    wire: int
    value: int
    start: int
    stop: int


class Wire:
    """Fields of the messages in ``file``. Raises `CorruptCheckpoint` where the bytes are no message."""

    def __init__(self, file: SourceFile, max_fields: int = MAX_FIELDS) -> None:
        self.file = file
        self.left = max_fields
        self.max_fields = max_fields
        self._base = 0
        self._window = b""

    def fields(self, start: int, stop: int) -> Iterator[Field]:
        """The fields of the message in bytes ``[start, stop)``."""
        while start < stop:
            self.left -= 1
            if self.left < 0:
                raise LimitExceeded(f"has more than {self.max_fields} protobuf fields", path=self.file.path)
            tag, at = self.varint(start, stop)
            number, wire = tag >> 3, tag & 7
            value = 0
            if wire == VARINT:
                value, end = self.varint(at, stop)
            elif wire == BYTES:
                length, at = self.varint(at, stop)
                end = at + length
            elif wire in (FIXED32, FIXED64):
                end = at + (4 if wire == FIXED32 else 8)
            else:
                raise CorruptCheckpoint(f"protobuf field {number} at byte {start} has wire type {wire}", path=self.file.path)
            if end > stop or not number:
                raise CorruptCheckpoint(
                    f"protobuf field {number} at byte {start} ends at byte {end}, its message at {stop}", path=self.file.path
                )
            yield Field(number, wire, value, at, end)
            start = end

    def varint(self, at: int, stop: int) -> tuple[int, int]:
        """(unsigned value, byte after it) of the varint at byte ``at``."""
        first = at - self._base
        if first < 0 or first + 10 > len(self._window):
            self._base, self._window = at, self.file.read(at, min(WINDOW, self.file.size - at))
            first = 0
        window = self._window
        limit = min(len(window), first + 10, stop - self._base)
        value = shift = 0
        for i in range(first, limit):
            byte = window[i]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, self._base + i + 1
            shift += 7
        raise CorruptCheckpoint(f"protobuf number at byte {at} has no end", path=self.file.path)

    def read(self, field: Field, limit: int = _TEXT) -> bytes:
        """The bytes of a length-delimited field. Raises `LimitExceeded` over ``limit`` bytes."""
        length = field.stop - field.start
        if length > limit:
            raise LimitExceeded(f"protobuf field {field.number} of {length} bytes, at most {limit} are read", path=self.file.path)
        first = field.start - self._base
        if first >= 0 and first + length <= len(self._window):
            return self._window[first : first + length]
        return self.file.read(field.start, length)

    def text(self, field: Field) -> str:
        """A field that is a text; bytes that are no UTF-8 are kept as surrogates."""
        if field.wire != BYTES:
            raise CorruptCheckpoint(f"protobuf field {field.number} at byte {field.start} is no text", path=self.file.path)
        return self.read(field).decode("utf-8", "surrogateescape")

    def integers(self, field: Field) -> Iterator[int]:
        """The signed 64-bit integers of a repeated field, packed or not."""
        if field.wire == VARINT:
            yield _signed(field.value)
            return
        if field.wire != BYTES:
            raise CorruptCheckpoint(f"protobuf field {field.number} at byte {field.start} is no integer", path=self.file.path)
        at = field.start
        while at < field.stop:
            value, at = self.varint(at, field.stop)
            yield _signed(value)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
