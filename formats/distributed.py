"""The folder that `torch.distributed.checkpoint` writes: ``.metadata`` and one ``__RANK_N.distcp`` for each writer.

Source: ``torch.distributed.checkpoint`` (``metadata.py``, ``filesystem.py``, ``default_planner.py``; torch 2.13). ``.metadata`` is
a pickle of a `Metadata`: by name of each value its type, size and chunks; by name and offset of each chunk the (file, offset, length)
of a `torch.save` file of that chunk alone; and, where the saved tree was nested, the path of keys to each value. What
``dcp_to_torch_save`` would load at once is put together here when it is read: a tensor is a storage made of its chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from formats.core.beside import beside
from formats.core.checkpoint import Checkpoint, Global, Record
from formats.core.dtype import DType
from formats.core.errors import CheckpointError, CorruptCheckpoint, LimitExceeded, Unsupported
from formats.core.files import SourceFile
from formats.core.inert import LIMITS
from formats.core.probe import Probe
from formats.core.protocol import Match, Open
from formats.core.rebuild import Rebuilt, dtype_of, sizes
from formats.core.stitched import Tile, assemble
from formats.core.storage import FileSpan, Storage, plain_span
from formats.core.subfile import SubFile
from formats.core.tensor import TensorView
from formats.core.unpickle import unpickle

METADATA = ".metadata"
MAX_BYTES_ITEMS = 20_000  # values that are no tensors, each a small file of its own
MAX_PATH = 64  # keys from the root of the tree to a value

_Key = tuple[str, tuple[int, ...] | None]


def sniff(probe: Probe) -> Match:
    """A folder whose file ``.metadata`` is a pickle that names `torch.distributed` near its beginning."""
    if not probe.folder:
        return Match.NO
    try:
        file = SourceFile(probe.path / METADATA, follow=False)
    except CheckpointError:
        return Match.NO
    head = file.read(0, min(128, file.size))
    file.close()
    return Match.CERTAIN if head[:1] == b"\x80" and b"torch.distributed" in head and b"checkpoint" in head else Match.NO


def read(source: Path | SourceFile, open_inner: Open) -> Checkpoint:
    """The saved tree, tensors as lazy storages over their chunks; values that are no tensors are decoded now."""
    if isinstance(source, SourceFile):
        raise Unsupported("is a file where a folder belongs", path=source.path)
    return _Folder(source, open_inner).read()


class _Folder:
    def __init__(self, path: Path, open_inner: Open) -> None:
        self.path = path
        self.main = path / METADATA
        self.open_inner = open_inner
        self.files: dict[str, SourceFile] = {}
        self.globals: dict[str, int] = {}
        self.tree: dict[Any, Any] = {}
        self.cells = 0  # of lists, made so far

    def read(self) -> Checkpoint:
        metadata = self._metadata()
        described = _dict(metadata, "state_dict_metadata")
        places = self._places(metadata)
        paths = metadata.get("planner_data")
        paths = paths if isinstance(paths, dict) else {}
        self.room = 4 * len(described) + 4096
        decoded = 0
        for name, entry in described.items():
            kind = _class(entry)
            if type(name) is not str or kind not in ("TensorStorageMetadata", "BytesStorageMetadata"):
                raise self._corrupt(f"describes {name!r:.80} by a {kind}")
            try:
                value: Any
                if kind == "TensorStorageMetadata":
                    value = self._tensor(name, entry.fields, places)
                else:
                    decoded += 1
                    if decoded > MAX_BYTES_ITEMS:
                        raise LimitExceeded(f"has more than {MAX_BYTES_ITEMS} values that are no tensors")
                    value = self._bytes(name, places)
                self._put(paths.get(name, (name,)), value)
            except CheckpointError as error:
                error.what = f"{name!r:.120}: {error.what}"
                raise error.with_path(self.path) from error.__cause__
        said = {"container": "torch.distributed.checkpoint", "version": metadata.get("version")}
        return Checkpoint(self.path, "torch-distributed", self.tree, self.globals, said, [], list(self.files.values()))

    def _metadata(self) -> dict[str, Any]:
        file = SourceFile(self.main, follow=False)
        if file.size > LIMITS.pickle_bytes:
            raise LimitExceeded(f"{METADATA} of {file.size} bytes, at most {LIMITS.pickle_bytes} are read", path=self.path)
        data = file.read(0, file.size)
        file.close()
        found = unpickle(data, rebuilder=Rebuilt, where=(self.path, METADATA, 0))
        if found.end != len(data):
            raise self._corrupt(f"has {len(data) - found.end} bytes after its pickle")
        if _class(found.value) != "Metadata":
            raise self._corrupt(f"is a {_class(found.value)}, not a Metadata")
        self._count(found.globals())
        fields: dict[str, Any] = found.value.fields
        return fields

    def _places(self, metadata: dict[str, Any]) -> dict[_Key, Any]:
        """(name, offset of the chunk) → the record that says where it is."""
        places: dict[_Key, Any] = {}
        for index, info in _dict(metadata, "storage_data").items():
            if _class(index) != "MetadataIndex" or _class(info) != "_StorageInfo":
                raise self._corrupt(f"places a {_class(index)} by a {_class(info)}")
            name, offset = index.fields.get("fqn"), index.fields.get("offset")
            if type(name) is not str:
                raise self._corrupt(f"places a {type(name).__name__}, not a name")
            key = (name, None if offset is None else sizes(offset, "offset"))
            if key in places:
                raise self._corrupt(f"places a chunk of {name!r:.80} twice")
            places[key] = info
        return places

    def _tensor(self, name: str, said: dict[str, Any], places: dict[_Key, Any]) -> TensorView:
        dtype = _dtype(said.get("properties"))
        shape = _counts(sizes(said.get("size"), "size"))
        chunks = said.get("chunks")
        if not isinstance(chunks, list):
            raise CorruptCheckpoint("has no list of chunks")
        tiles: list[Tile] = []
        for chunk in chunks:
            if _class(chunk) != "ChunkStorageMetadata":
                raise CorruptCheckpoint(f"has a chunk that is a {_class(chunk)}")
            offsets = _counts(sizes(chunk.fields.get("offsets"), "offsets"))
            extent = _counts(sizes(chunk.fields.get("sizes"), "size"))
            numel = 1
            for size in extent:
                numel *= size
            if not numel and len(chunks) > 1:  # a rank that holds nothing need not have written a file
                continue
            info = places.get((name, offsets))
            if info is None:
                raise CorruptCheckpoint(f"has a chunk at {list(offsets)} that no file is named for")
            storage = SavedTensor(self._span(info), self.open_inner, dtype, extent)
            tiles.append(Tile(offsets, TensorView(dtype, extent, storage)))
        if len(tiles) == 1 and tiles[0].values.shape == shape and not any(tiles[0].offsets):
            return tiles[0].values
        return TensorView(dtype, shape, assemble(dtype, shape, tiles))

    def _bytes(self, name: str, places: dict[_Key, Any]) -> Any:
        info = places.get((name, None))
        if info is None:
            raise CorruptCheckpoint("is a value that no file is named for")
        checkpoint = self.open_inner(self._span(info))
        self._count(checkpoint.globals)
        return checkpoint.tree

    def _span(self, info: Record) -> SubFile:
        said = info.fields
        name, offset, length = said.get("relative_path"), said.get("offset"), said.get("length")
        if said.get("transform_descriptors"):
            raise Unsupported(f"is transformed by {said['transform_descriptors']!r:.80}, which is not read")
        if type(offset) is not int or type(length) is not int:
            raise CorruptCheckpoint(f"is placed at {offset!r:.40} with length {length!r:.40}, which are no counts")
        real = beside(self.main, name, "file of a chunk")  # type: ignore[arg-type]
        file = self.files.get(str(name))
        if file is None:
            file = self.files[str(name)] = SourceFile(real, follow=False)
        return SubFile(FileSpan(file, offset, length), file.path)

    def _put(self, path: Any, value: Any) -> None:
        """Place ``value`` under the keys of ``path`` as ``_traverse.set_element`` does: a number is an index of a list."""
        if not isinstance(path, tuple) or not 0 < len(path) <= MAX_PATH or any(type(key) not in (str, int) for key in path):
            raise CorruptCheckpoint(f"lies at {path!r:.80}, which is no path of 1 to {MAX_PATH} keys")
        node: Any = self.tree
        for index, key in enumerate(path):
            last = index + 1 == len(path)
            if isinstance(node, list):
                if type(key) is not int or key < 0:
                    raise CorruptCheckpoint(f"lies at {path!r:.80}, where there is a list")
                self.cells += max(key + 1 - len(node), 0)
                if self.cells > self.room:
                    raise LimitExceeded(f"lies at {path!r:.80}: lists of more than {self.room} places are not made")
                node.extend([None] * (key + 1 - len(node)))
                there = node[key]
            elif isinstance(node, dict):
                there = node.get(key)
            else:
                raise CorruptCheckpoint(f"lies at {path!r:.80}, where there is a value already")
            if last:
                if there is not None:
                    raise CorruptCheckpoint(f"lies at {path!r:.80}, where there is something already")
                node[key] = value
            else:
                if there is None:
                    there = node[key] = {} if type(path[index + 1]) is str else []
                node = there

    def _count(self, names: dict[str, int]) -> None:
        for name, times in names.items():
            self.globals[name] = self.globals.get(name, 0) + times

    def _corrupt(self, what: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(f"{METADATA} {what}", path=self.path)


class SavedTensor:
    """The values of a tensor that fills a `torch.save` file of its own, which is opened when they are asked for."""

    __slots__ = ("_dtype", "_inner", "_open", "_shape", "file", "location", "nbytes")

    def __init__(self, file: SourceFile, open_inner: Open, dtype: DType, shape: tuple[int, ...]) -> None:
        self.file = file
        self.location = "cpu"
        self._open = open_inner
        self._dtype = dtype
        self._shape = shape
        self._inner: Storage | None = None
        self.nbytes = dtype.itemsize
        for size in shape:
            self.nbytes *= size
        if self.nbytes > file.size:
            raise CorruptCheckpoint(f"chunk of {self.nbytes} bytes is said to lie in a file of {file.size}")

    def inner(self) -> Storage:
        if self._inner is None:
            values = self._open(self.file).tree
            if type(values) is not TensorView or values.dtype is not self._dtype or values.shape != self._shape:
                raise CorruptCheckpoint(
                    f"chunk is {values if type(values) is TensorView else type(values).__name__}, "
                    f"expected {self._dtype.name} of shape {list(self._shape)}",
                    path=self.file.path,
                )
            self._inner = values.row_major()
        return self._inner

    def plain_span(self) -> tuple[SourceFile, int] | None:
        return plain_span(self.inner())

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        yield from self.inner().chunks(start, stop)
        if stop == self.nbytes:  # read to the end: what was opened need not be held for every chunk of a large model
            self._inner = None


def _class(value: Any) -> str:
    """The class of a record of `torch.distributed`'s; of anything else its type."""
    if type(value) is Record and value.name.startswith("torch.distributed."):
        return value.name.rpartition(".")[2]
    return type(value).__name__


def _dict(fields: dict[str, Any], name: str) -> dict[Any, Any]:
    value = fields.get(name)
    if not isinstance(value, dict):
        raise CorruptCheckpoint(f"{METADATA} has {name} that is a {type(value).__name__}")
    return value


def _dtype(properties: Any) -> DType:
    if _class(properties) == "TensorProperties":
        state = properties.state
        first = state[0] if isinstance(state, tuple) and state else properties.fields.get("dtype")
        if type(first) is Global:
            return dtype_of(first)
    raise CorruptCheckpoint("has no dtype")


def _counts(values: tuple[int, ...]) -> tuple[int, ...]:
    if any(value < 0 for value in values):
        raise CorruptCheckpoint(f"has sizes {values!r:.80} that are not counts")
    return values
