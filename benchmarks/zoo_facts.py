"""What a model computes with that its weights do not hold, in few words: activation, eps, strides, padding, heads, preprocessing."""

from __future__ import annotations

from itertools import groupby
from typing import Any

Configuration = list[Any]  # [module, class, {attribute: value}] as benchmarks.zoo_models.configuration gives them

_ACTIVATIONS = ("torch.nn.modules.activation", "timm.layers.activations", "timm.layers.activations_me", "torchvision.ops.misc")
_ATTENTION = ("num_heads", "window_size", "shift_size", "patch_size", "img_size", "grid_size", "qk_scale", "area", "block_size")
_NORMS = ("Norm", "NormAct", "FilterResponse")


def facts(configuration: Configuration, preprocessing: dict[str, Any]) -> dict[str, Any]:
    """Short texts by topic; topics that a model does not have are absent."""
    activations: set[str] = set()
    norms: set[str] = set()
    pools: list[str] = []
    convolutions: set[str] = set()
    strides: list[str] = []
    paddings: list[str] = []
    dilations: list[str] = []
    attention: dict[str, list[str]] = {}
    for _, cls, attributes in configuration:
        module, _, name = cls.rpartition(".")
        if module in _ACTIVATIONS and name != "MultiheadAttention" and "Norm" not in name and "kernel_size" not in attributes:
            activations.add(name)
        for key in ("activation", "act", "act_fn", "act_layer"):
            if isinstance(attributes.get(key), str):
                activations.add(attributes[key])
        if "kernel_size" in attributes and "out_channels" in attributes:
            convolutions.add(name)
            strides.append(_brief(attributes.get("stride")))
            same = "same" in str(attributes.get("padding")) or name.endswith("Same")
            paddings.append("same" if same else _brief(attributes.get("padding")))
            dilations.append(_brief(attributes.get("dilation")))
        elif any(text in name for text in _NORMS) and "eps" in attributes:
            norms.add(f"{name}(eps={attributes['eps']:g})")
        elif "Pool" in name and "kernel_size" in attributes:
            options = {
                key: attributes[key] for key in ("stride", "padding", "ceil_mode", "count_include_pad") if attributes.get(key)
            }
            pools.append(
                f"{name}({', '.join([_brief(attributes['kernel_size']), *(f'{k}={_brief(v)}' for k, v in options.items())])})"
            )
        elif "Blur" in name or "Pad2d" in name:
            pools.append(name)
        for key in _ATTENTION:
            if attributes.get(key) is not None and not isinstance(attributes[key], str):
                attention.setdefault(key, []).append(_brief(attributes[key]))
    said: dict[str, Any] = {
        "activation": ", ".join(sorted(activations)),
        "normalisation": ", ".join(sorted(norms)),
        "convolution": ", ".join(sorted(convolutions - {"Conv2d"})),
        "stride": _runs(strides) if set(strides) - {"1"} else "",
        "padding": _runs(paddings) if "same" in paddings else "",
        "dilation": _runs(dilations) if set(dilations) - {"1"} else "",
        "pooling": _runs(pools),
        **{key: _runs(values) for key, values in attention.items()},
    }
    names = {"input_size": "input size", "crop_pct": "crop", "fixed_input_size": "fixed input size"}
    said |= {names.get(key, key): value for key, value in preprocessing.items()}
    return {key: value for key, value in said.items() if value not in ("", None, False)}


def differences(members: list[Configuration], most: int = 4) -> list[dict[str, str]]:
    """Per member, attributes of equally named modules that are not the same in all members: the first module that shows each."""
    by_name = [{name: (cls.rpartition(".")[2], attributes) for name, cls, attributes in member} for member in members]
    common = [name for name in by_name[0] if all(name in member for member in by_name[1:])]
    found: list[dict[str, str]] = [{} for _ in members]
    seen: set[str] = set()
    for name in common:
        rows = [member[name] for member in by_name]
        pairs = [{"class": cls, **attributes} for cls, attributes in rows]
        for key in sorted({key for pair in pairs for key in pair}):
            values = [_brief(pair.get(key)) for pair in pairs]
            if key in seen or len(set(values)) == 1 or all(key not in pair for pair in pairs):
                continue
            if any(key not in pair for pair in pairs):  # another class's attribute, not another value
                continue
            seen.add(key)
            for place, value in zip(found, values, strict=True):
                place[f"{name or 'model'}: {key}"] = value
            if len(seen) == most:
                return found
    return found


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return str(value[0]) if len(set(map(str, value))) == 1 and value else "×".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _runs(values: list[str]) -> str:
    """``2 1(4) 2``: a value and how often it comes in a row; a long sequence loses its middle but not its digest."""
    parts = [f"{value}({count})" if (count := len(list(run))) > 1 else value for value, run in groupby(values)]
    if len(parts) <= 12:
        return " ".join(parts)
    from zlib import crc32

    return f"{' '.join(parts[:8])} … {' '.join(parts[-2:])} #{crc32(' '.join(parts).encode()):08x}"
