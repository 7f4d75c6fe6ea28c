"""Odd tensors to safetensors and back to ``.pth``: torch says that everything is as it was."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

import convert
from convert import verification
from convert.loaders import _torch_parts


def odd_tensors() -> dict[str, Any]:
    import torch

    torch.manual_seed(1)
    base = torch.randn(6, 8)
    shared = torch.randn(3, 4)
    flat = torch.randn(24)
    dense = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 3.0]])
    complexes = torch.randn(4, 3, dtype=torch.complex128)
    return {
        "z.weight": base,
        "transposed.weight": base.T,
        "sliced.weight": base[1:4, ::2],
        "expanded.weight": base[:1].expand(5, 8),
        "channels_last.weight": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "scalar.weight": torch.tensor(3.5),
        "empty.weight": torch.empty(0, 3),
        "embed.weight": shared,
        "head.weight": shared,
        "flat.a.weight": flat[:12],
        "flat.b.weight": flat[12:],
        "overlap.weight": flat[6:18],
        "conj.weight": torch.randn(3, dtype=torch.complex64).conj(),
        "neg.weight": torch.randn(3, dtype=torch.complex64).conj().imag,
        "c128.weight": complexes,
        "c128t.weight": complexes.T,
        "c32.weight": torch.randn(3, dtype=torch.complex32) if hasattr(torch, "complex32") else base,
        "bf16.weight": base.bfloat16(),
        "f8.weight": base.to(torch.float8_e4m3fn),
        "bool.weight": base > 0,
        "u16.weight": torch.arange(5).to(torch.uint16),
        "u64.weight": torch.arange(5).to(torch.uint64),
        "parameter.weight": torch.nn.Parameter(base.clone()),
        "frozen.weight": torch.nn.Parameter(base.clone(), requires_grad=False),
        "coo.weight": dense.to_sparse(),
        "csr.weight": dense.to_sparse_csr(),
        "csc.weight": dense.to_sparse_csc(),
        "bsr.weight": dense.to_sparse_bsr((1, 3)),
        "bsc.weight": dense.to_sparse_bsc((1, 3)),
        "q.weight": torch.quantize_per_tensor(dense, 0.1, 3, torch.quint8),
        "q32.weight": torch.quantize_per_tensor(dense, 0.1, 3, torch.qint32),
        "qc.weight": torch.quantize_per_channel(dense, torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), 0, torch.qint8),
        "a.weight": torch.tensor([float("nan"), -0.0, float("inf"), 1e-45]),
    }


def same(a: Any, b: Any) -> bool:
    import torch

    if (a.dtype, a.layout, a.shape, a.requires_grad, type(a)) != (b.dtype, b.layout, b.shape, b.requires_grad, type(b)):
        return False
    for mine, other in zip(_torch_parts(a), _torch_parts(b), strict=True):
        if isinstance(mine, torch.Tensor):
            raw = [t.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8) for t in (mine, other)]
            if mine.dtype != other.dtype or mine.shape != other.shape or not torch.equal(*raw):
                return False
        elif mine != other:
            return False
    return True


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = OrderedDict(odd_tensors())
    tensors._metadata = OrderedDict({"": {"version": 1}, "q": {"version": 3, "scheme": "x"}})  # type: ignore[attr-defined]
    path = tmp_path_factory.mktemp("odd") / "odd.pt"
    torch.save(tensors, path)
    return path, tensors


@pytest.mark.parametrize(
    "route", [("safetensors", "pth"), ("pth",), ("pth.tar",), ("pth", "safetensors", "pth.tar")], ids="-".join
)
def test_every_odd_tensor_comes_back(route: tuple[str, ...], odd: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    import torch

    source, tensors = odd
    path = source
    for at, target in enumerate(route):
        result = convert.convert(path, to=target, out=tmp_path / f"{at}.{target}")
        path = result.outputs[0].path
    back = torch.load(path, weights_only=True)
    back = back["state_dict"] if route[-1] == "pth.tar" else back
    assert list(back) == list(tensors)
    assert [key for key in tensors if not same(tensors[key], back[key])] == []
    assert back._metadata == tensors._metadata  # type: ignore[attr-defined]
    assert back["embed.weight"].data_ptr() == back["head.weight"].data_ptr(), "tied weights stay tied"
    assert back["flat.a.weight"].data_ptr() != back["flat.b.weight"].data_ptr()


@pytest.mark.parametrize("target", ["safetensors", "pth"])
def test_verify_agrees_with_torch_and_safetensors(target: str, odd: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / f"out.{target}"
    result = convert.convert(odd[0], to=target, out=out)
    found = verification.verify(odd[0], out)
    assert [row for row in found.rows if row.status != "equal"] == []
    assert found.witnessed
    assert found.exit == 0
    if target == "safetensors":
        assert result.outputs[0].duplicates == {"head.weight": "embed.weight"}
        assert result.outputs[0].composites["c128.weight"] == "plain"
        assert result.outputs[0].composites["coo.weight"] == "sparse_coo"


def test_safetensors_itself_reads_the_plain_ones(odd: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    out = tmp_path / "out.safetensors"
    result = convert.convert(odd[0], to="safetensors", out=out)
    loaded = load_file(out)
    plain = set(odd[1]) - set(result.outputs[0].composites) - set(result.outputs[0].aliases)
    assert plain <= set(loaded)
    for key in plain:
        assert same(odd[1][key].detach(), loaded[key]), key


def test_tied_weights_are_spelled_as_save_model_spells_them(tmp_path: Path) -> None:
    import safetensors
    import torch
    from safetensors.torch import load_model, save_model

    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(5, 3)
            self.head = torch.nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    model, other = Tied(), Tied()
    torch.save(model.state_dict(), tmp_path / "m.pth")
    convert.convert(tmp_path / "m.pth", to="safetensors", tied="alias")
    save_model(model, str(tmp_path / "theirs.safetensors"))
    with (
        safetensors.safe_open(tmp_path / "m.safetensors", "pt") as ours,
        safetensors.safe_open(tmp_path / "theirs.safetensors", "pt") as theirs,
    ):
        assert list(ours.keys()) == list(theirs.keys())
        assert theirs.metadata().items() <= ours.metadata().items()
    load_model(other, str(tmp_path / "m.safetensors"))
    assert torch.equal(other.head.weight, model.head.weight)
