"""Do the indices of a sparse tensor stay inside it? They come from the file, and programs read and write wherever they point.

The rules are those of ``torch._validate_sparse_coo_tensor_args`` and ``torch._validate_compressed_sparse_indices`` (torch 2.13).
Indices are read once, in pieces; a state dict without sparse tensors costs nothing.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import pairwise
from math import prod

from formats.core.errors import CorruptCheckpoint
from formats.core.tensor import AnyTensor, CompositeTensor, TensorView

_CODES = {"int64": "q", "int32": "i"}
# layout → (the index that is compressed, the plain one, which of the two sizes is compressed)
_COMPRESSED = {
    "sparse_csr": ("crow_indices", "col_indices", 0), "sparse_bsr": ("crow_indices", "col_indices", 0),
    "sparse_csc": ("ccol_indices", "row_indices", 1), "sparse_bsc": ("ccol_indices", "row_indices", 1),
}  # fmt: skip


def check(tensors: Mapping[str, AnyTensor]) -> None:
    """Raises `CorruptCheckpoint`, naming the tensor and both sides, where an index of a sparse one of ``tensors`` leaves it."""
    for key, tensor in tensors.items():
        if type(tensor) is not CompositeTensor:
            continue
        try:
            if tensor.kind == "sparse_coo":
                _check_coo(tensor)
            elif tensor.kind in _COMPRESSED:
                _check_compressed(tensor)
        except CorruptCheckpoint as error:
            raise CorruptCheckpoint(f"{tensor.kind} tensor {key!r:.120}: {error.what}") from error


def _numbers(tensor: TensorView) -> Iterator[array[int]]:
    """The values in row-major order, in pieces."""
    code = _CODES.get(tensor.dtype.name)
    if code is None:
        raise CorruptCheckpoint(f"indices have dtype {tensor.dtype.name}, not int64 or int32")
    rest = b""
    for piece in tensor.chunks():
        block = rest + piece
        whole = len(block) - len(block) % tensor.dtype.itemsize
        rest = block[whole:]
        values = array(code, block[:whole])
        if sys.byteorder == "big":
            values.byteswap()
        if values:
            yield values


def _check_coo(tensor: CompositeTensor) -> None:
    indices = tensor.components["indices"]
    nnz = indices.shape[1]
    at = 0  # how many indices have been looked at; those of one dimension stand together
    for values in _numbers(indices):
        start = 0
        while start < len(values):
            dimension = at // nnz
            stop = min(len(values), start + (dimension + 1) * nnz - at)
            _check_range(values[start:stop], tensor.shape[dimension], f"dimension {dimension}")
            at += stop - start
            start = stop


def _check_range(values: array[int], size: int, what: str) -> None:
    for bound in (min(values), max(values)):
        if not 0 <= bound < size:
            raise CorruptCheckpoint(f"index {bound} in {what}, which has size {size}")


def _check_compressed(tensor: CompositeTensor) -> None:
    compressed_name, plain_name, which = _COMPRESSED[tensor.kind]
    compressed, plain, values = (tensor.components[name] for name in (compressed_name, plain_name, "values"))
    batch = len(compressed.shape) - 1
    blocked = tensor.kind in {"sparse_bsr", "sparse_bsc"}
    sizes = tensor.shape[batch : batch + 2]
    blocks = values.shape[batch + 1 : batch + 3] if blocked else (1, 1)
    if batch < 0 or len(plain.shape) != batch + 1 or len(sizes) != 2 or len(blocks) != 2:
        raise CorruptCheckpoint(f"{len(tensor.shape)} sizes do not fit {compressed} and {plain}")
    if any(not block or size % block for size, block in zip(sizes, blocks, strict=True)):
        raise CorruptCheckpoint(f"blocks of {list(blocks)} do not divide sizes {list(sizes)}")
    lines, plain_size = sizes[which] // blocks[which], sizes[1 - which] // blocks[1 - which]
    nnz = plain.shape[-1]
    dense = values.shape[batch + 1 + 2 * blocked :]
    wanted = (*tensor.shape[:batch], lines + 1), (*tensor.shape[:batch], nnz), (*tensor.shape[:batch], nnz)
    found = compressed.shape, plain.shape, values.shape[: batch + 1]
    if wanted != found or dense != tensor.shape[batch + 2 :]:
        raise CorruptCheckpoint(f"shape {list(tensor.shape)} does not fit {compressed}, {plain} and values {values}")
    if compressed.dtype is not plain.dtype:
        raise CorruptCheckpoint(f"{compressed_name} are {compressed.dtype} and {plain_name} {plain.dtype}")
    starts = array("q")  # of all lines of all batches, counted through the whole of the plain indices
    for part in _numbers(compressed):
        starts.extend(iter(part))  # of another width, perhaps
    for number in range(prod(tensor.shape[:batch])):
        _check_lines(starts, number * (lines + 1), lines, nnz, plain_size, compressed_name)
        for at in range(number * (lines + 1), (number + 1) * (lines + 1)):
            starts[at] += number * nnz
    _check_plain(plain, starts, plain_size, plain_name)


def _check_lines(starts: array[int], at: int, lines: int, nnz: int, plain_size: int, name: str) -> None:
    own = starts[at : at + lines + 1]
    if own[0] != 0 or own[-1] != nnz:
        raise CorruptCheckpoint(f"{name} run from {own[0]} to {own[-1]}, not from 0 to {nnz}")
    for line, (low, high) in enumerate(pairwise(own)):
        if not 0 <= high - low <= plain_size:
            raise CorruptCheckpoint(f"{name} give line {line} the places {low} to {high} of {plain_size}")


def _check_plain(plain: TensorView, starts: array[int], plain_size: int, name: str) -> None:
    """Every index in range, and rising along each line."""
    at, last = 0, -1
    for values in _numbers(plain):
        _check_range(values, plain_size, name)
        for value in values:
            if value <= last:
                place = bisect_left(starts, at)
                if place == len(starts) or starts[place] != at:
                    raise CorruptCheckpoint(f"{name} do not rise along a line: {last}, then {value}")
            last = value
            at += 1
