"""Checkpoints that torch writes for these tests."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def model() -> Any:
    """A small network with parameters, buffers and an int64 counter."""
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(OrderedDict(conv=torch.nn.Conv2d(3, 4, 3), bn=torch.nn.BatchNorm2d(4), head=torch.nn.Linear(4, 2)))


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory, model: Any) -> Path:
    """``in.pth.tar`` as a training script on several GPUs saves it: state dict with ``module.``, optimizer, epoch, arguments."""
    import argparse

    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    path = tmp_path_factory.mktemp("saved") / "in.pth.tar"
    checkpoint = {
        "epoch": 3,
        "arch": "tiny",
        "args": argparse.Namespace(lr=0.1),
        "state_dict": torch.nn.DataParallel(model).state_dict(),
        "optimizer": optimizer.state_dict(),
        "best": {"acc1": 0.5, "logits": torch.arange(3.0)},
    }
    torch.save(checkpoint, path)
    return path


@pytest.fixture
def training(tmp_path: Path, saved: Path) -> Path:
    """A copy of that file, alone in its folder."""
    return Path(shutil.copy(saved, tmp_path / "in.pth.tar"))


@pytest.fixture
def gan(tmp_path: Path) -> Path:
    """Two models in one file."""
    import torch

    path = tmp_path / "gan.pth"
    torch.save(
        {"generator": torch.nn.Linear(2, 3).state_dict(), "discriminator": torch.nn.Linear(3, 1).state_dict(), "step": 7}, path
    )
    return path
