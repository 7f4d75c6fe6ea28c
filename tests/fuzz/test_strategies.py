"""Properties over inputs that are made, not changed: the evaluator beside Python's own, geometry with an exact oracle, headers, indexes."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tempfile
import zipfile
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats import registry
from formats.core.errors import CheckpointError
from formats.core.unpickle import unpickle
from tests.fuzz import pool
from tests.fuzz.judge import spelled
from tests.hostile import pieces

BORDERS = st.sampled_from((*pool.BORDERS, *pool.NEGATIVE)) | st.integers(0, 30)
SMALL = st.integers(0, 5)
OPCODES = st.sampled_from(
    [
        b"(",
        b"0",
        b"1",
        b"2",
        b")",
        b"]",
        b"}",
        b"\x8f",
        b"t",
        b"l",
        b"d",
        b"e",
        b"a",
        b"u",
        b"s",
        b"\x85",
        b"\x86",
        b"\x87",
        b"N",
        b"\x88",
        b"\x89",
        b"K\x01",
        b"K\x02",
        b"M\x01\x01",
        b"J\xff\xff\xff\xff",
        b"\x8a\x01\x03",
        b"X\x01\0\0\0a",
        b"\x8c\x01b",
        b"C\x01c",
        b"q\0",
        b"q\1",
        b"h\0",
        b"h\1",
        b"\x94",
        b"\x90",
        b"\x91",
        b"I01\n",
        b"I7\n",
        b"F1.5\n",
        b"G?\xf0\0\0\0\0\0\0",
        b"S'x'\n",
        b"Vx\n",
        b"p0\n",
        b"g0\n",
        b"\x80\x04",
        b"\x96\1\0\0\0\0\0\0\0z",
    ]
)


class NoNames(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise AssertionError


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=800, deadline=None)
@given(st.lists(OPCODES, max_size=25))
def test_any_run_of_opcodes(ops: list[bytes]) -> None:
    """What is evaluated is what CPython evaluates; what CPython refuses with an error of its own is refused, or holds one value more."""
    data = b"".join(ops) + b"."
    try:
        ours = spelled(unpickle(data).value)
    except CheckpointError:
        return
    try:
        theirs = spelled(NoNames(io.BytesIO(data)).load())
    except Exception:
        return
    assert ours == theirs


@st.composite
def geometries(draw: st.DrawFn) -> tuple[int, list[int], list[int], int, int]:
    """(elements of the record, sizes, strides, offset, declared elements): small, with some at the borders."""
    held = draw(st.integers(0, 24))
    dims = draw(st.integers(0, 4))
    number = SMALL if draw(st.booleans()) else SMALL | BORDERS
    sizes, strides = ([draw(number) for _ in range(dims)] for _ in range(2))
    return held, sizes, strides, draw(number), held if draw(st.integers(0, 9)) else draw(BORDERS)


@settings(max_examples=300, deadline=None)
@given(geometries(), st.booleans())
def test_geometry(case: tuple[int, list[int], list[int], int, int], legacy: bool) -> None:
    """Read exactly where torch's bound holds in Python's integers, with exactly the elements that it says."""
    held, sizes, strides, offset, declared = case
    values = [float(i) for i in range(held)]
    data = struct.pack(f"<{held}f", *values)

    def numbers(found: list[int]) -> bytes:
        return b"(" + b"".join(pieces.number(n) for n in found) + b"t"

    if legacy:
        view = pieces.pair(
            pieces.text("storage"),
            pieces.name("torch.FloatStorage"),
            pieces.text("0"),
            pieces.text("cpu"),
            pieces.number(declared),
            b"N",
        )
        tensor = pieces.tensor(numbers(sizes), numbers(strides), pieces.number(offset), kept=view + b"Q")
        content = pieces.legacy(pieces.state(pieces.text("w"), tensor), data=struct.pack("<q", held) + data)
    else:
        kept = pieces.storage(count=pieces.number(declared))
        tensor = pieces.tensor(numbers(sizes), numbers(strides), pieces.number(offset), kept=kept)
        content = pieces.archive(pieces.state(pieces.text("w"), tensor), {"data/0": data})
    many = 1
    for size in sizes:
        many *= max(size, 0)
    sound = declared == held and min([*sizes, *strides, offset]) >= 0
    empty = 0 in sizes
    inside = empty or offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) < held
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "w.pth")
        path.write_bytes(content)
        try:
            with registry.open(path) as checkpoint:
                ((_, view),) = list(checkpoint.tensors())
                got = view.tobytes() if many <= 1 << 12 else None
        except CheckpointError:
            assert not (sound and inside) or many > 1 << 20, "refused, though torch's bound holds"
            return
    assert sound
    assert inside
    if got is None:  # a little expanded to much
        return
    places = [] if empty else product(*map(range, sizes))
    wanted = [values[offset + sum(i * s for i, s in zip(at, strides, strict=True))] for at in places]
    assert got == struct.pack(f"<{len(wanted)}f", *wanted)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ENTRY = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "U8", "I64", "BF16", "X"]), "shape": st.lists(SMALL | BORDERS, max_size=4),
     "data_offsets": st.lists(st.integers(0, 40) | BORDERS, min_size=2, max_size=2)}
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.text(max_size=8) | st.just("__metadata__"), ENTRY | JSON, max_size=4), st.integers(0, 40), st.booleans()
)
def test_safetensors_headers(header: dict[str, Any], size: int, dense: bool) -> None:
    """What is read here, the safetensors package reads, with the same bytes."""
    from safetensors import deserialize

    text = json.dumps(header, separators=(",", ":") if dense else None).encode()
    data = struct.pack("<Q", len(text)) + text + bytes(range(size))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "w.safetensors")
        path.write_bytes(data)
        try:
            with registry.open(path) as checkpoint:
                ours = {path[0]: view.tobytes() for path, view in checkpoint.tensors()}
        except CheckpointError:
            return
    assert ours == {name: bytes(entry["data"]) for name, entry in deserialize(data)}


@settings(max_examples=150, deadline=None)
@given(
    JSON
    | st.fixed_dictionaries(
        {"weight_map": st.dictionaries(st.sampled_from("ab"), st.sampled_from(["one.safetensors", "x"]) | JSON)}
    )
)
def test_indexes(document: Any) -> None:
    """Any JSON for an index: an error in one line, or the tensors of the map and no others."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.safetensors.index.json")
        path.write_text(json.dumps(document))
        header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}'
        (path.parent / "one.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"xy")
        try:
            with registry.open(path) as checkpoint:
                assert set(checkpoint.tree) == set(document["weight_map"])
        except CheckpointError as error:
            said = str(error)
        else:
            return
    assert "\n" not in said
    assert folder in said


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=10), st.binary(max_size=20)), max_size=5), st.binary(max_size=6), st.binary(max_size=6)
)
def test_archives(members: list[tuple[str, bytes]], before: bytes, after: bytes) -> None:
    """Any members: never anything but an error of ours."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members:
            entry = zipfile.ZipInfo("x")
            entry.filename = name
            try:
                archive.writestr(entry, data)
            except (UnicodeEncodeError, ValueError):
                return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "w.zip")
        path.write_bytes(before + out.getvalue() + after)
        try:
            registry.open(path).close()
        except CheckpointError as error:
            said = str(error)
        else:
            return
    assert said.startswith(folder)
