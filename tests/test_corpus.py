"""Real published checkpoints: every tensor of the converted file is what torch itself reads from the original."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests import command, torch_reading
from tests.corpus import fetch

pytestmark = pytest.mark.corpus

ROWS = {row["file"]: row for row in fetch.rows()}
PICKLES = [name for name, row in ROWS.items() if row["container"].startswith(("zip", "legacy")) and row["n_tensors"] != "0"]
# Where the model is in the files that hold more than it.
MODEL_AT: dict[str, tuple[str, ...]] = {"chgnet": ("model", "state_dict"), "pesto_pitch": ("state_dict",)}


def judged(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """The model's state dict in a file of the corpus, as torch reads it."""
    tree: Any = torch_reading.load(folder / name)
    for key in MODEL_AT.get(name.partition("-")[0], ()):
        tree = tree[key]
    if isinstance(tree, torch_reading.Stub):
        return torch_reading.state_dict(tree)
    assert isinstance(tree, dict)
    return tree


def test_the_list_is_whole() -> None:
    assert len(ROWS) == 29
    assert len(PICKLES) == 24


@pytest.mark.parametrize("name", PICKLES)
def test_to_safetensors(name: str, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    command.run(corpus / name, "--to", "safetensors", "-o", out, check=True)
    torch_reading.assert_same_tensors(torch_reading.load_safetensors(out), judged(corpus, name))
    assert hashlib.sha256((corpus / name).read_bytes()).hexdigest() == ROWS[name]["sha256"], "the source was changed"


@pytest.mark.parametrize("name", PICKLES)
def test_to_pth(name: str, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.pth"
    command.run(corpus / name, "--to", "pth", "-o", out, check=True)
    wanted = judged(corpus, name)
    got = torch.load(out, weights_only=True)
    torch_reading.assert_same_tensors(got, wanted)
    assert getattr(got, "_metadata", None) == getattr(wanted, "_metadata", None)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_whole_model_equals_the_state_dict_that_its_authors_published(number: int, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    folder = "beatnet-1.1.3/models"
    command.run(corpus / folder / f"model-{number}.pt", "--to", "safetensors", "-o", out, check=True)
    published = torch.load(corpus / folder / f"model_{number}_weights.pt", weights_only=True)
    torch_reading.assert_same_tensors(torch_reading.load_safetensors(out), published)


def test_a_file_without_weights_is_refused_by_name(corpus: Path, tmp_path: Path) -> None:
    (source,) = [corpus / name for name in ROWS if name.endswith("training_args.bin")]
    done = command.run(source, "--to", "safetensors", "--out-dir", tmp_path)
    assert done.returncode == 65, done.stderr
    line = done.stderr.splitlines()[0]
    assert "training_args.bin: " in line
    assert "argparse.Namespace" in line
    assert list(tmp_path.iterdir()) == []


def test_safetensors_to_pth_and_back(corpus: Path, tmp_path: Path) -> None:
    (source,) = [corpus / name for name in ROWS if name.endswith(".safetensors")]
    there, back = tmp_path / "there.pth", tmp_path / "back.safetensors"
    command.run(source, "--to", "pth", "-o", there, check=True)
    original = load_file(source)
    assert sorted(torch.load(there, weights_only=True)) == sorted(original)
    command.run(there, "--to", "safetensors", "-o", back, check=True)
    got = torch_reading.load_safetensors(back)
    torch_reading.assert_same_tensors(got, {key: original[key] for key in got})
    assert sorted(got) == sorted(original)
