"""The rows of the document, from what the journal keeps of a source and of its conversions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# From the weakest on: a row's verdict is the weakest of its outputs'.
VERDICTS = ("failed", "none", "inconclusive", "bytes", "passed", "proved")


def row(
    name: str,
    source: Mapping[str, Any],
    conversions: Mapping[str, Mapping[str, Any]],
    targets: Iterable[str],
    fresh: Iterable[str] = (),
    error: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The row of ``name`` for ``targets``; ``fresh`` are those that this run converted, ``error`` is of the row as a whole."""
    wanted = {target: conversions[target] for target in targets if target in conversions}
    made: dict[str, Any] = {"source": name, "status": "unchanged"}
    made |= {key: source[key] for key in ("format", "title", "architecture", "digest") if source.get(key) is not None}
    if source.get("size") is not None:
        made["bytes"] = source["size"]
    if str(source.get("digest")).startswith("sha256:"):
        made["sha256"] = str(source["digest"]).partition(":")[2]
    outputs = [_output(target, one) for target, of in wanted.items() for one in of.get("outputs") or ()]
    selected = next((one["selected"] for of in wanted.values() for one in of.get("outputs") or ()), None)
    if selected is not None:
        made["model"] = selected
    made["outputs"] = outputs
    made["seconds"] = round(sum(of.get("seconds") or 0.0 for of in wanted.values()), 4)
    verdicts = [output["verdict"] for output in outputs if "verdict" in output]
    if verdicts:
        made["verdict"] = min(verdicts, key=_strength)
    ratios = [output["ratio"] for output in outputs if "ratio" in output]
    if ratios:
        made["ratio"] = max(ratios)
    made["dropped"] = _distinct(left for of in wanted.values() for left in of.get("dropped") or ())
    made["notes"] = _distinct(note for of in wanted.values() for note in of.get("notes") or ())
    twin = next((of["copy_of"] for of in wanted.values() if of.get("copy_of")), None)
    if twin is not None:
        made["copy_of"] = twin
    attempts = max((of.get("attempts") or 1 for target, of in wanted.items() if target in set(fresh)), default=1)
    if attempts > 1:
        made["attempts"] = attempts
    _settle(made, wanted, set(fresh), error)
    return made


def _settle(
    made: dict[str, Any], wanted: Mapping[str, Mapping[str, Any]], fresh: set[str], error: Mapping[str, Any] | None
) -> None:
    """Status and error."""
    errors = [dict(of["error"], target=target) for target, of in wanted.items() if of.get("error")]
    if error is not None:
        errors.append(dict(error))
    statuses = {str(of["status"]) for target, of in wanted.items() if target in fresh}
    if errors:
        made["status"] = "failed"
        made["error"] = max(errors, key=lambda one: int(one["exit"]))
    elif "planned" in statuses:
        made["status"] = "planned"
    elif "done" in statuses:
        made["status"] = "done"
    elif "copied" in statuses:
        made["status"] = "copied"


def _output(target: str, output: Mapping[str, Any]) -> dict[str, Any]:
    files = output["files"]
    made: dict[str, Any] = {"target": target, "path": output["path"], "bytes": sum(one["bytes"] for one in files)}
    made |= {key: output[key] for key in ("model", "tensors", "verdict", "ratio") if output.get(key) is not None}
    if len(files) == 1:
        return made | {key: files[0][key] for key in ("digest", "sha256") if key in files[0]}
    return made | {"files": [{key: one[key] for key in ("path", "bytes", "digest", "sha256") if key in one} for one in files]}


def _strength(verdict: str) -> int:
    return VERDICTS.index(verdict) if verdict in VERDICTS else 0


def _distinct(items: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found
