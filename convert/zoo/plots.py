"""Plots of a migration as inline SVG: sizes, times, parity. However many checkpoints there are, a plot has at most `MOST` marks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from convert.html import Scale, dots, figure, status_class, text
from convert.text import count, size

MOST = 800
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 460, 200, 46, 22, 8


def plots(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those for which there is something to draw."""
    made = [_sizes(rows), _times(rows), _parity(rows)]
    return ["<div class=plots>", *filter(None, made), "</div>"] if any(made) else []


def _sizes(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many checkpoints of which size: three columns to a power of ten."""
    sized = [(float(row["bytes"]), str(row["status"])) for row in rows if figure(row.get("bytes")) > 0]
    if not sized:
        return ""
    scale = Scale([value for value, _ in sized], 0, 1, 1e3, 1e4)
    columns = 3 * (scale.last - scale.first)
    heights: dict[int, Counter[str]] = {}
    for value, status in sized:
        at = min(columns - 1, int(scale.place(value) * columns))
        heights.setdefault(at, Counter())["failed" if status == "failed" else "done"] += 1
    most = max(sum(column.values()) for column in heights.values())
    width = (WIDTH - LEFT - 4) / columns
    marks = [_frame("checkpoints by size")]
    step = max(1, math.ceil(most / 4))
    for tick in range(0, most + 1, step):
        y = HEIGHT - BOTTOM - tick / most * (HEIGHT - BOTTOM - TOP)
        marks.append(f"<line class=axis x1={LEFT} x2={WIDTH} y1={y:.1f} y2={y:.1f} />")
        marks.append(f"<text x={LEFT - 6} y={y + 4:.1f} text-anchor=end>{tick:,}</text>")
    marks += _sizes_below(scale)
    for at, column in sorted(heights.items()):
        y = float(HEIGHT - BOTTOM)
        low = 10 ** (scale.first + at / 3)
        span = f"{size(round(low))} to {size(round(low * 10 ** (1 / 3)))}"
        for status in ("done", "failed"):
            if column[status]:
                tall = column[status] / most * (HEIGHT - BOTTOM - TOP)
                y -= tall
                said = f"{span}: {count(column[status], 'checkpoint')}{' failed' if status == 'failed' else ''}"
                marks.append(
                    f"<rect class='bar {status}' x={LEFT + at * width + 1:.1f} y={y:.1f} width={max(width - 2, 1):.1f} "
                    f"height={tall:.1f}><title>{text(said)}</title></rect>"
                )
    return _figure("Sizes", "How many checkpoints of which size.", marks)


def _times(rows: Sequence[Mapping[str, Any]]) -> str:
    """Time against size, both logarithmic, with lines of equal speed."""
    points = [
        (float(row["bytes"]), float(row["seconds"]), str(row["status"]), str(row["source"]))
        for row in rows if figure(row.get("bytes")) > 0 and figure(row.get("seconds")) > 0
    ]  # fmt: skip
    if not points:
        return ""
    across = Scale([x for x, *_ in points], LEFT + 4, WIDTH - 6, 1e3, 1e4)
    up = Scale([y for _, y, *_ in points], HEIGHT - BOTTOM, TOP, 0.01, 1.0)
    marks = [_frame("time against size of each checkpoint")]
    for power in up.powers(5):
        y = up.place(10.0**power)
        name = f"{10**power:,} s" if power >= 0 else f"{10 ** (power + 3)} ms" if power >= -3 else f"{10 ** (power + 6)} µs"
        marks.append(f"<line class=axis x1={LEFT} x2={WIDTH} y1={y:.1f} y2={y:.1f} />")
        marks.append(f"<text x={LEFT - 6} y={y + 4:.1f} text-anchor=end>{name}</text>")
    marks += _sizes_below(across)
    for speed in (1e6, 1e8, 1e10):  # bytes a second
        low = max(10.0**across.first, speed * 10.0**up.first)
        high = min(10.0**across.last, speed * 10.0**up.last)
        if low < high:
            x1, x2, y1, y2 = across.place(low), across.place(high), up.place(low / speed), up.place(high / speed)
            marks.append(f"<line class=axis stroke-dasharray='2 4' x1={x1:.1f} x2={x2:.1f} y1={y1:.1f} y2={y2:.1f} />")
            marks.append(f"<text x={x2 - 3:.1f} y={y2 + 11:.1f} text-anchor=end>{size(int(speed))}/s</text>")
    # Where there are many, those that fall on one spot are one mark.
    places: dict[tuple[int, int], list[tuple[float, float, str, str]]] = {}
    grid = 1 if len(points) <= MOST else math.ceil(math.sqrt(WIDTH * HEIGHT / MOST))
    for point in points:
        spot = (int(across.place(point[0]) / grid), int(up.place(point[1]) / grid))
        places.setdefault(spot, []).append(point)
    for together in places.values():
        x, y, _, name = together[0]
        status = "failed" if any(point[2] == "failed" for point in together) else together[0][2]
        said = f"{name}: {size(int(x))} in {y:.3g} s" + (f", and {len(together) - 1:,} more" if len(together) > 1 else "")
        radius = min(2.5 + math.log10(len(together)), 6.0)
        marks.append(
            f"<circle class='dot {status_class(status)}' cx={across.place(x):.1f} cy={up.place(y):.1f} r={radius:.1f} fill-opacity=.7>"
            f"<title>{text(said)}</title></circle>"
        )
    return _figure("Times", "The time of each conversion against the size of its source; dotted lines are equal speed.", marks)


def _parity(rows: Sequence[Mapping[str, Any]]) -> str:
    """The error of every model that was run; the largest, where there are too many to draw."""
    points = [
        (f"{row['source']}: {row['ratio']}", figure(row["ratio"]), str(row.get("verdict", "")))
        for row in rows if row.get("ratio") is not None
    ]  # fmt: skip
    if not points:
        return ""
    points.sort(key=lambda point: -point[1] if point[1] == point[1] else -math.inf)
    left_out = f" The {MOST} largest of {len(points):,}." if len(points) > MOST else ""
    said = f"The largest error of each model that was run, in units of float32's own; 10 at most.{left_out}"
    return f"<figure><h3>Parity</h3><figcaption>{said}</figcaption>{dots(points[:MOST], across=WIDTH)}</figure>"


def _frame(what: str) -> str:
    return f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role=img aria-label='{what}'>"


def _sizes_below(scale: Scale) -> list[str]:
    marks = []
    for power in scale.powers(6):
        part = (power - scale.first) / (scale.last - scale.first)
        anchor = "start" if part == 0 else "end" if part == 1 else "middle"
        x = LEFT + 4 + part * (WIDTH - LEFT - 10)
        marks.append(f"<text x={x:.1f} y={HEIGHT - 6} text-anchor={anchor}>{size(10**power) if power >= 0 else ''}</text>")
    return marks


def _figure(title: str, caption: str, marks: list[str]) -> str:
    return f"<figure><h3>{title}</h3><figcaption>{caption}</figcaption>{''.join(marks)}</svg></figure>"
