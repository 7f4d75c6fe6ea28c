"""NumPy's .npz: a ZIP whose every member is an array in the .npy format.

Source: ``numpy.lib.npyio`` (``savez``, ``savez_compressed``, ``load``) and ``numpy.lib.format``. Arrays of Python objects are pickles
and are refused by name; texts, dates and structured arrays are no tensors and stay inert records. The writer stores the members in
the model's order with fixed dates, so that the same input gives the same bytes. The format has no bfloat16, float8 or quantised type,
no tie and no ``_metadata``: a tensor of such a type is refused by name, and tied tensors are written once each.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

from formats.core import crc, npy
from formats.core.checkpoint import Checkpoint, Global, Record
from formats.core.errors import CheckpointError, CorruptCheckpoint, UnknownFormat
from formats.core.files import SourceFile, opened
from formats.core.probe import Probe
from formats.core.protocol import Match
from formats.core.storage import Storage, Swapped, Window, read_all
from formats.core.tensor import TensorView, row_major
from formats.core.zip import ZipDirectory

MAX_TEXT = 1 << 20  # bytes of a text that is given as a text


def sniff(probe: Probe) -> Match:
    """A ZIP whose every member is called ``*.npy``."""
    archive = probe.zip
    return (
        Match.CERTAIN if archive and archive.members and all(name.endswith(npy.SUFFIX) for name in archive.members) else Match.NO
    )


def read(path: Path) -> Checkpoint:
    """The arrays of the archive at ``path`` by name, read when asked for; of each only the header is read now."""
    return read_file(opened(path))


def read_file(file: SourceFile) -> Checkpoint:
    """The same from an open file."""
    archive = ZipDirectory(file)
    tree: dict[str, Any] = {}
    for name in archive.members:
        key = (archive.own_name(name) if "/" in name else name).removesuffix(npy.SUFFIX)
        try:
            tree[key] = _array(archive, name)
        except CheckpointError as error:
            error.what = f"array {key!r:.120}: {error.what}"
            raise
    odd = [name for name, value in tree.items() if not isinstance(value, (TensorView, str))]
    notes = [f"array {name!r:.120} is {tree[name].args[0]}, no tensor" for name in odd[:10]]
    return Checkpoint(file.path, "npz", tree, {}, {"container": "npz"}, notes, [file])


def _array(archive: ZipDirectory, name: str) -> Any:
    member = archive.storage(name)
    start = npy.header_length(read_all(member, 0, min(npy.PREFIX, member.nbytes)))
    if start > member.nbytes:
        raise CorruptCheckpoint(f"ends at byte {member.nbytes} inside its .npy header of {start}")
    head = read_all(member, 0, start)
    header = npy.parse_header(head)
    if "O" in header.descr:
        raise UnknownFormat("holds Python objects (a pickle), which are not read", hint="save it as arrays of numbers")
    if header.dtype is None:
        _compare_crc(archive, name, member)  # a damaged header must not make a tensor vanish
        return _no_tensor(header, member, start)
    nbytes = header.numel * header.dtype.itemsize
    if start + nbytes != member.nbytes:
        raise CorruptCheckpoint(
            f"{header.dtype.name} of shape {_shown(header.shape)} needs {nbytes} bytes, {member.nbytes - start} follow its header"
        )
    whole = archive.member(name).crc
    data: Storage = ArrayData(member, start, crc.tail(whole, zlib.crc32(head), nbytes) if whole else None)
    if header.big and header.dtype.swap > 1:
        data = Swapped(data, header.dtype.swap)
    strides = tuple(reversed(row_major(header.shape[::-1]))) if header.fortran else None
    return TensorView(header.dtype, header.shape, data, 0, strides)


def _compare_crc(archive: ZipDirectory, name: str, member: Storage) -> None:
    expected, actual = archive.member(name).crc, 0
    for piece in member.chunks(0, member.nbytes):
        actual = zlib.crc32(piece, actual)
    if expected and actual != expected:
        raise CorruptCheckpoint(f"has CRC-32 {actual:08x}, expected {expected:08x}")


def _no_tensor(header: npy.Header, member: Storage, start: int) -> Any:
    """A text where the array is one, else a record of what it would be."""
    nbytes = member.nbytes - start
    if header.descr[:2] in ("<U", ">U", "|S") and header.shape == () and nbytes <= MAX_TEXT:
        raw = read_all(member, start)
        codec = {"<": "utf-32-le", ">": "utf-32-be", "|": "latin-1"}[header.descr[0]]
        try:
            return raw.decode(codec).rstrip("\0")
        except UnicodeDecodeError as error:
            raise CorruptCheckpoint(f"is a text that is none: {error}") from error
    return Record(Global("numpy.ndarray"), (f"an array of {header.descr!r:.40}", header.shape))


def _shown(shape: tuple[int, ...]) -> str:
    return f"{list(shape)!s:.80}"


class ArrayData(Window):
    """An array's bytes within its member. The CRC-32 of the member, header included, gives that of the bytes alone."""

    __slots__ = ("_crc",)

    def __init__(self, inner: Storage, start: int, data_crc: int | None) -> None:
        super().__init__(inner, start, inner.nbytes - start)
        self._crc = data_crc

    def stored_crc(self) -> int | None:
        """The CRC-32 of all bytes; None where the archive has none."""
        return self._crc

    def order(self) -> Any:
        """About where the bytes are, without a read."""
        find = getattr(self.inner, "order", None)
        return None if find is None else find()
