"""Conversions and `convert verify` with a program: run before an output gets its name, reported, repeated from the report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.command import run, run_json
from tests.convert.parity_models import SHAPES, build

pytest.importorskip("onnxruntime")
torch.set_num_threads(1)

NET = Path(__file__).with_name("parity_models.py")
MIXED = ("--arch", f"{NET}:Mixed", "--input", SHAPES["Mixed"])
PADDED = ("--arch", f"{NET}:PaddedPool", "--input", SHAPES["PaddedPool"])


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    path = tmp_path / "in.pth.tar"
    torch.save({"state_dict": {f"module.{k}": v for k, v in build("Mixed").state_dict().items()}, "epoch": 3}, path)
    return path


@pytest.fixture
def padded(tmp_path: Path) -> Path:
    path = tmp_path / "padded.pth"
    torch.save(build("PaddedPool").state_dict(), path)
    return path


def statuses(document) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in document["rows"]:
        found.setdefault(row["rung"], []).append(row["status"])
    return found


def test_a_conversion_with_a_program_is_proved(mixed: Path) -> None:
    output = run_json(mixed, "--to", "safetensors", *MIXED)["results"][0]["outputs"][0]
    assert output["verified"] == "proved"
    found = output["parity"]
    assert statuses(found)["digests"] == ["passed"]
    assert found["recipe"]["source weights read by"].startswith("torch ")
    assert found["recipe"]["output read by"].startswith("safetensors ")
    assert {"torch", "numpy", "python"} <= set(found["environment"]["versions"])


def test_verify_finds_damage_bisects_and_says_70(mixed: Path) -> None:
    run(mixed, "--to", "safetensors", check=True)
    output = mixed.with_name("in.safetensors")
    tensors = load_file(output)
    tensors["ln.weight"][2] *= 1.001
    save_file(tensors, output)
    page = mixed.with_name("report.html")
    found = run_json("verify", mixed, output, *MIXED, "--bisect", "--html", page, exit_code=70)
    assert found["verdict"] == "failed"
    assert "ln.weight" in found["reason"]
    assert any("guilty layer: ln (LayerNorm)" in line for line in found["diagnosis"])
    assert found["worst"]["worst"]["expected"] != found["worst"]["worst"]["got"]
    html = page.read_text()
    assert "ln.weight" in html
    assert "<svg" in html
    assert not re.search(r"<script|https?://|src=|@import|url\(", html)


def test_the_page_escapes_what_files_say() -> None:
    from convert.parity.page import page

    bad = "<script>alert(1)</script>\x1b[31m\u202e'\""
    rows = [
        {
            "rung": "digests",
            "status": "failed",
            "what": bad,
            "seconds": 0.1,
            "figures": {"differing": {bad: bad}, "errors": {bad: 1.0}},
        }
    ]
    runs = [{"device": bad, "inputs": bad, "scores": [{"output": bad, "sample": bad, "status": bad, "ratio": "inf", "why": bad}]}]
    probes = [{"layer": bad, "kind": bad, "inputs": bad, "status": bad, "ratio": bad}]
    html = page(
        {"verdict": bad, "reason": bad, "rows": rows, "runs": runs, "probes": probes, "diagnosis": [bad], "recipe": {bad: bad},
         "configuration": {bad: {bad: bad}}, "environment": {"versions": {bad: bad}, "devices": [{"name": bad, "title": bad}]}},
        bad,
    )  # fmt: skip
    assert "<script" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html


def test_a_report_is_repeated(tmp_path: Path) -> None:
    torchvision_like = tmp_path / "net.pth"
    torch.save(build("Mixed").state_dict(), torchvision_like)
    run(torchvision_like, "--to", "safetensors", check=True)
    report = tmp_path / "report.json"
    done = run("verify", torchvision_like, tmp_path / "net.safetensors", *MIXED, "--json", check=True)
    report.write_text(done.stdout)
    # A report may not bring code: the user has to name it again.
    again = run("verify", "--replay", report)
    assert again.returncode == 69
    assert "which is code" in again.stderr
    from convert import proof

    options = proof.RunOptions(arch=f"{NET}:Mixed", inputs=(SHAPES["Mixed"],))
    first = proof.compare(torchvision_like, tmp_path / "net.safetensors", options)
    told = json.loads(done.stdout)
    assert [run.document() for run in first.runs] == told["runs"]  # the same seed gives the same numbers


def test_onnx_end_to_end(mixed: Path) -> None:
    onnx = pytest.importorskip("onnx")
    output = run_json(mixed, "--to", "onnx", *MIXED)["results"][0]["outputs"][0]
    assert output["verified"] == "proved"
    path = Path(output["path"])
    model = onnx.load(str(path))
    account = json.loads(next(entry.value for entry in model.metadata_props if entry.key == "ckpt_convert"))
    assert account["source"]["format"] == "torch-zip"
    assert account["export"]["dynamic_batch"] is True
    first = path.read_bytes()
    assert str(mixed.parent).encode() not in first
    run(mixed, "--to", "onnx", *MIXED, "--force", check=True)
    assert path.read_bytes() == first
    found = run_json("verify", mixed, path, *MIXED)
    assert found["verdict"] == "proved"
    assert {p.name for p in mixed.parent.iterdir()} == {"in.pth.tar", "in.onnx"}


def test_external_data_end_to_end(mixed: Path) -> None:
    document = run_json(mixed, "--to", "onnx", *MIXED, "--external-data", "0", "--exporter", "torchscript")
    files = document["results"][0]["outputs"][0]["files"]
    assert sorted(Path(entry["path"]).name for entry in files) == ["in.onnx", "in.onnx.data"]
    assert document["results"][0]["outputs"][0]["verified"] == "proved"
    assert {p.name for p in mixed.parent.iterdir()} == {"in.pth.tar", "in.onnx", "in.onnx.data"}


def test_a_failed_proof_leaves_no_output_and_names_the_optimiser(padded: Path) -> None:
    done = run(padded, "--to", "onnx", *PADDED)
    if done.returncode == 0:
        pytest.skip("this release of onnxruntime pads as the model does")
    assert done.returncode == 70
    assert "Pad_Fusion" in done.stderr
    assert {p.name for p in padded.parent.iterdir()} == {"padded.pth"}
    run(padded, "--to", "onnx", *PADDED, "--disable-optimizer", "Pad_Fusion", check=True)


def test_without_a_program_the_verdict_says_bytes_only(padded: Path) -> None:
    output = run_json(padded, "--to", "safetensors", "--verify", "run")["results"][0]["outputs"][0]
    assert output["verified"] == "bytes only"
    done = run(padded, "--to", "onnx")
    assert done.returncode == 69
    assert "--arch" in done.stderr
    assert done.stderr.count("\n") <= 2


def test_an_input_that_does_not_fit_is_inconclusive_for_weights_and_an_error_for_onnx(mixed: Path) -> None:
    wrong = ("--arch", f"{NET}:Mixed", "--input", "1x5x16x16")
    output = run_json(mixed, "--to", "safetensors", *wrong)["results"][0]["outputs"][0]
    assert output["verified"] == "inconclusive"
    assert "does not run" in output["parity"]["reason"]
    assert run(mixed, "--to", "onnx", *wrong).returncode == 69


@pytest.mark.parametrize("suffix", [".pt2", ".pt"])
def test_a_source_with_a_program_of_its_own(tmp_path: Path, suffix: str) -> None:
    """TorchScript and exported programs run only when that is said; they have no mode to set and no layers to hook."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(144, 5)
    ).eval()
    source = tmp_path / f"own{suffix}"
    if suffix == ".pt2":
        torch.export.save(torch.export.export(net, (torch.randn(2, 3, 8, 8),)), source)
    else:
        torch.jit.script(net).save(str(source))
    arguments = (source, "--to", "safetensors", "--verify", "run", "--input", "2x3x8x8")
    assert run_json(*arguments)["results"][0]["outputs"][0]["verified"] == "bytes only"
    output = run_json(*arguments, "--trust-source", "--force")["results"][0]["outputs"][0]
    assert output["verified"] == "proved"
    assert "--trust-source: code of the file was run" in json.dumps(output["parity"])
