"""The criterion: a candidate may be as wrong as float32 arithmetic is, and ten times as much, but no more.

For one sample of one output let ``d`` be the model in float64, ``e`` the same model in eager float32 and ``t`` the candidate.
It passes where ``‖t − d‖ ≤ 10 · max(‖e − d‖, 4u·‖d‖)`` with ``u = 2⁻²⁴``, the unit roundoff of float32. The rule is free of scale and needs
no table of tolerances. Where ``‖e − d‖ / ‖d‖ > 1e-4`` the input is ill-conditioned and nothing is concluded from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

UNIT = 2.0**-24  # unit roundoff of float32
UNITS = {
    "float64": 2.0**-48,
    "float32": UNIT,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
}  # float64 is its own reference: some bits to spare
FACTOR = 10.0  # how many times eager float32's own error a candidate may have
FLOOR = 4.0  # units: a relative error below which no difference is told, because eager float32 may be exact by luck
ILL_CONDITIONED = 1e-4  # eager float32's relative error above which an input decides nothing
WORST_CONDITION = 0.3  # the same for a model of lower precision, whose own error is larger

PASSED, FAILED, INCONCLUSIVE = "passed", "failed", "inconclusive"

# Ratios at which a precision shows (median nets; the two 10-bit mantissas cannot be told apart).
BANDS = ((500.0, 6_000.0, "TF32 or float16"), (8_000.0, 60_000.0, "bfloat16"))


@dataclass(frozen=True, slots=True)
class Worst:
    """The element that is furthest off, in units of the output."""

    index: tuple[int, ...]
    expected: float
    got: float

    def document(self) -> dict[str, Any]:
        return {"index": list(self.index), "expected": _json(self.expected), "got": _json(self.got)}


@dataclass(frozen=True, slots=True)
class Score:
    """One sample of one output. ``ratio`` is what is judged, ``error`` ‖t−d‖/‖d‖, ``condition`` ‖e−d‖/‖d‖; ``why`` explains no pass."""

    output: str
    sample: int
    status: str
    ratio: float
    error: float
    condition: float
    worst: Worst | None = None
    why: str = ""

    def document(self) -> dict[str, Any]:
        found = {
            "output": self.output, "sample": self.sample, "status": self.status, "ratio": _json(self.ratio), "error": _json(self.error),
            "condition": _json(self.condition),
        }  # fmt: skip
        if self.worst is not None:
            found["worst"] = self.worst.document()
        if self.why:
            found["why"] = self.why
        return found


def score(output: str, sample: int, reference: Array, eager: Array, candidate: Array, unit: float = UNIT) -> Score:
    """Judge one sample: ``reference`` in float64, ``eager`` and ``candidate`` as they came, all of one shape.

    ``unit`` is the unit roundoff of the precision that the model declares: a float16 model is judged by eager float16.
    """
    import numpy

    if candidate.shape != eager.shape:
        why = f"shape {list(candidate.shape)} where {list(eager.shape)} is expected"
        return Score(output, sample, FAILED, math.inf, math.inf, 0.0, None, why)
    if not numpy.issubdtype(eager.dtype, numpy.floating):
        return _exact(output, sample, eager, candidate)
    d, e, t = (array.astype(numpy.float64) for array in (reference, eager, candidate))
    finite = numpy.isfinite(d)
    if not (numpy.array_equal(finite, numpy.isfinite(e)) and _same_special(d, e, finite)):
        return Score(output, sample, INCONCLUSIVE, math.nan, math.nan, math.inf, None, "float32 overflows where float64 does not")
    if not (numpy.array_equal(finite, numpy.isfinite(t)) and _same_special(d, t, finite)):
        wrong = ~(numpy.isfinite(t) == finite) | (~finite & ~_equal_special(d, t))
        at = int(numpy.flatnonzero(wrong)[0])
        return Score(output, sample, FAILED, math.inf, math.inf, 0.0, _element(d, t, at), "NaN or Inf not in the same places")
    if not finite.all():
        d, e, t = (numpy.where(finite, array, 0.0) for array in (d, e, t))
    norm = _norm(d)
    off, own = _norm(t - d), _norm(e - d)
    yard = max(own, FLOOR * unit * norm)
    ratio = 0.0 if off == 0 else off / yard if yard else math.inf
    condition = own / norm if norm else (math.inf if own else 0.0)
    error = off / norm if norm else (math.inf if off else 0.0)
    worst = _element(d, t, int(numpy.argmax(numpy.abs(t - d)))) if d.size else None
    limit = min(ILL_CONDITIONED * unit / UNIT, WORST_CONDITION) if unit > UNIT else ILL_CONDITIONED
    if condition > limit:
        why = f"ill-conditioned: the model's own precision is off by {condition:.1e}, above {limit:.1e}"
        return Score(output, sample, INCONCLUSIVE, ratio, error, condition, worst, why)
    if ratio > FACTOR:
        return Score(
            output, sample, FAILED, ratio, error, condition, worst, f"{ratio:.3g} times float32's own error, {FACTOR:g} at most"
        )
    return Score(output, sample, PASSED, ratio, error, condition, worst)


def scores(output: str, reference: Array, eager: Array, candidate: Array, batch: int | None, unit: float = UNIT) -> list[Score]:
    """Judge one output, sample by sample where its first axis is the batch of ``batch`` samples, else as a whole."""
    if batch is None or eager.ndim == 0 or eager.shape[0] != batch or batch == 1:
        return [score(output, 0, reference, eager, candidate, unit)]
    if candidate.shape != eager.shape:
        return [score(output, 0, reference, eager, candidate, unit)]
    return [score(output, i, reference[i], eager[i], candidate[i], unit) for i in range(batch)]


def varies(samples: Sequence[Array]) -> bool:
    """Whether an output says anything: one that is the same for every sample of every input proves nothing."""
    import numpy

    first = samples[0]
    return any(other.shape != first.shape or not numpy.array_equal(first, other, equal_nan=True) for other in samples[1:])


def band(ratio: float) -> str | None:
    """The precision whose fingerprint ``ratio`` is, if any."""
    return next((name for low, high, name in BANDS if low <= ratio <= high), None)


def _norm(array: Array) -> float:
    import numpy

    peak = float(numpy.abs(array).max(initial=0.0))
    if peak == 0.0:
        return 0.0
    return peak * math.sqrt(float(numpy.square(array / peak).sum()))  # squares of 1e200 overflow, of 1e-200 vanish


def _equal_special(d: Array, t: Array) -> Array:
    import numpy

    equal: Array = (numpy.isnan(d) & numpy.isnan(t)) | (d == t)
    return equal


def _same_special(d: Array, t: Array, finite: Array) -> bool:
    return bool(finite.all()) or bool(_equal_special(d, t)[~finite].all())


def _exact(output: str, sample: int, eager: Array, candidate: Array) -> Score:
    """Integers and booleans: indices and masks are equal or not."""
    import numpy

    differs = numpy.flatnonzero(eager.astype(candidate.dtype) != candidate)
    if not differs.size:
        return Score(output, sample, PASSED, 0.0, 0.0, 0.0)
    why = f"{differs.size:,} of {eager.size:,} values differ in an output of {eager.dtype}, which has to be equal"
    return Score(output, sample, FAILED, math.inf, math.inf, 0.0, _element(eager, candidate, int(differs[0])), why)


def _element(d: Array, t: Array, at: int) -> Worst:
    import numpy

    index = tuple(int(i) for i in numpy.unravel_index(at, d.shape)) if d.ndim else ()
    return Worst(index, float(d.reshape(-1)[at]), float(t.reshape(-1)[at]))


def _json(number: float) -> float | str:
    """JSON has no NaN and no infinity."""
    return number if math.isfinite(number) else str(number)
