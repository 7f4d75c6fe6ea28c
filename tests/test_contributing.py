"""The steps under "Add a format" in CONTRIBUTING.md, followed in a copy of the source: its file, its row, its test, its document."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests import command

ROOT = Path(__file__).parent.parent
PARTS = ("convert", "formats", "docs", "tests", "pyproject.toml", "CONTRIBUTING.md")


def _step(path: str) -> str:
    """The code that the document gives for a file."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Add a format", 1)[1].split("\n## ", 1)[0]
    (code,) = re.findall(rf"```python\n# {re.escape(path)}\n(.*?)```", section, re.DOTALL)
    return str(code)


def _run(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env=command.environment(PYTHONPATH=str(copy)),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_format_in_three_steps(tmp_path: Path) -> None:
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / part)

    (tmp_path / "formats/toy.py").write_text(_step("formats/toy.py"), encoding="utf-8")
    registry = tmp_path / "formats/registry.py"
    rows = registry.read_text(encoding="utf-8").split("ROWS: tuple[Format, ...] = (\n", 1)
    registry.write_text(
        f"{rows[0]}ROWS: tuple[Format, ...] = (\n    {_step('formats/registry.py').strip()},\n{rows[1]}", encoding="utf-8"
    )
    (tmp_path / "tests/formats/test_toy.py").write_text(_step("tests/formats/test_toy.py"), encoding="utf-8")

    tested = _run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/formats/test_toy.py")
    assert tested.returncode == 0, tested.stdout[-4000:] + tested.stderr
    assert int(re.search(r"(\d+) passed", tested.stdout)[1]) > 25  # type: ignore[index]

    assert _run(tmp_path, "docs/generate_formats.py", "--check").returncode == 1
    assert _run(tmp_path, "docs/generate_formats.py").returncode == 0
    assert _run(tmp_path, "docs/generate_formats.py", "--check").returncode == 0
    assert "`TOY1` at the beginning" in (tmp_path / "docs/formats.md").read_text(encoding="utf-8")
