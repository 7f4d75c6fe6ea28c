"""What is fuzzed: one row a container, with its mutator, who judges it, and where the changed file stands."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.fuzz import pickles, pool, tars, texts, zips


@dataclass(frozen=True, slots=True)
class Target:
    """``mutate`` changes one input; ``judge`` is a loader of `tests.fuzz.judge`, or None where nobody else reads such files.

    ``file`` is the name of the changed file below the folder of the case, ``opened`` what is opened of it: the file, or the folder ("").
    """

    name: str
    mutate: Callable[[bytes, random.Random, Sequence[bytes]], bytes]
    judge: str | None
    file: str = "case"
    opened: str = "case"


INDEX = "m.safetensors.index.json"


def _zip(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    return zips.mutated(data, rng)


def _npz(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    return zips.mutated(data, rng, texts.npy_mutated)


def _wrapped(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """A ZIP around a checkpoint: what is inside is changed as a ZIP itself."""

    def inside(name: str, plain: bytes, rng: random.Random) -> bytes:
        return zips.mutated(plain, rng) if plain.startswith(b"PK") else pool.flipped(plain, rng)

    return zips.mutated(data, rng, inside)


def _bytes(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    if others and rng.random() < 0.1:
        other = rng.choice(others)
        return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]
    return pool.flipped(data, rng)


TARGETS = {
    target.name: target
    for target in (
        Target("pickle", pickles.mutated, "pickle"),
        Target("module", pickles.mutated, None),
        Target("zip", _zip, "torch"),
        Target("legacy", lambda data, rng, others: pickles.run_mutated(data, rng, others, 5), "torch"),
        Target("tar", lambda data, rng, others: tars.mutated(data, rng), "tar"),
        Target("safetensors", lambda data, rng, others: texts.safetensors_mutated(data, rng), "safetensors"),
        Target("index", lambda data, rng, others: texts.text_mutated(data, rng), "index", INDEX, INDEX),
        Target("torchscript", _zip, "script"),
        Target("package", _zip, None),
        Target("npz", _npz, "numpy"),
        Target("onnx", _bytes, "onnx"),
        Target("wrapped", _wrapped, None),
        Target("folder", pickles.mutated, None, "data.pkl", ""),
        Target("distributed", pickles.mutated, None, ".metadata", ""),
    )
}  # fmt: skip
