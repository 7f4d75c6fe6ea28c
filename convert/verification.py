"""``convert verify SOURCE OUTPUT``: every tensor of the output, read by its own library, against the source.

The source is read twice where that is possible: by our readers, and by ``torch.load(weights_only=True)`` or safetensors. Values are
compared as bytes, so that NaN equals itself and -0.0 is not 0.0. Needs torch and safetensors; they are imported here alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert.text import count, shown
from formats import registry
from formats.core.errors import CheckpointError, ParityFailed, Unsupported

if TYPE_CHECKING:
    from convert.loaders import Loaded
    from convert.select import Choice

EQUAL = "equal"


@dataclass(slots=True)
class Row:
    """One tensor: ``status`` is equal, missing, unexpected, or says what differs; the other two are dtype and shape on each side."""

    key: str
    status: str
    source: str = ""
    output: str = ""

    def document(self) -> dict[str, Any]:
        return {"key": self.key, "status": self.status, "source": self.source, "output": self.output}


@dataclass(slots=True)
class Verification:
    """What was compared with what, and each tensor's outcome."""

    source: Path
    output: Path
    model: str
    loader: str  # the library that read the output
    witness: str  # the library that read the source too, or why none did
    witnessed: bool
    rows: list[Row] = field(default_factory=list)

    @property
    def differing(self) -> int:
        return sum(row.status != EQUAL for row in self.rows)

    @property
    def exit(self) -> int:
        return ParityFailed.exit_code if self.differing else 0

    def document(self) -> dict[str, Any]:
        return {
            "status": "done" if self.exit == 0 else "failed",
            "exit": self.exit,
            "source": str(self.source),
            "output": str(self.output),
            "model": self.model,
            "loader": self.loader,
            "witness": self.witness,
            "witnessed": self.witnessed,
            "tensors": len(self.rows),
            "differing": self.differing,
            "rows": [row.document() for row in self.rows],
        }

    def lines(self) -> list[str]:
        """The closing lines."""
        verdict = (
            f"{count(self.differing, 'tensor')} of {len(self.rows):,} differ"
            if self.differing
            else f"all {count(len(self.rows), 'tensor')} are equal in dtype, shape and every byte"
        )
        read = (
            f"source read by ckpt-convert and by {self.witness}"
            if self.witnessed
            else f"source read by ckpt-convert alone: {self.witness}"
        )
        return [f"{shown(self.output, 300)}: {verdict}", f"  output read by {self.loader}; {shown(read, 400)}"]


def verify(source: Path, output: Path, *, select: str | None = None, ema: bool = False) -> Verification:
    """Compare ``output`` with the model in ``source`` that it was made from.

    Which model that is, and which prefix was stripped, the output's metadata say; ``select`` and ``ema`` overrule them. Raises
    `CheckpointError` where either cannot be read at all.
    """
    from convert import loaders

    with registry.open(source) as checkpoint:
        with registry.open(output) as written:  # tells what it is; its values come from its own library
            target = written.format
        loaded = loaders.load(output, target)
        if (loaded.account or {}).get("keys"):
            # Not applied again: a regular expression that a file brings may be made never to end.
            raise Unsupported(
                "was written with its keys changed, so that they no longer say which tensor is which",
                path=output, hint="its own check compared every byte when it was written; convert diff shows both sides",
            )  # fmt: skip
        choice = _matching(checkpoint, loaded, select, ema)
        known: Loaded | None = None
        why = ""
        try:
            known = loaders.load(source, checkpoint.format)
        except CheckpointError as error:
            why = error.what
        found = Verification(source, output, choice.path, loaded.library, known.library if known else why, known is not None)
        witness = loaders.state_dict_at(known.value, choice) if known else None
        if known and witness is None:
            found.witness, found.witnessed = f"{known.library} gives another structure for {choice.path or 'the file'}", False
        found.rows = list(_compared(choice, loaded.tensors(), witness))
    return found


def _matching(checkpoint: Any, loaded: Loaded, select: str | None, ema: bool) -> Choice:
    """The model of the source that the output was made from."""
    from convert.select import choose

    strip = True
    if loaded.account is not None:
        strip = isinstance(loaded.account.get("stripped"), str)
        if select is None and not ema and isinstance(loaded.account.get("selected"), str):
            choices = choose(checkpoint, select=loaded.account["selected"] or ".", strip=strip)
            return choices[0]
    choices = choose(checkpoint, select=select, ema=ema, strip=strip)
    shapes = {(key, tuple(getattr(tensor, "shape", ()))) for key, tensor in loaded.tensors().items()}
    # The output itself tells which of several models it is, and whether a prefix was kept: by its keys and their shapes.
    if loaded.account is None:
        choices += choose(checkpoint, select=select, ema=ema, strip=False)
    return max(choices, key=lambda choice: _common(choice, shapes))


def _common(choice: Choice, shapes: set[tuple[str, tuple[int, ...]]]) -> int:
    return sum((key, tensor.shape) in shapes for key, tensor in choice.state_dict.tensors.items())


def _compared(choice: Choice, output: Mapping[str, Any], witness: Mapping[str, Any] | None) -> Iterator[Row]:
    from convert.loaders import described, same

    for key, view in choice.state_dict.tensors.items():
        ours = f"{view.dtype.name} {list(view.shape)}"
        if key not in output:
            yield Row(key, "missing", ours)
            continue
        theirs = output[key]
        row = Row(key, EQUAL, ours, described(theirs))
        try:
            row.status = same(view, theirs) or EQUAL
            if row.status == EQUAL and witness is not None:
                if key not in witness:
                    row.status = "torch finds no such tensor in the source"
                else:
                    other = same(view, witness[key])
                    if other:
                        row.status, row.output = f"{other}, as torch reads the source", described(witness[key])
        except Unsupported as error:
            row.status = f"not comparable: {error.what}"
        yield row
    for key in output:
        if key not in choice.state_dict.tensors:
            yield Row(key, "unexpected", "", described(output[key]))
