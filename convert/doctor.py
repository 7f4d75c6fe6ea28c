"""``convert doctor``: why a checkpoint would not load into a model, and the command that mends it.

Every remedy is tried before it is printed: its rules are applied to the real keys, and what loading would then say is computed from
the result. Where several remedies fit equally well, all are given and none is called right.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convert import naming
from convert.candidates import candidates, entries
from convert.expectation import COUNTER, Expected, Outcome, Shape, outcome
from convert.fold import fold
from convert.modules import module_fields
from convert.rename_search import Search, matched, search
from convert.rule_text import escaped, written
from convert.rules import Keep, KeyRules
from convert.select import Choice, choose
from convert.text import count
from formats import registry
from formats.core.checkpoint import Checkpoint
from formats.core.errors import AmbiguousCheckpoint, CheckpointError, ParityFailed, UsageError
from formats.core.output import write_bytes
from formats.core.tensor import CompositeTensor, TensorView

SURE = ("possible", "likely", "certain")
MOST_OPTIONS = 8  # rules on a command line; more go into a rules file
MOST_MODELS = 6  # candidates in one file that are tried


@dataclass(slots=True)
class Remedy:
    """One way to make the model load: ``command`` applies it, ``rules`` are the lines of its rules file (empty: none is needed)."""

    model: str
    sure: str
    reasons: list[str]
    command: str
    rules: list[str]
    after: Outcome
    kept: list[str]  # keys of the model that keep the values of the model's own checkpoint
    unused: list[str]  # keys of the checkpoint that have no place in the model
    by_order: list[tuple[str, str]]
    rivals: list[str]
    lines: list[str] = field(default_factory=list)  # all rules as a rules file has them, also where options say the same

    @property
    def complete(self) -> bool:
        return self.after.loads

    def document(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "sure": self.sure,
            "why": self.reasons,
            "command": self.command,
            "rules": self.rules,
            "after": self.after.document(),
            "kept_from_model": self.kept,
            "unused": self.unused,
            "matched_by_order": [list(pair) for pair in self.by_order],
            "would_fit_as_well": self.rivals,
        }


@dataclass(slots=True)
class Diagnosis:
    """What `diagnose` found. ``raw``: what loading the file as it is would say; None where the file is no mapping."""

    source: Path
    expected: Expected
    raw: Outcome | None
    raw_kind: str
    remedies: list[Remedy] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    universe: list[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        """loads, mended (one complete remedy, at least likely), ambiguous, possible or unmended."""
        if self.raw is not None and self.raw.loads:
            return "loads"
        whole = [one for one in self.remedies if one.complete]
        if len(self.remedies) > 1:
            return "ambiguous"
        if not whole:
            return "unmended"
        return "possible" if whole[0].sure == SURE[0] else "mended"

    @property
    def exit(self) -> int:
        return 0 if self.status in ("loads", "mended") else ParityFailed.exit_code

    def document(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "exit": self.exit,
            "source": str(self.source),
            "model": self.expected.name,
            "as_it_is": {"kind": self.raw_kind, **({} if self.raw is None else self.raw.document())},
            "remedies": [remedy.document() for remedy in self.remedies],
            "notes": self.notes,
        }


def diagnose(
    source: Path, expected: Expected, *, select: str | None = None, ema: bool = False, to: str = "safetensors",
    rules_file: str | None = None,
) -> Diagnosis:  # fmt: skip
    """Say what loading ``source`` into ``expected`` would say, and search for what mends it. Reads no tensor."""
    with registry.open(source) as checkpoint:
        kind, given, versions = _raw(checkpoint)
        raw = None if given is None else outcome(given, versions, expected.shapes)
        found = Diagnosis(source, expected, raw, kind, notes=list(expected.notes))
        found.universe = [*(given or ()), *expected.slots]
        _locations(checkpoint, found)
        if raw is not None and raw.loads:
            return found
        tried: list[tuple[Choice, str | None, Search, int]] = []
        models, doubt = _models(checkpoint, select, ema)
        for choice, option in models:
            shapes = {key: tensor.shape for key, tensor in choice.state_dict.tensors.items()}
            found.universe += shapes
            for state in search(shapes, expected.shapes):
                tried.append((choice, option, state, matched(state, shapes, expected.shapes)))
        most = max((fit for _, _, _, fit in tried), default=0)
        best = [one for one in tried if one[3] == most and most]
        if doubt and len({choice.path for choice, _, _, _ in best}) > 1:
            found.notes.append(f"{doubt}: each of them fits the model equally well")
        for number, (choice, option, state, _) in enumerate(best):
            file = rules_file or f"{source.name}.rules"
            if number and rules_file is None:
                file = f"{source.name}.{number + 1}.rules"
            found.remedies.append(_remedy(source, choice, option, ema, state, expected, to, file))
        if best:
            _dtypes(best[0][0], best[0][2], expected, found)
    return found


def write_rules(found: Diagnosis, path: Path, *, force: bool = False) -> None:
    """Write the rules of the only remedy to ``path``; several raise `AmbiguousCheckpoint`, none raises `UsageError`."""
    if len(found.remedies) > 1:
        raise AmbiguousCheckpoint(f"{len(found.remedies)} remedies fit equally well: no rules file is written", path=found.source)
    if not found.remedies:
        raise UsageError("there is no rule to write", path=found.source)
    head = f"# keys of {found.source.name} as {Path(found.expected.name).name} has them\n"
    text = head.replace("\r", " ") + "".join(f"{line}\n" for line in found.remedies[0].lines)
    write_bytes(text.encode("utf-8"), path, force=force)


def _raw(checkpoint: Checkpoint) -> tuple[str, dict[str, Shape | None] | None, Mapping[Any, Any] | None]:
    """What the user's own ``load_state_dict(torch.load(FILE))`` is given."""
    tree = checkpoint.tree
    if module_fields(tree) is not None:
        return f"a whole model of class {tree.name}, not a state dict", None, None
    if not isinstance(tree, dict):
        return f"a {type(tree).__name__}, not a state dict", None, None
    given = {
        key: value.shape if isinstance(value, (TensorView, CompositeTensor)) else None
        for key, value in entries(tree)
        if isinstance(key, str)
    }
    attributes = getattr(tree, "attributes", None) or {}
    versions = attributes.get("_metadata")
    return "a mapping", given, versions if isinstance(versions, dict) else None


def _models(checkpoint: Checkpoint, select: str | None, ema: bool) -> tuple[list[tuple[Choice, str | None]], str]:
    """(models to try, each with the --select that names it; why there are several)."""
    try:
        choices = choose(checkpoint, select=select, ema=ema)
        if len(choices) == 1:
            return [(choices[0], select)], ""
        why = f"the file holds {len(choices)} models"
        paths = [choice.path for choice in choices]
    except AmbiguousCheckpoint as error:
        why = error.what
        paths = [candidate.path for candidate in candidates(checkpoint)]
    found: list[tuple[Choice, str | None]] = []
    for path in paths[:MOST_MODELS]:
        try:
            found.append((choose(checkpoint, select=path or ".")[0], path or "."))
        except CheckpointError:
            continue
    return found, why


def _remedy(
    source: Path, choice: Choice, select: str | None, ema: bool, state: Search, expected: Expected, to: str, file: str
) -> Remedy:
    model = expected.shapes
    keys = choice.state_dict.tensors
    unused = [key for key, name in state.names.items() if name not in model]
    resized = [key for key, name in state.names.items() if name in model and not _fits(keys[key].shape, model[name])]
    places = set(state.names.values())
    missing = [key for key in model if key not in places]
    counters = [key for key in missing if key.rpartition(".")[2] == COUNTER and _beside(key) in places]
    rest = [key for key in missing if key not in counters]
    into = expected.path if (rest or resized) and expected.path else None
    gone = [] if into else _globs([*unused, *resized], list(keys))
    lines = [("drop", (pattern,)) for pattern in gone] + state.lines
    options, inline = _options(lines)
    rules = [] if inline else [written(kind, *values) for kind, values in lines]

    made = KeyRules(_rules_in(lines)).apply(choice.state_dict) if lines else choice.state_dict
    shapes: dict[str, Shape | None] = {key: tensor.shape for key, tensor in made.tensors.items()}
    before = outcome(shapes, made.versions, model)
    fill = [key for key in counters if key in before.missing]
    if fill:
        shapes.update((key, ()) for key in fill)
    kept: list[str] = []
    if into:
        kept = [key for key in model if key not in shapes or not _fits(shapes[key], model[key])]
        shapes = {key: shapes[key] if key not in kept else model[key] for key in model}
    command = ["convert", str(source)]
    if select is not None:
        command += ["--select", select]
    if ema:
        command.append("--ema")
    command += [part for kind, values in options for part in _option(kind, values)] if inline else ["--rules", file]
    if fill:
        command += ["--fill-missing", COUNTER]
    if into:
        command += ["--into", str(into)]
    command += ["--to", to, *_output(source, to)]
    # Where most of the model keeps its own values, the fit of the rest proves little.
    sure = SURE[0 if state.rivals or 2 * len(kept) > len(model) else state.sure]
    return Remedy(
        choice.path, sure, _reasons(choice, state, fill, kept, bool(into)), shlex.join(command), rules,
        outcome(shapes, made.versions, model), kept, unused, state.by_order, state.rivals,
        [written(kind, *values) for kind, values in lines],
    )  # fmt: skip


def _fits(given: Shape | None, wanted: Shape) -> bool:
    from convert.expectation import fits

    return given is not None and fits(given, wanted)


def _beside(counter: str) -> str:
    return counter[: -len(COUNTER)] + "running_mean"


def _reasons(choice: Choice, state: Search, fill: list[str], kept: list[str], into: bool) -> list[str]:
    reasons = []
    if choice.path:
        reasons.append(f"the model stands under {choice.path}: {choice.why}")
    elif choice.kind == "module":
        reasons.append(f"the file holds a whole model ({choice.why}); converted, it is a state dict")
    if choice.stripped:
        reasons.append(f"every key has {choice.stripped} of a wrapper, which convert strips by itself")
    reasons += state.reasons
    if fill:
        reasons.append(
            f"{count(len(fill), 'counter')} of batch norms, which torch 0.4.1 added, {'is' if len(fill) == 1 else 'are'} set to 0"
        )
    if into and kept:
        verbs = "has no counterpart of equal shape and keeps its value" if len(kept) == 1 else (
            "have no counterpart of equal shape and keep their values"
        )  # fmt: skip
        reasons.append(f"{count(len(kept), 'tensor')} of the model {verbs}")
    return reasons


def _options(lines: list[tuple[str, tuple[str, ...]]]) -> tuple[list[tuple[str, tuple[str, ...]]], bool]:
    """(the lines in an order that options keep, whether a command line can say them)."""
    if len(lines) > MOST_OPTIONS or any(kind == "key" for kind, _ in lines):
        return lines, False
    order = ("drop", "strip-prefix", "rename", "add-prefix")
    if [kind for kind, _ in lines] == sorted((kind for kind, _ in lines), key=order.index):
        return lines, True
    said: list[tuple[str, tuple[str, ...]]] = []
    for kind, values in lines:  # options of one kind run together: what stands between becomes a rename
        if kind == "strip-prefix":
            said.append(("rename", (f"^{escaped(values[0])}", "")))
        elif kind == "add-prefix":
            said.append(("rename", ("^", values[0].replace("\\", r"\\"))))
        else:
            said.append((kind, values))
    return said, True


def _option(kind: str, values: tuple[str, ...]) -> list[str]:
    value = "=".join(values) if kind == "rename" else values[0]
    return [f"--{kind}={value}"] if value.startswith("-") else [f"--{kind}", value]


def _rules_in(lines: list[tuple[str, tuple[str, ...]]]) -> list[Any]:
    from convert.rule_text import rules

    return rules(((number, kind, values) for number, (kind, values) in enumerate(lines, 1)), "rules")


def _globs(keys: list[str], universe: list[str]) -> list[str]:
    """Shell patterns that fit ``keys`` and nothing else of ``universe``."""
    from itertools import product

    found: list[str] = []
    for one in fold(keys, universe):
        for parts in product(*one.positions):
            head = "".join(f"[{c}]" if c in "*?[" else c for c in ".".join(parts))
            found.append(f"{head}.*" if one.below else head)
    if found:
        left = Keep(tuple(found), True)
        assert {key for key in universe if left.renamed(key) is not None} == set(keys)
    return found


def _output(source: Path, to: str) -> list[str]:
    """``-o`` where the output would get the source's own name."""
    row = registry.target_row(to)
    known = {*naming.SUFFIXES, *row.suffixes, *registry.suffixes()}
    place = naming.target(source, to, known, None, None)
    if place != source:
        return []
    suffix = "".join(f".{to}") if source.name.endswith(f".{to}") else source.suffix
    return ["-o", str(source.with_name(f"{source.name.removesuffix(suffix)}-mended{suffix}"))]


def _locations(checkpoint: Checkpoint, found: Diagnosis) -> None:
    devices = sorted({tensor.location for _, tensor in checkpoint.tensors()} - {"cpu", "meta", ""})
    if devices:
        found.notes.append(
            f"saved on {', '.join(devices[:6])}: torch.load without map_location='cpu' fails where there is no such device; "
            "converting needs none"
        )


def _dtypes(choice: Choice, state: Search, expected: Expected, found: Diagnosis) -> None:
    other: dict[tuple[str, str], int] = {}
    for key, name in state.names.items():
        if name in expected.slots:
            pair = (choice.state_dict.tensors[key].dtype.name, expected.slots[name][0])
            if pair[0] != pair[1]:
                other[pair] = other.get(pair, 0) + 1
    for (given, wanted), number in other.items():
        found.notes.append(f"{count(number, 'tensor')} of {given} where the model has {wanted}: load_state_dict casts them")
