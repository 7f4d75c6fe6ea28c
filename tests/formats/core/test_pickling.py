"""The pickle of a tree, judged by CPython's unpickler and by ``torch.load(weights_only=True)``; and by the bytes that torch writes."""

from __future__ import annotations

import io
import math
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from formats.core.checkpoint import Content, Global, Latin1, Ordered, Record, StateDict
from formats.core.dtype import BY_NAME
from formats.core.errors import Unsupported
from formats.core.output import write_layouts
from formats.core.pickling import pickle_tree
from formats.core.rebuild import TypedStorage
from formats.core.storage import BytesStorage, Window
from formats.core.tensor import CompositeTensor, TensorView
from formats.core.zip_layout import torch_archive
from tests.torch_reading import row_major_bytes

torch.set_num_threads(1)


def loaded(tree: Any, folder: Path, notes: list[str] | None = None) -> Any:
    """What torch makes of ``tree``, read under ``weights_only``."""
    path = folder / "x.pth"
    path.unlink(missing_ok=True)
    write_layouts([torch_archive(tree, notes=notes)], path)
    return torch.load(path, weights_only=True)


def floats(count: int, first: float = 0.0) -> BytesStorage:
    return BytesStorage(row_major_bytes(torch.arange(count, dtype=torch.float32) + first))


F32 = BY_NAME["float32"]

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5), st.binary(max_size=5),
    st.integers(-(2**2000), 2**2000), st.sampled_from([0, 255, 256, 65535, 65536, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, -1, 127, 128,
                                                       -128, -129, 2**63, -(2**63), "\ud800", "", b"", "storage", "cpu", "0"]),
)  # fmt: skip
KEYS = st.one_of(
    st.text(max_size=3),
    st.integers(),
    st.floats(allow_nan=False),
    st.booleans(),
    st.none(),
    st.tuples(st.integers(), st.text(max_size=2)),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.lists(inner, max_size=5).map(tuple), st.dictionaries(KEYS, inner, max_size=5),
        st.dictionaries(KEYS, inner, max_size=4).map(Ordered), st.sets(st.integers(), max_size=4),
    ),
    max_leaves=20,
)  # fmt: skip


def same(a: Any, b: Any) -> bool:
    """Equal in value, type and order, NaN equal to NaN."""
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    if type(a) is Ordered:
        return type(b) is OrderedDict and same(list(a.items()), list(b.items()))
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) and math.copysign(1, a) == math.copysign(1, b) if isinstance(a, float) else bool(a == b)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES)
def test_any_plain_tree(tmp_path: Path, tree: Any) -> None:
    notes: list[str] = []
    assert same(tree, loaded(tree, tmp_path, notes))
    assert notes == []


@pytest.mark.parametrize("count", [0, 1, 2, 999, 1000, 1001, 1002, 2000, 2001])
@pytest.mark.parametrize("kind", [dict, list, Ordered])
def test_batches(tmp_path: Path, count: int, kind: Any) -> None:
    tree = kind(range(count)) if kind is list else kind((i, -i) for i in range(count))
    assert same(tree, loaded(tree, tmp_path))


def test_torchs_own_bytes(tmp_path: Path) -> None:
    """For a state dict the pickle is the one that torch.save writes, opcode for opcode."""
    layers = {"conv": torch.nn.Conv2d(3, 5, 3), "bn": torch.nn.BatchNorm2d(5), "fc": torch.nn.Linear(300, 70000, bias=False)}
    model = torch.nn.Sequential(OrderedDict(layers))
    state = model.state_dict()
    state["half"] = torch.zeros(3, dtype=torch.half)
    state["eight"] = torch.zeros(2, 3).to(torch.float8_e4m3fn)
    state["scalar"] = torch.tensor(1)
    state["many"] = torch.zeros(1, 2, 3, 4, 5).permute(4, 3, 2, 1, 0)
    state["lazy"] = torch.zeros(3, dtype=torch.complex64).conj()
    state["parameter"] = torch.nn.Parameter(torch.zeros(3))
    for number in range(300):  # past the short memo opcodes
        state[f"layer.{number}"] = torch.zeros(number)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    theirs = zipfile.ZipFile(buffer)
    tree = Ordered()
    tree.attributes = {"_metadata": Ordered((k, v) for k, v in state._metadata.items())}
    for key, tensor in state.items():
        tree[key] = TensorView(
            BY_NAME[str(tensor.dtype).removeprefix("torch.")], tuple(tensor.shape), BytesStorage(bytes(tensor.untyped_storage().nbytes())),
            0, tensor.stride(), requires_grad=tensor.requires_grad, parameter=isinstance(tensor, torch.nn.Parameter), conj=tensor.is_conj(),
        )  # fmt: skip
    assert pickle_tree(tree).data == theirs.read("archive/data.pkl")


def test_shared_objects_and_cycles(tmp_path: Path) -> None:
    shared = [1]
    tensor = TensorView(F32, (2,), floats(2))
    tree: dict[str, Any] = {"a": shared, "b": shared, "t": tensor, "u": tensor, "pair": (shared, shared)}
    tree["self"] = tree
    shared.append(tree)
    got = loaded(tree, tmp_path)
    assert got["self"] is got
    assert got["a"] is got["b"] is got["pair"][0] is got["pair"][1]
    assert got["a"][1] is got
    assert got["t"] is got["u"]


def test_a_tuple_that_holds_itself(tmp_path: Path) -> None:
    inner: list[Any] = []
    held = (inner,)
    inner.append(held)
    with pytest.raises(Unsupported, match="holds itself"):
        torch_archive({"a": held})


def test_depth(tmp_path: Path) -> None:
    tree: Any = []
    for _ in range(100_000):
        tree = [tree]
    got, depth = loaded({"deep": tree}, tmp_path)["deep"], 0
    while got:
        got, depth = got[0], depth + 1
    assert depth == 100_000


def test_plain_objects(tmp_path: Path) -> None:
    counter = Record(Global("collections.Counter"), ({"a": 2, 3: 1},))
    tree = {
        "size": Record(Global("torch.Size"), ((2, 3),)),
        "device": Record(Global("torch.device"), ("cuda", 7)),
        "dtype": Global("torch.bfloat16"),
        "scheme": Global("torch.per_tensor_affine"),
        "counter": counter,
        "complex": Record(Global("builtins.complex"), (1.0, -0.0)),
        "bytearray": Record(Global("builtins.bytearray"), (b"a\xff",)),
        "latin": Latin1("caf\xe9"),
        "set": {"b", "a", 3},
        "again": counter,
    }
    notes: list[str] = []
    got = loaded(tree, tmp_path, notes)
    assert notes == []
    assert got["size"] == torch.Size([2, 3])
    assert type(got["size"]) is torch.Size
    assert got["device"] == torch.device("cuda", 7)
    assert got["dtype"] is torch.bfloat16
    assert got["scheme"] is torch.per_tensor_affine
    assert got["counter"] == Counter({"a": 2, 3: 1})
    assert type(got["counter"]) is Counter
    assert got["again"] is got["counter"]
    assert got["complex"] == complex(1.0, -0.0)
    assert got["bytearray"] == bytearray(b"a\xff")
    assert got["latin"] == "caf\xe9"
    assert got["set"] == {"b", "a", 3}


def namespace(**fields: Any) -> Record:
    record = Record(Global("argparse.Namespace"))
    record.state = fields
    return record


def numpy_scalar(code: str, raw: bytes) -> Record:
    dtype = Record(Global("numpy.dtype"), (code, False, True))
    dtype.state = (3, "<", None, None, None, -1, -1, 0)
    return Record(Global("numpy.core.multiarray.scalar"), (dtype, raw))


def test_foreign_objects_become_plain_data(tmp_path: Path) -> None:
    """Their values arrive, and it is said what was done with them."""
    tensor = TensorView(F32, (2,), floats(2))
    array = Record(Global("numpy.core.multiarray._reconstruct"), (Global("numpy.ndarray"), (0,), b"b"))
    array.state = (
        1,
        (2,),
        numpy_scalar("f8", b"").args[0],
        False,
        row_major_bytes(torch.tensor([1.0, 2.5], dtype=torch.float64)),
    )
    defaults = Record(Global("collections.defaultdict"), (Global("builtins.list"),))
    defaults.entries = {"x": [1]}
    holder = namespace()
    holder.state = {"me": holder, "tensor": tensor}
    tree = {
        "args": namespace(lr=0.1, nested=namespace(a=1)),
        "other": namespace(b=2),
        "date": Record(Global("datetime.datetime"), (b"\x07\xe4",)),
        "class": Global("my.module.Net"),
        "keys": {Global("my.Callback"): 1, "my.Callback": 2, frozenset({1}): 3, Record(Global("my.Enum"), (3,)): 4},
        "frozen": frozenset({2, 1}),
        "scalar": numpy_scalar("f8", b"\0\0\0\0\0\0\xf8?"),
        "count": numpy_scalar("i8", (7).to_bytes(8, "little")),
        "array": array,
        "defaults": defaults,
        "holder": holder,
        "huge": 1 << 3000,
    }
    notes: list[str] = []
    got = loaded(tree, tmp_path, notes)
    assert got["args"] == {"lr": 0.1, "nested": {"a": 1}}
    assert got["date"] == {"type": "datetime.datetime", "args": (b"\x07\xe4",)}
    assert got["class"] == "my.module.Net"
    assert got["keys"] == {"my.Callback'": 1, "my.Callback": 2, (1,): 3, "my.Enum(3)": 4}
    assert got["frozen"] == {1, 2}
    assert got["scalar"] == 1.5
    assert (got["count"], type(got["count"])) == (7, int)
    assert torch.equal(got["array"], torch.tensor([1.0, 2.5], dtype=torch.float64))
    assert got["defaults"] == {"x": [1]}
    assert got["holder"]["me"] is got["holder"]
    assert torch.equal(got["holder"]["tensor"], torch.tensor([0.0, 1.0]))
    assert int(got["huge"], 16) == 1 << 3000
    said = "\n".join(notes)
    assert "args: argparse.Namespace written as a dict of its fields (and 3 more)" in notes
    for name in (
        "datetime.datetime",
        "my.module.Net",
        "my.Callback",
        "frozenset",
        "collections.defaultdict",
        "array: numpy",
        "3001 bits",
    ):
        assert name in said


def test_tensors_keep_everything(tmp_path: Path) -> None:
    storage = floats(24)
    parameter = TensorView(F32, (2, 3), storage, 0, (3, 1), requires_grad=True, parameter=True)
    tree = {
        "w": parameter,
        "tied": TensorView(F32, (2, 3), storage, 0, (3, 1)),
        "t": TensorView(F32, (3, 2), storage, 0, (1, 3), requires_grad=True),
        "late": TensorView(F32, (4,), Window(storage, 32, 64), 1, (2,)),
        "expanded": TensorView(F32, (5, 2), storage, 3, (0, 1)),
        "scalar": TensorView(F32, (), storage, 23),
        "empty": TensorView(F32, (0, 3), floats(0)),
        "conj": TensorView(BY_NAME["complex64"], (2,), floats(4, 1.0), conj=True),
        "neg": TensorView(F32, (2,), floats(4, 1.0), 1, (2,), neg=True),
        "both": TensorView(BY_NAME["complex64"], (2,), floats(4, 1.0), conj=True, neg=True),
        "frozen": TensorView(F32, (2,), floats(2), parameter=True),
    }
    got = loaded(tree, tmp_path)
    assert list(got) == list(tree)
    for key, view in tree.items():
        tensor = got[key]
        assert row_major_bytes(tensor) == view.tobytes(), key
        assert (tensor.stride(), tensor.requires_grad) == (view.strides, view.requires_grad), key
        assert (tensor.is_conj(), tensor.is_neg()) == (view.conj, view.neg), key
        assert isinstance(tensor, torch.nn.Parameter) == view.parameter
    pointers = {key: got[key].untyped_storage().data_ptr() for key in ("w", "tied", "t", "late", "expanded", "scalar")}
    assert len(set(pointers.values())) == 1
    assert len(zipfile.ZipFile(tmp_path / "x.pth").namelist()) == 3 + 6


@pytest.mark.parametrize("name", [name for name, dtype in BY_NAME.items() if dtype.kind != "quantized"])
def test_every_dtype(tmp_path: Path, name: str) -> None:
    raw = bytes(i % 2 for i in range(64)) if name == "bool" else bytes(range(1, 65))
    view = TensorView(BY_NAME[name], (2,), BytesStorage(raw), 1)
    got = loaded({"t": view}, tmp_path)["t"]
    assert str(got.dtype) == f"torch.{name}"
    assert row_major_bytes(got.view(torch.uint8) if got.element_size() == 1 else got) == view.tobytes()


def test_one_storage_under_two_types(tmp_path: Path) -> None:
    """The tie is kept: what torch.save itself refuses can be written untyped."""
    storage = floats(4)
    tree = {"f": TensorView(F32, (4,), storage), "i": TensorView(BY_NAME["int32"], (2,), storage, 2)}
    got = loaded(tree, tmp_path)
    assert got["f"].untyped_storage().data_ptr() == got["i"].untyped_storage().data_ptr()
    assert [row_major_bytes(got[k]) for k in tree] == [v.tobytes() for v in tree.values()]


def test_a_small_window_does_not_drag_its_buffer_along(tmp_path: Path) -> None:
    storage = floats(100_000)
    tree = {"a": TensorView(F32, (3,), storage, 50_000, (7,)), "b": TensorView(F32, (2,), storage, 50_007)}
    got = loaded(tree, tmp_path)
    assert got["a"].untyped_storage().nbytes() == 15 * 4
    assert got["a"].untyped_storage().data_ptr() == got["b"].untyped_storage().data_ptr()
    assert got["a"].tolist() == [50_000.0, 50_007.0, 50_014.0]
    assert got["b"].tolist() == [50_007.0, 50_008.0]
    assert got["a"].stride() == (7,)


def test_a_bare_storage(tmp_path: Path) -> None:
    storage = floats(4)
    got = loaded({"s": TypedStorage(storage, F32), "t": TensorView(F32, (2,), storage, 1)}, tmp_path)
    assert list(got["s"]) == [0.0, 1.0, 2.0, 3.0]
    assert got["s"].data_ptr() + 4 == got["t"].data_ptr()


def described(tensor: torch.Tensor) -> TensorView:
    return TensorView(
        BY_NAME[str(tensor.dtype).removeprefix("torch.")], tuple(tensor.shape), BytesStorage(row_major_bytes(tensor))
    )


def test_composites(tmp_path: Path) -> None:
    dense = torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 4.0]])
    coo, csr = dense.to_sparse(), dense.to_sparse_csr()
    kept = {"indices": described(coo.indices()), "values": described(coo.values())}
    rows = {
        "crow_indices": described(csr.crow_indices()),
        "col_indices": described(csr.col_indices()),
        "values": described(csr.values()),
    }
    quantised = TensorView(BY_NAME["qint8"], (2, 3), BytesStorage(bytes([1, 2, 3, 255, 254, 253])))
    scales = described(torch.tensor([0.5, 0.25], dtype=torch.float64))
    channels = {"values": quantised, "scales": scales, "zero_points": described(torch.tensor([0, 1]))}
    nested = torch.nested.nested_tensor([torch.ones(2), torch.arange(3.0)])
    parts = {
        "values": described(nested.values()), "sizes": described(nested._nested_tensor_size()),
        "strides": described(nested._nested_tensor_strides()), "offsets": described(nested._nested_tensor_storage_offsets()),
    }  # fmt: skip
    tree = {
        "coo": CompositeTensor("sparse_coo", F32, (2, 3), kept, {"coalesced": True}),
        "old": CompositeTensor("sparse_coo", F32, (2, 3), kept, parameter=True, requires_grad=True),
        "csr": CompositeTensor("sparse_csr", F32, (2, 3), rows),
        "tensor": CompositeTensor(
            "quantized",
            BY_NAME["qint8"],
            (2, 3),
            {"values": quantised},
            {"scheme": "per_tensor_affine", "scale": 0.5, "zero_point": 1},
        ),
        "channel": CompositeTensor("quantized", BY_NAME["qint8"], (2, 3), channels, {"scheme": "per_channel_affine", "axis": 0}),
        "nested": CompositeTensor("nested", F32, (2,), parts),
        "meta": CompositeTensor("meta", F32, (2, 3), {}, {"strides": [3, 1]}, requires_grad=True),
        "subclass": CompositeTensor("subclass", F32, (2,), {"data": TensorView(F32, (2,), floats(2))}, {"type": "my.Tensor"}),
    }
    notes: list[str] = []
    got = loaded(tree, tmp_path, notes)
    assert torch.equal(got["coo"].to_dense(), dense)
    assert got["coo"].is_coalesced()
    assert torch.equal(got["old"].to_dense(), dense)
    assert isinstance(got["old"], torch.nn.Parameter)
    assert got["csr"].layout == torch.sparse_csr
    assert torch.equal(got["csr"].to_dense(), dense)
    assert got["tensor"].int_repr().tolist() == [[1, 2, 3], [-1, -2, -3]]
    assert (got["tensor"].q_scale(), got["tensor"].q_zero_point()) == (0.5, 1)
    assert got["channel"].q_per_channel_scales().tolist() == [0.5, 0.25]
    assert got["channel"].q_per_channel_axis() == 0
    assert [t.tolist() for t in got["nested"].unbind()] == [[1.0, 1.0], [0.0, 1.0, 2.0]]
    assert (got["meta"].device.type, got["meta"].shape, got["meta"].requires_grad) == ("meta", (2, 3), True)
    assert got["subclass"].tolist() == [0.0, 1.0]
    assert notes == ["subclass: a tensor of class my.Tensor written as a plain tensor"]


def test_locations() -> None:
    storage = BytesStorage(bytes(4), "cuda:7")
    tree = {"t": TensorView(F32, (1,), storage)}
    assert b"cuda:7" not in pickle_tree(tree).data
    assert b"cuda:7" in pickle_tree(tree, locations=True).data


def test_sets_have_one_order() -> None:
    """Hash order changes from process to process; the bytes must not."""
    words = [f"w{i}" for i in range(50)]
    data = pickle_tree(set(words)).data
    assert sorted(words) == sorted(words, key=lambda word: data.index(b"X" + len(word).to_bytes(4, "little") + word.encode()))


def test_versions(tmp_path: Path) -> None:
    from formats import torch_save

    content = Content(StateDict({"w": TensorView(F32, (2,), floats(2))}, Ordered({"": {"version": 1}, "bn": {"version": 2}})))
    write_layouts(torch_save.plan(content, {}), tmp_path / "x.pth")
    got = torch.load(tmp_path / "x.pth", weights_only=True)
    assert type(got) is OrderedDict
    assert got._metadata == {"": {"version": 1}, "bn": {"version": 2}}
    assert type(got._metadata) is OrderedDict


def test_an_empty_window_beside_the_part_that_is_kept(tmp_path: Path) -> None:
    """The storage is cut to what the other tensor sees of it; the empty one has no place in that."""
    storage = floats(100)
    tree = {"empty": TensorView(F32, (2, 0), storage, 0, (1, 1)), "late": TensorView(F32, (3,), storage, 90)}
    got = loaded(tree, tmp_path, [])
    assert got["empty"].shape == (2, 0)
    assert got["late"].tolist() == [90.0, 91.0, 92.0]
