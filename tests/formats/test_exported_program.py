"""`torch.export.save` archives of every layout, judged by `torch.export.load`."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from formats import registry
from formats.core.errors import CheckpointError
from tests.formats import conformance

pytestmark = pytest.mark.filterwarnings("ignore")


class Model(nn.Module):
    """Parameters, buffers of both kinds, tied and strided weights, lifted constants, narrow types."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.tied = nn.Linear(3, 4, bias=False)
        self.tied.weight = self.first.weight
        self.narrow = nn.Parameter(torch.randn(4).bfloat16(), requires_grad=False)
        self.strided = nn.Parameter(torch.randn(4, 4).t())
        self.register_buffer("volatile", torch.ones(2), persistent=False)
        self.constant = torch.arange(4.0).reshape(2, 2).t()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.first(x)) + self.tied(x) @ self.strided
        return y + self.volatile.sum() + self.constant.sum() + self.narrow.float()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.pt2"
    torch.export.save(torch.export.export(Model().eval(), (torch.randn(2, 3),)), path)
    return path


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, found: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in found.items():
            archive.writestr(name, data)
    return path


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


SCALAR_TYPES = {
    torch.uint8: 1, torch.int8: 2, torch.int16: 3, torch.int32: 4, torch.int64: 5, torch.float16: 6, torch.float32: 7,
    torch.float64: 8, torch.complex64: 10, torch.complex128: 11, torch.bool: 12, torch.bfloat16: 13, torch.float8_e5m2: 30,
}  # fmt: skip


class TestConformance(conformance.ReaderConformance):
    """Archives laid out as torch lays them out, around tensors that no program needs to use."""

    format = "exported-program"
    dtypes = tuple(SCALAR_TYPES)

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        found = {"m/archive_format": b"pt2", "m/archive_version": b"0", "m/byteorder": b"little"}
        config = {}
        for index, (name, tensor) in enumerate(tensors.items()):
            found[f"m/data/weights/weight_{index}"] = conformance.row_major_bytes(tensor)
            meta = {"dtype": SCALAR_TYPES[tensor.dtype], "sizes": [{"as_int": n} for n in tensor.shape], "requires_grad": False,
                    "device": {"type": "cpu", "index": None}, "strides": [{"as_int": n} for n in tensor.stride()],
                    "storage_offset": {"as_int": 0}, "layout": 7}  # fmt: skip
            config[name] = {"path_name": f"weight_{index}", "is_param": False, "use_pickle": False, "tensor_meta": meta}
        found["m/data/weights/model_weights_config.json"] = json.dumps({"config": config}).encode()
        pack(path, found)


class TestOlder(conformance.ReaderConformance):
    """torch 2.1 – 2.7."""

    format = "exported-program"
    dtypes = (*conformance.ReaderConformance.dtypes, torch.bfloat16)

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        pack(path, {"version": b"8.8", "serialized_exported_program.json": b"{}", "serialized_state_dict.pt": saved(tensors),
                    "serialized_constants.pt": saved({})})  # fmt: skip


def test_as_torch_loads_it(exported: Path) -> None:
    program = torch.export.load(exported)
    with registry.open(exported) as checkpoint:
        tree = checkpoint.tree
        ours = {key: (t.dtype.name, t.shape, t.tobytes()) for key, t in tree["state_dict"].items()}
        assert ours == conformance.expected(program.state_dict)
        assert list(ours) == list(program.state_dict)
        parameters = {key: p.requires_grad for key, p in program.state_dict.items() if isinstance(p, nn.Parameter)}
        assert {key: t.requires_grad for key, t in tree["state_dict"].items() if t.parameter} == parameters
        constants = {key: (t.dtype.name, t.shape, t.tobytes()) for key, t in tree["constants"].items()}
        assert constants == conformance.expected(program.constants)
        assert tree["state_dict"]["first.weight"].window() == tree["state_dict"]["tied.weight"].window()
        assert tree["state_dict"]["strided"].strides == tuple(program.state_dict["strided"].stride())


def test_layout_of_torch_2_8(exported: Path, tmp_path: Path) -> None:
    """Both kinds of tensors are files of `torch.save`; today's torch reads that layout too."""
    program = torch.export.load(exported)
    found = {n: d for n, d in members(exported).items() if "/data/weights/" not in n and "/data/constants/" not in n}
    root = next(iter(found)).split("/")[0]
    found[f"{root}/data/weights/model.pt"] = saved(program.state_dict)
    found[f"{root}/data/constants/model.pt"] = saved(dict(program.constants))
    path = pack(tmp_path / "older.pt2", found)
    judge = torch.export.load(path).state_dict
    with registry.open(path) as checkpoint:
        ours = checkpoint.tree["state_dict"]
        assert {key: (t.dtype.name, t.shape, t.tobytes()) for key, t in ours.items()} == conformance.expected(judge)
        assert list(checkpoint.tree["constants"]) == list(program.constants)


def test_several_models(exported: Path, tmp_path: Path) -> None:
    found = members(exported)
    root = next(iter(found)).split("/")[0]
    found[f"{root}/data/weights/second_weights_config.json"] = found[f"{root}/data/weights/model_weights_config.json"]
    with registry.open(pack(tmp_path / "two.pt2", found)) as checkpoint:
        assert list(checkpoint.tree) == ["model", "second"]


def test_compiled_program_is_refused_by_name(tmp_path: Path) -> None:
    path = pack(tmp_path / "aoti.pt2", {"m/archive_format": b"pt2", "m/data/aotinductor/model/x.so": b"\x7fELF"})
    with pytest.raises(CheckpointError, match="AOTInductor"):
        registry.open(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dtype", 0), ("dtype", 99), ("dtype", "7"), ("layout", 1), ("sizes", [{"as_int": 9}]), ("sizes", [{"as_int": -1}]), ("sizes", 3),
        ("sizes", [{"as_expr": {"expr_str": "s0"}}]), ("strides", []), ("strides", [{"as_int": 1 << 62}]),
        ("storage_offset", {"as_int": 99}), ("storage_offset", {"as_int": -1}),
    ],
)  # fmt: skip
def test_configs_that_lie(tmp_path: Path, field: str, value: Any) -> None:
    path = tmp_path / "lies.pt2"
    TestConformance().write({"w": torch.arange(4.0)}, path)
    found = members(path)
    config = json.loads(found["m/data/weights/model_weights_config.json"])
    config["config"]["w"]["tensor_meta"][field] = value
    found["m/data/weights/model_weights_config.json"] = json.dumps(config).encode()
    with pytest.raises(CheckpointError, match="'w'"):
        registry.open(pack(path, found))


@pytest.mark.parametrize("name", ["../archive_format", "weight_9", "/etc/passwd"])
def test_records_that_are_not_there(tmp_path: Path, name: str) -> None:
    path = tmp_path / "lies.pt2"
    TestConformance().write({"w": torch.arange(4.0)}, path)
    found = members(path)
    config = json.loads(found["m/data/weights/model_weights_config.json"])
    config["config"]["w"]["path_name"] = name
    found["m/data/weights/model_weights_config.json"] = json.dumps(config).encode()
    with pytest.raises(CheckpointError, match="no member"):
        registry.open(pack(path, found))
