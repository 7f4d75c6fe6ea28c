"""The targets of the Makefile, without the environment that they would set up, and the sample zoo that `make migrate` converts."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests import command, sample_zoo, torch_reading

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
MODEL_AT = {"checkpoint": "state_dict", "parallel": "net", "last": "state_dict"}


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as if the environment were ready: ``-o`` takes the stamp for new, whether it is there or not."""
    return subprocess.run(
        ["make", "-o", ".venv/.ready", *arguments], cwd=command.ROOT, capture_output=True, text=True, check=False
    )


def test_help_is_the_default_and_lists_every_target() -> None:
    targets = set(re.findall(r"^\.PHONY: (.*)$", (command.ROOT / "Makefile").read_text(), re.M)[0].split())
    shown = make()
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == make("help").stdout
    assert {line.split()[1] for line in shown.stdout.splitlines()} == targets


def test_migrate_says_what_is_missing() -> None:
    refused = make("migrate", "SRC=somewhere")
    assert refused.returncode != 0
    assert "DST=" in refused.stderr


def test_migrate_passes_everything_on() -> None:
    shown = make("-n", "migrate", "SRC=a b", "DST=c d", "TO=pth", "JOBS=2")
    assert shown.stdout.strip().splitlines()[-1] == '.venv/bin/convert migrate "a b" "c d" --to pth --jobs 2'


def test_another_python_is_refused() -> None:
    refused = subprocess.run(
        ["make", "setup", "PYTHON=/nowhere/python", f"VENV={command.ROOT}/build/nowhere"],
        cwd=command.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode != 0
    assert "/nowhere/python is not Python 3.11, 3.12 or 3.13" in refused.stderr


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The model in a file of the sample zoo, as torch reads it."""
    tree = torch_reading.load(path)
    stem = path.name.partition(".")[0]
    if stem in MODEL_AT:
        tree = tree[MODEL_AT[stem]]
    if isinstance(tree, torch_reading.Stub):
        return {key.removeprefix("module."): value for key, value in torch_reading.state_dict(tree).items()}
    assert isinstance(tree, dict)
    return tree


def test_the_sample_zoo_migrates(tmp_path: Path) -> None:
    zoo, out = tmp_path / "zoo", tmp_path / "out"
    made = sample_zoo.make(zoo)
    assert len(made) == 8
    command.run("migrate", zoo, out, "--to", "safetensors", check=True)
    for path in made:
        name = path.relative_to(zoo)
        got = torch_reading.load_safetensors(out / name.parent / f"{name.name.partition('.')[0]}.safetensors")
        torch_reading.assert_same_tensors(got, weights(path))


def test_the_sample_zoo_is_the_same_every_time(tmp_path: Path) -> None:
    for first, second in zip(sample_zoo.make(tmp_path / "one"), sample_zoo.make(tmp_path / "other"), strict=True):
        torch_reading.assert_same_tensors(weights(first), weights(second))
