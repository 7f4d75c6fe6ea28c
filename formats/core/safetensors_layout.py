"""Where everything stands in a safetensors file that is to be written, byte for byte as the official writer has it.

Source: ``safetensors/src/tensor.rs`` of safetensors 0.8 (``prepare``, ``serialize_to_file``).
"""

from __future__ import annotations

from itertools import accumulate

from formats.core.dtype import BY_SAFETENSORS, DType
from formats.core.errors import Unsupported
from formats.core.layout import Data, Layout, Literal
from formats.core.plain_json import quoted
from formats.core.protocol import Capabilities
from formats.core.tensor import AnyTensor, CompositeTensor, TensorView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

MAX_HEADER = 100_000_000  # bytes, the specification's own limit
CAPABILITIES = Capabilities(dtypes=frozenset(dtype.name for dtype in BY_SAFETENSORS.values()), metadata=True)

# The official writer sorts by this order of dtypes, last first (Rust's derived order of the enum), then by name.
_ORDER = (
    "BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I16", "U16", "F16",
    "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64",
)  # fmt: skip
_RANK = {name: -rank for rank, name in enumerate(_ORDER)}


def lay_out(given: Mapping[str, AnyTensor], metadata: Mapping[str, str]) -> Layout:
    """One file as ``safetensors.torch.save_file`` writes it; metadata in the order of its keys, so that equal input gives equal bytes.

    Raises `Unsupported`, naming the tensor, for what the format has no place for.
    """
    views = _held(given)
    names = sorted(views)
    if len({tensor.dtype for tensor in views.values()}) > 1:
        names.sort(key=lambda name: _RANK[views[name].dtype.safetensors or ""])
    parts: list[str] = []
    if metadata:
        texts = quoted([text for key in sorted(metadata) for text in (key, metadata[key])])
        parts.append(f'"__metadata__":{{{",".join([f"{key}:{value}" for key, value in zip(texts, texts, strict=True)])}}}')
    tensors = [views[name] for name in names]
    storages = [tensor.row_major() for tensor in tensors]
    sizes = [storage.nbytes for storage in storages]
    kinds = _Kinds()
    begin, end = accumulate(sizes, initial=0), accumulate(sizes)
    parts += [
        f"{spelled}{kinds[tensor.dtype, tensor.shape]}{start},{stop}]}}"
        for spelled, tensor, start, stop in zip(quoted(names), tensors, begin, end, strict=False)
    ]
    text = ",".join(parts)
    parts.clear()  # of 100,000 tensors they are as large as the header, of which there are two for a moment
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        raise Unsupported(f"metadata is no Unicode text ({error.reason}), which safetensors cannot hold") from error
    del text
    length = len(raw) + 2
    length += -length % 8
    if length > MAX_HEADER:
        raise Unsupported(f"safetensors header of {length} bytes, at most {MAX_HEADER} are allowed", hint="write shards")
    header = b"".join((length.to_bytes(8, "little"), b"{", raw, b"}".ljust(length - len(raw) - 1)))
    offsets = list(accumulate(sizes, initial=len(header)))
    data = list(map(Data, offsets, storages, names))
    return Layout(offsets[-1], [Literal(0, header)], data)


class _Kinds(dict[tuple[DType, tuple[int, ...]], str]):
    """{(type, shape): what tensors of both have in common in the header}"""

    def __missing__(self, kind: tuple[DType, tuple[int, ...]]) -> str:
        dtype, shape = kind
        if dtype.safetensors == "F4":
            shape = (*shape[:-1], 2 * shape[-1])
        sizes = ",".join(map(str, shape))
        found = self[kind] = f':{{"dtype":"{dtype.safetensors}","shape":[{sizes}],"data_offsets":['
        return found


def _held(given: Mapping[str, Any]) -> Mapping[str, TensorView]:
    """The tensors, where the format can hold each of them under its name."""
    if all(type(tensor) is TensorView for tensor in given.values()) and "__metadata__" not in given:
        if {tensor.dtype.safetensors for tensor in given.values()}.isdisjoint((None, "F4")) and "".join(given).isascii():
            return given
    for name, tensor in given.items():
        if isinstance(tensor, CompositeTensor):
            raise Unsupported(f"tensor {name!r:.200} is {tensor.kind}, which safetensors cannot hold as it is")
        if tensor.dtype.safetensors is None:
            raise Unsupported(f"tensor {name!r:.200} has dtype {tensor.dtype.name}, which safetensors does not have")
        if name == "__metadata__":
            raise Unsupported("a tensor is named '__metadata__', which safetensors keeps for its metadata", hint="rename it")
        if tensor.dtype.safetensors == "F4" and not tensor.shape:
            raise Unsupported(f"tensor {name!r:.200} is a single pair of 4-bit floats, which safetensors cannot count")
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise Unsupported(
                f"tensor name {name!r:.200} is no Unicode text, which safetensors needs", hint="rename it"
            ) from None
    return given
