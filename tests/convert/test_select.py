"""Finding the model: every nesting that people make, judged by what torch puts in and what it must get back."""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from convert import candidates, select
from formats import registry
from formats.core.errors import AmbiguousCheckpoint, CorruptCheckpoint, LimitExceeded, UnknownFormat, UsageError


def net(*sizes: int) -> nn.Sequential:
    return nn.Sequential(*[nn.Linear(a, b) for a, b in itertools.pairwise(sizes)])


def trained(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, model[0].in_features)).sum().backward()
    optimizer.step()
    return optimizer


def chosen(tmp_path: Path, tree: Any, **options: Any) -> list[select.Choice]:
    path = tmp_path / "in.pth"
    torch.save(tree, path)
    return select.choose(registry.open(path), **options)  # the tensors keep the file open


def same(choice: select.Choice, expected: dict[str, torch.Tensor]) -> None:
    assert list(choice.state_dict.tensors) == list(expected)
    for key, tensor in choice.state_dict.tensors.items():
        assert tensor.tobytes() == expected[key].contiguous().numpy().tobytes(), key


@pytest.mark.parametrize(
    "nest",
    [
        lambda sd: sd,
        lambda sd: {"state_dict": sd},
        lambda sd: {"model": sd, "epoch": 3},
        lambda sd: {"a": {"b": {"c": {"net": sd}}}, "lr": 0.1},
        lambda sd: {"checkpoint": [1, {"weights": sd}]},
        dict,
        lambda sd: {"model": dict(sd), "note": "x", "mean": torch.zeros(3), "std": torch.ones(3)},
        lambda sd: defaultdict(int, sd),
        lambda sd: {"loss": sd},  # a perceptual loss: the name alone does not make it something else
        lambda sd: ("v1", sd),
    ],
)
def test_one_model_in_any_nesting(tmp_path: Path, nest: Any) -> None:
    expected = net(3, 4, 2).state_dict()
    (choice,) = chosen(tmp_path, nest(expected))
    assert choice.name == ""
    same(choice, expected)


def test_moments_of_the_optimizer_stay_out(tmp_path: Path) -> None:
    model = net(3, 4, 2)
    optimizer = trained(model)
    for tree in (
        {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()},
        {"optimizer": optimizer.state_dict(), "net": model.state_dict()},
        {"opt": optimizer, "net": model},
        {"a": optimizer.state_dict()["state"], "net": model.state_dict()},  # by its shape, whatever its name
        {"state_dict": model.state_dict(), "extra": {"state": {0: {"exp_avg": torch.zeros(9, 9)}}}},
    ):  # fmt: skip
        (choice,) = chosen(tmp_path, tree)
        same(choice, model.state_dict())


def test_an_optimizer_alone_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat, match="optimizer"):
        chosen(tmp_path, trained(net(3, 4, 2)).state_dict())
    with pytest.raises(UnknownFormat, match=r"none of them is a model's \(first: 'optimizer\.state\.0\.step', float32 \[\]\)"):
        chosen(tmp_path, {"optimizer": trained(net(3, 4, 2)).state_dict(), "epoch": 1})


def test_several_models_are_all_taken(tmp_path: Path) -> None:
    generator, discriminator = net(2, 8, 3), net(3, 5, 1)
    found = chosen(
        tmp_path,
        {
            "generator": generator.state_dict(),
            "discriminator": discriminator.state_dict(),
            "optim_g": trained(generator).state_dict(),
        },
    )
    assert [c.name for c in found] == ["generator", "discriminator"]
    same(found[0], generator.state_dict())
    same(found[1], discriminator.state_dict())
    cycle = {name: {"state_dict": net(2, 3).state_dict()} for name in ("G_A", "G_B", "D_A", "D_B")}
    assert [c.name for c in chosen(tmp_path, cycle)] == ["G_A", "G_B", "D_A", "D_B"]


def test_copies_of_one_model_are_doubt(tmp_path: Path) -> None:
    tree = {"best_model": net(2, 3).state_dict(), "last_model": net(2, 3).state_dict()}
    with pytest.raises(AmbiguousCheckpoint, match=r"best_model .*last_model") as caught:
        chosen(tmp_path, tree)
    assert "--select" in str(caught.value.hint)
    (choice,) = chosen(tmp_path, tree, select="last_model")
    same(choice, tree["last_model"])


def test_a_module_beside_its_own_state_dict_is_one_model(tmp_path: Path) -> None:
    model = net(2, 3)
    (choice,) = chosen(tmp_path, {"state_dict": model.state_dict(), "model": model})
    assert choice.path == "state_dict"
    assert "model holds the very same tensors" in choice.why
    same(choice, model.state_dict())
    assert len(chosen(tmp_path, {"state_dict": model.state_dict(), "model": net(2, 3)})) == 2  # equal names alone prove nothing


def test_the_average_is_taken_only_when_asked_for(tmp_path: Path) -> None:
    tree = {"model": net(2, 3).state_dict(), "model_ema": net(2, 3).state_dict()}
    same(chosen(tmp_path, tree)[0], tree["model"])
    same(chosen(tmp_path, tree, ema=True)[0], tree["model_ema"])
    same(chosen(tmp_path, {"params_ema": tree["model"]})[0], tree["model"])  # there is nothing else
    with pytest.raises(UsageError, match="no EMA"):
        chosen(tmp_path, {"model": tree["model"]}, ema=True)


def test_select_names_any_place(tmp_path: Path) -> None:
    tree = {"model": net(2, 3).state_dict(), "buffers": {"mean": torch.arange(3.0)}}
    (choice,) = chosen(tmp_path, tree, select="buffers")
    assert list(choice.state_dict.tensors) == ["mean"]
    with pytest.raises(UsageError, match="nowhere"):
        chosen(tmp_path, tree, select="nowhere")


def test_layers_nested_without_dots_are_one_model(tmp_path: Path) -> None:
    tree = {"params": {"conv1": {"kernel": torch.ones(2), "bias": torch.ones(1)}, "dense": {"kernel": torch.zeros(3)}}}
    (choice,) = chosen(tmp_path, tree)
    assert list(choice.state_dict.tensors) == ["conv1.kernel", "conv1.bias", "dense.kernel"]


def test_tensors_in_sequences_get_their_places_as_names(tmp_path: Path) -> None:
    (choice,) = chosen(tmp_path, [torch.ones(1), (torch.zeros(2), {"w": torch.ones(3)})])
    assert list(choice.state_dict.tensors) == ["0", "1.0", "1.1.w"]
    (choice,) = chosen(tmp_path, torch.ones(2, 2))
    assert list(choice.state_dict.tensors) == ["tensor"]


def test_names_that_collide_are_refused_naming_both(tmp_path: Path) -> None:
    with pytest.raises(CorruptCheckpoint, match=r"'1' and 1|1 and '1'"):
        chosen(tmp_path, {1: torch.ones(1), "1": torch.ones(1)})
    with pytest.raises(CorruptCheckpoint, match=r"'a\.b'"):
        chosen(tmp_path, {"a.b": torch.ones(1), "a": {"b": torch.ones(1)}, "c.weight": torch.ones(1)})
    with pytest.raises(CorruptCheckpoint, match=r"key \('a', 1\) of type tuple, which is no name"):
        chosen(tmp_path, {("a", 1): torch.ones(1), "w": torch.ones(1)})
    with pytest.raises(CorruptCheckpoint, match=r"'a\.b'"):  # however many tensors stand on either side
        chosen(tmp_path, {"a.b": torch.ones(1), "a": {"b": torch.ones(1), "weight": torch.ones(2)}})


@pytest.mark.parametrize(
    ("keys", "stripped", "first"),
    [
        (["module.a.weight", "module.b.weight"], "module.", "a.weight"),
        (["_orig_mod.a.weight"], "_orig_mod.", "a.weight"),
        (["module._orig_mod.a.weight", "module._orig_mod.b"], "module._orig_mod.", "a.weight"),
        (["module.a.weight", "b.weight"], None, "module.a.weight"),
        (["features.module.0.weight", "classifier.1.weight"], "features.module.", "features.0.weight"),
        (["features.module.0.weight", "features.1.weight", "c.weight"], None, "features.module.0.weight"),
        (["layer.module.conv.weight", "fc.weight"], None, "layer.module.conv.weight"),  # may be the model's own name
        (["module.weight", "module."], None, "module.weight"),
    ],
)
def test_wrappers_are_stripped_where_that_is_clear(tmp_path: Path, keys: list[str], stripped: str | None, first: str) -> None:
    tree = OrderedDict((key, torch.ones(1)) for key in keys)
    (choice,) = chosen(tmp_path, tree)
    assert choice.stripped == stripped
    assert next(iter(choice.state_dict.tensors)) == first
    (choice,) = chosen(tmp_path, tree, strip=False)
    assert list(choice.state_dict.tensors) == keys


def test_module_versions_follow_the_names(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    (choice,) = chosen(tmp_path, nn.DataParallel(model).state_dict())
    assert dict(choice.state_dict.versions or {}) == dict(model.state_dict()._metadata)


def test_what_is_left_behind_is_listed(tmp_path: Path) -> None:
    model = net(2, 3)
    path = tmp_path / "in.pth"
    torch.save(
        {"state_dict": model.state_dict(), "optimizer": trained(model).state_dict(), "epoch": 7, "mean": torch.ones(3)}, path
    )
    with registry.open(path) as checkpoint:
        left = {d.path: d for d in select.dropped(checkpoint, select.choose(checkpoint))}
    assert set(left) == {"optimizer", "epoch", "mean"}
    assert left["optimizer"].tensors == 6
    assert left["mean"].nbytes == 12
    assert left["epoch"].summary == "int 7"


def test_names_have_a_limit_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"": {"encoder": [torch.zeros(2), {"": torch.zeros(2)}]}, "b": torch.zeros(2)}, tmp_path / "a.pth")
    with registry.open(tmp_path / "a.pth") as checkpoint:
        assert list(candidates.flatten(checkpoint.tree).tensors) == ["encoder.0", "encoder.1.", "b"]
        monkeypatch.setattr(candidates, "MAX_NAMES", 19)
        with pytest.raises(LimitExceeded, match="names of more than 19 characters in all"):
            candidates.flatten(checkpoint.tree)


def test_deep_and_shared_and_self_holding_trees_end(tmp_path: Path) -> None:
    shared: Any = {"weight": torch.ones(1)}
    for _ in range(40):  # 2^40 names if every way were walked
        shared = {"a": shared, "b": shared}
    with pytest.raises(LimitExceeded, match="nested containers"):
        chosen(tmp_path, {"fc.weight": torch.ones(9), "fc.bias": torch.ones(9), "shared": shared})
    assert list(chosen(tmp_path, shared)[0].state_dict.tensors) == ["weight"]
    holder: Any = {"weight": torch.ones(1)}
    holder["me"] = holder
    with pytest.raises(CorruptCheckpoint, match="holds itself"):
        chosen(tmp_path, holder)


OTHER = re.compile(
    r"(?:^|[_\-/ ])(?:optim\w*|opt|opts|sched\w*|scaler|grad_?scaler|amp|apex|rng|random|criterion|loss\w*|metric\w*|meter\w*|"
    r"callbacks?|loops?|hyper\w*|hparams|args?|cfg|config\w*|settings|history|hist|logs?|stats|loader|sampler|dataset|"
    r"constants)(?:$|[_\-/ ])|^lr$"
)
AVERAGE = re.compile(r"(?:^|[_\-. ])(?:ema\d*|averaged?|avg|swa|shadow|polyak)(?:$|[_\-. ])")
WEIGHT = re.compile(r"^(?:weight|bias|kernel|w|b|weights?_\w+|bias_\w+|running_(?:mean|var)|embedding\w*)\d*$")
PARTS = [
    *(
        "optim",
        "opt",
        "opts",
        "optimizer",
        "sched",
        "scheduler",
        "scaler",
        "grad",
        "gradscaler",
        "amp",
        "loss",
        "losses",
        "metrics",
    ),
    *("callback", "callbacks", "loops", "arg", "args", "lr", "config", "hist", "history", "logs", "model", "net", "state"),
    *(
        "ema",
        "ema2",
        "emas",
        "average",
        "averaged",
        "avg",
        "swa",
        "w",
        "b",
        "weight",
        "weights",
        "bias",
        "running",
        "mean",
        "var",
    ),
    *("embedding", "kernel", "1", "20", "x", "_", "__", "-", ".", "/", "é"),
]


@given(st.lists(st.sampled_from([*PARTS, *"_-./ "]), max_size=6).map("".join))
def test_names_are_told_as_patterns_would(name: str) -> None:
    assert candidates.is_other(name) == (OTHER.search(name) is not None)
    assert candidates.is_average(name) == (AVERAGE.search(name) is not None)
    assert candidates.is_weight(name) == (WEIGHT.search(name) is not None)
