"""The TAR container of `torch.save` up to torch 0.1.9, judged by torch's own reader of it."""

from __future__ import annotations

import collections
import tarfile
from pathlib import Path

import pytest
import torch

from formats import registry
from formats.core.checkpoint import Record
from formats.core.errors import CheckpointError
from tests.formats import conformance
from tests.formats.tar_writer import TarCheckpoint
from tests.torch_reading import load

FIXTURES = conformance.FIXTURES / "emulated_legacy_tar"


class TestConformance(conformance.ReaderConformance):
    format = "torch-tar"

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        TarCheckpoint().write(tensors, path)


def judged(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """What torch reads from a file that holds one dict of tensors."""
    tree = load(path)
    return conformance.expected(tree)


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_protocol_and_tar_dialect(tmp_path: Path, protocol: int, tar_format: int) -> None:
    path = tmp_path / "m.pth.tar"
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, -2, 3], dtype=torch.int16)}
    TarCheckpoint(protocol).write(collections.OrderedDict(tensors), path, tar_format=tar_format)
    assert conformance.contents(path) == judged(path) == conformance.expected(tensors)


@pytest.mark.parametrize("order", [("storages", "tensors", "pickle"), ("pickle", "tensors", "storages", "sys_info")])
def test_members_in_any_order_and_without_sys_info(tmp_path: Path, order: tuple[str, ...]) -> None:
    path = tmp_path / "m.pth.tar"
    TarCheckpoint().write({"a": torch.arange(3.0)}, path, order=order)
    assert conformance.contents(path) == judged(path)


def test_views_ties_and_strides(tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float32)
    window = base.as_strided((2, 3), (12, 2), 1)
    tree = {"base": base, "transposed": base.view(4, 6).t(), "window": window, "tied": window}
    path = tmp_path / "m.pth.tar"
    TarCheckpoint().write(tree, path)
    with registry.open(path) as checkpoint:
        found = checkpoint.tree
        assert found["window"] is found["tied"]
        assert found["base"].storage is found["transposed"].storage
        assert found["window"].strides == (12, 2)
        assert found["window"].offset == 1
        assert {name: t.tobytes() for name, t in found.items()} == {
            name: d for name, (_, _, d) in conformance.expected(tree).items()
        }
    assert judged(path) == conformance.expected(tree)


def test_storage_views(tmp_path: Path) -> None:
    """A storage that is a part of another: what torch 0.1.x made of ``storage[2:5]``."""
    writer = TarCheckpoint()
    base = torch.arange(10, dtype=torch.int32)
    target = writer.key()
    writer.views.append((target, writer.storage(base), 2, 5))
    part = torch.arange(5, dtype=torch.int32)
    writer.tensor(part, storage_key=target)
    path = tmp_path / "m.pth.tar"
    writer.write({"base": base, "part": part}, path)
    assert conformance.contents(path) == judged(path)
    assert conformance.contents(path)["part"][2] == base[2:7].numpy().tobytes()


def test_whole_model(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    path = tmp_path / "model.pth.tar"
    TarCheckpoint().write(model, path)
    with registry.open(path) as checkpoint:
        root = checkpoint.tree
        assert isinstance(root, Record)
        assert root.name == "torch.nn.modules.container.Sequential"
        assert root.callable.source == "class Sequential: ..."
        linear = root.fields["_modules"]["0"].fields["_parameters"]
        assert linear["weight"].parameter
        assert linear["weight"].tobytes() == model[0].weight.detach().numpy().tobytes()
        assert root.fields["_modules"]["1"].fields["_buffers"]["running_var"].tobytes() == model[1].running_var.numpy().tobytes()


def test_tensor_without_elements_as_before_torch_0_4(tmp_path: Path) -> None:
    """No dimension meant no element; such a tensor had an empty storage."""
    writer = TarCheckpoint()
    empty = torch.zeros(0)
    writer.storage(empty)
    scalar = torch.tensor(0.0)
    writer.tensor(scalar, storage_key=writer.storages[0][0])
    path = tmp_path / "m.pth.tar"
    writer.write({"empty": scalar}, path)
    assert conformance.contents(path) == {"empty": ("float32", (0,), b"")}


@pytest.mark.parametrize("name", ["tinynet_sd_legacytar.pth", "tinynet_ckpt_legacytar.pth.tar"])
def test_samples_are_what_torch_reads(name: str) -> None:
    tree = load(FIXTURES / name)
    with registry.open(FIXTURES / name) as checkpoint:
        ours, theirs = checkpoint.tree, tree
        if "state_dict" in theirs:
            assert {k: v for k, v in ours.items() if k != "state_dict"} == {k: v for k, v in theirs.items() if k != "state_dict"}
            ours, theirs = ours["state_dict"], theirs["state_dict"]
        assert list(ours) == list(theirs)
        found = {key: (t.dtype.name, t.shape, t.tobytes()) for key, t in ours.items()}
        assert found == conformance.expected(theirs)


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]


def rewrite(path: Path, entries: list[tuple[tarfile.TarInfo, bytes]], tar_format: int = tarfile.USTAR_FORMAT) -> None:
    import io

    with tarfile.open(path, "w", format=tar_format) as tar:
        for entry, data in entries:
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
@pytest.mark.parametrize("victim", ["storages", "tensors", "pickle"])
def test_members_that_are_no_plain_files(tmp_path: Path, kind: bytes, victim: str) -> None:
    path = tmp_path / "m.pth.tar"
    TarCheckpoint().write({"a": torch.arange(3.0)}, path)
    entries = []
    for name, data in members(path).items():
        entry = tarfile.TarInfo(name)
        if name == victim:
            entry.type, entry.linkname, data = kind, "/etc/passwd", b""
        entries.append((entry, data))
    rewrite(path, entries)
    with pytest.raises(CheckpointError, match=r"TAR archive has a .* belongs"):
        registry.open(path)


def test_pax_size_override_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pth.tar"
    TarCheckpoint().write({"a": torch.arange(3.0)}, path)
    entries = []
    for name, data in members(path).items():
        entry = tarfile.TarInfo(name)
        entry.pax_headers = {"size": "7"}
        entries.append((entry, data))
    rewrite(path, entries, tarfile.PAX_FORMAT)
    with pytest.raises(CheckpointError, match="overrides a size"):
        registry.open(path)


def test_cut_in_the_filler_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "m.pth.tar"
    TarCheckpoint().write({"a": torch.arange(3.0)}, path)
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) - 512, len(whole) - 1024):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="cut off"):
            registry.open(path)


def test_every_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pth.tar"
    TarCheckpoint().write({"a": torch.arange(3.0)}, path)
    whole = path.read_bytes()
    for at in (0, 100, 124, 130, 156, 200, 400):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match="checksum"):
            registry.open(path)
