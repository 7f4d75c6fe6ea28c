"""Several files replaced together: all of them or none, and never an index beside another run's parts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from formats.core.errors import CheckpointError
from formats.core.layout import Layout, Literal
from formats.core.output import write_layouts

PARTS = ("one", "two", "index")


def write(folder: Path, text: bytes) -> None:
    layouts = [Layout(len(text), [Literal(0, text)], name=name) for name in PARTS]
    write_layouts(layouts, folder / "index", force=True)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Killed(BaseException):
    """Nothing of ours runs after it."""


def failing(patch: pytest.MonkeyPatch, call: str, number: int, error: BaseException, *, after: bool) -> list[int]:
    real, count = getattr(os, call), [0]

    def fail(*arguments: Any, **named: Any) -> Any:
        count[0] += 1
        if count[0] == number and not after:
            raise error
        done = real(*arguments, **named)
        if count[0] == number:
            raise error
        if count[0] > number and isinstance(error, Killed):
            raise AssertionError("dead")
        return done

    patch.setattr(os, call, fail)
    return count


OLD, NEW = dict.fromkeys(PARTS, b"old"), dict.fromkeys(PARTS, b"newer")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [lambda: OSError(5, "broken"), KeyboardInterrupt])
@pytest.mark.parametrize("call", ["replace", "fsync", "unlink", "link", "lstat"])
def test_all_or_none(tmp_path: Path, call: str, error: Callable[[], BaseException], after: bool) -> None:
    for number in range(1, 60):
        write(tmp_path, b"old")
        with pytest.MonkeyPatch.context() as patch:
            count = failing(patch, call, number, error(), after=after)
            try:
                write(tmp_path, b"newer")
                failed = False
            except (CheckpointError, OSError, KeyboardInterrupt):
                failed = True
        found = {name: data for name, data in content(tmp_path).items() if not name.startswith(".")}
        assert found in (OLD, NEW), f"{call} #{number}"
        write(tmp_path, b"old")
        assert content(tmp_path) == OLD, f"{call} #{number} left something for good"
        if count[0] < number:
            assert not failed
            return
    pytest.fail("too many calls")


def at_each_step(folder: Path, see: Callable[[dict[str, bytes]], None]) -> None:
    """Replace the old set, and show what a kill right after each call that changes names would leave."""
    with pytest.MonkeyPatch.context() as patch:
        for call in ("replace", "unlink", "link", "rename", "open"):
            real = getattr(os, call)

            def seen(*arguments: Any, real: Any = real, **named: Any) -> Any:
                done = real(*arguments, **named)
                see(content(folder))
                return done

            patch.setattr(os, call, seen)
        write(folder, b"newer")


def test_killed_at_any_step(tmp_path: Path) -> None:
    """Never an index of one set beside a part of another; the next run makes the new set, or puts the old one back if it fails."""
    (tmp_path / "set").mkdir()
    write(tmp_path / "set", b"old")
    states: list[dict[str, bytes]] = []
    at_each_step(tmp_path / "set", states.append)
    gone = 0
    for at, state in enumerate(states):
        visible = {name: data for name, data in state.items() if not name.startswith(".")}
        assert visible in (OLD, NEW) or "index" not in visible, visible
        gone += "index" not in visible
        for fails in (False, True):
            folder = tmp_path / f"{at}{fails}"
            folder.mkdir()
            for name, data in state.items():
                (folder / name).write_bytes(data)
            if not fails:
                write(folder, b"newer")
                assert content(folder) == NEW
                continue
            with pytest.MonkeyPatch.context() as patch:
                failing(patch, "replace", 2, OSError(5, "broken"), after=False)
                with pytest.raises(CheckpointError):
                    write(folder, b"third")
            assert content(folder) in (OLD, NEW), state
    assert gone


def test_a_part_that_was_not_there(tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(b"old")
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, "replace", 3, OSError(5, "broken"), after=False)
        with pytest.raises(CheckpointError):
            write(tmp_path, b"newer")
    assert content(tmp_path) == {"index": b"old"}
