"""``convert inspect --audit``: what the pickles of a file name, and what a loader that trusts them would have run.

It comes from the evaluator that reads checkpoints (`formats.core.unpickle`), which notes names and calls and makes none: no second
scanner that could see another pickle than the reader. First the file is opened as ever, and each pickle that a reader evaluates is
noted, up to where it was refused. Then every other pickle that can be found in it is evaluated too: members that no reader asks for,
and files that are refused, whose ZIP members are found by their local headers. That second part goes as far as it can and says
nothing of what is no pickle.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from convert.mentions import Notes, watching
from formats.core.checkpoint import Global, Record
from formats.core.errors import CheckpointError
from formats.core.files import SourceFile, opened
from formats.core.inert import WATCHERS, Inert
from formats.core.unpickle import unpickle
from formats.core.zip import ZipDirectory

MAX_FILE = 64 << 20  # bytes of a file that are looked at; of a larger ZIP, what its directory lists
MAX_BYTES = 16 << 20  # of one pickle, or of what a member inflates to
MAX_MEMBERS = 20_000
MAX_FILES = 1000  # of a folder
MAX_PICKLES = 1000  # in a row in one file
DEPTH = 3
_LOCAL = b"PK\x03\x04"
_PICKLED = (
    ".pkl",
    ".pickle",
    ".pck",
    ".p",
    ".joblib",
    ".dat",
    ".data",
    ".metadata",
    ".debug_pkl",
    ".pt",
    ".pth",
    ".bin",
    ".ckpt",
    ".distcp",
)
_PROTOCOL = re.compile(rb"\x80[\x00-\x05]")
_UNPICKLES = ("torch.storage._load_from_bytes", "pickle.loads", "_pickle.loads", "cPickle.loads", "dill.loads", "cloudpickle.loads",
              "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "io.BytesIO", "_io.BytesIO")  # fmt: skip
_OLD = re.compile(rb"[(cIFLVS}\]Nd]")  # what a pickle of protocol 0 or 1 begins with


def look_around(notes: Notes, path: Path) -> None:
    """Evaluate what no reader has evaluated: see the module's text. Raises nothing because of what is in the files."""
    if path.is_dir():
        for count, entry in enumerate(sorted(path.rglob("*"))):
            if count >= MAX_FILES:
                break
            if entry.is_file() and not entry.is_symlink():
                _look_at(notes, entry)
    else:
        _look_at(notes, path)


def _look_at(notes: Notes, path: Path) -> None:
    try:
        file = opened(path)
    except CheckpointError:
        return
    try:
        if file.size > MAX_FILE and file.read(0, 4) == _LOCAL:
            _large_zip(notes, file)
            return
        data = file.read(0, min(file.size, MAX_FILE))
    except CheckpointError:
        return
    finally:
        file.close()
    _bytes(notes, data, path, "", 0)


def _large_zip(notes: Notes, file: SourceFile) -> None:
    """The members that are no storages, by the directory: an archive of many gigabytes is not read through."""
    archive = ZipDirectory(file)
    for name in list(archive.members)[:MAX_MEMBERS]:
        if name.endswith(_PICKLED):
            try:
                content = archive.read(name, MAX_BYTES)
            except CheckpointError:
                continue
            _row(notes, content, 0, file.path, name, 0)


def _bytes(notes: Notes, data: bytes, path: Path, inside: str, depth: int) -> None:
    """Every pickle in ``data``: members of a ZIP or TAR, what is compressed, an array of objects, or pickles in a row."""
    if depth > DEPTH:
        return
    if data[257:262] == b"ustar":
        members: Iterator[tuple[str, bytes]] = _tar(data)
    elif _LOCAL in data[:4096]:
        members = _zip(data)
    else:
        members = iter(())
        inflated = _inflated(data)
        if inflated is not None:
            _bytes(notes, inflated, path, f"{inside}/inflated" if inside else "inflated", depth + 1)
        elif data[:6] == b"\x93NUMPY":
            start = (
                10 + int.from_bytes(data[8:10], "little") if data[6:7] == b"\x01" else 12 + int.from_bytes(data[8:12], "little")
            )
            if b"O" in data[:start]:
                _row(notes, data, start, path, inside or "the array of objects", depth)
        elif _PROTOCOL.match(data) or _OLD.match(data):
            _row(notes, data, 0, path, inside or "the object", depth)
    for count, (name, content) in enumerate(members):
        if count >= MAX_MEMBERS:
            break
        below = f"{inside}/{name}" if inside else name
        nested = content[:4] == _LOCAL or content[257:262] == b"ustar" or content[:6] == b"\x93NUMPY" or _inflatable(content)
        if nested:
            _bytes(notes, content, path, below, depth + 1)
        elif _PROTOCOL.match(content) or (
            _OLD.match(content) and (name.endswith(_PICKLED) or "." not in name.rpartition("/")[2])
        ):
            _row(notes, content, 0, path, below, depth)


def _row(notes: Notes, data: bytes, at: int, path: Path, what: str, depth: int) -> None:
    """The pickles that stand in ``data`` one after the other from byte ``at``, as far as they can be evaluated."""
    collected = _Collected()
    for number in range(MAX_PICKLES):
        if at >= len(data):
            return
        where = what if number == 0 else f"{what}, pickle {number + 1}"
        seen = Notes(notes.path)  # judged before it is kept: raw numbers may look like a pickle
        outer = WATCHERS[:]
        WATCHERS[:] = [seen.note]
        try:
            end = unpickle(
                data[: at + MAX_BYTES],
                at=at,
                rebuilder=lambda: collected,
                persistent_load=lambda _: None,
                where=(path, where, at),
            ).end
        except CheckpointError:
            end = -1
        finally:
            WATCHERS[:] = outer
        notes.found += [(text, found) for text, found in seen.found if found.names and not _known(notes, found)]
        for name, inner in collected.taken():
            _bytes(notes, inner, path, f"{where}: bytes for {name}", depth + 1)
        if end < 0:
            return
        at = end


class _Collected:
    """Stands where tensors are rebuilt elsewhere: keeps the bytes that are given to functions which unpickle them."""

    def __init__(self) -> None:
        self.constructors: Mapping[str, Callable[[tuple[Any, ...]], Any]] = {name: self._collect(name) for name in _UNPICKLES}
        self.kept: list[tuple[str, bytes]] = []

    def _collect(self, name: str) -> Callable[[tuple[Any, ...]], Any]:
        def construct(args: tuple[Any, ...]) -> Record:
            self.kept += [(name, value) for value in args if isinstance(value, bytes)]
            return Record(Global(name), args)

        return construct

    def build(self, target: Any, state: Any) -> bool:
        return True

    def finish(self) -> None:
        pass

    def taken(self) -> list[tuple[str, bytes]]:
        kept, self.kept = self.kept, []
        return kept


def _known(notes: Notes, evaluation: Inert) -> bool:
    """Whether a pickle with these names and calls has been noted: by a reader, as a rule, which calls its place otherwise."""
    return any(found.names.keys() >= evaluation.names.keys() and found.called == evaluation.called for _, found in notes.found)


def _zip(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Members by their local headers alone, wherever those stand: an archive that is refused may hide one from its directory."""
    at = data.find(_LOCAL)
    while at >= 0 and at + 30 <= len(data):
        flags, method = int.from_bytes(data[at + 6 : at + 8], "little"), int.from_bytes(data[at + 8 : at + 10], "little")
        packed = int.from_bytes(data[at + 18 : at + 22], "little")
        name_length, extra = int.from_bytes(data[at + 26 : at + 28], "little"), int.from_bytes(data[at + 28 : at + 30], "little")
        start = at + 30 + name_length + extra
        following = data.find(b"PK", start)
        while following >= 0 and data[following + 2 : following + 4] not in (b"\x03\x04", b"\x07\x08", b"\x01\x02"):
            following = data.find(b"PK", following + 2)
        sized = (
            packed if packed not in (0, 0xFFFFFFFF) and not flags & 8 else (following if following >= 0 else len(data)) - start
        )
        content = data[start : start + sized]
        if method == 8:
            try:
                content = zlib.decompressobj(-15).decompress(data[start:], MAX_BYTES)
            except zlib.error:
                content = b""
        yield data[at + 30 : at + 30 + name_length].decode("utf-8", "replace"), content
        # Not past what the header says: it may say too much.
        at = data.find(_LOCAL, at + 4 if sized > len(data) - start else max(start + (sized if method != 8 else 0), at + 4))


def _tar(data: bytes) -> Iterator[tuple[str, bytes]]:
    at = 0
    while at + 512 <= len(data):
        field = data[at + 124 : at + 136].strip(b"\0 ")
        size = int(field, 8) if re.fullmatch(rb"[0-7]{1,12}", field) else 0
        yield data[at : at + 100].rstrip(b"\0").decode("utf-8", "replace"), data[at + 512 : at + 512 + size]
        at += 512 + size + -size % 512


def _inflatable(data: bytes) -> bool:
    return data.startswith((b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\0", b"\x78\x01", b"\x78\x9c", b"\x78\xda"))


def _inflated(data: bytes) -> bytes | None:
    """What is gzip, bzip2, xz or zlib (joblib's) inflates to, up to the limit; None where it is none of them."""
    if not _inflatable(data):
        return None
    import bz2
    import lzma

    try:
        if data.startswith(b"BZh"):
            return bz2.BZ2Decompressor().decompress(data, MAX_BYTES)
        if data.startswith(b"\xfd7zXZ\0"):
            return lzma.LZMADecompressor(memlimit=256 << 20).decompress(data, MAX_BYTES)
        return zlib.decompressobj(31 if data[:1] == b"\x1f" else 15).decompress(data, MAX_BYTES)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return None


__all__ = ["look_around", "watching"]
