"""The storages behind a tree's tensors, as a container of torch's numbers them: one record each, however many windows share it."""

from __future__ import annotations

from formats.core.checkpoint import walk
from formats.core.dtype import UINT8, DType
from formats.core.rebuild import TypedStorage
from formats.core.storage import Storage, Window
from formats.core.tensor import CompositeTensor, TensorView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Slot:
    """One storage: the bytes ``[start, stop)`` of ``storage`` under ``key``; ``dtype`` is None where it has to be untyped."""

    __slots__ = ("dtype", "key", "start", "stop", "storage")

    def __init__(self, storage: Storage, dtype: DType | None, start: int, stop: int) -> None:
        self.storage = storage
        self.dtype = dtype
        self.start = start
        self.stop = stop
        self.key = ""

    def record(self) -> Storage:
        """The bytes to be written."""
        if self.start == 0 and self.stop == self.storage.nbytes:
            return self.storage
        return Window(self.storage, self.start, self.stop - self.start)

    @property
    def numel(self) -> int:
        """Elements, or bytes where it is untyped."""
        return (self.stop - self.start) // (self.dtype.itemsize if self.dtype else 1)


class StorageTable:
    """Slots of all storages in ``tree``. ``used`` lists them in the order in which `slot` first gave their keys.

    A storage of which the tensors together span less than half is cut to that span: a small window on a huge buffer would drag all of
    it along. Their values, strides and ties stay as they were. A storage is untyped where tensors of several types look at it, or
    where torch has no storage class for the type.
    """

    def __init__(self, tree: Any) -> None:
        self._slots: dict[int, Slot] = {}
        self._kept: list[Any] = []
        self.used: list[Slot] = []
        for _, node in walk(tree):
            if isinstance(node, TensorView):
                self._see(node)
            elif isinstance(node, CompositeTensor):
                for component in node.components.values():
                    self._see(component)
            elif isinstance(node, TypedStorage):
                self._span(node.storage, node.dtype or UINT8, 0, node.storage.nbytes)
        for slot in self._slots.values():
            self._settle(slot)

    def add(self, view: TensorView) -> None:
        """Take in a tensor that the tree does not have itself (made from something else in it)."""
        self._kept.append(view)
        self._see(view)
        self._settle(self._slots[id(_root(view.storage)[0])])

    def slot(self, storage: Storage) -> tuple[Slot, int]:
        """(slot, byte offset in its record) of a storage that some tensor of the tree has."""
        root, at = _root(storage)
        slot = self._slots[id(root)]
        if not slot.key:
            slot.key = str(len(self.used))
            self.used.append(slot)
        return slot, at - slot.start

    def _see(self, view: TensorView) -> None:
        self._span(view.storage, view.dtype, *view.bytes_range())

    def _span(self, storage: Storage, dtype: DType, start: int, stop: int) -> None:
        root, at = _root(storage)
        slot = self._slots.get(id(root))
        if slot is None:
            self._slots[id(root)] = Slot(root, dtype, at + start, at + stop)
            return
        if slot.dtype is not dtype or at % dtype.itemsize:
            slot.dtype = None
        if start != stop:
            empty = slot.start == slot.stop
            slot.start = at + start if empty else min(slot.start, at + start)
            slot.stop = at + stop if empty else max(slot.stop, at + stop)

    def _settle(self, slot: Slot) -> None:
        """Choose between the whole storage and the span in use, and between typed and untyped."""
        whole = slot.storage.nbytes
        width = slot.dtype.itemsize if slot.dtype else 16
        if slot.dtype is not None and slot.dtype.storage is None:
            slot.dtype = None
        if 2 * (slot.stop - slot.start) < whole:
            slot.start -= slot.start % width
        else:
            slot.start, slot.stop = 0, whole
        if slot.dtype is not None and (slot.stop - slot.start) % width:
            slot.stop -= (slot.stop - slot.start) % width


def _root(storage: Storage) -> tuple[Storage, int]:
    """The storage that windows on windows look at, and where in it they begin (in bytes)."""
    at = 0
    while type(storage) is Window:
        at += storage.start
        storage = storage.inner
    return storage, at
