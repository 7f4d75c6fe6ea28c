"""DeepSpeed ZeRO folders, in the layout of DeepSpeed 0.19.8's writers; judged by the weights that went into them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from convert.select import choose
from formats import registry
from formats.core.errors import CheckpointError, CorruptCheckpoint, Unsupported
from formats.core.storage import BytesStorage
from formats.core.widen import Widened
from tests.formats.conformance import expected
from tests.formats.zero_writer import Zero, write
from tests.torch_reading import row_major_bytes


def _zero(seed: int = 1, **options: Any) -> Zero:
    generator = torch.Generator().manual_seed(seed)

    def make(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    groups = [
        {"embed.weight": make(7, 3), "layer.0.weight": make(5, 3), "layer.0.scale": make(1).reshape(())},
        {"layer.0.bias": make(5), "norm.bias": make(3)},
    ]
    buffers = {
        "norm.running_mean": make(3).half(),
        "norm.count": torch.tensor(5),
        "mask": torch.tensor([True, False]),
        "b": make(2).bfloat16(),
    }
    frozen = {"frozen.weight": make(3, 3).half(), "frozen.bias": make(2)}
    return Zero(groups, buffers, frozen, {"head.weight": "embed.weight"}, **options)


def _opened(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    with registry.open(folder) as checkpoint:
        assert checkpoint.format == "deepspeed"
        (choice,) = choose(checkpoint)
        assert choice.path == "module"
        return {name: (t.dtype.name, t.shape, t.tobytes()) for name, t in choice.state_dict.tensors.items()}  # type: ignore[union-attr]


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 11])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_weights_come_back(tmp_path: Path, stage: int, ranks: int) -> None:
    zero = _zero()
    if stage == 3:
        zero.frozen = {name: tensor.float() for name, tensor in zero.frozen.items()}
    write(tmp_path / "c", zero, stage, ranks)
    wanted = expected(zero.consolidated())
    assert _opened(tmp_path / "c") == wanted
    assert list(_opened(tmp_path / "c")) == list(wanted)
    assert _opened(tmp_path / "c" / "global_step7") == wanted  # without ``latest``


@pytest.mark.parametrize("options", [{"prefix": "bf16_", "half": torch.bfloat16}, {"prefix": "fp16_"}])
def test_other_names(tmp_path: Path, options: dict[str, Any]) -> None:
    write(tmp_path / "c", _zero(**options), 1, 2)
    assert _opened(tmp_path / "c") == expected(_zero().consolidated())


def test_older_versions(tmp_path: Path) -> None:
    for stage in (2, 3):
        folder = write(tmp_path / f"c{stage}", Zero(_zero().groups), stage, 2, old=True)
        assert _opened(folder) == expected(Zero(_zero().groups).consolidated())


def test_shared_parameters_stay_tied_and_the_rest_is_listed(tmp_path: Path) -> None:
    write(tmp_path / "c", _zero(), 2, 2)
    with registry.open(tmp_path / "c") as checkpoint:
        module = checkpoint.tree["module"]
        assert module["head.weight"] is module["embed.weight"]
        assert len(checkpoint.tree["optimizer"]) == 2
        assert checkpoint.tree["global_steps"] == 7
        assert checkpoint.metadata["zero_stage"] == 2
        assert "deepspeed.runtime.zero.config.ZeroStageEnum" in checkpoint.globals


def test_any_range_of_a_parameter(tmp_path: Path) -> None:
    rng = random.Random(1)
    for stage in (2, 3):
        zero = Zero(_zero().groups)
        write(tmp_path / f"c{stage}", zero, stage, 3)
        with registry.open(tmp_path / f"c{stage}") as checkpoint:
            for name, tensor in zero.consolidated().items():
                whole, storage = row_major_bytes(tensor), checkpoint.tree["module"][name].row_major()
                for _ in range(10):
                    start, stop = sorted(rng.randrange(len(whole) + 1) for _ in range(2))
                    assert b"".join(map(bytes, storage.chunks(start, stop))) == whole[start:stop]


def test_only_the_models_file(tmp_path: Path) -> None:
    """Somebody deleted the optimizer: stages 1 and 2 still have the weights in half precision, stage 3 has none."""
    zero = Zero(_zero().groups)
    for stage in (2, 3):
        folder = write(tmp_path / f"c{stage}", zero, stage, 1)
        for file in folder.rglob("*_optim_states.pt"):
            file.unlink()
    assert _opened(tmp_path / "c2") == expected({name: tensor.half() for name, tensor in zero.consolidated().items()})
    with registry.open(tmp_path / "c2") as checkpoint:
        assert any("no optimizer files" in note for note in checkpoint.notes)
    with pytest.raises(CorruptCheckpoint, match="do not hold all weights"):
        registry.open(tmp_path / "c3")


# -- folders that lie or are more than is put together ---------------------------------------------------------------------------------
def _edit(folder: Path, pattern: str, change: Callable[[dict[str, Any]], None]) -> None:
    from tests.formats.zero_writer import _classes

    (path,) = folder.rglob(pattern)
    with _classes():
        state = torch.load(path, weights_only=False)
        change(state)
        torch.save(state, path)


def _flat(key: str, change: Callable[[list[torch.Tensor]], None]) -> Callable[[dict[str, Any]], None]:
    return lambda state: change(state["optimizer_state_dict"][key])


@pytest.mark.parametrize("stage", [2, 3])
def test_partitions_that_do_not_fit(tmp_path: Path, stage: int) -> None:
    key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"

    def cut(groups: list[torch.Tensor]) -> None:
        groups[0] = groups[0][:4].clone()

    def grow(groups: list[torch.Tensor]) -> None:
        groups[0] = torch.cat([groups[0], torch.zeros(20)])

    def twist(groups: list[torch.Tensor]) -> None:
        groups[0] = groups[0].reshape(1, -1)

    def other_type(groups: list[torch.Tensor]) -> None:
        groups[-1] = groups[-1].double()

    for number, change in enumerate((cut, grow, twist, other_type)):
        folder = write(tmp_path / f"c{number}", _zero(), stage, 2)
        _edit(folder, "*rank_1_*_optim_states.pt", _flat(key, change))
        with pytest.raises(CorruptCheckpoint):
            registry.open(folder)


@pytest.mark.parametrize("shape", [(1 << 62, 1 << 62), (-1,), ("a",), (3,) * 100, (8, 3)])
@pytest.mark.parametrize("stage", [2, 3])
def test_shapes_that_lie(tmp_path: Path, stage: int, shape: tuple[Any, ...]) -> None:
    folder = write(tmp_path / "c", Zero([{"w": torch.randn(7, 3)}]), stage, 1)
    _edit(folder, "*_model_states.pt", lambda state: state["param_shapes"][0].update(w=shape))
    with pytest.raises(CheckpointError, match="'w'|values"):
        registry.open(folder)


def test_files_that_are_missing_or_too_many(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", _zero(), 2, 3)
    inner = folder / "global_step7"
    names = sorted(path.name for path in inner.glob("*_optim_states.pt"))
    moved = (inner / names[1]).rename(tmp_path / "away")
    with pytest.raises(CorruptCheckpoint, match="none of rank 1"):
        registry.open(folder)
    moved.rename(inner / names[1])
    (inner / names[2]).rename(tmp_path / "away")
    with pytest.raises(CorruptCheckpoint, match="written by 3 ranks, optimizer files of 2"):
        registry.open(folder)
    (tmp_path / "away").rename(inner / names[2])
    (inner / "mp_rank_01_model_states.pt").write_bytes((inner / "mp_rank_00_model_states.pt").read_bytes())
    with pytest.raises(Unsupported, match="model-parallel"):
        registry.open(folder)
    (inner / "mp_rank_01_model_states.pt").rename(inner / "layer_0_expert_0_mp_rank_00_model_states.pt")
    with pytest.raises(Unsupported, match="experts"):
        registry.open(folder)


@pytest.mark.parametrize("tag", ["../c", "/tmp", "", "a/b", ".", "gone", "x" * 1000])
def test_latest_that_leads_elsewhere(tmp_path: Path, tag: str) -> None:
    folder = write(tmp_path / "c", _zero(), 2, 1)
    (folder / "latest").write_text(tag)
    with pytest.raises(CheckpointError):
        registry.open(folder)


def test_links_are_not_followed(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", _zero(), 2, 1)
    (path,) = folder.rglob("*_optim_states.pt")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptCheckpoint, match="links are not followed"):
        registry.open(folder)


# -- half precision as float32 ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_is_widened_as_torch_does(dtype: torch.dtype) -> None:
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(dtype)
    narrow = bytes(every.view(torch.uint8).numpy().tobytes())
    storage = Widened(BytesStorage(narrow), str(dtype)[6:])
    wide = b"".join(map(bytes, storage.chunks(0, storage.nbytes)))
    ours = torch.frombuffer(bytearray(wide), dtype=torch.int32)
    torchs = every.float().view(torch.int32)
    numbers = ~every.isnan()
    assert torch.equal(ours[numbers], torchs[numbers])
    quiet = torch.where(every.isnan(), ours | 0x400000, ours)  # a processor may quieten a NaN; its payload is the same
    assert torch.equal(quiet[~numbers], torchs[~numbers] | 0x400000)
    assert b"".join(map(bytes, storage.chunks(3, 1001))) == wide[3:1001]
