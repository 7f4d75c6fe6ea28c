"""A checkpoint's tree as JSON that a person can read, and back: exactly the same types, order, shared objects and numbers.

What JSON has is written as itself; the rest as an object with one key that begins with ``$``::

    {"$tuple": [...]}  {"$set": [...]}  {"$frozenset": [...]}       sequences that are no lists
    {"$dict": [[KEY, VALUE]...]}                                    a dict with keys that are no text (or begin with "$")
    {"$OrderedDict": {...} or [[KEY, VALUE]...], "attributes": {...}}     ``_metadata`` is such an attribute
    {"$float": "nan" | "inf" | "-inf"}  {"$complex": [RE, IM]}  {"$int": "HEX"}  {"$bytes": "BASE64"}  {"$latin1": TEXT}
    {"$tensor": {...}}  {"$storage": {...}}                         as the caller describes them
    {"$global": NAME}                                               a class or function that is only named
    {"$record": NAME or VALUE, "args", "kwargs", "state", "items", "entries"}    an object of a foreign class
    {"$id": N, "value": VALUE}  {"$ref": N}                         an object that is referred to again

Nothing named in it is ever looked up.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from typing import Any

from formats.core.checkpoint import Global, Latin1, Ordered, Record, children, walk
from formats.core.errors import CorruptCheckpoint, Unsupported
from formats.core.rebuild import TypedStorage
from formats.core.tensor import AnyTensor, CompositeTensor, TensorView

MAX_DEPTH = 150  # JSON readers recurse; a person reads less
_PLAIN_INT = 1 << 63

Describe = Callable[[Any], dict[str, Any]]
Find = Callable[[dict[str, Any]], Any]


def encode(tree: Any, describe: Describe) -> Any:
    """``tree`` as values that `json` writes; ``describe`` is asked for each tensor and bare storage.

    Raises `Unsupported`, naming the place, for nesting deeper than `MAX_DEPTH`.
    """
    return _Encoder(tree, describe).value(tree, 0, "")


class _Encoder:
    def __init__(self, tree: Any, describe: Describe) -> None:
        self.describe = describe
        self.shared = _shared(tree)
        self.ids: dict[int, int] = {}

    def value(self, node: Any, depth: int, path: str) -> Any:
        if node is None or node is True or node is False:
            return node
        kind = type(node)
        if kind is str:
            return node
        if kind in _SCALARS:
            return _SCALARS[kind](node)
        if kind is TensorView or kind is CompositeTensor:
            return {"$tensor": self.describe(node)}
        if kind is TypedStorage:
            return {"$storage": self.describe(node)}
        if kind is Global:
            return {"$global": node.text}
        if depth > MAX_DEPTH:
            raise Unsupported(f"{path[:80]!r} … is nested more than {MAX_DEPTH} deep, which JSON readers do not follow")
        if id(node) not in self.shared:
            return self._container(node, depth, path)
        if id(node) in self.ids:
            return {"$ref": self.ids[id(node)]}
        number = self.ids[id(node)] = len(self.ids)
        return {"$id": number, "value": self._container(node, depth, path)}

    def _container(self, node: Any, depth: int, path: str) -> Any:
        def inner(value: Any, key: Any) -> Any:
            return self.value(value, depth + 1, f"{path}.{key}"[:200])

        kind = type(node)
        if kind is dict or kind is Ordered:
            entries: Any
            if all(type(key) is str and key[:1] != "$" for key in node):
                entries = {key: inner(value, key) for key, value in node.items()}
            else:
                entries = [[inner(key, "key"), inner(value, key)] for key, value in node.items()]
            if kind is dict:
                return entries if isinstance(entries, dict) else {"$dict": entries}
            attributes = {"attributes": inner(node.attributes, "attributes")} if node.attributes else {}
            return {"$OrderedDict": entries, **attributes}
        if kind is list:
            return [inner(value, at) for at, value in enumerate(node)]
        if kind is tuple:
            return {"$tuple": [inner(value, at) for at, value in enumerate(node)]}
        if kind in (set, frozenset):
            members = sorted(node, key=lambda member: (type(member).__name__, repr(member)))
            return {f"${kind.__name__}": [inner(member, "member") for member in members]}
        if kind is Record:
            named = node.callable.text if type(node.callable) is Global else inner(node.callable, "callable")
            parts = {"$record": named}
            for name in ("args", "kwargs", "state", "items", "entries"):
                value = getattr(node, name)
                if value is not None and not (name == "args" and not value):
                    parts[name] = inner(value, name)
            return parts
        raise Unsupported(f"{path[:80]!r} is a {kind.__name__}, which has no form in JSON")


def _shared(tree: Any) -> set[int]:
    """Ids of the containers that stand in more than one place."""
    counts: dict[int, int] = {}
    for _, node in walk(tree):
        for _, child in children(node):
            if isinstance(child, (dict, list, set, Record)) or (type(child) is tuple and any(map(_nests, child))):
                counts[id(child)] = counts.get(id(child), 0) + 1
    counts[id(tree)] = counts.get(id(tree), 0) + 1
    return {identity for identity, count in counts.items() if count > 1}


def _nests(value: Any) -> bool:
    return isinstance(value, (dict, list, tuple, set, Record))


def _float(value: float) -> Any:
    return value if math.isfinite(value) else {"$float": repr(value)}


def _complex(value: complex) -> Any:
    return {"$complex": [_float(value.real), _float(value.imag)]}


_SCALARS: dict[type, Callable[[Any], Any]] = {
    int: lambda value: value if -_PLAIN_INT <= value < _PLAIN_INT else {"$int": hex(value)},
    float: _float,
    complex: _complex,
    bytes: lambda value: {"$bytes": base64.b64encode(value).decode("ascii")},
    bytearray: lambda value: {"$bytearray": base64.b64encode(value).decode("ascii")},
    Latin1: lambda value: {"$latin1": str(value)},
}


def decode(document: Any, find: Find) -> Any:
    """The tree that `encode` was given; ``find`` is asked for each tensor and storage by its description.

    The document is as untrusted as any input. Raises `CorruptCheckpoint` for what `encode` does not write.
    """
    return _Decoder(find).value(document, 0)


class _Decoder:
    def __init__(self, find: Find) -> None:
        self.find = find
        self.known: dict[int, Any] = {}

    def value(self, node: Any, depth: int, into: Any = None) -> Any:
        """The value of ``node``; where it is a mutable container, filled into ``into`` (it may refer to itself)."""
        if depth > 4 * MAX_DEPTH:
            raise CorruptCheckpoint(f"tree is nested more than {4 * MAX_DEPTH} deep")
        if isinstance(node, list):
            made = into if into is not None else []
            made.extend(self.value(item, depth + 1) for item in node)
            return made
        if not isinstance(node, dict):
            return node
        tag = next((key for key in node if key[:1] == "$"), None)
        if tag is None:
            made = into if into is not None else {}
            made.update((key, self.value(item, depth + 1)) for key, item in node.items())
            return made
        try:
            return self._tagged(tag, node[tag], node, depth, into)
        except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            raise CorruptCheckpoint(f"{tag} in the tree is malformed: {error!s:.100}") from error

    def _tagged(self, tag: str, value: Any, node: dict[str, Any], depth: int, into: Any) -> Any:
        if tag in _SCALAR_TAGS:
            return _SCALAR_TAGS[tag](value)
        if tag in ("$tensor", "$storage"):
            return self.find(value | {"storage_only": True} if tag == "$storage" else value)
        if tag == "$global":
            return Global(str(value))
        if tag == "$ref":
            return self.known[value]
        if tag == "$id":
            inner = node["value"]
            blank = _blank(inner)
            if blank is not None:  # registered before it is filled, since it may hold itself
                self.known[value] = blank
            self.known[value] = self.value(inner, depth + 1, blank)
            return self.known[value]
        if tag in ("$tuple", "$set", "$frozenset"):
            members = [self.value(item, depth + 1) for item in value]
            if tag == "$set" and into is not None:
                into.update(members)
                return into
            return {"$tuple": tuple, "$set": set, "$frozenset": frozenset}[tag](members)
        if tag in ("$dict", "$OrderedDict"):
            made: Any = into if into is not None else ({} if tag == "$dict" else Ordered())
            pairs = value.items() if isinstance(value, dict) else value
            for key, item in pairs:
                made[key if isinstance(key, str) else self.value(key, depth + 1)] = self.value(item, depth + 1)
            if node.get("attributes") is not None:
                made.attributes = self.value(node["attributes"], depth + 1)
            return made
        if tag == "$record":
            record = into if into is not None else Record(None)
            record.callable = Global(value) if isinstance(value, str) else self.value(value, depth + 1)
            record.args = self.value(node["args"], depth + 1) if "args" in node else ()
            for name in ("kwargs", "state", "items", "entries"):
                setattr(record, name, self.value(node[name], depth + 1) if name in node else None)
            return record
        raise CorruptCheckpoint(f"tree has the tag {tag!r:.40}, which is not known")


def _blank(node: Any) -> Any:
    """An empty container of the type that ``node`` describes; None for what cannot hold itself."""
    if isinstance(node, list):
        return []
    tag = next((key for key in node if key[:1] == "$"), None)
    made: dict[str | None, Callable[[], Any]] = {
        None: dict, "$dict": dict, "$OrderedDict": Ordered, "$set": set, "$record": lambda: Record(None)
    }  # fmt: skip
    return made[tag]() if tag in made else None


_SCALAR_TAGS: dict[str, Callable[[Any], Any]] = {
    "$float": float,
    "$int": lambda text: int(text[:4096], 16),
    "$complex": lambda parts: complex(*(float(p["$float"]) if isinstance(p, dict) else p for p in parts)),
    "$bytes": lambda text: base64.b64decode(text, validate=True),
    "$bytearray": lambda text: bytearray(base64.b64decode(text, validate=True)),
    "$latin1": Latin1,
}

__all__ = ["AnyTensor", "decode", "encode"]
