"""The installed command, run as a user runs it: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def argv() -> list[str]:
    """The installed script beside this interpreter; ``python -m convert`` where the project is not installed."""
    folder = Path(sys.executable).parent
    # `convert` alone might be ImageMagick's; where the other name stands beside it, it is ours.
    return [str(folder / "convert")] if (folder / "ckpt-convert").exists() else [sys.executable, "-m", "convert"]


def environment(**extra: str) -> dict[str, str]:
    """This process's environment, plain output, the source tree first, and compiled modules kept as an installation has them."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    plain = {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "120", "TERM": "dumb", "PYTHONUTF8": "1"}
    return {**kept, **plain, **extra}


def run(*arguments: str | Path, check: bool = False, timeout: float = 120, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command. ``check`` demands exit 0; ``extra`` goes to its environment; ``timeout`` is in seconds."""
    done = subprocess.run(
        [*argv(), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
        env=environment(**extra),
        check=False,
    )
    assert not check or done.returncode == 0, f"exit {done.returncode} of {arguments}\n{done.stdout}\n{done.stderr}"
    return done


def run_json(*arguments: str | Path, exit_code: int = 0) -> dict[str, Any]:
    """The one JSON document that the command prints with ``--json``."""
    done = run(*arguments, "--json")
    assert done.returncode == exit_code, f"exit {done.returncode} of {arguments}\n{done.stdout}\n{done.stderr}"
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    assert "status" in document
    return document
