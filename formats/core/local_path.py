"""Paths of this machine, without pathlib where nobody has loaded it: it takes `re`, `enum`, `functools` and `collections` with it, a third
of the start of a conversion.
"""

from __future__ import annotations

import os
import stat
import sys
from errno import EBADF, ELOOP, ENOENT, ENOTDIR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path as LocalPath
    from typing import Any

_ABSENT = frozenset({ENOENT, ENOTDIR, EBADF, ELOOP})


class PosixPath:
    """What a conversion asks of a path, answered as `pathlib.PosixPath` does; everything else is asked of one when it is asked for.

    Equal to any path of the same text. Hashes differ from pathlib's: keys of one dict have to be of one kind.
    """

    __slots__ = ("_text",)
    check_upload = open_source = url = write_layouts = None  # what a remote path has (`formats.core.remote`)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        text = os.fspath(path)
        if not isinstance(text, str):
            raise TypeError(f"a path is text, not {type(text).__name__}")
        if "//" in text or "/." in text or text[:2] == "./" or text[-1:] in ("", "/"):
            root = "" if text[:1] != "/" else "//" if text[:2] == "//" and text[2:3] != "/" else "/"
            text = (root + "/".join([part for part in text.split("/") if part not in ("", ".")])) or "."
        self._text = text

    def __fspath__(self) -> str:
        return self._text

    __str__ = __fspath__

    def __repr__(self) -> str:
        return f"PosixPath({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return hasattr(other, "__fspath__") and os.fspath(other) == self._text

    def __lt__(self, other: os.PathLike[str]) -> bool:
        from pathlib import Path

        return Path(self._text) < Path(other)

    def __hash__(self) -> int:
        return hash(self._text)

    def __truediv__(self, name: str | os.PathLike[str]) -> PosixPath:
        name = os.fspath(name)
        between = "" if self._text[-1] == "/" else "/"  # only a root ends so
        return PosixPath(name if name[:1] == "/" else f"{self._text}{between}{name}")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        from pathlib import Path

        return getattr(Path(self._text), name)

    @property
    def name(self) -> str:
        name = self._text.rpartition("/")[2]
        return "" if name == "." else name

    @property
    def suffix(self) -> str:
        name = self.name
        at = name.rfind(".")
        return name[at:] if 0 < at < len(name) - 1 else ""

    @property
    def parent(self) -> PosixPath:
        if not self.name:
            return self
        head, slash, _ = self._text.rpartition("/")
        return PosixPath(f"{head}{slash}" if not head.strip("/") else head)

    def with_name(self, name: str) -> PosixPath:
        if not self.name or not name or "/" in name or name == ".":
            raise ValueError(f"{name!r:.100} is no name for {self._text!r:.200}")
        return self.parent / name

    def stat(self) -> os.stat_result:
        return os.stat(self._text)

    def resolve(self) -> PosixPath:
        return PosixPath(os.path.realpath(self._text))

    def exists(self) -> bool:
        return self._mode(os.stat) != 0

    def is_file(self) -> bool:
        return stat.S_ISREG(self._mode(os.stat))

    def is_dir(self) -> bool:
        return stat.S_ISDIR(self._mode(os.stat))

    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self._mode(os.lstat))

    def _mode(self, ask: Any) -> int:
        """0 where there is nothing; other errors than that are raised, as pathlib does."""
        try:
            found: os.stat_result = ask(self._text)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            return 0
        except ValueError:  # a null character
            return 0
        return found.st_mode


if not TYPE_CHECKING:
    if os.name == "nt" or "pathlib" in sys.modules:
        from pathlib import Path as LocalPath
    else:
        LocalPath = PosixPath

__all__ = ["LocalPath"]
