"""Writes docs/formats.md from the formats themselves: the registry's rows, the modules' docstrings, what their writers can hold.

python docs/generate_formats.py            write it
python docs/generate_formats.py --check    exit 1 where the file is not what would be written (part of ``make lint``)
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

from formats import registry
from formats.core import foreign
from formats.core.dtype import BY_NAME
from formats.core.protocol import Capabilities, Format

TARGET = Path(__file__).parent / "formats.md"
# A writer's flag, as the table shows it, and what becomes of such things where it is not set.
HOLDS = {
    "ties": ("ties", "each of some tied tensors is written in full, or one of them and a description where the target takes text"),
    "strides": ("strides", "strided windows are packed to row-major"),
    "composites": (
        "sparse, quantised", "sparse, quantised and nested tensors are spelled as plain ones with a description where the target takes "
        "text, else refused by name",
    ),
    "extras": ("the rest", "whatever stands beside the model is left out and listed; `--keep all` refuses, or keeps it in files beside"),
    "metadata": ("text", "key order, `_metadata`, `requires_grad` and the account of where the weights came from"),
}  # fmt: skip


def markdown() -> str:
    """The whole document."""
    reads = [row for row in registry.ROWS if row.reads]
    writes = [row for row in registry.ROWS if row.writes]
    parts = [
        "<!-- made by docs/generate_formats.py from the source: change that, then run it -->",
        "# Formats",
        "What is read is decided by content, never by name: all readers look, the surest reads, and a tie is an error that names both. "
        "Nothing of an input is imported, called or extracted, and no tensor's bytes are read before they are written somewhere. "
        "Other packages add formats by the entry point `ckpt_convert.formats`; `convert formats` lists them all.",
        "## Read",
        _table(
            ["format", "what it is", "recognised by", "input"],
            [[f"[{row.name}](#{row.name})", row.title, _sentence(registry.load(row).sniff), _inputs(row)] for row in reads],
        ),
        "## Written",
        _written(writes),
        "What a target cannot hold is decided before anything is written, and listed with its size, in the text, in `--json` and in the "
        "output's own metadata where there is a place for it:",
        "\n".join(f"- no *{short}*: {lost}." for short, lost in HOLDS.values()),
        "A program (ONNX) needs a model that runs; weights alone are none.",
        "## Each format",
    ]
    for row in registry.ROWS:
        name = f"`--to {' '.join(row.targets)}`" if row.writes and not row.reads else "read and written" if row.writes else "read"
        parts += [f'### <a id="{row.name}"></a>{row.title}', f"`{row.name}`, {name}.", _description(row)]
    parts += ["## Refused, each by its own name", _refused()]
    return "\n\n".join(parts) + "\n"


def _inputs(row: Format) -> str:
    kinds = [kind for kind, wanted in (("file", row.files), ("folder", row.folders)) if wanted]
    return " or ".join(kinds) + (", holds others" if row.nests else "")


def _written(rows: list[Format]) -> str:
    lines = []
    for row in rows:
        capabilities: Capabilities = registry.load(row).CAPABILITIES
        option = f" with `--{row.option.replace('_', '-')}`" if row.option else ""
        marks = ["yes" if getattr(capabilities, name) else "–" for name in HOLDS]
        target = ", ".join(f"`--to {target}`" for target in row.targets)
        lines.append([target + option, f"[{row.title}](#{row.name})", _dtypes(capabilities), *marks])
    return _table(["target", "container", "element types", *(short for short, _ in HOLDS.values())], lines)


def _dtypes(capabilities: Capabilities) -> str:
    missing = [name for name in BY_NAME if name not in capabilities.dtypes]
    if not missing:
        return "all"
    if len(missing) <= len(capabilities.dtypes):
        return "all but " + ", ".join(missing)
    return ", ".join(sorted(capabilities.dtypes))


def _description(row: Format) -> str:
    """The module's docstring as Markdown."""
    text = inspect.getdoc(registry.load(row)) or ""
    return _code(re.sub(r"::\n", ":\n", text))


def _code(text: str) -> str:
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def _sentence(thing: Any) -> str:
    return _code(" ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())).rstrip(".")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _refused() -> str:
    found: dict[str, str | None] = {}
    for _, _, what, hint in foreign._HEADS:
        found.setdefault(what, hint)
    for table in (foreign._TEXTS, foreign._ZIP_MEMBERS, foreign._NAMES):
        for _, what, hint in table:
            found.setdefault(what, hint)
    for _, what in foreign._PACKAGES:
        found.setdefault(f"is a pickle of {what}", None)
    return _table(["what a file is", "what to do"], [[what.removeprefix("is "), hint or ""] for what, hint in found.items()])


def main(arguments: list[str]) -> int:
    text = markdown()
    if arguments == ["--check"]:
        if TARGET.exists() and TARGET.read_text(encoding="utf-8") == text:
            return 0
        print(f"{TARGET.name} is not what the source says: python docs/generate_formats.py", file=sys.stderr)  # noqa: T201
        return 1
    if arguments:
        print(__doc__, file=sys.stderr)  # noqa: T201
        return 2
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
