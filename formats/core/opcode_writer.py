"""The opcodes of pickle protocol 2 for names, texts, numbers and tensors, as CPython's pickler writes them for torch's objects."""

from __future__ import annotations

import struct

from formats.core.errors import LimitExceeded, Unsupported
from formats.core.rebuild import TypedStorage
from formats.core.storage_table import Slot, StorageTable
from formats.core.tensor import TensorView

LONGEST_LONG = 255  # bytes of an integer in LONG1; torch.load(weights_only=True) reads no LONG4
_TUPLES = {0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}


class OpcodeWriter:
    """Appends opcodes to ``parts``; `flush` gathers them in ``joined``.

    Every text, name, tuple and object takes the next memo slot, as in torch's own pickles.
    """

    def __init__(self, table: StorageTable, *, locations: bool, legacy: bool = False) -> None:
        self.joined = bytearray(b"\x80\x02")
        self.parts: list[bytes] = []
        self.write = self.parts.append
        self.table = table
        self.locations = locations
        self.legacy = legacy  # persistent ids have a sixth part, the view (None), and no storage is untyped
        self.count = 0  # memo slots given
        self.memo: dict[int, int] = {}  # id of an object → slot
        self.texts: dict[str, bytes] = {}  # text → the opcode that gets it
        self.names: dict[str, bytes] = {}  # dotted name → the opcode that gets it
        self.sizes: dict[tuple[int, ...], bytes] = {}

    def flush(self) -> None:
        """A checkpoint of 100,000 tensors has three million parts: many small objects, few bytes."""
        self.joined += b"".join(self.parts)
        self.parts.clear()

    def put(self) -> int:
        slot = self.count
        self.count = slot + 1
        self.write(b"q%c" % slot if slot < 256 else b"r" + slot.to_bytes(4, "little"))
        return slot

    def name(self, text: str) -> None:
        """GLOBAL of a dotted name."""
        known = self.names.get(text)
        if known is not None:
            self.write(known)
            return
        module, _, name = text.rpartition(".")
        self.write(f"c{module}\n{name}\n".encode())
        self.names[text] = get_opcode(self.put())

    def text(self, value: str) -> None:
        known = self.texts.get(value)
        if known is not None:
            self.write(known)
            return
        raw = value.encode("utf-8", "surrogatepass")
        self.write(b"X" + len(raw).to_bytes(4, "little") + raw)
        self.texts[value] = get_opcode(self.put())

    def none(self, _value: None) -> None:
        self.write(b"N")

    def boolean(self, value: bool) -> None:
        self.write(b"\x88" if value else b"\x89")

    def integer(self, value: int) -> None:
        if -0x80000000 <= value < 0x80000000:
            self.write(_number(value))
            return
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        if raw[-1] == 0xFF and raw[-2] & 0x80:  # the shortest form, as `pickle.encode_long` makes it
            raw = raw[:-1]
        if len(raw) > LONGEST_LONG:
            raise LimitExceeded(f"an integer of {len(raw)} bytes, at most {LONGEST_LONG} are written")
        self.write(b"\x8a%c" % len(raw) + raw)

    def real(self, value: float) -> None:
        self.write(struct.pack(">cd", b"G", value))

    def counts(self, values: tuple[int, ...]) -> None:
        """A tuple of integers; the same few shapes come again and again."""
        known = self.sizes.get(values)
        if known is None:
            opcodes = b"".join(map(_number, values))
            known = opcodes + _TUPLES[len(values)] if len(values) < 4 else b"(" + opcodes + b"t"
            self.sizes[values] = known
        self.write(known)
        if values:
            self.put()

    def persistent(self, slot: Slot) -> None:
        """The persistent id of a storage, and the storage."""
        self.write(b"(")
        self.text("storage")
        self.name(f"torch.{slot.dtype.storage}" if slot.dtype else "torch.storage.UntypedStorage")
        self.text(slot.key)
        self.text(slot.storage.location if self.locations else "cpu")
        self.integer(slot.numel)
        self.write(b"Nt" if self.legacy else b"t")
        self.put()
        self.write(b"Q")

    def stored(self, value: TypedStorage) -> None:
        self.persistent(self.table.slot(value.storage)[0])

    def hooks(self) -> None:
        """The empty dict of backward hooks that every tensor carries."""
        self.name("collections.OrderedDict")
        self.write(b")R")
        self.put()

    def tensor(self, view: TensorView) -> None:
        if not view.parameter:
            self.memo[id(view)] = self.plain_tensor(view, view.requires_grad)
            return
        self.name("torch._utils._rebuild_parameter")
        self.plain_tensor(view, requires_grad=False)
        self.boolean(view.requires_grad)
        self.hooks()
        self.write(b"\x87")
        self.put()
        self.write(b"R")
        self.memo[id(view)] = self.put()

    def plain_tensor(self, view: TensorView, requires_grad: bool) -> int:
        slot, at = self.table.slot(view.storage)
        if self.legacy and slot.dtype is None:
            why = "shares its storage with a tensor of another type" if view.dtype.storage else "has no storage class in torch"
            raise Unsupported(f"tensor of dtype {view.dtype.name} {why}: the legacy container cannot hold it")
        offset = view.offset + at // view.dtype.itemsize
        if not view.numel:
            offset = max(offset, 0)  # an empty window may stand before the part of its storage that is written
        self.name("torch._utils._rebuild_tensor_v2" if slot.dtype else "torch._utils._rebuild_tensor_v3")
        self.write(b"(")
        self.persistent(slot)
        self.integer(offset)
        self.counts(view.shape)
        self.counts(view.strides)
        self.boolean(requires_grad)
        self.hooks()
        if slot.dtype is None:
            self.name(f"torch.{view.dtype.name}")
        bits = [name for name in ("conj", "neg") if getattr(view, name)]
        if bits:
            self.write(b"}")
            self.put()
            self.write(b"(" if len(bits) > 1 else b"")
            for name in bits:
                self.text(name)
                self.write(b"\x88")
            self.write(b"u" if len(bits) > 1 else b"s")
        self.write(b"t")
        self.put()
        self.write(b"R")
        return self.put()


def get_opcode(slot: int) -> bytes:
    return b"h%c" % slot if slot < 256 else b"j" + slot.to_bytes(4, "little")


def _number(value: int) -> bytes:
    """BININT1, BININT2, BININT or LONG1."""
    if 0 <= value < 0x100:
        return b"K%c" % value
    if 0 <= value < 0x10000:
        return b"M" + value.to_bytes(2, "little")
    if -0x80000000 <= value < 0x80000000:
        return b"J" + value.to_bytes(4, "little", signed=True)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a%c" % len(raw) + raw
