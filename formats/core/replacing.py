"""Gives finished files their names: all of them, or none.

One name is given at once; several are not. So the files that several replace are kept under hidden names until the last one is given,
and put back where a later one fails. The last file of a set is the one that names the others (an index): while its parts are being
replaced it is not there, so that a run that is killed in the middle cannot leave an old index with new parts; what it has left behind
is put back, or replaced, by the next run.
"""

from __future__ import annotations

import errno
import os

from formats.core.errors import SystemIOError
from formats.core.temporary import TEMPORARY_SUFFIX, Temporary, hidden, unlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

KEPT_SUFFIX = f".old{TEMPORARY_SUFFIX}"  # of a file that is being replaced together with others


def give_names(temporaries: list[Temporary], *, replace: bool, sync: bool = True) -> None:
    """Rename all ``temporaries`` to their targets, in order, and with ``sync`` make the names durable."""
    given: list[Temporary] = []
    kept: dict[Path, Path] = {}
    folders = dict.fromkeys(t.target.parent for t in temporaries if sync)
    try:
        if replace and len(temporaries) > 1:
            last = temporaries[-1].target
            kept = {t.target: hidden(t.target, KEPT_SUFFIX) for t in temporaries}
            if os.path.lexists(last) or not os.path.lexists(kept[last]):
                _drop(kept, last)  # what a run has left that was killed when it was done
            for target, path in kept.items():
                _keep(target, path)
            if os.path.lexists(kept[last]):
                unlink(last)
                for folder in folders:
                    flush_folder(folder)
        for temporary in temporaries:
            given.append(temporary)
            try:
                temporary.rename(replace=replace)
            except OSError as error:
                raise SystemIOError(f"cannot be given its name: {error.strerror}", path=temporary.target) from error
        for folder in folders:
            flush_folder(folder)
    except BaseException:
        _take_back(given, kept, replace=replace)
        raise
    if kept:
        _drop(kept, last)


def _keep(target: Path, kept: Path) -> None:
    """A second name for what is replaced. One that is there already is from a run that was killed in the middle: of the older set."""
    try:
        os.link(target, kept)
    except (OSError, AttributeError):  # nothing to keep, or no hard links here: then it cannot be put back
        pass


def _drop(kept: dict[Path, Path], last: Path) -> None:
    """The last file's first: without it the others are not taken for a set."""
    unlink(kept[last])
    for path in kept.values():
        unlink(path)


def _take_back(given: list[Temporary], kept: dict[Path, Path], *, replace: bool) -> None:
    for temporary in reversed(given):
        if (not replace or (kept and not os.path.lexists(kept[temporary.target]))) and temporary.is_target():
            unlink(temporary.target)
    for target, path in kept.items():
        try:
            if os.path.samestat(os.lstat(path), os.lstat(target)):  # not replaced yet; renaming a file to itself would do nothing
                unlink(path)
                continue
        except FileNotFoundError:
            if not os.path.lexists(path):
                continue
        os.replace(path, target)


def flush_folder(folder: Path) -> None:
    """Make the names durable; not every system lets a folder be opened or flushed."""
    if os.name == "nt":
        return
    try:
        fd = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except PermissionError:  # it takes files and shows none
        return
    except OSError as error:
        raise SystemIOError(f"cannot be flushed: {error.strerror}", path=folder) from error
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise SystemIOError(f"cannot be flushed: {error.strerror}", path=folder) from error
    finally:
        try:
            os.close(fd)
        except OSError:
            pass


def remove_all(temporaries: Iterable[Temporary]) -> None:
    """Take all of them away; then raise the signal that came meanwhile. That one could not be taken away is no error of the output,
    which has its name by now, or has failed for a reason of its own: the next run on that target tries again."""
    failure: BaseException | None = None
    for temporary in temporaries:
        for _ in range(2):
            try:
                temporary.remove()
                break
            except OSError:
                break
            except BaseException as error:  # a signal: once more from where it came
                failure = error
    if failure is not None:
        raise failure
