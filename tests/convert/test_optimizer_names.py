"""Names of an optimizer's parameters: proved where something proves them, presumed where the order alone speaks, else none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convert.__main__ import main
from convert.inspection import inspect

torch.set_num_threads(1)
OPTIMIZERS: dict[str, Callable[[Iterable[Any]], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "AdamW amsgrad": lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=0.1),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.1),
}


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1), nn.Flatten(), nn.Linear(5, 2), nn.Linear(2, 7)
    )


def equal_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, shape: tuple[int, ...] = (2, 3, 3, 3)) -> dict[str, Any]:
    model(torch.randn(shape)).sum().backward()
    optimizer.step()
    return {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}


def found(checkpoint: Any, tmp_path: Path) -> dict[str, Any]:
    torch.save(checkpoint, tmp_path / "c.pth.tar")
    (one,) = inspect(tmp_path / "c.pth.tar").document()["optimizers"]
    return dict(one)


def truth(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, str]:
    """{position: name} by the parameters' identities, which only the living objects know."""
    names = {id(p): name for name, p in model.named_parameters()}
    flat = [p for group in optimizer.param_groups for p in group["params"]]
    return {str(at): names[id(p)] for at, p in enumerate(flat)}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_what_is_named_is_right_and_everything_is_named(kind: str, tmp_path: Path) -> None:
    model = net()
    optimizer = OPTIMIZERS[kind](model.parameters())
    said = found(trained(model, optimizer), tmp_path)
    assert said["parameters"] | said["presumed"] == truth(model, optimizer)
    assert said["parameters"]["0"] == "0.weight"
    assert "1.weight" in said["presumed"].values(), "three vectors of four: the order alone speaks for them"


def test_two_groups_with_and_without_decay(tmp_path: Path) -> None:
    model = net()
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decay}, {"params": rest, "weight_decay": 0.0}], lr=0.1)
    said = found(trained(model, optimizer), tmp_path)
    assert said["parameters"] | said["presumed"] == truth(model, optimizer)


def test_parameters_of_equal_shape_in_another_order_are_not_claimed(tmp_path: Path) -> None:
    model = equal_layers()
    shuffled = [p for at in (2, 0, 1) for p in model[at].parameters()]
    said = found(trained(model, torch.optim.Adam(shuffled, lr=0.1), (2, 4)), tmp_path)
    assert "parameters" not in said
    model = net()
    order = list(model.parameters())
    order[1], order[2] = order[2], order[1]  # both of shape [4]
    optimizer = torch.optim.Adam(order, lr=0.1)
    said = found(trained(model, optimizer), tmp_path)
    assert said["parameters"].items() <= truth(model, optimizer).items()


def test_another_order_of_other_shapes_names_nothing(tmp_path: Path) -> None:
    model = net()
    said = found(trained(model, torch.optim.Adam(reversed(list(model.parameters())), lr=0.1)), tmp_path)
    assert "parameters" not in said
    assert "presumed" not in said


def test_frozen_parameters_are_missing_and_nothing_is_guessed(tmp_path: Path) -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    said = found(trained(model, torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)), tmp_path)
    assert "parameters" not in said


def test_frozen_parameters_that_are_given_have_no_state(tmp_path: Path) -> None:
    model = net()
    model[2].weight.requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    said = found(trained(model, optimizer), tmp_path)
    assert said["parameters"] | said["presumed"] == truth(model, optimizer)
    assert "2.weight" in said["presumed"].values()


def test_names_that_the_optimizer_says_itself(tmp_path: Path) -> None:
    model = equal_layers()
    optimizer = torch.optim.Adam(list(model.named_parameters())[::-1], lr=0.1)
    said = found(trained(model, optimizer, (2, 4)), tmp_path)
    assert said["parameters"] == truth(model, optimizer)
    assert "param_names" in said["proved_by"]


def test_state_keyed_by_id(tmp_path: Path) -> None:
    """Before torch 1.4 ``state`` and ``params`` named parameters by ``id(p)``."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    checkpoint = trained(model, optimizer)
    ids = {at: 140_000_000_000_000 + 977 * (at * 7 % 13) for at in range(10)}
    old = checkpoint["optimizer"]
    old["state"] = {ids[at]: entry for at, entry in old["state"].items()}
    old["param_groups"][0]["params"] = [ids[at] for at in old["param_groups"][0]["params"]]
    said = found(checkpoint, tmp_path)
    assert said["parameters"] | said["presumed"] == truth(model, optimizer)


def test_the_rest_and_the_text_say_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    torch.save(trained(model, optimizer), tmp_path / "c.pth.tar")
    assert main([str(tmp_path / "c.pth.tar"), "--to", "safetensors", "--keep", "all"]) == 0
    rest = json.loads((tmp_path / "c.rest.json").read_text())
    assert rest["optimizers"][0]["parameters"]["0"] == "0.weight"
    assert rest["optimizers"][0]["path"] == "optimizer"
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "c.pth.tar")]) == 0
    assert "optimizer: 10 parameters: " in capsys.readouterr().out
