"""TorchScript of torch 1.0 to 1.3: ``model.json`` describes the modules, storages are records under ``tensors/``.

Source: ``caffe2/proto/torch.proto`` (``ModelDef``, ``ModuleDef``, ``TensorDef``) in protobuf's JSON, where 64-bit integers are texts.
Today's torch refuses these files. The program's code is not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from formats.core.checkpoint import Checkpoint, Ordered
from formats.core.dtype import BY_NAME, DType
from formats.core.errors import CorruptCheckpoint, LimitExceeded
from formats.core.files import SourceFile, opened
from formats.core.plain_json import document
from formats.core.probe import Probe
from formats.core.protocol import Match
from formats.core.storage import Storage
from formats.core.tensor import TensorView
from formats.core.zip import ZipDirectory

NAME = "model.json"
MAX_JSON = 64 << 20  # bytes of model.json
MAX_KEYS = 2_000_000
# `caffe2.TensorProto.DataType`
_DATA_TYPES = {
    "FLOAT": "float32", "INT32": "int32", "UINT8": "uint8", "INT8": "int8", "INT16": "int16", "INT64": "int64",
    "FLOAT16": "float16", "DOUBLE": "float64", "BOOL": "bool",
}  # fmt: skip


def sniff(probe: Probe) -> Match:
    """A ZIP with one ``model.json`` beside a folder ``tensors/``."""
    archive = probe.zip
    return Match.CERTAIN if archive is not None and _root(archive) is not None else Match.NO


def _root(archive: ZipDirectory) -> str | None:
    found = [member[: -len(NAME)] for member in archive.members if member == NAME or member.endswith(f"/{NAME}")]
    inside = len(found) == 1 and any(member.startswith(f"{found[0]}tensors/") for member in archive.members)
    return found[0] if inside else None


def read(path: Path) -> Checkpoint:
    """Structure of the program's weights at ``path``; storages are members of the archive, read when asked for."""
    return read_file(opened(path))


def read_file(file: SourceFile) -> Checkpoint:
    """The same from an open file."""
    archive = ZipDirectory(file)
    root = _root(archive)
    if root is None:
        raise CorruptCheckpoint(f"TorchScript archive has no single member {NAME}", path=file.path)
    model = document(archive.read(root + NAME, MAX_JSON), root + NAME)
    if not isinstance(model, dict) or not isinstance(model.get("mainModule"), dict) or not isinstance(model.get("tensors"), list):
        raise CorruptCheckpoint("model.json has no 'mainModule' with 'tensors'")
    tensors = _JsonTensors(archive, root, model["tensors"])
    state_dict = Ordered()
    stack: list[tuple[str, Any]] = [("", model["mainModule"])]
    while stack:
        prefix, module = stack.pop()
        for buffers in (False, True):
            for entry in _entries(module, "parameters"):
                if bool(entry.get("isBuffer", False)) is buffers:
                    key = prefix + _text(entry, "name")
                    if key in state_dict:
                        raise CorruptCheckpoint(f"model.json has two tensors named {key!r:.80}")
                    if len(state_dict) >= MAX_KEYS:
                        raise LimitExceeded(f"program with more than {MAX_KEYS} keys")
                    state_dict[key] = tensors.get(_number(entry, "tensorId"), parameter=not buffers)
        for entry in reversed(_entries(module, "submodules")):
            stack.append((f"{prefix}{_text(entry, 'name')}.", entry))
    metadata: dict[str, Any] = {"container": "torchscript model.json", "root": root.rstrip("/"), "byte_order": "little"}
    metadata |= {"version": f"{model.get('producerName', 'pytorch')!s:.40} {model.get('producerVersion', '1.0')!s:.40}"}
    return Checkpoint(file.path, "torchscript-json", state_dict, {}, metadata, [], [archive.file])


class _JsonTensors:
    """Tensors by their index; those that share a record share its storage."""

    def __init__(self, archive: ZipDirectory, root: str, described: list[Any]) -> None:
        self.archive = archive
        self.root = root
        self.described = described
        self._storages: dict[str, Storage] = {}

    def get(self, index: int, *, parameter: bool) -> TensorView:
        if not 0 <= index < len(self.described) or not isinstance(self.described[index], dict):
            raise CorruptCheckpoint(f"model.json refers to tensor {index} of {len(self.described)}")
        entry = self.described[index]
        dtype = self._dtype(entry)
        data = entry.get("data")
        key = _text(data, "key") if isinstance(data, dict) else ""
        if key not in self._storages:
            device = entry.get("device", "cpu")
            self._storages[key] = self.archive.storage(self.root + key, device if isinstance(device, str) else "cpu")
        shape, strides = (tuple(_integer(value, name) for value in _list(entry, name)) for name in ("dims", "strides"))
        return TensorView(
            dtype, shape, self._storages[key], _number(entry, "offset"), strides,
            requires_grad=entry.get("requiresGrad") is True, parameter=parameter,
        )  # fmt: skip

    def _dtype(self, entry: dict[str, Any]) -> DType:
        name = entry.get("dataType", "FLOAT")
        if name not in _DATA_TYPES:
            raise CorruptCheckpoint(f"model.json has the data type {name!r:.40}, which torch 1.0 does not write")
        return BY_NAME[_DATA_TYPES[name]]


def _list(entry: dict[str, Any], name: str) -> list[Any]:
    found = entry.get(name, [])
    if not isinstance(found, list):
        raise CorruptCheckpoint(f"{name!r} in model.json is a {type(found).__name__}, not a list")
    return found


def _entries(module: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = _list(module, name)
    if any(not isinstance(entry, dict) for entry in found):
        raise CorruptCheckpoint(f"{name!r} in model.json holds what is no object")
    return found


def _text(entry: dict[str, Any], name: str) -> str:
    found = entry.get(name)
    if not isinstance(found, str):
        raise CorruptCheckpoint(f"{name!r} in model.json is a {type(found).__name__}, not a text")
    return found


def _number(entry: dict[str, Any], name: str) -> int:
    return _integer(entry.get(name, 0), name)


def _integer(value: Any, name: str) -> int:
    """Protobuf's JSON writes 64-bit integers as texts."""
    if isinstance(value, str) and value.isascii() and value.removeprefix("-").isdigit() and len(value) <= 20:
        return int(value)
    if type(value) is not int:
        raise CorruptCheckpoint(f"{name!r} in model.json is {value!r:.40}, not an integer")
    return value
