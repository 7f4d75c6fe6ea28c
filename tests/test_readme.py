"""Console blocks of the README and of docs/release.md are what the commands print.

``python -m tests.test_readme --accept`` writes what they print now.

A block is a ```` ```console ```` fence between the markers of its section. Every ``$ `` line is run, ``convert`` and ``python`` in this
process, in one folder for the whole section; what it prints on both streams must be the lines below it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import readme_samples

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
SECTIONS = ((README, "keys"), (README, "release"), (ROOT / "docs" / "release.md", "release"))
BLOCK = re.compile(r"(```console\n)(.*?)(```)", re.DOTALL)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before, path, argv = Path.cwd(), list(sys.path), sys.argv
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:], sys.argv = path, argv
        sys.modules.pop("nets", None)


def printed(command: str, folder: Path) -> str:
    """What ``command`` writes on both streams when run in ``folder``."""
    from convert.__main__ import main

    words = shlex.split(command)
    said = io.StringIO()
    with _inside(folder), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        if words[0] == "convert":
            main(words[1:])
        else:
            assert words[0] == "python", command
            sys.argv = words[1:]
            runpy.run_path(words[1], run_name="__main__")
    return "".join(f"{line.rstrip()}\n" for line in said.getvalue().expandtabs(4).splitlines())


def section(text: str, name: str) -> re.Match[str]:
    """What stands between the marks of section ``name``."""
    found = re.search(rf"<!-- {name}: begin -->\n(.*?)<!-- {name}: end -->", text, re.DOTALL)
    assert found is not None, f"there is no section about {name}"
    return found


def blocks(text: str, name: str) -> list[str]:
    """The insides of the section's console blocks."""
    return [match[2] for match in BLOCK.finditer(section(text, name)[1])]


def rerun(block: str, folder: Path) -> str:
    """``block`` with every command's output as it is now."""
    commands = [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    return "".join(f"$ {command}\n{printed(command, folder)}" for command in commands)


@pytest.mark.parametrize(("path", "name"), SECTIONS, ids=lambda value: getattr(value, "name", value))
def test_the_stories_are_true(path: Path, name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    readme_samples.write(tmp_path)
    found = blocks(path.read_text(encoding="utf-8"), name)
    assert len(found) >= (5 if name == "keys" else 1)
    for block in found:
        if "cuda7" in block and torch.cuda.is_available():
            block = block[block.index("$ convert") :]  # torch says something else where there is a GPU
        assert rerun(block, tmp_path) == block


def accept() -> None:
    """Write the blocks anew."""
    for path, name in SECTIONS:
        text = path.read_text(encoding="utf-8")
        old = section(text, name)
        with tempfile.TemporaryDirectory() as folder:
            readme_samples.write(Path(folder))
            fresh = BLOCK.sub(lambda match: match[1] + rerun(match[2], Path(folder)) + match[3], old[1])
        path.write_text(text[: old.start(1)] + fresh + text[old.end(1) :], encoding="utf-8")


if __name__ == "__main__" and "--accept" in sys.argv:
    accept()
