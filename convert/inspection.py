"""``convert inspect``: what a file holds, as data. Values are read only when asked for, in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convert.optimizer_names import Names, named
from convert.pipeline import row_of
from convert.text import count, dotted, shown, size
from convert.values import Finding, examine
from formats import registry
from formats.core.checkpoint import Checkpoint, Global, Record, StateDict, children
from formats.core.errors import CheckpointError
from formats.core.tensor import CompositeTensor, TensorView

DEPTH = 3  # levels of the tree that are shown
ENTRIES = 12  # entries of one container that are shown
NODES = 400  # lines of the tree in all


@dataclass(slots=True)
class Row:
    """One tensor."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    location: str
    kind: str | None = None  # of a composite tensor
    contiguous: bool = True
    requires_grad: bool = False
    tied: str | None = None  # the first path that names the same elements
    finding: Finding | None = None

    def document(self) -> dict[str, Any]:
        entries: dict[str, Any] = {
            "path": self.path, "dtype": self.dtype, "shape": list(self.shape), "bytes": self.nbytes, "location": self.location,
        }  # fmt: skip
        if self.kind:
            entries["kind"] = self.kind
        if not self.contiguous:
            entries["contiguous"] = False
        if self.requires_grad:
            entries["requires_grad"] = True
        if self.tied:
            entries["tied"] = self.tied
        if self.finding is not None:
            entries["values"] = self.finding.document()
        return entries


@dataclass(slots=True)
class Node:
    """One entry of the tree as it is shown; ``more`` counts what is left out below."""

    label: str
    summary: str
    below: list[Node] = field(default_factory=list)
    more: int = 0

    def document(self) -> dict[str, Any]:
        entries: dict[str, Any] = {"key": self.label, "summary": self.summary}
        if self.below:
            entries["entries"] = [node.document() for node in self.below]
        if self.more:
            entries["more"] = self.more
        return entries


@dataclass(slots=True)
class Inspection:
    """Everything that ``convert inspect`` shows."""

    path: Path
    format: str
    title: str
    nbytes: int | None
    metadata: dict[str, Any]
    tree: Node
    tensors: list[Row]
    globals: dict[str, int]
    candidates: list[dict[str, Any]]
    chosen: list[str]
    doubt: str | None  # why no candidate is taken without being named
    notes: list[str]
    optimizers: list[Names]
    sources: dict[str, str]  # class → its own Python text, as old files carry it
    saved: list[Path] = field(default_factory=list)  # where that text was written

    def document(self) -> dict[str, Any]:
        return {
            "status": "done",
            "exit": 0,
            "source": str(self.path),
            "format": self.format,
            "title": self.title,
            "bytes": self.nbytes,
            "metadata": _plain(self.metadata),
            "tree": self.tree.document(),
            "tensors": [row.document() for row in self.tensors],
            "tensor_bytes": sum(row.nbytes for row in self.tensors if row.tied is None),
            "globals": [{"name": name, "called": times} for name, times in self.globals.items()],
            "candidates": self.candidates,
            "chosen": self.chosen,
            "doubt": self.doubt,
            "notes": self.notes,
            "optimizers": [names.document() for names in self.optimizers],
            "class_sources": self.sources,
            **({"saved": [str(path) for path in self.saved]} if self.saved else {}),
        }

    @property
    def warnings(self) -> list[str]:
        return [f"{shown(row.path)}: {row.finding.text()}" for row in self.tensors if row.finding is not None and row.finding.odd]


def inspect(path: Path, *, values: bool = False) -> Inspection:
    """Describe the file at ``path``. Raises `CheckpointError` where it is none that is known."""
    with registry.open(path) as checkpoint:
        return _described(checkpoint, values=values)


def _described(checkpoint: Checkpoint, *, values: bool) -> Inspection:
    from convert.select import candidates, choose

    chosen: list[str] = []
    models: list[StateDict] = []
    doubt = None
    try:
        for choice in choose(checkpoint, select=None, ema=False, strip=False):
            chosen.append(choice.path)
            models.append(choice.state_dict)
    except CheckpointError as error:
        doubt = error.what
    found = candidates(checkpoint)
    row = row_of(checkpoint.format)
    path = checkpoint.path
    return Inspection(
        path=path,
        format=checkpoint.format,
        title=row.title if row else checkpoint.format,
        nbytes=path.stat().st_size if path.is_file() else None,
        metadata=checkpoint.metadata,
        tree=_tree(checkpoint.tree),
        tensors=_rows(checkpoint, values=values),
        globals=dict(checkpoint.globals),
        candidates=[
            {"path": c.path, "kind": c.kind, "tensors": c.tensors, "bytes": c.nbytes, "why": c.why} for c in found
        ],
        chosen=chosen,
        doubt=doubt,
        notes=list(checkpoint.notes),
        optimizers=named(checkpoint.tree, models),
        sources=_class_sources(checkpoint),
    )  # fmt: skip


def _rows(checkpoint: Checkpoint, *, values: bool) -> list[Row]:
    rows: list[Row] = []
    first: dict[Any, str] = {}
    for path, tensor in checkpoint.tensors():
        name = dotted(path)
        row = Row(name, tensor.dtype.name, tensor.shape, tensor.nbytes, tensor.location, requires_grad=tensor.requires_grad)
        if isinstance(tensor, CompositeTensor):
            row.kind = tensor.kind
        else:
            row.contiguous = tensor.contiguous
            if tensor.numel:
                same = first.setdefault((tensor.window(), tensor.conj, tensor.neg), name)
                row.tied = same if same != name else None
            if values:
                row.finding = examine(tensor)
        rows.append(row)
    return rows


def _class_sources(checkpoint: Checkpoint) -> dict[str, str]:
    from formats.core.checkpoint import walk

    found: dict[str, str] = {}
    for _, node in walk(checkpoint.tree):
        name = node.callable if type(node) is Record else node
        if type(name) is Global and name.source:
            found.setdefault(name.text, name.source)
    return found


def _tree(tree: Any) -> Node:
    """The top of the tree, breadth first, so that a big branch does not hide its neighbours."""
    root = Node("", summary(tree))
    queue = [(root, tree, 0)]
    seen: set[int] = set()
    shown_nodes = 0
    while queue:
        node, value, depth = queue.pop(0)
        if isinstance(value, (TensorView, CompositeTensor, Global)) or id(value) in seen:
            continue
        entries = _entries(value)
        for at, (key, child) in enumerate(entries):
            if at == ENTRIES or depth == DEPTH or shown_nodes >= NODES:
                node.more = _length(value) - at
                break
            seen.add(id(value))
            shown_nodes += 1
            below = Node(dotted((key,)), summary(child))
            node.below.append(below)
            queue.append((below, child, depth + 1))
    return root


def _entries(value: Any) -> Iterator[tuple[Any, Any]]:
    return children(value)


def _length(value: Any) -> int:
    return sum(1 for _ in children(value))


def summary(value: Any) -> str:
    """One printable line about a value of the tree."""
    if isinstance(value, TensorView):
        return f"{value.dtype.name} {list(value.shape)}"
    if isinstance(value, CompositeTensor):
        return f"{value.kind} {value.dtype.name} {list(value.shape)}"
    if isinstance(value, Global):
        return f"the name {shown(value.text, 80)}"
    if isinstance(value, Record):
        return f"object {shown(value.name, 80)}"
    if isinstance(value, dict):
        tensors = [v for v in value.values() if isinstance(v, (TensorView, CompositeTensor))]
        held = f", {count(len(tensors), 'tensor')}, {size(sum(t.nbytes for t in tensors))}" if tensors else ""
        return f"dict of {len(value):,}{held}"
    if isinstance(value, (list, tuple, set, frozenset)):
        return f"{type(value).__name__} of {len(value):,}"
    if isinstance(value, (bytes, bytearray)):
        return f"bytes of {len(value):,}"
    if isinstance(value, str):
        return shown(repr(value[:200]), 80)
    if isinstance(value, int) and value.bit_length() > 512:
        return f"integer of {value.bit_length():,} bits"
    return shown(repr(value), 80)


def _plain(metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        str(key): value if isinstance(value, (str, int, float, bool, type(None))) else shown(value)
        for key, value in metadata.items()
    }
