"""The benchmark's own checks: it must not report a time for work that was not done."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import convert_speed


def test_equal_tensors_in_another_order_are_equal(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    tensors = {"a": torch.arange(6.0), "b": torch.arange(4)}
    save_file(tensors, one)
    save_file({**tensors}, other, metadata={"format": "pt"})
    convert_speed.assert_equal(one, other)


@pytest.mark.parametrize(
    "changed",
    [
        {"a": torch.arange(1.0, 7.0), "b": torch.arange(4)},
        {"a": torch.arange(6.0)},
        {"a": torch.arange(6.0), "b": torch.arange(5)},
    ],
    ids=["value", "key", "shape"],
)
def test_a_difference_ends_the_measurement(changed: dict[str, torch.Tensor], tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    save_file({"a": torch.arange(6.0), "b": torch.arange(4)}, one)
    save_file(changed, other)
    with pytest.raises(SystemExit, match="differ"):
        convert_speed.assert_equal(one, other)


def test_a_failing_command_ends_the_measurement(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="exit 3"):
        convert_speed.measure([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log")


def test_memory_is_the_command_s_own(tmp_path: Path) -> None:
    """This process holds torch; what it measures must not."""
    small = convert_speed.measure([sys.executable, "-S", "-c", "pass"], tmp_path / "log")
    large = convert_speed.measure([sys.executable, "-S", "-c", "x = b'1' * (100 << 20)"], tmp_path / "log")
    assert small.peak < 30 << 20
    assert large.peak > 100 << 20


def test_a_small_input_is_measured_and_removed(tmp_path: Path) -> None:
    measured = convert_speed.measure_input("100K", 5, 1, tmp_path)
    assert [entry.contender for entry in measured][:3] == ["cp", "cp + fsync", "convert"]
    assert all(len(entry.runs) == len(entry.ratios) == 1 for entry in measured)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    assert "cp + fsync" in "\n".join(convert_speed.rows("small", measured))
