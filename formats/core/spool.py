"""Compressed streams made readable at any position: inflated once into a temporary file that has no name.

A checkpoint is read from its end (a ZIP directory) and out of order, which a compressed stream does not allow. The temporary file is
made without a name, or loses it at once, where `tempfile` puts such files (TMPDIR): nobody sees it, and it is gone with the process.
gzip, bzip2 and xz are the standard library's; zstd needs the package ``zstandard``. Each stream's own checksum is compared.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from formats.core.errors import CheckpointError, CorruptCheckpoint, LimitExceeded, SystemIOError, Unsupported
from formats.core.files import PIECE, SourceFile
from formats.core.storage import Storage

# A stream may inflate to this many bytes whatever its size, and beyond them to this many times its size.
FLOOR, RATIO = 256 << 20, 200
MAX_MEMORY = 128 << 20  # of a decoder's window: xz -9 takes 65 MiB, zstd --ultra -22 takes 128 MiB

MAGICS: dict[bytes, str] = {b"\x1f\x8b\x08": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def compression(head: bytes) -> str | None:
    """Which compression a file is of, by its first bytes."""
    for magic, name in MAGICS.items():
        if head.startswith(magic):
            return name
    return None


class SpoolFile(SourceFile):
    """A temporary file without a name, under the methods of `SourceFile`; ``path`` is what errors name."""

    __slots__ = ("_file",)

    def __init__(self, pieces: Iterator[bytes | memoryview], path: Path, limit: int) -> None:
        self.path = path
        self.fd = -1
        self._lock = threading.Lock()
        import tempfile  # brings a dozen modules along, which a plain file never needs

        try:
            # Closed by `close`; a with-block would end too early.
            self._file: IO[bytes] = tempfile.TemporaryFile(prefix="ckpt-convert-", buffering=0)  # noqa: SIM115
            self.size = 0
            for piece in pieces:
                self.size += len(piece)
                if self.size > limit:
                    raise LimitExceeded(
                        f"inflates to more than {limit} bytes", path=path, hint="inflate it first if it is meant to"
                    )
                _write_all(self._file, memoryview(piece))
        except OSError as error:
            raise SystemIOError(
                f"cannot be inflated into {tempfile.gettempdir()}: {error.strerror}",
                path=path,
                hint="TMPDIR names another folder",
            ) from error
        self.fd = self._file.fileno()
        info = os.fstat(self.fd)
        self.identity = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)

    def close(self) -> None:
        self.fd = -1
        self._file.close()


def _write_all(file: IO[bytes], data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def spool_storage(storage: Storage, path: Path, limit: int) -> SpoolFile:
    """The bytes of ``storage`` (a deflated member); it compares its own checksum."""
    return SpoolFile(storage.chunks(0, storage.nbytes), path, limit)


def spool_stream(file: SourceFile, kind: str, path: Path) -> SpoolFile:
    """What the compressed ``file`` holds. ``kind`` is one of the names in `MAGICS`."""
    limit = max(FLOOR, RATIO * file.size)
    try:
        return SpoolFile(_inflated(file, kind), path, limit)
    except CheckpointError as error:
        raise error.with_path(file.path) from error.__cause__


def _inflated(file: SourceFile, kind: str) -> Iterator[bytes]:
    """All streams of ``file``, one after the other, in pieces. Zeros between and after them are padding; anything else is refused."""
    make, errors = _decoders(kind)
    decoder: Any = None
    began = 0
    for piece in file.pieces(0, file.size):
        data = bytes(piece)
        while data:
            if decoder is None:
                data = data.lstrip(b"\0") if began else data
                if not data:
                    break
                decoder, began = make(), began + 1
            try:
                out, data = _step(decoder, data)
            except errors as error:
                what = "is followed by bytes that are none" if began > 1 else "does not inflate"
                raise CorruptCheckpoint(f"{kind} stream {what}: {error!s:.120}") from error
            if out:
                yield out
            if decoder.eof:
                data, decoder = bytes(decoder.unused_data), None
    if decoder is not None or not began:
        raise CorruptCheckpoint(f"{kind} stream is cut off: the file ends at byte {file.size} before the stream does")


def _step(decoder: Any, data: bytes) -> tuple[bytes, bytes]:
    """(at most some `PIECE` bytes of output, what is left of the input)."""
    if hasattr(decoder, "unconsumed_tail"):  # zlib
        out = decoder.decompress(data, PIECE)
        return out, decoder.unconsumed_tail
    if hasattr(decoder, "needs_input"):  # bz2 and lzma keep their input
        out = decoder.decompress(data, PIECE)
        return out, b"" if decoder.needs_input or decoder.eof else _MORE
    return decoder.decompress(data), b""


class _More(bytes):
    """No input, and yet another step: the decoder still holds output."""

    def __bool__(self) -> bool:
        return True


_MORE = _More()


def _decoders(kind: str) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    """(what makes a decoder for one stream, what it raises)."""
    if kind == "gzip":
        import zlib

        return (lambda: zlib.decompressobj(31)), (zlib.error,)
    if kind == "bzip2":
        import bz2

        return bz2.BZ2Decompressor, (OSError, ValueError, EOFError)
    if kind == "xz":
        import lzma

        return (lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_MEMORY)), (lzma.LZMAError, EOFError)
    try:
        import zstandard
    except ImportError:
        raise Unsupported("is zstd-compressed", hint="pip install zstandard, or unpack it first: zstd -d") from None
    return (lambda: _Zstd(zstandard.ZstdDecompressor(max_window_size=MAX_MEMORY).decompressobj())), (zstandard.ZstdError,)


class _Zstd:
    """`zstandard.decompressobj`, fed so little at a time that no step makes more than 32 MiB.

    One block of zstd is at most 128 KiB and takes no less than 4 bytes.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._step = 64
        self.unconsumed_tail = b""
        self.unused_data = b""
        self.eof = False

    def decompress(self, data: bytes, _: int) -> bytes:
        step, self.unconsumed_tail = data[: self._step], data[self._step :]
        out: bytes = self._inner.decompress(step)
        self._step = 64 if len(out) > 16 * len(step) else min(2 * self._step, 1024)
        self.eof = bool(self._inner.eof)
        if self.eof:
            self.unused_data = bytes(self._inner.unused_data) + self.unconsumed_tail
            self.unconsumed_tail = b""
        return out


__all__ = ["MAGICS", "SpoolFile", "compression", "spool_storage", "spool_stream"]
