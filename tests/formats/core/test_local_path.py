"""A path without pathlib answers as pathlib's does."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.core.local_path import PosixPath
from tests import command

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there pathlib itself is used")

TEXTS = st.text(alphabet="ab.-/ é", max_size=12)


@given(TEXTS)
def test_parts(text: str) -> None:
    ours, theirs = PosixPath(text), Path(text)
    assert str(ours) == str(theirs)
    assert ours == theirs
    assert (ours.name, ours.suffix) == (theirs.name, theirs.suffix)
    assert str(ours.parent) == str(theirs.parent)
    assert (ours.stem, [str(above) for above in ours.parents]) == (theirs.stem, [str(above) for above in theirs.parents])


@given(TEXTS, TEXTS)
def test_together(text: str, other: str) -> None:
    ours, theirs = PosixPath(text), Path(text)
    assert str(ours / other) == str(theirs / other)
    assert str(ours / PosixPath(other)) == str(theirs / Path(other))
    assert (ours == PosixPath(other)) == (theirs == Path(other))
    assert (ours < PosixPath(other)) == (theirs < Path(other))
    if ours == PosixPath(other):
        assert hash(ours) == hash(PosixPath(other))


@given(TEXTS, TEXTS.filter(lambda name: "/" not in name))
def test_another_name(text: str, name: str) -> None:
    def outcome(path: Any) -> str:
        try:
            return str(path.with_name(name))
        except ValueError:
            return "refused"

    assert outcome(PosixPath(text)) == outcome(Path(text))


def test_questions(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "to the file").symlink_to("file")
    (tmp_path / "to nowhere").symlink_to("nothing")
    (tmp_path / "to itself").symlink_to("to itself")
    os.mkfifo(tmp_path / "fifo")
    for name in (
        "folder",
        "file",
        "to the file",
        "to nowhere",
        "to itself",
        "fifo",
        "nothing",
        "file/below",
        "null\0",
        "folder/../file",
    ):
        ours, theirs = PosixPath(tmp_path / name), tmp_path / name
        for question in ("exists", "is_file", "is_dir", "is_symlink"):
            assert getattr(ours, question)() == getattr(theirs, question)(), (name, question)
    assert PosixPath(tmp_path / "file").stat().st_size == 3
    assert str(PosixPath(tmp_path / "folder/../to the file").resolve()) == str((tmp_path / "file").resolve())


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the super-user may look everywhere")
def test_what_must_not_be_looked_at_is_no_absence(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(PermissionError):
        PosixPath(tmp_path / "closed" / "file").exists()


def test_the_rest_is_asked_of_pathlib(tmp_path: Path) -> None:
    path = PosixPath(tmp_path / "new" / "folder")
    path.mkdir(parents=True)
    assert [entry.name for entry in PosixPath(tmp_path).iterdir()] == ["new"]
    with pytest.raises(AttributeError):
        _ = path.open_nothing
    assert pickle.loads(pickle.dumps(path)) == path
    with pytest.raises(TypeError, match="bytes"):
        PosixPath(b"bytes")  # type: ignore[arg-type]


def test_it_is_used_where_pathlib_is_not_there_and_nowhere_else() -> None:
    for first, name in (("", "formats.core.local_path"), ("import pathlib; ", "pathlib")):
        code = f"{first}from formats.core.local_path import LocalPath; print(type(LocalPath('a')).__module__)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=command.environment())
        assert done.stdout.strip() == name
