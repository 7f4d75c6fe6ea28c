"""TorchScript: what `torch.jit.save` and ``_save_for_lite_interpreter`` write (torch 1.4 to today).

Source: ``torch/csrc/jit/serialization/export_module.cpp`` and ``import.cpp``. A ZIP with ``data.pkl`` (objects of classes under
``code/``, storages under ``data/``) and ``constants.pkl`` (a tuple of tensors, storages under ``constants/``); entries may be
deflated.

Names are those of ``torch.jit.load(f).state_dict()``: of each module its parameters (the class source lists them), then its
buffers, then its sub-modules, each in the order of the class. Tensors that are plain attributes are in no state dict and are kept
under ``attributes``. Weights that were packed for one kind of machine
(``__torch__.torch.classes.…``) are in no state dict; they are kept apart under ``packed``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from formats.core.checkpoint import Checkpoint, Ordered, Record
from formats.core.errors import CorruptCheckpoint, LimitExceeded
from formats.core.files import SourceFile, opened
from formats.core.probe import Probe
from formats.core.protocol import Match
from formats.core.script_classes import ScriptClass, ScriptClasses
from formats.core.tensor import CompositeTensor, TensorView
from formats.core.torch_storages import Storages, byte_order, file_version, read_pickle
from formats.core.zip import ZipDirectory

MAX_KEYS = 2_000_000
PACKED = "__torch__.torch.classes."
_UNTOLD = frozenset({"training", "_is_full_backward_hook"})  # attributes that every module has


def sniff(probe: Probe) -> Match:
    """A ZIP with one ``constants.pkl`` that is no `torch.package`."""
    archive = probe.zip
    return Match.CERTAIN if archive is not None and _root(archive) is not None else Match.NO


def _root(archive: ZipDirectory) -> str | None:
    """The folder, with its slash, that constants.pkl and data.pkl are in."""
    if any(member.endswith(".data/extern_modules") for member in archive.members):
        return None  # torch.package, which may hold programs
    name = "constants.pkl"
    found = [member[: -len(name)] for member in archive.members if member == name or member.endswith(f"/{name}")]
    return found[0] if len(found) == 1 and f"{found[0]}data.pkl" in archive.members else None


def read(path: Path) -> Checkpoint:
    """Structure of the program's weights at ``path``; of its code only the heads of classes are looked at, as text."""
    return read_file(opened(path))


def read_file(file: SourceFile) -> Checkpoint:
    """The same from an open file."""
    archive = ZipDirectory(file)
    root = _root(archive)
    if root is None:
        raise CorruptCheckpoint("TorchScript archive has no data.pkl beside one constants.pkl", path=file.path)
    order = byte_order(archive, root)
    storages = Storages(archive, f"{root}data/", order == "big")
    found = read_pickle(archive, f"{root}data.pkl", storages)
    constants = read_pickle(archive, f"{root}constants.pkl", Storages(archive, f"{root}constants/", order == "big")).value
    walk = _Walk(ScriptClasses(archive, f"{root}code/"), found.value)
    tree: Any = walk.state_dict
    others = {
        "constants": constants if isinstance(constants, (tuple, list)) and constants else None,
        "packed": walk.packed or None,
        "attributes": walk.attributes or None,
    }
    if any(value is not None for value in others.values()):
        tree = {"state_dict": tree, **{key: value for key, value in others.items() if value is not None}}
    metadata: dict[str, Any] = {"container": "torchscript", "root": root.rstrip("/"), "byte_order": order}
    metadata |= file_version(archive, root)
    notes = walk.notes()
    if others["constants"] is not None and not walk.state_dict:
        tree.pop("state_dict")
        notes.append(f"the program was frozen: its {len(constants)} tensors are constants and have lost their names")
    if f"{root}bytecode.pkl" in archive.members:
        metadata["bytecode"] = "mobile"
    extra = [name[len(root) + 6 :] for name in archive.members if name.startswith(f"{root}extra/")]
    if extra:
        metadata["extra_files"] = ", ".join(extra[:20])
    return Checkpoint(file.path, "torchscript", tree, found.globals(), metadata, notes, [archive.file])


class _Walk:
    """Goes through a script module's objects as ``state_dict()`` does, without recursion; shared modules get each of their names."""

    def __init__(self, classes: ScriptClasses, module: Any) -> None:
        self.classes = classes
        self.state_dict = Ordered()
        self.packed: dict[str, Any] = {}
        self.attributes: dict[str, Any] = {}
        self.unknown: set[str] = set()
        self._kept: dict[tuple[int, bool], TensorView | CompositeTensor] = {}
        if type(module) is not Record:
            raise CorruptCheckpoint(f"data.pkl of a program holds a {type(module).__name__} where a module belongs")
        self._modules(module)

    def _modules(self, root: Record) -> None:
        stack: list[tuple[str, Record, bool]] = [("", root, False)]
        above: set[int] = set()
        visited = 0
        while stack:
            prefix, module, leaving = stack.pop()
            if leaving:
                above.discard(id(module))
                continue
            visited += 1
            if len(self.state_dict) > MAX_KEYS or visited > MAX_KEYS:
                raise LimitExceeded(f"program with more than {MAX_KEYS} keys")
            if id(module) in above:
                raise CorruptCheckpoint(f"module {prefix.rstrip('.')!r:.80} holds itself")
            above.add(id(module))
            stack.append((prefix, module, True))
            stack.extend((f"{prefix}{name}.", child, False) for name, child in reversed(list(self._own(prefix, module))))

    def _own(self, prefix: str, module: Record) -> Iterator[tuple[str, Record]]:
        """Sorts a module's attributes; gives its sub-modules."""
        known = self.classes.find(module.name)
        if known is None:
            self.unknown.add(module.name)
        parameters: dict[str, Any] = {}
        buffers: dict[str, Any] = {}
        for name, value in module.fields.items():
            if not isinstance(name, str):
                raise CorruptCheckpoint(f"attribute of {module.name!r:.80} named by a {type(name).__name__}")
            if isinstance(value, (TensorView, CompositeTensor)):
                kind = _kind(known, name, value)
                group = {"parameter": parameters, "buffer": buffers}.get(kind, self.attributes)
                group[prefix + name] = self._tensor(value, kind == "parameter")
            elif type(value) is Record and value.name.startswith(PACKED):
                self.packed[prefix + name] = value
            elif type(value) is Record and self._is_module(value):
                yield name, value
            elif value is not None and name not in _UNTOLD:
                self.attributes[prefix + name] = value
        for group in (parameters, buffers):
            for key, tensor in group.items():
                if self.state_dict.setdefault(key, tensor) is not tensor:
                    raise CorruptCheckpoint(f"program has two tensors named {key!r:.80}")

    def _is_module(self, value: Record) -> bool:
        known = self.classes.find(value.name)
        return known.module if known is not None else value.name.startswith("__torch__.") and bool(value.fields)

    def _tensor(self, tensor: Any, parameter: bool) -> TensorView | CompositeTensor:
        """The tensor with what the class says of it; equal objects stay one object."""
        key = id(tensor), parameter
        if key not in self._kept:
            if parameter and type(tensor) is TensorView:
                tensor = TensorView(
                    tensor.dtype, tensor.shape, tensor.storage, tensor.offset, tensor.strides,
                    requires_grad=tensor.requires_grad, parameter=True, conj=tensor.conj, neg=tensor.neg,
                )  # fmt: skip
            self._kept[key] = tensor
        return self._kept[key]

    def notes(self) -> list[str]:
        """What a user should know about what is not among the weights."""
        found = []
        if self.packed:
            first, record = next(iter(self.packed.items()))
            kind = record.name.removeprefix(PACKED)
            found.append(
                f"{len(self.packed)} weights are packed for one kind of machine and are in no state dict (first: {first}, {kind}); "
                "use the model from before it was optimised or quantised"
            )
        if self.unknown:
            found.append(f"no source for {len(self.unknown)} classes: which tensors are parameters is not known for them")
        return found


def _kind(known: ScriptClass | None, name: str, tensor: TensorView | CompositeTensor) -> str:
    """``parameter``, ``buffer`` or ``attribute`` (``torch/csrc/jit/api/module.h``: ParameterPolicy, BufferPolicy)."""
    if known is None:
        return "parameter" if tensor.requires_grad else "buffer"
    if name in known.parameters:
        return "parameter"
    if known.buffers is None:
        return "buffer" if known.types.get(name, "Tensor") == "Tensor" else "attribute"
    return "buffer" if name in known.buffers else "attribute"
