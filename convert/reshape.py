"""What a job does to the keys of its models: rules, fills, a warm start; in this order, and reported."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from convert.job import KeyOptions
from convert.rule_text import rules_of, text_of
from convert.rules import KeyRules, summary
from convert.text import count
from formats import registry
from formats.core.checkpoint import StateDict
from formats.core.errors import AmbiguousCheckpoint, UsageError
from formats.core.files import located


@dataclass(slots=True)
class Change:
    """What became of one model: ``lines`` for people, ``document`` for JSON, ``account`` for the output's metadata."""

    lines: list[str] = field(default_factory=list)
    document: dict[str, Any] = field(default_factory=dict)
    account: dict[str, Any] = field(default_factory=dict)


class Reshaping:
    """The key options of one job; open, because the values of other checkpoints are read while the output is written."""

    def __init__(self, options: KeyOptions) -> None:
        self.options = options
        self.rules = KeyRules([])
        self.paths: list[Path] = []
        self._stack = ExitStack()
        self._like: StateDict | None = None
        self._into: StateDict | None = None

    def __enter__(self) -> Self:
        options = self.options
        if options.reverse and not options.rules:
            raise UsageError("--reverse undoes a rules file: --rules FILE names it")
        if options.like and not options.fill_missing:
            raise UsageError("--like names the checkpoint that --fill-missing takes values from")
        self.rules = rules_of(options)
        with self._stack as stack:
            self._like = None if options.like is None else self._model(located(options.like), "--like")
            self._into = None if options.into is None else self._model(located(options.into), "--into")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def _model(self, path: Path, option: str) -> StateDict:
        from convert.select import choose

        checkpoint = self._stack.enter_context(registry.open(path))
        choices = choose(checkpoint)
        if len(choices) > 1:
            names = ", ".join(choice.path for choice in choices)
            raise AmbiguousCheckpoint(f"holds {len(choices)} models: {names}", path=path, hint=f"{option} takes a file with one")
        self.paths.append(path)
        return choices[0].state_dict

    def apply(self, model: StateDict) -> tuple[StateDict, Change]:
        """``model`` as the options want it. No tensor is read."""
        from convert.warm_start import fill_missing, warm_start

        change = Change()
        made = self.rules.apply(model)
        if self.rules.rules:
            change.lines.append(f"keys: {summary(model, made)}")
            change.account["rules"] = text_of(self.rules)
        if self.options.fill_missing:
            made, filled = fill_missing(made, self.options.fill_missing, self._like)
            change.lines.append(f"filled in: {count(len(filled), 'tensor')}")
            change.account["filled"] = filled
        if self._into is not None:
            from convert.render_keys import transfer

            made, found = warm_start(made, self._into)
            change.lines += transfer(found)
            if found.dtypes:
                change.lines.append(
                    f"note: {count(len(found.dtypes), 'tensor')} taken over in another dtype than the model's, which loading casts"
                )
            change.document["warm_start"] = found.document()
            change.account["into"] = Path(self.options.into or "").name
        change.document |= {"tensors_before": len(model.tensors), "tensors_after": len(made.tensors), **change.account}
        return made, change

    def finish(self) -> list[str]:
        """Notes on rules of a file that met no key in any model; raises `UsageError` for such an option."""
        return [f"{origin}: the rule meets no key" for origin in self.rules.check_used()]
