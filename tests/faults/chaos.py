"""The harness of somebody else: ckpt-chaos ends a command at each of its file events, runs it again, and compares what came out.

    python -m tests.faults.chaos [--only NAME]... [--points N]      needs ckpt-chaos

Four ways to end: before the event; with the file torn in half; by SIGTERM; with what was not flushed rolled back. Exit code 1 where one
of our writers does not pass, or where the control, a writer that overwrites its file, does.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.command import argv, environment
from tests.faults.paths import PATHS
from tests.parts import program

MODES = "before,torn,term,unsynced"
# All that is there at the end, leftovers included; what a journal and a report say of times and tries is theirs.
_DIGEST = (
    "import hashlib, pathlib, sys; "
    "[print(p.relative_to(sys.argv[1]), hashlib.sha256(p.read_bytes()).hexdigest()) for p in sorted(pathlib.Path(sys.argv[1]).rglob('*')) "
    "if p.is_file() and '.ckpt-convert' not in p.parts and p.name not in ('report.json', 'report.html')]"
)


@dataclass(frozen=True)
class Trial:
    """A command that ckpt-chaos is given; ``{out}`` is its folder."""

    name: str
    command: tuple[str, ...]
    control: bool = False


def trials(scratch: Path) -> list[Trial]:
    """Our write paths that make the same again, and a control."""
    found = []
    for number, path in enumerate(PATHS):
        source = scratch / str(number)
        source.mkdir()
        if path.slow or path.arguments[0] != "{}/in.pt":
            continue
        path.sources(source, 1)
        arguments = [a.replace("{}", str(source)) for a in path.arguments]
        found.append(Trial(path.name, (*argv(), *arguments, "--out-dir", "{out}", "--force")))
    source = next(scratch.glob("*/in.pt"))
    code = (
        "import os, torch; out = '{out}/out.pt'; os.makedirs('{out}', exist_ok=True); "
        f"state = torch.load(out if os.path.exists(out) else {str(source)!r}); torch.save(state, out); torch.save(state, out)"
    )
    found.append(Trial("control: torch.save over its own file", (sys.executable, "-c", code), control=True))
    return found


def run(trial: Trial, work: Path, points: int | None) -> tuple[dict[str, int], int, str]:
    """(how often each verdict was given, the exit code of ckpt-chaos, all that it said)."""
    command = [str(program("ckpt-chaos")), "run", "--modes", MODES, "--work", str(work), "--timeout", "120"]
    command += ["--result-cmd", f'{sys.executable} -c "{_DIGEST}" {{out}}']
    if points is not None:
        command += ["--max-points", str(points)]
    done = subprocess.run([*command, "--", *trial.command], env=environment(), capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    return Counter(re.findall(r" (PASS|[A-Z]+_[A-Z]+)$", said, re.M)), done.returncode, said


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=__doc__)
    parser.add_argument("--only", action="append", help="a write path's name, or a part of it")
    parser.add_argument("--points", type=int, help="at most so many points of a path")
    given = parser.parse_args()
    if program("ckpt-chaos") is None:
        print("ckpt-chaos is not here: nothing was tried", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
        failed = False
        print("| write path | points | passed | other verdicts |\n| --- | --- | --- | --- |")
        for number, trial in enumerate(trials(Path(scratch))):
            if given.only is not None and not any(part in trial.name for part in given.only):
                continue
            verdicts, code, said = run(trial, Path(scratch) / f"work{number}", given.points)
            passed = verdicts.pop("PASS", 0)
            others = ", ".join(f"{name} {count}" for name, count in sorted(verdicts.items())) or "–"
            print(f"| {trial.name} | {passed + sum(verdicts.values())} | {passed} | {others} |", flush=True)
            if (code != 0) != trial.control or not passed:
                failed = True
                print(said, file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
