"""The card's header by PyYAML and huggingface_hub, its text by a Markdown parser; the BOM by CycloneDX's own validator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.release.bom import bom
from convert.release.card import about_of, card, header
from convert.text import shown
from tests.convert.release.folders import make, manifest
from tests.parts import needs

EVIL = "x\n---\nlicense: mit\n# <script>alert(1)</script> [a](javascript:b) | `c` \u202e\ud800: {d} !!python/object:e &f *g @h %i"


def _manifest(**changes: Any) -> dict[str, Any]:
    sha = "ab" * 32
    made: dict[str, Any] = {
        "version": 1, "tool": "ckpt-convert 0.1.0", "name": "tiny", "content_sha256": sha, "parameters": 3, "tensor_bytes": 12,
        "dtypes": {"float32": {"tensors": 1, "elements": 3, "bytes": 12}},
        "source": {"format": "torch-zip", "files": [{"sha256": sha, "bytes": 9}], "selected": "", "why": ""},
        "rules": {"tied": "duplicate"}, "dropped": [], "verification": {"bytes": "equal", "loaders": {}, "parity": {"verdict": "not run"}},
        "files": [{"name": "tiny-abababab.pth", "format": "pth", "bytes": 9, "sha256": sha}],
        "tensors": [{"name": "w", "dtype": "float32", "shape": [3], "bytes": 12, "sha256": sha}],
    }  # fmt: skip
    return made | changes


def _evil(text: str) -> dict[str, Any]:
    return _manifest(
        license=text, model=text, tied={text: text}, dropped=[{"path": text, "tensors": 0, "bytes": 0, "summary": text}],
        source={"format": text, "files": [{"sha256": "ab" * 32, "bytes": 9}], "selected": text, "why": text},
        rules={"stripped": text, "keys": {"rules": [text]}, "cast": {"dtype": text}},
    )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(min_size=1, max_size=80), st.sampled_from([EVIL, "yes", "null", "1e3", "- a", "MIT", "Apache-2.0", "!x", "'"])
    )
)
def test_the_header_says_the_licence_and_nothing_else(text: str) -> None:
    needs("release")
    import yaml

    begin, middle, end = header(_manifest(license=text)).partition("---\n")[2].partition("---\n")[0], "", ""
    assert not middle + end
    said = yaml.safe_load(begin)
    assert said.keys() <= {"license", "license_name", "tags"}
    licence = said["license_name"] if said["license"] == "other" and "license_name" in said else said["license"]
    assert licence == shown(text, 500) or licence == text.lower()


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.text(min_size=1, max_size=80), st.just(EVIL)))
def test_text_of_strangers_is_no_markup(text: str) -> None:
    from markdown_it import MarkdownIt

    body = card(_evil(text)).decode().split("\n---\n", 1)[1]
    found = MarkdownIt("commonmark").enable("table").parse(body)
    inline = [child for token in found for child in token.children or ()]
    assert not [
        token for token in [*found, *inline] if token.type in ("html_block", "link_open", "image", "hr", "em_open", "strong_open")
    ]
    assert all(token.content in ("<code>", "</code>") for token in inline if token.type == "html_inline")
    assert [token.tag for token in found if token.type == "heading_open"] == ["h1", "h2", "h2", "h2", "h2", "h2"]


def test_huggingface_hub_reads_the_card(saved: Path, tmp_path: Path) -> None:
    needs("release")
    from huggingface_hub import ModelCard, ModelCardData

    folder = make(saved, tmp_path / "out", "--license", "Apache-2.0")
    found = ModelCard.load(folder / "README.md")
    assert isinstance(found.data, ModelCardData)
    assert found.data.license == "apache-2.0"
    assert found.data.tags == ["pytorch", "safetensors"]
    assert manifest(folder)["license"] == "Apache-2.0"


def test_no_licence_is_made_up(saved: Path, tmp_path: Path) -> None:
    folder = make(saved, tmp_path / "out")
    assert "license" not in (folder / "README.md").read_text().split("---")[1]
    assert "none was given" in (folder / "README.md").read_text()
    assert b"licenses" not in (folder / "bom.cdx.json").read_bytes()
    assert "license" not in manifest(folder)


@given(st.text(max_size=200))
def test_the_publishers_own_text_comes_back(text: str) -> None:
    found = about_of(card(_manifest(), text.encode("utf-8", "replace").decode()).decode())
    assert found is not None
    assert found.strip() == text.encode("utf-8", "replace").decode().strip()


@pytest.mark.parametrize("changes", [{}, {"license": "MIT"}, {"date": "2026-01-31T00:00:00Z", "license": EVIL}])
def test_the_bom_is_one_by_cyclonedx_own_validator(changes: dict[str, Any]) -> None:
    needs("release")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    content = bom(_manifest(**changes))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(content.decode()) is None
    document = json.loads(content)
    assert ("timestamp" in document["metadata"]) == ("date" in changes)
    assert document["serialNumber"] != json.loads(bom(_manifest(content_sha256="cd" * 32)))["serialNumber"]


def test_the_bom_of_a_release_is_one_too(gan: Path, tmp_path: Path) -> None:
    needs("release")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    folder = make(gan, tmp_path / "out")
    for name in ("generator", "discriminator"):
        text = (folder / name / "bom.cdx.json").read_text()
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
        listed = {one["name"]: one["hashes"][0]["content"] for one in json.loads(text)["components"]}
        assert listed == {one["name"]: one["sha256"] for one in manifest(folder / name)["files"]}


def test_a_file_full_of_odd_names_is_released_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Keys and notes of a stranger's file: in the manifest as they are, in the card escaped, the same when looked at again."""
    import torch

    from tests.convert.release.folders import check

    odd = ["a\nb", "\u202egnp.exe", "|x|`y`<img src=x>", "---", "\ud800" * 2, "tensor.é", " ", "x" * 5000]
    shared = torch.ones(2)
    tree = {
        "state_dict": {f"w{key}": shared for key in odd},
        EVIL.replace("\ud800", ""): 3,
        "note\n---\n": EVIL.replace("\ud800", ""),
    }
    torch.save(tree, tmp_path / "odd.pth")
    folder = make(
        tmp_path / "odd.pth", tmp_path / "out", "--select", "state_dict", "--license", "a\n---\nlicense: mit", to=("pth",)
    )
    capsys.readouterr()
    assert {row["name"] for row in manifest(folder)["tensors"]} == {f"w{key}" for key in odd}
    text = (folder / "README.md").read_text()
    assert text.count("\n---\n") == 1
    assert text.isascii() or all(character.isprintable() or character == "\n" for character in text)
    assert "<img" not in text
    assert "<script" not in text
    assert check(capsys, folder) == (0, {})
