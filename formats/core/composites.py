"""Tensors that a plain container has no place for, spelled as plain ones plus a description in JSON, and put together again.

A container of named plain tensors and text metadata (safetensors) holds sparse, quantised and nested tensors, complex128, tied
tensors, the model's key order and `state_dict()._metadata` this way. The description stands under the metadata key
`DESCRIPTION`, and is::

    {"version": 1,
     "composites": {KEY: {"kind": KIND, "dtype": DTYPE, "shape": [SIZE…], "attributes": {NAME: VALUE…},
                          "components": {NAME: {"key": STORED KEY, "dtype": DTYPE?, "shape": [SIZE…]?}…}}…},
     "aliases": {KEY: KEPT KEY…},          tied tensors: the container holds KEPT KEY alone
     "tied": {KEY: FIRST KEY…},            tied tensors: the container holds both, in full
     "order": [INDEX…],                    the model's keys, as indices into the sorted list of all of them; absent: sorted
     "parameters": [INDEX…], "requires_grad": [INDEX…],      into the same list
     "versions": {MODULE: {NAME: VALUE…}…}}                  ``_metadata``

Every entry but ``version`` is absent where it would be empty. ``dtype`` and ``shape`` of a component are given where the stored
tensor only carries its bytes: complex128 as float64 pairs (`torch.view_as_real`), qint8 as int8 (``int_repr()``), and so on. A
single tensor of such a dtype has the kind ``plain`` and the component ``data``.
"""

from __future__ import annotations

from formats.core.checkpoint import Ordered, StateDict
from formats.core.dtype import BY_NAME
from formats.core.errors import CorruptCheckpoint, Unsupported
from formats.core.plain_json import dumps, loads
from formats.core.tensor import AnyTensor, CompositeTensor, TensorView
from formats.core.ties import tied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, Literal

DESCRIPTION = "ckpt_convert.tensors"
REST = "ckpt_convert.rest"  # metadata key: the files beside the weights that hold the rest of the checkpoint
VERSION = 1

# dtype → (dtype whose elements carry its bytes, how many of them make one)
CARRIERS: dict[str, tuple[str, int]] = {
    "complex128": ("float64", 2), "complex64": ("float32", 2), "complex32": ("float16", 2),
    "qint8": ("int8", 1), "quint8": ("uint8", 1), "qint32": ("int32", 1), "quint4x2": ("uint8", 1), "quint2x4": ("uint8", 1),
    "uint16": ("int16", 1), "uint32": ("int32", 1), "uint64": ("int64", 1), "bfloat16": ("int16", 1), "bool": ("uint8", 1),
    "float8_e4m3fn": ("uint8", 1), "float8_e5m2": ("uint8", 1), "float8_e4m3fnuz": ("uint8", 1), "float8_e5m2fnuz": ("uint8", 1),
    "float8_e8m0fnu": ("uint8", 1), "float4_e2m1fn_x2": ("uint8", 1),
}  # fmt: skip


class Expanded:
    """A state dict as plain tensors that a container of ``dtypes`` can hold, and the description that gives the original back."""

    __slots__ = ("aliases", "composites", "description", "duplicates", "tensors", "unsaid")

    def __init__(self) -> None:
        self.tensors: dict[str, AnyTensor] = {}  # composites only where the container has them
        self.aliases: dict[str, str] = {}  # key → the one key that is stored for both
        self.duplicates: dict[str, str] = {}  # key → the first key with the same elements; both are stored
        self.composites: dict[str, dict[str, Any]] = {}
        self.description: str | None = None
        self.unsaid: list[str] = []  # entries of `_metadata` that JSON cannot hold


def expand(model: StateDict, dtypes: frozenset[str], *, ties: Literal["alias", "duplicate"] = "alias") -> Expanded:
    """``model`` spelled as plain tensors of ``dtypes``; of tied tensors only the first is kept (``alias``), or each (``duplicate``).

    Raises `Unsupported`, naming the tensor, where not even its bytes can be carried.
    """
    result = Expanded()
    if ties == "alias":
        result.aliases = tied(model.tensors)
    else:
        result.duplicates = tied(model.tensors)
    given = model.tensors
    if not result.aliases and all(type(tensor) is TensorView for tensor in given.values()):
        if {tensor.dtype.name for tensor in given.values()} <= dtypes:  # as most models are
            result.tensors = dict(given)
            given = {}
    for key, tensor in given.items():
        if key in result.aliases:
            continue
        if type(tensor) is TensorView and tensor.dtype.name in dtypes:
            result.tensors[key] = tensor
        else:
            _spell(key, tensor, dtypes, result, model.tensors)
    result.description = _describe(model, result)
    return result


def _spell(key: str, tensor: AnyTensor, dtypes: frozenset[str], result: Expanded, taken: Mapping[str, AnyTensor]) -> None:
    if isinstance(tensor, CompositeTensor):
        kind, components, attributes = tensor.kind, tensor.components, tensor.attributes
    else:
        kind, components, attributes = "plain", {"data": tensor}, {}
    spelled: dict[str, Any] = {}
    for name, component in components.items():
        # A subclass with nothing but its values stays under its own name, where any loader looks for it.
        own = kind == "subclass" and list(components) == ["data"] and component.dtype.name in dtypes
        stored = key if own else _free(f"{key}.{name}", taken, result.tensors)
        entry: dict[str, Any] = {"key": stored}
        if component.dtype.name not in dtypes:
            entry["dtype"] = component.dtype.name
            entry["shape"] = list(component.shape)
            component = _carried(key, component, dtypes)
        result.tensors[stored] = component
        spelled[name] = entry
    description: dict[str, Any] = {"kind": kind, "dtype": tensor.dtype.name, "shape": list(tensor.shape), "components": spelled}
    if attributes:
        if not _jsonable(attributes):
            raise Unsupported(f"tensor {key!r:.120} of kind {kind} carries values that JSON cannot hold")
        description["attributes"] = attributes
    result.composites[key] = description


def _free(wanted: str, *taken: Mapping[str, Any]) -> str:
    name, number = wanted, 0
    while any(name in names for names in taken):
        number += 1
        name = f"{wanted}~{number}"
    return name


def _carried(key: str, component: TensorView, dtypes: frozenset[str]) -> TensorView:
    """The same bytes, row-major, under a dtype that the container has."""
    name = component.dtype.name
    carrier, width = CARRIERS.get(name, ("", 0))
    if carrier not in dtypes:
        raise Unsupported(
            f"tensor {key!r:.120} has dtype {name}, and the target has neither it nor {carrier or 'a carrier for it'}"
        )
    sizes = (*component.shape, width) if width > 1 else component.shape
    return TensorView(BY_NAME[carrier], sizes, component.row_major())


def _describe(model: StateDict, result: Expanded) -> str | None:
    keys = sorted(model.tensors)
    place = dict(zip(keys, range(len(keys)), strict=True))
    said: dict[str, Any] = {"version": VERSION}
    if result.composites:
        said["composites"] = result.composites
    if result.aliases:
        said["aliases"] = result.aliases
    if result.duplicates:
        said["tied"] = result.duplicates
    if keys != list(model.tensors):
        said["order"] = list(map(place.__getitem__, model.tensors))
    if parameters := [place[key] for key, tensor in model.tensors.items() if tensor.parameter]:
        said["parameters"] = sorted(parameters)
    if wanting := [place[key] for key, tensor in model.tensors.items() if tensor.requires_grad]:
        said["requires_grad"] = sorted(wanting)
    versions: dict[str, Any] = {}
    for module, local in (model.versions or {}).items():
        if isinstance(module, str) and isinstance(local, dict) and _jsonable(local):
            versions[module] = local
        else:
            result.unsaid.append(str(module)[:120])
    if versions:
        said["versions"] = versions
    # Even with nothing else to say it says that the keys are sorted: containers have an order of their own.
    return None if len(said) == 1 and len(keys) < 2 else dumps(said)


def _jsonable(values: Mapping[Any, Any]) -> bool:
    """Whether every key is text and every value a scalar or a list of scalars, exactly as JSON gives them back."""
    scalars = (str, int, float, bool, type(None))
    for key, value in values.items():
        items = value if type(value) is list else (value,)
        if type(key) is not str or any(type(item) not in scalars for item in items):
            return False
        if any(type(item) is float and item - item != 0 for item in items):  # inf and nan are no JSON
            return False
    return True


def rebuild(stored: Mapping[str, TensorView], description: str) -> Ordered:
    """The state dict that `expand` was given, from the ``stored`` plain tensors; the result's ``attributes`` hold ``_metadata``.

    The description is as untrusted as the file. Raises `CorruptCheckpoint` where it does not fit the tensors, `Unsupported` for a
    version that is not known. An ``order`` that does not fit is ignored: other tools add and drop tensors and keep the metadata.
    """
    said = _parsed(description)
    tensors: dict[str, AnyTensor] = dict(stored)
    for key, entry in _entries(said, "composites"):
        assembled = _assembled(key, entry, stored)
        if key in stored and all(c["key"] != key for c in entry["components"].values()):
            raise CorruptCheckpoint(f"metadata {DESCRIPTION} describes {key!r:.120}, which is also a stored tensor")
        tensors[key] = assembled
    used = {c["key"] for key, entry in _entries(said, "composites") for c in entry["components"].values() if c["key"] != key}
    for name in used:
        tensors.pop(name, None)
    for key, kept in _entries(said, "aliases"):
        if key in tensors or not isinstance(kept, str) or kept not in tensors:
            raise CorruptCheckpoint(
                f"metadata {DESCRIPTION} ties {key!r:.120} to {kept!r:.120}, which does not fit the stored tensors"
            )
        tensors[key] = tensors[kept]
    keys = sorted(tensors)
    for name, attribute in (("parameters", "parameter"), ("requires_grad", "requires_grad")):
        for index in _indices(said, name, len(keys)):
            setattr(tensors[keys[index]], attribute, True)
    order = _indices(said, "order", len(keys))
    if len(order) == len(keys) and len(set(order)) == len(keys):
        keys = [keys[index] for index in order]
    ordered = Ordered((key, tensors[key]) for key in keys)
    versions = {module: local for module, local in _entries(said, "versions") if isinstance(local, dict)}
    if versions:
        ordered.attributes = {"_metadata": Ordered(versions)}
    return ordered


def recorded_ties(description: str) -> dict[str, str]:
    """{key: first key} of tensors that were tied and are all stored; for `formats.core.ties.retie`, once somebody needs them tied."""
    return {key: first for key, first in _entries(_parsed(description), "tied") if type(first) is str}


def _parsed(description: str) -> dict[str, Any]:
    try:
        said = loads(description)
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpoint(f"metadata {DESCRIPTION} is no JSON: {error}") from error
    if not isinstance(said, dict):
        raise CorruptCheckpoint(f"metadata {DESCRIPTION} is no JSON object")
    if said.get("version") != VERSION:
        raise Unsupported(f"metadata {DESCRIPTION} has version {said.get('version')!r:.40}, version {VERSION} is known")
    return said


def _entries(said: Mapping[str, Any], name: str) -> Iterable[tuple[str, Any]]:
    entries = said.get(name, {})
    if not isinstance(entries, dict):
        raise CorruptCheckpoint(f"{name} of metadata {DESCRIPTION} is no JSON object")
    return entries.items()


def _indices(said: Mapping[str, Any], name: str, size: int) -> list[int]:
    indices = said.get(name, [])
    if not isinstance(indices, list) or any(type(index) is not int for index in indices):
        raise CorruptCheckpoint(f"{name} of metadata {DESCRIPTION} is no list of indices")
    return indices if all(0 <= index < size for index in indices) else []


def _assembled(key: str, entry: Any, stored: Mapping[str, TensorView]) -> AnyTensor:
    def fail(what: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(f"metadata {DESCRIPTION}, tensor {key!r:.120}: {what}")

    if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str) or not isinstance(entry.get("components"), dict):
        raise fail("has no kind or no components")
    dtype = BY_NAME.get(entry["dtype"]) if isinstance(entry.get("dtype"), str) else None
    if dtype is None:
        raise fail(f"dtype {entry.get('dtype')!r:.40} is not known")
    components: dict[str, TensorView] = {}
    for name, component in entry["components"].items():
        if not isinstance(component, dict) or not isinstance(component.get("key"), str) or component["key"] not in stored:
            raise fail(f"component {name!r:.40} names no stored tensor")
        components[name] = _uncarried(stored[component["key"]], component, fail)
    sizes = _sizes(entry.get("shape"), fail)
    if entry["kind"] == "plain":
        if list(components) != ["data"] or components["data"].dtype is not dtype or components["data"].shape != sizes:
            raise fail("is plain, but its component is another tensor")
        return components["data"]
    attributes = entry.get("attributes", {})
    if not isinstance(attributes, dict) or not _jsonable(attributes):
        raise fail("its attributes are no scalars by name")
    return CompositeTensor(entry["kind"], dtype, sizes, components, attributes)


def _uncarried(stored: TensorView, component: Mapping[str, Any], fail: Callable[[str], CorruptCheckpoint]) -> TensorView:
    name = component.get("dtype")
    if name is None:
        return stored
    carrier, width = CARRIERS.get(name, ("", 0)) if isinstance(name, str) else ("", 0)
    sizes = _sizes(component.get("shape"), fail)
    carried = (*sizes, width) if width > 1 else sizes
    if stored.dtype.name != carrier or stored.shape != carried:
        raise fail(f"dtype {name!r:.40} and shape {list(sizes)} do not fit stored {stored.dtype.name} {list(stored.shape)}")
    return TensorView(BY_NAME[str(name)], sizes, stored.row_major())


def _sizes(sizes: Any, fail: Callable[[str], CorruptCheckpoint]) -> tuple[int, ...]:
    if not isinstance(sizes, list) or any(type(size) is not int or not 0 <= size < 1 << 63 for size in sizes) or len(sizes) > 64:
        raise fail("its shape is no list of counts")
    return tuple(sizes)
