"""Fuzzing without a coverage engine: seeds, changed and changed again, from one fixed number. The short part of the tests."""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.fuzz.judge import Judge
from tests.fuzz.targets import TARGETS
from tests.fuzz.trial import Tally, Trial


def fuzz(
    name: str,
    seeds: Path,
    *,
    seed: int,
    executions: int,
    seconds: float = 1e9,
    crashes: Path | None = None,
    judge: Judge | None = None,
) -> Tally:
    """``executions`` inputs of target ``name``, or as many as fit in ``seconds`` of processor time."""
    target = TARGETS[name]
    samples = [path.read_bytes() for path in sorted((seeds / name).iterdir())]
    base = seeds / f"{name}.base"
    trial = Trial(target, base if base.is_dir() else None, crashes, judge=judge)
    rng = random.Random(f"{name} {seed}")
    begun = time.process_time()
    try:
        for sample in samples:
            trial.run(sample)
        while trial.tally.executions < executions and time.process_time() - begun < seconds:
            data = rng.choice(samples)
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                data = target.mutate(data, rng, samples)
            trial.run(data[: 1 << 17])
    finally:
        trial.close()
    return trial.tally
