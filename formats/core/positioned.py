"""Reads and writes at positions, whole however little the system takes or gives at once."""

from __future__ import annotations

import errno
import os

from formats.core.errors import ParityFailed


def write_at(fd: int, view: memoryview, offset: int) -> None:
    """All of ``view`` at ``offset``, however little the system takes at once."""
    done = 0
    while done < len(view):
        if hasattr(os, "pwrite"):
            count = os.pwrite(fd, view[done:] if done else view, offset + done)
        else:
            os.lseek(fd, offset + done, os.SEEK_SET)
            count = os.write(fd, view[done:])
        if count <= 0:
            raise OSError(errno.EIO, "the system takes no more bytes")
        done += count


def begin_flush(fd: int, offset: int, length: int) -> None:
    """Have the system begin to write these bytes to the disk, so that fsync finds less to do; nothing where there is no way to say so.

    Linux starts to write what is dirty in a range that is said not to be needed, and keeps what it is writing (``mm/fadvise.c``).
    """
    if hasattr(os, "posix_fadvise"):
        try:
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
        except OSError:  # whether the bytes arrive is told by fsync
            pass


def read_at(fd: int, view: memoryview, offset: int) -> None:
    """Fill ``view`` from ``offset``; `ParityFailed` where the file is shorter."""
    done = 0
    while done < len(view):
        if hasattr(os, "preadv"):
            count = os.preadv(fd, [view[done:] if done else view], offset + done)
        else:
            os.lseek(fd, offset + done, os.SEEK_SET)
            got = os.read(fd, len(view) - done)
            view[done : done + len(got)] = got
            count = len(got)
        if not count:
            raise ParityFailed(f"ends at byte {offset + done} on disk, more was written")
        done += count
