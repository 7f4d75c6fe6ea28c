"""A migration as one HTML page: totals, plots, failures with their reasons, and a table that sorts and filters.

The rows stand in the page as JSON; a constant script of this program, which the page's policy admits by its digest, shows a hundred of
them at a time, as text. Without the script the totals, plots and failures are there all the same. However many rows there are and
whatever they say, the page keeps within `BYTES`: details go first, then rows, never a failure before a success, and the page says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from convert.html import STATUSES, embedded, encoded, shell, status_class, table, text
from convert.text import count, shown, size
from convert.zoo.plots import plots

BYTES = 16_000_000  # of the rows in a page; those with their details half of it
LISTED = 200  # failures that are spelled out above the table
SHOWN = ("done", "unchanged", "copied", "planned", "failed")
COLUMNS = ("source", "status", "format", "model found", "architecture", "size", "time", "verdict")
LEAST_SIZE = ((1e3, "1 kB"), (1e6, "1 MB"), (1e8, "100 MB"), (1e9, "1 GB"), (1e10, "10 GB"))
LEAST_TIME = ((0.1, "0.1 s"), (1, "1 s"), (10, "10 s"), (60, "1 min"), (600, "10 min"))


def page(document: Mapping[str, Any]) -> str:
    """The page for a document of `convert.zoo.document`."""
    rows: Sequence[Mapping[str, Any]] = document.get("rows") or []
    settings = document.get("settings") or {}
    title = f"Migration of {shown(settings.get('source', ''), 300)}"
    parts = [*_head(document, settings), *_totals(document, rows), *_failures(rows), *plots(rows), *_table(rows)]
    parts += [*_ignored(document.get("ignored") or []), *_settings(document, settings)]
    return shell(title, parts, _constant("page.css"), _constant("page.js"))


def _constant(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _head(document: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    status = str(document.get("status", ""))
    targets = ", ".join(str(target) for target in settings.get("targets") or ())
    place = f"<b>{text(settings.get('source', ''), 300)}</b> to <b>{text(settings.get('destination', ''), 300)}</b>"
    return [
        f"<header><h1>Migration to {text(targets)}</h1><p>{place}</p><p><span class='verdict {status_class(status)}'>{text(status)}</span>",
        f"<span class=soft>{text(_time(document.get('started')))}, {_seconds(document.get('seconds'))},",
        f"{text(document.get('tool', ''))}</span></p></header>",
    ]


def _totals(document: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    totals = document.get("totals") or {}
    seconds = sum(float(row.get("seconds") or 0) for row in rows)
    nbytes_in, nbytes_out = int(totals.get("bytes_in", 0)), int(totals.get("bytes_out", 0))
    ignored = int(totals.get("ignored", 0))
    cards = [("checkpoints", f"{int(totals.get('checkpoints', 0)):,}", f"{count(ignored, 'other file')} left alone")]
    cards.append(("failed", f"{int(totals.get('failed', 0)):,}", ""))
    cards.append(("read", size(nbytes_in), "size of all sources"))
    cards.append(("written", size(nbytes_out), ", ".join(
        f"{text(name)}: {count(int(one.get('outputs', 0)), 'file')}" for name, one in (totals.get("by_target") or {}).items()
    )))  # fmt: skip
    cards.append(("work", _seconds(seconds), "of all workers, all runs"))
    space = document.get("space")
    if isinstance(space, Mapping):
        cards.append(("free", size(int(space.get("free") or 0)), f"{size(int(space.get('needed') or 0))} needed"))
    lines = ["<dl class=cards>"]
    lines += [f"<div class=card><dt>{name}</dt><dd>{figure}<small>{more}</small></dd></div>" for name, figure, more in cards]
    counted = [(status, int(totals.get(status, 0))) for status in SHOWN if totals.get(status)]
    strip = "".join(f"<i class={status} style='flex:{number}' title='{number:,} {status}'></i>" for status, number in counted)
    legend = "".join(f"<li class={status}><b>{number:,}</b> {status}</li>" for status, number in counted)
    lines.append(f"</dl><div class=strip aria-hidden=true>{strip}</div><ul class=legend>{legend}</ul>")
    return lines


def _failures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    failed = [row for row in rows if row.get("error")]
    if not failed:
        return []
    reasons: dict[str, int] = {}
    for row in failed:
        reasons[str(row["error"].get("kind"))] = reasons.get(str(row["error"].get("kind")), 0) + 1
    said = ", ".join(f"{number:,} {text(kind)}" for kind, number in sorted(reasons.items(), key=lambda one: -one[1])[:20])
    lines = [f"<section><h2>{count(len(failed), 'failure')}</h2><p class=soft>{said}</p><div class=failures>"]
    for row in failed[:LISTED]:
        error = row["error"]
        hint = f"<br><span class=soft>hint: {text(error['hint'], 600)}</span>" if error.get("hint") else ""
        target = f" (to {text(error['target'])})" if error.get("target") else ""
        lines.append(
            f"<p class=failure><code>{text(row['source'], 300)}</code>{target}<br>{text(error.get('what'), 600)}{hint}</p>"
        )
    lines.append("</div>")
    if len(failed) > LISTED:
        lines.append(f"<p>{len(failed) - LISTED:,} more are in the table: choose the status “failed”.</p>")
    return [*lines, "</section>"]


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    told, left_out = _told(rows)
    titles = {str(row["format"]): str(row.get("title") or "") for row in rows if row.get("format")}
    formats = {shown(name): shown(title, 200) for name, title in list(titles.items())[:200]}
    data = {"rows": told, "formats": formats, "classes": sorted(STATUSES)}
    reasons = sorted({more["error"][0] for *_, more in told if "error" in more})
    fields = [
        _field("source", "name"),
        _choice("status", "status", sorted({row[1] for row in told})),
        _choice("format", "format", sorted({row[2] for row in told})),
        _field("model", "model"),
        _field("architecture", "architecture"),
        _choice("size", "size at least", LEAST_SIZE),
        _choice("time", "time at least", LEAST_TIME),
        _choice("verdict", "verdict", sorted({verdict for row in told for verdict in row[7].split(", ")})),
    ]
    if reasons:
        fields.append(_choice("reason", "reason", reasons))
    heads = "".join(
        f"<th scope=col data-column={at} class='{'n ' if at in (5, 6) else ''}{_narrow(at)}'><button type=button>{name}</button></th>"
        for at, name in enumerate(COLUMNS)
    )
    note = f"<p>{left_out} rows are left out of this page for its size: report.json has them.</p>" if left_out else ""
    return [
        f"<section class=live id=table-section><h2>Checkpoints</h2>{note}",
        f"<form id=filters>{''.join(fields)}<button type=reset>all</button></form>",
        "<div class=bar-of-table><span id=count role=status aria-live=polite></span><span id=pages>",
        "<button type=button id=first>first</button><button type=button id=previous>previous</button><span id=page></span>",
        "<button type=button id=next>next</button><button type=button id=last>last</button></span></div>",
        f"<table id=table><thead><tr>{heads}</tr></thead><tbody id=body></tbody></table>",
        "<p class=soft>Verdicts: bytes, read back and equal; passed, both models were run and agree; proved, every weight was followed",
        "through the export, and the models agree; none, not verified.</p></section>",
        "<noscript><p>The table of all checkpoints needs scripts; report.json has the same.</p></noscript>",
        embedded("rows", data),
    ]


def _narrow(column: int) -> str:
    return {2: "c-format", 3: "c-model", 4: "c-architecture", 6: "c-time"}.get(column, "")


def _field(name: str, label: str) -> str:
    return f"<label>{label}<input type=search id=f-{name} placeholder=contains autocomplete=off spellcheck=false></label>"


def _choice(name: str, label: str, of: Iterable[Any]) -> str:
    """A list of (value, what is shown), or of words; an empty word is a dash."""
    pairs = [(one or "–", one or "–") if isinstance(one, str) else one for one in of]
    options = "".join(f'<option value="{text(value)}">{text(said)}</option>' for value, said in pairs)
    return f"<label>{label}<select id=f-{name}><option value=''>any</option>{options}</select></label>"


def _told(rows: Sequence[Mapping[str, Any]]) -> tuple[list[list[Any]], int]:
    """The rows as the script takes them, in the order of the document, and how many had no place."""
    used = 0
    kept: list[tuple[int, list[Any]]] = []
    for at, row in sorted(enumerate(rows), key=lambda one: (not one[1].get("error"), one[0])):
        told = _row(row)
        length = len(encoded(told).encode())
        if used + length > BYTES / 2:
            told[-1] = {key: told[-1][key] for key in ("error", "copy") if key in told[-1]} | {"cut": 1}
            length = len(encoded(told).encode())
        if used + length > BYTES:
            break
        used += length
        kept.append((at, told))
    return [told for _, told in sorted(kept, key=lambda one: one[0])], len(rows) - len(kept)


def _row(row: Mapping[str, Any]) -> list[Any]:
    more: dict[str, Any] = {}
    error = row.get("error")
    if error:
        more["error"] = [
            shown(error.get("kind"), 40), shown(error.get("what"), 600), shown(error.get("hint") or "", 600), _whole(error.get("exit")),
            shown(f"to {error['target']}") if error.get("target") else "",
        ]  # fmt: skip
    if row.get("copy_of"):
        more["copy"] = shown(row["copy_of"], 300)
    if row.get("digest"):
        more["digest"] = shown(row["digest"], 200)
    outputs = row.get("outputs") or []
    if outputs:
        more["out"] = [_output(output) for output in outputs[:12]]
        more |= {"outs": len(outputs) - 12} if len(outputs) > 12 else {}
    dropped = row.get("dropped") or []
    if dropped:
        more["left"] = [[shown(left.get("path"), 120), _left(left)] for left in dropped[:12]]
        more |= {"lefts": len(dropped) - 12} if len(dropped) > 12 else {}
    if row.get("notes"):
        more["notes"] = [shown(note, 300) for note in row["notes"][:8]]
    if row.get("attempts"):
        more["tries"] = _whole(row["attempts"])
    return [
        shown(row.get("source", ""), 300), shown(row.get("status", ""), 40), shown(row.get("format") or "", 40),
        _model(row), shown(row.get("architecture") or "", 120), _whole(row.get("bytes")),
        _real(row.get("seconds")), _verdicts(row), _real(row.get("ratio")), more,
    ]  # fmt: skip


def _model(row: Mapping[str, Any]) -> str:
    names = [str(output["model"]) for output in row.get("outputs") or () if output.get("model")]
    names = list(dict.fromkeys(names))
    if len(names) > 1:
        return shown(", ".join(names[:8]))
    model = row.get("model")
    return "" if model is None else shown(model, 120) if model else "whole file"


def _verdicts(row: Mapping[str, Any]) -> str:
    """The row's, which is the weakest of its outputs', and then the others."""
    found = [row.get("verdict"), *(output.get("verdict") for output in row.get("outputs") or ())]
    return ", ".join(shown(verdict, 40) for verdict in list(dict.fromkeys(filter(None, found)))[:5])


def _output(output: Mapping[str, Any]) -> list[Any]:
    digest = f"sha256:{output['sha256']}" if output.get("sha256") else output.get("digest") or ""
    return [
        shown(output.get("target"), 40), shown(output.get("model") or "", 120), shown(output.get("path"), 300), _whole(output.get("bytes")),
        _whole(output.get("tensors")), shown(output.get("verdict") or "", 40), _real(output.get("ratio")), shown(digest, 100),
    ]  # fmt: skip


def _left(left: Mapping[str, Any]) -> str:
    tensors = _whole(left.get("tensors")) or 0
    return (
        f"{count(tensors, 'tensor')}, {size(_whole(left.get('bytes')) or 0)}"
        if tensors
        else shown(left.get("summary") or "", 120)
    )


def _ignored(ignored: Sequence[Mapping[str, Any]]) -> list[str]:
    if not ignored:
        return []
    rows = [(one.get("source"), one.get("kind"), size(_whole(one.get("bytes")) or 0)) for one in ignored[:1000]]
    more = f"<p>{len(ignored) - 1000:,} more are in report.json.</p>" if len(ignored) > 1000 else ""
    summary = f"{count(len(ignored), 'other file')}, no checkpoints, left alone"
    return [f"<details><summary>{summary}</summary>{table(('file', 'kind', 'size'), rows)}{more}</details>"]


def _settings(document: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    rows = [(name, _said(value)) for name, value in settings.items() if value not in (None, [], "", False)]
    return [f"<details><summary>Settings</summary>{table(('', ''), [*rows, ('tool', document.get('tool', ''))])}</details>"]


def _said(value: Any) -> str:
    return ", ".join(str(one) for one in value) if isinstance(value, (list, tuple)) else str(value)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and abs(value) < 1 << 53 else None


def _real(value: Any) -> float | str | None:
    """JSON has no infinity: it is a text, as in ``report.json``."""
    if isinstance(value, str):
        return shown(value, 20)
    if not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) else str(value)


def _time(value: Any) -> str:
    return str(value or "").replace("T", " ").replace("+00:00", " UTC")


def _seconds(value: Any) -> str:
    seconds = float(value or 0)
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
