"""Digests of weights: what a byte comparison of two state dicts found, tensor by tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from convert.parity.criterion import FAILED, PASSED
from convert.parity.outcome import DIGESTS, Row
from convert.text import count

if TYPE_CHECKING:
    from formats.core.tensor import TensorView


@dataclass(slots=True)
class Digests:
    """``equal`` keys have the dtype, shape and bytes of the source; ``tied`` maps keys to the key under which their bytes are."""

    equal: list[str] = field(default_factory=list)
    tied: dict[str, str] = field(default_factory=dict)
    differing: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)  # the program never reads them, so it does not carry them
    errors: dict[str, float] = field(
        default_factory=dict
    )  # ‖output − source‖ / ‖source‖ of differing weights, where it was asked for
    combined: str = ""  # sha256 over all keys, dtypes, shapes and bytes of the source

    def row(self, seconds: float = 0.0) -> Row:
        """The first rung of the ladder."""
        figures = {
            "equal": len(self.equal), "tied": len(self.tied), "differing": self.differing, "errors": self.errors,
            "missing": self.missing[:100], "unexpected": self.unexpected[:100], "unused": self.unused[:100], "sha256": self.combined,
        }  # fmt: skip
        wrong = [f"{key!r:.120} {why}" for key, why in list(self.differing.items())[:3]]
        wrong += [f"{key!r:.120} is missing" for key in self.missing[:3]]
        if wrong:
            total = len(self.differing) + len(self.missing)
            return Row(
                DIGESTS, FAILED, f"{count(total, 'tensor')} not as in the source: {'; '.join(wrong[:3])}", "", seconds, figures
            )
        what = f"{count(len(self.equal) + len(self.tied), 'tensor')} bit-identical under their own names"
        if self.tied:
            what += f" ({len(self.tied)} of them tied to another)"
        if self.unused:
            what += f"; {len(self.unused)} that the program never reads are left out ({_some(self.unused)})"
        if self.unexpected:
            what += f"; {len(self.unexpected)} constants of the program's own"
        return Row(DIGESTS, PASSED, what, "", seconds, figures)


def of_bytes(dtype: str, shape: list[int], content: Any) -> str:
    """sha256 of a tensor's dtype (torch's name), shape and row-major little-endian bytes."""
    digest = hashlib.sha256(f"{dtype}{shape}".encode())
    digest.update(content)
    return digest.hexdigest()


def of_view(view: TensorView) -> str:
    """The same of a tensor that a file holds, read in pieces."""
    digest = hashlib.sha256(f"{view.dtype.name}{list(view.shape)}".encode())
    for piece in view.chunks():
        digest.update(piece)
    return digest.hexdigest()


def of_tensor(tensor: Any) -> str:
    """sha256 of a torch tensor's dtype, shape and row-major bytes."""
    import torch

    plain = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
    name = str(plain.dtype).removeprefix("torch.")
    content = plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else b""
    return of_bytes(name, list(plain.shape), content)


def of_state(state: Mapping[str, Any]) -> dict[str, str]:
    """Digest by key of a state dict's tensors."""
    import torch

    known: dict[tuple[int, Any, Any], str] = {}
    found = {}
    for key, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            continue
        where = (tensor.data_ptr(), tensor.shape, (tensor.dtype, tensor.stride()))
        if not tensor.numel() or where not in known:
            known[where] = of_tensor(tensor)
        found[key] = known[where]
    return found


def of_onnx(model: Any, folder: str = "") -> dict[str, str]:
    """Digest by name of the initializers of an ``onnx.ModelProto``; external data lies in ``folder``."""
    from onnx import numpy_helper

    found = {}
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor, folder)
        found[tensor.name] = of_bytes(onnx_dtype(tensor.data_type), list(tensor.dims), values.tobytes())
    return found


def onnx_dtype(number: int) -> str:
    """torch's name of a TensorProto.DataType."""
    from formats.onnx_save import DATA_TYPES

    return next((name for name, known in DATA_TYPES.items() if known == number), f"onnx {number}")


def combined(digests: Mapping[str, str]) -> str:
    """One sha256 for a whole state dict."""
    digest = hashlib.sha256()
    for key in sorted(digests):
        digest.update(f"{key}\0{digests[key]}\n".encode())
    return digest.hexdigest()


def compare(source: Mapping[str, str], output: Mapping[str, str], *, unused: frozenset[str] = frozenset()) -> Digests:
    """``output`` against ``source``, both digests by key. A key that is not there may be tied to one that is, or be ``unused``."""
    found = Digests(combined=combined(source))
    by_digest = {digest: key for key, digest in output.items()}
    for key, digest in source.items():
        if key in output:
            if output[key] == digest:
                found.equal.append(key)
            else:
                found.differing[key] = "has other bytes"
        elif key in unused:
            found.unused.append(key)
        elif digest in by_digest:
            found.tied[key] = by_digest[digest]
        else:
            found.missing.append(key)
    found.unexpected = [key for key in output if key not in source]
    return found


def relative_error(source: Any, output: Any) -> float:
    """‖output − source‖ / ‖source‖ of two torch tensors of one shape, in float64; inf where the source is zero."""
    import torch

    a, b = (tensor.detach().to("cpu", torch.float64).nan_to_num() for tensor in (source, output))
    norm = float(a.norm())
    return float((b - a).norm()) / norm if norm else float("inf")


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:2]) + (" …" if len(keys) > 2 else "")
