"""Element types, under torch's names, with the tag that safetensors gives them and the storage class that torch pickles name.

Sources: ``torch.storage._new_dtypes`` and ``_dtype_to_storage_type_map`` (torch 2.13); safetensors 0.8 ``Dtype``.
"""

from __future__ import annotations


class DType:
    """One element type. ``itemsize`` is in bytes; ``swap`` is the width in bytes that big-endian data is swapped by."""

    __slots__ = ("itemsize", "kind", "name", "safetensors", "storage", "swap")

    def __init__(
        self, name: str, itemsize: int, kind: str, safetensors: str | None, storage: str | None, swap: int | None = None
    ) -> None:
        self.name = name
        self.itemsize = itemsize
        self.kind = kind  # "float" | "int" | "bool" | "complex" | "quantized"
        self.safetensors = safetensors
        self.storage = storage  # torch's legacy storage class, None where torch only has UntypedStorage
        self.swap = itemsize if swap is None else swap

    def __repr__(self) -> str:
        return self.name


_ALL = (
    DType("float64", 8, "float", "F64", "DoubleStorage"),
    DType("float32", 4, "float", "F32", "FloatStorage"),
    DType("float16", 2, "float", "F16", "HalfStorage"),
    DType("bfloat16", 2, "float", "BF16", "BFloat16Storage"),
    DType("float8_e4m3fn", 1, "float", "F8_E4M3", None),
    DType("float8_e5m2", 1, "float", "F8_E5M2", None),
    DType("float8_e4m3fnuz", 1, "float", "F8_E4M3FNUZ", None),
    DType("float8_e5m2fnuz", 1, "float", "F8_E5M2FNUZ", None),
    DType("float8_e8m0fnu", 1, "float", "F8_E8M0", None),
    # Two 4-bit floats a byte; torch counts the bytes, safetensors the floats.
    DType("float4_e2m1fn_x2", 1, "float", "F4", None),
    DType("int64", 8, "int", "I64", "LongStorage"),
    DType("int32", 4, "int", "I32", "IntStorage"),
    DType("int16", 2, "int", "I16", "ShortStorage"),
    DType("int8", 1, "int", "I8", "CharStorage"),
    DType("uint8", 1, "int", "U8", "ByteStorage"),
    DType("uint16", 2, "int", "U16", None),
    DType("uint32", 4, "int", "U32", None),
    DType("uint64", 8, "int", "U64", None),
    DType("bool", 1, "bool", "BOOL", "BoolStorage"),
    DType("complex64", 8, "complex", "C64", "ComplexFloatStorage", 4),
    DType("complex128", 16, "complex", None, "ComplexDoubleStorage", 8),
    DType("complex32", 4, "complex", None, None, 2),
    DType("qint8", 1, "quantized", None, "QInt8Storage"),
    DType("quint8", 1, "quantized", None, "QUInt8Storage"),
    DType("qint32", 4, "quantized", None, "QInt32Storage"),
    DType("quint4x2", 1, "quantized", None, "QUInt4x2Storage"),
    DType("quint2x4", 1, "quantized", None, "QUInt2x4Storage"),
)

BY_NAME: dict[str, DType] = {d.name: d for d in _ALL}
BY_STORAGE: dict[str, DType] = {d.storage: d for d in _ALL if d.storage is not None}
BY_SAFETENSORS: dict[str, DType] = {d.safetensors: d for d in _ALL if d.safetensors is not None}

# Quantised types whose values share bytes, each row in bytes of its own.
VALUES_PER_BYTE: dict[str, int] = {"quint4x2": 2, "quint2x4": 4}

# torch's other spellings of the same types.
ALIASES: dict[str, str] = {
    "double": "float64", "float": "float32", "half": "float16", "long": "int64", "int": "int32", "short": "int16",
    "cfloat": "complex64", "cdouble": "complex128", "chalf": "complex32",
}  # fmt: skip


def by_name(name: str) -> DType | None:
    """The type that torch calls ``torch.NAME``, or None."""
    return BY_NAME.get(ALIASES.get(name, name))


UINT8 = BY_NAME["uint8"]
INT64 = BY_NAME["int64"]
FLOAT32 = BY_NAME["float32"]
