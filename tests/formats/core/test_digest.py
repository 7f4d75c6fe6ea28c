"""sha256 of outputs, hashed behind the writing where the layout allows it."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
import torch

from convert.__main__ import main
from formats.core import digest, packed, streaming
from formats.core.errors import SystemIOError
from formats.core.files import SourceFile
from formats.core.layout import Data, Late, Layout, Literal
from formats.core.output import write_layouts
from formats.core.storage import FileSpan

SIZES = [3 << 20, 100, 1 << 20, 70_000, (5 << 20) + 3, 0, 500_000]


def planned(source: SourceFile, *, late: bool = False) -> Layout:
    """A header and spans of the source, in another order than they stand there."""
    places = random.Random(0).sample(range(20), len(SIZES))
    made = Layout(0, [Literal(0, b"HEADER")])
    at = 6
    for place, size in zip(places, SIZES, strict=True):
        made.data.append(Data(at, FileSpan(source, place * 7919, size), f"t{place}"))
        at += size
    if late:
        made.late.append(Late(at, 4, lambda crcs: crcs[0].to_bytes(4, "little")))
        at += 4
    made.size = at
    return made


@pytest.fixture
def source(tmp_path: Path) -> SourceFile:
    path = tmp_path / "source"
    path.write_bytes(random.Random(1).randbytes(6 << 20))
    return SourceFile(path)


@pytest.mark.parametrize("threads", [True, False])
def test_the_output_is_hashed_while_it_is_written(
    source: SourceFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: bool
) -> None:
    monkeypatch.setattr(streaming, "THREADS", threads)
    monkeypatch.setattr(digest, "sha256", lambda *_: pytest.fail("hashed afterwards"))
    (written,) = write_layouts([planned(source)], tmp_path / "out", digest=True)
    assert written.sha256 == hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest()


def test_what_depends_on_the_data_is_hashed_afterwards(source: SourceFile, tmp_path: Path) -> None:
    (written,) = write_layouts([planned(source, late=True)], tmp_path / "out", digest=True)
    assert written.sha256 == hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest()


def test_a_failure_ends_the_hashing_too(source: SourceFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: SourceFile, offset: int, buffer: memoryview) -> None:
        raise SystemIOError("cannot be read", path=self.path)

    layout = planned(source)
    monkeypatch.setattr(SourceFile, "read_into", broken)
    with pytest.raises(SystemIOError):
        write_layouts([layout], tmp_path / "out", digest=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("window", [1 << 16, packed.WINDOW])
def test_a_damaged_strided_source_is_found_in_one_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], window: int
) -> None:
    """The CRC-32 of a storage that goes out in another order comes from the reading that makes the blocks."""
    monkeypatch.setattr(packed, "WINDOW", window)
    monkeypatch.setattr("formats.core.readback._crc", lambda storage: pytest.fail("read once more"))
    weight = torch.randn(64, 32, 3, 3).to(memory_format=torch.channels_last)
    path, out = tmp_path / "net.pth", tmp_path / "net.safetensors"
    torch.save({"w": weight}, path)
    assert main([str(path), "--to", "safetensors", "-o", str(out)]) == 0
    monkeypatch.undo()
    monkeypatch.setattr(packed, "WINDOW", window)
    raw = path.read_bytes()
    at = raw.index(weight.permute(0, 2, 3, 1).contiguous().numpy().tobytes()) + 40_000
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    assert main([str(path), "--to", "safetensors", "-o", str(out), "--force"]) == 65
    assert "CRC-32" in capsys.readouterr().err
