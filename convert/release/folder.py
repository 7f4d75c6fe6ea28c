"""A folder that appears whole or not at all: made within a hidden one beside its place, flushed, renamed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convert.release.manifest import load
from convert.release.names import MANIFEST, OWN
from formats.core.errors import CheckpointError, OutputError, SystemIOError
from formats.core.hidden_folder import hidden_folder

_EXCHANGE = 2  # Linux's RENAME_EXCHANGE
_NO_REPLACE = 1


@contextmanager
def whole(target: Path, *, force: bool) -> Iterator[Path]:
    """An empty folder that becomes ``target`` if the block ends well; else nothing of it stays. With ``force`` an older release is
    replaced in one step where the system can."""
    check(target, force=force)
    with _hidden(target) as hidden:
        made = hidden / target.name  # a signature names the folder, so that it has its name already
        made.mkdir()
        yield made
        for folder, _, files in os.walk(made, topdown=False):
            for name in files:
                flush(Path(folder, name))
            flush(Path(folder))
        _place(made, target, force=force)
        flush(target.parent)


@contextmanager
def _hidden(target: Path) -> Iterator[Path]:
    made = False
    try:
        with hidden_folder(target) as folder:
            made = True
            yield folder
    except OSError as error:
        if made:
            raise
        raise OutputError(f"cannot be made: {error.strerror}", path=target) from error


def check(target: Path, *, force: bool) -> None:
    """Raise `OutputError` where ``target`` cannot or must not become a release."""
    if target.name in ("", ".", ".."):
        raise OutputError("is no name of a folder that is still to be made", path=target)
    if not target.parent.is_dir():
        raise OutputError("the folder that the release would be in is not there", path=target.parent)
    if not os.path.lexists(target):
        return
    if not force:
        raise OutputError("exists already", path=target, hint="--force replaces a release")
    if target.is_symlink() or not target.is_dir():
        raise OutputError("is no folder", path=target)
    if foreign := _foreign(target):
        raise OutputError(f"holds {foreign}, which is no part of a release, and is not replaced", path=target)


def _foreign(folder: Path) -> str | None:
    """The first thing in ``folder`` that is neither of a release nor, at any depth, a folder of releases; None where all of it is."""
    if (folder / MANIFEST).is_file():
        try:
            listed = load(folder / MANIFEST)["files"]
        except CheckpointError:
            return MANIFEST
        known = OWN | {one["name"] for one in listed}
        return next((path.name for path in sorted(folder.iterdir()) if path.name not in known or path.is_dir()), None)
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_dir():
            return path.name
        if found := _foreign(path):
            return f"{path.name}/{found}"
    return None


def _place(made: Path, target: Path, *, force: bool) -> None:
    """Give the folder its name. Of an older one nothing is removed before the new one stands there."""
    try:
        if not os.path.lexists(target):
            if not _rename_at(made, target, _NO_REPLACE):
                made.rename(target)
            return
        check(target, force=force)  # it may have appeared, or changed, meanwhile
        if _rename_at(made, target, _EXCHANGE):
            return  # the older one is in the hidden folder now
        aside = made.with_name(made.name + ".old")
        target.rename(aside)
        try:
            made.rename(target)
        except OSError:
            aside.rename(target)
            raise
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise OutputError("exists already: another run made it meanwhile", path=target) from error
        raise SystemIOError(f"cannot be given its name: {error.strerror}", path=target) from error


def _rename_at(old: Path, new: Path, flags: int) -> bool:
    """Linux's ``renameat2``; False where the system or the file system has none."""
    import ctypes

    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if call is None:
        return False
    here = -100  # AT_FDCWD
    if call(here, os.fsencode(old), here, os.fsencode(new), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(code, os.strerror(code), str(new))


def flush(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    if os.name == "nt" and path.is_dir():
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise SystemIOError(f"cannot be flushed: {error.strerror}", path=path) from error
    finally:
        os.close(fd)
