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
onnx = pytest.importorskip("onnx")
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


def test_weights_stay_in_the_safetensors_beside(mixed: Path) -> None:
    run(mixed, "--to", "safetensors", check=True)
    weights = mixed.with_name("in.safetensors")
    before = weights.read_bytes()
    document = run_json(mixed, "--to", "onnx", *MIXED, "--external-data", "in.safetensors")
    output = document["results"][0]["outputs"][0]
    assert output["verified"] == "proved"
    assert weights.read_bytes() == before
    assert {p.name for p in mixed.parent.iterdir()} == {"in.pth.tar", "in.onnx", "in.safetensors"}
    model = onnx.load(str(mixed.with_name("in.onnx")), load_external_data=False)
    state = build("Mixed").state_dict()
    shared = [tensor for tensor in model.graph.initializer if tensor.external_data]
    assert len(shared) == 15
    for tensor in shared:
        said = {entry.key: entry.value for entry in tensor.external_data}
        assert said["location"] == "in.safetensors"
        start, length = int(said["offset"]), int(said["length"])
        assert before[start : start + length] == state[tensor.name].numpy().tobytes()
    held = run_json("inspect", mixed.with_name("in.onnx"))  # our own reader finds them there too
    assert held["status"] == "done"
    weights.write_bytes(before[:-4] + b"\0\0\0\0")  # after the fact: found by digest
    done = run("verify", mixed, mixed.with_name("in.onnx"), *MIXED)
    assert done.returncode == 70


def test_another_checkpoints_safetensors_is_refused_by_digest(mixed: Path) -> None:
    state = {key: value.clone() for key, value in build("Mixed").state_dict().items()}
    state["ln.bias"][0] += 1e-6
    save_file(state, mixed.with_name("other.safetensors"))
    done = run(mixed, "--to", "onnx", *MIXED, "--external-data", "other.safetensors")
    assert done.returncode == 65, done.stderr
    assert "1 tensor of 15 differ in value, ln.bias first" in done.stderr
    assert not mixed.with_name("in.onnx").exists()


def test_where_a_shared_file_may_be(mixed: Path, tmp_path: Path) -> None:
    def refused(name: str, code: int, says: str) -> None:
        done = run(mixed, "--to", "onnx", *MIXED, "--external-data", name, "--dry-run")
        assert (done.returncode, says in done.stderr) == (code, True), done.stderr

    refused("missing.safetensors", 74, "missing.safetensors")
    refused("model.bin", 2, "neither a size in MB nor a .safetensors file")
    (tmp_path / "sub").mkdir()
    refused(str(tmp_path / "sub" / "a.safetensors"), 2, "another folder")
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").hardlink_to(tmp_path / "a.safetensors")
    refused("a.safetensors", 2, "hard links")
    (tmp_path / "c.safetensors").symlink_to(tmp_path / "a.safetensors")
    refused("c.safetensors", 2, "is a link")


def test_what_the_shared_file_has_in_another_dtype_stays_inside(mixed: Path) -> None:
    state = {key: value.half() if key.startswith("attn") else value for key, value in build("Mixed").state_dict().items()}
    save_file({f"renamed.{key}": value.clone() for key, value in state.items()}, mixed.with_name("half.safetensors"))
    document = run_json(mixed, "--to", "onnx", *MIXED, "--external-data", "half.safetensors", "--no-run")
    output = document["results"][0]["outputs"][0]
    assert output["verified"] == "bytes only"
    model = onnx.load(str(mixed.with_name("in.onnx")), load_external_data=False)
    inside = {t.name for t in model.graph.initializer if not t.external_data and t.name in state}
    # out_proj.bias is all zeros, as other vectors of its length are: its bytes are there.
    assert inside == {"attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight"}
