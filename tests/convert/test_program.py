"""Checkpoints as models that run: outputs are compared with those of the releases, and the libraries, that wrote them."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.program import Program, ProgramSpec, build
from convert.programs import arch, inputs
from convert.programs.userfile import UserFile
from convert.select import choose
from formats import registry
from formats.core.errors import CheckpointError, Unsupported, UsageError

torch = pytest.importorskip("torch")
nn = torch.nn
torch.set_num_threads(1)

RELEASES = ["torch1.6.0_py3.8", "torch1.13.1_py3.11"]


def made(path: Path, spec: ProgramSpec = ProgramSpec(), select: str | None = None) -> Program:  # noqa: B008
    with registry.open(path) as checkpoint:
        choice = None if spec.trust_source else choose(checkpoint, select=select)[0]
        return build(spec, checkpoint, choice)


def reference(folder: Path, name: str) -> tuple[Any, Any]:
    held = np.load(folder / f"_ref_{name}.npz")
    return torch.from_numpy(held["x"]), torch.from_numpy(held["y"])


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize(
    "name", ["tinynet_full_custom_{}.pt", "tinynet_dataparallel_obj_{}.t7", "tinynet_model_and_optimizer_objects_{}.pt"]
)
def test_whole_models_of_old_releases_give_their_outputs(fixtures: Path, release: str, container: str, name: str) -> None:
    program = made(fixtures / release / name.format(container), ProgramSpec(str(fixtures / "fixture_models.py")))
    x, y = reference(fixtures / release, "tinynet")
    with torch.no_grad():
        torch.testing.assert_close(program.module(x), y, rtol=1e-6, atol=1e-6)
    assert program.kind == "whole"
    assert program.source == "mymodels.TinyNet of fixture_models.py"
    assert not program.module.training


@pytest.mark.parametrize("release", RELEASES)
def test_ties_survive(fixtures: Path, release: str) -> None:
    program = made(fixtures / release / "tiedlm_full_zip.pt", ProgramSpec(str(fixtures / "fixture_models.py")))
    assert program.module.dec.weight is program.module.emb.weight
    x, y = reference(fixtures / release, "tiedlm")
    with torch.no_grad():
        torch.testing.assert_close(program.module(x), y, rtol=1e-6, atol=1e-6)


def test_a_state_dict_with_a_class_of_the_users(fixtures: Path) -> None:
    spec = ProgramSpec(f"{fixtures / 'fixture_models.py'}:BiLSTM", ("1x5x8",))
    program = made(fixtures / RELEASES[0] / "bilstm_sd_zip.pt", spec)
    x, y = reference(fixtures / RELEASES[0], "bilstm")
    with torch.no_grad():
        torch.testing.assert_close(program.module(x), y, rtol=1e-5, atol=1e-6)
        assert program.module(*program.inputs(batch=3)).shape[:2] == (3, 5)
    assert program.fit is not None
    assert program.fit.strict


def test_a_class_is_never_taken_because_a_checkpoint_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module is importable, and is still not imported."""
    (tmp_path / "innocent_module_9317.py").write_text("import torch\nclass Net(torch.nn.Linear):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("innocent_module_9317")
    torch.save(module.Net(2, 2), tmp_path / "whole.pt")
    monkeypatch.delitem(sys.modules, "innocent_module_9317")
    with pytest.raises(Unsupported, match="innocent_module_9317.Net") as caught:
        made(tmp_path / "whole.pt")
    assert "--arch FILE.py" in str(caught.value.hint)
    assert "innocent_module_9317" not in sys.modules


def test_hooks_are_dropped(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(_shout)
    torch.save(layer, tmp_path / "hooked.pt")
    program = made(tmp_path / "hooked.pt")
    x = torch.ones(1, 2)
    assert torch.equal(program.module(x), nn.functional.linear(x, layer.weight, layer.bias))


def _shout(*_: Any) -> Any:
    raise AssertionError("a hook of the file has run")


def test_a_method_cannot_be_replaced(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    layer.forward = torch.nn.functional.relu
    torch.save(layer, tmp_path / "replaced.pt")
    with pytest.raises(Unsupported, match="replaces its method forward"):
        made(tmp_path / "replaced.pt")


def test_functions_that_are_no_activations_stay_out(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    layer.act, layer.bad = torch.nn.functional.relu, torch.load
    torch.save(layer, tmp_path / "functions.pt")
    program = made(tmp_path / "functions.pt")
    assert program.module.act is torch.nn.functional.relu
    assert not hasattr(program.module, "bad")
    assert any("bad" in note for note in program.notes)


@pytest.mark.parametrize(
    ("layer", "missing", "x"),
    [
        (nn.Conv2d(2, 3, 3, padding=1), ["padding_mode", "_reversed_padding_repeated_twice"], (1, 2, 5, 5)),
        (nn.GELU(), ["approximate"], (2, 3)),
        (nn.LSTM(3, 4, 2, batch_first=True), ["proj_size"], (1, 5, 3)),
        (nn.MultiheadAttention(4, 2), [], None),
    ],
    ids=["Conv2d", "GELU", "LSTM", "MultiheadAttention"],
)
def test_attributes_that_a_class_has_gained_since(tmp_path: Path, layer: Any, missing: list[str], x: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 3), layer) if x == (2, 3) else layer
    model.eval()
    for name in missing:
        del layer.__dict__[name]
    torch.save(model, tmp_path / "old.pt")
    program = made(tmp_path / "old.pt")
    for name in missing:
        setattr(layer, name, getattr(program.module[1] if x == (2, 3) else program.module, name))
    given_ = (torch.randn(5, 1, 4),) * 3 if x is None else (torch.randn(x),)
    with torch.no_grad():
        ours, theirs = program.module(*given_), model(*given_)
    one, other = (value[0] if isinstance(value, tuple) else value for value in (ours, theirs))
    assert torch.equal(one, other)


def test_two_files_may_both_be_called_model(tmp_path: Path) -> None:
    for name, factor in (("one", 2), ("two", 3)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "blocks.py").write_text(f"FACTOR = {factor}\n")
        (folder / "model.py").write_text(
            "import torch\nfrom blocks import FACTOR\n\nclass Net(torch.nn.Linear):\n    def __init__(self, width=2):\n"
            "        import blocks\n        assert blocks.FACTOR == FACTOR\n        super().__init__(width, width, bias=False)\n\n"
            "    def forward(self, x):\n        return FACTOR * super().forward(x)\n"
        )
    torch.save({"weight": torch.eye(2)}, tmp_path / "w.pt")
    first, second = (
        made(tmp_path / "w.pt", ProgramSpec(f"{tmp_path / name / 'model.py'}:Net", ("1x2",))) for name in ("one", "two")
    )
    x = torch.ones(1, 2)
    assert first.module(x).tolist() == [[2, 2]]
    assert second.module(x).tolist() == [[3, 3]]
    assert not {"model", "blocks"} & set(sys.modules)
    assert str(tmp_path / "one") not in sys.path


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    torch.save({"weight": torch.eye(3), "other": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(Unsupported) as caught:
        made(tmp_path / "w.pt", ProgramSpec("torch.nn:Linear,in_features=2,out_features=3"))
    text = str(caught.value)
    assert "1 missing (bias)" in text
    assert "1 unexpected (other)" in text
    assert "weight: [3, 3] for [3, 2]" in text


def test_dtypes_are_kept_and_inputs_follow(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).double().state_dict(), tmp_path / "w.pt")
    program = made(tmp_path / "w.pt", ProgramSpec("torch.nn:Linear,in_features=3,out_features=2", ("4x3",)))
    assert program.module.weight.dtype == torch.float64
    assert program.module(*program.inputs()).dtype == torch.float64


def test_a_sequence_says_what_its_first_linear_layer_takes(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    torch.save(nn.Sequential(nn.Sequential(nn.Linear(7, 4), nn.ReLU()), nn.Linear(4, 2)), whole)
    program = made(whole)
    assert [str(spec) for spec in program.specs] == ["1x7:float32"]
    assert program.module(*program.inputs(batch=3)).shape == (3, 2)
    assert made(whole, ProgramSpec(inputs=("5x7",))).specs[0].shape == (5, 7), "what is asked for comes first"
    for first in (nn.Conv2d(3, 4, 3), nn.BatchNorm1d(7), nn.ModuleList([nn.Linear(7, 4)])):
        torch.save(nn.Sequential(first, nn.BatchNorm1d(4)), whole)
        assert made(whole).specs == (), "nothing is guessed"


def test_other_weights_in_the_same_program(tmp_path: Path) -> None:
    torch.save({"weight": torch.eye(2), "bias": torch.zeros(2)}, tmp_path / "w.pt")
    program = made(tmp_path / "w.pt", ProgramSpec("torch.nn:Linear,in_features=2,out_features=2", ("1x2",)))
    other = program.with_weights({"weight": 5 * torch.eye(2), "bias": torch.zeros(2)})
    x = torch.ones(1, 2)
    assert (program.module(x).tolist(), other(x).tolist()) == ([[1, 1]], [[5, 5]])
    with pytest.raises(Unsupported, match="missing"):
        program.with_weights({"weight": torch.eye(2)})


@pytest.mark.parametrize("release", RELEASES)
def test_torchscript_runs_only_when_trusted(fixtures: Path, release: str) -> None:
    path = fixtures / release / "tinynet_traced.pt"
    with pytest.raises(Unsupported) as caught:
        made(path)
    assert "--trust-source" in str(caught.value.hint)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = made(path, ProgramSpec(trust_source=True, inputs=("1x3x8x8",)))
    x, y = reference(fixtures / release, "tinynet")
    with torch.no_grad():
        torch.testing.assert_close(program.module(x), y, rtol=1e-6, atol=1e-6)
    assert any("code of the file was run" in note for note in program.notes)


def test_nothing_known_names_what_would_help(fixtures: Path) -> None:
    with pytest.raises(Unsupported) as caught:
        made(fixtures / RELEASES[0] / "bilstm_sd_zip.pt")
    assert "--arch" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "kind", "name", "arguments"),
    [
        ("torchvision:resnet34", "torchvision", "resnet34", {}),
        ("timm:vit_tiny_patch16_224,img_size=(64, 96),num_classes=10,act_layer=gelu", "timm", "vit_tiny_patch16_224",
         {"img_size": (64, 96), "num_classes": 10, "act_layer": "gelu"}),
        ("transformers:some/folder,with,commas", "transformers", "some/folder,with,commas", {}),
        ("net.py:Net", "file", "Net", {}),
        ("net.py", "file", "", {}),
        (r"C:\models\net.py:make,width=3", "file", "make", {"width": 3}),
        ("package.module:Net,depth=[1, 2]", "module", "Net", {"depth": [1, 2]}),
    ],
)  # fmt: skip
def test_arch_is_parsed(text: str, kind: str, name: str, arguments: dict[str, Any]) -> None:
    parsed = arch.parse(text)
    assert (parsed.kind, parsed.name, dict(parsed.arguments)) == (kind, name, arguments)


@pytest.mark.parametrize("text", ["", "resnet34", "torchvision:", "timm:x,1", "os", "a b:c", "timm:resnet18,=3", ":x"])
def test_arch_that_says_nothing(text: str) -> None:
    with pytest.raises(UsageError):
        arch.parse(text)


@given(st.text(max_size=60))
def test_any_arch_is_parsed_or_refused(text: str) -> None:
    try:
        arch.parse(text)
    except UsageError:
        pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere_at_all:Net", "cannot be imported"),
        ("torch.nn:NoSuchLayer", "no callable"),
        ("torch.nn:Linear", "cannot be built"),
        ("collections:OrderedDict", "not a torch.nn.Module"),
        ("missing_file_13.py:Net", "no such file"),
        ("transformers:/nowhere", "no config.json"),
    ],
)
def test_arch_that_cannot_be_built(text: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        arch.make(arch.parse(text), UserFile)


def test_building_does_not_move_the_global_seed() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    arch.make(arch.parse("torch.nn:Linear,in_features=2,out_features=2"), UserFile)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("text", "shape", "dtype", "check"),
    [
        ("1x3x32x48", (1, 3, 32, 48), "float32", lambda x: 0.5 < x.std() < 3),
        ("2x16:int64:0..50000", (2, 16), "int64", lambda x: x.min() >= 0 and x.max() < 50000 and x.max() > 1000),
        ("4:bool", (4,), "bool", lambda x: True),
        ("3x3:float64:-1..1", (3, 3), "float64", lambda x: x.abs().max() <= 1),
        ("scalar:int32:5..6", (), "int32", lambda x: x == 5),
        ("1x8:uint8", (1, 8), "uint8", lambda x: x.max() < 2),
    ],
)  # fmt: skip
def test_inputs_are_what_was_asked(text: str, shape: tuple[int, ...], dtype: str, check: Callable[[Any], bool]) -> None:
    spec = inputs.parse(text)
    value = inputs.make(spec, seed=3)
    assert (tuple(value.shape), str(value.dtype)) == (shape, f"torch.{dtype}")
    assert bool(check(value))
    assert torch.equal(value, inputs.make(spec, seed=3))
    if shape:
        assert inputs.make(spec, seed=3, batch=5).shape[0] == 5


@pytest.mark.parametrize(
    "text", ["", "1x", "ax3", "1x3:float33", "1x0", "3:int64:9..2", "1:int64:..", "none.npy", "1x3:1..x", "9" * 40]
)
def test_inputs_that_say_nothing(text: str) -> None:
    with pytest.raises(UsageError):
        inputs.parse(text)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="0123456789x:.-int64float", max_size=16))
def test_any_input_is_parsed_or_refused(text: str) -> None:
    try:
        spec = inputs.parse(text)
    except UsageError:
        return
    assert inputs.parse(str(spec)) == spec


def test_samples(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    torch.save(torch.ones(1, 2, dtype=torch.int64), tmp_path / "x.pt")
    assert inputs.make(inputs.parse(str(tmp_path / "x.npy")), 0, batch=3).tolist() == [[0, 1, 2], [3, 4, 5], [0, 1, 2]]
    assert inputs.make(inputs.parse(str(tmp_path / "x.pt")), 0).dtype == torch.int64
    torch.save({"x": 1}, tmp_path / "dict.pt")
    with pytest.raises(UsageError, match="not one tensor"):
        inputs.make(inputs.parse(str(tmp_path / "dict.pt")), 0)
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UsageError, match="cannot be read"):
        inputs.make(inputs.parse(str(tmp_path / "bad.npy")), 0)


ZOO = [
    "torchvision:resnet18",
    "torchvision:squeezenet1_1",
    "torchvision:mobilenet_v3_small",
    "timm:convnext_atto",
    "timm:mobilenetv3_small_050",
]


@pytest.mark.parametrize("name", ZOO)
def test_zoo_models_state_dict_and_whole(name: str, tmp_path: Path) -> None:
    """No --arch: the state dict is identified, the whole model is rebuilt; both give the very output of the model that was saved."""
    library, _, model_name = name.partition(":")
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    from benchmarks import zoo_models

    torch.manual_seed(1)
    model = zoo_models.build(library, model_name, classes=11).eval()
    torch.save({"state_dict": model.state_dict(), "arch": model_name}, tmp_path / "sd.pth.tar")
    torch.save(model, tmp_path / "whole.pt")
    for path, kind in ((tmp_path / "sd.pth.tar", "identified"), (tmp_path / "whole.pt", "whole")):
        program = made(path)
        assert program.kind == kind
        given_ = program.inputs(seed=2)
        assert given_[0].shape[1] == 3
        with torch.no_grad():
            assert torch.equal(program.module(*given_), model(*given_))


def test_a_golden_output_decides_between_members(tmp_path: Path) -> None:
    """ResNet-18 and its blur-pooled twin share their weights; one known output tells them apart."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    from benchmarks import zoo_models

    torch.manual_seed(1)
    model = zoo_models.build("timm", "resnetblur18", classes=5).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    x = torch.randn(1, 3, 96, 96)
    np.save(tmp_path / "x.npy", x.numpy())
    with torch.no_grad():
        np.save(tmp_path / "y.npy", model(x).numpy())
    assert made(tmp_path / "weights.pth").assumption is not None
    program = made(tmp_path / "weights.pth", ProgramSpec(golden=(tmp_path / "x.npy", tmp_path / "y.npy")))
    assert program.source == "timm:resnetblur18,num_classes=5"
    assert program.assumption is None
    np.save(tmp_path / "y.npy", np.zeros((1, 5), np.float32))
    with pytest.raises(Unsupported, match="no architecture gives the golden output"):
        made(tmp_path / "weights.pth", ProgramSpec(golden=(tmp_path / "x.npy", tmp_path / "y.npy")))
