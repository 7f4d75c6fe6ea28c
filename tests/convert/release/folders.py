"""Release folders for these tests, made and checked in this process: torch is there already."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from convert.__main__ import main


def make(source: Path, folder: Path, *options: str, to: tuple[str, ...] = ("safetensors", "pth")) -> Path:
    """Release ``source`` into ``folder``."""
    assert main(["release", str(source), str(folder), *(word for target in to for word in ("--to", target)), *options]) == 0
    return folder


def copy(folder: Path, to: Path) -> Path:
    """Every file a file of its own: a hard link would carry a change from one to the other."""
    return Path(shutil.copytree(folder, to))


def contents(folder: Path) -> dict[str, bytes]:
    """{path below the folder: bytes} of every file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_bytes()))


def weights(folder: Path, target: str) -> Path:
    """The file of one format."""
    return folder / next(one["name"] for one in manifest(folder)["files"] if one["format"] == target)


def check(capsys: pytest.CaptureFixture[str], folder: Path, *options: str | Path) -> tuple[int, dict[str, str]]:
    """(exit code, {file: what is said of it}) of ``--check``."""
    capsys.readouterr()
    code = main(["release", "--check", str(folder), "--json", *map(str, options)])
    document = json.loads(capsys.readouterr().out)
    assert document["exit"] == code
    assert (document["status"] == "done") == (code == 0)
    said: dict[str, str] = {}
    for one in (one for release in document.get("releases", ()) for one in release["differences"]):
        said[one["file"]] = said.get(one["file"], "") + one["what"] + "\n"
    return code, said
