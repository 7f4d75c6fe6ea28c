"""timm and safetensors read a release folder as it is; what is not known is not written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.convert.release.folders import check, make, manifest, weights
from tests.parts import needs


@pytest.fixture(scope="module", autouse=True)
def zoo() -> None:
    """timm and a torchvision that can be imported beside a torch without CUDA."""
    needs("zoo")
    from benchmarks.torchvision_cpu import mend

    mend()


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from benchmarks import zoo_models

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vit") / "anything.pth"
    torch.save({"state_dict": zoo_models.build("timm", "vit_tiny_patch16_224", classes=5).state_dict()}, path)
    return path


def test_timm_and_safetensors_read_the_folder(vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import timm
    from safetensors.torch import load_model

    folder = make(vit, tmp_path / "out", "--license", "mit")
    said = manifest(folder)
    assert said["name"] == "vit_tiny_patch16_224"  # of the architecture, not of the file
    assert said["architecture"] == {
        "name": "timm:vit_tiny_patch16_224", "library": "timm", "model": "vit_tiny_patch16_224", "basis": "equal", "classes": 5,
    }  # fmt: skip
    original = torch.load(vit, weights_only=True)["state_dict"]
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert all(torch.equal(value, original[key]) for key, value in model.state_dict().items())
    assert model.state_dict().keys() == original.keys()
    assert not model.pretrained_cfg.get("tag")
    fresh = timm.create_model("vit_tiny_patch16_224", num_classes=5)
    assert load_model(fresh, str(folder / "model.safetensors")) == (set(), [])
    assert all(torch.equal(value, original[key]) for key, value in fresh.state_dict().items())
    assert check(capsys, folder) == (0, {})


def test_nothing_is_stamped_that_nobody_said(vit: Path, tmp_path: Path) -> None:
    config = json.loads((make(vit, tmp_path / "out", to=("safetensors",)) / "config.json").read_text())
    assert config == {"architecture": "vit_tiny_patch16_224", "num_classes": 5, "pretrained_cfg": {"num_classes": 5}}


def test_an_architecture_that_is_not_sure_is_named_by_the_publisher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ResNet-18 and its blur-pooled twin share their weights."""
    import timm

    from benchmarks import zoo_models

    model = zoo_models.build("timm", "resnet18", classes=3)
    torch.save(model.state_dict(), tmp_path / "resnet18.pth")  # a name is no proof
    folder = make(tmp_path / "resnet18.pth", tmp_path / "unsure", to=("safetensors",))
    assert "--arch names one" in capsys.readouterr().out
    assert not (folder / "config.json").exists()
    assert "architecture" not in manifest(folder)
    folder = make(tmp_path / "resnet18.pth", tmp_path / "sure", "--arch", "timm:resnet18", to=("safetensors",))
    assert manifest(folder)["architecture"]["basis"] == "given"
    made = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in made.state_dict().items())


def test_a_model_of_torchvision_is_said_to_be_one() -> None:
    from convert.release.config import config

    known = {"name": "torchvision:alexnet", "library": "torchvision", "model": "alexnet", "basis": "only", "classes": 7}
    said = json.loads(config({"architecture": known}) or b"")
    assert said == {"architecture": "alexnet", "num_classes": 7, "library_name": "torchvision"}
    assert config({}) is None


def test_an_architecture_that_does_not_fit_is_refused(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from convert.__main__ import main

    assert main(["release", str(saved), str(tmp_path / "out"), "--to", "pth", "--arch", "timm:resnet18"]) == 2
    assert "is not what these weights belong to" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_verdict_of_a_run_is_published(vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(vit, tmp_path / "out", "--run", to=("safetensors",))
    said = manifest(folder)["verification"]["parity"]
    assert said["verdict"] == "proved"
    assert said["inputs"][0].startswith("1x3x224x224")
    assert "proved" in (folder / "README.md").read_text()
    assert weights(folder, "safetensors").exists()
    assert check(capsys, folder) == (0, {})
