"""A checkpoint as data: a tree of dicts, lists, tuples, scalars, tensors and inert records, in file order.

Walking never recurses and goes by identity, because a file may nest 100,000 deep or hold itself.
"""

from __future__ import annotations

from formats.core.files import SourceFile
from formats.core.record import made, record
from formats.core.tensor import CompositeTensor, TensorView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any
else:
    Any = object


class Latin1(str):
    """Text from Python 2 bytes that are no UTF-8: decoded as latin-1, so that ``encode('latin-1')`` gives the bytes back."""

    __slots__ = ()


class Global:
    """A name that the file refers to, ``module.name``; it is never looked up. Equal names in one file are one object."""

    __slots__ = ("source", "text")

    def __init__(self, text: str, source: str | None = None) -> None:
        self.text = text
        self.source = source  # the class's own Python text, which torch < 1.6 put beside whole models

    def __repr__(self) -> str:
        return f"<{self.text}>"


class Record:
    """An object that the file describes: what would have been called, with what, and the state it would have been given.

    ``callable`` is usually a `Global`; ``args`` the call's arguments; ``state`` what BUILD carried; ``items`` and ``entries`` what
    was appended or set by key. Nothing of it is ever called.
    """

    __slots__ = ("args", "callable", "entries", "items", "kwargs", "state")

    def __init__(self, callable_: Any, args: tuple[Any, ...] = (), kwargs: dict[Any, Any] | None = None) -> None:
        self.callable = callable_
        self.args = args
        self.kwargs = kwargs
        self.state: Any = None
        self.items: list[Any] | None = None
        self.entries: dict[Any, Any] | None = None

    @property
    def name(self) -> str:
        """Dotted name of the class or function, ``module.name``."""
        return self.callable.text if isinstance(self.callable, Global) else type(self.callable).__name__

    @property
    def fields(self) -> dict[Any, Any]:
        """The attributes that the object would have had (empty where its state is no dict)."""
        state = self.state
        if isinstance(state, tuple) and len(state) == 2:  # (dict, slots)
            merged: dict[Any, Any] = {}
            for part in state:
                if isinstance(part, dict):
                    merged.update(part)
            return merged
        return state if isinstance(state, dict) else {}

    def __repr__(self) -> str:
        return f"Record({self.name})"


class Ordered(dict[Any, Any]):
    """`collections.OrderedDict` with the attributes that BUILD gave it (``_metadata`` of a state dict)."""

    __slots__ = ("attributes",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.attributes: dict[Any, Any] | None = None

    __hash__ = object.__hash__  # type: ignore[assignment]


Tree = Any  # dict | Ordered | list | tuple | set | frozenset | scalar | TensorView | CompositeTensor | Global | Record


def children(node: Tree) -> Iterator[tuple[Any, Tree]]:
    """(key, value) pairs one level below ``node``; a record's parts come under its field names."""
    if isinstance(node, dict):
        yield from node.items()
        if type(node) is Ordered and node.attributes:
            yield from node.attributes.items()
    elif isinstance(node, (list, tuple)):
        yield from enumerate(node)
    elif isinstance(node, (set, frozenset)):
        yield from enumerate(node)
    elif type(node) is Record:
        if node.args:
            yield "args", node.args
        if node.kwargs:
            yield "kwargs", node.kwargs
        if node.state is not None:
            yield "state", node.state
        if node.items:
            yield "items", node.items
        if node.entries:
            yield "entries", node.entries
        if not isinstance(node.callable, Global):
            yield "callable", node.callable


_LEAVES = (str, int, float, bool, bytes, type(None))


def walk(tree: Tree) -> Iterator[tuple[tuple[Any, ...], Tree]]:
    """Every distinct container, tensor and record with the path of keys to it, in file order, each object once."""
    seen: set[int] = set()
    root: tuple[Any, ...] = ()
    stack: list[tuple[tuple[Any, ...], Any]] = [(root, tree)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, _LEAVES):
            continue
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield path, node
        if isinstance(node, (TensorView, CompositeTensor, Global)):
            continue
        # A path in a very deep tree would cost its square: below this depth only the head of the path is kept.
        below = [((*path, key) if len(path) < 64 else path, child) for key, child in children(node)]
        stack.extend(reversed(below))


@record
class Checkpoint:
    """What a reader found: ``tree`` as the file has it, and what else the file says about itself."""

    path: Path
    format: str
    tree: Tree
    globals: dict[str, int] = made(factory=dict)  # name → times used as a callable (0: only named)
    metadata: dict[str, Any] = made(factory=dict)
    notes: list[str] = made(factory=list)
    files: list[SourceFile] = made(factory=list)

    def tensors(self) -> Iterator[tuple[tuple[Any, ...], TensorView | CompositeTensor]]:
        """Every tensor of the tree with its path of keys, whatever it is for; each object once."""
        for path, node in walk(self.tree):
            if isinstance(node, (TensorView, CompositeTensor)):
                yield path, node

    def close(self) -> None:
        for file in self.files:
            file.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@record
class StateDict:
    """The canonical state dict: tensors by key, in the model's order, and the ``_metadata`` that `state_dict()` attaches."""

    tensors: dict[str, TensorView | CompositeTensor]
    versions: dict[Any, Any] | None = None


@record
class Content:
    """What a writer is given: the model, what else travels, and text metadata for containers that have a place for it.

    ``tree`` is the whole checkpoint where it is to be written as it was, the model at its own place; ``extras`` is empty then.
    """

    model: StateDict
    extras: dict[Any, Any] = made(factory=dict)
    metadata: dict[str, str] = made(factory=dict)
    tree: Tree = None
