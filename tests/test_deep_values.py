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
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tests import sample_containers as containers

resource = pytest.importorskip("resource", reason="the system has no limit on a stack")
DEEP = b")" + b"\x85" * 25_000
STACK = 1 << 20  # bytes; 8 MiB, as is usual, overflow at six times the depth
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


def unpacked(path: Path) -> dict[str, bytes]:
    """The parts of a container by name; a file that has none is one part without a name."""
    if path.is_dir():
        return {part.name: part.read_bytes() for part in path.iterdir()}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as tar:
            return {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isfile()}  # type: ignore[union-attr]
    return {"": path.read_bytes()}


def pack(parts: dict[str, bytes], like: Path, path: Path) -> None:
    """What `unpacked` takes apart, in the container that ``like`` is."""
    if like.is_dir():
        path.mkdir()
        for name, data in parts.items():
            (path / name).write_bytes(data)
    elif zipfile.is_zipfile(like):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in parts.items():
                archive.writestr(name, data)
    elif tarfile.is_tarfile(like):
        with tarfile.open(path, "w") as tar:
            for name, data in parts.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    else:
        path.write_bytes(parts[""])


@pytest.mark.parametrize("name", CONTAINERS)
def test_values_that_nest_too_deeply_to_be_hashed(name: str, tmp_path: Path) -> None:
    file_name, make = CONTAINERS[name]
    original = tmp_path / file_name
    make(original)
    parts = unpacked(original)
    paths: list[Path] = []
    for part, data in parts.items():
        for start, stop in atoms(data):
            paths.append(tmp_path / f"{len(paths)}{original.suffix}")
            pack(parts | {part: data[:start] + DEEP + data[stop:]}, original, paths[-1])
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
