"""What a file holds beside the model: the same tree with the model taken out, and which parts of it are plain data."""

from __future__ import annotations

from formats.core.checkpoint import Global, Ordered, Record, walk
from formats.core.tensor import CompositeTensor, TensorView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PLAIN = (dict, Ordered, list, tuple, TensorView, CompositeTensor)


def beside(tree: Any, model: Any, taken: set[int]) -> dict[Any, Any]:
    """The entries of ``tree`` without the node ``model``, and without any whose tensors are among ``taken`` (ids); {} where it is no dict.

    Dicts on the way to the model are copied, never changed; one that holds nothing else is left out.
    """
    if not isinstance(tree, dict):
        return {}
    if tree is model:
        return {key: value for key, value in tree.items() if not any(id(node) in taken for _, node in walk(value))}
    path = _path(tree, model)
    if not path:
        return {}
    rest: Any = None
    for at in range(len(path) - 1, -1, -1):
        node = tree
        for key in path[:at]:
            node = node[key]
        copy = {key: rest if key == path[at] else value for key, value in node.items()}
        if not rest:
            del copy[path[at]]
        rest = copy
    return dict(rest)


def _path(tree: Any, wanted: Any) -> tuple[Any, ...]:
    """Keys that lead from the root through dicts alone to the node ``wanted``; () where none do."""
    seen: set[int] = set()
    queue: list[tuple[tuple[Any, ...], Any]] = [((), tree)]
    for path, node in queue:
        if id(node) in seen or len(path) > 16:
            continue
        seen.add(id(node))
        for key, child in node.items():
            if child is wanted:
                return (*path, key)
            if isinstance(child, dict):
                queue.append(((*path, key), child))
    return ()


def foreign(value: Any) -> str | None:
    """Name of the first thing inside ``value`` that is no plain data, or None: only its own class could make it again."""
    for _, node in walk(value):
        if isinstance(node, Record):
            return node.name
        if isinstance(node, Global):
            return node.text
        if type(node) not in _PLAIN:
            return type(node).__name__
        if isinstance(node, dict):
            for key in node:
                if not _plain_key(key):
                    return key.text if isinstance(key, Global) else type(key).__name__
    return None


def _plain_key(key: Any) -> bool:
    parts = key if type(key) is tuple else (key,)
    return all(isinstance(part, (str, int, float, bytes, type(None))) for part in parts)
