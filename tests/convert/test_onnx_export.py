"""Export to ONNX: every weight under its key and bit for bit, the same bytes each time, judged by onnxruntime and onnx's checker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from convert import onnx_export, onnx_graph, onnx_target
from convert.job import RunOptions
from convert.parity import inputs
from convert.parity.bisect import bisect_onnx
from convert.parity.ladder import Reference, Settings, check_onnx, diagnose
from convert.program import Program
from convert.programs.skeleton import Skeleton, is_fake, unfilled
from convert.select import choose
from formats import registry
from formats.core.checkpoint import Content, StateDict
from formats.core.dtype import BY_NAME
from formats.core.errors import LimitExceeded, Unsupported
from formats.core.output import write_layouts
from formats.core.storage import BytesStorage
from formats.core.tensor import TensorView
from formats.onnx_save import plan
from tests.convert.parity_models import SHAPES, build

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
torch.set_num_threads(1)

SETTINGS = Settings(devices=("cpu",), threads=1)


def specs(name: str) -> list[inputs.InputSpec]:
    return [inputs.parse(SHAPES[name])]


def views(net: torch.nn.Module, keys) -> dict[str, TensorView]:
    state = net.state_dict()
    return {
        key: TensorView(
            BY_NAME[str(state[key].dtype).removeprefix("torch.")],
            tuple(state[key].shape),
            BytesStorage(state[key].numpy().tobytes()),
        )
        for key in keys
    }


def written(net: torch.nn.Module, exported: onnx_graph.Exported, path: Path, **options) -> Path:
    content = Content(StateDict(dict(views(net, exported.weights))), metadata={"who": "test"})
    layouts = plan(content, {"program": exported.program, "data_name": f"{path.name}.data", **options})
    write_layouts(layouts, path)
    onnx.checker.check_model(str(path), full_check=True)
    return path


@pytest.mark.parametrize("exporter", onnx_graph.EXPORTERS)
@pytest.mark.parametrize("name", ["Mixed", "Indices"])
def test_an_export_is_proved(name: str, exporter: str, tmp_path: Path) -> None:
    if exporter == onnx_graph.DYNAMO:
        pytest.importorskip("onnxscript")
    net = build(name)
    exported = onnx_graph.export(net, specs(name), exporter=exporter)
    path = written(net, exported, tmp_path / "model.onnx")
    found = check_onnx(net, path, specs(name), SETTINGS)
    assert found.verdict == "proved", found.lines()
    state = net.state_dict()
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer}
    for key in exported.weights:
        assert held[key].tobytes() == state[key].numpy().tobytes()
    assert exported.dynamic  # and batches of 1, 2 and 5 ran above


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    net = build("Mixed")
    for exporter in onnx_graph.EXPORTERS:
        exported = onnx_graph.export(net, specs("Mixed"), exporter=exporter)
        assert exported.tied == {"fc2.weight": "fc.weight"}
        assert "fc2.weight" not in exported.weights


def test_large_weights_lie_beside_the_model_under_a_bare_name(tmp_path: Path) -> None:
    net = build("Mixed")
    exported = onnx_graph.export(net, specs("Mixed"), exporter=onnx_graph.TORCHSCRIPT)
    path = written(net, exported, tmp_path / "model.onnx", external=100)
    places = {
        entry.value for tensor in onnx.load(str(path), load_external_data=False).graph.initializer for entry in tensor.external_data
        if entry.key == "location"
    }  # fmt: skip
    assert places == {"model.onnx.data"}
    assert check_onnx(net, path, specs("Mixed"), SETTINGS).verdict == "proved"


def test_a_changed_weight_is_found_in_the_file(tmp_path: Path) -> None:
    net = build("Mixed")
    exported = onnx_graph.export(net, specs("Mixed"), exporter=onnx_graph.TORCHSCRIPT)
    path = written(net, exported, tmp_path / "model.onnx")
    data = bytearray(path.read_bytes())
    at = data.index(net.conv.weight.detach().numpy().tobytes())
    data[at + 3] ^= 1  # an exponent bit of the first element
    path.write_bytes(data)
    found = check_onnx(net, path, specs("Mixed"), SETTINGS)
    assert found.verdict == "failed"
    assert "conv.weight" in found.reason


def test_a_weight_left_out_though_it_is_read_is_found(tmp_path: Path) -> None:
    net = build("Mixed")
    exported = onnx_graph.export(net, specs("Mixed"), exporter=onnx_graph.TORCHSCRIPT)
    path = written(net, exported, tmp_path / "model.onnx")
    net.bn.running_mean += 0.001
    found = check_onnx(net, path, specs("Mixed"), SETTINGS)
    assert found.verdict == "failed"


def test_the_same_model_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    request = onnx_export.Request("tests.convert.parity_models:build", {"name": "Mixed"}, (SHAPES["Mixed"],), threads=1)
    told: list[str] = []
    first = onnx_export.run(request, say=told.append)
    assert first.program == onnx_graph.export(build("Mixed"), specs("Mixed")).program
    assert any("exporting" in step for step in told)
    assert b"/site-packages/" not in first.program
    assert str(Path.cwd()).encode() not in first.program
    assert {"import torch", "build", "export", "digests", "simplify"} <= set(first.seconds)


@pytest.mark.parametrize(
    ("misbehave", "limits", "error", "says"),
    [
        ("sleep", {"timeout": 8.0}, LimitExceeded, "more than 8 s"),
        ("memory", {"memory": 900_000_000}, LimitExceeded, "memory"),
        ("crash", {}, Unsupported, "building the model"),
    ],
)
def test_a_model_that_misbehaves_takes_nothing_down(misbehave: str, limits, error, says: str) -> None:
    arguments = {"name": "ZeroHead", "misbehave": misbehave}
    request = onnx_export.Request("tests.convert.parity_models:build", arguments, ("1x4",), threads=1)
    with pytest.raises(error, match=says):
        onnx_export.run(request, **limits)


def test_a_refusal_names_the_operator_and_what_to_try() -> None:
    with pytest.raises(Unsupported, match=r"bessel_j0") as refused:
        onnx_graph.export(build("Unexportable"), specs("Unexportable"))
    assert "torch.export" in refused.value.what
    assert "the older exporter" in refused.value.what
    assert refused.value.hint


def test_pad_fusion_comes_out_by_name(tmp_path: Path) -> None:
    net = build("PaddedPool")
    exported = onnx_graph.export(net, specs("PaddedPool"))
    path = written(net, exported, tmp_path / "model.onnx")
    found = check_onnx(net, path, specs("PaddedPool"), SETTINGS)
    if found.verdict == "proved":
        pytest.skip("this release of onnxruntime pads as the model does")
    assert found.verdict == "failed"
    reference = Reference(net, specs("PaddedPool"), SETTINGS)
    diagnose(found, reference, path, SETTINGS)
    assert any("optimiser Pad_Fusion is at fault" in line for line in found.diagnosis)
    assert check_onnx(net, path, specs("PaddedPool"), Settings(devices=("cpu",), disabled=("Pad_Fusion",))).verdict == "proved"


def test_bisecting_names_the_block_and_the_layer(tmp_path: Path) -> None:
    net = build("Mixed")
    exported = onnx_graph.export(net, specs("Mixed"))
    path = written(net, exported, tmp_path / "model.onnx")
    net.ln.weight.data[3] *= 1.01
    found = check_onnx(net, path, specs("Mixed"), SETTINGS)
    assert found.verdict == "failed"
    diagnosis = bisect_onnx(path, Reference(net, specs("Mixed"), SETTINGS), found.probes, threads=1)
    assert diagnosis.optimiser is None
    assert diagnosis.block == diagnosis.layer == "ln"


def test_onnx_data_types_are_those_of_onnx() -> None:
    from formats.onnx_save import DATA_TYPES

    for name, number in DATA_TYPES.items():
        theirs = onnx.TensorProto.DataType.Name(number).lower()
        assert {"float": "float32", "double": "float64"}.get(theirs, theirs) == name.replace("float8_", "float8")


@contextmanager
def hollow_of(name: str, path: Path) -> Iterator[tuple[Program, Skeleton]]:
    """The program of a saved net of ours, built without reading a weight."""
    torch.save(build(name).state_dict(), path)
    options = RunOptions(arch=f"{Path(__file__).with_name('parity_models.py')}:{name}", inputs=(SHAPES[name],))
    with registry.open(path) as checkpoint:
        yield onnx_target.bare(checkpoint, choose(checkpoint)[0], options)


@pytest.mark.parametrize("name", ["Mixed", "Indices"])
def test_without_weights_the_graph_is_the_same_byte_for_byte(name: str, tmp_path: Path) -> None:
    with hollow_of(name, tmp_path / "net.pth") as (program, hollow):
        assert all(is_fake(value) for value in hollow.module.state_dict(keep_vars=True).values())
        made = onnx_graph.export_weightless(hollow, program.specs)
    usual = onnx_graph.export(build(name), specs(name))
    assert made.program == usual.program
    assert made.weights == usual.weights  # digests: of the file by our reader, of the module by torch
    assert made.tied == usual.tied
    assert sorted(made.unused) == sorted(usual.unused)


def test_a_program_whose_tied_weights_differ_in_the_file_needs_its_weights(tmp_path: Path) -> None:
    state = {key: value.clone() for key, value in build("Mixed").state_dict().items()}
    state["fc2.weight"] += 1
    torch.save(state, tmp_path / "net.pth")
    options = RunOptions(arch=f"{Path(__file__).with_name('parity_models.py')}:Mixed", inputs=(SHAPES["Mixed"],))
    with registry.open(tmp_path / "net.pth") as checkpoint:
        program, hollow = onnx_target.bare(checkpoint, choose(checkpoint)[0], options)
        with pytest.raises(Unsupported, match=r"fc2\.weight.*different values"):
            onnx_graph.export_weightless(hollow, program.specs)


def test_modules_built_unfilled_have_ties_buffers_and_no_values() -> None:
    with unfilled():
        net = build("Mixed")
    assert all(parameter.is_meta for parameter in net.parameters())
    assert net.fc2.weight is net.fc.weight
    assert not net.bn.running_mean.is_meta
    assert not any(parameter.is_meta for parameter in build("Mixed").parameters())
