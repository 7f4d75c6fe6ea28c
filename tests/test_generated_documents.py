"""docs/formats.md is what its generator makes of the source, and a stale one is noticed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from formats import registry

ROOT = Path(__file__).parent.parent


def _check(docs: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(docs / "generate_formats.py"), "--check"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_formats_are_documented() -> None:
    done = _check(ROOT / "docs")
    assert done.returncode == 0, done.stderr
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    assert all(f'<a id="{row.name}"></a>' in text for row in registry.ROWS)


def test_stale_documents_fail(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    stale = tmp_path / "docs" / "formats.md"
    stale.write_text(stale.read_text(encoding="utf-8").replace("onnx", "xnno", 1), encoding="utf-8")
    done = _check(tmp_path / "docs")
    assert done.returncode == 1
    assert "formats.md is not what the source says" in done.stderr
