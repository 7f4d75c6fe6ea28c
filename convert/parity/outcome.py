"""What a parity check found, as data: the rows of the ladder, the scores, the verdict. Text, JSON and HTML are made from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from convert.parity.criterion import FACTOR, FAILED, FLOOR, ILL_CONDITIONED, INCONCLUSIVE, PASSED, UNIT, Score, band
from convert.text import count, shown
from formats.core.errors import ParityFailed

PROVED, BYTES_ONLY = "proved", "bytes only"
ABSENT, NOTED = "absent", "noted"  # a device that is not there is no pass; a note decides nothing

DIGESTS, CONFIGURATION, RUN, PROBES = "digests", "configuration", "run", "probes"


@dataclass(slots=True)
class Row:
    """One step of the ladder on one device: ``status`` passed, failed, inconclusive, absent or noted, and what was found."""

    rung: str
    status: str
    what: str
    device: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = {"rung": self.rung, "status": self.status, "what": self.what}
        if self.device:
            found["device"] = self.device
        if self.figures:
            found["figures"] = self.figures
        found["seconds"] = round(self.seconds, 3)
        return found


@dataclass(slots=True)
class Run:
    """All scores of one set of inputs on one device."""

    device: str
    sample: str  # kind and batch size
    scores: list[Score]

    def document(self) -> dict[str, Any]:
        return {"device": self.device, "inputs": self.sample, "scores": [score.document() for score in self.scores]}


@dataclass(slots=True)
class Probe:
    """One layer run alone on its own input and on N(0, 1): the worse of the two."""

    layer: str
    kind: str  # the module's class
    inputs: str
    status: str
    ratio: float
    error: float
    why: str = ""

    def document(self) -> dict[str, Any]:
        ratio = self.ratio if math.isfinite(self.ratio) else str(self.ratio)
        error = self.error if math.isfinite(self.error) else str(self.error)
        found = {
            "layer": self.layer,
            "kind": self.kind,
            "inputs": self.inputs,
            "status": self.status,
            "ratio": ratio,
            "error": error,
        }
        return found | ({"why": self.why} if self.why else {})


@dataclass(slots=True)
class Parity:
    """The whole finding. ``recipe`` is what a replay needs; ``environment`` says with what and where it was found."""

    rows: list[Row] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    configuration: dict[str, dict[str, Any]] = field(default_factory=dict)  # module → its settings
    diagnosis: list[str] = field(default_factory=list)  # what bisecting found
    notes: list[str] = field(default_factory=list)  # what was assumed
    no_program: str = ""  # why nothing could be run
    unit: float = UNIT  # unit roundoff of the precision that the model declares
    recipe: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def scores(self) -> list[Score]:
        return [score for run in self.runs for score in run.scores]

    @property
    def verdict(self) -> str:
        """``proved`` (bytes and run), ``bytes only``, ``inconclusive`` or ``failed``."""
        states = {row.status for row in self.rows}
        if FAILED in states:
            return FAILED
        ran = [row for row in self.rows if row.rung == RUN and row.status in (PASSED, INCONCLUSIVE)]
        proved_bytes = any(row.rung == DIGESTS and row.status == PASSED for row in self.rows)
        if not ran:
            return BYTES_ONLY if proved_bytes and INCONCLUSIVE not in states else INCONCLUSIVE
        if INCONCLUSIVE in states or not proved_bytes:
            return INCONCLUSIVE
        return PROVED

    @property
    def exit(self) -> int:
        return ParityFailed.exit_code if self.verdict == FAILED else 0

    @property
    def worst(self) -> Score | None:
        """The score furthest from a pass."""
        judged = [score for score in self.scores if not math.isnan(score.ratio)]
        return max(judged, key=lambda score: (score.status == FAILED, score.ratio), default=None)

    @property
    def reason(self) -> str:
        """One sentence behind the verdict."""
        for status in (FAILED, INCONCLUSIVE):
            for row in self.rows:
                if row.status == status:
                    return f"{row.rung}{f' on {row.device}' if row.device else ''}: {row.what}"
        if self.verdict == PROVED:
            devices = ", ".join(dict.fromkeys(row.device for row in self.rows if row.rung == RUN and row.status == PASSED))
            return f"every weight has its digest, and the outputs agree on {devices}"
        if self.no_program:
            return f"every weight has its digest; nothing was run: {self.no_program}"
        return "the weights were not proved by digest" if self.runs else "nothing was compared"

    def document(self) -> dict[str, Any]:
        worst = self.worst
        found: dict[str, Any] = {
            "verdict": self.verdict,
            "reason": self.reason,
            "exit": self.exit,
            "rows": [row.document() for row in self.rows],
            "runs": [run.document() for run in self.runs],
            "probes": [probe.document() for probe in self.probes],
            "configuration": self.configuration,
            "diagnosis": self.diagnosis,
            "notes": self.notes,
            "tolerances": {
                "factor": FACTOR,
                "floor": FLOOR * self.unit,
                "ill_conditioned": ILL_CONDITIONED,
                "bit_equal": "same device, same program",
            },
            "recipe": self.recipe,
            "environment": self.environment,
        }
        if worst is not None:
            found["worst"] = worst.document()
        return found

    def lines(self) -> list[str]:
        """The verdict, then a line a row; printable."""
        lines = [f"{self.verdict}: {shown(self.reason, 400)}"]
        for row in self.rows:
            place = f" {row.device}" if row.device else ""
            lines.append(f"  {row.rung}{place}: {row.status}: {shown(row.what, 300)}")
        worst = self.worst
        if worst is not None and worst.worst is not None:
            at = worst.worst
            lines.append(
                f"  worst element: {shown(worst.output)}{list(at.index)} of sample {worst.sample}: "
                f"expected {at.expected:.9g}, got {at.got:.9g} (ratio {worst.ratio:.3g})"
            )
            precision = band(worst.ratio)
            if precision and worst.status == FAILED:
                lines.append(f"  a ratio of {worst.ratio:.3g} is what {precision} gives: is it on in one of the two?")
        guilty = [probe for probe in self.probes if probe.status == FAILED]
        for probe in guilty[:5]:
            lines.append(f"  layer {shown(probe.layer)} ({probe.kind}): {shown(probe.why, 200)}")
        if len(guilty) > 5:
            lines.append(f"  and {count(len(guilty) - 5, 'layer')} more")
        lines += [f"  {shown(line, 400)}" for line in self.diagnosis]
        lines += [f"  note: {shown(note, 400)}" for note in self.notes]
        return lines
