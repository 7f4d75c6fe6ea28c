"""The page of a migration: what a file says is text in it, and however much there is, it stays of a size that a browser opens."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.text import shown
from convert.zoo import page as pages
from convert.zoo.document import document

MARKS = "<>&'\"/=\\`\n\r\x1b\x9b\u202e\u2028\ud800"
MARKUP = [
    "</script><script>parent.pwned=1</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "]]>",
]
HOSTILE = st.text(st.one_of(st.characters(), st.sampled_from(MARKS)), max_size=60) | st.sampled_from(MARKUP)


def row(name: str, **more: Any) -> dict[str, Any]:
    """A row with everything in it, as `convert.zoo.rows` makes them."""
    output = {
        "target": "safetensors", "path": f"{name}.safetensors", "bytes": 90, "tensors": 3, "verdict": "bytes", "sha256": "ab" * 32,
    }  # fmt: skip
    return {
        "source": name, "status": "done", "format": "torch-zip", "title": "torch.save, ZIP container", "bytes": 123, "seconds": 0.04,
        "digest": "sampled:" + "cd" * 32, "model": "state_dict", "outputs": [output], "verdict": "bytes",
        "dropped": [{"path": "optimizer", "tensors": 12, "bytes": 99, "summary": "dict of 2"}], "notes": ["a note"], **more,
    }  # fmt: skip


def failed(name: str, **more: Any) -> dict[str, Any]:
    error = {"exit": 65, "kind": "corrupt", "what": "is cut off", "hint": "fetch it again", "target": "safetensors"}
    return {"source": name, "status": "failed", "bytes": 10, "outputs": [], "seconds": 0.0, "error": {**error, **more}}


def made(rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    settings = {"source": "zoo", "destination": "out", "targets": ["safetensors"], "jobs": 2, **more}
    ignored = [{"source": "notes.txt", "kind": "text", "bytes": 12}]
    return document(rows, ignored, settings, tool="ckpt-convert 0.1", started="2026-01-31T23:59:59+00:00", seconds=12.3)


class Parsed(html.parser.HTMLParser):
    """Elements, their attributes, and the text outside scripts and styles; JSON of the rows."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.raw: dict[str, str] = {}
        self._in = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in = tag + (dict(attrs).get("id") or "") if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._in = "" if tag in ("script", "style") else self._in

    def handle_data(self, data: str) -> None:
        if self._in:
            self.raw[self._in] = self.raw.get(self._in, "") + data
        else:
            self.said.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")

    @property
    def rows(self) -> list[list[Any]]:
        found: list[list[Any]] = json.loads(self.raw["scriptrows"])["rows"]
        return found


PLAIN = Parsed(pages.page(made([row("a"), failed("b")])))


@given(HOSTILE)
@settings(max_examples=150, deadline=None)
def test_what_files_say_is_text(text: str) -> None:
    output = {"target": text, "path": text, "bytes": 1, "tensors": 1, "verdict": text, "sha256": text, "model": text}
    left = {"path": text, "tensors": 0, "bytes": 0, "summary": text}
    hostile = row(
        text, format=text, title=text, model=text, architecture=text, outputs=[output], verdict=text, dropped=[left], notes=[text],
        copy_of=text, digest=text, status=text, ratio="inf",
    )  # fmt: skip
    rows = [hostile, failed(text, kind=text, what=text, hint=text, target=text)]
    asked = {"source": text, "destination": text, "targets": [text], "include": [text]}
    found = document(rows, [{"source": text, "kind": text, "bytes": 1}], asked, tool=text, started=text, seconds=1)
    source = pages.page(found)
    source.encode()
    parsed = Parsed(source)
    assert not {tag for tag, _ in parsed.elements} - {tag for tag, _ in PLAIN.elements} - {"title", "h3", "circle"}
    assert [tag for tag, _ in parsed.elements].count("script") == 2
    for _, attributes in parsed.elements:
        assert not {name for name in attributes if name.startswith("on")} | {"href", "src", "srcdoc", "action"} & set(attributes)
    assert parsed.raw["script"] == pages._constant("page.js")
    assert shown(text, 300) in {told[0] for told in parsed.rows}
    assert not set(source) & set("\x1b\x9b\u202e\u2028\u2029\x07\x00")


def test_the_policy_admits_the_one_script() -> None:
    source = pages.page(made([row("a")]))
    policy = next(attributes["content"] for tag, attributes in Parsed(source).elements if attributes.get("http-equiv")) or ""
    digest = base64.b64encode(hashlib.sha256(pages._constant("page.js").encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "'unsafe-inline'" not in policy.partition("script-src")[2]
    assert not re.search(r"https?://|@import|url\(", source)


def test_totals_failures_and_their_hints_are_there_without_a_script() -> None:
    said = " ".join(" ".join(PLAIN.said).split())
    assert "1 failure" in said
    assert "is cut off" in said
    assert "hint: fetch it again" in said
    assert "1 other file" in said
    assert "133 bytes size of all sources" in said


def test_ten_thousand_rows_stay_small_and_whole() -> None:
    rows = [row(f"some/folder/model-{at:05}.pth.tar") for at in range(10_000)]
    source = pages.page(made(rows))
    assert len(source.encode()) < 8_000_000
    told = Parsed(source).rows
    assert [one[0] for one in told] == [one["source"] for one in rows]
    assert all("out" in one[-1] for one in told)


def test_what_is_left_out_for_the_size_is_said_and_never_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "BYTES", 40_000)
    long = "&" * 1_000_000  # escaped, sixfold
    rows = [row(f"{at:03}{long}", notes=[long] * 9, dropped=[{"path": long, "summary": long}] * 99) for at in range(300)]
    rows.append(failed("zzz" + long))
    source = pages.page(made(rows))
    told = Parsed(source).rows
    assert len(source.encode()) < 200_000
    assert told[-1][1] == "failed"
    assert any("cut" in one[-1] for one in told)
    assert f"{301 - len(told)} rows are left out" in source


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_plots_have_a_bounded_number_of_marks(count: int) -> None:
    rows = [row(f"{at}", bytes=at**3, seconds=at / 100, ratio=at / 100) for at in range(count)]
    assert pages.page(made(rows)).count("<circle") < 3000


def test_a_plan_says_what_is_needed_and_free() -> None:
    planned = document([row("a", status="planned")], [], {"source": "zoo", "destination": "out", "targets": ["onnx"]},
                       tool="t", started="s", seconds=0.1, space={"needed": 4_000_000, "free": 8_000_000})  # fmt: skip
    assert "4 MB needed" in pages.page(planned)


def test_a_row_tells_all_its_verdicts_the_weakest_first() -> None:
    outputs = [{"target": "onnx", "path": "a", "verdict": "proved"}, {"target": "pth", "path": "b", "verdict": "bytes"}]
    source = pages.page(made([row("a", outputs=outputs, ratio=0.6)]))
    assert Parsed(source).rows[0][7:9] == ["bytes, proved", 0.6]
    assert '<option value="proved">' in source
