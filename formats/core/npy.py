"""The header of NumPy's .npy format: element type, order and shape, without NumPy and without evaluating the literal it is.

Source: ``numpy.lib.format`` (versions 1.0, 2.0, 3.0). A header is a Python dict literal padded to a multiple of 64 bytes; NumPy writes
it with the keys ``descr``, ``fortran_order``, ``shape`` and reads any order of them. Python 2 wrote sizes as ``3L``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from formats.core.dtype import BY_NAME, DType
from formats.core.errors import CorruptCheckpoint, Unsupported

MAGIC = b"\x93NUMPY"
SUFFIX = ".npy"  # of the members of an archive
PREFIX = 12  # bytes that tell how long the header is, for every version
MAX_HEADER = 10_000  # bytes, as numpy.lib.format limits it
_TOKEN = re.compile(r"\s*(?:('[^'\\]*'|\"[^\"\\]*\")|(True|False)|(\d{1,20})L?|([{}()\[\],:]))")

_KINDS = {
    "f2": "float16", "f4": "float32", "f8": "float64", "c8": "complex64", "c16": "complex128", "b1": "bool",
    "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64", "u1": "uint8", "u2": "uint16", "u4": "uint32", "u8": "uint64",
}  # fmt: skip
DESCR = {name: kind for kind, name in _KINDS.items()}


class Header(NamedTuple):
    """What a .npy file says of its array. ``dtype`` is None for what is no number: ``descr`` then says what it is."""

    dtype: DType | None
    descr: str
    big: bool
    fortran: bool
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        total = 1
        for size in self.shape:
            total *= size
        return total


def header_length(head: bytes) -> int:
    """Bytes of a .npy file before its data, from its first `PREFIX` bytes."""
    if len(head) < PREFIX or head[:6] != MAGIC:
        raise CorruptCheckpoint(f"is no .npy array: it begins with {head[:6].hex(' ')}")
    version = head[6], head[7]
    if version == (1, 0):
        length, at = int.from_bytes(head[8:10], "little"), 10
    elif version in ((2, 0), (3, 0)):
        length, at = int.from_bytes(head[8:12], "little"), 12
    else:
        raise Unsupported(f"is .npy version {version[0]}.{version[1]}; 1.0, 2.0 and 3.0 are read")
    if length > MAX_HEADER:
        raise CorruptCheckpoint(f"has a .npy header of {length} bytes, at most {MAX_HEADER} are read")
    return at + length


def parse_header(head: bytes) -> Header:
    """The header from all the bytes before the data."""
    at = 10 if head[6] == 1 else 12
    try:
        text = head[at:].decode("utf-8" if head[6] == 3 else "latin-1")
    except UnicodeDecodeError as error:
        raise CorruptCheckpoint(f"has a .npy header that is no UTF-8: {error}") from error
    said = _literal(text)
    descr, fortran, shape = said.pop("descr", None), said.pop("fortran_order", None), said.pop("shape", None)
    if said or type(fortran) is not bool or type(shape) is not tuple or any(type(size) is not int for size in shape):
        raise CorruptCheckpoint(f"has a .npy header that is not (descr, fortran_order, shape): {text.strip()!r:.120}")
    if type(descr) is not str:
        return Header(None, "a structured type", False, fortran, shape)
    return Header(BY_NAME.get(_KINDS.get(descr.lstrip("<>|="), "")), descr, descr.startswith(">"), fortran, shape)


def _literal(text: str) -> dict[str, object]:
    """A dict whose values are texts, booleans or tuples of counts; of a list (a structured type) only that it is one."""
    tokens = []
    at, text = 0, text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise CorruptCheckpoint(f"has a .npy header with {text[at : at + 20]!r} at character {at}")
        tokens.append(found)
        at = found.end()
    words = [found[found.lastindex or 0] for found in tokens]
    kinds = [found.lastindex for found in tokens]  # 1 text, 2 boolean, 3 count, 4 punctuation
    if words[:1] != ["{"] or words[-1:] != ["}"]:
        raise CorruptCheckpoint("has a .npy header that is no dict")
    said: dict[str, object] = {}
    i, end = 1, len(words) - 1
    while i < end:
        if kinds[i] != 1 or i + 2 >= end or words[i + 1] != ":":
            raise CorruptCheckpoint(f"has a .npy header that is no dict: {text!r:.120}")
        key, value = words[i][1:-1], words[i + 2]
        i += 3
        made: object
        if kinds[i - 1] == 1:
            made = value[1:-1]
        elif kinds[i - 1] == 2:
            made = value == "True"
        elif value in "([":
            close = _closing(words, i - 1)
            inside = words[i:close]
            made = [] if value == "[" else _counts(inside, kinds[i:close])
            i = close + 1
        else:
            made = None
        if made is None or key in said:
            raise CorruptCheckpoint(f"has a .npy header with a bad value for {key!r:.40}: {text!r:.120}")
        said[key] = made
        if i < end:
            if words[i] != ",":
                raise CorruptCheckpoint(f"has a .npy header that is no dict: {text!r:.120}")
            i += 1
    return said


def _closing(words: list[str], at: int) -> int:
    depth = 0
    for i in range(at, len(words)):
        depth += (words[i] in "([") - (words[i] in ")]")
        if not depth:
            return i
    raise CorruptCheckpoint("has a .npy header with an open bracket")


def _counts(words: list[str], kinds: list[int | None]) -> tuple[int, ...] | None:
    """``3, 4`` or ``3,`` or nothing."""
    if words[-1:] == [","]:
        words, kinds = words[:-1], kinds[:-1]
    elif len(words) == 1:  # (3) is a number, not a tuple
        return None
    if not words:
        return ()
    if any(kind != 3 for kind in kinds[::2]) or any(word != "," for word in words[1::2]) or len(words) % 2 == 0:
        return None
    return tuple(int(word) for word in words[::2])


def make_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """A version 1.0 header for row-major little-endian data, exactly as ``numpy.save`` writes it."""
    descr = DESCR[dtype]
    order = "|" if descr in ("i1", "u1", "b1") else "<"
    sizes = f"({shape[0]},)" if len(shape) == 1 else f"({', '.join(map(str, shape))})"
    text = f"{{'descr': '{order}{descr}', 'fortran_order': False, 'shape': {sizes}, }}"
    # NumPy leaves room for the first axis to grow to 2^63.
    text += " " * (21 - len(str(shape[0])) if shape else 0)
    length = len(text) + 1
    padding = 64 - (10 + length) % 64
    return MAGIC + b"\x01\x00" + (length + padding).to_bytes(2, "little") + text.encode("ascii") + b" " * padding + b"\n"
