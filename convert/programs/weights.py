"""A state dict put into a module, strictly: every key accounted for, every value exact, ties kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from convert.programs import skeleton
from convert.signatures.tokens import derived
from convert.text import count, shown
from formats.core.errors import Unsupported

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class Fit:
    """How weights and module fit. ``computed``: keys that the module computes itself and the weights lack; ``unused``: the reverse."""

    prefix: str = ""
    loaded: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)  # key, weights, module
    computed: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    @property
    def strict(self) -> bool:
        """Nothing is missing, unexpected or of another shape."""
        return not (self.missing or self.unexpected or self.reshaped)

    def document(self) -> dict[str, Any]:
        return {
            "strict": self.strict, "prefix": self.prefix, "loaded": self.loaded, "missing": self.missing, "unexpected": self.unexpected,
            "reshaped": [{"key": k, "weights": list(w), "module": list(m)} for k, w, m in self.reshaped],
            "computed": self.computed, "unused": self.unused,
        }  # fmt: skip

    def text(self) -> str:
        """``3 missing (a, b, …), 1 of another shape (c: [10, 5] for [1000, 5])``."""
        shapes = [f"{shown(key, 60)}: {list(held)} for {list(wanted)}" for key, held, wanted in self.reshaped]
        parts = [
            f"{len(keys):,} {what} ({', '.join(shown(key, 60) for key in keys[:3])}{', …' if len(keys) > 3 else ''})"
            for what, keys in (("missing", self.missing), ("unexpected", self.unexpected))
            if keys
        ]
        if shapes:
            parts.append(f"{len(shapes):,} of another shape ({'; '.join(shapes[:2])}{'; …' if len(shapes) > 2 else ''})")
        return ", ".join(parts) or f"{count(self.loaded, 'tensor')} fit"


def load(module: torch.nn.Module, weights: Mapping[str, torch.Tensor], *, what: str, prefix: str = "") -> Fit:
    """Put ``weights`` (less ``prefix``) into ``module``, in their own floating-point type.

    ``num_batches_tracked``, relative position indices and their like follow from the configuration: they may be absent on either
    side. ``weights`` of the meta device leave the module without values (`convert.programs.skeleton`).
    Raises `Unsupported`, listing what differs, where anything else is missing, unexpected or of another shape.
    """
    import torch

    held = {key.removeprefix(prefix): value for key, value in weights.items()}
    weightless = any(value.is_meta for value in held.values())
    if weightless:
        skeleton.emptied(module, held)
    own: dict[str, Any] = dict(module.state_dict(keep_vars=True))
    fit = Fit(prefix)
    for key, value in own.items():
        if key not in held:
            (fit.computed if derived(key) else fit.missing).append(key)
        elif isinstance(value, torch.Tensor) and held[key].shape != value.shape:
            fit.reshaped.append((key, tuple(held[key].shape), tuple(value.shape)))
    for key in [key for key in held if key not in own]:
        (fit.unused if derived(key) else fit.unexpected).append(key)
        del held[key]
    fit.loaded = len(held)
    if not fit.strict:
        raise Unsupported(f"weights do not fit {what}: {fit.text()}", hint="--arch names another architecture or other arguments")
    for key, value in held.items():
        target = own[key]
        # In place, so that parameters that are one object stay one; the type first, so that copying does not round.
        if (
            isinstance(target, torch.Tensor)
            and target.dtype != value.dtype
            and target.is_floating_point() == value.is_floating_point()
        ):
            target.data = target.data.to(value.dtype)
    held |= {key: own[key].detach() for key in fit.computed}
    whole = OrderedDict(held)
    # Versions of modules: torchvision's MNASNet refuses weights without, and older ones are brought up to date by them.
    whole._metadata = getattr(weights, "_metadata", None) or getattr(module.state_dict(), "_metadata", {})  # type: ignore[attr-defined]
    if weightless:
        skeleton.check_loading(module, whole)
    module.load_state_dict(whole, strict=True)
    return fit
