"""What fuzzing has found, one test each."""

from __future__ import annotations

import io
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch

from formats import registry
from formats.core.errors import CheckpointError
from tests.fuzz.differences import deliberate
from tests.hostile import pieces


def test_a_header_does_not_choose_a_codec(tmp_path: Path) -> None:
    """json guesses the encoding of bytes and loads a codec for it; a header is UTF-8 or refused."""
    path = tmp_path / "model.safetensors"
    header = b'{"\0a\\n":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    for name in ("encodings.utf_16_le", "encodings.utf_16_be", "encodings.utf_32_be"):
        sys.modules.pop(name, None)
    with pytest.raises(CheckpointError):
        registry.open(path)
    assert not {"encodings.utf_16_be", "encodings.utf_16_le"} & sys.modules.keys()


@pytest.mark.parametrize("name", ["m/data/weights/model_weights_config.json", "code/model.json"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-be"])
def test_a_description_does_not_choose_a_codec(name: str, encoding: str, tmp_path: Path) -> None:
    """The same of JSON in an archive."""
    members = {"m/archive_format": "pt2", "m/archive_version": "0"} if name.startswith("m/") else {"code/tensors/0": ""}
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in members.items():
            archive.writestr(member, text)
        archive.writestr(name, '{"config": {}}'.encode(encoding))
    codec = f"encodings.{encoding.replace('-', '_')}"
    sys.modules.pop(codec, None)
    with pytest.raises(CheckpointError, match="no JSON text"):
        registry.open(path)
    assert codec not in sys.modules


def _manifest(path: Path) -> object:
    from convert.release import manifest

    return manifest.load(path)


def _report(path: Path) -> object:
    from convert.release.tree import _reported

    return list(_reported(path.parent, path))


def _rest(path: Path) -> object:
    from convert.rest import _document

    return _document(path)


@pytest.mark.parametrize("read", [_manifest, _report, _rest])
def test_neither_does_a_document_beside_weights(read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_bytes('{"rows": []}'.encode("utf-16-le"))
    sys.modules.pop("encodings.utf_16_le", None)
    with pytest.raises(CheckpointError):
        read(path)
    assert "encodings.utf_16_le" not in sys.modules


def _around(name: str, content: bytes, path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), content)
    path.write_bytes(out.getvalue())


@pytest.mark.parametrize("name", ["/etc/policy.pth", "two\nlines.pth", "a\x1b[31m.pth", "\u202e.pth"])
def test_a_member_cannot_rename_the_file_in_an_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "outer.zip"
    _around(name, b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", path)  # a legacy file that ends after its magic number
    with pytest.raises(CheckpointError) as caught:
        registry.open(path)
    assert str(caught.value).startswith(f"{path}/")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", [False, None, 0, "x", 2])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_lazy_bit_that_is_there_and_not_true(value: object, legacy: bool, tmp_path: Path) -> None:
    """torch negates and conjugates where the name is there, whatever it says: neither reading may be picked in silence."""
    tensor = torch.ones(2, dtype=torch.complex64).conj()
    path = tmp_path / "model.pth"
    torch.save({"w": tensor}, path, _use_new_zipfile_serialization=not legacy)
    with registry.open(path) as checkpoint:
        assert [view.tobytes() for _, view in checkpoint.tensors()] == [tensor.resolve_conj().numpy().tobytes()]
    original = torch._utils.get_tensor_metadata
    try:
        torch._utils.get_tensor_metadata = torch._tensor.get_tensor_metadata = lambda _: {"conj": value}  # type: ignore[attr-defined]
        torch.save({"w": tensor}, path, _use_new_zipfile_serialization=not legacy)
    finally:
        torch._utils.get_tensor_metadata = torch._tensor.get_tensor_metadata = original  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="lazy bits"):
        registry.open(path)


def test_a_damaged_header_does_not_make_an_array_vanish(tmp_path: Path) -> None:
    """An array of no type that a tensor has is left out and listed; one whose CRC-32 is wrong is refused."""
    path = tmp_path / "model.npz"
    numpy.savez(path, a=numpy.ones(2, numpy.float32), b=numpy.ones(3, numpy.int64))
    path.write_bytes(path.read_bytes().replace(b"'<f4'", b"'<g4'"))
    with pytest.raises(CheckpointError, match="CRC-32"):
        registry.open(path)


def test_records_that_differ_only_by_case_are_refused(tmp_path: Path) -> None:
    """torch looks for `data/0` and finds `DATA/0`, depending on what else the archive holds."""
    path = tmp_path / "model.pth"
    torch.save({"w": torch.ones(2)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/DATA/0", bytes(8))
    with pytest.raises(CheckpointError, match="does not tell apart"):
        registry.open(path)


def test_a_record_with_the_folder_bit_is_refused(tmp_path: Path) -> None:
    """torch gives memory that it never wrote for a record that DOS's attributes call a folder."""
    path = tmp_path / "model.pth"
    torch.save({"w": torch.ones(2)}, path)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\1\2", 0, data.rindex(b"model/data/0"))
    data[at + 38] |= 0x10
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="no plain file"):
        registry.open(path)


def test_an_empty_tensor_with_lazy_bits_and_any_stride(tmp_path: Path) -> None:
    storage = pieces.storage(cls="torch.ComplexFloatStorage", count=pieces.number(3))
    bits = b"}" + pieces.text("conj") + b"\x88s"
    tensor = pieces.tensor(b"K\0\x85", pieces.number((1 << 32) - 1) + b"\x85", kept=storage, rest=bits)
    path = tmp_path / "model.pth"
    path.write_bytes(pieces.archive(pieces.state(pieces.text("w"), tensor)))
    with registry.open(path) as checkpoint:
        assert [view.tobytes() for _, view in checkpoint.tensors()] == [b""]


def test_a_backslash_in_the_name_of_an_array_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    numpy.savez(path, **{"a\\b": numpy.ones(2, numpy.float32), "c/d": numpy.zeros(1, numpy.float32)})
    with registry.open(path) as checkpoint:
        assert sorted(checkpoint.tree) == sorted(numpy.load(path).files) == ["a\\b", "c/d"]


def test_a_long_name_of_a_member_does_not_make_a_long_error(tmp_path: Path) -> None:
    path = tmp_path / "outer.zip"
    _around("x" * 60_000 + ".pth", b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", path)
    with pytest.raises(CheckpointError) as caught:
        registry.open(path)
    assert len(str(caught.value)) < 1200


def test_a_storage_of_two_types_is_read_as_each_says(tmp_path: Path) -> None:
    """The file names a class for each use; torch gives all of them the type of the first."""
    source, path = tmp_path / "source.pth", tmp_path / "model.pth"
    torch.save({"a": torch.ones(2), "b": torch.zeros(2, dtype=torch.int32)}, source)
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(path, "w") as after:
        for info in before.infolist():
            data = before.read(info)
            after.writestr(info, data.replace(b"X\1\0\0\0001", b"X\1\0\0\0000") if info.filename.endswith("data.pkl") else data)
    with registry.open(path) as checkpoint:
        assert [(view.dtype.name, view.tobytes()) for _, view in checkpoint.tensors()] == [
            ("float32", b"\0\0\x80?" * 2),
            ("int32", b"\0\0\x80?" * 2),
        ]
    loaded = torch.load(path, weights_only=True)
    assert loaded["b"].dtype == torch.float32
    assert deliberate("zip", path.read_bytes(), [], []) is not None
    assert deliberate("zip", source.read_bytes(), [], []) is None
