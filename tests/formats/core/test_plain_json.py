"""Plain values are spelled as the standard library's encoder spells them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.core import plain_json

TEXTS = st.text(max_size=8) | st.sampled_from(["", '"', "\\", '{"a":"\\\\"}', "\n", "é", "\ud800", "\x7f"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(TEXTS | st.integers() | st.booleans() | st.none(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES, st.sampled_from([0, 3, 2000]))
def test_any_value(value: Any, few: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_json, "_FEW", few)
        assert plain_json.dumps(value) == json.dumps(value, separators=(",", ":"))


@given(st.lists(TEXTS, max_size=5))
def test_texts(texts: list[str]) -> None:
    assert list(plain_json.quoted(texts)) == [json.dumps(text, ensure_ascii=False) for text in texts]


def test_what_json_has_no_word_for() -> None:
    with pytest.raises(TypeError, match="object"):
        plain_json.dumps({"a": object()})


@given(VALUES.map(json.dumps), st.lists(st.tuples(st.floats(0, 1), st.sampled_from(' \n\t,:{}[]"\\0-.eNtrue')), max_size=2))
def test_any_text_is_read_as_json_reads_it(text: str, changes: list[tuple[float, str]]) -> None:
    for place, character in changes:
        at = int(place * len(text))
        text = text[:at] + character + text[at + 1 :]

    def outcome(read: Any) -> str:
        try:
            return repr(read(text))
        except ValueError as error:
            return f"{type(error)} {error}"

    assert outcome(plain_json.loads) == outcome(json.loads)
