"""Search for the rules that rename a checkpoint's keys into a model's.

Greedy and exact at every step: candidates come from pairs of keys that differ in one run of components and have equal shapes, the one
that matches most is applied to all keys, and so on. What is left is matched module by module, in order, by leaf names and shapes.
Candidates that explain the data equally well are kept apart as alternatives: none is picked in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from random import Random
from typing import Any

from convert.expectation import Shape, fits
from convert.rename_steps import DIGITS, KINDS, Step, alike, renamer, spelled, step_rules, votes
from convert.rule_text import escaped
from convert.rules import Exact, KeyRules, Rename, Rule
from convert.text import count
from formats.core.errors import UsageError

SAMPLE = 200  # keys that propose steps
MOST_TRIED = 48  # steps tried for each rule
STEPS = 24  # rules of one search
FORKS = 4  # alternatives that are followed


@dataclass(slots=True)
class Search:
    """A state of the search: the rules so far, what each key is called now, and how sure every match is."""

    names: dict[str, str]  # key of the file → its name now
    rules: list[Rule] = field(default_factory=list)
    lines: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)  # the same as lines of a rules file
    by_order: list[tuple[str, str]] = field(default_factory=list)  # (key, target) that equal shapes and order alone decided
    by_shape: list[tuple[str, str]] = field(default_factory=list)  # (key, target) whose shapes and leaf names are unique
    reasons: list[str] = field(default_factory=list)
    rivals: list[str] = field(default_factory=list)  # what else would have fitted as well
    sure: int = 2  # 2 certain, 1 likely, 0 possible

    def fork(self) -> Search:
        return replace(
            self, names=dict(self.names), rules=list(self.rules), lines=list(self.lines), by_order=list(self.by_order),
            by_shape=list(self.by_shape), reasons=list(self.reasons), rivals=list(self.rivals),
        )  # fmt: skip


@dataclass(slots=True)
class _Candidate:
    step: Step
    pairs: dict[str, str]  # key → target, newly matched
    gain: int


def search(source: Mapping[str, Shape], model: Mapping[str, Shape]) -> list[Search]:
    """Ways to rename ``source`` so that it fits ``model``, the best first; several where the data does not tell them apart."""
    open_: list[Search] = [Search({key: key for key in source})]
    done: list[Search] = []
    while open_:
        state = open_.pop(0)
        room = FORKS - len(open_) - len(done)
        while len(state.rules) < STEPS:
            best, rivals = _best(state, source, model)
            if best is None:
                break
            resolved = _resolved(best, rivals, state, source)
            if resolved is None:  # no evidence for one rather than another
                if room < len(rivals) + 1:
                    break
                told = [spelled(one.step) for one in (best, *rivals)]
                for one in rivals:
                    branch = state.fork()
                    branch.rivals = [text for text in told if text != spelled(one.step)]
                    _take(branch, one)
                    open_.append(branch)
                    room -= 1
                state.rivals = told[1:]
                resolved = best
            _take(state, resolved)
        _by_modules(state, source, model)
        done.append(state)
    counted = sorted(done, key=lambda state: (-matched(state, source, model), len(state.lines)))
    most = matched(counted[0], source, model)
    return [state for state in counted if matched(state, source, model) == most]


def matched(state: Search, source: Mapping[str, Shape], model: Mapping[str, Shape]) -> int:
    """Tensors that have a place of their name and shape."""
    return sum(name in model and fits(source[key], model[name]) for key, name in state.names.items())


def _unmatched(state: Search, source: Mapping[str, Shape], model: Mapping[str, Shape]) -> tuple[list[str], list[str]]:
    """(keys of the file, keys of the model) that have no counterpart of equal name and shape yet."""
    left, taken = [], set()
    for key, name in state.names.items():
        if name in model and fits(source[key], model[name]):
            taken.add(name)
        else:
            left.append(key)
    return left, [key for key in model if key not in taken]


def _best(state: Search, source: Mapping[str, Shape], model: Mapping[str, Shape]) -> tuple[_Candidate | None, list[_Candidate]]:
    """The step that matches most, and those that match as many of the same keys differently."""
    left, wanted = _unmatched(state, source, model)
    if not left or not wanted:
        return None, []
    asked = (
        left if len(left) <= SAMPLE else Random(0).sample(left, SAMPLE)
    )  # votes only propose; what a step gains is counted on all keys
    proposed = votes([(state.names[key], source[key]) for key in asked], [(key, model[key]) for key in wanted])
    found: list[_Candidate] = []
    ranked = proposed.most_common(MOST_TRIED)
    # Steps with as many votes as the eighth are tried too: among equals, none may be missed.
    for step, _ in [one for at, one in enumerate(ranked) if at < 8 or one[1] == ranked[7][1]]:
        candidate = _tried(step, state, left, wanted, source, model)
        if candidate is not None:
            found.append(candidate)
    if not found:
        return None, []
    found.sort(key=lambda one: (-one.gain, KINDS.index(one.step[0]), len(one.step[1]) + len(one.step[2])))
    best = found[0]
    rivals: list[_Candidate] = []
    for one in found[1:]:
        if one.gain < best.gain or any(one.pairs == other.pairs for other in (best, *rivals)):
            continue
        if best.pairs.keys() & one.pairs.keys() or set(best.pairs.values()) & set(one.pairs.values()):
            rivals.append(one)
    return best, rivals


def _tried(
    step: Step, state: Search, left: list[str], wanted: list[str], source: Mapping[str, Shape], model: Mapping[str, Shape]
) -> _Candidate | None:
    """What a step really does to all keys; None where it gains nothing, loses or merges what is matched, or proves nothing."""
    rename = renamer(step)
    pairs: dict[str, str] = {}
    seen: set[str] = set()
    unmatched = set(left)
    moved = total = 0
    for key, name in state.names.items():
        renamed = rename(name)
        if renamed is None or renamed in seen:
            return None
        seen.add(renamed)
        if renamed not in model or source[key] != model[renamed]:
            continue
        total += 1
        if renamed != name:
            pairs[key] = renamed
            moved += key not in unmatched
    gain = total - (len(state.names) - len(unmatched))
    # Names that fit already are given up only for many more: numbers that a new layer has shifted fit in part by chance.
    if gain <= moved or not _telling(pairs, state, left, wanted, source, model):
        return None
    return _Candidate(step, pairs, gain)


def _telling(
    pairs: dict[str, str],
    state: Search,
    left: list[str],
    wanted: list[str],
    source: Mapping[str, Shape],
    model: Mapping[str, Shape],
) -> bool:
    """Whether a match is more than chance: several modules agree, or it is a whole module whose leaf names and shapes are unique."""
    modules = {name.rpartition(".")[0] for name in pairs.values()}
    if len(modules) > 1:
        return True
    if any(state.names[key].rpartition(".")[2] != name.rpartition(".")[2] for key, name in pairs.items()):
        return False
    ours = _signatures((state.names[key], source[key]) for key in left)
    theirs = _signatures((key, model[key]) for key in wanted)
    whole = theirs[modules.pop()]
    origins = {state.names[key].rpartition(".")[0] for key in pairs}
    mine = ours[origins.pop()]
    return not origins and mine == whole and Counter(ours.values())[mine] == 1 and Counter(theirs.values())[whole] == 1


def _signatures(entries: Iterable[tuple[str, Shape]]) -> dict[str, frozenset[tuple[str, Shape]]]:
    """{module: its leaf names and shapes}."""
    found: dict[str, set[tuple[str, Shape]]] = {}
    for name, shape in entries:
        module, _, leaf = name.rpartition(".")
        found.setdefault(module, set()).add((leaf, shape))
    return {module: frozenset(leaves) for module, leaves in found.items()}


def _take(state: Search, candidate: _Candidate) -> None:
    written = step_rules(candidate.step, state.names.values())
    rename = renamer(candidate.step)
    state.names = {key: rename(name) or name for key, name in state.names.items()}
    state.rules += [rule for rule, _ in written]
    state.lines += [line for _, line in written]
    kind, old, new = candidate.step
    whole = kind == "head" and (not old or not new)
    state.reasons.append(f"{spelled(candidate.step)}: {count(len(candidate.pairs), 'tensor')} then fit by name and shape")
    if not whole:
        state.sure = min(state.sure, 1)


def _resolved(best: _Candidate, rivals: list[_Candidate], state: Search, source: Mapping[str, Shape]) -> _Candidate | None:
    """The candidate that names and order agree on; None where they do not, or where there is nothing to go by."""
    if not rivals:
        return best
    every = [best, *rivals]
    olds = list(dict.fromkeys(one.step[1] for one in sorted(every, key=lambda one: _first(one, source))))
    news = list(dict.fromkeys(one.step[2] for one in every))
    if len(olds) != len(news) or not all(olds) or not all(news):
        return None
    ranked = sorted(every, key=lambda one: -alike(one.step[1], one.step[2]))
    first = ranked[0]
    against = [one for one in ranked[1:] if one.step[1] == first.step[1] or one.step[2] == first.step[2]]
    clear = all(alike(first.step[1], first.step[2]) >= alike(one.step[1], one.step[2]) + 0.2 for one in against)
    if not clear:
        return None
    state.reasons.append(f"{spelled(first.step)} is chosen by the likeness of the names: shapes would allow other pairs")
    state.sure = min(state.sure, 1)
    return first


def _first(candidate: _Candidate, source: Mapping[str, Shape]) -> int:
    return next((at for at, key in enumerate(source) if key in candidate.pairs), 0)


def _by_modules(state: Search, source: Mapping[str, Shape], model: Mapping[str, Shape]) -> None:
    """Match what is left by module, in order: leaf names and shapes must agree, then shapes alone."""
    found: dict[str, str] = {}
    for leaves in (True, False):
        left, wanted = _unmatched(state, source, model)
        left = [key for key in left if key not in found]
        places = set(found.values())
        wanted = [key for key in wanted if key not in places]
        if not left or not wanted:
            break
        ours = _modules({key: state.names[key] for key in left}, source, leaves)
        theirs = _modules({key: key for key in wanted}, model, leaves)
        if len(ours) * len(theirs) > 1_000_000:  # blocks by the thousand that nothing but their order tells apart
            break
        _aligned(ours, theirs, state, found)
    if not found:
        return
    old = {state.names[key]: target for key, target in found.items()}
    rule: Rule = Exact(old)
    if not _distinct([rule], state.names.values()):
        return
    rules, lines = _generalised(old, list(state.names.values()))
    state.rules += rules
    state.lines += lines
    for key, target in found.items():
        state.names[key] = target
    state.sure = 0 if state.by_order else min(state.sure, 1)
    if state.by_shape:
        state.reasons.append(f"{count(len(state.by_shape), 'tensor')} matched by shapes that occur once")
    if state.by_order:
        state.reasons.append(
            f"{count(len(state.by_order), 'tensor')} matched by order alone: others of their shapes could take their places unnoticed"
        )


_Module = tuple[str, tuple[Any, ...], list[str]]  # (name, signature, keys)


def _modules(names: Mapping[str, str], shapes: Mapping[str, Shape], leaves: bool) -> list[_Module]:
    groups: dict[str, list[tuple[str, str]]] = {}
    for key, name in names.items():
        module, _, leaf = name.rpartition(".")
        groups.setdefault(module, []).append((leaf, key))
    found: list[_Module] = []
    for module, members in groups.items():
        ordered = sorted(members) if leaves else members
        signature = tuple((leaf, shapes[key]) if leaves else shapes[key] for leaf, key in ordered)
        found.append((module, signature, [key for _, key in ordered]))
    return found


def _aligned(ours: list[_Module], theirs: list[_Module], state: Search, found: dict[str, str]) -> None:
    here, there = Counter(signature for _, signature, _ in ours), Counter(signature for _, signature, _ in theirs)
    matcher = SequenceMatcher(None, [s for _, s, _ in ours], [s for _, s, _ in theirs], autojunk=False)
    pairs: list[tuple[_Module, _Module]] = []
    for block in matcher.get_matching_blocks():
        pairs += zip(ours[block.a : block.a + block.size], theirs[block.b : block.b + block.size], strict=True)
    used = {module for (module, _, _), _ in pairs}, {module for _, (module, _, _) in pairs}
    places = {signature: one for one in theirs if there[one[1]] == 1 and one[0] not in used[1] for signature in [one[1]]}
    for one in ours:  # out of order, but there is only one place for it
        if one[0] not in used[0] and here[one[1]] == 1 and one[1] in places:
            pairs.append((one, places[one[1]]))
    for one, other in pairs:
        unique = here[one[1]] == 1 and there[one[1]] == 1 and len(set(one[1])) == len(one[1])
        for key, target in zip(one[2], other[2], strict=True):
            found[key] = target
            (state.by_shape if unique else state.by_order).append((key, target))


def _distinct(rules: list[Rule], names: Iterable[str]) -> bool:
    try:
        KeyRules(rules).names(names)
    except UsageError:
        return False
    return True


def _generalised(pairs: dict[str, str], names: list[str]) -> tuple[list[Rule], list[tuple[str, tuple[str, ...]]]]:
    """A few renames that do exactly what ``pairs`` say to ``names`` and nothing else; else one line for each key."""
    wanted = {name: pairs.get(name, name) for name in names}
    groups: dict[tuple[str, str], int] = {}
    for old, new in pairs.items():
        a, b = old.split("."), new.split(".")
        while len(a) > 1 and len(b) > 1 and a[-1] == b[-1]:
            a.pop()
            b.pop()
        x, y = ".".join(a), ".".join(b)
        if DIGITS.findall(x) == DIGITS.findall(y):
            x, y = DIGITS.sub("#", x), DIGITS.sub("#", y)
        groups[x, y] = groups.get((x, y), 0) + 1
    if len(groups) <= 12 and all("#" not in old for old in pairs):
        lines: list[tuple[str, tuple[str, ...]]] = []
        for x, y in groups:
            pattern, text = escaped(x).replace("#", r"(\d+)"), y.replace("\\", r"\\")
            for number in range(y.count("#")):
                text = text.replace("#", rf"\g<{number + 1}>", 1)
            lines.append(("rename", (rf"^{pattern}(?=\.|$)", text)))
        rules: list[Rule] = [Rename(values[0], values[1]) for _, values in lines]
        try:
            if KeyRules(rules).names(names) == wanted:
                return rules, lines
        except UsageError:
            pass
    return [Exact(dict(pairs))], [("key", pair) for pair in pairs.items()]
