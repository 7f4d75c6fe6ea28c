"""A parity report as one HTML page: no script, no request to anywhere, every text from a file escaped. Plots are inline SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from convert.text import shown

WIDTH = 920  # of a plot, in pixels
STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--soft:#6b7480;--line:#d5dae1;
--good:#1a7f4b;--bad:#c0392b;--unsure:#a86a00;--none:#7a828c}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--paper:#15181c;--soft:#99a2ad;--line:#353b43;--good:#4cc38a;--bad:#ff7b6b;--unsure:#e3a53c}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:980px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}p{margin:.4rem 0}
table{border-collapse:collapse;width:100%;font-size:14px}
td,th{text-align:left;padding:.25rem .6rem;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
th{color:var(--soft);font-weight:500}code,.mono{font-family:ui-monospace,monospace;font-size:13px}
.passed,.proved{color:var(--good)}.failed{color:var(--bad)}.inconclusive{color:var(--unsure)}.absent,.noted,.bytes{color:var(--none)}
.verdict{display:inline-block;border:2px solid;border-radius:6px;padding:.1rem .7rem;font-weight:600}
svg{width:100%;height:auto;display:block}svg text{font:11px system-ui,sans-serif;fill:var(--soft)}
details{margin:.5rem 0}summary{cursor:pointer}
.dot.passed,.bar.passed{fill:var(--good)}.dot.failed,.bar.failed{fill:var(--bad)}.dot.inconclusive,.bar.inconclusive{fill:var(--unsure)}
.axis{stroke:var(--line)}.limit{stroke:var(--bad);stroke-dasharray:4 3}pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:13px}
"""


def page(document: Mapping[str, Any], title: str = "Parity") -> str:
    """The page for a document of `convert.parity.outcome.Parity`."""
    verdict = str(document.get("verdict", ""))
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<meta name=viewport content='width=device-width'><title>{_text(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{_text(title)}</h1><p><span class='verdict {_class(verdict)}'>{_text(verdict)}</span></p>",
        f"<p>{_text(document.get('reason', ''), 1000)}</p>",
    ]
    parts += _diagnosis(document)
    parts.append("<h2>What was checked</h2>")
    parts.append(_table(
        ("step", "device", "result", "what was found", "s"),
        [_cells(row) for row in document.get("rows", [])],
        status=2,
    ))  # fmt: skip
    parts += _runs(document)
    parts += _probes(document)
    parts += _tensors(document)
    parts += _details(document)
    parts.append("</body></html>\n")
    return "\n".join(parts)


def _cells(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row.get("rung"), row.get("device", ""), row.get("status"), row.get("what"), f"{_value(row.get('seconds', 0)):.2f}"


def _diagnosis(document: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    worst = document.get("worst")
    if isinstance(worst, dict) and isinstance(worst.get("worst"), dict):
        at = worst["worst"]
        found.append(
            f"<p>Worst element: <code>{_text(worst.get('output'))}{_text(at.get('index'))}</code>, expected "
            f"<code>{_text(at.get('expected'))}</code>, got <code>{_text(at.get('got'))}</code>, ratio {_number(worst.get('ratio'))}.</p>"
        )
    lines = document.get("diagnosis") or []
    if lines:
        found.append("<h2>Where it comes from</h2><ol>" + "".join(f"<li>{_text(line, 1000)}</li>" for line in lines) + "</ol>")
    return found


def _runs(document: Mapping[str, Any]) -> list[str]:
    """One plot a device: a column for each sample of each output, its ratio on a logarithmic scale."""
    found = []
    by_device: dict[str, list[tuple[str, float, str]]] = {}
    for run in document.get("runs", []):
        for score in run.get("scores", []):
            where = f"{score.get('output')}, sample {score.get('sample')} of {run.get('inputs')}"
            label = f"{where}: {score.get('ratio')} {score.get('why', '')}"
            by_device.setdefault(str(run.get("device")), []).append((label, _value(score.get("ratio")), str(score.get("status"))))
    for device, points in by_device.items():
        found.append(f"<h2>Error of the outputs on {_text(device)}</h2>")
        found.append(
            "<p>‖candidate − float64‖ in units of eager float32's own error, 10 at most. Each dot is one sample of one output.</p>"
        )
        found.append(_plot(points))
    return found


def _probes(document: Mapping[str, Any]) -> list[str]:
    probes = document.get("probes") or []
    if not probes:
        return []
    points = [
        (
            f"{probe.get('layer')} ({probe.get('kind')}) on {probe.get('inputs')}: {probe.get('ratio')}",
            _value(probe.get("ratio")),
            str(probe.get("status")),
        )
        for probe in probes
    ]
    worst = sorted(probes, key=lambda probe: -_value(probe.get("ratio")))[:10]
    table = _table(
        ("layer", "kind", "input", "result", "ratio"),
        [(p.get("layer"), p.get("kind"), p.get("inputs"), p.get("status"), _number(p.get("ratio"))) for p in worst],
        status=3,
    )
    return ["<h2>Each layer alone</h2>", _plot(points), table]


def _tensors(document: Mapping[str, Any]) -> list[str]:
    """A strip with a cell for each weight: equal, or how far off."""
    row = next((row for row in document.get("rows", []) if row.get("rung") == "digests" and row.get("figures")), None)
    if row is None:
        return []
    figures = row["figures"]
    differing = figures.get("differing") or {}
    errors = figures.get("errors") or {}
    found = [
        "<h2>Weights</h2>",
        f"<p>{_text(row.get('what'), 600)}. sha256 of all: <code>{_text(figures.get('sha256'))}</code></p>",
    ]
    if errors:
        found.append("<p>‖output − source‖ / ‖source‖ of each weight that differs:</p>")
        found.append(_plot([(f"{key}: {value}", _value(value), "failed") for key, value in errors.items()], limit=None))
    if differing:
        found.append(
            _table(
                ("weight", "what differs", "relative error"),
                [(k, why, _number(errors.get(k))) for k, why in list(differing.items())[:200]],
            )
        )
    return found


def _details(document: Mapping[str, Any]) -> list[str]:
    environment = document.get("environment") or {}
    found = ["<h2>To repeat it</h2>"]
    rows = [(key, value) for key, value in (document.get("recipe") or {}).items()]
    rows += [(f"tolerance: {key}", value) for key, value in (document.get("tolerances") or {}).items()]
    rows += [(f"version: {key}", value) for key, value in (environment.get("versions") or {}).items()]
    rows += [
        (f"device: {device.get('name')}", device.get("title") or f"absent: {device.get('absent')}")
        for device in environment.get("devices") or []
    ]
    rows += [(key, environment[key]) for key in ("platform", "seed") if key in environment]
    found.append(_table(("", ""), rows))
    configuration = document.get("configuration") or {}
    if configuration:
        body = "".join(f"{_text(name or 'model')}: {_text(settings, 400)}\n" for name, settings in configuration.items())
        found.append(f"<details><summary>Configuration of {len(configuration):,} modules</summary><pre>{body}</pre></details>")
    return found


def _plot(points: Sequence[tuple[str, float, str]], limit: float | None = 10.0) -> str:
    """Values on a logarithmic scale from left to right; an infinite one sits on the upper edge."""
    height, left, top, bottom = 200, 46, 10, 18
    finite = [value for _, value, _ in points if math.isfinite(value) and value > 0]
    low = min([0.1 if limit else 1e-8, *finite])
    high = max([100.0 if limit else 1.0, *finite])
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))

    def place(value: float) -> float:
        if not value > 0:
            return float(height - bottom)
        power = min(math.log10(value), last) if math.isfinite(value) else last
        return top + (last - max(power, first)) / (last - first) * (height - top - bottom)

    marks = [f"<svg viewBox='0 0 {WIDTH} {height}' role=img>"]
    step = max(1, (last - first) // 8)
    for power in range(first, last + 1, step):
        y = place(10.0**power)
        marks.append(f"<line class=axis x1={left} x2={WIDTH} y1={y:.1f} y2={y:.1f} /><text x=2 y={y + 4:.1f}>1e{power}</text>")
    if limit:
        marks.append(f"<line class=limit x1={left} x2={WIDTH} y1={place(limit):.1f} y2={place(limit):.1f} />")
    width = (WIDTH - left - 8) / max(len(points), 1)
    for at, (label, value, status) in enumerate(points):
        x = left + 4 + (at + 0.5) * width
        radius = 3 if width > 4 else 2
        marks.append(
            f"<circle class='dot {_class(status)}' cx={x:.1f} cy={place(value):.1f} r={radius}><title>{_text(label)}</title></circle>"
        )
    return "".join(marks) + "</svg>"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], status: int | None = None) -> str:
    cells = "".join(f"<th>{_text(name)}</th>" for name in head) if any(head) else ""
    lines = [f"<table><tr>{cells}</tr>" if cells else "<table>"]
    for row in rows:
        lines.append("<tr>" + "".join(
            f"<td class={_class(str(value))}>{_text(value, 600)}</td>" if at == status else f"<td>{_text(value, 600)}</td>"
            for at, value in enumerate(row)
        ) + "</tr>")  # fmt: skip
    return "\n".join(lines) + "</table>"


def _class(status: str) -> str:
    """A class of the style sheet; never text from a file."""
    word = status.partition(" ")[0]
    return word if word in ("passed", "proved", "failed", "inconclusive", "absent", "noted", "bytes") else "none"


def _text(value: Any, limit: int = 200) -> str:
    return escape(shown("" if value is None else value, limit), quote=True)


def _value(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _number(value: Any) -> str:
    number = _value(value)
    return "" if value is None else f"{number:.3g}"
