"""A module, a dict of tensors or of NumPy arrays, pickled by plain ``pickle.dump``.

Source: ``torch.storage.TypedStorage.__reduce__`` and ``_load_from_bytes``: each storage is a byte string with a whole file of
`torch.save` in it, which is opened in place; long byte strings are never read until a tensor is. Arrays of NumPy
(``numpy.core.multiarray._reconstruct``) become tensors, unless the pickle belongs to a library that keeps other things in them.
"""

from __future__ import annotations

from formats.core.checkpoint import Checkpoint, Global, Record, walk
from formats.core.errors import CheckpointError, CorruptCheckpoint, UnknownFormat
from formats.core.files import SourceFile, opened
from formats.core.foreign import named_in, plain_pickle
from formats.core.numpy_record import numpy_tensor
from formats.core.pickle_literals import Condensed
from formats.core.probe import Probe
from formats.core.protocol import Match, Open
from formats.core.rebuild import Rebuilt
from formats.core.storage import BytesStorage, Storage
from formats.core.subfile import SubFile
from formats.core.tensor import CompositeTensor, TensorView
from formats.core.unpickle import Truncated, unpickle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

_HEADS = (b"\x80", b"(", b"c", b"]", b"}")
_NESTED = "torch.storage._load_from_bytes"
PADDLE = "StructuredToParameterName@@"
# Packages whose arrays are no weights of a network, whatever they are called.
_OTHERS = frozenset({"sklearn", "xgboost", "lightgbm", "catboost", "joblib", "pandas", "scipy", "gensim", "spacy", "nltk", "keras",
                     "tensorflow"})  # fmt: skip


def sniff(probe: Probe) -> Match:
    """What a few kilobytes say: a pickle as far as they go, or whole."""
    head = probe.head
    if not head.startswith(_HEADS) or (head[:1] == b"\x80" and head[1:2] > b"\x05"):
        return Match.NO
    try:
        unpickle(head, persistent_load=lambda _: None)
    except Truncated:
        return Match.CONTAINER if probe.size > len(head) else Match.SUFFIX
    except CheckpointError:
        return Match.NO
    return Match.CONTAINER


def read(source: Path | SourceFile, open_inner: Open) -> Checkpoint:
    """Structure of the pickle; the storages inside are opened in place by ``open_inner``.

    Raises `UnknownFormat`, by its own name, for a pickle that holds no tensor.
    """
    file = source if isinstance(source, SourceFile) else opened(source)
    reading = _Reading(file, open_inner)
    try:
        condensed = Condensed(file)
        reading.literals = condensed.literals
        found = unpickle(
            condensed.data, rebuilder=reading.rebuilder, persistent_load=reading.load, where=(file.path, "the object", 0)
        )
    except CorruptCheckpoint as error:
        whose = named_in(file.read(0, min(file.size, 1 << 16)))
        if whose is not None and whose.startswith(("a joblib", "a scikit", "NumPy")) and not isinstance(error, Truncated):
            raise UnknownFormat(
                f"is a pickle of {whose} with data that no pickle has (joblib writes so)", path=file.path,
                hint="load it with joblib and save the weights with torch.save or safetensors",
            ) from error  # fmt: skip
        raise
    if found.end != len(condensed.data) or condensed.end != file.size:
        raise CorruptCheckpoint(f"{file.size - condensed.end} bytes follow the pickle, at byte {condensed.end}", path=file.path)
    names = found.globals()
    tree = _with_tensors(found.value, reading)
    _refuse_others(tree, names)
    for called, times in reading.names.items():
        names[called] = names.get(called, 0) + times
    metadata = {"container": "pickle", "byte_order": "little"}
    return Checkpoint(file.path, "pickled-module", tree, names, metadata, [], [file])


class _Reading:
    """Byte strings that stayed in the file, and storages that are files inside them."""

    def __init__(self, file: SourceFile, open_inner: Open) -> None:
        self.file = file
        self.open_inner = open_inner
        self.literals: list[Any] = []
        self.names: dict[str, int] = {}
        self._in_place: dict[int, tuple[Record, Storage]] = {}

    def rebuilder(self) -> Rebuilt:
        """The usual table, and `_load_from_bytes`."""
        rebuilt = Rebuilt()
        rebuilt.constructors = {**rebuilt.constructors, _NESTED: self._nested}
        return rebuilt

    def load(self, pid: Any) -> Any:
        """A long byte string by its number, as an inert record of `bytes`; nothing else has a persistent id here."""
        if type(pid) is not int or not 0 <= pid < len(self.literals):
            raise self._loose()
        made = Record(Global("builtins.bytes"))
        self._in_place[id(made)] = made, self.literals[pid]
        return made

    def _loose(self) -> CheckpointError:
        path = self.file.path
        hint = "name the whole file or folder that it was taken from"
        if (path.parent / "data").is_dir():
            hint = f"name the folder: {path.parent}"
        return UnknownFormat(
            "is the pickle of a checkpoint without its storages, which are in files of their own", path=path, hint=hint
        )

    def storage(self, value: Any) -> Storage | None:
        """The bytes behind a literal, in the file or in memory."""
        if isinstance(value, bytes):
            return BytesStorage(value)
        found = self._in_place.get(id(value))
        return None if found is None else found[1]

    def _nested(self, args: tuple[Any, ...]) -> Any:
        storage = self.storage(args[0]) if len(args) == 1 else None
        if storage is None:
            raise CorruptCheckpoint("_load_from_bytes without the bytes of one file")
        inner = self.open_inner(SubFile(storage, self.file.path))
        for called, times in inner.globals.items():
            self.names[called] = self.names.get(called, 0) + times
        return inner.tree


def _with_tensors(tree: Any, reading: _Reading) -> Any:
    """The tree with every numeric array of NumPy's as a tensor, in place; equal arrays stay one object."""
    made: dict[int, TensorView] = {}

    def converted(value: Any) -> Any:
        if type(value) is not Record:
            return value
        if id(value) not in made:
            tensor = numpy_tensor(value, reading.storage)
            if tensor is None:
                return value
            made[id(value)] = tensor
        return made[id(value)]

    for _, node in list(walk(tree)):
        if isinstance(node, dict):
            for key, value in node.items():
                node[key] = converted(value)
        elif isinstance(node, list):
            node[:] = [converted(value) for value in node]
        elif type(node) is Record and isinstance(node.entries, dict):
            for key, value in node.entries.items():
                node.entries[key] = converted(value)
    return converted(tree)


def _refuse_others(tree: Any, names: dict[str, int]) -> None:
    """Raises for what holds no tensor, or only arrays of a library that keeps other things than weights in them."""
    if isinstance(tree, dict) and PADDLE in tree:
        raise UnknownFormat(
            "is a Paddle checkpoint (.pdparams)",
            hint="load it with paddle.load and save the arrays with numpy.savez, which is read",
        )
    root = tree.name if type(tree) is Record else f"a {type(tree).__name__}"
    has_tensor = any(isinstance(node, (TensorView, CompositeTensor)) for _, node in walk(tree))
    torch = any(name.startswith(("torch.", "torchvision.")) for name in names)
    if not has_tensor or (not torch and any(name.split(".", 1)[0] in _OTHERS for name in names)):
        raise plain_pickle(names, root)
