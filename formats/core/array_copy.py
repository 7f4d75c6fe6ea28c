"""Strided copies by NumPy, where it is installed and there is enough to copy."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

PAYS = 24 << 20  # bytes to be copied in all from which on importing NumPy takes less than it saves
LEAST = 16 << 10  # bytes of a box: smaller ones are copied as fast without
TILE = 32  # items of the output's innermost dimension at a time where they are apart in the source, each in a page of its own

_numpy: Any = None  # the module, or False where there is none
_planned = 0


def plan(nbytes: int) -> None:
    """So many bytes are going to be copied."""
    global _planned  # noqa: PLW0603 - of the process, as the import is
    _planned += nbytes


def box(target: memoryview, into: int, source: memoryview, base: int, dims: Sequence[tuple[int, int, int]]) -> bool:
    """``target[into + Σ i·step] = source[base + Σ i·stride]`` for ``dims`` of (size, stride, step) in items; whether it was done."""
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
