"""What stands for a file's bytes in the journal, and what each costs.

=============  ====  =======================================================================================================
form           GB/s  what it tells
=============  ====  =======================================================================================================
``sha256:…``   1.75  all bytes. Of every source up to `WHOLE` bytes; of every file with ``--digest sha256``
``crc32:…``    6.4   all bytes, against accident and honest editing, not against malice. Of outputs
``sampled:…``  –     size, and `PIECES` pieces of `PIECE` bytes. Of larger sources: two files differ, never that they are equal
``etag:…``     –     size, time and ETag of a remote file, as its place gives them: nothing is read for it
``listing:…``  –     names, sizes and times of the parts. Of folders and of sharded models
=============  ====  =======================================================================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from formats.core.crc import crc32_for
from formats.core.files import PIECE as READ
from formats.core.files import SourceFile, located, opened

WHOLE = 1 << 20  # bytes of a source that are always digested in full
PIECES = 16
PIECE = 8 << 10
MODES = ("fast", "sha256")


def of_source(path: Path | str, mode: str = "fast") -> str:
    """``sha256:…`` of a file that is small, or where ``mode`` asks for it; else ``sampled:…``."""
    place = located(path)
    if mode == "fast" and getattr(place, "open_source", None) is not None:
        state = place.stat()
        return f"etag:{state.st_size}:{state.st_mtime_ns}"
    file = opened(place)
    try:
        if mode == "sha256" or file.size <= WHOLE:
            return "sha256:" + _sha256(file)
        found = hashlib.sha256(b"%d" % file.size)
        for number in range(PIECES):
            at = (file.size - PIECE) * number // (PIECES - 1)
            found.update(file.read(at, PIECE))
        return "sampled:" + found.hexdigest()
    finally:
        file.close()


def of_listing(parts: Iterable[tuple[str, int, int]]) -> str:
    """Of (name, size, modification time) of every part."""
    return "listing:" + hashlib.sha256(repr(sorted(parts)).encode("utf-8", "surrogateescape")).hexdigest()


def crc32(path: Path | str) -> str:
    """``crc32:…`` of all bytes."""
    file = opened(located(path))
    try:
        crc, count = 0, crc32_for(file.size)
        for piece in file.pieces(0, file.size):
            crc = count(piece, crc)
        return f"crc32:{crc:08x}"
    finally:
        file.close()


def sha256(path: Path | str) -> str:
    """The hexadecimal digest of all bytes."""
    file = opened(located(path))
    try:
        return _sha256(file)
    finally:
        file.close()


def matches(path: Path | str, recorded: str) -> bool:
    """Whether the file's bytes have the recorded ``crc32:…`` or ``sha256:…``."""
    return ("sha256:" + sha256(path) if recorded.startswith("sha256:") else crc32(path)) == recorded


def same_bytes(first: Path | str, second: Path | str) -> bool:
    """Whether two files are equal, byte for byte."""
    one, other = opened(located(first)), opened(located(second))
    try:
        if one.size != other.size:
            return False
        buffer = memoryview(bytearray(READ))
        at = 0
        for piece in one.pieces(0, one.size):
            view = buffer[: len(piece)]
            other.read_into(at, view)
            if bytes(piece) != bytes(view):  # compares like memcmp, which a memoryview does not
                return False
            at += len(piece)
        return True
    finally:
        one.close()
        other.close()


def _sha256(file: SourceFile) -> str:
    found = hashlib.sha256()
    for piece in file.pieces(0, file.size):
        found.update(piece)
    return found.hexdigest()
