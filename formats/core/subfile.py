"""A file inside a file: any storage, read at positions like a file of its own. Nothing is extracted."""

from __future__ import annotations

from formats.core.errors import CorruptCheckpoint
from formats.core.files import SourceFile, located
from formats.core.storage import BytesStorage, FileSpan, Storage, plain_span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class SubFile(SourceFile):
    """The bytes of ``storage`` under the methods of `SourceFile`. ``path`` is what errors name.

    The outer file stays open as long as its owner keeps it: closing this one does nothing. Where the storage is a plain range of the
    outer file, so is everything inside (`origin`), and is moved as fast.
    """

    __slots__ = ("storage",)

    def __init__(self, storage: Storage, path: Path | str) -> None:
        self.path = located(path)
        self.fd = -1
        self.size = storage.nbytes
        self.storage = storage
        span = plain_span(storage)
        self.identity = span[0].identity if span else (0, 0, self.size, 0)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        at = 0
        for piece in self._bounded(offset, len(buffer)):
            buffer[at : at + len(piece)] = piece
            at += len(piece)
        if at != len(buffer):
            raise CorruptCheckpoint(f"gave {at} bytes from byte {offset} where {len(buffer)} were asked for", path=self.path)

    def pieces(self, offset: int, length: int) -> Iterator[memoryview]:
        return self._bounded(offset, length)

    def _bounded(self, offset: int, length: int) -> Iterator[memoryview]:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise CorruptCheckpoint(
                f"ends at byte {self.size}, bytes {offset} to {offset + length} were expected", path=self.path
            )
        return self.storage.chunks(offset, offset + length)

    def origin(self, offset: int) -> tuple[SourceFile, int] | None:
        span = plain_span(self.storage)
        return None if span is None else (span[0], span[1] + offset)

    def changed(self) -> bool:
        span = plain_span(self.storage)
        return span is not None and span[0].changed()

    def close(self) -> None:
        """Nothing: the outer file is its owner's to close."""


def bytes_file(data: bytes, path: Path | str) -> SubFile:
    """Bytes in memory, read like a file; errors name ``path``."""
    return SubFile(BytesStorage(data), path)


def span_file(file: SourceFile, offset: int, nbytes: int, path: Path | str | None = None) -> SubFile:
    """Bytes ``[offset, offset + nbytes)`` of ``file``, read like a file. Raises `CorruptCheckpoint` where they lie outside."""
    return SubFile(FileSpan(file, offset, nbytes), file.path if path is None else path)
