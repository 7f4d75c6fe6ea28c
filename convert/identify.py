"""``convert identify``: which architecture of torchvision and timm weights belong to, from names and shapes alone.

The table that ships with the package is compared with the state dict; torch, timm and NumPy are not imported, and no tensor is read.

>>> from convert.identify import identify
>>> result = identify({"conv1.weight": ((64, 3, 7, 7), "float32"), ...}, hints={"args.arch": "resnet34"})
>>> result.status, result.member.name            # "identified", "torchvision:resnet34"

What weights do not hold (activation, stride, eps, input size, normalisation) comes from the class's members. Where members are
different functions, ``basis`` says how one was taken: ``only``, ``equal`` (all give the same output), ``metadata`` (the file says
so), or ``assumed``: then ``assumption`` is a sentence to print and record, and ``--arch`` or a golden output decides.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert.hints import FILE_NAME, library, normalised
from convert.signatures.match import Comparison, search
from convert.signatures.table import Member, Table, load

if TYPE_CHECKING:
    from convert.select import Choice
    from formats.core.checkpoint import Checkpoint

IDENTIFIED = 0.999  # coverage from which weights are said to be an architecture's
NEAR = 0.35  # score under which not even a relative is named
NEAR_BY_SHAPE = 0.75  # ditto where keys do not agree: small networks share many shapes by chance
_TOLD_APART_BY = (
    "activation", "normalisation", "convolution", "stride", "padding", "dilation", "pooling", "num_heads", "window_size", "patch_size",
    "img_size", "input size", "fixed input size", "mean", "std", "interpolation", "crop", "other",
)  # fmt: skip


@dataclass(slots=True)
class IdentifyResult:
    """Which class of architectures, how surely, and which member.

    ``status``: ``identified`` (coverage ≥ 0.999), ``part`` (the same for the keys under a prefix, and there are others),
    ``resized`` (the same but for position embeddings of another size), ``renamed`` (shapes agree, keys do not), ``nearest`` (a
    relative: the differing keys are listed), ``unknown``. ``others`` are the next best classes, ``equals`` those that are as good.
    """

    status: str
    tensors: int
    best: Comparison | None = None
    others: list[Comparison] = field(default_factory=list)
    equals: list[Comparison] = field(default_factory=list)
    member: Member | None = None
    basis: str | None = None
    assumption: str | None = None
    hints: dict[str, str] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def members(self) -> tuple[Member, ...]:
        """Every architecture with these keys and shapes."""
        return () if self.best is None else self.best.signature.members

    @property
    def arguments(self) -> dict[str, int]:
        """Constructor arguments that the shapes ask for: ``num_classes``, ``in_chans``, ``window_size`` of resized positions."""
        return {} if self.best is None else self.best.arguments

    @property
    def prefix(self) -> str:
        """What stands before the model's keys in the file, ``module.`` for one."""
        return "" if self.best is None else self.best.prefix

    @property
    def arch(self) -> str | None:
        """The member as ``--arch`` takes it, with the arguments that the shapes ask for; None below `IDENTIFIED`."""
        return None if self.member is None or self.status != "identified" else self.arch_of(self.member)

    def arch_of(self, member: Member) -> str:
        """``member`` of the best class as ``--arch`` takes it."""
        assert self.best is not None
        taken = dict(self.best.arguments)
        if member.library == "torchvision":
            taken = {name: value for name, value in taken.items() if name == "num_classes"}
        if not self.best.heads and self.best.signature.head and member.library == "timm":
            taken["num_classes"] = 0
        if taken.get("num_classes") == self._default_classes():
            taken.pop("num_classes", None)
        return ",".join([member.name, *(f"{name}={value}" for name, value in sorted(taken.items()))])

    def _default_classes(self) -> int | None:
        assert self.best is not None
        sizes = {self.best.signature.entries[key][:1] for key in self.best.signature.head if self.best.signature.entries[key]}
        return next(iter(sizes))[0] if len(sizes) == 1 else None

    def apart(self) -> dict[str, dict[str, str]]:
        """{topic: {member: value}} for whatever is not the same in all members."""
        return told_apart(self.members)

    def document(self) -> dict[str, Any]:
        """The result as the JSON document has it."""
        from convert.identify_text import document

        return document(self)

    def lines(self) -> list[str]:
        """The result as people read it."""
        from convert.identify_text import lines

        return lines(self)


def identify(
    state_dict: Mapping[str, tuple[tuple[int, ...], str]], hints: Mapping[str, str] | None = None, *, table: Table | None = None
) -> IdentifyResult:
    """The architecture whose state dict is ``state_dict``, {key: (shape, dtype name)}; ``hints`` as `convert.hints.hints` gives them."""
    begun = time.perf_counter()
    table = table or load()
    shapes = {key: shape for key, (shape, _) in state_dict.items()}
    found = search(table, shapes)
    result = IdentifyResult("unknown", len(shapes), hints=dict(hints or {}), libraries=dict(table.libraries))
    if found and found[0].score >= (NEAR_BY_SHAPE if found[0].by_shape else NEAR):
        result.best, result.others = found[0], found[1:4]
        result.equals = [other for other in found[1:] if _as_good(other, found[0])]
        result.status = _status(result.best)
        _take_member(result)
    result.seconds = time.perf_counter() - begun
    return result


def _status(best: Comparison) -> str:
    if best.coverage >= IDENTIFIED:
        return "renamed" if best.by_shape else "part" if best.elsewhere else "identified"
    return "resized" if best.resized_coverage >= IDENTIFIED else "nearest"


def _as_good(other: Comparison, best: Comparison) -> bool:
    """Whether nothing in the file speaks for ``best`` and against ``other``."""
    return (other.prefix, other.by_shape) == (best.prefix, best.by_shape) and abs(other.score - best.score) < 1e-9


def told_apart(members: tuple[Member, ...]) -> dict[str, dict[str, str]]:
    """{topic: {member: value}} where members differ; a topic that a member does not have reads ``none``."""
    found: dict[str, dict[str, str]] = {}
    for topic in _TOLD_APART_BY:
        values: dict[str, dict[str, str]] = {}
        for member in members:
            fact = member.facts.get(topic)
            for name, value in fact.items() if isinstance(fact, dict) else ((topic, fact),):
                values.setdefault(name, {})[member.name] = "none" if value is None else _text(value)
        for name, told in values.items():
            if len(set(told.values())) > 1:
                found[name] = told
    return found


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "×".join(map(str, value)) if all(isinstance(n, int) for n in value) else ", ".join(f"{n:g}" for n in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _take_member(result: IdentifyResult) -> None:
    members = result.members
    groups = {member.group for member in members}
    preferred = sorted(members, key=lambda member: (member.library != "torchvision", len(member.name), member.name))
    if len(members) == 1:
        result.member, result.basis = members[0], "only"
        return
    named = _named(members, result.hints)
    said = [(where, member) for where, member in named if where != FILE_NAME]
    told = {member.group for _, member in said}
    if said and ((len(told) == 1 and -1 not in told) or len({member.name for _, member in said}) == 1):
        result.member, result.basis = said[0][1], "metadata"
        return
    if groups == {0}:
        result.member, result.basis = preferred[0], "equal"
        return
    result.member = named[0][1] if named and not said else preferred[0]
    result.basis = "assumed"
    taken = result.member
    unlike = [member for member in members if member.group != taken.group or (member.group < 0 and member is not taken)]
    others = ", ".join(member.name for member in unlike)
    why = "after the file's name" if named and not said else "the plainest name"
    apart = ", ".join(list(told_apart((taken, *unlike)))[:4]) or "nothing that the table records"
    verb = "has the same weights and differs" if len(unlike) == 1 else "have the same weights and differ"
    result.assumption = f"{taken.name} is assumed ({why}); {others} {verb} in {apart}"


def _named(members: tuple[Member, ...], hints: Mapping[str, str]) -> list[tuple[str, Member]]:
    """Members that a hint names, by name first, by library where that leaves one."""
    found: list[tuple[str, Member]] = []
    for where, text in hints.items():
        wanted = normalised(text)
        named = [member for member in members if normalised(member.name) == wanted]
        if where == FILE_NAME and not named:
            named = _in_file_name(members, text)
        of = library(text)
        if of is not None and len(named) != 1:
            named = [member for member in named or members if member.library == of]
        if len(named) == 1:
            found.append((where, named[0]))
        elif named and len({member.group for member in named}) == 1 and named[0].group >= 0:
            found.append((where, named[0]))
    return found


def _in_file_name(members: tuple[Member, ...], text: str) -> list[Member]:
    """The longest member's name that the file's name begins with, as in ``tf_efficientnet_b0_aa-827b6e33.pth``."""
    from re import sub

    stem = sub(r"[^a-z0-9]+", "_", text.lower()) + "_"
    begun = [member for member in members if stem.startswith(normalised(member.name) + "_")]
    longest = max((len(normalised(member.name)) for member in begun), default=0)
    return [member for member in begun if len(normalised(member.name)) == longest]


def identify_checkpoint(checkpoint: Checkpoint, choice: Choice) -> IdentifyResult:
    """The architecture of the model that `convert.select.choose` took from ``checkpoint``."""
    from convert.hints import hints

    tensors = {key: (tensor.shape, tensor.dtype.name) for key, tensor in choice.state_dict.tensors.items()}
    return identify(tensors, hints(checkpoint))


def identify_file(path: Path, *, select: str | None = None, ema: bool = False) -> list[tuple[str, IdentifyResult]]:
    """(model's name, result) for every model in the file; the name is empty for the only one."""
    from convert.select import choose
    from formats import registry

    with registry.open(path) as checkpoint:
        return [(choice.name, identify_checkpoint(checkpoint, choice)) for choice in choose(checkpoint, select=select, ema=ema)]
