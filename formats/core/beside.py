"""Files that a file names beside itself: shards of an index, external data of a model. A name may not lead anywhere else.

A name must be bare: no folder, no URL, no ``..``. A link is followed only into the folder in which the naming file itself really
lies: a download cache keeps all files of one model as links into one folder, and that is the one good reason for such a link.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from formats.core.errors import CorruptCheckpoint, SystemIOError

_NOT_BARE = frozenset('/\\\0:*?"<>|')  # separators of every system, NUL, and what Windows gives a meaning to


def bare(name: object, what: str) -> str:
    """``name`` if it is a bare file name. Raises `CorruptCheckpoint`, naming ``what`` it is the name of."""
    if type(name) is not str:
        raise CorruptCheckpoint(f"{what} is a {type(name).__name__}, not a file name")
    if not name or name in (".", "..") or not _NOT_BARE.isdisjoint(name) or len(name.encode("utf-8", "surrogatepass")) > 255:
        raise CorruptCheckpoint(f"{what} is {name!r:.120}: only the bare name of a file in the same folder is followed")
    return name


def beside(main: Path, name: str, what: str) -> Path:
    """Where the file ``name`` beside ``main`` really is; open it without following links.

    Raises `CorruptCheckpoint` where the name is not bare or leads out by a link, `SystemIOError` where there is no such file.
    """
    path = main.parent / bare(name, what)
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        raise SystemIOError(f"{what} {name!r:.120} cannot be found: {error.strerror}", path=main) from error
    if not stat.S_ISLNK(mode):
        return path
    try:
        real, home = Path(os.path.realpath(path, strict=True)), Path(os.path.realpath(main, strict=True)).parent
    except OSError as error:
        raise SystemIOError(f"{what} {name!r:.120} is a link that leads nowhere: {error.strerror}", path=main) from error
    if real.parent not in (home, Path(os.path.realpath(main.parent))):
        raise CorruptCheckpoint(
            f"{what} {name!r:.120} is a link to {str(real)!r:.200}, outside the folder of the file that names it"
        )
    return real
