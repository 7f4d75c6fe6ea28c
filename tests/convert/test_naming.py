"""Names and places of outputs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convert import naming
from formats.core.errors import OutputError

KNOWN = {*naming.SUFFIXES, ".pth.tar"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("in.pth.tar", "in"),
        ("in.pth", "in"),
        ("resnet-50.a1.PTH", "resnet-50.a1"),
        ("pytorch_model.bin", "pytorch_model"),
        ("model.tar.gz", "model"),
        (".pth", ".pth"),
        ("noend", "noend"),
        ("epoch=3.ckpt", "epoch=3"),
    ],
)
def test_known_suffixes_are_taken_off(source: str, expected: str) -> None:
    assert naming.stem(source, KNOWN) == expected


def test_several_models_have_names_of_their_own() -> None:
    base = Path("d/in.safetensors")
    assert naming.of_model(base, "", "safetensors") == base
    assert naming.of_model(base, "generator", "safetensors") == Path("d/in.generator.safetensors")
    assert naming.of_model(Path("d/out.pth.tar"), "g", "pth.tar") == Path("d/out.g.pth.tar")
    assert naming.of_model(Path("d/out"), "g", "pth") == Path("d/out.g")


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "..", "a\0b", "\x1b[31m", "x" * 500, "é", "…"])
def test_a_models_name_cannot_leave_the_folder(name: str) -> None:
    made = naming.of_model(Path("d/in.pth"), name, "pth")
    assert made.parent == Path("d")
    assert "/" not in made.name
    assert made.name.isascii()
    assert made.name.isprintable()
    assert len(made.name) < 120


@pytest.mark.parametrize("kind", ["exists", "folder", "link", "dangling", "pipe", "source", "hard link"])
def test_what_must_not_become_an_output(kind: str, tmp_path: Path) -> None:
    source, path = tmp_path / "in.pth", tmp_path / "out"
    source.write_bytes(b"x")
    other = tmp_path / "other"
    other.write_bytes(b"y")
    if kind == "exists":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(other)
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "source":
        path.symlink_to(source)
    else:
        os.link(source, path)
    with pytest.raises(OutputError) as caught:
        naming.check(path, source, force=kind != "exists")
    assert caught.value.exit_code == 73


def test_the_place_is_judged_before_the_source_is_read(tmp_path: Path) -> None:
    source = tmp_path / "in.pth"
    naming.check_place(tmp_path / "new" / "out", source, named=True, create=True)
    assert not (tmp_path / "new").exists()
    for path in (tmp_path / "no" / "out", tmp_path / ("x" * 256), tmp_path):
        with pytest.raises(OutputError):
            naming.check_place(path, source, named=True, create=False)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError):
        naming.check_place(tmp_path / "file" / "below" / "out", source, named=True, create=True)
