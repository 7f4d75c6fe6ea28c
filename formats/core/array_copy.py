"""Strided copies outside Python's loops: by the compiled `_strided`, or by NumPy where that is not built and there is enough to copy."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

try:
    from formats.core import _strided

    _compiled: Any = _strided.box
except ImportError:  # there was no compiler
    _compiled = None

PAYS = 24 << 20  # bytes to be copied in all from which on importing NumPy takes less than it saves
LEAST = 16 << 10  # bytes of a box: NumPy copies smaller ones no faster
TILE = (
    32  # items of the output's innermost dimension that NumPy gets where they are apart in the source, each in a page of its own
)

_numpy: Any = None  # the module, or False where there is none
_planned = 0


def plan(nbytes: int) -> None:
    """So many bytes are going to be copied."""
    global _planned  # noqa: PLW0603 - of the process, as the import is
    _planned += nbytes


def box(target: memoryview, into: int, source: memoryview, base: int, dims: Sequence[tuple[int, int, int]]) -> bool:
    """``target[into + Σ i·step] = source[base + Σ i·stride]`` for ``dims`` of (size, stride, step) in items; whether it was done."""
    if _compiled is not None:
        *others, across = sorted(dims, key=_step, reverse=True)
        others.sort(key=_stride, reverse=True)
        _compiled(target, into, source, base, target.itemsize, (*others, across))
        return True
    return _by_numpy(target, into, source, base, dims)


def _stride(dim: tuple[int, int, int]) -> int:
    return dim[1]


def _step(dim: tuple[int, int, int]) -> int:
    return dim[2]


def _by_numpy(target: memoryview, into: int, source: memoryview, base: int, dims: Sequence[tuple[int, int, int]]) -> bool:
    global _numpy  # noqa: PLW0603 - imported once
    nbytes = prod(size for size, _, _ in dims) * target.itemsize
    if nbytes < LEAST or (_numpy is None and _planned < PAYS) or _numpy is False:
        return False
    if _numpy is None:
        try:
            import numpy
        except ImportError:
            _numpy = False
            return False
        _numpy = numpy
    kind = f"u{target.itemsize}"
    shape = [size for size, _, _ in dims]
    here = _numpy.ndarray(shape, kind, source, base * target.itemsize, [stride * target.itemsize for _, stride, _ in dims])
    there = _numpy.ndarray(shape, kind, target, into * target.itemsize, [step * target.itemsize for _, _, step in dims])
    axis = next((axis for axis, (size, stride, step) in enumerate(dims) if step == 1 < stride and size > TILE), None)
    if axis is None:
        there[...] = here
        return True
    for start in range(0, shape[axis], TILE):  # what one row takes of a cache line is still there when the next row comes
        tile = (*[slice(None)] * axis, slice(start, start + TILE))
        there[tile] = here[tile]
    return True
