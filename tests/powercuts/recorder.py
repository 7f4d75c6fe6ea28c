"""A disk that remembers: one file in a file system of its own (FUSE), under a loop device, which logs every write and every flush.

    python -m tests.powercuts.recorder IMAGE MOUNTPOINT LOG

What ext4 hands to its device arrives here in order, and so does every request to flush the device's cache: the log tells what a power
cut at any moment may leave, also where the device has kept or reordered what it was not told to flush.
"""

from __future__ import annotations

import errno
import stat
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mfusepy  # type: ignore[import-not-found,unused-ignore]

DISK = "disk"  # the file's name
_ENTRY = struct.Struct("<dqq")  # time, offset, length; offset −1 is a flush


@dataclass(frozen=True)
class Entry:
    """A write of ``data`` at ``offset``, or a flush (``data`` is None), at ``time`` (seconds)."""

    time: float
    offset: int
    data: bytes | None


def entries(log: Path) -> list[Entry]:
    """What has been recorded until now."""

    def read() -> Iterator[Entry]:
        raw = log.read_bytes()
        at = 0
        while at + _ENTRY.size <= len(raw):
            when, offset, length = _ENTRY.unpack_from(raw, at)
            at += _ENTRY.size
            if at + length > len(raw):
                break
            yield Entry(when, offset, None if offset < 0 else raw[at : at + length])
            at += length

    return list(read())


class Recorder(mfusepy.Operations):  # type: ignore[misc,unused-ignore]
    """The folder with the one file."""

    use_ns = True

    def __init__(self, image: Path, log: Path) -> None:
        self.image = bytearray(image.read_bytes())
        self.log = log.open("wb", buffering=0)

    def getattr(self, path: str, fh: Any = None) -> dict[str, Any]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
        if path != f"/{DISK}":
            raise mfusepy.FuseOSError(errno.ENOENT)
        return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": len(self.image)}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", DISK]

    def open(self, path: str, flags: int) -> int:
        return 1

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return bytes(self.image[offset : offset + size])

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self.image[offset : offset + len(data)] = data
        self.log.write(_ENTRY.pack(time.time(), offset, len(data)) + data)
        return len(data)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self.log.write(_ENTRY.pack(time.time(), -1, 0))
        return 0

    def flush(self, path: str, fh: int) -> int:
        return 0


if __name__ == "__main__":
    mfusepy.FUSE(Recorder(Path(sys.argv[1]), Path(sys.argv[3])), sys.argv[2], foreground=True, nothreads=True, fsname="recorder")
