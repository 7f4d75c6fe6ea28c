"""Make a checkpoint to measure with: a flat state dict of ``count`` float32 tensors, ``nbytes`` bytes in all.

    python -m benchmarks.inputs PATH NBYTES COUNT [KIND] [REFERENCE]
    python -m benchmarks.inputs FOLDER NBYTES COUNT tree FILES

KIND is the container or the layout, see `KINDS`. REFERENCE is what torch and safetensors make of it: what outputs are compared with. A tree
has FILES such checkpoints, no two of them equal, and beside it ``FOLDER.first`` and ``FOLDER.last``, the references of two of them.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

KINDS = ("zip", "legacy", "safetensors", "strided", "channels-last", "rnn")


def make(path: Path, nbytes: int, count: int, kind: str = "zip", reference: Path | None = None) -> None:
    """Write the state dict by torch or safetensors; names are those of a deep network, sizes as equal as they can be."""
    import torch
    from safetensors.torch import save_file

    weights = state_dict(nbytes, count, kind)
    if kind == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=kind != "legacy")
    if reference is not None:
        save_file({key: tensor.contiguous().clone() for key, tensor in weights.items()}, reference)


def state_dict(nbytes: int, count: int, kind: str) -> OrderedDict[str, Any]:
    """Tensors [numel], or with ``kind`` strided [rows, columns] transposed, channels-last [out, in, 3, 3], windows of one storage."""
    import torch

    torch.manual_seed(0)
    elements = nbytes // 4
    weights: OrderedDict[str, Any] = OrderedDict()
    flat = torch.empty(elements).uniform_(-1, 1) if kind == "rnn" else None
    for index in range(count):
        start, stop = elements * index // count, elements * (index + 1) // count
        numel = stop - start
        if flat is not None:  # as `flatten_parameters` leaves them
            tensor = flat[start:stop]
        elif kind == "strided":
            rows = int(numel**0.5)
            tensor = torch.empty(numel // rows, rows).uniform_(-1, 1).t()
        elif kind == "channels-last":
            inputs = int((numel / 9) ** 0.5)
            tensor = torch.empty(numel // 9 // inputs, inputs, 3, 3).uniform_(-1, 1).to(memory_format=torch.channels_last)
        else:
            tensor = torch.empty(numel).uniform_(-1, 1)
        weights[f"layers.{index // 4}.block.{index % 4}.weight"] = tensor
    return weights


def make_tree(folder: Path, nbytes: int, count: int, files: int) -> None:
    """Checkpoints ``00000.pth`` and so on; they differ in the first tensor, which is enough for each to be a file of its own."""
    import torch
    from safetensors.torch import save_file

    weights = state_dict(nbytes, count, "zip")
    first = next(iter(weights))
    folder.mkdir(parents=True)
    for number in range(files):
        weights[first] = torch.full_like(weights[first], number)
        torch.save(weights, folder / f"{number:05}.pth")
        for place, wanted in (("first", 0), ("last", files - 1)):
            if number == wanted:
                save_file(weights, folder.with_name(f"{folder.name}.{place}"))


if __name__ == "__main__" and sys.argv[4:5] == ["tree"]:
    make_tree(Path(sys.argv[1]), *(int(sys.argv[at]) for at in (2, 3, 5)))
elif __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:5], *map(Path, sys.argv[5:6]))
