"""The evaluator against Python's own `pickle` and `pickletools`: the same values, every opcode, and the fast step like the slow one."""

from __future__ import annotations

import collections
import contextlib
import io
import pickle
import pickletools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from formats import torch_legacy, torch_zip
from formats.core import tensor_runs, torch_storages
from formats.core.checkpoint import Global, Latin1, Ordered, Record
from formats.core.errors import CheckpointError, CorruptCheckpoint, LimitExceeded
from formats.core.inert import LIMITS, Limits
from formats.core.rebuild import Rebuilt, TypedStorage, storage_dtype
from formats.core.storage import BytesStorage
from formats.core.tensor import TensorView
from formats.core.unpickle import Truncated, _Evaluator, unpickle

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**600), 2**600)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
)
KEYS = st.text() | st.integers() | st.booleans() | st.none() | st.binary() | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner) | st.tuples(inner) | st.tuples(inner, inner, inner, inner) | st.dictionaries(KEYS, inner) | st.sets(KEYS)
        | st.frozensets(KEYS) | st.builds(collections.OrderedDict, st.dictionaries(KEYS, inner))
    ),
    max_leaves=25,
)  # fmt: skip


def read(data: bytes) -> Any:
    return unpickle(data, rebuilder=Rebuilt).value


@settings(max_examples=150, deadline=None)
@given(value=VALUES, protocol=st.integers(0, 5), c_pickler=st.booleans())
def test_inert_values_are_what_pickle_reads(value: Any, protocol: int, c_pickler: bool) -> None:
    buffer = io.BytesIO()
    (pickle.Pickler if c_pickler else pickle._Pickler)(buffer, protocol).dump(value)
    found = unpickle(buffer.getvalue(), rebuilder=Rebuilt)
    assert found.value == value
    assert found.end == len(buffer.getvalue())
    assert type(found.value) is type(value) or isinstance(value, collections.OrderedDict)


@settings(max_examples=80, deadline=None)
@given(value=VALUES, protocol=st.integers(0, 5), cut=st.floats(0, 1, exclude_max=True))
def test_a_cut_pickle_asks_for_more(value: Any, protocol: int, cut: float) -> None:
    data = pickle.dumps(value, protocol)
    with pytest.raises(Truncated):
        read(data[: int(len(data) * cut)])


@settings(max_examples=300, deadline=None)
@given(value=VALUES, protocol=st.integers(0, 5), places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=3))
def test_changed_pickles_raise_nothing_but_our_errors(value: Any, protocol: int, places: list[tuple[float, int]]) -> None:
    data = bytearray(pickle.dumps(value, protocol))
    for place, byte in places:
        data[min(int(place * len(data)), len(data) - 1)] = byte
    with contextlib.suppress(CheckpointError):
        read(bytes(data))


@settings(max_examples=60, deadline=None)
@given(value=VALUES, protocol=st.integers(0, 5))
def test_every_cut_asks_for_more(value: Any, protocol: int) -> None:
    """At no byte may a cut look like anything else: a stream reads on only where it is asked to."""
    data = pickle.dumps(value, protocol)
    for length in range(min(len(data), 300)):
        with pytest.raises(Truncated):
            read(data[:length])


# opcode → a pickle with it, and the value that Python gives where it is inert
U4 = struct.Struct("<I").pack
U8 = struct.Struct("<Q").pack
OPCODES: dict[str, tuple[bytes, Any]] = {
    "MARK": b"(1N.", "STOP": b"N.", "POP": b"NI1\n0.", "POP_MARK": b"N(NN1.", "DUP": b"]2\x86.", "FLOAT": b"F1.5\n.", "INT": b"I-42\n.",
    "BININT": b"J\xfe\xff\xff\xff.", "BININT1": b"K\xff.", "LONG": b"L-123456789012345678901L\n.", "BININT2": b"M\x01\xff.", "NONE": b"N.",
    "STRING": b"S'a\\x41\\n'\n.", "BINSTRING": b"T\x03\0\0\0abc.", "SHORT_BINSTRING": b"U\x03abc.", "UNICODE": b"V\\u00fc\\u20ac\n.",
    "BINUNICODE": b"X\x02\0\0\0\xc3\xbc.", "APPEND": b"]Na.", "APPENDS": b"](NK\x01e.", "DICT": b"(NK\x01d.", "EMPTY_DICT": b"}.",
    "LIST": b"(NK\x01l.", "EMPTY_LIST": b"].", "SETITEM": b"}NK\x01s.", "SETITEMS": b"}(NK\x01K\x02Nu.", "TUPLE": b"(NK\x01t.",
    "EMPTY_TUPLE": b").", "PUT": b"]p3\n0g3\n.", "GET": b"]p0\n0g0\n.", "BINPUT": b"]q\x05h\x05\x86.", "BINGET": b"]q\0h\0\x86.",
    "LONG_BINPUT": b"]r\x05\0\0\0j\x05\0\0\0\x86.", "LONG_BINGET": b"]r\0\0\0\0j\0\0\0\0\x86.", "MEMOIZE": b"\x80\x04]\x94h\0\x86.",
    "BINFLOAT": b"G\x3f\xf8\0\0\0\0\0\0.", "PROTO": b"\x80\x02N.", "TUPLE1": b"N\x85.", "TUPLE2": b"NK\x01\x86.",
    "TUPLE3": b"NK\x01K\x02\x87.", "NEWTRUE": b"\x88.", "NEWFALSE": b"\x89.", "LONG1": b"\x8a\x02\0\xff.", "LONG4": b"\x8b\x01\0\0\0\x80.",
    "BINBYTES": b"B\x03\0\0\0\0\xff\x80.", "SHORT_BINBYTES": b"C\x02\0\xff.", "SHORT_BINUNICODE": b"\x8c\x02\xc3\xbc.",
    "BINUNICODE8": b"\x8d" + U8(1) + b"a.", "BINBYTES8": b"\x8e" + U8(2) + b"\0\xff.", "EMPTY_SET": b"\x8f.",
    "ADDITEMS": b"\x8f(NK\x01\x90.", "FROZENSET": b"(NK\x01\x91.", "FRAME": b"\x80\x04\x95" + U8(2) + b"N.",
}  # fmt: skip
# Opcodes whose meaning is a call or a name: what we describe instead.
DESCRIBED = {
    "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "PERSID", "BINPERSID", "BYTEARRAY8",
    "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER",
}  # fmt: skip


def test_every_opcode_is_covered() -> None:
    assert set(OPCODES) | DESCRIBED == {code.name for code in pickletools.opcodes}


@pytest.mark.parametrize("name", sorted(OPCODES))
def test_opcode(name: str) -> None:
    data = OPCODES[name]
    assert any(op.name == name for op, _, _ in pickletools.genops(data)), "the sample lacks its opcode"
    assert read(data) == pickle.loads(data, encoding="utf-8")
    assert type(read(data)) is type(pickle.loads(data, encoding="utf-8"))


def test_booleans_spelled_as_integers() -> None:
    assert read(b"I01\n.") is True
    assert read(b"I00\n.") is False


def test_python_2_text() -> None:
    """UTF-8 where it is, and otherwise bytes that can be had back."""
    assert read(b"U\x02\xc3\xbc.") == "ü"
    found = read(b"U\x03\xff\xfea.")
    assert type(found) is Latin1
    assert found.encode("latin-1") == b"\xff\xfea"
    assert read(b"T\x03\0\0\0\xff\xfea.") == found == read(b"S'\\xff\\xfea'\n.")


def test_bytearray() -> None:
    assert bytes(read(b"\x96" + U8(2) + b"\0\xff.")) == b"\0\xff"


@pytest.mark.parametrize(
    ("data", "name", "args"),
    [
        (b"cos\nsystem\n(V/bin/true\ntR.", "os.system", ("/bin/true",)),
        (b"\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.", "os.system", ("x",)),
        (b"(Vx\nios\nsystem\n.", "os.system", ("x",)),
        (b"(cos\nsystem\nVx\no.", "os.system", ("x",)),
        (b"cos\nsystem\n(Vx\nt\x81.", "os.system", ("x",)),
        (b"cos\nsystem\n(Vx\nt}\x92.", "os.system", ("x",)),
        (b"c__builtin__\neval\n(V1+1\ntR.", "__builtin__.eval", ("1+1",)),
        (b"ccopyreg\n_reconstructor\n(cm\nC\nc__builtin__\nobject\nNtR.", "m.C", ()),
    ],
)
def test_calls_become_records(data: bytes, name: str, args: tuple[Any, ...]) -> None:
    found = unpickle(data, rebuilder=Rebuilt)
    assert type(found.value) is Record
    assert (found.value.name, found.value.args) == (name, args)
    assert found.globals()[name] >= 1


def test_names_that_are_only_named() -> None:
    found = unpickle(b"cos\nsystem\n.", rebuilder=Rebuilt)
    assert type(found.value) is Global
    assert found.globals() == {"os.system": 0}


def test_state_items_and_entries_are_kept() -> None:
    found = read(b"cm\nC\n)\x81}Vx\nK\x01sb.")
    assert found.fields == {"x": 1}
    assert read(b"cm\nC\n)R(NK\x01e.").items == [None, 1]
    assert read(b"cm\nC\n)RVa\nK\x01s.").entries == {"a": 1}
    assert read(b"ccollections\nOrderedDict\n)R}V_metadata\nNsb.").attributes == {"_metadata": None}


@pytest.mark.parametrize(
    "data",
    [
        b"\x82\x01.", b"\x83\x01\0.", b"\x84\x01\0\0\0.", b"\x97.", b"\x98.", b"\xff.", b"\x80\x06N.", b"g0\n.", b"p-1\n.", b"N0.0.", b".",
        b"(.", b"}Ns.", b"NNa.", b"K\x01)R.", b"NN\x81.", b"I1e5\n.", b"S'a\n.", b"X\x01\0\0\0\xff.", b"}]Ns.", b"\x8f(]\x90.", b"(Nu.",
        b"N(NNe.", b"]NNs.", b"T\xff\xff\xff\xffa.", b"\x8b\xff\xff\xff\xff.", b"Qa.", b"NQ.", b"P1\n.", b"N)b.", b"NNb.",
    ],
)  # fmt: skip
def test_malformed_pickles_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptCheckpoint):
        read(data)


@pytest.mark.parametrize(
    ("data", "limits"),
    [
        (b"](" + b"]" * 50 + b"e.", Limits(objects=20)),
        (b"\x8a\xff" + b"\x01" * 255 + b".", Limits(integer_bytes=100)),
        (b"I" + b"1" * 500 + b"\n.", Limits(integer_bytes=100)),
        (b"L" + b"1" * 500 + b"L\n.", Limits(integer_bytes=100)),
        (b"N" * 200 + b".", Limits(pickle_bytes=100)),
        (
            b"}(" + b"".join(b"\x8a\x09" + i.to_bytes(8, "little") + b"\x01N" for i in range(50)) + b"u.",
            Limits(colliding_keys=20),
        ),
        (
            b"}(" + b"".join(b"\x8a\x0a" + (i * ((1 << 61) - 1)).to_bytes(10, "little") + b"N" for i in range(1, 50)) + b"u.",
            Limits(keys_of_one_hash=20),
        ),
        (b"}(" + b"N" * 60 + b"t" + b"Ns.", Limits(key_items=20)),
    ],
)
def test_limits(data: bytes, limits: Limits) -> None:
    with pytest.raises(LimitExceeded):
        unpickle(data, rebuilder=Rebuilt, limits=limits)


@pytest.mark.parametrize("opener", [b"]", b"}", b"(", b")\x85"])
def test_depth_costs_no_stack(opener: bytes) -> None:
    """100,000 levels, built without recursion and freed without."""
    depth = 100_000
    data = {b"]": b"]" * depth + b"a" * (depth - 1), b"}": b"}" + b"N}" * depth + b"s" * depth, b"(": b"(" * depth + b"t" * depth,
            b")\x85": b")" + b"\x85" * depth}[opener] + b"."  # fmt: skip
    unpickle(data, rebuilder=Rebuilt)


def test_memo_slots_far_apart() -> None:
    assert read(b"]r\xff\xff\xff\xffj\xff\xff\xff\xff\x86.") == ([], [])


def test_every_cut_of_torchs_own_pickles_asks_for_more() -> None:
    for name in ("tied", "views", "many"):
        for length in range(len(DATA[name])):
            with pytest.raises(Truncated):
                unpickle(DATA[name][:length], rebuilder=Rebuilt, persistent_load=Storages().load)


# -- the fast step -----------------------------------------------------------------------------------------------------------------
class Storages:
    """Counts what is asked for; storages are of zeros, as long as declared."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.made: dict[str, TypedStorage] = {}

    def load(self, pid: Any) -> TypedStorage:
        self.asked.append(tuple(part.text if type(part) is Global else part for part in pid))
        _, cls, key, location, numel = pid
        if key not in self.made:
            dtype = storage_dtype(cls)
            assert dtype is not None
            self.made[key] = TypedStorage(BytesStorage(bytes(numel * dtype.itemsize), location), dtype, cls)
        return self.made[key]


def evaluate(data: bytes, *, fast: bool) -> tuple[Any, list[Any], dict[str, int], int]:
    storages = Storages()
    if fast:
        found = unpickle(data, rebuilder=Rebuilt, persistent_load=storages.load)
    else:
        found = _Evaluator(data, Rebuilt, storages.load, LIMITS).run(0, fast=False)
    # Where the step gives up in the middle, storages are asked for once more.
    return shape(found.value), list(dict.fromkeys(map(repr, storages.asked))), found.globals(), found.end


def shape(value: Any) -> Any:
    """A tree as plain values that compare."""
    if isinstance(value, TensorView):
        return ("tensor", value.dtype.name, value.shape, value.strides, value.offset, value.requires_grad, value.parameter,
                value.storage.nbytes, value.location)  # fmt: skip
    if isinstance(value, dict):
        return (
            type(value).__name__,
            [(shape(key), shape(item)) for key, item in value.items()],
            getattr(value, "attributes", None),
        )
    if isinstance(value, (list, tuple)):
        return [shape(item) for item in value]
    if isinstance(value, Record):
        return "record", value.name, shape(value.args), shape(value.state)
    if isinstance(value, TypedStorage):
        return "storage", value.storage.nbytes, value.storage.location
    return value.text if type(value) is Global else value


def torch_pickle(tree: Any, protocol: int = 2) -> bytes:
    """``data.pkl`` as `torch.save` writes it."""
    import zipfile

    buffer = io.BytesIO()
    torch.save(tree, buffer, pickle_protocol=protocol)
    with zipfile.ZipFile(buffer) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def many(count: int, make: Callable[[int], torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"layer.{index}.weight": make(index) for index in range(count)}


TIED = torch.randn(3, 4)
TREES: dict[str, Any] = {
    "state dict": torch.nn.Sequential(torch.nn.Linear(3, 70000), torch.nn.BatchNorm1d(8)).state_dict(),
    "many": many(400, lambda i: torch.zeros(i % 5 + 1, i % 300)),
    "deep shapes": many(12, lambda i: torch.zeros((1,) * i)),
    "large numbers": many(5, lambda i: torch.zeros(70000 + i)[i * 300 :]),
    "views": many(30, lambda i: TIED[: i % 3, 1 : 1 + i % 3].t()),
    "tied": {"a": TIED, "b": TIED, "c": [TIED, (TIED, TIED.t())]},
    "parameters": list(torch.nn.LSTM(3, 4, 2).parameters()),
    "dtypes": [torch.zeros(2, dtype=d) for d in (torch.float16, torch.int64, torch.bool, torch.complex64) for _ in range(3)],
    "requires grad": [torch.zeros(2, requires_grad=bool(i % 2)) for i in range(6)],
    "strings between": [part for i in range(300) for part in (f"text {i}", torch.zeros(i))],
    "empty": many(4, lambda _: torch.zeros(0)),
    "mixed": {
        name: torch.zeros(shape, dtype=dtype)
        for i in range(150)
        for name, shape, dtype in (
            (f"{i}.weight", (i % 3, 4), torch.float32),
            (f"{i}.gewöhnlich" if i % 20 == 7 else f"{i}.bias", 4, torch.float16),
            (f"{i}.num_batches_tracked", (), torch.int64),
        )
    },
    "long names": {f"{'x' * (i * 37 % 700)}{i}": torch.zeros(2) for i in range(300)},
    "items set by thousands": many(2300, lambda _: TIED),
    "nested": {f"group {i}": many(i, lambda _: torch.zeros(3)) for i in range(30)},
}


@pytest.mark.parametrize("name", sorted(TREES))
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_fast_step_gives_what_single_opcodes_give(name: str, protocol: int) -> None:
    data = torch_pickle(TREES[name], protocol)
    assert evaluate(data, fast=True) == evaluate(data, fast=False)


def test_fast_step_is_taken_at_all() -> None:
    storages = Storages()
    data = torch_pickle(TREES["many"])
    step = tensor_runs.Step.run
    hits = 0

    def counting(self: Any, *args: Any) -> Any:
        nonlocal hits
        found = step(self, *args)
        hits += found
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_runs.Step, "run", counting)
        unpickle(data, rebuilder=Rebuilt, persistent_load=storages.load)
    assert hits > 380


@pytest.mark.parametrize("name", sorted(TREES))
@pytest.mark.parametrize("container", [torch_zip, torch_legacy])
def test_files_read_the_same_without_the_step(name: str, container: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(TREES[name], tmp_path / "in.pth", _use_new_zipfile_serialization=container is torch_zip)

    def read() -> list[tuple[Any, ...]]:
        checkpoint = container.read(tmp_path / "in.pth")
        numbers: dict[int, int] = {}
        return [
            (*place, repr(tensor), tensor.strides, tensor.tobytes(), numbers.setdefault(id(tensor.storage), len(numbers)))
            for place, tensor in checkpoint.tensors()
        ]

    found = read()
    monkeypatch.setattr(torch_storages.Storages, "several", lambda *_: None)
    assert read() == found
    monkeypatch.setattr(tensor_runs.Step, "run", lambda *_: 0)
    assert read() == found


@settings(max_examples=200, deadline=None)
@given(
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=3),
    name=st.sampled_from(["tied", "views", "many"]),
)
def test_fast_step_agrees_on_changed_pickles(places: list[tuple[float, int]], name: str) -> None:
    """Whatever is wrong: both refuse, or both read the same."""
    data = bytearray(DATA[name])
    for place, byte in places:
        data[min(int(place * len(data)), len(data) - 1)] = byte

    def outcome(fast: bool) -> Any:
        try:
            value, _, names, end = evaluate(bytes(data), fast=fast)
        except (CheckpointError, AssertionError):
            return "refused"
        except RecursionError:
            return "holds itself"
        return value, names, end

    assert outcome(True) == outcome(False)


DATA = {name: torch_pickle(dict(list(TREES[name].items())[:12])) for name in ("tied", "views", "many")}


def test_shared_parts_of_a_tensor_are_evaluated_again() -> None:
    """A pickle that uses a tensor's size tuple once more, which torch never writes."""
    data = DATA["many"]
    slots = [arg for op, arg, _ in pickletools.genops(data) if op.name in ("BINPUT", "LONG_BINPUT")]
    for slot in (slots[len(slots) // 2], *slots[-8:]):
        again = data[:-1] + b"r" + U4(slots[-1] + 1) + b"j" + U4(slot) + b"\x86."
        assert evaluate(again, fast=True)[0] == evaluate(again, fast=False)[0]


@pytest.mark.parametrize("after", [1, 2, 7])
def test_a_storage_class_that_changes_on_the_way_changes_the_tensors(after: int) -> None:
    """The memo slot of the class is set again between two tensors: what looks alike is not."""
    data = torch_pickle(many(12, lambda _: torch.zeros(4, 4)))
    at = data.index(b"ctorch\nFloatStorage\nq") + len(b"ctorch\nFloatStorage\nq")
    name = f"layer.{after}.weight".encode()
    border = data.index(b"X" + U4(len(name)) + name)
    again = b"ctorch\nIntStorage\nq" + data[at : at + 1] + b"0"
    changed = data[:border] + again + data[border:]
    found = evaluate(changed, fast=True)
    assert found == evaluate(changed, fast=False)
    dtypes = [tensor[1] for _, tensor in found[0][1]]
    assert dtypes == ["float32"] * after + ["int32"] * (12 - after)


def test_a_tensor_that_no_function_stands_before_is_refused() -> None:
    data = torch_pickle(many(40, lambda _: torch.zeros(4, 4)))
    name = b"layer.30.weight"
    at = data.index(b"X" + U4(len(name)) + name)
    without = data[:at] + data[data.index(b"((", at) :]
    for fast in (True, False):
        with pytest.raises(CorruptCheckpoint):
            evaluate(without, fast=fast)


def test_ordered_dict_is_ordered() -> None:
    found = read(pickle.dumps(collections.OrderedDict([("b", 1), ("a", 2)]), 2))
    assert type(found) is Ordered
    assert list(found) == ["b", "a"]
