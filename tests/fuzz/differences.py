"""Where our reading differs from the library's on purpose; each row says why. Whatever is not listed is a finding."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

from formats.core.checkpoint import Global
from formats.core.errors import CheckpointError
from formats.core.unpickle import unpickle
from tests.fuzz.judge import Listing


def deliberate(target: str, data: bytes, ours: Listing, theirs: Listing) -> str | None:
    """The reason why both readings of ``data`` may stand, or None."""
    for name, reason, applies in DIFFERENCES:
        if name == target and applies(data, ours, theirs):
            return reason
    return None


def _records(data: bytes) -> list[str]:
    """The names that the ZIP's directory gives, whatever its local headers say."""
    try:
        return zipfile.ZipFile(io.BytesIO(data)).namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return []


def _storage_of_two_types(data: bytes) -> bool:
    """Whether the pickle names one storage under two storage classes."""
    classes: dict[str, set[str]] = {}

    def load(pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) == 5 and isinstance(pid[1], Global) and isinstance(pid[2], str):
            classes.setdefault(pid[2], set()).add(pid[1].text)
        return pid

    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        unpickle(archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl"))), persistent_load=load)
    except (CheckpointError, zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, StopIteration):
        return False
    return any(len(names) > 1 for names in classes.values())


DIFFERENCES: tuple[tuple[str, str, Callable[[bytes, Listing, Listing], bool]], ...] = (
    (
        "torchscript",
        "big-endian TorchScript: the record `byteorder` says so and torch.jit.save obeys it; torch.jit.load does not look",
        lambda data, ours, theirs: b"big" in data,
    ),
    (
        "torchscript",
        "no record is called `constants.pkl`: torch finds one of other case, here the file is a checkpoint of one object",
        lambda data, ours, theirs: not any(name.endswith("/constants.pkl") for name in _records(data)),
    ),
    (
        "zip",
        "one storage under two classes: each is read as the file says, torch gives both the first one's type",
        lambda data, ours, theirs: _storage_of_two_types(data),
    ),
)
