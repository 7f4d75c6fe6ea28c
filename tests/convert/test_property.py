"""Random checkpoints by every lossless route: what torch reads at the end is, byte for byte, what torch reads at the start.

``make test`` runs a few hundred, always the same; ``make property N=10000`` runs as many as are asked for, from ``SEED`` on.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import convert
from tests.convert.random_checkpoints import Maker
from tests.convert.test_rest import equal, ties

torch.set_num_threads(1)
COUNT = int(os.environ.get("PROPERTY_N", "300"))
SEED = int(os.environ.get("PROPERTY_SEED", "0"))
BATCH = 100  # checkpoints to one test
WHOLE = [
    ("pth.tar",),
    ("safetensors", "pth.tar"),
    ("safetensors", "pth.tar", "safetensors", "pth.tar"),
    ("pth.tar", "safetensors", "pth.tar"),
]  # everything beside the weights travels, too
MODEL = [("pth",), ("safetensors", "pth"), ("pth", "safetensors", "pth"), ("safetensors", "safetensors", "pth")]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: a small file costs less to convert than to sync to a disk."""
    shared = Path("/dev/shm")
    if not (shared.is_dir() and os.access(shared, os.W_OK)):
        yield tmp_path
        return
    made = Path(tempfile.mkdtemp(dir=shared))
    yield made
    shutil.rmtree(made)


def travel(source: Path, route: tuple[str, ...], keep: str | None, select: str | None) -> Path:
    path = source
    for step, target in enumerate(route):
        out = source.with_name(f"{step}.{target}")
        result = convert.convert(path, to=target, out=out, keep=keep, select=select, strip=False, force=True)
        path = result.outputs[0].path
        if keep is None:
            select = "."  # nothing but the model is there any more
    return path


def check(seed: int, folder: Path) -> None:
    legacy = seed % 3 == 0
    tree = Maker(seed, legacy=legacy).checkpoint()
    whole = seed % 2 == 0
    route = (WHOLE if whole else MODEL)[seed // 2 % 4]
    source = folder / "in.pth.tar"
    torch.save(tree, source, _use_new_zipfile_serialization=not legacy)
    theirs: Any = torch.load(source, weights_only=True)
    found = torch.load(travel(source, route, "all" if whole else None, "state_dict"), weights_only=True)
    if not whole:
        theirs = theirs["state_dict"]
        if "safetensors" in route:  # a container of plain tensors packs what it holds
            theirs = packed(theirs)
    equal(theirs, found, f"seed {seed}, {'-'.join(route)}")
    if whole:
        assert ties(theirs) == ties(found), f"seed {seed}, {'-'.join(route)}"


def packed(model: Any) -> Any:
    """The state dict with row-major values."""
    made = type(model)()
    for key, tensor in model.items():
        plain = tensor.layout is torch.strided and not tensor.is_quantized
        made[key] = tensor if not plain else row_major(tensor)
    made.__dict__.update(model.__dict__)
    return made


def row_major(tensor: torch.Tensor) -> torch.Tensor:
    made = torch.empty(tensor.shape, dtype=tensor.dtype)
    made.copy_(tensor.detach())
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(made, requires_grad=tensor.requires_grad)
    return made.requires_grad_(tensor.requires_grad)


@pytest.mark.parametrize("first", range(SEED, SEED + COUNT, BATCH))
def test_every_lossless_route_gives_torch_the_same_bytes(first: int, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(first, min(first + BATCH, SEED + COUNT)):
            check(seed, folder)


@pytest.mark.parametrize("seed", [2144, 2541, 4273, 7762])
def test_an_empty_window_outside_the_part_of_its_storage_that_is_written(seed: int, folder: Path) -> None:
    check(seed, folder)
