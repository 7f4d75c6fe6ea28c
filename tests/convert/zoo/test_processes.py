"""Workers that die, hang and swallow memory, and faults that pass: each costs its own checkpoint and nothing else."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from convert.zoo import processes
from convert.zoo.processes import Processes
from convert.zoo.run import migrate
from convert.zoo.settings import Settings
from convert.zoo.watch import Silent
from tests.convert.zoo import odd_worker

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="limits of memory are Linux's")


def run(tmp_path: Path, *names: str, **settings: Any) -> dict[str, dict[str, Any]]:
    """Migrate a zoo of these files; its rows by name."""
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    for number, name in enumerate(names):
        torch.save({"weight": torch.full((1000,), number)}, zoo / name)
    made = Settings(str(zoo), str(tmp_path / "out"), ("safetensors",), exclude=("*.marker",), **settings)
    document = migrate(made, Silent())
    assert not list((tmp_path / "out").rglob("*.ckpt-tmp"))
    return {row["source"]: row for row in document["rows"]}


@pytest.fixture(autouse=True)
def _odd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "START", odd_worker.START)
    monkeypatch.setattr(processes, "BACK_OFF", 0.01)


GOOD = tuple(f"good{number}.pth" for number in range(6))


def outcome(rows: dict[str, dict[str, Any]], name: str) -> tuple[str, str]:
    assert all(rows[good]["status"] == "done" for good in GOOD)
    return rows[name]["error"]["kind"], rows[name]["error"]["what"]


def test_a_checkpoint_that_kills_its_workers(tmp_path: Path) -> None:
    rows = run(tmp_path, "deadly.pth", *GOOD)
    kind, what = outcome(rows, "deadly.pth")
    assert kind == "killed"
    assert "SIGKILL" in what
    assert rows["deadly.pth"]["error"]["exit"] == 69
    assert (tmp_path / "zoo/deadly.marker").read_text() == "xx"  # one more worker might have died of something else


def test_a_worker_that_somebody_else_kills_costs_nothing(tmp_path: Path) -> None:
    rows = run(tmp_path, "unlucky.pth", *GOOD)
    assert rows["unlucky.pth"]["status"] == "done"
    assert rows["unlucky.pth"]["attempts"] == 2


def test_what_never_ends_is_ended(tmp_path: Path) -> None:
    began = time.monotonic()
    kind, what = outcome(run(tmp_path, "endless.pth", *GOOD, timeout=2.0), "endless.pth")
    assert kind == "limit"
    assert "more than 2 s" in what
    assert time.monotonic() - began < 60


def test_what_asks_for_all_memory_gets_an_error(tmp_path: Path) -> None:
    kind, what = outcome(run(tmp_path, "hungry.pth", *GOOD, memory=2 << 30), "hungry.pth")
    assert "MemoryError" in what
    assert kind == "internal"


def test_passing_faults_are_tried_again(tmp_path: Path) -> None:
    rows = run(tmp_path, "flaky.pth", "broken.pth", *GOOD)
    assert rows["flaky.pth"]["status"] == "done"
    assert rows["flaky.pth"]["attempts"] == 3
    assert outcome(rows, "broken.pth")[0] == "io"
    assert rows["broken.pth"]["attempts"] == 4  # the first, and three retries
    assert rows["broken.pth"]["error"]["exit"] == 74


def test_a_fault_of_ours_is_one_rows(tmp_path: Path) -> None:
    assert outcome(run(tmp_path, "faulty.pth", *GOOD), "faulty.pth") == (
        "internal",
        "internal error: ZeroDivisionError: by mistake",
    )


def test_workers_are_recycled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "RECYCLE", 2)
    monkeypatch.setattr(processes, "AHEAD", 1)
    began = []
    real = Processes._start
    monkeypatch.setattr(Processes, "_start", lambda self: began.append(1) or real(self))
    rows = run(tmp_path, *GOOD, jobs=1)
    assert {row["status"] for row in rows.values()} == {"done"}
    assert len(began) == 3


def task(number: int, memory: int) -> dict[str, Any]:
    return {"id": number, "verb": "check", "name": str(number), "files": [], "size": 0, "memory": memory, "seconds": 60.0}


def test_a_huge_checkpoint_runs_alone(tmp_path: Path) -> None:
    """What takes more than all there is waits for the others, and they for it."""
    engine = Processes(Settings(str(tmp_path), str(tmp_path), (), jobs=3, memory=2 << 30))
    try:
        memories = [1 << 30, 9 << 30, 1 << 30, 1 << 30, 1 << 20]
        for number, memory in enumerate(memories):
            engine.submit(task(number, memory))
        seen: list[list[int]] = []
        through = []
        while engine.pending:
            through += [outcome["id"] for outcome in engine.wait(0.1)]
            seen.append([int(held["memory"]) for worker in engine.workers for held in worker.held])
            if 9 << 30 in seen[-1]:
                assert seen[-1] == [9 << 30]
            assert len(seen[-1]) < 2 or sum(seen[-1]) <= 2 << 30
        assert sorted(through) == list(range(len(memories)))
    finally:
        engine.close()


def test_no_worker_outlives_its_driver(tmp_path: Path) -> None:
    engine = Processes(Settings(str(tmp_path), str(tmp_path), (), jobs=1))
    engine.submit(task(0, 1))
    while engine.pending:
        engine.wait(0.1)
    (worker,) = engine.workers
    pid = worker.process.pid
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "500"
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
