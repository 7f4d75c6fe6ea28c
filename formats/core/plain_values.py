"""What stands for an object of a foreign class where only plain data may be written: its values, without its class."""

from __future__ import annotations

import struct

from formats.core.checkpoint import Global, Latin1, Record
from formats.core.numpy_record import numpy_dtype, numpy_tensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SCALARS = frozenset({"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"})
_CODES = {
    "float64": "d", "float32": "f", "float16": "e", "int64": "q", "int32": "i", "int16": "h", "int8": "b", "uint64": "Q", "uint32": "I",
    "uint16": "H", "uint8": "B", "bool": "?",
}  # fmt: skip


def plain(record: Record) -> tuple[Any, str]:
    """(plain data, what it is) for a record that no loader of plain data would make again."""
    number = numpy_number(record)
    if number is not None:
        return number, f"a Python {type(number).__name__}"
    array = numpy_tensor(record)
    if array is not None:
        return array, "a tensor"
    fields = record.fields
    if fields and not (record.items or record.entries):
        return dict(fields), "a dict of its fields"
    if record.entries is not None and not fields and not record.items:
        return dict(record.entries), "a dict"
    if record.items is not None and not fields and not record.entries:
        return list(record.items), "a list"
    if not record.args and not record.kwargs and not fields and record.state is None:
        return {}, "an empty dict"
    parts: dict[str, Any] = {"type": record.name}
    for name in ("args", "kwargs", "items", "entries"):
        value = getattr(record, name)
        if value:
            parts[name] = value
    if fields or record.state is not None:
        parts["state"] = fields or record.state
    return parts, "a dict of what it was made from"


def numpy_number(record: Record) -> bool | int | float | complex | None:
    """The value of a NumPy scalar, None where ``record`` is none that Python has a number for."""
    if record.name not in _SCALARS or len(record.args) != 2:
        return None
    found, raw = numpy_dtype(record.args[0]), record.args[1]
    if isinstance(raw, str):
        raw = raw.encode("latin-1" if isinstance(raw, Latin1) else "utf-8")
    if found is None or not isinstance(raw, bytes) or len(raw) != found[0].itemsize:
        return None
    dtype, big = found
    order = ">" if big else "<"
    if dtype.kind == "complex":
        code = "d" if dtype.itemsize == 16 else "f"
        return complex(*struct.unpack(f"{order}2{code}", raw))
    value: bool | int | float = struct.unpack(order + _CODES[dtype.name], raw)[0]
    return value


def plain_key(value: Any) -> Any:
    """A key that plain data can have for any key: names for classes, text for objects, tuples for frozen sets."""
    if isinstance(value, Global):
        return value.text
    if isinstance(value, Record):
        number = numpy_number(value)
        if number is not None:
            return number
        return f"{value.name}({', '.join(str(plain_key(arg)) for arg in value.args)})"[:200]
    if isinstance(value, frozenset):
        return tuple(ordered(value))
    if isinstance(value, tuple) and value:
        items = tuple(plain_key(item) for item in value)
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    return value


def ordered(values: set[Any] | frozenset[Any]) -> list[Any]:
    """The members in an order that does not change from run to run."""
    return sorted(values, key=lambda value: (type(value).__name__, repr(value)))
