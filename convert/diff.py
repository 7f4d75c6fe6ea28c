"""``convert diff A B``: two checkpoints of any formats, key by key: what one lacks, shapes, dtypes, values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert.deviation import Deviation, deviation
from convert.text import count, dotted, shape
from formats import registry
from formats.core.checkpoint import Checkpoint, StateDict
from formats.core.errors import AmbiguousCheckpoint, CorruptCheckpoint, ParityFailed, UsageError
from formats.core.tensor import AnyTensor, CompositeTensor

if TYPE_CHECKING:
    from convert.select import Choice

SAME = "same"
STATUSES = ("missing", "unexpected", "shape", "dtype", "layout", "values", "bytes", SAME)


@dataclass(slots=True)
class Row:
    """One key. ``missing``: A has it and B does not; ``unexpected``: B alone has it; ``bytes``: equal values, other bytes."""

    key: str
    status: str
    a: str = ""
    b: str = ""
    deviation: Deviation | None = None

    def document(self) -> dict[str, Any]:
        entries: dict[str, Any] = {"key": self.key, "status": self.status}
        if self.a:
            entries["a"] = self.a
        if self.b:
            entries["b"] = self.b
        if self.deviation is not None and not self.deviation.equal:
            entries["deviation"] = self.deviation.document()
        return entries


@dataclass(slots=True)
class Difference:
    """What `diff` found. ``order``: the keys are the same and stand in another order, which no loader minds."""

    a: Path
    b: Path
    a_model: str
    b_model: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    order: bool = False

    @property
    def differing(self) -> int:
        return sum(row.status != SAME for row in self.rows)

    @property
    def exit(self) -> int:
        return ParityFailed.exit_code if self.differing else 0

    def of(self, status: str) -> list[Row]:
        """The rows of one status, in file order."""
        return [row for row in self.rows if row.status == status]

    def document(self) -> dict[str, Any]:
        return {
            "status": "same" if not self.differing else "different",
            "exit": self.exit,
            "a": {"path": str(self.a), "model": self.a_model},
            "b": {"path": str(self.b), "model": self.b_model},
            "counts": {status: len(self.of(status)) for status in STATUSES},
            "order_differs": self.order,
            "notes": self.notes,
            "rows": [row.document() for row in self.rows],
        }

    def verdict(self) -> str:
        """The closing line."""
        if not self.differing:
            return f"the same: {count(len(self.rows), 'tensor')}, equal in key, dtype, shape and every byte"
        parts = [f"{len(self.of(status)):,} {_WORDS[status]}" for status in STATUSES[:-1] if self.of(status)]
        return f"different: {', '.join(parts)}; {len(self.of(SAME)):,} the same"


_WORDS = {
    "missing": "only in A", "unexpected": "only in B", "shape": "of another shape", "dtype": "of another dtype",
    "layout": "of another layout", "values": "with other values", "bytes": "equal but not in their bytes",
}  # fmt: skip


def diff(
    a: Path, b: Path, *, select_a: str | None = None, select_b: str | None = None, ema: bool = False, everything: bool = False,
    strip: bool = True, values: bool = True,
) -> Difference:  # fmt: skip
    """Compare the model in ``a`` with the model in ``b``, or with ``everything`` all tensors of both files by their paths.

    Without ``values`` no tensor is read. Raises `CheckpointError` where a file cannot be read or its model is not clear.
    """
    with registry.open(a) as one, registry.open(b) as other:
        notes: list[str] = []
        if everything:
            if select_a or select_b or ema:
                raise UsageError("--all compares whole files: it goes without --select-a, --select-b and --ema")
            ours, theirs, names = _all(one), _all(other), ("", "")
        else:
            ours_choice, theirs_choice = _pair(one, other, select_a, select_b, ema, strip)
            names = (ours_choice.path, theirs_choice.path)
            ours, theirs = ours_choice.state_dict.tensors, theirs_choice.state_dict.tensors
            for letter, choice in (("A", ours_choice), ("B", theirs_choice)):
                if choice.path:
                    notes.append(f"{letter}: the model is {choice.path}")
                if choice.stripped:
                    notes.append(f"{letter}: {choice.stripped} stripped from the keys")
        found = Difference(a, b, *names, list(_rows(ours, theirs, values)), notes)
        found.order = set(ours) == set(theirs) and list(ours) != list(theirs)
    return found


def _all(checkpoint: Checkpoint) -> dict[str, AnyTensor]:
    return {dotted(path): tensor for path, tensor in checkpoint.tensors()}


def _pair(
    one: Checkpoint, other: Checkpoint, select_a: str | None, select_b: str | None, ema: bool, strip: bool
) -> tuple[Choice, Choice]:
    """One model of each. Where a file holds several, the other file's only model or equal names do not decide: the user does."""
    from convert.select import choose

    found: list[Choice] = []
    for checkpoint, select, option in ((one, select_a, "--select-a"), (other, select_b, "--select-b")):
        choices = choose(checkpoint, select=select, ema=ema and select is None, strip=strip)
        if len(choices) > 1:
            names = ", ".join(choice.path or "." for choice in choices)
            raise AmbiguousCheckpoint(
                f"holds {len(choices)} models: {names}", path=checkpoint.path,
                hint=f"{option} {choices[0].path} names one; --all compares every tensor of both files",
            )  # fmt: skip
        found.append(choices[0])
    return found[0], found[1]


def _rows(ours: dict[str, AnyTensor], theirs: dict[str, AnyTensor], values: bool) -> Iterator[Row]:
    for key, tensor in ours.items():
        other = theirs.get(key)
        yield Row(key, "missing", described(tensor)) if other is None else _compared(key, tensor, other, values)
    for key, tensor in theirs.items():
        if key not in ours:
            yield Row(key, "unexpected", "", described(tensor))


def _compared(key: str, a: AnyTensor, b: AnyTensor, values: bool) -> Row:
    row = Row(key, SAME, described(a), described(b))
    if a.shape != b.shape:
        row.status = "shape"
        return row
    if type(a) is not type(b) or (isinstance(a, CompositeTensor) and isinstance(b, CompositeTensor) and a.kind != b.kind):
        row.status = "layout"
        return row
    if values:
        try:
            row.deviation = deviation(a, b)
        except CorruptCheckpoint as error:
            error.what = f"tensor {key!r:.120}: {error.what}"
            raise
    if a.dtype is not b.dtype:
        row.status = "dtype"
    elif values and row.deviation is None:
        row.status = "layout"
    elif row.deviation is not None and row.deviation.differing:
        row.status = "values"
    elif row.deviation is not None and row.deviation.bits:
        row.status = "bytes"
    return row


def described(tensor: AnyTensor) -> str:
    """``float32 [64, 3, 7, 7]``, with the layout where it is not plain."""
    text = f"{tensor.dtype.name} {shape(tensor.shape)}"
    return f"{tensor.kind} {text}" if isinstance(tensor, CompositeTensor) else text


def keys_of(model: StateDict) -> dict[str, tuple[str, tuple[int, ...]]]:
    """{key: (dtype, shape)}."""
    return {key: (tensor.dtype.name, tensor.shape) for key, tensor in model.tensors.items()}
