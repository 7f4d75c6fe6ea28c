"""A whole model (``torch.save(model)``) put together again from its records: no pickle is run.

Each module is made with ``cls.__new__`` and given a ``__dict__`` of vetted values: scalars, text, containers, tensors, sizes, enums,
modules, and the functions and classes of `convert.programs.classes`. Hooks are dropped. What today's class has and the file lacks
comes from a fresh instance, built with the arguments that the file's attributes give.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from convert.arrays import torch_tensor
from convert.modules import module_fields
from convert.programs.classes import Classes
from formats.core.checkpoint import Global, Record
from formats.core.errors import LimitExceeded, Unsupported
from formats.core.tensor import CompositeTensor, TensorView

if TYPE_CHECKING:
    import torch

MAX_DEPTH = 200
_WRAPPERS = ("torch.nn.parallel.data_parallel.DataParallel", "torch.nn.parallel.distributed.DistributedDataParallel")
_DROPPED = frozenset({
    "_backend", "_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs", "_state_dict_hooks", "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_is_full_backward_hook", "_compiled_call_impl", "dump_patches",
})  # fmt: skip
_PARTS = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
_MISSING = object()


class Whole:
    """One rebuilding: tensors and modules that are one object in the file are one object again. ``notes`` say what was left out."""

    def __init__(self, classes: Classes, tensor: Callable[[Any], Any] = torch_tensor) -> None:
        self.classes = classes
        self.tensor = tensor
        self.notes: list[str] = []
        self.name = ""  # of the class, once rebuilt
        self._tensors: dict[int, Any] = {}
        self._modules: dict[int, Any] = {}

    def rebuild(self, node: Record) -> torch.nn.Module:
        """The module that ``node`` describes, in eval mode; DataParallel is taken off."""
        seen = 0
        while node.name in _WRAPPERS:
            inner = (module_fields(node) or {}).get("_modules", {}).get("module")
            seen += 1
            if type(inner) is not Record or seen > 8:
                raise Unsupported(f"{node.name} without the module that it wraps")
            node = inner
        self.name = node.name
        return self._module(node, 0, "").eval()

    def _module(self, node: Any, depth: int, path: str) -> Any:
        if depth > MAX_DEPTH:
            raise LimitExceeded(f"whole model nested deeper than {MAX_DEPTH} modules")
        fields = module_fields(node)
        if fields is None:
            raise Unsupported(f"whole model whose part {path or 'the root'} is a {type(node).__name__}, no module")
        if id(node) in self._modules:
            return self._modules[id(node)]
        import torch

        cls: Any = self.classes.module(node.name)
        made: Any = cls.__new__(cls)
        self._modules[id(node)] = made
        state = dict(vars(torch.nn.Module()))
        # In the file's order of children: forward passes of Sequential, and state_dict(), depend on it.
        state["_parameters"] = {name: self._parameter(value) for name, value in fields["_parameters"].items()}
        buffers = fields.get("_buffers")
        state["_buffers"] = {name: self._tensor(value) for name, value in buffers.items()} if isinstance(buffers, dict) else {}
        hidden = fields.get("_non_persistent_buffers_set")
        state["_non_persistent_buffers_set"] = {name for name in hidden or () if isinstance(name, str)}
        state["_modules"] = {
            name: None if child is None else self._module(child, depth + 1, f"{path}.{name}".strip("."))
            for name, child in fields["_modules"].items()
        }
        self._attributes(cls, fields, state, depth, path)
        made.__setstate__(state)
        self._defaults(cls, made, fields)
        return made

    def _attributes(self, cls: type, fields: dict[Any, Any], state: dict[str, Any], depth: int, path: str) -> None:
        for name, value in fields.items():
            if name in _PARTS or name in _DROPPED:
                continue
            if not isinstance(name, str) or not name.isidentifier() or (name.startswith("__") and name.endswith("__")):
                raise Unsupported(f"whole model with an attribute named {name!r:.60} in {path or 'the root'}")
            vetted = self._value(value, depth)
            if vetted is _MISSING:
                self.notes.append(f"attribute {name} of {path or 'the model'} left out: a {_name(value)}")
            elif callable(vetted) and inspect.isroutine(getattr(cls, name, None)):
                raise Unsupported(f"whole model whose {path or 'root'} replaces its method {name}")
            else:
                state[name] = vetted

    def _defaults(self, cls: type, made: Any, fields: dict[Any, Any]) -> None:
        """Attributes that the class has gained since the file was written."""
        known = vars(made)
        if set(fields) >= set(known) - set(_PARTS) - _DROPPED and not _lacks(cls, known):
            return
        fresh = _fresh(cls, known)
        for name, value in vars(fresh).items() if fresh is not None else ():
            if name not in known and name not in _PARTS:
                known[name] = value

    def _parameter(self, value: Any) -> Any:
        import torch

        tensor = self._tensor(value)
        if tensor is None or isinstance(tensor, torch.nn.Parameter):
            return tensor
        parameter = torch.nn.Parameter(tensor, requires_grad=tensor.is_floating_point() and bool(value.requires_grad))
        self._tensors[id(value)] = parameter
        return parameter

    def _tensor(self, value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, (TensorView, CompositeTensor)):
            raise Unsupported(f"whole model with a {_name(value)} where a tensor belongs")
        if id(value) not in self._tensors:
            self._tensors[id(value)] = self.tensor(value)
        return self._tensors[id(value)]

    def _value(self, value: Any, depth: int) -> Any:
        """``value`` with what it describes in place of records; `_MISSING` where it may not be had."""
        if depth > MAX_DEPTH:
            raise LimitExceeded(f"attribute of a whole model nested deeper than {MAX_DEPTH}")
        if value is None or type(value) in (bool, int, float, complex, str, bytes):
            return value
        if isinstance(value, str):
            return str(value)
        if isinstance(value, (TensorView, CompositeTensor)):
            return self._tensor(value)
        if isinstance(value, dict):
            pairs = [(self._value(key, depth + 1), self._value(child, depth + 1)) for key, child in value.items()]
            return _MISSING if any(_MISSING in pair for pair in map(_Identity, pairs)) else dict(pairs)
        if isinstance(value, (list, tuple, set, frozenset)):
            items = [self._value(child, depth + 1) for child in value]
            plain = next(kind for kind in (list, tuple, set, frozenset) if isinstance(value, kind))
            return _MISSING if any(item is _MISSING for item in items) else plain(items)
        if isinstance(value, Global):
            found = self.classes.value(value.text)
            return _MISSING if found is None else found
        return self._record(value, depth) if type(value) is Record else _MISSING

    def _record(self, node: Record, depth: int) -> Any:
        if module_fields(node) is not None:
            return self._module(node, depth + 1, "")
        import torch

        arguments = self._value(node.args, depth + 1)
        if arguments is _MISSING:
            return _MISSING
        if node.name == "torch.Size" and len(arguments) == 1:
            return torch.Size(arguments[0])
        if node.name == "torch.device":
            return torch.device("cpu")
        found = self.classes.value(node.name)
        import enum

        if isinstance(found, type) and issubclass(found, enum.Enum) and len(arguments) == 1:
            return found(arguments[0])
        if node.name == "functools.partial" and isinstance(node.state, tuple) and len(node.state) == 4:
            return self._partial(node.state, depth)
        return _MISSING

    def _partial(self, state: tuple[Any, ...], depth: int) -> Any:
        from functools import partial

        function, arguments, keywords, _ = (self._value(part, depth + 1) for part in state)
        if not callable(function) or not isinstance(arguments, tuple) or not isinstance(keywords, dict):
            return _MISSING
        return partial(function, *arguments, **keywords)


class _Identity:
    """``in`` by identity: tensors compare by value."""

    def __init__(self, pair: tuple[Any, Any]) -> None:
        self._pair = pair

    def __contains__(self, wanted: object) -> bool:
        return any(item is wanted for item in self._pair)


def _name(value: Any) -> str:
    return value.name if type(value) is Record else value.text if isinstance(value, Global) else type(value).__name__


def _lacks(cls: type, known: dict[str, Any]) -> bool:
    """Whether the class declares attributes that the instance has not."""
    declared = {name for base in cls.__mro__ for name in vars(base).get("__annotations__", {})}
    constants = {name for base in cls.__mro__ for name in vars(base).get("__constants__", ()) or ()}
    return bool(
        {
            name
            for name in declared | constants
            if not hasattr(cls, name) and name not in known and name not in known["_parameters"]
        }
    )


def _fresh(cls: type, known: dict[str, Any]) -> Any:
    """A new instance on the meta device whose arguments are the attributes of the same names; None where that does not work."""
    import torch

    arguments = {}
    for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[1:]:  # type: ignore[misc]
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name in known:
            arguments[name] = known[name]
        elif name == "bias" and "bias" in known["_parameters"]:
            arguments[name] = known["_parameters"]["bias"] is not None
        elif parameter.default is parameter.empty:
            return None
    try:
        with torch.device("meta"):
            return cls(**arguments)
    except Exception:  # whatever a constructor raises: its defaults are then not to be had
        return None
