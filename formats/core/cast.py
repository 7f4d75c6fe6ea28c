"""Floating values in another floating type, rounded as torch rounds: to the nearest, ties to even, by way of float32 to 16 bits.

float64 goes to float16 and bfloat16 by way of float32, because torch's conversions do (``c10::Half`` and ``c10::BFloat16`` are made
of a float). NaN stays NaN; which NaN it becomes is left open there, too: torch's own differ between its kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from formats.core.dtype import DType
from formats.core.small_floats import EIGHT_BITS, table
from formats.core.storage import Storage

if TYPE_CHECKING:
    import numpy

BLOCK = 1 << 18  # elements cast at once
_IEEE = {"float64": "<f8", "float32": "<f4", "float16": "<f2"}
SOURCES = frozenset((*_IEEE, "bfloat16", *EIGHT_BITS))
TARGETS = frozenset((*_IEEE, "bfloat16"))
# (bits of precision, exponent of the smallest normal value, exponent of the largest)
_RANGE = {
    "float64": (53, -1022, 1023), "float32": (24, -126, 127), "float16": (11, -14, 15), "bfloat16": (8, -126, 127),
    "float8_e4m3fn": (4, -9, 8), "float8_e5m2": (3, -16, 15), "float8_e4m3fnuz": (4, -10, 7), "float8_e5m2fnuz": (3, -17, 15),
    "float8_e8m0fnu": (1, -127, 127),
}  # fmt: skip
_SUBNORMALS = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}  # … exponents below the smallest normal are reached


class Tally:
    """What became of one tensor's values, each counted once. Every value that changed is ``rounded``, NaN aside; among them

    ``overflowed`` were finite and are infinite, ``zeroed`` were not zero and are, ``subnormal`` lost digits below the smallest normal.
    """

    __slots__ = ("overflowed", "rounded", "seen", "subnormal", "zeroed")

    def __init__(self) -> None:
        self.overflowed = self.zeroed = self.subnormal = self.rounded = 0
        self.seen = 0  # values that are counted already: the first ones

    @property
    def lost(self) -> int:
        """Values that left the target's range, at either end."""
        return self.overflowed + self.zeroed + self.subnormal


def lossless(source: DType, target: DType) -> bool:
    """Whether every value of ``source`` is one of ``target``."""
    digits, low, high = _RANGE[source.name]
    wide, lowest, highest = _RANGE[target.name]
    # The table gives the smallest value of 8-bit types and the smallest normal one of the others, whose subnormals have few digits.
    reach = lowest - _SUBNORMALS[target.name]
    below = low - _SUBNORMALS.get(source.name, 0)
    return digits <= wide and high <= highest and below >= reach


class Cast:
    """``inner``, row-major bytes of ``source`` values, as bytes of ``target`` values; counted in ``tally`` where something can be lost."""

    __slots__ = ("inner", "location", "nbytes", "source", "tally", "target")

    def __init__(self, inner: Storage, source: DType, target: DType, tally: Tally | None = None) -> None:
        self.inner = inner
        self.source = source
        self.target = target
        self.tally = None if lossless(source, target) else tally
        self.nbytes = inner.nbytes // source.itemsize * target.itemsize
        self.location = inner.location

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        wide = self.target.itemsize
        first, last = start // wide, -(-stop // wide)
        at = first
        for block in elements(self.inner, self.source.itemsize, first, last):
            made = self._made(block, at)
            count = len(block) // self.source.itemsize
            yield memoryview(made)[max(start - at * wide, 0) : min(stop - at * wide, count * wide)]
            at += count

    def _made(self, block: bytearray, at: int) -> bytes:
        import numpy as np

        with np.errstate(all="ignore"):
            values = decoded(block, self.source.name)
            codes = encoded(values, self.target.name)
            if self.tally is not None and at <= self.tally.seen < at + values.size:
                fresh = self.tally.seen - at
                self._count(values[fresh:], codes[fresh:])
                self.tally.seen = at + values.size
        return codes.tobytes()

    def _count(self, before: numpy.ndarray[Any, Any], codes: numpy.ndarray[Any, Any]) -> None:
        import numpy as np

        assert self.tally is not None
        after = decoded(codes.tobytes(), self.target.name)
        odd = (after != before) & ~np.isnan(before)  # compared in the wider type
        rounded = int(np.count_nonzero(odd))
        self.tally.rounded += rounded
        if not rounded:
            return
        left, right = before[odd], after[odd]
        small = np.abs(right) < 2.0 ** _RANGE[self.target.name][1]
        zero = right == 0
        self.tally.overflowed += int(np.count_nonzero(np.isinf(right) & np.isfinite(left)))
        self.tally.zeroed += int(np.count_nonzero(zero))
        self.tally.subnormal += int(np.count_nonzero(small & ~zero))


def elements(storage: Storage, width: int, first: int, last: int) -> Iterator[bytearray]:
    """The elements ``[first, last)`` of ``width`` bytes, whole ones, at most `BLOCK` at once."""
    size = BLOCK * width
    block = bytearray()
    for piece in storage.chunks(first * width, last * width):
        at = 0
        while at < len(piece):
            taken = piece[at : at + size - len(block)]
            block += taken
            at += len(taken)
            if len(block) == size:
                yield block
                block = bytearray()
    if block:
        yield block


def decoded(block: bytes | bytearray, name: str) -> numpy.ndarray[Any, Any]:
    """The values as float32, float64 ones as they are; exact."""
    import numpy as np

    if name in _IEEE:
        values = np.frombuffer(block, _IEEE[name])
        return values.astype("<f4") if name == "float16" else values
    if name == "bfloat16":
        return (np.frombuffer(block, "<u2").astype("<u4") << 16).view("<f4")
    return np.asarray(np.array(table(name), dtype="<f4")[np.frombuffer(block, "u1")])


def encoded(values: numpy.ndarray[Any, Any], name: str) -> numpy.ndarray[Any, Any]:
    """float32 or float64 ``values`` in the type ``name``; 16-bit ones as codes where numpy has no such type."""
    import numpy as np

    if name in ("float64", "float32"):
        return values.astype(_IEEE[name])
    single = values.astype("<f4")
    if name == "float16":
        return single.astype("<f2")
    bits = single.view("<u4")
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(single), (bits >> 16) | 0x40, rounded).astype("<u2")
