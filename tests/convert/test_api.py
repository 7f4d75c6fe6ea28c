"""The Python interface: what the README shows, lazy tensors as numpy and torch, and errors."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import convert
from tests.command import ROOT, environment

README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("<!-- python: begin -->")[2].partition("<!-- python: end -->")[0]
EXAMPLES = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=["open", "convert", "inspect"])
def test_examples_of_the_readme_print_what_they_say(example: str, training: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=training.parent,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for said in re.findall(r"print\(.*?\)\s+# (?!what )(.+)", example):
        assert said in done.stdout, done.stdout


def test_import_is_light() -> None:
    code = "import sys, convert; print(sorted(m for m in sys.modules if m.split('.')[0] in ('convert', 'formats', 'torch', 'numpy')))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "['convert']\n"


def test_version_is_that_of_the_distribution() -> None:
    import tomllib

    assert convert.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


DTYPES = [
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool",
    "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_of_every_dtype(dtype: str, tmp_path: Path) -> None:
    import numpy as np
    import torch

    kind = getattr(torch, dtype)
    bits = torch.arange(240, dtype=torch.uint8).reshape(15, 16)
    value = (bits % 2).to(kind) if dtype == "bool" else bits.view(kind)
    path = tmp_path / "t.pth"
    torch.save({"a.weight": value, "t.weight": value.T, "e.weight": value[:0], "s.weight": value[0, 0]}, path)
    with convert.open(path) as checkpoint:
        found = checkpoint.state_dict()
        for key, expected in {"a": value, "t": value.T, "e": value[:0], "s": value[0, 0]}.items():
            tensor = found[f"{key}.weight"]
            assert (tensor.dtype, tensor.shape) == (dtype, tuple(expected.shape))
            raw = expected.contiguous().reshape(-1).view(torch.uint8)
            assert torch.equal(tensor.torch().contiguous().reshape(-1).view(torch.uint8), raw)
            assert tensor.torch().dtype == kind
            assert tensor.torch().shape == expected.shape
            array = tensor.numpy()
            assert array.shape == tuple(expected.shape)
            assert array.tobytes() == raw.numpy().tobytes()
            assert array.dtype == np.dtype(dtype) if hasattr(np, dtype) else str(array.dtype) == dtype
            array[...] = 0  # the caller's own memory


def test_sparse_and_quantised_come_as_torch_has_them(tmp_path: Path) -> None:
    import torch

    dense = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 3.0]])
    per_channel = torch.quantize_per_channel(dense, torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), 0, torch.qint8)
    tensors: dict[str, Any] = {
        "coo.weight": dense.to_sparse(),
        "csr.weight": dense.to_sparse_csr(),
        "csc.weight": dense.to_sparse_csc(),
        "bsr.weight": dense.to_sparse_bsr((1, 3)),
        "bsc.weight": dense.to_sparse_bsc((1, 3)),
        "q.weight": torch.quantize_per_tensor(dense, 0.1, 3, torch.quint8),
        "qc.weight": per_channel,
    }
    path = tmp_path / "t.pth"
    torch.save(tensors, path)
    with convert.open(path) as checkpoint:
        for key, tensor in checkpoint.state_dict().items():
            made, expected = tensor.torch(), tensors[key]
            assert (made.layout, made.dtype, made.shape) == (expected.layout, expected.dtype, expected.shape)
            assert torch.equal(*(t.dequantize() if t.is_quantized else t.to_dense() for t in (made, expected)))
            with pytest.raises(convert.CheckpointError):
                tensor.numpy()


def test_indices_that_point_outside_are_refused(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "t.pth"
    evil = torch.sparse_coo_tensor(torch.tensor([[5]]), torch.ones(1), (2,), check_invariants=False)
    torch.save({"a.weight": evil}, path)
    with convert.open(path) as checkpoint, pytest.raises((convert.CheckpointError, RuntimeError)):
        checkpoint.state_dict()["a.weight"].torch()


def test_several_models_need_a_name(gan: Path) -> None:
    with convert.open(gan) as checkpoint:
        with pytest.raises(convert.CheckpointError, match="generator"):
            checkpoint.state_dict()
        assert set(checkpoint.state_dict(select="generator")) == {"weight", "bias"}
        assert "generator.weight" in checkpoint.tensors


def test_wrong_options_are_refused_as_the_command_does(training: Path) -> None:
    for options in ({"verify": "maybe"}, {"keep": "some"}, {"out": "-"}, {"out": "a", "out_dir": "b"}):
        with pytest.raises(convert.CheckpointError) as caught:
            convert.convert(training, to="pth", **options)  # type: ignore[arg-type]
        assert caught.value.exit_code == 2
