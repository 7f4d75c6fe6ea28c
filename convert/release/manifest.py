"""``manifest.json``: what the release is, down to every tensor, and where it came from. All else in the folder is drawn from it.

::

    {"version": 1,                              # of this form and of everything drawn from it: card, BOM, config.json
     "tool": "ckpt-convert 0.1.0", "name": NAME,
     "model": "generator",                      # of several in one source
     "license": "MIT", "date": "…Z", "about": "sha256 of the publisher's own text in the card",      # as given; else absent
     "content_sha256": "…",                     # the same for every container: see `convert.release.tensors`
     "parameters": 21797672, "tensor_bytes": …, "dtypes": {"float32": {"tensors": 182, "elements": …, "bytes": …}},
     "architecture": {"name": "timm:resnet34", "library": "timm", "model": "resnet34", "classes": 1000, "arguments": {…},
                      "basis": "only | equal | metadata | given"},        # where known
     "source": {"format": "torch-zip", "files": [{"sha256": …, "bytes": …}], "selected": "state_dict", "why": …,
                "origin_sha256": …},            # of the file that a migrated tree's checkpoint was made from
     "rules": {"stripped": "module.", "tied": "duplicate", "keys": {…}, "cast": {…}},
     "dropped": [{"path": "optimizer", "tensors": 390, "bytes": …, "summary": …}],
     "verification": {"bytes": "read back and equal", "loaders": {"pth": "torch.load(weights_only=True)"},
                      "parity": {"verdict": …, …} | {"verdict": "not run"}},
     "files": [{"name": "resnet34-b627a593.pth", "format": "pth", "bytes": …, "sha256": …, "also": "model.safetensors"}],
     "tied": {KEY: FIRST KEY},
     "tensors": [{"name": …, "dtype": …, "shape": […], "bytes": …, "sha256": …}]}

Absent entries are not null. Nothing depends on when, where or under which name of the source it was made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convert.release.names import is_name
from formats.core.errors import CheckpointError, CorruptCheckpoint, SystemIOError
from formats.core.plain_json import of_bytes

VERSION = 1
MAX_BYTES = 1 << 28  # of a manifest that is read: a million tensors


def dumps(document: Mapping[str, Any]) -> bytes:
    """JSON for people, ASCII, one tensor a line."""
    rest = {key: value for key, value in document.items() if key != "tensors"}
    text = json.dumps(rest, indent=2, ensure_ascii=True, allow_nan=False)
    if "tensors" in document:
        rows = ",\n".join("    " + json.dumps(row, ensure_ascii=True, allow_nan=False) for row in document["tensors"])
        text = text[: -len("\n}")] + ',\n  "tensors": [\n' + rows + "\n  ]\n}"
    return (text + "\n").encode()


def dtypes(tensors: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """{dtype: {tensors, elements, bytes}}, by name."""
    found: dict[str, dict[str, int]] = {}
    for row in tensors:
        counted = found.setdefault(row["dtype"], {"tensors": 0, "elements": 0, "bytes": 0})
        elements = 1
        for size in row["shape"]:
            elements *= size
        counted["tensors"] += 1
        counted["elements"] += elements
        counted["bytes"] += row["bytes"]
    return dict(sorted(found.items()))


_FORM: dict[str, type | tuple[type, ...]] = {
    "version": int, "tool": str, "name": str, "content_sha256": str, "tensor_bytes": int, "parameters": int, "dtypes": dict,
    "source": dict, "rules": dict, "dropped": list, "verification": dict, "files": list, "tensors": list,
}  # fmt: skip


def load(path: Path) -> dict[str, Any]:
    """The manifest at ``path``, of the form above as far as others rely on it. Raises `CorruptCheckpoint`."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CorruptCheckpoint(f"has {path.stat().st_size} bytes, a manifest at most {MAX_BYTES}", path=path)
        document = of_bytes(path.read_bytes())
    except OSError as error:
        raise SystemIOError(f"cannot be read: {error.strerror}", path=path) from error
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpoint(f"is no JSON: {error!s:.100}", path=path) from error
    try:
        _check(document)
    except CheckpointError as error:
        raise error.with_path(path) from None
    return dict(document)


def _check(document: Any) -> None:
    if not isinstance(document, dict):
        raise CorruptCheckpoint("is no JSON object")
    for key, kind in _FORM.items():
        if not isinstance(document.get(key), kind) or isinstance(document[key], bool):
            raise CorruptCheckpoint(f"has no {key}, or one of another kind")
    if document["version"] != VERSION:
        raise CorruptCheckpoint(f"has version {document['version']!s:.20}, this program knows {VERSION}")
    for row in document["files"]:
        if not isinstance(row, dict) or not is_name(row.get("name")) or not isinstance(row.get("format"), str):
            raise CorruptCheckpoint("lists a file without a harmless name and a format")
        if not isinstance(row.get("sha256"), str) or not isinstance(row.get("bytes"), int) or not is_name(row.get("also", "x")):
            raise CorruptCheckpoint(f"lists {row['name']} without its sha256 and bytes")
    for row in document["tensors"]:
        good = isinstance(row, dict) and isinstance(row.get("name"), str) and isinstance(row.get("dtype"), str)
        shape = row.get("shape") if good else None
        if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 1 << 63 for size in shape) or len(shape) > 64:
            raise CorruptCheckpoint("lists a tensor without a name, a dtype and a shape")
        if not isinstance(row.get("sha256"), str) or type(row.get("bytes")) is not int:
            raise CorruptCheckpoint(f"lists tensor {row['name']!r:.120} without its sha256 and bytes")
