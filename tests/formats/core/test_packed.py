"""Row-major bytes of strided windows, judged by ``torch.as_strided(…).contiguous()``."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from formats.core import array_copy, packed
from formats.core.dtype import BY_NAME
from formats.core.errors import Unsupported
from formats.core.files import SourceFile
from formats.core.packed import Packed
from formats.core.storage import BytesStorage, FileSpan, Storage, Swapped, read_all
from formats.core.tensor import TensorView
from formats.core.zip import ZipDirectory
from tests.torch_reading import row_major_bytes

torch.set_num_threads(1)

WIDTHS = ["uint8", "float16", "float32", "float64", "complex64", "complex128"]


def expected(view: TensorView, storage: bytes) -> bytes:
    flat = torch.frombuffer(bytearray(storage), dtype=getattr(torch, view.dtype.name))
    tensor = torch.as_strided(flat, view.shape, view.strides, view.offset)
    if view.conj:
        tensor = tensor.conj().resolve_conj()
    if view.neg:
        tensor = torch._neg_view(tensor).resolve_neg()
    return row_major_bytes(tensor.clone(memory_format=torch.contiguous_format))


@st.composite
def windows(draw: st.DrawFn) -> tuple[str, tuple[int, ...], tuple[int, ...], int]:
    sizes = tuple(draw(st.lists(st.integers(1, 9), max_size=5)))
    strides = tuple(draw(st.sampled_from([0, 1, 1, 2, 3, 7, 64, 700])) for _ in sizes)
    return draw(st.sampled_from(WIDTHS)), sizes, strides, draw(st.integers(0, 5))


def window(name: str, sizes: tuple[int, ...], strides: tuple[int, ...], offset: int, **bits: bool) -> tuple[TensorView, bytes]:
    extent = offset + 1 + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
    count = extent * BY_NAME[name].itemsize
    # Every byte differs from its neighbours; the top bytes stay small, so that no pattern is a NaN.
    data = bytes((7 * i + (i >> 8)) & 0x3F for i in range(count))
    return TensorView(BY_NAME[name], sizes, BytesStorage(data), offset, strides, **bits), data


WAYS = ["compiled", "numpy", "views"]


def copied_by(way: str, patch: pytest.MonkeyPatch) -> None:
    """Have boxes copied in one of `WAYS`, however small they are."""
    if way == "compiled":
        if array_copy._compiled is None:
            pytest.skip("formats.core._strided is not built: there was no compiler")
        patch.setattr(array_copy, "_by_numpy", None)  # nobody else is asked
        return
    patch.setattr(array_copy, "_compiled", None)
    patch.setattr(array_copy, "PAYS", 0)
    patch.setattr(array_copy, "LEAST", 0 if way == "numpy" else 1 << 60)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=100, deadline=None)
@given(windows(), st.sampled_from([64, 1000, 1 << 20]), st.data())
def test_any_window(way: str, given_: tuple[str, tuple[int, ...], tuple[int, ...], int], block: int, data: st.DataObject) -> None:
    """All blocks, windows of source and gaps give the same bytes, from any byte to any byte, whoever copies them."""
    view, storage = window(*given_)
    wanted = expected(view, storage)
    with pytest.MonkeyPatch.context() as patch:
        copied_by(way, patch)
        patch.setattr(array_copy, "TILE", data.draw(st.sampled_from([2, 32])))
        patch.setattr(packed, "SMALL_BLOCK", block)
        patch.setattr(packed, "BLOCK", 4 * block)
        patch.setattr(packed, "WINDOW", data.draw(st.sampled_from([64, 1000, 1 << 20])))
        patch.setattr(packed, "GAP", data.draw(st.sampled_from([0, 32, 8192])))
        storage_ = Packed(view)
        assert storage_.nbytes == len(wanted)
        assert read_all(storage_) == wanted
        start = data.draw(st.integers(0, len(wanted)))
        stop = data.draw(st.integers(start, len(wanted)))
        assert read_all(storage_, start, stop) == wanted[start:stop]


@settings(max_examples=60, deadline=None)
@given(windows(), st.booleans(), st.booleans(), st.data())
def test_lazy_bits(given_: tuple[str, tuple[int, ...], tuple[int, ...], int], conj: bool, neg: bool, data: st.DataObject) -> None:
    """conj and neg are resolved as torch resolves them, for pieces that begin inside an element too."""
    name, sizes, strides, offset = given_
    view, storage = window(name, sizes, strides, offset, conj=conj and name.startswith("complex"), neg=neg)
    wanted = expected(view, storage)
    start = data.draw(st.integers(0, len(wanted)))
    assert read_all(view.row_major()) == wanted
    assert read_all(Packed(view), start) == wanted[start:]


@pytest.mark.parametrize("name", ["uint8", "int8", "int16", "int32", "int64"])
def test_negated_integers(name: str) -> None:
    values = torch.tensor([0, 1, 5, 100, 127], dtype=getattr(torch, name))
    if name.startswith("int"):
        values = torch.cat([values, torch.tensor([-1, torch.iinfo(values.dtype).min], dtype=values.dtype)])
    view = TensorView(BY_NAME[name], (len(values),), BytesStorage(row_major_bytes(values)), neg=True)
    assert read_all(view.row_major()) == row_major_bytes(-values)


@pytest.mark.parametrize("name", ["bool", "qint8", "float8_e8m0fnu", "float8_e4m3fnuz", "float4_e2m1fn_x2"])
def test_what_has_no_negative(name: str) -> None:
    with pytest.raises(Unsupported, match=name):
        Packed(TensorView(BY_NAME[name], (2,), BytesStorage(b"\1\0"), neg=True))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["conv", "channels", "transposed", "expanded", "columns", "permuted"])
def test_customary_views(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole blocks of the layouts that models really have."""
    copied_by(way, monkeypatch)
    tensor = {
        "conv": lambda: torch.randn(96, 64, 3, 3).to(memory_format=torch.channels_last),
        "channels": lambda: torch.randn(2, 48, 33, 65).to(memory_format=torch.channels_last),
        "transposed": lambda: torch.randn(700, 1100).t(),
        "expanded": lambda: torch.randn(1100).expand(600, 1100),
        "columns": lambda: torch.randn(900, 1024)[:, 3:1000:7],
        "permuted": lambda: torch.randn(11, 12, 13, 14, 15).permute(4, 1, 2, 0, 3),
    }[name]()
    storage = torch.tensor([]).set_(tensor.untyped_storage()).numpy().tobytes()
    view = TensorView(BY_NAME["float32"], tuple(tensor.shape), BytesStorage(storage), tensor.storage_offset(), tensor.stride())
    assert read_all(Packed(view)) == row_major_bytes(tensor)


class Counting:
    """A storage that counts what is read of it."""

    location = "cpu"

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self.nbytes = inner.nbytes
        self.read = self.reads = 0

    def chunks(self, start: int, stop: int):  # type: ignore[no-untyped-def]
        self.read += stop - start
        self.reads += 1
        return self.inner.chunks(start, stop)


def test_a_transposed_matrix_is_read_once_and_never_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No block reads the matrix again, and no window holds it."""
    matrix = torch.randn(512, 8192)
    path = tmp_path / "matrix"
    path.write_bytes(row_major_bytes(matrix))
    monkeypatch.setattr(packed, "BLOCK", 1 << 20)
    monkeypatch.setattr(packed, "SMALL_BLOCK", 1 << 18)
    monkeypatch.setattr(packed, "WINDOW", 1 << 20)
    storage = Counting(FileSpan(SourceFile(path), 0, matrix.nbytes))
    view = TensorView(BY_NAME["float32"], (8192, 512), storage, 0, (1, 8192))
    blocks = [bytes(piece) for piece in Packed(view).chunks(0, view.nbytes)]
    assert b"".join(blocks) == row_major_bytes(matrix.t())
    assert max(map(len, blocks)) <= 1 << 20
    assert storage.read == matrix.nbytes


def test_storages_that_are_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deflated record is inflated forward; a big-endian one is swapped."""
    import zipfile

    monkeypatch.setattr(packed, "WINDOW", 1 << 14)
    tensor = torch.arange(300 * 400, dtype=torch.int32).reshape(300, 400)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("r", row_major_bytes(tensor))
    deflated = ZipDirectory(SourceFile(tmp_path / "a.zip")).storage("r")
    view = TensorView(BY_NAME["int32"], (400, 300), deflated, 0, (1, 400))
    assert read_all(view.row_major()) == row_major_bytes(tensor.t())
    swapped = Swapped(BytesStorage(tensor.numpy().astype(">i4").tobytes()), 4)
    view = TensorView(BY_NAME["int32"], (400, 300), swapped, 0, (1, 400))
    assert zlib.crc32(read_all(view.row_major())) == zlib.crc32(row_major_bytes(tensor.t()))
