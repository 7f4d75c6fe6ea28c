"""Which class of architectures a state dict belongs to: candidates from the index, then an exact comparison with each.

The score of a class under a prefix is F1(model coverage, subtree coverage) × (0.7 + 0.3 × share of the file under the prefix). Model
coverage: the share of the class's entries, head aside, that the file has with the right shape. Subtree coverage: the share of the
keys under the prefix that the class explains.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import isqrt, log, prod

from convert.signatures.table import Signature, Table
from convert.signatures.tokens import Shape, derived, key_hash, roots, shape_hashes

CANDIDATES = 28  # classes compared exactly, at most
MARGIN = 0.2  # an estimated score lies this near to the exact one (3 standard deviations of a sketch of 40)
RENAMED_BELOW = 0.5  # a best score under this sends the search on to shapes alone
_POSITION = re.compile(r"(^|[._])(pos(ition(al)?)?_?emb(ed(ding)?s?)?|positional_embedding|pos_embed_\w+)(\.|$)")


@dataclass(slots=True)
class Comparison:
    """One class against the part of a file under ``prefix``. Keys are the model's, without the prefix.

    ``coverage`` is the smaller of model and subtree coverage; a shape that the ``arguments`` num_classes and in_chans explain counts as
    covered, and in ``resized_coverage`` one that another input size explains. ``elsewhere`` counts keys outside the prefix.
    """

    signature: Signature
    prefix: str
    score: float = 0.0
    coverage: float = 0.0
    resized_coverage: float = 0.0
    elsewhere: int = 0
    same: int = 0
    heads: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: list[tuple[str, Shape, Shape]] = field(default_factory=list)  # key, shape in the file, shape in the model
    explained: list[str] = field(default_factory=list)  # of reshaped: what in_chans accounts for
    resized: list[str] = field(default_factory=list)  # of reshaped: position embeddings for another input size
    arguments: dict[str, int] = field(default_factory=dict)
    distance: float = 0.0  # of resized positions: |log(positions in the file / in the model)|
    by_shape: bool = False  # keys were not compared
    rename: dict[str, str] | None = None  # {key in the file: key in the model} by order, where only the shapes agree

    @property
    def differing(self) -> int:
        """How many keys are missing, unexpected, or of another shape that no argument explains (by shape: entries without a match)."""
        if self.by_shape:
            return len(self.signature.entries) - self.same - self.heads
        return len(self.missing) + len(self.unexpected) + len(self.reshaped) - len(self.explained)


def search(table: Table, shapes: Mapping[str, Shape]) -> list[Comparison]:
    """Comparisons with the classes that come into question, best first; at most `CANDIDATES` of them. ``shapes``: key → shape."""
    own = {key: shape for key, shape in shapes.items() if not derived(key)}
    if not own:
        return []
    found = _by_names(table, own)
    if not found or found[0].score < RENAMED_BELOW:
        found = sorted([*found, *_by_shapes(table, own)], key=_order)
    return found


def _order(found: Comparison) -> tuple[float, int, bool, float, int, int, int]:
    inexact = found.by_shape and found.rename is None
    return (
        -round(found.score, 9),
        len(found.prefix),
        inexact,
        found.distance,
        -found.heads,
        found.differing,
        found.signature.number,
    )


def _by_names(table: Table, own: Mapping[str, Shape]) -> list[Comparison]:
    estimated: list[tuple[float, str, int]] = []
    subtrees: dict[str, dict[str, Shape]] = {}
    for prefix in roots(list(own)):
        subtree = {key[len(prefix) :]: shape for key, shape in own.items() if key.startswith(prefix)} if prefix else dict(own)
        subtrees[prefix] = subtree
        hits = table.names.count({key_hash(key, shape) for key, shape in subtree.items()})
        for number, count in hits.items():
            coverage = count / table.name_sketch[number]
            estimated.append((_estimate(coverage, table.sizes[number], len(subtree), len(own)), prefix, number))
    estimated.sort(key=lambda row: (-row[0], len(row[1]), row[2]))
    found: list[Comparison] = []
    for estimate, prefix, number in _distinct(estimated):
        if found and estimate < max(comparison.score for comparison in found) - MARGIN:
            break  # a class that far below is not worth inflating its block
        found.append(compare(table.signature(number), subtrees[prefix], prefix, len(own)))
    return sorted(found, key=_order)


def _estimate(coverage: float, entries: int, subtree: int, total: int) -> float:
    explained = min(1.0, coverage * entries / subtree)
    return _score(coverage, explained, subtree / total)


def _score(model: float, subtree: float, share: float) -> float:
    return 0.0 if model + subtree == 0 else 2 * model * subtree / (model + subtree) * (0.7 + 0.3 * share)


def _distinct(estimated: list[tuple[float, str, int]]) -> list[tuple[float, str, int]]:
    """The best few, each class once."""
    kept: dict[int, tuple[float, str, int]] = {}
    for row in estimated:
        if len(kept) == CANDIDATES:
            break
        kept.setdefault(row[2], row)
    return list(kept.values())


def compare(signature: Signature, subtree: Mapping[str, Shape], prefix: str = "", total: int | None = None) -> Comparison:
    """``signature`` against ``subtree``, {key without prefix: shape}; ``total`` counts all keys of the file."""
    result = Comparison(signature, prefix)
    body = 0
    classes: Counter[int] = Counter()
    for key, shape in signature.entries.items():
        held = subtree.get(key)
        if key in signature.head:
            if held is not None:
                result.heads += 1
                if held and shape and len(held) == len(shape) and held[1:] == shape[1:]:
                    classes[held[0]] += 1
            continue
        body += 1
        if held == shape:
            result.same += 1
        elif held is None:
            result.missing.append(key)
        else:
            result.reshaped.append((key, held, shape))
    result.unexpected = [key for key in subtree if key not in signature.entries]
    _explain(result)
    if classes:
        result.arguments["num_classes"] = classes.most_common(1)[0][0]
    total = total or len(subtree) or 1
    result.elsewhere = total - len(subtree)

    def coverages(covered: float) -> tuple[float, float]:
        return covered / body if body else 0.0, (covered + result.heads) / len(subtree) if subtree else 0.0

    certain = result.same + len(result.explained)
    result.coverage = min(coverages(certain))
    result.resized_coverage = min(coverages(certain + len(result.resized)))
    # A reshaped entry is explained, but an equal one is better evidence.
    softened = result.same + 0.7 * (len(result.explained) + len(result.resized))
    result.score = _score(coverages(softened)[0], coverages(certain + len(result.resized))[1], len(subtree) / total)
    return result


def _explain(result: Comparison) -> None:
    """Shapes that follow from a constructor argument: input channels of the first convolution, position embeddings of another size."""
    for key, held, shape in result.reshaped:
        if len(held) != len(shape):
            continue
        # Only convolutions that see the image have 3 input channels; there may be several, all with the file's number.
        if len(held) == 4 and shape[1] == 3 and held[:1] + held[2:] == shape[:1] + shape[2:]:
            if result.arguments.setdefault("in_chans", held[1]) == held[1]:
                result.explained.append(key)
        elif _POSITION.search(key) and any(one == other >= 16 for one, other in zip(held, shape, strict=True)):
            result.resized.append(key)
            result.distance = max(result.distance, abs(log(max(prod(held), 1) / max(prod(shape), 1))))
        elif "relative_position_bias_table" in key and len(held) == 2 and held[1] == shape[1] and _window(held[0]):
            result.resized.append(key)
            result.distance = max(result.distance, abs(log(held[0] / shape[0])))
            result.arguments.setdefault("window_size", _window(held[0]))


def _window(rows: int) -> int:
    """w of a table of (2w − 1)² relative positions, 0 where ``rows`` is no such number."""
    root = isqrt(rows)
    return (root + 1) // 2 if root * root == rows and root % 2 else 0


def _by_shapes(table: Table, own: Mapping[str, Shape]) -> list[Comparison]:
    """Classes whose shapes agree whatever the keys are called, with the renaming that order and shape propose."""
    estimated: list[tuple[float, str, int]] = []
    subtrees: dict[str, dict[str, Shape]] = {}
    for prefix in roots(list(own)):
        subtree = {key: shape for key, shape in own.items() if key.startswith(prefix)}
        subtrees[prefix] = subtree
        for number, count in table.shapes.count(set(shape_hashes(subtree.values()))).items():
            coverage = count / table.shape_sketch[number]
            estimated.append((_estimate(coverage, table.sizes[number], len(subtree), len(own)), prefix, number))
    estimated.sort(key=lambda row: (-row[0], len(row[1]), row[2]))
    found: list[Comparison] = []
    for estimate, prefix, number in _distinct(estimated):
        if found and estimate < max(comparison.score for comparison in found) - MARGIN:
            break
        found.append(_by_shape(table.signature(number), subtrees[prefix], prefix, len(own)))
    return found


def _by_shape(signature: Signature, subtree: Mapping[str, Shape], prefix: str, total: int) -> Comparison:
    result = Comparison(signature, prefix, by_shape=True, elsewhere=total - len(subtree))
    held = list(subtree.values())
    wanted = signature.shapes()
    same = (Counter(held) & Counter(wanted)).total()
    heads = {(shape[1:], len(shape)) for key, shape in signature.entries.items() if key in signature.head}
    spare = [shape for shape in (Counter(held) - Counter(wanted)).elements() if (shape[1:], len(shape)) in heads]
    result.heads = min(len(spare), len(signature.head))
    result.same = same
    model, inside = same / len(wanted) if wanted else 0.0, (same + result.heads) / len(held)
    result.coverage = result.resized_coverage = min(model, inside)
    # The order of the shapes tells networks of equal multisets apart; it weighs little, because some containers sort their keys.
    pairs, known = Counter(pairwise(held)), Counter(pairwise(wanted))
    ordered = (pairs & known).total() / max(1, known.total())
    result.score = _score(model, inside, len(subtree) / total) * (0.85 + 0.1 * ordered)
    result.rename = _renaming(signature, subtree)
    return result


def _renaming(signature: Signature, subtree: Mapping[str, Shape]) -> dict[str, str] | None:
    """File key → model key by order, if every shape agrees in order (the head's by rank and width)."""
    heads = signature.head
    for entries in (list(signature.entries.items()), [item for item in signature.entries.items() if item[0] not in heads]):
        if len(entries) != len(subtree):
            continue
        pairs = list(zip(subtree.items(), entries, strict=True))
        if all(held == shape or (key in heads and held[1:] == shape[1:]) for (_, held), (key, shape) in pairs):
            return {mine: key for (mine, _), (key, _) in pairs}
    return None
