"""Measure the command as a whole process against cp and against torch with safetensors, and check what it wrote.

    python -m benchmarks.convert_speed                     the standard set
    python -m benchmarks.convert_speed --quick             what a change is steered by, without torch
    python -m benchmarks.convert_speed --all               everything, 8 GB aside (--huge)
    python -m benchmarks.convert_speed --case zip-500M-300 one case; may be given again

Each figure is a ratio to cp in the same round; medians, with quartiles. What counts as a round, and which runs are thrown out, stands in
`benchmarks.measuring`; what is to be reached in `benchmarks.cases`. A run that fails, or whose output is not what torch and safetensors
make of the same source, ends its case, and the exit code is 1. A row called *unsynced* is the command without fsync, which cp does not
call either; the row without that word is the command as it is, to be compared with ``cp + fsync``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import figures, growth, history, runs
from benchmarks.cases import Case, chosen
from benchmarks.measuring import RESOLUTION, SHARE, TooNoisy
from benchmarks.runs import Bench, Skipped


def machine() -> dict[str, Any]:
    """What a figure in seconds depends on."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": _processor(),
        **{name: version(name) for name in ("torch", "safetensors")},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def measured(case: Case, bench: Bench) -> dict[str, Any]:
    """A case's document; prints its table."""
    print(f"\n{case.name}: {case.title}", flush=True)
    begun = time.monotonic()
    try:
        series, bases = (growth.run if case.kind == "growth" else runs.run)(case, bench)
    except (Skipped, TooNoisy) as reason:
        print(f"  left out: {reason}", flush=True)
        return {"title": case.title, "left_out": str(reason)}
    except SystemExit as reason:
        print(f"  FAILED: {reason}", flush=True)
        return {"title": case.title, "left_out": f"failed: {reason}", "failed": True}
    names = list(dict.fromkeys(name for kept in series.rounds for name in kept))
    document: dict[str, Any] = {
        "title": case.title,
        "bases": bases,
        "thrown_out": series.thrown_out,
        "repeated": series.repeated,
        "disturbed": series.disturbed,
        "columns": ["wall s", "user s", "system s", "peak bytes", "others' CPU s"],
        "contenders": names,
        "rounds": [[_rounded(kept.get(name)) for name in names] for kept in series.rounds],
        "targets": list(figures.documents(case.targets, series)),
    }
    print("\n".join(figures.rows(series, bases)))
    for target in document["targets"]:
        mark = "reached" if target["reached"] else "NOT REACHED"
        print(f"  {target['contender']}: to reach {target['target']}, measured {target['said']}: {mark}")
    if case.kind == "growth":
        document["growth"] = growth.document(case, series)
        print(growth.text(document["growth"]))
    kept = f", {series.disturbed} disturbed ones kept" if series.disturbed else ""
    seconds = time.monotonic() - begun
    print(
        f"  {len(series.rounds)} rounds, {series.repeated} runs repeated, {series.thrown_out} rounds thrown out{kept}; {seconds:.0f} s",
        flush=True,
    )
    return document


def _rounded(run: Any) -> list[float] | None:
    return None if run is None else [round(value, 4) for value in run]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sets = parser.add_mutually_exclusive_group()
    for name in ("quick", "all"):
        sets.add_argument(f"--{name}", dest="set", action="store_const", const=name, default="standard")
    parser.add_argument("--case", action="append", default=[], metavar="NAME", help="only this case")
    parser.add_argument("--huge", action="store_true", help="8 GB too: wants 24 GB of disk")
    parser.add_argument("--rounds", type=int, help="instead of what each case asks for")
    parser.add_argument("--keep-disturbed", action="store_true", help="count every run, on a machine that is never quiet")
    parser.add_argument("--keep-inputs", action="store_true", help="leave the inputs for the next time")
    parser.add_argument("--cold", action="store_true", help="drop the source from the page cache before each run")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="where inputs and outputs are made, and removed")
    parser.add_argument("--json", type=Path, help="write every run there")
    parser.add_argument("--merge", action="store_true", help="leave the other cases of that file as they are")
    parser.add_argument("--against", type=Path, default=history.COMMITTED, help="an earlier result to compare with")
    parser.add_argument("--check", action="store_true", help="exit code 1 where something has become slower")
    asked = parser.parse_args()

    if asked.merge and not asked.json:
        parser.error("--merge into what? --json FILE")
    before = history.read(asked.against)
    bench = Bench(asked.work.resolve(), asked.rounds, asked.keep_disturbed, asked.keep_inputs, asked.cold)
    bench.work.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "rule": {
            "disturbed": f"other processes used over {SHARE:.0%} of a core and {RESOLUTION * 1000:g} ms",
            "kept": asked.keep_disturbed,
        },
        "cases": {},
    }
    if asked.merge and asked.json.exists():
        document["cases"] = json.loads(asked.json.read_text(encoding="utf-8"))["cases"]
    cases = chosen(asked.case, asked.set, huge=asked.huge)
    for case in cases:
        document["cases"][case.name] = measured(case, bench)
        if asked.json:  # after each: what was measured stays, whatever comes
            asked.json.parent.mkdir(parents=True, exist_ok=True)
            asked.json.write_text(history.dumped(document), encoding="utf-8")
    if asked.json:
        print(f"\n{asked.json}")
    document["cases"] = {case.name: document["cases"][case.name] for case in cases}
    slower = history.report(document, before, asked.against.name)
    failed = any("failed" in case for case in document["cases"].values())
    return 1 if failed or (slower and asked.check) else 0


if __name__ == "__main__":
    sys.exit(main())
