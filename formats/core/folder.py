"""A folder whose files are records, as in an archive that somebody unpacked. Links are never followed and nothing else is opened.

Everything is opened relative to the folder, which is opened once, so that nobody can put another one in its place meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from formats.core.errors import CorruptCheckpoint, LimitExceeded, SystemIOError
from formats.core.files import SourceFile
from formats.core.storage import read_all

MAX_RECORDS = 1_000_000
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)


class FolderRecords(SourceFile):
    """The plain files directly in ``path`` and in its folders ``inside``, by names such as ``data/0``.

    ``members`` gives each name the file's size in bytes. Links, pipes and devices are listed in ``odd``, with what they are, and
    refused when they are asked for.
    """

    __slots__ = ("_folders", "members", "odd")

    def __init__(self, path: Path, inside: tuple[str, ...]) -> None:
        self.path = path
        self.size = 0
        self.members: dict[str, int] = {}
        self.odd: dict[str, str] = {}
        self._folders: dict[str, int] = {}
        self.fd = -1
        try:
            self.fd = os.open(path, _DIRECTORY)
            found = os.fstat(self.fd)
            self.identity = (found.st_dev, found.st_ino, 0, found.st_mtime_ns)
            self._list("", self.fd)
            for name in inside:
                if self.odd.get(name) == "a folder":
                    self._folders[f"{name}/"] = os.open(name, _DIRECTORY | getattr(os, "O_NOFOLLOW", 0), dir_fd=self.fd)
                    self._list(f"{name}/", self._folders[f"{name}/"])
        except OSError as error:
            self.close()
            raise SystemIOError(f"cannot be listed: {error.strerror}", path=path) from error

    def _list(self, prefix: str, fd: int) -> None:
        with os.scandir(fd) as entries:
            for entry in entries:
                if len(self.members) + len(self.odd) >= MAX_RECORDS:
                    raise LimitExceeded(f"folder of more than {MAX_RECORDS} files", path=self.path)
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(found.st_mode):
                    self.members[prefix + entry.name] = found.st_size
                else:
                    self.odd[prefix + entry.name] = _kind(found.st_mode)

    def storage(self, name: str, location: str = "cpu") -> Record:
        """The bytes of one record, read when asked for; its file is open only while it is read."""
        if name in self.odd:
            raise CorruptCheckpoint(f"record {name!r:.100} is {self.odd[name]}, not a plain file", path=self.path)
        if name not in self.members:
            raise CorruptCheckpoint(f"folder has no file {name!r:.100}, which it refers to", path=self.path)
        return Record(self, name, self.members[name], location)

    def read(self, name: str, limit: int) -> bytes:  # type: ignore[override]
        """All bytes of a small record. Raises `LimitExceeded` over ``limit`` bytes."""
        record = self.storage(name)
        if record.nbytes > limit:
            raise LimitExceeded(f"record {name!r:.100} of {record.nbytes} bytes, at most {limit} are read", path=self.path)
        return read_all(record)

    def open(self, name: str) -> SourceFile:
        """The file of a record. Raises `CorruptCheckpoint` where it is no longer the plain file of the size that was listed."""
        prefix = name[: name.rfind("/") + 1]
        folder = self._folders[prefix] if prefix else self.fd
        if folder < 0:
            raise SystemIOError("has been closed", path=self.path)
        try:
            file = SourceFile(name[len(prefix) :], dir_fd=folder, follow=False)
        except (SystemIOError, ValueError) as error:
            raise CorruptCheckpoint(f"record {name!r:.100} cannot be opened as a plain file: {error}", path=self.path) from error
        file.path = self.path / name
        if file.size != self.members[name]:
            raise CorruptCheckpoint(
                f"record {name!r:.100} had {self.members[name]} bytes and has {file.size} now", path=self.path
            )
        return file

    def changed(self) -> bool:
        now = os.fstat(self.fd)
        return (now.st_dev, now.st_ino, 0, now.st_mtime_ns) != self.identity

    def close(self) -> None:
        for name, fd in self._folders.items():
            if fd >= 0:
                os.close(fd)
                self._folders[name] = -1
        super().close()


class Record:
    """One file of the folder as a storage."""

    __slots__ = ("folder", "location", "name", "nbytes")

    def __init__(self, folder: FolderRecords, name: str, nbytes: int, location: str) -> None:
        self.folder = folder
        self.name = name
        self.nbytes = nbytes
        self.location = location

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        if start < stop:
            file = self.folder.open(self.name)
            try:
                yield from file.pieces(start, stop - start)
            finally:
                file.close()


def _kind(mode: int) -> str:
    for test, what in (
        (stat.S_ISLNK, "a symbolic link"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
        (stat.S_ISBLK, "a block device"), (stat.S_ISCHR, "a character device"),
    ):  # fmt: skip
        if test(mode):
            return what
    return "a special file"
