"""The rest of a checkpoint beside its weights: ``--keep all`` for a container of tensors alone, and the way back.

``X.safetensors`` holds the model; ``X.rest.safetensors`` every other tensor; ``X.rest.json`` the tree that they all stood in, with
everything that is no tensor. The model's metadata names both under `REST`. Put together again, the tree is equal to the original in
every value, type, key order, stride, tie and attribute; see `formats.core.tree_json` for how it is spelled.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from convert.windows import Windows, odd_strides, restride
from formats.core.checkpoint import Checkpoint, StateDict, walk
from formats.core.composites import DESCRIPTION, REST, expand
from formats.core.dtype import by_name
from formats.core.errors import CorruptCheckpoint, LimitExceeded, UsageError
from formats.core.files import opened
from formats.core.layout import Layout, Literal
from formats.core.plain_json import of_bytes
from formats.core.rebuild import TypedStorage
from formats.core.record import changed
from formats.core.safetensors_layout import CAPABILITIES, lay_out
from formats.core.storage import Window
from formats.core.tensor import AnyTensor, CompositeTensor, TensorView
from formats.core.ties import identity
from formats.core.tree_json import decode, encode

VERSION = 1
MAX_JSON = 256 << 20  # bytes


class Kept:
    """The files that keep the rest of ``tree`` beside the model at ``base``: ``layouts``, and the ``metadata`` entry of the model."""

    def __init__(self, tree: Any, model: StateDict, base: Path, said: dict[str, Any] | None = None) -> None:
        stem = base.name.removesuffix(".safetensors")
        self.windows = Windows(tree)
        self.weights = {self._identity(tensor): name for name, tensor in reversed(list(model.tensors.items()))}
        self.keys: dict[Any, str] = {}
        self.tensors: dict[str, AnyTensor] = {}
        self.paths: dict[int, str] = {}
        for path, node in walk(tree):
            if isinstance(node, (TensorView, CompositeTensor)):
                self.paths[id(node)] = ".".join(str(part) for part in path if not isinstance(part, str) or part not in _PARTS)
        document: dict[str, Any] = {"format": REST, "version": VERSION, **(said or {})}
        encoded = encode(tree, self._describe)
        names = {"tree": f"{stem}.rest.json"}
        self.layouts: list[Layout] = []
        if self.tensors:
            names["tensors"] = f"{stem}.rest.safetensors"
            self.layouts.append(_tensor_file(self.tensors, names["tensors"]))
        document |= {"tensors": names.get("tensors"), "tree": encoded}
        text = json.dumps(document, indent=1).encode("ascii")
        self.layouts.append(Layout(len(text), [Literal(0, text)], name=names["tree"]))
        self.metadata = {REST: json.dumps(names, separators=(",", ":"))}

    def _identity(self, tensor: AnyTensor) -> Any:
        return identity(tensor, self.windows.key)

    def _describe(self, node: Any) -> dict[str, Any]:
        flags: dict[str, Any] = {flag: True for flag in ("parameter", "requires_grad") if getattr(node, flag, False)}
        if isinstance(node, CompositeTensor):
            return self._place(node) | flags
        found = self.windows.storage_of(node.storage)
        if found is None:
            strides = odd_strides(node)
            return self._place(node) | ({"strides": strides} if strides else {}) | flags
        root, at = found
        if id(root) not in self.keys:
            self.keys[id(root)] = self._free(f"storages.{sum(key.startswith('storages.') for key in self.tensors)}")
            self.tensors[self.keys[id(root)]] = self.windows.as_tensor(root)
        kept = {"storage": self.keys[id(root)], "byte": at}
        if isinstance(node, TypedStorage):
            return kept | {"nbytes": node.storage.nbytes, "dtype": node.dtype.name if node.dtype else None}
        name = self.weights.get(self._identity(node))
        bits = {bit: True for bit in ("conj", "neg") if getattr(node, bit)}
        return {
            **({"weight": name} if name is not None else {}), **kept, "dtype": node.dtype.name, "shape": list(node.shape),
            "strides": list(node.strides), "offset": node.offset, **flags, **bits,
        }  # fmt: skip

    def _place(self, tensor: AnyTensor) -> dict[str, Any]:
        identity = self._identity(tensor)
        if identity in self.weights:
            return {"weight": self.weights[identity]}
        if identity not in self.keys:
            self.keys[identity] = self._free(self.paths.get(id(tensor), "") or "tensor")
            self.tensors[self.keys[identity]] = tensor
        return {"key": self.keys[identity]}

    def _free(self, wanted: str) -> str:
        wanted = wanted.encode("utf-8", "replace").decode("utf-8")[:200]
        name, number = wanted, 0
        while name in self.tensors or name == "__metadata__":
            number += 1
            name = f"{wanted}~{number}"
        return name


_PARTS = frozenset({"args", "kwargs", "state", "items", "entries"})  # of records: `state` of an optimizer is a key of a dict, too


def _tensor_file(tensors: dict[str, AnyTensor], name: str) -> Layout:
    expanded = expand(StateDict(tensors), CAPABILITIES.dtypes)
    layout = lay_out(expanded.tensors, {DESCRIPTION: expanded.description} if expanded.description else {})
    layout.name = name
    return layout


def names_of(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The names of the files that hold the rest of ``checkpoint``, as its metadata has them; None where there is none."""
    said = checkpoint.metadata.get("__metadata__")
    text = said.get(REST) if isinstance(said, dict) else None
    if text is None:
        return None
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpoint(f"metadata {REST} is no JSON: {error}") from error
    if not isinstance(names, dict) or not isinstance(names.get("tree"), str):
        raise CorruptCheckpoint(f"metadata {REST} names no tree")
    for name in names.values():
        if not isinstance(name, str) or name != Path(name).name or name in (".", "..") or "\\" in name or "\0" in name:
            raise CorruptCheckpoint(f"metadata {REST} names {name!r:.120}, which is no file beside the weights")
    return names


def restored(checkpoint: Checkpoint) -> Checkpoint:
    """``checkpoint`` with its whole original tree, from the files beside it; itself where none are named.

    Raises `UsageError` where they are not there, `CorruptCheckpoint` where they do not fit the weights.
    """
    names = names_of(checkpoint)
    if names is None:
        return checkpoint
    folder = checkpoint.path.parent
    for name in names.values():
        if not (folder / name).is_file():
            raise UsageError(
                f"the rest of the checkpoint is in {name}, which is not beside it", hint="--keep none converts the weights alone"
            )
    path = folder / names["tree"]
    document = _document(path)
    rest: Checkpoint | None = None
    if "tensors" in names:
        rest = _read(folder / names["tensors"])
    finder = _Finder(checkpoint.tree, rest.tree if rest else {})
    try:
        tree = decode(document["tree"], finder.find)
    except CorruptCheckpoint as error:
        raise error.with_path(path) from error.__cause__
    model = document.get("model") if isinstance(document.get("model"), str) else None  # where in the tree the weights belong
    files = [*checkpoint.files, *(rest.files if rest else [])]
    return changed(checkpoint, tree=tree, metadata={**checkpoint.metadata, "rest": {**names, "model": model}}, files=files)


def _read(path: Path) -> Checkpoint:
    from formats import registry

    return registry.open(path)


def _document(path: Path) -> dict[str, Any]:
    file = opened(path, follow=False)
    try:
        if file.size > MAX_JSON:
            raise LimitExceeded(f"tree of {file.size} bytes, at most {MAX_JSON} are read", path=path)
        document = of_bytes(file.read(0, file.size))
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpoint(f"is no JSON: {error!s:.120}", path=path) from error
    finally:
        file.close()
    if not isinstance(document, dict) or document.get("format") != REST or "tree" not in document:
        raise CorruptCheckpoint(f"is no tree of the format {REST}", path=path)
    if document.get("version") != VERSION:
        raise CorruptCheckpoint(f"is of version {document.get('version')!r:.40}, version {VERSION} is known", path=path)
    return document


class _Finder:
    """Tensors by their descriptions: of the weights, of the rest, or windows on a kept storage. Ties share one storage again."""

    def __init__(self, weights: dict[str, AnyTensor], rest: dict[str, AnyTensor]) -> None:
        self.weights = weights
        self.rest = rest
        self.laid_out: dict[Any, Any] = {}

    def find(self, said: dict[str, Any]) -> Any:
        if "storage" in said:
            return self._window(said)
        source, name = ("weight", said["weight"]) if "weight" in said else ("key", said["key"])
        held = self.weights if source == "weight" else self.rest
        if name not in held:
            raise CorruptCheckpoint(f"tensor {name!r:.120} of the tree is not among the {len(held)} stored")
        strides = said.get("strides")
        identity = (source, name, tuple(strides) if strides else None)
        if identity not in self.laid_out:
            tensor = held[name]
            if strides is not None and isinstance(tensor, TensorView):
                tensor = restride(tensor, tuple(strides))
            self.laid_out[identity] = tensor
        return _flagged(self.laid_out[identity], said)

    def _window(self, said: dict[str, Any]) -> Any:
        kept = self.rest.get(said["storage"])
        if not isinstance(kept, TensorView):
            raise CorruptCheckpoint(f"storage {said['storage']!r:.120} of the tree is not stored")
        dtype = by_name(said["dtype"]) if said["dtype"] is not None else None
        identity = ("storage", said["storage"], said["byte"], said.get("nbytes"))
        if identity not in self.laid_out:
            base = self.laid_out.setdefault(("root", said["storage"]), kept.row_major())
            at, nbytes = said["byte"], said.get("nbytes", kept.nbytes - said["byte"])
            self.laid_out[identity] = base if (at, nbytes) == (0, kept.nbytes) else Window(base, at, nbytes)
        found: Any = self.laid_out[identity]
        if said.get("storage_only"):
            return TypedStorage(found, dtype)
        if dtype is None:
            raise CorruptCheckpoint("window without a dtype")
        return TensorView(
            dtype, tuple(said["shape"]), found, said["offset"], tuple(said["strides"]),
            requires_grad=said.get("requires_grad") is True, parameter=said.get("parameter") is True,
            conj=said.get("conj") is True, neg=said.get("neg") is True,
        )  # fmt: skip


def _flagged(tensor: AnyTensor, said: dict[str, Any]) -> AnyTensor:
    """``tensor`` with the flags that ``said`` gives it, over the same storage."""
    grad, parameter = said.get("requires_grad") is True, said.get("parameter") is True
    if isinstance(tensor, CompositeTensor):
        return CompositeTensor(
            tensor.kind, tensor.dtype, tensor.shape, tensor.components, tensor.attributes, requires_grad=grad, parameter=parameter
        )
    return TensorView(
        tensor.dtype, tensor.shape, tensor.storage, tensor.offset, tensor.strides, requires_grad=grad, parameter=parameter
    )
