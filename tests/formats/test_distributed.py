"""`torch.distributed.checkpoint` folders: written by torch (one process, and two), judged by ``dcp_to_torch_save``."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from formats import registry
from formats.core.errors import CheckpointError, CorruptCheckpoint, LimitExceeded
from formats.core.tensor import TensorView
from tests.formats import distributed_writer
from tests.formats.conformance import ReaderConformance, contents
from tests.torch_reading import row_major_bytes

ROOT = Path(__file__).parent.parent.parent


def _save(state: dict[str, Any], folder: Path, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one process is no group
        dcp.save(state, storage_writer=FileSystemWriter(folder, **options), no_dist=True)


class TestConformance(ReaderConformance):
    format = "torch-distributed"
    dtypes = (*ReaderConformance.dtypes, torch.bool, torch.bfloat16, torch.complex64, torch.complex128)

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        _save(tensors, path, thread_count=2)

    # A folder cannot be cut short or have bytes after its end; its files can (below).
    def test_cut_short_anywhere(self, sample: Path, tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
        right = contents(sample)
        for file in sorted(sample.iterdir()):
            whole = file.read_bytes()
            for length in (0, 1, len(whole) // 2, len(whole) - 1):
                file.write_bytes(whole[:length])
                assert self.damaged(sample, right) == "refused"
            file.write_bytes(whole)

    def test_bytes_after_the_end(self, sample: Path, tensors: dict[str, torch.Tensor]) -> None:
        right = contents(sample)
        with (sample / ".metadata").open("ab") as file:
            file.write(b"junk")
        assert self.damaged(sample, right) == "refused"

    def test_changed_bytes_raise_nothing_but_our_errors(
        self, sample: Path, tmp_path: Path, tensors: dict[str, torch.Tensor]
    ) -> None:
        rng, right = random.Random(17), contents(sample)
        for file in sorted(sample.iterdir()):
            whole = file.read_bytes()
            for _ in range(30):
                changed = bytearray(whole)
                changed[rng.randrange(len(changed))] = rng.randrange(256)
                file.write_bytes(changed)
                self.damaged(sample, right)
            file.write_bytes(whole)

    def test_a_file_that_shrinks_is_refused(self, tmp_path: Path) -> None:
        folder = tmp_path / "large"
        _save({"large": torch.zeros(1 << 20)}, folder)
        with registry.open(folder) as checkpoint:
            (file,) = folder.glob("*.distcp")
            os.truncate(file, file.stat().st_size // 2)
            with pytest.raises(CorruptCheckpoint):
                checkpoint.tree["large"].tobytes()


def _judged(folder: Path, tmp_path: Path) -> Any:
    """What torch itself puts together."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp_to_torch_save(folder, tmp_path / "judged.pt")
    return torch.load(tmp_path / "judged.pt", weights_only=False)


def _equal(ours: Any, judged: Any) -> None:
    if isinstance(judged, torch.Tensor):
        assert isinstance(ours, TensorView)
        assert (ours.dtype.name, ours.shape) == (str(judged.dtype)[6:], tuple(judged.shape))
        assert ours.tobytes() == row_major_bytes(judged)
    elif isinstance(judged, dict):
        assert list(ours) == list(judged)
        for key, value in judged.items():
            _equal(ours[key], value)
    elif isinstance(judged, list):
        assert len(ours) == len(judged)
        for one, other in zip(ours, judged, strict=True):
            _equal(one, other)
    else:
        assert ours == judged


def test_nested_state(tmp_path: Path) -> None:
    state = {
        "model": {"layer.weight": torch.randn(4, 3), "layer.bias": torch.zeros(4, dtype=torch.float16)},
        "optimizer": {"state": {"layer.weight": {"step": torch.tensor(3.0), "exp_avg": torch.randn(4, 3)}}},
        "rates": [0.1, {"a": torch.ones(2)}],
        "epoch": 3, "name": "run", "none": None,
    }  # fmt: skip
    _save(state, tmp_path / "saved")
    with registry.open(tmp_path / "saved") as checkpoint:
        _equal(checkpoint.tree, _judged(tmp_path / "saved", tmp_path))
        assert checkpoint.tree["epoch"] == 3


def test_written_by_two_processes(tmp_path: Path) -> None:
    """DTensors sharded by rows, by columns, in the middle, unevenly, and replicated."""
    folder = tmp_path / "saved"
    command = [sys.executable, "-W", "ignore", "-m", "tests.formats.distributed_writer", str(folder)]
    ranks = [
        subprocess.Popen([*command, str(rank), "2"], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}) for rank in range(2)
    ]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    assert len(list(folder.glob("*.distcp"))) == 2
    with registry.open(folder) as checkpoint:
        _equal(checkpoint.tree["model"], distributed_writer.whole())
        _equal(checkpoint.tree, _judged(folder, tmp_path))
        columns, expected = checkpoint.tree["model"]["columns"], row_major_bytes(distributed_writer.whole()["columns"])
        for start, stop in ((0, 0), (1, 2), (19, 41), (33, 120)):
            assert b"".join(map(bytes, columns.storage.chunks(start, stop))) == expected[start:stop]


# -- metadata that lies -------------------------------------------------------------------------------------------------------------
@pytest.fixture
def saved(tmp_path: Path) -> Path:
    _save({"w": torch.randn(4, 3), "n": [1, torch.ones(2)]}, tmp_path / "saved")
    return tmp_path / "saved"


def _change(folder: Path, change: Any) -> None:
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    change(metadata)
    path.write_bytes(pickle.dumps(metadata))


def _info(metadata: Any, name: str = "w") -> Any:
    return next(info for index, info in metadata.storage_data.items() if index.fqn == name)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "", ".", 3, None])
def test_files_elsewhere_are_refused(saved: Path, name: Any) -> None:
    _change(saved, lambda m: setattr(_info(m), "relative_path", name))
    with pytest.raises(CorruptCheckpoint, match="file of a chunk"):
        registry.open(saved)


@pytest.mark.parametrize(
    ("field", "value"),
    [("offset", -1), ("offset", 1 << 62), ("length", 1 << 62), ("length", -1), ("length", "9"), ("length", 10)],
)
def test_places_that_lie(saved: Path, field: str, value: Any) -> None:
    _change(saved, lambda m: setattr(_info(m), field, value))
    with pytest.raises(CorruptCheckpoint):
        registry.open(saved)


def _sizes(*sizes: int) -> Any:
    def change(metadata: Any) -> None:
        metadata.state_dict_metadata["w"].size = torch.Size(sizes)

    return change


def _chunk(field: str, *sizes: int) -> Any:
    def change(metadata: Any) -> None:
        setattr(metadata.state_dict_metadata["w"].chunks[0], field, torch.Size(sizes))

    return change


@pytest.mark.parametrize(
    "change", [_sizes(4, 4), _sizes(3, 4), _sizes(12), _sizes(1 << 40, 1 << 40), _chunk("offsets", 1, 0), _chunk("sizes", 4, 2)]
)
def test_shapes_that_lie(saved: Path, change: Any) -> None:
    _change(saved, change)
    with pytest.raises(CheckpointError, match="'w'"), registry.open(saved) as checkpoint:
        checkpoint.tree["w"].tobytes()


def test_overlapping_chunks(saved: Path) -> None:
    def change(metadata: Any) -> None:
        entry = metadata.state_dict_metadata["w"]
        entry.size = torch.Size((8, 3))
        entry.chunks = [*entry.chunks, *entry.chunks]

    _change(saved, change)
    with pytest.raises(CorruptCheckpoint, match="overlap"):
        registry.open(saved)


@pytest.mark.parametrize("path", [("n", 10**12), ("n", -1), ("n",), ("n", "x"), (), ("a",) * 1000, ("n", 0, "y"), (b"n",)])
def test_paths_that_lie(saved: Path, path: Any) -> None:
    _change(saved, lambda m: m.planner_data.update({"n.1": path}))
    with pytest.raises((CorruptCheckpoint, LimitExceeded), match="lies at"):
        registry.open(saved)


def test_chunk_of_another_type(saved: Path) -> None:
    def change(metadata: Any) -> None:
        metadata.state_dict_metadata["w"].properties.dtype = torch.int32

    _change(saved, change)
    with pytest.raises(CorruptCheckpoint, match="expected int32"), registry.open(saved) as checkpoint:
        checkpoint.tree["w"].tobytes()


def test_a_link_is_not_followed_out(saved: Path, tmp_path: Path) -> None:
    (file,) = saved.glob("*.distcp")
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptCheckpoint, match="outside the folder"):
        registry.open(saved)
