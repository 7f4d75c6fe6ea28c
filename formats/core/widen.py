"""Half-precision floats as float32, which holds every one of them exactly."""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator

from formats.core.dtype import FLOAT32
from formats.core.storage import Storage
from formats.core.tensor import TensorView


class Widened:
    """The bytes of ``inner``, float16 or bfloat16, as float32; a NaN keeps its sign and payload."""

    __slots__ = ("half", "inner", "location", "nbytes")

    def __init__(self, inner: Storage, dtype: str) -> None:
        self.inner = inner
        self.half = dtype == "float16"
        self.nbytes = 2 * inner.nbytes
        self.location = inner.location

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        low = start // 4 * 2
        at, rest = 2 * low, b""
        for piece in self.inner.chunks(low, min((stop + 3) // 4 * 2, self.inner.nbytes)):
            block = rest + bytes(piece)
            whole = len(block) // 2 * 2
            rest, block = block[whole:], block[:whole]
            wide = _from_half(block) if self.half else _from_bfloat(block)
            yield memoryview(wide)[max(start - at, 0) : max(stop - at, 0)]
            at += len(wide)


def _from_bfloat(block: bytes) -> bytearray:
    wide = bytearray(2 * len(block))
    wide[2::4] = block[::2]
    wide[3::4] = block[1::2]
    return wide


def _from_half(block: bytes) -> bytearray:
    values = array("f", struct.unpack(f"<{len(block) // 2}e", block))
    if sys.byteorder == "big":
        values.byteswap()
    wide = bytearray(values.tobytes())
    # The way through a double may quieten a NaN and loses nothing else: take its bits from the source.
    for at in range(0, len(block), 2):
        bits = block[at] | block[at + 1] << 8
        if bits & 0x7C00 == 0x7C00 and bits & 0x3FF:
            wide[2 * at : 2 * at + 4] = ((bits & 0x8000) << 16 | 0x7F800000 | (bits & 0x3FF) << 13).to_bytes(4, "little")
    return wide


def widened(tensor: TensorView) -> TensorView:
    """``tensor`` in float32 where it is float16 or bfloat16, else as it is."""
    if tensor.dtype.name not in ("float16", "bfloat16"):
        return tensor
    return TensorView(
        FLOAT32,
        tensor.shape,
        Widened(tensor.row_major(), tensor.dtype.name),
        requires_grad=tensor.requires_grad,
        parameter=tensor.parameter,
    )
