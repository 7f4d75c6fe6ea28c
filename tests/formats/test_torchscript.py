"""TorchScript archives, judged by `torch.jit.load(...).state_dict()`."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Optional

import pytest
import torch
from torch import nn

from formats import registry
from formats.core.checkpoint import Checkpoint
from formats.core.script_classes import parse
from tests.formats import conformance

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per:UserWarning")
FILES = sorted(p for p in conformance.FIXTURES.glob("torch*/*") if "scripted" in p.name or "traced" in p.name)


class Holder(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def holding(tensors: dict[str, torch.Tensor]) -> nn.Module:
    """A module whose state dict is ``tensors``."""
    root = Holder()
    for name, tensor in tensors.items():
        module: Any = root
        *path, last = name.split(".")
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, Holder())
            module = getattr(module, part)
        module.register_buffer(last, tensor.clone())
    return root


class TestConformance(conformance.ReaderConformance):
    format = "torchscript"
    dtypes = (*conformance.ReaderConformance.dtypes, torch.bool, torch.bfloat16, torch.complex64)

    @pytest.fixture
    def tensors(self) -> dict[str, torch.Tensor]:
        """As modules order them: a module's own tensors first."""
        given = {f"layer.of_{str(dtype)[6:]}": torch.randint(0, 2, (3, 3)).to(dtype) for dtype in self.dtypes}
        given |= {"layer.bias": torch.tensor([0.0, -0.0, float("nan"), float("inf")]), "part.a.empty": torch.zeros(0, 3)}
        return {"scalar": torch.tensor(2.5), **given, "last.scalar": torch.arange(3, dtype=torch.uint8)}

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        torch.jit.save(torch.jit.script(holding(tensors)), path)


class TestDeflated(TestConformance):
    """The same, packed again by a tool that compresses."""

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        super().write(tensors, path)
        deflate(path)


def deflate(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def state_dict(checkpoint: Checkpoint) -> dict[str, Any]:
    tree = checkpoint.tree
    return tree.get("state_dict", tree)


def assert_as_torch(path: Path) -> Checkpoint:
    """Names, order, values, and which are parameters and want gradients."""
    program = torch.jit.load(path, map_location="cpu")
    wanted = program.state_dict()
    parameters = dict(program.named_parameters(remove_duplicate=False))
    with registry.open(path) as checkpoint:
        ours = state_dict(checkpoint)
        assert {k: (t.dtype.name, t.shape, t.tobytes()) for k, t in ours.items()} == conformance.expected(wanted)
        assert list(ours) == list(wanted)
        assert {k for k, t in ours.items() if t.parameter} == set(parameters)
        assert {k for k, t in ours.items() if t.requires_grad} == {k for k, t in parameters.items() if t.requires_grad}
    return checkpoint


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(path.parts[-2:]))
def test_samples_of_old_releases(path: Path) -> None:
    assert_as_torch(path)


class Every(nn.Module):
    """Everything that an attribute can be."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3), nn.Linear(4, 4, bias=False))
        self.many = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.shared = self.many[0]
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("kept", torch.arange(4.0))
        self.register_buffer("volatile", torch.arange(5.0), persistent=False)
        self.plain = torch.arange(6.0)
        self.maybe = torch.arange(7.0)
        self.number = 3
        self.listed = [torch.ones(1), torch.zeros(1)]
        self.rnn = nn.LSTM(2, 3, bidirectional=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.steps(x) + self.kept[0] + torch.tensor([1.5, 2.5, 3.5, 4.5])


Every.__annotations__["maybe"] = Optional[torch.Tensor]  # noqa: UP045 - what torch.jit.script reads in every supported Python


@pytest.mark.parametrize("compressed", [False, True])
def test_every_kind_of_attribute(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "every.pt"
    torch.jit.save(torch.jit.script(Every().eval()), path)
    if compressed:
        deflate(path)
    tree = assert_as_torch(path).tree
    assert tree["attributes"]["number"] == 3
    assert {"plain", "maybe"} <= set(tree["attributes"])


def test_shared_modules_and_tied_weights(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    path = tmp_path / "tied.pt"
    torch.jit.save(torch.jit.script(model), path)
    ours = state_dict(assert_as_torch(path))
    assert ours["0.weight"].window() == ours["1.weight"].window()


@pytest.mark.parametrize("mobile", [False, True])
def test_traced(tmp_path: Path, mobile: bool) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout()).eval()
    program = torch.jit.trace(model, torch.zeros(1, 1, 5, 5))
    path = tmp_path / "traced.ptl"
    if mobile:
        program._save_for_lite_interpreter(str(path))
    else:
        torch.jit.save(program, path)
    assert_as_torch(path)


def test_weights_packed_for_one_machine_are_named_as_such(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4)).eval()
    program = torch.jit.script(torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8))
    path = tmp_path / "packed.pt"
    torch.jit.save(program, path)
    with registry.open(path) as checkpoint:
        assert any("LinearPackedParamsBase" in note and "packed" in note for note in checkpoint.notes)
        assert list(checkpoint.tree["packed"]) == ["0._packed_params._packed_params"]


def test_frozen_program(tmp_path: Path) -> None:
    path = tmp_path / "frozen.pt"
    torch.jit.save(torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Linear(64, 64)).eval())), path)
    with registry.open(path) as checkpoint:
        assert "lost their names" in checkpoint.notes[-1]
        assert "state_dict" not in checkpoint.tree
        assert any(t.shape in {(64, 64)} for t in checkpoint.tree["constants"])


def test_extra_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "extra.pt"
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path, _extra_files={"labels.txt": b"cat\ndog"})
    with registry.open(path) as checkpoint:
        assert checkpoint.metadata["extra_files"] == "labels.txt"


# -- class sources -----------------------------------------------------------------------------------------------------------------
def test_class_sources() -> None:
    found = parse(
        'class Sequential(Module):\n  __parameters__ = []\n  __buffers__ = ["a", "b\\"c", ]\n  __annotations__ = []\n'
        '  __annotations__["0"] = __torch__.x.Y\n  a : Tensor\n  n : int\n  k : Final[int] = 3\n'
        "  def forward(self: __torch__.x.Sequential,\n    x: Tensor) -> Tensor:\n    y : Tensor = x\n    return y\n"
        "class Plain:\n  q : Optional[Tensor]\n"
    )
    assert found["Sequential"].module
    assert found["Sequential"].buffers == {"a", 'b"c'}
    assert found["Sequential"].types == {"0": "__torch__.x.Y", "a": "Tensor", "n": "int", "k": "Final[int]"}
    assert not found["Plain"].module
    assert found["Plain"].buffers is None
