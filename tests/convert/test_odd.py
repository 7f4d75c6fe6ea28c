"""Each kind of odd tensor through a plain container and back: torch says that value, kind and layout are what they were."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import convert
from tests.convert.test_roundtrip import same

torch.set_num_threads(1)
warnings.filterwarnings("ignore", message=".*(?:[Ss]parse|deprecated|nested|Nested).*")
DENSE = torch.tensor([[0.0, 2.0, 0.0, 0.0], [1.0, 0.0, 3.0, 5.0]])


def uncoalesced() -> torch.Tensor:
    return torch.sparse_coo_tensor(torch.tensor([[0, 0, 1], [2, 2, 0]]), torch.tensor([1.0, 2.0, 3.0]), (2, 3))


def hybrid() -> torch.Tensor:
    return torch.sparse_coo_tensor(torch.tensor([[0, 2]]), torch.randn(2, 4), (3, 4)).coalesce()


def quantized(dtype: torch.dtype) -> torch.Tensor:
    return torch.quantize_per_tensor(DENSE, 0.1, 3, dtype)


def per_channel(axis: int, dtype: torch.dtype = torch.qint8) -> torch.Tensor:
    size = DENSE.shape[axis]
    return torch.quantize_per_channel(DENSE, torch.rand(size, dtype=torch.float64) + 0.1, torch.arange(size), axis, dtype)


def float_qparams(dtype: torch.dtype) -> torch.Tensor:
    return torch.quantize_per_channel(torch.randn(3, 5), torch.rand(3) + 0.1, torch.rand(3), 0, dtype)


def codes(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(252, dtype=torch.int16).to(torch.uint8).view(-1, 4).view(dtype)


ROWS: dict[str, Callable[[], Any]] = {
    "strided": lambda: torch.arange(24.0).as_strided((3, 2), (8, 3), 1),
    "transposed": lambda: torch.randn(3, 5).t(),
    "expanded": lambda: torch.randn(1, 5).expand(4, 5),
    "channels-last": lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "channels-last-3d": lambda: torch.randn(2, 3, 4, 5, 2).to(memory_format=torch.channels_last_3d),
    "sliced": lambda: torch.randn(6, 8)[1:4, ::2],
    "overlapping": lambda: torch.arange(10.0).as_strided((4, 3), (2, 1)),
    "0-dim": lambda: torch.tensor(3.5),
    "0-dim of a vector": lambda: torch.arange(4.0)[2],
    "empty": lambda: torch.empty(0, 3),
    "empty of no size": lambda: torch.empty(0),
    "parameter": lambda: torch.nn.Parameter(torch.randn(3)),
    "frozen parameter": lambda: torch.nn.Parameter(torch.randn(3), requires_grad=False),
    "conj": lambda: torch.randn(3, 2, dtype=torch.complex64).conj(),
    "conj of complex128": lambda: torch.randn(3, 2, dtype=torch.complex128).t().conj(),
    "neg": lambda: torch.randn(3, dtype=torch.complex64).conj().imag,
    "bfloat16": lambda: torch.randn(5).bfloat16(),
    "bool": lambda: DENSE > 0,
    "complex64": lambda: torch.randn(3, dtype=torch.complex64),
    "complex128": lambda: torch.randn(3, 2, dtype=torch.complex128),
    "complex32": lambda: torch.randn(3, dtype=torch.complex32),
    "float8_e4m3fn": lambda: codes(torch.float8_e4m3fn),
    "float8_e5m2": lambda: codes(torch.float8_e5m2),
    "float8_e4m3fnuz": lambda: codes(torch.float8_e4m3fnuz),
    "float8_e5m2fnuz": lambda: codes(torch.float8_e5m2fnuz),
    "float8_e8m0fnu": lambda: codes(torch.float8_e8m0fnu),
    "float4_e2m1fn_x2": lambda: codes(torch.float4_e2m1fn_x2),
    "uint16": lambda: torch.tensor([0, 40000, 65535]).to(torch.uint16),
    "uint32": lambda: torch.tensor([0, 1 << 31, (1 << 32) - 1]).to(torch.uint32),
    "uint64": lambda: torch.tensor([0, -1, 1 << 62]).to(torch.uint64),
    "sparse COO": DENSE.to_sparse,
    "sparse COO, not coalesced": uncoalesced,
    "sparse COO, hybrid": hybrid,
    "sparse COO, no values": lambda: torch.sparse_coo_tensor(size=(3, 4)),
    "sparse COO of complex128": lambda: DENSE.to(torch.complex128).to_sparse(),
    "sparse CSR": DENSE.to_sparse_csr,
    "sparse CSR, int32 indices": lambda: torch.sparse_csr_tensor(
        torch.tensor([0, 1, 2], dtype=torch.int32), torch.tensor([1, 0], dtype=torch.int32), torch.tensor([1.0, 2.0]), (2, 2)
    ),
    "sparse CSC": DENSE.to_sparse_csc,
    "sparse BSR": lambda: DENSE.to_sparse_bsr((1, 2)),
    "sparse BSC": lambda: DENSE.to_sparse_bsc((1, 2)),
    "nested": lambda: torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)]),
    "quantised per tensor, qint8": lambda: quantized(torch.qint8),
    "quantised per tensor, quint8": lambda: quantized(torch.quint8),
    "quantised per tensor, qint32": lambda: quantized(torch.qint32),
    "quantised per tensor, transposed": lambda: quantized(torch.qint8).t(),
    "quantised per channel": lambda: per_channel(0),
    "quantised per channel, axis 1": lambda: per_channel(1, torch.quint8),
    "quantised per channel, float zero points": lambda: float_qparams(torch.quint8),
    "quantised, two values a byte": lambda: float_qparams(torch.quint4x2),
    "quantised, four values a byte": lambda: float_qparams(torch.quint2x4),
    "meta": lambda: torch.empty(3, 4, device="meta"),
    "meta, transposed": lambda: torch.empty(3, 4, dtype=torch.bfloat16, device="meta").t(),
}
ROUTES = [("safetensors", "pth"), ("safetensors", "pth.tar"), ("pth",), ("safetensors", "safetensors", "pth")]


def alike(ours: Any, theirs: Any) -> bool:
    """Value, dtype, layout, kind and flags; strides where a plain container keeps them."""
    if ours.is_meta or theirs.is_meta:
        known = [(t.is_meta, t.dtype, t.shape, t.stride()) for t in (ours, theirs)]
        return known[0] == known[1]
    if ours.is_nested or theirs.is_nested:
        if not (ours.is_nested and theirs.is_nested) or ours.layout != theirs.layout:
            return False
        return all(same(a, b) for a, b in itertools.zip_longest(ours.unbind(), theirs.unbind()))
    if ours.dtype in (torch.quint4x2, torch.quint2x4):
        scales = [t.q_per_channel_scales() for t in (ours, theirs)]
        return ours.dtype == theirs.dtype and same(*scales) and same(ours.dequantize(), theirs.dequantize())
    if ours.is_sparse and ours.is_coalesced() != theirs.is_coalesced():
        return False
    return same(ours, theirs)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Any]:
    """{route: what torch reads at its end}; every row is one tensor of a state dict."""
    torch.manual_seed(4)
    tensors = {f"{at}.weight": make() for at, make in enumerate(ROWS.values())}
    folder = tmp_path_factory.mktemp("rows")
    torch.save(tensors, folder / "in.pth")
    found: dict[tuple[str, ...], Any] = {(): tensors}
    for number, route in enumerate(ROUTES):
        path = folder / "in.pth"
        for step, target in enumerate(route):
            path = convert.convert(path, to=target, out=folder / f"{number}.{step}.{target}").outputs[0].path
        loaded = torch.load(path, weights_only=True)
        found[route] = loaded["state_dict"] if route[-1] == "pth.tar" else loaded
    return found


@pytest.mark.parametrize("route", ROUTES, ids="-".join)
@pytest.mark.parametrize("row", ROWS)
def test_it_comes_back_as_it_was(row: str, route: tuple[str, ...], converted: dict[tuple[str, ...], Any]) -> None:
    key = f"{list(ROWS).index(row)}.weight"
    assert alike(converted[()][key], converted[route][key])


class Named(torch.Tensor):
    """A subclass that is nothing but a tensor with a name."""


def test_a_subclass_gives_its_values_and_says_what_it_was(tmp_path: Path) -> None:
    values = torch.randn(3, 4)
    torch.save({"a.weight": values.as_subclass(Named), "b.weight": values}, tmp_path / "in.pth")
    there = convert.convert(tmp_path / "in.pth", to="safetensors")
    assert there.outputs[0].composites == {"a.weight": "subclass"}
    assert set(load_file(tmp_path / "in.safetensors")) == {"a.weight", "b.weight"}, "any loader finds it under its own name"
    back = convert.convert(tmp_path / "in.safetensors", to="pth", out=tmp_path / "back.pth")
    assert torch.equal(torch.load(tmp_path / "back.pth", weights_only=True)["a.weight"], values)
    assert any("Named" in note and "plain tensor" in note for note in back.notes)


def test_disjoint_slices_of_one_storage_are_no_ties_and_not_written_whole(tmp_path: Path) -> None:
    lstm = torch.nn.LSTM(4, 6, 2, bidirectional=True)
    flat = torch.cat([p.detach().flatten() for p in lstm.parameters()])
    at, sliced = 0, {}
    for name, parameter in lstm.named_parameters():
        sliced[name] = flat[at : at + parameter.numel()].view_as(parameter)
        at += parameter.numel()
    torch.save(sliced, tmp_path / "in.pth")
    result = convert.convert(tmp_path / "in.pth", to="safetensors", tied="fail")
    assert result.outputs[0].tensor_bytes == flat.numel() * 4
    convert.convert(tmp_path / "in.safetensors", to="pth", out=tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth")
    assert all(torch.equal(back[name], tensor) for name, tensor in sliced.items())
