"""Whole models as state dicts: equal to torch's own `state_dict()`, in its order, without the classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convert import select
from formats import registry
from formats.core.checkpoint import StateDict
from formats.core.errors import CorruptCheckpoint


class Odd(nn.Module):
    """Everything that changes what a state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, bias=False)
        self.register_buffer("kept", torch.arange(3.0))
        self.register_buffer("hidden", torch.arange(4.0), persistent=False)
        self.register_buffer("nothing", None)
        self.register_parameter("no_parameter", None)
        self.shared = nn.Linear(2, 2)
        self.again = self.shared
        self.gone = None
        self.plain_tensor = torch.ones(5)
        self.scale = nn.Parameter(torch.ones(1))
        self.many = nn.ParameterList([nn.Parameter(torch.zeros(2)) for _ in range(3)])
        self.table = nn.ParameterDict({"x": nn.Parameter(torch.ones(1)), "a": nn.Parameter(torch.zeros(1))})
        self.rnn = nn.LSTM(2, 3, num_layers=2, bidirectional=True)
        self.normed = nn.utils.weight_norm(nn.Linear(2, 3)) if hasattr(nn.utils, "weight_norm") else nn.Linear(2, 3)
        self.blocks = nn.ModuleList([nn.Sequential(nn.BatchNorm1d(2), nn.PReLU()), nn.Embedding(3, 2)])


def read(path: Path) -> StateDict:
    (choice,) = select.choose(registry.open(path), strip=False)
    return choice.state_dict


def check(found: StateDict, model: nn.Module) -> None:
    expected = model.state_dict()
    assert list(found.tensors) == list(expected)
    for key, tensor in found.tensors.items():
        assert tensor.tobytes() == expected[key].detach().contiguous().numpy().tobytes(), key


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_state_dict_of_a_whole_model(tmp_path: Path, legacy: bool, protocol: int) -> None:
    model: Any = nn.DataParallel(nn.Sequential(Odd(), nn.Identity()))
    path = tmp_path / "model.pt"
    torch.save(model, path, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    with registry.open(path) as checkpoint:
        (choice,) = select.choose(checkpoint, strip=False)
        check(choice.state_dict, model)
        (choice,) = select.choose(checkpoint)
        assert choice.stripped == "module."
        check(choice.state_dict, model.module)
        assert choice.state_dict.versions is None


def test_parametrized_modules(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    nn.utils.parametrizations.weight_norm(model[0])
    path = tmp_path / "sd.pt"
    torch.save(model.state_dict(), path)
    check(read(path), model)

    # torch refuses to pickle a parametrized module whole; older releases and other picklers did not.
    class Carrier(nn.Module):
        def __reduce__(self) -> Any:
            return (
                _blank,
                (),
                {k: v for k, v in model.__dict__.items() if k in ("_parameters", "_buffers")}
                | {"_modules": {"0": _Bare(model[0])}},
            )

    torch.save(Carrier(), path)
    check(read(path), model)


class _Bare:
    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __reduce__(self) -> Any:
        fields = {k: self.module.__dict__[k] for k in ("_parameters", "_buffers", "_non_persistent_buffers_set", "training")}
        children = {name: _Bare(child) for name, child in self.module._modules.items()}
        return _blank, (), fields | {"_modules": children}


def _blank() -> None:
    """Stands for a class made at run time."""


def test_a_module_that_holds_itself_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(1, 1))
    model._modules["me"] = model
    torch.save(model, tmp_path / "model.pt")
    with pytest.raises(CorruptCheckpoint, match="holds itself"):
        read(tmp_path / "model.pt")


def test_fx_graph_module(tmp_path: Path) -> None:
    model = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
    torch.save(model, tmp_path / "model.pt")
    check(read(tmp_path / "model.pt"), model)
