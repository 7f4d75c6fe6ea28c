"""A parity report as one HTML page: no script, no request to anywhere, every text from a file escaped. Plots are inline SVG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convert.html import dots, figure, number, shell, status_class, table, text


def page(document: Mapping[str, Any], title: str = "Parity") -> str:
    """The page for a document of `convert.parity.outcome.Parity`."""
    verdict = str(document.get("verdict", ""))
    parts = [
        f"<h1>{text(title)}</h1><p><span class='verdict {status_class(verdict)}'>{text(verdict)}</span></p>",
        f"<p>{text(document.get('reason', ''), 1000)}</p>",
    ]
    parts += _diagnosis(document)
    parts.append("<h2>What was checked</h2>")
    parts.append(table(
        ("step", "device", "result", "what was found", "s"),
        [_cells(row) for row in document.get("rows", [])],
        status=2,
    ))  # fmt: skip
    parts += _runs(document)
    parts += _probes(document)
    parts += _tensors(document)
    parts += _details(document)
    return shell(title, parts)


def _cells(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row.get("rung"), row.get("device", ""), row.get("status"), row.get("what"), f"{figure(row.get('seconds', 0)):.2f}"


def _diagnosis(document: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    worst = document.get("worst")
    if isinstance(worst, dict) and isinstance(worst.get("worst"), dict):
        at = worst["worst"]
        found.append(
            f"<p>Worst element: <code>{text(worst.get('output'))}{text(at.get('index'))}</code>, expected "
            f"<code>{text(at.get('expected'))}</code>, got <code>{text(at.get('got'))}</code>, ratio {number(worst.get('ratio'))}.</p>"
        )
    lines = document.get("diagnosis") or []
    if lines:
        found.append("<h2>Where it comes from</h2><ol>" + "".join(f"<li>{text(line, 1000)}</li>" for line in lines) + "</ol>")
    return found


def _runs(document: Mapping[str, Any]) -> list[str]:
    """One plot a device: a column for each sample of each output, its ratio on a logarithmic scale."""
    found = []
    by_device: dict[str, list[tuple[str, float, str]]] = {}
    for run in document.get("runs", []):
        for score in run.get("scores", []):
            where = f"{score.get('output')}, sample {score.get('sample')} of {run.get('inputs')}"
            label = f"{where}: {score.get('ratio')} {score.get('why', '')}"
            by_device.setdefault(str(run.get("device")), []).append((label, figure(score.get("ratio")), str(score.get("status"))))
    for device, points in by_device.items():
        found.append(f"<h2>Error of the outputs on {text(device)}</h2>")
        found.append(
            "<p>‖candidate − float64‖ in units of eager float32's own error, 10 at most. Each dot is one sample of one output.</p>"
        )
        found.append(dots(points))
    return found


def _probes(document: Mapping[str, Any]) -> list[str]:
    probes = document.get("probes") or []
    if not probes:
        return []
    points = [
        (
            f"{probe.get('layer')} ({probe.get('kind')}) on {probe.get('inputs')}: {probe.get('ratio')}",
            figure(probe.get("ratio")),
            str(probe.get("status")),
        )
        for probe in probes
    ]
    worst = sorted(probes, key=lambda probe: -figure(probe.get("ratio")))[:10]
    found = table(
        ("layer", "kind", "input", "result", "ratio"),
        [(p.get("layer"), p.get("kind"), p.get("inputs"), p.get("status"), number(p.get("ratio"))) for p in worst],
        status=3,
    )
    return ["<h2>Each layer alone</h2>", dots(points), found]


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
        f"<p>{text(row.get('what'), 600)}. sha256 of all: <code>{text(figures.get('sha256'))}</code></p>",
    ]
    if errors:
        found.append("<p>‖output − source‖ / ‖source‖ of each weight that differs:</p>")
        found.append(dots([(f"{key}: {value}", figure(value), "failed") for key, value in errors.items()], limit=None))
    if differing:
        found.append(
            table(
                ("weight", "what differs", "relative error"),
                [(k, why, number(errors.get(k))) for k, why in list(differing.items())[:200]],
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
    found.append(table(("", ""), rows))
    configuration = document.get("configuration") or {}
    if configuration:
        body = "".join(f"{text(name or 'model')}: {text(settings, 400)}\n" for name, settings in configuration.items())
        found.append(f"<details><summary>Configuration of {len(configuration):,} modules</summary><pre>{body}</pre></details>")
    return found
