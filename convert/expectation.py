"""What a model expects of a state dict, and what ``load_state_dict(strict=True)`` would say to one.

Source: ``torch.nn.Module.load_state_dict``, ``_load_from_state_dict`` and ``_NormBase._load_from_state_dict`` (torch 2.13).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from formats import registry
from formats.core.checkpoint import StateDict
from formats.core.errors import AmbiguousCheckpoint, Unsupported, UsageError

COUNTER = "num_batches_tracked"
Shape = tuple[int, ...]


@dataclass(slots=True)
class Expected:
    """A model's keys with dtype and shape, in its order. ``path`` is the checkpoint that it was taken from, if any."""

    name: str
    slots: dict[str, tuple[str, Shape]]
    path: Path | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def shapes(self) -> dict[str, Shape]:
        return {key: shape for key, (_, shape) in self.slots.items()}


@dataclass(slots=True)
class Outcome:
    """What loading would say. ``filled``: counters that torch itself sets to zero, because the file's version is before them."""

    missing: list[str]
    unexpected: list[str]
    mismatched: dict[str, tuple[Shape, Shape]]  # key → (checkpoint, model)
    filled: list[str]
    matched: int

    @property
    def loads(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)

    def document(self) -> dict[str, Any]:
        return {
            "loads": self.loads,
            "matched": self.matched,
            "missing": self.missing,
            "unexpected": self.unexpected,
            "size_mismatch": {key: {"checkpoint": list(a), "model": list(b)} for key, (a, b) in self.mismatched.items()},
            "filled_by_torch": self.filled,
        }


def outcome(given: Mapping[str, Shape | None], versions: Mapping[Any, Any] | None, model: Mapping[str, Shape]) -> Outcome:
    """Set ``given`` (None where the value is no tensor) against the ``model``'s shapes."""
    missing: list[str] = []
    filled: list[str] = []
    mismatched: dict[str, tuple[Shape, Shape]] = {}
    matched = 0
    for key, shape in model.items():
        if key not in given:
            (filled if _fills(key, versions, model) else missing).append(key)
            continue
        there = given[key]
        if there is not None and fits(there, shape):
            matched += 1
        else:
            mismatched[key] = (there or (), shape)
    return Outcome(missing, [key for key in given if key not in model], mismatched, filled, matched)


def fits(given: Shape, wanted: Shape) -> bool:
    """Whether a tensor loads into a place of shape ``wanted``. One element in one dimension is what torch 0.3 wrote for a scalar."""
    return given == wanted or (not wanted and len(given) == 1 and given[0] >= 1)


def _fills(key: str, versions: Mapping[Any, Any] | None, model: Mapping[str, Shape]) -> bool:
    module, _, leaf = key.rpartition(".")
    if leaf != COUNTER or (f"{module}.running_mean" if module else "running_mean") not in model:
        return False
    local = versions.get(module) if versions else None
    version = local.get("version") if isinstance(local, Mapping) else None
    return not isinstance(version, int) or version < 2


def like(path: Path, *, select: str | None = None) -> Expected:
    """What the model in another checkpoint has; the prefixes that wrappers leave are not part of it."""
    from convert.select import choose

    with registry.open(path) as checkpoint:
        choices = choose(checkpoint, select=select)
        if len(choices) > 1:
            names = ", ".join(choice.path for choice in choices)
            raise AmbiguousCheckpoint(f"holds {len(choices)} models: {names}", path=path, hint="--like takes a file with one")
        notes = [f"{path}: {choices[0].stripped} stripped from the keys"] if choices[0].stripped else []
        return Expected(str(path), slots_of(choices[0].state_dict), path, notes)


def expected(other: Path | None, arch: str | None) -> Expected:
    """What the checkpoint ``other`` or the model ``arch`` has; exactly one of them is given."""
    if (other is None) == (arch is None):
        raise UsageError("needs the model that it should load into: --like CHECKPOINT or --arch ARCH, one of them")
    if other is not None:
        return like(other)
    return of_arch(str(arch))


def of_arch(text: str) -> Expected:
    """What the model that ``--arch`` names has. Needs torch and, where ``text`` names one, the user's file or the library."""
    from convert.programs import arch as arches
    from convert.programs.userfile import UserFile

    arch = arches.parse(text)
    if not arch.name:
        raise UsageError(f"--arch {text}: names no callable", hint=f"--arch {text}:NAME")
    return of_module(text, arches.make(arch, UserFile).state_dict().items())


def slots_of(model: StateDict) -> dict[str, tuple[str, Shape]]:
    """{key: (dtype, shape)} of a state dict."""
    return {key: (tensor.dtype.name, tensor.shape) for key, tensor in model.tensors.items()}


def of_module(name: str, entries: Iterable[tuple[str, Any]]) -> Expected:
    """What a `torch.nn.Module` has, from the items of its ``state_dict()``; entries that are no tensors (extra state) are left out."""
    slots: dict[str, tuple[str, Shape]] = {}
    for key, value in entries:
        if hasattr(value, "dtype") and hasattr(value, "shape"):
            slots[key] = (str(value.dtype).removeprefix("torch."), tuple(int(size) for size in value.shape))
    if not slots:
        raise Unsupported(f"{name} has no parameters and no buffers")
    return Expected(name, slots)
