"""A folder that does not have its name yet, guarded as a file is (`temporary.py`)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from formats.core.temporary import TEMPORARY_SUFFIX, Temporary

_FOLDER_SUFFIX = f".d{TEMPORARY_SUFFIX}"


@contextmanager
def hidden_folder(target: Path) -> Iterator[Path]:
    """An empty hidden folder beside ``target``, gone at the end. One that a dead run has left is taken away; a living run's raises
    `OutputError`, and so does a living run that writes ``target`` itself."""
    guard = Temporary(target)
    try:
        guard.create(None)
        folder = guard.path.with_name(guard.path.name.removesuffix(TEMPORARY_SUFFIX) + _FOLDER_SUFFIX)
        shutil.rmtree(folder, ignore_errors=True)  # of a dead run: a living one would hold the guard
        try:
            folder.mkdir(mode=0o700)
            yield folder
        finally:
            _whatever_comes(lambda: shutil.rmtree(folder, ignore_errors=True))
    finally:
        _whatever_comes(guard.remove)


def _whatever_comes(remove: Callable[[], None]) -> None:
    """Remove; once more if a signal comes in the middle, which is raised then."""
    try:
        remove()
    except OSError:
        pass
    except BaseException:
        remove()
        raise
