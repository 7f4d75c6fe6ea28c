"""Casts and dequantisation, bit for bit as torch gives them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from formats.core import cast
from formats.core.cast import Cast, Tally, lossless
from formats.core.dequantize import dequantized
from formats.core.dtype import BY_NAME
from formats.core.storage import BytesStorage, read_all
from formats.core.tensor import CompositeTensor, TensorView

torch.set_num_threads(1)
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def every_kind(name: str) -> torch.Tensor:
    """All codes of a small type; of a wide one, random bits, the edges of every narrower type, and what lies half-way between."""
    dtype = getattr(torch, name)
    width = dtype.itemsize
    if width <= 2:
        return torch.arange(256**width, dtype=torch.int64).to(torch.int32).to(BITS[width]).view(dtype)
    generator = torch.Generator().manual_seed(1)
    random = torch.randint(-(1 << 63), (1 << 63) - 1, (60_000,), generator=generator).view(dtype)
    half = torch.arange(0, 1 << 16, dtype=torch.int32).to(torch.int16)
    parts = [random]
    for narrow in (torch.float16, torch.bfloat16):
        exact = half.view(narrow).to(dtype)
        exact = exact[torch.isfinite(exact)]
        middle = (exact[:-1] + exact[1:]) / 2
        parts += [exact, middle, torch.nextafter(middle, middle + 1), torch.nextafter(middle, middle - 1)]
    if dtype is torch.float64:
        single = random.view(torch.float32).double()
        parts += [single, single * (1 + 2**-25), single * 2**-130]
    special = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 65519.0, 65520.0, 2**-25, 2**-24], dtype=dtype)
    return torch.cat([*parts, special, -special])


@pytest.mark.parametrize("target", sorted(cast.TARGETS))
@pytest.mark.parametrize("source", sorted(cast.SOURCES))
def test_every_value_is_rounded_as_torch_rounds_it(source: str, target: str) -> None:
    values = every_kind(source)
    tally = Tally()
    wanted = values.to(getattr(torch, target))
    storage = Cast(BytesStorage(raw(values)), BY_NAME[source], BY_NAME[target], tally)
    made = torch.frombuffer(bytearray(read_all(storage)), dtype=wanted.dtype)
    both_nan = made.isnan() & wanted.isnan()
    bits = BITS[wanted.dtype.itemsize]
    assert bool(((made.view(bits) == wanted.view(bits)) | both_nan).all())
    before, after = values.double(), wanted.double()
    finite = before.isfinite()
    changed = (before != after) & ~before.isnan()
    tiny = torch.finfo(wanted.dtype).smallest_normal
    assert tally.rounded == int(changed.sum())
    assert tally.overflowed == int((finite & after.isinf()).sum())
    assert tally.zeroed == int((changed & (after == 0)).sum())
    assert tally.subnormal == int((changed & (after != 0) & (after.abs() < tiny)).sum())
    assert lossless(BY_NAME[source], BY_NAME[target]) == (not changed.any()) or source in ("float64", "float32")


@settings(max_examples=60, deadline=None)
@given(
    numel=st.integers(1, 3000),
    cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    pair=st.sampled_from([("float32", "float16"), ("float16", "float64"), ("float8_e5m2", "bfloat16"), ("float64", "float32")]),
)
def test_any_range_of_bytes_is_that_of_the_whole(numel: int, cuts: tuple[float, float], pair: tuple[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cast, "BLOCK", 97)
        source, target = BY_NAME[pair[0]], BY_NAME[pair[1]]
        values = torch.randn(numel, generator=torch.Generator().manual_seed(numel)).to(getattr(torch, pair[0]))
        tally = Tally()
        storage = Cast(BytesStorage(raw(values)), source, target, tally)
        whole = read_all(storage)
        rounded = tally.rounded
        start, stop = sorted(int(cut * storage.nbytes) for cut in cuts)
        assert read_all(storage, start, stop) == whole[start:stop]
        assert whole == raw(values.to(getattr(torch, pair[1])))
        assert tally.rounded == rounded, "a second look counts nothing twice"


def view(tensor: torch.Tensor) -> TensorView:
    name = str(tensor.dtype).removeprefix("torch.")
    return TensorView(BY_NAME[name], tuple(tensor.shape), BytesStorage(raw(tensor)))


def quantized(tensor: torch.Tensor) -> CompositeTensor:
    name = str(tensor.dtype).removeprefix("torch.")
    codes = tensor.int_repr().contiguous()
    parts = {"values": TensorView(BY_NAME[name], tuple(tensor.shape), BytesStorage(raw(codes)))}
    if tensor.qscheme() == torch.per_tensor_affine:
        said = {"scheme": "per_tensor_affine", "scale": tensor.q_scale(), "zero_point": tensor.q_zero_point()}
    else:
        parts |= {"scales": view(tensor.q_per_channel_scales()), "zero_points": view(tensor.q_per_channel_zero_points())}
        said = {"scheme": str(tensor.qscheme()).removeprefix("torch."), "axis": tensor.q_per_channel_axis()}
    return CompositeTensor("quantized", BY_NAME[name], tuple(tensor.shape), parts, said)


@pytest.mark.parametrize("dtype", [torch.qint8, torch.quint8, torch.qint32], ids=str)
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("float_zero_points", [False, True])
def test_dequantised_as_torch_does(dtype: torch.dtype, axis: int | None, float_zero_points: bool) -> None:
    if float_zero_points and dtype is torch.qint32:
        pytest.skip("torch 2.13 dies of an illegal instruction")
    values = torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(3)) * 9
    if axis is None:
        tensor = torch.quantize_per_tensor(values, 0.0371, -3 if dtype is not torch.quint8 else 131, dtype)
    else:
        scales = torch.rand(values.shape[axis], dtype=torch.float32 if float_zero_points else torch.float64) + 0.01
        zeros = torch.randint(0, 20, (values.shape[axis],))
        try:
            tensor = torch.quantize_per_channel(values, scales, zeros.float() + 0.25 if float_zero_points else zeros, axis, dtype)
        except RuntimeError as error:
            pytest.skip(f"torch has no such tensor: {error!s:.60}")
    assert read_all(dequantized(quantized(tensor)).row_major()) == raw(tensor.dequantize())
