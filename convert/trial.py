"""Outputs that have to prove themselves before they get their names: made in a hidden folder beside the target, renamed after the proof."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from formats.core.errors import OutputError
from formats.core.output import TEMPORARY_SUFFIX, check_output


@contextmanager
def trial(target: Path, *, force: bool) -> Iterator[Path]:
    """A folder on ``target``'s file system. Files made in it go beside ``target`` at the end, the one of its name last; if an error
    comes out of the block, nothing of it stays."""
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name[:80]}.", suffix=TEMPORARY_SUFFIX, dir=target.parent))
    try:
        yield folder
        made = sorted(folder.iterdir(), key=lambda path: (path.name == target.name, path.name))
        for path in made:
            check_output(target.parent / path.name, force=force)
        for path in made:
            _place(path, target.parent / path.name, force)
        _flush(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _place(path: Path, final: Path, force: bool) -> None:
    """Rename without ever replacing what somebody else has put there meanwhile."""
    if force:
        path.replace(final)
        return
    try:
        os.link(path, final)
    except FileExistsError as error:
        raise OutputError("exists already", path=final, hint="--force replaces it") from error
    except OSError:  # a file system without links
        path.rename(final)


def _flush(folder: Path) -> None:
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
