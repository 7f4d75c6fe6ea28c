"""NumPy arrays as pickles describe them (``numpy.core.multiarray._reconstruct`` and its state), read as tensors without NumPy."""

from __future__ import annotations

from formats.core import dtype as dtypes
from formats.core.checkpoint import Global, Latin1, Record
from formats.core.dtype import DType
from formats.core.storage import BytesStorage, Storage, Swapped
from formats.core.tensor import TensorView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ARRAYS = frozenset(
    f"numpy.{core}{part}" for core in ("core.", "_core.") for part in ("multiarray._reconstruct", "numeric._frombuffer")
)
_CODES = {
    "f8": "float64", "f4": "float32", "f2": "float16", "i8": "int64", "i4": "int32", "i2": "int16", "i1": "int8",
    "u8": "uint64", "u4": "uint32", "u2": "uint16", "u1": "uint8", "b1": "bool", "c8": "complex64", "c16": "complex128",
}  # fmt: skip


def numpy_dtype(value: Any) -> tuple[DType, bool] | None:
    """(type, whether big-endian) of a ``numpy.dtype`` record; None for text, objects, structures and times."""
    if type(value) is not Record or value.name != "numpy.dtype" or not value.args or not isinstance(value.args[0], str):
        return None
    code = value.args[0]
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "<"
    name = _CODES.get(code.lstrip("<>|="))
    return None if name is None else (dtypes.BY_NAME[name], order == ">" or code[:1] == ">")


def numpy_tensor(value: Any, in_place: Callable[[Any], Storage | None] | None = None) -> TensorView | None:
    """A tensor over the array's own bytes; None where ``value`` is no numeric array record.

    ``in_place`` gives the storage of bytes that a reader left in the file.
    """
    if type(value) is not Record or value.name not in _ARRAYS:
        return None
    if value.name.endswith("_frombuffer"):  # (buffer, dtype, shape, order), protocol 5 in band
        if len(value.args) != 4:
            return None
        raw, described, shape, fortran = value.args[0], value.args[1], value.args[2], value.args[3] == "F"
        if type(raw) is Record and raw.name in ("builtins.bytearray", "bytearray") and raw.args:
            raw = raw.args[0]
    elif isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, described, fortran, raw = value.state
    else:
        return None
    found = numpy_dtype(described)
    if isinstance(raw, str):  # Python 2's bytes, decoded as text on the way in
        raw = raw.encode("latin-1" if isinstance(raw, Latin1) else "utf-8")
    storage: Storage | None = BytesStorage(raw) if isinstance(raw, bytes) else in_place(raw) if in_place else None
    if found is None or storage is None or not isinstance(shape, tuple) or type(fortran) not in (bool, int):
        return None
    dtype, big = found
    count = 1
    for size in shape:
        if type(size) is not int or size < 0:
            return None
        count *= size
    if count * dtype.itemsize != storage.nbytes:
        return None
    if big and dtype.swap > 1:
        storage = Swapped(storage, dtype.swap)
    strides: tuple[int, ...] | None = None
    if fortran:
        step, steps = 1, []
        for size in shape:
            steps.append(step)
            step *= max(size, 1)
        strides = tuple(steps)
    return TensorView(dtype, shape, storage, 0, strides)


def is_numpy(value: Any) -> bool:
    """Whether a record is one of NumPy's (array, scalar, dtype, random state)."""
    return type(value) is Record and type(value.callable) is Global and value.name.startswith("numpy.")
