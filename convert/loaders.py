"""Files read by the libraries that the ecosystem reads them with: ``torch.load(weights_only=True)`` and safetensors.

Only verification uses them. What they return is compared with our own reading, part by part and as bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert.plan import MODEL_KEY, PROVENANCE
from formats.core.composites import DESCRIPTION
from formats.core.errors import CheckpointError, SystemIOError, Unsupported
from formats.core.remote import here
from formats.core.tensor import AnyTensor, CompositeTensor, TensorView

if TYPE_CHECKING:
    from convert.select import Choice

PIECE = 1 << 22  # bytes compared at once


@dataclass(slots=True)
class Loaded:
    """What a library gave: ``value`` as it came, ``account`` what the file says of how it was made (ours, if any)."""

    library: str
    value: Any
    account: dict[str, Any] | None = None

    def tensors(self) -> Mapping[str, Any]:
        """The state dict: the value itself, or what a training checkpoint keeps under ``state_dict``."""
        if isinstance(self.value, Mapping):
            inner = self.value.get(MODEL_KEY)
            return inner if isinstance(inner, Mapping) else self.value
        raise Unsupported(f"{self.library} gives a {type(self.value).__name__}, not a state dict")


def load(path: Path, format_name: str) -> Loaded:
    """Read ``path`` with the library of its format. Raises `Unsupported` where that library refuses or there is none."""
    if format_name == "safetensors":
        return _loaded(_safetensors, path)
    if format_name.startswith("torch"):
        return _loaded(_torch, path)
    raise Unsupported(f"no other library reads {format_name}", path=path)


def _loaded(library: Callable[[Path], Loaded], path: Path) -> Loaded:
    """What ``library`` gives, of a local copy where ``path`` is remote."""
    with here(path) as file:
        try:
            return library(file)
        except CheckpointError as error:
            error.path = path
            raise


def _torch(path: Path) -> Loaded:
    import torch

    try:
        value = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except OSError as error:
        raise SystemIOError(f"cannot be read: {error.strerror}", path=path) from error
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "").partition(". ")[0]
        raise Unsupported(
            f"torch.load(weights_only=True) refuses it: {type(error).__name__}: {first.partition('. ')[0]:.160}", path=path
        ) from error
    return Loaded(f"torch {torch.__version__}", value)


def _safetensors(path: Path) -> Loaded:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise SystemIOError(f"cannot be read: {error.strerror or error}", path=path) from error
    except Exception as error:
        raise Unsupported(f"safetensors refuses it: {error!s:.200}", path=path) from error
    return Loaded(f"safetensors {safetensors.__version__}", _whole(tensors, metadata), _account(metadata))


def _account(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    import json

    try:
        account = json.loads(metadata.get(PROVENANCE, "null"))
    except ValueError:
        return None
    return account if isinstance(account, dict) else None


class Parts(dict[str, Any]):
    """The stored components of one composite tensor, as the library gave them, with the dtype and shape that each stands for."""


def _whole(tensors: dict[str, Any], metadata: Mapping[str, str]) -> dict[str, Any]:
    """``tensors`` with composites gathered and tied names restored, as the description says; read apart from our own rebuilding."""
    import json

    if DESCRIPTION not in metadata:
        return {**tensors, **{key: tensors[kept] for key, kept in metadata.items() if kept in tensors and key not in tensors}}
    said = json.loads(metadata[DESCRIPTION])
    whole = dict(tensors)
    for key, entry in said.get("composites", {}).items():
        whole[key] = Parts({name: tensors[part["key"]] for name, part in entry["components"].items()})
        for part in entry["components"].values():
            whole.pop(part["key"], None)
    for key, kept in said.get("aliases", {}).items():
        whole[key] = whole[kept]
    return whole


def state_dict_at(value: Any, choice: Choice) -> dict[str, Any] | None:
    """The mapping at ``choice.path`` of what a library gave, its nested dicts flattened and the stripped prefix taken off."""
    import torch

    node, rest = value, choice.path
    while rest:
        if not isinstance(node, Mapping):
            return None
        for key in node:
            if rest == str(key) or rest.startswith(f"{key}."):
                node, rest = node[key], rest[len(str(key)) + 1 :]
                break
        else:
            return None
    if isinstance(node, torch.Tensor):
        return {"tensor": node}
    if not isinstance(node, Mapping):
        return None
    flat: dict[str, Any] = {}
    stack: list[tuple[str, Any]] = [("", node)]
    while stack:
        prefix, entry = stack.pop()
        below = enumerate(entry) if isinstance(entry, (list, tuple)) else entry.items()
        for key, child in below:
            name = f"{prefix}{key}"
            if isinstance(child, torch.Tensor):
                flat[name] = child
            elif isinstance(child, (Mapping, list, tuple)):
                stack.append((f"{name}.", child))
    return _stripped(flat, choice)


def _stripped(flat: dict[str, Any], choice: Choice) -> dict[str, Any]:
    if not choice.stripped or set(flat) >= set(choice.state_dict.tensors):
        return flat
    from convert.keys import WRAPPERS

    kept = choice.stripped  # what stays of the prefix: nothing, or what stands before the wrapper inside (``features.``)
    for wrapper in WRAPPERS:
        kept = kept.replace(wrapper, "")
    return {
        kept + key[len(choice.stripped) :] if key.startswith(choice.stripped) else key: tensor for key, tensor in flat.items()
    }


def described(theirs: Any) -> str:
    """dtype and shape as a library has them."""
    if isinstance(theirs, Parts):
        return " + ".join(f"{name} {described(part)}" for name, part in theirs.items())
    return f"{str(theirs.dtype).removeprefix('torch.')} {list(theirs.shape)}"


def same(ours: AnyTensor, theirs: Any) -> str | None:
    """None where ``theirs`` has the dtype, the shape and every byte of ``ours``; else what differs."""
    if isinstance(theirs, Parts):
        return _same_parts(ours, theirs)
    if isinstance(ours, CompositeTensor):
        from convert.arrays import torch_tensor

        return _same_torch(torch_tensor(ours), theirs)
    if str(theirs.dtype).removeprefix("torch.") != ours.dtype.name:
        return "dtype differs"
    if tuple(theirs.shape) != ours.shape:
        return "shape differs"
    return None if _equal_bytes(ours, theirs) else "values differ"


def _same_parts(ours: AnyTensor, theirs: Parts) -> str | None:
    components = ours.components if isinstance(ours, CompositeTensor) else {"data": ours}
    if set(components) != set(theirs):
        return "components differ"
    for name, component in components.items():
        if theirs[name].numel() * theirs[name].element_size() != component.nbytes:
            return f"size of component {name} differs"
        if not _equal_bytes(component, theirs[name]):
            return f"values of component {name} differ"
    return None


def _equal_bytes(ours: TensorView, theirs: Any) -> bool:
    """Compared in pieces; the library's tensor is made row-major and its lazy bits are resolved first."""
    import torch

    if not ours.numel:
        return True
    flat = theirs.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy()
    at = 0
    for piece in ours.chunks():
        if bytes(piece) != flat[at : at + len(piece)].tobytes():
            return False
        at += len(piece)
    return at == int(flat.size)


def _same_torch(ours: Any, theirs: Any) -> str | None:
    """Two torch tensors of any layout."""
    import torch

    if (
        ours.layout != theirs.layout
        or ours.dtype != theirs.dtype
        or ours.shape != theirs.shape
        or ours.is_quantized != theirs.is_quantized
    ):
        return "layout, dtype or shape differs"
    if ours.is_meta or theirs.is_meta:
        return None if ours.is_meta and theirs.is_meta else "one of them has no values"
    pairs = list(zip(_torch_parts(ours), _torch_parts(theirs), strict=True))
    for mine, other in pairs:
        if isinstance(mine, torch.Tensor):
            bits = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (mine, other)]
            if mine.shape != other.shape or mine.dtype != other.dtype or not torch.equal(*bits):
                return "values differ"
        elif mine != other:
            return "values differ"
    return None


def _torch_parts(tensor: Any) -> list[Any]:
    import torch

    if tensor.is_quantized:
        if tensor.qscheme() == torch.per_tensor_affine:
            return [tensor.int_repr(), tensor.q_scale(), tensor.q_zero_point()]
        return [tensor.int_repr(), tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points(), tensor.q_per_channel_axis()]
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor]
