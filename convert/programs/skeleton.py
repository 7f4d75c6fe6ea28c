"""A model without its weights: what an exporter needs of it are shapes, types and ties, and those a checkpoint tells without being read.

    with unfilled():
        program = build(spec, checkpoint, choice, lambda: outlines(choice), weightless=True)
    hollow = Skeleton.of(program.module, choice, prefix)

While a model is built its parameters go to the meta device as soon as they have names, so that none of their memory is touched; buffers
that the constructor computes stay what they are. What the checkpoint holds then becomes fake tensors, which torch.export traces as if
they were there. Raises `Unsupported` where something depends on values: such a model is exported with its weights.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from formats.core.errors import Unsupported
from formats.core.tensor import TensorView

if TYPE_CHECKING:
    from convert.select import Choice


@dataclass(frozen=True, slots=True)
class Skeleton:
    """``module`` holds fake tensors of ``mode`` for every key of ``views``, and real ones for what it computes itself."""

    module: Any
    mode: Any
    views: Mapping[str, TensorView]

    @classmethod
    def of(cls, module: Any, choice: Choice, prefix: str = "") -> Skeleton:
        """``module``, whose parameters are on the meta device, with fake tensors in their place. It is changed."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        views: dict[str, Any] = {key.removeprefix(prefix): view for key, view in choice.state_dict.tensors.items()}
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        names: dict[int, str] = {}
        for key, tensor in module.state_dict(keep_vars=True).items():
            if getattr(tensor, "is_meta", False):
                names.setdefault(id(tensor), key)
                view = views.get(key)
                if type(view) is not TensorView or view.shape != tuple(tensor.shape) or view.dtype.name != dtype_name(tensor):
                    raise Unsupported(f"weight {key!r:.120} is not in the file as the program has it")
        known: dict[int, Any] = {}
        for part in module.modules():
            for held in (part._parameters, part._buffers):
                for name, tensor in held.items():
                    if tensor is not None and tensor.is_meta:
                        if id(tensor) not in names:
                            raise Unsupported(f"{type(part).__name__}.{name} is in no state dict")
                        held[name] = known.setdefault(id(tensor), _fake(tensor, mode))
        own = module.state_dict(keep_vars=True)
        return cls(module, mode, {key: view for key, view in views.items() if key in own and is_fake(own[key])})

    def arguments(self, arrays: tuple[Any, ...]) -> tuple[Any, ...]:
        """Fake tensors like ``arrays``, the floating ones of the type that the model declares."""
        import torch

        from convert.parity.runners import declared

        made = []
        for array in arrays:
            tensor = torch.from_numpy(array)
            dtype = declared(self.module) if tensor.is_floating_point() else tensor.dtype
            with self.mode:
                made.append(torch.empty(tuple(tensor.shape), dtype=dtype))
        return tuple(made)

    def digest(self) -> dict[str, str]:
        """Digest by key of what the checkpoint holds: one pass over the weights, in pieces."""
        from convert.parity import digests

        known: dict[Any, str] = {}
        found = {}
        for key, view in self.views.items():
            where = view.window()
            if where not in known:
                known[where] = digests.of_view(view)
            found[key] = known[where]
        return found


@contextmanager
def unfilled() -> Iterator[None]:
    """Parameters that modules get inside the block are on the meta device; one object stays one."""
    import torch
    from torch.utils.weak import WeakIdKeyDictionary

    known: Any = WeakIdKeyDictionary()
    register = torch.nn.Module.register_parameter

    def registered(self: Any, name: str, param: Any) -> None:
        register(self, name, param)
        held = self._parameters.get(name)
        if held is None or held.is_meta or torch.nn.parameter.is_lazy(held):
            return
        if held not in known:
            known[held] = torch.nn.Parameter(held.detach().to("meta"), requires_grad=held.requires_grad)
        self._parameters[name] = known[held]

    torch.nn.Module.register_parameter = registered
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register


def outlines(choice: Choice) -> Mapping[str, Any]:
    """The model's weights as tensors of the meta device: shapes and types, no values."""
    found: Any = OrderedDict((key, outline(view)) for key, view in choice.state_dict.tensors.items())
    if choice.state_dict.versions and not choice.stripped:
        found._metadata = dict(choice.state_dict.versions)
    return dict(found) if not hasattr(found, "_metadata") else found


def outline(view: Any) -> Any:
    """A meta tensor of ``view``'s type and shape."""
    import torch

    if type(view) is not TensorView:
        raise Unsupported(f"a {getattr(view, 'kind', type(view).__name__)} tensor has no plain bytes to stream")
    dtype = getattr(torch, view.dtype.name, None)
    if dtype is None:
        raise Unsupported(f"torch {torch.__version__} has no dtype {view.dtype.name}")
    return torch.empty(view.shape, dtype=dtype, device="meta")


def emptied(module: Any, keys: Mapping[str, Any]) -> None:
    """Put the buffers that ``keys`` will fill on the meta device."""
    import torch

    known: dict[int, Any] = {}
    for path, part in module.named_modules():
        for name, tensor in part._buffers.items():
            key = f"{path}.{name}" if path else name
            if tensor is not None and not tensor.is_meta and key in keys and name not in part._non_persistent_buffers_set:
                part._buffers[name] = known.setdefault(id(tensor), torch.empty_like(tensor, device="meta"))


def check_loading(module: Any, state: Mapping[str, Any]) -> None:
    """Some modules change weights while they load them (those of older versions, mostly): not ``state``, or `Unsupported`."""
    own = [
        part for part in module.modules()
        if part._load_state_dict_pre_hooks or not type(part)._load_from_state_dict.__module__.startswith("torch.nn.")
    ]  # fmt: skip
    if not own:
        return
    twin = copy.deepcopy(module)
    twin.load_state_dict(state, strict=True, assign=True)
    for key, tensor in twin.state_dict(keep_vars=True).items():
        given = state[key]
        if tensor.untyped_storage()._cdata != given.untyped_storage()._cdata or tensor.stride() != given.stride():
            raise Unsupported(f"{key!r:.120} changes while {type(own[0]).__name__} loads it")


def dtype_name(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def is_fake(tensor: Any) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(tensor, FakeTensor)


def _fake(tensor: Any, mode: Any) -> Any:
    import torch

    with mode:
        made = torch.empty(tuple(tensor.shape), dtype=tensor.dtype)
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(made, requires_grad=tensor.requires_grad)
    return made
