"""Writes a `torch.distributed.checkpoint` folder from several processes: ``python -m … FOLDER RANK WORLD``; see `test_distributed.py`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch


def whole() -> dict[str, torch.Tensor]:
    """The values that the ranks hold parts of."""
    generator = torch.Generator().manual_seed(5)
    return {
        "rows": torch.randn(7, 4, generator=generator),  # uneven: 4 and 3 rows
        "columns": torch.randn(6, 10, generator=generator).to(torch.bfloat16),
        "middle": torch.randn(3, 5, 4, generator=generator).to(torch.complex128),
        "short": torch.arange(1),  # the second rank holds nothing of it
        "same": torch.randn(5, generator=generator),
    }


def save(folder: Path, rank: int, world: int) -> None:
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}.meet", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))
    parts = {"rows": Shard(0), "columns": Shard(1), "middle": Shard(1), "short": Shard(0), "same": Replicate()}
    model = {key: distribute_tensor(tensor, mesh, [parts[key]]) for key, tensor in whole().items()}
    state: dict[str, Any] = {"model": model, "step": 7, "history": [1.5, {"loss": torch.ones(2)}]}
    dcp.save(state, checkpoint_id=folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    save(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
