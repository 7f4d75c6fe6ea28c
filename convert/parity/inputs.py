"""The seeded inputs of a check: natural-like and N(0, 1), in several batch sizes (one input is `convert.programs.inputs`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from convert.programs.inputs import InputSpec, parse
from convert.programs.inputs import make as make_one

NATURAL, NORMAL = "natural", "normal"
USUAL = ((NATURAL, 1), (NATURAL, 2), (NORMAL, 5), (NORMAL, 1))  # kinds and batch sizes of every verdict


@dataclass(frozen=True, slots=True)
class Sample:
    """One set of inputs for a run: what kind, which batch size, and a NumPy array for each argument."""

    kind: str
    batch: int
    arrays: tuple[Any, ...]

    @property
    def label(self) -> str:
        return f"{self.kind} × {self.batch}"


def recipe(batches: Sequence[int] | None = None) -> list[tuple[str, int]]:
    """(kind, batch size) of every run: two natural-like and two N(0, 1), batches of 1, 2 and 5 unless ``batches`` says which."""
    return [(kind, batch) for kind in (NATURAL, NORMAL) for batch in batches] if batches else list(USUAL)


def make(specs: Sequence[InputSpec], seed: int, runs: Iterable[tuple[str, int]]) -> list[Sample]:
    """The inputs of each run; the same for the same seed. Float inputs come in float32; a runner gives them the model's type."""
    samples = []
    for number, (kind, batch) in enumerate(runs):
        tensors = [
            make_one(spec, seed * 1_000_003 + number * 101 + place, batch if batched(spec) else None, kind)
            for place, spec in enumerate(specs)
        ]
        samples.append(Sample(kind, batch, tuple(_array(tensor) for tensor in tensors)))
    return samples


def batched(spec: InputSpec) -> bool:
    """Whether the first axis is the batch: of all but scalars."""
    return bool(spec.shape) or spec.sample is not None


def _array(tensor: Any) -> Any:
    import torch

    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()


__all__ = ["NATURAL", "NORMAL", "InputSpec", "Sample", "batched", "make", "parse", "recipe"]
