"""NumPy's .npz; numpy is the judge."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from formats import registry
from formats.core import npy
from formats.core.checkpoint import Record
from formats.core.errors import CheckpointError, CorruptCheckpoint, UnknownFormat
from formats.core.tensor import TensorView
from tests.formats.conformance import ReaderConformance


class TestConformance(ReaderConformance):
    format = "npz"
    dtypes = (*ReaderConformance.dtypes, torch.bool, torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.uint64)

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **{name: tensor.numpy() for name, tensor in tensors.items()})


class TestDeflated(TestConformance):
    holds_bytes_in_memory = True  # a small deflated member is in memory once its header has been read

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, **{name: tensor.numpy() for name, tensor in tensors.items()})

    def test_memory_does_not_grow_with_the_tensor(self, tmp_path: Path) -> None:
        self.holds_bytes_in_memory = False
        super().test_memory_does_not_grow_with_the_tensor(tmp_path)


def _same(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with registry.open(path) as checkpoint:
        assert list(checkpoint.tree) == list(arrays)
        for name, array in arrays.items():
            view = checkpoint.tree[name]
            assert isinstance(view, TensorView)
            assert view.shape == array.shape
            little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
            assert view.dtype.name == little.dtype.name
            assert view.tobytes() == little.tobytes()


def test_byte_orders_and_fortran_order(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    plain = generator.standard_normal((3, 4, 5))
    arrays = {
        "big": plain.astype(">f4"), "big_int": np.arange(7, dtype=">i8"), "big_complex": (plain[0] * (1 + 2j)).astype(">c16"),
        "fortran": np.asfortranarray(plain), "both": np.asfortranarray(plain.astype(">f2")), "scalar": np.array(3.5, dtype=">f8"),
        "one": np.arange(5, dtype=np.int16), "no/thing": np.zeros((0, 3), dtype=np.float32),
    }  # fmt: skip
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        _same(tmp_path / "a.npz", arrays)


def test_objects_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "o.npz"
    np.savez(path, w=np.zeros(2), odd=np.array([{}], dtype=object))
    with pytest.raises(UnknownFormat, match="'odd'.*Python objects"):
        registry.open(path)
    np.savez(path, w=np.zeros(2), odd=np.array([(1, {})], dtype=[("a", "i4"), ("b", "O")]))
    with registry.open(path) as checkpoint:  # structured: never looked into, so never unpickled
        assert isinstance(checkpoint.tree["odd"], Record)


def test_values_that_are_no_tensors_stay_beside(tmp_path: Path) -> None:
    path = tmp_path / "o.npz"
    dates = np.array(["2020-01-01"], "M8[D]")
    np.savez(path, w=np.zeros(2), arch=np.array("résnet"), raw=np.array(b"abc"), names=np.array(["a", "b"]), day=dates)
    with registry.open(path) as checkpoint:
        assert checkpoint.tree["arch"] == "résnet"
        assert checkpoint.tree["raw"] == "abc"
        assert isinstance(checkpoint.tree["names"], Record)
        assert isinstance(checkpoint.tree["day"], Record)
        assert [path for path, _ in checkpoint.tensors()] == [("w",)]


def _header(text: str) -> bytes:
    raw = text.encode("latin-1")
    return npy.MAGIC + b"\x01\x00" + len(raw).to_bytes(2, "little") + raw


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }",
        "{'shape':(2,3),'descr':\"<f4\",'fortran_order':False}   \n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L)}",
    ],
)  # fmt: skip
def test_headers_of_other_writers(text: str) -> None:
    head = _header(text)
    assert npy.header_length(head) == len(head)
    assert npy.parse_header(head) == npy.Header(npy.BY_NAME["float32"], "<f4", False, False, (2, 3))


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "{}", "[]", "{'descr': '<f4'}", "{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2)}", "{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': (1,)}",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': ()}",
        "{'descr': __import__('os'), 'fortran_order': False, 'shape': ()}", "{'descr': '<f4', 'fortran_order': False, 'shape': (2,,3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 400 + ",)}", "{'descr': '<f4' 'fortran_order': False, 'shape': ()}",
        "{'descr': [[[[", "{'descr': '<f4', 'fortran_order': False, 'shape': ((2,),)}",
    ],
)  # fmt: skip
def test_headers_that_are_none(text: str) -> None:
    with pytest.raises(CheckpointError):
        npy.parse_header(_header(text))


@pytest.mark.parametrize("shape", [(2**62, 2**62), (1 << 40,), (3,)])
def test_sizes_that_lie(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "lies.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", _header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}") + bytes(8))
    with pytest.raises(CorruptCheckpoint, match="'w'.*needs"):
        registry.open(path)


def test_made_headers_are_numpys(tmp_path: Path) -> None:
    for name in npy.DESCR:
        for shape in ((), (3,), (2, 5), (0, 4)):
            np.save(tmp_path / "a.npy", np.zeros(shape, dtype=name))
            head = (tmp_path / "a.npy").read_bytes()
            assert head[: npy.header_length(head)] == npy.make_header(name, shape)


def test_crc_of_the_data_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, w=np.arange(1000.0))
    with registry.open(path) as checkpoint:
        storage = checkpoint.tree["w"].storage
        assert storage.stored_crc() == zlib.crc32(np.arange(1000.0).tobytes())
