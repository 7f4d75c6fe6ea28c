"""Small models and oddly kept tensors for the sample zoo, the same every time: each is made from a seed of its own."""

from __future__ import annotations

from argparse import Namespace
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from tests.formats.zero_writer import Zero


def classifier(width: int = 16) -> nn.Module:
    """A convolution, a batch norm and a linear layer."""
    torch.manual_seed(width)
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, width, 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(width),
            act=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(width, 10),
        )
    )


def trained(model: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
    """``model`` after one step of Adam, and the state of the optimizer, with its moments."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer.state_dict()


def arguments() -> Namespace:
    """What argparse leaves in training checkpoints."""
    return Namespace(lr=0.1, data="/home/someone/imagenet", gpu=None)


def language(words: int = 256, width: int = 16) -> OrderedDict[str, torch.Tensor]:
    """An embedding tied to its decoder, and a layer between."""
    torch.manual_seed(words)
    tied = OrderedDict([("embedding.weight", torch.randn(words, width))])
    for name in ("query", "key", "value"):
        tied[f"attention.{name}.weight"] = torch.randn(width, width)
        tied[f"attention.{name}.bias"] = torch.randn(width)
    tied["decoder.weight"] = tied["embedding.weight"]
    return tied


def zero() -> Zero:
    """Two groups of trained parameters, as DeepSpeed keeps them in pieces."""
    torch.manual_seed(3)
    groups = [
        {"layers.0.weight": torch.randn(64, 24), "layers.1.weight": torch.randn(24, 64)},
        {"layers.0.bias": torch.randn(64), "layers.1.bias": torch.randn(24)},
    ]
    return Zero(groups, {"norm.running_mean": torch.randn(24)})


def generator() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.ConvTranspose2d(32, 48, 4), nn.BatchNorm2d(48), nn.ReLU(), nn.ConvTranspose2d(48, 3, 4), nn.Tanh())


def critic() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(3, 48, 4), nn.LeakyReLU(0.2), nn.Conv2d(48, 1, 4))


def nets() -> dict[str, nn.Module]:
    """Models of torch's own modules, in eval mode; each takes vectors of 32 numbers, which its first layer says."""
    torch.manual_seed(6)
    perceptron = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.LayerNorm(64), nn.Dropout(0.1), nn.Linear(64, 10), nn.Softmax(-1))
    tabular = nn.Sequential(
        nn.Linear(32, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Sequential(nn.Linear(48, 48), nn.SiLU()), nn.Linear(48, 1)
    )
    decoder = nn.Sequential(
        nn.Linear(32, 192), nn.Unflatten(1, (12, 4, 4)), nn.BatchNorm2d(12), nn.ReLU(), nn.ConvTranspose2d(12, 8, 4, 2, 1),
        nn.GroupNorm(2, 8), nn.LeakyReLU(0.2), nn.Conv2d(8, 3, 3, padding=1), nn.Tanh(),
    )  # fmt: skip
    separable = nn.Sequential(
        nn.Linear(32, 192), nn.Unflatten(1, (3, 8, 8)), nn.Conv2d(3, 24, 1), nn.Hardswish(), nn.Conv2d(24, 24, 3, padding=1, groups=24),
        nn.BatchNorm2d(24), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(384, 10),
    )  # fmt: skip
    found = {"perceptron": perceptron, "tabular": tabular, "decoder": decoder, "separable": separable}
    return {name: net.eval() for name, net in found.items()}


def strided() -> dict[str, torch.Tensor]:
    """Windows on one storage: transposed, every other row, a slice, and an expanded row."""
    whole = torch.arange(4096.0).reshape(64, 64)
    return {
        "whole": whole,
        "transposed": whole.t(),
        "even": whole[::2],
        "slice": whole[8:16, 8:16],
        "row": whole[:1].expand(4, 64),
    }


def spectrum() -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    return {"filter": torch.randn(16, 16, dtype=torch.complex64), "gain": torch.randn(16, dtype=torch.float64)}


def float8() -> dict[str, torch.Tensor]:
    torch.manual_seed(8)
    return {"weight": torch.randn(32, 32).to(torch.float8_e4m3fn), "scale": torch.ones(32)}


def sparse() -> dict[str, torch.Tensor]:
    torch.manual_seed(9)
    pruned = nn.functional.relu(torch.randn(32, 32) - 1)
    return {"pruned": pruned.to_sparse(), "rows": pruned.to_sparse_csr(), "bias": torch.randn(32)}


def quantised() -> dict[str, torch.Tensor]:
    torch.manual_seed(10)
    weight = torch.randn(16, 8)
    channels = torch.quantize_per_channel(weight, torch.full((16,), 0.02), torch.zeros(16, dtype=torch.int64), 0, torch.qint8)
    return {"weight": channels, "activation": torch.quantize_per_tensor(weight, 0.05, 3, torch.quint8), "bias": torch.randn(16)}
