"""Indices of sparse tensors: refused exactly where torch refuses them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from formats.core.dtype import BY_NAME
from formats.core.errors import CorruptCheckpoint
from formats.core.sparse import check
from formats.core.storage import BytesStorage
from formats.core.tensor import CompositeTensor, TensorView

NAMES = {
    "sparse_csr": ("crow_indices", "col_indices"), "sparse_bsr": ("crow_indices", "col_indices"),
    "sparse_csc": ("ccol_indices", "row_indices"), "sparse_bsc": ("ccol_indices", "row_indices"),
}  # fmt: skip


def view(tensor: torch.Tensor) -> TensorView:
    plain = tensor.contiguous()
    return TensorView(BY_NAME[str(plain.dtype).removeprefix("torch.")], tuple(plain.shape), BytesStorage(plain.numpy().tobytes()))


def composite(layout: str, parts: tuple[torch.Tensor, ...], size: tuple[int, ...]) -> CompositeTensor:
    names = ("indices", "values") if layout == "sparse_coo" else (*NAMES[layout], "values")
    return CompositeTensor(layout, BY_NAME["float32"], size, dict(zip(names, map(view, parts), strict=True)))


def torch_accepts(layout: str, parts: tuple[torch.Tensor, ...], size: tuple[int, ...]) -> bool:
    try:
        getattr(torch, f"{layout}_tensor")(*parts, size, check_invariants=True)
    except (RuntimeError, ValueError):
        return False
    return True


def we_accept(layout: str, parts: tuple[torch.Tensor, ...], size: tuple[int, ...]) -> bool:
    try:
        check({"w": composite(layout, parts, size)})
    except CorruptCheckpoint:
        return False
    return True


@pytest.mark.parametrize("layout", ["sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc", "sparse_coo"])
@pytest.mark.parametrize("shape", [(4, 6), (2, 4, 6), (4, 6, 3)])
def test_what_torch_makes_is_accepted(layout: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    dense = torch.randint(0, 3, shape, generator=generator).float()
    if layout == "sparse_coo":
        made = dense.to_sparse()
        parts: Any = (made.indices(), made.values())
    else:
        dense_dim = len(shape) - 2 if shape[0] == 4 else 0
        if len(shape) == 3 and not dense_dim:
            dense[1] = dense[0]  # batches have equally many entries
        blocks = (2, 3) if layout in {"sparse_bsr", "sparse_bsc"} else None
        convert = getattr(dense, f"to_{layout}")
        made = convert(blocks, dense_dim=dense_dim) if blocks else convert(dense_dim=dense_dim)
        parts = (*(getattr(made, name)() for name in NAMES[layout]), made.values())
    assert torch_accepts(layout, parts, shape)
    assert we_accept(layout, parts, shape)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_compressed_is_refused_exactly_where_torch_does(data: st.DataObject) -> None:
    layout = data.draw(st.sampled_from(["sparse_csr", "sparse_csc"]))
    size = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    lines = size[0] if layout == "sparse_csr" else size[1]
    plain = data.draw(st.lists(st.integers(-1, 3), max_size=5))
    near = [min(len(plain), line * len(plain) // lines) for line in range(lines + 1)]
    compressed = [max(-1, start + data.draw(st.sampled_from([0, 0, 0, 0, 1, -1]))) for start in near]
    dtype = data.draw(st.sampled_from([torch.int64, torch.int32]))
    parts = (torch.tensor(compressed, dtype=dtype), torch.tensor(plain, dtype=dtype), torch.zeros(len(plain)))
    assert we_accept(layout, parts, size) == torch_accepts(layout, parts, size)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 4)), max_size=6))
def test_coordinates_are_refused_exactly_where_torch_does(places: list[tuple[int, int]]) -> None:
    indices = torch.tensor(places, dtype=torch.int64).reshape(-1, 2).T.contiguous()
    parts = (indices, torch.zeros(len(places)))
    assert we_accept("sparse_coo", parts, (3, 4)) == torch_accepts("sparse_coo", parts, (3, 4))


def test_pieces_need_not_end_with_an_index() -> None:
    """Data come in pieces of any length."""

    class Dribble(BytesStorage):
        def chunks(self, start: int, stop: int) -> Any:
            for at in range(start, stop, 3):
                yield self.data[at : min(at + 3, stop)]

    good = torch.tensor([[0, 1, 2], [3, 0, 1]])
    storage = Dribble(good.numpy().tobytes())
    parts = {"indices": TensorView(BY_NAME["int64"], (2, 3), storage), "values": view(torch.zeros(3))}
    check({"w": CompositeTensor("sparse_coo", BY_NAME["float32"], (3, 4), parts)})
    with pytest.raises(CorruptCheckpoint, match="index 3 in dimension 1, which has size 3"):
        check({"w": CompositeTensor("sparse_coo", BY_NAME["float32"], (3, 3), parts)})
