"""Which part of a checkpoint is the model. All candidates are found and reported; nothing is taken on doubt.

A candidate is a whole module, a mapping of tensors (a state dict), or mappings nested without dots, flattened. What is an
optimizer, a scheduler, a loss, random state or settings by its shape or by its name never is one. One candidate is taken; an EMA copy
beside it only when asked for; candidates for different models are all taken, each into an output of its own; copies of one model
(best and last, teacher and student) are an error that lists them.
"""

from __future__ import annotations

from convert.candidates import Candidate, candidates, entries, flatten, is_container, is_flat, is_optimizer, is_tensor, join
from convert.keys import strip_wrappers
from convert.modules import module_fields, state_dict_of
from formats.core.checkpoint import Checkpoint, Global, Ordered, Record, StateDict, walk
from formats.core.errors import AmbiguousCheckpoint, UnknownFormat, UsageError
from formats.core.pattern import pattern
from formats.core.record import made, record
from formats.core.tensor import AnyTensor, CompositeTensor, TensorView
from formats.core.ties import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_COPY = pattern(
    r"(?:^|[_\-. ])(?:best|last|latest|final|init|initial|prev|previous|old|backup|teacher|student|target|online|momentum|"
    r"epoch\d*|step\d*|iter\d*|k|q|key|query)(?:$|[_\-. ])"
)


@record
class Choice:
    """A model that is taken: ``name`` tells outputs apart ("" for the only one), ``stripped`` is the wrapper's prefix, if any."""

    name: str
    path: str
    kind: str
    why: str
    state_dict: StateDict
    stripped: str | None = None
    notes: list[str] = made(factory=list)
    node: Any = None


@record
class Dropped:
    """A part of the checkpoint outside the chosen model."""

    path: str
    tensors: int
    nbytes: int
    summary: str


def choose(checkpoint: Checkpoint, *, select: str | None = None, ema: bool = False, strip: bool = True) -> list[Choice]:
    """The model, or the models. Raises `AmbiguousCheckpoint` where candidates are copies of one model, `UnknownFormat` where none is."""
    found = candidates(checkpoint)
    if select is not None:
        picked = [c for c in found if c.path == select.strip(".")] or [_at(checkpoint, select, found)]
    else:
        if not found:
            raise UnknownFormat(*_nothing(checkpoint))
        picked = _pick(found, ema)
    names = _names([c.path for c in picked])
    return [_choice(candidate, name, found, strip) for candidate, name in zip(picked, names, strict=True)]


def _nothing(checkpoint: Checkpoint) -> tuple[str]:
    tree = checkpoint.tree
    if is_optimizer(tree):
        return ("holds the state of an optimizer and no model",)
    name = tree.name if type(tree) is Record else type(tree).__name__
    what = f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
    for path, node in checkpoint.tensors():
        place = ".".join(str(key) if isinstance(key, (str, int)) else type(key).__name__ for key in path)
        return (
            f"holds {what} with tensors, but none of them is a model's (first: {place!r:.120}, {node.dtype.name} {list(node.shape)})",
        )
    return (f"holds {what} and no tensor: there are no weights in it",)


def _pick(found: list[Candidate], ema: bool) -> list[Candidate]:
    averaged, plain = [c for c in found if c.role == "ema"], [c for c in found if c.role == "model"]
    if ema:
        if not averaged:
            raise UsageError("--ema: no EMA copy is in the file", hint=f"candidates: {_listed(found)}")
        picked = averaged
    else:
        picked = plain or averaged
    picked = _distinct(picked)
    if len(picked) > 1:
        copies = [c for c in picked if _COPY.search(c.path.lower())]
        signatures = {_signature(c) for c in picked}
        if copies and len(signatures) < len(picked):
            raise AmbiguousCheckpoint(
                f"holds {len(picked)} candidates for the model, copies of one another: {_listed(picked)}",
                hint=f"choose one with --select {picked[0].path or '.'}",
            )
    return picked


def _distinct(picked: list[Candidate]) -> list[Candidate]:
    """``picked`` without those that name the very same tensors as an earlier one: a module saved beside its own state dict."""
    if len(picked) < 2:
        return picked
    first: dict[Any, Candidate] = {}
    for candidate in picked:
        tensors = _state_dict(candidate, []).tensors
        kept = first.setdefault(frozenset((name, identity(tensor)) for name, tensor in tensors.items()), candidate)
        if kept is not candidate:
            kept.why += f"; {candidate.path} holds the very same tensors"
    return list(first.values())


def _signature(candidate: Candidate) -> tuple[tuple[str, tuple[int, ...]], ...]:
    tensors = _state_dict(candidate, []).tensors
    return tuple(sorted((name, t.shape) for name, t in tensors.items()))


def _listed(found: list[Candidate]) -> str:
    return ", ".join(f"{c.path or '.'} ({c.tensors} tensors)" for c in found[:12]) + (" …" if len(found) > 12 else "")


def _at(checkpoint: Checkpoint, select: str, found: list[Candidate]) -> Candidate:
    wanted = select.strip(".")
    stack: list[tuple[str, Any]] = [("", checkpoint.tree)]
    seen: set[int] = set()
    while stack:
        path, node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if path == wanted:
            tensors = _state_dict(Candidate(path, "module" if module_fields(node) else "", 0, 0, "", node), []).tensors
            if tensors:
                return Candidate(
                    path, "module" if module_fields(node) else "state dict", len(tensors), 0, "chosen by --select", node
                )
        if not wanted or wanted.startswith(path):
            stack.extend((join(path, k), c) for k, c in entries(node) if not isinstance(c, (str, int, float, bytes, type(None))))
    raise UsageError(f"--select {select}: no tensors are there", hint=f"candidates: {_listed(found)}" if found else None)


def _state_dict(candidate: Candidate, notes: list[str]) -> StateDict:
    if module_fields(candidate.node) is not None:
        return state_dict_of(candidate.node, notes)
    return flatten(candidate.node)


def _choice(candidate: Candidate, name: str, found: list[Candidate], strip: bool) -> Choice:
    notes: list[str] = []
    state_dict = _state_dict(candidate, notes)
    stripped = None
    if strip:
        state_dict, stripped = strip_wrappers(state_dict)
    why = candidate.why
    if len(found) == 1:
        why += ", the only candidate"
    return Choice(name, candidate.path, candidate.kind, why, state_dict, stripped, notes, candidate.node)


def _names(paths: list[str]) -> list[str]:
    """Short names that tell paths apart: the components that not all of them share."""
    if len(paths) == 1:
        return [""]
    split = [p.split(".") for p in paths]
    while all(len(s) > 1 for s in split) and len({s[-1] for s in split}) == 1:
        split = [s[:-1] for s in split]
    while all(len(s) > 1 for s in split) and len({s[0] for s in split}) == 1:
        split = [s[1:] for s in split]
    return [".".join(s) or "model" for s in split]


def dropped(checkpoint: Checkpoint, choices: list[Choice]) -> list[Dropped]:
    """What the choices leave behind, at the highest places that hold none of them, in file order."""
    chosen = {id(c.node) for c in choices}
    kept = {id(t) for c in choices for t in c.state_dict.tensors.values()}
    found: list[Dropped] = []
    stack: list[tuple[str, Any]] = [("", checkpoint.tree)]
    seen: set[int] = set()
    while stack:
        path, node = stack.pop()
        if id(node) in chosen or id(node) in seen:
            if id(node) in chosen and module_fields(node) is None:
                found.extend(_beside(path, node, kept))
            continue
        seen.add(id(node))
        holds = any(path == "" or c.path == path or c.path.startswith(f"{path}.") for c in choices) and not is_tensor(node)
        if holds and is_container(node):
            stack.extend(reversed([(join(path, key), child) for key, child in entries(node)]))
        else:
            found.append(_describe(path, node))
    return found


def _beside(path: str, node: Any, kept: set[int]) -> Iterator[Dropped]:
    """Values of a chosen mapping that are no tensors of the model."""
    if is_flat(node):
        return
    for key, child in entries(node):
        if not is_tensor(child) and not any(id(t) in kept for t in _tensors_below(child)):
            yield _describe(join(path, key), child)


def _tensors_below(node: Any) -> Iterator[AnyTensor]:
    for _, part in walk(node):
        if type(part) is TensorView or type(part) is CompositeTensor:
            yield part


def _describe(path: str, node: Any) -> Dropped:
    tensors = list(_tensors_below(node))
    nbytes = sum(t.nbytes for t in tensors)
    if is_optimizer(node):
        summary = "optimizer state"
    elif type(node) is Record:
        from formats.core.numpy_record import numpy_tensor

        array = numpy_tensor(node)
        summary = f"{node.name} {array.dtype.name} {list(array.shape)}" if array is not None else node.name
    elif isinstance(node, (dict, list, tuple, set, frozenset)):
        summary = f"{type(node).__name__ if type(node) is not Ordered else 'OrderedDict'} of {len(node)}"
    elif type(node) is Global:
        summary = node.text
    elif is_tensor(node):
        summary = f"tensor {node.dtype.name} {list(node.shape)}"
    else:
        text = repr(node) if not isinstance(node, int) or node.bit_length() < 4096 else "a long integer"
        summary = f"{type(node).__name__} {text:.60}"
    return Dropped(path, len(tensors), nbytes, summary)


__all__ = ["Candidate", "Choice", "Dropped", "candidates", "choose", "dropped"]
