"""What rounds say: medians and quartiles of paired figures, whether a target is reached, exponents of growth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.measuring import Run, Series

MB = 1e6


@dataclass(frozen=True)
class Target:
    """What a contender has to reach: ``limit`` for a ``quantity``, at most, or at least with ``floor``.

    Quantities: ``ratio`` of wall times to ``base`` in the same round, after ``allowance`` seconds are taken off; ``over``, milliseconds
    more than base; ``wall`` seconds; ``peak`` MB; ``faster``, base's wall time in units of ours; ``rate``, ``count`` things a second.
    """

    contender: str
    quantity: str
    limit: float
    base: str = ""
    allowance: float = 0.0
    count: int = 0

    @property
    def floor(self) -> bool:
        return self.quantity in ("faster", "rate")

    def values(self, series: Series) -> list[float]:
        """One value a round, of rounds in which both ran."""
        names = {self.contender, self.base or self.contender}
        return [self._value(kept[self.contender], kept.get(self.base)) for kept in series.rounds if names <= kept.keys()]

    def _value(self, run: Run, base: Run | None) -> float:
        if self.quantity == "peak":
            return run.peak / MB
        if self.quantity == "rate":
            return self.count / run.wall
        if base is None:
            return run.wall
        if self.quantity == "over":
            return (run.wall - base.wall) * 1000
        if self.quantity == "faster":
            return base.wall / run.wall
        return (run.wall - self.allowance) / base.wall

    def reached(self, value: float) -> bool:
        return value >= self.limit if self.floor else value <= self.limit

    @property
    def text(self) -> str:
        """What is to be reached, in words: ``≤ 1.8 × cp + 25 ms``."""
        limit = f"{'≥' if self.floor else '≤'} {self.limit:g}"
        more = f" + {self.allowance * 1000:g} ms" if self.allowance else ""
        return {
            "ratio": f"{limit} × {self.base}{more}",
            "over": f"{limit} ms over {self.base}",
            "wall": f"{limit} s",
            "peak": f"{limit} MB peak",
            "faster": f"{limit} × faster than {self.base}",
            "rate": f"{limit} files/s",
        }[self.quantity]

    def said(self, value: float) -> str:
        """A measured value, with its unit."""
        return {
            "ratio": f"{value:.2f} ×", "over": f"{value:.1f} ms", "wall": f"{value:.2f} s", "peak": f"{value:.1f} MB",
            "faster": f"{value:.1f} ×", "rate": f"{value:.0f} files/s",
        }[self.quantity]  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


def documents(targets: Sequence[Target], series: Series) -> Iterator[dict[str, Any]]:
    """Each target with what was measured; a target whose contender did not run is left out."""
    for target in targets:
        values = target.values(series)
        if values:
            spread = Spread.of(values)
            yield {
                "contender": target.contender, "quantity": target.quantity, "base": target.base, "target": target.text,
                "limit": target.limit, "measured": round(spread.median, 4), "low": round(spread.low, 4), "high": round(spread.high, 4),
                "said": target.said(spread.median), "rounds": len(values), "reached": target.reached(spread.median),
            }  # fmt: skip


def rows(series: Series, bases: Sequence[str]) -> Iterator[str]:
    """The table's lines: medians of each contender, and of its ratios to each base in the same round."""
    names = list(dict.fromkeys(name for kept in series.rounds for name in kept))
    names.sort(key=lambda name: name not in bases)
    yield f"  {'':<34}{'wall s':>9}{'quartiles':>16}{'CPU s':>8}{'peak MB':>9}" + "".join(f"{'× ' + base:>16}" for base in bases)
    for name in names:
        runs = series.runs(name)
        wall = Spread.of([run.wall for run in runs])
        cpu = statistics.median(run.cpu for run in runs)
        peak = statistics.median(run.peak for run in runs) / MB
        ratios = [Spread.of(Target(name, "ratio", 0, base).values(series)).median for base in bases]
        yield (
            f"  {name:<34}{wall.median:>9.3f}{f'{wall.low:.3f} – {wall.high:.3f}':>16}{cpu:>8.3f}{peak:>9.1f}"
            + "".join(f"{ratio:>16.2f}" for ratio in ratios)
        )


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of ``costs`` over ``sizes`` in logarithms, by least squares: 1 where ten times as much costs ten times as much."""
    x, y = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    return statistics.linear_regression(x, y).slope
