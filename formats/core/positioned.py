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
