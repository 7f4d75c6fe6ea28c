"""What weights do not say: eps, stride, padding, activation. Recorded module by module, and compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SKIPPED = frozenset({"training", "call_super_init", "dump_patches", "_is_full_backward_hook", "num_batches_tracked"})
MOST = 2_000  # modules recorded


def of(module: Any) -> dict[str, dict[str, Any]]:
    """Settings of every module by dotted name: its class, and its plain attributes (numbers, text, tuples of them, functions by name)."""
    found: dict[str, dict[str, Any]] = {}
    for name, child in module.named_modules():
        if len(found) >= MOST:
            break
        settings: dict[str, Any] = {"class": f"{type(child).__module__}.{type(child).__qualname__}"}
        for attribute, value in vars(child).items():
            if attribute in _SKIPPED or attribute.startswith("_"):
                continue
            plain = _plain(value)
            if plain is not None:
                settings[attribute] = plain
        found[name] = settings
    return found


def differences(source: Mapping[str, Mapping[str, Any]], output: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What differs, a line each: ``layer1.0.bn1.eps: 1e-05, 0.001 in the output``."""
    lines = []
    for name in dict.fromkeys((*source, *output)):
        ours, theirs = source.get(name), output.get(name)
        if ours is None or theirs is None:
            lines.append(f"{name or 'the model'}: {'not in the source' if ours is None else 'not in the output'}")
            continue
        for attribute in dict.fromkeys((*ours, *theirs)):
            if ours.get(attribute) != theirs.get(attribute):
                place = f"{name}.{attribute}" if name else attribute
                lines.append(f"{place}: {ours.get(attribute)!r:.60}, {theirs.get(attribute)!r:.60} in the output")
    return lines


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value[:200] if isinstance(value, str) else value
    if isinstance(value, (tuple, list)) and len(value) <= 16:
        parts = [_plain(part) for part in value]
        return None if any(part is None and original is not None for part, original in zip(parts, value, strict=True)) else parts
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{getattr(value, '__module__', '')}.{value.__qualname__}"
    return str(value) if type(value).__module__ == "torch" and type(value).__name__ in ("dtype", "Size") else None


def of_onnx(graph: Any, module: Any) -> list[str]:
    """Where the operators that read a module's weights have other settings than the module; a line each.

    ``graph`` is an ``onnx.GraphProto`` whose initializers carry their state dict's keys. Convolutions, normalisations with an epsilon.
    """
    modules = dict(module.named_modules())
    lines = []
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "BatchNormalization", "LayerNormalization"):
            continue
        owner = next((modules.get(key.rpartition(".")[0]) for key in list(node.input)[1:2] if "." in key or key in modules), None)
        if owner is None:
            continue
        name = node.input[1].rpartition(".")[0]
        given = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type in ("BatchNormalization", "LayerNormalization"):
            expected = getattr(owner, "eps", None)
            got = given["epsilon"].f if "epsilon" in given else 1e-5
            if isinstance(expected, float) and abs(got - expected) > 1e-6 * expected:
                lines.append(f"{name}.eps: {expected!r}, {got:.6g} in the output")
            continue
        for attribute, field, default in (("strides", "stride", 1), ("dilations", "dilation", 1)):
            expected = getattr(owner, field, None)
            if not isinstance(expected, tuple):
                continue
            got_list = list(given[attribute].ints) if attribute in given else [default] * len(expected)
            if got_list != list(expected):
                lines.append(f"{name}.{field}: {list(expected)}, {got_list} in the output")
        groups = given["group"].i if "group" in given else 1
        if isinstance(getattr(owner, "groups", None), int) and groups != owner.groups:
            lines.append(f"{name}.groups: {owner.groups}, {groups} in the output")
    return lines
