"""Key lists folded for people: ``layer{1…4}.{0…2}.bn1.*`` for sixty keys. Exact: a fold stands for its keys and for no other.

``*`` ends a fold whose keys are all that the universe (every key of both sides) has below that place. Folds are products: each
position has one or several components, and every combination of them is a key.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from convert.text import shown

_NUMBERED = re.compile(r"(.*?)(0|[1-9][0-9]{0,8})([^0-9]*)", re.DOTALL)
DEPTH = 32  # dots of a key that are looked at; what follows is one component
MOST_NAMES = 5  # alternatives by name at one position; more read worse than several lines
# (text before, the number or None, text after) of a component, so that layer1 … layer4 fold
_Split = tuple[str, int | None, str]
_Box = tuple[frozenset[str], ...]


@dataclass(frozen=True, slots=True)
class Fold:
    """``positions``: the components that may stand at each place. ``below``: and whatever is under them. ``count``: keys in all."""

    positions: tuple[tuple[str, ...], ...]
    below: bool
    count: int

    @property
    def text(self) -> str:
        """The fold on one line, printable."""
        parts = [_alternatives(position) for position in self.positions]
        return shown(".".join([*parts, "*"] if self.below else parts), 240)

    def keys(self, universe: Iterable[str]) -> Iterator[str]:
        """The keys of ``universe`` that the fold stands for."""
        heads = {".".join(parts) for parts in product(*self.positions)}
        depth = len(self.positions)
        for key in universe:
            if (_above(key, depth) if self.below else key) in heads:
                yield key


def fold(keys: Collection[str], universe: Collection[str] | None = None) -> list[Fold]:
    """Folds that together stand for each of ``keys`` once and for nothing else of ``universe``, in the order of first appearance."""
    wanted = dict.fromkeys(keys)
    closed, counts = _closed(wanted, wanted if universe is None else universe)
    order = {item: at for at, item in enumerate(closed)}
    groups: dict[tuple[int, bool], list[tuple[str, ...]]] = {}
    for parts, below in closed:
        groups.setdefault((len(parts), below), []).append(parts)
    found: list[tuple[int, Fold]] = []
    for (length, below), members in groups.items():
        for box in _boxes(members, length):
            items = [(parts, below) for parts in product(*box)]
            place = min(order[item] for item in items)
            total = sum(counts[item] for item in items)
            found.append((place, Fold(tuple(tuple(_sorted(position)) for position in box), below, total)))
    return [one for _, one in sorted(found, key=lambda entry: entry[0])]


def folded(keys: Collection[str], universe: Collection[str] | None = None) -> list[str]:
    """The texts of `fold`, each with its count where it stands for several keys."""
    return [one.text if one.count == 1 else f"{one.text} ({one.count:,})" for one in fold(keys, universe)]


def _above(key: str, depth: int) -> str | None:
    """The first ``depth`` components of a key that has more."""
    parts = key.split(".", depth)
    return ".".join(parts[:depth]) if len(parts) > depth else None


def _closed(
    wanted: dict[str, None], universe: Collection[str]
) -> tuple[list[tuple[tuple[str, ...], bool]], dict[tuple[tuple[str, ...], bool], int]]:
    """Keys as components, those below a place that is wanted whole (and has two keys or more) replaced by that place."""
    every: dict[str, int] = {}
    ours: dict[str, int] = {}
    for key in {**wanted, **dict.fromkeys(universe)}:
        for place in _places(key):
            every[place] = every.get(place, 0) + 1
            if key in wanted:
                ours[place] = ours.get(place, 0) + 1
    counts: dict[tuple[tuple[str, ...], bool], int] = {}
    for key in wanted:
        whole = next((p for p in _places(key) if every[p] == ours[p] > 1), None)
        item = (tuple(key.split(".", DEPTH)), False) if whole is None else (tuple(whole.split(".")), True)
        counts[item] = counts.get(item, 0) + 1
    return list(counts), counts


def _places(key: str) -> Iterator[str]:
    """Every place above ``key``, the highest first: ``a``, ``a.b`` of ``a.b.c``."""
    at = -1
    for _ in range(DEPTH):
        at = key.find(".", at + 1)
        if at < 0:
            return
        yield key[:at]


def _boxes(members: list[tuple[str, ...]], length: int) -> list[_Box]:
    """Disjoint products that cover ``members``: boxes that differ at one position alone are merged, in the order that leaves fewest."""
    best: list[_Box] = []
    for positions in (range(length), range(length - 1, -1, -1)):
        boxes: list[_Box] = [tuple(frozenset((part,)) for part in parts) for parts in members]
        for _ in range(2):
            for position in positions:
                boxes = _merged(boxes, position)
        if not best or len(boxes) < len(best):
            best = boxes
    return best


def _merged(boxes: list[_Box], position: int) -> list[_Box]:
    groups: dict[tuple[_Box, object], list[frozenset[str]]] = {}
    for box in boxes:
        others = box[:position] + box[position + 1 :]
        groups.setdefault((others, _family(box[position])), []).append(box[position])
    merged: list[_Box] = []
    named: dict[_Box, list[frozenset[str]]] = {}
    for (others, family), alternatives in groups.items():
        union = frozenset().union(*alternatives)
        if family is None:
            named.setdefault(others, []).append(union)
        else:
            merged.append((*others[:position], union, *others[position:]))
    for others, unions in named.items():
        union = frozenset().union(*unions)
        parts = [union] if len(union) <= MOST_NAMES else _portions(union)
        merged.extend((*others[:position], part, *others[position:]) for part in parts)
    return merged


def _portions(names: frozenset[str]) -> list[frozenset[str]]:
    """``names`` in portions of at most `MOST_NAMES`."""
    ordered = sorted(names)
    return [frozenset(ordered[at : at + MOST_NAMES]) for at in range(0, len(ordered), MOST_NAMES)]


def _family(components: frozenset[str]) -> tuple[str, str] | None:
    """What numbered components have around their numbers; None where there are names without one."""
    found = {_split(component) for component in components}
    around = {(before, after) for before, number, after in found if number is not None}
    return around.pop() if len(around) == 1 and all(number is not None for _, number, _ in found) else None


def _split(component: str) -> _Split:
    match = _NUMBERED.fullmatch(component)
    if match is None or (match[1] and match[1][-1].isdecimal()):
        return component, None, ""
    return match[1], int(match[2]), match[3]


def _sorted(components: Collection[str]) -> list[str]:
    return sorted(components, key=lambda c: (_split(c)[0], _split(c)[1] or 0, c))


def _alternatives(components: tuple[str, ...]) -> str:
    if len(components) == 1:
        return components[0]
    family = _family(frozenset(components))
    if family is None:
        return "{" + ",".join(components) + "}"
    numbers = sorted(number for _, number, _ in map(_split, components) if number is not None)
    return f"{family[0]}{{{_ranges(numbers)}}}{family[1]}"


def _ranges(numbers: list[int]) -> str:
    """``0…2,5`` of 0, 1, 2, 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    parts = []
    for first, last in runs:
        parts.append(str(first) if first == last else f"{first},{last}" if last == first + 1 else f"{first}…{last}")
    return ",".join(parts)
