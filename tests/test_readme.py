"""The README's console blocks are what the commands print; ``python -m tests.test_readme --accept`` writes what they print now.

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

README = Path(__file__).parent.parent / "README.md"
SECTION = re.compile(r"<!-- keys: begin -->\n(.*?)<!-- keys: end -->", re.DOTALL)
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


def blocks(text: str) -> list[str]:
    """The insides of the section's console blocks."""
    section = SECTION.search(text)
    assert section is not None, "the README has no section about keys"
    return [match[2] for match in BLOCK.finditer(section[1])]


def rerun(block: str, folder: Path) -> str:
    """``block`` with every command's output as it is now."""
    commands = [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    return "".join(f"$ {command}\n{printed(command, folder)}" for command in commands)


def test_the_stories_about_keys_are_true(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    readme_samples.write(tmp_path)
    found = blocks(README.read_text(encoding="utf-8"))
    assert len(found) >= 5
    for block in found:
        if "cuda7" in block and torch.cuda.is_available():
            block = block[block.index("$ convert") :]  # torch says something else where there is a GPU
        assert rerun(block, tmp_path) == block


def accept() -> None:
    """Write the README's blocks anew."""
    text = README.read_text(encoding="utf-8")
    section = SECTION.search(text)
    assert section is not None
    with tempfile.TemporaryDirectory() as name:
        readme_samples.write(Path(name))
        fresh = BLOCK.sub(lambda match: match[1] + rerun(match[2], Path(name)) + match[3], section[1])
    README.write_text(text[: section.start(1)] + fresh + text[section.end(1) :], encoding="utf-8")


if __name__ == "__main__" and "--accept" in sys.argv:
    accept()
