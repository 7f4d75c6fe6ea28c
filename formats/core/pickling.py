"""Writes a tree as the pickle that `torch.save` would write, opcode for opcode, from the description alone.

Protocol 2, with nothing in it that ``torch.load(weights_only=True)`` refuses: what only a foreign class could make again is written as
plain data, and said so. Nothing recurses; shared objects and cycles survive by identity. The opcodes and their order are those of
CPython's pickler on torch's objects (``torch.Tensor.__reduce_ex__``, ``torch._utils``), so other readers meet what they know.
"""

from __future__ import annotations

from formats.core.checkpoint import Global, Latin1, Ordered, Record
from formats.core.dtype import by_name
from formats.core.errors import Unsupported
from formats.core.opcode_writer import LONGEST_LONG, OpcodeWriter, get_opcode
from formats.core.plain_values import ordered, plain, plain_key
from formats.core.rebuild import TypedStorage
from formats.core.record import made, record
from formats.core.storage_table import Slot, StorageTable
from formats.core.tensor import CompositeTensor, TensorView, row_major

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, TypeAlias

PARTS = 10_000  # opcodes held before they are joined
BATCH = 1000  # items to one SETITEMS or APPENDS, as CPython's pickler has it
# Records that torch.load(weights_only=True) makes again.
_ALLOWED = frozenset(
    {
        "collections.Counter", "torch.Size", "torch.device", "torch.serialization._get_layout", "_codecs.encode",
        "__builtin__.bytearray", "builtins.bytearray", "__builtin__.complex", "builtins.complex",
    }
)  # fmt: skip
_SCHEMES = frozenset(
    f"torch.{name}" for name in ("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric",
                                 "per_channel_affine_float_qparams", "sparse_coo", "strided")
)  # fmt: skip

Frame: TypeAlias = "Iterator[Any]"


@record
class Pickled:
    """``data`` is the pickle; ``storages`` the records that it refers to, by their keys; ``notes`` what was written otherwise."""

    data: bytes
    storages: list[Slot]
    notes: list[str] = made(factory=list)


def pickle_tree(tree: Any, *, locations: bool = False, legacy: bool = False) -> Pickled:
    """The pickle of ``tree``. With ``locations`` storages keep the devices that the source names, else all say ``cpu``.
    ``legacy`` refers to storages as the container of torch before 1.6 does.

    Raises `Unsupported`, naming the place, for a tuple that holds itself: the restricted loader has no opcode for it.
    """
    pickler = _Pickler(tree, locations, legacy)
    pickler.run(tree)
    return Pickled(bytes(pickler.joined), pickler.table.used, pickler.notes())


class _Pickler(OpcodeWriter):
    def __init__(self, tree: Any, locations: bool, legacy: bool) -> None:
        super().__init__(StorageTable(tree), locations=locations, legacy=legacy)
        self.kept: list[Any] = []  # what was made on the way: identities must stay taken
        self.replaced: dict[int, Any] = {}
        self.labels: list[Any] = []
        self.told: dict[str, list[str]] = {}
        self.savers: dict[type, Callable[[Any], Frame | None]] = {
            dict: self._dict, Ordered: self._ordered, list: self._list, tuple: self._tuple, set: self._set, frozenset: self._frozenset,
            str: self.text, Latin1: self.text, int: self._int, float: self.real, bool: self.boolean, type(None): self.none,
            bytes: self._bytes, bytearray: self._bytearray, complex: self._complex, TensorView: self.tensor,
            CompositeTensor: self._composite, TypedStorage: self.stored, Global: self._global_value, Record: self._record,
        }  # fmt: skip

    def run(self, tree: Any) -> None:
        stack: list[Frame] = [iter((tree,))]
        self.labels = [None]
        while stack:
            frame = stack[-1]
            for value in frame:
                inner = self.save(value)
                if len(self.parts) > PARTS:
                    self.flush()
                if inner is not None:
                    stack.append(inner)
                    self.labels.append(None)
                    break
            else:
                stack.pop()
                self.labels.pop()
        self.write(b".")
        self.flush()

    def save(self, value: Any) -> Frame | None:
        """Write a value at once, or return the frame that yields its parts in turn."""
        slot = self.memo.get(id(value))
        if slot is not None:
            self.write(get_opcode(slot))
            return None
        saver = self.savers.get(type(value))
        if saver is None:
            raise Unsupported(f"{self._path()}: a {type(value).__name__} is no plain data")
        return saver(value)

    def notes(self) -> list[str]:
        """One line for each kind of thing that was not written as it was."""
        lines = []
        for what, paths in self.told.items():
            more = f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
            lines.append(f"{paths[0]}: {what}{more}")
        return lines

    def _int(self, value: int) -> None:
        if value.bit_length() < 8 * LONGEST_LONG:
            self.integer(value)
            return
        self._tell(f"an integer of {value.bit_length()} bits written as text of its hexadecimal digits")
        self.text(hex(value))

    # -- containers ------------------------------------------------------------------------------------------------------------------
    def _dict(self, value: dict[Any, Any]) -> Frame:
        self.write(b"}")
        self.memo[id(value)] = self.put()
        return self._entries(value)

    def _ordered(self, value: Ordered) -> Frame:
        self.name("collections.OrderedDict")
        self.write(b")R")
        self.memo[id(value)] = self.put()
        yield from self._entries(value)
        if value.attributes:
            yield value.attributes
            self.write(b"b")

    def _entries(self, value: dict[Any, Any]) -> Frame:
        plain_keys: set[Any] | None = None
        total = len(value)
        labels = self.labels
        for count, (key, item) in enumerate(value.items(), 1):
            if count % BATCH == 1 and total > 1:
                self.write(b"(")
            labels[-1] = key
            if type(key) is not str:
                written = plain_key(key)
                if written is not key:
                    if plain_keys is None:
                        plain_keys = {k for k in value if plain_key(k) is k}
                    while written in plain_keys:
                        written = f"{written}'"
                    plain_keys.add(written)
                    self._tell(f"key {_label(key)} written as {written!r:.120}")
                    self.kept.append(written)
                    key = written
            yield key
            yield item
            if total == 1:
                self.write(b"s")
            elif count % BATCH == 0 or count == total:
                self.write(b"u")

    def _list(self, value: list[Any]) -> Frame:
        self.write(b"]")
        self.memo[id(value)] = self.put()
        return self._items(value)

    def _items(self, value: list[Any]) -> Frame:
        total = len(value)
        for index, item in enumerate(value):
            if index % BATCH == 0 and total > 1:
                self.write(b"(")
            self.labels[-1] = index
            yield item
            if total == 1:
                self.write(b"a")
            elif (index + 1) % BATCH == 0 or index + 1 == total:
                self.write(b"e")

    def _tuple(self, value: tuple[Any, ...]) -> Frame:
        if not value:
            self.write(b")")
            return
        if len(value) > 3:
            self.write(b"(")
        for index, item in enumerate(value):
            self.labels[-1] = index
            yield item
        if id(value) in self.memo:
            raise Unsupported(f"{self._path()}: a tuple holds itself, which torch.load(weights_only=True) cannot read")
        self.write({1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(value), b"t"))
        self.memo[id(value)] = self.put()

    def _set(self, value: set[Any] | frozenset[Any]) -> Frame:
        members = [plain_key(member) for member in ordered(value)]
        self.kept.append(members)
        yield from self._call("__builtin__.set", (members,))
        self.memo[id(value)] = self.count - 1

    def _frozenset(self, value: frozenset[Any]) -> Frame:
        self._tell("a frozenset written as a set")
        return self._set(value)

    def _call(self, name: str, args: Iterable[Any]) -> Frame:
        """REDUCE of a name on arguments."""
        self.name(name)
        args = tuple(args)
        if len(args) > 3:
            self.write(b"(")
        for index, arg in enumerate(args):
            self.labels[-1] = index
            self.kept.append(arg)
            yield arg
        self.write({0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(args), b"t"))
        if args:
            self.put()
        self.write(b"R")
        self.put()

    def _bytes(self, value: bytes) -> Frame:
        yield from self._call("_codecs.encode", (value.decode("latin-1"), "latin1"))
        self.memo[id(value)] = self.count - 1
        self.kept.append(value)

    def _bytearray(self, value: bytearray) -> Frame:
        yield from self._call("__builtin__.bytearray", (bytes(value),))
        self.memo[id(value)] = self.count - 1

    def _complex(self, value: complex) -> Frame:
        return self._call("__builtin__.complex", (value.real, value.imag))

    def _composite(self, tensor: CompositeTensor) -> Frame:
        build = getattr(self, f"_{tensor.kind.split('_')[0]}", None)
        if build is None:
            raise Unsupported(f"{self._path()}: a tensor of kind {tensor.kind} cannot be written")
        if tensor.parameter:
            self.name("torch._utils._rebuild_parameter")
        yield from build(tensor)
        if tensor.parameter:
            self.boolean(tensor.requires_grad)
            self.hooks()
            self.write(b"\x87")
            self.put()
            self.write(b"R")
            self.put()
        self.memo[id(tensor)] = self.count - 1

    def _sparse(self, tensor: CompositeTensor) -> Frame:
        parts: list[Any] = [*tensor.components.values(), Record(Global("torch.Size"), (tensor.shape,))]
        if isinstance(tensor.attributes.get("coalesced"), bool):
            parts.append(tensor.attributes["coalesced"])
        layout = Record(Global("torch.serialization._get_layout"), (f"torch.{tensor.kind}",))
        return self._call("torch._utils._rebuild_sparse_tensor", (layout, tuple(parts)))

    def _quantized(self, tensor: CompositeTensor) -> Frame:
        said, parts = tensor.attributes, tensor.components
        values = parts["values"]
        scheme = Global(f"torch.{said['scheme']}")
        if "scales" in parts:
            params: tuple[Any, ...] = (scheme, parts["scales"], parts["zero_points"], said["axis"])
        else:
            params = (scheme, said["scale"], said["zero_point"])
        slot, at = self.table.slot(values.storage)
        if slot.dtype is None:
            raise Unsupported(f"{self._path()}: a quantised tensor shares its storage with tensors of other types")
        # Where values share bytes, the tensor's own shape counts the values, and it is row-major.
        shape, strides = (
            (tensor.shape, row_major(tensor.shape)) if tensor.shape != values.shape else (values.shape, values.strides)
        )
        return self._call(
            "torch._utils._rebuild_qtensor",
            (
                TypedStorage(values.storage, slot.dtype), values.offset + at // values.dtype.itemsize, shape, strides,
                params, tensor.requires_grad and not tensor.parameter, Ordered(),
            ),
        )  # fmt: skip

    def _nested(self, tensor: CompositeTensor) -> Frame:
        return self._call(
            "torch._utils._rebuild_nested_tensor", [tensor.components[n] for n in ("values", "sizes", "strides", "offsets")]
        )

    def _meta(self, tensor: CompositeTensor) -> Frame:
        dtype, strides = Global(f"torch.{tensor.dtype.name}"), tuple(tensor.attributes["strides"])
        grad = tensor.requires_grad and not tensor.parameter
        return self._call("torch._utils._rebuild_meta_tensor_no_storage", (dtype, tensor.shape, strides, grad))

    def _subclass(self, tensor: CompositeTensor) -> Frame:
        name, parts = str(tensor.attributes.get("type", "unknown")), tensor.components
        if list(parts) == ["data"]:
            self._tell(f"a tensor of class {name:.120} written as a plain tensor")
            yield parts["data"]
            return
        self._tell(f"a tensor of class {name:.120} written as a dict of its parts")
        self.kept.append(made := dict(parts))
        yield made

    # -- what the file names ---------------------------------------------------------------------------------------------------------
    def _global_value(self, value: Global) -> None:
        text = value.text
        if text in _SCHEMES or (text.startswith("torch.") and by_name(text.removeprefix("torch.")) is not None):
            self.name(text)
            return
        self._tell(f"{text:.120} written as its name")
        self.text(text)

    def _record(self, record: Record) -> Frame:
        if record.name in _ALLOWED and not record.kwargs and record.state is None:
            name = record.name.replace("builtins.", "__builtin__.")
            yield from self._call(name, record.args)
            self.memo[id(record)] = self.count - 1
            if record.entries:
                yield from self._entries(record.entries)
            return
        value = self.replaced.get(id(record))
        if value is None:
            value, what = plain(record)
            self.replaced[id(record)] = value
            self.kept.append(value)
            if type(value) is TensorView:
                self.table.add(value)
            self._tell(f"{record.name:.120} written as {what}")
        yield value
        if id(value) in self.memo:
            self.memo[id(record)] = self.memo[id(value)]

    # -- what is said about it -------------------------------------------------------------------------------------------------------
    def _path(self) -> str:
        return ".".join(_label(label) for label in self.labels[:16] if label is not None) or "the tree"

    def _tell(self, what: str) -> None:
        self.told.setdefault(what, []).append(self._path())


def _label(label: Any) -> str:
    if isinstance(label, (str, int, float, bool)):
        return f"{label!s:.60}"
    return label.text if isinstance(label, Global) else f"<{label.name if isinstance(label, Record) else type(label).__name__}>"
