"""Weights as text: ``#lines``, then for each tensor its name as JSON, dtype, sizes and row-major bytes in hexadecimal, by tabs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from formats.core.checkpoint import Checkpoint, Content
from formats.core.dtype import BY_NAME
from formats.core.errors import CorruptCheckpoint
from formats.core.files import SourceFile
from formats.core.layout import Data, Layout, Literal
from formats.core.probe import Probe
from formats.core.protocol import Capabilities, Match
from formats.core.storage import BytesStorage
from formats.core.tensor import TensorView

HEAD = b"#lines\n"
CAPABILITIES = Capabilities(dtypes=frozenset({"float32", "int64"}))


class Hexadecimal:
    """The bytes of a tensor as hexadecimal digits, two a byte."""

    location = "cpu"

    def __init__(self, tensor: TensorView) -> None:
        self.inner = tensor.row_major()
        self.nbytes = 2 * self.inner.nbytes

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        skip = start % 2
        for piece in self.inner.chunks(start // 2, (stop + 1) // 2):
            digits = bytes(piece).hex().encode()[skip:]
            yield memoryview(digits[: stop - start])
            start, skip = start + len(digits), 0


def sniff(probe: Probe) -> Match:
    return Match.CERTAIN if probe.head.startswith(HEAD) else Match.NO


def read(path: Path) -> Checkpoint:
    file = SourceFile(path)
    tree: dict[str, TensorView] = {}
    for line in file.read(0, file.size)[len(HEAD) :].splitlines():
        name, dtype, sizes, digits = line.decode().split("\t")
        if dtype not in BY_NAME:
            raise CorruptCheckpoint(f"dtype {dtype!r:.40} is not known")
        shape = tuple(json.loads(sizes))
        tree[json.loads(name)] = TensorView(BY_NAME[dtype], shape, BytesStorage(bytes.fromhex(digits)))
    return Checkpoint(path, "lines", tree, files=[file])


def plan(content: Content, options: Mapping[str, Any]) -> list[Layout]:
    layout = Layout(0)
    at = 0

    def literal(data: bytes) -> None:
        nonlocal at
        layout.literals.append(Literal(at, data))
        at += len(data)

    literal(HEAD)
    for name, tensor in content.model.tensors.items():
        assert isinstance(tensor, TensorView)  # the capabilities say so
        literal(f"{json.dumps(name)}\t{tensor.dtype.name}\t{json.dumps(list(tensor.shape))}\t".encode())
        digits = Hexadecimal(tensor)
        layout.data.append(Data(at, digits, name))
        at += digits.nbytes
        literal(b"\n")
    layout.size = at
    return [layout]
