"""Values in memory: a tensor of a file as a NumPy array or a torch tensor. The only module that makes either from a view."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from formats.core.errors import Unsupported
from formats.core.tensor import AnyTensor, CompositeTensor, TensorView

if TYPE_CHECKING:
    import numpy
    import torch

_ML_DTYPES = {
    "bfloat16": "bfloat16", "float8_e4m3fn": "float8_e4m3fn", "float8_e5m2": "float8_e5m2",
    "float8_e4m3fnuz": "float8_e4m3fnuz", "float8_e5m2fnuz": "float8_e5m2fnuz", "float8_e8m0fnu": "float8_e8m0fnu",
}  # fmt: skip
_CODES = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "i1",
    "uint64": "<u8", "uint32": "<u4", "uint16": "<u2", "uint8": "u1", "bool": "?", "complex64": "<c8", "complex128": "<c16",
}  # fmt: skip


def numpy_array(view: TensorView) -> numpy.ndarray[Any, Any]:
    """A writable array of ``view``'s values and shape."""
    import numpy as np

    name = view.dtype.name
    if name in _CODES:
        dtype = np.dtype(_CODES[name])
    elif name in _ML_DTYPES:
        try:
            import ml_dtypes
        except ImportError:
            raise Unsupported(f"NumPy has no dtype {name}", hint="pip install ml_dtypes, or use torch()") from None
        dtype = np.dtype(getattr(ml_dtypes, _ML_DTYPES[name]))
    else:
        raise Unsupported(f"NumPy has no dtype {name}", hint="use torch()")
    return np.frombuffer(_read(view), dtype=dtype).reshape(view.shape)


def torch_tensor(tensor: AnyTensor) -> torch.Tensor:
    """``tensor`` on the CPU, its memory its own."""
    if isinstance(tensor, CompositeTensor):
        return _composite(tensor)
    import torch

    dtype = getattr(torch, tensor.dtype.name, None)
    if dtype is None or tensor.dtype.kind == "quantized":
        raise Unsupported(f"torch {torch.__version__} makes no plain tensor of dtype {tensor.dtype.name}")
    if not tensor.numel:
        return torch.empty(tensor.shape, dtype=dtype)
    return torch.frombuffer(_read(tensor), dtype=dtype).reshape(tensor.shape)


def _read(view: TensorView) -> bytearray:
    buffer = bytearray(view.nbytes)
    at = 0
    for piece in view.chunks():
        buffer[at : at + len(piece)] = piece
        at += len(piece)
    return buffer


def _composite(tensor: CompositeTensor) -> torch.Tensor:
    import torch

    kind, shape = tensor.kind, tensor.shape
    if kind == "meta":
        return torch.empty(shape, dtype=getattr(torch, tensor.dtype.name), device="meta")
    if kind == "quantized":
        return _quantized(tensor)
    parts = {name: torch_tensor(view) for name, view in tensor.components.items()}
    if kind == "sparse_coo":
        coalesced = tensor.attributes.get("coalesced") or None
        # check_invariants: the indices come from the file, and torch would read and write wherever they point.
        return torch.sparse_coo_tensor(parts["indices"], parts["values"], shape, is_coalesced=coalesced, check_invariants=True)
    makers = {
        "sparse_csr": (torch.sparse_csr_tensor, "crow_indices", "col_indices"),
        "sparse_csc": (torch.sparse_csc_tensor, "ccol_indices", "row_indices"),
        "sparse_bsr": (torch.sparse_bsr_tensor, "crow_indices", "col_indices"),
        "sparse_bsc": (torch.sparse_bsc_tensor, "ccol_indices", "row_indices"),
    }
    if kind in makers:
        make, compressed, plain = makers[kind]
        return make(parts[compressed], parts[plain], parts["values"], shape, check_invariants=True)
    if kind == "subclass" and list(parts) == ["data"]:
        return parts["data"]
    raise Unsupported(f"a {kind} tensor is not made in memory")


def _quantized(tensor: CompositeTensor) -> torch.Tensor:
    import torch

    carriers = {"qint8": torch.int8, "quint8": torch.uint8, "qint32": torch.int32}
    values, attributes = tensor.components["values"], tensor.attributes
    if tensor.dtype.name not in carriers:
        raise Unsupported(f"a quantised tensor of dtype {tensor.dtype.name} is not made in memory")
    numbers = torch.frombuffer(_read(values), dtype=carriers[tensor.dtype.name]).reshape(values.shape) if values.numel else None
    if numbers is None:
        numbers = torch.empty(values.shape, dtype=carriers[tensor.dtype.name])
    if attributes["scheme"] == "per_tensor_affine":
        return torch._make_per_tensor_quantized_tensor(numbers, attributes["scale"], attributes["zero_point"])
    scales, zeros = torch_tensor(tensor.components["scales"]), torch_tensor(tensor.components["zero_points"])
    return torch._make_per_channel_quantized_tensor(numbers, scales, zeros, attributes["axis"])
