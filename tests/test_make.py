"""The targets of the Makefile, without the environment that they would set up."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests import command

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as if the environment were ready: ``-o`` takes the stamp for new, whether it is there or not."""
    return subprocess.run(
        ["make", "-o", ".venv/.ready", *arguments], cwd=command.ROOT, capture_output=True, text=True, check=False
    )


def test_help_is_the_default_and_lists_every_target() -> None:
    targets = set(re.findall(r"^\.PHONY: (.*)$", (command.ROOT / "Makefile").read_text(), re.M)[0].split())
    shown = make()
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == make("help").stdout
    assert {line.split()[1] for line in shown.stdout.splitlines()} == targets


def test_migrate_says_what_is_missing() -> None:
    refused = make("migrate", "SRC=somewhere")
    assert refused.returncode != 0
    assert "DST=" in refused.stderr


def test_migrate_passes_everything_on() -> None:
    shown = make("-n", "migrate", "SRC=a b", "DST=c d", "TO=pth", "JOBS=2")
    assert shown.stdout.strip().splitlines()[-1] == '.venv/bin/convert migrate "a b" "c d" --to pth --jobs 2'


def test_another_python_is_refused() -> None:
    refused = subprocess.run(
        ["make", "setup", "PYTHON=/nowhere/python", f"VENV={command.ROOT}/build/nowhere"],
        cwd=command.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode != 0
    assert "/nowhere/python is not Python 3.11, 3.12 or 3.13" in refused.stderr
