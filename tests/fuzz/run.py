"""Fuzz all targets in turn, a few processes at a time: ``python -m tests.fuzz.run --seconds 600 --jobs 2`` (``make fuzz``).

Each target gets an equal share of the processor seconds, in slices; what a slice has learned (its corpus) is where the next begins.
``OUT/pids`` lists the processes, so that they can be paused (SIGSTOP) and go on. ``--report`` adds up what all runs below OUT have done.
Exit 1: something was found.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parent.parent.parent


def seeds(out: Path) -> Path:
    """The folder of seeds, made once."""
    folder = out / "seeds"
    if not folder.is_dir():
        partial = out / f"seeds.part{os.getpid()}"
        subprocess.run([sys.executable, "-W", "ignore", "-m", "tests.fuzz.seeds", str(partial)], cwd=ROOT, check=True)
        partial.rename(folder)
    return folder


def report(out: Path) -> dict[str, Any]:
    """By target: processes, processor hours, executions and what became of them; findings by kind."""
    rows: dict[str, Counter[str]] = {}
    findings: dict[str, str] = {}
    for path in sorted((out / "stats").glob("*.json")):
        document = json.loads(path.read_text())
        row = rows.setdefault(document.pop("target"), Counter())
        findings |= document.pop("findings")
        row["processes"] += 1
        for key, value in document.items():
            row[key] += value
    hung = sorted(path.name for path in (out / "hung").iterdir()) if (out / "hung").is_dir() else []
    total: Counter[str] = Counter()
    for row in rows.values():
        total += row
    return {
        "hours": round(total["cpu_seconds"] / 3600, 3), "executions": total["executions"], "targets": {k: dict(v) for k, v in rows.items()},
        "findings": findings, "hung": hung,
    }  # fmt: skip


def shown(found: dict[str, Any]) -> str:
    columns = ("executions", "cpu_seconds", "read", "equal", "judge refused", "refused", "malformed", "wrong")
    lines = [f"{'target':<14}" + "".join(f"{name:>15}" for name in columns)]
    for name, row in found["targets"].items():
        lines.append(f"{name:<14}" + "".join(f"{row.get(column, 0):>15,.0f}" for column in columns))
    lines.append(
        f"{found['executions']:,} executions in {found['hours']:.2f} processor hours; {len(found['findings'])} kinds of findings"
    )
    lines += [f"  {kind}  ({name})" for kind, name in found["findings"].items()] + [
        f"  hung or out of memory: {n}" for n in found["hung"]
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300, help="processor seconds over all targets")
    parser.add_argument("--slice", type=float, default=120, help="processor seconds of one process")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "fuzz")
    parser.add_argument("--report", action="store_true", help="only add up")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.report:
        fuzz(options)
    found = report(options.out)
    print(shown(found))
    (options.out / "report.json").write_text(json.dumps(found, indent=1))
    return 1 if found["findings"] or found["hung"] else 0


def fuzz(options: argparse.Namespace) -> None:
    names = options.targets.replace(",", " ").split()
    share = options.seconds / len(names)
    rounds = max(1, round(share / options.slice))
    work = [name for _ in range(rounds) for name in names]
    folder = seeds(options.out)
    (options.out / "logs").mkdir(exist_ok=True)
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        while work or running:
            for name in [name for name, process in running.items() if process.poll() is not None]:
                del running[name]
            following = next((name for name in work if name not in running), None)
            if following is not None and len(running) < options.jobs:
                work.remove(following)
                log = (options.out / "logs" / f"{following}.log").open("ab")
                running[following] = subprocess.Popen(
                    [sys.executable, "-m", "tests.fuzz.target", following, "--seeds", str(folder), "--out", str(options.out),
                     "--seconds", str(share / rounds)],
                    cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
                log.close()
                continue
            (options.out / "pids").write_text("".join(f"{process.pid}\n" for process in running.values()))
            time.sleep(0.5)
    finally:
        for process in running.values():
            os.killpg(process.pid, signal.SIGTERM)  # with its judge


if __name__ == "__main__":
    sys.exit(main())
