"""The one place that writes: layouts become files that are whole, checked and durable before they get their names.

Each file is made as a hidden temporary beside its target, streamed, read back, flushed to the disk and only then renamed; of several
files all are complete before the first is renamed, and the last in the list (an index) is renamed last. Whatever goes wrong, signals
that raise included, the temporaries are removed and the old files stay as they were.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from formats.core.errors import CheckpointError, OutputError, ParityFailed, SystemIOError
from formats.core.files import SourceFile
from formats.core.layout import Layout
from formats.core.streaming import Observe, Streamed, check_cover, source_file, stream, write_at

TEMPORARY_SUFFIX = ".ckpt-tmp"  # of the hidden files that a killed run leaves behind
_OPEN = (
    os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
)
# Errors that say "not here" of the place rather than "the device failed".
_PLACE_ERRORS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})


@dataclass(slots=True)
class Written:
    """A finished file: ``crcs`` holds the CRC-32 of each `Data` segment as read back from the file (None where nobody asked)."""

    path: Path
    size: int
    crcs: list[int | None]


def write_layouts(
    layouts: Iterable[Layout],
    target: Path | str,
    *,
    force: bool = False,
    verify: bool = True,
    sources: Iterable[SourceFile] = (),
    observe: Observe | None = None,
) -> list[Written]:
    """Write ``layouts`` as ``target`` (and files beside it), in order. ``observe(done, total)`` is told the bytes written.

    With ``verify`` every byte is read back: data is compared with what was handed out and with the CRC-32 that the source's container
    holds for it. Raises `OutputError` before anything is read where the output cannot be made, `CorruptCheckpoint` where the source
    contradicts its checksum, `ParityFailed` where the file is not what was written, `SystemIOError` where the system fails.
    """
    layouts = list(layouts)
    target = Path(target)
    opened = {id(file): file for file in sources}
    for layout in layouts:
        check_cover(layout)
        for data in layout.data:
            file = source_file(data.storage)
            if file is not None:
                opened.setdefault(id(file), file)
    paths = _paths(layouts, target)
    old = [check_output(path, force=force, sources=opened.values()) for path in paths]
    total = sum(layout.size for layout in layouts)
    temporaries: list[_Temporary] = []
    try:
        written: list[Written] = []
        for layout, path, before in zip(layouts, paths, old, strict=True):
            temporary = _Temporary(path)
            temporaries.append(temporary)
            crcs = _write(layout, temporary, before, verify, _shifted(observe, sum(w.size for w in written), total))
            written.append(Written(path, layout.size, crcs))
        for file in opened.values():
            if file.changed():
                raise SystemIOError("changed while it was read", path=file.path)
        _rename(temporaries, replace=force)
        return written
    finally:
        for temporary in temporaries:
            temporary.remove()


def check_output(path: Path, *, force: bool = False, sources: Iterable[SourceFile] = ()) -> os.stat_result | None:
    """The state of the file that ``path`` would replace, None where there is none; `OutputError` where it cannot be made."""
    if path.name in ("", ".", ".."):
        raise OutputError("is no file name", path=path)
    try:
        folder = os.stat(path.parent)
    except OSError as error:
        raise OutputError(f"the output's folder: {error.strerror}", path=path.parent) from error
    if not stat.S_ISDIR(folder.st_mode):
        raise OutputError("the output's folder is no folder", path=path.parent)
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        found = None
    except OSError as error:
        raise OutputError(f"cannot be made: {error.strerror}", path=path) from error
    if found is not None:
        if any(file.identity[:2] == (found.st_dev, found.st_ino) for file in sources):
            raise OutputError("is the source itself, which is never changed", path=path, hint="name another output")
        if stat.S_ISLNK(found.st_mode):
            raise OutputError(
                f"is a link to {os.readlink(path)}, which is never replaced", path=path, hint="name the file itself"
            )
        if stat.S_ISDIR(found.st_mode):
            raise OutputError("is a folder", path=path, hint="name a file in it")
        if not stat.S_ISREG(found.st_mode):
            raise OutputError("is a device or a pipe, not a regular file", path=path)
        if not force:
            raise OutputError("exists already", path=path, hint="--force replaces it")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError("the output's folder cannot be written to", path=path.parent)
    return found


def _paths(layouts: list[Layout], target: Path) -> list[Path]:
    names = [layout.name or target.name for layout in layouts]
    for name in names:
        if os.path.basename(name) != name:
            raise OutputError(f"part {name!r:.100} of the output is no bare file name", path=target)
    if len(set(names)) != len(names):
        raise OutputError("two parts of the output have one name", path=target)
    return [target.parent / name for name in names]


def _shifted(observe: Observe | None, before: int, total: int) -> Observe | None:
    if observe is None:
        return None
    return lambda done, _: observe(before + done, total)


def _write(
    layout: Layout, temporary: _Temporary, old: os.stat_result | None, verify: bool, observe: Observe | None
) -> list[int | None]:
    """Fill one temporary and leave it flushed and closed."""
    try:
        temporary.create(None if old is None else stat.S_IMODE(old.st_mode) & 0o777)
        _preallocate(temporary, layout.size)
        read_back = temporary.reopen() if verify else -1
        done: Streamed = stream(layout, temporary.fd, read_back, observe)
        for offset, data in done.rest:
            write_at(temporary.fd, memoryview(data), offset)
        if verify:
            _compare(read_back, done.rest, layout.size)
        _flush(temporary.fd)
        temporary.close()
    except CheckpointError as error:
        if isinstance(error, ParityFailed):
            error.with_path(temporary.target)
        raise
    except OSError as error:
        raise _failed(error, temporary, layout.size) from error
    return done.crcs


def _compare(fd: int, rest: list[tuple[int, bytes]], size: int) -> None:
    """Whether what is not tensor data arrived too, and the file has its size."""
    if os.fstat(fd).st_size != size:
        raise ParityFailed(f"has {os.fstat(fd).st_size} bytes on disk, {size} were written")
    from formats.core.streaming import read_at

    for offset, data in rest:
        buffer = bytearray(len(data))
        read_at(fd, memoryview(buffer), offset)
        if buffer != data:
            raise ParityFailed(f"bytes {offset} to {offset + len(data)} on disk are not what was written")


def _preallocate(temporary: _Temporary, size: int) -> None:
    """Have all the space before the first byte, in long extents: a full disk is noticed now, and writing is a quarter faster."""
    if not size:
        return
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(temporary.fd, 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):
                raise
    os.ftruncate(temporary.fd, size)


def _failed(error: OSError, temporary: _Temporary, size: int) -> CheckpointError:
    target = temporary.target
    if temporary.fd < 0 and error.errno in _PLACE_ERRORS:
        return OutputError(f"cannot be made: {error.strerror}", path=target)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = _free(target.parent)
        return SystemIOError(f"{error.strerror}: {size} bytes are needed{free}", path=target)
    return SystemIOError(f"cannot be written: {error.strerror or error}", path=target)


def _free(folder: Path) -> str:
    try:
        found = os.statvfs(folder)
    except (OSError, AttributeError):
        return ""
    return f", {found.f_bavail * found.f_frsize} are free"


def _flush(fd: int) -> None:
    if sys.platform == "darwin":  # fsync leaves the data in the drive's cache there
        import fcntl

        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
        except OSError:
            pass
    os.fsync(fd)


def _rename(temporaries: list[_Temporary], *, replace: bool) -> None:
    """Give all files their names; where a later one fails, new names given before are taken back."""
    given: list[_Temporary] = []
    try:
        for temporary in temporaries:
            try:
                temporary.rename(replace=replace)
            except OSError as error:
                raise SystemIOError(f"cannot be given its name: {error.strerror}", path=temporary.target) from error
            given.append(temporary)
        for folder in dict.fromkeys(t.target.parent for t in temporaries):
            _flush_folder(folder)
    except BaseException:
        if not replace:
            for temporary in given:
                _unlink(temporary.target)
        raise


def _flush_folder(folder: Path) -> None:
    """Make the names durable; not every system lets a folder be opened or flushed."""
    if os.name == "nt":
        return
    try:
        fd = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except OSError:
        return
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise SystemIOError(f"cannot be flushed: {error.strerror}", path=folder) from error
    finally:
        os.close(fd)


def _unlink(path: Path) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


class _Temporary:
    """A hidden file beside ``target`` that only this run knows the name of."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.parent / f".{os.urandom(8).hex()}{TEMPORARY_SUFFIX}"
        self.fd = -1
        self._readers: list[int] = []
        self._exists = True  # until removed or renamed: an interrupt may come between creating it and knowing so

    def create(self, mode: int | None) -> None:
        """Make it, readable as the umask says, or as ``mode`` where it replaces a file."""
        self.fd = os.open(self.path, _OPEN, 0o666)
        if mode is not None and hasattr(os, "fchmod"):
            os.fchmod(self.fd, mode)

    def reopen(self) -> int:
        """A second, independent descriptor, for reading back."""
        fd = os.open(
            self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        )
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
            _unlink(self.path)
            self._exists = False


__all__ = ["TEMPORARY_SUFFIX", "Written", "check_output", "write_layouts"]
