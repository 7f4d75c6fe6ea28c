"""``README.md``: the model card, with the YAML header of the Hugging Face hub. Everything in it is drawn from the manifest.

Source: https://huggingface.co/docs/hub/model-cards. Text from files and from options is escaped: it can neither end the header nor become
mark-up. The one exception is the publisher's own text (``--about``), which stands as it is between the two marks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from convert.release.names import SIGNATURE, SUMS
from convert.text import count, markdown, markdown_code, shown, size

ABOUT, FACTS = "<!-- about -->", "<!-- facts -->"
MOST_DROPPED = 20
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{1,39}")


def quoted(text: str) -> str:
    """A double-quoted YAML scalar of one line."""
    return '"' + shown(text, 500).replace("\\", "\\\\").replace('"', '\\"') + '"'


def header(manifest: Mapping[str, Any]) -> str:
    """The YAML between ``---`` lines: only what is known."""
    lines = []
    licence = manifest.get("license")
    if licence is not None and _IDENTIFIER.fullmatch(licence):
        lines.append(f"license: {quoted(licence.lower())}")  # the hub's identifiers are SPDX's in lower case
    elif licence is not None:
        lines += ["license: other", f"license_name: {quoted(licence)}"]
    if manifest.get("architecture", {}).get("library") == "timm":
        lines.append("library_name: timm")
    tags = ["pytorch", *(["safetensors"] if any(one["format"] == "safetensors" for one in manifest["files"]) else [])]
    lines += ["tags:", *(f"- {tag}" for tag in tags)]
    return "---\n" + "\n".join(lines) + "\n---\n"


def card(manifest: Mapping[str, Any], about: str | None = None) -> bytes:
    """The file. ``about`` is the publisher's own Markdown."""
    parts = [header(manifest), f"# {markdown(manifest['name'])}\n"]
    if about is not None:
        parts.append(f"{ABOUT}\n{about.strip()}\n{FACTS}\n")
    sections = (_facts, _files, _use, _source, _verification)
    parts += [section(manifest) for section in sections]
    return "\n".join(parts).encode()


def about_of(text: str) -> str | None:
    """The publisher's own part of a card; None where it has none."""
    begin, end = text.find(f"{ABOUT}\n"), text.rfind(f"\n{FACTS}\n")
    return text[begin + len(ABOUT) + 1 : end] if 0 <= begin < end else None


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _facts(manifest: Mapping[str, Any]) -> str:
    known = manifest.get("architecture")
    licence = manifest.get("license")
    rows = [
        ("architecture", markdown_code(known["name"]) + _arguments(known) if known else "not told by the weights"),
        ("parameters and buffers", f"{manifest['parameters']:,} elements in {count(len(manifest['tensors']), 'tensor')}"),
        *(
            (
                "of these " + markdown_code(name),
                f"{found['elements']:,} elements in {count(found['tensors'], 'tensor')}, {size(found['bytes'])}",
            )
            for name, found in manifest["dtypes"].items()
        ),
        (
            "licence",
            markdown_code(licence, 300)
            if licence is not None
            else "none was given: ask the publisher before you use these weights",
        ),
        (
            "content",
            f"sha256 `{manifest['content_sha256']}` over every tensor's name, dtype, shape and bytes, the same in every format",
        ),
    ]
    if "date" in manifest:
        rows.insert(0, ("date", markdown(manifest["date"])))
    if "model" in manifest:
        rows.insert(0, ("model", markdown_code(manifest["model"]) + ", one of several in its source"))
    return "## What it is\n\n" + _table(("", ""), rows)


def _arguments(known: Mapping[str, Any]) -> str:
    given = dict(known.get("arguments", {})) | ({"num_classes": known["classes"]} if "classes" in known else {})
    return "".join(f", {markdown(name)} {markdown(json.dumps(value))}" for name, value in given.items())


def _files(manifest: Mapping[str, Any]) -> str:
    rows = []
    for one in manifest["files"]:
        name = markdown_code(one["name"]) + (f", also as {markdown_code(one['also'])}" if "also" in one else "")
        rows.append((name, size(one["bytes"]), f"`{one['sha256']}`"))
    return "## Files\n\n" + _table(("file", "size", "sha256"), rows)


def _use(manifest: Mapping[str, Any]) -> str:
    files = {one["format"]: one["name"] for one in manifest["files"]}
    lines = ["## Use", "", "```python"]
    if "safetensors" in files:
        lines += ["from safetensors.torch import load_file", "", f'weights = load_file("{files["safetensors"]}")', ""]
    if "pth" in files:
        lines += [
            "import torch", "", f'weights = torch.hub.load_state_dict_from_url("https://YOUR.HOST/{files["pth"]}", check_hash=True)', "",
        ]  # fmt: skip
    known = manifest.get("architecture")
    if known and known["library"] == "timm" and "safetensors" in files:
        lines += ["import timm", "", 'model = timm.create_model("local-dir:FOLDER", pretrained=True)', ""]
    lines[-1] = "```"
    if lines[-2:] == ["", "```"] and len(lines) == 3:
        return ""
    return "\n".join(lines) + "\n"


def _source(manifest: Mapping[str, Any]) -> str:
    source, rules = manifest["source"], manifest["rules"]
    lines = ["## Where it comes from", ""]
    for one in source["files"]:
        lines.append(f"- source: {markdown_code(source.get('format', ''))}, {size(one['bytes'])}, sha256 `{one['sha256']}`")
    if "origin_sha256" in source:
        lines.append(f"- which was converted from a file of sha256 {markdown_code(source['origin_sha256'])}")
    place = markdown_code(source["selected"]) if source.get("selected") else "the whole file"
    lines.append(f"- the model in it: {place}")
    if "stripped" in rules:
        lines.append(f"- stripped from the keys: {markdown_code(rules['stripped'])}")
    for text in rules.get("keys", {}).get("rules", ()):
        lines.append(f"- rule for keys: {markdown_code(text, 300)}")
    if "cast" in rules:
        lines.append(f"- values were changed: {markdown_code(json.dumps(rules['cast'], sort_keys=True), 300)}")
    if "tied" in manifest:
        pairs = [f"{markdown_code(key)} is {markdown_code(first)}" for key, first in list(manifest["tied"].items())[:4]]
        lines.append(f"- tied: {', '.join(pairs)}{', …' if len(manifest['tied']) > 4 else ''}")
    dropped = manifest["dropped"]
    for left in dropped[:MOST_DROPPED]:
        amount = f"{count(left['tensors'], 'tensor')}, {size(left['bytes'])}" if left["tensors"] else markdown(left["summary"])
        lines.append(f"- not published: {markdown_code(left['path'])}, {amount}")
    if len(dropped) > MOST_DROPPED:
        lines.append(f"- and {len(dropped) - MOST_DROPPED} more, in manifest.json")
    lines.append(f"- made by {markdown_code(manifest['tool'])}")
    return "\n".join(lines) + "\n"


def _verification(manifest: Mapping[str, Any]) -> str:
    said = manifest["verification"]
    lines = ["## How it was checked", "", f"- every byte: {markdown(said.get('bytes', ''))}"]
    for target, loader in said.get("loaders", {}).items():
        lines.append(f"- {markdown(target)}: every tensor equal as {markdown_code(loader)} reads it")
    parity = said.get("parity", {})
    ran = f", {markdown_code(parity['arch'])} on {markdown(', '.join(parity.get('inputs', [])))}" if "arch" in parity else ""
    lines.append(f"- the model, run against its source: {markdown(parity.get('verdict', 'not run'))}{ran}")
    lines += [
        "", "Check it again, without a network:", "", "```", f"sha256sum -c {SUMS}",
        f"convert release --check .        # if signed ({SIGNATURE}): --public-key KEY", "```",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
