"""Nothing that a file says reaches a terminal unescaped."""

from __future__ import annotations

import html.parser
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from convert import text as texts
from convert.text import dotted, shown, size

# Printable and not, markup of HTML and Markdown, what terminals obey, what reorders.
HOSTILE = st.text(
    st.one_of(
        st.characters(), st.sampled_from("`*_[]()<>&|\\!#+-.:/=~\"'\n\r\t $^{}@\x1b\x07\x9b\u202e\u2066\u200b\u2028\ud800")
    ),
    max_size=80,
)


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


def test_heaps_of_combining_characters_are_spelled_out() -> None:
    assert shown("Zürich e\u0301 हिन्दी ภาษาไทย") == "Zürich e\u0301 हिन्दी ภาษาไทย"
    assert shown("a" + "\u0301" * 6) == "a" + "\u0301" * 4 + "\\u0301" * 2
    assert shown("\\" + "\u0301" * 5) == "\\\\" + "\u0301" * 4 + "\\u0301"


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


class _Page(html.parser.HTMLParser):
    """Collects the text and the elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.said = ""
        self.tags: list[tuple[str, list[Any]]] = []

    def handle_starttag(self, tag: str, attrs: list[Any]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.said += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")


def _page(source: str) -> _Page:
    page = _Page()
    page.feed(source)
    page.close()
    return page


@given(HOSTILE)
def test_text_in_html_is_text_and_one_attribute(text: str) -> None:
    page = _page(f"<p title='{texts.html(text)}'>{texts.html(text)}</p><p title=\"{texts.html(text)}\">")
    assert page.tags == [("p", [("title", shown(text))])] * 2
    assert page.said == shown(text)


MARKDOWN = [MarkdownIt("commonmark"), MarkdownIt("gfm-like", {"linkify": False}).enable(["table", "strikethrough"])]


@pytest.mark.parametrize("renderer", MARKDOWN)
@given(HOSTILE)
@example("www.example.org https://example.org")
@example("1. one\n\n| a | b |\n|---|---|")
@example("---")
def test_text_in_markdown_is_text(renderer: MarkdownIt, text: str) -> None:
    page = _page(renderer.render(f"Name: {texts.markdown(text)} end"))
    assert [tag for tag, _ in page.tags] == ["p"]
    assert " ".join(page.said.split()) == " ".join(f"Name: {shown(text)} end".split())
    alone = _page(renderer.render(texts.markdown(text)))
    assert {tag for tag, _ in alone.tags} <= {"p"} or text.startswith("    "), "nor at the beginning of a line"


@given(HOSTILE, HOSTILE)
def test_text_in_a_markdown_table_stays_in_its_cell(first: str, second: str) -> None:
    rows = f"| a | b |\n|---|---|\n| {texts.markdown(first)} | {texts.markdown_code(second)} |\n"
    page = _page(MARKDOWN[1].render(rows))
    assert [tag for tag, _ in page.tags] == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td", "code"]
    assert "".join(page.said.split()) == "".join(f"ab{shown(first)}{shown(second)}".split())


@given(HOSTILE)
def test_code_in_markdown_is_code(text: str) -> None:
    for renderer in MARKDOWN:
        page = _page(renderer.render(f"Name {texts.markdown_code(text)} end"))
        assert [tag for tag, _ in page.tags] == ["p", "code"]
        assert page.said.strip() == f"Name {shown(text)} end"
