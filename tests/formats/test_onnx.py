"""ONNX as a source; onnx's own reader is the judge."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from formats import registry
from formats.core.checkpoint import Record
from formats.core.errors import AmbiguousCheckpoint, CheckpointError, CorruptCheckpoint, LimitExceeded, Unsupported
from tests.formats.conformance import ReaderConformance, audited, contents
from tests.torch_reading import row_major_bytes

TYPES = {
    torch.float8_e5m2: TensorProto.FLOAT8E5M2,
    torch.float8_e4m3fn: TensorProto.FLOAT8E4M3FN,
    torch.bfloat16: TensorProto.BFLOAT16,
}


def _initializer(name: str, tensor: torch.Tensor) -> TensorProto:
    if tensor.dtype in TYPES:
        return TensorProto(name=name, data_type=TYPES[tensor.dtype], dims=tensor.shape, raw_data=row_major_bytes(tensor))
    return numpy_helper.from_array(tensor.numpy(), name)


def _model(initializers: list[TensorProto], nodes: list[onnx.NodeProto] | None = None) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(nodes or [], "g", [], [], initializers), producer_name="a test")


class TestConformance(ReaderConformance):
    format = "onnx"
    dtypes = (*ReaderConformance.dtypes, torch.bool, torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.uint64,
              torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn)  # fmt: skip

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        path.write_bytes(_model([_initializer(*pair) for pair in tensors.items()]).SerializeToString())


class TestExternalData(ReaderConformance):
    format = "onnx"

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        # The name is fixed, as the content would otherwise differ with it.
        model = _model([_initializer(*pair) for pair in tensors.items()])
        onnx.save(model, path, save_as_external_data=True, location="weights.data", size_threshold=100, convert_attribute=False)

    @pytest.mark.parametrize("name", ["model.onnx"])
    def test_content_decides_not_the_name(self, sample: Path, tmp_path: Path, name: str) -> None:
        assert registry.open(sample).format == self.format

    def test_nothing_is_imported_run_or_opened(self, sample: Path) -> None:
        contents(sample)
        with audited() as seen:
            contents(sample)
        assert {str(path) for event, path in seen if event == "open"} == {str(sample), str(sample.parent / "weights.data")}
        assert all(event == "open" for event, _ in seen)

    def test_a_file_that_shrinks_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "model"
        self.write({"large": torch.zeros(1 << 20)}, path)
        with registry.open(path) as checkpoint:
            with (tmp_path / "weights.data").open("r+b") as file:
                file.truncate(1 << 20)
            with pytest.raises(CorruptCheckpoint):
                checkpoint.tree["large"].tobytes()


def _same(path: Path, tensors: list[TensorProto]) -> None:
    with registry.open(path) as checkpoint:
        got = {".".join(map(str, p)): tensor for p, tensor in checkpoint.tensors()}
        assert list(got) == [tensor.name for tensor in tensors]
        for tensor in tensors:
            array = numpy_helper.to_array(tensor)
            assert got[tensor.name].shape == array.shape
            assert got[tensor.name].tobytes() == array.tobytes(), tensor.name


def test_typed_fields(tmp_path: Path) -> None:
    """Every type in its own field, as `onnx.helper.make_tensor` packs it: negatives, extremes, an odd number of values."""
    kinds = {
        TensorProto.FLOAT: [1.5, -2.0, float("nan")], TensorProto.DOUBLE: [1e300, -0.0, 2.0],
        TensorProto.INT64: [-(1 << 63), 0, (1 << 63) - 1],
        TensorProto.INT32: [-(1 << 31), -1, (1 << 31) - 1], TensorProto.INT16: [-(1 << 15), -1, 7], TensorProto.INT8: [-128, -1, 127],
        TensorProto.UINT8: [0, 128, 255], TensorProto.UINT16: [0, 40000, 65535], TensorProto.UINT32: [0, 1 << 31, (1 << 32) - 1],
        TensorProto.UINT64: [0, 1 << 63, (1 << 64) - 1], TensorProto.BOOL: [True, False, True], TensorProto.FLOAT16: [1.5, -2.0, 65504.0],
        TensorProto.BFLOAT16: [1.5, -2.0, 3e38], TensorProto.FLOAT8E4M3FN: [1.5, -2.0, 448.0], TensorProto.FLOAT8E5M2: [1.5, -2.0, 0.25],
        TensorProto.COMPLEX64: [1 + 2j, -1j, 3.0], TensorProto.COMPLEX128: [1 + 2j, -1j, 3.0],
    }  # fmt: skip
    tensors = [helper.make_tensor(f"t{kind}", kind, [3], values) for kind, values in kinds.items()]
    assert not any(tensor.raw_data for tensor in tensors)
    path = tmp_path / "typed.onnx"
    onnx.save(_model(tensors), path)
    _same(path, tensors)
    with registry.open(path) as checkpoint:
        view = checkpoint.tree[f"t{TensorProto.INT32}"]
        assert b"".join(map(bytes, view.storage.chunks(3, 9))) == view.tobytes()[3:9]


def test_long_typed_fields_and_half_precision(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    values = generator.integers(-(1 << 40), 1 << 40, 200_000)
    halves = generator.standard_normal(1000).astype(ml_dtypes.bfloat16)
    tensors = [
        helper.make_tensor("long", TensorProto.INT64, [200, 1000], values),
        helper.make_tensor("bf", TensorProto.BFLOAT16, [1000], halves),
    ]
    onnx.save(_model(tensors), tmp_path / "m.onnx")
    _same(tmp_path / "m.onnx", tensors)


def _field(number: int, wire: int, payload: bytes) -> bytes:
    tag = bytes([number << 3 | wire])
    return tag + (len(payload).to_bytes(1, "little") if wire == 2 else b"") + payload


def test_unpacked_values_and_graphs_in_pieces(tmp_path: Path) -> None:
    """Protobuf lets a repeated field come unpacked, and a message in several pieces that are merged."""
    first = (
        _field(1, 0, b"\2")
        + _field(2, 0, b"\1")
        + _field(4, 5, b"\0\0\x80\x3f")
        + _field(4, 5, b"\0\0\0\x40")
        + _field(8, 2, b"a")
    )
    second = (
        _field(1, 0, b"\2") + _field(2, 0, b"\7") + _field(7, 0, b"\5") + _field(7, 0, b"\xff" * 9 + b"\1") + _field(8, 2, b"b")
    )
    data = _field(1, 0, b"\x08") + _field(7, 2, _field(5, 2, first)) + _field(7, 2, _field(5, 2, second))
    path = tmp_path / "pieces.onnx"
    path.write_bytes(data)
    model = onnx.load(path)
    assert [numpy_helper.to_array(t).tolist() for t in model.graph.initializer] == [[1.0, 2.0], [5, -1]]
    _same(path, list(model.graph.initializer))


def _branches(depth: int) -> onnx.GraphProto:
    graph = helper.make_graph([], "leaf", [], [], [numpy_helper.from_array(np.full(2, depth), "w")])
    for level in range(depth):
        node = helper.make_node("If", ["c"], [], name=f"if{level}", then_branch=graph)
        graph = helper.make_graph([node], "g", [], [], [numpy_helper.from_array(np.full(2, level), "w")])
    return graph


def test_inner_graphs(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(_branches(2)).SerializeToString())
    with registry.open(path) as checkpoint:
        assert {k: v.tobytes()[0] for k, v in checkpoint.tree.items()} == {
            "w": 1,
            "if1.then_branch/w": 0,
            "if1.then_branch/if0.then_branch/w": 2,
        }


def test_graphs_nested_too_deep_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(_branches(20)).SerializeToString())
    assert len(registry.open(path).tree) == 21
    # Deeper than protobuf itself would write: a message in a message in …
    inner = b""
    for _ in range(500):
        attribute = b"\x0a\x01a\x32" + _varint(len(inner)) + inner
        node = b"\x2a" + _varint(len(attribute)) + attribute
        inner = b"\x0a" + _varint(len(node)) + node
    path.write_bytes(b"\x08\x08\x3a" + _varint(len(inner)) + inner)
    with pytest.raises(LimitExceeded, match="64 deep"):
        registry.open(path)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def test_constants(tmp_path: Path) -> None:
    """Beside initializers they are a record; without any they are the weights."""
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.arange(3), "inner name"))
    scalar = helper.make_node("Constant", [], ["d"], value_float=1.0)
    onnx.save(_model([numpy_helper.from_array(np.arange(2), "w")], [constant, scalar]), tmp_path / "a.onnx")
    with registry.open(tmp_path / "a.onnx") as checkpoint:
        assert list(checkpoint.tree["initializers"]) == ["w"]
        constants = checkpoint.tree["constants"]
        assert isinstance(constants, Record)
        assert list(constants.fields) == ["c"]
    onnx.save(_model([], [constant, scalar]), tmp_path / "b.onnx")
    with registry.open(tmp_path / "b.onnx") as checkpoint:
        assert list(checkpoint.tree) == ["c"]
        assert any("no initializer" in note for note in checkpoint.notes)


def _external(location: str, tmp_path: Path, **entries: str) -> Path:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    path = tmp_path / "m.onnx"
    path.write_bytes(_model([tensor]).SerializeToString())
    (tmp_path / "w.bin").write_bytes(bytes(range(16)))
    return path


@pytest.mark.parametrize(
    "location", ["", ".", "..", "../w.bin", "/etc/passwd", "a/../w.bin", "a\\w.bin", "c:w.bin", "./w.bin", "http://x/w"]
)
def test_external_data_elsewhere_are_refused(tmp_path: Path, location: str) -> None:
    with pytest.raises(CorruptCheckpoint, match="bare name"):
        registry.open(_external(location, tmp_path))


@pytest.mark.parametrize("entries", [{"offset": "9"}, {"offset": "-1"}, {"length": "4"}, {"length": "9" * 30}, {"offset": "1e1"}])
def test_external_ranges_that_lie(tmp_path: Path, entries: dict[str, str]) -> None:
    with pytest.raises(CorruptCheckpoint, match="'w'"):
        registry.open(_external("w.bin", tmp_path, **entries))


def test_external_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(bytes(16))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").symlink_to(outside)
    path = _external("w2.bin", folder)
    (folder / "w2.bin").symlink_to(outside)
    with pytest.raises(CorruptCheckpoint, match="outside the folder"):
        registry.open(path)
    (folder / "w2.bin").unlink()
    (folder / "w2.bin").mkdir()
    with pytest.raises(CheckpointError, match="folder"):
        registry.open(path)


def test_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"

    def attempt(tensor: TensorProto) -> None:
        path.write_bytes(_model([tensor]).SerializeToString())
        registry.open(path)

    with pytest.raises(Unsupported, match="'w'.*INT4"):
        attempt(helper.make_tensor("w", TensorProto.INT4, [2], [1, 2]))
    both = numpy_helper.from_array(np.zeros(2, np.float32), "w")
    both.float_data.extend([1.0, 2.0])
    with pytest.raises(CorruptCheckpoint, match="2 times"):
        attempt(both)
    short = numpy_helper.from_array(np.zeros(2, np.float32), "w")
    for dims in ([3], [1 << 62, 1 << 62], [-1, -2]):
        del short.dims[:]
        short.dims.extend(dims)
        with pytest.raises(CorruptCheckpoint, match="'w'"):
            attempt(short)
    wrong = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], int64_data=[1])
    with pytest.raises(CorruptCheckpoint, match="does not hold"):
        attempt(wrong)
    twice = numpy_helper.from_array(np.zeros(2, np.float32), "w")
    path.write_bytes(_model([twice, twice]).SerializeToString())
    with pytest.raises(AmbiguousCheckpoint, match="two tensors named 'w'"):
        registry.open(path)


def test_real_models(corpus: Path) -> None:
    def tensors(graph: onnx.GraphProto) -> list[TensorProto]:
        found = list(graph.initializer)
        for node in graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "value":
                    found.append(attribute.t)
                if attribute.type == onnx.AttributeProto.GRAPH:
                    found += tensors(attribute.g)
        return found

    paths = sorted(corpus.rglob("*.onnx"))
    assert paths
    for path in paths:
        wanted = sorted(numpy_helper.to_array(tensor).tobytes() for tensor in tensors(onnx.load(path).graph))
        with registry.open(path) as checkpoint:
            assert sorted(tensor.tobytes() for _, tensor in checkpoint.tensors()) == wanted
