"""ONNX, the writer: a program's graph, with the weights streamed into it or into a data file beside it.

Source: onnx/onnx.proto (IR version 10), https://protobuf.dev/programming-guides/encoding, and onnx/docs/ExternalData.md.

The graph comes from an exporter as a serialised ``ModelProto`` that names its weights without holding them. The weights are the
checkpoint's own tensors, so that they reach the file without passing through the exporter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from formats.core.checkpoint import Content
from formats.core.errors import CorruptCheckpoint, UsageError
from formats.core.layout import Data, Layout, Literal
from formats.core.protocol import Capabilities
from formats.core.tensor import TensorView

EXTERNAL = 2_000_000_000  # bytes of weights above which they go beside the file: protobuf's messages end at 2 GiB
ALIGNMENT = 4096  # of a large tensor in the data file, so that a runtime can map it
ALIGNED_FROM = 1 << 20

# TensorProto.DataType
DATA_TYPES = {
    "float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11,
    "uint32": 12, "uint64": 13, "complex64": 14, "complex128": 15, "bfloat16": 16, "float8_e4m3fn": 17, "float8_e4m3fnuz": 18,
    "float8_e5m2": 19, "float8_e5m2fnuz": 20,
}  # fmt: skip

CAPABILITIES = Capabilities(dtypes=frozenset(DATA_TYPES), ties=True, metadata=True, program=True)

_VARINT, _BYTES = 0, 2
_GRAPH, _METADATA = 7, 14  # fields of ModelProto
_INITIALIZER = 5  # of GraphProto
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 1, 2, 8, 9, 13, 14  # of TensorProto


def plan(content: Content, options: Mapping[str, Any]) -> list[Layout]:
    """The file, and before it the data file where the weights are large.

    ``options["program"]`` is the serialised ModelProto without the weights of ``content.model``, each of which becomes an initializer under
    its key. ``options["external"]`` overrules `EXTERNAL`; ``options["data_name"]`` is the bare name of the data file. The keys of
    ``options["shared"]``, (bare file name, {key: byte offset}), are not written at all: they lie in that file already.
    """
    program = options.get("program")
    if not isinstance(program, bytes):
        raise UsageError("an ONNX file is a program: the graph is missing")
    views = {key: tensor for key, tensor in content.model.tensors.items() if isinstance(tensor, TensorView)}
    outer, graph = _split(program)
    for key, value in sorted(content.metadata.items()):
        outer += _field(_METADATA, _text(1, key) + _text(2, value))
    place, offsets = options.get("shared") or ("", {})
    graph += b"".join(_field(_INITIALIZER, _pointing(key, views.pop(key), place, offset)) for key, offset in offsets.items())
    if sum(view.nbytes for view in views.values()) > int(options.get("external", EXTERNAL)):
        return _beside(views, bytes(outer), graph, str(options["data_name"]))
    heads = {key: _initializer(key, view) + _key(_RAW_DATA, _BYTES) + _varint(view.nbytes) for key, view in views.items()}
    size = len(graph)
    for key, head in heads.items():
        inner = len(head) + views[key].nbytes
        size += len(_key(_INITIALIZER, _BYTES)) + len(_varint(inner)) + inner
    layout = Layout(0)
    at = _literal(layout, 0, bytes(outer) + _key(_GRAPH, _BYTES) + _varint(size) + graph)
    for key, view in views.items():
        at = _literal(layout, at, _key(_INITIALIZER, _BYTES) + _varint(len(heads[key]) + view.nbytes) + heads[key])
        if view.nbytes:
            layout.data.append(Data(at, view.row_major(), key))
            at += view.nbytes
    layout.size = at
    return [layout]


def _beside(views: Mapping[str, TensorView], outer: bytes, graph: bytes, name: str) -> list[Layout]:
    """The weights in a file ``name``, and a model that points into it."""
    data = Layout(0, name=name)
    at = 0
    initializers = bytearray()
    for key, view in views.items():
        if view.nbytes >= ALIGNED_FROM and at % ALIGNMENT:
            at = _literal(data, at, bytes(-at % ALIGNMENT))
        initializers += _field(_INITIALIZER, _pointing(key, view, name, at))
        if view.nbytes:
            data.data.append(Data(at, view.row_major(), key))
            at += view.nbytes
    data.size = at
    model = Layout(0)
    whole = graph + bytes(initializers)
    model.size = _literal(model, 0, outer + _key(_GRAPH, _BYTES) + _varint(len(whole)) + whole)
    return [data, model]


def _literal(layout: Layout, at: int, content: bytes) -> int:
    layout.literals.append(Literal(at, content))
    return at + len(content)


def _initializer(key: str, view: TensorView) -> bytes:
    """A TensorProto up to its values."""
    dims = b"".join(_key(_DIMS, _VARINT) + _varint(size) for size in view.shape)
    return dims + _key(_DATA_TYPE, _VARINT) + _varint(DATA_TYPES[view.dtype.name]) + _text(_NAME, key)


def _pointing(key: str, view: TensorView, name: str, offset: int) -> bytes:
    """A TensorProto whose values are in the file ``name``."""
    head = _initializer(key, view)
    for entry, value in (("location", name), ("offset", str(offset)), ("length", str(view.nbytes))):
        head += _field(_EXTERNAL_DATA, _text(1, entry) + _text(2, value))
    return head + _key(_DATA_LOCATION, _VARINT) + _varint(1)


def _split(program: bytes) -> tuple[bytearray, bytes]:
    """The fields of a ModelProto but the graph, and the graph."""
    outer, graph = bytearray(), b""
    for number, start, stop, body in _fields(program):
        if number == _GRAPH:
            graph += program[body:stop]  # protobuf merges a field that comes in several pieces
        else:
            outer += program[start:stop]
    return outer, graph


def _fields(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(number, start, stop, start of its content) of each top-level field."""
    at = 0
    while at < len(message):
        start = at
        key, at = _read(message, at)
        if key & 7 == _VARINT:
            body = at
            _, at = _read(message, at)
        elif key & 7 == _BYTES:
            length, body = _read(message, at)
            at = body + length
        else:
            raise CorruptCheckpoint(f"field {key >> 3} of a ModelProto has wire type {key & 7}")
        if at > len(message):
            raise CorruptCheckpoint(f"field {key >> 3} of a ModelProto ends at byte {at} of {len(message)}")
        yield key >> 3, start, at, body


def _read(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise CorruptCheckpoint(f"a number at byte {at} of a ModelProto has no end")
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _key(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _field(number: int, content: bytes) -> bytes:
    return _key(number, _BYTES) + _varint(len(content)) + content


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode())
