"""ExportedProgram: what `torch.export.save` writes (``.pt2``). Its weights and constants by name; the graph is not read.

Source: ``torch.export.pt2_archive._package`` and ``torch._export.serde.schema``. Three layouts of a ZIP:

- torch ≥ 2.9: ``data/weights/<model>_weights_config.json`` describes each weight (record, element type, sizes, strides, offset),
  ``data/weights/weight_<n>`` are raw storages; ``data/constants`` likewise.
- torch 2.8: ``data/weights/<model>.pt`` and ``data/constants/<model>.pt`` are files of `torch.save`.
- torch 2.1 – 2.7: ``serialized_state_dict.pt`` and ``serialized_constants.pt`` beside ``serialized_exported_program.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from formats.core.checkpoint import Checkpoint, Ordered
from formats.core.dtype import BY_NAME, DType
from formats.core.errors import CorruptCheckpoint, UnknownFormat
from formats.core.files import SourceFile, opened
from formats.core.plain_json import document
from formats.core.probe import Probe
from formats.core.protocol import Match, Open
from formats.core.storage import Storage, Swapped
from formats.core.subfile import SubFile
from formats.core.tensor import TensorView
from formats.core.torch_storages import byte_order
from formats.core.zip import ZipDirectory

MAX_JSON = 64 << 20  # bytes of one weights config
OLD = "serialized_exported_program.json"
# `torch._export.serde.schema.ScalarType`
_TYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64", 9: "complex32",
    10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16", 29: "float8_e4m3fn", 30: "float8_e5m2",
    31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 33: "float8_e8m0fnu", 34: "uint32", 35: "uint64",
}  # fmt: skip
STRIDED = 7  # `schema.Layout.Strided`
# (folder, what the files of its tensors begin with, ending of its config)
_WEIGHTS = ("data/weights/", "_weights_config.json")
_CONSTANTS = ("data/constants/", "_constants_config.json")


def sniff(probe: Probe) -> Match:
    """A ZIP with one ``archive_format`` (``serialized_exported_program.json`` before torch 2.6)."""
    archive = probe.zip
    return Match.CERTAIN if archive is not None and (OLD in archive.members or _root(archive) is not None) else Match.NO


def _root(archive: ZipDirectory) -> str | None:
    name = "archive_format"
    found = [member[: -len(name)] for member in archive.members if member == name or member.endswith(f"/{name}")]
    return found[0] if len(found) == 1 and found[0].count("/") <= 1 else None


def read(source: Path | SourceFile, open_inner: Open) -> Checkpoint:
    """Structure of the weights and constants; those that are files of `torch.save` are opened in place by ``open_inner``."""
    file = source if isinstance(source, SourceFile) else opened(source)
    archive = ZipDirectory(file)
    reading = _Reading(archive, open_inner)
    metadata: dict[str, Any] = {"container": "exported program"}
    if OLD in archive.members:
        parts = {"state_dict": "serialized_state_dict.pt", "constants": "serialized_constants.pt"}
        tree = _tree({key: reading.nested(name) for key, name in parts.items() if name in archive.members})
        if "version" in archive.members:
            metadata["version"] = archive.read("version", 64).decode("latin-1").strip()
    else:
        tree = _archive(archive, reading, metadata)
    return Checkpoint(file.path, "exported-program", tree, reading.names, metadata, reading.notes, [file])


def _archive(archive: ZipDirectory, reading: _Reading, metadata: dict[str, Any]) -> Any:
    root = _root(archive) or ""
    written = archive.read(f"{root}archive_format", 64).decode("latin-1").strip()
    if written != "pt2":
        raise CorruptCheckpoint(f"archive format is {written!r}, 'pt2' is known", path=archive.file.path)
    metadata |= {"root": root.rstrip("/"), "byte_order": byte_order(archive, root)}
    if f"{root}archive_version" in archive.members:
        metadata["version"] = archive.read(f"{root}archive_version", 64).decode("latin-1").strip()
    models: dict[str, dict[str, Any]] = {}
    for (folder, config), key in ((_WEIGHTS, "state_dict"), (_CONSTANTS, "constants")):
        for name in archive.members:
            short = name.removeprefix(root + folder)
            if short == name or "/" in short:
                continue
            if short.endswith(config):
                models.setdefault(short.removesuffix(config), {})[key] = reading.described(root + folder, name)
            elif short.endswith(".pt"):
                models.setdefault(short.removesuffix(".pt"), {})[key] = reading.nested(name)
    if not models:
        compiled = any(name.startswith(f"{root}data/aotinductor/") for name in archive.members)
        what = "is a compiled program (AOTInductor), whose weights are inside machine code" if compiled else "holds no weights"
        raise UnknownFormat(what, path=archive.file.path, hint="use the model that it was made from")
    trees = {name: _tree(parts) for name, parts in models.items()}
    return next(iter(trees.values())) if len(trees) == 1 else trees


def _tree(parts: dict[str, Any]) -> Any:
    """The state dict alone, or beside the constants where there are any."""
    parts = {key: value for key, value in parts.items() if key == "state_dict" or value}
    return parts["state_dict"] if list(parts) == ["state_dict"] else parts


class _Reading:
    """Tensors of one archive; equal records are one storage, so that tied weights stay tied."""

    def __init__(self, archive: ZipDirectory, open_inner: Open) -> None:
        self.archive = archive
        self.open_inner = open_inner
        self.names: dict[str, int] = {}
        self.notes: list[str] = []
        self._storages: dict[tuple[str, int], Storage] = {}
        root = _root(archive)
        self.big = root is not None and byte_order(archive, root) == "big"

    def nested(self, name: str) -> Any:
        """The tree of a member that is itself a file of `torch.save`."""
        inner = self.open_inner(SubFile(self.archive.storage(name), self.archive.file.path))
        for called, times in inner.globals.items():
            self.names[called] = self.names.get(called, 0) + times
        return inner.tree

    def described(self, folder: str, config: str) -> Ordered:
        """The tensors that a config lists, by name, in its order."""
        entries = document(self.archive.read(config, MAX_JSON), config)
        entries = entries.get("config") if isinstance(entries, dict) else None
        if not isinstance(entries, dict):
            raise CorruptCheckpoint(f"{config!r:.100} has no 'config' of tensors by name")
        found, odd = Ordered(), []
        for key, entry in entries.items():
            try:
                if not isinstance(entry, dict) or not isinstance(entry.get("path_name"), str):
                    raise CorruptCheckpoint("is described without 'path_name'")
                if entry.get("tensor_meta") is None:
                    odd.append(key)  # a custom or opaque object: a pickle or a machine's own format, no tensor
                else:
                    found[key] = self._tensor(folder + entry["path_name"], entry)
            except CorruptCheckpoint as error:
                error.what = f"tensor {key!r:.100} of {config!r:.100}: {error.what}"
                raise
        if odd:
            self.notes.append(f"{len(odd)} constants are objects and no tensors (first: {odd[0]!r:.80})")
        return found

    def _tensor(self, record: str, entry: dict[str, Any]) -> Any:
        if entry.get("use_pickle") is True:
            return self.nested(record)
        meta = entry["tensor_meta"]
        if not isinstance(meta, dict):
            raise CorruptCheckpoint(f"is described by a {type(meta).__name__}")
        name = _TYPES.get(meta.get("dtype", 0)) if type(meta.get("dtype")) is int else None
        if name is None or meta.get("layout", STRIDED) != STRIDED:
            raise CorruptCheckpoint(
                f"has element type {meta.get('dtype')!r:.20} in layout {meta.get('layout')!r:.20}, which is not known"
            )
        dtype = BY_NAME[name]
        device = meta.get("device")
        location = device.get("type") if isinstance(device, dict) else None
        storage = self._storage(record, dtype, location if isinstance(location, str) else "cpu")
        parameter = entry.get("is_param") is True
        return TensorView(
            dtype, _numbers(meta, "sizes"), storage, _number(meta.get("storage_offset", 0)), _numbers(meta, "strides"),
            requires_grad=parameter and meta.get("requires_grad") is True, parameter=parameter,
        )  # fmt: skip

    def _storage(self, record: str, dtype: DType, location: str) -> Storage:
        key = record, dtype.swap if self.big else 1
        if key not in self._storages:
            storage = self.archive.storage(record, location)
            self._storages[key] = Swapped(storage, dtype.swap) if self.big and dtype.swap > 1 else storage
        return self._storages[key]


def _numbers(meta: dict[str, Any], name: str) -> tuple[int, ...]:
    found = meta.get(name)
    if not isinstance(found, list):
        raise CorruptCheckpoint(f"has {name} that are no list")
    return tuple(_number(value) for value in found)


def _number(value: Any) -> int:
    """``{"as_int": n}``; a symbolic size has no number and no place in a weight."""
    number = value.get("as_int") if isinstance(value, dict) else value
    if type(number) is not int:
        raise CorruptCheckpoint(f"has the size {value!r:.60}, which is no number")
    return number
