"""Places in a checkpoint that may be the model: whole modules, mappings of tensors, and mappings nested without dots.

What is an optimizer by its shape, or a scheduler, a loss, random state or settings by its name, never is one.
"""

from __future__ import annotations

from convert import packed_params
from convert.modules import module_fields, state_dict_of
from formats.core.checkpoint import Checkpoint, Ordered, Record, StateDict
from formats.core.errors import CorruptCheckpoint, LimitExceeded
from formats.core.record import record
from formats.core.tensor import AnyTensor, CompositeTensor, TensorView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

# Words, in lower case, that the name of a part has when it is not the model, and what such words begin with. Patterns would say the same;
# loading `re` and compiling them takes a quarter of the start of a conversion.
_OTHER = frozenset(
    [
        *(
            "opt",
            "opts",
            "scaler",
            "gradscaler",
            "amp",
            "apex",
            "rng",
            "random",
            "criterion",
            "callback",
            "callbacks",
            "loop",
            "loops",
        ),
        *("hparams", "arg", "args", "cfg", "settings", "history", "hist", "log", "logs", "stats", "loader", "sampler", "dataset"),
        "constants",
    ]
)
_OTHER_STEMS = ("optim", "sched", "loss", "metric", "meter", "hyper", "config")
_AVERAGED = frozenset(("ema", "average", "averaged", "avg", "swa", "shadow", "polyak"))
MAX_NAMES = 100_000_000  # characters of all names: as many as a safetensors header may have
MAX_CONTAINERS = 300_000  # visited for one state dict; containers shared many times over multiply
# What optimizers keep for each parameter (torch.optim, and apex and fairseq beside it).
_MOMENTS = frozenset(
    [
        *("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "acc_delta", "grad_avg"),
        *("sum", "prev", "eta", "mu", "ax", "exp_avg_diff", "neg_pre_grad", "step_size", "state1", "state2", "rms"),
        *("exp_avg_sq_row", "exp_avg_sq_col"),
    ]
)
_WEIGHTS = frozenset(("weight", "bias", "kernel", "w", "b", "running_mean", "running_var"))


BY_NAME = "tensors by name"


@record
class Candidate:
    """One place in the tree that may be the model: dotted ``path`` ("" is the root), size in tensors and bytes."""

    path: str
    kind: str  # "module" | "state dict" | "nested dicts" | "tensors"
    tensors: int
    nbytes: int
    why: str
    node: Any = None
    role: str = "model"  # or "ema"


def is_tensor(node: Any) -> bool:
    return type(node) is TensorView or type(node) is CompositeTensor


def is_container(node: Any) -> bool:
    return isinstance(node, (dict, list, tuple)) or type(node) is Record


def entries(node: Any) -> Iterator[tuple[Any, Any]]:
    """What a container holds under names: items of a mapping, a sequence or a record's fields."""
    if isinstance(node, dict):
        yield from node.items()
    elif isinstance(node, (list, tuple)):
        yield from enumerate(node)
    elif type(node) is Record and node.name in packed_params.SCRIPT_OBJECTS:
        yield from packed_params.parts(node)
    elif type(node) is Record:
        yield from node.fields.items()
        yield from (node.entries or {}).items()
        if node.items:
            yield from enumerate(node.items)


def is_flat(node: Any) -> bool:
    """Whether a mapping is nothing but plain tensors under texts, as most state dicts are: 100,000 of them are told in no time."""
    return isinstance(node, dict) and set(map(type, node.values())) == {TensorView} and set(map(type, node)) == {str}


def _containers(tree: Any, by_name: bool) -> list[tuple[str, Any, Any]]:
    """(path, last key, node) of every container, parents first, each object once, not below modules and what is no model."""
    found: list[tuple[str, Any, Any]] = []
    seen: set[int] = set()
    stack: list[tuple[str, Any, Any]] = [("", None, tree)]
    while stack:
        path, key, node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        found.append((path, key, node))
        if is_flat(node):
            continue
        if _skipped(key if by_name else None, node) or module_fields(node) is not None:
            continue
        below = [(join(path, key), key, child) for key, child in entries(node) if is_container(child)]
        stack.extend(reversed(below))
    return found


def join(path: str, key: Any) -> str:
    # Very deep trees have very long paths; nobody can name such a place, so it is not worth its square in memory.
    if isinstance(key, bytes):
        key = key.decode("latin-1")
    return (f"{path}.{key}" if path else str(key)) if len(path) < 2000 and isinstance(key, (str, int)) else path


def _words(name: str, *between: str) -> list[str]:
    for separator in between:
        name = name.replace(separator, "_")
    return name.split("_")


def is_other(name: str) -> bool:
    """Whether ``name``, in lower case, is that of something that is no model: optimizer, loss, settings …"""
    return name == "lr" or any(
        word in _OTHER or (word.startswith(_OTHER_STEMS) and word.isalnum()) for word in _words(name, "-", "/", " ")
    )


def is_average(path: str) -> bool:
    """Whether ``path``, in lower case, is that of an average of the model's weights over time."""
    return any(word in _AVERAGED or (word.startswith("ema") and word[3:].isdecimal()) for word in _words(path, "-", ".", " "))


def is_weight(name: str) -> bool:
    """Whether ``name`` is what parameters are called in a model of one layer."""
    if name.rstrip("0123456789") in _WEIGHTS:
        return True
    begins = name.startswith("embedding") or (name.startswith(("weight_", "weights_", "bias_")) and name.partition("_")[2] != "")
    return begins and name.replace("_", "").isalnum()


def _skipped(key: Any, node: Any) -> bool:
    return (isinstance(key, str) and is_other(key.lower())) or is_optimizer(node)


def is_optimizer(node: Any) -> bool:
    names: Any = node if isinstance(node, dict) else node.fields if type(node) is Record else ()
    if "param_groups" in names:
        return True
    return isinstance(node, dict) and bool(node) and _MOMENTS.issuperset(node)


def candidates(checkpoint: Checkpoint) -> list[Candidate]:
    """Every place that may be the model, in file order."""
    tree = checkpoint.tree
    if is_tensor(tree):
        return [Candidate("", "tensors", 1, tree.nbytes, "the file holds one tensor", tree)]
    best = _search(tree, by_name=True)
    if not best:
        # Perhaps the model stands under a name that is usually something else (a perceptual loss is a model, too).
        best = _search(tree, by_name=False)
    if not best or _only_bare(best):
        everything = _fallback(tree)
        if len(best) != 1 or (everything and everything[0].tensors > best[0].tensors):
            best = everything or best
    for candidate in best:
        if is_average(candidate.path.lower()):
            candidate.role = "ema"
    return best


def _search(tree: Any, *, by_name: bool) -> list[Candidate]:
    results: dict[int, list[Candidate]] = {}
    for path, key, node in reversed(_containers(tree, by_name)):
        results[id(node)] = [] if _skipped(key if by_name else None, node) else _judge(path, node, results)
    found = results[id(tree)]
    return [c for c in found if c.why != BY_NAME] or found


def _only_bare(found: list[Candidate]) -> bool:
    """Whether small mappings inside sequences are all there is: parts of one thing, not models."""
    return all(
        c.kind != "module" and not _is_state_dict(c.node) and not any(isinstance(k, str) and "." in k for k, _ in entries(c.node))
        and any(part.isdecimal() for part in c.path.split("."))
        for c in found
    )  # fmt: skip


def _is_state_dict(node: Any) -> bool:
    """Whether the mapping is what `state_dict()` returned: it says so by its ``_metadata``."""
    return type(node) is Ordered and "_metadata" in (node.attributes or ())


def _judge(path: str, node: Any, results: dict[int, list[Candidate]]) -> list[Candidate]:
    """Candidates at and below ``node``, whose children have been judged."""
    if module_fields(node) is not None:
        held = state_dict_of(node).tensors
        if not held:
            return []
        return [
            Candidate(path, "module", len(held), sum(t.nbytes for t in held.values()), f"whole model of class {node.name}", node)
        ]
    direct = nbytes = weighty = 0
    below: list[Candidate] = []
    taken: set[int] = set()
    if is_flat(node):
        weighty = any("." in name or is_weight(name) for name in node)
        why = "state dict" if weighty or _is_state_dict(node) else BY_NAME
        return [Candidate(path, "state dict", len(node), sum([tensor.nbytes for tensor in node.values()]), why, node)]
    for name, child in entries(node):
        if type(child) is TensorView or type(child) is CompositeTensor:
            direct += 1
            nbytes += child.nbytes
            weighty += isinstance(name, str) and ("." in name or is_weight(name))
        elif id(child) in results and id(child) not in taken:
            taken.add(id(child))
            below.extend(results[id(child)])
    if isinstance(node, (list, tuple)) or (type(node) is Record and not node.entries):
        return below
    if not direct:
        return _merge_nested(path, node, below)
    larger = any(c.kind == "module" or _is_state_dict(c.node) or (c.tensors >= direct and c.why != BY_NAME) for c in below)
    if larger and not _named_twice(path, node, below):
        return below  # tensors beside a model are not part of it
    if any(packed_params.packed(name, child) for name, child in entries(node)):
        held = flatten(node).tensors
        tensors, nbytes = len(held), sum(tensor.nbytes for tensor in held.values())
    else:
        tensors = direct + sum(c.tensors for c in below)
        nbytes += sum(c.nbytes for c in below)
    why = "state dict" if weighty or _is_state_dict(node) else BY_NAME
    return [Candidate(path, "nested dicts" if below else "state dict", tensors, nbytes, why, node)]


def _named_twice(path: str, node: Any, below: list[Candidate]) -> bool:
    """Whether ``a.b`` stands beside a → b: neither is a stray tensor beside the other, and `flatten` refuses them, naming both."""
    heads = {c.path[len(path) + 1 if path else 0 :]: c.node for c in below if c.kind != "module"}
    names: dict[str, set[str]] = {}
    for key, child in entries(node):
        if isinstance(key, str) and is_tensor(child):
            for at, character in enumerate(key):
                if character == "." and key[:at] in heads:
                    names.setdefault(key[:at], set()).add(key[at + 1 :])
    return any(not flatten(heads[head]).tensors.keys().isdisjoint(found) for head, found in names.items())


def _merge_nested(path: str, node: Any, below: list[Candidate]) -> list[Candidate]:
    """Mappings of bare names (``weight``, ``kernel``) under one mapping are the layers of one model, not so many models."""
    if len(below) < 2 or not isinstance(node, dict):
        return below
    for candidate in below:
        if candidate.kind == "module" or _is_state_dict(candidate.node):
            return below
        if candidate.kind != "nested dicts" and any(isinstance(k, str) and "." in k for k, _ in entries(candidate.node)):
            return below
        if candidate.tensors > 8 and candidate.kind != "nested dicts":
            return below
    tensors, nbytes = sum(c.tensors for c in below), sum(c.nbytes for c in below)
    return [Candidate(path, "nested dicts", tensors, nbytes, "mappings of bare names, one a layer", node)]


def _fallback(tree: Any) -> list[Candidate]:
    """All tensors there are, as one candidate, where nothing looks like a model: lists of parameters, for one."""
    if is_optimizer(tree):
        return []
    try:
        tensors = flatten(tree).tensors
    except CorruptCheckpoint:
        return []
    if not tensors:
        return []
    return [Candidate("", "tensors", len(tensors), sum(t.nbytes for t in tensors.values()), "tensors in sequences", tree)]


def flatten(tree: Any) -> StateDict:
    """Every tensor below ``tree`` under its dotted path, in file order. Raises where two places give one name."""
    if is_tensor(tree):
        return StateDict({"tensor": tree})
    if is_flat(tree):
        return StateDict(dict(tree), _versions(tree))
    tensors: dict[str, AnyTensor] = {}
    origin: dict[str, Any] = {}
    above: set[int] = set()
    # Joined for tensors alone: names of containers, each within the next, would cost the square of their depth.
    parts: list[str] = []
    stack: list[tuple[Any, Any, int | None]] = [("", tree, None)]  # (key, node, how many parts stay when it is left)
    visits = characters = 0
    while stack:
        key, node, stay = stack.pop()
        if stay is not None:
            above.discard(id(node))
            del parts[stay:]
        elif type(node) is TensorView or type(node) is CompositeTensor:
            name = ".".join((*parts, _key(key)))
            if name in tensors:
                raise CorruptCheckpoint(f"two tensors get the name {name!r:.80}: keys {origin[name]!r:.60} and {key!r:.60}")
            characters += len(name)
            if characters > MAX_NAMES:
                raise LimitExceeded(f"tensors with names of more than {MAX_NAMES} characters in all")
            tensors[name] = node
            origin[name] = key
        elif id(node) in above:
            raise CorruptCheckpoint(f"container {'.'.join((*parts, _key(key)))!r:.80} holds itself")
        elif node is tree or not _skipped(key, node):
            visits += 1
            if visits > MAX_CONTAINERS:
                raise LimitExceeded(f"more than {MAX_CONTAINERS} nested containers under one model")
            above.add(id(node))
            stack.append((key, node, len(parts)))
            part = _key(key)
            if parts or part:  # no dot before the first name
                parts.append(part)
            below = [(k, child, None) for k, child in entries(node) if is_tensor(child) or is_container(child)]
            stack.extend(reversed(below))
    return StateDict(tensors, _versions(tree))


def _versions(tree: Any) -> dict[Any, Any] | None:
    versions = tree.attributes.get("_metadata") if type(tree) is Ordered and tree.attributes else None
    return versions if isinstance(versions, dict) else None


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, bytes):
        try:
            return key.decode("utf-8")
        except UnicodeDecodeError:
            return key.decode("latin-1")
    if isinstance(key, (bool, int, type(None))):
        return str(key) if not isinstance(key, int) or key.bit_length() < 4096 else hex(key)
    raise CorruptCheckpoint(f"tensor under key {key!r:.80} of type {type(key).__name__}, which is no name")
