"""Quantised tensors as float32, equal to torch's ``dequantize()``: ``scale * (value - zero point)``.

Per tensor the product is made in float32 (``fbgemm::Dequantize``), per channel in float64 and rounded once, with floating zero points in
float32 (``at::native::dequantize_tensor_per_channel_affine`` and ``…_float_qparams``, torch 2.13 on x86).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from formats.core.cast import elements
from formats.core.dtype import FLOAT32
from formats.core.errors import CorruptCheckpoint, LimitExceeded, Unsupported
from formats.core.storage import Storage
from formats.core.tensor import CompositeTensor, TensorView

if TYPE_CHECKING:
    import numpy

_CODES = {"qint8": "i1", "quint8": "u1", "qint32": "<i4"}
_PARAMETERS = {"float64": "<f8", "float32": "<f4", "int64": "<i8", "int32": "<i4"}
MAX_CHANNELS = 1 << 24


def dequantized(tensor: CompositeTensor) -> TensorView:
    """The float32 values of a tensor of kind ``quantized``, read when they are asked for.

    Raises `Unsupported` for element types that share bytes, `CorruptCheckpoint` where the scales do not fit the shape.
    """
    values = tensor.components["values"]
    if values.dtype.name not in _CODES:
        raise Unsupported(f"quantised values of dtype {values.dtype.name} share bytes and are not dequantised")
    storage = Dequantized(values.row_major(), values.dtype.name, tensor.shape, tensor.components, tensor.attributes)
    return TensorView(FLOAT32, tensor.shape, storage, requires_grad=tensor.requires_grad, parameter=tensor.parameter)


class Dequantized:
    """Row-major quantised values as float32 bytes."""

    __slots__ = ("_axis", "_components", "_name", "_parameters", "_shape", "inner", "location", "nbytes")

    def __init__(
        self, inner: Storage, name: str, shape: tuple[int, ...], components: dict[str, TensorView], attributes: dict[str, Any]
    ) -> None:
        self.inner = inner
        self.location = inner.location
        self._name = name
        self._shape = shape
        self._components = components
        width = 4 if name == "qint32" else 1
        self.nbytes = inner.nbytes // width * 4
        self._parameters: tuple[Any, Any] | None = None
        scheme = attributes.get("scheme")
        if scheme == "per_tensor_affine":
            scale, zero = attributes.get("scale"), attributes.get("zero_point")
            if type(scale) is not float or type(zero) is not int or not -(1 << 31) <= zero < 1 << 31:
                raise CorruptCheckpoint(f"quantised tensor with scale {scale!r:.40} and zero point {zero!r:.40}")
            self._axis: int | None = None
            self._parameters = scale, zero
        else:
            axis, scales, zeros = attributes.get("axis"), components.get("scales"), components.get("zero_points")
            if type(axis) is not int or not 0 <= axis < len(shape) or scales is None or zeros is None:
                raise CorruptCheckpoint(f"quantised tensor of scheme {scheme!r:.40} with axis {axis!r:.40}")
            if scales.shape != (shape[axis],) or zeros.shape != (shape[axis],):
                raise CorruptCheckpoint(
                    f"{shape[axis]} channels with scales {list(scales.shape)} and zero points {list(zeros.shape)}"
                )
            if shape[axis] > MAX_CHANNELS:
                raise LimitExceeded(f"{shape[axis]} channels, at most {MAX_CHANNELS} are dequantised")
            if scales.dtype.name not in _PARAMETERS or zeros.dtype.name not in _PARAMETERS:
                raise CorruptCheckpoint(f"scales of {scales.dtype.name} and zero points of {zeros.dtype.name}")
            self._axis = axis

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        import numpy as np

        width = np.dtype(_CODES[self._name]).itemsize
        first, last = start // 4, -(-stop // 4)
        at = first
        for block in elements(self.inner, width, first, last):
            codes = np.frombuffer(block, _CODES[self._name])
            with np.errstate(all="ignore"):
                made = self._values(codes, at).astype("<f4").tobytes()
            yield memoryview(made)[max(start - at * 4, 0) : min(stop - at * 4, len(made))]
            at += codes.size

    def _values(self, codes: numpy.ndarray[Any, Any], at: int) -> numpy.ndarray[Any, Any]:
        import numpy as np

        scales, zeros = self._read()
        if self._axis is not None:
            inner = 1
            for size in self._shape[self._axis + 1 :]:
                inner *= size
            channel = (np.arange(at, at + codes.size) // inner) % self._shape[self._axis]
            scales, zeros = scales[channel], zeros[channel]
            if zeros.dtype.kind == "f":
                return np.asarray((codes.astype("f4") - zeros) * scales)
            return np.asarray(scales * (codes.astype("i8") - zeros))
        return np.asarray(scales * (codes.astype("i4") - zeros).astype("f4"))

    def _read(self) -> tuple[Any, Any]:
        import numpy as np

        if self._parameters is not None and self._axis is None:
            return np.float32(self._parameters[0]), np.int32(self._parameters[1])
        if self._parameters is None:
            parts = [self._components[name] for name in ("scales", "zero_points")]
            scales, zeros = (np.frombuffer(part.tobytes(), _PARAMETERS[part.dtype.name]) for part in parts)
            floating = zeros.dtype.kind == "f"
            self._parameters = scales.astype("f4" if floating else "f8"), zeros.astype("f4" if floating else "i8")
        return self._parameters
