"""The files that the README's stories about keys begin with; ``python -m tests.readme_samples FOLDER`` writes them."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from unittest import mock

NETS = """\
from torch import nn


class Net(nn.Sequential):
    def __init__(self, classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, classes)


class AttentionNet(Net):
    def __init__(self):
        super().__init__(classes=4)
        self.attention = nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 8))
"""

LOAD = """\
import sys

import nets
import torch
from safetensors.torch import load_file

file, net = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "Net"
try:
    given = load_file(file) if file.endswith(".safetensors") else torch.load(file, weights_only=True)
    print(getattr(nets, net)().load_state_dict(given, strict=True))
except RuntimeError as error:
    print(error)
"""

FLIP = """\
import sys

with open(sys.argv[1], "r+b") as file:
    file.seek(-1, 2)
    last = file.read(1)
    file.seek(-1, 2)
    file.write(bytes([last[0] ^ 1]))
"""


def write(folder: Path) -> None:
    """Write ``nets.py``, ``load.py``, ``flip.py`` (of the last bit) and the checkpoints into ``folder``; the same bytes every time."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nets.py").write_text(NETS, encoding="utf-8")
    (folder / "load.py").write_text(LOAD, encoding="utf-8")
    (folder / "flip.py").write_text(FLIP, encoding="utf-8")
    scope = runpy.run_path(str(folder / "nets.py"))
    torch.manual_seed(0)
    net = scope["Net"]()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    state = net.state_dict()
    torch.save(state, folder / "net.pth")
    torch.save({"epoch": 90, "state_dict": state, "optimizer": optimizer.state_dict()}, folder / "in.pth.tar")
    torch.save(torch.nn.DataParallel(net).state_dict(), folder / "gpus.pth")
    torch.save(scope["AttentionNet"]().state_dict(), folder / "attention.pth")
    critic = torch.nn.Sequential(torch.nn.Linear(10, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    torch.save({"generator": state, "discriminator": critic.state_dict(), "step": 40000}, folder / "gan.pth")
    with mock.patch("torch.serialization.location_tag", return_value="cuda:7"):
        torch.save(state, folder / "cuda7.pth")
    names = {"conv": "stem.0", "bn": "stem.1", "fc": "classifier"}
    torch.save({f"{names[key.split('.')[0]]}.{key.split('.')[1]}": value for key, value in state.items()}, folder / "renamed.pth")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
