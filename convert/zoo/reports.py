"""``report.json`` and ``report.html`` in a destination. Each is replaced at once: whoever reads one reads a whole one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from convert.zoo.page import page
from formats.core.output import write_bytes


def write(document: dict[str, Any], folder: str) -> None:
    """Write both."""
    _replace(Path(folder, "report.json"), spelled(document))
    _replace(Path(folder, "report.html"), page(document))


def spelled(document: dict[str, Any]) -> str:
    """The document as JSON, a line a row: to be read, and to be searched by lines."""
    rest = {key: value for key, value in document.items() if key not in ("rows", "ignored")}
    text = json.dumps(rest, indent=1, allow_nan=False).removesuffix("\n}")
    for name in ("rows", "ignored"):
        lines = ",\n".join(map(_line, document[name]))
        text += f',\n "{name}": [{chr(10) + lines if lines else ""}]'
    return text + "\n}\n"


def _line(entry: dict[str, Any]) -> str:
    try:
        return "  " + json.dumps(entry, allow_nan=False)
    except ValueError:  # NaN and infinities, of models that were run
        from convert.console import finite

        return "  " + json.dumps(finite(entry))


def _replace(path: Path, text: str) -> None:
    write_bytes(text.encode("utf-8", "backslashreplace"), path, force=True)
