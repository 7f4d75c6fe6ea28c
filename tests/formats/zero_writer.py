"""Makes ZeRO checkpoint folders in the layout of DeepSpeed 0.19.8's own writers, from the weights that are in them.

``engine.py`` ``_save_checkpoint`` and ``_save_zero_checkpoint``, ``zero/stage_1_and_2.py`` ``state_dict``, ``zero/stage3.py``
``_rigid_state_dict``, ``bf16_optimizer.py`` ``state_dict``. Enums and scalers are of classes that are not importable where they are read.
"""

from __future__ import annotations

import enum
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Zero:
    """A model: ``groups`` of trainable parameters in fp32, buffers, frozen parameters, and (name, kept name) of shared ones."""

    groups: list[dict[str, torch.Tensor]]
    buffers: dict[str, torch.Tensor] = field(default_factory=dict)
    frozen: dict[str, torch.Tensor] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    prefix: str = ""  # "bf16_" for BF16_Optimizer's files
    half: torch.dtype = torch.float16

    def consolidated(self) -> dict[str, torch.Tensor]:
        """What the folder holds: fp32 weights, buffers widened, frozen parameters as they are."""
        found = {name: b.float() if b.is_floating_point() else b for name, b in self.buffers.items()} | self.frozen
        for group in self.groups:
            found |= group
        for name, kept in self.shared.items():
            found[name] = found[kept]
        return found


@contextmanager
def _classes() -> Iterator[types.SimpleNamespace]:
    names = ("deepspeed", "deepspeed.runtime", "deepspeed.runtime.zero", "deepspeed.runtime.zero.config", "deepspeed.runtime.fp16",
             "deepspeed.runtime.fp16.loss_scaler")  # fmt: skip
    modules = {name: types.ModuleType(name) for name in names}
    stage = enum.IntEnum("ZeroStageEnum", {"disabled": 0, "optimizer_states": 1, "gradients": 2, "weights": 3}, module=names[3])
    modules[names[3]].ZeroStageEnum = stage  # type: ignore[attr-defined]
    scaler = type("LossScaler", (), {"__module__": names[5]})
    modules[names[5]].LossScaler = scaler  # type: ignore[attr-defined]
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(modules)
    try:
        yield types.SimpleNamespace(stage=stage, scaler=scaler)
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def write(folder: Path, zero: Zero, stage: int, ranks: int, tag: str = "global_step7", *, old: bool = False) -> Path:
    """The folder with ``latest`` and one folder of files; ``old`` leaves out what versions before 0.16 did not write."""
    inner = folder / tag
    inner.mkdir(parents=True)
    (folder / "latest").write_text(tag)
    with _classes() as classes:
        for rank in range(ranks):
            flat, extra = _partitions(zero, stage, rank, ranks)
            optimizer: dict[str, Any] = {"loss_scaler": classes.scaler(), "dynamic_loss_scale": False, "overflow": False}
            optimizer["zero_stage"] = stage if old else classes.stage(stage)
            optimizer["partition_count"] = ranks if stage == 3 or old else [ranks] * len(zero.groups)
            state = {
                "state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.zeros(3)}},
                "param_groups": [{"lr": 0.1, "params": [0]}],
            }
            optimizer["optimizer_state_dict" if stage == 3 else "base_optimizer_state"] = state
            optimizer["fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"] = flat
            if not old:
                optimizer |= extra
            name = f"{zero.prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
            torch.save(
                {"optimizer_state_dict": optimizer, "ds_config": {"train_batch_size": 4}, "ds_version": "0.19.8"}, inner / name
            )
            if stage == 3 or rank == 0:
                name = f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt"
                torch.save(_model(zero, stage, rank, ranks), inner / name)
    return folder


def _part(tensor: torch.Tensor, rank: int, ranks: int) -> torch.Tensor:
    """A rank's share of a flattened parameter, filled up (``partition_parameters.py``)."""
    size = -(-tensor.numel() // ranks)
    padded = torch.full((size * ranks,), 77.0, dtype=tensor.dtype)
    padded[: tensor.numel()] = tensor.flatten()
    return padded[rank * size : (rank + 1) * size].clone()


def _partitions(zero: Zero, stage: int, rank: int, ranks: int) -> tuple[list[torch.Tensor], dict[str, Any]]:
    if stage == 3:
        parts = [_part(tensor, rank, ranks) for group in zero.groups for tensor in group.values()]
        # Sub-groups of a bounded number of elements (``sub_group_size``); a parameter may not be split over two.
        flat = [torch.cat(parts[at : at + 2]) for at in range(0, len(parts), 2)]
        return flat, {}
    flat, paddings = [], []
    for group in zero.groups:
        whole = torch.cat([tensor.flatten() for tensor in group.values()])
        padding = -whole.numel() % (2 * ranks)
        size = (whole.numel() + padding) // ranks
        part = torch.cat([whole, torch.full((padding,), 77.0)])[rank * size : (rank + 1) * size]
        lean = padding if rank == ranks - 1 else 0  # `_get_groups_without_padding`
        flat.append(part[: part.numel() - lean].clone())
        paddings.append(lean)
    return flat, {"group_paddings": paddings, "param_alignment_paddings": [[0] * len(group) for group in zero.groups]}


def _model(zero: Zero, stage: int, rank: int, ranks: int) -> dict[str, Any]:
    module: OrderedDict[str, torch.Tensor] = OrderedDict()
    for name, tensor in zero.consolidated().items():
        if name in zero.buffers:
            module[name] = zero.buffers[name]
        else:
            module[name] = torch.empty(0, dtype=zero.half) if stage == 3 else tensor.to(zero.half)
    fragments = {name: _part(tensor, rank, ranks) if stage == 3 else tensor for name, tensor in zero.frozen.items()}
    return {
        "module": module, "buffer_names": list(zero.buffers), "optimizer": None,
        "param_shapes": [OrderedDict((name, tensor.shape) for name, tensor in group.items()) for group in zero.groups],
        "frozen_param_shapes": OrderedDict((name, tensor.shape) for name, tensor in zero.frozen.items()) if zero.frozen else None,
        "shared_params": zero.shared, "frozen_param_fragments": OrderedDict(fragments) if zero.frozen else None,
        "lr_scheduler": {"last": 7}, "global_steps": 7, "dp_world_size": ranks, "mp_world_size": 1, "ds_version": "0.19.8",
    }  # fmt: skip
