"""``.pth`` and ``.pth.tar``, judged by ``torch.load(weights_only=True)``, with and without mmap, and by zipfile."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from formats import pth_tar, torch_save, torch_zip
from formats.core.checkpoint import Content, Global, Ordered, Record, StateDict
from formats.core.dtype import BY_NAME
from formats.core.errors import Unsupported
from formats.core.layout import Layout
from formats.core.output import write_layouts
from formats.core.storage import BytesStorage
from formats.core.tensor import TensorView
from formats.core.zip_layout import ALIGNMENT, ZipLayout
from tests.torch_reading import assert_same_tensors, row_major_bytes

torch.set_num_threads(1)
F32 = BY_NAME["float32"]


def rewritten(source: Path, folder: Path, writer: Any = torch_save) -> Path:
    """The state dict in ``source``, read by our reader and written by ``writer``."""
    path = folder / "rewritten.pth"
    with torch_zip.read(source) as checkpoint:
        tree = checkpoint.tree
        versions = tree.attributes.get("_metadata") if type(tree) is Ordered and tree.attributes else None
        write_layouts(writer.plan(Content(StateDict(dict(tree), versions)), {}), path, force=True, sources=checkpoint.files)
    return path


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    net = torch.nn.ModuleDict({
        "conv": torch.nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last), "bn": torch.nn.BatchNorm2d(8),
        "rnn": torch.nn.LSTM(5, 7, num_layers=2), "embed": torch.nn.Embedding(11, 5), "head": torch.nn.Linear(5, 11, bias=False),
        "halved": torch.nn.Linear(3, 3).half(), "wide": torch.nn.Linear(2, 2, dtype=torch.complex128),
    })  # fmt: skip
    net["head"].weight = net["embed"].weight
    return net


def test_a_model_again(tmp_path: Path) -> None:
    """Values, order, dtypes, strides, ties and ``_metadata``, by torch's own reading; the same pickle that torch wrote."""
    net = model()
    state = net.state_dict()
    torch.save(state, tmp_path / "a.pth")
    path = rewritten(tmp_path / "a.pth", tmp_path)
    for mmap in (False, True):
        got = torch.load(path, weights_only=True, mmap=mmap)
        assert type(got) is OrderedDict
        assert_same_tensors(got, state)
        assert [t.stride() for t in got.values()] == [t.stride() for t in state.values()]
        assert got["head.weight"].data_ptr() == got["embed.weight"].data_ptr()
        assert got._metadata == state._metadata
        net.load_state_dict(got, strict=True)
    with zipfile.ZipFile(tmp_path / "a.pth") as theirs, zipfile.ZipFile(path) as ours:
        assert ours.read("archive/data.pkl") == theirs.read("a/data.pkl")
        assert ours.testzip() is None
        assert ours.read("archive/byteorder") == b"little"
        assert ours.read("archive/version") == b"3\n"


def test_bytes_depend_on_the_content_alone(tmp_path: Path) -> None:
    state = model().state_dict()
    torch.save(state, tmp_path / "a.pth")
    torch.save(state, tmp_path / "other-name.tar")
    first = rewritten(tmp_path / "a.pth", tmp_path).read_bytes()
    assert rewritten(tmp_path / "other-name.tar", tmp_path).read_bytes() == first
    (tmp_path / "again.pth").write_bytes(first)
    assert rewritten(tmp_path / "again.pth", tmp_path).read_bytes() == first


def test_records_are_aligned(tmp_path: Path) -> None:
    torch.save(model().state_dict(), tmp_path / "a.pth")
    path = rewritten(tmp_path / "a.pth", tmp_path)
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            at = entry.header_offset
            start = at + 30 + int.from_bytes(raw[at + 26 : at + 28], "little") + int.from_bytes(raw[at + 28 : at + 30], "little")
            assert start % ALIGNMENT == 0
            assert raw[start : start + entry.file_size] == archive.read(entry)
            # The local header says it all: no descriptor follows.
            assert int.from_bytes(raw[at + 14 : at + 18], "little") == entry.CRC
            assert (entry.flag_bits & 8, entry.compress_type) == (0, 0)


@pytest.mark.parametrize("calculated", [False, True])
def test_torchs_shortcuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calculated: bool) -> None:
    """torch may compute where records begin instead of looking; it checks itself in debug mode. It must not be misled."""
    from torch.utils.serialization import config

    state = model().state_dict()
    torch.save(state, tmp_path / "a.pth")
    path = rewritten(tmp_path / "a.pth", tmp_path)
    monkeypatch.setenv("TORCH_SERIALIZATION_DEBUG", "1")
    with config.patch("load.calculate_storage_offsets", calculated):
        for mmap in (False, True):
            assert_same_tensors(torch.load(path, weights_only=True, mmap=mmap), state)
        meta = torch.load(path, weights_only=True, map_location="meta")
    for key, tensor in meta.items():
        offset = tensor.untyped_storage()._checkpoint_offset
        storage = state[key].untyped_storage()
        assert path.read_bytes()[offset : offset + storage.nbytes()] == bytes(storage.tolist())


def test_many_records(tmp_path: Path) -> None:
    """More entries than a plain ZIP can count."""
    tensors = {f"t{i}": TensorView(F32, (1,), BytesStorage(i.to_bytes(4, "little"))) for i in range(66_000)}
    write_layouts(torch_save.plan(Content(StateDict(tensors)), {}), tmp_path / "x.pth")
    got = torch.load(tmp_path / "x.pth", weights_only=True)
    assert len(got) == 66_000
    assert got["t65999"].view(torch.int32).item() == 65_999
    with torch_zip.read(tmp_path / "x.pth") as checkpoint:
        assert len(checkpoint.tree) == 66_000
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        assert len(archive.infolist()) == 66_003


class Zeros:
    """Bytes that are nowhere."""

    location = "cpu"

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


def laid_on_a_hole(layout: Layout, crcs: list[int], path: Path) -> None:
    """All of a layout but its data, which is left as a hole of zeros."""
    with path.open("wb") as file:
        file.truncate(layout.size)
        for literal in layout.literals:
            file.seek(literal.offset)
            file.write(literal.data)
        for late in layout.late:
            file.seek(late.offset)
            made = late.make(crcs)
            assert len(made) == late.size
            file.write(made)


def test_records_over_4_gib(tmp_path: Path) -> None:
    """Sizes and places past 32 bits, read by zipfile, by our reader and by torch; nothing of that size is written."""
    big = 5 << 30
    tree = {
        "a": TensorView(BY_NAME["uint8"], (big,), Zeros(big)),
        "b": TensorView(BY_NAME["uint8"], (64,), BytesStorage(bytes(64))),
    }  # type: ignore[arg-type]
    (layout,) = torch_save.plan(Content(StateDict(dict(tree))), {})
    assert layout.size > big
    crc = 0x1234
    laid_on_a_hole(layout, [crc, 0x758D6336], tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        assert archive.getinfo("archive/data/0").file_size == big
        assert crc == archive.getinfo("archive/data/0").CRC
        assert archive.getinfo("archive/data/1").header_offset > big
        assert archive.read("archive/data/1") == bytes(64)
        assert archive.read("archive/version") == b"3\n"
    with torch_zip.read(tmp_path / "x.pth") as checkpoint:
        assert checkpoint.tree["a"].storage.nbytes == big
        assert checkpoint.tree["b"].tobytes() == bytes(64)
        piece = next(iter(checkpoint.tree["a"].chunks()))
        assert bytes(piece[:100]) == bytes(100)
    got = torch.load(tmp_path / "x.pth", weights_only=True, mmap=True)
    assert got["a"].shape == (big,)
    assert got["a"][-1].item() == 0
    assert got["b"].sum().item() == 0


@pytest.mark.parametrize("at", [0xFFFFFFFF - 200, 0xFFFFFFFF - 64, 0xFFFFFFFF, 0x100000000])
def test_the_edge_of_32_bits(tmp_path: Path, at: int) -> None:
    """Headers and directories just before, on and behind the last place that 32 bits can say."""
    archive = ZipLayout()
    archive.add("first", Zeros(at))  # type: ignore[arg-type]
    archive.add("second", b"content")
    laid_on_a_hole(archive.layout(), [1], tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "x.zip") as read:
        assert read.namelist() == ["archive/first", "archive/second"]
        assert read.getinfo("archive/first").file_size == at
        assert read.read("archive/second") == b"content"


def test_pth_tar(tmp_path: Path) -> None:
    """Everything that a training checkpoint holds, shared between model and rest as it was."""
    weight = TensorView(F32, (2,), BytesStorage(row_major_bytes(torch.tensor([1.0, 2.0]))), parameter=True, requires_grad=True)
    extras = {
        "epoch": 3,
        "optimizer": {
            "state": {0: {"step": TensorView(F32, (), BytesStorage(bytes(4))), "ema": weight}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
        "args": Record(Global("argparse.Namespace")),
    }
    extras["args"].state = {"lr": 0.1}  # type: ignore[union-attr]
    content = Content(StateDict({"w": weight}, Ordered({"": {"version": 1}})), extras)
    notes: list[str] = []
    write_layouts(pth_tar.plan(content, {"notes": notes, "order": ["epoch", "gone", "state_dict"]}), tmp_path / "x.pth.tar")
    got = torch.load(tmp_path / "x.pth.tar", weights_only=True)
    assert list(got) == ["epoch", "state_dict", "optimizer", "args"]
    assert type(got["state_dict"]) is OrderedDict
    assert got["state_dict"]._metadata == {"": {"version": 1}}
    assert got["optimizer"]["state"][0]["ema"] is got["state_dict"]["w"]
    assert got["optimizer"]["param_groups"] == [{"lr": 0.1, "params": [0]}]
    assert got["args"] == {"lr": 0.1}
    assert notes == ["args: argparse.Namespace written as a dict of its fields"]


def test_pth_tar_with_another_state_dict() -> None:
    with pytest.raises(Unsupported, match="'state_dict'"):
        pth_tar.plan(Content(StateDict({}), {"state_dict": {}}), {})


def test_an_optimizer_resumes(tmp_path: Path) -> None:
    """A real training checkpoint, through our reader and writer, into torch's own optimizer."""
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    for _ in range(3):
        net(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    torch.save({"epoch": 3, "state_dict": net.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pth.tar")
    with torch_zip.read(tmp_path / "a.pth.tar") as checkpoint:
        tree = dict(checkpoint.tree)
        state = tree.pop("state_dict")
        content = Content(StateDict(dict(state), state.attributes["_metadata"]), tree)
        write_layouts(pth_tar.plan(content, {"order": list(checkpoint.tree)}), tmp_path / "b.pth.tar", sources=checkpoint.files)
    got = torch.load(tmp_path / "b.pth.tar", weights_only=True)
    assert list(got) == ["epoch", "state_dict", "optimizer"]
    other = torch.optim.AdamW(torch.nn.Linear(3, 2).parameters())
    other.load_state_dict(got["optimizer"])
    wanted = optimizer.state_dict()
    assert got["optimizer"]["param_groups"] == wanted["param_groups"]
    for number, slots in wanted["state"].items():
        assert_same_tensors(got["optimizer"]["state"][number], slots)
