"""Warm start: a model's own checkpoint with the values that a pretrained one has under equal names and shapes.

The result has the model's keys, order and versions; what is taken over keeps its dtype, which ``load_state_dict`` casts.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from convert.expectation import COUNTER, Shape
from formats.core.checkpoint import StateDict
from formats.core.dtype import BY_NAME
from formats.core.errors import UsageError
from formats.core.storage import BytesStorage
from formats.core.tensor import AnyTensor, TensorView


@dataclass(slots=True)
class Transfer:
    """What a warm start took and kept; all keys are the model's but ``unused`` and ``source_keys``."""

    taken: list[str]
    resized: dict[str, tuple[Shape, Shape]]  # key → (source, model)
    kept: list[str]
    unused: list[str]
    dtypes: list[str]  # taken over in another dtype than the model's
    keys: list[str]
    source_keys: list[str]

    def document(self) -> dict[str, Any]:
        return {
            "taken": self.taken,
            "kept_other_shape": {key: {"source": list(a), "model": list(b)} for key, (a, b) in self.resized.items()},
            "kept_not_in_source": self.kept,
            "unused_from_source": self.unused,
            "other_dtype": self.dtypes,
        }


def warm_start(pretrained: StateDict, model: StateDict) -> tuple[StateDict, Transfer]:
    """``model`` with what ``pretrained`` has for it. Raises `UsageError` where nothing fits."""
    found = Transfer([], {}, [], [], [], list(model.tensors), list(pretrained.tensors))
    tensors: dict[str, AnyTensor] = {}
    for key, own in model.tensors.items():
        given = pretrained.tensors.get(key)
        if given is not None and given.shape == own.shape:
            tensors[key] = given
            found.taken.append(key)
            if given.dtype is not own.dtype:
                found.dtypes.append(key)
            continue
        tensors[key] = own
        if given is None:
            found.kept.append(key)
        else:
            found.resized[key] = (given.shape, own.shape)
    found.unused = [key for key in pretrained.tensors if key not in model.tensors]
    if not found.taken:
        raise UsageError(
            "--into: not one tensor of the source has a name and shape of the model's",
            hint="convert doctor SOURCE --like MODEL looks for a rule",
        )
    return StateDict(tensors, model.versions), found


def fill_missing(model: StateDict, patterns: tuple[str, ...], like: StateDict | None) -> tuple[StateDict, list[str]]:
    """``model`` with the keys that it lacks and a pattern names, and the names of these keys.

    ``num_batches_tracked`` alone needs no other checkpoint: every batch norm (a module with ``running_mean``) gets a counter of 0, as
    torch gives it one. Other shell patterns take the values that ``like`` has. Raises `UsageError` where there is no ``like``.
    """
    counters = [p for p in patterns if p == COUNTER or (like is None and p in (f"*.{COUNTER}", f"*{COUNTER}"))]
    others = [p for p in patterns if p not in counters]
    if others and like is None:
        raise UsageError(
            f"--fill-missing {others[0]}: where from?", hint="--like CHECKPOINT names the model whose values are taken"
        )
    filled: list[str] = []
    tensors: dict[str, AnyTensor] = dict(model.tensors)
    if others and like is not None:
        tensors = {}
        wanted = {key for key in like.tensors if key not in model.tensors and any(fnmatchcase(key, p) for p in others)}
        order = list(like.tensors)
        place = {key: at for at, key in enumerate(order)}
        at_start = order[: next((place[key] for key in order if key in model.tensors), len(order))]
        filled += _moved(at_start, wanted, like, tensors)
        for key, tensor in model.tensors.items():
            tensors[key] = tensor
            if key in place:
                following = order[place[key] + 1 :]
                stop = next((n for n, name in enumerate(following) if name in model.tensors), len(following))
                filled += _moved(following[:stop], wanted, like, tensors)
    if counters:
        complete: dict[str, AnyTensor] = {}
        for key, tensor in tensors.items():
            complete[key] = tensor
            module, dot, leaf = key.rpartition(".")
            counter = f"{module}{dot}{COUNTER}"
            last = "running_var" if f"{module}{dot}running_var" in tensors else "running_mean"
            if leaf == last and f"{module}{dot}running_mean" in tensors and counter not in tensors:
                complete[counter] = TensorView(BY_NAME["int64"], (), BytesStorage(bytes(8)))
                filled.append(counter)
        tensors = complete
    return StateDict(tensors, model.versions), filled


def _moved(keys: list[str], wanted: set[str], like: StateDict, tensors: dict[str, AnyTensor]) -> list[str]:
    found = [key for key in keys if key in wanted and key not in tensors]
    for key in found:
        tensors[key] = like.tensors[key]
    return found
