"""The TAR container of `torch.save` up to torch 0.1.9.

Source: ``torch.serialization._legacy_load`` (``legacy_load``), the one reader that is left. Members ``storages``, ``tensors`` and
``pickle``, and ``sys_info`` in the files of the time; all integers little-endian::

    storages  pickle(count), then for each: pickle((key, location, StorageClass)), int64 numel, the raw bytes;
              at last pickle([(target key, root key, offset, numel)…]), views in elements
    tensors   pickle(count), then for each: pickle((key, storage key, TensorClass)), int32 ndim, 4 bytes,
              ndim × int64 sizes, ndim × int64 strides, int64 offset
    pickle    the object; a persistent id is ``str(key)`` of a tensor or storage, or (class, source file, source)
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from formats.core.checkpoint import Checkpoint, Global
from formats.core.dtype import BY_STORAGE
from formats.core.errors import CorruptCheckpoint
from formats.core.files import SourceFile, opened
from formats.core.pickle_stream import PickleStream
from formats.core.probe import Probe
from formats.core.protocol import Match
from formats.core.rebuild import Rebuilt, TypedStorage, storage_dtype
from formats.core.storage import BytesStorage, FileSpan, Window
from formats.core.tar import TarDirectory
from formats.core.tensor import MAX_DIMS, TensorView

PROTOCOL = 1000
RECORD = 10240  # `tarfile.RECORDSIZE`
_MEMBERS = ("storages", "tensors", "pickle")


def sniff(probe: Probe) -> Match:
    """A TAR with two of the members ``storages``, ``tensors``, ``pickle``."""
    archive = probe.tar
    return Match.CERTAIN if archive is not None and sum(name in archive.members for name in _MEMBERS) >= 2 else Match.NO


def read(path: Path) -> Checkpoint:
    """Structure of the checkpoint at ``path``; storages are ranges of the file."""
    return read_file(opened(path))


def read_file(file: SourceFile) -> Checkpoint:
    """The same from an open file."""
    archive = TarDirectory(file)
    if file.size % RECORD:
        raise CorruptCheckpoint(
            f"is cut off: {file.size} bytes are no multiple of {RECORD}, to which every TAR that torch wrote is filled up",
            path=file.path, hint="fetch or copy the file again",
        )  # fmt: skip
    objects = _Objects()
    metadata = {"container": "legacy tar", "byte_order": "little"}
    if "sys_info" in archive.members:
        metadata["protocol"] = str(_protocol(_stream(archive, "sys_info")))
    objects.read_storages(_stream(archive, "storages"))
    objects.read_tensors(_stream(archive, "tensors"))
    stream = _stream(archive, "pickle")
    tree = stream.next("the object", rebuilder=Rebuilt, persistent_load=objects.load)
    names = stream.globals()
    _at_end(stream, "pickle")
    return Checkpoint(file.path, "torch-tar", tree, names, metadata, [], [file])


def _stream(archive: TarDirectory, name: str) -> PickleStream:
    span = archive.storage(name)
    return PickleStream(archive.file, span.offset, span.offset + span.nbytes, ahead=1 << 16)


def _at_end(stream: PickleStream, name: str) -> None:
    if stream.position != stream.stop:
        raise CorruptCheckpoint(
            f"{stream.stop - stream.position} bytes follow what member {name!r} declares, at {stream.position}"
        )


def _protocol(stream: PickleStream) -> int:
    system = stream.next("the system record")
    protocol = system.get("protocol_version") if isinstance(system, dict) else None
    if protocol != PROTOCOL:
        raise CorruptCheckpoint(f"protocol is {protocol!r:.40}, {PROTOCOL} is known")
    return PROTOCOL


def _count(stream: PickleStream, what: str) -> int:
    value = stream.next(f"the number of {what}")
    if type(value) is not int or value < 0:
        raise CorruptCheckpoint(f"number of {what} is {value!r:.40}, no count")
    return value


def _triple(stream: PickleStream, what: str) -> tuple[Any, Any, Any]:
    value = stream.next(what)
    if type(value) is not tuple or len(value) != 3:
        raise CorruptCheckpoint(f"{what} is described by a {type(value).__name__} where a tuple of 3 belongs")
    return value


def _missing(cls: Any, what: str) -> TypedStorage:
    """The empty storage of a tensor that never had one; the tensor class says the element type."""
    name = cls.text.rpartition(".")[2] if type(cls) is Global else ""
    dtype = BY_STORAGE.get(f"{name.removesuffix('Tensor')}Storage")
    if dtype is None:
        raise CorruptCheckpoint(f"{what} has neither a storage nor a tensor class of torch's, {name!r:.60}")
    return TypedStorage(BytesStorage(b""), dtype)


class _Objects:
    """Storages and tensors by the key that the pickle refers to them by."""

    def __init__(self) -> None:
        self.storages: dict[int, TypedStorage] = {}
        self.tensors: dict[int, TensorView] = {}

    def _new(self, key: Any, what: str) -> int:
        if type(key) is not int:
            raise CorruptCheckpoint(f"{what} has the key {key!r:.60}, which is no integer")
        if key in self.storages or key in self.tensors:
            raise CorruptCheckpoint(f"{what} has the key {key}, which is taken already")
        return key

    def _storage(self, key: Any, what: str) -> TypedStorage:
        if type(key) is not int or key not in self.storages:
            raise CorruptCheckpoint(f"{what} refers to storage {key!r:.60}, which member 'storages' does not have")
        return self.storages[key]

    def read_storages(self, stream: PickleStream) -> None:
        for index in range(_count(stream, "storages")):
            what = f"storage {index}"
            key, location, cls = _triple(stream, what)
            dtype = storage_dtype(cls)
            if dtype is None:
                raise CorruptCheckpoint(f"{what} has no element type")
            (numel,) = struct.unpack("<q", stream.take(8, what))
            if numel < 0:
                raise CorruptCheckpoint(f"{what} at byte {stream.position} has {numel} elements")
            start = stream.position
            nbytes = stream.skip(numel * dtype.itemsize, what)
            span = FileSpan(stream.file, start, nbytes, location if isinstance(location, str) else "cpu")
            self.storages[self._new(key, what)] = TypedStorage(span, dtype)
        views = stream.next("the list of storage views")
        if not isinstance(views, (list, tuple)):
            raise CorruptCheckpoint(f"list of storage views is a {type(views).__name__}")
        for view in views:
            if type(view) is not tuple or len(view) != 4 or any(type(value) is not int for value in view):
                raise CorruptCheckpoint("storage view is not (target key, root key, offset, numel)")
            target, root_key, offset, numel = view
            root = self._storage(root_key, f"view {target}")
            width = root.dtype.itemsize if root.dtype else 1
            self.storages[self._new(target, "view")] = TypedStorage(
                Window(root.storage, offset * width, numel * width), root.dtype
            )
        _at_end(stream, "storages")

    def read_tensors(self, stream: PickleStream) -> None:
        for index in range(_count(stream, "tensors")):
            what = f"tensor {index}"
            key, storage_key, cls = _triple(stream, what)
            ndim, _ = struct.unpack("<ii", stream.take(8, what))
            if not 0 <= ndim <= MAX_DIMS:
                raise CorruptCheckpoint(f"{what} has {ndim} dimensions, 0 to {MAX_DIMS} are possible")
            numbers = struct.unpack(f"<{2 * ndim + 1}q", stream.take(8 * (2 * ndim + 1), what))
            typed = _missing(cls, what) if storage_key is None else self._storage(storage_key, what)
            if typed.dtype is None:
                raise CorruptCheckpoint(f"{what} has no element type")
            shape, strides = numbers[:ndim], numbers[ndim : 2 * ndim]
            if not ndim and not typed.storage.nbytes:  # before torch 0.4 no dimension meant no element
                shape, strides = (0,), (1,)
            self.tensors[self._new(key, what)] = TensorView(typed.dtype, shape, typed.storage, numbers[-1], strides)
        _at_end(stream, "tensors")

    def load(self, pid: Any) -> Any:
        if type(pid) is tuple:
            if len(pid) != 3 or type(pid[0]) is not Global:
                raise CorruptCheckpoint("persistent id is neither a key nor (class, source file, source)")
            if isinstance(pid[2], str):
                pid[0].source = pid[2]
            return pid[0]
        if isinstance(pid, str) and len(pid) <= 20 and pid.isascii() and pid.removeprefix("-").isdigit():
            key = int(pid)
            found = self.tensors.get(key) or self.storages.get(key)
            if found is not None:
                return found
        raise CorruptCheckpoint(f"persistent id {pid!r:.60} is the key of no tensor and no storage")
