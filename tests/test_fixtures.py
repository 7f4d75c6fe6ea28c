"""Files that torch 1.6.0 and 1.13.1 wrote: what the command makes of them is what today's torch reads from them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import command, torch_reading

FOLDER = Path(__file__).parent / "fixtures"
# Programs and quantised weights are converted by other rules than plain weights.
ELSEWHERE = re.compile(r"scripted|traced|torch_package|quant|_ref_")
FILES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.glob("torch*/*") if not ELSEWHERE.search(path.name))


def model_of(tree: Any) -> dict[str, Any]:
    """The model's state dict in a fixture's tree, keys as the command gives them."""
    if isinstance(tree, torch.Tensor):
        return {"tensor": tree}
    if isinstance(tree, list):
        return {str(index): item for index, item in enumerate(tree)}
    if isinstance(tree, dict):
        for key in ("model", "net", "model_state"):
            if key in tree:
                tree = tree[key]
                break
    if isinstance(tree, torch_reading.Stub):
        tree = torch_reading.state_dict(tree)
        if all(key.startswith("module.") for key in tree):
            tree = {key.removeprefix("module."): value for key, value in tree.items()}
    return flat(tree)


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Tensors by dotted path."""
    if isinstance(tree, torch.Tensor):
        return {prefix[:-1]: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found: dict[str, Any] = {}
    for key, value in items:
        found.update(flat(value, f"{prefix}{key}."))
    return found


def test_nothing_is_left_out_by_accident() -> None:
    assert len(FILES) == 48


@pytest.mark.parametrize("name", FILES)
def test_to_safetensors(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    command.run(FOLDER / name, "--to", "safetensors", "-o", out, check=True)
    torch_reading.assert_same_tensors(torch_reading.load_safetensors(out), model_of(torch_reading.load(FOLDER / name)))


@pytest.mark.parametrize("name", FILES)
def test_to_pth(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out.pth"
    command.run(FOLDER / name, "--to", "pth", "-o", out, check=True)
    torch_reading.assert_same_tensors(torch.load(out, weights_only=True), model_of(torch_reading.load(FOLDER / name)))
