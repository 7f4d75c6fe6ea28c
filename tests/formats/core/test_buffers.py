"""No copy that the kernel makes for us has its destination just behind its source in the page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.core import buffers
from formats.core.buffers import NEAR, PAGE, Buffer, Scratch, borrow, give_back

BYTES = st.integers(0, 1 << 40)


def slow(destination: int, source: int) -> bool:
    return 0 < (destination - source) % PAGE < NEAR


@given(BYTES, BYTES, st.integers(0, PAGE), st.integers(0, NEAR - 1))
def test_neither_the_read_nor_the_write_is_slow(offset: int, source: int, lead: int, shorter: int) -> None:
    """``lead`` is what stands before the data at most: a ZIP's descriptor of the member before makes it ``shorter``."""
    buffer = Buffer(100)
    start = buffer.place(offset, source, lead)
    assert 0 <= start <= len(buffer.view) - 100
    assert not slow(start, source)
    data = start + lead - (shorter if lead > shorter else 0)
    assert not slow(offset, data)


@given(BYTES)
def test_what_is_read_and_stays_begins_where_the_file_does(offset: int) -> None:
    buffer = Buffer(100)
    assert (buffer.place(offset) - offset) % PAGE == 0


@pytest.fixture(autouse=True)
def spare(monkeypatch: pytest.MonkeyPatch) -> list[Buffer]:
    """What the process keeps for this test alone."""
    kept: list[Buffer] = []
    monkeypatch.setattr(buffers, "_spare", kept)
    return kept


def test_a_buffer_that_is_given_back_is_lent_again_the_smallest_that_is_large_enough() -> None:
    small, large = borrow(1 << 20), borrow(4 << 20)
    give_back(large)
    give_back(small)
    assert borrow(1 << 19) is small
    assert borrow(1 << 19) is large
    give_back(small)
    assert borrow(1 << 21) is not small


def test_no_more_is_kept_than_a_process_may_hold(spare: list[Buffer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "_KEPT", 3 << 20)
    for buffer in [borrow(1 << 20) for _ in range(5)]:
        give_back(buffer)
    assert len(spare) == 2


def test_scratch_grows_and_comes_back(spare: list[Buffer]) -> None:
    scratch = Scratch()
    assert len(scratch.room(1000)) == 1000
    scratch.room(10)[:] = b"x" * 10
    assert spare == []
    view = scratch.room(1 << 20, 5)
    assert len(view) == 1 << 20
    assert len(spare) == 1
    scratch.close()
    scratch.close()
    assert len(spare) == 2
