"""Plain pickles of modules, tensors and arrays, judged by Python's own unpickling of what the test itself wrote."""

from __future__ import annotations

import argparse
import collections
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from convert.modules import state_dict_of
from formats import registry
from formats.core.errors import CheckpointError
from formats.core.files import SourceFile
from formats.core.pickle_literals import LONG, Condensed
from formats.core.storage import plain_span, read_all
from formats.core.tensor import TensorView
from tests.formats import conformance
from tests.torch_reading import row_major_bytes


def dump(value: Any, path: Path, protocol: int = 4) -> Path:
    with path.open("wb") as file:
        pickle.dump(value, file, protocol)
    return path


class TestConformance(conformance.ReaderConformance):
    format = "pickled-module"
    dtypes = (*conformance.ReaderConformance.dtypes, torch.bool, torch.bfloat16, torch.complex64)

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        dump(tensors, path)


class TestArrays(conformance.ReaderConformance):
    """NumPy arrays, as detectron2's model zoo keeps them."""

    format = "pickled-module"
    dtypes = (*conformance.ReaderConformance.dtypes, torch.bool, torch.complex64, torch.complex128, torch.uint16)

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        dump({name: tensor.numpy() for name, tensor in tensors.items()}, path, 2 + len(tensors) % 2)

    def test_memory_does_not_grow_with_the_tensor(self, tmp_path: Path) -> None:
        """Protocol 2 spells bytes as text, which cannot stay in the file; from protocol 3 on they do."""
        path = dump({"large": np.zeros(24 << 20, np.uint8)}, tmp_path / "large", 3)
        with registry.open(path) as checkpoint:
            assert plain_span(checkpoint.tree["large"].storage) is not None

    def test_closes_its_files(self, tmp_path: Path) -> None:
        path = dump({"large": np.zeros(4 << 20, np.uint8)}, tmp_path / "large", 5)
        checkpoint = registry.open(path)
        checkpoint.close()
        with pytest.raises((CheckpointError, OSError)):
            checkpoint.tree["large"].tobytes()

    def test_reading_the_structure_reads_no_tensor(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            type(self), "write", lambda _, tensors, path: dump({k: t.numpy() for k, t in tensors.items()}, path, 5)
        )
        super().test_reading_the_structure_reads_no_tensor(tmp_path, monkeypatch)

    def test_a_file_that_shrinks_is_refused(self, tmp_path: Path) -> None:
        """See protocol 5 in the test above: protocol 2 has read everything by then."""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(40, 40)
        self.register_buffer("volatile", torch.ones(3), persistent=False)


@pytest.mark.parametrize("protocol", range(6))
def test_whole_module(tmp_path: Path, protocol: int) -> None:
    model = Net()
    path = dump(model, tmp_path / "model.pkl", protocol)
    with registry.open(path) as checkpoint:
        ours = state_dict_of(checkpoint.tree).tensors
        assert list(ours) == list(model.state_dict())
        assert {k: (t.dtype.name, t.shape, t.tobytes()) for k, t in ours.items()} == conformance.expected(model.state_dict())
        assert checkpoint.globals[f"{Net.__module__}.Net"] >= 0
        if protocol >= 3:
            assert plain_span(ours["head.weight"].storage) is not None  # opened in place, not copied


@pytest.mark.parametrize("protocol", range(6))
def test_storages_in_both_containers(tmp_path: Path, protocol: int) -> None:
    """Older releases put a legacy pickle into each storage, newer ones could put a ZIP."""
    import io

    class Zipped:
        def __init__(self, tensor: torch.Tensor) -> None:
            buffer = io.BytesIO()
            torch.save(tensor.untyped_storage() if protocol % 2 else tensor.storage(), buffer)
            self.data, self.size = buffer.getvalue(), tuple(tensor.shape)

        def __reduce__(self) -> Any:
            return torch.storage._load_from_bytes, (self.data,)

    tensor = torch.arange(2000.0)

    class Outer:
        def __reduce__(self) -> Any:
            build = torch._utils._rebuild_tensor_v3 if protocol % 2 else torch._utils._rebuild_tensor_v2
            tail = (torch.float32,) if protocol % 2 else ()
            return build, (Zipped(tensor), 0, (2000,), (1,), False, collections.OrderedDict(), *tail)

    path = dump({"w": Outer()}, tmp_path / "z.pkl", protocol)
    assert torch.equal(pickle.loads(path.read_bytes())["w"], tensor)
    assert conformance.contents(path) == conformance.expected({"w": tensor})


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("size", [3, 5000])
def test_arrays_of_every_kind(tmp_path: Path, protocol: int, size: int) -> None:
    rng = np.random.default_rng(1)
    arrays = {
        "c": rng.random((size, 3)), "fortran": np.asfortranarray(rng.random((size, 3)).astype("f4")),
        "swapped": rng.integers(0, 99, size).astype(">i4"), "bool": rng.random(size) > 0.5, "scalar": np.array(3.5),
        "half": rng.random(size).astype("f2"), "complex": rng.random(size) * 1j, "empty": np.zeros((0, size)),
        "strided": rng.random((size, 4))[::2, ::2],
    }  # fmt: skip
    path = dump(
        {"model": arrays, "__author__": "x", "names": np.array(["a", "b"]), "objects": np.array([None])}, tmp_path / "a", protocol
    )
    with registry.open(path) as checkpoint:
        found = checkpoint.tree["model"]
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            assert (found[name].dtype.name, found[name].shape) == (array.dtype.name, array.shape), name
            assert found[name].tobytes() == plain.tobytes(), name
        assert not isinstance(checkpoint.tree["names"], TensorView)


def test_long_byte_strings_that_are_no_tensor_stay_inert(tmp_path: Path) -> None:
    path = dump({"w": torch.ones(2), "blob": b"x" * 100_000}, tmp_path / "blob.pkl")
    with registry.open(path) as checkpoint:
        assert checkpoint.tree["blob"].name == "builtins.bytes"


def test_several_pickles_in_one_file(tmp_path: Path) -> None:
    path = dump({"w": torch.ones(2)}, tmp_path / "two.pkl")
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(CheckpointError, match="bytes follow the pickle"):
        registry.open(path)


# -- what is left in the file ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("protocol", range(6))
def test_condensed_pickle_is_the_same_but_for_its_literals(tmp_path: Path, protocol: int) -> None:
    blobs = [bytes([i]) * (LONG + i - 1) for i in range(4)]
    value = {
        "a": blobs,
        "b": (1, -5, 2**70, 1.5, "ü\n", None, True, {1, 2}, frozenset("x")),
        "again": blobs[2],
        "n": argparse.Namespace(x=1),
    }
    path = dump(value, tmp_path / "c.pkl", protocol)
    file = SourceFile(path)
    condensed = Condensed(file)
    assert condensed.end == file.size

    class Loader(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            return read_all(condensed.literals[pid])

    import io

    assert Loader(io.BytesIO(condensed.data)).load() == value
    assert len(condensed.literals) == (3 if protocol >= 3 else 0)
    if protocol >= 3:
        assert len(condensed.data) < 6000
    file.close()


# -- what is refused by its own name -----------------------------------------------------------------------------------------------
def fake(module: str, name: str = "Thing") -> Any:
    """An object of a class that only this test has, under somebody else's name."""
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
    cls = type(name, (), {"__module__": module})
    setattr(sys.modules[module], name, cls)
    return cls()


@pytest.mark.parametrize(
    ("module", "what"),
    [
        ("sklearn.linear_model._base", "scikit-learn"),
        ("xgboost.core", "XGBoost"),
        ("lightgbm.basic", "LightGBM"),
        ("paddle", "Paddle"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_other_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, what: str, protocol: int) -> None:
    before = dict(sys.modules)
    try:
        thing = fake(module)
        thing.coef_ = np.ones(3) if what != "Paddle" else None
        path = dump(thing, tmp_path / "model.pkl", protocol)
    finally:
        for name in set(sys.modules) - set(before):
            del sys.modules[name]
    with pytest.raises(CheckpointError, match=what):
        registry.open(path)


@pytest.mark.parametrize("value", [[1, 2, 3], None, "text", {"lr": 0.1}, argparse.Namespace(epochs=3)])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_without_a_tensor(tmp_path: Path, value: Any, protocol: int) -> None:
    path = dump(value, tmp_path / "args.bin", protocol)
    with pytest.raises(CheckpointError) as error:
        registry.open(path)
    assert error.value.exit_code == 65
    if protocol:
        assert "no weights" in str(error.value)


def test_paddle_parameters(tmp_path: Path) -> None:
    path = dump({"fc.w_0": np.ones(3), "StructuredToParameterName@@": {"fc.w_0": "w"}}, tmp_path / "model.pdparams")
    with pytest.raises(CheckpointError, match="Paddle"):
        registry.open(path)


def test_joblib_dump(tmp_path: Path) -> None:
    """joblib writes an array's bytes between the opcodes of the pickle."""
    body = b"\x80\x04cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81" + np.arange(9.0).tobytes() + b"."
    path = tmp_path / "model.joblib"
    path.write_bytes(body)
    with pytest.raises(CheckpointError, match="joblib"):
        registry.open(path)


@pytest.mark.parametrize("blob", [b"", b"junk" * 2000, pickle.dumps([1])])
def test_storages_that_are_no_checkpoint(tmp_path: Path, blob: bytes) -> None:
    class Bad:
        def __reduce__(self) -> Any:
            return torch.storage._load_from_bytes, (blob,)

    with pytest.raises(CheckpointError):
        registry.open(dump({"w": Bad(), "t": torch.ones(1)}, tmp_path / "bad.pkl"))


def test_storages_inside_storages_end_at_a_stated_depth(tmp_path: Path) -> None:
    value: Any = torch.ones(2).untyped_storage()

    class Nest:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def __reduce__(self) -> Any:
            return torch.storage._load_from_bytes, (self.data,)

    data = pickle.dumps(torch.ones(3))
    for _ in range(6):
        data = pickle.dumps({"x": Nest(data), "t": torch.ones(1)})
    path = tmp_path / "nest.pkl"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="archives deep"):
        registry.open(path)
    assert value is not None


def test_row_major_of_a_transposed_tensor(tmp_path: Path) -> None:
    tensor = torch.arange(4000.0).reshape(40, 100).t()
    path = dump(tensor, tmp_path / "t.pkl")
    with registry.open(path) as checkpoint:
        assert checkpoint.tree.strides == (1, 100)
        assert checkpoint.tree.tobytes() == row_major_bytes(tensor)
