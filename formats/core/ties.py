"""Tied tensors: which keys name the very same elements, and how a container without ties gets them back.

A container that holds every key's bytes may say in its description which keys were one tensor. That record is as untrusted as the
rest of the file, and other tools change a tensor and keep the metadata: keys are tied again only where their bytes are equal.
"""

from __future__ import annotations

from itertools import zip_longest

from formats.core.tensor import AnyTensor, CompositeTensor, TensorView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

_BLOCK = 1 << 20  # bytes compared at once


def tied(tensors: Mapping[str, AnyTensor]) -> dict[str, str]:
    """{key: the first key that names the very same elements}; overlapping and disjoint windows of one storage are not tied."""
    if len({id(tensor.storage) if type(tensor) is TensorView else 0 for tensor in tensors.values()}) == len(tensors):
        return {}  # a storage for each, as most models have
    storages: dict[int, int] = {}
    for tensor in tensors.values():
        owner = _owner(tensor)
        storages[owner] = storages.get(owner, 0) + 1
    found: dict[str, str] = {}
    first: dict[Any, str] = {}
    for key, tensor in tensors.items():
        if storages[_owner(tensor)] == 1 or (
            isinstance(tensor, TensorView) and not tensor.numel
        ):  # two empty windows share nothing
            continue
        kept = first.setdefault(identity(tensor), key)
        if kept != key:
            found[key] = kept
    return found


def _owner(tensor: AnyTensor) -> int:
    """What two tied tensors have in common at least: a storage, that of the first part where they have several."""
    if isinstance(tensor, TensorView):
        return id(tensor.storage)
    return next((id(part.storage) for part in tensor.components.values() if part.numel), id(tensor))


def identity(tensor: AnyTensor, of_view: Callable[[TensorView], Any] | None = None) -> Any:
    """Equal for tensors of the very same elements; ``of_view`` says it of a plain tensor (by its window if not given)."""
    if isinstance(tensor, TensorView):
        return of_view(tensor) if of_view else (tensor.window(), tensor.conj, tensor.neg)
    if not any(part.numel for part in tensor.components.values()):
        return id(tensor)
    parts = tuple((name, identity(part, of_view)) for name, part in tensor.components.items())
    return tensor.kind, tensor.dtype.name, tensor.shape, repr(sorted(tensor.attributes.items())), parts


def retie(tensors: dict[Any, AnyTensor], ties: Mapping[str, str]) -> list[str]:
    """Let the tensors that ``ties`` names (`tied`) share their storages; the keys that stay apart because their values differ.

    Reads both of every pair once, in blocks. Keys that are not there are passed over.
    """
    apart: list[str] = []
    for key, kept in ties.items():
        one, other = tensors.get(key), tensors.get(kept)
        if one is None or other is None or one is other:
            continue
        if not same(one, other):
            apart.append(key)
        elif isinstance(one, TensorView) and isinstance(other, TensorView):
            tensors[key] = TensorView(
                other.dtype, other.shape, other.storage, other.offset, other.strides, requires_grad=one.requires_grad,
                parameter=one.parameter, conj=other.conj, neg=other.neg,
            )  # fmt: skip
        else:
            tensors[key] = other
    return apart


def same(one: AnyTensor, other: AnyTensor) -> bool:
    """Whether two tensors are equal in kind, dtype, shape and every byte."""
    if one.dtype is not other.dtype or one.shape != other.shape:
        return False
    if isinstance(one, CompositeTensor) or isinstance(other, CompositeTensor):
        if not (isinstance(one, CompositeTensor) and isinstance(other, CompositeTensor)):
            return False
        if one.kind != other.kind or one.attributes != other.attributes or list(one.components) != list(other.components):
            return False
        return all(same(part, other.components[name]) for name, part in one.components.items())
    if one.window() == other.window() and (one.conj, one.neg) == (other.conj, other.neg):
        return True
    return all(a == b for a, b in zip_longest(_blocks(one), _blocks(other)))


def _blocks(tensor: TensorView) -> Iterator[bytearray]:
    """The row-major bytes in blocks of one size, the last one shorter."""
    block = bytearray()
    for piece in tensor.chunks():
        at = 0
        while at < len(piece):
            taken = piece[at : at + _BLOCK - len(block)]
            block += taken
            at += len(taken)
            if len(block) == _BLOCK:
                yield block
                block = bytearray()
    if block:
        yield block
