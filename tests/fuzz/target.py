"""One target under atheris: ``python -m tests.fuzz.target NAME --seeds FOLDER --out FOLDER --seconds N``.

The readers are instrumented, so that inputs which reach new code are kept and changed further. Findings do not end the run: each kind is
kept once below ``OUT/crashes``; ``OUT/stats/NAME-PID.json`` says what was done, by processor time. Only what hangs in C or uses up the
memory is left to atheris itself, which ends the process and keeps the input.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

LARGEST = 1 << 16  # bytes of an input


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--seeds", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    import atheris

    with atheris.instrument_imports(include=["formats"], exclude=["formats.core.errors"]):
        from formats import registry

        for row in registry.readers():
            registry.load(row)
    from tests import audit
    from tests.fuzz.targets import TARGETS
    from tests.fuzz.trial import Trial

    audit.preload()
    target = TARGETS[options.name]
    samples = [path.read_bytes() for path in sorted((options.seeds / target.name).iterdir())]
    base = options.seeds / f"{target.name}.base"
    trial = Trial(target, base if base.is_dir() else None, options.out / "crashes")
    stats = options.out / "stats" / f"{target.name}-{os.getpid()}.json"
    begun, last = time.time(), 0.0

    def account() -> None:
        document: dict[str, Any] = {
            "target": target.name, "cpu_seconds": round(time.process_time(), 1), "wall_seconds": round(time.time() - begun, 1),
            **trial.tally.document(),
        }  # fmt: skip
        stats.parent.mkdir(parents=True, exist_ok=True)
        partial = stats.with_suffix(".part")
        partial.write_text(json.dumps(document, indent=1))
        partial.replace(stats)

    def one(data: bytes) -> None:
        nonlocal last
        trial.run(data)
        now = time.process_time()
        if now - last > 5:
            last = now
            account()
            if now > options.seconds:
                trial.close()
                os._exit(0)  # atheris has no way to end that is quieter

    def mutate(data: bytes, largest: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if not data or rng.random() < 0.4:  # what has been changed a hundred times is refused at its first byte
            return target.mutate(rng.choice(samples), rng, samples)[:largest]
        if rng.random() < 0.05:
            return bytes(atheris.Mutate(data, largest))
        return target.mutate(data, rng, samples)[:largest]

    corpus = options.out / "corpus" / target.name
    corpus.mkdir(parents=True, exist_ok=True)
    hung = options.out / "hung"
    hung.mkdir(exist_ok=True)
    arguments = [
        sys.argv[0],
        str(corpus),
        str(options.seeds / target.name),
        f"-seed={options.seed or int(begun) & 0x7FFFFFFF}",
        "-timeout=60",
        "-mutate_depth=2",
        "-rss_limit_mb=3000",
        f"-max_len={LARGEST}",
        f"-artifact_prefix={hung}/{target.name}-",
        "-print_final_stats=0",
        "-verbosity=0",
    ]
    atheris.Setup(arguments, one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
