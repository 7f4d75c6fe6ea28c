"""Targets with options of their own, through the command: shards, the old container; judged by their ecosystems' loaders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from convert.__main__ import main
from convert.job import nbytes


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.pth.tar"
    torch.save({"state_dict": {f"layer.{n}.weight": torch.full((25,), float(n)) for n in range(10)}}, path)
    return path


def test_shards_and_their_index(source: Path) -> None:
    assert main([str(source), "--to", "safetensors", "--max-shard-size", "300"]) == 0
    index = json.loads((source.parent / "in.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == [f"in-{n:05d}-of-00004.safetensors" for n in (1, 2, 3, 4)]
    found = {}
    for shard in set(index["weight_map"].values()):
        found |= load_file(source.parent / shard)
    expected = torch.load(source, weights_only=True)["state_dict"]
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    assert not (source.parent / "in.safetensors").exists()
    assert main([str(source.parent / "in.safetensors.index.json"), "--to", "pth", "-o", str(source.parent / "again.pth")]) == 0
    again = torch.load(source.parent / "again.pth", weights_only=True)
    assert list(again) == list(expected)


def test_one_shard_is_a_plain_file(source: Path) -> None:
    assert main([str(source), "--to", "safetensors", "--max-shard-size", "1GB"]) == 0
    assert len(load_file(source.parent / "in.safetensors")) == 10


def test_the_container_before_1_6(source: Path) -> None:
    assert main([str(source), "--to", "pth", "--legacy"]) == 0
    assert (source.parent / "in.pth").read_bytes()[:2] == b"\x80\x02"
    assert list(torch.load(source.parent / "in.pth", weights_only=True)) == [f"layer.{n}.weight" for n in range(10)]


def test_an_option_of_another_target_is_refused(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(source), "--to", "npz", "--legacy"]) == 2
    assert main([str(source), "--to", "pth", "--max-shard-size", "1MB"]) == 2
    assert main([str(source), "--to", "safetensors", "--max-shard-size", "lots"]) == 2
    assert "lots" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5GB", 5_000_000_000), ("500MiB", 500 << 20), ("1.5k", 1500), ("7", 7), ("0", None), ("-1", None), ("GB", None), ("1e3", None),
     ("5 GB", 5_000_000_000), ("٣", None), ("1" * 30, None)],
)  # fmt: skip
def test_sizes(text: str, expected: int | None) -> None:
    assert nbytes(text) == expected
