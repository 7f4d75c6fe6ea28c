"""The row-major bytes of any strided window, made block by block.

A block is a box of the window's (merged) dimensions. Its source is gathered with as few reads as the strides allow, never reading
through a gap that costs more than another read would, and is then copied by a compiled function, or where that is not built by NumPy
(`array_copy.py`). Where neither is there, or so little is to be copied that importing NumPy does not pay, it is copied run by run along the
longest dimension: slice assignment of typed memory views runs in C.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Literal, NamedTuple

from formats.core import array_copy
from formats.core.buffers import Scratch
from formats.core.crc import crc32_for
from formats.core.errors import CorruptCheckpoint, Unsupported
from formats.core.storage import Storage, anywhere, plain_span

if TYPE_CHECKING:
    from formats.core.tensor import TensorView

SMALL_BLOCK = 1 << 20  # bytes of output made at once where a block's source lies together: stays in the cache
BLOCK = 16 << 20  # … and where it is scattered: longer runs, fewer reads
WINDOW = 16 << 20  # bytes of source held at once
GAP = 8 << 10  # bytes: reading through a smaller gap is cheaper than a second read
FORMATS: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
_FLIP_SIGN = bytes(byte ^ 0x80 for byte in range(256))
# No sign bit, two values a byte, or a sign bit that makes NaN of zero.
_NO_NEGATIVE = frozenset({"float8_e8m0fnu", "float4_e2m1fn_x2", "float8_e4m3fnuz", "float8_e5m2fnuz"})


class Dim(NamedTuple):
    """One dimension of a box: ``size``, and ``stride`` and ``step`` in items of the source and of the output."""

    size: int
    stride: int
    step: int


class Packed:
    """The ``view.nbytes`` row-major little-endian bytes of ``view``; lazy conj and neg bits are resolved.

    Holds one block of output and one window of source at most (`BLOCK`, `WINDOW`), whatever the tensor's size.
    Raises `Unsupported` for a negated tensor of a type that has no negatives.
    """

    __slots__ = ("_dims", "_first", "_item", "inner", "inner_crc", "location", "nbytes", "view")

    def __init__(self, view: TensorView) -> None:
        if view.neg and (view.dtype.kind in ("bool", "quantized") or view.dtype.name in _NO_NEGATIVE):
            raise Unsupported(f"a negated tensor of {view.dtype.name}, which has no negatives")
        self.view = view
        self.inner: Storage = view.storage
        self.inner_crc: int | None = None  # of all its bytes, where making the blocks has read each of them once and in order
        self.nbytes = view.nbytes
        self.location = view.storage.location
        pairs = [(n, s) for n, s in zip(view.shape, view.strides, strict=True) if n != 1]
        self._item, self._first = view.dtype.itemsize, view.offset
        if self._item == 16:  # no memory view holds 16-byte items: move complex numbers as pairs
            pairs = [*((n, 2 * s) for n, s in pairs), (2, 1)]
            self._item, self._first = 8, 2 * self._first
        self._dims = _row_major(pairs)
        array_copy.plan(self.nbytes)

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        """Bytes ``[start, stop)`` in order; each piece is valid until the next is asked for."""
        if start >= stop:  # an empty tensor may have any strides
            return
        whole = self.view.dtype.itemsize  # lazy bits belong to whole elements
        low, high = start - start % whole, stop + -stop % whole
        for at, block in self._blocks(low // self._item, high // self._item):
            begin = at * self._item
            if self.view.conj or self.view.neg:
                self._resolve(block)
            yield block[max(start - begin, 0) : stop - begin]

    def _blocks(self, first: int, last: int) -> Iterator[tuple[int, memoryview]]:
        """(row-major index of the first item, bytes) of consecutive boxes that make up the items ``[first, last)``."""
        dims = self._dims
        scratch = Scratch()
        source = _Source(self.inner, self._item)
        source.keep(self._first, dims)
        budget = self._budget(source)
        at = first
        while at < last:
            room = min(last - at, budget)
            # The outermost dimension whose boxes begin here and fit; the innermost always does, its step being one item (or a pair).
            d = next((d for d, dim in enumerate(dims) if at % dim.step == 0 and dim.step <= room), len(dims) - 1)
            size, _, step = dims[d]
            count = min(room // step, size - at // step % size) if room >= step else room
            base = self._first + sum(at // dim.step % dim.size * dim.stride for dim in dims[: d + 1])
            block = scratch.room(count * step * self._item)
            source.fill(block, base, [Dim(count, dims[d].stride, step), *dims[d + 1 :]])
            yield at, block
            at += count * step
        if source.summed == self.inner.nbytes:
            self.inner_crc = source.crc
        source.close()
        scratch.close()  # whoever does not ask for more may still have the last block

    def _budget(self, source: _Source) -> int:
        """Items to a block: few where a small block's source lies together or is held, many where it is spread over the storage."""
        small = SMALL_BLOCK // self._item
        if source.kept is not None:
            return small
        if source.sequential:
            return 4 * BLOCK // self._item  # each block costs a pass over the storage
        extent, left = 1, small
        for dim in reversed(self._dims):
            extent += (min(dim.size, left) - 1) * dim.stride
            left = max(left // dim.size, 1)
        return small if extent <= 8 * small else BLOCK // self._item

    def _resolve(self, block: memoryview) -> None:
        """Apply the lazy bits in place, as ``torch.Tensor.resolve_conj`` and ``resolve_neg`` do."""
        view, width = self.view, self.view.dtype.itemsize
        signs: set[int] = set()  # the bytes of an element whose top bit is a sign to flip
        if view.dtype.kind == "complex":
            signs = {width // 2 - 1, width - 1} if view.neg else set()
            signs ^= {width - 1} if view.conj else set()
        elif view.neg and view.dtype.kind == "float":
            signs = {width - 1}
        elif view.neg:  # two's complement
            values = array(FORMATS[width], bytes(block))
            mask = (1 << 8 * width) - 1
            block[:] = memoryview(array(values.typecode, [-value & mask for value in values])).cast("B")
        for at in signs:
            block[at::width] = bytes(block[at::width]).translate(_FLIP_SIGN)


def _row_major(pairs: list[tuple[int, int]]) -> list[Dim]:
    """(size, stride) pairs as dimensions of a row-major output, neighbours merged where one runs on into the other."""
    merged: list[tuple[int, int]] = []
    for size, stride in pairs:
        if merged and merged[-1][1] == size * stride:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    dims, step = [], 1
    for size, stride in reversed(merged or [(1, 1)]):
        dims.append(Dim(size, stride, step))
        step *= size
    return dims[::-1]


class _Source:
    """Gathers boxes of a storage's items and copies them into place."""

    def __init__(self, storage: Storage, item: int) -> None:
        self.storage = storage
        self.item = item
        # What is no plain range of a file (a deflated record) is read forward only, through any gap.
        self.sequential = not anywhere(storage)
        self.gap = storage.nbytes if self.sequential else GAP
        self.kept: tuple[int, memoryview] | None = None
        self._scratch = Scratch()
        self._crc32 = crc32_for(storage.nbytes)
        self.crc = 0
        self.summed = 0  # bytes from the storage's start that `crc` is of; −1 where they were not read one after the other

    def keep(self, base: int, dims: list[Dim]) -> None:
        """Read the window's whole range once where it is small: blocks of expanded or overlapping windows share their source."""
        extent = 1 + sum((d.size - 1) * d.stride for d in dims)
        if extent * self.item <= WINDOW:
            window = self._scratch.room(extent * self.item)
            self._read(base, window)
            self.kept = base, window.cast(FORMATS[self.item])

    def close(self) -> None:
        """Nothing more is to be gathered."""
        self._scratch.close()

    def fill(self, block: memoryview, base: int, dims: list[Dim]) -> None:
        """Write the box of ``dims`` that begins at item ``base`` into ``block``."""
        target = block.cast(FORMATS[self.item])
        dims = [d for d in dims if d.size != 1]
        if self.kept is not None:
            first, window = self.kept
            copy_box(target, 0, window, base - first, dims)
            return
        todo = [(0, base, dims)]
        while todo:
            into, base, dims = todo.pop()
            together, apart, extent = self._apart(dims)
            held = extent
            for d in apart:
                held *= d.size
            if held * self.item <= WINDOW or not dims:
                window, gathered = self._gather(base, together, apart, extent)
                copy_box(target, into, window, 0, gathered)
                continue
            # Too much to hold: take the widest dimension in parts (in reverse, since the last is done first).
            widest = max(apart or together, key=lambda d: d.stride)
            others = [d for d in dims if d is not widest]
            if apart:
                count = max(WINDOW // self.item // (held // widest.size), 1)
            else:
                count = max((WINDOW // self.item - (extent - (widest.size - 1) * widest.stride)) // widest.stride + 1, 1)
            for i in reversed(range(0, widest.size, count)):
                n = min(count, widest.size - i)
                part = others if n == 1 else [*others, widest._replace(size=n)]
                todo.append((into + i * widest.step, base + i * widest.stride, part))

    def _apart(self, dims: list[Dim]) -> tuple[list[Dim], list[Dim], int]:
        """Dimensions that one read spans, those with too wide gaps between, and the extent of the former in items."""
        by_stride = sorted(dims, key=lambda d: d.stride)
        extent = 1
        for k, d in enumerate(by_stride):
            if (d.stride - extent) * self.item > self.gap:
                return by_stride[:k], by_stride[k:], extent
            extent += (d.size - 1) * d.stride
        return by_stride, [], extent

    def _gather(self, base: int, together: list[Dim], apart: list[Dim], extent: int) -> tuple[memoryview, list[Dim]]:
        """One read of ``extent`` items for each index of the dimensions ``apart``, laid side by side; the box's dimensions there."""
        size, moved = extent, []
        for d in apart:
            moved.append(d._replace(stride=size))
            size *= d.size
        raw = self._scratch.room(size * self.item)
        width, at = extent * self.item, 0
        for index in product(*(range(d.size) for d in reversed(apart))):
            begin = base + sum(i * d.stride for i, d in zip(index, reversed(apart), strict=True))
            self._read(begin, raw[at : at + width])
            at += width
        return raw.cast(FORMATS[self.item]), together + moved

    def _read(self, base: int, into: memoryview) -> None:
        """Fill ``into`` with the bytes from item ``base``."""
        start, done = base * self.item, 0
        span = plain_span(self.storage)
        if span is not None:
            span[0].read_into(span[1] + start, into)
            done = len(into)
        else:
            for piece in self.storage.chunks(start, start + len(into)):
                into[done : done + len(piece)] = piece
                done += len(piece)
        if done != len(into):
            raise CorruptCheckpoint(f"storage gave {done} bytes where {len(into)} were asked for")
        if self.summed == start:
            self.crc = self._crc32(into, self.crc)
            self.summed += done
        else:
            self.summed = -1


def copy_box(target: memoryview, into: int, source: memoryview, base: int, dims: list[Dim]) -> None:
    """``target[into + Σ i·step] = source[base + Σ i·stride]`` for all indices of the box, in runs along one dimension."""
    if not dims:
        target[into] = source[base]
        return
    if array_copy.box(target, into, source, base, dims):
        return
    run = max(dims, key=lambda d: d.size * (8 if d.stride == d.step == 1 else 1))
    others = sorted((d for d in dims if d is not run), key=lambda d: d.size)
    size, stride, step = run
    last = others.pop() if others else Dim(1, 0, 0)
    stride_stop, step_stop = (size - 1) * stride + 1, (size - 1) * step + 1
    for index in product(*(range(d.size) for d in others)):
        here, there = base, into
        for i, d in zip(index, others, strict=True):
            here += i * d.stride
            there += i * d.step
        for _ in range(last.size):
            if stride:
                target[there : there + step_stop : step] = source[here : here + stride_stop : stride]
            else:
                target[there : there + step_stop : step] = _repeated(source[here : here + 1], size)
            here += last.stride
            there += last.step


def _repeated(item: memoryview, count: int) -> memoryview:
    return memoryview(item.tobytes() * count).cast(FORMATS[item.itemsize])
