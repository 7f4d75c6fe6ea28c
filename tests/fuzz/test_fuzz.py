"""The short part of fuzzing: every target from a fixed number, and checks that the oracle sees what it is there to see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from formats import registry
from formats.core.errors import CorruptCheckpoint
from tests import audit
from tests.fuzz.targets import TARGETS
from tests.fuzz.trial import Trial

ROOT = Path(__file__).parent.parent.parent
EXECUTIONS = 700  # of each target

PROGRAM = """
import json, sys
from pathlib import Path
from tests import audit
from tests.fuzz.judge import Judge
from tests.fuzz.simple import fuzz
from tests import audit
from tests.fuzz.targets import TARGETS
audit.preload()
judge = Judge()
found = {name: fuzz(name, Path(sys.argv[1]), seed=1, executions=int(sys.argv[2]), crashes=Path(sys.argv[3]), judge=judge).document()
         for name in TARGETS}
judge.close()
print(json.dumps(found))
"""


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "seeds"
    subprocess.run([sys.executable, "-W", "ignore", "-m", "tests.fuzz.seeds", str(folder)], cwd=ROOT, check=True)
    return folder


def test_short(seeds: Path, tmp_path: Path) -> None:
    """A process of its own: an audit hook stays for good, and torch must not be loaded where files are read."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(seeds), str(EXECUTIONS), str(tmp_path)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    tallies = json.loads(done.stdout)
    assert {name: tally["findings"] for name, tally in tallies.items() if tally["findings"]} == {}, (
        f"the inputs are in {tmp_path}"
    )
    for name, tally in tallies.items():
        assert tally["executions"] == EXECUTIONS
        assert tally["read"] > EXECUTIONS // 100, f"{name}: hardly anything is read: the changes break everything"
        assert tally.get("equal") or TARGETS[name].judge is None, f"{name}: nothing was judged"


@pytest.fixture
def trial(seeds: Path, tmp_path: Path) -> Iterator[Trial]:
    audit.preload()
    made = Trial(TARGETS["zip"], None, tmp_path / "crashes")
    yield made
    made.close()


def _raise(error: BaseException) -> Any:
    def reader(*_: Any) -> Any:
        raise error

    return reader


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (_raise(ZeroDivisionError("x")), "raises ZeroDivisionError"),
        (_raise(CorruptCheckpoint("two\nlines", path="case")), "an error without the file"),
    ],
)
def test_the_oracle_sees_errors(broken: Any, said: str, trial: Trial, seeds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "open", broken)
    wrong = trial.run((seeds / "zip" / "state").read_bytes())
    assert wrong is not None
    assert wrong.startswith((said, "event: "))
    assert list((trial.crashes or Path()).iterdir())


def test_the_oracle_sees_wrong_bytes(trial: Trial, seeds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from formats.core.tensor import TensorView

    data = (seeds / "zip" / "state").read_bytes()
    assert trial.run(data) is None
    assert trial.tally.counts["equal"] == 1
    real = TensorView.tobytes
    monkeypatch.setattr(TensorView, "tobytes", lambda self: real(self)[::-1])
    assert "differs from torch" in str(trial.run(data))


def test_the_oracle_sees_what_does_not_end(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fuzz import trial as module

    def endless(*_: Any) -> Any:
        while True:
            pass

    monkeypatch.setattr(module, "CPU_SECONDS", 0.2)
    monkeypatch.setattr(registry, "open", endless)
    assert trial.run(b"PK") == "does not end"


def test_the_oracle_sees_files_that_are_opened(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    def opening(*_: Any) -> Any:
        with Path(__file__).open("rb"):
            raise CorruptCheckpoint("x", path=trial.opened)

    monkeypatch.setattr(registry, "open", opening)
    assert str(trial.run(b"PK")).startswith("event: open")
