"""The row-major bytes of any strided window, made block by block with the standard library alone.

A block is a box of the (merged) dimensions. Its source is fetched with as few reads as the strides allow, never reading through a gap
that costs more than another read would, and is then copied element run by element run: slice assignment of typed memory views runs in C.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

from formats.core.errors import Unsupported
from formats.core.storage import Storage, plain_span

if TYPE_CHECKING:
    from formats.core.tensor import TensorView

SMALL_BLOCK = 1 << 20  # bytes of output made at once where the source of a block lies together: stays in the cache
BLOCK = 16 << 20  # … and where it is scattered: longer runs, fewer reads
WINDOW = 16 << 20  # bytes of source held at once
GAP = 8 << 10  # bytes: reading through a smaller gap is cheaper than a second read
_FORMATS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_FLIP_SIGN = bytes(b ^ 0x80 for b in range(256))
_UNSIGNED = frozenset({"float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz", "float4_e2m1fn_x2"})  # no sign bit, or −0 is NaN

Box = list[tuple[int, int]]  # (size, stride in items) of each dimension, outermost first


class Packed:
    """The ``view.nbytes`` row-major little-endian bytes of ``view``; lazy conj and neg bits are resolved.

    Memory: one block of output and one window of source (`BLOCK`, `WINDOW`), whatever the size. Any byte range may be asked for.
    """

    __slots__ = ("_base", "_box", "_item", "inner", "location", "nbytes", "view")

    def __init__(self, view: TensorView) -> None:
        self.view = view
        self.inner: Storage = view.storage
        self.nbytes = view.nbytes
        self.location = view.storage.location
        if view.neg and (view.dtype.kind in ("bool", "quantized") or view.dtype.name in _UNSIGNED):
            raise Unsupported(f"a negated tensor of {view.dtype.name}: its values have no negative")
        item = view.dtype.itemsize
        box = [(n, s) for n, s in zip(view.shape, view.strides, strict=True) if n != 1]
        self._base = view.offset
        if item not in _FORMATS:  # 16-byte complex numbers are moved as pairs
            box = [(n, s * 2) for n, s in box] + [(2, 1)]
            item, self._base = item // 2, self._base * 2
        self._item = item
        self._box = _merged(box)

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        """Bytes ``[start, stop)`` in order; each piece is valid until the next is asked for."""
        if start >= stop:
            return
        whole = self.view.dtype.itemsize  # lazy bits are resolved for whole elements
        low, high = start - start % whole, stop + -stop % whole
        for at, block in self._blocks(low // self._item, high // self._item):
            begin = at * self._item
            if self.view.conj or self.view.neg:
                self._resolve(block)
            yield memoryview(block)[max(start - begin, 0) : stop - begin]

    def _blocks(self, first: int, last: int) -> Iterator[tuple[int, bytearray]]:
        """(linear index of the first item, bytes) of consecutive boxes that cover the items ``[first, last)``."""
        box = self._box
        inner = [1] * (len(box) + 1)  # items below each dimension
        for d in range(len(box) - 1, -1, -1):
            inner[d] = inner[d + 1] * box[d][0]
        source = _Source(self.inner, self._item)
        even = 2 if self.view.dtype.itemsize != self._item else 1
        budget = self._budget(inner)
        at = first
        while at < last:
            room = min(last - at, budget)
            # The outermost dimension along which whole boxes fit and begin here.
            d = next((d for d in range(len(box)) if at % inner[d + 1] == 0 and inner[d + 1] <= room), len(box) - 1)
            size = box[d][0]
            index = at // inner[d + 1] % size
            count = min(room // inner[d + 1], size - index)
            if inner[d + 1] == 1 and count > even:
                count -= count % even
            base = self._base + sum((at // inner[k + 1] % box[k][0]) * box[k][1] for k in range(d + 1))
            out = bytearray(count * inner[d + 1] * self._item)
            source.fill(out, base, [(count, box[d][1]), *box[d + 1 :]])
            yield at, out
            at += count * inner[d + 1]

    def _budget(self, inner: list[int]) -> int:
        """Items to a block: few where a small block's source lies together, more where it is spread over the storage."""
        small = SMALL_BLOCK // self._item
        d = next((d for d in range(len(self._box)) if inner[d + 1] <= small), len(self._box) - 1)
        taken = [(min(small // inner[d + 1], self._box[d][0]), self._box[d][1]), *self._box[d + 1 :]]
        return small if _extent(taken) <= 8 * small else BLOCK // self._item

    def _resolve(self, block: bytearray) -> None:
        """Apply the lazy bits to whole elements in place."""
        view, step = self.view, self.view.dtype.itemsize
        signs: set[int] = set()  # bytes of an element whose top bit is a sign to flip
        if view.dtype.kind == "complex":
            if view.neg:
                signs ^= {step // 2 - 1, step - 1}
            if view.conj:
                signs ^= {step - 1}
        elif view.neg and view.dtype.kind == "float":
            signs = {step - 1}
        elif view.neg:
            values = array({1: "B", 2: "H", 4: "I", 8: "Q"}[step], bytes(block))
            mask = (1 << 8 * step) - 1
            block[:] = memoryview(array(values.typecode, [-v & mask for v in values])).cast("B")
        for at in signs:
            block[at::step] = block[at::step].translate(_FLIP_SIGN)


class _Source:
    """Fetches boxes of a storage's items; small storages are read once."""

    def __init__(self, storage: Storage, item: int) -> None:
        self.storage = storage
        self.item = item
        self.held: tuple[int, memoryview] | None = None  # (first item, bytes) of the last window
        # Where every read starts from the beginning (a deflated record), reading through gaps is cheaper than a second read.
        self.gap = 1 << 62 if plain_span(storage) is None and getattr(storage, "sequential", False) else GAP

    def fill(self, out: bytearray, base: int, box: Box) -> None:
        """Write the items of ``box`` at ``base`` (in items of the storage) row-major into ``out``."""
        steps, step = [], 1
        for size, _ in reversed(box):
            steps.append(step)
            step *= size
        target = memoryview(out).cast(_FORMATS[self.item])
        dims = [(n, s, t) for (n, s), t in zip(box, reversed(steps), strict=True) if n != 1]
        self._fill(target, 0, base, dims)

    def _fill(self, target: memoryview, into: int, base: int, dims: list[tuple[int, int, int]]) -> None:
        """``dims`` are (size, stride in the source, stride in the target); boxes whose source has wide gaps are split at them."""
        work = [(into, base, dims)]
        while work:
            into, base, dims = work.pop()
            extent = 1 + sum((n - 1) * s for n, s, _ in dims)
            held = self._held(base, extent)
            if held is not None:
                _copy(target, into, held, 0, dims)
                continue
            widest = max(range(len(dims)), key=lambda d: dims[d][1])
            size, stride, step = dims[widest]
            rest = dims[:widest] + dims[widest + 1 :]
            below = 1 + sum((n - 1) * s for n, s, _ in rest)
            fits = WINDOW // self.item
            if (stride - below) * self.item > self.gap or below > fits:
                parts = ((i, 1) for i in range(size))
            elif extent > fits:
                count = max((fits - below) // max(stride, 1) + 1, 1)
                parts = ((i, min(count, size - i)) for i in range(0, size, count))
            else:
                window = self._read(base, extent)
                _copy(target, into, window, 0, dims)
                continue
            for i, n in parts:
                piece = rest if n == 1 else [*dims[:widest], (n, stride, step), *dims[widest + 1 :]]
                work.append((into + i * step, base + i * stride, piece))
            work.reverse() if len(work) == size else None

    def _held(self, base: int, extent: int) -> memoryview | None:
        if self.held is None:
            return None
        first, window = self.held
        return window[base - first :] if first <= base and base + extent <= first + len(window) else None

    def _read(self, base: int, extent: int) -> memoryview:
        raise NotImplementedError


def _merged(box: Box) -> Box:
    return box


def _extent(box: Box) -> int:
    return 1 + sum((n - 1) * s for n, s in box)


def _copy(target: memoryview, into: int, source: memoryview, base: int, dims: list[tuple[int, int, int]]) -> None:
    pass
