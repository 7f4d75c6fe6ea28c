"""Whether what a contender wrote is right: it must not get a time for work that was not done."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

PIECE = 1 << 20  # bytes compared at once
# Tensors of two files, read by torch and safetensors alone.
JUDGE = """
import sys, torch
from safetensors.torch import load_file
def read(path):
    with open(path, "rb") as file:
        head = file.read(9)
    return load_file(path) if head[8:] == b"{" else torch.load(path, weights_only=True, mmap=head[:2] == b"PK")
one, other = map(read, sys.argv[1:])
if one.keys() != other.keys():
    sys.exit("different keys")
for key, tensor in one.items():
    if (tensor.dtype, tensor.shape) != (other[key].dtype, other[key].shape) or not torch.equal(tensor, other[key]):
        sys.exit(f"differ in {key}")
"""


class Judged:
    """Judges a contender's first output against what torch and safetensors wrote of the same source, every later one by digest.

    The same input must give the same bytes, so a digest is as good as the whole comparison.
    """

    def __init__(self, reference: Path, equal: Callable[[Path, Path], None] | None = None) -> None:
        self.reference = reference
        self.equal = assert_equal if equal is None else equal
        self.digest: str | None = None

    def __call__(self, output: Path) -> None:
        found = sha256(output)
        if self.digest is None:
            self.equal(output, self.reference)
            self.digest = found
        elif found != self.digest:
            raise SystemExit(f"{output} differs from what the same command wrote before")


def of_size(nbytes: int) -> Callable[[Path], None]:
    """A check for copies."""

    def check(output: Path) -> None:
        if (found := output.stat().st_size) != nbytes:
            raise SystemExit(f"{output}: {found} bytes, expected {nbytes}")

    return check


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def equal_to_torch(output: Path, reference: Path) -> None:
    """Both files, in whichever container, hold equal tensors by torch's own reading."""
    done = subprocess.run([sys.executable, "-c", JUDGE, str(output), str(reference)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{output} and {reference} {done.stderr.strip()}")


def assert_equal(one: Path, other: Path) -> None:
    """Two safetensors files hold the same tensors, bit for bit; `SystemExit` names the first that differs."""
    (entries, base), (wanted, wanted_base) = _header(one), _header(other)
    if entries.keys() != wanted.keys():
        raise SystemExit(f"{one} and {other} hold different keys")
    if entries == wanted:  # one layout: the data can be compared in one go
        if any(
            a != b
            for a, b in zip(_span(one, base, one.stat().st_size), _span(other, wanted_base, other.stat().st_size), strict=True)
        ):
            raise SystemExit(f"{one} and {other} differ")
        return
    for key, entry in entries.items():
        spans = []
        for path, start, found in ((one, base, entry), (other, wanted_base, wanted[key])):
            low, high = found["data_offsets"]  # type: ignore[misc]
            spans.append(_span(path, start + low, start + high))
        same_type = (entry["dtype"], entry["shape"]) == (wanted[key]["dtype"], wanted[key]["shape"])
        if not same_type or any(a != b for a, b in zip(*spans, strict=True)):
            raise SystemExit(f"{one} and {other} differ in {key}")


def _header(path: Path) -> tuple[dict[str, dict[str, object]], int]:
    """(entry by tensor, byte offset of the first) of a safetensors file."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        entries = json.loads(stream.read(length))
    entries.pop("__metadata__", None)
    return entries, 8 + length


def _span(path: Path, start: int, stop: int) -> Iterator[bytes]:
    with path.open("rb") as stream:
        stream.seek(start)
        while start < stop:
            piece = stream.read(min(PIECE, stop - start))
            start += len(piece)
            yield piece or b"?"
