"""NumPy's .npz as a target: the arrays of a state dict by name, for ``numpy.load`` without torch.

Source: ``numpy.lib.npyio._savez`` and ``numpy.lib.format``. Members are stored in the model's order, dates are fixed: the same content
gives the same bytes. NumPy has no bfloat16, float8 or quantised type, and the format no place for ties, ``_metadata`` or any text about
itself: a tensor of such a type is refused by name, tied tensors are written once each, and the rest is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from formats.core import npy
from formats.core.checkpoint import Content
from formats.core.errors import Unsupported
from formats.core.layout import Layout
from formats.core.protocol import Capabilities
from formats.core.stitched import Joined
from formats.core.storage import BytesStorage
from formats.core.tensor import CompositeTensor
from formats.core.zip_layout import ZipLayout

MAX_DIMS = 64  # of NumPy 2; NumPy 1 has 32
CAPABILITIES = Capabilities(dtypes=frozenset(npy.DESCR))


def plan(content: Content, options: Mapping[str, Any]) -> list[Layout]:
    """One file. Raises `Unsupported`, naming the tensor, for what NumPy has no array of."""
    archive = ZipLayout(root="")
    for name, tensor in content.model.tensors.items():
        if isinstance(tensor, CompositeTensor):
            raise Unsupported(f"tensor {name!r:.200} is {tensor.kind}, which NumPy has no array of")
        if tensor.dtype.name not in npy.DESCR:
            raise Unsupported(
                f"tensor {name!r:.200} has dtype {tensor.dtype.name}, which NumPy does not have",
                hint="safetensors and pth hold every type",
            )
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise Unsupported(
                f"tensor name {name!r:.200} is no Unicode text, which a ZIP member needs", hint="rename it"
            ) from None
        member = f"{name}{npy.SUFFIX}"
        if len(member.encode()) > 0xFFFF:
            raise Unsupported(f"tensor name {name!r:.80} of {len(name.encode())} bytes: a ZIP member's name has at most 65535")
        header = npy.make_header(tensor.dtype.name, tensor.shape)
        archive.add(member, Joined([BytesStorage(header), tensor.row_major()]), called=name)
    return [archive.layout()]
