"""The document of one migration: ``report.json``, what ``--json`` prints, and what the page is drawn from.

::

    {"status": "done" | "failed" | "planned",     # done: every checkpoint is done and verified
     "exit": 0,                                   # the command's exit code: the worst of the rows
     "tool": "ckpt-convert 0.2.0",
     "started": "2026-01-31T23:59:59+00:00",      # UTC
     "seconds": 12.3,                             # of this run
     "settings": {"source": "zoo", "destination": "out", "targets": ["safetensors"], "jobs": 2, "engine": "local",
                  "include": [], "exclude": [], "digest": "fast", "check": false, …},
     "space": {"needed": 123, "free": 456},       # of a plan only: bytes
     "totals": {"checkpoints": 10, "done": 7, "unchanged": 1, "copied": 1, "failed": 1, "planned": 0, "ignored": 2,
                "bytes_in": 123, "bytes_out": 120,       # of all rows, whichever run converted them
                "by_format": {"torch-zip": 9},           # rows by the container of the source
                "by_target": {"safetensors": {"outputs": 9, "bytes": 120}},
                "by_reason": {"corrupt": 1}},            # failed rows by ``error.kind``
     "rows": [ROW, …],                            # in the order of their names
     "ignored": [{"source": "notes.txt", "kind": "text", "bytes": 12}, …]}   # no checkpoints, left alone

    ROW = {"source": "nets/a.pth.tar",            # below settings.source, with "/"
           "status": "done" | "unchanged" | "copied" | "failed" | "planned",
           "format": "torch-zip", "title": "torch.save, ZIP container",   # of the reader; absent where nothing could read it
           "bytes": 123,                          # of the source; all parts of a sharded one or of a folder
           "digest": "sha256:…",                  # of the source: see `convert.zoo.digest`; "sampled:…" where only parts were read
           "sha256": "…",                         # where the whole source was digested
           "model": "state_dict",                 # where the (first) model was found; "" is the whole file
           "architecture": "torchvision resnet18",  # with --identify, where it is told
           "outputs": [{"target": "safetensors", "path": "nets/a.safetensors",      # below settings.destination, with "/"
                        "model": "generator",     # of several models in one source
                        "bytes": 120, "digest": "crc32:…", "sha256": "…",           # sha256 where it was computed
                        "tensors": 62, "verdict": "bytes", "ratio": 0.9}, …],
           "seconds": 0.04,                       # of the conversion, whichever run made it
           "verdict": "bytes" | "passed" | "proved" | "none" | …,   # the weakest of the outputs'; absent where there are none
           "ratio": 0.9,                          # the largest error of a run model, in units of float32's own
           "dropped": [{"path": "optimizer", "tensors": 12, "bytes": 99, "summary": "dict of 2"}, …],
           "notes": ["…"],
           "copy_of": "nets/b.pth.tar",           # the same bytes under another name, converted once
           "attempts": 2,                         # where it was tried more than once
           "error": {"exit": 65, "kind": "corrupt", "what": "…", "hint": "…", "target": "onnx"}}

A row that failed for one target still lists what was made for the others. Absent fields are not null. Text in it comes from files and
is not escaped: whoever shows it does that (`convert.text.shown`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

STATUSES = ("done", "unchanged", "copied", "failed", "planned")


def document(
    rows: Iterable[Mapping[str, Any]],
    ignored: Iterable[Mapping[str, Any]],
    settings: Mapping[str, Any],
    *,
    tool: str,
    started: str,
    seconds: float,
    space: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Put together and counted; ``rows`` and ``ignored`` in any order."""
    rows = sorted(rows, key=lambda row: str(row["source"]))
    ignored = sorted(ignored, key=lambda entry: str(entry["source"]))
    worst = max((int(row["error"]["exit"]) for row in rows if "error" in row), default=0)
    planned = any(row["status"] == "planned" for row in rows) or space is not None
    made: dict[str, Any] = {
        "status": "failed" if worst else "planned" if planned else "done",
        "exit": worst,
        "tool": tool,
        "started": started,
        "seconds": round(seconds, 3),
        "settings": dict(settings),
    }
    if space is not None:
        made["space"] = dict(space)
    return made | {"totals": totals(rows, ignored), "rows": rows, "ignored": ignored}


def totals(rows: Iterable[Mapping[str, Any]], ignored: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts and bytes of all rows."""
    rows = list(rows)
    statuses = Counter(str(row["status"]) for row in rows)
    targets: dict[str, dict[str, int]] = {}
    for output in (output for row in rows for output in row.get("outputs", ())):
        counted = targets.setdefault(str(output["target"]), {"outputs": 0, "bytes": 0})
        counted["outputs"] += 1
        counted["bytes"] += int(output.get("bytes", 0))
    return {
        "checkpoints": len(rows),
        **{status: statuses[status] for status in STATUSES},
        "ignored": len(list(ignored)),
        "bytes_in": sum(int(row.get("bytes", 0)) for row in rows),
        "bytes_out": sum(counted["bytes"] for counted in targets.values()),
        "by_format": dict(sorted(Counter(str(row["format"]) for row in rows if "format" in row).items())),
        "by_target": targets,
        "by_reason": dict(Counter(str(row["error"]["kind"]) for row in rows if "error" in row).most_common()),
    }
