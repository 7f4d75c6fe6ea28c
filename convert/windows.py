"""How tensors look at their storages: which can be kept as row-major values and strides, and which only with the storage itself.

A tensor whose elements fill its span in some order of its dimensions (transposed, channels-last, expanded) comes back from its
values and its strides. Windows that overlap, and windows with gaps, come back only from the bytes they look at.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from formats.core.checkpoint import walk
from formats.core.dtype import UINT8
from formats.core.rebuild import TypedStorage
from formats.core.storage import Storage, Window
from formats.core.tensor import TensorView, row_major


@dataclass(slots=True)
class _Group:
    """All windows on one storage: (view, first byte, byte past the last one), each different window once."""

    storage: Storage
    windows: dict[Any, tuple[TensorView, int, int]] = field(default_factory=dict)
    bare: bool = False  # the tree holds the storage itself


class Windows:
    """The windows of a tree's plain tensors, by storage."""

    def __init__(self, tree: Any) -> None:
        self._groups: dict[int, _Group] = {}
        for _, node in walk(tree):
            if isinstance(node, TensorView):
                root, at = root_of(node.storage)
                start, stop = node.bytes_range()
                group = self._groups.setdefault(id(root), _Group(root))
                group.windows.setdefault(self.key(node), (node, at + start, at + stop))
            elif isinstance(node, TypedStorage):
                root, _ = root_of(node.storage)
                self._groups.setdefault(id(root), _Group(root)).bare = True
        self._whole = {identity for identity, group in self._groups.items() if _needs_storage(group)}

    @staticmethod
    def key(view: TensorView) -> Any:
        """Equal for tensors that are tied: the same elements in the same order."""
        root, at = root_of(view.storage)
        return id(root), at, view.window()[1:], view.conj, view.neg

    def storage_of(self, storage: Storage) -> tuple[Storage, int] | None:
        """(whole storage, byte offset of ``storage`` in it) where the storage itself has to be kept, else None."""
        root, at = root_of(storage)
        return (root, at) if id(root) in self._whole else None

    def as_tensor(self, root: Storage) -> TensorView:
        """A kept storage as a vector: of the type that all its windows have, or of bytes."""
        dtypes = {id(view.dtype): view.dtype for view, _, _ in self._groups[id(root)].windows.values()}
        dtype = next(iter(dtypes.values())) if len(dtypes) == 1 else UINT8
        if root.nbytes % dtype.itemsize:
            dtype = UINT8
        return TensorView(dtype, (root.nbytes // dtype.itemsize,), root)


def _needs_storage(group: _Group) -> bool:
    if group.bare:
        return True
    if any(not dense(view) for view, _, _ in group.windows.values()):
        return True
    spans = sorted((start, stop) for _, start, stop in group.windows.values() if start < stop)
    return any(stop > following for (_, stop), (following, _) in itertools.pairwise(spans))


def dense(view: TensorView) -> bool:
    """Whether the elements fill their span once each, expanded dimensions counted once."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(view.strides, view.shape, strict=True) if n > 1 and s > 0):
        if stride != expected:
            return False
        expected *= size
    return True


def restride(view: TensorView, strides: tuple[int, ...]) -> TensorView:
    """A tensor with the values of ``view``, laid out by ``strides`` (in elements) on a storage of its own."""
    order = sorted(range(len(strides)), key=lambda d: (-strides[d], d))
    # An expanded dimension has one element in memory: its first.
    sizes = tuple(min(view.shape[d], 1) if strides[d] == 0 else view.shape[d] for d in order)
    inner = TensorView(view.dtype, sizes, view.storage, view.offset, tuple(view.strides[d] for d in order))
    return TensorView(view.dtype, view.shape, inner.row_major(), 0, strides)


def odd_strides(view: TensorView) -> list[int] | None:
    """The strides where they are not row-major (of dimensions of size 1, too: torch shows them), else None."""
    return None if view.strides == row_major(view.shape) else list(view.strides)


def root_of(storage: Storage) -> tuple[Storage, int]:
    """The storage that windows on windows look at, and where in it they begin (in bytes)."""
    at = 0
    while type(storage) is Window:
        at += storage.start
        storage = storage.inner
    return storage, at
