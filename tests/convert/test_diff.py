"""Differences between files, told by the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convert.__main__ import main
from convert.diff import diff
from formats.core.errors import AmbiguousCheckpoint, UsageError

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
save_file = pytest.importorskip("safetensors.torch").save_file
torch.set_num_threads(1)


@pytest.fixture
def state() -> dict[str, Any]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    return {key: value.clone() for key, value in net.state_dict().items()}


def statuses(a: Path, b: Path, **options: Any) -> dict[str, str]:
    return {row.key: row.status for row in diff(a, b, **options).rows if row.status != "same"}


def test_formats_do_not_matter(tmp_path: Path, state: dict[str, Any]) -> None:
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 1}, tmp_path / "a.pth.tar")
    torch.save(state, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "c.safetensors")
    np.savez(tmp_path / "d.npz", **{key: value.numpy() for key, value in state.items()})
    files = [tmp_path / name for name in ("a.pth.tar", "b.pth", "c.safetensors", "d.npz")]
    for one in files:
        for other in files:
            assert statuses(one, other) == {}
    found = diff(files[0], files[2])
    assert found.exit == 0
    assert found.notes == ["A: the model is state_dict", "A: module. stripped from the keys"]
    assert diff(files[0], files[1], strip=False).exit == 70


def test_each_kind_of_difference(tmp_path: Path, state: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    other = {key: value.clone() for key, value in state.items()}
    del other["0.bias"]
    other["extra.weight"] = torch.zeros(2)
    other["2.weight"] = other["2.weight"].half()
    other["2.bias"] = torch.zeros(3)
    other["1.running_var"][1] += 0.25
    other["1.running_var"][2] = float("nan")
    other["1.running_mean"] = -other["1.running_mean"]  # zeros of another sign
    torch.save(state, tmp_path / "a.pth")
    torch.save(other, tmp_path / "b.pth")
    found = diff(tmp_path / "a.pth", tmp_path / "b.pth")
    assert {row.key: row.status for row in found.rows if row.status != "same"} == {
        "0.bias": "missing", "extra.weight": "unexpected", "2.weight": "dtype", "2.bias": "shape",
        "1.running_var": "values", "1.running_mean": "bytes",
    }  # fmt: skip
    values = {row.key: row.deviation for row in found.rows}
    apart = values["1.running_var"]
    assert apart is not None
    assert (apart.differing, apart.numel, apart.max_abs, apart.nan, apart.first) == (2, 4, 0.25, 1, 1)
    halved = values["2.weight"]
    assert halved is not None
    assert halved.max_abs == float((state["2.weight"] - other["2.weight"].float()).abs().max())
    assert main(["diff", str(tmp_path / "a.pth"), str(tmp_path / "b.pth")]) == 70
    text = capsys.readouterr().out
    assert "1.running_var: float32 [4]; 2 of 4 values differ, max abs 0.25, 1 NaN on one side alone" in text
    assert "2.weight: float32 [2, 4] against float16 [2, 4]; " in text
    last = (
        "different: 1 only in A, 1 only in B, 1 of another shape, 1 of another dtype, 1 with other values, "
        "1 equal but not in their bytes; 4 the same"
    )
    assert text.splitlines()[-1] == last
    assert statuses(tmp_path / "a.pth", tmp_path / "b.pth", values=False).keys() == {
        "0.bias",
        "extra.weight",
        "2.weight",
        "2.bias",
    }


def test_order_is_told_and_is_no_difference(tmp_path: Path, state: dict[str, Any]) -> None:
    torch.save(state, tmp_path / "a.pth")
    torch.save(dict(reversed(list(state.items()))), tmp_path / "b.pth")
    found = diff(tmp_path / "a.pth", tmp_path / "b.pth")
    assert (found.exit, found.order) == (0, True)


def test_several_models_are_asked_about(tmp_path: Path, state: dict[str, Any]) -> None:
    torch.save({"netG": state, "netD": {"0.weight": torch.ones(2, 2)}}, tmp_path / "gan.pth")
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(AmbiguousCheckpoint, match="holds 2 models: netG, netD") as raised:
        diff(tmp_path / "gan.pth", tmp_path / "b.pth")
    assert raised.value.hint is not None
    assert raised.value.hint.startswith("--select-a netG names one")
    assert diff(tmp_path / "gan.pth", tmp_path / "b.pth", select_a="netG").exit == 0
    assert diff(tmp_path / "gan.pth", tmp_path / "gan.pth", everything=True).exit == 0
    with pytest.raises(UsageError):
        diff(tmp_path / "gan.pth", tmp_path / "b.pth", select_a="netG", everything=True)


def test_all_compares_the_optimizer_too(tmp_path: Path, state: dict[str, Any]) -> None:
    for name, moment in (("a", 0.0), ("b", 1.0)):
        torch.save(
            {"state_dict": state, "optimizer": {"state": {0: {"exp_avg": torch.full((2,), moment)}}, "param_groups": []}},
            tmp_path / f"{name}.pt",
        )
    assert statuses(tmp_path / "a.pt", tmp_path / "b.pt") == {}
    assert statuses(tmp_path / "a.pt", tmp_path / "b.pt", everything=True) == {"optimizer.state.0.exp_avg": "values"}


def test_sparse_tensors_by_component(tmp_path: Path) -> None:
    dense = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    torch.save({"w.weight": dense.to_sparse()}, tmp_path / "a.pth")
    torch.save({"w.weight": (dense * 2).to_sparse()}, tmp_path / "b.pth")
    torch.save({"w.weight": dense}, tmp_path / "c.pth")
    assert statuses(tmp_path / "a.pth", tmp_path / "b.pth") == {"w.weight": "values"}
    assert statuses(tmp_path / "a.pth", tmp_path / "c.pth") == {"w.weight": "layout"}
    assert statuses(tmp_path / "a.pth", tmp_path / "a.pth") == {}
