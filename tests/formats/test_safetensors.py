"""safetensors, judged by the safetensors package: read equal to it, written byte for byte like it."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from formats import safetensors
from formats.core.checkpoint import Content, StateDict
from formats.core.dtype import BY_NAME
from formats.core.errors import CheckpointError, CorruptCheckpoint, LimitExceeded, Unsupported
from formats.core.output import write_layouts
from formats.core.safetensors_header import Header
from formats.core.storage import BytesStorage
from formats.core.tensor import CompositeTensor, TensorView
from tests.torch_reading import row_major_bytes

torch.set_num_threads(1)

NAMES = [name for name, dtype in BY_NAME.items() if dtype.safetensors is not None]


def described(tensor: torch.Tensor) -> TensorView:
    return TensorView(
        BY_NAME[str(tensor.dtype).removeprefix("torch.")], tuple(tensor.shape), BytesStorage(row_major_bytes(tensor))
    )


def random(name: str, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    count = BY_NAME[name].itemsize
    for size in shape:
        count *= size
    raw_ = torch.randint(
        0, 2 if name == "bool" else 256, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    return raw_.view(getattr(torch, name)).reshape(shape)


def write(tensors: dict[str, Any], path: Path, metadata: dict[str, str] | None = None) -> Path:
    content = Content(StateDict(tensors), metadata=metadata or {})
    write_layouts(safetensors.plan(content, {}), path)
    return path


def header(entries: str | dict[str, Any], data: bytes = b"") -> bytes:
    text = (entries if isinstance(entries, str) else json.dumps(entries)).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data


def test_bytes_are_the_official_writers(tmp_path: Path) -> None:
    """Every dtype, in an order of names that sorting has to mend, names that JSON has to escape."""
    tensors: dict[str, torch.Tensor] = {}
    for number, name in enumerate(NAMES):
        tensors[f"{'zyx'[number % 3]}.{name}"] = random(name, (2, 3, 4))
        tensors[f"empty.{name}"] = random(name, (0, 2))
    for odd in ('q"uote', "back\\slash", "new\nline", "\x01\x1f\x7f", "ümlaut.日本.🙂", "", "\u2028", "a/b", "..."):
        tensors[odd] = torch.ones(3)
    tensors["scalar"] = torch.tensor(1.5)
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    save_file(tensors, theirs)
    write({key: described(tensor) for key, tensor in reversed(tensors.items())}, ours)
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_file_that_broke_off_says_how_much_is_missing(tmp_path: Path) -> None:
    path = write({"w": described(torch.ones(4))}, tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CorruptCheckpoint, match="cut off: 5 of the 16 bytes of its tensors are missing") as error:
        safetensors.read(path)
    assert "fetch it again" in str(error.value.hint)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.text(max_size=12), st.tuples(st.sampled_from(NAMES), st.lists(st.integers(0, 4), min_size=1, max_size=3)), max_size=9
    )
)
def test_any_state_dict(tmp_path: Path, given_: dict[str, tuple[str, list[int]]]) -> None:
    """Written as the official writer writes, and read back as it was."""
    given_.pop("__metadata__", None)
    tensors = {key: random(name, tuple(shape), number) for number, (key, (name, shape)) in enumerate(given_.items())}
    save_file(tensors, tmp_path / "theirs")
    ours = tmp_path / "ours"
    ours.unlink(missing_ok=True)
    write({key: described(tensor) for key, tensor in tensors.items()}, ours)
    assert ours.read_bytes() == (tmp_path / "theirs").read_bytes()
    with safetensors.read(ours) as checkpoint:
        assert {k: (v.dtype.name, v.shape, v.tobytes()) for k, v in checkpoint.tree.items()} == {
            k: (str(v.dtype).removeprefix("torch."), tuple(v.shape), row_major_bytes(v)) for k, v in tensors.items()
        }


def test_metadata_has_one_order(tmp_path: Path) -> None:
    tensors = {"w": described(torch.ones(2))}
    first = write(tensors, tmp_path / "a", {"format": "pt", "b": "1", "a": "\u00e9\n"}).read_bytes()
    second = write(tensors, tmp_path / "b", {"a": "\u00e9\n", "b": "1", "format": "pt"}).read_bytes()
    assert first == second
    save_file({"w": torch.ones(2)}, tmp_path / "c", metadata={"format": "pt"})
    assert write(tensors, tmp_path / "d", {"format": "pt"}).read_bytes() == (tmp_path / "c").read_bytes()
    with safetensors.read(tmp_path / "a") as checkpoint:
        assert checkpoint.metadata["__metadata__"] == {"a": "\u00e9\n", "b": "1", "format": "pt"}


@pytest.mark.parametrize(
    ("name", "tensor", "why"),
    [
        ("__metadata__", TensorView(BY_NAME["float32"], (0,), BytesStorage(b"")), "__metadata__"),
        ("\ud800x", TensorView(BY_NAME["float32"], (0,), BytesStorage(b"")), "ud800x"),
        ("w", TensorView(BY_NAME["complex128"], (1,), BytesStorage(bytes(16))), "complex128"),
        ("w", TensorView(BY_NAME["qint8"], (1,), BytesStorage(bytes(1))), "qint8"),
        ("w", CompositeTensor("sparse_coo", BY_NAME["float32"], (2,), {}), "sparse_coo"),
        ("w", TensorView(BY_NAME["float4_e2m1fn_x2"], (), BytesStorage(bytes(1))), "4-bit"),
    ],
)
def test_what_has_no_place(name: str, tensor: Any, why: str) -> None:
    with pytest.raises(Unsupported, match=why):
        safetensors.plan(Content(StateDict({name: tensor})), {})


def test_reads_what_the_package_reads(tmp_path: Path) -> None:
    """Spacing, order of fields, escapes, tensors out of order, a header of any alignment."""
    data = bytes(range(24))
    text = (
        '{ "b\\u0041\\n\\"" :{"shape":[ 2 , 2 ],"data_offsets" : [8,24],"dtype":"F32"}\t,\n"a":{"dtype":"I64","shape":[],'
        '"data_offsets":[0,8]}, "__metadata__" : { } }  \n'
    )
    path = tmp_path / "x"
    path.write_bytes(header(text, data))
    theirs = load_file(path)
    with safetensors.read(path) as checkpoint:
        assert list(checkpoint.tree) == ['bA\n"', "a"]
        for key, view in checkpoint.tree.items():
            assert view.tobytes() == row_major_bytes(theirs[key])
            assert view.shape == tuple(theirs[key].shape)


def test_four_bit_floats(tmp_path: Path) -> None:
    tensor = torch.arange(24, dtype=torch.uint8).view(torch.float4_e2m1fn_x2).reshape(2, 12)
    save_file({"w": tensor}, tmp_path / "x")
    with safetensors.read(tmp_path / "x") as checkpoint:
        assert checkpoint.tree["w"].shape == (2, 12)
        assert checkpoint.tree["w"].tobytes() == bytes(range(24))
    (tmp_path / "odd").write_bytes(header({"w": {"dtype": "F4", "shape": [2, 3], "data_offsets": [0, 3]}}, b"abc"))
    with pytest.raises(Unsupported, match="pairs"):
        safetensors.read(tmp_path / "odd")


def entry(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 100) + b"{}",
        header("{}\0"),
        header("{}{}"),
        header("{"),
        header('{"w"'),
        header('{"w":'),
        header('{"w"}'),
        header("{,}"),
        header('{"__metadata__":{}', b""),
        header('{"__metadata__":{},"__metadata__":{}}'),
        header('{"__metadata__":{"a":1}}'),
        header('{"__metadata__":{"a":"\ud800"}}'),
        header('{"__metadata__":{"a":"\\ud800"}}'),
        header('{"__metadata__":{"a":"\n"}}'),
        header('{"__metadata__":{"a":"\\x"}}'),
        header('{"__metadata__":{"a":"\\'),
        header(entry(shape=[3]), bytes(8)),
        header(entry(shape=[-2]), bytes(8)),
        header(entry(shape=[2.0]), bytes(8)),
        header(entry(shape=[True]), bytes(8)),
        header(entry(shape=None), bytes(8)),
        header(entry(shape=[2**63, 2**63, 0, 1 << 62]), bytes(8)),
        header(entry(shape=[2**63, 2**63]), bytes(8)),
        header(entry(dtype="F33"), bytes(8)),
        header(entry(dtype=3), bytes(8)),
        header(entry(dtype="F6_E2M3"), bytes(8)),
        header(entry(data_offsets=[8, 0]), bytes(8)),
        header(entry(data_offsets=[8, 16]), bytes(16)),
        header(entry(data_offsets=[0, 8, 8]), bytes(8)),
        header(entry(data_offsets=[]), bytes(8)),
        header('{"w":{"dtype":"F32","shape":[02],"data_offsets":[0,8]}}', bytes(8)),
        header('{"w":{"dtype":"F32","shape":[2,],"data_offsets":[0,8]}}', bytes(8)),
        header('{"w":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}', bytes(8)),
        header(entry(), bytes(7)),
        header(entry(), bytes(9)),
        header(entry() | {"v": entry()["w"]}, bytes(8)),
        header(entry() | {"v": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
    ],
)
def test_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises((CorruptCheckpoint, LimitExceeded, Unsupported)):
        safetensors.read(path)
    with pytest.raises(Exception):  # noqa: B017 - whatever the package raises
        load_file(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (header(" {}"), "begins with"),
        (header('{"__metadata__":{"a":"1","a":"2"}}'), "key 'a' twice"),
        (header(json.dumps(entry())[:-1] + "," + json.dumps(entry())[1:], bytes(8)), "tensor 'w' twice"),
    ],
)
def test_stricter_than_the_package(tmp_path: Path, content: bytes, why: str) -> None:
    """What the format's document forbids and safetensors 0.8 lets pass: two readers could see two things."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    load_file(path)
    with pytest.raises(CorruptCheckpoint, match=why):
        safetensors.read(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_headers(tmp_path: Path, data: st.DataObject) -> None:
    """What we read of a damaged file is what the package reads of it; nothing but our own errors is raised."""
    good = header(
        {"__metadata__": {"a": "b"}} | entry() | {"v": {"dtype": "I64", "shape": [1, 1], "data_offsets": [8, 16]}},
        bytes(range(16)),
    )
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        bad[data.draw(st.integers(0, len(bad) - 17))] = data.draw(st.sampled_from(b'{}[],:"\\0129 \x00\xffFIaw'))
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes(bad))
    try:
        with safetensors.read(path) as checkpoint:
            ours = {key: (view.shape, view.tobytes()) for key, view in checkpoint.tree.items()}
    except CheckpointError:
        return
    assert ours == {key: (tuple(tensor.shape), row_major_bytes(tensor)) for key, tensor in load_file(path).items()}


def test_a_header_of_nothing_costs_little(tmp_path: Path) -> None:
    """Memory and time stay in proportion to a header made to explode a JSON parser; 200,000 empty tensors are read in no time."""
    path = tmp_path / "x.safetensors"
    for text in (
        "{" + "[" * 5_000_000,
        '{"w":' + "[{}," * 1_000_000,
        '{"w":{"shape":[' + "1," * 2_000_000,
        '{"__metadata__":{"' + "\\" * 5_000_000,
    ):
        path.write_bytes(header(text))
        tracemalloc.start()
        begin = time.perf_counter()
        with pytest.raises(CheckpointError):
            safetensors.read(path)
        assert time.perf_counter() - begin < 5
        assert tracemalloc.get_traced_memory()[1] < 6 * len(text)
        tracemalloc.stop()
    many = ",".join(f'"t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(200_000))
    path.write_bytes(header("{" + many + "}"))
    begin = time.perf_counter()
    with safetensors.read(path) as checkpoint:
        assert len(checkpoint.tree) == 200_000
    assert time.perf_counter() - begin < 20
    path.write_bytes(header("{" + many + ',"more":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'))
    with pytest.raises(LimitExceeded, match="200000"):
        safetensors.read(path)


class EntryByEntry(Header):
    """Every entry by the general way, that of unusual ones."""

    def _usual(self) -> bool:
        return False


def outcome(header: Header) -> Any:
    try:
        header.parse()
    except CheckpointError as error:
        return type(error)
    return header.tensors, header.metadata


KEYS = st.text(st.sampled_from('ab."\\/\n{}[]:,é\ud800 '), max_size=5)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "x", ""]),
        "shape": st.lists(st.integers(0, 2**70), max_size=3),
        "data_offsets": st.lists(st.integers(0, 2**70), min_size=2, max_size=2),
    }
)


@given(st.dictionaries(KEYS, ENTRIES, max_size=4), st.dictionaries(KEYS, KEYS, max_size=2), st.booleans(), st.data())
def test_usual_entries_are_read_as_all_others(
    entries: dict[str, Any], metadata: dict[str, str], ascii_only: bool, data: st.DataObject
) -> None:
    document = {**entries, "__metadata__": metadata}
    text = bytearray(json.dumps(document, separators=(",", ":"), ensure_ascii=ascii_only).encode("utf-8", "replace"))
    for _ in range(data.draw(st.integers(0, 2))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.sampled_from(b'{}[]:," \\0a\n\xff'))
    assert outcome(Header(bytes(text))) == outcome(EntryByEntry(bytes(text)))


def test_quotes_and_backslashes_are_read_as_json_has_them() -> None:
    for value in ('"', "\\", '\\"', "\\\\", 'a"b\\"c', "\n", "\\n", "é"):
        header = Header(json.dumps({"__metadata__": {"key": value}}, separators=(",", ":")).encode())
        header.parse()
        assert header.metadata == {"key": value}
