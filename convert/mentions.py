"""What pickles name, as their evaluator notes it (`formats.core.inert.WATCHERS`), by name and severity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convert.severity import CRITICAL, ORDER, SUSPICIOUS, severity
from formats.core.inert import WATCHERS, Inert, Place
from formats.core.record import made, record


@record
class Mention:
    """One name: how often it would have been called, ``objects`` of the calls only to make an object, and in which pickles."""

    name: str
    calls: int
    objects: int
    where: list[str]

    @property
    def severity(self) -> str:
        return severity(self.name, self.calls, self.objects)

    def document(self) -> dict[str, Any]:
        return {"name": self.name, "calls": self.calls, "severity": self.severity, "where": self.where}


@record
class Audit:
    """What was named, the worst first; ``refused`` says why the file cannot be read, ``pickles`` how many were evaluated."""

    mentions: list[Mention]
    pickles: int
    results: int  # calls of what another call would have given
    incomplete: list[str] = made(factory=list)  # pickles that were refused on the way: what comes after is not known

    def document(self) -> list[dict[str, Any]]:
        return [mention.document() for mention in self.mentions]

    def count(self, *severities: str) -> int:
        return sum(mention.severity in severities for mention in self.mentions)

    @property
    def alarming(self) -> bool:
        return self.count(CRITICAL, SUSPICIOUS) > 0


class Notes:
    """What the evaluator tells, by place. A pickle that was evaluated again with more of its bytes counts once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: list[tuple[str, Inert]] = []
        self._open: dict[Place, int] = {}  # which of `found` did not end

    def note(self, place: Place, evaluation: Inert) -> None:
        index = self._open.pop(place, len(self.found))
        self.found[index:] = [(self.text(place), evaluation), *self.found[index + 1 :]]
        if not evaluation.ended:
            self._open[place] = index

    def text(self, place: Place) -> str:
        path, what = str(place[0]), place[1]
        inside = path[len(str(self.path)) :].lstrip("/\\") if path.startswith(str(self.path)) else path
        return f"{inside}: {what}" if inside else what

    def audit(self) -> Audit:
        mentions: dict[str, Mention] = {}
        results = 0
        for where, evaluation in self.found:
            results += sum(evaluation.results.values())
            for name in evaluation.names:
                mention = mentions.setdefault(name, Mention(name, 0, 0, []))
                mention.calls += evaluation.called.get(name, 0)
                mention.objects += evaluation.made.get(name, 0)
                if where not in mention.where:
                    mention.where.append(where)
        ordered = sorted(mentions.values(), key=lambda mention: (ORDER.index(mention.severity), -mention.calls, mention.name))
        incomplete = sorted({where for where, evaluation in self.found if evaluation.names and not evaluation.ended})
        return Audit(ordered, len(self.found), results, incomplete)


@contextmanager
def watching(path: Path) -> Iterator[Notes]:
    """Notes of every pickle that is evaluated while the block runs."""
    notes = Notes(path)
    WATCHERS.append(notes.note)
    try:
        yield notes
    finally:
        WATCHERS.remove(notes.note)
