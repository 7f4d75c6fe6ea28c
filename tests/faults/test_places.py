"""Odd places and company: disks that are full or read-only, devices, links, two runs at once, inputs that change, a second Ctrl-C."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.command import argv, environment, run
from tests.faults.paths import Reference, by_name, reference, restore, snapshot
from tests.parts import needs

BIG = by_name("safetensors, 6 MB")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return reference(BIG, tmp_path_factory.mktemp("made") / "work")


@pytest.fixture
def work(made: Reference, tmp_path: Path) -> Path:
    restore(tmp_path / "work", made.inputs)
    return tmp_path / "work"


def mount(folder: Path, *options: str) -> None:
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.decode().strip():.120}")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only an administrator of a Linux system may mount")
    mount(tmp_path / "small", "size=1m")
    yield tmp_path / "small"
    subprocess.run(["umount", str(tmp_path / "small")], check=True)


def test_a_full_disk(work: Path, small: Path) -> None:
    done = run(work / "in.pt", "--to", "safetensors", "--out-dir", small)
    assert done.returncode == 74
    assert "are needed" in done.stderr
    assert not snapshot(small)


def test_a_disk_that_is_read_only(work: Path, small: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    done = run(work / "in.pt", "--to", "safetensors", "--out-dir", small)
    assert done.returncode == 73, done.stderr
    assert not snapshot(small)


def test_a_limit_of_file_size(work: Path, made: Reference) -> None:
    done = subprocess.run(
        BIG.command(work), env=environment(), capture_output=True, text=True, check=False, cwd=work,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )  # fmt: skip
    assert done.returncode == 74, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert snapshot(work) == made.inputs


def _link(path: Path) -> None:
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, _link], ids=["pipe", "folder", "link"])
def test_outputs_that_are_none(work: Path, make: Callable[[Path], None]) -> None:
    make(work / "out")
    kind = (work / "out").lstat().st_mode
    done = run(work / "in.pt", "--to", "safetensors", "-o", work / "out", "--force")
    assert done.returncode == 73, done.stderr
    assert (work / "out").lstat().st_mode == kind
    assert len(list(work.iterdir())) == 2


def test_devices(work: Path) -> None:
    assert run(work / "in.pt", "--to", "safetensors", "-o", "/dev/full", "--force").returncode == 73
    assert run("/dev/zero", "--to", "safetensors", "--out-dir", work, timeout=20).returncode == 65
    os.mkfifo(work / "pipe")
    assert run(work / "pipe", "--to", "safetensors", "--out-dir", work, timeout=20).returncode == 65
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*argv(), "inspect", str(work / "in.pt")], env=environment(), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 74
    assert b"Traceback" not in done.stderr


def test_two_runs_on_one_output(work: Path, made: Reference) -> None:
    """One of them wins, whole; the other does as well, or says why not."""
    codes = set()
    for force in (False, True):
        for _ in range(4):
            restore(work, {**made.inputs, **(made.old if force else {})})
            both = [
                subprocess.Popen(
                    BIG.command(work, force=force), env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
                )
                for _ in range(2)
            ]
            said = [child.communicate(timeout=120)[1].decode() for child in both]
            assert 0 in [child.returncode for child in both], said
            codes |= {child.returncode for child in both}
            assert snapshot(work) == {**made.inputs, **made.new}
    assert codes <= {0, 73}


def slowed(work: Path, call: str) -> subprocess.Popen[bytes]:
    """The command, kept waiting for a second at its first ``call``."""
    needs("strace")
    command = ["strace", "-f", "-qq", "-o", str(work.parent / "log"), "-e", "signal=none", "-e", f"trace={call}"]
    command += ["-e", f"inject={call}:delay_enter=1000000:when=1"]
    return subprocess.Popen([*command, *BIG.command(work)], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def until_begun(work: Path, child: subprocess.Popen[bytes]) -> None:
    while child.poll() is None and len(list(work.iterdir())) < 2:
        time.sleep(0.01)


def test_an_input_that_shrinks_while_it_is_read(work: Path) -> None:
    child = slowed(work, "pwrite64")
    until_begun(work, child)
    os.truncate(work / "in.pt", 3_000_000)
    said = child.communicate(timeout=60)[1].decode()
    assert child.returncode in (65, 74), said
    assert "Traceback" not in said
    assert [path.name for path in work.iterdir()] == ["in.pt"]


def test_an_input_that_changes_while_it_is_read(work: Path) -> None:
    child = slowed(work, "fsync")
    until_begun(work, child)
    with (work / "in.pt").open("r+b") as file:
        file.seek(2_000_000)
        file.write(b"changed")
    said = child.communicate(timeout=60)[1].decode()
    assert child.returncode in (65, 70, 74), said
    assert [path.name for path in work.iterdir()] == ["in.pt"]


def test_a_second_interrupt(work: Path, made: Reference) -> None:
    """While the first one's temporaries are removed."""
    child = slowed(work, "unlink")
    until_begun(work, child)
    (program,) = [
        int(entry.name) for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _parent(int(entry.name)) == child.pid
    ]  # fmt: skip
    for _ in range(3):
        os.kill(program, signal.SIGINT)
        time.sleep(0.2)
    said = child.communicate(timeout=60)[1].decode()
    assert "Traceback" not in said
    left = snapshot(work)
    assert (child.returncode, left) in (
        (130, made.inputs),
        (0, {**made.inputs, **made.new}),
        (130, {**made.inputs, **made.new}),
    ), said


def _parent(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except (OSError, IndexError):
        return 0


def test_whoever_read_has_gone(work: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", '"$@" | true; exit ${PIPESTATUS[0]}', "-", *argv(), "inspect", str(work / "in.pt"), "--json"], env=environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 141)
    assert "Traceback" not in done.stderr
