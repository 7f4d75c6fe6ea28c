"""Differences of values, against NumPy's and torch's own arithmetic."""

from __future__ import annotations

import pytest

from convert.deviation import BLOCK, deviation
from formats.core.dtype import BY_NAME
from formats.core.storage import BytesStorage
from formats.core.tensor import CompositeTensor, TensorView

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
torch.set_num_threads(1)


def view(tensor: torch.Tensor) -> TensorView:
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return TensorView(BY_NAME[str(tensor.dtype).removeprefix("torch.")], tuple(tensor.shape), BytesStorage(data))


WIDE = ["float64", "float32", "float16", "bfloat16"]
FLOATS = [*WIDE, "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]


@pytest.mark.parametrize("name", FLOATS)
def test_every_float_is_read_as_torch_reads_it(name: str) -> None:
    dtype = getattr(torch, name)
    if dtype.itemsize == 1:
        values = torch.arange(256, dtype=torch.uint8).view(dtype)
    else:
        values = torch.randint(0, 256, (4096 * dtype.itemsize,), dtype=torch.uint8).view(dtype)
    found = deviation(view(values), view(values.to(torch.float64)))
    assert found is not None
    assert found.differing == 0, found
    shifted = values.roll(1)
    found = deviation(view(values), view(shifted))
    a, b = values.double(), shifted.double()
    odd = ~((a == b) | (a.isnan() & b.isnan()))
    apart = (a - b).abs()[odd]
    assert found is not None
    assert found.differing == int(odd.sum())
    assert found.nan == int((a.isnan() != b.isnan()).sum())
    assert found.first == int(odd.nonzero()[0])
    known = apart[~apart.isnan()]
    assert found.max_abs == float(known.max())


@pytest.mark.parametrize("name", ["int64", "int32", "int8", "uint8", "uint16", "uint32", "uint64", "bool"])
def test_integers_are_compared_exactly(name: str) -> None:
    dtype = getattr(torch, name)
    a = torch.randint(0, 2, (1000,)).to(dtype)
    b = a.clone()
    if name == "bool":
        b[7] = ~b[7]
        expected = 1
    elif name in ("int64", "uint64"):
        limits = torch.iinfo(dtype)
        a = torch.tensor([limits.max, 5] + [0] * 998, dtype=dtype)
        b = torch.tensor([limits.min, 5] + [0] * 998, dtype=dtype)
        expected = int(limits.max) - int(limits.min)
    else:
        b = torch.where(torch.arange(1000) == 9, torch.tensor(100).to(dtype), b)
        expected = abs(100 - int(a[9]))
    found = deviation(view(a), view(b))
    assert found is not None
    assert (found.differing, found.max_abs) == (1, expected)


def test_nan_and_signs_of_zero_are_equal_but_reported() -> None:
    a = torch.tensor([float("nan"), 0.0, float("inf"), 1.0])
    b = torch.tensor([float("nan"), -0.0, float("inf"), 1.0])
    found = deviation(view(a), view(b))
    assert found is not None
    assert (found.differing, found.bits, found.equal) == (0, 1, False)
    found = deviation(view(a), view(torch.tensor([1.0, 0.0, -float("inf"), 1.5])))
    assert found is not None
    assert (found.differing, found.nan, found.max_abs, found.first) == (3, 1, float("inf"), 0)


def test_dtypes_are_compared_by_value() -> None:
    a = torch.tensor([1.0, 2.0, 1 / 3])
    found = deviation(view(a), view(a.half()))
    assert found is not None
    assert found.differing == 1
    assert found.max_abs == pytest.approx(abs(1 / 3 - float(a[2].half())), rel=1e-3)
    big = torch.tensor([2**63 + 1], dtype=torch.uint64)
    found = deviation(view(big), view(torch.tensor([-1])))
    assert found is not None
    assert found.max_abs == 2**63 + 2


def test_complex_by_modulus() -> None:
    a, b = torch.tensor([1 + 1j, 2 + 0j]), torch.tensor([1 + 1j, 2 + 3j])
    found = deviation(view(a), view(b))
    assert found is not None
    assert (found.differing, found.max_abs) == (1, 3.0)


def test_blocks_and_strides_meet_in_step() -> None:
    a = torch.arange(BLOCK * 2 + 5, dtype=torch.float32).reshape(-1, 1)
    b = a.clone()
    b[BLOCK + 3] += 0.5
    found = deviation(view(a), view(b))
    assert found is not None
    assert (found.differing, found.first, found.max_abs, found.numel) == (1, BLOCK + 3, 0.5, a.numel())
    square = torch.arange(12.0).reshape(3, 4)
    strided = TensorView(BY_NAME["float32"], (4, 3), view(square).storage, 0, (1, 4))
    found = deviation(strided, view(square.t()))
    assert found is not None
    assert found.equal


def test_composites_by_their_components() -> None:
    def sparse(values: list[float], **attributes: object) -> CompositeTensor:
        parts = {"indices": view(torch.tensor([[0, 2]])), "values": view(torch.tensor(values))}
        return CompositeTensor("sparse_coo", BY_NAME["float32"], (3,), parts, attributes)

    found = deviation(sparse([1.0, 2.0]), sparse([1.0, 2.5]))
    assert found is not None
    assert (found.differing, found.max_abs) == (1, 0.5)
    found = deviation(sparse([1.0, 2.0], coalesced=True), sparse([1.0, 2.0], coalesced=False))
    assert found is not None
    assert found.differing == 1
    assert deviation(sparse([1.0, 2.0]), view(torch.zeros(3))) is None


def test_empty_and_scalar() -> None:
    found = deviation(view(torch.zeros(0, 3)), view(torch.zeros(0, 3)))
    assert found is not None
    assert found.equal
    found = deviation(view(torch.tensor(1.0)), view(torch.tensor(2.0)))
    assert found is not None
    assert found.max_abs == 1.0
