"""Unfinished files: found again by the next run, and never taken from a living one."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from formats.core import temporary
from formats.core.errors import OutputError
from formats.core.hidden_folder import hidden_folder
from formats.core.temporary import Temporary, hidden


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Temporary]:
    found = Temporary(tmp_path / "target")
    found.create(None)
    yield found
    found.remove()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_dead_run_left_is_taken_away(tmp_path: Path) -> None:
    child = "import os, sys; from pathlib import Path; from formats.core.temporary import Temporary; t = Temporary(Path(sys.argv[1])); "
    subprocess.run(
        [sys.executable, "-c", child + "t.create(None); os.write(t.fd, b'torn'); os._exit(9)", str(tmp_path / "target")],
        check=False,
    )
    (left,) = names(tmp_path)
    again = Temporary(tmp_path / "target")
    again.create(None)
    assert names(tmp_path) == [left]
    assert os.fstat(again.fd).st_size == 0
    again.remove()
    assert not names(tmp_path)


def test_a_living_run_is_left_alone(made: Temporary) -> None:
    other = Temporary(made.target)
    with pytest.raises(OutputError, match="another run"):
        other.create(None)
    other.remove()
    assert made.path.exists()
    made.close()  # written, and not yet renamed: still its own
    with pytest.raises(OutputError, match="another run"):
        Temporary(made.target).create(None)
    made.rename(replace=True)
    assert names(made.target.parent) == ["target"]


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_file_of_ours_is_gone_around(tmp_path: Path, kind: str) -> None:
    """In a folder that others may write to, anything may have that name."""
    target = tmp_path / "target"
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    path = hidden(target)
    {"folder": path.mkdir, "link": lambda: path.symlink_to(victim), "pipe": lambda: os.mkfifo(path)}[kind]()
    made = Temporary(target)
    made.create(None)
    os.write(made.fd, b"new")
    made.rename(replace=False)
    made.remove()
    assert target.read_bytes() == b"new"
    assert victim.read_bytes() == b"precious"
    assert names(tmp_path) == sorted([path.name, "target", "victim"])


def test_a_file_of_somebody_else_is_gone_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden(tmp_path / "target").write_bytes(b"theirs")
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    made = Temporary(tmp_path / "target")
    made.create(None)
    assert made.path != hidden(tmp_path / "target")
    made.remove()
    assert hidden(tmp_path / "target").read_bytes() == b"theirs"


def test_where_there_are_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is taken away that might be somebody's; both runs finish."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks")))
    first, second = Temporary(tmp_path / "target"), Temporary(tmp_path / "target")
    first.create(None)
    second.create(None)
    assert first.path != second.path
    for one in (first, second):
        one.rename(replace=True)
        one.remove()
    assert names(tmp_path) == ["target"]


def test_taken_away_between_making_and_locking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = temporary._locked, []

    def late(fd: int) -> bool | None:
        if not seen:
            seen.append(1)
            hidden(tmp_path / "target").unlink()  # another run took it for a dead one's
        return real(fd)

    monkeypatch.setattr(temporary, "_locked", late)
    made = Temporary(tmp_path / "target")
    made.create(None)
    assert os.path.samestat(made.path.stat(), os.fstat(made.fd))
    made.remove()
    assert not names(tmp_path)


def test_long_names(tmp_path: Path) -> None:
    made = Temporary(tmp_path / ("n" * 255))
    made.create(None)
    made.rename(replace=False)
    made.remove()
    assert names(tmp_path) == ["n" * 255]


def test_an_interrupt_while_a_hidden_folder_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = os.rmdir, []

    def interrupted(*arguments: Any, **named: Any) -> None:
        if not seen:
            seen.append(1)
            raise KeyboardInterrupt
        real(*arguments, **named)

    monkeypatch.setattr(os, "rmdir", interrupted)
    with pytest.raises(KeyboardInterrupt), hidden_folder(tmp_path / "target") as folder:
        (folder / "file").write_bytes(b"x")
    assert seen
    assert not names(tmp_path)
