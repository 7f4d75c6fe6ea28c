"""Bounded reads of plain files. Nothing is mapped: a mapped input that shrinks kills the process (SIGBUS)."""

from __future__ import annotations

import os
import stat
from _thread import allocate_lock  # what threading.Lock is, without the rest

from formats.core.buffers import Scratch
from formats.core.errors import CorruptCheckpoint, SystemIOError, UnknownFormat
from formats.core.local_path import LocalPath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

PIECE = 1 << 20  # bytes read or written at once; larger pieces were no faster and cost memory
MOST_BUFFERS = 1024  # of one call (IOV_MAX of Linux and macOS)


class SourceFile:
    """A regular file opened for reading at positions. Safe to use from several threads.

    Opening a FIFO, device or folder raises `UnknownFormat`; a read past the end raises `CorruptCheckpoint`, because every length
    was compared with the size at opening and the file must have shrunk since.
    """

    __slots__ = ("_lock", "archive", "fd", "identity", "path", "size")

    def __init__(self, path: Path | str, *, dir_fd: int | None = None, follow: bool = True) -> None:
        self.path: Path = LocalPath(path) if isinstance(path, str) else path
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        if not follow:
            flags |= getattr(os, "O_NOFOLLOW", 0)
        try:
            self.fd = os.open(path, flags) if dir_fd is None else os.open(path, flags, dir_fd=dir_fd)
        except OSError as error:
            raise SystemIOError(f"cannot be opened: {error.strerror}", path=path) from error
        info = os.fstat(self.fd)
        if not stat.S_ISREG(info.st_mode):
            os.close(self.fd)
            self.fd = -1
            raise UnknownFormat(f"is {_kind(info.st_mode)}, not a regular file", path=path)
        self.size = info.st_size
        self.identity = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
        self._lock = allocate_lock()
        self.archive: Any = None  # its ZIP directory, between a sniff that has read it and the reader

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset`` (both in bytes)."""
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes from ``offset``."""
        wanted, done = len(buffer), 0
        while done < wanted:
            try:
                got = self._pread(buffer[done:], offset + done)
            except OSError as error:
                raise SystemIOError(f"cannot be read at byte {offset + done}: {error.strerror}", path=self.path) from error
            if not got:
                raise CorruptCheckpoint(
                    f"ends at byte {offset + done} where {wanted - done} more bytes were expected", path=self.path
                )
            done += got

    def read_apart(self, offset: int, buffers: list[memoryview]) -> bool:
        """Fill ``buffers``, one after the other, with the bytes from ``offset``; False where one call does not do all of it."""
        if not hasattr(os, "preadv") or len(buffers) > MOST_BUFFERS or type(self) is not SourceFile:
            return False
        try:
            return os.preadv(self.fd, buffers, offset) == sum(map(len, buffers))
        except OSError:
            return False

    def _pread(self, buffer: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self.fd, [buffer], offset)
        with self._lock:  # Windows has no positioned read
            os.lseek(self.fd, offset, os.SEEK_SET)
            data = os.read(self.fd, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def pieces(self, offset: int, length: int) -> Iterator[memoryview]:
        """The bytes ``[offset, offset + length)`` in order; each piece is valid until the next is asked for."""
        scratch = Scratch()
        buffer = scratch.room(min(length, PIECE), offset)
        stop = offset + length
        while offset < stop:
            piece = buffer[: min(PIECE, stop - offset)]
            self.read_into(offset, piece)
            yield piece
            offset += len(piece)
        scratch.close()  # whoever does not ask for more may still have the last piece

    def origin(self, offset: int) -> tuple[SourceFile, int] | None:
        """The file that really holds byte ``offset`` and where; None where it is computed on the way (see `subfile`)."""
        return self, offset

    def changed(self) -> bool:
        """Whether the file is no longer the one that was opened, by size and modification time."""
        info = os.fstat(self.fd)
        return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns) != self.identity

    def close(self) -> None:
        # First: a signal may come between closing it and knowing so, and the number may be another file's then.
        fd, self.fd = self.fd, -1
        if fd >= 0:
            try:
                os.close(fd)
            except OSError:  # what was read has been read
                pass

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0:
            self.close()


def located(name: str | os.PathLike[str]) -> Path:
    """The place that a user's ``name`` means: a URL is a remote one (`formats.core.remote`), everything else a local path."""
    if not isinstance(name, str):
        found: Any = name
        return found if hasattr(found, "name") else LocalPath(found)
    if "://" in name:
        from formats.core.remote import URL, remote

        if URL.fullmatch(name):
            return remote(name)
    return LocalPath(name)


def opened(path: Path, *, follow: bool = True) -> SourceFile:
    """The file at ``path``, local or remote, open for reading at positions."""
    remote = getattr(path, "open_source", None)
    if remote is None:
        return SourceFile(path, follow=follow)
    file: SourceFile = remote()
    return file


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
        (stat.S_ISBLK, "a block device"), (stat.S_ISCHR, "a character device"),
    ):  # fmt: skip
        if test(mode):
            return name
    return "a special file"
