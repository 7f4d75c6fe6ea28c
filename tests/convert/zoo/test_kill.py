"""Killed with SIGKILL at random points and resumed: the end is that of a run that nobody disturbed, byte for byte.

KILLS=20 python -m pytest tests/convert/zoo/test_kill.py        what `make kill` does; a short version is part of `make test`
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests import sample_zoo
from tests.command import argv, environment, run

KILLS = int(os.environ.get("KILLS", "5"))
SEED = int(os.environ.get("KILL_SEED", "0"))
VARYING = ("seconds", "mtime_ns", "attempts", "run")  # what two undisturbed runs differ in, too

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups here")


def outputs(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith((".ckpt-convert/", "report."))}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items() if key not in VARYING}
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


def journal(folder: Path) -> dict[str, Any]:
    """Everything that the journal says of sources and conversions, times and counts of attempts aside."""
    base = sqlite3.connect(folder / ".ckpt-convert/journal.sqlite")
    base.row_factory = sqlite3.Row
    found: dict[str, Any] = {}
    for table in ("sources", "conversions"):
        for row in base.execute(f"SELECT * FROM {table}"):
            entry = dict(row)
            key = (table, entry["name"], entry.get("target"))
            for column in ("outputs", "dropped", "notes", "error"):
                if entry.get(column):
                    entry[column] = json.loads(entry[column])
            found[str(key)] = _plain(entry)
    base.close()
    return found


def killed_at(arguments: list[str], seconds: float) -> bool:
    """Start a migration and kill the command, with which its workers die, after so long; False where it had ended before."""
    process = subprocess.Popen(
        [*argv(), *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=environment(), start_new_session=True,
    )  # fmt: skip
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True


@pytest.mark.skipif(KILLS < 20, reason="programs take long: `make kill` exports some, with 20 kills")
def test_programs_too(tmp_path: Path) -> None:
    """Some nets to ONNX: the exporting process dies as well, and what it left in its temporary folder is no output."""
    zoo = tmp_path / "zoo"
    sample_zoo.make(zoo)
    nets = [sample.name for sample in sample_zoo.samples() if sample.name.startswith("nets/")][:2]
    chosen = [word for name in nets for word in ("--include", name)]
    arguments = ["migrate", str(zoo), str(tmp_path / "calm"), "--to", "onnx", "--to", "safetensors", *chosen]
    started = time.monotonic()
    calm = run(*arguments, timeout=600)
    assert calm.returncode == 0, calm.stderr
    disturb(arguments, tmp_path / "killed", 5, time.monotonic() - started, tmp_path / "calm")
    compare(arguments, tmp_path / "killed", tmp_path / "calm", 0)


def test_a_killed_migration_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    sample_zoo.make(zoo)
    for number in range(12):  # some larger ones, so that a kill often comes in the middle of a file
        _large(zoo / f"vision/large{number}.pth", number)
    arguments = ["migrate", str(zoo), str(tmp_path / "calm"), "--to", "safetensors", "--to", "pth"]
    started = time.monotonic()
    calm = run(*arguments)
    span = time.monotonic() - started
    assert calm.returncode in (0, 69), calm.stderr
    disturb(arguments, tmp_path / "killed", KILLS, span, tmp_path / "calm")
    compare(arguments, tmp_path / "killed", tmp_path / "calm", calm.returncode)


def disturb(arguments: list[str], out: Path, kills: int, span: float, calm: Path) -> None:
    """Kill a migration into ``out`` so often, at random points of ``span`` seconds. What comes to its end is compared and begun anew."""
    arguments[2] = str(out)
    choose = random.Random(SEED)
    done = 0
    for _ in range(6 * kills):
        if done == kills:
            break
        if killed_at(arguments, choose.uniform(0.05, 1.0) * span):
            done += 1
            continue
        assert outputs(out) == outputs(calm)
        assert journal(out) == journal(calm)
        shutil.rmtree(out)
        span *= 0.8  # the machine was busier when it was measured
    assert done == kills


def compare(arguments: list[str], out: Path, calm: Path, code: int) -> None:
    """Resume, and compare with the undisturbed run: every output, the journal, and nothing left lying about."""
    done = run(*arguments, timeout=600)
    assert done.returncode == code, done.stderr
    assert outputs(out) == outputs(calm)
    assert journal(out) == journal(calm)
    assert not list(out.rglob("*.ckpt-tmp"))
    assert run(*arguments[:3], "--check").returncode == code


def _large(path: Path, seed: int) -> None:
    import torch

    torch.manual_seed(seed)
    torch.save({f"layer{number}.weight": torch.randn(500, 500) for number in range(10)}, path)
