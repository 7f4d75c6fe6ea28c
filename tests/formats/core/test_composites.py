"""Component tensors and their description give back what was spelled, and refuse what does not fit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats.core.checkpoint import Ordered, StateDict
from formats.core.composites import DESCRIPTION, expand, rebuild, tied
from formats.core.dtype import BY_NAME
from formats.core.errors import CheckpointError, CorruptCheckpoint, Unsupported
from formats.core.storage import BytesStorage
from formats.core.tensor import CompositeTensor, TensorView

PLAIN = frozenset({"float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"})


def tensor(name: str, *shape: int, fill: int = 1, **flags: Any) -> TensorView:
    count = 1
    for n in shape:
        count *= n
    dtype = BY_NAME[name]
    return TensorView(dtype, shape, BytesStorage(bytes((fill + i) % 251 for i in range(count * dtype.itemsize))), **flags)


def sparse() -> CompositeTensor:
    parts = {"indices": tensor("int64", 2, 3), "values": tensor("float32", 3)}
    return CompositeTensor("sparse_coo", BY_NAME["float32"], (4, 5), parts, {"coalesced": True}, parameter=True)


def quantized() -> CompositeTensor:
    parts = {"values": tensor("qint8", 4, 2), "scales": tensor("float64", 4), "zero_points": tensor("int64", 4)}
    return CompositeTensor("quantized", BY_NAME["qint8"], (4, 2), parts, {"scheme": "per_channel_affine", "axis": 0})


def equal(a: Any, b: Any) -> bool:
    if type(a) is not type(b) or a.dtype is not b.dtype or a.shape != b.shape:
        return False
    if (a.parameter, a.requires_grad) != (b.parameter, b.requires_grad):
        return False
    if isinstance(a, TensorView):
        return a.tobytes() == b.tobytes()
    return (
        a.kind == b.kind
        and a.attributes == b.attributes
        and list(a.components) == list(b.components)
        and all(equal(a.components[name], b.components[name]) for name in a.components)
    )


def back(model: StateDict) -> Ordered:
    made = expand(model, PLAIN)
    stored = {key: TensorView(t.dtype, t.shape, BytesStorage(t.tobytes())) for key, t in sorted(made.tensors.items())}
    assert all(t.dtype.name in PLAIN for t in stored.values())
    if made.description is None:
        return Ordered(stored)
    return rebuild(stored, made.description)


KINDS: dict[str, Any] = {
    "plain": lambda: tensor("float32", 2, 3),
    "parameter": lambda: tensor("float32", 2, parameter=True, requires_grad=True),
    "complex128": lambda: tensor("complex128", 2, 3),
    "complex32": lambda: tensor("complex32", 3),
    "complex128 scalar": lambda: tensor("complex128"),
    "bfloat16": lambda: tensor("bfloat16", 2),
    "sparse": sparse,
    "quantized": quantized,
    "meta": lambda: CompositeTensor("meta", BY_NAME["float32"], (2, 3), {}, {"strides": [3, 1]}),
    "empty": lambda: tensor("float32", 0, 3),
}


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(st.characters(), max_size=6), st.sampled_from(sorted(KINDS)), max_size=6), st.data())
def test_any_state_dict_comes_back_in_order(kinds: dict[str, str], data: st.DataObject) -> None:
    tensors = {key: KINDS[kind]() for key, kind in kinds.items()}
    for key in data.draw(st.lists(st.text(max_size=3), max_size=3, unique=True)):
        if tensors and key not in tensors:
            tensors[key] = tensors[data.draw(st.sampled_from(sorted(tensors)))]
    versions = {"": {"version": 1}, "bn": {"version": 2}} if data.draw(st.booleans()) else None
    found = back(StateDict(tensors, versions))
    assert list(found) == list(tensors)
    assert all(equal(found[key], tensors[key]) for key in tensors)
    assert (found.attributes or {}).get("_metadata") == versions


def test_components_never_take_the_name_of_another_tensor() -> None:
    tensors = {"w.values": tensor("float32", 1), "w": sparse(), "w.indices": tensor("float32", 2)}
    made = expand(StateDict(tensors), PLAIN)
    assert set(made.tensors) == {"w.values", "w.indices", "w.values~1", "w.indices~1"}
    found = back(StateDict(tensors))
    assert all(equal(found[key], tensors[key]) for key in tensors)


def test_tied_means_the_very_same_elements() -> None:
    storage = BytesStorage(bytes(64))
    f32 = BY_NAME["float32"]
    tensors: dict[str, Any] = {
        "a": TensorView(f32, (4,), storage),
        "same": TensorView(f32, (4,), storage),
        "slice": TensorView(f32, (4,), storage, 4),
        "overlap": TensorView(f32, (4,), storage, 2),
        "reshaped": TensorView(f32, (2, 2), storage),
        "typed": TensorView(BY_NAME["int32"], (4,), storage),
        "negated": TensorView(f32, (4,), storage, neg=True),
        "none": TensorView(f32, (0,), storage),
        "none too": TensorView(f32, (0,), storage),
    }
    assert tied(tensors) == {"same": "a"}


def test_versions_that_json_cannot_hold_are_named() -> None:
    made = expand(StateDict({"a": tensor("float32", 1)}, {"": {"version": 1}, "odd": {"value": b"bytes"}, 3: {}}), PLAIN)
    assert made.unsaid == ["odd", "3"]


def test_a_dtype_that_nothing_carries_is_refused_by_the_tensors_name() -> None:
    with pytest.raises(Unsupported, match=r"'w'.*complex128"):
        expand(StateDict({"w": tensor("complex128", 2)}), frozenset({"float32"}))


def description() -> dict[str, Any]:
    made = expand(StateDict({"s": sparse(), "q": quantized(), "c": tensor("complex128", 2), "a": tensor("float32", 1)}), PLAIN)
    assert made.description is not None
    found = json.loads(made.description)
    assert isinstance(found, dict)
    return found


def stored() -> dict[str, TensorView]:
    return expand(
        StateDict({"s": sparse(), "q": quantized(), "c": tensor("complex128", 2), "a": tensor("float32", 1)}), PLAIN
    ).tensors  # type: ignore[return-value]


WRONG: dict[str, Any] = {
    "component missing": lambda d: d["composites"]["s"]["components"]["indices"].update(key="nowhere"),
    "component no text": lambda d: d["composites"]["s"]["components"]["indices"].update(key=["s.indices"]),
    "no components": lambda d: d["composites"]["s"].pop("components"),
    "dtype unknown": lambda d: d["composites"]["s"].update(dtype="float31"),
    "dtype no text": lambda d: d["composites"]["s"].update(dtype=[1]),
    "shape negative": lambda d: d["composites"]["s"].update(shape=[-1]),
    "shape huge": lambda d: d["composites"]["s"].update(shape=[1 << 70]),
    "shape bool": lambda d: d["composites"]["s"].update(shape=[True]),
    "carried shape": lambda d: d["composites"]["c"]["components"]["data"].update(shape=[3]),
    "carried dtype": lambda d: d["composites"]["c"]["components"]["data"].update(dtype="complex32"),
    "plain is another": lambda d: d["composites"]["c"].update(shape=[1]),
    "attributes": lambda d: d["composites"]["s"].update(attributes={"x": {"deep": 1}}),
    "alias nowhere": lambda d: d.update(aliases={"b": "nowhere"}),
    "alias taken": lambda d: d.update(aliases={"a": "s"}),
    "alias no text": lambda d: d.update(aliases={"b": ["a"]}),
    "composite is stored": lambda d: d["composites"].update({"a": d["composites"]["s"]}),
    "order no list": lambda d: d.update(order={"0": 1}),
    "order of texts": lambda d: d.update(order=["0"]),
    "composites no object": lambda d: d.update(composites=[]),
    "version": lambda d: d.update(version=99),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_description_that_does_not_fit_is_refused(name: str) -> None:
    said = description()
    WRONG[name](said)
    with pytest.raises(Unsupported if name == "version" else CorruptCheckpoint, match=DESCRIPTION.replace(".", r"\.")):
        rebuild(stored(), json.dumps(said))


def test_an_order_that_no_longer_fits_is_ignored() -> None:
    said = description()
    for order in ([0], [0, 0, 1, 2], [9, 1, 2, 3]):
        said["order"] = order
        assert set(rebuild(stored(), json.dumps(said))) == {"s", "q", "c", "a"}


WORDS = st.sampled_from(
    ["version", "composites", "aliases", "order", "versions", "parameters", "s", "a", "kind", "dtype", "shape", "components"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(WORDS, below, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_no_description_breaks_the_reader(said: Any) -> None:
    if isinstance(said, dict):
        said["version"] = 1
    try:
        rebuild(stored(), json.dumps(said))
    except CheckpointError:
        pass


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "1", "null", '{"version": 1e999}'])
def test_what_is_no_description_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError):
        rebuild({}, text)
