"""Every way in which a conversion can end badly, one class each; the command line's exit code comes from the class.

An error is one line, ``FILE: what, where, both sides``, and at most one hint. Whoever raises knows *what*; the boundary that knows
the file fills in ``path`` (`with_path`).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self


class CheckpointError(Exception):
    """Base of all errors of this project. ``what`` says what disagrees, ``hint`` says what to do next."""

    exit_code = 65
    kind = "error"

    def __init__(self, what: str, *, path: Path | str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.path = path
        self.hint = hint

    def with_path(self, path: Path | str) -> Self:
        """The same error, naming ``path`` unless a file is named already."""
        if self.path is None:
            self.path = path
        return self

    def __str__(self) -> str:
        if self.path is None:
            return self.what
        path = str(self.path)
        # Inside an archive the path ends in a name of the archive's choice, which may be 65,535 bytes long.
        if len(path) > 1000:
            path = f"{path[:500]}…{path[-200:]}"
        return f"{path if path.isprintable() else ascii(path)[1:-1]}: {self.what}"


class UnknownFormat(CheckpointError):
    """No reader recognises the content, or it is recognised as something that holds no weights."""

    kind = "unknown-format"


class CorruptCheckpoint(CheckpointError):
    """The content contradicts itself or its container's specification."""

    kind = "corrupt"


class AmbiguousCheckpoint(CheckpointError):
    """Several readings are possible and none may be picked in silence."""

    kind = "ambiguous"


class LimitExceeded(CheckpointError):
    """A stated limit (depth, count, length) was reached before anything was allocated."""

    kind = "limit"


class UsageError(CheckpointError):
    """The command or the call was put wrongly."""

    exit_code = 2
    kind = "usage"


class Unsupported(CheckpointError):
    """The input is sound, but this tool or the target cannot hold or do it."""

    exit_code = 69
    kind = "unsupported"


class ParityFailed(CheckpointError):
    """What was written is not what was read."""

    exit_code = 70
    kind = "parity"


class OutputError(CheckpointError):
    """The output cannot be made: it exists, is the source, or its folder does not take it."""

    exit_code = 73
    kind = "output"


class SystemIOError(CheckpointError):
    """The operating system refused or broke a read or a write."""

    exit_code = 74
    kind = "io"
