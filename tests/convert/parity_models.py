"""Small nets for the tests of parity and of the export: each has something that goes wrong easily."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Mixed(nn.Module):
    """Convolution, BatchNorm with an eps of its own, LayerNorm, attention, tied linear layers, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.bn = nn.BatchNorm2d(8, eps=1e-3)
        self.ln = nn.LayerNorm(8)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc = nn.Linear(8, 8)
        self.fc2 = nn.Linear(8, 8)
        self.fc2.weight = self.fc.weight

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.relu(self.bn(self.conv(x))).flatten(2).transpose(1, 2)
        x = self.ln(x)
        x = x + self.attn(x, x, x, need_weights=False)[0]
        x = self.fc2(torch.relu(self.fc(x)))
        return {"logits": x.mean(1), "tokens": x}


class PaddedPool(nn.Module):
    """A Pad of zeros before a MaxPool: onnxruntime's Pad_Fusion makes the zeros −∞."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.pad = nn.ConstantPad2d(1, 0.0)
        self.pool = nn.MaxPool2d(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.pad(self.conv(x) - 4.0))


class ZeroHead(nn.Module):
    """As a fresh ViT: its output is zero whatever it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


class Cancelling(nn.Module):
    """Ill-conditioned: two large numbers that nearly cancel."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x)
        return (y + 1e6) - 1e6


class Indices(nn.Module):
    """Integer input, float and integer output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.out = nn.Linear(8, 50)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.out(self.embed(ids).mean(1))
        return logits, logits.argmax(-1)


class Unexportable(nn.Module):
    """No exporter has an operator for it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(self.fc(x))


SHAPES = {
    "Mixed": "1x3x16x16", "PaddedPool": "1x3x12x12", "ZeroHead": "1x4", "Cancelling": "1x4", "Indices": "1x7:int64:0..50",
    "Unexportable": "1x4",
}  # fmt: skip


def build(name: str, seed: int = 0, misbehave: str = "") -> nn.Module:
    """The net ``name`` with weights of ``seed``; ``misbehave`` is for tests of the limits."""
    if misbehave == "sleep":
        import time

        time.sleep(60)
    if misbehave == "crash":
        import os

        os.abort()
    if misbehave == "memory":
        import time

        held = [bytearray(b"x" * (1 << 28)) for _ in range(8)]
        time.sleep(60)
        del held
    torch.manual_seed(seed)
    net: Any = globals()[name]()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.weight, 1, 0.1)
    return net.eval()  # type: ignore[no-any-return]
