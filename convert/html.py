"""What pages of this program are made of: one file, no request to anywhere, every text from a file escaped, plots as inline SVG.

Text from files is text or a number in a page and never script, style, class, address or id. The one script that a page may have is a
constant of this program, and the page's policy names its digest, so that a browser runs nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from convert import text as texts

WIDTH = 920  # of a plot, in pixels
STATUSES = frozenset((  # what a cell or a mark may be coloured by: the classes of the style sheet
    "passed", "proved", "failed", "inconclusive", "absent", "noted", "bytes", "done", "unchanged", "copied", "planned", "none",
))  # fmt: skip
STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--soft:#5d6670;--line:#d5dae1;--raised:#f5f7f9;--accent:#2563a8;
--good:#1a7f4b;--bad:#c0392b;--unsure:#96600a;--none:#6b737d}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--paper:#15181c;--soft:#a3acb7;--line:#353b43;--raised:#1d2126;--accent:#7ab3f0;
--good:#4cc38a;--bad:#ff7b6b;--unsure:#e3a53c;--none:#98a1ab}}
@media print{:root{color-scheme:light;--ink:#000;--paper:#fff;--soft:#444;--line:#bbb;--raised:#fff;--accent:#000;
--good:#1a7f4b;--bad:#c0392b;--unsure:#96600a;--none:#555}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:980px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}p{margin:.4rem 0}h1,h2,p,td,th,li,dd{overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;font-size:14px}
td,th{text-align:left;padding:.25rem .6rem;border-bottom:1px solid var(--line);vertical-align:top;unicode-bidi:isolate}
th{color:var(--soft);font-weight:500}code,.mono{font-family:ui-monospace,monospace;font-size:13px}
.passed,.proved,.done{color:var(--good)}.failed{color:var(--bad)}.inconclusive{color:var(--unsure)}
.absent,.noted,.bytes,.none,.unchanged,.copied,.planned{color:var(--none)}
.verdict{display:inline-block;border:2px solid;border-radius:6px;padding:.1rem .7rem;font-weight:600}
svg{width:100%;height:auto;display:block}svg text{font:11px system-ui,sans-serif;fill:var(--soft)}
details{margin:.5rem 0}summary{cursor:pointer}
.dot,.bar{fill:var(--none)}.dot.passed,.bar.passed,.bar.proved,.dot.done,.bar.done,.dot.bytes,.bar.bytes{fill:var(--good)}
.dot.failed,.bar.failed{fill:var(--bad)}.dot.inconclusive,.bar.inconclusive{fill:var(--unsure)}.bar.unchanged,.bar.copied,.dot.unchanged,.dot.copied{fill:var(--accent)}
.axis{stroke:var(--line)}.limit{stroke:var(--bad);stroke-dasharray:4 3}pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:13px}
"""


def shell(title: str, parts: Iterable[str], style: str = "", script: str = "") -> str:
    """The whole page. ``style`` and ``script`` are constants of this program."""
    allowed = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        allowed += f"; script-src 'sha256-{digest}'"
    head = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        f'<meta http-equiv=Content-Security-Policy content="{allowed}">',
        f"<meta name=viewport content='width=device-width'><title>{text(title)}</title><style>{STYLE}{style}</style></head><body>",
    ]
    end = [f"<script>{script}</script>"] if script else []
    return "\n".join([*head, *parts, *end, "</body></html>\n"])


def embedded(name: str, value: Any) -> str:
    """``value`` as JSON in the page, for the page's script to read; ``name`` is the element's id."""
    return f'<script type="application/json" id="{name}">{encoded(value)}</script>'


def encoded(value: Any) -> str:
    """JSON in which nothing can end an element or begin one. Text in it that is printable (`shown`) stays readable."""
    told = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029":
        told = told.replace(mark, f"\\u{ord(mark):04x}")
    return told


def text(value: Any, limit: int = 200) -> str:
    """What a file says, as text of an element or of a quoted attribute."""
    return texts.html(value, limit)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], status: int | None = None) -> str:
    """``status`` is the column that is coloured by what it says."""
    cells = "".join(f"<th scope=col>{text(name)}</th>" for name in head) if any(head) else ""
    lines = [f"<table><tr>{cells}</tr>" if cells else "<table>"]
    for row in rows:
        lines.append("<tr>" + "".join(
            f"<td class={status_class(str(value))}>{text(value, 600)}</td>" if at == status else f"<td>{text(value, 600)}</td>"
            for at, value in enumerate(row)
        ) + "</tr>")  # fmt: skip
    return "\n".join(lines) + "</table>"


def dots(points: Sequence[tuple[str, float, str]], limit: float | None = 10.0, across: int = WIDTH) -> str:
    """(label, value, status) from left to right on a logarithmic scale; an infinite value sits on the upper edge."""
    height, left, top, bottom = 200, 46, 10, 18
    scale = Scale([value for _, value, _ in points], height - bottom, top, 0.1 if limit else 1e-8, 100.0 if limit else 1.0)
    marks = [f"<svg viewBox='0 0 {across} {height}' role=img aria-label='{len(points)} values on a logarithmic scale'>"]
    for power in scale.powers():
        y = scale.place(10.0**power)
        marks.append(f"<line class=axis x1={left} x2={across} y1={y:.1f} y2={y:.1f} /><text x=2 y={y + 4:.1f}>1e{power}</text>")
    if limit:
        marks.append(f"<line class=limit x1={left} x2={across} y1={scale.place(limit):.1f} y2={scale.place(limit):.1f} />")
    width = (across - left - 8) / max(len(points), 1)
    for at, (label, value, status) in enumerate(points):
        x = left + 4 + (at + 0.5) * width
        radius = 3 if width > 4 else 2
        place = f"cx={x:.1f} cy={scale.place(value):.1f} r={radius}"
        marks.append(f"<circle class='dot {status_class(status)}' {place}><title>{text(label)}</title></circle>")
    return "".join(marks) + "</svg>"


class Scale:
    """A logarithmic axis over ``values``, and at least from ``low`` to ``high``, from pixel ``start`` to pixel ``end``."""

    def __init__(self, values: Iterable[float], start: float, end: float, low: float, high: float) -> None:
        finite = [value for value in values if math.isfinite(value) and value > 0]
        self.first = math.floor(math.log10(min([low, *finite])))
        self.last = max(math.ceil(math.log10(max([high, *finite]))), self.first + 1)
        self.start, self.end = start, end

    def place(self, value: float) -> float:
        """The pixel; 0, less and NaN lie at the start, infinity at the end."""
        if not value > 0:
            return self.start
        power = math.log10(value) if math.isfinite(value) else self.last
        part = (min(max(power, self.first), self.last) - self.first) / (self.last - self.first)
        return self.start + part * (self.end - self.start)

    def powers(self, most: int = 8) -> range:
        """Powers of ten to mark, about ``most`` of them."""
        return range(self.first, self.last + 1, max(1, (self.last - self.first) // most))


def status_class(status: str) -> str:
    """A class of the style sheet; never text from a file."""
    word = status.partition(" ")[0]
    return word if word in STATUSES else "none"


def figure(value: Any) -> float:
    """``value`` as a number; NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def number(value: Any) -> str:
    return "" if value is None else f"{figure(value):.3g}"
