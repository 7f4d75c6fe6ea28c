"""The short part: every write path, every call of ours on the way failing once, in this process; a sample by strace."""

from __future__ import annotations

import errno
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convert.__main__ import main
from tests.command import argv
from tests.faults import __main__ as harness
from tests.faults import chaos
from tests.faults.oracle import Fault, judge
from tests.faults.paths import PATHS, WritePath, reference, restore
from tests.parts import needs

CALLS = ("open", "posix_fallocate", "pwrite", "preadv", "fsync", "fstat", "link", "replace", "close", "mkdir", "unlink", "dup")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
QUICK = [path for path in PATHS if not path.slow]
SAMPLE = 4  # faults by strace of each path, with --force and without


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: what is tried here is not the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() and os.access(memory, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


def failing(patch: pytest.MonkeyPatch, call: str, number: int, code: int, folder: Path) -> list[int]:
    """The ``number``-th use of ``os.call`` on something in ``folder`` fails; the list counts uses."""
    real, count = getattr(os, call), [0]

    def here(first: Any) -> bool:
        try:
            place = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else os.path.abspath(os.fspath(first))
        except (OSError, TypeError):
            return False
        return place.startswith(str(folder))

    def fail(first: Any, *rest: Any, **named: Any) -> Any:
        if here(first):
            count[0] += 1
            if count[0] == number:
                if call == "close":
                    real(first)
                raise OSError(code, os.strerror(code))
        return real(first, *rest, **named)

    patch.setattr(os, call, fail)
    return count


SMALL = [path for path in QUICK if "MB" not in path.name]
# Sets are tried both ways; of the others every second one replaces a file.
WAYS = [
    (path, forced)
    for at, path in enumerate(SMALL)
    for forced in (False, True)
    if path.entry or forced == bool(at % 2 and path.force)
]


@pytest.mark.parametrize(("path", "forced"), WAYS, ids=lambda way: getattr(way, "name", "force" if way else "new"))
def test_each_call_fails_once(path: WritePath, forced: bool, quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = quick / "work"
    base = reference(path, folder)
    before = {**base.inputs, **(base.old if forced else {})}
    arguments = path.command(folder, force=forced)[len(argv()) :]
    tried = 0
    for call in CALLS:
        for number in range(1, 60, 5 if call == "preadv" else 1):
            code = ERRORS[zlib.crc32(f"{call}{number}{forced}".encode()) % len(ERRORS)]
            restore(folder, before)
            with pytest.MonkeyPatch.context() as patch:
                count = failing(patch, call, number, code, folder)
                exit_code = main(arguments)
            said = capsys.readouterr().err
            if count[0] < number:
                break
            tried += 1
            about = "temporary" if call in ("pwrite", "replace") else "" if call != "fsync" else "folder"
            fault = Fault({"pwrite": "pwrite64", "replace": "rename"}.get(call, call), errno.errorcode[code], "", about)
            wrong = judge(base, folder, fault, exit_code, said, forced=forced)
            assert not wrong, f"{call} #{number} {errno.errorcode[code]}: {wrong}\n{said}"
    assert tried > 15


@pytest.mark.parametrize("path", QUICK, ids=lambda path: path.name)
def test_a_sample_by_strace(path: WritePath, tmp_path: Path) -> None:
    needs("strace")
    tally = harness.try_path(path, tmp_path, SAMPLE)
    assert not tally.wrong, "\n".join(tally.wrong)
    assert tally.total >= SAMPLE


def test_the_harness_of_somebody_else(tmp_path: Path) -> None:
    needs("chaos")
    found = [trial for trial in chaos.trials(tmp_path) if trial.name == "sharded safetensors"]
    verdicts, code, said = chaos.run(found[0], tmp_path / "work", 6)
    assert code == 0, said
    assert set(verdicts) == {"PASS"}, said
