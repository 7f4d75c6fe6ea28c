"""``migrate --engine ray`` on two nodes. Ray runs inside a network namespace that has nothing but loopback, and nowhere else."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.command import ROOT, environment, run
from tests.parts import needs

CHECKPOINTS = 30
ALONE = ["unshare", "-n", "--pid", "--fork", "--mount-proc", "--kill-child"]


def alone(command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a command where nothing but loopback can be reached, and nothing of it survives."""
    script = f"ip link set lo up && exec {shlex.join(command)}"
    extra = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1", "OMP_NUM_THREADS": "1", "RAY_ADDRESS": ""}
    return subprocess.run(
        [*ALONE, "bash", "-c", script], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
        env=environment(**extra), check=False,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def namespace() -> None:
    needs("ray")
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("Ray is only started in a network namespace of its own, and unshare or ip is not installed")
    try:
        tried = alone(["true"], 20)
    except subprocess.TimeoutExpired:
        pytest.skip("no network namespace can be made here: unshare does not answer")
    if tried.returncode != 0:
        pytest.skip(f"no network namespace can be made here: {tried.stderr.strip():.120}")


def test_a_node_dies_half_way_and_nothing_is_lost(tmp_path: Path) -> None:
    zoo, out = tmp_path / "zoo", tmp_path / "out"
    zoo.mkdir()
    held: dict[str, dict[str, torch.Tensor]] = {}
    for number in range(CHECKPOINTS):
        torch.manual_seed(number)
        weights = held[f"net{number:02d}"] = {"head.weight": torch.randn(1000, 300)}
        torch.save(weights, zoo / f"net{number:02d}.pth")
    (zoo / "cut off.pth").write_bytes((zoo / "net00.pth").read_bytes()[:-1000])
    done = alone([sys.executable, "-m", "tests.convert.zoo.ray_cluster", str(zoo), str(out), str(CHECKPOINTS)], 150)
    told: dict[str, Any] = next(
        (json.loads(line.removeprefix("RESULT ")) for line in done.stdout.splitlines() if line.startswith("RESULT ")), {}
    )
    assert told, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert told["killed"]
    assert told["odd"] == []
    assert told["exit"] == 65, told
    assert told["end"]["totals"]["done"] == CHECKPOINTS
    assert told["end"]["totals"]["failed"] == 1
    for name, weights in held.items():
        found = load_file(out / f"{name}.safetensors")
        assert torch.equal(found["head.weight"], weights["head.weight"])
    assert not list(out.rglob("*.ckpt-tmp"))
    again = run("migrate", zoo, out, "--to", "safetensors", "--include", "net*")
    assert f"{CHECKPOINTS} unchanged" in again.stdout
    assert run("migrate", zoo, out, "--check", "--include", "net*").returncode == 0


def test_without_a_cluster_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    torch.save({"w": torch.zeros(3)}, tmp_path / "zoo/a.pth")
    command = [sys.executable, "-m", "convert", "migrate", str(tmp_path / "zoo"), str(tmp_path / "out"), "--to", "safetensors"]
    done = alone([*command, "--engine", "ray"], 60)
    assert done.returncode == 74, done.stderr
    assert "no Ray cluster answers" in done.stderr
    assert os.linesep + "hint: " in done.stderr
