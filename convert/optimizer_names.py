"""Which parameter an optimizer's state belongs to. Optimizers count parameters, or name them by ``id(p)``: names are in the model alone.

Three things prove a name: the optimizer says it (``param_names``, torch ≥ 2.6), it holds the parameter itself (optimizers pickled as
objects), or the state has the shape of one parameter alone. What only the order speaks for is said apart, as presumed: parameters
of equal shape may have been given in any order. Nothing is said where count or shapes disagree in the order of the model, or fit two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from convert.candidates import is_optimizer
from formats.core.checkpoint import Record, StateDict, walk
from formats.core.tensor import AnyTensor, CompositeTensor, TensorView
from formats.core.ties import tied

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
# State whose shape is another than the parameter's, or one that says nothing (torch.optim, and Adafactor's factors).
_OTHER_SHAPES = frozenset({"step", "exp_avg_sq_row", "exp_avg_sq_col", "rms", "mu", "row_var", "col_var", "func_evals", "n_iter"})


@dataclass(slots=True)
class Names:
    """Of the optimizer at the dotted ``path``: {position: key} that is ``proved``, and ``presumed`` where all goes by the order."""

    path: str
    positions: int
    proved: dict[int, str] = field(default_factory=dict)
    presumed: dict[int, str] = field(default_factory=dict)
    proved_by: str | None = None
    presumed_by: str | None = None

    def document(self) -> dict[str, Any]:
        said: dict[str, Any] = {"path": self.path, "positions": self.positions}
        if self.proved:
            said |= {"parameters": {str(at): key for at, key in self.proved.items()}, "proved_by": self.proved_by}
        if self.presumed:
            said |= {"presumed": {str(at): key for at, key in self.presumed.items()}, "presumed_by": self.presumed_by}
        return said

    def text(self) -> str:
        if not (self.proved or self.presumed):
            return f"{self.positions:,} parameters, whose names nothing tells"
        parts = [f"{len(self.proved):,} named for certain ({self.proved_by})"] if self.proved else []
        parts += [f"{len(self.presumed):,} presumed ({self.presumed_by})"] if self.presumed else []
        return f"{self.positions:,} parameters: " + ", ".join(parts)


def named(tree: Any, models: Iterable[StateDict]) -> list[Names]:
    """One entry for each optimizer of ``tree``, its parameters named from ``models``."""
    known = [parameters(model.tensors) for model in models]
    return [_named(".".join(map(str, path)), *groups, known) for path, groups in _optimizers(tree)]


def parameters(tensors: Mapping[str, AnyTensor]) -> dict[str, AnyTensor]:
    """The model's parameters in its order: a state dict's floating tensors less the buffers, tied ones once."""
    ties = tied(tensors)
    return {
        key: tensor
        for key, tensor in tensors.items()
        if key not in ties and key.rpartition(".")[2] not in BUFFERS and tensor.dtype.kind in ("float", "complex")
    }


def _optimizers(tree: Any) -> Iterable[tuple[tuple[Any, ...], tuple[list[Any], Mapping[Any, Any]]]]:
    for path, node in walk(tree):
        if not is_optimizer(node):
            continue
        held = node.fields if type(node) is Record else node
        groups, state = held.get("param_groups"), held.get("state")
        if type(state) is Record:  # a defaultdict
            state = state.entries or {}
        if isinstance(groups, list) and all(isinstance(g, dict) and isinstance(g.get("params"), list) for g in groups):
            yield path, (groups, state if isinstance(state, dict) else {})


def _named(path: str, groups: list[Any], state: Mapping[Any, Any], models: list[dict[str, AnyTensor]]) -> Names:
    members = [member for group in groups for member in group["params"]]
    found = Names(path, len(members))
    said = [name for group in groups for name in (group.get("param_names") or ())]
    if members and len(said) == len(members) and all(isinstance(name, str) for name in said):
        found.proved, found.proved_by = dict(enumerate(said)), "the optimizer's own param_names"
        return found
    held = [member for member in members if isinstance(member, (TensorView, CompositeTensor))]
    if held and len(held) == len(members):
        _by_identity(held, models, found)
        return found
    shapes = [_shape(state.get(member) if _hashable(member) else None) for member in members]
    fitting = [(model, order, rule) for model in models for order, rule in _orders(model, groups) if _fits(model, order, shapes)]
    distinct = {tuple(order) for _, order, _ in fitting}
    if len(distinct) == 1 and any(shape is not None for shape in shapes):
        _by_shape(*fitting[0], shapes, found)
    return found


def _by_identity(held: list[AnyTensor], models: list[dict[str, AnyTensor]], found: Names) -> None:
    """Parameters that are the model's own tensors."""
    by_window = {_identity(tensor): key for model in models for key, tensor in reversed(list(model.items()))}
    found.proved = {at: by_window[_identity(t)] for at, t in enumerate(held) if _identity(t) in by_window}
    found.proved_by = "the optimizer holds the parameters themselves" if found.proved else None


def _identity(tensor: AnyTensor) -> Any:
    return tensor.window() if isinstance(tensor, TensorView) else id(tensor)


def _by_shape(model: dict[str, AnyTensor], order: list[str], rule: str, shapes: list[Any], found: Names) -> None:
    times: dict[tuple[int, ...], int] = {}
    for tensor in model.values():
        times[tensor.shape] = times.get(tensor.shape, 0) + 1
    for at, key in enumerate(order):
        if shapes[at] is not None and times[model[key].shape] == 1:
            found.proved[at] = key
        else:
            found.presumed[at] = key
    found.proved_by = "no other parameter has the shape" if found.proved else None
    found.presumed_by = f"{rule}; every shape that the state has agrees" if found.presumed else None


def _hashable(member: Any) -> bool:
    return isinstance(member, (int, str))


def _shape(state: Any) -> tuple[int, ...] | bool | None:
    """The shape that the parameter must have; None where no state tells, False where the state contradicts itself."""
    shapes = {
        value.shape
        for name, value in (state.items() if isinstance(state, dict) else ())
        if isinstance(value, TensorView) and name not in _OTHER_SHAPES
    }
    return None if not shapes else shapes.pop() if len(shapes) == 1 else False


def _fits(model: dict[str, AnyTensor], order: list[str], shapes: list[Any]) -> bool:
    return len(order) == len(shapes) and all(
        shape is None or shape == model[key].shape for key, shape in zip(order, shapes, strict=True)
    )


def _orders(model: dict[str, AnyTensor], groups: list[Any]) -> Iterable[tuple[list[str], str]]:
    """Orders that training code uses: the model's own, or two groups with and without weight decay."""
    keys = list(model)
    if len(groups) == 1:
        yield keys, "the order of the model"
        return
    if len(groups) != 2:
        return
    sizes = [len(group["params"]) for group in groups]
    rules = {
        "biases apart": [key for key in keys if key.rpartition(".")[2] == "bias"],
        "vectors apart": [key for key in keys if len(model[key].shape) <= 1],
    }
    for rule, apart in rules.items():
        others = [key for key in keys if key not in set(apart)]
        for first, second in ((others, apart), (apart, others)):
            if [len(first), len(second)] == sizes:
                yield first + second, f"two groups, {rule}, each in the order of the model"
    if sum(sizes) == len(keys):
        yield keys, "the order of the model"
