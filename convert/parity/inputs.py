"""Seeded inputs: like what a net sees in use (smooth, correlated between channels), and plain N(0, 1)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from formats.core.errors import UsageError

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

NATURAL, NORMAL = "natural", "normal"
FLOATS = ("float32", "float64", "float16", "bfloat16")
INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "bool")
SAME = "natural:1 natural:2 normal:5 normal:1"  # the kinds and batch sizes of every verdict
MAX_ELEMENTS = 1 << 28


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input: ``shape`` with the batch first, integers in [``low``, ``high``). ``batched`` is False where the first axis is no batch."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: int = 0
    high: int = 100
    name: str | None = None
    batched: bool = True

    @property
    def text(self) -> str:
        """As ``--input`` takes it."""
        sizes = "x".join(map(str, self.shape)) if self.shape else "scalar"
        spelled = sizes if self.dtype == "float32" else f"{sizes}:{self.dtype}"
        if self.dtype in INTEGERS and self.dtype != "bool":
            spelled += f":{self.low}..{self.high}"
        return f"{self.name}={spelled}" if self.name else spelled


_SPEC = re.compile(
    r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>scalar|\d+(?:x\d+)*)(?::(?P<dtype>[a-z]+\d*))?(?::(?P<low>-?\d+)\.\.(?P<high>-?\d+))?"
)


def parse(text: str) -> InputSpec:
    """``[NAME=]1x3x224x224[:DTYPE[:LOW..HIGH]]`` → the spec. Raises `UsageError`."""
    match = _SPEC.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"input {text!r:.80} is not spelled [NAME=]1x3x224x224[:DTYPE[:LOW..HIGH]]")
    dtype = match["dtype"] or "float32"
    if dtype not in (*FLOATS, *INTEGERS):
        raise UsageError(f"input dtype {dtype!r:.40} is none of {', '.join((*FLOATS, *INTEGERS))}")
    shape = () if match["shape"] == "scalar" else tuple(int(size) for size in match["shape"].split("x"))
    if len(shape) > 8 or math.prod(shape) > MAX_ELEMENTS:
        raise UsageError(f"input {text!r:.80} has more than 8 axes or {MAX_ELEMENTS:,} elements")
    low, high = (int(match["low"]), int(match["high"])) if match["low"] is not None else (0, 100)
    if high <= low:
        raise UsageError(f"input {text!r:.80}: the range {low}..{high} is empty")
    return InputSpec(shape, dtype, low, high, match["name"], batched=bool(shape))


@dataclass(frozen=True, slots=True)
class Sample:
    """One set of inputs for a run: what kind, which batch size, and an array for each spec."""

    kind: str
    batch: int
    arrays: tuple[Any, ...]

    @property
    def label(self) -> str:
        return f"{self.kind} × {self.batch}"


def recipe(batches: Sequence[int] | None = None) -> list[tuple[str, int]]:
    """(kind, batch size) of every run: two natural-like and two N(0, 1), batches of 1, 2 and 5 unless ``batches`` says which."""
    usual = [(kind, int(batch)) for kind, _, batch in (entry.partition(":") for entry in SAME.split())]
    if not batches:
        return usual
    return [(kind, batch) for kind in (NATURAL, NORMAL) for batch in batches]


def make(specs: Sequence[InputSpec], seed: int, runs: Iterable[tuple[str, int]]) -> list[Sample]:
    """The inputs of each run; the same for the same seed on every machine with the same numpy."""
    import numpy

    samples = []
    for number, (kind, batch) in enumerate(runs):
        arrays = []
        for place, spec in enumerate(specs):
            generator = numpy.random.Generator(numpy.random.PCG64([seed, number, place]))
            shape = (batch, *spec.shape[1:]) if spec.batched else spec.shape
            arrays.append(_array(spec, shape, kind, generator))
        samples.append(Sample(kind, batch, tuple(arrays)))
    return samples


def _array(spec: InputSpec, shape: tuple[int, ...], kind: str, generator: Any) -> Array:
    import numpy

    if spec.dtype == "bool":
        return _as(generator.random(shape) < 0.5, "bool")
    if spec.dtype in INTEGERS:
        if kind == NORMAL:
            return _as(generator.integers(spec.low, spec.high, shape), spec.dtype)
        # Words are used as Zipf has it: few often, most of them rarely.
        spread = spec.high - spec.low
        drawn = numpy.floor(spread ** generator.random(shape)).astype("int64") - 1
        return _as(spec.low + numpy.clip(drawn, 0, spread - 1), spec.dtype)
    dtype = spec.dtype if spec.dtype in ("float64", "float16") else "float32"
    if kind == NATURAL and len(shape) > 1 and shape[-1] > 1:
        return _as(natural(shape, generator), dtype)
    return _as(generator.standard_normal(shape), dtype)


def _as(array: Any, dtype: str) -> Array:
    return array.astype(dtype)  # type: ignore[no-any-return]


def natural(shape: tuple[int, ...], generator: Any) -> Array:
    """Noise with the 1/f amplitude of photographs and speech, channels mostly alike, each sample with its own brightness and contrast.

    The last two axes are space where there are four or more, else the last one is time; in units of a normalised input.
    """
    import numpy

    axes = (-2, -1) if len(shape) >= 4 else (-1,)
    grids = [numpy.fft.fftfreq(shape[axis]) for axis in axes]
    frequency = numpy.sqrt(sum(grid.reshape([-1] + [1] * (len(axes) - 1 - i)) ** 2 for i, grid in enumerate(grids)))
    frequency[(0,) * len(axes)] = numpy.inf
    white = generator.standard_normal(shape)
    if len(shape) >= 3:  # three quarters of the variance is common to all channels
        white = 0.5 * white + math.sqrt(0.75) * generator.standard_normal((shape[0], 1, *shape[2:]))
    pink = numpy.fft.ifftn(numpy.fft.fftn(white, axes=axes) / frequency, axes=axes).real
    pink /= numpy.sqrt(numpy.square(pink).mean(axis=axes, keepdims=True)) + 1e-12
    per_sample = (shape[0], *([1] * (len(shape) - 1)))
    contrast = generator.uniform(0.5, 1.2, per_sample)
    shift = generator.uniform(-0.5, 0.5, per_sample)
    return numpy.clip(contrast * pink + shift, -2.2, 2.7)  # type: ignore[no-any-return]
