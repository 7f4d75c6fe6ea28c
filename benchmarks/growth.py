"""How cost grows: with tensors, with bytes, with files, each ten times and a hundred times as many.

The exponent is the slope of log cost over log size, once for each round; what a conversion of one small tensor costs in the same round is
taken off first, because it is paid once. 1 means ten times as much for ten times as much, less is better.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from benchmarks import contenders as lines
from benchmarks.cases import Case
from benchmarks.figures import Spread, exponent
from benchmarks.measuring import Contender, Series
from benchmarks.runs import Bench, migrations

TENSORS = (200, 2_000, 20_000)
BYTES = (20 * 10**6, 200 * 10**6, 2 * 10**9)
FILES = (20, 200, 2_000)
BASE = "one tensor"


def run(case: Case, bench: Bench) -> tuple[Series, list[str]]:
    """One contender for each size, named by it, and the conversion of one tensor."""
    with ExitStack() as stack:
        out = stack.enter_context(bench.folder("out"))
        source, reference = stack.enter_context(bench.checkpoint("zip", 4000, 1))
        contenders = [_unsynced(source, out, reference, BASE, base=True)]
        whole = stack.enter_context(bench.tree(100_000, 20, FILES[-1])) if case.name == "growth-files" else bench.work
        for size in sizes(case):
            if case.name == "growth-files":
                tree = stack.enter_context(bench.folder(f"tree-{size}"))
                for path in sorted(whole.iterdir())[:size]:
                    os.link(path, tree / path.name)
                entry = migrations(tree, whole, out, size)[1]
                contenders.append(Contender(str(size), entry.argv, entry.output, entry.check, synced=False))
            else:
                nbytes, tensors = (35 * 10**6, size) if case.name == "growth-tensors" else (size, 100)
                source, reference = stack.enter_context(bench.checkpoint("zip", nbytes, tensors))
                contenders.append(_unsynced(source, out, reference, str(size)))
        return bench.run(case, contenders), [BASE]


def sizes(case: Case) -> tuple[int, ...]:
    return {"growth-tensors": TENSORS, "growth-bytes": BYTES, "growth-files": FILES}[case.name]


def _unsynced(source: Any, out: Any, reference: Any, name: str, *, base: bool = False) -> Contender:
    entry = lines.conversions(source, out, reference)[1]
    return Contender(name, entry.argv, entry.output, entry.check, synced=False, base=base)


def document(case: Case, series: Series) -> dict[str, Any]:
    """The exponent's median and quartiles over the rounds, and of each step."""
    names = sizes(case)
    costs = [[max(kept[str(size)].wall - kept[BASE].wall, 1e-4) for size in names] for kept in series.rounds]
    whole = Spread.of([exponent(names, each) for each in costs])
    steps = [
        round(Spread.of([exponent(names[step : step + 2], each[step : step + 2]) for each in costs]).median, 3)
        for step in range(len(names) - 1)
    ]
    return {
        "sizes": list(names),
        "exponent": round(whole.median, 3),
        "low": round(whole.low, 3),
        "high": round(whole.high, 3),
        "steps": steps,
    }


def text(found: dict[str, Any]) -> str:
    steps = ", ".join(f"{step:.2f}" for step in found["steps"])
    return f"  exponent {found['exponent']:.2f} ({found['low']:.2f} – {found['high']:.2f}); by step of ten {steps}"
