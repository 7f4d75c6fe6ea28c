"""A release folder appears whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from convert.__main__ import main
from convert.release import publish
from convert.release.folder import whole
from formats.core.errors import OutputError
from tests import command
from tests.convert.release.folders import check, contents, make, weights


def _options(source: Path, folder: Path, *more: str) -> list[str]:
    return ["release", str(source), str(folder), "--to", "pth", *more]


def test_what_is_there_is_not_replaced(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(saved, tmp_path / "out", to=("pth",))
    before = contents(folder)
    capsys.readouterr()
    assert main(_options(saved, folder, "--license", "MIT")) == 73
    assert "exists already" in capsys.readouterr().err
    assert contents(folder) == before
    assert main(_options(saved, folder, "--license", "MIT", "--force")) == 0
    assert contents(folder)["manifest.json"] != before["manifest.json"]
    assert check(capsys, folder) == (0, {})
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("kind", ["files", "file", "link", "tree of files"])
def test_what_is_no_release_is_never_replaced(kind: str, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, home = tmp_path / "out", tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years")
    if kind == "files":
        home.rename(place)
    elif kind == "file":
        place.write_text("x")
    elif kind == "link":
        place.symlink_to(home)
    else:
        place.mkdir()
        home.rename(place / "home")
    before = contents(tmp_path)
    assert main(_options(saved, place, "--force")) == 73
    assert contents(tmp_path) == before
    assert capsys.readouterr().err.count("\n") <= 2


@pytest.mark.parametrize("extra", ["thesis.tex", ".git", "key.pem", "manifest.json"])
def test_a_release_with_something_else_in_it_is_not_replaced(extra: str, saved: Path, tmp_path: Path) -> None:
    folder = make(saved, tmp_path / "out", to=("pth",))
    (folder / extra).mkdir() if extra == ".git" else (folder / extra).write_text("{}")
    before = contents(folder)
    assert main(_options(saved, folder, "--force")) == 73
    assert contents(folder) == before


def test_a_source_is_never_replaced_by_its_release(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(saved, tmp_path / "out", to=("pth",))
    before = contents(folder)
    assert main(_options(weights(folder, "pth"), folder, "--force")) == 73
    assert main(_options(weights(folder, "pth"), tmp_path, "--force")) == 73
    assert contents(folder) == before
    assert "a source is never changed" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["", ".", "..", "/", "missing/out"])
def test_no_place(where: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(_options(saved, Path(where) if where else Path("missing/x"))) == 73
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publish, "sums", broken)
    assert main(_options(saved, tmp_path / "out")) == 74
    assert list(tmp_path.iterdir()) == []


def test_what_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    def late() -> None:
        with whole(tmp_path / "out", force=False) as folder:
            (folder / "x").write_text("x")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "theirs").write_text("y")

    with pytest.raises(OutputError, match="exists already"):
        late()
    assert contents(tmp_path) == {"out/theirs": b"y"}


def test_a_killed_run_leaves_no_release(saved: Path, tmp_path: Path) -> None:
    """Stopped at six places: the folder is there whole, or it is not there."""
    outcomes = set()
    for number in range(6):
        place = tmp_path / str(number)
        place.mkdir()
        running = subprocess.Popen(
            [sys.executable, "-c", _SLOW, str(number), *_options(saved, place / "out", "--to", "safetensors")],
            env=command.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert running.stdout is not None
        assert running.stdout.readline() == b"now\n"
        os.kill(running.pid, signal.SIGKILL)
        running.wait(30)
        running.stdout.close()
        visible = [path for path in place.iterdir() if not path.name.startswith(".")]
        outcomes.add(bool(visible))
        if visible:
            assert main(["release", "--check", str(place / "out")]) == 0
        else:
            assert all(path.name.endswith(".ckpt-tmp") for path in place.iterdir())
    assert outcomes == {False, True}


_SLOW = """
import os, sys, time
stop, calls = int(sys.argv[1]), 0
sys.argv[1:2] = []
import convert.release.folder as folder
from convert.release import publish, tensors
tensors.witnessed = lambda *_: "nobody"  # without torch it is there at once; the check below has its loaders
def stopped(function, at):
    def call(*arguments, **named):
        if at == stop:
            print("now", flush=True)
            time.sleep(60)
        return function(*arguments, **named)
    return call
publish._one = stopped(publish._one, 0)
publish._finish = stopped(publish._finish, 1)
publish.sums = stopped(publish.sums, 2)
folder.flush = stopped(folder.flush, 3)
folder._place = stopped(folder._place, 4)
real = folder._rename_at
def after(*arguments):
    done = real(*arguments)
    if stop == 5:
        print("now", flush=True)
        time.sleep(60)
    return done
folder._rename_at = after
from convert.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
