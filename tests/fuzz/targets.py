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
ZERO = "global_step7"


def _zip(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    return zips.mutated(data, rng)


def _npz(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    return zips.mutated(data, rng, texts.npy_mutated)


def _wrapped(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """A ZIP around a checkpoint: what is inside is changed as a ZIP itself."""

    def inside(name: str, plain: bytes, rng: random.Random) -> bytes:
        return zips.mutated(plain, rng) if plain.startswith(b"PK") else pool.flipped(plain, rng)

    return zips.mutated(data, rng, inside)


def _exported(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """A `.pt2`: JSON that says where the tensors are, beside checkpoints in the checkpoint (before torch 2.8)."""

    def inside(name: str, plain: bytes, rng: random.Random) -> bytes:
        if name.endswith(".json"):
            return texts.text_mutated(plain, rng)
        return zips.mutated(plain, rng) if plain.startswith(b"PK") else zips.any_content(name, plain, rng)

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
        Target("exported", _exported, None),
        Target("deepspeed-model", _zip, None, f"{ZERO}/mp_rank_00_model_states.pt", ""),
        Target("deepspeed-optim", _zip, None, f"{ZERO}/zero_pp_rank_0_mp_rank_00_optim_states.pt", ""),
    )
}  # fmt: skip
