"""A folder that once was a ZIP checkpoint, judged by torch's reading of the ZIP."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from formats import registry
from formats.core.errors import CheckpointError
from tests.formats import conformance


def unpacked(tensors: dict[str, torch.Tensor], folder: Path) -> Path:
    packed = folder.with_name(f"{folder.name}.packed")
    torch.save(tensors, packed)
    with zipfile.ZipFile(packed) as archive:
        for name in archive.namelist():
            target = folder / name.split("/", 1)[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))
    packed.unlink()
    return folder


class TestConformance(conformance.ReaderConformance):
    format = "folder"
    dtypes = (*conformance.ReaderConformance.dtypes, torch.bool, torch.bfloat16, torch.complex64)

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        unpacked(tensors, path)

    def victims(self, folder: Path) -> list[Path]:
        return [folder / "data.pkl", folder / "data" / "0", folder / "byteorder"]

    def test_cut_short_anywhere(self, sample: Path, tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
        right = conformance.expected(tensors)
        for victim in self.victims(sample):
            whole = victim.read_bytes()
            for length in sorted({0, 1, len(whole) // 2, len(whole) - 1}):
                victim.write_bytes(whole[:length])
                assert self.damaged(sample, right) == "refused", (victim, length)
            victim.write_bytes(whole)

    def test_bytes_after_the_end(self, sample: Path, tensors: dict[str, torch.Tensor]) -> None:
        for victim in self.victims(sample):
            whole = victim.read_bytes()
            victim.write_bytes(whole + b"junk")
            assert self.damaged(sample, conformance.expected(tensors)) == "refused", victim
            victim.write_bytes(whole)

    def test_changed_bytes_raise_nothing_but_our_errors(
        self, sample: Path, tmp_path: Path, tensors: dict[str, torch.Tensor]
    ) -> None:
        whole = bytearray((sample / "data.pkl").read_bytes())
        for at in range(0, len(whole), 7):
            changed = bytearray(whole)
            changed[at] ^= 0x41
            (sample / "data.pkl").write_bytes(changed)
            self.damaged(sample, conformance.expected(tensors))

    def test_a_file_that_shrinks_is_refused(self, tmp_path: Path) -> None:
        folder = unpacked({"large": conformance.noise(4 << 20)}, tmp_path / "shrinks")
        with registry.open(folder) as checkpoint:
            os.truncate(folder / "data" / "0", 5)
            with pytest.raises(CheckpointError, match="bytes and has 5 now"):
                conformance.named(checkpoint)["large"].tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return unpacked({"w": torch.arange(6.0), "v": torch.ones(2)}, tmp_path / "model.pth")


def test_links_are_refused_wherever_they_are(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    for name in ("data/0", "data", "data.pkl", "byteorder"):
        shutil.move(folder / name, elsewhere)
        (folder / name).symlink_to(elsewhere)
        with pytest.raises(CheckpointError, match="symbolic link"):
            registry.open(folder)
        (folder / name).unlink()
        shutil.move(elsewhere, folder / name)
    registry.open(folder).close()


def test_a_record_that_becomes_a_link_meanwhile(folder: Path, tmp_path: Path) -> None:
    with registry.open(folder) as checkpoint:
        shutil.move(folder / "data" / "0", tmp_path / "same")
        (folder / "data" / "0").symlink_to(tmp_path / "same")
        with pytest.raises(CheckpointError, match="plain file"):
            checkpoint.tree["w"].tobytes()


def test_special_files_are_refused_and_never_waited_for(folder: Path) -> None:
    (folder / "data" / "0").unlink()
    os.mkfifo(folder / "data" / "0")
    with pytest.raises(CheckpointError, match="named pipe"):
        registry.open(folder)


def test_folder_of_another_name_and_through_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert conformance.contents(tmp_path / "link") == conformance.contents(folder)


def test_data_pkl_alone_is_refused_and_the_folder_named(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="storages") as error:
        registry.open(folder / "data.pkl")
    assert str(folder) in (error.value.hint or "")


def test_unpacked_program_is_refused_by_name(folder: Path) -> None:
    (folder / "constants.pkl").write_bytes(b"\x80\x02).")
    with pytest.raises(CheckpointError, match="TorchScript"):
        registry.open(folder)


def test_folders_that_are_something_else(tmp_path: Path) -> None:
    for name, what in (("saved_model.pb", "TensorFlow"), ("x.txt", "without a checkpoint")):
        other = tmp_path / name.replace(".", "_")
        other.mkdir()
        (other / name).write_bytes(b"x")
        with pytest.raises(CheckpointError, match=what):
            registry.open(other)
