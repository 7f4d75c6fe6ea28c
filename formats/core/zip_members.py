"""The members of a ZIP as storages: kept as they are, or inflated on the way (see `zip.py` for what is compared when)."""

from __future__ import annotations

import zlib

from formats.core.errors import CorruptCheckpoint
from formats.core.files import PIECE, SourceFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from formats.core.zip import ZipDirectory


class Member:
    """One entry: ``header`` is the byte offset of its local header, sizes are in bytes, ``mode`` the Unix file mode or 0.

    ``ordinal`` is its number in the directory.
    """

    __slots__ = ("crc", "flags", "header", "method", "mode", "name", "ordinal", "packed", "raw_name", "size")

    def __init__(
        self,
        name: str,
        header: int,
        packed: int,
        size: int,
        crc: int,
        method: int,
        flags: int,
        mode: int,
        raw_name: bytes,
        ordinal: int,
    ) -> None:
        self.name = name
        self.header = header
        self.packed = packed
        self.size = size
        self.crc = crc
        self.method = method
        self.flags = flags
        self.mode = mode
        self.raw_name = raw_name
        self.ordinal = ordinal


class StoredMember:
    """An entry kept as it is: a plain range of the file, found when first used."""

    __slots__ = ("_start", "archive", "location", "nbytes", "ordinal")

    def __init__(self, archive: ZipDirectory, ordinal: int, nbytes: int, location: str) -> None:
        self.archive = archive
        self.ordinal = ordinal
        self.location = location
        self.nbytes = nbytes
        self._start = -1

    def order(self) -> tuple[SourceFile, int]:
        """About where the bytes are, without a read: for visiting many storages in the file's order."""
        return self.archive.file, self.archive.entries.headers[self.ordinal]

    def lead(self) -> tuple[SourceFile, int, int] | None:
        """(file, offset, bytes at most) of the local header, where it has not been looked at: to be read with the data behind it."""
        if self._start >= 0:
            return None
        archive, ordinal = self.archive, self.ordinal
        header = archive.entries.headers[ordinal]
        return archive.file, header, archive.bounds[ordinal] - header - self.nbytes

    def settle(self, raw: bytes | bytearray, at: int, bound: int) -> int:
        """Take the local header from ``raw[at:]``; where in ``raw`` the data begin. ``bound`` is where in the file `lead` ends the data."""
        archive, ordinal = self.archive, self.ordinal
        self._start = start = archive.data_start(ordinal, raw, at, bound)
        return start - archive.entries.headers[ordinal] + at

    def plain_span(self) -> tuple[SourceFile, int]:
        if self._start < 0:
            self._start = self.archive.data_start(self.ordinal)
        return self.archive.file, self._start

    def stored_crc(self) -> int | None:
        """The CRC-32 that the archive gives for all bytes; None where the writer left it out (0)."""
        return self.archive.entries.crcs[self.ordinal] or None

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        file, at = self.plain_span()
        return file.pieces(at + start, stop - start)


class DeflatedMember:
    """A deflated entry, inflated on the way. Reading on from where the last read ended costs nothing extra."""

    __slots__ = ("_cursor", "archive", "location", "member", "nbytes")

    def __init__(self, archive: ZipDirectory, member: Member, location: str) -> None:
        self.archive = archive
        self.member = member
        self.location = location
        self.nbytes = member.size
        self._cursor: _Inflater | None = None

    def order(self) -> tuple[SourceFile, int]:
        return self.archive.file, self.member.header

    def stored_crc(self) -> int | None:
        return self.member.crc or None

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        if start >= stop:
            return
        cursor, self._cursor = self._cursor, None
        if cursor is None or cursor.at > start:
            cursor = _Inflater(self.archive, self.member)
        while cursor.at < stop:
            # Stop exactly at `start` and `stop`, so that the next range can go on from here.
            bound = start if cursor.at < start else stop
            before = cursor.at
            piece = cursor.take(min(PIECE, bound - before))
            if before >= start:
                yield memoryview(piece)
        self._cursor = cursor


class _Inflater:
    def __init__(self, archive: ZipDirectory, member: Member) -> None:
        self.archive = archive
        self.member = member
        self.inflate = zlib.decompressobj(-15)
        self.source = archive.file.pieces(archive.data_start(member.ordinal), member.packed)
        self.waiting = b""
        self.at = 0
        self.crc = 0

    def take(self, length: int) -> bytes:
        """The next 1 to ``length`` bytes."""
        while True:
            if not self.waiting and not self.inflate.eof:
                self.waiting = bytes(next(self.source, b""))
            try:
                piece = self.inflate.decompress(self.waiting, length)
            except zlib.error as error:
                raise self._corrupt(f"does not inflate: {error}") from error
            fed, self.waiting = self.waiting, self.inflate.unconsumed_tail
            if piece:
                break
            if self.inflate.eof or not fed:
                raise self._corrupt(f"inflates to {self.at} bytes, declared {self.member.size}")
        self.at += len(piece)
        self.crc = zlib.crc32(piece, self.crc)
        if self.at == self.member.size:
            self._finish()
        return piece

    def _finish(self) -> None:
        member = self.member
        try:
            more = self.inflate.decompress(self.waiting, 1)
            while not more and not self.inflate.eof and (waiting := bytes(next(self.source, b""))):
                more = self.inflate.decompress(waiting, 1)
        except zlib.error as error:
            raise self._corrupt(f"does not inflate: {error}") from error
        if more or not self.inflate.eof:
            raise self._corrupt(f"inflates to more than the {member.size} bytes declared")
        if member.crc and self.crc != member.crc:
            raise self._corrupt(f"has CRC-32 {self.crc:08x}, expected {member.crc:08x}")

    def _corrupt(self, what: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(f"ZIP member {self.member.name!r:.100} {what}", path=self.archive.file.path)
