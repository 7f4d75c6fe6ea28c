"""This result against an earlier one: what has become slower, beyond the noise.

A figure is worse where its median is more than `MARGIN` above the earlier median *and* the quartiles of the two do not overlap. Ratios to
cp are compared between any machines, peaks between equal versions of Python, seconds and milliseconds only on machines that say the same of
themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Spread, Target
from benchmarks.measuring import Run, Series

COMMITTED = Path(__file__).parent / "results" / "speed.json"
MARGIN = 0.10
PEAK_MARGIN = 1.0  # MB


@dataclass(frozen=True)
class Change:
    """One figure, before and now."""

    case: str
    contender: str
    quantity: str
    base: str
    before: Spread
    now: Spread

    @property
    def slower(self) -> bool:
        allowance = PEAK_MARGIN if self.quantity == "peak" else 0.0
        return self.now.median > self.before.median * (1 + MARGIN) + allowance and self.now.low > self.before.high

    @property
    def faster(self) -> bool:
        return self.now.median < self.before.median / (1 + MARGIN) and self.now.high < self.before.low

    def line(self) -> str:
        what = (
            f"× {self.base}"
            if self.quantity == "ratio"
            else {"wall": "s", "peak": "MB", "over": f"ms over {self.base}"}[self.quantity]
        )
        return f"{self.case}, {self.contender}: {self.before.median:.3g} → {self.now.median:.3g} {what}"


def series(document: dict[str, Any]) -> Series:
    """A case's rounds, from its JSON."""
    return Series([
        {name: Run(*run) for name, run in zip(document["contenders"], row, strict=True) if run is not None} for row in document["rounds"]
    ])  # fmt: skip


def changes(before: dict[str, Any], now: dict[str, Any]) -> Iterator[Change]:
    """Every figure of ours that both results have. Those of cp and torch are not ours to compare."""
    alike = before["machine"] == now["machine"]
    same_python = before["machine"]["python"] == now["machine"]["python"]
    for name in before["cases"].keys() & now["cases"].keys():
        old, new = before["cases"][name], now["cases"][name]
        if "left_out" in old or "left_out" in new:
            continue
        pair = series(old), series(new)
        for contender in new["contenders"]:
            if not contender.startswith(("convert", "migrate")):
                continue
            quantities = [("ratio", base) for base in new["bases"] if not base.startswith("python")]
            quantities += [("over", base) for base in new["bases"] if base.startswith("python") and alike]
            quantities += [("wall", "")] * alike + [("peak", "")] * same_python
            for quantity, base in quantities:
                values = [Target(contender, quantity, 0, base).values(one) for one in pair]
                if all(values):
                    yield Change(name, contender, quantity, base, Spread.of(values[0]), Spread.of(values[1]))


def read(path: Path) -> dict[str, Any] | None:
    """An earlier result, or None where there is none. It is read before anything is measured: the new one may take its place."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def report(document: dict[str, Any], before: dict[str, Any] | None, name: str) -> list[Change]:
    """Print what changed since ``before``, which is called ``name``; returns what is slower."""
    if before is None:
        print(f"\nnothing to compare with: there is no {name}")
        return []
    found = list(changes(before, document))
    slower = [change for change in found if change.slower]
    faster = [change for change in found if change.faster]
    print(f"\nagainst {name} of {before['begun'][:10]}: {len(found)} figures, {len(slower)} worse, {len(faster)} better")
    for title, group in (("worse", slower), ("better", faster)):
        for change in sorted(group, key=lambda change: change.case):
            print(f"  {title}: {change.line()}")
    return slower


def dumped(document: dict[str, Any]) -> str:
    """JSON with a line for each round, so that a difference can be read."""
    text = json.dumps(document, indent=1, ensure_ascii=False)
    # The innermost lists, of numbers, on one line each.
    import re

    text = re.sub(r"\[\s+((?:(?:-?[\d.e+-]+|null),?\s+)+)\]", lambda found: "[" + " ".join(found[1].split()) + "]", text)
    return text + "\n"
