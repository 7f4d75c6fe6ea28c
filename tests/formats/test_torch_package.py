"""torch.package archives, judged by torch's own importer."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.package import PackageExporter, PackageImporter

from convert.modules import state_dict_of
from formats import registry
from formats.core.errors import CheckpointError
from tests.formats import conformance

FIXTURE = conformance.FIXTURES / "torch1.13.1_py3.11" / "tinynet_torch_package.pt"


def export(path: Path, resources: dict[tuple[str, str], Any], texts: dict[str, str] | None = None) -> None:
    with PackageExporter(path) as exporter:
        exporter.extern(["torch", "torch.**", "collections"])
        for (package, name), value in resources.items():
            exporter.save_pickle(package, name, value)
        for name, text in (texts or {}).items():
            exporter.save_text("texts", name, text)


class TestConformance(conformance.ReaderConformance):
    format = "torch-package"

    def write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        export(path, {("model", "model.pkl"): tensors})


def test_sample_of_torch_1_13() -> None:
    module: Any = PackageImporter(FIXTURE).load_pickle("model", "model.pkl", map_location="cpu")
    with registry.open(FIXTURE) as checkpoint:
        ours = state_dict_of(checkpoint.tree).tensors
        assert list(ours) == list(module.state_dict())
        assert {k: (t.dtype.name, t.shape, t.tobytes()) for k, t in ours.items()} == conformance.expected(module.state_dict())
        assert checkpoint.tree.name.endswith("TinyNet")
        assert any("left out" in note for note in checkpoint.notes)


def test_several_pickles_share_storages(tmp_path: Path) -> None:
    weight = torch.arange(6.0)
    path = tmp_path / "several.pt"
    export(path, {("a", "first.pkl"): {"w": weight}, ("b.c", "second.pkl"): {"v": weight[2:]}}, {"note.txt": "hello"})
    with registry.open(path) as checkpoint:
        tree = checkpoint.tree
        assert list(tree) == ["a/first", "b/c/second"]
        assert tree["a/first"]["w"].storage is tree["b/c/second"]["v"].storage
        assert tree["b/c/second"]["v"].tobytes() == weight[2:].numpy().tobytes()


def test_a_pickle_called_data_is_no_torch_save(tmp_path: Path) -> None:
    path = tmp_path / "data.pt"
    export(path, {("model", "data.pkl"): {"w": torch.ones(2)}})
    with registry.open(path) as checkpoint:
        assert checkpoint.format == "torch-package"


def test_script_module_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ScriptModule is made by a function of the importer; it is described and not made."""
    monkeypatch.setattr("torch.package.package_exporter._gate_torchscript_serialization", False)
    path = tmp_path / "script.pt"
    with pytest.warns(DeprecationWarning, match="jit"):
        program = torch.jit.script(nn.Linear(2, 2))
    export(path, {("model", "model.pkl"): {"script": program, "w": torch.ones(2)}})
    with registry.open(path) as checkpoint:
        assert checkpoint.tree["w"].tobytes() == torch.ones(2).numpy().tobytes()
        assert checkpoint.tree["script"].name.startswith("torch.jit")


def test_only_code(tmp_path: Path) -> None:
    path = tmp_path / "code.pt"
    export(path, {}, {"a.py": "x = 1"})
    with pytest.raises(CheckpointError, match="code and no weights"):
        registry.open(path)


def test_two_packages_in_one_archive(tmp_path: Path) -> None:
    path = tmp_path / "two.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/.data/extern_modules", "")
        archive.writestr("b/.data/extern_modules", "")
    with pytest.raises(CheckpointError):
        registry.open(path)
