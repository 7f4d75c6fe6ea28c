"""Nothing that a file says reaches a terminal unescaped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from convert.text import dotted, shown, size


@given(st.text(st.characters(), max_size=600), st.integers(8, 200))
def test_shown_is_printable_and_no_longer_than_asked(text: str, limit: int) -> None:
    said = shown(text, limit)
    assert said.isprintable()
    assert len(said) <= limit


@given(st.text(st.characters(categories=["L", "N", "P"]), max_size=40))
def test_printable_text_is_shown_as_it_is(text: str) -> None:
    assert shown(text) == text


def test_what_moves_recolours_or_reorders_is_escaped() -> None:
    assert shown("a\x1b[31mb\u202ec\ud800\n\u200b\x9b") == "a\\x1b[31mb\\u202ec\\ud800\\n\\u200b\\x9b"
    assert shown("no\\escape") == "no\\escape"
    assert shown("an\\n\n") == "an\\\\n\\n", "an escape and what looks like one are told apart"


def test_a_long_name_loses_its_middle() -> None:
    said = shown("head" + "x" * 2_000_000 + "tail", 50)
    assert said.startswith("head")
    assert said.endswith("tail")
    assert "…" in said


def test_sizes_are_decimal() -> None:
    assert [size(n) for n in (0, 1, 999, 1000, 3_200_000, 999_600_000, 10**13)] == [
        "0 bytes", "1 byte", "999 bytes", "1 kB", "3.2 MB", "1 GB", "10 TB",
    ]  # fmt: skip


def test_a_path_never_spells_out_a_key_that_is_no_name() -> None:
    assert dotted(("state_dict", 3, ("x",) * 9, 1 << 9999)) == "state_dict.3.<tuple>.<int>"
