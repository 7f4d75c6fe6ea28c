"""Make a small zoo of checkpoints, as people have them on their disks: mixed containers, nesting, names and folders.

    python -m tests.sample_zoo DEST

The weights are random from a fixed seed. Everything is written by torch; a file that is there already is written again.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn


def _network() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 16, 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(16),
            act=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(16, 10),
        )
    )


def _trained(model: nn.Module) -> torch.optim.Optimizer:
    """One step of Adam, so that the optimizer has moments."""
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    return optimizer


def make(folder: Path) -> list[Path]:
    """Write the zoo into ``folder``; the paths of its files, each of which converts."""
    torch.manual_seed(0)
    model = _network()
    optimizer = _trained(model)
    weights = model.state_dict()
    tied = OrderedDict([("embedding.weight", torch.randn(32, 8))])
    tied["decoder.weight"] = tied["embedding.weight"]
    zoo: dict[str, tuple[object, bool]] = {  # name: (object, new ZIP container)
        "classifier/weights.pth": (weights, True),
        "classifier/weights-2018.pth": (weights, False),
        "classifier/checkpoint.pth.tar": (
            {"epoch": 7, "arch": "small", "state_dict": weights, "optimizer": optimizer.state_dict(), "args": Namespace(lr=0.1)},
            True,
        ),
        "classifier/parallel.t7": ({"net": nn.DataParallel(model), "acc": 0.5}, False),
        "classifier/whole model.pt": (model, True),
        "classifier/half.bin": (OrderedDict((k, v.half() if v.is_floating_point() else v) for k, v in weights.items()), True),
        "language/tied.bin": (tied, True),
        "language/deep/er/last.ckpt": ({"state_dict": tied, "global_step": 10, "pytorch-lightning_version": "2.1.3"}, True),
    }
    written = []
    for name, (content, is_zip) in zoo.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, path, _use_new_zipfile_serialization=is_zip)
        written.append(path)
    return written


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    paths = make(Path(sys.argv[1]))
    print(f"{len(paths)} checkpoints in {sys.argv[1]}")
