"""ONNX as a source: the tensors of a model by name, without onnx and without building the graph.

Source: ``onnx.proto`` (IR version 13): ModelProto, GraphProto, NodeProto, AttributeProto, TensorProto. Weights are the initializers of
the graph and of the graphs inside it (the branches of If, the bodies of Loop and Scan). The tensors of Constant nodes stand beside them in
a record, and are the weights only where the model has no initializer at all: some exporters fold every weight into a Constant.
A name that several inner graphs use is told apart by the node that it stands under.

Data are ranges of the file, of a file beside it (external data: a bare name, see `core.beside`), or typed fields decoded on the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from formats.core.beside import beside
from formats.core.checkpoint import Checkpoint, Global, Ordered, Record
from formats.core.dtype import BY_NAME, DType
from formats.core.errors import AmbiguousCheckpoint, CheckpointError, CorruptCheckpoint, LimitExceeded, Unsupported
from formats.core.files import SourceFile, opened
from formats.core.probe import Probe
from formats.core.protobuf import BYTES, FIXED32, FIXED64, VARINT, Field, Wire
from formats.core.protocol import Match
from formats.core.stitched import Joined
from formats.core.storage import FileSpan, Storage
from formats.core.tensor import TensorView

MAX_DEPTH = 64  # graphs within graphs
# ModelProto's fields and their wire types.
_MODEL = {
    1: VARINT,
    2: BYTES,
    3: BYTES,
    4: BYTES,
    5: VARINT,
    6: BYTES,
    7: BYTES,
    8: BYTES,
    14: BYTES,
    20: BYTES,
    25: BYTES,
    26: BYTES,
}
_GRAPH = 7
# TensorProto.DataType
_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64",
    12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16", 17: "float8_e4m3fn", 18: "float8_e4m3fnuz",
    19: "float8_e5m2", 20: "float8_e5m2fnuz", 24: "float8_e8m0fnu",
}  # fmt: skip
_NO_DTYPE = {8: "STRING", 21: "UINT4", 22: "INT4", 23: "FLOAT4E2M1", 25: "UINT2", 26: "INT2"}
# TensorProto's typed fields: number → (its elements' wire type, the types that it holds)
_FLOAT_DATA, _INT32_DATA, _STRING_DATA, _INT64_DATA, _DOUBLE_DATA, _UINT64_DATA = 4, 5, 6, 7, 10, 11
_TYPED = {
    _FLOAT_DATA: (FIXED32, {"float32", "complex64"}),
    _DOUBLE_DATA: (FIXED64, {"float64", "complex128"}),
    _INT64_DATA: (VARINT, {"int64"}),
    _UINT64_DATA: (VARINT, {"uint32", "uint64"}),
    _INT32_DATA: (VARINT, set(_DTYPES.values()) - {"float32", "float64", "int64", "uint32", "uint64", "complex64", "complex128"}),
}


def sniff(probe: Probe) -> Match:
    """A file that is one ModelProto from its first byte to its last, with a graph. It has no magic, so this is what is certain."""
    if probe.folder or probe.head[:1] != b"\x08":
        return Match.NO
    seen = set()
    try:
        for field in Wire(probe.file, 10_000).fields(0, probe.size):
            if _MODEL.get(field.number) != field.wire:
                return Match.NO
            seen.add(field.number)
    except CheckpointError:
        # Cut off, perhaps; not ours unless it began like a model.
        return Match.CONTAINER if seen & {2, 7, 8} and 1 in seen else Match.NO
    return Match.CERTAIN if {1, _GRAPH} <= seen else Match.NO


def read(path: Path) -> Checkpoint:
    """The tensors of the model at ``path``, read when asked for; external data are opened beside it."""
    return _Model(opened(path), path).read()


def read_file(file: SourceFile) -> Checkpoint:
    """The same from an open file; external data have no place beside a file inside an archive and are refused."""
    # What lies inside another file is of a class of its own; a remote file stands alone as well.
    stands_alone = type(file) is SourceFile or hasattr(file, "remote")
    return _Model(file, file.path if stands_alone else None).read()


class _Graph(NamedTuple):
    start: int
    stop: int
    where: str  # the node and attribute that it stands under
    depth: int
    nodes: int  # field number of its nodes: 1 in a graph, 7 in a function


class _Model:
    def __init__(self, file: SourceFile, path: Path | None) -> None:
        self.file = file
        self.path = path
        self.wire = Wire(file)
        self.beside: dict[str, SourceFile] = {}
        self.initializers: list[tuple[str, str, Any]] = []  # (name, graph that it is in, tensor)
        self.constants: list[tuple[str, str, Any]] = []
        self.notes: list[str] = []

    def read(self) -> Checkpoint:
        metadata: dict[str, Any] = {"container": "onnx"}
        stack: list[_Graph] = []
        for field in self.wire.fields(0, self.file.size):
            if field.number == 1:
                metadata["ir_version"] = field.value
            elif field.number in (2, 3):
                metadata["producer_name" if field.number == 2 else "producer_version"] = self.wire.text(field)
            elif field.number == 14:
                key, value = self._entry(field)
                metadata.setdefault("properties", {})[key] = value
            elif field.number == _GRAPH:  # several are merged: protobuf joins what occurs twice
                stack.append(_Graph(field.start, field.stop, "", 0, 1))
            elif field.number == 25:
                stack.append(_Graph(field.start, field.stop, "function", 0, 7))
            elif field.number == 20:
                self.notes.append("its training graphs are not read")
        stack.reverse()
        while stack:
            graph = stack.pop()
            stack.extend(reversed(self._graph(graph)))
        return Checkpoint(self.file.path, "onnx", self._tree(), {}, metadata, self.notes, [self.file, *self.beside.values()])

    def _tree(self) -> Any:
        if self.initializers or not self.constants:
            tree = Ordered(_by_name(self.initializers))
            if not self.constants:
                return tree
            constants = Record(Global("onnx.Constant"))
            constants.state = _by_name(self.constants)
            return {"initializers": tree, "constants": constants}
        self.notes.append("the model has no initializer: the tensors of its Constant nodes are given")
        return Ordered(_by_name(self.constants))

    def _entry(self, field: Field) -> tuple[str, str]:
        key = value = ""
        for part in self.wire.fields(field.start, field.stop):
            if part.number == 1:
                key = self.wire.text(part)
            elif part.number == 2:
                value = self.wire.text(part)
        return key, value

    def _graph(self, graph: _Graph) -> list[_Graph]:
        """Collect the tensors of one graph; the graphs inside it are returned."""
        if graph.depth > MAX_DEPTH:
            raise LimitExceeded(f"has graphs nested more than {MAX_DEPTH} deep")
        inner: list[_Graph] = []
        index = 0
        for field in self.wire.fields(graph.start, graph.stop):
            if field.number == graph.nodes:
                self._node(field, graph, index, inner)
                index += 1
            elif field.number == 5 and graph.nodes == 1:
                name, tensor = self._tensor(field, "initializer")
                self.initializers.append((name, graph.where, tensor))
            elif field.number == 15 and graph.nodes == 1:
                raise Unsupported("has a sparse initializer, which is not read", path=self.file.path)
        return inner

    def _node(self, node: Field, graph: _Graph, index: int, inner: list[_Graph]) -> None:
        name = op = output = ""
        attributes = []
        for field in self.wire.fields(node.start, node.stop):
            if field.number == 5:
                attributes.append(field)
            elif field.number == 4:
                op = self.wire.text(field)
            elif field.number == 3:
                name = self.wire.text(field)
            elif field.number == 2 and not output:
                output = self.wire.text(field)
        for attribute in attributes:
            what, tensor, graphs = "", None, []
            for field in self.wire.fields(attribute.start, attribute.stop):
                if field.number == 1:
                    what = self.wire.text(field)
                elif field.number == 5:
                    tensor = field
                elif field.number in (6, 11):
                    graphs.append(field)
            for number, field in enumerate(graphs):
                here = f"{name or f'{op}_{index}'}.{what}" + (f"[{number}]" if len(graphs) > 1 else "")
                where = f"{graph.where}/{here}" if graph.where else here
                inner.append(_Graph(field.start, field.stop, where[-400:], graph.depth + 1, 1))
            if op == "Constant" and tensor is not None and what == "value":
                self.constants.append((output, graph.where, self._tensor(tensor, f"constant {output!r:.80}", output)[1]))

    # -- tensors -------------------------------------------------------------------------------------------------------------------
    def _tensor(self, field: Field, what: str, name: str = "") -> tuple[str, Any]:
        dims: list[int] = []
        kind = 0
        raw: list[Field] = []
        typed: dict[int, list[Field]] = {}
        external: dict[str, str] = {}
        is_external = segmented = False
        for part in self.wire.fields(field.start, field.stop):
            number = part.number
            if number == 1:
                dims.extend(self.wire.integers(part))
                if len(dims) > 4096:
                    raise LimitExceeded(f"{what} has more than 4096 dimensions")
            elif number == 2:
                kind = part.value
            elif number == 8 and not name:
                name = self.wire.text(part)
            elif number == 9:
                raw.append(part)
            elif number in _TYPED or number == _STRING_DATA:
                typed.setdefault(number, []).append(part)
            elif number == 13:
                key, value = self._entry(part)
                external[key] = value
            elif number == 14:
                is_external = part.value == 1
            elif number == 3:
                segmented = True
        if not name:
            raise CorruptCheckpoint(f"{what} at byte {field.start} has no name", path=self.file.path)
        try:
            return name, self._view(kind, tuple(dims), raw, typed, external if is_external else None, segmented)
        except CheckpointError as error:
            error.what = f"tensor {name!r:.120}: {error.what}"
            raise error.with_path(self.file.path) from error.__cause__

    def _view(
        self, kind: int, shape: tuple[int, ...], raw: list[Field], typed: dict[int, list[Field]], external: dict[str, str] | None,
        segmented: bool,
    ) -> Any:  # fmt: skip
        if kind == 8:
            return Record(Global("onnx.StringTensor"), (shape,))
        if kind not in _DTYPES:
            raise Unsupported(f"has element type {_NO_DTYPE.get(kind, kind)}, which torch has no tensor of")
        if segmented:
            raise Unsupported("is one segment of several")
        dtype = BY_NAME[_DTYPES[kind]]
        nbytes = dtype.itemsize
        for size in shape:
            if size < 0:
                raise CorruptCheckpoint(f"has size {size}")
            nbytes *= size
        sources = [*(["raw_data"] if raw else []), *typed, *(["external data"] if external is not None else [])]
        if len(sources) > 1 or len(raw) > 1:
            raise CorruptCheckpoint(f"gives its values {len(sources) + max(len(raw) - 1, 0)} times")
        storage: Storage
        if external is not None:
            storage = self._external(external, nbytes)
        elif typed:
            ((number, parts),) = typed.items()
            storage = self._typed(dtype, number, parts, nbytes)
        else:
            storage = FileSpan(self.file, raw[0].start, raw[0].stop - raw[0].start) if raw else Joined([])
        if storage.nbytes != nbytes:
            raise CorruptCheckpoint(f"{dtype.name} of shape {list(shape)!s:.80} needs {nbytes} bytes, {storage.nbytes} are given")
        return TensorView(dtype, shape, storage)

    def _typed(self, dtype: DType, number: int, parts: list[Field], nbytes: int) -> Storage:
        wire, held = _TYPED.get(number, (BYTES, set()))
        if dtype.name not in held or any(part.wire not in (wire, BYTES) for part in parts):
            raise CorruptCheckpoint(f"has type {dtype.name} and values in field {number}, which does not hold it")
        joined = Joined([FileSpan(self.file, part.start, part.stop - part.start) for part in parts])
        if wire != VARINT:
            return joined
        if nbytes // dtype.itemsize > joined.nbytes:
            raise CorruptCheckpoint(f"needs {nbytes // dtype.itemsize} values, at most {joined.nbytes} are given")
        return Varints(joined, nbytes, dtype.itemsize)

    def _external(self, said: dict[str, str], nbytes: int) -> Storage:
        if self.path is None:
            raise Unsupported("has its values in another file, which a model inside an archive cannot have beside it")
        name = said.get("location", "")
        real = beside(self.path, name, "external data")
        file = self.beside.get(name)
        if file is None:
            file = self.beside[name] = opened(real, follow=False)
        offset = _count(said.get("offset", "0"), "offset")
        length = _count(said["length"], "length") if "length" in said else nbytes
        return FileSpan(file, offset, length)


def _count(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise CorruptCheckpoint(f"has external data with {what} {text!r:.40}")
    return int(text)


def _by_name(found: list[tuple[str, str, Any]]) -> dict[str, Any]:
    """The tensors by name; those whose name occurs more than once by the node that their graph belongs to, too."""
    times: dict[str, int] = {}
    for name, _, _ in found:
        times[name] = times.get(name, 0) + 1
    named: dict[str, Any] = {}
    for name, where, tensor in found:
        key = name if times[name] == 1 or not where else f"{where}/{name}"
        if key in named:
            raise AmbiguousCheckpoint(f"has two tensors named {key!r:.160}")
        named[key] = tensor
    return named


class Varints:
    """Integers that a file holds as varints, handed out as ``width`` little-endian bytes each."""

    __slots__ = ("inner", "location", "nbytes", "width")
    sequential = True  # where an element begins is known only once all before it have been read

    def __init__(self, inner: Storage, nbytes: int, width: int) -> None:
        self.inner = inner
        self.nbytes = nbytes
        self.width = width
        self.location = "cpu"

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        at = 0
        for block in self._blocks():
            if at >= stop:
                return
            piece = memoryview(block)[max(start - at, 0) : max(stop - at, 0)]
            if piece:
                yield piece
            at += len(block)
        if at != self.nbytes:
            raise CorruptCheckpoint(f"typed values decode to {at} bytes, {self.nbytes} are needed")

    def _blocks(self) -> Iterator[bytes]:
        width, value, shift, out = self.width, 0, 0, bytearray()
        mask = (1 << 8 * width) - 1
        for piece in self.inner.chunks(0, self.inner.nbytes):
            for byte in piece:
                value |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    out += (value & mask).to_bytes(width, "little")
                    value = shift = 0
                elif shift > 63:
                    raise CorruptCheckpoint("typed value of more than 10 bytes")
            yield bytes(out)
            out.clear()
        if shift:
            raise CorruptCheckpoint("typed values end inside a number")
