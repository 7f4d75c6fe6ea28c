"""What is no checkpoint: refused by its own name, with exit 65 and something to do."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from formats import registry
from formats.core.errors import CheckpointError
from tests import command

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 46830571\n"
# name → (bytes, what the error says)
FILES: dict[str, tuple[bytes, str]] = {
    "empty.pth": (b"", "is empty"),
    "pointer.pth": (LFS, "Git-LFS pointer"),
    "page.pth": (b"<!DOCTYPE html>\n<html><head><title>404</title>", "web page"),
    "page2.pth": (b"\xef\xbb\xbf\n <HTML><body>Quota exceeded", "web page"),
    "denied.pth": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML document"),
    "openvino.xml": (b'<?xml version="1.0"?>\n<net name="resnet" version="11">', "OpenVINO"),
    "error.pth": (b'{"error": "Repository not found"}', "error message"),
    "vocab.json": (b'{"a": 1}', "JSON"),
    "weights.7z": (b"7z\xbc\xaf\x27\x1c\0\4", "7z archive"),
    "weights.rar": (b"Rar!\x1a\x07\x01\0", "RAR archive"),
    "keras.h5": (b"\x89HDF\r\n\x1a\n" + bytes(8), "HDF5"),
    "llama.gguf": (b"GGUF\3\0\0\0" + bytes(16), "GGUF"),
    "whisper.bin": (b"lmgg" + bytes(16), "GGML"),
    "model.pte": (b"\x1c\0\0\0ET12" + bytes(16), "ExecuTorch"),
    "model.tflite": (b"\x1c\0\0\0TFL3" + bytes(16), "TensorFlow Lite"),
    "model.ort": (b"\x1c\0\0\0ORTM" + bytes(16), "ONNX Runtime"),
    "saved_model.pb": (b"\x08\x01\x12\xd4\x01\x0a\x05serve", "SavedModel"),
    "frozen.pb": (b"\n\x2f\n\x05input\x12\x0bPlaceholder*\x0b", "frozen TensorFlow graph"),
    "model.ckpt.index": (bytes(40) + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "index of a TensorFlow checkpoint"),
    "model.ckpt.data-00000-of-00001": (bytes(range(1, 200)), "TensorFlow checkpoint"),
    "checkpoint": (b'model_checkpoint_path: "model.ckpt-1000"\n', "TensorFlow"),
    "model.mlmodel": (b"\x08\x05\x13\x55abc" + bytes(9), "CoreML|ONNX"),
    "lua.t7": (b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1\x11\0\0\0torch.FloatTensor", "Torch7"),
    "mx.params": (b"\x12\x01\0\0\0\0\0\0" + bytes(8), "MXNet"),
    "engine.trt": (b"ftrt" + bytes(8), "TensorRT"),
    "one.npy": (b"\x93NUMPY\1\0v\0", r"\.npy"),
    "lgbm.txt": (b"tree\nversion=v3\nnum_class=1\n", "LightGBM"),
    "xgb.bin": (b"binf" + bytes(8), "XGBoost"),
    "joblib.z": (b"\x78\x9c" + bytes(8), "zlib stream"),
    "script.py": (b"#!/usr/bin/env python\nimport torch\n", "program text"),
    "notes.txt": (b"These are my notes about the model.\n", "is a text"),
    "zeros.pth": (bytes(5000), "nothing but zeros"),
    "picture.pth": (b"\x89PNG\r\n\x1a\n", "PNG image"),
    "noise.pth": (bytes(range(131, 231)), "no checkpoint that is known"),
}


@pytest.mark.parametrize("name", sorted(FILES))
def test_files_by_their_content(tmp_path: Path, name: str) -> None:
    data, what = FILES[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=what) as error:
        registry.open(path)
    assert error.value.exit_code == 65
    assert "\n" not in str(error.value)


def test_renamed_files_are_known_all_the_same(tmp_path: Path) -> None:
    for name, (data, what) in FILES.items():
        if "data-0" in name or name.endswith(".mlmodel"):
            continue  # the content says nothing
        path = tmp_path / "model.pth"
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=what):
            registry.open(path)


ZIPS = {
    "model.keras": (["metadata.json", "config.json", "model.weights.h5"], "Keras"),
    "saved.zip": (["m/saved_model.pb", "m/variables/variables.index"], "SavedModel"),
    "app.jar": (["META-INF/MANIFEST.MF"], "Java"),
    "pkg.whl": (["x/__init__.py", "x-1.dist-info/METADATA"], "Python wheel"),
    "paper.docx": (["word/document.xml"], "Office"),
    "odd.zip": (["README.md"], "without a checkpoint|no checkpoint"),
}


@pytest.mark.parametrize("name", sorted(ZIPS))
def test_archives_by_their_members(tmp_path: Path, name: str) -> None:
    members, what = ZIPS[name]
    path = tmp_path / name
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            archive.writestr(member, "x")
    with pytest.raises(CheckpointError, match=what) as error:
        registry.open(path)
    assert error.value.exit_code == 65


def test_zip_with_a_password(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"w": torch.ones(2)}, path)
    data = bytearray(path.read_bytes())
    at = 0
    while (at := data.find(b"PK\1\2", at)) >= 0:  # the encrypted bit, in the directory and in each local header
        data[at + 8] |= 1
        data[int.from_bytes(data[at + 42 : at + 46], "little") + 6] |= 1
        at += 4
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="password") as error:
        registry.open(path)
    assert (error.value.exit_code, "password" in (error.value.hint or "")) == (65, True)


def test_tar_without_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "x.pth.tar"
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo("README")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    with pytest.raises(CheckpointError, match="checkpoint"):
        registry.open(path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_download_that_broke_off_says_how_much_is_missing(tmp_path: Path, share: float) -> None:
    path = tmp_path / "model.pth"
    torch.save({"w": torch.ones(50_000), "v": torch.zeros(3)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(int(len(whole) * share), 1000)])
    with pytest.raises(CheckpointError, match="cut off") as error:
        registry.open(path)
    missing = int(str(error.value).split("at least ")[1].split()[0])
    really = len(whole) - path.stat().st_size
    assert really * 0.9 - 3000 < missing <= really


@pytest.mark.parametrize("left", [1, 10])
def test_a_zip_that_broke_off_in_its_end_record_says_how_much_is_missing(tmp_path: Path, left: int) -> None:
    path = tmp_path / "cut.pth"
    torch.save({"w": torch.ones(3)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-left])
    with pytest.raises(CheckpointError, match=f"at least {left} of {len(whole)} bytes are missing"):
        registry.open(path)


def test_a_legacy_file_that_broke_off_says_how_much_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({f"w{i}": torch.ones(5000) for i in range(4)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=f"{len(whole) - len(whole) // 2} of {len(whole)} bytes are missing"):
        registry.open(path)


def test_inspect_prints_the_same_line(tmp_path: Path) -> None:
    path = tmp_path / "pointer.pth"
    path.write_bytes(LFS)
    shown, converted = command.run("inspect", path), command.run(path, "--to", "safetensors")
    assert shown.returncode == converted.returncode == 65
    assert shown.stderr == converted.stderr
    assert "git lfs pull" in shown.stderr
    assert not list(tmp_path.glob("*.safetensors"))
