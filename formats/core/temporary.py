"""A file that does not have its name yet: hidden beside its target, removed unless it is renamed.

A run that was killed leaves such files behind. Their names follow from the target's, and a run holds a lock on each while it lives: so
the next run on that target finds what a dead one has left, takes it away, and tells it from what a living one is at.
"""

from __future__ import annotations

import os
import stat
import zlib

from formats.core.errors import OutputError, ParityFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

TEMPORARY_SUFFIX = ".ckpt-tmp"  # of the hidden files that a killed run leaves behind
_COMMON = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
_TRIES = 8  # to make a file whose name is taken, released or taken away at the same moment


def hidden(target: Path, suffix: str = TEMPORARY_SUFFIX) -> Path:
    """The name that every run gives to what is to become ``target``, as short whatever the target's is."""
    name = os.fsencode(target.name)
    return target.parent / f".{zlib.crc32(name):08x}{zlib.crc32(name[::-1], len(name)):08x}{suffix}"


class Temporary:
    """A hidden file beside ``target``; of a name that no other run would choose where ``known`` is false."""

    def __init__(self, target: Path, *, known: bool = True) -> None:
        self.target = target
        self.path = hidden(target) if known and os.name != "nt" else _unknown(target)
        self.fd = -1
        self._lock = -1  # a second descriptor of the same opening: keeps the lock when the first is closed
        self._readers: list[int] = []
        self._tried = self._ours = False

    @classmethod
    def finished(cls, path: Path, target: Path) -> Temporary:
        """One that is complete and closed already, under a name of its owner's choice."""
        made = cls(target)
        made.path, made._ours = path, True
        return made

    def create(self, mode: int | None) -> None:
        """Make it, readable as the umask says, or as ``mode`` where it replaces a file. `OutputError` where another run is at it."""
        self._tried = True
        for left in range(_TRIES, 0, -1):
            try:
                self.fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | _COMMON, 0o666)
            except FileExistsError:
                if left == 2 or os.name == "nt" or not remove_left(self.path, self.target):
                    self.path = _unknown(self.target)
                continue
            if os.name == "nt" or (_locked(self.fd) is not False and _is_at(self.fd, self.path)):
                break
            fd, self.fd = self.fd, -1  # somebody took it for a dead run's in the moment between making and locking it
            os.close(fd)
        else:
            raise OutputError("is being written by another run", path=self.target)
        self._ours = True
        if os.name != "nt":
            self._lock = os.dup(self.fd)
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
        """Give it the target's name at once. Without ``replace`` a file that has appeared meanwhile is left alone."""
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

    def is_target(self) -> bool:
        """Whether the target is this very file."""
        fd = self._lock if self._lock >= 0 else self.fd
        try:
            return os.path.samestat(os.lstat(self.target), os.fstat(fd) if fd >= 0 else os.lstat(self.path))
        except OSError:
            return False

    def remove(self) -> None:
        """Close it, and take it away unless it was renamed. May be called again where a signal or an error has cut it short."""
        try:
            self.close()
        except OSError:
            pass
        if self._ours and (self._lock < 0 or _is_at(self._lock, self.path, unsure=True)):
            unlink(self.path)
        if self._lock >= 0:
            lock, self._lock = self._lock, -1
            try:
                os.close(lock)
            except OSError:  # what was written has been flushed and closed before
                pass
        if self._tried and not self._ours:  # interrupted while it was made: ours only if nobody holds it
            remove_left(self.path, self.target, quiet=True)
        self._tried = self._ours = False


def _unknown(target: Path) -> Path:
    return target.parent / f".{os.urandom(8).hex()}{TEMPORARY_SUFFIX}"


def _locked(fd: int) -> bool | None:
    """Lock the file; False where another run has, None where the file system has no locks."""
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(fd: int, path: Path, *, unsure: bool = False) -> bool:
    """Whether ``path`` is the opened file; ``unsure`` where the system does not say."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except FileNotFoundError:
        return False
    except OSError:
        return unsure


def remove_left(path: Path, target: Path, *, quiet: bool = False) -> bool:
    """Take away what a dead run has left at ``path``; whether that can be told and done. A living run's raises `OutputError`.

    Only a plain file of this user is taken away, and only where the file system says that nobody has it locked.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | _COMMON)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            return False
        locked = _locked(fd)
        if locked is False and not quiet:
            raise OutputError("is being written by another run", path=target, hint="wait for it to end")
        if locked and _is_at(fd, path):
            unlink(path)
        return bool(locked)
    finally:
        os.close(fd)


def unlink(path: Path) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
