"""A file that does not have its name yet: hidden beside its target, removed unless it is renamed."""

from __future__ import annotations

import os
from pathlib import Path

from formats.core.errors import OutputError, ParityFailed

TEMPORARY_SUFFIX = ".ckpt-tmp"  # of the hidden files that a killed run leaves behind
_COMMON = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


class Temporary:
    """A hidden file beside ``target`` that only this run knows the name of."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.parent / f".{os.urandom(8).hex()}{TEMPORARY_SUFFIX}"
        self.fd = -1
        self._readers: list[int] = []
        self._exists = True  # until removed or renamed: an interrupt may come between creating it and knowing so

    def create(self, mode: int | None) -> None:
        """Make it, readable as the umask says, or as ``mode`` where it replaces a file."""
        self.fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | _COMMON, 0o666)
        if mode is not None and hasattr(os, "fchmod"):
            os.fchmod(self.fd, mode)

    def reopen(self) -> int:
        """A second, independent descriptor, for reading back."""
        fd = os.open(self.path, os.O_RDONLY | _COMMON)
        self._readers.append(fd)
        if os.name != "nt" and not os.path.samestat(os.fstat(fd), os.fstat(self.fd)):
            raise ParityFailed("the temporary file was replaced while it was written")
        return fd

    def close(self) -> None:
        while self._readers:
            os.close(self._readers.pop())
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def rename(self, *, replace: bool) -> None:
        """Give the target its name at once. Without ``replace`` a file that has appeared meanwhile is left alone."""
        if not replace and hasattr(os, "link"):
            try:
                os.link(self.path, self.target)
            except FileExistsError as error:
                raise OutputError("exists already: another run made it meanwhile", path=self.target) from error
            except OSError:  # no hard links here: the check just before is the best there is
                if os.path.lexists(self.target):
                    raise OutputError("exists already: another run made it meanwhile", path=self.target) from None
            else:
                return  # `remove` takes the temporary name away
        os.replace(self.path, self.target)
        self._exists = False

    def remove(self) -> None:
        try:
            self.close()
        except OSError:
            self.fd = -1
        if self._exists:
            unlink(self.path)
            self._exists = False


def unlink(path: Path) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
