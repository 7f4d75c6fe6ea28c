"""``report.json`` and ``report.html`` in a destination. Each is replaced at once: whoever reads one reads a whole one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from convert.zoo.page import page
from formats.core.errors import SystemIOError
from formats.core.temporary import TEMPORARY_SUFFIX, unlink


def write(document: dict[str, Any], folder: str) -> None:
    """Write both; they need not be durable, since the journal could make them again."""
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
    temporary = path.with_name(f".{os.urandom(8).hex()}{TEMPORARY_SUFFIX}")  # swept away if we are killed here
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, path)
    except OSError as error:
        unlink(temporary)
        raise SystemIOError(f"cannot be written: {error.strerror}", path=path) from error
