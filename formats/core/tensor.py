"""Tensors as typed windows on storages. Nothing is read until a tensor's bytes are asked for.

Every bound is checked here, in exact integers, when the view is made, so that no reader can forget one.
"""

from __future__ import annotations

from formats.core.dtype import DType
from formats.core.errors import CorruptCheckpoint, LimitExceeded
from formats.core.storage import Storage, Window

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

MAX_DIMS = 64  # torch's own limit (c10::kVariableDims plus margin); numpy's is 64
# An expanded view (stride 0, overlaps) may name more bytes than its storage holds: at most this many times as many …
MAX_EXPANSION = 1024
# … unless the result stays under this many bytes.
EXPANSION_FLOOR = 64 << 20


class TensorView:
    """A strided window: ``shape`` and ``strides`` and ``offset`` in elements of ``dtype``, over ``storage``.

    ``parameter`` is whether the file says `torch.nn.Parameter`; ``conj`` and ``neg`` are torch's lazy bits: the storage holds the
    values before conjugation or negation. ``contiguous`` means row-major, as ``torch.Tensor.is_contiguous`` does.

    Raises `CorruptCheckpoint` where torch's bound
    ``offset + sum((size - 1) * stride) < numel`` (``at::native::checkInBoundsForStorage``) does not hold.
    """

    __slots__ = (
        "conj",
        "contiguous",
        "dtype",
        "neg",
        "numel",
        "offset",
        "parameter",
        "requires_grad",
        "shape",
        "storage",
        "strides",
    )

    def __init__(
        self,
        dtype: DType,
        shape: tuple[int, ...],
        storage: Storage,
        offset: int = 0,
        strides: tuple[int, ...] | None = None,
        *,
        requires_grad: bool = False,
        parameter: bool = False,
        conj: bool = False,
        neg: bool = False,
    ) -> None:
        self.dtype = dtype
        self.storage = storage
        self.shape = shape
        self.offset = offset
        self.requires_grad = requires_grad
        self.parameter = parameter
        self.conj = conj
        self.neg = neg
        integers(shape, "size")
        integers(strides or (), "stride")
        known = _EXTENTS.get((shape, strides))
        if known is None:
            known = _extent(shape, strides)
            if len(_EXTENTS) < 4096:
                _EXTENTS[shape, strides] = known
        self.numel, extent, self.strides, self.contiguous = known
        if type(offset) is not int or offset < 0:
            raise CorruptCheckpoint(f"tensor offset {offset!r:.40} is not a count")
        held = storage.nbytes // dtype.itemsize
        if offset + extent > held:
            if self.numel:
                raise CorruptCheckpoint(f"tensor reaches element {offset + extent - 1} of a storage that holds {held}")
            self.offset = 0  # torch lets an empty slice begin past the end; it has no bytes to be there
        nbytes = self.numel * dtype.itemsize
        if nbytes > EXPANSION_FLOOR and nbytes > MAX_EXPANSION * storage.nbytes:
            raise LimitExceeded(
                f"tensor of {nbytes} bytes expanded from a storage of {storage.nbytes}, at most {MAX_EXPANSION} times is read"
            )

    def on(self, storage: Storage) -> TensorView:
        """The same window on another storage of as many bytes: every bound holds there as it does here."""
        view = _new(TensorView)
        view.dtype = self.dtype
        view.storage = storage
        view.shape = self.shape
        view.offset = self.offset
        view.requires_grad = self.requires_grad
        view.parameter = self.parameter
        view.conj = self.conj
        view.neg = self.neg
        view.numel = self.numel
        view.strides = self.strides
        view.contiguous = self.contiguous
        return view

    @property
    def nbytes(self) -> int:
        """Size of the row-major bytes."""
        return self.numel * self.dtype.itemsize

    @property
    def location(self) -> str:
        return self.storage.location

    @property
    def plain(self) -> bool:
        """Whether the row-major bytes are a range of the storage as it is."""
        return self.contiguous and not self.conj and not self.neg

    def bytes_range(self) -> tuple[int, int]:
        """[start, stop) of the storage's bytes that the elements lie in."""
        start = self.offset * self.dtype.itemsize
        if not self.numel:
            return start, start
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        return start, (last + 1) * self.dtype.itemsize

    def row_major(self) -> Storage:
        """The values as row-major little-endian bytes, lazy bits resolved; a range of the file wherever that is possible."""
        if self.contiguous and not self.conj and not self.neg:
            start, nbytes = self.offset * self.dtype.itemsize, self.numel * self.dtype.itemsize
            return self.storage if nbytes == self.storage.nbytes else Window(self.storage, start, nbytes)
        from formats.core.packed import Packed

        return Packed(self)

    def chunks(self) -> Iterator[memoryview]:
        """The row-major little-endian bytes in pieces."""
        packed = self.row_major()
        return packed.chunks(0, packed.nbytes)

    def tobytes(self) -> bytes:
        """All row-major little-endian bytes in memory."""
        from formats.core.storage import read_all

        return read_all(self.row_major())

    def window(self) -> tuple[int, int, tuple[int, ...], tuple[int, ...], str]:
        """What makes two tensors tied: equal windows (over one storage) hold the same elements in the same order."""
        strides = tuple(s if n > 1 else 0 for n, s in zip(self.shape, self.strides, strict=True))
        return id(self.storage), self.offset, self.shape, strides, self.dtype.name

    def __repr__(self) -> str:
        return f"TensorView({self.dtype.name}, {list(self.shape)})"


class CompositeTensor:
    """A tensor that is several plain ones: sparse, quantised, nested, a subclass. ``kind`` names the layout.

    ``components`` are the plain tensors under fixed names; ``attributes`` are scalars (JSON-able); ``dtype`` and ``shape`` describe
    the whole as torch would.
    """

    __slots__ = ("attributes", "components", "dtype", "kind", "parameter", "requires_grad", "shape")

    def __init__(
        self,
        kind: str,
        dtype: DType,
        shape: tuple[int, ...],
        components: dict[str, TensorView],
        attributes: dict[str, Any] | None = None,
        *,
        requires_grad: bool = False,
        parameter: bool = False,
    ) -> None:
        self.kind = kind
        self.dtype = dtype
        self.shape = shape
        self.components = components
        self.attributes = attributes or {}
        self.requires_grad = requires_grad
        self.parameter = parameter

    @property
    def numel(self) -> int:
        total = 1
        for size in self.shape:
            total *= size
        return total

    @property
    def nbytes(self) -> int:
        """Size of all components' row-major bytes."""
        return sum(c.nbytes for c in self.components.values())

    @property
    def location(self) -> str:
        for component in self.components.values():
            return component.location
        return "meta"

    def __repr__(self) -> str:
        return f"CompositeTensor({self.kind}, {self.dtype.name}, {list(self.shape)})"


def integers(values: Iterable[Any], what: str) -> None:
    """Refuse what is no integer among a tensor's sizes, strides or offsets, before they are hashed.

    A tuple in a tuple may nest deeper than C code, which hashes it by recursion, survives; and ``(True, 2.0)`` equals ``(1, 2)``.
    """
    for kind in set(map(type, values)) - _INTEGER:
        raise CorruptCheckpoint(f"tensor {what} holds a {kind.__name__} where a count belongs")


_INTEGER = frozenset({int})
_Shape = tuple[int, ...]
_Extent = tuple[int, int, _Shape, bool]
# (shape, strides) → (numel, elements from the offset to the last one, strides, whether contiguous): a model has few shapes.
_EXTENTS: dict[tuple[_Shape, _Shape | None], _Extent] = {}


def _extent(shape: _Shape, strides: _Shape | None) -> _Extent:
    if len(shape) > MAX_DIMS:
        raise LimitExceeded(f"tensor of {len(shape)} dimensions, at most {MAX_DIMS} are read")
    numel = 1
    for size in shape:
        if size < 0:
            raise CorruptCheckpoint(f"tensor size {size} is not a count")
        numel *= size
    steps = row_major(shape) if strides is None else strides
    if len(steps) != len(shape):
        raise CorruptCheckpoint(f"tensor has {len(shape)} sizes but {len(steps)} strides")
    last = 0
    for size, stride in zip(shape, steps, strict=True):
        if stride < 0:
            raise CorruptCheckpoint(f"tensor stride {stride} is not a count")
        last += (size - 1) * stride
    contiguous = not numel or all(
        size == 1 or step == own for size, step, own in zip(shape, steps, row_major(shape), strict=True)
    )
    return numel, last + 1 if numel else 0, steps, contiguous


_new: Callable[[type[TensorView]], TensorView] = object.__new__
AnyTensor = TensorView | CompositeTensor


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of a row-major tensor, as torch gives them (sizes of 0 count as 1)."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
