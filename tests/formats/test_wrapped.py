"""Archives around checkpoints, made by the standard library's writers and, for zstd, by `zstandard`."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import json
import lzma
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from convert.select import choose
from formats import registry
from formats.core import spool
from formats.core.checkpoint import Checkpoint
from formats.core.errors import CheckpointError, CorruptCheckpoint, LimitExceeded, SystemIOError, UnknownFormat, Unsupported
from formats.core.storage import plain_span
from tests.formats.conformance import ReaderConformance, audited, contents, expected

SAMPLE = {"layer.weight": torch.arange(12.0).reshape(3, 4), "layer.bias": torch.ones(3, dtype=torch.float16)}


def _saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def _zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def _tar(members: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


class TestZip(ReaderConformance):
    format = "wrapped"

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        _zip(path, {"readme.txt": b"hello", "weights/model.pth": _saved(tensors)})


class TestTar(ReaderConformance):
    format = "wrapped"
    padded = True  # fewer zeros at its end are legal

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        path.write_bytes(_tar({"readme.txt": b"hello", "weights/model.pth": _saved(tensors)}))


class _Spooled(ReaderConformance):
    format = "wrapped"
    compress: Callable[[bytes], bytes]

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        path.write_bytes(type(self).compress(_saved(tensors)))

    def test_nothing_is_imported_run_or_opened(self, sample: Path) -> None:
        """One temporary file without a name is made, and nothing else."""
        contents(sample)
        folder = Path(tempfile.gettempdir())
        before = set(folder.iterdir())
        with audited() as seen:
            contents(sample)
        opened = [path for event, path in seen if event == "open" and os.fspath(path) != str(sample)]
        assert {Path(path) for path in opened if isinstance(path, str)} <= {folder}  # on Linux, a file that never has a name
        assert {event for event, _ in seen} <= {"open", "tempfile.mkstemp", "os.remove"}
        assert not {path for path in set(folder.iterdir()) - before if path.name.startswith("ckpt-convert-")}

    # What is read has been inflated when the structure is known; what happens to the file later is of no matter.
    def test_reading_the_structure_reads_no_tensor(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pass

    def test_a_file_that_shrinks_is_refused(self, tmp_path: Path) -> None:
        pass


class TestGzip(_Spooled):
    compress = gzip.compress


class TestBzip2(_Spooled):
    compress = bz2.compress


class TestXz(_Spooled):
    @staticmethod
    def compress(data: bytes) -> bytes:
        return lzma.compress(data, preset=0)  # a small window, which the memory test counts


class TestZstd(_Spooled):
    @staticmethod
    def compress(data: bytes) -> bytes:
        zstandard = pytest.importorskip("zstandard")
        made = zstandard.ZstdCompressor(write_checksum=True).compressobj()  # of unknown size: a window of 2 MiB
        whole: bytes = made.compress(data) + made.flush()
        return whole


class TestDeflatedZip(_Spooled):
    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        _zip(path, {"a.txt": b"hello", "model.pth": _saved(tensors)}, zipfile.ZIP_DEFLATED)


# -- one inside, whatever it is -----------------------------------------------------------------------------------------------------
CONTENTS = {
    "zip": _saved(SAMPLE), "legacy": _saved(SAMPLE, _use_new_zipfile_serialization=False), "safetensors": save(SAMPLE),
}  # fmt: skip


@pytest.mark.parametrize("inner", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("outer", ["zip", "deflated", "tar", "gz", "tar.gz", "tar.xz", "zip.bz2"])
def test_every_pair(tmp_path: Path, inner: str, outer: str) -> None:
    data = CONTENTS[inner]
    path = tmp_path / f"in.{outer}"
    if outer in ("zip", "deflated"):
        _zip(path, {"dir/m": data}, zipfile.ZIP_STORED if outer == "zip" else zipfile.ZIP_DEFLATED)
    elif outer == "gz":
        path.write_bytes(gzip.compress(data))
    elif outer == "zip.bz2":
        _zip(path, {"m": data})
        path.write_bytes(bz2.compress(path.read_bytes()))
    else:
        path.write_bytes(_tar({"dir/m": data}, {"tar": "w", "tar.gz": "w:gz", "tar.xz": "w:xz"}[outer]))
    assert dict(sorted(contents(path).items())) == dict(sorted(expected(SAMPLE).items()))


def test_stored_members_are_read_in_place(tmp_path: Path) -> None:
    path = tmp_path / "in.zip"
    _zip(path, {"m.pth": _saved(SAMPLE)})
    with registry.open(path) as checkpoint:
        view = checkpoint.tree["layer.weight"]
        span = plain_span(view.storage)
        assert span is not None
        assert span[0].path == path
        assert path.read_bytes()[span[1] : span[1] + view.nbytes] == view.tobytes()


# -- several ------------------------------------------------------------------------------------------------------------------------
def test_agent_archive(tmp_path: Path) -> None:
    """What stable-baselines3's ``save_to_zip_file`` writes: settings as JSON, a policy, its optimizer, variables."""
    module = torch.nn.Linear(4, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    path = tmp_path / "agent.zip"
    _zip(path, {
        "data": json.dumps({"policy_class": {":type:": "<class 'abc.ABCMeta'>", ":serialized:": "gASV"}}).encode(),
        "pytorch_variables.pth": _saved(None), "policy.pth": _saved(module.state_dict()),
        "policy.optimizer.pth": _saved(optimizer.state_dict()), "_stable_baselines3_version": b"2.3.2", "system_info.txt": b"- OS: Linux",
    })  # fmt: skip
    with registry.open(path) as checkpoint:
        assert list(checkpoint.tree) == ["pytorch_variables.pth", "policy.pth", "policy.optimizer.pth"]
        (choice,) = choose(checkpoint)
        assert choice.path == "policy.pth"
        assert {k: v.tobytes() for k, v in choice.state_dict.tensors.items()} == {
            k: v[2] for k, v in expected(module.state_dict()).items()
        }
        assert any("'data'" in note and "system_info.txt" in note for note in checkpoint.notes)


def test_two_models_are_two_candidates(tmp_path: Path) -> None:
    path = tmp_path / "gan.tar"
    path.write_bytes(_tar({"g.pth": _saved(SAMPLE), "d.pth": _saved({"conv.weight": torch.ones(2, 2)})}))
    with registry.open(path) as checkpoint:
        assert sorted(choice.path for choice in choose(checkpoint)) == ["d.pth", "g.pth"]
        (choice,) = choose(checkpoint, select="d.pth")
        assert list(choice.state_dict.tensors) == ["conv.weight"]


# -- what is refused ----------------------------------------------------------------------------------------------------------------
def test_archives_without_checkpoints_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x"
    _zip(path, {"word/document.xml": b"<x/>"})
    with pytest.raises(UnknownFormat, match="Office document"):
        registry.open(path)
    path.write_bytes(_tar({"a.txt": b"hello"}))
    with pytest.raises(UnknownFormat, match="TAR archive without"):
        registry.open(path)
    path.write_bytes(gzip.compress(b"hello, world"))
    with pytest.raises(UnknownFormat, match=r"x/content: is a text"):
        registry.open(path)


def _open(path: Path) -> Checkpoint:
    return registry.open(path)


def test_depth_is_limited(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    data = _saved(SAMPLE)
    for _ in range(2):
        data = gzip.compress(data)
        path.write_bytes(data)
        assert contents(path) == expected(SAMPLE)
    path.write_bytes(gzip.compress(data))
    with pytest.raises(LimitExceeded, match="2 archives deep"):
        _open(path)
    quine = tmp_path / "q.zip"
    data = _saved(SAMPLE)
    for _ in range(50):
        _zip(quine, {"a.zip": data})
        data = quine.read_bytes()
    with pytest.raises(LimitExceeded, match="2 archives deep"):
        _open(quine)


def _bombs() -> dict[str, bytes]:
    zeros = bytes(1 << 20)
    found = {}
    for name, make in (
        ("gzip", lambda: zlib.compressobj(9, wbits=31)),
        ("bzip2", bz2.BZ2Compressor),
        ("xz", lzma.LZMACompressor),
    ):
        made = make()
        found[name] = b"".join(made.compress(zeros) for _ in range(300)) + made.flush()
    return found


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz"])
def test_bombs_stop_at_the_limit(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(_bombs()[kind])
    with pytest.raises(LimitExceeded, match="inflates to more than 268435456 bytes"):
        _open(path)


def test_zstd_bomb(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    made = zstandard.ZstdCompressor().compressobj()
    path = tmp_path / "bomb"
    path.write_bytes(b"".join(made.compress(bytes(1 << 20)) for _ in range(300)) + made.flush())
    with pytest.raises(LimitExceeded, match="inflates to more than"):
        _open(path)


def test_many_deflated_members_share_one_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    _zip(path, {f"m{n}": bytes(100 << 20) for n in range(3)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(LimitExceeded, match="'m2' inflates to"):
        _open(path)


def test_many_members(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    _zip(path, {f"m{n}": b"x" for n in range(2001)})
    with pytest.raises(UnknownFormat, match="2001 files"):
        _open(path)


def test_wrong_checksums(tmp_path: Path) -> None:
    path = tmp_path / "x"
    legacy = _saved(SAMPLE, _use_new_zipfile_serialization=False)
    _zip(path, {"m": legacy})
    data = bytearray(path.read_bytes())
    data[data.find(legacy) + len(legacy) - 5] ^= 1  # a weight, in a container that has no checksum of its own
    path.write_bytes(data)
    with pytest.raises(CorruptCheckpoint, match="CRC-32"):
        _open(path)
    for compress in (gzip.compress, bz2.compress, lzma.compress):
        data = bytearray(compress(legacy))
        data[-12 if compress is not gzip.compress else -6] ^= 1
        path.write_bytes(data)
        with pytest.raises(CorruptCheckpoint):
            _open(path)


def test_streams_one_after_the_other_and_padding(tmp_path: Path) -> None:
    path, data = tmp_path / "x", _saved(SAMPLE)
    for compress, padding in ((gzip.compress, b"\0" * 7), (bz2.compress, b""), (lzma.compress, b"\0" * 8)):
        path.write_bytes(compress(data[:500]) + compress(data[500:]) + padding)
        assert contents(path) == expected(SAMPLE)
        path.write_bytes(compress(data) + b"junk that is no stream")
        with pytest.raises(CorruptCheckpoint):
            _open(path)


def test_links_and_devices_are_not_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind in (
            ("link.pth", tarfile.SYMTYPE),
            ("hard.pth", tarfile.LNKTYPE),
            ("device.pth", tarfile.CHRTYPE),
            ("pipe.pth", tarfile.FIFOTYPE),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
        entry = tarfile.TarInfo("../../m.pth")  # a name is only a name
        entry.size = len(_saved(SAMPLE))
        archive.addfile(entry, io.BytesIO(_saved(SAMPLE)))
    path = tmp_path / "x.tar"
    path.write_bytes(buffer.getvalue())
    assert contents(path) == expected(SAMPLE)
    assert [p.name for p in tmp_path.iterdir()] == ["x.tar"]
    with zipfile.ZipFile(path, "w") as file:
        link = zipfile.ZipInfo("link.pth")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        file.writestr(link, "/etc/passwd")
        file.writestr("m.pth", _saved(SAMPLE))
    with registry.open(path) as checkpoint:
        assert any("link.pth" in note for note in checkpoint.notes)


def test_a_password_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    _zip(path, {"m.pth": _saved(SAMPLE)})
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[(data.find if at == 6 else data.rfind)(signature) + at] |= 1
    path.write_bytes(data)
    with pytest.raises((Unsupported, UnknownFormat), match="encrypted|password"):
        _open(path)


def test_a_damaged_checkpoint_inside_is_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    _zip(path, {"a.pth": _saved(SAMPLE), "b.safetensors": save(SAMPLE)[:-1]})
    with pytest.raises(CorruptCheckpoint, match=r"x.zip/b.safetensors"):
        _open(path)


def test_no_room_to_inflate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spool, "_write_all", full)
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(_saved(SAMPLE)))
    with pytest.raises(SystemIOError, match="No space left") as raised:
        _open(path)
    assert "TMPDIR" in (raised.value.hint or "")


def test_truncated_streams_say_so(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    whole = gzip.compress(_saved(SAMPLE))
    for length in (3, 12, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            _open(path)
