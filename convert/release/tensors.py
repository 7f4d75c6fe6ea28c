"""Every tensor's digest, and the digest of the whole, which is the same in every container.

A tensor's ``sha256`` is that of its row-major little-endian bytes. One that is several plain ones (sparse, quantised) has its kind,
attributes and components' digests; its own ``sha256`` is that of these as JSON. The content's digest is the sha256 of one line
``["name","dtype",[shape],"sha256"]\\n`` a tensor, JSON without spaces and with everything beyond ASCII escaped, in the order of the names
(by Unicode code points).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from convert.plan import MODEL_KEY
from convert.select import Choice, choose
from formats import registry
from formats.core.checkpoint import Checkpoint
from formats.core.errors import CheckpointError, ParityFailed, Unsupported
from formats.core.tensor import AnyTensor, CompositeTensor, TensorView

LOADERS = {
    "safetensors": "safetensors.safe_open", "pth": "torch.load(weights_only=True)", "pth.tar": "torch.load(weights_only=True)",
}  # fmt: skip


def compact(value: Any) -> str:
    """JSON without spaces, ASCII alone."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def model_of(checkpoint: Checkpoint, target: str) -> Choice:
    """The state dict of a weights file that a release holds."""
    return choose(checkpoint, select=MODEL_KEY if target == "pth.tar" else ".", strip=False)[0]


def rows(choice: Choice) -> list[dict[str, Any]]:
    """{name, dtype, shape, bytes, sha256} of every tensor, in the model's order. Every byte is read, in constant memory."""
    return [{"name": key, **_row(tensor)} for key, tensor in choice.state_dict.tensors.items()]


def _row(tensor: AnyTensor) -> dict[str, Any]:
    row: dict[str, Any] = {"dtype": tensor.dtype.name, "shape": list(tensor.shape), "bytes": tensor.nbytes}
    if isinstance(tensor, TensorView):
        return row | {"sha256": _sha256(tensor)}
    parts = {name: _row(part) for name, part in sorted(tensor.components.items())}
    row |= {"kind": tensor.kind, "components": parts}
    if tensor.attributes:
        row["attributes"] = tensor.attributes
    whole = {
        "kind": tensor.kind,
        "attributes": tensor.attributes,
        "components": {name: part["sha256"] for name, part in parts.items()},
    }
    return row | {"sha256": hashlib.sha256(compact(whole).encode()).hexdigest()}


def _sha256(tensor: TensorView) -> str:
    found = hashlib.sha256()
    for piece in tensor.chunks():
        found.update(piece)
    return found.hexdigest()


def content_sha256(tensors: Iterable[Mapping[str, Any]]) -> str:
    """Of rows as `rows` gives them, whatever their order."""
    found = hashlib.sha256()
    for row in sorted(tensors, key=lambda row: str(row["name"])):
        found.update((compact([row["name"], row["dtype"], row["shape"], row["sha256"]]) + "\n").encode())
    return found.hexdigest()


def difference(expected: Iterable[Mapping[str, Any]], found: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is not the same in two lists of rows, a sentence each."""
    ours = {str(row["name"]): row for row in expected}
    theirs = {str(row["name"]): row for row in found}
    said = [f"tensor {name} is missing" for name in ours if name not in theirs]
    said += [f"tensor {name} is not in the manifest" for name in theirs if name not in ours]
    for name, row in ours.items():
        other = theirs.get(name)
        if other is None:
            continue
        said += [
            f"tensor {name} has {field} {_told(other.get(field))}, the manifest says {_told(row.get(field))}"
            for field in ("dtype", "shape", "bytes", "sha256")
            if row.get(field) != other.get(field)
        ]
    return said


def _told(value: Any) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else f"{value!s:.80}"


def witnessed(path: Path, target: str, choice: Choice) -> str | None:
    """The loader that reads the same tensors as we do; None where there is none. Raises `ParityFailed` naming the first that differs."""
    from convert import loaders

    if target not in LOADERS:
        return None
    loaded = loaders.load(path, "safetensors" if target == "safetensors" else "torch-zip").tensors()
    ours = choice.state_dict.tensors
    if set(loaded) != set(ours):
        odd = min(set(loaded) ^ set(ours))
        raise ParityFailed(f"tensor {odd!r:.120} is there for {LOADERS[target]} or for us, not for both", path=path)
    for key, tensor in ours.items():
        try:
            wrong = loaders.same(tensor, loaded[key])
        except Unsupported:
            if isinstance(tensor, CompositeTensor):
                continue  # a kind that torch cannot make again from its parts: its bytes are compared by digest
            raise
        if wrong:
            raise ParityFailed(f"tensor {key!r:.120}: {wrong}, as {LOADERS[target]} reads it", path=path)
    return LOADERS[target]


def read(path: Path, target: str, *, witness: bool = True) -> tuple[list[dict[str, Any]], str | None]:
    """(`rows` of a release's weights file, the other loader that agrees). Raises `CheckpointError`."""
    try:
        with registry.open(path) as checkpoint:
            choice = model_of(checkpoint, target)
            return rows(choice), witnessed(path, target, choice) if witness else None
    except CheckpointError as error:
        raise error.with_path(path) from error.__cause__
