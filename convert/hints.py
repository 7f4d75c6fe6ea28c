"""What a checkpoint says about its own architecture, as text: ``args.arch``, hyper-parameters, metadata, the class of a whole model.

A hint is only ever compared with names of the shipped table; nothing is imported or built because of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from convert.modules import module_fields
from formats.core.checkpoint import Checkpoint, Global, Record
from formats.core.tensor import CompositeTensor, TensorView

_KEYS = frozenset({
    "arch", "architecture", "architectures", "model", "model_name", "model_type", "modelname", "net", "network", "backbone", "encoder",
    "backbone_name", "encoder_name", "base_model", "base_encoder", "name", "hf_hub_id", "source", "net_type", "model_arch", "_target_",
})  # fmt: skip
FILE_NAME = "file name"
MAX_NODES = 20_000


def hints(checkpoint: Checkpoint) -> dict[str, str]:
    """{where it stands: what it says}, the file's name last. Bounded: at most `MAX_NODES` values are looked at."""
    found: dict[str, str] = {}
    for path, value in _texts(checkpoint.tree):
        found.setdefault(path, value)
    for key, value in _flat(checkpoint.metadata):
        if key.rpartition(".")[2].lower() in _KEYS:
            found.setdefault(f"metadata {key}", value)
    found[FILE_NAME] = PurePath(checkpoint.path).name
    return found


def _flat(metadata: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    for key, value in metadata.items():
        if isinstance(value, str) and len(value) < 200:
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping) and depth < 3:
            yield from _flat(value, f"{prefix}{key}.", depth + 1)


def _texts(tree: Any) -> Iterator[tuple[str, str]]:
    stack: list[tuple[str, Any]] = [("", tree)]
    seen: set[int] = set()
    visited = 0
    while stack and visited < MAX_NODES:
        path, node = stack.pop()
        if id(node) in seen or isinstance(node, (TensorView, CompositeTensor)):
            continue
        seen.add(id(node))
        if type(node) is Record:
            yield from _record(path, node)
            if module_fields(node) is not None:
                continue
        below: list[tuple[str, Any]] = []
        for key, child in _named(node):
            visited += 1
            name = f"{path}.{key}" if path else str(key)
            if isinstance(child, str):
                if str(key).lower() in _KEYS and 0 < len(child) < 200:
                    yield name, child
            elif isinstance(child, (dict, list, tuple, Record)) and len(path) < 300:
                below.append((name, child))
        stack.extend(reversed(below))


def _named(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, dict):
        yield from ((key, child) for key, child in node.items() if isinstance(key, str))
    elif isinstance(node, (list, tuple)):
        yield from enumerate(node[:64])
    elif type(node) is Record:
        yield from ((key, child) for key, child in node.fields.items() if isinstance(key, str))
        yield from ((key, child) for key, child in (node.entries or {}).items() if isinstance(key, str))


def _record(path: str, node: Record) -> Iterator[tuple[str, str]]:
    """The class of a whole model: ``torchvision.models.resnet.ResNet`` says which library; timm keeps the name in its config."""
    if isinstance(node.callable, Global) and module_fields(node) is not None:
        yield f"class of {path or 'the model'}", node.name
        config = node.fields.get("pretrained_cfg") or node.fields.get("default_cfg")
        if isinstance(config, dict) and isinstance(config.get("architecture"), str):
            yield f"{path or 'the model'}.pretrained_cfg.architecture", config["architecture"]


def normalised(text: str) -> str:
    """``TF-EfficientNet_B0.ns_jft`` → ``tf_efficientnet_b0``: case, separators and a timm tag do not count."""
    text = text.strip().lower().removeprefix("hf-hub:").removeprefix("hf_hub:").removeprefix("timm/").removeprefix("timm:")
    text = text.removeprefix("torchvision:").removeprefix("torchvision.models.").partition(".")[0]
    return re.sub(r"[^a-z0-9]+", "_", text).strip("_")


def library(text: str) -> str | None:
    """The library that a hint names, by a class's module or a prefix."""
    low = text.strip().lower()
    for name in ("torchvision", "timm"):
        if low.startswith((f"{name}.", f"{name}:", f"{name}/", f"hf-hub:{name}/", f"hf_hub:{name}/")):
            return name
    return None
