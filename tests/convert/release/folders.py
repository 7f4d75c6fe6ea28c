"""Release folders for these tests."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests import command


def make(source: Path, folder: Path, *options: str) -> Path:
    """Release ``source`` into ``folder``."""
    command.run("release", source, folder, "--to", "safetensors", "--to", "pth", *options, check=True)
    return folder


def copy(folder: Path, to: Path) -> Path:
    """Every file a file of its own: a hard link would carry a change from one to the other."""
    return Path(shutil.copytree(folder, to))


def contents(folder: Path) -> dict[str, bytes]:
    """{path below the folder: bytes} of every file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def check(folder: Path, *options: str | Path) -> tuple[int, dict[str, str]]:
    """(exit code, {file: what is said of it}) of ``--check``."""
    found = command.run("release", "--check", folder, "--json", *options)
    import json

    document = json.loads(found.stdout)
    said: dict[str, str] = {}
    for release in document["releases"]:
        for one in release["differences"]:
            said[one["file"]] = said.get(one["file"], "") + one["what"] + "\n"
    assert document["exit"] == found.returncode
    assert (document["status"] == "done") == (found.returncode == 0)
    return found.returncode, said
