"""How far the values of two tensors of one shape are apart, streamed in blocks: equal bytes cost a comparison of memory, no arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from formats.core.small_floats import EIGHT_BITS, table
from formats.core.tensor import AnyTensor, CompositeTensor, TensorView

if TYPE_CHECKING:
    import numpy

BLOCK = 1 << 17  # elements compared at once
_CODES = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "i1",
    "uint64": "<u8", "uint32": "<u4", "uint16": "<u2", "uint8": "u1", "bool": "u1", "complex64": "<c8", "complex128": "<c16",
    "quint8": "u1", "qint8": "i1", "qint32": "<i4",
}  # fmt: skip


@dataclass(slots=True)
class Deviation:
    """``differing`` of ``numel`` elements differ in value, by at most ``max_abs``, first at ``first`` (a row-major index).

    NaN equals NaN and -0.0 equals 0.0; ``bits`` counts elements whose values are equal and whose bytes are not. ``max_abs`` is None
    where the largest difference is no number (NaN against a number), and for values that have no distance.
    """

    numel: int
    differing: int = 0
    max_abs: float | int | None = 0
    bits: int = 0
    nan: int = 0  # elements that are NaN on one side alone
    first: int | None = None

    @property
    def equal(self) -> bool:
        """Equal in every byte."""
        return not self.differing and not self.bits

    def add(self, other: Deviation, offset: int) -> None:
        """Count what ``other`` found in the elements from ``offset``."""
        if other.first is not None and self.first is None:
            self.first = offset + other.first
        self.differing += other.differing
        self.bits += other.bits
        self.nan += other.nan
        if other.max_abs is not None and self.max_abs is not None:
            self.max_abs = max(self.max_abs, other.max_abs)

    def text(self) -> str:
        if not self.differing:
            return (
                f"{self.bits:,} of {self.numel:,} values are equal but not in their bytes (signs of zero, NaN payloads)"
                if self.bits
                else ""
            )
        said = f"{self.differing:,} of {self.numel:,} values differ"
        if self.max_abs is not None:
            said += f", max abs {self.max_abs:.6g}" if isinstance(self.max_abs, float) else f", max abs {self.max_abs}"
        if self.nan:
            said += f", {self.nan:,} NaN on one side alone"
        return said

    def document(self) -> dict[str, Any]:
        return {
            "numel": self.numel, "differing": self.differing, "max_abs": self.max_abs, "equal_but_bytes": self.bits,
            "nan_on_one_side": self.nan, "first": self.first,
        }  # fmt: skip


def deviation(a: AnyTensor, b: AnyTensor) -> Deviation | None:
    """The difference of two tensors of one shape; None where their values cannot be set against each other (another layout)."""
    if isinstance(a, CompositeTensor) or isinstance(b, CompositeTensor):
        return _composite(a, b)
    found = Deviation(a.numel)
    if a.dtype.name not in _known() or b.dtype.name not in _known():
        if a.dtype is not b.dtype:
            return None
    at = 0
    for ours, theirs, elements in _blocks(a, b):
        if a.dtype is not b.dtype or ours != theirs:  # bytearrays: one memcmp
            found.add(_compare(ours, theirs, a.dtype.name, b.dtype.name, elements), at)
        at += elements
    return found


def _known() -> frozenset[str]:
    return frozenset((*_CODES, *EIGHT_BITS, "bfloat16", "complex32", "float4_e2m1fn_x2"))


def _composite(a: AnyTensor, b: AnyTensor) -> Deviation | None:
    """Component by component: kind, attributes and the components' shapes and dtypes must agree."""
    if not isinstance(a, CompositeTensor) or not isinstance(b, CompositeTensor) or a.kind != b.kind or a.dtype is not b.dtype:
        return None
    if list(a.components) != list(b.components):
        return None
    found = Deviation(0)
    if a.attributes != b.attributes:
        found.differing, found.max_abs = 1, None
    for name, ours in a.components.items():
        theirs = b.components[name]
        if ours.shape != theirs.shape or ours.dtype is not theirs.dtype:
            return None
        one = deviation(ours, theirs)
        if one is None:
            return None
        found.add(one, found.numel)
        found.numel += ours.numel
    return found


def _blocks(a: TensorView, b: TensorView) -> Iterator[tuple[bytearray, bytearray, int]]:
    """Row-major bytes of both in step, `BLOCK` elements at a time."""
    wide, other = a.dtype.itemsize, b.dtype.itemsize
    ours, theirs = _portions(a, BLOCK * wide), _portions(b, BLOCK * other)
    for portion in ours:
        yield portion, next(theirs), len(portion) // wide


def _portions(tensor: TensorView, nbytes: int) -> Iterator[bytearray]:
    """The row-major bytes in portions of ``nbytes``, the last one shorter."""
    portion = bytearray()
    for piece in tensor.chunks():
        at = 0
        while at < len(piece):
            step = min(nbytes - len(portion), len(piece) - at)
            portion += piece[at : at + step]
            at += step
            if len(portion) == nbytes:
                yield portion
                portion = bytearray()
    if portion:
        yield portion


def _compare(a: bytearray, b: bytearray, name: str, other: str, elements: int) -> Deviation:
    import numpy as np

    found = Deviation(elements)
    if name not in _known():
        width = len(a) // elements
        odd = (np.frombuffer(a, "u1").reshape(-1, width) != np.frombuffer(b, "u1").reshape(-1, width)).any(axis=1)
        found.differing, found.max_abs, found.first = int(odd.sum()), None, int(odd.argmax())
        return found
    x, y = _values(a, name), _values(b, other)
    if name == other and x.size == elements:
        width = len(a) // elements
        same = (np.frombuffer(a, "u1").reshape(-1, width) == np.frombuffer(b, "u1").reshape(-1, width)).all(axis=1)
    else:
        same = np.zeros(x.size, dtype=bool)
    with np.errstate(invalid="ignore"):
        equal = _equal(x, y)
    both = np.isnan(x) & np.isnan(y) if x.dtype.kind in "fc" and y.dtype.kind in "fc" else np.zeros(x.size, dtype=bool)
    equal = equal | both
    odd = ~equal
    found.differing = int(odd.sum())
    found.bits = int((equal & ~same).sum()) if name == other and x.size == elements else 0
    if not found.differing:
        return found
    per = max(x.size // elements, 1)
    found.first = int(odd.argmax()) // per
    if x.dtype.kind in "fc" or y.dtype.kind in "fc":
        with np.errstate(all="ignore"):
            apart = np.abs(_wide(x[odd]) - _wide(y[odd]))
        found.nan = int((np.isnan(x[odd]) != np.isnan(y[odd])).sum()) if x.dtype.kind in "fc" and y.dtype.kind in "fc" else 0
        known = apart[~np.isnan(apart)]
        found.max_abs = float(known.max()) if known.size else None
        if known.size == 0:
            found.max_abs = None
    else:
        found.max_abs = _integers_apart(x[odd], y[odd])
    return found


def _wide(values: numpy.ndarray[Any, Any]) -> numpy.ndarray[Any, Any]:
    return values.astype("c16" if values.dtype.kind == "c" else "f8")


def _equal(x: numpy.ndarray[Any, Any], y: numpy.ndarray[Any, Any]) -> numpy.ndarray[Any, Any]:
    """Equal in value. NumPy's own comparison of uint64 with int64 goes by float64; ours is exact."""
    import numpy as np

    if {x.dtype.kind, y.dtype.kind} == {"i", "u"}:
        signed, unsigned = (x, y) if x.dtype.kind == "i" else (y, x)
        return np.asarray((signed >= 0) & (signed.astype("u8") == unsigned.astype("u8")))
    return np.asarray(x == y)


def _integers_apart(x: numpy.ndarray[Any, Any], y: numpy.ndarray[Any, Any]) -> int:
    """The largest |x - y|, exact for every 64-bit integer."""
    import numpy as np

    if x.dtype.kind == y.dtype.kind:
        wide = "i8" if x.dtype.kind == "i" else "u8"
        x, y = x.astype(wide), y.astype(wide)
        apart = np.where(x > y, x.astype("u8") - y.astype("u8"), y.astype("u8") - x.astype("u8"))  # modulo 2**64, so exact
        return int(apart.max())
    return max(abs(int(p) - int(q)) for p, q in zip(x.tolist(), y.tolist(), strict=True))


def _values(data: bytearray, name: str) -> numpy.ndarray[Any, Any]:
    import numpy as np

    if name in _CODES:
        return np.frombuffer(data, _CODES[name])
    if name == "bfloat16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    if name == "complex32":
        parts = np.frombuffer(data, "<f2").astype("<f4")
        return parts.view("<c8")
    codes = np.frombuffer(data, "u1")
    if name == "float4_e2m1fn_x2":  # the low half of a byte is the first element
        codes = np.stack([codes & 15, codes >> 4], axis=1).reshape(-1)
    return np.asarray(np.array(table(name), dtype="f4")[codes])
