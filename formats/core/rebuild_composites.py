"""What torch's functions for sparse, quantised, nested and meta tensors describe, and for those that came from a device by way of NumPy.

The argument orders are those of ``torch._utils`` (torch 0.4 to 2.13).
"""

from __future__ import annotations

from formats.core import dtype as dtypes
from formats.core.checkpoint import Global, Record
from formats.core.errors import CorruptCheckpoint, Unsupported
from formats.core.numpy_record import numpy_tensor
from formats.core.rebuild import count, dtype_of, sizes, typed_storage
from formats.core.tensor import CompositeTensor, TensorView, row_major

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _layout(value: Any) -> str:
    if type(value) is Record and value.name == "torch.serialization._get_layout" and len(value.args) == 1:
        value = value.args[0]
    text = value.text if type(value) is Global else value
    if not isinstance(text, str):
        raise CorruptCheckpoint(f"sparse layout is a {type(value).__name__}")
    return text.removeprefix("torch.")


_COMPRESSED = {
    "sparse_csr": ("crow_indices", "col_indices"), "sparse_bsr": ("crow_indices", "col_indices"),
    "sparse_csc": ("ccol_indices", "row_indices"), "sparse_bsc": ("ccol_indices", "row_indices"),
}  # fmt: skip


def sparse(args: tuple[Any, ...]) -> CompositeTensor:
    count(args, "_rebuild_sparse_tensor", 2)
    layout, parts = _layout(args[0]), args[1]
    if not isinstance(parts, tuple):
        raise CorruptCheckpoint(f"sparse tensor made of a {type(parts).__name__}")
    if layout == "sparse_coo":
        count(parts, "sparse_coo", 3, 4)
        indices, values, size = _part(parts[0], "indices"), _part(parts[1], "values"), sizes(parts[2], "size")
        nnz = indices.shape[1] if len(indices.shape) == 2 else -1
        if indices.dtype is not dtypes.INT64 or nnz < 0 or values.shape[:1] != (nnz,):
            raise CorruptCheckpoint(
                f"sparse_coo with indices {indices} and values {values}: one column of indices a value is needed"
            )
        if indices.shape[0] + len(values.shape) - 1 != len(size):
            raise CorruptCheckpoint(f"sparse_coo of {len(size)} sizes with {indices.shape[0]} index rows and values {values}")
        attributes = {"coalesced": parts[3]} if len(parts) == 4 and isinstance(parts[3], bool) else {}
        return CompositeTensor("sparse_coo", values.dtype, size, {"indices": indices, "values": values}, attributes)
    if layout not in _COMPRESSED:
        raise CorruptCheckpoint(f"sparse layout {layout!r:.80} is none of torch's")
    count(parts, layout, 4)
    compressed, plain, values = (_part(p, layout) for p in parts[:3])
    names = _COMPRESSED[layout]
    return CompositeTensor(
        layout, values.dtype, sizes(parts[3], "size"), {names[0]: compressed, names[1]: plain, "values": values}
    )


def _part(value: Any, what: str) -> TensorView:
    if type(value) is not TensorView:
        raise CorruptCheckpoint(f"{what} is a {type(value).__name__} where a tensor belongs")
    return value


def quantized(args: tuple[Any, ...]) -> CompositeTensor:
    count(args, "_rebuild_qtensor", 7)
    typed = typed_storage(args[0], "_rebuild_qtensor")
    if typed.dtype is None or typed.dtype.kind != "quantized":
        raise CorruptCheckpoint(f"_rebuild_qtensor of a storage of {typed.dtype}")
    size, stride = sizes(args[2], "size"), sizes(args[3], "stride")
    shared = dtypes.VALUES_PER_BYTE.get(typed.dtype.name, 1)
    if shared == 1:
        values = TensorView(typed.dtype, size, typed.storage, args[1], stride)
    elif size and args[1] == 0 and stride == row_major(size):
        # Rows begin at whole bytes (``at::native::get_sub_byte_tensor_size``).
        values = TensorView(typed.dtype, (*size[:-1], -(-size[-1] // shared)), typed.storage)
    else:
        raise Unsupported(f"a view of {typed.dtype.name} values, {shared} of which share a byte")
    params = args[4]
    scheme = params[0].text.removeprefix("torch.") if isinstance(params, tuple) and params and type(params[0]) is Global else ""
    components = {"values": values}
    attributes: dict[str, Any] = {"scheme": scheme}
    if scheme == "per_tensor_affine" and len(params) == 3 and isinstance(params[1], float) and isinstance(params[2], int):
        attributes |= {"scale": params[1], "zero_point": params[2]}
    elif scheme.startswith("per_channel_affine") and len(params) == 4 and isinstance(params[3], int):
        components |= {"scales": _part(params[1], "scales"), "zero_points": _part(params[2], "zero points")}
        attributes |= {"axis": params[3]}
    else:
        raise CorruptCheckpoint(f"quantised tensor with parameters {scheme or params!r:.80} that torch does not define")
    return CompositeTensor("quantized", typed.dtype, size, components, attributes, requires_grad=args[5] is True)


def nested(args: tuple[Any, ...]) -> CompositeTensor:
    count(args, "_rebuild_nested_tensor", 4)
    buffer, size, stride, offsets = (_part(a, "nested tensor's part") for a in args)
    return CompositeTensor(
        "nested", buffer.dtype, (size.shape[0] if size.shape else 0,),
        {"values": buffer, "sizes": size, "strides": stride, "offsets": offsets},
    )  # fmt: skip


def meta(args: tuple[Any, ...]) -> CompositeTensor:
    count(args, "_rebuild_meta_tensor_no_storage", 4)
    shape = sizes(args[1], "size")
    if any(type(n) is not int or n < 0 for n in shape):
        raise CorruptCheckpoint(f"tensor sizes {shape!r:.80} are not counts")
    stride = list(sizes(args[2], "stride"))
    return CompositeTensor("meta", dtype_of(args[0]), shape, {}, {"strides": stride}, requires_grad=args[3] is True)


def from_numpy(args: tuple[Any, ...]) -> TensorView:
    count(args, "_rebuild_device_tensor_from_numpy", 4)
    tensor = numpy_tensor(args[0])
    if tensor is None:
        raise CorruptCheckpoint(f"device tensor made of a {type(args[0]).__name__}, not of an array")
    return tensor


def from_cpu(args: tuple[Any, ...]) -> Any:
    count(args, "_rebuild_device_tensor_from_cpu_tensor", 4)
    return _part(args[0], "device tensor's data")


def wrapper(_args: tuple[Any, ...]) -> Any:
    raise Unsupported("a wrapper tensor without its parts: its class alone knows where the values are")
