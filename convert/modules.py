"""Whole models (``torch.save(model)``) as state dicts, from what the file says of each module; their classes are never needed.

`torch.nn.Module` keeps everything that ``state_dict()`` gives in three fields, ``_parameters``, ``_buffers`` and ``_modules``
(``Module._save_to_state_dict``, torch 0.1 to 2.13), so a record of a module spells its state dict.
"""

from __future__ import annotations

from formats.core.checkpoint import Ordered, Record, StateDict, children
from formats.core.errors import CorruptCheckpoint, LimitExceeded
from formats.core.tensor import CompositeTensor, TensorView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_KEYS = 2_000_000  # sub-modules shared many times over name their tensors exponentially often


def module_fields(node: Any) -> dict[Any, Any] | None:
    """The attributes of a module record, or None where ``node`` is no module."""
    if type(node) is not Record:
        return None
    fields = node.fields
    if not _is_module(fields):
        # torch.fx.GraphModule is written as a call with its attributes as the first argument.
        fields = node.args[0] if node.args and isinstance(node.args[0], dict) else {}
        if not _is_module(fields):
            return None
    return fields


def _is_module(fields: dict[Any, Any]) -> bool:
    return isinstance(fields.get("_modules"), dict) and isinstance(fields.get("_parameters"), dict)


def state_dict_of(node: Record, notes: list[str] | None = None) -> StateDict:
    """What ``state_dict()`` of the described module would hold, in its order, shared sub-modules under each of their names.

    ``_metadata`` is left out: versions are kept by the classes, not by the file, and a loader that finds none treats each module as
    old and fills in what it must (`BatchNorm`'s ``num_batches_tracked``).
    """
    tensors: dict[str, TensorView | CompositeTensor] = {}
    odd: list[str] = []
    # (prefix, module, whether its children are done): the second visit takes it off the path that detects cycles.
    stack: list[tuple[str, Any, bool]] = [("", node, False)]
    above: set[int] = set()
    while stack:
        prefix, module, leaving = stack.pop()
        if leaving:
            above.discard(id(module))
            continue
        fields = module_fields(module)
        if fields is None:
            odd.append(f"{prefix.rstrip('.')} ({type(module).__name__})")
            continue
        if id(module) in above:
            raise CorruptCheckpoint(f"module {prefix.rstrip('.')!r:.80} holds itself")
        above.add(id(module))
        stack.append((prefix, module, True))
        _own(fields, prefix, tensors, odd)
        if len(tensors) > MAX_KEYS or len(stack) > MAX_KEYS:
            raise LimitExceeded(f"whole model with more than {MAX_KEYS} keys")
        for name, child in reversed(fields["_modules"].items()):
            if child is not None:
                stack.append((f"{prefix}{_name(name)}.", child, False))
    if odd and notes is not None:
        shown = ", ".join(odd[:5]) + (" …" if len(odd) > 5 else "")
        notes.append(f"{len(odd)} entries of the model are no tensors: {shown}")
    return StateDict(tensors)


def _own(fields: dict[Any, Any], prefix: str, tensors: dict[str, Any], odd: list[str]) -> None:
    """The module's own parameters, then its persistent buffers."""
    hidden = fields.get("_non_persistent_buffers_set") or ()
    buffers = fields.get("_buffers")
    for group, skip in ((fields["_parameters"], ()), (buffers if isinstance(buffers, dict) else {}, hidden)):
        for name, value in group.items():
            if value is None or (isinstance(skip, (set, frozenset, list, tuple)) and name in skip):
                continue
            key = prefix + _name(name)
            if not isinstance(value, (TensorView, CompositeTensor)):
                odd.append(f"{key} ({value.name if type(value) is Record else type(value).__name__})")
            elif key in tensors and tensors[key] is not value:
                raise CorruptCheckpoint(f"module has two tensors named {key!r:.80}")
            else:
                tensors[key] = value


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise CorruptCheckpoint(f"module with a part named by a {type(name).__name__}")
    return name


def without_modules(tree: Any) -> tuple[Any, list[str]]:
    """``tree`` with every whole module replaced by its state dict, and the modules' classes; itself where it holds none.

    Containers around a module are copied, never changed; what stood in two places still does.
    """
    made: dict[int, Any] = {}
    names: list[str] = []
    kept: list[Any] = []  # ids are keys: nothing may be freed while they are
    stack: list[tuple[Any, bool]] = [(tree, False)]
    while stack:
        node, leaving = stack.pop()
        if leaving:
            _fill(node, made)
        elif id(node) not in made and isinstance(node, (dict, list, tuple, Record)):
            kept.append(node)
            if type(node) is Record and module_fields(node) is not None:
                state_dict = state_dict_of(node)
                made[id(node)] = Ordered(state_dict.tensors)
                names.append(node.name)
                continue
            made[id(node)] = _empty(node)
            stack.append((node, True))
            stack.extend((child, False) for _, child in reversed(list(children(node))))
    return (made.get(id(tree), tree), names) if names else (tree, names)


def _empty(node: Any) -> Any:
    """A container of the same type to be filled when all that it holds is known; a tuple is made whole then."""
    if type(node) is Record:
        return Record(node.callable)
    return node if type(node) is tuple else type(node)()


def _fill(node: Any, made: dict[int, Any]) -> None:
    def of(value: Any) -> Any:
        return made.get(id(value), value)

    copy = made[id(node)]
    if type(node) is tuple:
        made[id(node)] = tuple(of(value) for value in node)
    elif isinstance(node, list):
        copy.extend(of(value) for value in node)
    elif isinstance(node, dict):
        copy.update((of(key), of(value)) for key, value in node.items())
        if type(node) is Ordered and node.attributes is not None:
            copy.attributes = {key: of(value) for key, value in node.attributes.items()}
    else:
        for part in ("args", "kwargs", "state", "items", "entries"):
            setattr(copy, part, of(getattr(node, part)))
