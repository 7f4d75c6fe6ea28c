"""The table of architectures: which names and shapes the state dict of every torchvision and timm model has.

``architectures.bin`` is made by ``benchmarks/build_signatures.py`` and holds, little-endian::

    8 bytes   magic b"CKPTARCH"
    u32 u32   version 1, length of the header
    header    JSON: libraries {name: version}, models, classes, index [offset, length], blocks [[offset, length, first class]…]
    index     zlib: u32 counts (classes, name hashes, name postings, shape hashes, shape postings), then
              per class u16 entries, u8 name sketch length, u8 shape sketch length; then for names and for shapes:
              u32 hashes, ascending; u32 end of each hash's postings; u16 classes
    blocks    xz of JSON: "tokens" [[key, size…]…], each once; "facts" [{…}…], each once; and per class {"members": [[name, group,
              difference, facts index]…], "runs": [first token, count, …], "head": [index into the class's entries…]}

A class is the set of models whose state dicts have the same keys and, their heads aside, the same shapes. Members of one group gave equal
outputs on equal weights when the table was built; ``difference`` is the relative difference of a member's output from that of the
first; group -1 was not run. The index answers "which classes come into question" at the
cost of one small zlib stream; only the blocks of those classes are then read and inflated.
"""

from __future__ import annotations

import json
import sys
from array import array
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from convert.signatures.tokens import Shape

MAGIC = b"CKPTARCH"
VERSION = 1
PATH = Path(__file__).with_name("architectures.bin")


@dataclass(frozen=True, slots=True)
class Member:
    """One architecture: ``name`` as ``--arch`` takes it (``timm:resnet34``), its equivalence ``group``, and what weights do not say.

    ``difference`` is ``||y - y0|| / ||y0||`` on equal weights, ``y0`` the output of the class's first member; None if it was not run.
    """

    name: str
    group: int
    difference: float | None
    facts: dict[str, Any] = field(hash=False, compare=False)

    @property
    def library(self) -> str:
        return self.name.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Signature:
    """A class of architectures: keys and shapes in state-dict order. ``head`` are the keys whose shape follows the number of classes."""

    number: int
    members: tuple[Member, ...]
    entries: dict[str, Shape]
    head: frozenset[str]

    def shapes(self) -> list[Shape]:
        """Shapes of what is not the head, in order."""
        return [shape for key, shape in self.entries.items() if key not in self.head]


class _Postings:
    """hash → classes, as three arrays."""

    def __init__(self, hashes: array[int], ends: array[int], classes: array[int]) -> None:
        self.hashes, self.ends, self.classes = hashes, ends, classes

    def count(self, hashes: set[int]) -> Counter[int]:
        """How many of ``hashes`` are in the sketch of each class."""
        found: Counter[int] = Counter()
        known, ends, classes = self.hashes, self.ends, self.classes
        size = len(known)
        for value in hashes:
            at = bisect_left(known, value)
            if at < size and known[at] == value:
                found.update(classes[ends[at - 1] if at else 0 : ends[at]])
        return found


class Table:
    """The table, opened: the index in memory, blocks on demand."""

    def __init__(self, path: Path = PATH) -> None:
        import zlib

        self.path = path
        with path.open("rb") as file:
            magic, version, length = file.read(8), *_u32(file.read(8))
            if magic != MAGIC or version != VERSION:
                raise ValueError(f"{path}: not a table of architectures of version {VERSION}")
            header = json.loads(file.read(length))
            self.base = 16 + length
            offset, nbytes = header["index"]
            file.seek(self.base + offset)
            index = zlib.decompress(file.read(nbytes))
        self.libraries: dict[str, str] = header["libraries"]
        self.models: int = header["models"]
        self.blocks: list[list[int]] = header["blocks"]
        counts = _array("I", index[:20])
        self.classes = counts[0]
        at = 20

        def take(code: str, number: int) -> array[int]:
            nonlocal at
            start, at = at, at + number * array(code).itemsize
            return _array(code, index[start:at])

        self.sizes = take("H", self.classes)
        self.name_sketch = take("B", self.classes)
        self.shape_sketch = take("B", self.classes)
        self.names = _Postings(take("I", counts[1]), take("I", counts[1]), take("H", counts[2]))
        self.shapes = _Postings(take("I", counts[3]), take("I", counts[3]), take("H", counts[4]))
        self._firsts = [first for _, _, first in self.blocks]
        self._read: dict[int, dict[str, Any]] = {}
        self._signatures: dict[int, Signature] = {}

    def signature(self, number: int) -> Signature:
        """Everything about class ``number``."""
        found = self._signatures.get(number)
        if found is None:
            found = self._signatures[number] = self._decode(number)
        return found

    def _decode(self, number: int) -> Signature:
        at = bisect_left(self._firsts, number + 1) - 1
        block = self._read.get(at)
        if block is None:
            block = self._read[at] = self._inflate(at)
        row = block["classes"][number - self._firsts[at]]
        tokens, runs = block["tokens"], row["runs"]
        flat: list[tuple[str, Shape]] = []
        for first, count in zip(runs[::2], runs[1::2], strict=True):
            flat += tokens[first : first + count]
        facts = block["facts"]
        members = tuple(Member(name, group, difference, facts[index]) for name, group, difference, index in row["members"])
        return Signature(number, members, dict(flat), frozenset(flat[index][0] for index in row["head"]))

    def _inflate(self, at: int) -> dict[str, Any]:
        import lzma

        offset, nbytes, _ = self.blocks[at]
        with self.path.open("rb") as file:
            file.seek(self.base + offset)
            block: dict[str, Any] = json.loads(lzma.decompress(file.read(nbytes)))
        block["tokens"] = [(token[0], tuple(token[1:])) for token in block["tokens"]]
        return block


@cache
def load() -> Table:
    """The shipped table."""
    return Table()


def _array(code: str, raw: bytes) -> array[int]:
    values = array(code)
    values.frombytes(raw)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _u32(raw: bytes) -> tuple[int, int]:
    return int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:8], "little")
