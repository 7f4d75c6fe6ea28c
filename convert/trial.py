"""Outputs that have to prove themselves before they get their names: made in a hidden folder beside the target, renamed after the proof."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from formats.core.hidden_folder import hidden_folder
from formats.core.output import check_output
from formats.core.replacing import give_names
from formats.core.temporary import Temporary


@contextmanager
def trial(target: Path, *, force: bool) -> Iterator[Path]:
    """A folder on ``target``'s file system. Files made in it go beside ``target`` at the end, the one of its name last; if an error
    comes out of the block, nothing of it stays."""
    with hidden_folder(target) as folder:
        yield folder
        made = sorted(folder.iterdir(), key=lambda path: (path.name == target.name, path.name))
        for path in made:
            check_output(target.parent / path.name, force=force)
        give_names([Temporary.finished(path, target.parent / path.name) for path in made], replace=force)
