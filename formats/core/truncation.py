"""How much of a cut-off ZIP is missing, as far as what is left says so.

The directory of a ZIP stands at its end, so a download that broke off has none; but torch writes the pickle first, and the pickle
says how many bytes each storage has.
"""

from __future__ import annotations

import struct

from formats.core.errors import CheckpointError, CorruptCheckpoint
from formats.core.files import SourceFile
from formats.core.rebuild import storage_dtype
from formats.core.unpickle import unpickle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LOCAL = struct.Struct("<4s5H3L2H")
_END = 22  # bytes of the end record, without its comment
_MOST = 16 << 20  # bytes of a pickle that are looked at
_AGAIN = "the download or the copy broke off: fetch it again"


def truncated_zip(file: SourceFile) -> CheckpointError | None:
    """The error for a ZIP without its end; None where the end is there and something else is wrong."""
    tail = file.read(max(file.size - 65557, 0), min(65557, file.size))
    end = tail.rfind(b"PK\x05\x06")
    if end >= 0:
        short = _END - (len(tail) - end)
        if short <= 0:
            return None
        return CorruptCheckpoint(
            f"is a ZIP archive that is cut off: at least {short} of {file.size + short} bytes are missing", hint=_AGAIN
        )
    wanted = _declared(file)
    if wanted is not None and wanted > file.size:
        missing = f"at least {wanted - file.size} of {wanted} bytes are missing"
        return CorruptCheckpoint(f"is a ZIP archive that is cut off: {missing}", hint=_AGAIN)
    return CorruptCheckpoint(f"is a ZIP archive that is cut off: it has no end after {file.size} bytes", hint=_AGAIN)


def _declared(file: SourceFile) -> int | None:
    """Bytes that the archive needs at least: up to the end of the last member whose header is there, and torch's storages."""
    at = 0
    least: int | None = None
    for _ in range(100_000):
        if at + _LOCAL.size > file.size:
            return least
        fields: tuple[Any, ...] = _LOCAL.unpack(file.read(at, _LOCAL.size))
        signature, flags, method, packed, name_length, extra_length = (fields[i] for i in (0, 2, 3, 7, 9, 10))
        if signature != b"PK\x03\x04":
            return least
        start: int = at + _LOCAL.size + name_length + extra_length
        if start > file.size:
            return start
        name = file.read(at + _LOCAL.size, name_length)
        if name.rpartition(b"/")[2] == b"data.pkl" and method == 0:
            return max(least or 0, start + _storages(file, start))
        if (flags & 8 and not packed) or packed == 0xFFFFFFFF:
            return least  # sizes stand behind the data, or in the directory that is missing
        least = at = start + packed
    return least


def _storages(file: SourceFile, start: int) -> int:
    """Bytes of the pickle at ``start`` and of all storages that it names; 0 where the pickle itself is cut off."""
    sizes: dict[Any, int] = {}

    def load(pid: Any) -> None:
        if type(pid) is tuple and len(pid) == 5 and type(pid[4]) is int and isinstance(pid[2], str):
            dtype = storage_dtype(pid[1])
            sizes[pid[2]] = max(pid[4], 0) * (dtype.itemsize if dtype else 1)

    data = file.read(start, min(file.size - start, _MOST))
    try:
        end = unpickle(data, persistent_load=load).end
    except CheckpointError:
        return 0
    return end + sum(sizes.values())
