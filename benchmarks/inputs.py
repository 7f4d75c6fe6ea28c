"""Make a checkpoint to measure with: a flat state dict of ``count`` float32 tensors, ``nbytes`` bytes in all.

python -m benchmarks.inputs PATH NBYTES COUNT
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path


def make(path: Path, nbytes: int, count: int) -> None:
    """Write the state dict by `torch.save`; names are those of a deep network, sizes as equal as they can be."""
    import torch

    torch.manual_seed(0)
    elements = nbytes // 4
    weights: OrderedDict[str, torch.Tensor] = OrderedDict()
    for index in range(count):
        numel = elements * (index + 1) // count - elements * index // count
        weights[f"layers.{index // 4}.block.{index % 4}.weight"] = torch.empty(numel).uniform_(-1, 1)
    torch.save(weights, path)


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
