"""Where our reading differs from the library's on purpose; each row says why. Whatever is not listed is a finding."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

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
)
