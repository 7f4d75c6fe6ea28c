"""Outputs that have to prove themselves before they get their names: made in a hidden folder beside the target, renamed after the proof."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from formats.core.output import check_output
from formats.core.remote import RemotePath
from formats.core.replacing import give_names, remove_all
from formats.core.temporary import TEMPORARY_SUFFIX, Temporary
from formats.core.upload import upload_files

SUFFIX = f".d{TEMPORARY_SUFFIX}"


@contextmanager
def trial(target: Path, *, force: bool) -> Iterator[Path]:
    """A folder on ``target``'s file system. Files made in it go beside ``target`` at the end, the one of its name last; if an error
    comes out of the block, nothing of it stays. One that a killed run has left is taken away; a living run's raises `OutputError`."""
    if isinstance(target, RemotePath):
        with tempfile.TemporaryDirectory(prefix="ckpt-convert.") as name:
            yield Path(name)
            upload_files(_last(Path(name), target.name), target.parent, force=force)
        return
    guard = Temporary(target)
    try:
        guard.create(None)
        folder = guard.path.with_name(guard.path.name.removesuffix(TEMPORARY_SUFFIX) + SUFFIX)
        shutil.rmtree(folder, ignore_errors=True)  # of a dead run: a living one would hold the guard
        try:
            folder.mkdir(mode=0o700)
            yield folder
            made = _last(folder, target.name)
            for path in made:
                check_output(target.parent / path.name, force=force)
            give_names([Temporary.finished(path, target.parent / path.name) for path in made], replace=force)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        remove_all([guard])


def _last(folder: Path, name: str) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda path: (path.name == name, path.name))
