"""What every reader must do, whatever its container. A new reader inherits all of it for three lines::

    class TestMine(ReaderConformance):
        format = "mine"

        def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None: ...

``write`` makes a file with exactly these tensors under these names, by a program that is not ours.
"""

from __future__ import annotations

import gc
import hashlib
import os
import random
import shutil
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from formats import registry
from formats.core import files, protocol
from formats.core.checkpoint import Checkpoint
from formats.core.errors import CheckpointError, CorruptCheckpoint
from formats.core.probe import Probe
from tests import command
from tests.torch_reading import row_major_bytes

FIXTURES = Path(__file__).parent.parent / "fixtures"
# One file of each container that has a reader; nobody else's may be claimed.
SAMPLES = {
    "torch-zip": "torch1.13.1_py3.11/tinynet_full_custom_zip.pt",
    "torch-legacy": "torch1.13.1_py3.11/tinynet_full_custom_legacy.pt",
    "torch-tar": "emulated_legacy_tar/tinynet_sd_legacytar.pth",
    "torchscript": "torch1.6.0_py3.8/scripted.pt",
    "torch-package": "torch1.13.1_py3.11/tinynet_torch_package.pt",
}
# What an input must never make happen. `import` is raised when a module is loaded that was not yet.
FORBIDDEN = ("import", "exec", "compile", "marshal.", "code.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork",
             "socket.", "ctypes.", "pickle.", "shutil.", "tempfile.", "os.remove", "os.rename", "os.mkdir", "os.chmod", "os.truncate",
             "mmap.", "urllib.", "setattr", "object.__setattr__")  # fmt: skip

_watching: list[list[tuple[str, Any]]] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event == "mmap.__new__" and args[0] == -1:  # memory, no file
        return
    if _watching and (event.startswith(FORBIDDEN) or event == "open"):
        _watching[-1].append((event, args[0] if args else None))


_hooked = False


@contextmanager
def audited() -> Iterator[list[tuple[str, Any]]]:
    """The forbidden events, and every opened path, while the block runs (``sys.addaudithook``, which cannot be taken away again)."""
    global _hooked  # noqa: PLW0603
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    seen: list[tuple[str, Any]] = []
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.pop()


def named(checkpoint: Checkpoint) -> dict[str, Any]:
    """Every tensor of the tree under its dotted path."""
    return {".".join(map(str, path)): tensor for path, tensor in checkpoint.tensors()}


def contents(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Everything that our reading gives: dtype, shape and row-major bytes by name."""
    with registry.open(path) as checkpoint:
        return {name: (t.dtype.name, tuple(t.shape), t.tobytes()) for name, t in named(checkpoint).items()}


def expected(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """The same of real tensors."""
    return {name: (str(t.dtype).removeprefix("torch."), tuple(t.shape), row_major_bytes(t)) for name, t in tensors.items()}


def noise(size: int) -> torch.Tensor:
    """``size`` bytes that no compression makes smaller."""
    return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


class ReaderConformance:
    """The suite. ``dtypes`` are those that the container's own writer can write; ``checked`` says that it has checksums."""

    format: str
    dtypes: tuple[torch.dtype, ...] = (
        torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
    )  # fmt: skip
    holds_bytes_in_memory = False  # the container cannot be streamed (its values are texts of a pickle)
    padded = False  # what follows the end is filler, and may be cut without harm

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        raise NotImplementedError

    # -- samples -------------------------------------------------------------------------------------------------------------------
    @pytest.fixture
    def tensors(self) -> dict[str, torch.Tensor]:
        """Every element type, no dimension, no element, an odd number of bytes, NaN and both zeros; in no sorted order."""
        generator = torch.Generator().manual_seed(7)
        found: dict[str, torch.Tensor] = {"layer.weight": torch.randn(7, 5, generator=generator)}
        for dtype in reversed(self.dtypes):
            found[f"types.{str(dtype)[6:]}"] = torch.randint(0, 2, (3, 3), generator=generator).to(dtype)
        found["layer.bias"] = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf")])
        found["a.scalar"] = torch.tensor(2.5)
        found["a.none"] = torch.zeros(0, 3)
        found["Ünïcode.key"] = torch.arange(3, dtype=torch.uint8)
        return found

    @pytest.fixture
    def sample(self, tensors: dict[str, torch.Tensor], tmp_path: Path) -> Path:
        path = tmp_path / "sample.bin"
        self.write(tensors, path)
        return path

    # -- whose it is ---------------------------------------------------------------------------------------------------------------
    @pytest.mark.parametrize(
        "name", ["model", "model.txt", "model.pth.tar", "model.safetensors", "model.onnx", "-rf ; ünï\u202e.zip"]
    )
    def test_content_decides_not_the_name(self, sample: Path, tmp_path: Path, name: str) -> None:
        path = tmp_path / "renamed" / name
        path.parent.mkdir()
        shutil.move(sample, path)
        probe = Probe(path)
        assert registry.detect(probe).name == self.format
        probe.close()

    def test_order_of_the_registry_does_not_matter(self, sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry, "ROWS", registry.ROWS[::-1])
        probe = Probe(sample)
        assert registry.detect(probe).name == self.format
        probe.close()

    @pytest.mark.parametrize("other", sorted(SAMPLES))
    def test_claims_nobody_elses_file(self, other: str) -> None:
        if other == self.format:
            return
        probe = Probe(FIXTURES / SAMPLES[other])
        assert self.module().sniff(probe) < protocol.Match.CERTAIN
        probe.close()

    def test_sniff_never_raises(self, sample: Path, tmp_path: Path) -> None:
        whole = sample.read_bytes() if sample.is_file() else b"PK\3\4"
        rng = random.Random(3)
        for index in range(40):
            path = tmp_path / f"junk{index}"
            path.write_bytes(whole[: rng.randrange(64)] + rng.randbytes(rng.randrange(600)))
            probe = Probe(path)
            assert isinstance(self.module().sniff(probe), protocol.Match)
            probe.close()

    def module(self) -> Any:
        return registry.load(next(row for row in registry.ROWS if row.name == self.format))

    # -- what it holds -------------------------------------------------------------------------------------------------------------
    def test_values_types_and_shapes(self, sample: Path, tensors: dict[str, torch.Tensor]) -> None:
        assert contents(sample) == expected(tensors)

    def test_order_is_the_files(self, sample: Path, tensors: dict[str, torch.Tensor]) -> None:
        assert list(contents(sample)) == list(tensors)

    def test_reopening_gives_the_same(self, sample: Path) -> None:
        assert contents(sample) == contents(sample)

    def test_says_what_it_is(self, sample: Path) -> None:
        with registry.open(sample) as checkpoint:
            assert checkpoint.format == self.format
            assert checkpoint.path == sample
            assert isinstance(checkpoint.metadata["container"], str)
            assert all(isinstance(name, str) and count >= 0 for name, count in checkpoint.globals.items())

    def test_empty_model(self, tmp_path: Path) -> None:
        path = tmp_path / "empty"
        self.write({"none": torch.zeros(0)}, path)
        assert contents(path) == expected({"none": torch.zeros(0)})

    def test_storages_give_any_range(self, sample: Path, tensors: dict[str, torch.Tensor]) -> None:
        rng = random.Random(5)
        with registry.open(sample) as checkpoint:
            for name, tensor in named(checkpoint).items():
                whole, storage = row_major_bytes(tensors[name]), tensor.row_major()
                for _ in range(4):
                    start, stop = sorted(rng.randrange(len(whole) + 1) for _ in range(2))
                    assert b"".join(bytes(piece) for piece in storage.chunks(start, stop)) == whole[start:stop]

    def test_converted_by_the_command(self, tmp_path: Path) -> None:
        """As a user runs it, and as the safetensors package reads the result."""
        generator = torch.Generator().manual_seed(3)
        tensors = {
            "layer.weight": torch.randn(6, 5, generator=generator),
            "layer.bias": torch.randn(6, generator=generator),
            "norm.running_mean": torch.randn(6, generator=generator),
            "norm.num_batches_tracked": torch.tensor(7),
        }
        source, out = tmp_path / "source.bin", tmp_path / "out.safetensors"
        self.write(tensors, source)
        command.run(source, "--to", "safetensors", "-o", out, check=True)
        assert expected(load_file(out)) == expected(tensors)

    # -- nothing happens -----------------------------------------------------------------------------------------------------------
    def test_nothing_is_imported_run_or_opened(self, sample: Path) -> None:
        contents(sample)  # our own modules are loaded by now
        with audited() as seen:
            contents(sample)
        names = {path.name for path in sample.rglob("*")}  # opened relative to the folder
        odd = [event for event in seen if event[0] != "open" or not (event[1] in names or Path(event[1]).is_relative_to(sample))]
        assert odd == []

    def test_source_is_left_as_it_was(self, sample: Path) -> None:
        def state(path: Path) -> list[Any]:
            every = sorted(path.rglob("*")) if path.is_dir() else [path]
            return [(p, p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).digest()) for p in every if p.is_file()]

        before = state(sample)
        contents(sample)
        assert state(sample) == before

    def test_closes_its_files(self, tmp_path: Path) -> None:
        sample = tmp_path / "large"
        self.write({"large": noise(4 << 20)}, sample)
        contents(sample)
        gc.collect()
        before = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else set()
        checkpoint = registry.open(sample)
        checkpoint.close()
        if before:
            assert set(os.listdir("/proc/self/fd")) <= before
        if not self.holds_bytes_in_memory:
            with pytest.raises((CheckpointError, OSError)):
                named(checkpoint)["large"].tobytes()

    # -- at what cost --------------------------------------------------------------------------------------------------------------
    def test_reading_the_structure_reads_no_tensor(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "large"
        self.write({"large": torch.zeros(4 << 20, dtype=torch.uint8)}, path)
        count = 0
        original = files.SourceFile.read_into

        def counting(file: files.SourceFile, offset: int, buffer: memoryview) -> None:
            nonlocal count
            count += len(buffer)
            original(file, offset, buffer)

        monkeypatch.setattr(files.SourceFile, "read_into", counting)
        with registry.open(path):
            pass
        limit = (12 << 20) if self.holds_bytes_in_memory else (2 << 20)
        assert count < limit

    def test_memory_does_not_grow_with_the_tensor(self, tmp_path: Path) -> None:
        if self.holds_bytes_in_memory:
            return
        path = tmp_path / "large"
        self.write({"large": torch.zeros(24 << 20, dtype=torch.uint8)}, path)
        contents(path)  # whatever is loaded once
        tracemalloc.start()
        try:
            with registry.open(path) as checkpoint:
                total = sum(len(piece) for tensor in named(checkpoint).values() for piece in tensor.chunks())
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert total == 24 << 20
        assert peak < 8 << 20

    def test_threads_and_interleaving(self, sample: Path, tensors: dict[str, torch.Tensor]) -> None:
        wanted = {name: row_major_bytes(tensor) for name, tensor in tensors.items()}
        with registry.open(sample) as checkpoint:
            views = named(checkpoint)
            open_iterators = {name: iter(view.chunks()) for name, view in views.items()}
            got = dict.fromkeys(views, b"")
            while open_iterators:
                for name in list(open_iterators):
                    piece = next(open_iterators[name], None)
                    if piece is None:
                        del open_iterators[name]
                    else:
                        got[name] += bytes(piece)
            assert got == wanted
            found: list[dict[str, bytes]] = []
            threads = [
                threading.Thread(target=lambda: found.append({n: v.tobytes() for n, v in views.items()})) for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert found == [wanted] * 3

    # -- damage --------------------------------------------------------------------------------------------------------------------
    def damaged(self, path: Path, right: dict[str, tuple[str, tuple[int, ...], bytes]]) -> str:
        """``refused`` or ``read`` or ``wrong``; whatever is raised must be an error of ours, in one line that names the file."""
        try:
            found = contents(path)
        except CheckpointError as error:
            text = str(error)
            assert "\n" not in text
            assert str(path) in text
            assert len(text) < 600 + len(str(path))
            return "refused"
        return "read" if found == right else "wrong"

    def test_cut_short_anywhere(self, sample: Path, tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
        whole, right = sample.read_bytes(), expected(tensors)
        rng = random.Random(11)
        path = tmp_path / "cut"
        for length in sorted({*range(0, 64, 9), len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(30))}):
            path.write_bytes(whole[:length])
            outcome = self.damaged(path, right)
            assert outcome == "refused" or (self.padded and outcome == "read"), (
                f"cut to {length} of {len(whole)} bytes: {outcome}"
            )

    def test_bytes_after_the_end(self, sample: Path, tensors: dict[str, torch.Tensor]) -> None:
        with sample.open("ab") as file:
            file.write(b"junk" * 5)
        assert self.damaged(sample, expected(tensors)) != "wrong"

    def test_changed_bytes_raise_nothing_but_our_errors(
        self, sample: Path, tmp_path: Path, tensors: dict[str, torch.Tensor]
    ) -> None:
        whole, right = sample.read_bytes(), expected(tensors)
        rng = random.Random(13)
        path = tmp_path / "changed"
        for _ in range(60):
            changed = bytearray(whole)
            for _ in range(rng.choice((1, 1, 4))):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            path.write_bytes(changed)
            self.damaged(path, right)

    def test_a_file_that_shrinks_is_refused(self, tmp_path: Path) -> None:
        if self.holds_bytes_in_memory:
            return
        path = tmp_path / "shrinks"
        self.write({"large": noise(4 << 20)}, path)
        with registry.open(path) as checkpoint:
            os.truncate(path, path.stat().st_size // 2)
            with pytest.raises(CorruptCheckpoint):
                named(checkpoint)["large"].tobytes()
