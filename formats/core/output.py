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

from formats.core.errors import CheckpointError, OutputError, ParityFailed, SystemIOError
from formats.core.files import SourceFile, located
from formats.core.layout import Layout, Literal
from formats.core.moving import Observe
from formats.core.record import record
from formats.core.replacing import give_names, remove_all
from formats.core.streaming import check_cover, itinerary, stream
from formats.core.temporary import TEMPORARY_SUFFIX, Temporary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MOST_KNOWN = 200  # files of one run whose temporaries have names that the next run knows: each costs a descriptor until the end
# Errors that say "not here" of the place rather than "the device failed".
_PLACE_ERRORS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})


@record
class Written:
    """A finished file: ``crcs`` holds the CRC-32 of each `Data` segment as read back from the file (None where nobody asked).

    ``sha256`` is that of the whole file, as it is on disk, where it was asked for.
    """

    path: Path
    size: int
    crcs: list[int | None]
    sha256: str | None = None


def write_layouts(
    layouts: Iterable[Layout],
    target: Path | str,
    *,
    force: bool = False,
    verify: bool = True,
    sources: Iterable[SourceFile] = (),
    observe: Observe | None = None,
    sync: bool = True,
    digest: bool = False,
) -> list[Written]:
    """Write ``layouts`` as ``target`` (and files beside it), in order. ``observe(done, total)`` is told the bytes written.

    With ``verify`` every byte is read back: data is compared with what was handed out and with the CRC-32 that the source's container
    holds for it. With ``digest`` the sha256 of each file is told, too. Without ``sync`` the bytes are durable and the names are not: the
    caller makes many names durable at once. Raises `OutputError` before anything is read where the output cannot be made,
    `CorruptCheckpoint` where the source contradicts its checksum, `ParityFailed` where the file is not what was written,
    `SystemIOError` where the system fails.
    """
    target = located(target)
    upload = getattr(target, "write_layouts", None)
    if upload is not None:  # a remote place
        made: list[Written] = upload(layouts, force=force, verify=verify, sources=sources, observe=observe)
        return made
    layouts = list(layouts)
    routes = []
    opened = {id(file): file for file in sources}
    for layout in layouts:
        check_cover(layout)
        routes.append(itinerary(layout))
        opened |= {id(file): file for file in routes[-1].files}
    if any(file.fd < 0 and hasattr(file, "remote") for file in opened.values()):
        from formats.core.remote_file import expect

        expect(layouts)
    paths = _paths(layouts, target)
    old = [check_output(path, force=force, sources=opened.values()) for path in paths]
    total = sum(layout.size for layout in layouts)
    temporaries: list[Temporary] = []
    try:
        written: list[Written] = []
        for layout, route, path, before in zip(layouts, routes, paths, old, strict=True):
            temporary = Temporary(path, known=len(layouts) <= MOST_KNOWN)
            temporaries.append(temporary)
            told = _shifted(observe, sum(w.size for w in written), total)
            crcs, sha256 = _write(layout, route.order, temporary, before, told, verify=verify, digest=digest)
            written.append(Written(path, layout.size, crcs, sha256))
        for file in opened.values():
            if file.changed():
                raise SystemIOError("changed while it was read", path=file.path)
        give_names(temporaries, replace=force, sync=sync)
        return written
    finally:
        remove_all(temporaries)


def write_bytes(content: bytes, target: Path | str, *, force: bool = False) -> None:
    """A file of ``content``, made like every other: whole, read back and durable before it has its name."""
    write_layouts([Layout(len(content), [Literal(0, content)])], target, force=force)


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
    layout: Layout,
    order: list[int],
    temporary: Temporary,
    old: os.stat_result | None,
    observe: Observe | None,
    *,
    verify: bool,
    digest: bool,
) -> tuple[list[int | None], str | None]:
    """Fill one temporary and leave it flushed and closed; its checksums, and its sha256 where that is asked for."""
    try:
        temporary.create(None if old is None else stat.S_IMODE(old.st_mode) & 0o777)
        _preallocate(temporary, layout.size)
        read_back = temporary.reopen() if verify else -1
        digested: str | None = None
        if digest:
            from formats.core.digest import digested_stream

            crcs, digested = digested_stream(layout, order, temporary.fd, read_back, observe)
        else:
            crcs = stream(layout, order, temporary.fd, read_back, observe)
        if os.fstat(temporary.fd).st_size != layout.size:
            raise ParityFailed(f"has {os.fstat(temporary.fd).st_size} bytes on disk, {layout.size} were written")
        _flush(temporary.fd)  # whatever ``sync`` says: a name on the disk before its bytes would be a torn file
        temporary.close()
    except ParityFailed as error:
        raise error.with_path(temporary.target) from error.__cause__
    except OSError as error:
        raise _failed(error, temporary, layout.size) from error
    return crcs, digested


def _preallocate(temporary: Temporary, size: int) -> None:
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


def _failed(error: OSError, temporary: Temporary, size: int) -> CheckpointError:
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


__all__ = ["TEMPORARY_SUFFIX", "Written", "check_output", "write_bytes", "write_layouts"]
