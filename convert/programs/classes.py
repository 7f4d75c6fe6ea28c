"""Which classes of a whole pickled model may be taken from installed packages, and what they are called today.

A name of the file is looked up only if it is on this list, and only in the packages of this list: ``torch.nn``, torchvision, timm. The
class must be one that its package defines. Nothing is called but ``__new__`` and the ``__setstate__`` that torch itself would call.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

from formats.core.errors import Unsupported

ALLOWED = (
    "torch.nn.modules.",
    "torch.nn.parallel.data_parallel.",
    "torchvision.models.",
    "torchvision.ops.",
    "timm.models.",
    "timm.layers.",
)
FUNCTIONS = (
    "torch.nn.functional.",
    "torch._C._nn.",
    "torch.relu",
    "torch.tanh",
    "torch.sigmoid",
    "torch.softmax",
    "torch.flatten",
)
# Old name → new name; a name that ends in a dot stands for everything below it.
ALIASES: dict[str, str] = {
    "torch.nn.modules.linear._LinearWithBias": "torch.nn.modules.linear.NonDynamicallyQuantizableLinear",
    "torch.nn.modules.normalization.CrossMapLRN2d": "torch.nn.modules._functions.CrossMapLRN2d",
    "torchvision.models.mobilenet.ConvBNReLU": "torchvision.ops.misc.Conv2dNormActivation",
    "torchvision.models.mobilenetv2.ConvBNReLU": "torchvision.ops.misc.Conv2dNormActivation",
    "torchvision.models.mobilenetv2.ConvBNActivation": "torchvision.ops.misc.Conv2dNormActivation",
    "torchvision.models.mobilenetv3.ConvBNActivation": "torchvision.ops.misc.Conv2dNormActivation",
    "torchvision.ops.misc.ConvNormActivation": "torchvision.ops.misc.Conv2dNormActivation",
    "torchvision.models.mobilenetv3.SqueezeExcitation": "torchvision.ops.misc.SqueezeExcitation",
    "torchvision.models.efficientnet.SqueezeExcitation": "torchvision.ops.misc.SqueezeExcitation",
    "torchvision.models.mobilenet.": "torchvision.models.mobilenetv2.",
    "torchvision.models.segmentation.segmentation.": "torchvision.models.segmentation._utils.",
    "timm.models.layers.": "timm.layers.",
    "timm.models.efficientnet_blocks.": "timm.models._efficientnet_blocks.",
    "timm.models.features.": "timm.models._features.",
}


class Classes:
    """Names of a file, resolved: the user's own classes first (by their last name), then the allow-list."""

    def __init__(self, own: Mapping[str, type] | None = None, where: str = "") -> None:
        self._own = dict(own or {})
        self._where = where
        self._found: dict[str, type] = {}

    def module(self, name: str) -> type:
        """The `torch.nn.Module` class that ``name`` says. Raises `Unsupported`, naming it, where it may not or cannot be had."""
        import torch

        found = self._found.get(name)
        if found is None:
            found = self._look_up(name)
            if not issubclass(found, torch.nn.Module):
                raise Unsupported(f"class {name} is no torch.nn.Module here")
            self._found[name] = found
        return found

    def _look_up(self, name: str) -> type:
        last = name.rpartition(".")[2]
        if last in self._own and not name.startswith("torch."):
            return self._own[last]
        for candidate in dict.fromkeys((name, renamed(name))):
            value = _attribute(candidate)
            if isinstance(value, type):
                return value
        if name.startswith(ALLOWED):
            raise Unsupported(f"whole model of class {name}, which the installed packages do not have")
        missing = f", and {self._where} has none of that name" if self._where else ""
        raise Unsupported(
            f"whole model needs the class {name}, which is not of torch.nn, torchvision or timm{missing}",
            hint=f"--arch FILE.py, where FILE.py defines class {last}",
        )

    def value(self, name: str) -> Any:
        """A function or class that an attribute may hold, None where ``name`` is not one: activations, enums."""
        import torch

        if name.startswith("torch.") and name.count(".") == 1:
            plain = getattr(torch, name[6:], None)
            if isinstance(plain, (torch.dtype, torch.layout, torch.memory_format)):
                return plain
        if name.startswith(FUNCTIONS):
            return _function(name)
        value = _attribute(renamed(name)) if name.startswith(ALLOWED) else self._own.get(name.rpartition(".")[2])
        if isinstance(value, type) and (issubclass(value, (torch.nn.Module, enum.Enum))):
            return value
        return value if isinstance(value, FunctionType) and name.startswith(("timm.layers.", "torchvision.ops.")) else None


def renamed(name: str) -> str:
    """Today's name of what older releases called ``name``."""
    if name in ALIASES:
        return ALIASES[name]
    for old, new in ALIASES.items():
        if old.endswith(".") and name.startswith(old):
            return renamed(new + name[len(old) :]) if new + name[len(old) :] in ALIASES else new + name[len(old) :]
    return name


def _attribute(name: str) -> Any:
    """What ``name`` is in an allowed package; None where there is no such thing."""
    if not name.startswith(ALLOWED):
        return None
    import importlib
    import sys

    place, _, last = name.rpartition(".")
    if not all(part.isidentifier() for part in name.split(".")) or last.startswith("__"):
        return None
    package = place.partition(".")[0]
    if package != "torch":
        from convert.programs.arch import imported

        imported(package)
    try:
        module = sys.modules.get(place) or importlib.import_module(place)  # noqa: TID251  below an allowed package
    except ImportError:
        return None
    value = getattr(module, last, None)
    # What a package merely imported for itself is not its own.
    defined = getattr(value, "__module__", None) or ""
    return value if defined.partition(".")[0] in ("torch", "torchvision", "timm") else None


def _function(name: str) -> Any:
    import torch

    place, _, last = name.rpartition(".")
    if last.startswith("_"):
        return None
    spaces = {"torch.nn.functional": torch.nn.functional, "torch._C._nn": torch._C._nn, "torch": torch}
    value = getattr(spaces.get(place), last, None)
    return value if isinstance(value, (FunctionType, BuiltinFunctionType)) else None
