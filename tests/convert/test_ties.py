"""Tied tensors where the target has no ties: each written, the first alone, or an error; and tied again on the way back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

import convert
from convert.__main__ import main
from formats.core.errors import Unsupported

torch.set_num_threads(1)


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(7, 3)
        self.norm = torch.nn.LayerNorm(3)
        self.head = torch.nn.Linear(3, 7, bias=False)
        self.head.weight = self.embed.weight


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.save(Tied().state_dict(), tmp_path / "m.pth")
    return tmp_path / "m.pth"


def tied(path: Path) -> bool:
    loaded = torch.load(path, weights_only=True)
    return bool(loaded["embed.weight"].data_ptr() == loaded["head.weight"].data_ptr())


def back(path: Path, target: str = "pth") -> tuple[Path, Any]:
    result = convert.convert(path, to=target, out=path.parent / f"back.{target}", force=True)
    return result.outputs[0].path, result


def test_by_default_any_loader_finds_every_key_and_the_tie_comes_back(source: Path) -> None:
    result = convert.convert(source, to="safetensors")
    assert result.outputs[0].duplicates == {"head.weight": "embed.weight"}
    assert any("each written in full" in line for line in result.lines())
    Tied().load_state_dict(safetensors.torch.load_file(source.with_suffix(".safetensors")), strict=True)
    again, said = back(source.with_suffix(".safetensors"))
    assert tied(again)
    assert said.notes == []


@pytest.mark.parametrize("written", ["duplicate", "alias"])
def test_a_tie_survives_a_second_container(written: str, source: Path) -> None:
    convert.convert(source, to="safetensors", tied=written)
    second, said = back(source.with_suffix(".safetensors"), "safetensors")
    assert said.outputs[0].duplicates == {"head.weight": "embed.weight"}
    with safetensors.safe_open(second, "pt") as opened:
        assert "head.weight" not in opened.metadata(), "what the first file said of its keys is not true of this one"
    assert tied(back(second)[0])


def test_sharded_models_are_tied_again(source: Path) -> None:
    convert.convert(source, to="safetensors")
    path = source.with_suffix(".safetensors")
    with safetensors.safe_open(path, "pt") as opened:
        metadata, keys = opened.metadata(), list(opened.keys())
    index = path.with_name("model.safetensors.index.json")
    bare = path.with_name("model-00001-of-00001.safetensors")
    safetensors.torch.save_file(safetensors.torch.load_file(path), bare)
    index.write_text(json.dumps({"metadata": metadata, "weight_map": dict.fromkeys(keys, bare.name)}))
    assert tied(back(index)[0])


def test_what_another_tool_changed_stays_apart(source: Path) -> None:
    convert.convert(source, to="safetensors")
    path = source.with_suffix(".safetensors")
    with safetensors.safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    changed = safetensors.torch.load_file(path)
    changed["head.weight"] = changed["head.weight"] + 1
    safetensors.torch.save_file(changed, path, metadata)
    again, said = back(path)
    assert not tied(again)
    assert torch.equal(torch.load(again)["head.weight"], changed["head.weight"])
    assert any("head.weight" in note and "stay apart" in note for note in said.notes)
    del changed["head.weight"]
    safetensors.torch.save_file(changed, path, metadata)
    assert "head.weight" not in torch.load(back(path)[0])


def test_alias_is_what_save_model_writes_and_load_model_reads(source: Path) -> None:
    model = Tied()
    torch.save(model.state_dict(), source)
    result = convert.convert(source, to="safetensors", tied="alias")
    assert result.outputs[0].aliases == {"head.weight": "embed.weight"}
    other = Tied()
    safetensors.torch.load_model(other, str(source.with_suffix(".safetensors")))
    assert torch.equal(other.head.weight, model.head.weight)
    assert tied(back(source.with_suffix(".safetensors"))[0])


def test_files_of_save_model_itself_are_read_with_their_ties(tmp_path: Path) -> None:
    model = Tied()
    safetensors.torch.save_model(model, str(tmp_path / "theirs.safetensors"))
    again, said = back(tmp_path / "theirs.safetensors")
    assert tied(again)
    assert torch.equal(torch.load(again)["head.weight"], model.head.weight)
    assert any("tied" in note for note in said.notes)


def test_fail_names_the_tied_keys(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(source), "--to", "safetensors", "--tied", "fail"]) == 69
    assert "'head.weight' is 'embed.weight'" in capsys.readouterr().err
    assert not source.with_suffix(".safetensors").exists()
    assert main([str(source), "--to", "pth", "--tied=fail", "-o", str(source.parent / "x.pth")]) == 0, "a .pth holds ties"


def test_a_container_without_metadata_cannot_alias(source: Path) -> None:
    if "npz" not in json.dumps(_targets()):
        pytest.skip("no target without metadata")
    with pytest.raises(Unsupported, match="no place to say so"):
        convert.convert(source, to="npz", tied="alias")


def _targets() -> list[str]:
    from formats import registry

    return registry.targets()


def test_flat_weights_of_an_rnn_are_not_tied(tmp_path: Path) -> None:
    flat = torch.arange(24.0)
    torch.save({"a.weight": flat[:12].view(3, 4), "b.weight": flat[12:].view(3, 4), "c.weight": flat[2:14]}, tmp_path / "f.pth")
    result = convert.convert(tmp_path / "f.pth", to="safetensors", tied="fail")
    assert result.outputs[0].duplicates == {}
    assert result.outputs[0].tensor_bytes == 36 * 4


def test_ties_of_quantised_tensors_live_as_long_as_the_others(tmp_path: Path) -> None:
    shared = torch.quantize_per_tensor(torch.arange(6.0).view(2, 3), 0.5, 1, torch.qint8)
    path = tmp_path / "0.pth"
    torch.save({"a.weight": shared, "b.weight": shared}, path)
    for generation, target in enumerate(["safetensors", "pth", "safetensors", "pth"], 1):
        path = convert.convert(path, to=target, out=tmp_path / f"{generation}.{target}").outputs[0].path
    loaded = torch.load(path, weights_only=True)
    assert loaded["a.weight"].untyped_storage().data_ptr() == loaded["b.weight"].untyped_storage().data_ptr()
    assert torch.equal(loaded["b.weight"].int_repr(), shared.int_repr())
