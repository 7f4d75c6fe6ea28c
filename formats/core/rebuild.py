"""What the names in torch's pickles describe: tensors of every layout, parameters, ordered dicts. Data only; nothing is called.

The argument orders are those of ``torch._utils`` and ``torch._tensor`` (torch 0.1.12 to 2.13); unknown names stay inert records.
"""

from __future__ import annotations

from formats.core import dtype as dtypes
from formats.core.checkpoint import Global, Ordered, Record
from formats.core.dtype import DType
from formats.core.errors import CorruptCheckpoint
from formats.core.storage import Storage
from formats.core.tensor import CompositeTensor, TensorView, integers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


class TypedStorage:
    """A storage as a persistent id names it; ``dtype`` is None for torch's UntypedStorage (its numel counts bytes)."""

    __slots__ = ("cls", "dtype", "storage")

    def __init__(self, storage: Storage, dtype: DType | None, cls: Any = None) -> None:
        self.storage = storage
        self.dtype = dtype
        self.cls = cls


def storage_dtype(cls: Any) -> DType | None:
    """The element type of a storage class, None for UntypedStorage; a name that is no storage of torch's is refused."""
    text = cls.text if type(cls) is Global else ""
    module, _, name = text.rpartition(".")
    if module in ("torch", "torch.cuda", "torch.storage", "torch.sparse", "torch.cuda.sparse"):
        if name in ("UntypedStorage", "_UntypedStorage"):
            return None
        if name in dtypes.BY_STORAGE:
            return dtypes.BY_STORAGE[name]
    raise CorruptCheckpoint(f"storage of type {text or type(cls).__name__!r:.80}, which is no storage class of torch")


def sizes(value: Any, what: str) -> tuple[int, ...]:
    """A tuple of integers from a tuple, list or ``torch.Size``."""
    if type(value) is Record and value.name == "torch.Size" and len(value.args) == 1:
        value = value.args[0]
    if not isinstance(value, (tuple, list)):
        raise CorruptCheckpoint(f"tensor {what} is a {type(value).__name__}, not a tuple")
    integers(value, what)
    return tuple(value)


def dtype_of(value: Any) -> DType:
    """The type that ``torch.float32`` and its like name."""
    text = value.text if type(value) is Global else ""
    found = dtypes.by_name(text.removeprefix("torch.")) if text.startswith("torch.") else None
    if found is None:
        raise CorruptCheckpoint(f"dtype {text or type(value).__name__!r:.80} is none of torch's")
    return found


def count(args: tuple[Any, ...], what: str, *allowed: int) -> None:
    """Refuse arguments of another number than torch defines."""
    if len(args) not in allowed:
        raise CorruptCheckpoint(f"{what} with {len(args)} arguments, {' or '.join(map(str, allowed))} are defined")


def typed_storage(value: Any, what: str) -> TypedStorage:
    """``value``, which has to be a storage."""
    if type(value) is not TypedStorage:
        raise CorruptCheckpoint(f"{what} of a {type(value).__name__} where a storage belongs")
    return value


def _tensor_v1(args: tuple[Any, ...]) -> TensorView:
    count(args, "_rebuild_tensor", 4)
    return _tensor_v2((*args, False, None))


def _tensor_v2(args: tuple[Any, ...]) -> TensorView:
    if len(args) != 6:
        count(args, "_rebuild_tensor_v2", 6, 7)
    typed = args[0]
    if type(typed) is not TypedStorage:
        typed_storage(typed, "_rebuild_tensor_v2")
    if typed.dtype is None:
        raise CorruptCheckpoint("_rebuild_tensor_v2 of an untyped storage: the element type is not given")
    size, stride = args[2], args[3]
    bits = args[6] if len(args) == 7 else None
    if type(size) is not tuple:
        size = sizes(size, "size")
    if type(stride) is not tuple:
        stride = sizes(stride, "stride")
    if not bits:
        return TensorView(typed.dtype, size, typed.storage, args[1], stride, requires_grad=args[4] is True)
    return TensorView(
        typed.dtype,
        size,
        typed.storage,
        args[1],
        stride,
        requires_grad=args[4] is True,
        conj=_bit(bits, "conj"),
        neg=_bit(bits, "neg"),
    )


def _tensor_v3(args: tuple[Any, ...]) -> TensorView:
    count(args, "_rebuild_tensor_v3", 7, 8)
    typed = typed_storage(args[0], "_rebuild_tensor_v3")
    bits = args[7] if len(args) == 8 else None
    return TensorView(
        dtype_of(args[6]), sizes(args[2], "size"), typed.storage, args[1], sizes(args[3], "stride"),
        requires_grad=args[4] is True, conj=_bit(bits, "conj"), neg=_bit(bits, "neg"),
    )  # fmt: skip


def _bit(bits: Any, name: str) -> bool:
    """Torch sets the bit where the name is there, whatever stands beside it (``torch._utils.set_tensor_metadata``), and writes True."""
    if not bits:
        return False
    if not isinstance(bits, dict) or bits.get(name, True) is not True:
        said = f"{name} {bits.get(name)!r:.20}" if isinstance(bits, dict) else f"a {type(bits).__name__}"
        raise CorruptCheckpoint(f"tensor's lazy bits are {said}, where torch writes True or nothing")
    return name in bits


def _parameter(args: tuple[Any, ...]) -> Any:
    count(args, "_rebuild_parameter", 3, 4)
    return _as_parameter(args[0], args[1] is True)


def _as_parameter(data: Any, requires_grad: bool) -> Any:
    if type(data) is TensorView:
        return TensorView(
            data.dtype, data.shape, data.storage, data.offset, data.strides,
            requires_grad=requires_grad, parameter=True, conj=data.conj, neg=data.neg,
        )  # fmt: skip
    if type(data) is CompositeTensor:
        return CompositeTensor(
            data.kind, data.dtype, data.shape, data.components, data.attributes, requires_grad=requires_grad, parameter=True
        )
    if type(data) is Record:
        return data
    raise CorruptCheckpoint(f"parameter of a {type(data).__name__} where a tensor belongs")


def _composite(name: str) -> Callable[[tuple[Any, ...]], Any]:
    """The function ``name`` of `rebuild_composites`, which few files need."""

    def make(args: tuple[Any, ...]) -> Any:
        from formats.core import rebuild_composites

        return getattr(rebuild_composites, name)(args)

    return make


# Subclasses that are nothing but a tensor with a name.
_PLAIN = frozenset(
    {"torch.Tensor", "torch._tensor.Tensor", "torch.tensor.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"}
)
_TENSOR_MAKERS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor": _tensor_v1,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_sparse_tensor": _composite("sparse"),
    "torch._utils._rebuild_sparse_csr_tensor": _composite("sparse"),
    "torch._utils._rebuild_qtensor": _composite("quantized"),
    "torch._utils._rebuild_nested_tensor": _composite("nested"),
    "torch._utils._rebuild_meta_tensor_no_storage": _composite("meta"),
    "torch._utils._rebuild_device_tensor_from_numpy": _composite("from_numpy"),
    "torch._utils._rebuild_xla_tensor": _composite("from_numpy"),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _composite("from_cpu"),
    "torch._utils._rebuild_wrapper_subclass": _composite("wrapper"),
}


def _from_type(args: tuple[Any, ...]) -> Any:
    """``_rebuild_from_type_v2(func, type, args, state)`` and the older ``_rebuild_from_type(func, type, args, dict)``."""
    count(args, "_rebuild_from_type", 4)
    function, cls, inner, state = args
    name = function.text if type(function) is Global else ""
    cls_name = cls.text if type(cls) is Global else ""
    if name == "torch._utils._rebuild_wrapper_subclass" and isinstance(inner, tuple) and len(inner) in (7, 8):
        fields = state[0] if isinstance(state, tuple) and state and isinstance(state[0], dict) else state
        parts = {k: v for k, v in fields.items() if type(v) is TensorView} if isinstance(fields, dict) else {}
        return CompositeTensor("subclass", dtype_of(inner[1]), sizes(inner[2], "size"), parts, {"type": cls_name})
    if name not in _TENSOR_MAKERS or not isinstance(inner, tuple):
        return Record(Global(name or "unknown"), inner if isinstance(inner, tuple) else ())
    made = _TENSOR_MAKERS[name](inner)
    if cls_name in _PLAIN or type(made) is not TensorView:
        return made
    return CompositeTensor(
        "subclass", made.dtype, made.shape, {"data": made}, {"type": cls_name}, requires_grad=made.requires_grad
    )


def _ordered(args: tuple[Any, ...]) -> Ordered:
    count(args, "OrderedDict", 0, 1)
    if not args:
        return Ordered()
    pairs = args[0]
    if isinstance(pairs, dict):
        return Ordered(pairs)
    if not isinstance(pairs, (list, tuple)) or any(not isinstance(p, (list, tuple)) or len(p) != 2 for p in pairs):
        raise CorruptCheckpoint(f"OrderedDict made of a {type(pairs).__name__}")
    return Ordered([tuple(p) for p in pairs])


def _encode(args: tuple[Any, ...]) -> Any:
    """``_codecs.encode(text, 'latin1')``: how protocol 2 carries bytes. Other codecs stay a record: they would be imported."""
    if len(args) == 2 and isinstance(args[0], str) and args[1] in ("latin1", "latin-1"):
        return args[0].encode("latin-1")
    return Record(Global("_codecs.encode"), args)


def _set(cls: type) -> Callable[[tuple[Any, ...]], Any]:
    def make(args: tuple[Any, ...]) -> Any:
        count(args, cls.__name__, 0, 1)
        if args and not isinstance(args[0], (list, tuple)):
            raise CorruptCheckpoint(f"{cls.__name__} made of a {type(args[0]).__name__}")
        return cls(*args)

    return make


def _bytes(args: tuple[Any, ...]) -> Any:
    if not args:
        return b""
    return args[0] if len(args) == 1 and isinstance(args[0], bytes) else Record(Global("builtins.bytes"), args)


_COMMON: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    **_TENSOR_MAKERS,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch._tensor._rebuild_from_type": _from_type,
    "torch.tensor._rebuild_from_type": _from_type,
    "collections.OrderedDict": _ordered,
    "_codecs.encode": _encode,
    "builtins.set": _set(set),
    "__builtin__.set": _set(set),
    "builtins.frozenset": _set(frozenset),
    "__builtin__.frozenset": _set(frozenset),
    "builtins.bytes": _bytes,
    "__builtin__.bytes": _bytes,
}
_TENSOR_CLASSES = {
    f"{module}.{d.storage.removesuffix('Storage')}Tensor": d
    for module in ("torch", "torch.cuda")
    for d in dtypes.BY_STORAGE.values()
    if d.storage is not None
}
_VARIABLES = ("torch.nn.parameter.Parameter", "torch.nn.Parameter", "torch.autograd.variable.Variable", "torch.autograd.Variable")


class Rebuilt:
    """The table for one pickle. Fossils of torch ≤ 0.3 come in two steps, a blank object and its state, hence the memory."""

    def __init__(self) -> None:
        self.constructors: Mapping[str, Callable[[tuple[Any, ...]], Any]] = {
            **_COMMON,
            **dict.fromkeys(_TENSOR_CLASSES, self._blank),
            **dict.fromkeys(_VARIABLES, self._variable),
        }
        self._blanks: dict[int, TensorView] = {}

    def _blank(self, args: tuple[Any, ...]) -> TensorView:
        count(args, "tensor class", 0)
        made = TensorView.__new__(TensorView)
        self._blanks[id(made)] = made
        return made

    def _variable(self, args: tuple[Any, ...]) -> Any:
        if not args:
            return self._blank(args)
        count(args, "Parameter", 1, 2)
        if id(args[0]) in self._blanks:
            raise CorruptCheckpoint("Parameter of a tensor that has no data yet")
        return _as_parameter(args[0], len(args) == 1 or args[1] is True)

    def build(self, target: Any, state: Any) -> bool:
        """BUILD on a tensor: ``(storage, offset, size, stride)``, ``(data, …)`` of 5, or ``(requires_grad, volatile, hooks)``."""
        if type(target) is not TensorView or not isinstance(state, tuple):
            return False
        blank = self._blanks.pop(id(target), None)
        if blank is not None and len(state) == 4:
            made = _tensor_v1(state)
        elif blank is not None and len(state) == 5:
            made = _as_parameter(state[0], state[3] is True)
        elif blank is None and len(state) == 3:
            target.requires_grad = state[0] is True
            return True
        else:
            return False
        if type(made) is not TensorView:
            return False
        for slot in TensorView.__slots__:
            setattr(target, slot, getattr(made, slot))
        return True

    def finish(self) -> None:
        if self._blanks:
            raise CorruptCheckpoint("pickle names a tensor and never says where its data are")
