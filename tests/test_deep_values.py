"""Tuples in tuples, 25,000 deep, in each place of a pickle that holds a value: C code hashes them by recursion, without a limit.

Pickles of every container are changed in one place after the other, and read by a process with a stack that such a hash overflows.
"""

from __future__ import annotations

import io
import pickletools
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tests import sample_containers as containers

resource = pytest.importorskip("resource", reason="the system has no limit on a stack")
DEEP = b")" + b"\x85" * 25_000
STACK = 1 << 20  # bytes; 8 MiB, as is usual, overflow at six times the depth
PLACES = 40  # at most of one container
ATOMS = frozenset({
    "BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE", "EMPTY_DICT",
    "EMPTY_LIST", "BINGET", "LONG_BINGET", "GLOBAL", "BINFLOAT",
})  # fmt: skip
WEIGHTS = {"0.weight": torch.randn(3, 2).t(), "0.bias": torch.randn(3)}
CONTENT = {"state_dict": WEIGHTS, "epoch": 3, "shape": torch.Size([2, 3]), "sparse": torch.eye(2).to_sparse()}
NET = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
CONTAINERS: dict[str, tuple[str, containers.Write]] = {
    "zip": ("a.pth", containers.saved(CONTENT)),
    "module": ("a.pth", containers.saved(NET)),
    "legacy": ("a.pth", containers.legacy(CONTENT)),
    "tar": ("a.pth.tar", containers.tar(WEIGHTS)),
    "package": ("a.pt", containers.package(WEIGHTS)),
    "script": ("a.pt", containers.scripted(NET)),
    "distributed": ("folder", containers.distributed(WEIGHTS)),
}
READING = """
import sys
from convert import select
from formats import registry
from formats.core.errors import CheckpointError
for path in sys.argv[1:]:
    print(path, end=": ", flush=True)
    try:
        with registry.open(path) as checkpoint:
            for choice in select.choose(checkpoint):
                len(choice.state_dict.tensors)
        print("read", flush=True)
    except CheckpointError as error:
        print(error.what[:100], flush=True)
"""


def atoms(data: bytes) -> Iterator[tuple[int, int]]:
    """(start, stop) of each opcode that pushes one value, in all pickles that stand one behind the other."""
    stream, at = io.BytesIO(data), 0
    while data[at : at + 1] == b"\x80":
        for (opcode, _, start), (_, _, stop) in pairwise(list(pickletools.genops(stream))):
            if opcode.name in ATOMS:
                yield start or 0, stop or 0
        at = stream.tell()


def changed(data: bytes) -> list[bytes]:
    places = list(atoms(data))
    step = max(len(places) // PLACES, 1)
    return [data[:start] + DEEP + data[stop:] for start, stop in places[::step]]


def in_zip(path: Path) -> Iterator[Callable[[Path], None]]:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, whole in members.items():
        for data in changed(whole) if whole[:1] == b"\x80" else ():

            def write(to: Path, name: str = name, data: bytes = data) -> None:
                with zipfile.ZipFile(to, "w") as archive:
                    for other, content in members.items():
                        archive.writestr(other, data if other == name else content)

            yield write


def in_tar(path: Path) -> Iterator[Callable[[Path], None]]:
    with tarfile.open(path) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}  # type: ignore[union-attr]
    for name, whole in members.items():
        for data in changed(whole):

            def write(to: Path, name: str = name, data: bytes = data) -> None:
                with tarfile.open(to, "w") as archive:
                    for other, content in members.items():
                        entry = tarfile.TarInfo(other)
                        entry.size = len(data if other == name else content)
                        archive.addfile(entry, io.BytesIO(data if other == name else content))

            yield write


def in_file(path: Path) -> Iterator[Callable[[Path], None]]:
    for data in changed(path.read_bytes()):
        yield lambda to, data=data: to.write_bytes(data) and None  # type: ignore[misc]


def in_folder(path: Path) -> Iterator[Callable[[Path], None]]:
    for data in changed((path / ".metadata").read_bytes()):

        def write(to: Path, data: bytes = data) -> None:
            to.mkdir()
            for part in path.iterdir():
                (to / part.name).write_bytes(data if part.name == ".metadata" else part.read_bytes())

        yield write


@pytest.mark.parametrize("name", CONTAINERS)
def test_values_that_nest_too_deeply_to_be_hashed(name: str, tmp_path: Path) -> None:
    file_name, make = CONTAINERS[name]
    original = tmp_path / file_name
    make(original)
    if original.is_dir():
        writers = in_folder(original)
    elif zipfile.is_zipfile(original):
        writers = in_zip(original)
    else:
        writers = in_tar(original) if tarfile.is_tarfile(original) else in_file(original)
    paths = []
    for number, write in enumerate(writers):
        paths.append(tmp_path / f"{number}{original.suffix}")
        write(paths[-1])
    assert len(paths) > 10
    done = subprocess.run(
        [sys.executable, "-c", READING, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, (STACK, STACK)),
    )
    told = done.stdout.splitlines()
    assert done.returncode == 0, f"ended by {done.returncode} at {told[-1] if told else None}: {done.stderr[-400:]}"
    assert len(told) == len(paths)
    assert any(not line.endswith(": read") for line in told)
