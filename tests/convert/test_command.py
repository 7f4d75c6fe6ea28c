"""The command as scripts see it: exit codes, one JSON document, names, refusals, and nothing left behind."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from convert.__main__ import main
from tests.command import argv, environment, run, run_json


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def state_dict(path: Path) -> dict[str, Any]:
    import torch

    value = torch.load(path, weights_only=False)
    return value.get("state_dict", value)  # type: ignore[no-any-return]


def test_the_main_job(training: Path, model: Any) -> None:
    from safetensors.torch import load_file

    done = run(training, "--to", "safetensors")
    assert done.returncode == 0, done.stderr
    assert not done.stdout, "the report is no data"
    out = training.with_name("in.safetensors")
    assert files(training.parent) == {"in.pth.tar", "in.safetensors"}
    loaded = load_file(out)
    expected = model.state_dict()
    assert loaded.keys() == expected.keys()
    assert all((loaded[key] == expected[key]).all() and loaded[key].dtype == expected[key].dtype for key in expected)
    assert "stripped from the keys: module." in done.stderr
    assert "optimizer: 6 tensors" in done.stderr
    assert "read back and equal" in done.stderr
    model.load_state_dict(loaded)


def test_the_metadata_say_where_the_weights_came_from(training: Path) -> None:
    import safetensors

    run(training, "--to", "safetensors", check=True)
    with safetensors.safe_open(training.with_name("in.safetensors"), "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    account = json.loads(metadata["ckpt_convert"])
    assert account["source"] == {"format": "torch-zip"}
    assert account["selected"] == "state_dict"
    assert account["stripped"] == "module."
    optimizer = next(entry for entry in account["dropped"] if entry["path"] == "optimizer")
    assert optimizer["tensors"] == 6
    assert optimizer["bytes"] > 0
    assert str(training.parent) not in json.dumps(metadata), "no folder of the machine that made it"


def test_same_input_same_bytes_wherever_it_stands_and_whatever_it_is_called(training: Path, tmp_path: Path) -> None:
    made = []
    for folder, name in ((tmp_path / "a", "in.pth.tar"), (tmp_path / "b", "other name.bin")):
        folder.mkdir()
        (folder / name).write_bytes(training.read_bytes())
        outputs = [folder / f"out-{name[:2]}.{target}" for target in ("safetensors", "pth", "npz")]
        for output in outputs:
            run(folder / name, "--to", output.suffix[1:], "-o", output, check=True)
        made.append([output.read_bytes() for output in outputs])
    assert made[0] == made[1]


def test_json_is_one_document_with_what_the_text_says(training: Path) -> None:
    document = run_json(training, "--to", "safetensors")
    assert document["status"] == "done"
    assert document["exit"] == 0
    (result,) = document["results"]
    assert result["format"] == "torch-zip"
    assert {entry["path"] for entry in result["dropped"]} == {"epoch", "arch", "args", "optimizer", "best"}
    (output,) = result["outputs"]
    assert output["path"] == str(training.with_name("in.safetensors"))
    assert output["bytes"] == training.with_name("in.safetensors").stat().st_size
    assert output["stripped"] == "module."
    assert output["selected"] == "state_dict"
    assert output["verified"] == "bytes"


@pytest.mark.parametrize(
    "options", [["--to", "safetensors"], ["--to", "safetensors", "--max-shard-size", "1000"], ["--to", "pth"]]
)
def test_digest_tells_the_sha256_of_every_file(training: Path, options: list[str]) -> None:
    (result,) = run_json(training, "--digest", "--out-dir", training.parent / "out", *options)["results"]
    told = result["sha256"] | {file["path"]: file["sha256"] for output in result["outputs"] for file in output["files"]}
    assert set(result["sha256"]) == {str(training)}
    assert len(told) > 1
    for path, digest in told.items():
        assert digest == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert '"sha256"' not in run("--to", "pth", training, "-o", training.parent / "again.pth", "--json").stdout


def test_there_and_back_every_value_key_and_version(training: Path) -> None:
    import torch

    run(training, "--to", "safetensors", check=True)
    run(training.with_name("in.safetensors"), "--to", "pth", check=True)
    back = torch.load(training.with_name("in.pth"), weights_only=True)
    first = {key.removeprefix("module."): value for key, value in state_dict(training).items()}
    assert list(back) == list(first), "the model's order, not the container's"
    assert all(torch.equal(back[key], first[key]) for key in first)
    assert back._metadata["bn"] == {"version": 2}


def test_pth_tar_keeps_what_is_plain_data(training: Path) -> None:
    import torch

    out = training.with_name("out.pth.tar")
    done = run_json(training, "--to", "pth.tar", "-o", out)
    kept = torch.load(out, weights_only=True)
    assert set(kept) == {"state_dict", "epoch", "arch", "optimizer", "best"}
    assert kept["epoch"] == 3
    assert torch.equal(kept["best"]["logits"], torch.arange(3.0))
    assert [entry["path"] for entry in done["results"][0]["dropped"]] == ["args"]
    assert "Namespace" in str(done["results"][0]["notes"])
    run(training, "--to", "pth.tar", "--keep", "none", "-o", out, "--force", check=True)
    assert set(torch.load(out, weights_only=True)) == {"state_dict"}


def test_several_models_become_several_outputs(gan: Path) -> None:
    from safetensors.torch import load_file

    run(gan, "--to", "safetensors", check=True)
    assert files(gan.parent) == {"gan.pth", "gan.generator.safetensors", "gan.discriminator.safetensors"}
    assert load_file(gan.with_name("gan.generator.safetensors"))["weight"].shape == (3, 2)
    for name in ("generator", "discriminator"):
        assert run_json("verify", gan, gan.with_name(f"gan.{name}.safetensors"))["model"] == name
    run(gan, "--to", "pth", check=True)
    assert run_json("verify", gan, gan.with_name("gan.discriminator.pth"))["model"] == "discriminator", "told by its shapes"
    run(gan, "--to", "pth", "--select", "generator", "-o", gan.with_name("g.pth"), check=True)
    assert state_dict(gan.with_name("g.pth"))["weight"].shape == (3, 2)


def test_dry_run_prints_the_plan_and_writes_nothing(training: Path) -> None:
    done = run(training, "--to", "safetensors", "--dry-run", "--out-dir", training.parent / "new", check=True)
    assert "would be written to" in done.stdout
    assert files(training.parent) == {"in.pth.tar"}
    assert not (training.parent / "new").exists()
    planned = run_json(training, "--to", "safetensors", "--dry-run")
    made = run_json(training, "--to", "safetensors")
    assert planned["results"][0]["outputs"][0]["bytes"] == made["results"][0]["outputs"][0]["bytes"]


def test_one_bad_source_does_not_stop_the_next(training: Path) -> None:
    bad = training.with_name("bad.pth")
    bad.write_bytes(b"<!doctype html>")
    missing = training.with_name("missing.pth")
    document = run_json(bad, training, missing, "--to", "safetensors", exit_code=74)
    assert document["status"] == "failed"
    assert [result["status"] for result in document["results"]] == ["failed", "done", "failed"]
    assert [result.get("error", {}).get("exit") for result in document["results"]] == [65, None, 74]
    assert files(training.parent) == {"in.pth.tar", "bad.pth", "in.safetensors"}


def test_two_sources_never_share_an_output(training: Path) -> None:
    twin = training.with_name("in.pt")
    twin.write_bytes(training.read_bytes())
    document = run_json(training, twin, "--to", "safetensors", "--force", exit_code=73)
    assert [result["status"] for result in document["results"]] == ["done", "failed"]
    assert "in.pth.tar" in document["results"][1]["error"]["what"]


CASES: dict[str, tuple[int, Any]] = {
    "no arguments' values": (2, lambda p: [p, "--to"]),
    "no target": (2, lambda p: [p]),
    "unknown option": (2, lambda p: [p, "--to", "pth", "--frobnicate"]),
    "unknown level": (2, lambda p: [p, "--to", "pth", "--verify", "maybe"]),
    "file and folder": (2, lambda p: [p, "--to", "pth", "-o", "x", "--out-dir", "y"]),
    "one file for two": (2, lambda p: [p, p, "--to", "pth", "-o", "x"]),
    "standard input": (2, lambda p: ["-", "--to", "pth"]),
    "standard output": (2, lambda p: [p, "--to", "pth", "-o", "-"]),
    "select nothing there": (2, lambda p: [p, "--to", "pth", "--select", "nowhere"]),
    "no ema": (2, lambda p: [p, "--to", "pth", "--ema"]),
    "empty name": (2, lambda p: ["", "--to", "pth"]),
    "unknown target": (69, lambda p: [p, "--to", "betamax"]),
    "run": (69, lambda p: [p, "--to", "onnx"]),
    "keep all in pth": (69, lambda p: [p, "--to", "pth", "--keep", "all"]),
    "not there": (74, lambda p: [p.with_name("nowhere.pth"), "--to", "pth"]),
    "folder": (65, lambda p: [p.parent, "--to", "pth", "-o", p.with_name("x.pth")]),
    "no checkpoint": (65, lambda p: [Path(__file__), "--to", "pth", "-o", p.with_name("x.pth")]),
    "its own output": (73, lambda p: [p, "--to", "pth", "-o", p, "--force"]),
    "no folder": (73, lambda p: [p, "--to", "pth", "-o", p.parent / "no" / "x.pth"]),
    "a folder as file": (73, lambda p: [p, "--to", "pth", "-o", p.parent]),
    "name too long": (73, lambda p: [p, "--to", "pth", "-o", p.with_name("x" * 256)]),
}


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_exit_codes(name: str, as_json: bool, training: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, arguments = CASES[name]
    before = files(training.parent)
    assert main([*(["--json"] if as_json else []), *map(str, arguments(training))]) == code
    done = capsys.readouterr()
    assert "Traceback" not in done.err
    assert 1 <= len(done.err.splitlines()) <= 2, done.err
    assert files(training.parent) == before
    if as_json:
        document = json.loads(done.out)
        assert document["status"] == "failed"
        assert document["exit"] == code
    else:
        assert not done.out


def test_an_existing_output_is_refused_without_force(training: Path) -> None:
    out = training.with_name("in.safetensors")
    out.write_bytes(b"precious")
    done = run(training, "--to", "safetensors")
    assert done.returncode == 73
    assert out.read_bytes() == b"precious"
    assert "hint: --force" in done.stderr
    run(training, "--to", "safetensors", "--force", check=True)
    assert out.read_bytes() != b"precious"
    assert files(training.parent) == {"in.pth.tar", "in.safetensors"}


def test_a_source_is_never_replaced_by_way_of_a_link(training: Path) -> None:
    before = training.read_bytes()
    link = training.with_name("link.safetensors")
    link.symlink_to(training)
    assert run(training, "--to", "safetensors", "-o", link, "--force").returncode == 73
    assert training.read_bytes() == before


def test_names_from_a_file_are_escaped(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "evil.pth"
    torch.save({"\x1b[2Jweight": torch.ones(2), "b\u202eias": torch.ones(2)}, path)
    for arguments in (("inspect", path), (path, "--to", "safetensors"), ("inspect", path, "--json")):
        done = run(*arguments, check=True)
        assert "\x1b" not in done.stdout + done.stderr
        assert "\u202e" not in done.stdout + done.stderr


def test_inspect(training: Path) -> None:
    text = run("inspect", training, check=True)
    assert not text.stderr
    for said in ("state_dict", "module.conv.weight", "float32", "[4, 3, 3, 3]", "argparse.Namespace", "* state_dict"):
        assert said in text.stdout, said
    document = run_json("inspect", training)
    assert document["chosen"] == ["state_dict"]
    names = {row["path"]: row for row in document["tensors"]}
    assert names["state_dict.module.conv.weight"]["shape"] == [4, 3, 3, 3]
    assert names["state_dict.module.bn.num_batches_tracked"]["dtype"] == "int64"
    assert {"name": "argparse.Namespace", "called": 0} not in document["globals"]
    assert any(entry["name"] == "argparse.Namespace" for entry in document["globals"])


def test_inspect_of_values(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "odd.pth"
    odd = torch.ones(1000)
    odd[3], odd[4], odd[5] = float("nan"), float("inf"), -float("inf")
    torch.save({"a.weight": odd, "b.weight": torch.zeros(3), "c.weight": torch.ones(3), "d.weight": odd.bfloat16()}, path)
    document = run_json("inspect", path, "--values")
    found = {row["path"]: row["values"] for row in document["tensors"]}
    assert found["a.weight"] == {"nan": 1, "inf": 2, "all_zero": False}
    assert found["d.weight"] == {"nan": 1, "inf": 2, "all_zero": False}
    assert found["b.weight"] == {"nan": 0, "inf": 0, "all_zero": True}
    assert found["c.weight"] == {"nan": 0, "inf": 0, "all_zero": False}
    text = run("inspect", path, "--values", check=True)
    assert "a.weight: 1 NaN, 2 Inf" in text.stderr


def test_formats_lists_readers_and_writers() -> None:
    document = run_json("formats")
    rows = {row["name"]: row for row in document["formats"]}
    assert rows["torch-zip"]["reads"]
    assert rows["safetensors"]["targets"] == ["safetensors"]
    assert "bfloat16" in rows["safetensors"]["holds"]["dtypes"]
    assert "torch-legacy" in run("formats", check=True).stdout


@pytest.mark.parametrize("target", ["safetensors", "pth", "pth.tar"])
def test_verify_says_equal_and_finds_one_changed_bit(training: Path, target: str) -> None:
    out = training.with_name(f"out.{target}")
    run(training, "--to", target, "-o", out, check=True)
    document = run_json("verify", training, out)
    assert document["differing"] == 0
    assert document["tensors"] == 9
    content = bytearray(out.read_bytes())
    import torch

    needle = state_dict(training)["module.head.weight"].numpy().tobytes()
    assert torch.is_tensor(state_dict(training)["module.head.weight"])
    at = bytes(content).index(needle)
    content[at] ^= 1
    out.write_bytes(bytes(content))
    done = run("verify", training, out)
    # A ZIP carries a checksum, which finds it first.
    assert done.returncode in ({70} if target == "safetensors" else {65, 69, 70}), done.stdout + done.stderr
    if target == "safetensors":
        assert "head.weight" in done.stdout
        assert "values differ" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_commands_and_targets(shell: str) -> None:
    def complete(*words: str) -> str:
        line = " ".join(("convert", *words))
        extra = {
            "_CONVERT_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words)),
            "_TYPER_COMPLETE_ARGS": line,
        }
        return subprocess.run(
            [sys.executable, "-m", "convert"], env=environment(**extra), capture_output=True, text=True, timeout=60, check=False
        ).stdout

    assert "inspect" in complete("ins")
    assert "safetensors" in complete("in.pth", "--to", "safe")
    assert "--dry-run" in complete("in.pth", "--dry")


def test_start_up_imports_nothing_heavy(training: Path) -> None:
    code = (
        "import sys; from convert.__main__ import main; code = main(sys.argv[1:]); "
        "print(code, sorted(m for m in sys.modules if m.partition('.')[0] in "
        "('torch', 'numpy', 'typer', 'rich', 'click', 'safetensors', 'onnx', 'pickle', 'importlib.metadata', 'argparse')))"
    )
    for target in ("safetensors", "pth", "pth.tar"):
        out = training.with_name(f"fast.{target}")
        done = subprocess.run(
            [sys.executable, "-c", code, str(training), "--to", target, "-o", str(out)],
            env=environment(), capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert done.stdout == "0 []\n", done.stdout + done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_nothing_behind(number: signal.Signals, code: int, tmp_path: Path) -> None:
    import torch

    source = tmp_path / "big.pth"
    torch.save({"w.weight": torch.zeros(100_000_000, dtype=torch.uint8).view(10, -1)[:, ::2]}, source)  # strided: slow enough
    process = subprocess.Popen(
        [*argv(), str(source), "--to", "safetensors"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 20
    while files(tmp_path) == {"big.pth"} and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    if process.returncode == 0:
        pytest.skip("the conversion was done before the signal came")
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert files(tmp_path) == {"big.pth"}


def test_the_default_commands_help_shows_its_options() -> None:
    done = run("in.pth", "--help", check=True)
    assert done.stdout.startswith("Usage: convert  [OPTIONS] ")
    assert "--dry-run" in done.stdout
    assert "inspect" in run("--help", check=True).stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["inspect"], ["inspect", "--json"], ["--to", "safetensors", "--dry-run"]])
def test_a_full_standard_output_is_one_line(training: Path, arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*argv(), *arguments, str(training)], env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 74
    assert done.stderr == "standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize("command", [["inspect"], ["--to", "safetensors"]])
def test_debug_shows_where_and_changes_nothing_else(tmp_path: Path, command: list[str]) -> None:
    plain, traced = (run(*command, tmp_path / "nowhere", "--json", *debug) for debug in ([], ["--debug"]))
    assert traced.returncode == plain.returncode == 74
    assert json.loads(traced.stdout)["exit"] == 74
    assert traced.stderr.startswith("Traceback")
    assert traced.stderr.endswith(plain.stderr)


def test_a_closed_pipe_is_no_error(training: Path) -> None:
    process = subprocess.Popen(
        [*argv(), "inspect", str(training)], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    os.close(process.stdout.fileno())
    assert process.stderr is not None
    said = process.stderr.read()
    assert process.wait(30) in (0, 141)
    assert "Traceback" not in said
    assert "BrokenPipe" not in said


def test_nothing_asked_is_answered_with_the_help() -> None:
    done = run()
    assert done.returncode == 2
    assert done.stdout.startswith("Usage") or "Usage:" in done.stdout
    assert "convert SOURCE" in done.stdout
    assert not done.stderr
