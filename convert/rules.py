"""Rules that choose and rename the keys of a state dict. Each is a function of one key; no tensor is read.

Rules run one after the other, each on what the one before made of the keys. Two keys with one name at the end are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Any, Protocol

from convert.text import count
from formats.core.checkpoint import Ordered, StateDict
from formats.core.errors import UsageError


class Rule(Protocol):
    """``origin`` is where the user wrote the rule; a ``required`` one that meets no key is an error. ``met`` counts keys."""

    origin: str
    required: bool
    met: int

    def renamed(self, key: str) -> str | None:
        """The new name of ``key``; the same where the rule does not meet it, None where the key goes."""
        ...


@dataclass(slots=True)
class Prefix:
    """``old`` at a key's beginning becomes ``new``: stripped where ``new`` is empty, added to every key where ``old`` is."""

    old: str
    new: str
    origin: str = ""
    required: bool = False
    met: int = 0

    def renamed(self, key: str) -> str | None:
        if not key.startswith(self.old):
            return key
        self.met += 1
        return self.new + key[len(self.old) :]


@dataclass(slots=True)
class Rename:
    """Every match of the regular expression ``pattern`` becomes ``text``, as `re.sub` does it."""

    pattern: str
    text: str
    origin: str = ""
    required: bool = False
    met: int = 0
    _compiled: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        place = self.origin or f"rename {self.pattern}"
        try:
            self._compiled = re.compile(self.pattern)
            self._compiled.sub(self.text, "")
            re.sub(f"(?:{self.pattern})|", self.text, "")  # matches even where the pattern itself does not: checks the text
        except (re.error, IndexError) as error:
            raise UsageError(f"{place:.300}: is no regular expression with its replacement: {error}") from error

    def renamed(self, key: str) -> str | None:
        name, times = self._compiled.subn(self.text, key)
        self.met += times > 0
        return name


@dataclass(slots=True)
class Exact:
    """Whole keys by name, all at once, so that two may change places."""

    names: dict[str, str]
    origin: str = ""
    required: bool = False
    met: int = 0

    def renamed(self, key: str) -> str | None:
        name = self.names.get(key)
        if name is None:
            return key
        self.met += 1
        return name


@dataclass(slots=True)
class Keep:
    """Only keys that fit one of the shell patterns stay (``keep``), or none of them (not ``keep``). ``*`` matches dots too."""

    patterns: tuple[str, ...]
    keep: bool
    origin: str = ""
    required: bool = False
    met: int = 0
    _compiled: list[re.Pattern[str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._compiled = [re.compile(translate(pattern)) for pattern in self.patterns]

    def renamed(self, key: str) -> str | None:
        fits = any(pattern.match(key) for pattern in self._compiled)
        self.met += fits
        return key if fits == self.keep else None


@dataclass(slots=True)
class KeyRules:
    """Rules in their order. `apply` may be called for several models of one file; `unused` and `check_used` speak of all of them."""

    rules: Sequence[Rule]

    def names(self, keys: Iterable[str]) -> dict[str, str]:
        """{key: its new name} of the keys that stay. Raises `UsageError` where two get one name, or one gets none."""
        found: dict[str, str] = {}
        source: dict[str, str] = {}
        for key in keys:
            name = self.name(key)
            if name is None:
                continue
            if name in source:
                raise UsageError(
                    f"keys {source[name]!r:.120} and {key!r:.120} would both be named {name!r:.120}",
                    hint="drop one of them (--drop), or rename it to something else",
                )
            if name != key and (not name or name.startswith(".") or name.endswith(".")):
                raise UsageError(
                    f"key {key!r:.120} would be named {name!r:.120}", hint="a prefix is written with its dot, as in model."
                )
            source[name] = key
            found[key] = name
        return found

    def name(self, key: str) -> str | None:
        """The new name of ``key``, None where it goes."""
        for rule in self.rules:
            renamed = rule.renamed(key)
            if renamed is None:
                return None
            key = renamed
        return key

    def apply(self, model: StateDict) -> StateDict:
        """``model`` under its new names, in its order; the versions of modules (``_metadata``) move along."""
        if not self.rules:
            return model
        names = self.names(model.tensors)
        if model.tensors and not names:
            raise UsageError("no key is left: the patterns of --only and --drop leave out every one")
        tensors = {name: model.tensors[key] for key, name in names.items()}
        if all(key == name for key, name in names.items()) and len(names) == len(model.tensors):
            return model
        return StateDict(tensors, _versions(model.versions, model.tensors, names, self))

    def unused(self) -> list[str]:
        """Where the rules that met no key were written."""
        return [rule.origin for rule in self.rules if not rule.met]

    def check_used(self) -> list[str]:
        """The optional rules that met no key; raises `UsageError` for a required one."""
        for rule in self.rules:
            if rule.required and not rule.met:
                raise UsageError(
                    f"{rule.origin:.300} meets none of the keys",
                    hint="convert inspect SOURCE lists them; prefixes of wrappers are gone by then",
                )
        return self.unused()


def _versions(versions: dict[Any, Any] | None, keys: Iterable[str], names: dict[str, str], rules: KeyRules) -> Any:
    """``_metadata`` with the modules' new names. A module goes where its tensors went; one without any, where a tensor of its would go."""
    if versions is None:
        return None
    places: dict[str, set[str | None]] = {}
    for key in keys:
        name = names.get(key)
        at = key.find(".")
        while at >= 0:
            module, rest = key[:at], key[at:]
            places.setdefault(module, set()).add(
                None if name is None else name[: -len(rest)] if name.endswith(rest) and len(name) > len(rest) else ""
            )
            at = key.find(".", at + 1)
    moved = Ordered()
    for module, version in versions.items():
        if not isinstance(module, str):
            continue
        place: str | None = ""
        if module:
            found = places.get(module)
            if found is None:
                place = _probe(module, rules)
            else:
                there = found - {None}
                place = there.pop() if len(there) == 1 else None
                place = place or None
        if place is not None and place not in moved:
            moved[place] = version
    return moved


def _probe(module: str, rules: KeyRules) -> str | None:
    met = [rule.met for rule in rules.rules]
    name = rules.name(f"{module}.weight")
    for rule, times in zip(rules.rules, met, strict=True):
        rule.met = times
    return name[: -len(".weight")] if name is not None and name.endswith(".weight") and len(name) > len(".weight") else None


def summary(before: StateDict, after: StateDict) -> str:
    """What rules did, in one line."""
    gone = len(before.tensors) - len(after.tensors)
    same = sum(key in after.tensors and after.tensors[key] is tensor for key, tensor in before.tensors.items())
    renamed = len(after.tensors) - same
    parts = [f"{count(renamed, 'key')} renamed"] if renamed else []
    if gone:
        parts.append(f"{count(gone, 'tensor')} left out")
    return ", ".join(parts) or "no key changed"
