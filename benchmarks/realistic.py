"""Weights with the statistics of trained ones, for nets whose published weights cannot be had.

Random initialisation gives outputs of 1e-14. Here weights are heavy-tailed and keep the signal's scale, affine parameters are jittered, no
head is zero, and BatchNorm's statistics are taken from inputs that look like photographs.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from convert.parity import inputs

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def fill(module: nn.Module, specs: list[inputs.InputSpec], seed: int = 0) -> nn.Module:
    """Give ``module`` such weights in place, and put it in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    owners = {id(parameter): owner for owner in module.modules() for parameter in owner.parameters(recurse=False)}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            owner = owners[id(parameter)]
            last = name.rpartition(".")[2]
            noise = torch.empty(parameter.shape).normal_(generator=generator)
            if isinstance(owner, NORMS) or (parameter.ndim <= 1 and last in ("weight", "scale")):
                parameter.copy_((1 + 0.2 * noise).abs() if last in ("weight", "scale") else 0.1 * noise)
            elif parameter.ndim <= 1 or "gamma" in last:
                parameter.copy_(0.3 + 0.1 * noise if "gamma" in last else 0.1 * noise)
            elif "embed" in name or "token" in last or "bias_table" in last:
                parameter.copy_(0.2 * noise)
            else:
                # Student's t with 5 degrees of freedom: a few weights are ten times the usual.
                spread = torch.empty(5, *parameter.shape).normal_(generator=generator).square().mean(0).sqrt().clamp(min=0.2)
                fan = parameter[0].numel()
                parameter.copy_(noise / spread * math.sqrt(1.2 / fan) / 1.29)
    calibrate(module, specs, seed)
    return module.eval()


def calibrate(module: nn.Module, specs: list[inputs.InputSpec], seed: int) -> None:
    """BatchNorm's running statistics from natural-like inputs."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return
    module.eval()
    before: list[Any] = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for sample in inputs.make(specs, seed + 1000, [(inputs.NATURAL, 4)] * 2):
            module(*(torch.from_numpy(array) for array in sample.arrays))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.eval()
