"""No copy that the kernel makes for us has its destination just behind its source in the page."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from formats.core.buffers import NEAR, PAGE, Buffer, borrow, give_back

BYTES = st.integers(0, 1 << 40)


def slow(destination: int, source: int) -> bool:
    return 0 < (destination - source) % PAGE < NEAR


@given(BYTES, BYTES, st.integers(0, PAGE), st.integers(0, NEAR - 1))
def test_neither_the_read_nor_the_write_is_slow(offset: int, source: int, lead: int, shorter: int) -> None:
    """``lead`` is what stands before the data at most: a ZIP's descriptor of the member before makes it ``shorter``."""
    buffer = Buffer(100)
    start = buffer.place(offset, source, lead)
    assert 0 <= start <= len(buffer.view) - 100
    address = buffer._phase + start
    assert not slow(address, source)
    data = address + lead - (shorter if lead > shorter else 0)
    assert not slow(offset, data)


@given(BYTES)
def test_what_is_read_and_stays_begins_where_the_file_does(offset: int) -> None:
    buffer = Buffer(100)
    assert (buffer._phase + buffer.place(offset) - offset) % PAGE == 0


def test_a_buffer_that_is_given_back_is_lent_again_where_it_is_large_enough() -> None:
    first = borrow(1 << 20)
    give_back(first)
    assert borrow(1 << 19) is first
    give_back(first)
    assert borrow(1 << 21) is not first
