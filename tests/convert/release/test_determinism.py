"""The same input makes the same release, bit for bit, whatever the source is called and whoever makes it where."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from convert.__main__ import main
from tests import command
from tests.convert.release.folders import contents, make

OPTIONS = ("--to", "safetensors", "--to", "pth", "--to", "pth.tar", "--license", "MIT")


def _release(source: Path, folder: Path, mask: int = 0o022, **environment: str) -> dict[str, bytes]:
    done = subprocess.run(
        [*command.argv(), "release", str(source), str(folder), *OPTIONS],
        cwd=folder.parent, env=command.environment(**environment), capture_output=True, text=True, check=False, umask=mask,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return contents(folder)


def test_the_source_name_and_the_machine_leave_no_trace(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    other = Path(shutil.copy(saved, tmp_path / "elsewhere" / "deep" / "resnet50 — ünïcode.bin"))
    os.utime(other, (1, 1))
    first = _release(saved, tmp_path / "a", PYTHONHASHSEED="1", TZ="UTC", LC_ALL="C")
    second = _release(
        other,
        tmp_path / "elsewhere" / "b",
        0o077,
        PYTHONHASHSEED="77",
        TZ="Asia/Kolkata",
        LC_ALL="C.UTF-8",
        HOME=str(tmp_path),
        COLUMNS="40",
    )
    assert first.keys() == second.keys()
    assert first == second
    assert {"README.md", "SHA256SUMS", "bom.cdx.json", "manifest.json", "model.safetensors"} < first.keys()


def test_a_time_is_told_only_where_one_is_given(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = contents(make(saved, tmp_path / "a"))
    day = contents(make(saved, tmp_path / "b", "--date", "2023-11-14"))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    epoch = contents(make(saved, tmp_path / "c"))
    assert b'"timestamp": "2023-11-14T00:00:00Z"' in day["bom.cdx.json"]
    assert b'"timestamp": "2023-11-14T22:13:20Z"' in epoch["bom.cdx.json"]
    assert b"timestamp" not in plain["bom.cdx.json"]
    weights = [name for name in plain if name.startswith("model")]
    assert all(plain[name] == day[name] == epoch[name] for name in weights)


@pytest.mark.parametrize("day", ["2026-13-01", "yesterday", ""])
def test_no_time(day: str, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["release", str(saved), str(tmp_path / "a"), "--to", "pth", "--date", day]) == 2
    assert "is no time" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
