"""Every architecture of torchvision and timm: its name, how it is built, and what it is when it is built on the meta device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import torchvision_cpu

LIBRARIES = ("torchvision", "timm")
# What a forward pass in eval mode does not depend on, or what its parameters already say.
_IGNORED = frozenset({
    "training", "drop_path_rate", "drop_prob", "drop_rate", "p", "inplace", "drop_block_rate", "momentum", "return_all", "feature_info",
    "grad_checkpointing", "aux_loss_weight", "scale_by_keep", "batch_first", "num_embeddings", "track_running_stats", "default_cfg",
    "pretrained_cfg", "drop", "attn_drop_rate", "transform_input", "dropout",
})  # fmt: skip


def names(library: str) -> list[str]:
    """Names of all architectures of ``library``, sorted."""
    torchvision_cpu.mend()
    if library == "torchvision":
        from torchvision.models import list_models

        return sorted(list_models())
    import timm

    return sorted(timm.list_models())


def build(library: str, name: str, *, classes: int | None = None, **arguments: Any) -> Any:
    """The model with freshly initialised weights; ``classes`` None keeps the library's own head (1000 classes for most)."""
    torchvision_cpu.mend()
    if classes is not None:
        arguments["num_classes"] = classes
    if library == "torchvision":
        from torchvision.models import get_model

        if name in ("googlenet", "inception_v3", "quantized_googlenet", "quantized_inception_v3"):
            arguments.setdefault("init_weights", False)
        if "rcnn" in name or name.startswith(("fcos", "retinanet", "ssd", "deeplab", "fcn", "lraspp")):
            arguments.setdefault("weights_backbone", None)
        if name.startswith("regnet"):  # their widths are computed with tensors, which the meta device does not do
            import torch

            with torch.device("cpu"):
                return get_model(name, weights=None, **arguments)
        return get_model(name, weights=None, **arguments)
    import timm

    return timm.create_model(name, pretrained=False, **arguments)


@contextmanager
def weightless() -> Iterator[None]:
    """Modules made inside have parameters and buffers on the meta device, whatever device they ask for; initialisers do nothing."""
    import torch
    from torch import nn

    register_parameter, register_buffer = nn.Module.register_parameter, nn.Module.register_buffer
    kept = {name: getattr(nn.init, name) for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")}

    def parameter(module: Any, name: str, value: Any) -> None:
        if value is not None and value.device.type != "meta":
            value = nn.Parameter(value.to("meta"), value.requires_grad)
        register_parameter(module, name, value)

    def buffer(module: Any, name: str, value: Any, persistent: bool = True) -> None:
        register_buffer(module, name, value if value is None else value.to("meta"), persistent)

    def untouched(tensor: Any, *_: Any, **__: Any) -> Any:
        return tensor

    nn.Module.register_parameter, nn.Module.register_buffer = parameter, buffer
    for name in kept:
        setattr(nn.init, name, untouched)
    try:
        with torch.device("meta"):
            yield
    finally:
        nn.Module.register_parameter, nn.Module.register_buffer = register_parameter, register_buffer
        for name, function in kept.items():
            setattr(nn.init, name, function)


def entries(model: Any) -> list[tuple[str, tuple[int, ...]]]:
    """(key, shape) of the state dict, in its order."""
    return [(key, tuple(value.shape)) for key, value in model.state_dict().items() if hasattr(value, "shape")]


def configuration(model: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """(module, class, scalar attributes) of every module: what a forward pass depends on and weights do not hold."""
    found = []
    for name, module in model.named_modules():
        facts = {
            key: scalar
            for key, value in vars(module).items()
            if not key.startswith("_") and key not in _IGNORED and (scalar := _scalar(value)) is not None
        }
        found.append((name, f"{type(module).__module__}.{type(module).__qualname__}", facts))
    return found


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (tuple, list)) and len(value) <= 8 and all(isinstance(item, (bool, int, float, str)) for item in value):
        return list(value)
    name = getattr(value, "__name__", None)  # an activation given as a function
    return name if callable(value) and isinstance(name, str) and not hasattr(value, "parameters") else None


def preprocessing(library: str, name: str, model: Any) -> dict[str, Any]:
    """Input size [C, H, W], mean and standard deviation per channel, interpolation and crop fraction of the default weights."""
    if library == "timm":
        config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
        facts = {key: config.get(key) for key in ("input_size", "mean", "std", "interpolation", "crop_pct", "fixed_input_size")}
        facts["weights"] = config.get("tag") or None
    else:
        from torchvision.models import get_model_weights

        weights = list(get_model_weights(name))
        if not weights:
            return {}
        transforms = weights[0].transforms()
        facts = {"mean": getattr(transforms, "mean", None), "std": getattr(transforms, "std", None)}
        crop, resize = getattr(transforms, "crop_size", None), getattr(transforms, "resize_size", None)
        if crop and isinstance(crop, (list, tuple)):
            size = list(crop) if len(crop) > 1 else [crop[0], crop[0]]
            facts["input_size"] = [3, *size]
            if resize and isinstance(resize, (list, tuple)) and len(crop) == 1:
                facts["crop_pct"] = round(crop[0] / resize[0], 4)
        interpolation = getattr(transforms, "interpolation", None)
        facts["interpolation"] = getattr(interpolation, "value", None)
        facts["weights"] = weights[0].name
    return {key: list(value) if isinstance(value, tuple) else value for key, value in facts.items() if value is not None}
