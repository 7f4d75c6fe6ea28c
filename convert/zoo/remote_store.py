"""A destination at a URL. Outputs appear there whole; the journal, its lock and the report need a file system and stay on this machine."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from formats.core.errors import CheckpointError
from formats.core.remote import RemotePath

STATE = "XDG_STATE_HOME"  # of the freedesktop.org base directories: what a program remembers


class RemoteStore:
    """All below ``root``. Without ``home`` the journal stands under ``~/.local/state/ckpt-convert``, one folder a destination."""

    def __init__(self, root: RemotePath, home: str | None = None) -> None:
        (root / "x").check_upload()
        self.place = root
        self.root = str(root)
        number = hashlib.sha256(root.url.encode()).hexdigest()[:16]
        self.home = home or str(Path(os.environ.get(STATE) or Path.home() / ".local" / "state", "ckpt-convert", number))

    def make(self) -> None:
        Path(self.home).mkdir(parents=True, exist_ok=True)

    def state(self, name: str) -> tuple[int, int] | None:
        try:
            found = (self.place / name).stat()
        except (OSError, CheckpointError):
            return None
        return found.st_size, found.st_mtime_ns

    def sync(self) -> None:
        """Nothing: an object that has its name is durable."""

    def free(self) -> int | None:
        return None

    def sweep(self) -> int:
        """Nothing has a name that is not whole; parts without one are swept by the place's own rules."""
        return 0

    def close(self) -> None:
        pass
