"""Small segments read straight to their places, or by way of a copy where that cannot be: the same bytes either way."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from formats.core import gathering, moving
from formats.core.files import SourceFile
from formats.core.layout import Data, Layout
from formats.core.output import write_layouts
from formats.core.storage import FileSpan, Storage
from formats.core.zip import ZipDirectory


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether it could be done, of each attempt to read segments straight to their places."""
    found: list[bool] = []
    read = gathering.Gatherer._read_direct

    def seen(*arguments: Any) -> bool:
        found.append(read(*arguments))
        return found[-1]

    monkeypatch.setattr(gathering.Gatherer, "_read_direct", seen)
    return found


def laid_out(storages: list[Storage]) -> Layout:
    made = Layout(sum(storage.nbytes for storage in storages))
    at = 0
    for number, storage in enumerate(storages):
        made.data.append(Data(at, storage, f"t{number}"))
        at += storage.nbytes
    return made


def write(storages: list[Storage], folder: Path) -> None:
    """Write ``storages``, and compare with what reading them one by one gives."""
    out = folder / "out"
    write_layouts([laid_out(storages)], out, force=True)
    assert out.read_bytes() == b"".join(bytes(piece) for storage in storages for piece in storage.chunks(0, storage.nbytes))


def members(path: Path) -> list[Storage]:
    """Fresh storages of the members with data, in another order than the file's."""
    archive = ZipDirectory(SourceFile(path))
    names = [name for name in archive.members if name.rpartition("/")[2].isdigit()]
    return [archive.storage(name) for name in sorted(names, key=lambda name: name[::-1])]


@pytest.mark.parametrize("nbytes", [gathering.DIRECT, 20_000, 100_004, moving.SMALL - 1])
def test_of_torch(nbytes: int, tmp_path: Path, tries: list[bool]) -> None:
    """Local headers come with the data, and where the data begin is foreseen."""
    torch.save({f"k{i}": torch.randint(256, (nbytes,), dtype=torch.uint8) for i in range(13)}, tmp_path / "in.pth")
    write(members(tmp_path / "in.pth"), tmp_path)
    assert tries
    assert all(tries)


class Unseekable(io.RawIOBase):
    """Has `zipfile` write sizes and CRC-32 behind the data."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, given: Any) -> int:
        self.data += given
        return len(given)


@pytest.mark.parametrize(
    ("name", "size", "descriptors"),
    [
        (1, 20_001, False),  # data begin anywhere
        (95, 64 * 313 - 130, False),  # always two bytes behind where they are foreseen: part of each name goes astray
        (15, 64 * 313 - 66, True),  # always 14 bytes before: the header is whole, and 14 bytes of data go astray
    ],
)
def test_of_another_writer(name: int, size: int, descriptors: bool, tmp_path: Path, tries: list[bool]) -> None:
    """Nothing is aligned: the first read of each mover is done again by way of a copy, and so is everything after it at once."""
    out = Unseekable()
    with zipfile.ZipFile(out if descriptors else tmp_path / "in.zip", "w") as archive:  # type: ignore[arg-type]
        for number in range(200):
            archive.writestr(f"data/{number:0{name}}", os.urandom(size))
    if descriptors:
        (tmp_path / "in.zip").write_bytes(out.data)
    write(members(tmp_path / "in.zip"), tmp_path)
    assert tries.count(False) == len(tries) <= 2  # movers


def test_spans_that_overlap(tmp_path: Path, tries: list[bool]) -> None:
    """One byte of the source has one place in a read; neighbours without a gap are as good as any."""
    (tmp_path / "in").write_bytes(os.urandom(1 << 20))
    file = SourceFile(tmp_path / "in")
    write([FileSpan(file, at, 30_000) for at in range(0, 600_000, 30_000)], tmp_path)
    assert set(tries) == {True}
    tries.clear()
    write([FileSpan(file, at, 30_000) for at in range(0, 600_000, 29_999)], tmp_path)
    assert set(tries) == {False}


@pytest.mark.parametrize("given", ["short", "error"])
def test_what_the_system_does_otherwise(given: str, tmp_path: Path, tries: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Few bytes, or none: read once more, by way of a copy."""
    read = os.preadv

    def few(fd: int, buffers: list[memoryview], at: int) -> int:
        if len(buffers) == 1:
            return read(fd, buffers, at)
        if given == "error":
            raise OSError(22, "no")
        return read(fd, buffers[:2], at)

    (tmp_path / "in").write_bytes(os.urandom(1 << 20))
    file = SourceFile(tmp_path / "in")
    monkeypatch.setattr(os, "preadv", few)
    write([FileSpan(file, at, 20_000) for at in range(0, 800_000, 21_000)], tmp_path)
    assert set(tries) == {False}


def test_more_buffers_than_the_system_takes(tmp_path: Path, tries: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").write_bytes(os.urandom(1 << 20))
    file = SourceFile(tmp_path / "in")
    monkeypatch.setattr(gathering, "DIRECT", 0)
    write([FileSpan(file, at, 100) for at in range(0, 1 << 19, 101)], tmp_path)
    assert set(tries) == {False}


def test_small_ones_are_copied(tmp_path: Path, tries: list[bool]) -> None:
    (tmp_path / "in").write_bytes(os.urandom(1 << 20))
    file = SourceFile(tmp_path / "in")
    write([FileSpan(file, at, 2000) for at in range(0, 1 << 19, 2100)], tmp_path)
    assert not tries
