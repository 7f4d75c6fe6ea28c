"""A model for the write paths that run one."""

from __future__ import annotations

import torch


class Net(torch.nn.Module):
    """One layer: 4 → 3."""

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.one(x))
