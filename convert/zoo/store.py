"""A destination on this machine's file systems."""

from __future__ import annotations

import os
import shutil
import stat
from functools import cache
from pathlib import Path
from typing import Any

from formats.core.temporary import TEMPORARY_SUFFIX, unlink

OWN = ".ckpt-convert"  # the folder of the journal, below the destination


class LocalStore:
    """The folder ``root``; it need not be there yet (`make`)."""

    def __init__(self, root: Path | str) -> None:
        self.root = self.home = os.fspath(root)
        self._fd = -1

    def make(self) -> None:
        """Make the folder and hold it open: a failure to write anything from now on is told by the next `sync`."""
        Path(self.root).mkdir(parents=True, exist_ok=True)
        if self._fd < 0 and os.name != "nt":
            self._fd = os.open(self.root, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0))

    def state(self, name: str) -> tuple[int, int] | None:
        try:
            found = os.lstat(os.path.join(self.root, name))
        except OSError:
            return None
        return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None

    def sync(self) -> None:
        """One syncfs for everything that the workers have finished: far less than a fsync for each of many small files."""
        found = _syncfs()
        if found is None or self._fd < 0:
            os.sync() if hasattr(os, "sync") else None
            return
        if found(self._fd) != 0:
            import ctypes

            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), self.root)

    def free(self) -> int | None:
        folder = Path(self.root).absolute()
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        try:
            found = os.statvfs(folder)
        except (OSError, AttributeError):
            return None
        return found.f_bavail * found.f_frsize

    def sweep(self) -> int:
        """Remove the temporaries of a killed run; they are hidden, and nothing else is called like them."""
        removed = 0
        for folder, folders, files in os.walk(self.root):
            for name in [name for name in folders if _temporary(name)]:
                folders.remove(name)
                shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
                removed += 1
            for name in filter(_temporary, files):
                unlink(Path(folder, name))
                removed += 1
        return removed

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)


@cache
def _syncfs() -> Any:
    """The C library's syncfs; None where it has none (Linux has it, and tells of write errors since 5.8)."""
    try:
        import ctypes

        return ctypes.CDLL(None, use_errno=True).syncfs
    except (ImportError, OSError, AttributeError, TypeError):
        return None
