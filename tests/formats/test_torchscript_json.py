"""torch 1.0's TorchScript, which no torch reads any more: files written by hand after ``caffe2/proto/torch.proto``."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from formats import registry
from formats.core.errors import CheckpointError
from tests.formats import conformance

DATA_TYPES = {
    torch.float64: "DOUBLE", torch.float32: "FLOAT", torch.float16: "FLOAT16", torch.int64: "INT64", torch.int32: "INT32",
    torch.int16: "INT16", torch.int8: "INT8", torch.uint8: "UINT8",
}  # fmt: skip


class TestConformance(conformance.ReaderConformance):
    format = "torchscript-json"

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        described, parameters = [], []
        with zipfile.ZipFile(path, "w") as archive:
            for index, (name, tensor) in enumerate(tensors.items()):
                archive.writestr(f"m/tensors/{index}", conformance.row_major_bytes(tensor))
                parameters.append({"isBuffer": False, "tensorId": str(index), "name": name})
                dims, strides = ([str(n) for n in numbers] for numbers in (tensor.shape, tensor.stride()))
                described.append({"dims": dims, "offset": "0", "strides": strides, "requiresGrad": False, "device": "cpu",
                                  "dataType": DATA_TYPES[tensor.dtype], "data": {"key": f"tensors/{index}"}})  # fmt: skip
            model = {"protoVersion": "2", "mainModule": {"name": "M", "parameters": parameters}, "tensors": described}
            archive.writestr("m/model.json", json.dumps(model))


def model_json() -> dict[str, Any]:
    def parameter(name: str, index: int, is_buffer: bool) -> dict[str, Any]:
        return {"isBuffer": is_buffer, "tensorId": str(index), "name": name}

    def tensor(dims: list[int], strides: list[int], key: str, kind: str, offset: int = 0) -> dict[str, Any]:
        return {"dims": [str(n) for n in dims], "offset": str(offset), "strides": [str(n) for n in strides], "requiresGrad": True,
                "dataType": kind, "data": {"key": key}, "device": "cpu"}  # fmt: skip

    inner = {"name": "fc", "optimize": True, "parameters": [parameter("count", 2, True), parameter("bias", 1, False)]}
    return {
        "protoVersion": "2", "producerName": "pytorch", "producerVersion": "1.0",
        "mainModule": {"torchscriptArena": {"key": "code/x.py"}, "name": "M", "optimize": True,
                       "parameters": [parameter("weight", 0, False)], "submodules": [inner]},
        "tensors": [tensor([2, 3], [1, 2], "tensors/0", "FLOAT"), tensor([2], [1], "tensors/0", "FLOAT", 4),
                    tensor([], [], "tensors/1", "INT64")],
    }  # fmt: skip


def write_json(path: Path, model: Any, data: bytes = torch.arange(6.0).numpy().tobytes()) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/version", "1")
        archive.writestr("m/code/x.py", "op_version_set = 0\n")
        archive.writestr("m/tensors/0", data)
        archive.writestr("m/tensors/1", (7).to_bytes(8, "little"))
        archive.writestr("m/model.json", json.dumps(model) if not isinstance(model, str) else model)


def test_model_json_of_torch_1_0(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    write_json(path, model_json())
    with registry.open(path) as checkpoint:
        tree = checkpoint.tree
        base = torch.arange(6.0)
        wanted = {"weight": base.as_strided((2, 3), (1, 2)), "fc.bias": base[4:6], "fc.count": torch.tensor(7)}
        assert {k: (t.dtype.name, t.shape, t.tobytes()) for k, t in tree.items()} == conformance.expected(wanted)
        assert list(tree) == list(wanted)
        assert [t.parameter for t in tree.values()] == [True, True, False]
        assert tree["weight"].storage is tree["fc.bias"].storage


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("tensors", 0, "dims"), ["3", "3"]), (("tensors", 0, "dims"), [-1]), (("tensors", 0, "offset"), "9" * 30),
        (("tensors", 0, "data"), {"key": "../../etc/passwd"}), (("tensors", 0, "data"), None), (("tensors", 0, "dataType"), "COMPLEX"),
        (("tensors", 0, "strides"), ["1"]), (("mainModule", "parameters"), [{"tensorId": "8", "name": "w"}]),
        (("mainModule", "parameters"), [7]), (("mainModule", "submodules"), {}), (("mainModule",), []), (("tensors",), None),
    ],
)  # fmt: skip
def test_model_json_that_lies(tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    model: Any = model_json()
    at = model
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    path = tmp_path / "lies.pt"
    write_json(path, model)
    with pytest.raises(CheckpointError):
        registry.open(path)


def test_model_json_nested_too_deeply(tmp_path: Path) -> None:
    path = tmp_path / "deep.pt"
    write_json(path, "[" * 200_000)
    with pytest.raises(CheckpointError, match=r"nested too deeply|malformed"):
        registry.open(path)
