"""The sample zoo: each checkpoint of it becomes what was put into it, as safetensors' own reader sees it."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import pytest
import torch

import convert
from formats import registry
from tests import sample_models, sample_zoo, torch_reading

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's own, of tensors that it means to give up
    SAMPLES = {sample.name: sample for sample in sample_zoo.samples()}


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, of containers that it means to give up


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    sample_zoo.make(folder, with_bad=True)
    return folder


ORDER_OF_ITS_OWN = {"language/embeddings.safetensors", "programs/exported.pt2"}  # its writer sorts the tensors
ADDRESSES = {  # torch names storages by their address in memory, or stamps its files
    "language/distributed/.metadata", "programs/exported.pt2", "programs/package.pt", "programs/traced.pt",
    "vision/checkpoint-2019.pth.tar", "vision/parallel.t7", "vision/weights-2018.pth",
}  # fmt: skip


def _in_order(weights: sample_zoo.Weights, name: str) -> dict[str, torch.Tensor]:
    keys = sorted(weights) if name in ORDER_OF_ITS_OWN else list(weights)
    return {key: weights[key].contiguous() for key in keys}


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_dense() if tensor.layout != torch.strided else tensor.dequantize() if tensor.is_quantized else tensor


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_converted_to_what_was_put_into_it(name: str, zoo: Path, tmp_path: Path) -> None:
    result = convert.convert(zoo / name, to="safetensors", out_dir=tmp_path)
    assert result.status == "done"
    expected = SAMPLES[name].models
    if not expected:  # sparse and quantised tensors come back as such in torch's own container
        again = convert.convert(result.outputs[0].path, to="pth", out_dir=tmp_path)
        got, before = (torch.load(path, weights_only=True) for path in (again.outputs[0].path, zoo / name))
        assert [(key, value.layout, value.dtype) for key, value in got.items()] == [
            (key, value.layout, value.dtype) for key, value in before.items()
        ]
        assert all(torch.equal(_plain(got[key]), _plain(before[key])) for key in before)
    else:
        assert {output.model or "" for output in result.outputs} == set(expected)
        for output in result.outputs:
            got = torch_reading.load_safetensors(output.path)
            torch_reading.assert_same_tensors(_in_order(got, name), _in_order(expected[output.model or ""], name))


def test_it_has_every_container(zoo: Path) -> None:
    found = set()
    for name in SAMPLES:
        with registry.open(zoo / name) as checkpoint:
            found.add(checkpoint.format)
    # model.json of TorchScript 1.0 – 1.3 has no writer any more
    assert found == {row.name for row in registry.readers()} - {"torchscript-json"}
    assert len(SAMPLES) >= 30


def test_the_bad_ones_are_refused(zoo: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in (zoo / "bad").iterdir())
    said: list[str] = []
    for name in names:
        with pytest.raises(convert.CheckpointError) as caught:
            convert.convert(zoo / "bad" / name, to="safetensors", out_dir=tmp_path)
        assert caught.value.exit_code == 65
        said.append(str(caught.value))
    assert len(names) == 5
    assert "Git-LFS pointer" in said[names.index("pointer.safetensors")]
    assert "web page" in said[names.index("web page.pth")]
    assert list(tmp_path.iterdir()) == []


def test_what_lies_beside_is_no_checkpoint(zoo: Path) -> None:
    for name in sample_zoo.OTHERS:
        with pytest.raises(convert.CheckpointError), registry.open(zoo / name):
            pass


def test_it_is_the_same_every_time(zoo: Path, tmp_path: Path) -> None:
    sample_zoo.make(tmp_path)
    first, second = (
        {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file()
        }
        for folder in (zoo, tmp_path)
    )
    differing = {name for name, digest in second.items() if first[name] != digest}
    assert differing <= ADDRESSES
    assert first["vision/weights.pth"] == first["vision/copies/weights (1).pth"]


def test_nets_run() -> None:
    for net in sample_models.nets().values():
        assert torch.isfinite(net(torch.ones(2, 32))).all()
