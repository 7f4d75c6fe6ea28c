"""The compiled copy by itself: what it is given is checked again before a byte is touched; NumPy is the judge of the rest."""

from __future__ import annotations

import threading
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

_strided = pytest.importorskip("formats.core._strided", reason="formats.core._strided is not built: there was no compiler")
Dims = list[tuple[int, int, int]]


def box(target: Any, into: int, source: Any, base: int, item: int, dims: Any) -> None:
    _strided.box(target, into, source, base, item, dims)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Dims, int, int]:
    """Boxes whose target's items are all different: steps are those of some order of the dimensions, with gaps."""
    sizes = draw(st.lists(st.integers(1, 40), max_size=4).filter(lambda sizes: prod(sizes) <= 20_000))
    steps, step = [1] * len(sizes), draw(st.integers(1, 3))
    for axis in draw(st.permutations(range(len(sizes)))):
        steps[axis] = step
        step *= sizes[axis] + draw(st.integers(0, 2))
    strides = [draw(st.sampled_from([0, 1, 2, 5, 16, 64, 333])) for _ in sizes]
    return list(zip(sizes, strides, steps, strict=True)), draw(st.integers(0, 5)), draw(st.integers(0, 5))


def reach(dims: Dims, axis: int) -> int:
    return sum((dim[0] - 1) * dim[axis] for dim in dims)


@settings(max_examples=400, deadline=None)
@given(boxes(), st.sampled_from([1, 2, 4, 8]), st.booleans())
def test_equals_numpy(given_: tuple[Dims, int, int], item: int, exact: bool) -> None:
    """Every item of the box comes to its place, and no other byte of the target changes."""
    dims, into, base = given_
    more = 0 if exact else 7
    source = np.random.default_rng(0).integers(0, 256, (base + reach(dims, 1) + 1 + more) * item, np.uint8)
    target = np.full((into + reach(dims, 2) + 1 + more) * item, 0xAA, np.uint8)
    wanted = target.copy()
    shape, kind = [size for size, _, _ in dims], f"u{item}"
    there: Any = np.ndarray(shape, kind, wanted, into * item, [step * item for _, _, step in dims])
    there[...] = np.ndarray(shape, kind, source, base * item, [stride * item for _, stride, _ in dims])
    box(memoryview(target), into, memoryview(source), base, item, dims)
    assert (target == wanted).all()


@settings(max_examples=400, deadline=None)
@given(boxes(), st.sampled_from([1, 2, 4, 8]), st.data())
def test_reaches_no_byte_beyond(given_: tuple[Dims, int, int], item: int, data: st.DataObject) -> None:
    """One item less on either side, and nothing is copied."""
    dims, into, base = given_
    held = [into + reach(dims, 2) + 1, base + reach(dims, 1) + 1]
    side = data.draw(st.integers(0, 1))
    held[side] -= 1
    target, source = bytearray(held[0] * item), bytes(held[1] * item)
    with pytest.raises(ValueError, match=f"beyond the {('target', 'source')[side]}"):
        box(target, into, source, base, item, dims)


BIG = (1 << 63) - 1


@pytest.mark.parametrize(
    "dims",
    [
        [(BIG, 1, 1)],
        [(2, BIG, 1)],
        [(2, 1, BIG)],
        [(BIG, BIG, BIG)] * 3,
        [(3, BIG // 2 + 1, 1)],  # twice this overflows
        [(BIG, 0, 0)],  # would write one item for ever
        [(2, 0, 0)] * 62,
        [(2, 1, 1)] * 5,  # 32 items on 16
        [(0, 1, 1)],
        [(-1, 1, 1)],
        [(2, -1, 1)],
        [(2, 1, -1)],
    ],
)
def test_hostile_sizes(dims: Dims) -> None:
    with pytest.raises(ValueError, match="beyond"):
        box(bytearray(64), 0, bytes(64), 0, 4, dims)


@pytest.mark.parametrize(("into", "base"), [(-1, 0), (0, -1), (16, 0), (0, 16), (BIG, 0), (0, BIG)])
def test_hostile_places(into: int, base: int) -> None:
    with pytest.raises(ValueError, match="beyond"):
        box(bytearray(64), into, bytes(64), base, 4, [(2, 1, 1)])


@pytest.mark.parametrize("item", [-1, 0, 3, 16])
def test_items_of_other_sizes(item: int) -> None:
    with pytest.raises(ValueError, match="items of"):
        box(bytearray(64), 0, bytes(64), 0, item, [(2, 1, 1)])


@pytest.mark.parametrize(
    "arguments",
    [
        (b"read-only", 0, b"bytes", 0, 1, []),
        (bytearray(4), 0, "text", 0, 1, []),
        (bytearray(4), 0, bytes(4), 0, 1, None),
        (bytearray(4), 0, bytes(4), 0, 1, [None]),
        (bytearray(4), 0, bytes(4), 0, 1, [(1, 1)]),
        (bytearray(4), 0, bytes(4), 0, 1, [(1, 1, 1, 1)]),
        (bytearray(4), 0, bytes(4), 0, 1, [(1.0, 1, 1)]),
        (bytearray(4), 0, bytes(4), 0, 1, [(1 << 70, 1, 1)]),
        (bytearray(4), 0, bytes(4), 0, 1, [(1, 1, 1)] * 65),
        (bytearray(4), 0, bytes(4)),
    ],
)
def test_no_box(arguments: tuple[Any, ...]) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError, BufferError)):
        _strided.box(*arguments)


def test_buffers_are_let_go() -> None:
    """After a copy and after a refusal alike: a bytearray that somebody still looks at cannot grow."""
    target = bytearray(8)
    box(target, 0, bytes(8), 0, 1, [(8, 1, 1)])
    with pytest.raises(ValueError, match="beyond"):
        box(target, 0, bytes(8), 0, 1, [(9, 1, 1)])
    with pytest.raises(TypeError):
        box(target, 0, bytes(8), 0, 1, [None])
    target.append(0)


def test_copies_side_by_side() -> None:
    """Threads that copy at once do not meet: there is no state between calls."""
    source = np.arange(1 << 20, dtype=np.uint32)
    targets = [np.zeros(1 << 20, np.uint32) for _ in range(4)]
    threads = [
        threading.Thread(target=box, args=(memoryview(t), 0, memoryview(source), 0, 4, [(1024, 1, 1024), (1024, 1024, 1)]))
        for t in targets
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((t.reshape(1024, 1024) == source.reshape(1024, 1024).T).all() for t in targets)
