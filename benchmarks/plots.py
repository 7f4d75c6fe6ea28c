"""Pictures for docs/performance.md, as SVG text: no library draws them, so that a figure that changes is a line that changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from benchmarks.figures import Spread

WIDTH, LEFT, RIGHT, ROW, TOP = 860, 330, 40, 26, 64
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#999999", "#cc79a7")  # told apart by colour-blind readers
MARKS = ("circle", "diamond", "square", "bar", "circle")
INK, FAINT = "#222222", "#d8d8d8"


@dataclass(frozen=True)
class Line:
    """One row of a dot plot: a value for each series that has one, and a limit."""

    label: str
    values: dict[str, Spread]
    limits: dict[str, float] = field(default_factory=dict)


def dots(title: str, unit: str, rows: Sequence[Line], series: Mapping[str, int]) -> str:
    """Rows of marks on a logarithmic axis; a thin line spans the quartiles, a tick of the same colour is what is to be reached.

    ``series``: name → which colour and mark.
    """
    every = [value for row in rows for spread in row.values.values() for value in (spread.low, spread.high)]
    every += [limit for row in rows for limit in row.limits.values()]
    low, high = min(every) / 1.15, max(every) * 1.15
    height = TOP + ROW * len(rows) + 44

    def at(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(value / low) / math.log(high / low)

    parts = [_text(12, 22, title, size=15, weight="bold"), *_legend(series)]
    bottom = TOP + ROW * len(rows)
    for tick in _ticks(low, high):
        parts.append(_rule(at(tick), TOP - 6, at(tick), bottom, INK if tick == 1 else FAINT))
        parts.append(_text(at(tick), bottom + 16, f"{tick:g}", anchor="middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, bottom + 34, unit, anchor="middle"))
    for number, row in enumerate(rows):
        y = TOP + ROW * (number + 0.5)
        parts.append(_text(LEFT - 12, y + 4, row.label, anchor="end"))
        for name, index in series.items():
            colour = COLOURS[index]
            if name in row.limits:
                parts.append(_rule(at(row.limits[name]), y - 10, at(row.limits[name]), y + 10, colour, width=2))
            if name in row.values:
                spread = row.values[name]
                parts.append(_rule(at(spread.low), y, at(spread.high), y, colour, width=2))
                parts.append(_mark(MARKS[index], at(spread.median), y, colour))
    return _svg(WIDTH, height, parts)


@dataclass(frozen=True)
class Growth:
    """Medians and quartiles of cost in seconds over size, and the exponent in words."""

    title: str
    sizes: Sequence[float]
    costs: Sequence[Spread]
    exponent: str


def growth(panels: Sequence[Growth]) -> str:
    """A panel for each, both axes logarithmic; the dashed line is proportional cost."""
    side, gap = 230, 56
    width = gap + (side + gap) * len(panels)
    parts: list[str] = []
    for number, panel in enumerate(panels):
        left, top = gap + (side + gap) * number, 50
        x0, x1 = min(panel.sizes) / 1.6, max(panel.sizes) * 1.6
        lows = [spread.low for spread in panel.costs] + [panel.costs[-1].median * panel.sizes[0] / panel.sizes[-1]]
        y0, y1 = min(lows) / 1.6, max(spread.high for spread in panel.costs) * 1.6

        def across(value: float, left: float = left, x0: float = x0, x1: float = x1) -> float:
            return left + side * math.log(value / x0) / math.log(x1 / x0)

        def up(value: float, top: float = top, y0: float = y0, y1: float = y1) -> float:
            return top + side * (1 - math.log(value / y0) / math.log(y1 / y0))

        parts.append(_text(left, 20, panel.title, weight="bold"))
        parts.append(_text(left, 38, panel.exponent))
        for tick in _ticks(y0, y1, (1,)):
            parts.append(_rule(left, up(tick), left + side, up(tick), FAINT))
            parts.append(_text(left - 4, up(tick) + 4, f"{tick:g} s", anchor="end", size=10))
        for size in panel.sizes:
            parts.append(_text(across(size), top + side + 16, _short(size), anchor="middle"))
        end, first = panel.costs[-1].median, panel.sizes[0] / panel.sizes[-1]
        dashes = _rule(across(panel.sizes[0]), up(end * first), across(panel.sizes[-1]), up(end), "#999999")
        parts.append(dashes.replace("/>", ' stroke-dasharray="4 4"/>'))
        points = " ".join(
            f"{across(size):.1f},{up(spread.median):.1f}" for size, spread in zip(panel.sizes, panel.costs, strict=True)
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[0]}" stroke-width="2"/>')
        for size, spread in zip(panel.sizes, panel.costs, strict=True):
            parts.append(_rule(across(size), up(spread.low), across(size), up(spread.high), COLOURS[0], width=2))
            parts.append(_mark("circle", across(size), up(spread.median), COLOURS[0]))
    return _svg(width, 50 + side + 34, parts)


def _short(size: float) -> str:
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if size >= unit:
            return f"{size / unit:g}{name}"
    return f"{size:g}"


def _ticks(low: float, high: float, steps: Sequence[int] = (1, 2, 5)) -> Iterator[float]:
    if high / low > 300:
        steps = (1,)
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for step in steps:
            tick = float(f"{step}e{power}")
            if low <= tick <= high:
                yield tick


def _legend(series: Mapping[str, int]) -> Iterator[str]:
    x = 12.0
    for name, index in series.items():
        yield _mark(MARKS[index], x + 6, 40, COLOURS[index])
        yield _text(x + 18, 44, name)
        x += 34 + 6.6 * len(name)


def _mark(kind: str, x: float, y: float, colour: str) -> str:
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>'
    if kind == "diamond":
        return f'<path d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z" fill="{colour}"/>'
    width, height = (4, 12) if kind == "bar" else (9, 9)
    return f'<rect x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width}" height="{height}" fill="{colour}"/>'


def _rule(x0: float, y0: float, x1: float, y1: float, colour: str, *, width: int = 1) -> str:
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, weight: str = "normal") -> str:
    bold = ' font-weight="bold"' if weight == "bold" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{INK}"{bold}>{escape(text)}</text>'


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>', *parts, "</svg>"]) + "\n"
