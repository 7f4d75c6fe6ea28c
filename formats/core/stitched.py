"""Storages made of others: one after the other, or as boxes of a larger array. Nothing is read until asked for; memory is bounded."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from formats.core.dtype import DType
from formats.core.errors import CorruptCheckpoint
from formats.core.files import SourceFile
from formats.core.packed import FORMATS, Dim, copy_box
from formats.core.storage import Storage, plain_span
from formats.core.tensor import TensorView, row_major

BLOCK = 4 << 20  # bytes of a larger array made at once


class Joined:
    """The bytes of ``parts``, one after the other."""

    __slots__ = ("_starts", "location", "nbytes", "parts")

    def __init__(self, parts: Sequence[Storage]) -> None:
        self.parts = [part for part in parts if part.nbytes]
        self._starts = [0, *accumulate(part.nbytes for part in self.parts)]
        self.nbytes = self._starts[-1]
        self.location = parts[0].location if parts else "cpu"

    def plain_span(self) -> tuple[SourceFile, int] | None:
        return plain_span(self.parts[0]) if len(self.parts) == 1 else None

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        at = bisect_right(self._starts, start) - 1
        while start < stop:
            begin, part = self._starts[at], self.parts[at]
            end = min(stop - begin, part.nbytes)
            yield from part.chunks(start - begin, end)
            start = begin + end
            at += 1


class Tile(NamedTuple):
    """A box of a larger array: where it begins there, in elements, and its values."""

    offsets: tuple[int, ...]
    values: TensorView


def assemble(dtype: DType, shape: tuple[int, ...], tiles: Sequence[Tile]) -> Storage:
    """The row-major bytes of the array of ``shape`` that ``tiles`` make up.

    Raises `CorruptCheckpoint` where they lie outside, overlap or leave something out.
    """
    numel = 1
    for size in shape:
        numel *= size
    _check(dtype, shape, numel, tiles)
    tiles = sorted((tile for tile in tiles if tile.values.numel), key=lambda tile: tile.offsets)
    if all(tile.values.shape[1:] == shape[1:] for tile in tiles):  # rows: nothing is interleaved
        return Joined([tile.values.row_major() for tile in tiles])
    return Tiled(dtype, shape, numel, tiles)


def _check(dtype: DType, shape: tuple[int, ...], numel: int, tiles: Sequence[Tile]) -> None:
    held = 0
    for offsets, values in tiles:
        if len(offsets) != len(shape) or len(values.shape) != len(shape) or values.dtype is not dtype:
            raise CorruptCheckpoint(f"chunk of {values} at {list(offsets)} belongs to no {dtype.name} of shape {list(shape)}")
        if any(at < 0 or at + n > size for at, n, size in zip(offsets, values.shape, shape, strict=True)):
            raise CorruptCheckpoint(f"chunk of shape {list(values.shape)} at {list(offsets)} lies outside shape {list(shape)}")
        held += values.numel
    if held != numel:
        raise CorruptCheckpoint(f"chunks hold {held} of the {numel} elements of shape {list(shape)}")
    solid = [tile for tile in tiles if tile.values.numel]
    if len(solid) < 2:
        return
    # Sweep along the dimension that tells most of them apart.
    along = max(range(len(shape)), key=lambda dim: len({tile.offsets[dim] for tile in solid}))
    solid.sort(key=lambda tile: tile.offsets[along])
    active: list[Tile] = []
    for tile in solid:
        active = [other for other in active if other.offsets[along] + other.values.shape[along] > tile.offsets[along]]
        for other in active:
            if all(
                a < b + m and b < a + n
                for a, n, b, m in zip(tile.offsets, tile.values.shape, other.offsets, other.values.shape, strict=True)
            ):
                raise CorruptCheckpoint(
                    f"chunks at {list(other.offsets)} and {list(tile.offsets)} of shape {list(shape)} overlap"
                )
        active.append(tile)


class Tiled:
    """The row-major bytes of an array that boxes make up, in blocks of at most some `BLOCK` bytes."""

    __slots__ = ("dtype", "location", "nbytes", "shape", "tiles")

    def __init__(self, dtype: DType, shape: tuple[int, ...], numel: int, tiles: list[Tile]) -> None:
        self.dtype = dtype
        self.shape = shape
        self.nbytes = numel * dtype.itemsize
        self.tiles = tiles
        self.location = tiles[0].values.location if tiles else "cpu"

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        width = self.dtype.itemsize
        steps = row_major(self.shape)
        budget = BLOCK // width
        at, last = start // width, -(-stop // width)
        while at < last:
            # The outermost dimension whose slices begin here and fit; the box runs on along it.
            room = min(last - at, budget)
            dim = next(d for d, step in enumerate(steps) if step == 1 or (at % step == 0 and step <= room))
            index = [at // step % size for step, size in zip(steps, self.shape, strict=True)]
            count = min(max(room // steps[dim], 1), self.shape[dim] - index[dim])
            block = self._block(index[: dim + 1], count)
            begin = at * width
            yield memoryview(block)[max(start - begin, 0) : stop - begin]
            at += count * steps[dim]

    def _block(self, first: list[int], count: int) -> bytearray:
        """The box that begins at index ``first``, ``count`` long in its last dimension and whole in those after it."""
        dim = len(first) - 1
        low = (*first, *(0 for _ in self.shape[dim + 1 :]))
        sizes = (*(1 for _ in first[:-1]), count, *self.shape[dim + 1 :])
        steps = row_major(sizes)
        width = self.dtype.itemsize
        numel = 1
        for size in sizes:
            numel *= size
        block = bytearray(numel * width)
        item, pair = (8, 2) if width == 16 else (width, 1)  # no memory view holds 16-byte items: move them as pairs
        target = memoryview(block).cast(FORMATS[item])
        for offsets, view in self.tiles:
            begin = tuple(max(a, b) for a, b in zip(low, offsets, strict=True))
            end = tuple(min(a + n, b + m) for a, n, b, m in zip(low, sizes, offsets, view.shape, strict=True))
            if any(b >= e for b, e in zip(begin, end, strict=True)):
                continue
            shape = tuple(e - b for b, e in zip(begin, end, strict=True))
            inner = sum((b - o) * s for b, o, s in zip(begin, offsets, view.strides, strict=True))
            part = TensorView(view.dtype, shape, view.storage, view.offset + inner, view.strides, conj=view.conj, neg=view.neg)
            source = memoryview(part.tobytes()).cast(FORMATS[item])
            into = sum((b - a) * s for b, a, s in zip(begin, low, steps, strict=True)) * pair
            dims = [Dim(n, s * pair, t * pair) for n, s, t in zip(shape, row_major(shape), steps, strict=True) if n != 1]
            if pair == 2:
                dims.append(Dim(2, 1, 1))
            copy_box(target, into, source, 0, _merged(dims))
        return block


def _merged(dims: list[Dim]) -> list[Dim]:
    """Neighbouring dimensions in one where both sides run on from one into the other."""
    merged: list[Dim] = []
    for dim in dims:
        outer = merged[-1] if merged else None
        if outer and outer.stride == dim.size * dim.stride and outer.step == dim.size * dim.step:
            merged[-1] = Dim(outer.size * dim.size, dim.stride, dim.step)
        else:
            merged.append(dim)
    return merged
