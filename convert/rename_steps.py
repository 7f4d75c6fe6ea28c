"""Single steps of the search for renames: which ones pairs of keys suggest, and the rules that carry one out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any

from convert.expectation import Shape
from convert.rule_text import escaped
from convert.rules import Prefix, Rename, Rule

HEAD_RUN, INNER_RUN = 4, 2  # components that a rule may replace at the beginning and inside of keys
CROWD = 200  # targets that differ from one key at one place: beyond this the place says nothing
DIGITS = re.compile(r"\d+")

# (kind, old, new). head: at the beginning; part: anywhere; number: anywhere, # stands for any number, the same on both sides;
# shift: at the beginning, # stands for a number that grows by what follows the colon in ``new``.
Step = tuple[str, str, str]


KINDS = ("head", "number", "part", "shift")


def votes(left: list[tuple[str, Shape]], wanted: list[tuple[str, Shape]]) -> Counter[Step]:
    """How many pairs of equal shape each step would turn into one another."""
    places: dict[tuple[Any, ...], list[tuple[str, Shape]]] = {}
    numbered: dict[tuple[Any, ...], list[tuple[str, Shape]]] = {}
    for name, shape in wanted:
        for _, place, run in _runs(name):
            places.setdefault(place, []).append((run, shape))
            numbers = tuple(DIGITS.findall(run))
            if numbers:
                numbered.setdefault((place, numbers), []).append((run, shape))
    found: Counter[Step] = Counter()
    for name, shape in left:
        said: set[Step] = set()
        for at, place, run in _runs(name):
            others = places.get(place, ())
            if len(others) > CROWD:  # hundreds of blocks: those of the same number still say something
                others = numbered.get((place, tuple(DIGITS.findall(run))), ())
                if len(others) > CROWD:
                    continue
            for other, there in others:
                if other != run and shape == there:
                    said.update(_steps(at, run, other))
        found.update(said)
    return found


@lru_cache(maxsize=1 << 14)
def _runs(name: str) -> list[tuple[int, tuple[Any, ...], str]]:
    """(place, what is around, run) for every short run of components; what is around names the place."""
    parts = name.split(".", 32)
    found: list[tuple[int, tuple[Any, ...], str]] = []
    for at in range(len(parts)):
        for length in range(min((HEAD_RUN if at == 0 else INNER_RUN), len(parts) - at) + 1):
            if length == 0 and at == len(parts):
                continue
            found.append((at, (at, ".".join(parts[:at]), ".".join(parts[at + length :])), ".".join(parts[at : at + length])))
    return found


def _steps(at: int, run: str, other: str) -> Iterable[Step]:
    """The steps that turn ``run`` into ``other`` at place ``at``; equal ends are left out so that one rule serves many keys."""
    a, b = run.split("."), other.split(".")
    if at == 0 and a[-1] != b[-1]:
        mine, theirs = DIGITS.findall(run), DIGITS.findall(other)
        if len(mine) == len(theirs) == 1 and mine != theirs and len(mine[0]) < 7 and len(theirs[0]) < 7:
            yield "shift", DIGITS.sub("#", run), f"{DIGITS.sub('#', other)}:{int(theirs[0]) - int(mine[0]):+d}"
    if run and other and (a[0] == b[0] or a[-1] == b[-1]):
        return  # a shorter run says the same
    if at == 0:
        yield "head", run, other
    if run and not run.replace(".", "").isdecimal():  # a number means nothing without what stands around it
        yield "part", run, other
        numbers = DIGITS.findall(run)
        if numbers and numbers == DIGITS.findall(other):
            yield "number", DIGITS.sub("#", run), DIGITS.sub("#", other)


Written = tuple[Rule, tuple[str, tuple[str, ...]]]  # a rule, and its line in a rules file


def step_rules(step: Step, names: Iterable[str]) -> list[Written]:
    """The rules of a step; a shift needs one for each number that is in ``names``."""
    kind, old, new = step
    if kind == "shift":
        return _shifted(old, new, names)
    if kind == "head":
        if not old:
            return [(Prefix("", f"{new}."), ("add-prefix", (f"{new}.",)))]
        if not new:
            return [(Prefix(f"{old}.", ""), ("strip-prefix", (f"{old}.",)))]
        return [_head(old, new)]
    body, after = escaped(old), new.replace("\\", r"\\")
    if kind == "number":
        body = body.replace("#", r"(\d+)")
        for number in range(old.count("#")):
            after = after.replace("#", rf"\g<{number + 2}>", 1)
    if not new:
        return [_renamed(rf"(^|\.){body}\.", r"\1")]
    return [_renamed(rf"(^|\.){body}(?=\.|$)", (r"\g<1>" if after[:1].isdecimal() else r"\1") + after)]


def _renamed(pattern: str, text: str) -> Written:
    return Rename(pattern, text), ("rename", (pattern, text))


def _head(old: str, new: str) -> Written:
    return _renamed(rf"^{escaped(old)}(?=\.|$)", new.replace("\\", r"\\"))


def renamer(step: Step) -> Callable[[str], str | None]:
    """What the rules of a step do to one name, in one go where they are many."""
    kind, old, new = step
    if kind != "shift":
        (rule, _), *_ = step_rules(step, ())
        return rule.renamed
    after, _, amount = new.rpartition(":")
    delta = int(amount)
    pattern = re.compile(rf"^{escaped(old).replace('#', '([0-9]{1,6})')}(?=[.]|$)")

    def renamed(name: str) -> str:
        match = pattern.match(name)
        if match is None or int(match[1]) + delta < 0:
            return name
        return after.replace("#", str(int(match[1]) + delta)) + name[match.end() :]

    return renamed


def _shifted(old: str, new: str, names: Iterable[str]) -> list[Written]:
    after, _, amount = new.rpartition(":")
    delta = int(amount)
    pattern = re.compile(rf"^{escaped(old).replace('#', '([0-9]{1,6})')}(?=[.]|$)")
    numbers = {match[1] for name in names if (match := pattern.match(name))}
    # Upwards the highest goes first, so that no number meets the next one's old name.
    ordered = sorted((n for n in numbers if int(n) + delta >= 0), key=int, reverse=delta > 0)
    return [_head(old.replace("#", n), after.replace("#", str(int(n) + delta))) for n in ordered]


def spelled(step: Step) -> str:
    kind, old, new = step
    if kind == "shift":
        after, _, amount = new.rpartition(":")
        return f"{old} → {after}, numbers {amount}"
    if kind == "head" and not new:
        return f"strip-prefix {old}."
    if kind == "head" and not old:
        return f"add-prefix {new}."
    return f"{old} → {new}" if new else f"{old} taken out"


def alike(old: str, new: str) -> float:
    """0 to 1; a common beginning counts most."""
    a, b = old.lower(), new.lower()
    beginning = next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return 0.5 * SequenceMatcher(None, a, b, autojunk=False).ratio() + 0.5 * min(1.0, beginning / 3)
